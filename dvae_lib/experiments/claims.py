"""What the review says of its results, sentence by sentence, and whether a table of ours says it too."""

import math
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from typing import NamedTuple

from dvae_lib.evaluation import active_dimensions
from dvae_lib.experiments.pairs import scores_of
from dvae_lib.experiments.protocol import SCHEDULED, Experiment
from dvae_lib.experiments.review import LABELS, REVIEW
from dvae_lib.experiments.tables import COLUMNS, ResultRow, check_columns, tests_of

__all__ = [
    "AUTOREGRESSIVE",
    "CLAIMS",
    "GAPLESS",
    "MEASURES",
    "OTHERS",
    "Claim",
    "Comparison",
    "Rule",
    "compare",
    "compare_paired",
    "in_review",
    "in_words",
    "judge",
    "merit",
    "merits",
    "none_collapsed",
    "over_measures",
    "typical_spread",
]

MEASURES: dict[Experiment, tuple[str, ...]] = {"speech": ("si_sdr", "pesq", "estoi"), "motion": ("mpjpe",)}
"""What Tables 13.1 and 13.2 are made of."""

AUTOREGRESSIVE: tuple[str, ...] = tuple(LABELS[name] for name in SCHEDULED)
"""The review's models whose decoder reads past frames."""

OTHERS: tuple[str, ...] = tuple(name for name in LABELS.values() if name not in ("VAE", *AUTOREGRESSIVE))
"""Its DVAEs whose decoder does not."""

GAPLESS: tuple[str, ...] = ("DKF", "RVAE-causal", "RVAE-noncausal")
"""Those of `OTHERS` whose inference model has the structure of the exact posterior."""


# ------------------------------------------------------------------------------------------------------- one pair


class Comparison(NamedTuple):
    """Whether the first of two lines is better than the second.

    Attributes:
        difference: Of their merits; positive: the first is better.
        error: Standard error of the difference; NaN where nothing says how large it is.
        verdict: 1 where the first is better by more than two standard errors, -1 where the second is, else 0.
    """

    difference: float
    error: float
    verdict: int

    @classmethod
    def of(cls, difference: float, error: float) -> "Comparison":
        """By the rule of two standard errors. What is equal without any spread is not better."""
        if difference == error == 0:
            return cls(0.0, 0.0, -1)
        return cls(difference, error, int(difference > 2 * error) - int(difference < -2 * error))


def merit(value: float, column: str) -> float:
    """A score such that higher is better. Errors in millimetres count by their ratio, in dB, as energies in SI-SDR do.

    Example:
        >>> round(merit(10.0, "mpjpe") - merit(20.0, "mpjpe"), 1)
        6.0
    """
    check_columns([column])
    if column == "mpjpe":
        return -20 * math.log10(value)
    return value if COLUMNS[column].higher_is_better else -value


def merits(line: ResultRow, column: str) -> dict[int, float]:
    """The merit of a line in each of its trainings, by seed.

    Arguments:
        line: See `dvae_lib.experiments.tables.summarise`.
        column: One of `COLUMNS`.
    """
    found = {}
    for run in line.runs:
        for row in tests_of(line, run):
            value = row["measures"][column]["mean"] if column in row["measures"] else row.get(column)
            if value is not None:
                found[int(run["seed"])] = merit(float(value), column)
    return found


def typical_spread(lines: Sequence[ResultRow], mode: str, column: str) -> float:
    """Standard deviation of a merit between trainings, pooled over the lines of a mode; NaN if none has two.

    Arguments:
        lines: Of one table.
        mode: "TF", "TF-GM" or "GM".
        column: One of `COLUMNS`.
    """
    samples = [list(merits(line, column).values()) for line in lines if line.mode == mode]
    squares = [(statistics.variance(values), len(values) - 1) for values in samples if len(values) > 1]
    freedom = sum(count for _, count in squares)
    return math.sqrt(sum(v * count for v, count in squares) / freedom) if freedom else math.nan


def compare(lines: Sequence[ResultRow], a: str, b: str, column: str) -> Comparison | None:
    r"""Is line `a` better than line `b`, beyond what another seed may do to them?

    With the means :math:`\bar a, \bar b` over :math:`S_a, S_b` trainings, the first is better if

    .. math:: \bar a - \bar b > 2 \sqrt{s_a^2 / S_a + s_b^2 / S_b},

    where :math:`s` is the larger of the line's own standard deviation between trainings and the typical one of its mode
    (`typical_spread`), since a deviation of two or three numbers is often much too small by luck.

    Arguments:
        lines: Of one table.
        a: Name of the one, such as "SRNN" or "SRNN-GM".
        b: Name of the other.
        column: One of `COLUMNS`.

    Returns:
        The comparison; None where a line is missing or has no such score.
    """
    found = [_of_seeds(lines, name, column) for name in (a, b)]
    if None in found:
        return None
    (one, s), (other, t) = (x for x in found if x is not None)
    return Comparison.of(one - other, math.hypot(s, t))


def compare_paired(
    lines: Sequence[ResultRow], a: str, b: str, column: str, *, spread: float = 0.0
) -> Comparison | None:
    r"""Is line `a` better than line `b` on the same test utterances?

    With :math:`d_n` the difference on utterance :math:`n` of :math:`N`, of which :math:`s_d` is the standard deviation,
    the error of the mean difference is :math:`s_d / \sqrt N`: what is easy for one model is easy for the other, and the
    difference knows nothing of it. About another training it says nothing, unless `spread` does.

    Arguments:
        lines: Of one table, whose records hold the scores of each utterance.
        a: Name of the one.
        b: Name of the other.
        column: A measure; of others, which no utterance has, the error is NaN and the verdict 0.
        spread: Standard deviation between trainings of one model, as far as it is known from elsewhere.

    Returns:
        The comparison; None where a line is missing.
    """
    whole = [merits(line, column) for name in (a, b) for line in lines if line.name == name]
    if len(whole) < 2 or not all(whole):
        return None
    found = [_of_utterances(lines, name, column) for name in (a, b)]
    pairs = [(u, v) for u, v in zip(*found, strict=True) if not math.isnan(u - v)] if all(found) else []
    if len(pairs) < 2:
        return Comparison(statistics.fmean(whole[0].values()) - statistics.fmean(whole[1].values()), math.nan, 0)
    differences = [u - v for u, v in pairs]
    between = math.sqrt(sum(spread**2 / len(seeds) for seeds in whole))
    error = math.hypot(statistics.stdev(differences) / math.sqrt(len(differences)), between)
    return Comparison.of(statistics.fmean(differences), error)


def _line(lines: Sequence[ResultRow], name: str) -> ResultRow | None:
    return next((line for line in lines if line.name == name), None)


def _of_seeds(lines: Sequence[ResultRow], name: str, column: str) -> tuple[float, float] | None:
    """Mean and its standard error."""
    line = _line(lines, name)
    values = [] if line is None else list(merits(line, column).values())
    if line is None or not values:
        return None
    spread = typical_spread(lines, line.mode, column)
    spread = max(spread, statistics.stdev(values)) if len(values) > 1 else spread
    return statistics.fmean(values), spread / math.sqrt(len(values))


def _of_utterances(lines: Sequence[ResultRow], name: str, column: str) -> list[float]:
    """The mean over trainings, of each utterance; NaN where it has no score."""
    line = _line(lines, name)
    scores = [] if line is None else scores_of(line, column) or []
    return [math.nan if score is None else merit(score, column) for score in scores]


# --------------------------------------------------------------------------------------------------------- claims

Rule = Callable[[Sequence[ResultRow], str, str, str], Comparison | None]
"""Compares two lines of a table by a column: `compare`, or `compare_paired`."""


class Claim(NamedTuple):
    """A sentence about many pairs of models, each of which a rule can judge.

    Attributes:
        number: Its name; claims with one number belong together.
        text: The sentence, in our words.
        sections: Where the review has it.
        pairs: The first of each is said to be better than the second.
        experiment: The one that it is about; None: both.
        column: What is compared; None: the review's measures.
        one_suffices: It holds if one pair stands so; otherwise all must.
    """

    number: str
    text: str
    sections: str
    pairs: tuple[tuple[str, str], ...]
    experiment: Experiment | None = None
    column: str | None = None
    one_suffices: bool = False


def _beat(first: Sequence[str], second: Sequence[str]) -> tuple[tuple[str, str], ...]:
    return tuple((a, b) for a, b in product(first, second) if a != b)


_ALL = tuple(LABELS.values())
_DVAES = (*AUTOREGRESSIVE, *OTHERS)

CLAIMS: tuple[Claim, ...] = (
    Claim("1", "Every DVAE beats the VAE", "13.3.1, 13.4.1", _beat(_DVAES, ["VAE"])),
    Claim("2a", "The SRNN is the best", "13.3.1, 13.4.1", _beat(["SRNN"], _ALL)),
    Claim("2b", "The VRNN beats all but the SRNN", "13.3.1", _beat(["VRNN"], [n for n in _ALL if n != "SRNN"])),
    Claim("3a", "Inference without gap helps: SRNN over VRNN, STORN", "13.3.1, 13.5", _beat(["SRNN"], AUTOREGRESSIVE)),
    Claim("3b", "Ours, from this: DKF over DSAE", "13.5", (("DKF", "DSAE"),)),
    Claim("3c", "Ours, from this: DKF and both RVAEs over DSAE", "13.5", _beat(GAPLESS, ["DSAE"])),
    Claim("4", "The noncausal RVAE beats the causal one", "13.3.1", (("RVAE-noncausal", "RVAE-causal"),)),
    Claim("5a", "Without its teacher the SRNN falls below the VAE", "13.3.3, 13.4.3", (("VAE", "SRNN-TF-GM"),)),
    Claim("5b", "Scheduled sampling repairs it", "13.3.3, 13.4.3", (("SRNN-GM", "SRNN-TF-GM"),)),
    Claim("5c", "Repaired, it is below DKF, RVAEs and DSAE", "13.3.3, 13.4.3", _beat(OTHERS, ["SRNN-GM"])),
    Claim("5d", "and above the VAE", "13.3.3, 13.4.3", (("SRNN-GM", "VAE"),)),
    Claim("6", "Every autoregressive model beats all others", "13.4.1", _beat(AUTOREGRESSIVE, OTHERS), "motion"),
    Claim("7a", "The DKF is not the last of the others", "13.3.1, 13.5", _beat(["DKF"], OTHERS), "speech", None, True),
    Claim("7b", "The DKF is the last of the others", "13.4.1, 13.5", _beat(OTHERS, ["DKF"]), "motion"),
    Claim("8a", "The others use more latent dimensions", "13.3.4", _beat(OTHERS, AUTOREGRESSIVE), None, "active"),
    Claim("9", "Generation mode wakes the SRNN's dimensions", "13.3.4, 13.4.4", (("SRNN-GM", "SRNN"),), None, "active"),
)
"""The review's Sections 13.3 to 13.5, but for claim 8b, for which see `none_collapsed`."""


def judge(claim: Claim, lines: Sequence[ResultRow], column: str, rule: Rule = compare) -> int | None:
    """What a table says to a claim, by Kleene's logic: "all" is the minimum of the verdicts, "one of" the maximum.

    Arguments:
        claim: The claim.
        lines: Of one table.
        column: One of `COLUMNS`.
        rule: Judges a pair.

    Returns:
        1: it holds; -1: it does not; 0: it cannot be said. None where the claim is not about this experiment, or where
        it hangs on a model that is missing.
    """
    if not lines or claim.experiment not in (None, lines[0].runs[0]["experiment"]):
        return None
    parts = [rule(lines, a, b, column) for a, b in claim.pairs]
    known = [part.verdict for part in parts if part is not None]
    decisive, combine = (1, max) if claim.one_suffices else (-1, min)
    if decisive in known:
        return decisive  # whatever the others are
    return combine(known) if len(known) == len(parts) else None


def in_review(claim: Claim, experiment: Experiment, column: str) -> int | None:
    """What the review's own table says to a claim: it has no spread, so the sign decides.

    Arguments:
        claim: The claim.
        experiment: "speech" or "motion".
        column: One of its `MEASURES`.

    Returns:
        As `judge`; also None where the review has no such column.
    """
    table = REVIEW[experiment]
    if claim.experiment not in (None, experiment) or claim.column is not None:
        return None
    pairs = ((merit(table[a][column], column), merit(table[b][column], column)) for a, b in claim.pairs)
    signs = [int(a > b) - int(a < b) for a, b in pairs]
    return max(signs) if claim.one_suffices else min(signs)


def over_measures(
    claim: Claim, experiment: Experiment, judged: Callable[[Claim, str], int | None]
) -> tuple[int | None, ...]:
    """The verdicts on a claim by each of the columns that it is about.

    Arguments:
        claim: The claim.
        experiment: "speech" or "motion".
        judged: Takes the claim and a column, such as ``lambda claim, column: judge(claim, lines, column)``.
    """
    return tuple(map(partial(judged, claim), MEASURES[experiment] if claim.column is None else (claim.column,)))


def in_words(verdicts: Sequence[int | None]) -> str:
    """One verdict from those by several measures; a dash where there is none.

    Example:
        >>> in_words([1, 1, 1]), in_words([1, -1, 0]), in_words([1, 0]), in_words([None])
        ('holds', 'depends on the measure', 'cannot be said', '–')
    """
    known = {verdict for verdict in verdicts if verdict is not None}
    if {1, -1} <= known:
        return "depends on the measure"
    if len(known) > 1:
        return "cannot be said"
    return {1: "holds", -1: "does not hold", 0: "cannot be said"}[known.pop()] if known else "–"


def none_collapsed(lines: Sequence[ResultRow], names: Sequence[str] = OTHERS) -> int | None:
    """Claim 8b: no latent dimension of these models has collapsed.

    Arguments:
        lines: Of one table.
        names: Of lines.

    Returns:
        1 if every dimension of every training is active; -1 if some model has lost one in each of its trainings; else
        0. None where one of them has not been trained.
    """
    lost = [[active_dimensions(kl) < len(kl) for kl in line.kl_per_dim] for line in lines if line.name in names]
    if len(lost) < len(names):
        return None
    return 1 if not any(map(any, lost)) else -int(any(map(all, lost)))
