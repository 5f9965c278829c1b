"""Files of results that grow record by record, so that what was interrupted goes on where it was."""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from dvae_lib._version import __version__
from dvae_lib.experiments.machine import machine_facts
from dvae_lib.experiments.records import Record, RecordError, write_lines
from dvae_lib.locks import lock

__all__ = ["ResultFile", "Task", "complete", "rounded"]


class ResultFile:
    """The records of a study, one a line, each known by a few of its entries.

    Arguments:
        path: The file; it need not be there yet.
        key: The entries that distinguish a record from the others.
        ordered: Keep the records in the order of these entries; otherwise in the order in which they came.

    Raises:
        RecordError: The file holds something else.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     file = ResultFile(Path(folder) / "bounds.json", ("model", "seed"))
        ...     file.add([{"model": "vae", "seed": 0, "vlb": -9.0}])
        ...     file.add([{"model": "vae", "seed": 0, "vlb": -8.0}])
        ...     file.records
        [{'model': 'vae', 'seed': 0, 'vlb': -8.0}]
    """

    def __init__(self, path: str | Path, key: Sequence[str], *, ordered: bool = False) -> None:
        self.path, self.key, self.ordered = Path(path), tuple(key), ordered
        self.records: list[Record] = _read(self.path, self.key) if self.path.exists() else []

    def __contains__(self, record: object) -> bool:
        """Whether there is a record with this one's key."""
        return isinstance(record, Mapping) and self._key(record) in {self._key(r) for r in self.records}

    def refresh(self) -> None:
        """Take in what other processes have written to the file since."""
        if self.path.exists():
            self.records = _read(self.path, self.key)

    def add(self, records: Iterable[Record]) -> None:
        """Add records, each in the place of the one with the same key where there is one, and write the file.

        What other processes have written to it meanwhile is kept.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with lock(self.path.with_suffix(".lock"), wait=True):
            self.refresh()
            by_key = {self._key(record): record for record in self.records}
            by_key |= {self._key(record): record for record in records}
            keys = sorted(by_key, key=_sortable) if self.ordered else list(by_key)
            self.records = [by_key[key] for key in keys]
            write_lines(self.path, self.records)

    def _key(self, record: Mapping[str, object]) -> tuple[object, ...]:
        return tuple(record[name] for name in self.key)


class Task(NamedTuple):
    """A part of a study: the keys of its records, and what computes them."""

    keys: Sequence[Record]
    compute: Callable[[], Sequence[Record]]


def complete(
    file: ResultFile, tasks: Iterable[Task], *, again: bool = False, say: Callable[[str], None] = print
) -> list[Record]:
    """Compute the records that a file lacks, and write each task's as soon as they are there.

    Beside what a task computes a record says by which version and on which machine. Several processes may work on one
    file: what another one has done or is training is left to it.

    Arguments:
        file: The results so far.
        tasks: All of the study, in order.
        again: Compute also what is there.
        say: Called with a line for each new record.

    Returns:
        The new records.
    """
    every: list[Record] = []
    for task in tasks:
        file.refresh()
        if not again and all(key in file for key in task.keys):
            continue
        try:
            computed = task.compute()
        except BlockingIOError as error:  # another process trains in the folder
            say(str(error))
            continue
        new = [{**record, "dvae_lib": __version__, "machine": machine_facts()} for record in computed]
        file.add(new)
        every += new
        for record in new:
            say(json.dumps({name: value for name, value in record.items() if name not in ("machine", "data")}))
    return every


def rounded(value: float, digits: int = 4) -> float | None:
    """A number as it stands in a result; None where there is none, since JSON has no NaN."""
    return None if math.isnan(value) else round(value, digits)


def _read(path: Path, key: Sequence[str]) -> list[Record]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RecordError(f"{path} is damaged, or no JSON ({error}). Delete it and run the study again") from error
    if not isinstance(content, list) or any(not isinstance(r, dict) or not set(key) <= r.keys() for r in content):
        raise RecordError(f"{path} is no result of this study: expected a list of records with {', '.join(key)}")
    return content


def _sortable(key: tuple[object, ...]) -> tuple[tuple[str, object], ...]:
    """Entries of one kind compare with each other, numbers as numbers."""
    return tuple(("number", entry) if isinstance(entry, int | float) else ("text", str(entry)) for entry in key)
