"""Counts, heavy tails and classes: against torch's own, sums and integrals, and the laws they must obey."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import distributions as td

from dvae_lib.distributions import (
    OBSERVATIONS,
    CategoricalVector,
    DiagonalGaussian,
    Laplace,
    NegativeBinomial,
    OneHotCategorical,
    Poisson,
    StudentT,
    kl_divergence,
    kl_per_dim,
    support_of,
)

COUNTS = [Poisson, NegativeBinomial]
TAILS = [Laplace, StudentT]
FAMILIES = [*COUNTS, *TAILS, OneHotCategorical]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def random(family, *shape, seed=0):
    size = (*shape[:-1], family.outputs_per_dim * shape[-1])
    return family.from_output(torch.randn(size, generator=seeded(seed), dtype=torch.float64))


def oracle(p):
    """The same distribution, from torch."""
    if isinstance(p, Poisson):
        return td.Independent(td.Poisson(p.lograte.exp()), 1)
    if isinstance(p, NegativeBinomial):
        r = (-p.logdispersion).exp()
        return td.Independent(td.NegativeBinomial(r, logits=p.logmean - r.log()), 1)
    if isinstance(p, Laplace):
        return td.Independent(td.Laplace(p.mean, p.logscale.exp()), 1)
    if isinstance(p, StudentT):
        return td.Independent(td.StudentT(2 + p.logexcess.exp(), p.mean, p.logscale.exp()), 1)
    return td.OneHotCategorical(logits=p.logits)


def one(value):
    return torch.tensor([value], dtype=torch.float64)


def test_the_new_families_are_registered():
    assert set(FAMILIES) <= set(OBSERVATIONS.values())


@pytest.mark.parametrize("family", FAMILIES)
def test_agrees_with_torch(family):
    p = random(family, 4, 5, 3)
    x = oracle(p).sample()
    assert p.log_prob(x).shape == (4, 5)
    torch.testing.assert_close(p.log_prob(x), oracle(p).log_prob(x), rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(p.log_prob_per_dim(x).sum(-1), p.log_prob(x))
    torch.testing.assert_close(p.mean, oracle(p).mean)
    torch.testing.assert_close(p.variance, oracle(p).variance)
    if family not in COUNTS:
        torch.testing.assert_close(p.entropy(), oracle(p).entropy())
        torch.testing.assert_close(p.mode, oracle(p).mode)
    else:
        with pytest.raises(NotImplementedError, match="has no closed form for its entropy"):
            p.entropy()


@pytest.mark.parametrize("family", COUNTS)
def test_counts_are_normalised_by_summation(family):
    p = random(family, 3)
    counts = torch.arange(4000, dtype=torch.float64)[:, None].expand(-1, 3)
    probability = p.log_prob_per_dim(counts).exp()
    torch.testing.assert_close(probability.sum(0), torch.ones(3, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close((probability * counts).sum(0), p.mean, rtol=1e-9, atol=0)
    torch.testing.assert_close((probability * (counts - p.mean).square()).sum(0), p.variance, rtol=1e-7, atol=0)


@pytest.mark.parametrize("family", TAILS)
def test_densities_are_normalised_by_quadrature(family):
    p = random(family, 1)
    at = p.mean.item()

    def density(value):
        return p.log_prob(one(value)).exp().item()

    sides = [integrate.quad(density, *side, limit=200)[0] for side in ((-np.inf, at), (at, np.inf))]
    assert sum(sides) == pytest.approx(1, abs=1e-8)
    assert sides[0] == pytest.approx(0.5, abs=1e-8)


@pytest.mark.parametrize("family", [Poisson, OneHotCategorical, Laplace])
def test_kl_is_the_expected_log_ratio(family):
    size = 4 if family is OneHotCategorical else 1
    q, p = random(family, size, seed=1), random(family, size, seed=2)
    if family is Laplace:

        def integrand(value):
            return (q.log_prob(one(value)).exp() * (q.log_prob(one(value)) - p.log_prob(one(value)))).item()

        kinks = sorted((q.mean.item(), p.mean.item()))
        pieces = ((kinks[0] - 60, kinks[0]), tuple(kinks), (kinks[1], kinks[1] + 60))
        expected = sum(integrate.quad(integrand, *piece, limit=200)[0] for piece in pieces)
    else:
        values = torch.eye(4).double() if family is OneHotCategorical else torch.arange(200.0).double()[:, None]
        expected = (q.log_prob(values).exp() * (q.log_prob(values) - p.log_prob(values))).sum().item()
    assert kl_divergence(q, p).item() == pytest.approx(expected, rel=1e-8)
    assert kl_divergence(q, q).item() == pytest.approx(0, abs=1e-15)
    assert td.kl_divergence(q, p).item() == kl_divergence(q, p).item()
    torch.testing.assert_close(kl_divergence(q, p), td.kl_divergence(oracle(q), oracle(p)))


@pytest.mark.parametrize("family", FAMILIES)
def test_no_closed_form_across_families(family):
    p = random(family, 3)
    with pytest.raises(NotImplementedError, match="kl='sampled'"):
        kl_per_dim(p, DiagonalGaussian(torch.zeros(3), torch.zeros(3)))


@pytest.mark.parametrize("family", FAMILIES)
def test_samples_follow_the_distribution(family):
    n = 4000
    if family is OneHotCategorical:
        p = random(family, 4, seed=3)
        counts = p.sample((n,), generator=seeded()).sum(0).numpy()
        assert stats.chisquare(counts, n * p.mean.numpy()).pvalue > 1e-3
        return
    p = random(family, 1, seed=3)
    samples = p.sample((n,), generator=seeded()).squeeze(-1).numpy()
    if family in COUNTS:
        assert (samples == samples.round()).all()
        assert samples.min() >= 0
        top = 12
        counts = np.bincount(np.minimum(samples, top).astype(int), minlength=top + 1)
        probability = np.array([p.log_prob(one(float(k))).exp().item() for k in range(top)])
        expected = n * np.append(probability, 1 - probability.sum())
        assert stats.chisquare(counts[expected > 5], expected[expected > 5], sum_check=False).pvalue > 1e-3
        assert counts[expected <= 5].sum() <= 4 * expected[expected <= 5].sum() + 10
        return
    scale = p.logscale.exp().item()
    cdf = (
        stats.laplace(p.mean.item(), scale).cdf
        if family is Laplace
        else stats.t(p.degrees_of_freedom.item(), p.mean.item(), scale).cdf
    )
    assert stats.kstest(samples, cdf).pvalue > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_sampling_repeats_with_the_generator(family):
    p = random(family, 2, 3, 4)
    draws = [p.sample(generator=seeded(7)) for _ in range(2)]
    assert torch.equal(*draws)
    assert draws[0].shape == (2, 3, 4)
    assert not draws[0].requires_grad
    assert p.sample((5,)).shape == (5, 2, 3, 4)


@pytest.mark.parametrize("family", TAILS)
def test_reparameterised_gradients_are_those_of_the_moments(family):
    raw = torch.tensor([[0.3, -0.2, 1.5][: family.outputs_per_dim]], dtype=torch.float64, requires_grad=True)
    p = family.from_output(raw)
    draws = p.rsample((400_000,), generator=seeded())
    for estimate, exact in ((draws.mean(), p.mean.sum()), ((draws - p.mean).square().mean(), p.variance.sum())):
        by_samples = torch.autograd.grad(estimate, raw, retain_graph=True)[0]
        torch.testing.assert_close(
            by_samples, torch.autograd.grad(exact, raw, retain_graph=True)[0], atol=0.03, rtol=0.05
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_indexing_and_expanding_act_on_the_batch(family):
    p = random(family, 4, 5, 3)
    x = p.sample(generator=seeded())
    torch.testing.assert_close(p[1].log_prob(x[1]), p.log_prob(x)[1])
    torch.testing.assert_close(p[:, 2].log_prob(x[:, 2]), p.log_prob(x)[:, 2])
    assert p[1, 2].batch_shape == ()
    assert p.expand((6, 4, 5)).batch_shape == (6, 4, 5)


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_of_the_density(family):
    raw = torch.randn(2, 3 * family.outputs_per_dim, generator=seeded(), dtype=torch.float64, requires_grad=True)
    x = family.from_output(raw).sample(generator=seeded())
    torch.autograd.gradcheck(lambda raw: family.from_output(raw).log_prob(x), raw)


def test_supports():
    for name in ("poisson", "negative_binomial"):
        assert support_of(name) == (0.0, math.inf, True)
    for name in ("laplace", "student_t"):
        assert support_of(name).everything
    assert support_of("categorical") == (0.0, 1.0, False)


# ---- limits ------------------------------------------------------------------------------------------------------


def test_a_negative_binomial_without_dispersion_is_a_poisson_distribution():
    lograte = torch.tensor([1.0, -1.0, 3.0])
    x = torch.tensor([2.0, 0.0, 31.0])
    small = NegativeBinomial(lograte, torch.full((3,), -16.0))  # in single precision
    torch.testing.assert_close(small.log_prob_per_dim(x), Poisson(lograte).log_prob_per_dim(x), rtol=0, atol=2e-5)


def test_a_negative_binomial_is_a_poisson_distribution_of_random_rate():
    p = NegativeBinomial(one(0.7), one(-0.5))
    r = math.exp(0.5)
    rate = stats.gamma(r, scale=math.exp(0.7) / r)
    for k in (0, 1, 5):
        mixed = integrate.quad(lambda v, k=k: rate.pdf(v) * stats.poisson(v).pmf(k), 0, np.inf)[0]
        assert p.log_prob(one(float(k))).exp().item() == pytest.approx(mixed, rel=1e-6)


def test_a_student_with_many_degrees_of_freedom_is_a_gaussian():
    x = torch.tensor([0.0, 1.0, -2.5])
    zero = torch.zeros(3)
    p = StudentT(zero, zero, torch.full((3,), 15.0))  # in single precision
    expected = DiagonalGaussian(zero, zero)
    torch.testing.assert_close(p.log_prob_per_dim(x), expected.log_prob_per_dim(x), rtol=0, atol=1e-5)
    torch.testing.assert_close(p.entropy(), expected.entropy(), rtol=0, atol=1e-5)
    assert p.degrees_of_freedom.min() > 2


# ---- classes -----------------------------------------------------------------------------------------------------


def test_samples_of_classes_are_one_hot():
    p = random(OneHotCategorical, 6, 5)
    x = p.sample((100,), generator=seeded())
    assert ((x == 0) | (x == 1)).all()
    assert (x.sum(-1) == 1).all()


def test_relaxed_samples_choose_the_exact_class_and_tend_to_it():
    p = random(OneHotCategorical, 50, 4)
    exact = p.sample((20,), generator=seeded())
    straight = p.rsample((20,), generator=seeded())
    torch.testing.assert_close(straight, exact)
    previous = math.inf
    for temperature in (2.0, 0.5, 1e-3):
        relaxed = p.rsample((20,), temperature=temperature, straight_through=False, generator=seeded())
        torch.testing.assert_close(relaxed.sum(-1), torch.ones(20, 50, dtype=torch.float64))
        assert torch.equal(relaxed.argmax(-1), exact.argmax(-1))
        distance = (relaxed - exact).abs().mean().item()
        assert distance < previous
        previous = distance
    assert previous < 1e-3
    with pytest.raises(ValueError, match="temperature must be positive"):
        p.rsample(temperature=0.0)


def test_gradients_through_relaxed_samples():
    """Straight-through samples carry those of the relaxed ones, which point where the mean does."""
    logits = torch.tensor([0.1, -0.4, 0.6], dtype=torch.float64, requires_grad=True)
    p = OneHotCategorical(logits)
    value = torch.tensor([1.0, 2.0, -1.0], dtype=torch.float64)
    gradients = []
    for straight_through in (True, False):
        draws = p.rsample((200_000,), straight_through=straight_through, generator=seeded())
        gradients.append(torch.autograd.grad((draws @ value).mean(), logits, retain_graph=True)[0])
    torch.testing.assert_close(*gradients)
    exact = torch.autograd.grad(p.mean @ value, logits)[0]
    assert torch.cosine_similarity(gradients[0], exact, dim=0) > 0.95
    sharp = p.rsample((400_000,), temperature=0.1, straight_through=False, generator=seeded())
    near = torch.autograd.grad((sharp @ value).mean(), logits)[0]
    torch.testing.assert_close(near, exact, atol=0.05, rtol=0.05)  # the relaxation's bias goes with the temperature


def test_classes_that_cannot_be():
    logits = torch.tensor([0.3, -math.inf, 0.1], dtype=torch.float64, requires_grad=True)
    p = OneHotCategorical(logits)
    x = p.sample((5000,), generator=seeded())
    assert x[:, 1].sum() == 0
    for value in (p.log_prob(x).sum(), p.entropy(), p.kl_per_dim(OneHotCategorical(torch.zeros(3).double())).sum()):
        assert torch.isfinite(value)
        assert torch.isfinite(torch.autograd.grad(value, logits, retain_graph=True)[0]).all()
    impossible = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
    assert p.log_prob(impossible) == -math.inf
    assert OneHotCategorical(torch.zeros(3).double()).kl_per_dim(p).sum() == math.inf


def test_probabilities_stand_for_the_mean_of_random_classes():
    p, weight = random(OneHotCategorical, 4), random(OneHotCategorical, 4, seed=1).mean
    expected = (weight * p.log_prob(torch.eye(4).double())).sum()
    torch.testing.assert_close(p.log_prob(weight), expected)


# ---------------------------------------------------------------- several categorical variables


def test_a_vector_of_categories_is_torchs_product_of_them():
    p, q = (CategoricalVector.of(3)(random(OneHotCategorical, 4, 6, seed=seed).logits) for seed in (0, 1))
    of_torch = [td.Independent(td.OneHotCategorical(logits=d.logits.unflatten(-1, (2, 3))), 1) for d in (p, q)]
    x = p.sample((5,), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(p.log_prob(x), of_torch[0].log_prob(x.unflatten(-1, (2, 3))))
    torch.testing.assert_close(p.entropy(), of_torch[0].entropy())
    divergence = td.kl_divergence(of_torch[0].base_dist, of_torch[1].base_dist).sum(-1)
    torch.testing.assert_close(p.kl_per_dim(q).sum(-1), divergence)
    torch.testing.assert_close(p.mean, of_torch[0].mean.flatten(-2))
    torch.testing.assert_close(p.variance, of_torch[0].variance.flatten(-2))
    assert torch.equal(p.mode, of_torch[0].mode.flatten(-2))
    with pytest.raises(NotImplementedError):
        p.kl_per_dim(CategoricalVector(q.logits))
    assert CategoricalVector.of(None) is CategoricalVector
    assert CategoricalVector.of(3) is CategoricalVector.of(3)


def test_straight_through_gradients_are_exact_of_linear_functions():
    """Each sample is one of the classes; with the other function the gradient has a bias that is known."""
    logits, w = (torch.tensor(v).double() for v in ([0.3, -0.5, 1.0, 0.2], [1.0, -2.0, 0.5, 3.0]))
    p = CategoricalVector.of(2)(logits.requires_grad_())
    exact = torch.autograd.grad((w * p.mean).sum(), logits)[0]
    for seed in range(3):
        z = p.rsample(generator=seeded(seed))
        assert z.unflatten(-1, (2, 2)).sort(-1).values.tolist() == [[0, 1], [0, 1]]
        torch.testing.assert_close(torch.autograd.grad((w * z).sum(), logits, retain_graph=True)[0], exact)
    z = p.rsample((20_000,), generator=seeded())
    # z_1 z_2 is always zero. Each factor gets the gradient of its mean, at the other's draw: (m_2 - m_1) dm_1.
    found = torch.autograd.grad((z[:, 0] * z[:, 1]).mean(), logits, retain_graph=True)[0]
    m = p.mean.detach()
    wanted = (m[1] - m[0]) * m[0] * m[1] * torch.tensor([1.0, -1.0, 0.0, 0.0]).double()
    torch.testing.assert_close(found, wanted, rtol=0, atol=0.01)
    assert wanted.abs().max() > 0.05
