r"""The training loop: stochastic gradient ascent on the variational lower bound, after Section 13.2.3.

A run is a function of its model, data and configuration alone. The order of the sequences and the noise of every
step are drawn from generators that are seeded with the run's seed and the number of the epoch or step, so that a
run which was killed and resumed, or spread over several processes, draws the same.
"""

import csv
import dataclasses
import inspect
import io
import json
import math
import operator
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Generator, Tensor, nn

from dvae_lib._version import __version__
from dvae_lib.checkpoints import CheckpointError, in_hand, load_checkpoint, save_checkpoint
from dvae_lib.data.sequences import Batch, SequenceDataset
from dvae_lib.denormals import flush_denormals
from dvae_lib.devices import brought_back
from dvae_lib.distributions import support_of
from dvae_lib.files import write_atomically
from dvae_lib.models.base import DVAE
from dvae_lib.models.replay import Replay, replay_recursion
from dvae_lib.parallel import Share, SharedNoise, check_precision, load_share, training_fabric
from dvae_lib.randomness import (
    derive_seed,
    global_random_state,
    isolated_randomness,
    restore_global_random_state,
)
from dvae_lib.schedules import Number, Schedule

__all__ = [
    "NonFiniteError",
    "Objective",
    "Schedule",
    "TrainingConfig",
    "TrainingResult",
    "fit",
    "training_fabric",
    "vlb_terms",
]

Objective = Callable[..., Mapping[str, Tensor]]
"""``objective(model, batch, *, generator, **scheduled)``: terms of shape (B,), in nats per sequence, by name.

The first is maximised. The others are recorded. `vlb_terms` is one.
"""

Callback = Callable[[nn.Module, dict[str, Number]], bool | None]
"""``callback(model, record)`` after each epoch; True ends the training."""

CHECKPOINT, CONFIG, HISTORY, BEST = "checkpoint.safetensors", "config.json", "history.csv", "best"


class NonFiniteError(FloatingPointError):
    """An objective or a gradient became NaN or infinite. The weights are still those from before the step.

    Attributes:
        epoch: the epoch, counted from 1.
        step: the optimiser's step, counted from 1; 0 in validation before any.
        sequences: names of the sequences at fault, or of the batch where only its gradient was non-finite.
        parameters: names of the parameters whose gradient (or own value) is not finite.
    """

    def __init__(self, message: str, *, epoch: int, step: int, sequences: list[str], parameters: list[str]) -> None:
        super().__init__(message)
        self.epoch, self.step, self.sequences, self.parameters = epoch, step, sequences, parameters


@dataclass(frozen=True)
class TrainingConfig:
    """How a model is trained. Together with model and data it determines the result.

    Attributes:
        learning_rate: of Adam; a number or a schedule over the epochs.
        batch_size: sequences in a step, over all processes together.
        max_epochs: passes over the training set at most.
        patience: stop after so many epochs without a better validation VLB; None never does. Epochs in which
            a schedule is still moving, or parameters still frozen, are not counted.
        gradient_clip: scale the gradient down to this norm where it is longer; None leaves it.
        schedules: keyword arguments of the objective as functions of the epoch: ``beta`` weighs the KL terms
            (warm-up), ``feedback`` is the probability of scheduled sampling. Validation uses their final values,
            so that all epochs are compared by the same measure.
        freeze: parameters that stay as they are for a number of epochs, by the beginning of their names:
            ``{"dynamics": 10}``.
        seed: of the order of the sequences and of all noise. It does not touch the model's initial weights.
        checkpoint_seconds: time between checkpoints, which are also written in the midst of an epoch.
        checkpoint_steps: write one every so many steps as well.

    Raises:
        ValueError, TypeError: values out of range or of the wrong type.

    Examples:
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
    seed: int = 0
    checkpoint_seconds: Number = 30.0
    checkpoint_steps: int | None = None

    # What may change when a run is resumed, because the steps already made do not depend on it.
    CONTINUABLE: ClassVar[frozenset[str]] = frozenset(
        {"max_epochs", "patience", "checkpoint_seconds", "checkpoint_steps"}
    )

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
    def schedule(self) -> dict[str, Schedule]:
        """The objective's scheduled arguments."""
        return {name: Schedule.of(value) for name, value in self.schedules.items()}

    @property
    def settled(self) -> int:
        """The number of epochs after which what is optimised stays the same."""
        return max([0, *(s.settled for s in self.schedule.values()), *self.freeze.values()])

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
            every: epochs of each of the first four steps; the review has 50.
            final: epochs in generation mode at the end; the review has 300.
            overrides: further values.

        Examples:
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
        """All values as JSON data."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {
            **values,
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
            raise ValueError(f"A training configuration has no {', '.join(unknown)}; it has {', '.join(known)}.")
        values = dict(values)
        if "learning_rate" in values:
            values["learning_rate"] = Schedule.of(values["learning_rate"])
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
            raise ValueError(f"A training configuration is a JSON object; got {type(values).__name__}.")
        return cls.from_dict(values)


@dataclass(frozen=True)
class TrainingResult:
    """What a training run comes to.

    Attributes:
        best_model: the model given to `fit`, holding the weights of its best epoch, in evaluation mode.
        history: a record of each epoch. ``train_*_per_frame`` and ``validation_*_per_frame`` are the terms of the
            objective in nats per frame: their sum over all sequences divided by the number of frames.
            ``epoch`` counts from 1; ``gradient_norm`` is the mean over steps before clipping; ``seconds`` includes
            validation, ``data_seconds`` is the part of it in which steps waited for their batch.
        best_epoch: the epoch, counted from 1, whose weights the model has; 0 if none was completed.
        best_value: its validation VLB in nats per frame.
        stopped: what ended the run.
        last_weights: the weights after the last step, on the CPU.
    """

    best_model: nn.Module
    history: list[dict[str, Number]]
    best_epoch: int
    best_value: float
    stopped: Literal["max_epochs", "patience", "callback", "interrupted"]
    last_weights: dict[str, Tensor]


def vlb_terms(
    model: nn.Module, batch: Batch, *, generator: Generator | None = None, **scheduled: Number
) -> dict[str, Tensor]:
    """The default objective: the variational lower bound and its parts, in nats per sequence.

    Arguments:
        model: with a method `vlb` as that of `dvae_lib.models.DVAE`.
        batch: some sequences.
        generator: source of the latents' noise.
        scheduled: further arguments of `vlb`, such as ``beta`` and ``feedback``.

    Returns:
        ``objective`` (KL terms weighted by beta, auxiliary terms included), ``vlb`` (the bound itself, at beta = 1),
        ``reconstruction``, ``kl`` and the model's auxiliary terms, each of shape (B,).
    """
    bound = model.vlb(batch.x, batch.u, lengths=batch.lengths, generator=generator, **scheduled)  # type: ignore[operator]
    kl = bound.total_kl
    return {
        "objective": bound.value,
        "vlb": bound.reconstruction - kl,
        "reconstruction": bound.reconstruction,
        "kl": kl,
        **bound.auxiliary,
    }


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
        model: the model; it is trained in place.
        train: the training sequences.
        validation: the validation sequences; without them there is no early stopping, and the last epoch counts as
            the best.
        config: how to train.
        objective: what is maximised, and what is recorded beside it. Early stopping looks at the term called
            ``vlb``, or at the first where there is none of that name.
        folder: where the run is kept, for one process at a time; None keeps it in memory. ``~`` is the home folder.
        resume: True goes on with the run in the folder and insists that there is one, False insists that there is
            none; None goes on if there is one. A run that is complete is not repeated.
        fabric: devices, precision and loggers, launched; by default `training_fabric()`.
        callback: called after each epoch with the model and the epoch's record, on every process.
        replay: replay the loop of a recursive inference from a CUDA graph; on one CUDA device, in 32-bit precision.
        progress: show a progress bar; None shows one in notebooks and terminals, and elsewhere, as in a log file,
            writes a line for the first epoch, then one a minute, and one at the end.
        tensorboard: write the history for TensorBoard, too, into the folder.

    Raises:
        ValueError, TypeError: data, model and configuration that do not fit together, or a model that could not be
            saved in the folder, or not loaded again.
        dvae_lib.checkpoints.CheckpointError: the folder holds a damaged checkpoint or another run.
        FileExistsError, FileNotFoundError: the folder is not as `resume` demands, or is in use for something else.
        BlockingIOError: another process is training in the folder.
        NonFiniteError: the objective or its gradient is not finite.

    Examples:
        >>> from dvae_lib.models import VAE
        >>> data = SequenceDataset(torch.randn(20, 10, 4, generator=Generator().manual_seed(0)))
        >>> result = fit(VAE(4, 2), data, data, TrainingConfig(max_epochs=3))
        >>> [record["epoch"] for record in result.history]
        [1, 2, 3]
    """
    config = TrainingConfig() if config is None else config
    _check_fit(model, train, validation, config)
    _check_objective(model, objective, config)
    if tensorboard and folder is None:
        raise ValueError("tensorboard=True needs a folder to write to.")
    if resume and folder is None:
        raise ValueError("resume=True needs the folder of the run to go on with.")
    place = None if folder is None else Path(folder).expanduser()
    if place is not None and isinstance(model, DVAE):
        model.configuration()  # refuses what could not be saved
    fabric = training_fabric() if fabric is None else fabric
    precision = str(fabric.strategy.precision.precision)
    check_precision(precision)
    if replay and (fabric.device.type != "cuda" or fabric.world_size > 1 or precision != "32-true"):
        raise ValueError(
            "replay=True records the loop over frames on one CUDA device in 32-true precision; got "
            f"{fabric.world_size} process(es) on {fabric.device} in {precision}: leave it out."
        )
    with ExitStack() as stack:
        # Also where the caller wants no gradients of what he does himself.
        for outside in (torch.inference_mode(False), torch.enable_grad(), flush_denormals()):
            stack.enter_context(outside)
        stack.enter_context(brought_back(model))
        seed = derive_seed(config.seed, "global", fabric.global_rank)
        stack.enter_context(isolated_randomness(seed, fabric.device))
        run = _Run(model, train, validation, config, objective, fabric, callback)
        run.rehearse()
        if place is not None:
            run.open(place, resume, stack)
        if tensorboard and fabric.is_global_zero:
            run.writer = _summary_writer(place or Path(), run.epoch)
            stack.callback(run.writer.close)
        run.bar = _progress_bar(
            total=config.max_epochs * run.batches_per_epoch,
            initial=run.step,
            disable=True if not fabric.is_global_zero else None if progress is None else not progress,
        )
        stack.callback(run.bar.close)
        if progress is None and run.bar.disable and fabric.is_global_zero:
            run.log = _Log(config.max_epochs)
        run.signals = stack.enter_context(_Signals())
        run.replay = stack.enter_context(replay_recursion(model, replay))
        stopped = run.train()
        return run.finish(stopped)


class _Terms(nn.Module):
    """The objective as a module, because Fabric (precision, gradient sums) works on a module's `forward`."""

    def __init__(self, model: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.model, self.objective = model, objective

    def forward(
        self, load: Callable[[], Batch], generator: Generator, scheduled: dict[str, Number]
    ) -> dict[str, Tensor]:
        # Behind a function, as under mixed precision Fabric would round the data, not only the layers' inputs.
        batch = load()
        terms = dict(self.objective(self.model, batch, generator=generator, **scheduled))
        for name, value in terms.items():
            if not isinstance(value, Tensor) or value.shape != batch.x.shape[:1]:
                got = tuple(value.shape) if isinstance(value, Tensor) else value
                raise ValueError(
                    f"The objective's term {name!r} must have one value per sequence, "
                    f"shape ({len(batch.x)},); got {got}"
                )
        if not terms:
            raise ValueError("The objective returned no term; the first one is what is maximised.")
        # Only the first takes part in the gradient.
        return {name: v if i == 0 else v.detach() for i, (name, v) in enumerate(terms.items())}


class _Run:
    """The state of a run, and the steps that change it."""

    writer: Any = None
    bar: Any = None
    replay: Replay | None = None
    log: "_Log | None" = None
    signals: "_Signals"

    def __init__(
        self,
        model: nn.Module,
        train: SequenceDataset,
        validation: SequenceDataset | None,
        config: TrainingConfig,
        objective: Objective,
        fabric: Fabric,
        callback: Callback | None,
    ) -> None:
        self.model, self.train_data, self.validation_data = model, train, validation
        self.config, self.objective, self.fabric, self.callback = config, objective, fabric, callback
        # Before anything holds the parameters: of some devices, moving a model makes new ones.
        model.to(fabric.device)
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.optimizer = torch.optim.Adam(self.parameters.values(), lr=config.rate(0))
        self.module, self.fabric_optimizer = fabric.setup(_Terms(model, objective), self.optimizer)
        self.generator = Generator(fabric.device)
        self.mean_frames = train.num_frames / len(train)
        self.batches_per_epoch = math.ceil(len(train) / config.batch_size)
        self.folder: Path | None = None
        self.last_saved = time.monotonic()
        self.identity = self._identity()
        # What a checkpoint holds, beside weights and optimiser:
        self.epoch = self.batch = self.step = 0  # completed; `batch` within the epoch
        self.sums: dict[str, float] = {}  # over the epoch so far
        self.history: list[dict[str, Number]] = []
        self.best_epoch, self.best_value, self.waited = 0, -math.inf, 0
        self.best_weights = self._copy_weights()

    @torch.no_grad()
    def rehearse(self) -> None:
        """Evaluate the objective once, so that a mistake in it shows before anything is written."""
        indices = torch.arange(min(len(self.train_data), self.fabric.world_size), device="cpu")
        share = Share.of(len(indices), self.fabric.global_rank, self.fabric.world_size)
        batch = self._load(self.train_data, indices, share)
        self.module.eval()
        with isolated_randomness(0, self.fabric.device):
            self._evaluate(batch, share, {name: s(0) for name, s in self.config.schedule.items()})

    # ---------------------------------------------------------------- training

    def train(self) -> Literal["max_epochs", "patience", "callback", "interrupted"]:
        """Go on from the current state until something ends the run."""
        while True:
            if self.config.patience is not None and self.waited >= self.config.patience:
                return "patience"
            if self.epoch >= self.config.max_epochs:
                return "max_epochs"
            if not self._train_epoch():
                return "interrupted"
            if self._end_epoch():
                return "callback"

    def _train_epoch(self) -> bool:
        """The remaining steps of the current epoch; False if interrupted."""
        epoch, config = self.epoch, self.config
        scheduled = {name: schedule(epoch) for name, schedule in config.schedule.items()}
        frozen = tuple(name for name, epochs in config.freeze.items() if epoch < epochs)
        for group in self.optimizer.param_groups:
            group["lr"] = config.rate(epoch)
        order = torch.randperm(
            len(self.train_data),
            generator=Generator().manual_seed(derive_seed(config.seed, "order", epoch)),
            device="cpu",
        )
        self.bar.set_description(f"epoch {epoch + 1}/{config.max_epochs}", refresh=False)
        self.module.train()
        started = time.monotonic()
        for indices in order.split(config.batch_size)[self.batch :]:
            stop, save = self._train_step(indices, scheduled, frozen)
            started = self._clock("seconds", started)
            self.bar.update()
            if save or stop:
                self.save()
            if stop:
                return False
        return True

    def _train_step(self, indices: Tensor, scheduled: dict[str, Number], frozen: tuple[str, ...]) -> tuple[bool, bool]:
        """One step of the optimiser; whether to stop, and whether to save, which all processes agree on."""
        self.generator.manual_seed(derive_seed(self.config.seed, "noise", self.step))
        started = time.monotonic()
        share = Share.of(len(indices), self.fabric.global_rank, self.fabric.world_size)
        batch = self._load(self.train_data, indices, share)
        self._clock("data_seconds", started)

        self.optimizer.zero_grad()
        if self.replay is not None:
            self.replay.begin_step()
        terms = self._evaluate(batch, share, scheduled)
        # Gradients are averaged over processes, hence the number of these.
        scale = share.weight * self.fabric.world_size / (len(indices) * self.mean_frames)
        self.fabric.backward(-scale * next(iter(terms.values())).sum())
        gradients = {}
        for name, parameter in self.parameters.items():
            if frozen and name.startswith(frozen):
                parameter.grad = None
            elif parameter.grad is not None:
                gradients[name] = parameter.grad
        norms = [torch.linalg.vector_norm(gradient) for gradient in gradients.values()]
        norm = torch.linalg.vector_norm(torch.stack(norms)) if norms else torch.zeros((), device=batch.x.device)

        due = self.folder is not None and time.monotonic() - self.last_saved >= self.config.checkpoint_seconds
        flags = [float(self.signals.received), float(due and self.fabric.is_global_zero)]
        # One transfer from the device, and one sum over processes, for all that is needed to go on.
        totals, (stop, save), size = self._totals(terms, share, flags, norm)
        if not all(map(math.isfinite, totals.values())) or not math.isfinite(size):
            self._raise_non_finite(terms, totals, gradients, indices, share, self.train_data)
        clip = self.config.gradient_clip
        if clip is not None and size > clip:
            for name, gradient in gradients.items():
                self.parameters[name].grad = gradient * (clip / size)
        self.fabric_optimizer.step()

        self.batch, self.step = self.batch + 1, self.step + 1
        totals |= {"gradient_norm": size, "frames": float(self.train_data.lengths[indices].sum())}
        for name, value in totals.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        every = self.config.checkpoint_steps
        return stop > 0, self.folder is not None and (save > 0 or bool(every and self.step % every == 0))

    def _evaluate(self, batch: Batch, share: Share, scheduled: dict[str, Number]) -> dict[str, Tensor]:
        shared = self.fabric.world_size > 1
        with SharedNoise(self.generator, share) if shared else nullcontext():
            terms: dict[str, Tensor] = self.module(lambda: batch, self.generator, scheduled)
        return terms

    def _load(self, data: SequenceDataset, indices: Tensor, share: Share) -> Batch:
        batch = load_share(data, indices, share).to(self.fabric.device)
        dtype = next(iter(self.parameters.values())).dtype  # Fabric has converted the model, if asked to
        return batch._replace(x=batch.x.to(dtype), u=None if batch.u is None else batch.u.to(dtype))

    def _totals(
        self, terms: dict[str, Tensor], share: Share, flags: Iterable[float], norm: Tensor | None = None
    ) -> tuple[dict[str, float], list[float], float]:
        """The sums of terms and flags over all processes, and the norm, which is the same on all of them."""
        first = next(iter(terms.values()))
        sums = torch.stack([share.weight * value.detach().sum().to(first.dtype) for value in terms.values()])
        sums = torch.cat([sums, sums.new_tensor(list(flags))])
        if self.fabric.world_size > 1:
            sums = self.fabric.all_reduce(sums, reduce_op="sum")  # type: ignore[assignment]
        norm = sums.new_zeros(()) if norm is None else norm
        *values, size = torch.cat([sums, norm.to(sums).reshape(1)]).tolist()
        return dict(zip(terms, values, strict=False)), values[len(terms) :], size

    @torch.no_grad()
    def _validate(self, data: SequenceDataset) -> dict[str, float]:
        """The mean terms in nats per frame, with the same noise every time and the schedules' final values."""
        scheduled = {name: schedule.final for name, schedule in self.config.schedule.items()}
        seed = derive_seed(self.config.seed, "validation")
        sums: dict[str, float] = {}
        self.module.eval()
        with isolated_randomness(seed, self.fabric.device):
            for i, indices in enumerate(torch.arange(len(data), device="cpu").split(self.config.batch_size)):
                self.generator.manual_seed(derive_seed(seed, i))
                share = Share.of(len(indices), self.fabric.global_rank, self.fabric.world_size)
                batch = self._load(data, indices, share)
                terms = self._evaluate(batch, share, scheduled)
                totals, _, _ = self._totals(terms, share, ())
                if not all(map(math.isfinite, totals.values())):
                    self._raise_non_finite(terms, totals, {}, indices, share, data)
                for name, value in totals.items():
                    sums[name] = sums.get(name, 0.0) + value
        return {name: value / data.num_frames for name, value in sums.items()}

    def _end_epoch(self) -> bool:
        """Validate, record, keep the best weights; True if the callback wants to stop."""
        started = time.monotonic()
        sums, frames = dict(self.sums), self.sums["frames"]
        apart = {name: sums.pop(name) for name in ("seconds", "data_seconds", "gradient_norm", "frames")}
        measured = {"train": {name: value / frames for name, value in sums.items()}}
        if self.validation_data is not None:
            measured["validation"] = self._validate(self.validation_data)
        else:
            self.module.eval()
        record: dict[str, Number] = {
            "epoch": self.epoch + 1,
            "step": self.step,
            "learning_rate": self.config.rate(self.epoch),
            **{name: schedule(self.epoch) for name, schedule in self.config.schedule.items()},
            **{f"{part}_{name}_per_frame": v for part, terms in measured.items() for name, v in terms.items()},
            "gradient_norm": apart["gradient_norm"] / self.batches_per_epoch,
            "seconds": apart["seconds"] + time.monotonic() - started,
            "data_seconds": apart["data_seconds"],
        }
        self.epoch, self.batch, self.sums = self.epoch + 1, 0, {}
        self.history.append(record)
        terms = measured["validation" if self.validation_data is not None else "train"]
        value = terms.get("vlb", next(iter(terms.values())))
        if value > self.best_value or self.validation_data is None:
            self.best_epoch, self.best_value, self.waited = self.epoch, value, 0
            self.best_weights = self._copy_weights()
        elif self.epoch > self.config.settled:
            self.waited += 1
        self._report(record, value)
        return bool(self.callback is not None and self.callback(self.model, record))

    def _report(self, record: dict[str, Number], value: float) -> None:
        self.bar.set_postfix(
            {"vlb/frame": f"{value:.4g}", "best": f"{self.best_value:.4g} in {self.best_epoch}"}, refresh=False
        )
        if self.log is not None:
            self.log.note(self.epoch, f"vlb/frame {value:.4g}, best {self.best_value:.4g} in epoch {self.best_epoch}")
        if not self.fabric.is_global_zero:
            return
        metrics = {name: v for name, v in record.items() if name != "epoch"}
        self.fabric.log_dict(metrics, step=self.epoch)
        if self.writer is not None:
            for name, v in metrics.items():
                self.writer.add_scalar(name, v, self.epoch)
            self.writer.flush()

    def _raise_non_finite(
        self,
        terms: dict[str, Tensor],
        totals: dict[str, float],
        gradients: dict[str, Tensor],
        indices: Tensor,
        share: Share,
        data: SequenceDataset,
    ) -> None:
        training: bool = self.module.training
        where = f"epoch {self.epoch + 1}, " + (
            f"step {self.step + 1} (batch {self.batch + 1} of {self.batches_per_epoch})" if training else "validation"
        )
        bad_terms = [name for name, value in totals.items() if not math.isfinite(value)]
        parameters = [name for name, p in self.parameters.items() if not bool(torch.isfinite(p).all())]
        if bad_terms:
            bad = torch.zeros(share.stop - share.start, dtype=torch.bool, device="cpu")
            for name in bad_terms:
                bad |= ~torch.isfinite(terms[name]).cpu()
            at_fault = indices[share.start : share.stop][bad].tolist()
            what = f"{', '.join(bad_terms)} not finite, sequences"
            if not at_fault and self.fabric.world_size == 1:
                # Each sequence has a value, and their sum is beyond the largest number of the format.
                largest = terms[bad_terms[0]].detach().abs()
                at_fault = [int(indices[int(largest.argmax())])]
                what = (
                    f"the sum of {' and of '.join(bad_terms)} over the batch overflows, with values of up to "
                    f"{largest.max().item():.1e}. Data or inputs u of that size want to be standardised first. The "
                    "largest is of sequence"
                )
        else:
            at_fault, what = indices.tolist(), "the gradient is not finite, though the objective is; batch of"
            parameters += [
                name for name, g in gradients.items() if name not in parameters and not bool(torch.isfinite(g).all())
            ]
        sequences = [data.names[i] for i in at_fault]
        listed = ", ".join(f"{i} ({name})" for i, name in zip(at_fault[:5], sequences[:5], strict=True))
        more = f" and {len(at_fault) - 5} more" if len(at_fault) > 5 else ""
        message = f"{where}: {what} {listed or 'of another process'}{more}."
        if parameters:
            message += f" Parameters concerned: {', '.join(parameters)}."
        message += " The step was not made. Look at these data; a smaller learning_rate, gradient_clip or beta warm-up"
        message += " often helps."
        raise NonFiniteError(
            message,
            epoch=self.epoch + 1,
            step=self.step + training,
            sequences=sequences,
            parameters=parameters,
        )

    def _clock(self, name: str, started: float) -> float:
        now = time.monotonic()
        self.sums[name] = self.sums.get(name, 0.0) + now - started
        return now

    def _copy_weights(self, device: str | None = None) -> dict[str, Tensor]:
        """A copy of the weights, which later steps do not change."""
        state: dict[str, Tensor] = self.model.state_dict()
        return {name: t.detach().to(device or t.device, copy=True) for name, t in state.items()}

    def finish(self, stopped: Literal["max_epochs", "patience", "callback", "interrupted"]) -> TrainingResult:
        """Save, put the best weights into the model, and export it."""
        self.save()
        if self.log is not None:
            self.log.end(stopped)
        last = self._copy_weights("cpu")
        self.model.load_state_dict(self.best_weights)
        self.model.eval()
        metadata = getattr(self.model, "metadata", None)
        if isinstance(metadata, dict):
            metadata["training"] = {
                "config": self.config.to_dict(),
                "best_epoch": self.best_epoch,
                "epochs": self.epoch,
                "stopped": stopped,
                "train": _describe(self.train_data)[0],
            }
            if self.train_data.standardizer is not None:
                metadata["standardizer"] = self.train_data.standardizer.to_dict()
            if self.train_data.input_standardizer is not None:
                metadata["input_standardizer"] = self.train_data.input_standardizer.to_dict()
        export = getattr(self.model, "save_pretrained", None)
        if export is not None and self.folder is not None and self.fabric.is_global_zero:
            export(self.folder / BEST)
        self.fabric.barrier()
        return TrainingResult(self.model, self.history, self.best_epoch, self.best_value, stopped, last)

    # ---------------------------------------------------------------- files

    def open(self, folder: Path, resume: bool | None, stack: ExitStack) -> None:
        """Begin a run in the folder, or take up the one that it holds. The stack keeps others out until it ends."""
        path = folder / CHECKPOINT
        if path.exists():
            self._lock(folder, stack)
            if resume is False:
                raise FileExistsError(
                    f"{folder} already holds a run: resume=True goes on with it; choose another folder for a new one."
                )
            self._restore(path)
            self.folder = folder
        elif resume:
            raise FileNotFoundError(
                f"There is no run to go on with in {folder}: {CHECKPOINT} is missing; resume=None starts one."
            )
        else:
            foreign = [name for name in (CONFIG, HISTORY, BEST) if (folder / name).exists()]
            if foreign:
                raise FileExistsError(
                    f"{folder} holds {' and '.join(foreign)} but no run of this library; nothing is overwritten: "
                    "choose another folder."
                )
            folder.mkdir(parents=True, exist_ok=True)
            self.folder = folder
            self._lock(folder, stack)
            # All must have looked before the first one writes.
            self.fabric.barrier()
            self.save()
        if self.fabric.is_global_zero:
            write_atomically(folder / CONFIG, self.config.to_json().encode())

    def _lock(self, folder: Path, stack: ExitStack) -> None:
        if self.fabric.is_global_zero:
            stack.enter_context(in_hand(folder))

    def save(self) -> None:
        """Write the checkpoint, if the run has a folder."""
        if self.folder is None:
            return
        random_states = self._gather(global_random_state(self.fabric.device))
        if self.fabric.is_global_zero:
            optimizer = self.optimizer.state_dict()
            tensors = {f"model.{name}": t for name, t in self.model.state_dict().items()}
            tensors |= {f"best.{name}": t for name, t in self.best_weights.items()}
            for index, values in optimizer["state"].items():
                tensors |= {f"optimizer.{index}.{name}": torch.as_tensor(v) for name, v in values.items()}
            state = {
                "dvae_lib": __version__,
                "run": self.identity,
                "config": self.config.to_dict(),
                "progress": {name: getattr(self, name) for name in self.PROGRESS},
                "random": random_states,
            }
            save_checkpoint(self.folder / CHECKPOINT, tensors, state)
            self._write_history()
        self.last_saved = time.monotonic()

    PROGRESS = ("epoch", "batch", "step", "sums", "history", "best_epoch", "best_value", "waited")

    def _restore(self, path: Path) -> None:
        tensors, state = load_checkpoint(path)
        for part in ("run", "config", "progress", "random"):
            if part not in state:
                raise CheckpointError(f"{path} is no checkpoint of a training run: it has no {part!r}.")
        self._check_identity(path, state["run"])
        saved, now = state["config"], self.config.to_dict()
        different = sorted(
            name for name in {*saved, *now} - self.config.CONTINUABLE if saved.get(name) != now.get(name)
        )
        if different:
            changes = "; ".join(f"{name} was {saved.get(name)}, now {now.get(name)}" for name in different)
            raise CheckpointError(
                f"{path} belongs to a run with another configuration: {changes}. Use the one in {CONFIG} beside it "
                "to go on, or another folder for a new run."
            )
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "best": {}, "optimizer": {}}
        for name, tensor in tensors.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = tensor
        for part in ("model", "best"):
            _check_weights(path, parts[part], self.model.state_dict())
        self.model.load_state_dict(parts["model"])
        self.best_weights = {name: parts["best"][name].to(t.device) for name, t in self.model.state_dict().items()}
        optimizer = self.optimizer.state_dict()
        for name, tensor in parts["optimizer"].items():
            index, _, key = name.partition(".")
            optimizer["state"].setdefault(int(index), {})[key] = tensor
        self.optimizer.load_state_dict(optimizer)
        for name in self.PROGRESS:
            setattr(self, name, state["progress"][name])
        # With more processes than before, the new ones keep the state that their seed gives.
        if self.fabric.global_rank < len(state["random"]):
            restore_global_random_state(state["random"][self.fabric.global_rank], self.fabric.device)

    def _identity(self) -> dict[str, Any]:
        """What a run is a run of, beside its configuration."""
        data = {"train": self.train_data, "validation": self.validation_data}
        return {
            "model": _name_of(type(self.model)),
            "options": json.loads(json.dumps(getattr(self.model, "options", {}), default=repr)),
            "objective": _name_of(self.objective),
            "precision": str(self.fabric.strategy.precision.precision),
            "data": {part: None if d is None else _describe(d) for part, d in data.items()},
        }

    def _check_identity(self, path: Path, saved: dict[str, Any]) -> None:
        now = self.identity
        for name, what in (
            ("model", "model"),
            ("options", "model with other options"),
            ("objective", "objective"),
            ("precision", "precision"),
        ):
            if saved[name] != now[name]:
                raise CheckpointError(
                    f"{path} belongs to another {what}: it was written for {saved[name]}, and here is {now[name]}. "
                    "Choose another folder."
                )
        for part, described in now["data"].items():
            before = saved["data"][part]
            if not _same_data(before, described):
                difference = f"{_summary(before)}, and here are {_summary(described)}"
                if before is not None and described is not None and before[0] == described[0]:
                    which = "the names or lengths" if before[1] != described[1] else "the values"
                    difference = f"{which} of the sequences differ ({_summary(described)} in both)"
                raise CheckpointError(f"{path} belongs to other {part} data: {difference}. Choose another folder.")

    def _gather(self, value: Any) -> list[Any]:
        if self.fabric.world_size == 1:
            return [value]
        values = [None] * self.fabric.world_size
        torch.distributed.all_gather_object(values, value)
        return values

    def _write_history(self) -> None:
        if self.folder is None or not self.history:
            return
        text = io.StringIO(newline="")
        table = csv.DictWriter(text, fieldnames=list(self.history[-1]))
        table.writeheader()
        table.writerows(self.history)
        write_atomically(self.folder / HISTORY, text.getvalue().encode())


class _Log:
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


class _Signals:
    """Turns the first Ctrl-C, and SIGTERM, into a wish to stop; the second Ctrl-C interrupts at once.

    A process that was asked to terminate does so after what was to be saved has been saved.
    """

    def __init__(self) -> None:
        self.received: int = 0
        self._since = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "_Signals":
        # Only the main thread may handle signals.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self.received == signal.SIGTERM:
            signal.raise_signal(signal.SIGTERM)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        # torchrun passes on a Ctrl-C that its processes have had from the terminal already.
        if self.received == number == signal.SIGINT and time.monotonic() - self._since > 1.0:
            raise KeyboardInterrupt
        self.received, self._since = number, time.monotonic()


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
        raise ImportError("Logs for TensorBoard need the package tensorboard: pip install tensorboard.") from error
    # What a killed run has logged beyond its last checkpoint is logged again.
    return SummaryWriter(str(folder / "tensorboard"), purge_step=epoch + 1)


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


def _check_fit(
    model: nn.Module, train: SequenceDataset, validation: SequenceDataset | None, config: TrainingConfig
) -> None:
    """Refuse what does not fit together before anything is written or trained."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module; got {type(model).__name__}")
    if not isinstance(config, TrainingConfig):
        raise TypeError(f"config must be a TrainingConfig; got {type(config).__name__}")
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not parameters:
        raise ValueError(f"{type(model).__name__} has no parameter that could be trained.")
    if any(p.is_inference() for p in parameters.values()):
        raise ValueError("The model was built under torch.inference_mode and can have no gradients: build it outside.")
    for prefix in config.freeze:
        if not any(name.startswith(prefix) for name in parameters):
            raise ValueError(
                f"freeze names {prefix!r}, but no parameter's name begins like that; there are {', '.join(parameters)}"
            )
    fed_back = any(value > 0 for _, value in config.schedule.get("feedback", Schedule.constant(0)).points)
    if fed_back and isinstance(model, DVAE):
        model.check_feedback()
    for part, data in (("train", train), ("validation", validation)):
        if data is None and part == "validation":
            continue
        if not isinstance(data, SequenceDataset):
            raise TypeError(
                f"{part} must be a SequenceDataset; got {type(data).__name__}. "
                "SequenceDataset(arrays) makes one from arrays of shape (T_i, x_dim)."
            )
        if len(data) == 0:
            raise ValueError(f"{part} holds no sequence.")
        for size in ("x_dim", "u_dim"):
            wanted, got = getattr(model, size, None), getattr(data, size)
            if wanted is not None and wanted != got:
                raise ValueError(f"The model has {size}={wanted}, but the {part} data have {size}={got}.")
        if isinstance(model, DVAE):
            _check_support(model.observation, part, data)
        dtype, wanted_dtype = data.batch([0]).x.dtype, next(iter(parameters.values())).dtype
        if dtype != wanted_dtype:
            raise TypeError(
                f"The {part} data are {dtype}, the model is {wanted_dtype}: "
                f"SequenceDataset(..., dtype={wanted_dtype}) converts them."
            )


def _check_objective(model: nn.Module, objective: Objective, config: TrainingConfig) -> None:
    """Refuse a model without the bound that is maximised, and schedules of arguments that the objective has not."""
    taker: Any = objective
    if objective is vlb_terms:
        taker = getattr(model, "vlb", None)
        if taker is None:
            raise TypeError(
                f"{type(model).__name__} has no method vlb, which is what is maximised by default: pass an objective, "
                "a function of model and batch that returns terms of shape (B,)."
            )
    try:
        parameters = inspect.signature(taker).parameters.values()
    except (TypeError, ValueError):  # a callable that does not tell
        return
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return
    own = ("model", "batch", "x", "u", "lengths", "generator", "kl", "num_samples")
    known = [p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD) and p.name not in own]
    for name in config.schedule:
        if name not in known:
            raise ValueError(
                f"schedules names {name!r}, which is no argument of the objective that could change over the epochs; "
                f"it has {', '.join(known) or 'none'}."
            )


def _check_support(observation: str, part: str, data: SequenceDataset) -> None:
    """Refuse data to which the observation model gives no probability, once for all batches."""
    support = support_of(observation)
    outside = None if support.everything else data.first_outside(support.low, support.high, whole=support.whole)
    if outside is None:
        return
    name, frame, dim, value = outside
    advice = f"Choose another observation model, such as 'gaussian', or bring the data to {support}."
    if data.standardizer is not None:
        advice = (
            "The data are standardised, which such a model does not bear: use standardize=False (on the command line "
            "--no-standardize), or another observation model, such as 'gaussian'."
        )
    raise ValueError(
        f"The {part} data hold {value:g} (sequence {name}, frame {frame}, dimension {dim}), but the observation model "
        f"{observation!r} gives a probability to {support} only. {advice}"
    )


def _check_weights(path: Path, saved: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    for name in sorted({*saved, *wanted}):
        here = tuple(f"{tuple(t[name].shape)} {t[name].dtype}" if name in t else "absent" for t in (saved, wanted))
        if here[0] != here[1]:
            raise CheckpointError(
                f"{path} belongs to another model: {name} is {here[0]} in the checkpoint and {here[1]} in the model."
            )


def _describe(data: SequenceDataset) -> list[Any]:
    """A fingerprint: sizes, a digest of names and lengths, and the mean magnitude of a few sequences."""
    sizes = {"sequences": len(data), "frames": data.num_frames, "x_dim": data.x_dim, "u_dim": data.u_dim}
    digest = derive_seed(0, *data.names, *data.lengths.tolist())
    some = torch.linspace(0, len(data) - 1, min(len(data), 16), device="cpu").long().tolist()
    return [sizes, digest, [float(data[i].abs().mean()) for i in some]]


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


def _name_of(thing: Any) -> str:
    kind = thing if hasattr(thing, "__qualname__") else type(thing)
    return f"{kind.__module__}.{kind.__qualname__}"
