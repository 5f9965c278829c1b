"""FHVAE against its equations written out, dense Gaussians, and what D-separation says of it."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import MultivariateNormal
from written_out import data, lstm

from dvae_lib.graphs import verify_dependencies
from dvae_lib.graphs.spec import Gap
from dvae_lib.models import DVAE, FHVAE
from dvae_lib.models.draws import Draws
from dvae_lib.objectives import log_weights, particle
from dvae_lib.testing import check_model

KINDS = ("exact", "table", "integrated")
SIZES = {"v_dim": 2, "encoder": (5,), "decoder": (4,), "g_dim": 3, "h_dim": 3}
NOTHING = frozenset()
LENGTHS = torch.tensor([5, 1, 4, 2])
every_kind = pytest.mark.parametrize("sequence", KINDS)


def seeded(seed=3):
    return torch.Generator().manual_seed(seed)


def make(sequence="exact", *, x_dim=6, z_dim=3, std=0.6, **options):
    torch.manual_seed(0)
    model = FHVAE(x_dim, z_dim, sequence=sequence, **{**SIZES, **options}).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=std)
    return model


def linear(sequence="exact", **options):
    """Of linear networks: data of six entries, Gaussian with everything else."""
    return make(sequence, encoder=(), decoder=(), observation="gaussian(scale=0.4)", **options)


# ---- the equations --------------------------------------------------------------------------------------


@every_kind
@pytest.mark.parametrize("u_dim", [0, 2], ids=["undriven", "driven"])
@pytest.mark.parametrize("observation", ["gaussian", "gamma"])
def test_equations_written_out(sequence, u_dim, observation):
    """(12.3)-(12.7), frame by frame of each segment."""
    model = make(sequence, frames=3, u_dim=u_dim, observation=observation)
    x, u = data(6).abs(), data(u_dim, seed=4) if u_dim else None
    latents = {"z": data(3, seed=5), "v": data(2, seed=6), "w": data(2, seed=7)[:, 0]}
    latents = {name: latents[name] for name in model.spec.latents}
    generated, inferred = model.generation(x, latents, u), model.inference(x, u, latents=latents)
    v, z = latents["v"], latents["z"]
    for n in range(x.shape[1]):
        beside = [] if u is None or sequence == "table" else [u[:, n]]
        read = torch.cat([z[:, n], v[:, n], *beside], -1)
        d_h, e_v, e_z = (lstm(part.recurrence.network, 4) for part in (model.d_x, model.e_v, model.e_z))
        own = generated.observation[:, n]
        for t in range(3):
            frame = x[:, n, 2 * t : 2 * t + 2]
            h = d_h(read)  # (12.3)
            p = model.d_x.head(model.d_x.layers(h))  # (12.4)
            mine = slice(2 * t, 2 * t + 2)
            torch.testing.assert_close(own.log_prob_per_dim(x[:, n])[:, mine], p.log_prob_per_dim(frame))  # (12.5)
            g_v = e_v(model.e_v.layers(torch.cat([frame, *beside], -1)))
            g_z = e_z(model.e_z.layers(torch.cat([frame, v[:, n], *beside], -1)))
        for name, head, g in (("v", model.v_head, g_v), ("z", model.z_head, g_z)):  # (12.7)
            torch.testing.assert_close(inferred[name].posterior[:, n].parameters, head(g).parameters)
        assert (generated.prior["z"].mean == 0).all()
        if sequence != "integrated":
            torch.testing.assert_close(generated.prior["v"].mean[:, n], latents["w"])
            torch.testing.assert_close(generated.prior["v"].stddev[:, n], torch.full_like(latents["w"], 0.5))
    if sequence == "table":
        row = model.table.weight[:, 0] if u is None else u.mean(1) @ model.table.weight.T
        torch.testing.assert_close(inferred["w"].posterior.mean, row.expand(4, 2))


def dense_v(N, scale):
    """The covariance of the vectors of N segments, w integrated out."""
    return scale**2 * torch.eye(N, dtype=torch.float64) + torch.ones(N, N, dtype=torch.float64)


@pytest.mark.parametrize("scale", [0.5, 1.7])
@every_kind
def test_w_is_integrated_out_exactly(sequence, scale):
    """log p(v | w) + log p(w) - log p(w | v) at any w, and the chain of conditionals: one dense Gaussian."""
    model, v = make(sequence, v_scale=scale), data(2, seed=6)
    for N in (1, 2, 5):
        dense = MultivariateNormal(torch.zeros(N, dtype=torch.float64), dense_v(N, scale))
        truth = dense.log_prob(v[:, :N].mT).sum(1)
        latents = {"v": v[:, :N], "z": data(3)[:, :N], "w": 3 * data(2, seed=8)[:, 0]}
        latents = {name: latents[name] for name in model.spec.latents}
        prior = model.generation(data(6)[:, :N], latents).prior
        value = prior["v"].log_prob(latents["v"]).sum(1)
        if sequence != "integrated":
            w = latents["w"]
            value = value + prior["w"].log_prob(w) - model.posterior_of_w(v[:, :N]).log_prob(w)
        torch.testing.assert_close(value, truth, rtol=0, atol=1e-9)


def test_the_posterior_of_w_is_that_of_a_dense_gaussian():
    model, v = make(v_scale=0.7), data(2, seed=6)
    cross, covariance = torch.ones(5, dtype=torch.float64), dense_v(5, 0.7)
    gain = torch.linalg.solve(covariance, cross)
    found = model.posterior_of_w(v)
    torch.testing.assert_close(found.mean, torch.einsum("n,bnd->bd", gain, v), rtol=0, atol=1e-12)
    torch.testing.assert_close(found.variance, (1 - gain @ cross).expand(4, 2), rtol=0, atol=1e-12)
    padded = model.posterior_of_w(torch.where((torch.arange(5) < LENGTHS[:, None])[..., None], v, 1e9), LENGTHS)
    for i, length in enumerate(LENGTHS.tolist()):
        alone = model.posterior_of_w(v[i : i + 1, :length])
        torch.testing.assert_close(alone.parameters, padded[i : i + 1].parameters)


def affine(layers, in_dim):
    """The matrix and the constant of a linear network."""
    eye = torch.eye(in_dim, dtype=torch.float64)
    constant = layers(0 * eye[:1])[0]
    return layers(eye).sub(constant).T, constant


def dense_evidence(model, x):
    """log p(x) of whole sequences of a linear model, by one dense Gaussian."""
    N, F = x.shape[1:]
    with torch.no_grad():
        W, b = affine(lambda value: model.d_x(value).mean, 5)
    of_z, of_v = W[:, :3] @ W[:, :3].T, W[:, 3:] @ W[:, 3:].T
    covariance = torch.kron(torch.eye(N, dtype=torch.float64), of_z + 0.16 * torch.eye(F, dtype=torch.float64))
    covariance = covariance + torch.kron(dense_v(N, 0.5), of_v)
    return MultivariateNormal(b.repeat(N), covariance).log_prob(x.flatten(1))


def with_the_exact_posterior(model):
    """q(v | x), q(z | x, v) of a single segment, set by hand: with one segment nothing is missing from them."""
    with torch.no_grad():
        W, b = affine(lambda value: model.d_x(value).mean, 5)
        prior = torch.diag(torch.tensor([1.0, 1, 1, 1.25, 1.25]).double())
        gain = torch.linalg.solve(W @ prior @ W.T + 0.16 * torch.eye(6, dtype=torch.float64), W @ prior).T
        covariance = prior - gain @ W @ prior
    return gain, b, covariance


def test_with_one_segment_and_the_exact_posterior_the_bound_is_the_evidence():
    """All entries decoupled, so that a diagonal posterior can be exact."""
    for sequence in ("exact", "integrated"):
        model, x = linear(sequence), data(6)[:, :1]
        with torch.no_grad():
            model.d_x.head.linear.weight.copy_(torch.eye(6, 5))
            gain, b, covariance = with_the_exact_posterior(model)
            torch.testing.assert_close(covariance, covariance.diagonal().diag())
            for head, rows, beside in ((model.v_head, slice(3, 5), 0), (model.z_head, slice(0, 3), 2)):
                size = rows.stop - rows.start
                head.linear.weight.zero_()
                head.linear.weight[:size, :6] = gain[rows]
                head.linear.bias[:size] = -gain[rows] @ b
                head.linear.bias[size:] = covariance.diagonal()[rows].log()
                assert head.linear.weight.shape[1] == 6 + beside
        values = torch.stack([model.vlb(x, kl="sampled", generator=seeded(i)).value for i in range(3)])
        torch.testing.assert_close(values, dense_evidence(model, x).expand(3, -1), rtol=0, atol=1e-9)


def test_weights_are_those_of_dense_gaussians():
    """log p(x, z, v, w) - log q at samples, of a linear model, by other means."""
    model, x = linear(), data(6)
    output = model(x, generator=seeded())
    v, z, w = (output.latents[name].sample.detach() for name in ("v", "z", "w"))
    # p(x, z, v): the dense evidence of v, i.i.d. z, and the decoder; w cancels.
    joint = MultivariateNormal(torch.zeros(5, dtype=torch.float64), dense_v(5, 0.5)).log_prob(v.mT).sum(1)
    joint = joint + torch.distributions.Normal(0, 1).log_prob(z).sum((1, 2))
    mean = torch.cat([z, v], -1) @ model.d_x.head.linear.weight.T + model.d_x.head.linear.bias
    joint = joint + torch.distributions.Normal(mean, 0.4).log_prob(x).sum((1, 2))
    for name, read in (("v", x), ("z", torch.cat([x, v], -1))):
        out = getattr(model, f"{name}_head").linear(read)
        m, logvar = out.chunk(2, -1)
        joint = joint - torch.distributions.Normal(m, (0.5 * logvar).exp()).log_prob({"v": v, "z": z}[name]).sum((1, 2))
    torch.testing.assert_close(log_weights(output, x).sum(1), joint, rtol=0, atol=1e-9)
    assert w.shape == (4, 2)


def test_exact_and_integrated_have_one_expectation_and_the_second_less_variance():
    exact, integrated = linear("exact", std=0.3), linear("integrated", std=0.3)
    integrated.load_state_dict(exact.state_dict())
    x = data(6)[:1].repeat(4000, 1, 1)
    with torch.no_grad():
        one, other = (m.vlb(x, generator=seeded()).value for m in (exact, integrated))
        error = ((one.var() + other.var()) / len(x)).sqrt()
        assert (one.mean() - other.mean()).abs() < 4 * error
        assert other.var() < one.var()
        truth = dense_evidence(exact, x[:1])
        assert one.mean() < truth
        rising = [
            float(integrated.importance_weighted_bound(x[:50], num_samples=k, generator=seeded()).mean())
            for k in (1, 10, 1000)
        ]
    assert rising == sorted(rising)
    assert rising[-1] < float(truth) + 0.1


def test_particles_approach_the_evidence():
    """Only the integrated model filters; the exact one says so."""
    model = linear("integrated", std=0.3)
    x = model.generate(5, 1, generator=seeded()).x
    with torch.no_grad():
        for head in (model.v_head, model.z_head):  # proposals as wide as the prior
            for parameter in head.parameters():
                parameter.zero_()
        found = particle(model, x.repeat(40, 1, 1), num_particles=500, generator=seeded()).value
    ratio = (found - dense_evidence(model, x)).exp()  # the estimate of the likelihood is unbiased
    assert (ratio.mean() - 1).abs() < 4 * ratio.std() / math.sqrt(40)
    assert 0.3 < ratio.mean() < 3
    exact = linear("exact")
    assert exact.infers_backwards
    assert not exact.has_proposal
    with pytest.raises(NotImplementedError, match="infers backwards"):
        exact.smc_bound(x)
    with pytest.raises(NotImplementedError, match="cannot filter"):
        exact.filter()
    watch = model.filter(1, num_particles=50, generator=seeded())
    assert torch.isfinite(watch.update(x[:, 0]).score).all()


# ---- the graph ------------------------------------------------------------------------------------------


def test_gaps():
    """What the segments tell of each other is missing from q(v | x); from q(w), by the table, all data are."""
    gap = {name: make(name).spec.inference_gap() for name in KINDS}
    missing = frozenset({"v_{1:t-1}", "x_{t+1:T}"})
    none = Gap(NOTHING, NOTHING)
    assert gap["exact"] == {"v_t": Gap(missing, NOTHING), "z_t": none, "w": none}
    assert gap["integrated"] == {"v_t": Gap(missing, NOTHING), "z_t": none}
    assert gap["table"] == {
        "w": Gap(frozenset({"x_{1:T}"}), NOTHING),
        "v_t": Gap(frozenset({"w"}), NOTHING),
        "z_t": none,
    }
    assert make("exact").spec.exact_posterior()["w"] == {"v_{1:T}"}
    assert not make("exact").links.temporal


@every_kind
@pytest.mark.parametrize("u_dim", [0, 2], ids=["undriven", "driven"])
def test_code_and_equations_agree(sequence, u_dim):
    verdict = verify_dependencies(make(sequence, frames=2, u_dim=u_dim))
    assert verdict.agrees, str(verdict)


@every_kind
@pytest.mark.parametrize("alpha", [0.0, 10.0])
def test_all_laws_hold_with_recursions_in_the_segments(sequence, alpha):
    check_model(make(sequence, frames=3, alpha=alpha, u_dim=2))


def test_the_law_of_dependencies_finds_a_decoder_that_forgets_v(monkeypatch):
    model = make()
    forget = FHVAE._observe
    monkeypatch.setattr(FHVAE, "_observe", lambda self, z, v, u: forget(self, z, 0 * v, u))
    assert not verify_dependencies(model).agrees


def test_inference_in_turn_is_that_of_all_segments_at_once():
    for sequence in ("table", "integrated"):
        model, x = make(sequence, frames=2), data(6)
        given = {name: latent.sample for name, latent in model.inference(x, generator=seeded()).items()}
        for name, latent in DVAE._infer(model, x, None, None, Draws(given)).latents.items():
            torch.testing.assert_close(latent.posterior.mean, model.inference(x, latents=given)[name].posterior.mean)


# ---- the table ------------------------------------------------------------------------------------------


def test_the_best_row_of_the_table_is_the_mean_of_the_exact_posterior():
    """With one-hot inputs and q(v | x) as it is, the bound is maximal there."""
    model, x = linear("table", u_dim=4), data(6)
    u = torch.eye(4, dtype=torch.float64)[:, None].expand(-1, 5, -1)
    best = model.posterior_of_w(model.inference(x, u, draw="mean")["v"].posterior.mean).mean.detach()

    def bound():
        return model.vlb(x, u, generator=seeded()).value.sum()

    with torch.no_grad():
        model.table.weight.copy_(best.T)
        model.v_scale = 0.5
    # The gradient of the expectation over w, of which the mean is the mode: averaged over the sign of the noise.
    model.zero_grad()
    for sign in (1, -1):
        latents = model.inference(x, u, generator=seeded())
        q = latents["w"].posterior
        w = q.mean + sign * (latents["w"].sample - q.mean).detach()
        p = model.generation(x, {**{k: v.sample for k, v in latents.items()}, "w": w}, u).prior
        value = torch.distributions.kl_divergence(latents["v"].posterior, p["v"]).sum()
        value = value + torch.distributions.kl_divergence(q, p["w"]).sum()
        value.backward()
    assert model.table.weight.grad.abs().max() < 1e-9
    before = bound()
    with torch.no_grad():
        model.table.weight += 1.0
    assert bound() < before


# ---- the discriminative term ----------------------------------------------------------------------------


@pytest.mark.parametrize("lengths", [None, LENGTHS])
@pytest.mark.parametrize("sequence", ["exact", "integrated"])
def test_the_discriminative_term_written_out(sequence, lengths):
    model, x = make(sequence, alpha=10.0), data(6)
    found = model.vlb(x, lengths=lengths, generator=seeded()).auxiliary["discriminative"]
    v = model.inference(x, lengths=lengths, draw="mean")["v"].posterior.mean
    number = [5] * 4 if lengths is None else lengths.tolist()
    for i in range(4):
        total = 0.0
        for n in range(number[i]):
            scores = []
            for j in range(4):
                others = [v[j, k] for k in range(number[j]) if (j, k) != (i, n)]
                w = sum(others, torch.zeros(2, dtype=torch.float64)) / (len(others) + 0.25)
                scores.append(-(v[i, n] - w).square().sum() / 0.5)
            total = total + torch.stack(scores).log_softmax(0)[i]
        torch.testing.assert_close(found[i], 10 * total)


def test_the_published_term_runs_over_the_table():
    model, x = make("table", alpha=2.0, u_dim=4), data(6)
    u = torch.eye(4, dtype=torch.float64)[:, None].expand(-1, 5, -1)
    found = model.vlb(x, u, generator=seeded()).auxiliary["discriminative"]
    v = model.inference(x, u, draw="mean")["v"].posterior.mean
    for i in range(4):
        scores = torch.stack([-(v[i] - row).square().sum(1) / 0.5 for row in model.table.weight.T], 1)
        torch.testing.assert_close(found[i], 2 * scores.log_softmax(1)[:, i].sum())


def test_the_term_is_no_part_of_the_bound():
    x = data(6)
    plain, with_term = make(), make(alpha=10.0)
    one, other = plain.vlb(x, generator=seeded()), with_term.vlb(x, generator=seeded())
    assert torch.equal(other.value - other.auxiliary["discriminative"], one.value)
    assert plain.vlb(x, generator=seeded()).auxiliary == {}
    alone = with_term.vlb(x[:1], generator=seeded()).auxiliary["discriminative"]
    assert (alone == 0).all()  # in a batch of one there is nobody to be confused with


# ---- use ------------------------------------------------------------------------------------------------


@every_kind
def test_save_and_load(sequence, tmp_path):
    model = make(sequence, frames=2, alpha=3.0, v_scale=0.3)
    model.save_pretrained(tmp_path)
    again = DVAE.from_pretrained(tmp_path).double()
    x = data(6)
    assert (again.frames, again.sequence, again.v_scale, again.alpha) == (2, sequence, 0.3, 3.0)
    torch.testing.assert_close(again.vlb(x, generator=seeded()).value, model.vlb(x, generator=seeded()).value)


@every_kind
def test_generated_segments_of_a_sequence_have_something_in_common(sequence):
    """The covariance of v is that of the prior: 1 between segments, 1.25 of one."""
    v = make(sequence).generate(3, 20_000, generator=seeded()).latents["v"][..., 0]
    torch.testing.assert_close(v.T.cov(), dense_v(3, 0.5), rtol=0, atol=0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"x_dim": 7, "frames": 3}, "multiple of its 3 frames; got 7"),
        ({"frames": 0}, "frames must be an integer of at least 1; got 0"),
        ({"v_dim": True}, "v_dim must be an integer"),
        ({"sequence": "none"}, "sequence must be one of exact, table, integrated; got 'none'"),
        ({"v_scale": 0.0}, "v_scale is a standard deviation"),
        ({"v_scale": math.nan}, "v_scale is a standard deviation"),
        ({"alpha": -1.0}, "alpha weighs an auxiliary term"),
        ({"frames": 3, "observation": "poisson, gaussian"}, "each column as often"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        FHVAE(**{"x_dim": 6, "z_dim": 2, **options})
