"""Derivatives, which are written by hand in `recursions`, against finite differences and against plain recursions."""

import pytest
import torch
from brute_force import random_ssm
from torch import Tensor

from dvae_lib.statespace import (
    LinearGaussianSSM,
    kalman_filter,
    kalman_smoother,
    log_likelihood,
    sample,
    sample_posterior,
)

METHODS = ("sequential", "parallel")
COVARIANCES = ("Lambda", "Sigma", "Lambda_1")


def as_function(ssm: LinearGaussianSSM, infer, x: Tensor, u: Tensor | None = None):
    """`infer` as a function of all parameters and of x; covariances through a factor, to stay symmetric."""
    names = [name for name, _ in ssm.parameters()]
    values = [torch.linalg.cholesky(v) if name in COVARIANCES else v for name, v in ssm.parameters()]

    def function(x, *values):
        given = dict(zip(names, values, strict=True))
        given |= {name: given[name] @ given[name].mT for name in COVARIANCES}
        return infer(LinearGaussianSSM(**given), x, u)

    return function, [v.clone().requires_grad_() for v in (x, *values)]


INFERENCES = {
    "filter": lambda method: lambda ssm, x, u: tuple(kalman_filter(ssm, x, u, method=method)),
    "smoother": lambda method: lambda ssm, x, u: tuple(kalman_smoother(ssm, x, u, method=method)),
    "posterior sample": lambda method: (
        lambda ssm, x, u: sample_posterior(
            ssm, x, u, method=method, sample_shape=(2,), generator=torch.Generator().manual_seed(0)
        )
    ),
}


def inferred_from_seen_values(ssm, inference, T, *, missing):
    """An inference as a function of what is seen and of the model's parameters, and a point to differentiate it at."""
    g = torch.Generator().manual_seed(1)
    x = torch.randn(2, T, 2, generator=g, dtype=torch.float64)
    u = torch.randn(T, 1, generator=g, dtype=torch.float64)
    if missing:
        x[0, 1] = x[1, 2, 0] = torch.nan
    mask = ~x.isnan()
    function, inputs = as_function(ssm, inference, x, u)
    inputs[0] = x.nan_to_num().requires_grad_()
    return lambda x, *rest: function(torch.where(mask, x, torch.nan), *rest), inputs


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", INFERENCES)
@pytest.mark.parametrize("case", ["constant", "per step", "batch of models", "missing"])
def test_gradcheck(method, name, case):
    T = 4
    batch = (2,) if case == "batch of models" else ()
    ssm = random_ssm(2, 2, steps=T if case in ("per step", "missing") else None, u_dim=1, batch=batch, seed=2)
    hidden, inputs = inferred_from_seen_values(ssm, INFERENCES[name](method), T, missing=case == "missing")
    torch.autograd.gradcheck(hidden, inputs, fast_mode=True, atol=1e-6)


def test_the_sampler_is_reparameterised():
    ssm = random_ssm(2, 2, u_dim=1, seed=3)
    u = torch.randn(4, 1, dtype=torch.float64)
    infer = lambda ssm, x, u: tuple(sample(ssm, 4, u, generator=torch.Generator().manual_seed(0)))  # noqa: E731
    function, inputs = as_function(ssm, infer, torch.zeros(1, dtype=torch.float64), u)
    torch.autograd.gradcheck(lambda *values: function(inputs[0], *values), inputs[1:], fast_mode=True)


def textbook_log_likelihood(A: Tensor, C: Tensor, Lambda: Tensor, Sigma: Tensor, x: Tensor) -> Tensor:
    """The covariance form, differentiated by autograd."""
    mean, P, total = x.new_zeros(A.shape[0]), torch.eye(A.shape[0], dtype=x.dtype), x.new_zeros(())
    for t, value in enumerate(x):
        if t:
            mean, P = A @ mean, A @ P @ A.mT + Lambda
        S = C @ P @ C.mT + Sigma
        total = total + torch.distributions.MultivariateNormal(C @ mean, S).log_prob(value)
        K = torch.linalg.solve(S, C @ P).mT
        mean, P = mean + K @ (value - C @ mean), P - K @ C @ P
    return total


@pytest.mark.parametrize("method", METHODS)
def test_gradients_over_a_long_series_equal_those_of_the_textbook(method):
    """Long enough for the covariances to be repeated instead of computed."""
    ssm = random_ssm(3, 2, seed=4)
    x = sample(ssm, 400, generator=torch.Generator().manual_seed(0)).x
    parameters = [v.clone().requires_grad_() for v in (ssm.A, ssm.C, ssm.Lambda, ssm.Sigma)]
    expected = torch.autograd.grad(textbook_log_likelihood(*parameters, x), parameters)
    zero = torch.zeros(3, dtype=torch.float64)
    model = LinearGaussianSSM(*parameters, mu_1=zero, Lambda_1=torch.eye(3, dtype=torch.float64))
    got = torch.autograd.grad(log_likelihood(model, x, method=method), parameters)
    for name, a, b in zip(("A", "C", "Lambda", "Sigma"), got, expected, strict=True):
        if name in COVARIANCES:  # only the symmetric part means anything
            a, b = (a + a.mT) / 2, (b + b.mT) / 2
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("method", METHODS)
def test_gradients_stay_finite_where_covariances_are_singular(method):
    """A state without noise of its own, known from the start: the derivative of its factor does not exist."""
    Lambda = torch.tensor([1.0, 0.0], dtype=torch.float64).diag()
    A = torch.tensor([[0.9, 0.2], [0.0, 1.0]], dtype=torch.float64, requires_grad=True)
    C = torch.tensor([[1.0, 0.5]], dtype=torch.float64, requires_grad=True)
    ssm = LinearGaussianSSM(
        A, C, Lambda, torch.eye(1).double(), mu_1=torch.ones(2).double(), Lambda_1=torch.zeros(2, 2).double()
    )
    x = sample(ssm, 30, generator=torch.Generator().manual_seed(0)).x.detach()

    def objective(A: Tensor, C: Tensor) -> Tensor:
        model = ssm.replace(A=A, C=C)
        return log_likelihood(model, x, method=method) + kalman_smoother(model, x, method=method).mean.square().sum()

    torch.autograd.gradcheck(objective, (A, C))


def test_gradients_of_a_long_float32_series_are_finite():
    ssm = random_ssm(4, 2, seed=5).to(torch.float32).replace(Lambda=torch.tensor([1e-6, 1e-3, 1.0, 1e2]).diag())
    x = sample(ssm, 3000, sample_shape=(2,), generator=torch.Generator().manual_seed(0)).x
    parameters = dict(ssm.map(lambda v: v.clone().requires_grad_()).parameters())
    model = LinearGaussianSSM(**parameters)
    (log_likelihood(model, x).sum() + sample_posterior(model, x).square().mean()).backward()
    for name, value in parameters.items():
        assert bool(torch.isfinite(value.grad).all()), name


# Forward mode makes PyTorch compile its decompositions in a way of which it warns itself.
FORWARD_MODE = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")

# ---- second derivatives ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", INFERENCES)
@pytest.mark.parametrize("case", ["constant", "batch of models", "missing"])
def test_second_derivatives(method, name, case):
    T = 3
    batch = (2,) if case == "batch of models" else ()
    ssm = random_ssm(2, 2, steps=T if case == "missing" else None, u_dim=1, batch=batch, seed=2)
    hidden, inputs = inferred_from_seen_values(ssm, INFERENCES[name](method), T, missing=case == "missing")
    torch.autograd.gradgradcheck(hidden, inputs, fast_mode=True, atol=1e-5)


def noisy_walk(method: str = "sequential"):
    """The log-likelihood of a walk as a function of the log-variances of its two noises."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(60, 1, generator=g, dtype=torch.float64).cumsum(0)
    x = x + torch.randn(60, 1, generator=g, dtype=torch.float64)
    one = torch.eye(1, dtype=torch.float64)

    def value(logvar: Tensor) -> Tensor:
        q, r = logvar.exp()
        ssm = LinearGaussianSSM(0.9 * one, one, q * one, r * one, mu_1=0 * one[0], Lambda_1=2 * one)
        return log_likelihood(ssm, x, method=method)

    return value


def numerical_hessian(value, at: Tensor, h: float = 1e-3) -> Tensor:
    e = h * torch.eye(len(at), dtype=at.dtype)
    rows = [[value(at + a + b) - value(at + a - b) - value(at - a + b) + value(at - a - b) for b in e] for a in e]
    return torch.tensor([[float(entry) for entry in row] for row in rows], dtype=at.dtype) / (4 * h * h)


@FORWARD_MODE
@pytest.mark.parametrize("method", METHODS)
def test_every_way_to_the_hessian(method, as_a_user):
    """`torch.func` nests forward and backward mode in each other, in both orders."""
    value, at = noisy_walk(method), torch.tensor([0.3, -0.2], dtype=torch.float64)
    expected = numerical_hessian(value, at)
    assert float(torch.linalg.eigvalsh(expected).max()) < 0  # so there are standard errors
    f = torch.func
    ways = {
        "torch.autograd.functional.hessian": lambda: torch.autograd.functional.hessian(value, at),
        "hessian": lambda: f.hessian(value)(at),
        "reverse over reverse": lambda: f.jacrev(f.grad(value))(at),
        "forward over forward": lambda: f.jacfwd(f.jacfwd(value))(at),
        "reverse over forward": lambda: f.jacrev(f.jacfwd(value))(at),
    }
    for name, way in ways.items():
        torch.testing.assert_close(way(), expected, atol=1e-4, rtol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


@FORWARD_MODE
def test_transforms_do_not_hide_each_other(as_a_user):
    """The inner transform sees the first mean alone, of which the covariances know nothing."""
    x = torch.randn(8, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    one = torch.eye(1, dtype=torch.float64)

    def value(both: Tensor) -> Tensor:
        ssm = LinearGaussianSSM(one, one, both[1].exp() * one, one, mu_1=both[:1], Lambda_1=one)
        return log_likelihood(ssm, x) + kalman_smoother(ssm, x).mean.square().sum()

    split = lambda mean, logvar: value(torch.stack([mean, logvar]))  # noqa: E731
    at = torch.tensor([0.5, -0.5], dtype=torch.float64)
    expected = numerical_hessian(value, at)[0, 1]
    for outer in (torch.func.jacrev, torch.func.jacfwd):
        for inner in (torch.func.jacrev, torch.func.jacfwd):
            torch.testing.assert_close(outer(inner(split, 0), 1)(*at), expected, atol=1e-5, rtol=1e-5)


@FORWARD_MODE
def test_forward_mode_through_all_that_is_inferred(as_a_user):
    ssm = random_ssm(2, 1, batch=(3,), seed=6)
    x = torch.randn(3, 5, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def everything(scale: Tensor) -> Tensor:
        model = ssm.replace(A=scale * ssm.A, Lambda=scale * ssm.Lambda, validate_args=False)
        parts = [*kalman_filter(model, x), *kalman_smoother(model, x)]
        return torch.cat([part.flatten() for part in parts])

    one = torch.ones((), dtype=torch.float64)
    h = 1e-5
    numerical = (everything(one + h) - everything(one - h)) / (2 * h)
    torch.testing.assert_close(torch.func.jacfwd(everything)(one), numerical, atol=1e-7, rtol=1e-7)
    torch.testing.assert_close(torch.func.jacrev(everything)(one), numerical, atol=1e-7, rtol=1e-7)


def test_vmap_is_answered_with_a_sentence(as_a_user):
    ssm = random_ssm(1, 1, seed=6)
    x = torch.zeros(3, 5, 1, dtype=torch.float64)
    with pytest.raises(RuntimeError, match="take batches themselves"):
        torch.func.vmap(lambda x: log_likelihood(ssm, x))(x)
    with pytest.raises(RuntimeError, match="take batches themselves"):
        torch.func.vmap(lambda v: log_likelihood(ssm.replace(Sigma=v * ssm.Sigma, validate_args=False), x))(x[:, 0, 0])
    with pytest.raises(RuntimeError, match="take batches themselves"):
        torch.func.vmap(lambda v: ssm.replace(Sigma=v * ssm.Sigma))(x[:, 0, 0])


def test_second_derivatives_after_the_covariances_have_become_steady():
    ssm = random_ssm(2, 1, seed=4)
    x = sample(ssm, 200, generator=torch.Generator().manual_seed(0)).x
    zero, eye = torch.zeros(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64)

    def ours(scale: Tensor) -> Tensor:
        model = LinearGaussianSSM(scale * ssm.A, ssm.C, ssm.Lambda, ssm.Sigma, mu_1=zero, Lambda_1=eye)
        return log_likelihood(model, x)

    def textbook(scale: Tensor) -> Tensor:
        return textbook_log_likelihood(scale * ssm.A, ssm.C, ssm.Lambda, ssm.Sigma, x)

    one = torch.ones((), dtype=torch.float64)
    hessian = torch.autograd.functional.hessian
    torch.testing.assert_close(hessian(ours, one), hessian(textbook, one), rtol=1e-8, atol=1e-8)
