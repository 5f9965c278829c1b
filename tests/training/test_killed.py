"""A run that is killed, at whatever moment, and started again ends as one that was left in peace: bit for bit."""

import itertools
import multiprocessing
import os
import random
import signal
import stat
import sys
import time

import numpy as np
import pytest
import torch
from torch import Generator

from dvae_lib.data.sequences import SequenceDataset
from dvae_lib.models import VAE
from dvae_lib.training import Schedule, TrainingConfig, fit, vlb_terms
from dvae_lib.training.checkpoints import load_checkpoint

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs fork and SIGKILL")

CONFIG = TrainingConfig(
    batch_size=4,
    max_epochs=6,
    patience=3,
    learning_rate=Schedule.steps([0.02, 1.0], every=2),  # from the third on epochs do harm, and patience ends the run
    gradient_clip=0.5,
    schedules={"beta": Schedule.linear(0, 1, epochs=2)},
    freeze={"e_z": 1},
    checkpoint_steps=1,
)

# Processes are forked from one that has imported torch already, which takes two seconds, and done nothing else.
processes = multiprocessing.get_context("forkserver" if sys.platform != "win32" else "spawn")
processes.set_forkserver_preload(["numpy", "pytest", "dvae_lib.models", "dvae_lib.training"])


def data(count, seed):
    g = Generator().manual_seed(seed)
    lengths = torch.randint(4, 9, (count,), generator=g).tolist()
    return SequenceDataset([torch.randn(n, 3, generator=g).cumsum(0) * 0.3 for n in lengths])


def noisy_terms(model, batch, *, generator, **scheduled):
    """An objective that draws from all global generators, as a reader's may; and a place to die."""
    moment()
    terms = vlb_terms(model, batch, generator=generator, **scheduled)
    noise = random.gauss(0, 1) + np.random.randn() + torch.randn(()).item()  # noqa: NPY002
    return {**terms, "objective": terms["objective"] * (1 + 0.05 * noise)}


def moment():
    """A moment at which the process may die."""


def train(folder, last_moment=None, pause=0.0, config=CONFIG):
    """In a process of its own: train, and die at a given moment."""
    torch.set_num_threads(1)
    moments = itertools.count()

    def die_when_it_is_time():
        time.sleep(pause)
        if next(moments) == last_moment:
            os.kill(os.getpid(), signal.SIGKILL)

    globals()["moment"] = die_when_it_is_time
    replace = os.replace

    def half_written(descriptor):  # instead of waiting for the disk, which outlives the process anyway
        size = os.fstat(descriptor).st_size
        if next(moments) == last_moment:
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                os.ftruncate(descriptor, size // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    def replaced(old, new):
        die_when_it_is_time()
        replace(old, new)
        die_when_it_is_time()

    os.fsync, os.replace = half_written, replaced
    torch.manual_seed(os.getpid())  # initial weights of a resumed run are not its own
    if not os.path.exists(os.path.join(folder, "checkpoint.safetensors")):  # noqa: PTH110, PTH118
        torch.manual_seed(0)
    model = VAE(3, 2, encoder=(4,), decoder=(4,))
    fit(model, data(13, 1), data(5, 2), config, folder=folder, objective=noisy_terms)


def run(folder, **options):
    process = processes.Process(target=train, args=(str(folder),), kwargs=options)
    process.start()
    process.join(60)
    return process.exitcode


def outcome(folder):
    """Everything that a run comes to, without the times it took."""
    tensors, state = load_checkpoint(folder / "checkpoint.safetensors")
    for record in state["progress"]["history"]:
        del record["seconds"], record["data_seconds"]
    best = VAE.from_pretrained(folder / "best").state_dict()
    lines = (folder / "history.csv").read_text().splitlines()
    return tensors | {f"exported.{k}": v for k, v in best.items()}, state, len(lines)


def same(a, b):
    tensors = a[0].keys() == b[0].keys() and all(torch.equal(a[0][name], b[0][name]) for name in a[0])
    return tensors and a[1:] == b[1:]


@pytest.fixture(scope="module")
def in_peace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("in_peace")
    assert run(folder) == 0
    result = outcome(folder)
    assert (result[1]["progress"]["best_epoch"], result[1]["progress"]["epoch"]) == (2, 5)
    assert not all(
        torch.equal(t, result[0][name.replace("model.", "best.")])
        for name, t in result[0].items()
        if name.startswith("model.")
    )
    return result


# Each step is a moment, each validation batch, and four of every file that is written.
@pytest.mark.parametrize("last_moment", [0, 1, 2, 3, 4, 5, 9, *random.Random(0).sample(range(14, 130), 7)])
def test_killed_once(tmp_path, in_peace, last_moment):
    assert run(tmp_path, last_moment=last_moment) == -signal.SIGKILL
    assert run(tmp_path) == 0
    assert same(outcome(tmp_path), in_peace)


# Long enough for what follows the last step of an epoch: validation, the exported best weights, the checkpoint.
@pytest.mark.parametrize("lifetime", [27, 34])
def test_killed_again_and_again(tmp_path, in_peace, lifetime):
    deaths = 0
    while (code := run(tmp_path, last_moment=lifetime)) != 0:
        assert code == -signal.SIGKILL
        deaths += 1
        assert deaths < 60
    assert deaths > 4
    assert same(outcome(tmp_path), in_peace)


def test_killed_from_outside_at_any_time(tmp_path, in_peace):
    delays = random.Random(1)
    for _ in range(4):
        process = processes.Process(target=train, args=(str(tmp_path),), kwargs={"pause": 0.003})
        process.start()
        time.sleep(delays.uniform(0.05, 0.35))
        process.kill()
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL)
    assert run(tmp_path) == 0
    assert same(outcome(tmp_path), in_peace)


def test_checkpoints_far_apart(tmp_path, in_peace):
    """What was done since the last checkpoint is done again."""
    from dataclasses import replace

    for seconds, steps in ((1e9, 7), (0.0, None), (1e9, None)):
        folder = tmp_path / str(seconds) / str(steps)
        config = replace(CONFIG, checkpoint_seconds=seconds, checkpoint_steps=steps)
        for last_moment in (25, 20):
            assert run(folder, last_moment=last_moment, config=config) == -signal.SIGKILL
        assert run(folder, config=config) == 0
        tensors, state, rows = outcome(folder)
        state["config"] = in_peace[1]["config"]
        assert same((tensors, state, rows), in_peace)
