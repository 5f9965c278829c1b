"""Expectation-maximisation for linear-Gaussian models (Shumway and Stoffer, 1982)."""

from collections.abc import Collection
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dvae_lib.statespace.kalman import SmootherResult, filter_and_smooth, observed_components
from dvae_lib.statespace.model import LinearGaussianSSM
from dvae_lib.statespace.recursions import Method, symmetric

__all__ = ["EMResult", "fit_em"]

Changes = dict[str, Tensor]

_NAMES = ("A", "B", "m", "Lambda", "C", "n", "Sigma", "mu_1", "Lambda_1")


class EMResult(NamedTuple):
    """What `fit_em` returns.

    Attributes:
        ssm: the fitted model.
        log_likelihoods: log-likelihood of all series together, in nats, of the initial model and after each iteration.
        converged: whether the last iteration gained less than the tolerance.
    """

    ssm: LinearGaussianSSM
    log_likelihoods: Float[Tensor, "iterations"]
    converged: bool


def fit_em(
    ssm: LinearGaussianSSM,
    x: Float[Tensor, "*batch time x_dim"],
    u: Float[Tensor, "*u_batch u_time u_dim"] | None = None,
    *,
    mask: Bool[Tensor, "..."] | None = None,
    update: Collection[str] | None = None,
    diagonal: Collection[str] = (),
    num_iterations: int = 100,
    tolerance: float = 1e-6,
    method: Method = "sequential",
) -> EMResult:
    """Fits a model by expectation-maximisation; the log-likelihood never falls.

    The smoother gives the expected sufficient statistics (E step), in which all series of the batch are added up;
    regressions of z_t on z_{t-1}, u_t and 1, and of x_t on z_t and 1, give the parameters (M step). Missing
    components enter with their own expectation and covariance.

    Arguments:
        ssm: where to start, without batch dimensions. What is None stays None. A parameter that is updated must be
            constant; one that is kept may be per step.
        x: the observations, `(*batch, T, x_dim)`, all of the same model; NaN where missing.
        u: the input, `(*batch, T, u_dim)`, where the model has B.
        mask: as in `kalman_filter`.
        update: names of the parameters to fit. By default all that are given, but for a single series without
            `Lambda_1`: one first state says nothing about its own covariance.
        diagonal: which of Lambda, Sigma and Lambda_1 to keep diagonal, as in Eqs. (3.10) and (3.12).
        num_iterations: the most iterations to make.
        tolerance: stops when an iteration gains less than this fraction of the log-likelihood's magnitude.
        method: as in `kalman_filter`.

    Returns:
        The fitted model and the log-likelihoods on the way.

    Raises:
        TypeError: as `kalman_filter`.
        ValueError: if the model has batch dimensions, a name in `update` or `diagonal` is unknown or not given in
            the model, an updated parameter is per step, B is to be fitted with first inputs that differ, and as
            `kalman_filter`.
    """
    names = _checked_names(ssm, x, u, update, diagonal)
    with torch.no_grad():
        ssm = ssm.map(torch.Tensor.detach)
        observed = observed_components(x, mask)
        values: list[float] = []
        for _ in range(num_iterations + 1):
            filtered, smoothed = filter_and_smooth(ssm, x, u, mask=mask, method=method)
            values.append(float(filtered.log_likelihood.sum()))
            gain = values[-1] - values[-2] if len(values) > 1 else torch.inf
            if gain <= tolerance * abs(values[-1]):
                break
            if len(values) <= num_iterations:
                changes = _fit_transition(ssm, smoothed, u, names)
                changes |= _fit_observation(ssm, smoothed, x, observed, names)
                changes |= _fit_first(ssm.replace(**changes, validate_args=False), smoothed, u, names)
                for name in diagonal:
                    if name in changes:
                        changes[name] = torch.diag_embed(changes[name].diagonal())
                ssm = ssm.replace(validate_args=False, **changes)
    return EMResult(ssm, torch.tensor(values, dtype=torch.float64), gain <= tolerance * abs(values[-1]))


def _checked_names(
    ssm: LinearGaussianSSM, x: Tensor, u: Tensor | None, update: Collection[str] | None, diagonal: Collection[str]
) -> set[str]:
    given = [name for name, _ in ssm.parameters()]
    alone = x.shape[:-2].numel() == 1
    names = {name for name in given if not (alone and name == "Lambda_1")} if update is None else set(update)
    if len(ssm.batch_shape) > 0:
        raise ValueError(
            f"fit_em fits one model to all series; this one has the batch dimensions {tuple(ssm.batch_shape)}. "
            "Give a model without batch dimensions, and the series as the batch of x."
        )
    if not names <= set(_NAMES):
        raise ValueError(
            f"Unknown parameters in update: {sorted(names - set(_NAMES))}; the names are {', '.join(_NAMES)}."
        )
    if not names <= set(given):
        raise ValueError(
            f"The model has no {', '.join(sorted(names - set(given)))}: start it from zeros to have it fitted."
        )
    if not set(diagonal) <= {"Lambda", "Sigma", "Lambda_1"}:
        raise ValueError(f"diagonal may hold Lambda, Sigma and Lambda_1, got {sorted(diagonal)}.")
    for name in sorted(names):
        if ssm.per_step(name):
            raise ValueError(f"{name} is given per step, so it cannot be fitted: leave it out of `update`.")
    if "B" in names and u is not None:
        first = u[..., 0, :].reshape(-1, u.shape[-1])
        if bool((first != 0).any()) and not ("mu_1" in names and bool((first == first[0]).all())):
            raise ValueError(
                "Where B is fitted, B_1 u_1 must be either nothing or part of the fitted mu_1: set the first input of "
                "all series to zero, or give all series the same one and fit mu_1 too."
            )
    return names


class _Regression(NamedTuple):
    """Expected second moments of y = W w + noise, one entry per frame; w stacks the regressors."""

    yy: Tensor  # (frames, p, p)
    yw: Tensor  # (frames, p, q)
    ww: Tensor  # (frames, q, q)

    def fit(self, W: Tensor, fitted: Tensor) -> tuple[Tensor, Tensor]:
        """Solves for the `fitted` columns of W `(frames or 1, p, q)`; the others stay as they are.

        Returns:
            The fitted columns `(p, number fitted)` and the mean covariance of the residual `(p, p)`.
        """
        columns = W.new_zeros(W.shape[-2], 0)
        if bool(fitted.any()):
            cross = (self.yw - W[..., ~fitted] @ self.ww[:, ~fitted])[..., fitted].sum(0)
            columns = torch.linalg.solve(self.ww[:, fitted][..., fitted].sum(0), cross.mT).mT
            W = W.clone()
            W[..., fitted] = columns
        residual = self.yy - W @ self.yw.mT - self.yw @ W.mT + W @ self.ww @ W.mT
        return columns, symmetric(residual.mean(0))


def _fit_transition(ssm: LinearGaussianSSM, smoothed: SmootherResult, u: Tensor | None, names: set[str]) -> Changes:
    """A, B, m and Lambda: the regression of z_t on z_{t-1}, u_t and 1 over t = 2..T."""
    *batch, T, L = smoothed.mean.shape
    if T == 1 or not names & {"A", "B", "m", "Lambda"}:
        return {}
    now, before = smoothed.mean[..., 1:, :], smoothed.mean[..., :-1, :]
    parts = [before, now.new_ones(*batch, T - 1, 1)]
    if u is not None:
        parts.insert(1, u[..., 1:, :].expand(*batch, T - 1, -1))
    w = torch.cat(parts, dim=-1)
    yw, ww = _outer(now, w), _outer(w, w)
    yw[..., :L] += smoothed.cross_covariance
    ww[..., :L, :L] += smoothed.covariance[..., :-1, :, :]
    yy = _outer(now, now) + smoothed.covariance[..., 1:, :, :]
    columns = [("A", L), ("B", ssm.u_dim), ("m", 1)]
    return _fit_linear(ssm, columns, "Lambda", _Regression(*(_frames(v) for v in (yy, yw, ww))), names, first=1)


def _fit_observation(
    ssm: LinearGaussianSSM, smoothed: SmootherResult, x: Tensor, observed: Tensor | None, names: set[str]
) -> Changes:
    """C, n and Sigma: the regression of x_t on z_t and 1."""
    if not names & {"C", "n", "Sigma"}:
        return {}
    z, P = smoothed.mean, smoothed.covariance
    L = z.shape[-1]
    w = torch.cat([z, z.new_ones(*z.shape[:-1], 1)], dim=-1)
    x = x.expand(*z.shape[:-1], -1)
    ww = _outer(w, w)
    ww[..., :L, :L] += P
    if observed is None:
        yy, yw = _outer(x, x), _outer(x, w)
    else:  # given z_t and what is observed, x_t = H z_t + h + N(0, V), with zeros in H and V where it is observed
        keep = torch.diag_embed(observed.to(x))
        Sigma, C = ssm.stepwise("Sigma"), ssm.stepwise("C")
        J = torch.linalg.solve(keep @ Sigma @ keep + torch.diag_embed((~observed).to(x)), keep @ Sigma).mT @ keep
        missing = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device) - J
        H, V = missing @ C, missing @ Sigma @ missing.mT
        offset = 0 if ssm.n is None else missing @ ssm.stepwise("n").unsqueeze(-1)
        x = (H @ z.unsqueeze(-1) + J @ torch.where(observed, x, 0).unsqueeze(-1) + offset).squeeze(-1)
        yy, yw = _outer(x, x) + H @ P @ H.mT + V, _outer(x, w)
        yw[..., :L] += H @ P
    return _fit_linear(ssm, [("C", L), ("n", 1)], "Sigma", _Regression(*(_frames(v) for v in (yy, yw, ww))), names)


def _fit_linear(
    ssm: LinearGaussianSSM,
    columns: list[tuple[str, int]],
    noise: str,
    data: _Regression,
    names: set[str],
    first: int = 0,
) -> Changes:
    """One regression: its coefficients, the blocks of `columns`, and the covariance of its noise."""
    steps = ssm.num_steps or 1
    blocks = []
    for name, size in columns:
        value = getattr(ssm, name)
        if value is None:
            block = ssm.A.new_zeros(1, data.yy.shape[-1], size)
        else:
            block = ssm.stepwise(name).unsqueeze(-1) if value.ndim == 1 + ssm.per_step(name) else ssm.stepwise(name)
            block = block[first:] if ssm.per_step(name) else block
        blocks.append(block)
    longest = max(len(block) for block in blocks) if steps > 1 else 1
    W = torch.cat([block.expand(longest, -1, -1) for block in blocks], dim=-1)
    if longest > 1:
        W = W.repeat(len(data.yy) // longest, 1, 1)
    fitted = torch.tensor([name in names for name, size in columns for _ in range(size)], device=W.device)
    solution, residual = data.fit(W, fitted)
    chosen = [(name, size) for name, size in columns if name in names]
    pieces = solution.split([size for _, size in chosen], dim=-1) if chosen else ()
    changes: Changes = {}
    for (name, _), piece in zip(chosen, pieces, strict=True):
        changes[name] = piece.squeeze(-1) if name in ("m", "n") else piece
    return changes | ({noise: residual} if noise in names else {})


def _fit_first(ssm: LinearGaussianSSM, smoothed: SmootherResult, u: Tensor | None, names: set[str]) -> Changes:
    """mu_1 and Lambda_1, from the first smoothed states of all series."""
    z, P = (_frames(value) for value in (smoothed.mean[..., :1, :].unsqueeze(-1), smoothed.covariance[..., :1, :, :]))
    z = z.squeeze(-1)
    if u is not None and ssm.B is not None:
        driven = (ssm.stepwise("B")[0] @ u[..., 0, :].unsqueeze(-1)).squeeze(-1)
        z = z - driven.expand(*smoothed.mean.shape[:-2], -1).reshape(z.shape)
    mu_1 = z.mean(0) if "mu_1" in names else ssm.mu_1
    spread = symmetric((_outer(z - mu_1, z - mu_1) + P).mean(0))
    return {name: value for name, value in (("mu_1", mu_1), ("Lambda_1", spread)) if name in names}


def _outer(left: Tensor, right: Tensor) -> Tensor:
    return left.unsqueeze(-1) * right.unsqueeze(-2)


def _frames(value: Tensor) -> Tensor:
    """Series and time in one dimension."""
    return value.reshape(-1, *value.shape[-2:])
