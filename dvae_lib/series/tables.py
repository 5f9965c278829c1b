"""Tables in, tables of the same kind out: NumPy arrays, or DataFrames with their columns and times."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from dvae_lib.data.labels import column_names, difference, frequency_of

__all__ = ["Table", "check_labels", "following_index", "like", "named", "side_by_side", "uneven_index"]

Table = Any
"""A NumPy array of shape (T, D), or, where a DataFrame was given, a DataFrame of the same columns."""


def like(given: Table, values: Tensor, index: Any = None) -> Table:
    """Values (T, D) as what was given: a DataFrame of the same columns, or an array.

    Arguments:
        given: What the reader handed in.
        values: In the units of the data.
        index: The times of a DataFrame; by default those of the given one.
    """
    if not hasattr(given, "iloc"):
        return array(values)
    return _frame(array(values), given.index if index is None else index, given.columns)


def named(given: Table, values: Tensor, name: str) -> Table:
    """Values that are no columns of the data: (T,) under one name, (T, L) under numbered ones. Arrays stay arrays."""
    if not hasattr(given, "iloc"):
        return array(values)
    if values.ndim == 1:
        return _frame(array(values)[:, None], given.index, [name])[name]
    return _frame(array(values), given.index, [f"{name}{i}" for i in range(values.shape[1])])


def side_by_side(tables: dict[str, Table], columns: tuple[str, ...] | None, first: int = 0) -> Any:
    """Tables of the same columns as one DataFrame, in which each table's ending follows its columns' names.

    Arguments:
        tables: By their endings; the columns of an empty one keep their names.
        columns: The names; None numbers them.
        first: Number of the first frame, of arrays.
    """
    import pandas as pd

    parts = []
    for ending, table in tables.items():
        values = np.asarray(table)
        names = columns or tuple(map(str, range(values.shape[1])))
        index = getattr(table, "index", pd.RangeIndex(first, first + len(values), name="frame"))
        parts.append(_frame(values, index, [f"{name} {ending}".rstrip() for name in names]))
    return pd.concat(parts, axis=1)


def check_labels(given: Table, columns: tuple[str, ...] | None, frequency: str | None, name: str) -> None:
    """Refuse a DataFrame of other columns than the training's, or at another rhythm; arrays have neither.

    Arguments:
        given: What the reader handed in.
        columns: Those of the training; None where they had no names.
        frequency: Of the training's times; None where they had none.
        name: What to call the table.

    Raises:
        ValueError: A column too few or too many, or not at its place; times at other distances.
    """
    found = column_names(given)
    wrong = None if columns is None or found is None else difference(found, columns, name)
    if wrong:
        raise ValueError(wrong)
    index = getattr(given, "index", None)
    if frequency is not None and (hasattr(index, "tz") or hasattr(index, "to_timestamp")):  # dates or periods
        _check_rhythm(index, frequency, name)


def _check_rhythm(index: Any, frequency: str, name: str) -> None:
    """Refuse times whose distances are others than those of a frequency, but for months of different lengths."""
    import pandas as pd

    times = index.to_timestamp() if isinstance(index, pd.PeriodIndex) else index
    if len(times) < 2:
        return
    usual = pd.date_range(times[0], periods=len(times), freq=frequency)
    distances, expected = (np.diff(t.to_numpy("datetime64[ns]")).astype(float) for t in (times, usual))
    odd = np.abs(distances / expected - 1) > 0.15
    if odd.any():
        own = frequency_of(index)
        place = int(odd.argmax())
        what = f"one every {own!r}" if own else f"none after {times[place]} but at {times[place + 1]}"
        raise ValueError(
            f"the model was trained on one row every {frequency!r}, and {name} has {what}: resample it, or, where rows "
            f"are missing, put them in by {name}.asfreq({frequency!r}) and say missing=True"
        )


def array(values: Tensor) -> NDArray[Any]:
    """A tensor from wherever it lies, as NumPy."""
    return values.detach().cpu().numpy()


def _frame(values: NDArray[Any], index: Any, columns: Any) -> Any:
    import pandas as pd  # whoever hands in a DataFrame has it

    return pd.DataFrame(values, index=index, columns=columns)


def following_index(index: Any, steps: int, frequency: str | None = None) -> Any:
    """The times after those of a DataFrame, at their own rhythm.

    Arguments:
        index: Dates at a regular frequency, periods, or numbers with one step between them.
        steps: How many.
        frequency: Of dates that are too few to show one.

    Raises:
        ValueError: Times without a rhythm, or a single one of which none can be told.

    Example:
        >>> import pandas as pd
        >>> following_index(pd.date_range("2020-11-01", periods=5, freq="MS"), 2).strftime("%Y-%m-%d").tolist()
        ['2021-04-01', '2021-05-01']
        >>> following_index(pd.RangeIndex(0, 10, 2), 3)
        RangeIndex(start=10, stop=16, step=2)
    """
    import pandas as pd

    if isinstance(index, pd.PeriodIndex):
        return pd.period_range(index[-1] + 1, periods=steps, freq=index.freq)
    if isinstance(index, pd.DatetimeIndex):
        own = index.freq or (pd.DatetimeIndex(index, freq="infer").freq if len(index) > 2 else frequency)
        if own is None:
            raise ValueError(_no_rhythm(index))
        if not pd.tseries.frequencies.to_offset(own).is_on_offset(index[-1]):
            raise ValueError(_no_rhythm(index))
        return pd.date_range(index[-1], periods=steps + 1, freq=own)[1:]
    if isinstance(index, pd.RangeIndex):
        return pd.RangeIndex(index.stop, index.stop + steps * index.step, index.step)
    values = np.asarray(index)
    if len(values) > 1 and values.dtype.kind in "iuf":
        distances = np.diff(values)
        if np.allclose(distances, distances[0], rtol=1e-6, atol=0) and distances[0] != 0:
            return pd.Index(values[-1] + distances[0] * np.arange(1, steps + 1), name=index.name)
    raise ValueError(_no_rhythm(index))


def uneven_index(times: Any, steps: int, median: float, frequency: str | None, given: Any = None) -> Any:
    """The times after those of a series that need not be evenly spaced.

    Arguments:
        times: Dates, durations or numbers.
        steps: How many.
        median: By which they go on, in seconds or in the unit of the numbers.
        frequency: The rhythm of the training; where it had one, it goes on.
        given: The times to come, where they are known.

    Example:
        >>> uneven_index([0.0, 0.5, 3.0], 2, 1.5, None).tolist()
        [4.5, 6.0]
    """
    import pandas as pd

    index = pd.Index(times)
    if index.dtype == object:  # such as dates of the standard library
        index = pd.to_datetime(index)
    if given is not None:
        return pd.Index(given, name=index.name)
    if frequency is not None or isinstance(index, pd.PeriodIndex):
        return following_index(index, steps, frequency)
    ahead = median * np.arange(1, steps + 1)
    dated = isinstance(index, pd.DatetimeIndex | pd.TimedeltaIndex)
    return pd.Index(index[-1] + (pd.to_timedelta(ahead, unit="s") if dated else ahead), name=index.name)


def _no_rhythm(index: Any) -> str:
    return (
        f"the times of the series ({type(index).__name__} of {len(index)}) have no rhythm to go on with: expected "
        "dates of a regular frequency, periods, or numbers with one step between them. Resample the series, or "
        "forecast from its values: x.to_numpy()"
    )
