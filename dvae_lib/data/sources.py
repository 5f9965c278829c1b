"""Sequences by a name or a path: a corpus, a folder of audio, CSV or NumPy files, or one NumPy file."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dvae_lib.data.audio import AUDIO_SUFFIXES
from dvae_lib.data.catalogue import list_corpora
from dvae_lib.data.corpora import SpeechCorpus, Utterance, load_corpus
from dvae_lib.data.mocap import load_cmu, load_h36m, load_hdm05, load_mocap
from dvae_lib.data.music import load_chorales
from dvae_lib.data.sequences import Splits, from_arrays, from_csv_folder
from dvae_lib.data.speech import FrontEndSettings
from dvae_lib.data.toy import TOYS, load_toy

__all__ = ["MOTION", "Kind", "Source", "load_source", "read_numpy", "source_names"]

Kind = Literal["speech", "motion", "music", "toy", "sequences"]

MOTION: dict[str, Callable[..., Splits]] = {
    "cmu": load_cmu,
    "hdm05": load_hdm05,
    "mocap": load_mocap,
    "h36m": load_h36m,
}
"""The loaders of the corpora of human motion, by name."""


@dataclass(frozen=True)
class Source:
    """Sequences ready to train on.

    Attributes:
        name: what was asked for.
        kind: speech (power spectra), motion (joint positions in metres), music (piano rolls of zeros and ones), a
            toy system, or a reader's own sequences, which are standardised.
        parts: ``parts.train``, ``parts.validation`` and ``parts.test``; the first two are cut into sequences.
        metadata: JSON data to be saved with a model, so that others know what it was trained on.
    """

    name: str
    kind: Kind
    parts: SpeechCorpus | Splits
    metadata: dict[str, Any]

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
) -> Source:
    """Sequences by the name of a corpus, or from the reader's own files.

    Arguments:
        source: one of `source_names`; a folder of audio, CSV or ``.npy`` files, one sequence each; a file ``.npy`` of
            shape (N, T, x_dim), or ``.npz`` with an array (T_i, x_dim) for each sequence.
        sequence_length: frames of a training sequence. By default 50 for speech and motion, whole sequences
            otherwise.
        limit: take at most so many recordings of each part of a speech corpus.
        settings: of the speech front end; by default the review's.
        seed: of the split of the reader's own sequences, or of a toy system.

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
    if found == "csv":
        splits = from_csv_folder(path, sequence_length=sequence_length, seed=seed)
    else:
        arrays = read_numpy(path)
        if len(arrays) < 3:
            raise ValueError(
                f"{path} holds {len(arrays)} sequence(s); training, validation and test need one "
                "each at least. Cut long recordings into several sequences."
            )
        splits = from_arrays(arrays.values(), names=list(arrays), sequence_length=sequence_length, seed=seed)
    return Source(str(source), "sequences", splits, {"data": metadata})


def read_numpy(path: str | Path) -> dict[str, NDArray[Any]]:
    """Sequences from NumPy files, by name.

    Arguments:
        path: a file ``.npy`` of shape (N, T, x_dim) or (T, x_dim); a file ``.npz`` of such arrays; or a folder of
            files ``.npy``, one sequence each.

    Returns:
        Arrays of shape (T_i, x_dim).

    Raises:
        ValueError: A file that is damaged, holds Python objects, or arrays of another shape.
    """
    path = Path(path)
    files = sorted(path.glob("*.npy")) if path.is_dir() else [path]
    sequences: dict[str, NDArray[Any]] = {}
    for file in files:
        try:
            loaded = np.load(file, allow_pickle=False)
            arrays = (
                {f"{file.name}:{key}": loaded[key] for key in loaded} if file.suffix == ".npz" else {file.name: loaded}
            )
        except (ValueError, OSError, EOFError) as error:
            raise ValueError(
                f"{file} is not a NumPy file of numbers ({error}). Expected what numpy.save or numpy.savez writes; a "
                "list of arrays of different lengths goes into one .npz file: numpy.savez(file, *arrays)."
            ) from error
        for name, array in arrays.items():
            if array.ndim == 3:
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


def _contents(path: Path) -> Literal["audio", "csv", "numpy"]:
    if path.is_file():
        if path.suffix in (".npy", ".npz"):
            return "numpy"
        raise ValueError(
            f"{path} is a single file. Expected a folder of audio, CSV or .npy files (one sequence each), or a file "
            ".npy or .npz that holds all sequences."
        )
    suffixes = {file.suffix.lower() for file in path.rglob("*") if file.is_file() and not file.name.startswith(".")}
    found: dict[Literal["audio", "csv", "numpy"], set[str]] = {
        "audio": suffixes & AUDIO_SUFFIXES,
        "csv": suffixes & {".csv"},
        "numpy": suffixes & {".npy"},
    }
    kinds = [kind for kind, endings in found.items() if endings]
    if len(kinds) != 1:
        what = f"holds {' and '.join(kinds)} files; keep one kind in a folder" if kinds else "holds none of them"
        raise ValueError(f"{path} {what}. Expected a folder of audio, CSV or .npy files, one sequence each.")
    return kinds[0]
