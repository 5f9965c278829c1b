"""Which values a family of distributions gives a probability."""

import math
from typing import NamedTuple

__all__ = ["Support"]


class Support(NamedTuple):
    """The values of an entry that a family gives a probability.

    Attributes:
        low: The smallest one, -inf where there is none.
        high: The largest one, inf where there is none.
        whole: Whether only whole numbers count.

    Example:
        >>> str(Support(low=0.0))
        'numbers of at least 0'
    """

    low: float = -math.inf
    high: float = math.inf
    whole: bool = False

    @property
    def everything(self) -> bool:
        """Whether every real number is in it, so that data may be standardised."""
        return self == Support()

    @property
    def inside(self) -> float:
        """A value in it, 0 where that is one."""
        if self.low <= 0 <= self.high:
            return 0.0
        return min(max(0.0, self.low + 1), self.high) if math.isfinite(self.low) else self.high

    def holds(self, low: float, high: float, fraction: float = 0.0) -> bool:
        """Whether finite data between `low` and `high` lie in it; `fraction` is the largest distance to a whole one."""
        inside = self.low <= low and high <= self.high and math.isfinite(low) and math.isfinite(high)
        return inside and not (self.whole and fraction != 0)

    def __str__(self) -> str:
        if self.everything:
            return "real numbers"
        kind = "whole numbers" if self.whole else "numbers"
        if math.isfinite(self.low) and math.isfinite(self.high):
            return f"{kind} from {self.low:g} to {self.high:g}"
        if math.isinf(self.low):
            return f"{kind} up to {self.high:g}"
        return f"{kind} above 0" if 0 < self.low < 1e-300 else f"{kind} of at least {self.low:g}"
