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


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", INFERENCES)
@pytest.mark.parametrize("case", ["constant", "per step", "batch of models", "missing"])
def test_gradcheck(method, name, case):
    T = 4
    batch = (2,) if case == "batch of models" else ()
    ssm = random_ssm(2, 2, steps=T if case in ("per step", "missing") else None, u_dim=1, batch=batch, seed=2)
    g = torch.Generator().manual_seed(1)
    x = torch.randn(2, T, 2, generator=g, dtype=torch.float64)
    u = torch.randn(T, 1, generator=g, dtype=torch.float64)
    if case == "missing":
        x[0, 1] = x[1, 2, 0] = torch.nan
    mask = ~x.isnan()
    function, inputs = as_function(ssm, INFERENCES[name](method), x, u)
    hidden = lambda x, *rest: function(torch.where(mask, x, torch.nan), *rest)  # noqa: E731
    inputs[0] = x.nan_to_num().requires_grad_()
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


def test_a_second_derivative_is_refused_rather_than_wrong():
    ssm = random_ssm(2, 1, seed=6)
    A = ssm.A.clone().requires_grad_()
    value = log_likelihood(ssm.replace(A=A), torch.zeros(5, 1, dtype=torch.float64))
    (gradient,) = torch.autograd.grad(value, A, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        gradient.sum().backward()
