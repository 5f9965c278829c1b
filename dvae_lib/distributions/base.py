r"""What all families have in common: a vector whose entries are independent given the parameters."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar, TypeVar

import torch
from jaxtyping import Float
from torch import Generator, Size, Tensor
from torch.distributions import Distribution

__all__ = ["FactorisedDistribution"]


Family = TypeVar("Family", bound="FactorisedDistribution")


class FactorisedDistribution(Distribution):
    r"""A vector with independent entries: :math:`p(\mathbf{x}) = \prod_d p(x_d)`.

    A subclass gives `outputs_per_dim`, `parameters`, `log_prob_per_dim`, `mean` and `sample` (or `rsample`); what
    follows from independence stands here.
    """

    outputs_per_dim: ClassVar[int]
    """How many numbers a network puts out for each entry of the vector."""

    neutral: ClassVar[float | None] = None
    """What networks read in place of a value that was not observed; None for a value of the support, 0 where that is
    one: what a layer's weighted sum leaves out, and the mean of standardised data."""

    entries_apart: ClassVar[bool] = True
    """Whether entries are variables of their own, of which some may be observed and others not."""

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

    @classmethod
    def output_size(cls, dim: int) -> int:
        """How many numbers a network puts out for a vector of that size."""
        return cls.outputs_per_dim * dim

    @classmethod
    def with_options(cls, **options: float) -> "type[FactorisedDistribution]":
        """The family with other numbers than it has by default, such as a fixed scale; most families have none.

        Raises:
            TypeError: The family has no such option.
        """
        if options:
            raise TypeError(f"{cls.__name__} has no option {', '.join(options)}")
        return cls

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

    def kl_per_dim(self, other: Distribution) -> Float[Tensor, "*batch dim"]:
        r"""KL divergence :math:`D_\mathrm{KL}(\cdot \,\|\, other)` of each entry, in nats, of families that have one.

        A subclass with a closed form gives it for a distribution of its own family, and leaves all others to this.
        """
        raise NotImplementedError(
            f"no closed form for KL({type(self).__name__} || {type(other).__name__}); "
            "use the sampled estimate, log q(z) - log p(z) at a sample of q (kl='sampled')"
        )

    def expand(self, batch_shape: Sequence[int], _instance: None = None) -> "FactorisedDistribution":
        """The same distribution with its batch dimensions expanded."""
        batch = Size(batch_shape)
        return type(self)(*(p.expand(batch + p.shape[-1:]) for p in self.parameters))

    def __getitem__(self, index: object) -> "FactorisedDistribution":
        """The distributions at some places of the batch: indexing acts on the batch dimensions."""
        index = index if isinstance(index, tuple) else (index,)
        if Ellipsis not in index:
            index = (*index, Ellipsis)
        return type(self)(*(p[(*index, slice(None))] for p in self.parameters))
