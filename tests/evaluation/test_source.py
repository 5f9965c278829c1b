"""What a model is evaluated on: what it was trained on by default, as it wants to see it, and none that it has seen."""

import logging

import numpy as np
import pytest
import torch

from dvae_lib import VAE
from dvae_lib.data.heldout import marks
from dvae_lib.data.loading import load
from dvae_lib.data.music import write_midi
from dvae_lib.data.sequences import SequenceDataset
from dvae_lib.evaluation import evaluation_source


@pytest.fixture
def walks(tmp_path):
    """A function that writes sequences of a file, some of them perhaps those of another."""

    def write(name, seeds, x_dim=3):
        sequences = [np.random.default_rng(seed).normal(size=(20, x_dim)).cumsum(0) for seed in seeds]
        np.savez(tmp_path / name, *sequences)
        return tmp_path / name

    return write


def trained_on(path, **data):
    """A model that says it was trained on the file, with all that `dvae train` writes down."""
    source = load(path, sequence_length=10, seed=4)
    model = VAE(3, 2)
    seen = marks(source.train, source.validation)
    model.metadata["data"] = {"source": str(path), "sequence_length": 10, "seed": 4, "seen": seen, **data}
    model.metadata["standardizer"] = source.train.standardizer.to_dict()
    return model, source


def test_by_default_it_is_the_test_part_of_the_training_data(walks, caplog):
    model, source = trained_on(walks("own.npz", range(12)))
    found = evaluation_source(model)
    assert found.test.names == source.test.names
    for i in range(len(found.test)):
        assert torch.equal(found.test[i], source.test[i])
    assert not caplog.records


def test_other_sequences_are_standardised_as_the_models_own(walks):
    model, source = trained_on(walks("own.npz", range(12)))
    other = walks("other.npz", range(50, 60))
    found = evaluation_source(model, other)
    assert torch.equal(found.test.standardizer.mean, source.train.standardizer.mean)
    assert not torch.equal(load(other, seed=4).test.standardizer.mean, source.train.standardizer.mean)


def test_what_was_seen_in_training_is_left_out(walks, caplog):
    model, _ = trained_on(walks("own.npz", range(12)))
    other = walks("more.npz", [*range(50, 55), *range(12)])
    whole = load(other, sequence_length=10, seed=4)
    with caplog.at_level(logging.WARNING, logger="dvae_lib.evaluation"):
        found = evaluation_source(model, other)
    assert 0 < len(found.test) < len(whole.test)
    assert set(found.test.names) < set(whole.test.names)
    assert "does not hold the sequences that the model was trained with" in caplog.text
    assert f"{len(whole.test) - len(found.test)} of its {len(whole.test)} test sequences" in caplog.text


def test_nothing_is_left_of_a_test_part_that_was_seen(walks):
    path = walks("own.npz", range(12))
    model, source = trained_on(path)
    test = SequenceDataset([source.test[i] for i in range(len(source.test))], sequence_length=10)
    model.metadata["data"]["seen"] = marks(source.train, source.validation, test)
    with pytest.raises(ValueError, match=r"are among those that the model was trained with$"):
        evaluation_source(model)


def test_a_model_that_says_nothing_or_sees_other_vectors_is_refused(walks):
    with pytest.raises(ValueError, match="does not say what it was trained on: name a corpus or a path"):
        evaluation_source(VAE(3, 2))
    with pytest.raises(ValueError, match=r"observes vectors of size 3, those of .*wide\.npz have 5$"):
        evaluation_source(VAE(3, 2), walks("wide.npz", range(10), x_dim=5))
    with pytest.raises(FileNotFoundError):
        evaluation_source(VAE(3, 2), "nowhere.npz")


def test_files_are_read_as_in_the_training(tmp_path, caplog):
    """Two steps to a quarter note in training are two steps at evaluation, of the same files and of others."""
    pytest.importorskip("mido")
    for folder, first in (("own", 0), ("other", 50)):
        (tmp_path / folder).mkdir()
        for k in range(10):
            roll = np.random.default_rng(first + k).random((24, 88)) < 0.05
            write_midi(tmp_path / folder / f"{k}.mid", roll, 2)
    source = load(tmp_path / "own", sequence_length=10, seed=4, steps=2)
    model = VAE(88, 2, observation="bernoulli")
    seen = marks(source.train, source.validation)
    model.metadata["data"] = {**source.metadata["data"], "seen": seen}
    found = evaluation_source(model)
    assert torch.equal(found.test[0], source.test[0])
    assert not caplog.records
    other = evaluation_source(model, tmp_path / "other")
    assert len(other.test[0]) <= 24
