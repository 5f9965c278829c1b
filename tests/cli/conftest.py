import logging
from pathlib import Path

import numpy as np
import pytest
from commands import write_voices
from rich.console import Console

from dvae_lib.cli import console


@pytest.fixture(autouse=True)
def _alone(tmp_path, monkeypatch):
    """An empty folder to work in, no corpora, and no logging left behind."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVAE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("DVAE_DATA", raising=False)
    # A wide terminal: a folded path would not be found. (The width is read when the consoles are made.)
    monkeypatch.setattr(console, "out", Console(width=500))
    monkeypatch.setattr(console, "err", Console(width=500, stderr=True))
    logger = logging.getLogger("dvae_lib")
    handlers, level = logger.handlers[:], logger.level
    yield
    logger.handlers, logger.level = handlers, level


@pytest.fixture
def walks(tmp_path) -> Path:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "walks.npz", *[rng.standard_normal((20 + i, 3)).cumsum(0) for i in range(10)])
    return tmp_path / "walks.npz"


@pytest.fixture
def voices(tmp_path) -> Path:
    return write_voices(tmp_path / "voices", 4)
