"""Figures from records made by hand: what is drawn where, and without a warning."""

import io

import matplotlib.pyplot as plt
import numpy as np
import pytest

from dvae_lib.experiments import (
    COLLAPSED,
    REVIEW,
    REVIEW_MODELS,
    SCHEDULED,
    plot_collapse,
    plot_curves,
    plot_scores,
    summarise,
)
from dvae_lib.experiments.review import LABELS


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


def drawn(figure):
    """The same figure, after it has been drawn, with all the warnings that this may give."""
    figure.savefig(io.BytesIO(), format="svg")
    figure.canvas.draw()
    return figure


def titles(figure):
    return [axis.get_title() for axis in figure.axes]


# --- curves ---


def test_a_panel_for_each_model_a_line_for_each_seed_a_dot_for_the_best_epoch(record):
    records = [record("srnn", 0), record("vae", 0), record("srnn", 1), record("dkf", 0, status="diverged")]
    records[2]["training"] = {"best_epoch": 2, "curve": {"train": [-9, -8, -7], "validation": [-7.5, -2.0, -2.5]}}
    figure = drawn(plot_curves(records))
    assert titles(figure) == ["VAE", "SRNN"]
    vae, srnn = figure.axes
    assert len(vae.lines) == 2
    curve, best, other, other_best = srnn.lines
    assert curve.get_xdata().tolist() == [1, 2, 3, 4]
    assert curve.get_ydata().tolist() == [-10, -6, -3, -4]
    assert (best.get_xdata().tolist(), best.get_ydata().tolist(), best.get_marker()) == ([3], [-3], "o")
    assert other.get_ydata().tolist() == [-7.5, -2, -2.5]
    assert (other_best.get_xdata().tolist(), other_best.get_ydata().tolist()) == ([2], [-2])
    assert curve.get_color() == best.get_color() != other.get_color() == other_best.get_color()
    assert "validation" in figure.get_supylabel()
    assert figure.get_supxlabel() == "epoch"


def test_the_first_fifth_of_a_curve_does_not_set_the_scale(record):
    long = record("vae")
    long["training"]["curve"]["validation"] = [-1e6, -1e5, *np.linspace(-20, -10, 8).tolist()]
    figure = drawn(plot_curves([long]))
    assert figure.axes[0].get_ylim() == (pytest.approx(-20.5), pytest.approx(-9))


def test_the_training_part_can_be_shown_and_scheduled_sampling(record):
    records = [record("srnn", 0), record("srnn", 0, scheduled=True), record("storn", 0, scheduled=True)]
    records[1]["training"]["curve"]["train"] = [-5.0, -4.0, -3.0, -2.5]
    figure = drawn(plot_curves(records, scheduled=True, part="train"))
    assert titles(figure) == ["STORN", "SRNN"]
    assert len(figure.axes[1].lines) == 2
    assert figure.axes[1].lines[0].get_ydata().tolist() == [-5, -4, -3, -2.5]
    assert figure.axes[1].lines[1].get_ydata().tolist() == [-3]
    assert "train" in figure.get_supylabel()


def test_the_other_part_and_the_rate_can_stand_beside(record):
    one = record("vae")
    one["config"]["learning_rate"] = [[0, 2e-3], [2, 2e-3], [4, 1e-3]]
    one["training"]["curve"]["train"] = [-20.0, -6.0, -3.0, 90.0]
    (axis,) = drawn(plot_curves([one], beside="train", rate=True)).axes
    validation, _, train = axis.lines
    assert train.get_ydata().tolist() == [-20, -6, -3, 90]
    assert train.get_linestyle() == "--"
    assert train.get_color() == validation.get_color()
    assert axis.get_ylim()[1] > 90  # the scale is that of both
    (shade,) = axis.collections
    ((corners,),) = (shade.get_paths(),)
    height = {round(float(x)): float(y) for x, y in corners.vertices if y > 0}
    assert height == pytest.approx({1: 1.0, 2: 1.0, 3: 1.0, 4: 0.75})


def test_columns_can_be_fewer(record):
    figure = drawn(plot_curves([record(name) for name in list(LABELS)[:3]], columns=2))
    assert [axis.get_subplotspec().colspan.start for axis in figure.axes] == [0, 1, 0]


@pytest.mark.parametrize("count", [1, 3, 4, 5, 7, 8])
def test_panels_stand_in_rows_of_four_and_each_column_has_its_epochs(record, count):
    figure = drawn(plot_curves([record(name) for name in list(LABELS)[:count]]))
    assert titles(figure) == list(LABELS.values())[:count]
    for i, axis in enumerate(figure.axes):
        assert axis.get_subplotspec().colspan.start == i % 4
        lowest = i + 4 >= count
        assert any(label.get_visible() for label in axis.get_xticklabels()) == lowest
    assert len({axis.get_ylim() for axis in figure.axes}) == 1


def test_one_epoch_is_enough_and_nothing_is_not(record):
    one = record()
    one["training"] = {"best_epoch": 1, "curve": {"train": [-1.0], "validation": [-2.0]}}
    assert drawn(plot_curves([one])).axes[0].lines[0].get_ydata().tolist() == [-2]
    for records in ([], [record(status="diverged")], [record(scheduled=True)]):
        with pytest.raises(ValueError, match="No result here has a training of that kind"):
            plot_curves(records)


# --- scores ---


def of_scores(record, scores, experiment="speech", measure="si_sdr", **options):
    return [
        record(model, seed, experiment=experiment, tests={"TF": {measure: value}}, **options)
        for model, values in scores.items()
        for seed, value in enumerate(values)
    ]


def bars(axis):
    """Middle and half width of each error bar."""
    found = []
    for container in axis.containers:
        (segment,) = container.lines[2][0].get_segments()
        middle = float(container.lines[0].get_xdata()[0])
        found.append((middle, float(np.ptp(segment[:, 0]) / 2), float(container.lines[0].get_ydata()[0])))
    return found


def test_the_best_is_at_the_top_and_the_bar_is_the_spread_between_seeds(record):
    scores = {"vae": [5.0], "srnn": [10.0, 12.0], "dkf": [7.0]}
    records = of_scores(record, scores) + of_scores(record, {"storn": [6.0]}, converged=False)
    figure = drawn(plot_scores(summarise(records), "si_sdr"))
    ours, theirs = figure.axes
    assert [label.get_text() for label in ours.get_yticklabels()] == ["VAE", "STORN†", "DKF", "SRNN"]
    assert bars(ours) == [(5, 0, 0), (6, 0, 1), (7, 0, 2), (11, pytest.approx(np.std([10, 12], ddof=1)), 3)]
    assert ours.get_ylim() == theirs.get_ylim()
    assert ours.get_ylim()[0] < ours.get_ylim()[1]
    review = [REVIEW["speech"][name]["si_sdr"] for name in ("VAE", "STORN", "DKF", "SRNN")]
    assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in theirs.lines] == list(
        zip(review, range(4), strict=True)
    )
    assert (ours.get_xlabel(), theirs.get_xlabel()) == ("SI-SDR (dB), here", "SI-SDR (dB), review")


def test_where_less_is_better_the_least_is_at_the_top(record):
    records = of_scores(record, {"vae": [50.0], "srnn": [10.0], "dkf": [40.0]}, "motion", "mpjpe")
    figure = drawn(plot_scores(summarise(records), "mpjpe"))
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["VAE", "DKF", "SRNN"]
    assert [line.get_xdata()[0] for line in figure.axes[1].lines] == [48.69, 42.21, 7.86]


def test_what_the_review_has_not_is_shown_alone_or_beside_another_column(record):
    lines = summarise(of_scores(record, {"vae": [5.0], "srnn": [10.0]}))
    alone = drawn(plot_scores(lines, "vlb"))
    assert [axis.get_xlabel() for axis in alone.axes] == ["VLB (nats per frame), here"]
    beside = drawn(plot_scores(lines, "vlb", review="estoi"))
    assert [axis.get_xlabel() for axis in beside.axes] == ["VLB (nats per frame), here", "ESTOI, review"]
    assert sorted(line.get_xdata()[0] for line in beside.axes[1].lines) == [0.83, 0.93]


def test_lines_that_the_review_has_not_have_no_square(record):
    records = [*of_scores(record, {"vae": [5.0]}), record("vrnn", scheduled=True, tests={"GM": {"si_sdr": 6.0}})]
    ours, theirs = drawn(plot_scores(summarise(records), "si_sdr")).axes
    assert len(ours.containers) == 2
    assert len(theirs.lines) == 1


def test_a_column_that_no_line_has_is_refused(record):
    with pytest.raises(ValueError, match="No result here has the column 'mpjpe'"):
        plot_scores(summarise([record()]), "mpjpe")
    with pytest.raises(ValueError, match="no column 'loudness'; there are si_sdr"):
        plot_scores(summarise([record()]), "loudness")


# --- collapse ---


def test_dimensions_are_ordered_by_their_divergence_and_the_threshold_is_drawn(record):
    records = [
        record("vae", 0, tests={"TF": {"kl_per_dim": (0.5, 2.0, 0.001)}}),
        record("vae", 1, tests={"TF": {"kl_per_dim": (9.0, 9.0, 9.0)}}),
        record("srnn", 0, tests={"TF": {"kl_per_dim": (0.1, 0.2)}, "TF-GM": {"kl_per_dim": (0.3, 0.0)}}),
        record("srnn", 0, scheduled=True, tests={"GM": {"kl_per_dim": (0.4, 0.5)}}),
        record("dkf", 0, status="diverged"),
    ]
    (axis,) = drawn(plot_collapse(summarise(records), COLLAPSED)).axes
    *curves, threshold = axis.lines
    assert [line.get_label() for line in curves] == ["VAE", "SRNN", "SRNN-TF-GM", "SRNN-GM"]
    assert [line.get_linestyle() for line in curves] == ["-", "-", ":", "--"]
    assert list(curves[0].get_ydata()) == [2.0, 0.5, 0.001]  # the first seed's, largest first
    assert list(curves[0].get_xdata()) == [1, 2, 3]
    assert list(curves[2].get_ydata()) == [0.3, 0.0]
    assert len({line.get_color() for line in curves}) == 4
    assert list(threshold.get_ydata()) == [COLLAPSED, COLLAPSED]
    assert axis.get_yscale() == "log"
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["VAE", "SRNN", "SRNN-TF-GM", "SRNN-GM"]


def test_no_two_lines_of_the_collapse_look_alike(record):
    both = {"TF": {}, "TF-GM": {}}
    records = [record(name, tests=both if name in SCHEDULED else None) for name in REVIEW_MODELS]
    records += [record(name, scheduled=True) for name in SCHEDULED]
    (axis,) = plot_collapse(summarise(records), COLLAPSED).axes
    *curves, _ = axis.lines
    assert len(curves) == 14
    assert len({(line.get_color(), line.get_marker()) for line in curves}) == 14


def test_without_a_latent_dimension_there_is_nothing_to_show(record):
    for records in ([], [record(status="diverged")]):
        with pytest.raises(ValueError, match="No result here has a latent dimension"):
            plot_collapse(summarise(records), COLLAPSED)
