"""The second device, made known to PyTorch before any test runs: it counts its devices at the first backward pass."""

import warnings
from collections.abc import Iterator

import pytest
import second_device
import torch

try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        second_device.extension()
    MISSING = None
except (ImportError, OSError, RuntimeError) as error:  # no compiler, no ninja, no Python.h
    MISSING = f"the second device could not be compiled: {str(error).splitlines()[0]}"


@pytest.fixture
def second() -> Iterator[torch.device]:
    """The second device, which programs take for the machine's GPU."""
    if MISSING is not None:
        pytest.skip(MISSING)
    with second_device.in_use() as device:
        yield device
