"""Expectation-maximisation for linear-Gaussian models (Shumway and Stoffer, 1982)."""

from collections.abc import Collection
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from dvae_lib.scans import Method
from dvae_lib.statespace.kalman import SmootherResult, filter_and_smooth, observed_components
from dvae_lib.statespace.model import LinearGaussianSSM, in_double
from dvae_lib.statespace.recursions import symmetric
from dvae_lib.statespace.series import Series, as_mask, as_series

__all__ = ["EMResult", "fit_em"]

Changes = dict[str, Tensor]

_NAMES = ("A", "B", "m", "Lambda", "C", "n", "Sigma", "mu_1", "Lambda_1")
_COVARIANCES = ("Lambda", "Sigma", "Lambda_1")


class EMResult(NamedTuple):
    """What `fit_em` returns.

    Attributes:
        ssm: The fitted model: the best one met.
        log_likelihoods: log-likelihood of all series together, in nats, of the initial model and after each iteration
            that was kept, in float64. The last is that of `ssm`, before it is rounded to the dtype of the start.
        converged: Whether the last iteration gained less than the tolerance.
        reason: Why the iterations ended, in a sentence.
    """

    ssm: LinearGaussianSSM
    log_likelihoods: Float[Tensor, "iterations"]
    converged: bool
    reason: str


def fit_em(
    ssm: LinearGaussianSSM,
    x: Series,
    u: Series | None = None,
    *,
    mask: Series | None = None,
    update: str | Collection[str] | None = None,
    diagonal: str | Collection[str] = (),
    min_variance: float | None = None,
    num_iterations: int = 100,
    tolerance: float = 1e-6,
    method: Method = "sequential",
) -> EMResult:
    """Fits a model by expectation-maximisation; the log-likelihood never falls.

    The smoother gives the expected sufficient statistics (E step), in which all series of the batch are added up;
    regressions of z_t on z_{t-1}, u_t and 1, and of x_t on z_t and 1, give the parameters (M step). Missing
    components enter with their own expectation and covariance. All is computed in float64, from the residuals of the
    regressions, so that an offset of the data costs no digits.

    Where the data leave no noise, since they are constant or one sensor repeats another, the likelihood has no
    maximum: a variance goes to zero. The iterations then end with the last model that has a likelihood, or go on with
    `min_variance` as a floor.

    Arguments:
        ssm: Where to start, without batch dimensions. What is None stays None. A parameter that is updated must be
            constant; one that is kept may be per step.
        x: The observations, `(*batch, T, x_dim)`, all of the same model, or a list of series of different lengths; NaN
            where missing.
        u: The input, `(*batch, T, u_dim)`, where the model has B.
        mask: As in `kalman_filter`.
        update: Names of the parameters to fit, or one name. By default all that are given and not in `ssm.fixed`, but
            for a single series without `Lambda_1`: one first state says nothing about its own covariance.
        diagonal: Which of Lambda, Sigma and Lambda_1 to keep diagonal, as in Eqs. (3.10) and (3.12); those that are
            fitted are made so in the start, too.
        min_variance: The least variance, in any direction, of the fitted covariances; the start is raised to it.
        num_iterations: The most iterations to make.
        tolerance: Stops when an iteration gains less than this fraction of the log-likelihood's magnitude.
        method: As in `kalman_filter`.

    Returns:
        The fitted model, in the dtype of the start, and the log-likelihoods on the way.

    Raises:
        TypeError: As `kalman_filter`.
        ValueError: If the model has batch dimensions, a name in `update` or `diagonal` is unknown or not given in
            the model, an updated parameter is per step, B is to be fitted with first inputs that differ, `min_variance`
            is not positive, and as `kalman_filter`.
    """
    dtype, device = ssm.dtype, ssm.device
    x = as_series(x, "x", dtype, device)
    u = None if u is None else as_series(u, "u", dtype, device, padding=0.0)
    mask = None if mask is None else as_mask(mask, device)
    diagonal = {diagonal} if isinstance(diagonal, str) else set(diagonal)
    names = _checked_names(ssm, x, u, update, diagonal)
    if min_variance is not None and not min_variance > 0:
        raise ValueError(f"min_variance must be positive, got {min_variance}")
    with torch.no_grad():
        ssm = in_double(ssm.map(torch.Tensor.detach))
        start = _raised(dict(ssm.parameters()), names, diagonal, min_variance or 0.0)
        ssm = ssm.replace(**start, validate_args=False)

        def improve(ssm: LinearGaussianSSM, smoothed: SmootherResult) -> LinearGaussianSSM:
            changes = _changes(ssm, smoothed, x, u, mask, names)
            changes |= _raised(changes, names, diagonal, min_variance or 0.0)
            if not all(bool(torch.isfinite(value).all()) for value in changes.values()):
                raise ValueError("a parameter is no longer finite")
            if (
                "Sigma" in changes
                and _singular(changes["Sigma"], dtype)
                and not _singular(ssm.stepwise("Sigma"), dtype)
            ):
                raise ValueError("Sigma has a direction without variance")
            return ssm.replace(validate_args=False, **changes)

        values: list[float] = []
        smoothed: SmootherResult | None = None
        for _ in range(num_iterations + 1):
            try:
                candidate = ssm if smoothed is None else improve(ssm, smoothed)
                filtered, posterior = filter_and_smooth(candidate, x, u, mask=mask, method=method)
            except (ValueError, torch.linalg.LinAlgError) as error:  # type: ignore[attr-defined]
                if not values:
                    raise
                converged, reason = False, f"{_SINGULAR} ({error})"
                break
            value = float(filtered.log_likelihood.sum())
            gain = value - values[-1] if values else torch.inf
            if not gain >= 0:
                converged, reason = _after_a_fall(gain, values[-1], tolerance)
                break
            ssm, smoothed = candidate, posterior
            values.append(value)
            if gain <= tolerance * abs(value):
                converged, reason = True, "The last iteration gained less than the tolerance."
                break
        else:
            converged, reason = False, f"All {num_iterations} iterations were made."
    return EMResult(ssm.to(dtype), torch.tensor(values, dtype=torch.float64), converged, reason)


_SINGULAR = (
    "The next iteration would make a covariance singular: the data leave no noise in some direction, since they are "
    "constant, or some of them follow from others. Give min_variance, keep that parameter out of update, or leave out "
    "the redundant component."
)


def _after_a_fall(gain: float, value: float, tolerance: float) -> tuple[bool, str]:
    """At a maximum the last digits go up and down; a larger fall is the rounding of a model without noise."""
    if gain > -max(tolerance, 1e-10) * abs(value):
        return True, "The last iteration gained nothing."
    return False, (
        f"The next iteration would lower the log-likelihood by {-gain:.3g} nats: its rounding errors outgrow its gain. "
        "A variance that goes to zero does this; give min_variance."
    )


def _changes(
    ssm: LinearGaussianSSM,
    smoothed: SmootherResult,
    x: Tensor,
    u: Tensor | None,
    mask: Tensor | None,
    names: set[str],
) -> Changes:
    """The M step."""
    changes = _fit_transition(ssm, smoothed, u, names)
    changes |= _fit_observation(ssm, smoothed, x, observed_components(x, mask), names)
    return changes | _fit_first(ssm.replace(**changes, validate_args=False), smoothed, u, names)


def _singular(covariance: Tensor, dtype: torch.dtype) -> bool:
    """Whether rounding to `dtype` could hide a direction without variance, in whatever units each component is."""
    scale = covariance.diagonal(dim1=-2, dim2=-1).sqrt()
    correlation = covariance / scale.unsqueeze(-1) / scale.unsqueeze(-2)
    least = 4 * covariance.shape[-1] * torch.finfo(dtype).eps
    # A variance of zero leaves NaN here.
    return not bool((torch.linalg.eigvalsh(correlation.nan_to_num()) > least).all())


def _raised(values: Changes, names: set[str], diagonal: set[str], least: float) -> Changes:
    """The fitted covariances with no direction of less variance than `least`: the best that respect it."""
    raised = {}
    for name in names & set(_COVARIANCES) & set(values):
        value = torch.diag_embed(values[name].diagonal()) if name in diagonal else values[name]
        if least > 0 or bool(torch.linalg.cholesky_ex(value).info != 0):
            variances, directions = torch.linalg.eigh(value)
            if bool(variances[0] < least):
                value = symmetric(directions @ torch.diag_embed(variances.clamp(min=least)) @ directions.mT)
        raised[name] = value
    return raised


def _checked_names(
    ssm: LinearGaussianSSM, x: Tensor, u: Tensor | None, update: str | Collection[str] | None, diagonal: set[str]
) -> set[str]:
    given = [name for name, _ in ssm.parameters()]
    alone = x.shape[:-2].numel() == 1
    left = ssm.fixed | ({"Lambda_1"} if alone else set())
    names = set(given) - left if update is None else {update} if isinstance(update, str) else set(update)
    if len(ssm.batch_shape) > 0:
        raise ValueError(
            f"fit_em fits one model to all series; this one has the batch dimensions {tuple(ssm.batch_shape)}. "
            "Give a model without batch dimensions, and the series as the batch of x"
        )
    if not names <= set(_NAMES):
        raise ValueError(
            f"Unknown parameters in update: {sorted(names - set(_NAMES))}; the names are {', '.join(_NAMES)}"
        )
    if not names <= set(given):
        raise ValueError(
            f"The model has no {', '.join(sorted(names - set(given)))}: start it from zeros to have it fitted"
        )
    if not diagonal <= set(_COVARIANCES):
        raise ValueError(f"diagonal may hold Lambda, Sigma and Lambda_1, got {sorted(diagonal)}")
    for name in sorted(names):
        if ssm.per_step(name):
            raise ValueError(f"{name} is given per step, so it cannot be fitted: leave it out of `update`")
    if "B" in names and u is not None:
        first = u[..., 0, :].reshape(-1, u.shape[-1])
        if bool((first != 0).any()) and not ("mu_1" in names and bool((first == first[0]).all())):
            raise ValueError(
                "Where B is fitted, B_1 u_1 must be either nothing or part of the fitted mu_1: set the first input of "
                "all series to zero, or give all series the same one and fit mu_1 too"
            )
    return names


class _Regression(NamedTuple):
    """Moments of y = W w + noise given the data, one entry per frame; w stacks the regressors.

    Means and covariances stand apart, since second moments about zero lose the digits of a residual when the data
    have an offset.
    """

    y: Tensor  # (frames, p)
    w: Tensor  # (frames, q)
    yy: Tensor  # (frames, p, p)
    yw: Tensor  # (frames, p, q)
    ww: Tensor  # (frames, q, q)

    def fit(self, W: Tensor, fitted: Tensor, constant: bool) -> tuple[Tensor, Tensor]:
        """Solves for the `fitted` columns of W `(frames or 1, p, q)`; the others stay as they are.

        The change of W is solved for, from the residuals that the present W leaves. Where the last column, which
        belongs to the regressor 1, is fitted (`constant`), the others are solved for about the means.

        Returns:
            The fitted columns `(p, number fitted)` and the mean covariance of the residual `(p, p)`.
        """
        columns = W.new_zeros(W.shape[-2], 0)
        if bool(fitted.any()):
            slopes = fitted.clone()
            slopes[-1] = slopes[-1] and not constant
            residual, w = self._residual(W), self.w
            if constant:
                residual, w = residual - residual.mean(0), w - w.mean(0)
            change = torch.zeros_like(W[0])
            if bool(slopes.any()):
                cross = (_outer(residual, w) + self.yw - W @ self.ww)[..., slopes].sum(0)
                moments = (_outer(w, w) + self.ww)[:, slopes][..., slopes].sum(0)
                change[:, slopes] = torch.linalg.solve(moments, cross.mT).mT
            W = W + change
            if constant:
                W[..., -1] = W[..., -1] + self._residual(W).mean(0)
            columns = W[0][:, fitted]
        residual = self._residual(W)
        spread = self.yy - W @ self.yw.mT - self.yw @ W.mT + W @ self.ww @ W.mT
        return columns, symmetric((_outer(residual, residual) + spread).mean(0))

    def _residual(self, W: Tensor) -> Tensor:
        return self.y - (W @ self.w.unsqueeze(-1)).squeeze(-1)


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
    yw, ww = w.new_zeros(*batch, T - 1, L, w.shape[-1]), w.new_zeros(*batch, T - 1, w.shape[-1], w.shape[-1])
    yw[..., :L] = smoothed.cross_covariance
    ww[..., :L, :L] = smoothed.covariance[..., :-1, :, :]
    columns = [("A", L), ("B", ssm.u_dim), ("m", 1)]
    data = _Regression(*_frames(now, w, smoothed.covariance[..., 1:, :, :], yw, ww))
    return _fit_linear(ssm, columns, "Lambda", data, names, first=1)


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
    ww = w.new_zeros(*w.shape, w.shape[-1])
    ww[..., :L, :L] = P
    yy, yw = x.new_zeros(*x.shape, x.shape[-1]), x.new_zeros(*x.shape, w.shape[-1])
    if (
        observed is not None
    ):  # given z_t and what is observed, x_t = H z_t + h + N(0, V), with zeros in H and V where it is observed
        keep = torch.diag_embed(observed.to(x))
        Sigma, C = ssm.stepwise("Sigma"), ssm.stepwise("C")
        J = torch.linalg.solve(keep @ Sigma @ keep + torch.diag_embed((~observed).to(x)), keep @ Sigma).mT @ keep
        missing = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device) - J
        H, V = missing @ C, missing @ Sigma @ missing.mT
        offset = 0 if ssm.n is None else missing @ ssm.stepwise("n").unsqueeze(-1)
        x = (H @ z.unsqueeze(-1) + J @ torch.where(observed, x, 0).unsqueeze(-1) + offset).squeeze(-1)
        yy = (H @ P @ H.mT + V).expand_as(yy)
        yw[..., :L] = H @ P
    return _fit_linear(ssm, [("C", L), ("n", 1)], "Sigma", _Regression(*_frames(x, w, yy, yw, ww)), names)


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
            block = ssm.A.new_zeros(1, data.y.shape[-1], size)
        else:
            block = ssm.stepwise(name).unsqueeze(-1) if value.ndim == 1 + ssm.per_step(name) else ssm.stepwise(name)
            block = block[first:] if ssm.per_step(name) else block
        blocks.append(block)
    longest = max(len(block) for block in blocks) if steps > 1 else 1
    W = torch.cat([block.expand(longest, -1, -1) for block in blocks], dim=-1)
    if longest > 1:
        W = W.repeat(len(data.y) // longest, 1, 1)
    fitted = torch.tensor([name in names for name, size in columns for _ in range(size)], device=W.device)
    solution, residual = data.fit(W, fitted, constant=columns[-1][0] in names)
    chosen = [(name, size) for name, size in columns if name in names]
    pieces = solution.split([size for _, size in chosen], dim=-1) if chosen else ()
    changes: Changes = {}
    for (name, _), piece in zip(chosen, pieces, strict=True):
        changes[name] = piece.squeeze(-1) if name in ("m", "n") else piece
    return changes | ({noise: residual} if noise in names else {})


def _fit_first(ssm: LinearGaussianSSM, smoothed: SmootherResult, u: Tensor | None, names: set[str]) -> Changes:
    """mu_1 and Lambda_1, from the first smoothed states of all series."""
    z, P = _frames(smoothed.mean[..., :1, :], smoothed.covariance[..., :1, :, :])
    if u is not None and ssm.B is not None:
        driven = (ssm.stepwise("B")[0] @ u[..., 0, :].unsqueeze(-1)).squeeze(-1)
        z = z - driven.expand(*smoothed.mean.shape[:-2], -1).reshape(z.shape)
    mu_1 = z.mean(0) if "mu_1" in names else ssm.mu_1
    spread = symmetric((_outer(z - mu_1, z - mu_1) + P).mean(0))
    return {name: value for name, value in (("mu_1", mu_1), ("Lambda_1", spread)) if name in names}


def _outer(left: Tensor, right: Tensor) -> Tensor:
    return left.unsqueeze(-1) * right.unsqueeze(-2)


def _frames(mean: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    """Series and time in one dimension."""
    frames = mean.shape[:-1].numel()
    return tuple(value.reshape(frames, *value.shape[mean.ndim - 1 :]) for value in (mean, *others))
