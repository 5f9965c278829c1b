"""Figures whose panels stand side by side, for a phone: what comes apart, what does not, and what each part keeps."""

import io
import re
from itertools import pairwise
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest
import stack
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import ConnectionPatch

from dvae_lib.plotting import use_style


def drawn(figure) -> str:
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None}, bbox_inches="tight")
    return file.getvalue()


@pytest.fixture
def panels():
    """A function that makes a row of panels in the book's style."""
    with mpl.rc_context():
        use_style()

        def make(rows=1, columns=2, **options):
            figure = Figure(figsize=(4.5 * columns, 3 * rows))
            axes = figure.subplots(rows, columns, squeeze=False, **options)
            for position, axis in enumerate(axes.flat):
                axis.plot([1, 2, 3], [position, 5, 2], "o-")
                axis.set(title=f"Panel {position}", xlabel="steps")
            axes[0, 0].set_ylabel("nats")
            return figure, axes if rows > 1 else axes[0]

        yield make


def places(drawing: str) -> dict[str, stack.Box]:
    """Where the groups of a figure draw: axes, titles, legends."""
    root = ElementTree.fromstring(drawing)
    sizes = stack.Sizes(root)
    found = {}

    def visit(element, matrix):
        inner = stack.product(matrix, stack.transformation(element.get("transform", "")))
        for child in element:
            if re.match(r"(?:axes|text|legend)_\d", child.get("id", "")):
                found[child.get("id")] = sizes.ink(child, inner)
            elif child.tag == f"{stack.SVG}g":
                visit(child, inner)

    visit(root.find(f"{stack.SVG}g"), stack.AS_IT_IS)
    return found


def extent(drawing: str) -> tuple[float, float]:
    """Width and height."""
    view = ElementTree.fromstring(drawing).get("viewBox").split()
    return float(view[2]), float(view[3])


@pytest.mark.parametrize("columns", [2, 3])
def test_panels_stand_below_each_other_whole_and_in_one_line(panels, columns):
    figure, _ = panels(columns=columns)
    wide = drawn(figure)
    narrow = stack.stacked(wide)
    width, height = extent(narrow)
    assert width < 1.1 * extent(wide)[0] / columns
    found, before = places(narrow), places(wide)
    boxes = [found[f"axes_{number}"] for number in range(1, columns + 1)]
    for number, box in enumerate(boxes, 1):
        assert stack.MARGIN - 0.1 < box.left < box.right < width - stack.MARGIN + 0.1
        assert box.height == pytest.approx(before[f"axes_{number}"].height, abs=0.01)
        assert box.width == pytest.approx(before[f"axes_{number}"].width, abs=0.01)
    assert all(upper.bottom < lower.top for upper, lower in pairwise(boxes))
    assert boxes[-1].bottom < height
    assert len({round(box.right, 1) for box in boxes}) == 1
    # The drawing is there once.
    assert len(narrow) < 1.05 * len(wide)
    assert all(narrow.count(f'id="{name}"') == 1 for name in re.findall(r'id="(text_\d+)"', wide))


def test_a_panel_on_a_shared_axis_gets_its_labels(panels):
    figure, _ = panels(sharey=True)
    narrow = stack.stacked(drawn(figure))
    copies = re.findall(r'<use xlink:href="#(text_\d+)" x="', narrow)
    labels = re.findall(r'id="ytick_\d+".*?id="(text_\d+)"', narrow, re.DOTALL)[: len(copies) - 1]
    assert copies[:-1] == labels
    assert len(copies) > 3  # and the name of the axis


def test_axes_inside_axes_are_theirs(panels):
    figure, axes = panels(sharey=True)
    axes[1].inset_axes([0.6, 0.6, 0.3, 0.3]).plot([1, 2])
    narrow = stack.stacked(drawn(figure))
    assert len(re.findall(r'<use xlink:href="#text_', narrow)) > 3
    assert places(narrow)["axes_2"].top > places(narrow)["axes_1"].bottom


def test_labels_for_other_ticks_are_not_passed_on(panels):
    figure, axes = panels()
    axes[1].set_yticks([0, 5], labels=[])
    assert stack.stacked(drawn(figure)) is None


def test_a_panel_whose_vertical_axis_means_nothing_gets_no_labels(panels):
    figure, axes = panels()
    axes[1].set_yticks([])
    assert '<use xlink:href="#text_' not in stack.stacked(drawn(figure))
    axes[1].imshow(np.random.default_rng(0).random((20, 30)))
    assert stack.stacked(drawn(figure)) is None


def test_panels_with_numbers_of_their_own_keep_them(panels):
    figure, axes = panels()
    axes[1].set_ylim(0, 100)
    assert '<use xlink:href="#text_' not in stack.stacked(drawn(figure))


def test_a_colour_bar_goes_with_the_panel_on_its_left(panels):
    figure, axes = panels()
    image = axes[0].imshow(np.random.default_rng(0).random((20, 30)))
    figure.colorbar(image, ax=axes[0], label="power")
    found = places(stack.stacked(drawn(figure)))
    left, right, bar = (found[f"axes_{number}"] for number in (1, 2, 3))
    assert left.right < bar.left
    assert abs(left.top - bar.top) < 25
    assert bar.bottom < right.top


def test_a_colour_bar_for_all_panels_keeps_them_together(panels):
    figure, axes = panels()
    images = [axis.imshow(np.random.default_rng(0).random((20, 30))) for axis in axes]
    figure.colorbar(images[0], ax=axes, label="power")
    assert stack.stacked(drawn(figure)) is None


def test_titles_and_legends_of_all_panels_stay_above_and_below(panels):
    figure, axes = panels()
    axes[0].lines[0].set_label("a curve")
    figure.suptitle("Both")
    figure.legend(loc="outside lower center")
    wide = drawn(figure)
    found = places(stack.stacked(wide))
    title = next(box for name, box in found.items() if name.startswith("text"))
    assert title.bottom < found["axes_1"].top < found["axes_2"].top < found["legend_1"].top


def test_a_grid_comes_apart_by_columns(panels):
    figure, _ = panels(rows=2, sharex=True, sharey=True)
    found = places(stack.stacked(drawn(figure)))
    upper_left, upper_right, lower_left, lower_right = (found[f"axes_{number}"] for number in (1, 2, 3, 4))
    assert upper_left.bottom < lower_left.top < lower_left.bottom < upper_right.top < lower_right.top


@pytest.mark.parametrize("what", ["title", "ylabel"])
def test_rows_that_only_their_first_panel_names_stay(panels, what):
    figure, axes = panels(rows=2)
    axes[0, 0].set(ylabel="")
    for axis in axes.flat:
        axis.set_title("")
    assert stack.stacked(drawn(figure)) is not None
    for axis, name in zip(axes[:, 0], ("voiced", "hiss"), strict=True):
        axis.set(**{what: name})
    assert stack.stacked(drawn(figure)) is None
    for axis, name in zip(axes[:, 1], ("voiced", "hiss"), strict=True):
        axis.set(**{what: name})
    assert stack.stacked(drawn(figure)) is not None


def arrow(figure, axes):
    figure.add_artist(ConnectionPatch((3, 2), (1, 1), "data", "data", axesA=axes[0], axesB=axes[1], arrowstyle="->"))


def long_title(figure, axes):
    axes[0].set_title("A title that is a whole sentence and reaches over the panel on the right")


def headings(figure, axes):
    figure.text(0.3, 1.1, "a")
    figure.text(0.7, 1.1, "b")


def one_panel(figure, axes):
    axes[1].remove()


def graph(figure, axes):
    axes[1].set_axis_off()


TOGETHER = {
    "an arrow from panel to panel": arrow,
    "a title that reaches over its neighbour": long_title,
    "a label for all": lambda figure, axes: figure.supylabel("nats, all of them"),
    "a label below all": lambda figure, axes: figure.supxlabel("steps of both"),
    "headings of the figure's for single panels": headings,
    "a legend between panels": lambda figure, axes: figure.legend(axes[0].lines, ["curve"], loc="center"),
    "one panel": one_panel,
    "a drawing without axes": graph,
}


@pytest.mark.parametrize("added", TOGETHER.values(), ids=TOGETHER)
def test_what_belongs_together_stays(panels, added):
    figure, axes = panels()
    added(figure, axes)
    assert stack.stacked(drawn(figure)) is None


def test_two_scales_of_one_panel_stay_together(panels):
    figure, axes = panels()
    axes[0].twinx().plot([1, 2, 3], [300, 200, 100])
    found = places(stack.stacked(drawn(figure)))
    assert found["axes_1"].top == pytest.approx(found["axes_3"].top, abs=20)
    assert found["axes_3"].bottom < found["axes_2"].top


def test_what_is_drawn_over_a_panel_stays_over_it(panels):
    figure, _ = panels()
    figure.add_artist(Line2D([0.0, 0.2], [0.5, 0.5], gid="over"))
    narrow = stack.stacked(drawn(figure))
    assert narrow.index('id="axes_1"') < narrow.index('id="over"') < narrow.index('id="axes_2"')


def test_panels_below_each_other_stay(panels):
    figure, _ = panels(rows=2, columns=1)
    assert stack.stacked(drawn(figure)) is None


@pytest.mark.parametrize(
    "drawing", ["<svg/>", "no SVG", '<svg xmlns="http://www.w3.org/2000/svg"><text>A</text></svg>']
)
def test_other_drawings_stay(drawing):
    assert stack.stacked(drawing) is None


@pytest.mark.parametrize(
    ("transform", "expected"),
    [
        ("translate(3 4)", (3, 4, 5, 5)),
        ("scale(2 -1)", (0, -1, 4, 0)),
        ("translate(10 0) rotate(-90)", (10, -2, 11, 0)),
        ("matrix(1 0 0 1 5 6)", (5, 6, 7, 7)),
    ],
)
def test_boxes_follow_transformations(transform, expected):
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg"><g transform="{transform}"><path d="M 0 0 \nL 2 1 \nz\n"/></g></svg>'
    )
    root = ElementTree.fromstring(svg)
    box = stack.Sizes(root).ink(root[0])
    assert (box.left, box.top, box.right, box.bottom) == pytest.approx(expected, abs=1e-9)
