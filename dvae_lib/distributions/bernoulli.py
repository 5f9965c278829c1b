r"""Independent zeros and ones: notes of a piano roll, pixels of an ink drawing."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Generator, Size, Tensor
from torch.distributions import Distribution, constraints
from torch.nn import functional as F

from dvae_lib.distributions.base import FactorisedDistribution

__all__ = ["Bernoulli"]


class Bernoulli(FactorisedDistribution):
    r"""Independent binary entries, :math:`p(x_d = 1) = \mathrm{sigmoid}(\ell_d)`.

    A value between 0 and 1, such as a grey level, is taken for the mean of random zeros and ones; its log-probability
    is then the expected one.

    Arguments:
        logits: The log-odds :math:`\boldsymbol\ell`, shape ``(*batch, D)``.
    """

    arg_constraints = {"logits": constraints.real_vector}
    support = constraints.independent(constraints.boolean, 1)
    outputs_per_dim: ClassVar[int] = 1
    neutral: ClassVar[float | None] = 0.5  # log-odds of 0; a 0 would say that it was off

    def __init__(self, logits: Float[Tensor, "*batch dim"]) -> None:
        self.logits = logits
        super().__init__(logits)

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """The log-odds."""
        return (self.logits,)

    @property
    def mean(self) -> Tensor:
        """The probability that each entry is one."""
        return self.logits.sigmoid()

    @property
    def variance(self) -> Tensor:
        """The variance of each entry."""
        return self.logits.sigmoid() * (-self.logits).sigmoid()

    def log_prob_per_dim(self, value: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """Log-probability of each entry, in nats."""
        return value * self.logits - F.softplus(self.logits)

    def entropy_per_dim(self) -> Tensor:
        """Entropy of each entry, in nats."""
        return F.softplus(self.logits) - self.logits * self.logits.sigmoid()

    def kl_per_dim(self, other: Distribution) -> Float[Tensor, "*batch dim"]:
        """KL divergence of each entry from another Bernoulli distribution, in nats."""
        if not isinstance(other, Bernoulli):
            return super().kl_per_dim(other)
        return self.mean * (self.logits - other.logits) - F.softplus(self.logits) + F.softplus(other.logits)

    def sample(self, sample_shape: Sequence[int] = (), *, generator: Generator | None = None) -> Tensor:
        """Zeros and ones, in the dtype of the parameters."""
        with torch.no_grad():
            uniform = torch.rand(
                self._extended_shape(Size(sample_shape)),
                dtype=self.logits.dtype,
                device=self.logits.device,
                generator=generator,
            )
            return (uniform < self.logits.sigmoid()).to(self.logits.dtype)
