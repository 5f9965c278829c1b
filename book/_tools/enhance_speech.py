"""Enhance noisy test speech by every method, and write the scores to data/results/enhancement.json.

    python book/_tools/enhance_speech.py [MODEL ...] [--utterances 8] [--methods peem vem]

Target speech: utterances of test speakers of `librispeech`, and half as many of the test voice of `prompts` (another
language, another room), cut to 3 s. Noise: babble of six recordings, stationary speech-shaped noise, passing bursts; at
0 and 5 dB. Half a second of noise alone comes before the speech, so that methods that take the beginning for noise are
right to do so; it is not scored. Babble and the shape of the stationary noise come from voices of the other corpus,
none of its test part. Everything random is seeded, so that all methods get the same mixtures. The defaults of
`dvae_lib.enhancement.enhance` were chosen on validation speakers; nothing is chosen by these numbers.

A row is written as soon as it is there, and a row that is there is not computed again: an interrupted run goes on. All
of it takes about 40 minutes on one free CPU core, most of which goes into "vem" of the two recurrent models. `seconds`
is the mean processor time for an utterance of 3 s, scoring aside.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

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
from dvae_lib.files import write_atomically
from dvae_lib.metrics import SPEECH_METRICS, speech_metrics
from dvae_lib.models import DVAE
from dvae_lib.randomness import derive_seed

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "data/results/enhancement.json"
MODELS = ("vae-librispeech-batch32", "rvae-causal-librispeech-batch32", "rvae-noncausal-librispeech-batch32")
RATE, SECONDS = 16_000, 3
LEAD = RATE // 2  # samples of noise before the speech
SNRS = (0.0, 5.0)
NOISES = ("babble", "stationary", "bursts")
OTHER = {"librispeech": "prompts", "prompts": "librispeech"}
NUM_RECORDINGS = 6
# Not tuned, unlike the defaults of `enhance`: the baseline may be better than its rows.
DICTIONARY_RANK, NOISE_RANK = 32, 2

Method = Callable[[Tensor, Generator], Tensor]
Record = dict[str, Any]


@cache
def corpus(name: str) -> SpeechCorpus:
    """A corpus, once."""
    return load_corpus(name, progress=False)


def evenly(items: list[Any], number: int) -> list[Any]:
    """So many items, evenly over the list."""
    return [items[i] for i in torch.linspace(0, len(items) - 1, min(number, len(items))).long().tolist()]


@cache
def targets(name: str, number: int) -> list[Tensor]:
    """Clean speech of the test part: the middle of evenly chosen utterances that are long enough."""
    test, utterances = corpus(name).test, corpus(name).utterances("test")
    enough = 1 + math.ceil(RATE * SECONDS / corpus(name).front_end.settings.hop_length)
    chosen = evenly([u for u, n in zip(utterances, test.lengths.tolist(), strict=True) if n > enough], number)
    waveforms = [corpus(name).waveform(utterance) for utterance in chosen]
    starts = [(len(waveform) - RATE * SECONDS) // 2 for waveform in waveforms]
    return [waveform[start : start + RATE * SECONDS] for waveform, start in zip(waveforms, starts, strict=True)]


@cache
def other_voices(name: str) -> list[Tensor]:
    """Recordings of voices that are no targets: two seconds at least, of the other corpus, not of its test part."""
    other = corpus(OTHER[name])
    part = "validation" if OTHER[name] == "librispeech" else "train"
    waveforms = (other.waveform(utterance) for utterance in evenly(list(other.utterances(part)), 60))
    return [waveform for waveform in waveforms if len(waveform) >= 2 * RATE]


def make_noise(kind: str, name: str, number: int, seed: int) -> Tensor:
    """The noise for a target."""
    generator = torch.Generator().manual_seed(derive_seed(seed, kind, name, number))
    length, voices = LEAD + RATE * SECONDS, other_voices(name)
    if kind == "bursts":
        return bursts(length, RATE, generator)
    if kind == "stationary":
        return speech_shaped_noise(torch.cat(voices), length, generator)
    chosen = torch.randperm(len(voices), generator=generator)[:NUM_RECORDINGS].tolist()
    return babble([voices[i] for i in chosen], length, generator)


def in_noise(speech: Tensor, noise: Tensor, snr: float) -> Tensor:
    """The recording: noise alone, then the speech in it; the signal-to-noise ratio is that of the second part."""
    mixed = mix(speech, noise[LEAD:], snr)
    scale = (mixed - speech).norm() / noise[LEAD:].norm()
    return torch.cat([scale * noise[:LEAD], mixed])


@cache
def speech_dictionary() -> Tensor:
    """Spectra of clean training speech, for the NMF baseline."""
    training = corpus("librispeech").train
    frames = torch.cat([training[i] for i in evenly(list(range(len(training))), 160)])
    return factorise(frames, DICTIONARY_RANK, num_iterations=60, generator=torch.Generator().manual_seed(0)).W


def nmf_baseline(noisy: Tensor, generator: Generator) -> Tensor:
    """Semi-supervised NMF."""
    return nmf_wiener(noisy, speech_dictionary(), rank=NOISE_RANK, generator=generator).waveform


def deep(model: DVAE, method: str, noisy: Tensor, generator: Generator) -> Tensor:
    """A model of this library."""
    return enhance(model, noisy, method=method, generator=generator).waveform  # type: ignore[arg-type]


def contestants(names: list[str], methods: list[str]) -> Iterator[tuple[str, str, Method]]:
    """Everything that is compared: model, method, and what enhances."""
    yield "none", "noisy", lambda noisy, generator: noisy
    yield "none", "wiener", lambda noisy, generator: classical_wiener(noisy).waveform
    yield "nmf", "wiener", nmf_baseline
    for name in names:
        model = DVAE.from_pretrained(name)
        for method in methods:
            yield name, method, partial(deep, model, method)


def score(method: Method, name: str, noise: str, snr: float, seed: int, number: int) -> Record:
    """One row: all targets of a corpus in one noise at one signal-to-noise ratio."""
    clean = targets(name, number)
    noisy = [in_noise(s, make_noise(noise, name, i, seed), snr) for i, s in enumerate(clean)]
    method(noisy[0], torch.Generator())  # what is done once, such as the dictionary, counts for none
    started = time.process_time()
    enhanced = [
        method(x, torch.Generator().manual_seed(derive_seed(seed, "enhance", name, noise, i)))[LEAD:]
        for i, x in enumerate(noisy)
    ]
    seconds = (time.process_time() - started) / len(noisy)
    table = speech_metrics(clean, enhanced, metrics=SPEECH_METRICS, num_workers=0)
    record: Record = {"utterances": len(clean)}
    for line in table.summary():
        record[line.metric] = round(line.mean, 4)
        record[f"{line.metric}_se"] = round(line.std / math.sqrt(line.count), 4)
    return {**record, "seconds": round(seconds, 3)}


def load() -> list[Record]:
    """The rows so far."""
    return json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else []


def save(rows: list[Record]) -> None:
    """Write all rows, one a line."""
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(RESULTS, ("[\n  " + ",\n  ".join(map(json.dumps, rows)) + "\n]\n").encode())


def main() -> None:
    """Command line."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("models", nargs="*", default=list(MODELS), metavar="MODEL", help=", ".join(MODELS))
    options.add_argument("--methods", nargs="+", default=["peem", "vem"], choices=["peem", "vem"])
    options.add_argument("--utterances", type=int, default=8, help="of librispeech; half as many of prompts")
    options.add_argument("--seed", type=int, default=0)
    chosen = options.parse_args()
    rows = load()
    done = {
        json.dumps([row[key] for key in ("model", "method", "corpus", "noise", "snr_db", "seed", "utterances")])
        for row in rows
    }
    jobs = [
        (method, [model, label, name, noise, snr, chosen.seed, number])
        for model, label, method in contestants(chosen.models, chosen.methods)
        for name, number in (("librispeech", chosen.utterances), ("prompts", max(1, chosen.utterances // 2)))
        for noise in NOISES
        for snr in SNRS
    ]
    missing = [(method, key) for method, key in jobs if json.dumps(key) not in done]
    started = time.monotonic()
    for i, (method, key) in enumerate(missing, start=1):
        model, label, name, noise, snr, seed, number = key
        record = score(method, name, noise, snr, seed, number)
        about = {"model": model, "method": label, "corpus": name, "noise": noise, "snr_db": snr, "seed": seed}
        rows.append({**about, **record})
        save(rows)
        left = (time.monotonic() - started) / i * (len(missing) - i) / 60
        print(f"{i}/{len(missing)}, about {left:.0f} min left: {rows[-1]}", flush=True)


if __name__ == "__main__":
    main()
