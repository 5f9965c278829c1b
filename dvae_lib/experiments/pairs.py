"""Models compared utterance by utterance, and tables of several blocks of trainings side by side.

Utterances differ far more than models do. The difference of two models on the same utterance is free of that, so that
its mean has a much narrower interval than either mean.
"""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from scipy.special import stdtrit

from dvae_lib.experiments.records import Record
from dvae_lib.experiments.review import LABELS, REVIEW
from dvae_lib.experiments.tables import COLUMNS, ResultRow, markdown_rows, tests_of

__all__ = [
    "Interval",
    "blocks_table",
    "differences",
    "differences_table",
    "mean_interval",
    "paired_difference",
    "scores_of",
    "with_scores",
]

Blocks = Mapping[str, Sequence[ResultRow]]
"""Lines of tables, by the name of the block of trainings."""


class Interval(NamedTuple):
    """A mean with Student's 95 % interval; NaN for fewer than two values."""

    mean: float
    low: float
    high: float
    number: int

    @property
    def is_clear(self) -> bool:
        """Whether it leaves out zero."""
        return self.low > 0 or self.high < 0


def mean_interval(values: Iterable[float]) -> Interval:
    """The mean of independent values, and Student's 95 % interval.

    Example:
        >>> [round(number, 2) for number in mean_interval([1.0, 2.0, 3.0])]
        [2.0, -0.48, 4.48, 3]
    """
    numbers = [float(value) for value in values]
    count, mean = len(numbers), statistics.fmean(numbers)
    if count < 2:
        return Interval(mean, math.nan, math.nan, count)
    half = float(stdtrit(count - 1, 0.975)) * statistics.stdev(numbers) / math.sqrt(count)
    return Interval(mean, mean - half, mean + half, count)


def paired_difference(ours: Sequence[float | None], theirs: Sequence[float | None]) -> Interval:
    """The mean of ours minus theirs over the same utterances; what one side lacks is left out.

    Arguments:
        ours: A score of each utterance; None where there is none.
        theirs: Those of another model, in the same order.

    Raises:
        ValueError: Another number of utterances, or none that both sides have.
    """
    if len(ours) != len(theirs):
        raise ValueError(f"Pairs need the same utterances on both sides; here are {len(ours)} and {len(theirs)}")
    found = [a - b for a, b in zip(ours, theirs, strict=True) if a is not None and b is not None]
    if not found:
        raise ValueError("No utterance has a score on both sides")
    return mean_interval(found)


def scores_of(line: ResultRow, measure: str) -> list[float | None] | None:
    """A measure of each test utterance, as a mean over the trainings that have it; None where none has."""
    kept = [test["scores"][measure] for test in _tests(line) if measure in test.get("scores", {})]
    if not kept:
        return None
    return [None if None in values else statistics.fmean(values) for values in zip(*kept, strict=True)]


def _tests(line: ResultRow) -> list[Record]:
    return [test for run in line.runs for test in tests_of(line, run)]


def with_scores(records: Sequence[Record], found: Sequence[Record], *, seed: int = 0) -> list[Record]:
    """Records of trainings with scores of each utterance that have been measured later.

    Arguments:
        records: Of a benchmark.
        found: Records with the model in its mode (``name``: "SRNN", "SRNN-GM"), and ``scores``.
        seed: Of the trainings that these belong to.
    """
    later = {record["name"]: record["scores"] for record in found}

    def completed(record: Record, test: Record) -> Record:
        name = LABELS[record["model"]] + ("" if test["mode"] == "TF" else f"-{test['mode']}")
        new = record["seed"] == seed and "scores" not in test and name in later
        return {**test, "scores": later[name]} if new else test

    return [
        {**record, "test": [completed(record, test) for test in record["test"]]} if "test" in record else record
        for record in records
    ]


def differences(lines: Sequence[ResultRow], measure: str, reference: str = "VAE") -> dict[str, Interval]:
    """How far each line is ahead of the reference on the same utterances, by the line's name.

    Arguments:
        lines: See `dvae_lib.experiments.tables.summarise`.
        measure: A measure of utterances in `COLUMNS`.
        reference: The line that the others are compared with. Where the scores of its utterances are not known, or
            those of a line, there is nothing to compare.
    """
    scores = {line.name: found for line in lines if (found := scores_of(line, measure)) is not None}
    base = scores.pop(reference, None)
    return {} if base is None else {name: paired_difference(found, base) for name, found in scores.items()}


# --- tables ---


def _names(blocks: Blocks) -> list[str]:
    """Lines of all blocks in the review's order, the three modes one after the other."""
    order = [LABELS[model] + mode for mode in ("", "-TF-GM", "-GM") for model in LABELS]
    there = {line.name for lines in blocks.values() for line in lines}
    return [name for name in order if name in there]


def _cell(line: ResultRow | None, measure: str) -> str:
    if line is None or measure not in line.values:
        return "–"
    found = [test["measures"][measure] for test in _tests(line) if measure in test["measures"]]
    halves = [(values["high"] - values["low"]) / 2 for values in found if values["low"] is not None]
    digits = COLUMNS[measure].digits
    spread = f" ± {statistics.fmean(halves):.{digits}f}" if halves else ""
    return f"{line.values[measure].mean:.{digits}f}{spread}"


def blocks_table(blocks: Blocks, measures: Sequence[str]) -> str:
    """Columns of all lines in Markdown, the blocks side by side, and the review's numbers beside them.

    ± is half of the 95 % interval over utterances: a mean over trainings where there are several. What is not measured
    utterance by utterance, such as a bound, is without it.

    Arguments:
        blocks: Lines of tables, by the name of the block.
        measures: Names in `COLUMNS`.
    """
    by_name = {block: {line.name: line for line in lines} for block, lines in blocks.items()}
    theirs = {m for m in measures if any(m in line for line in REVIEW["speech"].values())}
    titles = [""]
    for measure in measures:
        titles += [f"{COLUMNS[measure].title}: {side}" for side in (*blocks, *["review"] * (measure in theirs))]
    rows = []
    for name in _names(blocks):
        row = [name]
        for measure in measures:
            row += [_cell(by_name[block].get(name), measure) for block in blocks]
            if measure in theirs:
                number = REVIEW["speech"].get(name, {}).get(measure)
                row.append("–" if number is None else f"{number:g}")
        rows.append(row)
    return markdown_rows(titles, rows)


def differences_table(blocks: Blocks, measures: Sequence[str], reference: str = "VAE") -> str:
    """Paired differences from a reference in Markdown: mean and 95 % interval, bold where it leaves out zero.

    Arguments:
        blocks: Lines of tables, by the name of the block; those of one mode.
        measures: Names of measures in `COLUMNS`.
        reference: See `differences`.
    """
    found = {(block, m): differences(lines, m, reference) for block, lines in blocks.items() for m in measures}
    titles = ["", *(f"{COLUMNS[m].title}: {block}" for m in measures for block in blocks)]

    def cell(name: str, block: str, measure: str) -> str:
        if name not in found[block, measure]:
            return "–"
        gap, digits = found[block, measure][name], COLUMNS[measure].digits
        text = f"{gap.mean:+.{digits}f} [{gap.low:+.{digits}f}, {gap.high:+.{digits}f}]"
        return f"**{text}**" if gap.is_clear else text

    names = [name for name in _names(blocks) if any(name in gaps for gaps in found.values())]
    return markdown_rows(titles, ([name, *(cell(name, b, m) for m in measures for b in blocks)] for name in names))
