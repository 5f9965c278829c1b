r"""KL divergences in closed form, entry by entry and of whole vectors; each family's own stands with the family."""

from jaxtyping import Float
from torch import Tensor
from torch.distributions.kl import register_kl

from dvae_lib.distributions.base import FactorisedDistribution

__all__ = ["kl_divergence", "kl_per_dim"]


def kl_per_dim(q: FactorisedDistribution, p: FactorisedDistribution) -> Float[Tensor, "*batch dim"]:
    r"""KL divergence :math:`D_\mathrm{KL}(q \,\|\, p)` of each entry, in closed form, in nats.

    Arguments:
        q: The distribution that the expectation is taken under.
        p: A distribution of the same family.

    Raises:
        NotImplementedError: For a pair without closed form here; estimate it by sampling instead.
    """
    return q.kl_per_dim(p)


def kl_divergence(q: FactorisedDistribution, p: FactorisedDistribution) -> Float[Tensor, "*batch"]:
    r"""KL divergence :math:`D_\mathrm{KL}(q \,\|\, p)` between vectors, in nats: `kl_per_dim` summed.

    Example:
        >>> import torch
        >>> from dvae_lib.distributions import DiagonalGaussian, standard_normal
        >>> q = DiagonalGaussian(torch.ones(1), torch.zeros(1))
        >>> kl_divergence(q, standard_normal(torch.zeros(1)))
        tensor(0.5000)
    """
    return kl_per_dim(q, p).sum(-1)


# torch.distributions.kl_divergence(q, p) works as well.
register_kl(FactorisedDistribution, FactorisedDistribution)(kl_divergence)
