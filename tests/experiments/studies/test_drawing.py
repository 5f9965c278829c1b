"""Digits drawn in steps: the study at a tiny size, and what is kept of the real one."""

import json
from dataclasses import replace

import pytest
import torch

from dvae_lib.data.toy.images import digits
from dvae_lib.experiments.studies import drawing
from dvae_lib.experiments.studies.drawing import CONTESTANTS, DrawingProtocol, main, train_drawing
from dvae_lib.resources import resource_path

pytest.importorskip("sklearn")

TINY = DrawingProtocol(test_images=1780, validation_images=7, z_dim=2, updates=2, batch_size=3, num_samples=2)


def test_study_runs_and_goes_on_where_it_was(tmp_path, capsys):
    output = tmp_path / "results.json"
    arguments = ["--output", str(output), "--seeds", "0"]
    assert main(["vae", *arguments], TINY) == 0
    first = json.loads(output.read_text(encoding="utf-8"))
    assert [(r["name"], r["seed"]) for r in first] == [("vae", 0)]
    assert main(["vae", "draw-1", "window-4", "vae-long", *arguments], TINY) == 0
    records = json.loads(output.read_text(encoding="utf-8"))
    assert records[0] == first[0]
    assert [len(r["kl"]) for r in records] == [1, 1, 4, 1]
    assert [r["updates"] for r in records] == [2, 2, 2, 20]
    assert [len(r["validation"]) for r in records] == [2, 2, 2, 10]
    for record in records:
        assert record["bound"] == pytest.approx(record["reconstruction"] - sum(record["kl"]), abs=0.01)
        assert record["bound"] < record["iw"] + 0.01 < 0
    with pytest.raises(SystemExit):
        main(["rnn", *arguments], TINY)
    capsys.readouterr()


def test_models_are_of_one_size():
    """So that what they reach can be compared."""
    sizes = {name: sum(p.numel() for p in DrawingProtocol().model(name).parameters()) for name in CONTESTANTS}
    assert max(sizes.values()) < 1.03 * min(sizes.values()), sizes


def test_every_image_has_one_part():
    """Together they are all images, and the same each time."""
    sizes = {part: len(DrawingProtocol().images(part)) for part in ("training", "validation", "test")}
    assert sizes == {"training": 1137, "validation": 300, "test": 360}
    together = torch.cat([DrawingProtocol().images(part) for part in sizes]).flatten(1)
    every = (digits()[0].flatten(1) > 0.5).float()
    for one, other in zip(*(rows.unique(dim=0, return_counts=True) for rows in (together, every)), strict=True):
        assert torch.equal(one, other)
    images = DrawingProtocol().images("test")
    assert images.shape == (360, 1, 64)
    assert torch.equal(images, DrawingProtocol().images("test"))


def test_a_training_is_decided_by_its_seed():
    states = [train_drawing("window-4", seed, TINY).model.state_dict() for seed in (3, 3, 4)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not all(torch.equal(states[0][name], states[2][name]) for name in states[0])


def test_the_weights_that_validate_best_are_kept(monkeypatch):
    """Not the last ones: where the first look is the best, the model is that of one update."""
    looks = iter([-1.0, -2.0, -3.0])
    seen = []

    def look(model, images, seed):
        seen.append((next(looks), {name: value.clone() for name, value in model.state_dict().items()}))
        return seen[-1][0]

    monkeypatch.setattr(drawing, "_bound", look)
    model, bounds = train_drawing("draw-1", 0, replace(TINY, updates=3))
    assert bounds == [-1.0, -2.0, -3.0]
    assert all(torch.equal(value, seen[0][1][name]) for name, value in model.state_dict().items())
    assert not all(torch.equal(value, seen[2][1][name]) for name, value in model.state_dict().items())


def test_what_is_kept_is_whole():
    """Three trainings of each contestant, by the protocol that stands in the code."""
    records = json.loads(resource_path("results", "drawing.json").read_text(encoding="utf-8"))
    assert {(r["name"], r["seed"]) for r in records} == {(name, seed) for name in CONTESTANTS for seed in range(3)}
    assert {(r["name"] == "vae-long", r["updates"]) for r in records} == {(False, 1000), (True, 10_000)}
