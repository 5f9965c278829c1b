"""Train the speech models of Chapters 7 to 9 on the corpus `prompts`, and `librispeech`, those of Chapters 10 and 11.

    python book/_tools/train_speech.py [NAME ...] [--seed 0] [--output data/pretrained]

The architectures are those of Appendix B, the front end that of Section 13.2.1. The protocol is the review's (Section
13.2.3), shortened to 30 to 80 epochs in batches of 32, with a falling learning rate; a name that ends in `-scheduled`
goes on from the model without that ending for 12 epochs of scheduled sampling (Section 13.3.3, shortened). The epoch
that is best on the validation speakers is kept; the test speakers are not looked at. One model takes about fifteen
minutes on a CPU core, a scheduled one ten to thirty. A run is kept in `--runs` and goes on where it was interrupted.
Weights are written in half precision. (`dvae benchmark` trains all models in batches of 128; the models of
`librispeech` that are made here have the ending `-batch32`.)
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from dvae_lib.data import load_corpus
from dvae_lib.models import DVAE, build_model
from dvae_lib.training import TrainingConfig, fit
from dvae_lib.training.schedules import Number, Schedule

ROOT = Path(__file__).resolve().parents[2]
MODELS = ("vae", "storn", "vrnn", "srnn")
SCHEDULED = "-scheduled"
# Chapters 10 and 11: many speakers. By name: the model, its inference model where not the default, and the epochs.
LIBRISPEECH: dict[str, tuple[str, dict[str, str], int]] = {
    "vae": ("vae", {}, 80),
    "rvae-causal": ("rvae-causal", {}, 80),
    "rvae-noncausal": ("rvae-noncausal", {}, 80),
    "dsae": ("dsae", {}, 30),
    "dsae-factorised": ("dsae", {"inference_model": "factorised"}, 30),
    "dsae-structured": ("dsae", {"inference_model": "structured"}, 30),
}
NAMES = [f"{model}-prompts{ending}" for ending in ("", SCHEDULED) for model in MODELS if model != "vae" or not ending]
LIBRISPEECH_ENDING = "-librispeech-batch32"
NAMES += [f"{model}{LIBRISPEECH_ENDING}" for model in LIBRISPEECH]
PROMPTS_EPOCHS = 40
# The review's schedule, with 50 epochs made one: the last eight are in generation mode.
SCHEDULED_EPOCHS, SCHEDULED_SAMPLING = 12, Schedule.scheduled_sampling(every=1)


def report(model: torch.nn.Module, record: dict[str, Number]) -> None:
    """One line per epoch."""
    values = (f"{part} {record[f'{part}_vlb_per_frame']:.2f}" for part in ("train", "validation"))
    seconds = f"{record['seconds']:.0f} s"
    print(f"{type(model).__name__}, epoch {record['epoch']}:", *values, seconds, flush=True)


def prepare(name: str, seed: int, output: Path) -> tuple[DVAE, TrainingConfig]:
    """The model to begin with, and how it is trained."""
    common = {"batch_size": 32, "seed": seed, "gradient_clip": 100.0}
    if name.endswith(SCHEDULED):
        model = DVAE.from_pretrained(output / name.removesuffix(SCHEDULED))
        config = TrainingConfig.speech(
            learning_rate=Schedule.linear(5e-4, 1e-4, epochs=SCHEDULED_EPOCHS),
            max_epochs=SCHEDULED_EPOCHS,
            schedules={"feedback": SCHEDULED_SAMPLING},
            **common,
        )
        return model, config
    torch.manual_seed(seed)
    if name.endswith(LIBRISPEECH_ENDING):
        kind, options, epochs = LIBRISPEECH[name.removesuffix(LIBRISPEECH_ENDING)]
    else:
        kind, options, epochs = name.removesuffix("-prompts"), {}, PROMPTS_EPOCHS
    model = build_model(kind, preset="speech", **options)
    rate = Schedule(((0, 2e-3), (epochs // 2, 2e-3), (epochs, 2e-4)))
    return model, TrainingConfig.speech(learning_rate=rate, max_epochs=epochs, **common)


def train(name: str, seed: int, output: Path, runs: Path) -> None:
    """Train one model and write it to its folder."""
    corpus = load_corpus("librispeech" if "librispeech" in name else "prompts", progress=False)
    model, config = prepare(name, seed, output)
    result = fit(model, corpus.train, corpus.validation, config, folder=runs / name, callback=report)
    if result.stopped == "interrupted":
        raise SystemExit(f"{name} was interrupted; the same command goes on")
    model.metadata.update(
        corpus=corpus.name,
        made_by="book/_tools/train_speech.py",
        seed=seed,
        licence="CC BY 4.0" if corpus.name == "librispeech" else "CC BY-SA 3.0",
        attribution=f"trained on recordings of {corpus.attribution} ({corpus.licence})",
        front_end=corpus.front_end.settings.to_dict(),
        training=config.to_dict(),
        best_epoch=result.best_epoch,
        validation_bound_per_frame=result.best_value,
        seconds=round(sum(record["seconds"] for record in result.history)),  # over all parts of an interrupted run
        torch=torch.__version__,
    )
    folder = model.save_pretrained(output / name, half=True)
    print(f"{folder}: epoch {result.best_epoch}, {result.best_value:.2f} nats per frame on the validation speakers")


def main() -> None:
    """Command line."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("names", nargs="*", default=NAMES, metavar="NAME", help=", ".join(NAMES))
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--output", type=Path, default=ROOT / "data/pretrained")
    options.add_argument("--runs", type=Path, default=ROOT / "runs")
    chosen = options.parse_args()
    unknown = [name for name in chosen.names if name not in NAMES]
    if unknown:
        options.error(f"no model is called {', '.join(unknown)}; there are {', '.join(NAMES)}")
    for name in chosen.names:
        train(name, chosen.seed, chosen.output, chosen.runs)


if __name__ == "__main__":
    main()
