"""Values that change from epoch to epoch: KL warm-up, scheduled sampling, learning rates."""

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

__all__ = ["Number", "Schedule"]

Number = int | float
"""Type checks at run time do not count whole numbers among the floats."""


@dataclass(frozen=True)
class Schedule:
    """A value as a function of the number of completed epochs: straight lines between given points.

    Before the first point and after the last one the value stays as it is there.

    Arguments:
        points: Pairs (completed epochs, value), the epochs whole and ascending.

    Example:
        >>> warm_up = Schedule.linear(0.0, 1.0, epochs=50)  # of the KL terms, Section 13.2.3
        >>> warm_up(0), warm_up(25), warm_up(50), warm_up(80)
        (0.0, 0.5, 1.0, 1.0)
        >>> feedback = Schedule.scheduled_sampling(every=50)  # Section 13.3.3
        >>> feedback(0), feedback(49), feedback(50), feedback(499)
        (0.2, 0.2, 0.4, 1.0)
    """

    points: tuple[tuple[Number, Number], ...]

    def __post_init__(self) -> None:
        try:
            points = tuple((_whole(epoch), float(value)) for epoch, value in self.points)
        except (TypeError, ValueError) as error:
            raise ValueError(f"A schedule is made of pairs (epoch, value) of numbers; got {self.points!r}") from error
        epochs = [epoch for epoch, _ in points]
        if not points or epochs[0] < 0 or any(a >= b for a, b in pairwise(epochs)):
            raise ValueError(f"A schedule needs ascending epochs from 0 on; got {epochs}")
        if not all(math.isfinite(value) for _, value in points):
            raise ValueError(f"The values of a schedule must be finite; got {points}")
        object.__setattr__(self, "points", points)

    def __call__(self, epoch: int) -> Number:
        """The value during the epoch that starts after so many completed ones."""
        after = bisect_right([e for e, _ in self.points], epoch)
        if after in (0, len(self.points)):
            return self.points[max(after - 1, 0)][1]
        (e0, v0), (e1, v1) = self.points[after - 1 : after + 1]
        return v0 + (v1 - v0) * (epoch - e0) / (e1 - e0)

    @property
    def final(self) -> Number:
        """The value that the schedule ends with."""
        return self.points[-1][1]

    @property
    def settled(self) -> int:
        """The number of completed epochs after which the value is the final one for good."""
        last_change = max((e for e, v in self.points[:-1] if v != self.final), default=None)
        if last_change is None:
            return 0
        return next(int(e) for e, _ in self.points if e > last_change)

    @classmethod
    def constant(cls, value: Number) -> "Schedule":
        """The same value in every epoch."""
        return cls(((0, value),))

    @classmethod
    def linear(cls, start: Number, stop: Number, epochs: int) -> "Schedule":
        """From ``start`` in the first epoch, in equal steps after each one, to ``stop`` after so many."""
        return cls(((0, start), (epochs, stop)))

    @classmethod
    def steps(cls, values: Sequence[Number], every: int) -> "Schedule":
        """One value after the other, each for so many epochs; the last one stays."""
        if every < 1 or not values:
            raise ValueError(f"Steps need values and a positive number of epochs; got {values!r} and {every}")
        points: list[tuple[Number, Number]] = []
        for i, value in enumerate(values):
            points.append((i * every, value))
            if every > 1 and i + 1 < len(values):
                points.append(((i + 1) * every - 1, value))
        return cls(tuple(points))

    @classmethod
    def scheduled_sampling(cls, every: int) -> "Schedule":
        """The share of own output of Section 13.3.3: 0.2, 0.4, 0.6 and 0.8 for so many epochs each, then 1."""
        return cls.steps([0.2, 0.4, 0.6, 0.8, 1.0], every)

    @classmethod
    def of(cls, value: "Schedule | Number | Iterable[Sequence[Number]]") -> "Schedule":
        """A schedule from a number (constant), from pairs as `to_json` gives them, or from itself."""
        if isinstance(value, Schedule):
            return value
        plain: object = value.item() if isinstance(value, np.generic) else value
        if isinstance(plain, bool | str) or plain is None:
            raise ValueError(f"Expected a number, a Schedule or pairs (epoch, value); got {value!r}")
        if isinstance(plain, int | float):
            return cls.constant(plain)
        return cls(tuple((epoch, v) for epoch, v in value))  # type: ignore[union-attr]  # a number is none

    def to_json(self) -> Number | list[list[Number]]:
        """A number where the value is constant, otherwise the list of points."""
        return self.final if len(self.points) == 1 else [[epoch, value] for epoch, value in self.points]


def _whole(epoch: Number) -> int:
    if int(epoch) != epoch:
        raise ValueError(f"{epoch} is not a whole number of epochs")
    return int(epoch)
