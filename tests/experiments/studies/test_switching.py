"""What the regimes of a switching model mean: known labellings, and the study on two steps."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dvae_lib.data.sequences import SequenceDataset
from dvae_lib.data.splits import Splits
from dvae_lib.experiments import trainings
from dvae_lib.experiments.results import ResultFile, complete
from dvae_lib.experiments.studies import switching
from dvae_lib.experiments.studies.switching import (
    CONTESTANTS,
    KEY,
    SwitchingProtocol,
    actions_tasks,
    agreement,
    assigned,
    clusters,
    dots_tasks,
    main,
    stream_of,
)

TINY = SwitchingProtocol(
    films=(6, 3, 3),
    film_frames=6,
    dots_epochs=1,
    dots_size=4,
    new_frames=5,
    piece=5,
    actions_epochs=(1, 1),
    actions_size=4,
    regimes=3,
)


def quietly(line):
    pass


def clips(seed, count=5):
    g = torch.Generator().manual_seed(seed)
    names = [f"HDM_bd_{'squat' if i % 2 else 'jog'}_00{i}_120" for i in range(count)]
    return SequenceDataset([torch.randn(7 + i, 93, generator=g) * 0.01 for i in range(count)], names=names)


@pytest.fixture
def streams(monkeypatch):
    monkeypatch.setattr(switching, "load_hdm05", lambda fps: Splits(clips(0), clips(1), clips(2)))
    return TINY.actions()


def test_clusters_are_named_so_that_most_frames_agree():
    found = np.array([2, 2, 2, 0, 0, 1, 1])
    known = np.array([0, 0, 1, 1, 1, 2, 2])
    assert assigned(found, known).tolist() == [1, 2, 0]
    assert assigned(np.zeros(3, int), np.array([1, 1, 0])).tolist() == [1]  # one regime has the name of most frames
    assert assigned(np.array([0, 1, 2, 2]), np.array([0, 1, 1, 1])).tolist()[::2] == [0, 1]


def test_agreement_is_that_of_an_independent_library():
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    for _ in range(5):
        found, known = rng.integers(0, 4, 50), rng.integers(0, 3, 50)
        known = np.where(rng.random(50) < 0.4, found % 3, known)
        assert agreement(found, known) == pytest.approx(metrics.normalized_mutual_info_score(found, known), abs=1e-12)
    assert agreement(np.zeros(4, int), np.array([0, 1, 0, 1])) == 0
    assert agreement(np.zeros(4, int), np.zeros(4, int)) == 1


def test_clusters_are_found_where_they_are():
    g = torch.Generator().manual_seed(0)
    label = torch.randint(3, (4, 20), generator=g)
    x = 5 * torch.nn.functional.one_hot(label, 3) + 0.1 * torch.randn(4, 20, 3, generator=g)
    training, test = clusters(x[:2], x[2:], 3, seed=1)
    assert training.shape == test.shape == (2, 20)
    assert agreement(training, label[:2].numpy()) == pytest.approx(1)
    assert (assigned(training, label[:2].numpy())[test] == label[2:].numpy()).all()
    again = clusters(x[:2], x[2:], 3, seed=1)
    assert (again[0] == training).all()


def test_a_stream_has_every_clip_once_with_its_label():
    found = stream_of(clips(0), ["jog", "squat"], 5, torch.Generator().manual_seed(0))
    assert found.x.shape == (9, 5, 93)  # 45 frames in all
    frames = {
        tuple(row.tolist()): label for row, label in zip(found.x.flatten(0, 1), found.labels.flatten(), strict=True)
    }
    for name, clip in zip(clips(0).names, clips(0), strict=True):
        for row in clip:
            assert frames[tuple(row.tolist())] == int("squat" in name)


def test_what_the_dots_are_asked(tmp_path, made_by):
    file = ResultFile(tmp_path / "switching.json", KEY)
    records = complete(file, dots_tasks([4], tmp_path, TINY), say=quietly)
    assert [r["name"] for r in records] == list(CONTESTANTS)
    for record in records:
        made_by(record)
        assert 0 <= record["clusters of z"] <= 1
        assert record["data"]["test"] == {**record["data"]["test"], "sequences": 3, "frames": 18}
    by_name = {r["name"]: r for r in records}
    assert by_name["one regime"]["switches"] == 0
    assert "generated" not in by_name["one regime"]
    assert "accuracy" not in by_name["dkf"]
    for name in ("switching", "recurrent"):
        assert 0 <= by_name[name]["generated"]["distance"] <= 1
        assert by_name[name]["accuracy"] >= 0


def test_what_the_actions_are_asked(streams, tmp_path, made_by):
    file = ResultFile(tmp_path / "switching.json", KEY)
    records = complete(file, actions_tasks([0, 1], tmp_path, TINY, streams), say=quietly)
    assert [(r["name"], r["seed"]) for r in records] == [(n, s) for n in ("poses", "switching") for s in (0, 1)]
    for record in records:
        made_by(record)
        assert 0 <= record["agreement"] <= 1
    example = records[2]["example"]
    assert len(example["actions"]) == len(example["regimes"]) == 20
    assert set(example["actions"]) <= {"a", "b"}
    assert records[2]["used"] <= 3


def test_an_interrupted_study_goes_on_to_the_same_numbers(streams, tmp_path, interrupted):
    protocol = replace(TINY, actions_epochs=(2, 1))

    def study(folder):
        return ResultFile(folder / "switching.json", KEY), actions_tasks([0], folder, protocol, streams)

    whole = complete(*study(tmp_path / "whole"), say=quietly)
    interrupted()
    with pytest.raises(trainings.Interrupted):
        complete(*study(tmp_path / "broken"), say=quietly)
    file, tasks = study(tmp_path / "broken")
    assert len(file.records) == 1
    (last,) = complete(file, tasks, say=quietly)
    assert {k: v for k, v in last.items() if k != "seconds"} == {k: v for k, v in whole[1].items() if k != "seconds"}


def test_the_command_runs_what_is_asked_for(monkeypatch, tmp_path):
    asked = []

    def tasks(part):
        def of(seeds, runs):
            asked.append((part, tuple(seeds)))
            key = {"part": part, "name": "switching", "seed": seeds[0]}
            return [switching.Task([key], lambda: [key])]

        return of

    monkeypatch.setattr(switching, "dots_tasks", tasks("dots"))
    monkeypatch.setattr(switching, "actions_tasks", tasks("actions"))
    output = ["--output", str(tmp_path / "switching.json")]
    assert main(["--seeds", "3", "4", *output]) == 0
    assert main(["--seeds", "5", "--parts", "dots", *output]) == 0
    assert asked == [("dots", (3, 4)), ("actions", (3, 4)), ("dots", (5,))]
    assert len(ResultFile(tmp_path / "switching.json", KEY).records) == 3
