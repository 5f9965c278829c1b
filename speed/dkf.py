"""A training step of the deep Kalman filter beside Pyro's deep Markov model and beside the same layers run flat.

Run with ``python speed/dkf.py``; `pyro-ppl` is compared where it is installed. All contestants have the same
layers (those of Krishnan et al., 2017: 88 notes, z of 100, RNN of 600), the same data and the same machine, and
take turns, so that what counts is the ratio.

"no recursion" is the lower limit: the same layers see all frames at once, z_{t-1} being replaced by noise. It
computes no model; nothing that has to go through time can be faster.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from dvae_lib.models import DKF
from dvae_lib.networks import shift

BATCH, TIME, NOTES, Z, RNN, EMISSION, TRANSITION = 20, 60, 88, 100, 600, 100, 200


def build() -> DKF:
    torch.manual_seed(0)
    return DKF(
        NOTES,
        Z,
        observation="bernoulli",
        transition=TRANSITION,
        decoder=(EMISSION, EMISSION),
        encoder=(),
        g_dim=RNN,
        cell="rnn",
    )


def trainer(model: nn.Module, loss: Callable[[], Tensor]) -> Callable[[], None]:
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-4)

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        loss().backward()
        optimiser.step()

    return step


def ours(x: Tensor) -> Callable[[], None]:
    model = build()
    return trainer(model, lambda: -model.vlb(x, kl="sampled").value.sum())


def flat(x: Tensor) -> Callable[[], None]:
    """The lower limit: `latents` are given, so the vectorised pass runs; a second pass makes the sample's gradient."""
    model = build()

    def loss() -> Tensor:
        z = torch.randn(BATCH, TIME, Z)
        q = model.z_head(model.e_z(model._combine(shift(z), model._observed(x, None, None))))
        sample = q.rsample()
        generated = model.generation(x, {"z": sample})
        prior, observation = generated.prior["z"], generated.observation
        return -(observation.log_prob(x) + prior.log_prob(sample) - q.log_prob(sample)).sum()

    return trainer(model, loss)


def peer(x: Tensor) -> Callable[[], None] | None:
    try:
        import pyro
        import pyro.distributions as dist
        from pyro.infer import SVI, Trace_ELBO
    except ImportError:
        return None
    pyro.clear_param_store()
    model = build()

    def generate(x: Tensor) -> None:
        pyro.module("dkf", model)
        z = x.new_zeros(BATCH, Z)
        with pyro.plate("sequences", BATCH):
            for t in range(TIME):
                prior = model.d_z(z)
                z = pyro.sample(f"z_{t}", dist.Normal(prior.mean, prior.stddev).to_event(1))
                notes = model.x_head(model.d_x(z))
                pyro.sample(f"x_{t}", dist.Bernoulli(logits=notes.logits).to_event(1), obs=x[:, t])

    def infer(x: Tensor) -> None:
        pyro.module("dkf", model)
        observed = model._observed(x, None, None)
        z = x.new_zeros(BATCH, Z)
        with pyro.plate("sequences", BATCH):
            for t in range(TIME):
                q = model.z_head(model.e_z(model._combine(z, observed[:, t])))
                z = pyro.sample(f"z_{t}", dist.Normal(q.mean, q.stddev).to_event(1))

    svi = SVI(generate, infer, pyro.optim.Adam({"lr": 1e-4}), Trace_ELBO())
    return lambda: svi.step(x)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=15)
    options.add_argument("--threads", type=int, default=torch.get_num_threads())
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    torch.manual_seed(0)
    x = (torch.rand(BATCH, TIME, NOTES) < 0.05).float()
    contestants = {"dvae_lib": ours(x), "no recursion": flat(x), "Pyro": peer(x)}
    contestants = {name: step for name, step in contestants.items() if step is not None}
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for round_ in range(chosen.rounds + 2):
        for name, step in contestants.items():
            start = time.perf_counter()
            step()
            if round_ >= 2:
                times[name].append(time.perf_counter() - start)
    own = statistics.median(times["dvae_lib"])
    print(f"B={BATCH} T={TIME} x={NOTES} z={Z} RNN={RNN}, {chosen.threads} threads, {chosen.rounds} rounds in turn")
    print(f"{'':14}{'median ms':>12}{'min ms':>10}{'dvae_lib / it':>16}")
    for name, values in times.items():
        median = statistics.median(values)
        print(f"{name:14}{1000 * median:12.1f}{1000 * min(values):10.1f}{own / median:16.2f}")


if __name__ == "__main__":
    main()
