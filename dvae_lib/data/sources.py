"""Sequences by a name or a path: a corpus, a folder of audio, CSV or NumPy files, or one NumPy file."""

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dvae_lib.data.audio import AUDIO_SUFFIXES
from dvae_lib.data.catalogue import list_corpora
from dvae_lib.data.corpora import SpeechCorpus, Utterance, load_corpus
from dvae_lib.data.mocap import load_cmu, load_h36m, load_hdm05, load_mocap
from dvae_lib.data.music import load_chorales
from dvae_lib.data.places import say_left_out
from dvae_lib.data.sequences import SequenceDataset, Splits, Standardizer, from_arrays, split_by_group
from dvae_lib.data.speech import FrontEndSettings
from dvae_lib.data.tables import read_csv_folder
from dvae_lib.data.toy import TOYS, load_toy

__all__ = ["MOTION", "Kind", "Source", "load_source", "read_numpy", "source_names"]

logger = logging.getLogger("dvae_lib.data")

_NUMPY = frozenset((".npy", ".npz"))
_LABELS = re.compile(r"(y|labels?|targets?)([^a-z].*)?", re.IGNORECASE)

Kind = Literal["speech", "motion", "music", "toy", "sequences"]

MOTION: dict[str, Callable[..., Splits]] = {
    "cmu": load_cmu,
    "hdm05": load_hdm05,
    "mocap": load_mocap,
    "mocap-excerpt": partial(load_mocap, excerpt=True),
    "h36m": load_h36m,
}
"""The loaders of the corpora of human motion, by name."""


@dataclass(frozen=True)
class Source:
    """Sequences ready to train on.

    Attributes:
        name: what was asked for.
        kind: speech (power spectra), motion (joint positions in metres), music (piano rolls of zeros and ones), a
            toy system, or a reader's own sequences.
        parts: ``parts.train``, ``parts.validation`` and ``parts.test``; the first two are cut into sequences.
        metadata: JSON data to be saved with a model, so that others know what it was trained on.
    """

    name: str
    kind: Kind
    parts: SpeechCorpus | Splits
    metadata: dict[str, Any]

    @property
    def observation(self) -> str:
        """The observation model that suits the data, by name: "gamma", "bernoulli" or "gaussian"."""
        if isinstance(self.parts, SpeechCorpus):
            return "gamma"
        train = self.parts.train
        binary = train.standardizer is None and train.first_outside(0.0, 1.0, whole=True) is None
        return "bernoulli" if binary else "gaussian"

    @property
    def test_recordings(self) -> tuple[Utterance, ...]:
        """The recordings behind ``parts.test`` where it is speech."""
        return self.parts.utterances("test") if isinstance(self.parts, SpeechCorpus) else ()


def source_names() -> list[str]:
    """The names that `load_source` knows."""
    speech = [info.name for info in list_corpora("speech")]
    return [*speech, *MOTION, "chorales", *TOYS]


def load_source(
    source: str | Path,
    *,
    sequence_length: int | None = None,
    limit: int | None = None,
    settings: FrontEndSettings | None = None,
    seed: int = 0,
    split: Literal["group", "time"] = "group",
    standardize: bool | None = None,
) -> Source:
    """Sequences by the name of a corpus, or from the reader's own files.

    Arguments:
        source: one of `source_names`; a folder of audio, CSV or NumPy files, one sequence each, in subfolders too; a
            file ``.npy`` of shape (N, T, x_dim), or ``.npz`` with an array (T_i, x_dim) for each sequence; with
            ``split="time"`` also one CSV file or one array (T, x_dim). A file ``.npz`` may name the parts itself, as
            in ``X_train``, ``X_validation``, ``X_test``.
        sequence_length: frames of a training sequence. By default 50 for speech and motion, whole sequences
            otherwise.
        limit: take at most so many recordings of each part of a speech corpus.
        settings: of the speech front end; by default the review's.
        seed: of the split of the reader's own sequences, or of a toy system.
        split: of the reader's own sequences, see `from_arrays`.
        standardize: the reader's own sequences. None does it unless they hold zeros and ones only. Say False for
            observation models that do not take every real number, such as "gamma".

    Raises:
        FileNotFoundError: No such path, or a corpus that is not here, with how to get it.
        ValueError: An unknown name, or files that do not hold sequences.
    """
    length = {} if sequence_length is None else {"sequence_length": sequence_length}
    metadata: dict[str, Any] = {"source": str(source), **length, "seed": seed}
    if limit is not None:
        metadata["limit"] = limit
    if isinstance(source, str) and source in source_names():
        if source in MOTION:
            parts = MOTION[source](sequence_length=sequence_length or 50)
            return Source(source, "motion", parts, {"data": metadata})
        if source == "chorales":
            return Source(source, "music", load_chorales(sequence_length=sequence_length), {"data": metadata})
        if source in TOYS:
            return Source(source, "toy", load_toy(source, seed=seed), {"data": metadata})
        return _speech(source, sequence_length, limit, settings, metadata)
    path = Path(source).expanduser()
    if not path.exists():
        raise FileNotFoundError(
            f"There is no corpus and no file or folder {str(source)!r}. Corpora: {', '.join(source_names())}."
        )
    metadata["source"] = str(path.resolve())
    found = _contents(path)
    if found == "audio":
        return _speech(path, sequence_length, limit, settings, metadata)
    if split != "group":
        metadata["split"] = split
    if standardize is not None:
        metadata["standardize"] = standardize
    arrays = {str(t.file): t.values for t in read_csv_folder(path)} if found == "csv" else read_numpy(path)
    if standardize is None:
        standardize = not all(bool(((array == 0) | (array == 1)).all()) for array in arrays.values())
    splits = _split_by_name(path, arrays, sequence_length, seed, standardize)
    if splits is None:
        if split == "group" and len(arrays) < 3:
            raise ValueError(
                f"{path} holds {len(arrays)} sequence(s); training, validation and test need one each at least. "
                "Cut long recordings into several sequences, or let them be cut in time: split='time'."
            )
        splits = from_arrays(
            list(arrays.values()),
            names=list(arrays),
            split=split,
            sequence_length=sequence_length,
            seed=seed,
            standardize=standardize,
        )
    return Source(str(source), "sequences", splits, {"data": metadata})


_PARTS = {"train": "train", "training": "train", "test": "test", "testing": "test"} | dict.fromkeys(
    ("validation", "valid", "val", "dev"), "validation"
)


def _split_by_name(
    path: Path, arrays: dict[str, NDArray[Any]], sequence_length: int | None, seed: int, standardize: bool
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
            "for training and test, for validation if you like, and no others; or names that say nothing of parts."
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
        )
        for part in Splits._fields
    }
    if standardize:
        standardizer = Standardizer.fit(parts["train"])
        for part in parts.values():
            part.standardizer = standardizer
    return Splits(**parts)


def read_numpy(path: str | Path) -> dict[str, NDArray[Any]]:
    """Sequences from NumPy files, by name.

    Arguments:
        path: a file ``.npy`` of shape (N, T, x_dim) or (T, x_dim); a file ``.npz`` of such arrays; or a folder of
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
            loaded = np.load(file, allow_pickle=False)
            label = file.relative_to(path).as_posix() if path.is_dir() else file.name
            arrays = (
                {f"{label}:{key}": loaded[key] for key in loaded} if file.suffix.lower() == ".npz" else {label: loaded}
            )
        except (ValueError, OSError, EOFError) as error:
            raise ValueError(
                f"{file} is not a NumPy file of numbers ({error}). Expected what numpy.save or numpy.savez writes; a "
                "list of arrays of different lengths goes into one .npz file: numpy.savez(file, *arrays)."
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
                    "dimensions)."
                )
    return sequences


def _speech(
    source: str | Path,
    sequence_length: int | None,
    limit: int | None,
    settings: FrontEndSettings | None,
    metadata: dict[str, Any],
) -> Source:
    corpus = load_corpus(source, sequence_length=sequence_length or 50, max_utterances=limit, settings=settings)
    return Source(
        str(source),
        "speech",
        corpus,
        {
            "data": {**metadata, "licence": corpus.licence, "attribution": corpus.attribution},
            "front_end": corpus.front_end.settings.to_dict(),
        },
    )


def _files(folder: Path, suffixes: frozenset[str]) -> list[Path]:
    """Files of a folder and its subfolders with these endings in any case, but for hidden ones."""
    inside = [file.relative_to(folder) for file in sorted(folder.rglob("*")) if file.suffix.lower() in suffixes]
    return [folder / file for file in inside if not any(part.startswith(".") for part in file.parts)]


def _contents(path: Path) -> Literal["audio", "csv", "numpy"]:
    """What the files are; tables beside more files of sound describe these, and are left out."""
    kinds: dict[Literal["audio", "csv", "numpy"], frozenset[str]] = {
        "audio": AUDIO_SUFFIXES,
        "csv": frozenset((".csv",)),
        "numpy": _NUMPY,
    }
    if path.is_file():
        if path.suffix.lower() in _NUMPY:
            return "numpy"
        if path.suffix.lower() == ".csv":
            return "csv"
        raise ValueError(
            f"{path} is a single file. Expected a folder of audio, CSV or NumPy files (one sequence each), or a file "
            ".npy or .npz that holds all sequences."
        )
    found = {kind: files for kind, suffixes in kinds.items() if (files := _files(path, suffixes))}
    others = sum(len(files) for kind, files in found.items() if kind != "audio")
    if others and len(found.get("audio", ())) > others:
        found = {"audio": found["audio"]}
    if len(found) != 1:
        what = f"holds {' and '.join(found)} files; keep one kind in a folder" if found else "holds none of them"
        raise ValueError(f"{path} {what}. Expected a folder of audio, CSV or NumPy files, one sequence each.")
    ((kind, files),) = found.items()
    say_left_out(path, files)
    return kind
