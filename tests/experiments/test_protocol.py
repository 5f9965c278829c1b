"""What is run, and in which order: the review's protocol is the review's, and the small ones keep its shape."""

from dataclasses import replace

import pytest
import torch

from dvae_lib.experiments import PROTOCOLS, REVIEW_MODELS, SCHEDULED, Run, plan, protocol
from dvae_lib.graphs.links import links
from dvae_lib.models import MODELS, build_model
from dvae_lib.training.schedules import Schedule

BUDGETS = [(experiment, budget) for experiment, budgets in PROTOCOLS.items() for budget in budgets]
of_every_budget = pytest.mark.parametrize(("experiment", "budget"), BUDGETS)


# --- the review's protocol ---


@pytest.mark.parametrize(("experiment", "rate", "patience"), [("speech", 0.002, 50), ("motion", 0.0001, 30)])
def test_full_is_section_13_2_3(experiment, rate, patience):
    full = protocol(experiment, "full")
    assert (full.experiment, full.budget) == (experiment, "full")
    for config in (full.training, full.scheduled):
        assert config.rate == Schedule.constant(rate)
        assert (config.batch_size, config.patience, config.freeze) == (128, patience, {})
    assert full.sequence_length == 50
    assert full.options == {}
    assert (full.limit, full.test_limit) == (None, None)
    assert full.importance_samples == 20
    assert full.training.max_epochs == 500


def test_full_cuts_speech_without_overlap_and_motion_at_every_second_frame():
    assert protocol("speech", "full").hop is None
    assert protocol("motion", "full").hop == 2


def test_full_warms_up_the_kl_terms_of_motion_over_50_epochs():
    schedules = protocol("motion", "full").training.schedule
    assert list(schedules) == ["beta"]
    assert [schedules["beta"](epoch) for epoch in range(52)] == pytest.approx([*(e / 50 for e in range(50)), 1, 1])
    assert protocol("speech", "full").training.schedule == {}


@pytest.mark.parametrize("experiment", ["speech", "motion"])
def test_full_schedules_sampling_as_section_13_3_3(experiment):
    config = protocol(experiment, "full").scheduled
    wanted = [share for share in (0.2, 0.4, 0.6, 0.8) for _ in range(50)] + [1.0] * 300
    assert list(config.schedule) == ["feedback"]  # the KL terms have their weight from the training before
    assert config.max_epochs == len(wanted)
    assert [config.schedule["feedback"](epoch) for epoch in range(len(wanted))] == wanted


def test_gradients_are_clipped_on_speech_alone():
    for budget in ("full", "book", "ci"):
        speech, motion = protocol("speech", budget), protocol("motion", budget)
        assert {speech.training.gradient_clip, speech.scheduled.gradient_clip} == {100.0}
        assert {motion.training.gradient_clip, motion.scheduled.gradient_clip} == {None}


def test_the_models_are_those_of_the_tables_in_their_order():
    assert REVIEW_MODELS == ("vae", "dkf", "storn", "vrnn", "srnn", "rvae-causal", "rvae-noncausal", "dsae")
    predictive = [name for name in REVIEW_MODELS if links(MODELS[name].cls.spec).predictive]
    assert list(SCHEDULED) == predictive == ["storn", "vrnn", "srnn"]


@pytest.mark.parametrize("name", REVIEW_MODELS)
def test_models_are_built_with_the_sizes_of_section_13_1(name):
    for experiment, x_dim, z_dim, observation in (
        ("speech", 513, 16, "gamma"),
        ("motion", 96, 10, "centimetre_gaussian"),
    ):
        model = protocol(experiment, "full").build(Run(name, False, 0), x_dim)
        assert (model.x_dim, model.z_dim, model.observation) == (x_dim, z_dim, observation)
        same = build_model(name, experiment, x_dim=x_dim)
        assert type(model) is type(same) is MODELS[name].cls
        assert model.options == same.options


def test_options_of_the_protocol_replace_the_presets():
    model = replace(protocol("motion", "ci"), options={"z_dim": 3}).build(Run("srnn", True, 0), 6)
    assert (model.z_dim, model.x_dim, model.options["h_dim"]) == (3, 6, 64)


def test_initial_weights_are_drawn_from_the_global_generator():
    weights = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        weights.append(next(protocol("motion", "ci").build(Run("vae", False, seed), 6).parameters()))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


# --- the smaller ones ---


@of_every_budget
def test_a_run_has_its_training_and_its_seed(experiment, budget):
    chosen = protocol(experiment, budget)
    assert (chosen.experiment, chosen.budget) == (experiment, budget)
    assert chosen.config(Run("srnn", False, 7)) == replace(chosen.training, seed=7)
    assert chosen.config(Run("srnn", True, 8)) == replace(chosen.scheduled, seed=8)
    assert chosen.training != chosen.scheduled


@of_every_budget
def test_every_training_reaches_what_it_is_judged_by(experiment, budget):
    """The KL terms at full weight, and generation mode, for some epochs at least."""
    chosen = protocol(experiment, budget)
    training, scheduled = chosen.training, chosen.scheduled
    assert training.settled < training.max_epochs
    assert scheduled.settled < scheduled.max_epochs
    assert training.schedule.get("beta", Schedule.constant(1)).final == 1
    assert ("beta" in training.schedule) == (experiment == "motion")
    assert scheduled.schedule["feedback"](scheduled.max_epochs - 1) == 1
    assert [scheduled.schedule["feedback"](e * scheduled.settled // 4) for e in range(5)] == [0.2, 0.4, 0.6, 0.8, 1]
    assert "feedback" not in training.schedule
    assert "beta" not in scheduled.schedule


@pytest.mark.parametrize("experiment", ["speech", "motion"])
def test_the_books_rate_falls_to_a_tenth_over_the_second_half(experiment):
    book = protocol(experiment, "book")
    for config in (book.training, book.scheduled):
        rate, epochs = config.rate(0), config.max_epochs
        assert {config.rate(epoch) for epoch in range(epochs // 2 + 1)} == {rate}
        assert config.rate(epochs * 3 // 4) == pytest.approx(rate * 0.55, rel=0.05)
        assert config.rate(epochs - 1) > config.rate(epochs) == pytest.approx(rate / 10)
    assert book.scheduled.rate(0) < book.training.rate(0)


def test_the_book_keeps_the_rest_of_the_reviews_protocol():
    for experiment in ("speech", "motion"):
        full, book = protocol(experiment, "full"), protocol(experiment, "book")
        for of_full, of_book in ((full.training, book.training), (full.scheduled, book.scheduled)):
            assert (of_full.batch_size, of_full.patience) == (of_book.batch_size, of_book.patience)
        same = ("options", "sequence_length", "hop", "importance_samples", "limit")
        assert [getattr(full, name) for name in same] == [getattr(book, name) for name in same]
    assert (protocol("speech", "book").test_limit, protocol("motion", "book").test_limit) == (60, None)


def test_ci_takes_seconds():
    for experiment in ("speech", "motion"):
        ci = protocol(experiment, "ci")
        assert ci.training.max_epochs <= 2
        assert ci.scheduled.max_epochs <= 5
        assert ci.importance_samples <= 2
        assert ci.sequence_length == 50
    assert protocol("speech", "ci").limit <= 4
    assert protocol("motion", "ci").test_limit <= 4
    assert protocol("motion", "ci").hop >= 10


@pytest.mark.usefixtures("as_a_user")
def test_unknown_names_are_answered_with_those_there_are():
    with pytest.raises(ValueError, match="no experiment 'music'; there are speech, motion"):
        protocol("music", "ci")
    with pytest.raises(ValueError, match="no budget 'large'; there are ci, book, full"):
        protocol("speech", "large")
    assert protocol("speech") is PROTOCOLS["speech"]["book"]


# --- runs and their order ---


def test_a_run_by_its_name():
    plain, scheduled = Run("srnn", False, 3), Run("srnn", True, 3)
    assert (plain.name, scheduled.name) == ("srnn", "srnn-scheduled")
    assert Run.of("srnn", 3) == plain
    assert Run.of("srnn-scheduled", 3) == scheduled
    assert Run.of("rvae-noncausal", 0) == Run("rvae-noncausal", False, 0)
    assert scheduled.starts_from == plain
    assert plain.starts_from is None


def test_the_plan_goes_seed_by_seed_and_what_others_need_comes_first():
    runs = plan(seeds=(4, 1))
    whole = [*REVIEW_MODELS, *(f"{name}-scheduled" for name in SCHEDULED)]
    assert [(run.name, run.seed) for run in runs] == [(name, seed) for seed in (4, 1) for name in whole]
    for place, run in enumerate(runs):
        assert run.starts_from is None or run.starts_from in runs[:place]


def test_the_plan_adds_what_is_needed_and_nothing_twice():
    names = ["srnn-scheduled", "vae", "srnn-scheduled", "storn", "storn-scheduled"]
    assert [run.name for run in plan(names)] == ["srnn", "vae", "storn", "srnn-scheduled", "storn-scheduled"]
    assert [(run.name, run.seed) for run in plan(["vae"], (2, 0, 2))] == [("vae", 2), ("vae", 0)]
    assert plan(["dkf"], ()) == []


@pytest.mark.parametrize("name", ["kvae", "vae-scheduled", "SRNN", "srnn-scheduled-scheduled"])
def test_the_plan_refuses_other_models(name):
    with pytest.raises(ValueError, match=f"no model '{name}'; it has vae, dkf, .*dsae, storn-scheduled, vrnn-sch"):
        plan(["vae", name])


def test_inputs_change_what_is_read_and_nothing_else():
    book = protocol("speech")
    log = book.reading("log_power")
    assert (log.training.inputs, log.training.start_at_mean) == ("log_power", True)
    assert (log.scheduled.inputs, log.scheduled.start_at_mean) == ("log_power", False)  # goes on with trained weights
    assert replace(log, training=book.training, scheduled=book.scheduled) == book
    power = book.reading("power").training
    assert (power.inputs, power.start_at_mean) == ("power", False)
