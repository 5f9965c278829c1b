"""Kalman filter and smoother, likelihood, posterior samples and forecasts of a linear-Gaussian model.

Covariances do not depend on the data. They are worked out first, once for all series that share a model and a
pattern of missing values, in square-root form. The means of all series then follow from affine recursions with
the gains as matrices, and the likelihood from the whitened innovations. Everything is computed in float64, and the
results are rounded to the dtype of the model.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from dvae_lib.scans import Method, affine_recursion, check_method, is_differentiated
from dvae_lib.statespace.model import (
    LinearGaussianSSM,
    broadcast,
    check_finite,
    check_input,
    covariance_factor,
    draw,
    holds,
    in_double,
    state_offsets,
    surely_finite,
)
from dvae_lib.statespace.recursions import (
    beside,
    condition,
    lyapunov_differentiable,
    lyapunov_factors,
    lyapunov_factors_constant,
    riccati_factors,
    riccati_with_gradient,
    triangular_factor,
)
from dvae_lib.statespace.series import Series, as_mask, as_series, columns, time_first, without_missing
from dvae_lib.statespace.steady import smooth_steady

__all__ = [
    "FilterResult",
    "Forecast",
    "SmootherResult",
    "forecast",
    "kalman_filter",
    "kalman_smoother",
    "log_likelihood",
    "sample_posterior",
]


class FilterResult(NamedTuple):
    """What the Kalman filter returns. L is `z_dim`; the covariances of series that share them are one expanded tensor.

    Attributes:
        mean: E[z_t | x_{1:t}], `(*batch, T, L)`.
        covariance: Cov[z_t | x_{1:t}], `(*batch, T, L, L)`.
        predicted_mean: E[z_t | x_{1:t-1}], `(*batch, T, L)`.
        predicted_covariance: Cov[z_t | x_{1:t-1}], `(*batch, T, L, L)`.
        log_likelihood: log p(x_{1:T}) of what is observed, in nats, `(*batch,)`.
    """

    mean: Float[Tensor, "*batch time z_dim"]
    covariance: Float[Tensor, "*batch time z_dim z_dim"]
    predicted_mean: Float[Tensor, "*batch time z_dim"]
    predicted_covariance: Float[Tensor, "*batch time z_dim z_dim"]
    log_likelihood: Float[Tensor, "*batch"]


class SmootherResult(NamedTuple):
    """What the Kalman smoother returns.

    Attributes:
        mean: E[z_t | x_{1:T}], `(*batch, T, L)`.
        covariance: Cov[z_t | x_{1:T}], `(*batch, T, L, L)`.
        cross_covariance: Cov[z_t, z_{t-1} | x_{1:T}] for t = 2..T, `(*batch, T - 1, L, L)`.
    """

    mean: Float[Tensor, "*batch time z_dim"]
    covariance: Float[Tensor, "*batch time z_dim z_dim"]
    cross_covariance: Float[Tensor, "*batch steps z_dim z_dim"]


class Forecast(NamedTuple):
    """Moments of the observations and states after the last step; H is the horizon.

    Attributes:
        mean: E[x_{T+h} | x_{1:T}], `(*batch, H, x_dim)`.
        covariance: Cov[x_{T+h} | x_{1:T}], `(*batch, H, x_dim, x_dim)`.
        state_mean: E[z_{T+h} | x_{1:T}], `(*batch, H, z_dim)`.
        state_covariance: Cov[z_{T+h} | x_{1:T}], `(*batch, H, z_dim, z_dim)`.
    """

    mean: Float[Tensor, "*batch horizon x_dim"]
    covariance: Float[Tensor, "*batch horizon x_dim x_dim"]
    state_mean: Float[Tensor, "*batch horizon z_dim"]
    state_covariance: Float[Tensor, "*batch horizon z_dim z_dim"]

    def interval(self, level: float = 0.9) -> tuple[Tensor, Tensor]:
        """The ends of the central interval of each future observation, both `(*batch, H, x_dim)`.

        Arguments:
            level: The probability within, between 0 and 1.

        Raises:
            ValueError: Another level.
        """
        if not 0 < level < 1:
            raise ValueError(f"level is a probability between 0 and 1; got {level}")
        deviation = self.covariance.diagonal(dim1=-2, dim2=-1).sqrt()
        half = deviation * torch.special.ndtri(torch.tensor(0.5 + level / 2).to(deviation))
        return self.mean - half, self.mean + half


def kalman_filter(
    ssm: LinearGaussianSSM,
    x: Series,
    u: Series | None = None,
    *,
    mask: Series | None = None,
    method: Method = "sequential",
) -> FilterResult:
    """The Kalman filter: causal inference of the states, Eqs. (3.18) and (3.19), and the likelihood.

    Arguments:
        ssm: The model.
        x: The observations, `(*batch, T, x_dim)`: a tensor of the model's dtype, or an array of any kind. What is NaN,
            or masked, counts as missing. A list of series `(T_i, x_dim)` of different lengths is a batch whose short
            ones miss their last frames.
        u: The input, `(*batch, T, u_dim)`, where the model has B.
        mask: True where observed, by frame `(*batch, T)` or by component `(*batch, T, x_dim)`. A frame may be
            missing wholly or in part; where nothing is observed, the answer is the prior.
        method: "sequential" runs one step after the other; "parallel" is the associative scan of Särkkä and
            García-Fernández (2021), O(log T) deep. Both give the same numbers up to rounding, and both work on
            triangular factors, so that covariances stay positive semi-definite.

    Returns:
        Filtered and predicted means and covariances, and the log-likelihood in nats per series.

    Raises:
        TypeError: If `x` or `u` is a tensor of another dtype than the model, or no array of numbers.
        RuntimeError: Within `torch.func.vmap`.
        ValueError: If sizes do not fit, `x` has no frames or is infinite somewhere, or an innovation has a singular
            covariance, so that the likelihood has no density.

    Example:
        >>> one = torch.eye(1)
        >>> walk = LinearGaussianSSM(one, one, one, one, mu_1=torch.zeros(1), Lambda_1=one)
        >>> kalman_filter(walk, torch.tensor([[2.0]])).mean.round(decimals=3)
        tensor([[1.]])
    """
    problem = _Problem.of(ssm, x, u, mask, method)
    return _filter(problem)[0]


def kalman_smoother(
    ssm: LinearGaussianSSM,
    x: Series,
    u: Series | None = None,
    *,
    mask: Series | None = None,
    method: Method = "sequential",
) -> SmootherResult:
    """The Kalman smoother (Rauch, Tung and Striebel, 1965): inference of each state from the whole sequence.

    Arguments and errors are those of `kalman_filter`. Where one model of constant matrices serves all series, the same
    is observed at each step and no derivative is asked for, "parallel" works with the gains of the steady state.

    Returns:
        Smoothed means, covariances, and the cross-covariances of neighbouring states.
    """
    problem = _Problem.of(ssm, x, u, mask, method)
    found = _smooth_steady(problem) if method == "parallel" else None
    return _smooth(problem, _filter(problem)[1]) if found is None else found


def filter_and_smooth(
    ssm: LinearGaussianSSM,
    x: Series,
    u: Series | None = None,
    *,
    mask: Series | None = None,
    method: Method = "sequential",
) -> tuple[FilterResult, SmootherResult]:
    """Both results, for what needs both: the smoother contains a filter."""
    problem = _Problem.of(ssm, x, u, mask, method)
    filtered, moments = _filter(problem)
    return filtered, _smooth(problem, moments)


def log_likelihood(
    ssm: LinearGaussianSSM,
    x: Series,
    u: Series | None = None,
    *,
    mask: Series | None = None,
    method: Method = "sequential",
) -> Float[Tensor, "*out"]:
    """log p(x_{1:T} | u_{1:T}) of what is observed, in nats per series, `(*batch,)`; arguments as `kalman_filter`.

    It is the sum of the log-densities of the innovations, log p(x_t | x_{1:t-1}).
    """
    return kalman_filter(ssm, x, u, mask=mask, method=method).log_likelihood


def sample_posterior(
    ssm: LinearGaussianSSM,
    x: Series,
    u: Series | None = None,
    *,
    mask: Series | None = None,
    sample_shape: tuple[int, ...] = (),
    method: Method = "sequential",
    generator: torch.Generator | None = None,
) -> Float[Tensor, "*out time z_dim"]:
    """Draws state sequences from p(z_{1:T} | x_{1:T}), reparameterised.

    A sequence z*, x* is drawn from the model; z* plus the smoothed mean of what x* leaves of x is then an exact
    draw from the posterior (Durbin and Koopman, 2002). No covariance of the posterior has to be factorised, so the
    gradients are those of a smoothed mean.

    Arguments:
        ssm: The model.
        x: The observations, `(*batch, T, x_dim)`; NaN where missing.
        u: The input, `(*batch, T, u_dim)`, where the model has B.
        mask: As in `kalman_filter`.
        sample_shape: Shape of independent draws, in front of the batch dimensions.
        method: As in `kalman_filter`.
        generator: Source of randomness.

    Returns:
        The draws, `(*sample_shape, *batch, T, z_dim)`.

    Raises:
        TypeError: As `kalman_filter`.
        ValueError: As `kalman_filter`.
    """
    dtype, ssm, (x, u, mask) = ssm.dtype, in_double(ssm), _data(ssm, x, u, mask)
    _Problem.of(ssm, x, u, mask, method)  # refuses what does not fit before anything is drawn
    observed = observed_components(x, mask)
    batch = torch.broadcast_shapes(ssm.batch_shape, x.shape[:-2], () if u is None else u.shape[:-2])
    drawn = draw(ssm, x.shape[-2], u, (*sample_shape, *batch), generator, dtype)
    left = x - drawn.x
    if observed is not None:  # one mask for all draws, so that they share their covariances
        observed = observed[(None,) * (left.ndim - observed.ndim)]
        left = torch.where(observed, left, 0)
    centred = ssm.replace(mu_1=torch.zeros_like(ssm.mu_1), B=None, m=None, n=None, validate_args=False)
    return (drawn.z + kalman_smoother(centred, left, mask=observed, method=method).mean).to(dtype)


def forecast(
    ssm: LinearGaussianSSM,
    x: Series,
    horizon: int,
    u: Series | None = None,
    *,
    mask: Series | None = None,
    method: Method = "sequential",
) -> Forecast:
    """Predicts the next `horizon` observations and states.

    Arguments:
        ssm: The model; per-step parameters must have T + horizon steps.
        x: The observations so far, `(*batch, T, x_dim)`.
        horizon: How many steps to predict.
        u: The input, `(*batch, T + horizon, u_dim)`, where the model has B: the future one must be known.
        mask: As in `kalman_filter`, for the T steps observed.
        method: As in `kalman_filter`.

    Returns:
        Means and covariances of future observations (with their noise) and states.

    Raises:
        TypeError: As `kalman_filter`.
        ValueError: As `kalman_filter`, if `horizon` is below 1, and if a list of series of different lengths is given.
    """
    if horizon < 1:
        raise ValueError(f"horizon must be at least 1, got {horizon}")
    if isinstance(x, list | tuple) and len({len(series) for series in x if getattr(series, "ndim", 0) == 2}) > 1:
        raise ValueError("The series end at different times, so they have no common horizon: forecast them one by one")
    dtype, ssm, (x, u, mask) = ssm.dtype, in_double(ssm), _data(ssm, x, u, mask)
    _check_data(ssm, x)
    observed = observed_components(x, mask)
    if observed is not None:
        x = torch.where(observed, x, torch.nan)
    future = x.new_full((*x.shape[:-2], horizon, x.shape[-1]), torch.nan)
    result = kalman_filter(ssm, torch.cat([x, future], dim=-2), u, method=method)
    mean, covariance = ssm.observation_moments(result.predicted_mean, result.predicted_covariance)
    moments = (mean, covariance, result.predicted_mean, result.predicted_covariance)
    ahead = (value.narrow(-2 - (i % 2), x.shape[-2], horizon) for i, value in enumerate(moments))
    return Forecast(*(value.to(dtype) for value in ahead))


# ---- the problem, time first -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Problem:
    """A model and data with time first and all batch dimensions in one.

    Covariances have the batch dimension N of the model and the mask. Where N = 1, all series stand in the K columns
    of one matrix; elsewhere K = 1 and there is one entry per series. Matrices that do not change have a time axis
    of length 1.
    """

    A: Tensor  # (T - 1 or 1, N or 1, L, L), of steps 2..T
    C: Tensor  # (T or 1, N or 1, D, L)
    Q: Tensor  # (T - 1 or 1, N or 1, L, L)
    R: Tensor  # (T or 1, N or 1, D, D)
    P_1: Tensor  # (N, L, L)
    mu_1: Tensor  # (1, N or series, L, K), with B_1 u_1
    offsets: Tensor | None  # (T - 1, N or series, L, K), B_t u_t + m_t of steps 2..T; None where there are none
    y: Tensor  # (T, N or series, D, K): x_t - n_t, zero where missing
    num_observed: Tensor  # (*series): how many numbers are observed
    batch: torch.Size  # of the covariances, padded with ones to the length of `series`
    series: torch.Size  # of the data
    method: Method
    dtype: torch.dtype  # of the results; what is here is float64

    @classmethod
    def of(cls, ssm: LinearGaussianSSM, x: Series, u: Series | None, mask: Series | None, method: Method) -> "_Problem":
        check_method(method)
        dtype, ssm, (x, u, mask) = ssm.dtype, in_double(ssm), _data(ssm, x, u, mask)
        _check_data(ssm, x)
        T = x.shape[-2]
        check_input(ssm, u, T)
        observed = observed_components(x, mask)
        x = x if observed is None else torch.where(observed, x, 0)
        check_finite(x)
        masks = torch.Size() if observed is None else observed.shape[:-2]
        if observed is not None and masks.numel() > 1:
            flat = observed.reshape(masks.numel(), *observed.shape[-2:])
            if bool((flat == flat[0]).all()):  # one pattern for all series: one set of covariances
                observed, masks = flat[0], torch.Size()
        inputs = torch.Size() if u is None else u.shape[:-2]
        try:
            series = broadcast(ssm.batch_shape, x.shape[:-2], masks, inputs)
        except RuntimeError:
            raise ValueError(
                f"The batch dimensions of the model {tuple(ssm.batch_shape)}, of x {tuple(x.shape[:-2])} and of u "
                f"{tuple(inputs)} do not broadcast"
            ) from None
        batch = broadcast(ssm.covariance_batch_shape, masks, torch.Size((1,) * len(series)))

        def matrices(name: str, first: int = 0) -> Tensor:
            value = ssm.stepwise(name)
            value = value[..., first:, :, :] if ssm.per_step(name) else value
            return time_first(value, batch)

        C, R = matrices("C"), matrices("Sigma")
        if observed is not None:
            same = observed[..., :1, :]
            same = same if bool((same == observed).all()) else observed
            C, R = without_missing(C, R, time_first(same, batch, event=1))
        P_1 = time_first(ssm.Lambda_1.unsqueeze(-3), batch)[0].expand(batch.numel(), -1, -1)
        y = x if ssm.n is None else x - ssm.stepwise("n")
        if observed is not None and ssm.n is not None:
            y = torch.where(observed, y, 0)
        by_column = batch.numel() == 1
        moved = ssm.B is not None or ssm.m is not None
        offsets = state_offsets(ssm, u, T if moved else 1)
        counted = torch.full((), T * ssm.x_dim) if observed is None else observed.sum(dim=(-2, -1))
        return cls(
            A=matrices("A", 1),
            C=C,
            Q=matrices("Lambda", 1),
            R=R,
            P_1=P_1,
            mu_1=columns(offsets[..., :1, :], series, by_column),
            offsets=columns(offsets[..., 1:, :], series, by_column) if moved else None,
            y=columns(y, series, by_column),
            num_observed=counted.to(x).expand(series),
            batch=batch,
            series=series,
            method=method,
            dtype=dtype,
        )

    @property
    def num_steps(self) -> int:
        return self.y.shape[0]

    def gradient_of_covariances(self) -> bool:
        """Whether a derivative of the covariances is asked for."""
        return is_differentiated(self.A, self.C, self.Q, self.R, self.P_1)

    def for_series(self, value: Tensor, num_steps: int) -> Tensor:
        """Spreads `(K, N or 1, a, b)` over all steps and, where there are several models, over all series."""
        value = _last_stands(value, num_steps)
        if self.batch.numel() == 1 or self.batch == self.series:
            return value
        event = value.shape[-2:]
        value = value.expand(-1, self.batch.numel(), -1, -1).reshape(num_steps, *self.batch, *event)
        return value.expand(-1, *self.series, -1, -1).reshape(num_steps, self.series.numel(), *event)

    def means(self, value: Tensor) -> Tensor:
        """Back from `(T, N or series, L, K)` to `(*series, T, L)`."""
        value = value[:, 0].movedim(-1, 0) if self.batch.numel() == 1 else value[..., 0].transpose(0, 1)
        value = value.to(self.dtype)
        return value.reshape(*self.series, *value.shape[-2:])

    def covariances(self, value: Tensor, num_steps: int) -> Tensor:
        """Back from `(K, N, L, L)`, the last standing for all later ones, to `(*series, T, L, L)`."""
        value = _last_stands(value.to(self.dtype), num_steps)
        value = value.transpose(0, 1).reshape(*self.batch, num_steps, *value.shape[-2:])
        return value.expand(*self.series, -1, -1, -1)


def _data(
    ssm: LinearGaussianSSM, x: Series, u: Series | None, mask: Series | None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Observations and inputs in float64, and the mask."""
    inputs = None if u is None else as_series(u, "u", ssm.dtype, ssm.device, padding=0.0)
    return as_series(x, "x", ssm.dtype, ssm.device), inputs, (None if mask is None else as_mask(mask, ssm.device))


def observed_components(x: Tensor, mask: Tensor | None) -> Tensor | None:
    """True where observed, `(*batch, T, x_dim)`, or None where everything is."""
    missing = None if surely_finite(x) else torch.isnan(x)
    observed = None if missing is None or not holds(missing.any()) else ~missing
    if mask is None:
        return observed
    by_component = mask if mask.ndim == x.ndim else mask.unsqueeze(-1)
    fits = by_component.ndim == x.ndim and all(
        own in (1, n) for own, n in zip(by_component.shape, x.shape, strict=True)
    )
    if not fits:
        raise ValueError(
            f"mask must have shape {tuple(x.shape[:-1])}, by frame, or {tuple(x.shape)}, by component (or 1 where it "
            f"is shared); got {tuple(mask.shape)}"
        )
    # A batch dimension of one stays one: what series share is worked out once.
    by_component = by_component.expand(*by_component.shape[:-2], *x.shape[-2:])
    return by_component if observed is None else by_component & observed


def _check_data(ssm: LinearGaussianSSM, x: Tensor) -> None:
    if x.ndim < 2 or x.shape[-1] != ssm.x_dim:
        advice = " A scalar series becomes one by x[:, None]." if x.ndim == 1 and ssm.x_dim == 1 else ""
        raise ValueError(f"x must have shape (*batch, T, {ssm.x_dim}), as C says; got {tuple(x.shape)}.{advice}")
    if x.shape[-2] == 0:
        raise ValueError(
            "x has no frames (T = 0), so there is no state to infer. The prior of the first state is "
            "ssm.mu_1, ssm.Lambda_1; for a series of which nothing is observed, pass frames of NaN"
        )


def _last_stands(value: Tensor, num_steps: int) -> Tensor:
    """Repeats the last entry in time up to `num_steps`."""
    if value.shape[0] >= num_steps:
        return value[:num_steps]
    if value.shape[0] == 1:
        return value.expand(num_steps, *value.shape[1:])
    return torch.cat([value, value[-1:].expand(num_steps - value.shape[0], *value.shape[1:])])


# ---- filter ------------------------------------------------------------------------------------------------------


class _Moments(NamedTuple):
    """What the smoother needs of the filter. Covariances may be the first K steps; the last stands for all later."""

    factor: Tensor  # of the filtered covariances (K, N, L, L), without derivatives
    filtered: Tensor  # covariances (K, N, L, L)
    predicted: Tensor
    whitening: Tensor  # (K, N, D, D)
    gain: Tensor  # (K, N, L, D)
    predicted_mean: Tensor  # (T, N or series, L, K)
    mean: Tensor  # filtered (T, N or series, L, K)
    innovation: Tensor  # whitened, (T, N or series, D, K)


def _filter(problem: _Problem) -> tuple[FilterResult, _Moments]:
    """The predicted means follow an affine recursion; all else follows from them and the observations."""
    T = problem.num_steps
    factor, predicted, filtered, gain, whitening = _filter_covariances(problem)
    A = problem.for_series(problem.A, T - 1)
    C, K, W = (problem.for_series(value, T) for value in (problem.C, gain, whitening))
    sources = (A @ K[:-1]) @ problem.y[:-1]
    if problem.offsets is not None:
        sources = sources + problem.offsets
    transition = _error_transition(A, K, C)
    predicted_mean = affine_recursion(transition, torch.cat([problem.mu_1, sources]), problem.method)
    residual = problem.y - C @ predicted_mean
    mean, innovation = predicted_mean + K @ residual, W @ residual
    log_scale = W.diagonal(dim1=-2, dim2=-1).abs().log().sum(dim=(0, -1))
    log_density = log_scale.unsqueeze(-1) - 0.5 * (innovation * innovation).sum(dim=(0, 2))
    log_density = log_density.reshape(problem.series) - 0.5 * math.log(2 * math.pi) * problem.num_observed
    return (
        FilterResult(
            problem.means(mean),
            problem.covariances(filtered, T),
            problem.means(predicted_mean),
            problem.covariances(predicted, T),
            log_density.to(problem.dtype),
        ),
        _Moments(factor, filtered, predicted, whitening, gain, predicted_mean, mean, innovation),
    )


def _filter_covariances(problem: _Problem) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Factors of the filtered covariances; predicted and filtered covariances; gains; whitenings."""
    T = problem.num_steps
    differentiated = problem.gradient_of_covariances()
    with torch.no_grad():
        A, C = problem.A.detach(), problem.C.detach()
        Q, R, U_1 = (covariance_factor(value.detach()) for value in (problem.Q, problem.R, problem.P_1))
        first = condition(U_1, C[0], R[0])[2]
        later = slice(1, None)
        factor = riccati_factors(
            first, A, C if len(C) == 1 else C[later], Q, R if len(R) == 1 else R[later], T, problem.method
        )
        factor = _last_stands(factor, T) if differentiated else factor
        U = torch.cat([U_1.unsqueeze(0), triangular_factor(beside(A @ factor[:-1], Q))])
        whitening, gain, _ = condition(U, C, R, singular=SINGULAR_INNOVATION)
        predicted, filtered = U @ U.mT, factor @ factor.mT
    if differentiated:
        N = problem.batch.numel()
        A, Q = (_last_stands(value, T - 1).expand(-1, N, -1, -1) for value in (problem.A, problem.Q))
        C, R = (_last_stands(value, T).expand(-1, N, -1, -1) for value in (problem.C, problem.R))
        filtered, predicted, whitening, gain = riccati_with_gradient(
            A, C, Q, R, problem.P_1, filtered, whitening, gain, problem.method
        )
    return factor, predicted, filtered, gain, whitening


SINGULAR_INNOVATION = (
    "The covariance of an innovation, C P C^T + Sigma, is singular: the model says that some combination of "
    "observations is known exactly beforehand, and the likelihood has no density. Give Sigma a positive variance "
    "there, or mark the redundant component as missing."
)


# ---- smoother ----------------------------------------------------------------------------------------------------


def _smooth(problem: _Problem, known: _Moments) -> SmootherResult:
    """Means by the adjoint of the innovations, rho_t, which gathers what x_{t:T} says beyond the prediction of z_t.

    It needs no inverse of a predicted covariance (Bryson and Frazier, 1963; de Jong, 1989), so that means, and all
    derivatives, also exist where that is singular.
    """
    T = problem.num_steps
    A = problem.for_series(problem.A, T - 1)
    C, K, W, P = (problem.for_series(v, T) for v in (problem.C, known.gain, known.whitening, known.filtered))
    evidence = W @ C
    sources = evidence.mT @ known.innovation
    transition = _error_transition(A, K, C).mT
    rho = affine_recursion(transition.flip(0), sources.flip(0), problem.method).flip(0)
    later = (P[:-1] @ A.mT) @ rho[1:]
    mean = torch.cat([known.mean[:-1] + later, known.mean[-1:]])
    covariance, cross, smoother_gain = _smoother_covariances(problem, known)
    if T > 1:
        mean = _where_the_state_was_vague(problem, known, mean, covariance.detach(), smoother_gain)
    return SmootherResult(problem.means(mean), problem.covariances(covariance, T), problem.covariances(cross, T - 1))


# How many times larger the filtered variance of a state may be than its smoothed variance before the adjoint form
# leaves errors of 1e-11 posterior standard deviations.
_VAGUE = 1e5


def _where_the_state_was_vague(
    problem: _Problem, known: _Moments, mean: Tensor, covariance: Tensor, gain: Tensor
) -> Tensor:
    """The same means by the recursion of Rauch, Tung and Striebel, at the frames whose state the past hardly knew.

    There P_t rho_{t+1} multiplies a sum that nearly cancels by a large variance. Derivatives stay those of `mean`.
    """
    T = problem.num_steps
    variance, smoothed = (v.diagonal(dim1=-2, dim2=-1) for v in (known.filtered.detach(), covariance))
    shared = min(len(variance), len(smoothed))
    vague = (variance[:shared] > _VAGUE * smoothed[:shared]).any(dim=-1)
    if not holds(vague.any()):
        return mean
    end = min(int(vague.any(dim=-1).nonzero()[-1]) + 1, T - 1)
    G = problem.for_series(_last_stands(gain, T - 1)[:end], end)
    ahead, own = known.predicted_mean[1 : end + 1].detach(), known.mean[:end].detach()
    source = torch.cat([own - G @ ahead, mean[end : end + 1].detach()])
    backward = affine_recursion(G.flip(0), source.flip(0), problem.method).flip(0)[:end]
    at = problem.for_series(vague[:end, :, None, None], end)
    return torch.cat([mean[:end] + torch.where(at, backward - mean[:end].detach(), 0), mean[end:]])


def _smooth_steady(problem: _Problem) -> SmootherResult | None:
    """By the gains of the steady state, where one model of constant matrices serves all series."""
    matrices = (problem.A, problem.C, problem.Q, problem.R)
    means = (problem.mu_1, problem.y, *(() if problem.offsets is None else (problem.offsets,)))
    constant = problem.batch.numel() == 1 and all(len(value) == 1 for value in matrices)
    if not constant or is_differentiated(*means, *matrices, problem.P_1):
        return None
    A, C, Q, R = (value[0, 0] for value in matrices)
    mu_1, y, *offsets = (value[:, 0].permute(2, 0, 1) for value in means)
    found = smooth_steady(A, C, Q, R, problem.P_1[0], mu_1[:, 0], y, *offsets)
    if found is None:
        return None
    mean, *rest = (value.to(problem.dtype) for value in found)
    series = problem.series
    return SmootherResult(mean.view(*series, *mean.shape[1:]), *(value.expand(*series, -1, -1, -1) for value in rest))


def _error_transition(A: Tensor, K: Tensor, C: Tensor) -> Tensor:
    """A_{t+1} (I - K_t C_t): how an error of the prediction of z_t reaches that of z_{t+1}."""
    return A - (A @ K[:-1]) @ C[:-1]


def _smoother_covariances(problem: _Problem, known: _Moments) -> tuple[Tensor, Tensor, Tensor]:
    """Smoothed covariances and cross-covariances, and the gains between neighbours, which have no derivatives.

    Values come in square-root form, derivatives by the adjoint form.
    """
    T, U = problem.num_steps, known.factor
    K = len(U)
    with torch.no_grad():
        prior = U if K < T else U[:-1]  # where the filter is steady, its last step stands for all later ones
        _, G, noise = condition(prior, problem.A.detach(), covariance_factor(problem.Q.detach()))
        if K < T:
            end = lyapunov_factors_constant(U[-1], G[-1], noise[-1], T - K + 1, problem.method)
            start = lyapunov_factors(end[-1], G[:-1].flip(0), noise[:-1].flip(0), problem.method)
            factor = torch.cat([start.flip(0), _last_stands(end, T - K + 1)[:-1].flip(0)])
        else:
            factor = lyapunov_factors(U[-1], G.flip(0), noise.flip(0), problem.method).flip(0)
        covariance = factor @ factor.mT
        cross = covariance[1:] @ _last_stands(G, T - 1).mT
    if not problem.gradient_of_covariances():
        return covariance, cross, G
    A, C = _last_stands(problem.A, T - 1), problem.C
    evidence = known.whitening @ C
    F, Q = _error_transition(A, known.gain, _last_stands(C, T)).mT.flip(0), (evidence.mT @ evidence).flip(0)
    N = lyapunov_differentiable(F, Q, problem.method).flip(0)[1:]
    advanced = A @ known.filtered[:-1]
    adjoint = torch.cat([known.filtered[:-1] - advanced.mT @ N @ advanced, known.filtered[-1:]])
    adjoint_cross = advanced - known.predicted[1:] @ N @ advanced
    return covariance + (adjoint - adjoint.detach()), cross + (adjoint_cross - adjoint_cross.detach()), G
