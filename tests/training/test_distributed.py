"""Two processes started by torchrun follow the losses of one with the same global batch."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Generator, nn

from dvae_lib.data.sequences import SequenceDataset
from dvae_lib.models import VAE
from dvae_lib.objectives import VLB
from dvae_lib.training import NonFiniteError, Schedule, TrainingConfig, fit, vlb_terms
from dvae_lib.training.checkpoints import load_checkpoint

# 13 sequences in batches of 4: the last batch has one, so that one of two processes has none of it.
CONFIG = TrainingConfig(
    batch_size=4,
    max_epochs=4,
    learning_rate=0.01,
    gradient_clip=1.0,
    schedules={"beta": Schedule.linear(0, 1, epochs=2)},
    freeze={"e_z": 1},
    checkpoint_steps=1,
)


class Recurrent(nn.Module):
    """A model whose latents are drawn one after the other, each from the one before, and a part left unused."""

    def __init__(self):
        super().__init__()
        self.e_z, self.x_head, self.unused = nn.Linear(5, 4), nn.Linear(2, 3), nn.Linear(2, 2)

    def vlb(self, x, u=None, *, lengths=None, beta=1.0, generator=None):
        z, value, kl = x.new_zeros(len(x), 2), x.new_zeros(len(x)), []
        inside = torch.ones(x.shape[:2]) if lengths is None else torch.arange(x.shape[1]) < lengths[:, None]
        for t in range(x.shape[1]):
            mean, logvar = self.e_z(torch.cat([x[:, t], z], 1)).chunk(2, 1)
            z = mean + (logvar / 2).exp() * torch.randn(z.shape, generator=generator, dtype=z.dtype)
            value = value - 0.5 * inside[:, t] * (x[:, t] - self.x_head(z)).square().sum(1)
            kl.append(inside[:, t] * 0.5 * (mean**2 + logvar.exp() - 1 - logvar).sum(1))
        return VLB(value - beta * sum(kl), value, {"z": torch.stack(kl, 1)}, beta=beta)


def build(name):
    torch.manual_seed(0)
    return Recurrent() if name == "recurrent" else VAE(3, 2, encoder=(4,), decoder=(4,))


def data(count, seed):
    g = Generator().manual_seed(seed)
    lengths = torch.randint(4, 9, (count,), generator=g).tolist()
    return SequenceDataset([torch.randn(n, 3, generator=g).cumsum(0) * 0.3 for n in lengths])


def broken(model, batch, *, generator, **scheduled):
    """NaN on one sequence, in one process."""
    terms = vlb_terms(model, batch, generator=generator, **scheduled)
    culprit = (batch.x[:, 0] == data(13, 1)[6][0]).all(-1)
    return {**terms, "objective": terms["objective"].masked_fill(culprit, float("nan"))}


def main(folder):
    """What each of two processes does, and one process alone for comparison."""
    result = {}
    for name in ("vae", "recurrent"):
        run = fit(build(name), data(13, 1), data(5, 2), CONFIG, folder=folder / name)
        result[name] = [{k: v for k, v in r.items() if "seconds" not in k} for r in run.history]
    # Half of a run, for one process to go on with what two have begun.
    fit(build("vae"), data(13, 1), data(5, 2), replace(CONFIG, max_epochs=2), folder=folder / "half")
    if folder.name == "one":
        run = fit(build("vae"), data(13, 1), data(5, 2), CONFIG, folder=folder.parent / "two" / "half", resume=True)
        result["continued"] = [{k: v for k, v in r.items() if "seconds" not in k} for r in run.history]
    try:
        fit(build("vae"), data(13, 1), None, CONFIG, objective=broken)
    except NonFiniteError as error:
        result["error"] = [error.epoch, error.step]
        (folder / f"error {os.environ.get('RANK', 0)}").write_text(str(error))
    if os.environ.get("RANK", "0") == "0":
        (folder / "result.json").write_text(json.dumps(result))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    root = tmp_path_factory.mktemp("distributed")
    for name in ("one", "two"):
        (root / name).mkdir()
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    done = subprocess.run(
        [*torchrun, __file__, str(root / "two")],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    main(root / "one")
    return root, *(json.loads((root / name / "result.json").read_text()) for name in ("one", "two"))


@pytest.mark.parametrize("model", ["vae", "recurrent"])
def test_two_processes_follow_the_losses_of_one(results, model):
    _, one, two = results
    assert len(one[model]) == len(two[model]) == 4
    for alone, together in zip(one[model], two[model], strict=True):
        assert together == pytest.approx(alone, rel=1e-5)


def test_a_run_of_two_processes_is_continued_by_one(results):
    _, one, _ = results
    for whole, continued in zip(one["vae"], one["continued"], strict=True):
        assert continued == pytest.approx(whole, rel=1e-5)


def test_weights_agree(results):
    root, _, _ = results
    a, _ = load_checkpoint(root / "one" / "vae" / "checkpoint.safetensors")
    b, state = load_checkpoint(root / "two" / "vae" / "checkpoint.safetensors")
    assert len(state["random"]) == 2
    for name, tensor in a.items():
        torch.testing.assert_close(tensor, b[name], rtol=1e-4, atol=1e-5)


def test_the_guard_stops_all_processes_and_the_one_concerned_names_the_sequence(results):
    root, one, two = results
    assert one["error"] == two["error"]
    alone = (root / "one" / "error 0").read_text()
    messages = [(root / "two" / f"error {rank}").read_text() for rank in (0, 1)]
    assert "sequences 6 (6)." in alone
    assert sorted("sequences 6 (6)." in m for m in messages) == [False, True]
    assert sorted("of another process" in m for m in messages) == [False, True]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
