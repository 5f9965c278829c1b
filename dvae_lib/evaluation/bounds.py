"""What a model knows of sequences in nats: variational and importance-weighted bounds, and how many dimensions help."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from dvae_lib.data.sequences import SequenceDataset
from dvae_lib.models.base import DVAE

__all__ = ["COLLAPSED", "Bounds", "active_dimensions", "bounds_per_frame"]

COLLAPSED = 0.01
"""A latent dimension whose mean KL divergence is at most this, in nats per frame, has collapsed."""


class Bounds(NamedTuple):
    """The bounds of many sequences together.

    Attributes:
        vlb: The variational lower bound, Eq. (4.24), in nats per frame.
        importance_weighted: The importance-weighted bound in nats per frame, by its number of samples.
        kl: The KL divergence of all latent variables together, in nats per frame.
        kl_per_dim: That of each dimension, by latent variable: in nats per frame; for a latent vector of the whole
            sequence, such as the DSAE's v, in nats per sequence.
    """

    vlb: float
    importance_weighted: dict[int, float]
    kl: float
    kl_per_dim: dict[str, list[float]]


@torch.no_grad()
def bounds_per_frame(
    model: DVAE,
    data: SequenceDataset,
    importance_samples: int | Sequence[int] = (),
    *,
    feedback: float = 0.0,
    batch_size: int | None = None,
    seed: int = 0,
) -> Bounds:
    """The variational and the importance-weighted bound, and the KL divergence of every latent dimension.

    Arguments:
        model: A model.
        data: Sequences, as the model sees them.
        importance_samples: Number K of samples of the importance-weighted bound (Burda et al., 2016); several give
            several bounds.
        feedback: 0 with teacher forcing, 1 in generation mode (Section 13.3.3).
        batch_size: Sequences that are evaluated at once; None takes so many that a batch has about 6,400 frames.
        seed: Seed of the latents' noise.

    Returns:
        Means over all frames of all sequences.
    """
    counts = (importance_samples,) if isinstance(importance_samples, int) else tuple(importance_samples)
    parameter = next(model.parameters())
    generator = Generator(parameter.device).manual_seed(seed)
    vlb = kl = 0.0
    weighted = dict.fromkeys(counts, 0.0)
    per_dim: dict[str, Tensor] = {}
    units: dict[str, int] = {}
    frames = data.num_frames
    batch_size = max(1, 6_400 // int(data.lengths.max())) if batch_size is None else batch_size
    for part in data.lengths.argsort().split(batch_size):  # of similar length, so that little is padding
        batch = data.batch(part.tolist()).to(parameter.device)
        x, lengths, _ = batch
        gaps: dict[str, Any] = {} if batch.observed is None else {"observed": batch.observed}
        bound = model.vlb(x, lengths=lengths, **gaps, feedback=feedback, generator=generator)
        vlb += (bound.reconstruction - bound.total_kl).sum().item()
        kl += bound.total_kl.sum().item()
        for count in counts:
            value = model.importance_weighted_bound(
                x, lengths=lengths, **gaps, num_samples=count, feedback=feedback, generator=generator
            )
            weighted[count] += value.sum().item()
        for name, term in bound.kl_per_dim.items():
            total = term.double().flatten(0, -2).sum(0).cpu()
            per_dim[name] = per_dim[name] + total if name in per_dim else total
            units[name] = len(data) if name in model.spec.latents and not model.spec.is_framewise(name) else frames
    return Bounds(
        vlb / frames,
        {count: value / frames for count, value in weighted.items()},
        kl / frames,
        {name: (term / units[name]).tolist() for name, term in per_dim.items()},
    )


def active_dimensions(kl_per_dim: Sequence[float], threshold: float = COLLAPSED) -> int:
    """How many latent dimensions carry more than the threshold; the others have collapsed.

    Example:
        >>> active_dimensions([0.5, 0.2, 0.003])
        2
    """
    return sum(value > threshold for value in kl_per_dim)
