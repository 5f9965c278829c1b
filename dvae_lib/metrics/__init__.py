"""How close a resynthesised signal is to its original: the measures of the review's Section 13.2.4.

For speech waveforms: SI-SDR, PESQ (narrow- and wide-band) and ESTOI. For human motion: MPJPE.
:func:`speech_metrics` scores lists of files or arrays in parallel processes and gives a :class:`ScoreTable`.

A measure that does not exist for a signal (PESQ of silence, say) raises :class:`UndefinedScoreError` when a
function is called for one pair; in a table it is NaN, with its reason in ``ScoreTable.reasons``. What cannot
be compared at all (different lengths, NaN samples, another sample rate) is an error everywhere.
"""

from dvae_lib.metrics.motion import mpjpe
from dvae_lib.metrics.speech import (
    SPEECH_METRICS,
    UndefinedScoreError,
    estoi,
    pesq,
    raw_pesq,
    si_sdr,
    speech_metrics,
)
from dvae_lib.metrics.table import METRICS, Metric, ScoreTable, Summary

__all__ = [
    "METRICS",
    "SPEECH_METRICS",
    "Metric",
    "ScoreTable",
    "Summary",
    "UndefinedScoreError",
    "estoi",
    "mpjpe",
    "pesq",
    "raw_pesq",
    "si_sdr",
    "speech_metrics",
]
