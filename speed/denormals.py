"""What denormal numbers cost a training step on speech, and what flushing them to zero changes.

    python speed/denormals.py [--rounds 5]

Each model takes training steps on power spectrograms of `prompts` (batches of 32 sequences of 50 frames, Appendix B's
sizes, new weights), in turn with and without `flush_denormals`. Medians of processor time, which other programs disturb
least. Then two copies of one model take the same steps, one with and one without: how far apart are they?
"""

import argparse
import copy
import statistics
import time
from contextlib import nullcontext

import torch

from dvae_lib.data import load_corpus
from dvae_lib.denormals import flush_denormals
from dvae_lib.models import MODELS, build_model

BATCH = 32


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=5)
    rounds = options.parse_args().rounds
    torch.set_num_threads(1)
    train = load_corpus("prompts").train
    batches = [train.batch(list(range(BATCH * i, BATCH * (i + 1)))).x for i in range(rounds + 1)]
    print("| model | as it is, ms | flushed, ms | ratio | bound after all steps, both, nats per frame |")
    print("|---|---|---|---|---|")
    for name in (n for n in MODELS if n not in ("kvae",)):  # the KVAE observes images or poses, not power spectra
        torch.manual_seed(0)
        model = build_model(name, preset="speech")
        twins = {False: model, True: copy.deepcopy(model)}
        optimisers = {f: torch.optim.Adam(twin.parameters(), lr=2e-3) for f, twin in twins.items()}
        seconds: dict[bool, list[float]] = {False: [], True: []}
        values = {}
        for i, x in enumerate(batches):
            for flush, twin in twins.items():
                with flush_denormals() if flush else nullcontext():
                    start = time.process_time()
                    bound = twin.vlb(x, generator=torch.Generator().manual_seed(i)).value.mean()
                    (-bound).backward()
                    optimisers[flush].step()
                    optimisers[flush].zero_grad()
                    if i:  # the first one warms up
                        seconds[flush].append(time.process_time() - start)
                    values[flush] = bound.item() / x.shape[1]
        plain, flushed = (statistics.median(seconds[flush]) for flush in (False, True))
        print(
            f"| {name} | {1000 * plain:.0f} | {1000 * flushed:.0f} | {plain / flushed:.1f} | "
            f"{values[False]:.3f}, {values[True]:.3f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
