"""SRNN against its equations written out and against the Kalman filter, which it is when its networks are linear."""

import math

import pytest
import torch
from torch import nn
from written_out import data, lstm

from dvae_lib.distributions import DiagonalGaussian
from dvae_lib.graphs.spec import Gap
from dvae_lib.models import SRNN, build_model
from dvae_lib.objectives import Latent
from dvae_lib.statespace import LinearGaussianSSM, log_likelihood

SIZES = {"feature_x": (4,), "h_dim": 4, "prior": (3,), "decoder": (5,), "encoder": (5,), "g_dim": 3, "head": (6,)}
VARIANTS = ("smoother", "filter")


def make(variant="smoother", *, u_dim=0, **options):
    torch.manual_seed(0)
    model = SRNN(3, 2, inference_model=variant, u_dim=u_dim, **SIZES, **options).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.6)
    return model


@pytest.mark.parametrize("u_dim", [0, 2])
@pytest.mark.parametrize("variant", VARIANTS)
def test_equations_written_out(variant, u_dim):
    """(9.1)-(9.6) and (9.10)-(9.12), frame by frame, from x_0 = z_0 = h_0 = 0; the filter from its docstring."""
    model, x, z, u = make(variant, u_dim=u_dim), data(3), data(2, seed=2), data(u_dim, seed=3)
    generated = model.generation(x, {"z": z}, u if u_dim else None)
    q = model.inference(x, u if u_dim else None, latents={"z": z})["z"].posterior
    d_h, h = lstm(model.d_h.layers), {}
    x_prev, z_prev = torch.zeros(4, 3, dtype=torch.float64), torch.zeros(4, 2, dtype=torch.float64)
    for t in range(5):
        h[t] = d_h(model.phi_x(x[:, t - 1] if t else x_prev), u[:, t])  # (9.1)
    known = {t: model.encoder(torch.cat([h[t], x[:, t]], -1)) for t in range(5)}
    if variant == "smoother":
        e_g = lstm(model.e_g.network)
        for t in reversed(range(5)):
            known[t] = e_g(known[t])  # (9.10)
    for t in range(5):
        prior = model.prior_head(model.d_z(torch.cat([z_prev, h[t]], -1)))  # (9.4)
        observation = model.x_head(model.d_x(torch.cat([z[:, t], h[t]], -1)))  # (9.2)
        posterior = model.z_head(model.e_z(torch.cat([known[t], z_prev], -1)))  # (9.11)
        torch.testing.assert_close(generated.prior["z"][:, t].parameters, prior.parameters)
        torch.testing.assert_close(generated.observation[:, t].parameters, observation.parameters)
        torch.testing.assert_close(q[:, t].parameters, posterior.parameters)
        z_prev = z[:, t]


def test_known_answers():
    compact = {"z_t": frozenset({"z_{t-1}", "x_{1:t-1}"}), "x_t": frozenset({"z_t", "x_{1:t-1}"})}
    assert SRNN.spec.compact() == compact  # (9.7)
    inferred = {"smoother": {"z_{t-1}", "x_{1:T}"}, "filter": {"z_{t-1}", "x_{1:t}"}}  # (9.13), Section 9.2
    missing = {"smoother": set(), "filter": {"x_{t+1:T}"}}
    for variant in VARIANTS:
        spec = make(variant).spec
        assert spec.compact() == compact
        assert spec.compact("inference") == {"z_t": frozenset(inferred[variant])}
        assert spec.exact_posterior() == {"z_t": frozenset({"z_{t-1}", "x_{1:T}"})}  # (9.8)
        assert spec.inference_gap() == {"z_t": Gap(frozenset(missing[variant]), frozenset())}
        driven = make(variant, u_dim=2).spec
        assert driven.undriven().compact("inference") == spec.compact("inference")
        assert driven.undriven().compact() == spec.compact()
        assert driven.compact() == {name: parents | {"u_{1:t}"} for name, parents in compact.items()}
    assert make().spec is SRNN.spec


# ---- the Kalman filter ----------------------------------------------------------------------------------


class LinearSRNN(SRNN):
    """Independent chains, linear given h_t, which is a nonlinear function of past x and of u; the exact posterior as q.

    Given x_{1:t-1}, h_t only moves the means: so the likelihood is that of a linear-Gaussian state-space model whose
    offsets are these functions of the data. With J_t and i_t the information of x_{t:T} about z_t, the posterior of z_t
    given z_{t-1} has precision 1/Lambda + J_t and mean ((a z_{t-1} + m_t) / Lambda + i_t) / precision.
    """

    a = torch.tensor([0.9, -0.6], dtype=torch.float64)
    c = torch.tensor([1.3, 0.8], dtype=torch.float64)
    z_noise = torch.tensor([0.4, 0.7], dtype=torch.float64)
    x_noise = torch.tensor([0.5, 0.3], dtype=torch.float64)

    def __init__(self, bias=0.0, spread=0.0):
        torch.manual_seed(0)
        super().__init__(2, 2, u_dim=1, feature_x=(3,), h_dim=3, prior=(), decoder=(), encoder=(3,), g_dim=2, head=())
        self.double()
        self.bias, self.spread = bias, spread
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.7)
        heads = (self.prior_head.linear, self.a, self.z_noise), (self.x_head.linear, self.c, self.x_noise)
        with torch.no_grad():
            for linear, gain, noise in heads:  # inputs [z, h], outputs [mean, log-variance]
                linear.weight[:2, :2] = torch.diag(gain)
                linear.weight[2:] = 0
                linear.bias[2:] = noise.log()

    @torch.no_grad()
    def offsets(self, x, u):
        """What h_{1:T}, by torch's own cell, adds to the means of z and x."""
        d_h, x_prev = lstm(self.d_h.layers), torch.zeros_like(x[:, 0])
        states = []
        for t in range(x.shape[1]):
            states.append(d_h(self.phi_x(x_prev), u[:, t]))
            x_prev = x[:, t]
        h = torch.stack(states, 1)
        heads = self.prior_head.linear, self.x_head.linear
        return [h @ linear.weight[:2, 2:].T + linear.bias[:2] for linear in heads]

    def inference(self, x, u=None, *, lengths=None, latents=None, draw="sample", generator=None):
        repeats = len(x) // 4
        m, n = (v.repeat(repeats, 1, 1) for v in self.offsets(x[:4], u[:4]))
        J, i = torch.zeros_like(x), torch.zeros_like(x)
        J_next, i_next, m_next = torch.zeros_like(x[:, 0]), torch.zeros_like(x[:, 0]), torch.zeros_like(x[:, 0])
        for t in reversed(range(x.shape[1])):
            shrink = self.a / (1 + self.z_noise * J_next)
            J[:, t] = self.c**2 / self.x_noise + self.a * shrink * J_next
            i[:, t] = self.c * (x[:, t] - n[:, t]) / self.x_noise + shrink * (i_next - J_next * m_next)
            J_next, i_next, m_next = J[:, t], i[:, t], m[:, t]
        precision = 1 / self.z_noise + J
        noise = torch.randn(x.shape, dtype=x.dtype, generator=generator)
        means, samples, z = [], [], torch.zeros_like(x[:, 0])
        for t in range(x.shape[1]):
            mean = ((self.a * z + m[:, t]) / self.z_noise + i[:, t]) / precision[:, t] + self.bias
            given = (latents or {}).get("z")
            z = (
                mean + (self.spread - precision[:, t].log()).mul(0.5).exp() * noise[:, t]
                if given is None
                else given[:, t]
            )
            means.append(mean)
            samples.append(z)
        q_z = DiagonalGaussian(torch.stack(means, 1), self.spread - precision.log())
        return {"z": Latent(torch.stack(samples, 1), q_z)}


@pytest.fixture(scope="module")
def truth():
    model, generator = LinearSRNN(), torch.Generator().manual_seed(0)
    u = torch.randn(4, 15, 1, generator=generator, dtype=torch.float64)
    x = model.generate(15, 4, u=u, generator=generator).x
    m, n = model.offsets(x, u)
    ssm = LinearGaussianSSM(
        torch.diag(model.a), torch.diag(model.c), torch.diag(model.z_noise), torch.diag(model.x_noise),
        mu_1=m[:, 0], Lambda_1=torch.diag(model.z_noise).expand(4, 2, 2), m=m, n=n,
    )  # fmt: skip
    return x, u, log_likelihood(ssm, x)


def test_every_sample_of_the_bound_is_the_kalman_likelihood(truth):
    x, u, exact = truth
    model = LinearSRNN()
    for seed in range(5):
        bound = model.vlb(x, u, kl="sampled", generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(bound.value, exact, rtol=0, atol=1e-9)
    torch.testing.assert_close(model.importance_weighted_bound(x, u, num_samples=3), exact, rtol=0, atol=1e-9)
    torch.testing.assert_close(model.smc_bound(x, u, num_particles=3, threshold=0.0), exact, rtol=0, atol=1e-9)


def test_other_posteriors_bound_it_and_their_estimates_are_unbiased(truth):
    x, u, exact = truth
    model = LinearSRNN(bias=0.1, spread=0.3)
    many_x, many_u = x.repeat(100, 1, 1), u.repeat(100, 1, 1)
    average = model.vlb(many_x, many_u, kl="sampled", generator=torch.Generator().manual_seed(0)).value.view(100, 4)
    assert (average.mean(0) < exact - 0.1).all()
    for bound, number in ((model.importance_weighted_bound, "num_samples"), (model.smc_bound, "num_particles")):
        estimates = bound(many_x, many_u, generator=torch.Generator().manual_seed(0), **{number: 20}).view(100, 4)
        ratio = (estimates - exact).exp()
        assert (abs(ratio.mean(0) - 1) < 4 * ratio.std(0) / math.sqrt(100)).all()


# ---- presets --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("preset", "layers"),
    [
        (
            "speech",  # B.4
            {
                "phi_x": [(256, 513)],
                "d_h": [(512, 256), (512, 128)],
                "d_z": [(64, 144), (32, 64)],
                "prior_head": [(32, 32)],
                "d_x": [(256, 144)],
                "x_head": [(513, 256)],
                "encoder": [(256, 641)],
                "e_g": [(512, 256), (512, 128)],
                "e_z": [(64, 144), (32, 64)],
                "z_head": [(32, 32)],
            },
        ),
        (
            "motion",  # C.4
            {
                "phi_x": [(64, 93)],
                "d_h": [(256, 64), (256, 64)],
                "d_z": [(32, 74)],
                "prior_head": [(20, 32)],
                "d_x": [(64, 74)],
                "x_head": [(93, 64)],
                "encoder": [(64, 157)],
                "e_g": [(256, 64), (256, 64)],
                "e_z": [(32, 74)],
                "z_head": [(20, 32)],
            },
        ),
    ],
)
def test_presets_have_the_layers_of_the_appendices(preset, layers):
    model = build_model("srnn", preset=preset)
    assert model.e_g.backward
    assert model.d_h.cell == "lstm"
    assert {name for name, _ in model.named_children()} == set(layers)
    for name, shapes in layers.items():
        part = getattr(model, name)
        assert [tuple(p.shape) for p in part.parameters() if p.ndim == 2] == shapes, name
        assert not isinstance(part, nn.Sequential) or all(isinstance(layer, nn.Linear | nn.Tanh) for layer in part)


def test_a_subclass_with_its_own_inference_is_trained_with_it():
    """The pass that both directions share belongs to the inference that it was written for."""

    class Blind(SRNN):
        def inference(self, x, u=None, **options):
            return super().inference(torch.zeros_like(x), u, **options)

    torch.manual_seed(0)
    model, x = Blind(3, 2, feature_x=(4,), h_dim=4, g_dim=3), torch.ones(1, 4, 3)
    posterior = model(x, generator=torch.Generator().manual_seed(1)).latents["z"].posterior
    nothing = SRNN.inference(model, torch.zeros_like(x), generator=torch.Generator().manual_seed(1))["z"].posterior
    torch.testing.assert_close(posterior.mean, nothing.mean)
