"""The models of Chapters 5 and 7 to 11 on Bach's chorales: trained, and tested once.

    python -m dvae_lib.experiments.studies.chorales train [NAME ...] [--seed 0] [--models FOLDER]
    python -m dvae_lib.experiments.studies.chorales test [NAME ...] [--models FOLDER ...]

All models have about 140,000 weights, and see the same pieces of the training chorales in all twelve keys. The epoch
that is best on the validation chorales is kept; the test chorales are not looked at. A name that ends in `-scheduled`
goes on from the model without that ending, which must be there, with scheduled sampling (Section 13.3.3, shortened).
Weights are written in half precision. One model takes one to five minutes on a CPU core, a scheduled one three to
seven.

A test takes about a minute. Its bounds are in nats per frame, a quarter note, over the whole test part; the
autoregressive models that scheduled sampling was tried on are tested in generation mode, too. Nothing is chosen by
these numbers. They go into data/results/chorales.json.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dvae_lib.data.music import load_chorales
from dvae_lib.data.sequences import SequenceDataset
from dvae_lib.data.splits import Splits
from dvae_lib.evaluation import bounds_per_frame
from dvae_lib.experiments.corpora import data_facts
from dvae_lib.experiments.protocol import SCHEDULED, SCHEDULED_ENDING, falling
from dvae_lib.experiments.records import Record
from dvae_lib.experiments.results import Task
from dvae_lib.experiments.scores import bounds_record
from dvae_lib.experiments.studies.command import RESULTS, select, train_or_test, training_parser
from dvae_lib.experiments.trainings import describe_training, facts_of_training, starting_model, train
from dvae_lib.models import DKF, DSAE, DVAE, RVAE, SRNN, STORN, VAE, VRNN, ImprovedVRNN
from dvae_lib.models.rnn import GRNN
from dvae_lib.training import TrainingConfig
from dvae_lib.training.schedules import Schedule

__all__ = ["ARCHITECTURES", "KEY", "NAMES", "ChoraleProtocol", "main", "evaluation_task", "train_chorales"]

COMMAND = "python -m dvae_lib.experiments.studies.chorales"
KEY = ("name", "seed")

SHARED: dict[str, Any] = {"x_dim": 88, "z_dim": 32, "observation": "bernoulli"}
# The inference models of one generative model are compared at about equal numbers of weights.
_storn = partial(STORN, **SHARED, feature_x=(), feature_z=(), h_dim=88, decoder=(128,), encoder=(), head=(64,))
_vrnn = partial(VRNN, **SHARED, feature_x=(), feature_z=(), h_dim=88, prior=(64,), decoder=(112,))
_srnn = partial(SRNN, **SHARED, feature_x=(), h_dim=84, prior=(64,), decoder=(128,), head=(64,))
_improved_vrnn = partial(
    ImprovedVRNN,
    **SHARED,
    feature_x=(),
    feature_z=(),
    h_dim=80,
    prior=(64,),
    decoder=(96,),
    head=(64,),
    b_dim=48,
    auxiliary=(48,),
)
_causal_rvae = partial(RVAE, **SHARED, decoder=(128,), generation_model="causal", h_dim=96, g_dim=64)
_dsae = partial(DSAE, **SHARED, h_dim=64, decoder=(256,))

ARCHITECTURES: dict[str, Callable[[], DVAE]] = {
    "dkf-chorales": partial(DKF, **SHARED, transition=64, decoder=(256,), encoder=(), g_dim=128, cell="gru"),
    "grnn-chorales": partial(GRNN, 88, 136, observation="bernoulli"),
    "vae-chorales": partial(VAE, **SHARED, encoder=(500,), decoder=(500,)),
    "storn-chorales": partial(_storn, inference_model="filter", g_dim=64),
    "storn-lagged-chorales": partial(_storn, inference_model="lagged", g_dim=64),
    "storn-smoother-chorales": partial(_storn, inference_model="smoother", g_dim=48),
    "vrnn-chorales": partial(_vrnn, inference_model="filter", head=(128,)),
    "vrnn-smoother-chorales": partial(_vrnn, inference_model="smoother", g_dim=40, head=(64,)),
    "vrnn-improved-chorales": _improved_vrnn,
    "srnn-chorales": partial(_srnn, inference_model="smoother", encoder=(), g_dim=48),
    "srnn-filter-chorales": partial(_srnn, inference_model="filter", encoder=(128,)),
    "rvae-causal-chorales": _causal_rvae,
    "rvae-causal-filter-chorales": partial(_causal_rvae, inference_model="filter"),
    "rvae-noncausal-chorales": partial(
        RVAE, **SHARED, decoder=(128,), generation_model="noncausal", h_dim=60, g_dim=46
    ),
    "dsae-chorales": partial(_dsae, inference_model="full", g_dim=32),
    "dsae-factorised-chorales": partial(_dsae, inference_model="factorised", g_dim=56),
    "dsae-structured-chorales": partial(_dsae, inference_model="structured", g_dim=40),
}
"""How to build each model, with its initial weights drawn from torch's global generator."""

FED_BACK = tuple(f"{name}-chorales" for name in SCHEDULED)
"""The models that are trained further with scheduled sampling, and tested in generation mode before and after."""

NAMES = (*ARCHITECTURES, *(name + SCHEDULED_ENDING for name in FED_BACK))
"""All models, in an order in which each has what it starts from."""


@dataclass(frozen=True)
class ChoraleProtocol:
    """How the models of the chorales are trained and tested.

    Attributes:
        sequence_length: Quarter notes of a training sequence.
        keys: Semitones by which the training chorales are transposed.
        epochs: Epochs of a training.
        scheduled_epochs: Epochs of a training with scheduled sampling: a twenty-fifth of the review's. 20 % of the
            frames are the model's own at first, all in the last twelve epochs.
        warm_up: Weight of the KL terms. With layers of 96 units and a warm-up from 0.1 over four epochs the deep Kalman
            filter's posterior collapsed: it ended below the static VAE on the validation chorales.
        batch_size: Sequences of a step.
        importance_samples: Numbers of samples of the importance-weighted bounds.
        importance_samples_fed_back: The same in generation mode.
    """

    sequence_length: int = 32
    keys: tuple[int, ...] = tuple(range(-5, 7))
    epochs: int = 30
    scheduled_epochs: int = 20
    warm_up: Schedule = Schedule(((0, 0.01), (2, 0.01), (10, 1.0)))  # noqa: RUF009 - a schedule does not change
    batch_size: int = 32
    importance_samples: tuple[int, ...] = (10, 50, 500)
    importance_samples_fed_back: tuple[int, ...] = (50,)

    def load(self) -> Splits:
        """The chorales: pieces to train and validate with, whole chorales to test on."""
        return load_chorales(sequence_length=self.sequence_length, transpose_training=self.keys)._replace(
            test=load_chorales().test
        )

    def config(self, name: str, seed: int) -> TrainingConfig:
        """The training of a model."""
        if name.endswith(SCHEDULED_ENDING):
            epochs, schedules = self.scheduled_epochs, {"feedback": Schedule.scheduled_sampling(every=2)}
            rate = Schedule.linear(1e-3, 1e-4, epochs=epochs)
        else:
            epochs, schedules = self.epochs, {} if name == "grnn-chorales" else {"beta": self.warm_up}
            rate = falling(3e-3, epochs, 1e-4)
        return TrainingConfig(
            learning_rate=rate,
            batch_size=self.batch_size,
            max_epochs=epochs,
            patience=10,
            gradient_clip=5.0,
            schedules=schedules,
            seed=seed,
        )


def train_chorales(
    name: str,
    seed: int,
    models: str | Path,
    runs: str | Path,
    *,
    data: Splits | None = None,
    protocol: ChoraleProtocol | None = None,
) -> Path:
    """Train a model and save it in the folder of its name.

    Arguments:
        name: One of `NAMES`.
        seed: Seed of the initial weights and the training.
        models: Folder of the trained models.
        runs: Folder of the trainings' states; what was interrupted goes on from there.
        data: The chorales; None loads them.
        protocol: How it is trained; None is the book's.

    Returns:
        The model's folder.

    Raises:
        Interrupted: The training was interrupted and saved.
        FileNotFoundError: The model that it starts from is not there.
    """
    protocol = ChoraleProtocol() if protocol is None else protocol
    data = protocol.load() if data is None else data
    first = name.removesuffix(SCHEDULED_ENDING)
    model = starting_model(seed, lambda: ARCHITECTURES[name](), None if name == first else Path(models) / first)
    config = protocol.config(name, seed)
    result = train(model, data.train, data.validation, config, Path(runs) / f"{name}-seed-{seed}")
    describe_training(
        model,
        result,
        config,
        corpus="chorales",
        made_by=f"{COMMAND} train",
        sequence_length=protocol.sequence_length,
        transposed_by=list(protocol.keys),
    )
    return model.save_pretrained(Path(models) / name, half=True)


def evaluation_task(folder: str | Path, test: SequenceDataset, protocol: ChoraleProtocol | None = None) -> Task:
    """The test of one trained model.

    Arguments:
        folder: The model's.
        test: Whole test chorales.
        protocol: How it is tested; None is the book's.
    """
    protocol, folder = ChoraleProtocol() if protocol is None else protocol, Path(folder)
    model = DVAE.from_pretrained(folder).eval()
    facts = facts_of_training(model)

    def bounds(counts: Sequence[int], feedback: float) -> Record:
        wanted = counts if model.spec.latents else ()  # without latents the bound is the likelihood
        return bounds_record(bounds_per_frame(model, test, wanted, feedback=feedback, batch_size=16), model, test)

    def compute() -> list[Record]:
        record = {"name": folder.name, **facts, "chorales": len(test), "frames": test.num_frames}
        record["test"] = bounds(protocol.importance_samples, 0.0)
        if folder.name.removesuffix(SCHEDULED_ENDING) in FED_BACK:
            record["generation_mode"] = bounds(protocol.importance_samples_fed_back, 1.0)
        return [{**record, "data": data_facts(test=test)}]

    return Task([{"name": folder.name, "seed": facts["seed"]}], compute)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    options = training_parser(__doc__, NAMES, RESULTS / "chorales.json")
    chosen = options.parse_args(arguments)
    names = select(options, chosen.names, NAMES)
    protocol = ChoraleProtocol()
    data = protocol.load()

    def training(name: str, models: Path) -> Path:
        return train_chorales(name, chosen.seed, models, chosen.runs, data=data, protocol=protocol)

    return train_or_test(chosen, names, KEY, training, lambda folder: evaluation_task(folder, data.test, protocol))


if __name__ == "__main__":
    sys.exit(main())
