"""Every figure of the review: arrows keep clear of nodes, labels stay inside them, and nothing is lost."""

import io
import subprocess
import sys

import matplotlib.pyplot as plt
import numpy as np
import pytest
import review_specs as review
from matplotlib.backends.backend_agg import FigureCanvasAgg

from dvae_lib.graphs import DependencySpec, arranged
from dvae_lib.graphs.layout import bezier
from dvae_lib.plotting import CARD, COLOURS

FIGURES = {
    "3.1, left": (review.GRNN, "generation"),
    "3.1, right": (review.DRIVEN_SSM, "generation"),
    "4.1, middle": (review.FIGURE_4_1_SHARED, "generation"),
    "4.1, right": (review.FIGURE_4_1_SEPARATE, "generation"),
    "5.1": (review.DKF_BIDIRECTIONAL, "inference"),
    "5.1, smoother": (review.DKF, "inference"),
    "6.1": (review.KVAE, "generation"),
    "6.2": (review.KVAE, "inference"),
    "6.2, backward": (review.KVAE_BACKWARD, "inference"),
    "7.1": (review.STORN, "generation"),
    "7.2": (review.STORN, "inference"),
    "8.1": (review.VRNN, "generation"),
    "8.2": (review.VRNN, "inference"),
    "9.1": (review.SRNN, "generation"),
    "9.2": (review.SRNN, "inference"),
    "10.1": (review.RVAE_CAUSAL, "generation"),
    "10.2": (review.RVAE_NONCAUSAL, "generation"),
    "10.3": (review.RVAE_CAUSAL, "inference"),
    "10.4": (review.RVAE_NONCAUSAL, "inference"),
    "11.1": (review.DSAE_FULL, "generation"),
    "11.2": (review.DSAE_FULL, "inference"),
    "VRAE": (review.VRAE, "inference"),
    "DVBF": (review.DVBF, "inference"),
    "two levels": (review.LADDER, "inference"),
}
PANELS = [(spec, process, form) for spec, process in FIGURES.values() for form in ("developed", "compact")]


def layout(spec, process, form, *, gap=True):
    return arranged.layout(spec.picture(process, form, gap=gap))


every_panel = pytest.mark.parametrize(
    ("spec", "process", "form"),
    PANELS,
    ids=[f"{name}, {form}" for name in FIGURES for form in ("developed", "compact")],
)


@every_panel
def test_arrows_keep_clear_of_nodes(spec, process, form):
    geometry = layout(spec, process, form)
    along = np.linspace(0, 1, 201)
    for arrow in geometry.arrows:
        points = bezier(arrow.curve, along)
        for node, centre in geometry.positions.items():
            sideways, up = np.abs(points - np.array(centre)).T
            diamond = geometry.kinds[node] == "deterministic"
            inside = (sideways + up if diamond else np.hypot(sideways, up)) < geometry.radius(node)
            # It leaves and enters its own nodes once, and no other.
            own = node in (arrow.link.parent, arrow.link.child)
            assert np.abs(np.diff(inside.astype(int))).sum() == own, (arrow.link, node)


@every_panel
def test_nodes_do_not_touch(spec, process, form):
    geometry = layout(spec, process, form)
    nodes = list(geometry.positions)
    for i, one in enumerate(nodes):
        for other in nodes[:i]:
            distance = np.linalg.norm(np.subtract(geometry.positions[one], geometry.positions[other]))
            assert distance > geometry.radius(one) + geometry.radius(other)


@every_panel
def test_all_arrows_are_there(spec, process, form):
    geometry = layout(spec, process, form, gap=False)
    drawn = {(arrow.link.parent, arrow.link.child) for arrow in geometry.arrows}
    assert drawn == set(spec.unroll(3, process, form).edges)


@pytest.mark.parametrize(("spec", "process"), FIGURES.values(), ids=FIGURES)
def test_labels_stay_inside_their_nodes(spec, process):
    figure = spec.draw(process)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    forms = ["developed", "compact"] if len(figure.axes) == 2 else ["compact"]
    for axes, form in zip(figure.axes, forms, strict=True):
        geometry = layout(spec, process, form)
        labels = [text for text in axes.texts if text.get_gid() == "label"]
        assert len(labels) == len(geometry.positions)
        for label in labels:
            box = label.get_window_extent().transformed(axes.transData.inverted())
            centre = np.array([(box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2])
            node = min(geometry.positions, key=lambda n: np.linalg.norm(np.subtract(geometry.positions[n], centre)))
            half_width, half_height = box.width / 2, box.height / 2
            reach = (
                half_width + half_height
                if geometry.kinds[node] == "deterministic"
                else np.hypot(box.width, box.height) / 2
            )
            assert reach < 1.25 * geometry.radius(node), label.get_text()
            assert half_width < geometry.radius(node)


def test_the_same_arrow_is_bent_alike_at_all_frames():
    geometry = layout(review.STORN, "generation", "compact")
    shapes = {}
    for arrow in geometry.arrows:
        shapes.setdefault(arrow.link.family, []).append(arrow.curve - arrow.curve[0])
    for curves in shapes.values():
        for curve in curves:
            np.testing.assert_allclose(curve, curves[0], atol=1e-9)


def roles(spec, form):
    found = {}
    for pair, role in spec.arrow_roles("inference", form).items():
        found.setdefault(role, set()).add(pair)
    return found


def test_gold_and_silver_are_the_reviews():
    storn = roles(review.STORN, "compact")
    assert storn["missing"] == {
        (("z", 1), ("z", 2)), (("z", 1), ("z", 3)), (("z", 2), ("z", 3)),
        (("x", 2), ("z", 1)), (("x", 3), ("z", 1)), (("x", 3), ("z", 2)),
    }  # fmt: skip
    assert "extra" not in storn
    dsae = roles(review.DSAE_FULL, "compact")
    assert dsae["missing"] == {(("z", 1), ("z", 2)), (("z", 1), ("z", 3)), (("z", 2), ("z", 3))}
    assert dsae["extra"] == {(("x", 1), ("z", 2)), (("x", 1), ("z", 3)), (("x", 2), ("z", 3))}
    for clean in (review.SRNN, review.RVAE_CAUSAL, review.RVAE_NONCAUSAL, review.DKF):
        assert set(roles(clean, "developed")) == {"plain"}


def test_in_developed_form_the_superfluous_network_is_silver():
    """In the DSAE's inference, the forward network that carries past data; v's own states stay."""
    silver = {(parent[0], child[0]) for parent, child in roles(review.DSAE_FULL, "developed")["extra"]}
    assert silver == {("x", "gz_fwd"), ("gz_fwd", "gz_fwd"), ("gz_fwd", "gz")}
    silver = {(parent[0], child[0]) for parent, child in roles(review.DKF_BIDIRECTIONAL, "developed")["extra"]}
    assert silver == {("x", "g_fwd"), ("g_fwd", "g_fwd"), ("g_fwd", "g")}


def test_dotted_arrows_come_from_the_ends_of_the_sequence():
    assert roles(review.DSAE_FULL, "developed")["end"] == {
        (("gv_fwd", 3), ("gv", None)), (("gv_bwd", 1), ("gv", None)),
    }  # fmt: skip


def colours_of(figure):
    from matplotlib.colors import to_hex

    return {to_hex(patch.get_edgecolor()).upper() for axes in figure.axes for patch in axes.patches}


def test_figures_use_the_books_colours():
    figure = review.DSAE_FULL.draw("inference")
    assert {COLOURS[r].upper() for r in ("latent", "observed", "deterministic", "missing", "extra")} <= colours_of(
        figure
    )
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert len(texts) == 3
    plain = review.DSAE_FULL.draw("inference", gap=False)
    assert COLOURS["missing"].upper() not in colours_of(plain)


def test_legends_fit_their_figures():
    for spec in (review.KVAE_BACKWARD, review.DSAE_FACTORISED, review.VRNN):
        for form in ("compact", "developed"):
            figure = spec.draw("inference", form)
            FigureCanvasAgg(figure).draw()
            box = figure.legends[0].get_window_extent()
            assert box.x0 >= 0
            assert box.x1 <= figure.bbox.width


def test_figures_are_svg_and_leave_the_style_alone():
    before = dict(plt.rcParams)
    figure = review.SRNN.draw("inference")
    file = io.BytesIO()
    figure.savefig(file, format="svg")
    assert b"<svg" in file.getvalue()
    assert CARD.lower().encode() in file.getvalue().lower()  # on its own card: legible on a dark page too
    assert dict(plt.rcParams) == before
    assert plt.get_fignums() == []  # a notebook must not show it twice


def test_one_panel_where_there_are_no_states():
    assert len(review.VAE.draw().axes) == 1
    assert len(review.SRNN.draw().axes) == 2
    assert len(review.SRNN.draw(form="compact").axes) == 1


def test_a_model_nobody_has_thought_of():
    spec = DependencySpec(
        "c ~\nh_t <- u_t, h_{t-1}, c\nz_t ~ z_{t-2:t-1}, h_t\ny_t ~ z_t\nx_t ~ y_t, z_t, x_{t-1}",
        "b_t <- x_t, b_{t+1}\nc ~ x_{1:T}, u_{1:T}\nz_t ~ z_{t-1}, b_t\ny_t ~ z_t, x_t",
    )
    for process in ("generation", "inference"):
        for form in ("developed", "compact"):
            assert layout(spec, process, form).arrows
        assert spec.draw(process).axes


def test_who_draws_nothing_need_not_load_matplotlib():
    code = """
import sys
from dvae_lib.graphs import DependencySpec
spec = DependencySpec("z_t ~ z_{t-1}\\nx_t ~ z_t", "z_t ~ x_t")
spec.inference_gap(), spec.latex("vlb"), spec.picture("inference", "compact")
assert "matplotlib" not in sys.modules, "loaded without being needed"
spec.draw()
assert "matplotlib.pyplot" not in sys.modules, "it would choose a window system"
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
