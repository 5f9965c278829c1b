r"""Factorised distributions of one frame, with the interface of `torch.distributions`.

Every class describes a vector whose entries are independent given the parameters, as in Eqs. (2.4) and
(2.19) of the review. The last dimension of a parameter is the vector (the *event*), all dimensions before
it are the *batch*: parameters of shape ``(B, T, D)`` make a batch of shape ``(B, T)`` and `log_prob`
returns ``(B, T)``, in nats. What samples takes a keyword `generator`.
"""

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple, TypeVar

import torch
from jaxtyping import Float
from torch import Generator, Size, Tensor
from torch.distributions import Distribution, constraints
from torch.distributions.kl import register_kl
from torch.nn import functional as F

__all__ = [
    "OBSERVATIONS",
    "Bernoulli",
    "CentimetreGaussian",
    "DiagonalGaussian",
    "FactorisedDistribution",
    "Gamma",
    "Support",
    "UnitGaussian",
    "itakura_saito",
    "kl_divergence",
    "kl_per_dim",
    "standard_normal",
    "support_of",
]


Family = TypeVar("Family", bound="FactorisedDistribution")


class Support(NamedTuple):
    """The values of an entry that a family gives a probability.

    Attributes:
        low: the smallest one, -inf where there is none.
        high: the largest one, inf where there is none.
        whole: whether only whole numbers count.

    Examples:
        >>> str(support_of("gamma"))
        'numbers of at least 0'
    """

    low: float = -math.inf
    high: float = math.inf
    whole: bool = False

    @property
    def everything(self) -> bool:
        """Whether every real number is in it, so that data may be standardised."""
        return self == Support()

    def holds(self, low: float, high: float, fraction: float = 0.0) -> bool:
        """Whether finite data between `low` and `high` lie in it; `fraction` is the largest distance to a whole one."""
        inside = self.low <= low and high <= self.high and math.isfinite(low) and math.isfinite(high)
        return inside and not (self.whole and fraction != 0)

    def __str__(self) -> str:
        if self.everything:
            return "real numbers"
        kind = "whole numbers" if self.whole else "numbers"
        if math.isfinite(self.low) and math.isfinite(self.high):
            return f"{kind} from {self.low:g} to {self.high:g}"
        if math.isinf(self.low):
            return f"{kind} up to {self.high:g}"
        return f"{kind} above 0" if 0 < self.low < 1e-300 else f"{kind} of at least {self.low:g}"


class FactorisedDistribution(Distribution):
    r"""A vector with independent entries: :math:`p(\mathbf{x}) = \prod_d p(x_d)`.

    A subclass gives `outputs_per_dim`, `parameters`, `log_prob_per_dim`, `mean` and `sample` (or `rsample`); what
    follows from independence stands here.
    """

    outputs_per_dim: ClassVar[int]
    """How many numbers a network puts out for each entry of the vector."""

    def __init__(self, parameter: Float[Tensor, "*batch dim"]) -> None:
        # The arguments are checked by the models' doors; torch's own validation would cost a pass per call.
        super().__init__(parameter.shape[:-1], parameter.shape[-1:], validate_args=False)

    @classmethod
    def from_output(cls: type[Family], output: Float[Tensor, "*batch outputs"]) -> Family:
        """The distribution whose parameters are a network's output of size `outputs_per_dim` times the event.

        The output is cut into `outputs_per_dim` equal parts along its last dimension, one for each parameter in the
        constructor's order.
        """
        return cls(*output.chunk(cls.outputs_per_dim, dim=-1))

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """The tensors that the distribution is built from, in the constructor's order."""
        raise NotImplementedError(
            f"{type(self).__name__} needs a property `parameters`: the tensors it is built from, in the order of its "
            "constructor; frames are taken out of it and batches expanded by building it anew from parts of them"
        )

    @abstractmethod
    def log_prob_per_dim(self, value: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """Log-density of each entry, in nats."""

    def rsample(self, sample_shape: Sequence[int] = (), *, generator: Generator | None = None) -> Tensor:
        """A reparameterised sample, of families that have one."""
        raise NotImplementedError

    def sample(self, sample_shape: Sequence[int] = (), *, generator: Generator | None = None) -> Tensor:
        """A sample through which no gradient flows."""
        with torch.no_grad():
            return self.rsample(sample_shape, generator=generator)

    def log_prob(self, value: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch"]:
        """Log-density of the vector, in nats: the sum of `log_prob_per_dim` over the last dimension."""
        return self.log_prob_per_dim(value).sum(-1)

    def entropy(self) -> Tensor:
        """Entropy of the vector, in nats, summed over the last dimension."""
        return self.entropy_per_dim().sum(-1)

    def entropy_per_dim(self) -> Tensor:
        """Entropy of each entry, in nats, of families that have a closed form."""
        raise NotImplementedError(f"{type(self).__name__} has no closed form for its entropy")

    def expand(self, batch_shape: Sequence[int], _instance: None = None) -> "FactorisedDistribution":
        """The same distribution with its batch dimensions expanded."""
        shape = Size(batch_shape) + self.event_shape
        return type(self)(*(p.expand(shape) for p in self.parameters))

    def __getitem__(self, index: object) -> "FactorisedDistribution":
        """The distributions at some places of the batch: indexing acts on the batch dimensions."""
        index = index if isinstance(index, tuple) else (index,)
        if Ellipsis not in index:
            index = (*index, Ellipsis)
        return type(self)(*(p[(*index, slice(None))] for p in self.parameters))


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

    def rsample(self, sample_shape: Sequence[int] = (), *, generator: Generator | None = None) -> Tensor:
        r"""Reparameterised sample :math:`\boldsymbol\mu + \boldsymbol\sigma \odot \boldsymbol\epsilon`, Eq. (2.24)."""
        noise = _normal(self._extended_shape(Size(sample_shape)), self._mean, generator)
        return self._mean + self.stddev * noise


class UnitGaussian(DiagonalGaussian):
    r"""A Gaussian with identity covariance, as the review uses for human motion (Section 13.2.2).

    Its log-density is minus half the squared error, less :math:`\tfrac{D}{2}\log 2\pi`.

    Arguments:
        mean: The mean, shape ``(*batch, D)``.
    """

    arg_constraints = {"mean": constraints.real_vector}
    outputs_per_dim: ClassVar[int] = 1
    scale: ClassVar[float] = 1.0

    def __init__(self, mean: Float[Tensor, "*batch dim"]) -> None:
        super().__init__(mean, mean.new_full((), 2 * math.log(self.scale)).expand(mean.shape))

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """The mean."""
        return (self._mean,)

    def log_prob_per_dim(self, value: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """Log-density of each entry, in nats."""
        squared = ((value - self._mean) / self.scale).square()
        return -0.5 * (squared + math.log(2 * math.pi)) - math.log(self.scale)


class CentimetreGaussian(UnitGaussian):
    r"""A Gaussian with a standard deviation of one centimetre, for positions in metres.

    Measured in centimetres its covariance is the identity, which is what the review gives human motion (Section
    13.2.2) without naming the unit. The unit matters: it decides how many nats a millimetre of error costs against
    the KL terms. In metres, an identity covariance buys hardly any latent vector, since a body varies by little more.

    Arguments:
        mean: The mean in metres, shape ``(*batch, D)``.

    Example:
        >>> origin = torch.zeros(3)
        >>> p = CentimetreGaussian(origin)
        >>> p.log_prob(origin) - p.log_prob(torch.tensor([0.01, 0.0, 0.0]))
        tensor(0.5000)
    """

    scale = 0.01


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

    def entropy_per_dim(self) -> Tensor:
        """Entropy of each entry, in nats."""
        return 1 + self.logvar

    def rsample(self, sample_shape: Sequence[int] = (), *, generator: Generator | None = None) -> Tensor:
        r"""Reparameterised sample :math:`\sigma^2 \epsilon`, with :math:`\epsilon` exponential of mean one."""
        noise = torch.empty(
            self._extended_shape(Size(sample_shape)), dtype=self.logvar.dtype, device=self.logvar.device
        ).exponential_(generator=generator)
        return self.logvar.exp() * noise


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


OBSERVATIONS: dict[str, type[FactorisedDistribution]] = {
    "gaussian": DiagonalGaussian,
    "unit_gaussian": UnitGaussian,
    "centimetre_gaussian": CentimetreGaussian,
    "gamma": Gamma,
    "bernoulli": Bernoulli,
}
"""The observation models p(x_t | .) that every model accepts, by name."""


def support_of(family: "str | type[Distribution]") -> Support:
    """What the data of an observation model may be, from the `support` that its class declares.

    For zeros and ones everything between counts, too: a grey level stands for the mean of random zeros and ones, and
    its log-likelihood for the expected one. Where a class says nothing, or what depends on its parameters, all real
    numbers are taken.

    Arguments:
        family: a name in `OBSERVATIONS`, or a class of distributions.

    Examples:
        >>> support_of("bernoulli")
        Support(low=0.0, high=1.0, whole=False)
        >>> support_of(CentimetreGaussian).everything
        True
    """
    declared: Any = getattr(OBSERVATIONS.get(family) if isinstance(family, str) else family, "support", None)
    while isinstance(declared, constraints.independent):
        declared = declared.base_constraint
    if declared is constraints.boolean:
        return Support(0.0, 1.0)
    if not isinstance(declared, constraints.Constraint) or constraints.is_dependent(declared):
        return Support()
    low, high = (getattr(declared, f"{side}_bound", inf) for side, inf in (("lower", -math.inf), ("upper", math.inf)))
    if not all(isinstance(bound, int | float) for bound in (low, high)):
        return Support()
    if isinstance(declared, type(constraints.positive)):  # the bound itself is not in it
        low = math.nextafter(low, math.inf)
    return Support(float(low), float(high), bool(declared.is_discrete))


def standard_normal(like: Float[Tensor, "*batch dim"]) -> DiagonalGaussian:
    r"""The prior :math:`\mathcal{N}(\mathbf{0}, \mathbf{I})` of Eq. (2.2), in the shape of `like`."""
    zeros = like.new_zeros(()).expand(like.shape)
    return DiagonalGaussian(zeros, zeros)


def itakura_saito(x: Float[Tensor, "*shape"], y: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    r"""Itakura-Saito divergence :math:`d_\mathrm{IS}(x, y) = x/y - \log(x/y) - 1` between positive numbers.

    It is the KL divergence between two exponential distributions of means `x` and `y`, and zero at ``x == y``.
    """
    ratio = x / y
    return ratio - ratio.log() - 1


def kl_per_dim(q: FactorisedDistribution, p: FactorisedDistribution) -> Float[Tensor, "*batch dim"]:
    r"""KL divergence :math:`D_\mathrm{KL}(q \,\|\, p)` of each entry, in closed form, in nats.

    Arguments:
        q: The distribution that the expectation is taken under.
        p: A distribution of the same family.

    Raises:
        NotImplementedError: For a pair without closed form here; estimate it by sampling instead.
    """
    if isinstance(q, DiagonalGaussian) and isinstance(p, DiagonalGaussian):
        logratio = q.logvar - p.logvar
        squared = (q.mean - p.mean).square() * (-p.logvar).exp()
        return 0.5 * (logratio.exp() - 1 - logratio + squared)
    if isinstance(q, Gamma) and isinstance(p, Gamma):
        logratio = q.logvar - p.logvar
        return logratio.exp() - logratio - 1
    if isinstance(q, Bernoulli) and isinstance(p, Bernoulli):
        return q.mean * (q.logits - p.logits) - F.softplus(q.logits) + F.softplus(p.logits)
    raise NotImplementedError(
        f"no closed form for KL({type(q).__name__} || {type(p).__name__}); "
        "use the sampled estimate, log q(z) - log p(z) at a sample of q (kl='sampled')"
    )


def kl_divergence(q: FactorisedDistribution, p: FactorisedDistribution) -> Float[Tensor, "*batch"]:
    r"""KL divergence :math:`D_\mathrm{KL}(q \,\|\, p)` between vectors, in nats: `kl_per_dim` summed.

    Example:
        >>> q = DiagonalGaussian(torch.ones(1), torch.zeros(1))
        >>> kl_divergence(q, standard_normal(torch.zeros(1)))
        tensor(0.5000)
    """
    return kl_per_dim(q, p).sum(-1)


# torch.distributions.kl_divergence(q, p) works as well.
for _family in (DiagonalGaussian, Gamma, Bernoulli):
    register_kl(_family, _family)(kl_divergence)


def _normal(shape: Size, like: Tensor, generator: Generator | None) -> Tensor:
    return torch.randn(shape, dtype=like.dtype, device=like.device, generator=generator)
