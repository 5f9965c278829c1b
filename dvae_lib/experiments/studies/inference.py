"""The price of an inference structure on real data: one trained generative model, several inference models.

    python -m dvae_lib.experiments.studies.inference [--seeds 0 1] [--models FOLDER]

The generative weights of a model of Bach's chorales are frozen. Every inference model of its class is trained anew for
them, with the same schedule; the epoch that is best on the validation chorales is kept and tested on the test chorales.
All bounds are then bounds of one and the same likelihood, so that their differences are the inference models' doing.
(The frozen weights were trained with one of the contestants, and the networks differ a little in size.) The result is
data/results/inference.json, in nats per quarter note. One training takes about a minute on a core.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from dvae_lib.data.pretrained import SHIPPED
from dvae_lib.data.splits import Splits
from dvae_lib.evaluation import bounds_per_frame
from dvae_lib.experiments.corpora import data_facts
from dvae_lib.experiments.protocol import falling
from dvae_lib.experiments.records import Record
from dvae_lib.experiments.results import ResultFile, Task
from dvae_lib.experiments.scores import bounds_record
from dvae_lib.experiments.studies.chorales import ARCHITECTURES, ChoraleProtocol
from dvae_lib.experiments.studies.command import DATA, RESULTS, RUNS, completed, parser
from dvae_lib.experiments.trainings import train
from dvae_lib.models import DVAE
from dvae_lib.training import TrainingConfig

__all__ = ["CONTESTANTS", "KEY", "InferenceProtocol", "inference_task", "main"]

KEY = ("generative", "inference", "seed")

CONTESTANTS = {
    "storn-smoother-chorales": ("storn-lagged-chorales", "storn-chorales", "storn-smoother-chorales"),
    "vrnn-chorales": ("vrnn-chorales", "vrnn-smoother-chorales"),
    "srnn-chorales": ("srnn-filter-chorales", "srnn-chorales"),
}
"""Whose generative weights are frozen, and the models whose inference is trained for them."""

GENERATIVE = ("phi_x", "phi_z", "d_h", "d_z", "prior_head", "d_x", "x_head")
"""The networks of these models that belong to the generative model."""


@dataclass(frozen=True)
class InferenceProtocol:
    """How the inference models are trained and tested.

    Attributes:
        epochs: Epochs of a training.
        batch_size: Sequences of a step.
        importance_samples: Numbers of samples of the importance-weighted bounds.
    """

    epochs: int = 10
    batch_size: int = 32
    importance_samples: tuple[int, ...] = (50, 500)

    def config(self, frozen: Sequence[str], seed: int) -> TrainingConfig:
        """The training, in which the frozen networks stay as they are."""
        return TrainingConfig(
            learning_rate=falling(3e-3, self.epochs, 1e-4),
            batch_size=self.batch_size,
            max_epochs=self.epochs,
            patience=None,
            gradient_clip=5.0,
            freeze=dict.fromkeys(frozen, self.epochs),
            seed=seed,
        )


def inference_task(
    generative: str,
    inference: str,
    seed: int,
    models: str | Path,
    runs: str | Path,
    data: Splits,
    protocol: InferenceProtocol | None = None,
) -> Task:
    """Train the inference model of one name for the generative model of another, and test it.

    Arguments:
        generative: Name of the trained model whose generative weights are frozen.
        inference: Name of the architecture whose inference model is trained.
        seed: Seed of its initial weights and its training.
        models: Folder of the trained models.
        runs: Folder of the trainings' states; what was interrupted goes on from there.
        data: The chorales.
        protocol: How it is trained and tested; None is the book's.
    """
    settings = InferenceProtocol() if protocol is None else protocol
    key = {"generative": generative, "inference": inference, "seed": seed}

    def compute() -> list[Record]:
        weights = {k: v for k, v in DVAE.from_pretrained(Path(models) / generative).state_dict().items() if _frozen(k)}
        torch.manual_seed(seed)
        model = ARCHITECTURES[inference]()
        own = model.state_dict()
        if wrong := [name for name, w in weights.items() if name not in own or own[name].shape != w.shape]:
            raise ValueError(f"{inference} has another generative model than {generative}: {', '.join(wrong)} differ")
        model.load_state_dict(weights, strict=False)
        config = settings.config(sorted({k.split(".")[0] for k in weights}), seed)
        folder = Path(runs) / f"inference-{generative}-{inference}-seed-{seed}"
        result = train(model, data.train, data.validation, config, folder)
        for name, value in weights.items():
            if not torch.equal(model.state_dict()[name], value):
                raise RuntimeError(f"{name} of {generative} has moved, and was to stay")
        bounds = bounds_per_frame(model, data.test, settings.importance_samples, batch_size=16)
        return [
            {
                "generative": generative,
                "inference": inference,
                "inference_model": model.options["inference_model"],
                "seed": seed,
                "weights": sum(p.numel() for name, p in model.named_parameters() if not _frozen(name)),
                "epochs": settings.epochs,
                "best_epoch": result.best_epoch,
                "validation": round(result.best_value, 4),
                "frames": data.test.num_frames,
                "test": bounds_record(bounds, model, data.test),
                "seconds": round(sum(float(epoch["seconds"]) for epoch in result.history)),
                "data": data_facts(**data._asdict()),
            }
        ]

    return Task([key], compute)


def _frozen(name: str) -> bool:
    return name.split(".")[0] in GENERATIVE


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    options = parser(__doc__)
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    options.add_argument("--models", type=Path, default=DATA / SHIPPED, help="folder of trained models")
    options.add_argument("--runs", type=Path, default=RUNS, help="where interrupted trainings are kept")
    options.add_argument("--output", type=Path, default=RESULTS / "inference.json")
    options.add_argument("--again", action="store_true", help="compute also what is in the file already")
    chosen = options.parse_args(arguments)
    data = ChoraleProtocol().load()
    tasks = (
        inference_task(generative, inference, seed, chosen.models, chosen.runs, data)
        for seed in chosen.seeds
        for generative, contestants in CONTESTANTS.items()
        for inference in contestants
    )
    return completed(ResultFile(chosen.output, KEY), tasks, again=chosen.again)


if __name__ == "__main__":
    sys.exit(main())
