r"""The Gamma distribution of shape 1 of power spectrograms, and its divergence: Itakura-Saito."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Generator, Size, Tensor
from torch.distributions import Distribution, constraints

from dvae_lib.distributions.base import FactorisedDistribution
from dvae_lib.scans import records_steps, writes_down

__all__ = ["Gamma", "itakura_saito"]


class Gamma(FactorisedDistribution):
    r"""Gamma distribution with shape 1 and scale :math:`\sigma^2`: the power of a complex Gaussian.

    .. math:: p(x) = \prod_d \frac{1}{\sigma_d^2} \exp\Big(-\frac{x_d}{\sigma_d^2}\Big), \qquad x_d \ge 0

    If an STFT coefficient is zero-mean circular complex Gaussian with variance :math:`\sigma^2`, its squared
    magnitude has this density (Section 13.2.1). Its negative log is the Itakura-Saito divergence up to terms
    in the data alone: :math:`-\log p(x) = d_\mathrm{IS}(x, \sigma^2) + \log x + 1`. At shape 1 the constant
    of the density is 1, so nothing is left out: the density integrates to one.

    Arguments:
        logvar: :math:`\log \boldsymbol\sigma^2`, shape ``(*batch, D)``: the log-variance *of the complex
            coefficient*, hence the log of this distribution's mean (and of its standard deviation).

    Source: Girin et al. (2019), "Notes on the use of variational autoencoders for speech and audio
    spectrogram modeling".
    """

    arg_constraints = {"logvar": constraints.real_vector}
    support = constraints.independent(constraints.nonnegative, 1)
    has_rsample = True
    outputs_per_dim: ClassVar[int] = 1
    neutral: ClassVar[float | None] = 1.0  # 0 on the logarithmic scale, where a power of 0 is infinitely far

    def __init__(self, logvar: Float[Tensor, "*batch dim"]) -> None:
        self.logvar = logvar
        super().__init__(logvar)

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """The log-variance."""
        return (self.logvar,)

    @property
    def mean(self) -> Tensor:
        r"""The mean :math:`\sigma^2` of each entry."""
        return self.logvar.exp()

    @property
    def variance(self) -> Tensor:
        r"""The variance :math:`\sigma^4` of each entry."""
        return (2 * self.logvar).exp()

    def log_prob_per_dim(self, value: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """Log-density of each (non-negative) entry, in nats."""
        return -self.logvar - value * (-self.logvar).exp()

    def log_prob(self, value: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch"]:
        """Log-density of the vector, in nats: the sum of `log_prob_per_dim` over the last dimension."""
        data = self.logvar.requires_grad and not value.requires_grad
        own = type(self).log_prob_per_dim is Gamma.log_prob_per_dim  # not so of a class that is derived from this one
        fit = data and own and not (writes_down() or records_steps(self.logvar, value))
        if fit and value.shape == self.logvar.shape and value.dtype == self.logvar.dtype:
            return _LogDensity.apply(self.logvar, value)  # type: ignore[no-any-return, no-untyped-call]
        return super().log_prob(value)

    def entropy_per_dim(self) -> Tensor:
        """Entropy of each entry, in nats."""
        return 1 + self.logvar

    def kl_per_dim(self, other: Distribution) -> Float[Tensor, "*batch dim"]:
        """KL divergence of each entry from another Gamma distribution, in nats."""
        if not isinstance(other, Gamma):
            return super().kl_per_dim(other)
        logratio = self.logvar - other.logvar
        return logratio.exp() - logratio - 1

    def rsample(self, sample_shape: Sequence[int] = (), *, generator: Generator | None = None) -> Tensor:
        r"""Reparameterised sample :math:`\sigma^2 \epsilon`, with :math:`\epsilon` exponential of mean one."""
        noise = torch.empty(
            self._extended_shape(Size(sample_shape)), dtype=self.logvar.dtype, device=self.logvar.device
        ).exponential_(generator=generator)
        return self.logvar.exp() * noise


class _LogDensity(torch.autograd.Function):
    """The log-density of data, in half of the passes over them."""

    @staticmethod
    def forward(ctx: Any, logvar: Tensor, value: Tensor) -> Tensor:
        ratio = logvar.neg().exp_().mul_(value)
        ctx.save_for_backward(logvar, value, ratio)
        return -(logvar.sum(-1) + ratio.sum(-1))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        logvar, value, ratio = ctx.saved_tensors
        if torch.is_grad_enabled():  # with create_graph, to be differentiated again
            ratio = value * (-logvar).exp()
        return gradient[..., None] * (ratio - 1), None


def itakura_saito(x: Float[Tensor, "*shape"], y: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    r"""Itakura-Saito divergence :math:`d_\mathrm{IS}(x, y) = x/y - \log(x/y) - 1` between positive numbers.

    It is the KL divergence between two exponential distributions of means `x` and `y`, and zero at ``x == y``.
    """
    ratio = x / y
    return ratio - ratio.log() - 1
