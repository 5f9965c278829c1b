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
) -> None:
    """Write a trained model as a program that runs without this library: frame by frame, in the units of the data.

    One frame and the state go in; the latents' posterior, mean and variance of the next frame, and the new state come
    out.

    [bold]Examples[/]

    dvae export runs/mine -o step.pt2

    dvae export runs/mine -o step.onnx
    """
    from dvae_lib.export import export_reconstruction, export_step

    check_folder(output)
    write = export_reconstruction if reconstruction else export_step
    about = write(DVAE.from_pretrained(model), output)
    state = f", state {', '.join(about['state'])}" if "state" in about else ""
    console.out.print(
        f"Written: {output} ({about['what']} of {about['model']}; in: {', '.join(about['inputs'])}{state}; out: "
        f"{', '.join(about['outputs'])})",
        soft_wrap=True,
        highlight=False,
    )
