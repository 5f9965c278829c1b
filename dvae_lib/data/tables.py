"""CSV files as people and their programs write them: one sequence a file, a row for each time step."""

import codecs
import csv
import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dvae_lib.data.times import Times, read_times

__all__ = ["Table", "read_csv_folder"]

logger = logging.getLogger("dvae_lib.data")

_DELIMITERS = ";\t,"
_MISSING = frozenset(("", "-", "--", "?", "na", "n/a", "#n/a", "nan", "nat", "none", "null", "missing", "<na>"))
_NUMBER = re.compile(r"[+-]?(\d+([.,]\d*)?|[.,]\d+)([eE][+-]?\d+)?|[+-]?inf(inity)?", re.IGNORECASE)
_DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+([eE][+-]?\d+)?")
_GROUPED = re.compile(r"[+-]?[1-9]\d{0,2},\d{3}")  # a thousand, or one to three decimals
_CLOCK = r"\d{1,2}:\d{2}(:\d{2}([.,]\d+)?)?( ?[AP]M)?"
_DAY = r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}"
_ZONE = r"(Z|UTC|[+-]\d{2}:?\d{2})"
_TIME = re.compile(rf"({_DAY}([ T]+{_CLOCK})?|{_CLOCK}|-?\d+ days?( .*)?) ?{_ZONE}?", re.IGNORECASE)
_TIME_NAMES = frozenset(("time", "timestamp", "date", "datetime"))


class Table(NamedTuple):
    """The numbers of one file.

    Attributes:
        file: Where they come from.
        values: The observed columns, (T, x_dim).
        inputs: The columns that drive them, (T, u_dim).
        names: Of the observed columns.
        times: Of the rows, where a column holds them, and their rhythm.
    """

    file: Path
    values: NDArray[np.float64]
    inputs: NDArray[np.float64]
    names: tuple[str, ...]
    times: Times = Times()


def read_csv_folder(
    folder: str | Path,
    *,
    columns: Sequence[str] | None = None,
    input_columns: Sequence[str] | None = None,
    pattern: str | None = None,
    header: bool | None = None,
    decimal: Literal[".", ","] | None = None,
    missing: bool = False,
    time: str | None = None,
    uneven: bool = False,
) -> list[Table]:
    """Read all CSV files of a folder and its subfolders, with the same columns in the same order.

    Recognised are the separator (comma, semicolon, tab), a decimal comma, UTF-8 and UTF-16, lines of comments (``#``),
    and whether the first line holds names: words above numbers, or the numbers 0, 1, 2, ... that pandas writes where
    columns have no names. Columns are found by name, whatever their order. Only the columns that are used need to be
    numbers.

    Where `columns` does not say what is wanted, three kinds of columns are left out, and the log names them: time
    stamps, columns called time, date, datetime or timestamp whose numbers increase, and a first column without a name
    whose numbers increase, which is the index of a DataFrame.

    A column of time stamps that is not observed says when: its dates must run forwards, and their rhythm is kept (see
    `read_times`). Dates that do not are no error in a column that is not the first, not called as above and not asked
    for by `time`: they may say something else, such as when a sensor was calibrated. The log names them.

    Arguments:
        folder: Where the files are; or one file.
        columns: Names of the columns to observe; without a line of names they are called "0", "1", ...
        input_columns: Names of the columns that drive the sequence.
        pattern: Which files, as for ``Path.glob``; by default ``.csv`` in any case, in subfolders too.
        header: Whether the first line (after comments) holds names; None finds out.
        decimal: The decimal sign; None finds out.
        missing: Whether an observed cell that is empty, or says NA or the like, is NaN; otherwise it is refused.
        time: The column that holds the times; None finds it. Of one that is named, also jumps are refused.
        uneven: Whether a model will read the steps between the times: then every file has to have times, as dates or as
            numbers, and they may jump.

    Returns:
        One table for each file, in the order of their paths.

    Raises:
        FileNotFoundError: No such folder, or no file that matches.
        ValueError: A file that is empty, not a table, lacks a value, or has other columns than the first one; commas
            between commas or tabs that may set off thousands as well as decimals; times that run backwards, repeat or,
            if asked for, jump; none, where a model is to read them.
    """
    files = _files(Path(folder), pattern)
    sheets = [_read(file, decimal) for file in files]
    _name_columns(sheets, header)
    inputs = [str(name) for name in input_columns or ()]
    if time is not None:
        _check_asked(sheets, [time])
    if columns is None:
        _check_same_columns(sheets)
        left_out = _left_out(sheets, [*inputs, *([] if time is None else [time])])
        for name, why in left_out.items():
            logger.warning(
                "%s: column %r is left out: %s. columns=[...] takes it in.", folder, name or "(unnamed)", why
            )
        observed = [name for name in sheets[0].names if name not in left_out and name not in (*inputs, time)]
        if not observed:
            raise ValueError(f"{sheets[0].file} has no column to observe; it has {_listed(sheets[0].names)}")
    else:
        observed = [str(name) for name in columns]
    _check_asked(sheets, [*observed, *inputs])
    used = [*observed, *inputs]
    if uneven and time is None:
        time = _column_of_times(sheets, used)
    times = [_times(sheet, time, used, uneven) for sheet in sheets]
    return [
        Table(sheet.file, sheet.numbers(observed, missing), sheet.numbers(inputs), tuple(observed), when)
        for sheet, when in zip(sheets, times, strict=True)
    ]


@dataclass
class _Sheet:
    """A file as rows of text, and the lines that they stand in."""

    file: Path
    rows: list[list[str]]
    lines: list[int]
    comma: bool
    names: list[str]

    def column(self, number: int) -> list[str]:
        return [row[number] for row in self.rows]

    def number(self, text: str) -> float | None:
        if not _NUMBER.fullmatch(text) or ("," in text and not self.comma):
            return None
        return float(text.replace(",", "."))

    def values(self, number: int) -> list[float | None]:
        return [self.number(text) for text in self.column(number)]

    def increases(self, number: int) -> bool:
        values = [value for value in self.values(number) if value is not None]
        return len(values) == len(self.rows) and all(b > a for a, b in pairwise(values))

    def holds_times(self, number: int) -> bool:
        texts = [text for text in self.column(number) if text.lower() not in _MISSING]
        return bool(texts) and all(_TIME.fullmatch(text) for text in texts)

    def numbers(self, names: Sequence[str], missing: bool = False) -> NDArray[np.float64]:
        """The columns of these names, NaN where a value may be `missing`; or an error with the line of no number."""
        values = np.empty((len(self.rows), len(names)))
        for place, name in enumerate(names):
            for row, (text, value) in enumerate(
                zip(self.column(self.names.index(name)), self.values(self.names.index(name)), strict=True)
            ):
                if value is None and missing and text.lower() in _MISSING:
                    value = np.nan
                if value is None:
                    raise self._no_number(self.lines[row], name, text)
                values[row, place] = value
        return values

    def _no_number(self, line: int, name: str, text: str) -> ValueError:
        where = f"{self.file}, line {line}, column {name!r}"
        if text.lower() in _MISSING:
            found = f" ({text!r})" if text else ""
            return ValueError(
                f"{where}: the value is missing{found}. Fill it in, or drop the row, before training; or say "
                "missing=True (on the command line --missing), for a model of what was observed."
            )
        if _TIME.fullmatch(text):
            return ValueError(f"{where}: expected a number, found the time {text!r}. Choose other columns=[...].")
        hint = " A decimal comma? decimal=',' reads it." if _DECIMAL_COMMA.fullmatch(text) else ""
        if _GROUPED.fullmatch(text):
            hint += " A thousand is written without one."
        return ValueError(
            f"{where}: expected a number, found {text[:60]!r}.{hint or ' columns=[...] chooses the columns to read.'}"
        )


def _files(folder: Path, pattern: str | None) -> list[Path]:
    if folder.is_file():
        return [folder]
    if pattern is not None:
        files = sorted(folder.glob(pattern))
    else:
        inside = [file.relative_to(folder) for file in sorted(folder.rglob("*")) if file.suffix.lower() == ".csv"]
        files = [folder / file for file in inside if not any(part.startswith(".") for part in file.parts)]
    files = [file for file in files if file.is_file()]
    if not files:
        what = f"has no file {pattern or '*.csv'}" if folder.is_dir() else "does not exist"
        raise FileNotFoundError(f"The folder {folder} {what}. Expected one CSV file for each sequence")
    return files


def _read(file: Path, decimal: str | None) -> _Sheet:
    content = file.read_bytes()
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{file} is not a text file in UTF-8 or UTF-16, so it is no CSV file that can be read: {error}"
        ) from error
    numbered = [(number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
    comments = [line for _, line in numbered if line.lstrip().startswith("#")]
    numbered = [(number, line) for number, line in numbered if not line.lstrip().startswith("#")]
    if not numbered:
        raise ValueError(f"{file} is empty; expected a row of numbers for each time step")
    delimiter = _delimiter([line for _, line in numbered[:20]], decimal)
    rows = [[field.strip() for field in row] for row in csv.reader((line for _, line in numbered), delimiter=delimiter)]
    if len(rows) != len(numbered):
        raise ValueError(f"{file} has a text over several lines in quotation marks; expected a row of numbers a line")
    lines = [number for number, _ in numbered]
    for number, row in zip(lines, rows, strict=True):
        if len(row) != len(rows[0]):
            hint = " Is it a decimal comma? decimal=',' reads it." if delimiter == "," and decimal is None else ""
            raise ValueError(f"{file}, line {number}: {len(row)} fields, but {len(rows[0])} in the first line.{hint}")
    names: list[str] = []
    if comments:  # as numpy.savetxt writes names
        fields = next(csv.reader([comments[-1].lstrip("# \t")], delimiter=delimiter))
        names = [field.strip() for field in fields] if len(fields) == len(rows[0]) else []
    cells = [field for row in rows for field in row]
    comma = decimal == "," or (
        decimal is None
        and any(_DECIMAL_COMMA.fullmatch(cell) for cell in cells)
        and not any("." in cell for cell in cells if _NUMBER.fullmatch(cell))
    )
    if comma and decimal is None and delimiter != ";":  # by which files with decimal commas are separated
        with_commas = [field for field in cells if _DECIMAL_COMMA.fullmatch(field)]
        if all(_GROUPED.fullmatch(field) for field in with_commas):
            cure = "decimal=','" if delimiter == "\t" else "a semicolon between the columns"
            raise ValueError(
                f"{file}: {with_commas[0]!r} may be a thousand and more, or a number with three decimals. {cure} says "
                "that it is the latter; thousands are written without a comma"
            )
    return _Sheet(file, rows, lines, comma, names)


def _delimiter(lines: list[str], decimal: str | None) -> str:
    """The separator that gives all lines the same number of fields; commas last, as they may be decimal signs."""
    possible = [d for d in _DELIMITERS if d != decimal]
    for delimiter in possible:
        widths = {len(row) for row in csv.reader(lines, delimiter=delimiter)}
        if len(widths) == 1 and widths != {1}:
            return delimiter
    return max(reversed(possible), key=lines[0].count)


def _name_columns(sheets: list[_Sheet], header: bool | None) -> None:
    """Take the names from the first lines where these hold them; number the columns where they do not."""
    counting = header is None and all(_counts(sheet) for sheet in sheets)
    for sheet in sheets:
        first = sheet.rows[0]
        if header or (header is None and not sheet.names and (counting or _are_names(sheet))):
            sheet.names, sheet.rows, sheet.lines = first, sheet.rows[1:], sheet.lines[1:]
            if not sheet.rows:
                raise ValueError(f"{sheet.file} has a line of column names and no data")
            if first[-1] == "" and not any(sheet.column(len(first) - 1)):  # a separator at the end of each line
                sheet.names, sheet.rows = first[:-1], [row[:-1] for row in sheet.rows]
        elif not sheet.names:
            sheet.names = [str(number) for number in range(len(first))]
            if len(first) > 1 and sheet.values(0) == list(range(len(sheet.rows))) and len(sheet.rows) > 2:
                logger.warning(
                    "%s: the first column counts the rows from 0. If it is no measurement, leave it out by columns=%s.",
                    *(sheet.file, sheet.names[1:]),
                )


def _are_names(sheet: _Sheet) -> bool:
    """Whether the first line holds words where the others hold numbers or times, or holds words only."""
    first = sheet.rows[0]
    words = [
        bool(field) and sheet.number(field) is None and not _TIME.fullmatch(field) and field.lower() not in _MISSING
        for field in first
    ]
    if any(words) and all(word or not field for word, field in zip(words, first, strict=True)):
        return True
    return any(
        word and any(sheet.number(row[k]) is not None or _TIME.fullmatch(row[k]) for row in sheet.rows[1:])
        for k, word in enumerate(words)
    )


def _counts(sheet: _Sheet) -> bool:
    """Whether the first line is what pandas writes for columns without names, and no frame of data."""
    first, below = sheet.rows[0], sheet.rows[1:]
    fields = first[1:] if first[0] == "" else first
    if fields != [str(k) for k in range(len(fields))] or not below:
        return False
    return first[0] == "" or any(not cell.lstrip("+-").isdigit() for row in below for cell in row)


def _check_same_columns(sheets: list[_Sheet]) -> None:
    first = sheets[0]
    for sheet in sheets:
        same = sheet.names == first.names or (
            sorted(sheet.names) == sorted(first.names) and len(set(first.names)) == len(first.names)
        )
        if not same:
            raise ValueError(
                f"{sheet.file} has {len(sheet.names)} columns ({_listed(sheet.names)}), but {first.file} has "
                f"{len(first.names)} ({_listed(first.names)}). All files must have the same columns, or columns=[...] "
                "names those to read"
            )


def _left_out(sheets: list[_Sheet], kept: Sequence[str]) -> dict[str, str]:
    """The columns that tell when, not what, with the reason."""
    reasons: dict[str, str] = {}
    for name in sheets[0].names:
        places = [(sheet, sheet.names.index(name)) for sheet in sheets]
        if name in kept:
            continue
        if all(sheet.holds_times(place) for sheet, place in places):
            reasons[name] = "it holds time stamps"
        elif name.lower() in _TIME_NAMES and all(sheet.increases(place) for sheet, place in places):
            reasons[name] = "by its name and its increasing numbers it is the time"
        elif name.lower() in ("", "unnamed: 0") and all(place == 0 and sheet.increases(0) for sheet, place in places):
            reasons[name] = "it has no name and increasing numbers, as the index of a DataFrame"
    return reasons


def _column_of_times(sheets: list[_Sheet], used: Sequence[str]) -> str:
    """The column that holds the times of all files, of those that tell when; time stamps before numbers."""
    found = [name for name in _left_out(sheets, used) if not _counts_rows(sheets, name)]
    if not found:
        raise ValueError(
            f"{sheets[0].file} has no column of times, whose steps the model is to read: name it, time=... (on the "
            f"command line --time COLUMN). There are {_listed(sheets[0].names)}"
        )
    stamps = [name for name in found if all(s.holds_times(s.names.index(name)) for s in sheets)]
    return sorted(stamps or found, key=lambda name: name.lower() not in _TIME_NAMES)[0]


def _counts_rows(sheets: list[_Sheet], name: str) -> bool:
    """Whether a column is the index that a DataFrame has where nobody gave it one."""
    places = [sheet.names.index(name) for sheet in sheets]
    rows = [sheet.values(place) for sheet, place in zip(sheets, places, strict=True)]
    return name.lower() in ("", "unnamed: 0") and all(list(row) == list(range(len(row))) for row in rows)


def _times(sheet: _Sheet, asked: str | None, used: Sequence[str], uneven: bool = False) -> Times:
    """The times of a sheet's rows, by the column that is asked for or the first that holds time stamps in every row."""
    names = [name for name in sheet.names if name not in used] if asked is None else [asked]
    for name in sorted(names, key=lambda name: name.lower() not in _TIME_NAMES):
        place = sheet.names.index(name)
        texts = sheet.column(place)
        if asked is not None or (texts and all(_TIME.fullmatch(text) for text in texts)):
            places = [f"{sheet.file}, line {line}, column {name!r}" for line in sheet.lines]
            try:
                return read_times(texts, sheet.values(place), places, asked is not None, column=name, uneven=uneven)
            except ValueError as error:
                if asked is not None or place == 0 or name.lower() in _TIME_NAMES:
                    raise
                logger.warning("%s. The column is not taken for the times of the rows; time=... names theirs.", error)
    return Times()


def _check_asked(sheets: list[_Sheet], asked: Iterable[str]) -> None:
    for sheet in sheets:
        missing = [name for name in asked if name not in sheet.names]
        if missing:
            raise ValueError(f"No column {', '.join(missing)} in {sheet.file}; it has {_listed(sheet.names)}")
        twice = [name for name in asked if sheet.names.count(name) > 1]
        if twice:
            raise ValueError(f"{sheet.file} has more than one column {', '.join(dict.fromkeys(twice))}; rename them")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(name or "(unnamed)" for name in names)
