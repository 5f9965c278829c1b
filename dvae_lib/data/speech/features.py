"""Power spectrograms of many files, computed once and then mapped into memory."""

import hashlib
import json
import logging
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm.auto import tqdm

from dvae_lib.data.places import cache_folder, one_at_a_time, whole_or_nothing
from dvae_lib.data.speech.audio import AudioError, read_audio
from dvae_lib.data.speech.front_end import SpeechFrontEnd

__all__ = ["Features", "power_spectrograms"]

logger = logging.getLogger("dvae_lib.data")

# Part of every key. It goes up whenever the code here, or what it calls, gives other numbers.
_VERSION = 1


class Features(NamedTuple):
    """The frames of many files, one after the other.

    Attributes:
        frames: (N, num_bins), float32, a copy-on-write memory map of the cache.
        starts: First frame of each file.
        lengths: Frames of each file.
    """

    frames: NDArray[np.float32]
    starts: list[int]
    lengths: list[int]


def power_spectrograms(
    files: Sequence[Path], front_end: SpeechFrontEnd, *, label: str = "speech", progress: bool = True
) -> Features:
    """Power spectrograms of files, from the cache where they have been computed before.

    The key is made of the settings and the *contents* of the files in their order, so a changed file, another
    setting or another order gives another entry, and the same recordings elsewhere on the disk do not.

    Arguments:
        files: Audio files.
        front_end: What computes the spectrograms.
        label: For the progress bar and messages.
        progress: Show a progress bar.

    Returns:
        All frames, and where those of each file are.

    Raises:
        AudioError: If files are damaged, silent or not audio. All of them are read before this is raised, so
            that the message names them together.
        OSError: On a full disk, with nothing left on it.
    """
    key = _key(files, front_end)
    folder = cache_folder() / "features" / key
    if (cached := _load(folder)) is not None:
        return cached
    with one_at_a_time(folder.with_name(f".{key}.lock")):
        if (cached := _load(folder)) is not None:  # another process was faster
            return cached
        with whole_or_nothing(folder) as draft, _one_thread():
            _compute(files, front_end, draft, label, progress)
    loaded = _load(folder)
    if loaded is None:
        raise OSError(f"The cache entry {folder} disappeared while it was made. Try again")
    return loaded


def _key(files: Sequence[Path], front_end: SpeechFrontEnd) -> str:
    digest = hashlib.sha256(json.dumps([_VERSION, front_end.settings.to_dict()], sort_keys=True).encode())
    for file in files:
        content = file.read_bytes() if file.is_file() else b""  # what is missing is reported by the reader
        # The ending is part of it, because raw G.722 is told by that alone.
        digest.update(file.suffix.lower().encode() + b"\0" + hashlib.sha256(content).digest())
    return digest.hexdigest()[:32]


def _load(folder: Path) -> Features | None:
    """The entry in a folder; None, and the folder removed, where it is missing or damaged."""
    index_file, frames_file = folder / "index.json", folder / "frames.f32"
    if not folder.is_dir():
        return None
    try:
        index = json.loads(index_file.read_text(encoding="utf-8"))
        lengths, num_bins = index["lengths"], index["num_bins"]
        shape = (sum(lengths), num_bins)
        if frames_file.stat().st_size != 4 * shape[0] * shape[1]:
            raise ValueError("the frames do not have the size that the index says")
        # Copy-on-write: torch wants memory that may be written to, and the file must never be.
        frames = np.memmap(frames_file, dtype="<f4", mode="c", shape=shape)
    except (OSError, ValueError, KeyError, TypeError) as error:
        logger.warning("The cache entry %s is damaged (%s) and is made again.", folder, error)
        shutil.rmtree(folder, ignore_errors=True)
        return None
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(int).tolist()
    return Features(frames, starts, lengths)


@contextmanager
def _one_thread() -> Iterator[None]:
    """One utterance is too little work to share: on a busy machine, two threads took eight times as long as one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _compute(files: Sequence[Path], front_end: SpeechFrontEnd, folder: Path, label: str, progress: bool) -> None:
    lengths: list[int] = []
    problems: list[str] = []
    changes: Counter[str] = Counter()
    with (folder / "frames.f32").open("wb") as out:
        for file in tqdm(files, desc=f"{label}: spectrograms", unit=" files", disable=not progress):
            try:
                audio = read_audio(file, front_end.settings.sample_rate)
                waveform = front_end.prepare(audio.waveform, name=str(file))
            except (AudioError, FileNotFoundError) as error:
                problems.append(str(error))
                continue
            if problems:  # nothing will come of it, so read on only to find the other bad files
                continue
            changes.update(audio.changes)
            power = front_end.analyse(waveform).power.to(torch.float32)
            lengths.append(len(power))
            out.write(power.numpy().astype("<f4", copy=False).tobytes())
        out.flush()
        os.fsync(out.fileno())
    if problems:
        shown = "\n".join(problems[:10])
        more = f"\n... and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise AudioError(f"{len(problems)} of {len(files)} files of {label} cannot be used:\n{shown}{more}")
    for change, count in sorted(changes.items()):
        logger.warning("%s: %d of %d files %s.", label, count, len(files), change)
    if any("hold nothing above" in change for change in changes):
        logger.warning(
            "%s: a likelihood of powers (gamma) grows without end where nothing is. Analyse such files at their own "
            "rate: FrontEndSettings(sample_rate=...).",
            label,
        )
    index = {"lengths": lengths, "num_bins": front_end.settings.num_bins, "settings": front_end.settings.to_dict()}
    (folder / "index.json").write_text(json.dumps(index), encoding="utf-8")
