"""Learning from what a particle filter found: neural adaptive sequential Monte Carlo."""

from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from dvae_lib.objectives.importance import shares
from dvae_lib.objectives.missing import Observed
from dvae_lib.objectives.particles import ParticleFrame, check_threshold, filtered_frames
from dvae_lib.objectives.terms import Bound, Lengths, check_counts

__all__ = ["nasmc"]


def nasmc(
    model: Any,
    x: Float[Tensor, "batch time x_dim"],
    u: Float[Tensor, "batch time u_dim"] | None = None,
    *,
    lengths: Lengths | None = None,
    observed: Observed | None = None,
    num_particles: int = 10,
    threshold: float = 0.5,
    weights: Literal["filtering", "smoothing"] = "filtering",
    generator: Generator | None = None,
) -> Bound:
    r"""The particle estimate of :math:`\log p_\theta(\mathbf{x}_{1:T})`, with the gradients of NASMC.

    The value is that of `particle`. The gradients are others. A particle filter's weighted particles stand for the
    posterior; the proposal :math:`q_\phi` is fitted to them, and the generative model by Fisher's identity:

    .. math::
        \sum_t \sum_k \bar w_t^{(k)} \, \nabla_\phi \log q_\phi(\mathbf{z}_t^{(k)} | \cdot), \qquad
        \sum_t \sum_k \bar w_t^{(k)} \, \nabla_\theta
        \log p_\theta(\mathbf{x}_t, \mathbf{z}_t^{(k)} | \cdot)

    So :math:`\phi` descends :math:`D_\mathrm{KL}(p_\theta \| q_\phi)`, the *inclusive* divergence, of which a bound
    would take the reverse: q is made to cover p. No gradient passes through a draw, so latents may be of any family.
    Parameters that both models share follow the sum.

    Arguments:
        model: A `DVAE` with a proposal per frame.
        x: The observed sequences.
        u: The input sequences of a driven model.
        lengths: The sequences' lengths in a padded batch.
        observed: As in `particle`.
        num_particles: Number K of particles.
        threshold: Resample where the effective sample size falls below this fraction of the particles.
        weights: "filtering" counts the particles of frame t by their weights at t, as in the paper, although the
            identity asks for those given all frames: with any number of particles the gradients stay biased.
            "smoothing" counts whole paths by their weights at the end; then the bias vanishes as K grows, but early
            frames are left with few different particles.
        generator: Source of randomness.

    Raises:
        NotImplementedError: The model has no proposal per frame.
        ValueError, TypeError: See `DVAE.check`; also for a number of particles below 1, a threshold outside [0, 1], and
            `weights` that do not exist.

    Source: Gu, Ghahramani and Turner (2015), "Neural adaptive sequential Monte Carlo".
    """
    check_counts(num_particles=num_particles)
    check_threshold(threshold)
    if weights not in ("filtering", "smoothing"):
        raise ValueError(f"weights must be 'filtering' or 'smoothing'; got {weights!r}")
    if not model.has_proposal:
        raise NotImplementedError(
            f"{type(model).__name__} has no proposal per frame (_context and _propose), which particles are drawn "
            "from; models that generate and infer forwards in time, such as DKF, VRNN and SRNN, have one"
        )
    estimate, learned, sizes = x.new_zeros(len(x)), x.new_zeros(len(x)), []
    paths = x.new_zeros(num_particles, len(x))
    for frame in filtered_frames(model, x, u, lengths, observed, num_particles, threshold, "detached", generator):
        estimate = estimate + frame.evidence.detach()
        sizes.append(frame.effective_sample_size)
        terms, share = _log_densities(frame), shares(frame.weights.detach())
        if weights == "filtering":
            learned = learned + _expected(share, terms)
        else:
            paths = paths + terms
            learned = _expected(share, paths)
            paths = paths.reshape(-1)[frame.rows].view_as(paths)
    # The value is the estimate, the gradient that of what is learned from.
    value = torch.where(learned.isneginf(), estimate, estimate + (learned - learned.detach()))
    return Bound(value, torch.stack(sizes, 1))


def _expected(share: Tensor, terms: Tensor) -> Tensor:
    """The sum of the terms by their shares; a particle without one says nothing, whatever its term."""
    return torch.where(share > 0, share * terms, 0.0).sum(0)


def _log_densities(frame: ParticleFrame) -> Float[Tensor, "particles batch"]:
    """log p(x_t, z_t | .) + log q(z_t | .) of each particle; zero beyond a sequence's end."""
    terms = frame.seen
    for latent in frame.latents.values():
        assert latent.prior is not None
        log_densities = latent.prior.log_prob(latent.sample) + latent.posterior.log_prob(latent.sample)
        terms = terms + log_densities.view_as(terms)
    return terms if frame.inside is None else torch.where(frame.inside, terms, 0.0)
