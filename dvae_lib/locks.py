"""One process at a time: locks on files, which end with the process that holds them, however that ends."""

import errno
import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["CAN_LOCK", "lock"]

CAN_LOCK = importlib.util.find_spec("fcntl") is not None
"""Whether the platform locks files; Windows does not."""

# What file systems answer that have no locks: NFS without its lock service, Lustre, some of user space.
_WITHOUT_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}


@contextmanager
def lock(path: Path, *, wait: bool) -> Iterator[bool]:
    """Hold the lock of a file, which is made; whether this process holds it. Afterwards the file is gone.

    Where files cannot be locked, by the platform or by the file system, every process believes that it does.

    Arguments:
        path: The file, in a folder that exists.
        wait: Until it is free; otherwise False is given where another process holds it.
    """
    if not CAN_LOCK:
        yield True
        return
    import fcntl

    while True:
        handle = path.open("a")
        try:
            fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.close()
            yield False
            return
        except OSError as error:
            if error.errno not in _WITHOUT_LOCKS:
                handle.close()
                raise
            break
        if _is_still(path, handle.fileno()):
            break
        handle.close()  # its holder has removed it meanwhile
    try:
        yield True
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)
        handle.close()


def _is_still(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
