"""Kalman filter and smoother, likelihood, posterior samples and forecasts of a linear-Gaussian model.

Covariances do not depend on the data. They are worked out first, once for all series that share a model and a
pattern of missing values, in square-root form. The means of all series then follow from affine recursions with
the gains as matrices, and the likelihood from the whitened innovations. Where matrices do not change, the gains of the
steady state do without these recursions. Everything is computed in float64, and the results are rounded to the dtype of
the model.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from dvae_lib.arrays import whole_number
from dvae_lib.scans import affine_recursion
from dvae_lib.statespace.choice import LEAST_STEADY_STEPS, Choice
from dvae_lib.statespace.model import (
    LinearGaussianSSM,
    broadcast,
    check_input,
    covariance_factor,
    draw,
    holds,
    in_double,
    state_offsets,
)
from dvae_lib.statespace.problem import Problem, check_data, last_stands, observed_components, read_data
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
from dvae_lib.statespace.series import Series
from dvae_lib.statespace.steady import smooth_steady
from dvae_lib.statespace.steady_filter import FilterPlan, SteadyFiltered, filter_plan

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
    method: Choice = "auto",
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
            García-Fernández (2021), O(log T) deep. Both work on triangular factors, so that covariances stay positive
            semi-definite. "auto" takes the gains of the steady state where they give all digits, and else the faster
            of the two (`dvae_lib.statespace.choice`). All give the same numbers up to rounding.

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
    problem = Problem.of(ssm, x, u, mask, method)
    found = _filter_steady(problem)
    return _filter(problem)[0] if found is None else found


def kalman_smoother(
    ssm: LinearGaussianSSM,
    x: Series,
    u: Series | None = None,
    *,
    mask: Series | None = None,
    method: Choice = "auto",
) -> SmootherResult:
    """The Kalman smoother (Rauch, Tung and Striebel, 1965): inference of each state from the whole sequence.

    Arguments and errors are those of `kalman_filter`. Where one model of constant matrices serves all series, the same
    is observed at each step and no derivative is asked for, "parallel", too, works with the gains of the steady state.

    Returns:
        Smoothed means, covariances, and the cross-covariances of neighbouring states.
    """
    problem = Problem.of(ssm, x, u, mask, method)
    found = _smooth_steady(problem)
    return _smooth(problem, _filter(problem)[1]) if found is None else found


def likelihood_and_smoother(
    ssm: LinearGaussianSSM,
    x: Series,
    u: Series | None = None,
    *,
    mask: Series | None = None,
    method: Choice = "auto",
) -> tuple[Float[Tensor, "*out"], SmootherResult]:
    """The log-likelihood and the smoother, for what needs both: they share a filter."""
    problem = Problem.of(ssm, x, u, mask, method)
    smoothed, likelihood = _smooth_steady(problem), _likelihood_steady(problem)
    if smoothed is None or likelihood is None:
        filtered, moments = _filter(problem)
        smoothed = _smooth(problem, moments) if smoothed is None else smoothed
        likelihood = filtered.log_likelihood if likelihood is None else likelihood
    return likelihood, smoothed


def log_likelihood(
    ssm: LinearGaussianSSM,
    x: Series,
    u: Series | None = None,
    *,
    mask: Series | None = None,
    method: Choice = "auto",
) -> Float[Tensor, "*out"]:
    """log p(x_{1:T} | u_{1:T}) of what is observed, in nats per series, `(*batch,)`; arguments as `kalman_filter`.

    It is the sum of the log-densities of the innovations, log p(x_t | x_{1:t-1}).
    """
    problem = Problem.of(ssm, x, u, mask, method)
    found = _likelihood_steady(problem)
    return _filter(problem)[0].log_likelihood if found is None else found


def sample_posterior(
    ssm: LinearGaussianSSM,
    x: Series,
    u: Series | None = None,
    *,
    mask: Series | None = None,
    sample_shape: tuple[int, ...] = (),
    method: Choice = "auto",
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
    dtype, ssm, (x, u, mask) = ssm.dtype, in_double(ssm), read_data(ssm, x, u, mask)
    Problem.of(ssm, x, u, mask, method)  # refuses what does not fit before anything is drawn
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
    method: Choice = "auto",
) -> Forecast:
    """Predicts the next `horizon` observations and states.

    Arguments:
        ssm: The model; per-step parameters must have T + horizon steps.
        x: The observations so far, `(*batch, T, x_dim)`.
        horizon: How many steps to predict.
        u: The input, `(*batch, T + horizon, u_dim)`, where the model has B: the future one must be known.
        mask: As in `kalman_filter`, for the T steps observed.
        method: As in `kalman_filter`, for the T steps observed; those ahead follow one after the other.

    Returns:
        Means and covariances of future observations (with their noise) and states.

    Raises:
        TypeError: As `kalman_filter`.
        ValueError: As `kalman_filter`, if `horizon` is below 1, and if a list of series of different lengths is given.
    """
    horizon = whole_number(horizon, "horizon", 1)
    if isinstance(x, list | tuple) and len({len(series) for series in x if getattr(series, "ndim", 0) == 2}) > 1:
        raise ValueError("The series end at different times, so they have no common horizon: forecast them one by one")
    dtype, ssm, (x, u, mask) = ssm.dtype, in_double(ssm), read_data(ssm, x, u, mask)
    check_data(ssm, x)
    T = x.shape[-2]
    check_input(ssm, u, T + horizon)
    if ssm.num_steps is None:
        past = kalman_filter(ssm, x, None if u is None else u[..., :T, :], mask=mask, method=method)
        state_mean, state_covariance = _ahead(ssm, past, horizon, None if u is None else u[..., T - 1 :, :])
        mean, covariance = ssm.observation_moments(state_mean, state_covariance)
    else:  # what lies ahead is missing
        observed = observed_components(x, mask)
        x = x if observed is None else torch.where(observed, x, torch.nan)
        future = x.new_full((*x.shape[:-2], horizon, x.shape[-1]), torch.nan)
        result = kalman_filter(ssm, torch.cat([x, future], dim=-2), u, method=method)
        mean, covariance = ssm.observation_moments(result.predicted_mean, result.predicted_covariance)
        moments = (mean, covariance, result.predicted_mean, result.predicted_covariance)
        mean, covariance, state_mean, state_covariance = (
            value.narrow(-2 - (i % 2), T, horizon) for i, value in enumerate(moments)
        )
    covariance, state_covariance = (
        v.expand(*state_mean.shape[:-1], *v.shape[-2:]) for v in (covariance, state_covariance)
    )
    return Forecast(*(value.to(dtype) for value in (mean, covariance, state_mean, state_covariance)))


def _ahead(ssm: LinearGaussianSSM, past: FilterResult, horizon: int, u: Tensor | None) -> tuple[Tensor, Tensor]:
    """Moments of the next states of a constant model; `u` starts with the input of the last step that was seen."""
    mean, P = past.mean[..., -1, :], past.covariance[..., -1, :, :]
    for i, stride in enumerate(P.stride()[:-2]):  # series that share it go on to do so
        P = P.narrow(i, 0, 1) if stride == 0 and P.shape[i] > 0 else P
    own = broadcast(P.shape[:-2], ssm.A.shape[:-2], ssm.Lambda.shape[:-2])
    P, A, Q = (value.expand(*own, -1, -1).reshape(1, -1, *P.shape[-2:]) for value in (P, ssm.A, ssm.Lambda))
    A, Q = (value.expand(horizon, -1, -1, -1) for value in (A, Q))
    covariance = lyapunov_differentiable(A, torch.cat([P, Q]), "sequential")[1:]
    covariance = covariance.transpose(0, 1).reshape(*own, horizon, *P.shape[-2:])
    offsets = state_offsets(ssm, u, horizon + 1)[..., 1:, :]
    steps = torch.cat([mean.unsqueeze(-2), offsets.expand(*mean.shape[:-1], -1, -1)], dim=-2)
    moved = affine_recursion(ssm.A.expand(horizon, *ssm.A.shape), steps.movedim(-2, 0).unsqueeze(-1))
    return moved[1:].squeeze(-1).movedim(0, -2), covariance


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


def _filter(problem: Problem) -> tuple[FilterResult, _Moments]:
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


def _filter_covariances(problem: Problem) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Factors of the filtered covariances; predicted and filtered covariances; gains; whitenings."""
    T = problem.num_steps
    differentiated = problem.gradient_of_covariances()
    with torch.no_grad():
        A, C = problem.A.detach(), problem.C.detach()
        Q, R, U_1 = (covariance_factor(value.detach()) for value in (problem.Q, problem.R, problem.P_1))
        first = condition(U_1, C[0], R[0])[2]
        later = slice(1, None)
        arguments = first, A, C if len(C) == 1 else C[later], Q, R if len(R) == 1 else R[later], T
        try:
            factor = riccati_factors(*arguments, problem.method)
        except ValueError:  # the scan needs a noise in every direction of the observations
            if problem.asked != "auto":
                raise
            factor = riccati_factors(*arguments, "sequential")
        factor = last_stands(factor, T) if differentiated else factor
        U = torch.cat([U_1.unsqueeze(0), triangular_factor(beside(A @ factor[:-1], Q))])
        whitening, gain, _ = condition(U, C, R, singular=SINGULAR_INNOVATION)
        predicted, filtered = U @ U.mT, factor @ factor.mT
    if differentiated:
        N = problem.batch.numel()
        A, Q = (last_stands(value, T - 1).expand(-1, N, -1, -1) for value in (problem.A, problem.Q))
        C, R = (last_stands(value, T).expand(-1, N, -1, -1) for value in (problem.C, problem.R))
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


def _smooth(problem: Problem, known: _Moments) -> SmootherResult:
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
    problem: Problem, known: _Moments, mean: Tensor, covariance: Tensor, gain: Tensor
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
    G = problem.for_series(last_stands(gain, T - 1)[:end], end)
    ahead, own = known.predicted_mean[1 : end + 1].detach(), known.mean[:end].detach()
    source = torch.cat([own - G @ ahead, mean[end : end + 1].detach()])
    backward = affine_recursion(G.flip(0), source.flip(0), problem.method).flip(0)[:end]
    at = problem.for_series(vague[:end, :, None, None], end)
    return torch.cat([mean[:end] + torch.where(at, backward - mean[:end].detach(), 0), mean[end:]])


def _error_transition(A: Tensor, K: Tensor, C: Tensor) -> Tensor:
    """A_{t+1} (I - K_t C_t): how an error of the prediction of z_t reaches that of z_{t+1}."""
    return A - (A @ K[:-1]) @ C[:-1]


def _smoother_covariances(problem: Problem, known: _Moments) -> tuple[Tensor, Tensor, Tensor]:
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
            factor = torch.cat([start.flip(0), last_stands(end, T - K + 1)[:-1].flip(0)])
        else:
            factor = lyapunov_factors(U[-1], G.flip(0), noise.flip(0), problem.method).flip(0)
        covariance = factor @ factor.mT
        cross = covariance[1:] @ last_stands(G, T - 1).mT
    if not problem.gradient_of_covariances():
        return covariance, cross, G
    A, C = last_stands(problem.A, T - 1), problem.C
    evidence = known.whitening @ C
    F, Q = _error_transition(A, known.gain, last_stands(C, T)).mT.flip(0), (evidence.mT @ evidence).flip(0)
    N = lyapunov_differentiable(F, Q, problem.method).flip(0)[1:]
    advanced = A @ known.filtered[:-1]
    adjoint = torch.cat([known.filtered[:-1] - advanced.mT @ N @ advanced, known.filtered[-1:]])
    adjoint_cross = advanced - known.predicted[1:] @ N @ advanced
    return covariance + (adjoint - adjoint.detach()), cross + (adjoint_cross - adjoint_cross.detach()), G


# ---- by the gains of the steady state ----------------------------------------------------------------------------

# A first state that is nearly known, or of which next to nothing is known, has after so many steps a covariance that
# is within the reach of the steady one.
_HEAD = LEAST_STEADY_STEPS // 2


def _smooth_steady(problem: Problem) -> SmootherResult | None:
    """None where another way is asked for, or the general recursions have to do it."""
    if problem.asked == "sequential" or not problem.may_be_steady():
        return None
    found = smooth_steady(*problem.model(), problem.P_1[0], *problem.by_series())
    if found is None:
        return None
    mean, *rest = (value.to(problem.dtype) for value in found)
    series = problem.series
    return SmootherResult(mean.view(*series, *mean.shape[1:]), *(value.expand(*series, -1, -1, -1) for value in rest))


class _SteadyStart(NamedTuple):
    """From where on a filter may have steady gains."""

    plan: FilterPlan
    head: SteadyFiltered | None  # of the steps before
    arguments: tuple[Tensor, Tensor, Tensor, Tensor | None]  # P_1, mu_1, y and offsets of the others

    def log_likelihood(self, problem: Problem, log_density: Tensor) -> Tensor:
        """Of all steps, given that of the others but for its constant."""
        num_observed = problem.num_observed * (self.arguments[2].shape[1] / problem.num_steps)
        value = log_density.view(problem.series) - 0.5 * math.log(2 * math.pi) * num_observed
        value = value if self.head is None else value + self.head.log_density.view(problem.series)
        return value.to(problem.dtype)


def _steady_start(problem: Problem) -> _SteadyStart | None:
    """None where another way is asked for, or the general recursions have to do it."""
    if problem.asked != "auto" or not problem.may_be_steady():
        return None
    plan = filter_plan(*problem.model(), problem.num_steps)
    if plan is None:
        return None
    P_1, (mu_1, y, offsets) = problem.P_1[0], problem.by_series()
    if plan.serves(P_1):
        return _SteadyStart(plan, None, (P_1, mu_1, y, offsets))
    result, moments = _filter(problem.head(_HEAD))
    filtered, predicted = (last_stands(value, _HEAD)[:, 0] for value in (moments.filtered, moments.predicted))
    mean, predicted_mean = (value[:, 0].permute(2, 0, 1) for value in (moments.mean, moments.predicted_mean))
    A, _, Q, _ = problem.model()
    P_1, mu_1 = A @ filtered[-1] @ A.mT + Q, mean[:, -1] @ A.mT
    if not plan.serves(P_1):
        return None
    if offsets is not None:
        mu_1, offsets = mu_1 + offsets[:, _HEAD - 1], offsets[:, _HEAD:]
    head = SteadyFiltered(mean, filtered, predicted_mean, predicted, result.log_likelihood.flatten())
    return _SteadyStart(plan, head, (P_1, mu_1, y[:, _HEAD:], offsets))


def _filter_steady(problem: Problem) -> FilterResult | None:
    start = _steady_start(problem)
    if start is None:
        return None
    *moments, log_density = start.plan.filter(*start.arguments)
    if start.head is not None:  # means have their time in the second dimension, covariances in the first
        moments = [torch.cat(pair, dim=(i + 1) % 2) for i, pair in enumerate(zip(start.head[:4], moments, strict=True))]
    mean, covariance, predicted_mean, predicted_covariance = (value.to(problem.dtype) for value in moments)
    series = problem.series
    return FilterResult(
        mean.view(*series, *mean.shape[1:]),
        covariance.expand(*series, -1, -1, -1),
        predicted_mean.view(*series, *mean.shape[1:]),
        predicted_covariance.expand(*series, -1, -1, -1),
        start.log_likelihood(problem, log_density),
    )


def _likelihood_steady(problem: Problem) -> Tensor | None:
    start = _steady_start(problem)
    return None if start is None else start.log_likelihood(problem, start.plan.log_density(*start.arguments))
