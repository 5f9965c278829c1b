"""The marks that graphs are made of, on screen and as SVG."""

import re

import logo
import matplotlib.pyplot as plt
import numpy as np
import pytest

from dvae_lib.graphs.marks import arrow_head, svg_arrow, svg_circle
from dvae_lib.graphs.patches import add_arrow, add_outline, cubic_path


@pytest.mark.parametrize("angle", [0.0, 0.7, 2.0, -1.3])
def test_a_head_points_where_it_should(angle):
    along, tip = np.array([np.cos(angle), np.sin(angle)]), np.array([2.0, -1.0])
    head, barb, notch, other = arrow_head(tip, 3.0 * along, 0.5)
    np.testing.assert_allclose(head, tip)
    np.testing.assert_allclose((barb + other) / 2, tip - 0.5 * along, atol=1e-12)
    assert abs(np.dot(barb - other, along)) < 1e-12
    assert 0 < np.dot(tip - notch, along) < 0.5  # barbs reach behind it


def test_an_svg_arrow_runs_from_rim_to_rim():
    arrow = svg_arrow((0.0, 0.0), (100.0, 0.0), radius=20.0, gap=1.0, head=10.0, colour="#123456", width=2.0)
    line = dict(re.findall(r' (x1|y1|x2|y2)="([^"]+)"', arrow))
    assert {k: float(v) for k, v in line.items()} == {"x1": 21.0, "y1": 0.0, "x2": 71.1, "y2": 0.0}
    tip = re.search(r'points="([^ ]+)', arrow)[1]
    assert tip == "79.0,0.0"
    assert arrow.count("#123456") == 2
    assert svg_circle((1.0, 2.0), 3.0, fill="none") == '<circle cx="1" cy="2" r="3" fill="none"/>'


@pytest.mark.parametrize("shape", ["circle", "diamond", "box", "pill"])
def test_outlines_have_the_size_asked_for(shape):
    figure, axes = plt.subplots()
    add_outline(axes, shape, (1.0, 2.0), 0.8, 0.4, edge="black", fill="white")
    (patch,) = axes.patches
    box = patch.get_path().get_extents(patch.get_patch_transform())
    np.testing.assert_allclose([box.x0, box.y0, box.x1, box.y1], [0.6, 1.8, 1.4, 2.2], atol=1e-9)
    plt.close(figure)


def test_an_arrow_is_a_line_and_a_head():
    figure, axes = plt.subplots()
    way = [(0.0, 0.0), (1.0, -1.0), (1.0, -2.0)]
    add_arrow(axes, cubic_path(way), way[-1], (0.0, -1.0), head=0.2, colour="black", width=1.0)
    line, head = axes.patches
    np.testing.assert_allclose(line.get_path().vertices[[0, 3, 6]], way)
    np.testing.assert_allclose(head.get_xy()[0], way[-1])
    plt.close(figure)


def test_the_logo_is_the_one_that_its_script_draws():
    """Or run python book/_tools/logo.py."""
    assert (logo.STATIC / "logo.svg").read_text(encoding="utf-8") == logo.logo()
    assert (logo.STATIC / "favicon.svg").read_text(encoding="utf-8") == logo.favicon()
