"""A corpus of speech: recordings in three parts without a common speaker, as sequences of power spectra."""

import csv
import hashlib
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

from jaxtyping import Float
from torch import Tensor

from dvae_lib.data.catalogue import Corpus, list_corpora, register_corpus
from dvae_lib.data.sequences import SequenceDataset
from dvae_lib.data.speech.audio import AUDIO_SUFFIXES, AudioError
from dvae_lib.data.speech.features import power_spectrograms
from dvae_lib.data.speech.front_end import Analysis, FrontEndSettings, SpeechFrontEnd

__all__ = [
    "PARTS",
    "Part",
    "SpeechCorpus",
    "Utterance",
    "damaged",
    "from_list",
    "read_list",
    "register_speech",
    "speech_loader",
]


logger = logging.getLogger("dvae_lib.data")


Part = Literal["train", "validation", "test"]


PARTS: tuple[Part, ...] = get_args(Part)


@dataclass(frozen=True)
class Utterance:
    """One recording.

    Attributes:
        name: Its path inside the corpus.
        speaker: Who speaks.
        part: ``"train"``, ``"validation"`` or ``"test"``. No speaker is in two of them.
        path: The file.
    """

    name: str
    speaker: str
    part: Part
    path: Path


class SpeechCorpus:
    """Recordings in three parts, by default without a common speaker, and their power spectrograms.

    ``train`` and ``validation`` are cut into sequences, ``test`` holds whole utterances. Each is computed when
    it is first asked for, kept in the cache, and mapped into memory from then on.

    Arguments:
        name: Of the corpus.
        utterances: Its recordings.
        front_end: Makes frames of them.
        sequence_length: Frames of a training sequence. Utterances with fewer are skipped in every part.
        hop: Frames between the starts of two training sequences; by default ``sequence_length``.
        licence: Of the recordings.
        attribution: Whom to name where they are published.
        progress: Show progress bars.
        speakers_apart: Refuse a speaker who is in two parts.
    """

    def __init__(
        self,
        name: str,
        utterances: Sequence[Utterance],
        front_end: SpeechFrontEnd,
        *,
        sequence_length: int | None = 50,
        hop: int | None = None,
        licence: str = "unknown",
        attribution: str = "unknown",
        progress: bool = True,
        speakers_apart: bool = True,
    ) -> None:
        self.name, self.front_end, self.licence, self.attribution = name, front_end, licence, attribution
        self.sequence_length, self.hop, self.progress = sequence_length, hop, progress
        speakers: dict[str, str] = {}
        for utterance in utterances:
            if speakers_apart and speakers.setdefault(utterance.speaker, utterance.part) != utterance.part:
                raise ValueError(
                    f"Speaker {utterance.speaker} is in two parts of {name}: {speakers[utterance.speaker]} and "
                    f"{utterance.part} (with {utterance.name}). Parts must not share a speaker"
                )
        self._listed: dict[str, tuple[Utterance, ...]] = {
            part: tuple(u for u in utterances if u.part == part) for part in PARTS
        }
        if empty := [part for part in PARTS if not self._listed[part]]:
            raise ValueError(f"{name} has no utterance for {', '.join(empty)}; each part needs one at least")

    def __repr__(self) -> str:
        sizes = ", ".join(f"{part}: {len(self._listed[part])} utterances" for part in PARTS)
        return f"SpeechCorpus({self.name!r}, {sizes})"

    @cached_property
    def train(self) -> SequenceDataset:
        """Training sequences of ``sequence_length`` frames."""
        return self._dataset("train")

    @cached_property
    def validation(self) -> SequenceDataset:
        """Validation sequences of ``sequence_length`` frames."""
        return self._dataset("validation")

    @cached_property
    def test(self) -> SequenceDataset:
        """Whole test utterances; number i is ``utterances("test")[i]``."""
        return self._dataset("test")

    def dataset(self, part: str) -> SequenceDataset:
        """The part of that name."""
        if part not in PARTS:
            raise ValueError(f"A part is one of {', '.join(PARTS)}, not {part!r}")
        found: SequenceDataset = getattr(self, part)
        return found

    def utterances(self, part: str) -> tuple[Utterance, ...]:
        """The recordings of a part, without those that are too short."""
        skipped = set(self.dataset(part).skipped_names)
        return tuple(u for u in self._listed[part] if u.name not in skipped)

    def utterance(self, name: str) -> Utterance:
        """The recording of that name; a piece's name, as in ``a.wav[50:100]``, will do."""
        wanted = re.sub(r"\[\d+:\d+\]$", "", name)
        for part in PARTS:
            for utterance in self._listed[part]:
                if utterance.name == wanted:
                    return utterance
        raise ValueError(f"{self.name} has no utterance {wanted!r}")

    def waveform(self, utterance: Utterance | str) -> Float[Tensor, " samples"]:
        """The prepared waveform (one channel, trimmed, normalised) from which the frames were made."""
        found = self.utterance(utterance) if isinstance(utterance, str) else utterance
        return self.front_end.read(found.path)

    def analyse(self, utterance: Utterance | str) -> Analysis:
        """Power, phase and length of a recording: what is needed to get back to a waveform."""
        return self.front_end.analyse(self.waveform(utterance))

    def summary(self) -> str:
        """A table of the parts: speakers, utterances, hours used, sequences, what was skipped."""
        rows = [f"{'part':<12}{'speakers':>9}{'utterances':>12}{'skipped':>9}{'sequences':>11}{'minutes':>9}"]
        for part in PARTS:
            data, used = self.dataset(part), self.utterances(part)
            minutes = self.front_end.settings.seconds(data.num_frames) / 60
            speakers = len({u.speaker for u in used})
            rows.append(f"{part:<12}{speakers:>9}{len(used):>12}{data.skipped:>9}{len(data):>11}{minutes:>9.1f}")
        return "\n".join([f"{self.name} ({self.licence})", *rows])

    def _dataset(self, part: Part) -> SequenceDataset:
        listed = self._listed[part]
        label = f"{self.name}, {part}"
        features = power_spectrograms([u.path for u in listed], self.front_end, label=label, progress=self.progress)
        cut = part != "test"
        data = SequenceDataset.from_frames(
            *features,
            names=[u.name for u in listed],
            sequence_length=self.sequence_length if cut else None,
            hop=self.hop if cut else None,
            min_length=self.sequence_length,
            report_skipped=False,
        )
        if data.skipped:
            seconds = self.front_end.settings.seconds(self.sequence_length or 1)
            logger.log(
                # What is skipped of a corpus known by name is part of its description; of a reader's folder, news.
                logging.INFO if self.name in {corpus.name for corpus in list_corpora("speech")} else logging.WARNING,
                "%s: skipped %d of %d utterances, which are shorter than a sequence (%d frames, %.2f s).",
                *(label, data.skipped, len(listed), self.sequence_length or 1, seconds),
            )
        return data


def register_speech(
    list_recordings: Callable[[Path], list[Utterance]],
    *,
    settings: FrontEndSettings | None = None,
    sequence_length: int | None = 50,
    speakers_apart: bool = True,
    **about: Any,
) -> Corpus:
    """Register a corpus of speech, from what lists its recordings.

    Arguments:
        list_recordings: Finds the recordings in the corpus's folder.
        settings: Of the front end where nobody asks for others; by default the review's.
        sequence_length: Frames of a training sequence where nobody asks for another number.
        speakers_apart: Refuse a speaker who is in two parts.
        about: The other fields of `Corpus`, without its kind and its loader, which is that of `speech_loader`.

    Returns:
        The corpus.
    """
    load = speech_loader(
        list_recordings,
        name=about["name"],
        licence=about["licence"],
        attribution=about["attribution"],
        own_settings=settings,
        speakers_apart=speakers_apart,
    )
    return register_corpus(Corpus(kind="speech", load=load, sequence_length=sequence_length, **about))


def speech_loader(
    list_recordings: Callable[[Path], list[Utterance]],
    name: str = "",
    licence: str = "unknown",
    attribution: str = "unknown",
    own_settings: FrontEndSettings | None = None,
    speakers_apart: bool = True,
) -> Callable[..., SpeechCorpus]:
    """What reads a corpus of speech from its folder, with the options of `load_corpus`.

    Arguments:
        list_recordings: Finds the recordings in the folder.
        name: Of the corpus.
        licence: Of its recordings.
        attribution: Whom to name where they are published.
        own_settings: Of the front end where nobody asks for others.
        speakers_apart: Refuse a speaker who is in two parts.
    """

    def load(
        folder: Path,
        *,
        sequence_length: int | None = 50,
        hop: int | None = None,
        settings: FrontEndSettings | None = None,
        split: str | Path | None = None,
        limit: int | None = None,
        progress: bool = True,
        called: str | None = None,
    ) -> SpeechCorpus:
        """The recordings of the folder; under another name (`called`) they are a reader's, of unknown licence."""
        recordings = list_recordings(folder) if split is None else from_list(folder, Path(split))
        return SpeechCorpus(
            called or name,
            recordings if limit is None else _thin(recordings, limit),
            SpeechFrontEnd(settings or own_settings),
            sequence_length=sequence_length,
            hop=hop,
            licence=licence if called is None else "unknown",
            attribution=attribution if called is None else "unknown",
            progress=progress,
            speakers_apart=speakers_apart,
        )

    return load


def _thin(utterances: list[Utterance], number: int) -> list[Utterance]:
    """So many of each part, chosen by a hash of their names: a mixture, and the same one everywhere."""
    if number < 1:
        raise ValueError(f"at most so many recordings of a part: the number is at least 1, not {number}")
    kept: set[str] = set()
    for part in PARTS:
        names = (u.name for u in utterances if u.part == part)
        kept.update(sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())[:number])
    return [u for u in utterances if u.name in kept]


def read_list(file: Path) -> list[dict[str, str]]:
    """The rows of a split list, a CSV file with the columns utterance, speaker, part, and perhaps others."""
    with file.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    needed = {"utterance", "speaker", "part"}
    if not rows or not needed <= rows[0].keys():
        raise ValueError(f"{file} is no split list: expected a CSV file with the columns utterance, speaker, part")
    for line, row in enumerate(rows, start=2):
        if row["part"] not in PARTS:
            raise ValueError(f"{file}, line {line}: the part is one of {', '.join(PARTS)}, not {row['part']!r}")
    return rows


def damaged(folder: Path, file: Path) -> list[str]:
    """The recordings of a split list with the column sha256 (16 digits) that are not in the folder, bit for bit."""
    return [
        row["utterance"]
        for row in read_list(file)
        if not (path := folder / row["utterance"]).is_file()
        or hashlib.sha256(path.read_bytes()).hexdigest()[:16] != row["sha256"]
    ]


def from_list(folder: Path, file: Path) -> list[Utterance]:
    """The recordings that a list names. Where it also gives a file's size, a file of another size is refused."""
    utterances: list[Utterance] = []
    problems: list[str] = []
    for row in read_list(file):
        path = folder / row["utterance"]
        if not path.suffix or not path.is_file():
            path = next((p for s in sorted(AUDIO_SUFFIXES) if (p := folder / f"{row['utterance']}{s}").is_file()), path)
        if not path.is_file():
            problems.append(f"{path} is missing")
        elif "bytes" in row and path.stat().st_size != int(row["bytes"]):
            problems.append(f"{path} has {path.stat().st_size:,} bytes instead of {int(row['bytes']):,}")
        part: Part = row["part"]  # type: ignore[assignment]
        utterances.append(Utterance(row["utterance"], row["speaker"], part, path))
    if problems:
        raise AudioError(
            f"{len(problems)} of the {len(utterances)} recordings listed in {file.name} are not as expected; "
            f"{'; '.join(problems[:3])}. Delete {folder} and fetch the corpus again, or give a list of what is there"
        )
    return utterances
