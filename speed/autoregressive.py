"""A training step of STORN, VRNN and SRNN at the speech sizes of Appendix B, beside bounds from below and above.

    python speed/autoregressive.py [--rounds 9] [--threads 2] [--memory] [--device cuda]

Batches of 128 sequences of 50 frames of 513 bins. Contestants take turns, so that what counts is the ratio:

- *no recursion*, the lower limit: the same layers see all frames at once, noise stands where the loop has the latent
  vectors of earlier frames. It computes no model.
- *plain loop*: one frame after the other, each layer once a frame, decoding inside the loop.
- *generation mode*: the library with feedback=1, which must decode inside the loop.
- *replayed* (CUDA only): the loop as a CUDA graph.

`--memory` measures the peak memory of a training step at T = 1,000 (16 sequences), each in a process of its own.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack

import torch
from torch import Tensor

from dvae_lib.distributions import DiagonalGaussian, kl_divergence, standard_normal
from dvae_lib.models import DVAE, build_model
from dvae_lib.models.draws import Draws
from dvae_lib.models.replay import replay_recursion
from dvae_lib.networks import shift

MODELS = {
    "storn": {},
    "storn, smoother": {"inference_model": "smoother"},
    "vrnn": {},
    "vrnn, smoother": {"inference_model": "smoother"},
    "vrnn-improved": {},
    "srnn": {},
    "srnn, filter": {"inference_model": "filter"},
}
BATCH, FRAMES, BINS = 128, 50, 513
Loss = Callable[[Tensor], Tensor]


def build(name: str, device: str) -> DVAE:
    torch.manual_seed(0)
    return build_model(name.split(",")[0], preset="speech", **MODELS[name]).to(device)


def library(model: DVAE, **options: float) -> Loss:
    return lambda x: -model.vlb(x, **options).value.sum()


def negative_bound(x: Tensor, q: DiagonalGaussian, generated: tuple) -> Tensor:
    return (kl_divergence(q, generated.prior["z"]) - generated.observation.log_prob(x)).sum()


def flat(model: DVAE) -> Loss:
    """The lower limit: the past of z is noise, given beforehand."""

    def loss(x: Tensor) -> Tensor:
        if type(model).__name__ == "STORN" and model.inference_model != "smoother":
            return library(model)(x)  # nothing recurs in this inference
        noise = torch.randn(*x.shape[:2], model.z_dim, device=x.device)
        latents, states = model._infer(x, None, None, Draws({"z": noise}))
        z = {"z": latents["z"].posterior.rsample()}
        auxiliary = model._auxiliary(x, z, None, states)
        bound = negative_bound(x, latents["z"].posterior, model._generate(x, z, None, None, states))
        return bound - sum(term.sum() for term in auxiliary.values())

    return loss


def plain(model: DVAE, name: str) -> Loss | None:
    """Frame by frame, with everything that a frame needs inside the loop; for the default variants."""

    def vrnn(x: Tensor) -> Tensor:
        state, total = model.initial_state(len(x)), x.new_zeros(())
        x_prev, z_prev = torch.zeros_like(x[:, 0]), state["z"]
        for t in range(x.shape[1]):
            inputs = torch.cat([model.phi_x(x_prev), model.phi_z(z_prev)], -1)
            h, state = model.d_h(inputs[:, None], state)
            q = model.z_head(model.e_z(torch.cat([model.phi_x(x[:, t]), h[:, 0]], -1)))
            z_prev, x_prev = q.rsample(), x[:, t]
            p_x = model._observe(h[:, 0], model.phi_z(z_prev))
            total = total + (kl_divergence(q, model._prior(h[:, 0])) - p_x.log_prob(x_prev)).sum()
        return total

    def srnn(x: Tensor) -> Tensor:
        h, _ = model.d_h(model.phi_x(shift(x)))
        g = model.e_g(model.encoder((h, x)))
        z, total = x.new_zeros(len(x), model.z_dim), x.new_zeros(())
        for t in range(x.shape[1]):
            q = model.z_head(model.e_z(torch.cat([g[:, t], z], -1)))
            prior, z = model._prior(z, h[:, t]), q.rsample()
            total = total + (kl_divergence(q, prior) - model._observe(z, h[:, t]).log_prob(x[:, t])).sum()
        return total

    def storn(x: Tensor) -> Tensor:
        q_z = model.inference(x)["z"]
        state, x_prev, total = model.initial_state(len(x)), torch.zeros_like(x[:, 0]), x.new_zeros(())
        for t in range(x.shape[1]):
            out = model.step(state, x_prev, z_t=q_z.sample[:, t])
            state, x_prev = out.state, x[:, t]
            total = total - out.observation.log_prob(x_prev).sum()
        return total + kl_divergence(q_z.posterior, standard_normal(q_z.sample)).sum()

    return {"vrnn": vrnn, "srnn": srnn, "storn": storn}.get(name)


def training_step(model: DVAE, loss: Loss, x: Tensor) -> Callable[[], None]:
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-5)

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        if model.replay is not None:
            model.replay.begin_step()
        loss(x).backward()
        optimiser.step()
        if x.is_cuda:
            torch.cuda.synchronize()

    return step


def compare(name: str, rounds: int, device: str, stack: ExitStack) -> None:
    x = torch.rand(BATCH, FRAMES, BINS, generator=torch.Generator().manual_seed(0)).to(device)
    contestants: dict[str, Callable[[], None]] = {}
    for title, make in {
        "library": library,
        "no recursion": flat,
        "plain loop": lambda model: plain(model, name),
        "generation mode": lambda model: library(model, feedback=1.0),
    }.items():
        model = build(name, device)
        loss = make(model)
        if loss is not None:
            contestants[title] = training_step(model, loss, x)
    if device == "cuda":
        model = build(name, device)
        if type(model).recursion is not DVAE.recursion:
            stack.enter_context(replay_recursion(model, True))
            contestants["replayed"] = training_step(model, library(model), x)
    times: dict[str, list[float]] = {title: [] for title in contestants}
    for round_ in range(rounds + 2):
        for title, step in contestants.items():
            start = time.perf_counter()
            step()
            if round_ >= 2:
                times[title].append(time.perf_counter() - start)
    own = times["library"]
    cells = [f"{1000 * statistics.median(own):.0f}"]
    for title in ("no recursion", "plain loop", "generation mode", "replayed"):
        if title not in times:
            cells.append("")
            continue
        ratio = statistics.median(a / b for a, b in zip(own, times[title], strict=True))
        cells.append(f"{ratio if title in ('no recursion', 'replayed') else 1 / ratio:.2f}")
    print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


def peak_memory(name: str) -> None:
    """In this process: megabytes that a training step at T = 1,000 adds to the process."""
    model, x = build(name, "cpu"), torch.rand(16, 1000, BINS)
    training_step(model, library(model), x[:, :2])()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    training_step(model, library(model), x)()
    print(f"{name}: {(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024:.0f}", flush=True)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    options.add_argument("--rounds", type=int, default=9)
    options.add_argument("--threads", type=int, default=torch.get_num_threads())
    options.add_argument("--device", default="cpu")
    options.add_argument("--memory", action="store_true")
    options.add_argument("--alone", help=argparse.SUPPRESS)
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    if chosen.alone:
        peak_memory(chosen.alone)
        return
    if chosen.memory:
        print("peak memory of a training step, 16 sequences of 1,000 frames, MB beyond the model and the data")
        for name in chosen.models:
            subprocess.run([sys.executable, __file__, "--alone", name], check=True)
        return
    print(f"B={BATCH} T={FRAMES} x={BINS}, {chosen.device}, {chosen.threads} threads, {chosen.rounds} rounds in turn")
    print("| model | step (ms) | step / no recursion | plain loop / step | generation mode / step | step / replayed |")
    print("|---|---:|---:|---:|---:|---:|")
    for name in chosen.models:
        with ExitStack() as stack:
            compare(name, chosen.rounds, chosen.device, stack)


if __name__ == "__main__":
    main()
