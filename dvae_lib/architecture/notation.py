"""The networks of a model in the review's notation: which of its functions each is, and what it is put to."""

from dataclasses import dataclass
from typing import Any

import networkx as nx
from torch import nn

from dvae_lib.architecture.flow import FRAMES, HERE, Process, Term, is_matrices, is_recurrent, parts_of
from dvae_lib.models.base import DVAE
from dvae_lib.networks import GatedTransition, GaussianHead, InternalState, LocallyLinear, Memory, ObservationHead

__all__ = ["Notation", "layers", "sizes_of"]


@dataclass
class Notation:
    """What a model's parts are in the review's notation."""

    model: DVAE
    flows: dict[Process, dict[str, Term]]

    def __post_init__(self) -> None:
        self.parts, spec = parts_of(self.model), self.model.spec
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
        if is_recurrent(self.parts[term.name]):
            function = self.named(term.name) or self._recursion(term)
        own = self.named(term.name) or function
        if term not in self.terms[term.name]:
            self.terms[term.name].append(term)
        if own not in self.functions[term.name]:
            self.functions[term.name].append(own)
        for earlier in term.inputs:
            self._note(earlier, function)

    def named(self, name: str) -> str | None:
        """The function that a part is by its name alone: features of a variable (`phi_x`), or as the model says."""
        variable = name.removeprefix("phi_")
        if variable != name and variable in self.model.spec.variables:
            return rf"\varphi_{{{self.model.spec.symbol(variable)}}}"
        return self.model.functions.get(name)

    def _recursion(self, term: Term) -> str:
        return rf"{'d' if self._node(term) in self.generated else 'e'}_{{{self.state(term)}}}"

    def state(self, term: Term) -> str:
        """The symbol of a recurrent part's state."""
        name = self._node(term)[0]
        return self.model.spec.symbol(name) if name else r"\cdot"

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
            # A memory that looks at its past inputs directly: they are the node's parents.
            direct = time == t and self.graph.nodes[name, time]["kind"] == "deterministic"
            if direct and isinstance(self.parts[term.name], Memory) and parents <= set(self.graph.pred[name, t]):
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
        if is_recurrent(self.parts[term.name]):
            return {(self._node(term)[0], time)}
        return {place for source in term.inputs for place in self._places(source, t)}

    def function(self, name: str) -> str:
        """The function of the review that a part is, or belongs to."""
        return self.named(name) or ", ".join(dict.fromkeys(self.functions[name]))

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
        if is_recurrent(self.parts[term.name]):
            return f"${self.state(term)}{term.index}$"
        inside = self.arguments(term)
        if term.name.startswith("phi_"):
            return f"${self.named(term.name)}({inside.replace('$', '')})$"
        if isinstance(self.parts[term.name], nn.Sequential):
            return f"`{term.name}`"
        return self._notation(self.parts[term.name], inside)

    def _notation(self, part: nn.Module, inside: str) -> str:
        if isinstance(part, GatedTransition):
            return f"GTF({inside}, {part.gate[0].out_features})"
        if isinstance(part, LocallyLinear):
            return f"mixture of {len(part.A)} linear transitions, driven by {inside}"
        if isinstance(part, GaussianHead | ObservationHead):
            return f"output layer on {inside}"
        if isinstance(part, Memory) and not isinstance(part, InternalState):
            return f"{type(part).__name__}({inside}, {part.out_dim})"
        if is_matrices(part):
            return "matrices " + ", ".join(name for name, _ in part.named_parameters())
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
    for layer in network.modules():  # also of those within
        if isinstance(layer, nn.Sequential) or next(layer.children(), None) is not None:
            continue
        if isinstance(layer, nn.Linear):
            written += [str(layer.out_features), "I"]
        else:
            written[-1] = type(layer).__name__
    return ", ".join(written)


def sizes_of(part: nn.Module) -> tuple[int, int]:
    """Sizes of input and output."""
    if isinstance(part, GatedTransition):
        return part.linear.in_features, 2 * part.linear.out_features
    if isinstance(part, LocallyLinear):
        return part.u_dim + part.w_dim, part.out_dim
    if isinstance(part, Memory):
        return part.in_dim or 1, part.out_dim
    if is_matrices(part):
        return 0, sum(p.numel() for p in part.parameters())
    layers = [m for m in part.modules() if isinstance(m, nn.Linear | nn.RNNBase)]
    first, last = layers[0], layers[-1]
    in_dim = first.in_features if isinstance(first, nn.Linear) else first.input_size
    return in_dim, last.out_features if isinstance(last, nn.Linear) else last.hidden_size
