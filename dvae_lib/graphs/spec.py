"""One spec per model: who depends on whom, stated once, and everything that follows from it.

A `DependencySpec` holds a model's generative and inference equations in developed form. From it come the compact
form (Appendix A of the review), the structure of the exact posterior (Section 4.2.1), what the inference model
lacks of it, the factorisations and the bound in LaTeX, and the figures.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Literal, NamedTuple

import networkx as nx

from dvae_lib.graphs import formulas
from dvae_lib.graphs.chain_rule import ChainRule
from dvae_lib.graphs.language import (
    Form,
    Index,
    Process,
    Reference,
    SpecError,
    Statement,
    check_references,
    parse_block,
)
from dvae_lib.graphs.ranges import Node, NodeSets, name_sets
from dvae_lib.graphs.separation import moral_boundary, node_label
from dvae_lib.graphs.unfolding import without_deterministic

if TYPE_CHECKING:
    import matplotlib.figure

__all__ = ["DependencySpec", "Gap"]

Direction = Literal["forward", "backward"]


class Gap(NamedTuple):
    """How an inference model differs from the exact posterior, for one latent variable.

    Arguments:
        missing: what the exact posterior conditions on and the inference model does not (golden arrows).
        extra: what the inference model conditions on although, given what the exact posterior conditions on, it
            tells nothing more (silver arrows).
    """

    missing: frozenset[str]
    extra: frozenset[str]


def _choice(value: str, name: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be {' or '.join(map(repr, allowed))}, not {value!r}.")


@dataclass(frozen=True)
class DependencySpec:
    r"""The dependencies of a dynamical VAE, in the review's notation.

    ``<-`` marks a deterministic state, ``~`` a random variable. An index is ``1``, ``T``, ``t``, ``t-k``, ``t+k`` or
    a range between two of them; a variable without index belongs to the whole sequence. An empty right side
    (``z_t ~``) is a prior without parents. Parents outside 1..T drop out. The inference block may use the
    deterministic states that the generation block defines. The order in which it lists the latent variables is
    the order of the chain rule.

    Arguments:
        generation: one line a variable, with all observed and latent variables.
        inference: one line a variable, with all latent variables; empty for a model without inference.
        observed: the names of the data.
        inputs: the names of external inputs, which have no line of their own.
        symbols: LaTeX of variables for which the default (bold name; ``_fwd`` and ``_bwd`` become arrows) does
            not do.

    Raises:
        SpecError: where a line is not of the language, names an unknown variable, or closes a cycle in the
            unrolled graph; also if a latent variable has no inference, or inference defines what is none.

    >>> spec = DependencySpec(
    ...     generation='''
    ...         z_t ~ z_{t-1}    # (3.10)
    ...         x_t ~ z_t        # (3.12)
    ...     ''',
    ...     inference='''
    ...         g_t <- x_t, g_{t+1}
    ...         z_t ~ z_{t-1}, g_t
    ...     ''',
    ... )
    >>> sorted(spec.exact_posterior()["z_t"])
    ['x_{t:T}', 'z_{t-1}']
    >>> spec.inference_gap()["z_t"]
    Gap(missing=frozenset(), extra=frozenset())
    """

    generation: str
    inference: str = ""
    observed: tuple[str, ...] = ("x",)
    inputs: tuple[str, ...] = ("u",)
    symbols: Mapping[str, str] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        generation = parse_block(self.generation, "generation")
        inference = parse_block(self.inference, "inference")
        inputs = self._input_kinds((*generation, *inference))
        own = {s.name: s.framewise for s in generation} | inputs
        check_references(generation, own, "generation", self.generation)
        self._check_names(generation, inference)
        own |= {s.name: s.framewise for s in inference}
        check_references(inference, own, "inference", self.inference)
        object.__setattr__(self, "_generation", {s.name: s for s in generation})
        object.__setattr__(self, "_inference", {s.name: s for s in inference})
        object.__setattr__(self, "_framewise", own)
        self._check_acyclic("generation")
        self._check_acyclic("inference")

    _generation: dict[str, Statement] = field(init=False, repr=False, compare=False)
    _inference: dict[str, Statement] = field(init=False, repr=False, compare=False)
    _framewise: dict[str, bool] = field(init=False, repr=False, compare=False)

    # ---- what the blocks say -----------------------------------------------------------------------------------

    @property
    def latents(self) -> tuple[str, ...]:
        """The latent variables, in the order of the chain rule: that of the inference block."""
        statements = self._inference or self._generation
        return tuple(s.name for s in statements.values() if s.random and s.name not in self.observed)

    @cached_property
    def used_inputs(self) -> tuple[str, ...]:
        """The external inputs that some line names; empty for an undriven model."""
        named = {p.name for s in (*self._generation.values(), *self._inference.values()) for p in s.parents}
        return tuple(name for name in self.inputs if name in named)

    @cached_property
    def shared(self) -> tuple[str, ...]:
        """The deterministic states of the generative model that inference uses too."""
        return tuple(name for name in self._statements("inference") if name not in self._inference)

    def kind(self, name: str) -> Literal["latent", "observed", "deterministic", "input"]:
        """What a variable is.

        Raises:
            ValueError: if the spec has no such variable.
        """
        if name not in self._framewise:
            raise ValueError(f"the spec has no variable {name!r}; it has {', '.join(self._framewise)}.")
        if name in self.observed:
            return "observed"
        if name in self.inputs:
            return "input"
        statement = self._generation.get(name) or self._inference[name]
        return "latent" if statement.random else "deterministic"

    def is_framewise(self, name: str) -> bool:
        """Whether a variable has one value per frame, rather than one per sequence."""
        self.kind(name)
        return self._framewise[name]

    def undriven(self) -> "DependencySpec":
        """The same model without its external inputs."""

        def without_inputs(block: dict[str, Statement]) -> list[Statement]:
            return [
                replace(s, parents=tuple(p for p in s.parents if p.name not in self.inputs)) for s in block.values()
            ]

        return self._with(without_inputs(self._generation), without_inputs(self._inference), self.symbols)

    def generation_mode(self) -> "DependencySpec":
        """The same model fed with its own output: past x in the generative equations becomes the model's mean of x.

        With teacher forcing, x_{t-1} on a right side is the true frame; in generation mode (Section 4.4.1) it is a
        function of the parents of x_{t-1}. A predictive model so becomes p(x_t | z_{1:t}) p(z_t | z_{1:t-1}).
        Inference stays on the true data, with its own pass of the shared states.

        Returns:
            a spec with one more deterministic variable per observed one, named ``xhat``.
        """
        fed_back = {name: f"{name}hat" for name in self.observed}
        taken = sorted(set(fed_back.values()) & set(self._framewise))
        if taken:
            raise ValueError(f"generation mode needs the name {taken[0]!r}, which the spec already uses.")

        def on_output(parent: Reference) -> Reference:
            return Reference(fed_back.get(parent.name, parent.name), parent.first, parent.last)

        own_pass = {name: f"{name}_true" for name in self.shared}

        def on_data(parent: Reference) -> Reference:
            return Reference(own_pass.get(parent.name, parent.name), parent.first, parent.last)

        generation = [
            Statement(s.name, s.framewise, s.random, tuple(map(on_output, s.parents)))
            for s in self._generation.values()
        ]
        generation += [
            Statement(fed_back[s.name], s.framewise, False, s.parents) for s in generation if s.name in fed_back
        ]
        shared = [self._generation[name] for name in self.shared]
        inference = [
            Statement(own_pass.get(s.name, s.name), s.framewise, s.random, tuple(map(on_data, s.parents)))
            for s in (*shared, *self._inference.values())
        ]
        symbols = {fed_back[name]: rf"\hat{{{self.symbol(name)}}}" for name in self.observed}
        symbols |= {own_pass[name]: self.symbol(name) for name in self.shared}
        return self._with(generation, inference, {**self.symbols, **symbols})

    def symbol(self, name: str) -> str:
        """LaTeX of a variable without its index: ``\\overrightarrow{\\mathbf{g}}^{\\mathbf{z}}`` for ``gz_fwd``."""
        return self.symbols.get(name) or formulas.default_symbol(name)

    # ---- graphs ------------------------------------------------------------------------------------------------

    def unroll(self, num_steps: int, process: Process = "generation", form: Form = "compact") -> "nx.DiGraph":
        """The graph over all frames of a sequence.

        Arguments:
            num_steps: T.
            process: ``"generation"``, or ``"inference"``: there, data and inputs have no parents.
            form: ``"compact"``, with random variables only, or ``"developed"``, with deterministic states too.

        Returns:
            an acyclic graph with nodes ``("z", 3)``, or ``("v", None)`` for variables of the whole sequence. The
            node attribute ``kind`` is ``"latent"``, ``"observed"``, ``"deterministic"`` or ``"input"``. The graph is
            frozen; take a ``copy()`` to change it.

        Raises:
            ValueError: if ``num_steps`` is below 1, or ``process`` or ``form`` is none of the above.

        >>> spec = DependencySpec("h_t <- x_{t-1}, h_{t-1}" "\\n" "x_t ~ h_t")
        >>> sorted(spec.unroll(3).predecessors(("x", 3)))
        [('x', 1), ('x', 2)]
        """
        _choice(process, "process", ("generation", "inference"))
        _choice(form, "form", ("compact", "developed"))
        if num_steps < 1:
            raise ValueError(f"num_steps must be at least 1, not {num_steps}.")
        return _unrolled(self, num_steps, process, form)

    def _statements(self, process: Process) -> dict[str, Statement]:
        """The lines that a process needs; for inference with the shared states, and what those need."""
        if process == "generation":
            return self._generation
        needed: dict[str, Statement] = {}
        stack = list(self._inference.values())
        while stack:
            statement = stack.pop()
            needed[statement.name] = statement
            for parent in statement.parents:
                shared = self._generation.get(parent.name)
                if shared and not shared.random and parent.name not in needed:
                    stack.append(shared)
        order = [*self._generation, *self._inference]
        return dict(sorted(needed.items(), key=lambda item: order.index(item[0])))

    def _developed(self, num_steps: int, process: Process) -> "nx.DiGraph":
        graph = nx.DiGraph()

        def frames(name: str) -> list[int | None]:
            return [*range(1, num_steps + 1)] if self._framewise[name] else [None]

        statements = self._statements(process)
        names = [*statements] if process == "generation" else [*self.observed, *statements]
        for name in (*self.used_inputs, *names):
            graph.add_nodes_from(((name, t) for t in frames(name)), kind=self.kind(name))
        for statement in statements.values():
            for t in frames(statement.name):
                for parent in statement.parents:
                    for time in parent.times(t, num_steps):
                        graph.add_edge((parent.name, time), (statement.name, t))
        return graph

    # ---- what follows ------------------------------------------------------------------------------------------

    def compact(self, process: Process = "generation") -> dict[str, frozenset[str]]:
        """The parents of each random variable once the deterministic states are eliminated.

        The recurrences are unfolded as in Appendix A of the review: a state is replaced by what it is a function of,
        until only random variables and inputs remain.

        Arguments:
            process: ``"generation"`` or ``"inference"``.

        Returns:
            per random variable (``"z_t"``, ``"v"``), its parents in index expressions that hold at every frame.

        Raises:
            ValueError: if ``process`` is neither, or a parent set is no union of ranges.
        """
        return _as_text(self.compact_references(process))

    def compact_references(self, process: Process = "generation") -> dict[str, tuple[Reference, ...]]:
        """As `compact`, with references in place of text, in the order in which formulas list them."""
        _choice(process, "process", ("generation", "inference"))

        def parents(t: int, num_steps: int) -> Mapping[str, Iterable[Node]]:
            graph = self.unroll(num_steps, process)
            return {name: graph.pred[self._node(name, t)] for name in self._random(process)}

        return self.named_sets(parents)

    def exact_posterior(
        self,
        order: str | Sequence[str] | None = None,
        *,
        direction: Direction | None = None,
    ) -> dict[str, frozenset[str]]:
        """The smallest conditioning set of each latent variable in the exact posterior, by d-separation.

        The chain rule writes the posterior as a product of p(latent | latents before it, data, inputs). On the
        unrolled compact graph each factor drops whatever is d-separated from the latent given the rest.

        Arguments:
            order: which latent comes when. `None`: as the inference block lists them, one whole sequence after the
                other, or interleaved over time if the block's own conditionings need that. ``"interleaved"``: at
                each frame, all latents in that order. Names (``("z", "a")``): whole sequences in this order.
            direction: whether the chain rule runs ``"forward"`` or ``"backward"`` in time. `None`: as the
                inference block does; backward for a latent that is conditioned on its own future.

        Returns:
            per latent, its conditioning set in index expressions that hold at every frame.

        Raises:
            ValueError: if ``order`` is none of the above or does not name all latents once.
        """
        return _as_text(self.exact_references(order, direction=direction))

    def exact_references(
        self, order: str | Sequence[str] | None = None, *, direction: Direction | None = None
    ) -> dict[str, tuple[Reference, ...]]:
        """As `exact_posterior`, with references in place of text, in the order in which formulas list them."""
        plan = self._plan(order, direction)
        return self.named_sets(lambda t, num_steps: self._exact_sets(t, num_steps, plan))

    def inference_gap(
        self, order: str | Sequence[str] | None = None, *, direction: Direction | None = None
    ) -> dict[str, Gap]:
        """Where the inference model departs from the exact posterior: the review's golden and silver arrows.

        Arguments:
            order: as for `exact_posterior`.
            direction: as for `exact_posterior`.

        Returns:
            per latent, what is missing and what is extra. Extra variables are superfluous only *given what the exact
            posterior conditions on*: where some of that is missing they may carry part of it.

        Raises:
            ValueError: if the spec has no inference block, or the block conditions a latent on one that the chain
                rule in this order places after it.
        """
        if not self._inference:
            raise ValueError("the spec has no inference block to compare with the exact posterior.")
        plan = self._plan(order, direction)
        missing, extra = (_as_text(self.named_sets(sets)) for sets in self._gap_sets(plan))
        return {key: Gap(missing[key], extra[key]) for key in missing}

    def latex(self, kind: Literal["joint", "posterior", "exact", "vlb"] = "joint") -> str:
        r"""LaTeX of a factorisation or of the bound, with the model's own conditionings.

        Arguments:
            kind: ``"joint"``, p(x, z); ``"posterior"``, the inference model q(z | x); ``"exact"``, the structure of the
                exact posterior; ``"vlb"``, the variational lower bound.

        Returns:
            LaTeX for display mathematics, without the dollar signs.

        Raises:
            ValueError: if ``kind`` is none of these, or the spec has no inference block but the formula needs one.

        >>> print(DependencySpec("x_t ~ x_{t-1}").latex("joint"))
        p_{\theta}(\mathbf{x}_{1:T}) = \prod_{t=1}^{T} p_{\theta_{\mathbf{x}}}(\mathbf{x}_t \mid \mathbf{x}_{t-1})
        """
        return formulas.latex(self, kind)

    def draw(
        self,
        process: Process = "generation",
        form: Literal["compact", "developed", "both"] = "both",
        *,
        gap: bool = True,
        order: str | Sequence[str] | None = None,
    ) -> "matplotlib.figure.Figure":
        """The graphical model over the frames t-1, t, t+1.

        Circles are random, shaded ones observed, diamonds deterministic. In an inference model, dashed gold arrows are
        those that the exact posterior has and it lacks; silver ones it could do without.

        Arguments:
            process: ``"generation"`` or ``"inference"``.
            form: ``"compact"``, ``"developed"``, or ``"both"`` side by side (developed left, as in the review; one
                panel if the two are the same).
            gap: whether to draw the gold and silver arrows of an inference model.
            order: of the chain rule that the gap refers to, as for `exact_posterior`.

        Returns:
            a matplotlib figure on a light card.

        Raises:
            ValueError: if ``process`` or ``form`` is none of the above, or the spec has no such block.
        """
        _choice(process, "process", ("generation", "inference"))
        _choice(form, "form", ("compact", "developed", "both"))
        if process == "inference" and not self._inference:
            raise ValueError("the spec has no inference block to draw.")
        from dvae_lib.graphs import drawing  # who draws nothing need not load matplotlib

        return drawing.draw(self, process, form, gap=gap, order=order)

    def arrow_roles(
        self, process: Process, form: Form, *, gap: bool = True, order: str | Sequence[str] | None = None
    ) -> dict[tuple[Node, Node], str]:
        """The arrows of a figure over three frames, and what each is: plain, missing, extra or from an end.

        Arguments:
            process: ``"generation"`` or ``"inference"``.
            form: ``"compact"`` or ``"developed"``.
            gap: whether to add the missing and mark the extra arrows of an inference model. In developed form an arrow
                is extra if without it nothing is lost but extra dependencies.
            order: of the chain rule that the gap refers to.

        Returns:
            ``"plain"``, ``"missing"``, ``"extra"`` or ``"end"`` (from
            frame 1 or T, where only that one counts) per arrow.
        """
        parents: dict[str, tuple[Reference, ...]]
        if form == "compact":
            by_key = self.compact_references(process)
            parents = {name: by_key[self._key(name)] for name in self._random(process)}
        else:
            parents = {name: s.parents for name, s in self._statements(process).items()}
        roles: dict[tuple[Node, Node], str] = {}
        for name, references in parents.items():
            for reference in references:
                at_an_end = reference.first == reference.last and reference.first in (Index("1"), Index("T"))
                self._add_roles(roles, name, reference, "end" if at_an_end else "plain")
        if gap and process == "inference":
            plan = self._plan(order, None)
            missing, extra = (self.named_sets(sets) for sets in self._gap_sets(plan))
            for name in self.latents:
                for reference in missing[self._key(name)]:
                    self._add_roles(roles, name, reference, "missing")
                for reference in extra[self._key(name)] if form == "compact" else ():
                    self._add_roles(roles, name, reference, "extra")
            if form == "developed":
                roles |= dict.fromkeys(self._superfluous(plan) & set(roles), "extra")
        return roles

    def _add_roles(self, roles: dict[tuple[Node, Node], str], name: str, reference: Reference, role: str) -> None:
        for t in (1, 2, 3) if self._framewise[name] else (None,):
            for time in reference.times(t, 3):
                roles[(reference.name, time), (name, t)] = role

    def __str__(self) -> str:
        blocks = {"generation": self._generation, "inference": self._inference}
        return "\n".join(
            f"{title}\n" + "\n".join(f"    {statement}" for statement in block.values())
            for title, block in blocks.items()
            if block
        )

    # ---- checks at construction ----------------------------------------------------------------------------------

    def _check_names(self, generation: tuple[Statement, ...], inference: tuple[Statement, ...]) -> None:
        generated = {s.name: s for s in generation}
        for name in self.observed:
            if name not in generated or not generated[name].random:
                raise SpecError(
                    f"the observed variable {name!r} needs a line '{name}_t ~ ...'. If the data have another name, "
                    f"pass observed=(...).",
                    "generation",
                )
        for blocks, title, text in (
            (generation, "generation", self.generation),
            (inference, "inference", self.inference),
        ):
            for s in blocks:
                if s.name in self.inputs:
                    raise self._error(f"{s.name} is an external input and has no line of its own.", title, text, s)
        latents = {s.name: s for s in generation if s.random and s.name not in self.observed}
        for s in inference:
            if s.random and s.name not in latents:
                known = f"The latent variables are {', '.join(latents)}." if latents else "It has none."
                message = f"{s.name} is not a latent variable of the generative model. {known}"
                raise self._error(message, "inference", self.inference, s)
            if not s.random and s.name in generated:
                message = (
                    f"{s.name} is already defined by generation. Inference shares it: use it without a line here, "
                    "or give the inference model's own state another name."
                )
                raise self._error(message, "inference", self.inference, s)
            if s.random and s.framewise != latents[s.name].framewise:
                message = f"{s.key} here, but {latents[s.name].key} in generation."
                raise self._error(message, "inference", self.inference, s)
        lacking = [name for name in latents if name not in {s.name for s in inference}]
        if inference and lacking:
            raise SpecError(
                f"no line infers {', '.join(lacking)}: inference needs '{latents[lacking[0]].key} ~ ...'.", "inference"
            )

    @staticmethod
    def _error(message: str, block: str, text: str, place: Statement | Reference) -> SpecError:
        lines = text.removeprefix("\n").split("\n")
        return SpecError(message, block, lines[place.line - 1].rstrip(), place.line, place.column)

    def _input_kinds(self, statements: tuple[Statement, ...]) -> dict[str, bool]:
        """Whether each external input has a value per frame: unless all lines name it without an index."""
        named = {n: [p for s in statements for p in s.parents if p.name == n] for n in self.inputs}
        return {name: not uses or any(p.first is not None for p in uses) for name, uses in named.items()}

    def _check_acyclic(self, process: Process) -> None:
        # A cycle may have to run forward and back before it closes: leave it room.
        graph = self._developed(self.interior()[0], process)
        try:
            cycle = nx.find_cycle(graph)
        except nx.NetworkXNoCycle:
            return
        shown = " <- ".join(node_label(node) for node in (*(edge[1] for edge in reversed(cycle)), cycle[-1][1]))
        (parent, _), (child, _) = cycle[0]
        statement = self._statements(process)[child]
        place = next(p for p in statement.parents if p.name == parent)
        defined_in: Process = "inference" if child in self._inference and process == "inference" else "generation"
        text = self.inference if defined_in == "inference" else self.generation
        raise self._error(
            f"a cycle in the unrolled graph of {process}: {shown}. No variable can be an ancestor of itself.",
            defined_in,
            text,
            place,
        )

    # ---- the machinery ----------------------------------------------------------------------------------------------

    @cached_property
    def _reach(self) -> int:
        """How many frames a dependency can span besides ranges: there and back through every variable once."""

        def longest(statement: Statement) -> int:
            ends = [end for p in statement.parents for end in (p.first, p.last) if end is not None]
            return max((abs(end.offset) for end in ends), default=0)

        processes: tuple[Process, ...] = ("generation", "inference")
        spans = [sum(map(longest, self._statements(process).values())) for process in processes]
        return 2 * max(spans) + 2

    def interior(self) -> tuple[int, int]:
        """A length T and a frame t so far from both ends that every pattern of dependencies shows there."""
        return 2 * self._reach + 1, self._reach + 1

    def _random(self, process: Process) -> list[str]:
        return [s.name for s in self._statements(process).values() if s.random]

    def _key(self, name: str) -> str:
        return f"{name}_t" if self._framewise[name] else name

    def _node(self, name: str, t: int) -> Node:
        return (name, t if self._framewise[name] else None)

    def named_sets(self, sets: NodeSets) -> dict[str, tuple[Reference, ...]]:
        """Name sets of nodes, and order them as formulas do: own past, other latents, data, inputs."""
        latents = sorted(self.latents, key=lambda name: not self._framewise[name])
        ranks = [*latents, *self.observed, *self.inputs]
        named = name_sets(sets, self._reach, self._framewise)
        return {self._key(name): _in_order(references, [name, *ranks]) for name, references in named.items()}

    def _plan(self, order: str | Sequence[str] | None, direction: Direction | None) -> ChainRule:
        """The chain rule that the arguments ask for."""
        if direction is not None:
            _choice(direction, "direction", ("forward", "backward"))
        backward = dict.fromkeys(self.latents, direction == "backward")
        if direction is None and self._inference:
            backward = {name: self._looks_ahead(name) for name in self.latents}
        if isinstance(order, str) and order != "interleaved":
            order = (order,)
        if order is None:
            plan = ChainRule(self.latents, False, backward)
            if self._inference and self._contradiction(plan):
                plan = ChainRule(self.latents, True, backward)
            return plan
        if order == "interleaved":
            return ChainRule(self.latents, True, backward)
        if sorted(order) != sorted(self.latents):
            raise ValueError(
                f"order must be 'interleaved' or name each latent variable once ({', '.join(self.latents)}), "
                f"not {tuple(order)}."
            )
        return ChainRule(tuple(order), False, backward)

    def _looks_ahead(self, name: str) -> bool:
        num_steps, middle = self.interior()
        if not self._framewise[name]:
            return False
        graph = self.unroll(num_steps, "inference")
        return any(n == name and (time or 0) > middle for n, time in graph.pred[(name, middle)])

    def _contradiction(self, plan: ChainRule) -> tuple[Node, Node] | None:
        """An edge of the inference model from a latent to one that the chain rule places before it."""
        num_steps, _ = self.interior()
        rank = {node: i for i, node in enumerate(plan.sequence(num_steps, self._framewise))}
        graph = self.unroll(num_steps, "inference")
        return next(((a, b) for a, b in graph.edges if a in rank and rank[a] > rank[b]), None)

    def _candidates(self, node: Node, num_steps: int, plan: ChainRule) -> frozenset[Node]:
        """What the chain rule conditions a latent on before anything is dropped."""
        sequence = plan.sequence(num_steps, self._framewise)
        before = sequence[: sequence.index(node)]
        known = [
            (name, t)
            for name in (*self.observed, *self.used_inputs)
            for t in (range(1, num_steps + 1) if self._framewise[name] else (None,))
        ]
        return frozenset((*before, *known))

    def _exact_sets(self, t: int, num_steps: int, plan: ChainRule) -> dict[str, frozenset[Node]]:
        graph = self.unroll(num_steps)
        nodes = {name: self._node(name, t) for name in plan.latents}
        return {
            name: moral_boundary(graph, node, self._candidates(node, num_steps, plan)) for name, node in nodes.items()
        }

    def _inferred_sets(self, t: int, num_steps: int, plan: ChainRule) -> dict[str, frozenset[Node]]:
        graph = self.unroll(num_steps, "inference")
        return {name: frozenset(graph.pred[self._node(name, t)]) for name in plan.latents}

    def _gap_sets(self, plan: ChainRule) -> tuple[NodeSets, NodeSets]:
        """What inference lacks of the exact posterior, and what it has beyond it, as functions of t and T."""
        clash = self._contradiction(plan)
        if clash:
            raise ValueError(
                f"inference conditions {node_label(clash[1])} on {node_label(clash[0])}, which the chain rule in this "
                "order places after it. Pass order='interleaved', another order of the latents, or a direction."
            )

        def missing(t: int, num_steps: int) -> Mapping[str, Iterable[Node]]:
            exact, used = self._exact_sets(t, num_steps, plan), self._inferred_sets(t, num_steps, plan)
            return {name: exact[name] - used[name] for name in plan.latents}

        def extra(t: int, num_steps: int) -> Mapping[str, Iterable[Node]]:
            exact, used = self._exact_sets(t, num_steps, plan), self._inferred_sets(t, num_steps, plan)
            return {name: used[name] - exact[name] for name in plan.latents}

        return missing, extra

    def _superfluous(self, plan: ChainRule) -> set[tuple[Node, Node]]:
        """Arrows of the developed inference model, over three frames, that carry extra dependencies only.

        An arrow and its like at all other frames are taken out; it is superfluous if inference then loses something,
        and nothing that the exact posterior has.
        """
        num_steps, t = self.interior()
        exact, used = self._exact_sets(t, num_steps, plan), self._inferred_sets(t, num_steps, plan)
        if all(used[name] <= exact[name] for name in plan.latents):
            return set()
        whole = self.unroll(num_steps, "inference", "developed")
        found: set[tuple[Node, Node]] = set()
        for statement in self._statements("inference").values():
            for parent in statement.parents:
                alike = [
                    ((parent.name, time), self._node(statement.name, frame))
                    for frame in range(1, num_steps + 1)
                    for time in parent.times(frame, num_steps)
                ]
                thinned = nx.DiGraph(whole)
                thinned.remove_edges_from(alike)
                left = without_deterministic(thinned)
                lost = {name: used[name] - set(left.pred[self._node(name, t)]) for name in plan.latents}
                if any(lost.values()) and all(not lost[name] & exact[name] for name in plan.latents):
                    for frame in (1, 2, 3):
                        for time in parent.times(frame, 3):
                            found.add(((parent.name, time), self._node(statement.name, frame)))
        return found

    def _with(
        self, generation: Iterable[Statement], inference: Iterable[Statement], symbols: Mapping[str, str]
    ) -> "DependencySpec":
        lines, inferring = ("\n".join(map(str, block)) for block in (generation, inference))
        return DependencySpec(lines, inferring, self.observed, self.inputs, symbols)


@lru_cache(maxsize=128)
def _unrolled(spec: DependencySpec, num_steps: int, process: Process, form: Form) -> "nx.DiGraph":
    """Kept, because all that follows from a spec asks for the same few graphs again and again."""
    graph = spec._developed(num_steps, process)
    return nx.freeze(graph if form == "developed" else without_deterministic(graph))


def _in_order(references: Iterable[Reference], names: Sequence[str]) -> tuple[Reference, ...]:
    return tuple(sorted(references, key=lambda reference: names.index(reference.name)))


def _as_text(sets: Mapping[str, Iterable[Reference]]) -> dict[str, frozenset[str]]:
    return {key: frozenset(map(str, references)) for key, references in sets.items()}
