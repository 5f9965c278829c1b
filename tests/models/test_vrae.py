"""VRAE against its equations written out, dense Gaussians, and what follows from its specs."""

import pytest
import torch
from torch import nn
from torch.distributions import MultivariateNormal, Normal
from written_out import LinearState, data, lstm

from dvae_lib.graphs import verify_dependencies
from dvae_lib.graphs.links import links
from dvae_lib.graphs.spec import Gap
from dvae_lib.models.vrae import VRAE

SIZES = {"feature": (4,), "h_dim": 4, "decoder": (5,), "encoder": (4,), "g_dim": 3, "head": (6,)}
LATENTS = ("sequence", "frame")
NOTHING = frozenset()

of_both = pytest.mark.parametrize("latent", LATENTS)


def make(latent="sequence", *, u_dim=0, **options):
    torch.manual_seed(0)
    model = VRAE(3, 2, latent=latent, u_dim=u_dim, **{**SIZES, **options}).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.6)
    return model


def values(latent, size=2):
    return {"v": data(size, seed=2)[:, 0]} if latent == "sequence" else {"z": data(size, seed=2)}


@pytest.mark.parametrize("u_dim", [0, 2])
@of_both
def test_equations_written_out(latent, u_dim):
    model, x, u, given = make(latent, u_dim=u_dim), data(3), data(u_dim, seed=3), values(latent)
    driving = u if u_dim else None
    generated = model.generation(x, given, driving)
    (q,) = (found.posterior for found in model.inference(x, driving, latents=given).values())
    d_h = lstm(model.d_h.layers)
    if latent == "sequence":  # v makes both parts of the LSTM's state before the first frame
        state = next(cell.cell_contents for cell in d_h.__closure__ if isinstance(cell.cell_contents, list))
        state[:] = torch.tanh(given["v"] @ model.d_0.weight.T + model.d_0.bias).chunk(2, -1)
    for t in range(5):
        h = d_h(model.phi_x(x[:, t - 1] if t else torch.zeros_like(x[:, 0])), u[:, t])
        read = h if latent == "sequence" else torch.cat([given["z"][:, t], h], -1)
        expected = model.x_head(model.d_x(read)).parameters
        torch.testing.assert_close(generated.observation[:, t].parameters, expected)
    seen = [model.encoder(torch.cat([x[:, t], u[:, t]], -1)) for t in range(5)]
    forward, *backward = (lstm(e_g.network) for e_g in model.e_g)
    g = [forward(seen_t) for seen_t in seen]
    if latent == "sequence":
        torch.testing.assert_close(q.parameters, model.z_head(model.e_z(g[-1])).parameters)
    else:
        g_bwd = {t: backward[0](seen[t]) for t in reversed(range(5))}
        for t in range(5):
            expected = model.z_head(model.e_z(torch.cat([g[t], g_bwd[t]], -1)))
            torch.testing.assert_close(q[:, t].parameters, expected.parameters)
    for prior in generated.prior.values():
        assert (prior.mean == 0).all()
        assert (prior.logvar == 0).all()


def test_known_answers():
    spec = make().spec
    assert spec is VRAE.spec
    assert spec.compact() == {"v": NOTHING, "x_t": frozenset({"x_{1:t-1}", "v"})}  # (12.2)
    assert spec.exact_posterior() == spec.compact("inference") == {"v": frozenset({"x_{1:T}"})}
    assert spec.inference_gap() == {"v": Gap(NOTHING, NOTHING)}
    spec = make("frame").spec
    assert spec.compact() == {"z_t": NOTHING, "x_t": frozenset({"x_{1:t-1}", "z_t"})}
    # Given the true past a frame's noise has said all it has to say in that frame.
    assert spec.exact_posterior() == {"z_t": frozenset({"x_{1:t}"})}
    assert spec.inference_gap() == {"z_t": Gap(NOTHING, frozenset({"x_{t+1:T}"}))}


def test_one_vector_for_the_sequence_is_no_dynamical_vae():
    """By the review's definition the latent vectors are a sequence, each decoded in its frame (Section 4.5)."""
    found = links(make().spec)
    assert (found.decoding, found.temporal, found.is_dvae) == (False, True, False)
    assert found.predictive
    assert found.causal
    assert links(make("frame").spec).is_dvae  # through x_{1:t-1} alone


@pytest.mark.parametrize("feedback", [0.0, 1.0])
@of_both
def test_dependencies_in_both_modes(latent, feedback):
    """In generation mode p(x_t | v), which is what Fabius and van Amersfoort trained."""
    verdict = verify_dependencies(make(latent), feedback=feedback)
    assert verdict.agrees, str(verdict)


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_the_latent_of_the_sequence_goes_through_feedback(cell):
    """Generation mode step by step from v, its gradient into v, and the KL term once per sequence; half-way too."""
    model, x = make(cell=cell), data(3)
    v = values("sequence")["v"].requires_grad_()
    generated = model.generation(x, {"v": v}, feedback=1.0)
    state, x_prev = model.initial_state(4, v=v), torch.zeros_like(x[:, 0])
    for t in range(5):
        out = model.step(state, x_prev)
        torch.testing.assert_close(out.observation.parameters, generated.observation[:, t].parameters)
        state, x_prev = out.state, out.observation.mean
    assert generated.prior["v"].mean.shape == (4, 2)
    (gradient,) = torch.autograd.grad(generated.observation.mean[:, -1].sum(), v)
    assert (gradient != 0).all()
    without = model.generation(torch.zeros_like(x), {"v": v}, feedback=1.0)
    torch.testing.assert_close(generated.observation.parameters, without.observation.parameters)
    for feedback in (0.0, 0.5, 1.0):
        bound = model.vlb(x, feedback=feedback, generator=torch.Generator().manual_seed(3))
        assert bound.kl["v"].shape == (4,)
        torch.testing.assert_close(bound.value, bound.reconstruction - bound.kl["v"])
    new = model.generate(4, prefix=x, generator=torch.Generator().manual_seed(3))
    again = model.generate(4, prefix=x, generator=torch.Generator().manual_seed(3))
    assert torch.equal(new.x, again.x)
    assert new.latents["v"].shape == (4, 2)


# ---- linear-Gaussian truth ------------------------------------------------------------------------------

SMALL = 1e-5  # so small a state that tanh is linear to ten digits; what reads it is large


def linear(latent):
    """A model with linear networks, observed through a fixed variance."""
    torch.manual_seed(1)
    model = VRAE(2, 1, latent=latent, h_dim=3, g_dim=8, cell="rnn", observation="gaussian(scale=0.7)").double()
    model.d_h = LinearState(2, 3)
    nn.init.normal_(model.x_head.linear.weight, std=0.2)
    if latent == "sequence":
        nn.init.normal_(model.d_0.weight)
        nn.init.zeros_(model.d_0.bias)
        model.d_0.weight.data.mul_(SMALL)
        model.d_h.W.data.mul_(SMALL)
        model.x_head.linear.weight.data.div_(SMALL)
    return model.requires_grad_(False)


def residual(model, x):
    """x_t less what its mean has from x_{1:t-1}, and what a unit of v adds to the mean of all frames."""
    A, c = model.x_head.linear.weight[:, -3:], model.x_head.linear.bias
    h, left = torch.zeros(len(x), 3, dtype=torch.float64), []
    reach, of_v = None if model.d_0 is None else model.d_0.weight[:, 0], []
    for t in range(x.shape[1]):
        before = x[:, t - 1] if t else torch.zeros_like(x[:, 0])
        h = before @ model.d_h.W.T + h @ model.d_h.A.T
        left.append(x[:, t] - h @ A.T - c)
        if reach is not None:
            reach = model.d_h.A @ reach
            of_v.append(A @ reach)
    return torch.stack(left, 1), torch.stack(of_v) if of_v else model.x_head.linear.weight[:, 0]


def test_at_the_exact_posterior_of_v_the_bound_is_the_evidence():
    """x_{1:T} is a Gaussian vector of T F entries. The encoder's weights are set so that q is its posterior of v."""
    model = linear("sequence")
    x = model.generate(4, 5, generator=torch.Generator().manual_seed(0)).x
    left, reach = residual(model, x)
    reach, noise = reach.flatten(), 0.7**2 * torch.eye(8, dtype=torch.float64)
    # The unit triangular map from x to the residual leaves densities as they are.
    evidence = MultivariateNormal(torch.zeros_like(reach), noise + reach.outer(reach)).log_prob(left.flatten(1))
    precision = 1 + reach @ reach / 0.7**2
    # The posterior's mean is linear in x: its weights are those of the eight entries, plus a constant.
    unit = torch.cat([torch.zeros(1, 8), torch.eye(8)]).double().view(9, 4, 2)
    means = residual(model, unit)[0].flatten(1) @ reach / 0.7**2 / precision
    constant, weights = means[0], means[1:] - means[0]
    recursion = model.e_g[0].network  # keeps the last four frames, and moves them on by one each time
    for parameter in recursion.parameters():
        nn.init.zeros_(parameter)
    recursion.weight_ih_l0[6:] = SMALL * torch.eye(2, dtype=torch.float64)
    recursion.weight_hh_l0[:6, 2:] = torch.eye(6, dtype=torch.float64)
    model.z_head.linear.weight[:] = torch.stack([weights / SMALL, torch.zeros_like(weights)])
    model.z_head.linear.bias[:] = torch.stack([constant, -precision.log()])
    for seed in range(3):  # for every sample of v
        bound = model.vlb(x, kl="sampled", generator=torch.Generator().manual_seed(seed)).value
        torch.testing.assert_close(bound, evidence, atol=1e-6, rtol=0)
    # In closed form the KL is its mean, and the bound fluctuates; any other posterior stays below.
    model.z_head.linear.bias[1] += 0.5
    many = model.vlb(x.repeat_interleave(2000, 0), generator=torch.Generator().manual_seed(0)).value.view(5, 2000)
    # KL between Gaussians whose variances differ by the factor exp(0.5)
    assert (many.mean(1) - evidence + 0.5 * (torch.tensor(0.5).exp() - 1.5)).abs().max() < 0.1


def test_noise_of_single_frames_has_a_posterior_of_single_frames():
    """log p(x, z) - log p(z | x_{1:t}) is the evidence for every z: the exact posterior needs no later frame."""
    model = linear("frame")
    x = model.generate(4, 5, generator=torch.Generator().manual_seed(0)).x
    left, reach = residual(model, x)
    noise = 0.7**2 * torch.eye(2, dtype=torch.float64)
    evidence = MultivariateNormal(torch.zeros(2, dtype=torch.float64), noise + reach.outer(reach)).log_prob(left).sum(1)
    precision = 1 + reach @ reach / 0.7**2
    exact = Normal(left @ reach / 0.7**2 / precision, precision**-0.5)
    for seed in range(3):
        torch.manual_seed(seed)
        z = exact.sample()
        generated = model.generation(x, {"z": z[..., None]})
        joint = generated.observation.log_prob(x) + generated.prior["z"].log_prob(z[..., None])
        torch.testing.assert_close((joint - exact.log_prob(z)).sum(1), evidence)


def test_sizes_and_names_are_checked():
    with pytest.raises(ValueError, match="latent must be one of sequence, frame; got 'v'"):
        VRAE(3, 2, latent="v")
    for latent in LATENTS:
        with pytest.raises(ValueError, match="z_dim must be an integer of at least 1; got 0"):
            VRAE(3, 0, latent=latent)
