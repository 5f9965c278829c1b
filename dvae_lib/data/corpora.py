"""The former path of `dvae_lib.data.speech`."""

from dvae_lib.data.speech import SpeechCorpus, Utterance, librispeech_part, load_corpus

__all__ = ["SpeechCorpus", "Utterance", "librispeech_part", "load_corpus"]
