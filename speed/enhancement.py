"""What enhancement costs: processor seconds for a second of noisy speech.

    python speed/enhancement.py [--seconds 3] [--rounds 3] [--threads 1]

Untrained models of Appendix B on made-up noise, at the defaults of `dvae_lib.enhancement.enhance`: the work does not
depend on the weights. The classical Wiener filter and the NMF baseline stand beside them. All take turns.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch

from dvae_lib.enhancement import bursts, classical_wiener, enhance, mix, nmf_wiener, pink_noise
from dvae_lib.models import build_model

RATE = 16_000
MODELS = ("vae", "dkf", "rvae-causal", "rvae-noncausal", "dsae")


def contestants(noisy: torch.Tensor) -> dict[str, Callable[[], object]]:
    dictionary = torch.rand(513, 32)
    methods: dict[str, Callable[[], object]] = {
        "Wiener filter, no training": partial(classical_wiener, noisy),
        "NMF, 32 spectra": partial(nmf_wiener, noisy, dictionary),
    }
    for name in MODELS:
        model = build_model(name, preset="speech")
        for method in ("peem", "vem"):
            methods[f"{name}, {method}"] = partial(enhance, model, noisy, method=method)
    return methods


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seconds", type=float, default=3.0)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--threads", type=int, default=1)
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    torch.manual_seed(0)
    length = int(chosen.seconds * RATE)
    methods = contestants(mix(bursts(length, RATE), pink_noise(length), 0.0))
    times: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(chosen.rounds):
        for name, run in methods.items():
            started = time.process_time()
            run()
            times[name].append((time.process_time() - started) / chosen.seconds)
    print(f"Processor seconds per second of speech, {chosen.threads} threads, median of {chosen.rounds} rounds in turn")
    for name, values in times.items():
        print(f"{name:28}{statistics.median(values):8.3f}")


if __name__ == "__main__":
    main()
