"""Who speaks, and what is said? FHVAE and DSAE on strings of spoken digits, where the two are crossed.

    python -m dvae_lib.experiments.studies.segments [NAME ...] [--seeds 0 1 2]

Six speakers say ten digits fifty times each (`digits-by-take`). A string is five recordings of one speaker; a segment
is one recording, averaged to ten frames of 32 bands, log power, standardised on the training part. So the speaker
belongs to the string, the digit to the segment, and both are known. All models are trained on the same strings of takes
10 to 49 and tried on strings of takes 0 to 9. Nothing is chosen by any result.

Probes (multinomial logistic regression on standardised features, a penalty fixed beforehand) tell speaker and digit
from each segment's latent vectors, and, as a positive control, from the segment itself. The probes of the control judge
what the decoder makes of a segment: with the vector of its own string, and with that of a string of another speaker.
For the FHVAE that is the posterior mean of w in the place of v, for the DSAE v. A training takes half a minute on a
core. The result is data/results/segments.json.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor
from torch.nn import functional as F

from dvae_lib.data import SpeechCorpus, join_segments, load_corpus
from dvae_lib.experiments.corpora import data_facts
from dvae_lib.experiments.records import Record
from dvae_lib.experiments.results import ResultFile, Task
from dvae_lib.experiments.studies.command import RESULTS, completed, parser, select
from dvae_lib.models import DSAE, DVAE, FHVAE

__all__ = [
    "CONTESTANTS",
    "CONTROL",
    "KEY",
    "Probe",
    "SegmentsProtocol",
    "Strings",
    "deal_strings",
    "main",
    "segment_of",
    "strings_of_digits",
]

KEY = ("name", "seed")
CONTROL = "control"
CONTESTANTS: dict[str, dict[str, Any]] = {
    "fhvae": {},
    "fhvae-10": {"alpha": 10.0},
    "fhvae-table-10": {"sequence": "table", "alpha": 10.0},
    "dsae": {},
    "fhvae-untrained": {"steps": 0},
    "dsae-untrained": {"steps": 0},
}
"""What is trained: options of the FHVAE, and its steps where there are none."""


@dataclass(frozen=True)
class SegmentsProtocol:
    """How strings are made, and models built and trained.

    Attributes:
        segments: Segments of a string, N.
        frames: Frames of a segment.
        bands: Bands of a frame.
        v_dim: Size of the string's vector in all models.
        z_dim: Size of the FHVAE's vector of a segment.
        frame_dim: Size of the DSAE's vector of a frame.
        h_dim: Size of all layers and states.
        steps: Steps of a training (Adam).
        batch_size: Strings of a step.
        learning_rate: At the start; it falls to zero along a cosine.
        penalty: Of a probe, on the squares of its weights, beside the mean loss.
    """

    segments: int = 5
    frames: int = 10
    bands: int = 32
    v_dim: int = 16
    z_dim: int = 16
    frame_dim: int = 8
    h_dim: int = 64
    steps: int = 800
    batch_size: int = 32
    learning_rate: float = 2e-3
    penalty: float = 1e-3


class Strings(NamedTuple):
    """Strings of spoken digits.

    Attributes:
        x: Segments, (S, N, frames x bands).
        speaker: The number of each string's speaker, (S,).
        digit: What each segment says, (S, N).
        left_out: Recordings with fewer frames than a segment has.
    """

    x: Float[Tensor, "strings segments x_dim"]
    speaker: Int[Tensor, " strings"]
    digit: Int[Tensor, "strings segments"]
    left_out: int


def segment_of(x: Float[Tensor, "time bins"], frames: int, bands: int) -> Float[Tensor, " x_dim"]:
    """The log power of a recording, averaged to a number of frames and of bands; one vector, frame by frame.

    Arguments:
        x: Its power spectrogram.
        frames: Number of frames.
        bands: Number of bands, equally wide; the lowest bin is left out.

    Raises:
        ValueError: The recording has fewer frames.
    """
    if len(x) < frames:
        raise ValueError(f"a segment has {frames} frames, and the recording {len(x)}: leave it out")
    averaged = F.adaptive_avg_pool2d(x[None, None, :, 1:], (frames, bands))
    return averaged.flatten().clamp_min(1e-8).log()


def deal_strings(speakers: Int[Tensor, " recordings"], segments: int) -> Int[Tensor, "strings segments"]:
    """Deal each speaker's recordings to strings; what is left over of a speaker is in none.

    Arguments:
        speakers: Who speaks in each recording.
        segments: Recordings of a string.

    Returns:
        Numbers of recordings, always the same.
    """
    generator, rows = Generator().manual_seed(0), []
    for speaker in speakers.unique().tolist():
        own = (speakers == speaker).nonzero()[:, 0]
        own = own[torch.randperm(len(own), generator=generator)]
        rows.append(own[: len(own) // segments * segments].view(-1, segments))
    return torch.cat(rows)


def strings_of_digits(corpus: SpeechCorpus, parts: Sequence[str], protocol: SegmentsProtocol) -> Strings:
    """Strings of the recordings of some parts, the log power not standardised.

    Raises:
        ValueError: A speaker of these parts is not in the training part: no probe could name them.
    """
    known = sorted({u.speaker for u in corpus.utterances("train")})
    segments, speakers, digits, left_out = [], [], [], 0
    for part in parts:
        data = corpus.dataset(part)
        for i, utterance in enumerate(corpus.utterances(part)):
            if utterance.speaker not in known:
                raise ValueError(
                    f"{utterance.speaker} is in the {part} part of {corpus.name!r} and not in the training part: a "
                    "probe can't name who it never met. Take 'digits-by-take', in which all speakers are in all parts"
                )
            if len(data[i]) < protocol.frames:
                left_out += 1
                continue
            segments.append(segment_of(data[i], protocol.frames, protocol.bands))
            speakers.append(known.index(utterance.speaker))
            digits.append(int(Path(utterance.name).name.partition("_")[0]))
    who, what = torch.tensor(speakers), torch.tensor(digits)
    rows = deal_strings(who, protocol.segments)
    return Strings(torch.stack(segments)[rows], who[rows[:, 0]], what[rows], left_out)


# ------------------------------------------------------------------------------------------------------------ probes


class Probe:
    """Multinomial logistic regression on standardised features.

    Arguments:
        features: What it reads, (n, D).
        labels: What it is to tell, (n,).
        penalty: On the squares of its weights, beside the mean loss.
    """

    def __init__(self, features: Float[Tensor, "n features"], labels: Int[Tensor, " n"], penalty: float = 1e-3) -> None:
        self.mean, self.scale = features.mean(0), features.std(0).clamp_min(1e-6)
        classes = int(labels.max()) + 1
        self.weight = torch.zeros(classes, features.shape[1], requires_grad=True)
        self.bias = torch.zeros(classes, requires_grad=True)
        optimizer = torch.optim.LBFGS([self.weight, self.bias], max_iter=150, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            optimizer.zero_grad()
            value = F.cross_entropy(self.scores(features), labels) + penalty * self.weight.square().sum()
            value.backward()
            return value

        optimizer.step(loss)

    def scores(self, features: Float[Tensor, "n features"]) -> Float[Tensor, "n classes"]:
        """The logarithms of the classes' probabilities, up to a constant."""
        return (features - self.mean) / self.scale @ self.weight.T + self.bias

    @torch.no_grad()
    def __call__(self, features: Float[Tensor, "n features"]) -> Int[Tensor, " n"]:
        """The likeliest class."""
        return self.scores(features).argmax(1)


class _Study:
    """The strings, standardised, and the probes that judge segments as they are heard."""

    def __init__(self, corpus: SpeechCorpus, protocol: SegmentsProtocol) -> None:
        self.protocol = protocol
        self.train = strings_of_digits(corpus, ["train"], protocol)
        self.test = strings_of_digits(corpus, ["validation", "test"], protocol)
        frames = join_segments(self.train.x, protocol.frames).flatten(0, 1)
        mean, scale = (value.repeat(protocol.frames) for value in (frames.mean(0), frames.std(0)))
        self.train, self.test = (s._replace(x=(s.x - mean) / scale) for s in (self.train, self.test))
        self.facts = {
            **data_facts(**{part: corpus.dataset(part) for part in ("train", "validation", "test")}),
            "strings": [len(self.train.x), len(self.test.x)],
            "left_out": [self.train.left_out, self.test.left_out],
        }
        self.judges = {
            "speaker": self.probe(self.train.x, self.speakers(self.train)),
            "digit": self.probe(self.train.x, self.train.digit),
        }

    def speakers(self, strings: Strings) -> Tensor:
        """Of each segment."""
        return strings.speaker[:, None].expand_as(strings.digit)

    def probe(self, features: Tensor, labels: Tensor) -> Probe:
        """A probe of segments' vectors, (S, N, D)."""
        return Probe(features.flatten(0, 1), labels.flatten(), self.protocol.penalty)

    def told(self, probe: Probe, features: Tensor, labels: Tensor) -> float:
        """The share of segments that a probe tells right."""
        return round(float((probe(features.flatten(0, 1)) == labels.flatten()).float().mean()), 4)

    def judged(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Whose voice, and which digit, the judges hear in segments, (S, N)."""
        who, what = (self.judges[name](x.flatten(0, 1)).view(x.shape[:2]) for name in ("speaker", "digit"))
        return who, what

    def probed(self, features: Callable[[Tensor], dict[str, Tensor]]) -> dict[str, dict[str, float]]:
        """What probes tell from each of the features."""
        train, test = features(self.train.x), features(self.test.x)
        return {
            name: {
                factor: self.told(self.probe(train[name], of_train), test[name], of_test)
                for factor, of_train, of_test in (
                    ("speaker", self.speakers(self.train), self.speakers(self.test)),
                    ("digit", self.train.digit, self.test.digit),
                )
            }
            for name in train
        }

    def exchanged(self) -> Tensor:
        """For each test string, one of another speaker."""
        generator, speaker = Generator().manual_seed(0), self.test.speaker
        others = [(speaker != own).nonzero()[:, 0] for own in speaker]
        return torch.stack([rows[torch.randint(len(rows), (), generator=generator)] for rows in others])


# ----------------------------------------------------------------------------------------------------------- models


def _build(name: str, protocol: SegmentsProtocol, strings: int) -> DVAE:
    h_dim = protocol.h_dim
    if name.startswith("dsae"):
        layers: dict[str, Any] = {"decoder": (h_dim,), "encoder": (h_dim,), "h_dim": h_dim, "g_dim": h_dim}
        return DSAE(protocol.bands, protocol.frame_dim, v_dim=protocol.v_dim, **layers)
    options = {key: value for key, value in CONTESTANTS[name].items() if key != "steps"}
    if options.get("sequence") == "table":
        options["u_dim"] = strings
    return FHVAE(
        protocol.frames * protocol.bands,
        protocol.z_dim,
        v_dim=protocol.v_dim,
        frames=protocol.frames,
        encoder=(h_dim,),
        g_dim=h_dim,
        decoder=(h_dim,),
        h_dim=h_dim,
        **options,
    )


def _inputs(model: DVAE, rows: Tensor, segments: int) -> Tensor | None:
    """For a table, the numbers of training strings, one-hot; for strings that it does not know, nothing."""
    if not model.u_dim:
        return None
    known: Tensor = F.one_hot(rows.clamp_min(0), model.u_dim).float() * (rows >= 0)[:, None]
    return known[:, None].expand(-1, segments, -1)


def _read(model: DVAE, x: Tensor, protocol: SegmentsProtocol) -> Tensor:
    """Strings as a model reads them: segments, or all frames."""
    return x if isinstance(model, FHVAE) else join_segments(x, protocol.frames)


def _trained(name: str, seed: int, study: _Study) -> DVAE:
    protocol, x = study.protocol, study.train.x
    model, generator = _build(name, protocol, len(x)), Generator().manual_seed(seed)
    steps = CONTESTANTS[name].get("steps", protocol.steps)
    optimizer = torch.optim.Adam(model.parameters(), lr=protocol.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1))
    for _ in range(steps):
        rows = torch.randint(len(x), (protocol.batch_size,), generator=generator)
        optimizer.zero_grad()
        u = _inputs(model, rows, x.shape[1])
        (-model.vlb(_read(model, x[rows], protocol), u, generator=generator).value.mean()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 100.0)
        optimizer.step()
        schedule.step()
    return model.eval()


@torch.no_grad()
def _codes(model: DVAE, x: Tensor, protocol: SegmentsProtocol) -> dict[str, Tensor]:
    """Posterior means: of each segment, v and z; "of" the string, what stands for it.

    Of the DSAE, a segment's z are those of its frames side by side; beside that, their mean.
    """
    u = _inputs(model, torch.full((len(x),), -1), x.shape[1])
    found = model.inference(_read(model, x, protocol), u, draw="mean")
    v, z = found["v"].posterior.mean, found["z"].posterior.mean
    if isinstance(model, FHVAE):
        return {"v": v, "z": z, "of": model.posterior_of_w(v).mean}
    frames = z.unflatten(1, (x.shape[1], protocol.frames))
    return {"v": v[:, None].expand(-1, x.shape[1], -1), "z": frames.flatten(2), "z_mean": frames.mean(2), "of": v}


@torch.no_grad()
def _decoded(model: DVAE, z: Tensor, of: Tensor, like: Tensor, protocol: SegmentsProtocol) -> Tensor:
    """The mean of strings' segments, from the vectors of segments and of strings."""
    if isinstance(model, FHVAE):
        v = of[:, None].expand(-1, z.shape[1], -1)
        latents = {"z": z, "v": v, "w": of}
        u = _inputs(model, torch.full((len(of),), -1), z.shape[1])
        return model.generation(like, latents, u).observation.mean
    frames = z.unflatten(2, (protocol.frames, -1)).flatten(1, 2)
    made = model.generation(_read(model, like, protocol), {"z": frames, "v": of}).observation.mean
    x: Tensor = made.unflatten(1, (z.shape[1], protocol.frames)).flatten(2)
    return x


def _record(name: str, seed: int, study: _Study) -> Record:
    protocol, test = study.protocol, study.test
    model = _trained(name, seed, study)
    probes = study.probed(lambda x: {key: value for key, value in _codes(model, x, protocol).items() if key != "of"})
    codes, other = _codes(model, test.x, protocol), study.exchanged()
    before = study.judged(_decoded(model, codes["z"], codes["of"], test.x, protocol))
    after = study.judged(_decoded(model, codes["z"], codes["of"][other], test.x, protocol))
    source, target = study.speakers(test), test.speaker[other][:, None].expand_as(test.digit)
    with torch.no_grad():
        u = _inputs(model, torch.full((len(test.x),), -1), test.x.shape[1])
        bound = model.vlb(_read(model, test.x, protocol), u, generator=Generator().manual_seed(3))
    frames = protocol.segments * protocol.frames
    return {
        "probes": probes,
        "before": {"speaker": _share(before[0] == source), "digit": _share(before[1] == test.digit)},
        "after": {
            "target": _share(after[0] == target),
            "source": _share(after[0] == source),
            "digit": _share(after[1] == test.digit),
        },
        "bound": round(float((bound.reconstruction - bound.total_kl).mean()) / frames, 4),
        "kl": {
            key: round(float((term.flatten(1).sum(1) if term.ndim > 1 else term).mean()), 3)
            for key, term in bound.kl.items()
        },
        "steps": CONTESTANTS[name].get("steps", protocol.steps),
        "weights": sum(p.numel() for p in model.parameters()),
    }


def _share(right: Tensor) -> float:
    return round(float(right.float().mean()), 4)


def _control(study: _Study) -> Record:
    """The judges on recordings that they were not trained on, and how the labels are spread."""
    who, what = study.judged(study.test.x)
    return {
        "speaker": _share(who == study.speakers(study.test)),
        "digit": _share(what == study.test.digit),
        "chance": {"speaker": round(1 / len(study.test.speaker.unique()), 4), "digit": 0.1},
    }


def _task(name: str, seed: int, study: Callable[[], _Study]) -> Task:
    key: Record = {"name": name, "seed": seed}

    def compute() -> list[Record]:
        begun, data = time.perf_counter(), study()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            found = _control(data) if name == CONTROL else _record(name, seed, data)
        return [{**key, **found, "data": data.facts, "seconds": round(time.perf_counter() - begun)}]

    return Task([key], compute)


def main(arguments: Sequence[str] | None = None, protocol: SegmentsProtocol | None = None) -> int:
    """The command line."""
    options = parser(__doc__)
    options.add_argument("names", nargs="*", metavar="NAME", help=", ".join([CONTROL, *CONTESTANTS]))
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options.add_argument("--corpus", default="digits-by-take", help="strings of these digits")
    options.add_argument("--output", type=Path, default=RESULTS / "segments.json")
    options.add_argument("--again", action="store_true", help="compute also what is in the file already")
    chosen = options.parse_args(arguments)
    names = select(options, chosen.names, [CONTROL, *CONTESTANTS])
    made: list[_Study] = []

    def study() -> _Study:
        if not made:
            corpus = load_corpus(chosen.corpus, progress=False)
            made.append(_Study(corpus, SegmentsProtocol() if protocol is None else protocol))
        return made[0]

    # Seed by seed, so that an early end leaves all contestants with equally many.
    tasks = (
        _task(name, seed, study)
        for seed in chosen.seeds
        for name in names
        if name != CONTROL or seed == chosen.seeds[0]
    )
    return completed(ResultFile(chosen.output, KEY), tasks, again=chosen.again)


if __name__ == "__main__":
    raise SystemExit(main())
