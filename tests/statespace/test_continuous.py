"""Continuous time: against closed forms, scipy's quadrature, and dense Gaussian processes at irregular times."""

import numpy as np
import pytest
import scipy.integrate
import scipy.linalg
import torch
from torch.distributions import MultivariateNormal

from dvae_lib.statespace import (
    KERNELS,
    GaussianChain,
    discretise,
    kalman_filter,
    kalman_smoother,
    matern_ssm,
    ssm_at_times,
)

DOUBLE = torch.float64
TIMES = torch.tensor([0.3, 0.31, 0.9, 1.0, 4.5, 4.6, 7.0, 60.0, 60.5], dtype=DOUBLE)


def dense(kernel, scale, times):
    return KERNELS[kernel]((times[..., :, None] - times[..., None, :]).abs() / scale)


def some(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def test_against_quadrature():
    F, root = some(3, 3), some(3, 3, seed=1)
    Q = root @ root.mT
    steps = torch.tensor([0.0, 0.01, 0.7, 2.0], dtype=DOUBLE)
    A, Lambda = discretise(F, Q, steps)
    for step, transition, covariance in zip(steps.tolist(), A, Lambda, strict=True):
        np.testing.assert_allclose(transition, scipy.linalg.expm(F.numpy() * step), rtol=1e-10, atol=1e-12)
        integral, _ = scipy.integrate.quad_vec(
            lambda s: scipy.linalg.expm(F.numpy() * s) @ Q.numpy() @ scipy.linalg.expm(F.numpy().T * s), 0, step
        )
        np.testing.assert_allclose(covariance, integral, rtol=1e-8, atol=1e-10)


def test_single_precision_is_kept_beside_a_long_gap():
    """What doubles up for the longest step must not cost the shortest its digits."""
    steps = torch.tensor([1e-3, 1.0, 1e4])
    _, Lambda = discretise(-torch.eye(1), 2 * torch.eye(1), steps)
    torch.testing.assert_close(Lambda.flatten(), -torch.expm1(-2 * steps), rtol=1e-6, atol=0)


def test_two_steps_are_one():
    F, Q = some(2, 2), torch.eye(2, dtype=DOUBLE)
    (A, Lambda), (whole, variance) = (discretise(F, Q, torch.tensor(step, dtype=DOUBLE)) for step in (0.4, 0.8))
    torch.testing.assert_close(A @ A, whole)
    torch.testing.assert_close(A @ Lambda @ A.mT + Lambda, variance)


@pytest.mark.parametrize("step", [1e-6, 1.0, 1e3, 1e6])
def test_a_stable_process_forgets_and_keeps_its_variance(step):
    """After a gap of any length the state of a stationary process has its stationary variance, 1 - exp(-2 step)."""
    F, Q = -torch.eye(1, dtype=DOUBLE), 2 * torch.eye(1, dtype=DOUBLE)
    A, Lambda = discretise(F, Q, torch.tensor(step, dtype=DOUBLE))
    assert A.item() == pytest.approx(np.exp(-step), rel=1e-9)
    assert Lambda.item() == pytest.approx(-np.expm1(-2 * step), rel=1e-9)


@pytest.mark.parametrize("kernel", ["matern12", "matern32"])
class TestAgainstDenseProcesses:
    scale, noise = 1.7, 0.3

    def test_log_likelihood_and_posterior(self, kernel):
        x = some(len(TIMES), 1)
        covariance = dense(kernel, self.scale, TIMES)
        noisy = covariance + self.noise * torch.eye(len(TIMES), dtype=DOUBLE)
        ssm = matern_ssm(kernel, self.scale, self.noise, times=TIMES)
        wanted = MultivariateNormal(torch.zeros(len(TIMES), dtype=DOUBLE), noisy).log_prob(x[:, 0])
        torch.testing.assert_close(kalman_filter(ssm, x).log_likelihood, wanted, rtol=1e-9, atol=1e-9)
        smoothed = kalman_smoother(ssm, x)
        gain = covariance @ torch.linalg.inv(noisy)
        torch.testing.assert_close(smoothed.mean[:, 0], gain @ x[:, 0], rtol=1e-8, atol=1e-9)
        torch.testing.assert_close(
            smoothed.covariance[:, 0, 0], (covariance - gain @ covariance).diagonal(), rtol=1e-7, atol=1e-9
        )

    def test_each_series_has_its_own_times(self, kernel):
        times = some(3, 8).abs().cumsum(-1) + 0.01
        x = some(3, 8, 1, seed=2)
        found = kalman_filter(matern_ssm(kernel, self.scale, self.noise, times=times), x).log_likelihood
        noisy = dense(kernel, self.scale, times) + self.noise * torch.eye(8, dtype=DOUBLE)
        torch.testing.assert_close(
            found, MultivariateNormal(torch.zeros(3, 8, dtype=DOUBLE), noisy).log_prob(x[..., 0])
        )

    def test_regular_times_are_the_model_without_times(self, kernel):
        x = some(20, 1)
        given = matern_ssm(kernel, self.scale, self.noise, times=torch.arange(20, dtype=DOUBLE))
        found, wanted = (kalman_filter(ssm, x) for ssm in (given, matern_ssm(kernel, self.scale, self.noise)))
        torch.testing.assert_close(found.log_likelihood, wanted.log_likelihood)

    def test_a_time_that_was_left_out_is_bridged(self, kernel):
        """Eight frames of nine are the nine with one that nobody observed."""
        x, kept = some(len(TIMES), 1), [0, 1, 2, 4, 5, 6, 7, 8]
        mask = torch.tensor([t in kept for t in range(len(TIMES))])
        whole = kalman_filter(matern_ssm(kernel, self.scale, self.noise, times=TIMES), x, mask=mask)
        part = kalman_filter(matern_ssm(kernel, self.scale, self.noise, times=TIMES[kept]), x[kept])
        torch.testing.assert_close(whole.log_likelihood, part.log_likelihood)


def test_the_chain_at_irregular_times_is_the_process():
    chain = GaussianChain.from_ssm(matern_ssm("matern12", 1.7, 0.3, times=TIMES), len(TIMES))
    z = some(len(TIMES), 1)
    covariance = dense("matern12", 1.7, TIMES)
    wanted = MultivariateNormal(torch.zeros(len(TIMES), dtype=DOUBLE), covariance).log_prob(z[:, 0])
    torch.testing.assert_close(chain.log_prob(z), wanted)


def test_gradients_reach_the_dynamics():
    """The derivative with respect to the length scale, by the filter and by the dense process."""
    x, one = some(len(TIMES), 1), torch.eye(1, dtype=DOUBLE)
    gradients = []
    for by_filter in (True, False):
        scale = torch.tensor(1.7, dtype=DOUBLE, requires_grad=True)
        if by_filter:
            F, Q = -one / scale, 2 * one / scale
            ssm = ssm_at_times(F, Q, TIMES, one, 0.3 * one, mu_1=0 * one[0], Lambda_1=one)
            value = kalman_filter(ssm, x).log_likelihood
        else:
            noisy = dense("matern12", scale, TIMES) + 0.3 * torch.eye(len(TIMES), dtype=DOUBLE)
            value = MultivariateNormal(torch.zeros(len(TIMES), dtype=DOUBLE), noisy).log_prob(x[:, 0])
        gradients.append(torch.autograd.grad(value, scale)[0])
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ([0.0, 2.0, 1.0], "times run backwards at frame 2: 2.0, then 1.0; sort the frames"),
        ([0.0, 2.0, 2.0], "times repeat at frame 2: 2.0, then 2.0"),
        ([0.0, float("nan"), 2.0], "times must be finite numbers"),
        ([], "times must be finite numbers"),
    ],
)
def test_times_that_are_none(times, message):
    with pytest.raises(ValueError, match=message):
        matern_ssm("matern12", 1.0, 1.0, times=torch.tensor(times, dtype=DOUBLE))


def test_steps_that_are_none():
    with pytest.raises(ValueError, match="finite and not negative"):
        discretise(-torch.eye(1), torch.eye(1), torch.tensor([1.0, -1.0]))
