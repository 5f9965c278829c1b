"""How much work a notebook does: seconds for a test, minutes for the published page, hours for the protocol."""

import os
from typing import Literal, TypeVar, cast

__all__ = ["Budget", "budget", "choose"]

Budget = Literal["ci", "book", "full"]
T = TypeVar("T")

_BUDGETS = ("ci", "book", "full")


def budget() -> Budget:
    """The budget that the environment variable ``DVAE_BUDGET`` names; "book" where it is not set.

    Raises:
        ValueError: If it names none of "ci", "book" and "full".
    """
    name = os.environ.get("DVAE_BUDGET", "") or "book"
    if name not in _BUDGETS:
        raise ValueError(
            f"DVAE_BUDGET={name!r} is not a budget: use 'ci' (seconds, for tests), 'book' (what the published "
            "pages show) or 'full' (the review's protocol, for a GPU)"
        )
    return cast(Budget, name)


def choose(*, ci: T, book: T, full: T) -> T:
    """The value that goes with the current budget.

    Example:
        >>> epochs = choose(ci=1, book=20, full=500)
    """
    return {"ci": ci, "book": book, "full": full}[budget()]
