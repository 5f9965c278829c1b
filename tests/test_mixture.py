"""Mixtures of Gaussians, entry by entry: against torch's and by sampling; as an observation model."""

import pytest
import torch
from scipy import stats
from torch import distributions as td

from dvae_lib import VAE
from dvae_lib.distributions import DiagonalGaussian, GaussianMixture, observation_family, support_of


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def random(*shape, components=3):
    family = observation_family(f"gaussian_mixture(components={components})")
    size = (*shape[:-1], family.outputs_per_dim * shape[-1])
    return family.from_output(torch.randn(size, generator=seeded(), dtype=torch.float64))


def oracle(p):
    parts = td.Normal(p.means, (0.5 * p.logvars).exp())
    return td.Independent(td.MixtureSameFamily(td.Categorical(logits=p.logits), parts), 1)


def test_agrees_with_torch():
    p = random(4, 5, 3)
    x = oracle(p).sample()
    assert p.log_prob(x).shape == (4, 5)
    torch.testing.assert_close(p.log_prob(x), oracle(p).log_prob(x))
    torch.testing.assert_close(p.mean, oracle(p).mean)
    torch.testing.assert_close(p.variance, oracle(p).variance)


def test_one_component_is_a_gaussian():
    mean, logvar = torch.randn(2, 4, 3, generator=seeded()).unbind()
    p, expected = GaussianMixture(torch.zeros_like(mean), mean, logvar), DiagonalGaussian(mean, logvar)
    x = expected.sample(generator=seeded())
    torch.testing.assert_close(p.log_prob_per_dim(x), expected.log_prob_per_dim(x))
    torch.testing.assert_close(p.variance, expected.variance)


def test_samples_follow_the_density():
    p = random(1)
    samples = p.sample((4000,), generator=seeded())[:, 0]
    weights, parts = p.logits[0].softmax(-1).numpy(), stats.norm(p.means[0], (0.5 * p.logvars[0]).exp())
    assert stats.kstest(samples.numpy(), lambda value: parts.cdf(value[:, None]) @ weights).pvalue > 1e-3
    assert torch.equal(samples, p.sample((4000,), generator=seeded())[:, 0])
    assert not samples.requires_grad


def test_indexing_and_expanding_act_on_the_batch():
    p = random(4, 5, 3)
    x = p.sample(generator=seeded())
    torch.testing.assert_close(p[:, 2].log_prob(x[:, 2]), p.log_prob(x)[:, 2])
    assert p.expand((6, 4, 5)).sample(generator=seeded()).shape == (6, 4, 5, 3)


def test_gradients_of_the_density():
    raw = torch.randn(2, 3 * 6, generator=seeded(), dtype=torch.float64, requires_grad=True)
    x = GaussianMixture.from_output(raw).sample(generator=seeded())
    torch.autograd.gradcheck(lambda raw: GaussianMixture.from_output(raw).log_prob(x), raw)


def test_as_an_observation_model(tmp_path):
    assert support_of("gaussian_mixture").everything
    model = VAE(3, 2, observation="gaussian_mixture(components=4)")
    model.save_pretrained(tmp_path / "model")
    again = VAE.from_pretrained(tmp_path / "model")
    observation = again.generate(5, 2, generator=seeded()).observation
    assert isinstance(observation, GaussianMixture)
    assert observation.logits.shape == (2, 5, 3, 4)
    model.vlb(torch.randn(2, 5, 3, generator=seeded())).value.sum().backward()


def test_refusals():
    with pytest.raises(ValueError, match="3 K tensors; got 2"):
        GaussianMixture(torch.zeros(1), torch.zeros(1))
    for wrong in ("components=0", "components=1.5", "scale=2"):
        with pytest.raises(ValueError, match="cannot be made out"):
            observation_family(f"gaussian_mixture({wrong})")
