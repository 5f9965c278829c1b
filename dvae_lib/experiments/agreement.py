"""Whether two tables put the models in the same order."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from dvae_lib.experiments.review import REVIEW
from dvae_lib.experiments.tables import COLUMNS, ResultRow, check_columns

__all__ = ["Agreement", "rank_agreement", "with_review"]


class Agreement(NamedTuple):
    """How far two orderings of the same models agree.

    Attributes:
        spearman: Spearman's rank correlation, 1 for the same order, -1 for the reverse; like the next two NaN where
            all scores of a side are the same.
        kendall: Kendall's tau-b.
        p_value: The share of all orders whose Spearman correlation is at least as large: one-sided, exact up to nine
            models; above from 100,000 orders, the observed one and others drawn with seed 0.
        names: The models compared.
        swapped: Pairs that the two orders put the other way round.
    """

    spearman: float
    kendall: float
    p_value: float
    names: tuple[str, ...]
    swapped: tuple[tuple[str, str], ...]


def rank_agreement(ours: Mapping[str, float], theirs: Mapping[str, float]) -> Agreement:
    """Compare two sets of scores by the models that both have. Both must count the same way (higher is better).

    Raises:
        ValueError: Fewer than three models in common.

    Example:
        >>> rank_agreement({"a": 1.0, "b": 2.0, "c": 3.0}, {"a": 10.0, "b": 30.0, "c": 20.0}).swapped
        (('b', 'c'),)
    """
    names = tuple(name for name in theirs if name in ours)
    if len(names) < 3:
        raise ValueError(f"Orders of {len(names)} model(s) cannot be compared; three at least must be in both")
    a, b = (stats.rankdata([scores[name] for name in names]) for scores in (ours, theirs))
    centred_a, centred_b = a - a.mean(), b - b.mean()
    scale = float(np.sqrt((centred_a**2).sum() * (centred_b**2).sum()))
    if scale == 0:
        return Agreement(math.nan, math.nan, math.nan, names, ())
    observed = float(centred_a @ centred_b / scale)
    if len(names) <= 9:
        orders = np.array(list(itertools.permutations(range(len(names)))))
    else:
        orders = np.tile(np.arange(len(names)), (100_000, 1))
        orders[1:] = np.random.default_rng(0).permuted(orders[1:], axis=1)
    drawn = centred_a[orders] @ centred_b / scale
    swapped = tuple(
        (names[i], names[j])
        for i, j in itertools.combinations(range(len(names)), 2)
        if (a[i] - a[j]) * (b[i] - b[j]) < 0
    )
    return Agreement(
        observed,
        float(stats.kendalltau(a, b).statistic),
        float((drawn >= observed - 1e-9).mean()),
        names,
        swapped,
    )


def with_review(lines: Sequence[ResultRow], ours: str, theirs: str | None = None) -> Agreement:
    """Compare a column of our table with one of the review's.

    Arguments:
        lines: See `dvae_lib.experiments.tables.summarise`.
        ours: One of our columns, such as "vlb".
        theirs: One of the review's; None: the same.

    Raises:
        ValueError: No such column, or fewer than three models in common.
    """
    theirs = ours if theirs is None else theirs
    table = REVIEW[lines[0].runs[0]["experiment"]]
    check_columns((ours, theirs))
    sign_ours, sign_theirs = (1.0 if COLUMNS[name].higher_is_better else -1.0 for name in (ours, theirs))
    return rank_agreement(
        {line.name: sign_ours * line.values[ours].mean for line in lines if ours in line.values},
        {name: sign_theirs * values[theirs] for name, values in table.items() if theirs in values},
    )
