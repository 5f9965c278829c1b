"""What the two blocks of a spec say: the variables, their kinds and parents, and the graph over a sequence.

Everything else about a spec follows from this: it is checked here, where it is read, and unrolled here.
"""

from collections.abc import Iterable, Mapping
from functools import cached_property, lru_cache
from typing import Literal

import networkx as nx

from dvae_lib.graphs.language import (
    Form,
    Process,
    Reference,
    SpecError,
    Statement,
    check_choice,
    check_references,
    parse_block,
)
from dvae_lib.graphs.ranges import Node, NodeSets, name_sets
from dvae_lib.graphs.separation import node_label
from dvae_lib.graphs.unfolding import without_deterministic

__all__ = ["Kind", "Structure", "read"]

Kind = Literal["latent", "observed", "deterministic", "input"]


class Structure:
    """The statements of a spec, checked, and the graphs that they unroll to.

    Arguments:
        generation: The lines of the generative model.
        inference: The lines of the inference model; empty where there is none.
        observed: The names of the data.
        inputs: The names of the external inputs.

    Raises:
        SpecError: Where the blocks are not of the language or contradict each other; see `DependencySpec`.
    """

    def __init__(self, generation: str, inference: str, observed: tuple[str, ...], inputs: tuple[str, ...]) -> None:
        self._texts: dict[Process, str] = {"generation": generation, "inference": inference}
        self.observed, self.inputs = observed, inputs
        generated, inferred = parse_block(generation, "generation"), parse_block(inference, "inference")
        self.generation: dict[str, Statement] = {s.name: s for s in generated}
        self.inference: dict[str, Statement] = {s.name: s for s in inferred}
        self.framewise = {s.name: s.framewise for s in generated} | self._input_kinds()
        check_references(generated, self.framewise, "generation", generation)
        self._check_observed()
        self._check_inputs()
        self._check_inferred()
        self.framewise |= {s.name: s.framewise for s in inferred}
        check_references(inferred, self.framewise, "inference", inference)
        self._check_acyclic("generation")
        self._check_acyclic("inference")

    def __reduce__(self) -> tuple[object, ...]:
        # Copies and what comes out of a pickle are the one that `read` keeps, with the graphs it has unrolled.
        return read, (self._texts["generation"], self._texts["inference"], self.observed, self.inputs)

    # ---- the variables -----------------------------------------------------------------------------------------

    @cached_property
    def latents(self) -> tuple[str, ...]:
        """The latent variables, in the order of the inference block."""
        statements = self.inference or self.generation
        return tuple(s.name for s in statements.values() if s.random and s.name not in self.observed)

    @cached_property
    def used_inputs(self) -> tuple[str, ...]:
        """The external inputs that some line names."""
        named = {p.name for s in (*self.generation.values(), *self.inference.values()) for p in s.parents}
        return tuple(name for name in self.inputs if name in named)

    @cached_property
    def shared(self) -> tuple[str, ...]:
        """The deterministic states of the generative model that inference uses too."""
        return tuple(name for name in self.statements("inference") if name not in self.inference)

    @cached_property
    def kinds(self) -> dict[str, Kind]:
        """What each variable is."""

        def kind(name: str) -> Kind:
            if name in self.observed:
                return "observed"
            if name in self.inputs:
                return "input"
            statement = self.generation.get(name) or self.inference[name]
            return "latent" if statement.random else "deterministic"

        return {name: kind(name) for name in self.framewise}

    def key(self, name: str) -> str:
        """A variable at the current frame, as written: ``z_t`` or ``v``."""
        return f"{name}_t" if self.framewise[name] else name

    def node(self, name: str, t: int) -> Node:
        """A variable at frame ``t``, as a node of the unrolled graphs: ``("z", 3)`` or ``("v", None)``."""
        return (name, t if self.framewise[name] else None)

    def frames(self, name: str, num_steps: int) -> list[int | None]:
        """The frames at which a variable stands: 1 to T, or none for a variable of the whole sequence."""
        return [*range(1, num_steps + 1)] if self.framewise[name] else [None]

    def statements(self, process: Process) -> dict[str, Statement]:
        """The lines that a process needs; for inference with the shared states, and what those need."""
        return self.generation if process == "generation" else self._inference_with_shared

    @cached_property
    def _inference_with_shared(self) -> dict[str, Statement]:
        needed: dict[str, Statement] = {}
        stack = list(self.inference.values())
        while stack:
            statement = stack.pop()
            needed[statement.name] = statement
            for parent in statement.parents:
                shared = self.generation.get(parent.name)
                if shared and not shared.random and parent.name not in needed:
                    stack.append(shared)
        order = [*self.generation, *self.inference]
        return dict(sorted(needed.items(), key=lambda item: order.index(item[0])))

    def random(self, process: Process) -> list[str]:
        """The random variables of a process, in the order of its block."""
        return [s.name for s in self.statements(process).values() if s.random]

    # ---- the graphs --------------------------------------------------------------------------------------------

    def unroll(self, num_steps: int, process: Process = "generation", form: Form = "compact") -> "nx.DiGraph":
        """The graph over all frames of a sequence; see `DependencySpec.unroll`."""
        check_choice(process, "process", ("generation", "inference"))
        check_choice(form, "form", ("compact", "developed"))
        if num_steps < 1:
            raise ValueError(f"num_steps must be at least 1, not {num_steps}")
        return _unrolled(self, num_steps, process, form)

    def developed(self, num_steps: int, process: Process) -> "nx.DiGraph":
        """The graph over all frames, with the deterministic states."""
        graph = nx.DiGraph()
        statements = self.statements(process)
        names = [*statements] if process == "generation" else [*self.observed, *statements]
        for name in (*self.used_inputs, *names):
            graph.add_nodes_from(((name, t) for t in self.frames(name, num_steps)), kind=self.kinds[name])
        for statement in statements.values():
            for t in self.frames(statement.name, num_steps):
                for parent in statement.parents:
                    for time in parent.times(t, num_steps):
                        graph.add_edge((parent.name, time), (statement.name, t))
        return graph

    @cached_property
    def reach(self) -> int:
        """How many frames a dependency can span besides ranges: there and back through every variable once."""

        def longest(statement: Statement) -> int:
            ends = [end for p in statement.parents for end in (p.first, p.last) if end is not None]
            return max((abs(end.offset) for end in ends), default=0)

        processes: tuple[Process, ...] = ("generation", "inference")
        spans = [sum(map(longest, self.statements(process).values())) for process in processes]
        return 2 * max(spans) + 2

    def interior(self) -> tuple[int, int]:
        """A length T and a frame t so far from both ends that every pattern of dependencies shows there."""
        return 2 * self.reach + 1, self.reach + 1

    # ---- sets of parents, by name ------------------------------------------------------------------------------

    def named(self, sets: NodeSets) -> dict[str, tuple[Reference, ...]]:
        """Name sets of nodes, and order them as formulas do: own past, other latents, data, inputs."""
        latents = sorted(self.latents, key=lambda name: not self.framewise[name])
        ranks = [*latents, *self.observed, *self.inputs]

        def ordered(name: str, references: Iterable[Reference]) -> tuple[Reference, ...]:
            names = [name, *ranks]
            return tuple(sorted(references, key=lambda reference: names.index(reference.name)))

        return {
            name: ordered(name, references) for name, references in name_sets(sets, self.reach, self.framewise).items()
        }

    def compact(self, process: Process) -> dict[str, tuple[Reference, ...]]:
        """The parents of each random variable, by name, once the deterministic states are eliminated."""
        check_choice(process, "process", ("generation", "inference"))

        def parents(t: int, num_steps: int) -> Mapping[str, Iterable[Node]]:
            graph = self.unroll(num_steps, process)
            return {name: graph.pred[self.node(name, t)] for name in self.random(process)}

        return self.named(parents)

    # ---- checks ------------------------------------------------------------------------------------------------

    def _input_kinds(self) -> dict[str, bool]:
        """Whether each external input has a value per frame: unless all lines name it without an index."""
        statements = (*self.generation.values(), *self.inference.values())
        named = {n: [p for s in statements for p in s.parents if p.name == n] for n in self.inputs}
        return {name: not uses or any(p.first is not None for p in uses) for name, uses in named.items()}

    def _error(self, message: str, block: Process, place: Statement | Reference) -> SpecError:
        lines = self._texts[block].removeprefix("\n").split("\n")
        return SpecError(message, block, lines[place.line - 1].rstrip(), place.line, place.column)

    def _check_observed(self) -> None:
        for name in self.observed:
            if name not in self.generation or not self.generation[name].random:
                raise SpecError(
                    f"the observed variable {name!r} needs a line '{name}_t ~ ...'. If the data have another name, "
                    "pass observed=(...)",
                    "generation",
                )

    def _check_inputs(self) -> None:
        blocks: tuple[tuple[Process, dict[str, Statement]], ...] = (
            ("generation", self.generation),
            ("inference", self.inference),
        )
        for block, statements in blocks:
            for name in self.inputs:
                if name in statements:
                    message = f"{name} is an external input and has no line of its own"
                    raise self._error(message, block, statements[name])

    def _check_inferred(self) -> None:
        """Inference has a line for each latent variable, and random lines for no others."""
        latents = {s.name: s for s in self.generation.values() if s.random and s.name not in self.observed}
        for s in self.inference.values():
            if s.random and s.name not in latents:
                known = f"The latent variables are {', '.join(latents)}" if latents else "It has none"
                raise self._error(f"{s.name} is not a latent variable of the generative model. {known}", "inference", s)
            if not s.random and s.name in self.generation:
                raise self._error(
                    f"{s.name} is already defined by generation. Inference shares it: use it without a line here, "
                    "or give the inference model's own state another name",
                    "inference",
                    s,
                )
            if s.random and s.framewise != latents[s.name].framewise:
                raise self._error(f"{s.key} here, but {latents[s.name].key} in generation", "inference", s)
        lacking = [name for name in latents if name not in self.inference]
        if self.inference and lacking:
            raise SpecError(
                f"no line infers {', '.join(lacking)}: inference needs '{latents[lacking[0]].key} ~ ...'", "inference"
            )

    def _check_acyclic(self, process: Process) -> None:
        # A cycle may have to run forward and back before it closes: leave it room.
        graph = self.developed(self.interior()[0], process)
        # Linear in the graph; the search for a cycle to show is not, where there is none.
        if nx.is_directed_acyclic_graph(graph):
            return
        cycle = nx.find_cycle(graph)
        shown = " <- ".join(node_label(node) for node in (*(edge[1] for edge in reversed(cycle)), cycle[-1][1]))
        (parent, _), (child, _) = cycle[0]
        statement = self.statements(process)[child]
        place = next(p for p in statement.parents if p.name == parent)
        raise self._error(
            f"a cycle in the unrolled graph of {process}: {shown}. No variable can be an ancestor of itself",
            "inference" if child in self.inference and process == "inference" else "generation",
            place,
        )


@lru_cache(maxsize=256)
def read(generation: str, inference: str, observed: tuple[str, ...], inputs: tuple[str, ...]) -> Structure:
    """The structure that two blocks describe; equal blocks share one, and the graphs that it has unrolled."""
    return Structure(generation, inference, observed, inputs)


@lru_cache(maxsize=256)
def _unrolled(structure: Structure, num_steps: int, process: Process, form: Form) -> "nx.DiGraph":
    """Kept, because all that follows from a spec asks for the same few graphs again and again."""
    graph = structure.developed(num_steps, process)
    return nx.freeze(graph if form == "developed" else without_deterministic(graph))
