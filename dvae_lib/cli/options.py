"""Options that several commands have."""

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["CORPUS", "DATA", "INPUTS", "LIMIT", "Accelerator", "Inputs"]


class Accelerator(str, Enum):
    """Where to compute."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    mps = "mps"


class Inputs(str, Enum):
    """What the networks read of the data."""

    power = "power"
    log_power = "log_power"


CORPUS = Annotated[
    str | None,
    typer.Option(
        "--corpus", "-c", help="Name of a corpus ([bold]dvae data list[/]), or a folder that holds one.", metavar="NAME"
    ),
]
DATA = Annotated[
    Path | None,
    typer.Option(
        "--data",
        "-d",
        help="Your own sequences: a folder of audio, CSV, .npy, MIDI or BVH files, or one .npy or .npz file.",
        metavar="PATH",
    ),
]
INPUTS = typer.Option(
    help="What the networks read: power, the data as they are, or log_power, their standardised logarithms. The "
    "likelihood sees the data in both."
)
LIMIT = Annotated[
    int | None, typer.Option(min=1, help="At most so many recordings of each part, for a quick look (speech).")
]
