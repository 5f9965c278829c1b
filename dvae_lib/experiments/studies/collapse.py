r"""Eight remedies for posterior collapse, and the size of the latent vector, where the truth is known.

    python -m dvae_lib.experiments.studies.collapse [--seeds 0 1 2] [--parts truth remedies sizes]

The data are chords: a Markov chain over five of them, each a pattern of ten notes, of which every one is wrong with a
probability of 18 % in every frame. The exact likelihood is that of a hidden Markov model. Also known is what the best
model without latents can reach whose notes are independent given the past: between the two lies all that a latent
vector is worth.

Every remedy is tried on the improved VRNN (Section 8.4) without its auxiliary terms, with as many steps, the same rates
and the same weights to start from; without a remedy also with four times as many steps. The committed rate is tried on
a STORN, whose posterior has no memory, beside the same STORN with independent latents; and, as a control, both priors
are tried with the posterior that has the arrow (and sees later frames). The errors in the data and the length of a
training were chosen, on the validation part with seed 0, so that without a remedy the latent vectors come
into use late, if at all. Strengths were fixed before the first run: about 0.1 nats for each latent entry and frame
where a remedy has a price, the papers' values elsewhere. The epoch with the best bound on the validation part is
kept; the test part is looked at once, and every seed is reported. `sizes` repeats the training without a remedy, and
the one with annealing, for latent vectors of 1 to 32 entries.

The result is data/results/collapse.json; a training takes about two seconds on a CPU core, all 75 three minutes.
"""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from dvae_lib.data.sequences import SequenceDataset
from dvae_lib.evaluation import bounds_per_frame
from dvae_lib.evaluation.bounds import active_dimensions
from dvae_lib.experiments.corpora import data_facts
from dvae_lib.experiments.protocol import falling
from dvae_lib.experiments.records import Record
from dvae_lib.experiments.results import ResultFile, Task, rounded
from dvae_lib.experiments.studies.command import RESULTS, RUNS, completed, parser
from dvae_lib.experiments.trainings import starting_model, train
from dvae_lib.models import DVAE, STORN, ImprovedVRNN
from dvae_lib.objectives import balanced_kl, free_bits, word_dropout
from dvae_lib.statespace.hmm import HiddenMarkovModel, hmm_filter, hmm_log_likelihood
from dvae_lib.training import Objective, TrainingConfig, vlb_terms
from dvae_lib.training.schedules import Schedule

__all__ = ["KEY", "PARTS", "REMEDIES", "SIZES", "Chords", "CollapseProtocol", "Remedy", "main", "tasks", "trained"]

KEY = ("remedy", "z_dim", "seed")
PARTS = ("truth", "remedies", "sizes")
SIZES = (1, 2, 4, 8, 16, 32)


@dataclass(frozen=True)
class Chords:
    """A hidden Markov model of chords, each frame a pattern of notes with errors.

    Arguments:
        chords: Number K of chords.
        notes: Number F of notes.
        wrong: Probability that a note is not as the chord has it.
        follow: Probability of the next chord in order; all others, but the same again, share the rest.
    """

    chords: int = 5
    notes: int = 10
    wrong: float = 0.18
    follow: float = 0.4

    @property
    def probabilities(self) -> Float[Tensor, "chords notes"]:
        """The probability of each note, given the chord."""
        patterns = torch.rand(self.chords, self.notes, generator=Generator().manual_seed(7)) < 0.4
        return torch.where(patterns, 1 - self.wrong, self.wrong).double()

    @property
    def chain(self) -> HiddenMarkovModel:
        """The law of the chords."""
        transition = torch.full((self.chords,) * 2, (1 - self.follow) / (self.chords - 2), dtype=torch.float64)
        following = torch.eye(self.chords).roll(1, 1).bool()
        transition = transition.where(~following, self.follow).fill_diagonal_(0.0)
        return HiddenMarkovModel(torch.full((self.chords,), 1 / self.chords).double().log(), transition.log())

    def sample(self, num_sequences: int, num_steps: int, seed: int) -> Float[Tensor, "batch time notes"]:
        """Sequences of zeros and ones."""
        g, probabilities, transition = (
            Generator().manual_seed(seed),
            self.probabilities,
            self.chain.log_transition.exp(),
        )
        chord, frames = torch.randint(self.chords, (num_sequences,), generator=g), []
        for _ in range(num_steps):
            frames.append(torch.rand(num_sequences, self.notes, generator=g) < probabilities[chord])
            chord = torch.multinomial(transition[chord], 1, generator=g)[:, 0]
        return torch.stack(frames, 1).float()

    def evidence(self, x: Float[Tensor, "batch time notes"]) -> Float[Tensor, "batch time chords"]:
        """log p(x_t | chord) of each chord."""
        x, p = x.double(), self.probabilities
        return x @ p.log().T + (1 - x) @ (1 - p).log().T

    def log_likelihood(self, x: Float[Tensor, "batch time notes"]) -> float:
        """log p(x_{1:T}) in nats per frame, the mean of all sequences."""
        return float(hmm_log_likelihood(self.chain, self.evidence(x)).mean() / x.shape[1])

    def without_latents(self, x: Float[Tensor, "batch time notes"]) -> float:
        """The same of the best model whose notes are independent given the past, of which it knows everything."""
        p = hmm_filter(self.chain, self.evidence(x)).predicted @ self.probabilities
        return float((x * p.log() + (1 - x) * (1 - p).log()).sum((1, 2)).mean() / x.shape[1])


@dataclass(frozen=True)
class CollapseProtocol:
    """Data and trainings of the study.

    Attributes:
        data: The chords.
        sequences: Of the training, validation and test part.
        num_steps: Frames of a sequence.
        z_dim: Size of the latent vector, but where sizes are compared.
        h_dim: Units of the internal state.
        layer: Units of the other networks.
        epochs: Of a training.
        importance_samples: Of the importance-weighted bound.
        generated: Sequences that each model makes.
    """

    data: Chords = field(default_factory=Chords)
    sequences: tuple[int, int, int] = (256, 200, 500)
    num_steps: int = 6
    z_dim: int = 8
    h_dim: int = 24
    layer: int = 16
    epochs: int = 30
    importance_samples: int = 50
    generated: int = 2000

    def load(self) -> tuple[SequenceDataset, SequenceDataset, SequenceDataset]:
        """Training, validation and test part."""
        parts = (self.data.sample(n, self.num_steps, seed) for seed, n in enumerate(self.sequences))
        first, second, third = (SequenceDataset(part) for part in parts)
        return first, second, third

    def config(self, remedy: "Remedy", seed: int) -> TrainingConfig:
        """The training with a remedy; what it changes over time has settled after half of the epochs."""
        epochs = self.epochs * remedy.longer
        half = max(1, epochs // 2)
        return TrainingConfig(
            learning_rate=falling(3e-3, epochs, 3e-4),
            batch_size=32,
            max_epochs=epochs,
            patience=None,
            gradient_clip=5.0,
            schedules={"beta": Schedule.linear(0.01, 1.0, half)} if remedy.annealed else {},
            encoder_steps=Schedule(((half - 1, remedy.encoder_steps), (half, 0))) if remedy.encoder_steps else 0,
            seed=seed,
        )


class Remedy(NamedTuple):
    """What is done against collapse.

    Attributes:
        label: What it is called in the book.
        build: The model, of sizes.
        objective: What is maximised.
        annealed: Whether the weight of the KL terms rises from 0.01 to 1.
        encoder_steps: Steps of the encoder for each of all weights, in the first half.
        longer: How many times as many epochs as the others have.
        options: Of the model.
    """

    label: str
    build: Callable[..., DVAE]
    objective: Objective = vlb_terms
    annealed: bool = False
    encoder_steps: int = 0
    longer: int = 1
    options: Mapping[str, Any] = {}


def _improved_vrnn(x_dim: int, z_dim: int, h_dim: int, layer: int, **options: Any) -> DVAE:
    sizes: dict[str, Any] = {"feature_x": (), "feature_z": (), "prior": (layer,), "decoder": (), "head": (layer,)}
    sizes |= {"h_dim": h_dim, "b_dim": layer, "auxiliary": (layer,), "cell": "gru", "observation": "bernoulli"}
    return ImprovedVRNN(x_dim, z_dim, **{**sizes, "future": 0.0, "backward": 0.0, **options})


def _storn(x_dim: int, z_dim: int, h_dim: int, layer: int, **options: Any) -> DVAE:
    sizes: dict[str, Any] = {"feature_x": (), "feature_z": (), "decoder": (), "encoder": (), "head": (layer,)}
    sizes |= {"h_dim": h_dim, "g_dim": layer, "cell": "gru", "observation": "bernoulli"}
    return STORN(x_dim, z_dim, **sizes, **options)


REMEDIES: dict[str, Remedy] = {
    "none": Remedy("no remedy", _improved_vrnn),
    "patience": Remedy("no remedy, four times as long", _improved_vrnn, longer=4),
    "annealing": Remedy("KL annealing", _improved_vrnn, annealed=True),
    "dropout": Remedy("word dropout, 50 %", _improved_vrnn, partial(word_dropout, rate=0.5)),
    "weak": Remedy("weak decoder, 4 units", _improved_vrnn, options={"h_dim": 4}),
    "free-entry": Remedy("free bits per entry", _improved_vrnn, partial(free_bits, nats=0.1, per="entry")),
    "free-frame": Remedy("free bits per frame", _improved_vrnn, partial(free_bits, nats=0.8, per="frame")),
    "free-mean": Remedy(
        "free bits of the mean frame", _improved_vrnn, partial(free_bits, nats=0.8, per="frame", averaged=True)
    ),
    "aggressive": Remedy("aggressive encoder", _improved_vrnn, encoder_steps=5),
    "auxiliary": Remedy("auxiliary losses", _improved_vrnn, options={"future": 0.1, "backward": 0.1}),
    "balanced": Remedy("KL balancing", _improved_vrnn, partial(balanced_kl, balance=0.8)),
    "storn": Remedy("STORN, no remedy", _storn),
    "committed": Remedy("STORN, committed rate", _storn, options={"memory": 0.5}),
    "arrow": Remedy("STORN with the arrow", _storn, options={"inference_model": "smoother"}),
    "memory-arrow": Remedy(
        "STORN with the arrow, prior with memory", _storn, options={"inference_model": "smoother", "memory": 0.5}
    ),
}
"""Eight remedies, one of them in three placements; the two models without; one that is given more time; and, as a
control of the committed rate, both priors of the STORN with a posterior that has the arrow."""


def tasks(
    seeds: Sequence[int],
    runs: str | Path,
    parts: Sequence[str] = PARTS,
    protocol: CollapseProtocol | None = None,
    names: Sequence[str] = tuple(REMEDIES),
) -> Iterator[Task]:
    """The truth about the test part; then train and test with every remedy, and with every size.

    Arguments:
        seeds: Seeds of initial weights and trainings.
        runs: Folder of the trainings' states; what was interrupted goes on from there.
        parts: What is done of it.
        protocol: Data and trainings; None is the book's.
        names: The remedies; of sizes those among them that are tried with all.
    """
    settings = CollapseProtocol() if protocol is None else protocol
    if "truth" in parts:
        yield Task([{"remedy": "truth", "z_dim": 0, "seed": 0}], partial(_truth, settings))
    cases = [(name, settings.z_dim) for name in names] if "remedies" in parts else []
    swept = [name for name in ("none", "annealing") if name in names]
    cases += [(name, size) for size in SIZES for name in swept] if "sizes" in parts else []
    for seed in seeds:
        for name, z_dim in dict.fromkeys(cases):
            key = {"remedy": name, "z_dim": z_dim, "seed": seed}
            yield Task([key], partial(_tested, name, z_dim, seed, Path(runs), settings))


def trained(
    name: str,
    seed: int,
    runs: str | Path,
    *,
    z_dim: int | None = None,
    protocol: CollapseProtocol | None = None,
) -> tuple[DVAE, list[dict[str, Any]]]:
    """A model, trained with a remedy; and the record of each epoch.

    Arguments:
        name: One of `REMEDIES`.
        seed: Seed of the initial weights and the training.
        runs: Folder of the trainings' states.
        z_dim: Size of the latent vector; None is the protocol's.
        protocol: Data and training; None is the book's.

    Raises:
        Interrupted: The training was interrupted and saved.
    """
    settings, remedy = CollapseProtocol() if protocol is None else protocol, REMEDIES[name]
    size = settings.z_dim if z_dim is None else z_dim
    options = {"h_dim": settings.h_dim, "layer": settings.layer, **remedy.options}
    model = starting_model(seed, lambda: remedy.build(settings.data.notes, size, **options))
    training, validation, _ = settings.load()
    folder = Path(runs) / f"collapse-{name}-{size}-seed-{seed}"
    result = train(model, training, validation, settings.config(remedy, seed), folder, objective=remedy.objective)
    return model.eval(), result.history


def _truth(protocol: CollapseProtocol) -> list[Record]:
    test = protocol.load()[-1]
    x = test.batch(range(len(test))).x
    made = protocol.data.sample(protocol.generated, protocol.num_steps, seed=9)
    record = {
        "log_likelihood": rounded(protocol.data.log_likelihood(x)),
        "without_latents": rounded(protocol.data.without_latents(x)),
        "generated": rounded(protocol.data.log_likelihood(made)),
    }
    return [{"remedy": "truth", "z_dim": 0, "seed": 0, **record, "data": data_facts(test=test)}]


def _tested(name: str, z_dim: int, seed: int, runs: Path, protocol: CollapseProtocol) -> list[Record]:
    model, history = trained(name, seed, runs, z_dim=z_dim, protocol=protocol)
    test, count = protocol.load()[-1], protocol.importance_samples
    bounds = bounds_per_frame(model, test, count, seed=seed)
    made = model.generate(protocol.num_steps, protocol.generated, generator=Generator().manual_seed(seed))
    return [
        {
            "remedy": name,
            "z_dim": z_dim,
            "seed": seed,
            "weights": sum(p.numel() for p in model.parameters()),
            "vlb": rounded(bounds.vlb),
            "iw": rounded(bounds.importance_weighted[count]),
            "samples": count,
            "kl": rounded(bounds.kl),
            "active": active_dimensions(bounds.kl_per_dim["z"]),
            "generated": rounded(protocol.data.log_likelihood(made.x)),
            "curve": [rounded(float(epoch["validation_kl_per_frame"]), 3) for epoch in history],
            "seconds": round(sum(float(epoch["seconds"]) for epoch in history), 1),
            "data": data_facts(test=test),
        }
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    options = parser(__doc__)
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    options.add_argument("--runs", type=Path, default=RUNS, help="where interrupted trainings are kept")
    options.add_argument("--output", type=Path, default=RESULTS / "collapse.json")
    options.add_argument("--again", action="store_true", help="compute also what is in the file already")
    chosen = options.parse_args(arguments)
    todo = tasks(chosen.seeds, chosen.runs, chosen.parts)
    return completed(ResultFile(chosen.output, KEY), todo, again=chosen.again)


if __name__ == "__main__":
    sys.exit(main())
