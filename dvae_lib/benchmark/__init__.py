"""The former name of `dvae_lib.experiments`, for one release: what is taken from here comes from there."""

import importlib
import sys
import warnings
from typing import Any

from dvae_lib import experiments

MODULES = ("agreement", "corpora", "figures", "progress", "protocol", "records", "review", "runs", "scores", "tables")
RENAMED = {
    "Corpus": "ExperimentData",
    "Done": "Outcome",
    "Line": "ResultRow",
    "MODELS": "REVIEW_MODELS",
    "judge": "evaluate_model",
    "load": "load_experiment",
    "to_csv": "csv_table",
    "to_latex": "latex_table",
    "to_markdown": "markdown_table",
}

for _name in MODULES:  # so that `from dvae_lib.benchmark.runs import Job` goes on working
    sys.modules[f"{__name__}.{_name}"] = importlib.import_module(f"dvae_lib.experiments.{_name}")


def __getattr__(name: str) -> Any:
    new = RENAMED.get(name, name)
    if name.startswith("__") or (name not in MODULES and not hasattr(experiments, new)):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(
        f"dvae_lib.benchmark is now dvae_lib.experiments: take {new} from there; this name goes in the next release",
        DeprecationWarning,
        stacklevel=2,
    )
    return getattr(experiments, new)
