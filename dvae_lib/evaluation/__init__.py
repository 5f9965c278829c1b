"""How a trained model does on sequences that it has not seen: bounds, and analysis-resynthesis (Section 13.3.1)."""

from dvae_lib.evaluation.bounds import COLLAPSED, Bounds, active_dimensions, bounds_per_frame
from dvae_lib.evaluation.own_tone import EDITS, Heard, Tone, hearing, jamming, own_tone
from dvae_lib.evaluation.resynthesis import (
    Resynthesis,
    analysis_resynthesis,
    resynthesise,
    score_sequences,
)
from dvae_lib.evaluation.source import evaluation_source
from dvae_lib.models.front_end import front_end_of

__all__ = [
    "COLLAPSED",
    "Bounds",
    "EDITS",
    "Heard",
    "Resynthesis",
    "Tone",
    "active_dimensions",
    "analysis_resynthesis",
    "bounds_per_frame",
    "evaluation_source",
    "front_end_of",
    "hearing",
    "jamming",
    "own_tone",
    "resynthesise",
    "score_sequences",
]
