"""Does v know who speaks? Linear probes on the latent vectors of the DSAEs of Chapter 11.

    python book/_tools/probe_speakers.py [--models data/pretrained ...]

No speaker of these tests was heard in training. Two tasks. On `librispeech` the validation and test speakers are told
apart, with one recording each: a piece of it trains the probe, another one, after a gap, tests it. On `prompts` the
five voices are told apart, recordings of one kind train and others test; and a probe that has learned the English
Allison Smith beside the three other speakers is shown her Spanish recordings. A probe is a multinomial logistic
regression on standardised features, its penalty chosen by cross-validation inside the training segments. Features of a
segment: the posterior mean of v, the average over time of the posterior means of z, the average log-power spectrum, and
all of that of networks of the same architecture that were never trained. Beside that: what the decoder makes of another
segment's v. A model that is not there is left out, and named. The result is data/results/speakers.json; it takes about
five minutes on a CPU core.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from dvae_lib.data import load_corpus
from dvae_lib.files import write_atomically
from dvae_lib.models import DVAE, build_model

ROOT = Path(__file__).resolve().parents[2]
STRUCTURES = {"full": "dsae", "factorised": "dsae-factorised", "structured": "dsae-structured"}
LENGTHS = (50, 100, 150)  # frames of a segment: 0.8, 1.6 and 2.4 s
SPLITS = 3
GAP = 25  # frames between what trains and what tests, in one recording
SHORTEST = 570  # frames of a recording
RECORDINGS = (8, 40)  # of each voice of `prompts`: how many train the probe, how many test it
PENALTIES = np.logspace(-3, 1, 5)
PERSON = {"en_US_f_Allison": "Allison", "es_MX_f_Allison": "Allison"}

Array = NDArray[Any]
Segment = tuple[torch.Tensor, str, bool]  # frames, label, whether it trains the probe
Record = dict[str, Any]


def pieces(x: torch.Tensor, length: int) -> list[torch.Tensor]:
    """A recording, cut into segments that do not overlap."""
    return list(x.split(length))[: len(x) // length]


def librispeech(length: int, split: int) -> list[Segment]:
    """Segments of all speakers, one long recording each; which part of it trains changes from split to split."""
    corpus = load_corpus("librispeech", sequence_length=None, progress=False)
    random = np.random.default_rng(split)
    found: list[Segment] = []
    for part in ("validation", "test"):
        data = corpus.dataset(part)
        for x, utterance in zip(map(data.__getitem__, range(len(data))), corpus.utterances(part), strict=True):
            share, first = random.uniform(0.55, 0.65), random.random() < 0.5  # whether the first part trains
            # The same speakers at all lengths: those with two of the longest segments to train and one to test.
            if len(x) < SHORTEST:
                continue
            cut = int(len(x) * (share if first else 1 - share))
            parts = x[: cut - GAP // 2], x[cut + GAP - GAP // 2 :]
            for piece_of, trains in zip(parts, (first, not first), strict=True):
                found += [(piece, utterance.speaker, trains) for piece in pieces(piece_of, length)]
    return found


def prompts(length: int, split: int) -> list[Segment]:
    """Segments of five voices, of recordings that are long enough for the longest; some train and others test."""
    corpus = load_corpus("prompts", sequence_length=None, progress=False)
    random = np.random.default_rng(split)
    voices: dict[str, list[torch.Tensor]] = {}
    for part in ("train", "validation", "test"):
        data = corpus.dataset(part)
        for i, utterance in enumerate(corpus.utterances(part)):
            if data.lengths[i] >= max(LENGTHS):
                voices.setdefault(utterance.name.split("/")[0], []).append(data[i])
    found: list[Segment] = []
    for voice, recordings in sorted(voices.items()):
        order = random.permutation(len(recordings))[: sum(RECORDINGS)]
        for place, i in enumerate(order):
            # Of each as much, whatever the segments' length.
            start = random.integers(len(recordings[i]) - max(LENGTHS) + 1)
            frames = recordings[i][start : start + max(LENGTHS)]
            found += [(piece, voice, place < RECORDINGS[0]) for piece in pieces(frames, length)]
    return found


@torch.no_grad()
def latents(model: DVAE, x: torch.Tensor) -> dict[str, Array]:
    """The posterior means of v, and those of z averaged over time."""
    found: dict[str, list[torch.Tensor]] = {"v": [], "z": []}
    for batch in x.split(64):
        q = model.inference(batch, draw="mean")
        found["v"].append(q["v"].posterior.mean)
        found["z"].append(q["z"].posterior.mean.mean(1))
    return {name: torch.cat(values).numpy() for name, values in found.items()}


def features(x: torch.Tensor, models: dict[str, DVAE]) -> Iterator[tuple[str, str, Array]]:
    """Name of the model, name of the feature, and one row for each segment."""
    spectrum = x.log().mean(1).numpy()
    yield "none", "spectrum", spectrum
    yield "none", "spectrum, 16 components", spectrum
    for name, model in models.items():
        for feature, values in latents(model, x).items():
            yield name, feature, values


def probe(train: Array, labels: Array, feature: str) -> Pipeline:
    """A linear classifier, with the penalty that is best in cross-validation inside the training segments."""
    steps = [StandardScaler()]
    if feature == "spectrum, 16 components":
        steps += [PCA(16, random_state=0), StandardScaler()]
    elif feature == "spectrum":  # nearly all of it, in a fraction of the time
        steps += [PCA(min(len(train) // 2, 64), random_state=0)]
    classifier = LogisticRegression(max_iter=300, tol=1e-3)
    folds = StratifiedKFold(min(3, np.unique(labels, return_counts=True)[1].min()))
    search = GridSearchCV(
        make_pipeline(*steps, classifier), {"logisticregression__C": PENALTIES}, cv=folds, scoring="neg_log_loss"
    )
    best: Pipeline = search.fit(train, labels).best_estimator_
    return best


def by_class(correct: Array, labels: Array) -> dict[str, float]:
    """Accuracy for each label."""
    return {str(label): float(correct[labels == label].mean()) for label in np.unique(labels)}


def run(corpus: str, cut: Callable[[int, int], list[Segment]], length: int, models: dict[str, DVAE]) -> list[Record]:
    """All features on one corpus at one length: accuracies, their mean over classes, and its standard error."""
    accuracies: dict[tuple[str, str], list[dict[str, float]]] = {}
    abroad: dict[tuple[str, str], list[float]] = {}
    sizes = []
    for split in range(SPLITS):
        segments = cut(length, split)
        x = torch.stack([frames for frames, _, _ in segments])
        labels, trains = (np.array([segment[k] for segment in segments]) for k in (1, 2))
        sizes.append((int(trains.sum()), int((~trains).sum()), len(set(labels))))
        for model, feature, values in features(x, models):
            found = probe(values[trains], labels[trains], feature).predict(values[~trains])
            accuracies.setdefault((model, feature), []).append(by_class(found == labels[~trains], labels[~trains]))
            if corpus == "prompts":  # the same woman in another language
                persons, spanish = np.array([PERSON.get(v, v) for v in labels]), labels == "es_MX_f_Allison"
                known = trains & ~spanish
                found = probe(values[known], persons[known], feature).predict(values[~trains & spanish])
                abroad.setdefault((model, feature), []).append(float((found == "Allison").mean()))
    records = []
    for (model, feature), splits in accuracies.items():
        classes: dict[str, list[float]] = {}
        for split in splits:
            for label, accuracy in split.items():
                classes.setdefault(label, []).append(accuracy)
        of_class = np.array([np.mean(values) for values in classes.values()])
        of_split = [float(np.mean(list(split.values()))) for split in splits]
        record: Record = {
            "corpus": corpus,
            "frames": length,
            "model": model,
            "feature": feature,
            "accuracy": round(float(np.mean(of_split)), 4),
            # Splits share speakers. On many speakers these are what was sampled; of five voices, the splits are.
            "standard_error": round(
                float(
                    of_class.std(ddof=1) / len(of_class) ** 0.5
                    if corpus == "librispeech"
                    else np.std(of_split, ddof=1) / len(of_split) ** 0.5
                ),
                4,
            ),
            "splits": [round(value, 4) for value in of_split],
            "chance": round(1 / sizes[0][2], 4),
            "classes": sizes[0][2],
            "train": round(float(np.mean([size[0] for size in sizes]))),
            "test": round(float(np.mean([size[1] for size in sizes]))),
        }
        if corpus == "prompts":
            record["voices"] = {label: round(float(np.mean(values)), 4) for label, values in classes.items()}
            record["abroad"] = [round(value, 4) for value in abroad[model, feature]]
        records.append(record)
    return records


@torch.no_grad()
def exchange(corpus: str, segments: list[Segment], models: dict[str, DVAE]) -> list[Record]:
    """What becomes of the reconstruction, in nats per frame, where v is that of another segment.

    The other segment is of the same label or of another one; z stays, or is inferred anew with the other v for given.
    """
    x, labels = torch.stack([s[0] for s in segments]), np.array([s[1] for s in segments])
    random, everything = np.random.default_rng(0), np.arange(len(labels))
    chosen = {
        "same": [random.choice(everything[(labels == a) & (everything != i)]) for i, a in enumerate(labels)],
        "other": [random.choice(everything[labels != a]) for a in labels],
    }
    records = []
    for name, model in models.items():
        if "untrained" in name:
            continue
        values: dict[str, list[torch.Tensor]] = {}
        q_v = torch.cat([model.inference(part, draw="mean")["v"].sample for part in x.split(64)])
        for part in torch.arange(len(x)).split(64):
            frames, own = x[part], model.inference(x[part], draw="mean")
            bound = model.vlb(frames, generator=torch.Generator().manual_seed(0))

            def score(
                z: torch.Tensor, v: torch.Tensor, frames: torch.Tensor = frames, model: DVAE = model
            ) -> torch.Tensor:
                return model.generation(frames, {"z": z, "v": v}).observation.log_prob(frames).mean(1)

            base = score(own["z"].sample, own["v"].sample)
            values.setdefault("kl", []).append(bound.kl["v"])
            for which, index in chosen.items():
                v = q_v[torch.from_numpy(np.array(index))[part]]
                anew = model.inference(frames, latents={"v": v}, draw="mean")["z"].sample
                values.setdefault(which, []).append(score(own["z"].sample, v) - base)
                values.setdefault(f"{which}, anew", []).append(score(anew, v) - base)
        record: Record = {"corpus": corpus, "frames": x.shape[1], "model": name, "feature": "exchange"}
        for key, parts in values.items():
            value = torch.cat(parts).numpy()
            means = np.array([value[labels == label].mean() for label in np.unique(labels)])
            if corpus == "librispeech":  # over speakers
                record[key] = [round(float(means.mean()), 3), round(float(means.std(ddof=1) / len(means) ** 0.5), 3)]
            else:
                record[key] = [round(float(value.mean()), 3), round(float(value.std(ddof=1) / len(value) ** 0.5), 3)]
        records.append(record)
    return records


def main() -> None:
    """Command line."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument(
        "--models", nargs="+", type=Path, default=[ROOT / "data/pretrained", ROOT / "data/pretrained_on_request"]
    )
    options.add_argument("--output", type=Path, default=ROOT / "data/results/speakers.json")
    chosen = options.parse_args()
    models: dict[str, DVAE] = {}
    for structure, name in STRUCTURES.items():
        folder = next((f for f in (m / f"{name}-librispeech-batch32" for m in chosen.models) if f.is_dir()), None)
        if folder is None:
            print(f"{name}-librispeech-batch32 is not there")
        else:
            models[structure] = DVAE.from_pretrained(folder)
    for structure in list(models):
        torch.manual_seed(0)
        models[f"{structure}, untrained"] = build_model("dsae", preset="speech", inference_model=structure).eval()
    corpora: dict[str, Callable[[int, int], list[Segment]]] = {"librispeech": librispeech, "prompts": prompts}
    records: list[Record] = []
    for corpus, cut in corpora.items():
        records += exchange(corpus, cut(LENGTHS[0], 0), models)
        print(*records[-len(STRUCTURES) :], sep="\n", flush=True)
    for length in LENGTHS:
        for corpus, cut in corpora.items():
            started = time.perf_counter()
            new = run(corpus, cut, length, models)
            records += new
            print(f"{corpus}, {length} frames ({time.perf_counter() - started:.0f} s)")
            for r in new:
                more = f", abroad {np.mean(r['abroad']):.2f}" if "abroad" in r else ""
                row = f"  {r['model']:24}{r['feature']:26}{r['accuracy']:.3f} ± {r['standard_error']:.3f}{more}"
                print(row, flush=True)
            lines = ",\n  ".join(json.dumps(record) for record in records)
            chosen.output.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(chosen.output, f"[\n  {lines}\n]\n".encode())


if __name__ == "__main__":
    main()
