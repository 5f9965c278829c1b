"""Planning in imagination: tiny episodes, all policies, and a study that goes on where it was."""

import json
import math
from dataclasses import replace

import pytest
import torch

from dvae_lib.data.toy.pendulum_task import PendulumTask
from dvae_lib.experiments.results import ResultFile, complete
from dvae_lib.experiments.studies import planning
from dvae_lib.experiments.studies.planning import (
    KEY,
    MODELS,
    NAMES,
    PlanningProtocol,
    main,
    open_loop_errors,
    planning_task,
    random_policy,
    run_episodes,
    simulator_policy,
)
from dvae_lib.experiments.trainings import Interrupted
from dvae_lib.models import DVAE
from dvae_lib.resources import resource_path

TINY = PlanningProtocol(
    task=PendulumTask(num_steps=9, dt=0.1, observation_std=0.05),
    first=3, rounds=1, new=2, steps=2, sequence_length=4, batch_size=4, horizon=2,
    search={"candidates": 4, "elites": 2, "iterations": 1}, tested=2, seen=(3, 4), predicted=5, samples=2,
)  # fmt: skip

SIZES = {"state": 4, "angle": 3, "film": 65}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def timeless(record):
    return {key: value for key, value in record.items() if key != "seconds"}


@pytest.mark.parametrize(("view", "size"), SIZES.items())
@pytest.mark.parametrize("name", MODELS)
def test_a_model_learns_plans_and_is_tested(name, view, size, made_by, tmp_path):
    protocol = replace(TINY, view=view)
    file = ResultFile(tmp_path / "planning.json", KEY)
    task = planning_task(name, 0, tmp_path / "runs", tmp_path / "models", protocol)
    (record,) = complete(file, [task], say=lambda line: None)
    made_by(record)
    assert task.keys == [{"name": name, "view": view, "seed": 0}]
    assert len(record["returns"]) == 2
    assert len(record["open_loop"]) == 5
    assert [len(part["returns"]) for part in record["rounds"]] == [3, 2]
    assert set(record["rounds"][0]) == {"returns"}  # at random, nothing is promised
    assert set(record["rounds"][1]) == {"returns", "promised", "kept"}
    assert record["episodes"] == 5
    model = DVAE.from_pretrained(next((tmp_path / "runs").iterdir()))
    assert (model.x_dim, model.u_dim) == (size, 1)
    assert (tmp_path / "models" / "rssm-pendulum").exists() == (name == "rssm" and view == "state")
    (again,) = planning_task(name, 0, tmp_path / "again", None, protocol).compute()
    assert timeless(again) == {key: value for key, value in timeless(record).items() if key in again}


@pytest.mark.parametrize("name", MODELS)
def test_models_have_about_equally_many_weights(name):
    assert 30_000 < sum(p.numel() for p in MODELS[name](4).parameters()) < 40_000


def test_an_episode_is_the_tasks():
    """Rewards, inputs and states are those of the task, stepped by hand; an episode begins at rest."""
    start = TINY.task.reset(2, generator=seeded())
    episodes = run_episodes(TINY, random_policy(TINY, seeded(1)), start, seeded(2))
    assert episodes.x.shape == (2, 9, 4)
    assert episodes.promised.shape == (2, 0)
    assert (episodes.u[:, 0] == 0).all()
    state = start
    for t in range(1, 9):
        state, reward = TINY.task.step(state, 4.0 * episodes.u[:, t])
        torch.testing.assert_close(episodes.z[:, t], state)
        torch.testing.assert_close(episodes.x[:, t, 3], reward)
    torch.testing.assert_close(episodes.x[..., 0], episodes.z[..., 0].sin(), rtol=0, atol=0.3)
    torch.testing.assert_close(episodes.x[..., 2], 0.2 * episodes.z[..., 1], rtol=0, atol=0.06)
    blind = run_episodes(replace(TINY, view="angle"), random_policy(TINY, seeded(1)), start, seeded(2))
    torch.testing.assert_close(blind.x, episodes.x[..., [0, 1, 3]])


def test_a_film_shows_where_the_bob_is():
    """The brightest place of a picture is where the angle says; the reward is the last entry, as in every view."""
    start = TINY.task.reset(20, generator=seeded()) * 20
    film = run_episodes(replace(TINY, view="film"), random_policy(TINY, seeded(1)), start, seeded(2))
    picture = film.x[..., :-1].unflatten(-1, (8, 8)).clamp_min(0.2) - 0.2
    pixel = torch.arange(8) + 0.5
    across = (picture.sum(-2) * pixel).sum(-1) / picture.sum((-2, -1))
    down = (picture.sum(-1) * pixel).sum(-1) / picture.sum((-2, -1))
    torch.testing.assert_close(across, 4 + 2.5 * film.z[..., 0].sin(), rtol=0, atol=0.3)
    torch.testing.assert_close(down, 4 + 2.5 * film.z[..., 0].cos(), rtol=0, atol=0.3)
    torch.testing.assert_close(film.x[..., -1], TINY.task.reward(film.z, 4 * film.u))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"view": "picture"}, "view must be one of state, angle, film; got 'picture'"),
        ({"sequence_length": 10}, "ends after 9 frames, sequence_length asks for 10: make the task's num_steps larger"),
        ({"predicted": 6}, r"ends after 9 frames, seen \+ predicted asks for 10"),
        ({"task": PendulumTask(num_steps=3)}, "ends after 3 frames, sequence_length asks for 4"),
    ],
)
def test_a_task_that_ends_early_is_refused(changes, message):
    """Before anything is trained: rounds of episodes would be collected for nothing."""
    with pytest.raises(ValueError, match=message):
        replace(TINY, **changes)


def test_an_episode_may_end_within_the_horizon():
    """Plans look beyond the last frame; what is carried out ends with the task."""
    protocol = replace(TINY, horizon=20)
    start = protocol.task.reset(2, generator=seeded())
    episodes = run_episodes(protocol, simulator_policy(protocol, seeded(1)), start, seeded(2))
    assert episodes.x.shape == (2, 9, 4)
    assert episodes.promised.shape == (2, 8)


def test_a_plan_keeps_what_carrying_it_out_gives():
    """The simulator's promises are true but for the spread of the elites; a plan is carried out to the letter."""
    protocol = replace(TINY, horizon=3, search={"candidates": 60, "elites": 5, "iterations": 8})
    start = protocol.task.reset(4, generator=seeded())
    episodes = run_episodes(protocol, simulator_policy(protocol, seeded(1)), start, seeded(2))
    torch.testing.assert_close(episodes.promised, episodes.kept, rtol=0, atol=0.02)
    one = torch.full((1, 1, 3, 1), 0.5)
    state, total = start[:1], 0.0
    for _ in range(3):
        state, reward = protocol.task.step(state, torch.full((1, 1), 2.0))
        total += reward.item()
    assert planning._carried_out(protocol, start[:1], one).item() == pytest.approx(total, abs=1e-5)


def test_the_pendulum_itself_swings_up():
    """The upper reference of the study, with its own protocol: it stands at the end, and random torques do not."""
    protocol = PlanningProtocol()
    start = protocol.task.reset(3, generator=seeded())
    planned = run_episodes(protocol, simulator_policy(protocol, seeded(1)), start, seeded(2))
    random = run_episodes(protocol, random_policy(protocol, seeded(1)), start, seeded(2))
    assert protocol.task.is_up(planned.z[:, -1]).all()
    assert (planned.returns > 15).all()
    assert (random.returns < -20).all()


def test_predictions_of_a_model_that_knows_nothing_are_as_wrong_as_its_mean():
    model = MODELS["rssm"](4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    start = TINY.task.reset(2, generator=seeded())
    episodes = run_episodes(TINY, random_policy(TINY, seeded(1)), start, seeded(2))
    errors = open_loop_errors(TINY, model, episodes, seeded())
    for k in range(5):
        seen = torch.stack([episodes.x[:, 3 + k], episodes.x[:, 4 + k]])
        assert errors[k].item() == pytest.approx(math.sqrt(seen.square().mean()), rel=1e-5)


def test_an_interrupted_study_goes_on(tmp_path, monkeypatch):
    file = ResultFile(tmp_path / "planning.json", KEY)
    tasks = [planning_task(name, 0, tmp_path, None, TINY) for name in ("random", "ssm")]
    original = planning.fit

    def interrupted(*arguments, **options):
        return replace(original(*arguments, **options), stopped="interrupted")

    monkeypatch.setattr(planning, "fit", interrupted)
    with pytest.raises(Interrupted, match="begins with this model anew"):
        complete(file, tasks, say=lambda line: None)
    monkeypatch.setattr(planning, "fit", original)
    again = ResultFile(file.path, KEY)
    assert [record["name"] for record in again.records] == ["random"]
    (record,) = complete(again, tasks, say=lambda line: None)
    assert record["name"] == "ssm"


def test_the_command(tmp_path, monkeypatch, capsys):
    asked = []

    def task(name, seed, runs, models, protocol):
        asked.append((name, protocol.view, seed))
        key = {"name": name, "view": protocol.view, "seed": seed}
        return planning.Task([key], lambda: [key])

    monkeypatch.setattr(planning, "planning_task", task)
    place = ["--output", str(tmp_path / "planning.json")]
    assert main(["--seeds", "4", "--views", "state", "angle", *place]) == 0
    assert asked == [(n, "state", 4) for n in NAMES] + [(n, "angle", 4) for n in MODELS]
    assert len(ResultFile(tmp_path / "planning.json", KEY).records) == 8
    with pytest.raises(SystemExit, match="2"):
        main(["rsm", *place])
    assert "there is no rsm; there are random, simulator, rssm" in capsys.readouterr().err


def test_what_is_kept_is_whole():
    """Three seeds of all that the page shows, by the protocol that stands in the code, and the model of the first."""
    records = ResultFile(resource_path("results", "planning.json"), KEY).records
    shown = {(r["name"], r["view"], r["seed"]) for r in records}
    wanted = [(name, "state") for name in NAMES] + [(name, view) for name in MODELS for view in ("angle", "film")]
    assert shown == {(*one, seed) for one in wanted for seed in range(3)}
    protocol = PlanningProtocol()
    for record in records:
        assert len(record["returns"]) == protocol.tested
        if record["name"] in MODELS:
            assert record["episodes"] == protocol.first + protocol.rounds * protocol.new
            assert len(record["open_loop"]) == protocol.predicted
    model = DVAE.from_pretrained("rssm-pendulum")
    assert json.loads(json.dumps(model.options)) == json.loads(json.dumps(MODELS["rssm"](4).options))
    assert model.metadata["seed"] == 0


def test_a_number_that_is_kept_comes_out_again():
    (record,) = planning_task("random", 0, "nowhere").compute()
    (kept,) = (
        r
        for r in ResultFile(resource_path("results", "planning.json"), KEY).records
        if (r["name"], r["view"], r["seed"]) == ("random", "state", 0)
    )
    assert record["returns"] == pytest.approx(kept["returns"], abs=0.05)
