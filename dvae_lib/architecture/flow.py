r"""What flows through a running model: which network feeds which, at which frame.

Nothing here is typed in per model. A model is run once on a few frames, its latent vectors given. Every network's
output is cut off from what it was computed from, so that the gradient of another network's input shows exactly which
outputs and variables enter it directly, at which frame, and in which columns.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from dvae_lib.models.base import DVAE
from dvae_lib.networks import LocallyLinear, Memory, side_by_side

__all__ = [
    "FRAMES",
    "HERE",
    "PROCESSES",
    "Process",
    "Term",
    "data_flow",
    "is_matrices",
    "is_recurrent",
    "parts_of",
    "used_weights",
]

Process = Literal["generation", "inference"]
PROCESSES: tuple[Process, ...] = ("generation", "inference")
FRAMES, HERE = 5, 2
"""Number of frames that a model is run on, and the one that is looked at."""


@dataclass(frozen=True)
class Term:
    r"""A value that is read: a variable, or the output of a part of the model.

    Attributes:
        name: Of the variable, or of the part's attribute.
        is_part: Which of the two.
        at: The frame: a number relative to t, a range in words such as "t:T", or None for a whole sequence's.
        inputs: What the part reads, in the order of its columns.
        averaged: The inputs share their columns: they are averaged, not put side by side.
    """

    name: str
    is_part: bool = False
    at: int | str | None = 0
    inputs: tuple["Term", ...] = ()
    averaged: bool = False

    @property
    def index(self) -> str:
        """The frame as a subscript of LaTeX, with its underscore."""
        if self.at is None:
            return ""
        return rf"_{{{self.at}}}" if isinstance(self.at, str) else "_t" if self.at == 0 else rf"_{{t{self.at:+d}}}"

    def all(self) -> Iterator["Term"]:
        """The term, and all that it is computed from."""
        yield self
        for term in self.inputs:
            yield from term.all()


class _Source(NamedTuple):
    """What directly enters a tensor: a variable or a part's call, at some frame, from some column on."""

    leaf: int
    at: int | str | None
    column: float


@dataclass
class _Call:
    """A part that ran, what it read, and its output, cut off."""

    part: str
    inputs: Tensor
    output: Tensor | None = None
    result: Any = None


@dataclass
class _Run:
    """One process, run once: the variables, the calls in their order, and the distributions that came out."""

    model: DVAE
    variables: dict[str, Tensor]
    calls: list[_Call] = field(default_factory=list)
    outcomes: dict[str, Distribution] = field(default_factory=dict)

    def sources(self, target: Tensor) -> list[_Source]:
        """What directly enters a tensor, of those variables and outputs, ordered by column."""
        leaves = [*self.variables.values(), *(c.output for c in self.calls if c.output is not None)]
        # Calls by their number, variables by negative ones.
        numbers = [-1 - i for i in range(len(self.variables))]
        numbers += [i for i, c in enumerate(self.calls) if c.output is not None]
        target = _by_frame(target)
        row = target[0] if target.ndim == 2 else target[0, HERE]
        if not row.requires_grad:
            return []
        columns = torch.arange(1, row.numel() + 1, dtype=row.dtype, device=row.device)
        plain = torch.autograd.grad(row.sum(), leaves, retain_graph=True, allow_unused=True)
        weighted = torch.autograd.grad((row * columns).sum(), leaves, retain_graph=True, allow_unused=True)
        found = []
        for number, g, w in zip(numbers, plain, weighted, strict=True):
            if g is None or w is None or not bool(g.any()):
                continue
            reached = g.abs() > 1e-9 * g.abs().max()  # what is less is rounding
            column = round(float((w / g)[reached].min()), 3)
            found.append(_Source(number, _frames(_by_frame(reached), target), column))
        return sorted(found, key=lambda source: source.column)


def _by_frame(value: Tensor) -> Tensor:
    """A value with the frames after the batch, of one sequence, also where a model takes them for the batch."""
    return value.reshape(1, FRAMES, -1) if len(value) == FRAMES else value


def _frames(reached: Tensor, target: Tensor) -> int | str | None:
    """At which frames a leaf enters: relative to the target's, or in words."""
    if reached.ndim == 2:
        return None
    frames: list[int] = reached[0].any(-1).nonzero().flatten().tolist()
    first, last, end = frames[0], frames[-1], reached.shape[1] - 1
    if target.ndim == 3 and first == last:
        return first - HERE

    def name(frame: int) -> str:
        if target.ndim == 3 and abs(frame - HERE) < 2:
            return f"t{frame - HERE:+d}" if frame != HERE else "t"
        return "1" if frame == 0 else "T" if frame == end else str(frame)

    return name(first) if first == last else f"{name(first)}:{name(last)}"


def parts_of(model: DVAE) -> dict[str, nn.Module]:
    """The model's parts that have weights, by attribute: members of a list one by one."""
    parts: dict[str, nn.Module] = {}
    for name, child in model.named_children():
        members = child.named_children() if isinstance(child, nn.ModuleList) else [("", child)]
        parts |= {f"{name}.{key}".rstrip("."): part for key, part in members}
    return {name: part for name, part in parts.items() if any(True for _ in part.parameters())}


def is_matrices(part: nn.Module) -> bool:
    """Whether a part holds parameters that no layer multiplies with, such as those of linear dynamics."""
    layer = isinstance(part, nn.Linear | nn.RNNBase) or any(True for _ in part.children())
    return not layer and any(True for _ in part.parameters())


def is_recurrent(part: nn.Module) -> bool:
    """Whether a part carries a state, or a memory of another kind, from frame to frame."""
    return any(isinstance(m, nn.RNNBase | LocallyLinear | Memory) for m in part.modules())


def _data(model: DVAE) -> dict[str, Tensor]:
    """A sequence, its inputs if the model is driven, and values of its latent vectors."""
    parameter = next(model.parameters())
    generator = torch.Generator(parameter.device).manual_seed(0)
    options: dict[str, Any] = {"device": parameter.device, "dtype": parameter.dtype, "generator": generator}
    x = torch.rand(1, FRAMES, model.x_dim, **options)
    u = torch.rand(1, FRAMES, model.u_dim, **options) if model.u_dim else None
    with torch.no_grad():
        latents = model.inference(x, u, generator=generator)
    data = {"x": x, **({} if u is None else {"u": u}), **{name: latent.sample for name, latent in latents.items()}}
    return {name: value.detach().requires_grad_() for name, value in data.items()}


def _outcomes(model: DVAE, process: Process, data: dict[str, Tensor]) -> dict[str, Distribution]:
    """All distributions of a process, by variable."""
    latents = {name: value for name, value in data.items() if name not in ("x", "u")}
    if process == "inference":
        inferred = model.inference(data["x"], data.get("u"), latents=latents)
        return {name: latent.posterior for name, latent in inferred.items()}
    generated = model.generation(data["x"], latents, data.get("u"))
    return {**generated.prior, "x": generated.observation}


def _copy(model: DVAE) -> DVAE:
    """The model in double precision, so that what cancels is told from what is small; the original is left alone."""
    twin = copy.deepcopy(model).to("cpu", torch.float64)
    twin.replay = None
    return twin


def _run(model: DVAE, process: Process) -> _Run:
    """A process of a copy, with every part's output cut off from its input."""
    model = _copy(model)
    run = _Run(model, _data(model))

    def hook(name: str) -> Any:
        def cut(part: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            call = _Call(name, side_by_side(args[0]), result=output)
            run.calls.append(call)
            first, *rest = output if isinstance(output, tuple) and isinstance(output[0], Tensor) else (output,)
            if not isinstance(first, Tensor):  # a distribution, which no other part reads
                return output
            call.output = first.detach().requires_grad_()
            return (call.output, *rest) if isinstance(output, tuple) else call.output

        return cut

    handles = [part.register_forward_hook(hook(name)) for name, part in parts_of(model).items()]
    try:
        run.outcomes = _outcomes(model, process, run.variables)
    finally:
        for handle in handles:
            handle.remove()
    return run


@torch.enable_grad()
def data_flow(model: DVAE, process: Process) -> dict[str, Term]:
    """From what, and through which parts, the distribution of each variable is computed.

    Arguments:
        model: Any model.
        process: "generation" or "inference".

    Returns:
        For each variable whose distribution is no fixed one, the part that puts it out, with all that it reads.

    Example:
        >>> from dvae_lib import build_model
        >>> term = data_flow(build_model("srnn", x_dim=5, z_dim=2), "inference")["z"]
        >>> [f"{t.name}{t.index}" for t in term.inputs[0].inputs]
        ['e_g_t', 'z_{t-1}']
    """
    run = _run(model, process)
    parts, names = parts_of(run.model), list(run.variables)

    def read(target: Tensor, shift: int) -> tuple[tuple[Term, ...], bool]:
        sources = run.sources(target)
        terms = tuple(term(source, shift) for source in sources)
        return terms, len(sources) > 1 and len({source.column for source in sources}) == 1

    def term(source: _Source, shift: int) -> Term:
        at = source.at + shift if isinstance(source.at, int) else source.at
        if source.leaf < 0:
            return Term(names[-1 - source.leaf], at=at)
        call = run.calls[source.leaf]
        if is_recurrent(parts[call.part]):  # a state: its index is that of the frame it was made at
            inputs, averaged = read(call.inputs, 0)
            return Term(call.part, True, at, inputs, averaged)
        inputs, averaged = read(call.inputs, at if isinstance(at, int) else 0)  # a function of its arguments
        return Term(call.part, True, 0, inputs, averaged)

    flow = {}
    called = {call.part for call in run.calls}
    for variable, outcome in run.outcomes.items():
        call = next((c for c in run.calls if c.result is outcome), None)
        if call is not None:
            inputs, averaged = read(call.inputs, 0)
            flow[variable] = Term(call.part, True, 0, inputs, averaged)
            continue
        values = _numbers(outcome)
        if values is None:
            continue  # a fixed distribution
        # Computed by no network: the parts are those whose parameters it moves with.
        inputs, _ = read(values, 0)
        for name, part in parts.items():
            grads = torch.autograd.grad(values.sum(), list(part.parameters()), retain_graph=True, allow_unused=True)
            if name not in called and any(g is not None for g in grads):
                flow[variable] = Term(name, True, 0, inputs)
        # Or from numbers that a network puts out, as the conditionals of a Gaussian chain are.
        networks = [source for source in inputs if source.is_part]
        if variable not in flow and networks:
            flow[variable] = networks[0]
    return flow


def _numbers(distribution: Distribution) -> Tensor | None:
    """Mean and standard deviation side by side, where they depend on anything."""
    both = torch.cat([distribution.mean, distribution.stddev.expand_as(distribution.mean)], -1)
    return both if both.requires_grad else None


@torch.enable_grad()
def used_weights(model: DVAE, process: Process) -> set[str]:
    """The names of the parameters that get a gradient from a process's outputs, the latent vectors given."""
    model = _copy(model)
    outcomes = _outcomes(model, process, _data(model))
    numbers = [values.sum() for values in map(_numbers, outcomes.values()) if values is not None]
    if not numbers:  # a model without latent vectors has no inference
        return set()
    parameters = dict(model.named_parameters())
    gradients = torch.autograd.grad(torch.stack(numbers).sum(), list(parameters.values()), allow_unused=True)
    return {name for name, g in zip(parameters, gradients, strict=True) if g is not None}
