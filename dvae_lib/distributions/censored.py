r"""Numbers that an instrument cuts off at a limit: below detection, beyond the end of the scale."""

import math
from collections.abc import Sequence
from functools import cache
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Generator, Size, Tensor
from torch.distributions import constraints
from torch.special import log_ndtr, ndtr

from dvae_lib.distributions.base import FactorisedDistribution

__all__ = ["CensoredGaussian"]


class CensoredGaussian(FactorisedDistribution):
    r"""A Gaussian number of which everything beyond two limits is given as the limit.

    .. math:: x_d = \min\big(\max(y_d, a), b\big), \qquad y_d \sim \mathcal{N}(\mu_d, \sigma_d^2)

    Between the limits it has the Gaussian's density; at a limit a probability,

    .. math:: p(x_d = a) = \Phi\Big(\frac{a - \mu_d}{\sigma_d}\Big), \qquad
        p(x_d = b) = 1 - \Phi\Big(\frac{b - \mu_d}{\sigma_d}\Big).

    So a reading at the limit says "this much or more", and not that it was this much. `mean` and `variance` are those
    of x, what the instrument shows; `location` is the mean of y, what it would show without limits. As an observation
    model it is called "censored_gaussian", cut off below zero, or "censored_gaussian(low=-1, high=4)"; the limits are
    in the units of the data as the model gets them, which are not standardised.

    Arguments:
        location: The mean :math:`\boldsymbol\mu` of y, shape ``(*batch, D)``.
        logvar: The log-variance :math:`\log\boldsymbol\sigma^2` of y, same shape.

    Source: Tobin (1958), "Estimation of relationships for limited dependent variables".

    Example:
        >>> p = CensoredGaussian(torch.zeros(1), torch.zeros(1))  # of a standard normal what is above zero
        >>> p.log_prob(torch.zeros(1)).exp()
        tensor(0.5000)
        >>> p.mean
        tensor([0.3989])
    """

    arg_constraints = {"location": constraints.real_vector, "logvar": constraints.real_vector}
    support: Any = constraints.independent(constraints.interval(0.0, math.inf), 1)
    has_rsample = True
    outputs_per_dim: ClassVar[int] = 2
    low: ClassVar[float] = 0.0
    high: ClassVar[float] = math.inf

    def __init__(self, location: Float[Tensor, "*batch dim"], logvar: Float[Tensor, "*batch dim"]) -> None:
        self.location, self.logvar = location, logvar
        super().__init__(location)

    @classmethod
    def with_options(cls, **options: float) -> "type[FactorisedDistribution]":
        """The family with other limits, `low` and `high`; a limit that is not named is none.

        Raises:
            TypeError: Another option.
            ValueError: Limits that leave nothing between them.
        """
        if not options:
            return cls
        low, high = options.pop("low", -math.inf), options.pop("high", math.inf)
        super().with_options(**options)
        if not low < high:
            raise ValueError(f"low must be below high; got {low} and {high}")
        return _between(float(low), float(high))

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """Mean and log-variance of what is cut off."""
        return self.location, self.logvar

    @property
    def mean(self) -> Tensor:
        """The mean of each entry, limits counted."""
        a, b = self._standardised()
        scale = (0.5 * self.logvar).exp()
        inside: Tensor = self.location * (ndtr(b) - ndtr(a)) - scale * (_density(b) - _density(a))
        if math.isfinite(self.low):
            inside = inside + self.low * ndtr(a)
        if math.isfinite(self.high):
            inside = inside + self.high * ndtr(-b)
        return inside

    @property
    def variance(self) -> Tensor:
        """The variance of each entry, limits counted."""
        a, b = self._standardised()
        scale, centre = (0.5 * self.logvar).exp(), self.mean
        offset = self.location - centre
        inside: Tensor = (offset.square() + scale.square()) * (ndtr(b) - ndtr(a))
        # Of (mu + s e - m)^2 the cross term has the integral of e, and the square that of e^2 - 1.
        inside = inside - 2 * offset * scale * (_density(b) - _density(a))
        inside = inside - scale.square() * (_times_density(b) - _times_density(a))
        if math.isfinite(self.low):
            inside = inside + ndtr(a) * (self.low - centre).square()
        if math.isfinite(self.high):
            inside = inside + ndtr(-b) * (self.high - centre).square()
        return inside

    def log_prob_per_dim(self, value: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """Log-density of each entry between the limits, log-probability at them, in nats."""
        a, b = self._standardised()
        squared = (value - self.location).square() * (-self.logvar).exp()
        found = -0.5 * (squared + self.logvar + math.log(2 * math.pi))
        if math.isfinite(self.low):
            found = torch.where(value <= self.low, log_ndtr(a), found)
        if math.isfinite(self.high):
            found = torch.where(value >= self.high, log_ndtr(-b), found)
        return found

    def rsample(self, sample_shape: Sequence[int] = (), *, generator: Generator | None = None) -> Tensor:
        """A reparameterised sample: a Gaussian one, cut off; at the limits no gradient flows."""
        shape = self._extended_shape(Size(sample_shape))
        noise = torch.randn(shape, dtype=self.location.dtype, device=self.location.device, generator=generator)
        return (self.location + (0.5 * self.logvar).exp() * noise).clamp(self.low, self.high)

    def _standardised(self) -> tuple[Tensor, Tensor]:
        """The limits in standard deviations from the location; constants where there is no limit."""
        a, b = (
            (limit - self.location) * (-0.5 * self.logvar).exp()
            if math.isfinite(limit)
            else torch.full_like(self.location, limit)  # infinity times a number has no gradient
            for limit in (self.low, self.high)
        )
        return a, b


def _density(z: Tensor) -> Tensor:
    return (-0.5 * z.square()).exp() / math.sqrt(2 * math.pi)


def _times_density(z: Tensor) -> Tensor:
    """The standard normal density times its argument, 0 at infinity."""
    return torch.where(z.isinf(), 0.0, torch.where(z.isinf(), 0.0, z) * _density(z))


@cache
def _between(low: float, high: float) -> type[CensoredGaussian]:
    attributes = {
        "low": low,
        "high": high,
        "support": constraints.independent(constraints.interval(low, high), 1),
        "__doc__": CensoredGaussian.__doc__,
        "__module__": CensoredGaussian.__module__,
    }
    return type(f"CensoredGaussian({low:g}, {high:g})", (CensoredGaussian,), attributes)
