"""How near two models are: the arrows that one has and the other has not."""

from functools import lru_cache
from typing import NamedTuple

import networkx as nx

from dvae_lib.graphs.language import Process
from dvae_lib.graphs.ranges import Node
from dvae_lib.graphs.spec import DependencySpec

__all__ = ["Dependence", "arrows", "arrows_that_differ", "nearest"]

# Read off far from both ends, at frame t of T: by how many frames the parent is later than the child.
_WHEN = {-1: "_{t-1}", 0: "_t", 1: "_{t+1}"}


class Dependence(NamedTuple):
    """An arrow of a compact graph, by the roles of its ends; the names of variables do not count.

    Attributes:
        process: ``"generation"`` or ``"inference"``.
        parent: ``z`` for latent variables of frames, ``v`` for those of the sequence, ``x`` for data, with an index.
        child: ``z_t``, ``v`` or ``x_t``.
    """

    process: Process
    parent: str
    child: str


@lru_cache(maxsize=256)
def arrows(spec: DependencySpec) -> frozenset[Dependence]:
    """The kinds of arrows that a model has, in generation and inference, at an interior frame.

    All latent variables of a frame play one role, whatever they are called, and so do those of a sequence. An arrow
    from a latent variable to another of the same frame reads ``z_t`` to ``z_t``. The past counts as two arrows, from
    the last frame (``z_{t-1}``) and from all before (``z_{1:t-2}``), and so does the future. Inputs are left out.

    Example:
        >>> markov = DependencySpec("z_t ~ z_{t-1}" "\\n" "x_t ~ z_t")
        >>> sorted(f"{arrow.parent} to {arrow.child}" for arrow in arrows(markov))
        ['z_t to x_t', 'z_{t-1} to z_t']
    """
    processes: tuple[Process, ...] = ("generation", "inference") if spec.inference.strip() else ("generation",)
    return frozenset(arrow for process in processes for arrow in _of_process(spec.undriven(), process))


def _of_process(spec: DependencySpec, process: Process) -> set[Dependence]:
    num_steps, t = spec.interior()
    graph = spec.unroll(num_steps, process, "compact")
    kinds = nx.get_node_attributes(graph, "kind")

    def role(node: Node) -> str:
        return "x" if kinds[node] == "observed" else "v" if node[1] is None else "z"

    def index(parent: Node, child: Node) -> str:
        if parent[1] is None:
            return ""
        if child[1] is None:
            return "_{1:T}"
        later = parent[1] - child[1]
        return _WHEN.get(later) or ("_{1:t-2}" if later < 0 else "_{t+2:T}")

    return {
        Dependence(process, role(parent) + index(parent, child), role(child) + ("" if child[1] is None else "_t"))
        for child in graph
        if child[1] in (t, None)
        for parent in graph.pred[child]
    }


def arrows_that_differ(one: DependencySpec, other: DependencySpec) -> frozenset[Dependence]:
    """The arrows that exactly one of two models has; their number is a distance between the two.

    The number is zero for models that differ in names, networks and families only, it is the same either way, and the
    way over a third model is never shorter: for it is the size of a symmetric difference of sets.

    Example:
        >>> chain = DependencySpec("z_t ~ z_{t-1}" "\\n" "x_t ~ z_t")
        >>> alone = DependencySpec("z_t ~" "\\n" "x_t ~ z_t")
        >>> len(arrows_that_differ(chain, alone))
        1
    """
    return arrows(one) ^ arrows(other)


def nearest(spec: DependencySpec, others: dict[str, DependencySpec]) -> tuple[str, ...]:
    """The names of those models that differ from a model in the fewest arrows, in the order in which they stand.

    Arguments:
        spec: The model.
        others: Other models, by name.

    Raises:
        ValueError: If there are no others.
    """
    if not others:
        raise ValueError("nearest needs other models to choose from; got none")
    distances = {name: len(arrows_that_differ(spec, other)) for name, other in others.items()}
    return tuple(name for name, distance in distances.items() if distance == min(distances.values()))
