"""Where a command may write: found out before the work is done."""

import os
from pathlib import Path

__all__ = ["check_folder", "check_output"]


def check_folder(output: Path) -> None:
    """Refuse a file in a folder that is not there."""
    if not output.parent.is_dir():
        raise FileNotFoundError(f"There is no folder {output.parent} to write {output.name} into")


def check_output(source: Path, output: Path, what: str, *, overwrite: bool) -> None:
    """Refuse what cannot be written, and, unless it is allowed, the input itself.

    Arguments:
        source: The file that is read.
        output: The file to be written.
        what: What to call the input in a message.
        overwrite: Allow to write over it.
    """
    check_folder(output)
    if output.is_dir() or not os.access(output.parent, os.W_OK):
        raise PermissionError(f"{output} cannot be written; choose another --output")
    if output.exists() and source.exists() and output.samefile(source) and not overwrite:
        raise ValueError(f"{output} is {what} itself; choose another --output, or allow it with --overwrite")
