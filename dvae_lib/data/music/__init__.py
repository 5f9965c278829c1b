"""Music: piano rolls, scores, an organ to hear them, and one file for each corpus."""

from dvae_lib.data.catalogue import import_all
from dvae_lib.data.music.chorales import load_chorales
from dvae_lib.data.music.midi import Midi, midi_to_roll, read_midi, write_midi
from dvae_lib.data.music.musicxml import read_musicxml
from dvae_lib.data.music.piano_roll import LOWEST_KEY, NUM_KEYS, piano_roll, roll_to_audio, transpose
from dvae_lib.data.music.polyphonic import load_polyphonic

__all__ = [
    "LOWEST_KEY",
    "NUM_KEYS",
    "Midi",
    "load_chorales",
    "load_polyphonic",
    "midi_to_roll",
    "piano_roll",
    "read_midi",
    "read_musicxml",
    "roll_to_audio",
    "transpose",
    "write_midi",
]

import_all(__name__, __path__)
