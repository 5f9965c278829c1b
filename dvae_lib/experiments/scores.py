"""The test of a trained model: its bounds, its resynthesis, and how many latent dimensions it uses."""

import math
from typing import Any

from torch import Generator

from dvae_lib.data.sequences import SequenceDataset
from dvae_lib.evaluation import Bounds, active_dimensions, analysis_resynthesis, bounds_per_frame, score_sequences
from dvae_lib.experiments.corpora import ExperimentData
from dvae_lib.experiments.protocol import Mode
from dvae_lib.experiments.records import Record
from dvae_lib.experiments.results import rounded
from dvae_lib.graphs.links import links
from dvae_lib.metrics import ScoreTable, raw_pesq
from dvae_lib.models.base import DVAE

__all__ = ["bounds_record", "evaluate_model", "modes"]


def modes(model: DVAE, scheduled: bool) -> dict[Mode, float]:
    """In which modes a model is tested, and the feedback of each."""
    if scheduled:
        return {"GM": 1.0}
    return {"TF": 0.0, "TF-GM": 1.0} if links(model.spec).predictive else {"TF": 0.0}


def evaluate_model(
    model: DVAE, corpus: ExperimentData, importance_samples: int, *, scheduled: bool, num_workers: int | None = None
) -> list[Record]:
    """The test of a trained model, once in each of its modes.

    Arguments:
        model: The model, in evaluation mode.
        corpus: The data, of which the test part is taken.
        importance_samples: Number of samples of the importance-weighted bound.
        scheduled: Whether it was trained with scheduled sampling.
        num_workers: Processes for the measures of speech; None takes all cores.

    Returns:
        For each mode the bounds (``vlb``, ``iw``, ``kl`` and ``kl_per_dim``, see `Bounds`), the number of active
        dimensions of z, the summary of each measure and, of speech, the scores of each utterance in the order of the
        corpus (``scores``; "bound" in nats per frame), with which models are compared utterance by utterance.
    """
    device = next(model.parameters()).device
    rows = []
    for mode, feedback in modes(model, scheduled).items():
        common: dict[str, Any] = {"feedback": feedback, "generator": Generator(device).manual_seed(0)}
        if corpus.experiment == "speech":
            paths = [recording.path for recording in corpus.recordings]
            table = analysis_resynthesis(model, paths, num_workers=num_workers, **common)
            # The review's range of PESQ is that of the raw score.
            table = table.with_column("pesq", [raw_pesq(score) for score in table.columns["pesq_nb"]])
        else:
            table = score_sequences(model, corpus.test, positions="m", batch_size=128, **common)
        bounds = bounds_per_frame(model, corpus.test, importance_samples, feedback=feedback)
        rows.append(
            {
                "mode": mode,
                "vlb": bounds.vlb,
                "iw": bounds.importance_weighted[importance_samples],
                "kl": bounds.kl,
                "kl_per_dim": bounds.kl_per_dim,
                "importance_samples": importance_samples,
                "active": active_dimensions(bounds.kl_per_dim["z"]),
                "measures": _summary(table),
                **({"scores": _scores(table)} if corpus.experiment == "speech" else {}),  # windows of motion overlap
            }
        )
    return rows


def bounds_record(bounds: Bounds, model: DVAE, data: SequenceDataset) -> Record:
    """Bounds as entries of a result, rounded to four digits.

    Arguments:
        bounds: What `bounds_per_frame` found.
        model: The model.
        data: The sequences.

    Returns:
        ``vlb``, ``iwK`` for each number K of importance samples, and for each latent variable its KL divergence
        (``kl``; ``kl_v`` of a variable v), all in nats per frame, and the number of its active dimensions (``active``,
        ``active_v``), counted in nats per frame, or per sequence for a latent vector of the whole sequence.
    """
    record: Record = {"vlb": round(bounds.vlb, 4)}
    record |= {f"iw{count}": round(value, 4) for count, value in bounds.importance_weighted.items()}
    for name, kl in bounds.kl_per_dim.items():
        if name in model.spec.latents:
            ending = "" if name == "z" else f"_{name}"
            units = data.num_frames if model.spec.is_framewise(name) else len(data)
            record[f"kl{ending}"] = round(sum(kl) * units / data.num_frames, 4)
            record[f"active{ending}"] = active_dimensions(kl)
    return record


def _summary(table: ScoreTable) -> dict[str, dict[str, float | int | None]]:
    def plain(value: float) -> float | None:
        return None if math.isnan(value) else value  # JSON has no NaN

    return {
        line.metric: {
            "mean": plain(line.mean),
            "low": plain(line.low),
            "high": plain(line.high),
            "count": line.count,
        }
        for line in table.summary()
        if line.metric != "bound"
    }


def _scores(table: ScoreTable) -> dict[str, list[float | None]]:
    return {metric: [rounded(value) for value in values] for metric, values in table.columns.items()}
