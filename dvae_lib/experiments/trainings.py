"""A training of an experiment, which goes on where it was interrupted, and what is kept with its model."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from dvae_lib.data.pretrained import ON_REQUEST, SHIPPED
from dvae_lib.data.sequences import SequenceDataset
from dvae_lib.experiments.records import Record
from dvae_lib.models.base import DVAE
from dvae_lib.training import Objective, TrainingConfig, TrainingResult, fit, vlb_terms
from dvae_lib.training.schedules import Number

__all__ = ["Interrupted", "describe_training", "facts_of_training", "print_epoch", "shelf", "starting_model", "train"]


class Interrupted(Exception):  # noqa: N818 - an event
    """The training was asked to stop, and has saved its state."""


def starting_model(seed: int, build: Callable[[], DVAE], trained: Path | None = None) -> DVAE:
    """The model that a training starts from: a new one, or one that was trained before.

    Arguments:
        seed: Seed of the initial weights.
        build: Makes a new model.
        trained: Folder of a trained model, whose weights are taken, and not what is said of their training.

    Raises:
        FileNotFoundError: That model is not there.
    """
    torch.manual_seed(seed)
    if trained is None:
        return build()
    model = DVAE.from_pretrained(trained)
    model.metadata.clear()
    return model


def train(
    model: DVAE,
    training: SequenceDataset,
    validation: SequenceDataset,
    config: TrainingConfig,
    folder: str | Path,
    *,
    objective: Objective = vlb_terms,
) -> TrainingResult:
    """Train a model, or go on with its training, and say each epoch.

    Arguments:
        model: The model; afterwards it has the weights of the best epoch.
        training: Training sequences.
        validation: Sequences that choose the epoch.
        config: The training.
        folder: Where its state is kept.
        objective: What is maximised; see `fit`.

    Raises:
        Interrupted: It was interrupted; the same call goes on.
    """
    result = fit(
        model,
        training,
        validation,
        config,
        objective=objective,
        folder=folder,
        callback=print_epoch,
        progress=False,
    )
    if result.stopped == "interrupted":
        raise Interrupted(f"interrupted and saved in {folder}; the same command goes on")
    return result


def print_epoch(model: torch.nn.Module, record: dict[str, Number]) -> None:
    """Print an epoch of a training on one line: the bound, or what is maximised where that has none."""
    term = "vlb" if "train_vlb_per_frame" in record else "objective"
    values = (f"{part} {record[f'{part}_{term}_per_frame']:.3f}" for part in ("train", "validation"))
    print(f"{type(model).__name__}, epoch {record['epoch']}:", *values, f"{record['seconds']:.0f} s", flush=True)


def describe_training(
    model: DVAE, result: TrainingResult, config: TrainingConfig, *, corpus: str, made_by: str, **facts: Any
) -> None:
    """Write into the model's metadata what it was trained on, how, and by which command.

    Arguments:
        model: The trained model.
        result: What `fit` returned.
        config: The training.
        corpus: Name of the corpus.
        made_by: The command.
        facts: What there is to say beside, such as the licence of the data.
    """
    model.metadata.update(
        corpus=corpus,
        made_by=made_by,
        seed=config.seed,
        **facts,
        training=config.to_dict(),
        best_epoch=result.best_epoch,
        validation_bound_per_frame=result.best_value,
        seconds=round(sum(float(epoch["seconds"]) for epoch in result.history)),  # of all parts, if interrupted
        torch=torch.__version__,
    )


def facts_of_training(model: DVAE) -> Record:
    """What a result says of the model that was tested, from its metadata."""
    return {
        "seed": model.metadata["seed"],
        "weights": sum(p.numel() for p in model.parameters()),
        "best_epoch": model.metadata["best_epoch"],
        "epochs": model.metadata["training"]["max_epochs"],
        "validation": round(model.metadata["validation_bound_per_frame"], 4),
    }


def shelf(name: str, data: str | Path) -> Path:
    """The folder of trained models in which one of that name stands or would stand.

    Arguments:
        name: The model's.
        data: The folder ``data/`` of the project.
    """
    on_request = Path(data) / ON_REQUEST  # what is downloaded when it is asked for
    return on_request if (on_request / name).is_dir() else Path(data) / SHIPPED
