"""How good a forecast is that is a distribution: sharp, and right about how sure it is."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["coverage", "crps"]


def crps(samples: ArrayLike, truth: ArrayLike) -> NDArray[Any]:
    r"""The continuous ranked probability score of each value, in the units of the data; lower is better.

    .. math:: \mathrm{CRPS}(F, x) = \mathbb{E} |X - x| - \frac{1}{2} \mathbb{E} |X - X'|, \qquad X, X' \sim F

    Of a forecast that is one number it is the absolute error. Estimated from K samples without bias: the second mean is
    over pairs of different samples.

    Arguments:
        samples: Of the forecast, (K, ...), at least two.
        truth: What came, of shape (...).

    Raises:
        ValueError: Shapes that do not go together, fewer than two samples, or NaN.

    Source: Gneiting and Raftery (2007), "Strictly proper scoring rules, prediction, and estimation"; Zamo and Naveau
    (2018) for the estimate.

    Example:
        >>> crps([[1.0], [3.0]], [2.0])
        array([0.])
    """
    draws, x = np.asarray(samples, dtype=float), np.asarray(truth, dtype=float)
    if draws.ndim == 0 or draws.shape[1:] != x.shape or len(draws) < 2:
        raise ValueError(
            f"expected samples of shape (K, {', '.join(map(str, x.shape))}) with K of at least 2; got {draws.shape}"
        )
    if np.isnan(draws).any() or np.isnan(x).any():
        raise ValueError("samples or truth hold NaN; leave out what was not observed")
    k, ordered = len(draws), np.sort(draws, axis=0)
    # The sum of |X_i - X_j| over all pairs, from the order: the i-th smallest is larger than i others.
    weights = (2 * np.arange(k) - k + 1).reshape(-1, *([1] * x.ndim))
    between = (weights * ordered).sum(0) / (k * (k - 1))
    return np.asarray(np.abs(draws - x).mean(0) - between)


def coverage(low: ArrayLike, high: ArrayLike, truth: ArrayLike) -> float:
    """The share of values that lie within an interval; of a 90 % interval it should be 0.9.

    Arguments:
        low: The lower end, of the truth's shape.
        high: The upper end.
        truth: What came.

    Raises:
        ValueError: Shapes that differ, nothing in them, NaN, or ends in the wrong order.

    Example:
        >>> coverage([0.0, 0.0], [1.0, 1.0], [0.5, 2.0])
        0.5
    """
    a, b, x = (np.asarray(value, dtype=float) for value in (low, high, truth))
    if not a.shape == b.shape == x.shape or x.size == 0:
        raise ValueError(f"expected three arrays of one shape, not empty; got {a.shape}, {b.shape} and {x.shape}")
    if np.isnan(a).any() or np.isnan(b).any() or np.isnan(x).any():
        raise ValueError("low, high or truth hold NaN; leave out what was not observed")
    if (a > b).any():
        raise ValueError("low must not be above high")
    return float(((a <= x) & (x <= b)).mean())
