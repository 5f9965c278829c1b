"""A codec of speech: the spectrogram's latents in a file, and a sound from it without the phases.

What is coded are the magnitudes of the short-time Fourier transform. Phases are not coded: the decoder makes its own,
by the algorithm of Griffin and Lim (1984), which no bits are spent on, and which is heard.
"""

import struct
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from dvae_lib.coding.container import SPEECH, CodecError, Reader, Writer, check_model, fingerprint
from dvae_lib.coding.latent_code import NATURAL_STEP, Loop, encode_frames, read_latents, write_latents
from dvae_lib.coding.walking import check_codable, in_double
from dvae_lib.data.speech.audio import AudioError, read_audio
from dvae_lib.data.speech.front_end import refuse_silence
from dvae_lib.models.base import DVAE
from dvae_lib.models.front_end import front_end_of
from dvae_lib.waveforms import Waveform, as_waveform

__all__ = ["ITERATIONS", "SpeechFile", "decode_speech", "encode_speech", "model_of"]

ITERATIONS = 100
"""Rounds of Griffin and Lim's algorithm."""

_PEAK = struct.Struct("<f")


class SpeechFile(NamedTuple):
    """A coded recording.

    Attributes:
        data: The file.
        seconds: How long it is.
        code_bits: Bits of the code of the latents; the rest is the header.
        estimated_bits: The information content of the latents under the model, which the code comes near to.
        power: The power spectrogram that the decoder will have, of the recording scaled to a peak of 1.
    """

    data: bytes
    seconds: float
    code_bits: int
    estimated_bits: float
    power: Float[Tensor, "frames bins"]

    @property
    def bits_per_second(self) -> float:
        """The rate of the whole file."""
        return 8 * len(self.data) / self.seconds


@torch.no_grad()
def encode_speech(
    model: DVAE,
    recording: str | Path | Waveform,
    *,
    step: float = NATURAL_STEP,
    loop: Loop = "closed",
    name: str = "",
) -> SpeechFile:
    """Code a recording of speech: one channel, at the rate of the model's front end, without phases.

    Arguments:
        model: A model of power spectrograms; see `dvae_lib.coding.encode`.
        recording: A file (its channels are averaged and its rate is changed), or samples at the front end's rate.
        step: The quantiser's step: see `dvae_lib.coding.encode`.
        loop: See `dvae_lib.coding.encode`.
        name: The model's, for the file to say, which `model_of` gives back.

    Raises:
        AudioError: The recording cannot be read, or holds only silence.
        ValueError: The model observes no spectrograms of its front end; see also `dvae_lib.coding.encode`.
        NotImplementedError: See `dvae_lib.coding.encode`.
    """
    front_end = front_end_of(model)
    if model.standardizer is not None:
        raise ValueError(
            f"this {type(model).__name__} observes standardised spectrograms, which may decode to negative powers: "
            "take a model of powers, with observation='gamma'"
        )
    rate = front_end.settings.sample_rate
    named = str(recording) if isinstance(recording, str | Path) else "The waveform"
    if isinstance(recording, str | Path):
        waveform = read_audio(recording, rate).waveform
    else:
        waveform = as_waveform(recording, named)
    if waveform.ndim != 1 or not len(waveform):
        raise ValueError(f"{named} must be one channel of shape (samples,); got {tuple(waveform.shape)}")
    if not bool(waveform.isfinite().all()):
        raise AudioError(f"{named} holds samples that are not finite (NaN or infinity)")
    peak = float(waveform.abs().max())
    refuse_silence(peak, named)
    twin = in_double(model)
    # Models of speech were trained on recordings with a peak of 1.
    power = front_end.analyse(waveform.double() / peak).power
    found = encode_frames(twin, power, step, loop)
    writer = Writer(SPEECH)
    writer.raw(fingerprint(twin))
    writer.sized(name.encode())
    writer.number(rate)
    writer.number(len(waveform))
    writer.raw(_PEAK.pack(peak))
    write_latents(writer, twin, found)
    seconds, coded = len(waveform) / rate, 32 * len(found.words)
    return SpeechFile(writer.file(), seconds, coded, found.bits, found.reconstruction)


@torch.no_grad()
def decode_speech(
    model: DVAE, data: bytes, *, num_iterations: int = ITERATIONS, seed: int = 0
) -> tuple[Float[Tensor, " samples"], int]:
    """The recording from a file of `encode_speech`, with phases that are made up; and its sample rate.

    Arguments:
        model: The one that encoded it.
        data: The file.
        num_iterations: Rounds of Griffin and Lim's algorithm.
        seed: Of the phases that it starts from.

    Raises:
        CodecError: No such file, of another model, cut off or damaged; or this machine computes otherwise.
    """
    twin = in_double(model)
    check_codable(twin)
    reader = Reader(data, SPEECH)
    check_model(twin, reader.raw(4))
    reader.sized()
    front_end = front_end_of(model)
    rate, length = reader.number(), reader.number()
    if rate != front_end.settings.sample_rate or not length:
        raise CodecError(f"expected speech at {front_end.settings.sample_rate} Hz; got {length} samples at {rate} Hz")
    (peak,) = _PEAK.unpack(reader.raw(_PEAK.size))
    power = read_latents(reader, twin, 1 + length // front_end.settings.hop_length)
    generator = torch.Generator().manual_seed(seed)
    options: dict[str, Any] = {"num_iterations": num_iterations, "generator": generator}
    waveform = front_end.griffin_lim(power.clamp_min(front_end.settings.power_floor), length, **options)
    return (peak * waveform).float(), rate


def model_of(data: bytes) -> str:
    """The name of the model that coded a recording, as `encode_speech` was told; empty where it was not.

    Raises:
        CodecError: No file of speech, cut off or damaged.
    """
    reader = Reader(data, SPEECH)
    reader.raw(4)
    try:
        return reader.sized().decode()
    except UnicodeDecodeError as error:
        raise CodecError("the file is damaged: the name of its model is no text; copy it again") from error
