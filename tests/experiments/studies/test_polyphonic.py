"""The polyphonic benchmark: an epoch of each model, interrupted and gone on with, and means over frames."""

import math
from dataclasses import replace

import pytest
import torch

from dvae_lib.data.sequences import SequenceDataset
from dvae_lib.experiments.results import ResultFile, complete
from dvae_lib.experiments.studies import polyphonic
from dvae_lib.experiments.studies.polyphonic import (
    KEY,
    PIECES,
    PUBLISHED,
    SETS,
    MusicProtocol,
    Trial,
    key_chains,
    key_frequencies,
    particle_bound,
    tasks,
)
from dvae_lib.experiments.trainings import Interrupted
from dvae_lib.models import VAE
from dvae_lib.objectives import Bound

ONE_EPOCH = replace(
    MusicProtocol(),
    epochs=tuple((name, 1) for name in SETS),
    batch_size=3,
    tests=(("jsb", Trial(2, 3)),),
)


@pytest.fixture(scope="module")
def results(chords, tmp_path_factory):
    folder = tmp_path_factory.mktemp("polyphonic")
    file = ResultFile(folder / "polyphonic.json", KEY, ordered=True)
    complete(file, tasks(["jsb"], list(PIECES), [0], folder, ONE_EPOCH, lambda name: chords), say=lambda line: None)
    return {record["model"]: record for record in file.records}


@pytest.mark.parametrize("name", PIECES)
def test_every_model_is_trained_and_tested(results, name):
    record = results[name]
    assert record["epochs"] == (3 if PIECES[name].slow else 1)
    assert 1 <= record["best_epoch"] <= record["epochs"]
    assert record["vlb"] < 0
    if name != "grnn":
        assert record["iw"] < 0
        assert record["samples"] == 2
    assert ("smc" in record) == (name != "grnn")


@pytest.mark.parametrize(
    ("name", "rises"), [("lvrnn", True), ("lvrnn-cold", False), ("lvrnn-nasmc", False), ("grnn", False)]
)
def test_whose_weight_of_the_kl_terms_rises(chords, tmp_path, monkeypatch, name, rises):
    seen = []

    def train(model, training, validation, config, *_, **__):
        seen.append(config.schedules)
        raise Interrupted

    monkeypatch.setattr(polyphonic, "train", train)
    *_, task = tasks(["jsb"], [name], [0], tmp_path, MusicProtocol(), lambda name: chords)
    with pytest.raises(Interrupted):
        task.compute()
    assert [schedule(0) < schedule(30) == 1 for schedule in seen[0].values()] == [True] * rises


def test_what_is_there_is_not_done_again(results, chords, tmp_path):
    file = ResultFile(tmp_path / "polyphonic.json", KEY, ordered=True)
    file.add(results.values())
    todo = tasks(["jsb"], list(PIECES), [0], tmp_path, ONE_EPOCH, lambda name: chords)
    assert complete(file, todo, say=lambda line: None) == []


def test_an_interrupted_training_goes_on_to_the_same_numbers(chords, tmp_path, interrupted):
    two = replace(ONE_EPOCH, epochs=(("jsb", 2),))

    def trained(folder):
        file = ResultFile(folder / "polyphonic.json", KEY, ordered=True)
        complete(file, tasks(["jsb"], ["vrnn"], [0], folder, two, lambda name: chords), say=lambda line: None)
        return [{name: value for name, value in record.items() if name != "seconds"} for record in file.records]

    whole = trained(tmp_path / "whole")
    interrupted()
    with pytest.raises(Interrupted):
        trained(tmp_path / "broken")
    assert trained(tmp_path / "broken") == whole


def test_the_particle_bound_counts_every_frame_the_same(monkeypatch):
    """A bound of t nats for a sequence of t frames is one nat per frame, however the sequences are batched."""

    def a_nat_per_frame(model, x, *, lengths, **_):
        return Bound(torch.full((len(x),), float(x.shape[1])) if lengths is None else lengths.float(), x.new_empty(0))

    monkeypatch.setattr(polyphonic, "particle", a_nat_per_frame)
    data = SequenceDataset([torch.zeros(n, 88) for n in (3, 9, 400, 20)], names=list("abcd"))
    assert particle_bound(VAE(88, 2), data, 100) == pytest.approx(1.0)


def test_references_are_what_counting_says():
    """Two keys that differ: one that sounds in half of the frames, and one that goes on as it is."""
    x = torch.zeros(8, 88)
    x[::2, 3] = 1.0
    x[4:, 5] = 1.0
    data = SequenceDataset([x], names=["a"])
    silent = 86 * 8 * math.log(8.5 / 9)
    half = 2 * 8 * math.log(0.5)
    assert key_frequencies(data, data) == pytest.approx((silent + half) / 8)
    # Key 3 sounds after silence and never after sounding; key 5 stays silent four times out of five, then goes on.
    third = 8 * math.log(4.5 / 5)
    fifth = 4 * math.log(4.5 / 6) + math.log(1.5 / 6) + 3 * math.log(3.5 / 4)
    assert key_chains(data, data) == pytest.approx((silent + third + fifth) / 8)


def test_published_numbers_name_every_set():
    assert all(set(row) == set(SETS) and max(row.values()) < 0 for row in PUBLISHED.values())
