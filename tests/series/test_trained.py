"""Forecasts, gaps, scores and codes in the units of the data: against the Kalman filter, and at every model."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from test_filtering import linear_dkf, seeded

from dvae_lib import MODELS, SRNN, build_model
from dvae_lib.data import Standardizer
from dvae_lib.metrics import coverage, crps
from dvae_lib.series import TrainedModel, following_index
from dvae_lib.statespace import kalman_filter, log_likelihood

MEAN, SCALE = np.array([300.0, -2.0]), np.array([5.0, 0.1])
MONTHS = pd.date_range("1990-01-01", periods=30, freq="MS")


@pytest.fixture(scope="module")
def linear():
    """A linear-Gaussian model as if trained on data of other units, the truth, and a series in these units."""
    model, ssm = linear_dkf()
    standardizer = Standardizer(torch.tensor(MEAN), torch.tensor(SCALE))
    model.metadata["standardizer"] = standardizer.to_dict()
    x = model.generate(30, 1, generator=seeded()).x
    return TrainedModel(model), ssm, x, x[0].numpy() * SCALE + MEAN


class TestTruth:
    def test_a_forecast(self, linear):
        trained, ssm, x, series = linear
        found = trained.forecast(series, 4, quantiles=(0.1, 0.9), num_samples=4000)
        exact = kalman_filter(ssm, x)
        mean, covariance = exact.mean[0, -1], exact.covariance[0, -1]
        for t in range(4):
            mean, covariance = ssm.A @ mean, ssm.A @ covariance @ ssm.A.mT + ssm.Lambda
            deviation = (ssm.C @ covariance @ ssm.C.mT + ssm.Sigma).diagonal().sqrt().numpy() * SCALE
            centre = (ssm.C @ mean).numpy() * SCALE + MEAN
            assert np.abs((found.mean[t] - centre) / deviation).max() < 0.1
            for level, z in ((0.1, -1.2816), (0.9, 1.2816)):
                assert np.abs((found.quantiles[level][t] - centre) / deviation - z).max() < 0.12
        assert found.samples.shape == (4000, 4, 2)

    def test_scores_add_up_to_the_log_likelihood_in_the_units_of_the_data(self, linear):
        trained, ssm, x, series = linear
        exact = float(log_likelihood(ssm, x)) - 30 * math.log(SCALE.prod())
        assert trained.score(series, num_particles=2000).sum() == pytest.approx(exact, abs=0.5)

    def test_scores_of_a_series_with_gaps_are_densities_of_what_was_observed(self, linear):
        trained, ssm, x, series = linear
        gappy, observed = series.copy(), torch.ones(1, 30, dtype=torch.bool)
        gappy[5:8], observed[0, 5:8] = np.nan, False
        gappy[20] = np.nan
        observed[0, 20] = False
        exact = float(log_likelihood(ssm, x, mask=observed)) - 26 * math.log(SCALE.prod())
        scores = trained.score(gappy, num_particles=2000, missing=True)
        assert (scores[5:8] == 0).all()
        assert scores.sum() == pytest.approx(exact, abs=0.5)
        half = series.copy()
        half[3, 0] = np.nan  # one entry of a frame: its own scale counts, and no other
        alone = trained.score(half, num_particles=2000, missing=True)
        assert np.isfinite(alone).all()
        independent = kalman_filter(ssm, x)  # this model's entries have nothing to do with each other
        spread = (ssm.C @ independent.predicted_covariance[0, 3] @ ssm.C.mT + ssm.Sigma)[1, 1].sqrt() * SCALE[1]
        centre = (ssm.C @ independent.predicted_mean[0, 3])[1] * SCALE[1] + MEAN[1]
        exact = torch.distributions.Normal(centre, spread).log_prob(torch.tensor(series[3, 1]))
        assert alone[3] == pytest.approx(float(exact), abs=0.2)

    def test_an_odd_frame_falls_below_the_threshold(self, linear):
        trained, _, _, series = linear
        ordinary = [trained.model.generate(60, 1, generator=seeded(k)).x[0].numpy() * SCALE + MEAN for k in range(1, 9)]
        limit = trained.threshold(ordinary, false_alarms=0.05)
        below = np.concatenate([trained.score(x) for x in ordinary]) < limit
        assert below.mean() == pytest.approx(0.05, abs=1 / 480)
        odd = series.copy()
        odd[12] += 9 * SCALE
        assert trained.score(odd)[12] < limit

    def test_codes_are_the_posteriors_of_the_inference_model(self, linear):
        trained, _, x, series = linear
        found, posterior = trained.encode(series), trained.model.inference(x, draw="mean")["z"].posterior
        np.testing.assert_allclose(found.mean["z"], posterior.mean[0].detach(), rtol=1e-9)
        np.testing.assert_allclose(found.deviation["z"], posterior.stddev[0].detach(), rtol=1e-9)

    def test_gaps_are_filled_and_the_rest_is_left_to_the_last_digit(self, linear):
        trained, _, _, series = linear
        gappy = series.copy()
        gappy[10:13], gappy[20, 1] = np.nan, np.nan
        found, lost = trained.impute(gappy, num_samples=50), np.isnan(gappy)
        for table in (found.mean, *found.quantiles.values(), *found.samples):
            assert (table[~lost] == series[~lost]).all()
            assert np.isfinite(table).all()
        assert (found.quantiles[0.05][lost] < found.quantiles[0.95][lost]).all()
        assert np.abs((found.mean - MEAN) / SCALE).max() < 5
        by_mask = trained.impute(series, ~lost, num_samples=50)
        np.testing.assert_array_equal(by_mask.samples, found.samples)


class TestTables:
    def test_of_frames_come_frames(self, linear):
        trained, _, _, series = linear
        frame = pd.DataFrame(series, index=MONTHS, columns=["heat", "level"])
        found = trained.forecast(frame, 3, num_samples=20)
        assert list(found.mean.index.strftime("%Y-%m")) == ["1992-07", "1992-08", "1992-09"]
        assert list(found.quantiles[0.5].columns) == ["heat", "level"]
        np.testing.assert_array_equal(found.mean, trained.forecast(series, 3, num_samples=20).mean)
        scores = trained.score(frame)
        assert scores.name == "log_density"
        assert scores.index.equals(MONTHS)
        codes = trained.encode(frame)
        assert list(codes.mean["z"].columns) == ["z0", "z1"]
        assert codes.mean["z"].index.equals(MONTHS)
        frame.iloc[4, 0] = np.nan
        filled = trained.impute(frame, num_samples=20)
        assert filled.mean.index.equals(MONTHS)
        assert filled.mean.iloc[4].notna().all()
        assert (filled.mean["level"] == frame["level"]).all()

    @pytest.mark.parametrize(
        ("index", "following"),
        [
            (pd.period_range("2000Q1", periods=3, freq="Q"), ["2000Q4", "2001Q1"]),
            (pd.DatetimeIndex(["2000-01-03", "2000-01-04", "2000-01-05", "2000-01-06", "2000-01-07"]), None),
            (pd.RangeIndex(3), [3, 4]),
            (pd.Index([0.0, 0.25, 0.5]), [0.75, 1.0]),
            (pd.Index([10, 20]), [30, 40]),
        ],
        ids=["quarters", "days", "range", "seconds", "tens"],
    )
    def test_times_go_on(self, index, following):
        found = following_index(index, 2)
        assert len(found) == 2
        assert following is None or [str(v) if isinstance(index, pd.PeriodIndex) else v for v in found] == following
        assert found[0] > index[-1]

    @pytest.mark.parametrize(
        "index", [pd.Index([0.0, 1.0, 5.0]), pd.Index([1]), pd.Index(["a", "b"]), pd.Index([2, 2]),
                  pd.DatetimeIndex(["2000-01-03", "2000-01-04", "2000-02-09"])], ids=str,
    )  # fmt: skip
    def test_times_without_a_rhythm_are_refused(self, index):
        with pytest.raises(ValueError, match="no rhythm"):
            following_index(index, 2)


VARIANTS = [(name, u_dim) for name in MODELS for u_dim in (0, 2)]


@pytest.mark.parametrize(("name", "u_dim"), VARIANTS)
def test_at_every_model(name, u_dim):
    """A forecast has as many frames as asked for, seeds repeat it, and what a model cannot do it says."""
    torch.manual_seed(0)
    options = {**MODELS[name].options, **MODELS[name].small, "x_dim": 3, "z_dim": 2, "u_dim": u_dim}
    try:
        trained = TrainedModel(build_model(name, **options))
    except (TypeError, ValueError):
        pytest.skip("its equations have no input")
    x, u = np.random.default_rng(0).normal(size=(9, 3)), np.random.default_rng(1).normal(size=(12, 2))
    known, all_inputs = ({"inputs": u[:9]}, {"inputs": u}) if u_dim else ({}, {})
    found = trained.forecast(x, 3, num_samples=5, **all_inputs)
    assert found.samples.shape == (5, 3, 3)
    assert np.isfinite(found.samples).all()
    np.testing.assert_array_equal(found.samples, trained.forecast(x, 3, num_samples=5, **all_inputs).samples)
    x[4], x[6, 1] = np.nan, np.nan
    assert np.isfinite(trained.impute(x, num_samples=5, **known).mean).all()
    assert trained.forecast(x, 3, num_samples=5, missing=True, **all_inputs).mean.shape == (3, 3)
    assert all(np.isfinite(v).all() for v in trained.encode(x, missing=True, **known).mean.values())
    if trained.model.has_proposal:
        scores = trained.score(x, num_particles=5, missing=True, **known)
        assert np.isfinite(scores).all()
        assert scores[4] == 0
    else:
        with pytest.raises(NotImplementedError, match="importance_weighted_bound"):
            trained.score(x, num_particles=5, missing=True, **known)


def test_an_intervention_changes_what_comes_and_not_what_was():
    torch.manual_seed(0)
    trained, x = TrainedModel(build_model("rssm", x_dim=2, z_dim=2, u_dim=1)), np.zeros((10, 2))
    u = np.zeros((15, 1))
    push = u.copy()
    push[12:] = 3.0
    calm, pushed = (trained.forecast(x, 5, inputs=inputs, num_samples=10).samples for inputs in (u, push))
    np.testing.assert_array_equal(calm[:, :2], pushed[:, :2])
    assert (calm[:, 2:] != pushed[:, 2:]).all()


@pytest.fixture
def trained(as_a_user):
    torch.manual_seed(0)
    return TrainedModel(SRNN(x_dim=2, z_dim=1, h_dim=4, g_dim=4))


class TestBadInput:
    X = np.zeros((6, 2))

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda m, x: m.forecast(x, 0), "steps"),
            (lambda m, x: m.forecast(x, 2, num_samples=0), "num_samples"),
            (lambda m, x: m.forecast(x, 2, quantiles=(0.0, 0.5)), "between 0 and 1"),
            (lambda m, x: m.forecast(x, 2, quantiles=(1.2,)), "between 0 and 1"),
            (lambda m, x: m.forecast(x, 2, inputs=np.zeros((8, 1))), "takes no inputs"),
            (lambda m, x: m.forecast(np.zeros((6, 3)), 2), "2 columns; got 3"),
            (lambda m, x: m.score(np.zeros((6, 1))), "2 columns; got 1"),
            (lambda m, x: m.forecast(np.zeros(6), 2), r"\(6,\)|shape"),
            (lambda m, x: m.forecast(np.full((6, 2), np.nan), 2, missing=True), "no value"),
            (lambda m, x: m.forecast(np.where(np.eye(6, 2) > 0, np.nan, 0.0), 2), "NaN|missing"),
            (lambda m, x: m.impute(x, np.ones((5, 2), dtype=bool)), "observed must have shape"),
            (lambda m, x: m.threshold([x], false_alarms=0.0), "share"),
            (lambda m, x: m.threshold([]), "none"),
            (lambda m, x: m.score(x, num_particles=0), "num_particles"),
        ],
    )
    def test_is_refused(self, trained, call, message):
        with pytest.raises(ValueError, match=message):
            call(trained, self.X)

    def test_masks_are_boolean(self, trained):
        with pytest.raises(TypeError, match="boolean"):
            trained.impute(self.X, np.ones((6, 2)))

    def test_a_folder_is_no_model(self, as_a_user):
        with pytest.raises(TypeError, match="from_pretrained"):
            TrainedModel("runs/mine")

    def test_inputs_reach_to_the_end_of_the_future(self):
        torch.manual_seed(0)
        driven = TrainedModel(build_model("rssm", x_dim=2, z_dim=2, u_dim=1))
        with pytest.raises(ValueError, match="6 frames of the past and 2 to come"):
            driven.forecast(self.X, 2, inputs=np.zeros((6, 1)))
        with pytest.raises(ValueError, match="driven by 1"):
            driven.forecast(self.X, 2)

    def test_one_frame_is_a_series(self, trained):
        assert trained.forecast(self.X[:1], 2, num_samples=3).mean.shape == (2, 2)


class TestMeasures:
    def test_crps_of_a_gaussian_is_the_closed_form(self):
        rng = np.random.default_rng(0)
        x = np.array([-1.0, 0.0, 2.5])
        found = crps(rng.normal(size=(40_000, 3)), x)
        normal = torch.distributions.Normal(0.0, 1.0)
        cdf, density = normal.cdf(torch.tensor(x)).numpy(), normal.log_prob(torch.tensor(x)).exp().numpy()
        np.testing.assert_allclose(found, x * (2 * cdf - 1) + 2 * density - 1 / math.sqrt(math.pi), atol=0.02)

    def test_crps_is_the_double_sum(self):
        rng = np.random.default_rng(0)
        draws, x = rng.normal(size=(7, 2)), rng.normal(size=2)
        pairs = sum(abs(draws[i] - draws[j]) for i in range(7) for j in range(7)) / 42
        np.testing.assert_allclose(crps(draws, x), abs(draws - x).mean(0) - pairs / 2, rtol=1e-12)

    @pytest.mark.parametrize(
        ("function", "arguments"),
        [(crps, ([[1.0]], [1.0])), (crps, ([[1.0], [2.0]], [1.0, 2.0])), (crps, ([[np.nan], [2.0]], [1.0])),
         (coverage, ([1.0], [0.0], [0.5])), (coverage, ([], [], [])), (coverage, ([np.nan], [1.0], [0.0]))],
    )  # fmt: skip
    def test_what_cannot_be_scored_is_refused(self, function, arguments):
        with pytest.raises(ValueError, match=r"expected|NaN|above"):
            function(*arguments)
