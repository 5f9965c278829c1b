"""Smoothing by the gains of the steady state: where it serves, where it must not, and to how many digits."""

import pytest
import torch
from brute_force import infer, random_ssm
from test_precision import smooth_in_80_digits
from torch import Tensor

from dvae_lib.statespace import LinearGaussianSSM, SmootherResult, kalman, kalman_smoother, sample

EXACT = {"atol": 1e-9, "rtol": 1e-9}


@pytest.fixture
def served(monkeypatch) -> list[bool]:
    """For each call whether the steady smoother had an answer."""
    calls: list[bool] = []
    original = kalman.smooth_steady

    def watched(*arguments):
        result = original(*arguments)
        calls.append(result is not None)
        return result

    monkeypatch.setattr(kalman, "smooth_steady", watched)
    return calls


def errors(got: SmootherResult, wanted: SmootherResult) -> tuple[float, float, float]:
    """The largest of means, beside their size and deviation, and of covariances, beside the deviations."""
    sd = wanted.covariance.diagonal(dim1=-2, dim2=-1).sqrt()
    scales = sd.unsqueeze(-1) * sd.unsqueeze(-2), sd[..., 1:, :, None] * sd[..., :-1, None, :], sd + wanted.mean.abs()
    return (
        float(((got.mean - wanted.mean).abs() / scales[2]).max()),
        float(((got.covariance - wanted.covariance).abs() / scales[0]).max()),
        float(((got.cross_covariance - wanted.cross_covariance).abs() / scales[1]).max()),
    )


def data(ssm: LinearGaussianSSM, T: int, *shape: int, u: Tensor | None = None) -> Tensor:
    return sample(ssm, T, u, sample_shape=shape, generator=torch.Generator().manual_seed(T)).x


# ---- where it serves ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("T", [64, 71])
@pytest.mark.parametrize(("z_dim", "x_dim"), [(1, 1), (2, 1), (3, 2), (2, 4)])
def test_equals_the_conditioned_joint_gaussian(served, z_dim, x_dim, T):
    ssm = random_ssm(z_dim, x_dim, u_dim=1, seed=11)
    ssm = ssm.replace(A=0.4 * ssm.A)  # a short memory, for the joint Gaussian of few steps
    u = torch.randn(T, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = data(ssm, T, u=u)
    truth, smoothed = infer(ssm, x, u), kalman_smoother(ssm, x, u, method="parallel")
    assert served == [True]
    torch.testing.assert_close(smoothed.mean, truth.smoothed_mean, **EXACT)
    torch.testing.assert_close(smoothed.covariance, truth.smoothed_covariance, **EXACT)
    torch.testing.assert_close(smoothed.cross_covariance, truth.cross_covariance, **EXACT)


@pytest.mark.parametrize("shape", [(), (1,), (2, 3)])
@pytest.mark.parametrize(("z_dim", "x_dim", "T"), [(1, 1, 700), (4, 2, 512), (7, 3, 601), (20, 2, 900)])
@pytest.mark.parametrize("moved", ["not", "by offsets", "by inputs"])
def test_equals_the_sequential_smoother(served, z_dim, x_dim, T, shape, moved):
    ssm = random_ssm(z_dim, x_dim, u_dim=2 if moved == "by inputs" else 0, seed=z_dim)
    ssm = ssm if moved == "by offsets" else ssm.replace(m=None, n=None)
    u = torch.randn(*shape[1:], T, 2, dtype=torch.float64) if moved == "by inputs" else None
    x = torch.randn(*shape, T, x_dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    got, wanted = (kalman_smoother(ssm, x, u, method=method) for method in ("parallel", "sequential"))
    assert served == [True]
    assert [value.shape for value in got] == [value.shape for value in wanted]
    assert torch.equal(got.covariance, got.covariance.mT)
    assert max(errors(got, wanted)) < 1e-12


@pytest.mark.parametrize("eigenvalue", [0.0, 0.9, 1.0, 1.05])
@pytest.mark.parametrize("noise", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("units", [1.0, 1e6])
def test_levels_of_any_kind_and_unit(served, eigenvalue, noise, units):
    """A level that stays, returns, walks or explodes, beside a second state in other units."""
    A = torch.tensor([[eigenvalue, 1.0 / units], [0.0, 0.5]], dtype=torch.float64)
    Q = torch.tensor([1.0, units**2], dtype=torch.float64).diag()
    C, R = torch.tensor([[1.0, 0.3 / units]], dtype=torch.float64), torch.tensor([[noise]], dtype=torch.float64)
    ssm = LinearGaussianSSM(A, C, Q, R, mu_1=torch.zeros(2).double(), Lambda_1=2 * Q)
    x = torch.randn(1200, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64).cumsum(0)
    got, wanted = (kalman_smoother(ssm, x, method=method) for method in ("parallel", "sequential"))
    assert served == [True]
    assert max(errors(got, wanted)) < 1e-10


def test_a_mask_of_one_pattern_serves(served):
    """A sensor that never reports, and a mask that leaves out nothing."""
    ssm, T = random_ssm(3, 3, seed=2), 300
    x = data(ssm, T, 2)
    silent = x.clone()
    silent[..., 1] = torch.nan
    for value, mask in ((silent, None), (x, torch.ones(T, 3, dtype=torch.bool).expand(2, -1, -1))):
        got, wanted = (kalman_smoother(ssm, value, mask=mask, method=m) for m in ("parallel", "sequential"))
        assert served.pop()
        assert max(errors(got, wanted)) < 1e-12


def test_series_that_start_elsewhere_share_it(served):
    ssm = random_ssm(3, 2, seed=4)
    starts = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ssm = ssm.replace(mu_1=100 * starts)
    x = data(ssm, 400)
    got, wanted = (kalman_smoother(ssm, x, method=method) for method in ("parallel", "sequential"))
    assert served == [True]
    assert got.covariance.stride(0) == 0
    assert max(errors(got, wanted)) < 1e-12


def test_in_float32_it_is_that_of_float64_rounded(served):
    ssm = random_ssm(3, 2, seed=3).to(torch.float32)
    x = data(ssm, 500)
    low, high = (kalman_smoother(m, v, method="parallel") for m, v in ((ssm, x), (ssm.to(torch.float64), x.double())))
    assert served == [True, True]
    for a, b in zip(low, high, strict=True):
        assert torch.equal(a, b.float())


# ---- to how many digits ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variance", [1.0, 1e4, 1e10, 1e14])
@pytest.mark.parametrize("offset", [0.0, 1e4])
@pytest.mark.parametrize("trend", [False, True])
def test_from_a_vague_first_state_it_keeps_all_digits(served, trend, offset, variance):
    A = torch.tensor([[1.0, 1.0], [0.0, 1.0]]).double() if trend else torch.eye(1).double()
    I = torch.eye(len(A)).double()
    ssm = LinearGaussianSSM(A, I[:1], 0.125 * I, I[:1, :1], mu_1=0 * A[0], Lambda_1=variance * I)
    g = torch.Generator().manual_seed(0)
    x = torch.randn(160, 1, generator=g, dtype=torch.float64).cumsum(0) + offset
    got, exact = kalman_smoother(ssm, x, method="parallel"), smooth_in_80_digits(ssm, x)
    assert served == [True]
    mean, covariance, cross = errors(got, exact)
    assert max(covariance, cross) < 1e-13
    assert float((got.mean - exact.mean).abs().max()) < 1e-13 * (1 + 10 * offset)
    assert mean < 1e-13 * (1 + offset)  # a slope near zero beside a level of 10,000


def test_precise_observations_of_noisy_states(served):
    """What is left of the steady variances is small: it must not come from a difference."""
    g = torch.Generator().manual_seed(0)
    A, I = 0.9 * torch.linalg.qr(torch.randn(2, 2, generator=g).double()).Q, torch.eye(2).double()
    ssm = LinearGaussianSSM(A, I, I, 1e-3 * I, mu_1=0 * I[0], Lambda_1=I)
    x = data(ssm, 100)
    got, exact = kalman_smoother(ssm, x, method="parallel"), smooth_in_80_digits(ssm, x)
    assert served == [True]
    assert max(errors(got, exact)) < 1e-12


# ---- where it must not -------------------------------------------------------------------------------------------


def one(value: float) -> Tensor:
    return torch.full((1, 1), value, dtype=torch.float64)


REFUSED = {
    "a level that never moves": LinearGaussianSSM(one(1), one(1), one(0), one(1), mu_1=one(0)[0], Lambda_1=one(1)),
    "a level that hardly moves": LinearGaussianSSM(one(1), one(1), one(1e-8), one(1), mu_1=one(0)[0], Lambda_1=one(1)),
    "a first state that is known": random_ssm(2, 2, seed=1).replace(Lambda_1=torch.zeros(2, 2).double()),
    "a level that is observed almost exactly": LinearGaussianSSM(
        one(1), one(1), one(1), one(1e-12), mu_1=one(0)[0], Lambda_1=one(1)
    ),
    "a state that walks unseen": LinearGaussianSSM(
        torch.tensor([1.0, 0.5]).double().diag(), torch.tensor([[0.0, 1.0]]).double(), torch.eye(2).double(), one(1),
        mu_1=torch.zeros(2).double(), Lambda_1=torch.eye(2).double(),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_it_leaves_the_rest_to_the_recursions(served, case):
    ssm = REFUSED[case]
    x = torch.randn(300, ssm.x_dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    got, wanted = (kalman_smoother(ssm, x, method=method) for method in ("parallel", "sequential"))
    assert served == [False]
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("case", ["gaps", "per step", "several models", "short"])
def test_it_is_not_asked_where_matrices_change(served, case):
    ssm, T = random_ssm(2, 2, seed=6), 200
    x = data(ssm, T)
    if case == "gaps":
        x[50:60] = torch.nan
    elif case == "per step":
        ssm = ssm.replace(A=ssm.A.expand(T, -1, -1))
    elif case == "several models":
        ssm = random_ssm(2, 2, batch=(2,), seed=6)
    else:
        x = x[:20]
    got, wanted = (kalman_smoother(ssm, x, method=method) for method in ("parallel", "sequential"))
    assert served == []
    assert max(errors(got, wanted)) < 1e-11


@pytest.mark.parametrize("name", ["A", "C", "Lambda", "Sigma", "mu_1", "Lambda_1", "m", "x"])
def test_gradients_are_those_of_the_recursions(served, name):
    ssm = random_ssm(2, 2, seed=7)
    x = data(ssm, 150)
    gradients = []
    for method in ("parallel", "sequential"):
        leaf = (x if name == "x" else getattr(ssm, name)).clone().requires_grad_()
        model = ssm if name == "x" else ssm.replace(**{name: leaf})
        result = kalman_smoother(model, leaf if name == "x" else x, method=method)
        sum(value.square().sum() for value in result if value.requires_grad).backward()
        gradients.append(leaf.grad)
    assert served == []
    torch.testing.assert_close(*gradients, atol=1e-9, rtol=1e-9)
    with torch.no_grad():
        assert not kalman_smoother(model, x, method="parallel").mean.requires_grad
    assert served == [True]


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # forward mode's own
def test_derivatives_forwards_are_those_of_the_recursions_too(served):
    ssm = random_ssm(2, 2, seed=8)
    x = data(ssm, 120)

    def mean(method: str, scale: Tensor) -> Tensor:
        return kalman_smoother(ssm.replace(A=scale * ssm.A, validate_args=False), x, method=method).mean

    unit = torch.ones((), dtype=torch.float64)
    slopes = [
        torch.func.jvp(lambda s, m=method: mean(m, s), (unit,), (unit,))[1] for method in ("parallel", "sequential")
    ]
    assert served == []
    torch.testing.assert_close(*slopes, atol=1e-9, rtol=1e-9)
