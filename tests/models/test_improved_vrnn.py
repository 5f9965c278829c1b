"""The improved VRNN: its equations written out, its place among its relatives, and its auxiliary terms."""

import math

import pytest
import torch
from torch import nn
from written_out import lstm

from dvae_lib.data.sequences import SequenceDataset
from dvae_lib.graphs.spec import Gap
from dvae_lib.models import ImprovedVRNN, build_model
from dvae_lib.training import vlb_terms

SIZES = {
    "feature_x": (4,), "feature_z": (3,), "h_dim": 4, "prior": (3,), "decoder": (5,), "b_dim": 3, "head": (6,),
    "auxiliary": (3,),
}  # fmt: skip


def make(*, u_dim=0, seed=0, **options):
    torch.manual_seed(seed)
    model = ImprovedVRNN(3, 2, u_dim=u_dim, **SIZES, **options).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.6)
    return model


def data(size=3, *, seed=1, time=5, observation="gaussian"):
    x = torch.randn(4, time, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return {"gamma": x.square(), "bernoulli": (x > 0).double()}.get(observation, x)


def seeded(seed=3):
    return torch.Generator().manual_seed(seed)


def backward_states(model, x, u=None):
    """b_t = e_b(phi_x(x_t), u_t, b_{t+1}), written out."""
    e_b, b = lstm(model.e_b.network, len(x)), {}
    for t in reversed(range(x.shape[1])):
        b[t] = e_b(model.phi_x(x[:, t]), *([] if u is None else [u[:, t]]))
    return torch.stack([b[t] for t in range(x.shape[1])], 1)


@pytest.mark.parametrize("u_dim", [0, 2])
def test_equations_written_out(u_dim):
    """(7.4)-(7.6) with the prior on h_{t-1}, and q(z_t | h_{t-1}, b_t), frame by frame, from x_0 = h_0 = 0."""
    model, x, z, u = make(u_dim=u_dim), data(), data(2, seed=2), data(u_dim, seed=3)
    generated = model.generation(x, {"z": z}, u if u_dim else None)
    q = model.inference(x, u if u_dim else None, latents={"z": z})["z"].posterior
    b = backward_states(model, x, u)
    d_h, h, x_prev = lstm(model.d_h.layers), torch.zeros(4, 4).double(), torch.zeros(4, 3).double()
    for t in range(5):
        prior = model.prior_head(model.d_z(h))
        posterior = model.z_head(model.e_z(torch.cat([b[:, t], h], -1)))
        h = d_h(model.phi_x(x_prev), u[:, t], model.phi_z(z[:, t]))  # (7.4)
        observation = model.x_head(model.d_x(h))  # (7.5)
        torch.testing.assert_close(generated.prior["z"][:, t].parameters, prior.parameters)
        torch.testing.assert_close(generated.observation[:, t].parameters, observation.parameters)
        torch.testing.assert_close(q[:, t].parameters, posterior.parameters)
        x_prev = x[:, t]


def test_known_answers():
    spec = ImprovedVRNN.spec
    assert spec.compact() == {
        "z_t": frozenset({"z_{1:t-1}", "x_{1:t-2}"}),
        "x_t": frozenset({"z_{1:t}", "x_{1:t-1}"}),
    }
    assert spec.exact_posterior() == {"z_t": frozenset({"z_{1:t-1}", "x_{1:T}"})}
    assert spec.inference_gap() == {"z_t": Gap(frozenset({"x_{t-1}"}), frozenset())}
    driven = make(u_dim=2).spec
    assert driven.undriven().compact() == spec.compact()
    assert driven.undriven().compact("inference") == spec.compact("inference")
    assert driven.compact()["x_t"] == frozenset({"z_{1:t}", "x_{1:t-1}", "u_{1:t}"})
    assert driven.inference_gap() == {"z_t": Gap(frozenset({"x_{t-1}"}), frozenset())}


class TestAuxiliaryTerms:
    @pytest.mark.parametrize("observation", ["gaussian", "unit_gaussian", "centimetre_gaussian", "gamma", "bernoulli"])
    @pytest.mark.parametrize("u_dim", [0, 2])
    def test_written_out(self, observation, u_dim):
        model = make(observation=observation, future=0.3, backward=0.7, u_dim=u_dim)
        x, u = data(observation=observation), data(2, seed=3) if u_dim else None
        output = model(x, u, generator=seeded())
        b, z = backward_states(model, x, u), output.latents["z"].sample
        future = backward = 0.0
        for t in range(5):
            told = model.future_head(model.future_net(z[:, t]))
            normal = torch.distributions.Normal(told.mean.tanh(), told.stddev)
            future = future + normal.log_prob(b[:, t]).sum(-1)
            if t > 0:
                backward = backward + model.backward_head(b[:, t]).log_prob(x[:, t - 1])
        assert set(output.auxiliary) == {"future", "backward"}
        torch.testing.assert_close(output.auxiliary["future"], 0.3 * future)
        torch.testing.assert_close(output.auxiliary["backward"], 0.7 * backward)

    def test_backward_predicts_a_frame_that_its_state_has_not_seen(self):
        """x_1 is a target only, of b_2, which begins after it; the last frame is seen only."""
        model, x = make(), data().requires_grad_()
        term = model(x, generator=seeded()).auxiliary["backward"].sum()
        (gradient,) = torch.autograd.grad(term, x)
        b = backward_states(model, x.detach())
        target = x.detach()[:, 0].requires_grad_()
        alone = 0.01 * model.backward_head(b[:, 1]).log_prob(target).sum()
        torch.testing.assert_close(gradient[:, 0], torch.autograd.grad(alone, target)[0])
        changed = x.detach().clone()
        changed[:, -1] += 1
        p = model.backward_head(backward_states(model, changed)[:, 1:]).log_prob(changed[:, :-1])
        moved = model(changed, generator=seeded()).auxiliary["backward"]
        torch.testing.assert_close(moved, 0.01 * p.sum(1))
        assert not torch.allclose(moved.sum(), term)

    def test_future_has_no_gradient_through_what_it_predicts(self):
        """With latents that no longer depend on x, nothing of the backward network is left in the term's gradient."""
        model, x = make(), data().requires_grad_()
        with torch.no_grad():
            model.z_head.linear.weight.zero_()
        term = model(x, generator=seeded()).auxiliary["future"].sum()
        told = {"future_net", "future_head", "z_head"}
        for name, parameter in [("x", x), *model.named_parameters()]:
            (gradient,) = torch.autograd.grad(term, parameter, retain_graph=True, allow_unused=True)
            reached = gradient is not None and bool((gradient != 0).any())
            assert reached == (name.split(".")[0] in told), name

    def test_future_trains_inference_through_the_latents(self):
        """With b_t fixed at its value, the gradient is that of finite differences."""
        model, x = make(future=1.0), data()
        unknown, step = model.z_head.linear.weight, 1e-6  # after b_t: moves z_t only
        direction = torch.randn(unknown.shape, generator=seeded(), dtype=torch.float64)

        def term():
            return model(x, generator=seeded()).auxiliary["future"].sum()

        slope = (torch.autograd.grad(term(), unknown)[0] * direction).sum().item()
        difference = 0.0
        with torch.no_grad():
            for sign in (1, -1):
                unknown.add_(direction, alpha=sign * step)
                difference += sign * term().item()
                unknown.add_(direction, alpha=-sign * step)
        assert difference / (2 * step) == pytest.approx(slope, rel=1e-6)
        assert slope != 0

    def test_backward_trains_the_backward_network(self):
        model, x = make(), data()
        term = model(x, generator=seeded()).auxiliary["backward"].sum()
        for parameter in (*model.e_b.parameters(), *model.phi_x.parameters(), *model.backward_head.parameters()):
            assert torch.autograd.grad(term, parameter, retain_graph=True)[0].any()

    def test_padded_batch_is_the_sum_of_its_sequences(self):
        model, x = make(), data(time=6)
        lengths = torch.tensor([6, 1, 4, 2])
        inside = (torch.arange(6) < lengths[:, None])[..., None]
        results = [model(torch.where(inside, x, fill), lengths=lengths, draw="mean").auxiliary for fill in (0.0, 33.0)]
        for name in ("future", "backward"):
            alone = [model(x[i : i + 1, :n], draw="mean").auxiliary[name] for i, n in enumerate(lengths.tolist())]
            for auxiliary in results:
                torch.testing.assert_close(auxiliary[name], torch.cat(alone))
        assert results[0]["backward"][1] == 0  # a single frame has none before it

    def test_weights_scale(self):
        x = data()
        unit = make(future=1.0, backward=1.0)(x, generator=seeded()).auxiliary
        for future, backward in ((0.0, 0.0), (0.5, 0.0), (0.0, 2.0), (3.0, 0.1)):
            auxiliary = make(future=future, backward=backward)(x, generator=seeded()).auxiliary
            torch.testing.assert_close(auxiliary["future"], future * unit["future"])
            torch.testing.assert_close(auxiliary["backward"], backward * unit["backward"])
        assert (unit["future"] != 0).all()
        assert (unit["backward"] != 0).all()

    @pytest.mark.parametrize("feedback", [0.0, 0.5, 1.0])
    def test_they_stand_beside_the_bound(self, feedback):
        model, x = make(future=0.3, backward=0.7), data()
        bare = make(future=0.0, backward=0.0)
        whole, alone = (m.vlb(x, beta=0.5, feedback=feedback, generator=seeded()) for m in (model, bare))
        torch.testing.assert_close(whole.reconstruction, alone.reconstruction)
        torch.testing.assert_close(whole.total_kl, alone.total_kl)
        torch.testing.assert_close(alone.value, alone.reconstruction - 0.5 * alone.total_kl)
        torch.testing.assert_close(whole.value, alone.value + whole.auxiliary["future"] + whole.auxiliary["backward"])
        teacher = model.vlb(x, generator=seeded()).auxiliary
        for name, term in whole.auxiliary.items():  # inference hears the truth whatever is fed back
            torch.testing.assert_close(term, teacher[name])
        for bound in ("importance_weighted_bound", "smc_bound"):
            if bound == "smc_bound" and feedback:
                continue
            options = {"feedback": feedback} if feedback else {}
            with_terms, without = (getattr(m, bound)(x, generator=seeded(), **options) for m in (model, bare))
            torch.testing.assert_close(with_terms, without)

    def test_what_training_reports_as_the_bound_excludes_them(self):
        model, x = make(future=0.3, backward=0.7), data()
        series = SequenceDataset(list(x), dtype=torch.float64)
        terms = vlb_terms(model, series.batch([0, 1, 2, 3]), generator=seeded(), beta=0.5)
        torch.testing.assert_close(terms["vlb"], terms["reconstruction"] - terms["kl"])
        bare = make(future=0.0, backward=0.0).vlb(x, generator=seeded()).value
        torch.testing.assert_close(terms["vlb"], bare)
        expected = terms["reconstruction"] - 0.5 * terms["kl"] + terms["future"] + terms["backward"]
        torch.testing.assert_close(terms["objective"], expected)

    def test_averaged_over_samples(self):
        model, x = make(), data()
        many = model.vlb(x, num_samples=50, generator=seeded())
        again = model.vlb(x.repeat(50, 1, 1), generator=seeded())
        torch.testing.assert_close(many.auxiliary["future"], again.auxiliary["future"].view(50, 4).mean(0))
        torch.testing.assert_close(many.auxiliary["backward"], model.vlb(x).auxiliary["backward"])

    def test_negative_weights_are_refused(self):
        for name in ("future", "backward"):
            for weight in (-0.1, math.nan, math.inf):
                with pytest.raises(ValueError, match=f"{name} weighs .* must be 0 or more, and finite"):
                    ImprovedVRNN(3, 2, **{name: weight})


@pytest.mark.parametrize(("preset", "sizes"), [("speech", (16, 128, 256, 64)), ("motion", (10, 64, 64, 32))])
def test_presets_are_the_vrnns(preset, sizes):
    model, vrnn = (build_model(name, preset=preset) for name in ("vrnn-improved", "vrnn"))
    z_dim, h_dim, feature_x, feature_z = sizes
    assert (model.z_dim, model.d_h.h_dim, model.e_b.network.hidden_size) == (z_dim, h_dim, h_dim)
    assert (model.phi_x.out_dim, model.phi_z.out_dim) == (feature_x, feature_z)
    for part in ("phi_x", "phi_z", "d_h", "d_z", "prior_head"):
        shapes = [[p.shape for p in getattr(m, part).parameters()] for m in (model, vrnn)]
        assert shapes[0] == shapes[1]
    assert model.x_head.linear.in_features == h_dim
    assert model.z_head.linear.in_features == 2 * h_dim
    assert model.e_b.backward
