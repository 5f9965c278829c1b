"""Filter and likelihood by the gains of the steady state: where they serve, where not, and to how many digits."""

import pytest
import torch
from brute_force import infer, random_ssm
from test_steady import REFUSED, data
from torch import Tensor

from dvae_lib.statespace import FilterResult, LinearGaussianSSM, kalman, kalman_filter, log_likelihood

EXACT = {"atol": 1e-9, "rtol": 1e-9}


@pytest.fixture
def served(monkeypatch) -> list[str]:
    """For each call that leaves the choice to the library: "at once", "after a head", or "not"."""
    calls: list[str] = []
    original = kalman._steady_start

    def watched(problem):
        start = original(problem)
        if problem.asked == "auto":
            calls.append("not" if start is None else "at once" if start.head is None else "after a head")
        else:
            assert start is None
        return start

    monkeypatch.setattr(kalman, "_steady_start", watched)
    return calls


def errors(got: FilterResult, wanted: FilterResult) -> float:
    """The largest: of means beside their size and deviation, of covariances beside the deviations, of likelihoods."""
    largest = [float(((got.log_likelihood - wanted.log_likelihood) / wanted.log_likelihood).abs().max())]
    for (mean, covariance), (true_mean, true_covariance) in zip(
        (got[:2], got[2:4]), (wanted[:2], wanted[2:4]), strict=True
    ):
        sd = true_covariance.diagonal(dim1=-2, dim2=-1).sqrt()
        largest.append(float(((mean - true_mean).abs() / (sd + true_mean.abs()).clamp(min=1e-300)).max()))
        scale = (sd.unsqueeze(-1) * sd.unsqueeze(-2)).clamp(min=1e-300)
        largest.append(float(((covariance - true_covariance).abs() / scale).max()))
    return max(largest)


def both(ssm: LinearGaussianSSM, x: Tensor, u: Tensor | None = None) -> tuple[FilterResult, FilterResult]:
    got, wanted = kalman_filter(ssm, x, u), kalman_filter(ssm, x, u, method="sequential")
    torch.testing.assert_close(log_likelihood(ssm, x, u), got.log_likelihood, atol=0, rtol=1e-13)
    assert [value.shape for value in got] == [value.shape for value in wanted]
    return got, wanted


@pytest.mark.parametrize("T", [64, 71])
@pytest.mark.parametrize(("z_dim", "x_dim"), [(1, 1), (2, 1), (3, 2), (2, 4)])
@pytest.mark.parametrize("start", ["at once", "after a head"])
def test_equals_the_conditioned_joint_gaussian(served, z_dim, x_dim, T, start):
    ssm = random_ssm(z_dim, x_dim, u_dim=1, seed=11)
    ssm = ssm.replace(A=0.4 * ssm.A)  # a short memory, for the joint Gaussian of few steps
    ssm = ssm if start == "at once" else ssm.replace(Lambda_1=torch.zeros_like(ssm.Lambda_1))
    u = torch.randn(T, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = data(ssm, T, u=u)
    truth, filtered = infer(ssm, x, u), kalman_filter(ssm, x, u)
    assert served == [start]
    torch.testing.assert_close(filtered.mean, truth.filtered_mean, **EXACT)
    torch.testing.assert_close(filtered.covariance, truth.filtered_covariance, **EXACT)
    torch.testing.assert_close(filtered.predicted_mean, truth.predicted_mean, **EXACT)
    torch.testing.assert_close(filtered.predicted_covariance, truth.predicted_covariance, **EXACT)
    torch.testing.assert_close(filtered.log_likelihood, truth.log_likelihood, **EXACT)


@pytest.mark.parametrize("shape", [(), (2, 3)])
@pytest.mark.parametrize(("z_dim", "x_dim", "T"), [(1, 1, 700), (4, 2, 512), (7, 3, 601), (20, 2, 900)])
@pytest.mark.parametrize("moved", ["not", "by offsets", "by inputs"])
@pytest.mark.parametrize("start", ["at once", "after a head"])
def test_equals_the_sequential_filter(served, z_dim, x_dim, T, shape, moved, start):
    ssm = random_ssm(z_dim, x_dim, u_dim=2 if moved == "by inputs" else 0, seed=z_dim)
    ssm = ssm if moved == "by offsets" else ssm.replace(m=None, n=None)
    ssm = ssm if start == "at once" else ssm.replace(Lambda_1=1e6 * ssm.Lambda_1)
    u = torch.randn(*shape[1:], T, 2, dtype=torch.float64) if moved == "by inputs" else None
    x = torch.randn(*shape, T, x_dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    got, wanted = both(ssm, x, u)
    assert served == 2 * [start]
    assert errors(got, wanted) < 1e-12


@pytest.mark.parametrize("eigenvalue", [0.0, 0.9, 1.0, 1.05])
@pytest.mark.parametrize("noise", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("units", [1.0, 1e6])
@pytest.mark.parametrize("first", [0.0, 2.0, 1e8])
def test_levels_of_any_kind_unit_and_start(served, eigenvalue, noise, units, first):
    """A level that stays, returns, walks or explodes, beside a second state in other units."""
    A = torch.tensor([[eigenvalue, 1.0 / units], [0.0, 0.5]], dtype=torch.float64)
    Q = torch.tensor([1.0, units**2], dtype=torch.float64).diag()
    C, R = torch.tensor([[1.0, 0.3 / units]], dtype=torch.float64), torch.tensor([[noise]], dtype=torch.float64)
    ssm = LinearGaussianSSM(A, C, Q, R, mu_1=torch.zeros(2).double(), Lambda_1=first * Q)
    x = torch.randn(1200, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64).cumsum(0)
    got, wanted = both(ssm, x)
    assert served == 2 * ["at once" if first == 2 else "after a head"]
    assert errors(got, wanted) < 1e-11


@pytest.mark.parametrize("variance", [1.0, 1e4, 1e10, 1e14])
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_a_trend_from_a_vague_start(served, offset, variance):
    A, I = torch.tensor([[1.0, 1.0], [0.0, 1.0]]).double(), torch.eye(2).double()
    ssm = LinearGaussianSSM(A, I[:1], 0.125 * I, I[:1, :1], mu_1=0 * A[0], Lambda_1=variance * I)
    x = torch.randn(160, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64).cumsum(0) + offset
    got, wanted = both(ssm, x)
    assert served == 2 * ["at once" if variance == 1 else "after a head"]
    assert errors(got, wanted) < (1e-10 if offset else 1e-12)  # a slope near zero beside a level of 10,000


def test_the_likelihood_has_the_last_digits_of_a_long_memory(served):
    """What is forgotten in squares, to half of the digits, is still there in the sums."""
    angle = torch.tensor(0.1, dtype=torch.float64)
    A = 0.97 * torch.stack([torch.stack([angle.cos(), -angle.sin()]), torch.stack([angle.sin(), angle.cos()])])
    I = torch.eye(2).double()
    ssm = LinearGaussianSSM(A, I[:1], 1e-3 * I, I[:1, :1], mu_1=3 * I[0], Lambda_1=I)
    got, wanted = both(ssm, data(ssm, 2000, 3))
    assert served == 2 * ["at once"]
    assert errors(got, wanted) < 1e-13


def test_a_sensor_that_never_reports(served):
    ssm = random_ssm(3, 3, seed=2)
    x = data(ssm, 300, 2)
    x[..., 1] = torch.nan
    got, wanted = both(ssm, x)
    assert served == 2 * ["at once"]
    assert errors(got, wanted) < 1e-12


def test_series_share_their_covariances_and_start_where_they_start(served):
    ssm = random_ssm(3, 2, seed=4)
    ssm = ssm.replace(mu_1=100 * torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    for first in (ssm.Lambda_1, 0 * ssm.Lambda_1):
        got, wanted = both(ssm.replace(Lambda_1=first), data(ssm, 400))
        assert got.covariance.stride(0) == got.predicted_covariance.stride(0) == 0
        assert errors(got, wanted) < 1e-12
    assert served == 2 * ["at once"] + 2 * ["after a head"]


@pytest.mark.parametrize("variance", [1.0, 1e8])
def test_in_float32_it_is_that_of_float64_rounded(served, variance):
    ssm = random_ssm(3, 2, seed=3).to(torch.float32)
    ssm = ssm.replace(Lambda_1=variance * ssm.Lambda_1)
    x = data(ssm, 500)
    for a, b in zip(kalman_filter(ssm, x), kalman_filter(ssm.to(torch.float64), x.double()), strict=True):
        assert a.dtype == torch.float32
        assert torch.equal(a, b.float())
    assert served == 2 * ["at once" if variance == 1 else "after a head"]


@pytest.mark.parametrize("case", REFUSED)
def test_it_leaves_the_rest_to_the_recursions(served, case):
    ssm = REFUSED[case]
    x = torch.randn(300, ssm.x_dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    got, wanted = both(ssm, x)
    assert served == 2 * ["after a head" if case == "a first state that is known" else "not"]
    assert errors(got, wanted) < 1e-9


@pytest.mark.parametrize("T", [31, 32, 40, 63])
def test_series_about_as_long_as_the_memory(T):
    for seed in range(6):
        ssm = random_ssm(2, 2, seed=seed)
        for first in (0.0, 1.0, 1e8):
            own = ssm.replace(A=0.1 * (1 + seed) * ssm.A, Lambda_1=first * ssm.Lambda_1)
            assert errors(*both(own, data(own, T))) < 1e-11
