"""The links of Section 4.5, for the review's models."""

import pytest
import review_specs as review

from dvae_lib.graphs import DependencySpec
from dvae_lib.graphs.links import Links, infers_backwards, links, looks_ahead, runs_online

#                          decoding temporal driving predictive causal
KNOWN = {
    "VAE": (True, False, False, False, True),
    "PREDICTIVE_GRNN": (False, True, False, True, True),
    "DKF": (True, True, False, False, True),
    "DKF_DRIVEN": (True, True, True, False, True),
    "KVAE": (True, True, True, False, True),
    "KVAE_MIXED": (True, True, False, False, True),
    "STORN": (True, True, False, True, True),
    "VRNN": (True, True, False, True, True),
    "SRNN": (True, True, False, True, True),
    "SRNN_DRIVEN": (True, True, True, True, True),
    "RVAE_CAUSAL": (True, True, False, False, True),
    "RVAE_NONCAUSAL": (True, True, False, False, False),
    "DSAE_FULL": (True, True, False, False, True),
    "VRAE": (False, True, False, True, True),
    "DVBF": (True, True, True, False, True),
    "SVAE": (True, True, True, False, True),
    "ARCHER_BACKWARD": (True, True, False, False, True),
    "LADDER": (True, True, False, False, True),
}


@pytest.mark.parametrize("name", KNOWN)
def test_links(name):
    found = links(getattr(review, name))
    assert found == Links(*KNOWN[name])
    assert found.is_dvae == (name not in ("VAE", "PREDICTIVE_GRNN", "VRAE"))


@pytest.mark.parametrize(
    ("name", "ahead", "online"),
    [
        ("VAE", False, True),
        ("DKF", True, False),
        ("STORN", False, True),
        ("VRNN", False, True),
        ("SRNN", True, False),
        ("SRNN_FILTER", False, True),
        ("RVAE_CAUSAL", True, False),
        ("DSAE_FULL", True, False),
        ("DSAE_FACTORISED", False, False),  # v waits for the sequence's end
    ],
)
def test_which_inference_runs_online(name, ahead, online):
    spec = getattr(review, name)
    assert (looks_ahead(spec), runs_online(spec)) == (ahead, online)


@pytest.mark.parametrize(
    ("name", "backwards"),
    [("DKF", False), ("SRNN", False), ("KVAE", False), ("KVAE_BACKWARD", True), ("ARCHER_BACKWARD", True)],
)
def test_which_inference_goes_backwards_in_time(name, backwards):
    """Latents of later frames, not observations: a smoother looks ahead, and still goes forwards."""
    assert infers_backwards(getattr(review, name)) is backwards


def test_a_vector_of_the_sequence_that_is_inferred_from_those_of_its_frames_comes_last():
    """It is generated first: there is no state that a filter could start from. From the frames themselves it is."""
    generation = "v ~\nz_t ~ v\nx_t ~ z_t"
    assert infers_backwards(DependencySpec(generation, "z_t ~ x_t\nv ~ z_{1:T}"))
    assert not infers_backwards(DependencySpec(generation, "v ~ x_{1:T}\nz_t ~ x_t, v"))
