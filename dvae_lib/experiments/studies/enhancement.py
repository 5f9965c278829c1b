"""Noisy test speech, enhanced by every method (Chapter 10).

    python -m dvae_lib.experiments.studies.enhancement [MODEL ...] [--utterances 8] [--methods peem vem]
    python -m dvae_lib.experiments.studies.enhancement --part validation --iterations 25 50 100 --rank 1 2 4

Target speech: utterances of test speakers of `librispeech`, and half as many of the test voice of `prompts` (another
language, another room), cut to 3 s. Noise: babble of six recordings, stationary speech-shaped noise, passing bursts; at
0 and 5 dB. Half a second of noise alone comes before the speech, so that methods that take the beginning for noise are
right to do so; it is not scored. Babble and the shape of the stationary noise come from voices of the other corpus,
none of its test part. Everything random is seeded, so that all methods get the same mixtures. The defaults of
`dvae_lib.enhancement.enhance` were chosen on validation speakers, whom `--part validation` takes for targets; nothing
is chosen by the numbers of the test part.

The rows go into data/results/enhancement.json. `seconds` is the mean processor time for an utterance of 3 s, scoring
aside: half a second for "peem", ten times as much for "vem" of a recurrent model. `scores` are those of each utterance.
"""

import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Generator, Tensor

from dvae_lib.data import SpeechCorpus, load_corpus
from dvae_lib.enhancement import (
    babble,
    bursts,
    classical_wiener,
    enhance,
    factorise,
    mix,
    nmf_wiener,
    speech_shaped_noise,
)
from dvae_lib.enhancement.separation import Settings
from dvae_lib.experiments.corpora import data_facts, evenly
from dvae_lib.experiments.records import Record
from dvae_lib.experiments.results import ResultFile, Task, complete, rounded
from dvae_lib.experiments.studies.command import RESULTS, parser
from dvae_lib.metrics import SPEECH_METRICS, speech_metrics
from dvae_lib.models import DVAE
from dvae_lib.randomness import derive_seed

__all__ = ["KEY", "SPEECH_MODELS", "Contestant", "EnhancementProtocol", "NoisySpeech", "contestants", "main", "tasks"]

KEY = ("model", "method", "corpus", "noise", "snr_db", "seed", "utterances", "part", "iterations", "rank")
DEFAULT = Settings()
SPEECH_MODELS = tuple(f"{model}-librispeech" for model in ("vae", "rvae-causal", "rvae-noncausal"))
"""The models of clean speech that are compared where none is named."""

Part = Literal["validation", "test"]
NoiseKind = Literal["babble", "stationary", "bursts"]
DeepMethod = Literal["peem", "vem"]


@dataclass(frozen=True)
class EnhancementProtocol:
    """What is enhanced, and the sizes of the baselines.

    Attributes:
        utterances: Number of utterances of each corpus.
        part: Whose utterances they are.
        seconds: Length of an utterance.
        lead: Seconds of noise alone before the speech.
        sample_rate: Samples a second.
        noises: Kinds of noise.
        snrs: Signal-to-noise ratios in dB.
        shortest_voice: Seconds that a recording has at least that noise is made of.
        babble_recordings: Recordings that make a babble.
        voice_recordings: Recordings that noise is made of are taken from so many, evenly over their part.
        dictionary_rank: Spectra of clean speech of the NMF baseline. These ranks are not tuned, unlike the defaults of
            `enhance`: the baseline may be better than its rows.
        noise_rank: Spectra of noise of the NMF baseline.
        dictionary_sequences: Training sequences that its dictionary is learned from.
        dictionary_length: Frames that are taken of each.
    """

    utterances: tuple[tuple[str, int], ...] = (("librispeech", 8), ("prompts", 4))
    part: Part = "test"
    seconds: float = 3.0
    lead: float = 0.5
    sample_rate: int = 16_000
    noises: tuple[NoiseKind, ...] = ("babble", "stationary", "bursts")
    snrs: tuple[float, ...] = (0.0, 5.0)
    shortest_voice: float = 2.0
    babble_recordings: int = 6
    voice_recordings: int = 60
    dictionary_rank: int = 32
    noise_rank: int = 2
    dictionary_sequences: int = 160
    dictionary_length: int = 50

    @property
    def length(self) -> int:
        """Samples of an utterance."""
        return round(self.seconds * self.sample_rate)

    @property
    def lead_length(self) -> int:
        """Samples of noise before it."""
        return round(self.lead * self.sample_rate)


class NoisySpeech:
    """Clean utterances of two corpora, each in noise that is made of voices of the other.

    Arguments:
        corpora: The two, by name, with the part's recordings whole; the dictionary of the NMF baseline is learned from
            "librispeech".
        protocol: What is taken of them.
    """

    def __init__(self, corpora: Mapping[str, SpeechCorpus], protocol: EnhancementProtocol) -> None:
        self.corpora, self.protocol = corpora, protocol
        self._clean: dict[tuple[str, int], list[Tensor]] = {}
        self._voices: dict[str, list[Tensor]] = {}
        self._dictionary: Tensor | None = None

    def clean(self, name: str, number: int) -> list[Tensor]:
        """Clean speech of the part: the middle of evenly chosen utterances that are long enough."""
        if (name, number) not in self._clean:
            corpus, length, part = self.corpora[name], self.protocol.length, self.protocol.part
            enough = 1 + math.ceil(length / corpus.front_end.settings.hop_length)
            frames = corpus.dataset(part).lengths.tolist()
            long = [u for u, n in zip(corpus.utterances(part), frames, strict=True) if n > enough]
            if len(long) < number:
                raise ValueError(
                    f"{number} {part} utterances of more than {self.protocol.seconds:g} s are needed; "
                    f"{corpus.name} has {len(long)}"
                )
            waveforms = [corpus.waveform(long[i]) for i in evenly(len(long), number)]
            starts = [(len(waveform) - length) // 2 for waveform in waveforms]
            self._clean[name, number] = [w[start : start + length] for w, start in zip(waveforms, starts, strict=True)]
        return self._clean[name, number]

    def voices(self, name: str) -> list[Tensor]:
        """Recordings of voices that are no targets: of the other corpus, not of its test part."""
        if name not in self._voices:
            (other,) = (corpus for corpus in self.corpora if corpus != name)
            recordings = self.corpora[other].utterances("validation" if other == "librispeech" else "train")
            waveforms = (
                self.corpora[other].waveform(recordings[i])
                for i in evenly(len(recordings), self.protocol.voice_recordings)
            )
            self._voices[name] = [
                w for w in waveforms if len(w) >= self.protocol.shortest_voice * self.protocol.sample_rate
            ]
        return self._voices[name]

    def noise(self, kind: NoiseKind, name: str, number: int, seed: int) -> Tensor:
        """The noise for a target, with its lead."""
        generator = Generator().manual_seed(derive_seed(seed, kind, name, number))
        length = self.protocol.lead_length + self.protocol.length
        if kind == "bursts":
            return bursts(length, self.protocol.sample_rate, generator)
        voices = self.voices(name)
        if kind == "stationary":
            return speech_shaped_noise(torch.cat(voices), length, generator)
        chosen = torch.randperm(len(voices), generator=generator)[: self.protocol.babble_recordings].tolist()
        return babble([voices[i] for i in chosen], length, generator)

    def mixture(self, speech: Tensor, noise: Tensor, snr: float) -> Tensor:
        """The recording: noise alone, then the speech in it; the signal-to-noise ratio is that of the second part."""
        lead = self.protocol.lead_length
        mixed = mix(speech, noise[lead:], snr)
        scale = (mixed - speech).norm() / noise[lead:].norm()
        return torch.cat([scale * noise[:lead], mixed])

    def dictionary(self) -> Tensor:
        """Spectra of clean training speech, for the NMF baseline."""
        if self._dictionary is None:
            training = self.corpora["librispeech"].train
            length = self.protocol.dictionary_length
            frames = torch.cat(
                [training[i][:length] for i in evenly(len(training), self.protocol.dictionary_sequences)]
            )
            generator = Generator().manual_seed(0)
            self._dictionary = factorise(
                frames, self.protocol.dictionary_rank, num_iterations=60, generator=generator
            ).W
        return self._dictionary


@dataclass(frozen=True)
class Contestant:
    """Something that enhances.

    Attributes:
        model: The model's name.
        method: The method's.
        enhance: A function of recording and source of noise.
        iterations: Of the method, where it has some that are chosen.
        rank: Number of spectra that describe the noise, likewise.
    """

    model: str
    method: str
    enhance: Callable[[Tensor, Generator], Tensor]
    iterations: int = 0
    rank: int = 0


def contestants(
    speech: NoisySpeech,
    models: Mapping[str, DVAE],
    methods: Sequence[DeepMethod],
    *,
    iterations: Sequence[int] = (DEFAULT.num_iterations,),
    ranks: Sequence[int] = (DEFAULT.rank,),
) -> Iterator[Contestant]:
    """Everything that is compared: nothing, two Wiener filters, and each model by each method.

    Arguments:
        speech: What is enhanced.
        models: Models of clean speech, by name.
        methods: Methods of `enhance`.
        iterations: Of `enhance`; by default what was best on other speakers. With several, each.
        ranks: Of the noise in `enhance`, likewise.
    """
    yield Contestant("none", "noisy", lambda noisy, generator: noisy)
    yield Contestant("none", "wiener", lambda noisy, generator: classical_wiener(noisy).waveform)

    def nmf(noisy: Tensor, generator: Generator) -> Tensor:
        return nmf_wiener(noisy, speech.dictionary(), rank=speech.protocol.noise_rank, generator=generator).waveform

    def deep(model: DVAE, method: DeepMethod, number: int, rank: int, noisy: Tensor, generator: Generator) -> Tensor:
        done = enhance(model, noisy, method=method, num_iterations=number, rank=rank, generator=generator)
        return done.waveform

    yield Contestant("nmf", "wiener", nmf)
    for (name, model), method, number, rank in product(models.items(), methods, iterations, ranks):
        yield Contestant(name, method, partial(deep, model, method, number, rank), number, rank)


def tasks(speech: NoisySpeech, compared: Sequence[Contestant], seed: int = 0) -> Iterator[Task]:
    """The rows of the study: every contestant in every noise.

    Arguments:
        speech: What is enhanced.
        compared: See `contestants`.
        seed: Seed of noises and methods.
    """
    protocol = speech.protocol
    for contestant in compared:
        for name, number in protocol.utterances:
            for noise in protocol.noises:
                for snr in protocol.snrs:
                    about = {"model": contestant.model, "method": contestant.method, "corpus": name}
                    key = {**about, "noise": noise, "snr_db": snr, "seed": seed, "utterances": number}
                    key |= {"part": protocol.part, "iterations": contestant.iterations, "rank": contestant.rank}
                    yield Task([key], partial(_row, speech, contestant, key))


def _row(speech: NoisySpeech, contestant: Contestant, key: Record) -> list[Record]:
    """All targets of a corpus in one noise at one signal-to-noise ratio."""
    name, noise, seed, lead = key["corpus"], key["noise"], key["seed"], speech.protocol.lead_length
    clean = speech.clean(name, key["utterances"])
    noisy = [speech.mixture(s, speech.noise(noise, name, i, seed), key["snr_db"]) for i, s in enumerate(clean)]
    contestant.enhance(noisy[0], Generator())  # what is done once, such as the dictionary, counts for none
    started = time.process_time()
    enhanced = [
        contestant.enhance(x, Generator().manual_seed(derive_seed(seed, "enhance", name, noise, i)))[lead:]
        for i, x in enumerate(noisy)
    ]
    seconds = (time.process_time() - started) / len(noisy)
    table = speech_metrics(
        clean, enhanced, sample_rate=speech.protocol.sample_rate, metrics=SPEECH_METRICS, num_workers=0
    )
    row = dict(key)
    for line in table.summary():
        row[line.metric] = rounded(line.mean)
        row[f"{line.metric}_se"] = rounded(line.std / math.sqrt(line.count) if line.count else math.nan)
    # All systems have the same mixtures, so that they can be compared utterance by utterance.
    scores = {metric: [rounded(value) for value in values] for metric, values in table.columns.items()}
    part = speech.protocol.part
    facts = data_facts(**{part: speech.corpora[name].dataset(part)})
    return [{**row, "scores": scores, "seconds": round(seconds, 3), "data": facts}]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    options = parser(__doc__)
    options.add_argument("names", nargs="*", metavar="MODEL", help=f"names or folders; {', '.join(SPEECH_MODELS)}")
    options.add_argument("--methods", nargs="+", default=["peem", "vem"], choices=["peem", "vem"])
    options.add_argument("--utterances", type=int, default=8, help="of librispeech; half as many of prompts")
    options.add_argument("--part", default="test", choices=["validation", "test"], help="whose utterances")
    options.add_argument("--iterations", type=int, nargs="+", default=[DEFAULT.num_iterations], help="of the methods")
    options.add_argument("--rank", type=int, nargs="+", default=[DEFAULT.rank], help="number of spectra of the noise")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--output", type=Path, default=RESULTS / "enhancement.json")
    options.add_argument("--again", action="store_true", help="compute also what is in the file already")
    chosen = options.parse_args(arguments)
    number = chosen.utterances
    utterances = (("librispeech", number), ("prompts", max(1, number // 2)))
    protocol = replace(EnhancementProtocol(), utterances=utterances, part=chosen.part)
    # Test recordings are whole in any case.
    cut: dict[str, Any] = {} if chosen.part == "test" else {"sequence_length": None}
    speech = NoisySpeech({name: load_corpus(name, progress=False, **cut) for name, _ in utterances}, protocol)
    models = {name: DVAE.from_pretrained(name) for name in chosen.names or SPEECH_MODELS}
    compared = list(contestants(speech, models, chosen.methods, iterations=chosen.iterations, ranks=chosen.rank))
    if chosen.part == "validation":  # where settings are chosen, and only models have some
        compared = [contestant for contestant in compared if contestant.iterations]
    complete(ResultFile(chosen.output, KEY), tasks(speech, compared, chosen.seed), again=chosen.again)
    return 0


if __name__ == "__main__":
    sys.exit(main())
