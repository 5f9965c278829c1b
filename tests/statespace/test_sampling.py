"""Ancestral samples, posterior samples and forecasts: their moments are those of the model."""

import pytest
import torch
from brute_force import infer, random_ssm

from dvae_lib.statespace import covariance_factor, forecast, kalman_filter, kalman_smoother, sample, sample_posterior

METHODS = ("sequential", "parallel")
DRAWS = 40_000


def assert_moments(draws, mean, covariance):
    """Within five standard errors in every entry."""
    centred = draws - mean
    variance = covariance.diagonal()
    assert float((centred.mean(0).abs() / (variance / len(draws)).sqrt()).max()) < 5
    empirical = centred.mT @ centred / len(draws)
    error = ((variance[:, None] * variance + covariance.square()) / len(draws)).sqrt()
    assert float(((empirical - covariance).abs() / error).max()) < 5


def test_ancestral_samples_have_the_moments_of_the_model():
    T = 4
    ssm = random_ssm(2, 1, steps=T, u_dim=1, seed=1)
    u = torch.randn(T, 1, dtype=torch.float64)
    drawn = sample(ssm, T, u, sample_shape=(DRAWS,), generator=torch.Generator().manual_seed(0))
    prior = infer(ssm, torch.full((T, 1), torch.nan, dtype=torch.float64), u)
    assert_moments(drawn.z.flatten(1), prior.smoothed_mean.flatten(), prior.posterior_covariance)
    mean, covariance = ssm.observation_moments(prior.smoothed_mean, prior.smoothed_covariance)
    for t in range(T):
        assert_moments(drawn.x[:, t], mean[t], covariance[t])


@pytest.mark.parametrize("method", METHODS)
def test_posterior_samples_have_the_joint_moments_of_the_posterior(method):
    T = 4
    ssm = random_ssm(2, 2, steps=T, u_dim=1, seed=2)
    u = torch.randn(T, 1, dtype=torch.float64)
    x = sample(ssm, T, u).x
    x[1] = x[2, 0] = torch.nan
    truth = infer(ssm, x, u)
    g = torch.Generator().manual_seed(0)
    draws = sample_posterior(ssm, x, u, sample_shape=(DRAWS,), method=method, generator=g)
    assert_moments(draws.flatten(1), truth.smoothed_mean.flatten(), truth.posterior_covariance)


def test_posterior_samples_of_a_batch():
    ssm = random_ssm(2, 2, batch=(3,), seed=3)
    x = torch.randn(3, 5, 2, dtype=torch.float64)
    draws = sample_posterior(ssm, x, sample_shape=(4000,), generator=torch.Generator().manual_seed(0))
    assert draws.shape == (4000, 3, 5, 2)
    smoothed = kalman_smoother(ssm, x)
    deviation = smoothed.covariance.diagonal(dim1=-2, dim2=-1).sqrt()
    assert float(((draws.mean(0) - smoothed.mean) / deviation).abs().max()) < 0.08
    assert float((draws.std(0) / deviation - 1).abs().max()) < 0.08


def test_series_that_share_a_model_get_draws_of_their_own():
    ssm = random_ssm(2, 2)
    x = torch.zeros(2, 5, 2, dtype=torch.float64)
    draws = sample_posterior(ssm, x, generator=torch.Generator().manual_seed(0))
    assert not torch.allclose(draws[0], draws[1])


def test_a_generator_makes_samples_repeatable():
    ssm = random_ssm(2, 2)
    a, b = (sample(ssm, 5, generator=torch.Generator().manual_seed(7)).x for _ in range(2))
    assert torch.equal(a, b)
    a, b = (sample_posterior(ssm, a, generator=torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(a, b)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("per_step", [False, True])
def test_forecast_is_the_prediction_of_what_is_missing(method, per_step):
    T, H = 6, 4
    ssm = random_ssm(2, 2, steps=T + H if per_step else None, u_dim=1, seed=4)
    u = torch.randn(T + H, 1, dtype=torch.float64)
    x = sample(ssm, T + H, u).x
    ahead = forecast(ssm, x[:T], H, u, method=method)
    assert ahead.mean.shape == (H, 2)
    hidden = x.clone()
    hidden[T:] = torch.nan
    truth = infer(ssm, hidden, u)
    torch.testing.assert_close(ahead.state_mean, truth.smoothed_mean[T:])
    torch.testing.assert_close(ahead.state_covariance, truth.smoothed_covariance[T:])
    C, Sigma, n = (getattr(ssm, k)[T:] if per_step else getattr(ssm, k) for k in ("C", "Sigma", "n"))
    torch.testing.assert_close(ahead.mean, (C @ ahead.state_mean.unsqueeze(-1)).squeeze(-1) + n)
    torch.testing.assert_close(ahead.covariance, C @ ahead.state_covariance @ C.mT + Sigma)


def test_the_likelihood_is_the_product_of_one_step_forecasts():
    ssm = random_ssm(2, 2, seed=5)
    x = sample(ssm, 6).x
    total = kalman_filter(ssm, x[:1]).log_likelihood
    for t in range(1, 6):
        ahead = forecast(ssm, x[:t], 1)
        total = total + torch.distributions.MultivariateNormal(ahead.mean[0], ahead.covariance[0]).log_prob(x[t])
    torch.testing.assert_close(kalman_filter(ssm, x).log_likelihood, total)


def test_the_likelihood_is_a_density():
    """Summed over a grid of all values of a short series, it is one."""
    ssm = random_ssm(2, 1, seed=6)
    grid = torch.linspace(-12, 12, 241, dtype=torch.float64)
    x = torch.cartesian_prod(grid, grid).unsqueeze(-1)
    total = kalman_filter(ssm, x).log_likelihood.exp().sum() * (grid[1] - grid[0]) ** 2
    torch.testing.assert_close(total, torch.tensor(1.0, dtype=torch.float64), atol=1e-6, rtol=0)


def test_covariance_factor_of_a_mixed_batch_passes_gradients_where_they_exist():
    covariance = torch.stack([torch.tensor([[4.0, 2.0], [2.0, 3.0]]), torch.ones(2, 2)]).requires_grad_()
    factor = covariance_factor(covariance)
    torch.testing.assert_close(factor @ factor.mT, covariance)
    factor.sum().backward()
    assert bool(torch.isfinite(covariance.grad).all())
    assert float(covariance.grad[1].abs().max()) == 0
