"""Where a run is: everything that a checkpoint holds of it."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dvae_lib.training.checkpoints import CheckpointError
from dvae_lib.training.schedules import Number

__all__ = ["RunProgress", "RunState", "copied_weights"]


@dataclass
class RunProgress:
    """How far a run has come.

    Attributes:
        epoch: Completed epochs.
        batch: Completed batches of the epoch at hand.
        step: Completed steps of the optimiser.
        sums: Of terms, frames, gradient norms and seconds over the epoch so far.
        history: A record of each epoch.
        best_epoch: The epoch, counted from 1, with the best value; 0 before any.
        best_value: That value.
        waited: Epochs without a better one that count towards the patience.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, Number]] = field(default_factory=list)
    best_epoch: int = 0
    best_value: float = -math.inf
    waited: int = 0

    def add(self, **values: float) -> None:
        """To the epoch's sums."""
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value


@dataclass
class RunState:
    """What a run has made of a model so far.

    Attributes:
        model: Whose weights are trained in place.
        optimizer: With its moments.
        progress: How far it has come.
        best_weights: Those of the best epoch, a copy.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    progress: RunProgress = field(default_factory=RunProgress)
    best_weights: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.best_weights = copied_weights(self.model)

    def keep(self, value: float) -> None:
        """Keep the weights as those of the best epoch, which has just been completed."""
        self.progress.best_epoch, self.progress.best_value, self.progress.waited = self.progress.epoch, value, 0
        self.best_weights = copied_weights(self.model)

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name."""
        tensors = {f"model.{name}": t for name, t in self.model.state_dict().items()}
        tensors |= {f"best.{name}": t for name, t in self.best_weights.items()}
        for index, values in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": torch.as_tensor(v) for name, v in values.items()}
        return tensors

    def numbers(self) -> dict[str, Any]:
        """All numbers by name, as JSON data."""
        return asdict(self.progress)

    def load(self, path: Path, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
        """Take over what `tensors` and `numbers` gave.

        Raises:
            CheckpointError: They are of a model with other weights.
        """
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "best": {}, "optimizer": {}}
        for name, tensor in tensors.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = tensor
        here = self.model.state_dict()
        for part in ("model", "best"):
            _check_weights(path, parts[part], here)
        self.model.load_state_dict(parts["model"])
        self.best_weights = {name: parts["best"][name].to(t.device) for name, t in here.items()}
        optimizer = self.optimizer.state_dict()
        for name, tensor in parts["optimizer"].items():
            index, _, key = name.partition(".")
            optimizer["state"].setdefault(int(index), {})[key] = tensor
        self.optimizer.load_state_dict(optimizer)
        for name in self.numbers():
            setattr(self.progress, name, numbers[name])


def copied_weights(model: nn.Module, device: str | None = None) -> dict[str, Tensor]:
    """A copy of the weights, which later steps do not change."""
    state: dict[str, Tensor] = model.state_dict()
    return {name: t.detach().to(device or t.device, copy=True) for name, t in state.items()}


def _check_weights(path: Path, saved: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    for name in sorted({*saved, *wanted}):
        here = tuple(f"{tuple(t[name].shape)} {t[name].dtype}" if name in t else "absent" for t in (saved, wanted))
        if here[0] != here[1]:
            raise CheckpointError(
                f"{path} belongs to another model: {name} is {here[0]} in the checkpoint and {here[1]} in the model"
            )
