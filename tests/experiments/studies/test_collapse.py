"""The study of posterior collapse: its truth by brute force, and all of it in two steps."""

import itertools
import math

import pytest
import torch

from dvae_lib.experiments import trainings
from dvae_lib.experiments.results import ResultFile, complete
from dvae_lib.experiments.studies import collapse
from dvae_lib.experiments.studies.collapse import KEY, REMEDIES, SIZES, Chords, CollapseProtocol, main, tasks

TINY = CollapseProtocol(
    data=Chords(chords=3, notes=4), sequences=(6, 4, 4), num_steps=3, epochs=2, importance_samples=2, generated=5
)


def quietly(line):
    pass


def test_the_likelihood_is_that_of_all_sequences_of_chords():
    chords = Chords(chords=3, notes=4, wrong=0.1)
    x = chords.sample(5, 3, seed=0)
    p, transition = chords.probabilities, chords.chain.log_transition.exp()
    torch.testing.assert_close(transition.sum(1), torch.ones(3).double())
    assert (transition.diagonal() == 0).all()
    total, blind = torch.zeros(5).double(), 0.0
    joints = {}
    for path in itertools.product(range(3), repeat=3):
        law = 1 / 3 * math.prod(float(transition[a, b]) for a, b in itertools.pairwise(path))
        frames = torch.stack([torch.where(x[:, t] == 1, p[k], 1 - p[k]).prod(-1) for t, k in enumerate(path)], 1)
        total += law * frames.prod(1)
        joints[path] = law, frames
    assert chords.log_likelihood(x) == pytest.approx(float(total.log().mean()) / 3)
    for t in range(3):  # p(note | past), from the joint of the past and the chord at t
        weight = torch.zeros(5, 3).double()
        for path, (law, frames) in joints.items():
            weight[:, path[t]] += law * frames[:, :t].prod(1)
        note = (weight / weight.sum(1, keepdim=True)) @ p
        blind += float(torch.where(x[:, t] == 1, note, 1 - note).log().sum(1).mean())
    assert chords.without_latents(x) == pytest.approx(blind / 3)


def test_samples_follow_the_model():
    chords = Chords()
    x = chords.sample(4000, 4, seed=3)
    mean = chords.probabilities.mean(0)  # the chain is stationary: every chord is as probable
    assert (x.mean((0, 1)) - mean).abs().max() < 5 * math.sqrt(0.25 / 16000 * 2)
    assert torch.equal(x, chords.sample(4000, 4, seed=3))
    assert chords.log_likelihood(x) > chords.without_latents(x)


def test_what_every_remedy_is_asked(tmp_path, made_by):
    file = ResultFile(tmp_path / "collapse.json", KEY)
    records = complete(file, tasks([4], tmp_path, protocol=TINY), say=quietly)
    assert records[0]["remedy"] == "truth"
    assert records[0]["without_latents"] < records[0]["log_likelihood"]
    found = [(r["remedy"], r["z_dim"]) for r in records[1:]]
    assert found[: len(REMEDIES)] == [(name, 8) for name in REMEDIES]
    assert set(found) == {*found[: len(REMEDIES)], *((name, n) for name in ("none", "annealing") for n in SIZES)}
    assert len(found) == len(set(found))
    for record in records:
        made_by(record)
        if record["remedy"] != "truth":
            assert 0 <= record["active"] <= record["z_dim"]
            assert record["kl"] >= 0
            assert len(record["curve"]) == (8 if record["remedy"] == "patience" else 2)


def test_an_interrupted_study_goes_on_to_the_same_numbers(tmp_path, interrupted):
    def study(folder):
        return ResultFile(folder / "collapse.json", KEY), tasks([0], folder, ("truth", "remedies"), TINY)

    def plain(records):
        return [{k: v for k, v in r.items() if k != "seconds"} for r in records]

    complete(*study(tmp_path / "whole"), say=quietly)
    interrupted()
    with pytest.raises(trainings.Interrupted):
        complete(*study(tmp_path / "broken"), say=quietly)
    file, rest = study(tmp_path / "broken")
    complete(file, rest, say=quietly)
    assert plain(file.records) == plain(ResultFile(tmp_path / "whole" / "collapse.json", KEY).records)


def test_the_command_runs_what_is_asked_for(monkeypatch, tmp_path):
    asked = []

    def made(seeds, runs, parts):
        asked.append((tuple(seeds), tuple(parts)))
        key = {"remedy": "none", "z_dim": 8, "seed": seeds[0]}
        return [collapse.Task([key], lambda: [key])]

    monkeypatch.setattr(collapse, "tasks", made)
    output = ["--output", str(tmp_path / "collapse.json")]
    assert main(["--seeds", "3", "4", *output]) == 0
    assert main(["--seeds", "5", "--parts", "sizes", *output]) == 0
    assert asked == [((3, 4), collapse.PARTS), ((5,), ("sizes",))]
    assert len(ResultFile(tmp_path / "collapse.json", KEY).records) == 2
