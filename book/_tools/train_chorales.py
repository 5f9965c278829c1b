"""Train the models of Chapters 5 and 7 to 11 on Bach's chorales.

    python book/_tools/train_chorales.py [NAME ...] [--seed 0] [--output data/pretrained]

Without names all are trained, in the order of `NAMES` below. All have about 140,000 weights, and see the same pieces of
the training chorales in all twelve keys. The epoch that is best on the validation chorales is kept; the test chorales
are not looked at. A name that ends in `-scheduled` goes on from the model without that ending, which must be there,
with scheduled sampling (Section 13.3.3, shortened). One model takes one to five minutes on a CPU core, a scheduled one
three to seven. Weights are written in half precision.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from dvae_lib.data.music import load_chorales
from dvae_lib.models import DKF, DSAE, DVAE, RVAE, SRNN, STORN, VAE, VRNN, ImprovedVRNN
from dvae_lib.models.rnn import GRNN
from dvae_lib.training import TrainingConfig, fit
from dvae_lib.training.schedules import Number, Schedule

ROOT = Path(__file__).resolve().parents[2]
PIECE, KEYS = 32, range(-5, 7)
EPOCHS = 30
# With layers of 96 units and a warm-up from 0.1 over four epochs the deep Kalman filter's posterior collapsed: it ended
# below the static VAE on the validation chorales.
WARM_UP = Schedule(((0, 0.01), (2, 0.01), (10, 1.0)))
# A twenty-fifth of the review's epochs: 20 % of the frames are the model's own at first, all in the last twelve.
SCHEDULED_SAMPLING = Schedule.scheduled_sampling(every=2)
SCHEDULED_EPOCHS = 20

SHARED = {"x_dim": 88, "z_dim": 32, "observation": "bernoulli"}
# The inference models of one generative model are compared at about equal numbers of weights.
storn = partial(STORN, **SHARED, feature_x=(), feature_z=(), h_dim=88, decoder=(128,), encoder=(), head=(64,))
vrnn = partial(VRNN, **SHARED, feature_x=(), feature_z=(), h_dim=88, prior=(64,), decoder=(112,))
srnn = partial(SRNN, **SHARED, feature_x=(), h_dim=84, prior=(64,), decoder=(128,), head=(64,))
improved_vrnn = partial(
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
rvae = partial(RVAE, **SHARED, decoder=(128,))
dsae = partial(DSAE, **SHARED, h_dim=64, decoder=(256,))
MODELS: dict[str, Callable[[], DVAE]] = {
    "dkf-chorales": partial(DKF, **SHARED, transition=64, decoder=(256,), encoder=(), g_dim=128, cell="gru"),
    "grnn-chorales": partial(GRNN, 88, 136, observation="bernoulli"),
    "vae-chorales": partial(VAE, **SHARED, encoder=(500,), decoder=(500,)),
    "storn-chorales": partial(storn, inference_model="filter", g_dim=64),
    "storn-lagged-chorales": partial(storn, inference_model="lagged", g_dim=64),
    "storn-smoother-chorales": partial(storn, inference_model="smoother", g_dim=48),
    "vrnn-chorales": partial(vrnn, inference_model="filter", head=(128,)),
    "vrnn-smoother-chorales": partial(vrnn, inference_model="smoother", g_dim=40, head=(64,)),
    "vrnn-improved-chorales": improved_vrnn,
    "srnn-chorales": partial(srnn, inference_model="smoother", encoder=(), g_dim=48),
    "srnn-filter-chorales": partial(srnn, inference_model="filter", encoder=(128,)),
    "rvae-causal-chorales": partial(rvae, generation_model="causal", h_dim=96, g_dim=64),
    "rvae-causal-filter-chorales": partial(
        rvae, generation_model="causal", inference_model="filter", h_dim=96, g_dim=64
    ),
    "rvae-noncausal-chorales": partial(rvae, generation_model="noncausal", h_dim=60, g_dim=46),
    "dsae-chorales": partial(dsae, inference_model="full", g_dim=32),
    "dsae-factorised-chorales": partial(dsae, inference_model="factorised", g_dim=56),
    "dsae-structured-chorales": partial(dsae, inference_model="structured", g_dim=40),
}
SCHEDULED = "-scheduled"
NAMES = [*MODELS, *(f"{name}-chorales{SCHEDULED}" for name in ("storn", "vrnn", "srnn"))]


def report(model: torch.nn.Module, record: dict[str, Number]) -> None:
    """One line per epoch."""
    values = (f"{part} {record[f'{part}_vlb_per_frame']:.3f}" for part in ("train", "validation"))
    print(f"{type(model).__name__}, epoch {record['epoch']}:", *values, flush=True)


def prepare(name: str, seed: int, output: Path) -> tuple[DVAE, TrainingConfig]:
    """The model to begin with, and how it is trained."""
    if name.endswith(SCHEDULED):
        model = DVAE.from_pretrained(output / name.removesuffix(SCHEDULED))
        schedules = {"feedback": SCHEDULED_SAMPLING}
        epochs, rate = SCHEDULED_EPOCHS, Schedule.linear(1e-3, 1e-4, epochs=SCHEDULED_EPOCHS)
    else:
        torch.manual_seed(seed)
        model = MODELS[name]()
        schedules = {} if name == "grnn-chorales" else {"beta": WARM_UP}
        epochs, rate = EPOCHS, Schedule(((0, 3e-3), (EPOCHS // 2, 3e-3), (EPOCHS, 1e-4)))
    config = TrainingConfig(
        learning_rate=rate,
        batch_size=32,
        max_epochs=epochs,
        patience=10,
        gradient_clip=5.0,
        schedules=schedules,
        seed=seed,
    )
    return model, config


def train(name: str, seed: int, output: Path) -> None:
    """Train one model and write it to its folder."""
    data = load_chorales(sequence_length=PIECE, transpose_training=KEYS)
    model, config = prepare(name, seed, output)
    started = time.perf_counter()
    result = fit(model, data.train, data.validation, config, callback=report)
    if result.stopped == "interrupted":
        raise SystemExit(f"{name} was interrupted; nothing was written")
    model.metadata.update(
        corpus="chorales",
        made_by="book/_tools/train_chorales.py",
        seed=seed,
        sequence_length=PIECE,
        transposed_by=list(KEYS),
        training=config.to_dict(),
        best_epoch=result.best_epoch,
        validation_bound_per_frame=result.best_value,
        seconds=round(time.perf_counter() - started),
        torch=torch.__version__,
    )
    folder = model.save_pretrained(output / name, half=True)
    print(f"{folder}: epoch {result.best_epoch}, {result.best_value:.3f} nats per frame on the validation chorales")


def main() -> None:
    """Command line."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("names", nargs="*", default=NAMES, metavar="NAME", help=", ".join(NAMES))
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--output", type=Path, default=ROOT / "data/pretrained")
    chosen = options.parse_args()
    unknown = [name for name in chosen.names if name not in NAMES]
    if unknown:
        options.error(f"no model is called {', '.join(unknown)}; there are {', '.join(NAMES)}")
    for name in chosen.names:
        train(name, chosen.seed, chosen.output)


if __name__ == "__main__":
    main()
