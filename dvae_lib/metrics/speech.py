"""How close resynthesised speech is to its original: SI-SDR, PESQ and ESTOI of waveforms."""

import contextlib
import math
import os
import pickle
import warnings
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias, cast

import numpy as np
import numpy.typing as npt
import torch

from dvae_lib.extras import needed
from dvae_lib.metrics.itu_pesq import Band, NoScore, may_be_lost, mos_lqo
from dvae_lib.metrics.processes import ProcessDied, map_in_processes
from dvae_lib.metrics.registry import METRICS, Metric, metrics_of, register_metric
from dvae_lib.metrics.table import ScoreTable
from dvae_lib.waveforms import Waveform, as_waveform

__all__ = ["SPEECH_METRICS", "UndefinedScoreError", "estoi", "pesq", "raw_pesq", "si_sdr", "speech_metrics"]

Samples: TypeAlias = npt.NDArray[np.float64]
Batch: TypeAlias = npt.NDArray[Any] | torch.Tensor

# Below -120 dB re full scale, under the step of 16-bit audio, the packages' own constants take over.
_SILENCE_RMS = 1e-6
# P.862 itself asks for recordings of 8 to 20 s.
_PESQ_LONGEST_S = 40.0
# A process needs about three seconds to start: give it at least that much to do.
_RECORDINGS_PER_PROCESS = 8


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


def speech_metrics(
    references: Sequence[Waveform | str | Path] | Batch,
    estimates: Sequence[Waveform | str | Path] | Batch,
    *,
    sample_rate: int = 16_000,
    metrics: Sequence[str] | None = None,
    names: Sequence[str] | None = None,
    num_workers: int | None = None,
    progress: bool = False,
    missing: Literal["error", "nan"] = "error",
) -> ScoreTable:
    """SI-SDR, PESQ and ESTOI of many recordings, in parallel processes.

    The table is in the order of the input and the same for any number of processes. These are fresh interpreters:
    nothing is forked from a program that runs torch, CUDA or a notebook, and a script needs no
    ``if __name__ == "__main__"``. Where compiled code takes a process down, the recording gets NaN and the reason; the
    others are scored.

    Arguments:
        references: The originals: a list of waveforms of shape (samples,) and of audio files, or a batch of shape
            (recordings, samples). Of waveforms all kinds that `dvae_lib.waveforms.as_waveform` takes.
        estimates: The resynthesised signals in the same order.
        sample_rate: Of the arrays, in Hz. Files carry their own, and have to agree pairwise.
        metrics: Names of measures of speech, see `metrics_of`. Default: all whose package is installed, with a warning
            that names the others.
        names: Names for the table and for errors. Default: the file of the estimate, or ``"recording 0"``.
        num_workers: Processes; 0 computes here. Default: one per core, but none for a handful of recordings.
        progress: Whether to show a progress bar.
        missing: What a measure becomes that was asked for and whose package is not installed: an error, or a column of
            NaN with a warning, for pages that show several measures.

    Returns:
        One row per recording. Undefined scores are NaN; `ScoreTable.reasons` says why.

    Raises:
        ValueError: Lists of different lengths, no recordings, or a recording that cannot be compared, by its name.
        ImportError: A measure was asked for whose package is missing.
    """
    _refuse_one(references, "references")
    _refuse_one(estimates, "estimates")
    if len(references) != len(estimates):
        raise ValueError(f"There are {len(references)} references but {len(estimates)} estimates")
    if len(references) == 0:
        raise ValueError("There are no recordings to score")
    if names is None:
        names = [str(e) if isinstance(e, str | Path) else f"recording {i}" for i, e in enumerate(estimates)]
    elif len(names) != len(references):
        raise ValueError(f"There are {len(names)} names for {len(references)} recordings")
    asked = _installed() if metrics is None else tuple(metrics)
    lacking: dict[str, str] = {}
    for metric in asked:
        if metric not in metrics_of("speech"):
            raise ValueError(f"metrics: {metric!r} is none of {', '.join(metrics_of('speech'))}")
        try:
            METRICS[metric].require()
        except ImportError as error:
            if missing == "error":
                raise
            lacking[metric] = str(error).rstrip(".")
            warnings.warn(f"NaN in the table. {error}", stacklevel=2)
    measured = tuple(METRICS[metric] for metric in asked if metric not in lacking)
    if num_workers is None:
        num_workers = min(_cores(), len(references) // _RECORDINGS_PER_PROCESS)
    if num_workers < 0:
        raise ValueError(f"num_workers must be 0 or more, not {num_workers}")
    if not all(map(_is_importable, measured)):
        num_workers = 0

    tasks = [
        _Task(
            name, _sendable(reference, name, "reference"), _sendable(estimate, name, "estimate"), sample_rate, measured
        )
        for name, reference, estimate in zip(names, references, estimates, strict=True)
    ]
    results = _score_all(tasks, num_workers, progress)
    return ScoreTable(
        tuple(names),
        {
            metric: tuple(math.nan if metric in lacking else result.scores[metric] for result in results)
            for metric in asked
        },
        {
            (task.name, metric): reason
            for task, result in zip(tasks, results, strict=True)
            for metric, reason in {**lacking, **result.reasons}.items()
        },
    )


class _Task(NamedTuple):
    name: str
    reference: npt.NDArray[Any] | Path
    estimate: npt.NDArray[Any] | Path
    sample_rate: int
    metrics: tuple[Metric, ...]


class _Result(NamedTuple):
    scores: dict[str, float]
    reasons: dict[str, str]


def _score_in_worker(task: _Task) -> _Result:
    """In a process of its own already: what a crash costs is seen to by who started it."""
    may_be_lost()
    return _score(task)


def _score(task: _Task) -> _Result:
    try:
        s, rate = _read(task.reference, task.sample_rate)
        s_hat, rate_hat = _read(task.estimate, task.sample_rate)
        if rate != rate_hat:
            raise ValueError(f"the reference is sampled at {rate:,} Hz, the estimate at {rate_hat:,} Hz. Resample one")
        result = _Result({}, {})
        for metric in task.metrics:
            try:
                assert metric.function is not None
                result.scores[metric.name] = float(metric.function(s, s_hat, sample_rate=rate))
            except UndefinedScoreError as undefined:
                result.scores[metric.name], result.reasons[metric.name] = math.nan, str(undefined)
        return result
    except (ValueError, TypeError, OSError) as error:
        raise ValueError(f"{task.name}: {error}") from error


def _score_all(tasks: Sequence[_Task], num_workers: int, progress: bool) -> list[_Result]:
    if num_workers == 0:
        return [_score(task) for task in _bar(tasks, len(tasks), progress)]
    results: list[_Result] = []
    for task, result in zip(
        tasks, _bar(map_in_processes(_score_in_worker, tasks, num_workers), len(tasks), progress), strict=True
    ):
        if not isinstance(result, ProcessDied):
            results.append(result)
        elif len(task.metrics) == 1:
            reason = f"the process that computed it {result}"
            results.append(_Result({task.metrics[0].name: math.nan}, {task.metrics[0].name: reason}))
        else:  # which measure was it? Each on its own, so that the others are not lost
            alone = [task._replace(metrics=(metric,)) for metric in task.metrics]
            parts = _score_all(alone, 1, progress=False)
            results.append(
                _Result(
                    {metric: score for part in parts for metric, score in part.scores.items()},
                    {metric: reason for part in parts for metric, reason in part.reasons.items()},
                )
            )
    return results


def _as_array(waveform: Waveform, role: str) -> npt.NDArray[Any]:
    array: npt.NDArray[Any] = as_waveform(waveform, f"the {role}").detach().cpu().numpy()
    return array


def _comparable(reference: Waveform, estimate: Waveform) -> tuple[Samples, Samples]:
    pair = []
    for role, waveform in (("reference", reference), ("estimate", estimate)):
        samples = _as_array(waveform, role)
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


def _read(source: npt.NDArray[Any] | Path, sample_rate: int) -> tuple[npt.NDArray[Any], int]:
    if not isinstance(source, Path):
        return source, sample_rate
    soundfile = needed("soundfile", "Reading audio files")
    if not source.is_file():
        raise FileNotFoundError(f"{source} does not exist")
    try:
        samples, rate = soundfile.read(source, dtype="float64", always_2d=True)
    except soundfile.SoundFileError as error:
        raise ValueError(f"{source} is not an audio file that can be read ({error})") from None
    if samples.shape[1] != 1:
        raise ValueError(f"{source} has {samples.shape[1]} channels. Mix it to one first")
    return samples[:, 0], int(rate)


def _sendable(source: Waveform | str | Path, name: str, role: str) -> npt.NDArray[Any] | Path:
    if isinstance(source, str | Path):
        return Path(source)
    try:
        return _as_array(source, role)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name}: {error}") from None


def _refuse_one(recordings: Any, role: str) -> None:
    """A single file would be taken for a list of letters, and a single waveform for one of numbers."""
    one = isinstance(recordings, str | Path)
    if one or getattr(recordings, "ndim", 2) < 2:
        raise TypeError(
            f"{role} must be a list of recordings, or a batch of shape (recordings, samples); got "
            + (f"the one file {str(recordings)!r}" if one else f"one array of shape {tuple(recordings.shape)}")
            + "; put it into a list"
        )


def _installed() -> tuple[str, ...]:
    present = []
    for name in metrics_of("speech"):
        try:
            METRICS[name].require()
        except ImportError as missing:
            warnings.warn(f"Left out of the table. {missing}", stacklevel=3)
        else:
            present.append(name)
    return tuple(present)


def _is_importable(metric: Metric) -> bool:
    """Whether another process can compute it: not what a notebook or a script has defined."""
    function: Any = getattr(metric.function, "func", metric.function)
    try:
        pickle.dumps(metric)
    except (pickle.PicklingError, AttributeError, TypeError):
        return False
    return bool(function.__module__ != "__main__")


@contextlib.contextmanager
def _fixed_numpy_seed() -> Iterator[None]:
    state = np.random.get_state()  # noqa: NPY002 - pystoi draws from the global generator
    np.random.seed(0)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(state)  # noqa: NPY002


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _bar(items: Iterable[Any], total: int, progress: bool) -> Iterable[Any]:
    if not progress:
        return items
    from tqdm.auto import tqdm

    return cast(Iterable[Any], tqdm(items, total=total, desc="Scoring", unit="recording", leave=False))


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
