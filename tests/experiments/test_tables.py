"""Tables against records made by hand: means over seeds, marks, formats, and the review's numbers beside ours."""

import csv
import io
import math
import re

import pytest

from dvae_lib.experiments import COLUMNS, REVIEW, Value, csv_table, latex_table, markdown_table, summarise
from dvae_lib.experiments.review import COLLAPSED_IN_REVIEW, LABELS


@pytest.fixture
def several(record):
    """Three seeds of one model, one of another, in all modes; one that had not converged, one that diverged."""
    return [
        record("srnn", 2, tests={"TF": {"vlb": -4.0, "si_sdr": 12.0}, "TF-GM": {"si_sdr": 2.0}}),
        record("srnn", 0, tests={"TF": {"vlb": -1.0, "si_sdr": 10.0}, "TF-GM": {"si_sdr": -3.0}}),
        record("srnn", 1, tests={"TF": {"vlb": -1.0, "si_sdr": 11.0}, "TF-GM": {"si_sdr": 1.0}}),
        record("vae", 0, tests={"TF": {"vlb": -7.0, "si_sdr": 5.25, "pesq": 2.5}}, converged=False),
        record("srnn", 0, scheduled=True, tests={"GM": {"si_sdr": 8.0}}),
        record("dkf", 0, status="diverged", error="epoch 2"),
        record("dkf", 1, tests={"TF": {"si_sdr": 9.0}}),
        record("storn", 0, status="diverged", error="epoch 1"),
    ]


def by_name(lines):
    return {line.name: line for line in lines}


def parsed(markdown):
    rows = [row.strip("|").split("|") for row in markdown.splitlines() if row.startswith("|")]
    cells = [[cell.strip() for cell in row] for row in rows]
    return {row[0].rstrip("†✗"): dict(zip(cells[0], row, strict=True)) for row in cells[2:]}


# --- summaries ---


def test_means_and_standard_deviations_are_over_seeds(several):
    line = by_name(summarise(several))["SRNN"]
    assert line.seeds == (0, 1, 2)
    assert line.values["si_sdr"] == (pytest.approx(11), pytest.approx(1))
    assert line.values["vlb"] == (pytest.approx(-2), pytest.approx(math.sqrt(3)))
    assert line.values["iw"] == (-2.5, 0)
    assert line.values["kl"] == (1.5, 0)
    assert line.values["active"] == (2, 0)
    assert (line.model, line.mode, line.weights) == ("srnn", "TF", 1004)
    assert [r["seed"] for r in line.runs] == [0, 1, 2]
    assert line.kl_per_dim == ((1.0, 0.5, 0.001),) * 3
    one = by_name(summarise(several))["VAE"].values["si_sdr"]
    assert one.mean == 5.25
    assert math.isnan(one.std)


def test_lines_are_in_the_reviews_order_and_named_as_there(record, several):
    assert [line.name for line in summarise(several)] == ["VAE", "DKF", "STORN", "SRNN", "SRNN-TF-GM", "SRNN-GM"]
    records = [record(name) for name in reversed(LABELS)]
    names = [line.name for line in summarise(records)]
    assert names == list(REVIEW["speech"])[:8] == list(REVIEW["motion"])[:8] == list(LABELS.values())
    assert summarise([]) == []


def test_modes_are_kept_apart(several):
    lines = by_name(summarise(several))
    assert lines["SRNN-TF-GM"].values["si_sdr"] == Value.of([-3.0, 1.0, 2.0])
    assert lines["SRNN-GM"].values["si_sdr"].mean == 8
    assert (lines["SRNN-TF-GM"].seeds, lines["SRNN-GM"].seeds) == ((0, 1, 2), (0,))
    assert (lines["SRNN-TF-GM"].mode, lines["SRNN-GM"].mode) == ("TF-GM", "GM")
    assert len(lines["SRNN-GM"].runs) == 1


def test_marks_tell_what_had_not_converged_and_what_diverged(record, several):
    lines = by_name(summarise(several))
    assert {name: line.marks for name, line in lines.items()} == {
        "VAE": "†",
        "DKF": "✗",
        "STORN": "✗",
        "SRNN": "",
        "SRNN-TF-GM": "",
        "SRNN-GM": "",
    }
    assert (lines["DKF"].diverged, lines["DKF"].seeds) == ((0,), (1,))
    assert lines["DKF"].values["si_sdr"].mean == 9  # of the seed that did not diverge
    assert (lines["STORN"].values, lines["STORN"].weights, lines["STORN"].seeds) == ({}, 0, ())
    assert not lines["VAE"].converged
    both = [record("vae", 0, converged=False), record("vae", 1), record("vae", 2, status="diverged")]
    assert summarise(both)[0].marks == "†✗"
    generation = [record("srnn", 0, status="diverged"), record("srnn", 0, scheduled=True, status="diverged")]
    assert [(line.name, line.diverged) for line in summarise(generation)] == [("SRNN", (0,)), ("SRNN-GM", (0,))]


def test_one_table_holds_one_corpus_and_one_budget(record):
    with pytest.raises(ValueError, match="holds one corpus; these results hold prompts, voices"):
        summarise([record(), record(corpus="prompts")])
    with pytest.raises(ValueError, match="holds one budget; these results hold book, full"):
        summarise([record(budget="full"), record("dkf")])


def test_a_measure_that_is_not_defined_is_left_out(record):
    records = [record("vae", 0, tests={"TF": {"si_sdr": 1.0, "pesq": 2.0}}), record("dkf", 0)]
    records[0]["test"][0]["measures"]["pesq"] |= {"mean": None, "low": None, "high": None, "count": 0}
    (vae, _) = summarise(records)
    assert set(vae.values) == {"vlb", "iw", "kl", "active", "si_sdr"}
    again = record("vae", 1, tests={"TF": {"si_sdr": 3.0, "pesq": 4.0}})
    assert summarise([records[0], again])[0].values["pesq"].mean == 4.0
    assert parsed(markdown_table(summarise(records)))["VAE"]["SI-SDR (dB)"] == "1.0"


def test_a_bound_that_is_not_finite_does_not_end_the_table(record):
    records = [record("vae", seed, tests={"TF": {"vlb": vlb}}) for seed, vlb in enumerate((-math.inf, -3.0))]
    (line,) = summarise(records)
    assert line.values["vlb"].mean == -math.inf
    assert "-inf" in markdown_table([line])


# --- Markdown ---


def test_markdown_shows_means_spreads_marks_and_the_review(several):
    text = markdown_table(summarise(several))
    table = parsed(text)
    assert list(table) == ["VAE", "DKF", "STORN", "SRNN", "SRNN-TF-GM", "SRNN-GM"]
    assert list(table["VAE"]) == [
        "model",
        "SI-SDR (dB)",
        "PESQ (raw)",
        "VLB (nats per frame)",
        "IW bound (nats per frame)",
        "active",
        "review: SI-SDR (dB)",
        "review: PESQ (raw)",
    ]
    assert table["SRNN"]["SI-SDR (dB)"] == "11.0 ± 1.0"
    assert table["SRNN"]["VLB (nats per frame)"] == "-2.0 ± 1.7"
    assert table["VAE"]["SI-SDR (dB)"] == "5.2"
    assert table["VAE"]["PESQ (raw)"] == "2.50"
    assert table["VAE"]["model"] == "VAE†"
    assert table["DKF"]["model"] == "DKF✗"
    assert table["SRNN"]["PESQ (raw)"] == table["STORN"]["SI-SDR (dB)"] == table["STORN"]["active"] == "–"
    assert table["SRNN"]["review: SI-SDR (dB)"] == "11"
    assert table["SRNN-TF-GM"]["review: SI-SDR (dB)"] == "-1"
    assert table["STORN"]["review: PESQ (raw)"] == "3.42"
    header, rule = text.splitlines()[:2]
    assert re.fullmatch(r"\| --- (\| ---: )+\|", rule)
    assert header.count("|") == rule.count("|")
    assert text.splitlines()[-1] == (
        "† stopped by the cap on epochs, not by the validation bound; "
        "✗ diverged with at least one seed, which the mean leaves out."
    )


def test_notes_explain_only_the_marks_that_are_there(record):
    lines = [[record("vae")], [record("vae", converged=False)], [record("vae", status="diverged"), record("dkf")]]
    texts = [markdown_table(summarise(records)) for records in lines]
    assert [("†" in text, "✗" in text) for text in texts] == [(False, False), (True, False), (False, True)]
    assert texts[0].splitlines()[-1].startswith("| VAE")


def test_columns_are_those_asked_for_and_the_review_can_be_left_out(several):
    lines = summarise(several)
    table = parsed(markdown_table(lines, ["kl", "si_sdr", "estoi"], review=False))
    assert list(table["SRNN"].items()) == [
        ("model", "SRNN"),
        ("KL (nats per frame)", "1.5 ± 0.0"),
        ("SI-SDR (dB)", "11.0 ± 1.0"),
    ]
    assert "review" not in markdown_table(lines, ["vlb"])  # which has no bounds
    with pytest.raises(ValueError, match=r"no column loudness, x; there are si_sdr, .*, active"):
        markdown_table(lines, ["loudness", "vlb", "x"])
    for make in (markdown_table, latex_table):
        with pytest.raises(ValueError, match="no result to make a table of"):
            make([])


def test_motion_has_its_own_columns(record):
    records = [record("vae", experiment="motion", corpus="mocap", tests={"TF": {"mpjpe": 50.125, "rmse": 0.1}})]
    row = parsed(markdown_table(summarise(records)))["VAE"]
    assert (row["MPJPE (mm)"], row["review: MPJPE (mm)"]) == ("50.1", "48.69")
    assert list(row) == [
        "model",
        "MPJPE (mm)",
        "VLB (nats per frame)",
        "IW bound (nats per frame)",
        "active",
        "review: MPJPE (mm)",
    ]


def test_models_that_the_review_has_not_are_without_its_numbers(record):
    table = parsed(markdown_table(summarise([record("vrnn", scheduled=True), record("vae")])))
    assert table["VRNN-GM"]["review: SI-SDR (dB)"] == "–"
    assert table["VAE"]["review: SI-SDR (dB)"] == "5.3"


# --- LaTeX ---


def test_latex_is_a_table_of_booktabs(several):
    text = latex_table(summarise(several))
    lines = text.splitlines()
    assert lines[0] == r"\begin{tabular}{lrrrrrrr}"
    assert lines[1] == r"\toprule"
    assert lines[3] == r"\midrule"
    assert lines[-4:-2] == [r"\bottomrule", r"\end{tabular}"]
    body = [lines[2], *lines[4:-4]]
    assert len(body) == 7
    assert all(row.count("&") == 7 and row.endswith(r" \\") for row in body)
    assert all(line.startswith("%") for line in lines[-2:])
    code = "\n".join(lines[:-2])
    assert code.isascii()
    assert code.count("$") % 2 == 0
    assert not re.search(r"(?<!\\)[%#_^](?!\\dagger|\\times)", code)
    cells = {row.split(" & ")[0]: row[: -len(r" \\")].split(" & ") for row in body}
    assert cells["SRNN"][1] == r"11.0 $\pm$ 1.0"
    assert cells["SRNN"][3] == r"$-$2.0 $\pm$ 1.7"
    assert cells["SRNN-TF-GM"][6] == "$-$1"
    assert cells[r"DKF$^\times$"][2] == "--"
    assert r"VAE$^\dagger$" in cells


def test_latex_takes_the_same_arguments(several):
    text = latex_table(summarise(several), ["si_sdr"], review=False)
    assert text.splitlines()[0] == r"\begin{tabular}{lr}"
    assert "review" not in text


# --- CSV ---


def test_csv_comes_back_unrounded(several):
    lines = summarise(several)
    rows = list(csv.DictReader(io.StringIO(csv_table(lines))))
    assert [row["name"] for row in rows] == [line.name for line in lines]
    assert len({len(row) for row in rows}) == 1
    for row, line in zip(rows, lines, strict=True):
        assert (row["model"], row["mode"], int(row["weights"])) == (line.model, line.mode, line.weights)
        assert tuple(map(int, row["seeds"].split())) == line.seeds
        assert tuple(map(int, row["diverged"].split())) == line.diverged
        assert row["converged"] == str(line.converged)
        for name in ("si_sdr", "pesq", "vlb", "iw", "kl", "active"):
            value = line.values.get(name)
            assert row[name] == ("" if value is None else repr(float(value.mean)))
            spread = None if value is None or math.isnan(value.std) else value.std
            assert row[f"{name}_std"] == ("" if spread is None else repr(float(spread)))
    assert "estoi" not in rows[0]
    assert csv_table([]).count("\n") == 1


# --- what the review reports ---


def test_every_column_of_the_review_can_be_shown():
    for experiment, measures in (("speech", {"si_sdr", "pesq", "estoi"}), ("motion", {"mpjpe"})):
        assert len(REVIEW[experiment]) == 10
        assert all(set(values) == measures for values in REVIEW[experiment].values())
        assert measures <= set(COLUMNS)
    assert {name for name, column in COLUMNS.items() if not column.higher_is_better} == {"mpjpe", "kl"}


def test_the_reviews_tables_add_up_to_what_it_says_of_them():
    """Section 13.3: all dynamical models beat the VAE; SRNN is the best; in generation mode SRNN falls behind."""
    speech, motion = REVIEW["speech"], REVIEW["motion"]
    taught = list(LABELS.values())
    for measure, best in (("si_sdr", 11.0), ("pesq", 3.68), ("estoi", 0.93)):
        assert max(speech[name][measure] for name in taught) == speech["SRNN"][measure] == best
        assert min(speech[name][measure] for name in taught) == speech["VAE"][measure]
        assert speech["SRNN-TF-GM"][measure] < speech["SRNN-GM"][measure] < speech["SRNN"][measure]
    assert sorted(motion, key=lambda name: motion[name]["mpjpe"])[:3] == ["SRNN", "VRNN", "STORN"]
    assert max(motion[name]["mpjpe"] for name in taught) == motion["VAE"]["mpjpe"] == 48.69
    assert motion["SRNN"]["mpjpe"] < motion["SRNN-GM"]["mpjpe"] < motion["SRNN-TF-GM"]["mpjpe"]
    assert COLLAPSED_IN_REVIEW["SRNN"] == 8
    assert all(0 <= count <= 16 for count in COLLAPSED_IN_REVIEW.values())
    assert set(COLLAPSED_IN_REVIEW) <= set(LABELS.values())
