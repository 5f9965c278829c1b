"""Which entries move together: read off the code of all models, against what their equations say."""

import pytest
import torch

from dvae_lib.graphs.entries import entry_groups, prior_reads
from dvae_lib.models import DKF, DSAE, GPVAE, STORN, SVAE, VRAE, VRNN, build_model

ALONE = ((("z", 0),), (("z", 1),), (("z", 2),))
TOGETHER = ((("z", 0), ("z", 1), ("z", 2)),)


@pytest.mark.parametrize("name", ["vae", "gpvae"])
def test_entries_with_lives_of_their_own(name):
    groups = entry_groups(build_model(name, x_dim=4, z_dim=3))
    assert groups == (ALONE, ALONE, ALONE)


@pytest.mark.parametrize("posterior", ["chain", "mean_field", "exact"])
@pytest.mark.parametrize("kernel", ["matern12", "rbf"])
def test_processes_of_different_length_scales(posterior, kernel):
    assert entry_groups(GPVAE(4, 3, kernel=kernel, length_scale=(1.0, 3.0, 9.0), posterior=posterior)).both == ALONE


def test_networks_between_frames_couple_all():
    groups = entry_groups(DKF(4, 3))
    assert groups.prior == groups.both == TOGETHER
    assert entry_groups(DKF(4, 3, inference_model="instantaneous")).posterior == ALONE
    assert entry_groups(VRNN(4, 3)).prior == TOGETHER


def test_a_prior_may_factorise_where_the_posterior_does_not():
    groups = entry_groups(STORN(4, 3, inference_model="smoother"))
    assert (groups.prior, groups.posterior, groups.both) == (ALONE, TOGETHER, TOGETHER)


def test_weights_that_are_zero_by_accident_hide_nothing():
    model = SVAE(4, 3)
    model.dynamics.assign(A=0.5 * torch.eye(3), Lambda=torch.eye(3), Lambda_1=torch.eye(3))
    assert entry_groups(model).prior == TOGETHER


def test_a_flow_has_no_mean_and_couples_its_entries():
    assert entry_groups(DKF(4, 3, inference_model="filter", posterior="planar")).posterior == TOGETHER


def test_variables_of_sequences_and_of_frames():
    factorised = entry_groups(DSAE(4, 3, v_dim=2, inference_model="factorised"))
    assert factorised.both == ((("v", 0),), (("v", 1),), *TOGETHER)
    assert len(entry_groups(DSAE(4, 3, v_dim=2)).both) == 1  # z is inferred given v
    assert entry_groups(VRAE(4, 3)).both == ((("v", 0),), (("v", 1),), (("v", 2),))


def test_what_priors_read():
    assert prior_reads(VRNN(4, 3).spec) == ("x",)
    assert prior_reads(DKF(4, 3, u_dim=2).spec) == ("u",)
    assert prior_reads(DKF(4, 3).spec) == prior_reads(STORN(4, 3).spec) == ()


def test_the_model_is_left_as_it_was():
    model = GPVAE(4, 3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    entry_groups(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())
