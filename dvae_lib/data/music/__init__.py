"""Music: piano rolls, scores, an organ to hear them, and one file for each corpus."""

from dvae_lib.data.catalogue import import_all
from dvae_lib.data.music.chorales import load_chorales
from dvae_lib.data.music.musicxml import read_musicxml
from dvae_lib.data.music.piano_roll import LOWEST_KEY, NUM_KEYS, piano_roll, roll_to_audio, transpose
from dvae_lib.data.music.polyphonic import load_polyphonic

__all__ = [
    "LOWEST_KEY",
    "NUM_KEYS",
    "load_chorales",
    "load_polyphonic",
    "piano_roll",
    "read_musicxml",
    "roll_to_audio",
    "transpose",
]

import_all(__name__, __path__)
