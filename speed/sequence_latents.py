"""A training step of RVAE and DSAE, beside the same work without a recursion in the latent vectors.

    python speed/sequence_latents.py [--rounds 9] [--threads 1] [--sizes speech small] [--device cuda]

Batches of 128 sequences of 50 frames at the speech sizes of Appendix B; *small*: 32 sequences of 50 frames of 20
values, z of 4, LSTMs of 32 units. Contestants take turns, so that what counts is the ratio:

- *no recursion*, the lower limit: the same layers see all frames at once, noise stands where the loop has the latent
  vectors of earlier frames. It computes no model.
- *replayed* (CUDA only): the loop as a CUDA graph.

The last column is the step without its optimiser, forward and backward pass alone, in ratio to the same of the limit.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack

import torch
from torch import Tensor

from dvae_lib.distributions import DiagonalGaussian, kl_divergence
from dvae_lib.models import DVAE, build_model
from dvae_lib.models.draws import Draws
from dvae_lib.models.replay import replay_recursion

MODELS = {
    "rvae-causal": {},
    "rvae-causal, filter": {"inference_model": "filter"},
    "rvae-noncausal": {},
    "rvae-noncausal, filter": {"inference_model": "filter"},
    "dsae, full": {},
    "dsae, factorised": {"inference_model": "factorised"},
    "dsae, structured": {"inference_model": "structured"},
}
SIZES = {
    "speech": (128, {"preset": "speech"}),
    "small": (32, {"x_dim": 20, "z_dim": 4, "h_dim": 32, "g_dim": 32}),
}
FRAMES = 50
Loss = Callable[[Tensor], Tensor]


def build(name: str, options: dict, device: str) -> DVAE:
    torch.manual_seed(0)
    return build_model(name.split(",")[0], **options, **MODELS[name]).to(device)


def library(model: DVAE) -> Loss:
    return lambda x: -model.vlb(x).value.sum()


def flat(model: DVAE) -> Loss:
    """The lower limit: the past of z is noise, given beforehand. Each layer runs once over all frames."""

    def loss(x: Tensor) -> Tensor:
        z = torch.randn(*x.shape[:2], model.z_dim, device=x.device)
        if type(model).__name__ == "DSAE":
            if model.inference_model != "structured":
                return library(model)(x)  # nothing recurs in this inference
            # The states that the posterior is made of serve the prior too, as they do in the loop.
            latents, states = model._infer(x, None, None, Draws({"z": z}))
            q_v, v = latents["v"].posterior, latents["v"].sample
            q_z: DiagonalGaussian = latents["z"].posterior
            generated = model._generate(x, {"z": q_z.rsample(), "v": v}, None, None, states)
            kl = kl_divergence(q_v, generated.prior["v"]).sum() + kl_divergence(q_z, generated.prior["z"]).sum()
        else:
            q_z = model.inference(x, latents={"z": z})["z"].posterior
            generated = model.generation(x, {"z": q_z.rsample()})
            kl = kl_divergence(q_z, generated.prior["z"]).sum()
        return kl - generated.observation.log_prob(x).sum()

    return loss


def training_step(model: DVAE, loss: Loss, x: Tensor) -> Callable[[], tuple[float, float]]:
    """Seconds that forward and backward pass took, and with the optimiser."""
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-5)

    def now() -> float:
        if x.is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    def step() -> tuple[float, float]:
        start = now()
        optimiser.zero_grad(set_to_none=True)
        if model.replay is not None:
            model.replay.begin_step()
        loss(x).backward()
        middle = now()
        optimiser.step()
        return middle - start, now() - start

    return step


def compare(name: str, size: str, rounds: int, device: str, stack: ExitStack) -> None:
    batch, options = SIZES[size]
    contestants = {}
    for title, make in {"library": library, "no recursion": flat}.items():
        model = build(name, options, device)
        x = torch.rand(batch, FRAMES, model.x_dim, generator=torch.Generator().manual_seed(0)).to(device)
        contestants[title] = training_step(model, make(model), x)
    if device == "cuda":
        model = build(name, options, device)
        if not (name.startswith("dsae") and model.inference_model != "structured"):
            stack.enter_context(replay_recursion(model, True))
            contestants["replayed"] = training_step(model, library(model), x)
    times: dict[str, list[tuple[float, float]]] = {title: [] for title in contestants}
    for round_ in range(rounds + 2):
        for title, step in contestants.items():
            seconds = step()
            if round_ >= 2:
                times[title].append(seconds)

    def ratio(title: str, part: int) -> str:
        if title not in times:
            return ""
        return (
            f"{statistics.median(a[part] / b[part] for a, b in zip(times['library'], times[title], strict=True)):.2f}"
        )

    own = f"{1000 * statistics.median(whole for _, whole in times['library']):.0f}"
    cells = [name, size, own, ratio("no recursion", 1), ratio("replayed", 1), ratio("no recursion", 0)]
    print(f"| {' | '.join(cells)} |", flush=True)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    options.add_argument("--sizes", nargs="+", default=list(SIZES), choices=list(SIZES))
    options.add_argument("--rounds", type=int, default=9)
    options.add_argument("--threads", type=int, default=torch.get_num_threads())
    options.add_argument("--device", default="cpu")
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    print(f"T={FRAMES}, {chosen.device}, {chosen.threads} threads, {chosen.rounds} rounds in turn")
    print("| model | sizes | step (ms) | step / no recursion | step / replayed | the same, without optimiser |")
    print("|---|---|---:|---:|---:|---:|")
    for size in chosen.sizes:
        for name in chosen.models:
            with ExitStack() as stack:
                compare(name, size, chosen.rounds, chosen.device, stack)


if __name__ == "__main__":
    main()
