"""STCN against its equations written out, a dense Gaussian, and what D-separation says of it."""

import pytest
import torch
from torch import nn
from torch.distributions import MultivariateNormal
from written_out import data

from dvae_lib.distributions import DiagonalGaussian
from dvae_lib.graphs import verify_dependencies
from dvae_lib.graphs.links import runs_online
from dvae_lib.graphs.spec import Gap
from dvae_lib.models import MODELS, STCN
from dvae_lib.models.stcn import product
from dvae_lib.networks import Memory
from dvae_lib.testing import check_model

SIZES = {"above": (3, 2), "h_dim": 8, "prior": (6,), "decoder": (5,), "encoder": (7,)}
# With the range of past frames that each looks at.
MEMORIES = {
    "tcn": ({"memory": "tcn", "kernel": 3, "layers": 1}, "x_{t-3:t-1}"),
    "attention": ({"memory": "attention"}, "x_{1:t-1}"),
    "window": ({"memory": "attention", "layers": 1, "window": 2}, "x_{t-2:t-1}"),
    "one frame": ({"memory": "attention", "layers": 1, "window": 1}, "x_{t-1}"),
    "linear": ({"memory": "linear"}, "x_{1:t-1}"),
    "lstm": ({"memory": "lstm"}, "x_{1:t-1}"),
}
NONE = Gap(frozenset(), frozenset())
every_memory = pytest.mark.parametrize("memory", MEMORIES)


def make(memory="tcn", *, u_dim=0, x_dim=3, z_dim=2, **options):
    torch.manual_seed(0)
    model = STCN(x_dim, z_dim, u_dim=u_dim, **{**SIZES, **MEMORIES[memory][0], **options}).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.6)
    return model


@pytest.mark.parametrize("u_dim", [0, 2], ids=["undriven", "driven"])
@pytest.mark.parametrize("dense", [True, False], ids=["dense", "lowest"])
@pytest.mark.parametrize("ladder", [True, False], ids=["ladder", "network"])
def test_equations_written_out(ladder, dense, u_dim):
    """Frame by frame, from the top level down."""
    model = make(u_dim=u_dim, ladder=ladder, dense=dense)
    x, u = data(3), data(u_dim, seed=3) if u_dim else None
    z = {"z3": data(2, seed=4), "z2": data(3, seed=5), "z": data(2, seed=6)}
    generated = model.generation(x, z, u)
    inferred = model.inference(x, u, latents=z)
    assert model.levels == ("z3", "z2", "z")
    zero, state = torch.zeros(4, 3, dtype=torch.float64), model.d_h.initial_state(4)
    for t in range(5):
        before = x[:, t - 1] if t else zero
        d, state = model.d_h.step(before if u is None else torch.cat([before, u[:, t]], -1), state)
        seen, above = model.encoder(torch.cat([x[:, t], d], -1)), d[:, :0]
        for i, name in enumerate(model.levels):
            prior = model.prior_heads[i](model.d_z[i](torch.cat([d, above], -1)))
            torch.testing.assert_close(generated.prior[name][:, t].parameters, prior.parameters)
            if ladder:
                found = model.z_heads[i](seen)
                precision = 1 / found.variance + 1 / prior.variance
                mean = (found.mean / found.variance + prior.mean / prior.variance) / precision
                posterior = DiagonalGaussian(mean, -precision.log())
            else:
                posterior = model.z_heads[i](torch.cat([seen, above], -1))
            torch.testing.assert_close(inferred[name].posterior[:, t].parameters, posterior.parameters)
            above = torch.cat([above, z[name][:, t]], -1)
        observation = model.x_head(model.d_x(above if dense else z["z"][:, t]))
        torch.testing.assert_close(generated.observation[:, t].parameters, observation.parameters)


@every_memory
def test_the_filter_is_the_smoother(memory):
    """By D-separation: a frame's latents have no child but that frame, so nothing later tells of them."""
    past = MEMORIES[memory][1]
    ending = {"x_{t-1}": "x_{t-1:t}"}.get(past, past.replace("t-1}", "t}"))
    for dense in (True, False):
        spec = make(memory, dense=dense, above=(2,)).spec
        assert spec.compact() == {
            "z2_t": frozenset({past}),
            "z_t": frozenset({"z2_t", past}),
            "x_t": frozenset({"z2_t", "z_t"} if dense else {"z_t"}),
        }
        exact = {"z2_t": frozenset({ending}), "z_t": frozenset({"z2_t", ending})}
        assert spec.exact_posterior() == spec.compact("inference") == exact
        assert spec.inference_gap() == {"z2_t": NONE, "z_t": NONE}
        assert runs_online(spec)


@pytest.mark.parametrize("u_dim", [0, 2], ids=["undriven", "driven"])
@every_memory
def test_the_laws(memory, u_dim):
    """What the registered variants do not cover; among the laws that the code depends on what the spec says."""
    found = check_model(make(memory, u_dim=u_dim, above=() if memory == "window" else (2,)))
    assert "holds" in found.values()


def test_a_receptive_field_is_finite():
    """Two ways: the edges that the running code has, and a perturbation that must not be seen to the last bit."""
    model = make(above=(2,))
    assert model.receptive_field == 3
    verdict = verify_dependencies(model, num_steps=7)
    assert verdict.agrees, str(verdict)
    longer = make(above=(2,), memory="attention", window=3, kernel=None, layers=2)
    longer.spec = model.spec
    extra = verify_dependencies(longer, num_steps=7).extra
    assert {edge.child[1] - edge.parent[1] for edge in extra} == {4, 5}
    x = data(3, time=12)
    other = x.clone()
    other[:, 2] += 100.0
    z = {"z2": data(2, seed=4, time=12), "z": data(2, seed=5, time=12)}
    for door in ("generation", "inference"):
        one, two = (
            model.generation(value, z).prior if door == "generation" else model.inference(value, latents=z)
            for value in (x, other)
        )
        for name in z:
            first, second = (v[name] if door == "generation" else v[name].posterior for v in (one, two))
            moved = (first.mean != second.mean).all(-1).all(0).nonzero().flatten().tolist()
            assert moved == ([3, 4, 5] if door == "generation" else [2, 3, 4, 5])


@every_memory
def test_a_cache_makes_what_the_whole_sequence_makes(memory):
    """Frames generated one by one, with the latents drawn: their log-densities by one pass over all of them."""
    model = make(memory)
    made = model.generate(12, 4, generator=torch.Generator().manual_seed(0))
    whole = model.generation(made.x, made.latents)
    torch.testing.assert_close(made.observation.parameters, whole.observation.parameters)


def test_what_a_stream_keeps_is_bounded_by_the_field():
    for memory, grows in (("tcn", False), ("window", False), ("attention", True)):
        model, sizes = make(memory), []
        watch = model.filter(2, num_particles=3, generator=torch.Generator().manual_seed(0))
        for x_t in data(3, time=9).unbind(1):
            watch.update(x_t[:2])
            sizes.append(sum(value[0].numel() for value in watch.state.values()))
        assert (sizes[8] > sizes[4]) == grows


def test_linear_gaussian_truth():
    """One level, everything linear and the ladder's posterior exact: the bound is log N(x; 0, C) for every sample."""
    model = make("lstm", above=(), x_dim=1, z_dim=1, prior=(), decoder=(), encoder=(), h_dim=1)
    model.d_h = Previous()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        # z_t ~ N(0.8 x_{t-1}, exp(-0.5)), x_t ~ N(1.5 z_t, exp(0.3))
        prior = model.prior_heads[0].linear
        prior.weight[0, 0], prior.bias[1] = 0.8, -0.5
        model.x_head.linear.weight[0, 0], model.x_head.linear.bias[1] = 1.5, 0.3
        # The likelihood as a Gaussian in z_t: N(z_t; x_t / 1.5, exp(0.3) / 1.5^2), which the product needs alone.
        head = model.z_heads[0].linear
        head.weight[0, 0], head.bias[1] = 1 / 1.5, 0.3 - 2 * torch.tensor(1.5).log()
    x = data(1, time=6)
    gain, noise = 1.5 * 0.8, 1.5**2 * torch.tensor(-0.5).double().exp() + torch.tensor(0.3).double().exp()
    system = torch.eye(6, dtype=torch.float64) - gain * torch.diag(torch.ones(5, dtype=torch.float64), -1)
    truth = MultivariateNormal(torch.zeros(6, dtype=torch.float64), precision_matrix=system.T @ system / noise)
    for seed in range(3):
        bound = model.vlb(x, kl="sampled", generator=torch.Generator().manual_seed(seed)).value
        torch.testing.assert_close(bound, truth.log_prob(x[..., 0]), rtol=1e-6, atol=1e-6)


class Previous(Memory):
    """A memory of one frame, in place of a network."""

    def forward(self, u, state=None):
        return u, {}


def test_product_of_gaussians():
    """The normalised product of the densities, also where one of them says nothing or everything."""
    one, other = (DiagonalGaussian(data(3, seed=s)[:, 0], data(3, seed=s + 1)[:, 0]) for s in (1, 3))
    found = product(one, other)
    for value in (data(3, seed=5)[:, 0], data(3, seed=6)[:, 0]):
        reference = torch.zeros_like(value)
        ratio = found.log_prob(value) - one.log_prob(value) - other.log_prob(value)
        ratio -= found.log_prob(reference) - one.log_prob(reference) - other.log_prob(reference)
        torch.testing.assert_close(ratio, torch.zeros_like(ratio), rtol=0, atol=1e-10)
    flat = DiagonalGaussian(torch.full_like(one.mean, 7.0), torch.full_like(one.mean, 300.0))
    torch.testing.assert_close(product(one, flat).parameters, one.parameters)
    torch.testing.assert_close(product(flat, one).parameters, one.parameters)


def test_levels_are_latents_of_their_own_sizes():
    model = make(above=(3, 2))
    assert model.latent_shapes(4, 6) == {"z3": (4, 6, 2), "z2": (4, 6, 3), "z": (4, 6, 2)}
    assert [model.spec.symbol(name) for name in ("z", "z2")] == [r"\mathbf{z}^{(1)}", r"\mathbf{z}^{(2)}"]
    assert make(above=()).spec.symbol("z") == r"\mathbf{z}"


def test_the_class_has_the_default_models_spec():
    assert STCN(3, 2).spec == STCN.spec
    assert MODELS["stcn"].chapter == 14.1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"memory": "dense"}, "memory must be one of rnn, gru, lstm, tcn, attention, linear; got 'dense'"),
        ({"memory": "gru", "window": 4}, "the memory 'gru' has no option 'window'"),
        ({"above": (0,)}, "above must hold integers of at least 1, sizes of levels; got"),
        ({"above": (True,)}, "above must hold integers of at least 1"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        STCN(3, 2, **options)
