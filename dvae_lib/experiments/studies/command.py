"""What the commands of all studies have in common."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from dvae_lib.data.pretrained import pretrained_folder
from dvae_lib.experiments.trainings import Interrupted

__all__ = ["DATA", "RESULTS", "RUNS", "model_folders", "parser", "select", "stopped"]

# In the project's root, from which the commands are run.
DATA, RESULTS, RUNS = Path("data"), Path("data/results"), Path("runs")


def parser(description: str | None) -> argparse.ArgumentParser:
    """A command line whose help is a module's docstring."""
    return argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)


def select(options: argparse.ArgumentParser, chosen: Sequence[str] | None, known: Sequence[str]) -> list[str]:
    """The names that were asked for, in that order; all that are known where none was.

    Raises:
        SystemExit: An unknown name, after a message that lists the known ones.
    """
    if unknown := [name for name in chosen or () if name not in known]:
        options.error(f"there is no {', '.join(unknown)}; there are {', '.join(known)}")
    return list(chosen or known)


def model_folders(name: str, parents: Sequence[Path] | None) -> list[Path]:
    """The folders of a trained model.

    Arguments:
        name: The model's.
        parents: Folders of trained models, of several seeds perhaps; None is the library's own.

    Returns:
        One for each of these that has it.
    """
    found = [pretrained_folder(name)] if parents is None else [parent / name for parent in parents]
    return [folder for folder in found if folder is not None and folder.is_dir()]


def stopped(error: Interrupted) -> int:
    """Say that a training was interrupted; the exit status for it."""
    print(error, file=sys.stderr)
    return 130
