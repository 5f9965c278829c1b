"""Learned priors: scores on cases with known answers, two steps of each training, interrupted, and gone on with."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from dvae_lib.data.sequences import SequenceDataset
from dvae_lib.data.toy import bouncing_ball
from dvae_lib.experiments import trainings
from dvae_lib.experiments.results import ResultFile, complete
from dvae_lib.experiments.studies import learned_priors
from dvae_lib.experiments.studies.learned_priors import (
    BOUNCES,
    FRAGMENTS,
    KEPT,
    KEY,
    BounceProtocol,
    Flights,
    FragmentProtocol,
    Places,
    area_under_curve,
    bounce_scores,
    bounce_task,
    flights,
    fragment_task,
    main,
    neighbours,
    scale,
)
from dvae_lib.models import DVAE, VRAE
from dvae_lib.resources import resource_path

TWO_STEPS = BounceProtocol(sequences=6, held_out=3, num_steps=8, epochs=1, batch_size=3, size=4)
ONE_EPOCH = FragmentProtocol(epochs=1, batch_size=3)


def silent(line):
    pass


def test_the_area_is_the_share_of_pairs_in_the_right_order():
    generator = torch.Generator().manual_seed(0)
    score = torch.randint(5, (60,), generator=generator).float()  # with many ties
    label = torch.rand(60, generator=generator) < 0.3
    pairs = score[label][:, None] - score[~label]
    expected = ((pairs > 0).double() + 0.5 * (pairs == 0).double()).mean()
    assert area_under_curve(score, label) == pytest.approx(float(expected))
    assert area_under_curve(-score, label) == pytest.approx(1 - float(expected))


@pytest.mark.parametrize("bounce", ["random", "elastic"])
def test_flights_are_straight_where_nothing_bounced(bounce):
    data = flights(50, 12, bounce, seed=0)
    film = bouncing_ball(
        50, 12, size=12, radius=2.0, speed=2.0, bounce=bounce, generator=torch.Generator().manual_seed(0)
    )
    torch.testing.assert_close(4 * data.x + 6, film.z[..., :2])
    assert (data.x.abs() <= 1 + 1e-6).all()
    step = data.x[:, 1:] - data.x[:, :-1]
    free = ~data.bounced[:, 1:-1] & ~data.bounced[:, 2:]
    bend = (step[:, 1:] - step[:, :-1]).norm(dim=-1)
    assert bend[free].max() < 1e-5
    assert bend[data.bounced[:, 2:]].min() > 1e-5
    assert not data.bounced[:, 0].any()
    assert 0.2 < data.bounced[:, 1:].float().mean() < 0.4


def test_scores_of_a_prior_that_knows_and_of_one_that_does_not():
    """A prior whose deviation is e at bounces and 1 elsewhere, put in the place of the model's."""
    data = Flights(torch.randn(20, 8, 2), torch.rand(20, 8, generator=torch.Generator().manual_seed(0)) < 0.4)
    torch.manual_seed(0)
    model = TWO_STEPS.build()
    original = type(model)._generate

    def knows(self, *given):
        found = original(self, *given)
        prior = found.prior["z"]
        logvar = 2 * data.bounced[..., None].float().expand_as(prior.mean)
        return found._replace(prior={"z": type(prior)(prior.mean, logvar)})

    class Knowing(type(model)):
        _generate = knows

    blind = bounce_scores(model, data, 3)
    model.__class__ = Knowing
    found = bounce_scores(model, data, 3)
    assert found["auc_sigma"] == 1
    assert (found["sigma_at_bounces"], found["sigma_elsewhere"]) == (pytest.approx(2.7183, abs=1e-3), 1)
    assert 0.3 < blind["auc_sigma"] < 0.7


def chord(*keys):
    roll = torch.zeros(1, 88)
    roll[0, [key - 21 for key in keys]] = 1.0
    return roll


def test_scales_follow_the_circle_of_fifths():
    """A major scale upwards from each tonic, wherever it begins, and its transpositions by fifths."""
    major = torch.cat([chord(60 + step) for step in (0, 2, 4, 5, 7, 9, 11)])
    for place in range(12):
        semitones = (7 * place) % 12
        assert scale(major.roll(semitones, dims=-1)).item() == place
    assert scale(torch.stack([chord(60, 64, 67, 71), chord(62, 66, 69, 61)])).tolist() == [0, 2]


def test_neighbours_are_in_key_where_the_plane_says_the_key():
    """A model whose posterior mean is a function of the scale, and one whose mean is of nothing."""
    generator = torch.Generator().manual_seed(0)
    places = torch.randint(12, (60,), generator=generator)
    major = torch.cat([chord(60 + step) for step in (0, 2, 4, 5, 7, 9, 11)])
    rolls = [major.roll(int(7 * place) % 12, dims=-1) for place in places]
    train, test = SequenceDataset(rolls[:40]), SequenceDataset(rolls[40:])

    class Knowing(VRAE):
        def __init__(self, of):
            super().__init__(88, 2, h_dim=4, g_dim=4)
            self.of = of

        def inference(self, x, draw):
            assert draw == "mean"
            where = self.of(x).float()[:, None].expand(-1, 2)
            return {"v": SimpleNamespace(sample=where)}

    knows = neighbours(Knowing(scale), train, test, count=1)
    common = torch.tensor([bool((places[:40] == place).any()) for place in places[40:]])
    assert knows["same_scale"] == pytest.approx(common.float().mean().item(), abs=1e-4)
    assert knows["same_scale_by_chance"] == pytest.approx(
        (places[40:, None] == places[:40]).float().mean().item(), abs=1e-4
    )
    blind = neighbours(Knowing(lambda x: 0 * scale(x)), train, test, count=40)
    assert blind["same_scale"] == blind["same_scale_by_chance"]


def test_two_steps_make_results_and_the_models_of_the_book(chords, made_by, tmp_path):
    places = Places(tmp_path / "runs", tmp_path / "models")
    file = ResultFile(tmp_path / "learned_prior.json", KEY)
    tasks = [bounce_task(bounce, 0, places, TWO_STEPS) for bounce in ("random", "elastic")]
    same_length = chords._replace(test=chords.validation)
    tasks += [fragment_task(case, 0, same_length, places, ONE_EPOCH) for case in FRAGMENTS]
    records = complete(file, tasks, say=silent)
    for record in records:
        made_by(record)
    assert [record["case"] for record in records] == ["random", "elastic", *FRAGMENTS]
    assert {"auc_sigma", "auc_kl", "kl_at_bounces", "sigma_elsewhere", "bounces", "vlb"} <= records[0].keys()
    assert {"kl", "vlb_true_past", "vlb_own_output", "fragments", "same_scale"} <= records[-1].keys()
    for name in KEPT.values():
        assert DVAE.from_pretrained(places.models / name).metadata["made_by"] == learned_priors.COMMAND


def test_the_cases_differ_in_what_is_fed_back_and_in_the_warm_up():
    configs = {case: FragmentProtocol().config(*options, seed=0) for case, options in FRAGMENTS.items()}
    assert configs["true past"].schedules == {}
    assert set(configs["own output"].schedules) == {"feedback"}
    beta = configs["own output, warm-up"].schedules["beta"]
    assert [beta(epoch) for epoch in (0, 5, 8, 9)] == [0.05, 0.05, 1, 1]


def test_an_interrupted_training_goes_on_to_the_same_numbers(tmp_path, interrupted):
    protocol = replace(TWO_STEPS, epochs=2)
    (whole,) = bounce_task("random", 1, Places(tmp_path / "whole"), protocol).compute()
    interrupted()
    with pytest.raises(trainings.Interrupted, match="interrupted and saved in"):
        bounce_task("random", 1, Places(tmp_path / "broken"), protocol).compute()
    (resumed,) = bounce_task("random", 1, Places(tmp_path / "broken"), protocol).compute()
    assert {k: v for k, v in whole.items() if k != "seconds"} == {k: v for k, v in resumed.items() if k != "seconds"}


def test_the_command_runs_every_case(monkeypatch, chords, tmp_path):
    asked = []

    def task(part):
        def made(case, seed, *rest):
            asked.append((part, case, seed))
            key = {"part": part, "case": case, "seed": seed}
            return learned_priors.Task([key], lambda: [key])

        return made

    monkeypatch.setattr(learned_priors, "fragments", lambda: chords)
    monkeypatch.setattr(learned_priors, "bounce_task", task("bounces"))
    monkeypatch.setattr(learned_priors, "fragment_task", task("fragments"))
    assert main(["--seeds", "3", "--output", str(tmp_path / "learned_prior.json")]) == 0
    assert asked == [
        ("bounces", "random", 3),
        ("bounces", "elastic", 3),
        *(("fragments", case, 3) for case in FRAGMENTS),
    ]
    assert len(ResultFile(tmp_path / "learned_prior.json", KEY).records) == 5


@pytest.mark.parametrize(("case", "name"), KEPT.items())
def test_the_models_that_are_here_are_those_of_the_study(case, name):
    kept = DVAE.from_pretrained(name)
    protocol = BounceProtocol() if case in BOUNCES else FragmentProtocol()
    config = protocol.config(0) if case in BOUNCES else protocol.config(*FRAGMENTS[case], seed=0)
    assert kept.metadata["case"] == case
    assert kept.metadata["training"] == config.to_dict()
    torch.manual_seed(0)
    assert {k: v.shape for k, v in kept.state_dict().items()} == {
        k: v.shape for k, v in protocol.build().state_dict().items()
    }


def test_what_is_kept_is_whole():
    """Three seeds of each world, by the protocol that stands in the code."""
    records = ResultFile(resource_path("results", "learned_prior.json"), KEY).records
    bounces = [record for record in records if record["part"] == "bounces"]
    assert {(r["case"], r["seed"]) for r in bounces} == {(case, seed) for case in BOUNCES for seed in range(3)}
    assert {r["epochs"] for r in bounces} == {BounceProtocol().epochs}
