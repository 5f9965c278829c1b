"""When a learned prior widens, and when the latent vector of a sequence falls silent: SVG and VRAE (Section 12.2).

    python -m dvae_lib.experiments.studies.learned_priors [--parts bounces fragments] [--seeds 0 1 2] [--models FOLDER]

"bounces": an SVG with a learned prior sees where a ball is, in a box whose walls throw it back in a random direction,
or elastically. Does the prior's deviation, known before the frame, say that there is a bounce? "fragments": a VRAE with
two latent dimensions learns four-bar fragments of Bach's chorales in all keys, fed with the true past or with its own
output, the latter also with a warm-up of the KL term's weight, which is one throughout in the others. Do fragments that
lie side by side in the plane of the latent vector share their key? The epoch that is best on validation data is kept,
and tested once. With a folder of models the first seed's are kept there, those that the book shows. The result is
data/results/learned_prior.json; a training takes one to two minutes on an idle core.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from dvae_lib.data.music import LOWEST_KEY, load_chorales
from dvae_lib.data.sequences import SequenceDataset
from dvae_lib.data.splits import Splits
from dvae_lib.data.toy import bouncing_ball
from dvae_lib.experiments.corpora import data_facts
from dvae_lib.experiments.protocol import falling
from dvae_lib.experiments.records import Record
from dvae_lib.experiments.results import ResultFile, Task, rounded
from dvae_lib.experiments.studies.command import RESULTS, RUNS, completed, parser
from dvae_lib.experiments.trainings import describe_training, starting_model, train
from dvae_lib.models import DVAE, SVG, VRAE
from dvae_lib.training import TrainingConfig
from dvae_lib.training.schedules import Schedule

__all__ = [
    "KEY",
    "BounceProtocol",
    "Flights",
    "FragmentProtocol",
    "area_under_curve",
    "bounce_scores",
    "bounce_task",
    "flights",
    "fragment_task",
    "fragments",
    "main",
    "neighbours",
    "scale",
]

COMMAND = "python -m dvae_lib.experiments.studies.learned_priors"
KEY = ("part", "case", "seed")

BOX, RADIUS, SPEED = 12, 2.0, 2.0

BOUNCES = ("random", "elastic")
FRAGMENTS = {
    "true past": (0.0, False),
    "own output": (1.0, False),
    "own output, warm-up": (1.0, True),
}
"""The trainings of the VRAE: what is fed back, and whether the KL term's weight rises."""

KEPT = {"random": "svg-random-bounces", "elastic": "svg-elastic-bounces", "own output, warm-up": "vrae-chorales"}
"""The models that the book shows, by the case that they belong to."""


class Flights(NamedTuple):
    """Where a ball is, from frame to frame.

    Attributes:
        x: Its middle, between -1 and 1 on both axes, (N, T, 2).
        bounced: Whether there was a wall between the frame before and this one, (N, T).
    """

    x: Float[Tensor, "flights time 2"]
    bounced: Bool[Tensor, "flights time"]


def flights(num_sequences: int, num_steps: int, bounce: str, seed: int) -> Flights:
    """Positions of a ball in a box, by the toy `bouncing_ball`.

    Arguments:
        num_sequences: N.
        num_steps: T.
        bounce: "random" or "elastic".
        seed: Seed of starts, directions and bounces.
    """
    film = bouncing_ball(
        num_sequences,
        num_steps,
        size=BOX,
        radius=RADIUS,
        speed=SPEED,
        bounce=bounce,  # type: ignore[arg-type]
        generator=Generator().manual_seed(seed),
    )
    position, velocity = film.z[..., :2], film.z[..., 2:]
    bounced = torch.zeros(num_sequences, num_steps, dtype=torch.bool)
    bounced[:, 1:] = (velocity[:, 1:] - velocity[:, :-1]).norm(dim=-1) > 1e-4 * SPEED
    return Flights((position - BOX / 2) / (BOX / 2 - RADIUS), bounced)


def fragments() -> Splits:
    """Fragments of four bars (16 quarter notes) of the chorales, one after the other; for training in all keys."""
    return load_chorales(sequence_length=16, transpose_training=range(-5, 7))


def scale(roll: Float[Tensor, "*batch time 88"]) -> Int[Tensor, "*batch"]:
    """The place on the circle of fifths of the diatonic scale that holds most of what sounds.

    0 is C major and A minor, 1 is G major and E minor (a sharp), 11 is F major and D minor (a flat); of scales that
    hold equally many notes the first in this order.

    Example:
        >>> roll = torch.zeros(1, 88)
        >>> roll[0, [39, 43, 46, 57]] = 1.0  # C4, E4, G4 and F#5
        >>> scale(roll).item()
        1
    """
    counts = torch.zeros(*roll.shape[:-2], 12, dtype=roll.dtype, device=roll.device)
    pitch = (torch.arange(88, device=roll.device) + LOWEST_KEY) % 12
    counts = counts.index_add(-1, pitch, roll.sum(-2))
    tonic = 7 * torch.arange(12, device=roll.device) % 12
    notes = (tonic[:, None] + torch.tensor([0, 2, 4, 5, 7, 9, 11], device=roll.device)) % 12
    return counts[..., notes].sum(-1).argmax(-1)


def area_under_curve(score: Float[Tensor, " cases"], label: Bool[Tensor, " cases"]) -> float:
    """The probability that a case with the label scores higher than one without it; ties count half.

    Example:
        >>> area_under_curve(torch.tensor([0.1, 0.4, 0.3]), torch.tensor([False, True, True]))
        1.0
    """
    _values, inverse, counts = score.double().unique(return_inverse=True, return_counts=True)
    rank = (counts.cumsum(0) - (counts - 1) / 2)[inverse]  # the mean one of equal values, counted from 1
    with_it, without = int(label.sum()), int((~label).sum())
    return float((rank[label].sum() - with_it * (with_it + 1) / 2) / (with_it * without))


@torch.no_grad()
def bounce_scores(model: DVAE, data: Flights, first: int, seed: int = 0) -> Record:
    """What the prior says beforehand, and what the frame tells beyond it, at bounces and elsewhere.

    Arguments:
        model: A trained SVG.
        data: Test sequences.
        first: The first frame that counts, from 0: before it a model cannot know how the ball flies.
        seed: Seed of the latent vectors.
    """
    output = model(data.x, generator=Generator().manual_seed(seed))
    bound = model.vlb(data.x, generator=Generator().manual_seed(seed))
    prior: Any = output.latents["z"].prior
    counted = {"sigma": (prior.logvar / 2).mean(-1).exp(), "kl": bound.kl["z"]}
    label = data.bounced[:, first:].flatten()
    record: Record = {"vlb": round(float(bound.value.mean()) / data.x.shape[1], 4)}
    for name, value in counted.items():
        value = value[:, first:].flatten()
        record[f"auc_{name}"] = round(area_under_curve(value, label), 4)
        record[f"{name}_at_bounces"] = round(float(value[label].mean()), 4)
        record[f"{name}_elsewhere"] = round(float(value[~label].mean()), 4)
    return record


@dataclass(frozen=True)
class BounceProtocol:
    """How an SVG is trained on flights, and tested.

    Attributes:
        sequences: Training sequences.
        held_out: Validation sequences, and test sequences.
        num_steps: Frames of a sequence.
        first: The first frame, from 0, that a test counts.
        epochs: Epochs of a training.
        batch_size: Sequences of a step.
        size: Units of each recursion and hidden layer.
    """

    sequences: int = 4000
    held_out: int = 500
    num_steps: int = 12
    first: int = 4
    epochs: int = 96
    batch_size: int = 64
    size: int = 40

    def build(self) -> DVAE:
        """The model, with its initial weights drawn from torch's global generator."""
        size = self.size
        return SVG(
            2,
            2,
            observation="gaussian(scale=0.05)",
            feature=(32,),
            decoder=(32,),
            h_dim=size,
            k_dim=size,
            g_dim=size,
        )

    def data(self, bounce: str) -> tuple[Splits, Flights]:
        """Training, validation and test part; and the last with its bounces."""
        parts = [
            flights(count, self.num_steps, bounce, seed)
            for seed, count in enumerate((self.sequences, self.held_out, self.held_out))
        ]
        return Splits(*(SequenceDataset(list(part.x)) for part in parts)), parts[2]

    def config(self, seed: int) -> TrainingConfig:
        """The training."""
        return TrainingConfig(
            learning_rate=falling(3e-3, self.epochs, 1e-4),
            batch_size=self.batch_size,
            max_epochs=self.epochs,
            patience=None,
            gradient_clip=5.0,
            schedules={"beta": Schedule.linear(0.1, 1.0, epochs=max(1, self.epochs // 4))},
            seed=seed,
        )


@dataclass(frozen=True)
class FragmentProtocol:
    """How a VRAE is trained on fragments of chorales, and tested.

    Attributes:
        epochs: Epochs of a training. A warm-up keeps the weight of the KL term at 0.05 for half of them, then
            raises it to one in three tenths.
        batch_size: Sequences of a step.
    """

    epochs: int = 10
    batch_size: int = 32

    def build(self) -> DVAE:
        """The model, with its initial weights drawn from torch's global generator."""
        return VRAE(88, 2, observation="bernoulli", h_dim=96, g_dim=64, decoder=(64,), cell="gru")

    def config(self, feedback: float, warm_up: bool, seed: int) -> TrainingConfig:
        """The training."""
        schedules: dict[str, Any] = {"feedback": feedback} if feedback else {}
        if warm_up:
            hold = max(1, self.epochs // 2)
            schedules["beta"] = Schedule(((0, 0.05), (hold, 0.05), (max(hold + 1, 8 * self.epochs // 10), 1.0)))
        return TrainingConfig(
            learning_rate=falling(5e-3, self.epochs, 1e-4),
            batch_size=self.batch_size,
            max_epochs=self.epochs,
            patience=None,
            gradient_clip=5.0,
            schedules=schedules,
            seed=seed,
        )


class Places(NamedTuple):
    """Where trainings stand, and where the models that are kept go."""

    runs: Path
    models: Path | None = None


def bounce_task(bounce: str, seed: int, places: Places, protocol: BounceProtocol | None = None) -> Task:
    """Train an SVG on flights with bounces of one kind, and test it.

    Arguments:
        bounce: "random" or "elastic".
        seed: Seed of its initial weights and its training; the data are the same for all.
        places: Where to.
        protocol: How it is trained and tested; None is the book's.
    """
    settings = BounceProtocol() if protocol is None else protocol

    def compute() -> list[Record]:
        data, test = settings.data(bounce)
        model, facts = _trained("bounces", bounce, settings.build, data, settings.config(seed), places)
        scores = bounce_scores(model, test, settings.first)
        return [{**facts, "bounces": round(float(test.bounced[:, settings.first :].float().mean()), 4), **scores}]

    return Task([_key("bounces", bounce, seed)], compute)


def fragment_task(case: str, seed: int, data: Splits, places: Places, protocol: FragmentProtocol | None = None) -> Task:
    """Train a VRAE on fragments in one of the ways of `FRAGMENTS`, and test it fed with either past.

    Arguments:
        case: The way.
        seed: Seed of its initial weights and its training.
        data: The fragments.
        places: Where to.
        protocol: How it is trained; None is the book's.
    """
    settings = FragmentProtocol() if protocol is None else protocol

    def compute() -> list[Record]:
        config = settings.config(*FRAGMENTS[case], seed)
        model, facts = _trained("fragments", case, settings.build, data, config, places)
        return [{**facts, **_fragment_scores(model, data.test), **neighbours(model, data.train, data.test)}]

    return Task([_key("fragments", case, seed)], compute)


@torch.no_grad()
def _fragment_scores(model: DVAE, test: SequenceDataset) -> Record:
    """Bounds in nats per frame with either past, and the KL term, which is the same with both, per sequence."""
    x = _stacked(test)
    record: Record = {"fragments": len(x)}
    for name, feedback in (("vlb_true_past", 0.0), ("vlb_own_output", 1.0)):
        bound = model.vlb(x, feedback=feedback, generator=Generator().manual_seed(0))
        record[name] = rounded(float(bound.value.mean()) / x.shape[1])
        record["kl"] = rounded(float(bound.kl["v"].mean()))
    return record


@torch.no_grad()
def neighbours(model: DVAE, train: SequenceDataset, test: SequenceDataset, count: int = 5) -> Record:
    """How many of the nearest training fragments in the latent plane are of a test fragment's scale, and of all.

    Arguments:
        model: A trained VRAE.
        train: Where neighbours are looked for.
        test: The fragments whose neighbours they are.
        count: How many each has.
    """
    known, asked = _stacked(train), _stacked(test)
    here, there = (model.inference(x, draw="mean")["v"].sample for x in (asked, known))
    same = scale(asked)[:, None] == scale(known)
    nearest = torch.cdist(here, there).topk(count, largest=False).indices
    return {
        "same_scale": rounded(float(same.gather(1, nearest).float().mean())),
        "same_scale_by_chance": rounded(float(same.float().mean())),
    }


def _stacked(data: SequenceDataset) -> Tensor:
    return torch.stack([data[i] for i in range(len(data))])


def _key(part: str, case: str, seed: int) -> Record:
    return {"part": part, "case": case, "seed": seed}


def _trained(
    part: str, case: str, build: Callable[[], DVAE], data: Splits, config: TrainingConfig, places: Places
) -> tuple[DVAE, Record]:
    """A trained model, and what its record says of the training."""
    model = starting_model(config.seed, build)
    folder = f"learned_priors-{part}-{case.replace(', ', '-').replace(' ', '-')}-seed-{config.seed}"
    result = train(model, data.train, data.validation, config, places.runs / folder)
    corpus = {"bounces": f"bouncing_ball(bounce={case!r})", "fragments": "chorales"}[part]
    describe_training(model, result, config, corpus=corpus, made_by=COMMAND, case=case)
    if places.models is not None and config.seed == 0 and case in KEPT:
        model.save_pretrained(places.models / KEPT[case], half=True)
    facts = {
        **_key(part, case, config.seed),
        "weights": sum(p.numel() for p in model.parameters()),
        "epochs": config.max_epochs,
        "best_epoch": result.best_epoch,
        "validation": round(result.best_value, 4),
        "seconds": round(sum(float(epoch["seconds"]) for epoch in result.history)),
        "data": data_facts(**data._asdict()),
    }
    return model, facts


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    options = parser(__doc__)
    options.add_argument("--parts", nargs="+", choices=["bounces", "fragments"], default=["bounces", "fragments"])
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options.add_argument("--models", type=Path, help="where the models that the book shows are written")
    options.add_argument("--runs", type=Path, default=RUNS, help="where interrupted trainings are kept")
    options.add_argument("--output", type=Path, default=RESULTS / "learned_prior.json")
    options.add_argument("--again", action="store_true", help="compute also what is in the file already")
    chosen = options.parse_args(arguments)
    places = Places(chosen.runs, chosen.models)
    tasks: list[Task] = []
    if "bounces" in chosen.parts:
        tasks += [bounce_task(bounce, seed, places) for seed in chosen.seeds for bounce in BOUNCES]
    if "fragments" in chosen.parts:
        data = fragments()
        tasks += [fragment_task(case, seed, data, places) for seed in chosen.seeds for case in FRAGMENTS]
    return completed(ResultFile(chosen.output, KEY), tasks, again=chosen.again)


if __name__ == "__main__":
    sys.exit(main())
