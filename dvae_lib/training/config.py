"""How a model is trained: the values that decide, together with model and data, what comes out."""

import dataclasses
import json
import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from dvae_lib.models.reading import INPUTS
from dvae_lib.training.schedules import Number, Schedule

__all__ = ["TrainingConfig"]


@dataclass(frozen=True)
class TrainingConfig:
    """How a model is trained. Together with model and data it determines the result.

    Attributes:
        learning_rate: Of Adam; a number or a schedule over the epochs.
        batch_size: Sequences in a step, over all processes together.
        max_epochs: Passes over the training set at most.
        patience: Stop after so many epochs without a better validation VLB; None never does. Epochs in which
            a schedule is still moving, or parameters still frozen, are not counted.
        gradient_clip: Scale the gradient down to this norm where it is longer; None leaves it.
        schedules: Keyword arguments of the objective as functions of the epoch: ``beta`` weighs the KL terms
            (warm-up), ``feedback`` is the probability of scheduled sampling. Validation uses their final values,
            so that all epochs are compared by the same measure.
        freeze: Parameters that stay as they are for a number of epochs, by the beginning of their names:
            ``{"dynamics": 10}``.
        encoder_steps: So many steps train the inference model alone before each one that trains all weights: the
            encoder is not to lag behind the posterior that it approximates (He et al., 2019, who stop these steps when
            their loss rises). A number or a `Schedule`, which should end at 0: what counts is then trained together.
        inputs: What the networks read of the data: "power", the data as they are, or "log_power", their standardised
            logarithms, learned from the training part; None leaves the model as it is.
        start_at_mean: Start the output layer at the mean log-power of the training part (Gamma likelihood), or at the
            log-odds of its ones (Bernoulli), before the first step.
        seed: Of the order of the sequences and of all noise. It does not touch the model's initial weights.
        checkpoint_seconds: Time between checkpoints, which are also written in the midst of an epoch.
        checkpoint_steps: Write one every so many steps as well.

    Raises:
        ValueError, TypeError: Values out of range or of the wrong type.

    Example:
        >>> config = TrainingConfig.motion(max_epochs=200)
        >>> config.schedules["beta"](25)
        0.5
        >>> TrainingConfig.from_json(config.to_json()) == config
        True
    """

    learning_rate: Number | Schedule = 2e-3
    batch_size: int = 128
    max_epochs: int = 500
    patience: int | None = 50
    gradient_clip: Number | None = None
    schedules: Mapping[str, Number | Schedule] = field(default_factory=dict)
    freeze: Mapping[str, int] = field(default_factory=dict)
    encoder_steps: Number | Schedule = 0
    inputs: str | None = None
    start_at_mean: bool = False
    seed: int = 0
    checkpoint_seconds: Number = 30.0
    checkpoint_steps: int | None = None

    # What may change when a run is resumed, because the steps already made do not depend on it.
    CONTINUABLE: ClassVar[frozenset[str]] = frozenset(
        {"max_epochs", "patience", "checkpoint_seconds", "checkpoint_steps"}
    )

    PREPARING: ClassVar[frozenset[str]] = frozenset({"inputs", "start_at_mean"})

    def __post_init__(self) -> None:
        def put(name: str, value: Any) -> None:
            object.__setattr__(self, name, value)

        for name, optional in (
            ("batch_size", False),
            ("max_epochs", False),
            ("patience", True),
            ("checkpoint_steps", True),
        ):
            put(name, _number(name, getattr(self, name), whole=True, optional=optional, least=1))
        put("seed", _number("seed", self.seed, whole=True, least=0))
        if self.inputs is not None and self.inputs not in INPUTS:
            raise ValueError(f"inputs must be one of {', '.join(INPUTS)}, or None; got {self.inputs!r}")
        if not isinstance(self.start_at_mean, bool):
            raise TypeError(f"start_at_mean must be True or False; got {self.start_at_mean!r}")
        put("gradient_clip", _number("gradient_clip", self.gradient_clip, optional=True, above=0.0))
        put("checkpoint_seconds", _number("checkpoint_seconds", self.checkpoint_seconds, least=0.0))
        for name, value in (("schedules", self.schedules), ("freeze", self.freeze)):
            if not isinstance(value, Mapping):
                raise TypeError(f"{name} maps names to values; got {value!r}")
        frozen = {name: _number(f"freeze[{name!r}]", n, whole=True, least=1) for name, n in self.freeze.items()}
        put("freeze", frozen)
        put("learning_rate", Schedule.of(self.learning_rate))
        if any(rate <= 0 for _, rate in self.rate.points):
            raise ValueError(f"learning_rate must be positive; got {self.rate.to_json()}")
        put("schedules", {name: Schedule.of(value) for name, value in self.schedules.items()})
        put("encoder_steps", Schedule.of(self.encoder_steps))
        if any(steps < 0 for _, steps in self.extra_steps.points):
            raise ValueError(f"encoder_steps is a number of steps, 0 or more; got {self.extra_steps.to_json()}")
        beta, feedback = (self.schedule.get(name, Schedule.constant(0)) for name in ("beta", "feedback"))
        if any(value < 0 for _, value in beta.points):
            raise ValueError(f"beta weighs the KL terms and cannot be negative; got {beta.to_json()}")
        if any(not 0 <= value <= 1 for _, value in feedback.points):
            raise ValueError(f"feedback is a probability between 0 and 1; got {feedback.to_json()}")

    @property
    def rate(self) -> Schedule:
        """The learning rate over the epochs."""
        return Schedule.of(self.learning_rate)

    @property
    def extra_steps(self) -> Schedule:
        """The number of steps of the inference model alone, over the epochs; between whole numbers the nearest."""
        return Schedule.of(self.encoder_steps)

    @property
    def schedule(self) -> dict[str, Schedule]:
        """The objective's scheduled arguments."""
        return {name: Schedule.of(value) for name, value in self.schedules.items()}

    @property
    def settled(self) -> int:
        """The number of epochs after which what is optimised stays the same."""
        return max([self.extra_steps.settled, *(s.settled for s in self.schedule.values()), *self.freeze.values()])

    @classmethod
    def speech(cls, **overrides: Any) -> "TrainingConfig":
        """The review's training on speech (Section 13.2.3): learning rate 0.002, patience 50."""
        return cls(**{"learning_rate": 2e-3, "patience": 50, **overrides})

    @classmethod
    def scheduled_sampling(cls, every: int = 50, final: int = 300, **overrides: Any) -> "TrainingConfig":
        """The review's fine-tuning of a model that was trained with teacher forcing (Section 13.3.3).

        Of the past frames, 20 % are replaced by the model's own output in the first epochs, then 40 %, 60 % and
        80 %, and in the end all.

        Arguments:
            every: Epochs of each of the first four steps; the review has 50.
            final: Epochs in generation mode at the end; the review has 300.
            overrides: Further values.

        Example:
            >>> config = TrainingConfig.scheduled_sampling()
            >>> config.max_epochs, config.schedules["feedback"](99), config.schedules["feedback"](200)
            (500, 0.4, 1.0)
        """
        feedback = Schedule.scheduled_sampling(every)
        values = {"max_epochs": 4 * every + final, "schedules": {"feedback": feedback}, **overrides}
        return cls.speech(**values)

    @classmethod
    def motion(cls, **overrides: Any) -> "TrainingConfig":
        """The review's training on human motion (Section 13.2.3): learning rate 0.0001, patience 30, KL warm-up."""
        warm_up = {"beta": Schedule.linear(0.0, 1.0, epochs=50)}
        return cls(**{"learning_rate": 1e-4, "patience": 30, "schedules": warm_up, **overrides})

    def to_dict(self) -> dict[str, Any]:
        """All values as JSON data; those that runs were without before only where they do something."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        values = {name: v for name, v in values.items() if name not in self.PREPARING or v not in (None, False)}
        extra = self.extra_steps.to_json()
        values.pop("encoder_steps")
        return {
            **values,
            **({} if extra == 0 else {"encoder_steps": extra}),
            "learning_rate": self.rate.to_json(),
            "schedules": {name: schedule.to_json() for name, schedule in self.schedule.items()},
            "freeze": dict(self.freeze),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TrainingConfig":
        """The configuration that `to_dict` wrote; what is left out has its default."""
        known = [f.name for f in dataclasses.fields(cls)]
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise ValueError(f"A training configuration has no {', '.join(unknown)}; it has {', '.join(known)}")
        values = dict(values)
        for name in ("learning_rate", "encoder_steps"):
            if name in values:
                values[name] = Schedule.of(values[name])
        if isinstance(values.get("schedules"), Mapping):
            values["schedules"] = {name: Schedule.of(value) for name, value in values["schedules"].items()}
        return cls(**values)

    def to_json(self) -> str:
        """All values as JSON text."""
        return json.dumps(self.to_dict(), indent=2)

    @classmethod
    def from_json(cls, text: str) -> "TrainingConfig":
        """The configuration that `to_json` wrote."""
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"A training configuration is JSON text: {error}") from error
        if not isinstance(values, dict):
            raise ValueError(f"A training configuration is a JSON object; got {type(values).__name__}")
        return cls.from_dict(values)

    @classmethod
    def from_file(cls, path: str | Path) -> "TrainingConfig":
        """The configuration in a JSON file, such as ``config.json`` in the folder of a run.

        Raises:
            ValueError: The file holds something else.
        """
        try:
            return cls.from_json(Path(path).read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error


def _number(
    name: str,
    value: Any,
    *,
    whole: bool = False,
    optional: bool = False,
    least: Number | None = None,
    above: Number | None = None,
) -> Number | None:
    """A number of Python, also from one of NumPy, within its bounds."""
    kind = "a whole number" if whole else "a number"
    if value is None and optional:
        return None
    number = _plain_number(value, whole)
    if number is None:
        raise TypeError(f"{name} must be {kind}{' or None' if optional else ''}; got {value!r}")
    if not math.isfinite(number) or (least is not None and number < least) or (above is not None and number <= above):
        bound = f"of at least {least}" if least is not None else f"above {above}"
        raise ValueError(f"{name} must be {kind} {bound}; got {value}")
    return number


def _plain_number(value: Any, whole: bool) -> Number | None:
    if isinstance(value, bool | np.bool_ | Tensor):
        return None
    if isinstance(value, int | np.integer):
        return operator.index(value)
    return float(value) if isinstance(value, float | np.floating) and not whole else None
