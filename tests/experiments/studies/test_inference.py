"""The price of an inference structure: the generative model stays as it was, and the inference models are trained."""

from dataclasses import replace

import pytest
import torch

from dvae_lib.experiments import trainings
from dvae_lib.experiments.results import ResultFile, complete
from dvae_lib.experiments.studies import inference
from dvae_lib.experiments.studies.chorales import ARCHITECTURES, train_chorales
from dvae_lib.experiments.studies.inference import CONTESTANTS, KEY, InferenceProtocol, inference_task, main
from dvae_lib.models import DVAE

TWO_STEPS = InferenceProtocol(epochs=1, batch_size=3, importance_samples=(2,))


@pytest.fixture(scope="module")
def models(chords, two_steps, tmp_path_factory):
    """A folder with the generative models of the contest."""
    folder = tmp_path_factory.mktemp("models")
    for name in CONTESTANTS:
        train_chorales(name, 0, folder, folder / "runs", data=chords, protocol=two_steps)
    return folder


@pytest.mark.parametrize(("generative", "name"), [(a, b) for a, names in CONTESTANTS.items() for b in names])
def test_only_the_inference_model_is_trained(generative, name, models, chords, made_by, tmp_path, monkeypatch):
    trained = []
    original = inference.train
    monkeypatch.setattr(inference, "train", lambda model, *rest: (trained.append(model), original(model, *rest))[1])
    torch.manual_seed(4)
    initial = ARCHITECTURES[name]().state_dict()
    (record,) = inference_task(generative, name, 4, models, tmp_path, chords, TWO_STEPS).compute()
    before, after = DVAE.from_pretrained(models / generative).state_dict(), trained[0].state_dict()
    theirs = [key for key in after if key in before and key.split(".")[0] in inference.GENERATIVE]
    assert theirs
    assert all(torch.equal(after[key], before[key]) for key in theirs)
    assert any(not torch.equal(after[key], initial[key]) for key in set(after) - set(theirs))
    assert record["weights"] == sum(after[key].numel() for key in set(after) - set(theirs))
    assert record["inference_model"] == trained[0].options["inference_model"]
    assert set(record["test"]) == {"vlb", "iw2", "kl", "active"}
    assert (record["epochs"], record["best_epoch"], record["frames"]) == (1, 1, 19)
    assert set(record["data"]) == {"train", "validation", "test"}


def test_another_generative_model_is_refused(models, chords, tmp_path):
    task = inference_task("vrnn-chorales", "srnn-chorales", 0, models, tmp_path, chords, TWO_STEPS)
    with pytest.raises(ValueError, match=r"srnn-chorales has another generative model than vrnn-chorales: .* differ"):
        task.compute()


def test_an_interrupted_study_goes_on_to_the_same_numbers(models, chords, tmp_path, interrupted, made_by):
    """In the middle of its second training: the first is not done again, the second ends where it would have."""
    protocol = replace(TWO_STEPS, epochs=2)

    def study(folder):
        file = ResultFile(folder / "inference.json", KEY)
        tasks = [
            inference_task("vrnn-chorales", name, 1, models, folder, chords, protocol)
            for name in CONTESTANTS["vrnn-chorales"]
        ]
        return file, tasks

    file, tasks = study(tmp_path / "whole")
    whole = complete(file, tasks, say=lambda line: None)
    file, tasks = study(tmp_path / "broken")
    complete(file, tasks[:1], say=lambda line: None)
    interrupted()
    with pytest.raises(trainings.Interrupted):
        complete(file, tasks, say=lambda line: None)
    file, tasks = study(tmp_path / "broken")
    assert len(file.records) == 1
    (last,) = complete(file, tasks, say=lambda line: None)
    made_by(last)
    timeless = [{k: v for k, v in r.items() if k != "seconds"} for r in (whole[1], last)]
    assert timeless[0] == timeless[1]


def test_the_command_runs_every_contest(monkeypatch, chords, tmp_path, capsys):
    asked = []
    monkeypatch.setattr(inference.ChoraleProtocol, "load", lambda self: chords)

    def task(generative, name, seed, models, runs, data):
        asked.append((generative, name, seed))
        key = {"generative": generative, "inference": name, "seed": seed}
        return inference.Task([key], lambda: [{**key, "test": {}}])

    monkeypatch.setattr(inference, "inference_task", task)
    assert main(["--seeds", "3", "--output", str(tmp_path / "inference.json")]) == 0
    assert asked == [(a, b, 3) for a, names in CONTESTANTS.items() for b in names]
    assert len(ResultFile(tmp_path / "inference.json", KEY).records) == len(asked) == 7
