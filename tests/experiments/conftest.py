from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch
from torch import Generator

from dvae_lib.data.sequences import SequenceDataset
from dvae_lib.experiments import ExperimentData, protocol

RATE = 16_000


@pytest.fixture(autouse=True)
def _alone(tmp_path_factory, monkeypatch):
    """No corpora, and a cache that the tests of a run share."""
    monkeypatch.setenv("DVAE_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.delenv("DVAE_DATA", raising=False)


def write_voices(folder, speakers, each=1):
    """A folder of something like speech, a folder in it for each speaker."""
    for i in range(speakers):
        for k in range(each):
            time = np.arange(int((1.5 + 0.1 * ((i + k) % 4)) * RATE)) / RATE
            tone = sum(np.sin(2 * np.pi * (100 + 10 * i) * n * time) / n for n in range(1, 20))
            noise = np.random.default_rng(10 * i + k).standard_normal(time.size)
            sound = 0.1 * (tone * (1 + np.sin(2 * np.pi * (2 + k) * time)) + 0.1 * noise)
            path = folder / f"speaker{i}" / f"{k}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, sound, RATE)
    return folder


@pytest.fixture
def voices():
    """A function that makes a folder of speech."""
    return write_voices


@pytest.fixture(scope="session")
def eight_voices(tmp_path_factory):
    """A folder of eight speakers with two recordings each."""
    return write_voices(tmp_path_factory.mktemp("corpora") / "voices", 8, each=2)


@pytest.fixture(scope="session")
def walks():
    """A function that makes a corpus of two joints that wander about."""

    def part(count, seed, lengths):
        g = Generator().manual_seed(seed)
        sequences = [torch.randn(lengths[i % len(lengths)], 6, generator=g).cumsum(0) * 0.02 for i in range(count)]
        return SequenceDataset(sequences, names=[f"{seed}/{i}" for i in range(count)])

    def make(seed=0, name="walks", test_lengths=(8,)):
        parts = part(6, seed, (8,)), part(3, seed + 100, (8,)), part(5, seed + 200, test_lengths)
        return ExperimentData(name, "motion", *parts, (), {"licence": "none", "attribution": "nobody"})

    return make


@pytest.fixture(scope="session")
def tiny():
    """A function that makes a protocol of a second, with values of the training replaced."""

    def make(**training):
        ci = protocol("motion", "ci")
        small = {"batch_size": 2, **training}
        return replace(
            ci,
            training=replace(ci.training, **small),
            scheduled=replace(ci.scheduled, **small),
            options={"z_dim": 2},
            sequence_length=8,
        )

    return make


@pytest.fixture
def record():
    """A function that makes a record by hand."""

    def make(model="vae", seed=0, *, scheduled=False, status="done", tests=None, converged=True, **changes):
        made = {
            "format": 1,
            "dvae_lib": "0.1.0",
            "corpus": "voices",
            "experiment": "speech",
            "model": model,
            "scheduled": scheduled,
            "seed": seed,
            "budget": "book",
            "config": {"max_epochs": 4},
            "data": {"test": {"sequences": 2, "frames": 9, "sha256": "0123456789abcdef"}},
            "status": status,
        }
        if status == "done":
            made |= {
                "weights": 1000 + len(model),
                "training": {
                    "best_epoch": 3,
                    "converged": converged,
                    "curve": {"train": [-9.0, -5.0, -2.0, -1.0], "validation": [-10.0, -6.0, -3.0, -4.0]},
                },
                "test": [test(mode, **values) for mode, values in (tests or {"GM" if scheduled else "TF": {}}).items()],
            }
        return {**made, **changes}

    def test(mode, vlb=-3.0, iw=-2.5, kl=1.5, kl_per_dim=(1.0, 0.5, 0.001), **measures):
        return {
            "mode": mode,
            "vlb": vlb,
            "iw": iw,
            "kl": kl,
            "kl_per_dim": {"z": list(kl_per_dim)},
            "active": sum(value > 0.01 for value in kl_per_dim),
            "measures": {
                name: {"mean": float(mean), "low": mean - 1.0, "high": mean + 1.0, "count": 2}
                for name, mean in (measures or {"si_sdr": 5.0}).items()
            },
        }

    return make
