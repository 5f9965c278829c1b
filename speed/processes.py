"""What a second process brings to a training, with one thread each.

    python speed/processes.py

`torchrun` starts one process and two in turn; the batch is divided among them, and their gradients are averaged at
every step. Seconds of an epoch are those that `fit` records, without the first epoch.
"""

import argparse
import csv
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

SIZES = {
    "VAE, 8 numbers a frame, 32 sequences of 50": ("VAE(8, 2)", 8, 32),
    "VAE, 8 numbers a frame, 512 sequences of 50": ("VAE(8, 2)", 8, 512),
    "SRNN of Appendix B, 16 sequences of 50": ("build_model('srnn', preset='speech')", 513, 16),
    "SRNN of Appendix B, 128 sequences of 50": ("build_model('srnn', preset='speech')", 513, 128),
}
"""What is built, numbers of a frame, and sequences of a batch."""

SCRIPT = """
import sys

import torch

from dvae_lib.data import SequenceDataset
from dvae_lib.models import VAE, build_model
from dvae_lib.training import TrainingConfig, fit

torch.manual_seed(0)
frames = torch.distributions.Exponential(1.0).sample(({steps} * {batch} * 50, {x_dim}))
data = SequenceDataset.from_frames(frames.numpy(), [0], [len(frames)], sequence_length=50)
config = TrainingConfig(batch_size={batch}, max_epochs={epochs}, patience=None)
fit({model}, data, None, config, folder=sys.argv[1], progress=False)
"""


def seconds_of_an_epoch(script: Path, folder: Path, processes: int) -> float:
    """The median over the epochs but the first."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, script, folder], env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    with (folder / "history.csv").open() as file:
        return statistics.median(float(record["seconds"]) for record in list(csv.DictReader(file))[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8, help="steps in an epoch")
    parser.add_argument("--epochs", type=int, default=4)
    options = parser.parse_args()
    print("| | one process: ms a step | two processes: one process, time for time |")
    print("|---|---:|---:|")
    for name, (model, x_dim, batch) in SIZES.items():
        alone, ratios = [], []
        for i in range(options.rounds):
            with tempfile.TemporaryDirectory() as place:
                script = Path(place) / "train.py"
                given = {"model": model, "x_dim": x_dim, "batch": batch}
                script.write_text(SCRIPT.format(**given, steps=options.steps, epochs=options.epochs))
                one, two = (seconds_of_an_epoch(script, Path(place) / f"{n}-{i}", n) for n in (1, 2))
            alone.append(one / options.steps)
            ratios.append(two / one)
        print(f"| {name} | {statistics.median(alone) * 1e3:.1f} | {statistics.median(ratios):.2f} |", flush=True)


if __name__ == "__main__":
    main()
