"""Scores of many recordings, and their summary."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np
from scipy.special import stdtrit

__all__ = ["METRICS", "Metric", "ScoreTable", "Summary"]


class Metric(NamedTuple):
    """What a column of a :class:`ScoreTable` holds: its name in print, its unit and which way is better."""

    label: str
    unit: str
    higher_is_better: bool


METRICS: dict[str, Metric] = {
    "si_sdr": Metric("SI-SDR", "dB", True),
    "pesq_nb": Metric("PESQ narrow-band", "MOS-LQO", True),
    "pesq_wb": Metric("PESQ wide-band", "MOS-LQO", True),
    "estoi": Metric("ESTOI", "", True),
    "mpjpe": Metric("MPJPE", "mm", False),
    "rmse": Metric("RMSE", "units of the data", False),
    "bound": Metric("VLB", "nats per frame", True),
}
"""Every measure by the name of its column."""


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
        measure       mean    std   95 % interval  count
        SI-SDR (dB)  5.000  1.000  2.516 to 7.484      3
    """

    names: tuple[str, ...]
    columns: Mapping[str, tuple[float, ...]]
    reasons: Mapping[tuple[str, str], str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for metric, values in self.columns.items():
            if len(values) != len(self.names):
                raise ValueError(f"Column {metric!r} has {len(values)} values for {len(self.names)} recordings.")

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
            raise ValueError(f"confidence must lie between 0 and 1, not {confidence}.")
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

        def text(*numbers: float) -> str:
            return "-" if any(map(math.isnan, numbers)) else " to ".join(f"{number:.3f}" for number in numbers)

        titles = ("measure", "mean", "std", "95 % interval", "count")
        lines = self.summary()
        return [
            titles,
            *((_titled(s.metric), text(s.mean), text(s.std), text(s.low, s.high), str(s.count)) for s in lines),
        ]

    def __str__(self) -> str:
        lines = self.printed()
        widths = [max(len(line[i]) for line in lines) for i in range(5)]
        return "\n".join(
            "  ".join([line[0].ljust(widths[0]), *(line[i].rjust(widths[i]) for i in range(1, 5))]) for line in lines
        )

    def _repr_html_(self) -> str:
        header, *body = (f"<tr>{''.join(f'<td>{cell}</td>' for cell in line)}</tr>" for line in self.printed())
        return f"<table><thead>{header.replace('td>', 'th>')}</thead><tbody>{''.join(body)}</tbody></table>"


def _titled(metric: str) -> str:
    label, unit, _ = METRICS.get(metric, Metric(metric, "", True))
    return f"{label} ({unit})" if unit else label
