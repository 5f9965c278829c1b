"""VRNN against its equations written out, the review's known answers, and Appendices B and C."""

import pytest
import torch
from torch import nn
from written_out import data, lstm

from dvae_lib.graphs.spec import Gap
from dvae_lib.models import VRNN, build_model

SIZES = {"feature_x": (4,), "feature_z": (3,), "h_dim": 4, "prior": (3,), "decoder": (5,), "g_dim": 3, "head": (6,)}
VARIANTS = ("filter", "smoother")


def make(variant="filter", *, u_dim=0, **options):
    torch.manual_seed(0)
    model = VRNN(3, 2, inference_model=variant, u_dim=u_dim, **SIZES, **options).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.6)
    return model


@pytest.mark.parametrize("u_dim", [0, 2])
@pytest.mark.parametrize("variant", VARIANTS)
def test_equations_written_out(variant, u_dim):
    """(8.1)-(8.6) and (8.11)-(8.12), frame by frame, from x_0 = z_0 = h_0 = 0; the smoother from its docstring."""
    model, x, z, u = make(variant, u_dim=u_dim), data(3), data(2, seed=2), data(u_dim, seed=3)
    generated = model.generation(x, {"z": z}, u if u_dim else None)
    q = model.inference(x, u if u_dim else None, latents={"z": z})["z"].posterior
    known = {t: model.phi_x(x[:, t]) for t in range(5)}
    if variant == "smoother":
        e_g = lstm(model.e_g.network)
        for t in reversed(range(5)):
            known[t] = e_g(known[t], u[:, t])
    d_h = lstm(model.d_h.layers)
    x_prev, z_prev = torch.zeros(4, 3, dtype=torch.float64), torch.zeros(4, 2, dtype=torch.float64)
    for t in range(5):
        h = d_h(model.phi_x(x_prev), u[:, t], model.phi_z(z_prev))  # (8.1)
        prior = model.prior_head(model.d_z(h))  # (8.4)
        observation = model.x_head(model.d_x(torch.cat([model.phi_z(z[:, t]), h], -1)))  # (8.2)
        posterior = model.z_head(model.e_z(torch.cat([known[t], h], -1)))  # (8.11)
        torch.testing.assert_close(generated.prior["z"][:, t].parameters, prior.parameters)
        torch.testing.assert_close(generated.observation[:, t].parameters, observation.parameters)
        torch.testing.assert_close(q[:, t].parameters, posterior.parameters)
        x_prev, z_prev = x[:, t], z[:, t]


def test_known_answers():
    past = frozenset({"x_{1:t-1}", "z_{1:t-1}"})
    assert VRNN.spec.compact() == {"z_t": past, "x_t": frozenset({"x_{1:t-1}", "z_{1:t}"})}  # (8.8)
    inferred = {"filter": {"z_{1:t-1}", "x_{1:t}"}, "smoother": {"z_{1:t-1}", "x_{1:T}"}}  # (8.14)
    missing = {"filter": {"x_{t+1:T}"}, "smoother": set()}
    for variant in VARIANTS:
        spec = make(variant).spec
        assert spec.compact() == VRNN.spec.compact()
        assert spec.compact("inference") == {"z_t": frozenset(inferred[variant])}
        assert spec.exact_posterior() == {"z_t": frozenset({"z_{1:t-1}", "x_{1:T}"})}  # (8.10)
        assert spec.inference_gap() == {"z_t": Gap(frozenset(missing[variant]), frozenset())}
        driven = make(variant, u_dim=2).spec
        assert driven.undriven().compact("inference") == spec.compact("inference")
        assert driven.undriven().compact() == spec.compact()
        assert driven.compact() == {"z_t": past | {"u_{1:t}"}, "x_t": VRNN.spec.compact()["x_t"] | {"u_{1:t}"}}
    assert make().spec is VRNN.spec


@pytest.mark.parametrize(
    ("preset", "layers"),
    [
        (
            "speech",  # B.3
            {
                "phi_x": [(256, 513)],
                "phi_z": [(32, 16), (64, 32)],
                "d_h": [(512, 320), (512, 128)],
                "d_z": [],
                "prior_head": [(32, 128)],
                "d_x": [],
                "x_head": [(513, 192)],
                "e_z": [],
                "z_head": [(32, 384)],
            },
        ),
        (
            "motion",  # C.3
            {
                "phi_x": [(64, 93)],
                "phi_z": [(16, 10), (32, 16)],
                "d_h": [(256, 96), (256, 64)],
                "d_z": [],
                "prior_head": [(20, 64)],
                "d_x": [],
                "x_head": [(93, 96)],
                "e_z": [],
                "z_head": [(20, 128)],
            },
        ),
    ],
)
def test_presets_have_the_layers_of_the_appendices(preset, layers):
    model = build_model("vrnn", preset=preset)
    assert model.d_h.cell == "lstm"
    assert {name for name, _ in model.named_children()} == set(layers)
    for name, shapes in layers.items():
        part = getattr(model, name)
        assert [tuple(p.shape) for p in part.parameters() if p.ndim == 2] == shapes, name
        assert not isinstance(part, nn.Sequential) or all(isinstance(layer, nn.Linear | nn.Tanh) for layer in part)


def test_the_smoother_of_a_preset_differs_in_its_backward_network():
    model = build_model("vrnn", preset="speech", inference_model="smoother")
    assert model.e_g.backward
    assert (model.e_g.network.input_size, model.e_g.network.hidden_size) == (256, 128)
    assert model.z_head.linear.in_features == 128 + 128
