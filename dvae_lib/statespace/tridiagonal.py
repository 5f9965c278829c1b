r"""Elimination in symmetric block-tridiagonal matrices: the precision of a Gaussian chain, one state after the other.

A Gaussian over z_{1:T} whose precision J has no blocks beyond the neighbours' is a chain. Integrating out its last
state leaves a chain that is one state shorter, with the precision

.. math:: \hat J_t = J_{t,t} - J_{t+1,t}^T \hat J_{t+1}^{-1} J_{t+1,t}, \qquad \hat J_T = J_{T,T}

at its end, which is also the precision of z_t given z_{t-1}. Like the recursions of `recursions`, it goes one step
after the other or as an associative scan (block cyclic reduction), and its derivative is a Lyapunov recursion.
"""

from typing import Any

import torch
from torch import Tensor

from dvae_lib.scans import Element, Method, is_differentiated, loop, records_steps, scan
from dvae_lib.statespace.model import holds
from dvae_lib.statespace.recursions import lyapunov_differentiable, symmetric

__all__ = ["eliminate", "inverse_factor"]


def eliminate(diagonal: Tensor, off_diagonal: Tensor, method: Method) -> Tensor:
    r"""The precisions :math:`\hat J_t` of each state given the one before it, differentiably.

    Arguments:
        diagonal: The blocks J_{t,t}, `(T, N, n, n)`, symmetric.
        off_diagonal: The blocks J_{t,t-1} of t = 2..T, `(T - 1, N, n, n)`.
        method: One step after the other, or an associative scan.

    Returns:
        `(T, N, n, n)`.

    Raises:
        ValueError: If the matrix is not positive definite.
    """
    if not is_differentiated(diagonal, off_diagonal) or records_steps(diagonal, off_diagonal):
        return _eliminate(diagonal, off_diagonal, method)
    result: Tensor = _Elimination.apply(diagonal, off_diagonal, method)  # type: ignore[no-untyped-call]
    return result


def inverse_factor(matrix: Tensor) -> Tensor:
    """The lower-triangular F with F F^T the inverse of a positive definite `matrix`, `(..., n, n)`."""
    # Factorised from the last row to the first it is U U^T with U upper-triangular, whose inverse, transposed, is F.
    upper = torch.linalg.cholesky_ex(matrix.flip(-2, -1)).L.flip(-2, -1)
    identity = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    factor: Tensor = torch.linalg.solve_triangular(upper, identity, upper=True).mT
    return factor


def _eliminate(diagonal: Tensor, off_diagonal: Tensor, method: Method) -> Tensor:
    J, O = symmetric(diagonal).flip(0), off_diagonal.flip(0)
    if method == "parallel":
        result = scan(J[0], (J[1:], O, torch.zeros_like(O)), _apply, _combine)
    else:
        result = loop(J[0], (J[1:], O), _step)
    _check_positive(result.flip(0))
    return result.flip(0)


def _step(P: Tensor, element: Element) -> Tensor:
    J, O = element
    half = torch.linalg.solve_triangular(torch.linalg.cholesky_ex(P).L, O, upper=False)
    result: Tensor = J - half.mT @ half
    return result


# An element is (A, B, C): it takes P to A - B^T (C + P)^{-1} B.


def _apply(P: Tensor, element: Element) -> Tensor:
    A, B, C = element
    return _step(C + P, (A, B))


def _combine(earlier: Element, later: Element) -> Element:
    (A, B, C), (A_later, B_later, C_later) = earlier, later
    factor = torch.linalg.cholesky_ex(C_later + A).L
    ahead = torch.linalg.solve_triangular(factor, B_later, upper=False)
    back = torch.linalg.solve_triangular(factor, B.mT, upper=False)
    return A_later - ahead.mT @ ahead, back.mT @ ahead, C - back.mT @ back


def _check_positive(precisions: Tensor) -> None:
    bad = torch.linalg.cholesky_ex(precisions.detach()).info != 0
    bad = bad | ~torch.isfinite(precisions.detach()).all(-1).all(-1)
    if holds(bad.any()):
        frames, series = (index.tolist() for index in bad.nonzero(as_tuple=True))
        raise ValueError(
            f"The precision is not positive definite: that of frame {frames[-1]} in series {series[-1]}, given the "
            "frame before it, has an eigenvalue of zero or less. Each state needs some information, from its own "
            "potential or from its neighbours'"
        )


class _Elimination(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, diagonal: Tensor, off_diagonal: Tensor, method: Method) -> Tensor:
        result = _eliminate(diagonal, off_diagonal, method)
        ctx.save_for_backward(off_diagonal, result)
        ctx.method = method
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        """A change of a precision moves that before it by F^T (.) F, with the chain's transition F = -P^{-1} O."""
        O, P = ctx.saved_tensors
        F = -torch.cholesky_solve(O, torch.linalg.cholesky_ex(P[1:]).L)
        adjoint = lyapunov_differentiable(F, symmetric(gradient), ctx.method)
        return adjoint, 2 * F @ adjoint[:-1], None
