"""The cost of an inference structure: against a free optimisation, closed forms and brute force."""

import pytest
import torch
from torch.distributions import MultivariateNormal, kl_divergence

from dvae_lib import DKF, DependencySpec
from dvae_lib.statespace import (
    BestInference,
    LinearGaussianSSM,
    best_inference,
    gaussian_path,
    kalman_smoother,
    log_likelihood,
    structure_cost,
    visible,
)

STRUCTURES = ["x_t", "x_{t-1:t+1}", "x_{1:t}", "x_{1:T}", "z_{t-1}, x_t", "z_{t-1}, x_{1:t}", "z_{1:t-1}, x_{t:t+1}"]


def matrix(*rows):
    return torch.tensor(rows).double()


def level(wander=0.2, noise=1.0):
    one = torch.ones(1, 1).double()
    return LinearGaussianSSM(
        0.9 * one, matrix([1.0], [-0.5]), wander * one, noise * torch.eye(2).double(),
        mu_1=torch.zeros(1).double(), Lambda_1=2 * one,
    )  # fmt: skip


def spec(parents):
    return DependencySpec("z_t ~ z_{t-1}\nx_t ~ z_t", f"z_t ~ {parents}")


def free_optimum(path, sees_z, sees_x):
    """The least gap over all weights and variances, by L-BFGS on the divergence written out."""
    a, b = torch.zeros(path.precision.shape).double(), torch.zeros(path.gain.shape).double()
    v = torch.zeros(len(a)).double()
    free = [p.requires_grad_() for p in (a, b, v)]
    optimiser = torch.optim.LBFGS(
        free, max_iter=4000, tolerance_grad=1e-12, tolerance_change=1e-15, line_search_fn="strong_wolfe"
    )

    def gap():
        return path.gap(BestInference(0.0, 0.0, a * sees_z, b * sees_x, v.exp()))

    def closure():
        optimiser.zero_grad()
        loss = gap()
        loss.backward()
        return loss

    optimiser.step(closure)
    return gap().item()


@pytest.mark.parametrize("parents", STRUCTURES)
def test_no_other_q_of_the_structure_is_better(parents):
    path, masks = gaussian_path(level(), 6), visible(spec(parents), 6, x_dim=2)
    found = best_inference(path, *masks)
    assert found.total == pytest.approx(free_optimum(path, *masks), abs=1e-7)
    assert path.gap(found).item() == pytest.approx(found.total, abs=1e-9)
    assert not found.latent_weights[~masks[0]].any()
    assert not found.data_weights[~masks[1]].any()


def test_exact_structures_cost_nothing():
    for parents in ("z_{t-1}, x_{t:T}", "z_{t-1}, x_{1:T}"):
        cost = structure_cost(level(), spec(parents), 8)
        assert cost.total == pytest.approx(0, abs=1e-9)


def test_gap_is_the_average_divergence():
    """Brute force: the divergence of two Gaussians, over many data from the model."""
    path, masks = gaussian_path(level(), 4), visible(spec("z_{t-1}, x_t"), 4, x_dim=2)
    q = best_inference(path, *masks)
    x = MultivariateNormal(torch.zeros(8).double(), path.data_covariance).sample((20_000,))
    response = torch.linalg.inv(torch.eye(4).double() - q.latent_weights)
    ours = MultivariateNormal(
        x @ (response @ q.data_weights).mT, response @ torch.diag(q.variance) @ response.mT, validate_args=False
    )
    exact = MultivariateNormal(x @ path.gain.mT, torch.linalg.inv(path.precision))
    divergences = kl_divergence(ours, exact)
    assert divergences.mean().item() == pytest.approx(q.total, abs=5 * divergences.std().item() / 20_000**0.5)


def test_path_agrees_with_smoother_and_likelihood():
    ssm, x = level(), torch.randn(5, 2, generator=torch.Generator().manual_seed(0)).double()
    path, smoothed = gaussian_path(ssm, 5), kalman_smoother(ssm, x)
    torch.testing.assert_close(path.gain @ x.flatten(), smoothed.mean[:, 0])
    torch.testing.assert_close(torch.linalg.inv(path.precision).diagonal(), smoothed.covariance[:, 0, 0])
    marginal = MultivariateNormal(torch.zeros(10).double(), path.data_covariance).log_prob(x.flatten())
    torch.testing.assert_close(marginal, log_likelihood(ssm, x))


def test_two_dimensional_states_with_inputs_of_every_step():
    A = torch.stack([matrix([0.8, 0.3], [-0.3, 0.8]) * s for s in (1.0, 0.9, 1.0, 0.7)])
    eye = torch.eye(2).double()
    ssm = LinearGaussianSSM(A, matrix([1.0, 0.5]), 0.1 * eye, eye[:1, :1], mu_1=torch.zeros(2).double(), Lambda_1=eye)
    cost = structure_cost(ssm, DKF(1, 2, inference_model="filter", g_dim=4).spec, 4)
    path, masks = gaussian_path(ssm, 4), visible(spec("z_{t-1}, x_{1:t}"), 4, z_dim=2)
    assert cost.total == pytest.approx(free_optimum(path, *masks), abs=1e-7)
    assert cost.coupling > 0.01  # entries of one frame are drawn independently of each other


def test_what_cannot_be_answered_is_refused():
    path, (sees_z, sees_x) = gaussian_path(level(), 3), visible(spec("z_{t-1}, x_t"), 3, x_dim=2)
    with pytest.raises(ValueError, match="drawn before"):
        best_inference(path, sees_z.mT, sees_x)
    with pytest.raises(ValueError, match=r"sees_x must have shape \(3, 6\)"):
        best_inference(path, sees_z, sees_x[:, :3])
    with pytest.raises(ValueError, match="num_steps"):
        gaussian_path(level(), 0)
    with pytest.raises(ValueError, match="draws v"):
        visible(DependencySpec("v ~ \n x_t ~ v", "v ~ x_{1:T}"), 3)


def test_one_frame_and_gradients():
    assert structure_cost(level(), spec("z_{t-1}, x_{t:T}"), 1).total == pytest.approx(0, abs=1e-12)
    wander = torch.ones(1, 1).double().requires_grad_()
    ssm = level().replace(Lambda=wander)
    gaussian_path(ssm, 3).precision.logdet().backward()
    # Omega is tridiagonal with 1 / Lambda_1, then 1 / Lambda, and the derivative is that of the inverse covariance
    path = gaussian_path(ssm.map(torch.Tensor.detach), 3)
    nearby = gaussian_path(level().replace(Lambda=wander.detach() + 1e-6), 3)
    slope = (nearby.precision.logdet() - path.precision.logdet()) / 1e-6
    assert wander.grad.item() == pytest.approx(slope.item(), rel=1e-4)
