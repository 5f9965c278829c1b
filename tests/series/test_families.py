"""Tables whose columns have families of their own: trained, saved, and at work in the units of the data."""

import numpy as np
import pandas as pd
import pytest
import torch

from dvae_lib.data import Standardizer, from_arrays
from dvae_lib.distributions import standardized_columns
from dvae_lib.series import TrainedModel
from dvae_lib.training import TrainingConfig, fit, model_for

FAMILIES = {"heat": "student_t", "visits": "poisson"}
QUICK = TrainingConfig(max_epochs=1)


def days(rows=60):
    rng = np.random.default_rng(0)
    table = {"visits": rng.poisson(3, rows).astype(float), "heat": 20 + 3 * rng.standard_t(4, rows)}
    return pd.DataFrame(table, pd.date_range("2020-01-01", periods=rows))


def parts(table, **options):
    return from_arrays([table], split="time", fractions=(0.8, 0.2), **options)


def built(data):
    torch.manual_seed(0)
    return model_for("srnn", data, observation=FAMILIES, z_dim=1, h_dim=4, g_dim=4)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    train, validation = parts(days(), standardize=standardized_columns(FAMILIES))
    folder = tmp_path_factory.mktemp("run")
    fit(built(train), train, validation, QUICK, folder=folder)
    return TrainedModel.from_pretrained(folder)


def test_only_what_may_be_is_standardised():
    train, validation = parts(days(), standardize=["heat"])
    assert train.standardizer.mean[0] == 0
    assert train.standardizer.scale[0] == 1
    assert (train[0][:, 0].numpy() == days()["visits"].to_numpy()[:48]).all()
    assert abs(train[0][:, 1].mean()) < 1e-5
    assert validation.standardizer is train.standardizer
    by_number, _ = parts(days().to_numpy(), standardize=[1])
    assert torch.equal(by_number.standardizer.mean, train.standardizer.mean)
    assert torch.equal(Standardizer.fit(train, columns=[]).mean, torch.zeros(2, dtype=torch.float64))


def test_names_can_be_given_to_arrays():
    train, _ = parts(days().to_numpy(), columns=["visits", "heat"], standardize=["heat"])
    assert train.labels.columns == ("visits", "heat")
    assert built(train).observation == "poisson, student_t"
    with pytest.raises(ValueError, match="1 names of columns for 2 columns"):
        parts(days().to_numpy(), columns=["visits"])
    with pytest.raises(ValueError, match="no column 'rain'; the data have visits, heat"):
        parts(days(), standardize=["rain"])


def test_forecasts_are_of_each_column_s_kind(trained):
    found = trained.forecast(days(), 4, num_samples=101)
    counts = [table["visits"] for table in found.quantiles.values()] + [found.samples[..., 0]]
    assert all((np.asarray(table) == np.round(table)).all() for table in counts)
    assert min(np.min(table) for table in counts) >= 0
    assert 10 < found.mean["heat"].mean() < 30
    assert (found.mean["visits"] != found.mean["visits"].round()).any()


def test_a_quantile_of_counts_is_the_least_that_has_that_share_below(trained):
    found = trained.forecast(days(), 2, quantiles=(0.3, 0.5, 0.95), num_samples=40)
    for level, table in found.quantiles.items():
        exact = np.quantile(found.samples[..., 0], level, axis=0, method="inverted_cdf")
        np.testing.assert_array_equal(table["visits"], exact)
        np.testing.assert_allclose(table["heat"], np.quantile(found.samples[..., 1], level, axis=0), rtol=1e-12)


def test_gaps_are_filled_with_numbers_of_the_column_s_kind(trained):
    gappy = days()
    gappy.iloc[4, 0], gappy.iloc[9, 1] = np.nan, np.nan
    found = trained.impute(gappy, num_samples=20)
    assert (found.samples[:, 4, 0] == found.samples[:, 4, 0].round()).all()
    assert len(set(found.samples[:, 9, 1])) > 10
    assert np.isfinite(trained.score(gappy, num_particles=5, missing=True)).all()


def test_the_score_is_a_density_in_the_units_of_the_data(trained):
    """Of numbers the unit counts, of counts it does not: in tenths of a degree each frame loses log 10."""
    as_it_is = trained.score(days(), num_particles=5, seed=1)
    state = dict(trained.model.metadata["standardizer"])
    trained.model.metadata["standardizer"] = {key: [v[0], 10 * v[1]] for key, v in state.items()}
    try:
        tenths = trained.score(days().assign(heat=10 * days()["heat"]), num_particles=5, seed=1)
    finally:
        trained.model.metadata["standardizer"] = state
    np.testing.assert_allclose(as_it_is - tenths, np.log(10), rtol=1e-3)


class TestBeforeTraining:
    """What does not fit is refused by the column's name."""

    def test_negative_counts(self):
        table = days()
        table.iloc[3, 0] = -2
        train, validation = parts(table, standardize=["heat"])
        message = (
            "hold -2 .sequence .*, frame 3, column 'visits'.*whole numbers of at least 0 only there. Choose another"
        )
        with pytest.raises(ValueError, match=message):
            fit(built(train), train, validation, QUICK)

    def test_counts_that_were_standardised(self):
        train, validation = parts(days())
        with pytest.raises(ValueError, match=r"column 'visits'.*are standardised.*standardize=\[1\]"):
            fit(built(train), train, validation, QUICK)

    def test_a_series_at_work(self, trained):
        table = days()
        table.iloc[3, 0] = 0.5
        with pytest.raises(ValueError, match=r"is 0.5 .*whole numbers of at least 0 only in column 0"):
            trained.encode(table)

    def test_columns_without_a_family(self):
        train, _ = parts(days(), standardize=["heat"])
        with pytest.raises(ValueError, match="column 'visits' has no family"):
            model_for("srnn", train, observation={"heat": "laplace"})
