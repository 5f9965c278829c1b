"""CMU and HDM05 as one corpus, and the excerpt of both that travels with the library."""

from functools import wraps
from pathlib import Path
from typing import Any

from dvae_lib.data.catalogue import Corpus, register_corpus
from dvae_lib.data.exhibits import exhibit
from dvae_lib.data.motion.acclaim_corpora import MOCAP_JOINTS, MOCAP_PARENTS, load_acclaim
from dvae_lib.data.motion.cmu import CMU
from dvae_lib.data.motion.hdm05 import HDM05
from dvae_lib.data.splits import Splits

__all__ = ["MOCAP_JOINTS", "MOCAP_PARENTS", "load_mocap"]


BOTH = ("cmu", "hdm05")


def load_mocap(**options: Any) -> Splits:
    """Load `load_cmu` and `load_hdm05` as one corpus, part by part: 31 joints, 93 coordinates in metres.

    Arguments:
        options: `fps`, `centre`, `sequence_length`, `hop`, `standardize`, `excerpt`: see `load_acclaim`.

    Returns:
        Training, validation and test part. The people of the test part are in no other.

    Raises:
        MissingCorpusError: One of the two is not here, with what to do.
        ValueError: A damaged file, named with its line; a frame rate that does not divide 120.
    """
    return load_acclaim(BOTH, **options)


def _find() -> Path | None:
    """The folder of the first, where both are here."""
    return CMU.folder if HDM05.folder is not None else None


@wraps(load_acclaim)
def _load(folder: Path, **options: Any) -> Splits:
    return load_acclaim(BOTH, **options)


@wraps(load_acclaim)
def _load_excerpt(folder: Path, **options: Any) -> Splits:
    return load_acclaim(BOTH, excerpt=True, **options)


for _name, _load_it, _find_it, _size, _instructions in (
    ("mocap", _load, _find, "those of the two", f"cmu: {CMU.instructions} hdm05: {HDM05.instructions}"),
    (
        *("mocap-excerpt", _load_excerpt, lambda: exhibit("motion").folder),
        *("116 recordings of six people, 30 fps", "It comes with the library."),
    ),
):
    register_corpus(
        Corpus(
            name=_name,
            kind="motion",
            about="motion capture, CMU and HDM05 as one corpus" + (", in part" if "excerpt" in _name else ""),
            size=_size,
            licence=f"{CMU.licence}; {HDM05.licence}",
            attribution=f"{CMU.attribution}; {HDM05.attribution}",
            instructions=_instructions,
            load=_load_it,
            find=_find_it,
            sequence_length=50,
        )
    )
