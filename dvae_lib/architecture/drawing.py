"""What a model is built of, as a drawing in the manner of the review's Figure 13.1."""

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import nn

from dvae_lib.architecture.flow import PROCESSES, Process, Term, data_flow, is_matrices, is_recurrent, parts_of
from dvae_lib.architecture.notation import Notation, sizes_of
from dvae_lib.architecture.rows import columns, levels, ordered_rows
from dvae_lib.graphs.marks import ARROW
from dvae_lib.graphs.patches import SOLID, Shape, add_arrow, add_outline, cubic_path
from dvae_lib.models.base import DVAE
from dvae_lib.networks import GatedTransition, GaussianHead, LocallyLinear, Memory, ObservationHead
from dvae_lib.plotting import CARD, COLOURS

__all__ = ["draw_architecture"]

_SHAPES: dict[str, Shape] = {"variable": "circle", "network": "box", "tag": "pill"}


@dataclass
class _Box:
    """A node of the drawing: a circle for a variable, a box for a network, a tag for a distribution."""

    kind: Literal["variable", "network", "tag"]
    lines: list[str]
    colour: str
    fill: str = "white"
    width: float = 0.52

    @property
    def height(self) -> float:
        """In inches."""
        return 0.52 if self.kind == "variable" else 0.14 + sum(map(self.line_height, self.lines))

    @staticmethod
    def line_height(line: str) -> float:
        """In inches; a symbol may carry an arrow."""
        return 0.25 if "$" in line else 0.18


@dataclass
class _Drawing:
    """The boxes of a model, and the arrows between them."""

    model: DVAE
    boxes: dict[Any, _Box] = field(default_factory=dict)
    arrows: dict[tuple[Any, Any], tuple[str, bool]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        flows = {process: data_flow(self.model, process) for process in PROCESSES}
        self.writer, self.parts = Notation(self.model, flows), parts_of(self.model)
        names = [{t.name for head in flow.values() for t in head.all() if t.is_part} for flow in flows.values()]
        self.shared = names[0] & names[1]
        self.process: Process
        for self.process in reversed(PROCESSES):
            for variable, head in flows[self.process].items():
                box = self.add(head)
                if self.process == "inference":
                    at = 0 if self.model.spec.is_framewise(variable) else None
                    self.arrows[box, self.add(Term(variable, at=at))] = ("", True)
                    continue
                index = "_t" if self.model.spec.is_framewise(variable) else ""
                text = rf"$p({self.model.spec.symbol(variable)}{index} \mid \cdot)$"
                self.boxes["tag", variable] = _Box("tag", [text], self._colour(variable), width=0.85)
                self.arrows[box, ("tag", variable)] = ("", False)

    def _colour(self, variable: str) -> str:
        return COLOURS[self.model.spec.kind(variable)]

    def add(self, term: Term) -> Any:
        """The key of a term's box, which is made, with all that leads to it, where it is not there yet."""
        symbol = self.model.spec.symbol
        if not term.is_part:
            key: Any = (term.name, term.at, self.process if term.at not in (0, None) else "")
            fill = "#D5D9DF" if self.model.spec.kind(term.name) in ("observed", "input") else "white"
            text = [f"${symbol(term.name)}{term.index}$"]
            width = 0.72 if isinstance(term.at, str) else 0.56
            self.boxes.setdefault(key, _Box("variable", text, self._colour(term.name), fill, width))
            return key
        part = self.parts[term.name]
        if is_recurrent(part) and isinstance(term.at, int) and term.at != 0:  # a state of another frame
            key = ("state", term.name, term.at)
            text = [f"${self.writer.state(term)}{term.index}$"]
            self.boxes.setdefault(key, _Box("variable", text, COLOURS["deterministic"], width=0.62))
            return key
        key = ("part", term.name) if is_recurrent(part) else replace(term, at=0)
        if key in self.boxes:
            return key
        body = term.inputs[0] if len(term.inputs) == 1 else None
        is_head = isinstance(part, GaussianHead | ObservationHead)
        if is_head and body is not None and isinstance(self.parts.get(body.name), nn.Sequential):
            reads, kind = body, self._kind(body.name)  # a network and its output layer are one box
        else:
            reads, kind = term, self._kind(term.name)
        in_dim, out_dim = sizes_of(self.parts[reads.name])[0], sizes_of(part)[1]
        sizes = f"{in_dim} → {out_dim}" if in_dim else f"{out_dim} numbers"
        recurrent, fill = is_recurrent(part), "#E3E6EA" if term.name in self.shared else "white"
        symbol_of = rf"{self.writer.state(term)}_t" if recurrent else self.writer.function(term.name)
        symbol_of = symbol_of.replace("}^{", r"}\,{}^{")  # beside the arrow, not on it
        named = recurrent or is_head or isinstance(part, GatedTransition) or self.is_named(term.name)
        lines = [*([f"${symbol_of}$"] if named else []), *kind, sizes]
        width = 0.2 + 0.078 * max(len(line) for line in lines if "$" not in line)
        self.boxes[key] = _Box("network", lines, COLOURS["deterministic" if recurrent else "exact"], fill, width)
        for source in reads.inputs:
            label = f"${source.at}$" if source.is_part and isinstance(source.at, str) else ""
            self.arrows[self.add(source), key] = (label, False)
        return key

    def is_named(self, name: str) -> bool:
        """Whether a part is a function of the review by itself: not one of the layers before a recursion."""
        recursions = [self.writer.functions[k] for k, part in self.parts.items() if is_recurrent(part)]
        return self.writer.named(name) is not None or self.writer.functions[name] not in recursions

    def _kind(self, name: str) -> list[str]:
        """What a network is, in a word or two."""
        part = self.parts[name]
        for layer in part.modules():
            if isinstance(layer, nn.RNNBase):
                word = type(layer).__name__
                return [f"← {word}" if getattr(part, "backward", False) else f"{word} →"]
        if isinstance(part, GatedTransition):
            return ["gated"]
        if isinstance(part, LocallyLinear):
            return ["locally", "linear →"]
        if isinstance(part, Memory):
            words = {"CausalAttention": ["attention →"], "LinearRecurrence": ["linear", "recurrence →"]}
            return words.get(type(part).__name__, [f"{type(part).__name__} →"])
        if isinstance(part, GaussianHead | ObservationHead):
            return ["output layer"]
        if is_matrices(part):
            return ["linear"]
        sizes = [str(m.out_features) for m in part.modules() if isinstance(m, nn.Linear)]
        lines = [", ".join(sizes[i : i + 2]) for i in range(0, len(sizes), 2)]
        return [f"MLP {lines[0]}" + ("," if lines[1:] else ""), *lines[1:]]


def draw_architecture(model: DVAE, *, gap: float = 0.34) -> Figure:
    """The networks of a model and what flows between them, in the manner of the review's Figure 13.1.

    From top to bottom: observations, inference networks, latent vectors, generative networks, distributions. Boxes
    show the review's function, the network and the sizes of its input and output; grey ones serve both directions.
    Green ones are recurrent, with the direction of time. A broken arrow is a random draw.

    Arguments:
        model: Any model.
        gap: Space between layers, in inches.

    Returns:
        The figure.
    """
    drawing = _Drawing(model)
    boxes = drawing.boxes
    rows, chains = ordered_rows(levels(boxes, drawing.arrows), list(drawing.arrows))
    widths = {key: boxes[key].width if key in boxes else 0.16 for row in rows for key in row}
    across = columns(rows, chains, widths)
    down: dict[Any, float] = {}
    tall: dict[Any, float] = {}
    y = 0.0
    for row in rows:
        height = max(boxes[key].height for key in row if key in boxes)
        down |= dict.fromkeys(row, y - height / 2)
        tall |= dict.fromkeys(row, height / 2)
        y -= height + gap
    y += gap - 0.1
    left = min(across[k] - widths[k] / 2 for k in across) - 0.1
    right = max(across[k] + widths[k] / 2 for k in across) + 0.1
    figure, axes = plt.subplots(figsize=(right - left, 0.1 - y), layout="none")
    axes.set_position((0, 0, 1, 1))
    axes.set(xlim=(left, right), ylim=(y, 0.1))
    axes.axis("off")
    for (start, end), chain in chains.items():
        way = [(across[start], down[start] - boxes[start].height / 2)]
        for point in chain[1:-1]:  # straight down between the boxes of a row
            way += [(across[point], down[point] + tall[point]), (across[point], down[point] - tall[point])]
        way.append((across[end], down[end] + boxes[end].height / 2 + 0.03))
        label, broken = drawing.arrows[start, end]
        _arrow(axes, way, label=label, broken=broken)
    for key, box in boxes.items():
        _box(axes, across[key], down[key], box)
    plt.close(figure)
    return figure


def _arrow(axes: Axes, points: list[tuple[float, float]], *, label: str, broken: bool) -> None:
    """A smooth line through points one below the other, with a head at its end."""
    colour, dashes = (COLOURS["latent"], (0, (4, 2))) if broken else (ARROW, SOLID)
    x, y = points[-1]
    add_arrow(axes, cubic_path(points), (x, y - 0.03), (0.0, -1.0), head=0.13, colour=colour, width=1.2, dashes=dashes)
    if label:
        (xa, ya), (xb, yb) = points[:2]
        place = (0.7 * xa + 0.3 * xb, 0.6 * ya + 0.4 * yb)
        axes.text(*place, label, fontsize=9.5, ha="center", va="center", backgroundcolor=CARD, zorder=2)


def _box(axes: Axes, x: float, y: float, box: _Box) -> None:
    shape = _SHAPES[box.kind]
    add_outline(axes, shape, (x, y), box.width, box.height, edge=box.colour, fill=box.fill)
    top = y + sum(map(box.line_height, box.lines)) / 2
    for line in box.lines:
        high = box.line_height(line)
        axes.text(x, top - high / 2, line, ha="center", va="center", fontsize=11 if "$" in line else 9, zorder=4)
        top -= high
