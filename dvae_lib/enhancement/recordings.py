r"""The speech in a noisy recording: to the spectrogram, `separate`, and back; long recordings in pieces."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import NamedTuple, Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Complex, Float
from torch import Generator, Tensor, nn
from tqdm.auto import tqdm

from dvae_lib.data.speech.audio import AudioError
from dvae_lib.data.speech.front_end import SpeechFrontEnd, refuse_silence
from dvae_lib.devices import Device, brought_back, chosen_device, generator_on, moved
from dvae_lib.enhancement.pieces import Cut, cross_faded, cuts, weights
from dvae_lib.enhancement.separation import NUM_ITERATIONS, Separation, Settings, separate
from dvae_lib.enhancement.vem import Method, check_speech_model
from dvae_lib.extras import needed
from dvae_lib.models.base import DVAE
from dvae_lib.waveforms import Waveform, as_waveform

__all__ = ["PIECE_SECONDS", "Enhanced", "Mixture", "Progress", "Samples", "enhance", "enhance_samples"]

Progress: TypeAlias = Callable[[int, int], object]
"""Called after each piece in each iteration, with the number of those done and of all."""

# Chosen on validation speakers of LibriSpeech: 64 s in each of three noises, with the noncausal RVAE and 50 iterations
# of "peem". SI-SDR between pieces and whole, and between two seeds of the whole: stationary noise 39.2 and 37.0 dB,
# babble 36.7 and 25.4 dB, bursts 49.5 and 43.1 dB. With pieces of 15 s it is 32.7 dB in stationary noise, less than
# between seeds. In pieces of 8 s an overlap of 0.5 s gives 28.9 dB, of 1 s 35.9 dB, of 2 s no more (20 s of speech, 10
# iterations).
PIECE_SECONDS = 30.0
OVERLAP_SECONDS = 1.0

MOST_CHANNELS = 8
"""More of them are samples in the wrong place, or a batch of recordings."""


class Enhanced(NamedTuple):
    r"""An enhanced recording.

    Attributes:
        waveform: The estimate of the speech as it is in the mixture, :math:`\sqrt{g_t} s_{ft}`: of the shape of the
            recording, at its sample rate and level.
        sample_rate: Of the waveform, in Hz.
        gain: What each coefficient of the noisy spectrogram was multiplied by, between 0 and 1: the posterior mean of
            :math:`g_t v_{s,ft} / v_{x,ft}`. None for a recording in pieces, of which it would be too large.
        speech: The posterior mean of the speech variances :math:`g_t v_{s,ft}`, for the recording scaled as the model
            wants it. None for a recording in pieces.
        W: The dictionary of the noise.
        H: Its activations.
        g: The gains of the speech model.
        objective: The objective before each iteration, in nats over the whole recording (what two pieces have in
            common counts twice). For "vem" it is a lower bound
            of :math:`\log p(|\mathbf{x}|^2)`, estimated by sampling; for "peem"
            :math:`\log p(|\mathbf{x}|^2, \mathbf{z})`.
    """

    waveform: Float[Tensor, "*channels samples"]
    sample_rate: int
    gain: Float[Tensor, "frames bins"] | None
    speech: Float[Tensor, "frames bins"] | None
    W: Float[Tensor, "bins rank"]
    H: Float[Tensor, "rank frames"]
    g: Float[Tensor, " frames"]
    objective: tuple[float, ...]


@torch.inference_mode(False)  # inside it nothing could be learned
def enhance(
    model: DVAE,
    waveform: Waveform,
    sample_rate: int | None = None,
    *,
    method: Method = "peem",
    num_iterations: int = NUM_ITERATIONS,
    rank: int = 2,
    learning_rate: float | None = None,
    num_samples: int = 1,
    piece_seconds: float | None = PIECE_SECONDS,
    generator: Generator | None = None,
    progress: bool = False,
    device: Device = None,
) -> Enhanced:
    r"""Estimate the speech in a noisy recording.

    Its power spectrogram is explained as speech and noise, see `separate`; the estimate is the posterior mean
    :math:`\mathbb{E}_{q}[g_t v_{s,ft} / v_{x,ft}] \, x_{ft}`, back in the time domain.

    A recording longer than a piece is worked on in pieces of equal length that overlap by a second, and are joined by
    a cross-fade: the memory is that of a piece, whatever the length. All pieces learn the same noise, so that the
    result is that of the whole but for what the networks see beyond the ends of a piece. For files see `enhance_file`.

    Several channels are taken for one recording of the same sources. What is explained is the mean of their powers,
    the likelihood's own answer where the channels share their variances: speech that has opposite signs in two
    channels does not cancel, as in their sum. All are multiplied by the same gain, so that differences of level and
    time between the channels, from which one hears where a voice comes from, stay as they are. Channels that have
    nothing to do with each other, such as a microphone for each person, are enhanced one by one instead.

    Arguments:
        model: A DVAE of clean speech, on any device; it is not changed. See `check_speech_model`.
        waveform: The noisy recording, (samples,) or (channels, samples), on any device, a window long at least. Numbers
            of any kind that `as_waveform` takes.
        sample_rate: Of the waveform, in Hz; by default that of the model. Another one is resampled, the estimate back:
            what lies above half the model's rate is lost.
        method: "peem", a point estimate of the latents, or "vem", the inference network fine-tuned.
        num_iterations: More iterations raise the objective further, and soon no longer improve the speech.
        rank: Number K of spectra that describe the noise. Few are better unless the noise is very different from
            speech, which many describe as well.
        learning_rate: Of Adam; by default 0.02 for "peem" and 0.001 for "vem".
        num_samples: Number R of samples of the latents in an iteration of "vem". "peem" has but one point.
        piece_seconds: The longest piece. None takes any recording at once, in about 3.6 MB of memory for each second.
        generator: Source of randomness.
        progress: Show a progress bar with the remaining time.
        device: Where to compute: "auto" takes the machine's GPU where it has one; by default where the model is.

    Returns:
        The estimate, in single precision (double, where the recording is in double), on the recording's device; and
        all that was learned, on the model's.

    Raises:
        ValueError: A model that is no model of clean speech, or a waveform that cannot be enhanced.
        TypeError: Samples that are no floating-point numbers and no integers of known full scale.
        FloatingPointError: The objective became NaN or infinite.
        ImportError: Another sample rate, and the package `soxr` is missing.

    Example:
        >>> from dvae_lib.models import VAE
        >>> noisy = torch.randn(4000, generator=torch.Generator().manual_seed(0))
        >>> enhance(VAE(513, 4, observation="gamma"), noisy, num_iterations=2).waveform.shape
        torch.Size([4000])
    """
    settings = Settings(method, num_iterations, rank, learning_rate, num_samples).checked()
    check_speech_model(model)
    with tqdm(desc="Enhancing", disable=not progress, leave=False) as bar:

        def told(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        home, there = chosen_device(None, model), chosen_device(device, model)
        with brought_back(model):
            found = enhance_samples(
                model.to(there),
                as_waveform(waveform),
                sample_rate,
                settings,
                piece_seconds,
                generator_on(there, generator),
                told,
            )
        learned = {name: moved(getattr(found, name), home) for name in ("gain", "speech", "W", "H", "g")}
        return found._replace(**learned)


def enhance_samples(
    model: DVAE,
    samples: Float[Tensor, "*channels samples"],
    sample_rate: int | None,
    settings: Settings,
    piece_seconds: float | None,
    generator: Generator | None,
    progress: Progress,
) -> Enhanced:
    """What `enhance` does, with its options in one."""
    front_end = check_speech_model(model)
    model_rate = front_end.settings.sample_rate
    sample_rate = model_rate if sample_rate is None else sample_rate
    samples = _checked(samples, sample_rate)
    resampled = _resampled(samples, sample_rate, model_rate)
    peak = resampled.abs().max().item() if resampled.numel() else 0.0
    mixture = Mixture(front_end, _Held(resampled), peak, piece_seconds, next(model.parameters()))
    found = mixture.separate(model, settings, generator, progress)
    gain: Tensor | None = None
    speech: Tensor | None = None
    if len(mixture.places) == 1:
        gain, speech = found.speech(0, generator)
        estimate = mixture.estimate(0, gain)
    else:
        estimate = torch.cat(list(mixture.estimates(found, generator)), -1)
    restored = _resampled(mixture.scale * estimate.to(samples), model_rate, sample_rate, samples.shape[-1])
    return Enhanced(restored, sample_rate, gain, speech, *mixture.joined(found), found.objective)


@runtime_checkable
class Samples(Protocol):
    """A recording at the model's rate, of which a part at a time is looked at."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(samples,) or (channels, samples)."""

    def read(self, start: int, stop: int) -> Float[Tensor, "*channels samples"]:
        """The samples from `start` to before `stop`."""


@dataclass
class _Held:
    """A recording in memory."""

    samples: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.samples.shape)

    def read(self, start: int, stop: int) -> Tensor:
        return self.samples[..., start:stop]


class Mixture:
    """The spectrogram of a recording, piece by piece, and the way back.

    Arguments:
        front_end: That of the model.
        samples: The recording at the model's rate.
        peak: Its largest sample.
        piece_seconds: The longest piece; None: the whole recording is one.
        like: A tensor of the model's precision, on its device.

    Raises:
        AudioError: Silence, or less than a window.
    """

    def __init__(
        self, front_end: SpeechFrontEnd, samples: Samples, peak: float, piece_seconds: float | None, like: Tensor
    ) -> None:
        settings = front_end.settings
        self.front_end, self.samples, self.like = front_end, samples, like
        self.length = samples.shape[-1]
        if self.length < settings.window_length:
            raise AudioError(
                f"The waveform lasts {1000 * self.length / settings.sample_rate:.0f} ms, less than one window of "
                f"{1000 * settings.window_length / settings.sample_rate:.0f} ms: nothing can be estimated from it"
            )
        refuse_silence(peak, "The waveform")
        self.scale = peak if settings.normalise == "peak" else 1.0  # as in training
        num_frames = 1 + self.length // settings.hop_length
        self.places: list[Cut] = [(0, num_frames)]
        if piece_seconds is not None:
            if not piece_seconds >= 4 * OVERLAP_SECONDS:
                raise ValueError(f"piece_seconds must be {4 * OVERLAP_SECONDS:g} or more, or None; got {piece_seconds}")
            frames_per_second = settings.sample_rate / settings.hop_length
            longest, overlap = int(piece_seconds * frames_per_second), int(OVERLAP_SECONDS * frames_per_second)
            self.places = cuts(num_frames, longest, overlap)

    def spectrum(self, i: int) -> Complex[Tensor, "*channels frames bins"]:
        """The frames of piece i, which are those of the whole recording: a frame at its end sees what comes after."""
        size, hop = self.front_end.settings.window_length, self.front_end.settings.hop_length
        (first, last), margin = self.places[i], -(-size // (2 * hop))  # frames that a frame may touch on either side
        start, stop = hop * (first - margin), hop * (last - 1 + margin)
        if first == 0:
            start, before = 0, 0
        else:
            start, before = max(start, 0), margin - max(0, -start) // hop
        samples = self.samples.read(start, min(stop, self.length) if i + 1 < len(self.places) else self.length)
        spectrum = self.front_end.spectrum((samples / self.scale).to(self.like))
        return spectrum[..., before : before + last - first, :]

    def power(self, i: int) -> Float[Tensor, "frames bins"]:
        """The powers of piece i, their mean where there are several channels."""
        power = self.spectrum(i).abs().square()
        return power if power.ndim == 2 else power.mean(0)

    def separate(self, model: DVAE, settings: Settings, generator: Generator | None, progress: Progress) -> Separation:
        """Explain it as speech and noise."""
        power: Callable[[int], Tensor] = self.power
        if len(self.places) == 1:
            held = self.power(0)
            power = lambda i: held  # noqa: E731
        steps, total = count(1), settings.num_iterations * len(self.places)
        return separate(
            model,
            power,
            self.places,
            settings,
            generator=generator,
            after_piece=lambda: progress(next(steps), total),
        )

    def estimate(self, i: int, gain: Float[Tensor, "frames bins"]) -> Float[Tensor, "*channels samples"]:
        """The speech in piece i, on the CPU, as far below its level as the `scale` says."""
        start, stop = self.sample_places()[i]
        return self.front_end.from_spectrum(gain * self.spectrum(i), stop - start).cpu()

    def estimates(self, found: Separation, generator: Generator | None) -> Iterator[Float[Tensor, "*channels samples"]]:
        """The speech in the recording, part by part."""
        pieces = (self.estimate(i, found.speech(i, generator)[0]) for i in range(len(self.places)))
        return cross_faded(pieces, self.sample_places())

    def sample_places(self) -> list[Cut]:
        """From the centre of the first frame to that of the last; to the end in the last piece."""
        hop = self.front_end.settings.hop_length
        places = [(hop * first, hop * (last - 1)) for first, last in self.places]
        places[-1] = (places[-1][0], self.length)
        return places

    def joined(self, found: Separation) -> tuple[Tensor, Tensor, Tensor]:
        """The dictionary of the noise, its activations and the gains over the whole recording."""
        W, H, g = found.levels[0]
        if len(self.places) == 1:
            return W, H, g
        H, g = H.new_zeros(H.shape[0], self.places[-1][1]), g.new_zeros(self.places[-1][1])
        for (first, last), weight, piece in zip(self.places, weights(self.places), found.levels, strict=True):
            H[:, first:last] += weight.to(H) * piece.H
            g[first:last] += weight.to(g) * piece.g
        return W, H, g


def _checked(samples: Tensor, sample_rate: int) -> Tensor:
    if sample_rate < 1:
        raise ValueError(f"sample_rate must be positive; got {sample_rate}")
    if samples.ndim not in (1, 2) or (samples.ndim == 2 and not 1 <= samples.shape[0] <= MOST_CHANNELS):
        raise ValueError(
            "waveform must be one recording of shape (samples,) or (channels, samples), with at most "
            f"{MOST_CHANNELS} channels; got {tuple(samples.shape)}"
        )
    bad = (~torch.isfinite(samples)).nonzero()
    if len(bad):
        raise AudioError(f"The waveform holds {len(bad)} NaN or infinite samples, the first at {int(bad[0, -1])}")
    return samples.detach()


def _resampled(samples: Tensor, rate: int, wanted: int, num_samples: int | None = None) -> Tensor:
    """The samples at another rate; with `num_samples`, cut or filled up with zeros to that length."""
    if rate != wanted:
        soxr = needed("soxr", "Resampling")
        resampled = soxr.resample(samples.cpu().numpy().T, rate, wanted, quality="VHQ").T
        samples = torch.from_numpy(resampled.copy() if resampled.ndim > 1 else resampled).to(samples)
    if num_samples is None or num_samples == samples.shape[-1]:
        return samples
    return nn.functional.pad(samples, (0, num_samples - samples.shape[-1]))
