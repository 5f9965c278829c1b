"""What does not fit is refused at the door, with what was expected and what came."""

import pytest
import torch
from brute_force import random_ssm

from dvae_lib.statespace import (
    LinearGaussianSSM,
    fit_components,
    fit_em,
    forecast,
    kalman_filter,
    kalman_smoother,
    level,
    log_likelihood,
    sample,
    sample_posterior,
)

INFER = (kalman_filter, kalman_smoother, log_likelihood, sample_posterior)


def parts(**changes):
    eye = torch.eye(2, dtype=torch.float64)
    return {
        "A": eye, "C": eye[:1], "Lambda": eye, "Sigma": eye[:1, :1], "mu_1": eye[0], "Lambda_1": eye,
    } | changes  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"Lambda": torch.tensor([[1.0, 0.5], [0.0, 1.0]]).double()}, ValueError, "Lambda must be symmetric"),
        (
            {"Lambda": torch.tensor([[1.0, 2.0], [2.0, 1.0]]).double()},
            ValueError,
            "Lambda must be positive semi-definite",
        ),
        ({"Sigma": -torch.eye(1).double()}, ValueError, "Sigma must be positive semi-definite"),
        ({"Lambda_1": torch.tensor([[1.0, 2.0], [2.0, 1.0]]).double()}, ValueError, "eigenvalue -1"),
        ({"A": torch.full((2, 2), torch.nan).double()}, ValueError, r"A must be finite, got nan at index \(0, 0\)"),
        ({"mu_1": torch.tensor([0.0, torch.inf]).double()}, ValueError, "mu_1 must be finite, got inf"),
        ({"A": torch.eye(3).double()}, ValueError, r"A must end in \(2, 2\)"),
        ({"C": torch.ones(1, 3).double()}, ValueError, r"C must end in \(1, 2\)"),
        ({"Sigma": torch.eye(2).double()}, ValueError, r"Sigma must end in \(1, 1\)"),
        ({"m": torch.ones(3).double()}, ValueError, r"m must end in \(2,\)"),
        ({"A": torch.eye(2)}, TypeError, "share one dtype"),
        ({"A": torch.eye(2, dtype=torch.int64)}, TypeError, "floating-point"),
        ({"A": torch.eye(2).double().expand(3, 2, 2), "m": torch.ones(4, 2).double()}, ValueError, "agree in length"),
        ({"A": torch.eye(2).double().expand(5, 4, 2, 2)}, ValueError, "more than one dimension beyond"),
        (
            {"mu_1": torch.zeros(3, 2).double(), "A": torch.eye(2).double().expand(5, 2, 2)},
            ValueError,
            r"do not broadcast.*A\[None\]",
        ),
    ],
)
def test_models_that_cannot_be(changes, error, message, as_a_user):
    with pytest.raises(error, match=message):
        LinearGaussianSSM(**parts(**changes))


def test_rounding_is_no_asymmetry():
    Lambda = torch.tensor([[2.0, 1.0], [1.0 + 1e-15, 2.0]], dtype=torch.float64)
    LinearGaussianSSM(**parts(Lambda=Lambda))


def test_checks_of_values_can_be_turned_off():
    LinearGaussianSSM(**parts(Sigma=-torch.eye(1).double()), validate_args=False)


@pytest.mark.parametrize("infer", INFER)
@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (torch.zeros(0, 1).double(), ValueError, "no frames.*mu_1"),
        (torch.zeros(5, 2).double(), ValueError, r"x must have shape \(\*batch, T, 1\)"),
        (torch.zeros(5).double(), ValueError, r"x must have shape"),
        (torch.zeros(5, 1), TypeError, r"x is torch.float32.*\.to\("),
        (torch.zeros(5, 1, dtype=torch.int64), TypeError, "floating-point"),
        (torch.full((5, 1), torch.inf).double(), ValueError, r"x must be finite, or NaN where missing"),
    ],
)
def test_observations_that_do_not_fit(infer, x, error, message, as_a_user):
    with pytest.raises(error, match=message):
        infer(LinearGaussianSSM(**parts()), x)


def test_sizes_that_do_not_fit_each_other(as_a_user):
    x = torch.zeros(5, 1, dtype=torch.float64)
    ssm = LinearGaussianSSM(**parts())
    with pytest.raises(ValueError, match="have 4 steps, 5 are asked for"):
        kalman_filter(ssm.replace(A=ssm.A.expand(4, 2, 2)), x)
    with pytest.raises(ValueError, match="no B for u"):
        kalman_filter(ssm, x, torch.zeros(5, 1, dtype=torch.float64))
    driven = ssm.replace(B=torch.ones(2, 1, dtype=torch.float64))
    with pytest.raises(ValueError, match="needs the input u"):
        kalman_filter(driven, x)
    with pytest.raises(ValueError, match=r"u must have shape \(\*batch, 5, 1\)"):
        kalman_filter(driven, x, torch.zeros(4, 1, dtype=torch.float64))
    with pytest.raises(ValueError, match="u must be finite"):
        kalman_filter(driven, x, torch.full((5, 1), torch.nan, dtype=torch.float64))
    with pytest.raises(TypeError, match="u is torch"):
        kalman_filter(driven, x, torch.zeros(5, 1))
    with pytest.raises(ValueError, match="do not broadcast"):
        kalman_filter(random_ssm(2, 1, batch=(3,)), x.expand(2, 5, 1))
    with pytest.raises(ValueError, match='"sequential" or "parallel"'):
        kalman_filter(ssm, x, method="fast")


def test_masks_that_do_not_fit(as_a_user):
    x, ssm = torch.zeros(2, 5, 1, dtype=torch.float64), LinearGaussianSSM(**parts())
    with pytest.raises(TypeError, match="boolean"):
        kalman_filter(ssm, x, mask=torch.ones(2, 5))
    for shape in ((5,), (2, 4), (3, 5), (2, 5, 2), (1, 2, 5, 1)):
        with pytest.raises(ValueError, match="mask must have shape"):
            kalman_filter(ssm, x, mask=torch.ones(shape, dtype=torch.bool))


def test_a_likelihood_without_density():
    """Two sensors without noise that read the same."""
    eye = torch.eye(2, dtype=torch.float64)
    ssm = LinearGaussianSSM(**parts(C=torch.ones(2, 2).double(), Sigma=0 * eye))
    for method in ("sequential", "parallel"):
        with pytest.raises(ValueError, match="is singular"):
            kalman_filter(ssm, torch.zeros(4, 2, dtype=torch.float64), method=method)
    x = torch.zeros(4, 2, dtype=torch.float64)
    x[:, 1] = torch.nan
    assert bool(torch.isfinite(log_likelihood(ssm, x)))


def test_the_parallel_method_says_when_it_cannot():
    eye = torch.eye(2, dtype=torch.float64)
    ssm = LinearGaussianSSM(
        **parts(Lambda=eye.diag().mul(torch.tensor([0.0, 1.0])).diag(), Sigma=torch.zeros(1, 1).double())
    )
    with pytest.raises(ValueError, match=r"parallel.*sequential"):
        kalman_filter(ssm, torch.zeros(4, 1, dtype=torch.float64), method="parallel")


def test_lengths_that_cannot_be():
    ssm = random_ssm(2, 2)
    with pytest.raises(ValueError, match="num_steps must be at least 1"):
        sample(ssm, 0)
    with pytest.raises(ValueError, match="horizon must be at least 1"):
        forecast(ssm, torch.zeros(3, 2, dtype=torch.float64), 0)
    with pytest.raises(ValueError, match="have 3 steps, 4 are asked for"):
        sample(random_ssm(2, 2, steps=3), 4)


def test_one_step_has_no_cross_covariance():
    ssm = random_ssm(2, 2)
    smoothed = kalman_smoother(ssm, torch.zeros(3, 1, 2, dtype=torch.float64))
    assert smoothed.cross_covariance.shape == (3, 0, 2, 2)


def test_models_describe_and_copy_themselves():
    ssm = random_ssm(2, 1, steps=4, u_dim=3, batch=(5,))
    assert repr(ssm) == "LinearGaussianSSM(z_dim=2, x_dim=1, u_dim=3, batch_shape=(5,), num_steps=4)"
    assert ssm.to(torch.float32).dtype == torch.float32
    assert torch.equal(ssm.replace(Sigma=2 * ssm.Sigma).Sigma, 2 * ssm.Sigma)
    assert ssm.replace(m=None).m is None


def test_numbers_that_count():
    ssm, x = LinearGaussianSSM(**parts()), torch.zeros(9, 1).double()
    calls = {
        "horizon": lambda n: forecast(ssm, x, n),
        "num_steps": lambda n: sample(ssm, n),
        "num_iterations": lambda n: fit_em(ssm, x, num_iterations=n),
    }
    for name, call in calls.items():
        with pytest.raises(ValueError, match=f"{name} must be a whole number, got True"):
            call(True)
        with pytest.raises(ValueError, match=f"{name} must be at least [01], got -1"):
            call(-1)
    with pytest.raises(ValueError, match="num_iterations must be at least 1, got -1"):
        fit_components(level(), x, num_iterations=-1)
    for tolerance in (-1.0, float("nan")):
        with pytest.raises(ValueError, match="tolerance must be a number of at least 0"):
            fit_em(ssm, x, tolerance=tolerance)
