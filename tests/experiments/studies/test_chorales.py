"""The chorales: two steps of each model on a few made-up chords, tested, interrupted, and gone on with."""

import json
from dataclasses import replace

import pytest
import torch

from dvae_lib.data import music
from dvae_lib.data.splits import Splits
from dvae_lib.experiments import trainings
from dvae_lib.experiments.results import ResultFile, complete
from dvae_lib.experiments.studies import chorales
from dvae_lib.experiments.studies.chorales import KEY, NAMES, evaluation_task, main, train_chorales
from dvae_lib.models import DVAE
from dvae_lib.resources import resource_path


def silent(line):
    pass


@pytest.mark.parametrize("name", chorales.ARCHITECTURES)
def test_architectures_are_those_of_the_weights_that_are_here(name):
    model, kept = chorales.ARCHITECTURES[name](), DVAE.from_pretrained(name)
    assert type(model) is type(kept)
    assert json.loads(json.dumps(model.options)) == json.loads(json.dumps(kept.options))
    assert model.state_dict().keys() == kept.state_dict().keys()


@pytest.mark.parametrize("name", NAMES)
def test_the_training_is_the_one_that_the_weights_say(name):
    said = DVAE.from_pretrained(name).metadata["training"]
    assert chorales.ChoraleProtocol().config(name, seed=0).to_dict() == said


@pytest.mark.parametrize("name", ["vae-chorales", "grnn-chorales", "dsae-structured-chorales", "vrnn-chorales"])
def test_two_steps_make_a_model_and_a_result(name, chords, two_steps, made_by, tmp_path):
    folder = train_chorales(name, 5, tmp_path / "models", tmp_path / "runs", data=chords, protocol=two_steps)
    metadata = DVAE.from_pretrained(folder).metadata
    assert metadata["made_by"] == "python -m dvae_lib.experiments.studies.chorales train"
    assert (metadata["corpus"], metadata["seed"], metadata["sequence_length"]) == ("chorales", 5, 32)
    assert metadata["training"]["max_epochs"] == 1
    file = ResultFile(tmp_path / "chorales.json", KEY, ordered=True)
    (record,) = complete(file, [evaluation_task(folder, chords.test, two_steps)], say=silent)
    made_by(record)
    assert (record["name"], record["seed"], record["epochs"], record["frames"]) == (name, 5, 1, 19)
    wanted = {"vlb"} if name == "grnn-chorales" else {"vlb", "iw2", "iw3", "kl", "active"}
    wanted |= {"kl_v", "active_v"} if name.startswith("dsae") else set()
    assert set(record["test"]) == wanted
    assert ("generation_mode" in record) == (name == "vrnn-chorales")
    assert ResultFile(file.path, KEY).records == [record]


def test_a_scheduled_training_starts_from_the_one_before(chords, two_steps, tmp_path):
    name, places = "srnn-chorales-scheduled", (tmp_path / "models", tmp_path / "runs")
    with pytest.raises(FileNotFoundError, match="srnn-chorales"):
        train_chorales(name, 0, *places, data=chords, protocol=two_steps)
    train_chorales("srnn-chorales", 0, *places, data=chords, protocol=two_steps)
    folder = train_chorales(name, 0, *places, data=chords, protocol=two_steps)
    metadata = DVAE.from_pretrained(folder).metadata
    assert metadata["training"]["schedules"]["feedback"][-1][1] == 1.0
    assert set(metadata["training"]["schedules"]) == {"feedback"}


def test_an_interrupted_training_goes_on_to_the_same_weights(chords, two_steps, interrupted, tmp_path):
    protocol = replace(two_steps, epochs=2)
    options = {"data": chords, "protocol": protocol}
    whole = train_chorales("storn-chorales", 1, tmp_path / "a", tmp_path / "whole", **options)
    interrupted()
    with pytest.raises(trainings.Interrupted, match="interrupted and saved in"):
        train_chorales("storn-chorales", 1, tmp_path / "b", tmp_path / "broken", **options)
    assert not (tmp_path / "b").exists()
    resumed = train_chorales("storn-chorales", 1, tmp_path / "b", tmp_path / "broken", **options)
    one, other = (DVAE.from_pretrained(folder).state_dict() for folder in (whole, resumed))
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_the_command_trains_and_tests(chords, two_steps, monkeypatch, tmp_path, capsys, interrupted):
    monkeypatch.setattr(chorales, "ChoraleProtocol", lambda: replace(two_steps, epochs=2))
    monkeypatch.setattr(type(two_steps), "load", lambda self: chords)
    places = ["--models", str(tmp_path / "models"), "--output", str(tmp_path / "results/chorales.json")]
    train = ["train", "vae-chorales", "--seed", "3", *places[:2], "--runs", str(tmp_path / "runs")]
    interrupted()
    assert main(train) == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert main(train) == 0
    assert main(["test", *places]) == 0  # of all models those that are there
    (record,) = ResultFile(tmp_path / "results/chorales.json", KEY).records
    assert (record["name"], record["seed"]) == ("vae-chorales", 3)
    before = (tmp_path / "results/chorales.json").stat().st_mtime_ns
    assert main(["test", "vae-chorales", *places]) == 0
    assert (tmp_path / "results/chorales.json").stat().st_mtime_ns == before  # what is there is not computed again
    assert main(["test", "vae-chorales", *places, "--again"]) == 0
    assert (tmp_path / "results/chorales.json").stat().st_mtime_ns > before
    with pytest.raises(SystemExit, match="2"):
        main(["test", "vea-chorales"])
    assert "there is no vea-chorales; there are dkf-chorales, " in capsys.readouterr().err


def test_a_number_that_is_kept_comes_out_again(monkeypatch):
    """The likelihood of the recurrent network, which knows no chance, on all test chorales."""
    monkeypatch.delenv("DVAE_CACHE")  # where the scores have been read already
    task = evaluation_task(resource_path("pretrained", "grnn-chorales"), music.load_chorales().test)
    (record,) = task.compute()
    (kept,) = (
        r for r in ResultFile(resource_path("results", "chorales.json"), KEY).records if r["name"] == record["name"]
    )
    assert record["test"]["vlb"] == pytest.approx(kept["test"]["vlb"], abs=2e-4)  # half precision came after the test
    assert {key: record[key] for key in kept if key != "test"} == {key: kept[key] for key in kept if key != "test"}


def test_pieces_are_transposed_and_tests_are_whole(monkeypatch):
    asked = []
    monkeypatch.setattr(chorales, "load_chorales", lambda **o: asked.append(o) or Splits(*("abc" if o else "ABC")))
    assert chorales.ChoraleProtocol().load() == ("a", "b", "C")
    assert asked == [{"sequence_length": 32, "transpose_training": tuple(range(-5, 7))}, {}]
