"""One look for all figures: colours by role, the style, spectrograms on a shared scale, players, movement."""

from dvae_lib.plotting.bounds import plot_bounds
from dvae_lib.plotting.music_and_movement import animate_skeletons, plot_piano_roll, plot_skeleton
from dvae_lib.plotting.sound import show_audio
from dvae_lib.plotting.spectrograms import plot_spectrogram, plot_spectrograms, power_to_db
from dvae_lib.plotting.style import CARD, COLOURS, use_style
from dvae_lib.plotting.tables import mean_and_range, show_table

__all__ = [
    "CARD",
    "COLOURS",
    "animate_skeletons",
    "mean_and_range",
    "plot_bounds",
    "plot_piano_roll",
    "plot_skeleton",
    "plot_spectrogram",
    "plot_spectrograms",
    "power_to_db",
    "show_audio",
    "show_table",
    "use_style",
]
