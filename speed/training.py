"""What the training loop costs over the bare step, and how much of a step waits for data.

    python speed/training.py

Sizes of the review's Appendix B: batches of 128 sequences of 50 frames of 513 bins. The data stand in a memory
map, as the feature cache's do. Bare steps and the loop take turns in one process, and the medians are compared.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from dvae_lib.data.sequences import SequenceDataset
from dvae_lib.models import MODELS, build_model
from dvae_lib.training import TrainingConfig, fit, training_fabric
from dvae_lib.training.checkpoints import save_checkpoint

BATCH, FRAMES, BINS = 128, 50, 513


def memory_mapped_speech(path: Path, steps: int) -> SequenceDataset:
    """Power spectra of made-up speech, on disk."""
    frames = np.memmap(path, dtype=np.float32, mode="w+", shape=(steps * BATCH * FRAMES, BINS))
    frames[:] = np.random.default_rng(0).exponential(size=frames.shape)
    frames.flush()
    block = np.memmap(path, dtype=np.float32, mode="c", shape=frames.shape)
    return SequenceDataset.from_frames(block, [0], [len(block)], sequence_length=FRAMES)


def seconds_of_bare_steps(name: str, batch: torch.Tensor, steps: int) -> float:
    model = build_model(name, preset="speech").to(batch.device)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    started = time.perf_counter()
    for _ in range(steps):
        optimizer.zero_grad()
        (-model.vlb(batch).value.mean() / FRAMES).backward()
        optimizer.step()
    if batch.is_cuda:
        torch.cuda.synchronize()
    return (time.perf_counter() - started) / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["vae"], choices=list(MODELS))
    parser.add_argument("--steps", type=int, default=12, help="steps in an epoch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--accelerator", default="auto")
    options = parser.parse_args()
    fabric = training_fabric(options.accelerator)
    config = TrainingConfig(batch_size=BATCH, max_epochs=1, patience=None)
    with tempfile.TemporaryDirectory() as folder:
        data = memory_mapped_speech(Path(folder) / "frames.f32", options.steps)
        batch = data.batch(range(BATCH)).x.to(fabric.device)
        print(f"{fabric.device}, {torch.get_num_threads()} threads; medians of {options.rounds} rounds")
        print("| model | bare step (ms) | step of the loop (ms) | loop / bare | waiting for data | checkpoint (ms) |")
        print("|---|---|---|---|---|---|")
        for name in options.models:
            bare, loop, waiting = [], [], []
            for i in range(options.rounds + 1):
                bare.append(seconds_of_bare_steps(name, batch, options.steps))
                model = build_model(name, preset="speech")
                record = fit(model, data, None, config, fabric=fabric, progress=False).history[0]
                loop.append(record["seconds"] / options.steps)
                waiting.append(record["data_seconds"] / record["seconds"])
                if i == 0:  # caches are cold
                    bare, loop, waiting = [], [], []
            weights = dict(model.state_dict())
            tensors = {f"{part}.{k}": v for part in ("model", "best", "m", "v") for k, v in weights.items()}
            started = time.perf_counter()
            save_checkpoint(Path(folder) / "checkpoint", tensors, {})
            saving = time.perf_counter() - started
            pairs = statistics.median(a / b for a, b in zip(loop, bare, strict=True))
            print(
                f"| {name} | {statistics.median(bare) * 1e3:.1f} | {statistics.median(loop) * 1e3:.1f} | {pairs:.2f} "
                f"| {statistics.median(waiting):.1%} | {saving * 1e3:.0f} |"
            )


if __name__ == "__main__":
    main()
