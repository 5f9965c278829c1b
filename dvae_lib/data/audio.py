"""The former path of `dvae_lib.data.speech.audio`."""

from dvae_lib.data.speech.audio import AUDIO_SUFFIXES, Audio, AudioError, read_audio

__all__ = ["AUDIO_SUFFIXES", "Audio", "AudioError", "read_audio"]
