"""Bach's four-part chorales as piano rolls, and a small organ to hear them.

The scores are those that the package music21 carries. A roll samples a score on a grid of equal time steps: entry
``[t, p]`` is one where the key with MIDI number ``21 + p`` sounds at step t. A piano's 88 keys make 88 entries.
"""

import json
import math
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from zipfile import BadZipFile, ZipFile

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from dvae_lib.data.catalogue import CorpusInfo
from dvae_lib.data.places import cache_folder, one_at_a_time, whole_or_nothing
from dvae_lib.data.sequences import SequenceDataset, Splits
from dvae_lib.resources import resource_path

__all__ = [
    "LOWEST_KEY",
    "NUM_KEYS",
    "load_chorales",
    "piano_roll",
    "read_musicxml",
    "roll_to_audio",
    "transpose",
]

LOWEST_KEY = 21  # MIDI number of A0, the piano's lowest key
NUM_KEYS = 88
CACHE_FORMAT = 1
_SEMITONES = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
VOICES = ("Soprano", "Alto", "Tenor", "Bass")

Note = tuple[int | float, int | float, int]
"""Onset and duration in quarter notes, MIDI number."""


def piano_roll(notes: Iterable[Note], *, steps_per_quarter: int = 1) -> NDArray[np.uint8]:
    """Sample notes on a grid: which keys sound at each step.

    A key that is held and one that is struck again look the same, so ties need no care.

    Arguments:
        notes: onset and duration in quarter notes, and MIDI number.
        steps_per_quarter: 1 for a grid of quarter notes, 2 for eighths, 4 for sixteenths. Notes that neither start
            on the grid nor last beyond its next step (passing notes, on a grid of quarters) are left out.

    Returns:
        Zeros and ones, ``(T, 88)``, up to the end of the last note.

    Raises:
        ValueError: there is no note, or one that a piano does not have.

    Example:
        >>> roll = piano_roll([(0, 2, 60), (1, 1, 64)])
        >>> roll.shape, [np.flatnonzero(step).tolist() for step in roll]
        ((2, 88), [[39], [39, 43]])
    """
    if steps_per_quarter < 1:
        raise ValueError(f"steps_per_quarter must be at least 1, got {steps_per_quarter}")
    # Triplets are thirds, which floating point misses by a hair on either side.
    spans = [
        (
            math.ceil(onset * steps_per_quarter - 1e-6),
            math.ceil((onset + duration) * steps_per_quarter - 1e-6),
            key - LOWEST_KEY,
        )
        for onset, duration, key in notes
    ]
    if not spans:
        raise ValueError("no notes: a piano roll needs at least one")
    outside = [row + LOWEST_KEY for _, _, row in spans if not 0 <= row < NUM_KEYS]
    if outside:
        raise ValueError(f"MIDI numbers {sorted(set(outside))} lie outside the piano's 21 to 108; transpose first")
    if any(start < 0 for start, _, _ in spans):
        raise ValueError(f"a note begins at {min(onset for onset, _, _ in notes)} quarters; a roll begins at 0")
    roll = np.zeros((max(end for _, end, _ in spans), NUM_KEYS), dtype=np.uint8)
    for start, end, row in spans:
        roll[start:end, row] = 1
    return roll


def transpose(roll: NDArray[np.uint8], semitones: int) -> NDArray[np.uint8]:
    """Move a piece up (or down, if negative) by some semitones.

    Raises:
        ValueError: a note would leave the keyboard.
    """
    moved = np.zeros_like(roll)
    source = roll[:, max(0, -semitones) : NUM_KEYS - max(0, semitones)]
    moved[:, max(0, semitones) : NUM_KEYS - max(0, -semitones)] = source
    if moved.sum() != roll.sum():
        raise ValueError(f"moved by {semitones} semitones, notes would leave the keyboard's 88 keys")
    return moved


def roll_to_audio(
    roll: Float[np.ndarray, "time 88"] | NDArray[Any],
    *,
    seconds_per_step: float = 0.6,
    sample_rate: int = 16_000,
    num_harmonics: int = 6,
) -> NDArray[np.float64]:
    """Play a roll on a small organ: each note is a sum of harmonics with a soft attack and release.

    A key that sounds in successive steps is held, not struck again. Equal temperament, A4 = 440 Hz.

    Arguments:
        roll: zeros and ones, ``(T, 88)``.
        seconds_per_step: duration of a step.
        sample_rate: in Hz.
        num_harmonics: partials per note; the k-th has amplitude k^-1.5, and those above half the sample rate are
            left out.

    Returns:
        Waveform within [-0.9, 0.9], ``(T * seconds_per_step + 0.3 s,)``; the last 0.3 s are the release.

    Raises:
        ValueError: the roll is not ``(T, 88)`` or holds values other than 0 and 1.
    """
    values = np.asarray(roll)
    if values.ndim != 2 or values.shape[1] != NUM_KEYS or not np.isin(values, (0, 1)).all():
        raise ValueError(
            f"expected a roll of zeros and ones, (T, {NUM_KEYS}); got shape {values.shape} with values in "
            f"[{values.min(initial=0)}, {values.max(initial=0)}]; threshold or sample probabilities first"
        )
    release, attack = 0.3, 0.02
    waveform = np.zeros(round((len(values) * seconds_per_step + release) * sample_rate))
    # Rows of +1 where a run begins and -1 one step after it ends.
    change = np.diff(np.pad(values.astype(np.int8), ((1, 1), (0, 0))), axis=0)
    for row in np.flatnonzero(values.any(axis=0)):
        frequency = 440.0 * 2 ** ((row + LOWEST_KEY - 69) / 12)
        partials = np.arange(1, num_harmonics + 1)
        partials = partials[partials * frequency < sample_rate / 2]
        starts, ends = np.flatnonzero(change[:, row] > 0), np.flatnonzero(change[:, row] < 0)
        for start, end in zip(starts, ends, strict=True):
            held = (end - start) * seconds_per_step
            time = np.arange(round((held + release) * sample_rate)) / sample_rate
            tone = (np.sin(2 * np.pi * frequency * time[:, None] * partials) * partials**-1.5).sum(axis=1)
            envelope = np.minimum(time / attack, 1) * np.exp(-12 * np.maximum(time - held, 0) / release)
            envelope *= np.exp(-0.25 * time)
            first = round(start * seconds_per_step * sample_rate)
            part = slice(first, first + len(time))
            waveform[part] += (tone * envelope)[: len(waveform[part])]
    peak = np.abs(waveform).max(initial=0.0)
    return waveform * (0.9 / peak) if peak > 0 else waveform


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
        steps_per_quarter: time steps in a quarter note; 1 is the grid that the literature uses.
        sequence_length: cut into pieces of that many steps; None keeps chorales whole.
        hop: steps between the starts of two pieces; by default `sequence_length`.
        transpose_training: semitones; the training part holds each chorale once for each of them, where its notes
            stay on the keyboard. ``range(-5, 7)`` gives all twelve keys.

    Returns:
        Training, validation and test part (280, 60 and 60 chorales, roughly). Chorales on the same tune are never in
        two parts.

    Raises:
        ImportError: music21 is missing.
        ValueError: this version of music21 lacks scores of the list.
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


def read_musicxml(path: str | Path) -> dict[str, list[Note]]:
    """Read the notes of a score in MusicXML, compressed (``.mxl``) or not.

    Every part in time order, at the pitch that sounds (transposing instruments too), repeats not played twice, grace
    notes (which take no time) left out.

    Arguments:
        path: the file.

    Returns:
        For each part, by name, its notes: onset and duration in quarter notes, and MIDI number. Parts of the same
        name are numbered, "Violin" and "Violin 2".

    Raises:
        ValueError: the file is damaged or of another format; the message names it.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
        if path.suffix.lower() == ".mxl":
            with ZipFile(path) as archive:
                container = ElementTree.fromstring(archive.read("META-INF/container.xml"))
                rootfile = container.find(".//{*}rootfile")
                content = archive.read("" if rootfile is None else rootfile.get("full-path", ""))
        score = _without_namespaces(ElementTree.fromstring(content))
    except (BadZipFile, KeyError, ElementTree.ParseError) as error:
        raise ValueError(f"{path} is not a readable MusicXML file: {error}") from error
    names = {p.get("id"): (p.findtext("part-name") or "").strip() for p in score.iterfind("part-list/score-part")}
    parts: dict[str, list[Note]] = {}
    for part in score.iterfind("part"):
        stem = name = names.get(part.get("id"), "")
        number = 1
        while name in parts:
            number += 1
            name = f"{stem} {number}"
        try:
            parts[name] = _part_notes(part)
        except (TypeError, ValueError, KeyError, ZeroDivisionError) as error:
            raise ValueError(f"{path}: part {name!r} is damaged: {error!r}") from error
    if not parts:
        raise ValueError(f"{path} holds no part; a score in MusicXML's score-partwise layout was expected")
    return parts


def _without_namespaces(score: ElementTree.Element) -> ElementTree.Element:
    for element in score.iter():
        if isinstance(element.tag, str):  # not a comment
            element.tag = element.tag.rpartition("}")[2]
    return score


def _part_notes(part: ElementTree.Element) -> list[Note]:
    divisions, now, transposed = 1.0, 0.0, 0
    notes: list[Note] = []
    for measure in part.iterfind("measure"):
        end = onset = now
        for element in measure:
            if element.tag == "attributes":
                divisions = float(element.findtext("divisions", str(divisions)))
                change = element.find("transpose")
                if change is not None:  # from what is written to what sounds
                    semitones = float(change.findtext("chromatic", "0"))
                    transposed = round(semitones + 12 * float(change.findtext("octave-change", "0")))
            elif element.tag in ("note", "backup", "forward") and element.find("grace") is None:
                duration = float(element.findtext("duration", "")) / divisions
                if not math.isfinite(duration):
                    raise ValueError(f"a duration of {duration} quarters")
                if element.tag == "backup":
                    now -= duration
                    continue
                if element.find("chord") is None:
                    onset, now = now, now + duration
                end = max(end, now)
                pitch = element.find("pitch")
                if pitch is not None and duration > 0:
                    alter = round(float(pitch.findtext("alter", "0")))
                    step = _SEMITONES[pitch.findtext("step", "")]
                    written = 12 * (int(pitch.findtext("octave", "")) + 1) + step + alter
                    notes.append((onset, duration, written + transposed))
        now = end
    return notes


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


CORPORA = (
    CorpusInfo(
        name="chorales",
        kind="music",
        about="Bach's four-part chorales as piano rolls of 88 keys",
        size="400 chorales, 22,400 quarter notes",
        licence="public domain music; encodings as music21's corpus licence says",
        attribution="music21 (Cuthbert and Ariza, 2010); encodings by Margaret Greentree and others",
        instructions="They come with the package music21: pip install 'dvae-lib[music]'",
        find=_corpus_folder,
    ),
)
"""What is known of the corpus, for `dvae_lib.data.list_corpora`."""
