"""Filter, smoother and likelihood against the joint Gaussian and against three independent libraries."""

import itertools

import numpy as np
import pytest
import torch
from brute_force import infer, random_ssm
from torch import Tensor

from dvae_lib.statespace import (
    LinearGaussianSSM,
    kalman_filter,
    kalman_smoother,
    log_likelihood,
    sample,
)

METHODS = ("sequential", "parallel")
EXACT = {"atol": 1e-9, "rtol": 1e-9}


def assert_true(ssm: LinearGaussianSSM, x: Tensor, u: Tensor | None, method: str) -> None:
    """One series against the conditioned joint Gaussian."""
    truth = infer(ssm, x, u)
    filtered = kalman_filter(ssm, x, u, method=method)
    smoothed = kalman_smoother(ssm, x, u, method=method)
    torch.testing.assert_close(filtered.mean, truth.filtered_mean, **EXACT)
    torch.testing.assert_close(filtered.covariance, truth.filtered_covariance, **EXACT)
    torch.testing.assert_close(filtered.predicted_mean, truth.predicted_mean, **EXACT)
    torch.testing.assert_close(filtered.predicted_covariance, truth.predicted_covariance, **EXACT)
    torch.testing.assert_close(filtered.log_likelihood, truth.log_likelihood, **EXACT)
    torch.testing.assert_close(smoothed.mean, truth.smoothed_mean, **EXACT)
    torch.testing.assert_close(smoothed.covariance, truth.smoothed_covariance, **EXACT)
    torch.testing.assert_close(smoothed.cross_covariance, truth.cross_covariance, **EXACT)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("T", [1, 2, 3, 8, 13])
@pytest.mark.parametrize("per_step", [False, True])
@pytest.mark.parametrize(("z_dim", "x_dim", "u_dim"), [(3, 2, 2), (1, 1, 0), (2, 4, 0)])
def test_equals_the_conditioned_joint_gaussian(method, T, per_step, z_dim, x_dim, u_dim):
    ssm = random_ssm(z_dim, x_dim, steps=T if per_step else None, u_dim=u_dim, seed=T)
    u = torch.randn(T, u_dim, dtype=torch.float64) if u_dim else None
    assert_true(ssm, sample(ssm, T, u).x, u, method)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("per_step", [False, True])
def test_missing_observations_whole_and_in_part(method, per_step):
    T = 9
    ssm = random_ssm(3, 3, steps=T if per_step else None, seed=1)
    x = sample(ssm, T).x
    x[2] = x[3] = torch.nan
    x[0, 1] = x[5, 0] = x[5, 2] = x[8, 2] = torch.nan
    assert_true(ssm, x, None, method)


@pytest.mark.parametrize("method", METHODS)
def test_a_long_steady_series_equals_the_joint_gaussian(method):
    """Long enough for the covariances of a constant model to be repeated instead of computed."""
    ssm = random_ssm(2, 1, seed=3)
    assert_true(ssm, sample(ssm, 150).x, None, method)


@pytest.mark.parametrize("method", METHODS)
def test_repeating_steady_covariances_changes_nothing(method):
    T = 700
    ssm = random_ssm(4, 2, seed=4)
    per_step = ssm.replace(A=ssm.A.expand(T, -1, -1).clone())
    x = sample(ssm, T).x
    for a, b in zip(kalman_filter(ssm, x, method=method), kalman_filter(per_step, x, method=method), strict=True):
        torch.testing.assert_close(a, b, atol=1e-13, rtol=1e-13)
    for a, b in zip(kalman_smoother(ssm, x, method=method), kalman_smoother(per_step, x, method=method), strict=True):
        torch.testing.assert_close(a, b, atol=1e-13, rtol=1e-13)


@pytest.mark.parametrize("method", METHODS)
def test_a_first_state_that_is_known_exactly_is_not_taken_for_a_steady_one(method):
    ssm = random_ssm(2, 1, seed=5)
    ssm = ssm.replace(Lambda_1=torch.zeros_like(ssm.Lambda_1))
    assert_true(ssm, sample(ssm, 40).x, None, method)


@pytest.mark.parametrize("method", METHODS)
def test_steady_covariances_of_a_slow_badly_scaled_model(method):
    """A state that forgets over thousands of steps beside one a million times smaller that forgets at once."""
    T = 3000
    one = torch.eye(2, dtype=torch.float64)
    slow = torch.tensor([0.99999, 0.1], dtype=torch.float64).diag()
    scale = torch.tensor([1e6, 1.0], dtype=torch.float64).diag()
    ssm = LinearGaussianSSM(slow, one, 1e-6 * scale**2, scale**2, mu_1=one[0] * 0, Lambda_1=100 * scale**2)
    per_step = ssm.replace(A=slow.expand(T, -1, -1).clone())
    x = sample(ssm, T, generator=torch.Generator().manual_seed(0)).x
    fast, full = (kalman_smoother(model, x, method=method) for model in (ssm, per_step))
    torch.testing.assert_close(fast.covariance, full.covariance, atol=0, rtol=1e-11)
    torch.testing.assert_close(fast.mean, full.mean, atol=0, rtol=1e-8)


# ---- batches -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("model_batch", "data_batch", "masked"),
    [((), (2, 3), False), ((), (2, 3), True), ((3,), (2, 3), False), ((2, 1), (3,), True), ((2, 3), (), False)],
)
def test_every_series_of_a_batch_gets_what_it_gets_alone(method, model_batch, data_batch, masked):
    T, full = 7, (2, 3)
    ssm = random_ssm(3, 2, steps=T, u_dim=1, batch=model_batch, seed=5)
    g = torch.Generator().manual_seed(0)
    x = torch.randn(*data_batch, T, 2, generator=g, dtype=torch.float64)
    u = torch.randn(T, 1, generator=g, dtype=torch.float64)
    mask = torch.rand(x.shape, generator=g) < 0.6 if masked else None
    filtered = kalman_filter(ssm, x, u, mask=mask, method=method)
    smoothed = kalman_smoother(ssm, x, u, mask=mask, method=method)
    assert filtered.log_likelihood.shape == full
    for i, j in itertools.product(range(2), range(3)):
        lead = {0: (), 1: (j,), 2: (i if len(model_batch) == 2 and model_batch[0] == 2 else 0,)}[len(model_batch)]
        if len(model_batch) == 2:
            lead = (i, j if model_batch[1] == 3 else 0)
        alone = ssm.map(lambda value, lead=lead: value[lead] if lead else value)
        own = x[(i, j)[2 - len(data_batch) :]] if data_batch else x
        if masked:
            own = own.masked_fill(~mask[(i, j)[2 - len(data_batch) :]], torch.nan)
        truth = infer(alone, own, u)
        torch.testing.assert_close(filtered.mean[i, j], truth.filtered_mean, **EXACT)
        torch.testing.assert_close(filtered.log_likelihood[i, j], truth.log_likelihood, **EXACT)
        torch.testing.assert_close(smoothed.mean[i, j], truth.smoothed_mean, **EXACT)
        torch.testing.assert_close(smoothed.covariance[i, j], truth.smoothed_covariance, **EXACT)
        torch.testing.assert_close(smoothed.cross_covariance[i, j], truth.cross_covariance, **EXACT)


def test_series_that_share_a_model_share_their_covariances():
    ssm = random_ssm(2, 2)
    x = sample(ssm, 20, sample_shape=(8,)).x
    x[:, 4] = torch.nan
    covariance = kalman_smoother(ssm, x).covariance
    assert covariance.shape == (8, 20, 2, 2)
    assert covariance.stride(0) == 0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["mu_1", "Lambda_1", "A", "m", "Sigma"])
def test_one_parameter_alone_may_have_the_batch_dimension(method, name):
    """Long enough to become steady; mu_1 carries the batch dimension, of size one where it is not the one."""
    ssm, others = random_ssm(2, 2, seed=9), random_ssm(2, 2, batch=(3,), seed=10)
    ssm = ssm.replace(**({"mu_1": ssm.mu_1[None]} | {name: getattr(others, name)}))
    x = torch.randn(60, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    filtered, smoothed = kalman_filter(ssm, x, method=method), kalman_smoother(ssm, x, method=method)
    for i in range(3):
        own = {"mu_1": ssm.mu_1[0], name: getattr(ssm, name)[i]}
        truth = infer(ssm.replace(**own), x)
        torch.testing.assert_close(filtered.log_likelihood[i], truth.log_likelihood, **EXACT)
        torch.testing.assert_close(smoothed.mean[i], truth.smoothed_mean, **EXACT)
        torch.testing.assert_close(smoothed.covariance[i], truth.smoothed_covariance, **EXACT)


def test_mask_and_nan_say_the_same():
    ssm = random_ssm(2, 2)
    x = sample(ssm, 6, sample_shape=(3,)).x
    by_component = torch.rand(3, 6, 2, generator=torch.Generator().manual_seed(0)) < 0.5
    by_frame = by_component[..., 0]
    for mask, hidden in ((by_component, ~by_component), (by_frame, ~by_frame.unsqueeze(-1).expand_as(x))):
        a, b = kalman_smoother(ssm, x, mask=mask), kalman_smoother(ssm, x.masked_fill(hidden, torch.nan))
        torch.testing.assert_close(a.mean, b.mean)
        torch.testing.assert_close(a.covariance, b.covariance)


@pytest.mark.parametrize("method", METHODS)
def test_nothing_observed_gives_the_prior(method):
    T = 6
    ssm = random_ssm(2, 2, seed=7)
    x = torch.full((T, 2), torch.nan, dtype=torch.float64)
    filtered, smoothed = kalman_filter(ssm, x, method=method), kalman_smoother(ssm, x, method=method)
    mean, P = ssm.mu_1, ssm.Lambda_1
    for t in range(T):
        if t:
            mean, P = ssm.A @ mean + ssm.m, ssm.A @ P @ ssm.A.mT + ssm.Lambda
        for result in (filtered, smoothed):
            torch.testing.assert_close(result.mean[t], mean)
            torch.testing.assert_close(result.covariance[t], P)
    assert filtered.log_likelihood == 0


def test_equal_axis_lengths_are_told_apart():
    """T = batch = z_dim = x_dim: what is batch and what is time follows from mu_1 alone."""
    n = 3
    ssm = random_ssm(n, n, batch=(n,), seed=8)
    per_step = random_ssm(n, n, steps=n, seed=8)
    x = torch.randn(n, n, n, dtype=torch.float64)
    for i in range(n):
        alone = ssm.map(lambda value, i=i: value[i])
        torch.testing.assert_close(kalman_filter(ssm, x).mean[i], infer(alone, x[i]).filtered_mean)
        torch.testing.assert_close(kalman_filter(per_step, x).mean[i], infer(per_step, x[i]).filtered_mean)


# ---- independent libraries ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def series() -> tuple[LinearGaussianSSM, Tensor]:
    ssm = random_ssm(4, 2, seed=11).replace(m=None, n=None)
    return ssm, sample(ssm, 300, generator=torch.Generator().manual_seed(1)).x


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("gaps", [False, True])
def test_agrees_with_statsmodels(series, method, gaps):
    from statsmodels.tsa.statespace.kalman_smoother import KalmanSmoother

    ssm, x = series
    x = x.clone()
    if gaps:
        x[40:60] = torch.nan
        x[100:120, 1] = torch.nan
    peer = KalmanSmoother(k_endog=2, k_states=4, k_posdef=4)
    peer["design"], peer["obs_cov"], peer["transition"] = (v.numpy() for v in (ssm.C, ssm.Sigma, ssm.A))
    peer["selection"], peer["state_cov"] = np.eye(4), ssm.Lambda.numpy()
    peer.bind(np.asfortranarray(x.numpy().T))
    peer.initialize_known(ssm.mu_1.numpy(), ssm.Lambda_1.numpy())
    peer.tolerance = 0
    truth = peer.smooth()
    filtered, smoothed = kalman_filter(ssm, x, method=method), kalman_smoother(ssm, x, method=method)
    np.testing.assert_allclose(filtered.mean.numpy().T, truth.filtered_state, atol=1e-8)
    np.testing.assert_allclose(smoothed.mean.numpy().T, truth.smoothed_state, atol=1e-8)
    np.testing.assert_allclose(np.moveaxis(smoothed.covariance.numpy(), 0, -1), truth.smoothed_state_cov, atol=1e-8)
    np.testing.assert_allclose(float(filtered.log_likelihood), truth.llf, rtol=1e-10)
    cross = np.moveaxis(smoothed.cross_covariance.numpy(), 0, -1)  # Cov(z_t, z_{t-1}); statsmodels: Cov(z_{t+1}, z_t)
    np.testing.assert_allclose(cross, truth.smoothed_state_autocov[:, :, :-1], atol=1e-8)


@pytest.mark.parametrize("method", METHODS)
def test_agrees_with_pykalman(series, method):
    from pykalman import KalmanFilter

    ssm, x = series
    peer = KalmanFilter(*(v.numpy() for v in (ssm.A, ssm.C, ssm.Lambda, ssm.Sigma)), None, None, *(
        v.numpy() for v in (ssm.mu_1, ssm.Lambda_1)
    ))  # fmt: skip
    mean, covariance = peer.smooth(x.numpy())
    smoothed = kalman_smoother(ssm, x, method=method)
    np.testing.assert_allclose(smoothed.mean.numpy(), mean, atol=1e-8)
    np.testing.assert_allclose(smoothed.covariance.numpy(), covariance, atol=1e-8)
    np.testing.assert_allclose(float(log_likelihood(ssm, x, method=method)), peer.loglikelihood(x.numpy()), rtol=1e-10)


@pytest.mark.parametrize("method", METHODS)
def test_agrees_with_filterpy(series, method):
    from filterpy.kalman import KalmanFilter

    ssm, x = series
    peer = KalmanFilter(dim_x=4, dim_z=2)
    peer.F, peer.H, peer.Q, peer.R = (v.numpy() for v in (ssm.A, ssm.C, ssm.Lambda, ssm.Sigma))
    peer.x, peer.P = ssm.mu_1.numpy()[:, None], ssm.Lambda_1.numpy()
    means, covariances = [], []
    for t, value in enumerate(x.numpy()):
        if t:
            peer.predict()
        peer.update(value[:, None])
        means.append(peer.x.copy())
        covariances.append(peer.P.copy())
    filtered = kalman_filter(ssm, x, method=method)
    np.testing.assert_allclose(filtered.mean.numpy(), np.stack(means)[..., 0], atol=1e-8)
    mean, covariance, *_ = peer.rts_smoother(np.stack(means), np.stack(covariances))
    smoothed = kalman_smoother(ssm, x, method=method)
    np.testing.assert_allclose(smoothed.mean.numpy(), mean[..., 0], atol=1e-8)
    np.testing.assert_allclose(smoothed.covariance.numpy(), covariance, atol=1e-8)


# ---- singular noise and float32 ----------------------------------------------------------------------------------


def test_singular_state_noise_of_an_autoregressive_process():
    """AR(2) in companion form, observed without noise: after two steps the state is known, and P is singular."""
    A = torch.tensor([[0.5, 0.3], [1.0, 0.0]], dtype=torch.float64)
    noise = torch.tensor([[1.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    C = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    ssm = LinearGaussianSSM(A, C, noise, torch.zeros(1, 1).double(), mu_1=torch.zeros(2).double(), Lambda_1=noise)
    x = sample(ssm, 12, generator=torch.Generator().manual_seed(0)).x
    innovations = x[1:, 0] - (A[0, 0] * x[:-1, 0] + A[0, 1] * torch.cat([torch.zeros(1).double(), x[:-2, 0]]))
    expected = torch.distributions.Normal(0.0, 1.0).log_prob(torch.cat([x[:1, 0], innovations])).sum()
    for method in METHODS:
        torch.testing.assert_close(log_likelihood(ssm, x, method=method), expected.double())
        smoothed = kalman_smoother(ssm, x, method=method)
        torch.testing.assert_close(smoothed.mean[:, 0], x[:, 0])
        torch.testing.assert_close(smoothed.mean[1:, 1], x[:-1, 0])
        assert float(smoothed.covariance.abs().max()) < 1e-12
    x[5] = torch.nan
    brute = infer(ssm.replace(Sigma=1e-12 * torch.eye(1).double()), x)
    smoothed = kalman_smoother(ssm, x)
    torch.testing.assert_close(smoothed.mean, brute.smoothed_mean, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(smoothed.covariance, brute.smoothed_covariance, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("constant", [True, False])
def test_float32_stays_positive_definite_over_ten_thousand_steps(method, constant):
    """Noise variances over ten orders of magnitude, two sensors that nearly repeat each other, a nearly flat prior."""
    T = 10_000
    A = torch.tensor([[0.98, 0.1, 0.005], [0.0, 0.98, 0.1], [0.0, 0.0, 0.9]])
    C = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1e-3, 0.0]])
    ssm = LinearGaussianSSM(
        A if constant else A.expand(T, 3, 3).clone(),
        C,
        torch.tensor([1e-9, 1e-7, 1e-5]).diag(),
        torch.tensor([1e-6, 1e2]).diag(),
        mu_1=torch.zeros(3),
        Lambda_1=10 * torch.eye(3),
    )
    x = sample(ssm, T, generator=torch.Generator().manual_seed(0)).x
    filtered, smoothed = kalman_filter(ssm, x, method=method), kalman_smoother(ssm, x, method=method)
    exact = kalman_smoother(ssm.to(torch.float64), x.double())
    for covariance in (filtered.covariance, filtered.predicted_covariance, smoothed.covariance):
        assert bool(torch.isfinite(covariance).all())
        assert bool((torch.linalg.cholesky_ex(covariance.double()).info == 0).all())
    assert bool(torch.isfinite(filtered.mean).all())
    relative = (smoothed.covariance.double() - exact.covariance).abs().amax(0) / exact.covariance.abs().amax(0)
    assert float(relative.max()) < 1e-2
    error = (smoothed.mean.double() - exact.mean).abs() / exact.covariance.diagonal(dim1=-2, dim2=-1).sqrt()
    assert float(error.max()) < 0.5  # of a posterior standard deviation


@pytest.mark.parametrize("method", METHODS)
def test_float32_agrees_with_float64_where_it_is_easy(method):
    ssm = random_ssm(3, 2, seed=13)
    x = sample(ssm, 200).x
    low = kalman_smoother(ssm.to(torch.float32), x.float(), method=method)
    torch.testing.assert_close(low.mean.double(), kalman_smoother(ssm, x).mean, atol=1e-4, rtol=1e-4)
    assert low.mean.dtype == torch.float32
