"""The importance-weighted bound: many samples of the posterior, each counted by how well it explains the data."""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from dvae_lib.objectives.missing import Observed, as_observed
from dvae_lib.objectives.terms import Bound, Lengths, check_counts, log_weights

__all__ = ["importance_weighted", "importance_weighted_bound"]


def importance_weighted(
    model: Any,
    x: Float[Tensor, "batch time x_dim"],
    u: Float[Tensor, "batch time u_dim"] | None = None,
    *,
    lengths: Lengths | None = None,
    observed: Observed | None = None,
    num_samples: int = 5,
    chunk_size: int | None = None,
    feedback: float = 0.0,
    generator: torch.Generator | None = None,
) -> Bound:
    r"""The importance-weighted bound of each sequence, with gradients; in expectation it rises with `num_samples`.

    Where the spec says that frames are independent of each other, each is weighted by itself.

    Arguments:
        model: A `DVAE`.
        x: The observed sequences.
        u: The input sequences of a driven model.
        lengths: The sequences' lengths in a padded batch.
        observed: As in `vlb`.
        num_samples: Number K of samples; one gives the VLB with a sampled KL.
        chunk_size: How many samples are computed at once; by default all.
        feedback: As in `vlb`.
        generator: Source of randomness.

    Returns:
        The bound, in nats per sequence, and the effective number of samples (the smallest over independent frames).

    Raises:
        ValueError, TypeError: See `DVAE.check`; also for numbers of samples below 1.

    Source: Burda, Grosse and Salakhutdinov (2016), "Importance weighted autoencoders".
    """
    chunk_size = num_samples if chunk_size is None else chunk_size
    check_counts(num_samples=num_samples, chunk_size=chunk_size)
    x, u, inside = model.admit(x, u, lengths, feedback, observed)
    seen = as_observed(observed, x)
    chunks = []
    for start in range(0, num_samples, chunk_size):
        repeats = min(chunk_size, num_samples - start)
        x_r, u_r, lengths_r = x.repeat(repeats, 1, 1), repeat(u, repeats), repeat(inside, repeats)
        gaps = {} if seen is None else {"observed": repeat(seen, repeats)}
        output = model(x_r, u_r, lengths=lengths_r, **gaps, feedback=feedback, generator=generator)
        frames = log_weights(output, x_r, lengths=lengths_r, **gaps).reshape(repeats, *x.shape[:2])
        chunks.append(frames if model.frames_are_independent else frames.sum(-1, keepdim=True))
    weights = torch.cat(chunks)
    size = effective_sample_size(weights.detach()).amin(-1)
    return Bound(importance_weighted_bound(weights).sum(-1), size)


def importance_weighted_bound(weights: Float[Tensor, "samples *batch"]) -> Float[Tensor, "*batch"]:
    r"""The importance-weighted bound from log-weights of independent samples, along the first dimension.

    .. math::
        \mathcal{L}_K = \log \frac{1}{K} \sum_{k=1}^K
        \frac{p(\mathbf{x}, \mathbf{z}^{(k)})}{q(\mathbf{z}^{(k)} | \mathbf{x})}

    In expectation it rises with K from the VLB (K = 1) to log p(x).

    Source: Burda, Grosse and Salakhutdinov (2016), "Importance weighted autoencoders".
    """
    return weights.logsumexp(0) - math.log(weights.shape[0])


def effective_sample_size(weights: Float[Tensor, "samples *batch"]) -> Float[Tensor, "*batch"]:
    """How many equally weighted samples the log-weights are worth, along the first dimension, after Kish (1965).

    None, where no weight is above zero.
    """
    return torch.where(weights.isneginf().all(0), 0.0, shares(weights).square().sum(0).reciprocal())


def shares(weights: Float[Tensor, "samples *batch"]) -> Float[Tensor, "samples *batch"]:
    """The log-weights normalised along the first dimension; equal shares, where no weight is above zero."""
    return weights.masked_fill(weights.isneginf().all(0), 0.0).softmax(0)


def repeat(value: Tensor | None, times: int) -> Tensor | None:
    """The whole batch again and again along the first dimension; nothing, of nothing."""
    return None if value is None else value.repeat(times, *[1] * (value.ndim - 1))
