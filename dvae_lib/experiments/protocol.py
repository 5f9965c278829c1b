"""What is run, and how: the protocol of Section 13.2 of the review, and smaller ones for smaller machines."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, get_args

from dvae_lib.models import DVAE, build_model
from dvae_lib.models.reading import POWER
from dvae_lib.training import TrainingConfig
from dvae_lib.training.schedules import Schedule

__all__ = [
    "REVIEW_MODELS",
    "PROTOCOLS",
    "SCHEDULED",
    "SCHEDULED_ENDING",
    "BudgetName",
    "Experiment",
    "Mode",
    "Protocol",
    "Run",
    "falling",
    "plan",
    "protocol",
]

Experiment = Literal["speech", "motion"]
BudgetName = Literal["ci", "book", "full"]

Mode = Literal["TF", "TF-GM", "GM"]
"""Trained and tested with teacher forcing; trained so, tested in generation mode; trained and tested in that."""

REVIEW_MODELS: tuple[str, ...] = ("vae", "dkf", "storn", "vrnn", "srnn", "rvae-causal", "rvae-noncausal", "dsae")
"""The models of Tables 13.1 and 13.2, in their order."""

SCHEDULED: tuple[str, ...] = ("storn", "vrnn", "srnn")
"""The autoregressive ones, which are also trained with scheduled sampling (Section 13.3.3)."""

SCHEDULED_ENDING = "-scheduled"
"""What the name of a model ends in that was trained further with scheduled sampling."""


class Run(NamedTuple):
    """One training: a model, whether by scheduled sampling from its weights before, and a seed."""

    model: str
    scheduled: bool
    seed: int

    @property
    def name(self) -> str:
        """The model's name; with scheduled sampling, an ending says so."""
        return self.model + SCHEDULED_ENDING * self.scheduled

    @property
    def starts_from(self) -> "Run | None":
        """The run whose weights this one begins with."""
        return self._replace(scheduled=False) if self.scheduled else None

    @classmethod
    def of(cls, name: str, seed: int) -> "Run":
        """The run of that name."""
        return cls(name.removesuffix(SCHEDULED_ENDING), name.endswith(SCHEDULED_ENDING), seed)


@dataclass(frozen=True)
class Protocol:
    """How the models of an experiment are trained and tested.

    Attributes:
        experiment: "speech" or "motion".
        budget: Its name: a budget of the benchmark, or what a study calls it.
        training: The training with teacher forcing.
        scheduled: The training that follows for autoregressive models.
        options: Of the models, beside those of the preset.
        sequence_length: Frames of a training sequence.
        hop: Frames between the starts of two of them; None: `sequence_length`.
        importance_samples: Of the importance-weighted bound.
        limit: At most so many recordings of each part of a speech corpus; None: all.
        test_limit: At most so many test sequences, evenly over the test part; None: all.
        command: What makes the models; None is the benchmark with this budget.
    """

    experiment: Experiment
    budget: str
    training: TrainingConfig
    scheduled: TrainingConfig
    options: dict[str, Any]
    sequence_length: int = 50
    hop: int | None = None
    importance_samples: int = 20
    limit: int | None = None
    test_limit: int | None = None
    command: str | None = None

    def config(self, run: Run) -> TrainingConfig:
        """The training of a run."""
        return replace(self.scheduled if run.scheduled else self.training, seed=run.seed)

    def reading(self, inputs: str) -> "Protocol":
        """The same, but that the networks read something else of the data, with an output that starts accordingly."""
        training = replace(self.training, inputs=inputs, start_at_mean=inputs != POWER)
        return replace(self, training=training, scheduled=replace(self.scheduled, inputs=inputs))

    def build(self, run: Run, x_dim: int) -> DVAE:
        """The model of a run, with its initial weights drawn from torch's global generator."""
        return build_model(run.model, self.experiment, x_dim=x_dim, **self.options)


def falling(rate: float, epochs: int, last: float | None = None) -> Schedule:
    """A learning rate that falls over the second half of a training, so that a short one ends where it can.

    Arguments:
        rate: In the first half.
        epochs: Number of epochs.
        last: In the last epoch; None is a tenth.

    Example:
        >>> [round(falling(1e-3, 4)(epoch), 5) for epoch in range(5)]
        [0.001, 0.001, 0.001, 0.00055, 0.0001]
    """
    return Schedule(tuple({0: rate, epochs // 2: rate, epochs: rate / 10 if last is None else last}.items()))


def _feedback(every: int) -> dict[str, Schedule]:
    return {"feedback": Schedule.scheduled_sampling(every)}


def _speech() -> dict[BudgetName, Protocol]:
    # Gradients of the Gamma likelihood have a long tail, because the models hear raw powers; the review does not say
    # that they are clipped.
    clip: dict[str, Any] = {"gradient_clip": 100.0}
    small: dict[str, Any] = {"batch_size": 4, "gradient_clip": 100.0}
    full = Protocol("speech", "full", TrainingConfig.speech(**clip), TrainingConfig.scheduled_sampling(**clip), {})
    book = replace(
        full,
        budget="book",
        training=TrainingConfig.speech(learning_rate=falling(2e-3, 250), max_epochs=250, **clip),
        scheduled=TrainingConfig.speech(learning_rate=falling(5e-4, 60), max_epochs=60, schedules=_feedback(6), **clip),
        test_limit=60,
    )
    ci = replace(
        full,
        budget="ci",
        training=TrainingConfig.speech(max_epochs=2, **small),
        scheduled=TrainingConfig.speech(max_epochs=5, schedules=_feedback(1), **small),
        importance_samples=2,
        limit=4,
    )
    return {"full": full, "book": book, "ci": ci}


def _motion() -> dict[BudgetName, Protocol]:
    full = Protocol(
        "motion",
        "full",
        TrainingConfig.motion(),
        TrainingConfig.motion(max_epochs=500, schedules=_feedback(50)),
        {},
        hop=2,
    )
    # The review's rate of 1e-4 goes with ten times as many steps an epoch.
    book = replace(
        full,
        budget="book",
        training=TrainingConfig.motion(
            learning_rate=falling(1e-3, 120),
            max_epochs=120,
            schedules={"beta": Schedule.linear(0.0, 1.0, epochs=30)},
        ),
        scheduled=TrainingConfig.motion(learning_rate=falling(5e-4, 50), max_epochs=50, schedules=_feedback(5)),
    )
    small: dict[str, Any] = {"batch_size": 16}
    warm_up = {"beta": Schedule.linear(0.0, 1.0, epochs=1)}
    ci = replace(
        full,
        budget="ci",
        training=TrainingConfig.motion(max_epochs=2, schedules=warm_up, **small),
        scheduled=TrainingConfig.motion(max_epochs=5, schedules=_feedback(1), **small),
        hop=25,
        importance_samples=2,
        test_limit=4,
    )
    return {"full": full, "book": book, "ci": ci}


PROTOCOLS: dict[Experiment, dict[BudgetName, Protocol]] = {"speech": _speech(), "motion": _motion()}
"""By experiment and budget. "full" is the review's; "book" is what the book shows; "ci" takes seconds."""


def protocol(experiment: Experiment, budget: BudgetName = "book") -> Protocol:
    """The protocol of that name.

    Raises:
        ValueError: For a name that is none.
    """
    for kind, name, known in (("experiment", experiment, PROTOCOLS), ("budget", budget, get_args(BudgetName))):
        if name not in known:
            raise ValueError(f"There is no {kind} {name!r}; there are {', '.join(known)}")
    return PROTOCOLS[experiment][budget]


def plan(names: Sequence[str] | None = None, seeds: Sequence[int] = (0,)) -> list[Run]:
    """The runs, one seed after the other, so that an interrupted benchmark has whole tables; what others need first.

    Arguments:
        names: Of models, such as ``"srnn"`` or ``"srnn-scheduled"``; None takes all of the review's.
        seeds: Of initial weights and training.

    Raises:
        ValueError: An unknown name.

    Example:
        >>> [(run.name, run.seed) for run in plan(["srnn-scheduled", "vae"])]
        [('srnn', 0), ('vae', 0), ('srnn-scheduled', 0)]
    """
    every = [*REVIEW_MODELS, *(name + SCHEDULED_ENDING for name in SCHEDULED)]
    for name in names or []:
        if name not in every:
            raise ValueError(f"The benchmark has no model {name!r}; it has {', '.join(every)}")
    wanted = dict.fromkeys(names or every)
    first = dict.fromkeys(name.removesuffix(SCHEDULED_ENDING) for name in wanted)
    then = [name for name in wanted if name.endswith(SCHEDULED_ENDING)]
    return [Run.of(name, seed) for seed in dict.fromkeys(seeds) for name in (*first, *then)]
