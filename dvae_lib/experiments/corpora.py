"""The corpora of the benchmark, with checksums: three parts, and nobody in the test part is in another."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from dvae_lib.data.catalogue import list_corpora
from dvae_lib.data.corpora import Utterance, load_corpus
from dvae_lib.data.sequences import SequenceDataset
from dvae_lib.data.sources import MOTION
from dvae_lib.experiments.protocol import BudgetName, Experiment, Protocol, protocol

__all__ = ["ExperimentData", "checksum", "load_experiment"]


@dataclass(frozen=True)
class ExperimentData:
    """Sequences to train with and to test on.

    Attributes:
        name: Of the corpus.
        experiment: "speech" or "motion".
        train: Training sequences of equal length.
        validation: Sequences that decide when to stop.
        test: What is tested: whole utterances of speech, sequences of motion.
        recordings: The files behind `test`, where it is speech.
        metadata: What a model says of its data: front end, licence, attribution.
    """

    name: str
    experiment: Experiment
    train: SequenceDataset
    validation: SequenceDataset
    test: SequenceDataset
    recordings: tuple[Utterance, ...]
    metadata: dict[str, Any]

    @cached_property
    def facts(self) -> dict[str, Any]:
        """Sizes and checksums of the parts."""
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        return {
            name: {"sequences": len(data), "frames": data.num_frames, "sha256": checksum(data)}
            for name, data in parts.items()
        }


def experiment_of(name: str) -> Experiment:
    """Which experiment a corpus belongs to; what has no known name is a folder of speech."""
    return "motion" if name in MOTION else "speech"


def load_experiment(name: str, budget: BudgetName = "book") -> ExperimentData:
    """A corpus as the benchmark uses it.

    Arguments:
        name: "librispeech", "prompts", "wsj0" or a folder of audio; "mocap" (CMU and HDM05 together), "cmu", "hdm05"
            or "h36m"; "librispeech-excerpt" or "mocap-excerpt", which travel with the library.
        budget: See `dvae_lib.experiments.protocol`.

    Raises:
        MissingCorpusError: It is not here; the message says how to get it.
        ValueError: Too few speakers or actors for three parts, or damaged files.
    """
    chosen = protocol(experiment_of(name), budget)
    return _motion(name, chosen) if chosen.experiment == "motion" else _speech(name, chosen)


def _speech(name: str, chosen: Protocol) -> ExperimentData:
    known = {info.name for info in list_corpora("speech")}
    corpus = load_corpus(
        name if name in known else Path(name),
        sequence_length=chosen.sequence_length,
        hop=chosen.hop,
        max_utterances=chosen.limit,
        progress=False,
    )
    metadata = {
        "front_end": corpus.front_end.settings.to_dict(),
        "licence": corpus.licence,
        "attribution": corpus.attribution,
    }
    test, kept = _some(corpus.test, chosen.test_limit)
    utterances = corpus.utterances("test")
    recordings = tuple(utterances[i] for i in kept)
    return ExperimentData(name, "speech", corpus.train, corpus.validation, test, recordings, metadata)


def _motion(name: str, chosen: Protocol) -> ExperimentData:
    parts = MOTION[name](sequence_length=chosen.sequence_length, hop=chosen.hop)
    test, _ = _some(parts.test, chosen.test_limit)
    which = ("cmu", "hdm05") if name.startswith("mocap") else (name,)
    infos = {info.name: info for info in list_corpora("motion")}
    metadata = {
        "licence": "; ".join(infos[part].licence for part in which),
        "attribution": "; ".join(infos[part].attribution for part in which),
    }
    return ExperimentData(name, "motion", parts.train, parts.validation, test, (), metadata)


def _some(data: SequenceDataset, limit: int | None) -> tuple[SequenceDataset, list[int]]:
    """So many sequences, evenly over all of them, and which they are."""
    kept = list(range(len(data)))
    if limit is None or limit >= len(data):
        return data, kept
    kept = torch.linspace(0, len(data) - 1, limit).long().tolist()
    return SequenceDataset([data[i] for i in kept], names=[data.names[i] for i in kept]), kept


def checksum(data: SequenceDataset) -> str:
    """SHA-256 of the names, the lengths and all values (as 32-bit floats), the first 16 digits."""
    digest = hashlib.sha256(repr((data.names, data.lengths.tolist())).encode())
    for i in range(len(data)):
        digest.update(data[i].contiguous().numpy().astype("<f4").tobytes())
    return digest.hexdigest()[:16]
