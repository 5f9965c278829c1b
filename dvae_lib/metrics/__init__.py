"""How close a resynthesised signal is to its original: the measures of the review's Section 13.2.4.

For speech waveforms: SI-SDR, PESQ (narrow- and wide-band) and ESTOI. For human motion: MPJPE. Of forecasts that
are distributions: CRPS and the coverage of intervals.
`speech_metrics` scores lists of files or arrays in parallel processes and gives a `ScoreTable`.

A measure that does not exist for a signal (PESQ of silence, say) raises `UndefinedScoreError` when a
function is called for one pair; in a table it is NaN, with its reason in ``ScoreTable.reasons``. What cannot
be compared at all (different lengths, NaN samples, another sample rate) is an error everywhere.
"""

from dvae_lib.metrics.disentanglement import InformationGap, mutual_information_gap
from dvae_lib.metrics.forecasts import coverage, crps
from dvae_lib.metrics.motion import mpjpe
from dvae_lib.metrics.registry import METRICS, Metric, metrics_of, register_metric
from dvae_lib.metrics.scoring import speech_metrics
from dvae_lib.metrics.sequences import rmse
from dvae_lib.metrics.speech import (
    SPEECH_METRICS,
    UndefinedScoreError,
    estoi,
    pesq,
    raw_pesq,
    si_sdr,
)
from dvae_lib.metrics.table import ScoreTable, Summary

__all__ = [
    "METRICS",
    "SPEECH_METRICS",
    "InformationGap",
    "Metric",
    "ScoreTable",
    "Summary",
    "UndefinedScoreError",
    "coverage",
    "crps",
    "estoi",
    "metrics_of",
    "mpjpe",
    "mutual_information_gap",
    "pesq",
    "raw_pesq",
    "register_metric",
    "rmse",
    "si_sdr",
    "speech_metrics",
]
