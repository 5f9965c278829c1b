"""SVG against its equations written out, STORN, a dense Gaussian, and the review's known answers."""

import pytest
import torch
from torch import nn
from torch.distributions import MultivariateNormal
from written_out import LinearState, data, lstm

from dvae_lib.graphs import verify_dependencies
from dvae_lib.graphs.links import runs_online
from dvae_lib.graphs.spec import Gap
from dvae_lib.models import STORN
from dvae_lib.models.svg import SVG

SIZES = {"feature": (4,), "h_dim": 4, "decoder": (5,), "k_dim": 3, "g_dim": 6}
PRIORS = ("learned", "fixed")
NOTHING = frozenset()

of_both = pytest.mark.parametrize("prior", PRIORS)


def make(prior="learned", *, u_dim=0, **options):
    torch.manual_seed(0)
    model = SVG(3, 2, prior=prior, u_dim=u_dim, **{**SIZES, **options}).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.6)
    return model


@pytest.mark.parametrize("u_dim", [0, 2])
@of_both
def test_equations_written_out(prior, u_dim):
    """Three recursions over the features of one extractor, frame by frame."""
    model, x, z, u = make(prior, u_dim=u_dim), data(3), data(2, seed=2), data(u_dim, seed=3)
    given = u if u_dim else None
    generated = model.generation(x, {"z": z}, given)
    q = model.inference(x, given, latents={"z": z})["z"].posterior
    d_h, e_g, zero = lstm(model.d_h.layers), lstm(model.e_g.network), torch.zeros(4, 3, dtype=torch.float64)
    d_k = lstm(model.d_k.layers) if prior == "learned" else None
    for t in range(5):
        before = model.phi_x(x[:, t - 1] if t else zero)
        torch.testing.assert_close(q[:, t].parameters, model.z_head(e_g(model.phi_x(x[:, t]), u[:, t])).parameters)
        if d_k is None:
            assert (generated.prior["z"].mean == 0).all()
            assert (generated.prior["z"].logvar == 0).all()
        else:
            expected = model.prior_head(d_k(before, u[:, t])).parameters
            torch.testing.assert_close(generated.prior["z"][:, t].parameters, expected)
        observation = model.x_head(model.d_x(d_h(before, u[:, t], z[:, t])))
        torch.testing.assert_close(generated.observation[:, t].parameters, observation.parameters)


def test_known_answers():
    """Section 12.2: z_t | x_{1:t}, and the prior z_t | x_{1:t-1} where it is learned."""
    priors = {"learned": {"x_{1:t-1}"}, "fixed": set()}
    for prior in PRIORS:
        spec = make(prior).spec
        assert spec.compact() == {
            "z_t": frozenset(priors[prior]),
            "x_t": frozenset({"x_{1:t-1}", "z_{1:t}"}),
        }
        assert spec.compact("inference") == {"z_t": frozenset({"x_{1:t}"})}
        assert spec.exact_posterior() == {"z_t": frozenset({"z_{1:t-1}", "x_{1:T}"})}
        assert spec.inference_gap() == {"z_t": Gap(frozenset({"z_{1:t-1}", "x_{t+1:T}"}), NOTHING)}
        assert runs_online(spec)
    assert make().spec is SVG.spec


@of_both
def test_in_generation_mode_the_learned_prior_reads_the_latents_too(prior):
    """What is fed back holds z_{1:t-1}: the check of the code finds these arrows, and no others."""
    verdict = verify_dependencies(make(prior), feedback=1.0)
    assert verdict.agrees, str(verdict)


def test_with_a_fixed_prior_it_is_a_storn():
    """The same graph, and with the same weights the same bound: STORN's networks stand under other names."""
    assert make("fixed").spec.compact() == STORN.spec.compact()
    assert make("fixed").spec.compact("inference") == STORN.spec.compact("inference")
    model = make("fixed", feature=())
    storn = STORN(3, 2, feature_x=(), feature_z=(), h_dim=4, decoder=(5,), encoder=(), g_dim=6, head=()).double()
    storn.load_state_dict(model.state_dict())
    x, bounds = data(3), []
    for each in (model, storn):
        for feedback in (0.0, 1.0):
            generator = torch.Generator().manual_seed(3)
            bounds.append(each.vlb(x, feedback=feedback, generator=generator).value)
    torch.testing.assert_close(bounds[:2], bounds[2:])


def linear(num_steps=3):
    """A model whose networks are linear, and x_{1:T} = G z + noise, z_t = K x_{1:t-1} + noise as matrices."""
    torch.manual_seed(1)
    model = SVG(2, 1, feature=(), h_dim=3, decoder=(), k_dim=3, g_dim=3, cell="rnn").double()
    model.d_h, model.d_k = LinearState(3, 3), LinearState(2, 3)
    for head in (model.x_head, model.prior_head):
        size = len(head.linear.bias) // 2
        nn.init.zeros_(head.linear.weight[size:])  # a variance that depends on nothing
        nn.init.normal_(head.linear.bias[size:], std=0.3)
    return model.requires_grad_(False)


def dense_evidence(model, x):
    """log p(x_{1:T}) of a linear model, from the joint Gaussian of x_{1:T} and z_{1:T} as one vector.

    All nodes n = (z_1, x_1, ..., z_T, x_T) follow n = M n + c + e, M strictly lower triangular. M and c are read off
    the equations, written out here.
    """
    T, F, L = x.shape[1], 2, 1
    H, K = model.d_h.h_dim, model.d_k.h_dim
    size = T * (F + L)
    z_at = [slice(t * (F + L), t * (F + L) + L) for t in range(T)]
    x_at = [slice(t * (F + L) + L, (t + 1) * (F + L)) for t in range(T)]

    def unit(at, rows):
        found = torch.zeros(rows, size + 1, dtype=torch.float64)
        found[:, at] = torch.eye(rows, dtype=torch.float64)
        return found

    (A, c_x), (P, c_z) = ((h.linear.weight, h.linear.bias) for h in (model.x_head, model.prior_head))
    M, noise = torch.zeros(size, size + 1, dtype=torch.float64), torch.zeros(size, dtype=torch.float64)
    h, k = torch.zeros(H, size + 1, dtype=torch.float64), torch.zeros(K, size + 1, dtype=torch.float64)
    for t in range(T):
        before = unit(x_at[t - 1], F) if t else torch.zeros(F, size + 1, dtype=torch.float64)
        k = model.d_k.W @ before + model.d_k.A @ k
        M[z_at[t]] = P[:L] @ k
        M[z_at[t], -1] += c_z[:L]
        noise[z_at[t]] = c_z[L:].exp()
        h = model.d_h.W @ torch.cat([before, unit(z_at[t], L)]) + model.d_h.A @ h
        M[x_at[t]] = A[:F] @ h
        M[x_at[t], -1] += c_x[:F]
        noise[x_at[t]] = c_x[F:].exp()
    inverse = torch.linalg.inv(torch.eye(size, dtype=torch.float64) - M[:, :-1])
    kept = torch.cat([torch.arange(size)[at] for at in x_at])
    mean, covariance = inverse @ M[:, -1], inverse @ torch.diag(noise) @ inverse.T
    return MultivariateNormal(mean[kept], covariance[kept][:, kept]).log_prob(x.flatten(1))


def test_the_importance_weighted_bound_reaches_the_evidence_of_a_linear_model():
    """Of a linear-Gaussian one, in closed form; the bound itself stays below, by what its inference lacks."""
    model = linear()
    x = model.generate(3, 6, generator=torch.Generator().manual_seed(0)).x
    evidence = dense_evidence(model, x)
    generator = torch.Generator().manual_seed(1)
    rows = x.repeat_interleave(200, 0)
    weighted = model.importance_weighted_bound(rows, num_samples=500, generator=generator).view(6, 200)
    # The mean of the weights is unbiased for the likelihood; so is the mean over the repetitions.
    ratio = (weighted - evidence[:, None]).exp()
    assert (ratio.mean(1) - 1).abs().max() < 5 * (ratio.std(1) / 200**0.5).max() < 0.05
    assert (model.vlb(rows, kl="sampled", generator=generator).value.view(6, 200).mean(1) < evidence).all()


def test_a_stream_is_scored_by_the_likelihood():
    """The filter's particles, frame by frame, against the same Gaussian."""
    model = linear()
    x = model.generate(3, 1, generator=torch.Generator().manual_seed(0)).x
    watch = model.filter(num_particles=20_000, generator=torch.Generator().manual_seed(1))
    for x_t in x.unbind(1):
        watch.update(x_t)
    torch.testing.assert_close(watch.log_likelihood, dense_evidence(model, x), atol=0.05, rtol=0)


def test_another_prior_is_refused():
    with pytest.raises(ValueError, match="prior must be one of learned, fixed; got 'iid'"):
        SVG(3, 2, prior="iid")
