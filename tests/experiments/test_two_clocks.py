"""A slow and a fast level: their graph, when the slow one moves, and that a held frame is free of charge."""

import torch
from torch import Generator

from dvae_lib.experiments.two_clocks import Clockwork, ticking
from dvae_lib.graphs import verify_dependencies
from dvae_lib.testing import check_model


def test_the_networks_agree_with_the_spec_and_the_posterior_is_exact():
    assert verify_dependencies(Clockwork(3, 2, b_dim=2), num_steps=4).agrees
    assert not any(gap.missing or gap.extra for gap in Clockwork.spec.inference_gap("interleaved").values())


def test_all_laws_hold():
    torch.manual_seed(0)
    check_model(Clockwork(3, 2, b_dim=2, h_dim=5))


def test_a_clock_ticks_in_the_first_frame():
    assert ticking(2, 5, 3)[1, :, 0].tolist() == [1, 0, 0, 1, 0]
    assert ticking(1, 3, 1).all()


def test_the_slow_level_moves_with_the_clock_alone_and_held_frames_cost_nothing():
    torch.manual_seed(0)
    model, u = Clockwork(3, 2, b_dim=2), ticking(4, 7, 3)
    x = torch.randn(4, 7, 3)
    kl = model.vlb(x, u, generator=Generator().manual_seed(0)).kl["b"]
    assert (kl[:, [0, 3, 6]] > 0).all()
    assert not kl[:, [1, 2, 4, 5]].any()
    s = model.hold(model.inference(x, u, generator=Generator().manual_seed(0))["b"].sample, u)
    for start, end in ((0, 3), (3, 6)):
        assert (s[:, start:end] == s[:, start : start + 1]).all()
    assert (s[:, 2] != s[:, 3]).any()
