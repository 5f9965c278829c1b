"""Audio files in blocks: recordings of any length in little memory, with all their channels."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dvae_lib.data.speech.audio import (
    COMPRESSED_SUFFIXES,
    AudioError,
    compressed,
    cut_short,
    opened,
    refuse_missing,
)
from dvae_lib.extras import needed

__all__ = ["AudioStream", "stream_audio"]

BLOCK = 2**17
"""Samples of a channel that are read at once."""

_G722_RATE = 16_000


class AudioStream(NamedTuple):
    """A file that is open.

    Attributes:
        sample_rate: In Hz.
        num_channels: Of which each block has a column.
        blocks: (samples, channels) in single precision, one after the other, full scale at 1.
    """

    sample_rate: int
    num_channels: int
    blocks: Iterator[NDArray[np.float32]]


@contextmanager
def stream_audio(path: str | Path) -> Iterator[AudioStream]:
    """Open an audio file to read it block by block. See `dvae_lib.data.read_audio` for what can be read.

    Raises:
        FileNotFoundError: If there is no such file.
        AudioError: If it is empty, cut short, not audio, of an unsupported coding, or holds samples that are not
            finite; the last two show while it is read.
        ImportError: If the package that reads it is missing.
    """
    path = Path(path)
    refuse_missing(path)
    if path.suffix.lower() == ".g722":
        yield AudioStream(_G722_RATE, 1, _checked(path, _g722_blocks(path), None))
        return
    if path.suffix.lower() in COMPRESSED_SUFFIXES:
        with compressed(path) as (rate, channels, decoded):
            yield AudioStream(rate, channels, _checked(path, decoded, None))
        return
    with opened(path) as file:
        blocks = (file.read(BLOCK, dtype="float32", always_2d=True) for _ in count())
        yield AudioStream(file.samplerate, file.channels, _checked(path, blocks, file.frames))


def _g722_blocks(path: Path) -> Iterator[NDArray[np.float32]]:
    codec = needed("G722", "Reading this audio").G722(_G722_RATE, 64_000)
    with path.open("rb") as file:
        while coded := file.read(BLOCK // 2):  # two samples a byte; the codec keeps its state
            yield np.asarray(codec.decode(coded), dtype=np.float32)[:, None] / np.float32(32_768)


def _checked(path: Path, blocks: Iterator[Any], expected: int | None) -> Iterator[NDArray[np.float32]]:
    """The blocks that hold something, until one does not."""
    found = 0
    for block in blocks:
        if not len(block):
            break
        finite = np.isfinite(block).all(axis=1)
        if not finite.all():
            raise AudioError(
                f"{path} holds samples that are not finite, the first at {found + int(np.argmin(finite))}. Export it "
                "again, or remove it"
            )
        found += len(block)
        yield block
    if expected is not None and found < expected:
        raise cut_short(path, f"{expected:,} samples", f"{found:,}")
    if not found:
        raise AudioError(f"{path} holds no samples; expected audio. Remove it, or fetch or copy it again")
