"""Do the regimes of a switching model mean anything? A dot between walls, and actions of people.

    python -m dvae_lib.experiments.studies.switching [--seeds 0 1 2] [--parts dots actions]

Dots: films of a dot that runs to and fro between two walls. Which way it runs in each frame is known; the models are
not told. A switching model with two regimes, with and without an influence of the place on the switches, is trained,
and so are a model with one regime and a deep Kalman filter, whose latent vectors (and their changes from frame to
frame) are put into two clusters by k-means. Which cluster is called "outward" is decided on the training films;
accuracies are of the test films. Of models that generate in regimes: how often the regime changes, and where the dot
is then.

Actions: clips of eleven actions of HDM05, one after the other in random order, without saying where one ends. Regimes
and k-means clusters of the poses, eleven each, are compared with the actions by their normalised mutual information on
the clips of an actor who was not seen in training. The model learns to reconstruct first, then its regimes are started
by EM (`SwitchingSSM.start_regimes`), then everything is trained.

The epoch that is best on the validation part is kept. Nothing is chosen by the numbers of the test part, and every
seed is reported. The result is data/results/switching.json. A training takes half a minute (dots) to two minutes
(actions) on a CPU core; the actions need the corpus `hdm05`.
"""

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2, vq
from scipy.optimize import linear_sum_assignment
from torch import Generator, Tensor

from dvae_lib.data.motion import load_hdm05
from dvae_lib.data.sequences import SequenceDataset
from dvae_lib.data.toy import dot_film
from dvae_lib.evaluation import bounds_per_frame
from dvae_lib.experiments.corpora import data_facts
from dvae_lib.experiments.protocol import falling
from dvae_lib.experiments.records import Record
from dvae_lib.experiments.results import ResultFile, Task, complete, rounded
from dvae_lib.experiments.studies.command import RESULTS, RUNS, parser, stopped
from dvae_lib.experiments.trainings import Interrupted, starting_model, train
from dvae_lib.models import DKF, DVAE, SwitchingSSM
from dvae_lib.models.switching import balanced_bound
from dvae_lib.training import TrainingConfig, TrainingResult, vlb_terms
from dvae_lib.training.schedules import Schedule

__all__ = [
    "KEY",
    "PARTS",
    "Labelled",
    "SwitchingProtocol",
    "actions_tasks",
    "agreement",
    "assigned",
    "clusters",
    "dots_tasks",
    "main",
]

KEY = ("part", "name", "seed")
PARTS = ("dots", "actions")

Array = NDArray[Any]
LETTERS = "abcdefghijklmnopqrstuvwxyz"


class Labelled(NamedTuple):
    """Sequences of one length, and the known label of each frame, (N, T)."""

    data: SequenceDataset
    labels: Tensor

    @property
    def x(self) -> Tensor:
        """All frames, (N, T, x_dim)."""
        return self.data.batch(range(len(self.data))).x


@dataclass(frozen=True)
class SwitchingProtocol:
    """Data and trainings of the study.

    Attributes:
        films: Films of dots to train with, to choose the epoch by, and to test on.
        film_frames: Frames of a film.
        speed: Of the dot, whose way is two long.
        dots_epochs: Epochs of a training on dots.
        dots_size: Units of the hidden layers.
        new_frames: Frames of the films that are generated.
        fps: Poses per second.
        piece: Frames of a piece of the stream of actions.
        actions_epochs: Epochs of a training on actions, before the regimes are started and after.
        observation: Of poses in metres: five centimetres are worth half a nat.
        actions_size: Units of the hidden layers.
        z_dim: Size of the state, of dots and of actions.
        regimes: Number of regimes of actions; as many as there are actions.
        balance: Weight of the price of unused regimes at the beginning; it is lowered to zero in half of a training.
    """

    films: tuple[int, int, int] = (200, 100, 200)
    film_frames: int = 30
    speed: float = 0.1
    dots_epochs: int = 250
    dots_size: int = 32
    new_frames: int = 60
    fps: int = 15
    piece: int = 90
    actions_epochs: tuple[int, int] = (80, 80)
    observation: str = "gaussian(scale=0.05)"
    actions_size: int = 64
    z_dim: tuple[int, int] = (2, 8)
    regimes: int = 11
    balance: float = 1.0

    def config(self, epochs: int, batch_size: int, seed: int, **schedules: Schedule) -> TrainingConfig:
        """A training with these schedules of the objective's arguments."""
        return TrainingConfig(
            learning_rate=falling(3e-3, epochs, 1e-4),
            batch_size=batch_size,
            max_epochs=epochs,
            patience=None,
            gradient_clip=5.0,
            schedules=schedules,
            seed=seed,
        )

    def warm_up(self, epochs: int) -> Schedule:
        """The weight of the KL terms."""
        return Schedule.linear(0.1, 1.0, epochs=max(1, epochs // 4))

    def falling_balance(self, epochs: int) -> Schedule:
        """The weight of the price of unused regimes."""
        return Schedule.linear(self.balance, 0.0, epochs=max(1, epochs // 2))

    def dots(self) -> tuple[Labelled, Labelled, Labelled]:
        """The films, and whether the dot runs outward (1) or back (0) in each frame."""

        def films(seed: int) -> Labelled:
            generator = Generator().manual_seed(seed)
            film = dot_film(self.films[seed], self.film_frames, speeds=(self.speed,), generator=generator)
            return Labelled(SequenceDataset(film.x), (film.z[..., 1] > 0).long())

        return films(0), films(1), films(2)

    def actions(self) -> tuple[Labelled, Labelled, Labelled]:
        """Pieces of a stream of actions, and the number of each frame's action."""
        parts = load_hdm05(fps=self.fps)
        names = sorted({action_of(name) for part in (parts.train, parts.validation, parts.test) for name in part.names})
        streams = (parts.train, parts.validation, parts.test)
        first, second, third = (
            stream_of(part, names, self.piece, Generator().manual_seed(seed)) for seed, part in enumerate(streams)
        )
        return first, second, third


def action_of(name: str) -> str:
    """The action that a clip of HDM05 shows, by its name.

    Example:
        >>> action_of("HDM_bd_kickLFront1Reps_002_120")
        'kickLFront1Reps'
    """
    return re.sub(r"^HDM_[a-z]+_|_\d+_\d+$", "", name)


def stream_of(clips: SequenceDataset, names: Sequence[str], piece: int, generator: Generator) -> Labelled:
    """Clips in random order, one after the other, cut into pieces of equal length; what is left over is dropped.

    Arguments:
        clips: The clips.
        names: All actions, whose places in the list are the labels.
        piece: Frames of a piece.
        generator: Source of randomness.
    """
    order = torch.randperm(len(clips), generator=generator).tolist()
    frames = torch.cat([clips[i] for i in order])
    labels = torch.cat([torch.full((len(clips[i]),), names.index(action_of(clips.names[i]))) for i in order])
    count = len(frames) // piece
    cut = frames[: count * piece].view(count, piece, -1)
    return Labelled(SequenceDataset(list(cut)), labels[: count * piece].view(count, piece))


# ---------------------------------------------------------------- how labels are compared


def assigned(found: Array, known: Array) -> Array:
    """For each cluster the label that it is given: one to one, so that most frames agree.

    Example:
        >>> assigned(np.array([0, 0, 1, 1]), np.array([1, 1, 0, 1])).tolist()
        [1, 0]
    """
    table = contingency(found, known)
    rows, columns = linear_sum_assignment(-table)
    names = table.argmax(1)  # of clusters beyond the number of labels
    names[rows] = columns
    return np.asarray(names)


def contingency(found: Array, known: Array) -> Array:
    """How many frames have this cluster (row) and this label (column)."""
    table = np.zeros((int(found.max()) + 1, int(known.max()) + 1))
    np.add.at(table, (found.ravel(), known.ravel()), 1)
    return table


def agreement(found: Array, known: Array) -> float:
    """The normalised mutual information of two labellings: 0 where they are independent, 1 where they are the same.

    The mutual information over the mean of the two entropies.

    Example:
        >>> agreement(np.array([0, 0, 1, 1]), np.array([5, 5, 2, 2]))
        1.0
    """
    joint = contingency(found, known)
    joint = joint / joint.sum()

    def entropy(p: Array) -> float:
        p = p[p > 0]
        return float(-(p * np.log(p)).sum())

    one, other = entropy(joint.sum(1)), entropy(joint.sum(0))
    mutual = one + other - entropy(joint)
    return mutual / (0.5 * (one + other)) if one + other else 1.0


def clusters(training: Tensor, test: Tensor, count: int, seed: int, restarts: int = 10) -> tuple[Array, Array]:
    """K-means of the training frames, the best of some restarts by its error there; and of the test frames.

    Arguments:
        training: Vectors, (..., D).
        test: Vectors, (..., D).
        count: Number of clusters.
        seed: Seed of the initial centres.
        restarts: Number of runs.
    """
    a, b = (v.flatten(0, -2).double().numpy() for v in (training, test))

    def run(number: int) -> tuple[float, Array]:
        centres, _ = kmeans2(a, count, iter=50, minit="++", seed=restarts * seed + number)
        return float((vq(a, centres)[1] ** 2).mean()), centres

    centres = min((run(number) for number in range(restarts)), key=lambda one: one[0])[1]
    return vq(a, centres)[0].reshape(training.shape[:-1]), vq(b, centres)[0].reshape(test.shape[:-1])


def accuracy(training: Array, test: Array, data: Sequence[Labelled]) -> float:
    """The share of the test frames whose cluster has the right name; the names are given on the training frames."""
    names = assigned(training, data[0].labels.numpy())
    return float((names[test] == data[-1].labels.numpy()).mean())


# ---------------------------------------------------------------- dots

CONTESTANTS: dict[str, Callable[..., DVAE]] = {
    "switching": partial(SwitchingSSM, regimes=2),
    "recurrent": partial(SwitchingSSM, regimes=2, recurrent=True),
    "one regime": partial(SwitchingSSM, regimes=1),
    "dkf": DKF,
}
"""The models of the dots."""


def dots_tasks(seeds: Sequence[int], runs: str | Path, protocol: SwitchingProtocol | None = None) -> Iterator[Task]:
    """Train every contestant on the films, and compare what it found with the way of the dot.

    Arguments:
        seeds: Seeds of initial weights and trainings.
        runs: Folder of the trainings' states; what was interrupted goes on from there.
        protocol: Data and trainings; None is the book's.
    """
    settings = SwitchingProtocol() if protocol is None else protocol
    data = settings.dots()
    for seed in seeds:
        for name in CONTESTANTS:
            compute = partial(_dots, name, seed, Path(runs), settings, data)
            yield Task([{"part": "dots", "name": name, "seed": seed}], compute)


def _dots(
    name: str, seed: int, runs: Path, protocol: SwitchingProtocol, data: tuple[Labelled, Labelled, Labelled]
) -> list[Record]:
    size, dim = protocol.dots_size, protocol.z_dim[0]
    sizes: dict[str, Any] = {"encoder": (size,), "decoder": (size,), "g_dim": size // 2, "cell": "gru"}
    model = starting_model(seed, lambda: CONTESTANTS[name](data[0].x.shape[-1], dim, **sizes))
    schedules = {"beta": protocol.warm_up(protocol.dots_epochs)}
    if isinstance(model, SwitchingSSM):
        schedules["balance"] = protocol.falling_balance(protocol.dots_epochs)
    config = protocol.config(protocol.dots_epochs, 50, seed, **schedules)
    result = _trained(model, data, config, runs / f"dots-{name}-seed-{seed}".replace(" ", "-"))
    record = _facts("dots", name, seed, model, result, data)
    z = [_states(model, part.x) for part in (data[0], data[-1])]
    record["clusters of z"] = rounded(accuracy(*clusters(z[0], z[1], 2, seed), data))
    steps = [part.diff(dim=1, prepend=part[:, :1]) for part in z]
    record["clusters of changes"] = rounded(accuracy(*clusters(steps[0], steps[1], 2, seed), data))
    if isinstance(model, SwitchingSSM):
        paths = _paths(model, data)
        record["accuracy"] = rounded(accuracy(*paths, data))
        record["switches"] = rounded(float((np.diff(paths[1], axis=1) != 0).sum(1).mean()))
        record["bounces"] = rounded(float((data[-1].labels.diff(dim=1) != 0).float().sum(1).mean()))
        if model.s_dim > 1:
            record["generated"] = _where_it_switches(model, protocol.new_frames, seed)
    return [record]


def _states(model: DVAE, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model.inference(x, draw="mean")["z"].sample


def _paths(model: SwitchingSSM, data: Sequence[Labelled]) -> tuple[Array, Array]:
    """The most probable regimes of the training and the test part."""
    training, test = (model.regimes(part.x).path.numpy() for part in (data[0], data[-1]))
    return training, test


def _where_it_switches(model: SwitchingSSM, num_steps: int, seed: int) -> Record:
    """Of films that the model makes by itself: switches per frame, and how far from the middle the dot is then.

    The place is that of the brightest pixel of the mean frame, from -1 to 1. A switch that takes the dot from one way
    to the other at a wall has the dot out there; one that depends on nothing may be anywhere.
    """
    films = model.generate(num_steps, 200, emission="mean", generator=Generator().manual_seed(seed))
    regime, pixels = films.latents["s"].argmax(-1), films.x.shape[-1]
    place = (2 * films.x.argmax(-1) / (pixels - 1) - 1).abs()
    switched = regime.diff(dim=1) != 0
    return {
        "switches per frame": rounded(switched.float().mean().item()),
        "distance at switches": rounded(place[:, 1:][switched].mean().item()),
        "distance": rounded(place[:, 1:].mean().item()),
    }


# ---------------------------------------------------------------- actions


def actions_tasks(
    seeds: Sequence[int],
    runs: str | Path,
    protocol: SwitchingProtocol | None = None,
    data: tuple[Labelled, Labelled, Labelled] | None = None,
) -> Iterator[Task]:
    """Compare regimes, and clusters of poses, with the actions.

    Arguments:
        seeds: Seeds of initial weights, trainings and clusters.
        runs: Folder of the trainings' states; what was interrupted goes on from there.
        protocol: Data and trainings; None is the book's.
        data: The streams; None makes them of HDM05.
    """
    settings = SwitchingProtocol() if protocol is None else protocol
    streams = settings.actions() if data is None else data
    for name, compute in (("poses", _poses), ("switching", _actions)):
        for seed in seeds:
            task = partial(compute, seed, Path(runs), settings, streams)
            yield Task([{"part": "actions", "name": name, "seed": seed}], task)


def _poses(
    seed: int, runs: Path, protocol: SwitchingProtocol, data: tuple[Labelled, Labelled, Labelled]
) -> list[Record]:
    training, test = clusters(data[0].x, data[-1].x, protocol.regimes, seed)
    record: Record = {"part": "actions", "name": "poses", "seed": seed, "clusters": protocol.regimes}
    return [{**record, **_compared(training, test, data), "data": _sizes(data)}]


def _actions(
    seed: int, runs: Path, protocol: SwitchingProtocol, data: tuple[Labelled, Labelled, Labelled]
) -> list[Record]:
    size, dim = protocol.actions_size, protocol.z_dim[1]
    sizes: dict[str, Any] = {"encoder": (size,), "decoder": (size,), "g_dim": size // 2, "cell": "gru"}
    options: dict[str, Any] = {"regimes": protocol.regimes, "observation": protocol.observation, **sizes}
    model = starting_model(seed, lambda: SwitchingSSM(data[0].x.shape[-1], dim, **options))
    assert isinstance(model, SwitchingSSM)
    first, second = protocol.actions_epochs
    config = protocol.config(first, 16, seed, beta=protocol.warm_up(first))
    _trained(model, data, config, runs / f"actions-first-seed-{seed}")
    model.start_regimes(data[0].x, generator=Generator().manual_seed(seed))
    started = _compared(*_paths(model, data), data)
    config = protocol.config(second, 16, seed, balance=protocol.falling_balance(second))
    result = _trained(model, data, config, runs / f"actions-seed-{seed}")
    record = _facts("actions", "switching", seed, model, result, data)
    record["as started"] = started
    found = _paths(model, data)
    record |= _compared(*found, data)
    record["used"] = len(np.unique(found[1]))
    z = [_states(model, part.x) for part in (data[0], data[-1])]
    latent = clusters(z[0], z[1], protocol.regimes, seed)
    record["clusters of z"] = rounded(agreement(latent[1], data[-1].labels.numpy()))
    # A stretch of the test stream, a letter a frame, as the book shows it.
    shown = min(4, len(found[1]))
    record["example"] = {"actions": _spelt(data[-1].labels.numpy()[:shown]), "regimes": _spelt(found[1][:shown])}
    return [record]


def _compared(training: Array, test: Array, data: Sequence[Labelled]) -> Record:
    return {
        "training agreement": rounded(agreement(training, data[0].labels.numpy())),
        "agreement": rounded(agreement(test, data[-1].labels.numpy())),
        "switches per piece": rounded(float((np.diff(test, axis=1) != 0).sum(1).mean())),
        "actions per piece": rounded(float((data[-1].labels.diff(dim=1) != 0).float().sum(1).mean())),
    }


def _spelt(labels: Array) -> str:
    return "".join(LETTERS[label] for label in labels.ravel())


# ---------------------------------------------------------------- both


def _trained(model: DVAE, data: Sequence[Labelled], config: TrainingConfig, folder: Path) -> TrainingResult:
    objective = balanced_bound if "balance" in config.schedules else vlb_terms
    result = train(model, data[0].data, data[1].data, config, folder, objective=objective)
    model.eval()
    return result


def _facts(part: str, name: str, seed: int, model: DVAE, result: TrainingResult, data: Sequence[Labelled]) -> Record:
    bounds = bounds_per_frame(model, data[-1].data)
    return {
        "part": part,
        "name": name,
        "seed": seed,
        "weights": sum(p.numel() for p in model.parameters()),
        "best_epoch": result.best_epoch,
        "vlb": rounded(bounds.vlb),
        "kl": rounded(bounds.kl),
        "seconds": round(sum(float(epoch["seconds"]) for epoch in result.history)),
        "data": _sizes(data),
    }


def _sizes(data: Sequence[Labelled]) -> Record:
    return data_facts(train=data[0].data, validation=data[1].data, test=data[-1].data)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    options = parser(__doc__)
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    options.add_argument("--runs", type=Path, default=RUNS, help="where interrupted trainings are kept")
    options.add_argument("--output", type=Path, default=RESULTS / "switching.json")
    options.add_argument("--again", action="store_true", help="compute also what is in the file already")
    chosen = options.parse_args(arguments)
    file = ResultFile(chosen.output, KEY)
    try:
        for part, tasks in (("dots", dots_tasks), ("actions", actions_tasks)):
            if part in chosen.parts:
                complete(file, tasks(chosen.seeds, chosen.runs), again=chosen.again)
    except Interrupted as error:
        return stopped(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
