"""The motion capture database HDM05 of the University of Bonn."""

from functools import partial
from pathlib import Path
from typing import Any

from dvae_lib.data.catalogue import Corpus, register_corpus
from dvae_lib.data.motion.acclaim_corpora import load_acclaim
from dvae_lib.data.places import find_folder
from dvae_lib.data.splits import Splits

__all__ = ["load_hdm05"]


def load_hdm05(folder: str | Path | None = None, **options: Any) -> Splits:
    """Load the motion capture of HDM05 (Müller et al., 2007): 31 joints, 93 coordinates in metres, y upwards.

    Arguments:
        folder: Where the files are, at any depth; by default ``hdm05`` on the search path ``DVAE_DATA``.
        options: `fps`, `centre`, `sequence_length`, `hop`, `standardize`, `excerpt`: see `load_acclaim`.

    Returns:
        Training, validation and test part. Actors dg and tr are held out for testing; the last repetition of each
        action by actors bd and bk serves for validation.

    Raises:
        MissingCorpusError: No such folder, with what to do.
        ValueError: A damaged file, named with its line; a frame rate that does not divide 120.
    """
    return load_acclaim(["hdm05"], folder, **options)


HDM05 = register_corpus(
    Corpus(
        name="hdm05",
        kind="motion",
        about="motion capture, 31 joints at 120 fps, five actors repeating the same actions",
        size="2,337 short clips of 5 actors",
        licence="CC BY-SA 3.0",
        attribution="Müller, Röder, Clausen, Eberhardt, Krüger, Weber (2007), Mocap Database HDM05, Universität Bonn",
        instructions="Download the cut ASF/AMC files from resources.mpi-inf.mpg.de/HDM05 and unpack them into a folder "
        "hdm05: HDM_actor.asf with HDM_actor_*.amc beside it, or some of them; then pass folder=... or put the folder "
        "above it into DVAE_DATA.",
        load=partial(load_acclaim, ["hdm05"]),
        find=partial(find_folder, "hdm05", "HDM05"),
        sequence_length=50,
    )
)
