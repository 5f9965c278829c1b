"""The result of a run as a file, and the reading of many."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from dvae_lib.files import write_atomically

__all__ = [
    "RECORD_FORMAT",
    "RECORD",
    "Record",
    "RecordError",
    "collect",
    "read_records",
    "write_lines",
    "write_records",
]

Record = dict[str, Any]
"""What a run came to, as JSON data: see `dvae_lib.experiments.runs`."""

RECORD_FORMAT = 1
RECORD = "record.json"
NEEDED = ("format", "corpus", "experiment", "model", "scheduled", "seed", "budget", "config", "data", "status")
NEEDED_WHERE_DONE = ("weights", "training", "test")


class RecordError(ValueError):
    """A file that holds no result of this benchmark, or one of another version."""


def check(record: Any, where: str) -> Record:
    """The record, if it is one of this version.

    Raises:
        RecordError: It is not; the message says what was found, and what to do.
    """
    if not isinstance(record, dict) or "format" not in record:
        raise RecordError(f"{where} is no result of the benchmark: expected a JSON object with a 'format'")
    if record["format"] != RECORD_FORMAT:
        raise RecordError(
            f"{where} has format {record['format']} (dvae_lib {record.get('dvae_lib', 'of unknown version')}); "
            f"this version reads format {RECORD_FORMAT}. Read it with that version, or delete it and run the benchmark "
            "again"
        )
    needed = NEEDED + NEEDED_WHERE_DONE * (record.get("status") == "done")
    missing = [name for name in needed if name not in record]
    if missing:
        raise RecordError(f"{where} is damaged: it lacks {', '.join(missing)}. Delete it and run the benchmark again")
    return record


def read_records(path: str | Path) -> list[Record]:
    """The records of a file: one result, or a list of them.

    Raises:
        FileNotFoundError: No such file.
        RecordError: It holds something else, or results of another version.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RecordError(f"{path} is damaged, or no JSON ({error}). Delete it and run the benchmark again") from error
    return [check(record, str(path)) for record in (content if isinstance(content, list) else [content])]


def write_records(path: str | Path, records: Iterable[Record]) -> None:
    """Write records into one file, a line for each, atomically."""
    write_lines(path, sorted(records, key=lambda r: (r["corpus"], r["model"], r["scheduled"], r["seed"])))


def write_lines(path: str | Path, records: Sequence[Record]) -> None:
    """Write a JSON list with a record a line, atomically: what git can compare line by line."""
    lines = ",\n  ".join(json.dumps(record) for record in records)
    write_atomically(path, f"[\n  {lines}\n]\n".encode() if records else b"[]\n")


def collect(places: Sequence[str | Path]) -> tuple[list[Record], list[str]]:
    """All records in files and folders, and what was wrong with those that cannot be used.

    Arguments:
        places: Result files, or folders that hold some at any depth (files called ``record.json``).

    Returns:
        Records, each run once (the last one given counts), and messages.

    Raises:
        FileNotFoundError: A place that does not exist.
    """
    found: dict[tuple[Any, ...], Record] = {}
    problems: list[str] = []
    for place in map(Path, places):
        if not place.exists():
            raise FileNotFoundError(f"There is no file or folder {place}")
        for path in sorted(place.rglob(RECORD)) if place.is_dir() else [place]:
            try:
                records = read_records(path)
            except RecordError as error:
                problems.append(str(error))
                continue
            for r in records:
                found[(r["corpus"], r["model"], r["scheduled"], r["seed"], r["budget"])] = r
    return list(found.values()), problems
