"""The particle bound: importance weighting that gives up unlikely particles on the way (FIVO)."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from dvae_lib.objectives.importance import effective_sample_size, shares
from dvae_lib.objectives.missing import Observed, as_observed
from dvae_lib.objectives.terms import Bound, Latent, Lengths, check_counts, frame_log_prob, frame_mask

__all__ = ["check_threshold", "particle", "surviving_rows"]


def particle(
    model: Any,
    x: Float[Tensor, "batch time x_dim"],
    u: Float[Tensor, "batch time u_dim"] | None = None,
    *,
    lengths: Lengths | None = None,
    observed: Observed | None = None,
    num_particles: int = 5,
    threshold: float = 0.5,
    generator: Generator | None = None,
) -> Bound:
    r"""A particle bound of :math:`\log p_\theta(\mathbf{x}_{1:T})`, in nats per sequence, with gradients.

    A particle filter in which the inference model proposes :math:`\mathbf{z}_t` given each particle's own past. Its
    likelihood estimate is unbiased, so the expectation of its logarithm is a lower bound. The cost is in proportion to
    the number of frames, for a model with a proposal per frame (`context` and `propose`). Gradients flow through the
    reparameterised draws and the weights; those of the choice of ancestors are left out, as in the papers, for their
    variance. Where no particle gives a frame a density above zero, the bound of that sequence is minus infinity and the
    frame's effective sample size zero; the filter goes on with equal weights.

    Arguments:
        model: A `DVAE` that generates frame by frame.
        x: The observed sequences.
        u: The input sequences of a driven model.
        lengths: The sequences' lengths in a padded batch.
        observed: As in `vlb`. What is missing of a frame that later ones look back on is each particle's own draw.
        num_particles: Number of particles.
        threshold: Resample where the effective sample size falls below this fraction of the particles; 0 never does,
            which makes it the importance-weighted bound.
        generator: Source of randomness.

    Raises:
        NotImplementedError: If generation is not causal: the weight of a frame would need future latents; or if
            inference goes backwards in time.
        ValueError, TypeError: See `DVAE.check`; also for a number of particles below 1, and a threshold outside [0, 1].

    Source: Maddison et al. (2017), "Filtering variational objectives"; Naesseth et al. (2018); Le et al. (2018).
    """
    check_counts(num_particles=num_particles)
    check_threshold(threshold)
    if not model.is_causal:
        raise NotImplementedError(
            f"{type(model).__name__} does not generate frame by frame: no particle filter. Use importance_weighted, or "
            "a causal model, such as DKF, VRNN and SRNN"
        )
    evidence, sizes = x.new_zeros(len(x)), []
    for frame in filtered_frames(model, x, u, lengths, observed, num_particles, threshold, "sample", generator):
        evidence = evidence + frame.evidence
        sizes.append(frame.effective_sample_size)
    return Bound(evidence, torch.stack(sizes, 1))


class ParticleFrame(NamedTuple):
    """One frame of a particle filter.

    Attributes:
        latents: What was proposed, by name, with posteriors and priors; at the first frame with the latents of the
            whole sequence. Rows stand particle by particle, each with the whole batch.
        seen: log p(x_t | .) of each particle, (K, B); zero beyond a sequence's end.
        inside: Which sequences have this frame, (B,); None: all.
        weights: The particles' log-weights before resampling, (K, B), not normalised.
        evidence: What this frame adds to the logarithm of the evidence's estimate; the rest, where particles are not
            resampled, comes with the last frame, (B,).
        rows: Which rows go on.
        effective_sample_size: (B,).
    """

    latents: dict[str, Latent]
    seen: Tensor
    inside: Tensor | None
    weights: Tensor
    evidence: Tensor
    rows: Tensor
    effective_sample_size: Tensor


def filtered_frames(
    model: Any,
    x: Tensor,
    u: Tensor | None,
    lengths: Lengths | None,
    observed: Observed | None,
    num_particles: int,
    threshold: float,
    draw: str,
    generator: Generator | None,
) -> Iterator[ParticleFrame]:
    """A particle filter over whole sequences, one frame after the other. The arguments are those of `particle`."""
    x, u, inside = model.admit(x, u, lengths, 0.0, observed)
    entries = as_observed(observed, x)
    read, (batch_size, num_steps) = model.read(x, entries), x.shape[:2]
    k, mask = num_particles, frame_mask(inside, num_steps)
    options = {"num_particles": k, "draw": draw, "generator": generator}
    context, state = model.begin_proposals(x, u, lengths=inside, observed=entries, **options)
    latents, weights = dict(context.latents), x.new_zeros(k, batch_size)
    for t in range(num_steps):
        x_t, u_t = x[:, t].repeat(k, 1), None if u is None else u[:, t].repeat(k, 1)
        e_t = None if entries is None else entries[:, t].repeat(k, 1)
        read_t, context_t = read[:, t].repeat(k, 1), context.at(t, k * batch_size)
        proposal = model._proposal(state, context_t, read_t, u_t, {}, draw, generator, e_t)
        seen = frame_log_prob(proposal.observation, x_t, None if mask is None else mask[:, t].repeat(k), e_t)
        latents |= proposal.latents
        increment = sum((latent.log_ratio for latent in latents.values()), seen).view(k, batch_size)
        weights = weights + (increment if mask is None else torch.where(mask[:, t], increment, 0.0))
        size = effective_sample_size(weights.detach())
        poor = size < threshold * k
        rows = surviving_rows(shares(weights.detach()), poor, generator)
        done = poor if t < num_steps - 1 else torch.ones_like(poor)
        evidence = torch.where(done, weights.logsumexp(0) - math.log(k), 0.0)
        here = None if mask is None else mask[:, t]
        yield ParticleFrame(latents, seen.view(k, batch_size), here, weights, evidence, rows, size)
        weights = torch.where(poor, 0.0, weights)
        state, latents = {name: value[rows] for name, value in proposal.state.items()}, {}


def check_threshold(threshold: float) -> None:
    """Refuse what is no fraction of the particles."""
    if not 0.0 <= threshold <= 1.0:
        raise ValueError(f"threshold must lie between 0 and 1; got {threshold}")


def surviving_rows(
    weights: Float[Tensor, "particles batch"], poor: Bool[Tensor, " batch"], generator: Generator | None
) -> Int[Tensor, " rows"]:
    """The rows of a state that go on: drawn anew for the sequences whose particles are poor, as they are for others.

    Rows stand particle by particle, each with the whole batch.
    """
    k, batch_size = weights.shape
    ancestors = _systematic(weights, generator)
    ancestors = torch.where(poor, ancestors, torch.arange(k, device=weights.device)[:, None])
    return (ancestors * batch_size + torch.arange(batch_size, device=weights.device)).reshape(-1)


def _systematic(weights: Float[Tensor, "particles batch"], generator: Generator | None) -> Tensor:
    """Indices of the particles that go on, drawn in proportion to their weights with one uniform per sequence."""
    k, batch_size = weights.shape
    offset = torch.rand(batch_size, dtype=weights.dtype, device=weights.device, generator=generator)
    positions = (torch.arange(k, device=weights.device, dtype=weights.dtype)[:, None] + offset) / k
    edges = weights.cumsum(0)
    found = torch.searchsorted(edges.T.contiguous(), positions.T.contiguous()).T
    return found.clamp_max(k - 1)
