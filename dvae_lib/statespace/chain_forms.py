r"""The forms of a Gaussian chain, and the ways between them.

A chain :math:`z_t = F_t z_{t-1} + b_t + D_t \epsilon_t` is given by conditionals (F, b, D), by moments (means,
covariances, and those of neighbours), or by its precision (diagonal blocks J, blocks O of neighbours, information h).
Time comes first, `(T, *batch, n, n)` for matrices and `(T, *batch, n, 1)` for vectors; what belongs to pairs of
neighbours has T - 1 frames. All functions are differentiable; those for whole chains stand in `chain`.
"""

from typing import NamedTuple, cast

import torch
from torch import Tensor

from dvae_lib.scans import Method, affine_recursion
from dvae_lib.statespace.model import LinearGaussianSSM, check_input, covariance_factor, holds, state_offsets
from dvae_lib.statespace.recursions import symmetric
from dvae_lib.statespace.tridiagonal import inverse_factor

__all__ = [
    "ChainMoments",
    "ChainPrecision",
    "from_bidiagonal_factor",
    "from_elimination",
    "from_moments",
    "from_ssm",
    "log_det",
    "precision",
    "reverse",
    "solve",
    "times_potentials",
]

Conditionals = tuple[Tensor, Tensor, Tensor]


class ChainMoments(NamedTuple):
    """Moments of a chain; of one whose entries are independent, entry by entry, without the last dimension.

    Attributes:
        mean: E[z_t], `(*batch, T, L)`.
        covariance: Cov[z_t], `(*batch, T, L, L)`.
        cross_covariance: Cov[z_t, z_{t-1}] for t = 2..T, `(*batch, T - 1, L, L)`.
    """

    mean: Tensor
    covariance: Tensor
    cross_covariance: Tensor


class ChainPrecision(NamedTuple):
    r"""A chain in information form, :math:`q(z) \propto \exp(-\tfrac12 z^T J z + h^T z)`.

    Of one whose entries are independent, entry by entry, without the last dimension.

    Attributes:
        diagonal: J_{t,t}, `(*batch, T, L, L)`.
        off_diagonal: J_{t,t-1} for t = 2..T, `(*batch, T - 1, L, L)`.
        information: h_t, `(*batch, T, L)`.
    """

    diagonal: Tensor
    off_diagonal: Tensor
    information: Tensor


def from_ssm(ssm: LinearGaussianSSM, num_steps: int, u: Tensor | None) -> Conditionals:
    """F, b and D of the states of a linear-Gaussian model, time behind the batch dimensions as the model has it."""
    check_input(ssm, u, num_steps)
    offset = state_offsets(ssm, u, num_steps)
    offset = offset.expand(*torch.broadcast_shapes(ssm.batch_shape, offset.shape[:-2]), -1, -1)
    L = ssm.z_dim

    def steps(value: Tensor, number: int) -> Tensor:
        """Of that many steps, with as many batch dimensions as the offsets."""
        value = value.reshape(*(1,) * (offset.ndim + 1 - value.ndim), *value.shape)
        return value.expand(*value.shape[:-3], number, L, L)

    noise = steps(ssm.stepwise("Lambda"), num_steps)[..., 1:, :, :]
    first = steps(ssm.Lambda_1.unsqueeze(-3), 1)
    lead = torch.broadcast_shapes(noise.shape[:-3], first.shape[:-3])
    covariance = torch.cat([value.expand(*lead, -1, -1, -1) for value in (first, noise)], dim=-3)
    return steps(ssm.stepwise("A"), num_steps), offset, covariance_factor(covariance)


def from_moments(m: Tensor, P: Tensor, cross: Tensor) -> Conditionals:
    """F, b and D from means, covariances, and covariances with the state before."""
    factor, info = torch.linalg.cholesky_ex(P[:-1])
    if holds((info != 0).any()):  # what does not vary tells nothing
        gain = cross @ torch.linalg.pinv(P[:-1], hermitian=True)
    else:
        gain = torch.cholesky_solve(cross.mT, factor).mT
    batch = torch.broadcast_shapes(P.shape[1:], gain.shape[1:])
    S = torch.cat([P[:1].expand(1, *batch), P[1:] - gain @ cross.mT])
    return _led(gain, S), torch.cat([m[:1], m[1:] - gain @ m[:-1]]), covariance_factor(symmetric(S))


def from_elimination(P: Tensor, O: Tensor, h: Tensor, method: Method) -> Conditionals:
    r"""F, b and D from the precisions of `eliminate`, the couplings and the information.

    .. math::
        F_t = -\hat J_t^{-1} O_t, \qquad \hat h_t = h_t + F_{t+1}^T \hat h_{t+1}, \qquad b_t = \hat J_t^{-1} \hat h_t
    """
    D = inverse_factor(P)
    F = _led(-D[1:] @ (D[1:].mT @ O), D)
    gathered = affine_recursion(F[1:].mT.flip(0), h.flip(0), method).flip(0)
    return F, D @ (D.mT @ gathered), D


def from_bidiagonal_factor(m: Tensor, B: Tensor, C: Tensor) -> Conditionals:
    """F, b and D of the precision with the factor that has the blocks B on the diagonal, and C above it."""
    own = B @ B.mT
    if holds((torch.linalg.cholesky_ex(own.detach()).info != 0).any()):
        raise ValueError("diagonal must have invertible blocks, and one of them is singular")
    D = inverse_factor(own)
    gain = -D[1:] @ (D[1:].mT @ (B[1:] @ C.mT))
    return _led(gain, D), torch.cat([m[:1], m[1:] - gain @ m[:-1]]), D


def precision(F: Tensor, b: Tensor, D: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """J, O and h: the way back of `from_elimination`."""
    W = solve(D, torch.eye(D.shape[-1], dtype=D.dtype, device=D.device))
    moved, offset = W @ F, W @ b
    ahead = moved[1:].mT
    J = torch.cat([W[:-1].mT @ W[:-1] + ahead @ moved[1:], W[-1:].mT @ W[-1:]])
    h = torch.cat([W[:-1].mT @ offset[:-1] - ahead @ offset[1:], W[-1:].mT @ offset[-1:]])
    return J, -W[1:].mT @ moved[1:], h


def times_potentials(
    F: Tensor, b: Tensor, D: Tensor, h: Tensor, J: Tensor, V: Tensor, method: Method
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    r"""The chain times :math:`\exp(h_t^T z_t - \tfrac12 z_t^T J_t z_t)`, V being `information_ahead`.

    .. math:: S_t = D_t (I + D_t^T V_t D_t)^{-1} D_t^T, \qquad F_t^\mathrm{new} = F_t - S_t V_t F_t

    Returns:
        The new F, b and D, and the logarithm of the normalising constant as a sum over frames.
    """
    m = affine_recursion(F[1:], b, method)  # z is measured from its mean, so that there are no offsets
    identity = torch.eye(D.shape[-1], dtype=D.dtype, device=D.device)
    inner = inverse_factor(identity + D.mT @ V @ D)
    factor = D @ inner
    S = factor @ factor.mT
    gain = F - S @ (V @ F)
    gathered = affine_recursion(gain[1:].mT.flip(0), (h - J @ m).flip(0), method).flip(0)
    shift = S @ gathered
    offset = m + shift - gain @ torch.cat([torch.zeros_like(m[:1]), m[:-1]])
    at_mean = (h * m).sum((-2, -1)) - 0.5 * (m * (J @ m)).sum((-2, -1))
    return gain, offset, factor, at_mean + log_det(inner) + 0.5 * (gathered * shift).sum((-2, -1))


def reverse(F: Tensor, m: Tensor, D: Tensor, P: Tensor) -> Conditionals:
    """F, b and D of the same Gaussian from the last state to the first, from its means m and covariances P."""
    F, noise = F[1:], (D @ D.mT)[1:]
    cross = F @ P[:-1]
    gain = torch.cholesky_solve(cross, torch.linalg.cholesky(cross @ F.mT + noise)).mT
    keep = torch.eye(P.shape[-1], dtype=P.dtype, device=P.device) - gain @ F
    S = keep @ P[:-1] @ keep.mT + gain @ noise @ gain.mT  # a sum of squares: nothing cancels
    gain, m = gain.flip(0), m.flip(0)
    S = torch.cat([P[-1:], S.flip(0)])
    return _led(gain, S), torch.cat([m[:1], m[1:] - gain @ m[:-1]]), covariance_factor(symmetric(S))


def solve(D: Tensor, value: Tensor) -> Tensor:
    """D^{-1} value, for a lower-triangular D."""
    if D.shape[-1] == 1:
        return value / D
    return cast(Tensor, torch.linalg.solve_triangular(D, value, upper=False))


def log_det(D: Tensor) -> Tensor:
    """Of a triangular D with a positive diagonal."""
    return D.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def _led(gain: Tensor, like: Tensor) -> Tensor:
    """With zeros at the start of the chain."""
    return torch.cat([torch.zeros_like(like[:1]), gain.expand(-1, *like.shape[1:])])
