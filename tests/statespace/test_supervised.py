"""Fits to known states: against least squares, the joint density's own gradient, and refusals."""

import numpy as np
import pytest
import torch

from dvae_lib.statespace import LinearGaussianSSM, NormalPrior, fit_em, fit_supervised, sample
from dvae_lib.statespace.model import in_double

pytestmark = pytest.mark.usefixtures("as_a_user")
D = torch.float64
TRUE = LinearGaussianSSM(
    torch.tensor([[0.9, 0.2], [-0.1, 0.7]], dtype=D),
    torch.tensor([[1.0, 0.0], [0.5, 1.0], [0.0, 2.0]], dtype=D),
    torch.tensor([[0.4, 0.1], [0.1, 0.3]], dtype=D),
    torch.diag(torch.tensor([0.1, 0.2, 0.3], dtype=D)),
    mu_1=torch.tensor([3.0, -1.0], dtype=D),
    Lambda_1=torch.eye(2, dtype=D),
    B=torch.tensor([[1.0], [0.5]], dtype=D),
    m=torch.tensor([0.3, -0.2], dtype=D),
    n=torch.tensor([5.0, 0.0, -5.0], dtype=D),
)
BLANK = LinearGaussianSSM(**{
    name: torch.eye(len(value), dtype=D) if name in ("Lambda", "Sigma", "Lambda_1") else torch.zeros_like(value)
    for name, value in TRUE.parameters()
})  # fmt: skip


def drawn(series=5, frames=60):
    generator = torch.Generator().manual_seed(0)
    u = torch.randn(series, frames, 1, generator=generator, dtype=D)
    u[:, 0] = 0
    found = sample(TRUE, frames, u=u, generator=generator)
    return found.x, found.z, u


def joint(ssm, x, z, u):
    """log p(x, z) of what is observed."""
    first = torch.distributions.MultivariateNormal(ssm.mu_1 + u[..., 0, :] @ ssm.B.mT, ssm.Lambda_1)
    mean = z[..., :-1, :] @ ssm.A.mT + u[..., 1:, :] @ ssm.B.mT + ssm.m
    steps = torch.distributions.MultivariateNormal(mean, ssm.Lambda)
    total = first.log_prob(z[..., 0, :]).sum() + steps.log_prob(z[..., 1:, :]).sum()
    for x_t, z_t in zip(x.reshape(-1, 3), z.reshape(-1, 2), strict=True):
        seen = ~x_t.isnan()
        if seen.any():
            mean = (z_t @ ssm.C.mT + ssm.n)[seen]
            total = total + torch.distributions.MultivariateNormal(mean, ssm.Sigma[seen][:, seen]).log_prob(x_t[seen])
    return total


def slopes(ssm, x, z, u, **options):
    leaves = {name: value.clone().requires_grad_() for name, value in ssm.parameters()}
    value = joint(ssm.replace(validate_args=False, **leaves), x, z, u)
    return dict(zip(leaves, torch.autograd.grad(value, list(leaves.values())), strict=True))


def test_is_least_squares():
    x, z, u = drawn()
    found = fit_supervised(BLANK, x, z, u)
    w = torch.cat([z[:, :-1], u[:, 1:], torch.ones_like(u[:, 1:])], -1).reshape(-1, 4).numpy()
    y = z[:, 1:].reshape(-1, 2).numpy()
    W, *_ = np.linalg.lstsq(w, y, rcond=None)
    np.testing.assert_allclose(torch.cat([found.A, found.B, found.m[:, None]], 1).numpy(), W.T, rtol=1e-9)
    np.testing.assert_allclose(found.Lambda.numpy(), (y - w @ W).T @ (y - w @ W) / len(y), rtol=1e-9)
    np.testing.assert_allclose(found.mu_1.numpy(), z[:, 0].mean(0).numpy(), rtol=1e-12)


def test_no_slope_is_left_and_no_start_matters():
    x, z, u = drawn()
    found = fit_supervised(BLANK, x, z, u)
    assert all(slope.abs().max() < 1e-7 for slope in slopes(found, x, z, u).values())
    again = fit_supervised(TRUE, x, z, u)
    for name, value in found.parameters():
        torch.testing.assert_close(getattr(again, name), value, rtol=1e-10, atol=1e-12)


def test_no_slope_is_left_where_observations_are_missing():
    x, z, u = drawn(series=3, frames=40)
    x[0, 3:9, 1] = x[1, 5] = x[2, -4:] = torch.nan
    found = fit_supervised(TRUE, x, z, u)
    assert all(slope.abs().max() < 1e-6 for slope in slopes(found, x, z, u).values())


def test_no_slope_is_left_at_entries_that_are_free():
    x, z, u = drawn()
    kept = {"A": torch.tensor([[False, True], [False, False]]), "C": torch.eye(3, 2) == 1}
    found = fit_supervised(TRUE, x, z, u, kept=kept)
    left = slopes(found, x, z, u)
    assert found.A[0, 1] == TRUE.A[0, 1]
    assert all(left[name][~stays].abs().max() < 1e-6 for name, stays in kept.items())
    assert left["A"][0, 1].abs() > 1e-3


def test_a_prior_balances_the_slope():
    x, z, u = drawn()
    found = fit_supervised(TRUE, x, z, u, priors={"A": NormalPrior(0.0, 0.05)})
    torch.testing.assert_close(slopes(found, x, z, u)["A"], found.A / 0.05**2, rtol=1e-6, atol=1e-6)


def test_series_of_different_lengths():
    x, z, u = drawn(series=2)
    names = ("A", "B", "m", "Lambda", "C", "n", "Sigma")
    found = fit_supervised(BLANK, [x[0], x[1, :20]], [z[0], z[1, :20]], [u[0], u[1, :20]], update=names)
    leaves = {name: getattr(found, name).clone().requires_grad_() for name in names}
    ssm = found.replace(validate_args=False, **leaves)
    total = joint(ssm, x[0], z[0], u[0]) + joint(ssm, x[1, :20], z[1, :20], u[1, :20])
    assert all(slope.abs().max() < 1e-7 for slope in torch.autograd.grad(total, list(leaves.values())))


def test_frames_after_the_last_observation_teach_the_transition():
    x, z, u = drawn(series=1)
    x[:, 30:] = torch.nan
    whole, half = (fit_supervised(BLANK, x[:, :n], z[:, :n], u[:, :n]) for n in (60, 30))
    torch.testing.assert_close(whole.C, half.C)
    assert not torch.allclose(whole.A, half.A)


def test_em_with_next_to_no_noise_comes_to_the_same():
    _, z, u = drawn(series=1, frames=300)
    eye = torch.eye(2, dtype=D)
    start = {"mu_1": torch.zeros(2, dtype=D), "Lambda_1": eye, "B": 0 * TRUE.B, "m": 0 * TRUE.m}
    seen = LinearGaussianSSM(0 * eye, eye, eye, 1e-10 * eye, **start)
    names = ("A", "B", "m", "Lambda")
    by_em = fit_em(seen, z, u, update=names, num_iterations=20, tolerance=0).ssm
    by_hand = fit_supervised(seen, z, z, u, update=names)
    for name in names:
        torch.testing.assert_close(getattr(by_em, name), getattr(by_hand, name), rtol=1e-5, atol=1e-6)


def test_other_dtypes_and_arrays():
    x, z, u = drawn()
    found = fit_supervised(BLANK.to(torch.float32), x.float(), z.float(), u.float())
    assert found.dtype == torch.float32
    torch.testing.assert_close(
        in_double(found).A, fit_supervised(BLANK, x.numpy(), z.numpy(), u.numpy()).A, atol=1e-5, rtol=0
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, z, u: (x, z[:, 1:], u), "a state for each frame"),
        (lambda x, z, u: (x, z[..., :1], u), "a state for each frame"),
        (lambda x, z, u: (x, z.index_fill(1, torch.tensor([3]), torch.nan), u), "known and finite"),
        (lambda x, z, u: (x, torch.full_like(z, torch.inf), u), "known and finite"),
        (lambda x, z, u: (x, torch.ones_like(z), u), "do not tell"),
    ],
)
def test_refusals(change, message):
    with pytest.raises(ValueError, match=message):
        fit_supervised(BLANK, *change(*drawn()))
