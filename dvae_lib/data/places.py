"""Where data is looked for and where it is kept: the search path ``DVAE_DATA`` and the cache ``DVAE_CACHE``."""

import errno
import logging
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs

from dvae_lib.locks import CAN_LOCK, lock

__all__ = ["cache_folder", "find_folder", "search_path"]

logger = logging.getLogger("dvae_lib.data")


def cache_folder() -> Path:
    """The folder for what was downloaded and computed. It may be deleted at any time; it is then made again.

    The environment variable ``DVAE_CACHE`` names it; without that it is the platform's own place for caches
    (``~/.cache/dvae-lib`` on Linux, ``~/Library/Caches/dvae-lib`` on macOS).
    """
    named = os.environ.get("DVAE_CACHE")
    if named:
        return Path(named).expanduser().absolute()
    return Path(platformdirs.user_cache_dir("dvae-lib"))


def search_path() -> list[Path]:
    """Folders in which corpora are looked for, first ones first: those of ``DVAE_DATA``, then what was fetched.

    ``DVAE_DATA`` holds folders joined by the platform's separator (``:``, on Windows ``;``).
    """
    named = [Path(p).expanduser() for p in os.environ.get("DVAE_DATA", "").split(os.pathsep) if p]
    return [*named, cache_folder() / "corpora"]


def find_folder(*names: str) -> Path | None:
    """The first folder of one of these names on the search path, or None.

    Arguments:
        names: As corpora call their folder, such as ``"wsj0", "WSJ0"``.
    """
    for place in search_path():
        for name in names:
            if (place / name).is_dir():
                return place / name
    return None


def say_left_out(folder: Path, taken: Iterable[Path]) -> None:
    """Name in the log the files of a folder and its subfolders that are not taken; hidden ones count for nothing."""
    files = (file.relative_to(folder) for file in sorted(folder.rglob("*")) if file.is_file())
    visible = [str(file) for file in files if not any(part.startswith(".") for part in file.parts)]
    used = {str(file.relative_to(folder)) for file in taken}
    others = [name for name in visible if name not in used]
    if others:
        shown = ", ".join(others[:5]) + (", ..." if len(others) > 5 else "")
        logger.warning("%s: %d of %d files are left out: %s.", folder, len(others), len(visible), shown)


@contextmanager
def whole_or_nothing(folder: Path) -> Iterator[Path]:
    """A new folder that appears under its name when it is complete, and otherwise not at all.

    What is written goes to a folder beside it, which is renamed at the end: a rename happens or does not,
    also when the machine is switched off. If something fails, a full disk included, nothing is left behind.
    What a killed process left is cleared away, which is why this is used inside `one_at_a_time`.

    Arguments:
        folder: The name. If another process has made it meanwhile, that one stays.

    Yields:
        The folder to write to.
    """
    with disk_errors_explained(folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
        prefix = f".{folder.name}-unfinished-"
        for leftover in folder.parent.glob(f"{prefix}*") if CAN_LOCK else ():
            shutil.rmtree(leftover, ignore_errors=True)
        draft = folder.parent / f"{prefix}{uuid.uuid4().hex}"
        draft.mkdir()  # with the permissions that the umask says: what one fetches, others may read
        try:
            yield draft
            try:
                draft.rename(folder)
            except OSError:
                if not folder.is_dir():
                    raise
        finally:
            shutil.rmtree(draft, ignore_errors=True)


@contextmanager
def disk_errors_explained(folder: Path) -> Iterator[None]:
    """Let errors of a full or write-protected disk say which folder it was and what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            what = f"The disk is full ({error.strerror}): writing to {folder} failed, and nothing of it was kept."
        elif error.errno in (errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOTDIR) and _touches(
            error.filename, folder
        ):
            what = f"The folder {folder} cannot be written to ({error.strerror}: {error.filename})."
        else:
            raise
        advice = "Set DVAE_CACHE to a folder with room that you may write to, or make room."
        raise OSError(error.errno, f"{what} {advice}") from error


def _touches(filename: object, folder: Path) -> bool:
    """Whether a file lies in the folder, or the folder in it (then it is a folder that could not be made)."""
    if not isinstance(filename, str | bytes):
        return False
    path = Path(os.fsdecode(filename)).absolute()
    return path.is_relative_to(folder) or folder.is_relative_to(path)


@contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Only one process of this machine is inside at a time; the others wait.

    Where files cannot be locked, two may do the same work, and `whole_or_nothing` keeps the result right.
    """
    with disk_errors_explained(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("a").close()  # says now whether it can be written
    with lock(path, wait=True):
        yield
