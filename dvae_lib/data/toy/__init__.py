"""Toy systems whose truth is known, from linear-Gaussian ones to films of balls and digits.

Each function generates sequences together with the states behind them, so that what a model infers can be held
against what was there. All randomness comes from the `generator` given: the same seed, the same sequences.
"""

from dvae_lib.data.catalogue import import_all
from dvae_lib.data.toy.base import TOYS, ToySequences, load_toy, register_toy
from dvae_lib.data.toy.bouncing import bouncing_ball, moving_digits
from dvae_lib.data.toy.dot_film import dot_film
from dvae_lib.data.toy.falling_ball import falling_ball, falling_path
from dvae_lib.data.toy.growth_model import growth_model, growth_step
from dvae_lib.data.toy.linear_gaussian import LinearGaussianSequences, linear_gaussian, random_stable_matrix
from dvae_lib.data.toy.pendulum import pendulum, pendulum_images, pendulum_step
from dvae_lib.data.toy.pendulum_task import DrivenPendulum, PendulumTask, driven_pendulum
from dvae_lib.data.toy.poisson_lds import PoissonSequences, poisson_lds
from dvae_lib.data.toy.rotating_digits import RotatingDigits, rotating_digits

__all__ = [
    "TOYS",
    "DrivenPendulum",
    "LinearGaussianSequences",
    "PendulumTask",
    "PoissonSequences",
    "RotatingDigits",
    "ToySequences",
    "bouncing_ball",
    "dot_film",
    "driven_pendulum",
    "falling_ball",
    "falling_path",
    "growth_model",
    "growth_step",
    "linear_gaussian",
    "load_toy",
    "moving_digits",
    "pendulum",
    "pendulum_images",
    "pendulum_step",
    "poisson_lds",
    "random_stable_matrix",
    "register_toy",
    "rotating_digits",
]

import_all(__name__, __path__)
