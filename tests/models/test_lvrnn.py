"""The LV-RNN: its place among the others, and what its memory of past latents is for."""

import torch

from dvae_lib import LVRNN, STORN
from dvae_lib.graphs.links import links, runs_online


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_the_prior_remembers_latents_and_not_observations():
    own, storn = LVRNN(3, 2), STORN(3, 2)
    assert own.spec.compact("generation") == {
        "z_t": frozenset({"z_{1:t-1}"}),
        "x_t": frozenset({"x_{1:t-1}", "z_{1:t}"}),
    }
    assert LVRNN(3, 2, prior="iid").spec.compact("generation") == storn.spec.compact("generation")
    assert links(own.spec).is_dvae
    assert runs_online(own.spec)


def test_gap_is_the_future_alone():
    for prior in ("rnn", "iid"):
        gap = LVRNN(3, 2, prior=prior).spec.inference_gap()["z_t"]
        assert gap.missing == {"x_{t+1:T}"}
        assert gap.extra == set()


def test_the_prior_of_a_frame_moves_with_latents_long_past():
    torch.manual_seed(0)
    model = LVRNN(3, 2).double()
    x, z = torch.randn(2, 1, 8, 3, generator=seeded(), dtype=torch.float64).split([1, 1])
    z = z[0, ..., :2]
    moved = z.clone()
    moved[:, 0] += 1
    prior, other = (model.generation(x[0], {"z": value}).prior["z"].mean for value in (z, moved))
    assert torch.equal(prior[:, 0], other[:, 0])
    assert ((prior - other).abs().amax(-1)[:, 1:] > 0).all()
    elsewhere = model.generation(x[0] + 1, {"z": z}).prior["z"].mean
    assert torch.equal(prior, elsewhere)
