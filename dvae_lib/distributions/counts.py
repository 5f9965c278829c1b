r"""Counts: spikes of neurons, words, visits."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Generator, Size, Tensor
from torch.distributions import Distribution, constraints
from torch.nn import functional as F

from dvae_lib.distributions.base import FactorisedDistribution

__all__ = ["NegativeBinomial", "Poisson"]


class Poisson(FactorisedDistribution):
    r"""Independent counts.

    .. math:: p(\mathbf{x}) = \prod_d \frac{\lambda_d^{x_d} e^{-\lambda_d}}{x_d!}, \qquad x_d = 0, 1, 2, \dots

    Arguments:
        lograte: The log-rate :math:`\log\boldsymbol\lambda`, shape ``(*batch, D)``.

    Example:
        >>> two = Poisson(torch.tensor([2.0]).log())
        >>> two.log_prob(torch.tensor([0.0]))
        tensor(-2.)
    """

    arg_constraints = {"lograte": constraints.real_vector}
    support = constraints.independent(constraints.nonnegative_integer, 1)
    outputs_per_dim: ClassVar[int] = 1
    neutral: ClassVar[float | None] = 0.5  # no count, by which a network can tell a gap from a zero

    def __init__(self, lograte: Float[Tensor, "*batch dim"]) -> None:
        self.lograte = lograte
        super().__init__(lograte)

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """The log-rate."""
        return (self.lograte,)

    @property
    def mean(self) -> Tensor:
        r"""The rate :math:`\lambda` of each entry."""
        return self.lograte.exp()

    @property
    def variance(self) -> Tensor:
        """The variance of each entry, equal to its mean."""
        return self.lograte.exp()

    def log_prob_per_dim(self, value: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """Log-probability of each count, in nats."""
        return value * self.lograte - self.lograte.exp() - torch.lgamma(value + 1)

    def kl_per_dim(self, other: Distribution) -> Float[Tensor, "*batch dim"]:
        """KL divergence of each entry from another Poisson distribution, in nats."""
        if not isinstance(other, Poisson):
            return super().kl_per_dim(other)
        return self.mean * (self.lograte - other.lograte) - self.mean + other.mean

    def sample(self, sample_shape: Sequence[int] = (), *, generator: Generator | None = None) -> Tensor:
        """Whole numbers, in the dtype of the parameters."""
        with torch.no_grad():
            rate = self.mean.expand(self._extended_shape(Size(sample_shape)))
            return torch.poisson(rate, generator=generator)


class NegativeBinomial(FactorisedDistribution):
    r"""Independent counts that vary more than those of a Poisson distribution, whose rate is itself random.

    With mean :math:`\mu` and dispersion :math:`\alpha` the variance is :math:`\mu + \alpha\mu^2`, and with
    :math:`r = 1/\alpha`

    .. math:: p(\mathbf{x}) = \prod_d \frac{\Gamma(x_d + r_d)}{x_d!\,\Gamma(r_d)}
        \Big(\frac{r_d}{r_d + \mu_d}\Big)^{r_d} \Big(\frac{\mu_d}{r_d + \mu_d}\Big)^{x_d}

    It is a Poisson distribution whose rate has a Gamma distribution of shape r and mean :math:`\mu`, and tends to a
    Poisson distribution as the dispersion goes to zero.

    Arguments:
        logmean: :math:`\log\boldsymbol\mu`, shape ``(*batch, D)``.
        logdispersion: :math:`\log\boldsymbol\alpha`, same shape.
    """

    arg_constraints = {"logmean": constraints.real_vector, "logdispersion": constraints.real_vector}
    support = constraints.independent(constraints.nonnegative_integer, 1)
    outputs_per_dim: ClassVar[int] = 2
    neutral: ClassVar[float | None] = 0.5  # see `Poisson`

    def __init__(self, logmean: Float[Tensor, "*batch dim"], logdispersion: Float[Tensor, "*batch dim"]) -> None:
        self.logmean, self.logdispersion = logmean, logdispersion
        super().__init__(logmean)

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """Log-mean and log-dispersion."""
        return self.logmean, self.logdispersion

    @property
    def mean(self) -> Tensor:
        """The mean of each entry."""
        return self.logmean.exp()

    @property
    def variance(self) -> Tensor:
        """The variance of each entry."""
        return self.mean + self.logdispersion.exp() * self.mean.square()

    def log_prob_per_dim(self, value: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """Log-probability of each count, in nats."""
        # Where the dispersion is small two large logarithms of gamma functions nearly cancel.
        x, logmean, log_r = value.double(), self.logmean.double(), -self.logdispersion.double()
        r = log_r.exp()
        coefficient = torch.lgamma(x + r) - torch.lgamma(r) - torch.lgamma(x + 1)
        odds = logmean - log_r
        return (coefficient - r * F.softplus(odds) - x * F.softplus(-odds)).to(self.logmean.dtype)

    def sample(self, sample_shape: Sequence[int] = (), *, generator: Generator | None = None) -> Tensor:
        """Whole numbers, in the dtype of the parameters."""
        with torch.no_grad():
            shape = self._extended_shape(Size(sample_shape))
            r = (-self.logdispersion).exp().expand(shape)
            rate = torch._standard_gamma(r, generator=generator) * (self.logmean + self.logdispersion).exp()
            return torch.poisson(rate, generator=generator)
