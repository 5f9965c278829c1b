r"""Smoothing by the gains of the steady state, for series that are long beside the memory of their filter.

Where no matrix changes, the covariance of the predictions tends to a limit :math:`P`, and a filter that starts from it
has the same gain at every step. A first state of another covariance is one of covariance :math:`P` plus an unknown
:math:`\delta`, on which all means depend linearly (de Jong, 1991; so does `dvae_lib.statespace.diffuse`). One
time-invariant filter and one time-invariant smoother are then right for all steps, but for a term of the rank of the
state in the first ones, and for the last ones knowing less of what follows. Nothing is done step by step:

- :math:`P` comes from doubling the number of steps (Anderson, 1978; Chu, Fan, Lin and Wang, 2004);
- the covariances of the first and last m steps, where m is the memory, from powers of the closed loop in one batch;
- the means from blocks of steps: one matrix leads from the observations of a block, the predicted state where it
  starts and what later blocks say of the state where it ends to all means within.

All this stands in coordinates of the state in which :math:`P = I`. There the closed loop enlarges nothing, so that a
few numbers bound the errors of rounding. Where they do not promise enough digits (a first state that is nearly known
or very vague, data that leave next to nothing of a variance, a filter that remembers half of the series), the answer
is None, and the general recursions have to give it.
"""

import functools
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

__all__ = ["SteadyMoments", "smooth_steady"]

# What does not depend on the data stands in a few small matrices, for which NumPy's calls cost a third of PyTorch's.
Matrix = np.ndarray

# When a power of the closed loop counts as nothing: where its square, of which covariances are made, is below this.
_FORGOTTEN = 1e-16
# The least share of a steady variance that data may leave and that the first state may have, and one over the most
# that delta may have: beyond, a difference cancels.
_SHARE = 1e-4
# The most by which two ways to the same number may differ.
_ERROR = 1e-12


class SteadyMoments(NamedTuple):
    """Smoothed means `(K, T, n)`, covariances `(T, n, n)`, and those of neighbours `(T - 1, n, n)`."""

    mean: Tensor
    covariance: Tensor
    cross_covariance: Tensor


class SteadyFilter(NamedTuple):
    """The steady filter, in coordinates in which its predictions of states and of observations have covariance I."""

    L: Matrix  # (n, n): the state is L times its coordinates
    inverse: Matrix  # of L
    W: Matrix  # (D, D): the coordinates of an innovation are W times it
    A: Matrix  # (n, n)
    C: Matrix  # (D, n)
    F: Matrix  # A (I - C^T C), (n, n): how an error of one prediction reaches the next
    left: Matrix  # smoothed covariance of a state with many steps before and after it, (n, n)

    def coordinates(self, covariance: Matrix) -> Matrix:
        """A covariance of states in these coordinates."""
        value = self.inverse @ covariance @ self.inverse.T
        symmetric: Matrix = (value + value.T) / 2
        return symmetric


class FilterMemory(NamedTuple):
    """Powers of the closed loop F: m of them are worth having, F^m counts as nothing."""

    powers: Matrix  # F^0, ..., F^m side by side, (n, (m + 1) n)
    doublings: list[Matrix]  # F^1, F^2, F^4, ..., up to one that counts as nothing


def smooth_steady(
    A: Tensor, C: Tensor, Q: Tensor, R: Tensor, P_1: Tensor, mu_1: Tensor, y: Tensor,
    offsets: Tensor | None = None,
) -> SteadyMoments | None:  # fmt: skip
    """The smoothed moments of K series that share a model of constant matrices, in float64 and without derivatives.

    Arguments:
        A: `(n, n)`.
        C: `(D, n)`.
        Q: Covariance of the state noise, `(n, n)`.
        R: Covariance of the observation noise, `(D, D)`.
        P_1: Covariance of the first state, `(n, n)`.
        mu_1: Means of the first states, `(K, n)`.
        y: The observations, `(K, T, D)`.
        offsets: What is added to the states of steps 2..T, `(K, T - 1, n)`.

    Returns:
        The moments, or None where they cannot be had to all digits in this way.
    """
    T, n = y.shape[1], len(A)
    block = block_length(max(C.shape), T)
    try:
        with np.errstate(all="ignore"):  # what overflows fails a test
            plan = _plan(block, T, *(value.numpy(force=True) for value in (A, C, Q, R, P_1)))
    except np.linalg.LinAlgError:  # a covariance is singular
        return None
    if plan is None:
        return None
    model, memory, seen, N, V = plan
    slopes = (model.L @ model.left) @ memory.powers[:, :-n]  # of the smoothed means of steps 1, ..., m in delta
    covariance, cross = _covariances(model, seen, slopes, V, T)
    mean, rho = _means(model, memory, seen, block, y, offsets)
    mu = tensor_like(model.inverse, y) @ mu_1.mT
    delta = mu + tensor_like(V, y) @ (rho.mT - tensor_like(N, y) @ mu)
    delta = torch.cat([delta, tensor_like(memory.powers[:, -n:], y) @ delta], dim=-1)  # for m steps, and the next m
    moved = (tensor_like(slopes, y).reshape(-1, n) @ delta).reshape(n, -1, 2, len(y)).permute(3, 2, 1, 0).flatten(1, 2)
    mean[:, : moved.shape[1]] += moved
    return SteadyMoments(mean, covariance.to(y.device), cross.to(y.device))


def tensor_like(value: Matrix, like: Tensor) -> Tensor:
    """On the device of `like`."""
    return torch.from_numpy(in_a_row(value)).to(like.device)


def in_a_row(value: Matrix) -> Matrix:
    """The matrix as neighbours in memory, which PyTorch takes. To NumPy one number counts as that in any direction."""
    value = np.ascontiguousarray(value)
    return value.copy() if min(value.strides, default=0) < 0 else value


# ---- what does not depend on the data --------------------------------------------------------------------------


def _plan(
    block: int, T: int, A: Matrix, C: Matrix, Q: Matrix, R: Matrix, P_1: Matrix
) -> tuple[SteadyFilter, FilterMemory, Matrix, Matrix, Matrix] | None:
    """What the data are put into, or None where it would not give enough digits.

    Returns:
        The filter; its memory; C F^0, ..., C F^{m - 1} side by side, `(D, m n)`; what all observations say of the
        first state; and the covariance of delta given them (where the first state has less than the steady
        covariance, delta takes some away, and this is negative).
    """
    model = steady_filter(T, A, C, Q, R)
    if model is None:
        return None
    first = model.coordinates(P_1)
    if not np.linalg.eigvalsh([model.left, first]).min() > _SHARE:
        return None
    memory = memory_of(model.F, block, T // 2)
    if memory is None:
        return None
    n, I = len(A), np.eye(len(A))
    seen = model.C @ memory.powers[:, :-n]
    rows = seen.reshape(-1, n)
    N = rows.T @ rows
    V = np.linalg.solve(model.left + first @ N, first - I)
    if not (np.abs(I - N - model.left).max() < _ERROR and np.abs(V).max() < 1 / _SHARE):
        return None
    return model, memory, seen, N, (V + V.T) / 2


def steady_filter(most: int, A: Matrix, C: Matrix, Q: Matrix, R: Matrix) -> SteadyFilter | None:
    """The steady filter, or None where `most` steps do not reach it or it is not known to all digits."""
    found = _steady_covariances(A, C, Q, R, most)
    if found is None:
        return None
    P, left = found
    L = np.linalg.cholesky(P)
    inverse = np.linalg.inv(L)
    A, C = inverse @ A @ L, C @ L
    Q, left = (inverse @ value @ inverse.T for value in (Q, left))
    W = np.linalg.inv(np.linalg.cholesky(C @ C.T + R))
    C = W @ C
    F = A - (A @ C.T) @ C
    if not np.abs(F @ A.T + Q - np.eye(len(A))).max() < _ERROR:
        return None
    return SteadyFilter(L, inverse, W, A, C, F, (left + left.T) / 2)


def _steady_covariances(A: Matrix, C: Matrix, Q: Matrix, R: Matrix, most: int) -> tuple[Matrix, Matrix] | None:
    """The limits of the predicted and of the smoothed covariances, or None where `most` steps do not reach them.

    E, P and J stand for 1, 2, 4, ... steps from a known state: E is the matrix from it to the filtered mean, P the
    filtered covariance, J what the observations say of the known state.
    """
    n, I = len(A), np.eye(len(A))
    both = np.concatenate([A, Q], axis=1)
    gain = np.linalg.solve(C @ Q @ C.T + R, C @ both)
    both = both - (Q @ C.T) @ gain
    E, P, J = both[:, :n], both[:, n:], (C @ A).T @ gain[:, :n]
    steps = 1
    while 2 * steps <= most:
        both = np.linalg.solve(I + P @ J, np.concatenate([E, P], axis=1))
        moved = E @ both
        J = J + E.T @ (J @ both[:, :n])
        P, before, E = P + moved[:, n:] @ E.T, P, moved[:, :n]
        steps *= 2
        # The next doubling adds about the square of what this one added.
        if steps >= 16 and (P.diagonal() - before.diagonal() <= 1e-9 * P.diagonal()).all():
            predicted = A @ P @ A.T + Q
            return (predicted + predicted.T) / 2, np.linalg.solve(I + P @ J, P)
    return None


def memory_of(F: Matrix, least: int, most: int) -> FilterMemory | None:
    """The memory of a closed loop, at least `least` steps; None where it is longer than `most`."""
    n = len(F)
    powers, doublings = np.concatenate([np.eye(n), F], axis=1), [F, F @ F]
    while (m := powers.shape[1] // n) <= 2 * most:
        last = doublings[-1]
        if m > least and np.square(last).sum() < _FORGOTTEN:
            sizes = np.square(powers).reshape(n, m, n).sum(axis=(0, 2))  # they only shrink
            m = max(int((sizes >= _FORGOTTEN).sum()), least)
            return FilterMemory(powers[:, : (m + 1) * n], doublings) if m <= most else None
        powers = np.concatenate([powers, last @ powers], axis=1)
        doublings.append(last @ last)
    return None


def _covariances(model: SteadyFilter, seen: Matrix, slopes: Matrix, V: Matrix, T: int) -> tuple[Tensor, Tensor]:
    """Of the states, `(T, n, n)`, and of neighbours, `(T - 1, n, n)`; each of the latter beside that of its state."""
    L, n = model.L, len(model.L)
    m = slopes.shape[1] // n
    both = np.concatenate([L.T, model.F @ L.T], axis=1)
    steady = torch.from_numpy(L @ model.left @ both)
    # What the last states are not told, from the smallest to the largest: nothing cancels.
    told = (seen.reshape(-1, n) @ both).reshape(-1, m, 2 * n)[:, :0:-1].transpose(1, 2, 0)
    last = _products(told[:, :n], told).cumsum(0)
    moved, before = slopes.reshape(-1, n) @ V, np.concatenate([0 * L, slopes[:, :-n]], axis=1)
    pairs = np.concatenate([slopes, before]).reshape(2 * n, m, n)
    first = _products(moved.reshape(n, m, n).transpose(1, 0, 2), pairs.transpose(1, 0, 2))
    changes = torch.cat([first, torch.zeros_like(steady)[None], last])
    ends = steady + changes
    own = ends[..., :n]
    own.copy_((own + own.mT) / 2)
    every = torch.cat([ends[:m], ends[m].expand(T + 1 - 2 * m, n, 2 * n), ends[m + 1 :]])
    return every[..., :n], every[1:, :, n:]


def _products(left: Matrix, right: Matrix) -> Tensor:
    """left right^T of every step; layouts in which the sums are over neighbours in memory cost half as much."""
    return torch.from_numpy(in_a_row(left)) @ torch.from_numpy(in_a_row(right)).mT


# ---- means -----------------------------------------------------------------------------------------------------


def block_length(size: int, num_steps: int) -> int:
    """A power of two, such that the matrices of a block stay small and a series has many blocks."""
    return 1 << max(1, min(64 // size, num_steps // 16, 64).bit_length() - 1)


def _means(
    model: SteadyFilter, memory: FilterMemory, seen: Matrix, b: int, y: Tensor, offsets: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Smoothed means from a first state of mean 0 and covariance P, and the adjoint of that state, `(K, n)`.

    Empty steps in front fill the first block. They leave the state at 0 and their innovations too.
    """
    (K, T, D), n = y.shape, len(model.F)
    y = with_offsets(y, offsets)
    c = y.shape[-1]
    blocks = -(-T // b)
    empty = blocks * b - T
    x = y.new_zeros(K, blocks * b, c)
    x[:, empty:] = y
    x = x.view(K * blocks, b * c)

    kernel, forward = forward_maps(model, memory, b, c)
    # From the innovation of each step to the adjoints of those before.
    by_lag = np.zeros((2 * b - 1, D, n))
    by_lag[b - 1 :] = seen.reshape(D, -1, n)[:, :b].transpose(1, 0, 2)
    backward = by_lag[_lags(b).T].transpose(0, 2, 1, 3).reshape(b * D, b * n)
    adjoint = forward[..., n:].reshape(-1, b * D) @ backward
    later = memory.powers[:, n : (b + 1) * n].reshape(n, b, n)[:, ::-1]  # from the adjoint of the next block
    every = np.concatenate([forward[..., :n] + adjoint.reshape(-1, b, n), later])
    every = (every.reshape(-1, n) @ model.L.T).reshape(-1, b * n)

    # All blocks at once: the state where each starts, the adjoint where it ends, then the means within.
    across = tensor_like(np.stack(memory.doublings[b.bit_length() - 1 :]), y)  # F^b, F^2b, ...
    inputs = y.new_zeros(K * blocks, b * c + 2 * n)
    inputs[:, : b * c] = x
    state, rho = inputs.view(K, blocks, -1)[..., b * c :].split(n, dim=-1)
    ends = x @ tensor_like(kernel[:, ::-1].transpose(1, 2, 0).reshape(b * c, n), y)
    state[:, 1:] = carried(ends.view(K, blocks, n), across.mT)[:, :-1]
    starts = (inputs[:, :-n] @ tensor_like(adjoint[:, :n], y)).view(K, blocks, n)
    rho[:, :-1] = carried(starts.flip(1), across).flip(1)[:, 1:]
    mean = (inputs @ tensor_like(every, y)).view(K, blocks * b, n)[:, empty:]
    whole = np.concatenate([adjoint, later.reshape(n, -1)])[:, empty * n : (empty + 1) * n]
    first = inputs.view(K, blocks, -1)[:, 0] @ tensor_like(whole, y)
    return mean, first


def with_offsets(y: Tensor, offsets: Tensor | None) -> Tensor:
    """Observations `(K, T, D)` and beside them what is added to the next state, `(K, T, D + n)`."""
    return y if offsets is None else torch.cat([y, torch.nn.functional.pad(offsets, (0, 0, 0, 1))], dim=-1)


def forward_maps(model: SteadyFilter, memory: FilterMemory, b: int, c: int) -> tuple[Matrix, Matrix]:
    """How the steady filter goes through a block of b steps whose c inputs are those of `with_offsets`.

    Returns:
        From the input of the steps, the last first, to the state after the block, `(n, b, c)`; and from the input of
        each step and the state at the start to the predicted state and the innovation of each step,
        `(b c + n, b, n + D)`.
    """
    n, D, C, W = len(model.F), len(model.C), model.C, model.W
    into_state, into_innovation = (model.A @ C.T) @ W, W
    if c > D:
        into_state = np.concatenate([into_state, model.inverse], axis=1)
        into_innovation = np.concatenate([W, np.zeros((D, n))], axis=1)
    powers = memory.powers[:, : b * n]
    observe = np.concatenate([np.eye(n), -C])
    kernel = (powers.reshape(-1, n) @ into_state).reshape(n, b, c)
    by_lag = np.zeros((2 * b - 1, c, n + D))
    by_lag[b - 1, :, n:] = into_innovation.T
    by_lag[b:] = (observe @ kernel.reshape(n, -1)).reshape(-1, b, c).transpose(1, 2, 0)[:-1]
    free = (observe @ powers).reshape(-1, b, n).transpose(2, 1, 0)
    return kernel, np.concatenate([by_lag[_lags(b)].transpose(0, 2, 1, 3).reshape(b * c, b, n + D), free])


@functools.cache
def _lags(b: int) -> Matrix:
    """[i, j]: where in a list of 2 b - 1 stands what leads from step i to step j."""
    return np.arange(b) - np.arange(b)[:, None] + b - 1


def carried(x: Tensor, powers: Tensor) -> Tensor:
    """The recursion a_j = a_{j-1} F + x_j along the second axis, with F, F^2, F^4, ... up to one that is nothing."""
    K, blocks, n = x.shape
    x = x.transpose(0, 1).reshape(-1, n)  # earlier steps are rows above, for products in two dimensions
    step = K
    for power in powers:
        if step >= len(x):
            break
        x[step:].add_(x[:-step] @ power)
        step *= 2
    return x.view(blocks, K, n).transpose(0, 1)
