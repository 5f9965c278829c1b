"""Noise to mix with speech, and the mixing: made from a seed, at a signal-to-noise ratio that is exact."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from dvae_lib.waveforms import Waveform, as_waveform

__all__ = ["babble", "bursts", "coloured_noise", "mix", "pink_noise", "speech_shaped_noise"]


def mix(speech: Waveform, noise: Waveform, snr_db: float) -> Float[Tensor, "*batch samples"]:
    """Speech and noise, the noise scaled so that the energies of both over the whole recording have a given ratio.

    Arguments:
        speech: Left as it is; of any kind that `dvae_lib.waveforms.as_waveform` takes, as are all sounds here.
        noise: Of the shape of the speech.
        snr_db: The signal-to-noise ratio, in dB.

    Raises:
        ValueError: Different lengths, or a signal without energy.
    """
    if not math.isfinite(snr_db) or abs(snr_db) > 300:
        raise ValueError(f"snr_db must lie between -300 and 300; got {snr_db}")
    speech, noise = as_waveform(speech, "the speech"), as_waveform(noise, "the noise")
    if speech.shape != noise.shape:
        raise ValueError(f"speech has {speech.numel():,} samples, the noise {noise.numel():,}: make them equally long")
    energies = [float(signal.double().square().sum()) for signal in (speech, noise)]
    for name, energy in zip(("speech", "noise"), energies, strict=True):
        if not 0 < energy < math.inf:
            raise ValueError(f"the {name} has an energy of {energy}: there is no signal-to-noise ratio")
    return speech + noise * math.sqrt(energies[0] / energies[1] / 10 ** (snr_db / 10))


def coloured_noise(
    num_samples: int, spectrum: Float[Tensor, " bins"], generator: Generator | None = None
) -> Float[Tensor, " num_samples"]:
    """Gaussian noise with a given power spectrum, of mean power 1.

    Arguments:
        num_samples: How long.
        spectrum: Powers at frequencies from 0 to half the sample rate, evenly spaced; in between they are
            interpolated.
        generator: Source of randomness.
    """
    _check_length(num_samples)
    if not bool((spectrum >= 0).all()):
        raise ValueError("a power spectrum must not be negative")
    white = torch.randn(num_samples, dtype=spectrum.dtype, device=spectrum.device, generator=generator)
    transform = torch.fft.rfft(white)
    power = torch.nn.functional.interpolate(
        spectrum[None, None], size=transform.shape[0], mode="linear", align_corners=True
    )[0, 0]
    return _unit_power(torch.fft.irfft(transform * power.sqrt(), n=num_samples))


def pink_noise(num_samples: int, generator: Generator | None = None) -> Float[Tensor, " num_samples"]:
    """Gaussian noise whose power falls by 3 dB per octave, as that of many natural sounds; of mean power 1."""
    frequency = torch.arange(num_samples // 2 + 1, dtype=torch.float32, device=_device(generator)).clamp_min(1.0)
    return coloured_noise(num_samples, frequency.reciprocal(), generator)


def speech_shaped_noise(
    speech: Waveform, num_samples: int, generator: Generator | None = None
) -> Float[Tensor, " num_samples"]:
    """Stationary Gaussian noise with the long-term spectrum of a recording, of mean power 1.

    Arguments:
        speech: The recording, at least 512 samples.
        num_samples: How long the noise is.
        generator: Source of randomness.
    """
    speech = as_waveform(speech, "the speech")
    if speech.ndim != 1:
        raise ValueError(f"speech must be one channel of shape (samples,); got {tuple(speech.shape)}")
    if speech.shape[0] < 512:
        raise ValueError(f"a spectrum needs 512 samples of speech; got {speech.shape[0]}")
    frames = speech.unfold(0, 512, 256) * torch.hann_window(512, dtype=speech.dtype, device=speech.device)
    return coloured_noise(num_samples, torch.fft.rfft(frames).abs().square().mean(0), generator)


def bursts(
    num_samples: int, sample_rate: int = 16_000, generator: Generator | None = None
) -> Float[Tensor, " num_samples"]:
    """Noise that comes and goes: over quiet pink noise, about two bursts a second, each in a band of its own.

    A burst rises quickly and dies away within 50 to 400 ms; the centre of its band starts between 200 and 6,000 Hz and
    glides by up to half an octave (never above 0.4 of the sample rate). Mean power 1.

    Arguments:
        num_samples: How long.
        sample_rate: In Hz.
        generator: Source of randomness.
    """
    _check_length(num_samples)
    if sample_rate < 1:
        raise ValueError(f"sample_rate must be positive; got {sample_rate}")
    noise = 0.1 * pink_noise(num_samples, generator)
    for _ in range(max(1, round(2 * num_samples / sample_rate))):
        start, lasting, pitch, glide, loudness = torch.rand(
            5, dtype=torch.float32, device=noise.device, generator=generator
        ).tolist()
        first, duration = int(start * num_samples), 0.05 + 0.35 * lasting
        length = min(int(duration * sample_rate), num_samples - first)
        time = torch.arange(length, dtype=torch.float32, device=noise.device) / sample_rate
        envelope = (time / 0.01).clamp_max(1) * torch.exp(-5 * time / duration)
        centre = (200 * 30**pitch * 2 ** ((glide - 0.5) * time / duration)).clamp_max(0.4 * sample_rate)
        # Slow noise times a carrier: a band of 300 Hz around the carrier.
        slow = _band_limited(len(time), 150 / sample_rate, generator)
        burst = envelope * slow * torch.sin(2 * math.pi * centre.cumsum(0) / sample_rate)
        noise[first : first + len(time)] += 10 ** (loudness / 2) * burst
    return _unit_power(noise)


def babble(
    voices: Sequence[Waveform], num_samples: int, generator: Generator | None = None
) -> Float[Tensor, " num_samples"]:
    """Many people talking at once: the sum of voices of equal power, each begun at random and repeated. Mean power 1.

    Arguments:
        voices: Recordings at one sample rate, of any length.
        num_samples: How long the babble is.
        generator: Source of randomness.
    """
    _check_length(num_samples)
    signals = [as_waveform(voice, f"voice {i}") for i, voice in enumerate(voices)]
    if not signals:
        raise ValueError("babble needs a voice at least; got none")
    for i, voice in enumerate(signals):
        if voice.ndim != 1 or not len(voice):
            raise ValueError(f"voice {i} must be of shape (samples,), not empty; got {tuple(voice.shape)}")
    total = torch.zeros(num_samples, dtype=torch.float32, device=signals[0].device)
    for voice in signals:
        start = int(torch.randint(voice.shape[0], (), generator=generator, device=_device(generator)))
        levelled = _unit_power(voice.roll(-start))
        total += levelled.repeat(-(-num_samples // len(levelled)))[:num_samples]
    return _unit_power(total)


def _band_limited(num_samples: int, cutoff: float, generator: Generator | None) -> Tensor:
    """White noise below a frequency, in cycles per sample; of mean power 1."""
    spectrum = torch.fft.rfft(
        torch.randn(num_samples, dtype=torch.float32, device=_device(generator), generator=generator)
    )
    spectrum[1 + math.ceil(cutoff * num_samples) :] = 0
    return _unit_power(torch.fft.irfft(spectrum, n=num_samples))


def _device(generator: Generator | None) -> torch.device:
    """Where to draw: there where the source of randomness is, whatever the default device."""
    return torch.device("cpu") if generator is None else generator.device


def _unit_power(signal: Tensor) -> Tensor:
    power = signal.square().mean()
    if not bool(power > 0):
        raise ValueError("a signal without power cannot be brought to a level: it is silent")
    return signal / power.sqrt()


def _check_length(num_samples: int) -> None:
    if num_samples < 1:
        raise ValueError(f"num_samples must be at least 1; got {num_samples}")
