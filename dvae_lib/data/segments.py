"""Segments: sequences cut into pieces of equal length, each taken as one long vector, and back."""

from jaxtyping import Float
from torch import Tensor

__all__ = ["cut_into_segments", "join_segments"]


def cut_into_segments(x: Float[Tensor, "*batch time x_dim"], frames: int) -> Float[Tensor, "*batch segments _"]:
    r"""Cut sequences into segments of so many frames, each a vector of all its frames, one after the other.

    What is left at the end, less than a segment, is left out.

    Arguments:
        x: A sequence, or several of equal length.
        frames: Number of frames of a segment.

    Returns:
        Of each sequence ``time // frames`` vectors of size ``frames * x_dim``.

    Raises:
        ValueError: The sequences are shorter than a segment, or the number of frames is below 1.

    Example:
        >>> import torch
        >>> cut_into_segments(torch.arange(7.0)[:, None], 3)
        tensor([[0., 1., 2.],
                [3., 4., 5.]])
    """
    _check(frames)
    segments = x.shape[-2] // frames
    if segments == 0:
        raise ValueError(
            f"a segment has {frames} frames, and the sequence has {x.shape[-2]}: leave it out, or cut shorter segments"
        )
    cut: Tensor = x[..., : segments * frames, :].unflatten(-2, (segments, frames)).flatten(-2)
    return cut


def join_segments(x: Float[Tensor, "*batch segments _"], frames: int) -> Float[Tensor, "*batch time x_dim"]:
    """The sequences of frames that `cut_into_segments` had cut.

    Arguments:
        x: The segments, as vectors.
        frames: Number of frames of a segment.

    Raises:
        ValueError: The vectors' size is no multiple of the number of frames, or this is below 1.

    Example:
        >>> import torch
        >>> join_segments(torch.tensor([[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]), 3).squeeze(1)
        tensor([0., 1., 2., 3., 4., 5.])
    """
    _check(frames)
    if x.shape[-1] % frames:
        raise ValueError(f"a segment's vector must be a multiple of its {frames} frames long; got {x.shape[-1]}")
    joined: Tensor = x.unflatten(-1, (frames, -1)).flatten(-3, -2)
    return joined


def _check(frames: int) -> None:
    if isinstance(frames, bool) or not isinstance(frames, int) or frames < 1:
        raise ValueError(f"frames must be an integer of at least 1; got {frames!r}")
