"""Does v know who speaks? Linear probes on the latent vectors of the DSAEs of Chapters 11 and 13.

    python -m dvae_lib.experiments.studies.speakers [--models FOLDER ...]

No speaker of these tests was heard in training. Two tasks. On `librispeech` the validation and test speakers are told
apart, with one recording each: a piece of it trains the probe, another one, after a gap, tests it. On `prompts` the
five voices are told apart, recordings of one kind train and others test; and a probe that has learned the English
Allison Smith beside the three other speakers is shown her Spanish recordings. A probe is a multinomial logistic
regression on standardised features, its penalty chosen by cross-validation inside the training segments. Features of a
segment: the posterior mean of v, the average over time of the posterior means of z, and both of networks of the same
architecture that read the same and were never trained; and, for a positive control, the average log-power spectrum.
Beside that: what the decoder makes of another segment's v. A model that is not there is left out, and named. The result
is data/results/speakers.json; it takes about six minutes on a CPU core.
"""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from dvae_lib.data import SpeechCorpus, load_corpus
from dvae_lib.experiments.corpora import data_facts
from dvae_lib.experiments.records import Record
from dvae_lib.experiments.results import ResultFile, Task, complete
from dvae_lib.experiments.studies.command import RESULTS, model_folders, parser
from dvae_lib.extras import needed, require
from dvae_lib.models import DVAE

__all__ = ["CONTESTANTS", "KEY", "ProbeProtocol", "Segment", "Voices", "main", "tasks", "untrained"]

KEY = ("corpus", "frames", "model", "feature")
CONTESTANTS = {
    "full": "dsae-librispeech-batch32",
    "factorised": "dsae-factorised-librispeech-batch32",
    "structured": "dsae-structured-librispeech-batch32",
    "full, log-powers": "dsae-librispeech",
}
"""The names of the weights that are compared, by inference model; the last one's networks read log-powers."""

Array = NDArray[Any]
CorpusName = Literal["librispeech", "prompts"]

SPECTRUM, SPECTRUM_16 = "spectrum", "spectrum, 16 components"
UNTRAINED = ", untrained"
ENGLISH, SPANISH, ALLISON = "en_US_f_Allison", "es_MX_f_Allison", "Allison"


class Segment(NamedTuple):
    """A piece of a recording.

    Attributes:
        frames: Its power spectrogram.
        label: Who speaks, or with which voice.
        trains: Whether it trains the probe; otherwise it tests it.
    """

    frames: Tensor
    label: str
    trains: bool


@dataclass(frozen=True)
class ProbeProtocol:
    """How recordings are cut into segments, and how many there are of each.

    Attributes:
        lengths: Frames of a segment, shortest first: 0.8, 1.6 and 2.4 s.
        splits: Number of ways to cut.
        gap: Frames between what trains and what tests, in one recording.
        shortest: Frames that a recording of `librispeech` must have: the same speakers at all lengths, those with two
            of the longest segments to train and one to test.
        recordings: Recordings of each voice of `prompts` that train the probe, and that test it.
        penalties: Inverse strengths of the probe's penalty.
    """

    lengths: tuple[int, ...] = (50, 100, 150)
    splits: int = 3
    gap: int = 25
    shortest: int = 570
    recordings: tuple[int, int] = (8, 40)
    penalties: tuple[float, ...] = tuple(np.logspace(-3, 1, 5))


class Voices:
    """The segments of a corpus, cut in several ways.

    Arguments:
        name: Which of the two tasks: "librispeech" (speakers) or "prompts" (voices).
        corpus: The recordings, whole.
        protocol: How they are cut.
    """

    def __init__(self, name: CorpusName, corpus: SpeechCorpus, protocol: ProbeProtocol) -> None:
        self.name: CorpusName = name
        self.corpus, self.protocol = corpus, protocol

    @cached_property
    def facts(self) -> dict[str, Any]:
        """Sizes and checksums of the parts that segments come from."""
        parts = ("validation", "test") if self.name == "librispeech" else ("train", "validation", "test")
        return data_facts(**{part: self.corpus.dataset(part) for part in parts})

    def cut(self, length: int, split: int) -> list[Segment]:
        """Segments of so many frames, cut in the way of that number."""
        return self._speakers(length, split) if self.name == "librispeech" else self._voices(length, split)

    def _speakers(self, length: int, split: int) -> list[Segment]:
        """Of all speakers, one long recording each; which part of it trains changes from split to split."""
        random, gap = np.random.default_rng(split), self.protocol.gap
        found: list[Segment] = []
        for part in ("validation", "test"):
            data = self.corpus.dataset(part)
            for i, utterance in enumerate(self.corpus.utterances(part)):
                share, first = random.uniform(0.55, 0.65), random.random() < 0.5  # whether the first part trains
                x = data[i]
                if len(x) < self.protocol.shortest:
                    continue
                cut = int(len(x) * (share if first else 1 - share))
                for piece, trains in ((x[: cut - gap // 2], first), (x[cut + gap - gap // 2 :], not first)):
                    found += [Segment(frames, utterance.speaker, trains) for frames in _pieces(piece, length)]
        return found

    def _voices(self, length: int, split: int) -> list[Segment]:
        """Of all voices, of recordings that are long enough for the longest; some train and others test."""
        random, longest = np.random.default_rng(split), max(self.protocol.lengths)
        voices: dict[str, list[Tensor]] = {}
        for part in ("train", "validation", "test"):
            data = self.corpus.dataset(part)
            for i, utterance in enumerate(self.corpus.utterances(part)):
                if data.lengths[i] >= longest:
                    voices.setdefault(utterance.name.split("/")[0], []).append(data[i])
        found: list[Segment] = []
        for voice, recordings in sorted(voices.items()):
            for place, i in enumerate(random.permutation(len(recordings))[: sum(self.protocol.recordings)]):
                # Of each as much, whatever the segments' length.
                start = random.integers(len(recordings[i]) - longest + 1)
                pieces = _pieces(recordings[i][start : start + longest], length)
                found += [Segment(piece, voice, place < self.protocol.recordings[0]) for piece in pieces]
        return found


def tasks(voices: Sequence[Voices], models: Mapping[str, DVAE]) -> Iterator[Task]:
    """The records of the study: exchanges of v, then probes at each length.

    Arguments:
        voices: The corpora.
        models: DSAEs, by name; the names of those that were never trained end in ", untrained".
    """
    protocol = voices[0].protocol
    for corpus in voices:
        for name, model in models.items():
            if not name.endswith(UNTRAINED):
                key = {"corpus": corpus.name, "frames": protocol.lengths[0], "model": name, "feature": "exchange"}
                yield Task([key], partial(_exchange, corpus, key, model))
    for length in protocol.lengths:
        for corpus in voices:
            about = {"corpus": corpus.name, "frames": length}
            spectra = [{**about, "model": "none", "feature": feature} for feature in (SPECTRUM, SPECTRUM_16)]
            yield Task(spectra, partial(_probes, corpus, spectra, _spectra))
            for name, model in models.items():
                keys = [{**about, "model": name, "feature": feature} for feature in ("v", "z")]
                yield Task(keys, partial(_probes, corpus, keys, partial(_latents, model)))


def _pieces(x: Tensor, length: int) -> list[Tensor]:
    """A recording, cut into segments that do not overlap."""
    return list(x.split(length))[: len(x) // length]


# ---------------------------------------------------------------------------------------------------------- probes


def _spectra(x: Tensor) -> dict[str, Array]:
    """The average log-power spectra of segments."""
    spectrum = x.log().mean(1).numpy()
    return {SPECTRUM: spectrum, SPECTRUM_16: spectrum}


def untrained(model: DVAE, seed: int = 0) -> DVAE:
    """A model of that class and those options that reads the same, with weights that were never trained.

    Arguments:
        model: A trained one.
        seed: Of the weights.
    """
    torch.manual_seed(seed)
    twin = type(model)(**model.options).eval()
    twin.read_as(model.inputs)
    learned = {name: buffer for name, buffer in model.named_buffers() if name.startswith("reading.")}
    twin.load_state_dict(learned, strict=False)
    return twin


@torch.no_grad()
def _latents(model: DVAE, x: Tensor) -> dict[str, Array]:
    """The posterior means of v, and those of z averaged over time."""
    found: dict[str, list[Tensor]] = {"v": [], "z": []}
    for batch in x.split(64):
        q = model.inference(batch, draw="mean")
        found["v"].append(q["v"].posterior.mean)
        found["z"].append(q["z"].posterior.mean.mean(1))
    return {name: torch.cat(values).numpy() for name, values in found.items()}


def _fitted(train: Array, labels: Array, feature: str, protocol: ProbeProtocol) -> Any:
    """A linear classifier, with the penalty that is best in cross-validation inside the training segments."""
    sklearn = {
        module: needed(f"sklearn.{module}", "A linear probe", "notebooks")
        for module in ("decomposition", "linear_model", "model_selection", "pipeline", "preprocessing")
    }
    scaler, pca = sklearn["preprocessing"].StandardScaler, sklearn["decomposition"].PCA
    steps = [scaler()]
    if feature == SPECTRUM_16:
        steps += [pca(16, random_state=0), scaler()]
    elif feature == SPECTRUM:  # nearly all of it, in a fraction of the time
        steps += [pca(min(len(train) // 2, 64), random_state=0)]
    classifier = sklearn["linear_model"].LogisticRegression(max_iter=300, tol=1e-3)
    selection = sklearn["model_selection"]
    folds = selection.StratifiedKFold(min(3, np.unique(labels, return_counts=True)[1].min()))
    search = selection.GridSearchCV(
        sklearn["pipeline"].make_pipeline(*steps, classifier),
        {"logisticregression__C": np.array(protocol.penalties)},
        cv=folds,
        scoring="neg_log_loss",
    )
    return search.fit(train, labels).best_estimator_


def _by_class(correct: Array, labels: Array) -> dict[str, float]:
    """Accuracy for each label."""
    return {str(label): float(correct[labels == label].mean()) for label in np.unique(labels)}


def _probes(voices: Voices, keys: Sequence[Record], features: Callable[[Tensor], Mapping[str, Array]]) -> list[Record]:
    """Features on one corpus at one length: accuracies, their mean over classes, and its standard error."""
    protocol, length = voices.protocol, keys[0]["frames"]
    accuracies: dict[str, list[dict[str, float]]] = {key["feature"]: [] for key in keys}
    abroad: dict[str, list[float]] = {key["feature"]: [] for key in keys}
    sizes = []
    for split in range(protocol.splits):
        segments = voices.cut(length, split)
        labels, trains = (np.array([segment[k] for segment in segments]) for k in (1, 2))
        sizes.append((int(trains.sum()), int((~trains).sum()), len(set(labels))))
        for feature, values in features(torch.stack([segment.frames for segment in segments])).items():
            found = _fitted(values[trains], labels[trains], feature, protocol).predict(values[~trains])
            accuracies[feature].append(_by_class(found == labels[~trains], labels[~trains]))
            if voices.name == "prompts":  # the same woman in another language
                persons = np.array([ALLISON if label in (ENGLISH, SPANISH) else label for label in labels])
                spanish = labels == SPANISH
                known = trains & ~spanish
                found = _fitted(values[known], persons[known], feature, protocol).predict(values[~trains & spanish])
                abroad[feature].append(float((found == ALLISON).mean()))
    return [
        {**key, **_accuracy(accuracies[key["feature"]], abroad[key["feature"]], sizes, voices), "data": voices.facts}
        for key in keys
    ]


def _accuracy(
    splits: list[dict[str, float]], abroad: list[float], sizes: list[tuple[int, int, int]], voices: Voices
) -> Record:
    classes: dict[str, list[float]] = {}
    for split in splits:
        for label, accuracy in split.items():
            classes.setdefault(label, []).append(accuracy)
    of_class = [float(np.mean(values)) for values in classes.values()]
    of_split = [float(np.mean(list(split.values()))) for split in splits]
    record: Record = {
        "accuracy": round(float(np.mean(of_split)), 4),
        # Splits share speakers. On many speakers these are what was sampled; of five voices, the splits are.
        "standard_error": round(_standard_error(of_class if voices.name == "librispeech" else of_split), 4),
        "splits": [round(value, 4) for value in of_split],
        "chance": round(1 / sizes[0][2], 4),
        "classes": sizes[0][2],
        "train": round(float(np.mean([size[0] for size in sizes]))),
        "test": round(float(np.mean([size[1] for size in sizes]))),
    }
    if voices.name == "prompts":
        record["voices"] = {label: round(value, 4) for label, value in zip(classes, of_class, strict=True)}
        record["abroad"] = [round(value, 4) for value in abroad]
    return record


def _standard_error(values: Sequence[float] | Array) -> float:
    return float(np.std(values, ddof=1) / len(values) ** 0.5)


# -------------------------------------------------------------------------------------------------------- exchange


@torch.no_grad()
def _exchange(voices: Voices, key: Record, model: DVAE) -> list[Record]:
    """What becomes of the reconstruction, in nats per frame, where v is that of another segment.

    The other segment is of the same label or of another one; z stays, or is inferred anew with the other v for given.
    """
    segments = voices.cut(key["frames"], 0)
    x, labels = torch.stack([s.frames for s in segments]), np.array([s.label for s in segments])
    random, everything = np.random.default_rng(0), np.arange(len(labels))
    chosen = {
        "same": [random.choice(everything[(labels == a) & (everything != i)]) for i, a in enumerate(labels)],
        "other": [random.choice(everything[labels != a]) for a in labels],
    }
    values: dict[str, list[Tensor]] = {}
    q_v = torch.cat([model.inference(part, draw="mean")["v"].sample for part in x.split(64)])
    for part in torch.arange(len(x)).split(64):
        frames, own = x[part], model.inference(x[part], draw="mean")
        bound = model.vlb(frames, generator=Generator().manual_seed(0))
        values.setdefault("kl", []).append(bound.kl["v"])
        base = _reconstruction(model, frames, own["z"].sample, own["v"].sample)
        for which, index in chosen.items():
            v = q_v[torch.from_numpy(np.array(index))[part]]
            anew = model.inference(frames, latents={"v": v}, draw="mean")["z"].sample
            for name, z in ((which, own["z"].sample), (f"{which}, anew", anew)):
                values.setdefault(name, []).append(_reconstruction(model, frames, z, v) - base)
    record = dict(key)
    for name, parts in values.items():
        value = torch.cat(parts).numpy()
        if voices.name == "librispeech":  # over speakers
            value = np.array([value[labels == label].mean() for label in np.unique(labels)])
        record[name] = [round(float(value.mean()), 3), round(_standard_error(value), 3)]
    return [{**record, "data": voices.facts}]


def _reconstruction(model: DVAE, x: Tensor, z: Tensor, v: Tensor) -> Tensor:
    """Log-likelihood of segments given these latents, in nats per frame."""
    return model.generation(x, {"z": z, "v": v}).observation.log_prob(x).mean(1)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    options = parser(__doc__)
    options.add_argument("--models", nargs="+", type=Path, help="folders of trained models; by default the library's")
    options.add_argument("--output", type=Path, default=RESULTS / "speakers.json")
    options.add_argument("--again", action="store_true", help="compute also what is in the file already")
    chosen = options.parse_args(arguments)
    require("sklearn", "A linear probe", "notebooks")
    models: dict[str, DVAE] = {}
    for title, name in CONTESTANTS.items():
        folders = model_folders(name, chosen.models)
        if not folders:
            print(f"{name} is not there")
        else:
            models[title] = DVAE.from_pretrained(folders[0])
    models |= {title + UNTRAINED: untrained(model) for title, model in models.items()}
    corpora: tuple[CorpusName, ...] = ("librispeech", "prompts")
    voices = [
        Voices(name, load_corpus(name, sequence_length=None, progress=False), ProbeProtocol()) for name in corpora
    ]
    complete(ResultFile(chosen.output, KEY), tasks(voices, models), again=chosen.again)
    return 0


if __name__ == "__main__":
    sys.exit(main())
