"""The figures: graphical models over the frames t-1, t and t+1, in the review's signs."""

import re
from collections.abc import Mapping, Sequence
from typing import cast

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch

from dvae_lib.graphs.arranged import layout
from dvae_lib.graphs.layout import NODE_RADIUS, Array, Arrow, Layout, Picture, bezier
from dvae_lib.graphs.marks import ARROW
from dvae_lib.graphs.patches import add_arrow, add_outline, quadratic_path
from dvae_lib.plotting import CARD, COLOURS

__all__ = ["draw", "layout"]

_LABEL = "#11151C"
_UNIT, _LEGEND_WIDTH = 0.56, 3.7  # inches
_LABEL_SIZE = 11.5  # points
_TIMES = {1: "t-1", 2: "t", 3: "t+1"}
_STROKES: dict[str, tuple[str, float, tuple[float, tuple[float, ...]]]] = {
    "plain": (ARROW, 1.15, (0, ())),
    "end": (ARROW, 1.15, (0, (1.2, 1.6))),
    "extra": (COLOURS["extra"], 2.4, (0, ())),
    "missing": (COLOURS["missing"], 1.9, (0, (4.0, 1.6))),
}
_ORDER = {"extra": 0, "plain": 1, "end": 1, "missing": 2}
_MEANING = {
    "missing": "missing: only the exact posterior has it",
    "extra": "extra: not in the exact posterior",
    "end": "from the first or last frame of the sequence",
}


def draw(pictures: Sequence[Picture]) -> Figure:
    """A figure with one panel a picture, side by side, and a legend of the arrows that need one."""
    layouts = [layout(picture) for picture in pictures]
    boxes = [_box(one) for one in layouts]
    roles = {a.link.role for one in layouts for a in one.arrows} & set(_MEANING)
    widths = [x1 - x0 for x0, x1, _, _ in boxes]
    legend = 0.30 * len(roles) + 0.1 if roles else 0.0  # inches
    gutter = 0.35
    across = sum(widths) * _UNIT + gutter * (len(boxes) - 1)
    size = (max(across, _LEGEND_WIDTH if roles else 0.0), max(y1 - y0 for _, _, y0, y1 in boxes) * _UNIT + legend)
    with mpl.rc_context({"figure.constrained_layout.use": False}):
        figure = Figure(figsize=size, facecolor=CARD)
        left = (size[0] - across) / 2
        for picture, one, (x0, x1, y0, y1) in zip(pictures, layouts, boxes, strict=True):
            width, height = (x1 - x0) * _UNIT, (y1 - y0) * _UNIT
            room = size[1] - legend
            axes = figure.add_axes(
                (left / size[0], (legend + (room - height) / 2) / size[1], width / size[0], height / size[1])
            )
            axes.set_axis_off()
            axes.set(xlim=(x0, x1), ylim=(y0, y1))
            _draw_panel(axes, picture.symbols, one)
            left += width + gutter
        if roles:
            _add_legend(figure, [role for role in _MEANING if role in roles])
    return figure


def _box(one: Layout) -> tuple[float, float, float, float]:
    """What a panel covers, with a margin: x0, x1, y0, y1."""
    points = [bezier(arrow.curve, np.linspace(0, 1, 21)) for arrow in one.arrows]
    for node, centre in one.positions.items():
        radius = one.radius(node)
        points.append(np.array(centre) + radius * np.array([[-1, -1], [1, 1]]))
    everything = np.concatenate(points)
    (x0, y0), (x1, y1) = everything.min(axis=0) - 0.12, everything.max(axis=0) + 0.12
    return float(x0), float(x1), float(y0), float(y1)


def _draw_panel(axes: Axes, symbols: Mapping[str, str], one: Layout) -> None:
    for arrow in sorted(one.arrows, key=lambda a: _ORDER[a.link.role]):
        _draw_arrow(axes, one, arrow)
    for node, kind in one.kinds.items():
        _draw_node(axes, kind, one.positions[node])
        _draw_label(axes, symbols[node[0]], node[1], one.positions[node], kind)


def _tint(colour: str, strength: float) -> tuple[float, float, float]:
    """A colour thinned with white."""
    red, green, blue = mpl.colors.to_rgb(colour)
    return tuple(1 - strength * (1 - part) for part in (red, green, blue))  # type: ignore[return-value]


def _draw_node(axes: Axes, kind: str, centre: tuple[float, float]) -> None:
    colour, size = COLOURS[kind], 2 * NODE_RADIUS[kind]
    fill = "white" if kind in ("latent", "deterministic") else _tint(colour, 0.28)
    add_outline(axes, "diamond" if kind == "deterministic" else "circle", centre, size, size, edge=colour, fill=fill)


def _extent(axes: Axes, text: str, size: float) -> tuple[float, float]:
    """Width and height of a text, in units of the layout."""
    label = axes.text(0, 0, text, fontsize=size, math_fontfamily="cm")
    box = label.get_window_extent()
    label.remove()
    dots = cast(Figure, axes.figure).dpi * _UNIT
    return box.width / dots, box.height / dots


def _draw_label(axes: Axes, symbol: str, time: int | None, centre: tuple[float, float], kind: str) -> None:
    """The name inside its node, smaller where it is long."""
    # Mathtext places arrows over letters off centre: they are drawn by hand.
    arrow = re.search(r"\\over(left|right)arrow\{((?:[^{}]|\{[^{}]*\})*)\}", symbol)
    letter = arrow[2] if arrow else ""
    plain = symbol.replace(arrow[0], letter) if arrow else symbol
    text = f"${plain}$" if time is None else f"${plain}_{{{_TIMES[time]}}}$"
    width, height = _extent(axes, text, _LABEL_SIZE)
    radius = NODE_RADIUS[kind]
    if kind == "deterministic":  # the box must fit a diamond: half its width and height add up to the radius
        room = 2 * 0.97 * radius / (width + 0.8 * height)
    else:
        room = 2 * 0.94 * radius / float(np.hypot(width, 0.8 * height))
    scale = min(1.0, room)
    x, y = centre
    down = 0.04 if arrow else 0.0
    axes.text(
        x, y - down, text, ha="center", va="center", color=_LABEL, zorder=4, math_fontfamily="cm",
        fontsize=_LABEL_SIZE * scale, gid="label",
    )  # fmt: skip
    if arrow:
        left = x - scale * width / 2
        right = left + scale * _extent(axes, f"${letter}$", _LABEL_SIZE)[0]
        ends = (left - 0.01, right + 0.02) if arrow[1] == "right" else (right + 0.02, left - 0.01)
        axes.add_patch(
            FancyArrowPatch(
                (ends[0], y + 0.145), (ends[1], y + 0.145), shrinkA=0, shrinkB=0, color=_LABEL, linewidth=0.75,
                arrowstyle="->,head_length=0.14,head_width=0.1", mutation_scale=10, zorder=4,
            )
        )  # fmt: skip


def _draw_arrow(axes: Axes, one: Layout, arrow: Arrow) -> None:
    colour, width, dashes = _STROKES[arrow.link.role]
    at = np.linspace(0, 1, 401)
    points = bezier(arrow.curve, at)
    start = at[one.outside(arrow.link.parent, points) > 0][0]
    stop = at[one.outside(arrow.link.child, points) > 0][-1]
    tip = bezier(arrow.curve, np.array([stop]))[0]
    head = 0.15 + 0.035 * width
    reach = np.linalg.norm(points - tip, axis=1)
    base = at[(at < stop) & (reach >= head)][-1]
    back = bezier(arrow.curve, np.array([base]))[0]
    line = quadratic_path(_part(arrow.curve, float(start), float(base)))
    length = float(np.linalg.norm(tip - back)) + 0.12 * head  # the line ends between notch and barbs
    zorder = 1 + 0.1 * _ORDER[arrow.link.role]
    add_arrow(axes, line, tip, tip - back, head=length, colour=colour, width=width, dashes=dashes, zorder=zorder)


def _part(curve: Array, start: float, stop: float) -> Array:
    """The control points of a quadratic Bezier curve between two parameters."""
    first, control, last = curve

    def blossom(a: float, b: float) -> Array:
        point: Array = (1 - a) * (1 - b) * first + (a * (1 - b) + b * (1 - a)) * control + a * b * last
        return point

    return np.array([blossom(start, start), blossom(start, stop), blossom(stop, stop)])


def _add_legend(figure: Figure, roles: Sequence[str]) -> None:
    handles = []
    for role in roles:
        colour, width, dashes = _STROKES[role]
        handles.append(Line2D([], [], color=colour, linewidth=width, linestyle=dashes, label=_MEANING[role]))
    figure.legend(
        handles=handles, loc="lower center", frameon=False, fontsize=9, handlelength=2.6, borderaxespad=0.2, ncols=1
    )
