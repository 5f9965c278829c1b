"""What a model takes from the training data before its first step: what it reads, and where its output starts."""

import json

import pytest
import torch
from small_runs import TRAIN, small_vae
from torch import nn

from dvae_lib import build_model
from dvae_lib.data import SequenceDataset
from dvae_lib.models import DVAE, SRNN, VAE
from dvae_lib.models.reading import FLOOR
from dvae_lib.models.registry import MODELS
from dvae_lib.training import CheckpointError, TrainingConfig, fit
from dvae_lib.training.preparing import start_at_mean


def powers(count, seed):
    g = torch.Generator().manual_seed(seed)
    scale = torch.tensor([1e-3, 1.0, 1e4])
    return SequenceDataset([torch.empty(6 + i % 2, 3).exponential_(generator=g) * scale for i in range(count)])


LOUD, HELD_OUT = powers(9, 1), powers(4, 2)


def model(cls=VAE, seed=0):
    torch.manual_seed(seed)
    sizes = {"encoder": (4,), "decoder": (4,)} | ({} if cls is VAE else {"h_dim": 4, "g_dim": 4, "feature_x": (4,)})
    return cls(3, 2, observation="gamma", **sizes)


def config(**values):
    return TrainingConfig(
        batch_size=4, max_epochs=3, learning_rate=0.01, inputs="log_power", start_at_mean=True, **values
    )


def mean_log_power(data):
    return torch.cat([data[i].double() + FLOOR for i in range(len(data))]).log().mean(0)


def test_inputs_are_learned_from_the_training_part_alone(tmp_path):
    trained = fit(model(SRNN), LOUD, HELD_OUT, config(), folder=tmp_path).best_model
    assert trained.inputs == "log_power"
    torch.testing.assert_close(trained.reading.mean.double(), mean_log_power(LOUD), rtol=1e-6, atol=1e-6)
    assert DVAE.from_pretrained(tmp_path).inputs == "log_power"
    saved = json.loads((tmp_path / "config.json").read_text())
    assert (saved["inputs"], saved["start_at_mean"]) == ("log_power", True)


def test_the_output_starts_at_the_mean_log_power():
    fresh = model()
    start_at_mean(fresh, LOUD)
    torch.testing.assert_close(fresh.x_head.linear.bias.double(), mean_log_power(LOUD), rtol=1e-6, atol=1e-6)
    fit(fresh, LOUD, HELD_OUT, TrainingConfig(batch_size=4, max_epochs=1, learning_rate=1e-9, start_at_mean=True))
    torch.testing.assert_close(fresh.x_head.linear.bias.double(), mean_log_power(LOUD), rtol=1e-4, atol=1e-4)


def test_the_output_of_zeros_and_ones_starts_at_their_log_odds():
    frames = [torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]]), torch.tensor([[torch.nan, 0.0, 0.0]])]
    fresh = VAE(3, 2, observation="bernoulli", encoder=(4,), decoder=(4,))
    start_at_mean(fresh, SequenceDataset(frames, missing=True))
    wanted = torch.tensor([2.5 / 0.5, 1.5 / 2.5, 0.5 / 3.5]).log()
    torch.testing.assert_close(fresh.x_head.linear.bias.detach(), wanted)


@pytest.mark.parametrize("name", MODELS)
def test_no_model_is_passed_over(name):
    """Of zeros and ones something starts at their log-odds, whatever the model puts them out with."""
    small = build_model(name, **{"x_dim": 4, "z_dim": 3, "observation": "bernoulli", **MODELS[name].small})
    start_at_mean(small, SequenceDataset([torch.tensor([[1.0, 0.0, 0.0, 1.0], [1.0, 1.0, 0.0, 1.0]])]))
    wanted = torch.tensor([2.5 / 0.5, 1.0, 0.5 / 2.5, 2.5 / 0.5]).log()
    assert any(p.shape == wanted.shape and torch.allclose(p, wanted) for p in small.parameters())


def test_missing_values_do_not_count():
    frames = [LOUD[i].clone() for i in range(len(LOUD))]
    frames[0][1:3, 2] = torch.nan
    gaps = SequenceDataset(frames, missing=True)
    trained = fit(model(), gaps, HELD_OUT, config()).best_model
    known = torch.cat(frames)
    wanted = torch.stack([(c[~c.isnan()].double() + FLOOR).log().mean() for c in known.unbind(1)])
    torch.testing.assert_close(trained.reading.mean.double(), wanted, rtol=1e-6, atol=1e-6)


def test_an_interrupted_run_goes_on_to_the_same_weights(tmp_path):
    whole = fit(model(SRNN), LOUD, HELD_OUT, config()).last_weights
    stopped = fit(model(SRNN), LOUD, HELD_OUT, config(), folder=tmp_path, callback=lambda m, record: True)
    assert stopped.stopped == "callback"
    gone_on = fit(model(SRNN), LOUD, HELD_OUT, config(), folder=tmp_path).last_weights
    assert whole.keys() == gone_on.keys()
    assert all(torch.equal(whole[name], gone_on[name]) for name in whole)
    other = TrainingConfig.from_dict({**config().to_dict(), "inputs": "power"})
    with pytest.raises(CheckpointError, match="inputs was log_power, now power"):
        fit(model(SRNN), LOUD, HELD_OUT, other, folder=tmp_path)


def test_fine_tuning_keeps_the_standardisation_that_was_learned():
    trained = fit(model(), LOUD, HELD_OUT, config()).best_model
    learned = trained.reading.mean.clone()
    again = TrainingConfig(batch_size=4, max_epochs=1, inputs="log_power")
    assert torch.equal(fit(trained, HELD_OUT, LOUD, again).best_model.reading.mean, learned)


def test_a_configuration_without_it_is_written_as_before():
    assert {"inputs", "start_at_mean"}.isdisjoint(TrainingConfig().to_dict())
    kept = config()
    assert TrainingConfig.from_json(kept.to_json()) == kept


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="inputs must be one of power, log_power, or None; got 'loud'"):
        TrainingConfig(inputs="loud")
    with pytest.raises(TypeError, match="start_at_mean"):
        TrainingConfig(start_at_mean=1)
    with pytest.raises(ValueError, match=r"powers \('gamma'\).*got 'gaussian'"):
        fit(small_vae(), TRAIN, None, TrainingConfig(start_at_mean=True))
    with pytest.raises(TypeError, match="is for a DVAE; got Linear"):
        fit(nn.Linear(3, 3), TRAIN, None, TrainingConfig(inputs="log_power"), objective=lambda model, batch, **_: {})
