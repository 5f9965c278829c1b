"""A long recording as overlapping pieces, and the pieces as one recording again."""

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["Cut", "cross_faded", "cuts", "weights"]

Cut: TypeAlias = tuple[int, int]
"""Where a piece begins, and where it has ended."""


def cuts(length: int, longest: int, overlap: int) -> list[Cut]:
    """Where to cut: equally long pieces, as few as can be, so that there is no short one at the end.

    Arguments:
        length: Of the recording, in samples or frames.
        longest: No piece is longer.
        overlap: So much two neighbours have in common, at least; at most a quarter of `longest`.

    Example:
        >>> cuts(100, 40, 10)
        [(0, 40), (30, 70), (60, 100)]
        >>> cuts(30, 40, 10)
        [(0, 30)]
    """
    if not 0 < 4 * overlap <= longest:  # or a piece might meet the one after the next
        raise ValueError(f"a piece of {longest:,} must be at least four times as long as the overlap, {overlap:,}")
    if length <= longest:
        return [(0, length)]
    number = math.ceil((length - overlap) / (longest - overlap))
    each = math.ceil((length + (number - 1) * overlap) / number)
    starts = [i * (length - each) // (number - 1) for i in range(number)]
    return [(start, start + each) for start in starts]


def weights(places: Sequence[Cut]) -> list[Float[Tensor, " _"]]:
    r"""How much each element of each piece counts, so that those that two pieces have in common count once.

    Over the overlap the later piece's weight rises as :math:`\sin^2`, from 0 to 1, and the earlier one's falls.
    """
    found = [torch.ones(stop - start, dtype=torch.float64, device="cpu") for start, stop in places]
    for (earlier, later), ((_, stop), (start, _)) in zip(pairwise(found), pairwise(places), strict=True):
        rising = _rising(stop - start)
        earlier[len(earlier) - len(rising) :] = 1 - rising
        later[: len(rising)] = rising
    return found


def _rising(length: int) -> Tensor:
    return (math.pi / 2 * (torch.arange(length, dtype=torch.float64, device="cpu") + 0.5) / length).sin().square()


def cross_faded(
    pieces: Iterable[Float[Tensor, "*channels samples"]], places: Sequence[Cut]
) -> Iterator[Float[Tensor, "*channels joined_samples"]]:
    """The recording, part by part; where two pieces overlap, one gives way to the other as their `weights` say.

    Both are estimates of one signal. At its end, where a piece knows least about what is around it, it hardly counts.

    Arguments:
        pieces: One for each cut.
        places: See `cuts`.
    """
    overlaps = [stop - start for (_, stop), (start, _) in pairwise(places)]
    tail: Tensor | None = None
    for piece, ahead in zip(pieces, [*overlaps, 0], strict=True):
        if tail is not None:
            n = tail.shape[-1]
            yield tail + _rising(n).to(piece) * (piece[..., :n] - tail)
            piece = piece[..., n:]
        # A copy, so that what is kept does not keep the whole piece.
        tail = piece[..., piece.shape[-1] - ahead :].clone() if ahead else None
        yield piece[..., : piece.shape[-1] - ahead]
