r"""Wiener filters: speech estimated from the variances of speech and noise, and two classical ways to find these.

One uses no training (`classical_wiener`), one a dictionary of clean speech (`nmf_wiener`). They are what a deep model
of speech is to be compared with.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from dvae_lib.data.speech import SpeechFrontEnd
from dvae_lib.enhancement.nmf import FLOOR, check_power, factorise, factors_variance
from dvae_lib.waveforms import Waveform, as_waveform

__all__ = [
    "Filtered",
    "classical_wiener",
    "decision_directed_gain",
    "nmf_wiener",
    "track_noise",
    "wiener_gain",
]


class Filtered(NamedTuple):
    """A filtered recording.

    Attributes:
        waveform: The estimate of the speech.
        gain: What each coefficient of the noisy spectrogram was multiplied by, between 0 and 1.
    """

    waveform: Float[Tensor, " samples"]
    gain: Float[Tensor, "frames bins"]


def wiener_gain(
    speech: Float[Tensor, "*batch frames bins"], noise: Float[Tensor, "*#batch frames bins"]
) -> Float[Tensor, "*batch frames bins"]:
    r"""The gain :math:`v_s / (v_s + v_b)` of the posterior mean of a complex Gaussian in complex Gaussian noise.

    Where :math:`x = s + b` with independent :math:`s \sim \mathcal{N}_c(0, v_s)` and
    :math:`b \sim \mathcal{N}_c(0, v_b)`, :math:`s | x` is complex Gaussian with mean :math:`\frac{v_s}{v_s + v_b} x`
    and variance :math:`\frac{v_s v_b}{v_s + v_b}`.

    Arguments:
        speech: Speech variances :math:`v_s`.
        noise: Noise variances :math:`v_b`.
    """
    return speech / (speech + noise)


def track_noise(power: Float[Tensor, "frames bins"]) -> Float[Tensor, "frames bins"]:
    r"""Noise variances from a noisy power spectrogram alone, frame by frame.

    Each bin's probability that speech is present, given the noise variance so far and a fixed a-priori SNR of 15 dB,
    weighs whether the frame tells about the noise:

    .. math::
        P = \Big(1 + (1 + \xi) \, e^{-\frac{|x|^2}{v_b} \frac{\xi}{1 + \xi}}\Big)^{-1}, \qquad
        v_b \leftarrow 0.8 \, v_b + 0.2 \, \big((1 - P) |x|^2 + P \, v_b\big)

    A probability that stays above 0.99 is held there, or the estimate could not follow a jump of the noise. The first
    five frames are taken for noise. The constants are the authors', for frames 16 ms apart. In noise alone the estimate
    settles about 1 dB too low, because loud frames of noise pass for speech.

    Arguments:
        power: The noisy powers :math:`|x_{ft}|^2`.

    Source: Gerkmann and Hendriks (2012), "Unbiased MMSE-based noise power estimation with low complexity and low
    tracking delay".
    """
    check_power(power)
    snr = 10**1.5
    noise = power[:5].mean(0).clamp_min(FLOOR)
    smoothed = torch.full_like(noise, 0.5)
    tracked = []
    for frame in power:
        present = 1 / (1 + (1 + snr) * torch.exp(-frame / noise * snr / (1 + snr)))
        smoothed = 0.9 * smoothed + 0.1 * present
        present = torch.where(smoothed > 0.99, present.clamp_max(0.99), present)
        noise = (0.8 * noise + 0.2 * ((1 - present) * frame + present * noise)).clamp_min(FLOOR)
        tracked.append(noise)
    return torch.stack(tracked)


def decision_directed_gain(
    power: Float[Tensor, "frames bins"],
    noise: Float[Tensor, "frames bins"],
    *,
    smoothing: float = 0.98,
    floor_db: float = -25.0,
) -> Float[Tensor, "frames bins"]:
    r"""The Wiener gain with the decision-directed estimate of the a-priori SNR.

    .. math::
        \hat\xi_t = \alpha \frac{|\hat{s}_{t-1}|^2}{v_{b,t-1}}
        + (1 - \alpha) \max\Big(\frac{|x_t|^2}{v_{b,t}} - 1, 0\Big), \qquad
        \hat{s}_t = \frac{\hat\xi_t}{1 + \hat\xi_t} x_t

    Arguments:
        power: The noisy powers :math:`|x_{ft}|^2`.
        noise: The noise variances :math:`v_{b,ft}`.
        smoothing: The weight :math:`\alpha` of the frame before, which keeps single bins from ringing (musical noise).
        floor_db: The least a-priori SNR, in dB.

    Source: Ephraim and Malah (1984), "Speech enhancement using a minimum mean-square error short-time spectral
    amplitude estimator".
    """
    if not 0.0 <= smoothing < 1.0:
        raise ValueError(f"smoothing must be at least 0 and below 1; got {smoothing}")
    check_power(power)
    least = 10 ** (floor_db / 10)
    posterior_snr = power / noise
    estimate = (posterior_snr[0] - 1).clamp_min(0)  # nothing came before: the first frame alone
    gains = []
    for snr in posterior_snr:
        prior_snr = (smoothing * estimate + (1 - smoothing) * (snr - 1).clamp_min(0)).clamp_min(least)
        gain = prior_snr / (1 + prior_snr)
        estimate = gain.square() * snr
        gains.append(gain)
    return torch.stack(gains)


def classical_wiener(waveform: Waveform, front_end: SpeechFrontEnd | None = None) -> Filtered:
    """Enhance without any training: `track_noise`, then `decision_directed_gain`.

    Arguments:
        waveform: The noisy recording, (samples,), at the front end's rate; see `dvae_lib.waveforms.as_waveform`.
        front_end: By default the review's.
    """
    front_end, waveform = front_end or SpeechFrontEnd(), _one_channel(waveform)
    power = front_end.analyse(waveform).power
    return _filtered(waveform, decision_directed_gain(power, track_noise(power)), front_end)


def nmf_wiener(
    waveform: Waveform,
    dictionary: Float[Tensor, "bins speech_rank"],
    front_end: SpeechFrontEnd | None = None,
    *,
    rank: int = 8,
    num_iterations: int = 100,
    generator: Generator | None = None,
) -> Filtered:
    r"""Enhance with a dictionary of clean speech (semi-supervised NMF).

    The noisy spectrogram is factorised into the dictionary, whose activations are found, and columns for the noise,
    of which everything is found; then the Wiener gain is applied.

    Arguments:
        waveform: The noisy recording, (samples,), at the front end's rate; see `dvae_lib.waveforms.as_waveform`.
        dictionary: Spectra of speech: the :math:`\mathbf{W}` of `factorise` on clean speech.
        front_end: The one that the dictionary was made with; by default the review's.
        rank: Number of spectra for the noise.
        num_iterations: Multiplicative updates.
        generator: Source of the first factors.

    Source: Smaragdis, Raj and Shashanka (2007), "Supervised and semi-supervised separation of sounds from
    single-channel mixtures", with the Itakura-Saito divergence of Févotte et al. (2009).
    """
    front_end, waveform = front_end or SpeechFrontEnd(), _one_channel(waveform)
    if dictionary.shape[0] != front_end.settings.num_bins:
        raise ValueError(
            f"the dictionary has spectra of {dictionary.shape[0]} bins, the front end gives "
            f"{front_end.settings.num_bins}: make both with the same front end"
        )
    power = front_end.analyse(waveform).power
    W, H, _ = factorise(power, rank, num_iterations=num_iterations, fixed=dictionary, generator=generator)
    k = dictionary.shape[1]
    gain = wiener_gain(factors_variance(W[:, :k], H[:k]), factors_variance(W[:, k:], H[k:]))
    return _filtered(waveform, gain, front_end)


def _one_channel(waveform: Waveform) -> Tensor:
    samples = as_waveform(waveform)
    if samples.ndim != 1:
        raise ValueError(f"waveform must be one channel of shape (samples,); got {tuple(samples.shape)}")
    return samples


def _filtered(waveform: Tensor, gain: Tensor, front_end: SpeechFrontEnd) -> Filtered:
    return Filtered(front_end.from_spectrum(gain * front_end.spectrum(waveform), waveform.shape[-1]), gain)
