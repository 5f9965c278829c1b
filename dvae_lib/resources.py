"""Where the data that travels with the library stands: split lists, checksums, licences, trained weights."""

import re
from pathlib import Path

__all__ = ["resource_path", "widget"]

_PACKAGE = Path(__file__).resolve().parent


def resource_path(*parts: str) -> Path:
    """Path to a file or folder that travels with the library.

    In a checkout these files stand in the folder ``data/`` beside the package; the wheel carries the same
    folder inside the package. Code asks here and need not know which of the two it runs from.

    Arguments:
        parts: The path inside that folder, such as ``"speech", "prompts.csv"``. None gives the folder itself.

    Returns:
        A path that exists.

    Raises:
        FileNotFoundError: If there is no such file; the message lists what stands beside it.

    Example:
        >>> resource_path("README.md").name
        'README.md'
    """
    # The wheel's place comes first: beside an installed package, a folder `data` would be somebody else's.
    installed = _PACKAGE / "_resources"
    root = installed if installed.is_dir() else _PACKAGE.parent / "data"
    path = root.joinpath(*parts)
    if not path.exists():
        present = sorted(p.name for p in path.parent.iterdir()) if path.parent.is_dir() else []
        beside = ", ".join(present) if present else "nothing: the folder is missing too"
        raise FileNotFoundError(
            f"dvae_lib carries no resource {'/'.join(parts)!r} (looked for {path}; present there: {beside})"
        )
    return path


def widget(name: str, **parts: str) -> str:
    """A piece of HTML from the folder `widgets`, with its marks filled in: ``__DATA__`` by ``DATA=...``.

    Arguments:
        name: The file's name.
        parts: What stands in place of each mark.

    Returns:
        The page, which needs no kernel and loads nothing.

    Raises:
        ValueError: If a mark has no part, or a part no mark.

    Example:
        >>> widget("noise_explorer.html", DATA="{}")
        Traceback (most recent call last):
        ...
        ValueError: noise_explorer.html has the marks CARD, DATA, FILTER, ID, OBSERVED, SMOOTHER; given: DATA
    """
    page = resource_path("widgets", name).read_text(encoding="utf-8")
    marks = set(re.findall(r"__([A-Z]+)__", page))
    if marks != set(parts):
        raise ValueError(f"{name} has the marks {', '.join(sorted(marks))}; given: {', '.join(sorted(parts))}")
    return re.sub(r"__([A-Z]+)__", lambda mark: parts[mark[1]], page)
