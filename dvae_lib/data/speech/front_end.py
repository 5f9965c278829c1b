r"""The speech front end: from a waveform to the power spectrogram that a model sees, and back.

A frame is the discrete Fourier transform of 64 ms of signal under a sine window; the next frame starts a
quarter of a window later. The squared magnitudes of the frames are the observed vectors :math:`x_{1:T}`. With
the phases beside them nothing is lost: `SpeechFrontEnd.synthesise` gives the waveform back.
"""

import logging
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Complex, Float
from torch import Tensor
from torch.nn import functional

from dvae_lib.data.speech.audio import AudioError, read_audio
from dvae_lib.waveforms import Waveform, as_waveform

__all__ = ["Analysis", "FrontEndSettings", "SpeechFrontEnd"]

logger = logging.getLogger("dvae_lib.data")


@dataclass(frozen=True)
class FrontEndSettings:
    """The numbers of Section 13.2.1, and what that section leaves open.

    Attributes:
        sample_rate: In Hz.
        window_length: Samples of a frame, 64 ms by default; even.
        hop_length: Samples from one frame to the next. 256 is a quarter of the window. (The review writes
            "25%-overlap", but its 50 frames last 0.8 s, which is a hop of 25 % and an overlap of 75 %.).
        window: ``"sine"``, or ``"hann"``; used for analysis and for synthesis.
        trim_db: Silence at both ends is cut off: what lies more than this many dB below the loudest frame.
            None keeps it.
        normalise: ``"peak"`` scales each utterance so that its largest sample is 1, ``"none"`` leaves it.
            Corpora are recorded at different levels, and no metric used here depends on the level.
        power_floor: No bin has less power than this. Of digital silence, exactly 0, the Itakura-Saito
            divergence is infinite and the likelihood unbounded. The default lies 26 dB below the rounding
            noise of 16-bit audio at full scale: of what was recorded, only bins that cancel by chance reach it.
    """

    sample_rate: int = 16_000
    window_length: int = 1024
    hop_length: int = 256
    window: Literal["sine", "hann"] = "sine"
    trim_db: float | None = 30.0
    normalise: Literal["peak", "none"] = "peak"
    power_floor: float = 1e-10

    def __post_init__(self) -> None:
        if self.sample_rate < 1:
            raise ValueError(f"sample_rate is positive, not {self.sample_rate}")
        if self.window_length < 4 or self.window_length % 2:
            raise ValueError(f"window_length is even and at least 4, not {self.window_length}")
        if not 1 <= self.hop_length <= self.window_length // 2:
            raise ValueError(
                f"hop_length lies between 1 and half the window, {self.window_length // 2}, not {self.hop_length}: "
                "with fewer frames the signal cannot be restored"
            )
        if self.window not in ("sine", "hann"):
            raise ValueError(f"window is 'sine' or 'hann', not {self.window!r}")
        if self.normalise not in ("peak", "none"):
            raise ValueError(f"normalise is 'peak' or 'none', not {self.normalise!r}")
        if self.trim_db is not None and not self.trim_db > 0:
            raise ValueError(f"trim_db is positive, or None to keep silence, not {self.trim_db}")
        if not (math.isfinite(self.power_floor) and self.power_floor >= 0):
            raise ValueError(f"power_floor is finite and not negative, not {self.power_floor}")

    @property
    def num_bins(self) -> int:
        """Frequencies from 0 to half the sample rate: the size of an observed vector, 513 by default."""
        return self.window_length // 2 + 1

    def seconds(self, num_frames: int) -> float:
        """How long so many frames last, one hop each: 50 frames are 0.8 s."""
        return num_frames * self.hop_length / self.sample_rate

    def to_dict(self) -> dict[str, Any]:
        """The settings as JSON data; `from_dict` restores them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> "FrontEndSettings":
        """The settings that `to_dict` wrote."""
        known = {field.name for field in fields(cls)}
        if set(state) != known:
            raise ValueError(
                f"Settings of a front end have the keys {sorted(known)}; missing {sorted(known - set(state))}, "
                f"unknown {sorted(set(state) - known)}"
            )
        return cls(**state)


class Analysis(NamedTuple):
    """A waveform as frames.

    Attributes:
        power: Squared magnitudes, (..., T, num_bins): what a model observes.
        phase: Angles in radians, (..., T, num_bins): what synthesis needs besides.
        length: Samples of the waveform.
    """

    power: Float[Tensor, "*batch frames bins"]
    phase: Float[Tensor, "*batch frames bins"]
    length: int


class SpeechFrontEnd:
    r"""Analysis and synthesis by the short-time Fourier transform, after Section 13.2.1.

    Frame t is centred on sample :math:`256\,t` (the signal is continued by zeros), so that a waveform of N samples
    has :math:`1 + \lfloor N / 256 \rfloor` frames and every sample, also the first and the last, is under a window.
    Synthesis adds the windowed inverse transforms and divides by the sum of the squared windows; it is the
    least-squares inverse of Griffin and Lim (1984), and exact where the frames come from a signal.

    Arguments:
        settings: The numbers; by default the review's.

    Example:
        >>> front_end = SpeechFrontEnd()
        >>> waveform = torch.sin(torch.arange(16_000) * 0.1)
        >>> power, phase, length = front_end.analyse(waveform)
        >>> power.shape
        torch.Size([63, 513])
        >>> bool((front_end.synthesise(power, phase, length) - waveform).abs().max() < 1e-5)
        True
    """

    def __init__(self, settings: FrontEndSettings | None = None) -> None:
        self.settings = settings or FrontEndSettings()

    def __repr__(self) -> str:
        return f"SpeechFrontEnd({self.settings})"

    def window(self, dtype: torch.dtype = torch.float32) -> Float[Tensor, " window_length"]:
        r"""The window. The sine window is :math:`w_n = \sin(\pi (n + \tfrac12) / N)`; its square is a Hann window."""
        n = torch.arange(self.settings.window_length, dtype=torch.float64, device="cpu")
        if self.settings.window == "sine":
            n = n + 0.5
        window = torch.sin(math.pi * n / self.settings.window_length)
        return (window if self.settings.window == "sine" else window.square()).to(dtype)

    def analyse(self, waveform: Waveform) -> Analysis:
        """Power and phase of each frame and frequency.

        Arguments:
            waveform: Finite samples, (..., samples), of any kind that `dvae_lib.waveforms.as_waveform` takes:
                tensors, arrays, lists; floating-point numbers, or the integers of sound files, which are scaled.

        Returns:
            Power and phase, (..., T, num_bins), and the number of samples.
        """
        waveform = as_waveform(waveform)
        spectrum = self.spectrum(waveform)
        power = spectrum.real.square() + spectrum.imag.square()
        return Analysis(power.clamp(min=self.settings.power_floor), spectrum.angle(), waveform.shape[-1])

    def spectrum(self, waveform: Waveform) -> Complex[Tensor, "*batch frames bins"]:
        """The complex short-time Fourier transform, (..., T, num_bins), of waveforms as `analyse` takes them."""
        waveform = as_waveform(waveform)
        if waveform.ndim == 0:
            raise ValueError("waveform must be of shape (..., samples); got a single number")
        if waveform.shape[-1] == 0:
            raise ValueError("There is nothing to analyse: the waveform has no samples")
        if not bool(torch.isfinite(waveform).all()):
            raise ValueError("The waveform holds samples that are not finite (NaN or infinity)")
        half = self.settings.window_length // 2
        frames = functional.pad(waveform, (half, half)).unfold(
            -1, self.settings.window_length, self.settings.hop_length
        )
        spectrum: Tensor = torch.fft.rfft(frames * self.window(waveform.dtype).to(waveform.device))
        return spectrum

    def synthesise(
        self,
        power: Float[Tensor, "*batch frames bins"],
        phase: Float[Tensor, "*batch frames bins"],
        length: int | None = None,
    ) -> Float[Tensor, "*batch samples"]:
        """The waveform whose frames come nearest, in the least-squares sense, to a power and a phase.

        Arguments:
            power: Not negative, such as a model's output.
            phase: In radians, such as that of the original signal.
            length: Samples of the waveform; by default as many as the frames surely cover.

        Returns:
            The waveform.
        """
        if bool((power < 0).any()):
            raise ValueError("power is never negative; take the exponential if these are log-powers")
        return self.from_spectrum(torch.polar(power.sqrt(), phase), length)

    def from_spectrum(
        self, spectrum: Complex[Tensor, "*batch frames bins"], length: int | None = None
    ) -> Float[Tensor, "*batch samples"]:
        """The inverse of `spectrum`."""
        size, hop = self.settings.window_length, self.settings.hop_length
        *batch, num_frames, num_bins = spectrum.shape
        if num_bins != self.settings.num_bins or num_frames == 0:
            raise ValueError(
                f"Expected frames of {self.settings.num_bins} bins, one frame at least; "
                f"got {num_frames} frames of {num_bins}"
            )
        covered = hop * (num_frames - 1)
        length = max(covered, 1) if length is None else length
        if not 1 <= length < covered + hop:
            raise ValueError(
                f"{num_frames} frames stand for {max(covered, 1)} to {covered + hop - 1} samples, not for {length}"
            )
        frames = torch.fft.irfft(spectrum, n=size)
        window = self.window(frames.dtype).to(frames.device)
        added = _overlap_add((frames * window).reshape(-1, num_frames, size), hop)
        weight = _overlap_add(window.square().expand(1, num_frames, size), hop)
        inside = slice(size // 2, size // 2 + length)
        return (added[:, inside] / weight[:, inside]).reshape(*batch, length)

    def griffin_lim(
        self,
        power: Float[Tensor, "*batch frames bins"],
        length: int | None = None,
        *,
        num_iterations: int = 100,
        momentum: float = 0.99,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "*batch samples"]:
        """A waveform with about this power spectrogram, where no phase is known.

        From random phases, synthesis and analysis alternate: each round keeps the phase of what it got and
        puts the wanted magnitudes back. The momentum is that of Perraudin et al. (2013), "A fast Griffin-Lim
        algorithm"; 0 gives the original of Griffin and Lim (1984), whose error never grows.

        Arguments:
            power: The power spectrogram wanted.
            length: Samples of the waveform.
            num_iterations: Rounds.
            momentum: At least 0, below 1 is safe.
            generator: Of the first phases.

        Returns:
            The waveform.
        """
        magnitude = power.sqrt()
        device = "cpu" if generator is None else generator.device
        uniform = torch.rand(power.shape, generator=generator, dtype=power.dtype, device=device).to(power.device)
        phase = 2 * math.pi * uniform
        spectrum = torch.polar(magnitude, phase)
        previous = torch.zeros_like(spectrum)
        for _ in range(num_iterations):
            consistent = self.spectrum(self.from_spectrum(spectrum, length))
            ahead = consistent + momentum * (consistent - previous)
            spectrum, previous = torch.polar(magnitude, ahead.angle()), consistent
        return self.from_spectrum(spectrum, length)

    def read(self, path: str | Path) -> Float[Tensor, " samples"]:
        """Read an audio file and prepare it; channels mixed and rates changed are said in the log.

        Arguments:
            path: See `dvae_lib.data.read_audio`.

        Returns:
            The waveform, trimmed and normalised.
        """
        audio = read_audio(path, self.settings.sample_rate)
        for change in audio.changes:
            logger.warning("%s: %s.", path, change)
        return self.prepare(audio.waveform, name=str(path))

    def prepare(self, waveform: Waveform, *, name: str = "The waveform") -> Float[Tensor, " samples_kept"]:
        """Cut off silence at both ends and normalise, as the settings say.

        Arguments:
            waveform: One channel at the settings' rate, (samples,); see `analyse`.
            name: What to call it in an error.

        Returns:
            The prepared waveform.

        Raises:
            AudioError: If there is only silence.
            ValueError: If it is not one channel.
        """
        waveform = as_waveform(waveform, name)
        if waveform.ndim != 1:
            raise ValueError(f"{name} must be one channel of shape (samples,); got {tuple(waveform.shape)}")
        peak = waveform.abs().max() if waveform.numel() else waveform.new_zeros(())
        refuse_silence(float(peak), name)
        if self.settings.trim_db is not None:
            waveform = self._trimmed(waveform, self.settings.trim_db)
        if self.settings.normalise == "none":
            return waveform.clone()
        return waveform / waveform.abs().max()  # the peak of what is kept, not of a click in what was cut off

    def _trimmed(self, waveform: Tensor, trim_db: float) -> Tensor:
        """From the first to the last frame whose energy is within ``trim_db`` of the loudest."""
        size, hop = self.settings.window_length, self.settings.hop_length
        frames = functional.pad(waveform, (size // 2, size // 2)).unfold(0, size, hop)
        energy = frames.double().square().sum(-1)
        loud = (energy > energy.max() * 10 ** (-trim_db / 10)).nonzero().flatten()
        return waveform[int(loud[0]) * hop : min(int(loud[-1] + 1) * hop, len(waveform))]


def refuse_silence(peak: float, name: str) -> None:
    """Refuse a recording whose largest sample is next to nothing: it cannot be normalised."""
    if peak < 1e-6:  # below the last bit of 16-bit audio by a factor of thirty
        raise AudioError(f"{name} holds only silence (its largest sample is {peak:.1e}). Remove it")


def _overlap_add(frames: Tensor, hop: int) -> Tensor:
    """Sum of frames (batch, T, size) laid one hop apart, (batch, samples)."""
    total = (frames.shape[1] - 1) * hop + frames.shape[2]
    # `fold` is the adjoint of `unfold`, which is what overlap-add is.
    return functional.fold(frames.transpose(1, 2), (1, total), (1, frames.shape[2]), stride=(1, hop))[:, 0, 0]
