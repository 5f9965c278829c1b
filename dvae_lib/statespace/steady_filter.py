r"""Filtering and likelihood by the gains of the steady state: what `dvae_lib.statespace.steady` is to the smoother.

A first state of covariance :math:`P_1` is one of the steady covariance :math:`P` plus an independent :math:`\delta` of
covariance :math:`P_1 - P` (which may be negative: then it takes some away). In coordinates in which :math:`P = I`, the
filter that starts from :math:`P` has the same gain at every step, its innovations :math:`e_t` have covariance I, and
:math:`\delta` adds :math:`C F^{t-1} \delta` to them, F being the closed loop. So, with

.. math:: N_t = \sum_{s \le t} (C F^{s-1})^\top C F^{s-1}, \quad r_t = \sum_{s \le t} (C F^{s-1})^\top e_s, \quad
    V_t = (I + (P_1 - I) N_t)^{-1} (P_1 - I),

the first t observations leave of :math:`\delta` the mean :math:`V_t r_t` and the covariance :math:`V_t`, which
:math:`F^t` carries into the prediction, and all observations together multiply the density of the innovations by
:math:`|I + (P_1 - I) N|^{-1/2} \exp(r^\top V r / 2)`. After m steps, the memory, nothing of it is left.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dvae_lib.statespace.problem import last_stands
from dvae_lib.statespace.steady import (
    FilterMemory,
    Matrix,
    SteadyFilter,
    block_length,
    carried,
    forward_maps,
    memory_of,
    steady_filter,
    tensor_like,
    with_offsets,
)

__all__ = ["FilterPlan", "SteadyFiltered", "filter_plan"]

# The least and the most that the first state may have of a steady variance. It bounds all later ones, too: predicted
# covariances are monotone and concave in the first one. Beyond, differences cancel.
_LEAST, _MOST = 1e-2, 1e2
# The least share of a predicted variance that an observation may leave.
_SHARE = 1e-4


class SteadyFiltered(NamedTuple):
    """Of K series: the means `(K, T, n)`, the covariances `(T, n, n)`, and the log-likelihood but for its constant."""

    mean: Tensor
    covariance: Tensor
    predicted_mean: Tensor
    predicted_covariance: Tensor
    log_density: Tensor  # (K,)


class _Left(NamedTuple):
    """What the observations of the memory leave of delta, step by step."""

    before: Matrix  # V_0, ..., V_{m - 1}, (m, n, n)
    after: Matrix  # V_1, ..., V_m
    means: Tensor  # V_1 r_1, ..., V_m r_m, (m, n, K)


class FilterPlan(NamedTuple):
    """What depends neither on the data nor on the first state."""

    model: SteadyFilter
    memory: FilterMemory
    powers: Matrix  # F^0, ..., F^m, (m + 1, n, n)
    seen: Matrix  # C F^0, ..., C F^{m - 1}, (m, D, n)
    block: int

    def serves(self, P_1: Tensor) -> bool:
        """Whether a first state of this covariance, `(n, n)`, is neither known too well nor too vague."""
        shares = np.linalg.eigvalsh(self.model.coordinates(P_1.numpy(force=True)))
        return bool(shares[0] > _LEAST and shares[-1] < _MOST)

    def filter(self, P_1: Tensor, mu_1: Tensor, y: Tensor, offsets: Tensor | None = None) -> SteadyFiltered:
        """The filtered moments of K series in float64, without derivatives.

        Arguments:
            P_1: Covariance of the first state, `(n, n)`, for which `serves` is true.
            mu_1: Means of the first states, `(K, n)`.
            y: The observations, `(K, T, D)`, T at least the memory.
            offsets: What is added to the states of steps 2..T, `(K, T - 1, n)`.
        """
        (K, T, D), n, L, C = y.shape, len(P_1), self.model.L, self.model.C
        kept = np.eye(n) - C.T @ C  # of a prediction's covariance, and of its error
        to_predicted, to_filtered = np.hstack([L, np.zeros((n, D))]), np.hstack([L, L @ C.T])
        innovation, *means = self._through(mu_1, y, offsets, np.eye(n + D)[n:], to_predicted, to_filtered)
        delta = self.model.coordinates(P_1.numpy(force=True)) - np.eye(n)
        left = self._left(delta, innovation)
        far = tensor_like(self.powers[-1], y) @ left.means[-1]
        before = torch.cat([torch.zeros_like(left.means[:1]), left.means[:-1]])
        covariances = []
        for mean, share, V, d in (
            (means[0], np.eye(n), left.before, before),
            (means[1], kept, left.after, left.means),
        ):
            slopes = L @ share @ self.powers[:-1]
            to_mean = tensor_like(slopes, y)
            # For the steps of the memory, and as many after it, where delta is known as well as it will be.
            moved = torch.cat([to_mean @ d, (to_mean.reshape(-1, n) @ far).view(-1, n, K)])[:T]
            mean[:, : len(moved)] += moved.permute(2, 0, 1)
            steady = L @ share @ L.T
            values = tensor_like(np.concatenate([steady + slopes @ V @ slopes.swapaxes(1, 2), steady[None]]), y)
            covariances.append(last_stands((values + values.mT) / 2, T))
        return SteadyFiltered(means[1], covariances[1], means[0], covariances[0], self._density(delta, innovation))

    def log_density(self, P_1: Tensor, mu_1: Tensor, y: Tensor, offsets: Tensor | None = None) -> Tensor:
        """That of `filter` alone."""
        D, n = self.model.C.shape
        (innovation,) = self._through(mu_1, y, offsets, np.eye(n + D)[n:])
        return self._density(self.model.coordinates(P_1.numpy(force=True)) - np.eye(n), innovation)

    def _through(self, mu_1: Tensor, y: Tensor, offsets: Tensor | None, *wanted: Matrix) -> list[Tensor]:
        """What matrices `(..., n + D)` make of predicted states and innovations, from a first state of covariance I.

        Empty steps at the end fill the last block.
        """
        (K, T, _), n, b = y.shape, mu_1.shape[-1], self.block
        y = with_offsets(y, offsets)
        c = y.shape[-1]
        blocks = -(-T // b)
        kernel, forward = forward_maps(self.model, self.memory, b, c)
        inputs = y.new_zeros(K * blocks, b * c + n)
        x, state = inputs[:, : b * c], inputs.view(K, blocks, -1)[..., b * c :]
        x[:] = torch.nn.functional.pad(y, (0, 0, 0, blocks * b - T)).reshape(-1, b * c)
        ends = x @ tensor_like(kernel[:, ::-1].transpose(1, 2, 0).reshape(b * c, n), y)
        first = mu_1 @ tensor_like(self.model.inverse.T, y)
        across = tensor_like(np.stack(self.memory.doublings[b.bit_length() - 1 :]), y)  # F^b, F^2b, ...
        state[:] = carried(torch.cat([first[:, None], ends.view(K, blocks, n)[:, :-1]], dim=1), across.mT)
        maps = [tensor_like((forward @ matrix.T).reshape(len(forward), -1), y) for matrix in wanted]
        return [(inputs @ to).view(K, blocks * b, -1)[:, :T] for to in maps]

    def _left(self, delta: Matrix, innovation: Tensor) -> _Left:
        N = np.cumsum(self.seen.swapaxes(1, 2) @ self.seen, axis=0)
        V = np.linalg.solve(np.eye(len(delta)) + delta @ N, np.broadcast_to(delta, N.shape))
        V = (V + V.swapaxes(1, 2)) / 2
        e = innovation[:, : len(N)].permute(1, 2, 0)
        r = (tensor_like(self.seen.swapaxes(1, 2), e) @ e).cumsum(0)
        return _Left(np.concatenate([delta[None], V[:-1]]), V, tensor_like(V, r) @ r)

    def _density(self, delta: Matrix, innovation: Tensor) -> Tensor:
        T, m, I = innovation.shape[1], len(self.seen), np.eye(len(delta))
        seen = self.seen.reshape(-1, len(I))
        N = seen.T @ seen
        V = np.linalg.solve(I + delta @ N, delta)
        to_r = tensor_like(seen, innovation)
        first, second = (innovation[:, i : i + m].flatten(1) for i in (0, m))
        # F^m counts as nothing where it is squared; here it is not.
        r = first @ to_r + second @ to_r[: second.shape[1]] @ tensor_like(self.powers[-1], innovation)
        squares = ((r @ tensor_like((V + V.T) / 2, r)) * r).sum(1) - innovation.square().sum(dim=(1, 2))
        logs = T * np.linalg.slogdet(self.model.W)[1] - np.linalg.slogdet(I + delta @ N)[1] / 2
        return squares / 2 + float(logs)


def filter_plan(A: Tensor, C: Tensor, Q: Tensor, R: Tensor, num_steps: int) -> FilterPlan | None:
    """A plan for series of `num_steps` steps, or None where it would not give enough digits; see `smooth_steady`."""
    b, n = block_length(max(C.shape), num_steps), len(A)
    try:
        with np.errstate(all="ignore"):  # what overflows fails a test
            model = steady_filter(num_steps, *(value.numpy(force=True) for value in (A, C, Q, R)))
            if model is None or not np.linalg.eigvalsh(np.eye(n) - model.C.T @ model.C).min() > _SHARE:
                return None
            memory = memory_of(model.F, b, num_steps // 2)
    except np.linalg.LinAlgError:  # a covariance is singular
        return None
    if memory is None:
        return None
    powers = np.ascontiguousarray(memory.powers.reshape(n, -1, n).swapaxes(0, 1))
    return FilterPlan(model, memory, powers, model.C @ powers[:-1], b)
