"""The switching state-space model: against the sum over all sequences of regimes, written out; and a Kalman filter."""

import itertools

import numpy as np
import pytest
import torch
from torch.distributions import MultivariateNormal

from dvae_lib.graphs import DependencySpec, verify_dependencies
from dvae_lib.models import SwitchingSSM
from dvae_lib.models.draws import Draws, Given
from dvae_lib.models.regime_fitting import best_dynamics, first_clusters, known_states
from dvae_lib.models.switching import RegimeMixture, balanced_bound
from dvae_lib.objectives import Latent, importance_weighted, log_weights, particle, variational_lower_bound
from dvae_lib.statespace import LinearGaussianSSM

K, T, L = 3, 6, 2
VARIANTS = [{}, {"recurrent": True}, {"u_dim": 2}, {"recurrent": True, "u_dim": 2}]
of_every_variant = pytest.mark.parametrize("options", VARIANTS, ids=["plain", "recurrent", "driven", "both"])


def make(regimes=K, z_dim=L, seed=0, **options):
    torch.manual_seed(seed)
    model = SwitchingSSM(4, z_dim, regimes=regimes, encoder=(8,), decoder=(8,), g_dim=8, **options).double()
    with torch.no_grad():
        for parameter in model.dynamics.values():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return model


def data(model, batch=3, time=T, seed=1):
    g = torch.Generator().manual_seed(seed)
    x, z, u = (torch.randn(batch, time, n, generator=g, dtype=torch.float64) for n in (4, model.z_dim, 2))
    return x, z, u if model.u_dim else None


def seeded(seed=3):
    return torch.Generator().manual_seed(seed)


def all_paths(regimes=K, time=T):
    return torch.tensor(list(itertools.product(range(regimes), repeat=time)))


def enumerated(model, z, u, paths=None):
    """log p(z, s) of one sequence of states and each sequence of regimes, from the definition, factor by factor."""
    p, count = model.dynamics, model.s_dim
    paths = all_paths(count, len(z)) if paths is None else paths
    total = p["initial"].log_softmax(-1)[paths[:, 0]]
    for t in range(len(z)):
        factors = []
        for k in range(count):
            mean = p["A"][k] @ z[t - 1] + p["b"][k] if t else p["mu_1"][k]
            variance = (p["logvar"] if t else p["logvar_1"])[k].exp()
            mean = mean if u is None else mean + p["B"][k] @ u[t]
            factors.append(MultivariateNormal(mean, variance.diag()).log_prob(z[t]))
        total = total + torch.stack(factors)[paths[:, t]]
        if t:
            scores = [p["transition"][j] + (p["place"][j] @ z[t - 1] if model.recurrent else 0) for j in range(count)]
            total = total + torch.stack(scores).log_softmax(-1)[paths[:, t - 1], paths[:, t]]
    return total


# ---------------------------------------------------------------- exactness


@of_every_variant
def test_the_sum_over_the_regimes_is_that_over_all_paths(options):
    """3^6 paths: value, and gradient with respect to the states and to every parameter of the dynamics."""
    model = make(**options)
    _, z, u = data(model, batch=1)
    z.requires_grad_()
    inputs = [z, *model.dynamics.values()]
    value, brute = model.log_marginal(z, u)[0], enumerated(model, z[0], None if u is None else u[0]).logsumexp(0)
    torch.testing.assert_close(value, brute, rtol=0, atol=1e-9)
    for got, wanted in zip(torch.autograd.grad(value, inputs), torch.autograd.grad(brute, inputs), strict=True):
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-9)
        assert wanted.abs().max() > 1e-3


@of_every_variant
def test_the_bound_is_that_of_the_enumeration(options):
    """Value, and gradient with respect to every weight, of the inference network among them."""
    model = make(**options)
    x, _, u = data(model, batch=1)
    bound = model.vlb(x, u, generator=seeded())
    z = model.inference(x, u, generator=seeded())["z"]  # the same noise
    log_p = enumerated(model, z.sample[0], None if u is None else u[0]).logsumexp(0)
    brute = model._observation(z.sample).log_prob(x).sum() + log_p - z.posterior.log_prob(z.sample).sum()
    torch.testing.assert_close(bound.value[0], brute, rtol=0, atol=1e-9)
    weights = list(model.parameters())
    pairs = zip(torch.autograd.grad(bound.value[0], weights), torch.autograd.grad(brute, weights), strict=True)
    for got, wanted in pairs:
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-9)


def test_the_gradient_is_the_expectation_over_the_posterior():
    """Fisher's identity, with the posterior of the paths by enumeration."""
    model = make(recurrent=True)
    _, z, _ = data(model, batch=1)
    weights = list(model.dynamics.values())
    each = enumerated(model, z[0], None)
    posterior = each.detach().softmax(0)
    expected = torch.autograd.grad((posterior * each).sum(), weights)
    for got, wanted in zip(torch.autograd.grad(model.log_marginal(z)[0], weights), expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-9)


@of_every_variant
def test_the_posterior_of_the_regimes_is_exact(options):
    """p(z, s) / q(s | z) is p(z) for every sequence of regimes."""
    model = make(**options)
    x, z, u = data(model, batch=1)
    paths = all_paths()[:: 3**6 // 20]
    n = len(paths)
    s = torch.nn.functional.one_hot(paths, K).double()
    many = {"z": z.expand(n, -1, -1), "s": s}
    x, u = x.expand(n, -1, -1), None if u is None else u.expand(n, -1, -1)
    q = model.inference(x, u, latents=many)["s"].posterior.log_prob(s).sum(1)
    prior = model.generation(x, many, u).prior
    p = prior["s"].log_prob(s).sum(1) + prior["z"].log_prob(many["z"]).sum(1)
    torch.testing.assert_close(p, enumerated(model, z[0], None if u is None else u[0], paths), rtol=0, atol=1e-9)
    torch.testing.assert_close(p - q, model.log_marginal(z, None if u is None else u[:1]).expand(n), rtol=0, atol=1e-9)


@of_every_variant
def test_the_importance_weight_is_the_bound_whatever_regimes_were_drawn(options):
    model = make(**options)
    x, _, u = data(model)
    z = model.inference(x, u, generator=seeded())["z"].sample
    bound = model.vlb(x, u, generator=seeded()).value
    for seed in range(3):
        latents = model.inference(x, u, latents={"z": z}, generator=seeded(seed))
        generated = model.generation(x, {name: latent.sample for name, latent in latents.items()}, u)
        output = model(x, u, generator=seeded())._replace(
            latents={n: q._replace(prior=generated.prior[n]) for n, q in latents.items()}
        )
        torch.testing.assert_close(log_weights(output, x).sum(1), bound)
        torch.testing.assert_close(variational_lower_bound(output, x, kl="sampled").value, bound)


def test_drawn_regimes_follow_the_posterior():
    model = make()
    _, z, _ = data(model, batch=1, time=4)
    weights = enumerated(model, z[0], None).softmax(0)
    x = torch.zeros(20_000, 4, 4, dtype=torch.float64)
    drawn = model.inference(x, latents={"z": z.expand(20_000, -1, -1)}, generator=seeded())["s"].sample
    counts = torch.bincount((drawn.argmax(-1) * K ** torch.arange(3, -1, -1)).sum(1), minlength=K**4) / 20_000
    error = (weights * (1 - weights) / 20_000).sqrt()
    assert ((counts - weights).abs() <= 5 * error + 1e-4).all()


def test_marginals_and_best_path_are_those_of_the_enumeration():
    model = make(recurrent=True)
    x, _, _ = data(model, batch=2)
    found = model.regimes(x)
    torch.testing.assert_close(found.z, model.inference(x, draw="mean")["z"].sample)
    torch.testing.assert_close(found.marginals, model.inference(x, draw="mean")["s"].sample)
    for i in range(2):
        each = enumerated(model, found.z[i].detach(), None).detach()
        marginals = torch.einsum("p,ptk->tk", each.softmax(0), torch.nn.functional.one_hot(all_paths(), K).double())
        torch.testing.assert_close(found.marginals[i], marginals, rtol=0, atol=1e-9)
        assert torch.equal(found.path[i], all_paths()[each.argmax()])


def test_with_one_regime_it_is_a_linear_gaussian_model():
    model = make(regimes=1)
    _, z, _ = data(model, batch=1)
    p = {name: value.detach()[0] for name, value in model.dynamics.items()}
    noise = {name: p[name].exp().diag() for name in ("logvar", "logvar_1")}
    ssm = LinearGaussianSSM(
        p["A"],
        torch.eye(L, dtype=torch.float64),
        noise["logvar"],
        torch.eye(L, dtype=torch.float64),
        mu_1=p["mu_1"],
        Lambda_1=noise["logvar_1"],
        m=p["b"],
    )
    mean, covariance = dense(ssm)
    expected = MultivariateNormal(mean, covariance).log_prob(z.flatten())
    torch.testing.assert_close(model.log_marginal(z)[0].detach(), expected, rtol=0, atol=1e-9)


def dense(ssm):
    """Mean and covariance of all states, stacked."""
    mean, covariance, means = ssm.mu_1, ssm.Lambda_1, []
    whole = torch.zeros(T * L, T * L, dtype=torch.float64)
    for t in range(T):
        if t:
            mean, covariance = ssm.A @ mean + ssm.m, ssm.A @ covariance @ ssm.A.T + ssm.Lambda
        means.append(mean)
        block = covariance
        for later in range(t, T):
            whole[later * L : (later + 1) * L, t * L : (t + 1) * L] = block
            whole[t * L : (t + 1) * L, later * L : (later + 1) * L] = block.T
            block = ssm.A @ block
    return torch.cat(means), whole


# ---------------------------------------------------------------- the graph


def test_what_the_inference_model_misses():
    """With the regimes summed out the states have a memory: earlier ones tell of s_{t-1}. Of the regimes nothing is."""
    for options in ({}, {"recurrent": True}):
        gap = make(**options).spec.inference_gap()
        assert gap["z_t"].missing == {"z_{1:t-2}"}
        assert not gap["z_t"].extra
        assert gap["s_t"] == (frozenset(), frozenset())
    assert make().spec.exact_posterior()["z_t"] == {"z_{1:t-1}", "x_{t:T}"}
    assert make().spec.exact_posterior()["s_t"] == {"s_{t-1}", "z_{t-1:T}"}


def test_structured_mean_field_misses_the_other_chain():
    spec = DependencySpec(SwitchingSSM.spec.generation, "z_t ~ z_{t-1}, x_{1:T} \n s_t ~ s_{t-1}, x_{1:T}")
    assert spec.inference_gap()["s_t"].missing == {"z_{t-1:T}"}


@of_every_variant
def test_the_code_depends_on_what_the_spec_says(options):
    assert verify_dependencies(make(**options)).agrees


def test_a_forgotten_dependency_is_found(monkeypatch):
    model = make(recurrent=True)
    monkeypatch.setattr(SwitchingSSM, "_switches", lambda self, z: self.dynamics["transition"].log_softmax(-1))
    monkeypatch.setattr(model, "recurrent", False)
    assert {(e.parent[0], e.child[0]) for e in verify_dependencies(model).missing} >= {("z", "s")}


# ---------------------------------------------------------------- laws of its own


@of_every_variant
def test_padded_sequences_are_what_they_are_alone(options):
    model = make(**options)
    x, z, u = data(model, batch=4)
    lengths = torch.tensor([6, 1, 4, 2])
    together, found = model.log_marginal(z, u, lengths=lengths), model.regimes(x, u, lengths=lengths)
    for i, n in enumerate(lengths.tolist()):
        own = None if u is None else u[i : i + 1, :n]
        torch.testing.assert_close(model.log_marginal(z[i : i + 1, :n], own)[0], together[i])
        alone = model.regimes(x[i : i + 1, :n], own)
        torch.testing.assert_close(alone.marginals[0], found.marginals[i, :n])
        assert torch.equal(alone.path[0], found.path[i, :n])


def test_what_was_not_observed_is_not_counted():
    """The bound, the balanced one and the regimes look at what was observed; the states of a gap are inferred too."""
    model = make()
    x, _, _ = data(model, batch=1)
    seen = torch.tensor([[True, True, False, False, True, True]])
    hidden = torch.where(seen[..., None], x, torch.nan)
    bound = model.vlb(hidden, observed=seen, generator=seeded())
    z = model.inference(hidden, observed=seen, generator=seeded())["z"]
    density = model._observation(z.sample).log_prob(x)[seen].sum()
    log_p = enumerated(model, z.sample[0], None).logsumexp(0)
    torch.testing.assert_close(bound.value[0], density + log_p - z.posterior.log_prob(z.sample).sum())
    priced = balanced_bound(model, hidden, observed=seen, generator=seeded())
    torch.testing.assert_close(priced.value, bound.value + priced.auxiliary["balance"])
    torch.testing.assert_close(
        model.regimes(hidden, observed=seen).marginals, model.regimes(x, observed=seen).marginals
    )


def relabelled(model, order):
    """The same model with its regimes renumbered."""
    twin = make(model.s_dim, recurrent=model.recurrent, u_dim=model.u_dim)
    twin.load_state_dict(model.state_dict())
    with torch.no_grad():
        for name, parameter in twin.dynamics.items():
            parameter.copy_(parameter[order])
            if name in ("transition", "place"):
                parameter.copy_(parameter[:, order])
    return twin


@of_every_variant
def test_the_numbers_of_the_regimes_mean_nothing(options):
    model, order = make(**options), torch.tensor([2, 0, 1])
    twin = relabelled(model, order)
    x, _, u = data(model)
    one, other = (m.vlb(x, u, generator=seeded()).value for m in (model, twin))
    torch.testing.assert_close(one, other, rtol=0, atol=1e-9)
    torch.testing.assert_close(model.regimes(x, u).marginals[..., order], twin.regimes(x, u).marginals)
    assert torch.equal(order[twin.regimes(x, u).path], model.regimes(x, u).path)
    prices = [balanced_bound(m, x, u, generator=seeded()).auxiliary["balance"] for m in (model, twin)]
    torch.testing.assert_close(*prices, rtol=0, atol=1e-9)


@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_regime_that_dies_out_leaves_everything_finite(recurrent, dtype):
    model = make(recurrent=recurrent).to(dtype)
    with torch.no_grad():
        model.dynamics["initial"][1] = -1e4
        model.dynamics["transition"][:, 1] = -1e4
        model.dynamics["b"][1] = 1e4
    x = data(model)[0].to(dtype)
    bound = balanced_bound(model, x, generator=seeded())
    bound.value.sum().backward()
    assert torch.isfinite(bound.value).all()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
    found = model.regimes(x)
    assert (found.marginals[..., 1] == 0).all()
    assert not (found.path == 1).any()
    output = model(x, generator=seeded())
    for latent in output.latents.values():
        assert torch.isfinite(latent.log_ratio).all()
    assert torch.isfinite(particle(model, x, num_particles=3, generator=seeded()).value).all()
    assert torch.isfinite(model.generate(5, generator=seeded()).x).all()


@of_every_variant
def test_particles_carry_the_states_alone(options):
    """The weights of the filter multiply to p(x, z) / q(z | x), with the regimes summed out."""
    model = make(**options)
    x, _, u = data(model, batch=1)
    context, state = model.begin_proposals(x, u)
    z = model.inference(x, u, generator=seeded())["z"].sample
    log_weight, filtered = 0.0, []
    for t in range(T):
        step = model.propose(state, context.at(t), x[:, t], None if u is None else u[:, t], z_t=z[:, t])
        log_weight = log_weight + step.observation.log_prob(x[:, t]) + step.latents["z"].log_ratio
        state = step.state
        filtered.append(model._filtered(state)["s"][0])
    torch.testing.assert_close(log_weight, model.vlb(x, u, generator=seeded()).value)
    for t in range(T):
        each = enumerated(model, z[0, : t + 1], None if u is None else u[0, : t + 1]).softmax(0)
        last = torch.nn.functional.one_hot(all_paths(K, t + 1)[:, t], K).double()
        torch.testing.assert_close(filtered[t][0], each @ last)


def test_more_samples_and_particles_come_nearer():
    model = make()
    x = data(model, batch=1)[0].repeat(200, 1, 1)
    with torch.no_grad():
        few, many = (importance_weighted(model, x, num_samples=n, generator=seeded()).value for n in (1, 16))
        particles = particle(model, x, num_particles=16, threshold=0.0, generator=seeded(4)).value
    assert many.mean() > few.mean()
    error = (many.var() / 200 + particles.var() / 200).sqrt()
    assert (many.mean() - particles.mean()).abs() < 5 * error


def test_the_filter_says_which_regime_it_is_in():
    model = make().float()
    watch = model.filter(2, num_particles=10, generator=seeded())
    for x_t in data(model, batch=2)[0].float().unbind(1):
        out = watch.update(x_t)
        assert torch.isfinite(out.score).all()
        torch.testing.assert_close(out.latents["s"].mean.sum(-1), torch.ones(2))
        assert (out.latents["s"].variance >= 0).all()


def test_the_mixture_is_a_density_with_that_mean():
    model = make(z_dim=1)
    each = model._moved(torch.ones(1, 1, dtype=torch.float64), None)
    mixture = RegimeMixture(torch.tensor([[0.2, 0.3, 0.5]], dtype=torch.float64).log(), each)
    grid = torch.linspace(-30, 30, 20_001, dtype=torch.float64)[:, None, None]
    density = mixture.log_prob(grid).exp().squeeze(-1)
    torch.testing.assert_close(torch.trapezoid(density, grid.flatten()).item(), 1.0)
    torch.testing.assert_close(torch.trapezoid(density * grid.flatten(), grid.flatten()).item(), mixture.mean.item())
    drawn = mixture.sample((40_000,), generator=seeded())
    assert (drawn.mean() - mixture.mean).abs().item() < 0.05


def test_the_price_of_unused_regimes():
    """Minus the cross-entropy to uniform marginals: at most -T log K, which equal use reaches."""
    model = make()
    x, _, _ = data(model, batch=4)
    lengths = torch.tensor([6, 1, 4, 2])
    plain, priced = (
        model.vlb(x, lengths=lengths, generator=seeded()),
        balanced_bound(model, x, lengths=lengths, balance=0.3, generator=seeded()),
    )
    price = priced.auxiliary["balance"]
    torch.testing.assert_close(priced.value, plain.value + price)
    assert (price <= -0.3 * lengths * torch.tensor(3.0).log() + 1e-9).all()
    alone = balanced_bound(model, x[3:, :2], balance=0.3, generator=seeded())
    assert alone.auxiliary["balance"].shape == (1,)
    with torch.no_grad():
        for parameter in model.dynamics.values():
            parameter.copy_(parameter[:1].expand_as(parameter))
        model.dynamics["transition"].zero_()
    same = balanced_bound(model, x, lengths=lengths, balance=1.0).auxiliary["balance"]
    torch.testing.assert_close(same, -lengths * torch.tensor(3.0, dtype=torch.float64).log())


def test_mixed_precision_leaves_the_dynamics_in_full():
    model = make().float()
    x = data(model)[0].float()
    with torch.autocast("cpu", torch.bfloat16):
        bound = model.vlb(x, generator=seeded())
    assert bound.value.dtype == torch.float32
    torch.testing.assert_close(bound.value, model.vlb(x, generator=seeded()).value, rtol=0.1, atol=1.0)
    short = make().bfloat16()
    assert torch.isfinite(short.vlb(x.bfloat16(), generator=seeded()).value).all()
    assert short.regimes(x.bfloat16()).path.shape == (3, T)


def test_frame_by_frame_steps_draw_regimes_and_states():
    """After many steps the use of the regimes is that of a chain drawn regime by regime."""
    model = make()
    out = model.generate(40, 500, generator=seeded())
    s = out.latents["s"]
    assert torch.equal(s.sum(-1), torch.ones_like(s[..., 0]))
    assert torch.equal(s.square(), s)
    pairs = torch.einsum("btj,btk->jk", s[:, :-1], s[:, 1:])
    expected = model.dynamics["transition"].softmax(-1).detach()
    error = (expected * (1 - expected) / pairs.sum(1, keepdim=True)).sqrt()
    assert ((pairs / pairs.sum(1, keepdim=True) - expected).abs() < 5 * error).all()
    state = model._initial_state(1, Given({}))
    assert set(state) == {"z", "s", "begun"}
    assert set(model._infer(torch.zeros(1, 2, 4, dtype=torch.float64), None, None, Draws()).latents) == {"z", "s"}


# ---------------------------------------------------------------- fitted to known states


@of_every_variant
def test_the_first_fit_finds_the_regimes_that_made_the_states(options, monkeypatch):
    """States that turn to the left or to the right, in padded sequences; every round of EM is one upwards."""
    truth = make(regimes=2, **{**options, "recurrent": False})
    turn = torch.tensor([[0.8, -0.6], [0.6, 0.8]], dtype=torch.float64)
    with torch.no_grad():
        truth.dynamics["A"].copy_(torch.stack([turn, turn.T]))
        truth.dynamics["logvar"].fill_(-5.0)
        truth.dynamics["logvar_1"].fill_(1.0)
        truth.dynamics["transition"].copy_(torch.tensor([[4.0, 0.0], [0.0, 4.0]]))
    _, _, u = data(truth, batch=20, time=30)
    known = truth.generate(30, 20, u=u, generator=seeded()).latents
    z, lengths = known["z"], torch.tensor([30, 11] * 10)
    model = make(regimes=2, **options)
    beyond = torch.arange(30) >= lengths[:, None]
    spoiled = torch.where(beyond[..., None], 1e3, z)
    monkeypatch.setattr(model, "_states", lambda *rest: Latent(spoiled, None))
    x = torch.zeros(20, 30, 4, dtype=torch.float64)
    found = model.start_regimes(x, u, lengths=lengths, generator=seeded())
    assert len(found) == 20
    assert all(later >= earlier - 1e-3 for earlier, later in itertools.pairwise(found))
    own = truth.log_marginal(z, u, lengths=lengths).mean().item()
    assert found[-1] > own - 1
    path = model.regimes(x, u, lengths=lengths).path
    right = (path == known["s"].argmax(-1))[~beyond].double().mean().item()
    assert max(right, 1 - right) > 0.97
    order = [0, 1] if right > 0.5 else [1, 0]
    torch.testing.assert_close(model.dynamics["A"][order].detach(), truth.dynamics["A"].detach(), rtol=0, atol=0.1)
    if u is not None:
        torch.testing.assert_close(model.dynamics["B"][order].detach(), truth.dynamics["B"].detach(), rtol=0, atol=0.1)
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_weighted_least_squares_is_that_of_an_independent_library():
    _, z, _ = data(make(), batch=5)
    states = known_states(z, None, None)
    weights = torch.rand(5, T, K, generator=seeded(), dtype=torch.float64)
    fitted = best_dynamics(states, weights / weights.sum(-1, keepdim=True))
    for k in range(K):
        root = (weights / weights.sum(-1, keepdim=True))[:, 1:, k].sqrt()
        rows = (root[..., None] * states.known).flatten(0, 1).numpy()
        wanted = np.linalg.lstsq(rows, (root[..., None] * z[:, 1:]).flatten(0, 1).numpy(), rcond=None)[0].T
        torch.testing.assert_close(fitted["A"][k], torch.as_tensor(wanted[:, :L]), rtol=0, atol=1e-2)
        torch.testing.assert_close(fitted["b"][k], torch.as_tensor(wanted[:, L]), rtol=0, atol=1e-2)
    torch.testing.assert_close(fitted["initial"].exp().sum().item(), 1.0)
    assert "transition" not in fitted


def test_clusters_that_nothing_is_in_do_no_harm():
    states = known_states(torch.zeros(2, 4, L), None, None)
    first = first_clusters(states, K, seeded())
    assert torch.equal(first.sum(-1), torch.ones(2, 4, dtype=torch.float64))
    assert all(torch.isfinite(value).all() for value in best_dynamics(states, first).values())


@pytest.mark.parametrize("regimes", [0, -1, 2.5, True])
def test_refuses_what_is_no_number_of_regimes(regimes, as_a_user):
    with pytest.raises(ValueError, match=f"regimes must be an integer of at least 1; got {regimes}"):
        SwitchingSSM(3, 2, regimes=regimes)


def test_refuses_at_the_door(as_a_user):
    model = make()
    x = data(model)[0]
    with pytest.raises(ValueError, match="draw must be 'sample' or 'mean'; got 'mode'"):
        model.regimes(x, draw="mode")
    with pytest.raises(ValueError, match="x must have at least two frames"):
        model.start_regimes(x[:, :1])
    with pytest.raises(ValueError, match="rounds must be at least 1; got 0"):
        model.start_regimes(x, rounds=0)
    with pytest.raises(ValueError, match="balance must be 0 or more, and finite; got -1"):
        balanced_bound(model, x, balance=-1)
