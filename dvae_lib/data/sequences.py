"""Sequences of vectors, cut, padded, standardised and split: what every model here is trained on."""

import hashlib
import logging
import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset
from torch.utils.data._utils.collate import default_collate_fn_map

from dvae_lib.arrays import as_tensor
from dvae_lib.data.tables import read_csv_folder
from dvae_lib.devices import on_the_host

__all__ = [
    "Batch",
    "SequenceDataset",
    "Splits",
    "Standardizer",
    "TwoParts",
    "from_arrays",
    "from_csv_folder",
    "identity",
    "split_by_group",
]

logger = logging.getLogger("dvae_lib.data")

ArrayLike = NDArray[Any] | Tensor | Any
"""An array of numbers of any kind that `dvae_lib.arrays.as_tensor` takes, a DataFrame among them."""


class Batch(NamedTuple):
    """Some sequences of vectors, side by side.

    Attributes:
        x: the observed sequences, (B, T, x_dim); zero on the frames that only fill up.
        lengths: frames of each sequence, (B,) of int64, or None where every sequence has all T frames.
        u: the inputs that drive the sequences, (B, T, u_dim), or None.
    """

    x: Tensor
    lengths: Tensor | None = None
    u: Tensor | None = None

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "Batch":
        """The same batch on another device."""
        moved = (None if t is None else t.to(device, non_blocking=non_blocking) for t in self)
        return Batch(*moved)  # type: ignore[arg-type]


def identity(made: list[Batch], **_: Any) -> Batch:
    """What a ``DataLoader`` does by default with what `SequenceDataset` gives it: the batch has been made already."""
    (batch,) = made
    return batch


# torch's own way to say how a type is put together: without it, a loader would stack the parts of the batch.
default_collate_fn_map[Batch] = identity


@dataclass(frozen=True)
class Standardizer:
    r"""Zero mean and unit variance for each dimension, :math:`(x - \mu) / \sigma`, learned on training data.

    A dimension that never changes keeps its scale (:math:`\sigma = 1`), so nothing is divided by zero.

    Attributes:
        mean: (x_dim,), float64.
        scale: (x_dim,), float64, positive.

    Examples:
        >>> standardizer = Standardizer.fit([torch.tensor([[1.0, 5.0], [3.0, 5.0]])])
        >>> standardizer.transform(torch.tensor([[3.0, 5.0]]))
        tensor([[1., 0.]])
    """

    mean: Tensor
    scale: Tensor

    def __post_init__(self) -> None:
        if self.mean.ndim != 1 or self.mean.shape != self.scale.shape:
            raise ValueError(
                "mean and scale are vectors of the same size, "
                f"not of shapes {tuple(self.mean.shape)} and {tuple(self.scale.shape)}."
            )
        if not (torch.isfinite(self.mean).all() and torch.isfinite(self.scale).all() and (self.scale > 0).all()):
            raise ValueError("mean and scale must be finite, and scale positive.")

    @classmethod
    @on_the_host()
    def fit(cls, train: "SequenceDataset | Iterable[ArrayLike]") -> "Standardizer":
        """Mean and standard deviation over all frames of the training sequences.

        Arguments:
            train: a dataset (the frames that its sequences hold count, before any standardisation of its own)
                or sequences of shape (T_i, x_dim).

        Returns:
            The standardiser, in float64.
        """
        clips = train._raw_sequences() if isinstance(train, SequenceDataset) else map(as_tensor, train)
        count, mean, sum_of_squares = 0, torch.zeros(()), torch.zeros(())
        for clip in clips:  # Chan's pairwise update: no cancellation, one pass, no copy of the whole
            clip = clip.to("cpu", torch.float64)
            n, clip_mean = len(clip), clip.mean(0)
            delta = clip_mean - mean
            sum_of_squares = sum_of_squares + (clip - clip_mean).square().sum(0) + delta**2 * count * n / (count + n)
            mean = mean + delta * n / (count + n)
            count += n
        if count == 0:
            raise ValueError("A standardiser needs at least one frame to learn from, and there is none.")
        scale = (sum_of_squares / count).sqrt()
        # What is left of a constant dimension is rounding error, which must not be blown up to unit variance.
        constant = scale <= 1e-12 * mean.abs().clamp(min=1e-300)
        return cls(mean, torch.where(constant, torch.ones_like(scale), scale))

    def transform(self, x: Tensor) -> Tensor:
        """Standardised x, of the same shape (..., x_dim), dtype and device."""
        return (x - self.mean.to(x)) / self.scale.to(x)

    def transform_in_two(self, x: Tensor, rest: Tensor) -> Tensor:
        """Standardised x + rest, where rest is what rounding took from x: computed in the precision of rest."""
        mean = self.mean.to(rest.dtype)
        mean_rest = (self.mean - mean.to(self.mean.dtype)).to(rest.dtype)
        # x and the mean are near each other, so that their difference is exact.
        centred = (x.to(rest.dtype) - mean.to(x.device)) + (rest - mean_rest.to(x.device))
        return (centred / self.scale.to(rest)).to(x.dtype)

    def inverse(self, x: Tensor) -> Tensor:
        """Back from standardised x to the data's own units.

        The result has the precision of x. Where the mean is large against the scale (coordinates, times), ask for more:
        ``inverse(x.double())``.
        """
        return x * self.scale.to(x) + self.mean.to(x)

    def to_dict(self) -> dict[str, list[float]]:
        """The two vectors as lists, ready for JSON; :meth:`from_dict` restores them bit for bit."""
        return {"mean": self.mean.tolist(), "scale": self.scale.tolist()}

    @classmethod
    @on_the_host()
    def from_dict(cls, state: dict[str, list[float]]) -> "Standardizer":
        """The standardiser that :meth:`to_dict` wrote."""
        if set(state) != {"mean", "scale"}:
            raise ValueError(f"A standardiser has the keys 'mean' and 'scale', not {sorted(state)}.")
        return cls(*(torch.tensor(state[key], dtype=torch.float64) for key in ("mean", "scale")))


class SequenceDataset(Dataset[Tensor]):
    """Sequences of vectors in one block of frames, of which a batch is one gather.

    All frames stand one after the other in one tensor, which may be a memory map or live on a GPU
    (:meth:`to`). A batch of sequences is a single indexing operation, whatever its size, so a
    ``DataLoader`` costs next to nothing::

        loader = DataLoader(dataset, batch_size=128, shuffle=True)

    Data of a higher precision than `dtype` are standardised before they are rounded: where rounding alone would cost
    digits of a standardised value, what it takes away is kept beside the frames.

    Arguments:
        sequences: arrays, tensors or DataFrames of shape (T_i, x_dim). T_i may differ, x_dim may not.
        inputs: driving inputs of shape (T_i, u_dim), one for each sequence.
        names: one name for each sequence, used in messages and in :attr:`names`.
        sequence_length: cut every sequence into pieces of that many frames. What remains at the end is left
            out. A sequence with fewer frames is skipped, counted in :attr:`skipped` and reported in the log.
            None keeps sequences whole.
        hop: frames from the start of one piece to the start of the next; by default ``sequence_length``.
        min_length: skip sequences with fewer frames, in the same way; by default ``sequence_length``, or 1.
        standardizer: applied to x whenever it is read.
        input_standardizer: applied to the inputs, likewise.
        dtype: of what is returned; by default torch's default.
        report_skipped: say in the log how many sequences were too short.

    Raises:
        ValueError: on NaN or infinity (naming sequence, frame and dimension), wrong shapes, no sequence at
            all, or none that is long enough.
        TypeError: on data that are not real numbers.

    Examples:
        >>> dataset = SequenceDataset([torch.ones(3, 2), torch.ones(5, 2)])
        >>> dataset.batch([0, 1]).lengths
        tensor([3, 5])
        >>> SequenceDataset([torch.ones(3, 2), torch.ones(5, 2)], sequence_length=2).names
        ('0[0:2]', '1[0:2]', '1[2:4]')
    """

    @on_the_host()
    def __init__(
        self,
        sequences: Iterable[ArrayLike],
        inputs: Iterable[ArrayLike] | None = None,
        *,
        names: Sequence[str] | None = None,
        sequence_length: int | None = None,
        hop: int | None = None,
        min_length: int | None = None,
        standardizer: Standardizer | None = None,
        input_standardizer: Standardizer | None = None,
        dtype: torch.dtype | None = None,
        report_skipped: bool = True,
    ) -> None:
        dtype = torch.get_default_dtype() if dtype is None else dtype
        sequences = _one_by_one(sequences, "SequenceDataset([x])")
        names = [str(i) for i in range(len(sequences))] if names is None else list(map(str, names))
        if len(names) != len(sequences):
            raise ValueError(f"Each sequence has one name: {len(names)} names for {len(sequences)} sequences.")
        clips = _checked_clips(sequences, names, "sequence", dtype)
        drive = None
        if inputs is not None:
            drive = _checked_clips(_one_by_one(inputs, "[u]"), names, "input of sequence", dtype)
            for name, clip, u in zip(names, clips, drive, strict=True):
                if len(clip) != len(u):
                    raise ValueError(f"Sequence {name} has {len(clip)} frames, but its input has {len(u)}.")
        lengths = torch.tensor([len(clip) for clip in clips])
        self._frames, self._frames_rest = _rounded(clips, dtype)
        self._inputs: Tensor | None = None
        self._inputs_rest: Tensor | None = None
        if drive is not None:
            self._inputs, self._inputs_rest = _rounded(drive, dtype)
        self._index(
            lengths.cumsum(0) - lengths, lengths, names, sequence_length, hop, min_length, standardizer, report_skipped
        )
        if input_standardizer is not None and len(input_standardizer.mean) != self.u_dim:
            raise ValueError(
                f"The standardiser of the inputs is for {len(input_standardizer.mean)} dimensions, "
                f"the inputs have {self.u_dim}."
            )
        self.input_standardizer = input_standardizer

    @classmethod
    def from_frames(
        cls,
        frames: ArrayLike,
        starts: Sequence[int],
        lengths: Sequence[int],
        *,
        names: Sequence[str] | None = None,
        sequence_length: int | None = None,
        hop: int | None = None,
        min_length: int | None = None,
        standardizer: Standardizer | None = None,
        report_skipped: bool = True,
    ) -> "SequenceDataset":
        """A dataset over frames that already stand in one block, such as a memory map. Nothing is copied.

        The block is not searched for NaN, which would read all of it: whoever wrote it has.

        Arguments:
            frames: (N, x_dim), float32 or float64. A numpy memory map must be writable or copy-on-write
                (``mode="c"``), as torch cannot hold a read-only one.
            starts: first frame of each sequence.
            lengths: frames of each sequence.
            names: as in the constructor, and so are the others.
            sequence_length: see the constructor.
            hop: see the constructor.
            min_length: see the constructor.
            standardizer: see the constructor.
            report_skipped: see the constructor.
        """
        block = torch.as_tensor(frames)
        if block.ndim != 2 or not block.is_floating_point():
            raise ValueError(f"frames is (N, x_dim) of floats, not {tuple(block.shape)} of {block.dtype}.")
        first = torch.as_tensor(starts, dtype=torch.int64)
        count = torch.as_tensor(lengths, dtype=torch.int64)
        names = [str(i) for i in range(len(first))] if names is None else list(map(str, names))
        if not len(first) == len(count) == len(names):
            raise ValueError(f"{len(first)} starts, {len(count)} lengths and {len(names)} names do not match.")
        if len(first) and (int(first.min()) < 0 or int(count.min()) < 1 or int((first + count).max()) > len(block)):
            raise ValueError(f"Every sequence has a frame at least and lies within the {len(block)} frames given.")
        dataset = cls.__new__(cls)
        dataset._frames, dataset._inputs, dataset.input_standardizer = block, None, None
        dataset._frames_rest = dataset._inputs_rest = None
        dataset._index(first, count, names, sequence_length, hop, min_length, standardizer, report_skipped)
        return dataset

    def _index(
        self,
        starts: Tensor,
        lengths: Tensor,
        names: Sequence[str],
        sequence_length: int | None,
        hop: int | None,
        min_length: int | None,
        standardizer: Standardizer | None,
        report_skipped: bool,
    ) -> None:
        if sequence_length is None and hop is not None:
            raise ValueError("hop says where the next piece starts, so it needs a sequence_length.")
        hop = sequence_length if hop is None else hop
        if sequence_length is not None and (sequence_length < 1 or hop is None or hop < 1):
            raise ValueError(f"sequence_length and hop are at least 1, not {sequence_length} and {hop}.")
        if len(starts) == 0:
            raise ValueError("A dataset needs at least one sequence, and there is none.")
        if standardizer is not None and len(standardizer.mean) != self._frames.shape[1]:
            raise ValueError(
                f"The standardiser is for {len(standardizer.mean)} dimensions, the data have {self._frames.shape[1]}."
            )
        self.standardizer, self.sequence_length, self.hop = standardizer, sequence_length, hop
        self._clip_names = tuple(names)
        # A piece must fit, so less than sequence_length is never enough.
        shortest = max(1, min_length or 1, sequence_length or 1)
        if sequence_length is None or hop is None:
            pieces = torch.ones_like(lengths)
        else:
            pieces = (lengths - sequence_length).div(hop, rounding_mode="floor") + 1
        pieces = torch.where(lengths >= shortest, pieces, 0)
        short = (pieces == 0).tolist()
        self.skipped_names = tuple(name for name, is_short in zip(names, short, strict=True) if is_short)
        if len(self.skipped_names) == len(names):
            raise ValueError(
                f"No sequence has {shortest} frames; the longest of {len(names)} has {int(lengths.max())}. "
                "Ask for a smaller sequence_length or bring longer sequences."
            )
        if self.skipped_names and report_skipped:
            logger.warning(
                "Skipped %d of %d sequences with fewer than %d frames (first: %s).",
                *(len(self.skipped_names), len(names), shortest, self.skipped_names[0]),
            )
        self._clip = torch.arange(len(starts)).repeat_interleave(pieces)
        if sequence_length is None or hop is None:
            self._offsets, self._lengths = torch.zeros_like(self._clip), lengths[self._clip]
        else:
            first_piece = (pieces.cumsum(0) - pieces)[self._clip]
            self._offsets = (torch.arange(len(self._clip)) - first_piece) * hop
            self._lengths = torch.full_like(self._clip, sequence_length)
        self._starts = starts[self._clip] + self._offsets

    @property
    def x_dim(self) -> int:
        """Dimensions of an observed vector."""
        return self._frames.shape[1]

    @property
    def u_dim(self) -> int:
        """Dimensions of an input vector, 0 without inputs."""
        return 0 if self._inputs is None else self._inputs.shape[1]

    @property
    def lengths(self) -> Tensor:
        """Frames of each sequence, (N,)."""
        return self._lengths

    @property
    def num_frames(self) -> int:
        """Frames in all sequences together."""
        return int(self._lengths.sum())

    @property
    def skipped(self) -> int:
        """How many of the given sequences were too short, by ``sequence_length`` or ``min_length``."""
        return len(self.skipped_names)

    @property
    def names(self) -> tuple[str, ...]:
        """The name of each sequence; a piece of a longer one carries its frames, as in ``walk[50:100]``."""
        if self.sequence_length is None:
            return tuple(self._clip_names[clip] for clip in self._clip.tolist())
        return tuple(
            f"{self._clip_names[clip]}[{offset}:{offset + self.sequence_length}]"
            for clip, offset in zip(self._clip.tolist(), self._offsets.tolist(), strict=True)
        )

    def __len__(self) -> int:
        return len(self._starts)

    def __repr__(self) -> str:
        lengths = sorted({int(self._lengths.min()), int(self._lengths.max())})
        return (
            f"SequenceDataset({len(self)} sequences of {' to '.join(map(str, lengths))} frames, "
            f"x_dim={self.x_dim}, u_dim={self.u_dim}, skipped={self.skipped})"
        )

    def __getitem__(self, index: int) -> Tensor:
        """Sequence number ``index``, (T_i, x_dim)."""
        return self.batch([index]).x[0]

    def __getitems__(self, indices: list[int]) -> list[Batch]:
        """What a ``DataLoader`` asks for: a list, which holds the batch as a whole, made by one gather."""
        return [self.batch(indices)]

    @on_the_host()
    def batch(self, indices: Sequence[int] | Tensor) -> Batch:
        """Some sequences as one batch, padded with zeros to the longest.

        Arguments:
            indices: which ones; negative numbers count from the end.

        Returns:
            The batch; its ``lengths`` is None where all its sequences have the same length.
        """
        which = torch.as_tensor(indices, dtype=torch.int64, device="cpu").flatten()
        if len(which) == 0:
            raise ValueError("A batch needs at least one index.")
        if int(which.min()) < -len(self) or int(which.max()) >= len(self):
            raise IndexError(f"Indices {which.tolist()} reach beyond the {len(self)} sequences.")
        which = which % len(self)
        lengths, starts = self._lengths[which], self._starts[which]
        longest = int(lengths.max())
        steps = torch.arange(longest)
        inside = steps < lengths[:, None]  # (B, T)
        equal = bool(inside.all())
        rows = (starts[:, None] + steps)[inside].to(self._frames.device)  # every frame wanted, in order

        def gather(block: Tensor, rest: Tensor | None, standardizer: Standardizer | None) -> Tensor:
            frames = block.index_select(0, rows)
            if standardizer is not None and rest is not None:
                frames = standardizer.transform_in_two(frames, rest.index_select(0, rows))
            elif standardizer is not None:
                frames = standardizer.transform(frames)
            if equal:
                return frames.view(len(which), longest, -1)
            padded = frames.new_zeros(len(which), longest, frames.shape[1])
            padded[inside.to(padded.device)] = frames
            return padded

        x = gather(self._frames, self._frames_rest, self.standardizer)
        u = None if self._inputs is None else gather(self._inputs, self._inputs_rest, self.input_standardizer)
        return Batch(x, None if equal else lengths.to(rows.device), u)

    def select(self, indices: Sequence[int]) -> "SequenceDataset":
        """Some of the sequences, in the order given. Nothing is copied."""
        which = torch.as_tensor(list(indices), dtype=torch.int64)
        if len(which) == 0 or int(which.min()) < 0 or int(which.max()) >= len(self):
            raise ValueError(f"Indices lie between 0 and {len(self) - 1}, and there is one at least; got {indices}.")
        chosen = type(self).__new__(type(self))
        chosen.__dict__.update(self.__dict__)
        for name in ("_clip", "_offsets", "_lengths", "_starts"):
            setattr(chosen, name, getattr(self, name)[which])
        return chosen

    def to(self, device: torch.device | str) -> "SequenceDataset":
        """The same dataset with its frames on another device, where batches are then made without a copy.

        Worth it on a GPU whose memory holds all frames (4 bytes a value).
        """
        moved = type(self).__new__(type(self))
        moved.__dict__.update(self.__dict__)
        for name in ("_frames", "_frames_rest", "_inputs", "_inputs_rest"):
            block = getattr(self, name)
            setattr(moved, name, None if block is None else block.to(device))
        return moved

    def first_outside(self, low: float, high: float, *, whole: bool = False) -> tuple[str, int, int, float] | None:
        """Where the observed values, as a model gets them, first leave an interval.

        Arguments:
            low: the smallest value that is inside.
            high: the largest one.
            whole: whether only whole numbers are inside.

        Returns:
            Name of the sequence, frame, dimension and value; None where all are inside.
        """
        found = []
        for rows in range(0, len(self._frames), _BLOCK):  # all frames at once, those that no sequence has as well
            x = self._frames[rows : rows + _BLOCK]
            x = x if self.standardizer is None else self.standardizer.transform(x)
            found.append(torch.stack([x.amin(), x.amax(), (x - x.round()).abs().amax() if whole else x.new_zeros(())]))
        least, _, _ = torch.stack(found).amin(0).tolist()
        _, largest, fraction = torch.stack(found).amax(0).tolist()
        if low <= least and largest <= high and math.isfinite(largest - least) and fraction == 0:
            return None
        for i, name in enumerate(self.names):
            x = self[i]
            outside = ~((x >= low) & (x <= high) & torch.isfinite(x))
            if whole:
                outside |= x != x.round()
            if bool(outside.any()):
                frame, dim = outside.nonzero()[0].tolist()
                return name, frame, dim, float(x[frame, dim])
        return None

    def _raw_sequences(self) -> Iterable[Tensor]:
        return self._raw(self._frames, self._frames_rest)

    def _raw_inputs(self) -> Iterable[Tensor]:
        return () if self._inputs is None else self._raw(self._inputs, self._inputs_rest)

    def _raw(self, block: Tensor, rest: Tensor | None) -> Iterable[Tensor]:
        for start, length in zip(self._starts.tolist(), self._lengths.tolist(), strict=True):
            rows = slice(start, start + length)
            yield block[rows] if rest is None else block[rows].to("cpu", torch.float64) + rest[rows].to("cpu")


# Frames that are looked at together.
_BLOCK = 16_384


def _one_by_one(arrays: Iterable[ArrayLike] | ArrayLike, single: str) -> list[ArrayLike]:
    """The sequences as a list; one array of them all is (N, T, dim), and one sequence alone is refused."""
    if isinstance(arrays, list | tuple) or not hasattr(arrays, "shape"):
        if isinstance(arrays, str | bytes | dict):
            raise TypeError(
                f"Expected a list of arrays of shape (frames, dimensions), got {type(arrays).__name__}: "
                "the arrays of a dictionary d are list(d.values()), their names list(d)."
            )
        return list(arrays)
    if len(arrays.shape) < 3:
        raise ValueError(
            f"An array of shape {tuple(arrays.shape)} is no list of sequences; expected arrays (frames, dimensions) in "
            f"a list, or one array (sequences, frames, dimensions). One sequence x alone: {single}."
        )
    return list(as_tensor(arrays, "The array"))


def _checked_clips(arrays: Iterable[ArrayLike], names: Sequence[str], what: str, dtype: torch.dtype) -> list[Tensor]:
    """The arrays as tensors of shape (T_i, dim) that can be rounded to dtype, or an error that names one at fault."""
    arrays = list(arrays)
    if not arrays:
        raise ValueError(f"Expected at least one {what}, got none.")
    if len(arrays) != len(names):
        raise ValueError(f"Expected one {what} each for {len(names)} sequences, got {len(arrays)}.")
    clips: list[Tensor] = []
    for name, array in zip(names, arrays, strict=True):
        label = f"{what.capitalize()} {name}"
        clip = as_tensor(array, label).detach()
        if clip.is_complex():
            raise TypeError(f"{label} is complex; models take real numbers, such as its power.")
        if clip.ndim != 2 or 0 in clip.shape:
            column = "x.to_frame()" if hasattr(array, "to_frame") else "x[:, None]"
            hint = f" A scalar series x becomes one by {column}." if clip.ndim == 1 else ""
            raise ValueError(
                f"{label} has shape {tuple(clip.shape)}; expected (frames, dimensions), neither of them empty.{hint}"
            )
        if clips and clip.shape[1] != clips[0].shape[1]:
            raise ValueError(
                f"{label} has {clip.shape[1]} dimensions, {names[0]} has {clips[0].shape[1]}; all must have the same."
            )
        _refuse_non_finite(clip, clip, label, "Fill in or drop these frames before training.")
        _refuse_non_finite(clip.to(dtype), clip, label, f"{dtype} does not hold it: rescale, or dtype=torch.float64.")
        clips.append(clip)
    return clips


def _refuse_non_finite(values: Tensor, clip: Tensor, label: str, advice: str) -> None:
    finite = torch.isfinite(values)
    if bool(finite.all()):
        return
    frame, dim = (~finite).nonzero()[0].tolist()
    value = clip[frame, dim].item()
    what = "is not finite:" if values is clip else "is too large:"
    missing = " NaN stands for a missing value." if value != value else ""
    count = int((~finite).sum())
    raise ValueError(
        f"{label} {what} {value} at frame {frame}, dimension {dim} ({count} such values).{missing} {advice}"
    )


def _rounded(clips: list[Tensor], dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """All frames in dtype, and what rounding took from them where that would be seen in standardised values."""
    rounded = [clip.to(dtype) for clip in clips]
    frames = rounded[0] if len(rounded) == 1 else torch.cat(rounded)
    pairs = [(c.to("cpu", torch.float64), r) for c, r in zip(clips, rounded, strict=True) if c.dtype != dtype]
    lost = [exact - r.to("cpu", torch.float64) for exact, r in pairs]
    if not any(bool(rest.any()) for rest in lost):
        return frames, None
    largest = torch.stack([rest.abs().amax(0) for rest in lost]).amax(0)
    # Values of some standard deviations are rounded by some eps of one: what is far beyond that, an offset has cost.
    if not bool((largest > 10 * torch.finfo(dtype).eps * Standardizer.fit(clips).scale).any()):
        return frames, None
    exact_frames = torch.cat([clip.to(frames.device, torch.float64) for clip in clips])
    return frames, (exact_frames - frames.to(torch.float64)).to(torch.promote_types(dtype, torch.float32))


def split_by_group(
    groups: Sequence[Hashable], fractions: Sequence[float] = (0.8, 0.1, 0.1), *, seed: int = 0
) -> tuple[list[int], ...]:
    """Split items so that all items of a group (a speaker, a subject, a song) stand in one part.

    Groups are put in the order of a hash of seed and name, then handed out so that each part comes as near as
    whole groups allow to its fraction of the *items*; each part gets one group at least. The result depends
    on nothing else: not on the order of the items, the platform or a library's random numbers.

    Arguments:
        groups: the group of each item.
        fractions: the share of each part, positive, adding up to 1.
        seed: another number gives another split.

    Returns:
        For each part the indices of its items, ascending.

    Raises:
        ValueError: if there are fewer groups than parts.

    Examples:
        >>> train, test = split_by_group(["ann", "bob", "ann", "cy", "cy"], (0.6, 0.4), seed=1)
        >>> sorted(train + test)
        [0, 1, 2, 3, 4]
    """
    shares = _shares(fractions)
    items: dict[str, list[int]] = {}
    for index, group in enumerate(groups):
        items.setdefault(str(group), []).append(index)
    if len(items) < len(shares):
        raise ValueError(
            f"{len(shares)} parts need {len(shares)} groups at least, and there are {len(items)}. "
            "Give more groups or fewer fractions, or cut every sequence in time: split='time'."
        )
    shuffled = sorted(items, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())
    parts: list[list[int]] = []
    taken = 0
    for part, bound in enumerate(np.cumsum(shares) * len(groups)):
        reserved = len(shares) - 1 - part  # groups that the parts to come need
        members: list[int] = []
        while len(shuffled) > reserved:
            size = len(items[shuffled[0]])
            nearer = abs(taken + size - bound) <= abs(taken - bound)
            if members and not nearer and part < len(shares) - 1:
                break
            members += items[shuffled.pop(0)]
            taken += size
        parts.append(sorted(members))
    return tuple(parts)


def _shares(fractions: Sequence[float]) -> NDArray[np.float64]:
    shares = np.asarray(fractions, dtype=float)
    if shares.ndim != 1 or not (shares > 0).all() or not np.isclose(shares.sum(), 1):
        raise ValueError(f"fractions are positive and add up to 1, not {tuple(fractions)}.")
    return shares


class Splits(NamedTuple):
    """Training, validation and test part of one collection of sequences."""

    train: SequenceDataset
    validation: SequenceDataset
    test: SequenceDataset


class TwoParts(NamedTuple):
    """Training and validation part of one collection of sequences."""

    train: SequenceDataset
    validation: SequenceDataset


_Two = tuple[float, float]
_Three = tuple[float, float, float]


@overload
def from_arrays(
    arrays: Iterable[ArrayLike] | ArrayLike,
    inputs: Iterable[ArrayLike] | ArrayLike | None = None,
    *,
    names: Sequence[str] | None = ...,
    groups: Sequence[Hashable] | None = ...,
    split: Literal["group", "time"] = ...,
    fractions: _Three = ...,
    seed: int = ...,
    sequence_length: int | None = ...,
    hop: int | None = ...,
    standardize: bool = ...,
    standardize_inputs: bool = ...,
    dtype: torch.dtype | None = ...,
) -> Splits: ...


@overload
def from_arrays(
    arrays: Iterable[ArrayLike] | ArrayLike,
    inputs: Iterable[ArrayLike] | ArrayLike | None = None,
    *,
    names: Sequence[str] | None = ...,
    groups: Sequence[Hashable] | None = ...,
    split: Literal["group", "time"] = ...,
    fractions: _Two,
    seed: int = ...,
    sequence_length: int | None = ...,
    hop: int | None = ...,
    standardize: bool = ...,
    standardize_inputs: bool = ...,
    dtype: torch.dtype | None = ...,
) -> TwoParts: ...


@on_the_host()
def from_arrays(
    arrays: Iterable[ArrayLike] | ArrayLike,
    inputs: Iterable[ArrayLike] | ArrayLike | None = None,
    *,
    names: Sequence[str] | None = None,
    groups: Sequence[Hashable] | None = None,
    split: Literal["group", "time"] = "group",
    fractions: _Two | _Three = (0.8, 0.1, 0.1),
    seed: int = 0,
    sequence_length: int | None = None,
    hop: int | None = None,
    standardize: bool = True,
    standardize_inputs: bool = True,
    dtype: torch.dtype | None = None,
) -> Splits | TwoParts:
    """Your own sequences, split, cut and standardised, ready to train on.

    The standardisers of the observed values and of the inputs are learned on the training part, and stand in each
    part's ``standardizer`` and ``input_standardizer``. Training and validation sequences are cut to
    ``sequence_length``; test sequences stay whole.

    Arguments:
        arrays: sequences of shape (T_i, x_dim), or one array of shape (N, T, x_dim).
        inputs: what drives them, of shape (T_i, u_dim), or None.
        names: one for each sequence.
        groups: the group of each sequence (a speaker, a day, a machine): no group is split over two parts.
            By default each sequence is its own group.
        split: "group" gives each part sequences of its own. "time" cuts every sequence in time, the first frames for
            training and the last for the last part; that is how forecasts are judged, and a single long series is
            split: ``from_arrays([x], split="time")``.
        fractions: shares of the three parts, or of two: training and validation. See :func:`split_by_group`.
        seed: of the split by group.
        sequence_length: frames of a training sequence; None keeps sequences whole.
        hop: frames between the starts of two training sequences; by default ``sequence_length``.
        standardize: False leaves the observed values as they are (counts, binary data, power spectra).
        standardize_inputs: False leaves the inputs as they are.
        dtype: of the data; by default torch's default.

    Returns:
        The parts.

    Examples:
        >>> generator = torch.Generator().manual_seed(0)
        >>> walks = [torch.randn(40 + i, 3, generator=generator).cumsum(0) for i in range(10)]
        >>> train, validation, test = from_arrays(walks, sequence_length=20)
        >>> len(train), len(validation), len(test), train.x_dim
        (16, 2, 1, 3)
        >>> train, validation = from_arrays(walks[:1], split="time", fractions=(0.75, 0.25))
        >>> train.names, validation.names
        (('0[0:30]',), ('0[30:40]',))
    """
    dtype = torch.get_default_dtype() if dtype is None else dtype
    clips = _one_by_one(arrays, 'from_arrays([x], split="time")')
    drive = None if inputs is None else _one_by_one(inputs, "[u]")
    labels = [str(i) for i in range(len(clips))] if names is None else list(names)
    for given, what in ((labels, "names"), (groups, "groups"), (drive, "inputs")):
        if given is not None and len(given) != len(clips):
            raise ValueError(f"{len(given)} {what} for {len(clips)} sequences; one each was expected.")
    # The door: shapes and NaN are checked on everything, so that messages carry the reader's own numbering.
    observed = _checked_clips(clips, labels, "sequence", dtype)
    driving = None if drive is None else _checked_clips(drive, labels, "input of sequence", dtype)
    everything = _Part(labels, observed, driving)
    if split == "time":
        if groups is not None:
            raise ValueError("groups go to one part each, which split='time' cannot do: leave one of the two out.")
        parts = _cut_in_time(everything, fractions)
    elif split == "group":
        by_group = range(len(clips)) if groups is None else list(groups)
        parts = [everything.take(part) for part in split_by_group(by_group, fractions, seed=seed)]
    else:
        raise ValueError(f"split is 'group' or 'time'; got {split!r}.")
    if len(parts) not in (2, 3):
        raise ValueError(f"fractions are those of two or three parts; got {tuple(fractions)}.")
    datasets: list[SequenceDataset] = []
    for number, part in enumerate(parts):
        cut = number < 2
        dataset = SequenceDataset(
            part.clips,
            part.drive,
            names=part.labels,
            sequence_length=sequence_length if cut else None,
            hop=hop if cut else None,
            dtype=dtype,
        )
        first = datasets[0] if datasets else dataset
        if standardize:
            dataset.standardizer = first.standardizer or Standardizer.fit(first)
        if standardize_inputs and drive is not None:
            dataset.input_standardizer = first.input_standardizer or Standardizer.fit(first._raw_inputs())
        datasets.append(dataset)
    if not standardize:
        _warn_of_rounding(datasets[0])
    return Splits(*datasets) if len(datasets) == 3 else TwoParts(*datasets)


class _Part(NamedTuple):
    """Sequences that belong together: their names, observed values and inputs."""

    labels: list[str]
    clips: list[Tensor]
    drive: list[Tensor] | None

    def take(self, which: Iterable[int]) -> "_Part":
        chosen = list(which)
        return _Part(*(None if every is None else [every[i] for i in chosen] for every in self))  # type: ignore[arg-type]


def _cut_in_time(whole: _Part, fractions: Sequence[float]) -> list[_Part]:
    """Each sequence cut into consecutive stretches, of which the first go to the first part."""
    shares = _shares(fractions)
    parts = [_Part([], [], None if whole.drive is None else []) for _ in shares]
    for number, (label, clip) in enumerate(zip(whole.labels, whole.clips, strict=True)):
        if whole.drive is not None and len(whole.drive[number]) != len(clip):
            raise ValueError(f"Sequence {label} has {len(clip)} frames, but its input has {len(whole.drive[number])}.")
        ends = [round(float(bound)) for bound in np.cumsum(shares) * len(clip)]
        for part, start, end in zip(parts, [0, *ends[:-1]], ends, strict=True):
            if start == end:
                raise ValueError(
                    f"Sequence {label} has {len(clip)} frames, too few to be cut in time "
                    f"into parts of {tuple(fractions)}."
                )
            part.labels.append(f"{label}[{start}:{end}]")
            part.clips.append(clip[start:end])
            if part.drive is not None and whole.drive is not None:
                part.drive.append(whole.drive[number][start:end])
    return parts


def _warn_of_rounding(dataset: SequenceDataset) -> None:
    """Say where values that are not standardised lose what distinguishes them."""
    if dataset._frames_rest is None:
        return
    share = dataset._frames_rest.abs().amax(0).double().cpu() / Standardizer.fit(dataset).scale
    if float(share.max()) > 1e-3:
        logger.warning(
            "Rounding to %s costs up to %.2g standard deviations in dimension %d, because the values are large against "
            "their differences. Standardise them, subtract an offset, or use dtype=torch.float64.",
            *(dataset._frames.dtype, float(share.max()), int(share.argmax())),
        )


@on_the_host()
def from_csv_folder(
    folder: str | Path,
    *,
    columns: Sequence[str] | None = None,
    input_columns: Sequence[str] | None = None,
    pattern: str | None = None,
    header: bool | None = None,
    decimal: Literal[".", ","] | None = None,
    groups: Sequence[Hashable] | None = None,
    split: Literal["group", "time"] = "group",
    fractions: _Three = (0.8, 0.1, 0.1),
    seed: int = 0,
    sequence_length: int | None = None,
    hop: int | None = None,
    standardize: bool = True,
    standardize_inputs: bool = True,
    dtype: torch.dtype | None = None,
) -> Splits:
    """A folder of CSV files, one sequence each: a row is a time step, a column a dimension.

    How the files are read, what is recognised and what is left out, `dvae_lib.data.tables.read_csv_folder` says.
    Columns are found by their names, so their order may differ from file to file.

    Arguments:
        folder: where the files are, in subfolders too; they are taken in the order of their names.
        columns: names of the columns to observe; by default all that hold numbers, but for ``input_columns``, time
            stamps and row numbers. Columns without names are called "0", "1", ...
        input_columns: names of the columns that drive the sequence.
        pattern: which files, as for ``Path.glob``; by default all that end in ``.csv`` or ``.CSV``.
        header: whether the first line holds names; None finds out.
        decimal: the decimal sign; None finds out.
        groups: the group of each file, in the order of the names; see :func:`from_arrays`, also for the rest.
        split: "group" or "time".
        fractions: shares of the three parts.
        seed: of the split.
        sequence_length: frames of a training sequence.
        hop: frames between the starts of two training sequences.
        standardize: learn a standardiser on the training part.
        standardize_inputs: learn one for the inputs, too.
        dtype: of the data; by default torch's default.

    Returns:
        The three parts.

    Raises:
        FileNotFoundError: no such folder, or no file that matches.
        ValueError: a file that is empty, not a table of numbers, lacks values, or has other columns than the first
            one; the message names the file and what was wrong with it.
    """
    tables = read_csv_folder(
        folder, columns=columns, input_columns=input_columns, pattern=pattern, header=header, decimal=decimal
    )
    return from_arrays(
        [table.values for table in tables],
        [table.inputs for table in tables] if input_columns else None,
        names=[str(table.file) for table in tables],
        groups=groups,
        split=split,
        fractions=fractions,
        seed=seed,
        sequence_length=sequence_length,
        hop=hop,
        standardize=standardize,
        standardize_inputs=standardize_inputs,
        dtype=dtype,
    )
