"""Steps of the encoder alone: which weights they move, and when."""

import pytest
import torch
from torch import Generator, nn

from dvae_lib.data.sequences import SequenceDataset
from dvae_lib.models import DSAE, KVAE, MODELS, SRNN, VAE, VRNN
from dvae_lib.models.rnn import GRNN
from dvae_lib.training import Schedule, TrainingConfig, fit
from dvae_lib.training.encoder import inference_parameters

DATA = SequenceDataset(torch.randn(8, 5, 3, generator=Generator().manual_seed(0)))


def make(cls=VRNN):
    torch.manual_seed(0)
    return cls(3, 2)


def config(epochs, encoder_steps, **options):
    return TrainingConfig(max_epochs=epochs, batch_size=4, encoder_steps=encoder_steps, **options)


def networks(model):
    return {name.split(".")[0] for name in inference_parameters(model)}


def test_the_encoders_weights():
    """By hand, from the equations: networks that both models use are the generative model's."""
    assert networks(make(VAE)) == {"e_z", "z_head"}
    assert networks(VRNN(3, 2, head=(4,), inference_model="smoother")) == {"e_g", "e_z", "z_head"}
    assert networks(make(SRNN)) == {"encoder", "e_g", "e_z", "z_head"}
    assert networks(DSAE(3, 2, encoder=(4,), head=(4,))) == {"encoder", "e_gv", "e_gz", "e_z", "v_head", "z_head"}
    assert networks(make(KVAE)) == {"e_a", "a_head"}


@pytest.mark.parametrize("name", MODELS)
def test_every_model_has_some(name):
    torch.manual_seed(0)
    entry = MODELS[name]
    model = entry.cls(3, 2, **entry.options, **entry.small)
    state = torch.get_rng_state()
    assert 0 < len(inference_parameters(model)) < len(list(model.parameters()))
    assert torch.equal(torch.get_rng_state(), state)


def test_so_many_steps_move_the_encoder_alone():
    own = inference_parameters(make())
    start = {name: p.clone() for name, p in make().state_dict().items()}
    for epochs, alone in ((1, True), (2, False)):  # two steps an epoch; the fourth moves everything
        last = fit(make(), DATA, None, config(epochs, 3), progress=False).last_weights
        moved = {name for name in start if not torch.equal(start[name], last[name])}
        assert own <= moved
        assert (moved == own) == alone


def test_none_is_a_plain_training():
    plain = fit(make(), DATA, None, TrainingConfig(max_epochs=2, batch_size=4), progress=False).last_weights
    settled = Schedule(((0, 0),))
    found = fit(make(), DATA, None, config(2, settled), progress=False).last_weights
    assert all(torch.equal(plain[name], found[name]) for name in plain)


def test_a_resumed_run_goes_on_in_the_midst_of_them(tmp_path):
    whole = fit(make(), DATA, None, config(3, 2), progress=False).last_weights
    fit(make(), DATA, None, config(1, 2), folder=tmp_path / "run", progress=False)
    found = fit(make(), DATA, None, config(3, 2), folder=tmp_path / "run", progress=False).last_weights
    assert all(torch.equal(whole[name], found[name]) for name in whole)


def test_the_configuration_as_json():
    schedule = Schedule(((4, 5), (5, 0)))
    made = config(9, schedule)
    assert TrainingConfig.from_json(made.to_json()) == made
    assert made.to_dict()["encoder_steps"] == [[4, 5.0], [5, 0.0]]
    assert made.settled == 5
    assert "encoder_steps" not in TrainingConfig().to_dict()  # runs were without before


def test_refusals(as_a_user):
    with pytest.raises(ValueError, match="encoder_steps is a number of steps, 0 or more"):
        TrainingConfig(encoder_steps=-1)
    with pytest.raises(ValueError, match="GRNN has no weights that are the inference model's alone"):
        fit(GRNN(3, 4), DATA, None, config(1, 2), progress=False)

    class Other(nn.Linear):
        x_dim = 3

    with pytest.raises(TypeError, match="encoder_steps needs a DVAE"):
        fit(Other(3, 3), DATA, None, config(1, 2), progress=False)
