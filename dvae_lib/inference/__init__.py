"""Inference beyond the inference network, for models that are trained already (Section 14.3.2).

`refine` follows the gradient of the bound on given sequences, `iterate` a learned update of it, and
`variational_filter` does so frame by frame from the prior. None changes a weight of the model.
"""

from dvae_lib.inference.iterative import (
    NaturalGradient,
    UpdateNetwork,
    iterate,
    learn_update,
    variational_filter,
)
from dvae_lib.inference.refinement import Refined, refine

__all__ = [
    "NaturalGradient",
    "Refined",
    "UpdateNetwork",
    "iterate",
    "learn_update",
    "refine",
    "variational_filter",
]
