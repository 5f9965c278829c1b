import warnings
from itertools import pairwise

import numpy as np
import pytest
import torch
from sklearn import decomposition
from sklearn.exceptions import ConvergenceWarning

from dvae_lib.distributions import itakura_saito
from dvae_lib.enhancement.nmf import (
    FLOOR,
    factorise,
    factors_variance,
    random_factors,
    update_factors,
    update_gains,
)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture
def power(generator):
    """Powers over four decades."""
    return 10 ** (4 * torch.rand(30, 17, dtype=torch.float64, generator=generator) - 2)


def test_updates_are_those_of_scikit_learn(power, generator):
    rank, rounds = 3, 25
    W, H = random_factors(power, power.mean(0), rank, generator)
    peer = decomposition.NMF(rank, init="custom", solver="mu", beta_loss="itakura-saito", tol=0, max_iter=rounds)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        # Frames are its samples, so that its W are our activations, which it updates first, as we do.
        activations = peer.fit_transform(power.numpy(), W=H.T.numpy().copy(), H=W.T.numpy().copy())
    for _ in range(rounds):
        W, H = update_factors(power, W, H)
    theirs = activations @ peer.components_
    np.testing.assert_allclose(factors_variance(W, H).numpy(), theirs, rtol=1e-5)
    torch.testing.assert_close(W.sum(0), torch.ones(rank, dtype=torch.float64))
    np.testing.assert_allclose(W.numpy(), (peer.components_ / peer.components_.sum(1, keepdims=True)).T, rtol=1e-5)


@pytest.mark.parametrize("samples", [1, 3])
def test_no_update_ever_raises_the_divergence(power, generator, samples):
    """Averaged over samples of the speech variances, with each frame's gain."""
    speech = torch.rand(samples, *power.shape, dtype=torch.float64, generator=generator).square() * 10
    W, H = random_factors(power, power.mean(0), 4, generator)
    g = torch.ones(len(power), dtype=torch.float64)

    def divergence():
        return itakura_saito(power.expand_as(speech), g[:, None] * speech + factors_variance(W, H)).sum()

    before = divergence()
    first = before
    for _ in range(30):
        g = update_gains(power, g, speech, factors_variance(W, H))
        after = divergence()
        assert after < before
        before = after
        W, H = update_factors(power, W, H, g[:, None] * speech)
        after = divergence()
        assert after < before
        before = after
    assert before < 0.8 * first


def test_updates_stop_at_a_stationary_point(power, generator):
    """Where the updates have come to rest, the gradient that autograd finds is zero."""
    speech = torch.rand(2, *power.shape, dtype=torch.float64, generator=generator)
    W, H = random_factors(power, power.mean(0), 2, generator)
    g = torch.ones(len(power), dtype=torch.float64)
    for _ in range(500):
        g = update_gains(power, g, speech, factors_variance(W, H))
        W, H = update_factors(power, W, H, g[:, None] * speech)
    variables = [value.clone().requires_grad_() for value in (g, W, H)]
    variance = variables[0][:, None] * speech + (variables[1] @ variables[2]).mT
    itakura_saito(power.expand_as(variance), variance).sum().backward()
    for variable in variables:  # relative changes, zero where a factor has reached the floor
        assert (variable.grad * variable)[variable > 1e-6].abs().max() < 1e-2


def test_equal_samples_count_as_one(power, generator):
    speech = torch.rand(1, *power.shape, dtype=torch.float64, generator=generator)
    W, H = random_factors(power, power.mean(0), 2, generator)
    g = torch.ones(len(power), dtype=torch.float64)
    one, many = (
        (*update_factors(power, W, H, s), update_gains(power, g, s, factors_variance(W, H)))
        for s in (speech, speech.expand(5, -1, -1))
    )
    torch.testing.assert_close(many, one)


def test_known_factors_are_found_again(generator):
    """What is exactly of rank 2 is explained without rest, behind known speech variances too."""
    W = torch.rand(17, 2, dtype=torch.float64, generator=generator) + 0.01
    H = torch.rand(2, 40, dtype=torch.float64, generator=generator) + 0.01
    noise = (W @ H).mT
    assert factorise(noise, 2, num_iterations=300, generator=generator).cost[-1] < 0.1
    speech = torch.rand(1, 40, 17, dtype=torch.float64, generator=generator)
    found = random_factors(noise, noise.mean(0), 2, generator)
    for _ in range(300):
        found = update_factors(speech[0] + noise, *found, speech)
    torch.testing.assert_close(factors_variance(*found), noise, rtol=0.05, atol=1e-3)


def test_gains_are_found_again(generator):
    speech = torch.rand(1, 40, 17, dtype=torch.float64, generator=generator)
    noise = torch.full((40, 17), 0.1, dtype=torch.float64)
    true = torch.rand(40, dtype=torch.float64, generator=generator) + 0.1
    g = torch.ones(40, dtype=torch.float64)
    for _ in range(500):
        g = update_gains(true[:, None] * speech[0] + noise, g, speech, noise)
    torch.testing.assert_close(g, true, rtol=1e-4, atol=1e-4)


def test_a_known_dictionary_stays(power, generator):
    fixed = torch.rand(17, 5, dtype=torch.float64, generator=generator)
    found = factorise(power, 2, fixed=fixed, num_iterations=20, generator=generator)
    torch.testing.assert_close(found.W[:, :5], fixed / fixed.sum(0))
    assert found.W.shape == (17, 7)
    assert found.H.shape == (7, 30)
    assert all(after < before for before, after in pairwise(found.cost))


def test_nothing_becomes_zero_or_infinite(generator):
    """Digital silence in some bins, and a bin that is loud once: the factors stay above the floor."""
    power = torch.full((20, 9), 1e-10)
    power[3, 4] = 1e5
    W, H, cost = factorise(power, 3, num_iterations=200, generator=generator)
    assert (W > 0.5 * FLOOR).all()  # columns are normalised after they are held up
    assert (H > 0.5 * FLOOR).all()
    assert np.isfinite(cost).all()
    assert cost[-1] < cost[0]


def test_first_factors_lie_around_the_level(power, generator):
    level = power.mean(0)
    ratio = factors_variance(*random_factors(power, level, 8, generator)) / level
    assert ratio.min() > 0.4
    assert ratio.max() < 2.2


@pytest.mark.parametrize(
    ("change", "message"),
    [({"rank": 0}, "rank"), ({"num_iterations": 0}, "num_iterations"), ({"power": torch.zeros(3, 4)}, "positive")],
)
def test_errors(power, change, message):
    with pytest.raises(ValueError, match=message):
        factorise(**{"power": power, "rank": 2, **change})
