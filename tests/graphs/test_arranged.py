"""Layouts that travel with the library are those that would be found anew."""

import time

import arrange_figures
import numpy as np
import pytest
import review_specs as review

from dvae_lib import MODELS
from dvae_lib.graphs import DependencySpec, arranged
from dvae_lib.graphs.layout import arrange

RUN = "its layout is not at rest: run python book/_tools/arrange_figures.py"


def panels(spec):
    return list(arrange_figures.panels([spec]))


def same(one, other):
    assert one.positions == other.positions
    assert one.kinds == other.kinds
    assert [a.link for a in one.arrows] == [a.link for a in other.arrows]
    for a, b in zip(one.arrows, other.arrows, strict=True):
        np.testing.assert_array_equal(a.curve, b.curve)


@pytest.mark.parametrize("spec", [entry[0].spec for entry in MODELS.values()], ids=list(MODELS))
def test_the_models_figures_are_arranged(spec):
    for picture in panels(spec):
        assert arranged.arrangement(picture) is not None, RUN


def test_all_variants_are_arranged():
    for spec in arrange_figures.of_models():
        for picture in panels(spec):
            assert arranged.arrangement(picture) is not None, f"{spec}\n{RUN}"


@pytest.mark.parametrize("name", ["vae", "srnn", "storn", "kvae"])
def test_what_is_at_rest_is_what_would_be_found(name):
    spec = MODELS[name][0].spec
    for picture in panels(spec):
        same(arranged.layout(picture), arrange(picture))


def test_the_books_specs_are_found_in_its_pages():
    found = list(arrange_figures.of_pages())
    assert len(found) >= 10
    assert all(arranged.arrangement(picture) for spec in found[:3] for picture in panels(spec)), RUN


def test_a_spec_nobody_has_seen_is_arranged_when_it_is_drawn():
    spec = DependencySpec("k_t <- k_{t-1}, y_{t-1}\ny_t ~ k_t, q_t\nq_t ~ k_t", observed=("y",))
    for picture in panels(spec):
        assert arranged.arrangement(picture) is None
        same(arranged.layout(picture), arrange(picture))
    assert spec.draw().axes


def test_the_key_holds_all_that_a_layout_depends_on():
    keys = [
        arranged.picture_key(picture)
        for gap in (True, False)
        for picture in (review.STORN.picture("inference", form, gap=gap) for form in ("compact", "developed"))
    ]
    assert len(set(keys)) == 4
    renamed = DependencySpec("w_t ~ w_{t-1}\nx_t ~ w_t")
    assert arranged.picture_key(renamed.picture("generation", "compact")) != arranged.picture_key(
        review.SSM.picture("generation", "compact")
    )
    commented = DependencySpec("z_t ~ z_{t-1}   # a chain\nx_t ~ z_t")
    assert arranged.picture_key(commented.picture("generation", "compact")) == arranged.picture_key(
        review.SSM.picture("generation", "compact")
    )


def test_to_look_up_is_quicker_than_to_arrange():
    picture = MODELS["dsae"][0].spec.picture("inference", "developed")
    times = {}
    for how in (arrange, lambda p: arranged.arrangement(p).layout(p)):
        start = time.perf_counter()
        how(picture)
        times[how] = time.perf_counter() - start
    arranging, looking_up = times.values()
    assert looking_up < arranging / 5
