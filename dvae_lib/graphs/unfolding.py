"""From the developed to the compact form: unfold the recurrences until only random variables remain.

This is Appendix A of the review, as an operation on graphs: a deterministic state is replaced by what it is a
function of.
"""

from collections.abc import Iterable

import networkx as nx

from dvae_lib.graphs.ranges import Node

__all__ = ["without_deterministic"]


def without_deterministic(graph: "nx.DiGraph") -> "nx.DiGraph":
    """Connect random variables directly where the developed graph does so through deterministic states.

    Arguments:
        graph: An acyclic graph whose nodes have the attribute ``kind``.

    Returns:
        The graph over the nodes of other kinds than ``"deterministic"``.
    """
    sources: dict[Node, set[Node]] = {}  # what each deterministic state is a function of

    def expanded(parents: Iterable[Node]) -> set[Node]:
        return {s for p in parents for s in sources.get(p, {p})}

    for node in nx.topological_sort(graph):
        if graph.nodes[node]["kind"] == "deterministic":
            sources[node] = expanded(graph.pred[node])
    compact = nx.DiGraph()
    compact.add_nodes_from((node, data) for node, data in graph.nodes(data=True) if node not in sources)
    compact.add_edges_from((p, node) for node in compact for p in expanded(graph.pred[node]))
    return compact
