"""The motion capture database of Carnegie Mellon University."""

from functools import partial
from pathlib import Path
from typing import Any

from dvae_lib.data.catalogue import Corpus, register_corpus
from dvae_lib.data.motion.acclaim_corpora import load_acclaim
from dvae_lib.data.places import find_folder
from dvae_lib.data.splits import Splits

__all__ = ["load_cmu"]


def load_cmu(folder: str | Path | None = None, **options: Any) -> Splits:
    """Load the motion capture of Carnegie Mellon University: 31 joints, 93 coordinates in metres, y upwards.

    Arguments:
        folder: Where the files are, at any depth; by default ``cmu-mocap`` on the search path ``DVAE_DATA``.
        options: `fps`, `centre`, `sequence_length`, `hop`, `standardize`, `excerpt`: see `load_acclaim`.

    Returns:
        Training, validation and test part. Subjects 03, 16, 49 and 86 are held out for testing, subject 08 and
        some clips of subjects 01 and 02 for validation.

    Raises:
        MissingCorpusError: No such folder, with what to do.
        ValueError: A damaged file, named with its line; a frame rate that does not divide 120.
    """
    return load_acclaim(["cmu"], folder, **options)


CMU = register_corpus(
    Corpus(
        name="cmu",
        kind="motion",
        about="motion capture, 31 joints at 120 fps, walking to acrobatics",
        size="2,605 clips of 144 subjects; 1 GB",
        licence="free for all uses; may not be resold as such",
        attribution="CMU Graphics Lab Motion Capture Database, mocap.cs.cmu.edu, funded by NSF EIA-0196217",
        instructions="Download allasfamc.zip from mocap.cs.cmu.edu and unpack it into a folder cmu-mocap: folders NN "
        "with NN.asf and NN_MM.amc, or some of them; then pass folder=... or put the folder above it into DVAE_DATA.",
        load=partial(load_acclaim, ["cmu"]),
        find=partial(find_folder, "cmu-mocap", "cmu"),
        sequence_length=50,
    )
)
