r"""What later potentials say of a state: the Riccati recursion of information, from the end to the start.

A potential of precision V on :math:`z_t = F z_{t-1} + D \epsilon` is one of precision
:math:`F^T (V^{-1} + D D^T)^{-1} F` on :math:`z_{t-1}`. Neither V nor D D^T needs an inverse. The recursion is that of
the Kalman filter's covariances with everything transposed and time reversed (the duality of Kalman, 1960): the
information V stands for the predicted covariance, D for the observation matrix. So it runs on the same square-root
recursion, with the same derivatives.
"""

import torch
from torch import Tensor

from dvae_lib.scans import Element, Method, is_differentiated, loop, scan
from dvae_lib.statespace.model import covariance_factor
from dvae_lib.statespace.recursions import beside, condition, riccati_factors, riccati_with_gradient, triangular_factor

__all__ = ["information_ahead"]


def information_ahead(F: Tensor, D: Tensor, J: Tensor, method: Method) -> Tensor:
    r"""The precision V_t of what the potentials of frames t..T say of the state z_t, differentiably.

    .. math:: V_T = J_T, \qquad V_t = J_t + F_{t+1}^T \big(V_{t+1}^{-1} + D_{t+1} D_{t+1}^T\big)^{-1} F_{t+1}

    Arguments:
        F: Transition matrices into steps 1..T, of which the first is not used, `(T, N, n, n)`.
        D: Factors of the covariances of the state noise, `(T, N, n, n)`; may be singular.
        J: Precisions of the potentials, `(T, N, n, n)`; may be singular.
        method: One step after the other, or an associative scan.

    Returns:
        `(T, N, n, n)`.
    """
    return (_scalar if F.shape[-1] == 1 else _matrices)(F, D, J, method)


def _matrices(F: Tensor, D: Tensor, J: Tensor, method: Method) -> Tensor:
    """In the names of the Kalman filter: A, C, Q, R and the predicted covariance."""
    T = len(J)
    A, C, Q, P_1 = F[1:].mT.flip(0), D.mT.flip(0), J[:-1].flip(0), J[-1]
    R = torch.eye(F.shape[-1], dtype=F.dtype, device=F.device).expand_as(C)
    differentiated = is_differentiated(F, D, J)
    with torch.no_grad():
        source, U_1 = covariance_factor(Q.detach()), covariance_factor(P_1.detach())
        first = condition(U_1, C[0].detach(), R[0])[2]
        factor = riccati_factors(first, A.detach(), C[1:].detach(), source, R[1:], T, method)
        U = torch.cat([U_1.unsqueeze(0), triangular_factor(beside(A @ factor[:-1], source))])
        V = U @ U.mT
        if not differentiated:
            return V.flip(0)
        whitening, gain, _ = condition(U, C, R)
        filtered = factor @ factor.mT
    return riccati_with_gradient(A, C, Q, R, P_1, filtered, whitening, gain, method)[1].flip(0)


def _scalar(F: Tensor, D: Tensor, J: Tensor, method: Method) -> Tensor:
    """For states of size one: V is a Möbius map of the next V, with coefficients that are never negative.

    Products of such maps are sums of positive terms, so that nothing cancels.
    """
    J, square, noise = J.flip(0), F[1:].square().flip(0), D[1:].square().flip(0)
    if method == "sequential":
        return loop(J[0], (J[1:], square, noise), lambda V, e: e[0] + e[1] * V / (1 + e[2] * V)).flip(0)
    maps = (J[1:] * noise + square, J[1:], noise, torch.ones_like(noise))
    return scan(J[0], maps, _apply, _combine).flip(0)


def _apply(V: Tensor, element: Element) -> Tensor:
    a, b, c, d = element
    return (a * V + b) / (c * V + d)


def _combine(earlier: Element, later: Element) -> Element:
    (a, b, c, d), (e, f, g, h) = earlier, later
    product = (e * a + f * c, e * b + f * d, g * a + h * c, g * b + h * d)
    # The scale of a map means nothing; kept near one it can neither overflow nor vanish.
    largest = torch.stack(product).detach().amax(0)
    return tuple(entry / largest for entry in product)
