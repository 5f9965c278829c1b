"""What tables say beside their numbers: the names of their columns, and the rhythm of their times."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from dvae_lib.data.steps import TimeSteps

__all__ = ["Labels", "check_dates_ahead", "column_names", "column_numbers", "difference", "frequency_of", "labels_of"]


class Labels(NamedTuple):
    """What is kept of tables with a model that was trained on them.

    Attributes:
        columns: Names of the observed columns; None where they have none.
        input_columns: The same of the inputs.
        frequency: Of the times, as pandas writes it, such as "MS"; None where the times have no rhythm.
        time_steps: The scale of the steps of time, where a model reads them as its last input; None where it does not.
    """

    columns: tuple[str, ...] | None = None
    input_columns: tuple[str, ...] | None = None
    frequency: str | None = None
    time_steps: TimeSteps | None = None

    def to_dict(self) -> dict[str, Any]:
        """What is known of them, ready for JSON."""
        known = {name: list(v) if isinstance(v, tuple) else v for name, v in self._asdict().items() if v is not None}
        return known if self.time_steps is None else {**known, "time_steps": self.time_steps._asdict()}

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> "Labels":
        """What `to_dict` wrote."""
        columns, inputs = (tuple(state[n]) if n in state else None for n in ("columns", "input_columns"))
        steps = TimeSteps(**state["time_steps"]) if "time_steps" in state else None
        return cls(columns, inputs, state.get("frequency"), steps)


def labels_of(sequences: Iterable[Any], inputs: Iterable[Any] | None, names: Sequence[str]) -> Labels:
    """The labels that all tables have in common.

    Arguments:
        sequences: DataFrames, or arrays, which have no labels.
        inputs: What drives them.
        names: One for each sequence, for messages.

    Raises:
        ValueError: Tables of different columns, or of the same ones in another order; dates that run backwards or
            repeat, or that are others than those of the inputs.
    """
    tables, driving = list(sequences), None if inputs is None else list(inputs)
    for number, (name, table) in enumerate(zip(names, tables, strict=False)):
        _check_dates(table, f"Sequence {name}")
        if driving is not None and number < len(driving):
            _check_same_dates(table, driving[number], f"sequence {name}")
    frequencies = {frequency_of(getattr(table, "index", None)) for table in tables}
    return Labels(
        _common(tables, names, "Sequence"),
        None if driving is None else _common(driving, names, "Input of sequence"),
        frequencies.pop() if len(frequencies) == 1 else None,
    )


def column_names(table: Any) -> tuple[str, ...] | None:
    """The names of a table's columns; None of an array, and where they merely number the columns.

    Raises:
        ValueError: Two columns have one name.

    Example:
        >>> import pandas as pd
        >>> column_names(pd.DataFrame({"heat": [20.5], "level": [1.0]}))
        ('heat', 'level')
        >>> column_names(pd.DataFrame([[20.5, 1.0]]))  # columns 0 and 1
    """
    columns = getattr(table, "columns", None)
    if columns is None:
        return None
    names = tuple(map(str, columns))
    if names == tuple(map(str, range(len(names)))):
        return None
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ValueError(f"more than one column is called {twice[0]!r}; rename them")
    return names


def column_numbers(which: Sequence[str | int], names: Sequence[str] | None, size: int) -> list[int]:
    """Where columns stand that are told by their names or their numbers.

    Arguments:
        which: The columns.
        names: Of all columns; None where they have none.
        size: How many there are.

    Raises:
        ValueError: There is no such column.

    Example:
        >>> column_numbers(["level", 0], ("heat", "level"), 2)
        [1, 0]
    """
    known = {str(i): i for i in range(size)} | {name: i for i, name in enumerate(names or ())}
    for column in which:
        if str(column) not in known:
            raise ValueError(f"there is no column {column!r}; the data have {', '.join(names or known)}")
    return [known[str(column)] for column in which]


def difference(found: Sequence[str], wanted: Sequence[str], name: str) -> str | None:
    """What is wrong with columns that must be certain ones, in a sentence that names the first at fault; None: nothing.

    Arguments:
        found: The columns that are there.
        wanted: Those of the training.
        name: What the table is called.
    """
    cure = f"take the columns [{list(wanted)}] of it"
    for column in wanted:
        if column not in found:
            return f"{name} has no column {column!r}, as in training; it has {', '.join(found)}"
    for column in found:
        if column not in wanted:
            return f"{name} has a column {column!r}, which the training had not: {cure}"
    for place, (column, own) in enumerate(zip(found, wanted, strict=True)):
        if column != own:
            return f"column {place} of {name} is {column!r}, but was {own!r} in training: {cure}, in this order"
    return None


def frequency_of(index: Any) -> str | None:
    """The rhythm of dates or periods as pandas writes it; None of numbers, of fewer than three, and of irregular ones.

    Example:
        >>> import pandas as pd
        >>> frequency_of(pd.to_datetime(["2020-01-01", "2020-02-01", "2020-03-01"]))
        'MS'
    """
    if not (hasattr(index, "tz") or hasattr(index, "to_timestamp")):  # neither dates nor periods
        return None
    import pandas as pd  # whoever has such an index has it

    if isinstance(index, pd.PeriodIndex):  # by their starts, of which a few are enough
        index = pd.period_range(index[0], periods=3, freq=index.freq).to_timestamp()
    if index.freq is None and len(index) > 2:
        index = pd.DatetimeIndex(index, freq="infer")
    known: str | None = index.freqstr
    return known


def check_dates_ahead(x: Any, inputs: Any) -> None:
    """Refuse inputs whose dates do not begin with those of x; they may reach further.

    Raises:
        ValueError: Other dates.
    """
    _check_same_dates(x, inputs, "x")


def _dates(table: Any) -> Any:
    """The dates of a table, or the starts of its periods; None where it has neither."""
    index: Any = getattr(table, "index", None)
    if hasattr(index, "to_timestamp"):
        return index.to_timestamp()
    return index if hasattr(index, "tz") else None


def _check_dates(table: Any, name: str) -> None:
    dates = _dates(table)
    if dates is None or (dates.is_monotonic_increasing and dates.is_unique):
        return
    wrong = next(i for i in range(1, len(dates)) if not dates[i] > dates[i - 1])
    what = "repeat" if dates[wrong] == dates[wrong - 1] else "run backwards"
    raise ValueError(
        f"{name}: its dates {what} at frame {wrong}, from {dates[wrong - 1]} to {dates[wrong]}. Each row is one time "
        "step: sort them, x.sort_index(); several series in one table become one table each"
    )


def _check_same_dates(table: Any, inputs: Any, name: str) -> None:
    own, theirs = _dates(table), _dates(inputs)
    if own is None or theirs is None or len(theirs) < len(own):
        return
    if not (own == theirs[: len(own)]).all():
        wrong = int((own != theirs[: len(own)]).argmax())
        raise ValueError(
            f"frame {wrong} of {name} is of {own[wrong]}, but its input of {theirs[wrong]}: take the inputs of the "
            "same dates, such as u.loc[x.index]"
        )


def _common(tables: Sequence[Any], names: Sequence[str], what: str) -> tuple[str, ...] | None:
    found = [column_names(table) for table in tables]
    first = found[0] if found else None
    if first is None or None in found:
        return None
    for name, own in zip(names[1:], found[1:], strict=False):
        wrong = difference(own or (), first, f"{what} {name}")
        if wrong:
            raise ValueError(f"{wrong}. All tables must have the columns of {what.lower()} {names[0]}, in its order")
    return first
