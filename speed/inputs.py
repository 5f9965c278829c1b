"""What a training step costs when the networks read standardised logarithms instead of powers.

    python speed/inputs.py

Sizes of the review's Appendix B, in batches of 32 sequences of 50 frames of made-up power spectra. Steps of the two
take turns in one process; processor time counts, and the median of the ratios of neighbours.
"""

import argparse
import statistics
import time

import torch

from dvae_lib.data.sequences import SequenceDataset
from dvae_lib.models import DVAE, MODELS, build_model
from dvae_lib.models.reading import INPUTS

BATCH, FRAMES, BINS = 32, 50, 513


def seconds_of_steps(model: DVAE, batch: torch.Tensor, steps: int) -> float:
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    started = time.process_time()
    for _ in range(steps):
        optimizer.zero_grad()
        (-model.vlb(batch).value.mean() / FRAMES).backward()
        optimizer.step()
    return (time.process_time() - started) / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["vae", "srnn", "dkf"], choices=list(MODELS))
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    torch.manual_seed(0)
    batch = torch.distributions.Exponential(1.0).sample((BATCH, FRAMES, BINS))
    data = SequenceDataset.from_frames(batch.flatten(0, 1).numpy(), [0], [BATCH * FRAMES], sequence_length=FRAMES)
    print(f"{torch.get_num_threads()} threads; medians of {options.rounds} rounds")
    print("| model | powers (ms) | logarithms (ms) | logarithms / powers |")
    print("|---|---|---|---|")
    for name in options.models:
        models = {inputs: build_model(name, preset="speech") for inputs in INPUTS}
        for inputs, model in models.items():
            model.read_as(inputs, data)
        x = data.batch(range(BATCH)).x
        rounds = []
        for _ in range(options.rounds + 1):  # in the first caches are cold
            rounds.append([seconds_of_steps(model, x, options.steps) for model in models.values()])
        power, log = zip(*rounds[1:], strict=True)
        ratio = statistics.median(b / a for a, b in zip(power, log, strict=True))
        print(f"| {name} | {statistics.median(power) * 1e3:.1f} | {statistics.median(log) * 1e3:.1f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
