"""Sequences as people hand them over: made a list of tensors, or refused with the name of what is wrong."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from dvae_lib.arrays import as_tensor

__all__ = ["ArrayLike", "checked_clips", "one_by_one"]


ArrayLike = NDArray[Any] | Tensor | Any
"""An array of numbers of any kind that `dvae_lib.arrays.as_tensor` takes, a DataFrame among them."""


def one_by_one(arrays: Iterable[ArrayLike] | ArrayLike, single: str) -> list[ArrayLike]:
    """The sequences as a list; one array of them all is (N, T, dim), and one sequence alone is refused."""
    if isinstance(arrays, list | tuple) or not hasattr(arrays, "shape"):
        if isinstance(arrays, str | bytes | dict) or not (
            hasattr(arrays, "__iter__") or hasattr(arrays, "__getitem__")
        ):
            cure = ""
            if isinstance(arrays, dict):
                cure = ": the arrays of a dictionary d are list(d.values()), their names list(d)"
            elif isinstance(arrays, str) or hasattr(arrays, "__fspath__"):
                cure = ": files are read by dvae_lib.data.load(path), folders of CSV files by from_csv_folder"
            raise TypeError(
                f"Expected a list of arrays of shape (frames, dimensions), got {type(arrays).__name__}{cure}"
            )
        return list(arrays)
    if len(arrays.shape) == 1 and str(getattr(arrays, "dtype", "")) == "object":  # arrays of different lengths
        return list(arrays)
    if len(arrays.shape) < 3:
        raise ValueError(
            f"An array of shape {tuple(arrays.shape)} is no list of sequences; expected arrays (frames, dimensions) in "
            f"a list, or one array (sequences, frames, dimensions). One sequence x alone: {single}"
        )
    return list(as_tensor(arrays, "The array"))


def checked_clips(
    arrays: Iterable[ArrayLike], names: Sequence[str], what: str, dtype: torch.dtype, *, missing: bool = False
) -> list[Tensor]:
    """The arrays as tensors of shape (T_i, dim) that can be rounded to dtype, or an error that names one at fault.

    NaN is let in, and given for what is masked, where it is said to stand for a missing value.
    """
    arrays = list(arrays)
    if not arrays:
        raise ValueError(f"Expected at least one {what}, got none")
    if len(arrays) != len(names):
        raise ValueError(f"Expected one {what} each for {len(names)} sequences, got {len(arrays)}")
    clips: list[Tensor] = []
    for name, array in zip(names, arrays, strict=True):
        label = f"{what.capitalize()} {name}"
        clip = as_tensor(array, label, masked="nan" if missing else "refuse").detach()
        if clip.is_complex():
            raise TypeError(f"{label} is complex; models take real numbers, such as its power")
        if clip.ndim != 2 or 0 in clip.shape:
            column = "x.to_frame()" if hasattr(array, "to_frame") else "x[:, None]"
            hint = f" A scalar series x becomes one by {column}." if clip.ndim == 1 else ""
            raise ValueError(
                f"{label} has shape {tuple(clip.shape)}; expected (frames, dimensions), neither of them empty.{hint}"
            )
        if clips and clip.shape[1] != clips[0].shape[1]:
            raise ValueError(
                f"{label} has {clip.shape[1]} dimensions, {names[0]} has {clips[0].shape[1]}; all must have the same"
            )
        advice = "Fill in or drop these frames before training"
        if what == "sequence" and not bool(clip.isinf().any()):
            advice += "; or say missing=True (on the command line --missing), for a model of what was observed"
        advice += "."
        _refuse_non_finite(clip, clip, label, advice, missing)
        too_large = f"{dtype} does not hold it: rescale, or dtype=torch.float64."
        _refuse_non_finite(clip.to(dtype), clip, label, too_large, missing)
        clips.append(clip)
    return clips


def _refuse_non_finite(values: Tensor, clip: Tensor, label: str, advice: str, missing: bool) -> None:
    finite = torch.isfinite(values)
    if missing:
        finite |= clip.isnan()
    if bool(finite.all()):
        return
    frame, dim = (~finite).nonzero()[0].tolist()
    value = clip[frame, dim].item()
    what = "is not finite:" if values is clip else "is too large:"
    note = " NaN stands for a missing value." if value != value else ""
    count = int((~finite).sum())
    raise ValueError(f"{label} {what} {value} at frame {frame}, dimension {dim} ({count} such values).{note} {advice}")
