"""The review's experiments (Chapter 13) on open data: models x corpora x seeds, tables and figures."""

from dvae_lib.experiments.agreement import Agreement, rank_agreement, with_review
from dvae_lib.experiments.corpora import Corpus, load
from dvae_lib.experiments.figures import plot_collapse, plot_curves, plot_scores
from dvae_lib.experiments.protocol import MODELS, PROTOCOLS, SCHEDULED, Protocol, Run, plan, protocol
from dvae_lib.experiments.records import Record, RecordError, collect, read_records, write_records
from dvae_lib.experiments.review import COLLAPSED_IN_REVIEW, LABELS, REVIEW
from dvae_lib.experiments.runs import Done, Job, run_all, run_one
from dvae_lib.experiments.scores import COLLAPSED, active_dimensions, bounds, judge
from dvae_lib.experiments.tables import COLUMNS, Line, Value, summarise, to_csv, to_latex, to_markdown

__all__ = [
    "COLLAPSED",
    "COLLAPSED_IN_REVIEW",
    "COLUMNS",
    "LABELS",
    "MODELS",
    "PROTOCOLS",
    "REVIEW",
    "SCHEDULED",
    "Agreement",
    "Corpus",
    "Done",
    "Job",
    "Line",
    "Protocol",
    "Record",
    "RecordError",
    "Run",
    "Value",
    "active_dimensions",
    "bounds",
    "collect",
    "judge",
    "load",
    "plan",
    "plot_collapse",
    "plot_curves",
    "plot_scores",
    "protocol",
    "rank_agreement",
    "read_records",
    "run_all",
    "run_one",
    "summarise",
    "to_csv",
    "to_latex",
    "to_markdown",
    "with_review",
    "write_records",
]
