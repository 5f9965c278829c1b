"""Score trained models on the test sets, and write data/results/chorales.json and data/results/speech.json.

    python book/_tools/score_models.py chorales FOLDER ...   # each FOLDER holds models of train_chorales.py
    python book/_tools/score_models.py speech FOLDER         # models of train_speech.py

A model is scored after its training, once; nothing is chosen by these numbers. What is already in the result file under
the same name, mode and seed is replaced, the rest stays. All bounds are in nats per frame, for chorales a quarter note,
over the whole test set. A chorale model takes about a minute on a CPU core, a speech model four.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

from dvae_lib.data import load_corpus
from dvae_lib.data.music import load_chorales
from dvae_lib.data.sequences import SequenceDataset
from dvae_lib.evaluation import analysis_resynthesis
from dvae_lib.files import write_atomically
from dvae_lib.graphs.links import links
from dvae_lib.models import DVAE
from dvae_lib.models.rnn import GRNN

ROOT = Path(__file__).resolve().parents[2]
SCHEDULED = "-scheduled"
ACTIVE = (
    0.01  # nats per frame, or per sequence for a latent vector of the sequence: a dimension with less has collapsed
)
Record = dict[str, Any]


def predictive(name: str) -> bool:
    """Whether generation mode is scored: the models that scheduled sampling was tried on, before and after."""
    return name.removesuffix(SCHEDULED) in {f"{model}-chorales" for model in ("storn", "vrnn", "srnn")}


def bounds(
    model: DVAE, test: SequenceDataset, counts: tuple[int, ...], *, feedback: float = 0.0, batch_size: int = 16
) -> Record:
    """The variational and importance-weighted bounds, the KL divergence and the number of active latent dimensions."""
    generator, sums, kl = torch.Generator().manual_seed(0), dict[str, float](), dict[str, torch.Tensor]()
    order = test.lengths.argsort()
    with torch.no_grad():
        for part in order.split(batch_size):
            x, lengths = test.batch(part.tolist())[:2]
            bound = model.vlb(x, lengths=lengths, feedback=feedback, generator=generator)
            terms = {"vlb": bound.reconstruction - bound.total_kl}
            if not isinstance(model, GRNN):
                for latent, term in bound.kl_per_dim.items():
                    kl[latent] = kl.get(latent, 0.0) + term.flatten(0, -2).sum(0)
                for k in counts:
                    terms[f"iw{k}"] = model.importance_weighted_bound(
                        x, lengths=lengths, num_samples=k, feedback=feedback, generator=generator
                    )
            for name, term in terms.items():
                sums[name] = sums.get(name, 0.0) + term.sum().item()
    frames = test.num_frames
    record: Record = {name: round(value / frames, 4) for name, value in sums.items()}
    for latent, term in kl.items():  # of a latent vector of the whole sequence, per frame like all the rest
        of = "" if latent == "z" else f"_{latent}"
        record |= {f"kl{of}": round(term.sum().item() / frames, 4)}
        units = frames if latent == "z" else len(test)
        record |= {f"active{of}": int((term / units > ACTIVE).sum())}
    return record


def score_chorales(folder: Path) -> Record:
    """One model of Bach's chorales."""
    model, test = DVAE.from_pretrained(folder), load_chorales().test
    record: Record = {
        "name": folder.name,
        "seed": model.metadata["seed"],
        "weights": sum(p.numel() for p in model.parameters()),
        "best_epoch": model.metadata["best_epoch"],
        "epochs": model.metadata["training"]["max_epochs"],
        "validation": round(model.metadata["validation_bound_per_frame"], 4),
        "chorales": len(test),
        "frames": test.num_frames,
        "test": bounds(model, test, (10, 50, 500)),
    }
    if predictive(folder.name):
        record["generation_mode"] = bounds(model, test, (50,), feedback=1.0)
    return record


def score_speech(folder: Path, max_utterances: int) -> list[Record]:
    """One model of speech on its corpus: with the true past and, where it looks at that, in generation mode."""
    model = DVAE.from_pretrained(folder)
    corpus = load_corpus(model.metadata["corpus"], progress=False)
    # Evenly over the test utterances, which are sorted by name.
    chosen = torch.linspace(0, len(corpus.test) - 1, min(max_utterances, len(corpus.test))).long().tolist()
    utterances = corpus.utterances("test")
    test = SequenceDataset([corpus.test[i] for i in chosen], names=[utterances[i].name for i in chosen])
    modes = {"GM": 1.0} if folder.name.endswith(SCHEDULED) else {"TF": 0.0}
    if links(model.spec).predictive and "GM" not in modes:
        modes["TF-GM"] = 1.0
    records = []
    for mode, feedback in modes.items():
        table = analysis_resynthesis(
            model,
            [utterances[i].path for i in chosen],
            feedback=feedback,
            generator=torch.Generator().manual_seed(0),
            progress=False,
        )
        records.append(
            {
                "name": folder.name,
                "mode": mode,
                "corpus": corpus.name,
                "seed": model.metadata["seed"],
                "weights": sum(p.numel() for p in model.parameters()),
                "best_epoch": model.metadata["best_epoch"],
                "epochs": model.metadata["training"]["max_epochs"],
                "validation": round(model.metadata["validation_bound_per_frame"], 4),
                "utterances": len(chosen),
                "frames": test.num_frames,
                **bounds(model, test, (20,), feedback=feedback, batch_size=4),
                **{s.metric: round(s.mean, 4) for s in table.summary() if s.metric != "bound"},
            }
        )
    return records


def main() -> None:
    """Command line."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("corpus", choices=["chorales", "speech"])
    options.add_argument("folders", nargs="+", type=Path)
    options.add_argument("--only", nargs="+", help="names of models; by default all of the folder's")
    options.add_argument("--max-utterances", type=int, default=60)
    chosen = options.parse_args()
    path = ROOT / "data/results" / f"{chosen.corpus}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    for folder in (p.parent for parent in chosen.folders for p in sorted(parent.glob("*/config.json"))):
        wanted = folder.name in chosen.only if chosen.only else True
        if not wanted or ("-chorales" in folder.name) != (chosen.corpus == "chorales"):
            continue
        started = time.perf_counter()
        new = [score_chorales(folder)] if chosen.corpus == "chorales" else score_speech(folder, chosen.max_utterances)
        keys = {(r["name"], r.get("mode"), r["seed"]) for r in new}
        old = json.loads(path.read_text()) if path.exists() else []
        kept = [r for r in old if (r["name"], r.get("mode"), r["seed"]) not in keys]
        records = sorted([*kept, *new], key=lambda r: (r["name"], r.get("mode") or "", r["seed"]))
        lines = ",\n  ".join(json.dumps(r) for r in records)
        write_atomically(path, f"[\n  {lines}\n]\n".encode())
        print(f"{folder.name}: {new} ({time.perf_counter() - started:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
