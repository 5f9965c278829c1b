"""Where the bound is lost: the generative model stays, the stairs are all there, and a study goes on where it was."""

import json

import pytest
import torch

from dvae_lib.data.splits import Splits
from dvae_lib.experiments.results import ResultFile, complete
from dvae_lib.experiments.studies import gaps
from dvae_lib.experiments.studies.gaps import BENCHES, KEY, GapProtocol, gap_task, main

TWO_STEPS = GapProtocol(
    sequences=2,
    frames=4,
    steps=2,
    batch_size=2,
    refinement_steps=2,
    update_steps=2,
    iterations=2,
    filter_iterations=2,
    num_samples=2,
    importance_samples=3,
    particles=5,
    particle_runs=2,
)
STAIRS = {
    "smoother",
    "filter",
    "importance",
    "particles",
    "particle_error",
    "refined",
    "refined_flow",
    "iterated",
    "variational_filter",
}
KNOWN = {
    "linear": {"truth", "best_filter", "greedy_filter"},
    "growth": {"truth", "flow_smoother"},
    "chorales": {"shipped"},
}


@pytest.fixture(autouse=True)
def few_chords(monkeypatch, chords):
    monkeypatch.setattr(gaps, "load_chorales", lambda **options: Splits(*chords))


@pytest.mark.parametrize("name", BENCHES)
def test_only_inference_is_trained_and_every_step_of_the_stairs_is_there(name, monkeypatch):
    trained = []
    original = gaps.train_inference
    monkeypatch.setattr(
        gaps, "train_inference", lambda model, *rest: trained.append(original(model, *rest)) or trained[-1]
    )
    (record,) = gap_task(name, 3, TWO_STEPS).compute()
    assert set(record["bounds"]) == STAIRS | KNOWN[name]
    assert all(len(values) == 2 for values in record["bounds"].values())
    assert (record["sequences"], record["frames"], record["steps"]) == (2, 4, 2)
    assert [len(path) for path in record.get("path", [])] == ([4, 4] if name == "growth" else [])
    torch.manual_seed(3)
    fresh = BENCHES[name].build("smoother", "gaussian").state_dict()
    frozen = {key for key, weight in trained[0].named_parameters() if not weight.requires_grad}
    assert frozen
    for key in frozen:
        assert torch.equal(trained[0].state_dict()[key], fresh[key])


def test_a_study_goes_on_to_the_same_numbers(tmp_path):
    numbers = []
    for folder in ("whole", "again"):
        file = ResultFile(tmp_path / folder / "gaps.json", KEY)
        tasks = [gap_task("linear", seed, TWO_STEPS) for seed in (0, 1)]
        if folder == "again":
            complete(file, tasks[:1], say=lambda line: None)
        complete(file, tasks, say=lambda line: None)
        numbers.append([record["bounds"] for record in json.loads(file.path.read_text())])
    assert numbers[0] == numbers[1]
    assert numbers[0][0] != numbers[0][1]


def test_the_command_runs_every_model(monkeypatch, tmp_path):
    asked = []

    def task(name, seed):
        asked.append((name, seed))
        key = {"model": name, "seed": seed}
        return gaps.Task([key], lambda: [{**key, "bounds": {}}])

    monkeypatch.setattr(gaps, "gap_task", task)
    assert main(["--seeds", "4", "--output", str(tmp_path / "gaps.json")]) == 0
    assert asked == [(name, 4) for name in BENCHES]
