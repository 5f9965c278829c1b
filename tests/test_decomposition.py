"""The KL term taken apart, against closed forms, mixtures written out, and all batches that there are."""

import functools
import itertools
import math

import pytest
import torch
from torch.distributions import MultivariateNormal as Normal
from torch.distributions import kl_divergence

from dvae_lib.data import from_arrays
from dvae_lib.models import DKF, DSAE, GPVAE, GRNN, STORN, VAE, VRNN
from dvae_lib.objectives import gaussian_kl_terms, kl_terms, total_correlation
from dvae_lib.objectives.decomposition import _log_weights
from dvae_lib.training import TrainingConfig, fit

RHO = (0.9, 0.3)
WIDTH = 0.4
MIX = torch.tensor([[0.8, 0.3], [-0.2, 0.7]], dtype=torch.float64)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def autoregressive(num_steps, rhos=RHO):
    """The covariance of independent stationary AR(1) entries, frame by frame: places t * L + l."""
    apart = (torch.arange(num_steps)[:, None] - torch.arange(num_steps)).abs().double()
    blocks = torch.stack([rho**apart for rho in rhos])
    L = len(rhos)
    full = torch.zeros(num_steps, L, num_steps, L, dtype=torch.float64)
    for l in range(L):
        full[:, l, :, l] = blocks[l]
    return full.reshape(num_steps * L, num_steps * L)


def trajectories(num_steps, L=2):
    return [[t * L + l for t in range(num_steps)] for l in range(L)]


def linear_case(num_steps, forward=0.0):
    """A linear-Gaussian encoder of AR(1) data: mean of the codes (a matrix), posterior, aggregated, prior, data."""
    data = autoregressive(num_steps, (0.8, 0.5)) + 0.2 * torch.eye(2 * num_steps, dtype=torch.float64)
    W = torch.kron(torch.eye(num_steps, dtype=torch.float64), MIX)
    # z_t - m_t = forward (z_{t-1} - m_{t-1}) + WIDTH noise
    recursion = torch.eye(2 * num_steps, dtype=torch.float64)
    for t in range(1, num_steps):
        recursion[2 * t : 2 * t + 2, 2 * t - 2 : 2 * t] = -forward * torch.eye(2).double()
    inverse = torch.linalg.inv(recursion)
    S = WIDTH**2 * inverse @ inverse.mT
    return W, S, W @ data @ W.mT + S, autoregressive(num_steps), data


def linear_model(kind, forward=0.0):
    """The same encoder as a model."""
    options = {"encoder": (), "decoder": ()}
    if kind == "vae":
        model = VAE(2, 2, **options).double()
        linear = model.z_head.linear
    else:
        scales = tuple(-1 / math.log(rho) for rho in RHO)
        model = GPVAE(2, 2, kernel="matern12", length_scale=scales, posterior=kind, window=1, **options).double()
        linear = model.e_z[-1]
    with torch.no_grad():
        linear.weight.zero_()
        linear.bias.zero_()
        linear.weight[:2] = MIX
        linear.bias[2:4] = 2 * math.log(WIDTH)
        if kind == "chain":
            linear.bias[4:6] = forward
    return model


def sampled_data(covariance, number, seed=1):
    noise = torch.randn(number, len(covariance), generator=seeded(seed), dtype=torch.float64)
    return (noise @ torch.linalg.cholesky(covariance).mT).unflatten(1, (-1, 2))


def written_out(means, S, z, P, groups):
    """The terms at samples z with the aggregated posterior as the mixture that it is."""
    own = Normal(means, S).log_prob(z)

    def mixture(part):
        each = Normal(means[:, part], S[part][:, part]).log_prob(z[:, None, part])
        return each.logsumexp(1) - math.log(len(means))

    together = mixture(list(range(len(S))))
    apart = [mixture(part) for part in groups]
    priors = [Normal(torch.zeros(len(p), dtype=P.dtype), P[p][:, p]).log_prob(z[:, p]) for p in groups]
    return own - together, together - sum(apart), sum(apart) - sum(priors)


@pytest.mark.parametrize("num_steps", [1, 2, 7])
@pytest.mark.parametrize("forward", [0.0, 0.6])
def test_closed_terms_sum_to_the_divergence(num_steps, forward):
    W, S, C, P, data = linear_case(num_steps, forward)
    terms = gaussian_kl_terms(C, S, P, trajectories(num_steps))
    spread = W @ data @ W.mT
    expected = kl_divergence(Normal(torch.zeros_like(C[0]), S), Normal(torch.zeros_like(C[0]), P))
    expected = expected + 0.5 * torch.linalg.solve(P, spread).trace()
    assert abs(terms.total - expected) < 1e-9
    assert min(terms) > 0


def test_closed_terms_against_monte_carlo():
    W, S, C, P, data = linear_case(3, 0.6)
    groups, zero = trajectories(3), torch.zeros(6, dtype=torch.float64)
    means = sampled_data(data, 40_000).flatten(1) @ W.mT
    noise = torch.randn(means.shape, generator=seeded(2), dtype=torch.float64)
    z = means + noise @ torch.linalg.cholesky(S).mT
    log_q = Normal(zero, C).log_prob(z)
    apart = sum(Normal(zero[p], C[p][:, p]).log_prob(z[:, p]) for p in groups)
    prior = Normal(zero, P).log_prob(z)
    found = Normal(means, S).log_prob(z) - log_q, log_q - apart, apart - prior
    for term, closed in zip(found, gaussian_kl_terms(C, S, P, groups), strict=True):
        assert abs(term.mean() - closed) < 4 * term.std() / math.sqrt(len(z))


@pytest.mark.parametrize(
    ("kind", "num_steps", "forward"), [("vae", 1, 0.0), ("mean_field", 3, 0.0), ("chain", 1, 0.6), ("chain", 3, 0.6)]
)
def test_estimates_are_those_of_the_mixture_and_near_the_population(kind, num_steps, forward):
    W, S, C, P, data = linear_case(num_steps, forward)
    P = torch.eye(2, dtype=torch.float64) if kind == "vae" else P
    model, x = linear_model(kind, forward), sampled_data(data, 500)
    groups = trajectories(num_steps)
    found = kl_terms(model, x, generator=seeded(4))
    z = model.inference(x, generator=seeded(4))["z"].sample.flatten(1)
    means = x.flatten(1) @ W.mT
    for term, expected in zip(found, written_out(means, S, z, P, groups), strict=True):
        torch.testing.assert_close(term, expected, rtol=0, atol=1e-9)
    for term, closed in zip(found, gaussian_kl_terms(C, S, P, groups), strict=True):
        assert abs(term.mean() - closed) < (0.15 if num_steps == 1 else 0.7)  # many dimensions want many sequences


@pytest.mark.parametrize("estimator", ["stratified", "weighted"])
@pytest.mark.parametrize("masked", [False, True])
def test_terms_of_each_sequence_sum_to_its_sampled_divergence(estimator, masked):
    model = GPVAE(3, 2).double()
    x = torch.randn(6, 5, 3, generator=seeded(), dtype=torch.float64)
    gaps = {"observed": torch.rand(6, 5, 3, generator=seeded(1)) < 0.7} if masked else {}
    terms = kl_terms(model, x, **gaps, num_data=50, estimator=estimator, generator=seeded(2))
    bound = model.vlb(x, **gaps, kl="sampled", generator=seeded(2))
    torch.testing.assert_close(terms.total, bound.total_kl, rtol=0, atol=1e-9)


def test_stratified_weights_are_unbiased_over_all_batches():
    N, M = 6, 3
    density = torch.rand(N, N, generator=seeded(), dtype=torch.float64)
    biased = []
    for i in range(N):
        others = [j for j in range(N) if j != i]
        batches = [[i, *rest] for rest in itertools.combinations(others, M - 1)]
        means = {}
        for estimator in ("stratified", "weighted"):
            w = _log_weights(M, N, estimator, density).exp()[0]
            means[estimator] = torch.stack([(w * density[i, batch]).sum() for batch in batches]).mean()
        assert abs(means["stratified"] - density[i].mean()) < 1e-12
        biased.append(float(means["weighted"] / density[i].mean()))
    assert max(biased) < 0.7


@pytest.mark.parametrize(("estimator", "limit"), [("stratified", 100), ("weighted", 100 * 8)])
def test_sequences_far_apart_saturate_the_estimates(estimator, limit):
    model = linear_model("mean_field")
    x = 1e3 * torch.arange(8.0, dtype=torch.float64)[:, None, None].expand(8, 4, 2)
    terms = kl_terms(model, x, num_data=100, estimator=estimator, generator=seeded())
    torch.testing.assert_close(terms.mutual_information, torch.full((8,), math.log(limit)).double())
    torch.testing.assert_close(terms.total_correlation, torch.full((8,), math.log(limit)).double())


def test_of_a_batch_of_one_nothing_is_told():
    """The last batch of an epoch may be one."""
    terms = kl_terms(GPVAE(3, 2), torch.randn(1, 5, 3), num_data=50)
    torch.testing.assert_close(torch.cat(terms[:2]), torch.full((2,), math.log(50.0)))
    torch.testing.assert_close(torch.cat(kl_terms(GPVAE(3, 2), torch.randn(1, 5, 3))[:2]), torch.zeros(2))


def test_groups_of_a_variable_of_the_sequence_and_one_of_frames():
    model = DSAE(3, 2, v_dim=2, inference_model="factorised", h_dim=4, g_dim=4, decoder=(4,)).double()
    x = torch.randn(5, 4, 3, generator=seeded(), dtype=torch.float64)
    terms = kl_terms(model, x, generator=seeded(1))
    inferred = model.inference(x, generator=seeded(1))
    v, z = inferred["v"], inferred["z"]
    of_v = torch.stack([v.posterior.log_prob_per_dim(row.expand(5, 2)) for row in v.sample])  # [i, j, l]
    of_z = torch.stack([z.posterior.log_prob(row.expand(5, 4, 2)).sum(-1) for row in z.sample])
    together = (of_v.sum(-1) + of_z).logsumexp(1) - math.log(5)
    apart = of_v.logsumexp(1).sum(-1) - 2 * math.log(5) + of_z.logsumexp(1) - math.log(5)
    torch.testing.assert_close(terms.total_correlation, together - apart)


def test_independent_frames_count_each_and_may_be_padded():
    model = linear_model("vae")
    x = torch.randn(3, 4, 2, generator=seeded(), dtype=torch.float64)
    lengths = torch.tensor([4, 1, 2])
    terms = kl_terms(model, x, lengths=lengths, num_data=30, generator=seeded(1))
    rows = torch.cat([x[i, :n] for i, n in enumerate(lengths)])[:, None]
    each = kl_terms(model, rows, num_data=30, generator=seeded(1))
    for term, frames in zip(terms, each, strict=True):
        torch.testing.assert_close(term, torch.stack([part.sum() for part in frames.split(lengths.tolist())]))


def test_weights_of_one_are_the_bound_and_others_cost():
    model = GPVAE(3, 2).double()
    x = torch.randn(6, 5, 3, generator=seeded(), dtype=torch.float64)
    plain = model.vlb(x, generator=seeded(1))
    same = total_correlation(model, x, alpha=1.0, beta=1.0, gamma=1.0, generator=seeded(1))
    assert torch.equal(same.value, plain.value)
    generator = seeded(1)
    weighted = total_correlation(model, x, alpha=0.5, beta=4.0, gamma=2.0, num_data=20, generator=generator)
    again = seeded(1)
    bound = model.vlb(x, generator=again)
    terms = kl_terms(model, x, num_data=20, generator=again)
    price = -0.5 * terms.mutual_information + 3 * terms.total_correlation + terms.dimension_wise
    torch.testing.assert_close(weighted.value, bound.value - price)
    assert torch.equal(weighted.total_kl, bound.total_kl)


def test_training_lowers_the_total_correlation():
    """Two frames of strongly correlated entries: a large weight takes the correlation out of the codes."""
    x = sampled_data(torch.tensor([[1.0, 0.9], [0.9, 1.0]], dtype=torch.float64), 300).float()
    data = from_arrays(x, standardize=False, seed=0)
    measured = {}
    for beta in (1.0, 20.0):
        torch.manual_seed(0)
        model = VAE(2, 2, observation="gaussian(scale=0.3)", encoder=(), decoder=())
        objective = functools.partial(total_correlation, num_data=len(data.train))
        config = TrainingConfig(
            max_epochs=20, batch_size=120, learning_rate=0.03, schedules={"beta": beta}, patience=None
        )
        fit(model, data.train, data.validation, config=config, objective=objective)
        device = next(model.parameters()).device
        with torch.no_grad():
            measured[beta] = float(kl_terms(model, x.to(device)).total_correlation.mean())
    assert measured[20.0] < 0.5 * measured[1.0]


def test_what_cannot_carry_it_says_which_can():
    x = torch.randn(4, 5, 3)
    for model, message in (
        (DKF(3, 2), r"the prior of DKF does not factorise over entries: the trajectories of z\[0\], z\[1\].*GPVAE"),
        (VRNN(3, 2), "the prior of VRNN's latents depends on x: .* only conditionally, given the past"),
        (STORN(3, 2, inference_model="smoother"), "the posterior of STORN does not factorise"),
        (GRNN(3, 4), "GRNN has no latent variables"),
    ):
        for objective in (total_correlation, kl_terms):
            with pytest.raises(ValueError, match=message):
                objective(model, x)
    kl_terms(DKF(3, 1, inference_model="instantaneous"), x)  # one entry: nothing to be correlated with


def test_wrong_input_is_refused():
    model, x = GPVAE(3, 2), torch.randn(4, 5, 3)
    for options, message in (
        ({"lengths": [5, 5, 4, 5]}, "must be of one length"),
        ({"num_data": 3}, "num_data must be a whole number, not below the 4 sequences"),
        ({"estimator": "exact"}, "estimator must be 'stratified' or 'weighted'"),
    ):
        with pytest.raises(ValueError, match=message):
            kl_terms(model, x, **options)
    for name in ("alpha", "beta", "gamma"):
        with pytest.raises(ValueError, match=f"{name} must be 0 or more"):
            total_correlation(model, x, **{name: -1.0})
    I = torch.eye(2)
    with pytest.raises(ValueError, match="groups must hold each of the numbers 0 to 1 once"):
        gaussian_kl_terms(I, I, I, [[0]])
    with pytest.raises(ValueError, match="the prior couples entries"):
        gaussian_kl_terms(I, I, torch.tensor([[1.0, 0.5], [0.5, 1.0]]))
