"""Random numbers that can be had again: seeds by purpose, and the state of the global generators."""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

__all__ = ["derive_seed", "global_random_state", "isolated_randomness", "restore_global_random_state"]


def derive_seed(seed: int, *purpose: str | int) -> int:
    """A seed for one purpose, such as the noise of step 17: always the same, unrelated to all others.

    What is drawn from a generator seeded like this depends on seed and purpose alone, so nothing has to be
    remembered to draw it again.

    Returns:
        An integer from 0 to 2**32 - 1.

    Example:
        >>> derive_seed(0, "noise", 17) == derive_seed(0, "noise", 17) != derive_seed(0, "noise", 18)
        True
    """
    text = "/".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "big")


def global_random_state(device: torch.device | str = "cpu") -> dict[str, Any]:
    """The state of the global generators of Python, NumPy and torch (on CPU and on the device), as JSON data."""
    version, words, gauss = random.getstate()
    legacy: dict[str, Any] = np.random.get_state(legacy=False)  # noqa: NPY002
    legacy["state"]["key"] = legacy["state"]["key"].tolist()
    state = {"python": [version, list(words), gauss], "numpy": legacy, "torch": _hex(torch.get_rng_state())}
    module = _accelerator(device)
    if module is not None:
        state[torch.device(device).type] = _hex(module.get_rng_state(*_index(device)))
    return state


def restore_global_random_state(state: dict[str, Any], device: torch.device | str = "cpu") -> None:
    """Put the global generators back to what `global_random_state` returned.

    A device of another type than the one that was saved keeps its own state.
    """
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    legacy = {**state["numpy"], "state": {**state["numpy"]["state"]}}
    legacy["state"]["key"] = np.array(legacy["state"]["key"], dtype=np.uint32)
    np.random.set_state(legacy)  # noqa: NPY002
    torch.set_rng_state(_unhex(state["torch"]))
    module, kind = _accelerator(device), torch.device(device).type
    if module is not None and kind in state:
        module.set_rng_state(_unhex(state[kind]), *_index(device))


@contextmanager
def isolated_randomness(seed: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """Inside, the global generators start from a seed; afterwards they go on as if nothing had happened."""
    outside = global_random_state(device)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  (models of readers may draw from the global generator)
    torch.manual_seed(seed)
    try:
        yield
    finally:
        restore_global_random_state(outside, device)


def _accelerator(device: torch.device | str) -> Any:
    kind = torch.device(device).type
    return None if kind == "cpu" else getattr(torch, kind)


def _index(device: torch.device | str) -> tuple[torch.device, ...]:
    # torch.mps knows one device only and takes no index.
    device = torch.device(device)
    return () if device.type == "mps" else (device,)


def _hex(state: torch.Tensor) -> str:
    return state.numpy().tobytes().hex()


def _unhex(text: str) -> torch.Tensor:
    return torch.frombuffer(bytearray.fromhex(text), dtype=torch.uint8)
