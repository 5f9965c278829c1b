"""d-separation: which variables of a Bayesian network tell nothing about each other, and why.

Sources: Pearl (1988); Geiger, Verma and Pearl (1990); Bishop (2006), Section 8.2. The review states the rules in
Section 4.2.1. Its wording of the third one leaves out the descendants: a head-to-head node blocks a path only if
neither the node itself *nor any of its descendants* is observed.
"""

import itertools
from collections import deque
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import networkx as nx

__all__ = ["Explanation", "Junction", "Path", "d_separated", "explain", "moral_boundary", "node_label"]

Rule = Literal["tail-to-tail", "head-to-tail", "head-to-head"]


def node_label(node: Hashable) -> str:
    """``z_3`` for the nodes of an unrolled spec, the node's own text for others."""
    if isinstance(node, tuple) and len(node) == 2 and (node[1] is None or isinstance(node[1], int)):
        name, time = node
        if time is None:
            return str(name)
        return f"{name}_{time}" if len(str(time)) == 1 else f"{name}_{{{time}}}"
    return str(node)


def _node_set(graph: nx.DiGraph, nodes: Any, role: str) -> set[Hashable]:
    """A node or a collection of nodes, as a set of nodes that the graph has."""
    try:
        if nodes in graph:
            return {nodes}
    except TypeError:  # an unhashable collection cannot be a node
        pass
    if isinstance(nodes, (str, int)) or not isinstance(nodes, Iterable):
        nodes = [nodes]
    found = set(nodes)
    unknown = sorted(node_label(node) for node in found if node not in graph)
    if unknown:
        raise ValueError(
            f"{role}: no such node in the graph: {', '.join(unknown)}. "
            f"It has {', '.join(node_label(node) for node in itertools.islice(graph, 12))}"
            f"{', ...' if len(graph) > 12 else ''}"
        )
    return found


def _checked(graph: nx.DiGraph, a: Any, b: Any, given: Any) -> tuple[set[Hashable], set[Hashable], set[Hashable]]:
    if not isinstance(graph, nx.DiGraph):
        raise TypeError(f"graph must be a networkx.DiGraph, not {type(graph).__name__}")
    if not nx.is_directed_acyclic_graph(graph):
        raise ValueError("d-separation is defined on acyclic graphs; this graph has a directed cycle")
    sets = _node_set(graph, a, "a"), _node_set(graph, b, "b"), _node_set(graph, given, "given")
    for (first, one), (second, other) in itertools.combinations(zip(("a", "b", "given"), sets, strict=True), 2):
        if one & other:
            shared = ", ".join(sorted(map(node_label, one & other)))
            raise ValueError(f"a, b and given must not share nodes, but {first} and {second} share {shared}")
    if not sets[0] or not sets[1]:
        raise ValueError("a and b need at least one node each")
    return sets


def _ancestors(graph: nx.DiGraph, nodes: Iterable[Hashable]) -> set[Hashable]:
    """The nodes and all their ancestors."""
    found: set[Hashable] = set()
    stack = list(nodes)
    while stack:
        node = stack.pop()
        if node not in found:
            found.add(node)
            stack.extend(graph.pred[node])
    return found


def d_separated(graph: nx.DiGraph, a: Any, b: Any, given: Any = ()) -> bool:
    """Whether all paths between ``a`` and ``b`` are blocked given the observed nodes.

    If so, every distribution that factorises over the graph has p(a, b | given) = p(a | given) p(b | given).
    The search is Shachter's (1998) Bayes ball: it runs over pairs of a node and the direction of arrival, and takes
    time linear in the size of the graph.

    Arguments:
        graph: A directed acyclic graph over random variables. Deterministic states have to be eliminated first
            (the compact form): the criterion is sound with them, but misses the independences that follow from
            their being functions of their parents.
        a: A node or a collection of nodes.
        b: Likewise, disjoint from ``a``.
        given: The observed nodes, likewise.

    Returns:
        `True` if no path is active.

    Raises:
        TypeError: If ``graph`` is no directed graph.
        ValueError: If it has a cycle or lacks a node, or if the sets overlap.

    Example:
        >>> graph = nx.DiGraph([("a", "c"), ("b", "c"), ("c", "d")])
        >>> d_separated(graph, "a", "b"), d_separated(graph, "a", "b", given={"d"})
        (True, False)
    """
    sources, targets, observed = _checked(graph, a, b, given)
    seen: set[tuple[Hashable, bool]] = set()
    stack: list[tuple[Hashable, bool]] = [(node, True) for node in sources]  # as if reached from a child
    while stack:
        node, from_child = stack.pop()
        if (node, from_child) in seen:
            continue
        seen.add((node, from_child))
        if node in targets:
            return False
        if node not in observed:  # a chain or a fork passes
            stack.extend((child, False) for child in graph.succ[node])
            if from_child:
                stack.extend((parent, True) for parent in graph.pred[node])
        elif not from_child:  # an observed collider; an observed descendant sends the ball back up to its collider
            stack.extend((parent, True) for parent in graph.pred[node])
    return True


@dataclass(frozen=True)
class Junction:
    """What one inner node does to a path.

    Arguments:
        node: The node.
        rule: How the path's two arrows meet in it.
        blocks: Whether it blocks the path.
        reason: Why, in words.
    """

    node: Hashable
    rule: Rule
    blocks: bool
    reason: str

    def __str__(self) -> str:
        return f"{node_label(self.node)}, {self.rule}: {self.reason}"


@dataclass(frozen=True)
class Path:
    """A path between two nodes, and what each node on it does.

    Arguments:
        nodes: From one end to the other.
        arrows: ``"->"`` or ``"<-"`` between each pair of neighbours.
        junctions: One per inner node.
    """

    nodes: tuple[Hashable, ...]
    arrows: tuple[str, ...]
    junctions: tuple[Junction, ...]

    @property
    def active(self) -> bool:
        """Whether no node blocks it."""
        return not any(junction.blocks for junction in self.junctions)

    @property
    def blocked_by(self) -> tuple[Junction, ...]:
        """The junctions that block it."""
        return tuple(junction for junction in self.junctions if junction.blocks)

    def __str__(self) -> str:
        parts = [node_label(self.nodes[0])]
        for arrow, node in zip(self.arrows, self.nodes[1:], strict=True):
            parts += [arrow, node_label(node)]
        shown = self.blocked_by or self.junctions
        lines = [f"{' '.join(parts)}   {'active' if self.active else 'blocked'}"]
        if not self.junctions:
            lines.append("    neighbours: nothing stands between them")
        return "\n".join(lines + [f"    {junction}" for junction in shown])


@dataclass(frozen=True)
class Explanation:
    """Why two sets of nodes are d-separated or not. Print it to read it.

    Arguments:
        separated: The verdict of `d_separated`.
        paths: The paths between them without repeated nodes, short ones first.
        complete: Whether ``paths`` holds all of them.
    """

    separated: bool
    paths: tuple[Path, ...]
    complete: bool

    @property
    def active_paths(self) -> tuple[Path, ...]:
        """The paths along which information flows."""
        return tuple(path for path in self.paths if path.active)

    def __str__(self) -> str:
        count = f"{len(self.paths)} path{'s' if len(self.paths) != 1 else ''}"
        verdict = "d-separated" if self.separated else "not d-separated"
        rest = "" if self.complete else " (the shortest; there are more)"
        return "\n".join([f"{verdict}; {count}{rest}", *map(str, self.paths)])


def _junction(
    graph: nx.DiGraph, before: Hashable, node: Hashable, after: Hashable, observed: set[Hashable]
) -> Junction:
    into, out_of = graph.has_edge(before, node), graph.has_edge(after, node)
    if into and out_of:
        evidence = sorted(node_label(n) for n in observed & nx.descendants(graph, node))
        if node in observed:
            return Junction(node, "head-to-head", False, "observed, so it opens the path")
        if evidence:
            return Junction(
                node,
                "head-to-head",
                False,
                f"not observed, but its descendant {' and '.join(evidence)} is, so it opens the path",
            )
        return Junction(node, "head-to-head", True, "neither it nor a descendant is observed, so it blocks the path")
    rule: Rule = "head-to-tail" if into or out_of else "tail-to-tail"
    if node in observed:
        return Junction(node, rule, True, "observed, so it blocks the path")
    return Junction(node, rule, False, "not observed, so the path passes")


def _path(graph: nx.DiGraph, nodes: tuple[Hashable, ...], observed: set[Hashable]) -> Path:
    pairs = itertools.pairwise(nodes)
    arrows = tuple("->" if graph.has_edge(first, second) else "<-" for first, second in pairs)
    triples = zip(nodes, nodes[1:], nodes[2:], strict=False)
    return Path(nodes, arrows, tuple(_junction(graph, *triple, observed) for triple in triples))


_MOST_PARTIAL_PATHS = 200_000
"""Where `explain` gives up listing: a bound on memory in large, dense graphs."""


def explain(graph: nx.DiGraph, a: Any, b: Any, given: Any = (), *, limit: int = 1000) -> Explanation:
    """Every path between ``a`` and ``b``, with the node and the rule that blocks it.

    Arguments:
        graph: A directed acyclic graph over random variables.
        a: A node or a collection of nodes.
        b: Likewise, disjoint from ``a``.
        given: The observed nodes, likewise.
        limit: How many paths to list at most. Their number grows exponentially with the graph; the verdict does
            not depend on it.

    Returns:
        The verdict and the paths, short ones first. Printing it gives the argument in words.

    Raises:
        TypeError: If ``graph`` is no directed graph.
        ValueError: As for `d_separated`; or if ``limit`` is not positive.

    Example:
        >>> graph = nx.DiGraph([("a", "c"), ("b", "c"), ("c", "d")])
        >>> print(explain(graph, "a", "b"))
        d-separated; 1 path
        a -> c <- b   blocked
            c, head-to-head: neither it nor a descendant is observed, so it blocks the path
    """
    if limit < 1:
        raise ValueError(f"limit must be at least 1, not {limit}")
    sources, targets, observed = _checked(graph, a, b, given)
    found: list[Path] = []
    queue: deque[tuple[Hashable, ...]] = deque((node,) for node in sorted(sources, key=str))
    while queue and len(found) <= limit and len(queue) < _MOST_PARTIAL_PATHS:
        nodes = queue.popleft()
        for node in (*graph.succ[nodes[-1]], *graph.pred[nodes[-1]]):
            if node in targets:
                found.append(_path(graph, (*nodes, node), observed))
            elif node not in nodes and node not in sources:
                queue.append((*nodes, node))
    complete = not queue and len(found) <= limit
    return Explanation(d_separated(graph, a, b, given), tuple(found[:limit]), complete)


def moral_boundary(graph: nx.DiGraph, node: Hashable, candidates: frozenset[Any]) -> frozenset[Any]:
    """The smallest subset of ``candidates`` that separates ``node`` from the others (its Markov boundary).

    A candidate c belongs to it exactly if c and the node are not d-separated given all other candidates. That
    graph test is the same for every c: in the moral graph of the candidates' and the node's ancestors, c is
    reached from the node without passing through another candidate. One search therefore finds them all.

    Arguments:
        graph: A directed acyclic graph over random variables.
        node: The variable whose conditional is simplified.
        candidates: All that it is conditioned on.

    Returns:
        The candidates that remain. In d-separation this set is unique.
    """
    ancestral = _ancestors(graph, (node, *candidates))
    boundary: set[Hashable] = set()
    seen = {node}
    stack: list[Hashable] = [node]
    while stack:
        current = stack.pop()
        children = [child for child in graph.succ[current] if child in ancestral]
        neighbours = {*graph.pred[current], *children, *(co for child in children for co in graph.pred[child])}
        for neighbour in neighbours - seen:
            seen.add(neighbour)
            if neighbour in candidates:
                boundary.add(neighbour)
            else:
                stack.append(neighbour)
    return frozenset(boundary)
