"""``dvae export``: a trained model's step, or its reconstruction, as a program of its own."""

from pathlib import Path
from typing import Annotated

import typer

from dvae_lib.cli import console
from dvae_lib.cli.outputs import check_folder
from dvae_lib.models import DVAE

__all__ = ["export"]


def export(
    model: Annotated[str, typer.Argument(help="Folder of a run or of a saved model, or the name of one that ships.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The file: .pt2 (torch.export) or .onnx.", metavar="FILE")
    ],
    reconstruction: Annotated[
        bool,
        typer.Option(
            "--reconstruction", help="Whole sequences of any length through the latents, in place of the step."
        ),
    ] = False,
    frames: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="With --reconstruction: the length of all sequences, for models with a recursion over frames.",
        ),
    ] = None,
) -> None:
    """Write a trained model as a program that runs without this library: frame by frame, in the units of the data.

    One frame and the state go in; the latents' posterior, mean and variance of the next frame, and the new state come
    out.

    [bold]Examples[/]

    dvae export runs/mine -o step.pt2

    dvae export runs/mine -o step.onnx

    dvae export runs/mine -o whole.pt2 --reconstruction --frames 50
    """
    from dvae_lib.export import export_reconstruction, export_step

    check_folder(output)
    if frames is not None and not reconstruction:
        raise typer.BadParameter("the step takes one frame; --frames goes with --reconstruction", param_hint="--frames")
    network = DVAE.from_pretrained(model)
    about = (
        export_reconstruction(network, output, num_frames=frames) if reconstruction else export_step(network, output)
    )
    state = f", state {', '.join(about['state'])}" if "state" in about else ""
    console.out.print(
        f"Written: {output} ({about['what']} of {about['model']}; in: {', '.join(about['inputs'])}{state}; out: "
        f"{', '.join(about['outputs'])})",
        soft_wrap=True,
        highlight=False,
    )
