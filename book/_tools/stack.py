"""Draw a figure of matplotlib's once more for a phone: its panels that stand side by side stand below each other.

An SVG file has one group for each of the figure's axes. Where nothing crosses the gap between two of them, the figure
comes apart there, and each part, with its colour bar, moves as it is. What belongs to all panels is shown by each:
a panel that shares the vertical axis of its left neighbour gets the labels that stand there. A title and a legend
above all panels stay above, a legend below them below. In all other cases, and in doubt, a figure stays as it is.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import numpy as np

SVG = "{http://www.w3.org/2000/svg}"
LINK = "{http://www.w3.org/1999/xlink}href"
UNSEEN = {f"{SVG}{name}" for name in ("defs", "clipPath", "style", "metadata", "title", "desc")}
STEP = re.compile(r"(\w+)\(([^)]*)\)")
COMMAND = re.compile(r"[MLQCzZ]")
GAP = 3.0  # points between panels without which nothing comes apart
MARGIN = 6.0  # points around what is drawn
BETWEEN = 12.0  # points from one panel to the next, below it
TALLEST = 1400.0  # points: a little more than two screens of a phone
BAR = 0.15  # a colour bar's width, in heights, is less
TITLE = 1.25  # what stands above or below all panels is no wider than this many panels

Matrix = tuple[float, float, float, float, float, float]
AS_IT_IS: Matrix = (1, 0, 0, 1, 0, 0)

ElementTree.register_namespace("", SVG[1:-1])
ElementTree.register_namespace("xlink", LINK[1:-5])


class UnclearError(Exception):
    """The figure has something of which one can't tell where it belongs."""


@dataclass(frozen=True)
class Box:
    """A rectangle, in points from the figure's upper left corner."""

    left: float
    top: float
    right: float
    bottom: float

    def __or__(self, other: Box) -> Box:
        return Box(
            min(self.left, other.left),
            min(self.top, other.top),
            max(self.right, other.right),
            max(self.bottom, other.bottom),
        )

    def __and__(self, other: Box) -> Box | None:
        left, top = max(self.left, other.left), max(self.top, other.top)
        right, bottom = min(self.right, other.right), min(self.bottom, other.bottom)
        return Box(left, top, right, bottom) if left <= right and top <= bottom else None

    def right_by(self, distance: float) -> Box:
        """The same one elsewhere."""
        return Box(self.left + distance, self.top, self.right + distance, self.bottom)

    @property
    def width(self) -> float:
        """From left to right."""
        return self.right - self.left

    @property
    def height(self) -> float:
        """From top to bottom."""
        return self.bottom - self.top


@dataclass
class Part:
    """A group of the figure: one of its axes, or what belongs to the figure as a whole."""

    number: int  # later parts are drawn over earlier ones
    group: Element
    ink: Box
    frame: Box | None = None  # of axes: the rectangle in which they draw

    @property
    def kind(self) -> str:
        """What matplotlib calls it: axes, text, legend, ..."""
        return self.group.get("id", "").rpartition("_")[0]

    @property
    def has_pixels(self) -> bool:
        """Whether it shows a picture, or cells of colour."""
        return any(e.tag == f"{SVG}image" or e.get("id", "").startswith("QuadMesh") for e in self.group.iter())

    @property
    def is_bar(self) -> bool:
        """Whether it is a colour bar."""
        return self.frame is not None and self.frame.width < BAR * self.frame.height and self.has_pixels


@dataclass
class Block:
    """What moves together: the parts of a column of the figure, and copies of labels, with the way to their places."""

    parts: list[Part]
    copies: list[tuple[Element, float]] = field(default_factory=list)
    borrowed: list[Box] = field(default_factory=list)

    @property
    def ink(self) -> Box:
        """All that it draws."""
        return union([*(part.ink for part in self.parts), *self.borrowed])

    @property
    def edge(self) -> float:
        """Where its axes begin, right of their labels."""
        return min((part.frame.left for part in self.parts if part.frame is not None), default=self.ink.left)


def stacked(drawing: str) -> str | None:
    """The figure with its panels below each other; None where they must stay where they are.

    Arguments:
        drawing: An SVG file as matplotlib writes it.
    """
    try:
        root = ElementTree.fromstring(drawing)
        figure = root.find(f"{SVG}g[@id='figure_1']")
        if figure is None:
            return None
        background, above, columns, below = come_apart(figure, Sizes(root))
    except (UnclearError, ElementTree.ParseError):
        return None
    widest = max(column.ink.width for column in columns)
    if len(columns) < 2 or any(block.ink.width > TITLE * widest for block in above + below):
        return None
    # The axes stand in one line, whatever the width of the labels left of them.
    inset = max(column.edge - column.ink.left for column in columns)
    width = max(*(column.ink.right - column.edge + inset for column in columns), *(b.ink.width for b in above + below))
    placed, y = [], MARGIN
    for block in above + columns + below:
        ink = block.ink
        left = inset - (block.edge - ink.left) if block in columns else (width - ink.width) / 2
        placed.append((block, MARGIN + left - ink.left, y - ink.top))
        y += ink.height + BETWEEN
    width, height = width + 2 * MARGIN, y - BETWEEN + MARGIN
    return written(root, background, placed, width, height) if height <= TALLEST else None


def come_apart(figure: Element, sizes: Sizes) -> tuple[str, list[Block], list[Block], list[Block]]:
    """A figure's background, as a style, and what stands above all panels, the columns of panels, and what is below.

    Raises:
        UnclearError: if something belongs to no column, or to one of several.
    """
    background, parts = "", []
    for number, group in enumerate(figure):
        ink = sizes.ink(group)
        if not background and group.get("id") == "patch_1":
            background = group[0].get("style", "")
        elif ink is not None:
            parts.append(Part(number, group, ink, sizes.frame(group)))
    axes = [part for part in parts if part.kind == "axes"]
    if len(axes) < 2 or not background:
        raise UnclearError("one panel")
    if not all(axes_of(part.group) for part in axes):
        raise UnclearError("a graph, or another drawing without axes")
    panels = union([part.ink for part in axes])
    above = [part for part in parts if part.kind in ("text", "legend") and part.ink.bottom <= panels.top]
    below = [part for part in parts if part.kind == "legend" and part.ink.top >= panels.bottom]
    if max(len([part for part in above if part.kind == kind]) for kind in ("text", "legend")) > 1 or len(below) > 1:
        raise UnclearError("titles that may be for one panel each")
    columns = columns_of([part for part in parts if part not in above + below])
    for position, column in enumerate(columns):
        others = [part for other in columns[:position] for part in other.parts]
        for part in column.parts:
            if part.kind == "axes" and not part.is_bar:
                check_row(part, column, others, sizes)
                borrow_labels(part, column, others, sizes)
    return background, [Block(above)] if above else [], columns, [Block(below)] if below else []


def columns_of(parts: list[Part]) -> list[Block]:
    """The parts from left to right, those together between which there is no gap, and colour bars with their panels."""
    columns: list[Block] = []
    for part in sorted(parts, key=lambda part: part.ink.left):
        if part.kind in ("text", "legend"):
            raise UnclearError("a label that belongs to all panels, or to none")
        if columns and part.ink.left < columns[-1].ink.right + GAP:
            columns[-1].parts.append(part)
        else:
            columns.append(Block([part]))
    joined: list[Block] = []
    barred: list[bool] = []
    for column in columns:
        if all(part.kind != "axes" for part in column.parts):
            raise UnclearError("something beside the panels")
        bar = any(part.is_bar for part in column.parts)
        if all(part.is_bar for part in column.parts):
            if not joined:
                raise UnclearError("a colour bar on the left")
            joined[-1].parts += column.parts
            barred[-1] = True
        else:
            joined.append(column)
            barred.append(bar)
    coloured = [any(part.has_pixels or has_dots(part.group) for part in column.parts) for column in joined]
    if any(barred) and any(has and not own for has, own in zip(coloured, barred, strict=True)):
        raise UnclearError("a colour bar that may be for several panels")
    return joined


def has_dots(group: Element) -> bool:
    """Whether axes have a scatter of points, which may be coloured by a value."""
    return any(element.get("id", "").startswith("PathCollection") for element in group.iter())


def vertical_ticks(group: Element) -> list[Element]:
    """The ticks of axes' vertical axis, with their labels."""
    return [tick for axis in axes_of(group) for tick in axis if tick.get("id", "").startswith("ytick_")]


def axes_of(group: Element) -> list[Element]:
    """The horizontal and the vertical axis, as groups; not those of smaller axes that are drawn inside."""
    return [child for child in group if child.get("id", "").startswith("matplotlib.axis_")]


def check_row(part: Part, column: Block, others: list[Part], sizes: Sizes) -> None:
    """Among several rows, a panel must say itself what its neighbours on the left say of their row.

    Raises:
        UnclearError: if one of those has a title, or a name on its vertical axis, and this one has none.
    """
    rows = [other for other in column.parts if other.frame is not None and not other.is_bar]
    if part.frame is None or all(beside(other.frame, part.frame) for other in rows):
        return
    own = [other for other in rows if beside(other.frame, part.frame)]
    left = [other for other in others if beside(other.frame, part.frame) and not other.is_bar]
    if any(has_title(other, sizes) for other in left) and not any(has_title(other, sizes) for other in own):
        raise UnclearError("a title that may be for its row")
    numbered = any(labels_of(other.group, sizes) for other in own)
    if numbered and any(names_of(other.group) for other in left) and not any(names_of(other.group) for other in own):
        raise UnclearError("a name that may be for its row")


def has_title(part: Part, sizes: Sizes) -> bool:
    """Whether something is written above axes."""
    inks = [sizes.ink(child) for child in part.group if is_text(child)]
    return part.frame is not None and any(ink is not None and ink.bottom < part.frame.top + 1 for ink in inks)


def names_of(group: Element) -> list[Element]:
    """What is written beside the vertical axis of axes, apart from the labels of its ticks."""
    vertical = [axis for axis in axes_of(group) if any(child.get("id", "").startswith("ytick_") for child in axis)]
    return [child for axis in vertical for child in axis if is_text(child)]


def borrow_labels(part: Part, column: Block, others: list[Part], sizes: Sizes) -> None:
    """Give axes without labels on their vertical axis those of the axes that they share it with.

    Raises:
        UnclearError: if neighbours at the same height have labels, but for other ticks.
    """
    if part.frame is None or labels_of(part.group, sizes):
        return
    own = marks_of(part, sizes)
    if not part.has_pixels and not vertical_ticks(part.group):
        return  # bars, say, whose vertical axis means nothing
    for other in reversed(others):
        if other.is_bar or not beside(other.frame, part.frame):
            continue
        labels = labels_of(other.group, sizes)
        if labels and (not own or marks_of(other, sizes) != own):
            raise UnclearError("labels that may be for the panels beside, too")
        for label, ink in labels:
            way = part.frame.left - other.frame.left if other.frame is not None else 0.0
            column.copies.append((label, way))
            column.borrowed.append(ink.right_by(way))
        if labels:
            return


def beside(one: Box | None, other: Box | None) -> bool:
    """Whether there are two frames that begin and end at the same height."""
    if one is None or other is None:
        return False
    return abs(one.top - other.top) < 0.1 and abs(one.bottom - other.bottom) < 0.1


def labels_of(group: Element, sizes: Sizes) -> list[tuple[Element, Box]]:
    """The numbers or names at the ticks of axes' vertical axis and what is written beside; nothing without the first.

    They are in the axis' group: each tick's own group holds its text, and what is written beside comes after them.
    """
    found: list[tuple[Element, Box]] = []
    for axis in axes_of(group):
        ticks = [child for child in axis if child.get("id", "").startswith("ytick_")]
        texts = [text for tick in ticks for text in tick if is_text(text)]
        if any(sizes.ink(text) for text in texts):
            both = [*texts, *(child for child in axis if is_text(child))]
            found += [(text, ink) for text in both if (ink := sizes.ink(text)) is not None]
    return found


def is_text(element: Element) -> bool:
    """Whether it is a group of letters."""
    return element.get("id", "").startswith("text_")


def marks_of(part: Part, sizes: Sizes) -> list[tuple[float, float]]:
    """Where the marks of axes' vertical axis stand, from their left edge and the figure's top."""
    assert part.frame is not None
    uses = [use for tick in vertical_ticks(part.group) for use in tick.iter(f"{SVG}use") if use.get("y") is not None]
    found = [(float(use.get("x", 0)) - part.frame.left, float(use.get("y", 0))) for use in uses]
    return sorted((round(x, 1), round(y, 1)) for x, y in found)


def written(
    root: Element, background: str, placed: list[tuple[Block, float, float]], width: float, height: float
) -> str:
    """The new figure as an SVG file."""
    size = {"width": f"{width:.6g}pt", "height": f"{height:.6g}pt", "viewBox": f"0 0 {width:.6g} {height:.6g}"}
    new = Element(f"{SVG}svg", {**size, "version": "1.1"})
    new.extend(child for child in root if child.tag == f"{SVG}defs")
    figure = ElementTree.SubElement(new, f"{SVG}g", {"id": "figure_1"})
    ElementTree.SubElement(
        figure,
        f"{SVG}path",
        {"d": f"M 0 0 L {width:.6g} 0 L {width:.6g} {height:.6g} L 0 {height:.6g} z", "style": background},
    )
    for block, x, y in placed:
        group = ElementTree.SubElement(figure, f"{SVG}g", {"transform": f"translate({x:.6g} {y:.6g})"})
        group.extend(part.group for part in sorted(block.parts, key=lambda part: part.number))
        for label, way in block.copies:
            ElementTree.SubElement(group, f"{SVG}use", {LINK: f"#{label.get('id')}", "x": f"{way:.6g}"})
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(new, encoding="unicode") + "\n"


class Sizes:
    """How far the elements of a drawing reach, within the frames that cut them off."""

    def __init__(self, root: Element):
        self.named = {name: element for element in root.iter() if (name := element.get("id")) is not None}
        self.known: dict[str, Box | None] = {}

    def frame(self, group: Element) -> Box | None:
        """The rectangle in which axes draw: matplotlib fills it first."""
        filled = axes_of(group) and group[0].get("id", "").startswith("patch_")
        return self.ink(group[0]) if filled else None

    def ink(self, element: Element, matrix: Matrix = AS_IT_IS) -> Box | None:
        """How far an element reaches; control points of curves count, too. None where it draws nothing.

        Raises:
            UnclearError: for an element of which one can't tell.
        """
        if element.tag in UNSEEN:
            return None
        inner = product(matrix, transformation(element.get("transform", "")))
        if element.tag == f"{SVG}g":
            boxes = [box for child in element if (box := self.ink(child, inner)) is not None]
            found = union(boxes) if boxes else None
        elif element.tag == f"{SVG}path":
            found = moved(points_of(element.get("d", "")), inner)
        elif element.tag == f"{SVG}use":
            way = (1, 0, 0, 1, float(element.get("x", 0)), float(element.get("y", 0)))
            found = self.used(element.get(LINK, "")[1:], product(inner, way))
        elif element.tag in (f"{SVG}image", f"{SVG}rect"):
            x, y, width, height = (float(element.get(name, 0)) for name in ("x", "y", "width", "height"))
            found = moved(np.array([[x, y], [x + width, y + height]]), inner)
        else:
            raise UnclearError(element.tag)
        clip = re.fullmatch(r"url\(#(.+)\)", element.get("clip-path", ""))
        if clip is None or found is None:
            return found
        limits = [box for child in self.named[clip[1]] if (box := self.ink(child, inner)) is not None]
        return found & union(limits) if limits else None

    def used(self, name: str, matrix: Matrix) -> Box | None:
        """How far a copy of a named element reaches: of letters and of the marks of curves and ticks."""
        if name not in self.known:
            self.known[name] = self.ink(self.named[name]) if name in self.named else None
        box = self.known[name]
        if box is None:
            return None
        corners = [[x, y] for x in (box.left, box.right) for y in (box.top, box.bottom)]
        return moved(np.array(corners), matrix)


def union(boxes: list[Box]) -> Box:
    """The smallest box around boxes."""
    found = boxes[0]
    for box in boxes[1:]:
        found |= box
    return found


def points_of(path: str) -> np.ndarray:
    """The points of a path as matplotlib writes it, with absolute coordinates, in pairs."""
    try:
        numbers = np.array(COMMAND.sub(" ", path).split(), float)
        return numbers.reshape(-1, 2)
    except ValueError as error:
        raise UnclearError("a path with other commands") from error


def moved(points: np.ndarray, matrix: Matrix) -> Box | None:
    """The box around points that are transformed."""
    points = points[np.isfinite(points).all(axis=1)]
    if not len(points):
        return None
    # Of the box around them: for what is turned by other angles than right ones that is too much, never too little.
    (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
    a, b, c, d, e, f = matrix
    xs = [a * x + c * y + e for x in (left, right) for y in (top, bottom)]
    ys = [b * x + d * y + f for x in (left, right) for y in (top, bottom)]
    return Box(float(min(xs)), float(min(ys)), float(max(xs)), float(max(ys)))


def product(one: Matrix, other: Matrix) -> Matrix:
    """Two transformations, the second one first."""
    a, b, c, d, e, f = one
    g, h, i, j, k, m = other
    return (a * g + c * h, b * g + d * h, a * i + c * j, b * i + d * j, a * k + c * m + e, b * k + d * m + f)


def transformation(text: str) -> Matrix:
    """A `transform` attribute as a matrix."""
    found = AS_IT_IS
    for step in steps(text):
        found = product(found, step)
    return found


def steps(text: str) -> Iterator[Matrix]:
    """The steps of a `transform` attribute, from left to right."""
    for name, arguments in STEP.findall(text):
        given = [float(number) for number in re.split(r"[\s,]+", arguments.strip())]
        if name == "translate":
            yield (1, 0, 0, 1, given[0], given[1] if len(given) > 1 else 0)
        elif name == "scale":
            yield (given[0], 0, 0, given[-1], 0, 0)
        elif name == "rotate" and len(given) == 1:
            cosine, sine = math.cos(math.radians(given[0])), math.sin(math.radians(given[0]))
            yield (cosine, sine, -sine, cosine, 0, 0)
        elif name == "matrix" and len(given) == 6:
            yield (given[0], given[1], given[2], given[3], given[4], given[5])
        else:
            raise UnclearError(f"{name} with {len(given)} numbers")
