"""How recursions over time run where nobody says: the fastest way that gives the same digits.

1. By the gains of the steady state (`dvae_lib.statespace.steady`, `dvae_lib.statespace.steady_filter`), where one model
   of constant matrices serves all series, the same components are observed at every step, no derivative is asked for,
   the series are long beside the memory of their filter, and a few numbers promise all digits.
2. By the associative scan, on any device but a CPU, where a small operation costs as much as a large one, and the
   sequential recursion makes one after the other.
3. On a CPU by the scan, too, where series are long, and models (or patterns of missing values) and their states few: it
   makes fewer calls, but several times the arithmetic, which is what counts once each call has much of it.
4. Elsewhere one step after the other.

`speed/statespace.py` shows what each costs. The numbers of 3. are where its two ways took about the same time, with 1
to 8 states, 1 to 64 models and 30 to 1,000 steps, with derivatives and without, on one CPU core. 2. was not measured.
"""

from typing import Literal

import torch

from dvae_lib.scans import Method

__all__ = ["Choice"]

Choice = Literal["auto", "sequential", "parallel"]

# What series are shorter than are hardly ever long beside the memory, and to find that out costs a tenth of their time.
LEAST_STEADY_STEPS = 32
# On a CPU the scan is ahead for series of at least so many steps, ...
LEAST_STEPS = 100
# ... of which the models and the states of each, multiplied, are at most so many.
MOST_STATES = 32


def check_choice(method: str) -> None:
    """Refuses what is none of the three."""
    if method not in ("auto", "sequential", "parallel"):
        raise ValueError(f'method must be "auto", "sequential" or "parallel", got {method!r}')


def chosen(asked: Choice, *, num_steps: int, models: int, z_dim: int, device: torch.device) -> Method:
    """How the general recursions run.

    Arguments:
        asked: What the caller said.
        num_steps: T.
        models: How many models or patterns of missing values there are, each with covariances of its own.
        z_dim: The number of states.
        device: Where.
    """
    if asked != "auto":
        return asked
    by_scan = device.type != "cpu" or (num_steps >= LEAST_STEPS and models * z_dim <= MOST_STATES)
    return "parallel" if by_scan else "sequential"
