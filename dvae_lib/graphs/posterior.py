"""The structure of the exact posterior, and what an inference model lacks of it (Section 4.2.1 of the review).

The chain rule writes the posterior as a product of p(latent | latents before it, data, inputs). On the unrolled
compact graph each factor drops whatever is d-separated from the latent given the rest; the inference model is held
against what remains.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import networkx as nx

from dvae_lib.graphs.chain_rule import ChainRule, Direction, chain_rule, contradiction
from dvae_lib.graphs.language import Form, Index, Process, Reference, Statement
from dvae_lib.graphs.ranges import Node
from dvae_lib.graphs.separation import moral_boundary, node_label
from dvae_lib.graphs.structure import Structure
from dvae_lib.graphs.unfolding import without_deterministic

__all__ = ["Gap", "arrow_roles", "bound_terms", "exact_posterior", "inference_gap"]

References = dict[str, tuple[Reference, ...]]


class Gap(NamedTuple):
    """How an inference model differs from the exact posterior, for one latent variable.

    Arguments:
        missing: What the exact posterior conditions on and the inference model does not (golden arrows).
        extra: What the inference model conditions on although, given what the exact posterior conditions on, it
            tells nothing more (silver arrows).
    """

    missing: frozenset[str]
    extra: frozenset[str]


def exact_posterior(
    structure: Structure, order: str | Sequence[str] | None = None, direction: Direction | None = None
) -> References:
    """The smallest conditioning set of each latent, by name; see `DependencySpec.exact_posterior`."""
    plan = chain_rule(structure, order, direction)
    return structure.named(lambda t, num_steps: _exact_sets(structure, plan, t, num_steps))


def inference_gap(
    structure: Structure, order: str | Sequence[str] | None = None, direction: Direction | None = None
) -> tuple[References, References]:
    """What inference lacks of the exact posterior and what it has beyond it; see `DependencySpec.inference_gap`."""
    plan = chain_rule(structure, order, direction)
    clash = contradiction(structure, plan)
    if clash:
        raise ValueError(
            f"inference conditions {node_label(clash[1])} on {node_label(clash[0])}, which the chain rule in this "
            "order places after it. Pass order='interleaved', another order of the latents, or a direction"
        )

    def missing(t: int, num_steps: int) -> Mapping[str, Iterable[Node]]:
        exact, used = _exact_sets(structure, plan, t, num_steps), _used_sets(structure, plan, t, num_steps)
        return {name: exact[name] - used[name] for name in plan.latents}

    def extra(t: int, num_steps: int) -> Mapping[str, Iterable[Node]]:
        exact, used = _exact_sets(structure, plan, t, num_steps), _used_sets(structure, plan, t, num_steps)
        return {name: used[name] - exact[name] for name in plan.latents}

    return structure.named(missing), structure.named(extra)


@lru_cache(maxsize=128)
def _exact_sets(structure: Structure, plan: ChainRule, t: int, num_steps: int) -> dict[str, frozenset[Node]]:
    """The conditioning set of each latent at frame t of T. Kept: what is missing and what is extra both need it."""
    graph = structure.unroll(num_steps)
    sequence = plan.sequence(num_steps, structure.framewise)
    known = [
        (name, time)
        for name in (*structure.observed, *structure.used_inputs)
        for time in structure.frames(name, num_steps)
    ]
    sets = {}
    for name in plan.latents:
        node = structure.node(name, t)
        before = sequence[: sequence.index(node)]
        sets[name] = moral_boundary(graph, node, frozenset((*before, *known)))
    return sets


def _used_sets(structure: Structure, plan: ChainRule, t: int, num_steps: int) -> dict[str, frozenset[Node]]:
    """What inference conditions each latent on at frame t of T."""
    graph = structure.unroll(num_steps, "inference")
    return {name: frozenset(graph.pred[structure.node(name, t)]) for name in plan.latents}


# ---- the terms of the bound ------------------------------------------------------------------------------------


class BoundTerm(NamedTuple):
    """A variable's term of the variational lower bound.

    Arguments:
        averaged: The latent variables that it is an expectation over.
        divergence: Whether it is a KL divergence. It is if, under q, the latent is independent of its generative
            parents given what q conditions it on: if none of them is its descendant in the inference graph. Otherwise
            only the log-ratio is right.
    """

    averaged: tuple[Reference, ...]
    divergence: bool


def bound_terms(structure: Structure) -> dict[str, BoundTerm]:
    """The term of each observed and latent variable, in the order of the bound."""
    interior, middle = structure.interior()
    names = (*structure.observed, *structure.latents)
    latents = frozenset(structure.latents)

    def is_divergence(name: str) -> bool:
        if name not in latents:
            return False
        node = structure.node(name, middle)
        parents = {n for n in structure.unroll(interior).pred[node] if n[0] in latents}
        return not parents & nx.descendants(structure.unroll(interior, "inference"), node)

    divergences = {name: is_divergence(name) for name in names}

    def averaged(t: int, num_steps: int) -> dict[str, Iterable[Node]]:
        sets: dict[str, Iterable[Node]] = {}
        for name in names:
            node = structure.node(name, t)
            nodes = set(structure.unroll(num_steps).pred[node])
            if name in latents:
                nodes |= set(structure.unroll(num_steps, "inference").pred[node])
                if not divergences[name]:
                    nodes.add(node)
            sets[name] = {n for n in nodes if n[0] in latents}
        return sets

    return {name: BoundTerm(references, divergences[name]) for name, references in structure.named(averaged).items()}


# ---- the arrows of a figure ------------------------------------------------------------------------------------

Pair = tuple[Node, Node]


def arrow_roles(
    structure: Structure,
    process: Process,
    form: Form,
    *,
    gap: bool = True,
    order: str | Sequence[str] | None = None,
) -> dict[Pair, str]:
    """The arrows of a figure over three frames, and what each is; see `DependencySpec.arrow_roles`."""
    if form == "compact":
        parents = structure.compact(process)
    else:
        parents = {name: s.parents for name, s in structure.statements(process).items()}
    roles: dict[Pair, str] = {}

    def add(name: str, reference: Reference, role: str) -> None:
        for t in structure.frames(name, 3):
            for time in reference.times(t, 3):
                roles[(reference.name, time), (name, t)] = role

    for name, references in parents.items():
        for reference in references:
            at_an_end = reference.first == reference.last and reference.first in (Index("1"), Index("T"))
            add(name, reference, "end" if at_an_end else "plain")
    if gap and process == "inference":
        missing, extra = inference_gap(structure, order)
        for name in structure.latents:
            for reference in missing[name]:
                add(name, reference, "missing")
            for reference in extra[name] if form == "compact" else ():
                add(name, reference, "extra")
        if form == "developed":
            superfluous = _superfluous(structure, chain_rule(structure, order, None))
            roles |= {pair: "extra" for pair in roles if pair in superfluous}
    return roles


def _superfluous(structure: Structure, plan: ChainRule) -> set[Pair]:
    """Arrows of the developed inference model, over three frames, that carry extra dependencies only.

    An arrow and its like at all other frames are taken out; it is superfluous if inference then loses something,
    and nothing that the exact posterior has.
    """
    num_steps, t = structure.interior()
    exact, used = _exact_sets(structure, plan, t, num_steps), _used_sets(structure, plan, t, num_steps)
    if all(used[name] <= exact[name] for name in plan.latents):
        return set()
    whole = structure.unroll(num_steps, "inference", "developed")
    found: set[Pair] = set()
    for statement in structure.statements("inference").values():
        for parent in statement.parents:
            thinned = nx.DiGraph(whole)
            thinned.remove_edges_from(_alike(structure, statement, parent, range(1, num_steps + 1), num_steps))
            left = without_deterministic(thinned)
            lost = {name: used[name] - set(left.pred[structure.node(name, t)]) for name in plan.latents}
            if any(lost.values()) and all(not lost[name] & exact[name] for name in plan.latents):
                found.update(_alike(structure, statement, parent, (1, 2, 3), 3))
    return found


def _alike(
    structure: Structure, statement: Statement, parent: Reference, frames: Iterable[int], num_steps: int
) -> list[Pair]:
    """The arrows that one parent of a statement stands for, at some frames of T."""
    return [
        ((parent.name, time), structure.node(statement.name, t)) for t in frames for time in parent.times(t, num_steps)
    ]
