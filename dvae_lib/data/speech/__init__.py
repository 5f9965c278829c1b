"""Speech: sound files, the front end from waveforms to power spectra and back, and one file for each corpus."""

from dvae_lib.data.catalogue import import_all
from dvae_lib.data.speech.audio import AUDIO_SUFFIXES, Audio, AudioError, read_audio
from dvae_lib.data.speech.corpus import SpeechCorpus, Utterance
from dvae_lib.data.speech.front_end import Analysis, FrontEndSettings, SpeechFrontEnd
from dvae_lib.data.speech.librispeech import librispeech_part
from dvae_lib.data.speech.load import default_corpus, load_corpus

__all__ = [
    "AUDIO_SUFFIXES",
    "Analysis",
    "Audio",
    "AudioError",
    "FrontEndSettings",
    "SpeechCorpus",
    "SpeechFrontEnd",
    "Utterance",
    "default_corpus",
    "librispeech_part",
    "load_corpus",
    "read_audio",
]

import_all(__name__, __path__)
