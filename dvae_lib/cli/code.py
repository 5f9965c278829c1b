"""``dvae encode`` and ``dvae decode``: a recording of speech as a few hundred bytes, and back."""

from pathlib import Path
from typing import Annotated

import typer

from dvae_lib.cli import console
from dvae_lib.cli.outputs import check_output
from dvae_lib.models import DVAE

__all__ = ["CODEC_MODEL", "decode", "encode"]

CODEC_MODEL = "rvae-causal-librispeech-power"


def encode(
    recording: Annotated[Path, typer.Argument(help="The recording of speech: WAV, FLAC, Ogg, MP3, ...")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Write here.", metavar="FILE")],
    model: Annotated[
        str, typer.Option(help="Folder of a run or of a saved model, or the name of one that ships.")
    ] = CODEC_MODEL,
    step: Annotated[
        float | None,
        typer.Option(help="Step of the quantiser in deviations of the posterior. Larger is smaller and worse."),
    ] = None,
    open_loop: Annotated[bool, typer.Option("--open-loop", help="Infer without the decoder's own past.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Allow to write over the recording.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Say nothing.")] = False,
) -> None:
    """Code a recording of speech by the latents of a model.

    The model's latents are quantised and written with the probabilities that it gives them: one channel at the model's
    sample rate, as a spectrogram without phases. Decoding needs the same model.

    [bold]Examples[/]

    dvae encode in.wav -o speech.dvae

    dvae encode in.wav -o small.dvae --step 12 --model vae-librispeech
    """
    from dvae_lib.coding import NATURAL_STEP, Loop, encode_speech
    from dvae_lib.extras import require
    from dvae_lib.files import write_atomically

    require("soundfile", "Reading and writing sound files")
    require("constriction", "Entropy coding", "codec")
    _check_files(recording, output, overwrite)
    network = DVAE.from_pretrained(model)
    named = "" if Path(model).exists() else model
    loop: Loop = "open" if open_loop else "closed"
    step = NATURAL_STEP if step is None else step
    file = encode_speech(network, recording, step=step, loop=loop, name=named)
    write_atomically(output, file.data)
    if not quiet:
        said = f"{file.seconds:.1f} s in {len(file.data):,} bytes, {file.bits_per_second:,.0f} bit/s"
        console.out.print(f"Written: {output} ({said})", soft_wrap=True, highlight=False, markup=False)


def decode(
    code: Annotated[Path, typer.Argument(help="What dvae encode has written.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Write here: .wav or .flac.", metavar="FILE")],
    model: Annotated[
        str | None, typer.Option(help="The model that encoded it; by default the one that the file names.")
    ] = None,
    iterations: Annotated[int, typer.Option(min=1, help="Rounds of Griffin and Lim's algorithm.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Of the phases that it starts from.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Allow to write over the code.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Say nothing.")] = False,
) -> None:
    """Make a recording of what dvae encode has written.

    The file holds no phases. They are made up, by the algorithm of Griffin and Lim, and one hears that.

    [bold]Examples[/]

    dvae decode speech.dvae -o out.wav
    """
    from dvae_lib.coding import decode_speech, model_of
    from dvae_lib.extras import needed, require
    from dvae_lib.files import written_whole

    soundfile = needed("soundfile", "Reading and writing sound files")
    require("constriction", "Entropy coding", "codec")
    kinds = {".wav": ("WAV", "PCM_16"), ".flac": ("FLAC", "PCM_24")}
    if output.suffix.lower() not in kinds:
        raise typer.BadParameter("the file must end in .wav or .flac", param_hint="--output")
    _check_files(code, output, overwrite)
    data = code.read_bytes()
    found = model_of(data) if model is None else model
    if not found:
        raise ValueError(f"{code} was coded by a model that does not ship with the library: name it with --model")
    waveform, rate = decode_speech(DVAE.from_pretrained(found), data, num_iterations=iterations, seed=seed)
    kind, coding = kinds[output.suffix.lower()]
    with written_whole(output) as raw, soundfile.SoundFile(raw, "w", rate, 1, format=kind, subtype=coding) as file:
        file.write(waveform.clamp(-1, 1).numpy())
    if not quiet:
        said = f"{len(waveform) / rate:.1f} s from {len(data):,} bytes by {found}"
        console.out.print(f"Written: {output} ({said})", soft_wrap=True, highlight=False, markup=False)


def _check_files(source: Path, output: Path, overwrite: bool) -> None:
    """Find out before the work is done whether there is something to read, and its result can be written."""
    if not source.exists():
        raise FileNotFoundError(f"There is no file {source}")
    check_output(source, output, "the input", overwrite=overwrite)
