"""``dvae generate``: new music or motion from a trained model."""

from enum import Enum
from pathlib import Path
from typing import Annotated

import torch
import typer

from dvae_lib.cli import console
from dvae_lib.cli.outputs import check_folder
from dvae_lib.models import DVAE

__all__ = ["generate"]


class Emission(str, Enum):
    """What a frame is, and what is fed back."""

    sample = "sample"
    mean = "mean"


def generate(
    model: Annotated[str, typer.Argument(help="Folder of a run or of a saved model, trained on MIDI or BVH files.")],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="The file: .mid for music, .bvh for motion.", metavar="FILE"),
    ],
    steps: Annotated[int, typer.Option(min=1, help="Frames to make.")] = 128,
    emission: Annotated[
        Emission, typer.Option(help="A sample of each frame's distribution, or its mean: smoother motion.")
    ] = Emission.sample,
    tempo: Annotated[float, typer.Option(help="Of music: quarter notes a minute.")] = 120,
    seed: Annotated[int, typer.Option(min=0, help="Of the samples.")] = 0,
) -> None:
    """Make new music or motion with a model that was trained on MIDI or BVH files, and write it as such a file.

    The steps of the notes, the skeleton and the frames per second are those of the training.

    [bold]Examples[/]

    dvae generate runs/tunes -o new.mid --steps 64

    dvae generate runs/walks -o new.bvh --emission mean
    """
    from dvae_lib.series import check_can_be_written, write_frames

    check_folder(output)
    network = DVAE.from_pretrained(model).eval()
    check_can_be_written(network, output)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        made = network.generate(steps, emission=emission.value, generator=generator).x[0]
    write_frames(network, made, output, per_minute=tempo)
    console.out.print(f"Written: {output} ({steps} frames)", soft_wrap=True, highlight=False)
