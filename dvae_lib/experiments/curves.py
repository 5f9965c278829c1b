"""What the curves of trainings say and their ends do not: who leads when, and what fit and generalisation cost."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from dvae_lib.experiments.protocol import REVIEW_MODELS
from dvae_lib.experiments.records import Record
from dvae_lib.experiments.review import LABELS
from dvae_lib.training.schedules import Schedule

__all__ = ["Kept", "best_so_far", "kept", "place"]


def best_so_far(records: Sequence[Record], steps: Sequence[int]) -> dict[str, tuple[float, ...]]:
    """The best validation bound that a model has reached after so many steps: what early stopping would have kept.

    Arguments:
        records: Of one corpus; trainings with teacher forcing count.
        steps: Numbers of updates of the weights. After its last epoch a training stays where it is.

    Returns:
        For each model, by its name in the review, means over seeds in nats per frame; NaN before the first epoch.

    Example:
        >>> training = {"epochs": 3, "steps": 6, "curve": {"validation": [1.0, 0.0, 2.0]}}
        >>> best_so_far([{"model": "vae", "scheduled": False, "training": training}], [2, 5, 99])
        {'VAE': (1.0, 1.0, 2.0)}
    """
    return {
        name: tuple(statistics.fmean(_best(training, step) for training in trainings) for step in steps)
        for name, trainings in _trainings(records).items()
    }


def place(values: Mapping[str, float], name: str) -> int:
    """The place of a model, 1 for the highest value.

    Example:
        >>> place({"a": 3.0, "b": 1.0, "c": 2.0}, "c")
        2
    """
    return 1 + sum(value > values[name] for value in values.values())


class Kept(NamedTuple):
    r"""The epoch of a training whose weights were kept, beside a reference model, in nats per frame.

    With :math:`\mathcal L` a bound and R the reference (a mean over its trainings), what the model lacks on validation
    is what it lacks on the training part, and what it loses more than the reference on the way to new speakers:

    .. math::

        \mathcal L_\text{val} - \mathcal L^R_\text{val} = \underbrace{\mathcal L_\text{train} -
        \mathcal L^R_\text{train}}_\text{fit} + \underbrace{(\mathcal L_\text{val} - \mathcal L_\text{train}) -
        (\mathcal L^R_\text{val} - \mathcal L^R_\text{train})}_\text{generalisation}.

    Attributes:
        seed: Of the training.
        epoch: The epoch.
        rate: Its learning rate, as a share of the first one.
        train: Bound on the training part, while the weights still moved.
        validation: Bound on the validation part.
        last_train: Bound on the training part in the last epoch, which early stopping may have thrown away.
        fit: Against the reference; negative is worse.
        generalisation: Likewise.
    """

    seed: int
    epoch: int
    rate: float
    train: float
    validation: float
    last_train: float
    fit: float
    generalisation: float


def kept(records: Sequence[Record], reference: str = "VAE") -> dict[str, list[Kept]]:
    """The kept epochs of all trainings with teacher forcing, by the models' names in the review.

    Arguments:
        records: Of one corpus.
        reference: The model beside which the others are seen.

    Raises:
        ValueError: The reference has not been trained.
    """
    found = _trainings(records)
    if reference not in found:
        raise ValueError(f"There is no training of {reference} to compare with; there are {', '.join(found) or 'none'}")
    train, validation = (statistics.fmean(_kept(t, part) for t in found[reference]) for part in ("train", "validation"))
    every: dict[str, list[Kept]] = {name: [] for name in found}
    for record in _taught(records):
        training = record["training"]
        here, there = _kept(training, "train"), _kept(training, "validation")
        line = Kept(
            seed=int(record["seed"]),
            epoch=training["best_epoch"],
            rate=_share_of_the_rate(record["config"]["learning_rate"], training["best_epoch"]),
            train=here,
            validation=there,
            last_train=training["curve"]["train"][-1],
            fit=here - train,
            generalisation=(there - here) - (validation - train),
        )
        every[LABELS[record["model"]]].append(line)
    return every


def _taught(records: Sequence[Record]) -> list[Record]:
    order = {name: i for i, name in enumerate(REVIEW_MODELS)}
    taught = [record for record in records if not record["scheduled"] and "training" in record]
    return sorted(taught, key=lambda record: order[record["model"]])


def _trainings(records: Sequence[Record]) -> dict[str, list[Mapping[str, Any]]]:
    found: dict[str, list[Mapping[str, Any]]] = {}
    for record in _taught(records):
        found.setdefault(LABELS[record["model"]], []).append(record["training"])
    return found


def _best(training: Mapping[str, Any], step: int) -> float:
    epochs = step * training["epochs"] // training["steps"]
    return max(training["curve"]["validation"][:epochs], default=math.nan)


def _kept(training: Mapping[str, Any], part: str) -> float:
    return float(training["curve"][part][training["best_epoch"] - 1])


def _share_of_the_rate(rate: Any, epoch: int) -> float:
    """The rate with which an epoch, counted from 1, was trained; `rate` as a configuration writes it down."""
    schedule = Schedule.of(rate)
    return schedule(epoch - 1) / schedule(0)
