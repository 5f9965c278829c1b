"""Recursions over time, one step after the other or as associative scans, and their derivatives.

Time is the first axis throughout. Four recursions carry the whole package:

- affine,     :math:`y_t = F_t y_{t-1} + b_t`: filtered and smoothed means, samples (`dvae_lib.scans`);
- Lyapunov,   :math:`Y_t = F_t Y_{t-1} F_t^T + Q_t`: smoothed covariances, and the derivatives of both below;
- Lyapunov in square-root form, where :math:`Y_t` and :math:`Q_t` are kept as factors;
- Riccati in square-root form: filtered covariances.

None of them records its steps for automatic differentiation. Their derivatives are again affine or Lyapunov
recursions, run backwards with the transposed matrices, and are written down as such: a long series costs one more
recursion and no tape, and singular covariances, whose factors have no derivative, do no harm.

These derivatives are made of the recursions themselves, so they can be differentiated again (`create_graph=True`).
Forward mode and the transforms of `torch.func`, which nest in ways that a derivative written by hand does not see, get
plain recorded steps instead.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dvae_lib.scans import (
    Element,
    Method,
    is_differentiated,
    loop,
    records_steps,
    scan,
)

__all__ = ["lyapunov_recursion", "triangular_factor"]

# ---- where every step is the same ------------------------------------------------------------------------------


def scan_constant(
    first: Tensor,
    element: Element,
    num_steps: int,
    apply: Callable[[Tensor, Element], Tensor],
    combine: Callable[[Element, Element], Element],
) -> Tensor:
    """States 1..T where every step has the same element: by doubling, and only until the start is forgotten.

    The element for k steps takes the states 1..k to k+1..2k. It has the form (transition, factor, ...); the state
    after it is `factor factor^T` plus at most `transition P transition^T`, P being the state before it. Once this
    is below rounding in every coordinate, whatever P, all later states are equal.

    Returns:
        The first K states, `(K, ...)` with K <= T. The last of them stands for all later ones.
    """
    states = first.unsqueeze(0)
    power = tuple(e.unsqueeze(0) for e in element)
    while len(states) < num_steps:
        if _forgets(power[0], power[1], states):
            states = torch.cat([states, apply(states[:1], power)])
            break
        states = torch.cat([states, apply(states, power)])
        if len(states) < num_steps:
            power = combine(power, power)
    return states[:num_steps]


def _forgets(transition: Tensor, factor: Tensor, states: Tensor) -> bool:
    # No later state is larger than the largest so far or, up to rounding, than factor factor^T itself.
    own = factor.square().sum(dim=-1)
    largest = torch.maximum(states.square().sum(dim=(-2, -1)).amax(dim=0), own.sum(dim=-1)).unsqueeze(-1)
    remembered = transition.square().sum(dim=-1) * largest
    return bool((remembered <= torch.finfo(factor.dtype).eps / 4 * own).all())


def loop_constant(
    first: Tensor, element: Element, num_steps: int, apply: Callable[[Tensor, Element], Tensor]
) -> Tensor:
    """States 1..T one after the other where every step has the same element.

    Floating-point numbers are finitely many: once a state returns to the last bit, all later ones repeat. The states
    are compared with one that is renewed at each power of two (Brent, 1980).

    Returns:
        The first K states, `(K, ...)` with K <= T. The last of them stands for all later ones.
    """
    states, kept = [first], first
    while len(states) < num_steps:
        states.append(apply(states[-1], element))
        if torch.equal(states[-1], kept):
            break
        if len(states) & (len(states) - 1) == 0:
            kept = states[-1]
    return torch.stack(states)


# ---- Lyapunov --------------------------------------------------------------------------------------------------


def lyapunov_recursion(F: Tensor, Q: Tensor, method: Method) -> Tensor:
    r"""Solves :math:`Y_1 = Q_1`, :math:`Y_t = F_t Y_{t-1} F_t^T + Q_t` for `F (T - 1, N, n, n)`, `Q (T, N, n, n)`.

    The Q may be indefinite. No derivatives are recorded.
    """
    if method == "parallel":
        return scan(Q[0], (F, Q[1:]), _lyapunov_apply, _lyapunov_combine)
    return loop(Q[0], (F, Q[1:]), _lyapunov_apply)


def _lyapunov_apply(Y: Tensor, element: Element) -> Tensor:
    F, Q = element
    return F @ Y @ F.mT + Q


def _lyapunov_combine(earlier: Element, later: Element) -> Element:
    return later[0] @ earlier[0], _lyapunov_apply(earlier[1], later)


def lyapunov_factors(first: Tensor, F: Tensor, Q: Tensor, method: Method) -> Tensor:
    """The Lyapunov recursion in square-root form: `first` and `Q` are factors, and so is what returns."""
    if method == "parallel":
        return scan(first, (F, Q), _lyapunov_factor_apply, _lyapunov_factor_combine)
    return loop(first, (F, Q), _lyapunov_factor_apply)


def lyapunov_factors_constant(first: Tensor, F: Tensor, Q: Tensor, num_steps: int, method: Method) -> Tensor:
    """The same with one F and Q `(N, n, n)` for all steps; the last factor stands for all later ones."""
    if method == "parallel":
        return scan_constant(first, (F, Q), num_steps, _lyapunov_factor_apply, _lyapunov_factor_combine)
    return loop_constant(first, (F, Q), num_steps, _lyapunov_factor_apply)


def _lyapunov_factor_apply(Y: Tensor, element: Element) -> Tensor:
    F, Q = element
    return triangular_factor(beside(F @ Y, Q))


def _lyapunov_factor_combine(earlier: Element, later: Element) -> Element:
    return later[0] @ earlier[0], _lyapunov_factor_apply(earlier[1], later)


def lyapunov_differentiable(F: Tensor, Q: Tensor, method: Method) -> Tensor:
    """`lyapunov_recursion` with derivatives, for symmetric Q."""
    if not is_differentiated(F, Q) or records_steps(F, Q):
        return lyapunov_recursion(F, Q, method)
    Y: Tensor = _Lyapunov.apply(F, Q, method)  # type: ignore[no-untyped-call]
    return Y


class _Lyapunov(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, F: Tensor, Q: Tensor, method: Method) -> Tensor:
        Y = lyapunov_recursion(F, Q, method)
        ctx.save_for_backward(F, Y)
        ctx.method = method
        return Y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        """The adjoint is a Lyapunov recursion with F transposed, from the last step to the first."""
        F, Y = ctx.saved_tensors
        adjoint = lyapunov_differentiable(F.mT.flip(0), symmetric(gradient).flip(0), ctx.method).flip(0)
        return 2 * adjoint[1:] @ F @ Y[:-1], adjoint, None


# ---- Riccati ---------------------------------------------------------------------------------------------------


def riccati_factors(
    first: Tensor, A: Tensor, C: Tensor, Q: Tensor, R: Tensor, num_steps: int, method: Method
) -> Tensor:
    """Factors of the filtered covariances.

    Arguments:
        first: Factor of the filtered covariance at the first step, `(N, n, n)`.
        A: Transition matrices of steps 2..T, `(T - 1 or 1, N, n, n)`; so are C, Q and R.
        C: Observation matrices, `(T - 1 or 1, N, d, n)`.
        Q: Factors of the covariance of the state noise, `(T - 1 or 1, N, n, n)`.
        R: Factors of the covariance of the observation noise, `(T - 1 or 1, N, d, d)`.
        num_steps: T.
        method: One step after the other, or an associative scan.

    Returns:
        `(K, N, n, n)` with K = T; where all matrices are constant K <= T, and the last stands for all later ones.
    """
    if num_steps == 1:
        return first.unsqueeze(0)
    constant = all(value.shape[0] == 1 for value in (A, C, Q, R)) and num_steps > 2
    elements = _riccati_element(A, C, Q, R) if method == "parallel" else _array_element(A, C, Q, R)
    if constant:
        element = tuple(e[0] for e in elements)
        if method == "parallel":
            return scan_constant(first, element, num_steps, _riccati_apply, _riccati_combine)
        return loop_constant(first, element, num_steps, _array_apply)
    elements = tuple(e.expand(num_steps - 1, *e.shape[1:]) for e in elements)
    if method == "parallel":
        return scan(first, elements, _riccati_apply, _riccati_combine)
    return loop(first, elements, _array_apply)


def _array_element(A: Tensor, C: Tensor, Q: Tensor, R: Tensor) -> Element:
    """[CA; A] and [[R, CQ], [0, Q]]: what one step of the array algorithm needs beside the last factor."""
    rows = beside((C @ A).mT, A.mT).mT
    return rows, joint_factor(R, C @ Q, Q)


def _array_apply(U: Tensor, element: Element) -> Tensor:
    """Prediction and update in one orthogonal transformation (the array algorithm; Kailath et al., 2000)."""
    rows, noise = element
    return triangular_factor(beside(rows @ U, noise))[..., -U.shape[-1] :, -U.shape[-1] :]


def _riccati_element(A: Tensor, C: Tensor, Q: Tensor, R: Tensor) -> Element:
    """The elements (A_k, U_k, Z_k) of Särkkä and García-Fernández (2021), their C_k = U U^T and J_k = Z Z^T."""
    n = A.shape[-1]
    whitening, gain, U = condition(Q, C, R, singular=_SINGULAR_ELEMENT)
    Z = A.mT @ C.mT @ whitening.mT
    Z = triangular_factor(Z) if Z.shape[-1] > n else torch.nn.functional.pad(Z, (0, n - Z.shape[-1]))
    return A - gain @ (C @ A), U, Z


_SINGULAR_ELEMENT = (
    'method="parallel" needs a regular covariance of x_t given z_{t-1}, C Lambda C^T + Sigma, and it is singular: '
    'use method="sequential", or give Sigma positive variances.'
)


def _riccati_apply(U: Tensor, element: Element) -> Tensor:
    A, V, Z = element
    X = triangular_factor(beside(U.mT @ Z, _identity_like(Z)))
    return triangular_factor(beside(A @ torch.linalg.solve_triangular(X, U.mT, upper=False).mT, V))


def _riccati_combine(earlier: Element, later: Element) -> Element:
    """The associative operation in square-root form (Yaghoobi et al., 2022)."""
    A, U, Z = earlier
    B, V, Y = later
    n = A.shape[-1]
    identity = _identity_like(Y)
    X = triangular_factor(torch.cat([beside(U.mT @ Y, identity), beside(Y, torch.zeros_like(identity))], dim=-2))
    X11, X21, X22 = X[..., :n, :n], X[..., n:, :n], X[..., n:, n:]
    W = torch.linalg.solve_triangular(X11, U.mT, upper=False).mT
    return (
        B @ (A - W @ (X21.mT @ A)),
        triangular_factor(beside(B @ W, V)),
        triangular_factor(beside(A.mT @ X22, Z)),
    )


def riccati_with_gradient(
    A: Tensor, C: Tensor, Q: Tensor, R: Tensor, first: Tensor, filtered: Tensor, whitening: Tensor, gain: Tensor,
    method: Method,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gives what was worked out in square-root form its derivatives.

    Arguments:
        A: Transition matrices of steps 2..T, `(T - 1, N, n, n)`; so is Q.
        C: Observation matrices of steps 1..T, `(T, N, d, n)`; so is R.
        Q: Covariances of the state noise, not factors.
        R: Covariances of the observation noise.
        first: Covariance of the first state, `(N, n, n)`.
        filtered: Covariances of the filtered states, `(T, N, n, n)`; of the other values too there are T.
        whitening: As `condition` returns it.
        gain: As `condition` returns it.
        method: As in `affine_recursion`.

    Returns:
        Filtered and predicted covariances, whitenings, gains.
    """
    if records_steps(A, C, Q, R, first):
        return _recorded_riccati(A, C, Q, R, first, filtered, whitening, gain)
    filtered = _RiccatiGradient.apply(A, C, Q, R, first, filtered, whitening, gain, method)  # type: ignore[no-untyped-call]
    predicted = torch.cat([first.unsqueeze(0), A @ filtered[:-1] @ A.mT + Q])
    return filtered, predicted, *_gain_with_gradient(predicted, C, R, whitening, gain)


class _RiccatiGradient(torch.autograd.Function):
    """The derivatives of the filtered covariances.

    The gain minimises the covariance, so its own derivative drops out: a change of the covariance at one step moves
    the next by :math:`F_t\\,dP\\,F_t^T`, with the closed-loop matrix :math:`F_t = (I - K_t C_t) A_t`, and the adjoint
    is a Lyapunov recursion with its transpose. The closed loop is stable, and so are the gradients. In the second
    derivative the gain does move, which is why the first is worked out from a gain with derivatives of its own.
    """

    @staticmethod
    def forward(
        ctx: Any, A: Tensor, C: Tensor, Q: Tensor, R: Tensor, first: Tensor, filtered: Tensor, whitening: Tensor,
        gain: Tensor, method: Method,
    ) -> Tensor:  # fmt: skip
        filtered = filtered.clone()
        ctx.save_for_backward(A, C, Q, R, first, filtered, whitening, gain)
        ctx.method = method
        return filtered

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """The adjoint recursion, and the derivatives of each step with it."""
        A, C, Q, R, first, filtered, whitening, gain = ctx.saved_tensors
        predicted = torch.cat([first.unsqueeze(0), A @ filtered[:-1] @ A.mT + Q])
        _, gain = _gain_with_gradient(predicted, C, R, whitening, gain)
        keep = _identity_like(predicted) - gain @ C
        closed_loop = keep[1:] @ A
        adjoint = lyapunov_differentiable(closed_loop.mT.flip(0), symmetric(gradient).flip(0), ctx.method).flip(0)
        to_predicted = keep.mT @ adjoint @ keep
        to_gain = gain.mT @ adjoint
        return (
            2 * to_predicted[1:] @ A @ filtered[:-1],
            -2 * to_gain @ keep @ predicted,
            to_predicted[1:],
            to_gain @ gain,
            to_predicted[0],
            None, None, None, None,
        )  # fmt: skip


def _gain_with_gradient(P: Tensor, C: Tensor, R: Tensor, whitening: Tensor, gain: Tensor) -> tuple[Tensor, Tensor]:
    if not is_differentiated(P, C, R):
        return whitening, gain
    result: tuple[Tensor, Tensor] = _GainGradient.apply(P, C, R, whitening, gain)  # type: ignore[no-untyped-call]
    return result


class _GainGradient(torch.autograd.Function):
    """The derivatives of whitening and gain. P and R are covariances, not factors."""

    @staticmethod
    def forward(ctx: Any, P: Tensor, C: Tensor, R: Tensor, whitening: Tensor, gain: Tensor) -> tuple[Tensor, Tensor]:
        whitening, gain = whitening.clone(), gain.clone()
        ctx.save_for_backward(P, C, whitening, gain)
        return whitening, gain

    @staticmethod
    def backward(ctx: Any, to_whitening: Tensor, to_gain: Tensor) -> tuple[Tensor | None, ...]:
        """Through S = C P C^T + R and K = P C^T S^{-1}."""
        P, C, W, gain = ctx.saved_tensors
        solved = to_gain @ W.mT @ W
        inner = (to_whitening @ W.mT).tril()
        inner = inner - 0.5 * torch.diag_embed(inner.diagonal(dim1=-2, dim2=-1))
        to_S = -symmetric(W.mT @ inner @ W + gain.mT @ solved)
        to_P = symmetric(solved @ C) + C.mT @ to_S @ C
        return to_P, solved.mT @ P + 2 * to_S @ C @ P, to_S, None, None


def _recorded_riccati(
    A: Tensor, C: Tensor, Q: Tensor, R: Tensor, first: Tensor, filtered: Tensor, whitening: Tensor, gain: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The covariance form in plain steps, for the derivatives alone: the values are those given."""
    P, steps = first, []
    for t in range(len(C)):
        P = P if t == 0 else symmetric(A[t - 1] @ P @ A[t - 1].mT) + symmetric(Q[t - 1])
        factor = torch.linalg.cholesky(C[t] @ P @ C[t].mT + symmetric(R[t]))
        W = torch.linalg.solve_triangular(factor, _identity_like(factor), upper=False)
        K = P @ C[t].mT @ W.mT @ W
        predicted, P = P, symmetric(P - K @ C[t] @ P)
        # A factor from an orthogonal transformation may have negative pivots.
        W = W * whitening[t].detach().diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-1)
        steps.append((P, predicted, W, K))
    moving = [torch.stack(values) for values in zip(*steps, strict=True)]
    ahead = torch.cat([first.unsqueeze(0), A @ filtered[:-1] @ A.mT + Q]).detach()
    filtered, predicted, whitening, gain = (
        value.detach() + (own - own.detach())
        for value, own in zip((filtered, ahead, whitening, gain), moving, strict=True)
    )
    return filtered, predicted, whitening, gain


# ---- one Gaussian conditioned on another ---------------------------------------------------------------------


def condition(U: Tensor, C: Tensor, R: Tensor, *, singular: str | None = None) -> tuple[Tensor, Tensor, Tensor]:
    r"""Conditions :math:`z \sim N(\cdot, U U^T)` on :math:`y = C z + N(0, R R^T)`, in square-root form.

    Arguments:
        U: Factor of the covariance of z, `(..., n, n)`.
        C: `(..., d, n)`.
        R: Factor of the covariance of the noise, `(..., d, d)`.
        singular: What to say where the covariance of y is singular; None to take its pseudo-inverse.

    Raises:
        ValueError: Where the covariance of y is singular and `singular` is given.

    Returns:
        The whitening :math:`W` with :math:`W^T W = (C U U^T C^T + R R^T)^{-1}`, a pseudo-inverse where that
        covariance is singular; the gain; and a factor of the covariance of z given y.
    """
    d, n = C.shape[-2:]
    joint = triangular_factor(joint_factor(R, C @ U, U))
    S, X, posterior = joint[..., :d, :d], joint[..., d:, :d], joint[..., d:, d:]
    pivots = S.diagonal(dim1=-2, dim2=-1).abs()
    scale = S.square().sum(dim=-1).sqrt()
    if bool((pivots > 4 * n * torch.finfo(S.dtype).eps * scale).all()):
        whitening = torch.linalg.solve_triangular(S, _identity_like(S), upper=False)
        return whitening, X @ whitening, posterior
    if singular is not None:
        raise ValueError(singular)
    # A state that is known exactly in some direction: Joseph's form is right for any gain, and stays a square.
    whitening = torch.linalg.pinv(S, rtol=4 * n * torch.finfo(S.dtype).eps)
    gain = X @ whitening
    return whitening, gain, triangular_factor(beside(U - gain @ (C @ U), -gain @ R))


# ---- matrices --------------------------------------------------------------------------------------------------


def triangular_factor(factor: Tensor) -> Tensor:
    """The lower-triangular factor of the covariance `factor @ factor.mT`, by an orthogonal transformation."""
    n, m = factor.shape[-2:]
    if m < n:
        factor = torch.nn.functional.pad(factor, (0, n - m))
    upper: Tensor = torch.linalg.qr(factor.mT, mode="r").R
    return upper.mT


def joint_factor(noise: Tensor, cross: Tensor, own: Tensor) -> Tensor:
    """The factor [[noise, cross], [0, own]] of y = C z + noise and z, cross being C @ own."""
    batch = torch.broadcast_shapes(noise.shape[:-2], cross.shape[:-2], own.shape[:-2])
    d, n = noise.shape[-1], own.shape[-1]
    joint = cross.new_zeros(*batch, d + n, d + n)
    joint[..., :d, :d], joint[..., :d, d:], joint[..., d:, d:] = noise, cross, own
    return joint


def symmetric(P: Tensor) -> Tensor:
    """The symmetric part."""
    return (P + P.mT) / 2


def _identity_like(P: Tensor) -> Tensor:
    return torch.eye(P.shape[-1], dtype=P.dtype, device=P.device)


def beside(left: Tensor, right: Tensor) -> Tensor:
    """[left, right], broadcast over batch dimensions."""
    if left.shape[:-2] == right.shape[:-2]:
        return torch.cat([left, right], dim=-1)
    batch = torch.broadcast_shapes(left.shape[:-2], right.shape[:-2])
    return torch.cat([left.expand(*batch, -1, -1), right.expand(*batch, -1, -1)], dim=-1)
