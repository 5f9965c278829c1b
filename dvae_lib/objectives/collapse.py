r"""Objectives against posterior collapse, and the least that a factorised posterior pays under a prior with memory.

`dvae_lib.objectives.free_bits` is another. The weight of the KL terms and the number of encoder steps for each step of
the decoder are schedules of `dvae_lib.training.TrainingConfig`; the memory of the prior is an option of
`dvae_lib.models.STORN`, the auxiliary losses are those of `dvae_lib.models.ImprovedVRNN`.
"""

import math
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.distributions import Distribution, kl_divergence

from dvae_lib.distributions import neutral_values
from dvae_lib.objectives.terms import (
    VLB,
    DVAEOutput,
    Lengths,
    as_lengths,
    check_counts,
    check_weight,
    frame_mask,
    variational_lower_bound,
)

__all__ = ["balanced_kl", "committed_rate", "word_dropout"]


def word_dropout(
    model: Any,
    x: Float[Tensor, "batch time x_dim"],
    u: Float[Tensor, "batch time u_dim"] | None = None,
    *,
    lengths: Lengths | None = None,
    rate: float = 0.3,
    beta: float = 1.0,
    generator: Generator | None = None,
) -> VLB:
    r"""The bound of a generative model that misses some of the past frames, while the inference model sees all.

    With probability `rate`, for each sequence and frame, a neutral value stands in the place of
    :math:`\mathbf{x}_{t-1}` wherever the generative model reads it: what is lost has to come through the latents. Like
    every dropout it takes place while the model is in training mode; in evaluation mode this is `vlb`.

    Auxiliary terms of the model are left out.

    Arguments:
        model: A `DVAE` with a predictive link (Section 4.5).
        x: The observed sequences.
        u: The input sequences of a driven model.
        lengths: The sequences' lengths in a padded batch.
        rate: Probability that a frame is blank; 1 leaves the generative model nothing but the latents.
        beta: Weight of the KL terms.
        generator: Source of randomness.

    Returns:
        The bound of the model whose past is as blank as it was drawn.

    Raises:
        ValueError: `rate` is no probability, or the model does not look back on frames.
        NotImplementedError: The model has a bound of its own.

    Source: Bowman, Vilnis, Vinyals, Dai, Jozefowicz and Bengio (2016), "Generating sentences from a continuous space".
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"rate is a probability between 0 and 1; got {rate}")
    check_weight(beta, "beta")
    _check_default_bound(model)
    if not model.links.predictive:
        raise ValueError(
            f"{type(model).__name__} does not generate from past frames, so there are none to leave out; models with "
            "a predictive link, such as VRNN and SRNN, do"
        )
    latents = model.inference(x, u, lengths=lengths, generator=generator)
    past = x
    if model.training and rate:
        blank = torch.rand(x.shape[:2], generator=generator, device=x.device) < rate
        past = torch.where(blank[..., None], neutral_values(model.observation, x), x)
    samples = {name: latent.sample for name, latent in latents.items()}
    generated = model.generation(past, samples, u, lengths=lengths)
    both = {name: q._replace(prior=generated.prior.get(name, q.prior)) for name, q in latents.items()}
    output = DVAEOutput(both, generated.observation)
    return variational_lower_bound(output, x, lengths=as_lengths(lengths, x), beta=beta)


def balanced_kl(
    model: Any,
    x: Float[Tensor, "batch time x_dim"],
    u: Float[Tensor, "batch time u_dim"] | None = None,
    *,
    lengths: Lengths | None = None,
    balance: float = 0.8,
    beta: float = 1.0,
    generator: Generator | None = None,
) -> VLB:
    r"""The bound, with gradients by which the prior follows the posterior faster than the posterior gives way to it.

    .. math::
        \alpha \, D_\mathrm{KL}\big(\mathrm{sg}(q) \,\|\, p\big) + (1 - \alpha) \,
        D_\mathrm{KL}\big(q \,\|\, \mathrm{sg}(p)\big)

    stands in the place of each KL term, where sg lets no gradient pass. The value is that of `vlb`.

    Arguments:
        model: A `DVAE` whose priors have weights of their own.
        x: The observed sequences.
        u: The input sequences of a driven model.
        lengths: The sequences' lengths in a padded batch.
        balance: The prior's share :math:`\alpha` of the gradient; 0.5 is half the gradient of the bound.
        beta: Weight of the KL terms.
        generator: Source of randomness.

    Raises:
        ValueError: `balance` is not between 0 and 1, or a prior has nothing to learn.
        NotImplementedError: The model has a bound of its own, or distributions without parameters or closed-form KL.

    Source: Hafner, Lillicrap, Norouzi and Ba (2021), "Mastering Atari with discrete world models".
    """
    if not 0 <= balance <= 1:
        raise ValueError(f"balance is the prior's share of the gradient, between 0 and 1; got {balance}")
    check_weight(beta, "beta")
    _check_default_bound(model)
    equations = model.spec.compact("generation")
    fixed = [n for n in model.spec.latents if not equations.get(f"{n}_t" if model.spec.is_framewise(n) else n)]
    if len(fixed) == len(model.spec.latents):
        raise ValueError(
            f"{type(model).__name__} has a prior that depends on nothing, so it cannot follow the posterior; models "
            "with a learned one, such as VRNN and SRNN, can"
        )
    output = model(x, u, lengths=lengths, generator=generator)
    lengths = as_lengths(lengths, x)
    bound = variational_lower_bound(output, x, lengths=lengths, beta=beta)
    shift = torch.zeros_like(bound.value)  # zero in value, the difference of the gradients
    for name, latent in output.latents.items():
        if name in fixed:
            continue
        q, p = latent.posterior, latent.prior
        term = balance * kl_divergence(_detached(q), p) + (1 - balance) * kl_divergence(q, _detached(p))
        mask = frame_mask(lengths, x.shape[1]) if latent.per == "frame" else None
        term = term if mask is None else torch.where(mask, term, 0.0)
        change = (term - bound.kl[name]).reshape(len(x), -1).sum(1)
        shift = shift + change - change.detach()
    return replace(bound, value=bound.value - beta * shift)


def committed_rate(alpha: float, num_steps: int) -> float:
    r"""The least KL divergence of a posterior without memory from a prior with it, in nats per entry and sequence.

    .. math::
        \min_{\mu, s} D_\mathrm{KL}\Big(\prod_{t=1}^T \mathcal{N}(\mu_t, s_t^2) \,\Big\|\, p(z_{1:T})\Big)
        = \tfrac{1}{2} \big[(T - 2) \ln(1 + \alpha^2) - \ln(1 - \alpha^2)\big], \quad T \ge 2,

    where :math:`z_1 \sim \mathcal{N}(0, 1)` and :math:`z_t \sim \mathcal{N}(\alpha z_{t-1}, 1 - \alpha^2)`; reached at
    :math:`\mu_t = 0` and the reciprocals of the diagonal of the prior's precision. Whatever x is, and however little q
    knows of it, this is paid: such a posterior cannot collapse.

    Arguments:
        alpha: The prior's memory, the correlation of neighbours, between -1 and 1.
        num_steps: Number T of frames.

    Raises:
        ValueError: `alpha` is not between -1 and 1, or there is no frame.

    Example:
        >>> round(committed_rate(0.5, 2), 6)
        0.143841

    Source: Razavi, van den Oord, Poole and Vinyals (2019), "Preventing posterior collapse with delta-VAEs".
    """
    check_counts(num_steps=num_steps)
    if not -1 < alpha < 1:
        raise ValueError(f"alpha is a correlation between -1 and 1; got {alpha}")
    return 0.0 if num_steps == 1 else 0.5 * ((num_steps - 2) * math.log1p(alpha**2) - math.log1p(-(alpha**2)))


def _check_default_bound(model: Any) -> None:
    """Refuse a model that writes its bound itself: the terms exchanged here are not all that it is made of."""
    if sum("single_sample_bound" in vars(c) for c in type(model).__mro__) > 1:
        raise NotImplementedError(
            f"{type(model).__name__} has a bound of its own, in which latents are integrated out: use vlb or free_bits"
        )


def _detached(distribution: Distribution) -> Distribution:
    """The same distribution, through whose parameters no gradient passes."""
    parameters = getattr(distribution, "parameters", None)
    if parameters is None:
        raise NotImplementedError(f"{type(distribution).__name__} does not name its parameters: its KL stays as it is")
    return type(distribution)(*(p.detach() for p in parameters))
