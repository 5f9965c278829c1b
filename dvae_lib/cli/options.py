"""Options that several commands have."""

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["CORPUS", "DATA", "LIMIT", "Accelerator"]


class Accelerator(str, Enum):
    """Where to compute."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    mps = "mps"


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
        help="Your own sequences: a folder of audio, CSV or .npy files, or one .npy or .npz file.",
        metavar="PATH",
    ),
]
LIMIT = Annotated[
    int | None, typer.Option(min=1, help="At most so many recordings of each part, for a quick look (speech).")
]
