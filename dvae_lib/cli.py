"""The command line: ``dvae data``, ``train``, ``evaluate``, ``enhance``, ``benchmark``, ``report``, ``info``."""

import importlib.metadata
import importlib.util
import inspect
import json
import logging
import os
import platform
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape
from rich.table import Table
from typer.core import TyperGroup

from dvae_lib._version import __version__
from dvae_lib.data.catalogue import CorpusInfo, corpus_info, describe, fetch_corpus, list_corpora
from dvae_lib.data.places import cache_folder, search_path
from dvae_lib.metrics import METRICS, SPEECH_METRICS, ScoreTable
from dvae_lib.models import DVAE, MODELS, build_model
from dvae_lib.resources import resource_path

if TYPE_CHECKING:
    from dvae_lib.data.sources import Source
    from dvae_lib.experiments import Report
    from dvae_lib.training import TrainingConfig

__all__ = ["app", "main"]

# What only some commands need is imported in them: help should not wait for it.

INTERRUPTED = 130  # what shells report for a program that Ctrl-C ended

out = Console()
err = Console(stderr=True)


class _Group(TyperGroup):
    """Errors as messages: what the library says, without the traceback, unless it is asked for."""

    def invoke(self, ctx: Any) -> Any:  # typer and click each have a class of contexts
        try:
            return super().invoke(ctx)
        except (
            ValueError,
            TypeError,
            OSError,
            ImportError,
            ArithmeticError,
            NotImplementedError,
            RuntimeError,
        ) as error:
            # The two that typer itself raises to end a program are RuntimeErrors.
            if isinstance(error, typer.Exit | typer.Abort) or ctx.params.get("debug"):
                raise
            err.print(f"[bold red]Error:[/] {escape(str(error) or type(error).__name__)}", highlight=False)
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            err.print("Interrupted.")
            raise typer.Exit(INTERRUPTED) from None


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", help="List, fetch and describe corpora.")
app.add_typer(data_app, name="data")


def main() -> None:
    """Run the command line."""
    app()


def _show_version(wanted: bool) -> bool:
    if wanted:
        out.print(__version__)
        raise typer.Exit
    return wanted


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and stop.")
    ] = False,
) -> None:
    """Dynamical variational autoencoders: get data, train models, judge them, enhance speech, repeat experiments.

    [bold]Examples[/]

    dvae data fetch prompts

    dvae train vae --corpus prompts --folder runs/vae

    dvae evaluate runs/vae

    dvae enhance noisy.wav -o clean.wav

    dvae benchmark runs/benchmark --corpus librispeech
    """
    logger = logging.getLogger("dvae_lib")
    if not any(isinstance(handler, RichHandler) for handler in logger.handlers):
        logger.addHandler(RichHandler(console=err, show_time=False, show_path=False, show_level=False))
    logger.setLevel(logging.INFO)


# --- data ---------------------------------------------------------------------------------------------------------


@data_app.command("list")
def data_list() -> None:
    """List the corpora, and which of them are here."""
    from dvae_lib.data.sources import source_names

    table = Table()
    for head in ("name", "kind", "size", "here"):
        table.add_column(head, overflow="fold")  # a name or a path that is cut off is none
    for info in list_corpora():
        found = info.find()
        how = f"no: dvae data fetch {info.name}" if info.fetch else f"no: dvae data info {info.name} says how"
        table.add_row(info.name, info.kind, info.size, str(found or how))
    out.print(table)
    listed = {info.name for info in list_corpora()}
    others = [name for name in source_names() if name not in listed]
    out.print(f"Also by name: {', '.join(others)}. Looked in: {os.pathsep.join(map(str, search_path()))}")


@data_app.command("fetch")
def data_fetch(
    name: Annotated[str, typer.Argument(help="Name of a corpus; see [bold]dvae data list[/].")],
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
) -> None:
    """Fetch a corpus, or say how to get it.

    What was interrupted goes on where it was.

    [bold]Example[/]: dvae data fetch prompts
    """
    folder = fetch_corpus(name, progress=not quiet)
    out.print(f"{name} is in {folder}", soft_wrap=True)


@data_app.command("info")
def data_info(
    name: Annotated[str, typer.Argument(help="Name of a corpus, or a path to your own sequences.")],
) -> None:
    """Describe a corpus, or your own sequences: what each part holds. Speech is analysed if it has not been.

    [bold]Example[/]: dvae data info prompts
    """
    from dvae_lib.data.corpora import SpeechCorpus, load_corpus
    from dvae_lib.data.sources import load_source

    if name in {info.name for info in list_corpora()}:
        out.print(describe(name), soft_wrap=True, highlight=False, markup=False)
        if corpus_info(name).kind == "speech" and corpus_info(name).find():
            out.print(load_corpus(name).summary(), highlight=False, markup=False)
        return
    parts = load_source(name).parts
    if isinstance(parts, SpeechCorpus):
        out.print(parts.summary(), highlight=False, markup=False)
        return
    for part in ("train", "validation", "test"):
        out.print(f"{part:<12}{getattr(parts, part)!r}", soft_wrap=True, highlight=False, markup=False)


# --- train --------------------------------------------------------------------------------------------------------


class Accelerator(str, Enum):
    """Where to compute."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    mps = "mps"


class Split(str, Enum):
    """How one's own sequences become a training, a validation and a test part."""

    group = "group"
    time = "time"


_CORPUS = Annotated[
    str | None,
    typer.Option(
        "--corpus", "-c", help="Name of a corpus ([bold]dvae data list[/]), or a folder that holds one.", metavar="NAME"
    ),
]
_DATA = Annotated[
    Path | None,
    typer.Option(
        "--data",
        "-d",
        help="Your own sequences: a folder of audio, CSV or .npy files, or one .npy or .npz file.",
        metavar="PATH",
    ),
]
_LIMIT = Annotated[
    int | None, typer.Option(min=1, help="At most so many recordings of each part, for a quick look (speech).")
]
_PANEL = "Training; what is not given is the review's (Section 13.2.3)"


@app.command()
def train(
    model: Annotated[str, typer.Argument(help=f"The model: {', '.join(MODELS)}.")],
    folder: Annotated[
        Path,
        typer.Option(
            "--folder",
            "-f",
            help="Where the run is kept. A run that is there goes on.",
            metavar="PATH",
            file_okay=False,
        ),
    ],
    corpus: _CORPUS = None,
    data: _DATA = None,
    z_dim: Annotated[int | None, typer.Option(min=1, help="Size of the latent vectors.")] = None,
    observation: Annotated[
        str | None, typer.Option(help="gaussian, unit_gaussian, gamma or bernoulli. Default: what suits the data.")
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            "--option",
            "-O",
            help="Any option of the model, as JSON: -O 'encoder=[256,128]'. [bold]dvae info MODEL[/] lists them.",
        ),
    ] = None,
    sequence_length: Annotated[int | None, typer.Option(min=1, help="Frames of a training sequence.")] = None,
    standardize: Annotated[
        bool | None,
        typer.Option(
            "--standardize/--no-standardize",
            help="Bring each dimension of your own data to mean 0 and variance 1. Default: where the observation model "
            "takes every real number, and the data are not zeros and ones.",
            show_default=False,
        ),
    ] = None,
    split: Annotated[
        Split, typer.Option(help="Your own data: whole sequences for each part, or every sequence cut in time.")
    ] = Split.group,
    limit: _LIMIT = None,
    max_epochs: Annotated[int | None, typer.Option("--epochs", min=1, rich_help_panel=_PANEL)] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Over all processes together.", rich_help_panel=_PANEL)
    ] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Of Adam.", rich_help_panel=_PANEL)] = None,
    patience: Annotated[
        int | None, typer.Option(min=1, help="Epochs without a better bound before stopping.", rich_help_panel=_PANEL)
    ] = None,
    gradient_clip: Annotated[float | None, typer.Option(help="Largest gradient norm.", rich_help_panel=_PANEL)] = None,
    warm_up: Annotated[
        int | None, typer.Option(min=1, help="Epochs of KL warm-up, from 0 to 1.", rich_help_panel=_PANEL)
    ] = None,
    scheduled_sampling: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Epochs with 20, 40, 60 and 80 % of own output each; then all is. For models with a predictive link.",
            rich_help_panel=_PANEL,
        ),
    ] = None,
    start_from: Annotated[
        str | None,
        typer.Option(help="Weights to begin with: a saved model of the same kind, or the name of one that ships."),
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, help="Of the training: weights, noise, order.", rich_help_panel=_PANEL)
    ] = 0,
    split_seed: Annotated[
        int,
        typer.Option(min=0, help="Of the split of your own sequences, the same for all --seed; or of a toy system."),
    ] = 0,
    config: Annotated[
        Path | None,
        typer.Option(
            help="A JSON file of the training configuration; options win.",
            rich_help_panel=_PANEL,
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    accelerator: Annotated[Accelerator, typer.Option(help="Where to compute.")] = Accelerator.auto,
    precision: Annotated[str, typer.Option(help="32-true, 64-true, bf16-mixed or bf16-true.")] = "32-true",
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write logs for TensorBoard.")] = False,
) -> None:
    """Train a model.

    Ctrl-C stops and saves; the same command goes on, with more --epochs if wanted.

    [bold]Examples[/]

    dvae train vae --corpus prompts --folder runs/vae

    dvae train vae --data recordings/ --folder runs/mine --epochs 50

    dvae train vae --data sequences.npz --folder runs/mine --z-dim 4 -O 'encoder=[64,64]'

    dvae train srnn --corpus prompts --folder runs/srnn-gm --start-from runs/srnn/best --scheduled-sampling 50

    torchrun --nproc-per-node 2 -m dvae_lib.cli train vae --corpus prompts --folder runs/vae
    """
    from dvae_lib.distributions import support_of
    from dvae_lib.training import BEST, Schedule, fit, training_fabric

    if model not in MODELS:
        raise typer.BadParameter(f"{model!r} is none of {', '.join(MODELS)}.", param_hint="MODEL")
    options = {"z_dim": z_dim, "observation": observation, **_json_options(option or [])}
    if standardize is None and options["observation"] is not None:
        standardize = support_of(options["observation"]).everything
    source = _source(
        corpus,
        data,
        sequence_length=sequence_length,
        limit=limit,
        seed=split_seed,
        split=split.value,
        standardize=standardize,
    )
    settings = {
        "max_epochs": max_epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "patience": patience,
        "gradient_clip": gradient_clip,
        "schedules": {
            **({} if warm_up is None else {"beta": Schedule.linear(0.0, 1.0, epochs=warm_up)}),
            **({} if scheduled_sampling is None else {"feedback": Schedule.scheduled_sampling(scheduled_sampling)}),
        }
        or None,
        "seed": seed,
    }
    training = _training_config(source, config, {name: value for name, value in settings.items() if value is not None})
    fabric = training_fabric(accelerator=accelerator.value, precision=precision)
    torch.manual_seed(seed)  # the initial weights
    given = {name: value for name, value in options.items() if value is not None}
    network = _build(model, source, given) if start_from is None else _load(model, start_from, given)
    network.metadata.update(_with_marks(source))
    train_part, validation = source.parts.train, source.parts.validation
    first = fabric.global_rank == 0
    if first:
        parameters = sum(p.numel() for p in network.parameters())
        out.print(f"{model}: {parameters:,} parameters, on {fabric.device}", highlight=False)
        out.print(f"training    {train_part!r}\nvalidation  {validation!r}", soft_wrap=True, highlight=False)
    result = fit(network, train_part, validation, training, folder=folder, fabric=fabric, tensorboard=tensorboard)
    if not first:
        return
    if result.best_epoch:
        out.print(
            f"Best validation bound: {result.best_value:.4f} nats per frame, in epoch {result.best_epoch} of "
            f"{len(result.history)}. The model is in {folder / BEST}.",
            soft_wrap=True,
            highlight=False,
        )
    if result.stopped == "interrupted":
        out.print("Interrupted and saved; the same command goes on.")
        raise typer.Exit(INTERRUPTED)
    out.print(f"Next: dvae evaluate {folder}", soft_wrap=True, highlight=False)


def _source(corpus: str | None, data: Path | None, **options: Any) -> "Source":
    from dvae_lib.data.sources import load_source

    if (corpus is None) == (data is None):
        raise typer.BadParameter("give one of them: what to work on.", param_hint="--corpus / --data")
    return load_source(data or corpus or "", **options)


def _with_marks(source: "Source") -> dict[str, Any]:
    """What is saved with a model about its data: where a seed has split them, also which recordings it has seen."""
    from dvae_lib.data.heldout import marks

    if source.kind != "sequences":
        return source.metadata
    seen = marks(source.parts.train, source.parts.validation)
    return {**source.metadata, "data": {**source.metadata["data"], "seen": seen}}


def _json_options(given: list[str]) -> dict[str, Any]:
    options = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise typer.BadParameter(f"{text!r} is not of the form name=value.", param_hint="--option")
        try:
            options[name.strip()] = json.loads(value)
        except json.JSONDecodeError:
            options[name.strip()] = value  # a word needs no quotation marks
    return options


def _training_config(source: "Source", file: Path | None, settings: dict[str, Any]) -> "TrainingConfig":
    from dvae_lib.training import TrainingConfig

    if file is not None:
        try:
            saved = TrainingConfig.from_json(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error
        return TrainingConfig.from_dict({**saved.to_dict(), **settings})
    make = {"speech": TrainingConfig.speech, "motion": TrainingConfig.motion}.get(source.kind, TrainingConfig)
    return make(**settings)


def _build(name: str, source: "Source", options: dict[str, Any]) -> DVAE:
    preset = source.kind if source.kind in ("speech", "motion") else None
    x_dim, u_dim = source.parts.train.x_dim, source.parts.train.u_dim
    defaults: dict[str, Any] = {"x_dim": x_dim} | ({"u_dim": u_dim} if u_dim else {})
    if preset is None:
        defaults |= {"z_dim": min(16, x_dim), "observation": source.observation}
    known = inspect.signature(MODELS[name].cls).parameters
    if unknown := [option for option in options if option not in known]:
        raise ValueError(f"{name} has no option {', '.join(unknown)}; it has {', '.join(known)}.")
    _check_types(known, options)
    return build_model(name, preset, **{**defaults, **options})


def _check_types(known: Mapping[str, inspect.Parameter], options: Mapping[str, Any]) -> None:
    """Refuse an option of another type than the model's own value, which would end in an error of torch."""
    for option, value in options.items():
        own = known[option].default
        if isinstance(own, tuple):
            right = isinstance(value, list) and all(isinstance(v, int) and not isinstance(v, bool) for v in value)
            wanted = f"a list of whole numbers, as in -O '{option}=[256,128]'"
        elif isinstance(own, bool):
            right, wanted = isinstance(value, bool), "true or false"
        elif isinstance(own, int) or own is inspect.Parameter.empty:
            right, wanted = isinstance(value, int) and not isinstance(value, bool), "a whole number"
        elif isinstance(own, float):
            right, wanted = isinstance(value, float | int) and not isinstance(value, bool), "a number"
        elif isinstance(own, str):
            right, wanted = isinstance(value, str), "a word"
        else:
            continue
        if not right:
            raise ValueError(f"The option {option} is {wanted}; got {json.dumps(value)}.")


def _load(name: str, folder: str, options: dict[str, Any]) -> DVAE:
    """The model to go on from, which has its options already."""
    if options:
        raise typer.BadParameter(
            f"{folder} has its own options; leave out {', '.join(options)}.", param_hint="--start-from"
        )
    return MODELS[name].cls.from_pretrained(folder)


# --- evaluate -----------------------------------------------------------------------------------------------------


class Latents(str, Enum):
    """What the reconstruction is conditioned on."""

    sample = "sample"
    mean = "mean"


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help="Folder of a run or of a saved model, or the name of one that ships.")],
    corpus: _CORPUS = None,
    data: _DATA = None,
    limit: _LIMIT = None,
    metrics: Annotated[
        list[str] | None,
        typer.Option("--metric", "-m", help=f"For speech: {', '.join(SPEECH_METRICS)}. Default: all installed."),
    ] = None,
    latents: Annotated[Latents, typer.Option(help="A sample of the posterior, or its mean.")] = Latents.sample,
    feedback: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="0: teacher forcing; 1: generation mode (Section 13.3.3).")
    ] = 0.0,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Write here: .json or .csv. Default: both, into the run's folder.", metavar="FILE"
        ),
    ] = None,
    workers: Annotated[int | None, typer.Option(min=0, help="Processes for the metrics. Default: all cores.")] = None,
    accelerator: Annotated[Accelerator, typer.Option(help="Where to compute.")] = Accelerator.auto,
    seed: Annotated[int, typer.Option(min=0, help="Of the latents' noise.")] = 0,
) -> None:
    """Judge a model by analysis and resynthesis.

    The test part of what it was trained on is taken, or that of another corpus; of your own sequences never one that
    it was trained with. Speech is compared as sound: SI-SDR,
    PESQ (narrow- and wide-band), ESTOI. Other sequences are compared in the units of their data. The variational
    lower bound stands beside these.

    [bold]Examples[/]

    dvae evaluate runs/vae

    dvae evaluate vae-prompts

    dvae evaluate runs/vae --corpus librispeech --limit 20 -o librispeech.csv
    """
    from dvae_lib.evaluation import analysis_resynthesis, evaluation_source, score_sequences
    from dvae_lib.files import write_atomically
    from dvae_lib.training import training_fabric

    if output is not None and output.suffix not in (".json", ".csv"):
        raise typer.BadParameter("the file must end in .json or .csv.", param_hint="--output")
    if output is not None and not output.parent.is_dir():
        raise FileNotFoundError(f"There is no folder {output.parent} to write {output.name} into.")
    chosen = _chosen(metrics)
    folder = Path(model)
    network = DVAE.from_pretrained(model)
    network.to(training_fabric(accelerator=accelerator.value).device)
    source = evaluation_source(network, data or corpus, limit=limit)
    generator = torch.Generator(next(network.parameters()).device).manual_seed(seed)
    common: dict[str, Any] = {"latents": latents.value, "feedback": feedback, "generator": generator}
    if source.kind == "speech":
        recordings = source.test_recordings
        table = analysis_resynthesis(
            network,
            [recording.path for recording in recordings],
            names=[recording.name for recording in recordings],
            metrics=chosen,
            num_workers=workers,
            progress=err.is_terminal,
            **common,
        )
    else:
        table = score_sequences(
            network, source.parts.test, positions="m" if source.kind == "motion" else None, **common
        )
    _print_scores(table, f"{model} on the test part of {source.name} ({len(table)} sequences)")
    about = {
        "model": model,
        "dvae_lib": __version__,
        **source.metadata,
        "part": "test",
        "latents": latents.value,
        "feedback": feedback,
        "seed": seed,
    }
    special = [
        *([_stem(source.name)] if corpus is not None or data is not None else []),
        *([f"limit-{limit}"] if limit is not None else []),
        *([latents.value] if latents != Latents.sample else []),
        *([f"feedback-{feedback:g}"] if feedback else []),
        *([f"seed-{seed}"] if seed else []),
        *(chosen or []),
    ]
    for file in _outputs(output, folder, special):
        text = table.to_csv() if file.suffix == ".csv" else json.dumps({**about, **table.to_dict()}, indent=2) + "\n"
        write_atomically(file, text.encode())
        out.print(f"Written: {file}", soft_wrap=True, highlight=False)


def _chosen(metrics: list[str] | None) -> list[str] | None:
    for metric in metrics or []:
        if metric not in SPEECH_METRICS:
            raise typer.BadParameter(f"{metric!r} is none of {', '.join(SPEECH_METRICS)}.", param_hint="--metric")
    return metrics or None


def _outputs(output: Path | None, folder: Path, special: list[str]) -> list[Path]:
    """Where scores go. What was judged otherwise than by default has files of its own beside the run's."""
    if output is not None:
        return [output]
    stem = "-".join(["evaluation", *special])
    return [folder / f"{stem}.json", folder / f"{stem}.csv"] if folder.is_dir() else []


def _stem(name: str) -> str:
    return re.sub(r"[^\w.-]+", "_", Path(name).stem)


def _print_scores(scores: ScoreTable, title: str) -> None:
    titles, *lines = scores.printed()
    table = Table(*titles, "better", title=title, title_justify="left")
    for line, metric in zip(lines, scores.columns, strict=True):
        table.add_row(*line, "higher" if METRICS[metric].higher_is_better else "lower")
    out.print(table)
    missing: dict[tuple[str, str], list[str]] = {}
    for (name, measure), reason in scores.reasons.items():
        missing.setdefault((measure, reason), []).append(name)
    for (measure, reason), names in missing.items():
        of = ", ".join(names) if len(names) < 4 else f"{len(names)} recordings"
        err.print(f"No {METRICS[measure].label} for {of}: {reason}.", soft_wrap=True, highlight=False, markup=False)


# --- enhance ------------------------------------------------------------------------------------------------------

SPEECH_MODEL = "rvae-noncausal-librispeech-batch32"


class EnhancementMethod(str, Enum):
    """How the latents are found."""

    peem = "peem"
    vem = "vem"


@app.command()
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
        err.print(f"{recording}: {note}.", soft_wrap=True, highlight=False, markup=False)
    if not quiet:
        seconds = f"{done.seconds:.1f} s of sound in {time.perf_counter() - started:.1f} s"
        out.print(f"Written: {output} ({seconds})", soft_wrap=True, highlight=False, markup=False)


@contextmanager
def _enhancement_progress(quiet: bool) -> Iterator[Callable[[int, int], object]]:
    """A bar with the remaining time; where there is no terminal, a line each minute."""
    from tqdm.auto import tqdm

    first: tuple[float, int] | None = None  # when the work had begun, and how much was done by then
    told = time.monotonic()
    with tqdm(desc="Enhancing", disable=quiet or not err.is_terminal, leave=False) as bar:

        def tell(done: int, total: int) -> None:
            nonlocal first, told
            bar.total = total
            bar.update(done - bar.n)
            now = time.monotonic()
            if first is None:
                first = now, done
            elif not quiet and not err.is_terminal and now >= told + 60:
                told = now
                remaining = (now - first[0]) * (total - done) / (done - first[1])
                err.print(f"Enhancing: {done / total:.0%}, about {remaining / 60:.0f} min left", highlight=False)

        yield tell


def _check_sound_file(recording: Path, output: Path, overwrite: bool) -> None:
    """Find out before the work is done whether its result can be written."""
    from dvae_lib.enhancement.files import SOUND_FILES

    if output.suffix.lower() not in SOUND_FILES:
        raise typer.BadParameter("the file must end in .wav or .flac.", param_hint="--output")
    if not output.parent.is_dir():
        raise FileNotFoundError(f"There is no folder {output.parent} to write {output.name} into.")
    if output.is_dir() or not os.access(output.parent, os.W_OK):
        raise PermissionError(f"{output} cannot be written; choose another --output.")
    if output.exists() and recording.exists() and output.samefile(recording) and not overwrite:
        raise ValueError(f"{output} is the recording itself; choose another --output, or allow it with --overwrite.")


# --- benchmark ----------------------------------------------------------------------------------------------------


class BudgetOption(str, Enum):
    """How much work."""

    ci = "ci"
    book = "book"
    full = "full"


@app.command()
def benchmark(
    folder: Annotated[
        Path,
        typer.Argument(help="Where the runs and results are kept. What is there is not done again.", file_okay=False),
    ],
    corpus: Annotated[
        list[str] | None,
        typer.Option(
            "--corpus",
            "-c",
            help="Speech: librispeech, prompts, wsj0 or a folder of audio; motion: mocap (CMU and HDM05), cmu, hdm05, "
            "h36m. Several: repeat the option.",
            metavar="NAME",
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            help="A model, or MODEL-scheduled; several: repeat the option. Default: all.",
            metavar="NAME",
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="So many seeds: 0, 1, ...")] = 1,
    budget: Annotated[
        BudgetOption, typer.Option(help="full: the review's protocol; book: what the book shows; ci: seconds.")
    ] = BudgetOption.book,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, help="Runs at once, each in a process of its own.")] = 1,
    train_only: Annotated[bool, typer.Option("--train-only", help="Judge later, perhaps elsewhere.")] = False,
    accelerator: Annotated[Accelerator, typer.Option(help="Where to compute.")] = Accelerator.auto,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
) -> None:
    """Repeat the review's experiments (Chapter 13): train the models, judge them on held-out people, make the tables.

    Ctrl-C stops and saves; the same command goes on. Started several times on one folder, by --jobs, by torchrun or on
    several machines that share it, each process takes the next run that nobody has. A run that fails, or a corpus that
    is not here, does not stop the others: what went wrong is said at the end.

    [bold]Examples[/]

    dvae benchmark runs/benchmark --corpus librispeech --corpus mocap --seeds 3

    dvae benchmark runs/quick --corpus prompts --model vae --model srnn --budget ci

    torchrun --nproc-per-node 8 -m dvae_lib.cli benchmark runs/benchmark --corpus librispeech --budget full
    """
    import matplotlib.pyplot as plt

    from dvae_lib.experiments import run

    plt.switch_backend("agg")
    if not corpus:
        corpus = ["librispeech"]
        _ask_before_fetching(corpus_info("librispeech"))
    outcome = run(
        folder,
        corpus,
        model,
        seeds=seeds,
        budget=budget.value,
        jobs=jobs,
        train_only=train_only,
        accelerator=accelerator.value,
        progress=not quiet and err.is_terminal,
        say=None if quiet else partial(out.print, soft_wrap=True, highlight=False, markup=False),
    )
    _print_reports(outcome.reports)
    for name, text in outcome.errors.items():
        err.print(f"{name}: {text}", soft_wrap=True, highlight=False, markup=False)
    if outcome.interrupted:
        out.print("Interrupted and saved; the same command goes on.")
        raise typer.Exit(INTERRUPTED)
    if outcome.errors:
        raise typer.Exit(1)


def _ask_before_fetching(info: CorpusInfo) -> None:
    """Nobody asked for this corpus by name: where somebody can answer, ask before much is downloaded."""
    from dvae_lib.experiments.runs import WORKER

    if info.find() is not None or WORKER in os.environ or not (sys.stdin.isatty() and err.is_terminal):
        return
    out.print(f"No --corpus was given. The default is {info.name}, which is not here ({info.size}).", highlight=False)
    typer.confirm("Fetch it?", default=True, abort=True)


@app.command()
def report(
    results: Annotated[
        list[Path], typer.Argument(help="Result files, or folders of the benchmark, from one or many machines.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for tables and figures.", metavar="FOLDER", file_okay=False)
    ],
    figures: Annotated[bool, typer.Option(help="Draw figures, too.")] = True,
) -> None:
    """Make the tables (Markdown, LaTeX, CSV) and figures of the benchmark from its result files alone.

    [bold]Example[/]: dvae report runs/benchmark -o report
    """
    import matplotlib.pyplot as plt

    from dvae_lib.experiments import collect, write_report

    plt.switch_backend("agg")

    found, problems = collect(results)
    for text in problems:
        err.print(text, soft_wrap=True, highlight=False, markup=False)
    if not found:
        raise ValueError("These files and folders hold no result of the benchmark that can be read.")
    _print_reports(write_report(found, output, figures=figures))
    if problems:
        raise typer.Exit(1)


def _print_reports(reports: "list[Report]") -> None:
    for report in reports:
        out.print(
            f"{report.corpus} ({report.budget}): {report.stem}.md, .tex, .csv, .json", soft_wrap=True, highlight=False
        )
        out.print(report.table, soft_wrap=True, highlight=False, markup=False)


# --- info ---------------------------------------------------------------------------------------------------------

_OPTIONAL = {
    "speech": ("soundfile", "soxr", "G722", "pesq", "pystoi", "torchmetrics"),
    "music": ("music21",),
}


@app.command()
def info(
    model: Annotated[
        str | None,
        typer.Argument(help="Folder of a run or of a saved model, the name of one that ships, or a kind of model."),
    ] = None,
) -> None:
    """Describe this installation; or a run, a saved model, or the options of a kind of model.

    [bold]Examples[/]

    dvae info

    dvae info runs/vae

    dvae info srnn
    """
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, value in (_facts(model)).items():
        table.add_row(f"[bold]{name}[/]", escape(value))
    out.print(table)


def _facts(model: str | None) -> dict[str, str]:
    if model is None:
        return _installation()
    if model in MODELS and not Path(model).is_dir():
        return _kind_facts(model)
    return _model_facts(model)


def _kind_facts(name: str) -> dict[str, str]:
    """The options of a kind of model, with the values they have where none is given."""
    kind = MODELS[name]
    own = {**{n: p.default for n, p in inspect.signature(kind.cls).parameters.items()}, **kind.options}
    listed = [n if v is inspect.Parameter.empty else f"{n}={json.dumps(v, default=str)}" for n, v in own.items()]
    return {
        "model": f"{kind.cls.__name__}: {(inspect.getdoc(kind.cls) or '').splitlines()[0]}",
        "options": "\n".join(listed),
        "set by": f"dvae train {name} ... -O 'NAME=VALUE'",
        "trained models": ", ".join(n for n in _shipped() if n == name or n.startswith(f"{name}-")) or "none",
    }


def _shipped() -> list[str]:
    return sorted(path.parent.name for path in (resource_path() / "pretrained").glob("*/config.json"))


def _installation() -> dict[str, str]:
    def version(package: str) -> str:
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return "missing"

    facts = {
        "dvae-lib": f"{__version__} in {Path(__file__).parent}",
        "Python": f"{platform.python_version()} on {platform.platform(terse=True)}",
        "needed": ", ".join(f"{name} {version(name)}" for name in ("torch", "numpy", "lightning-fabric")),
    }
    for extra, packages in _OPTIONAL.items():
        missing = [name for name in packages if importlib.util.find_spec(name) is None]
        present = ", ".join(f"{name} {version(name)}" for name in packages if name not in missing)
        hint = f'; missing: {", ".join(missing)} (pip install "dvae-lib[{extra}]")' if missing else ""
        facts[f"extra {extra}"] = (present or "none") + hint
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    gpus += ["Apple GPU (mps)"] if torch.backends.mps.is_available() else []
    found = {corpus.name: corpus.find() for corpus in list_corpora()}
    return {
        **facts,
        "devices": ", ".join([f"CPU ({os.cpu_count()} cores, {torch.get_num_threads()} threads)", *gpus]),
        "models": ", ".join(MODELS),
        "trained models": ", ".join(_shipped()) or "none",
        "corpora": "\n".join(f"{name}: {place or 'not here'}" for name, place in found.items()),
        "search path": os.pathsep.join(map(str, search_path())),
        "cache": str(cache_folder()),
    }


def _model_facts(name: str) -> dict[str, str]:
    from dvae_lib.training import BEST, CHECKPOINT, HISTORY
    from dvae_lib.training.checkpoints import load_checkpoint

    folder = Path(name)
    facts: dict[str, str] = {}
    if (folder / CHECKPOINT).is_file():
        _, state = load_checkpoint(folder / CHECKPOINT)
        progress, config = state["progress"], state["config"]
        facts = {
            "run": f"{folder}: {progress['epoch']} of at most {config['max_epochs']} epochs, {progress['step']} steps",
            "best": f"{progress['best_value']:.4f} nats per frame in epoch {progress['best_epoch']}"
            if progress["best_epoch"]
            else "no epoch is complete",
            "history": str(folder / HISTORY),
        }
        if not (folder / BEST).is_dir():
            return {**facts, "model": f"{state['run']['model']} (saved in {folder / BEST} when the run ends)"}
        name = str(folder / BEST)
    network = DVAE.from_pretrained(name)
    metadata = dict(network.metadata)
    if "data" in metadata:  # the marks of the sequences it has seen are for `evaluate`
        metadata["data"] = {key: value for key, value in metadata["data"].items() if key != "seen"}
    facts["model"] = f"{type(network).__name__}, {sum(p.numel() for p in network.parameters()):,} parameters"
    facts["options"] = ", ".join(f"{key}={value}" for key, value in network.options.items())
    facts["standardised"] = "yes, as learned on the training part" if metadata.pop("standardizer", None) else "no"
    facts |= {key: json.dumps(value, ensure_ascii=False) for key, value in metadata.items()}
    return facts


if __name__ == "__main__":
    main()
