"""What goes with given data, and configurations in files."""

import pytest
import torch

from dvae_lib.data.sequences import SequenceDataset
from dvae_lib.models import build_model
from dvae_lib.training import TrainingConfig, config_for, model_for

DATA = SequenceDataset(torch.zeros(4, 20, 3), torch.zeros(4, 20, 2))


def test_a_model_has_the_sizes_of_the_data():
    model = model_for("srnn", DATA)
    assert (model.x_dim, model.u_dim, model.z_dim, model.observation) == (3, 2, 3, "gaussian")
    model = model_for("srnn", DATA, observation="unit_gaussian", z_dim=5)
    assert (model.z_dim, model.observation) == (5, "unit_gaussian")
    assert model_for("vae", SequenceDataset(torch.zeros(4, 20, 40))).z_dim == 16


@pytest.mark.parametrize("kind", ["speech", "motion"])
def test_the_reviews_kinds_of_data_have_its_architectures(kind):
    data = SequenceDataset(torch.ones(2, 5, 7))
    model = model_for("dkf", data, kind=kind)
    wanted = build_model("dkf", kind, x_dim=7)
    assert [p.shape for p in model.parameters()] == [p.shape for p in wanted.parameters()]
    assert model.observation == wanted.observation
    assert config_for(kind, seed=3) == getattr(TrainingConfig, kind)(seed=3)


def test_other_kinds_have_the_librarys_own_training():
    assert config_for(None) == config_for("music") == TrainingConfig()


def test_what_there_is_none_of():
    with pytest.raises(ValueError, match="no model 'rnn2'; choose one of vae, dkf"):
        model_for("rnn2", DATA)
    with pytest.raises(ValueError, match="vae has no option h_dim; it has x_dim"):
        model_for("vae", DATA, h_dim=3)


def test_files(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(TrainingConfig.motion(max_epochs=7).to_json())
    assert TrainingConfig.from_file(path) == TrainingConfig.motion(max_epochs=7)
    path.write_text("[1]")
    with pytest.raises(ValueError, match=r"config\.json: .*is a JSON object; got list"):
        TrainingConfig.from_file(path)
