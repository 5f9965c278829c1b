"""Source coding with dynamical VAEs (Section 14.4): files whose length is the bound, and a codec of speech."""

from dvae_lib.coding.bits_back import Compressed, compress, decompress
from dvae_lib.coding.container import CodecError
from dvae_lib.coding.latent_code import NATURAL_STEP, CodedSequence, Loop, decode, encode
from dvae_lib.coding.speech import SpeechFile, decode_speech, encode_speech, model_of
from dvae_lib.coding.walking import check_codable

__all__ = [
    "NATURAL_STEP",
    "CodecError",
    "Compressed",
    "CodedSequence",
    "Loop",
    "SpeechFile",
    "check_codable",
    "compress",
    "decode",
    "decode_speech",
    "decompress",
    "encode",
    "encode_speech",
    "model_of",
]
