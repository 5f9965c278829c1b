"""The loops over frames as CUDA graphs: recorded once, replayed in every training step.

There are two: that of a recursive inference, and that of generation fed with its own output.

A loop over frames launches thousands of small kernels, and on a GPU the launches take longer than the arithmetic. A
CUDA graph launches them all at once. The noise is drawn outside, so the numbers are those of the plain loop.
"""

import gc
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from dvae_lib.graphs.links import links
from dvae_lib.models.base import DVAE

__all__ = ["Replay", "replay_recursion"]

Recursion = Callable[..., tuple[Tensor, ...]]
Recorder = Callable[[nn.Module, tuple[Tensor, ...]], Recursion]


class Replay:
    """A model's recursions, recorded for each shape of their inputs, checked once, and replayed.

    A recording has one set of buffers, so it serves once between two calls of `begin_step`; further calls, those
    without gradient, and those in evaluation mode run the plain loop. So does everything, after a warning, if
    recording fails or its values or gradients are not those of the plain loop.

    Arguments:
        model: The model.
        record: Makes a callable of a module and example inputs; by default `torch.cuda.make_graphed_callables`.
        max_recordings: Each costs the memory of one pass; inputs of further shapes run the plain loop.
        tolerance: What counts as the same numbers, relative and absolute, in single precision.
    """

    def __init__(
        self, model: DVAE, *, record: Recorder | None = None, max_recordings: int = 4, tolerance: float = 1e-3
    ) -> None:
        self.model = model
        self.record: Recorder = _cuda_graph if record is None else record
        self.max_recordings, self.tolerance = max_recordings, tolerance
        self.recordings: dict[Any, Recursion] = {}
        self.used: set[Any] = set()
        self.given_up = False

    def begin_step(self) -> None:
        """The outputs of the step before, and their gradients, are needed no more."""
        self.used.clear()

    def __call__(self, recursion: str, *known: Tensor) -> tuple[Tensor, ...]:
        """The outputs of the model's method of that name."""
        loop = _Loop(self.model, recursion)
        if self.given_up or not (torch.is_grad_enabled() and self.model.training):
            return loop(*known)  # type: ignore[no-any-return]
        key = (
            recursion,
            *((tuple(value.shape), value.dtype, value.requires_grad) for value in known),
            tuple(parameter.requires_grad for parameter in self.model.parameters()),
        )
        if key in self.used or (key not in self.recordings and len(self.recordings) >= self.max_recordings):
            return loop(*known)  # type: ignore[no-any-return]
        if key not in self.recordings:
            recording = self._recorded(loop, known)
            if recording is None:
                return loop(*known)  # type: ignore[no-any-return]
            self.recordings[key] = recording
        self.used.add(key)
        return self.recordings[key](*known)

    def _recorded(self, loop: "_Loop", known: Sequence[Tensor]) -> Recursion | None:
        """A recording that does what the plain loop does; None, with a warning, if there is none to be had."""
        wanted = self._values_and_gradients(loop, known)
        if wanted is None:
            return None  # frozen: there is no gradient now, but there may be one later
        # Other values than those to be compared, lest a constant in the recording pass for a result.
        examples = tuple(torch.zeros_like(value, requires_grad=value.requires_grad) for value in known)
        try:
            with _no_garbage_collection():
                # A module of its own, because recording replaces the module's forward.
                recording = self.record(_Loop(self.model, loop.recursion), examples)
            found = self._values_and_gradients(recording, known)
        except (RuntimeError, ValueError, TypeError, AssertionError, NotImplementedError) as error:
            self._give_up(f"recording failed: {error}")
            return None
        if found is None or len(found) != len(wanted):
            self._give_up("it has not the plain loop's outputs and gradients")
            return None
        for a, b in zip(found, wanted, strict=True):
            if not torch.allclose(a, b, rtol=self.tolerance, atol=self.tolerance * b.abs().max().item() + 1e-6):
                self._give_up(f"its numbers differ from the plain loop's by up to {(a - b).abs().max().item():.1e}")
                return None
        return recording

    def _give_up(self, reason: str) -> None:
        self.given_up = True
        self.recordings.clear()
        warnings.warn(f"no CUDA graph of the recursion is used, as {reason}", RuntimeWarning, stacklevel=4)

    def _values_and_gradients(self, recursion: Recursion, known: Sequence[Tensor]) -> list[Tensor] | None:
        """Outputs, and the gradients of their sum with respect to all that has one; None if nothing has."""
        inputs = [value.detach().clone().requires_grad_(value.requires_grad) for value in known]
        sources = [value for value in (*inputs, *self.model.parameters()) if value.requires_grad]
        outputs = recursion(*inputs)
        total = torch.stack([output.sum() for output in outputs]).sum()
        if not total.requires_grad:
            return None
        gradients = torch.autograd.grad(total, sources, allow_unused=True)
        return [value.detach().clone() for value in (*outputs, *gradients) if value is not None]

    def __deepcopy__(self, memo: object) -> None:
        """A copy of the model has weights of its own, which no recording knows."""


class _Loop(nn.Module):
    """A model's recursion as a module, which is what recording takes."""

    def __init__(self, model: DVAE, recursion: str) -> None:
        super().__init__()
        self.model, self.recursion = model, recursion

    @property
    def training(self) -> bool:
        return self.model.training

    @training.setter
    def training(self, mode: bool) -> None:
        """Set by `nn.Module`; the model's own mode is what counts."""

    def forward(self, *known: Tensor) -> tuple[Tensor, ...]:
        outputs: tuple[Tensor, ...] = getattr(self.model, self.recursion)(*known)
        return outputs


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """A graph of an earlier model that is collected in the midst of a recording would spoil that."""
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _cuda_graph(loop: nn.Module, examples: tuple[Tensor, ...]) -> Recursion:
    # The recursion uses a part of the model's weights, hence `allow_unused_input`.
    graph: Any = torch.cuda.make_graphed_callables(loop, examples, allow_unused_input=True)
    return graph  # type: ignore[no-any-return]


def _has_recursion(model: DVAE) -> bool:
    return type(model).recursion is not DVAE.recursion


def _copy(gradient: Tensor | None) -> Tensor | None:
    return None if gradient is None else gradient.clone()


@contextmanager
def replay_recursion(model: nn.Module, enabled: bool) -> Iterator[Replay | None]:
    """Within the block, the model's recursions are replayed from CUDA graphs, and every weight's gradient is a copy.

    Arguments:
        model: The model. One without a recursion, in inference or in generation mode, is left as it is.
        enabled: Whether to do so at all.
    """
    if not (enabled and isinstance(model, DVAE) and (_has_recursion(model) or links(model.spec).predictive)):
        yield None
        return
    model.replay = replay = Replay(model)
    # The gradients of a graph are its own buffers, which the next replay overwrites, and which several weights may
    # share: what is kept as a weight's gradient must be a copy.
    hooks = [p.register_hook(_copy) for p in model.parameters() if p.requires_grad]
    try:
        yield replay
    finally:
        for hook in hooks:
            hook.remove()
        del model.replay  # the class's None shows again
