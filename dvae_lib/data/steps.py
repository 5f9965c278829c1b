r"""The time from one frame to the next, as a number that a model can read.

Frames that are not evenly spaced come at times :math:`\tau_1 < \tau_2 < \dots` A driven model reads, as one more entry
of its input :math:`\mathbf{u}_t`, the logarithm of the step against the median step of the training,

.. math:: \log \frac{\tau_t - \tau_{t-1}}{\mathrm{median}},

and 0 in the first frame, before which there is none. Another unit of time changes nothing, equal steps are zeros, and
a step of a second and one of a day, side by side in one series, both lie within reach of a network.
"""

from collections.abc import Sequence
from datetime import date, timedelta, timezone
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["TimeSteps", "steps_between"]

_NANOSECONDS = 1e9
_ROUNDING = 1e-6  # in differences of times that are large against them; so near to the median a step is one


class TimeSteps(NamedTuple):
    """The scale of a model's time steps, which is kept with it.

    Attributes:
        median: The median step of the training: in seconds between dates and durations, of numbers in their own unit.
        seconds: Whether times are dates or durations, and not numbers.
        column: The column of CSV files that held the times.

    Example:
        >>> scale = TimeSteps(median=2.0)
        >>> scale.column_of([0, 2, 4, 8]).round(3).tolist()
        [[0.0], [0.0], [0.0], [0.693]]
    """

    median: float
    seconds: bool = False
    column: str | None = None

    @classmethod
    def fit(cls, steps: Sequence[NDArray[np.float64]], *, seconds: bool, column: str | None = None) -> "TimeSteps":
        """The scale of training sequences, from what `steps_between` says of each.

        Raises:
            ValueError: No sequence has two frames.
        """
        every = np.concatenate([step[step > 0] for step in steps])
        if not len(every):
            raise ValueError("time steps need sequences of two frames at least; every one for training has but one")
        return cls(float(np.median(every)), seconds, column)

    def scaled(self, steps: NDArray[np.float64]) -> NDArray[np.float64]:
        """Steps, (T,), as the entry of the input, (T, 1); 0 stays 0, for a frame without one before."""
        ratio = np.where(steps > 0, steps, self.median) / self.median
        return np.where(np.abs(ratio - 1) < _ROUNDING, 0.0, np.log(ratio))[:, None]

    def column_of(self, *times: Any, name: str = "the times") -> NDArray[np.float64]:
        """The entry of the input at given times, (T, 1).

        Arguments:
            times: See `steps_between`.
            name: What to call them in a message.

        Raises:
            ValueError: See `steps_between`; dates where the training had numbers, or the reverse.
        """
        steps, seconds = steps_between(*times, name=name)
        if seconds != self.seconds:
            kinds = ("numbers", "dates")
            raise ValueError(f"{name} must be {kinds[self.seconds]}, as in training; got {kinds[seconds]}")
        return self.scaled(steps)


def steps_between(*times: Any, name: str = "the times") -> tuple[NDArray[np.float64], bool]:
    """The step to each frame from the one before, (T,), the first 0; and whether times are dates or durations.

    Arguments:
        times: Dates, durations or numbers, one for each frame: an index of pandas, an array, or a list; or several
            of them, such as past and future, that follow each other.
        name: What to call them in a message.

    Raises:
        ValueError: Times that are missing, not finite, run backwards or repeat, or merely count the rows of a
            DataFrame.
        TypeError: What is no time.
    """
    found = [_values(part, name) for part in times]
    values, kinds = np.concatenate([part for part, _ in found]), list(dict.fromkeys(kind for _, kind in found))
    if len(kinds) > 1:
        raise ValueError(f"{name} must be of one kind; got {' and '.join(kinds)}")
    seconds = kinds != ["numbers"]
    steps = np.diff(values)
    wrong = np.flatnonzero(~(steps > 0))
    if len(wrong):
        frame = int(wrong[0]) + 1
        what = "repeat" if steps[frame - 1] == 0 else "run backwards"
        raise ValueError(
            f"{name} {what} at frame {frame}; sort the frames by time, and make one of those of the same time"
        )
    return np.concatenate([[0.0], steps / _NANOSECONDS if seconds else steps.astype(np.float64)]), seconds


def _values(times: Any, name: str) -> tuple[NDArray[Any], str]:
    """Times as numbers, whole nanoseconds of dates and durations, which a float would round; and what they are."""
    if _counts_rows(times):
        raise ValueError(
            f"{name} are not there: the index of the DataFrame only counts its rows. Make the column of the times its "
            "index, table.set_index(...), or hand them over as times=..."
        )
    zoned = _zoned(times, name)
    times = getattr(times, "array", times)  # of an index or a column of pandas
    if hasattr(times, "to_timestamp"):  # periods, by their starts
        times = times.to_timestamp()
    if hasattr(times, "tz"):  # of dates with a time zone, NumPy would make objects
        times = times.to_numpy("datetime64[ns]")
    values = np.asarray(times.detach().cpu() if hasattr(times, "detach") else times)
    if values.dtype == object:  # a list of dates
        try:
            values = np.array([_instant(time) for time in values.flat]).reshape(values.shape)
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"{name} must be dates or numbers; got {type(values.flat[0]).__name__}. pandas.to_datetime makes dates "
                "of texts"
            ) from error
    kind = {"M": "dates with a time zone" if zoned else "dates", "m": "durations"}.get(values.dtype.kind, "numbers")
    if values.dtype.kind in "mM":
        lost = np.isnat(values)
        values = values.astype(f"{values.dtype.kind}8[ns]").astype(np.int64)
    elif values.dtype.kind in "iuf":
        values = values.astype(np.float64) if values.dtype.kind == "f" else values.astype(np.int64)
        lost = ~np.isfinite(values)
    else:
        raise TypeError(
            f"{name} must be dates or numbers; got an array of {values.dtype}. pandas.to_datetime makes dates of texts"
        )
    if lost.any():
        raise ValueError(f"{name} must be finite, and none may be missing; got {int(lost.sum())} that are")
    if values.ndim != 1 or not len(values):
        raise ValueError(f"{name} must be one for each frame, (T,); got shape {values.shape}")
    return values, kind


def _zoned(times: Any, name: str) -> bool:
    """Whether they are dates that know their time zone."""
    if not isinstance(times, list | tuple):
        return getattr(getattr(times, "dtype", times), "tz", None) is not None
    known = {getattr(time, "tzinfo", None) is not None for time in times if isinstance(time, date)}
    if len(known) > 1:
        raise ValueError(f"{name} must be dates that all know their time zone, or dates without one; got both")
    return known == {True}


def _instant(time: Any) -> np.datetime64 | np.timedelta64:
    """A date, or a duration; a date that knows its time zone in universal time."""
    if isinstance(time, timedelta):
        return np.timedelta64(getattr(time, "value", None) or time, "ns")
    if hasattr(time, "to_datetime64"):  # of pandas, to the nanosecond
        found: np.datetime64 = time.to_datetime64()
        return found
    if getattr(time, "tzinfo", None) is not None:
        time = time.astimezone(timezone.utc).replace(tzinfo=None)
    if not isinstance(time, date | np.datetime64 | np.timedelta64):
        raise TypeError("a text is no date yet, nor is a number among objects")
    moment: Any = time  # its kinds are many overloads to NumPy
    return time if isinstance(time, np.timedelta64) else np.datetime64(moment, "ns")


def _counts_rows(times: Any) -> bool:
    """Whether it is the index that a DataFrame has where nobody gave it one."""
    return type(times).__name__ == "RangeIndex" and (times.start, times.step) == (0, 1)
