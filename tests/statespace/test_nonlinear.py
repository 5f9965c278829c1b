"""Extended and unscented filters against filterpy and pykalman, and against the exact ones where those exist."""

import numpy as np
import pytest
import torch
from brute_force import random_ssm

from dvae_lib.statespace import (
    NonlinearGaussianSSM,
    SigmaPoints,
    extended_kalman_filter,
    extended_kalman_smoother,
    kalman_filter,
    kalman_smoother,
    sample,
    unscented_kalman_filter,
    unscented_kalman_smoother,
)
from dvae_lib.statespace.nonlinear import _factor

FILTERS = (extended_kalman_filter, unscented_kalman_filter)
SMOOTHERS = (extended_kalman_smoother, unscented_kalman_smoother)
STEP, GRAVITY = 0.05, 9.81


def swing(z):
    return torch.stack([z[0] + STEP * z[1], z[1] - STEP * GRAVITY * z[0].sin()])


def pendulum(dtype=torch.float64) -> NonlinearGaussianSSM:
    return NonlinearGaussianSSM(
        swing,
        lambda z: z[:1].sin(),
        torch.tensor([[1e-4, 2e-5], [2e-5, 1e-2]], dtype=dtype),
        torch.tensor([[0.1]], dtype=dtype),
        mu_1=torch.tensor([1.2, 0.0], dtype=dtype),
        Lambda_1=torch.tensor([[0.1, 0.01], [0.01, 0.2]], dtype=dtype),
    )


@pytest.fixture(scope="module")
def swings() -> torch.Tensor:
    return pendulum().sample(60, generator=torch.Generator().manual_seed(0)).x


def linear_as_nonlinear(ssm):
    return NonlinearGaussianSSM(
        lambda z: ssm.A @ z + ssm.m,
        lambda z: ssm.C @ z + ssm.n,
        ssm.Lambda,
        ssm.Sigma,
        mu_1=ssm.mu_1,
        Lambda_1=ssm.Lambda_1,
    )


@pytest.mark.parametrize("infer", FILTERS)
def test_filters_are_exact_on_a_linear_model(infer):
    ssm = random_ssm(3, 2, seed=1)
    x = sample(ssm, 12, sample_shape=(2,)).x
    x[0, 3] = x[1, 5, 0] = torch.nan
    for got, exact in zip(infer(linear_as_nonlinear(ssm), x), kalman_filter(ssm, x), strict=True):
        torch.testing.assert_close(got, exact, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("infer", SMOOTHERS)
def test_smoothers_are_exact_on_a_linear_model(infer):
    ssm = random_ssm(3, 2, seed=1)
    x = sample(ssm, 12, sample_shape=(2,)).x
    mask = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) < 0.7
    for got, exact in zip(
        infer(linear_as_nonlinear(ssm), x, mask=mask), kalman_smoother(ssm, x, mask=mask), strict=True
    ):
        torch.testing.assert_close(got, exact, atol=1e-9, rtol=1e-9)


def test_inputs_drive_the_transition():
    ssm = random_ssm(2, 2, u_dim=1, seed=2)
    u = torch.randn(10, 1, dtype=torch.float64)
    u[0] = 0  # there is no transition to the first state
    x = sample(ssm, 10, u, sample_shape=(3,)).x
    driven = NonlinearGaussianSSM(
        lambda z, u: ssm.A @ z + ssm.B @ u + ssm.m, lambda z: ssm.C @ z + ssm.n, ssm.Lambda, ssm.Sigma,
        mu_1=ssm.mu_1, Lambda_1=ssm.Lambda_1,
    )  # fmt: skip
    for infer in FILTERS:
        torch.testing.assert_close(infer(driven, x, u).mean, kalman_filter(ssm, x, u).mean)
    assert driven.sample(10, u, sample_shape=(4,)).x.shape == (4, 10, 2)


def test_extended_filter_agrees_with_filterpy(swings):
    from filterpy.kalman import ExtendedKalmanFilter

    ssm = pendulum()
    peer = ExtendedKalmanFilter(dim_x=2, dim_z=1)
    peer.x, peer.P = ssm.mu_1.numpy()[:, None], ssm.Lambda_1.numpy()
    peer.Q, peer.R = ssm.Lambda.numpy(), ssm.Sigma.numpy()
    means, covariances = [], []
    for t, value in enumerate(swings.numpy()):
        if t:
            angle, speed = peer.x[:, 0]
            peer.F = np.array([[1, STEP], [-STEP * GRAVITY * np.cos(angle), 1]])
            peer.P = peer.F @ peer.P @ peer.F.T + peer.Q
            peer.x = np.array([[angle + STEP * speed], [speed - STEP * GRAVITY * np.sin(angle)]])
        peer.update(value[:, None], lambda z: np.array([[np.cos(z[0, 0]), 0.0]]), lambda z: np.sin(z[:1]))
        means.append(peer.x[:, 0].copy())
        covariances.append(peer.P.copy())
    filtered = extended_kalman_filter(ssm, swings)
    np.testing.assert_allclose(filtered.mean, np.stack(means), atol=1e-8)
    np.testing.assert_allclose(filtered.covariance, np.stack(covariances), atol=1e-8)


def filterpy_unscented(ssm, x, settings):
    from filterpy.kalman import MerweScaledSigmaPoints, UnscentedKalmanFilter

    def move(z, dt):
        return np.array([z[0] + STEP * z[1], z[1] - STEP * GRAVITY * np.sin(z[0])])

    points = MerweScaledSigmaPoints(2, settings.alpha, settings.beta, settings.kappa)
    peer = UnscentedKalmanFilter(2, 1, STEP, lambda z: np.sin(z[:1]), move, points)
    peer.x, peer.P, peer.Q, peer.R = (v.numpy() for v in (ssm.mu_1, ssm.Lambda_1, ssm.Lambda, ssm.Sigma))
    means, covariances = [], []
    for t, value in enumerate(x.numpy()):
        if t:
            peer.predict()
        else:
            peer.sigmas_f = points.sigma_points(peer.x, peer.P)
        peer.sigmas_f = points.sigma_points(peer.x, peer.P)
        peer.update(value)
        means.append(peer.x.copy())
        covariances.append(peer.P.copy())
    return np.stack(means), np.stack(covariances), peer


@pytest.mark.parametrize("settings", [SigmaPoints(), SigmaPoints(0.5, 2.0, 1.0), SigmaPoints(1.0, 0.0, 1.0)])
def test_unscented_filter_agrees_with_filterpy(swings, settings):
    ssm = pendulum()
    means, covariances, peer = filterpy_unscented(ssm, swings, settings)
    filtered = unscented_kalman_filter(ssm, swings, sigma_points=settings)
    np.testing.assert_allclose(filtered.mean, means, atol=1e-8)
    np.testing.assert_allclose(filtered.covariance, covariances, atol=1e-8)
    smooth_means, smooth_covariances, _ = peer.rts_smoother(means, covariances)
    smoothed = unscented_kalman_smoother(ssm, swings, sigma_points=settings)
    np.testing.assert_allclose(smoothed.mean, smooth_means, atol=1e-8)
    np.testing.assert_allclose(smoothed.covariance, smooth_covariances, atol=1e-8)


def test_unscented_smoother_agrees_with_pykalman(swings):
    from pykalman import AdditiveUnscentedKalmanFilter

    ssm = pendulum()
    peer = AdditiveUnscentedKalmanFilter(
        lambda z: np.array([z[0] + STEP * z[1], z[1] - STEP * GRAVITY * np.sin(z[0])]), lambda z: np.sin(z[:1]),
        *(v.numpy() for v in (ssm.Lambda, ssm.Sigma, ssm.mu_1, ssm.Lambda_1)),
    )  # fmt: skip
    settings = SigmaPoints(1.0, 0.0, 3.0 - 2)  # pykalman's
    filtered = unscented_kalman_filter(ssm, swings, sigma_points=settings)
    mean, covariance = peer.filter(swings.numpy())
    np.testing.assert_allclose(filtered.mean, mean, atol=1e-8)
    np.testing.assert_allclose(filtered.covariance, covariance, atol=1e-8)
    mean, covariance = peer.smooth(swings.numpy())
    smoothed = unscented_kalman_smoother(ssm, swings, sigma_points=settings)
    np.testing.assert_allclose(smoothed.mean, mean, atol=1e-8)
    np.testing.assert_allclose(smoothed.covariance, covariance, atol=1e-8)


@pytest.mark.parametrize("infer", SMOOTHERS)
def test_batches_and_gaps(infer, swings):
    ssm = pendulum()
    x = swings.expand(2, -1, -1).clone()
    x[0, 10:20] = torch.nan
    both = infer(ssm, x)
    for i in range(2):
        torch.testing.assert_close(both.mean[i], infer(ssm, x[i]).mean)
    assert float(both.covariance[0, 15, 0, 0]) > float(both.covariance[1, 15, 0, 0])


@pytest.mark.parametrize("infer", [*FILTERS, *SMOOTHERS])
def test_gradients_reach_what_the_functions_hold(infer):
    x = pendulum().sample(5, generator=torch.Generator().manual_seed(1)).x.requires_grad_()
    base = pendulum()

    def objective(x, gravity, factor):
        ssm = NonlinearGaussianSSM(
            lambda z: torch.stack([z[0] + STEP * z[1], z[1] - STEP * gravity * z[0].sin()]), base.observation,
            factor @ factor.mT, base.Sigma, mu_1=base.mu_1, Lambda_1=base.Lambda_1,
        )  # fmt: skip
        return tuple(infer(ssm, x))

    gravity = torch.tensor(GRAVITY, dtype=torch.float64, requires_grad=True)
    factor = torch.linalg.cholesky(base.Lambda).requires_grad_()
    torch.autograd.gradcheck(objective, (x, gravity, factor), fast_mode=True, atol=1e-6)


@pytest.mark.parametrize("infer", FILTERS)
def test_float32(infer, swings):
    filtered = infer(pendulum(torch.float32), swings.float())
    torch.testing.assert_close(filtered.mean.double(), infer(pendulum(), swings).mean, atol=1e-3, rtol=1e-3)


def test_the_unscented_moments_of_a_square():
    """x = z^2 with z ~ N(0, 1) has mean 1 and variance 2, which a first-order expansion misses altogether."""
    one = torch.eye(1, dtype=torch.float64)
    square = NonlinearGaussianSSM(lambda z: z, torch.square, one, one, mu_1=0 * one[0], Lambda_1=one)
    x = torch.tensor([[4.0]], dtype=torch.float64)
    expected = torch.distributions.Normal(1.0, 3**0.5).log_prob(torch.tensor(4.0)).double()
    torch.testing.assert_close(unscented_kalman_filter(square, x).log_likelihood, expected)
    expected = torch.distributions.Normal(0.0, 1.0).log_prob(torch.tensor(4.0)).double()
    torch.testing.assert_close(extended_kalman_filter(square, x).log_likelihood, expected)


def test_what_is_wrong_is_said(as_a_user):
    ssm, eye = pendulum(), torch.eye(2, dtype=torch.float64)
    x = torch.zeros(4, 1, dtype=torch.float64)
    moments = {"mu_1": ssm.mu_1, "Lambda_1": ssm.Lambda_1}
    with pytest.raises(TypeError, match="transition must be a function"):
        NonlinearGaussianSSM(eye, ssm.observation, ssm.Lambda, ssm.Sigma, **moments)
    with pytest.raises(ValueError, match="symmetric"):
        NonlinearGaussianSSM(swing, ssm.observation, eye + torch.ones(2, 2).triu(1), ssm.Sigma, **moments)
    with pytest.raises(ValueError, match="without batch dimensions"):
        NonlinearGaussianSSM(
            swing, ssm.observation, ssm.Lambda, ssm.Sigma, mu_1=ssm.mu_1[None], Lambda_1=ssm.Lambda_1[None]
        )
    wrong = NonlinearGaussianSSM(swing, lambda z: z, ssm.Lambda, ssm.Sigma, **moments)
    for infer in FILTERS:
        with pytest.raises(ValueError, match="must return a tensor of shape"):
            infer(wrong, x)
        with pytest.raises(ValueError, match="T >= 1"):
            infer(ssm, x[:0])
        with pytest.raises(TypeError, match="float64"):
            infer(ssm, x.float())
    with pytest.raises(ValueError, match="must be positive"):
        unscented_kalman_filter(ssm, x, sigma_points=SigmaPoints(kappa=-2.0))
    with pytest.raises(TypeError, match="Sigma must be a floating-point tensor, got ndarray"):
        NonlinearGaussianSSM(swing, ssm.observation, ssm.Lambda, ssm.Sigma.numpy(), **moments)
    for infer in (*FILTERS, *SMOOTHERS):
        broken = NonlinearGaussianSSM(lambda z: z * torch.nan, ssm.observation, ssm.Lambda, ssm.Sigma, **moments)
        with pytest.raises(ValueError, match=r"value of transition is not finite where step 2"):
            infer(broken, x)
        broken = NonlinearGaussianSSM(swing, lambda z: (z[:1] - 9).log(), ssm.Lambda, ssm.Sigma, **moments)
        with pytest.raises(ValueError, match=r"value of observation is not finite where step 1"):
            infer(broken, x)
    at_zero = {"mu_1": 0 * ssm.mu_1, "Lambda_1": ssm.Lambda_1}
    steep = NonlinearGaussianSSM(swing, lambda z: z[:1].square().sqrt().sqrt(), ssm.Lambda, ssm.Sigma, **at_zero)
    with pytest.raises(ValueError, match="derivative of observation is not finite"):
        extended_kalman_filter(steep, x)
    with pytest.raises(ValueError, match=r"negative variance.*alpha"):
        _factor(torch.tensor([1.0, -1e-3], dtype=torch.float64).diag())
    blind = NonlinearGaussianSSM(swing, ssm.observation, 0 * eye, 0 * ssm.Sigma, mu_1=ssm.mu_1, Lambda_1=0 * eye)
    with pytest.raises(ValueError, match="covariance of an innovation"):
        unscented_kalman_filter(blind, x)
    with pytest.raises(ValueError, match="num_steps must be at least 1"):
        ssm.sample(0)


@pytest.mark.parametrize("known", ["first state", "one coordinate", "everything"])
def test_a_state_that_is_known_exactly(known):
    """Sigma points of a singular covariance: on a linear model both filters are exact."""
    ssm = random_ssm(3, 2, seed=1)
    zeros = torch.zeros(3, 3, dtype=torch.float64)
    partly = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64).diag()
    ssm = ssm.replace(Lambda_1=partly if known == "one coordinate" else zeros)
    if known == "everything":
        ssm = ssm.replace(Lambda=zeros)
    x = sample(ssm, 12, sample_shape=(2,)).x
    for infer, exact in zip((*FILTERS, *SMOOTHERS), [kalman_filter] * 2 + [kalman_smoother] * 2, strict=True):
        for a, b in zip(infer(linear_as_nonlinear(ssm), x), exact(ssm, x), strict=True):
            torch.testing.assert_close(a, b, atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("infer", [*FILTERS, *SMOOTHERS])
def test_functions_of_another_precision(infer, swings):
    """A network has weights of the model's dtype; another function may compute in float64 whatever it is given."""
    torch.manual_seed(0)
    network = torch.nn.Linear(2, 2)
    exact = pendulum()
    moments = {"mu_1": exact.mu_1.float(), "Lambda_1": exact.Lambda_1.float()}
    matrix = network.weight.detach().double()
    wide = NonlinearGaussianSSM(
        lambda z: matrix @ z.double() + network.bias.double(), lambda z: z[:1],
        exact.Lambda.float(), exact.Sigma.float(), **moments,
    )  # fmt: skip
    narrow = NonlinearGaussianSSM(network, lambda z: z[:1], exact.Lambda.float(), exact.Sigma.float(), **moments)
    x = swings.float()
    for a, b in zip(infer(narrow, x), infer(wide, x), strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    assert narrow.sample(4).x.dtype == torch.float32
