"""Gaussian posteriors with a block-tridiagonal precision: against dense Gaussians and the Kalman filter."""

import pytest
import torch
from test_svae import CLOSE, LENGTHS, data, inverse_softplus, linear_model, random, seeded
from torch.distributions import MultivariateNormal, kl_divergence

from dvae_lib import BlackBoxSSM
from dvae_lib.models.latent_lds import lower_triangular
from dvae_lib.networks import append_input
from dvae_lib.statespace import kalman_smoother, log_likelihood

VARIANTS = [
    pytest.param({"posterior": "product"}, id="product"),
    pytest.param({"posterior": "free", "direction": "forward"}, id="forward"),
    pytest.param({"posterior": "free", "direction": "backward"}, id="backward"),
    pytest.param({"posterior": "mean_field"}, id="mean field"),
]


def make(**options):
    torch.manual_seed(0)
    return BlackBoxSSM(5, 3, **{"encoder": (8,), "decoder": (8,), **options}).double()


def dense(chain, b):
    """The Gaussian over all numbers of sequence b, from its information form."""
    T, L = chain.event_shape
    J, O, h = (part[b] for part in chain.precision())
    precision = torch.block_diag(*J)
    for t in range(1, T):
        now, before = slice(t * L, t * L + L), slice(t * L - L, t * L)
        precision[now, before], precision[before, now] = O[t - 1], O[t - 1].mT
    covariance = torch.linalg.inv(precision)
    return MultivariateNormal(covariance @ h.flatten(), (covariance + covariance.mT) / 2)


@pytest.mark.parametrize("u_dim", [0, 2], ids=["undriven", "driven"])
def test_with_linear_networks_the_product_is_the_kalman_smoother(u_dim):
    model = make(encoder=(), decoder=(), u_dim=u_dim)
    ssm = linear_model(model, u_dim)
    model.own_dynamics.load_state_dict(model.dynamics.state_dict())
    gain = ssm.C.mT @ torch.linalg.inv(ssm.Sigma)
    J = gain @ ssm.C
    root = torch.linalg.cholesky(J)
    with torch.no_grad():
        model.m_head.weight.copy_(torch.linalg.solve(J, gain))
        model.m_head.bias.copy_(-torch.linalg.solve(J, gain @ ssm.n))
        model.root_head.weight.zero_()
        model.root_head.bias.copy_((root.tril(-1) + torch.diag(inverse_softplus(root.diagonal()))).flatten())
    x, u = data(u_dim)
    for mine, theirs in zip(model.posterior(x, u).moments(), kalman_smoother(ssm, x, u), strict=True):
        torch.testing.assert_close(mine, theirs, **CLOSE)
    truth = log_likelihood(ssm, x, u)
    for seed in range(5):
        torch.testing.assert_close(model.vlb(x, u, kl="sampled", generator=seeded(seed)).value, truth, **CLOSE)
    observed = torch.rand(4, 9, generator=seeded()) < 0.5
    value = model.vlb(torch.where(observed[..., None], x, torch.nan), u, observed=observed, kl="sampled").value
    torch.testing.assert_close(value, log_likelihood(ssm, x, u, mask=observed), **CLOSE)


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_precision_of_the_free_family_is_the_square_of_its_bidiagonal_factor(direction):
    """And its mean is the network's: both written out over all frames."""
    model = make(posterior="free", direction=direction, u_dim=2)
    x, u = data(2)
    features = model.e_x(append_input(x, u))
    chain = model.posterior(x, u)
    for b in range(len(x)):
        K = torch.block_diag(*lower_triangular(model.root_head(features[b])))
        pairs = model.coupling_head(torch.cat([features[b, :-1], features[b, 1:]], -1)).unflatten(-1, (3, 3))
        for t, block in enumerate(pairs):
            earlier, later = slice(3 * t, 3 * t + 3), slice(3 * t + 3, 3 * t + 6)
            rows, columns = (later, earlier) if direction == "backward" else (earlier, later)
            K[rows, columns] = block
        truth = dense(chain, b)
        torch.testing.assert_close(truth.precision_matrix, K @ K.mT, **CLOSE)
        torch.testing.assert_close(truth.mean, model.m_head(features[b]).flatten(), **CLOSE)


@pytest.mark.parametrize("options", VARIANTS)
def test_divergence_and_density_are_those_of_the_dense_gaussians(options):
    model, (x, _) = make(**options), data()
    with torch.no_grad():
        model.dynamics.mu_1.copy_(random(3))
    q, p = model.posterior(x), model.dynamics.chain(4, 9, None, None)
    expected = torch.stack([kl_divergence(dense(q, b), dense(p, b)) for b in range(4)])
    torch.testing.assert_close(model.vlb(x).total_kl, expected, **CLOSE)
    latent = model.inference(x, generator=seeded())["z"]
    whole = torch.stack([dense(q, b).log_prob(latent.sample[b].flatten()) for b in range(4)])
    torch.testing.assert_close(latent.posterior.log_prob(latent.sample).sum(1), whole, **CLOSE)


def test_backward_chain_starts_at_each_sequences_own_last_frame():
    model, (x, _) = make(posterior="free"), data()
    padded = model.posterior(x, lengths=LENGTHS)
    for b, length in enumerate(LENGTHS.tolist()):
        alone = model.posterior(x[b : b + 1, :length])
        torch.testing.assert_close(padded.mean[b, :length], alone.mean[0])
        torch.testing.assert_close(padded.moments().covariance[b, :length], alone.moments().covariance[0])


def gaps(options):
    (gap,) = BlackBoxSSM(5, 3, **options).spec.inference_gap().values()
    return set(gap.missing), set(gap.extra)


def test_what_each_family_lacks():
    """The products nothing; the free ones hear one neighbour's frame alone, on the side where their factor stands."""
    families = [variant.values[0] for variant in VARIANTS]
    assert gaps(families[0]) == (set(), set())
    assert gaps(families[1]) == ({"x_{t+1:T}"}, {"x_{t-1}"})
    assert gaps(families[2]) == ({"x_{1:t-1}"}, {"x_{t+1}"})
    assert gaps(families[3]) == ({"z_{t-1}", "x_{t+1:T}"}, set())
    (backward,) = BlackBoxSSM(5, 3, posterior="free").spec.exact_posterior().values()
    assert backward == {"z_{t+1}", "x_{1:t}"}


@pytest.mark.parametrize("options", VARIANTS)
def test_spikes(options):
    model = make(**options, observation="poisson", decoder=())
    x = model.generate(20, 3, generator=seeded()).x
    assert (x == x.round()).all()
    bound = model.importance_weighted_bound(x, num_samples=50, generator=seeded())
    assert (bound > model.vlb(x, num_samples=50, generator=seeded()).value).all()


@pytest.mark.parametrize("options", VARIANTS)
def test_who_filters(options):
    """The product filters without the potentials of the future; a chain backwards in time has no first frame."""
    model, (x, _) = make(**options), data()
    if options.get("direction") == "backward":
        with pytest.raises(NotImplementedError, match="forwards in time"):
            model.filter(4)
        with pytest.raises(NotImplementedError, match=r"infers backwards.*use importance_weighted, or a model"):
            model.smc_bound(x)
        return
    run = model.filter(4, num_particles=3, generator=seeded())
    for t in range(9):
        assert torch.isfinite(run.update(x[:, t]).score).all()


def test_refusals(as_a_user):
    with pytest.raises(ValueError, match="posterior must be one of product, free, mean_field; got 'exact'"):
        BlackBoxSSM(5, 3, posterior="exact")
    with pytest.raises(ValueError, match="direction must be 'forward' or 'backward'; got 'both'"):
        BlackBoxSSM(5, 3, posterior="free", direction="both")
