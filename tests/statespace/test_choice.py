"""Where nobody names a method, the library takes the fastest one, and it gives the numbers of the sequential one."""

import pytest
import torch
from brute_force import random_ssm
from torch import Tensor

from dvae_lib.statespace import (
    LinearGaussianSSM,
    fit_em,
    forecast,
    kalman,
    kalman_filter,
    kalman_smoother,
    log_likelihood,
    recursions,
    sample,
    sample_posterior,
)
from dvae_lib.statespace.choice import LEAST_STEPS, MOST_STATES, chosen

CPU, ELSEWHERE = torch.device("cpu"), torch.device("meta")
INFERENCES = {
    "filter": lambda ssm, x, u, **how: kalman_filter(ssm, x, u, **how),
    "smoother": lambda ssm, x, u, **how: kalman_smoother(ssm, x, u, **how),
    "likelihood": lambda ssm, x, u, **how: [log_likelihood(ssm, x, u, **how)],
    "posterior sample": lambda ssm, x, u, **how: [
        sample_posterior(ssm, x, u, generator=torch.Generator().manual_seed(0), **how)
    ],
}


@pytest.fixture
def taken(monkeypatch) -> list[str]:
    """What was called on the way: the steady smoother or filter that had an answer, or the general recursion."""
    calls: list[str] = []

    def watch(name: str, label) -> None:
        original = getattr(kalman, name)

        def watched(*arguments):
            result = original(*arguments)
            if result is not None:
                calls.append(label(*arguments))
            return result

        monkeypatch.setattr(kalman, name, watched)

    watch("smooth_steady", lambda *_: "steady smoother")
    watch("_steady_start", lambda *_: "steady filter")
    watch("riccati_factors", lambda *arguments: arguments[-1])
    return calls


def numbers(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def case(name: str) -> tuple[LinearGaussianSSM, Tensor, Tensor | None]:
    """A model, a series and inputs of the name."""
    T = {"one step": 1, "two steps": 2, "short": 20}.get(name, 250)
    driven = name in ("inputs", "inputs and gaps")
    ssm = random_ssm(2, 2, u_dim=1 if driven else 0, batch=(3,) if name == "several models" else (), seed=6)
    x, u = numbers(3, T, 2), numbers(T, 1) if driven else None
    if "gaps" in name:
        x[0, 5:9] = x[2, 40:70, 0] = torch.nan
    if name == "the same gaps":
        x[:, 3] = torch.nan
    if name == "a vague start":
        ssm = ssm.replace(Lambda_1=1e10 * torch.eye(2).double())
    if name == "a known start":
        ssm = ssm.replace(Lambda_1=torch.zeros(2, 2).double())
    if name == "per step":
        ssm = ssm.replace(A=ssm.A + 0.1 * numbers(T, 2, 2))
    if name == "nearly a unit root":
        ssm = ssm.replace(A=torch.tensor([[1 - 1e-9, 1.0], [0.0, 0.3]]).double())
    if name == "float32":
        ssm, x = ssm.to(torch.float32), x.float()
    if name == "white noise":
        ssm, x = random_ssm(1, 1, seed=6).replace(A=torch.zeros(1, 1).double()), x[..., :1]
    if name == "forgets in two steps":
        ssm = ssm.replace(A=torch.tensor([[0.0, 1.0], [0.0, 0.0]]).double())
    if name == "one state, three sensors":
        ssm, x = random_ssm(1, 3, seed=6), numbers(3, T, 3)
    if name == "three states, one sensor":
        ssm, x = random_ssm(3, 1, seed=6), x[..., :1]
    return ssm, x, u


CASES = (
    "constant", "inputs", "one step", "two steps", "short", "gaps", "the same gaps", "inputs and gaps", "per step",
    "several models", "a vague start", "a known start", "nearly a unit root", "float32",
    "white noise", "forgets in two steps", "one state, three sensors", "three states, one sensor",
)  # fmt: skip


@pytest.mark.parametrize("name", INFERENCES)
@pytest.mark.parametrize("given", CASES)
def test_the_default_gives_the_numbers_of_the_sequential_method(name, given):
    ssm, x, u = case(given)
    got, wanted = INFERENCES[name](ssm, x, u), INFERENCES[name](ssm, x, u, method="sequential")
    for a, b in zip(got, wanted, strict=True):
        assert a.dtype == x.dtype
        tolerance = 1e-10 if x.dtype == torch.float64 else 1e-6
        torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("given", [name for name in CASES if name not in ("one step", "per step", "several models")])
def test_so_does_the_forecast(given):
    ssm, x, u = case(given)
    u = None if u is None else torch.cat([u, numbers(4, 1)])
    # A matrix that is given per step, though it is the same: then what lies ahead counts as missing.
    per_step = ssm.replace(A=ssm.A.expand(x.shape[-2] + 4, *ssm.A.shape))
    wanted = forecast(per_step, x, 4, u, method="sequential")
    for method in ("auto", "sequential", "parallel"):
        for a, b in zip(forecast(ssm, x, 4, u, method=method), wanted, strict=True):
            tolerance = 1e-10 if x.dtype == torch.float64 else 1e-6
            assert a.shape == b.shape
            torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("batch", [(), (3,)])
def test_a_forecast_has_the_gradients_of_one_step_after_the_other(batch):
    ssm, x, u = random_ssm(2, 2, u_dim=1, batch=batch, seed=8), numbers(3, 40, 2), numbers(44, 1)
    gradients = []
    for spread in (lambda A: A, lambda A: A.unsqueeze(-3).expand(*batch, 44, 2, 2)):
        leaves = [value.clone().requires_grad_() for value in (ssm.A, ssm.B, ssm.m, ssm.Sigma)]
        A, B, m, Sigma = leaves
        ahead = forecast(ssm.replace(A=spread(A), B=B, m=m, Sigma=Sigma), x, 4, u)
        sum(value.square().sum() for value in ahead).backward()
        gradients.append([leaf.grad for leaf in leaves])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize(
    ("given", "name", "wanted"),
    [
        ("constant", "filter", ["steady filter"]),
        ("constant", "smoother", ["steady smoother"]),
        ("constant", "likelihood", ["steady filter"]),
        ("constant", "posterior sample", ["steady smoother"]),
        ("inputs", "smoother", ["steady smoother"]),
        ("float32", "smoother", ["steady smoother"]),
        ("a vague start", "smoother", ["steady smoother"]),
        ("a vague start", "filter", ["sequential", "steady filter"]),
        ("a known start", "filter", ["sequential", "steady filter"]),
        ("a known start", "smoother", ["parallel"]),
        ("short", "filter", ["sequential"]),
        ("short", "smoother", ["sequential"]),
        ("two steps", "smoother", ["sequential"]),
        ("gaps", "filter", ["parallel"]),
        ("per step", "smoother", ["parallel"]),
        ("several models", "likelihood", ["parallel"]),
    ],
)
def test_which_way_is_taken(taken, given, name, wanted):
    INFERENCES[name](*case(given))
    assert taken == wanted


def test_the_rule():
    def at(T: int, models: int, z_dim: int, device: torch.device = CPU) -> str:
        return chosen("auto", num_steps=T, models=models, z_dim=z_dim, device=device)

    assert at(LEAST_STEPS, 1, MOST_STATES) == at(LEAST_STEPS, MOST_STATES // 2, 2) == "parallel"
    assert at(LEAST_STEPS - 1, 1, 1) == at(10**6, MOST_STATES // 2 + 1, 2) == "sequential"
    assert at(2, 100, 8, ELSEWHERE) == "parallel"
    for method in ("sequential", "parallel"):
        assert chosen(method, num_steps=9, models=9, z_dim=9, device=CPU) == method


@pytest.mark.parametrize("name", INFERENCES)
@pytest.mark.parametrize("parameter", ["A", "C", "Lambda", "Sigma", "mu_1", "Lambda_1", "m", "n", "x"])
def test_gradients_flow_by_default(taken, name, parameter):
    ssm, x, _ = case("constant")
    gradients = []
    for how in ({}, {"method": "sequential"}):
        leaf = (x if parameter == "x" else getattr(ssm, parameter)).clone().requires_grad_()
        model = ssm if parameter == "x" else ssm.replace(**{parameter: leaf})
        result = INFERENCES[name](model, leaf if parameter == "x" else x, None, **how)
        sum(value.square().sum() for value in result if value.requires_grad).backward()
        gradients.append(leaf.grad)
    assert taken == ["parallel", "sequential"]
    torch.testing.assert_close(*gradients, atol=1e-9, rtol=1e-9)
    with torch.no_grad():
        INFERENCES[name](model, x, None)
    assert taken[2:] in (["steady filter"], ["steady smoother"])


def test_every_iteration_of_em_takes_it(taken):
    ssm, x, _ = case("constant")
    found = fit_em(ssm, x, num_iterations=3, tolerance=0.0)
    assert len(found.log_likelihoods) == 4
    assert taken == 4 * ["steady smoother", "steady filter"]
    slow = fit_em(ssm, x, num_iterations=3, tolerance=0.0, method="sequential")
    torch.testing.assert_close(found.log_likelihoods, slow.log_likelihoods, atol=0, rtol=1e-11)
    for (name, a), (_, b) in zip(found.ssm.parameters(), slow.ssm.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-9, msg=lambda text, name=name: f"{name}: {text}")


def test_where_the_scan_cannot_the_library_does_not_ask_for_it(taken):
    """An autoregression, observed without noise: what the scan combines is singular, the filter's innovations not."""
    A = torch.tensor([[0.5, 0.3], [1.0, 0.0]], dtype=torch.float64)
    C, noise = torch.tensor([[0.0, 1.0]], dtype=torch.float64), torch.tensor([1.0, 0.0]).double().diag()
    ssm = LinearGaussianSSM(
        A, C, noise, torch.zeros(1, 1).double(), mu_1=torch.zeros(2).double(), Lambda_1=torch.eye(2).double()
    )
    x = sample(ssm, 200, generator=torch.Generator().manual_seed(0)).x
    with pytest.raises(ValueError, match=r"parallel.*sequential"):
        kalman_filter(ssm, x, method="parallel")
    torch.testing.assert_close(log_likelihood(ssm, x), log_likelihood(ssm, x, method="sequential"), atol=0, rtol=1e-12)
    assert recursions.riccati_factors is not kalman.riccati_factors  # it was watched
    assert taken == ["sequential", "sequential"]


def test_no_series_are_no_trouble():
    ssm, x, _ = case("constant")
    for method in ("auto", "sequential"):
        assert kalman_filter(ssm, x[:0], method=method).covariance.shape == (0, 250, 2, 2)
        assert kalman_smoother(ssm, x[:0], method=method).mean.shape == (0, 250, 2)
        assert log_likelihood(ssm, x[:0], method=method).shape == (0,)
        assert forecast(ssm, x[:0], 3, method=method).mean.shape == (0, 3, 2)
