"""STORN against its equations written out, the review's known answers, and Appendices B and C."""

import pytest
import torch
from torch import nn
from written_out import data, lstm

from dvae_lib.graphs.spec import Gap
from dvae_lib.models import STORN, build_model
from dvae_lib.testing import check_model

SIZES = {"feature_x": (4,), "feature_z": (3,), "h_dim": 4, "decoder": (5,), "encoder": (4,), "g_dim": 3, "head": (6,)}
VARIANTS = ("filter", "lagged", "smoother")
NOTHING = frozenset()


def make(variant="filter", *, u_dim=0, **options):
    torch.manual_seed(0)
    model = STORN(3, 2, inference_model=variant, u_dim=u_dim, **SIZES, **options).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.6)
    return model


@pytest.mark.parametrize("u_dim", [0, 2])
@pytest.mark.parametrize("variant", VARIANTS)
def test_equations_written_out(variant, u_dim):
    """(7.4)-(7.8) and (7.15)-(7.19), frame by frame; the smoother from its docstring."""
    model, x, z, u = make(variant, u_dim=u_dim), data(3), data(2, seed=2), data(u_dim, seed=3)
    generated = model.generation(x, {"z": z}, u if u_dim else None)
    q = model.inference(x, u if u_dim else None, latents={"z": z})["z"].posterior
    e_g, g = lstm(model.e_g.network), {}
    zero = torch.zeros(4, 3, dtype=torch.float64)
    for t in reversed(range(5)) if variant == "smoother" else range(5):
        seen = x[:, t] if variant != "lagged" else x[:, t - 1] if t else zero
        g[t] = e_g(model.encoder(torch.cat([seen, u[:, t]], -1)))  # (7.15)
    d_h, h = lstm(model.d_h.layers), torch.zeros(4, 4, dtype=torch.float64)
    for t in range(5):
        x_prev = model.phi_x(x[:, t - 1] if t else zero)
        known = [g[t], x_prev, u[:, t], h] if variant == "smoother" else [g[t]]
        torch.testing.assert_close(q.mean[:, t], model.z_head(model.e_z(torch.cat(known, -1))).mean)  # (7.16)
        torch.testing.assert_close(q.logvar[:, t], model.z_head(model.e_z(torch.cat(known, -1))).logvar)
        h = d_h(x_prev, u[:, t], model.phi_z(z[:, t]))  # (7.4)
        torch.testing.assert_close(generated.observation.mean[:, t], model.x_head(model.d_x(h)).mean)  # (7.5)
        torch.testing.assert_close(generated.observation.logvar[:, t], model.x_head(model.d_x(h)).logvar)
    assert (generated.prior["z"].mean == 0).all()  # (7.7)
    assert (generated.prior["z"].logvar == 0).all()


def test_known_answers():
    assert STORN.spec.compact() == {"z_t": NOTHING, "x_t": frozenset({"x_{1:t-1}", "z_{1:t}"})}  # (7.10)
    inferred = {
        "filter": {"x_{1:t}"},  # (7.19)
        "lagged": {"x_{1:t-1}"},
        "smoother": {"z_{1:t-1}", "x_{1:T}"},
    }
    missing = {"filter": {"z_{1:t-1}", "x_{t+1:T}"}, "lagged": {"z_{1:t-1}", "x_{t:T}"}, "smoother": set()}
    for variant in VARIANTS:
        spec = make(variant).spec
        assert spec.compact() == STORN.spec.compact()
        assert spec.compact("inference") == {"z_t": frozenset(inferred[variant])}
        assert spec.exact_posterior() == {"z_t": frozenset({"z_{1:t-1}", "x_{1:T}"})}  # (7.12)
        assert spec.inference_gap() == {"z_t": Gap(frozenset(missing[variant]), NOTHING)}
    assert make().spec is STORN.spec


@pytest.mark.parametrize("variant", VARIANTS)
def test_driven_spec_is_the_undriven_one_with_its_input(variant):
    driven, spec = make(variant, u_dim=2).spec, make(variant).spec
    assert driven.undriven().compact() == spec.compact()
    assert driven.undriven().compact("inference") == spec.compact("inference")
    assert driven.compact() == {"z_t": NOTHING, "x_t": frozenset({"x_{1:t-1}", "z_{1:t}", "u_{1:t}"})}


def test_lagged_inference_is_one_frame_late():
    model, x = make("lagged"), data(3).requires_grad_()
    q = model.inference(x, latents={"z": data(2)})["z"].posterior
    (gradient,) = torch.autograd.grad(q.mean[:, 2].sum(), x)
    assert [bool(g.any()) for g in gradient.unbind(1)] == [True, True, False, False, False]
    assert (q.mean[:, 0] == q.mean[:1, 0]).all()  # the first frame's latent knows nothing at all


@pytest.mark.parametrize(
    ("preset", "x_dim", "layers"),
    [
        (
            "speech",  # B.2
            513,
            {
                "phi_x": [(256, 513)],
                "phi_z": [(32, 16), (64, 32)],
                "d_x": [(256, 128)],
                "encoder": [(256, 513)],
                "e_z": [(64, 128), (32, 64)],
                "z_head": [(32, 32)],
                "x_head": [(513, 256)],
                "d_h": [(512, 320), (512, 128)],
                "e_g": [(512, 256), (512, 128)],
            },
        ),
        (
            "motion",  # C.2
            93,
            {
                "phi_x": [(64, 93)],
                "phi_z": [(32, 10)],
                "d_x": [],
                "encoder": [(64, 93)],
                "e_z": [(32, 64)],
                "z_head": [(20, 32)],
                "x_head": [(93, 64)],
                "d_h": [(256, 96), (256, 64)],
                "e_g": [(256, 64), (256, 64)],
            },
        ),
    ],
)
def test_presets_have_the_layers_of_the_appendices(preset, x_dim, layers):
    model = build_model("storn", preset=preset)
    assert (model.x_dim, model.inference_model, model.d_h.cell) == (x_dim, "filter", "lstm")
    assert {name for name, _ in model.named_children()} == set(layers)
    for name, shapes in layers.items():
        part = getattr(model, name)
        assert [tuple(p.shape) for p in part.parameters() if p.ndim == 2] == shapes, name
        assert not isinstance(part, nn.Sequential) or all(isinstance(layer, nn.Linear | nn.Tanh) for layer in part)
    assert model.e_g.backward is False
    assert type(model.generate(2).observation).__name__ == {"speech": "Gamma", "motion": "CentimetreGaussian"}[preset]


def test_defaults_are_those_of_the_speech_preset():
    speech = build_model("storn", preset="speech")
    plain = STORN(513, 16, observation="gamma")
    assert {k: v.shape for k, v in plain.state_dict().items()} == {k: v.shape for k, v in speech.state_dict().items()}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_prior_with_memory_obeys_all_laws(variant):
    model = make(variant, memory=0.6)
    check_model(model)
    assert model.spec.compact()["z_t"] == {"z_{t-1}"}
    assert model.spec.inference_gap() == make(variant).spec.inference_gap()


def test_a_prior_with_memory_is_a_stationary_process():
    """Generated latents: mean 0, variance 1 in every frame, and the memory as the correlation of neighbours."""
    torch.manual_seed(1)
    z = make(memory=-0.6).generate(5, 20_000, generator=torch.Generator().manual_seed(0)).latents["z"]
    assert z.mean(0).abs().max() < 4 / 20_000**0.5
    assert (z.var(0) - 1).abs().max() < 4 * (2 / 20_000) ** 0.5
    assert ((z[:, 1:] * z[:, :-1]).mean(0) + 0.6).abs().max() < 4 * (1.36 / 20_000) ** 0.5
    for wrong in (1.0, -1.2, float("nan")):
        with pytest.raises(ValueError, match="memory is a correlation between -1 and 1"):
            make(memory=wrong)
