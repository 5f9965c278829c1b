"""How a trained model is judged: by its bounds, by its resynthesis, and by how many latent dimensions it uses."""

import math
from typing import Any, Literal

import torch
from torch import Generator, Tensor

from dvae_lib.data.sequences import SequenceDataset
from dvae_lib.evaluation import analysis_resynthesis, score_sequences
from dvae_lib.experiments.corpora import Corpus
from dvae_lib.graphs.links import links
from dvae_lib.metrics import ScoreTable, raw_pesq
from dvae_lib.models.base import DVAE

__all__ = ["COLLAPSED", "Mode", "active_dimensions", "bounds", "judge", "modes"]

Mode = Literal["TF", "TF-GM", "GM"]
"""Trained and tested with teacher forcing; trained so, tested in generation mode; trained and tested in that."""

COLLAPSED = 0.01
"""A latent dimension whose mean KL divergence on the test part is below this, in nats per frame, has collapsed."""


def modes(model: DVAE, scheduled: bool) -> dict[Mode, float]:
    """In which modes a model is judged, and the feedback of each."""
    if scheduled:
        return {"GM": 1.0}
    return {"TF": 0.0, "TF-GM": 1.0} if links(model.spec).predictive else {"TF": 0.0}


@torch.no_grad()
def bounds(
    model: DVAE,
    data: SequenceDataset,
    importance_samples: int,
    *,
    feedback: float = 0.0,
    batch_size: int | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """The variational and the importance-weighted bound, and the KL divergence of every latent dimension.

    Arguments:
        model: a model.
        data: sequences.
        importance_samples: number K of samples of the importance-weighted bound.
        feedback: 0 with teacher forcing, 1 in generation mode.
        batch_size: sequences that are evaluated at once; None: so many that a batch has about 6,400 frames.
        seed: of the latents' noise.

    Returns:
        ``vlb``, ``iw`` and ``kl`` in nats per frame over all sequences; ``kl_per_dim`` likewise, by latent variable
        (of a latent vector of the whole sequence in nats per sequence).
    """
    parameter = next(model.parameters())
    generator = Generator(parameter.device).manual_seed(seed)
    sums = {"vlb": 0.0, "iw": 0.0, "kl": 0.0}
    per_dim: dict[str, Tensor] = {}
    counts: dict[str, int] = {}
    frames = data.num_frames
    batch_size = max(1, 6_400 // int(data.lengths.max())) if batch_size is None else batch_size
    for part in data.lengths.argsort().split(batch_size):  # of similar length, so that little is padding
        x, lengths, _ = data.batch(part.tolist()).to(parameter.device)
        bound = model.vlb(x, lengths=lengths, feedback=feedback, generator=generator)
        weighted = model.importance_weighted_bound(
            x, lengths=lengths, num_samples=importance_samples, feedback=feedback, generator=generator
        )
        sums["vlb"] += (bound.reconstruction - bound.total_kl).sum().item()
        sums["iw"] += weighted.sum().item()
        sums["kl"] += bound.total_kl.sum().item()
        for name, term in bound.kl_per_dim.items():
            total = term.double().flatten(0, -2).sum(0).cpu()
            per_dim[name] = per_dim[name] + total if name in per_dim else total
            counts[name] = frames if term.ndim == 3 else len(data)
    return {
        **{name: value / frames for name, value in sums.items()},
        "kl_per_dim": {name: (term / counts[name]).tolist() for name, term in per_dim.items()},
    }


def active_dimensions(kl_per_dim: list[float], threshold: float = COLLAPSED) -> int:
    """How many latent dimensions carry more than the threshold; the others have collapsed."""
    return sum(value > threshold for value in kl_per_dim)


def judge(
    model: DVAE, corpus: Corpus, importance_samples: int, *, scheduled: bool, num_workers: int | None = None
) -> list[dict[str, Any]]:
    """The test of a trained model, once in each of its modes.

    Arguments:
        model: the model, in evaluation mode.
        corpus: whose test part is taken.
        importance_samples: of the importance-weighted bound.
        scheduled: whether it was trained with scheduled sampling.
        num_workers: processes for the measures of speech; None takes all cores.

    Returns:
        For each mode the `bounds`, the number of active dimensions of z, and the summary of each measure.
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
        found = bounds(model, corpus.test, importance_samples, feedback=feedback)
        rows.append(
            {
                "mode": mode,
                **found,
                "importance_samples": importance_samples,
                "active": active_dimensions(found["kl_per_dim"]["z"]),
                "measures": _summary(table),
            }
        )
    return rows


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
