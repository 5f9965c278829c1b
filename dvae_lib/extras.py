"""Packages that only some of the library needs: one door, which says what to install where one is missing."""

from importlib import import_module
from importlib.util import find_spec
from typing import Any

__all__ = ["SPEECH_EXTRA", "needed", "require"]

SPEECH_EXTRA = 'pip install "dvae-lib[speech]" (or "dvae-lib[audio]", without PESQ, where there is no C compiler)'


def needed(package: str, purpose: str, extra: str = "speech") -> Any:
    """A package, imported when it is used.

    Arguments:
        package: Its name.
        purpose: What it is needed for, to begin a sentence with: "Reading audio".
        extra: The extra of the library that brings it.

    Raises:
        ImportError: It is missing; the message says how to get it.

    Example:
        >>> needed("math", "A square root").sqrt(4.0)
        2.0
    """
    try:
        return import_module(package)
    except ImportError as error:
        raise ImportError(_message(package, purpose, extra)) from error


def require(package: str, purpose: str, extra: str = "speech") -> None:
    """Refuse to begin without a package; it is not imported yet. See `needed`."""
    if find_spec(package) is None:
        raise ImportError(_message(package, purpose, extra))


def _message(package: str, purpose: str, extra: str) -> str:
    command = f'pip install "dvae-lib[{extra}]"'
    if package == "pesq":
        command += ". It is compiled while it installs and needs a C compiler (Debian and Ubuntu: apt install gcc)"
    elif extra == "speech":
        command = SPEECH_EXTRA
    return f"{purpose} needs the package {package}: {command}."
