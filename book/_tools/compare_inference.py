"""The price of an inference structure on real data: one trained generative model, several inference models.

    python book/_tools/compare_inference.py [--seeds 0 1] [--models data/pretrained]

The generative weights of a model of Bach's chorales are frozen. Every inference model of its class is trained anew for
them, with the same schedule; the epoch that is best on the validation chorales is kept and scored on the test chorales.
All bounds are then bounds of one and the same likelihood, so that their differences are the inference models' doing.
(The frozen weights were trained with one of the contestants, and the networks differ a little in size.) The result is
data/results/inference.json, in nats per quarter note. One training takes about a minute on a core.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from score_models import bounds
from train_chorales import KEYS, MODELS, PIECE, report

from dvae_lib.data.music import load_chorales
from dvae_lib.files import write_atomically
from dvae_lib.models import DVAE
from dvae_lib.training import TrainingConfig, fit
from dvae_lib.training.schedules import Schedule

ROOT = Path(__file__).resolve().parents[2]
EPOCHS = 10
# Whose generative weights are frozen, and the models whose inference is trained for them.
EXPERIMENTS = {
    "storn-smoother-chorales": ("storn-lagged-chorales", "storn-chorales", "storn-smoother-chorales"),
    "vrnn-chorales": ("vrnn-chorales", "vrnn-smoother-chorales"),
    "srnn-chorales": ("srnn-filter-chorales", "srnn-chorales"),
}
GENERATIVE = ("phi_x", "phi_z", "d_h", "d_z", "prior_head", "d_x", "x_head")


def experiment(source: str, name: str, seed: int, folder: Path) -> dict[str, Any]:
    """Train the inference model of `name` for the generative model of `source`, and score it."""
    trained = DVAE.from_pretrained(folder / source)
    generative = {k: v for k, v in trained.state_dict().items() if k.split(".")[0] in GENERATIVE}
    torch.manual_seed(seed)
    model = MODELS[name]()
    unexpected = model.load_state_dict(generative, strict=False).unexpected_keys
    assert not unexpected, unexpected
    data = load_chorales(sequence_length=PIECE, transpose_training=KEYS)
    config = TrainingConfig(
        learning_rate=Schedule(((0, 3e-3), (EPOCHS // 2, 3e-3), (EPOCHS, 1e-4))),
        batch_size=32,
        max_epochs=EPOCHS,
        patience=None,
        gradient_clip=5.0,
        freeze=dict.fromkeys(sorted({k.split(".")[0] for k in generative}), EPOCHS),
        seed=seed,
    )
    started = time.perf_counter()
    result = fit(model, data.train, data.validation, config, callback=report)
    for key, value in generative.items():
        assert torch.equal(model.state_dict()[key], value), f"{key} has moved"
    test = load_chorales().test
    return {
        "generative": source,
        "inference": name,
        "inference_model": model.options["inference_model"],
        "seed": seed,
        "weights": sum(p.numel() for k, p in model.named_parameters() if k.split(".")[0] not in GENERATIVE),
        "epochs": EPOCHS,
        "best_epoch": result.best_epoch,
        "validation": round(result.best_value, 4),
        "frames": test.num_frames,
        "test": bounds(model, test, (50, 500)),
        "seconds": round(time.perf_counter() - started),
    }


def main() -> None:
    """Command line."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    options.add_argument("--models", type=Path, default=ROOT / "data/pretrained")
    chosen = options.parse_args()
    path = ROOT / "data/results/inference.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    for seed in chosen.seeds:
        for source, names in EXPERIMENTS.items():
            for name in names:
                new = experiment(source, name, seed, chosen.models)
                records = json.loads(path.read_text()) if path.exists() else []
                key = [new[k] for k in ("generative", "inference", "seed")]
                records = [r for r in records if [r[k] for k in ("generative", "inference", "seed")] != key]
                records.append(new)
                lines = ",\n  ".join(json.dumps(r) for r in records)
                write_atomically(path, f"[\n  {lines}\n]\n".encode())
                print(new, flush=True)


if __name__ == "__main__":
    main()
