"""What stands behind Table 13.2: whose error it is, what the past alone gives, and what models of movement make up.

    python -m dvae_lib.experiments.studies.motion_exhibits [PART ...]

The trained models of human motion that come with the library, and linear predictors beside them, on the recordings that
come with it (`mocap-excerpt`), so that anybody can repeat it: about five minutes on a CPU core. Nothing is trained but
principal components. The parts:

- ``linear``: the mean pose, the previous frame and constant velocity, each with 0 and 10 principal components of what
  it leaves over, (13.c.2);
- ``resynthesis``: every line of Table 13.2, by frame, by who moves, and by recording;
- ``past``: what latent vectors add to a past that is given;
- ``corrected``: resynthesis corrected by its own past errors, (13.c.3);
- ``memory``: whether the last pose can be read from an SRNN's state;
- ``particles``: bounds of the autoregressive models by particles, beside the linear models on the same sequences;
- ``generated``: whether what is generated is a body and moves like one, and how far continuations stray.

Errors are in millimetres, bounds in nats per frame, speeds in metres per second. The result is
data/results/motion-exhibits.json.
"""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Generator, Tensor

from dvae_lib.data.motion import MOCAP_PARENTS, load_mocap
from dvae_lib.experiments.corpora import data_facts, evenly, load_experiment
from dvae_lib.experiments.protocol import REVIEW_MODELS, SCHEDULED, SCHEDULED_ENDING
from dvae_lib.experiments.records import Record
from dvae_lib.experiments.results import ResultFile, Task, rounded
from dvae_lib.experiments.review import LABELS
from dvae_lib.experiments.studies.command import RESULTS, completed, parser, select
from dvae_lib.models import DVAE
from dvae_lib.networks import shift

__all__ = [
    "KEY",
    "PARTS",
    "PREDICTORS",
    "SIGMA",
    "Line",
    "Movement",
    "best_map",
    "bone_change",
    "distances",
    "judged",
    "library_lines",
    "linear_latents",
    "linear_model",
    "load_movement",
    "main",
    "person",
    "principal",
    "resynthesis",
    "speeds",
    "tasks",
    "with_and_without",
]

KEY = ("part", "name")
PARTS = ("linear", "resynthesis", "past", "corrected", "memory", "particles", "generated")
PREDICTORS = ("mean pose", "previous frame", "constant velocity")
"""Without latent variables: what they leave over is a difference of order zero, one or two."""
SIGMA = 0.01
"""Of the likelihood, in metres."""
COMPONENTS = 10
"""As many as the models have latent variables."""


@dataclass(frozen=True)
class Movement:
    """Sequences of joint positions in metres, (sequence, time, 3 J).

    Attributes:
        train: Of the training people; pieces that do not overlap.
        validation: Of the same people, other takes.
        test: Of people whom no model has seen.
        names: The recording of each test sequence.
        facts: Sizes and checksums.
    """

    train: Float[Tensor, "n_train time xyz"]
    validation: Float[Tensor, "n_validation time xyz"]
    test: Float[Tensor, "n_test time xyz"]
    names: tuple[str, ...]
    facts: Mapping[str, Any]

    def some(self, number: int) -> Tensor:
        """At most so many test sequences, evenly over all."""
        return self.test[evenly(len(self.test), number)]


class Line(NamedTuple):
    """A line of Table 13.2: a model, and how often it hears itself in place of the past."""

    name: str
    model: DVAE
    feedback: float = 0.0


def load_movement() -> Movement:
    """The recordings of people that come with the library."""
    corpus = load_experiment("mocap-excerpt")
    pieces = load_mocap(sequence_length=corpus.test.lengths.max().item(), excerpt=True).train
    train, validation, test = (
        torch.stack([data[i] for i in range(0, len(data), step)])
        for data, step in ((pieces, 1), (corpus.validation, 10), (corpus.test, 1))
    )
    names = tuple(name.split("[")[0] for name in corpus.test.names)
    return Movement(train, validation, test, names, data_facts(train=pieces, test=corpus.test))


def library_lines() -> list[Line]:
    """The lines of Table 13.2, by the trained models that come with the library."""
    models = {name: DVAE.from_pretrained(f"{name}-mocap") for name in REVIEW_MODELS}
    retrained = {name: DVAE.from_pretrained(f"{name}-mocap{SCHEDULED_ENDING}") for name in SCHEDULED}
    return [
        *(Line(LABELS[name], model) for name, model in models.items()),
        *(Line(f"{LABELS[name]}-TF-GM", models[name], 1.0) for name in SCHEDULED),
        *(Line(f"{LABELS[name]}-GM", model, 1.0) for name, model in retrained.items()),
    ]


def person(recording: str) -> str:
    """Who moves in a recording.

    Example:
        >>> person("03_03"), person("HDM_dg_throwBasketball_008_120")
        ('CMU 03', 'HDM05 dg')
    """
    return f"HDM05 {recording.split('_')[1]}" if recording.startswith("HDM") else f"CMU {recording.split('_')[0]}"


def distances(
    x: Float[Tensor, "*batch time xyz"], estimate: Float[Tensor, "*batch time xyz"]
) -> Float[Tensor, "*batch time joints"]:
    """Between joints and their estimates, in millimetres."""
    lengths: Tensor = (estimate - x).unflatten(-1, (-1, 3)).norm(dim=-1)
    return 1000 * lengths


# ------------------------------------------------------------------------------------------------- linear predictors


def principal(data: Float[Tensor, "*batch x_dim"]) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, principal directions (columns) and variances along them of vectors, the largest first."""
    vectors = data.flatten(0, -2).double()
    mean = vectors.mean(0)
    variances, directions = torch.linalg.eigh((vectors - mean).T @ (vectors - mean) / len(vectors))
    return mean, directions.flip(1), variances.flip(0)


def linear_latents(
    train: Float[Tensor, "*some x_dim"], test: Float[Tensor, "*batch x_dim"], num_latents: int
) -> tuple[Float[Tensor, "*batch x_dim"], Float[Tensor, "*batch"]]:
    """What principal components leave over of vectors, and the vectors' log-likelihoods, Eq. (13.c.2).

    Arguments:
        train: Vectors whose mean and principal components are taken.
        test: Vectors to be coded.
        num_latents: Number of components.

    Source: Tipping and Bishop (1999), with a fixed variance.
    """
    mean, directions, variances = principal(train)
    y = (test.double() - mean) @ directions
    chosen = torch.arange(y.shape[-1]) < num_latents
    model = torch.where(chosen, variances, 0.0).clamp(min=SIGMA**2)
    log_likelihood = -0.5 * ((2 * torch.pi * model).log() + y.square() / model).sum(-1)
    return (y * ~chosen) @ directions.T, log_likelihood


def linear_model(
    train: Float[Tensor, "some time x_dim"], test: Float[Tensor, "batch time x_dim"], order: int, num_latents: int
) -> tuple[Float[Tensor, "batch time x_dim"], Float[Tensor, "batch time"]]:
    """Errors and log-likelihoods of frames, where a difference of some order is coded by principal components.

    The first frames, which lack a past, are coded by those of a lower order.

    Arguments:
        train: Sequences whose principal components are taken.
        test: Sequences to be coded.
        order: 0 for poses, 1 for what the previous frame leaves over, 2 for what constant velocity does.
        num_latents: Number of components.
    """
    errors, log_likelihoods = [], []
    for n in range(order + 1):
        frames = slice(None) if n == order else slice(0, 1)
        known, new = (x.diff(n=n, dim=1)[:, frames] for x in (train, test))
        error, log_likelihood = linear_latents(known, new, num_latents)
        errors.append(error)
        log_likelihoods.append(log_likelihood)
    return torch.cat(errors, 1), torch.cat(log_likelihoods, 1)


# ------------------------------------------------------------------------------------------------------------ models


@torch.no_grad()
def resynthesis(
    model: DVAE, x: Float[Tensor, "batch time x_dim"], feedback: float = 0.0, *, at_mean: bool = False
) -> Float[Tensor, "batch time x_dim"]:
    """Means of p(x_t | .) at latent vectors drawn from the posterior.

    Arguments:
        model: A trained model.
        x: Sequences.
        feedback: 1 for generation mode.
        at_mean: Take the posterior's means in place of draws.
    """
    options: dict[str, Any] = {"feedback": feedback, "latents": "mean" if at_mean else "sample", "generator": _seeded()}
    return torch.cat([model.reconstruct(part, **options).mean for part in x.split(200)])


@torch.no_grad()
def with_and_without(
    model: DVAE, x: Float[Tensor, "batch time x_dim"], *, draws: int = 10
) -> tuple[Float[Tensor, "batch time x_dim"], Float[Tensor, "batch time x_dim"]]:
    """Means of p(x_t | .) given the true past: averaged over draws of z_t from its prior, and at the z_t inferred.

    Arguments:
        model: With latent vectors z for the frames.
        x: Sequences.
        draws: Of each prior.
    """
    generator = _seeded()
    z = model.inference(x, generator=generator)["z"].sample
    state, x_prev = model.initial_state(len(x)), torch.zeros_like(x[:, 0])
    predicted, informed = [], []
    for t in range(x.shape[1]):
        guesses = [model.step(state, x_prev, generator=generator).observation.mean for _ in range(draws)]
        predicted.append(torch.stack(guesses).mean(0))
        told = model.step(state, x_prev, z_t=z[:, t])
        informed.append(told.observation.mean)
        state, x_prev = told.state, x[:, t]
    return torch.stack(predicted, 1), torch.stack(informed, 1)


def best_map(
    inputs: Float[Tensor, "*some n"], targets: Float[Tensor, "*some m"], *, ridge: float = 1e-4
) -> Callable[[Tensor], Tensor]:
    """The affine map from inputs to targets with the smallest squared error, fitted with a small ridge."""

    def with_one(x: Tensor) -> Tensor:
        return torch.cat([x, torch.ones_like(x[..., :1])], -1).double()

    a, b = with_one(inputs).flatten(0, -2), targets.flatten(0, -2).double()
    weights = torch.linalg.solve(a.T @ a + ridge * torch.eye(a.shape[1]).to(a), a.T @ b)
    return lambda x: (with_one(x) @ weights).to(x.dtype)


def _seeded(seed: int = 0) -> Generator:
    return torch.Generator().manual_seed(seed)


# --------------------------------------------------------------------------------------------------------- movements


def bone_change(x: Float[Tensor, "batch time xyz"]) -> float:
    """By how many per cent bones change their length over time, averaged over those longer than two centimetres."""
    joints = x.unflatten(-1, (-1, 3))
    length = (joints[..., 1:, :] - joints[..., MOCAP_PARENTS[1:], :]).norm(dim=-1)
    kept = length.mean((0, 1)) > 0.02
    return 100 * float((length.std(1) / length.mean(1))[:, kept].mean())


def speeds(x: Float[Tensor, "batch time xyz"]) -> Float[Tensor, "batch steps joints"]:
    """Of all joints but the root, in metres per second."""
    steps: Tensor = x.unflatten(-1, (-1, 3))[..., 1:, :].diff(dim=-3).norm(dim=-1)
    return 30 * steps


def _nearest(x: Tensor, known: Tensor) -> float:
    """From every tenth pose to the nearest known one: found by squared distance, then measured joint by joint."""
    poses = x.flatten(0, -2)[::10]
    places = torch.cat([torch.cdist(part, known).argmin(1) for part in poses.split(100)])
    return distances(poses, known[places]).mean().item()


def judged(x: Float[Tensor, "batch time xyz"], train: Float[Tensor, "some frames xyz"]) -> Record:
    """Whether sequences look like a body that moves: bones, speeds, and the way to the nearest known pose."""
    speed = speeds(x).flatten()
    quantiles = np.quantile(speed.numpy(), np.linspace(0, 1, 41))
    return {
        "bones": rounded(bone_change(x)),
        "speed": rounded(speed.mean().item()),
        "quantiles": [rounded(value) for value in quantiles.tolist()],
        "nearest": rounded(_nearest(x, train.flatten(0, 1))),
    }


# ------------------------------------------------------------------------------------------------------------- parts


def _linear(data: Movement) -> Iterator[Task]:
    for order, predictor in enumerate(PREDICTORS):
        for num_latents in (0, COMPONENTS):
            yield _task("linear", f"{predictor} + {num_latents}", _linear_record, data, order, num_latents)


def _linear_record(data: Movement, order: int, num_latents: int) -> Record:
    error, log_likelihood = linear_model(data.train, data.test, order, num_latents)
    variances = principal(data.train.diff(n=order, dim=1))[2]
    return {
        **_errors(data, error.unflatten(-1, (-1, 3)).norm(dim=-1) * 1000),
        "log_likelihood": rounded(log_likelihood.mean().item()),
        "first_frame": rounded(log_likelihood[:, 0].mean().item()),
        "late_square": rounded(_square(error[:, 2:])),
        "deviations": _list(variances[:40].sqrt() * 1000),
        "train": rounded(_of(linear_model(data.train, data.train, order, num_latents)[0])),
        "validation": rounded(_of(linear_model(data.train, data.validation, order, num_latents)[0])),
    }


def _resynthesis(data: Movement, lines: Sequence[Line]) -> Iterator[Task]:
    for line in lines:
        yield _task("resynthesis", line.name, _resynthesis_record, data, line)


def _resynthesis_record(data: Movement, line: Line) -> Record:
    sets = {"train": data.train, "validation": data.validation}
    others = {name: distances(x, resynthesis(line.model, x, line.feedback)).mean().item() for name, x in sets.items()}
    error = distances(data.test, resynthesis(line.model, data.test, line.feedback))
    return {
        **_errors(data, error),
        **{name: rounded(value) for name, value in others.items()},
        "seed": line.model.metadata.get("seed"),
    }


def _past(data: Movement, lines: Sequence[Line]) -> Iterator[Task]:
    for line in lines:
        if line.model.links.predictive and not line.feedback:
            yield _task("past", line.name, _past_record, data, line)


def _past_record(data: Movement, line: Line) -> Record:
    parts = data.test.split(400)
    errors = [[x - part for part in with_and_without(line.model, x)] for x in parts]
    record: Record = {}
    for name, error in zip(("without", "with"), map(torch.cat, zip(*errors, strict=True)), strict=True):
        record |= {name: rounded(_of(error[:, 2:])), f"{name}_square": rounded(_square(error[:, 2:]))}
    return record


def _corrected(data: Movement, lines: Sequence[Line]) -> Iterator[Task]:
    for line in lines:
        if not line.feedback:
            yield _task("corrected", line.name, _corrected_record, data, line.model)
    yield _task("corrected", "no model", _uncorrected, data)


def _corrected_record(data: Movement, model: DVAE) -> Record:
    drawn, expected = (resynthesis(model, data.test, at_mean=at_mean) - data.test for at_mean in (False, True))
    kinds = {"drawn": (drawn, 0), "drawn_1": (drawn, 1), "mean": (expected, 0), "mean_1": (expected, 1)}
    kinds["mean_2"] = (expected, 2)
    return {name: rounded(_of(_from_the_fourth(error, n))) for name, (error, n) in kinds.items()}


def _uncorrected(data: Movement) -> Record:
    return {f"mean_{n}": rounded(_of(_from_the_fourth(data.test, n))) for n in (1, 2)}


def _from_the_fourth(error: Tensor, order: int) -> Tensor:
    """Differences of errors, (13.c.3), on the same frames for every order."""
    return error.diff(n=order, dim=1)[:, 3 - order :]


def _memory(data: Movement, lines: Sequence[Line]) -> Iterator[Task]:
    for line in lines:
        if line.name == LABELS["srnn"]:
            yield _task("memory", line.name, _memory_record, data, line.model)


@torch.no_grad()
def _memory_record(data: Movement, model: DVAE) -> Record:
    record: Record = {}
    for name, depth in {"features": 0, "state": 1}.items():
        inputs, seen = (_heard(model, x)[depth][:, 3:] for x in (data.train, data.test))
        reader = best_map(inputs, data.train[:, 2:-1])
        for who, x, read in (("train", data.train, inputs), ("test", data.test, seen)):
            record[f"{name}_{who}"] = rounded(distances(x[:, 2:-1], reader(read)).mean().item())
    return record


def _heard(model: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """What an SRNN's recurrence is told of the past, and what it keeps."""
    features = model.phi_x(shift(x))
    return features, model.d_h(features)[0]


def _particles(data: Movement, lines: Sequence[Line]) -> Iterator[Task]:
    x = data.some(100)
    for order in (1, 2):
        name = f"{PREDICTORS[order]} + {COMPONENTS}"
        yield _task("particles", name, _exact_record, data, x, order)
    for line in lines:
        if line.model.links.predictive and not line.feedback:
            yield _task("particles", line.name, _particles_record, x, line.model)


def _exact_record(data: Movement, x: Tensor, order: int) -> Record:
    value = linear_model(data.train, x, order, COMPONENTS)[1]
    return {"log_likelihood": rounded(value.mean().item()), "sequences": len(x)}


@torch.no_grad()
def _particles_record(x: Tensor, model: DVAE) -> Record:
    bounds = {
        "vlb": model.vlb(x, generator=_seeded()).value,
        "iw": model.importance_weighted_bound(x, num_samples=200, generator=_seeded()),
        "particles": model.smc_bound(x, num_particles=200, generator=_seeded()),
    }
    return {name: rounded((value / x.shape[1]).mean().item()) for name, value in bounds.items()} | {"sequences": len(x)}


def _generated(data: Movement, lines: Sequence[Line]) -> Iterator[Task]:
    x = data.some(400)
    yield _task("generated", "people", _people, data, x)
    noisy = x + SIGMA * torch.randn(x.shape, generator=_seeded())
    yield _task("generated", "people, with 1 cm of noise", judged, noisy, data.train)
    for line in lines:
        if not line.name.endswith("TF-GM"):
            yield _task("generated", line.name, _generated_record, data, x, line.model)


def _people(data: Movement, x: Tensor) -> Record:
    """The yardstick: people; and a last frame that stands still."""
    half = x.shape[1] // 2
    still = x[:, half - 1 : half].expand(-1, x.shape[1] - half, -1)
    return judged(x, data.train) | {"continued": _list(distances(x[:, half:], still).mean((0, 2)))}


def _generated_record(data: Movement, x: Tensor, model: DVAE) -> Record:
    number, frames = x.shape[:2]
    half = frames // 2
    made = model.generate(frames, number, emission="mean", generator=_seeded(2)).x
    drawn = model.generate(frames, number, emission="sample", generator=_seeded(2)).x
    again = resynthesis(model, x)
    new = model.generate(frames - half, prefix=x[:, :half], emission="mean", generator=_seeded(3)).x
    return {
        **judged(made, data.train),
        "samples": judged(drawn, data.train),
        "resynthesised": judged(again, data.train),
        "continued": _list(distances(x[:, half:], new).mean((0, 2))),
        "memory": bool(model.spec.compact()["z_t"]),
    }


# ------------------------------------------------------------------------------------------------------- the command


def tasks(data: Movement, lines: Sequence[Line], parts: Sequence[str] = PARTS) -> Iterator[Task]:
    """What is to be computed, part by part.

    Arguments:
        data: The recordings.
        lines: Of Table 13.2.
        parts: Some of `PARTS`.
    """
    makers: dict[str, Callable[[Movement, Sequence[Line]], Iterator[Task]]] = {
        "linear": lambda data, lines: _linear(data),
        "resynthesis": _resynthesis,
        "past": _past,
        "corrected": _corrected,
        "memory": _memory,
        "particles": _particles,
        "generated": _generated,
    }
    for part in parts:
        for task in makers[part](data, lines):
            yield Task(task.keys, partial(_with_facts, task.compute, data.facts))


def _with_facts(compute: Callable[[], Sequence[Record]], facts: Mapping[str, Any]) -> list[Record]:
    return [{**record, "data": dict(facts)} for record in compute()]


def _task(part: str, name: str, compute: Callable[..., Record], *arguments: Any) -> Task:
    key = {"part": part, "name": name}
    return Task([key], lambda: [{**key, **compute(*arguments)}])


def _errors(data: Movement, error: Tensor) -> Record:
    """In millimetres: the mean, that from the third frame on, by frame, by who moves, and by recording."""
    by_sequence = error.mean((1, 2))
    people = [person(name) for name in data.names]
    return {
        "mpjpe": rounded(error.mean().item()),
        "late": rounded(error[:, 2:].mean().item()),
        "by_frame": _list(error.mean((0, 2))),
        "by_person": _grouped(by_sequence, people),
        "by_recording": _grouped(by_sequence, data.names),
    }


def _grouped(values: Tensor, groups: Sequence[str]) -> dict[str, float | None]:
    return {group: rounded(values[[name == group for name in groups]].mean().item()) for group in sorted(set(groups))}


def _of(error: Tensor) -> float:
    """Mean length of error vectors, in millimetres."""
    return distances(torch.zeros_like(error), error).mean().item()


def _square(error: Tensor) -> float:
    """Squared errors as the likelihood counts them, in nats per frame."""
    return 0.5 * (error / SIGMA).square().sum(-1).mean().item()


def _list(values: Tensor) -> list[float | None]:
    return [rounded(value, 2) for value in values.tolist()]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    options = parser(__doc__)
    options.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    options.add_argument("--output", type=Path, default=RESULTS / "motion-exhibits.json")
    options.add_argument("--again", action="store_true", help="also what is in the file already")
    chosen = options.parse_args(arguments)
    parts = select(options, chosen.parts, PARTS)
    wanted = tasks(load_movement(), library_lines(), parts)
    return completed(ResultFile(chosen.output, KEY), wanted, again=chosen.again)


if __name__ == "__main__":
    sys.exit(main())
