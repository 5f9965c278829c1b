r"""Gaussians with diagonal covariance, Eqs. (2.3)-(2.4): learned, or fixed."""

import math
from collections.abc import Sequence
from functools import cache
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Generator, Size, Tensor
from torch.distributions import Distribution, constraints

from dvae_lib.distributions.base import FactorisedDistribution

__all__ = ["CentimetreGaussian", "DiagonalGaussian", "FixedGaussian", "UnitGaussian", "standard_normal"]


class DiagonalGaussian(FactorisedDistribution):
    r"""A Gaussian with diagonal covariance, Eqs. (2.3)-(2.4) and (2.18)-(2.19).

    .. math:: p(\mathbf{x}) = \prod_d \mathcal{N}\big(x_d; \mu_d, \sigma_d^2\big)

    Arguments:
        mean: The mean :math:`\boldsymbol{\mu}`, shape ``(*batch, D)``.
        logvar: The log-variance :math:`\log \boldsymbol{\sigma}^2`, same shape.

    Example:
        >>> p = DiagonalGaussian(torch.zeros(2, 3), torch.zeros(2, 3))
        >>> p.log_prob(torch.zeros(2, 3))
        tensor([-2.7568, -2.7568])
    """

    arg_constraints = {"mean": constraints.real_vector, "logvar": constraints.real_vector}
    support = constraints.real_vector
    has_rsample = True
    outputs_per_dim: ClassVar[int] = 2

    def __init__(self, mean: Float[Tensor, "*batch dim"], logvar: Float[Tensor, "*batch dim"]) -> None:
        self._mean = mean
        self.logvar = logvar
        super().__init__(mean)

    @classmethod
    def with_options(cls, **options: float) -> type[FactorisedDistribution]:
        """With a `scale`, the Gaussian of that fixed standard deviation; see `FixedGaussian`."""
        if set(options) == {"scale"}:
            return FixedGaussian.of(options["scale"])
        return super().with_options(**options)

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """Mean and log-variance."""
        return self._mean, self.logvar

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
        return self.logvar.exp()

    @property
    def stddev(self) -> Tensor:
        """The standard deviation of each entry."""
        return (0.5 * self.logvar).exp()

    def log_prob_per_dim(self, value: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """Log-density of each entry, in nats."""
        squared = (value - self._mean).square() * (-self.logvar).exp()
        return -0.5 * (squared + self.logvar + math.log(2 * math.pi))

    def entropy_per_dim(self) -> Tensor:
        """Entropy of each entry, in nats."""
        return 0.5 * (self.logvar + math.log(2 * math.pi * math.e))

    def kl_per_dim(self, other: Distribution) -> Float[Tensor, "*batch dim"]:
        """KL divergence of each entry from another diagonal Gaussian, in nats."""
        if not isinstance(other, DiagonalGaussian):
            return super().kl_per_dim(other)
        logratio = self.logvar - other.logvar
        squared = (self.mean - other.mean).square() * (-other.logvar).exp()
        return 0.5 * (logratio.exp() - 1 - logratio + squared)

    def rsample(self, sample_shape: Sequence[int] = (), *, generator: Generator | None = None) -> Tensor:
        r"""Reparameterised sample :math:`\boldsymbol\mu + \boldsymbol\sigma \odot \boldsymbol\epsilon`, Eq. (2.24)."""
        noise = _normal(self._extended_shape(Size(sample_shape)), self._mean, generator)
        return self._mean + self.stddev * noise


class FixedGaussian(DiagonalGaussian):
    r"""A Gaussian whose standard deviation is fixed, the same for all entries: half the squared error, in units of it.

    .. math:: -\log p(x) = \sum_d \frac{(x_d - \mu_d)^2}{2 s^2} + D \log s + \tfrac{D}{2} \log 2\pi

    The scale s is in the unit of the data. It decides how many nats an error costs against the KL terms, and so what is
    worth encoding. A class has one scale; `of` gives the class of another.

    Arguments:
        mean: The mean, shape ``(*batch, D)``.

    Example:
        >>> millimetres = FixedGaussian.of(0.001)
        >>> p = millimetres(torch.zeros(1))
        >>> p.log_prob(torch.zeros(1)) - p.log_prob(torch.tensor([0.002]))
        tensor(2.)
    """

    arg_constraints = {"mean": constraints.real_vector}
    outputs_per_dim: ClassVar[int] = 1
    scale: ClassVar[float] = 1.0

    def __init__(self, mean: Float[Tensor, "*batch dim"]) -> None:
        super().__init__(mean, mean.new_full((), 2 * math.log(self.scale)).expand(mean.shape))

    @staticmethod
    def of(scale: float) -> "type[FixedGaussian]":
        """The class with that standard deviation.

        Arguments:
            scale: The standard deviation, positive, in the unit of the data.

        Raises:
            ValueError: It is not positive and finite.
        """
        if isinstance(scale, bool) or not 0 < scale < math.inf:
            raise ValueError(f"scale is a standard deviation, positive and finite; got {scale!r}")
        return _fixed(float(scale))

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """The mean."""
        return (self._mean,)

    def log_prob_per_dim(self, value: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """Log-density of each entry, in nats."""
        squared = ((value - self._mean) / self.scale).square()
        return -0.5 * (squared + math.log(2 * math.pi)) - math.log(self.scale)


@cache
def _fixed(scale: float) -> type[FixedGaussian]:
    return type(f"FixedGaussian({scale:g})", (FixedGaussian,), {"scale": scale, "__doc__": FixedGaussian.__doc__})


class UnitGaussian(FixedGaussian):
    r"""A Gaussian with identity covariance, as the review uses for human motion (Section 13.2.2).

    Its log-density is minus half the squared error, less :math:`\tfrac{D}{2}\log 2\pi`.

    Arguments:
        mean: The mean, shape ``(*batch, D)``.
    """


class CentimetreGaussian(FixedGaussian):
    r"""`FixedGaussian` of scale 0.01, under the name that trained models of human motion have it by.

    Measured in centimetres its covariance is the identity, which is what the review gives human motion (Section
    13.2.2) without naming the unit. In metres, an identity covariance buys hardly any latent vector, since a body
    varies by little more.

    Arguments:
        mean: The mean in metres, shape ``(*batch, D)``.

    Example:
        >>> origin = torch.zeros(3)
        >>> p = CentimetreGaussian(origin)
        >>> p.log_prob(origin) - p.log_prob(torch.tensor([0.01, 0.0, 0.0]))
        tensor(0.5000)
    """

    scale = 0.01


def standard_normal(like: Float[Tensor, "*batch dim"]) -> DiagonalGaussian:
    r"""The prior :math:`\mathcal{N}(\mathbf{0}, \mathbf{I})` of Eq. (2.2), in the shape of `like`."""
    zeros = like.new_zeros(()).expand(like.shape)
    return DiagonalGaussian(zeros, zeros)


def _normal(shape: Size, like: Tensor, generator: Generator | None) -> Tensor:
    return torch.randn(shape, dtype=like.dtype, device=like.device, generator=generator)
