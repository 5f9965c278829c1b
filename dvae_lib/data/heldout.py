"""Which recordings a model has seen: marks that are kept with it, and the recordings of other data that bear them.

A split by a seed keeps training and test apart within one set of data. It no longer does once sequences have been
added, or files renamed, and the split is drawn anew. The marks do: they depend on a recording's values alone.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from dvae_lib.data.sequences import SequenceDataset

__all__ = ["marks", "same_marks", "seen_before"]

Mark = tuple[float, float, float]

# Relative to values of about 1: the data as the model sees them. Another machine may round differently.
_TOLERANCE = 1e-4


def marks(*parts: SequenceDataset) -> list[Mark]:
    """A few numbers for the start of each recording: those of two different recordings practically never agree.

    Arguments:
        parts: Sequences as the model sees them (standardised, if they are), cut or whole. Of a recording that was cut
            the first piece alone counts.

    Returns:
        One mark for each recording, in order: its mean, its mean magnitude, and its mean weighted by a ramp over time.
        And dimensions.
    """
    found: list[Mark] = []
    for part in parts:
        length = part.sequence_length
        for i, name in enumerate(part.names):
            if length is None or name.endswith(f"[0:{length}]"):
                found.append(_mark(part[i]))
    return found


def same_marks(one: Sequence[Sequence[float]], other: Sequence[Sequence[float]]) -> bool:
    """Whether two lists are of the same recordings in the same order."""
    return len(one) == len(other) and not bool(_differ(_table(one), _table(other)).any())


def seen_before(data: SequenceDataset, seen: Sequence[Sequence[float]], length: int | None) -> list[bool]:
    """For each recording, whether it bears one of the marks.

    Arguments:
        data: Whole recordings, as the model sees them.
        seen: What `marks` gave for the data that the model was trained with.
        length: ``sequence_length`` of these data.
    """
    known = _table(seen)
    return [not bool(_differ(_table([_mark(data[i][:length])]), known).all()) for i in range(len(data))]


def _table(found: Sequence[Sequence[float]]) -> Tensor:
    return torch.tensor(found, dtype=torch.float64).view(-1, 3)


def _differ(one: Tensor, other: Tensor) -> Tensor:
    """Row by row, whether marks differ."""
    return ((one - other).abs() > _TOLERANCE * (1 + other.abs())).any(dim=1)


def _mark(x: Tensor) -> Mark:
    x = x.double().nan_to_num(0.0)  # NaN is a missing value
    ramp = torch.linspace(0.5, 1.5, x.shape[0], dtype=x.dtype)[:, None] * torch.linspace(1, 2, x.shape[1]).to(x)
    numbers = (x.mean(), x.abs().mean(), (x * ramp).mean())
    return tuple(float(f"{value.item():.7g}") for value in numbers)  # type: ignore[return-value]
