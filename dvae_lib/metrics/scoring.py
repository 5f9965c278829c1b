"""Scores of many recordings, in parallel processes."""

import math
import os
import pickle
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias, cast

import numpy.typing as npt
import torch

from dvae_lib.extras import needed
from dvae_lib.metrics.itu_pesq import may_be_lost
from dvae_lib.metrics.processes import ProcessDied, map_in_processes
from dvae_lib.metrics.registry import METRICS, Metric, metrics_of
from dvae_lib.metrics.speech import UndefinedScoreError, as_array
from dvae_lib.metrics.table import ScoreTable
from dvae_lib.waveforms import Waveform

__all__ = ["speech_metrics"]

Batch: TypeAlias = npt.NDArray[Any] | torch.Tensor

# A process needs about three seconds to start: give it at least that much to do.
_RECORDINGS_PER_PROCESS = 8


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
        return as_array(source, role)
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


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _bar(items: Iterable[Any], total: int, progress: bool) -> Iterable[Any]:
    if not progress:
        return items
    from tqdm.auto import tqdm

    return cast(Iterable[Any], tqdm(items, total=total, desc="Scoring", unit="recording", leave=False))
