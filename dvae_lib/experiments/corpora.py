"""The corpora of the benchmark, with checksums: three parts, and nobody in the test part is in another."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from dvae_lib.data.catalogue import checksum, list_corpora
from dvae_lib.data.loading import load, source_names
from dvae_lib.data.sequences import SequenceDataset
from dvae_lib.data.speech import Utterance
from dvae_lib.experiments.protocol import BudgetName, Experiment, Protocol, protocol

__all__ = ["ExperimentData", "checksum", "data_facts", "evenly", "load_experiment"]


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
        return data_facts(train=self.train, validation=self.validation, test=self.test)


def experiment_of(name: str) -> Experiment:
    """Which experiment a corpus belongs to; what has no known name is a folder of speech."""
    return "motion" if name in {corpus.name for corpus in list_corpora("motion")} else "speech"


def load_experiment(name: str, budget: BudgetName | Protocol = "book") -> ExperimentData:
    """A corpus as the benchmark uses it.

    Arguments:
        name: "librispeech", "prompts", "wsj0" or a folder of audio; "mocap" (CMU and HDM05 together), "cmu", "hdm05"
            or "h36m"; "librispeech-excerpt" or "mocap-excerpt", which travel with the library.
        budget: See `dvae_lib.experiments.protocol`; or a protocol itself.

    Raises:
        MissingCorpusError: It is not here; the message says how to get it.
        ValueError: Too few speakers or actors for three parts, or damaged files.
    """
    chosen = budget if isinstance(budget, Protocol) else protocol(experiment_of(name), budget)
    data = load(
        name if name in source_names() else Path(name),
        sequence_length=chosen.sequence_length,
        hop=chosen.hop,
        limit=chosen.limit,
        progress=False,
    )
    said = data.metadata["data"]
    metadata = {"licence": said["licence"], "attribution": said["attribution"]}
    if "front_end" in data.metadata:
        metadata["front_end"] = data.metadata["front_end"]
    test, kept = _some(data.test, chosen.test_limit)
    recordings = tuple(data.test_recordings[i] for i in kept) if data.kind == "speech" else ()
    return ExperimentData(name, chosen.experiment, data.train, data.validation, test, recordings, metadata)


def _some(data: SequenceDataset, limit: int | None) -> tuple[SequenceDataset, list[int]]:
    """So many sequences, evenly over all of them, and which they are."""
    kept = evenly(len(data), limit)
    if len(kept) == len(data):
        return data, kept
    return SequenceDataset([data[i] for i in kept], names=[data.names[i] for i in kept]), kept


def evenly(number: int, limit: int | None) -> list[int]:
    """At most so many of the numbers from zero on, evenly over all of them.

    Example:
        >>> evenly(9, 3), evenly(2, 3)
        ([0, 4, 8], [0, 1])
    """
    if limit is None or limit >= number:
        return list(range(number))
    chosen: list[int] = torch.linspace(0, number - 1, limit).long().tolist()
    return chosen


def data_facts(**parts: SequenceDataset) -> dict[str, Any]:
    """Sizes and checksums of parts of a corpus, by their names."""
    return {
        name: {"sequences": len(data), "frames": data.num_frames, "sha256": checksum(data)}
        for name, data in parts.items()
    }
