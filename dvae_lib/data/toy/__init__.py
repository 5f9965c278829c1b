"""Toy systems whose truth is known: linear-Gaussian, pendulum, bouncing ball, moving digits.

Each function generates sequences together with the states behind them, so that what a model infers can be held
against what was there. All randomness comes from the `generator` given: the same seed, the same sequences.
"""

from dvae_lib.data.catalogue import import_all
from dvae_lib.data.toy.base import TOYS, ToySequences, load_toy, register_toy
from dvae_lib.data.toy.bouncing import bouncing_ball, moving_digits
from dvae_lib.data.toy.linear_gaussian import LinearGaussianSequences, linear_gaussian, random_stable_matrix
from dvae_lib.data.toy.pendulum import pendulum, pendulum_images, pendulum_step

__all__ = [
    "TOYS",
    "LinearGaussianSequences",
    "ToySequences",
    "bouncing_ball",
    "linear_gaussian",
    "load_toy",
    "moving_digits",
    "pendulum",
    "pendulum_images",
    "pendulum_step",
    "random_stable_matrix",
    "register_toy",
]

import_all(__name__, __path__)
