"""What is told of a run while it goes: a progress bar or lines in a log file, Fabric's loggers, TensorBoard."""

from __future__ import annotations

import math
import sys
import time
import warnings
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dvae_lib.training.schedules import Number
from dvae_lib.training.state import RunProgress

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["EpochLog", "Reporter"]


class Reporter:
    """Tells of a run, in the first of its processes.

    Arguments:
        fabric: Its processes and loggers.
        epochs: The number of epochs at most.
        steps: The number of steps in an epoch.
        progress: How far the run has come before.
        bar: Whether to show a progress bar; None shows one in notebooks and terminals, and elsewhere writes lines.
        tensorboard: The folder that holds the history for TensorBoard; None writes none.
    """

    def __init__(
        self,
        fabric: Fabric,
        *,
        epochs: int,
        steps: int,
        progress: RunProgress,
        bar: bool | None = None,
        tensorboard: Path | None = None,
    ) -> None:
        self.fabric, self.epochs = fabric, epochs
        with ExitStack() as stack:
            self.writer: Any = None
            if tensorboard is not None and fabric.is_global_zero:
                self.writer = _summary_writer(tensorboard, progress.epoch)
                stack.callback(self.writer.close)
            hidden = True if not fabric.is_global_zero else None if bar is None else not bar
            self.bar = _progress_bar(total=epochs * steps, initial=progress.step, disable=hidden)
            stack.callback(self.bar.close)
            self._stack = stack.pop_all()
        in_lines = bar is None and self.bar.disable and fabric.is_global_zero
        self.log = EpochLog(epochs) if in_lines else None

    def __enter__(self) -> Reporter:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def begin_epoch(self, epoch: int) -> None:
        """After so many completed ones."""
        self.bar.set_description(f"epoch {epoch + 1}/{self.epochs}", refresh=False)

    def step(self) -> None:
        """One was made."""
        self.bar.update()

    def end_epoch(self, record: Mapping[str, Number], value: float, progress: RunProgress) -> None:
        """With its record, and the value that early stopping looks at."""
        best = f"{progress.best_value:.4g}"
        self.bar.set_postfix({"vlb/frame": f"{value:.4g}", "best": f"{best} in {progress.best_epoch}"}, refresh=False)
        if self.log is not None:
            self.log.note(progress.epoch, f"vlb/frame {value:.4g}, best {best} in epoch {progress.best_epoch}")
        if not self.fabric.is_global_zero:
            return
        metrics = {name: v for name, v in record.items() if name != "epoch"}
        self.fabric.log_dict(metrics, step=progress.epoch)
        if self.writer is not None:
            for name, v in metrics.items():
                self.writer.add_scalar(name, v, progress.epoch)
            self.writer.flush()

    def end(self, stopped: str) -> None:
        """With what ended the run."""
        if self.log is not None:
            self.log.end(stopped)


class EpochLog:
    """A line now and then for whoever reads a log file: of the first epoch, then once a minute, and of the last."""

    def __init__(self, epochs: int, seconds: float = 60.0) -> None:
        self.epochs, self.seconds = epochs, seconds
        self._told, self._last = -math.inf, ""

    def note(self, epoch: int, text: str) -> None:
        """Of an epoch that has ended."""
        self._last = f"epoch {epoch}/{self.epochs}: {text}"
        if time.monotonic() - self._told >= self.seconds:
            self._write(self._last)

    def end(self, stopped: str) -> None:
        """Of the last one, with what ended the training."""
        if self._last:
            self._write(f"{self._last}; ended by {stopped}")

    def _write(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)
        self._told = time.monotonic()


def _progress_bar(total: int, initial: int, disable: bool | None) -> Any:
    with warnings.catch_warnings():
        # In a notebook without ipywidgets tqdm falls back to text, which needs no warning.
        warnings.filterwarnings("ignore", message="IProgress not found")
        from tqdm.auto import tqdm
    return tqdm(total=total, initial=initial, disable=disable, unit="step", dynamic_ncols=True, smoothing=0.05)


def _summary_writer(folder: Path, epoch: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError("Logs for TensorBoard need the package tensorboard: pip install tensorboard") from error
    # What a killed run has logged beyond its last checkpoint is logged again.
    return SummaryWriter(str(folder / "tensorboard"), purge_step=epoch + 1)
