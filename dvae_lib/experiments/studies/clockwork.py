r"""What does a level learn that moves slowly? A clockwork on human motion, its twin without a clock, and one level.

    python -m dvae_lib.experiments.studies.clockwork [NAME ...] [--seeds 0 1 2]

The recordings of people that come with the library (`mocap-excerpt`), at 15 frames per second, joints about the root,
in pieces of 32 frames. Three models of about as many weights, trained alike: the *clockwork*, whose slow level is
refreshed every 8 frames, about twice a second; the same networks *without a clock*, refreshed in every frame; and *one
level*, a deep Kalman filter with as many latent entries as the two levels have together. The rate and the noise of the
likelihood were settled by short trials of the clockwork on the validation part. Nothing was chosen by the test part,
people whom no model has seen. But after first results on it came, to find out why, the regressions below and a fourth
model: the *narrow* clockwork, whose fast level has few of these entries.

Bounds are in nats per frame, of frames in units of `unit`. Errors are mean distances of joints, in centimetres, at
posterior means (`error`); of two levels also with the posterior of the slow one alone, the fast one following its
prior's means (`slow`), and the other way round (`fast`); and, in the second half, by prior means from what was inferred
from the first (`forecast`, frame by frame). Linear regressions from a level's posterior means, fitted to training
sequences, explain a share of the variance of each period's mean pose (`period`) and of what poses are beside it
(`rest`); `persistence` is the correlation with the frame a period before. Beside them stand lines without a model
(`lines`): the mean pose of the training part, each sequence's own mean pose, the mean pose of each period of the clock,
the same by as many principal components as the slow level has entries, and for forecasts the last pose.

A training takes little more than a minute on an idle core. The result is data/results/clockwork.json.
"""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.nn import functional as F

from dvae_lib.data.motion import load_mocap
from dvae_lib.data.sequences import SequenceDataset
from dvae_lib.experiments.corpora import data_facts, evenly
from dvae_lib.experiments.readout import linear_readout
from dvae_lib.experiments.records import Record
from dvae_lib.experiments.results import ResultFile, Task
from dvae_lib.experiments.studies.command import RESULTS, completed, parser, select
from dvae_lib.experiments.two_clocks import Clockwork, ticking
from dvae_lib.metrics import mpjpe
from dvae_lib.models import DKF, DVAE

__all__ = [
    "CONTESTANTS",
    "KEY",
    "LINES",
    "ClockworkProtocol",
    "Pieces",
    "explained",
    "followed",
    "load_pieces",
    "main",
    "persistence",
]

KEY = ("name", "seed")
LINES = "lines"
CONTESTANTS = ("clockwork", "without a clock", "one level", "narrow")


@dataclass(frozen=True)
class ClockworkProtocol:
    """How recordings are cut, and models built, trained and tested.

    Attributes:
        fps: Frames per second.
        frames: Frames of a sequence; the first half is what a forecast knows.
        period: Frames from one refreshment of the slow level to the next.
        hop: Frames between the starts of two training sequences.
        unit: In metres: of the models' frames, whose entries then have a variance of about one.
        noise: Standard deviation of the likelihood, in metres.
        b_dim: Size of the slow level.
        z_dim: Size of the fast level.
        narrow: Size of the narrow clockwork's fast level; its slow one has the rest.
        h_dim: Size of all layers and states.
        steps: Steps of a training (Adam).
        batch_size: Sequences of a step.
        learning_rate: At the start; it falls to zero along a cosine.
        num_samples: Draws that a bound is averaged over.
        of_train: Training sequences that are looked at beside the test.
    """

    fps: int = 15
    frames: int = 32
    period: int = 8
    hop: int = 2
    unit: float = 0.25
    noise: float = 0.05
    b_dim: int = 8
    z_dim: int = 8
    narrow: int = 2
    h_dim: int = 64
    steps: int = 2000
    batch_size: int = 32
    learning_rate: float = 5e-3
    num_samples: int = 10
    of_train: int = 200


class Pieces(NamedTuple):
    """Sequences of joint positions about the training part's mean pose, in the protocol's unit.

    Attributes:
        train: Of training people.
        test: Of people who are in no other part; pieces that do not overlap.
        mean: The mean pose, in metres.
        facts: Sizes and checksums.
    """

    train: Float[Tensor, "n_train time xyz"]
    test: Float[Tensor, "n_test time xyz"]
    mean: Float[Tensor, " xyz"]
    facts: Mapping[str, Any]


def load_pieces(protocol: ClockworkProtocol) -> Pieces:
    """The recordings of people that come with the library, cut to pieces."""
    options: dict[str, Any] = {"fps": protocol.fps, "sequence_length": protocol.frames, "excerpt": True}
    train, test = load_mocap(hop=protocol.hop, **options).train, load_mocap(**options).test
    metres = {"train": _stacked(train), "test": _stacked(test)}
    mean = metres["train"].mean((0, 1))
    scaled = {part: (x - mean) / protocol.unit for part, x in metres.items()}
    return Pieces(**scaled, mean=mean, facts=data_facts(train=train, test=test))


def _stacked(data: SequenceDataset) -> Tensor:
    return torch.stack([data[i] for i in range(len(data))])


# ----------------------------------------------------------------------------------------------------------- models


def _built(name: str, x_dim: int, protocol: ClockworkProtocol) -> DVAE:
    h_dim, entries = protocol.h_dim, protocol.b_dim + protocol.z_dim
    observation = f"gaussian(scale={protocol.noise / protocol.unit})"
    if name != "one level":
        z_dim = protocol.narrow if name == "narrow" else protocol.z_dim
        return Clockwork(x_dim, z_dim, b_dim=entries - z_dim, h_dim=h_dim, observation=observation)
    sizes: dict[str, Any] = {"transition": h_dim, "decoder": (h_dim, h_dim), "encoder": (), "head": (h_dim,)}
    return DKF(x_dim, entries, observation=observation, g_dim=h_dim, cell="gru", **sizes)


def _clock(name: str, x: Tensor, protocol: ClockworkProtocol) -> Tensor | None:
    """The input of so many sequences; none for the one level."""
    if name == "one level":
        return None
    return ticking(x.shape[0], x.shape[1], 1 if name == "without a clock" else protocol.period)


def _trained(name: str, seed: int, x: Tensor, protocol: ClockworkProtocol) -> DVAE:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _built(name, x.shape[-1], protocol)
    generator = Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=protocol.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, protocol.steps)
    for _ in range(protocol.steps):
        rows = torch.randint(len(x), (protocol.batch_size,), generator=generator)
        bound = model.vlb(x[rows], _clock(name, x[rows], protocol), generator=generator)
        optimizer.zero_grad()
        (-bound.value.mean() / protocol.frames).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 100.0)
        optimizer.step()
        schedule.step()
    return model.eval()


@torch.no_grad()
def followed(
    model: DVAE,
    x: Float[Tensor, "batch time x_dim"],
    u: Tensor | None,
    latents: Mapping[str, Float[Tensor, "batch time _"]],
    free: Mapping[str, int],
) -> Float[Tensor, "batch time x_dim"]:
    """The mean of the frames where some latents follow the means of their priors, frame by frame.

    Arguments:
        model: A model whose frames are no function of earlier frames.
        x: Sequences, for their shape; they are not looked at.
        u: The clock.
        latents: Values of all latents, in the order in which a frame's are drawn.
        free: The first frame, counted from zero, in which a latent follows its prior; those not named never do.
    """
    values = {name: value.clone() for name, value in latents.items()}
    blank = torch.zeros_like(x)
    for t in range(x.shape[1]):
        for name in values:
            if t >= free.get(name, x.shape[1]):
                prior: Any = model.generation(blank, values, u).prior[name]
                values[name][:, t] = prior.mean[:, t]
    seen: Any = model.generation(blank, values, u).observation
    mean: Tensor = seen.mean
    return mean


# ------------------------------------------------------------------------------------------------------------ the test


def _centimetres(x: Tensor, estimate: Tensor, protocol: ClockworkProtocol) -> float:
    return round(float(mpjpe(protocol.unit * x, protocol.unit * estimate).mean()) / 10, 3)


def _by_frame(x: Tensor, estimate: Tensor, protocol: ClockworkProtocol) -> list[float]:
    return [_centimetres(x[:, t : t + 1], estimate[:, t : t + 1], protocol) for t in range(x.shape[1])]


@torch.no_grad()
def _bounds(name: str, model: DVAE, x: Tensor, protocol: ClockworkProtocol) -> Record:
    u, generator = _clock(name, x, protocol), Generator().manual_seed(0)
    bound = model.vlb(x, u, num_samples=protocol.num_samples, generator=generator)
    frames = x.shape[1]
    return {
        "bound": round(float(bound.value.mean()) / frames, 4),
        "kl": {key: round(float(term.sum(1).mean()) / frames, 4) for key, term in bound.kl.items()},
    }


@torch.no_grad()
def _tested(name: str, model: DVAE, x: Tensor, protocol: ClockworkProtocol) -> Record:
    u = _clock(name, x, protocol)
    means = _means(model, x, u)
    kept: dict[str, Mapping[str, int]] = {"error": {}}
    if "b" in means:
        kept |= {"slow": {"z": 0}, "fast": {"b": 0}}
    found: Record = {key: _centimetres(x, followed(model, x, u, means, free), protocol) for key, free in kept.items()}
    half = x.shape[1] // 2
    return found | {"forecast": _by_frame(x[:, half:], _forecast(model, x, u), protocol)}


@torch.no_grad()
def _levels(name: str, model: DVAE, x: Tensor, protocol: ClockworkProtocol) -> dict[str, Tensor]:
    """The posterior means of each level, and of both; of one level, z alone."""
    u = _clock(name, x, protocol)
    found = _means(model, x, u)
    if not isinstance(model, Clockwork):
        return found
    s = model.hold(found["b"], torch.ones_like(x[..., :1]) if u is None else u)
    return {"s": s, "z": found["z"], "both": torch.cat([s, found["z"]], -1)}


def _known(name: str, model: DVAE, data: Pieces, protocol: ClockworkProtocol) -> Record:
    """What a linear regression tells from each level of test poses: of the mean pose of a period, and of the rest."""
    some = data.train[evenly(len(data.train), protocol.of_train)]
    seen, unseen = (_levels(name, model, x, protocol) for x in (some, data.test))
    held = _held(some, protocol.period), _held(data.test, protocol.period)
    rest = some - held[0], data.test - held[1]
    return {
        "period": {level: explained((seen[level], unseen[level]), held) for level in seen},
        "rest": {level: explained((seen[level], unseen[level]), rest) for level in seen},
        "persistence": {level: persistence(unseen[level], protocol.period) for level in unseen},
    }


def explained(
    features: tuple[Float[Tensor, "n time features"], Float[Tensor, "m time features"]],
    poses: tuple[Float[Tensor, "n time xyz"], Float[Tensor, "m time xyz"]],
) -> float:
    r"""Share of the variance of poses that a linear regression explains: :math:`R^2`, over all entries.

    Arguments:
        features: What it reads, of sequences to fit it to, and of others to judge it by.
        poses: What it is to tell, of both.
    """
    (seen, unseen), (known, asked) = ([part.flatten(0, 1).double() for part in pair] for pair in (features, poses))
    left, spread = asked - linear_readout(seen, known, unseen), asked - asked.mean(0)
    return round(float(1 - left.square().sum() / spread.square().sum()), 4)


def persistence(values: Float[Tensor, "n time entries"], lag: int) -> float:
    """How far vectors agree with those so many frames before: the correlation, over all entries."""
    about = values - values.mean((0, 1))
    before, after = about[:, :-lag], about[:, lag:]
    return round(float((before * after).sum() / (before.square().sum() * after.square().sum()).sqrt()), 4)


def _means(model: DVAE, x: Tensor, u: Tensor | None) -> dict[str, Tensor]:
    """A value of each latent: its posterior's mean at the means before it."""
    return {key: latent.sample for key, latent in model.inference(x, u, draw="mean").items()}


def _forecast(model: DVAE, x: Tensor, u: Tensor | None) -> Tensor:
    """The second half of sequences, from the first."""
    half = x.shape[1] // 2
    known = _means(model, x[:, :half], None if u is None else u[:, :half])
    latents = {key: F.pad(value, (0, 0, 0, x.shape[1] - half)) for key, value in known.items()}
    return followed(model, x, u, latents, dict.fromkeys(latents, half))[:, half:]


def _held(x: Tensor, period: int) -> Tensor:
    """Each period's mean pose in the place of its poses."""
    return torch.cat([part.mean(1, keepdim=True).expand_as(part) for part in x.split(period, 1)], 1)


def _lines(data: Pieces, protocol: ClockworkProtocol) -> Record:
    """What is had without a model, on the test part."""
    x = data.test
    half, periods = x.shape[1] // 2, _held(x, protocol.period)
    after = x[:, half:]
    poses = data.train[:, : protocol.period].mean(1)  # one period of each training sequence: they overlap
    directions = torch.linalg.svd(poses - poses.mean(0), full_matrices=False)[2][: protocol.b_dim]
    projected = poses.mean(0) + (periods - poses.mean(0)) @ directions.T @ directions
    return {
        "mean pose": _centimetres(x, torch.zeros_like(x), protocol),
        "own mean pose": _centimetres(x, x.mean(1, keepdim=True).expand_as(x), protocol),
        "mean pose of a period": _centimetres(x, periods, protocol),
        "its components": _centimetres(x, projected, protocol),
        "persistence": persistence(x, protocol.period),
        "forecast": _by_frame(after, x[:, half - 1 : half].expand_as(after), protocol),
    }


def _task(name: str, seed: int, pieces: Callable[[], Pieces], protocol: ClockworkProtocol) -> Task:
    key: Record = {"name": name, "seed": seed}

    def compute() -> list[Record]:
        begun, data = time.perf_counter(), pieces()
        if name == LINES:
            return [{**key, **_lines(data, protocol), "fps": protocol.fps, "period": protocol.period}]
        model = _trained(name, seed, data.train, protocol)
        some = data.train[evenly(len(data.train), protocol.of_train)]
        record: Record = {
            **key,
            **_bounds(name, model, data.test, protocol),
            **_tested(name, model, data.test, protocol),
            **_known(name, model, data, protocol),
            "train": _bounds(name, model, some, protocol) | _tested(name, model, some, protocol),
            "steps": protocol.steps,
            "weights": sum(p.numel() for p in model.parameters()),
            "data": dict(data.facts),
            "seconds": round(time.perf_counter() - begun),
        }
        return [record]

    return Task([key], compute)


def main(arguments: Sequence[str] | None = None, protocol: ClockworkProtocol | None = None) -> int:
    """The command line."""
    options = parser(__doc__)
    options.add_argument("names", nargs="*", metavar="NAME", help=", ".join([LINES, *CONTESTANTS]))
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options.add_argument("--output", type=Path, default=RESULTS / "clockwork.json")
    options.add_argument("--again", action="store_true", help="compute also what is in the file already")
    chosen = options.parse_args(arguments)
    names = select(options, chosen.names, [LINES, *CONTESTANTS])
    settings = ClockworkProtocol() if protocol is None else protocol
    pieces = cache(lambda: load_pieces(settings))  # when a task needs them
    # Seed by seed, so that an early end leaves all contestants with equally many.
    tasks = [_task(name, seed, pieces, settings) for seed in chosen.seeds for name in names if name != LINES]
    if LINES in names:
        tasks.insert(0, _task(LINES, 0, pieces, settings))
    return completed(ResultFile(chosen.output, KEY), tasks, again=chosen.again)


if __name__ == "__main__":
    sys.exit(main())
