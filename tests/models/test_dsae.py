"""DSAE against its equations written out, the Kalman filter, quadrature, and Appendices B and C."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from written_out import LinearState, data, lstm

from dvae_lib.distributions import DiagonalGaussian
from dvae_lib.graphs import verify_dependencies
from dvae_lib.graphs.spec import Gap
from dvae_lib.models import DSAE, build_model
from dvae_lib.objectives import Latent, log_weights
from dvae_lib.statespace import LinearGaussianSSM, log_likelihood

SIZES = {"v_dim": 3, "h_dim": 4, "prior": (3,), "decoder": (5,), "encoder": (5,), "g_dim": 3, "head": (6,)}
VARIANTS = ("full", "full-rnn", "factorised", "structured")
LENGTHS = torch.tensor([5, 1, 4, 2])
NOTHING = frozenset()

every_variant = pytest.mark.parametrize("variant", VARIANTS)
driven_or_not = pytest.mark.parametrize("u_dim", [0, 2], ids=["undriven", "driven"])


def seeded(seed=3):
    return torch.Generator().manual_seed(seed)


def make(variant="full", *, u_dim=0, x_dim=3, z_dim=2, scale=0.6, **options):
    """The variant "full-rnn" is the full model with the recurrent head of Appendix B.6."""
    torch.manual_seed(0)
    head_rnn = 4 if variant == "full-rnn" else 0
    options = {**SIZES, "inference_model": variant.split("-")[0], "head_rnn": head_rnn, "u_dim": u_dim, **options}
    model = DSAE(x_dim, z_dim, **options).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=scale)
    return model


# ---- the equations --------------------------------------------------------------------------------------


def written_out(model, variant, x, z, v, u):
    """p(z_t | .), p(x_t | .), q(v | .), q(z_t | .) of one sequence, from z_0 = 0 and states of zeros."""
    frames = range(x.shape[1])
    d_h, h = lstm(model.d_h.layers, 1), []
    for t in frames:
        h.append(d_h(u[:, t], z[:, t - 1] if t else torch.zeros_like(z[:, 0])))  # (11.2)
    priors = [model.prior_head(model.d_z(h_t)) for h_t in h]  # (11.3)
    observations = [model.x_head(model.d_x(torch.cat([z[:, t], v], -1))) for t in frames]  # (11.5)

    seen = [model.encoder(torch.cat([x[:, t], u[:, t]], -1)) for t in frames]
    forward, backward = (lstm(network.network, 1) for network in model.e_gv)
    for t in frames:
        gv_fwd = forward(seen[t])  # (11.12)
    for t in reversed(frames):
        gv_bwd = backward(seen[t])  # (11.13)
    q_v = model.v_head(torch.cat([gv_fwd, gv_bwd], -1))  # (11.14), (11.15)

    if variant == "factorised":
        return priors, observations, q_v, [model.z_head(model.e_z(seen[t])) for t in frames]  # (11.10)
    *forward, backward = (lstm(network.network, 1) for network in model.e_gz)
    gz = {t: [backward(seen[t], v)] for t in reversed(frames)}  # (11.18)
    if variant == "structured":
        gz = [torch.cat([*gz[t], h[t]], -1) for t in frames]
    else:
        gz = [torch.cat([forward[0](seen[t], v), *gz[t]], -1) for t in frames]  # (11.17), (11.19)
    if variant == "full-rnn":
        network, last = model.head_rnn.network, torch.zeros(1, 4, dtype=torch.float64)
        for t in frames:  # the simple RNN of Appendix B.6, Eq. (3.1)
            w_in, w_rec, b_in, b_rec = network.all_weights[0]
            gz[t] = last = torch.tanh(gz[t] @ w_in.T + b_in + last @ w_rec.T + b_rec)
    return priors, observations, q_v, [model.z_head(model.e_z(g)) for g in gz]  # (11.20)


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "padded"])
@driven_or_not
@every_variant
def test_equations_written_out(variant, u_dim, lengths):
    """(11.2)-(11.6), (11.12)-(11.21), (11.10); the structured model from its docstring."""
    model, x, z, v = make(variant, u_dim=u_dim), data(3), data(2, seed=2), data(3, seed=4)[:, 0]
    u = data(u_dim, seed=3)
    given_u = u if u_dim else None
    generated = model.generation(x, {"z": z, "v": v}, given_u, lengths=lengths)
    inferred = model.inference(x, given_u, latents={"z": z, "v": v}, lengths=lengths)
    for i, n in enumerate([5] * 4 if lengths is None else lengths.tolist()):
        one = slice(i, i + 1)
        priors, observations, q_v, q_z = written_out(model, variant, x[one, :n], z[one, :n], v[one], u[one, :n])
        torch.testing.assert_close(inferred["v"].posterior[one].parameters, q_v.parameters)
        for t in range(n):
            torch.testing.assert_close(generated.prior["z"][one, t].parameters, priors[t].parameters)
            torch.testing.assert_close(generated.observation[one, t].parameters, observations[t].parameters)
            torch.testing.assert_close(inferred["z"].posterior[one, t].parameters, q_z[t].parameters)
    assert generated.prior["v"].mean.shape == (4, 3)
    assert (generated.prior["v"].mean == 0).all()  # (11.1)
    assert (generated.prior["v"].logvar == 0).all()


@pytest.mark.parametrize("head", [(), (6,)], ids=["plain", "head"])
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
@driven_or_not
@every_variant
def test_what_is_drawn_is_drawn_from_the_posterior(variant, u_dim, cell, head):
    """First v, then z given v: the posteriors are those of the pass that knows them; noise in that order."""
    model, x = make(variant, u_dim=u_dim, cell=cell, head=head, encoder=()), data(3)
    u = data(u_dim, seed=3) if u_dim else None
    drawn = model.inference(x, u, lengths=LENGTHS, generator=seeded())
    again = model.inference(x, u, lengths=LENGTHS, latents={k: latent.sample for k, latent in drawn.items()})
    generator = seeded()
    for name, shape in (("v", (4, 3)), ("z", (4, 5, 2))):
        q, sample = again[name].posterior, drawn[name].sample
        torch.testing.assert_close(drawn[name].posterior.parameters, q.parameters)
        epsilon = torch.randn(shape, generator=generator, dtype=torch.float64)
        torch.testing.assert_close((sample - q.mean) / q.stddev, epsilon)
    for latent in model.inference(x, u, draw="mean").values():
        torch.testing.assert_close(latent.sample, latent.posterior.mean)
    # With one of the two given, the other is drawn given it.
    v = torch.full((4, 3), 0.7, dtype=torch.float64)
    part = model.inference(x, u, latents={"v": v}, generator=seeded())
    whole = model.inference(x, u, latents={"v": v, "z": part["z"].sample})
    assert torch.equal(part["v"].sample, v)
    torch.testing.assert_close(part["z"].posterior.parameters, whole["z"].posterior.parameters)
    assert torch.equal(model.inference(x, u, latents={"z": data(2)})["z"].sample, data(2))


# ---- known answers --------------------------------------------------------------------------------------


def sets(text):
    return frozenset(text.split())


INFERRED = {  # (11.21), (11.10), (11.9)
    "full": "v x_{1:T}",
    "full-rnn": "v x_{1:T}",
    "factorised": "x_t",
    "structured": "z_{1:t-1} v x_{t:T}",
}
GAPS = {
    "full": ("z_{1:t-1}", "x_{1:t-1}"),
    "full-rnn": ("z_{1:t-1}", "x_{1:t-1}"),
    "factorised": ("z_{1:t-1} v x_{t+1:T}", ""),
    "structured": ("", ""),
}


@every_variant
def test_known_answers(variant):
    compact = {"v": NOTHING, "z_t": sets("z_{1:t-1}"), "x_t": sets("z_t v")}
    spec = make(variant).spec
    assert spec.compact() == compact  # (11.1)
    assert spec.compact("inference") == {"v": sets("x_{1:T}"), "z_t": sets(INFERRED[variant])}
    assert spec.exact_posterior() == {"v": sets("x_{1:T}"), "z_t": sets("z_{1:t-1} v x_{t:T}")}  # (11.9)
    missing, extra = map(sets, GAPS[variant])
    assert spec.inference_gap() == {"v": Gap(NOTHING, NOTHING), "z_t": Gap(missing, extra)}
    assert (spec is DSAE.spec) == (variant == "full")
    # Driven
    driven = make(variant, u_dim=2).spec
    assert driven.undriven().compact() == compact
    assert driven.undriven().compact("inference") == spec.compact("inference")
    assert driven.compact() == {**compact, "z_t": sets("z_{1:t-1} u_{1:t}")}
    assert driven.exact_posterior() == {"v": sets("x_{1:T} u_{1:T}"), "z_t": sets("z_{1:t-1} v x_{t:T} u_{1:T}")}
    u_q = "u_t" if variant == "factorised" else "u_{1:T}"
    assert driven.compact("inference") == {"v": sets("x_{1:T} u_{1:T}"), "z_t": sets(f"{INFERRED[variant]} {u_q}")}
    if variant == "factorised":
        missing |= sets("u_{1:t-1} u_{t+1:T}")
    assert driven.inference_gap() == {"v": Gap(NOTHING, NOTHING), "z_t": Gap(missing, extra)}


@driven_or_not
@every_variant
def test_code_has_the_dependencies_of_the_equations(variant, u_dim):
    verdict = verify_dependencies(make(variant, u_dim=u_dim))
    assert verdict.agrees, str(verdict)


# ---- the Kalman filter ----------------------------------------------------------------------------------


class LinearDSAE(DSAE):
    """A linear-Gaussian state-space model: its state holds z_t, h_t, and v, which never moves."""

    num_steps = 5
    z_noise = torch.tensor([0.4], dtype=torch.float64)
    x_noise = torch.tensor([1.0, 1.5], dtype=torch.float64)

    def __init__(self, inference_model="structured"):
        torch.manual_seed(2)
        sizes = {"u_dim": 1, "v_dim": 1, "h_dim": 2, "g_dim": 3, "decoder": ()}
        super().__init__(2, 1, inference_model=inference_model, **sizes)
        self.double()
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.5)
        self.d_h = LinearState(2, 2)
        generator = seeded(5)  # the same generative model, whatever its inference
        with torch.no_grad():
            for linear, noise in ((self.prior_head.linear, self.z_noise), (self.x_head.linear, self.x_noise)):
                linear.weight.normal_(std=0.6, generator=generator)
                linear.bias.normal_(std=0.2, generator=generator)
                linear.weight[len(noise) :] = 0
                linear.bias[len(noise) :] = noise.log()
            for parameter in (self.d_h.W, self.d_h.A):
                parameter.normal_(std=0.7, generator=generator)
            for head in (self.v_head, self.z_head):  # a proposal between prior and posterior
                head.linear.weight *= 0.25
                head.linear.bias.zero_()
                head.linear.bias[1:] = -0.3
            self.v_head.linear.bias[0] = 0.7  # so that the weight of v matters
        self.requires_grad_(False)

    def ssm(self):
        """Of the state [z_t, h_t, v], with z_t = p + P h_t + noise and h_t = W_u u_t + W_z z_{t-1} + A h_{t-1}."""
        P, p = self.prior_head.linear.weight[:1], self.prior_head.linear.bias[:1]
        C, c = self.x_head.linear.weight[:2], self.x_head.linear.bias[:2]
        W_u, W_z = self.d_h.W[:, :1], self.d_h.W[:, 1:]
        h_from = torch.cat([W_z, self.d_h.A], 1)
        A = torch.block_diag(torch.cat([P @ h_from, h_from]), torch.ones(1, 1, dtype=torch.float64))
        zero = torch.zeros(1, dtype=torch.float64)
        return LinearGaussianSSM(
            A,
            torch.cat([C[:, :1], torch.zeros(2, 2, dtype=torch.float64), C[:, 1:]], 1),
            torch.diag(torch.cat([self.z_noise, zero, zero, zero])),
            torch.diag(self.x_noise),
            mu_1=torch.cat([p, zero, zero, zero]),
            Lambda_1=torch.diag(torch.cat([self.z_noise, zero, zero, zero + 1])),
            B=torch.cat([P @ W_u, W_u, zero[None]]),
            m=torch.cat([p, zero, zero, zero]),
            n=c,
        )

    def joint(self, u):
        """Means, (B, .), and covariance of v, z_{1:T}, x_{1:T}, from what each unit of noise does to all frames."""
        n = self.num_steps
        C, c = self.x_head.linear.weight[:2], self.x_head.linear.bias[:2]
        # z = M e + s, with e the noise of z: M from impulses, s from silence.
        impulses = torch.cat([torch.zeros(1, n), torch.eye(n)]).double()[:, None].expand(-1, len(u), -1)
        runs = torch.stack([self.dynamics(u, e) for e in impulses])
        M, s = (runs[1:, 0] - runs[0, 0]).T, runs[0]
        z_of = torch.cat([torch.zeros(n, 1), M], 1)  # columns: v and the noise
        x_of = torch.kron(z_of, C[:, :1]) + torch.kron(torch.eye(1, n + 1).double(), C[:, 1:].repeat(n, 1))
        gains = torch.cat([torch.eye(1, n + 1).double(), z_of, x_of])
        spread = torch.diag(torch.cat([torch.ones(1).double(), self.z_noise.repeat(n)]))
        covariance = gains @ spread @ gains.T
        covariance[n + 1 :, n + 1 :] += torch.diag(self.x_noise.repeat(n))
        x_mean = (s[..., None] * C[:, 0] + c).flatten(1)
        return torch.cat([torch.zeros(len(u), 1).double(), s, x_mean], 1), covariance

    def dynamics(self, u, e):
        h, z, frames = torch.zeros(len(u), 2).double(), torch.zeros(len(u), 1).double(), []
        for t in range(self.num_steps):
            h = u[:, t] @ self.d_h.W[:, :1].T + z @ self.d_h.W[:, 1:].T + h @ self.d_h.A.T
            z = h @ self.prior_head.linear.weight[:1].T + self.prior_head.linear.bias[:1] + e[:, t, None]
            frames.append(z[:, 0])
        return torch.stack(frames, 1)


class ExactDSAE(LinearDSAE):
    """As inference model the exact posterior (11.9), or, with `full`, the best one of the full structure.

    Of all products of Gaussians of z_t given v and x, that with the posterior's mean and the diagonal of its precision
    is nearest to the posterior.
    """

    full = False

    def regression(self, covariance):
        """The coefficients of all variables in the mean of v and of each z_t, and the variances, in this order."""
        n, size = self.num_steps, len(covariance)
        seen, coefficients, variances = [*range(n + 1, size)], torch.zeros(n + 1, size).double(), []
        for t in range(n + 1):
            given = [*range(1 if self.full and t else t), *seen]
            coefficients[t, given] = torch.linalg.solve(covariance[given][:, given], covariance[given, t])
            variances.append(covariance[t, t] - coefficients[t] @ covariance[:, t])
        variances = torch.stack(variances)
        if self.full:
            variances[1:] = 1 / self.precision(covariance).diagonal()
        return coefficients, variances

    def precision(self, covariance):
        """Of z_{1:T} given v and x: a block of the joint precision."""
        return torch.linalg.inv(covariance)[1 : self.num_steps + 1, 1 : self.num_steps + 1]

    def gap(self, covariance):
        """What the best full structure loses: (log det of the posterior's precision's diagonal - of itself) / 2."""
        precision = self.precision(covariance)
        return 0.5 * (precision.diagonal().log().sum() - precision.logdet())

    def inference(self, x, u=None, *, lengths=None, latents=None, draw="sample", generator=None):
        mean, covariance = self.joint(u)
        coefficients, variances = self.regression(covariance)
        values = torch.cat([torch.zeros_like(mean[:, : self.num_steps + 1]), x.flatten(1)], 1)
        given = {} if latents is None else latents
        noise = torch.randn(len(x), self.num_steps + 1, dtype=x.dtype, generator=generator)
        means = []
        for t in range(self.num_steps + 1):
            means.append(mean[:, t] + (values - mean) @ coefficients[t])
            values[:, t] = means[t] + variances[t].sqrt() * noise[:, t]
            if t == 0 and "v" in given:
                values[:, 0] = given["v"][:, 0]
            if t > 0 and "z" in given:
                values[:, t] = given["z"][:, t - 1, 0]
        mean = torch.stack(means, 1)
        q = DiagonalGaussian(mean[..., None], variances.log()[:, None].expand(*mean.shape, 1))
        n = self.num_steps + 1
        return {"v": Latent(values[:, :1], q[:, 0]), "z": Latent(values[:, 1:n, None], q[:, 1:])}


@pytest.fixture(scope="module")
def truth():
    model, u = LinearDSAE(), data(1, seed=3)
    x = model.generate(5, 4, u=u, generator=seeded()).x
    return x, u, log_likelihood(model.ssm(), x, u)


def test_joint_covariance_gives_the_kalman_likelihood(truth):
    x, u, exact = truth
    mean, covariance = LinearDSAE().joint(u)
    marginal = torch.distributions.MultivariateNormal(mean[:, 6:], covariance[6:, 6:])
    torch.testing.assert_close(marginal.log_prob(x.flatten(1)), exact, rtol=0, atol=1e-9)


def test_every_sample_of_the_bound_is_the_kalman_likelihood_at_the_exact_posterior(truth):
    x, u, exact = truth
    model, parts = ExactDSAE(), []
    for seed in range(5):
        bound = model.vlb(x, u, kl="sampled", generator=seeded(seed))
        torch.testing.assert_close(bound.value, exact, rtol=0, atol=1e-9)
        parts.append(bound.reconstruction)
    assert torch.stack(parts).std(0).min() > 0.1  # though the samples differ
    weighted = model.importance_weighted_bound(x, u, num_samples=3, generator=seeded())
    torch.testing.assert_close(weighted, exact, rtol=0, atol=1e-9)
    particles = model.smc_bound(x, u, num_particles=3, threshold=0.0, generator=seeded())
    torch.testing.assert_close(particles, exact, rtol=0, atol=1e-9)
    coefficients, _ = model.regression(model.joint(u)[1])
    weights = coefficients[1:, 6:].view(5, 5, 2).abs().amax(-1)
    past = torch.ones(5, 5).tril(-1).bool()
    assert weights[past].max() < 1e-12  # (11.9): given v and z_{1:t-1}, past observations are forgotten
    assert weights[~past].min() > 1e-5


def test_the_full_structure_cannot_reach_the_likelihood(truth):
    """(11.22) leaves out z_{t-1}: at its best it loses what the z_t know about each other given v and x."""
    x, u, exact = truth
    model, many = ExactDSAE(), 2000
    model.full = True
    gap = model.gap(model.joint(u)[1]).item()
    assert gap > 0.05
    bound = model.vlb(x.repeat(many, 1, 1), u.repeat(many, 1, 1), kl="sampled", generator=seeded())
    value = bound.value.view(many, 4)
    error = value.std(0) / math.sqrt(many)
    assert (error < gap / 10).all()
    assert (abs(value.mean(0) - (exact - gap)) < 4 * error).all()


@pytest.mark.parametrize("variant", ["full", "factorised", "structured"])
def test_own_inference_bounds_it_and_its_estimates_are_unbiased(truth, variant):
    x, u, exact = truth
    model, many = LinearDSAE(variant), 200
    many_x, many_u = x.repeat(many, 1, 1), u.repeat(many, 1, 1)
    value = model.vlb(many_x, many_u, generator=seeded()).value.view(many, 4)
    assert (value.mean(0) < exact - 0.1).all()
    estimates = {
        "weighted": model.importance_weighted_bound(many_x, many_u, num_samples=20, generator=seeded()),
        "particles": model.smc_bound(many_x, many_u, num_particles=10, generator=seeded()),
    }
    for name, estimate in estimates.items():
        ratio = (estimate.view(many, 4) - exact).exp()
        assert (abs(ratio.mean(0) - 1) < 4 * ratio.std(0) / math.sqrt(many)).all(), name
        assert (ratio.std(0) / math.sqrt(many) < 0.15).all(), name  # or the line above says little
        assert (estimate.view(many, 4).mean(0) > value.mean(0)).all(), name


# ---- the truth of a nonlinear model, by quadrature ------------------------------------------------------


NODES, WEIGHTS = (torch.tensor(v) for v in np.polynomial.hermite_e.hermegauss(16))
GRID = torch.cartesian_prod(NODES, NODES, NODES)  # of v, z_1, z_2
LOG_WEIGHTS = torch.cartesian_prod(*[(WEIGHTS / WEIGHTS.sum()).log()] * 3).sum(1)
PAIR = torch.tensor([[[1.5], [-0.7]]], dtype=torch.float64)


def scalar(variant, **options):
    """Vectors of size one; variances near one, so that the quadrature is exact and proposals are good ones."""
    sizes = {"v_dim": 1, "prior": (), "decoder": (4,), "encoder": (), "head": ()}
    model = make(variant, x_dim=1, z_dim=1, **{**sizes, **options})
    with torch.no_grad():
        for head in (model.v_head, model.z_head, model.x_head, model.prior_head):
            head.linear.weight[1:] *= 0.1  # of the log-variance
            head.linear.bias.zero_()
        model.prior_head.linear.weight[0] *= 2
    return model.requires_grad_(False)


def log_densities(model, x, u, drawn_from):
    """log p(x | v, z), log p(v, z), log q(v, z | x) along all paths (v, z_1, z_2) under the prior or the posterior."""
    n = len(GRID)
    x, u = (None if value is None else value.repeat(n, 1, 1) for value in (x, u))
    latents = {"v": torch.zeros(n, 1).double(), "z": torch.zeros(n, 2, 1).double()}

    def densities():
        inferred, generated = model.inference(x, u, latents=latents), model.generation(x, latents, u)
        return {name: latent.posterior for name, latent in inferred.items()}, generated

    for t in range(3):
        posterior, generated = densities()
        law = generated.prior if drawn_from == "prior" else posterior
        if t == 0:
            latents["v"] = law["v"].mean + law["v"].stddev * GRID[:, :1]
        else:
            latents["z"][:, t - 1] = (law["z"].mean + law["z"].stddev * GRID[:, t, None, None])[:, t - 1]
    posterior, generated = densities()
    prior, q = (
        law["v"].log_prob(latents["v"]) + law["z"].log_prob(latents["z"]).sum(1) for law in (generated.prior, posterior)
    )
    return generated.observation.log_prob(x).sum(1), prior, q


def log_evidence(model, x, u=None):
    return (LOG_WEIGHTS + log_densities(model, x, u, "prior")[0]).logsumexp(0).item()


@driven_or_not
@every_variant
def test_bounds_of_a_nonlinear_model(variant, u_dim):
    """The VLB's expectation is its integral, below log p(x); the other bounds' estimates of p(x) are unbiased."""
    model, x, many = scalar(variant, u_dim=u_dim), PAIR, 400
    u = data(u_dim, seed=3, time=2)[:1] if u_dim else None
    exact = log_evidence(model, x, u)
    likelihood, prior, q = log_densities(model, x, u, "posterior")
    weights = likelihood + prior - q
    assert (LOG_WEIGHTS + weights).logsumexp(0).item() == pytest.approx(exact, abs=0.02)  # fine enough
    integral = (LOG_WEIGHTS.exp() * weights).sum().item()
    assert integral < exact - 0.01

    x_n, u_n = x.repeat(5 * many, 1, 1), None if u is None else u.repeat(5 * many, 1, 1)
    for kl in ("analytic", "sampled"):
        value = model.vlb(x_n, u_n, kl=kl, generator=seeded()).value
        assert value.mean().item() == pytest.approx(integral, abs=4 * value.std().item() / math.sqrt(5 * many))
    x_n, u_n = x_n[:many], None if u is None else u_n[:many]
    for estimate in (
        model.importance_weighted_bound(x_n, u_n, num_samples=30, generator=seeded()),
        model.smc_bound(x_n, u_n, num_particles=15, generator=seeded()),
    ):
        ratio = (estimate - exact).exp()
        assert ratio.mean().item() == pytest.approx(1.0, abs=4 * ratio.std().item() / math.sqrt(many) + 1e-3)
        assert estimate.mean().item() > integral


@driven_or_not
def test_binary_sequences_have_the_models_probabilities(u_dim):
    """By quadrature they sum to one, and `generate` draws each as often as they say: with one v for both frames."""
    model, many = scalar("structured", u_dim=u_dim, observation="bernoulli"), 10_000
    model.x_head.linear.weight.mul_(2)
    u = data(u_dim, seed=3, time=2)[:1] if u_dim else None
    x = model.generate(2, many, u=None if u is None else u.repeat(many, 1, 1), generator=seeded()).x
    probabilities = []
    for bits in torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * 2):
        p = math.exp(log_evidence(model, bits.view(1, 2, 1), u))
        frequency = (x[..., 0] == bits).all(1).double().mean().item()
        assert frequency == pytest.approx(p, abs=4 * math.sqrt(p * (1 - p) / many) + 1e-4)
        probabilities.append(p)
    assert sum(probabilities) == pytest.approx(1.0, abs=1e-12)
    assert max(probabilities) - min(probabilities) > 0.03


# ---- the latent of the sequence -------------------------------------------------------------------------


@every_variant
def test_kl_of_v_is_counted_once_per_sequence(variant):
    model, x = make(variant), data(3)
    for lengths in (None, LENGTHS):
        output = model(x, lengths=lengths, generator=seeded())
        q, v = output.latents["v"].posterior, output.latents["v"].sample
        closed_form = 0.5 * (q.mean**2 + q.logvar.exp() - q.logvar - 1).sum(-1)
        sampled = q.log_prob(v) + 0.5 * (v**2 + math.log(2 * math.pi)).sum(-1)
        for kl, expected in (("analytic", closed_form), ("sampled", sampled)):
            bound = model.vlb(x, lengths=lengths, beta=0.3, kl=kl, generator=seeded())
            assert {name: tuple(term.shape) for name, term in bound.kl.items()} == {"v": (4,), "z": (4, 5)}
            assert tuple(bound.kl_per_dim["v"].shape) == (4, 3)
            torch.testing.assert_close(bound.kl["v"], expected)
            torch.testing.assert_close(bound.value, bound.reconstruction - 0.3 * (expected + bound.kl["z"].sum(1)))


def test_several_samples_average_the_terms_of_one():
    model, x = make("structured"), data(3)
    bound = model.vlb(x, lengths=LENGTHS, num_samples=3, beta=0.5, generator=seeded())
    single = model.vlb(x.repeat(3, 1, 1), lengths=LENGTHS.repeat(3), beta=0.5, generator=seeded())
    torch.testing.assert_close(bound.value, single.value.view(3, 4).mean(0))
    torch.testing.assert_close(bound.kl["v"], single.kl["v"].view(3, 4).mean(0))
    torch.testing.assert_close(bound.kl["z"], single.kl["z"].view(3, 4, 5).mean(0))
    assert bound.kl["v"].shape == (4,)
    assert bound.kl_per_dim["v"].shape == (4, 3)


@every_variant
def test_log_weights_hold_v_in_the_first_frame_alone(variant):
    model, x = make(variant), data(3)
    output = model(x, lengths=LENGTHS, generator=seeded())
    z, v = output.latents["z"], output.latents["v"]
    inside = torch.arange(5) < LENGTHS[:, None]
    expected = output.observation.log_prob(x) + z.prior.log_prob(z.sample) - z.posterior.log_prob(z.sample)
    expected[:, 0] += v.prior.log_prob(v.sample) - v.posterior.log_prob(v.sample)
    torch.testing.assert_close(log_weights(output, x, lengths=LENGTHS), expected * inside)


def test_importance_weighted_bound_has_one_v_per_sample():
    """Each sample of the whole sequence has one v, and one weight: chunks do not change that."""
    model, x, generator = make("structured"), data(3), seeded()
    weights = []
    for repeats in (4, 4, 2):
        x_r, lengths = x.repeat(repeats, 1, 1), LENGTHS.repeat(repeats)
        inside = torch.arange(5) < lengths[:, None]
        latents = {k: latent.sample for k, latent in model.inference(x_r, lengths=lengths, generator=generator).items()}
        assert latents["v"].shape == (4 * repeats, 3)
        posterior = model.inference(x_r, lengths=lengths, latents=latents)
        generated = model.generation(x_r, latents, lengths=lengths)
        frames = generated.observation.log_prob(x_r) + generated.prior["z"].log_prob(latents["z"])
        frames = (frames - posterior["z"].posterior.log_prob(latents["z"])) * inside
        of_v = generated.prior["v"].log_prob(latents["v"]) - posterior["v"].posterior.log_prob(latents["v"])
        weights.append((frames.sum(1) + of_v).view(repeats, 4))
    expected = torch.cat(weights).logsumexp(0) - math.log(10)
    found = model.importance_weighted_bound(x, lengths=LENGTHS, num_samples=10, chunk_size=4, generator=seeded())
    torch.testing.assert_close(found, expected)


@driven_or_not
@every_variant
def test_padding_leaves_v_as_it_is(variant, u_dim):
    model, x = make(variant, u_dim=u_dim), data(3)
    u = data(u_dim, seed=3) if u_dim else None
    together = model(x, u, lengths=LENGTHS, draw="mean")
    frames = log_weights(together, x, lengths=LENGTHS)
    for i, n in enumerate(LENGTHS.tolist()):
        own_x, own_u = x[i : i + 1, :n], None if u is None else u[i : i + 1, :n]
        alone = model(own_x, own_u, draw="mean")
        for name in ("v", "z"):
            own = alone.latents[name].sample
            found = together.latents[name].sample[i : i + 1]
            torch.testing.assert_close(found[:, :n] if name == "z" else found, own)
        torch.testing.assert_close(
            together.latents["v"].posterior[i : i + 1].parameters, alone.latents["v"].posterior.parameters
        )
        torch.testing.assert_close(frames[i : i + 1, :n], log_weights(alone, own_x))


def test_v_reads_the_whole_sequence_and_z_its_own_part():
    """Given v, z_t of the structured model is blind to the past of x, that of the factorised to all but x_t."""
    seen = {"full": [1, 1, 1, 1, 1], "full-rnn": [1, 1, 1, 1, 1], "factorised": [0, 0, 1, 0, 0]}
    seen["structured"] = [0, 0, 1, 1, 1]
    for variant in VARIANTS:
        model, x = make(variant), data(3).requires_grad_()
        inferred = model.inference(x, latents={"z": data(2), "v": data(3)[:, 0]})
        for law, expected in ((inferred["v"].posterior, [1] * 5), (inferred["z"].posterior[:, 2], seen[variant])):
            (gradient,) = torch.autograd.grad(law.mean.sum(), x, retain_graph=True)
            assert [int(g.any()) for g in gradient.unbind(1)] == expected, variant


@driven_or_not
@every_variant
def test_continuation_keeps_v(variant, u_dim):
    """v and z_{1:5} are inferred from the prefix; the new frames are those of `generation` on the whole."""
    model, prefix = make(variant, u_dim=u_dim), data(3)
    u = data(u_dim, seed=3, time=8) if u_dim else None
    continued = model.generate(3, prefix=prefix, u=u, generator=seeded())
    inferred = model.inference(prefix, None if u is None else u[:, :5], generator=seeded())
    assert torch.equal(continued.latents["v"], inferred["v"].sample)
    latents = {"v": inferred["v"].sample, "z": torch.cat([inferred["z"].sample, continued.latents["z"]], 1)}
    whole = model.generation(torch.zeros(4, 8, 3, dtype=torch.float64), latents, u)
    torch.testing.assert_close(continued.observation.parameters, whole.observation[:, 5:].parameters)


@driven_or_not
def test_new_sequences_have_a_v_each(u_dim):
    model = make(u_dim=u_dim)
    u = data(u_dim, seed=3, time=6) if u_dim else None
    sample = model.generate(6, 4, u=u, generator=seeded())
    whole = model.generation(sample.x, sample.latents, u)
    torch.testing.assert_close(sample.observation.parameters, whole.observation.parameters)
    many = 4000
    v = model.generate(1, many, u=u[:1, :1].repeat(many, 1, 1) if u_dim else None, generator=seeded()).latents["v"]
    assert v.shape == (many, 3)
    torch.testing.assert_close(v.mean(0), torch.zeros(3, dtype=torch.float64), rtol=0, atol=4 / math.sqrt(many))
    torch.testing.assert_close(v.T.cov(), torch.eye(3, dtype=torch.float64), rtol=0, atol=6 / math.sqrt(many))


@driven_or_not
def test_steps_start_from_the_v_that_is_given(u_dim):
    model, x, z, v = make(u_dim=u_dim), data(3), data(2, seed=2), data(3, seed=4)[:, 0]
    u = data(u_dim, seed=3) if u_dim else None
    whole = model.generation(x, {"z": z, "v": v}, u)
    state = model.initial_state(4, v=v)
    with pytest.raises(ValueError, match=r"v must have shape \(3, 3\); got \(4, 3\)"):
        model.initial_state(3, v=v)
    for t in range(5):
        assert torch.equal(state["v"], v)
        out = model.step(state, x[:, t], None if u is None else u[:, t], z_t=z[:, t])  # x_prev is not looked at
        torch.testing.assert_close(out.prior["z"].parameters, whole.prior["z"][:, t].parameters)
        torch.testing.assert_close(out.observation.parameters, whole.observation[:, t].parameters)
        state = out.state
    one, same = (model.initial_state(4, generator=seeded())["v"] for _ in range(2))
    assert torch.equal(one, same)
    assert len(one.unique()) == 12


# ---- options, presets -----------------------------------------------------------------------------------


def test_options():
    for options, message in (
        ({"inference_model": "oracle"}, "inference_model must be one of full, factorised, structured; got 'oracle'"),
        ({"v_dim": 0}, "v_dim must be an integer of at least 1; got 0"),
        ({"head_rnn": -1}, "head_rnn must be an integer of at least 0; got -1"),
        ({"cell": "elman"}, "cell must be one of rnn, gru, lstm; got 'elman'"),
        ({"observation": "weibull"}, "observation must be one of"),
        ({"u_dim": -1}, "u_dim must be an integer of at least 0; got -1"),
        ({"h_dim": 0}, "h_dim must be at least 1; got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            DSAE(3, 2, **options)
    with pytest.raises(ValueError, match="does not generate from past observations"):
        make().vlb(data(3), feedback=0.5)
    assert DSAE(3, 2).v_dim == 2  # B.6: v has the size of z_t


PRESETS = {
    "speech": {  # B.6
        "d_h": [(512, 16), (512, 128)],
        "d_z": [],
        "prior_head": [(32, 128)],
        "d_x": [(32, 32), (64, 32), (128, 64), (256, 128)],
        "x_head": [(513, 256)],
        "encoder": [],
        "e_gv": [(512, 513), (512, 128)] * 2,
        "v_head": [(32, 256)],
        "e_gz": [(512, 529), (512, 128)] * 2,
        "head_rnn": [(128, 256), (128, 128)],
        "e_z": [],
        "z_head": [(32, 128)],
    },
    "motion": {  # C.6
        "d_h": [(256, 10), (256, 64)],
        "d_z": [],
        "prior_head": [(20, 64)],
        "d_x": [(32, 20), (64, 32)],
        "x_head": [(93, 64)],
        "encoder": [],
        "e_gv": [(256, 93), (256, 64)] * 2,
        "v_head": [(20, 128)],
        "e_gz": [(256, 103), (256, 64)] * 2,
        "head_rnn": [(64, 128), (64, 64)],
        "e_z": [],
        "z_head": [(20, 64)],
    },
}


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_have_the_layers_of_the_appendices(preset):
    model, layers = build_model("dsae", preset=preset), PRESETS[preset]
    x_dim, v_dim, family = {"speech": (513, 16, "Gamma"), "motion": (93, 10, "CentimetreGaussian")}[preset]
    assert (model.x_dim, model.v_dim, model.inference_model, model.d_h.cell) == (x_dim, v_dim, "full", "lstm")
    assert {name for name, _ in model.named_children()} == set(layers)
    for name, shapes in layers.items():
        part = getattr(model, name)
        assert [tuple(p.shape) for p in part.parameters() if p.ndim == 2] == shapes, name
        assert not isinstance(part, nn.Sequential) or all(isinstance(layer, nn.Linear | nn.Tanh) for layer in part)
    for part in (model.e_gv, model.e_gz):
        assert [network.backward for network in part] == [False, True]
        assert all(isinstance(network.network, nn.LSTM) for network in part)
    assert isinstance(model.head_rnn.network, nn.RNN)
    assert model.head_rnn.network.nonlinearity == "tanh"
    assert not model.head_rnn.backward
    assert type(model.generate(2).observation).__name__ == family


@pytest.mark.parametrize("variant", ["factorised", "structured"])
def test_other_variants_have_no_recurrent_head(variant):
    model = build_model("dsae", preset="speech", inference_model=variant)
    assert model.head_rnn is None
    assert [part.backward for part in model.e_gz] == {"factorised": [], "structured": [True]}[variant]
