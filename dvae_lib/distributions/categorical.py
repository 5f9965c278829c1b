r"""One of several classes: regimes, symbols, discrete latent variables."""

from collections.abc import Sequence
from functools import cache
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Generator, Size, Tensor
from torch.distributions import Distribution, constraints
from torch.nn import functional as F

from dvae_lib.distributions.base import FactorisedDistribution

__all__ = ["CategoricalVector", "OneHotCategorical"]


class OneHotCategorical(FactorisedDistribution):
    r"""One of D classes, as a vector with a single one.

    .. math:: p(\mathbf{x}) = \prod_d \pi_d^{x_d}, \qquad \boldsymbol\pi = \mathrm{softmax}(\boldsymbol\ell)

    Its entries are not independent, since exactly one of them is one, but its log-probability, entropy and divergence
    are sums over them all the same. A vector of probabilities in place of a class stands for the mean of random
    classes; its log-probability is then the expected one.

    Arguments:
        logits: Scores of the classes :math:`\boldsymbol\ell`, up to a constant, shape ``(*batch, D)``; -inf for a class
            that cannot be.

    Source: for relaxed samples, Jang et al. (2017), "Categorical reparameterization with Gumbel-softmax", and Maddison
    et al. (2017), "The concrete distribution".

    Example:
        >>> p = OneHotCategorical(torch.tensor([0.2, 0.3, 0.5]).log())
        >>> p.log_prob(torch.tensor([0.0, 0.0, 1.0])).exp()
        tensor(0.5000)
        >>> p.sample(generator=torch.Generator().manual_seed(0)).sum()
        tensor(1.)
    """

    arg_constraints = {"logits": constraints.real_vector}
    support = constraints.one_hot
    outputs_per_dim: ClassVar[int] = 1
    entries_apart: ClassVar[bool] = False

    def __init__(self, logits: Float[Tensor, "*batch dim"]) -> None:
        self.logits = logits
        super().__init__(logits)

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """The scores."""
        return (self.logits,)

    @property
    def log_probabilities(self) -> Tensor:
        """The logarithms of the classes' probabilities."""
        return self.logits.log_softmax(-1)

    @property
    def mean(self) -> Tensor:
        """The probability of each class."""
        return self.logits.softmax(-1)

    @property
    def mode(self) -> Tensor:
        """The most probable class, as a vector."""
        return self._one_hot(self.logits)

    @property
    def variance(self) -> Tensor:
        """The variance of each entry."""
        return self.mean * (1 - self.mean)

    def log_prob_per_dim(self, value: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """What each class adds to the log-probability, in nats: that of the chosen class, and zeros."""
        return _times(value, self.log_probabilities)

    def entropy_per_dim(self) -> Tensor:
        """What each class adds to the entropy, in nats."""
        return -_times(self.mean, self.log_probabilities)

    def kl_per_dim(self, other: Distribution) -> Float[Tensor, "*batch dim"]:
        """What each class adds to the KL divergence from other classes' probabilities, in nats; it may be negative.

        Infinite where a class that may be here cannot be there.
        """
        if not isinstance(other, OneHotCategorical):
            return super().kl_per_dim(other)
        return _times(self.mean, self.log_probabilities) - _times(self.mean, other.log_probabilities)

    def sample(self, sample_shape: Sequence[int] = (), *, generator: Generator | None = None) -> Tensor:
        """Vectors with a single one, in the dtype of the parameters."""
        with torch.no_grad():
            return self._one_hot(self._perturbed(sample_shape, generator))

    def rsample(
        self,
        sample_shape: Sequence[int] = (),
        *,
        temperature: float = 1.0,
        straight_through: bool = True,
        generator: Generator | None = None,
    ) -> Tensor:
        r"""A sample through which gradients flow, which are those of another distribution.

        .. math:: \mathrm{softmax}\big((\boldsymbol\ell + \mathbf{g}) / \tau\big), \qquad g_d \sim \mathrm{Gumbel}(0, 1)

        Its largest entry is that of an exact sample; as the temperature goes to zero it becomes one, and the gradient
        wild.

        Arguments:
            sample_shape: Shape of independent draws, in front of the batch dimensions.
            temperature: :math:`\tau`, positive.
            straight_through: Give the exact sample with the gradients of the relaxed one; otherwise the relaxed one,
                which lies between the classes.
            generator: Source of randomness.

        Raises:
            ValueError: If the temperature is not positive.
        """
        if not temperature > 0:
            raise ValueError(f"temperature must be positive, got {temperature}")
        perturbed = self._perturbed(sample_shape, generator)
        relaxed = (perturbed / temperature).softmax(-1)
        return self._one_hot(perturbed) + (relaxed - relaxed.detach()) if straight_through else relaxed

    def _perturbed(self, sample_shape: Sequence[int], generator: Generator | None) -> Tensor:
        noise = torch.empty(
            self._extended_shape(Size(sample_shape)), dtype=self.logits.dtype, device=self.logits.device
        )
        # An exponential number may be rounded to zero, whose logarithm would choose its class whatever the scores.
        noise = noise.exponential_(generator=generator).clamp(min=torch.finfo(noise.dtype).tiny)
        return self.logits - noise.log()

    def _one_hot(self, scores: Tensor) -> Tensor:
        return F.one_hot(scores.argmax(-1), scores.shape[-1]).to(self.logits.dtype)


class CategoricalVector(FactorisedDistribution):
    r"""Independent variables, each one of C classes, as vectors with a single one, side by side.

    .. math:: p(\mathbf{x}) = \prod_{g=1}^{D/C} \prod_{c=1}^C \pi_{gc}^{x_{gc}}, \qquad
        \boldsymbol\pi_g = \mathrm{softmax}(\boldsymbol\ell_g)

    Its samples are exact; gradients pass *straight through* the draw, as if the sample were the mean. For a function
    that is linear in the sample these are the gradients of its expectation; else they are biased. A class has one
    number of classes; `of` gives the class of another.

    Arguments:
        logits: Scores of the classes :math:`\boldsymbol\ell`, up to a constant for each variable, variable after
            variable, shape ``(*batch, D)``.

    Source: Hafner, Lillicrap, Norouzi and Ba (2021), "Mastering Atari with discrete world models".

    Example:
        >>> p = CategoricalVector(torch.zeros(3))
        >>> p.sample(generator=torch.Generator().manual_seed(0)).sum()
        tensor(1.)
        >>> p.mean
        tensor([0.3333, 0.3333, 0.3333])
    """

    arg_constraints = {"logits": constraints.real_vector}
    has_rsample = True
    outputs_per_dim: ClassVar[int] = 1
    entries_apart: ClassVar[bool] = False
    classes: ClassVar[int | None] = None
    """Number C of classes of each variable; None: there is one variable, of D classes."""

    def __init__(self, logits: Float[Tensor, "*batch dim"]) -> None:
        self.logits = logits
        super().__init__(logits)

    @staticmethod
    def of(classes: int | None) -> "type[CategoricalVector]":
        """The class with that number of classes.

        Raises:
            ValueError: A variable would have less than two.
        """
        if classes is not None and (isinstance(classes, bool) or not isinstance(classes, int) or classes < 2):
            raise ValueError(f"classes must be an integer of at least 2; got {classes!r}")
        return _of_classes(classes)

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """The scores."""
        return (self.logits,)

    @property
    def each(self) -> OneHotCategorical:
        """The variables one by one, with a batch dimension more."""
        return OneHotCategorical(self._apart(self.logits))

    @property
    def mean(self) -> Tensor:
        """The probability of each class."""
        return self.each.mean.flatten(-2)

    @property
    def mode(self) -> Tensor:
        """The most probable class of each variable."""
        return self.each.mode.flatten(-2)

    @property
    def variance(self) -> Tensor:
        """The variance of each entry."""
        return self.each.variance.flatten(-2)

    def log_prob_per_dim(self, value: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """What each class adds to the log-probability, in nats."""
        return self.each.log_prob_per_dim(self._apart(value)).flatten(-2)

    def entropy_per_dim(self) -> Tensor:
        """What each class adds to the entropy, in nats."""
        return self.each.entropy_per_dim().flatten(-2)

    def kl_per_dim(self, other: Distribution) -> Float[Tensor, "*batch dim"]:
        """What each class adds to the KL divergence from other probabilities, in nats; it may be negative."""
        if not isinstance(other, CategoricalVector) or other.classes != self.classes:
            return super().kl_per_dim(other)
        return self.each.kl_per_dim(other.each).flatten(-2)

    def rsample(self, sample_shape: Sequence[int] = (), *, generator: Generator | None = None) -> Tensor:
        """An exact sample, with the gradients of the mean."""
        mean = self.mean
        return self.each.sample(sample_shape, generator=generator).flatten(-2) + (mean - mean.detach())

    def _apart(self, value: Tensor) -> Tensor:
        apart: Tensor = value.unflatten(-1, (-1, self.classes or value.shape[-1]))
        return apart


@cache
def _of_classes(classes: int | None) -> type[CategoricalVector]:
    if classes is None:
        return CategoricalVector
    return type(
        f"CategoricalVector({classes})",
        (CategoricalVector,),
        {"classes": classes, "__doc__": CategoricalVector.__doc__},
    )


def _times(weight: Tensor, log_probability: Tensor) -> Tensor:
    """Zero where the weight is, also for classes that cannot be, and for the gradient."""
    unused = weight == 0
    return torch.where(unused, 0, weight * torch.where(unused, 0, log_probability))
