"""How far each known factor of the data is held by one entry of a code."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from numpy.typing import ArrayLike
from torch import Tensor

from dvae_lib.arrays import as_tensor

__all__ = ["InformationGap", "mutual_information_gap"]


class InformationGap(NamedTuple):
    """How informative each entry of a code is of each factor.

    Attributes:
        value: The mutual information gap, between 0 and 1: the mean of `per_factor`.
        per_factor: Of each factor, by how much the most informative entry is ahead of the next, as a share of the
            factor's entropy, (K,).
        information: Mutual information of entry l and factor k in nats, (L, K).
        entropy: Of each factor, in nats, (K,).
    """

    value: float
    per_factor: Float[Tensor, " factors"]
    information: Float[Tensor, "entries factors"]
    entropy: Float[Tensor, " factors"]


def mutual_information_gap(codes: ArrayLike | Tensor, factors: ArrayLike | Tensor, *, bins: int = 20) -> InformationGap:
    r"""The mutual information gap, MIG.

    .. math::
        \mathrm{MIG} = \frac1K \sum_k \frac{I(z_{(1)}; v_k) - I(z_{(2)}; v_k)}{H(v_k)}

    where (1) and (2) are the two entries with most mutual information with the factor. 1: each factor is held by one
    entry, and no other knows of it. 0: two entries know equally much of it, as after a rotation, or none knows
    anything. That one entry holds several factors is not punished.

    What takes more different values than `bins` is cut into bins of equal counts; the rest is taken as it is. Mutual
    information is that of the counts. Of independent quantities it is not zero but about (b - 1)(b' - 1) / 2n nats with
    b and b' bins and n samples; the gap is a difference of two, and suffers less.

    Arguments:
        codes: Values of the entries, such as posterior means: (n, L), or with more dimensions in front, all of which
            count as samples.
        factors: The factors at the same samples, (n, K).
        bins: Number of bins.

    Raises:
        ValueError: Fewer than two entries, no factor, different numbers of samples, fewer of them than bins, values
            that are not finite, a factor that never changes, fewer than two bins.

    Source: Chen, Li, Grosse and Duvenaud (2018), "Isolating sources of disentanglement in variational autoencoders",
    who average over the posterior; from a table of samples as Locatello et al. (2020) do.

    Example:
        >>> v = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]).repeat(10, 1)
        >>> round(mutual_information_gap(v, v).value, 6)
        1.0
        >>> turned = torch.stack([v[:, 0] + v[:, 1], v[:, 0] - v[:, 1]], 1)
        >>> round(mutual_information_gap(turned, v).value, 6)
        0.0
    """
    z, v = (_samples(value, name) for value, name in ((codes, "codes"), (factors, "factors")))
    if z.shape[1] < 2 or v.shape[1] < 1:
        raise ValueError(f"a gap needs at least two entries and one factor; got {z.shape[1]} and {v.shape[1]}")
    if isinstance(bins, bool) or not isinstance(bins, int) or bins < 2:
        raise ValueError(f"bins must be a whole number of at least 2; got {bins!r}")
    if len(z) != len(v) or len(z) < bins:
        raise ValueError(
            f"codes and factors must have equally many samples, at least as many as the {bins} bins; got {len(z)} and "
            f"{len(v)}"
        )
    entries = [_binned(column, bins) for column in z.unbind(1)]
    causes = [_binned(column, bins) for column in v.unbind(1)]
    constant = [k for k, cause in enumerate(causes) if int(cause.max()) == 0]
    if constant:
        raise ValueError(f"factor {constant[0]} never changes: nothing can be told of it, leave it out")
    information = torch.stack([torch.stack([_information(a, b) for b in causes]) for a in entries])
    entropy = torch.stack([_information(b, b) for b in causes])
    best = information.topk(2, 0).values
    per_factor = (best[0] - best[1]) / entropy
    return InformationGap(float(per_factor.mean()), per_factor, information, entropy)


def _samples(value: ArrayLike | Tensor, name: str) -> Tensor:
    """One sample a row, in double precision."""
    table = as_tensor(value, name).detach().cpu().double()
    if table.ndim < 2 or table.numel() == 0:
        raise ValueError(f"{name} must be of shape (samples, entries); got {tuple(table.shape)}")
    if not bool(table.isfinite().all()):
        raise ValueError(f"{name} hold NaN or infinite values")
    return table.flatten(0, -2)


def _binned(column: Tensor, bins: int) -> Tensor:
    """The number of each value's bin: its own where there are few values, else one of equally filled bins."""
    if len(column.unique()) > bins:
        edges = column.quantile(torch.arange(1, bins, dtype=column.dtype) / bins)
        column = torch.bucketize(column.contiguous(), edges.unique())
    place: Tensor = torch.unique(column, return_inverse=True)[1]
    return place


def _information(a: Tensor, b: Tensor) -> Tensor:
    """Mutual information of two columns of numbers of bins, in nats; of one with itself, its entropy."""
    width = int(b.max()) + 1
    joint = torch.bincount(a * width + b, minlength=(int(a.max()) + 1) * width).double().view(-1, width) / len(a)
    product = joint.sum(1, keepdim=True) * joint.sum(0)
    return torch.where(joint > 0, joint * (joint / product).log(), 0.0).sum()
