r"""Itakura-Saito non-negative matrix factorisation (NMF): a power spectrogram as a few spectra that come and go.

Févotte, Bertin and Durrieu (2009), "Nonnegative matrix factorization with the Itakura-Saito divergence: with
application to music analysis".
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from dvae_lib.distributions import itakura_saito

__all__ = [
    "FLOOR",
    "NMF",
    "check_power",
    "dictionary_sums",
    "factorise",
    "factors_variance",
    "random_factors",
    "update_activations",
    "update_dictionary",
    "update_factors",
    "update_gains",
]

FLOOR = 1e-10
"""The least value of a factor, a gain and a variance. A factor at zero would stay there: updates multiply."""


class NMF(NamedTuple):
    r"""A factorisation :math:`v_{ft} \approx (\mathbf{W}\mathbf{H})_{ft}`.

    Attributes:
        W: The dictionary; each column is a spectrum and sums to one.
        H: The activations; each row says how strong its spectrum is in each frame.
        cost: The Itakura-Saito divergence, summed over bins and frames, before the first iteration and after each.
    """

    W: Float[Tensor, "bins rank"]
    H: Float[Tensor, "rank frames"]
    cost: tuple[float, ...]


def factors_variance(W: Float[Tensor, "bins rank"], H: Float[Tensor, "rank frames"]) -> Float[Tensor, "frames bins"]:
    r"""The variances :math:`(\mathbf{W}\mathbf{H})_{ft}`, frames first as everywhere in the library."""
    return (W @ H).mT.clamp_min(FLOOR)


def random_factors(
    power: Float[Tensor, "frames bins"],
    level: Float[Tensor, " bins"],
    rank: int,
    generator: Generator | None = None,
) -> tuple[Float[Tensor, "bins rank"], Float[Tensor, "rank frames"]]:
    """Factors to begin with, whose product lies within a factor of four of a spectrum in every frame.

    Arguments:
        power: A power spectrogram, for the number of frames, the dtype and the device.
        level: The spectrum.
        rank: Number K of dictionary columns.
        generator: Source of randomness.
    """
    if rank < 1:
        raise ValueError(f"rank, the number of spectra of the dictionary, must be at least 1; got {rank}")

    def around_one(*shape: int) -> Tensor:
        return 0.5 + torch.rand(shape, dtype=power.dtype, device=power.device, generator=generator)

    return _normalised(level[:, None] * around_one(power.shape[1], rank), around_one(rank, power.shape[0]) / rank)


def update_factors(
    power: Float[Tensor, "frames bins"],
    W: Float[Tensor, "bins rank"],
    H: Float[Tensor, "rank frames"],
    others: Float[Tensor, "samples frames bins"] | None = None,
    *,
    num_fixed: int = 0,
) -> tuple[Float[Tensor, "bins rank"], Float[Tensor, "rank frames"]]:
    r"""One multiplicative update of the activations, then one of the dictionary.

    .. math::
        \mathbf{H} \leftarrow \mathbf{H} \odot \left[
        \frac{\mathbf{W}^\top \big(|\mathbf{X}|^{2} \odot \sum_r \mathbf{V}_r^{-2}\big)}
        {\mathbf{W}^\top \sum_r \mathbf{V}_r^{-1}} \right]^{1/2},
        \qquad \mathbf{V}_r = \mathbf{O}_r + \mathbf{W}\mathbf{H}

    and likewise for :math:`\mathbf{W}`. The exponent 1/2 is that of the majorise-minimise algorithm: the divergence
    :math:`\sum_{r,f,t} d_\mathrm{IS}(|x_{ft}|^2, V_{r,ft})` never rises.

    Arguments:
        power: The observed powers :math:`|x_{ft}|^2`.
        W: The dictionary.
        H: The activations.
        others: Variances :math:`\mathbf{O}_r` of what the factors do not describe; several where these are random
            and the divergence is averaged over samples. None: there is nothing else.
        num_fixed: So many columns of the dictionary, from the first on, stay as they are.

    Source: Févotte et al. (2009) for one sample; Leglaive, Alameda-Pineda, Girin and Horaud (2020), "A recurrent
    variational autoencoder for speech enhancement", for several.
    """
    others = power.new_zeros(1, 1, 1) if others is None else others
    H = update_activations(power, W, H, others)
    W, total = update_dictionary(W, *dictionary_sums(power, W, H, others), num_fixed=num_fixed)
    return W, H * total[:, None]


def update_activations(
    power: Float[Tensor, "frames bins"],
    W: Float[Tensor, "bins rank"],
    H: Float[Tensor, "rank frames"],
    others: Float[Tensor, "samples #frames #bins"],
) -> Float[Tensor, "rank frames"]:
    """The first half of `update_factors`: the activations, each frame's by itself."""
    numerator, denominator = _ratios(power, W, H, others)
    return (H * ((W.mT @ numerator.mT) / (W.mT @ denominator.mT)).sqrt()).clamp_min(FLOOR)


def dictionary_sums(
    power: Float[Tensor, "frames bins"],
    W: Float[Tensor, "bins rank"],
    H: Float[Tensor, "rank frames"],
    others: Float[Tensor, "samples #frames #bins"],
    weights: Float[Tensor, " frames"] | None = None,
) -> tuple[Float[Tensor, "bins rank"], Float[Tensor, "bins rank"]]:
    """The sums over frames that the second half of `update_factors` needs, numerator and denominator.

    Those of pieces of a recording add up to those of the whole.

    Arguments:
        power: See `update_factors`, as for the next three.
        W: The dictionary.
        H: The activations.
        others: Variances of what the factors do not describe.
        weights: How much each frame counts; by default 1.
    """
    numerator, denominator = _ratios(power, W, H, others)
    gains = H if weights is None else weights * H
    return numerator.mT @ gains.mT, denominator.mT @ gains.mT


def update_dictionary(
    W: Float[Tensor, "bins rank"],
    numerator: Float[Tensor, "bins rank"],
    denominator: Float[Tensor, "bins rank"],
    *,
    num_fixed: int = 0,
) -> tuple[Float[Tensor, "bins rank"], Float[Tensor, " rank"]]:
    """The second half of `update_factors`, from its sums: the dictionary, its columns brought to a sum of one.

    Returns:
        The dictionary, and what its columns were divided by: the activations are to be multiplied by it.
    """
    updated = (W * (numerator / denominator).sqrt()).clamp_min(FLOOR)
    W = torch.cat([W[:, :num_fixed], updated[:, num_fixed:]], 1)
    total = W.sum(0)
    return W / total, total


def update_gains(
    power: Float[Tensor, "frames bins"],
    g: Float[Tensor, " frames"],
    speech: Float[Tensor, "samples frames bins"],
    noise: Float[Tensor, "frames bins"],
) -> Float[Tensor, " frames"]:
    r"""One multiplicative update of the gain of each frame.

    .. math::
        g_t \leftarrow g_t \left[ \frac{\sum_{f,r} |x_{ft}|^2 \, v_{s,r,ft} \, v_{x,r,ft}^{-2}}
        {\sum_{f,r} v_{s,r,ft} \, v_{x,r,ft}^{-1}} \right]^{1/2},
        \qquad v_{x,r,ft} = g_t v_{s,r,ft} + v_{b,ft}

    Arguments:
        power: The observed powers :math:`|x_{ft}|^2`.
        g: The gains.
        speech: Samples of the speech variances :math:`v_{s,r,ft}`.
        noise: The noise variances :math:`v_{b,ft}`.

    Source: Leglaive, Alameda-Pineda, Girin and Horaud (2020).
    """
    variance = g[:, None] * speech + noise
    numerator = (power * speech / variance.square()).sum((0, 2))
    return (g * (numerator / (speech / variance).sum((0, 2))).sqrt()).clamp_min(FLOOR)


def factorise(
    power: Float[Tensor, "frames bins"],
    rank: int,
    *,
    num_iterations: int = 100,
    fixed: Float[Tensor, "bins fixed_rank"] | None = None,
    generator: Generator | None = None,
) -> NMF:
    r"""Fit a dictionary and its activations to a power spectrogram, by multiplicative updates.

    Arguments:
        power: The power spectrogram, positive.
        rank: Number K of columns that are learned.
        num_iterations: Updates of both factors.
        fixed: Columns that are known, such as a dictionary of speech; they come first in the result, and only their
            activations are learned.
        generator: Source of the first factors.

    Raises:
        ValueError: Powers that are not finite and positive, a rank or number of iterations below 1.

    Example:
        >>> power = torch.rand(30, 9) + 0.1
        >>> W, H, cost = factorise(power, 2, generator=torch.Generator().manual_seed(0))
        >>> W.shape, H.shape, cost[-1] < cost[0]
        (torch.Size([9, 2]), torch.Size([2, 30]), True)
    """
    check_power(power)
    if not bool(torch.isfinite(power).all()) or not bool((power > 0).all()):
        raise ValueError("power must be finite and positive: the Itakura-Saito divergence from zero is infinite")
    if num_iterations < 1:
        raise ValueError(f"num_iterations must be at least 1; got {num_iterations}")
    W, H = random_factors(power, power.mean(0), rank, generator)
    num_fixed = 0
    if fixed is not None:
        num_fixed = fixed.shape[1]
        known = random_factors(power, power.mean(0), num_fixed, generator)[1]
        W, H = _normalised(torch.cat([fixed, W], 1), torch.cat([known / fixed.sum(0)[:, None], H], 0))
    cost = [_divergence(power, factors_variance(W, H))]
    for _ in range(num_iterations):
        W, H = update_factors(power, W, H, num_fixed=num_fixed)
        cost.append(_divergence(power, factors_variance(W, H)))
    return NMF(W, H, tuple(cost))


def _ratios(power: Tensor, W: Tensor, H: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    variance = others + factors_variance(W, H)
    return (power / variance.square()).sum(0), variance.reciprocal().sum(0)


def check_power(power: Tensor) -> None:
    """Refuse what is not one power spectrogram; several would be taken for frames, or for bins."""
    if power.ndim != 2 or 0 in power.shape:
        raise ValueError(f"power must be one spectrogram of shape (frames, bins); got {tuple(power.shape)}")


def _normalised(W: Tensor, H: Tensor) -> tuple[Tensor, Tensor]:
    """The same product, with columns of the dictionary that sum to one."""
    total = W.sum(0)
    return W / total, H * total[:, None]


def _divergence(power: Tensor, variance: Tensor) -> float:
    return float(itakura_saito(power, variance).double().sum())
