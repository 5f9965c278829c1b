"""What the evaluation of a model costs: reconstruction and bound from one pass, and from two.

    python speed/evaluation.py [--rounds 9] [--threads 1]

Untrained models at the sizes of Appendix B, a batch of 16 utterances of 200 frames, 513 bins. Both ways take turns.
"""

import argparse
import statistics
import time
from functools import partial

import torch
from torch import Generator, Tensor

from dvae_lib.data.sequences import SequenceDataset
from dvae_lib.evaluation import score_sequences
from dvae_lib.models import DVAE, build_model

CASES = (("vae", 0.0), ("rvae-noncausal", 0.0), ("srnn", 0.0), ("srnn", 1.0), ("vrnn", 0.0), ("vrnn", 1.0))


@torch.no_grad()
def two_passes(model: DVAE, x: Tensor, feedback: float) -> None:
    generator = Generator().manual_seed(0)
    model.reconstruct(x, feedback=feedback, generator=generator)
    model.vlb(x, feedback=feedback, generator=generator)


def one_pass(model: DVAE, data: SequenceDataset, feedback: float) -> None:
    score_sequences(model, data, feedback=feedback, generator=Generator().manual_seed(0))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=9)
    options.add_argument("--threads", type=int, default=1)
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    torch.manual_seed(0)
    x = torch.rand(16, 200, 513) + 0.1
    data = SequenceDataset(list(x))
    print(f"Milliseconds, {chosen.threads} threads, median of {chosen.rounds} rounds in turn")
    print(f"{'model':18}{'mode':>18}{'two passes':>12}{'one':>8}{'ratio':>8}")
    for name, feedback in CASES:
        model = build_model(name, preset="speech").eval()
        ways = (partial(two_passes, model, x, feedback), partial(one_pass, model, data, feedback))
        times: tuple[list[float], list[float]] = ([], [])
        for measured in (False, *[True] * chosen.rounds):
            for kept, run in zip(times, ways, strict=True):
                started = time.perf_counter()
                run()
                if measured:
                    kept.append(1e3 * (time.perf_counter() - started))
        two, one = map(statistics.median, times)
        mode = "generation mode" if feedback else "teacher forcing"
        print(f"{name:18}{mode:>18}{two:12.0f}{one:8.0f}{one / two:8.2f}")


if __name__ == "__main__":
    main()
