"""Expectation-maximisation: every iteration climbs, and equals that of an independent library."""

import numpy as np
import pytest
import torch
from brute_force import random_ssm

from dvae_lib.statespace import LinearGaussianSSM, fit_em, local_level, log_likelihood, sample


def start(ssm: LinearGaussianSSM, **changes: torch.Tensor) -> LinearGaussianSSM:
    """A poor first guess of the sizes of `ssm`."""
    eye = lambda n: torch.eye(n, dtype=torch.float64)  # noqa: E731
    return ssm.replace(A=0.5 * eye(ssm.z_dim), Lambda=eye(ssm.z_dim), Sigma=eye(ssm.x_dim), **changes)


def assert_climbs(values: torch.Tensor) -> None:
    assert bool((values.diff() > -1e-7).all())
    assert float(values[-1]) > float(values[0]) + 1


@pytest.mark.parametrize("case", ["one series", "batch", "inputs", "missing", "per step", "diagonal", "parallel"])
def test_the_likelihood_never_falls(case):
    T = 25
    ssm = random_ssm(2, 3, u_dim=2 if case == "inputs" else 0, seed=1)
    g = torch.Generator().manual_seed(0)
    u = torch.randn(4, T, 2, generator=g, dtype=torch.float64) if case == "inputs" else None
    if u is not None:
        u[:, 0] = 0
    shape = () if case in ("one series", "inputs") else (4,)
    x = sample(ssm, T, u, sample_shape=shape, generator=g).x
    update, diagonal = None, ()
    guess = start(ssm)
    if case == "missing":
        x = x.masked_fill(torch.rand(x.shape, generator=g) < 0.4, torch.nan)
        x[0, 3] = torch.nan
    if case == "per step":
        guess = guess.replace(C=ssm.C + 0.1 * torch.randn(T, 3, 2, generator=g, dtype=torch.float64))
        update = ("A", "m", "Lambda", "Sigma", "n")
    if case == "diagonal":
        diagonal = ("Lambda", "Sigma", "Lambda_1")
    method = "parallel" if case == "parallel" else "sequential"
    result = fit_em(guess, x, u, update=update, diagonal=diagonal, num_iterations=15, method=method)
    assert_climbs(result.log_likelihoods)
    for name in diagonal:
        value = getattr(result.ssm, name)
        assert torch.equal(value, value.diagonal().diag())
    torch.testing.assert_close(log_likelihood(result.ssm, x, u).sum(), result.log_likelihoods[-1])


@pytest.mark.parametrize("names", [("A",), ("Lambda",), ("C",), ("n",), ("m", "Sigma"), ("B",), ("mu_1", "Lambda_1")])
def test_every_parameter_climbs_alone(names):
    ssm = random_ssm(2, 2, u_dim=1, seed=2)
    g = torch.Generator().manual_seed(1)
    u = torch.randn(20, 1, generator=g, dtype=torch.float64)
    u[0] = 0
    x = sample(ssm, 20, u, sample_shape=(5,), generator=g).x
    wrong = {name: getattr(ssm, name) * 0.5 + (0.3 if name in ("mu_1", "m", "n", "B", "C") else 0) for name in names}
    result = fit_em(ssm.replace(**wrong), x, u, update=names, num_iterations=5, tolerance=0.0)
    assert bool((result.log_likelihoods.diff() > -1e-9).all())
    assert float(result.log_likelihoods[-1]) > float(result.log_likelihoods[0])
    for name, value in result.ssm.parameters():
        assert name in names or torch.equal(value, getattr(ssm, name))


def test_one_iteration_equals_that_of_pykalman():
    from pykalman import KalmanFilter

    ssm = random_ssm(2, 2, seed=3)
    x = sample(ssm, 60, generator=torch.Generator().manual_seed(0)).x
    guess = start(ssm)
    names = ["A", "C", "Lambda", "Sigma", "m", "n", "mu_1", "Lambda_1"]
    peer = KalmanFilter(
        *(getattr(guess, name).numpy() for name in names),
        em_vars=["transition_matrices", "observation_matrices", "transition_covariance", "observation_covariance",
                 "initial_state_mean"],
    )  # fmt: skip
    # pykalman updates A and m, and C and n, one after the other instead of together, so the offsets stay.
    peer.em(x.numpy(), n_iter=1)
    got = fit_em(guess, x, update=("A", "C", "Lambda", "Sigma", "mu_1"), num_iterations=1, tolerance=0.0).ssm
    np.testing.assert_allclose(got.A, peer.transition_matrices, atol=1e-8)
    np.testing.assert_allclose(got.C, peer.observation_matrices, atol=1e-8)
    np.testing.assert_allclose(got.Lambda, peer.transition_covariance, atol=1e-8)
    np.testing.assert_allclose(got.Sigma, peer.observation_covariance, atol=1e-8)
    np.testing.assert_allclose(got.mu_1, peer.initial_state_mean, atol=1e-8)


def test_a_stationary_point_has_no_gradient():
    """Where EM stops, the derivative of the likelihood vanishes: two ways to the same optimum."""
    one = torch.eye(1, dtype=torch.float64)
    level = LinearGaussianSSM(one, one, one, 2 * one, mu_1=0 * one[0], Lambda_1=10 * one)
    x = sample(level, 80, generator=torch.Generator().manual_seed(3)).x
    fitted = fit_em(level, x, update=("Lambda", "Sigma"), num_iterations=400, tolerance=1e-14).ssm
    variances = [fitted.Lambda.clone().requires_grad_(), fitted.Sigma.clone().requires_grad_()]
    value = log_likelihood(fitted.replace(Lambda=variances[0], Sigma=variances[1]), x)
    for gradient in torch.autograd.grad(value, variances):
        assert float(gradient.abs()) < 1e-3


def test_missing_components_leave_the_optimum_where_it_is():
    """Where EM stops, the likelihood of what is observed has no gradient in the noise of what is half missing."""
    ssm = random_ssm(1, 2, seed=7)
    g = torch.Generator().manual_seed(0)
    x = sample(ssm, 40, sample_shape=(3,), generator=g).x
    x = x.masked_fill(torch.rand(x.shape, generator=g) < 0.4, torch.nan)
    fitted = fit_em(ssm, x, update=("Sigma", "C"), num_iterations=150, tolerance=1e-13).ssm
    factor = torch.linalg.cholesky(fitted.Sigma).requires_grad_()
    C = fitted.C.clone().requires_grad_()
    value = log_likelihood(fitted.replace(Sigma=factor @ factor.mT, C=C), x).sum()
    for gradient in torch.autograd.grad(value, (factor, C)):
        assert float(gradient.abs().max()) < 0.5  # nats per unit; 14 if the covariance of what is missing is left out


def test_the_nile():
    """The variances of Durbin and Koopman (2012), Section 2.2.5, for the local level of the Nile's yearly flow."""
    from statsmodels.datasets import nile

    flow = torch.tensor(nile.load_pandas().data["volume"].to_numpy(), dtype=torch.float64).unsqueeze(-1)
    one = torch.eye(1, dtype=torch.float64)
    level = LinearGaussianSSM(one, one, 2e3 * one, 2e4 * one, mu_1=0 * one[0], Lambda_1=1e7 * one)
    fitted = fit_em(level, flow, update=("Lambda", "Sigma"), num_iterations=150, tolerance=1e-11).ssm
    assert abs(float(fitted.Sigma) / 15099 - 1) < 5e-3
    assert abs(float(fitted.Lambda) / 1469.1 - 1) < 2e-2


def test_em_stops_when_it_gains_nothing():
    ssm = random_ssm(1, 1, seed=4)
    x = sample(ssm, 30, sample_shape=(3,)).x
    assert fit_em(ssm, x, num_iterations=5000, tolerance=1e-6).converged
    short = fit_em(ssm, x, num_iterations=2, tolerance=0.0)
    assert len(short.log_likelihoods) == 3
    assert not short.converged


@pytest.mark.parametrize("T", [1, 2])
def test_em_on_the_shortest_series(T):
    ssm = random_ssm(2, 2, seed=5)
    x = sample(ssm, T, sample_shape=(50,)).x
    update = ("mu_1", "Lambda_1", "Sigma") if T == 1 else None
    assert bool((fit_em(start(ssm), x, update=update, num_iterations=5).log_likelihoods.diff() > -1e-7).all())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"update": ("Q",)}, "Unknown parameters"),
        ({"update": ("B",)}, "The model has no B"),
        ({"diagonal": ("A",)}, "diagonal may hold"),
    ],
)
def test_em_says_what_is_wrong(arguments, message):
    ssm = random_ssm(2, 2)
    with pytest.raises(ValueError, match=message):
        fit_em(ssm, torch.zeros(5, 2, dtype=torch.float64), **arguments)


def test_em_refuses_models_it_cannot_fit():
    x = torch.zeros(2, 5, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match="without batch dimensions"):
        fit_em(random_ssm(2, 2, batch=(2,)), x)
    with pytest.raises(ValueError, match="A is given per step"):
        fit_em(random_ssm(2, 2, steps=5), x, update=("A",))
    with pytest.raises(ValueError, match="first input"):
        fit_em(random_ssm(2, 2, u_dim=1), x, torch.ones(5, 1, dtype=torch.float64), update=("B",))


# ---- offsets, float32, data without noise ------------------------------------------------------------------------


def noisy_level() -> torch.Tensor:
    g = torch.Generator().manual_seed(3)
    level = torch.randn(300, 1, generator=g, dtype=torch.float64).cumsum(0) * 0.3
    return level + 0.5 * torch.randn(300, 1, generator=g, dtype=torch.float64)


@pytest.fixture(scope="module")
def without_offset():
    one = torch.eye(1, dtype=torch.float64)
    start = LinearGaussianSSM(one, one, one, one, mu_1=torch.zeros(1).double(), Lambda_1=1e4 * one)
    return fit_em(start, noisy_level(), update=("Lambda", "Sigma"), num_iterations=200)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("offset", [0.0, 300.0, 1e3, 3e3, 1e4, 1e6])
def test_an_offset_changes_no_variance(without_offset, offset, dtype):
    one = torch.eye(1, dtype=dtype)
    start = LinearGaussianSSM(one, one, one, one, mu_1=torch.full((1,), offset, dtype=dtype), Lambda_1=1e4 * one)
    x = (noisy_level() + offset).to(dtype)
    fitted = fit_em(start, x, update=("Lambda", "Sigma"), num_iterations=200)
    assert fitted.converged
    assert fitted.ssm.dtype == dtype
    assert bool((fitted.log_likelihoods.diff() > 0).all())
    # Rounding the data to float32 is a noise of its own, of variance (spacing of the numbers)^2 / 12.
    spacing = float(np.spacing(np.float32(offset + 10))) if dtype == torch.float32 else 0.0
    for name in ("Lambda", "Sigma"):
        got, expected = (float(getattr(ssm, name)) for ssm in (fitted.ssm, without_offset.ssm))
        assert abs(got - expected) < 1e-5 + 2 * spacing**2 + 0.02 * spacing, name


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_offsets_in_all_parameters(offset):
    """Slopes and offsets of both regressions are fitted together; C z + n can hold an offset in n alone."""
    ssm = random_ssm(2, 3, seed=1)
    x = sample(ssm, 60, sample_shape=(4,), generator=torch.Generator().manual_seed(0)).x
    plain = fit_em(start(ssm), x, num_iterations=30, tolerance=0.0)
    moved = fit_em(start(ssm, n=ssm.n + offset), x + offset, num_iterations=30, tolerance=0.0)
    torch.testing.assert_close(moved.log_likelihoods, plain.log_likelihoods, atol=1e-5, rtol=0)
    for name, value in plain.ssm.parameters():
        expected = value + offset if name == "n" else value
        torch.testing.assert_close(getattr(moved.ssm, name), expected, atol=1e-6, rtol=1e-9)


def repeated_sensor() -> tuple[LinearGaussianSSM, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    e2, e3 = torch.eye(2, dtype=torch.float64), torch.eye(3, dtype=torch.float64)
    C = torch.randn(3, 2, generator=g, dtype=torch.float64)
    ssm = LinearGaussianSSM(0.8 * e2, C, e2, e3, mu_1=torch.zeros(2).double(), Lambda_1=e2)
    return ssm, sample(ssm, 200, generator=torch.Generator().manual_seed(2)).x[:, [0, 0, 2]]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("data", ["one sensor twice", "constant"])
def test_data_without_noise_end_with_a_model_and_a_reason(data, dtype):
    ssm, x = repeated_sensor()
    ssm, x = ssm.to(dtype), (x if data == "one sensor twice" else torch.ones_like(x)).to(dtype)
    fitted = fit_em(ssm, x, num_iterations=200)
    assert not fitted.converged
    assert "min_variance" in fitted.reason
    assert bool(torch.isfinite(log_likelihood(fitted.ssm.replace(), x)))
    floor = fit_em(ssm, x, num_iterations=200, min_variance=1e-4)
    assert bool((floor.log_likelihoods.diff() >= 0).all())
    assert float(floor.log_likelihoods[-1]) > float(fitted.log_likelihoods[-1]) + 100
    for name in ("Lambda", "Sigma"):
        assert float(torch.linalg.eigvalsh(getattr(floor.ssm, name).double()).min()) > 0.99e-4
    assert abs(float(log_likelihood(floor.ssm, x)) / float(floor.log_likelihoods[-1]) - 1) < 1e-3


def test_a_start_below_the_floor_is_raised():
    ssm = local_level(1e-8, 1.0)
    fitted = fit_em(ssm, noisy_level(), min_variance=0.3, num_iterations=50)
    assert abs(float(fitted.ssm.Lambda) - 0.3) < 1e-12
    assert bool((fitted.log_likelihoods.diff() >= 0).all())
    with pytest.raises(ValueError, match="min_variance must be positive"):
        fit_em(ssm, noisy_level(), min_variance=0.0)


def test_a_fall_is_no_convergence(monkeypatch):
    """An M step that goes wrong ends the iterations with the better model."""
    from dvae_lib.statespace import em

    right = em.m_step
    calls = []

    def spoilt(*arguments):
        calls.append(None)
        changes = right(*arguments)
        return {name: 5 * value for name, value in changes.items()} if len(calls) == 4 else changes

    monkeypatch.setattr(em, "m_step", spoilt)
    fitted = fit_em(local_level(1.0, 1.0), noisy_level(), update=("Lambda", "Sigma"))
    assert not fitted.converged
    assert "lower the log-likelihood" in fitted.reason
    assert len(fitted.log_likelihoods) == 4
    torch.testing.assert_close(log_likelihood(fitted.ssm, noisy_level()), fitted.log_likelihoods[-1])


def test_a_local_level_stays_one():
    start = local_level(1.0, 1.0)
    fitted = fit_em(start, noisy_level()).ssm
    assert torch.equal(fitted.A, start.A)
    assert torch.equal(fitted.C, start.C)
    assert float(fitted.Lambda) < 0.2
    asked = fit_em(start, noisy_level(), update=("A", "Lambda", "Sigma")).ssm
    assert not torch.equal(asked.A, start.A)
    with pytest.raises(ValueError, match="fixed names unknown parameters"):
        LinearGaussianSSM(*(start.A,) * 4, mu_1=start.mu_1, Lambda_1=start.Lambda_1, fixed=("F",))


def test_one_name_needs_no_list():
    x = noisy_level()
    one, several = (
        fit_em(local_level(1.0, 1.0), x, update=names, num_iterations=3).ssm for names in ("Sigma", ["Sigma"])
    )
    assert torch.equal(one.Sigma, several.Sigma)
    assert torch.equal(one.Lambda, torch.eye(1, dtype=torch.float64))
    ssm = random_ssm(1, 2, seed=3)
    x = sample(ssm, 20).x
    fitted = fit_em(ssm, x, update="Sigma", diagonal="Sigma", num_iterations=2).ssm
    assert torch.equal(fitted.Sigma, fitted.Sigma.diagonal().diag())


def test_a_list_of_series_is_a_padded_batch():
    ssm = random_ssm(2, 2, seed=3)
    series = [sample(ssm, T, generator=torch.Generator().manual_seed(T)).x for T in (9, 14, 5)]
    padded = torch.full((3, 14, 2), torch.nan, dtype=torch.float64)
    for i, values in enumerate(series):
        padded[i, : len(values)] = values
    expected = fit_em(start(ssm), padded, num_iterations=3)
    for given in (series, [values.numpy() for values in series]):
        got = fit_em(start(ssm), given, num_iterations=3)
        assert torch.equal(got.log_likelihoods, expected.log_likelihoods)
