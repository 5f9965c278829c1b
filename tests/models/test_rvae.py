"""RVAE against its equations written out, exact Gaussian posteriors, quadrature, and Appendices B and C."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from written_out import LinearState, data, lstm

from dvae_lib.distributions import DiagonalGaussian
from dvae_lib.graphs import verify_dependencies
from dvae_lib.graphs.spec import Gap
from dvae_lib.models import RVAE, VAE, build_model
from dvae_lib.objectives import Latent, log_weights
from dvae_lib.statespace import LinearGaussianSSM, log_likelihood

SIZES = {"h_dim": 4, "decoder": (5,), "encoder": (5,), "g_dim": 3, "head": (6,)}
RECURSIVE = [(generation, inference) for generation in ("causal", "noncausal") for inference in ("smoother", "filter")]
VARIANTS = [("instantaneous", "smoother"), *RECURSIVE]
LENGTHS = torch.tensor([5, 1, 4, 2])
NOTHING = frozenset()


def named(cases):
    return {"argvalues": cases, "ids": ["-".join(case) for case in cases]}


every_variant = pytest.mark.parametrize(("generation", "inference"), **named(VARIANTS))
every_recursion = pytest.mark.parametrize(("generation", "inference"), **named(RECURSIVE))
driven_or_not = pytest.mark.parametrize("u_dim", [0, 2], ids=["undriven", "driven"])


def seeded(seed=3):
    return torch.Generator().manual_seed(seed)


def make(generation="causal", inference="smoother", *, u_dim=0, x_dim=3, z_dim=2, scale=0.6, **options):
    torch.manual_seed(0)
    options = {**SIZES, **options}
    model = RVAE(x_dim, z_dim, generation_model=generation, inference_model=inference, u_dim=u_dim, **options).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=scale)
    return model


# ---- the equations --------------------------------------------------------------------------------------


def written_out(model, generation, inference, x, z, u):
    """p(x_t | .) and q(z_t | .) of one sequence, frame by frame, from z_0 = u_0 = 0 and states of zeros."""
    frames = range(x.shape[1])
    seen = [model.encoder(torch.cat([x[:, t], u[:, t]], -1)) for t in frames]
    if generation == "instantaneous":  # (10.1)-(10.2) with {t}
        h = [model.d_h(torch.cat([u[:, t], z[:, t]], -1)) for t in frames]
        g = [model.e_gx[0](seen[t]) for t in frames]
    else:
        d_h = lstm(model.d_h.layers, 1)
        h = [d_h(u[:, t], z[:, t]) for t in frames]  # (10.4), (10.9)
        e_gz = lstm(model.e_gz.layers, 1)
        z_0, u_0 = torch.zeros_like(z[:, 0]), torch.zeros_like(u[:, 0])
        gz = [e_gz(u[:, t - 1] if t else u_0, z[:, t - 1] if t else z_0) for t in frames]  # (10.18), (10.24)
        g = [[] for _ in frames]
        networks = [lstm(network.network, 1) for network in model.e_gx]
        if generation == "noncausal" or inference == "filter":
            e_gx = networks.pop(0)
            for t in frames:
                g[t].append(e_gx(seen[t]))  # (10.25)
        if inference == "smoother":
            e_gx = networks.pop(0)
            for t in reversed(frames):
                g[t].append(e_gx(seen[t]))  # (10.19), (10.26)
        assert not networks
        g = [torch.cat([*g[t], gz[t]], -1) for t in frames]  # (10.20), (10.27), with the data before the latents
    if generation == "noncausal":
        d_h = lstm(model.d_h_bwd.network, 1)
        h_bwd = {t: d_h(u[:, t], z[:, t]) for t in reversed(frames)}  # (10.10)
        h = [torch.cat([h[t], h_bwd[t]], -1) for t in frames]  # (10.11)
    observations = [model.x_head(model.d_x(h_t)) for h_t in h]  # (10.5), (10.12)
    return observations, [model.z_head(model.e_z(g_t)) for g_t in g]  # (10.21), (10.28)


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "padded"])
@driven_or_not
@every_variant
def test_equations_written_out(generation, inference, u_dim, lengths):
    """(10.1)-(10.6), (10.9)-(10.13), (10.18)-(10.22), (10.24)-(10.29); the filter from its docstring."""
    model, x, z, u = make(generation, inference, u_dim=u_dim), data(3), data(2, seed=2), data(u_dim, seed=3)
    given_u = u if u_dim else None
    generated = model.generation(x, {"z": z}, given_u, lengths=lengths)
    q = model.inference(x, given_u, latents={"z": z}, lengths=lengths)["z"].posterior
    for i, n in enumerate([5] * 4 if lengths is None else lengths.tolist()):
        own = (value[i : i + 1, :n] for value in (x, z, u))
        for t, (observation, posterior) in enumerate(
            zip(*written_out(model, generation, inference, *own), strict=True)
        ):
            torch.testing.assert_close(generated.observation[i : i + 1, t].parameters, observation.parameters)
            torch.testing.assert_close(q[i : i + 1, t].parameters, posterior.parameters)
    assert (generated.prior["z"].mean == 0).all()  # (10.3)
    assert (generated.prior["z"].logvar == 0).all()


@pytest.mark.parametrize("head", [(), (6,)], ids=["plain", "head"])
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
@driven_or_not
@every_variant
def test_what_is_drawn_is_drawn_from_the_posterior(generation, inference, u_dim, cell, head):
    """The loop's posteriors are those of the pass that knows the latents; its samples are mean + deviation * noise."""
    model, x = make(generation, inference, u_dim=u_dim, cell=cell, head=head, encoder=()), data(3)
    u = data(u_dim, seed=3) if u_dim else None
    drawn = model.inference(x, u, lengths=LENGTHS, generator=seeded())["z"]
    again = model.inference(x, u, lengths=LENGTHS, latents={"z": drawn.sample})["z"].posterior
    torch.testing.assert_close(drawn.posterior.parameters, again.parameters)
    epsilon = torch.randn(4, 5, 2, generator=seeded(), dtype=torch.float64)
    torch.testing.assert_close((drawn.sample - again.mean) / again.stddev, epsilon)
    mean = model.inference(x, u, draw="mean")["z"]
    torch.testing.assert_close(mean.sample, mean.posterior.mean)


def test_instantaneous_model_is_the_vae():
    """The same weights, the same bound, samples, importance weights and generated frames."""
    model, x = make("instantaneous"), data(3)
    vae = VAE(3, 2, decoder=(4, 5), encoder=(5, 3, 6)).double()
    assert len(list(vae.parameters())) == len(list(model.parameters()))
    with torch.no_grad():
        for own, of_rvae in zip(vae.parameters(), model.parameters(), strict=True):
            own.copy_(of_rvae)
    for kl in ("analytic", "sampled"):
        one, other = (m.vlb(x, lengths=LENGTHS, kl=kl, generator=seeded()) for m in (model, vae))
        torch.testing.assert_close(one.value, other.value)
        torch.testing.assert_close(one.kl["z"], other.kl["z"])
    one, other = (m(x, generator=seeded()).latents["z"] for m in (model, vae))
    torch.testing.assert_close(one.sample, other.sample)
    one, other = (m.importance_weighted_bound(x, num_samples=7, generator=seeded()) for m in (model, vae))
    torch.testing.assert_close(one, other)
    one, other = (m.generate(4, 3, generator=seeded()).x for m in (model, vae))
    torch.testing.assert_close(one, other)


# ---- known answers --------------------------------------------------------------------------------------


def sets(text):
    return frozenset(text.split())


GENERATED = {"instantaneous": "z_t", "causal": "z_{1:t}", "noncausal": "z_{1:T}"}  # (10.2), (10.8), (10.15)
EXACT = {"instantaneous": "x_t", "causal": "z_{1:t-1} x_{t:T}", "noncausal": "z_{1:t-1} x_{1:T}"}  # (10.16)
MISSING = {"smoother": "", "filter": "x_{t+1:T}"}


@every_variant
def test_known_answers(generation, inference):
    spec = make(generation, inference).spec
    assert spec.compact() == {"z_t": NOTHING, "x_t": sets(GENERATED[generation])}
    assert spec.exact_posterior() == {"z_t": sets(EXACT[generation])}
    inferred = {"smoother": EXACT[generation], "filter": "z_{1:t-1} x_{1:t}"}[inference]  # (10.17), (10.23), (10.30)
    assert spec.compact("inference") == {"z_t": sets(inferred)}
    extra = "x_{1:t-1}" if (generation, inference) == ("causal", "filter") else ""
    assert spec.inference_gap() == {"z_t": Gap(sets(MISSING[inference]), sets(extra))}
    assert (spec is RVAE.spec) == ((generation, inference) == ("causal", "smoother"))
    # Driven
    driven = make(generation, inference, u_dim=2).spec
    assert driven.undriven().compact() == spec.compact()
    assert driven.undriven().compact("inference") == spec.compact("inference")
    u_x, u_z = {
        "instantaneous": ("u_t", "u_t"),
        "causal": ("u_{1:t}", "u_{1:T}"),
        "noncausal": ("u_{1:T}", "u_{1:T}"),
    }[generation]
    assert driven.compact() == {"z_t": NOTHING, "x_t": sets(f"{GENERATED[generation]} {u_x}")}
    assert driven.exact_posterior() == {"z_t": sets(f"{EXACT[generation]} {u_z}")}
    u_q = {"smoother": u_z, "filter": "u_{1:t}"}[inference]
    assert driven.compact("inference") == {"z_t": sets(f"{inferred} {u_q}")}
    missing = {"smoother": "", "filter": "x_{t+1:T} u_{t+1:T}"}[inference]
    assert driven.inference_gap() == {"z_t": Gap(sets(missing), sets(extra))}


@driven_or_not
@every_variant
def test_code_has_the_dependencies_of_the_equations(generation, inference, u_dim):
    verdict = verify_dependencies(make(generation, inference, u_dim=u_dim))
    assert verdict.agrees, str(verdict)


# ---- the exact posterior of a linear decoder -------------------------------------------------------------


class LinearRVAE(RVAE):
    """x = H z + K u + n + noise, where H and K are lower triangular, by blocks, in the causal model."""

    num_steps = 5

    def __init__(self, generation_model, inference_model="smoother"):
        torch.manual_seed(1)
        sizes = {"u_dim": 1, "h_dim": 2, "g_dim": 3}
        super().__init__(2, 1, generation_model=generation_model, inference_model=inference_model, **sizes)
        self.double()
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.5)
        self.d_h = LinearState(2, 2)
        if self.d_h_bwd is not None:
            self.d_h_bwd.network = LinearState(2, 2)
        self.x_noise = torch.tensor([0.5, 0.3], dtype=torch.float64)
        with torch.no_grad():
            self.x_head.linear.weight[2:] = 0
            self.x_head.linear.bias[2:] = self.x_noise.log()
            self.z_head.linear.weight *= 0.5  # a proposal between prior and posterior
            self.z_head.linear.bias.zero_()
        self.requires_grad_(False)

    def matrices(self):
        """H (T x_dim, T) and K (T x_dim, T u_dim), from powers of the transition matrices."""
        C = self.x_head.linear.weight[:2]
        maps = torch.zeros(self.num_steps, 2, self.num_steps, 2, dtype=torch.float64)
        for t in range(self.num_steps):
            for k in range(self.num_steps):
                if k <= t:
                    maps[t, :, k] += C[:, :2] @ self.d_h.A.matrix_power(t - k) @ self.d_h.W
                if k >= t and self.d_h_bwd is not None:
                    backward = self.d_h_bwd.network
                    maps[t, :, k] += C[:, 2:] @ backward.A.matrix_power(k - t) @ backward.W
        K, H = maps.flatten(0, 1).unbind(-1)  # the input enters before the latent
        return H, K

    def offset(self, u):
        """What is added to H z and the noise, (B, T x_dim)."""
        return u.flatten(1) @ self.matrices()[1].T + self.x_head.linear.bias[:2].repeat(self.num_steps)

    def joint_covariance(self):
        """Of z_{1:T} and x_{1:T}."""
        H = self.matrices()[0]
        R = torch.diag(self.x_noise.repeat(self.num_steps))
        I = torch.eye(self.num_steps, dtype=torch.float64)
        return torch.cat([torch.cat([I, H.T], 1), torch.cat([H, H @ H.T + R], 1)])

    def conditionals(self):
        """p(z_t | z_{1:t-1}, x_{1:T}): the coefficients of z and of x, one row for each t, and the variances."""
        joint, n = self.joint_covariance(), self.num_steps
        coefficients, variances = torch.zeros(n, 3 * n, dtype=torch.float64), []
        for t in range(n):
            given = [*range(t), *range(n, 3 * n)]
            coefficients[t, given] = torch.linalg.solve(joint[given][:, given], joint[given, t])
            variances.append(joint[t, t] - coefficients[t] @ joint[:, t])
        return coefficients, torch.stack(variances)

    def log_evidence(self, x, u):
        covariance = self.joint_covariance()[self.num_steps :, self.num_steps :]
        return torch.distributions.MultivariateNormal(self.offset(u), covariance).log_prob(x.flatten(1))


class ExactRVAE(LinearRVAE):
    """The exact posterior as inference model, by the chain rule (10.16)."""

    def inference(self, x, u=None, *, lengths=None, latents=None, draw="sample", generator=None):
        coefficients, variances = self.conditionals()
        known = (x.flatten(1) - self.offset(u)) @ coefficients[:, self.num_steps :].T
        given = (latents or {}).get("z")
        z = torch.zeros_like(known) if given is None else given[..., 0]
        noise = torch.randn(known.shape, dtype=known.dtype, generator=generator)
        means = []
        for t in range(self.num_steps):
            means.append(known[:, t] + z[:, :t] @ coefficients[t, :t])
            if given is None:
                z[:, t] = means[t] + variances[t].sqrt() * noise[:, t]
        mean = torch.stack(means, 1)[..., None]
        q_z = DiagonalGaussian(mean, variances.log()[:, None].expand_as(mean))
        return {"z": Latent(z[..., None], q_z)}


def linear_data(model):
    u = data(1, seed=3)
    x = model.generate(5, 4, u=u, generator=seeded()).x
    return x, u, model.log_evidence(x, u)


@pytest.mark.parametrize("generation", ["causal", "noncausal"])
def test_every_sample_of_the_bound_is_the_likelihood_at_the_exact_posterior(generation):
    model = ExactRVAE(generation)
    x, u, exact = linear_data(model)
    samples = []
    for seed in range(5):
        bound = model.vlb(x, u, kl="sampled", generator=seeded(seed))
        torch.testing.assert_close(bound.value, exact, rtol=0, atol=1e-9)
        samples.append(bound.reconstruction)
    assert torch.stack(samples).std(0).min() > 0.1  # though the samples differ
    weighted = model.importance_weighted_bound(x, u, num_samples=3, generator=seeded())
    torch.testing.assert_close(weighted, exact, rtol=0, atol=1e-9)
    if generation == "causal":
        particles = model.smc_bound(x, u, num_particles=3, threshold=0.0, generator=seeded())
        torch.testing.assert_close(particles, exact, rtol=0, atol=1e-9)


def test_causal_model_is_a_state_space_model_of_its_internal_state():
    """h_t = A h_{t-1} + W [u_t, z_t]: by the Kalman filter, which knows nothing of z, the same likelihood."""
    model = LinearRVAE("causal")
    x, u, exact = linear_data(model)
    W_u, W_z = model.d_h.W[:, :1], model.d_h.W[:, 1:]
    ssm = LinearGaussianSSM(
        model.d_h.A, model.x_head.linear.weight[:2], W_z @ W_z.T, torch.diag(model.x_noise),
        mu_1=torch.zeros(2, dtype=torch.float64), Lambda_1=W_z @ W_z.T, B=W_u, n=model.x_head.linear.bias[:2],
    )  # fmt: skip
    torch.testing.assert_close(log_likelihood(ssm, x, u), exact, rtol=0, atol=1e-9)


def test_the_exact_posterior_forgets_past_observations_in_the_causal_model_only():
    """(10.16): given z_{1:t-1}, x_{1:t-1} has no weight in the mean of z_t; in the noncausal model all of x has."""
    for generation in ("causal", "noncausal"):
        weights = LinearRVAE(generation).conditionals()[0][:, 5:].view(5, 5, 2).abs().amax(-1)
        past = torch.ones(5, 5).tril(-1).bool()
        assert weights[~past].min() > 1e-4
        assert weights[past].max() < 1e-12 if generation == "causal" else weights[past].min() > 1e-4


@every_recursion
def test_own_inference_bounds_the_likelihood_and_its_estimates_are_unbiased(generation, inference):
    model, many, estimates = LinearRVAE(generation, inference), 200, {}
    x, u, exact = linear_data(model)
    many_x, many_u = x.repeat(many, 1, 1), u.repeat(many, 1, 1)
    value = model.vlb(many_x, many_u, generator=seeded()).value.view(many, 4)
    assert (value.mean(0) < exact - 0.05).all()
    estimates["weighted"] = model.importance_weighted_bound(many_x, many_u, num_samples=20, generator=seeded())
    if generation == "causal":
        estimates["particles"] = model.smc_bound(many_x, many_u, num_particles=10, generator=seeded())
    for name, estimate in estimates.items():
        ratio = (estimate.view(many, 4) - exact).exp()
        assert (abs(ratio.mean(0) - 1) < 4 * ratio.std(0) / math.sqrt(many)).all(), name
        assert (ratio.std(0) / math.sqrt(many) < 0.1).all(), name  # or the line above says little
        assert (estimate.view(many, 4).mean(0) > value.mean(0)).all(), name


# ---- the truth of a nonlinear decoder, by quadrature ----------------------------------------------------


NODES, WEIGHTS = (torch.tensor(v) for v in np.polynomial.hermite_e.hermegauss(16))
PATHS = torch.cartesian_prod(NODES, NODES, NODES)
LOG_WEIGHTS = torch.cartesian_prod(*[(WEIGHTS / WEIGHTS.sum()).log()] * 3).sum(1)
SERIES = torch.tensor([[[1.5], [-1.2], [0.8]]], dtype=torch.float64)


def scalar(generation, inference="smoother", **options):
    """Vectors of size one; variances near one, so that the quadrature is exact and proposals are good ones."""
    sizes = {"decoder": (), "encoder": (), "head": ()}
    model = make(generation, inference, x_dim=1, z_dim=1, **sizes, **options)
    with torch.no_grad():
        for head in (model.z_head, model.x_head):
            head.linear.weight[1:] *= 0.1  # of the log-variance
            head.linear.bias.zero_()
        model.z_head.linear.weight[0] *= 0.5
    return model.requires_grad_(False)


def log_evidence(model, x, u=None):
    """log p(x_{1:3}): the prior of z_{1:3} is standard normal."""
    x, u = (None if value is None else value.repeat(len(PATHS), 1, 1) for value in (x, u))
    observation = model.generation(x, {"z": PATHS[..., None]}, u).observation
    return (LOG_WEIGHTS + observation.log_prob(x).sum(1)).logsumexp(0).item()


@driven_or_not
@every_variant
def test_bounds_of_a_nonlinear_model(generation, inference, u_dim):
    """The VLB's expectation is its integral, below log p(x); the other bounds' estimates of p(x) are unbiased."""
    model, x, many = scalar(generation, inference, u_dim=u_dim), SERIES, 400
    u = data(u_dim, seed=3, time=3)[:1] if u_dim else None
    exact = log_evidence(model, x, u)
    # Paths under the posterior, node by node.
    z, n = torch.zeros(len(PATHS), 3, 1, dtype=torch.float64), len(PATHS)
    x_n, u_n = x.repeat(n, 1, 1), None if u is None else u.repeat(n, 1, 1)
    for t in range(3):
        q = model.inference(x_n, u_n, latents={"z": z})["z"].posterior
        z[:, t] = q.mean[:, t] + q.stddev[:, t] * PATHS[:, t, None]
    q, generated = model.inference(x_n, u_n, latents={"z": z})["z"].posterior, model.generation(x_n, {"z": z}, u_n)
    weights = (generated.observation.log_prob(x_n) + generated.prior["z"].log_prob(z) - q.log_prob(z)).sum(1)
    assert (LOG_WEIGHTS + weights).logsumexp(0).item() == pytest.approx(exact, abs=2e-3)  # fine enough
    integral = (LOG_WEIGHTS.exp() * weights).sum().item()
    assert integral < exact - 0.01

    x_n, u_n = x.repeat(5 * many, 1, 1), None if u is None else u.repeat(5 * many, 1, 1)
    for kl in ("analytic", "sampled"):
        value = model.vlb(x_n, u_n, kl=kl, generator=seeded()).value
        assert value.mean().item() == pytest.approx(integral, abs=4 * value.std().item() / math.sqrt(5 * many))
    x_n, u_n = x_n[:many], None if u is None else u_n[:many]
    estimates = [model.importance_weighted_bound(x_n, u_n, num_samples=30, generator=seeded())]
    if generation != "noncausal":
        estimates.append(model.smc_bound(x_n, u_n, num_particles=15, generator=seeded()))
    for estimate in estimates:
        ratio = (estimate - exact).exp()
        assert ratio.mean().item() == pytest.approx(1.0, abs=4 * ratio.std().item() / math.sqrt(many) + 1e-3)
        assert estimate.mean().item() > integral


@driven_or_not
@pytest.mark.parametrize("generation", ["instantaneous", "causal", "noncausal"])
def test_binary_sequences_have_the_models_probabilities(generation, u_dim):
    """By quadrature they sum to one, and `generate` draws each as often as they say."""
    model, many = scalar(generation, u_dim=u_dim, observation="bernoulli"), 10_000
    model.x_head.linear.weight.mul_(1.5)
    u = data(u_dim, seed=3, time=3)[:1] if u_dim else None
    x = model.generate(3, many, u=None if u is None else u.repeat(many, 1, 1), generator=seeded()).x
    probabilities = []
    for bits in torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * 3):
        p = math.exp(log_evidence(model, bits.view(1, 3, 1), u))
        frequency = (x[..., 0] == bits).all(1).double().mean().item()
        assert frequency == pytest.approx(p, abs=4 * math.sqrt(p * (1 - p) / many) + 1e-4)
        probabilities.append(p)
    assert sum(probabilities) == pytest.approx(1.0, abs=1e-12)
    assert max(probabilities) - min(probabilities) > 0.03


# ---- generation of the noncausal model ------------------------------------------------------------------


@driven_or_not
@pytest.mark.parametrize("inference", ["smoother", "filter"])
def test_noncausal_generation_decodes_all_latents_together(inference, u_dim):
    model = make("noncausal", inference, u_dim=u_dim)
    u = data(u_dim, seed=3, time=8) if u_dim else None
    sample = model.generate(8, 4, u=u, generator=seeded())
    whole = model.generation(torch.zeros(4, 8, 3, dtype=torch.float64), sample.latents, u).observation
    torch.testing.assert_close(sample.observation.parameters, whole.parameters)
    mean = model.generate(8, 4, u=u, emission="mean", generator=seeded())
    assert torch.equal(mean.x, mean.observation.mean)
    assert torch.equal(mean.latents["z"], sample.latents["z"])
    assert not torch.equal(sample.x, mean.x)


@driven_or_not
@pytest.mark.parametrize("inference", ["smoother", "filter"])
def test_noncausal_continuation_keeps_the_prefixs_latents(inference, u_dim):
    """What is inferred from the prefix stays, new latents come from the prior, and all of them make the new frames."""
    model, prefix = make("noncausal", inference, u_dim=u_dim), data(3)
    u = data(u_dim, seed=3, time=8) if u_dim else None
    continued = model.generate(3, prefix=prefix, u=u, generator=seeded())
    inferred = model.inference(prefix, None if u is None else u[:, :5], generator=seeded())["z"].sample
    assert continued.latents["z"].shape == (4, 3, 2)
    z = torch.cat([inferred, continued.latents["z"]], 1)
    whole = model.generation(torch.zeros(4, 8, 3, dtype=torch.float64), {"z": z}, u).observation
    torch.testing.assert_close(continued.observation.parameters, whole[:, 5:].parameters)
    # Unlike in a causal model, the new latents would change the prefix's frames too.
    before = model.generation(prefix, {"z": inferred}, None if u is None else u[:, :5]).observation
    assert not torch.allclose(whole[:, :5].mean, before.mean)


def test_new_latents_are_standard_normal():
    model, prefix = make("noncausal"), data(3).repeat(1000, 1, 1)
    for sample in (model.generate(2, 4000, generator=seeded()), model.generate(2, prefix=prefix, generator=seeded())):
        z = sample.latents["z"].flatten(1)
        torch.testing.assert_close(z.mean(0), torch.zeros(4, dtype=torch.float64), rtol=0, atol=4 / math.sqrt(4000))
        torch.testing.assert_close(z.T.cov(), torch.eye(4, dtype=torch.float64), rtol=0, atol=6 / math.sqrt(4000))


@pytest.mark.parametrize("inference", ["smoother", "filter"])
def test_noncausal_model_refuses_what_runs_frame_by_frame(inference):
    model, x = make("noncausal", inference), data(3)
    assert not model.is_causal
    with pytest.raises(NotImplementedError, match="RVAE does not generate frame by frame"):
        model.initial_state(4)
    with pytest.raises(NotImplementedError, match="RVAE does not generate frame by frame; use generate"):
        model.step({}, torch.zeros(4, 3, dtype=torch.float64))
    with pytest.raises(NotImplementedError, match="RVAE does not generate frame by frame: no particle filter"):
        model.smc_bound(x, num_particles=3)


@driven_or_not
@pytest.mark.parametrize(("generation", "inference"), **named([case for case in VARIANTS if case[0] != "noncausal"]))
def test_causal_continuation_is_the_vectorised_pass(generation, inference, u_dim):
    model, prefix = make(generation, inference, u_dim=u_dim), data(3)
    u = data(u_dim, seed=3, time=8) if u_dim else None
    assert model.is_causal
    continued = model.generate(3, prefix=prefix, u=u, generator=seeded())
    inferred = model.inference(prefix, None if u is None else u[:, :5], generator=seeded())["z"].sample
    z = torch.cat([inferred, continued.latents["z"]], 1)
    whole = model.generation(torch.zeros(4, 8, 3, dtype=torch.float64), {"z": z}, u).observation
    torch.testing.assert_close(continued.observation.parameters, whole[:, 5:].parameters)


# ---- bounds of padded batches, options, presets ---------------------------------------------------------


@driven_or_not
@every_variant
def test_padded_bound_is_that_of_the_sequences_alone(generation, inference, u_dim):
    """Of values at the posterior's means, which need no noise."""
    model, x = make(generation, inference, u_dim=u_dim), data(3)
    u = data(u_dim, seed=3) if u_dim else None
    together = log_weights(model(x, u, lengths=LENGTHS, draw="mean"), x, lengths=LENGTHS)
    for i, n in enumerate(LENGTHS.tolist()):
        own_x, own_u = x[i : i + 1, :n], None if u is None else u[i : i + 1, :n]
        alone = log_weights(model(own_x, own_u, draw="mean"), own_x)
        torch.testing.assert_close(together[i : i + 1, :n], alone)
        assert (together[i, n:] == 0).all()


def test_options():
    for options, message in (
        ({"generation_model": "acausal"}, "generation_model must be one of instantaneous, causal, noncausal; got 'aca"),
        ({"inference_model": "oracle"}, "inference_model must be one of smoother, filter; got 'oracle'"),
        ({"generation_model": "instantaneous", "inference_model": "filter"}, "needs x_t alone: there is no filter"),
        ({"cell": "elman"}, "cell must be one of rnn, gru, lstm; got 'elman'"),
        ({"observation": "weibull"}, "observation must be one of"),
        ({"u_dim": -1}, "u_dim must be an integer of at least 0; got -1"),
        ({"h_dim": 0}, "h_dim must be at least 1; got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            RVAE(3, 2, **options)
    with pytest.raises(ValueError, match="does not generate from past observations"):
        make().vlb(data(3), feedback=0.5)


FORWARD_AND_BACKWARD = {
    "speech": {  # B.5
        "causal": {
            "d_h": [(512, 16), (512, 128)],
            "d_x": [],
            "x_head": [(513, 128)],
            "encoder": [],
            "e_gz": [(512, 16), (512, 128)],
            "e_gx": [(512, 513), (512, 128)],
            "e_z": [],
            "z_head": [(32, 256)],
        },
        "noncausal": {
            "d_h": [(512, 16), (512, 128)],
            "d_h_bwd": [(512, 16), (512, 128)],
            "d_x": [],
            "x_head": [(513, 256)],
            "encoder": [],
            "e_gz": [(512, 16), (512, 128)],
            "e_gx": [(512, 513), (512, 128)] * 2,
            "e_z": [],
            "z_head": [(32, 384)],
        },
    },
    "motion": {  # C.5
        "causal": {
            "d_h": [(256, 10), (256, 64)],
            "d_x": [],
            "x_head": [(93, 64)],
            "encoder": [],
            "e_gz": [(256, 10), (256, 64)],
            "e_gx": [(256, 93), (256, 64)],
            "e_z": [],
            "z_head": [(20, 128)],
        },
        "noncausal": {
            "d_h": [(256, 10), (256, 64)],
            "d_h_bwd": [(256, 10), (256, 64)],
            "d_x": [],
            "x_head": [(93, 128)],
            "encoder": [],
            "e_gz": [(256, 10), (256, 64)],
            "e_gx": [(256, 93), (256, 64)] * 2,
            "e_z": [],
            "z_head": [(20, 192)],
        },
    },
}


@pytest.mark.parametrize("generation", ["causal", "noncausal"])
@pytest.mark.parametrize("preset", ["speech", "motion"])
def test_presets_have_the_layers_of_the_appendices(preset, generation):
    model, layers = build_model(f"rvae-{generation}", preset=preset), FORWARD_AND_BACKWARD[preset][generation]
    x_dim, family = {"speech": (513, "Gamma"), "motion": (93, "CentimetreGaussian")}[preset]
    assert (model.x_dim, model.d_h.cell) == (x_dim, "lstm")
    assert {name for name, _ in model.named_children()} == set(layers)
    for name, shapes in layers.items():
        part = getattr(model, name)
        assert [tuple(p.shape) for p in part.parameters() if p.ndim == 2] == shapes, name
    assert [part.backward for part in model.e_gx] == {"causal": [True], "noncausal": [False, True]}[generation]
    assert all(isinstance(part.network, nn.LSTM) for part in model.e_gx)
    assert model.d_h_bwd is None if generation == "causal" else model.d_h_bwd.backward
    assert type(model.generate(2).observation).__name__ == family
    # What the class does by default is the speech preset.
    plain = RVAE(513, 16, observation="gamma", generation_model=generation).state_dict()
    assert preset == "motion" or {k: v.shape for k, v in plain.items()} == {
        k: v.shape for k, v in model.state_dict().items()
    }
