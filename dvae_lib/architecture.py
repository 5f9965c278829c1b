r"""What a model is made of, read off the running model: its networks, their sizes, and which feeds which.

Nothing here is typed in per model. A model is run once on a few frames, its latent vectors given. Every network's
output is cut off from what it was computed from, so that the gradient of another network's input shows exactly which
outputs and variables enter it directly, at which frame, and in which columns.
"""

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations, pairwise
from typing import Any, Literal, NamedTuple

import matplotlib.pyplot as plt
import networkx as nx
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse, FancyBboxPatch, PathPatch
from matplotlib.path import Path
from torch import Tensor, nn
from torch.distributions import Distribution

from dvae_lib.models.base import DVAE
from dvae_lib.networks import GatedTransition, GaussianHead, ObservationHead
from dvae_lib.plotting import CARD, COLOURS

__all__ = [
    "Part",
    "Process",
    "Term",
    "Weights",
    "architecture",
    "count_weights",
    "data_flow",
    "draw_architecture",
    "layers",
    "to_markdown",
]

Process = Literal["generation", "inference"]
PROCESSES: tuple[Process, ...] = ("generation", "inference")
NONE_ONE_BOTH: tuple[tuple[Process, ...], ...] = ((), ("generation",), ("inference",), PROCESSES)
FRAMES, HERE = 5, 2
"""Number of frames that a model is run on, and the one that is looked at."""

FUNCTIONS = {
    "phi_x": r"\varphi_{\mathbf{x}}",
    "phi_z": r"\varphi_{\mathbf{z}}",
    "combiner": r"\text{of } \mathbf{g}_t",
    "head_rnn": r"e_{\mathbf{z}}",
    "future_net": r"p_\xi(\mathbf{b}_t \mid \mathbf{z}_t)",
    "future_head": r"p_\xi(\mathbf{b}_t \mid \mathbf{z}_t)",
    "backward_head": r"p_\xi(\mathbf{x}_{t-1} \mid \mathbf{b}_t)",
}
"""The review's functions that cannot be told from what a part computes: by attribute."""

STATES = {"gb": r"\overleftarrow{\mathbf{g}}", "gf": r"\overrightarrow{\mathbf{g}}"}
"""States whose name in the spec gives another symbol than the review's."""


# ---------------------------------------------------------------- the flow of data


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
            found.append(_Source(number, _frames(reached, target), column))
        return sorted(found, key=lambda source: source.column)


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


def _parts(model: DVAE) -> dict[str, nn.Module]:
    """The model's parts that have weights, by attribute: members of a list one by one."""
    parts: dict[str, nn.Module] = {}
    for name, child in model.named_children():
        members = child.named_children() if isinstance(child, nn.ModuleList) else [("", child)]
        parts |= {f"{name}.{key}".rstrip("."): part for key, part in members}
    return {name: part for name, part in parts.items() if any(True for _ in part.parameters())}


def _is_recurrent(part: nn.Module) -> bool:
    return any(isinstance(m, nn.RNNBase) for m in part.modules())


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
            call = _Call(name, args[0], result=output)
            run.calls.append(call)
            first, *rest = output if isinstance(output, tuple) and isinstance(output[0], Tensor) else (output,)
            if not isinstance(first, Tensor):  # a distribution, which no other part reads
                return output
            call.output = first.detach().requires_grad_()
            return (call.output, *rest) if isinstance(output, tuple) else call.output

        return cut

    handles = [part.register_forward_hook(hook(name)) for name, part in _parts(model).items()]
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
    parts, names = _parts(run.model), list(run.variables)

    def read(target: Tensor, shift: int) -> tuple[tuple[Term, ...], bool]:
        sources = run.sources(target)
        terms = tuple(term(source, shift) for source in sources)
        return terms, len(sources) > 1 and len({source.column for source in sources}) == 1

    def term(source: _Source, shift: int) -> Term:
        at = source.at + shift if isinstance(source.at, int) else source.at
        if source.leaf < 0:
            return Term(names[-1 - source.leaf], at=at)
        call = run.calls[source.leaf]
        if _is_recurrent(parts[call.part]):  # a state: its index is that of the frame it was made at
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
    return flow


def _numbers(distribution: Distribution) -> Tensor | None:
    """Mean and standard deviation side by side, where they depend on anything."""
    both = torch.cat([distribution.mean, distribution.stddev.expand_as(distribution.mean)], -1)
    return both if both.requires_grad else None


# ---------------------------------------------------------------- the table


@dataclass(frozen=True)
class Part:
    """A part of a model: one row of its table.

    Attributes:
        name: The attribute of the model, `model.get_submodule(name)`.
        function: The review's function that it is, or belongs to, in LaTeX.
        network: The network in the review's notation, with LaTeX between dollars.
        in_dim: Size of what it reads; 0 where nothing is put into it.
        out_dim: Size of what it puts out.
        weights: Number of its parameters.
        generation: How many of them the generative model uses.
        inference: How many of them the inference model uses.
        shared: How many of them both use.
    """

    name: str
    function: str
    network: str
    in_dim: int
    out_dim: int
    weights: int
    generation: int
    inference: int
    shared: int

    @property
    def used_by(self) -> str:
        """Who uses it, in words."""
        if self.shared:
            return "both"
        return "generation" if self.generation else "inference" if self.inference else "neither"


class Weights(NamedTuple):
    """Numbers of weights: used by generation, by inference, by both (and so in both numbers), by neither; all."""

    generation: int
    inference: int
    shared: int
    neither: int
    total: int


def count_weights(model: DVAE) -> Weights:
    """How many weights the generative and the inference model use: those that get a gradient from their outputs.

    Example:
        >>> from dvae_lib import VAE
        >>> count_weights(VAE(x_dim=10, z_dim=2, encoder=(8,), decoder=(8,)))
        Weights(generation=204, inference=124, shared=0, neither=0, total=328)
    """
    rows = architecture(model)
    generation, inference, shared, total = (
        sum(getattr(row, name) for row in rows) for name in ("generation", "inference", "shared", "weights")
    )
    return Weights(generation, inference, shared, total - (generation + inference - shared), total)


def architecture(model: DVAE) -> list[Part]:
    """All parts of a model that have weights, in the order in which it declares them.

    Arguments:
        model: Any model, such as one of `dvae_lib.build_model`.

    Returns:
        One row for each part. Every weight of the model is in exactly one of them.

    Example:
        >>> from dvae_lib import build_model
        >>> for part in architecture(build_model("vae", preset="speech")):
        ...     print(part.name, part.in_dim, part.out_dim, part.weights)
        d_x 16 128 2176
        x_head 128 513 66177
        e_z 513 128 65792
        z_head 128 32 4128
    """
    flows = {process: data_flow(model, process) for process in PROCESSES}
    used = {process: _used(model, process) for process in PROCESSES}
    writer = _Writer(model, flows)
    rows = []
    for name, part in _parts(model).items():
        counts = [
            sum(p.numel() for n, p in part.named_parameters() if all(f"{name}.{n}" in used[c] for c in chosen))
            for chosen in NONE_ONE_BOTH
        ]
        in_dim, out_dim = _sizes(part)
        rows.append(Part(name, writer.function(name), writer.network(name), in_dim, out_dim, *counts))
    return rows


def to_markdown(rows: Iterable[Part]) -> str:
    """The table of a model's parts, for a notebook or a page.

    Example:
        >>> from dvae_lib import build_model
        >>> print(to_markdown(architecture(build_model("vae", preset="speech"))).splitlines()[2])
        | `d_x` | $d_{\\mathbf{x}}$ | MLP($\\mathbf{z}_t$, 128, Tanh) | 16 → 128 | 2,176 | generation |
    """
    lines = ["| part | is | network | sizes | weights | used by |", "|---|---|---|---|---:|---|"]
    total = 0
    for row in rows:
        total += row.weights
        sizes = f"{row.in_dim} → {row.out_dim}" if row.in_dim else f"{row.out_dim}"
        function = f"${row.function}$" if row.function else ""
        lines.append(f"| `{row.name}` | {function} | {row.network} | {sizes} | {row.weights:,} | {row.used_by} |")
    return "\n".join([*lines, f"| all | | | | {total:,} | |"])


@torch.enable_grad()
def _used(model: DVAE, process: Process) -> set[str]:
    """The names of the parameters that get a gradient from a process's outputs, the latent vectors given."""
    model = _copy(model)
    outcomes = _outcomes(model, process, _data(model))
    numbers = [values.sum() for values in map(_numbers, outcomes.values()) if values is not None]
    if not numbers:  # a model without latent vectors has no inference
        return set()
    parameters = dict(model.named_parameters())
    gradients = torch.autograd.grad(torch.stack(numbers).sum(), list(parameters.values()), allow_unused=True)
    return {name for name, g in zip(parameters, gradients, strict=True) if g is not None}


def _sizes(part: nn.Module) -> tuple[int, int]:
    """Sizes of input and output."""
    if isinstance(part, GatedTransition):
        return part.linear.in_features, 2 * part.linear.out_features
    if isinstance(part, nn.ParameterDict):
        return 0, sum(p.numel() for p in part.parameters())
    layers = [m for m in part.modules() if isinstance(m, nn.Linear | nn.RNNBase)]
    first, last = layers[0], layers[-1]
    in_dim = first.in_features if isinstance(first, nn.Linear) else first.input_size
    return in_dim, last.out_features if isinstance(last, nn.Linear) else last.hidden_size


@dataclass
class _Writer:
    """What a model's parts are in the review's notation."""

    model: DVAE
    flows: dict[Process, dict[str, Term]]

    def __post_init__(self) -> None:
        self.parts, spec = _parts(self.model), self.model.spec
        self.generated = spec.unroll(FRAMES, "generation", form="developed")
        self.graph = nx.compose(spec.unroll(FRAMES, "inference", form="developed"), self.generated)
        self.terms: dict[str, list[Term]] = {name: [] for name in self.parts}
        self.functions: dict[str, list[str]] = {name: [] for name in self.parts}
        for process, flow in self.flows.items():
            for variable, head in flow.items():
                letter = "e" if process == "inference" else "d"
                self._note(head, rf"{letter}_{{{self.model.spec.symbol(variable)}}}")

    def _note(self, term: Term, function: str) -> None:
        """File a term under its part, with the function whose result it helps to compute."""
        if not term.is_part:
            return
        if _is_recurrent(self.parts[term.name]):
            function = self._recursion(term)
        own = FUNCTIONS.get(term.name, function)
        if term not in self.terms[term.name]:
            self.terms[term.name].append(term)
        if own not in self.functions[term.name]:
            self.functions[term.name].append(own)
        for earlier in term.inputs:
            self._note(earlier, own if term.name == "head_rnn" else function)

    def _recursion(self, term: Term) -> str:
        return rf"{'d' if self._node(term) in self.generated else 'e'}_{{{self.state(term)}}}"

    def state(self, term: Term) -> str:
        """The symbol of a recurrent part's state."""
        name = self._node(term)[0]
        return STATES.get(name, self.model.spec.symbol(name)) if name else r"\cdot"

    def _node(self, term: Term) -> tuple[str, int]:
        """The node of the spec that a recurrent part computes: same parents, same direction in time."""
        graph, t = self.graph, HERE + 1
        parents = {place for source in term.inputs for place in self._places(source, t)}
        last = t + 1 if getattr(self.parts[term.name], "backward", False) else t - 1
        for name, time in graph:
            if time == t and (name, last) in graph.pred[name, t]:
                others = set(graph.pred[name, t]) - {(name, last)}
                if others == parents or self._without_sums(others) == parents:
                    return name, t
        return "", t

    def _without_sums(self, nodes: set[Any]) -> set[Any]:
        """Nodes that only put others side by side, replaced by these."""
        merged = set()
        for node in nodes:
            before = self.graph.pred[node]
            plain = self.graph.nodes[node]["kind"] == "deterministic" and all(n != node[0] for n, _ in before)
            merged |= set(before) if plain else {node}
        return merged

    def _places(self, term: Term, t: int) -> set[tuple[str, int | None]]:
        """The variables and states that a term is a function of, as nodes of the spec."""
        time = None if term.at is None else t + (term.at if isinstance(term.at, int) else 0)
        if not term.is_part:
            return {(term.name, time)}
        if _is_recurrent(self.parts[term.name]):
            return {(self._node(term)[0], time)}
        return {place for source in term.inputs for place in self._places(source, t)}

    def function(self, name: str) -> str:
        """The function of the review that a part is, or belongs to."""
        return FUNCTIONS.get(name) or ", ".join(dict.fromkeys(self.functions[name]))

    def network(self, name: str) -> str:
        """A part in the review's notation, with its arguments."""
        arguments = dict.fromkeys(self.arguments(term) for term in self.terms[name])
        return self._notation(self.parts[name], " or ".join(arguments) or "·")

    def arguments(self, term: Term) -> str:
        """What a part reads, in the review's notation."""
        written = [self.value(source) for source in term.inputs]
        if term.averaged:
            return f"mean of {' and '.join(written)}"
        return written[0] if len(written) == 1 else f"[{', '.join(written)}]"

    def value(self, term: Term) -> str:
        """A value that is read, in the review's notation."""
        if not term.is_part:
            return f"${self.model.spec.symbol(term.name)}{term.index}$"
        if _is_recurrent(self.parts[term.name]):
            return f"${self.state(term)}{term.index}$"
        inside = self.arguments(term)
        if term.name.startswith("phi"):
            return f"${FUNCTIONS[term.name]}({inside.replace('$', '')})$"
        if isinstance(self.parts[term.name], nn.Sequential):
            return f"`{term.name}`"
        return self._notation(self.parts[term.name], inside)

    def _notation(self, part: nn.Module, inside: str) -> str:
        if isinstance(part, GatedTransition):
            return f"GTF({inside}, {part.gate[0].out_features})"
        if isinstance(part, GaussianHead | ObservationHead):
            return f"output layer on {inside}"
        if isinstance(part, nn.ParameterDict):
            return "matrices " + ", ".join(part)
        for layer in part.modules():
            if isinstance(layer, nn.RNNBase):
                direction = ", backward" if getattr(part, "backward", False) else ""
                return f"{type(layer).__name__}({inside}, {layer.hidden_size}){direction}"
        return f"MLP({inside}, {layers(part)})"


def layers(network: nn.Module) -> str:
    """The sizes and activations of a feed-forward network, in the review's notation; I: none.

    Example:
        >>> from dvae_lib.networks import MLP
        >>> layers(MLP(513, [256, 128]))
        '256, Tanh, 128, Tanh'
    """
    written: list[str] = []
    for layer in [network] if isinstance(network, nn.Linear) else network.children():
        if isinstance(layer, nn.Linear):
            written += [str(layer.out_features), "I"]
        else:
            written[-1] = type(layer).__name__
    return ", ".join(written)


# ---------------------------------------------------------------- the drawing


@dataclass
class _Box:
    """A node of the drawing: a circle for a variable, a box for a network, a tag for a distribution."""

    kind: Literal["variable", "network", "tag"]
    lines: list[str]
    colour: str
    fill: str = "white"
    width: float = 0.52

    @property
    def height(self) -> float:
        """In inches."""
        return 0.52 if self.kind == "variable" else 0.14 + sum(map(self.line_height, self.lines))

    @staticmethod
    def line_height(line: str) -> float:
        """In inches; a symbol may carry an arrow."""
        return 0.25 if "$" in line else 0.18


@dataclass
class _Drawing:
    """The boxes of a model, and the arrows between them."""

    model: DVAE
    boxes: dict[Any, _Box] = field(default_factory=dict)
    arrows: dict[tuple[Any, Any], tuple[str, bool]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        flows = {process: data_flow(self.model, process) for process in PROCESSES}
        self.writer, self.parts = _Writer(self.model, flows), _parts(self.model)
        names = [{t.name for head in flow.values() for t in head.all() if t.is_part} for flow in flows.values()]
        self.shared = names[0] & names[1]
        self.process: Process
        for self.process in reversed(PROCESSES):
            for variable, head in flows[self.process].items():
                box = self.add(head)
                if self.process == "inference":
                    at = 0 if self.model.spec.is_framewise(variable) else None
                    self.arrows[box, self.add(Term(variable, at=at))] = ("", True)
                    continue
                index = "_t" if self.model.spec.is_framewise(variable) else ""
                text = rf"$p({self.model.spec.symbol(variable)}{index} \mid \cdot)$"
                self.boxes["tag", variable] = _Box("tag", [text], self._colour(variable), width=0.85)
                self.arrows[box, ("tag", variable)] = ("", False)

    def _colour(self, variable: str) -> str:
        return COLOURS[self.model.spec.kind(variable)]

    def add(self, term: Term) -> Any:
        """The key of a term's box, which is made, with all that leads to it, where it is not there yet."""
        symbol = self.model.spec.symbol
        if not term.is_part:
            key: Any = (term.name, term.at, self.process if term.at not in (0, None) else "")
            fill = "#D5D9DF" if self.model.spec.kind(term.name) in ("observed", "input") else "white"
            text = [f"${symbol(term.name)}{term.index}$"]
            width = 0.72 if isinstance(term.at, str) else 0.56
            self.boxes.setdefault(key, _Box("variable", text, self._colour(term.name), fill, width))
            return key
        part = self.parts[term.name]
        if _is_recurrent(part) and isinstance(term.at, int) and term.at != 0:  # a state of another frame
            key = ("state", term.name, term.at)
            text = [f"${self.writer.state(term)}{term.index}$"]
            self.boxes.setdefault(key, _Box("variable", text, COLOURS["deterministic"], width=0.62))
            return key
        key = ("part", term.name) if _is_recurrent(part) else replace(term, at=0)
        if key in self.boxes:
            return key
        body = term.inputs[0] if len(term.inputs) == 1 else None
        is_head = isinstance(part, GaussianHead | ObservationHead)
        if is_head and body is not None and isinstance(self.parts.get(body.name), nn.Sequential):
            reads, kind = body, self._kind(body.name)  # a network and its output layer are one box
        else:
            reads, kind = term, self._kind(term.name)
        in_dim, out_dim = _sizes(self.parts[reads.name])[0], _sizes(part)[1]
        sizes = f"{in_dim} → {out_dim}" if in_dim else f"{out_dim} numbers"
        recurrent, fill = _is_recurrent(part), "#E3E6EA" if term.name in self.shared else "white"
        symbol_of = rf"{self.writer.state(term)}_t" if recurrent else self.writer.function(term.name)
        symbol_of = symbol_of.replace("}^{", r"}\,{}^{")  # beside the arrow, not on it
        named = recurrent or is_head or isinstance(part, GatedTransition) or self.is_named(term.name)
        lines = [*([f"${symbol_of}$"] if named else []), *kind, sizes]
        width = 0.2 + 0.078 * max(len(line) for line in lines if "$" not in line)
        self.boxes[key] = _Box("network", lines, COLOURS["deterministic" if recurrent else "exact"], fill, width)
        for source in reads.inputs:
            label = f"${source.at}$" if source.is_part and isinstance(source.at, str) else ""
            self.arrows[self.add(source), key] = (label, False)
        return key

    def is_named(self, name: str) -> bool:
        """Whether a part is a function of the review by itself: not one of the layers before a recursion."""
        recursions = [self.writer.functions[k] for k, part in self.parts.items() if _is_recurrent(part)]
        return name in FUNCTIONS or self.writer.functions[name] not in recursions

    def _kind(self, name: str) -> list[str]:
        """What a network is, in a word or two."""
        part = self.parts[name]
        for layer in part.modules():
            if isinstance(layer, nn.RNNBase):
                word = type(layer).__name__
                return [f"← {word}" if getattr(part, "backward", False) else f"{word} →"]
        if isinstance(part, GatedTransition):
            return ["gated"]
        if isinstance(part, GaussianHead | ObservationHead):
            return ["output layer"]
        if isinstance(part, nn.ParameterDict):
            return ["linear"]
        sizes = [str(m.out_features) for m in part.modules() if isinstance(m, nn.Linear)]
        lines = [", ".join(sizes[i : i + 2]) for i in range(0, len(sizes), 2)]
        return [f"MLP {lines[0]}" + ("," if lines[1:] else ""), *lines[1:]]


def draw_architecture(model: DVAE, *, gap: float = 0.34) -> Figure:
    """The networks of a model and what flows between them, in the manner of the review's Figure 13.1.

    From top to bottom: observations, inference networks, latent vectors, generative networks, distributions. Boxes
    show the review's function, the network and the sizes of its input and output; grey ones serve both directions.
    Green ones are recurrent, with the direction of time. A broken arrow is a random draw.

    Arguments:
        model: Any model.
        gap: Space between layers, in inches.

    Returns:
        The figure.
    """
    drawing = _Drawing(model)
    boxes, levels = drawing.boxes, _levels(drawing.boxes, drawing.arrows)
    rows, chains = _rows(levels, list(drawing.arrows))
    widths = {key: boxes[key].width if key in boxes else 0.16 for row in rows for key in row}
    across = _across(rows, chains, widths)
    down: dict[Any, float] = {}
    tall: dict[Any, float] = {}
    y = 0.0
    for row in rows:
        height = max(boxes[key].height for key in row if key in boxes)
        down |= dict.fromkeys(row, y - height / 2)
        tall |= dict.fromkeys(row, height / 2)
        y -= height + gap
    y += gap - 0.1
    left = min(across[k] - widths[k] / 2 for k in across) - 0.1
    right = max(across[k] + widths[k] / 2 for k in across) + 0.1
    figure, axes = plt.subplots(figsize=(right - left, 0.1 - y), layout="none")
    axes.set_position((0, 0, 1, 1))
    axes.set(xlim=(left, right), ylim=(y, 0.1))
    axes.axis("off")
    for (start, end), chain in chains.items():
        way = [(across[start], down[start] - boxes[start].height / 2)]
        for point in chain[1:-1]:  # straight down between the boxes of a row
            way += [(across[point], down[point] + tall[point]), (across[point], down[point] - tall[point])]
        way.append((across[end], down[end] + boxes[end].height / 2 + 0.03))
        label, broken = drawing.arrows[start, end]
        _arrow(axes, way, label=label, broken=broken)
    for key, box in boxes.items():
        _box(axes, across[key], down[key], box)
    plt.close(figure)
    return figure


def _levels(nodes: Iterable[Any], arrows: Iterable[tuple[Any, Any]]) -> dict[Any, int]:
    """The row of each node: as low as those that it leads to allow."""
    graph = nx.DiGraph(list(arrows))
    graph.add_nodes_from(nodes)
    to_end: dict[Any, int] = {}
    for node in reversed(list(nx.lexicographical_topological_sort(graph, key=str))):
        to_end[node] = 1 + max((to_end[child] for child in graph.succ[node]), default=-1)
    last = max(to_end.values())
    return {node: last - steps for node, steps in to_end.items()}


def _rows(
    levels: dict[Any, int], arrows: list[tuple[Any, Any]]
) -> tuple[list[list[Any]], dict[tuple[Any, Any], list[Any]]]:
    """The nodes row by row, in an order with few crossings; and each arrow's way, by a point in every row between."""
    chains = {(a, b): [a, *((a, b, level) for level in range(levels[a] + 1, levels[b])), b] for a, b in arrows}
    rows: list[list[Any]] = [[] for _ in range(max(levels.values()) + 1)]
    for node, level in levels.items():
        rows[level].append(node)
    for (a, _), chain in chains.items():
        for step, point in enumerate(chain[1:-1], start=1):
            rows[levels[a] + step].append(point)
    links = [pair for chain in chains.values() for pair in pairwise(chain)]
    before: dict[Any, list[Any]] = {}
    after: dict[Any, list[Any]] = {}
    for a, b in links:
        after.setdefault(a, []).append(b)
        before.setdefault(b, []).append(a)
    best, least = [list(row) for row in rows], _crossings(rows, links)
    for sweep in range(24):
        place = {key: i / max(len(row) - 1, 1) for row in rows for i, key in enumerate(row)}
        near, order = (before, rows) if sweep % 2 == 0 else (after, rows[::-1])
        for row in order:
            row.sort(key=lambda k: sum(place[n] for n in near[k]) / len(near[k]) if k in near else place[k])
            place |= {key: i / max(len(row) - 1, 1) for i, key in enumerate(row)}
        if (crossings := _crossings(rows, links)) < least:
            best, least = [list(row) for row in rows], crossings
    return best, chains


def _crossings(rows: list[list[Any]], links: list[tuple[Any, Any]]) -> int:
    place = {key: (level, i) for level, row in enumerate(rows) for i, key in enumerate(row)}
    count = 0
    for (a, b), (c, d) in combinations(links, 2):
        if place[a][0] == place[c][0]:
            count += (place[a][1] - place[c][1]) * (place[b][1] - place[d][1]) < 0
    return count


def _across(
    rows: list[list[Any]], chains: dict[tuple[Any, Any], list[Any]], widths: dict[Any, float]
) -> dict[Any, float]:
    """Places from left to right: every node near its neighbours, none on another."""
    near: dict[Any, list[Any]] = {key: [] for key in widths}
    for chain in chains.values():
        for a, b in pairwise(chain):
            near[a].append(b)
            near[b].append(a)
    across = {key: float(i) for row in rows for i, key in enumerate(row)}
    for sweep in range(60):
        for row in rows if sweep % 2 == 0 else rows[::-1]:
            wanted = [sum(across[n] for n in near[k]) / len(near[k]) for k in row]
            gaps = [(widths[a] + widths[b]) / 2 + 0.18 for a, b in pairwise(row)]
            across |= dict(zip(row, _spread(wanted, gaps), strict=True))
    return across


def _spread(wanted: Sequence[float], gaps: Sequence[float]) -> list[float]:
    """The places nearest to the wanted ones that keep the gaps, by pooling neighbours that are too close.

    Example:
        >>> _spread([0.0, 0.0, 9.0], [1.0, 1.0])
        [-0.5, 0.5, 9.0]
    """
    offsets = [sum(gaps[:i]) for i in range(len(wanted))]
    pools: list[list[float]] = []
    for place, offset in zip(wanted, offsets, strict=True):
        pools.append([place - offset])
        while len(pools) > 1 and sum(pools[-2]) / len(pools[-2]) > sum(pools[-1]) / len(pools[-1]):
            pools[-2:] = [pools[-2] + pools[-1]]
    level = [sum(pool) / len(pool) for pool in pools for _ in pool]
    return [a + b for a, b in zip(level, offsets, strict=True)]


def _arrow(axes: Axes, points: list[tuple[float, float]], *, label: str, broken: bool) -> None:
    """A smooth line through points one below the other, with a head at its end."""
    way, codes = [points[0]], [Path.MOVETO]
    for (xa, ya), (xb, yb) in pairwise(points):
        way += [(xa, (ya + yb) / 2), (xb, (ya + yb) / 2), (xb, yb)]
        codes += [Path.CURVE4] * 3
    colour = COLOURS["latent"] if broken else "#4A515C"
    line = (0, (4, 2)) if broken else "solid"
    axes.add_patch(PathPatch(Path(way, codes), fc="none", ec=colour, lw=1.2, ls=line, zorder=1))
    x, y = points[-1]
    axes.fill((x - 0.045, x + 0.045, x), (y + 0.07, y + 0.07, y - 0.03), color=colour, lw=0, zorder=2)
    if label:
        (xa, ya), (xb, yb) = points[:2]
        place = (0.7 * xa + 0.3 * xb, 0.6 * ya + 0.4 * yb)
        axes.text(*place, label, fontsize=9.5, ha="center", va="center", backgroundcolor=CARD, zorder=2)


def _box(axes: Axes, x: float, y: float, box: _Box) -> None:
    width, height = box.width, box.height
    options: dict[str, Any] = {"facecolor": box.fill, "edgecolor": box.colour, "lw": 1.5, "zorder": 3}
    if box.kind == "variable":
        axes.add_patch(Ellipse((x, y), width, height, **options))
    else:
        style = f"round,pad=0,rounding_size={0.05 if box.kind == 'network' else height / 2}"
        axes.add_patch(FancyBboxPatch((x - width / 2, y - height / 2), width, height, boxstyle=style, **options))
    top = y + sum(map(box.line_height, box.lines)) / 2
    for line in box.lines:
        high = box.line_height(line)
        axes.text(x, top - high / 2, line, ha="center", va="center", fontsize=11 if "$" in line else 9, zorder=4)
        top -= high
