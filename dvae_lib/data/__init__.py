"""Data: sequences of vectors from speech, motion, music and toy systems, and from your own arrays and files.

Names are imported when they are first used, so that ``import dvae_lib`` stays quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

# Module by module, the public names of this package: what stands in the modules' own __all__.
# A new module adds its line here and to the imports below, which editors and type checkers see.
_PUBLIC = {
    "audio": ("AUDIO_SUFFIXES", "Audio", "AudioError", "read_audio"),
    "catalogue": (
        *("CorpusInfo", "MissingCorpusError", "corpus_info", "default_corpus", "describe", "fetch_corpus"),
        "list_corpora",
    ),
    "corpora": ("SpeechCorpus", "Utterance", "librispeech_part", "load_corpus"),
    "exhibits": ("Exhibit", "exhibit"),
    "fetch": ("DownloadError", "download"),
    "heldout": ("marks", "same_marks", "seen_before"),
    "mocap": (*("MOCAP_JOINTS", "MOCAP_PARENTS", "decimate", "load_cmu", "load_h36m", "load_hdm05", "load_mocap"),),
    "motion": (
        *("H36M_JOINTS", "H36M_PARENTS", "Skeleton", "expmap_to_positions", "read_amc", "read_asf"),
        "read_expmap",
    ),
    "music": (
        *("LOWEST_KEY", "NUM_KEYS", "load_chorales", "piano_roll", "read_musicxml", "roll_to_audio"),
        "transpose",
    ),
    "places": ("cache_folder", "find_folder", "search_path"),
    "sequences": (
        *("Batch", "SequenceDataset", "Splits", "Standardizer", "TwoParts", "from_arrays", "from_csv_folder"),
        *("identity", "split_by_group"),
    ),
    "sources": ("MOTION", "Kind", "Source", "load_source", "read_numpy", "source_names"),
    "speech": ("Analysis", "FrontEndSettings", "SpeechFrontEnd"),
    "tables": ("Table", "read_csv_folder"),
    "toy": (
        *("TOYS", "LinearGaussianSequences", "ToySequences", "bouncing_ball", "linear_gaussian", "load_toy"),
        *("moving_digits", "pendulum", "pendulum_images", "pendulum_step", "random_stable_matrix"),
    ),
}
_MODULE_OF = {name: module for module, names in _PUBLIC.items() for name in names}

if TYPE_CHECKING:
    from dvae_lib.data.audio import *  # noqa: F403
    from dvae_lib.data.catalogue import *  # noqa: F403
    from dvae_lib.data.corpora import *  # noqa: F403
    from dvae_lib.data.exhibits import *  # noqa: F403
    from dvae_lib.data.fetch import *  # noqa: F403
    from dvae_lib.data.heldout import *  # noqa: F403
    from dvae_lib.data.mocap import *  # noqa: F403
    from dvae_lib.data.motion import *  # noqa: F403
    from dvae_lib.data.music import *  # noqa: F403
    from dvae_lib.data.places import *  # noqa: F403
    from dvae_lib.data.sequences import *  # noqa: F403
    from dvae_lib.data.sources import *  # noqa: F403
    from dvae_lib.data.speech import *  # noqa: F403
    from dvae_lib.data.tables import *  # noqa: F403
    from dvae_lib.data.toy import *  # noqa: F403

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value  # the next access finds it without coming here
    return value


def __dir__() -> list[str]:
    return __all__
