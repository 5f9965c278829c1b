"""The training loop in one process: what is computed, and what is kept."""

import math

import pytest
import torch
from small_runs import CONFIG, TRAIN, VALIDATION, changed, same_weights, small_vae, untimed
from torch import Generator

from dvae_lib.data import SequenceDataset
from dvae_lib.models import MODELS, VAE, build_model
from dvae_lib.objectives import importance_weighted_bound, log_weights
from dvae_lib.randomness import derive_seed, global_random_state
from dvae_lib.training import (
    Schedule,
    TrainingConfig,
    fit,
    vlb_terms,
)


def test_the_loop_is_adam_on_the_vlb_per_frame():
    """Against the few lines that one would write by hand."""
    model, by_hand = small_vae(), small_vae()
    config = changed(schedules={"beta": Schedule.linear(0, 1, epochs=2)}, gradient_clip=0.5)
    result = fit(model, TRAIN, None, config)

    optimizer = torch.optim.Adam(by_hand.parameters(), lr=0.01)
    generator, step = Generator(), 0
    for epoch in range(3):
        order = torch.randperm(13, generator=Generator().manual_seed(derive_seed(0, "order", epoch)))
        value = vlb = 0.0
        for indices in order.split(4):
            generator.manual_seed(derive_seed(0, "noise", step))
            batch = TRAIN.batch(indices)
            bound = by_hand.vlb(batch.x, lengths=batch.lengths, beta=min(1.0, epoch / 2), generator=generator)
            loss = -bound.value.sum() / len(indices) / (TRAIN.num_frames / 13)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(by_hand.parameters(), 0.5)
            optimizer.step()
            step += 1
            value += bound.value.sum().item()
            vlb += (bound.reconstruction - bound.total_kl).sum().item()
        record = result.history[epoch]
        assert record["train_objective_per_frame"] == pytest.approx(value / TRAIN.num_frames, rel=1e-4)
        assert record["train_vlb_per_frame"] == pytest.approx(vlb / TRAIN.num_frames, rel=1e-4)
        assert record["beta"] == min(1.0, epoch / 2)
    for trained, wanted in zip(model.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(trained, wanted, rtol=1e-4, atol=1e-5)
    assert result.best_epoch == 3
    assert record["gradient_norm"] > 0.5  # the clip had something to do


def test_every_frame_weighs_the_same():
    """The losses of an epoch's batches estimate the VLB per frame, where lengths differ as well."""
    losses = []

    def record(model, batch, *, generator):
        terms = vlb_terms(model, batch, generator=generator)
        if model.training:
            terms["objective"].register_hook(lambda g: losses.append((g.clone(), len(g))))
        return terms

    fit(small_vae(), TRAIN, None, changed(max_epochs=1), objective=record)
    for gradient, size in losses:
        torch.testing.assert_close(gradient, torch.full((size,), -13 / (size * TRAIN.num_frames)))


def test_the_same_call_gives_the_same_weights_whatever_was_drawn_before():
    first = fit(small_vae(), TRAIN, VALIDATION, CONFIG)
    model = small_vae()
    torch.randn(17)
    second = fit(model, TRAIN, VALIDATION, CONFIG)
    assert same_weights(first.last_weights, second.last_weights)
    assert untimed(first.history) == untimed(second.history)
    other = fit(small_vae(), TRAIN, VALIDATION, changed(seed=1))
    assert not same_weights(first.last_weights, other.last_weights)


@pytest.mark.usefixtures("as_a_user")  # the shape checks of the test run draw from Python's generator
def test_the_callers_random_numbers_are_left_alone():
    model = small_vae()
    before = global_random_state()
    fit(model, TRAIN, VALIDATION, CONFIG, objective=noisy)
    assert global_random_state() == before


def noisy(model, batch, *, generator, **scheduled):
    """An objective that draws from the global generator as dropout does."""
    terms = vlb_terms(model, batch, generator=generator, **scheduled)
    return {**terms, "objective": terms["objective"] * (1 + 0.1 * torch.rand(()))}


def test_validation_has_the_same_noise_each_time_and_does_not_touch_that_of_training():
    constant = fit(small_vae(), TRAIN, VALIDATION, changed(learning_rate=1e-12), objective=noisy)
    values = [record["validation_vlb_per_frame"] for record in constant.history]
    assert max(values) - min(values) < 1e-5
    with_validation = fit(small_vae(), TRAIN, VALIDATION, CONFIG, objective=noisy)
    without = fit(small_vae(), TRAIN, None, CONFIG, objective=noisy)
    assert same_weights(with_validation.last_weights, without.last_weights)


def test_validation_uses_the_final_values_of_schedules():
    config = changed(learning_rate=1e-12, schedules={"beta": Schedule.linear(0, 1, epochs=2)})
    for record in fit(small_vae(), TRAIN, VALIDATION, config).history:
        assert record["validation_objective_per_frame"] == record["validation_vlb_per_frame"]
        kl = record["train_kl_per_frame"]
        weighted = record["train_reconstruction_per_frame"] - record["beta"] * kl
        assert record["train_objective_per_frame"] == pytest.approx(weighted, rel=1e-5)


@pytest.mark.usefixtures("as_a_user")  # four times as fast without shape checks
def test_training_reaches_the_likelihood_of_ppca():
    """A linear VAE's optimum is known: on data with one strong direction the bound gets close to log p(x)."""
    g = Generator().manual_seed(0)
    w = torch.tensor([[1.5, -1.0, 0.5]])
    data = SequenceDataset(torch.randn(400, 5, 1, generator=g) @ w + 0.5 * torch.randn(400, 5, 3, generator=g))
    torch.manual_seed(0)
    model = VAE(3, 1, encoder=(), decoder=())
    config = TrainingConfig(max_epochs=25, batch_size=50, learning_rate=Schedule.linear(0.05, 0.002, epochs=22))
    result = fit(model, data, data, config)
    covariance = w.T @ w + 0.25 * torch.eye(3)
    entropy = 0.5 * torch.logdet(2 * math.pi * math.e * covariance).item()
    assert result.best_value == pytest.approx(-entropy, abs=0.05)


@pytest.mark.parametrize("name", MODELS)
def test_every_model_trains(name):
    torch.manual_seed(0)
    result = fit(build_model(name, x_dim=3, z_dim=2), TRAIN, VALIDATION, changed(max_epochs=4))
    assert result.best_value > result.history[0]["validation_vlb_per_frame"]


def test_the_best_weights_are_kept_as_a_copy():
    seen = {}

    def remember(model, record):
        seen[record["epoch"]] = {k: v.clone() for k, v in model.state_dict().items()}

    config = changed(learning_rate=Schedule.steps([0.02, 3.0], every=3), max_epochs=6)
    result = fit(small_vae(), TRAIN, VALIDATION, config, callback=remember)
    values = [record["validation_vlb_per_frame"] for record in result.history]
    best = max(range(6), key=values.__getitem__) + 1
    assert best < 6  # the large steps at the end did harm
    assert result.best_epoch == best
    assert result.best_value == values[best - 1]
    assert same_weights(dict(result.best_model.state_dict()), seen[best])
    assert same_weights(result.last_weights, seen[6])
    assert not result.best_model.training


def test_patience():
    config = changed(learning_rate=Schedule.steps([0.02, 3.0], every=3), max_epochs=50, patience=2)
    result = fit(small_vae(), TRAIN, VALIDATION, config)
    assert result.stopped == "patience"
    assert len(result.history) == result.best_epoch + 2


def test_patience_waits_for_the_end_of_warm_up_and_of_frozen_stages():
    worse = Schedule.steps([0.02, 3.0], every=1)
    for extra in ({"schedules": {"beta": Schedule.linear(0, 1, epochs=6)}}, {"freeze": {"e_z": 6}}):
        result = fit(small_vae(), TRAIN, VALIDATION, changed(learning_rate=worse, max_epochs=40, patience=1, **extra))
        assert len(result.history) >= 7


def test_without_validation_the_last_epoch_is_the_best():
    result = fit(small_vae(), TRAIN, None, changed(learning_rate=3.0, patience=1, max_epochs=6))
    assert (result.best_epoch, result.stopped) == (6, "max_epochs")
    assert same_weights(dict(result.best_model.state_dict()), result.last_weights)


def test_frozen_parameters_do_not_move():
    seen = []
    fit(
        small_vae(),
        TRAIN,
        None,
        changed(freeze={"e_z": 1, "z_head": 2}, max_epochs=3),
        callback=lambda model, record: seen.append({k: v.clone() for k, v in model.state_dict().items()}),
    )
    initial = dict(small_vae().state_dict())
    for name, value in initial.items():
        still = [torch.equal(value, weights[name]) for weights in seen]
        expected = {"e_z": [True, False, False], "z_head": [True, True, False]}.get(name.split(".")[0], [False] * 3)
        assert still == expected, name


def test_callback_can_end_the_training():
    result = fit(small_vae(), TRAIN, VALIDATION, CONFIG, callback=lambda model, record: record["epoch"] == 2)
    assert (result.stopped, len(result.history)) == ("callback", 2)


def test_another_objective(tmp_path):
    """The importance-weighted bound with five samples, for instance."""

    def iwae(model, batch, *, generator):
        x = batch.x.repeat(5, 1, 1)
        lengths = None if batch.lengths is None else batch.lengths.repeat(5)
        output = model(x, lengths=lengths, generator=generator)
        weights = log_weights(output, x, lengths=lengths).unflatten(0, (5, -1))
        return {"iwae": importance_weighted_bound(weights).sum(-1)}

    result = fit(small_vae(), TRAIN, VALIDATION, CONFIG, objective=iwae)
    assert result.best_value == max(r["validation_iwae_per_frame"] for r in result.history)
    assert result.history[-1]["train_iwae_per_frame"] > result.history[0]["train_iwae_per_frame"]


def test_only_the_first_term_is_maximised():
    def with_distraction(model, batch, *, generator):
        return {
            **vlb_terms(model, batch, generator=generator),
            "size": 1e6 * batch.x.new_ones(len(batch.x)) * next(model.parameters()).norm(),
        }

    plain = fit(small_vae(), TRAIN, None, CONFIG)
    assert same_weights(
        plain.last_weights, fit(small_vae(), TRAIN, None, CONFIG, objective=with_distraction).last_weights
    )
