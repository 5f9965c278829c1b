"""Sequences in parts for training, validation and testing: by groups that stay together, or cut in time."""

import hashlib
import logging
from collections.abc import Hashable, Iterable, Sequence
from typing import Any, Literal, NamedTuple, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dvae_lib.data.checks import ArrayLike, checked_clips, one_by_one
from dvae_lib.data.labels import column_numbers, labels_of
from dvae_lib.data.sequences import SequenceDataset
from dvae_lib.data.standardize import Standardizer
from dvae_lib.data.steps import TimeSteps, steps_between
from dvae_lib.devices import on_the_host

__all__ = ["Splits", "TwoParts", "from_arrays", "split_by_group"]


logger = logging.getLogger("dvae_lib.data")


class Splits(NamedTuple):
    """Training, validation and test part of one collection of sequences."""

    train: SequenceDataset
    validation: SequenceDataset
    test: SequenceDataset


class TwoParts(NamedTuple):
    """Training and validation part of one collection of sequences."""

    train: SequenceDataset
    validation: SequenceDataset


def split_by_group(
    groups: Sequence[Hashable], fractions: Sequence[float] = (0.8, 0.1, 0.1), *, seed: int = 0
) -> tuple[list[int], ...]:
    """Split items so that all items of a group (a speaker, a subject, a song) stand in one part.

    Groups are put in the order of a hash of seed and name, then handed out so that each part comes as near as
    whole groups allow to its fraction of the *items*; each part gets one group at least. The result depends
    on nothing else: not on the order of the items, the platform or a library's random numbers.

    Arguments:
        groups: The group of each item.
        fractions: The share of each part, positive, adding up to 1.
        seed: Another number gives another split.

    Returns:
        For each part the indices of its items, ascending.

    Raises:
        ValueError: If there are fewer groups than parts.

    Example:
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
            "Give more groups or fewer fractions, or cut every sequence in time: split='time'"
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
        raise ValueError(f"fractions are positive and add up to 1, not {tuple(fractions)}")
    return shares


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
    standardize: bool | Sequence[str | int] = ...,
    standardize_inputs: bool = ...,
    dtype: torch.dtype | None = ...,
    missing: bool = ...,
    columns: Sequence[str] | None = ...,
    time_steps: Literal["input"] | TimeSteps | None = ...,
    times: Sequence[Any] | None = ...,
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
    standardize: bool | Sequence[str | int] = ...,
    standardize_inputs: bool = ...,
    dtype: torch.dtype | None = ...,
    missing: bool = ...,
    columns: Sequence[str] | None = ...,
    time_steps: Literal["input"] | TimeSteps | None = ...,
    times: Sequence[Any] | None = ...,
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
    standardize: bool | Sequence[str | int] = True,
    standardize_inputs: bool = True,
    dtype: torch.dtype | None = None,
    missing: bool = False,
    columns: Sequence[str] | None = None,
    time_steps: Literal["input"] | TimeSteps | None = None,
    times: Sequence[Any] | None = None,
) -> Splits | TwoParts:
    """Your own sequences, split, cut and standardised, ready to train on.

    The standardisers of the observed values and of the inputs are learned on the training part, and stand in each
    part's ``standardizer`` and ``input_standardizer``. Training and validation sequences are cut to
    ``sequence_length``; test sequences stay whole.

    Arguments:
        arrays: Sequences of shape (T_i, x_dim), or one array of shape (N, T, x_dim).
        inputs: What drives them, of shape (T_i, u_dim), or None.
        names: One for each sequence.
        groups: The group of each sequence (a speaker, a day, a machine): no group is split over two parts.
            By default each sequence is its own group.
        split: "group" gives each part sequences of its own. "time" cuts every sequence in time, the first frames for
            training and the last for the last part; that is how forecasts are judged, and a single long series is
            split: ``from_arrays([x], split="time")``.
        fractions: Shares of the three parts, or of two: training and validation. See `split_by_group`.
        seed: Of the split by group.
        sequence_length: Frames of a training sequence; None keeps sequences whole.
        hop: Frames between the starts of two training sequences; by default ``sequence_length``.
        standardize: False leaves the observed values as they are (counts, binary data, power spectra); a list of
            columns, by name or number, standardises these and leaves the others.
        standardize_inputs: False leaves the inputs as they are.
        dtype: Of the data; by default torch's default.
        missing: Whether NaN stands for a missing value; see `SequenceDataset`. It does not count for the standardiser.
        columns: Names of the observed columns, of arrays; DataFrames bring their own.
        time_steps: "input" makes the time since the frame before the last entry of the inputs, for frames that are not
            evenly spaced: the logarithm of the step over the median step of the training part, 0 in the first frame of
            a sequence; it is not standardised. A `TimeSteps`, such as that of a trained model, is a scale of your own.
        times: With `time_steps`, when the frames were: dates, durations or numbers, (T_i,), one for each sequence. By
            default the indices of the DataFrames.

    Returns:
        The parts.

    Raises:
        ValueError: Sequences, inputs or times that do not go together, or that models cannot take.

    Example:
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
    clips = one_by_one(arrays, 'from_arrays([x], split="time")')
    drive = None if inputs is None else one_by_one(inputs, "[u]")
    labels = [str(i) for i in range(len(clips))] if names is None else list(names)
    for given, what in ((labels, "names"), (groups, "groups"), (drive, "inputs")):
        if given is not None and len(given) != len(clips):
            raise ValueError(f"{len(given)} {what} for {len(clips)} sequences; one each was expected")
    # The door: shapes and NaN are checked on everything, so that messages carry the reader's own numbering.
    observed = checked_clips(clips, labels, "sequence", dtype, missing=missing)
    driving = None if drive is None else checked_clips(drive, labels, "input of sequence", dtype)
    tables = labels_of(clips, drive, labels)
    size = observed[0].shape[1]
    if columns is not None:
        if len(columns) != size:
            raise ValueError(f"{len(columns)} names of columns for {size} columns; one each was expected")
        tables = tables._replace(columns=tuple(map(str, columns)))
    chosen = None if isinstance(standardize, bool) else column_numbers(standardize, tables.columns, size)
    if time_steps is None and times is not None:
        raise ValueError("times are for models that read the steps between them: say time_steps='input', or leave them")
    steps, seconds = (None, False) if time_steps is None else _steps(time_steps, clips, times, labels)
    everything = _Part(labels, observed, driving, steps)
    if split == "time":
        if groups is not None:
            raise ValueError("groups go to one part each, which split='time' cannot do: leave one of the two out")
        parts = _cut_in_time(everything, fractions)
    elif split == "group":
        by_group = range(len(clips)) if groups is None else list(groups)
        parts = [everything.take(part) for part in split_by_group(by_group, fractions, seed=seed)]
    else:
        raise ValueError(f"split is 'group' or 'time'; got {split!r}")
    if len(parts) not in (2, 3):
        raise ValueError(f"fractions are those of two or three parts; got {tuple(fractions)}")
    if steps is not None:
        scale = time_steps
        if not isinstance(scale, TimeSteps):
            scale = TimeSteps.fit(parts[0].steps or [], seconds=seconds)
        parts = [part.driven_by_steps(scale) for part in parts]
        tables = tables._replace(time_steps=scale)
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
            missing=missing,
        )
        dataset.labels = tables
        first = datasets[0] if datasets else dataset
        if standardize:
            dataset.standardizer = first.standardizer or Standardizer.fit(first, columns=chosen)
        if standardize_inputs and drive is not None:  # but for the steps of time, which have a scale of their own
            own = None if steps is None else range(first.u_dim - 1)
            dataset.input_standardizer = first.input_standardizer or Standardizer.fit(first.raw_inputs(), columns=own)
        datasets.append(dataset)
    if not standardize:
        _warn_of_rounding(datasets[0])
    return Splits(*datasets) if len(datasets) == 3 else TwoParts(*datasets)


def _steps(
    asked: Any, clips: Sequence[Any], times: Sequence[Any] | None, labels: Sequence[str]
) -> tuple[list[NDArray[np.float64]], bool]:
    """The step of time to each frame, sequence by sequence, and whether it is in seconds."""
    if asked != "input" and not isinstance(asked, TimeSteps):
        raise ValueError(f"time_steps must be 'input', a TimeSteps, or None; got {asked!r}")
    if times is not None and len(times) != len(clips):
        raise ValueError(f"{len(times)} times for {len(clips)} sequences; one each was expected")
    found, kinds = [], []
    for number, (label, clip) in enumerate(zip(labels, clips, strict=True)):
        own = getattr(clip, "index", None) if times is None else times[number]
        if times is None and not hasattr(clip, "iloc"):
            raise ValueError(f"time_steps='input' needs times: sequence {label} is no DataFrame, whose index has them")
        steps, seconds = steps_between(own, name=f"the times of sequence {label}")
        if len(steps) != len(clip):
            raise ValueError(f"Sequence {label} has {len(clip)} frames, but {len(steps)} times")
        found.append(steps)
        kinds.append(seconds)
    wanted = asked.seconds if isinstance(asked, TimeSteps) else kinds[0]
    if set(kinds) != {wanted}:
        odd = labels[kinds.index(not wanted)]
        raise ValueError(f"the times of sequence {odd} must be {'dates' if wanted else 'numbers'}, as all others are")
    return found, wanted


class _Part(NamedTuple):
    """Sequences that belong together: their names, observed values and inputs, and the steps of time to each frame."""

    labels: list[str]
    clips: list[Tensor]
    drive: list[Tensor] | None
    steps: list[NDArray[np.float64]] | None = None

    def take(self, which: Iterable[int]) -> "_Part":
        chosen = list(which)
        return _Part(*(None if every is None else [every[i] for i in chosen] for every in self))  # type: ignore[arg-type]

    def driven_by_steps(self, scale: TimeSteps) -> "_Part":
        """The same with the steps of time as the last input."""
        columns = [torch.from_numpy(scale.scaled(steps)) for steps in self.steps or []]
        if self.drive is None:
            return self._replace(drive=columns)
        for label, u, column in zip(self.labels, self.drive, columns, strict=True):
            if len(u) != len(column):
                raise ValueError(f"Sequence {label} has {len(column)} frames, but its input has {len(u)}")
        return self._replace(
            drive=[torch.cat([u.double(), c.to(u.device)], 1) for u, c in zip(self.drive, columns, strict=True)]
        )


def _cut_in_time(whole: _Part, fractions: Sequence[float]) -> list[_Part]:
    """Each sequence cut into consecutive stretches, of which the first go to the first part."""
    shares = _shares(fractions)
    parts = [whole.take([]) for _ in shares]
    for number, (label, clip) in enumerate(zip(whole.labels, whole.clips, strict=True)):
        if whole.drive is not None and len(whole.drive[number]) != len(clip):
            raise ValueError(f"Sequence {label} has {len(clip)} frames, but its input has {len(whole.drive[number])}")
        ends = [round(float(bound)) for bound in np.cumsum(shares) * len(clip)]
        for part, start, end in zip(parts, [0, *ends[:-1]], ends, strict=True):
            if start == end:
                raise ValueError(
                    f"Sequence {label} has {len(clip)} frames, too few to be cut in time "
                    f"into parts of {tuple(fractions)}"
                )
            part.labels.append(f"{label}[{start}:{end}]")
            part.clips.append(clip[start:end])
            if part.drive is not None and whole.drive is not None:
                part.drive.append(whole.drive[number][start:end])
            if part.steps is not None and whole.steps is not None:
                part.steps.append(whole.steps[number][start:end])
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
