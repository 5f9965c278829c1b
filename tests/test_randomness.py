import json
import random

import numpy as np
import torch

from dvae_lib.randomness import (
    derive_seed,
    global_random_state,
    isolated_randomness,
    restore_global_random_state,
)


def draw():
    # Normal draws as well: Python and NumPy keep the second of a pair in their state.
    return [random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), torch.randn(3).tolist()]  # noqa: NPY002


def test_state_survives_json():
    draw()
    state = json.loads(json.dumps(global_random_state()))
    first = draw()
    draw()
    restore_global_random_state(state)
    assert draw() == first
    restore_global_random_state(state)
    assert draw() == first


def test_isolated_randomness_starts_from_its_seed_and_leaves_no_trace():
    before = global_random_state()
    with isolated_randomness(3):
        inside = draw()
    assert global_random_state() == before
    draw()
    with isolated_randomness(3):
        assert draw() == inside
    with isolated_randomness(4):
        assert draw() != inside


def test_seeds_by_purpose_differ():
    seeds = {derive_seed(s, purpose, i) for s in range(3) for purpose in ("noise", "order") for i in range(500)}
    assert len(seeds) >= 2998  # of 3000; with 32 bits a collision has a chance of one in a thousand
    assert derive_seed(1, 23) != derive_seed(12, 3)
