"""How close resynthesised speech is to its original: SI-SDR, PESQ and ESTOI of waveforms."""

import contextlib
import math
import warnings
from collections.abc import Iterator
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from dvae_lib.metrics.itu_pesq import Band, NoScore, mos_lqo
from dvae_lib.metrics.registry import METRICS, Metric, metrics_of, register_metric
from dvae_lib.waveforms import Waveform, as_waveform

__all__ = ["SPEECH_METRICS", "UndefinedScoreError", "estoi", "pesq", "raw_pesq", "si_sdr"]

Samples: TypeAlias = npt.NDArray[np.float64]

# Below -120 dB re full scale, under the step of 16-bit audio, the packages' own constants take over.
_SILENCE_RMS = 1e-6
# P.862 itself asks for recordings of 8 to 20 s.
_PESQ_LONGEST_S = 40.0


class UndefinedScoreError(ValueError):
    """The measure has no value for this pair of signals (silence, no utterance found, too short)."""


def si_sdr(reference: Waveform, estimate: Waveform, *, zero_mean: bool = False) -> float:
    r"""Scale-invariant signal-to-distortion ratio in dB.

    .. math:: 10 \log_{10} \frac{\| \alpha s \|^2}{\| \alpha s - \hat{s} \|^2}, \qquad
              \alpha = \frac{\hat{s}^\top s}{\| s \|^2}

    The means are kept by default, as in the definition. A constant offset of the estimate therefore counts as
    distortion; ``zero_mean=True`` removes it from both signals first. A perfect copy gives a large finite number
    (rounding), not infinity.

    Arguments:
        reference: The original :math:`s`, shape (samples,).
        estimate: The resynthesised :math:`\hat{s}`, same shape; its scale does not matter.
        zero_mean: Whether to subtract each signal's mean first.

    Returns:
        The ratio in dB; higher is better.

    Raises:
        UndefinedScoreError: One of the signals is silent.
        ValueError: Not one channel, different lengths, no samples, or NaN.

    References:
        Le Roux, Wisdom, Erdogan, Hershey (2019). SDR: half-baked or well done? ICASSP.

    Example:
        An error orthogonal to the signal, of a hundredth of its energy, is 20 dB below it:

        >>> import numpy as np
        >>> phase = np.arange(1000) * 2 * np.pi / 100
        >>> round(si_sdr(np.sin(phase), 3 * (np.sin(phase) + 0.1 * np.cos(phase))), 6)
        20.0
    """
    s, s_hat = _comparable(reference, estimate)
    _refuse_silence(s, s_hat)
    if zero_mean:
        s, s_hat = s - s.mean(), s_hat - s_hat.mean()
    tiny = np.finfo(np.float64).eps
    target = (s_hat @ s + tiny) / (s @ s + tiny) * s
    noise = target - s_hat
    return float(10 * np.log10((target @ target + tiny) / (noise @ noise + tiny)))


def pesq(
    reference: Waveform,
    estimate: Waveform,
    *,
    sample_rate: int = 16_000,
    band: Band = "narrow",
) -> float:
    """Perceptual evaluation of speech quality, on the listening scale MOS-LQO.

    Narrow-band scores follow ITU-T P.862 with the mapping of P.862.1 (1.02 to 4.55), wide-band scores P.862.2 (1.04 to
    4.64); the two differ much and must not be mixed. The range [-0.5, 4.5] that the review names is that of the raw
    narrow-band score before the mapping: `raw_pesq` undoes it. The package `pesq` computes the value, in a
    process of its own that the first call starts: its C code overruns its memory where a recording has 50 utterances or
    more, which ends a process or gives a wrong score.

    Arguments:
        reference: The original, shape (samples,), up to 40 s.
        estimate: The resynthesised signal, same shape.
        sample_rate: In Hz: 8,000 or 16,000; wide-band needs 16,000.
        band: ``"narrow"`` (telephone band) or ``"wide"`` (50 to 7,000 Hz).

    Returns:
        The predicted mean opinion score; higher is better.

    Raises:
        UndefinedScoreError: Silence, no utterance found, shorter than a quarter of a second, longer than 40 s, pauses
            for 50 utterances or more, or the process was lost.
        ValueError: Signals that cannot be compared, or a sample rate that PESQ does not know.
        ImportError: `pesq` is missing; the message says how to get it.

    References:
        Rix, Beerends, Hollier, Hekstra (2001). Perceptual evaluation of speech quality (PESQ). ICASSP.
    """
    if band not in ("narrow", "wide"):
        raise ValueError(f"band must be 'narrow' or 'wide', not {band!r}")
    allowed = (8_000, 16_000) if band == "narrow" else (16_000,)
    if sample_rate not in allowed:
        rates = " or ".join(f"{rate:,}" for rate in allowed)
        raise ValueError(
            f"PESQ {band}-band is defined at {rates} Hz, but sample_rate is {sample_rate:,}. Resample both first"
        )
    s, s_hat = _comparable(reference, estimate)
    METRICS["pesq_nb"].require()
    _refuse_silence(s, s_hat)
    if s.size > _PESQ_LONGEST_S * sample_rate:
        raise UndefinedScoreError(
            f"{s.size / sample_rate:.1f} s are too long for PESQ (at most {_PESQ_LONGEST_S:.0f} s). Cut the recording "
            "into parts"
        )
    try:
        return mos_lqo(s, s_hat, sample_rate, band)
    except NoScore as reason:
        raise UndefinedScoreError(str(reason)) from None


def raw_pesq(mos_lqo: float) -> float:
    r"""The raw narrow-band PESQ score in [-0.5, 4.5], from the MOS-LQO that `pesq` gives.

    Inverts the mapping of ITU-T P.862.1, :math:`y = 0.999 + 4 / (1 + e^{-1.4945 x + 4.6607})`. Older packages, and the
    range that the review names, use the raw score.

    Arguments:
        mos_lqo: A narrow-band score in (0.999, 4.999); NaN gives NaN.

    Example:
        >>> round(raw_pesq(4.0), 3)
        3.855
    """
    if math.isnan(mos_lqo):
        return math.nan
    if not 0.999 < mos_lqo < 4.999:
        raise ValueError(f"A narrow-band MOS-LQO lies between 0.999 and 4.999, not {mos_lqo}")
    return (4.6607 - math.log((4.999 - mos_lqo) / (mos_lqo - 0.999))) / 1.4945


def estoi(reference: Waveform, estimate: Waveform, *, sample_rate: int = 16_000) -> float:
    """Extended short-time objective intelligibility, in [-1, 1] and for speech almost always in [0, 1].

    The package `pystoi` computes the value; it resamples to 10 kHz and leaves out frames in which the reference is more
    than 40 dB below its loudest. What it adds at random to the last digits is drawn from a fixed seed here.

    Arguments:
        reference: The original, shape (samples,).
        estimate: The resynthesised signal, same shape; its scale does not matter.
        sample_rate: In Hz.

    Returns:
        The mean correlation; higher is better.

    Raises:
        UndefinedScoreError: Silence, or fewer than 30 active frames (0.4 s of speech).
        ValueError: Signals that cannot be compared, or a sample rate that is not a positive whole number.
        ImportError: `pystoi` is missing.

    References:
        Jensen, Taal (2016). An algorithm for predicting the intelligibility of speech masked by modulated noise
        maskers. IEEE/ACM Transactions on Audio, Speech, and Language Processing.
    """
    if sample_rate != int(sample_rate) or sample_rate <= 0:
        raise ValueError(f"sample_rate must be a positive whole number of Hz, not {sample_rate}")
    s, s_hat = _comparable(reference, estimate)
    METRICS["estoi"].require()
    from pystoi import stoi

    _refuse_silence(s, s_hat)
    # pystoi cuts windows of 25.6 ms and cannot handle a signal that holds none.
    too_short = f"ESTOI needs 30 active frames (0.4 s of speech); {s.size / sample_rate:.2f} s hold fewer"
    if s.size < 0.06 * sample_rate:
        raise UndefinedScoreError(too_short)
    with warnings.catch_warnings(), _fixed_numpy_seed():
        warnings.filterwarnings("error", message="Not enough STFT frames", category=RuntimeWarning)
        try:
            # An ndarray's own scalar type: keep the rate a plain int, pystoi divides it in place.
            return float(stoi(s, s_hat, int(sample_rate), extended=True))
        except RuntimeWarning:
            raise UndefinedScoreError(too_short) from None


def as_array(waveform: Waveform, role: str) -> npt.NDArray[Any]:
    """A waveform on the host; what is none is refused by its role."""
    array: npt.NDArray[Any] = as_waveform(waveform, f"the {role}").detach().cpu().numpy()
    return array


def _comparable(reference: Waveform, estimate: Waveform) -> tuple[Samples, Samples]:
    pair = []
    for role, waveform in (("reference", reference), ("estimate", estimate)):
        samples = as_array(waveform, role)
        if samples.ndim != 1:
            raise ValueError(f"the {role} must be one channel of shape (samples,), not {samples.shape}")
        bad = np.flatnonzero(~np.isfinite(samples))
        if bad.size:
            raise ValueError(f"the {role} holds {bad.size} NaN or infinite samples, the first at {bad[0]}")
        pair.append(samples.astype(np.float64))
    s, s_hat = pair
    if s.size != s_hat.size:
        raise ValueError(f"the reference has {s.size} samples, the estimate {s_hat.size}. Cut or pad one to the other")
    if s.size == 0:
        raise ValueError("the signals hold no samples")
    return s, s_hat


def _refuse_silence(s: Samples, s_hat: Samples) -> None:
    for role, samples in (("reference", s), ("estimate", s_hat)):
        if samples.std() < _SILENCE_RMS:  # a constant is not heard either
            raise UndefinedScoreError(f"the {role} is silent (below -120 dB)")


@contextlib.contextmanager
def _fixed_numpy_seed() -> Iterator[None]:
    state = np.random.get_state()  # noqa: NPY002 - pystoi draws from the global generator
    np.random.seed(0)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(state)  # noqa: NPY002


def _si_sdr(reference: Waveform, estimate: Waveform, *, sample_rate: int) -> float:
    """Called as all measures of speech are; a ratio of energies is the same at any rate."""
    return si_sdr(reference, estimate)


register_metric(Metric("si_sdr", "SI-SDR", "dB", 1, "higher", _si_sdr, "speech"))
register_metric(
    Metric("pesq_nb", "PESQ narrow-band", "MOS-LQO", 2, "higher", partial(pesq, band="narrow"), "speech", "pesq")
)
register_metric(
    Metric("pesq_wb", "PESQ wide-band", "MOS-LQO", 2, "higher", partial(pesq, band="wide"), "speech", "pesq")
)
register_metric(Metric("estoi", "ESTOI", "", 2, "higher", estoi, "speech", "pystoi"))
register_metric(Metric("pesq", "PESQ", "raw", 2, "higher", kind="speech"))  # by `raw_pesq`, of the narrow-band score

SPEECH_METRICS = metrics_of("speech")
"""The library's own measures of speech."""
