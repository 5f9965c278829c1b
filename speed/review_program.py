"""A training step of the review's models beside the program of the review's authors, which is not shipped with ours.

    git clone https://github.com/XiaoyuBIE1994/DVAE
    python speed/review_program.py DVAE [--rounds 9] [--models srnn storn]

Both at the sizes of Appendix B: their configurations for speech, our presets; batches of 128 sequences of 50 frames of
513 bins. They take turns, and what counts is the median ratio of processor time. Theirs is the step of its training
loop, without the anomaly detection that it switches on: a batch (batch, bins, frames) is turned by a view, which all
that reads it pays for. The last column gives it frames that lie in memory as they are read. Ours has the gradient's
norm and flushes denormal numbers, as `fit` does. The data are exponential noise, in which there are none.
"""

import argparse
import configparser
import importlib.util
import math
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import torch

from dvae_lib.denormals import flush_denormals
from dvae_lib.models import build_model

MODELS = {
    "vae": ("vae", "VAE", "vae"),
    "dkf": ("dkf", "DKF", "dkf"),
    "storn": ("storn", "STORN", "storn"),
    "vrnn": ("vrnn", "VRNN", "vrnn"),
    "srnn": ("srnn", "SRNN", "srnn"),
    "rvae-causal": ("rvae", "RVAE", "rvae_Causal"),
    "rvae-noncausal": ("rvae", "RVAE", "rvae_NonCausal"),
    "dsae": ("dsae", "DSAE", "dsae"),
}
BATCH, FRAMES, BINS = 128, 50, 513
Step = Callable[[], float]


def module(path: Path) -> ModuleType:
    """One file of the program: as a package it would ask for what only its training needs."""
    spec = importlib.util.spec_from_file_location(f"review_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def theirs(clone: Path, name: str, x: torch.Tensor, *, as_read: bool = False) -> Step:
    file, title, configuration = MODELS[name]
    options = configparser.ConfigParser()
    options.read(clone / "config" / "speech" / f"cfg_{configuration}.ini")
    loss = module(clone / "dvae" / "utils" / "loss.py")
    model = getattr(module(clone / "dvae" / "model" / f"{file}.py"), f"build_{title}")(options)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    batch = x.transpose(0, 1) if as_read else x.transpose(1, 2)
    batch = batch.contiguous()

    def step() -> float:
        data = batch if as_read else batch.permute(2, 0, 1)
        frames = data.shape[0] * data.shape[1]
        reconstruction = loss.loss_ISD(data, torch.exp(model(data))) / frames
        kl = loss.loss_KLD(model.z_mean, model.z_logvar, model.z_mean_p, model.z_logvar_p)
        if name == "dsae":
            kl = kl + loss.loss_KLD(model.v_mean, model.v_logvar, model.v_mean_p, model.v_logvar_p)
        kl = kl / frames
        total = reconstruction + kl
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        return float(total.item() + reconstruction.item() + kl.item())

    return step


def ours(name: str, x: torch.Tensor) -> Step:
    model = build_model(name, preset="speech")
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)

    def step() -> float:
        with flush_denormals():
            optimizer.zero_grad()
            loss = -model.vlb(x).value.sum() / (len(x) * FRAMES)
            loss.backward()
            norms = [torch.linalg.vector_norm(p.grad) for p in model.parameters() if p.grad is not None]
            norm = torch.linalg.vector_norm(torch.stack(norms))
            optimizer.step()
        return float(loss.item() + norm.item())

    return step


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("clone", type=Path, help="the folder of the program's clone")
    options.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    options.add_argument("--rounds", type=int, default=9)
    chosen = options.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    sys.path.insert(0, str(chosen.clone / "dvae" / "model"))
    x = torch.empty(BATCH, FRAMES, BINS).exponential_()
    print("| model | ours (ms) | ours / theirs | the same, batches turned beforehand |\n|---|---:|---:|---:|")
    ratios: list[list[float]] = [[], []]
    for name in chosen.models:
        steps = [ours(name, x), *(theirs(chosen.clone, name, x, as_read=turned) for turned in (False, True))]
        times: list[list[float]] = [[], [], []]
        for round_ in range(chosen.rounds + 2):
            for step, seconds in zip(steps, times, strict=True):
                start = time.process_time()
                step()
                if round_ >= 2:
                    seconds.append(time.process_time() - start)
        for found, other in zip(ratios, times[1:], strict=True):
            found.append(statistics.median(a / b for a, b in zip(times[0], other, strict=True)))
        own = 1000 * statistics.median(times[0])
        print(f"| {name} | {own:.0f} | {ratios[0][-1]:.2f} | {ratios[1][-1]:.2f} |", flush=True)
    means = (math.exp(statistics.fmean(map(math.log, found))) for found in ratios)
    print("| geometric mean | | " + " | ".join(f"{mean:.2f}" for mean in means) + " |")


if __name__ == "__main__":
    main()
