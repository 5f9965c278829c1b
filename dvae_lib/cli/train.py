"""``dvae train``: train a model on a corpus or on one's own sequences."""

import inspect
import json
import re
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
import typer

from dvae_lib.cli import console
from dvae_lib.cli.console import INTERRUPTED
from dvae_lib.cli.options import CORPUS, DATA, INPUTS, LIMIT, Accelerator, Inputs
from dvae_lib.models import DVAE, MODELS

if TYPE_CHECKING:
    from dvae_lib.data.catalogue import LoadedCorpus
    from dvae_lib.training import TrainingConfig

__all__ = ["train"]

# What only some commands need is imported in them: help should not wait for it.


class Split(str, Enum):
    """How one's own sequences become a training, a validation and a test part."""

    group = "group"
    time = "time"


class TimeStepsUse(str, Enum):
    """What the steps between times that are not evenly spaced are to the model."""

    input = "input"


_PANEL = "Training; what is not given is the review's (Section 13.2.3)"


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
    corpus: CORPUS = None,
    data: DATA = None,
    z_dim: Annotated[int | None, typer.Option(min=1, help="Size of the latent vectors.")] = None,
    observation: Annotated[
        str | None,
        typer.Option(
            help="gaussian, gamma, bernoulli, poisson, ... Or the family of each column of a table: "
            "'visits=poisson, heat=student_t'. Default: what suits the data."
        ),
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
    missing: Annotated[
        bool,
        typer.Option(
            "--missing", help="In your own data NaN, or an empty cell, stands for a missing value; else it is refused."
        ),
    ] = False,
    data_option: Annotated[
        list[str] | None,
        typer.Option(
            "--data-option",
            "-D",
            help="Any option of what reads the data, as JSON: -D steps=2 -D per=second of MIDI files, -D fps=30 of BVH "
            "files.",
        ),
    ] = None,
    time: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="The column of your CSV files that holds the times, evenly spaced unless --time-steps is given. "
            "Default: one with dates. Their rhythm is kept with the model.",
        ),
    ] = None,
    time_steps: Annotated[
        TimeStepsUse | None,
        typer.Option(
            help="For CSV files whose rows are not evenly spaced: the time since the row before, as an input of the "
            "model (log of the step over the median step).",
        ),
    ] = None,
    limit: LIMIT = None,
    max_epochs: Annotated[int | None, typer.Option("--epochs", min=1, rich_help_panel=_PANEL)] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Over all processes together.", rich_help_panel=_PANEL)
    ] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Of Adam.", rich_help_panel=_PANEL)] = None,
    patience: Annotated[
        int | None, typer.Option(min=1, help="Epochs without a better bound before stopping.", rich_help_panel=_PANEL)
    ] = None,
    gradient_clip: Annotated[float | None, typer.Option(help="Largest gradient norm.", rich_help_panel=_PANEL)] = None,
    inputs: Annotated[Inputs | None, INPUTS] = None,
    start_at_mean: Annotated[
        bool,
        typer.Option("--start-at-mean", help="Start the output at the mean of the data.", rich_help_panel=_PANEL),
    ] = False,
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

    dvae train srnn --data visits/ --time when --time-steps input --folder runs/visits

    dvae train srnn --data tunes/ --folder runs/tunes -D steps=2 -D per=beat

    dvae train srnn --data days.csv --split time --folder runs/days --observation 'visits=poisson, heat=student_t'

    dvae train srnn --corpus prompts --folder runs/srnn-gm --start-from runs/srnn/best --scheduled-sampling 50

    torchrun --nproc-per-node 2 -m dvae_lib.cli train vae --corpus prompts --folder runs/vae
    """
    from dvae_lib.distributions import by_column, standardized_columns
    from dvae_lib.training import BEST, Schedule, fit, training_fabric

    if model not in MODELS:
        raise typer.BadParameter(f"{model!r} is none of {', '.join(MODELS)}", param_hint="MODEL")
    options = {"z_dim": z_dim, "observation": observation, **_json_options(option or [])}
    families = _families(options["observation"])
    which: bool | Sequence[str | int] | None = standardize
    if families is not None and standardize is not False:
        columns = standardized_columns(families)
        which = columns if standardize is None or isinstance(columns, list) else standardize
    source = _source(
        corpus,
        data,
        sequence_length=sequence_length,
        limit=limit,
        seed=split_seed,
        split=split.value,
        standardize=which,
        missing=missing,
        time=time,
        **({} if time_steps is None else {"time_steps": time_steps.value}),
        **_json_options(data_option or [], "--data-option"),
    )
    if isinstance(families, Mapping):
        options["observation"] = by_column(families, source.train.labels.columns)
    settings = {
        "max_epochs": max_epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "patience": patience,
        "gradient_clip": gradient_clip,
        "inputs": None if inputs is None else inputs.value,
        "start_at_mean": start_at_mean or None,
        "schedules": {
            **({} if warm_up is None else {"beta": Schedule.linear(0.0, 1.0, epochs=warm_up)}),
            **({} if scheduled_sampling is None else {"feedback": Schedule.scheduled_sampling(scheduled_sampling)}),
        }
        or None,
        "seed": seed,
    }
    training = _training_config(
        source.kind, config, {name: value for name, value in settings.items() if value is not None}
    )
    fabric = training_fabric(accelerator=accelerator.value, precision=precision)
    torch.manual_seed(seed)  # the initial weights
    given = {name: value for name, value in options.items() if value is not None}
    network = _build(model, source, given) if start_from is None else _load(model, start_from, given)
    network.metadata.update(_with_marks(source))
    train_part, validation = source.parts.train, source.parts.validation
    first = fabric.global_rank == 0
    if first:
        parameters = sum(p.numel() for p in network.parameters())
        console.out.print(f"{model}: {parameters:,} parameters, on {fabric.device}", highlight=False)
        console.out.print(f"training    {train_part!r}\nvalidation  {validation!r}", soft_wrap=True, highlight=False)
    result = fit(network, train_part, validation, training, folder=folder, fabric=fabric, tensorboard=tensorboard)
    if not first:
        return
    if result.best_epoch:
        console.out.print(
            f"Best validation bound: {result.best_value:.4f} nats per frame, in epoch {result.best_epoch} of "
            f"{len(result.history)}. The model is in {folder / BEST}.",
            soft_wrap=True,
            highlight=False,
        )
    if result.stopped == "interrupted":
        console.out.print("Interrupted and saved; the same command goes on.")
        raise typer.Exit(INTERRUPTED)
    console.out.print(f"Next: dvae evaluate {folder}", soft_wrap=True, highlight=False)


def _families(observation: Any) -> str | dict[str, str] | None:
    """The observation model, or those of columns by their names, written 'visits=poisson, heat=student_t'."""
    if not isinstance(observation, str):
        return None if observation is None else dict(observation)
    terms = re.split(r",(?![^(]*\))", observation)
    pairs = [(name.strip(), family.strip()) for name, equals, family in (t.partition("=") for t in terms) if equals]
    if not pairs or any("(" in name for name, _ in pairs):
        return observation
    if len(pairs) < len(terms) or len(dict(pairs)) < len(pairs):
        raise typer.BadParameter(
            f"{observation!r} must give each column one family: 'visits=poisson, heat=student_t'",
            param_hint="--observation",
        )
    return dict(pairs)


def _source(corpus: str | None, data: Path | None, **options: Any) -> "LoadedCorpus":
    from dvae_lib.data.loading import load

    if (corpus is None) == (data is None):
        raise typer.BadParameter("give one of them: what to work on", param_hint="--corpus / --data")
    return load(data or corpus or "", **options)


def _with_marks(source: "LoadedCorpus") -> dict[str, Any]:
    """What is saved with a model about its data: where a seed has split them, also which recordings it has seen."""
    from dvae_lib.data.heldout import marks

    if source.kind != "sequences":
        return source.metadata
    seen = marks(source.parts.train, source.parts.validation)
    return {**source.metadata, "data": {**source.metadata["data"], "seen": seen}}


def _json_options(given: list[str], hint: str = "--option") -> dict[str, Any]:
    options = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise typer.BadParameter(f"{text!r} is not of the form name=value", param_hint=hint)
        try:
            options[name.strip()] = json.loads(value)
        except json.JSONDecodeError:
            options[name.strip()] = value  # a word needs no quotation marks
    return options


def _training_config(kind: str, file: Path | None, settings: dict[str, Any]) -> "TrainingConfig":
    from dvae_lib.training import TrainingConfig, config_for

    if file is None:
        return config_for(kind, **settings)
    return TrainingConfig.from_dict({**TrainingConfig.from_file(file).to_dict(), **settings})


def _build(name: str, source: "LoadedCorpus", options: dict[str, Any]) -> DVAE:
    from dvae_lib.training import model_for

    _check_types(inspect.signature(MODELS[name].cls).parameters, options)
    return model_for(name, source.parts.train, kind=source.kind, **{"observation": source.observation, **options})


def _check_types(known: Mapping[str, inspect.Parameter], options: Mapping[str, Any]) -> None:
    """Refuse an option of another type than the model's own value, which would end in an error of torch."""
    for option, value in options.items():
        if option not in known:
            continue  # the library says so
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
            raise ValueError(f"The option {option} is {wanted}; got {json.dumps(value)}")


def _load(name: str, folder: str, options: dict[str, Any]) -> DVAE:
    """The model to go on from, which has its options already."""
    if options:
        raise typer.BadParameter(
            f"{folder} has its own options; leave out {', '.join(options)}", param_hint="--start-from"
        )
    return MODELS[name].cls.from_pretrained(folder)
