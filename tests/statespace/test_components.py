"""Structural models against statsmodels' UnobservedComponents, on its classical series, and against dense Gaussians."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from dvae_lib.statespace import (
    LinearGaussianSSM,
    diffuse_forecast,
    diffuse_log_likelihood,
    diffuse_smoother,
    fit_components,
    forecast,
    level,
    log_likelihood,
    regression,
    season,
    trend,
)

sm = pytest.importorskip("statsmodels.api")


@pytest.fixture(scope="module")
def nile():
    return sm.datasets.nile.load_pandas().data.volume.to_numpy()


@pytest.fixture(scope="module")
def sea():
    """Ten years of El Niño months, three of them lost."""
    x = sm.datasets.elnino.load_pandas().data.set_index("YEAR").to_numpy().ravel()[:120].copy()
    x[20:23] = np.nan
    return x


INPUTS = np.random.default_rng(0).normal(size=(126, 2))


class TestAgainstStatsmodels:
    def test_a_level(self, nile):
        peer = sm.tsa.UnobservedComponents(nile, "llevel", use_exact_diffuse=True)
        own = diffuse_log_likelihood(level(1469.2).ssm(15098.5), nile[:, None])
        assert own.item() == pytest.approx(peer.loglike([15098.5, 1469.2]), abs=1e-9)

    def test_a_trend(self, nile):
        peer = sm.tsa.UnobservedComponents(nile, "lltrend", use_exact_diffuse=True)
        own = diffuse_log_likelihood(trend(1469.2, 3.0).ssm(15098.5), nile[:, None])
        assert own.item() == pytest.approx(peer.loglike([15098.5, 1469.2, 3.0]), abs=1e-9)

    def test_level_season_regression_and_gaps(self, sea):
        options = {"seasonal": 12, "exog": INPUTS[:120], "mle_regression": False, "use_exact_diffuse": True}
        peer = sm.tsa.UnobservedComponents(sea, "llevel", **options)
        parts = level(0.2) + season(12, 0.01) + regression(INPUTS)
        own = diffuse_log_likelihood(parts.ssm(0.1), sea[:, None])
        assert own.item() == pytest.approx(peer.loglike([0.1, 0.2, 0.01]), abs=1e-8)

    @pytest.mark.parametrize("waves", [[(7, 3)], [(12, 3), (7.5, 2)], [(12, 2), (2.5, 1)]])
    def test_seasons_of_waves(self, sea, waves):
        seasons = [{"period": period, "harmonics": count} for period, count in waves]
        peer = sm.tsa.UnobservedComponents(sea, "llevel", freq_seasonal=seasons, use_exact_diffuse=True)
        parts = level(0.2)
        for variance, (period, count) in zip((0.03, 0.007), waves, strict=False):
            parts = parts + season(period, variance, harmonics=count)
        own = diffuse_log_likelihood(parts.ssm(0.1), sea[:, None])
        assert own.item() == pytest.approx(peer.loglike([0.1, 0.2, 0.03, 0.007][: 2 + len(waves)]), abs=1e-6)

    def test_two_seasons_side_by_side(self, sea):
        """One that sums to zero, and one of waves: the two forms that statsmodels can have together."""
        options = {"seasonal": 4, "freq_seasonal": [{"period": 7, "harmonics": 3}], "use_exact_diffuse": True}
        peer = sm.tsa.UnobservedComponents(sea, "llevel", **options)
        parts = level(0.2) + season(4, 0.01) + season(7, 0.03, harmonics=3)
        own = diffuse_log_likelihood(parts.ssm(0.1), sea[:, None])
        assert own.item() == pytest.approx(peer.loglike([0.1, 0.2, 0.01, 0.03]), abs=1e-6)
        found = fit_components(parts, sea[:, None], noise=0.1, fixed=("level", "season", "season 2", "noise"))
        assert list(found.decompose(sea[:, None])) == ["level", "season", "season 2"]
        theirs = peer.smooth([0.1, 0.2, 0.01, 0.03])
        own = found.decompose(sea[:, None])
        np.testing.assert_allclose(own["season"].mean, theirs.seasonal.smoothed, atol=1e-6)
        np.testing.assert_allclose(own["season 2"].mean, theirs.freq_seasonal[0].smoothed, atol=1e-6)
        ahead = theirs.get_forecast(6).predicted_mean
        np.testing.assert_allclose(found.forecast(sea[:, None], 6).mean[:, 0], ahead, rtol=1e-7)

    def test_forecasts(self, sea):
        options = {"seasonal": 12, "exog": INPUTS[:120], "mle_regression": False, "use_exact_diffuse": True}
        peer = sm.tsa.UnobservedComponents(sea, "llevel", **options).smooth([0.1, 0.2, 0.01])
        theirs = peer.get_forecast(6, exog=INPUTS[120:])
        own = diffuse_forecast((level(0.2) + season(12, 0.01) + regression(INPUTS)).ssm(0.1), sea[:, None], 6)
        np.testing.assert_allclose(own.mean[:, 0], theirs.predicted_mean, rtol=1e-8)
        np.testing.assert_allclose(own.covariance[:, 0, 0], theirs.var_pred_mean, rtol=1e-8)
        low, high = own.interval(0.9)
        np.testing.assert_allclose(np.stack([low[:, 0], high[:, 0]], -1), theirs.conf_int(alpha=0.1), rtol=1e-7)

    def test_maximum_likelihood_and_its_errors(self, nile):
        found = fit_components(level(), nile[:, None])
        assert found.converged
        assert found.variances["noise"] == pytest.approx(15098.5, rel=1e-3)  # Durbin and Koopman (2012), Section 2.10
        assert found.variances["level"] == pytest.approx(1469.2, rel=1e-3)
        peer = sm.tsa.UnobservedComponents(nile, "llevel", use_exact_diffuse=True)
        best = [found.variances["noise"], found.variances["level"]]
        assert found.log_likelihood == pytest.approx(peer.loglike(best), abs=1e-9)
        own = [found.standard_errors["noise"], found.standard_errors["level"]]
        np.testing.assert_allclose(own, peer.smooth(best, cov_type="approx").bse, rtol=0.01)

    def test_parts_given_the_whole_series(self, sea):
        options = {"seasonal": 12, "exog": INPUTS[:120], "mle_regression": False, "use_exact_diffuse": True}
        peer = sm.tsa.UnobservedComponents(sea, "llevel", **options).smooth([0.1, 0.2, 0.01])
        parts = level(0.2) + season(12, 0.01) + regression(INPUTS)
        found = fit_components(parts, sea[:, None], noise=0.1, fixed=("level", "season", "noise"))
        own = found.decompose(sea[:, None])
        assert list(own) == ["level", "season", "regression"]
        for name, theirs in {"level": peer.level, "season": peer.seasonal}.items():
            np.testing.assert_allclose(own[name].mean, theirs.smoothed, atol=1e-7)
            np.testing.assert_allclose(own[name].deviation ** 2, theirs.smoothed_cov, rtol=1e-6)
        weights, spread = peer.smoothed_state[-2:, 0], peer.smoothed_state_cov[-2:, -2:, 0]
        np.testing.assert_allclose(own["regression"].mean, INPUTS[:120] @ weights, atol=1e-7)
        variance = np.einsum("ti,ij,tj->t", INPUTS[:120], spread, INPUTS[:120])
        np.testing.assert_allclose(own["regression"].deviation ** 2, variance, rtol=1e-6)
        smoothed = diffuse_smoother(found.ssm, sea[:, None])
        np.testing.assert_allclose(smoothed.mean[:, 0], peer.smoothed_state[0], atol=1e-7)
        theirs = peer.smoothed_state_autocov[0, 1, :-1]  # Cov(z_{t+1}, z_t); zero while the start is diffuse
        first = peer.nobs_diffuse
        np.testing.assert_allclose(smoothed.cross_covariance[first:, 0, 1], theirs[first:], atol=1e-7)
        ahead = found.forecast(sea[:, None], 6)
        np.testing.assert_allclose(ahead.mean[:, 0], peer.get_forecast(6, exog=INPUTS[120:]).predicted_mean, rtol=1e-8)
        assert len(found.innovations(sea[:, None]).tests()) == 3


class TestSeveralSeries:
    def test_their_log_likelihoods_are_added_up(self):
        series = [torch.randn(T, 1, generator=torch.Generator().manual_seed(T)).double().cumsum(0) for T in (30, 9, 52)]
        series[1][4] = torch.nan
        found = fit_components(trend(), series, fixed="slope")
        best = [diffuse_log_likelihood(found.ssm, x).item() for x in series]
        assert found.log_likelihood == pytest.approx(sum(best), abs=1e-10)
        assert found.converged
        for name in ("level", "noise"):  # a maximum of the sum, and of no single one
            around = []
            for factor in (0.9, 1.1):
                variances = found.variances | {name: found.variances[name] * factor + 1e-3 * (factor - 1)}
                part = trend(max(variances["level"], 0.0), variances["slope"])
                ssm = part.ssm(max(variances["noise"], 0.0))
                around.append(sum(diffuse_log_likelihood(ssm, x).item() for x in series))
            assert max(around) <= found.log_likelihood + 1e-6

    def test_one_in_a_list_is_itself(self, nile):
        alone, listed = fit_components(level(), nile[:, None]), fit_components(level(), [nile[:, None]])
        assert alone.variances == listed.variances

    def test_levels_of_their_own_are_no_variance(self):
        """Series that lie far apart have small variances, as each begins where it will."""
        rng = np.random.default_rng(0)
        near = [rng.normal(size=(40, 1)) + 0.5 * rng.normal(size=(40, 1)).cumsum(0) for _ in range(3)]
        apart = [x + 1000.0 * i for i, x in enumerate(near)]
        found, moved = fit_components(level(), near), fit_components(level(), np.stack(apart))
        assert moved.log_likelihood == pytest.approx(found.log_likelihood, abs=1e-6)
        assert moved.variances == pytest.approx(found.variances, rel=1e-3)


def test_parts_of_one_name_are_numbered():
    x = np.random.default_rng(0).normal(size=(40, 1))
    u = np.random.default_rng(1).normal(size=(40, 2))
    found = fit_components(level() + regression(u[:, :1]) + regression(u[:, 1:]), x, fixed="level")
    assert list(found.decompose(x)) == ["level", "regression", "regression 2"]


class TestAgainstTheLimit:
    def test_it_is_the_limit_of_vague_priors(self):
        parts, x = level(0.3) + season(4, 0.1), torch.randn(20, 1, generator=torch.Generator().manual_seed(0)).double()
        ssm = parts.ssm(0.5)
        exact = diffuse_log_likelihood(ssm, x).item()
        differences = []
        for vague in (1e3, 1e4, 1e5):
            proper = ssm.replace(Lambda_1=vague * torch.eye(4).double())
            differences.append(abs(log_likelihood(proper, x).item() + 2 * math.log(vague) - exact))
        assert differences[0] > differences[1] > differences[2]
        assert differences[2] < 1e-4

    def test_two_seasons_that_sum_to_zero(self):
        parts = level(0.3) + season(4, 0.1) + season(3, 0.2)
        assert parts.names == ("level", "season", "season 2")
        x = torch.randn(30, 1, generator=torch.Generator().manual_seed(0)).double()
        exact = diffuse_log_likelihood(parts.ssm(0.5), x).item()
        proper = parts.ssm(0.5).replace(Lambda_1=1e5 * torch.eye(6).double())
        assert log_likelihood(proper, x).item() + 3 * math.log(1e5) == pytest.approx(exact, abs=1e-3)

    def test_a_wave_that_is_longer_than_the_series(self, sea):
        """statsmodels (0.14) stays diffuse to the end there, and is off by 17 nats; vague priors come near to ours."""
        parts = level(0.2) + season(7, 0.03, harmonics=2) + season(365.25, 0.007, harmonics=3)
        ssm, x = parts.ssm(0.1), torch.tensor(sea)[:, None]
        exact = diffuse_log_likelihood(ssm, x).item()
        differences = []
        for vague in (1e6, 1e8):
            proper = ssm.replace(Lambda_1=vague * torch.eye(11).double())
            differences.append(abs(log_likelihood(proper, x).item() + 5.5 * math.log(vague) - exact))
        assert differences[0] > 50 * differences[1]
        assert differences[1] < 0.01

    def test_all_waves_of_a_period_are_any_pattern(self):
        """Without disturbances both forms say that the series repeats itself: the same forecast."""
        pattern = np.random.default_rng(0).normal(size=6)
        x = np.tile(pattern - pattern.mean(), 4)[:, None] + np.random.default_rng(1).normal(size=(24, 1))
        forms = [season(6, 0.0), season(6, 0.0, harmonics=3)]
        plain, waves = (diffuse_forecast(form.ssm(1.0), x, 6).mean for form in forms)
        np.testing.assert_allclose(plain, waves, atol=1e-9)

    def test_several_sensors_with_gaps_in_part(self):
        """Against the dense Gaussian: the integral over the first state by least squares of stacked frames."""
        rng = np.random.default_rng(0)
        A, C = np.array([[0.9, 0.2], [-0.1, 0.8]]), rng.normal(size=(3, 2))
        Lambda, Sigma, T = np.diag([0.3, 0.1]), np.diag([0.5, 0.2, 0.4]), 6
        tensors = [torch.tensor(value) for value in (A, C, Lambda, Sigma)]
        ssm = LinearGaussianSSM(*tensors, mu_1=torch.zeros(2).double(), Lambda_1=torch.zeros(2, 2).double())
        x = rng.normal(size=(T, 3))
        x[2, 1], x[4] = np.nan, np.nan
        powers = [np.linalg.matrix_power(A, t) for t in range(T)]
        H = np.concatenate([C @ power for power in powers])
        state = np.zeros((2 * T, 2 * T))
        for s in range(T):
            for t in range(T):
                terms = [powers[s - k] @ Lambda @ powers[t - k].T for k in range(1, min(s, t) + 1)]
                state[2 * s : 2 * s + 2, 2 * t : 2 * t + 2] = sum(terms, np.zeros((2, 2)))
        whole = np.kron(np.eye(T), C)
        covariance, seen = whole @ state @ whole.T + np.kron(np.eye(T), Sigma), ~np.isnan(x).ravel()
        V, y, H = covariance[np.ix_(seen, seen)], x.ravel()[seen], H[seen]
        S = H.T @ np.linalg.solve(V, H)
        first = np.linalg.solve(S, H.T @ np.linalg.solve(V, y))
        exact = stats.multivariate_normal(H @ first, V).logpdf(y) - 0.5 * np.linalg.slogdet(S)[1]
        assert diffuse_log_likelihood(ssm, x).item() == pytest.approx(exact, abs=1e-10)

    def test_a_large_offset_costs_no_digits(self):
        x = torch.randn(50, 1, generator=torch.Generator().manual_seed(0)).double()
        values = [diffuse_log_likelihood(trend(0.3, 0.1).ssm(0.5), x + offset).item() for offset in (0.0, 1e6)]
        assert values[0] == pytest.approx(values[1], abs=1e-6)

    def test_its_gradient(self):
        x = torch.randn(12, 1, generator=torch.Generator().manual_seed(0)).double()

        def value(variances):
            part = level()
            part = type(part)(part.A, part.C, part.G, variances[:1], part.names)
            return diffuse_log_likelihood(part.ssm(variances[1]), x)

        torch.autograd.gradcheck(value, torch.tensor([0.4, 0.7], dtype=torch.float64, requires_grad=True))


def test_parts_stay_what_they_were():
    """A regression on a known line recovers it: the first state's estimate is least squares."""
    u = np.stack([np.ones(30), np.arange(30.0)], 1)
    x = u @ [2.0, -0.5] + np.random.default_rng(0).normal(size=30)
    found = diffuse_forecast(regression(np.concatenate([u, [[1.0, 30.0]]])).ssm(1.0), x[:, None], 1)
    slope = np.linalg.lstsq(u, x, rcond=None)[0]
    np.testing.assert_allclose(found.state_mean[0], slope, rtol=1e-9)
    np.testing.assert_allclose(found.state_covariance[0], np.linalg.inv(u.T @ u), rtol=1e-9)


def test_fixed_variances_stay():
    x = torch.randn(60, 1, generator=torch.Generator().manual_seed(0)).double().cumsum(0)
    found = fit_components(trend(1.0, 0.0), x, noise=0.25, fixed=("slope", "noise"))
    assert found.variances["slope"] == 0
    assert found.variances["noise"] == 0.25
    assert found.standard_errors["noise"] == 0
    assert found.variances["level"] != 1
    every = fit_components(level(2.0), x, fixed=("level", "noise"))
    assert every.log_likelihood == pytest.approx(diffuse_log_likelihood(level(2.0).ssm(1.0), x).item())


def test_a_variance_that_goes_to_zero_has_no_error():
    noise = torch.randn(81, 1, generator=torch.Generator().manual_seed(3)).double()
    x = noise[1:] - noise[:-1]  # neighbours are opposed, which no moving level can be
    found = fit_components(level(), x)
    assert found.variances["level"] == 0
    assert math.isnan(found.standard_errors["level"])
    assert found.variances["noise"] == pytest.approx(x.var().item(), rel=1e-4)
    assert found.standard_errors["noise"] == pytest.approx(found.variances["noise"] * math.sqrt(2 / 79), rel=1e-3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: level(-1.0), "variance of the level"),
        (lambda x: season(1), "period must be"),
        (lambda x: level() + level(), "two parts have a variance called 'level'"),
        (lambda x: season(7.5), "period must be"),
        (lambda x: season(7, harmonics=4), "harmonics must be whole, and between 1 and half the period, 3"),
        (lambda x: season(24) + season(168), "a wave of 24 steps in common"),
        (lambda x: season(12) + season(12), "fewer harmonics"),
        (lambda x: regression(x) + regression(x[:5]), "same frames"),
        (lambda x: regression(np.full((3, 1), np.nan)), "finite"),
        (lambda x: diffuse_log_likelihood(season(12).ssm(1.0), x), "does not determine all 11"),
        (lambda x: diffuse_log_likelihood(level().ssm(1.0), np.full((9, 1), np.nan)), "does not determine"),
        (lambda x: diffuse_log_likelihood(level().ssm(1.0), x[:, 0]), "one series of shape"),
        (lambda x: diffuse_log_likelihood(level().ssm(1.0), x[None]), "one series of shape"),
        (lambda x: fit_components(level(), x, fixed="trend"), "fixed names trend"),
        (lambda x: fit_components(level(), np.ones((9, 1))), "does not vary"),
        (lambda x: fit_components(level(), x[:, 0]), "a list of such series"),
        (lambda x: fit_components(level(), np.ones((9, 2))), "a list of such series"),
        (lambda x: diffuse_forecast(level().ssm(1.0), x, 2).interval(1.0), "between 0 and 1"),
    ],
)
def test_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(np.random.default_rng(0).normal(size=(9, 1)))


def test_an_interval_is_that_of_a_gaussian():
    ssm = level(1.0).ssm(1.0).replace(Lambda_1=torch.eye(1).double())
    ahead = forecast(ssm, torch.zeros(3, 1).double(), 2)
    low, high = ahead.interval(0.8)
    spread = stats.norm.ppf(0.9) * ahead.covariance[..., 0].sqrt()
    torch.testing.assert_close(high - ahead.mean, spread)
    torch.testing.assert_close(ahead.mean - low, spread)
