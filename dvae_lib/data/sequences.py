"""Sequences of vectors in one block of frames, cut and padded: what every model here is trained on."""

import logging
import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torch.utils.data._utils.collate import default_collate_fn_map

from dvae_lib.arrays import whole_number
from dvae_lib.data.checks import ArrayLike, checked_clips, one_by_one
from dvae_lib.data.labels import Labels, labels_of
from dvae_lib.data.standardize import Standardizer
from dvae_lib.devices import on_the_host

__all__ = ["Batch", "BatchWithGaps", "SequenceDataset", "identity"]


logger = logging.getLogger("dvae_lib.data")


class Batch(NamedTuple):
    """Some sequences of vectors, side by side.

    Attributes:
        x: The observed sequences, (B, T, x_dim); zero on the frames that only fill up.
        lengths: Frames of each sequence, (B,) of int64, or None where every sequence has all T frames.
        u: The inputs that drive the sequences, (B, T, u_dim), or None.
    """

    x: Tensor
    lengths: Tensor | None = None
    u: Tensor | None = None

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "Batch":
        """The same batch on another device."""
        moved = (None if t is None else t.to(device, non_blocking=non_blocking) for t in self)
        return type(self)(*moved)  # type: ignore[arg-type]

    @property
    def observed(self) -> Tensor | None:
        """What was observed, for the argument of that name; None where the data have no gaps."""
        return None


class BatchWithGaps(Batch):
    """Some sequences in which NaN stands for a missing value, as whoever made the dataset has declared."""

    __slots__ = ()

    @property
    def observed(self) -> Tensor:
        """Which entries of x were observed, (B, T, x_dim)."""
        return ~self.x.isnan()


def identity(made: list[Batch], **_: Any) -> Batch:
    """What a ``DataLoader`` does by default with what `SequenceDataset` gives it: the batch has been made already."""
    (batch,) = made
    return batch


# torch's own way to say how a type is put together: without it, a loader would stack the parts of the batch.
default_collate_fn_map[Batch] = default_collate_fn_map[BatchWithGaps] = identity


class SequenceDataset(Dataset[Tensor]):
    """Sequences of vectors in one block of frames, of which a batch is one gather.

    All frames stand one after the other in one tensor, which may be a memory map or live on a GPU
    (`to`). A batch of sequences is a single indexing operation, whatever its size, so a
    ``DataLoader`` costs next to nothing::

        loader = DataLoader(dataset, batch_size=128, shuffle=True)

    Data of a higher precision than `dtype` are standardised before they are rounded: where rounding alone would cost
    digits of a standardised value, what it takes away is kept beside the frames.

    Arguments:
        sequences: Arrays, tensors or DataFrames of shape (T_i, x_dim). T_i may differ, x_dim may not.
        inputs: Driving inputs of shape (T_i, u_dim), one for each sequence.
        names: One name for each sequence, used in messages and in `names`.
        sequence_length: Cut every sequence into pieces of that many frames. What remains at the end is left
            out. A sequence with fewer frames is skipped, counted in `skipped` and reported in the log.
            None keeps sequences whole.
        hop: Frames from the start of one piece to the start of the next; by default ``sequence_length``.
        min_length: Skip sequences with fewer frames, in the same way; by default ``sequence_length``, or 1.
        standardizer: Applied to x whenever it is read.
        input_standardizer: Applied to the inputs, likewise.
        dtype: Of what is returned; by default torch's default.
        report_skipped: Say in the log how many sequences were too short.
        missing: Whether NaN, and what is masked in a masked array, stands for a missing value of a sequence. Batches
            are then `BatchWithGaps`: NaN stays where it is, and `Batch.observed` is what models are told. Sequences
            and pieces without any value are left out. Inputs have no gaps.

    Attributes:
        labels: Of DataFrames, the names of their columns and the frequency of their times; `fit` keeps them with the
            model.

    Raises:
        ValueError: On NaN (unless it is `missing`) or infinity (naming sequence, frame and dimension), wrong shapes, no
            sequence at all, or none that is long enough; on DataFrames whose columns differ.
        TypeError: On data that are not real numbers.

    Example:
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
        missing: bool = False,
    ) -> None:
        dtype = torch.get_default_dtype() if dtype is None else dtype
        sequences = one_by_one(sequences, "SequenceDataset([x])")
        names = [str(i) for i in range(len(sequences))] if names is None else list(map(str, names))
        if len(names) != len(sequences):
            raise ValueError(f"Each sequence has one name: {len(names)} names for {len(sequences)} sequences")
        clips = checked_clips(sequences, names, "sequence", dtype, missing=missing)
        self.missing = missing
        inputs = None if inputs is None else one_by_one(inputs, "[u]")
        self.labels = labels_of(sequences, inputs, names)
        drive = None
        if inputs is not None:
            drive = checked_clips(inputs, names, "input of sequence", dtype)
            for name, clip, u in zip(names, clips, drive, strict=True):
                if len(clip) != len(u):
                    raise ValueError(f"Sequence {name} has {len(clip)} frames, but its input has {len(u)}")
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
                f"the inputs have {self.u_dim}"
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
            starts: First frame of each sequence.
            lengths: Frames of each sequence.
            names: As in the constructor, and so are the others.
            sequence_length: See the constructor.
            hop: See the constructor.
            min_length: See the constructor.
            standardizer: See the constructor.
            report_skipped: See the constructor.
        """
        block = torch.as_tensor(frames)
        if block.ndim != 2 or not block.is_floating_point():
            raise ValueError(f"frames is (N, x_dim) of floats, not {tuple(block.shape)} of {block.dtype}")
        first = torch.as_tensor(starts, dtype=torch.int64)
        count = torch.as_tensor(lengths, dtype=torch.int64)
        names = [str(i) for i in range(len(first))] if names is None else list(map(str, names))
        if not len(first) == len(count) == len(names):
            raise ValueError(f"{len(first)} starts, {len(count)} lengths and {len(names)} names do not match")
        if len(first) and (int(first.min()) < 0 or int(count.min()) < 1 or int((first + count).max()) > len(block)):
            raise ValueError(f"Every sequence has a frame at least and lies within the {len(block)} frames given")
        dataset = cls.__new__(cls)
        dataset._frames, dataset._inputs, dataset.input_standardizer = block, None, None
        dataset._frames_rest = dataset._inputs_rest = None
        dataset.missing, dataset.labels = False, Labels()
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
            raise ValueError("hop says where the next piece starts, so it needs a sequence_length")
        if sequence_length is not None:
            sequence_length = whole_number(sequence_length, "sequence_length", 1)
            hop = sequence_length if hop is None else whole_number(hop, "hop", 1)
        if min_length is not None:
            min_length = whole_number(min_length, "min_length", 0)
        if len(starts) == 0:
            raise ValueError("A dataset needs at least one sequence, and there is none")
        if standardizer is not None and len(standardizer.mean) != self._frames.shape[1]:
            raise ValueError(
                f"The standardiser is for {len(standardizer.mean)} dimensions, the data have {self._frames.shape[1]}"
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
                "Ask for a smaller sequence_length or bring longer sequences"
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
        if self.missing:
            self._leave_out_blanks(report_skipped)

    def _leave_out_blanks(self, report: bool) -> None:
        """Keep the sequences of which something was observed."""
        seen = torch.cat([torch.zeros(1, dtype=torch.int64), (~self._frames.isnan()).any(1).cpu().long().cumsum(0)])
        kept = (seen[self._starts + self._lengths] > seen[self._starts]).nonzero()[:, 0]
        if len(kept) == 0:
            raise ValueError("Every value is missing (NaN): there is nothing to learn from")
        left_out = len(self._starts) - len(kept)
        for name in ("_clip", "_offsets", "_lengths", "_starts"):
            setattr(self, name, getattr(self, name)[kept])
        if left_out and report:
            logger.warning("Left out %d sequence(s) or piece(s) without any value; %d are kept.", left_out, len(kept))

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
    def batch(self, indices: ArrayLike) -> Batch:
        """Some sequences as one batch, padded with zeros to the longest.

        Arguments:
            indices: Which ones; negative numbers count from the end.

        Raises:
            TypeError: On what is no list of whole numbers, such as a mask.
            ValueError: On an empty one.
            IndexError: On numbers beyond the last.

        Returns:
            The batch; its ``lengths`` is None where all its sequences have the same length.
        """
        which = _whole(indices)
        if len(which) == 0:
            raise ValueError("A batch needs at least one index")
        if int(which.min()) < -len(self) or int(which.max()) >= len(self):
            raise IndexError(f"Indices {which.tolist()} reach beyond the {len(self)} sequences")
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
        return (BatchWithGaps if self.missing else Batch)(x, None if equal else lengths.to(rows.device), u)

    def select(self, indices: ArrayLike) -> "SequenceDataset":
        """Some of the sequences, in the order given. Nothing is copied."""
        which = _whole(indices if hasattr(indices, "__array__") else list(indices))
        if len(which) == 0 or int(which.min()) < 0 or int(which.max()) >= len(self):
            raise ValueError(f"Indices lie between 0 and {len(self) - 1}, and there is one at least; got {indices}")
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

    def first_outside(
        self, low: float, high: float, *, whole: bool = False, columns: slice = slice(None)
    ) -> tuple[str, int, int, float] | None:
        """Where the observed values, as a model gets them, first leave an interval.

        Arguments:
            low: The smallest value that is inside.
            high: The largest one.
            whole: Whether only whole numbers are inside.
            columns: Which dimensions are looked at.

        Returns:
            Name of the sequence, frame, dimension and value; None where all are inside.
        """
        found = []
        for rows in range(0, len(self._frames), _BLOCK):  # all frames at once, those that no sequence has as well
            x = self._frames[rows : rows + _BLOCK]
            x = (x if self.standardizer is None else self.standardizer.transform(x))[:, columns]
            if self.missing:
                x = x.nan_to_num(min(max(0.0, low), high), math.inf, -math.inf)
            found.append(torch.stack([x.amin(), x.amax(), (x - x.round()).abs().amax() if whole else x.new_zeros(())]))
        least, _, _ = torch.stack(found).amin(0).tolist()
        _, largest, fraction = torch.stack(found).amax(0).tolist()
        if low <= least and largest <= high and math.isfinite(largest - least) and fraction == 0:
            return None
        for i, name in enumerate(self.names):
            x = self[i][:, columns]
            outside = ~((x >= low) & (x <= high) & torch.isfinite(x))
            if whole:
                outside |= x != x.round()
            if self.missing:
                outside &= ~x.isnan()
            if bool(outside.any()):
                frame, dim = outside.nonzero()[0].tolist()
                return name, frame, dim + (columns.start or 0), float(x[frame, dim])
        return None

    def raw_sequences(self) -> Iterable[Tensor]:
        """The sequences as they came, before any standardisation."""
        return self._raw(self._frames, self._frames_rest)

    def raw_inputs(self) -> Iterable[Tensor]:
        """Their inputs as they came; none where there are none."""
        return () if self._inputs is None else self._raw(self._inputs, self._inputs_rest)

    def _raw(self, block: Tensor, rest: Tensor | None) -> Iterable[Tensor]:
        for start, length in zip(self._starts.tolist(), self._lengths.tolist(), strict=True):
            rows = slice(start, start + length)
            yield block[rows] if rest is None else block[rows].to("cpu", torch.float64) + rest[rows].to("cpu")


# Frames that are looked at together.
_BLOCK = 16_384


def _whole(indices: ArrayLike) -> Tensor:
    """Indices as int64. A mask, as 0 and 1, and fractions, cut off, would be those of other sequences."""
    which = torch.as_tensor(indices, device="cpu").flatten()
    if len(which) and (which.dtype == torch.bool or which.is_floating_point() or which.is_complex()):
        raise TypeError(
            f"indices must be whole numbers, got {which.dtype}; those of a mask are mask.nonzero()[:, 0] of a tensor, "
            "numpy.flatnonzero(mask) of an array"
        )
    return which.to(torch.int64)


def _rounded(clips: list[Tensor], dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """All frames in dtype, and what rounding took from them where that would be seen in standardised values."""
    rounded = [clip.to(dtype) for clip in clips]
    frames = rounded[0] if len(rounded) == 1 else torch.cat(rounded)
    pairs = [(c.to("cpu", torch.float64), r) for c, r in zip(clips, rounded, strict=True) if c.dtype != dtype]
    lost = [(exact - r.to("cpu", torch.float64)).nan_to_num(0.0) for exact, r in pairs]
    if not any(bool(rest.any()) for rest in lost):
        return frames, None
    largest = torch.stack([rest.abs().amax(0) for rest in lost]).amax(0)
    # Values of some standard deviations are rounded by some eps of one: what is far beyond that, an offset has cost.
    if not bool((largest > 10 * torch.finfo(dtype).eps * Standardizer.fit(clips, missing=True).scale).any()):
        return frames, None
    exact_frames = torch.cat([clip.to(frames.device, torch.float64) for clip in clips])
    rest = (exact_frames - frames.to(torch.float64)).nan_to_num(0.0)
    return frames, rest.to(torch.promote_types(dtype, torch.float32))
