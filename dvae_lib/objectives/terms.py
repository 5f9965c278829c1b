r"""The terms that objectives are made of: latents with their distributions, masks, divergences, importance weights.

Everything is in nats and per sequence, shape ``(B,)``, unless said otherwise. Frames beyond a sequence's
length contribute nothing.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor
from torch.distributions import Distribution
from torch.distributions import kl_divergence as torch_kl_divergence

from dvae_lib.arrays import as_tensor
from dvae_lib.distributions import FactorisedDistribution, inside_values, kl_per_dim
from dvae_lib.objectives.missing import Observed, as_observed, observed_log_prob

__all__ = [
    "VLB",
    "Bound",
    "DVAEOutput",
    "Generated",
    "Latent",
    "Lengths",
    "as_lengths",
    "check_counts",
    "check_tensor",
    "check_weight",
    "frame_log_prob",
    "frame_mask",
    "holds_integers",
    "log_weights",
    "variational_lower_bound",
]

Lengths = Int[Tensor, " batch"] | Sequence[int] | NDArray[Any]
"""The number of frames of each sequence of a padded batch, as people have it."""


class Latent(NamedTuple):
    """One latent variable as inferred: a sample of its posterior, and its prior where it is known.

    `posterior` and `prior` are the conditionals that the spec declares, at the sampled parents. `per` says what has one
    such vector: each frame, or the sequence as a whole. `unseen` says for which sequences the sample is one of the
    prior, as a filter draws where nothing was observed. `closed_form` says whether the divergence of the two at the
    sampled parents is a term of the bound: not where the prior's parents were drawn from this latent
    (`DependencySpec.divergences`).
    """

    sample: Tensor
    posterior: Distribution
    prior: Distribution | None = None
    per: Literal["frame", "sequence"] = "frame"
    unseen: Tensor | None = None
    closed_form: bool = True

    @property
    def log_ratio(self) -> Tensor:
        r"""What it adds to the log importance weight: :math:`\log p - \log q` at the sample, in nats."""
        assert self.prior is not None
        ratio: Tensor = self.prior.log_prob(self.sample) - self.posterior.log_prob(self.sample)
        return ratio if self.unseen is None else torch.where(self.unseen, 0.0, ratio)


class Generated(NamedTuple):
    """What the generative model says of whole sequences: the latents' priors and p(x_t | .)."""

    prior: dict[str, Distribution]
    observation: Distribution


class DVAEOutput(NamedTuple):
    """What a forward pass returns: the latents (samples, posteriors, priors), p(x_t | .), auxiliary training terms."""

    latents: dict[str, Latent]
    observation: Distribution
    auxiliary: Mapping[str, Tensor] = MappingProxyType({})


@dataclass(frozen=True)
class Bound:
    """A bound of the log-likelihood of each sequence, estimated with weighted samples.

    Attributes:
        value: The bound, shape ``(B,)``, in nats.
        effective_sample_size: How many equally weighted samples the weights are worth, between 1 and their number:
            ``(B,)`` for importance weighting, ``(B, T)`` for particles, before resampling.
    """

    value: Float[Tensor, " batch"]
    effective_sample_size: Tensor


@dataclass(frozen=True)
class VLB:
    r"""The variational lower bound of each sequence, Eqs. (2.21) and (4.24), and the terms it is made of.

    ``value == reconstruction - beta * (sum of kl over latents and frames) + (sum of auxiliary)``

    Attributes:
        value: The objective, shape ``(B,)``. At ``beta == 1`` and without auxiliary terms, an unbiased
            estimate of a lower bound of :math:`\log p(\mathbf{x}_{1:T})`.
        reconstruction: :math:`\sum_t \log p(\mathbf{x}_t | \cdot)` at the sampled latents, shape ``(B,)``.
        kl: For each latent, ``(B, T)`` if it has one value per frame, ``(B,)`` if it has one per sequence.
            Zero in padded frames.
        kl_per_dim: The same before summing over the vector, shape ``(B, T, D)`` or ``(B, D)``, where both
            posterior and prior are factorised.
        auxiliary: Training terms beside the bound, each of shape ``(B,)``.
        beta: The weight of the KL terms.
    """

    value: Float[Tensor, " batch"]
    reconstruction: Float[Tensor, " batch"]
    kl: dict[str, Tensor]
    kl_per_dim: dict[str, Tensor] = field(default_factory=dict)
    auxiliary: dict[str, Tensor] = field(default_factory=dict)
    beta: float = 1.0

    @property
    def total_kl(self) -> Float[Tensor, " batch"]:
        """The sum of all KL terms, shape ``(B,)``."""
        total = torch.zeros_like(self.reconstruction)
        for kl in self.kl.values():
            total = total + kl.flatten(1).sum(1) if kl.ndim > 1 else total + kl
        return total


def check_counts(**counts: object) -> None:
    """Refuse numbers of samples, particles, sequences or frames that are no integers of at least 1.

    Raises:
        ValueError: With all names and what was given for each.
    """
    names, got = " and ".join(counts), " and ".join(map(repr, counts.values()))
    if any(isinstance(n, bool) or not isinstance(n, int | np.integer) for n in counts.values()):
        raise ValueError(f"{names} must be {'whole numbers' if len(counts) > 1 else 'a whole number'}; got {got}")
    if any(n < 1 for n in counts.values()):  # type: ignore[operator]
        raise ValueError(f"{names} must be at least 1; got {got}")


def check_weight(value: Any, name: str) -> None:
    """Refuse a weight or a price that is negative or not finite."""
    if not 0.0 <= value < math.inf:
        raise ValueError(f"{name} must be 0 or more, and finite; got {value}")


def check_tensor(x: object, name: str) -> None:
    """Refuse what is no tensor."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor; got {type(x).__name__}: use torch.as_tensor({name})")


def as_lengths(lengths: Lengths | None, x: Tensor) -> Int[Tensor, " batch"] | None:
    """Lengths as people have them, as a tensor of 64-bit integers beside x; what no integers are is left for `check`.

    Raises:
        TypeError: Not numbers.
    """
    check_tensor(x, "x")
    if lengths is None:
        return None
    given = lengths if isinstance(lengths, Tensor) else as_tensor(lengths, "lengths").to(x.device)
    return given.long() if holds_integers(given) else given  # narrow ones cannot be indices


def holds_integers(values: Tensor) -> bool:
    """Whether the values are whole numbers by their dtype, and no booleans."""
    return not (values.dtype.is_floating_point or values.dtype.is_complex or values.dtype == torch.bool)


def frame_mask(lengths: Int[Tensor, " batch"] | None, num_steps: int) -> Bool[Tensor, "batch time"] | None:
    """True on the frames that belong to each sequence; None where all sequences are full.

    Example:
        >>> frame_mask(torch.tensor([1, 3]), 3)
        tensor([[ True, False, False],
                [ True,  True,  True]])
    """
    if lengths is None:
        return None
    return torch.arange(num_steps, device=lengths.device) < lengths[:, None]


def frame_log_prob(
    observation: Distribution,
    x: Float[Tensor, "*frames x_dim"],
    mask: Bool[Tensor, "*frames"] | None,
    observed: Bool[Tensor, "*frames x_dim"] | None = None,
) -> Float[Tensor, "*frames"]:
    """The log-probability of what is observed of each frame, in nats; zero, with zero gradients, of what is not there.

    Arguments:
        observation: The distribution of each frame.
        x: The frames.
        mask: The frames that belong to each sequence; all, if None.
        observed: The entries that were observed; all, if None.
    """
    if observed is not None:
        entries = observed if mask is None else observed & mask[..., None]
        inside = inside_values(type(observation), x)
        return observed_log_prob(observation, torch.where(entries, x, inside), entries)
    if mask is None:
        return observation.log_prob(x)
    # Of what stands beyond the lengths a density may be infinite, of zeros too where it is one of positive numbers, and
    # infinity has no gradient that a mask could undo.
    x = torch.where(mask[..., None], x, inside_values(type(observation), x))
    log_prob: Tensor = observation.log_prob(x)
    return torch.where(mask, log_prob, 0.0)


def variational_lower_bound(
    output: DVAEOutput,
    x: Float[Tensor, "batch time x_dim"],
    *,
    lengths: Int[Tensor, " batch"] | None = None,
    observed: Observed | None = None,
    beta: float = 1.0,
    kl: Literal["analytic", "sampled"] = "analytic",
) -> VLB:
    r"""The VLB of Eqs. (2.21) and (4.24), with one sample of the latents as the expectation's estimate.

    .. math::
        \mathcal{L} = \sum_t \mathbb{E}_q\Big[\log p(\mathbf{x}_t | \cdot)
        - D_\mathrm{KL}\big(q(\mathbf{z}_t | \cdot) \,\|\, p(\mathbf{z}_t | \cdot)\big)\Big]

    Arguments:
        output: What `forward` returned. Its auxiliary terms are added to the objective.
        x: The observed sequences.
        lengths: The sequences' lengths in a padded batch.
        observed: What was observed, by frame or by entry: the reconstruction is that of these values.
        beta: Weight of the KL terms (KL warm-up; the beta-VAE).
        kl: "analytic" uses the closed form where the pair has one and the order of inference allows it, and a sample
            elsewhere; "sampled" uses :math:`\log q - \log p` at the very sample that the reconstruction uses, so that
            at the exact posterior the value is log p(x) for every sample.
    """
    if kl not in ("analytic", "sampled"):
        raise ValueError(f"kl must be 'analytic' or 'sampled'; got {kl!r}")
    mask = frame_mask(lengths, x.shape[1])
    reconstruction = frame_log_prob(output.observation, x, mask, as_observed(observed, x)).sum(1)
    terms: dict[str, Tensor] = {}
    per_dim: dict[str, Tensor] = {}
    for name, latent in output.latents.items():
        if latent.prior is None:
            raise ValueError(f"the output holds no prior of {name!r}; pass what `forward` returns")
        # A latent of the whole sequence, such as the DSAE's v, has no frames to mask.
        framewise = mask if latent.per == "frame" else None
        term, detail = _kl(
            latent.posterior, latent.prior, latent.sample, analytic=kl == "analytic" and latent.closed_form
        )
        terms[name] = _masked(term, framewise)
        if detail is not None:
            per_dim[name] = _masked(detail, framewise)
    auxiliary = dict(output.auxiliary)
    bound = VLB(reconstruction, reconstruction, terms, per_dim, auxiliary, beta)
    value = reconstruction - beta * bound.total_kl
    for term in auxiliary.values():
        value = value + term
    return VLB(value, reconstruction, terms, per_dim, auxiliary, beta)


def log_weights(
    output: DVAEOutput,
    x: Float[Tensor, "batch time x_dim"],
    *,
    lengths: Int[Tensor, " batch"] | None = None,
    observed: Observed | None = None,
) -> Float[Tensor, "batch time"]:
    r"""Each frame's part of the log importance weight.

    The whole is :math:`\log p(\mathbf{x}, \mathbf{z}) - \log q(\mathbf{z} | \mathbf{x})`, of x what was observed.
    Latents with one value per sequence are counted in the first frame. Padded frames hold zero.
    """
    mask = frame_mask(lengths, x.shape[1])
    weights = frame_log_prob(output.observation, x, mask, as_observed(observed, x))
    for name, latent in output.latents.items():
        if latent.prior is None:
            raise ValueError(f"the output holds no prior of {name!r}; pass what `forward` returns")
        term = latent.log_ratio
        if latent.per == "sequence":
            term = torch.nn.functional.pad(term[:, None], (0, x.shape[1] - 1))
        weights = weights + term
    return _masked(weights, mask)


def _kl(q: Distribution, p: Distribution, sample: Tensor, *, analytic: bool) -> tuple[Tensor, Tensor | None]:
    """KL summed over the vector, and per entry where both sides are factorised."""
    factorised = isinstance(q, FactorisedDistribution) and isinstance(p, FactorisedDistribution)
    if analytic:
        try:
            if factorised:
                per_dim = kl_per_dim(q, p)  # type: ignore[arg-type]
                return per_dim.sum(-1), per_dim
            return torch_kl_divergence(q, p), None
        except NotImplementedError:
            pass  # no closed form: the sampled estimate below is unbiased
    if factorised:
        per_dim = q.log_prob_per_dim(sample) - p.log_prob_per_dim(sample)  # type: ignore[attr-defined]
        return per_dim.sum(-1), per_dim
    return q.log_prob(sample) - p.log_prob(sample), None


def _masked(values: Float[Tensor, "batch *rest"], mask: Tensor | None) -> Tensor:
    """The values, zero in padded frames; without a mask, as for a latent of the whole sequence, as they are."""
    if mask is None:
        return values
    return torch.where(mask.reshape(mask.shape + (1,) * (values.ndim - 2)), values, values.new_zeros(()))
