"""EM where something is given: entries that stay, blocks, priors, lists of series; against other roads there."""

import math

import numpy as np
import pytest
import torch
from brute_force import random_ssm
from scipy import stats

from dvae_lib.statespace import (
    InverseWishartPrior,
    LinearGaussianSSM,
    NormalPrior,
    fit_em,
    kalman_smoother,
    local_level,
    log_likelihood,
    sample,
)


def eye(n: int) -> torch.Tensor:
    return torch.eye(n, dtype=torch.float64)


def companion(first=0.1, second=0.0, variance=1.0) -> LinearGaussianSSM:
    """A second-order autoregression, observed as it is: x_t = a x_{t-1} + b x_{t-2} + noise."""
    A = torch.tensor([[first, second], [1.0, 0.0]], dtype=torch.float64)
    noise = torch.diag(torch.tensor([variance, 0.0], dtype=torch.float64))
    return LinearGaussianSSM(
        A,
        eye(2)[:1],
        noise,
        torch.zeros(1, 1, dtype=torch.float64),
        mu_1=torch.zeros(2, dtype=torch.float64),
        Lambda_1=4 * eye(2),
        fixed=("C", "Sigma", "mu_1", "Lambda_1"),
    )


KEPT = {"A": [[False, False], [True, True]], "Lambda": [[False, True], [True, True]]}


SINGLE = {
    "A": torch.tensor([[True, False], [False, False]]),
    "C": torch.tensor([[False, True], [True, False]]),
    "m": torch.tensor([False, True]),
    "n": torch.tensor([True, False]),
    "mu_1": torch.tensor([True, False]),
}


def expected_log_density(ssm: LinearGaussianSSM, old: LinearGaussianSSM, x: torch.Tensor) -> torch.Tensor:
    """E[log p(x, z)] under the posterior of the old model, term by term; x `(batch, T, x_dim)` without gaps."""
    mean, P, cross = kalman_smoother(old, x)
    total = torch.zeros(()).double()
    for t in range(x.shape[1]):
        at = {name: getattr(ssm, name)[t] if ssm.per_step(name) else getattr(ssm, name) for name, _ in ssm.parameters()}
        for i in range(len(x)):
            z, own = mean[i, t], P[i, t]
            if t == 0:
                error, spread, noise = z - at["mu_1"], own, at["Lambda_1"]
            else:
                shared = at["A"] @ cross[i, t - 1].mT
                error, noise = z - at["A"] @ mean[i, t - 1] - at["m"], at["Lambda"]
                spread = own - shared - shared.mT + at["A"] @ P[i, t - 1] @ at["A"].mT
            seen = x[i, t] - at["C"] @ z - at["n"]
            for e, V, N in ((error, spread, noise), (seen, at["C"] @ own @ at["C"].mT, at["Sigma"])):
                total = total - 0.5 * (torch.logdet(N) + torch.linalg.solve(N, torch.outer(e, e) + V).trace())
    return total


def slope_of(ssm: LinearGaussianSSM, old: LinearGaussianSSM, x: torch.Tensor, name: str) -> torch.Tensor:
    value = getattr(ssm, name).clone().requires_grad_()
    (slope,) = torch.autograd.grad(expected_log_density(ssm.replace(**{name: value}), old, x), value)
    return slope


class TestEntriesThatStay:
    def test_an_autoregression_is_its_least_squares(self):
        """With nearly nothing known of x_0 the two coefficients are those of the regression of x_t on its past."""
        x = sample(companion(1.2, -0.7), 300, generator=torch.Generator().manual_seed(0)).x
        start = companion().replace(Lambda_1=torch.diag(torch.tensor([1.0, 1e-12], dtype=torch.float64)))
        found = fit_em(start, x, kept=KEPT, num_iterations=300, tolerance=1e-14).ssm
        assert torch.equal(found.A[1], start.A[1])
        assert found.Lambda[0, 1] == found.Lambda[1, 1] == 0
        y = torch.cat([torch.zeros(1).double(), x[:, 0]])  # x_0 = 0
        design = torch.stack([y[1:-1], y[:-2]], 1)
        slope = torch.linalg.lstsq(design, y[2:, None]).solution[:, 0]
        torch.testing.assert_close(found.A[0], slope, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(found.Lambda[0, 0], (y[2:] - design @ slope).square().mean(), rtol=1e-6, atol=0)

    def test_one_iteration_is_the_best_of_what_is_free(self):
        """The expected log-density of data and states has no gradient in a free entry, and one in those that stay."""
        ssm = random_ssm(2, 2, seed=4)
        x = sample(random_ssm(2, 2, seed=5), 30, sample_shape=(4,), generator=torch.Generator().manual_seed(1)).x
        found = fit_em(ssm, x, kept=SINGLE, num_iterations=1, tolerance=0.0).ssm
        for name in SINGLE:  # at the covariances there were
            at = ssm.replace(**{other: getattr(found, other) for other in SINGLE})
            slope = slope_of(at, ssm, x, name)
            stays = SINGLE[name]
            assert torch.equal(getattr(found, name)[stays], getattr(ssm, name)[stays])
            assert float(slope[~stays].abs().max()) < 1e-8, name
            assert float(slope[stays].abs().min()) > 0.1, name
        for name in ("Lambda", "Sigma", "Lambda_1"):
            assert float(slope_of(found, ssm, x, name).abs().max()) < 1e-8, name

    def test_the_likelihood_never_falls(self):
        g = torch.Generator().manual_seed(1)
        x = sample(random_ssm(2, 2, seed=5), 30, sample_shape=(4,), generator=g).x
        x = x.masked_fill(torch.rand(x.shape, generator=g) < 0.3, torch.nan)
        found = fit_em(random_ssm(2, 2, seed=4), x, kept=SINGLE, num_iterations=20, tolerance=0.0)
        assert len(found.log_likelihoods) == 21
        assert bool((found.log_likelihoods.diff() > -1e-9).all())

    def test_blocks_of_a_covariance(self):
        """A block is fitted as if it stood alone; what is kept stays to the last digit."""
        Lambda = torch.block_diag(eye(1), 2 * eye(2))
        truth = random_ssm(3, 3, seed=2).replace(Lambda=Lambda)
        x = sample(truth, 40, sample_shape=(3,), generator=torch.Generator().manual_seed(0)).x
        stay = torch.ones(3, 3, dtype=torch.bool)
        stay[1:, 1:] = False
        found = fit_em(truth, x, update="Lambda", kept={"Lambda": stay}, num_iterations=200, tolerance=1e-13)
        assert bool((found.log_likelihoods.diff() > -1e-9).all())
        assert torch.equal(found.ssm.Lambda[stay], Lambda[stay])
        free = found.ssm.Lambda[1:, 1:].clone().requires_grad_()
        whole = torch.block_diag(Lambda[:1, :1], free)
        (slope,) = torch.autograd.grad(log_likelihood(found.ssm.replace(Lambda=whole), x).sum(), free)
        assert float(slope.abs().max()) < 0.01

    def test_all_free_is_as_without(self):
        truth = random_ssm(2, 2, seed=3)
        x = sample(truth, 30, sample_shape=(2,), generator=torch.Generator().manual_seed(0)).x
        masks = {name: torch.zeros_like(value, dtype=torch.bool) for name, value in truth.parameters()}
        free, plain = (fit_em(truth, x, kept=kept, num_iterations=3) for kept in (masks, None))
        assert torch.equal(free.log_likelihoods, plain.log_likelihoods)

    def test_an_entry_in_a_row_without_noise_stays_also_under_a_prior(self):
        """Nothing can be learned of it: a prior does not move it either, and the other entries are fitted as ever."""
        ssm = companion()
        x = sample(companion(1.2, -0.7), 100, generator=torch.Generator().manual_seed(0)).x
        options = {"update": "A", "priors": {"A": NormalPrior(0.0, 1.0)}, "num_iterations": 10}
        row = torch.zeros(2, 2, dtype=torch.bool)
        row[1] = True
        found, with_the_row_kept = (fit_em(ssm, x, kept=kept, **options) for kept in (None, {"A": row}))
        assert torch.equal(found.ssm.A[1], ssm.A[1])
        assert not torch.equal(found.ssm.A[0], ssm.A[0])
        torch.testing.assert_close(found.ssm.A, with_the_row_kept.ssm.A)

    def test_a_floor_leaves_what_is_kept(self):
        x = sample(companion(1.2, -0.7), 100, generator=torch.Generator().manual_seed(0)).x
        found = fit_em(companion(), x, kept=KEPT, min_variance=3.0, num_iterations=20).ssm
        torch.testing.assert_close(found.Lambda, torch.diag(torch.tensor([3.0, 0.0]).double()))


class TestNoisePerStep:
    def test_coefficients_weigh_the_steps(self):
        """Steps with more noise count less."""
        ssm = random_ssm(2, 2, seed=5)
        loud = torch.where(torch.arange(20) % 4 == 0, 30.0, 1.0).double()[:, None, None]
        ssm = ssm.replace(Lambda=loud * ssm.Lambda, Sigma=loud.flip(0) * ssm.Sigma)
        x = sample(random_ssm(2, 2, seed=6), 20, sample_shape=(5,), generator=torch.Generator().manual_seed(0)).x
        found = fit_em(ssm, x, update=("A", "C", "n"), num_iterations=1, tolerance=0.0).ssm
        for name in ("A", "C", "n"):
            assert float(slope_of(found, ssm, x, name).abs().max()) < 1e-8, name
        more = fit_em(ssm, x, update=("A", "C"), num_iterations=20, tolerance=0.0)
        assert bool((more.log_likelihoods.diff() > -1e-9).all())


def white(variance: float) -> LinearGaussianSSM:
    """Independent frames about an unknown mean n."""
    zero = torch.zeros(1, 1, dtype=torch.float64)
    nothing = torch.zeros(1, dtype=torch.float64)
    noise = torch.tensor([[variance]], dtype=torch.float64)
    return LinearGaussianSSM(zero, eye(1), zero, noise, mu_1=nothing, Lambda_1=zero, n=nothing)


class TestPriors:
    def test_of_a_mean_and_of_a_variance_in_closed_form(self):
        x = torch.randn(25, 1, generator=torch.Generator().manual_seed(0)).double() + 2
        of_mean = fit_em(white(0.5), x, update="n", priors={"n": NormalPrior(-1.0, 0.3)}, num_iterations=3).ssm
        weight = 25 / 0.5 / (25 / 0.5 + 1 / 0.09)
        assert float(of_mean.n) == pytest.approx(float(weight * x.mean() - (1 - weight)), abs=1e-12)
        prior = InverseWishartPrior([[3.0]], 5.0)
        of_noise = fit_em(white(1.0), x, update="Sigma", priors={"Sigma": prior}, num_iterations=3).ssm
        assert float(of_noise.Sigma) == pytest.approx((float(x.square().sum()) + 3) / (25 + 5 + 2), abs=1e-12)

    def test_the_density_is_that_of_scipy(self):
        """Differences of the log-prior, since constants are left out."""
        x = torch.randn(25, 2, generator=torch.Generator().manual_seed(0)).double()
        scale = np.array([[3.0, 1.0], [1.0, 2.0]])
        start = LinearGaussianSSM(0.1 * eye(2), eye(2), eye(2), eye(2), mu_1=torch.zeros(2).double(), Lambda_1=eye(2))
        priors = {"Sigma": InverseWishartPrior(scale, 5.0), "A": NormalPrior(0.5 * eye(2), 0.2)}
        found = fit_em(start, x, update=("Sigma", "A"), priors=priors, num_iterations=5)

        def density(ssm):
            of_noise = stats.invwishart(5, scale).logpdf(ssm.Sigma.numpy())
            return of_noise + stats.norm(0.5 * np.eye(2), 0.2).logpdf(ssm.A.numpy()).sum()

        difference = float(found.log_priors[-1] - found.log_priors[0])
        assert difference == pytest.approx(density(found.ssm) - density(start), abs=1e-9)

    def test_the_posterior_density_climbs_to_where_it_has_no_gradient(self):
        truth = random_ssm(2, 2, seed=6)
        x = sample(truth, 30, sample_shape=(2,), generator=torch.Generator().manual_seed(0)).x
        priors = {
            "A": NormalPrior(torch.zeros(2, 2), torch.tensor([[0.1, 0.3], [0.05, 1.0]])),
            "mu_1": NormalPrior(0.0, 0.5),
            "Lambda": InverseWishartPrior(eye(2), 4.0),
            "Sigma": InverseWishartPrior(2 * eye(2) + 0.5, 3.0),
        }
        found = fit_em(truth, x, update=tuple(priors), priors=priors, num_iterations=400, tolerance=1e-13)
        total = found.log_likelihoods + found.log_priors
        assert bool((total.diff() > -1e-8).all())
        at = {name: getattr(found.ssm, name).clone().requires_grad_() for name in priors}
        value = log_likelihood(found.ssm.replace(validate_args=False, **at), x).sum()
        for name in ("A", "mu_1"):
            value = value - 0.5 * ((at[name] - priors[name].mean) / priors[name].deviation).square().sum()
        for name in ("Lambda", "Sigma"):
            scale, degrees = priors[name]
            value = value - 0.5 * (degrees + 3) * torch.logdet(at[name])
            value = value - 0.5 * torch.linalg.solve(at[name], scale.double()).trace()
        for name, slope in zip(at, torch.autograd.grad(value, list(at.values())), strict=True):
            slope = slope + slope.mT if name in ("Lambda", "Sigma") else slope
            assert float(slope.abs().max()) < 0.02, name

    def test_a_prior_of_the_noise_keeps_data_without_noise_away_from_zero(self):
        ssm = LinearGaussianSSM(
            0.8 * eye(2), torch.ones(3, 2).double(), eye(2), eye(3), mu_1=torch.zeros(2).double(), Lambda_1=eye(2)
        )
        x = sample(ssm, 100, generator=torch.Generator().manual_seed(2)).x[:, [0, 0, 2]]  # one sensor twice
        without = fit_em(ssm, x, num_iterations=200)
        assert not without.converged
        priors = {"Sigma": InverseWishartPrior(0.1 * eye(3), 4.0), "Lambda": InverseWishartPrior(0.1 * eye(2), 4.0)}
        found = fit_em(ssm, x, priors=priors, num_iterations=2000, tolerance=1e-5)
        assert found.converged
        assert float(torch.linalg.eigvalsh(found.ssm.Sigma)[0]) > 0.1 / (100 + 4 + 4) * 0.99


class TestLists:
    def test_of_different_lengths_is_the_sum(self):
        """One iteration is the regression on the moments of all series, each smoothed by itself."""
        ssm = random_ssm(2, 2, seed=3).replace(m=None)
        series = [sample(ssm, T, generator=torch.Generator().manual_seed(T)).x for T in (9, 40, 5, 23)]
        start = ssm.replace(A=0.3 * eye(2))
        found = fit_em(start, series, update="A", num_iterations=1, tolerance=0.0)
        cross, moments = torch.zeros(2, 2).double(), torch.zeros(2, 2).double()
        for x in series:
            z, P, neighbours = kalman_smoother(start, x)
            cross += (z[1:, :, None] * z[:-1, None] + neighbours).sum(0)
            moments += (z[:-1, :, None] * z[:-1, None] + P[:-1]).sum(0)
        torch.testing.assert_close(found.ssm.A, cross @ moments.inverse())
        for ssm, value in zip((start, found.ssm), found.log_likelihoods, strict=True):
            assert float(value) == pytest.approx(sum(float(log_likelihood(ssm, x)) for x in series), abs=1e-9)

    def test_what_follows_the_last_observation_changes_no_iteration(self):
        """One iteration on a list is that on each series' own moments, not on padding."""
        truth = random_ssm(2, 2, seed=3)
        x = sample(truth, 20, generator=torch.Generator().manual_seed(0)).x
        padded = torch.cat([x, torch.full((200, 2), math.nan).double()])
        for names in (("A", "Lambda"), ("C", "n", "Sigma")):
            one, other = (fit_em(truth, data, update=names, num_iterations=1).ssm for data in (x, padded))
            for name in names:
                torch.testing.assert_close(getattr(other, name), getattr(one, name), atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"kept": {"B": [[True]]}}, ValueError, "kept names B, which is not fitted"),
        ({"update": "C", "kept": {"A": [[True]]}}, ValueError, "kept names A, which is not fitted; fitted are C"),
        ({"kept": {"A": [[True]]}}, ValueError, r"kept\['A'\] must be a boolean mask of shape \(2, 2\)"),
        ({"kept": {"A": [[1, 0], [0, 1]]}}, ValueError, "boolean mask"),
        ({"kept": {"Sigma": [[False, True], [True, False]]}}, ValueError, "must be whole blocks"),
        ({"kept": {"Sigma": [[True, False], [False, True]]}}, ValueError, "with their variances"),
        ({"priors": {"A": NormalPrior(0.0, 0.0)}}, ValueError, "positive deviations"),
        ({"priors": {"A": NormalPrior([1.0, 2.0, 3.0], 1.0)}}, ValueError, r"of shape \(2, 2\), or one for all"),
        ({"priors": {"A": InverseWishartPrior(eye(2), 1.0)}}, TypeError, "must be a NormalPrior"),
        ({"priors": {"Sigma": NormalPrior(1.0, 1.0)}}, TypeError, "must be an InverseWishartPrior"),
        ({"priors": {"Sigma": InverseWishartPrior(-eye(2), 1.0)}}, ValueError, "positive definite"),
        ({"priors": {"Sigma": InverseWishartPrior(eye(2), -1.0)}}, ValueError, "at least 0; got -1"),
    ],
)
def test_is_refused(options, error, message):
    with pytest.raises(error, match=message):
        fit_em(random_ssm(2, 2), torch.zeros(5, 2, dtype=torch.float64), **options)


def test_a_mask_may_be_an_array():
    kept = {"Lambda": np.array([[True]])}
    x = torch.randn(20, 1, generator=torch.Generator().manual_seed(0)).double()
    found = fit_em(local_level(2.0, 1.0), x, kept=kept, num_iterations=3).ssm
    assert float(found.Lambda) == 2
