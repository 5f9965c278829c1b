"""What models of films learn of the physics behind them: velocity that no picture shows, gravity that no two show.

    python -m dvae_lib.experiments.studies.physics [EXPERIMENT ...] [--seeds 0 1 2] [--models FOLDER]

`pendulum`: films of a pendulum with a motor, whose torque is the input. A linear regression, learned on the training
films, reads the sine and cosine of the angle and the angular velocity off the state z_t that is inferred from the test
films: its R^2. The deep variational Bayes filter (DVBF) is trained in three ways: with no noise but the first one for
most of the epochs (`dvbf`), with small weights of the KL terms at first as usual (`dvbf-annealed`), and without a
transition, A and B being zero (`dvbf-no-transition`). Beside it stands the deep Kalman filter (`dkf`) with states of
the same size. Then the film is predicted from its first five frames, and the torques.

`ball`: films of a ball that is let fall and bounces, under a gravity of each film's own. The regression reads gravity
off the posterior mean of v of the disentangled state-space model (DSSM), by linear and by quadratic terms; also on
films with more gravity than any in training; and where the ball starts, which is no law. Then v of another film is put
in its place, the film predicted from its first frame alone, and compared with what the simulator makes of the same ball
under the other gravity. All balls fall from the ceiling; those of `ball-anywhere` from any height.

Everything is trained on 500 generated films, the epoch chosen on 100, tested on 200. The result is
data/results/physics.json; the weights of the first seed are saved. One to three minutes for each training on a CPU
core, half an hour for all.
"""

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from dvae_lib.data.sequences import SequenceDataset
from dvae_lib.data.toy import PendulumTask, falling_ball, falling_path, pendulum_images
from dvae_lib.data.toy.images import discs
from dvae_lib.experiments.corpora import data_facts
from dvae_lib.experiments.protocol import falling
from dvae_lib.experiments.readout import linear_readout
from dvae_lib.experiments.records import Record
from dvae_lib.experiments.results import ResultFile, Task
from dvae_lib.experiments.studies.command import DATA, RESULTS, RUNS, completed, parser, select
from dvae_lib.experiments.trainings import describe_training, shelf, starting_model, train
from dvae_lib.models import DKF, DSSM, DVAE, DVBF
from dvae_lib.training import TrainingConfig
from dvae_lib.training.schedules import Schedule

__all__ = [
    "ARCHITECTURES",
    "KEY",
    "Films",
    "PhysicsProtocol",
    "balls",
    "centre_of_mass",
    "continued",
    "explained",
    "main",
    "physics_task",
    "states_of",
    "swings",
]

COMMAND = "python -m dvae_lib.experiments.studies.physics"
KEY = ("experiment", "model", "seed")
SIZE, RADIUS, SEEN = 16, 2.0, 5
"""Pixels on a side of a film, and of a disc's radius; frames of a pendulum after which it is predicted."""

SHARED: dict[str, Any] = {"x_dim": SIZE**2, "observation": "gaussian(scale=0.1)", "encoder": (64,), "decoder": (64,)}
_dssm = partial(DSSM, **SHARED, z_dim=4, v_dim=1, transition=32, g_dim=64, head=(64,))
_dvbf = partial(DVBF, **SHARED, z_dim=3, u_dim=1, matrices=16, g_dim=64, head=(64,))


def _without_transition() -> DVBF:
    """A DVBF whose states are noise, mixed by the state before: no transition, trained by the same code."""
    model = _dvbf()
    with torch.no_grad():
        model.d_z.A.zero_()
        model.d_z.B.zero_()
        model.d_z.C.copy_(torch.randn(model.d_z.C.shape))
    return model


ARCHITECTURES: dict[str, dict[str, Callable[[], DVAE]]] = {
    "pendulum": {
        "dvbf": _dvbf,
        "dvbf-annealed": _dvbf,
        "dvbf-no-transition": _without_transition,
        "dkf": partial(DKF, **SHARED, z_dim=3, u_dim=1, transition=32, g_dim=64, head=(64,), cell="gru"),
    },
    "ball": {"dssm": _dssm},
    "ball-anywhere": {"dssm": _dssm},
}
"""How to build each model, by experiment, with its initial weights drawn from torch's global generator."""


KEPT = (("pendulum", "dvbf"), ("ball", "dssm"))
"""Whose weights are kept."""


class Films(NamedTuple):
    """Films, what drives them, and what is behind them.

    Attributes:
        x: Images, (N, T, pixels).
        u: Inputs, (N, T, 1), or None.
        z: The true states, (N, T, .).
    """

    x: Tensor
    u: Tensor | None
    z: Tensor

    def dataset(self, *, cut: bool = False) -> SequenceDataset:
        """The films as sequences to train on.

        Arguments:
            cut: Cut every third one short, to 1, 2, ... frames: so a model learns what little a beginning tells.
        """
        lengths = [1 + i // 3 % len(x) if cut and i % 3 == 0 else len(x) for i, x in enumerate(self.x)]
        inputs = None if self.u is None else [u[:n] for u, n in zip(self.u, lengths, strict=True)]
        return SequenceDataset([x[:n] for x, n in zip(self.x, lengths, strict=True)], inputs)

    def part(self, start: int, stop: int) -> "Films":
        """Some of the films."""
        return Films(self.x[start:stop], None if self.u is None else self.u[start:stop], self.z[start:stop])


class Parts(NamedTuple):
    """Films to train on, to choose the epoch by, and to test on."""

    train: Films
    validation: Films
    test: Films


@dataclass(frozen=True)
class PhysicsProtocol:
    """How the films are made, and the models trained.

    Attributes:
        films: Numbers of films to train on, to choose the epoch by, and to test on.
        num_steps: Frames of a film.
        epochs: Epochs of a training on the pendulum, and on a ball.
        noise_from: Epochs in which states follow from the first one without noise (`dvbf`), or without correction
            (`dssm`).
        batch_size: Films of a step.
        learning_rate: In the first half; it falls to a thirtieth.
        gravity: The range of gravities in training, in pixels per squared frame.
        more_gravity: A range beyond it.
    """

    films: tuple[int, int, int] = (500, 100, 200)
    num_steps: int = 15
    epochs: tuple[int, int] = (160, 60)
    noise_from: tuple[int, int] = (100, 40)
    batch_size: int = 50
    learning_rate: float = 3e-3
    gravity: tuple[float, float] = (0.02, 0.2)
    more_gravity: tuple[float, float] = (0.2, 0.26)

    def load(self, experiment: str) -> Parts:
        """The films of an experiment."""
        a, b, c = self.films
        random = Generator().manual_seed(0)
        if experiment == "pendulum":
            films = swings(a + b + c, self.num_steps, generator=random)
        else:
            films = self.balls(experiment, a + b + c, self.gravity, random)
        return Parts(films.part(0, a), films.part(a, a + b), films.part(a + b, a + b + c))

    def balls(self, experiment: str, num_films: int, gravity: tuple[float, float], generator: Generator) -> Films:
        """Films of falling balls; those of "ball-anywhere" are let go at any height."""
        anywhere = experiment == "ball-anywhere"
        return balls(num_films, self.num_steps, gravity=gravity, anywhere=anywhere, generator=generator)

    def config(self, model: str, seed: int) -> TrainingConfig:
        """The training of a model."""
        epochs, noise_from = (both[model == "dssm"] for both in (self.epochs, self.noise_from))
        late = ("d_z.C",) if model == "dvbf" else ("z_head", "e_z") if model == "dssm" else ()
        freeze = dict.fromkeys(late, noise_from)
        if model == "dvbf-no-transition":
            freeze = dict.fromkeys(("d_z.A", "d_z.B"), epochs)
        annealed = Schedule(((0, 0.01), (max(epochs // 2, 1), 1.0)))
        return TrainingConfig(
            learning_rate=falling(self.learning_rate, epochs, self.learning_rate / 30),
            batch_size=self.batch_size,
            max_epochs=epochs,
            patience=None,
            gradient_clip=5.0,
            schedules={} if late else {"beta": annealed},
            freeze=freeze,
            seed=seed,
        )


def swings(num_films: int, num_steps: int, *, generator: Generator) -> Films:
    r"""Films of a pendulum with a motor, a tenth of a second from frame to frame.

    It starts within 1.5 rad of the lowest point, with a velocity of standard deviation 2 rad/s; the torque is drawn as
    in `dvae_lib.data.toy.driven_pendulum`, and given as a share of the motor's limit.

    Arguments:
        num_films: N.
        num_steps: T.
        generator: Source of randomness.

    Returns:
        Films whose z are the angle in radians and the angular velocity in rad/s.
    """
    task = PendulumTask(dt=0.1)
    angle = 1.5 * (2 * torch.rand(num_films, generator=generator) - 1)
    state = torch.stack([angle, 2 * torch.randn(num_films, generator=generator)], -1)
    push = task.max_torque / 2 * torch.randn(num_films, num_steps, 1, generator=generator)
    torque = push[:, 0]
    states, torques = [state], [torch.zeros_like(torque)]
    for t in range(1, num_steps):
        torque = 0.8 * torque + 0.6 * push[:, t]
        state, _ = task.step(state, torque)
        states.append(state)
        torques.append((torque / task.max_torque).clamp(-1, 1))
    z = torch.stack(states, 1)
    return Films(pendulum_images(z[..., 0], size=SIZE).flatten(-2), torch.stack(torques, 1), z)


def balls(
    num_films: int, num_steps: int, *, gravity: tuple[float, float], anywhere: bool = False, generator: Generator
) -> Films:
    """Films of a ball that is let fall in any column, each under a gravity of its own, and bounces.

    Arguments:
        num_films: N.
        num_steps: T.
        gravity: Its range, in pixels per squared frame.
        anywhere: Let it go at any height, as `dvae_lib.data.toy.falling_ball` does; otherwise at the ceiling.
        generator: Source of randomness.

    Returns:
        Films whose z are those of `falling_ball`: column, row, their change per frame, gravity.
    """
    film = falling_ball(num_films, num_steps, size=SIZE, gravity=gravity, speed=0.0, generator=generator)
    if anywhere:
        return Films(film.x, None, film.z)
    start, g = film.z[:, 0, :4].clone(), film.z[:, 0, 4]
    start[:, 1] = RADIUS
    path = falling_path(start, g, num_steps, low=RADIUS, high=SIZE - RADIUS)
    z = torch.cat([path, film.z[..., 4:]], -1).to(film.x)
    return Films(discs(path[..., :2], SIZE, RADIUS).flatten(-2).to(film.x), None, z)


# ---------------------------------------------------------------------------------------------------------- measures


def explained(
    known: Float[Tensor, "n k"],
    truth: Float[Tensor, "n d"],
    new: Float[Tensor, "m k"],
    new_truth: Float[Tensor, "m d"],
) -> list[float]:
    """R^2 of a linear regression on other data than it was learned on: 1 less the error's share of the variance."""
    error = (linear_readout(known, truth, new) - new_truth).square().mean(0) / new_truth.double().var(0, correction=0)
    return [round(value, 4) for value in (1 - error).tolist()]


@torch.no_grad()
def states_of(model: DVAE, films: Films) -> Float[Tensor, "n time z_dim"]:
    """The states that are inferred from films, from the posteriors' means."""
    found = model.inference(films.x, films.u, draw="mean")
    z: Tensor = model.states(found["w"].sample, films.u) if isinstance(model, DVBF) else found["z"].sample
    return z


def sights(films: Films) -> Float[Tensor, "n time 3"]:
    """Sine and cosine of the pendulum's angle, and its angular velocity."""
    angle, velocity = films.z.unbind(-1)
    return torch.stack([angle.sin(), angle.cos(), velocity], -1)


def centre_of_mass(x: Float[Tensor, "*batch pixels"]) -> Float[Tensor, "*batch 2"]:
    """Column and row of the middle of what is bright in an image, in pixels from the top left corner."""
    image = x.clamp(0, 1).unflatten(-1, (SIZE, SIZE))
    place = torch.arange(SIZE, dtype=x.dtype, device=x.device) + 0.5
    moments = torch.stack([(image.sum(axis) * place).sum(-1) for axis in (-2, -1)], -1)
    centre: Tensor = moments / image.sum((-2, -1)).clamp_min(1e-6)[..., None]
    return centre


@torch.no_grad()
def continued(
    model: DVAE,
    x: Float[Tensor, "n time pixels"],
    seen: int,
    u: Float[Tensor, "n time u_dim"] | None = None,
    **of_sequence: Tensor,
) -> Float[Tensor, "n time pixels"]:
    """Films as a model makes them of their beginnings: by posterior means at first, then by the priors' means.

    Arguments:
        model: The model.
        x: The films, of which the model sees the first frames alone.
        seen: How many.
        u: The inputs, all of which it knows.
        of_sequence: Latent vectors of the sequence by name, in place of those inferred.

    Returns:
        The means of the observation models, of all frames.
    """
    start = None if u is None else u[:, :seen]
    latents = model.inference(x[:, :seen], start, latents=of_sequence, draw="mean")
    inferred: Any = {name: latents[name].sample for name in model.sequence_latents}
    state = model.initial_state(len(x), **inferred)
    blank, frames = torch.zeros_like(x[:, 0]), []
    for t in range(x.shape[1]):
        u_t = None if u is None else u[:, t]
        nothing: Any = {f"{name}_t": x.new_zeros(len(x), model.latent_dim(name)) for name in model.frame_latents}
        expected = model.step(state, blank, u_t, **nothing).prior
        given: Any = {
            f"{name}_t": latents[name].sample[:, t] if t < seen else expected[name].mean for name in model.frame_latents
        }
        step = model.step(state, blank, u_t, **given)
        frames.append(step.observation.mean)
        state = step.state
    return torch.stack(frames, 1)


def _pendulum(model: DVAE, parts: Parts) -> Record:
    """What a linear map reads off the states."""
    seen = [(states_of(model, films).flatten(0, 1), sights(films).flatten(0, 1)) for films in (parts.train, parts.test)]
    sine, cosine, velocity = explained(*seen[0], *seen[1])
    x, u = parts.test.x, parts.test.u
    going_on = centre_of_mass(continued(model, x, SEEN, u))[:, SEEN:]
    standing_still = centre_of_mass(x)[:, SEEN - 1, None]
    truth = centre_of_mass(x)[:, SEEN:]
    error = {"predicted": _distance(going_on, truth), "standing still": _distance(standing_still, truth)}
    return {"sin": sine, "cos": cosine, "velocity": velocity, "error": error}


@torch.no_grad()
def _ball(model: DVAE, parts: Parts, protocol: PhysicsProtocol, experiment: str) -> Record:
    """What v says of gravity, and what it does."""
    count, num_steps = protocol.films[2], protocol.num_steps
    more = protocol.balls(experiment, count, protocol.more_gravity, Generator().manual_seed(1))
    v = {
        name: _mean_of_v(model, films.x)
        for name, films in (("train", parts.train), ("test", parts.test), ("more", more))
    }
    g = {"train": parts.train.z[:, 0, 4:], "test": parts.test.z[:, 0, 4:], "more": more.z[:, 0, 4:]}
    record: Record = {"gravity": explained(v["train"], g["train"], v["test"], g["test"])[0]}
    record["gravity_quadratic"] = explained(_powers(v["train"]), g["train"], _powers(v["test"]), g["test"])[0]
    for what, entry in (("column", 0), ("height", 1))[: 1 + (experiment == "ball-anywhere")]:
        start = [films.z[:, 0, entry, None] for films in (parts.train, parts.test)]
        record[what] = explained(_powers(v["train"]), start[0], _powers(v["test"]), start[1])[0]
    record["more_gravity"] = explained(v["train"], g["train"], v["more"], g["more"])[0]
    record["kl_by_frames"] = {str(t): round(_kl_of_v(model, parts.test.x[:, :t]), 3) for t in range(1, num_steps + 1)}
    other = torch.arange(count).roll(count // 2)  # whose gravity comes in
    begin = parts.test.z[:, 0, :4]
    wall = {"low": RADIUS, "high": SIZE - RADIUS}
    truth = {
        "own": falling_path(begin, g["test"][:, 0], num_steps, **wall)[:, 1:, 1],
        "swapped": falling_path(begin, g["test"][other, 0], num_steps, **wall)[:, 1:, 1],
    }
    found = {
        "own": _fallen(model, parts.test.x, v["test"]),
        "swapped": _fallen(model, parts.test.x, v["test"][other]),
    }
    record["error"] = {name: _distance(found[name], truth[name]) for name in truth}
    record["error"]["swapped, own truth"] = _distance(found["swapped"], truth["own"])
    record["error"]["own and swapped truth"] = _distance(truth["own"], truth["swapped"])
    record["error"]["more gravity"] = _distance(_fallen(model, more.x, v["more"]), more.z[:, 1:, 1])
    return record


def _fallen(model: DVAE, x: Tensor, v: Tensor) -> Tensor:
    """The rows of the ball after the first frame, as predicted from that frame and v."""
    return centre_of_mass(continued(model, x, 1, v=v))[:, 1:, 1]


def _mean_of_v(model: DVAE, x: Tensor) -> Tensor:
    mean: Tensor = model.inference(x, draw="mean")["v"].posterior.mean
    return mean


def _powers(v: Tensor) -> Tensor:
    return torch.cat([v, v.square()], -1)


def _kl_of_v(model: DVAE, x: Tensor) -> float:
    return model.vlb(x, generator=Generator().manual_seed(0)).kl["v"].mean().item()


def _distance(one: Tensor, other: Tensor) -> float:
    """Root mean square over films and frames, in pixels; of the distance where places have two coordinates."""
    square = (one - other).square()
    return round((square.sum(-1) if square.ndim == 3 else square).mean().sqrt().item(), 3)


# ------------------------------------------------------------------------------------------------------------- tasks


def physics_task(
    experiment: str,
    name: str,
    seed: int,
    models: str | Path | None,
    runs: str | Path,
    parts: Parts,
    protocol: PhysicsProtocol | None = None,
) -> Task:
    """Train a model on the films of an experiment, and see what it has learned.

    Arguments:
        experiment: "pendulum" or "ball".
        name: A model of `ARCHITECTURES`.
        seed: Seed of its initial weights and its training.
        models: Folder that the trained model is saved in; None: it is not kept.
        runs: Folder of the trainings' states; what was interrupted goes on from there.
        parts: The films.
        protocol: How it is trained; None is the book's.
    """
    settings = PhysicsProtocol() if protocol is None else protocol
    key = {"experiment": experiment, "model": name, "seed": seed}

    def compute() -> list[Record]:
        model = starting_model(seed, ARCHITECTURES[experiment][name])
        cut = experiment != "pendulum"
        sets = {part: films.dataset(cut=cut and part != "test") for part, films in parts._asdict().items()}
        config = settings.config(name, seed)
        result = train(
            model, sets["train"], sets["validation"], config, Path(runs) / f"physics-{experiment}-{name}-seed-{seed}"
        )
        if models is not None:
            corpus = f"films of a {experiment.partition('-')[0]}"
            describe_training(model, result, config, corpus=corpus, made_by=COMMAND, num_steps=settings.num_steps)
            model.save_pretrained(Path(models) / f"{name}-{experiment}", half=True)
        model.eval()
        with torch.no_grad():
            bound = model.vlb(parts.test.x, parts.test.u, generator=Generator().manual_seed(0))
        learned = _pendulum(model, parts) if experiment == "pendulum" else _ball(model, parts, settings, experiment)
        frames = parts.test.x.shape[1]
        return [
            {
                **key,
                "weights": sum(p.numel() for p in model.parameters()),
                "epochs": config.max_epochs,
                "best_epoch": result.best_epoch,
                "vlb": round(bound.value.mean().item() / frames, 3),
                "kl": {name: round(term.sum().item() / len(term) / frames, 3) for name, term in bound.kl.items()},
                **learned,
                "seconds": round(sum(float(epoch["seconds"]) for epoch in result.history)),
                "data": data_facts(**sets),
            }
        ]

    return Task([key], compute)


def tasks(
    experiments: Sequence[str],
    seeds: Iterable[int],
    models: Path | None,
    runs: Path,
    protocol: PhysicsProtocol | None = None,
) -> Iterable[Task]:
    """All trainings, seed by seed; the models of the first seed are kept where a folder is given."""
    protocol = PhysicsProtocol() if protocol is None else protocol
    parts = {experiment: protocol.load(experiment) for experiment in experiments}
    for i, seed in enumerate(seeds):
        for experiment in experiments:
            for name in ARCHITECTURES[experiment]:
                kept = (experiment, name) in KEPT and i == 0
                yield physics_task(experiment, name, seed, models if kept else None, runs, parts[experiment], protocol)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    options = parser(__doc__)
    options.add_argument("experiments", nargs="*", metavar="EXPERIMENT", help=", ".join(ARCHITECTURES))
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options.add_argument("--models", type=Path, help="folder that the models of the first seed are saved in")
    options.add_argument("--runs", type=Path, default=RUNS, help="where interrupted trainings are kept")
    options.add_argument("--output", type=Path, default=RESULTS / "physics.json")
    options.add_argument("--again", action="store_true", help="compute also what is in the file already")
    chosen = options.parse_args(arguments)
    experiments = select(options, chosen.experiments, list(ARCHITECTURES))
    models = chosen.models or shelf("dvbf-pendulum", DATA)
    todo = tasks(experiments, chosen.seeds, models, chosen.runs)
    return completed(ResultFile(chosen.output, KEY, ordered=True), todo, again=chosen.again)


if __name__ == "__main__":
    sys.exit(main())
