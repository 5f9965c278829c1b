"""What a model is made of, against what is known of it otherwise."""

import matplotlib.pyplot as plt
import pytest
import torch
from torch import nn

from dvae_lib import DKF, DSAE, GRNN, KVAE, MODELS, RVAE, SRNN, STORN, VRNN, build_model
from dvae_lib.architecture import (
    architecture,
    check_networks,
    count_weights,
    data_flow,
    draw_architecture,
    layers,
    show_architecture,
    to_markdown,
)

SMALL = {"x_dim": 7, "z_dim": 3}
VARIANTS = {
    **{name: lambda name=name: build_model(name, **SMALL) for name in MODELS},
    **{f"dkf-{kind}": lambda kind=kind: DKF(**SMALL, inference_model=kind) for kind in ("bidirectional", "local")},
    **{f"dsae-{kind}": lambda kind=kind: DSAE(**SMALL, inference_model=kind) for kind in ("factorised", "structured")},
    "dsae-head": lambda: DSAE(**SMALL, head_rnn=5),
    "kvae-mixture": lambda: KVAE(**SMALL, mixture=3),
    "storn-smoother": lambda: STORN(**SMALL, inference_model="smoother"),
    "srnn-filter": lambda: SRNN(**SMALL, inference_model="filter"),
    "vrnn-driven": lambda: VRNN(**SMALL, u_dim=2),
    "rvae-instantaneous": lambda: RVAE(**SMALL, generation_model="instantaneous"),
    "rvae-filter": lambda: RVAE(**SMALL, inference_model="filter", cell="gru"),
}
each_variant = pytest.mark.parametrize("name", VARIANTS)


def read_by(term):
    return {f"{t.name}{t.index}" for t in term.all()}


@each_variant
def test_every_weight_is_in_exactly_one_row(name):
    model = VARIANTS[name]()
    rows, held = architecture(model), []
    for row in rows:
        held += [id(p) for p in model.get_submodule(row.name).parameters()]
        assert row.weights == sum(p.numel() for p in model.get_submodule(row.name).parameters())
    assert sorted(held) == sorted(id(p) for p in model.parameters())
    weights = count_weights(model)
    assert weights.total == sum(p.numel() for p in model.parameters())
    assert weights.generation + weights.inference - weights.shared + weights.neither == weights.total
    assert all(row.network for row in rows)


@each_variant
def test_weights_that_move_the_output_are_those_that_are_counted(name):
    """By changing them, and no gradient: the weights of a part are used if the distributions change with them."""
    model = VARIANTS[name]().double()
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(2, 4, 7, dtype=torch.double, generator=generator)
    u = torch.rand(2, 4, model.u_dim, dtype=torch.double, generator=generator) if model.u_dim else None
    latents = {k: v.sample.detach() for k, v in model.inference(x, u).items()}

    def numbers(process):
        if process == "inference":
            found = [v.posterior for v in model.inference(x, u, latents=latents).values()]
        else:
            generated = model.generation(x, latents, u)
            found = [*generated.prior.values(), generated.observation]
        return torch.cat([torch.cat([d.mean, d.stddev.expand_as(d.mean)], -1).flatten() for d in found])

    with torch.no_grad():
        before = {process: numbers(process) for process in ("generation", "inference")}
        for row in architecture(model):
            parameters = list(model.get_submodule(row.name).parameters())
            kept = [p.clone() for p in parameters]
            for p in parameters:
                p.add_(0.1 * torch.randn(p.shape, dtype=p.dtype, generator=generator))
            for process, values in before.items():
                assert (getattr(row, process) > 0) == (not torch.equal(numbers(process), values)), (row.name, process)
            for p, value in zip(parameters, kept, strict=True):
                p.copy_(value)


def test_known_split_of_the_weights():
    shared = {name: {r.name for r in architecture(build_model(name, **SMALL)) if r.shared} for name in MODELS}
    assert shared["vrnn"] == {"phi_x", "phi_z", "d_h"}  # Section 8.2
    assert shared["srnn"] == {"phi_x", "d_h"}  # Section 9.2
    assert shared["kvae"] == {"dynamics"}  # the smoother is exact
    for name in ("vae", "dkf", "storn", "rvae-causal", "rvae-noncausal", "dsae"):
        assert shared[name] == set()
    improved = architecture(build_model("vrnn-improved", **SMALL))
    assert {r.name for r in improved if r.used_by == "neither"} == {"future_net", "future_head", "backward_head"}
    assert {r.name for r in architecture(DSAE(**SMALL, inference_model="structured")) if r.shared} == {"d_h"}


def test_an_lstm_has_as_many_weights_as_its_equations_say():
    """Four gates, each with weights for the input and the state, and (in PyTorch) two vectors of biases."""
    row = next(r for r in architecture(build_model("dsae", preset="speech")) if r.name == "e_gz.0")
    assert (row.in_dim, row.out_dim) == (513 + 16, 128)
    assert row.weights == 4 * 128 * (513 + 16 + 128 + 2)


def test_networks_are_written_in_the_notation_of_the_review():
    rows = {r.name: r for r in architecture(build_model("srnn", preset="speech"))}
    assert rows["d_z"].network == r"MLP([$\mathbf{z}_{t-1}$, $\mathbf{h}_t$], 64, Tanh, 32, Tanh)"
    assert rows["e_g"].network == "LSTM(`encoder`, 128), backward"
    assert rows["e_g"].function == r"e_{\overleftarrow{\mathbf{g}}}"
    assert rows["x_head"].function == rows["d_x"].function == r"d_{\mathbf{x}}"
    rows = {r.name: r for r in architecture(build_model("dsae", preset="speech"))}
    assert rows["v_head"].network.startswith("output layer on [")
    assert rows["v_head"].network.count("_{T}") == rows["v_head"].network.count("_{1}") == 1  # (11.14)
    rows = {r.name: r for r in architecture(build_model("rvae-noncausal", preset="speech"))}
    assert rows["e_gx.1"].function == r"e_{\overleftarrow{\mathbf{g}}^{\mathbf{x}}}"
    combined = {r.name: r for r in architecture(build_model("dkf", **SMALL))}["z_head"].network
    assert combined == r"output layer on mean of $\overleftarrow{\mathbf{g}}_t$ and `combiner`"  # (5.5)


def test_flow_follows_the_equations():
    vrnn = build_model("vrnn", **SMALL)
    assert read_by(data_flow(vrnn, "generation")["x"]) >= {"z_t", "d_h_t", "x_{t-1}", "z_{t-1}"}
    assert "x_t" not in read_by(data_flow(vrnn, "generation")["x"])
    assert read_by(data_flow(vrnn, "inference")["z"]) >= {"x_t", "d_h_t"}
    kvae = data_flow(KVAE(**SMALL), "inference")
    assert {f"{t.name}{t.index}" for t in kvae["z"].inputs} == {"z_{t-1}", "a_{t:T}"}  # (6.12)
    smoother = data_flow(STORN(**SMALL, inference_model="smoother"), "inference")["z"]
    assert read_by(smoother) >= {"d_h_{t-1}", "x_{t-1}", "e_g_t"}


def test_numbers_of_a_network_lead_to_the_distribution_that_is_made_of_them():
    """A chain's conditionals are no network's output, but computed from one that reads a window of frames."""
    head = data_flow(build_model("gpvae", **SMALL), "inference")["z"]
    assert head.name == "e_z"
    assert {f"{t.name}{t.index}" for t in head.inputs} == {"x_{t-1:t+1}"}


def test_the_model_is_left_as_it_was():
    model = build_model("srnn", **SMALL)
    before = {name: p.clone() for name, p in model.state_dict().items()}
    state = torch.get_rng_state()
    architecture(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], p) and p.dtype is torch.float32 for name, p in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks for m in model.modules())


def test_table():
    table = to_markdown(architecture(build_model("vrnn", **SMALL))).splitlines()
    assert len({line.count("|") for line in table}) == 1
    assert table[-1].split("|")[5].strip() == f"{count_weights(build_model('vrnn', **SMALL)).total:,}"
    assert layers(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 4))) == "3, ReLU, 4, I"


@each_variant
def test_boxes_of_a_drawing_do_not_overlap(name):
    figure = draw_architecture(VARIANTS[name]())
    axes = figure.axes[0]
    # An arrow's line is a patch too, and may cross others; a box has a face.
    boxes = [p.get_path().get_extents(p.get_patch_transform()) for p in axes.patches if p.get_facecolor()[3] > 0]
    boxes = [b for b in boxes if b.height > 0.2]
    assert len(boxes) >= 4
    for i, a in enumerate(boxes):
        for b in boxes[:i]:
            assert not (a.x0 < b.x1 and b.x0 < a.x1 and a.y0 < b.y1 and b.y0 < a.y1)
    plt.close(figure)


def test_a_model_without_latent_vectors_has_no_inference():
    counts = count_weights(GRNN(5))
    assert counts.inference == 0
    assert counts.generation == sum(p.numel() for p in GRNN(5).parameters())


def test_a_model_of_ones_own_names_its_functions_itself():
    class Wrapped(SRNN):
        functions = {"e_z": r"f_{\mathrm{own}}"}

    rows = {row.name: row.function for row in architecture(Wrapped(**SMALL))}
    assert rows["e_z"] == r"f_{\mathrm{own}}"
    assert rows["d_x"] == r"d_{\mathbf{x}}"


def test_networks_are_compared_with_what_is_published():
    model = build_model("dkf", preset="speech")
    check_networks(model, e_z="32, Tanh", e_backward=128, d_z__linear="16, I")
    for wrong in ({"e_z": "64, Tanh"}, {"e_backward": 64}, {"e_z": 128}, {"nothing": 1}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))}: expected"):
            check_networks(model, **wrong)


def test_a_model_is_shown_and_handed_on(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda *what: shown.extend(what))
    model = build_model("vae", x_dim=4, z_dim=2)
    assert show_architecture(model) is model
    drawing, table = shown
    assert drawing.axes
    assert table.data == to_markdown(architecture(model))
