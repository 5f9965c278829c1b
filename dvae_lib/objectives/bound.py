"""The variational lower bound as an objective, and what is done to its KL terms while a model is trained."""

import inspect
from dataclasses import replace
from typing import Any, Literal

from jaxtyping import Float
from torch import Generator, Tensor

from dvae_lib.objectives.importance import repeat
from dvae_lib.objectives.missing import Observed, as_observed
from dvae_lib.objectives.terms import VLB, Lengths, as_lengths, check_counts, check_weight, frame_mask

__all__ = ["free_bits", "vlb"]


def vlb(
    model: Any,
    x: Float[Tensor, "batch time x_dim"],
    u: Float[Tensor, "batch time u_dim"] | None = None,
    *,
    lengths: Lengths | None = None,
    observed: Observed | None = None,
    beta: float = 1.0,
    num_samples: int = 1,
    feedback: float = 0.0,
    kl: Literal["analytic", "sampled"] = "analytic",
    generator: Generator | None = None,
) -> VLB:
    r"""The variational lower bound of each sequence, Eqs. (2.23) and (4.24), in nats.

    Arguments:
        model: A `DVAE`.
        x: The observed sequences.
        u: The input sequences of a driven model.
        lengths: The sequences' lengths in a padded batch.
        observed: What was observed, by frame (B, T) or by entry (B, T, x_dim); the bound is that of these values. See
            `dvae_lib.objectives.missing`.
        beta: Weight of the KL terms.
        num_samples: Number R of samples that the expectation is estimated with.
        feedback: Probability that the generative model is fed its own output instead of the true past.
        kl: "analytic" (closed form where there is one) or "sampled".
        generator: Source of randomness.

    Raises:
        ValueError, TypeError: See `DVAE.check`; also for a number of samples below 1, a weight that is negative or not
            finite, and a `kl` that does not exist.
    """
    check_counts(num_samples=num_samples)
    check_weight(beta, "beta")
    if kl not in ("analytic", "sampled"):
        raise ValueError(f"kl must be 'analytic' or 'sampled'; got {kl!r}")
    gaps = _gaps(model, observed)
    if num_samples > 1:
        x, u, inside = model.admit(x, u, lengths, feedback, **gaps)
        gaps = {name: repeat(as_observed(mask, x), num_samples) for name, mask in gaps.items()}
        x, u, lengths = x.repeat(num_samples, 1, 1), repeat(u, num_samples), repeat(inside, num_samples)
    bound: VLB = model.single_sample_bound(
        x, u, lengths=lengths, **gaps, beta=beta, feedback=feedback, kl=kl, generator=generator
    )
    if num_samples == 1:
        return bound

    def average(value: Tensor) -> Tensor:
        return value.reshape(num_samples, -1, *value.shape[1:]).mean(0)

    return VLB(
        average(bound.value),
        average(bound.reconstruction),
        {name: average(term) for name, term in bound.kl.items()},
        {name: average(term) for name, term in bound.kl_per_dim.items()},
        {name: average(term) for name, term in bound.auxiliary.items()},
        beta,
    )


def free_bits(
    model: Any,
    x: Float[Tensor, "batch time x_dim"],
    u: Float[Tensor, "batch time u_dim"] | None = None,
    *,
    lengths: Lengths | None = None,
    observed: Observed | None = None,
    nats: float = 0.1,
    per: Literal["entry", "frame", "sequence"] = "entry",
    averaged: bool = False,
    beta: float = 1.0,
    feedback: float = 0.0,
    generator: Generator | None = None,
) -> VLB:
    r"""The bound in which the first `nats` of each KL term are free, so that nothing is gained by using fewer.

    .. math::
        \mathcal{L} = \mathbb{E}_q[\log p(\mathbf{x} | \mathbf{z})]
        - \beta \sum_j \max\big(\lambda, D_\mathrm{KL}(q_j \,\|\, p_j)\big)

    Arguments:
        model: A `DVAE`.
        x: The observed sequences.
        u: The input sequences of a driven model.
        lengths: The sequences' lengths in a padded batch.
        observed: As in `vlb`.
        nats: What is free in each term, :math:`\lambda`.
        per: What a term is: each entry of each latent vector, each vector, or each sequence as a whole.
        averaged: Whether a term is the mean over the batch (and over all its frames), so that a frame may cost less
            where another costs more. Then the price is that of the batch, in equal parts for each frame or sequence.
        beta: Weight of the KL terms.
        feedback: As in `vlb`.
        generator: Source of randomness.

    Returns:
        The bound with this `value`; its `kl` is what the latents really cost.

    Raises:
        ValueError: `nats` is negative or not finite, `per` unknown, or entries are asked of a model whose KL is not a
            sum over them; see also `vlb`.
        TypeError: See `vlb`.

    Source: Kingma, Salimans, Jozefowicz, Chen, Sutskever and Welling (2016), "Improved variational inference with
    inverse autoregressive flow", whose terms are means over a batch, as `averaged` has them. Each frame and sequence
    for itself is how PlaNet (Hafner et al., 2019) has it, the mean of a frame over batch and time how the first Dreamer
    has it.
    """
    check_weight(nats, "nats")
    if per not in ("entry", "frame", "sequence"):
        raise ValueError(f"per must be 'entry', 'frame' or 'sequence'; got {per!r}")
    bound = vlb(model, x, u, lengths=lengths, observed=observed, beta=beta, feedback=feedback, generator=generator)
    lengths = as_lengths(lengths, x)
    price = bound.value.new_zeros(len(x))
    for name, term in bound.kl.items():
        if per == "entry" and name not in bound.kl_per_dim:
            raise ValueError(f"the KL of {name!r} is no sum over entries: use per='frame' or per='sequence'")
        if per == "sequence":
            whole = term.flatten(1).sum(1) if term.ndim > 1 else term
            price = price + (whole.mean().expand_as(whole) if averaged else whole).clamp_min(nats)
            continue
        terms = bound.kl_per_dim[name] if per == "entry" else term
        if averaged:
            terms = _mean_term(terms, lengths, framewise=term.ndim > 1)
        paid = terms.clamp_min(nats)
        mask = frame_mask(lengths, x.shape[1]) if term.ndim > 1 else None
        if mask is not None:  # nothing is paid for frames that are not there
            paid = paid.where(mask.reshape(mask.shape + (1,) * (paid.ndim - 2)), 0.0)
        price = price + (paid.flatten(1).sum(1) if paid.ndim > 1 else paid)
    return replace(bound, value=bound.value + beta * (bound.total_kl - price))


def _mean_term(terms: Tensor, lengths: Tensor | None, *, framewise: bool) -> Tensor:
    """The mean of the terms over the batch and its frames, in the place of each; padded frames hold zeros."""
    leading = terms.shape[:2] if framewise else terms.shape[:1]
    count = int(lengths.sum()) if framewise and lengths is not None else leading.numel()
    return (terms.flatten(0, len(leading) - 1).sum(0) / count).expand_as(terms)


def _gaps(model: Any, observed: Observed | None) -> dict[str, Any]:
    """The argument `observed` for a bound that a model may have written itself, before there was one."""
    if observed is None:
        return {}
    if "observed" not in inspect.signature(model.single_sample_bound).parameters:
        raise NotImplementedError(
            f"{type(model).__name__} writes single_sample_bound without `observed`: its bound knows no missing values"
        )
    return {"observed": observed}
