"""Audio files: what is read, how it becomes one channel at one rate, and what is refused."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from dvae_lib.extras import needed

__all__ = ["AUDIO_SUFFIXES", "Audio", "AudioError", "read_audio"]

COMPRESSED_SUFFIXES = frozenset((".aac", ".m4a", ".m4b", ".mp4", ".wma"))
"""Endings of the files that libsndfile does not read, and FFmpeg's libraries do."""

AUDIO_SUFFIXES = COMPRESSED_SUFFIXES | frozenset(
    (
        ".aif",
        ".aiff",
        ".au",
        ".caf",
        ".flac",
        ".g722",
        ".mp3",
        ".oga",
        ".ogg",
        ".opus",
        ".rf64",
        ".snd",
        ".sph",
        ".w64",
        ".wav",
        ".wave",
        ".wv1",
    )
)
"""Endings of the files taken for audio in a folder."""

_READING = "Reading this audio"

_ASF = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")  # how WMA files begin
_ASF_FILE = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")  # how their file properties begin
_MP4_BOXES = frozenset(
    (
        *(b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"uuid", b"moof", b"mfra", b"meta"),
        *(b"styp", b"sidx", b"ssix", b"pdin", b"prft", b"emsg"),
    )
)


class AudioError(ValueError):
    """A file that is not the audio it should be; the message names it, says what is wrong and what to do."""


class Audio(NamedTuple):
    """What was read from a file.

    Attributes:
        waveform: (samples,), one channel, full scale at 1.
        changes: What was done to get there, such as ``"resampled from 44,100 to 16,000 Hz"``.
    """

    waveform: Float[Tensor, " samples"]
    changes: tuple[str, ...]


def read_audio(path: str | Path, sample_rate: int = 16_000) -> Audio:
    """Read an audio file as one channel at the given rate.

    Read are the formats of libsndfile (WAV, FLAC, Ogg, MP3, AIFF, ... and uncompressed NIST SPHERE) and raw
    G.722 (``.g722``, 64 kbit/s, which is 16 kHz); AAC and WMA (``.m4a``, ``.mp4``, ``.aac``, ``.wma``) where the
    package av is installed, the extra "m4a". A file that is shorter than it says is refused; raw AAC (``.aac``) does
    not say. Several channels are averaged. Another rate is resampled by soxr at very
    high quality.

    Arguments:
        path: The file.
        sample_rate: Of the waveform returned, in Hz.

    Returns:
        The waveform, and what was changed on the way.

    Raises:
        FileNotFoundError: If there is no such file.
        AudioError: If it is empty, cut short, not audio, of an unsupported coding, or holds samples that are
            not finite.
        ImportError: If the package that reads it is missing.
    """
    path = Path(path)
    refuse_missing(path)
    suffix = path.suffix.lower()
    if suffix in COMPRESSED_SUFFIXES:
        with compressed(path) as (rate, channels, blocks):
            samples = np.concatenate([np.empty((0, channels), np.float32), *blocks])
    else:
        samples, rate = _decode_g722(path) if suffix == ".g722" else _decode(path)
    if samples.size == 0:
        raise AudioError(f"{path} holds no samples; expected audio. Remove it, or fetch or copy it again")
    finite = np.isfinite(samples).all(axis=1)
    if not finite.all():
        raise AudioError(
            f"{path} holds samples that are not finite: {np.count_nonzero(~finite)} of {len(samples)}, the first at "
            f"{int(np.argmin(finite))}. Export it again, or remove it"
        )
    changes: list[str] = []
    if samples.shape[1] > 1:
        changes.append(f"{samples.shape[1]} channels averaged to one")
    mono = samples.mean(axis=1, dtype=np.float32)
    if rate != sample_rate:
        empty = f", and hold nothing above {rate // 2:,} Hz" if rate < sample_rate else ""
        changes.append(f"resampled from {rate:,} to {sample_rate:,} Hz{empty}")
        mono = needed("soxr", "Resampling").resample(mono, rate, sample_rate, quality="VHQ")
    return Audio(torch.from_numpy(np.ascontiguousarray(mono)), tuple(changes))


def refuse_missing(path: Path) -> None:
    """Refuse a file that is not there, or is empty."""
    if not path.is_file():
        raise FileNotFoundError(f"There is no audio file {path}")
    if path.stat().st_size == 0:
        raise AudioError(f"{path} is empty (0 bytes); expected audio. Fetch or copy it again")


def _decode_g722(path: Path) -> tuple[NDArray[np.float32], int]:
    codec = needed("G722", _READING).G722(16_000, 64_000)
    samples = np.asarray(codec.decode(path.read_bytes()), dtype=np.float32)
    return samples[:, None] / np.float32(32_768), 16_000


def _decode(path: Path) -> tuple[NDArray[np.float32], int]:
    with opened(path) as file:
        samples, rate, expected = file.read(dtype="float32", always_2d=True), file.samplerate, file.frames
    if len(samples) < expected:
        raise cut_short(path, f"{expected:,} samples", f"{len(samples):,}")
    return samples, rate


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A `soundfile.SoundFile`; what it cannot read, or would read as something else, is refused with the reason."""
    soundfile = needed("soundfile", _READING)
    with path.open("rb") as stream:
        head = stream.read(4096)
    if head.startswith(b"NIST_1A"):
        _refuse_sphere_problems(path, head)
    elif head[:4] in (b"RIFF", b"FORM"):
        _refuse_short_riff(path, head)
    try:
        with soundfile.SoundFile(path) as file:
            yield file
    except soundfile.LibsndfileError as error:
        text = all(32 <= byte < 127 or byte in b"\t\r\n" for byte in head)
        seems = "It looks like a text file." if text else "It may be cut short or damaged, or of another format."
        raise AudioError(
            f"{path} cannot be read as audio ({error.error_string}). {seems} Fetch or copy it again, convert it to "
            "WAV or FLAC, or remove it"
        ) from error


@contextmanager
def compressed(path: Path) -> Iterator[tuple[int, int, Iterator[NDArray[np.float32]]]]:
    """A file that FFmpeg's libraries decode: its rate, its channels, and its samples in blocks, (samples, channels)."""
    av = needed("av", f"Reading {path.suffix.lower()} files", "m4a")
    if (present := path.stat().st_size) < (promised := _promised_bytes(path)):  # FFmpeg reads what is there
        raise cut_short(path, f"{promised:,} bytes", f"{present:,}")
    with _decoding_explained(path, av), av.open(str(path)) as container:
        if not container.streams.audio:
            raise AudioError(f"{path} holds no sound; expected audio. Remove it, or choose another file")
        frames = container.decode(container.streams.audio[0])
        first = next(frames, None)
        if first is None:
            raise AudioError(f"{path} holds no samples; expected audio. Remove it, or fetch or copy it again")
        yield first.sample_rate, first.layout.nb_channels, _blocks(path, av, first, frames)


def _promised_bytes(path: Path) -> int:
    """How long an MP4 or ASF file says it is; 0 where it says nothing, as raw AAC."""
    with path.open("rb") as stream:
        head = stream.read(1 << 16)
        if head[4:8] == b"ftyp":
            return _end_of_boxes(stream, path.stat().st_size)
    at = head.find(_ASF_FILE) if head.startswith(_ASF) else -1
    properties = head[at : at + 92] if at > 0 else b""
    if len(properties) < 92 or properties[88] & 1:  # a broadcast, whose writer did not know the length
        return 0
    return int.from_bytes(properties[40:48], "little")


def _end_of_boxes(stream: BinaryIO, size: int) -> int:
    """Where the last of the boxes ends that stand one after another in an MP4 file."""
    end = 0
    while end + 8 <= size:
        stream.seek(end)
        box = stream.read(16)
        length = int.from_bytes(box[:4], "big")
        if length == 1:  # the length stands behind the name, in 64 bits
            length = int.from_bytes(box[8:16], "big")
        if length < 8 or box[4:8] not in _MP4_BOXES:  # to the end of the file, or tags that others have appended
            break
        end += length
    return end


def _blocks(path: Path, av: Any, first: Any, frames: Iterator[Any]) -> Iterator[NDArray[np.float32]]:
    """The samples of decoded frames, channel by channel in floating point, whatever the codec gives."""
    convert = av.AudioResampler(format="fltp")
    with _decoding_explained(path, av):
        for frame in chain((first,), frames, (None,)):  # None empties what the converter still holds
            yield from (np.ascontiguousarray(part.to_ndarray().T, np.float32) for part in convert.resample(frame))


@contextmanager
def _decoding_explained(path: Path, av: Any) -> Iterator[None]:
    try:
        yield
    except av.FFmpegError as error:
        raise AudioError(
            f"{path} cannot be read as audio ({error.strerror}). It may be cut short or damaged, or of another format. "
            "Fetch or copy it again, convert it to WAV or FLAC, or remove it"
        ) from error


def _refuse_sphere_problems(path: Path, head: bytes) -> None:
    """What libsndfile passes over in silence, or reads as noise, in a NIST SPHERE file."""
    fields = dict(re.findall(rb"(\w+) -[irs]\d* (\S+)", head.split(b"end_head")[0]))
    coding = fields.get(b"sample_coding", b"pcm").decode("ascii", "replace")
    if "," in coding:  # such as pcm,embedded-shorten-v2.00, as on the discs of WSJ0
        raise AudioError(
            f"{path} is a SPHERE file with the coding {coding!r}; only uncompressed ones can be read. Convert the "
            "corpus once with the LDC's sph2pipe: 'sph2pipe -f wav in.wv1 out.wav'. Keep the folders as they are; "
            "the files may end in .wav or keep the ending .wv1"
        )
    try:
        count, width, channels = (int(fields[key]) for key in (b"sample_count", b"sample_n_bytes", b"channel_count"))
        header_size = int(head[8:16])
    except (KeyError, ValueError) as error:
        raise AudioError(f"{path} has a damaged SPHERE header; copy it again") from error
    promised, present = count * width * channels, path.stat().st_size - header_size
    if present < promised:
        raise cut_short(path, f"{promised:,} bytes of samples", f"{max(present, 0):,}")


def _refuse_short_riff(path: Path, head: bytes) -> None:
    """A WAV or AIFF file says how long it is; libsndfile reads what is there of a shorter one without a word."""
    declared = int.from_bytes(head[4:8], "little" if head[:4] == b"RIFF" else "big") + 8
    # Writers that cannot seek back leave a number that says nothing: 0 or the largest one (ffmpeg), the largest whole
    # pages of 31 bits (sox), 2 GiB of samples (arecord).
    says_nothing = declared <= 8 or declared >= 0xFFFFFF00 or 0x7FFFF000 <= declared <= 0x80000100
    if not says_nothing and path.stat().st_size < declared:
        raise cut_short(path, f"{declared:,} bytes", f"{path.stat().st_size:,}")


def cut_short(path: Path, expected: str, found: str) -> AudioError:
    """The error of a file that holds less than it says."""
    return AudioError(
        f"{path} is cut short: its header promises {expected}, there are {found}. Fetch or copy it again."
    )
