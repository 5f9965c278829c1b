"""Piano rolls, which keys sound at each step, and a small organ to hear them."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

__all__ = ["LOWEST_KEY", "NUM_KEYS", "Note", "piano_roll", "roll_to_audio", "transpose"]


LOWEST_KEY = 21  # MIDI number of A0, the piano's lowest key


NUM_KEYS = 88


Note = tuple[int | float, int | float, int]
"""Onset and duration in quarter notes, MIDI number."""


def piano_roll(notes: Iterable[Note], *, steps_per_quarter: int = 1) -> NDArray[np.uint8]:
    """Sample notes on a grid: which keys sound at each step.

    A key that is held and one that is struck again look the same, so ties need no care.

    Arguments:
        notes: Onset and duration in quarter notes, and MIDI number.
        steps_per_quarter: 1 for a grid of quarter notes, 2 for eighths, 4 for sixteenths. Notes that neither start
            on the grid nor last beyond its next step (passing notes, on a grid of quarters) are left out.

    Returns:
        Zeros and ones, ``(T, 88)``, up to the end of the last note.

    Raises:
        ValueError: There is no note, or one that a piano does not have.

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
        ValueError: A note would leave the keyboard.
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
        roll: Zeros and ones, ``(T, 88)``.
        seconds_per_step: Duration of a step.
        sample_rate: In Hz.
        num_harmonics: Partials per note; the k-th has amplitude k^-1.5, and those above half the sample rate are
            left out.

    Returns:
        Waveform within [-0.9, 0.9], ``(T * seconds_per_step + 0.3 s,)``; the last 0.3 s are the release.

    Raises:
        ValueError: The roll is not ``(T, 88)`` or holds values other than 0 and 1.
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
