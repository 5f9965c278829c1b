r"""Vectors whose columns have families of their own: counts beside temperatures."""

from collections.abc import Sequence
from functools import cache
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Generator, Size, Tensor
from torch.distributions import Distribution

from dvae_lib.distributions.base import FactorisedDistribution, Family

__all__ = ["Block", "ByColumn"]


class Block(NamedTuple):
    """Neighbouring columns of one family.

    Attributes:
        columns: Which ones.
        family: Their class.
    """

    columns: slice
    family: type[FactorisedDistribution]

    @property
    def size(self) -> int:
        """How many columns."""
        return int(self.columns.stop - self.columns.start)


class ByColumn(FactorisedDistribution):
    r"""A vector made of blocks of columns, each with a family of its own, independent given the parameters.

    .. math:: p(\mathbf{x}) = \prod_b p_b(\mathbf{x}_b)

    A class has its blocks; `of` gives the class of others. As an observation model it is written as the families in the
    order of the columns, ``"poisson, student_t"``, or by names, see `dvae_lib.distributions.by_column`.

    Arguments:
        parameters: Those of the first block, then those of the second, and so on.

    Raises:
        ValueError: Their number is not that of the families' parameters.

    Example:
        >>> from dvae_lib.distributions import Laplace, Poisson
        >>> CountAndLevel = ByColumn.of((Poisson, 1), (Laplace, 1))
        >>> p = CountAndLevel(torch.tensor([2.0]).log(), torch.tensor([0.5]), torch.tensor([0.0]))
        >>> p.mean
        tensor([2.0000, 0.5000])
        >>> p.log_prob_per_dim(torch.tensor([0.0, 0.5])).exp()
        tensor([0.1353, 0.5000])
    """

    blocks: ClassVar[tuple[Block, ...]] = ()
    counts: ClassVar[tuple[int, ...]] = ()
    """How many parameters each block's family has."""

    def __init__(self, *parameters: Tensor) -> None:
        if len(parameters) != sum(self.counts) or not parameters:
            raise ValueError(f"expected {sum(self.counts)} parameters, of {self._named()}; got {len(parameters)}")
        self._parameters = parameters
        parts, start = [], 0
        for block, count in zip(self.blocks, self.counts, strict=True):
            parts.append(block.family(*parameters[start : start + count]))
            start += count
        self.parts: tuple[FactorisedDistribution, ...] = tuple(parts)
        Distribution.__init__(self, parts[0].batch_shape, Size([self.blocks[-1].columns.stop]), validate_args=False)

    @staticmethod
    def of(*blocks: tuple[type[FactorisedDistribution], int]) -> "type[ByColumn]":
        """The class of vectors made of these blocks.

        Arguments:
            blocks: A family and its number of columns, for each block.

        Raises:
            ValueError: No block, or one of no column.
        """
        if not blocks or any(size < 1 for _, size in blocks):
            raise ValueError(f"expected blocks of at least one column; got sizes {[size for _, size in blocks]}")
        return _made_of(*blocks)

    @classmethod
    def output_size(cls, dim: int) -> int:
        """How many numbers a network puts out for a vector of that size.

        Raises:
            ValueError: The blocks have another number of columns.
        """
        own = cls.blocks[-1].columns.stop
        if dim != own:
            raise ValueError(f"the observation model has {own} columns, {cls._named()}; the data have {dim}")
        return sum(block.family.output_size(block.size) for block in cls.blocks)

    @classmethod
    def from_output(cls: type[Family], output: Float[Tensor, "*batch outputs"]) -> Family:
        """The distribution whose parameters are a network's output: that of the first block, then of the second..."""
        blocks: tuple[Block, ...] = cls.blocks  # type: ignore[attr-defined]
        sizes = [block.family.output_size(block.size) for block in blocks]
        parts = [block.family.from_output(o) for block, o in zip(blocks, output.split(sizes, -1), strict=True)]
        return cls(*(parameter for part in parts for parameter in part.parameters))

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """The parameters of all blocks, in order."""
        return self._parameters

    @property
    def mean(self) -> Tensor:
        """The mean vector."""
        return torch.cat([part.mean for part in self.parts], -1)

    @property
    def variance(self) -> Tensor:
        """The variance of each entry."""
        return torch.cat([part.variance for part in self.parts], -1)

    def log_prob_per_dim(self, value: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """Log-density of each entry, in nats."""
        parts = zip(self.blocks, self.parts, strict=True)
        return torch.cat([part.log_prob_per_dim(value[..., block.columns]) for block, part in parts], -1)

    def entropy_per_dim(self) -> Tensor:
        """Entropy of each entry, in nats, where every family has a closed form."""
        return torch.cat([part.entropy_per_dim() for part in self.parts], -1)

    def kl_per_dim(self, other: Distribution) -> Float[Tensor, "*batch dim"]:
        """KL divergence of each entry from other parameters of the same families, in nats."""
        if not isinstance(other, ByColumn) or other.blocks != self.blocks:
            return super().kl_per_dim(other)
        return torch.cat([p.kl_per_dim(q) for p, q in zip(self.parts, other.parts, strict=True)], -1)

    def rsample(self, sample_shape: Sequence[int] = (), *, generator: Generator | None = None) -> Tensor:
        """A reparameterised sample, where every family has one."""
        return torch.cat([part.rsample(sample_shape, generator=generator) for part in self.parts], -1)

    def sample(self, sample_shape: Sequence[int] = (), *, generator: Generator | None = None) -> Tensor:
        """A sample through which no gradient flows."""
        return torch.cat([part.sample(sample_shape, generator=generator) for part in self.parts], -1)

    @classmethod
    def _named(cls) -> str:
        return ", ".join(f"{block.family.__name__} of {block.size}" for block in cls.blocks) or "no block"


@cache
def _made_of(*blocks: tuple[type[FactorisedDistribution], int]) -> type[ByColumn]:
    placed, start = [], 0
    for family, size in blocks:
        placed.append(Block(slice(start, start + size), family))
        start += size
    # A family's own reading of an output says how many parameters it has: not always as many as numbers an entry.
    outputs = [torch.zeros(family.output_size(size)) for family, size in blocks]
    attributes = {
        "blocks": tuple(placed),
        "counts": tuple(len(f.from_output(o).parameters) for (f, _), o in zip(blocks, outputs, strict=True)),
        "has_rsample": all(family.has_rsample for family, _ in blocks),
        "entries_apart": all(family.entries_apart for family, _ in blocks),
        "__doc__": ByColumn.__doc__,
        "__module__": ByColumn.__module__,
    }
    return type("ByColumn", (ByColumn,), attributes)
