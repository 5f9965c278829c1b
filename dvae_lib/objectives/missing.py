r"""Data with gaps: which entries were observed, and what that says of a likelihood.

Let o be the observed entries of a sequence and m the missing ones. A model gives :math:`p(\mathbf{x}_o)`: all latents
and all of :math:`\mathbf{x}_m` are integrated out. Where frames are generated from latents alone, that is done by
leaving the missing entries' factors out: entries are independent given the latents. Where a frame is generated from
those before, what is missing there stays as a further latent. It is drawn from the model's own
:math:`p(\mathbf{x}_{m,t} | \cdot)`, which is its prior too, so that its divergence is zero, and

.. math::
    \log p(\mathbf{x}_o) \ge \mathbb{E}_{q(\mathbf{z} | \mathbf{x}_o)\, p(\mathbf{x}_m | \mathbf{z}, \mathbf{x}_o)}\Big[
    \sum_t \log p(\mathbf{x}_{o,t} | \mathbf{x}_{1:t-1}, \mathbf{z}_{1:t})
    - D_\mathrm{KL}\big(q(\mathbf{z}_t | \cdot) \,\|\, p(\mathbf{z}_t | \cdot)\big)\Big].

To feed back the mean, or a neutral value, would make it the bound of another model for each pattern of gaps. Gradients
flow through the draws where the family has reparameterised ones; for counts, classes, zeros and ones that part of the
gradient is left out. Where values are taken in place of draws (``latents="mean"``), so is the mean of what is missing.

What an inference network reads in place of a missing entry is free: any q that does not look at it gives a bound. Ours
reads a neutral value (`dvae_lib.distributions.neutral_of`), that of the mean of standardised data. It cannot tell a gap
from such a value, which costs tightness, not correctness.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dvae_lib.arrays import as_tensor

__all__ = ["Observed", "as_observed", "check_observed", "check_whole_frames", "observed_log_prob"]

Observed = Any
"""What was observed, as people have it: booleans, True where a value is there, of frames (B, T) or of entries
(B, T, x_dim); a tensor, an array or a list."""


def as_observed(
    observed: Observed | None, x: Tensor, name: str = "observed", *, of: str = "x"
) -> Bool[Tensor, "*frames x_dim"] | None:
    """The mask by entry, beside x; None where all of it was observed.

    Arguments:
        observed: Booleans of the shape of x, or of its frames.
        x: Sequences (B, T, x_dim), or frames (B, x_dim).
        name: What the mask is called in the message.
        of: What x is called in the message.

    Raises:
        TypeError: Not booleans.
        ValueError: Another shape.

    Example:
        >>> as_observed([[True, False]], torch.zeros(1, 2, 3))
        tensor([[[ True,  True,  True],
                 [False, False, False]]])
    """
    if observed is None:
        return None
    mask = as_tensor(observed, name)
    if mask.dtype != torch.bool:
        raise TypeError(
            f"{name} must be boolean, True where a value was observed; got {mask.dtype}: use {name}.bool(), or "
            f"~{of}.isnan() where NaN stands for what is missing"
        )
    shapes = (tuple(x.shape), tuple(x.shape[:-1]))
    if tuple(mask.shape) not in shapes:
        raise ValueError(
            f"{name} must have the shape of {of}, {shapes[0]}, or of its frames, {shapes[1]}; got {tuple(mask.shape)}"
        )
    mask = mask.to(x.device)
    entries = mask if mask.ndim == x.ndim else mask[..., None].expand(x.shape)
    return None if bool(entries.all()) else entries


def check_observed(
    entries: Bool[Tensor, "batch time x_dim"], inside: Bool[Tensor, "batch time"] | None, *, apart: bool = True
) -> None:
    """Refuse a sequence of which nothing was observed, and entries that are parts of one variable.

    Arguments:
        entries: What was observed.
        inside: The frames that belong to each sequence.
        apart: Whether the observation model's entries are variables of their own.

    Raises:
        ValueError: Such a sequence; a frame of which a part was observed, where its entries are one variable.
    """
    seen = entries if inside is None else entries & inside[..., None]
    blank = ~seen.flatten(1).any(1)
    if bool(blank.any()):
        raise ValueError(
            f"nothing was observed of sequence {int(blank.nonzero()[0])}: there is nothing to infer from, leave it out"
        )
    if not apart:
        check_whole_frames(seen if inside is None else entries | ~inside[..., None])


def check_whole_frames(entries: Bool[Tensor, "*frames x_dim"]) -> None:
    """Refuse frames of which a part was observed.

    Raises:
        ValueError: There is one; the message says where.
    """
    parts = entries.any(-1) & ~entries.all(-1)
    if bool(parts.any()):
        place = ", ".join(map(str, parts.nonzero()[0].tolist()))
        raise ValueError(
            f"a part of frame [{place}] was observed, but the entries of a frame are one variable under this "
            "observation model: hide whole frames, observed of shape (batch, time)"
        )


def observed_log_prob(
    observation: Any, x: Float[Tensor, "*frames x_dim"], entries: Bool[Tensor, "*frames x_dim"]
) -> Float[Tensor, "*frames"]:
    """The log-probability of what was observed of each frame, in nats; zero where that is nothing.

    Arguments:
        observation: The distribution of each frame.
        x: The frames, with something that has a probability where nothing was observed.
        entries: What was observed.

    Raises:
        NotImplementedError: A part of a frame was observed, and the family does not give the entries' probabilities.
    """
    if hasattr(observation, "log_prob_per_dim"):
        per_dim: Tensor = observation.log_prob_per_dim(x)
        return torch.where(entries, per_dim, 0.0).sum(-1)
    if bool((entries.any(-1) & ~entries.all(-1)).any()):
        raise NotImplementedError(
            f"{type(observation).__name__} has no log_prob_per_dim, which a frame that is observed in part needs"
        )
    log_prob: Tensor = observation.log_prob(x)
    return torch.where(entries.all(-1), log_prob, 0.0)
