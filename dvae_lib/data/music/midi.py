"""MIDI files as piano rolls, and piano rolls as MIDI files that any player plays."""

import logging
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dvae_lib.data.music.piano_roll import LOWEST_KEY, NUM_KEYS, Note
from dvae_lib.extras import needed
from dvae_lib.files import written_whole

__all__ = ["MIDI_SUFFIXES", "Midi", "Per", "midi_to_roll", "read_midi", "write_midi"]

logger = logging.getLogger("dvae_lib.data")

MIDI_SUFFIXES = frozenset((".mid", ".midi", ".smf"))
"""Endings of the files taken for MIDI in a folder."""

Per = Literal["quarter", "beat", "second"]
"""What the steps of a roll are counted by: quarter notes, beats (notes of the time signature's lower number) or
seconds."""

DRUMS = 9
"""The channel of General MIDI whose numbers are drums, not pitches; counted from 0."""

LONGEST = 10_000_000
"""Steps that a roll may have at most: a month at four a second."""

_TICKS = 480
_MICROSECONDS = 500_000  # of a quarter note where a file does not say: 120 a minute


Tempo = tuple[int | float, int | float]
"""A speed from some moment on: quarter notes from the start, and quarter notes a minute."""

TimeSignature = tuple[int | float, int, int]
"""A time signature from some moment on: quarter notes from the start, upper and lower number."""


@dataclass(frozen=True)
class Midi:
    """The notes of a MIDI file, and how fast they go.

    Attributes:
        tracks: For each track, by name, its notes: onset and duration in quarter notes, and MIDI number.
        tempos: The tempo at the start, and its changes.
        time_signatures: That at the start, and its changes.
    """

    tracks: dict[str, list[Note]]
    tempos: tuple[Tempo, ...]
    time_signatures: tuple[TimeSignature, ...]

    def roll(
        self,
        steps: float | int = 4,
        per: Per = "quarter",
        *,
        tracks: Sequence[str] | None = None,
        short: Literal["keep", "drop"] = "keep",
    ) -> NDArray[np.uint8]:
        """Which keys sound at each step: the tracks as one piano roll.

        A note begins and ends at the nearest step. A key that is held and one that is struck again look the same.

        Arguments:
            steps: How many to a quarter note, a beat or a second.
            per: "quarter", "beat" (in 6/8 an eighth) or "second" (by the file's tempos).
            tracks: Names of those to take; None takes all.
            short: What becomes of notes that would take no step: "keep" gives them the one nearest to their onset,
                "drop" leaves them out.

        Returns:
            Zeros and ones, ``(T, 88)``, from the file's start to the end of the last note.

        Raises:
            ValueError: Steps that are not positive; no such track; no note that a piano has; more than ten million
                steps, as a damaged file may ask for.

        Example:
            >>> midi = Midi({"right": [(0, 1, 60), (1, 0.05, 64)]}, ((0, 60),), ((0, 4, 4),))
            >>> midi.roll(2).shape, midi.roll(2, "second", short="drop").shape
            ((3, 88), (2, 88))
        """
        if not 0 < steps < float("inf"):
            raise ValueError(f"steps must be a positive number, got {steps}")
        if short not in ("keep", "drop"):
            raise ValueError(f"short must be 'keep' or 'drop', got {short!r}")
        unknown = [name for name in tracks or () if name not in self.tracks]
        if unknown or (tracks is not None and not len(tracks)):
            raise ValueError(f"no track {', '.join(unknown) or 'is asked for'}; there are {', '.join(self.tracks)}")
        position = self._clock(per)
        spans = []
        for onset, duration, key in _on_the_piano(n for name in tracks or self.tracks for n in self.tracks[name]):
            start, end = (_nearest(position(moment) * steps) for moment in (onset, onset + duration))
            if short == "keep":
                end = max(end, start + 1)
            if end > start:
                spans.append((start, end, key - LOWEST_KEY))
        if not spans:
            raise ValueError("there are no notes for a roll: choose other tracks, or keep short notes")
        length = max(end for _, end, _ in spans)
        if length > LONGEST:
            raise ValueError(
                f"the notes last {length:,} steps, and a roll has {LONGEST:,} at most. Choose fewer steps to a "
                f"{per}, or other tracks; if the music is not that long, the file is damaged: export it again"
            )
        roll = np.zeros((length, NUM_KEYS), dtype=np.uint8)
        for start, end, row in spans:
            roll[start:end, row] = 1
        return roll

    def _clock(self, per: Per) -> Any:
        """From quarter notes to what is counted: straight between changes of tempo or of time signature."""
        if per == "quarter":
            return lambda quarters: quarters
        if per not in ("beat", "second"):
            raise ValueError(f"per must be 'quarter', 'beat' or 'second', got {per!r}")
        rates = (
            [(onset, lower / 4) for onset, _, lower in self.time_signatures]
            if per == "beat"
            else [(onset, 60 / per_minute) for onset, per_minute in self.tempos]
        )
        onsets, counted = [onset for onset, _ in rates], [0.0]
        for (before, rate), after in zip(rates, onsets[1:], strict=False):
            counted.append(counted[-1] + (after - before) * rate)

        def position(quarters: float | int) -> float:
            k = max(bisect_right(onsets, quarters) - 1, 0)
            return counted[k] + (quarters - onsets[k]) * rates[k][1]

        return position


def _nearest(position: float | int) -> int:
    """The nearest step; of two, the later one: triplets are thirds, which floating point misses by a hair."""
    return int(np.floor(position + 0.5 + 1e-6))


def _on_the_piano(notes: Iterable[Note]) -> list[Note]:
    notes = list(notes)
    kept = [note for note in notes if LOWEST_KEY <= note[2] < LOWEST_KEY + NUM_KEYS]
    if len(kept) < len(notes):
        logger.warning(
            "%d of %d notes lie outside the piano's keys and are left out.", len(notes) - len(kept), len(notes)
        )
    return kept


def read_midi(path: str | Path, *, drums: bool = False) -> Midi:
    """The notes of a MIDI file.

    The notes of each track and channel stand together under the track's name; tracks of the same name are numbered,
    "Piano" and "Piano 2". A note that is struck again while it sounds ends there; one that is never released ends with
    its track. Pedals and loudness are not looked at.

    Arguments:
        path: The file, of type 0 or 1, with times in quarter notes.
        drums: Take channel 10 too, whose numbers are drums in General MIDI, not pitches.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is damaged, of another format, holds no notes, or its tracks do not run together (type 2).
        ImportError: The package mido is missing.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no MIDI file {path}")
    mido = needed("mido", "Reading MIDI", "midi")
    try:
        file = mido.MidiFile(path, charset="latin-1")
    except Exception as error:  # mido has no class of its own for what a damaged file leads to
        what = f"{type(error).__name__}: {error}".removesuffix(": ")
        raise ValueError(f"{path} is not a readable MIDI file ({what}). Export it again, or remove it") from error
    if file.type == 2:
        raise ValueError(f"{path} is of type 2, whose tracks do not run together. Save each as a file of type 0 or 1")
    if file.ticks_per_beat <= 0:
        raise ValueError(
            f"{path} counts frames of film (SMPTE), no quarter notes. Export it with ticks per quarter note"
        )
    tempos, signatures = {0: 6e7 / _MICROSECONDS}, {0: (4, 4)}
    tracks: dict[str, list[Note]] = {}
    for number, track in enumerate(file.tracks, start=1):
        by_channel = _track_notes(track, file.ticks_per_beat, tempos, signatures)
        if not drums:
            by_channel.pop(DRUMS, None)
        for channel, notes in sorted(by_channel.items()):
            stem = track.name.strip() or f"track {number}"
            if len(by_channel) > 1:
                stem += f", channel {channel + 1}"
            tracks[_unused(stem, tracks)] = notes
    if not tracks:
        raise ValueError(f"{path} holds no notes" + ("" if drums else " but drums, if any; drums=True takes these"))
    quarters = file.ticks_per_beat
    return Midi(
        tracks,
        tuple((tick / quarters, rate) for tick, rate in sorted(tempos.items())),
        tuple((tick / quarters, *signature) for tick, signature in sorted(signatures.items())),
    )


def _track_notes(
    track: Any, ticks_per_quarter: int, tempos: dict[int, float], signatures: dict[int, tuple[int, int]]
) -> dict[int, list[Note]]:
    """The notes of each channel; changes of tempo and of time signature are noted by their tick."""
    now = 0
    sounding: dict[tuple[int, int], int] = {}
    notes: dict[int, list[Note]] = {}

    def end(channel: int, key: int) -> None:
        start = sounding.pop((channel, key), None)
        if start is not None and now > start:
            onset, duration = start / ticks_per_quarter, (now - start) / ticks_per_quarter
            notes.setdefault(channel, []).append((onset, duration, key))

    for message in track:
        now += message.time
        if message.type == "set_tempo" and message.tempo > 0:
            tempos[now] = 6e7 / message.tempo
        elif message.type == "time_signature":
            signatures[now] = (message.numerator, message.denominator)
        elif message.type in ("note_on", "note_off"):
            end(message.channel, message.note)
            if message.type == "note_on" and message.velocity > 0:
                sounding[message.channel, message.note] = now
    for channel, key in list(sounding):
        end(channel, key)
    return {channel: sorted(found) for channel, found in notes.items()}


def _unused(stem: str, names: Iterable[str]) -> str:
    name, number = stem, 1
    while name in names:
        number += 1
        name = f"{stem} {number}"
    return name


def midi_to_roll(
    path: str | Path,
    steps: float | int = 4,
    per: Per = "quarter",
    *,
    tracks: Sequence[str] | None = None,
    short: Literal["keep", "drop"] = "keep",
) -> NDArray[np.uint8]:
    """A MIDI file as a piano roll, without drums: `read_midi`, and `Midi.roll`, whose arguments these are.

    Raises:
        ValueError, FileNotFoundError, ImportError: See there; the message names the file.
    """
    midi = read_midi(path)
    try:
        return midi.roll(steps, per, tracks=tracks, short=short)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def write_midi(
    path: str | Path,
    roll: Any,
    steps: float | int = 4,
    *,
    per_minute: float | int = 120,
    time_signature: tuple[int, int] = (4, 4),
    program: int = 0,
    velocity: int = 80,
) -> None:
    """Write a piano roll as a MIDI file of type 1. A key that sounds in successive steps is one note.

    Arguments:
        path: The file to be written.
        roll: Zeros and ones, ``(T, 88)``, from A0 up: an array or a tensor, such as a sample of a model.
        steps: How many to a quarter note.
        per_minute: Quarter notes a minute.
        time_signature: How many of which note make a bar.
        program: The instrument of General MIDI, counted from 0: 0 is a piano, 19 a church organ, 48 strings.
        velocity: Loudness, 1 to 127.

    Raises:
        ValueError: The roll is not ``(T, 88)`` of zeros and ones, a number lies outside its range, or a step is shorter
            than a tick (1/480 of a quarter note).
        ImportError: The package mido is missing.

    Example:
        >>> import tempfile
        >>> chord = np.zeros((8, 88)); chord[2:6, [39, 43, 46]] = 1
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_midi(f"{folder}/c.mid", chord)
        ...     read_midi(f"{folder}/c.mid").tracks
        {'roll': [(0.5, 1.0, 60), (0.5, 1.0, 64), (0.5, 1.0, 67)]}
    """
    values = np.asarray(roll.detach().cpu() if hasattr(roll, "detach") else roll)
    if values.ndim != 2 or values.shape[1] != NUM_KEYS or not np.isin(values, (0, 1)).all():
        raise ValueError(
            f"expected a roll of zeros and ones, (T, {NUM_KEYS}); got shape {values.shape} with values in "
            f"[{values.min(initial=0)}, {values.max(initial=0)}]; threshold or sample probabilities first"
        )
    beats, unit = time_signature
    for name, number, least, most in (
        ("steps", steps, 1e-3, _TICKS),
        ("per_minute", per_minute, 4, 6e7),
        ("program", program, 0, 127),
        ("velocity", velocity, 1, 127),
        ("the time signature's upper number", beats, 1, 255),
    ):
        if not least <= number <= most:
            raise ValueError(f"{name} must lie between {least} and {most:g}, got {number}")
    if unit not in (1, 2, 4, 8, 16, 32, 64):
        raise ValueError(f"the time signature's lower number must be a power of 2 up to 64, got {unit}")
    mido = needed("mido", "Writing MIDI", "midi")
    conductor = mido.MidiTrack(
        [
            mido.MetaMessage("time_signature", numerator=beats, denominator=unit),
            mido.MetaMessage("set_tempo", tempo=round(6e7 / per_minute)),
        ]
    )
    track = mido.MidiTrack(
        [mido.MetaMessage("track_name", name="roll"), mido.Message("program_change", program=program)]
    )
    change = np.diff(np.pad(values.astype(np.int8), ((1, 1), (0, 0))), axis=0)
    now = 0
    for step in range(len(change)):
        # Keys are released before others are struck.
        for row in sorted(np.flatnonzero(change[step]), key=lambda row: change[step, row]):
            struck, tick = change[step, row] > 0, round(step * _TICKS / steps)
            message = "note_on" if struck else "note_off"
            loudness = velocity if struck else 0
            track.append(mido.Message(message, note=int(row) + LOWEST_KEY, velocity=loudness, time=tick - now))
            now = tick
    file = mido.MidiFile(type=1, ticks_per_beat=_TICKS)
    file.tracks += [conductor, track]
    track.append(mido.MetaMessage("end_of_track", time=max(round(len(values) * _TICKS / steps) - now, 0)))
    with written_whole(Path(path)) as stream:
        file.save(file=stream)
