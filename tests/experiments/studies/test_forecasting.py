"""Forecasts of the sea's temperature: the references against statsmodels and by hand, and the study on two steps."""

import numpy as np
import pytest
import torch

from dvae_lib.experiments.results import ResultFile
from dvae_lib.experiments.studies import forecasting
from dvae_lib.experiments.studies.forecasting import KEY, MODELS, REFERENCES, main, measured, reference, sea_temperature
from dvae_lib.resources import resource_path

pytest.importorskip("statsmodels")


@pytest.fixture(scope="module")
def months():
    return sea_temperature()


def test_the_series_begins_and_ends_as_the_table_does(months):
    assert months.x.shape == (61 * 12, 1)
    assert np.isfinite(months.x).all()
    assert months.x[[0, -1], 0] == pytest.approx([23.11, 22.07], abs=0.01)
    np.testing.assert_allclose(months.season[:12], months.season[12:24], atol=1e-12)


def test_of_a_forecast_that_is_right_nothing_is_wrong(months):
    truth = measured(lambda t: np.repeat(months.x[t : t + 12, 0][None], 5, 0), months, 540, 600)
    assert (truth["crps"], truth["rmse"], truth["coverage_90"]) == (0, 0, 1)
    warmer = measured(lambda t: np.repeat(months.x[t : t + 12, 0][None] + 2, 5, 0), months, 540, 600)
    assert (warmer["crps"], warmer["rmse"], warmer["coverage_90"]) == (2, 2, 0)


@pytest.mark.parametrize("name", REFERENCES)
def test_a_reference_knows_nothing_of_the_future(months, name):
    later = months._replace(x=np.where(np.arange(len(months.x))[:, None] < 560, months.x, 99.0))
    np.testing.assert_array_equal(reference(name, months)(560), reference(name, later)(560))


def test_climatology_draws_from_the_same_month(months):
    drawn = reference("climatology", months)(545)
    for h in range(12):
        assert set(drawn[:, h]) <= set(months.x[(545 + h) % 12 : 545 : 12, 0])


def test_a_dvae_knows_nothing_of_the_future(months):
    torch.manual_seed(0)
    model = MODELS["svae"]()
    later = months._replace(x=np.where(np.arange(len(months.x))[:, None] < 560, months.x, 99.0))
    first, second = (forecasting.forecasts_of(model, series)(560) for series in (months, later))
    np.testing.assert_array_equal(first, second)


def test_the_study_resumes_and_says_how_it_was_made(tmp_path, made_by, monkeypatch):
    monkeypatch.setattr(forecasting, "SAMPLES", 5)
    monkeypatch.setattr(forecasting, "EVERY", 60)
    places = ["--runs", str(tmp_path), "--output", str(tmp_path / "forecasting.json")]
    assert main(["svae", "climatology", "--seeds", "3", "--epochs", "2", *places]) == 0
    first = (tmp_path / "forecasting.json").read_text()
    assert main(["svae", "climatology", "--seeds", "3", "--epochs", "2", *places]) == 0
    assert (tmp_path / "forecasting.json").read_text() == first
    records = ResultFile(tmp_path / "forecasting.json", KEY).records
    assert [(r["name"], r["seed"]) for r in records] == [("svae", 3), ("climatology", 0)]
    for record in records:
        made_by(record)
        assert np.mean(record["crps_by_month"]) == pytest.approx(record["crps"], abs=1e-3)


def test_the_result_file_is_of_this_series_and_complete(months):
    records = ResultFile(resource_path("results", "forecasting.json"), KEY).records
    wanted = {(name, seed) for name in MODELS for seed in (0, 1, 2)} | {(name, 0) for name in REFERENCES}
    assert {(r["name"], r["seed"]) for r in records} == wanted
    for name in REFERENCES:  # without training, and so to be had again
        again = measured(reference(name, months), months, forecasting.STARTS["test"], len(months.x))
        (kept,) = (r for r in records if r["name"] == name)
        assert again["crps"] == pytest.approx(kept["crps"], rel=1e-3)
        assert again["coverage_90"] == pytest.approx(kept["coverage_90"], abs=1e-3)
