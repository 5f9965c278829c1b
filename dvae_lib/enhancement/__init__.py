"""Speech enhancement by a DVAE of clean speech and a noise model learned from each recording, and simpler methods."""

from dvae_lib.enhancement.files import EnhancedFile, enhance_file
from dvae_lib.enhancement.nmf import NMF, factorise
from dvae_lib.enhancement.noises import babble, bursts, coloured_noise, mix, pink_noise, speech_shaped_noise
from dvae_lib.enhancement.recordings import Enhanced, enhance
from dvae_lib.enhancement.vem import check_speech_model, inference_parameters
from dvae_lib.enhancement.wiener import (
    Filtered,
    classical_wiener,
    decision_directed_gain,
    nmf_wiener,
    track_noise,
    wiener_gain,
)

__all__ = [
    "NMF",
    "Enhanced",
    "EnhancedFile",
    "Filtered",
    "babble",
    "bursts",
    "check_speech_model",
    "classical_wiener",
    "coloured_noise",
    "decision_directed_gain",
    "enhance",
    "enhance_file",
    "factorise",
    "inference_parameters",
    "mix",
    "nmf_wiener",
    "pink_noise",
    "speech_shaped_noise",
    "track_noise",
    "wiener_gain",
]
