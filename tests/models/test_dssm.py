"""The disentangled state-space model against the Kalman filter, which it is when all is linear and v in the state."""

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from dvae_lib.distributions import DiagonalGaussian
from dvae_lib.graphs import verify_dependencies
from dvae_lib.models.dssm import DSSM
from dvae_lib.objectives import Latent
from dvae_lib.statespace import LinearGaussianSSM, kalman_filter, log_likelihood, sample


class LinearTransition(nn.Module):
    # The first state, without one before it, is pushed alike.
    def __init__(self, a, push, noise):
        super().__init__()
        self.a, self.push, self.noise = a, push, noise

    def forward(self, features, begun):
        z, v = features.chunk(2, -1)
        return DiagonalGaussian(self.a * z + self.push * v, torch.full_like(z, math.log(self.noise)))


class LinearDSSM(DSSM):
    """A chain that is pushed by a constant v: z_t = a z_{t-1} + b v + noise. The inference model is exact.

    v is the part of the state (z_t, v) that does not change, so what the filter says of it last is its posterior. Given
    v, with J_t and h_t the information that x_{t:T} holds about z_t, the posterior of z_t has the precision
    1/Lambda + J_t and the mean ((a z_{t-1} + b v) / Lambda + h_t) / precision.
    """

    a, b, c, noise, x_noise = 0.8, 0.5, 1.3, 0.4, 0.6

    def __init__(self, bias=0.0, spread=0.0):
        super().__init__(1, 1, decoder=(), g_dim=2)
        self.double()
        self.bias, self.spread = bias, spread
        self.d_z = LinearTransition(self.a, self.b, self.noise)
        with torch.no_grad():
            linear = self.x_head.linear
            linear.weight.copy_(torch.tensor([[self.c], [0.0]], dtype=torch.float64))
            linear.bias.copy_(torch.tensor([0.0, math.log(self.x_noise)], dtype=torch.float64))

    @property
    def ssm(self):
        """The state is (z_t, v), with z_1 = b v + noise and v ~ N(0, 1)."""
        start = torch.tensor([[self.b**2 + self.noise, self.b], [self.b, 1.0]], dtype=torch.float64)
        return LinearGaussianSSM(
            torch.tensor([[self.a, self.b], [0.0, 1.0]], dtype=torch.float64),
            torch.tensor([[self.c, 0.0]], dtype=torch.float64),
            torch.diag(torch.tensor([self.noise, 0.0], dtype=torch.float64)),
            torch.tensor([[self.x_noise]], dtype=torch.float64),
            mu_1=torch.zeros(2, dtype=torch.float64),
            Lambda_1=start,
        )

    def inference(self, x, u=None, *, lengths=None, latents=None, draw="sample", generator=None):
        latents = latents or {}
        filtered = kalman_filter(self.ssm, x)  # whose last frame has seen all
        variance = filtered.covariance[..., -1, 1:, 1].expand(len(x), 1)
        q_v = DiagonalGaussian(filtered.mean[:, -1, 1:] + self.bias, variance.log())
        v = latents.get("v")
        v = q_v.rsample(generator=generator) if v is None else v
        J, h = torch.zeros_like(x), torch.zeros_like(x)
        J_next, h_next = torch.zeros_like(x[:, 0]), torch.zeros_like(x[:, 0])
        for t in reversed(range(x.shape[1])):
            shrink = self.a / (1 + self.noise * J_next)
            J[:, t] = self.c**2 / self.x_noise + self.a * shrink * J_next
            h[:, t] = self.c * x[:, t] / self.x_noise + shrink * (h_next - J_next * self.b * v)
            J_next, h_next = J[:, t], h[:, t]
        precision = 1 / self.noise + J
        noise = torch.randn(x.shape, dtype=x.dtype, generator=generator)
        means, samples, z = [], [], torch.zeros_like(x[:, 0])
        for t in range(x.shape[1]):
            means.append(((self.a * z + self.b * v) / self.noise + h[:, t]) / precision[:, t] + self.bias)
            z = means[t] + (math.exp(self.spread) / precision[:, t]).sqrt() * noise[:, t]
            z = latents["z"][:, t] if "z" in latents else z
            samples.append(z)
        q_z = DiagonalGaussian(torch.stack(means, 1), self.spread - precision.log())
        return {"v": Latent(v, q_v), "z": Latent(torch.stack(samples, 1), q_z)}


@pytest.fixture(scope="module")
def truth():
    ssm = LinearDSSM().ssm
    x = sample(ssm, 25, sample_shape=(6,), generator=torch.Generator().manual_seed(0)).x
    return x, log_likelihood(ssm, x)


def test_every_sample_of_the_bound_is_the_kalman_likelihood(truth):
    x, exact = truth
    for seed in range(5):
        bound = LinearDSSM().vlb(x, kl="sampled", generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(bound.value, exact, rtol=0, atol=1e-8)


def test_bounds_of_another_posterior_rise_to_the_likelihood(truth):
    x, exact = truth
    model, generator = LinearDSSM(bias=0.1, spread=0.3), torch.Generator().manual_seed(0)
    x, exact = x.repeat(20, 1, 1), exact.repeat(20)
    gaps = [(exact - model.vlb(x, kl="sampled", generator=generator).value).mean().item()]
    for k in (4, 32):
        gaps.append((exact - model.importance_weighted_bound(x, num_samples=k, generator=generator)).mean().item())
    assert gaps[0] > gaps[1] > gaps[2] > 0


def test_what_is_known_of_v_grows_with_the_sequence(truth):
    """In the exact posterior; one frame says little: KL(v) is the information of x_{1:T} about v, and rises with T."""
    x, _ = truth
    kl = [LinearDSSM().vlb(x[:, :t]).kl["v"].mean().item() for t in (1, 2, 5, 10, 25)]
    assert all(a < b for a, b in pairwise(kl))


@pytest.mark.parametrize("u_dim", [0, 2])
def test_gaps_are_as_derived(u_dim):
    driven = bool(u_dim)
    smoother, filtering = (DSSM(3, 2, u_dim=u_dim, inference_model=name) for name in ("smoother", "filter"))
    exact = smoother.spec.exact_posterior()
    assert exact["v"] == {"x_{1:T}", *(["u_{1:T}"] if driven else [])}
    assert exact["z_t"] == {"z_{t-1}", "v", "x_{t:T}", *(["u_{t:T}"] if driven else [])}
    for latent in ("v", "z_t"):
        assert smoother.spec.inference_gap()[latent] == (frozenset(), frozenset())
    gaps = filtering.spec.inference_gap()
    assert gaps["v"] == (frozenset(), frozenset())
    missing = {"x_{t+1:T}", *(["u_{t+1:T}"] if driven else [])}
    assert (set(gaps["z_t"].missing), set(gaps["z_t"].extra)) == (missing, set())
    assert verify_dependencies(filtering).agrees
    assert verify_dependencies(smoother).agrees


def test_v_moves_the_transition_and_no_picture():
    """DSAE's arrow is turned: given z, another v gives the same frames, and other priors."""
    torch.manual_seed(0)
    model = DSSM(3, 2, v_dim=2).double()
    x, z = torch.randn(2, 5, 3).double(), torch.randn(2, 5, 2).double()
    one, other = (model.generation(x, {"z": z, "v": v}) for v in torch.randn(2, 2, 2).double())
    torch.testing.assert_close(one.observation.mean, other.observation.mean, rtol=0, atol=0)
    assert ((one.prior["z"].mean - other.prior["z"].mean).abs().amax(-1) > 0).all()


def test_wrong_sizes_are_refused(as_a_user):
    with pytest.raises(ValueError, match="inference_model must be one of filter, smoother; got 'full'"):
        DSSM(3, 2, inference_model="full")
    with pytest.raises(ValueError, match="v_dim must be an integer of at least 1; got 0"):
        DSSM(3, 2, v_dim=0)
