"""``dvae forecast``, ``dvae impute`` and ``dvae score``: what the library gives, as tables."""

import csv
import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from commands import dvae

from dvae_lib import SRNN, build_model
from dvae_lib.series import TrainedModel


@pytest.fixture
def run():
    torch.manual_seed(0)
    SRNN(x_dim=2, z_dim=1, h_dim=4, g_dim=4).save_pretrained("run")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(12, 2))
    lines = [f"{day},{a:.9f},{b:.9f}" for day, (a, b) in enumerate(x)]
    Path("series.csv").write_text("\n".join(["time,heat,level", *lines]) + "\n")
    return np.round(x, 9)


def table(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_a_forecast_is_that_of_the_library(run):
    options = ("--steps", 3, "--samples", 20, "-q", 0.5, "--seed", 4)
    dvae("forecast", "run", "series.csv", *options, "-o", "next.csv")
    rows = table(Path("next.csv").read_text())
    found = TrainedModel.from_pretrained("run").forecast(run, 3, quantiles=(0.5,), num_samples=20, seed=4)
    assert list(rows[0]) == ["frame", "heat", "level", "heat q0.5", "level q0.5"]
    assert [row["frame"] for row in rows] == ["12", "13", "14"]
    np.testing.assert_allclose([[float(r["heat"]), float(r["level"])] for r in rows], found.mean, rtol=1e-4)
    np.testing.assert_allclose([float(r["level q0.5"]) for r in rows], found.quantiles[0.5][:, 1], rtol=1e-4)


def test_empty_cells_are_filled(run):
    lines = Path("series.csv").read_text().splitlines()
    lines[4] = "3,,"
    lines[8] = lines[8].rpartition(",")[0] + ","
    Path("gaps.csv").write_text("\n".join(lines) + "\n")
    assert "Written" in dvae("impute", "run", "gaps.csv", "-o", "filled.csv", "--samples", 10)
    rows = table(Path("filled.csv").read_text())
    filled = np.array([[float(r["heat"]), float(r["level"])] for r in rows])
    assert np.isfinite(filled).all()
    kept = np.ones((12, 2), dtype=bool)
    kept[3], kept[7, 1] = False, False
    np.testing.assert_allclose(filled[kept], run[kept], rtol=1e-5)


def test_scores(run):
    np.save("series.npy", run)
    dvae("score", "run", "series.npy", "-o", "scores.csv", "--particles", 10)
    rows = table(Path("scores.csv").read_text())
    found = TrainedModel.from_pretrained("run").score(run, num_particles=10)
    np.testing.assert_allclose([float(r["log_density"]) for r in rows], found, rtol=1e-4)


def test_inputs_of_a_driven_model(run):
    build_model("rssm", x_dim=2, z_dim=1, u_dim=1).save_pretrained("driven")
    np.save("inputs.npy", np.zeros((15, 1)))
    printed = dvae("forecast", "driven", "series.csv", "--steps", 3, "--inputs", "inputs.npy", "--samples", 5)
    assert "frame,heat,level" in printed
    assert "inputs=" in dvae("forecast", "driven", "series.csv", code=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("forecast", "run", "nowhere.csv"), "There is no file nowhere.csv: expected one CSV or NumPy file"),
        (("forecast", "run", "nowhere.npy"), "There is no file nowhere.npy"),
        (("forecast", "run", "series.csv", "-q", "2"), "between 0 and 1"),
        (("score", "run", "series.csv", "-o", "no/where.csv"), "There is no folder"),
        (("impute", "nowhere", "series.csv"), "nowhere"),
    ],
)
def test_errors_are_sentences(run, arguments, message):
    assert message in dvae(*arguments, code=1)


def test_columns_are_those_of_the_training(run):
    """From the file to the forecast by names alone: families, order, and what is not there."""
    rng = np.random.default_rng(0)
    days = [f"2024-01-{day:02},{rng.poisson(3)},{rng.normal():.6f}" for day in range(1, 31)]
    Path("days.csv").write_text("\n".join(["date,visits,heat", *days]) + "\n")
    options = ("--split", "time", "--epochs", 1, "--z-dim", 1, "-O", "h_dim=4", "-O", "g_dim=4")
    families = ("--observation", "heat=student_t, visits=poisson")
    dvae("train", "srnn", "--data", "days.csv", "--folder", "mine", *options, *families)
    trained = TrainedModel.from_pretrained("mine")
    assert trained.columns == ("visits", "heat")
    assert trained.model.observation == "poisson, student_t"
    assert trained.model.standardizer.scale[0] == 1
    swapped = [",".join(row.split(",")[::-1]) for row in ["date,visits,heat", *days]]
    Path("swapped.csv").write_text("\n".join(swapped) + "\n")
    printed = [dvae("forecast", "mine", f"{name}.csv", "--samples", 9, "--steps", 2) for name in ("days", "swapped")]
    assert printed[0] == printed[1]
    assert "time,visits,heat,visits q0.05" in printed[0]
    np.save("days.npy", np.array([row.split(",")[1:] for row in days], dtype=float))
    numbered = printed[0].replace("time,", "frame,").replace("2024-01-31,", "30,").replace("2024-02-01,", "31,")
    assert dvae("forecast", "mine", "days.npy", "--samples", 9, "--steps", 2) == numbered
    Path("other.csv").write_text("\n".join(["date,visits,rain", *days]) + "\n")
    assert "No column heat" in dvae("forecast", "mine", "other.csv", code=1)
    assert "no column 'rain'" in dvae(
        "train", "srnn", "--data", "days.csv", "--folder", "no", *options, "--observation", "rain=gamma", code=1
    )


class TestTimes:
    """Dates in a file are kept with the model, and come back with what it says."""

    @pytest.fixture
    def days(self):
        x = np.random.default_rng(0).normal(size=(40, 2))
        days = np.arange("2024-01-01", "2024-02-10", dtype="datetime64[D]")
        lines = [f"{day},{a:.6f},{b:.6f}" for day, (a, b) in zip(days, x, strict=True)]
        Path("days.csv").write_text("\n".join(["when,heat,level", *lines]) + "\n")
        dvae("train", "vae", "--data", "days.csv", "--split", "time", "--time", "when", "-f", "run", "--epochs", 1,
             "--z-dim", 1, "-O", "encoder=[4]", "-O", "decoder=[4]")  # fmt: skip
        return lines

    def test_a_forecast_goes_on_with_them(self, days):
        assert TrainedModel.from_pretrained("run/best").frequency == "D"
        dvae("forecast", "run", "days.csv", "--steps", 2, "--samples", 5, "-o", "next.csv")
        rows = table(Path("next.csv").read_text())
        assert [row["time"] for row in rows] == ["2024-02-10", "2024-02-11"]
        Path("few.csv").write_text("\n".join(["when,heat,level", *days[::2]]) + "\n")
        said = dvae("forecast", "run", "few.csv", "--steps", 2, "--samples", 5, code=1)
        assert "one row every 'D', and x has one every '2D'" in said

    def test_jumps_are_refused(self, days):
        Path("jump.csv").write_text("\n".join(["when,heat,level", *days[:9], *days[10:]]) + "\n")
        options = ("--data", "jump.csv", "--split", "time", "--time", "when", "-f", "other")
        assert "the times jump from 2024-01-09 to 2024-01-11" in dvae("train", "vae", *options, code=1)


class TestTimeSteps:
    """Rows that are not evenly spaced: what the model learned of their steps it reads in every command."""

    @pytest.fixture(params=["dates", "numbers"])
    def visits(self, request):
        rng = np.random.default_rng(0)
        hours = np.cumsum(rng.integers(1, 30, 60))
        when = pd.Timestamp("2024-01-01") + pd.to_timedelta(hours, unit="h") if request.param == "dates" else hours
        table = pd.DataFrame(rng.normal(size=(60, 2)), pd.Index(when, name="when"), ["heat", "level"])
        table.to_csv("visits.csv")
        said = dvae("train", "srnn", "--data", "visits.csv", "--split", "time", "--time", "when", "-f", "no", code=1)
        assert "--time-steps input" in said
        dvae("train", "srnn", "--data", "visits.csv", "--split", "time", "--time", "when", "--time-steps", "input",
             "-f", "run", "--epochs", 1, "--z-dim", 1, "-O", "h_dim=4", "-O", "g_dim=4")  # fmt: skip
        return table

    def test_every_command_reads_them(self, visits):
        trained = TrainedModel.from_pretrained("run/best")
        assert trained.time_steps.median == np.median(np.diff(visits.index[:48])) / (
            np.timedelta64(1, "s") if trained.time_steps.seconds else 1
        )
        dvae("score", "run", "visits.csv", "-o", "scores.csv", "--particles", 5)
        scores = pd.read_csv("scores.csv")
        np.testing.assert_allclose(scores["log_density"], trained.score(visits, num_particles=5), rtol=1e-4)
        assert list(scores["time"].astype(str)) == [str(time) for time in visits.index]
        assert "sequences" in dvae("evaluate", "run")

    def test_a_forecast_of_given_times(self, visits):
        trained = TrainedModel.from_pretrained("run/best")
        step = 10 * (pd.Timedelta("1h") if trained.time_steps.seconds else 1)
        at = [visits.index[-1] + step, visits.index[-1] + 9 * step]
        options = [word for time in at for word in ("--at", time)]
        dvae("forecast", "run", "visits.csv", *options, "--samples", 20, "-o", "next.csv")
        rows = pd.read_csv("next.csv")
        assert list(rows["time"].astype(str)) == [str(time) for time in at]
        found = trained.forecast(visits, 2, future_times=at, num_samples=20)
        np.testing.assert_allclose(rows[["heat", "level"]], found.mean, rtol=1e-4)
        dvae("forecast", "run", "visits.csv", "--steps", 3, "--samples", 5, "-o", "next.csv")
        assert len(pd.read_csv("next.csv")) == 3
        assert "leave --steps out" in dvae("forecast", "run", "visits.csv", *options, "--steps", 3, code=2)
        np.save("visits.npy", visits.to_numpy())
        assert "has no times" in dvae("score", "run", "visits.npy", code=1)


@pytest.mark.parametrize("command", ["forecast", "impute", "score"])
def test_the_series_is_not_written_over(run, command):
    before = Path("series.csv").read_text()
    assert "the series itself" in dvae(command, "run", "series.csv", "-o", "./series.csv", code=1)
    assert Path("series.csv").read_text() == before
    assert "Written" in dvae(command, "run", "series.csv", "-o", "series.csv", "--overwrite")
    assert Path("series.csv").read_text() != before


def test_what_was_measured_comes_back_as_it_was_written(run):
    lines = ["heat,level", "101325.27,20240101.5", "101325.31,", "0.1,-3"]
    Path("gaps.csv").write_text("\n".join(lines) + "\n")
    dvae("impute", "run", "gaps.csv", "--samples", 10, "-o", "filled.csv")
    rows = table(Path("filled.csv").read_text())
    assert [row["heat"] for row in rows] == ["101325.27", "101325.31", "0.1"]
    assert [rows[0]["level"], rows[2]["level q0.5"]] == ["20240101.5", "-3"]
