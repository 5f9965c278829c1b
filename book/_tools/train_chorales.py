"""Train the models of Chapter 5 on Bach's chorales: a deep Kalman filter, a generative RNN and a static VAE.

    python book/_tools/train_chorales.py [dkf-chorales grnn-chorales vae-chorales] [--seed 0] [--output data/pretrained]

All three have about 137,000 weights, and see the same pieces of the training chorales in all twelve keys. The epoch
that is best on the validation chorales is kept; the test chorales are not looked at. On one CPU core the deep Kalman
filter takes about two minutes, the others one.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

from dvae_lib.data.music import load_chorales
from dvae_lib.models import DKF, DVAE, VAE
from dvae_lib.models.rnn import GRNN
from dvae_lib.schedules import Number, Schedule
from dvae_lib.training import TrainingConfig, fit

ROOT = Path(__file__).resolve().parents[2]
PIECE, KEYS = 32, range(-5, 7)
EPOCHS = 30
# With layers of 96 units and a warm-up from 0.1 over four epochs the deep Kalman filter's posterior collapsed: it ended
# below the static VAE on the validation chorales.
WARM_UP = Schedule(((0, 0.01), (2, 0.01), (10, 1.0)))
NAMES = ("dkf-chorales", "grnn-chorales", "vae-chorales")


def build(name: str) -> DVAE:
    """The untrained model."""
    if name == "dkf-chorales":
        return DKF(88, 32, observation="bernoulli", transition=64, decoder=(256,), encoder=(), g_dim=128, cell="gru")
    if name == "grnn-chorales":
        return GRNN(88, 136, observation="bernoulli")
    if name == "vae-chorales":
        return VAE(88, 32, observation="bernoulli", encoder=(500,), decoder=(500,))
    raise ValueError(f"no model is called {name!r}; there are {', '.join(NAMES)}")


def report(model: torch.nn.Module, record: dict[str, Number]) -> None:
    """One line per epoch."""
    values = (f"{part} {record[f'{part}_vlb_per_frame']:.3f}" for part in ("train", "validation"))
    print(f"{type(model).__name__}, epoch {record['epoch']}:", *values, flush=True)


def train(name: str, seed: int, output: Path) -> None:
    """Train one model and write it to its folder."""
    data = load_chorales(sequence_length=PIECE, transpose_training=KEYS)
    torch.manual_seed(seed)
    model = build(name)
    config = TrainingConfig(
        learning_rate=Schedule(((0, 3e-3), (EPOCHS // 2, 3e-3), (EPOCHS, 1e-4))),
        batch_size=32,
        max_epochs=EPOCHS,
        patience=10,
        gradient_clip=5.0,
        schedules={} if name == "grnn-chorales" else {"beta": WARM_UP},
        seed=seed,
    )
    started = time.perf_counter()
    result = fit(model, data.train, data.validation, config, callback=report)
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
    folder = model.save_pretrained(output / name)
    print(f"{folder}: epoch {result.best_epoch}, {result.best_value:.3f} nats per frame on the validation chorales")


def main() -> None:
    """Command line."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("names", nargs="*", default=list(NAMES), help="which models; by default all")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--output", type=Path, default=ROOT / "data/pretrained")
    chosen = options.parse_args()
    for name in chosen.names:
        train(name, chosen.seed, chosen.output)


if __name__ == "__main__":
    main()
