"""Runs that take a moment, for the tests of training."""

import dataclasses

import torch
from torch import Generator

from dvae_lib.data import SequenceDataset
from dvae_lib.models import VAE
from dvae_lib.training import (
    TrainingConfig,
)


def waves(count, seed, shortest=6, longest=12, **options):
    """Smooth sequences of different lengths."""
    g = Generator().manual_seed(seed)
    lengths = torch.randint(shortest, longest + 1, (count,), generator=g).tolist()
    return SequenceDataset([torch.randn(n, 3, generator=g).cumsum(0) * 0.3 for n in lengths], **options)


def small_vae(seed=0):
    torch.manual_seed(seed)
    return VAE(3, 2, encoder=(4,), decoder=(4,))


TRAIN, VALIDATION = waves(13, seed=1), waves(5, seed=2)
CONFIG = TrainingConfig(batch_size=4, max_epochs=3, learning_rate=0.01)


def changed(**values):
    return dataclasses.replace(CONFIG, **values)


def same_weights(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def untimed(history):
    return [{k: v for k, v in record.items() if "seconds" not in k} for record in history]
