"""Float32 against float64, and both against 80 digits: errors of rounding size, in posterior standard deviations."""

import mpmath
import numpy as np
import pytest
import torch
from brute_force import random_ssm
from torch import Tensor

from dvae_lib.statespace import (
    LinearGaussianSSM,
    NonlinearGaussianSSM,
    SmootherResult,
    extended_kalman_smoother,
    forecast,
    kalman_filter,
    kalman_smoother,
    sample,
    sample_posterior,
    unscented_kalman_smoother,
)

METHODS = ("sequential", "parallel")
EPS = torch.finfo(torch.float32).eps


def smooth_in_80_digits(ssm: LinearGaussianSSM, x: Tensor) -> SmootherResult:
    """The recursion of Rauch, Tung and Striebel in the form of textbooks, with as many digits as it wants."""
    with mpmath.workdps(80):
        A, C, Q, R, P = (
            mpmath.matrix(v.double().tolist()) for v in (ssm.A, ssm.C, ssm.Lambda, ssm.Sigma, ssm.Lambda_1)
        )
        m = mpmath.matrix(ssm.mu_1.double().tolist())
        filtered, predicted = [], []
        for t, frame in enumerate(x.double()):
            if t:
                m, P = A * m, A * P * A.T + Q
            predicted.append((m, P))
            if not bool(frame.isnan().any()):
                K = P * C.T * mpmath.inverse(C * P * C.T + R)
                m, P = m + K * (mpmath.matrix(frame.tolist()) - C * m), P - K * C * P
            filtered.append((m, P))
        smoothed, cross = [filtered[-1]], []
        for (m, P), (ahead, P_ahead) in zip(filtered[-2::-1], predicted[:0:-1], strict=True):
            G, (later, P_later) = P * A.T * mpmath.inverse(P_ahead), smoothed[0]
            cross.insert(0, P_later * G.T)
            smoothed.insert(0, (m + G * (later - ahead), P + G * (P_later - P_ahead) * G.T))
        as_array = lambda value: np.array(value.tolist(), dtype=float)  # noqa: E731
        means, covariances = zip(*((as_array(m)[:, 0], as_array(P)) for m, P in smoothed), strict=True)
        parts = (np.stack(means), np.stack(covariances), np.stack([as_array(value) for value in cross]))
        return SmootherResult(*(torch.from_numpy(part) for part in parts))


def trend(variance: float, offset: float) -> tuple[LinearGaussianSSM, Tensor]:
    """A local linear trend with a vague first state, and a series of it, in float32."""
    A, C, e = torch.tensor([[1.0, 1.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0]]), torch.eye(2)
    ssm = LinearGaussianSSM(A, C, 0.125 * e, torch.eye(1), mu_1=torch.zeros(2), Lambda_1=variance * e)
    return ssm, torch.randn(12, 1, generator=torch.Generator().manual_seed(0)).cumsum(0) + 5 + offset


def level(variance: float, offset: float) -> tuple[LinearGaussianSSM, Tensor]:
    one = torch.eye(1)
    ssm = LinearGaussianSSM(one, one, 0.1 * one, one, mu_1=torch.zeros(1), Lambda_1=variance * one)
    return ssm, torch.randn(12, 1, generator=torch.Generator().manual_seed(1)) + offset


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("offset", [0.0, 1e4])
@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("variance", [1.0, 1e4, 1e7, 1e10, 1e14])
@pytest.mark.parametrize("model", [trend, level])
def test_smoothing_from_a_vague_first_state(model, variance, missing, offset, method):
    ssm, x = model(variance, offset)
    if missing:
        x[0] = torch.nan
    exact = smooth_in_80_digits(ssm, x)
    sd = exact.covariance.diagonal(dim1=-2, dim2=-1).sqrt()
    scales = sd.unsqueeze(-1) * sd.unsqueeze(-2)
    neighbours = sd[1:].unsqueeze(-1) * sd[:-1].unsqueeze(-2)
    for dtype, rounding in ((torch.float64, 1e-8), (torch.float32, 4 * EPS)):
        got = kalman_smoother(ssm.to(dtype), x.to(dtype), method=method)
        assert got.mean.dtype == dtype
        # A number in float32 can't be nearer to the truth than its own last digit.
        digit = exact.mean.abs() * torch.finfo(dtype).eps
        assert float((((got.mean - exact.mean).abs() - digit) / sd).max()) < rounding
        assert float(((got.covariance - exact.covariance).abs() / scales).max()) < rounding
        assert float(((got.cross_covariance - exact.cross_covariance).abs() / neighbours).max()) < rounding


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("variance", [1e4, 1e7, 1e10])
def test_draws_from_a_vague_first_state(variance, missing, method):
    ssm, x = trend(variance, 0.0)
    if missing:
        x[0] = torch.nan
    draws = {}
    for dtype in (torch.float32, torch.float64):
        z = sample_posterior(
            ssm.to(dtype), x.to(dtype), sample_shape=(4000,), generator=torch.Generator().manual_seed(0), method=method
        )
        assert z.dtype == dtype
        draws[dtype] = z.double()
    exact = smooth_in_80_digits(ssm, x)
    sd = exact.covariance.diagonal(dim1=-2, dim2=-1).sqrt()
    for z in draws.values():  # the error of a mean and a standard deviation from 4,000 draws: 0.016 and 0.011
        assert float(((z.mean(0) - exact.mean) / sd).abs().max()) < 0.08
        assert float((z.std(0) / sd - 1).abs().max()) < 0.06


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("case", ["trend", "level", "offset", "long", "three states", "late start"])
def test_all_results_in_float32_are_those_of_float64_rounded(case, method):
    """The numbers put in are the same; those that come out may differ by the last digit and the data's own."""
    if case == "long":
        ssm = random_ssm(2, 2, seed=3).to(torch.float32)
        x = sample(ssm, 5000, generator=torch.Generator().manual_seed(0)).x + 100
    elif case == "three states":
        ssm = random_ssm(3, 2, seed=4).to(torch.float32).replace(Lambda_1=1e8 * torch.eye(3))
        x = sample(ssm, 40, generator=torch.Generator().manual_seed(0)).x
    else:
        ssm, x = {"trend": trend, "level": level, "offset": trend, "late start": trend}[case](
            1e8, 1e5 if case == "offset" else 0.0
        )
        x[0 : 5 if case == "late start" else 0] = torch.nan
    wide, x64 = ssm.to(torch.float64), x.double()
    pairs = [
        (kalman_filter(ssm, x, method=method), kalman_filter(wide, x64, method=method)),
        (kalman_smoother(ssm, x, method=method), kalman_smoother(wide, x64, method=method)),
        (forecast(ssm, x, 5, method=method), forecast(wide, x64, 5, method=method)),
    ]
    for low, high in pairs:
        for name, a, b in zip(low._fields, low, high, strict=True):
            assert a.dtype == torch.float32
            torch.testing.assert_close(
                a, b.float(), rtol=2 * EPS, atol=0, msg=lambda text, name=name: f"{name}: {text}"
            )


def test_a_long_walk_takes_its_small_steps_in_float32():
    """Steps of 0.01 at a level of a million, where neighbouring float32 numbers lie 0.06 apart."""
    one = torch.eye(1)
    walk = LinearGaussianSSM(one, one, 1e-4 * one, one, mu_1=torch.full((1,), 1e6), Lambda_1=one)
    wide = sample(walk.to(torch.float64), 20_000, sample_shape=(200,), generator=torch.Generator().manual_seed(1)).z
    narrow = sample(walk, 20_000, sample_shape=(200,), generator=torch.Generator().manual_seed(2)).z.double()
    spread = [(z[:, -1] - z[:, 0]).std().item() for z in (wide, narrow)]
    for value in spread:
        assert abs(value / 2**0.5 - 1) < 0.2  # 20,000 steps of variance 1e-4


@pytest.mark.parametrize("infer", [extended_kalman_smoother, unscented_kalman_smoother])
@pytest.mark.parametrize("offset", [0.0, 1e4])
@pytest.mark.parametrize("variance", [1.0, 1e7, 1e10])
def test_nonlinear_smoothers_in_float32(infer, variance, offset):
    """On a linear model, where the truth is known; the functions are written with numbers, so float64 goes through."""
    ssm, x = trend(variance, offset)
    as_nonlinear = NonlinearGaussianSSM(
        lambda z: torch.stack([z[0] + z[1], z[1]]), lambda z: z[:1], ssm.Lambda, ssm.Sigma,
        mu_1=ssm.mu_1, Lambda_1=ssm.Lambda_1,
    )  # fmt: skip
    got, exact = infer(as_nonlinear, x), smooth_in_80_digits(ssm, x)
    sd = exact.covariance.diagonal(dim1=-2, dim2=-1).sqrt()
    assert got.mean.dtype == torch.float32
    assert float((((got.mean - exact.mean).abs() - exact.mean.abs() * EPS) / sd).max()) < 1e-5
    assert float(((got.covariance - exact.covariance).abs() / (sd.unsqueeze(-1) * sd.unsqueeze(-2))).max()) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    ssm = random_ssm(2, 1, seed=5).replace(m=None).to(dtype)
    x = sample(ssm, 20, generator=torch.Generator().manual_seed(0)).x
    got, exact = kalman_smoother(ssm, x), kalman_smoother(ssm.to(torch.float64), x.double())
    assert x.dtype == dtype
    for a, b in zip(got, exact, strict=True):
        assert torch.equal(a, b.to(dtype))
