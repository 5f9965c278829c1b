"""Expectation-maximisation for linear-Gaussian models (Shumway and Stoffer, 1982)."""

from collections.abc import Collection, Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float
from numpy.typing import ArrayLike
from torch import Tensor

from dvae_lib.arrays import whole_number
from dvae_lib.statespace.choice import Choice
from dvae_lib.statespace.em_given import COVARIANCES, Prior, Restrictions
from dvae_lib.statespace.kalman import SmootherResult, likelihood_and_smoother
from dvae_lib.statespace.model import LinearGaussianSSM, in_double
from dvae_lib.statespace.problem import observed_components
from dvae_lib.statespace.recursions import symmetric
from dvae_lib.statespace.series import Series, as_mask, as_series

__all__ = ["EMResult", "fit_em"]

Changes = dict[str, Tensor]

_NAMES = ("A", "B", "m", "Lambda", "C", "n", "Sigma", "mu_1", "Lambda_1")


class EMResult(NamedTuple):
    """What `fit_em` returns.

    Attributes:
        ssm: The fitted model: the best one met.
        log_likelihoods: log-likelihood of all series together, in nats, of the initial model and after each iteration
            that was kept, in float64. The last is that of `ssm`, before it is rounded to the dtype of the start.
        converged: Whether the last iteration gained less than the tolerance.
        reason: Why the iterations ended, in a sentence.
        log_priors: Of the same models, the logarithm of the density of the priors, but for constants: zeros without.
    """

    ssm: LinearGaussianSSM
    log_likelihoods: Float[Tensor, "iterations"]
    converged: bool
    reason: str
    log_priors: Float[Tensor, "iterations"]


def fit_em(
    ssm: LinearGaussianSSM,
    x: Series,
    u: Series | None = None,
    *,
    mask: Series | None = None,
    update: str | Collection[str] | None = None,
    diagonal: str | Collection[str] = (),
    kept: Mapping[str, Tensor | ArrayLike] | None = None,
    priors: Mapping[str, Prior] | None = None,
    min_variance: float | None = None,
    num_iterations: int = 100,
    tolerance: float = 1e-6,
    method: Choice = "auto",
) -> EMResult:
    """Fits a model by expectation-maximisation; the log-likelihood never falls.

    The smoother gives the expected sufficient statistics (E step), in which all series of the batch are added up;
    regressions of z_t on z_{t-1}, u_t and 1, and of x_t on z_t and 1, give the parameters (M step). Missing
    components enter with their own expectation and covariance. All is computed in float64, from the residuals of the
    regressions, so that an offset of the data costs no digits.

    Where the data leave no noise, since they are constant or one sensor repeats another, the likelihood has no
    maximum: a variance goes to zero. The iterations then end with the last model that has a likelihood, or go on with
    `min_variance` as a floor.

    With `priors` it climbs the posterior density of the parameters instead, log-likelihood plus log-prior. With entries
    that are `kept`, with normal priors, and where the noise is given per step, the coefficients of a regression depend
    on the covariance of its noise: they are solved for at the present one, and the covariance then at them. An entry of
    a row without noise cannot be learned so, and stays as it is.

    Example:
        A second-order autoregression, of which two coefficients and one variance are to be found:

        >>> A, noise = torch.tensor([[0.5, 0.0], [1.0, 0.0]]), torch.diag(torch.tensor([1.0, 0.0]))
        >>> start = {"mu_1": torch.zeros(2), "Lambda_1": torch.eye(2)}
        >>> stay = ("C", "Sigma", *start)
        >>> ar2 = LinearGaussianSSM(A, torch.eye(2)[:1], noise, torch.zeros(1, 1), **start, fixed=stay)
        >>> x = torch.sin(torch.arange(40.0))[:, None] + 0.1 * torch.cos(3 * torch.arange(40.0))[:, None]
        >>> kept = {"A": [[False, False], [True, True]], "Lambda": [[False, True], [True, True]]}
        >>> fit_em(ar2, x, kept=kept).ssm.A[1].tolist()
        [1.0, 0.0]

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
        kept: Entries that stay as they are: for the name of a fitted parameter a boolean mask of its shape, True where
            an entry stays. The fitted entries of a covariance must be blocks, uncorrelated with all the rest.
        priors: For the name of a fitted parameter a `NormalPrior` (A, B, C, m, n, mu_1) or an `InverseWishartPrior`
            (Lambda, Sigma, Lambda_1).
        min_variance: The least variance, in any direction, of the fitted covariances; the start is raised to it.
        num_iterations: The most iterations to make.
        tolerance: Stops when an iteration gains less than this fraction of the log-likelihood's magnitude.
        method: As in `kalman_filter`.

    Returns:
        The fitted model, in the dtype of the start, and the log-likelihoods on the way.

    Raises:
        TypeError: As `kalman_filter`; a prior of the wrong kind.
        ValueError: If the model has batch dimensions, a name in `update` or `diagonal` is unknown or not given in
            the model, one in `kept` or `priors` is not fitted, a mask or a prior has another shape, an updated
            parameter is per step, B is to be fitted with first inputs that differ, `min_variance` is not positive,
            `num_iterations` or `tolerance` is negative, and as `kalman_filter`.
    """
    num_iterations, dtype = whole_number(num_iterations, "num_iterations", 0), ssm.dtype
    if not tolerance >= 0:
        raise ValueError(f"tolerance must be a number of at least 0, got {tolerance}")
    x, u, mask, diagonal, names = read_fit(ssm, x, u, mask, update, diagonal)
    if min_variance is not None and not min_variance > 0:
        raise ValueError(f"min_variance must be positive, got {min_variance}")
    with torch.no_grad():
        ssm = in_double(ssm.map(torch.Tensor.detach))
        given = Restrictions(ssm, names, kept or {}, diagonal, priors or {})
        start = _raised(dict(ssm.parameters()), given, diagonal, min_variance or 0.0)
        ssm = ssm.replace(**start, validate_args=False)

        def improve(ssm: LinearGaussianSSM, smoothed: SmootherResult) -> LinearGaussianSSM:
            observed = observed_components(x, mask)
            within = _within(observed, smoothed)
            changes = m_step(ssm, smoothed, x, u, observed, within, names, given, diagonal, min_variance or 0.0)
            if (
                "Sigma" in changes
                and _singular(changes["Sigma"], dtype)
                and not _singular(ssm.stepwise("Sigma"), dtype)
            ):
                raise ValueError("Sigma has a direction without variance")
            return ssm.replace(validate_args=False, **changes)

        values: list[float] = []
        beliefs: list[float] = []
        smoothed: SmootherResult | None = None
        for _ in range(num_iterations + 1):
            try:
                candidate = ssm if smoothed is None else improve(ssm, smoothed)
                likelihood, posterior = likelihood_and_smoother(candidate, x, u, mask=mask, method=method)
            except (ValueError, torch.linalg.LinAlgError) as error:  # type: ignore[attr-defined]
                if not values:
                    raise
                converged, reason = False, f"{_SINGULAR} ({error})"
                break
            value, belief = float(likelihood.sum()), given.log_prior(candidate)
            gain = value - values[-1] + belief - beliefs[-1] if values else torch.inf
            if not gain >= 0:
                converged, reason = _after_a_fall(gain, values[-1] + beliefs[-1], tolerance)
                break
            ssm, smoothed = candidate, posterior
            values.append(value)
            beliefs.append(belief)
            if gain <= tolerance * abs(value + belief):
                converged, reason = True, "The last iteration gained less than the tolerance."
                break
        else:
            converged, reason = False, f"All {num_iterations} iterations were made."
    course, of_priors = (torch.tensor(part, dtype=torch.float64) for part in (values, beliefs))
    return EMResult(ssm.to(dtype), course, converged, reason, of_priors)


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


def m_step(
    ssm: LinearGaussianSSM,
    smoothed: SmootherResult,
    x: Tensor,
    u: Tensor | None,
    observed: Tensor | None,
    within: Tensor | None,
    names: set[str],
    given: Restrictions,
    diagonal: set[str],
    least: float,
) -> Changes:
    """The M step, from the frames within and from what is observed of them; None: all.

    Raises:
        ValueError: Where a parameter is no longer finite.
    """
    changes = _fit_transition(ssm, smoothed, u, within, names, given)
    changes |= _fit_observation(ssm, smoothed, x, observed, within, names, given)
    changes |= _fit_first(ssm.replace(**changes, validate_args=False), smoothed, u, names, given)
    changes |= _raised(changes, given, diagonal, least)
    if not all(bool(torch.isfinite(value).all()) for value in changes.values()):
        raise ValueError("a parameter is no longer finite")
    return changes


def _within(observed: Tensor | None, smoothed: SmootherResult) -> Tensor | None:
    """Which frames are not after the last observation of their series; None: all.

    The frames after it say nothing of the parameters but what the model itself puts there: they would slow it down.
    """
    if observed is None:
        return None
    within = observed.any(-1).flip(-1).cummax(-1).values.flip(-1).expand(smoothed.mean.shape[:-1])
    return None if bool(within.all()) else within


def _singular(covariance: Tensor, dtype: torch.dtype) -> bool:
    """Whether rounding to `dtype` could hide a direction without variance, in whatever units each component is."""
    scale = covariance.diagonal(dim1=-2, dim2=-1).sqrt()
    correlation = covariance / scale.unsqueeze(-1) / scale.unsqueeze(-2)
    least = 4 * covariance.shape[-1] * torch.finfo(dtype).eps
    # A variance of zero leaves NaN here.
    return not bool((torch.linalg.eigvalsh(correlation.nan_to_num()) > least).all())


def _raised(values: Changes, given: Restrictions, diagonal: set[str], least: float) -> Changes:
    """The fitted covariances with no direction of less variance than `least`, diagonal where they are to be."""
    found = {}
    for name in set(given.blocks) & set(values):
        value = torch.diag_embed(values[name].diagonal()) if name in diagonal else values[name]
        found[name] = given.raised(name, value, least)
    return found


def read_fit(
    ssm: LinearGaussianSSM,
    x: Series,
    u: Series | None,
    mask: Series | None,
    update: str | Collection[str] | None,
    diagonal: str | Collection[str],
) -> tuple[Tensor, Tensor | None, Tensor | None, set[str], set[str]]:
    """Data and mask as tensors, the covariances that are to be diagonal, and the names of the parameters to fit."""
    data = as_series(x, "x", ssm.dtype, ssm.device)
    inputs = None if u is None else as_series(u, "u", ssm.dtype, ssm.device, padding=0.0)
    seen = None if mask is None else as_mask(mask, ssm.device)
    diagonal = {diagonal} if isinstance(diagonal, str) else set(diagonal)
    return data, inputs, seen, diagonal, _checked_names(ssm, data, inputs, update, diagonal)


def _checked_names(
    ssm: LinearGaussianSSM, x: Tensor, u: Tensor | None, update: str | Collection[str] | None, diagonal: set[str]
) -> set[str]:
    given = [name for name, _ in ssm.parameters()]
    alone = x.shape[:-2].numel() == 1
    left = ssm.fixed | ({"Lambda_1"} if alone else set())
    names = set(given) - left if update is None else {update} if isinstance(update, str) else set(update)
    if len(ssm.batch_shape) > 0:
        raise ValueError(
            f"One model is fitted to all series; this one has the batch dimensions {tuple(ssm.batch_shape)}. "
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
    if not diagonal <= set(COVARIANCES):
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

    def fit(self, W: Tensor, fitted: Tensor, constant: bool) -> Tensor:
        """Solves for the `fitted` columns of W `(frames or 1, p, q)`; the others stay as they are.

        The change of W is solved for, from the residuals that the present W leaves. Where the last column, which
        belongs to the regressor 1, is fitted (`constant`), the others are solved for about the means.

        Returns:
            The changed W.
        """
        if bool(fitted.any()):
            slopes = fitted.clone()
            slopes[-1] = slopes[-1] and not constant
            residual, w = self._residual(W), self.w
            if constant:
                residual, w = residual - residual.mean(0), w - w.mean(0)
            change = torch.zeros_like(W[0])
            if bool(slopes.any()):
                _, yw, ww = self._covariances(W)
                cross, moments = residual.mT @ w + (yw - W @ ww).sum(0), w.mT @ w + ww.sum(0)
                change[:, slopes] = torch.linalg.solve(moments[slopes][:, slopes], cross[:, slopes].mT).mT
            W = W + change
            if constant:
                W[..., -1] = W[..., -1] + self._residual(W).mean(0)
        return W

    def fit_entries(self, W: Tensor, free: Tensor, noise: Tensor, mean: Tensor, precision: Tensor) -> Tensor:
        r"""Solves for single entries of W, at a covariance of the noise `(frames or 1, p, p)`, with normal priors.

        With the precision P of the noise, the residual r of the present W, and precision K and mean M of the prior,
        the change of the `free` entries `(p, q)` solves

        .. math:: \sum_t P_t \, \Delta \, E[w_t w_t^\top] + K \circ \Delta
            = \sum_t P_t \, E[r_t w_t^\top] - K \circ (W - M) .

        Returns:
            The changed W.
        """
        P = torch.linalg.pinv(noise, hermitian=True)
        free = free & (P.diagonal(dim1=-2, dim2=-1) != 0).any(0)[:, None]  # of a row without noise nothing is learned
        cross = _outer(self._residual(W), self.w) + self.yw - W @ self.ww
        moments = _outer(self.w, self.w) + self.ww
        if len(P) == 1:
            cross, moments = cross.sum(0, keepdim=True), moments.sum(0, keepdim=True)
        where = free.flatten()
        size = len(where)
        system = torch.einsum("tik,tjl->ijkl", P, moments).reshape(size, size)
        system = system + torch.diag(precision.flatten())
        goal = ((P @ cross).sum(0) - precision * (W[0] - mean)).flatten()
        unit = system.diagonal()[where].sqrt()
        unit = torch.where(unit > 0, unit, 1.0)  # of a row without noise
        scaled = system[where][:, where] / unit[:, None] / unit
        change = torch.zeros_like(goal)
        change[where] = torch.linalg.pinv(scaled, hermitian=True) @ (goal[where] / unit) / unit
        return W + change.reshape(free.shape)

    def spread(self, W: Tensor) -> Tensor:
        """The mean covariance of the residual that W leaves, `(p, p)`."""
        residual, (yy, yw, ww) = self._residual(W), self._covariances(W)
        spread = (yy - W @ yw.mT - yw @ W.mT + W @ ww @ W.mT).sum(0)
        return symmetric(residual.mT @ residual + spread) / len(self.y)

    def _covariances(self, W: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """yy, yw and ww, added up where one W serves all frames."""
        parts = self.yy, self.yw, self.ww
        return parts if len(W) > 1 else tuple(part.sum(0, keepdim=True) for part in parts)  # type: ignore[return-value]

    def _residual(self, W: Tensor) -> Tensor:
        return self.y - (W @ self.w.unsqueeze(-1)).squeeze(-1)


def _fit_transition(
    ssm: LinearGaussianSSM,
    smoothed: SmootherResult,
    u: Tensor | None,
    within: Tensor | None,
    names: set[str],
    given: Restrictions,
) -> Changes:
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
    within = None if within is None else within[..., 1:].flatten()
    return _fit_linear(ssm, columns, "Lambda", data, within, names, given, first=1)


def _fit_observation(
    ssm: LinearGaussianSSM,
    smoothed: SmootherResult,
    x: Tensor,
    observed: Tensor | None,
    within: Tensor | None,
    names: set[str],
    given: Restrictions,
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
    data = _Regression(*_frames(x, w, yy, yw, ww))
    within = None if within is None else within.flatten()
    return _fit_linear(ssm, [("C", L), ("n", 1)], "Sigma", data, within, names, given)


def _fit_linear(
    ssm: LinearGaussianSSM,
    columns: list[tuple[str, int]],
    noise: str,
    data: _Regression,
    within: Tensor | None,
    names: set[str],
    given: Restrictions,
    first: int = 0,
) -> Changes:
    """One regression: its coefficients, the blocks of `columns`, and the covariance of its noise."""
    blocks = [_coefficients(ssm, name, size, data, first) for name, size in columns]
    longest = max(len(block) for block in blocks)
    W = torch.cat([block.expand(longest, -1, -1) for block in blocks], dim=-1)
    covariance = ssm.stepwise(noise)[first if ssm.per_step(noise) else 0 :]
    W, covariance = (_to_frames(value, len(data.y), within) for value in (W, covariance))
    if within is not None:
        data = _Regression(*(part[within] for part in data))
    if len(data.y) == 0:
        return {}
    fitted = torch.tensor([name in names for name, size in columns for _ in range(size)], device=W.device)
    chosen = [name for name, _ in columns if name in names]
    if given.plain(chosen) and len(covariance) == 1:
        W = data.fit(W, fitted, constant=columns[-1][0] in names)
    elif chosen:
        W = data.fit_entries(W, *_wanted(W, columns, names, given, covariance))
    changes: Changes = {}
    for (name, _), piece in zip(columns, W[0].split([size for _, size in columns], dim=-1), strict=True):
        if name in names:
            value = piece.squeeze(-1) if name in ("m", "n") else piece
            free = given.free.get(name)
            changes[name] = value if free is None else torch.where(free, value, getattr(ssm, name))
    if noise in names:
        changes[noise] = given.covariance(noise, getattr(ssm, noise), data.spread(W), len(data.y))
    return changes


def _coefficients(ssm: LinearGaussianSSM, name: str, size: int, data: _Regression, first: int) -> Tensor:
    """The columns of a parameter, `(steps or 1, p, size)`."""
    if getattr(ssm, name) is None:
        return data.y.new_zeros(1, data.y.shape[-1], size)
    value = ssm.stepwise(name)
    value = value.unsqueeze(-1) if name in ("m", "n") else value
    return value[first:] if ssm.per_step(name) else value


def _to_frames(value: Tensor, frames: int, within: Tensor | None) -> Tensor:
    """What is given per step, for the frames of all series; what is constant as it is."""
    if len(value) == 1:
        return value
    value = value.repeat(frames // len(value), 1, 1)
    return value if within is None else value[within]


def _wanted(
    W: Tensor, columns: list[tuple[str, int]], names: set[str], given: Restrictions, covariance: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Which entries of the coefficients are fitted, at which covariance, and means and precisions of their priors."""
    nothing = torch.zeros_like(W[0])
    free, means, precisions = [], [], []
    for (name, _), none in zip(columns, nothing.split([size for _, size in columns], dim=-1), strict=True):
        mean, precision = given.normal.get(name, (none, none))
        stays = given.free.get(name, none == 0)
        free.append(stays.reshape(none.shape) & (name in names))
        means.append(mean.reshape(none.shape))
        precisions.append(precision.reshape(none.shape))
    return torch.cat(free, -1), covariance, torch.cat(means, -1), torch.cat(precisions, -1)


def _fit_first(
    ssm: LinearGaussianSSM, smoothed: SmootherResult, u: Tensor | None, names: set[str], given: Restrictions
) -> Changes:
    """mu_1 and Lambda_1: the regression of the first smoothed states of all series on 1."""
    if not names & {"mu_1", "Lambda_1"}:
        return {}
    z, P = _frames(smoothed.mean[..., :1, :], smoothed.covariance[..., :1, :, :])
    if u is not None and ssm.B is not None:
        driven = (ssm.stepwise("B")[0] @ u[..., 0, :].unsqueeze(-1)).squeeze(-1)
        z = z - driven.expand(*smoothed.mean.shape[:-2], -1).reshape(z.shape)
    one = z.new_ones(len(z), 1)
    data = _Regression(z, one, P, z.new_zeros(*z.shape, 1), z.new_zeros(len(z), 1, 1))
    columns = [("mu_1", 1)]
    W, covariance = ssm.mu_1[None, :, None], ssm.Lambda_1[None]
    if "mu_1" in names and given.plain(["mu_1"]):
        W = W + (z.mean(0) - ssm.mu_1)[None, :, None]
    elif "mu_1" in names:
        W = data.fit_entries(W, *_wanted(W, columns, names, given, covariance))
    changes = {"mu_1": W[0, :, 0]} if "mu_1" in names else {}
    if "Lambda_1" in names:
        changes["Lambda_1"] = given.covariance("Lambda_1", ssm.Lambda_1, data.spread(W), len(z))
    return changes


def _outer(left: Tensor, right: Tensor) -> Tensor:
    return left.unsqueeze(-1) * right.unsqueeze(-2)


def _frames(mean: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    """Series and time in one dimension."""
    frames = mean.shape[:-1].numel()
    return tuple(value.reshape(frames, *value.shape[mean.ndim - 1 :]) for value in (mean, *others))
