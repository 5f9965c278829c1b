"""The speech in a noisy sound file of any length: read, enhanced and written piece by piece."""

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeAlias, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from dvae_lib.data.speech.audio import AudioError
from dvae_lib.data.speech.audio_stream import stream_audio
from dvae_lib.enhancement.recordings import MOST_CHANNELS, PIECE_SECONDS, Mixture, Progress, enhance_samples
from dvae_lib.enhancement.separation import NUM_ITERATIONS, Settings
from dvae_lib.enhancement.vem import Method, check_speech_model
from dvae_lib.extras import needed, require
from dvae_lib.files import written_whole
from dvae_lib.models.base import DVAE

__all__ = ["SOUND_FILES", "EnhancedFile", "enhance_file"]

SOUND_FILES = {".wav": ("WAV", "PCM_16"), ".flac": ("FLAC", "PCM_24")}
"""What can be written, by the ending: WAV of 16 bits, which is what every player reads, and FLAC of 24."""

_LARGEST_WAV = 2**32 - 2**16
"""Bytes of samples: the header counts them with 32 bits. Beyond, RF64 is the same with 64."""


class EnhancedFile(NamedTuple):
    """What was enhanced.

    Attributes:
        seconds: How long it is.
        num_channels: All of them are in the result.
        peak: The largest sample of the recording. What exceeds 1 in the result is cut off.
        clipped: The share of the recording's samples at full scale that have a neighbour there.
    """

    seconds: float
    num_channels: int
    peak: float
    clipped: float


@torch.inference_mode(False)
def enhance_file(
    model: DVAE,
    recording: str | Path,
    output: str | Path,
    *,
    method: Method = "peem",
    num_iterations: int = NUM_ITERATIONS,
    rank: int = 2,
    learning_rate: float | None = None,
    num_samples: int = 1,
    piece_seconds: float = PIECE_SECONDS,
    generator: Generator | None = None,
    progress: Progress = lambda done, total: None,
) -> EnhancedFile:
    """Take the noise off a sound file.

    The result has the sample rate, the length, the channels and the level of the recording. It is that of `enhance`,
    whatever the length; the memory is that of a piece and, for an hour, some 50 MB of latents. Meanwhile the samples
    stand on the disk, beside the output: 230 MB for an hour of one channel at 16 kHz. The output is there as a whole
    or not at all; until then an old one stays.

    Arguments:
        model: See `enhance`, as for all that is not here.
        recording: WAV, FLAC, Ogg, MP3, ...: see `dvae_lib.data.read_audio`.
        output: Ends in .wav (16 bits) or .flac (24 bits). What is there is replaced, be it the recording itself.
        method: How the latents are found.
        num_iterations: Of the method.
        rank: Number of spectra that describe the noise.
        learning_rate: Of Adam.
        num_samples: Of the latents in an iteration of "vem".
        piece_seconds: The longest piece.
        generator: Source of randomness, on the model's device.
        progress: Called after each piece in each iteration, with the number of those done and of all.

    Raises:
        ValueError: See `enhance`; another ending of the output.
        AudioError: The recording cannot be read or enhanced; the message names it.
        OSError: The output cannot be written.
        ImportError: A package is missing that reads or writes sound.
    """
    require("soundfile", "Reading and writing sound files")
    recording, output = Path(recording), Path(output)
    front_end = check_speech_model(model)
    settings = Settings(method, num_iterations, rank, learning_rate, num_samples).checked()
    if output.suffix.lower() not in SOUND_FILES:
        raise ValueError(f"output must end in {' or '.join(SOUND_FILES)}; got {output.name}")
    model_rate = front_end.settings.sample_rate
    try:
        with tempfile.TemporaryFile(dir=output.parent) as store:
            with stream_audio(recording) as stream:
                rate, channels = stream.sample_rate, stream.num_channels
                if channels > MOST_CHANNELS:
                    raise AudioError(f"It has {channels} channels; at most {MOST_CHANNELS} can be enhanced")
                original, resampled = _Survey(), _Survey()
                for block in resampled.of(_at_rate(original.of(stream.blocks), rate, model_rate, channels)):
                    store.write(block.tobytes())
            samples = _Stored(cast(BinaryIO, store), resampled.length, channels)
            mixture = Mixture(front_end, samples, resampled.peak, piece_seconds, next(model.parameters()))
            with _written(output, rate, channels, original.length) as file:
                if len(mixture.places) == 1:  # the very result of `enhance`, which resamples all at once
                    waveform = _whole(recording)
                    whole = enhance_samples(model, waveform, rate, settings, None, generator, progress)
                    file.write(whole.waveform.numpy().T)
                else:
                    found = mixture.separate(model, settings, generator, progress)
                    parts = (mixture.scale * part.to(torch.float32) for part in mixture.estimates(found, generator))
                    blocks = (part.reshape(channels, -1).numpy().T for part in parts)
                    for block in _of_length(_at_rate(blocks, model_rate, rate, channels), original.length, channels):
                        file.write(block)
    except AudioError as error:
        if str(recording) in str(error):
            raise
        raise AudioError(f"{recording}: {error}") from None
    return EnhancedFile(
        original.length / rate, channels, original.peak, original.clipped / (original.length * channels)
    )


Block: TypeAlias = NDArray[np.float32]
"""(samples, channels)."""


@dataclass
class _Survey:
    """What one learns of a recording by going through it once."""

    length: int = 0
    peak: float = 0.0
    clipped: int = 0

    def of(self, blocks: Iterable[Block]) -> Iterator[Block]:
        """The blocks, looked at as they pass."""
        for block in blocks:
            full = np.abs(block) >= 1 - 2**-15
            beside = np.pad(full[1:] & full[:-1], ((1, 1), (0, 0)))  # a single one may just be the peak
            self.clipped += int((beside[1:] | beside[:-1]).sum())
            self.peak = max(self.peak, float(np.abs(block).max(initial=0)))
            self.length += len(block)
            yield block


@dataclass
class _Stored:
    """Samples in a file, as `Mixture` reads them."""

    file: BinaryIO
    length: int
    num_channels: int

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.length,) if self.num_channels == 1 else (self.num_channels, self.length)

    def read(self, start: int, stop: int) -> Tensor:
        self.file.seek(4 * self.num_channels * start)
        data = bytearray(self.file.read(4 * self.num_channels * (stop - start)))
        samples = torch.frombuffer(data, dtype=torch.float32)
        return samples if self.num_channels == 1 else samples.reshape(-1, self.num_channels).T


def _whole(recording: Path) -> Tensor:
    """A short recording, all of it."""
    with stream_audio(recording) as stream:
        samples = torch.from_numpy(np.concatenate(list(stream.blocks)).T.copy())
    return samples if len(samples) > 1 else samples[0]


def _at_rate(blocks: Iterable[Block], rate: int, wanted: int, channels: int) -> Iterator[Block]:
    """The blocks at another rate."""
    if rate == wanted:
        yield from blocks
        return
    soxr = needed("soxr", "Resampling")
    stream = soxr.ResampleStream(rate, wanted, channels, dtype="float32", quality="VHQ")
    for block in blocks:
        yield stream.resample_chunk(np.ascontiguousarray(block)).reshape(-1, channels)
    yield stream.resample_chunk(np.zeros((0, channels), np.float32), last=True).reshape(-1, channels)


def _of_length(blocks: Iterable[Block], length: int, channels: int) -> Iterator[Block]:
    """The blocks, cut or filled up with zeros to a length."""
    for block in blocks:
        yield block[:length]
        length -= min(length, len(block))
    yield np.zeros((length, channels), np.float32)


@contextmanager
def _written(output: Path, rate: int, channels: int, length: int) -> Iterator[Any]:
    """A sound file to write into, which takes its name when it is complete, and leaves nothing when it is not."""
    soundfile = needed("soundfile", "Writing sound files")
    kind, coding = SOUND_FILES[output.suffix.lower()]
    if kind == "WAV" and 2 * channels * length > _LARGEST_WAV:
        kind = "RF64"
    with (
        written_whole(output) as raw,
        soundfile.SoundFile(raw, "w", rate, channels, format=kind, subtype=coding) as file,
    ):
        yield file
