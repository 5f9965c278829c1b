"""The deep Kalman filter against the Kalman filter, which it is when its networks are linear."""

import math

import pytest
import torch
from torch import nn

from dvae_lib.distributions import DiagonalGaussian
from dvae_lib.graphs import verify_dependencies
from dvae_lib.models import build_model
from dvae_lib.models.dkf import DKF, INFERENCE_MODELS
from dvae_lib.objectives import Latent
from dvae_lib.statespace import LinearGaussianSSM, log_likelihood, sample
from dvae_lib.testing import check_model


class LinearTransition(nn.Module):
    def __init__(self, a, noise):
        super().__init__()
        self.a, self.noise = a, noise

    def forward(self, z):
        return DiagonalGaussian(self.a * z, self.noise.log().expand(z.shape))


class LinearDKF(DKF):
    """Independent chains, each seen through noise; the inference model is the exact posterior (5.2).

    With J_t and h_t the information that x_{t:T} holds about z_t, the posterior of z_t given z_{t-1} is Gaussian
    with precision 1/Lambda + J_t and mean (a z_{t-1} / Lambda + h_t) / precision.
    """

    a = torch.tensor([0.9, -0.6], dtype=torch.float64)
    c = torch.tensor([1.3, 0.8], dtype=torch.float64)
    state_noise = torch.tensor([0.4, 0.7], dtype=torch.float64)
    x_noise = torch.tensor([0.5, 0.3], dtype=torch.float64)

    def __init__(self, bias=0.0, spread=0.0):
        super().__init__(2, 2, decoder=(), g_dim=2)
        self.double()
        self.bias, self.spread = bias, spread
        self.d_z = LinearTransition(self.a, self.state_noise)
        with torch.no_grad():
            linear = self.x_head.linear
            linear.weight.zero_()
            linear.weight[:2] = torch.diag(self.c)
            linear.bias[:2] = 0
            linear.bias[2:] = self.x_noise.log()

    def inference(self, x, u=None, *, lengths=None, latents=None, draw="sample", generator=None):
        J, h = torch.zeros_like(x), torch.zeros_like(x)
        J_next, h_next = torch.zeros_like(x[:, 0]), torch.zeros_like(x[:, 0])
        for t in reversed(range(x.shape[1])):
            shrink = self.a / (1 + self.state_noise * J_next)
            J[:, t] = self.c**2 / self.x_noise + self.a * shrink * J_next
            h[:, t] = self.c * x[:, t] / self.x_noise + shrink * h_next
            J_next, h_next = J[:, t], h[:, t]
        precision = 1 / self.state_noise + J
        means, samples, z = [], [], torch.zeros_like(x[:, 0])
        noise = torch.randn(x.shape, dtype=x.dtype, generator=generator)
        for t in range(x.shape[1]):
            mean = (self.a * z / self.state_noise + h[:, t]) / precision[:, t] + self.bias
            given = (latents or {}).get("z")
            deviation = (math.exp(self.spread) / precision[:, t]).sqrt()
            z = mean + deviation * noise[:, t] if given is None else given[:, t]
            means.append(mean)
            samples.append(z)
        q_z = DiagonalGaussian(torch.stack(means, 1), self.spread - precision.log())
        return {"z": Latent(torch.stack(samples, 1), q_z)}


@pytest.fixture(scope="module")
def truth():
    ssm = LinearGaussianSSM(
        torch.diag(LinearDKF.a),
        torch.diag(LinearDKF.c),
        torch.diag(LinearDKF.state_noise),
        torch.diag(LinearDKF.x_noise),
        mu_1=torch.zeros(2, dtype=torch.float64),
        Lambda_1=torch.diag(LinearDKF.state_noise),
    )
    x = sample(ssm, 40, sample_shape=(6,), generator=torch.Generator().manual_seed(0)).x
    return x, log_likelihood(ssm, x)


def test_every_sample_of_the_bound_is_the_kalman_likelihood(truth):
    x, exact = truth
    model = LinearDKF()
    for seed in range(5):
        bound = model.vlb(x, kl="sampled", generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(bound.value, exact, rtol=0, atol=1e-8)
    torch.testing.assert_close(model.importance_weighted_bound(x, num_samples=3), exact, rtol=0, atol=1e-8)
    # A proposal that looks ahead makes the weights on the way uneven, though their product is even: resampling,
    # which sees only the way, would add noise here.
    torch.testing.assert_close(model.smc_bound(x, num_particles=3, threshold=0.0), exact, rtol=0, atol=1e-8)


def test_bounds_rise_to_the_likelihood_and_particles_rise_faster(truth):
    x, exact = truth
    model = LinearDKF(bias=0.15, spread=0.3)
    generator = torch.Generator().manual_seed(0)
    x, exact = x.repeat(20, 1, 1), exact.repeat(20)
    vlb = (exact - model.vlb(x, kl="sampled", generator=generator).value).mean()
    weighted, particles = (
        [(exact - bound(x, generator=generator, **{number: k})).mean().item() for k in (4, 32)]
        for bound, number in ((model.importance_weighted_bound, "num_samples"), (model.smc_bound, "num_particles"))
    )
    assert vlb > weighted[0] > weighted[1] > 0
    assert vlb > particles[0] > particles[1] > 0
    assert particles[0] < weighted[0]
    assert particles[1] < 0.5 * weighted[1]


def test_particle_estimate_is_unbiased(truth):
    """The mean of the estimates themselves, not of their logarithms, is the likelihood."""
    x, _ = truth
    model = LinearDKF(bias=0.2, spread=0.3)
    x = x[:1, :8]
    exact = LinearDKF().vlb(x, kl="sampled").value
    estimates = model.smc_bound(x.repeat(4000, 1, 1), num_particles=4, generator=torch.Generator().manual_seed(0))
    ratio = (estimates - exact).exp()
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / math.sqrt(4000)
    assert estimates.mean() < exact


def test_particle_bound_of_padded_sequences_is_that_of_the_sequences_alone(truth):
    x, _ = truth
    torch.manual_seed(0)
    model = build_model("dkf", x_dim=2, z_dim=2, decoder=(8,), encoder=(8,), g_dim=8).double()
    lengths = torch.tensor([5, 12])
    padded = torch.where((torch.arange(12) < lengths[:, None])[..., None], x[:2, :12], 0.0)
    filled = torch.where((torch.arange(12) < lengths[:, None])[..., None], x[:2, :12], 77.0)

    def estimate(x, lengths=None):
        generator = torch.Generator().manual_seed(0)
        repeated = None if lengths is None else lengths.repeat(200)
        bound = model.smc_bound(x.repeat(200, 1, 1), lengths=repeated, num_particles=20, generator=generator)
        return bound.view(200, -1)

    together = estimate(padded, lengths)
    assert torch.equal(together, estimate(filled, lengths))
    for i, n in enumerate(lengths.tolist()):
        alone = estimate(x[i : i + 1, :n])[:, 0]
        error = (alone.var() / 200 + together[:, i].var() / 200).sqrt()
        assert abs(alone.mean() - together[:, i].mean()) < 4 * error


@pytest.mark.parametrize("name", INFERENCE_MODELS)
def test_driven_variants_have_the_dependencies_of_their_equations(name):
    torch.manual_seed(0)
    model = DKF(3, 2, u_dim=2, inference_model=name, g_dim=8, encoder=(8,), decoder=(8,))
    verdict = verify_dependencies(model)
    assert not verdict.missing
    assert not verdict.extra


def test_smoother_has_the_structure_of_the_exact_posterior():
    assert DKF.spec.exact_posterior() == {"z_t": frozenset({"z_{t-1}", "x_{t:T}"})}
    gap = DKF.spec.inference_gap()["z_t"]
    assert not gap.missing
    assert not gap.extra


def test_driven_model_needs_its_input(as_a_user):
    model, x = DKF(3, 2, u_dim=2), torch.randn(2, 4, 3)
    with pytest.raises(ValueError, match=r"is driven \(u_dim=2\)"):
        model.vlb(x)
    with pytest.raises(ValueError, match="as many sequences and frames"):
        model.vlb(x, torch.randn(2, 3, 2))
    with pytest.raises(ValueError, match=r"expected u of shape \(1, 5, 2\), for 5 new frames; got None"):
        model.generate(5)
    assert model.generate(5, u=torch.randn(1, 5, 2)).x.shape == (1, 5, 3)
    with pytest.raises(ValueError, match="smoother, bidirectional, filter"):
        DKF(3, 2, inference_model="kalman")


def test_speech_preset_has_the_layers_of_appendix_b():
    model = build_model("dkf", preset="speech")
    sizes = {name: tuple(p.shape) for name, p in model.named_parameters() if name.endswith("weight")}
    assert sizes["d_z.gate.0.weight"] == (16, 16)
    assert [sizes[f"d_x.{i}.weight"] for i in (0, 2, 4, 6)] == [(32, 16), (64, 32), (128, 64), (256, 128)]
    assert sizes["encoder.0.weight"] == (256, 513)
    assert model.e_backward.network.hidden_size == 128
    assert [sizes[f"combiner.{i}.weight"] for i in (0, 2)] == [(32, 16), (128, 32)]
    assert [sizes["e_z.0.weight"], sizes["z_head.linear.weight"]] == [(32, 128), (32, 32)]


@pytest.mark.parametrize(
    ("posterior", "inference_model"),
    [("planar", "smoother"), ("iaf", "whole")],
)
def test_with_a_flow_as_posterior_it_obeys_all_laws(posterior, inference_model):
    torch.manual_seed(0)
    sizes = {"g_dim": 6, "encoder": (6,), "decoder": (6,), "flow_steps": 2}
    verdicts = check_model(DKF(3, 2, inference_model=inference_model, posterior=posterior, **sizes))
    assert sum(verdict == "holds" for verdict in verdicts.values()) > 15
    for other in INFERENCE_MODELS:
        assert verify_dependencies(DKF(3, 2, inference_model=other, posterior=posterior, **sizes)).agrees


def test_an_unknown_posterior_is_refused():
    with pytest.raises(ValueError, match=r"flow must be one of planar, iaf; got 'radial'"):
        DKF(3, 2, posterior="radial")
