"""Corpora of motion as sequences of joint positions in metres, in three parts.

One frame is the vector of all joints' coordinates, (x, y, z) of the first joint, then of the second, and so on.
Clips are brought to a lower frame rate by keeping every k-th frame. No filter comes before: it would shorten bones
that turn fast, and there is next to nothing to filter (in the CMU corpus, less than a ten-thousandth of the variance
of the joints about the root lies above 15 Hz).
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from tqdm.auto import tqdm

from dvae_lib.data.catalogue import MissingCorpusError, corpus_info
from dvae_lib.data.places import cache_folder, one_at_a_time, whole_or_nothing
from dvae_lib.data.sequences import SequenceDataset
from dvae_lib.data.splits import Splits
from dvae_lib.data.standardize import Standardizer
from dvae_lib.resources import resource_path

__all__ = ["decimate"]


CACHE_FORMAT = 1


class Clip(NamedTuple):
    """A recording: its name, who moves, and the file it is in."""

    name: str
    subject: str
    file: Path


class Clips(NamedTuple):
    """All clips of a corpus, one after the other in one block of frames."""

    name: str
    clips: list[Clip]
    frames: NDArray[np.float32]
    lengths: list[int]


def decimate(frames: Float[np.ndarray, "time *rest"], from_fps: int, to_fps: int) -> Float[np.ndarray, "fewer *rest"]:
    """Bring frames to a lower rate by keeping every k-th one, the first included.

    Arguments:
        frames: Along the first dimension.
        from_fps: Frames per second as they come.
        to_fps: Frames per second wanted; a divisor of `from_fps`.

    Raises:
        ValueError: The one rate is no multiple of the other.
    """
    if to_fps < 1 or from_fps % to_fps:
        divisors = [k for k in range(1, from_fps + 1) if from_fps % k == 0]
        raise ValueError(
            f"{from_fps} frames per second cannot be brought to {to_fps} by keeping every k-th; fps must be one of "
            f"{', '.join(map(str, divisors))}"
        )
    return frames[:: from_fps // to_fps]


def folder_of(corpus: str, folder: str | Path | None) -> Path:
    """Where a corpus is: the folder given, or the one on the search path."""
    known = corpus_info(corpus)
    found = known.at_hand() if folder is None else Path(folder)
    if found is None or not found.is_dir():
        raise MissingCorpusError(f"{found} is not a folder. {known.instructions}")
    return found


def cached(
    name: str, clips: Sequence[Clip], read: Callable[[Clip], NDArray[np.float64]], *, num_joints: int
) -> tuple[NDArray[np.float32], list[int]]:
    """All frames of all clips, (N, 3 * num_joints), and the clips' lengths; computed once for the same files."""
    stats = [(clip.name, clip.file.stat()) for clip in clips]
    key = json.dumps([CACHE_FORMAT, [(n, s.st_size, s.st_mtime_ns) for n, s in stats]])
    folder = cache_folder() / "motion" / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    with one_at_a_time(folder.with_suffix(".lock")):
        if not folder.is_dir():
            quick = len(clips) < 500  # a few seconds
            positions = [read(clip) for clip in tqdm(clips, desc=f"reading {name}", unit=" clips", disable=quick)]
            with whole_or_nothing(folder) as draft:
                block = np.concatenate([p.reshape(len(p), 3 * num_joints) for p in positions])
                np.save(draft / "frames.npy", block.astype(np.float32))
                (draft / "lengths.json").write_text(json.dumps([len(p) for p in positions]))
    lengths: list[int] = json.loads((folder / "lengths.json").read_text())
    return np.load(folder / "frames.npy"), lengths


def in_parts(
    corpora: Sequence[Clips], centre: bool, sequence_length: int | None, hop: int | None
) -> dict[str, SequenceDataset]:
    """The clips by part, after the corpora's split lists; what these do not list is for training."""
    part_of: list[str] = []
    for corpus in corpora:
        listed = json.loads(resource_path("splits", f"{corpus.name}.json").read_text(encoding="utf-8"))
        part_of_subject = {s: part for part, subjects in listed["subjects"].items() for s in subjects}
        part_of_clip = {c: part for part, names in listed["clips"].items() for c in names}
        part_of += [part_of_clip.get(c.name, part_of_subject.get(c.subject, "train")) for c in corpus.clips]
    clips = [clip for corpus in corpora for clip in corpus.clips]
    lengths = [length for corpus in corpora for length in corpus.lengths]
    frames = corpora[0].frames if len(corpora) == 1 else np.concatenate([corpus.frames for corpus in corpora])
    if centre:
        frames = (frames.reshape(len(frames), -1, 3) - frames[:, None, :3]).reshape(len(frames), -1)
    starts = np.cumsum([0, *lengths[:-1]]).tolist()
    parts: dict[str, SequenceDataset] = {}
    for part in ("train", "validation", "test"):
        chosen = [k for k, of in enumerate(part_of) if of == part]
        if not chosen:
            names, subjects = [corpus.name for corpus in corpora], sorted({clip.subject for clip in clips})
            raise ValueError(
                f"no clip of {' and '.join(map(repr, names))} for the {part} part: there are subjects "
                f"{', '.join(subjects)} only; the split list is splits/{names[0]}.json in the library's data"
            )
        parts[part] = SequenceDataset.from_frames(
            frames,
            [starts[k] for k in chosen],
            [lengths[k] for k in chosen],
            names=[clips[k].name for k in chosen],
            sequence_length=sequence_length,
            hop=hop,
        )
    return parts


def as_splits(parts: dict[str, SequenceDataset], standardize: bool) -> Splits:
    """The parts, with a standardiser learned on the training part if that is wanted."""
    if standardize:
        standardizer = Standardizer.fit(parts["train"])
        for dataset in parts.values():
            dataset.standardizer = standardizer
    return Splits(**parts)
