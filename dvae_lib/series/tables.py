"""Tables in, tables of the same kind out: NumPy arrays, or DataFrames with their columns and times."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Table", "following_index", "like", "named"]

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


def array(values: Tensor) -> NDArray[Any]:
    """A tensor from wherever it lies, as NumPy."""
    return values.detach().cpu().numpy()


def _frame(values: NDArray[Any], index: Any, columns: Any) -> Any:
    import pandas as pd  # whoever hands in a DataFrame has it

    return pd.DataFrame(values, index=index, columns=columns)


def following_index(index: Any, steps: int) -> Any:
    """The times after those of a DataFrame, at their own rhythm.

    Arguments:
        index: Dates at a regular frequency, periods, or numbers with one step between them.
        steps: How many.

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
        frequency = index.freq or (pd.DatetimeIndex(index, freq="infer").freq if len(index) > 2 else None)
        if frequency is None:
            raise ValueError(_no_rhythm(index))
        return pd.date_range(index[-1], periods=steps + 1, freq=frequency)[1:]
    if isinstance(index, pd.RangeIndex):
        return pd.RangeIndex(index.stop, index.stop + steps * index.step, index.step)
    values = np.asarray(index)
    if len(values) > 1 and values.dtype.kind in "iuf":
        distances = np.diff(values)
        if np.allclose(distances, distances[0], rtol=1e-6, atol=0) and distances[0] != 0:
            return pd.Index(values[-1] + distances[0] * np.arange(1, steps + 1), name=index.name)
    raise ValueError(_no_rhythm(index))


def _no_rhythm(index: Any) -> str:
    return (
        f"the times of the series ({type(index).__name__} of {len(index)}) have no rhythm to go on with: expected "
        "dates of a regular frequency, periods, or numbers with one step between them. Resample the series, or "
        "forecast from its values: x.to_numpy()"
    )
