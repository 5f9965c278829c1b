"""The review's experiments (Chapter 13) on open data: models x corpora x seeds, tables and figures."""

from dvae_lib.evaluation import COLLAPSED, active_dimensions
from dvae_lib.experiments.agreement import Agreement, rank_agreement, with_review
from dvae_lib.experiments.corpora import ExperimentData, load_experiment
from dvae_lib.experiments.figures import plot_collapse, plot_curves, plot_differences, plot_scores
from dvae_lib.experiments.pairs import blocks_table, differences, differences_table, paired_difference, with_scores
from dvae_lib.experiments.protocol import PROTOCOLS, REVIEW_MODELS, SCHEDULED, Protocol, Run, plan, protocol
from dvae_lib.experiments.records import Record, RecordError, collect, read_records, write_records
from dvae_lib.experiments.report import Report, write_report
from dvae_lib.experiments.review import COLLAPSED_IN_REVIEW, LABELS, REVIEW
from dvae_lib.experiments.running import run
from dvae_lib.experiments.runs import Job, Outcome, run_all, run_one
from dvae_lib.experiments.scores import evaluate_model
from dvae_lib.experiments.tables import COLUMNS, ResultRow, Value, csv_table, latex_table, markdown_table, summarise

__all__ = [
    "COLLAPSED",
    "COLLAPSED_IN_REVIEW",
    "COLUMNS",
    "LABELS",
    "PROTOCOLS",
    "REVIEW",
    "REVIEW_MODELS",
    "SCHEDULED",
    "Agreement",
    "ExperimentData",
    "Job",
    "Outcome",
    "Protocol",
    "Record",
    "RecordError",
    "Report",
    "ResultRow",
    "Run",
    "Value",
    "active_dimensions",
    "blocks_table",
    "collect",
    "csv_table",
    "differences",
    "differences_table",
    "evaluate_model",
    "latex_table",
    "load_experiment",
    "markdown_table",
    "paired_difference",
    "plan",
    "plot_collapse",
    "plot_curves",
    "plot_differences",
    "plot_scores",
    "protocol",
    "rank_agreement",
    "read_records",
    "run",
    "run_all",
    "run_one",
    "summarise",
    "with_review",
    "with_scores",
    "write_records",
    "write_report",
]
