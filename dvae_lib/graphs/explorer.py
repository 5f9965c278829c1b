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

from dvae_lib.graphs.separation import Explanation, explain, node_label

__all__ = ["Explorer", "explore"]

_MOST_NODES = 8
_SCALE, _RADIUS = 92.0, 21.0


@dataclass(frozen=True)
class Explorer:
    """An interactive picture; a notebook shows it as the value of a cell.

    Arguments:
        page: the HTML.
        answers: the explanation for each set of observed nodes.
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
        graph: a directed acyclic graph.
        a: one end of the paths.
        b: the other end.
        positions: where each node stands, in units of about one arrow; y points up.
        observed: what is observed at the start.

    Returns:
        the picture, and the answers it holds.

    Raises:
        ValueError: if a node has no position, or more than eight nodes could be observed (every subset of them
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
    name = "explore-" + hashlib.sha256(text.encode()).hexdigest()[:10]
    width, height = points.max(axis=0) + 1.5 * _RADIUS
    arrows = "".join(_arrow(points[index[p]], points[index[c]], name) for p, c in graph.edges)
    nodes = "".join(_node(i, data, points[i]) for i in range(len(points)))
    parts = {
        "@NAME": name, "@WIDTH": f"{width:.0f}", "@HEIGHT": f"{height:.0f}", "@ARROWS": arrows, "@NODES": nodes,
        "@CARD": CARD, "@OPEN": COLOURS["reconstruction"], "@LATENT": COLOURS["latent"],
        "@OBSERVED": COLOURS["observed"], "@DATA": text,
    }  # fmt: skip
    page = _TEMPLATE
    for mark, part in parts.items():
        page = page.replace(mark, part)
    return page


def _arrow(start: Any, end: Any, name: str) -> str:
    along = (end - start) / np.linalg.norm(end - start)
    (x1, y1), (x2, y2) = start + along * _RADIUS, end - along * (_RADIUS + 3)
    return (
        f'<line class="arrow" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" marker-end="url(#{name}-tip)"/>'
    )


def _node(i: int, data: dict[str, Any], point: Any) -> str:
    name, _, index = str(data["names"][i]).partition("_")
    label = html.escape(name)
    if index:
        label += f'<tspan class="sub" dy="4">{html.escape(index.strip("{}"))}</tspan>'
    free = i in data["toggles"]
    button = f'role="button" tabindex="0" aria-pressed="false" aria-label="observe {html.escape(data["names"][i])}"'
    return (
        f'<g class="node {"free" if free else "end"}" data-node="{i}" {button if free else ""} '
        f'transform="translate({point[0]:.1f},{point[1]:.1f})"><circle r="{_RADIUS}"/>'
        f'<text dy="5">{label}</text><path class="bar" d="M-28 -28L-15 -15M15 15L28 28"/></g>'
    )


_TEMPLATE = """<div id="@NAME" class="dvae-explore"><style>
#@NAME{background:@CARD;color:#1F2430;border:1px solid #D9DCE1;border-radius:8px;padding:12px;max-width:640px;
box-sizing:border-box;font:14px/1.45 system-ui,sans-serif}
#@NAME svg{display:block;width:100%;max-width:@WIDTHpx;height:auto;margin:0 auto}
#@NAME .arrow{stroke:#2B313A;stroke-width:1.6}
#@NAME .node circle{fill:#fff;stroke:@LATENT;stroke-width:2}
#@NAME .end circle{stroke:#1F2430;stroke-width:3}
#@NAME .free{cursor:pointer}
#@NAME .free:focus{outline:none}
#@NAME .free:focus-visible circle{stroke-dasharray:3 2}
#@NAME .on circle{fill:#C9CED6;stroke:@OBSERVED}
#@NAME .node text{font:italic 700 17px Georgia,serif;text-anchor:middle;fill:#11151C;pointer-events:none}
#@NAME .sub{font-size:12px}
#@NAME .bar{stroke:#8A1C1C;stroke-width:3.5;visibility:hidden}
#@NAME .wall .bar{visibility:visible}
#@NAME .trail{fill:none;stroke:@OPEN;stroke-width:11;stroke-opacity:.33;stroke-linejoin:round;stroke-linecap:round}
#@NAME .verdict{font-weight:600;margin:8px 0 4px;color:#1F2430}
#@NAME ul{margin:0;padding:0;list-style:none}
#@NAME li{margin:6px 0;padding-left:9px;border-left:4px solid #A7AEB8;color:#1F2430}
#@NAME li.open{border-color:@OPEN}
#@NAME li small{display:block;color:#4A525E;font-size:12.5px}
</style>
<div>Click a node to observe it, click again to hide it.</div>
<svg viewBox="0 0 @WIDTH @HEIGHT" role="group" aria-label="graph with nodes that can be observed">
<defs><marker id="@NAME-tip" viewBox="0 0 10 10" refX="7" refY="5" markerWidth="6.5" markerHeight="6.5" orient="auto">
<path d="M0 0L10 5L0 10L2.5 5z" fill="#2B313A"/></marker></defs>
<g class="trails"></g>@ARROWS@NODES</svg>
<div class="verdict" aria-live="polite"></div><ul></ul>
<script>(function(){
var d=@DATA,root=document.getElementById("@NAME");if(!root||root.dataset.ready)return;root.dataset.ready="1";
var on={};d.start.forEach(function(i){on[i]=true});
var nodes={};root.querySelectorAll(".node").forEach(function(n){nodes[n.dataset.node]=n});
function draw(){
var key=d.toggles.map(function(i){return on[i]?"1":"0"}).join(""),r=d.answers[key],walls={};
var list=root.querySelector("ul"),trails=root.querySelector(".trails");list.textContent="";trails.textContent="";
r.paths.forEach(function(p){
p.blocks.forEach(function(i){walls[i]=true});
if(p.open){var t=document.createElementNS("http://www.w3.org/2000/svg","polyline");t.setAttribute("class","trail");
t.setAttribute("points",p.nodes.map(function(i){return d.points[i].join(",")}).join(" "));trails.appendChild(t)}
var li=document.createElement("li");li.className=p.open?"open":"";
li.textContent=p.text+(p.open?"  is open":"  is blocked");
p.why.forEach(function(w){var s=document.createElement("small");s.textContent=w;li.appendChild(s)});
list.appendChild(li)});
Object.keys(nodes).forEach(function(i){var n=nodes[i];n.classList.toggle("on",!!on[i]);
n.classList.toggle("wall",!!walls[i]);
if(n.hasAttribute("aria-pressed"))n.setAttribute("aria-pressed",on[i]?"true":"false")});
var given=d.toggles.filter(function(i){return on[i]}).map(function(i){return d.names[i]}).join(", ");
root.querySelector(".verdict").textContent=d.ends.join(" and ")+(r.separated?" are d-separated":" are not d-separated")+
(given?" given "+given:" with nothing observed")}
d.toggles.forEach(function(i){function flip(e){on[i]=!on[i];draw();e.preventDefault()}
nodes[i].addEventListener("click",flip);
nodes[i].addEventListener("keydown",function(e){if(e.key==="Enter"||e.key===" ")flip(e)})});
draw()})();</script></div>"""
