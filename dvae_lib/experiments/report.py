"""Tables and figures of result files, written into a folder."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from dvae_lib.evaluation import COLLAPSED
from dvae_lib.experiments.figures import plot_collapse, plot_curves, plot_scores
from dvae_lib.experiments.records import Record, write_records
from dvae_lib.experiments.tables import ResultRow, csv_table, latex_table, markdown_table, summarise
from dvae_lib.files import write_atomically

__all__ = ["Report", "write_report"]


class Report(NamedTuple):
    """The report on one corpus under one budget.

    Attributes:
        corpus: The corpus.
        budget: The budget.
        stem: The files' path, without the ending: ``.json``, ``.md``, ``.tex``, ``.csv``, and the figures.
        table: The table in Markdown.
    """

    corpus: str
    budget: str
    stem: Path
    table: str


def write_report(records: Sequence[Record], folder: str | Path, *, figures: bool = True) -> list[Report]:
    """For each corpus and budget all results in one file, the tables (Markdown, LaTeX, CSV), and the figures.

    Arguments:
        records: Results, see `collect`.
        folder: Where the files are written; it is made if it is not there.
        figures: Draw the learning curves, the scores and the collapse of latent dimensions, too, as SVG.

    Returns:
        What has been written, for each corpus and budget that has a table.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    reports = []
    for corpus, budget in sorted({(r["corpus"], r["budget"]) for r in records}):
        these = [r for r in records if (r["corpus"], r["budget"]) == (corpus, budget)]
        stem = folder / f"{corpus}-{budget}"
        write_records(stem.with_suffix(".json"), these)
        rows = summarise(these)
        if not rows:
            continue
        table = markdown_table(rows)
        for suffix, text in ((".md", table), (".tex", latex_table(rows)), (".csv", csv_table(rows))):
            write_atomically(stem.with_suffix(suffix), text.encode())
        if figures:
            _draw(these, rows, stem)
        reports.append(Report(corpus, budget, stem, table))
    return reports


def _draw(records: Sequence[Record], rows: Sequence[ResultRow], stem: Path) -> None:
    best = "si_sdr" if records[0]["experiment"] == "speech" else "mpjpe"
    drawn: dict[str, Callable[[], Figure]] = {
        "curves": partial(plot_curves, records),
        "collapse": partial(plot_collapse, rows, COLLAPSED),
        **{column: partial(plot_scores, rows, column) for column in (best, "iw")},
    }
    for name, draw in drawn.items():
        try:
            figure = draw()
        except ValueError:  # nothing of that kind in these results
            continue
        figure.savefig(f"{stem}-{name}.svg")
        plt.close(figure)
