r"""The training loop: stochastic gradient ascent on the variational lower bound, after Section 13.2.3.

A run is a function of its model, data and configuration alone. The order of the sequences and the noise of every
step are drawn from generators that are seeded with the run's seed and the number of the epoch or step, so that a
run which was killed and resumed, or spread over several processes, draws the same.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Generator, Tensor, nn

from dvae_lib.data.sequences import SequenceDataset
from dvae_lib.denormals import flush_denormals
from dvae_lib.devices import brought_back
from dvae_lib.models.base import DVAE
from dvae_lib.models.replay import Replay, replay_recursion
from dvae_lib.randomness import derive_seed, isolated_randomness
from dvae_lib.training.checks import check_fit
from dvae_lib.training.config import TrainingConfig
from dvae_lib.training.encoder import inference_parameters
from dvae_lib.training.evaluator import Evaluator, ObjectiveModule, Rows
from dvae_lib.training.failures import non_finite
from dvae_lib.training.objective import Objective, check_objective, vlb_terms
from dvae_lib.training.parallel import check_precision, training_fabric
from dvae_lib.training.preparing import check_preparation, prepare
from dvae_lib.training.reporting import Reporter
from dvae_lib.training.run_folder import BEST, RunFolder, data_sizes, identity_of
from dvae_lib.training.schedules import Number
from dvae_lib.training.signals import Signals
from dvae_lib.training.state import RunState, copied_weights

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["Callback", "Ending", "TrainingResult", "fit"]

Callback = Callable[[nn.Module, dict[str, Number]], bool | None]
"""``callback(model, record)`` after each epoch; True ends the training."""

Ending = Literal["max_epochs", "patience", "callback", "interrupted"]
"""What ended a run."""


@dataclass(frozen=True)
class TrainingResult:
    """What a training run comes to.

    Attributes:
        best_model: The model given to `fit`, holding the weights of its best epoch, in evaluation mode.
        history: A record of each epoch. ``train_*_per_frame`` and ``validation_*_per_frame`` are the terms of the
            objective in nats per frame: their sum over all sequences divided by the number of frames.
            ``epoch`` counts from 1; ``gradient_norm`` is the mean over steps before clipping; ``seconds`` includes
            validation, ``data_seconds`` is the part of it in which steps waited for their batch.
        best_epoch: The epoch, counted from 1, whose weights the model has; 0 if none was completed.
        best_value: Its validation VLB in nats per frame.
        stopped: What ended the run.
        last_weights: The weights after the last step, on the CPU.
    """

    best_model: nn.Module
    history: list[dict[str, Number]]
    best_epoch: int
    best_value: float
    stopped: Ending
    last_weights: dict[str, Tensor]


def fit(
    model: nn.Module,
    train: SequenceDataset,
    validation: SequenceDataset | None,
    config: TrainingConfig | None = None,
    *,
    objective: Objective = vlb_terms,
    folder: str | Path | None = None,
    resume: bool | None = None,
    fabric: Fabric | None = None,
    callback: Callback | None = None,
    replay: bool = False,
    progress: bool | None = None,
    tensorboard: bool = False,
) -> TrainingResult:
    r"""Train a model with Adam, and keep the weights of the epoch with the best validation VLB.

    The loss of a batch is :math:`-\frac{1}{B \bar{T}} \sum_{b=1}^{B} \mathcal{L}_b`, with :math:`\bar{T}` the mean
    length of the training sequences: an unbiased estimate of the negative VLB per frame of the whole training set,
    also where lengths differ.

    With a folder the run survives whatever happens to it: killed at any moment and started again by the same call,
    it ends with the same weights, bit for bit on CPU. The folder holds ``checkpoint.safetensors`` (everything that
    is needed to go on), ``config.json``, ``history.csv`` and, at the end, the best model in ``best/``.
    Ctrl-C ends the training after the current step, saves and returns; SIGTERM does the same and then ends the
    process.

    Started by ``torchrun --nproc-per-node 2 script.py`` the same call trains on several processes, GPUs or machines
    (which must all see the folder), and follows the losses of one process; they differ by floating-point rounding
    only, because sums are taken in another order.

    On a GPU, ``replay=True`` records the loop over frames of a recursive inference as a CUDA graph in the first step,
    compares it with the plain loop, and replays it from then on (`dvae_lib.models.replay`).

    The training takes a GPU where there is one; afterwards the model is on the device where it was found, and of the
    dtype, also where the training was interrupted or failed. A batch is one gather from memory or a memory map, on the
    CPU. For a GPU, which computes a step in less time than the batch takes to reach it, put the frames there once:
    ``train.to("cuda")``.

    Arguments:
        model: The model; it is trained in place.
        train: The training sequences.
        validation: The validation sequences; without them there is no early stopping, and the last epoch counts as
            the best.
        config: How to train.
        objective: What is maximised, and what is recorded beside it: a function as `dvae_lib.objectives` has them,
            or one of a batch that returns terms by name (`Objective`); by default the model's method `vlb`. Early
            stopping looks at the term called ``vlb``, or at the first where there is none of that name.
        folder: Where the run is kept, for one process at a time; None keeps it in memory. ``~`` is the home folder.
        resume: True goes on with the run in the folder and insists that there is one, False insists that there is
            none; None goes on if there is one. A run that is complete is not repeated.
        fabric: Devices, precision and loggers, launched; by default `training_fabric()`.
        callback: Called after each epoch with the model and the epoch's record, on every process.
        replay: Replay the loop of a recursive inference from a CUDA graph; on one CUDA device, in 32-bit precision.
        progress: Show a progress bar; None shows one in notebooks and terminals, and elsewhere, as in a log file,
            writes a line for the first epoch, then one a minute, and one at the end.
        tensorboard: Write the history for TensorBoard, too, into the folder.

    Raises:
        ValueError, TypeError: Data, model and configuration that do not fit together, or a model that could not be
            saved in the folder, or not loaded again.
        dvae_lib.training.CheckpointError: The folder holds a damaged checkpoint or another run.
        FileExistsError, FileNotFoundError: The folder is not as `resume` demands, or is in use for something else.
        BlockingIOError: Another process is training in the folder.
        NonFiniteError: The objective or its gradient is not finite.

    Example:
        >>> from dvae_lib.models import VAE
        >>> data = SequenceDataset(torch.randn(20, 10, 4, generator=Generator().manual_seed(0)))
        >>> result = fit(VAE(4, 2), data, data, TrainingConfig(max_epochs=3))
        >>> [record["epoch"] for record in result.history]
        [1, 2, 3]
    """
    config = TrainingConfig() if config is None else config
    check_fit(model, train, validation, config)
    check_preparation(model, config)
    check_objective(model, objective, config.schedule)
    if tensorboard and folder is None:
        raise ValueError("tensorboard=True needs a folder to write to")
    if resume and folder is None:
        raise ValueError("resume=True needs the folder of the run to go on with")
    if folder is not None and isinstance(model, DVAE):
        model.configuration()  # refuses what could not be saved
    fabric = training_fabric() if fabric is None else fabric
    precision = str(fabric.strategy.precision.precision)
    check_precision(precision)
    if replay and (fabric.device.type != "cuda" or fabric.world_size > 1 or precision != "32-true"):
        raise ValueError(
            "replay=True records the loop over frames on one CUDA device in 32-true precision; got "
            f"{fabric.world_size} process(es) on {fabric.device} in {precision}: leave it out"
        )
    with ExitStack() as stack:
        # Also where the caller wants no gradients of what he does himself.
        for outside in (torch.inference_mode(False), torch.enable_grad(), flush_denormals()):
            stack.enter_context(outside)
        stack.enter_context(brought_back(model))
        seed = derive_seed(config.seed, "global", fabric.global_rank)
        stack.enter_context(isolated_randomness(seed, fabric.device))
        prepare(model, train, config)
        loop = _Loop(model, train, validation, config, objective, fabric)
        loop.rehearse()
        place = None if folder is None else Path(folder).expanduser()
        if place is not None:
            identity = identity_of(model, objective, train, validation, precision)
            loop.folder = RunFolder(place, identity, config, fabric)
            stack.enter_context(loop.folder.opened(loop.state, resume))
        reporter = Reporter(
            fabric,
            epochs=config.max_epochs,
            steps=loop.batches_per_epoch,
            progress=loop.state.progress,
            bar=progress,
            tensorboard=place if tensorboard else None,
        )
        stack.enter_context(reporter)
        signals = stack.enter_context(Signals())
        recorded = stack.enter_context(replay_recursion(model, replay))
        stopped = loop.run(reporter, signals, recorded, callback)
        reporter.end(stopped)
        return loop.finish(stopped)


class _Loop:
    """The steps of a run. What they change is its `state`; all else stays as it was given."""

    def __init__(
        self,
        model: nn.Module,
        train: SequenceDataset,
        validation: SequenceDataset | None,
        config: TrainingConfig,
        objective: Objective,
        fabric: Fabric,
    ) -> None:
        self.model, self.train_data, self.validation_data = model, train, validation
        self.config, self.fabric = config, fabric
        self.folder: RunFolder | None = None
        # Before anything holds the parameters: of some devices, moving a model makes new ones.
        model.to(fabric.device)
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        optimizer = torch.optim.Adam(self.parameters.values(), lr=config.rate(0))
        self.module, self.optimizer = fabric.setup(ObjectiveModule(model, objective), optimizer)
        self.evaluator = Evaluator(fabric, self.module, next(iter(self.parameters.values())).dtype)
        extra = any(steps > 0 for _, steps in config.extra_steps.points)
        self.encoder = inference_parameters(model) if extra else frozenset()
        self.mean_frames = train.num_frames / len(train)
        self.batches_per_epoch = math.ceil(len(train) / config.batch_size)
        self.state = RunState(model, optimizer)

    @torch.no_grad()
    def rehearse(self) -> None:
        """Evaluate the objective once, so that a mistake in it shows before anything is written."""
        indices = torch.arange(min(len(self.train_data), self.fabric.world_size), device="cpu")
        self.module.eval()
        with isolated_randomness(0, self.fabric.device):
            rows = self.evaluator.load(self.train_data, indices)
            self.evaluator.terms(rows, 0, {name: schedule(0) for name, schedule in self.config.schedule.items()})

    def run(self, reporter: Reporter, signals: Signals, replay: Replay | None, callback: Callback | None) -> Ending:
        """Go on from the current state until something ends the run."""
        config, progress = self.config, self.state.progress
        while True:
            if config.patience is not None and progress.waited >= config.patience:
                return "patience"
            if progress.epoch >= config.max_epochs:
                return "max_epochs"
            reporter.begin_epoch(progress.epoch)
            self.module.train()
            for group in self.state.optimizer.param_groups:
                group["lr"] = config.rate(progress.epoch)
            started = time.monotonic()
            for indices in self.order(progress.epoch).split(config.batch_size)[progress.batch :]:
                if replay is not None:
                    replay.begin_step()
                stop, save = self.step(indices, signals)
                started = self._clock("seconds", started)
                reporter.step()
                if self.folder is not None and (save or stop):
                    self.folder.save(self.state)
                if stop:
                    return "interrupted"
            record, value = self.end_epoch()
            reporter.end_epoch(record, value, progress)
            if callback is not None and callback(self.model, record):
                return "callback"

    def order(self, epoch: int) -> Tensor:
        """The order of the sequences in an epoch."""
        seed = derive_seed(self.config.seed, "order", epoch)
        return torch.randperm(len(self.train_data), generator=Generator().manual_seed(seed), device="cpu")

    def step(self, indices: Tensor, signals: Signals) -> tuple[bool, bool]:
        """One step of the optimiser; whether to stop, and whether to save, which all processes agree on."""
        config, progress = self.config, self.state.progress
        started = time.monotonic()
        rows = self.evaluator.load(self.train_data, indices)
        self._clock("data_seconds", started)

        self.optimizer.zero_grad()
        scheduled = {name: schedule(progress.epoch) for name, schedule in config.schedule.items()}
        terms = self.evaluator.terms(rows, derive_seed(config.seed, "noise", progress.step), scheduled)
        # Gradients are averaged over processes, hence the number of these.
        scale = rows.share.weight * self.fabric.world_size / (len(indices) * self.mean_frames)
        self.fabric.backward(-scale * next(iter(terms.values())).sum())
        gradients = self.gradients()
        norms = [torch.linalg.vector_norm(gradient) for gradient in gradients.values()]
        norm = torch.linalg.vector_norm(torch.stack(norms)) if norms else torch.zeros((), device=self.fabric.device)

        due = self.folder is not None and self.folder.due and self.fabric.is_global_zero
        # One transfer from the device, and one sum over processes, for all that is needed to go on.
        totals, (stop, save), size = self.evaluator.totals(terms, rows, [float(signals.received), float(due)], norm)
        if not all(map(math.isfinite, totals.values())) or not math.isfinite(size):
            where = f"step {progress.step + 1} (batch {progress.batch + 1} of {self.batches_per_epoch})"
            self._fail(where, terms, totals, rows, gradients, step=progress.step + 1)
        if config.gradient_clip is not None and size > config.gradient_clip:
            for name, gradient in gradients.items():
                self.parameters[name].grad = gradient * (config.gradient_clip / size)
        self.optimizer.step()

        progress.batch, progress.step = progress.batch + 1, progress.step + 1
        progress.add(**totals, gradient_norm=size, frames=float(self.train_data.lengths[indices].sum()))
        every = config.checkpoint_steps
        return stop > 0, save > 0 or bool(every and progress.step % every == 0)

    def gradients(self) -> dict[str, Tensor]:
        """By the names of the parameters; those that are frozen, or not trained in this step, have none."""
        frozen = tuple(name for name, epochs in self.config.freeze.items() if self.state.progress.epoch < epochs)
        extra = round(self.config.extra_steps(self.state.progress.epoch))
        encoder_alone = self.state.progress.step % (extra + 1) < extra
        gradients = {}
        for name, parameter in self.parameters.items():
            if (frozen and name.startswith(frozen)) or (encoder_alone and name not in self.encoder):
                parameter.grad = None
            elif parameter.grad is not None:
                gradients[name] = parameter.grad
        return gradients

    @torch.no_grad()
    def validate(self, data: SequenceDataset) -> dict[str, float]:
        """The mean terms in nats per frame, with the same noise every time and the schedules' final values."""
        scheduled = {name: schedule.final for name, schedule in self.config.schedule.items()}
        seed = derive_seed(self.config.seed, "validation")
        sums: dict[str, float] = {}
        with isolated_randomness(seed, self.fabric.device):
            for i, indices in enumerate(torch.arange(len(data), device="cpu").split(self.config.batch_size)):
                rows = self.evaluator.load(data, indices)
                terms = self.evaluator.terms(rows, derive_seed(seed, i), scheduled)
                totals, _, _ = self.evaluator.totals(terms, rows)
                if not all(map(math.isfinite, totals.values())):
                    self._fail("validation", terms, totals, rows, {}, step=self.state.progress.step)
                for name, value in totals.items():
                    sums[name] = sums.get(name, 0.0) + value
        return {name: value / data.num_frames for name, value in sums.items()}

    def end_epoch(self) -> tuple[dict[str, Number], float]:
        """Validate, record, keep the best weights; the record, and the value by which epochs are compared."""
        progress, schedules = self.state.progress, self.config.schedule
        started = time.monotonic()
        sums, frames = dict(progress.sums), progress.sums["frames"]
        apart = {name: sums.pop(name) for name in ("seconds", "data_seconds", "gradient_norm", "frames")}
        measured = {"train": {name: value / frames for name, value in sums.items()}}
        self.module.eval()
        if self.validation_data is not None:
            measured["validation"] = self.validate(self.validation_data)
        record: dict[str, Number] = {
            "epoch": progress.epoch + 1,
            "step": progress.step,
            "learning_rate": self.config.rate(progress.epoch),
            **{name: schedule(progress.epoch) for name, schedule in schedules.items()},
            **{f"{part}_{name}_per_frame": v for part, terms in measured.items() for name, v in terms.items()},
            "gradient_norm": apart["gradient_norm"] / self.batches_per_epoch,
            "seconds": apart["seconds"] + time.monotonic() - started,
            "data_seconds": apart["data_seconds"],
        }
        progress.epoch, progress.batch, progress.sums = progress.epoch + 1, 0, {}
        progress.history.append(record)
        terms = measured["validation" if self.validation_data is not None else "train"]
        value = terms.get("vlb", next(iter(terms.values())))
        if value > progress.best_value or self.validation_data is None:
            self.state.keep(value)
        elif progress.epoch > self.config.settled:
            progress.waited += 1
        return record, value

    def finish(self, stopped: Ending) -> TrainingResult:
        """Save, put the best weights into the model, and export it."""
        model, progress = self.model, self.state.progress
        if self.folder is not None:
            self.folder.save(self.state)
        last = copied_weights(model, "cpu")
        model.load_state_dict(self.state.best_weights)
        model.eval()
        metadata = getattr(model, "metadata", None)
        if isinstance(metadata, dict):
            metadata["training"] = {
                "config": self.config.to_dict(),
                "best_epoch": progress.best_epoch,
                "epochs": progress.epoch,
                "stopped": stopped,
                "train": data_sizes(self.train_data),
            }
            for name in ("standardizer", "input_standardizer"):
                standardizer = getattr(self.train_data, name)
                if standardizer is not None:
                    metadata[name] = standardizer.to_dict()
            labels = self.train_data.labels
            if labels.columns is not None or labels.time_steps is not None:
                metadata["table"] = labels.to_dict()
        export = getattr(model, "save_pretrained", None)
        if export is not None and self.folder is not None and self.fabric.is_global_zero:
            export(self.folder.path / BEST)
        self.fabric.barrier()
        return TrainingResult(model, progress.history, progress.best_epoch, progress.best_value, stopped, last)

    def _clock(self, name: str, started: float) -> float:
        now = time.monotonic()
        self.state.progress.add(**{name: now - started})
        return now

    def _fail(
        self,
        where: str,
        terms: Mapping[str, Tensor],
        totals: Mapping[str, float],
        rows: Rows,
        gradients: Mapping[str, Tensor],
        *,
        step: int,
    ) -> None:
        epoch = self.state.progress.epoch + 1
        where = f"epoch {epoch}, {where}"
        raise non_finite(where, terms, totals, rows, self.parameters, gradients, epoch=epoch, step=step)
