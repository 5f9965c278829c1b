"""A graph to play with: choose what is observed and see which paths close.

The picture is a piece of HTML that needs no kernel and no network: the answers for all choices are computed here, by
`explain`, and shipped with it. It works in a notebook, in Colab and on a published page.
"""

import hashlib
import html
import itertools
import json
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import networkx as nx
import numpy as np

from dvae_lib.graphs.marks import ARROW, svg_arrow, svg_circle, svg_element
from dvae_lib.graphs.separation import Explanation, explain, node_label
from dvae_lib.resources import widget

__all__ = ["Explorer", "explore"]

_MOST_NODES = 8
_SCALE, _RADIUS = 92.0, 21.0


@dataclass(frozen=True)
class Explorer:
    """An interactive picture; a notebook shows it as the value of a cell.

    Arguments:
        page: The HTML.
        answers: The explanation for each set of observed nodes.
    """

    page: str
    answers: Mapping[frozenset[Hashable], Explanation]

    def _repr_html_(self) -> str:
        return self.page


def explore(
    graph: nx.DiGraph,
    a: Hashable,
    b: Hashable,
    *,
    positions: Mapping[Any, tuple[float | int, float | int]],
    observed: Iterable[Hashable] = (),
) -> Explorer:
    """Let the reader choose the observed nodes between ``a`` and ``b``.

    Arguments:
        graph: A directed acyclic graph.
        a: One end of the paths.
        b: The other end.
        positions: Where each node stands, in units of about one arrow; y points up.
        observed: What is observed at the start.

    Returns:
        The picture, and the answers it holds.

    Raises:
        ValueError: If a node has no position, or more than eight nodes could be observed (every subset of them
            is computed beforehand).
    """
    chosen = set(observed)
    toggles = [node for node in graph if node not in (a, b)]
    lacking = [node_label(node) for node in graph if node not in positions]
    if lacking:
        raise ValueError(f"positions lacks {', '.join(lacking)}")
    if len(toggles) > _MOST_NODES:
        raise ValueError(
            f"at most {_MOST_NODES} nodes besides the two ends can be chosen; the graph has {len(toggles)}"
        )
    if not chosen <= set(toggles):
        raise ValueError("observed must be nodes of the graph other than a and b")
    subsets = [frozenset(s) for n in range(len(toggles) + 1) for s in itertools.combinations(toggles, n)]
    answers = {subset: explain(graph, a, b, subset) for subset in subsets}
    index = {node: i for i, node in enumerate(graph)}

    def described(explanation: Explanation) -> dict[str, Any]:
        paths = []
        for path in explanation.paths:
            shown = path.blocked_by or path.junctions
            paths.append(
                {
                    "nodes": [index[node] for node in path.nodes],
                    "text": str(path).split("   ")[0].replace("->", "\u2192").replace("<-", "\u2190"),
                    "open": path.active,
                    "why": [str(junction) for junction in shown],
                    "blocks": [index[junction.node] for junction in path.blocked_by],
                }
            )
        return {"separated": explanation.separated, "paths": paths}

    data = {
        "toggles": [index[node] for node in toggles],
        "start": [index[node] for node in toggles if node in chosen],
        "names": [node_label(node) for node in graph],
        "ends": [node_label(a), node_label(b)],
        "answers": {
            "".join("1" if node in subset else "0" for node in toggles): described(answer)
            for subset, answer in answers.items()
        },
    }
    points = np.array([positions[node] for node in graph], dtype=float) * (_SCALE, -_SCALE)
    points = points - points.min(axis=0) + 1.5 * _RADIUS
    return Explorer(_page(graph, data, points, index), answers)


def _page(graph: nx.DiGraph, data: dict[str, Any], points: Any, index: Mapping[Hashable, int]) -> str:
    from dvae_lib.plotting import CARD, COLOURS  # with matplotlib, which only drawing needs

    data = {**data, "points": points.round(1).tolist()}
    text = json.dumps(data, ensure_ascii=False).replace("</", "<\\/")
    width, height = points.max(axis=0) + 1.5 * _RADIUS
    arrows = [
        svg_arrow(points[index[p]], points[index[c]], radius=_RADIUS, gap=0.0, head=10.4, colour=ARROW, width=1.6)
        for p, c in graph.edges
    ]
    return widget(
        "separation_explorer.html",
        NAME="explore-" + hashlib.sha256(text.encode()).hexdigest()[:10],
        WIDTH=f"{width:.0f}",
        HEIGHT=f"{height:.0f}",
        ARROWS="".join(arrows),
        NODES="".join(_node(i, data, point) for i, point in enumerate(points)),
        CARD=CARD,
        OPEN=COLOURS["reconstruction"],
        LATENT=COLOURS["latent"],
        OBSERVED=COLOURS["observed"],
        DATA=text,
    )


def _node(i: int, data: dict[str, Any], point: Any) -> str:
    name, _, index = str(data["names"][i]).partition("_")
    label = html.escape(name)
    if index:
        label += svg_element("tspan", html.escape(index.strip("{}")), class_="sub", dy=4)
    free = i in data["toggles"]
    spoken = html.escape(f"observe {data['names'][i]}")
    button = {"role": "button", "tabindex": "0", "aria_pressed": "false", "aria_label": spoken} if free else {}
    return svg_element(
        "g",
        svg_circle((0, 0), _RADIUS)
        + svg_element("text", label, dy=5)
        + svg_element("path", class_="bar", d="M-28 -28L-15 -15M15 15L28 28"),
        class_=f"node {'free' if free else 'end'}",
        data_node=str(i),
        transform=f"translate({point[0]:.1f},{point[1]:.1f})",
        **button,
    )
