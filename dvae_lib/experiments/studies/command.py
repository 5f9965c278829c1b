"""What the commands of all studies have in common."""

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from dvae_lib.data.pretrained import pretrained_folder
from dvae_lib.experiments.results import ResultFile, Task, complete
from dvae_lib.experiments.trainings import Interrupted, shelf

__all__ = [
    "DATA",
    "RESULTS",
    "RUNS",
    "completed",
    "model_folders",
    "parser",
    "select",
    "stopped",
    "train_or_test",
    "training_parser",
]

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


def training_parser(description: str | None, names: Sequence[str], output: Path) -> argparse.ArgumentParser:
    """The command line of a study that trains models and tests them; see `train_or_test`.

    Arguments:
        description: The module's docstring.
        names: The models.
        output: Where results of tests go.
    """
    options = parser(description)
    options.add_argument("what", choices=["train", "test"])
    options.add_argument("names", nargs="*", metavar="NAME", help=", ".join(names))
    options.add_argument("--seed", type=int, default=0, help="of a training")
    options.add_argument("--models", type=Path, nargs="+", help="folders of trained models; a training takes the first")
    options.add_argument("--runs", type=Path, default=RUNS, help="where interrupted trainings are kept")
    options.add_argument("--output", type=Path, default=output)
    options.add_argument("--again", action="store_true", help="test also what is in the file already")
    return options


def train_or_test(
    chosen: argparse.Namespace,
    names: Sequence[str],
    key: Sequence[str],
    training: Callable[[str, Path], Path],
    test: Callable[[Path], Task],
) -> int:
    """Do what was asked for on a `training_parser`'s command line; the exit status.

    Arguments:
        chosen: What was asked for.
        names: The models.
        key: What tells records apart.
        training: Trains a model of that name into a folder of models, and says where it is.
        test: The test of the model in a folder.
    """
    if chosen.what == "test":
        folders = [folder for name in names for folder in model_folders(name, chosen.models)]
        complete(ResultFile(chosen.output, key, ordered=True), map(test, folders), again=chosen.again)
        return 0
    try:
        for name in names:
            print(training(name, chosen.models[0] if chosen.models else shelf(name, DATA)))
    except Interrupted as error:
        return stopped(error)
    return 0


def completed(file: ResultFile, tasks: Iterable[Task], *, again: bool = False) -> int:
    """Do the tasks that a file of results lacks, see `complete`; the exit status, also where a training was stopped."""
    try:
        complete(file, tasks, again=again)
    except Interrupted as error:
        return stopped(error)
    return 0


def stopped(error: Interrupted) -> int:
    """Say that a training was interrupted; the exit status for it."""
    print(error, file=sys.stderr)
    return 130
