r"""Real numbers with outliers: densities that fall off more slowly than a Gaussian's."""

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Generator, Size, Tensor
from torch.distributions import Distribution, constraints

from dvae_lib.distributions.base import FactorisedDistribution

__all__ = ["Laplace", "StudentT"]


class Laplace(FactorisedDistribution):
    r"""Double-exponential entries: the negative log-density is the absolute error over the scale.

    .. math:: p(\mathbf{x}) = \prod_d \frac{1}{2 b_d} \exp\Big(-\frac{|x_d - \mu_d|}{b_d}\Big)

    Arguments:
        mean: The mean (and median) :math:`\boldsymbol\mu`, shape ``(*batch, D)``.
        logscale: :math:`\log\boldsymbol b`, same shape; the standard deviation is :math:`\sqrt2\,b`.

    Example:
        >>> p = Laplace(torch.zeros(1), torch.zeros(1))
        >>> p.log_prob(torch.zeros(1)) - p.log_prob(torch.tensor([3.0]))
        tensor(3.)
    """

    arg_constraints = {"mean": constraints.real_vector, "logscale": constraints.real_vector}
    support = constraints.real_vector
    has_rsample = True
    outputs_per_dim: ClassVar[int] = 2

    def __init__(self, mean: Float[Tensor, "*batch dim"], logscale: Float[Tensor, "*batch dim"]) -> None:
        self._mean = mean
        self.logscale = logscale
        super().__init__(mean)

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """Mean and log-scale."""
        return self._mean, self.logscale

    @property
    def mean(self) -> Tensor:
        """The mean vector."""
        return self._mean

    @property
    def mode(self) -> Tensor:
        """The mode, equal to the mean."""
        return self._mean

    @property
    def variance(self) -> Tensor:
        """The variance of each entry, twice the square of its scale."""
        return 2 * (2 * self.logscale).exp()

    def log_prob_per_dim(self, value: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """Log-density of each entry, in nats."""
        return -(value - self._mean).abs() * (-self.logscale).exp() - self.logscale - math.log(2)

    def entropy_per_dim(self) -> Tensor:
        """Entropy of each entry, in nats."""
        return 1 + math.log(2) + self.logscale

    def kl_per_dim(self, other: Distribution) -> Float[Tensor, "*batch dim"]:
        """KL divergence of each entry from another Laplace distribution, in nats."""
        if not isinstance(other, Laplace):
            return super().kl_per_dim(other)
        ratio = self.logscale - other.logscale
        distance = (self._mean - other.mean).abs()
        own = distance * (-self.logscale).exp()
        return distance * (-other.logscale).exp() + ratio.exp() * (-own).exp() - ratio - 1

    def rsample(self, sample_shape: Sequence[int] = (), *, generator: Generator | None = None) -> Tensor:
        """A reparameterised sample: the mean, and the scale times the difference of two exponential numbers."""
        shape = self._extended_shape(Size(sample_shape))
        noise = torch.empty(2, *shape, dtype=self._mean.dtype, device=self._mean.device)
        first, second = noise.exponential_(generator=generator).unbind(0)
        return self._mean + self.logscale.exp() * (first - second)


class StudentT(FactorisedDistribution):
    r"""Entries of Student's t-distribution: a Gaussian whose precision is random, so that outliers cost little.

    .. math:: p(\mathbf{x}) = \prod_d \frac{\Gamma(\frac{\nu_d + 1}{2})}{\Gamma(\frac{\nu_d}{2})
        \sqrt{\pi\nu_d}\,s_d} \Big(1 + \frac{(x_d - \mu_d)^2}{\nu_d s_d^2}\Big)^{-\frac{\nu_d + 1}{2}}

    The degrees of freedom are :math:`\nu = 2 + e`, with e > 0, so that mean and variance exist.

    Arguments:
        mean: The mean :math:`\boldsymbol\mu`, shape ``(*batch, D)``.
        logscale: :math:`\log\boldsymbol s`, same shape; the variance is :math:`s^2 \nu / (\nu - 2)`.
        logexcess: :math:`\log\boldsymbol e`, same shape; a Gaussian as it grows.
    """

    arg_constraints = dict.fromkeys(("mean", "logscale", "logexcess"), constraints.real_vector)
    support = constraints.real_vector
    has_rsample = True
    outputs_per_dim: ClassVar[int] = 3

    def __init__(
        self,
        mean: Float[Tensor, "*batch dim"],
        logscale: Float[Tensor, "*batch dim"],
        logexcess: Float[Tensor, "*batch dim"],
    ) -> None:
        self._mean = mean
        self.logscale, self.logexcess = logscale, logexcess
        super().__init__(mean)

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """Mean, log-scale, and the logarithm of the degrees of freedom beyond two."""
        return self._mean, self.logscale, self.logexcess

    @property
    def degrees_of_freedom(self) -> Tensor:
        r""":math:`\nu` of each entry, above two."""
        return 2 + self.logexcess.exp()

    @property
    def mean(self) -> Tensor:
        """The mean vector."""
        return self._mean

    @property
    def mode(self) -> Tensor:
        """The mode, equal to the mean."""
        return self._mean

    @property
    def variance(self) -> Tensor:
        """The variance of each entry."""
        return (2 * self.logscale).exp() * (1 + 2 * (-self.logexcess).exp())

    def log_prob_per_dim(self, value: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """Log-density of each entry, in nats."""
        # Where the degrees of freedom are many two large logarithms of gamma functions nearly cancel.
        nu, logscale = self.degrees_of_freedom.double(), self.logscale.double()
        squared = ((value - self._mean).double() * (-logscale).exp()).square() / nu
        constant = torch.lgamma((nu + 1) / 2) - torch.lgamma(nu / 2) - 0.5 * (math.pi * nu).log() - logscale
        return (constant - 0.5 * (nu + 1) * torch.log1p(squared)).to(self._mean.dtype)

    def entropy_per_dim(self) -> Tensor:
        """Entropy of each entry, in nats."""
        nu = self.degrees_of_freedom.double()
        spread = torch.digamma((nu + 1) / 2) - torch.digamma(nu / 2)
        beta = torch.lgamma(nu / 2) + math.lgamma(0.5) - torch.lgamma((nu + 1) / 2)
        return (0.5 * (nu + 1) * spread + 0.5 * nu.log() + beta).to(self._mean.dtype) + self.logscale

    def rsample(self, sample_shape: Sequence[int] = (), *, generator: Generator | None = None) -> Tensor:
        """A reparameterised sample: a Gaussian one over the root of a Gamma variable of mean one."""
        shape = self._extended_shape(Size(sample_shape))
        half = (self.degrees_of_freedom / 2).expand(shape)
        precision = torch._standard_gamma(half, generator=generator) / half
        noise = torch.randn(shape, dtype=self._mean.dtype, device=self._mean.device, generator=generator)
        return self._mean + self.logscale.exp() * noise * precision.rsqrt()
