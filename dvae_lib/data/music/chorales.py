"""Bach's four-part chorales: the scores that the package music21 carries, as piano rolls."""

import json
from collections.abc import Sequence
from functools import wraps
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dvae_lib.data.catalogue import Corpus, register_corpus
from dvae_lib.data.music.musicxml import read_musicxml
from dvae_lib.data.music.piano_roll import Note, piano_roll, transpose
from dvae_lib.data.places import cache_folder, one_at_a_time, whole_or_nothing
from dvae_lib.data.sequences import SequenceDataset
from dvae_lib.data.splits import Splits
from dvae_lib.resources import resource_path

__all__ = ["load_chorales"]


CACHE_FORMAT = 1


VOICES = ("Soprano", "Alto", "Tenor", "Bass")


def load_chorales(
    *,
    steps_per_quarter: int = 1,
    sequence_length: int | None = None,
    hop: int | None = None,
    transpose_training: Sequence[int] = (0,),
) -> Splits:
    """Load Bach's four-part chorales as piano rolls, ``(T, 88)`` of zeros and ones.

    400 scores of music21's corpus with the voices soprano, alto, tenor and bass, in the key they are written in;
    repeats are not played twice. The scores are read once; their notes are then cached.

    Arguments:
        steps_per_quarter: Time steps in a quarter note; 1 is the grid that the literature uses.
        sequence_length: Cut into pieces of that many steps; None keeps chorales whole.
        hop: Steps between the starts of two pieces; by default `sequence_length`.
        transpose_training: Semitones; the training part holds each chorale once for each of them, where its notes
            stay on the keyboard. ``range(-5, 7)`` gives all twelve keys.

    Returns:
        Training, validation and test part (280, 60 and 60 chorales, roughly). Chorales on the same tune are never in
        two parts.

    Raises:
        ImportError: Music21 is missing.
        ValueError: This version of music21 lacks scores of the list.
    """
    listed = json.loads(resource_path("splits", "chorales.json").read_text(encoding="utf-8"))
    notes = _notes([name for part in Splits._fields for name in listed[part]])
    parts: dict[str, SequenceDataset] = {}
    for part in Splits._fields:
        rolls: dict[str, NDArray[np.uint8]] = {}
        for name in listed[part]:
            roll = piano_roll(notes[name], steps_per_quarter=steps_per_quarter)
            stem = name.rsplit(".", 1)[0]
            for semitones in transpose_training if part == "train" else (0,):
                rolls[f"{stem}{semitones:+d}" if semitones else stem] = transpose(roll, semitones)
        parts[part] = SequenceDataset(rolls.values(), names=list(rolls), sequence_length=sequence_length, hop=hop)
    return Splits(**parts)


def _notes(names: Sequence[str]) -> dict[str, list[Note]]:
    """The notes of the four voices of each score in music21's corpus, by file name; from the cache, once read.

    The files are read by `read_musicxml`: music21's own parser builds a score to work on, which takes several times
    as long, and gives the same notes.
    """
    corpus = _corpus_folder()
    if corpus is None:
        raise ImportError("the chorales come with music21: pip install 'dvae-lib[music]'")
    package = distribution("music21")
    folder = cache_folder() / "chorales" / f"music21-{package.version}-{CACHE_FORMAT}"
    with one_at_a_time(folder.with_suffix(".lock")):
        if not folder.is_dir():
            missing = [name for name in names if not (corpus / name).is_file()]
            if missing:
                raise ValueError(
                    f"{corpus} (music21 {package.version}) lacks {len(missing)} of the {len(names)} chorales "
                    f"({', '.join(missing[:3])}, ...); install another version: pip install -U music21"
                )
            notes = {}
            for name in names:
                score = read_musicxml(corpus / name)
                notes[name] = [note for voice in VOICES for note in score[voice]]
            with whole_or_nothing(folder) as draft:
                (draft / "notes.json").write_text(json.dumps(notes))
    cached = json.loads((folder / "notes.json").read_text())
    return {name: [(onset, duration, key) for onset, duration, key in piece] for name, piece in cached.items()}


def _corpus_folder() -> Path | None:
    """Bach's folder in music21's corpus, without importing the package; None where it is not installed."""
    try:
        return Path(str(distribution("music21").locate_file("music21"))) / "corpus" / "bach"
    except PackageNotFoundError:
        return None


@wraps(load_chorales)
def _load(folder: Path, **options: Any) -> Splits:
    return load_chorales(**options)


register_corpus(
    Corpus(
        name="chorales",
        kind="music",
        about="Bach's four-part chorales as piano rolls of 88 keys",
        size="400 chorales, 22,400 quarter notes",
        licence="public domain music; encodings as music21's corpus licence says",
        attribution="music21 (Cuthbert and Ariza, 2010); encodings by Margaret Greentree and others",
        instructions="They come with the package music21: pip install 'dvae-lib[music]'",
        load=_load,
        find=_corpus_folder,
        extra="music",
    )
)
