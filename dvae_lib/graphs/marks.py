"""The marks that graphs are made of, wherever they are drawn: heads of arrows as numbers, circles and arrows as SVG.

`patches` draws the same with matplotlib.
"""

import numpy as np
import numpy.typing as npt

__all__ = ["ARROW", "arrow_head", "svg_arrow", "svg_circle", "svg_element"]

Array = npt.NDArray[np.float64]
Number = float | int
Point = tuple[Number, Number] | Array

ARROW = "#2B313A"
"""The colour of an arrow that has no role of its own."""

NOTCH = 0.88 / 1.12
"""How far behind the tip a head's notch is, in lengths of the head: a line may end there."""


def arrow_head(tip: Point, along: Point, length: Number, *, slim: Number = 0.375) -> Array:
    """The outline of an arrow's head, with a notch at its base.

    Arguments:
        tip: Where it points to.
        along: The direction in which it points, of any length.
        length: From the tip to the ends of the barbs.
        slim: Half its width, in lengths.

    Returns:
        Four corners `(4, 2)`: the tip, one barb, the notch, the other barb.

    Example:
        >>> arrow_head((0.0, 0.0), (2.0, 0.0), 10.0, slim=0.5).round(1).tolist()
        [[0.0, 0.0], [-10.0, 5.0], [-7.9, 0.0], [-10.0, -5.0]]
    """
    end, towards = np.asarray(tip, float), np.asarray(along, float)
    towards = towards / np.linalg.norm(towards)
    across = np.array([-towards[1], towards[0]]) * length * slim
    base = end - length * towards
    return np.array([end, base + across, end - NOTCH * length * towards, base - across])


def svg_element(tag: str, content: str = "", /, **attributes: str | Number) -> str:
    """An SVG element; numbers are written short, and an attribute such as `stroke_width` with its hyphen.

    Example:
        >>> svg_element("circle", r=2.0, stroke_width=3, class_="free")
        '<circle r="2" stroke-width="3" class="free"/>'
    """
    written = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{value if isinstance(value, str) else f"{round(value, 1):g}"}"'
        for name, value in attributes.items()
    )
    return f"<{tag}{written}>{content}</{tag}>" if content else f"<{tag}{written}/>"


def svg_circle(centre: tuple[Number, Number], radius: Number, **attributes: str | Number) -> str:
    """A node of a graph."""
    return svg_element("circle", cx=centre[0], cy=centre[1], r=radius, **attributes)


def svg_arrow(
    start: Point,
    end: Point,
    *,
    radius: Number,
    gap: Number,
    head: Number,
    slim: Number = 0.5,
    colour: str,
    width: Number,
) -> str:
    """An arrow from the rim of one circle to the rim of another.

    Arguments:
        start: Centre of the circle that it leaves.
        end: Centre of the circle that it points to.
        radius: Of both circles.
        gap: What is left free between an arrow and the circles.
        head: Length of its head.
        slim: Half the width of its head, in lengths.
        colour: Of line and head.
        width: Of the line.

    Returns:
        A line and a polygon.
    """
    first, last = np.asarray(start, float), np.asarray(end, float)
    along = (last - first) / np.linalg.norm(last - first)
    tip = last - (radius + gap) * along
    (x1, y1), (x2, y2) = first + (radius + gap) * along, tip - NOTCH * head * along
    corners = " ".join(f"{x:.1f},{y:.1f}" for x, y in arrow_head(tip, along, head, slim=slim))
    line = svg_element("line", x1=x1, y1=y1, x2=x2, y2=y2, stroke=colour, stroke_width=width)
    return line + svg_element("polygon", points=corners, fill=colour)
