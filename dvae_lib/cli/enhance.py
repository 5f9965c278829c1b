"""``dvae enhance``: take the noise off a recording of speech."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Annotated

import torch
import typer

from dvae_lib.cli import console
from dvae_lib.cli.options import Accelerator
from dvae_lib.cli.outputs import check_output
from dvae_lib.models import DVAE

__all__ = ["SPEECH_MODEL", "enhance"]

SPEECH_MODEL = "rvae-noncausal-librispeech-power"
"""Better on validation speakers than the one whose networks read log-powers, which has the better bound."""


class EnhancementMethod(str, Enum):
    """How the latents are found."""

    peem = "peem"
    vem = "vem"


def enhance(
    recording: Annotated[Path, typer.Argument(help="The noisy recording: WAV, FLAC, Ogg, MP3, ...")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Write here: .wav or .flac.", metavar="FILE")],
    model: Annotated[
        str, typer.Option(help="Folder of a run or of a saved model, or the name of one that ships.")
    ] = SPEECH_MODEL,
    method: Annotated[
        EnhancementMethod, typer.Option(help="A point estimate, or the inference network fine-tuned.")
    ] = EnhancementMethod.peem,
    iterations: Annotated[int | None, typer.Option(min=1, help="Default: what was best on other speakers.")] = None,
    rank: Annotated[int | None, typer.Option(min=1, help="Number of spectra that describe the noise.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Allow to write over the recording.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of everything random.")] = 0,
    accelerator: Annotated[Accelerator, typer.Option(help="Where to compute.")] = Accelerator.auto,
    piece_seconds: Annotated[
        float, typer.Option("--piece", min=4, help="Seconds of a piece, of which a longer recording is made.")
    ] = 30.0,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
) -> None:
    """Take the noise off a recording of speech.

    A model of clean speech stays as it is; the noise is learned from the recording. The result has the recording's
    sample rate, length, channels and level, in 16 bits (24 in FLAC); above half the model's sample rate there is
    nothing left. A file of that name is replaced.

    A long recording is worked on in pieces, in memory that does not grow with it. It takes time: with the default
    model and iterations about half as long as the recording on one free core. Ctrl-C leaves what was there.

    [bold]Examples[/]

    dvae enhance noisy.wav -o clean.wav

    dvae enhance noisy.wav -o clean.flac --model runs/vae --method vem --iterations 100
    """
    from dvae_lib.enhancement import check_speech_model, enhance_file
    from dvae_lib.extras import require
    from dvae_lib.training import training_fabric

    require("soundfile", "Reading and writing sound files")
    _check_sound_file(recording, output, overwrite)
    network = DVAE.from_pretrained(model)
    check_speech_model(network)
    network.to(training_fabric(accelerator=accelerator.value).device)
    generator = torch.Generator(next(network.parameters()).device).manual_seed(seed)
    given = {"num_iterations": iterations, "rank": rank}
    started = time.perf_counter()
    with _enhancement_progress(quiet) as progress:
        done = enhance_file(
            network,
            recording,
            output,
            method=method.value,
            piece_seconds=piece_seconds,
            generator=generator,
            progress=progress,
            **{name: value for name, value in given.items() if value is not None},
        )
    if done.peak > 1:
        note = f"its largest sample is {done.peak:.3g}; what exceeds 1 in the result is cut off, so scale it first"
    else:
        note = f"{done.clipped:.2%} of the samples are clipped, which sounds like noise and stays"
    if done.peak > 1 or done.clipped:
        console.err.print(f"{recording}: {note}.", soft_wrap=True, highlight=False, markup=False)
    if not quiet:
        seconds = f"{done.seconds:.1f} s of sound in {time.perf_counter() - started:.1f} s"
        console.out.print(f"Written: {output} ({seconds})", soft_wrap=True, highlight=False, markup=False)


@contextmanager
def _enhancement_progress(quiet: bool) -> Iterator[Callable[[int, int], object]]:
    """A bar with the remaining time; where there is no terminal, a line each minute."""
    from tqdm.auto import tqdm

    first: tuple[float, int] | None = None  # when the work had begun, and how much was done by then
    told = time.monotonic()
    with tqdm(desc="Enhancing", disable=quiet or not console.err.is_terminal, leave=False) as bar:

        def tell(done: int, total: int) -> None:
            nonlocal first, told
            bar.total = total
            bar.update(done - bar.n)
            now = time.monotonic()
            if first is None:
                first = now, done
            elif not quiet and not console.err.is_terminal and now >= told + 60:
                told = now
                remaining = (now - first[0]) * (total - done) / (done - first[1])
                console.err.print(
                    f"Enhancing: {done / total:.0%}, about {remaining / 60:.0f} min left", highlight=False
                )

        yield tell


def _check_sound_file(recording: Path, output: Path, overwrite: bool) -> None:
    """Find out before the work is done whether its result can be written."""
    from dvae_lib.enhancement.files import SOUND_FILES

    if output.suffix.lower() not in SOUND_FILES:
        raise typer.BadParameter("the file must end in .wav or .flac", param_hint="--output")
    check_output(recording, output, "the recording", overwrite=overwrite)
