"""Mixtures of Gaussians, entry by entry: densities with several modes."""

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Generator, Size, Tensor
from torch.distributions import constraints

from dvae_lib.distributions.base import FactorisedDistribution

__all__ = ["GaussianMixture"]


class GaussianMixture(FactorisedDistribution):
    r"""Entries that are each a mixture of K Gaussians.

    .. math:: p(\mathbf{x}) = \prod_d \sum_{k=1}^K \pi_{d,k} \, \mathcal{N}(x_d; \mu_{d,k}, \sigma^2_{d,k}),
        \qquad \pi_{d,\cdot} = \mathrm{softmax}(a_{d,\cdot})

    As an observation model it is called "gaussian_mixture", with two components, or
    "gaussian_mixture(components=5)". It has no reparameterised sample.

    Arguments:
        parameters: 3K tensors of shape ``(*batch, D)``: the logits :math:`a` of all components, then their means, then
            their log-variances.

    Raises:
        ValueError: Their number is no multiple of three.

    Example:
        >>> zero, one = torch.zeros(1), torch.ones(1)
        >>> p = GaussianMixture(zero, zero, -3 * one, 3 * one, zero, zero)  # two bumps, at -3 and 3
        >>> p.mean, p.variance
        (tensor([0.]), tensor([10.]))
    """

    support = constraints.real_vector
    has_rsample = False
    components: ClassVar[int] = 2
    outputs_per_dim: ClassVar[int] = 6

    def __init__(self, *parameters: Float[Tensor, "*batch dim"]) -> None:
        if len(parameters) % 3 or not parameters:
            raise ValueError(
                f"expected logits, means and log-variances of K components, 3 K tensors; got {len(parameters)}"
            )
        self._parameters = parameters
        count = len(parameters) // 3
        self.logits, self.means, self.logvars = (
            torch.stack(parameters[start : start + count], -1) for start in range(0, 3 * count, count)
        )
        super().__init__(parameters[0])

    @classmethod
    def with_options(cls, **options: float) -> "type[FactorisedDistribution]":
        """The family with another number of components.

        Raises:
            TypeError: Another option.
            ValueError: No whole number of components, or none.
        """
        components = options.pop("components", cls.components)
        super().with_options(**options)
        if components != int(components) or components < 1:
            raise ValueError(f"components must be a whole number from 1 on; got {components}")
        count = int(components)
        name = f"{cls.__name__}Of{count}"
        return type(name, (cls,), {"components": count, "outputs_per_dim": 3 * count, "__module__": cls.__module__})

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """Logits of all components, their means, their log-variances."""
        return self._parameters

    @property
    def mean(self) -> Tensor:
        """The mean vector."""
        return (self.logits.softmax(-1) * self.means).sum(-1)

    @property
    def variance(self) -> Tensor:
        """The variance of each entry: within the components and between them."""
        weights, centre = self.logits.softmax(-1), self.mean[..., None]
        return (weights * (self.logvars.exp() + (self.means - centre).square())).sum(-1)

    def log_prob_per_dim(self, value: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """Log-density of each entry, in nats."""
        squared = (value[..., None] - self.means).square() * (-self.logvars).exp()
        each = -0.5 * (squared + self.logvars + math.log(2 * math.pi))
        return (self.logits.log_softmax(-1) + each).logsumexp(-1)

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = (), *, generator: Generator | None = None) -> Tensor:
        """A sample: a component for each entry, and a Gaussian number of it. No gradient flows through it."""
        shape = self._extended_shape(Size(sample_shape))
        weights = self.logits.softmax(-1).expand(*shape, -1)
        flat = weights.reshape(-1, weights.shape[-1])
        chosen = torch.multinomial(flat, 1, replacement=True, generator=generator).view(*shape, 1)
        mean, logvar = (p.expand_as(weights).gather(-1, chosen)[..., 0] for p in (self.means, self.logvars))
        noise = torch.randn(shape, dtype=mean.dtype, device=mean.device, generator=generator)
        return mean + (0.5 * logvar).exp() * noise
