"""Innovations and their tests against statsmodels, dense Gaussians, and data that are wrong in a known way."""

import math

import numpy as np
import pytest
import torch
from brute_force import infer, random_ssm
from scipy import stats

from dvae_lib.statespace import (
    diffuse_innovations,
    innovations,
    jarque_bera,
    level,
    ljung_box,
    log_likelihood,
    regression,
    sample,
    season,
    trend,
    variance_ratio,
)

INPUTS = np.random.default_rng(0).normal(size=(120, 2))


@pytest.fixture(scope="module")
def peers():
    """Our model, its data, and statsmodels' results, by name."""
    sm = pytest.importorskip("statsmodels.api")
    nile = sm.datasets.nile.load_pandas().data.volume.to_numpy()
    sea = sm.datasets.elnino.load_pandas().data.set_index("YEAR").to_numpy().ravel()[:120].copy()
    gappy = sea.copy()
    gappy[40:43] = np.nan
    options = {"seasonal": 12, "exog": INPUTS, "mle_regression": False, "use_exact_diffuse": True}

    def results(x, *arguments, parameters, **rest):
        return sm.tsa.UnobservedComponents(x, *arguments, use_exact_diffuse=True, **rest).smooth(parameters)

    parts = level(0.2) + season(12, 0.01) + regression(INPUTS)
    return {
        "level": (level(1469.2).ssm(15098.5), nile, results(nile, "llevel", parameters=[15098.5, 1469.2])),
        "trend": (trend(1469.2, 3.0).ssm(15098.5), nile, results(nile, "lltrend", parameters=[15098.5, 1469.2, 3.0])),
        "season": (parts.ssm(0.1), sea, sm.tsa.UnobservedComponents(sea, "llevel", **options).smooth([0.1, 0.2, 0.01])),
        "gaps": (
            parts.ssm(0.1),
            gappy,
            sm.tsa.UnobservedComponents(gappy, "llevel", **options).smooth([0.1, 0.2, 0.01]),
        ),
    }


CASES = ["level", "trend", "season", "gaps"]


class TestAgainstStatsmodels:
    @pytest.mark.parametrize("case", CASES)
    def test_innovations(self, peers, case):
        ssm, x, theirs = peers[case]
        found, first = diffuse_innovations(ssm, x[:, None]), theirs.nobs_diffuse
        assert bool(found.standardized[:first].isnan().all())
        seen = first + np.flatnonzero(~np.isnan(x[first:]))  # statsmodels has zeros where nothing was observed
        assert int((~found.standardized.isnan()).sum()) == len(seen)
        np.testing.assert_allclose(found.error[seen, 0], theirs.forecasts_error[0][seen], atol=1e-6)
        np.testing.assert_allclose(found.standardized[seen, 0], theirs.standardized_forecasts_error[0][seen], atol=1e-8)
        variance = theirs.filter_results.forecasts_error_cov[0, 0][seen]
        np.testing.assert_allclose(found.covariance[seen, 0, 0], variance, rtol=1e-8)

    @pytest.mark.parametrize("case", ["level", "trend", "season"])
    @pytest.mark.parametrize("lags", [None, 1, 17])
    def test_ljung_box(self, peers, case, lags):
        ssm, x, theirs = peers[case]
        own = diffuse_innovations(ssm, x[:, None]).tests(lags=lags)["ljung_box"]
        expected = theirs.test_serial_correlation("ljungbox", lags=lags or 10)[0][:, -1]
        np.testing.assert_allclose(own, expected, atol=1e-6)

    @pytest.mark.parametrize("case", ["level", "trend", "season"])
    def test_jarque_bera(self, peers, case):
        ssm, x, theirs = peers[case]
        own = diffuse_innovations(ssm, x[:, None]).tests()["jarque_bera"]
        np.testing.assert_allclose(own, theirs.test_normality("jarquebera")[0][:2], atol=1e-6)

    @pytest.mark.parametrize("case", ["level", "trend", "season"])
    def test_variance_ratio(self, peers, case):
        ssm, x, theirs = peers[case]
        own = diffuse_innovations(ssm, x[:, None]).tests()["variance_ratio"]
        np.testing.assert_allclose(own, theirs.test_heteroskedasticity("breakvar")[0], atol=1e-6)

    def test_of_what_is_there(self, peers):
        """Gaps are left out; the values that are there, by scipy."""
        ssm, x, _ = peers["gaps"]
        found = diffuse_innovations(ssm, x[:, None])
        e = found.standardized[14:, 0].numpy()
        peer = stats.jarque_bera(e[~np.isnan(e)])
        np.testing.assert_allclose(found.tests()["jarque_bera"], (peer.statistic, peer.pvalue), atol=1e-9)
        early, late = e[:35][~np.isnan(e[:35])], e[-35:]
        ratio = np.square(late).mean() / np.square(early).mean()
        p = 2 * min(stats.f.cdf(ratio, 35, 32), stats.f.sf(ratio, 35, 32))
        np.testing.assert_allclose(found.tests()["variance_ratio"], (ratio, p), atol=1e-9)


class TestAgainstDenseGaussians:
    def test_of_several_sensors_with_gaps_in_part(self):
        """Standardised innovations are the whole data over the lower Cholesky factor of their covariance."""
        ssm = random_ssm(2, 3, seed=1)
        x = sample(ssm, 7, generator=torch.Generator().manual_seed(0)).x
        x[2, 1], x[4] = torch.nan, torch.nan
        found = innovations(ssm, x)
        whole = log_likelihood(ssm, x)
        white = found.standardized[~found.standardized.isnan()]
        assert len(white) == int((~x.isnan()).sum())
        units = torch.eye(x.numel(), dtype=torch.float64).reshape(-1, *x.shape)
        zero = torch.where(x.isnan(), torch.nan, torch.zeros_like(x))
        moved = torch.stack([innovations(ssm, zero + unit).standardized for unit in units])
        slopes = moved - innovations(ssm, zero).standardized
        seen = ~x.isnan().flatten()
        inverse = slopes.flatten(1).T[seen][:, seen]  # L^{-1}: lower, so that the innovations look at the past alone
        assert float(inverse.triu(1).abs().max()) < 1e-12
        log_det = inverse.diagonal().log().sum()
        exact = -0.5 * (white.square().sum() + len(white) * math.log(2 * math.pi)) + log_det
        torch.testing.assert_close(exact, whole)
        assert float(infer(ssm, x).log_likelihood) == pytest.approx(float(whole), abs=1e-8)

    def test_a_flat_prior_is_the_limit_of_vague_ones(self):
        ssm = random_ssm(2, 2, seed=2).replace(m=None, n=None)
        x = sample(ssm, 9, generator=torch.Generator().manual_seed(0)).x
        x[0, 1], x[5] = torch.nan, torch.nan
        exact = diffuse_innovations(ssm, x)
        vague = innovations(ssm.replace(Lambda_1=1e7 * torch.eye(2).double()), x)
        told = ~exact.standardized.isnan().all(1)
        assert told.tolist() == [False, False, True, True, True, False, True, True, True]
        for own, limit in zip(exact, vague, strict=True):
            torch.testing.assert_close(own[told], limit[told], atol=1e-4, rtol=1e-4)

    def test_only_what_is_not_determined_is_left_out(self):
        """A step in frame 30 is unknown there, and nowhere else; the units of the input do not matter."""
        for height in (1e-6, 1.0, 1e6):
            step = height * (np.arange(50) >= 30.0)[:, None]
            x = np.random.default_rng(0).normal(size=(50, 1))
            found = diffuse_innovations((level(0.1) + regression(step)).ssm(1.0), x).standardized[:, 0]
            assert found.isnan().nonzero()[:, 0].tolist() == [0, 30]


class TestLaws:
    def test_gaps_leave_the_levels_of_the_tests_right(self):
        """Of independent residuals, a fifth of them lost, each test calls one in ten odd at the 10 % level."""
        rng = np.random.default_rng(0)
        e = rng.normal(size=(600, 200))
        e[rng.random(e.shape) < 0.2] = np.nan
        for test in (ljung_box, variance_ratio):
            p = np.array([test(values).p_value for values in e])
            assert stats.binomtest(int((p < 0.1).sum()), len(p), 0.1).pvalue > 0.01, test.__name__

    def test_each_finds_what_it_looks_for(self):
        rng = np.random.default_rng(0)
        e = rng.normal(size=400)
        faults = {
            ljung_box: e[1:] + 0.5 * e[:-1],
            jarque_bera: rng.standard_t(3, size=400),
            variance_ratio: e * np.linspace(1, 2, 400),
        }
        for test, values in faults.items():
            assert test(values).p_value < 1e-3
            assert test(e).p_value > 0.05

    def test_a_missing_season_is_found(self):
        x = np.sin(np.arange(120) * np.pi / 6) + 0.1 * np.random.default_rng(0).normal(size=120)
        without = diffuse_innovations(level(0.05).ssm(0.1), x[:, None]).tests(lags=24)["ljung_box"]
        whole = diffuse_innovations((level(1e-9) + season(12, 0.0)).ssm(0.01), x[:, None]).tests(lags=24)["ljung_box"]
        assert without.p_value < 1e-6
        assert whole.p_value > 0.05


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda e: ljung_box(e, lags=0), "lags must be at least 1 and less than the number of residuals, 9; got 0"),
        (lambda e: ljung_box(e, lags=9), "got 9"),
        (lambda e: ljung_box(e[:, None]), "of one series"),
        (lambda e: jarque_bera(np.ones(5)), "do not vary"),
        (lambda e: jarque_bera(np.full(5, np.nan)), "do not vary"),
        (lambda e: variance_ratio(e[:4]), "each third needs two residuals"),
        (lambda e: innovations(random_ssm(1, 1), torch.zeros(2, 5, 1).double()), "one series"),
        (lambda e: innovations(random_ssm(1, 1, batch=(2,)), torch.zeros(5, 1).double()), "one model"),
    ],
)
def test_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(np.random.default_rng(0).normal(size=9))
