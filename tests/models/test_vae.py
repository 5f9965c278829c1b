"""The VAE against the closed form of probabilistic PCA (Tipping and Bishop, 1999)."""

import math

import torch
from torch.distributions import MultivariateNormal

from dvae_lib.models import VAE


def linear_vae(x_dim=6, z_dim=2, noise=0.3):
    """A linear VAE whose encoder is the exact posterior, and the Gaussian that its marginal is.

    The posterior has covariance (I + W'W / s2)^-1, diagonal when the columns of W are orthogonal.
    """
    generator = torch.Generator().manual_seed(0)
    basis, _ = torch.linalg.qr(torch.randn(x_dim, z_dim, generator=generator, dtype=torch.float64))
    w = basis * torch.tensor([1.5, 0.7], dtype=torch.float64)
    mu = torch.randn(x_dim, generator=generator, dtype=torch.float64)
    model = VAE(x_dim, z_dim, encoder=(), decoder=()).double()
    precision = torch.eye(z_dim, dtype=torch.float64) + w.T @ w / noise**2
    gain = torch.linalg.solve(precision, w.T) / noise**2
    with torch.no_grad():
        model.x_head.linear.weight[:x_dim] = w
        model.x_head.linear.weight[x_dim:] = 0
        model.x_head.linear.bias[:x_dim] = mu
        model.x_head.linear.bias[x_dim:] = 2 * math.log(noise)
        model.z_head.linear.weight[:z_dim] = gain
        model.z_head.linear.weight[z_dim:] = 0
        model.z_head.linear.bias[:z_dim] = -gain @ mu
        model.z_head.linear.bias[z_dim:] = -precision.diagonal().log()
    marginal = MultivariateNormal(mu, w @ w.T + noise**2 * torch.eye(x_dim, dtype=torch.float64))
    return model, marginal


def test_bound_is_the_likelihood_for_every_sample_at_the_exact_posterior():
    model, marginal = linear_vae()
    x = marginal.sample((8, 5))
    exact = marginal.log_prob(x).sum(1)
    for seed in range(5):
        bound = model.vlb(x, kl="sampled", generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(bound.value, exact, rtol=0, atol=1e-9)
    torch.testing.assert_close(model.importance_weighted_bound(x, num_samples=3), exact, rtol=0, atol=1e-9)


def test_gap_is_the_kl_to_the_exact_posterior():
    """log p(x) - VLB = KL(q || p(z|x)), Eq. (2.9), for an encoder that is wrong on purpose."""
    model, marginal = linear_vae()
    x = marginal.sample((4, 1))
    exact = marginal.log_prob(x).sum(1)
    z_dim = model.z_dim
    true = model.z_head(x)
    with torch.no_grad():
        model.z_head.linear.bias[:z_dim] += 0.3
        model.z_head.linear.bias[z_dim:] += 0.2
    wrong = model.z_head(x)
    gap = torch.distributions.kl_divergence(wrong, true).sum(1)
    bound = model.vlb(x, num_samples=40_000, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(exact - bound.value, gap, rtol=0.02, atol=0.02)
    assert (bound.value < exact).all()


def test_importance_weighted_bound_comes_down_on_the_likelihood_from_below():
    torch.manual_seed(0)
    model, marginal = linear_vae()
    x = marginal.sample((512, 3))
    exact = marginal.log_prob(x).sum(1)
    with torch.no_grad():
        model.z_head.linear.bias[model.z_dim :] += 1.0
    gaps = [
        (exact - model.importance_weighted_bound(x, num_samples=k, generator=torch.Generator().manual_seed(0))).mean()
        for k in (1, 10, 1000)
    ]
    # The standard error of the last average is about 0.002.
    assert gaps[0] > gaps[1] > gaps[2] > -0.008
    assert gaps[2] < 0.02 * gaps[0]


def test_gradient_of_the_bound_is_unbiased():
    """SGVB: the average of sampled gradients is the gradient of the exact bound, here in closed form."""
    model, marginal = linear_vae(noise=0.5)
    x = marginal.sample((1, 1))
    with torch.no_grad():
        model.z_head.linear.bias += 0.2
    weight = model.z_head.linear.bias
    bound = model.vlb(x, num_samples=100_000, generator=torch.Generator().manual_seed(0))
    (by_samples,) = torch.autograd.grad(bound.value.sum(), weight)
    # Exact: the expectation of a quadratic form under the Gaussian q, less the KL divergence to the prior.
    q = model.z_head(x)
    w, mu = model.x_head.linear.weight[:6], model.x_head.linear.bias[:6]
    variance = model.x_head.linear.bias[6:].exp()
    residual = x - q.mean @ w.T - mu
    spread = (q.variance[..., None, :] * w.square()).sum(-1)
    expected = -0.5 * ((residual.square() + spread) / variance + variance.log() + math.log(2 * math.pi)).sum()
    kl = 0.5 * (q.variance + q.mean.square() - 1 - q.logvar).sum()
    (exact,) = torch.autograd.grad(expected - kl, weight)
    torch.testing.assert_close(by_samples, exact, rtol=0.02, atol=0.02)


def test_speech_preset_has_the_sizes_of_the_review():
    from dvae_lib.models import build_model

    model = build_model("vae", preset="speech")
    sizes = [tuple(p.shape) for p in model.parameters()]
    assert (model.x_dim, model.z_dim) == (513, 16)
    assert sizes == [(128, 16), (128,), (513, 128), (513,), (128, 513), (128,), (32, 128), (32,)]
