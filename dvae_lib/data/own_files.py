"""A reader's own files as sequences: a folder of CSV, NumPy, MIDI or BVH files, or one file that holds them all."""

import inspect
import logging
import re
import zlib
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any, Literal
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray

from dvae_lib.data.labels import column_numbers
from dvae_lib.data.motion.bvh import bvh_positions, read_bvh
from dvae_lib.data.music.midi import MIDI_SUFFIXES, midi_to_roll
from dvae_lib.data.places import say_left_out
from dvae_lib.data.sequences import SequenceDataset
from dvae_lib.data.speech.audio import AUDIO_SUFFIXES
from dvae_lib.data.splits import Splits, from_arrays, split_by_group
from dvae_lib.data.standardize import Standardizer
from dvae_lib.data.steps import TimeSteps
from dvae_lib.data.tables import Table, read_csv_folder
from dvae_lib.devices import on_the_host

__all__ = ["from_csv_folder", "read_numpy"]


logger = logging.getLogger("dvae_lib.data")


_NUMPY = frozenset((".npy", ".npz"))


FileKind = Literal["audio", "csv", "numpy", "midi", "bvh"]


_SUFFIXES: dict[FileKind, frozenset[str]] = {
    "audio": AUDIO_SUFFIXES,
    "csv": frozenset((".csv",)),
    "numpy": _NUMPY,
    "midi": MIDI_SUFFIXES,
    "bvh": frozenset((".bvh",)),
}


_EXPECTED = "audio, CSV, NumPy, MIDI or BVH files"


_LABELS = re.compile(r"(y|labels?|targets?)([^a-z].*)?", re.IGNORECASE)


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
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1),
    seed: int = 0,
    sequence_length: int | None = None,
    hop: int | None = None,
    standardize: bool | Sequence[str | int] = True,
    standardize_inputs: bool = True,
    dtype: torch.dtype | None = None,
    missing: bool = False,
    time: str | None = None,
    time_steps: Literal["input"] | TimeSteps | None = None,
) -> Splits:
    """A folder of CSV files, one sequence each: a row is a time step, a column a dimension.

    How the files are read, what is recognised and what is left out, `dvae_lib.data.tables.read_csv_folder` says.
    Columns are found by their names, so their order may differ from file to file.

    Arguments:
        folder: Where the files are, in subfolders too; they are taken in the order of their names.
        columns: Names of the columns to observe; by default all that hold numbers, but for ``input_columns``, time
            stamps and row numbers. Columns without names are called "0", "1", ...
        input_columns: Names of the columns that drive the sequence.
        pattern: Which files, as for ``Path.glob``; by default all that end in ``.csv`` or ``.CSV``.
        header: Whether the first line holds names; None finds out.
        decimal: The decimal sign; None finds out.
        groups: The group of each file, in the order of the names; see `from_arrays`, also for the rest.
        split: "group" or "time".
        fractions: Shares of the three parts.
        seed: Of the split.
        sequence_length: Frames of a training sequence.
        hop: Frames between the starts of two training sequences.
        standardize: Learn a standardiser on the training part; or of which columns, by name.
        standardize_inputs: Learn one for the inputs, too.
        dtype: Of the data; by default torch's default.
        missing: Whether an empty cell, or one that says NA, stands for a missing value; otherwise it is refused.
        time: The column that holds the times; None finds it. Their rhythm is kept with the model.
        time_steps: "input" makes the time since the row before one more input, the last, for rows that are not evenly
            spaced; see `from_arrays`.

    Returns:
        The three parts.

    Raises:
        FileNotFoundError: No such folder, or no file that matches.
        ValueError: A file that is empty, not a table of numbers, lacks values, or has other columns than the first
            one; times that run backwards or repeat, or jump in the column that `time` names, unless `time_steps` says
            that the model reads them. The message names the
            file and what was wrong with it.
    """
    tables = read_csv_folder(
        folder,
        columns=columns,
        input_columns=input_columns,
        pattern=pattern,
        header=header,
        decimal=decimal,
        missing=missing,
        time=time,
        uneven=time_steps is not None,
    )
    splits = from_arrays(
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
        missing=missing,
        columns=_names(tables),
        time_steps=time_steps,
        times=None if time_steps is None else [table.times.moments for table in tables],
    )
    _label(splits, tables)
    for part in splits:
        if input_columns:
            part.labels = part.labels._replace(input_columns=tuple(map(str, input_columns)))
    return splits


def read_numpy(path: str | Path) -> dict[str, NDArray[Any]]:
    """Sequences from NumPy files, by name.

    Arguments:
        path: A file ``.npy`` of shape (N, T, x_dim) or (T, x_dim); a file ``.npz`` of such arrays; or a folder of
            such files, subfolders included.

    Returns:
        Arrays of shape (T_i, x_dim). Arrays of a file ``.npz`` that are called y, labels or targets, and single
        numbers, are left out, which the log says.

    Raises:
        ValueError: A file that is damaged, holds Python objects, or arrays of another shape.
    """
    path = Path(path)
    files = _files(path, _NUMPY) if path.is_dir() else [path]
    sequences: dict[str, NDArray[Any]] = {}
    for file in files:
        try:
            label = file.relative_to(path).as_posix() if path.is_dir() else file.name
            with file.open("rb") as opened:
                loaded = np.load(opened, allow_pickle=False)
                zipped = file.suffix.lower() == ".npz"
                arrays = {f"{label}:{key}": loaded[key] for key in loaded} if zipped else {label: loaded}
        except FileNotFoundError:
            raise FileNotFoundError(f"There is no file {file}") from None
        except (ValueError, OSError, EOFError, BadZipFile, NotImplementedError, zlib.error) as error:
            raise ValueError(
                f"{file} is not a NumPy file of numbers ({error}). Expected what numpy.save or numpy.savez writes; a "
                "list of arrays of different lengths goes into one .npz file: numpy.savez(file, *arrays)"
            ) from error
        for name, array in arrays.items():
            if len(arrays) > 1 and (array.ndim == 0 or _LABELS.fullmatch(name.rpartition(":")[2])):
                logger.warning("%s is left out: it holds %s.", name, "labels" if array.ndim else "one number")
            elif array.ndim == 3:
                sequences |= {f"{name}[{i}]": sequence for i, sequence in enumerate(array)}
            elif array.ndim == 2:
                sequences[name] = array
            else:
                raise ValueError(
                    f"{name} in {path} has shape {array.shape}; expected (frames, dimensions), or (sequences, frames, "
                    "dimensions)"
                )
    return sequences


def load_files(
    path: Path,
    *,
    sequence_length: int | None,
    seed: int,
    split: Literal["group", "time"],
    standardize: bool | Sequence[str | int] | None,
    missing: bool = False,
    time: str | None = None,
    time_steps: Literal["input"] | TimeSteps | None = None,
    **options: Any,
) -> Splits:
    """A reader's CSV, NumPy, MIDI or BVH files in three parts; see `dvae_lib.data.load`.

    The options are those of `midi_to_roll`, or of `dvae_lib.data.motion.bvh.bvh_positions`.
    """
    tables: list[Table] = []
    kind = kind_of_files(path)
    _check_options(path, kind, options)
    if time is not None and kind != "csv":
        raise ValueError(f"{path} has no column {time!r} of times: only CSV files have columns with names")
    if time_steps is not None and kind != "csv":
        raise ValueError(
            f"{path} holds no CSV files, whose columns may say when: steps of time cannot be read from it. Arrays are "
            "taken with their times by from_arrays(..., time_steps='input', times=[...])"
        )
    if kind in ("midi", "bvh"):
        files = [path] if path.is_file() else _files(path, _SUFFIXES[kind])
        names = [file.name if file == path else file.relative_to(path).as_posix() for file in files]
        read = [midi_to_roll(file, **options) for file in files] if kind == "midi" else bvh_positions(files, **options)
        arrays: dict[str, NDArray[Any]] = dict(zip(names, read, strict=True))
    elif kind == "csv":
        tables = read_csv_folder(path, missing=missing, time=time, uneven=time_steps is not None)
        arrays = {str(table.file): table.values for table in tables}
    else:
        arrays = read_numpy(path)
    if standardize is None:  # motion is judged in metres, as the corpora of motion are
        standardize = kind != "bvh" and not all(
            bool(((array == 0) | (array == 1) | (missing & (array != array))).all()) for array in arrays.values()
        )
    splits = _split_by_name(path, arrays, sequence_length, seed, standardize, missing)
    if splits is None:
        if split == "group" and len(arrays) < 3:
            raise ValueError(
                f"{path} holds {len(arrays)} sequence(s); training, validation and test need one each at least. "
                "Cut long recordings into several sequences, or let them be cut in time: split='time' (on the command "
                "line --split time)"
            )
        splits = from_arrays(
            list(arrays.values()),
            names=list(arrays),
            split=split,
            sequence_length=sequence_length,
            seed=seed,
            standardize=standardize,
            missing=missing,
            columns=_names(tables),
            time_steps=time_steps,
            times=None if time_steps is None else [table.times.moments for table in tables],
        )
    _label(splits, tables)
    return splits


def facts_of_files(path: Path, kind: FileKind, options: dict[str, Any]) -> dict[str, Any]:
    """What tells how to write such files: the steps of piano rolls; skeleton and frame rate of motion. Ready for JSON.

    Arguments:
        path: The file, or the folder, of whose BVH files the first stands for all.
        kind: What the files are.
        options: With which they were read.
    """
    if kind == "midi":
        return {"kind": kind, "steps": options.get("steps", 4), "per": options.get("per", "quarter")}
    if kind != "bvh":
        return {}
    first = path if path.is_file() else _files(path, _SUFFIXES[kind])[0]
    units = options.get("metres_per_unit", 0.01)
    clip = read_bvh(first, metres_per_unit=units)
    skeleton = clip.skeleton
    return {
        "kind": kind,
        "fps": options.get("fps") or clip.fps,
        "joints": list(skeleton.joints),
        "parents": list(skeleton.parents),
        "offsets": skeleton.offsets.tolist(),
        "metres_per_unit": units,
    }


def _label(splits: Splits, tables: Sequence[Table]) -> None:
    """Keep the rhythm of the times, and the column that holds those whose steps are read."""
    for part in splits:
        part.labels = part.labels._replace(frequency=_frequency(tables))
        if part.labels.time_steps is not None:
            own = part.labels.time_steps._replace(column=tables[0].times.column)
            part.labels = part.labels._replace(time_steps=own)


def _frequency(tables: Sequence[Table]) -> str | None:
    """The rhythm that all tables have in common; None: none."""
    found = {table.times.frequency for table in tables}
    return found.pop() if len(found) == 1 else None


def _names(tables: Sequence[Table]) -> tuple[str, ...] | None:
    """The names of the tables' columns; None where these are but numbered."""
    names = tables[0].names if tables else ()
    return names if names != tuple(map(str, range(len(names)))) else None


_PARTS = {"train": "train", "training": "train", "test": "test", "testing": "test"} | dict.fromkeys(
    ("validation", "valid", "val", "dev"), "validation"
)


def _split_by_name(
    path: Path,
    arrays: dict[str, NDArray[Any]],
    sequence_length: int | None,
    seed: int,
    standardize: bool | Sequence[str | int],
    missing: bool,
) -> Splits | None:
    """The parts that the arrays of one ``.npz`` file name themselves, if they do; never mixed and split anew."""
    if path.suffix.lower() != ".npz":
        return None
    named: dict[str, list[str]] = {}
    for name in arrays:
        words = re.split(r"[^a-z]+", name.rpartition(":")[2].partition("[")[0].lower())
        named.setdefault(next((_PARTS[word] for word in words if word in _PARTS), ""), []).append(name)
    if set(named) == {""}:
        return None
    if "" in named or not {"train", "test"} <= set(named):
        raise ValueError(
            f"{path} names parts of the data ({', '.join(arrays)[:200]}), but not all that are needed. Expected arrays "
            "for training and test, for validation if you like, and no others; or names that say nothing of parts"
        )
    if "validation" not in named:
        which = split_by_group(named["train"], (0.9, 0.1), seed=seed)
        named["train"], named["validation"] = ([named["train"][i] for i in part] for part in which)
        logger.warning("%s: no part for validation; %d training sequence(s) serve.", path, len(named["validation"]))
    parts = {
        part: SequenceDataset(
            [arrays[name] for name in named[part]],
            names=named[part],
            sequence_length=None if part == "test" else sequence_length,
            missing=missing,
        )
        for part in Splits._fields
    }
    if standardize:
        size = parts["train"].x_dim
        chosen = None if isinstance(standardize, bool) else column_numbers(standardize, None, size)
        standardizer = Standardizer.fit(parts["train"], columns=chosen)
        for part in parts.values():
            part.standardizer = standardizer
    return Splits(**parts)


def _files(folder: Path, suffixes: frozenset[str]) -> list[Path]:
    """Files of a folder and its subfolders with these endings in any case, but for hidden ones."""
    inside = [file.relative_to(folder) for file in sorted(folder.rglob("*")) if file.suffix.lower() in suffixes]
    return [folder / file for file in inside if not any(part.startswith(".") for part in file.parts)]


def _check_options(path: Path, kind: FileKind, options: dict[str, Any]) -> None:
    """Refuse an option that this kind of files does not have."""
    readers: dict[FileKind, Callable[..., Any]] = {"midi": midi_to_roll, "bvh": bvh_positions}
    known = list(inspect.signature(readers[kind]).parameters)[1:] if kind in readers else []
    if unknown := [name for name in options if name not in known]:
        what = f"these files have {', '.join(known)}" if known else "dvae_lib.data.from_csv_folder says what there is"
        raise TypeError(f"{path} is read without {', '.join(unknown)}; {what}")


def kind_of_files(path: Path) -> FileKind:
    """What the files are; tables beside more files of sound, music or motion describe these, and are left out."""
    if path.is_file():
        own: FileKind = next((kind for kind, suffixes in _SUFFIXES.items() if path.suffix.lower() in suffixes), "audio")
        if own != "audio":
            return own
        raise ValueError(
            f"{path} is a single file. Expected a folder of {_EXPECTED} (one sequence each), or a file .npy or .npz "
            "that holds all sequences"
        )
    found = {kind: files for kind, suffixes in _SUFFIXES.items() if (files := _files(path, suffixes))}
    tables = sum(len(found.get(kind, ())) for kind in ("csv", "numpy"))
    described = [kind for kind in found if kind not in ("csv", "numpy")]
    if tables and len(described) == 1 and len(found[described[0]]) > tables:
        found = {described[0]: found[described[0]]}
    if len(found) != 1:
        what = f"holds {' and '.join(found)} files; keep one kind in a folder" if found else "holds none of them"
        raise ValueError(f"{path} {what}. Expected a folder of {_EXPECTED}, one sequence each")
    ((kind, files),) = found.items()
    say_left_out(path, files)
    return kind
