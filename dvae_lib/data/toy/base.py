"""What the toy systems share: what they give, the table of their names, and how a corpus is made of one."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dvae_lib.data.catalogue import Corpus, register_corpus
from dvae_lib.data.splits import Splits, from_arrays
from dvae_lib.devices import on_the_host

__all__ = ["TOYS", "ToySequences", "load_toy", "register_toy"]


class ToySequences(NamedTuple):
    """Generated sequences.

    Attributes:
        x: Observations, (N, T, x_dim); pixels row by row where the observations are images.
        z: The states behind them, (N, T, z_dim).
    """

    x: Tensor
    z: Tensor


TOYS: dict[str, Callable[..., Any]] = {}
"""Toy systems by name, as `load_toy` takes them."""


def register_toy(name: str, system: Callable[..., Any], about: str) -> None:
    """Make a toy system known by its name: to `load_toy`, to `load` and on the command line.

    Arguments:
        name: The name.
        system: Called with the number of sequences, that of steps, and a `generator`; gives observations `x`,
            (N, T, x_dim), and what is behind them.
        about: What it is, in one line.
    """

    def load(folder: None, *, seed: int = 0, num_sequences: int = 500, num_steps: int = 50, **options: Any) -> Splits:
        return load_toy(name, num_sequences=num_sequences, num_steps=num_steps, seed=seed, **options)

    TOYS[name] = system
    register_corpus(
        Corpus(
            name=name,
            kind="toy",
            about=about,
            size="as many sequences as are asked for",
            licence="none needed: generated",
            attribution="dvae-lib",
            instructions="It is generated.",
            load=load,
            find=None,
        )
    )


@on_the_host()
def load_toy(name: str, *, num_sequences: int = 500, num_steps: int = 50, seed: int = 0, **options: Any) -> Splits:
    """Generate a toy corpus: the same name, sizes and seed give the same sequences.

    Arguments:
        name: One of `TOYS`.
        num_sequences: In all three parts together; 80 % train, 10 % validation, 10 % test.
        num_steps: T.
        seed: Of everything random.
        options: Passed to the system's function.

    Returns:
        Training, validation and test sequences, not standardised.

    Raises:
        ValueError: There is no such system.
    """
    if name not in TOYS:
        raise ValueError(f"no toy system {name!r}; there are {', '.join(TOYS)}")
    data = TOYS[name](num_sequences, num_steps, generator=torch.Generator().manual_seed(seed), **options)
    return from_arrays(data.x, seed=seed, standardize=False)
