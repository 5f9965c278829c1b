r"""Linear dynamics in several regimes, fitted to states that are known: the steps of the EM algorithm.

The states :math:`\mathbf{z}_{1:T}` are data here, the regimes are not. Everything is computed in float64.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor
from torch.nn import functional as F

__all__ = ["KnownStates", "best_dynamics", "first_clusters", "known_states"]

RIDGE, LEAST = 1e-3, 1e-4
"""Weight of small matrices, against regimes that hardly any frame is in; least variance and probability."""


class KnownStates(NamedTuple):
    r"""States of sequences, in float64.

    Attributes:
        z: The states, `(B, T, L)`.
        known: What the second and all later ones are predicted from, :math:`[\mathbf{z}_{t-1}, 1, \mathbf{u}_t]`.
        there: Which frames the sequences have, `(B, T)`.
    """

    z: Float[Tensor, "batch time z_dim"]
    known: Float[Tensor, "batch later known"]
    there: Bool[Tensor, "batch time"]


def known_states(z: Tensor, u: Tensor | None, there: Tensor | None) -> KnownStates:
    """States with inputs and, of a padded batch, the frames that are there, from what a model holds."""
    z = z.double()
    parts = [z[:, :-1], torch.ones_like(z[:, 1:, :1]), *([] if u is None else [u[:, 1:].double()])]
    there = torch.ones(z.shape[:2], dtype=torch.bool, device=z.device) if there is None else there
    return KnownStates(z, torch.cat(parts, -1), there)


def first_clusters(
    data: KnownStates, count: int, generator: Generator | None = None, rounds: int = 20
) -> Float[Tensor, "batch time count"]:
    r"""K-means clusters of the pairs :math:`(\mathbf{z}_{t-1}, \mathbf{z}_t)`, entries scaled to unit variance.

    Arguments:
        data: The states.
        count: Number of clusters.
        generator: Source of randomness, of the first centres (k-means++).
        rounds: Rounds of k-means.

    Returns:
        For each frame a vector with a single one; the first frame has that of the second.
    """
    pairs = torch.cat([data.z[:, :-1], data.z[:, 1:]], -1)
    pairs = pairs / pairs[data.there[:, 1:]].std(0).clamp_min(1e-6)
    points = pairs[data.there[:, 1:]]
    centres = points[torch.randint(len(points), (1,), generator=generator, device=points.device)]
    while len(centres) < count:
        squared = torch.cdist(points, centres).amin(1).square() + 1e-12
        centres = torch.cat([centres, points[squared.multinomial(1, generator=generator)]])
    for _ in range(rounds):
        member = F.one_hot(torch.cdist(points, centres).argmin(1), count).to(points)
        sizes = member.sum(0)[:, None]
        centres = torch.where(sizes > 0, member.mT @ points / sizes.clamp_min(1), centres)
    found = F.one_hot(torch.cdist(pairs, centres).argmin(-1), count).to(points)
    return torch.cat([found[:, :1], found], 1)


def best_dynamics(
    data: KnownStates, marginals: Float[Tensor, "batch time regimes"], pairwise: Tensor | None = None
) -> dict[str, Tensor]:
    r"""The most probable dynamics where regimes are known by their probabilities: weighted least squares (the M step).

    Arguments:
        data: The states.
        marginals: :math:`p(s_t = k | \mathbf{z}_{1:T})`.
        pairwise: :math:`p(s_{t-1} = j, s_t = k | \mathbf{z}_{1:T})`, `(B, T - 1, K, K)`; without
            them nothing is said of the transitions.

    Returns:
        The parameters of a `SwitchingSSM`, by their names in its `dynamics`. The variance of the first state is the
        same in all regimes, since few sequences begin in one.
    """
    weights = torch.where(data.there[..., None], marginals.double(), 0.0)
    later, dim = weights[:, 1:], data.z.shape[-1]
    normal = torch.einsum("btk,bti,btj->kij", later, data.known, data.known)
    normal = normal + RIDGE * torch.eye(normal.shape[-1]).to(normal)
    moment = torch.einsum("btk,bti,btj->kij", later, data.known, data.z[:, 1:])
    solution = torch.linalg.solve(normal, moment).mT  # of A, b and B beside each other
    error = data.z[:, 1:, None] - torch.einsum("kij,btj->btki", solution, data.known)
    variance = (later[..., None] * error.square()).sum((0, 1)) / later.sum((0, 1))[:, None].clamp_min(1e-6)
    start = weights[:, 0]
    mean_1 = start.mT @ data.z[:, 0] / start.sum(0)[:, None].clamp_min(1e-6)
    found = {
        "A": solution[..., :dim],
        "b": solution[..., dim],
        "logvar": _log(variance),
        "mu_1": mean_1,
        "logvar_1": _log(data.z[:, 0].var(0, correction=0)).expand_as(mean_1),
        "initial": _log(start.mean(0)),
    }
    if data.known.shape[-1] > dim + 1:
        found["B"] = solution[..., dim + 1 :]
    if pairwise is not None:
        moves = torch.where(data.there[:, 1:, None, None], pairwise.double(), 0.0).sum((0, 1)) + LEAST
        found["transition"] = (moves / moves.sum(-1, keepdim=True)).log()
    return found


def _log(value: Tensor) -> Tensor:
    return value.clamp_min(LEAST).log()
