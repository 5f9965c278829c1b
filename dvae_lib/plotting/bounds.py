"""Bounds of several models and trainings side by side."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from dvae_lib.plotting.style import COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_bounds"]


def plot_bounds(axis: "Axes", cases: Mapping[str, tuple[Iterable[tuple[float, float]], str]]) -> None:
    """One row per case, and in it one line per training: from its bound (open) to its tighter bound (full).

    Arguments:
        axis: Where to draw.
        cases: Titles of the rows, from above, with the pairs of bounds of each training, such as VLB and
            importance-weighted bound, and a name among `COLOURS`.

    Raises:
        KeyError: If there is no such colour.

    Example:
        >>> import matplotlib.pyplot as plt
        >>> _, axis = plt.subplots()
        >>> plot_bounds(axis, {"SRNN": ([(-7.6, -7.5), (-7.5, -7.4)], "posterior")})
        >>> [label.get_text() for label in axis.get_yticklabels()]
        ['SRNN']
        >>> plt.close()
    """
    for row, (pairs, colour) in enumerate(cases.values()):
        listed = list(pairs)
        for k, (bound, tighter) in enumerate(listed):
            y = row + 0.22 * (k - (len(listed) - 1) / 2)
            axis.plot([bound, tighter], [y, y], color=COLOURS[colour], lw=1)
            axis.plot(bound, y, "o", mfc="white", color=COLOURS[colour], ms=4.5)
            axis.plot(tighter, y, "o", color=COLOURS[colour], ms=4.5)
    axis.set_yticks(range(len(cases)), list(cases))
    axis.set_ylim(len(cases) - 0.5, -0.5)
