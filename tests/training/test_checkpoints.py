from contextlib import suppress

import pytest
import torch
from safetensors.torch import save_file

from dvae_lib.training import checkpoints
from dvae_lib.training.checkpoints import CheckpointError, load_checkpoint, save_checkpoint

TENSORS = {
    "float": torch.randn(3, 4),
    "bfloat16": torch.randn(5).bfloat16(),
    "scalar": torch.tensor(2.5, dtype=torch.float64),
    "empty": torch.zeros(0, 2),
    "integer": torch.arange(3),
    "strided": torch.randn(4, 3).T,
}
STATE = {"epoch": 3, "values": [0.1, 1e-300, float("-inf")], "nothing": None, "name": "Zürich"}


def test_round_trip(tmp_path):
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, TENSORS, STATE)
    tensors, state = load_checkpoint(path)
    assert state == STATE
    assert set(tensors) == set(TENSORS)
    for name, tensor in TENSORS.items():
        assert tensors[name].dtype == tensor.dtype
        assert torch.equal(tensors[name], tensor)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_tensors_that_share_memory(tmp_path):
    weight = torch.randn(2, 2)
    save_checkpoint(tmp_path / "c", {"a": weight, "b": weight}, {})
    assert torch.equal(load_checkpoint(tmp_path / "c")[0]["b"], weight)


def test_every_flipped_byte_and_every_truncation_is_noticed(tmp_path):
    path = tmp_path / "c"
    save_checkpoint(path, {"w": torch.arange(6.0)}, {"epoch": 1})
    good = path.read_bytes()
    for i in range(len(good)):
        path.write_bytes(good[:i] + bytes([good[i] ^ 0x11]) + good[i + 1 :])
        with suppress(CheckpointError):  # only in the header's padding can a change be without a consequence
            tensors, state = load_checkpoint(path)
            assert state == {"epoch": 1}
            assert torch.equal(tensors["w"], torch.arange(6.0))
    for length in range(0, len(good), 7):
        path.write_bytes(good[:length])
        with pytest.raises(CheckpointError, match="damaged"):
            load_checkpoint(path)


def test_other_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        load_checkpoint(tmp_path / "none")
    (tmp_path / "text").write_text("hello, this is not a checkpoint at all")
    with pytest.raises(CheckpointError, match="damaged or is no checkpoint"):
        load_checkpoint(tmp_path / "text")
    save_file({"w": torch.ones(2)}, tmp_path / "weights")
    with pytest.raises(CheckpointError, match="from_pretrained"):
        load_checkpoint(tmp_path / "weights")


def test_newer_format(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "FORMAT", 2)
    save_checkpoint(tmp_path / "c", {}, {})
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="format 2"):
        load_checkpoint(tmp_path / "c")
