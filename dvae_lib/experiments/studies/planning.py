"""A pendulum is swung up by models of it that were learned from a few episodes, and by nothing else.

    python -m dvae_lib.experiments.studies.planning [NAME ...] [--seeds 0 1 2] [--views state angle film]

The motor is too weak to lift the pendulum at once (`dvae_lib.data.toy.PendulumTask`). Each model starts from episodes
of random torques, and then goes round: it is trained on all episodes so far, plans new ones with the cross-entropy
method in its imagination, with some noise on the actions, and they are added. What is left of it in the end is tested
on episodes without noise, and on predictions of episodes that no model has made. `rssm` is the recurrent state-space
model, `ssm` the same without h, `rnn` without z (`GRNN`); `random` acts at random, and `simulator` plans with the
pendulum itself: nothing plans better by this search.

Everything is compared from the same starts. Three views of the pendulum can be given to the models: "state" shows sine
and cosine of the angle and the velocity; "angle" hides the velocity; "film" shows pictures. Where the velocity is not
shown it has to be inferred. The result is data/results/planning.json; the first RSSM that sees states goes into
data/pretrained. A model takes half a minute on a CPU core, or from pictures
one to two. What is in the file already is not
computed again.
"""

import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.distributions import Distribution

from dvae_lib.data.pretrained import SHIPPED
from dvae_lib.data.sequences import SequenceDataset
from dvae_lib.data.toy.pendulum import pendulum_images
from dvae_lib.data.toy.pendulum_task import PendulumTask
from dvae_lib.experiments.corpora import data_facts
from dvae_lib.experiments.records import Record
from dvae_lib.experiments.results import ResultFile, Task
from dvae_lib.experiments.studies.command import DATA, RESULTS, RUNS, completed, parser, select
from dvae_lib.experiments.trainings import Interrupted, describe_training
from dvae_lib.models import DVAE, GRNN, RSSM
from dvae_lib.planning import Plan, Planner, cross_entropy_method
from dvae_lib.training import TrainingConfig, TrainingResult, fit

__all__ = [
    "KEY",
    "MODELS",
    "NAMES",
    "VIEWS",
    "Episodes",
    "PlanningProtocol",
    "expected_reward",
    "learn",
    "main",
    "model_policy",
    "open_loop_errors",
    "planning_task",
    "random_policy",
    "run_episodes",
    "simulator_policy",
]

COMMAND = "python -m dvae_lib.experiments.studies.planning"
KEY = ("name", "view", "seed")
PUBLISHED = "rssm-pendulum"

SIZES: dict[str, Any] = {"observation": "gaussian(scale=0.05)", "u_dim": 1}
_ssm_layers: dict[str, Any] = {"prior": (128, 64), "decoder": (128, 64), "encoder": (64,), "head": (128, 64)}
MODELS: dict[str, Callable[[int], DVAE]] = {
    "rssm": partial(RSSM, z_dim=8, **SIZES, h_dim=64, prior=(64,), decoder=(64,), encoder=(64,), head=(64,)),
    "ssm": partial(RSSM, z_dim=8, **SIZES, kind="ssm", **_ssm_layers),
    "rnn": partial(GRNN, **SIZES, h_dim=88, cell="gru", decoder=(64,)),
}
"""How to build each model for frames of a given size, with initial weights drawn from torch's global generator. Each
has between 30,000 and 40,000 weights."""

NAMES = ("random", "simulator", *MODELS)
VIEWS = ("state", "angle", "film")
PICTURE, RADIUS = 8, 1.5
"""Pixels on a side of a film's pictures, and the radius of the bob in them."""


@dataclass(frozen=True)
class PlanningProtocol:
    """How episodes are made, planned and learned from.

    Attributes:
        view: What is seen: "state", sine and cosine of the angle and a fifth of the velocity; "angle", without the
            velocity; "film", a picture of 8 x 8 pixels.
        task: The pendulum.
        hold: How much of a random torque is kept from one frame to the next.
        first: Episodes of random torques that a model starts from.
        rounds: How often a model makes new episodes.
        new: Episodes of a round.
        exploration: Standard deviation of the noise on the actions of a round, in units of the motor's limit.
        steps: Steps of each training.
        sequence_length: Frames of a training sequence.
        batch_size: Sequences of a step.
        learning_rate: Of Adam.
        horizon: Frames that are planned ahead.
        search: Options of `cross_entropy_method`.
        tested: Test episodes.
        seen: Frames that are seen before a prediction; from each of these numbers on.
        predicted: Frames that are predicted.
        samples: Samples whose mean is the prediction.

    Raises:
        ValueError: There is no such view, or an episode of the task ends before what is to be learned from it or
            predicted of it.
    """

    view: str = "state"
    task: PendulumTask = field(default_factory=lambda: PendulumTask(num_steps=80, dt=0.1, observation_std=0.05))
    hold: float = 0.8
    first: int = 10
    rounds: int = 3
    new: int = 5
    exploration: float = 0.3
    steps: int = 250
    sequence_length: int = 40
    batch_size: int = 16
    learning_rate: float = 2e-3
    horizon: int = 15
    search: dict[str, Any] = field(default_factory=lambda: {"candidates": 100, "elites": 10, "iterations": 3})
    tested: int = 10
    seen: tuple[int, ...] = (10, 20, 30, 40, 50)
    predicted: int = 30
    samples: int = 20

    def __post_init__(self) -> None:
        if self.view not in VIEWS:
            raise ValueError(f"view must be one of {', '.join(VIEWS)}; got {self.view!r}")
        wanted = {"sequence_length": self.sequence_length, "seen + predicted": max(self.seen) + self.predicted}
        for name, frames in wanted.items():
            if frames > self.task.num_steps:
                raise ValueError(
                    f"an episode of the task ends after {self.task.num_steps} frames, {name} asks for {frames}: "
                    "make the task's num_steps larger, or that smaller"
                )


class Episodes(NamedTuple):
    """What happened in episodes that ran side by side.

    Attributes:
        x: What is seen of the state, with noise; and the reward, (B, T, F): F is 4, or of another view 3 or 65.
        u: Torques in units of the motor's limit, (B, T, 1); zero at the first frame.
        z: Angle in radians and velocity in rad/s, (B, T, 2).
        promised: What each plan expected of itself, per frame; empty where nothing was planned, (B, T - 1).
        kept: What the same plans, carried out blindly, come to, per frame, (B, T - 1).
    """

    x: Tensor
    u: Tensor
    z: Tensor
    promised: Tensor
    kept: Tensor

    @property
    def returns(self) -> Float[Tensor, " batch"]:
        """The sum of each episode's rewards."""
        return self.x[..., -1].sum(1)


Policy = Callable[[Tensor, Tensor, Tensor], Tensor | Plan]
"""An action, (B, 1), or a plan whose first action is meant, from x_t, u_t and the true state: the simulator's alone."""


def random_policy(protocol: PlanningProtocol, generator: Generator) -> Policy:
    """Torques that last a while: an autoregressive process, as in `dvae_lib.data.toy.driven_pendulum`."""

    def act(x_t: Tensor, u_t: Tensor, z_t: Tensor) -> Tensor:
        noise = 0.5 * torch.randn(u_t.shape, generator=generator)
        return protocol.hold * u_t + math.sqrt(1 - protocol.hold**2) * noise

    return act


def simulator_policy(protocol: PlanningProtocol, generator: Generator) -> Policy:
    """Plans made with the pendulum itself, from its true state."""
    start: list[Tensor] = []

    def act(x_t: Tensor, u_t: Tensor, z_t: Tensor) -> Plan:
        mean = start.pop() if start else u_t[:, None].expand(-1, protocol.horizon, -1)
        plan = cross_entropy_method(
            lambda actions: _carried_out(protocol, z_t, actions),
            mean,
            limit=1.0,
            generator=generator,
            **protocol.search,
        )
        start.append(torch.cat([plan.mean[:, 1:], torch.zeros_like(plan.mean[:, :1])], 1))
        return plan

    return act


def model_policy(protocol: PlanningProtocol, model: DVAE, batch_size: int, generator: Generator) -> Policy:
    """Plans made in a model's imagination, from what it has seen."""
    planner = Planner(
        model,
        expected_reward,
        batch_size=batch_size,
        horizon=protocol.horizon,
        limit=1.0,
        generator=generator,
        **protocol.search,
    )
    return lambda x_t, u_t, z_t: planner.act(x_t, u_t)


def expected_reward(frame: Distribution) -> Tensor:
    """The mean of a frame's last entry."""
    return frame.mean[..., -1]


def _carried_out(
    protocol: PlanningProtocol, z_t: Float[Tensor, "batch 2"], actions: Float[Tensor, "batch candidates horizon 1"]
) -> Float[Tensor, "batch candidates"]:
    """The true sum of the rewards of actions, from the true state."""
    state, total = z_t[:, None].expand(-1, actions.shape[1], -1), actions.new_zeros(actions.shape[:2])
    for t in range(actions.shape[2]):
        state, reward = protocol.task.step(state, protocol.task.max_torque * actions[:, :, t])
        total = total + reward
    return total


def run_episodes(
    protocol: PlanningProtocol,
    policy: Policy,
    start: Float[Tensor, "batch 2"],
    generator: Generator,
    noise: float = 0.0,
) -> Episodes:
    """Act from the first frame to the last.

    Arguments:
        protocol: The task, and its length.
        policy: What to do.
        start: The states that the episodes begin in.
        generator: Of the noise on observations and actions.
        noise: Standard deviation of the noise on the actions.
    """
    task, z_t = protocol.task, start
    u_t = torch.zeros(len(start), 1)
    reward = task.reward(z_t, u_t)
    frames, promised, kept = [], [], []
    for t in range(task.num_steps):
        x_t = torch.cat([_seen(protocol, z_t, generator), reward[:, None]], -1)
        frames.append((x_t, u_t, z_t))
        if t == task.num_steps - 1:
            break
        chosen = policy(x_t, u_t, z_t)
        if isinstance(chosen, Plan):
            promised.append(chosen.value / protocol.horizon)
            kept.append(_carried_out(protocol, z_t, chosen.mean[:, None])[:, 0] / protocol.horizon)
            chosen = chosen.mean[:, 0]
        u_t = (chosen + noise * torch.randn(chosen.shape, generator=generator)).clamp(-1, 1)
        z_t, reward = task.step(z_t, task.max_torque * u_t)
    x, u, z = (torch.stack(values, 1) for values in zip(*frames, strict=True))
    nothing = torch.empty(len(start), 0)
    return Episodes(
        x, u, z, torch.stack(promised, 1) if promised else nothing, torch.stack(kept, 1) if kept else nothing
    )


def _seen(protocol: PlanningProtocol, z_t: Float[Tensor, "batch 2"], generator: Generator) -> Tensor:
    """What the view shows of the states."""
    if protocol.view == "film":
        picture = pendulum_images(z_t[:, 0], size=PICTURE, radius=RADIUS).flatten(1)
        return picture + protocol.task.observation_std * torch.randn(picture.shape, generator=generator)
    seen = protocol.task.observe(z_t, generator=generator)
    return seen[:, :2] if protocol.view == "angle" else seen * torch.tensor([1.0, 1.0, 0.2])


def learn(
    protocol: PlanningProtocol, model: DVAE, seed: int, say: Callable[[str], None] = print
) -> tuple[list[Episodes], TrainingResult, TrainingConfig]:
    """Collect, train and plan, round after round.

    Arguments:
        protocol: How.
        model: The model; it is trained in place.
        seed: Of episodes and training.
        say: Called with a line for each round.

    Returns:
        The episodes of each round, the random ones first; the last training, and its configuration.

    Raises:
        Interrupted: By Ctrl-C; nothing is kept of it.
    """
    generator = Generator().manual_seed(seed)
    start = protocol.task.reset(protocol.first, generator=generator)
    collected = [run_episodes(protocol, random_policy(protocol, generator), start, generator)]
    for number in range(protocol.rounds + 1):
        data = _sequences(protocol, collected)
        config = TrainingConfig(
            learning_rate=protocol.learning_rate,
            batch_size=protocol.batch_size,
            max_epochs=math.ceil(protocol.steps / math.ceil(len(data) / protocol.batch_size)),
            patience=None,
            gradient_clip=100.0,
            seed=seed + 1000 * number,
        )
        result = fit(model, data, None, config, progress=False)
        if result.stopped == "interrupted":
            raise Interrupted("interrupted; the same command begins with this model anew")
        if number < protocol.rounds:
            start = protocol.task.reset(protocol.new, generator=generator)
            policy = model_policy(protocol, model, protocol.new, generator)
            collected.append(run_episodes(protocol, policy, start, generator, protocol.exploration))
            say(f"round {number + 1}: mean return {collected[-1].returns.mean():.1f}")
    return collected, result, config


def _sequences(protocol: PlanningProtocol, collected: Sequence[Episodes]) -> SequenceDataset:
    """Overlapping pieces of all episodes."""
    length = protocol.sequence_length
    return SequenceDataset(
        [x for episodes in collected for x in episodes.x],
        [u for episodes in collected for u in episodes.u],
        sequence_length=length,
        hop=max(length // 2, 1),
    )


@torch.no_grad()
def open_loop_errors(protocol: PlanningProtocol, model: DVAE, episodes: Episodes, generator: Generator) -> Tensor:
    """The root-mean-square error of predictions 1, 2, ... frames ahead, over episodes and entries of x.

    The beginning of each episode is seen; then only the torques are known. The prediction is the mean of several
    imagined futures.
    """
    copies, squares = protocol.samples, []
    for seen in protocol.seen:
        end = seen + protocol.predicted
        x, u = (v.repeat(copies, 1, 1) for v in (episodes.x[:, :seen], episodes.u[:, :end]))
        imagined = model.generate(protocol.predicted, prefix=x, u=u, emission="mean", generator=generator).x
        mean = imagined.view(copies, -1, *imagined.shape[1:]).mean(0)
        squares.append((mean - episodes.x[:, seen:end]).square().mean((0, 2)))
    return torch.stack(squares).mean(0).sqrt()


def planning_task(
    name: str, seed: int, runs: str | Path, models: str | Path | None = None, protocol: PlanningProtocol | None = None
) -> Task:
    """Learn to plan, and be tested.

    Arguments:
        name: One of `NAMES`.
        seed: Of weights, training and episodes.
        runs: Folder in which the trained models are kept.
        models: Folder in which the one that the book plans with is kept; None keeps it nowhere.
        protocol: How; None is the book's.
    """
    settings = PlanningProtocol() if protocol is None else protocol
    key: Record = {"name": name, "view": settings.view, "seed": seed}

    def compute() -> list[Record]:
        began, record = time.monotonic(), dict(key)
        generator = Generator().manual_seed(10_000 + seed)  # tests differ from what was learned from
        start = settings.task.reset(settings.tested, generator=generator)
        unseen = run_episodes(settings, simulator_policy(settings, generator), start, generator, settings.exploration)
        if name in MODELS:
            torch.manual_seed(seed)
            model = MODELS[name](unseen.x.shape[-1])
            collected, result, config = learn(settings, model, seed)
            policy = model_policy(settings, model, settings.tested, generator)
            record["open_loop"] = _numbers(open_loop_errors(settings, model, unseen, generator))
            record["weights"] = sum(p.numel() for p in model.parameters())
            record["rounds"] = [{"returns": _numbers(part.returns), **_honesty(part)} for part in collected]
            data = _sequences(settings, collected)
            record["data"] = data_facts(train=data)
            record["episodes"] = sum(len(part.x) for part in collected)
            describe_training(
                model, result, config, corpus="driven-pendulum", made_by=COMMAND, episodes=record["episodes"]
            )
            model.metadata["seed"] = seed  # of all of it; the last training's stands in its configuration
            for absent in ("validation_bound_per_frame", "seconds"):  # nothing was validated; seconds of one round
                del model.metadata[absent]
            model.save_pretrained(Path(runs) / f"planning-{name}-{settings.view}-seed-{seed}", half=True)
            if (name, settings.view, seed) == ("rssm", "state", 0) and models is not None:
                model.save_pretrained(Path(models) / PUBLISHED, half=True)
        else:
            policy = {"random": random_policy, "simulator": simulator_policy}[name](settings, generator)
        tested = run_episodes(settings, policy, start, generator)
        up = settings.task.is_up(tested.z[:, -1])
        record |= {"returns": _numbers(tested.returns), "up": int(up.sum()), **_honesty(tested)}
        return [{**record, "seconds": round(time.monotonic() - began)}]

    return Task([key], compute)


def _honesty(episodes: Episodes) -> Record:
    """What plans promise and keep, in reward per frame."""
    if not episodes.kept.numel():
        return {}
    return {"promised": round(episodes.promised.mean().item(), 4), "kept": round(episodes.kept.mean().item(), 4)}


def _numbers(values: Tensor) -> list[float]:
    return [round(value, 4) for value in values.tolist()]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    options = parser(__doc__)
    options.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options.add_argument("--models", type=Path, default=DATA / SHIPPED, help="where the book's model is kept")
    options.add_argument("--runs", type=Path, default=RUNS, help="where all trained models are kept")
    options.add_argument("--output", type=Path, default=RESULTS / "planning.json")
    options.add_argument("--again", action="store_true", help="compute also what is in the file already")
    options.add_argument("--views", choices=VIEWS, nargs="+", default=["state"], help="what is shown of the pendulum")
    chosen = options.parse_args(arguments)
    names = select(options, chosen.names, NAMES)
    tasks = (
        planning_task(name, seed, chosen.runs, chosen.models, PlanningProtocol(view=view))
        for view in chosen.views
        for seed in chosen.seeds
        for name in names
        if name in MODELS or view == "state"  # what learns nothing sees nothing
    )
    return completed(ResultFile(chosen.output, KEY), tasks, again=chosen.again)


if __name__ == "__main__":
    sys.exit(main())
