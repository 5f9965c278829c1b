"""The structured VAE against the Kalman filter and smoother, which it is where its networks are linear."""

import copy

import pytest
import torch
from torch.nn import functional as F

from dvae_lib.models import SVAE, BlackBoxSSM
from dvae_lib.models.latent_lds import LinearDynamics
from dvae_lib.statespace import GaussianChain, LinearGaussianSSM, kalman_filter, kalman_smoother, log_likelihood

CLOSE = {"rtol": 0, "atol": 1e-9}
LENGTHS = torch.tensor([9, 1, 6, 4])


def seeded(seed=3):
    return torch.Generator().manual_seed(seed)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def covariance(size, seed):
    root = random(size, size, seed=seed)
    return root @ root.mT / size + 0.3 * torch.eye(size, dtype=torch.float64)


def linear_model(model, u_dim=0):
    """A linear decoder with noise that does not depend on the state; and the state-space model that this makes."""
    A = torch.linalg.qr(random(3, 3)).Q * 0.9
    B = random(3, u_dim, seed=9) if u_dim else None
    known = {"A": A, "Lambda": covariance(3, 1), "Lambda_1": covariance(3, 2), "mu_1": random(3, seed=3)}
    model.dynamics.assign(**known, **({} if B is None else {"B": B}))
    C, d, variance = random(5, 3, seed=4), random(5, seed=5), random(5, seed=6).exp()
    if isinstance(model, SVAE):  # whose potentials have a diagonal precision: C^T R^{-1} C must be one
        C = variance.sqrt()[:, None] * torch.linalg.qr(C).Q * torch.tensor([0.5, 1.0, 2.0])
    with torch.no_grad():
        model.x_head.linear.weight.copy_(torch.cat([C, torch.zeros_like(C)]))
        model.x_head.linear.bias.copy_(torch.cat([d, variance.log()]))
    return LinearGaussianSSM(**known, B=B, C=C, Sigma=torch.diag(variance), n=d)


def inverse_softplus(value):
    return value + torch.log(-torch.expm1(-value))


def linear_svae(u_dim=0):
    """With the true potentials: J = C^T R^{-1} C and h_t = C^T R^{-1} (x_t - d)."""
    torch.manual_seed(0)
    model = SVAE(5, 3, encoder=(), decoder=(), u_dim=u_dim).double()
    ssm = linear_model(model, u_dim)
    gain = ssm.C.mT @ torch.linalg.inv(ssm.Sigma)
    with torch.no_grad():
        model.potential.weight.copy_(torch.cat([gain, torch.zeros_like(gain)]))
        model.potential.bias.copy_(torch.cat([-gain @ ssm.n, inverse_softplus((gain @ ssm.C).diagonal())]))
    return model, ssm


def data(u_dim=0):
    return random(4, 9, 5, seed=7), random(4, 9, u_dim, seed=8) if u_dim else None


@pytest.mark.parametrize("u_dim", [0, 2], ids=["undriven", "driven"])
def test_with_linear_networks_every_sample_of_the_bound_is_the_kalman_likelihood(u_dim):
    model, ssm = linear_svae(u_dim)
    x, u = data(u_dim)
    truth = log_likelihood(ssm, x, u)
    for seed in range(5):
        value = model.vlb(x, u, kl="sampled", generator=seeded(seed)).value
        torch.testing.assert_close(value, truth, **CLOSE)
    mask = torch.arange(9) < LENGTHS[:, None]
    padded = torch.where(mask[..., None], x, 99.0)
    value = model.vlb(padded, u, lengths=LENGTHS, kl="sampled", generator=seeded()).value
    torch.testing.assert_close(value, log_likelihood(ssm, x, u, mask=mask), **CLOSE)
    observed = torch.rand(4, 9, generator=seeded()) < 0.5
    value = model.vlb(torch.where(observed[..., None], x, torch.nan), u, observed=observed, kl="sampled").value
    torch.testing.assert_close(value, log_likelihood(ssm, x, u, mask=observed), **CLOSE)


@pytest.mark.parametrize("u_dim", [0, 2], ids=["undriven", "driven"])
def test_with_linear_networks_the_chain_is_the_kalman_smoother(u_dim):
    model, ssm = linear_svae(u_dim)
    x, u = data(u_dim)
    observed = torch.rand(4, 9, generator=seeded()) < 0.4
    for mask in (None, observed):
        chain, smoothed = model.posterior(x, u, observed=mask), kalman_smoother(ssm, x, u, mask=mask)
        for mine, theirs in zip(chain.moments(), smoothed, strict=True):
            torch.testing.assert_close(mine, theirs, **CLOSE)
        # The conditionals along a sample, too: those of the chain rule in the order of the exact posterior.
        z = random(4, 9, 3, seed=11)
        theirs = GaussianChain.from_moments(*smoothed).conditionals(z)
        torch.testing.assert_close(chain.conditionals(z).mean, theirs.mean, **CLOSE)
        torch.testing.assert_close(chain.conditionals(z).covariance_matrix, theirs.covariance_matrix, **CLOSE)


def test_inference_has_the_structure_of_the_exact_posterior():
    for model in (SVAE(5, 3), SVAE(5, 3, u_dim=2)):
        gap = model.spec.inference_gap()["z_t"]
        assert not gap.missing
        assert not gap.extra
    assert model.spec.exact_posterior()["z_t"] == {"z_{t-1}", "x_{t:T}", "u_{t:T}"}


def test_divergence_is_what_the_potentials_say_less_the_normaliser():
    r"""KL = sum_t E_q[log psi_t] - log Z: the form in which the paper computes it."""
    torch.manual_seed(1)
    model, (x, _) = SVAE(5, 3, encoder=(8,)).double(), data()
    J, h = model.potentials(x)
    q, log_z = model.dynamics.chain(4, 9, None, LENGTHS).condition(J, h)
    log_psi = h * q.mean - 0.5 * J * (q.variance + q.mean.square())
    inside = torch.arange(9) < LENGTHS[:, None]
    expected = torch.where(inside[..., None], log_psi, 0).sum((1, 2)) - log_z
    torch.testing.assert_close(model.vlb(x, lengths=LENGTHS).total_kl, expected, **CLOSE)


def test_what_stands_in_missing_frames_is_not_looked_at():
    torch.manual_seed(1)
    model, (x, _) = SVAE(5, 3, encoder=(8,)).double(), data()
    observed = torch.rand(4, 9, generator=seeded()) < 0.5
    other = torch.where(observed[..., None], x, 77.0)
    found = [model.posterior(film, observed=observed).moments() for film in (x, other)]
    assert all(torch.equal(mine, same) for mine, same in zip(*found, strict=True))
    # Where nothing is there, the posterior is the prior.
    nothing = model.posterior(x, observed=torch.zeros(4, 9, dtype=torch.bool))
    torch.testing.assert_close(nothing.kl(model.dynamics.chain(4, 9, None, None)), torch.zeros(4).double(), **CLOSE)


def test_black_box_model_with_the_same_dynamics_on_both_sides_is_the_structured_vae():
    torch.manual_seed(2)
    svae = SVAE(5, 3, encoder=(), u_dim=2).double()
    other = BlackBoxSSM(5, 3, posterior="product", encoder=(), u_dim=2).double()
    with torch.no_grad():
        svae.potential.weight[3:] = 0.0  # the product has another network for the precision; constants are in both
        J = F.softplus(svae.potential.bias[3:])
        other.m_head.weight.copy_(svae.potential.weight[:3] / J[:, None])
        other.m_head.bias.copy_(svae.potential.bias[:3] / J)
        other.root_head.weight.zero_()
        other.root_head.bias.copy_(torch.diag(inverse_softplus(J.sqrt())).flatten())
    other.dynamics, other.own_dynamics = svae.dynamics, copy.deepcopy(svae.dynamics)
    other.d_x, other.x_head = svae.d_x, svae.x_head
    x, u = data(2)
    for kl in ("analytic", "sampled"):
        mine, theirs = (m.vlb(x, u, lengths=LENGTHS, kl=kl, generator=seeded()).value for m in (svae, other))
        torch.testing.assert_close(mine, theirs, **CLOSE)


def test_filter_follows_the_kalman_filter():
    """Frame by frame the potentials of the future are missing, and what is left is exact."""
    model, ssm = linear_svae()
    x, _ = data()
    truth = kalman_filter(ssm, x)
    run = model.filter(4, num_particles=16_000, generator=seeded())
    surprise = 0
    for t in range(9):
        found = run.update(x[:, t])
        spread = truth.covariance[:, t].diagonal(dim1=-2, dim2=-1).sqrt()
        assert ((found.latents["z"].mean - truth.mean[:, t]).abs() < 0.15 * spread).all()
        surprise = surprise + found.score
    torch.testing.assert_close(-surprise, log_likelihood(ssm, x), rtol=0, atol=0.3)


def test_dynamics_are_set_and_read():
    dynamics = LinearDynamics(3, 2).double()
    known = {"A": random(3, 3), "B": random(3, 2), "mu_1": random(3), "Lambda": covariance(3, 1)}
    dynamics.assign(**known, Lambda_1=covariance(3, 2))
    for name, value in known.items():
        torch.testing.assert_close(getattr(dynamics, name).detach(), value)
    torch.testing.assert_close(dynamics.Lambda_1.detach(), covariance(3, 2))
    for wrong in ({"C": random(3, 3)}, {"A": random(2, 2)}, {"root": random(3, 3)}):
        with pytest.raises(ValueError, match="is no parameter of these"):
            dynamics.assign(**wrong)
    with pytest.raises(ValueError, match="B of shape"):
        LinearDynamics(3).assign(B=random(3, 2))


def test_prior_is_the_state_space_model():
    dynamics = LinearDynamics(3, 2).double()
    dynamics.assign(mu_1=random(3), Lambda=covariance(3, 1), Lambda_1=covariance(3, 2))
    ssm = LinearGaussianSSM(
        dynamics.A, torch.eye(3).double(), dynamics.Lambda, torch.eye(3).double(),
        mu_1=dynamics.mu_1, Lambda_1=dynamics.Lambda_1, B=dynamics.B, validate_args=False,
    )  # fmt: skip
    u, z = random(4, 9, 2), random(4, 9, 3)
    mine, theirs = dynamics.chain(4, 9, u, None), GaussianChain.from_ssm(ssm, 9, u)
    torch.testing.assert_close(mine.log_prob_per_frame(z), theirs.log_prob_per_frame(z), **CLOSE)


def test_an_expectation_over_gaps_needs_no_gradient_of_what_is_missing():
    model, (x, _) = SVAE(5, 3).double(), data()
    observed = torch.rand(4, 9, generator=seeded()) < 0.5
    x.requires_grad_()
    model.posterior(x, observed=observed).mean.sum().backward()
    assert (x.grad[~observed] == 0).all()
    assert (x.grad[observed] != 0).any()
