"""The models on the four polyphonic music sets on which STORN, SRNN, NASMC and the DMM were published (Chapter 12).

    python -m dvae_lib.experiments.studies.polyphonic [--sets jsb ...] [--models vrnn ...] [--seeds 0 1 2]

Piano rolls of Boulanger-Lewandowski et al. (2012) with the split that came with them. Every model reads the same
pieces, of training pieces as many frames as `MusicProtocol` says, and is trained by the same schedule; the epoch that
is best on whole validation pieces is kept, and tested once, on whole test pieces: the variational bound, the
importance-weighted bound and, where a particle filter can run, the particle bound, in nats per frame, every frame of
the part counting the same. Beside them stand two references in closed form (`REFERENCES`), and what the papers report
(`PUBLISHED`).

The result is data/results/polyphonic.json. On one CPU core a training with its test takes one to ten minutes on `jsb`,
five to fifteen on the others, and by particles several times as long; what was interrupted goes on with the same
command, and several processes share the trainings.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Generator, Tensor

from dvae_lib.data.music.chorales import load_chorales
from dvae_lib.data.music.polyphonic import load_polyphonic
from dvae_lib.data.sequences import SequenceDataset
from dvae_lib.data.splits import Splits
from dvae_lib.evaluation import active_dimensions, bounds_per_frame
from dvae_lib.experiments.corpora import data_facts
from dvae_lib.experiments.protocol import falling
from dvae_lib.experiments.records import Record
from dvae_lib.experiments.results import ResultFile, Task, rounded
from dvae_lib.experiments.studies.command import RESULTS, RUNS, completed, parser
from dvae_lib.experiments.trainings import starting_model, train
from dvae_lib.models import DKF, DSAE, DVAE, GRNN, LVRNN, RVAE, SRNN, STORN, VAE, VRNN
from dvae_lib.objectives import nasmc, particle
from dvae_lib.training import Objective, TrainingConfig, vlb_terms
from dvae_lib.training.schedules import Schedule

__all__ = [
    "GRIDS",
    "KEY",
    "PIECES",
    "PUBLISHED",
    "REFERENCES",
    "SETS",
    "MusicProtocol",
    "Player",
    "Trial",
    "key_chains",
    "key_frequencies",
    "main",
    "particle_bound",
    "tasks",
]

KEY = ("set", "model", "seed")
Value = TypeVar("Value")
SETS = ("jsb", "nottingham", "musedata", "piano-midi")
GRIDS = {"chorales-quarters": 1, "chorales-eighths": 2, "chorales-sixteenths": 4}
"""Chorales whose scores are at hand, so that the grid is ours to choose, by their frames in a quarter note."""

SHARED: dict[str, Any] = {"x_dim": 88, "z_dim": 32, "observation": "bernoulli"}
LAYERS: dict[str, Any] = {"feature_x": (), "feature_z": (), "h_dim": 200, "decoder": (200,)}


_srnn = partial(
    SRNN,
    **SHARED,
    feature_x=(),
    h_dim=200,
    prior=(200,),
    decoder=(200,),
    inference_model="smoother",
    encoder=(),
    g_dim=200,
    head=(200,),
)
_lvrnn = partial(LVRNN, **SHARED, **LAYERS, k_dim=100, g_dim=200, head=(200,))


class Player(NamedTuple):
    """A model of the comparison.

    Attributes:
        build: Makes it, with initial weights from torch's global generator.
        objective: What is maximised.
        start_at_mean: Its output layer starts at how often each key sounds, and not where a layer usually does.
        slow: It gets three times as many epochs, and three times the patience.
        warm_up: The weight of the KL terms rises, where the objective has one.
    """

    build: Callable[[], DVAE]
    objective: Objective = vlb_terms
    start_at_mean: bool = True
    slow: bool = False
    warm_up: bool = True


PIECES: dict[str, Player] = {
    "grnn": Player(partial(GRNN, 88, 200, observation="bernoulli"), start_at_mean=False, slow=True),
    "vae": Player(partial(VAE, **SHARED, encoder=(400,), decoder=(400,)), start_at_mean=False, slow=True),
    "dkf": Player(partial(DKF, **SHARED, transition=200, decoder=(200,), encoder=(), g_dim=200, cell="gru"), slow=True),
    "storn": Player(partial(STORN, **SHARED, **LAYERS, inference_model="filter", g_dim=200, encoder=(), head=(200,))),
    "vrnn": Player(partial(VRNN, **SHARED, **LAYERS, prior=(200,), inference_model="filter", head=(200,))),
    "srnn": Player(_srnn),
    "srnn-unprepared": Player(_srnn, start_at_mean=False),
    "srnn-unprepared-slow": Player(_srnn, start_at_mean=False, slow=True),
    "rvae-causal": Player(partial(RVAE, **SHARED, decoder=(200,), generation_model="causal", h_dim=200, g_dim=200)),
    "dsae": Player(partial(DSAE, **SHARED, decoder=(200,), h_dim=100, inference_model="full", g_dim=100)),
    "lvrnn": Player(_lvrnn),
    "lvrnn-cold": Player(_lvrnn, warm_up=False),
    "lvrnn-fivo": Player(_lvrnn, partial(particle, num_particles=4)),
    "lvrnn-nasmc": Player(_lvrnn, partial(nasmc, num_particles=4)),
}
"""The models, by name; hidden layers and memories have 200 units, but for the 400 of the
VAE's layers and the 100 of the DSAE's memories and of the LVRNN's k_t.
Who starts where, and who is slow, was decided on the validation pieces of `jsb`, with one seed; "srnn-unprepared"
shows what the start does, and "lvrnn-cold" what the rising weight does, which FIVO and NASMC do not have."""

PUBLISHED: dict[str, dict[str, float]] = {
    "SRNN (Fraccaro et al., 2016), bound": dict(zip(SETS, (-4.74, -2.94, -6.28, -8.20), strict=True)),
    "NASMC (Gu et al., 2015), estimate": dict(zip(SETS, (-3.99, -2.72, -6.89, -7.61), strict=True)),
    "STORN (Bayer and Osendorfer, 2014)": dict(zip(SETS, (-6.91, -2.85, -6.16, -7.13), strict=True)),
    "TSBN (Gan et al., 2015), bound": dict(zip(SETS, (-7.48, -3.67, -6.81, -7.98), strict=True)),
    "DMM (Krishnan et al., 2017), bound": dict(zip(SETS, (-6.93, -2.96, -6.99, -7.98), strict=True)),
    "RNN-NADE (Boulanger-Lewandowski et al., 2012)": dict(zip(SETS, (-5.19, -2.31, -5.60, -7.05), strict=True)),
    "RNN (Boulanger-Lewandowski et al., 2012)": dict(zip(SETS, (-8.71, -4.46, -8.13, -8.37), strict=True)),
}
"""Nats per frame on the test parts, as the field quotes them; none was checked in the paper itself."""


def key_frequencies(train: SequenceDataset, test: SequenceDataset) -> float:
    """Log-likelihood, in nats per frame, where every key sounds as often as in the training part, whatever was before.

    Rates are those of counts with a half added to both outcomes.
    """
    sounding, frames = _pooled(train).sum(0), train.num_frames
    x = _pooled(test)
    return _log_likelihood(x, (sounding + 0.5) / (frames + 1)).sum().item() / test.num_frames


def key_chains(train: SequenceDataset, test: SequenceDataset) -> float:
    """Log-likelihood, in nats per frame, where every key is a Markov chain of its own, fitted to the training part.

    Rates are those of counts with a half added to both outcomes; before a piece begins all keys are silent.
    """
    pairs = [(_before(x), x) for x in _pieces(train)]
    before, now = (torch.cat(part) for part in zip(*pairs, strict=True))
    rate = [((state * now).sum(0) + 0.5) / (state.sum(0) + 1) for state in (1 - before, before)]
    total = sum(_log_likelihood(x, torch.where(_before(x) > 0, rate[1], rate[0])).sum().item() for x in _pieces(test))
    return total / test.num_frames


REFERENCES: dict[str, Callable[[SequenceDataset, SequenceDataset], float]] = {
    "key frequencies": key_frequencies,
    "key chains": key_chains,
}
"""Predictors without a network, by name."""


class Trial(NamedTuple):
    """How a model is tested.

    Attributes:
        samples: Number of samples of the importance-weighted bound.
        particles: Number of particles of the particle bound.
        batch_size: Pieces that are tested at once; None takes what the bounds take.
    """

    samples: int
    particles: int
    batch_size: int | None = None


@dataclass(frozen=True)
class MusicProtocol:
    """How the models are trained and tested.

    Attributes:
        sequence_length: Frames of a training sequence, by set; all others keep pieces whole.
        epochs: At most, by set: large sets need fewer passes. All others have as many as `jsb`.
        batch_size: Sequences of a step.
        warm_up: In which share of the epochs the weight of the KL terms rises, from 0.05 to one.
        patience: Epochs without a better validation bound.
        tests: What a model is tested with, by set: large sets make do with fewer samples and particles. All others
            are tested as `jsb` is.
    """

    sequence_length: tuple[tuple[str, int], ...] = (("nottingham", 100), ("musedata", 100), ("piano-midi", 100))
    epochs: tuple[tuple[str, int], ...] = (("jsb", 80), ("nottingham", 20), ("musedata", 12), ("piano-midi", 36))
    batch_size: int = 16
    warm_up: float = 0.375
    patience: int = 15
    tests: tuple[tuple[str, Trial], ...] = (
        ("jsb", Trial(100, 100)),
        ("nottingham", Trial(10, 30, 16)),
        ("musedata", Trial(10, 30, 16)),
        ("piano-midi", Trial(10, 30, 16)),
    )

    def load(self, name: str) -> Splits:
        """A set: training sequences, and whole pieces to validate with and to test on."""
        if name in GRIDS:
            return load_chorales(steps_per_quarter=GRIDS[name])
        whole, frames = load_polyphonic(name), dict(self.sequence_length).get(name)
        if frames is None:
            return whole
        # Pieces of like length are validated together: among thousands of frames the most would be padding.
        validation = whole.validation.select(whole.validation.lengths.argsort(stable=True).tolist())
        return Splits(load_polyphonic(name, sequence_length=frames).train, validation, whole.test)

    def config(self, name: str, player: Player, seed: int, *, weighs: bool) -> TrainingConfig:
        """The training of a model on a set; `weighs` says whether the objective has a weight of KL terms."""
        times = 3 if player.slow else 1
        epochs = times * _of(name, self.epochs)
        return TrainingConfig(
            learning_rate=falling(2e-3, epochs, 1e-4),
            batch_size=self.batch_size,
            max_epochs=epochs,
            patience=times * self.patience,
            gradient_clip=5.0,
            start_at_mean=player.start_at_mean,
            schedules={"beta": Schedule(((0, 0.05), (max(1, round(self.warm_up * epochs)), 1.0)))} if weighs else {},
            seed=seed,
        )

    def trial(self, name: str) -> Trial:
        """The test on a set."""
        return _of(name, self.tests)


def particle_bound(
    model: DVAE, data: SequenceDataset, num_particles: int, *, batch_size: int | None = None, seed: int = 0
) -> float:
    """The particle bound of whole sequences, in nats per frame over all frames of the data.

    Arguments:
        model: A model with a proposal per frame.
        data: The sequences.
        num_particles: Number of particles.
        batch_size: Sequences that are evaluated at once; None takes so many that their particles have about 64,000
            states.
        seed: Seed of the particles.
    """
    generator, total = Generator().manual_seed(seed), 0.0
    size = batch_size or max(1, 64_000 // (num_particles * int(data.lengths.max())))
    for part in data.lengths.argsort().split(size):  # of similar length, so that little is padding
        batch = data.batch(part.tolist())
        bound = particle(model, batch.x, lengths=batch.lengths, num_particles=num_particles, generator=generator)
        total += bound.value.sum().item()
    return total / data.num_frames


def tasks(
    sets: Sequence[str],
    models: Sequence[str],
    seeds: Sequence[int],
    runs: str | Path,
    protocol: MusicProtocol | None = None,
    load: Callable[[str], Splits] | None = None,
) -> Iterator[Task]:
    """The trainings and their tests, set by set.

    Arguments:
        sets: Some of `SETS` and `GRIDS`.
        models: Some of `PIECES`.
        seeds: Seeds of initial weights and trainings.
        runs: Folder of the trainings' states; what was interrupted goes on from there.
        protocol: How they are trained; None is the book's.
        load: Loads a set; None takes the protocol's.
    """
    settings = MusicProtocol() if protocol is None else protocol
    for name in sets:
        data = (settings.load if load is None else load)(name)
        for model in REFERENCES:
            key = {"set": name, "model": model, "seed": 0}
            yield Task([key], partial(_reference, key, data))
        for seed in seeds:
            for model in models:
                key = {"set": name, "model": model, "seed": seed}
                yield Task([key], partial(_tested, key, data, Path(runs), settings))


def _of(name: str, by_set: Sequence[tuple[str, Value]]) -> Value:
    known = dict(by_set)
    return known[name] if name in known else known["jsb"]


def _pieces(data: SequenceDataset) -> Iterator[Tensor]:
    return (data[i].double() for i in range(len(data)))


def _pooled(data: SequenceDataset) -> Tensor:
    return torch.cat(list(_pieces(data)))


def _before(x: Tensor) -> Tensor:
    return torch.cat([torch.zeros_like(x[:1]), x[:-1]])


def _log_likelihood(x: Tensor, rate: Tensor) -> Tensor:
    return torch.where(x > 0, rate.log(), (-rate).log1p())


def _reference(key: Record, data: Splits) -> list[Record]:
    value = REFERENCES[str(key["model"])](data.train, data.test)
    return [{**key, "vlb": rounded(value), "data": data_facts(train=data.train, test=data.test)}]


@torch.no_grad()
def _scores(model: DVAE, data: SequenceDataset, test: Trial, seed: int) -> Record:
    if not model.spec.latents:  # its bound is the likelihood itself
        return {"vlb": rounded(bounds_per_frame(model, data, batch_size=test.batch_size, seed=seed).vlb)}
    bounds = bounds_per_frame(model, data, test.samples, batch_size=test.batch_size, seed=seed)
    record = {
        "vlb": rounded(bounds.vlb),
        "iw": rounded(bounds.importance_weighted[test.samples]),
        "samples": test.samples,
        "kl": rounded(bounds.kl),
        "active": active_dimensions(bounds.kl_per_dim["z"]),
    }
    if model.has_proposal and model.is_causal:
        record["smc"] = rounded(particle_bound(model, data, test.particles, batch_size=test.batch_size, seed=seed))
        record["particles"] = test.particles
    return record


def _tested(key: Record, data: Splits, runs: Path, protocol: MusicProtocol) -> list[Record]:
    name, seed = str(key["set"]), int(key["seed"])
    player = PIECES[str(key["model"])]
    model = starting_model(seed, player.build)
    weighs = player.warm_up and player.objective is vlb_terms and bool(model.spec.latents)
    config = protocol.config(name, player, seed, weighs=weighs)
    folder = runs / f"polyphonic-{name}-{key['model']}-seed-{seed}"
    result = train(model, data.train, data.validation, config, folder, objective=player.objective)
    return [
        {
            **key,
            "weights": sum(p.numel() for p in model.parameters()),
            "best_epoch": result.best_epoch,
            "epochs": len(result.history),
            "validation": rounded(result.best_value),
            **_scores(model.eval(), data.test, protocol.trial(name), seed),
            "seconds": round(sum(float(epoch["seconds"]) for epoch in result.history), 1),
            "data": data_facts(train=data.train, validation=data.validation, test=data.test),
        }
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    options = parser(__doc__)
    options.add_argument("--sets", nargs="+", choices=(*SETS, *GRIDS), default=list(SETS))
    options.add_argument("--models", nargs="+", choices=list(PIECES), default=list(PIECES))
    options.add_argument("--seeds", type=int, nargs="+", default=[0])
    options.add_argument("--runs", type=Path, default=RUNS, help="where interrupted trainings are kept")
    options.add_argument("--output", type=Path, default=RESULTS / "polyphonic.json")
    options.add_argument("--again", action="store_true", help="compute also what is in the file already")
    chosen = options.parse_args(arguments)
    todo = tasks(chosen.sets, chosen.models, chosen.seeds, chosen.runs)
    return completed(ResultFile(chosen.output, KEY, ordered=True), todo, again=chosen.again)


if __name__ == "__main__":
    sys.exit(main())
