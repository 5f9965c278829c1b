"""Rows and columns of a drawing of boxes: who stands how far down and how far across, with few crossings.

The method is Sugiyama's (1981): levels, an order within each by the neighbours' places, then the places themselves.
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import networkx as nx
import numpy as np

from dvae_lib.graphs.layout import crossings

__all__ = ["columns", "levels", "ordered_rows"]


def levels(nodes: Iterable[Any], arrows: Iterable[tuple[Any, Any]]) -> dict[Any, int]:
    """The row of each node: as low as those that it leads to allow."""
    graph = nx.DiGraph(list(arrows))
    graph.add_nodes_from(nodes)
    to_end: dict[Any, int] = {}
    for node in reversed(list(nx.lexicographical_topological_sort(graph, key=str))):
        to_end[node] = 1 + max((to_end[child] for child in graph.succ[node]), default=-1)
    last = max(to_end.values())
    return {node: last - steps for node, steps in to_end.items()}


def ordered_rows(
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
        if (count := _crossings(rows, links)) < least:
            best, least = [list(row) for row in rows], count
    return best, chains


def _crossings(rows: list[list[Any]], links: list[tuple[Any, Any]]) -> int:
    """How often links between neighbouring rows cross."""
    place = {key: (level, i) for level, row in enumerate(rows) for i, key in enumerate(row)}
    segments = np.array([(place[a], place[b]) for a, b in links], dtype=float).reshape(-1, 2, 2)
    return crossings(segments, segments) // 2


def columns(
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
