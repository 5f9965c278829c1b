r"""One graph with four memories: what each makes of sequences whose past matters for a known number of frames.

    python -m dvae_lib.experiments.studies.memories [EXPERIMENT ...] [--seeds 0 1 2]

`echo`: an STCN with one level, :math:`p(\mathbf{z}_t | \mathbf{d}_t)`, :math:`p(\mathbf{x}_t | \mathbf{z}_t)`, whose
memory :math:`\mathbf{d}_t` is a gated recurrent unit, a temporal convolution with a short and one with a long receptive
field, attention, or a linear recurrence, with about the same number of weights. The sequences echo themselves, by
:math:`x_t = a x_{t-K} + \sqrt{1 - a^2}\, \epsilon_t`: their log-likelihood is known, and so is the best that any model
can do that sees fewer than K frames. All are trained alike, for the same number of steps, on new sequences in each. The
settings were settled in trials, so that latents do not fall silent, and for no memory by itself. Ten seconds for each
training on a CPU core.

`ladder`: the same with posteriors that are products with the priors, in which latents fall silent.

`speed`: how much time of a processor a training step takes for sequences of 100, 400 and 1,600 frames, on one thread,
and a generated frame after so many. The memories take turns, and the least of several times is kept.

The result is data/results/memories.json.
"""

import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from dvae_lib.experiments.records import Record
from dvae_lib.experiments.results import ResultFile, Task, complete
from dvae_lib.experiments.studies.command import RESULTS, parser, select
from dvae_lib.models import STCN

__all__ = ["CONTESTANTS", "KEY", "MemoriesProtocol", "echo", "main", "memory_model", "train_echo"]

KEY = ("experiment", "memory", "seed")

CONTESTANTS: dict[str, dict[str, Any]] = {
    "tcn-short": {"memory": "tcn", "kernel": 2, "layers": 3, "h_dim": 32},
    "tcn-long": {"memory": "tcn", "kernel": 2, "layers": 5, "h_dim": 24},
    "attention": {"memory": "attention", "layers": 2, "heads": 4, "h_dim": 32},
    "linear": {"memory": "linear", "layers": 2, "h_dim": 32},
    "gru": {"memory": "gru", "h_dim": 72},
}
"""How each model's memory is built; receptive fields: 8 frames, 32, and all of the past for the others."""


@dataclass(frozen=True)
class MemoriesProtocol:
    """How the sequences are made, and the models trained and timed.

    Attributes:
        lag: Number K of frames after which a sequence echoes.
        strength: The factor a.
        scale: Standard deviation of a frame given its latent vector: smaller than that given the past, so that the
            model can be exact, and so small that latent vectors are needed from the start.
        x_dim: Number of independent echoes, which are the entries of a frame.
        frames: Frames of a sequence to train and to test on.
        steps: Steps of a training (Adam).
        annealed: Share of the steps over which the weight of the KL term rises to one: latents shall not fall silent.
        batch_size: Sequences of a step.
        learning_rate: At its highest, after a twentieth of the steps; it falls to zero along a cosine.
        test_sequences: Number of sequences to test on.
        lengths: Frames of a sequence in the timed steps.
        repeats: How often a step is timed.
    """

    lag: int = 12
    strength: float = 0.9
    scale: float = 0.3
    x_dim: int = 2
    frames: int = 40
    steps: int = 800
    annealed: float = 0.3
    batch_size: int = 16
    learning_rate: float = 5e-3
    test_sequences: int = 256
    lengths: tuple[int, ...] = (100, 400, 1600)
    repeats: int = 5

    @property
    def innovation(self) -> float:
        """The standard deviation of a frame given the past."""
        return math.sqrt(1 - self.strength**2)

    @property
    def truth(self) -> float:
        """The expected log-likelihood of a frame, in nats, where frame t - K has been seen."""
        return -self.x_dim * math.log(self.innovation * math.sqrt(2 * math.pi * math.e))

    @property
    def without_memory(self) -> float:
        """The best expected log-likelihood of a frame for who sees fewer than K frames: that of white noise."""
        return -self.x_dim * math.log(math.sqrt(2 * math.pi * math.e))


def echo(
    num_sequences: int, num_frames: int, protocol: MemoriesProtocol, generator: Generator
) -> Float[Tensor, "sequences frames x_dim"]:
    r"""Sequences :math:`x_t = a x_{t-K} + \sqrt{1 - a^2}\, \epsilon_t` with variance one, entry by entry.

    Frames less than K apart are independent.

    Arguments:
        num_sequences: Their number.
        num_frames: Their length.
        protocol: Says K and a.
        generator: Source of randomness.
    """
    x = torch.randn(num_sequences, num_frames, protocol.x_dim, generator=generator)
    for t in range(protocol.lag, num_frames):
        x[:, t] = protocol.strength * x[:, t - protocol.lag] + protocol.innovation * x[:, t]
    return x


def memory_model(name: str, protocol: MemoriesProtocol, *, ladder: bool = False) -> STCN:
    """A contestant, with its initial weights drawn from torch's global generator."""
    sizes: dict[str, Any] = {"above": (), "ladder": ladder, "prior": (32,), "decoder": (32,), "encoder": (32,)}
    observation = f"gaussian(scale={protocol.scale})"
    return STCN(protocol.x_dim, protocol.x_dim, observation=observation, **sizes, **CONTESTANTS[name])


def train_echo(name: str, seed: int, protocol: MemoriesProtocol, *, ladder: bool = False) -> STCN:
    """Train a contestant, on new sequences in each step.

    Arguments:
        name: One of `CONTESTANTS`.
        seed: Of the initial weights, the sequences and the samples.
        protocol: How.
        ladder: Whether posteriors are products with the priors.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = memory_model(name, protocol, ladder=ladder)
    generator = Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=protocol.learning_rate)
    warm_up = max(1, protocol.steps // 20)

    def rate(step: int) -> float:
        return min((step + 1) / warm_up, 0.5 + 0.5 * math.cos(math.pi * step / protocol.steps))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    for step in range(protocol.steps):
        x = echo(protocol.batch_size, protocol.frames, protocol, generator)
        beta = min(1.0, (step + 1) / max(1.0, protocol.annealed * protocol.steps))
        optimizer.zero_grad()
        (-model.vlb(x, beta=beta, generator=generator).value.mean() / protocol.frames).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()


@torch.no_grad()
def bound_by_frame(model: STCN, x: Float[Tensor, "sequences frames x_dim"], generator: Generator) -> Tensor:
    """The bound of each frame, in nats, averaged over sequences."""
    output = model(x, generator=generator)
    posterior, prior = output.latents["z"].posterior, output.latents["z"].prior
    kl = torch.distributions.kl_divergence(posterior, prior)
    found: Tensor = (output.observation.log_prob(x) - kl).mean(0)
    return found


def echo_task(experiment: str, name: str, seed: int, protocol: MemoriesProtocol) -> Task:
    """Train one contestant and test it, on sequences that are the same for all.

    Arguments:
        experiment: "echo" or "ladder".
        name: One of `CONTESTANTS`.
        seed: Of the training.
        protocol: How.
    """

    def compute() -> list[Record]:
        begun = time.perf_counter()
        model = train_echo(name, seed, protocol, ladder=experiment == "ladder")
        test = echo(protocol.test_sequences, protocol.frames, protocol, Generator().manual_seed(10_000))
        bound = bound_by_frame(model, test, Generator().manual_seed(20_000))
        record: Record = {
            "experiment": experiment,
            "memory": name,
            "seed": seed,
            "weights": sum(p.numel() for p in model.d_h.parameters()),
            "receptive_field": model.receptive_field,
            "first": round(float(bound[: protocol.lag].mean()), 4),  # nothing to remember yet
            "bound": round(float(bound[protocol.lag :].mean()), 4),
            "truth": round(protocol.truth, 4),
            "without_memory": round(protocol.without_memory, 4),
            "lag": protocol.lag,
            "steps": protocol.steps,
            "seconds": round(time.perf_counter() - begun),
        }
        return [record]

    return Task([{"experiment": experiment, "memory": name, "seed": seed}], compute)


# --------------------------------------------------------------------------------------------------------------- speed


def speed_task(names: Sequence[str], protocol: MemoriesProtocol) -> Task:
    """Time all contestants, side by side.

    Arguments:
        names: Some of `CONTESTANTS`.
        protocol: How.
    """

    def compute() -> list[Record]:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            models = {name: memory_model(name, protocol) for name in names}
            training = {
                n: _least({name: _training_step(model, n) for name, model in models.items()}, protocol.repeats)
                for n in protocol.lengths
            }
            frame = {
                n: _least({name: _generating_step(model, n) for name, model in models.items()}, 4 * protocol.repeats)
                for n in protocol.lengths
            }
        finally:
            torch.set_num_threads(threads)
        return [
            {
                "experiment": "speed",
                "memory": name,
                "seed": 0,
                "training_ms": {str(n): round(1e3 * training[n][name], 2) for n in protocol.lengths},
                "frame_ms": {str(n): round(1e3 * frame[n][name], 3) for n in protocol.lengths},
                "kept": {str(n): models[name].d_h.state_size(n) for n in protocol.lengths},
            }
            for name in names
        ]

    return Task([{"experiment": "speed", "memory": name, "seed": 0} for name in names], compute)


def _least(calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """The least processor time of each call, in seconds; they take turns, so that what else runs falls on all."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repeats + 1):
        for name, call in calls.items():
            begun = time.process_time()
            call()
            if turn:  # the first time is for warming up
                times[name].append(time.process_time() - begun)
    return {name: min(values) for name, values in times.items()}


def _training_step(model: STCN, num_frames: int) -> Callable[[], object]:
    """Bound and gradient of eight sequences."""
    x = torch.randn(8, num_frames, model.x_dim, generator=Generator().manual_seed(0))

    def step() -> None:
        model.zero_grad()
        (-model.vlb(x, generator=Generator().manual_seed(1)).value.mean()).backward()

    return step


@torch.no_grad()
def _generating_step(model: STCN, num_frames: int) -> Callable[[], object]:
    """One more frame of a sequence that has so many."""
    x = torch.randn(1, num_frames, model.x_dim, generator=Generator().manual_seed(0))
    _, state = model.d_h(x)
    last = x[:, -1]

    @torch.no_grad()
    def step() -> object:
        return model.step(state, last, generator=Generator().manual_seed(1))

    return step


def main(arguments: Sequence[str] | None = None, protocol: MemoriesProtocol | None = None) -> int:
    """The command line."""
    options = parser(__doc__)
    options.add_argument("experiments", nargs="*", metavar="EXPERIMENT", help="echo, ladder, speed")
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options.add_argument("--output", type=Path, default=RESULTS / "memories.json")
    options.add_argument("--again", action="store_true", help="compute also what is in the file already")
    chosen = options.parse_args(arguments)
    settings = MemoriesProtocol() if protocol is None else protocol
    tasks: list[Task] = []
    for experiment in select(options, chosen.experiments, ["echo", "ladder", "speed"]):
        if experiment == "speed":
            tasks += [speed_task(list(CONTESTANTS), settings)]
        else:
            tasks += [echo_task(experiment, name, seed, settings) for seed in chosen.seeds for name in CONTESTANTS]
    complete(ResultFile(chosen.output, KEY), tasks, again=chosen.again)
    return 0


if __name__ == "__main__":
    sys.exit(main())
