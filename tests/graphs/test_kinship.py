"""The distance between models, as arrows that differ."""

import itertools

import pytest
import review_specs as review

from dvae_lib import MODELS, DependencySpec
from dvae_lib.graphs.kinship import Dependence, arrows, arrows_that_differ, nearest

CHAIN = DependencySpec("z_t ~ z_{t-1}\nx_t ~ z_t", "z_t ~ z_{t-1}, x_{t:T}")
REGISTERED = {name: entry.cls.spec for name, entry in MODELS.items()}


def generated(*pairs):
    return {Dependence("generation", *pair) for pair in pairs}


def test_arrows_of_a_model_by_hand():
    assert arrows(review.VRAE) >= generated(("v", "x_t"), ("x_{t-1}", "x_t"), ("x_{1:t-2}", "x_t"))
    assert arrows(CHAIN) == generated(("z_{t-1}", "z_t"), ("z_t", "x_t")) | {
        Dependence("inference", parent, "z_t") for parent in ("z_{t-1}", "x_t", "x_{t+1}", "x_{t+2:T}")
    }


def test_names_and_deterministic_states_do_not_count():
    renamed = DependencySpec("s_t ~ s_{t-1}\ny_t ~ s_t", "b_t <- y_t, b_{t+1}\ns_t ~ b_t, s_{t-1}", observed=("y",))
    assert not arrows_that_differ(CHAIN, renamed)
    assert not arrows_that_differ(review.DKF, review.DKF_DRIVEN)


def test_one_arrow_more_is_one_arrow_apart():
    predictive = DependencySpec("z_t ~ z_{t-1}\nx_t ~ z_t, x_{t-1}", CHAIN.inference)
    assert arrows_that_differ(CHAIN, predictive) == generated(("x_{t-1}", "x_t"))
    whole = DependencySpec("v ~\nx_t ~ v", "v ~ x_{1:T}")
    assert Dependence("inference", "x_{1:T}", "v") in arrows_that_differ(CHAIN, whole)


def test_it_is_a_distance():
    names = ("vae", "dkf", "storn", "vrnn", "dsae")
    apart = {
        (one, other): len(arrows_that_differ(REGISTERED[one], REGISTERED[other]))
        for one, other in itertools.product(names, repeat=2)
    }
    for one, other, third in itertools.product(names, repeat=3):
        assert (apart[one, other] == 0) == (one == other)
        assert apart[one, other] == apart[other, one]
        assert apart[one, third] <= apart[one, other] + apart[other, third]


def test_the_nearest_relative():
    assert nearest(CHAIN, {"vae": REGISTERED["vae"], "dkf": REGISTERED["dkf"]}) == ("dkf",)
    assert nearest(CHAIN, {"dkf": REGISTERED["dkf"], "svae": REGISTERED["svae"]}) == ("dkf", "svae")
    with pytest.raises(ValueError, match="needs other models"):
        nearest(CHAIN, {})
