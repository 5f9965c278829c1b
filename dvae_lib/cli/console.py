"""Where the commands write: what was asked for, and what is said beside it."""

from rich.console import Console

__all__ = ["INTERRUPTED", "err", "out"]

INTERRUPTED = 130  # what shells report for a program that Ctrl-C ended

out = Console()
err = Console(stderr=True)
