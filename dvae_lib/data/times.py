"""The column of a file that says when: its times, whether they run forwards, and their rhythm."""

import logging
import re
import warnings
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from dvae_lib.data.labels import frequency_of

__all__ = ["Times", "read_times"]

logger = logging.getLogger("dvae_lib.data")

_DAY = re.compile(r"\d{1,4}[-/.]\d{1,2}([-/.]\d{1,4})?")
_DOTTED = re.compile(r"\d{1,2}\.\d{1,2}\.")
_YEAR_FIRST = re.compile(r"\d{3,4}")
_WINDOW = 8  # rows of which a rhythm is told where not all have one: more than a week of working days
_STEPS = "let the model read the steps: time_steps='input' (on the command line --time-steps input)"
_WINDOWS = 100  # so many are looked at: each costs milliseconds


class Times(NamedTuple):
    """The times of a file's rows.

    Attributes:
        index: A `DatetimeIndex`; None of plain numbers, of clock times without a day, and where pandas is missing.
        frequency: Their rhythm, as pandas writes it, such as "MS"; None where they have none.
        moments: The times themselves, where the steps between them are asked for: the index, or an array of numbers.
        column: The column that holds them.
    """

    index: Any = None
    frequency: str | None = None
    moments: Any = None
    column: str | None = None


def read_times(
    texts: Sequence[str],
    numbers: Sequence[float | None],
    places: Sequence[str],
    asked: bool,
    *,
    column: str | None = None,
    uneven: bool = False,
) -> Times:
    """Read a column of times and check its order and its rhythm.

    Days may come before months or after them. Taken is the order in which the times run forwards, and among two such
    that in which they have a rhythm; where both have one, the order in which they last longer (months rather than days
    of one month), and the log says so. Dates with dots have the day first. A rhythm is one of the calendar, such as
    months of different lengths, or one distance.

    Arguments:
        texts: The column, a text for each row.
        numbers: The same as numbers, None where a text is none.
        places: What to call each row in a message, with its file and line.
        asked: Whether the reader has named the column: then a jump is an error, and every row needs a time. Otherwise a
            jump is warned of, and what cannot be read as times has none.
        column: Its name, which is kept.
        uneven: Whether a model will read the steps between the times: then they may jump.

    Raises:
        ValueError: Times that run backwards or repeat; if asked, also those that jump, or that are no times.
    """
    if all(number is not None for number in numbers):
        _check_order(numbers, texts, places)
        if uneven:
            return Times(moments=np.array(numbers, dtype=np.float64), column=column)
        if asked:
            _check_steps([b - a for a, b in pairwise(numbers)], texts, places)  # type: ignore[operator]
        return Times()
    index = _parsed(texts, places)
    if index is None:
        if asked:
            raise ValueError(
                f"{places[0]}: {texts[0]!r} and the rows below cannot be read as times. Expected dates such as "
                "2024-03-31 or 2024-03-31 12:00, or numbers, in every row; dates are read by pandas"
            )
        return Times()
    _check_order(index, texts, places)
    frequency = frequency_of(index)
    if uneven:
        return Times(index, frequency, index, column)
    jump = _jump(index) if frequency is None and len(index) > 2 else None
    if jump is not None:
        said = (
            f"{places[jump + 1]}: the times jump from {texts[jump]} to {texts[jump + 1]}, where other rows have one "
            "distance: put the missing rows in, with empty cells (missing=True, on the command line --missing), "
            f"resample the series, or {_STEPS}"
        )
        if asked:
            raise ValueError(said)
        logger.warning("%s. As it stands, each row is taken for one step.", said)
    return Times(index, frequency)


def _parsed(texts: Sequence[str], places: Sequence[str]) -> Any:
    """Dates, by the order of day and month that makes most sense of them; None of what is none."""
    if not all(_DAY.match(text) for text in texts):
        return None
    try:
        import pandas as pd
    except ImportError:
        return None
    dotted = _DOTTED.match(texts[0]) is not None
    orders = (False,) if _YEAR_FIRST.match(texts[0]) else (dotted, not dotted)
    found = []
    for day_first in orders:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of days that can be no months
            try:
                index = pd.DatetimeIndex(pd.to_datetime(list(texts), dayfirst=day_first))
            except (ValueError, TypeError, OverflowError):
                continue
        if not index.hasnans:
            found.append((index, day_first))
    forwards = [(index, day_first) for index, day_first in found if index.is_monotonic_increasing]
    if dotted or len(forwards) < 2 or forwards[0][0].equals(forwards[1][0]):
        return next((index for index, _ in [*forwards, *found]), None)
    regular = [(index, day_first) for index, day_first in forwards if frequency_of(index) is not None] or forwards
    index, day_first = max(regular, key=lambda pair: pair[0][-1] - pair[0][0])
    if len(regular) > 1:
        logger.warning(
            "%s: the day or the month may come first in dates such as %s. Taken is %s. Dates such as 2024-03-31 leave "
            "no doubt.",
            *(places[-1], texts[-1], "the day" if day_first else "the month"),
        )
    return index


def _check_order(times: Any, texts: Sequence[str], places: Sequence[str]) -> None:
    for row, (before, now) in enumerate(pairwise(times), start=1):
        if now == before:
            raise ValueError(
                f"{places[row]}: the time {texts[row]} is there twice. Each row is one time step; several series in "
                "one file become one file each"
            )
        if now < before:
            raise ValueError(
                f"{places[row]}: the times run backwards, from {texts[row - 1]} to {texts[row]}. Sort the rows by "
                "time; several series in one file become one file each"
            )


def _check_steps(steps: Sequence[float], texts: Sequence[str], places: Sequence[str]) -> None:
    usual = sorted(steps)[len(steps) // 2] if steps else 0.0
    for row, step in enumerate(steps, start=1):
        if abs(step - usual) > 0.15 * usual:
            raise ValueError(
                f"{places[row]}: the times jump from {texts[row - 1]} to {texts[row]}, where other rows are {usual:g} "
                f"apart: put the missing rows in, with empty cells, resample the series, or {_STEPS}"
            )


def _jump(index: Any) -> int | None:
    """The row before the first that is not where the rhythm of the others puts it."""
    import pandas as pd

    steps = index[1:] - index[:-1]
    usual = index[:-1] + steps.to_series().median()
    starts = max(len(index) - _WINDOW, 0) + 1
    for start in range(0, starts, -(-starts // _WINDOWS)):
        known = frequency_of(index[start : start + _WINDOW])
        if known is not None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of offsets that are added one by one
                usual = index[:-1] + pd.tseries.frequencies.to_offset(known)
            break
    odd = abs((index[1:] - usual) / (usual - index[:-1])) > 0.15
    return int(odd.argmax()) if odd.any() else None
