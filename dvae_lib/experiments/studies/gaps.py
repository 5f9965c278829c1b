"""Where the bound is lost: one frozen generative model, and inference from a filter up to the truth.

    python -m dvae_lib.experiments.studies.gaps [NAME ...] [--seeds 0 1 2]

Three generative models: a linear-Gaussian one, the growth model, and the deep Kalman filter of Bach's chorales that
travels with the library. Their weights stay as they are. For each seed a filter and a smoother are trained for them as
inference models, for a fixed number of steps; of the growth model also a smoother whose posteriors are planar flows.
Then, on sequences that nobody trained on, the smoother's posteriors are refined by gradients, with Gaussians and with
planar flows, and by a learned update; and amortized variational filtering goes from the prior. Nothing is chosen by any
result. The result is data/results/gaps.json: bounds in nats per frame of each test sequence, beside the log-likelihood,
which is exact but for the chorales, where a particle filter estimates it; and of the growth model where the trained
smoother believes the states to be. A model and a seed take one to eight minutes on two
busy cores.
"""

import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from dvae_lib.data.music import load_chorales
from dvae_lib.data.pretrained import pretrained_folder
from dvae_lib.experiments.inference_gaps import (
    InferredGrowth,
    InferredLinear,
    best_filter_bound,
    greedy_filter_bound,
)
from dvae_lib.experiments.records import Record
from dvae_lib.experiments.results import ResultFile, Task, complete
from dvae_lib.experiments.scalar_models import grid_evidence, growth_data
from dvae_lib.experiments.studies.command import RESULTS, parser, select
from dvae_lib.inference import UpdateNetwork, iterate, learn_update, refine, variational_filter
from dvae_lib.models import DVAE

__all__ = ["BENCHES", "KEY", "Bench", "GapProtocol", "gap_task", "main", "stairs", "train_inference"]

KEY = ("model", "seed")
GENERATIVE = ("d_z", "d_x", "x_head")
"""The networks of the deep Kalman filter that belong to the generative model."""


class Measured(NamedTuple):
    """Sequences of one length, with the inputs of a driven model."""

    x: Tensor
    u: Tensor | None = None


class Bench(NamedTuple):
    """A frozen generative model, with what is needed to measure on it.

    Attributes:
        build: A model with a new inference network, of a structure ("smoother" or "filter") and a family.
        sequences: So many sequences of so many frames, for training or for the test.
        known: What is known exactly of test sequences, by name: log-likelihood ("truth") and bounds, in nats, (B,).
        trained_flow: Whether a smoother with flows is trained, too.
        path: Whether the trained smoother's means are kept, of latents of one entry.
    """

    build: Callable[[str, str], DVAE]
    sequences: Callable[[int, int, Generator, bool], Measured]
    known: Callable[[DVAE, Measured], Mapping[str, Tensor]]
    trained_flow: bool = False
    path: bool = False


@dataclass(frozen=True)
class GapProtocol:
    """How inference models are trained, refined and tested.

    Attributes:
        sequences: Number of test sequences.
        frames: Frames of each sequence.
        steps: Steps of a training (Adam); a training with flows has as many.
        batch_size: Sequences of a step.
        learning_rate: At the start; it falls to zero along a cosine.
        refinement_steps: Gradient steps of a refinement.
        update_steps: Steps of the training of the update network.
        iterations: Of the learned update.
        filter_iterations: Of amortized variational filtering, along the natural gradient.
        num_samples: Draws that a bound is averaged over.
        importance_samples: Of the importance-weighted bound.
        particles: Of a particle filter; it is run `particle_runs` times.
        particle_runs: How often.
    """

    sequences: int = 16
    frames: int = 16
    steps: int = 600
    batch_size: int = 32
    learning_rate: float = 5e-3
    refinement_steps: int = 150
    update_steps: int = 30
    iterations: int = 5
    filter_iterations: int = 20
    num_samples: int = 100
    importance_samples: int = 100
    particles: int = 2000
    particle_runs: int = 4


def _linear(count: int, frames: int, generator: Generator, training: bool) -> Measured:
    return Measured(InferredLinear().generate(frames, count, generator=generator).x.detach())


def _growth(count: int, frames: int, generator: Generator, training: bool) -> Measured:
    x, u, _ = growth_data(count, frames, generator)
    return Measured(x, u)


def _chorales(count: int, frames: int, generator: Generator, training: bool) -> Measured:
    """Beginnings of test chorales, in order; or a draw of training pieces."""
    splits = load_chorales(sequence_length=frames) if training else load_chorales()
    part = splits.train if training else splits.test
    long = [i for i, length in enumerate(part.lengths.tolist()) if length >= frames]
    chosen = torch.randint(len(long), (count,), generator=generator).tolist() if training else range(count)
    return Measured(part.batch([long[i] for i in chosen]).x[:, :frames])


def _shipped() -> DVAE:
    folder = pretrained_folder("dkf-chorales")
    if folder is None:
        raise FileNotFoundError("the library's model dkf-chorales is not there: train it by the chorales' study")
    return DVAE.from_pretrained(folder)


def _chorale_model(structure: str, posterior: str) -> DVAE:
    """The deep Kalman filter that travels with the library, with a new inference network."""
    shipped = _shipped()
    model = type(shipped)(**{**shipped.options, "inference_model": structure, "posterior": posterior})
    weights = {k: v for k, v in shipped.state_dict().items() if k.split(".")[0] in GENERATIVE}
    model.load_state_dict(weights, strict=False)
    for name in GENERATIVE:
        model.get_submodule(name).requires_grad_(False)
    return model


def _known_linear(model: DVAE, test: Measured) -> dict[str, Tensor]:
    assert isinstance(model, InferredLinear)
    best, truth = best_filter_bound(model, test.x)
    return {"truth": truth, "best_filter": best, "greedy_filter": greedy_filter_bound(model, test.x)}


def _known_growth(model: DVAE, test: Measured) -> dict[str, Tensor]:
    assert isinstance(model, InferredGrowth)
    return {"truth": grid_evidence(model, test.x, test.u, low=-45.0, high=45.0, size=1500)[0]}


@torch.no_grad()
def _known_chorales(model: DVAE, test: Measured) -> dict[str, Tensor]:
    """The bound with the inference model that the generative one was trained with."""
    return {"shipped": _shipped().vlb(test.x, num_samples=100, generator=Generator().manual_seed(0)).value}


BENCHES: dict[str, Bench] = {
    "linear": Bench(InferredLinear, _linear, _known_linear),
    "growth": Bench(InferredGrowth, _growth, _known_growth, trained_flow=True, path=True),
    "chorales": Bench(_chorale_model, _chorales, _known_chorales),
}
"""The generative models."""


def train_inference(model: DVAE, bench: Bench, seed: int, protocol: GapProtocol) -> DVAE:
    """Train the weights that take a gradient, those of the inference network, on the variational lower bound.

    Arguments:
        model: The model.
        bench: Whence the sequences.
        seed: Of sequences and samples.
        protocol: How.
    """
    generator = Generator().manual_seed(1000 + seed)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimiser = torch.optim.Adam(weights, protocol.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, protocol.steps)
    pool = bench.sequences(64 * protocol.batch_size, protocol.frames, generator, True)
    for _ in range(protocol.steps):
        rows = torch.randint(len(pool.x), (protocol.batch_size,), generator=generator)
        bound = model.vlb(pool.x[rows], None if pool.u is None else pool.u[rows], generator=generator)
        optimiser.zero_grad()
        (-bound.value.mean() / protocol.frames).backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        schedule.step()
    return model.eval()


def stairs(
    bench: Bench, models: Mapping[str, DVAE], test: Measured, seed: int, protocol: GapProtocol
) -> dict[str, Any]:
    """All bounds of the test sequences, by name, in nats, (B,); "particle_error" is the particle filters' spread.

    Arguments:
        bench: The generative model.
        models: Trained inference models of it: "smoother", "filter", perhaps "flow_smoother".
        test: The test sequences.
        seed: Of all draws.
        protocol: How.
    """
    x, u = test
    smoother, generator = models["smoother"], Generator().manual_seed(2000 + seed)
    options: dict[str, Any] = {"steps": protocol.refinement_steps, "generator": generator}
    found: dict[str, Tensor] = dict(bench.known(smoother, test))
    with torch.no_grad():
        for name, model in models.items():
            found[name] = model.vlb(x, u, num_samples=protocol.num_samples, generator=generator).value
        found["importance"] = smoother.importance_weighted_bound(
            x, u, num_samples=protocol.importance_samples, generator=generator
        )
        runs = torch.stack(
            [
                models["filter"].smc_bound(x, u, num_particles=protocol.particles, generator=generator)
                for _ in range(protocol.particle_runs)
            ]
        )
    found["particles"] = runs.logsumexp(0) - math.log(len(runs))
    found["particle_error"] = runs.std(0) / len(runs) ** 0.5
    found["refined"] = refine(smoother, x, u, **options).vlb(protocol.num_samples, generator)
    found["refined_flow"] = refine(smoother, x, u, flow="planar", **options).vlb(protocol.num_samples, generator)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        update = UpdateNetwork(smoother.z_dim)
    pool = bench.sequences(8 * protocol.batch_size, protocol.frames, generator, True)
    learning: dict[str, Any] = {"iterations": protocol.iterations, "generator": generator}
    learn_update(smoother, update, pool.x, pool.u, steps=protocol.update_steps, learning_rate=3e-3, **learning)
    iterated = iterate(smoother, x, u, update=update, **learning)
    found["iterated"] = iterated.vlb(protocol.num_samples, generator)
    found["variational_filter"] = variational_filter(
        smoother, x, u, iterations=protocol.filter_iterations, num_samples=16, generator=generator
    ).mean(0)
    return found


@torch.no_grad()
def _path(model: DVAE, test: Measured) -> list[list[float]]:
    """The posterior's means, each given the one before, of each test sequence."""
    found = model.inference(test.x, test.u, draw="mean")["z"].sample[..., 0]
    return [[round(value, 2) for value in sequence] for sequence in found.tolist()]


def gap_task(name: str, seed: int, protocol: GapProtocol | None = None) -> Task:
    """Train the inference models of a frozen generative model, and climb the stairs.

    Arguments:
        name: One of `BENCHES`.
        seed: Of weights, training and draws; the test sequences are the same for all seeds.
        protocol: How; None is the book's.
    """
    settings = GapProtocol() if protocol is None else protocol

    def compute() -> list[Record]:
        started, bench = time.perf_counter(), BENCHES[name]
        kinds = {"smoother": ("smoother", "gaussian"), "filter": ("filter", "gaussian")}
        if bench.trained_flow:
            kinds["flow_smoother"] = ("smoother", "planar")
        models = {}
        for kind, (structure, posterior) in kinds.items():
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                models[kind] = bench.build(structure, posterior)
            train_inference(models[kind], bench, seed, settings)
        test = bench.sequences(settings.sequences, settings.frames, Generator().manual_seed(1), False)
        found = stairs(bench, models, test, seed, settings)
        per_frame = {key: [round(v / settings.frames, 4) for v in value.tolist()] for key, value in found.items()}
        seconds = round(time.perf_counter() - started)
        path = {"path": _path(models["smoother"], test)} if bench.path else {}
        sizes = {"sequences": settings.sequences, "frames": settings.frames, "steps": settings.steps}
        return [{"model": name, "seed": seed, **sizes, "bounds": per_frame, **path, "seconds": seconds}]

    return Task([{"model": name, "seed": seed}], compute)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    options = parser(__doc__)
    options.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHES))
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options.add_argument("--output", default=RESULTS / "gaps.json")
    options.add_argument("--again", action="store_true", help="compute also what is in the file already")
    chosen = options.parse_args(arguments)
    names = select(options, chosen.names, list(BENCHES))
    tasks = (gap_task(name, seed) for name in names for seed in chosen.seeds)
    complete(ResultFile(chosen.output, KEY), tasks, again=chosen.again)
    return 0


if __name__ == "__main__":
    sys.exit(main())
