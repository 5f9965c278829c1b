"""One spec per model: who depends on whom, stated once, and everything that follows from it.

A `DependencySpec` holds a model's generative and inference equations in developed form. From it come the compact
form (Appendix A of the review), the structure of the exact posterior (Section 4.2.1), what the inference model
lacks of it, the factorisations and the bound in LaTeX, and the figures. The work is done below: what the blocks say in
`structure`, what follows for the posterior in `posterior`; formulas and drawings are handed what they show.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import networkx as nx

from dvae_lib.graphs import formulas, posterior, rewriting
from dvae_lib.graphs.chain_rule import Direction
from dvae_lib.graphs.language import Form, Process, Reference, check_choice
from dvae_lib.graphs.layout import Link, Picture
from dvae_lib.graphs.posterior import Gap
from dvae_lib.graphs.ranges import Node, NodeSets
from dvae_lib.graphs.structure import Kind, Structure, read

if TYPE_CHECKING:
    import matplotlib.figure

__all__ = ["DependencySpec", "Gap"]


@dataclass(frozen=True)
class DependencySpec:
    r"""The dependencies of a dynamical VAE, in the review's notation.

    ``<-`` marks a deterministic state, ``~`` a random variable. An index is ``1``, ``T``, ``t``, ``t-k``, ``t+k`` or
    a range between two of them; a variable without index belongs to the whole sequence. An empty right side
    (``z_t ~``) is a prior without parents. Parents outside 1..T drop out. The inference block may use the
    deterministic states that the generation block defines. The order in which it lists the latent variables is
    the order of the chain rule.

    Arguments:
        generation: One line a variable, with all observed and latent variables.
        inference: One line a variable, with all latent variables; empty for a model without inference.
        observed: The names of the data.
        inputs: The names of external inputs, which have no line of their own.
        symbols: LaTeX of variables for which the default (bold name; ``_fwd`` and ``_bwd`` become arrows) does
            not do.

    Raises:
        SpecError: Where a line is not of the language, names an unknown variable, or closes a cycle in the
            unrolled graph; also if a latent variable has no inference, or inference defines what is none.

    Example:
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

    _structure: Structure = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("observed", "inputs"):
            if isinstance(getattr(self, name), str):
                raise TypeError(f"{name} must be a tuple of names, such as ('x',), not {getattr(self, name)!r}")
            object.__setattr__(self, name, tuple(getattr(self, name)))
        object.__setattr__(self, "_structure", read(self.generation, self.inference, self.observed, self.inputs))

    # ---- what the blocks say -----------------------------------------------------------------------------------

    @property
    def latents(self) -> tuple[str, ...]:
        """The latent variables, in the order of the chain rule: that of the inference block.

        Without an inference block it is that of the generation block. Each is asked with `is_framewise` whether it has
        one value per frame or one per sequence.
        """
        return self._structure.latents

    @property
    def used_inputs(self) -> tuple[str, ...]:
        """The external inputs that some line names; empty for an undriven model."""
        return self._structure.used_inputs

    @property
    def shared(self) -> tuple[str, ...]:
        """The deterministic states of the generative model that inference uses too."""
        return self._structure.shared

    @property
    def variables(self) -> tuple[str, ...]:
        """All variables: those of the generation block, the inputs, and the inference model's own states."""
        return tuple(self._structure.framewise)

    def kind(self, name: str) -> Kind:
        """What a variable is: ``"latent"``, ``"observed"``, ``"deterministic"`` or ``"input"``.

        Raises:
            ValueError: If the spec has no such variable.
        """
        kinds = self._structure.kinds
        if name not in kinds:
            raise ValueError(f"the spec has no variable {name!r}; it has {', '.join(kinds)}")
        return kinds[name]

    def is_framewise(self, name: str) -> bool:
        """Whether a variable of any kind has one value per frame (``z_t``), rather than one per sequence (``v``).

        An input that no line names counts as framewise.

        Raises:
            ValueError: If the spec has no such variable.
        """
        self.kind(name)
        return self._structure.framewise[name]

    def undriven(self) -> "DependencySpec":
        """The same model without its external inputs: they are taken out of all right sides.

        A model asks for it each time it is built; so it is made once.
        """
        return self._undriven

    @cached_property
    def _undriven(self) -> "DependencySpec":
        return self._with(rewriting.undriven(self._structure), self.symbols)

    def generation_mode(self) -> "DependencySpec":
        """The same model fed with its own output: past x in the generative equations becomes the model's mean of x.

        With teacher forcing, x_{t-1} on a right side is the true frame; in generation mode (Section 4.4.1) it is a
        function of the parents of x_{t-1}. A predictive model so becomes p(x_t | z_{1:t}) p(z_t | z_{1:t-1}).
        Inference stays on the true data, with its own pass of the shared states.

        Returns:
            A spec with one more deterministic variable per observed one, named ``xhat``.

        Raises:
            ValueError: If the spec has a variable of that name already.
        """
        blocks = rewriting.generation_mode(self._structure)
        symbols = {
            new: rf"\hat{{{self.symbol(name)}}}" for name, new in rewriting.fed_back_names(self._structure).items()
        }
        symbols |= {new: self.symbol(name) for name, new in rewriting.own_pass_names(self._structure).items()}
        return self._with(blocks, {**self.symbols, **symbols})

    def symbol(self, name: str) -> str:
        """LaTeX of a variable without its index: ``\\overrightarrow{\\mathbf{g}}^{\\mathbf{z}}`` for ``gz_fwd``."""
        return self.symbols.get(name) or formulas.default_symbol(name)

    def conditions(self, names: Iterable[str]) -> str:
        r"""The names of a conditioning set, for a table: ``$\mathbf{z}_{t-1}$, $\mathbf{x}_{1:T}$``.

        Arguments:
            names: Random variables with indices, as `compact`, `exact_posterior` and `inference_gap` name them.

        Returns:
            Formulas for Markdown, or a dash where there are none.

        Example:
            >>> spec = DependencySpec("z_t ~ z_{t-1}\nx_t ~ z_t")
            >>> print(spec.conditions(spec.exact_posterior()["z_t"]))
            $\mathbf{z}_{t-1}$, $\mathbf{x}_{t:T}$
        """
        ordered = sorted(names, reverse=True)
        split = [re.fullmatch(r"(.*?)((?:_(?:\{.*\}|[^_{}]+))?)", name) for name in ordered]
        return ", ".join(f"${self.symbol(match[1])}{match[2]}$" for match in split if match) or "–"

    # ---- graphs ------------------------------------------------------------------------------------------------

    def unroll(self, num_steps: int, process: Process = "generation", form: Form = "compact") -> "nx.DiGraph":
        """The graph over all frames of a sequence.

        Arguments:
            num_steps: T.
            process: ``"generation"``, or ``"inference"``: there, data and inputs have no parents.
            form: ``"compact"``, with random variables only, or ``"developed"``, with deterministic states too.

        Returns:
            An acyclic graph with nodes ``("z", 3)``, or ``("v", None)`` for variables of the whole sequence. The
            node attribute ``kind`` is ``"latent"``, ``"observed"``, ``"deterministic"`` or ``"input"``. The graph is
            frozen; take a ``copy()`` to change it.

        Raises:
            ValueError: If ``num_steps`` is below 1, or ``process`` or ``form`` is none of the above.

        Example:
            >>> spec = DependencySpec("h_t <- x_{t-1}, h_{t-1}" "\\n" "x_t ~ h_t")
            >>> sorted(spec.unroll(3).predecessors(("x", 3)))
            [('x', 1), ('x', 2)]
        """
        return self._structure.unroll(num_steps, process, form)

    def interior(self) -> tuple[int, int]:
        """A length T and a frame t so far from both ends that every pattern of dependencies shows there."""
        return self._structure.interior()

    def named_sets(self, sets: NodeSets) -> dict[str, tuple[Reference, ...]]:
        """Name sets of nodes, and order them as formulas do: own past, other latents, data, inputs."""
        return self._keyed(self._structure.named(sets))

    # ---- what follows ------------------------------------------------------------------------------------------

    def compact(self, process: Process = "generation") -> dict[str, frozenset[str]]:
        """The parents of each random variable once the deterministic states are eliminated.

        The recurrences are unfolded as in Appendix A of the review: a state is replaced by what it is a function of,
        until only random variables and inputs remain.

        Arguments:
            process: ``"generation"`` or ``"inference"``.

        Returns:
            Per random variable (``"z_t"``, ``"v"``), its parents in index expressions that hold at every frame.

        Raises:
            ValueError: If ``process`` is neither, or a parent set is no union of ranges.
        """
        return _as_text(self.compact_references(process))

    def compact_references(self, process: Process = "generation") -> dict[str, tuple[Reference, ...]]:
        """As `compact`, with references in place of text, in the order in which formulas list them."""
        return self._keyed(self._structure.compact(process))

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
            order: Which latent comes when. `None`: as the inference block lists them, one whole sequence after the
                other, or interleaved over time if the block's own conditionings need that. ``"interleaved"``: at
                each frame, all latents in that order. Names (``("z", "a")``): whole sequences in this order.
            direction: Whether the chain rule runs ``"forward"`` or ``"backward"`` in time. `None`: as the
                inference block does; backward for a latent that is conditioned on its own future.

        Returns:
            Per latent, its conditioning set in index expressions that hold at every frame.

        Raises:
            ValueError: If ``order`` is none of the above or does not name all latents once.
        """
        return _as_text(self.exact_references(order, direction=direction))

    def exact_references(
        self, order: str | Sequence[str] | None = None, *, direction: Direction | None = None
    ) -> dict[str, tuple[Reference, ...]]:
        """As `exact_posterior`, with references in place of text, in the order in which formulas list them."""
        return self._keyed(posterior.exact_posterior(self._structure, order, direction))

    def inference_gap(
        self, order: str | Sequence[str] | None = None, *, direction: Direction | None = None
    ) -> dict[str, Gap]:
        """Where the inference model departs from the exact posterior: the review's golden and silver arrows.

        Arguments:
            order: As for `exact_posterior`.
            direction: As for `exact_posterior`.

        Returns:
            Per latent, what is missing and what is extra. Extra variables are superfluous only *given what the exact
            posterior conditions on*: where some of that is missing they may carry part of it.

        Raises:
            ValueError: If the spec has no inference block, or the block conditions a latent on one that the chain
                rule in this order places after it.
        """
        if not self._structure.inference:
            raise ValueError("the spec has no inference block to compare with the exact posterior")
        gap = posterior.inference_gap(self._structure, order, direction)
        missing, extra = (_as_text(self._keyed(sets)) for sets in gap)
        return {key: Gap(missing[key], extra[key]) for key in missing}

    @property
    def divergences(self) -> frozenset[str]:
        r"""The latents whose term of the bound is a KL divergence at the sampled parents.

        Not if the inference model draws one of its generative parents after it, and from it: then the closed form would
        average over the latent as if the parent did not depend on it, and only the log-ratio is right.

        Example:
            >>> up = DependencySpec("a ~" "\n" "b ~ a" "\n" "x_t ~ b", "b ~ x_{1:T}" "\n" "a ~ b")
            >>> sorted(up.divergences)
            ['a']
        """
        return frozenset(name for name, term in posterior.bound_terms(self._structure).items() if term.divergence)

    def latex(self, kind: formulas.Formula = "joint") -> str:
        r"""LaTeX of a factorisation or of the bound, with the model's own conditionings.

        Arguments:
            kind: ``"joint"``, p(x, z); ``"posterior"``, the inference model q(z | x); ``"exact"``, the structure of the
                exact posterior; ``"vlb"``, the variational lower bound.

        Returns:
            LaTeX for display mathematics, without the dollar signs.

        Raises:
            ValueError: If ``kind`` is none of these, or the spec has no inference block or no latent variables but the
                formula needs them.

        Example:
            >>> print(DependencySpec("x_t ~ x_{t-1}").latex("joint"))
            p_{\theta}(\mathbf{x}_{1:T}) = \prod_{t=1}^{T} p_{\theta_{\mathbf{x}}}(\mathbf{x}_t \mid \mathbf{x}_{t-1})
        """
        check_choice(kind, "kind", ("joint", "posterior", "exact", "vlb"))
        structure = self._structure
        if kind in ("posterior", "exact") and not structure.latents:
            raise ValueError("the spec has no latent variables, and so no posterior to write")
        if kind in ("posterior", "vlb") and structure.latents and not structure.inference:
            raise ValueError(f"the spec has no inference block, which the {kind} needs")
        terms = posterior.bound_terms(structure) if kind == "vlb" else {}
        factors = formulas.Factors(
            self.observed,
            self.used_inputs,
            self.latents,
            structure.framewise,
            {name: self.symbol(name) for name in self.variables},
            generated=structure.compact("generation") if kind in ("joint", "vlb") else {},
            inferred=structure.compact("inference") if kind in ("posterior", "vlb") else {},
            exact=posterior.exact_posterior(structure) if kind == "exact" else {},
            averaged={name: term.averaged for name, term in terms.items()},
            divergences=frozenset(name for name, term in terms.items() if term.divergence),
        )
        return formulas.latex(factors, kind)

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
            gap: Whether to draw the gold and silver arrows of an inference model.
            order: Of the chain rule that the gap refers to, as for `exact_posterior`.

        Returns:
            A matplotlib figure on a light card.

        Raises:
            ValueError: If ``process`` or ``form`` is none of the above, or the spec has no such block.
        """
        check_choice(process, "process", ("generation", "inference"))
        check_choice(form, "form", ("compact", "developed", "both"))
        if process == "inference" and not self._structure.inference:
            raise ValueError("the spec has no inference block to draw")
        forms: tuple[Form, ...] = ("developed", "compact") if form == "both" else (form,)
        pictures = [self.picture(process, one, gap=gap, order=order) for one in forms]
        if form == "both" and "deterministic" not in pictures[0].kinds.values():
            pictures = pictures[1:]  # the two are the same
        from dvae_lib.graphs import drawing  # who draws nothing need not load matplotlib

        return drawing.draw(pictures)

    def picture(
        self, process: Process, form: Form, *, gap: bool = True, order: str | Sequence[str] | None = None
    ) -> Picture:
        """What one panel of a figure shows: its nodes over three frames, its arrows and their labels.

        Arguments:
            process: As for `arrow_roles`.
            form: As for `arrow_roles`.
            gap: As for `arrow_roles`.
            order: As for `arrow_roles`.

        Returns:
            The picture, still without places.
        """
        roles = self.arrow_roles(process, form, gap=gap, order=order)
        graph = self.unroll(3, process, form)
        # Inputs that the process does not use would stand about alone.
        used = {node[0] for node in graph if graph.degree(node)}
        kinds = {node: kind for node, kind in graph.nodes(data="kind") if kind != "input" or node[0] in used}
        for parent, _ in roles:
            kinds.setdefault(parent, self.kind(parent[0]))
        links = tuple(Link(parent, child, role) for (parent, child), role in roles.items())
        return Picture(kinds, links, {name: self.symbol(name) for name, _ in kinds})

    def arrow_roles(
        self, process: Process, form: Form, *, gap: bool = True, order: str | Sequence[str] | None = None
    ) -> dict[tuple[Node, Node], str]:
        """The arrows of a figure over three frames, and what each is: plain, missing, extra or from an end.

        Arguments:
            process: ``"generation"`` or ``"inference"``.
            form: ``"compact"`` or ``"developed"``.
            gap: Whether to add the missing and mark the extra arrows of an inference model. In developed form an arrow
                is extra if without it nothing is lost but extra dependencies.
            order: Of the chain rule that the gap refers to.

        Returns:
            Per arrow ``"plain"``, ``"missing"``, ``"extra"`` or ``"end"`` (from frame 1 or T, where only that one
            counts).
        """
        return posterior.arrow_roles(self._structure, process, form, gap=gap, order=order)

    def __str__(self) -> str:
        blocks = {"generation": self._structure.generation, "inference": self._structure.inference}
        return "\n".join(
            f"{title}\n" + "\n".join(f"    {statement}" for statement in block.values())
            for title, block in blocks.items()
            if block
        )

    def _keyed(self, sets: Mapping[str, tuple[Reference, ...]]) -> dict[str, tuple[Reference, ...]]:
        """Sets by what is written in the blocks, ``z_t``, rather than by name."""
        return {self._structure.key(name): references for name, references in sets.items()}

    def _with(self, blocks: tuple[str, str], symbols: Mapping[str, str]) -> "DependencySpec":
        return DependencySpec(*blocks, self.observed, self.inputs, symbols)


def _as_text(sets: Mapping[str, tuple[Reference, ...]]) -> dict[str, frozenset[str]]:
    return {key: frozenset(map(str, references)) for key, references in sets.items()}
