"""Small pieces of corpora that travel with the library, so that the book's pages are the same on every machine.

They are made from the corpora by ``python -m dvae_lib.data.make_exhibits FOLDER``. The file ``exhibits.json`` says of
each what it is, where it comes from, under which licence, and which checksum its files have.
"""

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dvae_lib.resources import resource_path

__all__ = ["Exhibit", "exhibit"]


class Exhibit(NamedTuple):
    """What is known of an exhibit.

    Attributes:
        folder: Where its files are, checked.
        about: What it is, in one line.
        licence: Under which it may be passed on.
        attribution: Whom to name where it is shown.
    """

    folder: Path
    about: str
    licence: str
    attribution: str


def exhibit(name: str, collection: Path | None = None) -> Exhibit:
    """The exhibit of that name, with files that are those that were shipped.

    Arguments:
        name: As in ``exhibits.json``.
        collection: The folder of that file; by default the library's own.

    Raises:
        ValueError: No such exhibit, or a file of it that is damaged or missing; the message names it.

    Example:
        >>> exhibit("motion").licence
        'CMU: free for all uses, may not be resold as such; HDM05: CC BY-SA 3.0'
    """
    collection = resource_path("exhibits") if collection is None else collection
    known: dict[str, dict[str, Any]] = json.loads((collection / "exhibits.json").read_text(encoding="utf-8"))
    if name not in known:
        raise ValueError(f"no exhibit is called {name!r}; there are {', '.join(known)}")
    entry, folder = known[name], collection / name
    for file, wanted in entry["files"].items():
        found = _sha256(folder / file) if (folder / file).is_file() else "no such file"
        if found != wanted:
            raise ValueError(
                f"{folder / file} is not the file that came with the library: SHA-256 {found}, expected {wanted}; "
                "install dvae_lib again, or check the file out again"
            )
    return Exhibit(folder, entry["about"], entry["licence"], entry["attribution"])


@cache
def _sha256_of(path: Path, size: int, modified: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _sha256(path: Path) -> str:
    """Of the file's bytes; read once for as long as it does not change."""
    stat = path.stat()
    return _sha256_of(path, stat.st_size, stat.st_mtime_ns)


def pack(values: NDArray[np.int32]) -> NDArray[np.uint8]:
    """Smooth whole numbers, (time, columns), as bytes that compress well: second differences, the sign in bit 0."""
    steps = values
    for _ in range(2):
        steps = np.diff(steps, axis=0, prepend=np.zeros_like(steps[:1]))
    unsigned = ((steps << 1) ^ (steps >> 31)).astype("<u4")
    return np.ascontiguousarray(np.ascontiguousarray(unsigned.T).view(np.uint8).reshape(-1, 4).T)


def unpack(packed: NDArray[np.uint8], columns: int) -> NDArray[np.int32]:
    """What `pack` was given."""
    unsigned = np.ascontiguousarray(packed.T).view("<u4").reshape(columns, -1).T.astype(np.uint32)
    steps = (unsigned >> 1).astype(np.int32) ^ -(unsigned & 1).astype(np.int32)
    return steps.cumsum(0, dtype=np.int32).cumsum(0, dtype=np.int32)
