"""Comparisons in pairs against scipy, and blocks of trainings side by side."""

import math
import re

import matplotlib.pyplot as plt
import numpy as np
import pytest
from scipy import stats

from dvae_lib.experiments import (
    blocks_table,
    differences,
    differences_table,
    paired_difference,
    plot_differences,
    summarise,
    with_scores,
)
from dvae_lib.experiments.pairs import mean_interval, scores_of


@pytest.fixture
def scored(record):
    """A function that makes the record of a training whose test knows the SI-SDR of each utterance."""

    def make(model, scores, seed=0, mode="TF", **options):
        mean = float(np.mean([score for score in scores if score is not None]))
        made = record(model, seed, scheduled=mode == "GM", tests={mode: {"si_sdr": mean}}, **options)
        made["test"][0]["scores"] = {"si_sdr": list(scores)}
        return made

    return make


def test_the_interval_of_a_difference_is_that_of_the_paired_t_test():
    rng = np.random.default_rng(0)
    theirs = rng.normal(5, 3, 25)
    ours = theirs + rng.normal(0.4, 0.5, 25)
    found = paired_difference(ours.tolist(), theirs.tolist())
    by_scipy = stats.ttest_rel(ours, theirs)
    low, high = by_scipy.confidence_interval(0.95)
    assert found == (pytest.approx(np.mean(ours - theirs)), pytest.approx(low), pytest.approx(high), 25)
    assert found.is_clear == (by_scipy.pvalue < 0.05)
    unpaired = mean_interval(ours)
    assert found.high - found.low < 0.3 * (unpaired.high - unpaired.low)  # what pairs are for


def test_utterances_without_a_score_are_left_out():
    assert paired_difference([1.0, None, 4.0, 9.0], [0.5, 2.0, None, 8.0]) == mean_interval([0.5, 1.0])
    one = mean_interval([3.0])
    assert (one.mean, one.number) == (3.0, 1)
    assert math.isnan(one.low)
    assert not one.is_clear
    with pytest.raises(ValueError, match="same utterances on both sides; here are 2 and 1"):
        paired_difference([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="No utterance has a score on both sides"):
        paired_difference([None], [1.0])


def test_several_trainings_are_one_mean_for_each_utterance(scored, record):
    (line,) = summarise([scored("srnn", [1.0, 4.0, None]), scored("srnn", [3.0, 5.0, 1.0], 1), record("srnn", 2)])
    assert scores_of(line, "si_sdr") == [2.0, 4.5, None]  # of those that know them
    assert scores_of(line, "pesq") is None
    gaps = differences(summarise([scored("vae", [1.0, 2.0]), scored("dkf", [0.0, 2.5]), record("vrnn")]), "si_sdr")
    assert gaps == {"DKF": mean_interval([-1.0, 0.5])}
    assert differences(summarise([record("vae"), scored("dkf", [0.0, 2.5])]), "si_sdr") == {}


def test_scores_that_were_measured_later_belong_to_their_mode_and_seed(record):
    records = [
        record("srnn", 0, tests={"TF": {}, "TF-GM": {}}),
        record("srnn", 1, tests={"TF": {}, "TF-GM": {}}),
        record("srnn", 0, scheduled=True),
        record("vae", status="diverged"),
    ]
    later = [{"name": name, "scores": {"si_sdr": [k]}} for k, name in enumerate(("SRNN", "SRNN-TF-GM", "SRNN-GM"))]
    made = with_scores(records, later)
    found = [[test.get("scores") for test in r.get("test", [])] for r in made]
    assert found == [[{"si_sdr": [0]}, {"si_sdr": [1]}], [None, None], [{"si_sdr": [2]}], []]
    assert "scores" not in records[0]["test"][0]  # what was given is as it was
    assert with_scores(made, [{"name": "SRNN", "scores": {"si_sdr": [9]}}]) == made  # own scores count


def cells(markdown):
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in markdown.splitlines()]
    return rows[0], {row[0]: row[1:] for row in rows[2:]}


@pytest.fixture
def blocks(scored):
    first = [scored("vae", [4.0, 6.0]), scored("srnn", [6.0, 8.1]), scored("srnn", [2.0, 2.0], mode="GM")]
    second = [scored("vae", [4.0, 6.0]), scored("dkf", [9.0, 3.0])]
    return {"I": summarise(first), "II": summarise(second)}


def test_blocks_stand_side_by_side_with_the_review(blocks):
    head, table = cells(blocks_table(blocks, ["si_sdr"]))
    assert head == ["", "SI-SDR (dB): I", "SI-SDR (dB): II", "SI-SDR (dB): review"]
    assert table == {
        "VAE": ["5.0 ± 1.0", "5.0 ± 1.0", "5.3"],
        "DKF": ["–", "6.0 ± 1.0", "9.3"],
        "SRNN": ["7.0 ± 1.0", "–", "11"],
        "SRNN-GM": ["2.0 ± 1.0", "–", "7.8"],
    }


def test_bounds_stand_side_by_side_without_the_review_and_without_utterances(blocks):
    head, table = cells(blocks_table(blocks, ["vlb"]))
    assert head == ["", "VLB (nats per frame): I", "VLB (nats per frame): II"]
    assert table["VAE"] == ["-3.0", "-3.0"]
    assert table["DKF"] == ["–", "-3.0"]


def test_differences_are_bold_where_their_interval_leaves_out_zero(blocks):
    head, table = cells(differences_table(blocks, ["si_sdr"]))
    assert head == ["", "SI-SDR (dB): I", "SI-SDR (dB): II"]
    assert table["SRNN"] == ["**+2.0 [+1.4, +2.7]**", "–"]
    assert re.fullmatch(r"\+1\.0 \[-\d+\.\d, \+\d+\.\d\]", table["DKF"][1])


def test_the_figure_has_a_panel_for_each_measure_and_the_reviews_differences(blocks):
    figure = plot_differences(blocks, ["si_sdr"])
    (axis,) = figure.axes
    assert [label.get_text() for label in axis.get_yticklabels()] == ["SRNN", "DKF"]
    (theirs,) = [line for line in axis.get_lines() if line.get_label() == "review"]
    assert theirs.get_xdata() == pytest.approx([11.0 - 5.3, 9.3 - 5.3])
    bars = {c.get_label(): c.lines[0].get_xdata() for c in axis.containers}
    assert bars["I"] == pytest.approx([2.05])
    assert bars["II"] == pytest.approx([1.0])
    plt.close(figure)
    with pytest.raises(ValueError, match="compared with DSAE utterance by utterance"):
        plot_differences(blocks, ["si_sdr"], reference="DSAE")
