"""All notebooks of the book in one archive, beside the pages: `notebooks.zip`, as they are in the repository."""

from __future__ import annotations

import zipfile
from pathlib import Path

NAME = "notebooks.zip"
FOLDER = "dvae-book"
LONG_AGO = (1980, 1, 1, 0, 0, 0)  # the same notebooks make the same archive


def write(site: Path, root: Path) -> None:
    """Pack the notebooks of a repository."""
    from first_cells import notebooks

    book = root / "book"
    with zipfile.ZipFile(site / NAME, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(notebooks(root)):
            name = f"{FOLDER}/{path.relative_to(book).as_posix()}"
            entry = zipfile.ZipInfo(name, LONG_AGO)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED)
