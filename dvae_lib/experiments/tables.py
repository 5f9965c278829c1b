"""Tables from result files: means over seeds, marks for what had not converged, the review's numbers beside ours."""

import csv
import io
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

from dvae_lib.experiments.protocol import REVIEW_MODELS, Mode
from dvae_lib.experiments.records import Record
from dvae_lib.experiments.review import LABELS, REVIEW
from dvae_lib.metrics import METRICS, Metric

__all__ = ["COLUMNS", "ResultRow", "Value", "summarise", "csv_table", "latex_table", "markdown_table"]

NOT_CONVERGED, DIVERGED = "†", "✗"
NOTE = {
    NOT_CONVERGED: "stopped by the cap on epochs, not by the validation bound",
    DIVERGED: "diverged with at least one seed, which the mean leaves out",
}


class Value(NamedTuple):
    """A mean over seeds, and the standard deviation between them (NaN for one seed)."""

    mean: float
    std: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Value":
        """Of the values of all seeds."""
        spread = len(values) > 1 and all(map(math.isfinite, values))
        return cls(statistics.fmean(values), statistics.stdev(values) if spread else math.nan)


COLUMNS: dict[str, Metric] = {
    name: METRICS[name]
    for name in ("si_sdr", "pesq", "pesq_nb", "pesq_wb", "estoi", "mpjpe", "vlb", "iw", "kl", "active")
}
"""What the tables can show, by name."""

SHOWN = {
    "speech": ("si_sdr", "pesq", "estoi", "vlb", "iw", "active"),
    "motion": ("mpjpe", "vlb", "iw", "active"),
}


@dataclass(frozen=True)
class ResultRow:
    """One line of a table: a model in one mode, over all its seeds.

    Attributes:
        name: As in the review: "SRNN", "SRNN-TF-GM", "SRNN-GM".
        model: Its name in the library.
        mode: "TF", "TF-GM" or "GM".
        seeds: Of the runs behind it.
        values: By name, see `COLUMNS`.
        converged: Whether the validation bound ended the training of every seed.
        diverged: Seeds whose training diverged.
        weights: Number of the model's parameters.
        kl_per_dim: KL divergence of each dimension of z in nats per frame, per seed.
        runs: The records behind it.
    """

    name: str
    model: str
    mode: str
    seeds: tuple[int, ...]
    values: Mapping[str, Value]
    converged: bool
    diverged: tuple[int, ...]
    weights: int
    kl_per_dim: tuple[tuple[float, ...], ...]
    runs: tuple[Record, ...]

    @property
    def marks(self) -> str:
        """What a reader must know of the numbers."""
        return NOT_CONVERGED * (not self.converged) + DIVERGED * bool(self.diverged)


def summarise(records: Sequence[Record]) -> list[ResultRow]:
    """The lines of a table, in the review's order: teacher forcing, then TF-GM, then GM.

    Arguments:
        records: Of one corpus and one budget.

    Raises:
        ValueError: Records of several corpora or budgets.
    """
    for what in ("corpus", "budget"):
        found = sorted({record[what] for record in records})
        if len(found) > 1:
            raise ValueError(f"One table holds one {what}; these results hold {', '.join(found)}")
    lines = []
    for mode in get_args(Mode):
        for model in REVIEW_MODELS:
            runs = [r for r in records if r["model"] == model and r["scheduled"] == (mode == "GM")]
            line = _line(model, mode, sorted(runs, key=lambda r: int(r["seed"])))
            if line is not None:
                lines.append(line)
    return lines


def _line(model: str, mode: str, runs: Sequence[Record]) -> ResultRow | None:
    tests = [(r, row) for r in runs if r["status"] == "done" for row in r["test"] if row["mode"] == mode]
    diverged = tuple(int(r["seed"]) for r in runs if r["status"] == "diverged") if mode != "TF-GM" else ()
    if not tests and not diverged:
        return None
    values: dict[str, Value] = {}
    for name in ("vlb", "iw", "kl", "active"):
        if tests:
            values[name] = Value.of([float(row[name]) for _, row in tests])
    for measure in tests[0][1]["measures"] if tests else ():
        means = [row["measures"][measure]["mean"] for _, row in tests]
        if defined := [mean for mean in means if mean is not None]:
            values[measure] = Value.of(defined)
    return ResultRow(
        LABELS[model] + ("" if mode == "TF" else f"-{mode}"),
        model,
        mode,
        tuple(int(r["seed"]) for r, _ in tests),
        values,
        all(r["training"]["converged"] for r, _ in tests),
        diverged,
        tests[0][0]["weights"] if tests else 0,
        tuple(tuple(row["kl_per_dim"]["z"]) for _, row in tests),
        tuple(runs),
    )


# ---------------------------------------------------------------------------------------------------------- formats


def _cells(
    lines: Sequence[ResultRow], columns: Sequence[str], review: Mapping[str, Mapping[str, float]], plus_minus: str
) -> tuple[list[str], list[list[str]]]:
    shown = [name for name in columns if any(name in line.values for line in lines)]
    also = [name for name in shown if any(name in values for values in review.values())]
    titles = ["model", *(COLUMNS[name].title for name in shown), *(f"review: {COLUMNS[name].title}" for name in also)]
    rows = []
    for line in lines:
        row = [line.name + line.marks]
        for name in shown:
            value, digits = line.values.get(name), COLUMNS[name].digits
            if value is None:
                row.append("–")
            elif math.isnan(value.std):
                row.append(f"{value.mean:.{digits}f}")
            else:
                row.append(f"{value.mean:.{digits}f}{plus_minus}{value.std:.{digits}f}")
        for name in also:
            theirs = review.get(line.name, {}).get(name)
            row.append("–" if theirs is None else f"{theirs:g}")
        rows.append(row)
    return titles, rows


def _notes(lines: Sequence[ResultRow]) -> list[str]:
    return [f"{mark} {text}" for mark, text in NOTE.items() if any(mark in line.marks for line in lines)]


def tests_of(line: ResultRow, run: Record) -> list[Record]:
    """The tests of a training in the mode of a line of the table."""
    return [test for test in run.get("test", ()) if test["mode"] == line.mode]


def markdown_table(lines: Sequence[ResultRow], columns: Sequence[str] | None = None, *, review: bool = True) -> str:
    """The table in Markdown; means, and ± the standard deviation between seeds where there are several.

    Arguments:
        lines: See `summarise`.
        columns: Names in `COLUMNS`; None takes what suits the experiment.
        review: Put the review's numbers beside ours.
    """
    titles, rows = _cells(lines, _columns(lines, columns), _review(lines, review), " ± ")
    notes = _notes(lines)
    return markdown_rows(titles, rows) + ("\n" + "; ".join(notes) + ".\n" if notes else "")


def markdown_rows(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown, its first column at the left, the others at the right."""
    lines = [titles, ["---"] + ["---:"] * (len(titles) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def latex_table(lines: Sequence[ResultRow], columns: Sequence[str] | None = None, *, review: bool = True) -> str:
    """The table in LaTeX, for the package booktabs; the arguments are those of `markdown_table`."""
    titles, rows = _cells(lines, _columns(lines, columns), _review(lines, review), r" $\pm$ ")

    def plain(cell: str) -> str:
        for old, new in ((NOT_CONVERGED, r"$^\dagger$"), (DIVERGED, r"$^\times$"), ("–", "--"), ("%", r"\%")):
            cell = cell.replace(old, new)
        return cell.replace("-", "$-$", 1) if cell[:1] == "-" and cell[1:2].isdigit() else cell

    body = [" & ".join(map(plain, row)) + r" \\" for row in rows]
    return (
        "\n".join(
            [
                r"\begin{tabular}{l" + "r" * (len(titles) - 1) + "}",
                r"\toprule",
                " & ".join(titles) + r" \\",
                r"\midrule",
                *body,
                r"\bottomrule",
                r"\end{tabular}",
                *(f"% {note}" for note in _notes(lines)),
            ]
        )
        + "\n"
    )


def csv_table(lines: Sequence[ResultRow]) -> str:
    """All values of all lines as comma-separated text, unrounded: one row for each line."""
    names = [name for name in COLUMNS if any(name in line.values for line in lines)]
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["name", "model", "mode", "seeds", "converged", "diverged", "weights"]
        + [f"{name}{suffix}" for name in names for suffix in ("", "_std")]
    )
    for line in lines:
        values: list[Any] = []
        for name in names:
            value = line.values.get(name)
            values += ["", ""] if value is None else [value.mean, "" if math.isnan(value.std) else value.std]
        about = [line.name, line.model, line.mode, " ".join(map(str, line.seeds)), line.converged]
        writer.writerow([*about, " ".join(map(str, line.diverged)), line.weights, *values])
    return text.getvalue()


def _experiment(lines: Sequence[ResultRow]) -> Literal["speech", "motion"]:
    if not lines:
        raise ValueError("There is no result to make a table of")
    found: Literal["speech", "motion"] = lines[0].runs[0]["experiment"]
    return found


def _columns(lines: Sequence[ResultRow], columns: Sequence[str] | None) -> Sequence[str]:
    columns = SHOWN[_experiment(lines)] if columns is None else columns
    check_columns(columns)
    return columns


def check_columns(names: Iterable[str]) -> None:
    """Refuse names that are not in `COLUMNS`."""
    if unknown := [name for name in dict.fromkeys(names) if name not in COLUMNS]:
        raise ValueError(f"There is no column {', '.join(unknown)}; there are {', '.join(COLUMNS)}")


def _review(lines: Sequence[ResultRow], wanted: bool) -> Mapping[str, Mapping[str, float]]:
    return REVIEW[_experiment(lines)] if wanted else {}
