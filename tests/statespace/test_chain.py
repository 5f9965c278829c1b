"""Gaussian chains: against dense Gaussians over all frames and entries, and against the Kalman smoother."""

import math

import numpy as np
import pytest
import torch
from brute_force import infer, random_covariance, random_ssm
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence

from dvae_lib.distributions import DiagonalGaussian
from dvae_lib.models import KVAE
from dvae_lib.statespace import (
    GaussianChain,
    LinearGaussianSSM,
    kalman_filter,
    kalman_smoother,
    log_likelihood,
    sample,
)

METHODS = ("sequential", "parallel")
DIRECTIONS = ("forward", "backward")
T, L = 5, 3
CLOSE = {"rtol": 1e-9, "atol": 1e-9}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def parameters(*batch, entrywise=False, steps=T, size=L, seed=0):
    """Transitions, offsets and factors at random."""
    g = seeded(seed)

    def normal(*shape):
        return torch.randn(*batch, steps, *shape, generator=g, dtype=torch.float64)

    if entrywise:
        return 0.8 * normal(size), normal(size), 0.3 + normal(size).square()
    factor = torch.linalg.cholesky(random_covariance(size, g, *batch, steps))
    return 0.6 * normal(size, size), normal(size), factor


def random_chain(*batch, entrywise=False, steps=T, size=L, seed=0, **options):
    return GaussianChain(*parameters(*batch, entrywise=entrywise, steps=steps, size=size, seed=seed), **options)


def matrices(chain):
    """F and D of one series as matrices, in the order of time."""
    F, D = chain.transition, chain.factor
    return (torch.diag_embed(F), torch.diag_embed(D)) if chain.entrywise else (F, D)


def dense(chain: GaussianChain) -> MultivariateNormal:
    """The Gaussian over all T L numbers of one series: z = (I - F)^{-1} (b + D noise), written out."""
    steps, size = chain.event_shape
    F, D = matrices(chain)
    coupling = torch.eye(steps * size, dtype=F.dtype)
    for t in range(steps):
        before = t - 1 if chain.direction == "forward" else t + 1
        if 0 <= before < steps:
            coupling[t * size : (t + 1) * size, before * size : (before + 1) * size] = -F[t]
    inverse = torch.linalg.inv(coupling)
    factor = inverse @ torch.block_diag(*D)
    return MultivariateNormal(inverse @ chain.offset.reshape(-1), factor @ factor.mT)


def blocks(matrix: Tensor, offset: int) -> Tensor:
    """The blocks (t, t - offset)."""
    square = matrix.reshape(T, L, T, L)
    return torch.stack([square[t, :, t - offset] for t in range(offset, T)])


def entries(value: Tensor, chain) -> Tensor:
    return value.diagonal(dim1=-2, dim2=-1) if chain.entrywise else value


CASES = [
    pytest.param(direction, entrywise, method, id=f"{direction}-{'scalars' if entrywise else 'matrices'}-{method}")
    for direction in DIRECTIONS
    for entrywise in (False, True)
    for method in METHODS
]


@pytest.mark.parametrize(("direction", "entrywise", "method"), CASES)
def test_agrees_with_the_dense_gaussian(direction, entrywise, method):
    chains = random_chain(2, entrywise=entrywise, direction=direction, method=method)
    z = chains.sample((4,), generator=seeded(1))
    assert z.shape == (4, 2, T, L)
    moments = chains.moments()
    for b in range(2):
        chain = GaussianChain(chains.transition[b], chains.offset[b], chains.factor[b], direction=direction)
        truth = dense(chain)
        torch.testing.assert_close(chains.log_prob(z)[:, b], truth.log_prob(z[:, b].flatten(-2)), **CLOSE)
        torch.testing.assert_close(chain.log_prob(z[:, b]), truth.log_prob(z[:, b].flatten(-2)), **CLOSE)
        torch.testing.assert_close(chains.entropy()[b], truth.entropy(), **CLOSE)
        torch.testing.assert_close(moments.mean[b].flatten(), truth.mean, **CLOSE)
        torch.testing.assert_close(chains.mean[b].flatten(), truth.mean, **CLOSE)
        torch.testing.assert_close(chains.variance[b].flatten(), truth.variance, **CLOSE)
        P = truth.covariance_matrix
        torch.testing.assert_close(moments.covariance[b], entries(blocks(P, 0), chain), **CLOSE)
        torch.testing.assert_close(moments.cross_covariance[b], entries(blocks(P, 1), chain), **CLOSE)
        precision = chains.precision()
        J = truth.precision_matrix
        torch.testing.assert_close(precision.diagonal[b], entries(blocks(J, 0), chain), **CLOSE)
        torch.testing.assert_close(precision.off_diagonal[b], entries(blocks(J, 1), chain), **CLOSE)
        torch.testing.assert_close(precision.information[b].flatten(), J @ truth.mean, **CLOSE)


@pytest.mark.parametrize(("direction", "entrywise", "method"), CASES)
def test_samples_are_an_affine_map_of_the_noise_with_the_right_covariance(direction, entrywise, method):
    chain = random_chain(entrywise=entrywise, direction=direction, method=method)
    basis = torch.eye(T * L, dtype=torch.float64).reshape(T * L, T, L)
    zero = torch.zeros(T, L, dtype=torch.float64)
    start = chain.rsample(noise=zero)
    torch.testing.assert_close(start, chain.mean)
    columns = (chain.rsample((T * L,), noise=basis) - start).reshape(T * L, T * L).mT
    torch.testing.assert_close(columns @ columns.mT, dense(chain).covariance_matrix, **CLOSE)


def test_sampling_repeats_with_the_generator_and_is_reparameterised():
    F, b, D = (value.requires_grad_() for value in parameters(2))
    chain = GaussianChain(F, b, D)
    draws = [chain.rsample((3,), generator=seeded(7)) for _ in range(2)]
    assert torch.equal(*draws)
    assert draws[0].requires_grad
    assert not chain.sample(generator=seeded()).requires_grad
    with pytest.raises(ValueError, match="noise must have shape"):
        chain.rsample(noise=torch.zeros(T, L, dtype=torch.float64))


@pytest.mark.parametrize(("direction", "entrywise", "method"), CASES)
def test_conditionals_are_what_the_density_is_made_of(direction, entrywise, method):
    chain = random_chain(2, entrywise=entrywise, direction=direction, method=method)
    z = chain.sample((3,), generator=seeded())
    conditionals = chain.conditionals(z)
    assert isinstance(conditionals, DiagonalGaussian if entrywise else MultivariateNormal)
    assert conditionals.batch_shape == (3, 2, T)
    torch.testing.assert_close(conditionals.log_prob(z), chain.log_prob_per_frame(z), **CLOSE)
    noise = torch.randn(2, T, L, generator=seeded(3), dtype=torch.float64)
    drawn = chain.rsample(noise=noise)
    along = chain.conditionals(drawn)
    scale = along.stddev[..., None] * torch.eye(L).double() if entrywise else along.scale_tril
    torch.testing.assert_close(along.mean + (scale @ noise[..., None]).squeeze(-1), drawn, **CLOSE)
    marginals = chain.marginals()
    torch.testing.assert_close(marginals.mean, chain.mean)
    torch.testing.assert_close(marginals.variance, chain.variance)


@pytest.mark.parametrize("one", DIRECTIONS)
@pytest.mark.parametrize("other", DIRECTIONS)
@pytest.mark.parametrize("entrywise", [(False, False), (True, True), (True, False), (False, True)])
@pytest.mark.parametrize("method", METHODS)
def test_divergence_between_chains(one, other, entrywise, method):
    q = random_chain(entrywise=entrywise[0], direction=one, method=method, seed=1)
    p = random_chain(entrywise=entrywise[1], direction=other, method=method, seed=2)
    torch.testing.assert_close(q.kl(p), kl_divergence(dense(q), dense(p)), **CLOSE)
    assert kl_divergence(q, p) == q.kl(p)
    assert q.kl(q).item() == pytest.approx(0, abs=1e-12)
    assert q.kl(q.reversed()).item() == pytest.approx(0, abs=1e-9)


def test_each_frame_of_the_divergence_is_an_expected_divergence_of_conditionals():
    q, p = random_chain(seed=1), random_chain(seed=2)
    z = q.sample((200_000,), generator=seeded())
    expected = kl_divergence(q.conditionals(z), p.conditionals(z))
    error = expected.std(0) / math.sqrt(len(expected))
    assert ((expected.mean(0) - q.kl_per_frame(p)).abs() < 4 * error + 1e-12).all()


@pytest.mark.parametrize(("direction", "entrywise", "method"), CASES)
def test_the_same_gaussian_in_the_other_direction(direction, entrywise, method):
    chain = random_chain(2, entrywise=entrywise, direction=direction, method=method)
    turned = chain.reversed()
    assert turned.direction != direction
    z = chain.sample((4,), generator=seeded())
    torch.testing.assert_close(turned.log_prob(z), chain.log_prob(z), **CLOSE)
    for a, b in zip(turned.moments(), chain.moments(), strict=True):
        torch.testing.assert_close(a, b, **CLOSE)


@pytest.mark.parametrize(("direction", "entrywise", "method"), CASES)
def test_from_moments_from_potentials_and_back(direction, entrywise, method):
    chain = random_chain(2, entrywise=entrywise, direction="forward")
    z = chain.sample((4,), generator=seeded())
    for again in (
        GaussianChain.from_moments(*chain.moments(), direction=direction, method=method),
        GaussianChain.from_potentials(*chain.precision(), direction=direction, method=method),
    ):
        assert again.direction == direction
        assert again.entrywise == entrywise
        torch.testing.assert_close(again.log_prob(z), chain.log_prob(z), **CLOSE)
        if direction == "forward":  # the parameters are unique
            for name in ("transition", "offset", "factor"):
                expected = getattr(chain, name)
                torch.testing.assert_close(getattr(again, name), expected, **CLOSE)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_information_form_against_the_dense_precision(direction, method):
    """Potentials at random: mean and covariance by inversion, normalising constant by the determinant."""
    g = seeded(5)
    h = torch.randn(T, L, generator=g, dtype=torch.float64)
    O = torch.randn(T - 1, L, L, generator=g, dtype=torch.float64)
    J = random_covariance(L, g, T) + 4 * torch.eye(L).double()
    precision = torch.block_diag(*J)
    for t in range(1, T):
        rows, columns = slice(t * L, (t + 1) * L), slice((t - 1) * L, t * L)
        precision[rows, columns] = O[t - 1]
        precision[columns, rows] = O[t - 1].mT
    assert torch.linalg.eigvalsh(precision)[0] > 0
    chain = GaussianChain.from_potentials(J, O, h, direction=direction, method=method)
    covariance = torch.linalg.inv(precision)
    mean = covariance @ h.flatten()
    torch.testing.assert_close(chain.mean.flatten(), mean, **CLOSE)
    torch.testing.assert_close(chain.moments().covariance, blocks(covariance, 0), **CLOSE)
    torch.testing.assert_close(chain.moments().cross_covariance, blocks(covariance, 1), **CLOSE)
    log_z = 0.5 * h.flatten() @ mean - 0.5 * torch.linalg.slogdet(precision / (2 * math.pi))[1]
    torch.testing.assert_close(-chain.log_prob(torch.zeros(T, L).double()), log_z, **CLOSE)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("entrywise", [False, True])
def test_bidiagonal_factor(direction, entrywise):
    """Precision B B^T written out; the published GP-VAE's positive entries make neighbours anticorrelated."""
    g = seeded(2)
    m = torch.randn(T, L, generator=g, dtype=torch.float64)
    shape = (L,) if entrywise else (L, L)
    diagonal = torch.randn(T, *shape, generator=g, dtype=torch.float64)
    off = torch.randn(T - 1, *shape, generator=g, dtype=torch.float64)
    chain = GaussianChain.from_bidiagonal_factor(m, diagonal, off, direction=direction)
    assert chain.direction == direction
    full = torch.diag_embed if entrywise else torch.Tensor.clone
    B = torch.block_diag(*full(diagonal))
    for t in range(1, T):
        now, before = slice(t * L, (t + 1) * L), slice((t - 1) * L, t * L)
        B[(before, now) if direction == "forward" else (now, before)] = full(off)[t - 1]
    covariance = torch.linalg.inv(B @ B.mT)
    torch.testing.assert_close(chain.mean.flatten(), m.flatten(), rtol=1e-7, atol=1e-7)
    scale = covariance.abs().max()
    moments = chain.moments()
    for got, offset in ((moments.covariance, 0), (moments.cross_covariance, 1)):
        assert ((got - entries(blocks(covariance, offset), chain)).abs() < 1e-9 * scale).all()
    if entrywise:
        positive = GaussianChain.from_bidiagonal_factor(m, diagonal.exp(), off.exp(), direction=direction)
        assert (positive.moments().cross_covariance < 0).all()
        signed = GaussianChain.from_bidiagonal_factor(m, diagonal.exp(), -off.exp(), direction=direction)
        assert (signed.moments().cross_covariance > 0).all()


# ---- against the Kalman smoother -----------------------------------------------------------------------------------


def evidence(ssm: LinearGaussianSSM, x: Tensor) -> tuple[Tensor, Tensor]:
    """What observations say of the states, as potentials; missing components say nothing."""
    C, R = ssm.stepwise("C"), ssm.stepwise("Sigma")
    observed = ~x.isnan()
    y = (x if ssm.n is None else x - ssm.stepwise("n")).nan_to_num()
    C = torch.where(observed[..., None], C, 0)
    both = observed[..., None] & observed[..., None, :]
    R = torch.where(both, R, 0) + torch.diag_embed((~observed).to(R))
    weighted = C.mT @ torch.linalg.inv(R)
    return weighted @ C, (weighted @ y[..., None]).squeeze(-1)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("case", ["constant", "per step", "missing", "driven"])
def test_a_prior_times_potentials_is_the_kalman_smoother(method, case):
    ssm = random_ssm(L, 2, steps=T if case == "per step" else None, u_dim=1 if case == "driven" else 0, seed=3)
    u = torch.randn(2, T, 1, generator=seeded(9), dtype=torch.float64) if case == "driven" else None
    x = sample(ssm, T, u, sample_shape=(2,) if u is None else (), generator=seeded()).x
    if case == "missing":
        x[0, 1] = x[0, 4] = x[1, 2, 0] = torch.nan
    prior = GaussianChain.from_ssm(ssm, T, u, method=method)
    J, h = evidence(ssm, x)
    chain, log_z = prior.condition(J.expand(*x.shape[:-1], L, L), h)
    smoothed = kalman_smoother(ssm, x, u)
    for a, b in zip(chain.moments(), smoothed, strict=True):
        torch.testing.assert_close(a, b, **CLOSE)
    z = chain.sample(generator=seeded())
    observed = MultivariateNormal((ssm.stepwise("C") @ z[..., None]).squeeze(-1) + ssm.stepwise("n"),
                                  ssm.stepwise("Sigma"))  # fmt: skip
    if case != "missing":  # p(x) = p(x | z) p(z) / q(z) at any z
        by_bayes = observed.log_prob(x).sum(-1) + prior.log_prob(z) - chain.log_prob(z)
        torch.testing.assert_close(by_bayes, log_likelihood(ssm, x, u), **CLOSE)
    potential = (h * z).sum((-2, -1)) - 0.5 * (z * (J @ z[..., None]).squeeze(-1)).sum((-2, -1))
    torch.testing.assert_close(potential + prior.log_prob(z) - chain.log_prob(z), log_z, **CLOSE)
    backward = GaussianChain.from_moments(*smoothed, direction="backward", method=method)
    torch.testing.assert_close(backward.log_prob(z), chain.log_prob(z), **CLOSE)


@pytest.mark.parametrize(("direction", "entrywise", "method"), CASES)
def test_conditioning_against_the_dense_product(direction, entrywise, method):
    """Diagonal and full precisions, on chains of both kinds and directions."""
    prior = random_chain(entrywise=entrywise, direction=direction, method=method)
    g = seeded(1)
    h = torch.randn(T, L, generator=g, dtype=torch.float64)
    truth = dense(prior)
    for J in (torch.rand(T, L, generator=g).double(), random_covariance(L, g, T)):
        posterior, log_z = prior.condition(J, h)
        assert posterior.direction == direction
        assert posterior.entrywise == (entrywise and J.ndim == 2)
        precision = truth.precision_matrix + torch.block_diag(*(torch.diag_embed(J) if J.ndim == 2 else J))
        covariance = torch.linalg.inv(precision)
        information = truth.precision_matrix @ truth.mean + h.flatten()
        mean = covariance @ information
        torch.testing.assert_close(posterior.mean.flatten(), mean, **CLOSE)
        torch.testing.assert_close(posterior.moments().covariance, entries(blocks(covariance, 0), posterior), **CLOSE)
        expected = 0.5 * (information @ mean - truth.mean @ truth.precision_matrix @ truth.mean)
        expected = expected + 0.5 * (torch.logdet(truth.precision_matrix) - torch.logdet(precision))
        torch.testing.assert_close(log_z, expected, **CLOSE)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("entrywise", [False, True])
def test_potentials_that_say_nothing_or_everything(method, entrywise):
    prior = random_chain(2, entrywise=entrywise, method=method)
    nothing = torch.zeros(2, T, L, dtype=torch.float64)
    same, log_z = prior.condition(nothing, nothing)
    for a, b in zip(same.moments(), prior.moments(), strict=True):
        torch.testing.assert_close(a, b, **CLOSE)
    assert log_z.abs().max() < 1e-12
    # Missing frames are potentials of zero, whatever stands there; missing entries likewise.
    J, h = torch.rand(2, T, L, generator=seeded()).double(), torch.randn(2, T, L, generator=seeded(1)).double()
    some = (torch.rand(2, T, generator=seeded(2)) < 0.5, torch.rand(2, T, L, generator=seeded(2)) < 0.5)
    for mask in (*some, torch.zeros(2, T, dtype=torch.bool)):  # the last has no frame at all
        there = mask if mask.ndim == 3 else mask[..., None]
        expected = prior.condition(torch.where(there, J, 0), torch.where(there, h, 0))
        junk = prior.condition(torch.where(there, J, torch.nan), torch.where(there, h, torch.inf), mask=mask)
        torch.testing.assert_close(junk.chain.mean, expected.chain.mean, **CLOSE)
        torch.testing.assert_close(junk.log_normalizer, expected.log_normalizer, **CLOSE)
    # A precision of 1e12 is an observation.
    value = torch.randn(2, L, generator=seeded(3)).double()
    J, h = nothing.clone(), nothing.clone()
    J[:, 2], h[:, 2] = 1e12, 1e12 * value
    known = prior.condition(J, h).chain
    torch.testing.assert_close(known.mean[:, 2], value, rtol=1e-6, atol=1e-6)
    assert known.variance[:, 2].max() < 1.1e-12
    assert torch.isfinite(known.mean).all()


@pytest.mark.parametrize("method", METHODS)
def test_a_prior_that_hardly_moves_keeps_its_accuracy(method):
    """Variances of 1e-14 of the noise: through their inverses the information of the data would be lost."""
    steps, tiny = 50, 1e-7
    one = torch.ones(steps, 1, dtype=torch.float64)
    deviations = torch.cat([one[:1], tiny * one[1:]])
    x = torch.randn(steps, 1, generator=seeded(), dtype=torch.float64)
    for prior in (
        GaussianChain(one, 0 * one, deviations, method=method),
        GaussianChain(one[..., None], 0 * one, deviations[..., None], method=method),
    ):
        posterior = prior.condition(one, x).chain
        mean = x.sum() / (1 + steps)  # a constant of prior variance one, seen `steps` times
        torch.testing.assert_close(posterior.mean, mean.expand(steps, 1), rtol=0, atol=1e-10)
        torch.testing.assert_close(posterior.variance, (1 / (1 + steps) * one), rtol=0, atol=1e-10)


@pytest.mark.parametrize("method", METHODS)
def test_a_prior_with_singular_noise(method):
    """An autoregression of second order: the second entry repeats the first of the frame before."""
    A = torch.tensor([[1.2, -0.4], [1.0, 0.0]], dtype=torch.float64)
    noise = torch.tensor([[0.5, 0.0], [0.0, 0.0]], dtype=torch.float64)
    C, R = torch.tensor([[1.0, 0.3]], dtype=torch.float64), torch.tensor([[0.2]], dtype=torch.float64)
    ssm = LinearGaussianSSM(A, C, noise, R, mu_1=torch.ones(2).double(), Lambda_1=torch.eye(2).double())
    x = sample(ssm, 20, generator=seeded()).x
    prior = GaussianChain.from_ssm(ssm, 20, method=method)
    J, h = evidence(ssm, x)
    posterior, log_z = prior.condition(J.expand(20, 2, 2), h)
    for a, b in zip(posterior.moments(), kalman_smoother(ssm, x), strict=True):
        torch.testing.assert_close(a, b, **CLOSE)
    rest = MultivariateNormal(torch.zeros(1).double(), R).log_prob(x).sum()
    torch.testing.assert_close(log_z + rest, log_likelihood(ssm, x), **CLOSE)
    z = posterior.sample(generator=seeded())
    torch.testing.assert_close(z[1:, 1], z[:-1, 0], rtol=0, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_long_chains_in_single_precision(dtype):
    """Against the Kalman smoother in float64, over 400 frames, with moments rounded to float32 in between."""
    steps = 400
    ssm = random_ssm(L, 2, seed=5).replace(Sigma=1e-3 * torch.eye(2).double())
    x = sample(ssm, steps, generator=seeded()).x
    truth = kalman_smoother(ssm, x)
    single = ssm.to(dtype)
    J, h = (value.to(dtype) for value in evidence(ssm, x))
    posterior = GaussianChain.from_ssm(single, steps).condition(J.expand(steps, L, L), h).chain
    assert posterior.offset.dtype == dtype
    scale = truth.mean.std()
    tolerance = 1e-10 if dtype == torch.float64 else 1e-4
    assert ((posterior.mean.double() - truth.mean).abs() < tolerance * scale).all()
    deviation = truth.covariance.diagonal(dim1=-2, dim2=-1).sqrt()
    got = posterior.variance.double().sqrt()
    assert ((got - deviation).abs() < (1e-9 if dtype == torch.float64 else 1e-3) * deviation).all()


def test_from_the_smoother_as_the_kvae_has_it():
    """Gain, offset and factor of the conditionals, as solved frame by frame."""
    ssm = random_ssm(2, 2, batch=(3,), steps=T, seed=4)
    x = sample(ssm, T, generator=seeded()).x
    mean, covariance, cross = kalman_smoother(ssm, x)
    chain = GaussianChain.from_moments(mean, covariance, cross)
    gain = torch.linalg.solve(covariance[:, :-1], cross.mT).mT
    factor = torch.linalg.cholesky(covariance[:, 1:] - gain @ cross.mT)
    torch.testing.assert_close(chain.transition[:, 1:], gain, **CLOSE)
    torch.testing.assert_close(chain.factor[:, 1:], factor, **CLOSE)
    noise = torch.randn(3, T, 2, generator=seeded(1), dtype=torch.float64)
    z = [mean[:, 0] + (torch.linalg.cholesky(covariance[:, 0]) @ noise[:, 0, :, None]).squeeze(-1)]
    for t in range(1, T):
        along = gain[:, t - 1] @ (z[-1] - mean[:, t - 1])[..., None] + factor[:, t - 1] @ noise[:, t, :, None]
        z.append(mean[:, t] + along.squeeze(-1))
    torch.testing.assert_close(chain.rsample(noise=noise), torch.stack(z, 1), **CLOSE)


@pytest.mark.parametrize("lengths", [None, [6, 4, 1]])
@pytest.mark.parametrize("mixture", [1, 3])
@pytest.mark.parametrize("driven", [False, True])
def test_the_posterior_of_the_kvae_is_a_chain_with_equal_numbers(lengths, mixture, driven):
    """From the smoother's moments, and once more without it, by conditioning the prior on the features."""
    torch.manual_seed(0)
    model = KVAE(5, 2, a_dim=2, mixture=mixture, u_dim=1 if driven else 0).double()
    x, u = (torch.randn(3, 6, n, generator=seeded(n), dtype=torch.float64) for n in (5, 1))
    u = u if driven else None
    lengths = None if lengths is None else torch.tensor(lengths)
    with torch.no_grad():
        latents = model.inference(x, u, lengths=lengths, generator=seeded(3))
        a, z, posterior = latents["a"].sample, latents["z"].sample, latents["z"].posterior
        ssm = model.state_space(a)
        mask = None if lengths is None else torch.arange(6) < lengths[:, None]
        smoothed = kalman_smoother(ssm, a, u, mask=mask)
        J = (ssm.stepwise("C").mT @ torch.linalg.inv(ssm.stepwise("Sigma")) @ ssm.stepwise("C")).expand(3, 6, 2, 2)
        h = (ssm.stepwise("C").mT @ torch.linalg.inv(ssm.stepwise("Sigma")) @ a[..., None]).squeeze(-1)
        prior = GaussianChain.from_ssm(ssm, 6, u)
        conditioned, log_z = prior.condition(J, h, mask=mask)
        own = torch.ones(3, 6, dtype=torch.bool) if mask is None else mask
        for chain in (GaussianChain.from_moments(*smoothed, lengths=lengths), conditioned):
            along = chain.conditionals(z)
            torch.testing.assert_close(along.mean[own], posterior.mean[own], **CLOSE)
            torch.testing.assert_close(along.scale_tril[own], posterior.scale_tril[own], **CLOSE)
        # log p(a) is the integral of the prior times the potentials, and what the potentials leave out.
        features = MultivariateNormal(torch.zeros(2).double(), ssm.Sigma).log_prob(a)
        likelihood = log_z + torch.where(own, features, 0).sum(-1)
        torch.testing.assert_close(likelihood, log_likelihood(ssm, a, u, mask=mask), **CLOSE)


def test_moments_that_are_singular():
    """A second entry that repeats the first: its conditional covariance is zero."""
    one = random_chain(size=1)
    mean, covariance, cross = one.moments()
    twice = torch.ones(2, 1, dtype=torch.float64)
    chain = GaussianChain.from_moments(mean @ twice.T, twice @ covariance @ twice.T, twice @ cross @ twice.T)
    z = chain.sample((5,), generator=seeded())
    torch.testing.assert_close(z[..., 0], z[..., 1], rtol=0, atol=1e-6)
    torch.testing.assert_close(chain.moments().covariance, twice @ covariance @ twice.T, rtol=1e-6, atol=1e-6)


# ---- padded batches, broadcasting ----------------------------------------------------------------------------------


def alone(chain, b, n):
    F, c, D = chain.transition[b, :n], chain.offset[b, :n], chain.factor[b, :n]
    return GaussianChain(F, c, D, direction=chain.direction)


@pytest.mark.parametrize(("direction", "entrywise", "method"), CASES)
def test_a_padded_batch_gives_what_each_sequence_gives_alone(direction, entrywise, method):
    F, b, D = parameters(3, entrywise=entrywise)
    lengths = torch.tensor([T, 3, 1])
    for i, n in enumerate(lengths.tolist()):
        F[i, n:], b[i, n:], D[i, n:] = 7.0, 8.0, 9.0
    chain = GaussianChain(F, b, D, direction=direction, lengths=lengths, method=method)
    other = random_chain(3, entrywise=entrywise, direction="forward", method=method, seed=5, lengths=lengths)
    z = chain.sample((2,), generator=seeded())
    for i, n in enumerate(lengths.tolist()):
        z[:, i, n:] = torch.nan
    J, h = torch.rand(3, T, L, generator=seeded()).double(), torch.randn(3, T, L, generator=seeded(1)).double()
    for i, n in enumerate(lengths.tolist()):
        J[i, n:] = h[i, n:] = torch.nan
    posterior = chain.condition(J, h)
    frames = chain.log_prob_per_frame(z)
    turned = chain.reversed()
    again = {
        "moments": GaussianChain.from_moments(*chain.moments(), direction=direction, lengths=lengths),
        "potentials": GaussianChain.from_potentials(*chain.precision(), direction=direction, lengths=lengths),
    }
    for i, n in enumerate(lengths.tolist()):
        own = GaussianChain(F[i, :n], b[i, :n], D[i, :n], direction=direction)
        theirs = alone(other, i, n)
        torch.testing.assert_close(chain.log_prob(z)[:, i], own.log_prob(z[:, i, :n]), **CLOSE)
        assert frames[:, i, n:].abs().sum() == 0
        torch.testing.assert_close(chain.entropy()[i], own.entropy(), **CLOSE)
        torch.testing.assert_close(chain.kl(other)[i], own.kl(theirs), **CLOSE)
        torch.testing.assert_close(turned.log_prob(z)[:, i], own.log_prob(z[:, i, :n]), **CLOSE)
        for a, c in zip(chain.moments(), own.moments(), strict=True):
            torch.testing.assert_close(a[i, : c.shape[0]], c, **CLOSE)
        alone_posterior = own.condition(J[i, :n], h[i, :n])
        torch.testing.assert_close(posterior.chain.mean[i, :n], alone_posterior.chain.mean, **CLOSE)
        torch.testing.assert_close(posterior.log_normalizer[i], alone_posterior.log_normalizer, **CLOSE)
        for name, value in again.items():
            torch.testing.assert_close(
                value.log_prob(z)[:, i], own.log_prob(z[:, i, :n]), msg=lambda m, name=name: f"{name}: {m}", **CLOSE
            )


def test_batch_dimensions_broadcast():
    """One set of matrices for many series: samples, densities and posteriors of each."""
    F, b, D = parameters()
    offsets = torch.randn(4, 2, T, L, generator=seeded(), dtype=torch.float64)
    shared = GaussianChain(F[None, None], offsets, D[None, None])
    assert shared.batch_shape == (4, 2)
    noise = torch.randn(4, 2, T, L, generator=seeded(1), dtype=torch.float64)
    one = GaussianChain(F, offsets[3, 1], D)
    torch.testing.assert_close(shared.rsample(noise=noise)[3, 1], one.rsample(noise=noise[3, 1]), **CLOSE)
    J, h = torch.rand(4, 2, T, L).double(), torch.randn(4, 2, T, L).double()
    single = GaussianChain(F, b, D)
    many = single.condition(J, h)
    assert many.chain.batch_shape == many.log_normalizer.shape == (4, 2)
    torch.testing.assert_close(many.chain.mean[2, 1], single.condition(J[2, 1], h[2, 1]).chain.mean, **CLOSE)
    full = single.condition(torch.diag_embed(J[:1, :1]), h)
    torch.testing.assert_close(full.chain.mean[2, 1], single.condition(J[0, 0], h[2, 1]).chain.mean, **CLOSE)
    torch.testing.assert_close(many.chain.kl(single)[2, 1], single.condition(J[2, 1], h[2, 1]).chain.kl(single))
    assert single.log_prob(noise).shape == (4, 2)
    assert single.expand((4, 2)).sample().shape == (4, 2, T, L)
    mixed = GaussianChain(F, b, D.diagonal(dim1=-2, dim2=-1))  # matrices and standard deviations
    assert not mixed.entrywise
    torch.testing.assert_close(mixed.entropy(), dense(mixed).entropy(), **CLOSE)


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("method", METHODS)
def test_the_shortest_chains(steps, method):
    for entrywise in (False, True):
        chain = random_chain(entrywise=entrywise, steps=steps, method=method)
        truth = dense(chain)
        z = chain.sample(generator=seeded())
        torch.testing.assert_close(chain.log_prob(z), truth.log_prob(z.flatten()), **CLOSE)
        assert chain.reversed().moments().cross_covariance.shape[0] == steps - 1
        for again in (
            GaussianChain.from_moments(*chain.moments(), method=method),
            GaussianChain.from_potentials(*chain.precision(), method=method),
            chain.condition(torch.zeros(steps, L).double(), torch.zeros(steps, L).double()).chain,
        ):
            torch.testing.assert_close(again.log_prob(z), chain.log_prob(z), **CLOSE)
        zero = chain.offset[1:] * 0
        from_factor = GaussianChain.from_bidiagonal_factor(chain.offset, torch.ones_like(chain.offset), zero)
        assert from_factor.event_shape == (steps, L)


# ---- derivatives ---------------------------------------------------------------------------------------------------


def functions(direction, method):
    """What is computed from each way to give a chain, as functions of tensors without constraints."""

    def of(chain):
        noise = torch.randn(*chain.batch_shape, *chain.event_shape, generator=seeded(9), dtype=torch.float64)
        posterior = chain.condition(0.5 + noise.square(), noise)
        return (
            chain.rsample(noise=noise),
            chain.log_prob(noise),
            chain.entropy(),
            *chain.moments(),
            *chain.precision(),
            chain.reversed().transition,
            chain.reversed().offset,
            posterior.chain.rsample(noise=noise),
            posterior.log_normalizer,
            posterior.chain.kl(chain),
        )

    def conditionals(F, b, W):
        positive = W.tril(-1) + torch.diag_embed(W.diagonal(dim1=-2, dim2=-1).exp())
        return of(GaussianChain(F, b, positive, direction=direction, method=method))

    def potentials(O, h, W):
        J = W @ W.mT + 8 * torch.eye(2).double()
        chain = GaussianChain.from_potentials(J, O, h, direction=direction, method=method)
        return (*of(chain), chain.transition)

    def factor(C, m, B):
        chain = GaussianChain.from_bidiagonal_factor(m, B + 3 * torch.eye(2).double(), C, direction=direction)
        return of(chain)

    def moments(C, m, W):
        P = W @ W.mT + 4 * torch.eye(2).double()
        return of(GaussianChain.from_moments(m, P, 0.5 * C.tanh(), direction=direction, method=method))

    return {"conditionals": conditionals, "potentials": potentials, "factor": factor, "moments": moments}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("name", ["conditionals", "potentials", "factor", "moments"])
def test_gradcheck(direction, method, name):
    steps = 4
    couplings = steps if name == "conditionals" else steps - 1
    g = seeded(1)
    inputs = [
        (0.5 * torch.randn(2, *shape, generator=g, dtype=torch.float64)).requires_grad_()
        for shape in ((couplings, 2, 2), (steps, 2), (steps, 2, 2))
    ]
    torch.autograd.gradcheck(functions(direction, method)[name], inputs, fast_mode=True, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_gradcheck_of_scalar_chains_and_of_potentials(method):
    g = seeded(2)
    inputs = [torch.randn(2, 4, 3, generator=g, dtype=torch.float64).requires_grad_() for _ in range(5)]

    def infer(F, b, D, J, h):
        chain, log_z = GaussianChain(F, b, D.exp(), method=method).condition(J.square(), h)
        return chain.mean, chain.variance, log_z, chain.kl(GaussianChain(F, b, D.exp(), method=method))

    torch.autograd.gradcheck(infer, inputs, fast_mode=True, atol=1e-6)

    def full(F, b, W, h):
        noise = W @ W.mT + torch.eye(2).double()
        chain, log_z = GaussianChain(F, b, torch.linalg.cholesky(noise), method=method).condition(W.mT @ W, h)
        return chain.mean, *chain.moments()[1:], log_z

    matrices = [
        torch.randn(4, *s, generator=g, dtype=torch.float64).requires_grad_() for s in ((2, 2), (2,), (2, 2), (2,))
    ]
    torch.autograd.gradcheck(full, matrices, fast_mode=True, atol=1e-6)


def test_second_derivatives_of_the_elimination():
    g = seeded(3)
    O, h, W = (
        (0.5 * torch.randn(*s, generator=g, dtype=torch.float64)).requires_grad_()
        for s in ((3, 2, 2), (4, 2), (4, 2, 2))
    )

    def normaliser(O, h, W):
        J = W @ W.mT + 4 * torch.eye(2).double()
        return -GaussianChain.from_potentials(J, O, h).log_prob(torch.zeros(4, 2).double())

    torch.autograd.gradgradcheck(normaliser, (O, h, W), fast_mode=True, atol=1e-6)


def test_gradient_of_the_normaliser_is_the_expected_statistics():
    """Of the exponential family: the derivative of log Z with respect to h is the mean."""
    chain = random_chain(2)
    J, O, h = (value.detach().requires_grad_() for value in chain.precision())
    log_z = -GaussianChain.from_potentials(J, O, h).log_prob(torch.zeros(T, L).double())
    to_J, to_O, to_h = torch.autograd.grad(log_z.sum(), (J, O, h))
    moments = chain.moments()
    outer = moments.covariance + moments.mean[..., None] * moments.mean[..., None, :]
    pairs = moments.cross_covariance + moments.mean[:, 1:, :, None] * moments.mean[:, :-1, None, :]
    torch.testing.assert_close(to_h, moments.mean, **CLOSE)
    torch.testing.assert_close(to_J, -0.5 * outer, **CLOSE)
    torch.testing.assert_close(to_O, -pairs, **CLOSE)


# ---- bad input -----------------------------------------------------------------------------------------------------


def test_refuses_at_the_door(as_a_user):
    F, b, D = parameters(2)
    chain = GaussianChain(F, b, D)
    with pytest.raises(TypeError, match="transition must be a tensor of float32 or float64, got list"):
        GaussianChain([1.0], b, D)
    with pytest.raises(TypeError, match=r"offset is torch\.float32"):
        GaussianChain(F, b.float(), D)
    with pytest.raises(ValueError, match="with at least one frame"):
        GaussianChain(F[:, :0], b[:, :0], D[:, :0])
    with pytest.raises(ValueError, match=r"transition must have shape \(\*batch, 5, 3, 3\)"):
        GaussianChain(F[:, 1:], b, D)
    with pytest.raises(ValueError, match="do not broadcast"):
        GaussianChain(F, b, D.expand(2, T, L, L)[:1].expand(3, T, L, L))
    with pytest.raises(ValueError, match="offset must be finite, got nan"):
        GaussianChain(F, b * torch.nan, D)
    with pytest.raises(ValueError, match="factor must have a positive diagonal"):
        GaussianChain(F, b, -D)
    with pytest.raises(ValueError, match='direction must be "forward" or "backward"'):
        GaussianChain(F, b, D, direction="both")
    with pytest.raises(ValueError, match="method must be"):
        GaussianChain(F, b, D, method="both")
    with pytest.raises(TypeError, match="lengths must be a tensor of whole numbers"):
        GaussianChain(F, b, D, lengths=torch.ones(2))
    with pytest.raises(ValueError, match="lie between 1 and 5"):
        GaussianChain(F, b, D, lengths=torch.tensor([0, 3]))
    with pytest.raises(ValueError, match="agree in length and size"):
        chain.kl(random_chain(2, steps=4))
    J, O, h = chain.precision()
    broken = J.clone()
    broken[1, 2] = -torch.eye(L)
    with pytest.raises(ValueError, match="not positive definite: that of frame 2 in series 1"):
        GaussianChain.from_potentials(broken, O, h)
    with pytest.raises(ValueError, match="not positive definite"):
        GaussianChain.from_potentials(0 * J, 0 * O, h, method="parallel")
    with pytest.raises(ValueError, match="diagonal must be finite, got inf"):
        GaussianChain.from_potentials(J * torch.inf, O, h)
    with pytest.raises(ValueError, match="as matrices, or both as diagonals"):
        GaussianChain.from_potentials(J, h[:, 1:], h)
    with pytest.raises(ValueError, match="invertible blocks"):
        GaussianChain.from_bidiagonal_factor(b, 0 * D, D[:, 1:])
    nothing = torch.zeros(2, T, L, dtype=torch.float64)
    with pytest.raises(ValueError, match="precision must be positive semi-definite"):
        chain.condition(nothing - 1, nothing)
    with pytest.raises(ValueError, match="precision must be positive semi-definite"):
        chain.condition(torch.ones(2, T, L, L).double() - 2 * torch.eye(L), nothing)
    with pytest.raises(ValueError, match="precision must be finite, got inf"):
        chain.condition(nothing + torch.inf, nothing)
    with pytest.raises(ValueError, match="information must be finite, got nan"):
        chain.condition(nothing, nothing * torch.nan)
    with pytest.raises(ValueError, match=r"information must have shape \(\*batch, 5, 3\)"):
        chain.condition(nothing[..., :2], nothing[..., :2])
    with pytest.raises(TypeError, match="mask must be a boolean tensor"):
        chain.condition(nothing, nothing, mask=torch.ones(2, T))
    with pytest.raises(ValueError, match="mask must have shape"):
        chain.condition(nothing, nothing, mask=torch.ones(T, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match="it needs a diagonal precision"):
        chain.condition(torch.diag_embed(nothing), nothing, mask=torch.ones(2, T, L, dtype=torch.bool))


def test_repr_says_what_it_is():
    assert repr(random_chain(2)) == "GaussianChain(T=5, z_dim=3, batch_shape=(2,), forward)"
    assert repr(random_chain(entrywise=True, direction="backward")) == (
        "GaussianChain(T=5, z_dim=3, batch_shape=(), backward, independent entries)"
    )


def test_the_truths_used_here_agree_with_each_other():
    """The dense Gaussian of a chain, and the brute-force posterior of a model without observations."""
    ssm = random_ssm(L, 2, steps=T, seed=6)
    truth = infer(ssm, torch.full((T, 2), torch.nan, dtype=torch.float64))
    chain = GaussianChain.from_ssm(ssm, T)
    np.testing.assert_allclose(dense(chain).covariance_matrix.numpy(), truth.posterior_covariance.numpy(), atol=1e-9)
    torch.testing.assert_close(chain.mean, kalman_filter(ssm, torch.full((T, 2), torch.nan).double()).predicted_mean)


def test_values_of_other_shapes_and_kinds_are_refused():
    chain = GaussianChain(torch.zeros(3, 2, 2), torch.zeros(3, 2), torch.eye(2).expand(3, 2, 2))
    for call in (chain.log_prob, chain.conditionals):
        for shape in ((4, 2), (1, 2), (3, 1), (0, 2)):  # one frame is not every frame
            with pytest.raises(ValueError, match=r"must have shape \(\*sample_shape, \*batch, 3, 2\)"):
                call(torch.zeros(shape))
        with pytest.raises(TypeError, match="convert one"):
            call(torch.zeros(3, 2).double())
    with pytest.raises(TypeError, match="convert one"):
        chain.rsample(noise=torch.zeros(3, 2).double())
    with pytest.raises(ValueError, match="factor must be lower-triangular"):
        GaussianChain(torch.zeros(3, 2, 2), torch.zeros(3, 2), torch.ones(3, 2, 2))


@pytest.mark.usefixtures("as_a_user")
def test_what_is_no_tensor_is_refused():
    chain = GaussianChain(torch.zeros(3, 2, 2), torch.zeros(3, 2), torch.eye(2).expand(3, 2, 2))
    for call in (
        lambda: chain.log_prob([1.0]),
        lambda: chain.conditionals(None),
        lambda: chain.rsample(noise=[1.0]),
        lambda: chain.condition([1.0], torch.zeros(3, 2)),
        lambda: chain.condition(torch.ones(3, 2), None),
    ):
        with pytest.raises(TypeError, match="must be a tensor of float32 or float64"):
            call()


def test_frames_without_a_potential_may_stand_beside_others_in_single_precision():
    """A precision of zero is no negative one, though its rounding leaves no room; padding and gaps make such."""
    chain = random_chain(2, lengths=torch.tensor([T, 2]))
    single = GaussianChain(
        chain.transition.float(), chain.offset.float(), chain.factor.float(), lengths=torch.tensor([T, 2])
    )
    J, h = random_covariance(L, seeded(3), 2, T), torch.ones(2, T, L).double()
    there = torch.tensor([[True, False, True, True, False], [False, True, True, True, True]])
    found = single.condition(J.float(), h.float(), mask=there)
    exact = chain.condition(J, h, mask=there)
    torch.testing.assert_close(found.log_normalizer.double(), exact.log_normalizer, rtol=1e-4, atol=1e-4)
