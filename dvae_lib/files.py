"""Files that are there as a whole or not at all."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

__all__ = ["write_atomically", "written_whole"]


@contextmanager
def written_whole(path: Path) -> Iterator[BinaryIO]:
    """A file to write into. At any moment, power cuts included, either the old or the new one is there.

    The bytes go into ``<name>.partial`` beside it, which takes the file's name once they are on the disk, and is gone
    where the writing ends with an error or an interrupt.

    Raises:
        OSError: If they cannot be written, for example on a full disk. The old file is then still there.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)  # noqa: PTH105  (tests stop here)
    except BaseException:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise
    if os.name == "posix":  # the new name must reach the disk, too; elsewhere a folder cannot be opened
        _flush_folder(path.parent)


def write_atomically(path: str | Path, data: bytes) -> None:
    """Write a file by `written_whole`."""
    with written_whole(Path(path)) as file:
        file.write(data)


def _flush_folder(path: Path) -> None:
    """Let the names in a folder reach the disk, on file systems that know how to."""
    try:
        folder = os.open(path, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        # Network shares, shared folders of virtual machines and file systems of user space flush by themselves.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF, errno.EACCES):
            raise
