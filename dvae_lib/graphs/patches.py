"""The marks that graphs are made of, drawn with matplotlib: outlines of nodes, and arrows along a path."""

from itertools import pairwise
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.patches import Ellipse, FancyBboxPatch, Patch, PathPatch, Polygon
from matplotlib.path import Path

from dvae_lib.graphs.marks import Array, arrow_head

__all__ = ["SOLID", "Shape", "add_arrow", "add_outline", "cubic_path", "quadratic_path"]

Shape = Literal["circle", "diamond", "box", "pill"]
Dashes = tuple[float | int, tuple[float | int, ...]]

SOLID: Dashes = (0, ())


def add_outline(
    axes: Axes, shape: Shape, centre: tuple[float, float], width: float, height: float, *, edge: Any, fill: Any
) -> None:
    """The outline of a node, filled: a circle, a diamond, a box with round corners, or a pill.

    Arguments:
        axes: Where it is drawn.
        shape: Which of the four.
        centre: Its centre, in the axes' units.
        width: Its width.
        height: Its height.
        edge: Colour of the outline.
        fill: Colour inside.
    """
    style: dict[str, Any] = {"facecolor": fill, "edgecolor": edge, "linewidth": 1.5, "zorder": 3}
    x, y = centre
    patch: Patch
    if shape == "circle":
        patch = Ellipse(centre, width, height, **style)
    elif shape == "diamond":
        corners = [(x - width / 2, y), (x, y + height / 2), (x + width / 2, y), (x, y - height / 2)]
        patch = Polygon(corners, closed=True, joinstyle="round", **style)
    else:
        rounding = 0.05 if shape == "box" else height / 2
        patch = FancyBboxPatch(
            (x - width / 2, y - height / 2), width, height, boxstyle=f"round,pad=0,rounding_size={rounding}", **style
        )
    axes.add_patch(patch)


def quadratic_path(curve: Array) -> Path:
    """A quadratic Bezier curve with control points `(3, 2)`."""
    return Path(curve, [Path.MOVETO, Path.CURVE3, Path.CURVE3])


def cubic_path(points: npt.ArrayLike) -> Path:
    """A smooth line through points `(n, 2)` one below the other, upright at each."""
    stops = np.asarray(points, float)
    vertices = [stops[0]]
    for first, second in pairwise(stops):
        middle = (first[1] + second[1]) / 2
        vertices += [np.array([first[0], middle]), np.array([second[0], middle]), second]
    return Path(np.array(vertices), [Path.MOVETO, *[Path.CURVE4] * (len(vertices) - 1)])


def add_arrow(
    axes: Axes,
    path: Path,
    tip: Array | tuple[float, float],
    along: Array | tuple[float, float],
    *,
    head: float,
    colour: Any,
    width: float,
    dashes: Dashes = SOLID,
    zorder: float = 1.0,
) -> None:
    """A line with a head.

    Arguments:
        axes: Where it is drawn.
        path: The line, up to the notch of the head.
        tip: Where the head points to.
        along: The direction in which it points.
        head: Its length, in the axes' units.
        colour: Of line and head.
        width: Of the line, in points.
        dashes: Of the line, as matplotlib writes them.
        zorder: Of the line; the head is just above it.
    """
    line = PathPatch(
        path, facecolor="none", edgecolor=colour, linewidth=width, linestyle=dashes, capstyle="butt", zorder=zorder
    )
    axes.add_patch(line)
    corners = arrow_head(tip, along, head)
    axes.add_patch(Polygon(corners, closed=True, facecolor=colour, edgecolor="none", zorder=zorder + 0.05))
