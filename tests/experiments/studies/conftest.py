import os
import signal

import pytest
import torch
from torch import Generator

from dvae_lib.data.sequences import SequenceDataset
from dvae_lib.data.splits import Splits
from dvae_lib.experiments import trainings
from dvae_lib.experiments.studies.chorales import ChoraleProtocol


@pytest.fixture(scope="session")
def chords():
    """A corpus of a few piano rolls in which anything may sound."""

    def part(count, seed):
        g = Generator().manual_seed(seed)
        lengths = [6 + i % 2 for i in range(count)] if seed == 2 else [6] * count
        return SequenceDataset(
            [(torch.rand(length, 88, generator=g) < 0.05).float() for length in lengths],
            names=[f"{seed}/{i}" for i in range(count)],
        )

    return Splits(part(6, 0), part(3, 1), part(3, 2))


@pytest.fixture(scope="session")
def two_steps():
    """A protocol of one epoch of two steps."""
    return ChoraleProtocol(
        epochs=1, scheduled_epochs=1, batch_size=3, importance_samples=(2, 3), importance_samples_fed_back=(2,)
    )


@pytest.fixture
def interrupted(monkeypatch):
    """A function after which the next training is interrupted, as by Ctrl-C, when its first epoch is over."""
    original = trainings.print_epoch

    def at_the_first_epoch(model, record):
        original(model, record)
        monkeypatch.setattr(trainings, "print_epoch", original)
        os.kill(os.getpid(), signal.SIGINT)

    return lambda: monkeypatch.setattr(trainings, "print_epoch", at_the_first_epoch)


@pytest.fixture
def made_by():
    """A function that checks what every record says of its making."""

    def check(record):
        assert record["machine"]["torch"] == torch.__version__
        assert record["machine"]["device"] == "CPU"
        assert record["dvae_lib"]
        for part in record["data"].values():
            assert part["frames"] >= part["sequences"] > 0
            assert len(part["sha256"]) == 16

    return check
