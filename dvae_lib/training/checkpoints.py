"""Checkpoints: tensors and JSON in one safetensors file, which is there as a whole or not at all."""

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from dvae_lib.files import write_atomically

__all__ = ["CheckpointError", "load_checkpoint", "save_checkpoint"]

FORMAT = 1


class CheckpointError(ValueError):
    """A checkpoint that is damaged, or that belongs to something else than what it was opened for."""


def save_checkpoint(path: str | Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Save tensors and JSON data in one file, atomically.

    Arguments:
        path: The file, in safetensors format; the JSON text stands in its header, with a checksum of both.
        tensors: On any device, sharing memory or not.
        state: JSON data.
    """
    text = json.dumps(state)
    # Clones, because safetensors refuses tensors that share memory, as tied weights do.
    arrays = {name: t.detach().to("cpu", copy=True).contiguous() for name, t in tensors.items()}
    metadata = {"format": str(FORMAT), "state": text, "crc32": _checksum(text, arrays)}
    write_atomically(path, save(arrays, metadata))


def load_checkpoint(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors (on the CPU) and the JSON data that `save_checkpoint` wrote. Nothing is unpickled.

    Raises:
        FileNotFoundError: If there is no such file.
        CheckpointError: If it is damaged, of another kind, or written by a newer version.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no checkpoint {path}")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is damaged or is no checkpoint ({error}). Delete it to start again") from error
    if not {"format", "state", "crc32"} <= set(metadata):
        raise CheckpointError(
            f"{path} holds tensors but is no checkpoint of a training run; weights are loaded with from_pretrained"
        )
    if metadata["format"] != str(FORMAT):
        raise CheckpointError(f"{path} has format {metadata['format']}; this version of dvae_lib reads format {FORMAT}")
    if metadata["crc32"] != _checksum(metadata["state"], arrays):
        raise CheckpointError(f"{path} is damaged: its checksum is wrong. Delete it to start again")
    state: dict[str, Any] = json.loads(metadata["state"])
    return arrays, state


def _checksum(text: str, arrays: Mapping[str, Tensor]) -> str:
    value = zlib.crc32(text.encode())
    for name in sorted(arrays):
        value = zlib.crc32(name.encode(), value)
        value = zlib.crc32(arrays[name].reshape(-1).view(torch.uint8).numpy().data, value)
    return f"{value:08x}"
