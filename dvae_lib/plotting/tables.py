"""Tables under a notebook cell."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from IPython.display import Markdown

__all__ = ["mean_and_range", "show_table"]


def show_table(columns: Sequence[str], rows: Iterable[Sequence[object]], digits: int = 3) -> "Markdown":
    """A table under a notebook cell, in which words may hold formulas and links.

    Arguments:
        columns: The heads.
        rows: The cells of each row, from left to right. Floats and single-valued tensors are rounded, truth values
            become "yes" and "–", None an empty cell; everything else is written as it is.
        digits: After the point.

    Returns:
        What a notebook displays.

    Raises:
        ValueError: If a row has another number of cells than there are columns.
        ImportError: Outside Jupyter, where IPython is not installed.

    Example:
        >>> print(show_table(["model", "nats"], [["VAE", -1.23456], ["DKF", None]]).data)
        | model | nats |
        |---|--:|
        | VAE | -1.235 |
        | DKF |  |
    """
    try:
        from IPython.display import Markdown
    except ImportError as error:
        raise ImportError("show_table needs IPython: pip install ipython") from error

    def written(value: object) -> str:
        if value is None:
            return ""
        if isinstance(value, bool):
            return "yes" if value else "–"
        if isinstance(value, torch.Tensor):
            value = value.item()
        if isinstance(value, float):  # a NumPy float is one
            return _rounded(value, digits)
        return str(value)

    listed = [list(row) for row in rows]
    for row in listed:
        if len(row) != len(columns):
            raise ValueError(f"Expected rows of {len(columns)} cells, one for each column; got {row}")
    cells = [[written(value) for value in row] for row in listed]
    numbers = [all(not isinstance(row[k], str | bool) for row in listed) for k in range(len(columns))]
    rule = "|" + "".join("--:|" if number and listed else "---|" for number in numbers)
    lines = (f"| {' | '.join(line)} |" for line in (list(columns), *cells))
    head, *body = lines
    return Markdown("\n".join([head, rule, *body]))  # type: ignore[no-untyped-call]


def mean_and_range(values: Iterable[float], digits: int = 2) -> str:
    """A number of several trainings, for a cell: the mean, and in brackets the smallest and the largest.

    Arguments:
        values: One of each training.
        digits: After the point.

    Returns:
        The mean alone where there is one value, an empty text where there is none.

    Example:
        >>> mean_and_range([-7.56, -7.49]), mean_and_range([8.4], digits=0), mean_and_range([])
        ('-7.53 (-7.56 to -7.49)', '8', '')
    """
    listed = [float(value) for value in values]
    if not listed:
        return ""
    mean, least, most = (_rounded(v, digits) for v in (sum(listed) / len(listed), min(listed), max(listed)))
    return mean if len(listed) == 1 else f"{mean} ({least} to {most})"


def _rounded(value: float, digits: int) -> str:
    """A number as text, and zero without a sign: nobody measures -0.00."""
    return f"{round(value, digits) + 0.0:.{digits}f}"
