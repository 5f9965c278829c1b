"""The folder of a run: one process at a time, and nothing in it that belongs to another run."""

from __future__ import annotations

import csv
import io
import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from dvae_lib._version import __version__
from dvae_lib.data.sequences import SequenceDataset
from dvae_lib.files import write_atomically
from dvae_lib.locks import lock
from dvae_lib.randomness import derive_seed, global_random_state, restore_global_random_state
from dvae_lib.training.checkpoints import CheckpointError, load_checkpoint, save_checkpoint
from dvae_lib.training.config import TrainingConfig
from dvae_lib.training.objective import Objective, name_of
from dvae_lib.training.schedules import Number
from dvae_lib.training.state import RunState

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["BEST", "CHECKPOINT", "CONFIG", "HISTORY", "RunFolder", "data_sizes", "identity_of", "in_hand"]

CHECKPOINT, CONFIG, HISTORY, BEST = "checkpoint.safetensors", "config.json", "history.csv", "best"


class RunFolder:
    """Keeps a run's checkpoint, configuration and history.

    Arguments:
        path: The folder.
        identity: What the run is a run of, by `identity_of`.
        config: How it is trained.
        fabric: The processes, of which the first writes.
    """

    def __init__(self, path: Path, identity: dict[str, Any], config: TrainingConfig, fabric: Fabric) -> None:
        self.path, self.identity, self.config, self.fabric = path, identity, config, fabric
        self.saved_at = time.monotonic()

    @contextmanager
    def opened(self, state: RunState, resume: bool | None) -> Iterator[None]:
        """Begin a run, or take up the one that the folder holds, and keep other processes out until it ends.

        Raises:
            FileExistsError, FileNotFoundError: The folder is not as `resume` demands, or is in use for something else.
            BlockingIOError: Another process is training in it.
            CheckpointError: It holds a damaged checkpoint, or another run.
        """
        found = (self.path / CHECKPOINT).exists()
        if not found:
            self._check_unused(resume)
            self.path.mkdir(parents=True, exist_ok=True)
        with in_hand(self.path) if self.fabric.is_global_zero else nullcontext():
            if found:
                if resume is False:
                    raise FileExistsError(
                        f"{self.path} already holds a run: resume=True goes on with it; choose another folder for a "
                        "new one"
                    )
                self.restore(state)
            else:
                # All must have looked before the first one writes.
                self.fabric.barrier()
                self.save(state)
            if self.fabric.is_global_zero:
                write_atomically(self.path / CONFIG, self.config.to_json().encode())
            yield

    @property
    def due(self) -> bool:
        """Whether it is time for the next checkpoint."""
        return time.monotonic() - self.saved_at >= self.config.checkpoint_seconds

    def save(self, state: RunState) -> None:
        """Write checkpoint and history."""
        random_states = self._gathered(global_random_state(self.fabric.device))
        if self.fabric.is_global_zero:
            about = {
                "dvae_lib": __version__,
                "run": self.identity,
                "config": self.config.to_dict(),
                "progress": state.numbers(),
                "random": random_states,
            }
            save_checkpoint(self.path / CHECKPOINT, state.tensors(), about)
            if state.progress.history:
                self._write_history(state.progress.history)
        self.saved_at = time.monotonic()

    def restore(self, state: RunState) -> None:
        """Put the run back to where its checkpoint has it.

        Raises:
            CheckpointError: It is damaged, or of another run.
        """
        path = self.path / CHECKPOINT
        tensors, about = load_checkpoint(path)
        for part in ("run", "config", "progress", "random"):
            if part not in about:
                raise CheckpointError(f"{path} is no checkpoint of a training run: it has no {part!r}")
        _check_identity(path, about["run"], self.identity)
        self._check_config(path, about["config"])
        state.load(path, tensors, about["progress"])
        # With more processes than before, the new ones keep the state that their seed gives.
        if self.fabric.global_rank < len(about["random"]):
            restore_global_random_state(about["random"][self.fabric.global_rank], self.fabric.device)

    def _check_unused(self, resume: bool | None) -> None:
        if resume:
            raise FileNotFoundError(
                f"There is no run to go on with in {self.path}: {CHECKPOINT} is missing; resume=None starts one"
            )
        foreign = [name for name in (CONFIG, HISTORY, BEST) if (self.path / name).exists()]
        if foreign:
            raise FileExistsError(
                f"{self.path} holds {' and '.join(foreign)} but no run of this library; nothing is overwritten: "
                "choose another folder"
            )

    def _check_config(self, path: Path, saved: dict[str, Any]) -> None:
        now = self.config.to_dict()
        different = sorted(
            name for name in {*saved, *now} - self.config.CONTINUABLE if saved.get(name) != now.get(name)
        )
        if different:
            changes = "; ".join(f"{name} was {saved.get(name)}, now {now.get(name)}" for name in different)
            raise CheckpointError(
                f"{path} belongs to a run with another configuration: {changes}. Use the one in {CONFIG} beside it "
                "to go on, or another folder for a new run"
            )

    def _gathered(self, value: Any) -> list[Any]:
        if self.fabric.world_size == 1:
            return [value]
        values = [None] * self.fabric.world_size
        torch.distributed.all_gather_object(values, value)
        return values

    def _write_history(self, history: list[dict[str, Number]]) -> None:
        text = io.StringIO(newline="")
        table = csv.DictWriter(text, fieldnames=list(history[-1]))
        table.writeheader()
        table.writerows(history)
        write_atomically(self.path / HISTORY, text.getvalue().encode())


@contextmanager
def in_hand(folder: Path) -> Iterator[None]:
    """Keep other processes from training in a folder meanwhile.

    Raises:
        BlockingIOError: Another one is at it.
    """
    with lock(folder / ".lock", wait=False) as mine:
        if not mine:
            raise BlockingIOError(
                f"Another process is training in {folder}. Wait until it has ended, or choose another folder"
            )
        yield


def identity_of(
    model: nn.Module,
    objective: Objective,
    train: SequenceDataset,
    validation: SequenceDataset | None,
    precision: str,
) -> dict[str, Any]:
    """What a run is a run of, beside its configuration, as JSON data."""
    data = {"train": train, "validation": validation}
    return {
        "model": name_of(type(model)),
        "options": json.loads(json.dumps(getattr(model, "options", {}), default=repr)),
        "objective": name_of(objective),
        "precision": precision,
        "data": {part: None if d is None else _described(d) for part, d in data.items()},
    }


def data_sizes(data: SequenceDataset) -> dict[str, int]:
    """Numbers of sequences and frames, and sizes of a frame."""
    return {"sequences": len(data), "frames": data.num_frames, "x_dim": data.x_dim, "u_dim": data.u_dim}


def _check_identity(path: Path, saved: dict[str, Any], now: dict[str, Any]) -> None:
    for name, what in (
        ("model", "model"),
        ("options", "model with other options"),
        ("objective", "objective"),
        ("precision", "precision"),
    ):
        if saved[name] != now[name]:
            raise CheckpointError(
                f"{path} belongs to another {what}: it was written for {saved[name]}, and here is {now[name]}. "
                "Choose another folder"
            )
    for part, described in now["data"].items():
        before = saved["data"][part]
        if not _same_data(before, described):
            difference = f"{_summary(before)}, and here are {_summary(described)}"
            if before is not None and described is not None and before[0] == described[0]:
                which = "the names or lengths" if before[1] != described[1] else "the values"
                difference = f"{which} of the sequences differ ({_summary(described)} in both)"
            raise CheckpointError(f"{path} belongs to other {part} data: {difference}. Choose another folder")


def _described(data: SequenceDataset) -> list[Any]:
    """A fingerprint: sizes, a digest of names and lengths, and the mean magnitude of a few sequences."""
    digest = derive_seed(0, *data.names, *data.lengths.tolist())
    some = torch.linspace(0, len(data) - 1, min(len(data), 16), device="cpu").long().tolist()
    return [data_sizes(data), digest, [float(data[i].abs().nanmean()) for i in some]]


def _same_data(saved: list[Any] | None, now: list[Any] | None) -> bool:
    if saved is None or now is None:
        return saved is now
    # On another device standardisation may round differently.
    return saved[:2] == now[:2] and all(
        math.isclose(a, b, rel_tol=1e-4, abs_tol=1e-12) for a, b in zip(saved[2], now[2], strict=True)
    )


def _summary(described: list[Any] | None) -> str:
    if described is None:
        return "none"
    return ", ".join(f"{value} {name}" for name, value in described[0].items())
