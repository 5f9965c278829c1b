"""Scores of many recordings, and their summary."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from scipy.special import stdtrit

from dvae_lib.metrics.registry import METRICS, Metric

__all__ = ["ScoreTable", "Summary"]


@dataclass(frozen=True)
class Summary:
    """One measure over all recordings: mean, standard deviation, confidence interval of the mean, counts."""

    metric: str
    mean: float
    std: float
    low: float
    high: float
    count: int
    undefined: int


@dataclass(frozen=True)
class ScoreTable:
    """Scores of many recordings: one row per recording, one column per measure.

    Arguments:
        names: One name per recording (its file, where there is one).
        columns: Scores by the name of the measure, in the order of `names`; NaN where there is none.
        reasons: Why a score is NaN, by (recording, measure).

    Example:
        >>> table = ScoreTable(("a", "b", "c"), {"si_sdr": (4.0, 5.0, 6.0)})
        >>> table.summary()[0].mean
        5.0
        >>> print(table)
        measure      mean  std  95 % interval  count
        SI-SDR (dB)   5.0  1.0     2.5 to 7.5      3
    """

    names: tuple[str, ...]
    columns: Mapping[str, tuple[float, ...]]
    reasons: Mapping[tuple[str, str], str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for metric, values in self.columns.items():
            if len(values) != len(self.names):
                raise ValueError(f"Column {metric!r} has {len(values)} values for {len(self.names)} recordings")

    def __len__(self) -> int:
        return len(self.names)

    def with_column(self, metric: str, values: Sequence[float]) -> "ScoreTable":
        """The same table with one more measure."""
        return ScoreTable(self.names, {**self.columns, metric: tuple(map(float, values))}, self.reasons)

    def rows(self) -> list[dict[str, str | float]]:
        """One dictionary per recording: its name under ``"name"`` and its scores."""
        return [
            {"name": name, **{metric: values[i] for metric, values in self.columns.items()}}
            for i, name in enumerate(self.names)
        ]

    def summary(self, confidence: float = 0.95) -> list[Summary]:
        """Mean, standard deviation and Student's confidence interval of the mean, for every measure.

        Undefined scores are left out and counted. The interval takes recordings as independent draws; those of one
        speaker are not, so that with few speakers it is too narrow. It is NaN for fewer than two scores.
        """
        if not 0 < confidence < 1:
            raise ValueError(f"confidence must lie between 0 and 1, not {confidence}")
        summaries = []
        for metric, values in self.columns.items():
            defined = np.array([value for value in values if not math.isnan(value)])
            n = defined.size
            mean = float(defined.mean()) if n else math.nan
            std = float(defined.std(ddof=1)) if n > 1 else math.nan
            half = float(stdtrit(n - 1, (1 + confidence) / 2)) * std / math.sqrt(n) if n > 1 else math.nan
            summaries.append(Summary(metric, mean, std, mean - half, mean + half, n, len(values) - n))
        return summaries

    def to_csv(self) -> str:
        """The rows as comma-separated text; an undefined score is an empty field."""
        text = io.StringIO()
        writer = csv.DictWriter(text, ["name", *self.columns], lineterminator="\n")
        writer.writeheader()
        for row in self.rows():
            writer.writerow({key: "" if value != value else value for key, value in row.items()})
        return text.getvalue()

    def to_dict(self) -> dict[str, Any]:
        """The rows and the summary as JSON data; an undefined number is ``None``."""

        def plain(record: Mapping[str, Any]) -> dict[str, Any]:
            return {key: None if value != value else value for key, value in record.items()}

        return {
            "summary": [plain(asdict(line)) for line in self.summary()],
            "recordings": [plain(row) for row in self.rows()],
            "undefined": [
                {"name": name, "metric": metric, "reason": reason} for (name, metric), reason in self.reasons.items()
            ],
        }

    def printed(self) -> list[tuple[str, str, str, str, str]]:
        """The summary as text: a line of titles, then for each measure name, mean, std, interval and count."""

        def line(s: Summary) -> tuple[str, str, str, str, str]:
            metric = _metric(s.metric)

            def text(*numbers: float) -> str:
                return "-" if any(map(math.isnan, numbers)) else " to ".join(map(metric.printed, numbers))

            return metric.title, text(s.mean), text(s.std), text(s.low, s.high), str(s.count)

        return [("measure", "mean", "std", "95 % interval", "count"), *map(line, self.summary())]

    def __str__(self) -> str:
        lines = self.printed()
        widths = [max(len(line[i]) for line in lines) for i in range(5)]
        return "\n".join(
            "  ".join([line[0].ljust(widths[0]), *(line[i].rjust(widths[i]) for i in range(1, 5))]) for line in lines
        )

    def _repr_html_(self) -> str:
        header, *body = (f"<tr>{''.join(f'<td>{cell}</td>' for cell in line)}</tr>" for line in self.printed())
        return f"<table><thead>{header.replace('td>', 'th>')}</thead><tbody>{''.join(body)}</tbody></table>"


def _metric(name: str) -> Metric:
    """The measure of a column; one that nobody registered is printed under its name."""
    return METRICS.get(name) or Metric(name, name)
