r"""Structural time series: a series as the sum of a level, a trend, a season, regressions and noise (Harvey, 1989).

    model = level() + season(12)
    fit = fit_components(model, x)
    fit.variances, fit.standard_errors, fit.forecast(x, 24).interval(0.9)

Nothing is assumed of the first state: its prior is flat, and integrated out exactly.
"""

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from dvae_lib.statespace.kalman import Forecast, forecast, kalman_filter
from dvae_lib.statespace.model import LinearGaussianSSM, in_double
from dvae_lib.statespace.series import Series, as_series

__all__ = [
    "Component",
    "ComponentsFit",
    "diffuse_forecast",
    "diffuse_log_likelihood",
    "fit_components",
    "level",
    "regression",
    "season",
    "trend",
]


@dataclass(frozen=True)
class Component:
    r"""States whose weighted sum is a part of a series; parts are added by +.

    .. math:: z_t = A z_{t-1} + G \, \eta_t, \quad \eta_t \sim \mathcal{N}(0, \mathrm{diag}(v)), \qquad
        x_t = C_t z_t + \varepsilon_t, \quad \varepsilon_t \sim \mathcal{N}(0, \sigma^2)

    Attributes:
        A: Transition, `(L, L)`.
        C: Weights of the states, `(L,)`, or `(T, L)` where they change over time.
        G: Which states each disturbance moves, `(L, R)`.
        variances: v, `(R,)`.
        names: Of the disturbances.
    """

    A: Tensor
    C: Tensor
    G: Tensor
    variances: Tensor
    names: tuple[str, ...]

    def __add__(self, other: "Component") -> "Component":
        """Both parts together.

        Raises:
            ValueError: Regressions over different numbers of frames, or two parts of one name.
        """
        twice = set(self.names) & set(other.names)
        if twice:
            raise ValueError(f"two parts have a variance called {sorted(twice)[0]!r}")
        frames = {len(c) for c in (self.C, other.C) if c.ndim == 2}
        if len(frames) > 1:
            raise ValueError(f"regressions must be over the same frames; got {sorted(frames)} of them")
        C = [c.expand(*frames, -1) if frames else c for c in (self.C, other.C)]
        return Component(
            torch.block_diag(self.A, other.A),
            torch.cat(C, -1),
            torch.block_diag(self.G, other.G),
            torch.cat([self.variances, other.variances]),
            (*self.names, *other.names),
        )

    def ssm(self, noise: float | Tensor) -> LinearGaussianSSM:
        r"""The model, of noise of variance :math:`\sigma^2`; its first state is zero, for `diffuse_log_likelihood`."""
        size = len(self.A)
        C = self.C[..., None, :]
        Lambda = (self.G * self.variances) @ self.G.mT
        Sigma = torch.as_tensor(noise, dtype=self.A.dtype).reshape(1, 1)
        mu_1, Lambda_1 = self.A.new_zeros(size), self.A.new_zeros(size, size)
        return LinearGaussianSSM(self.A, C, Lambda, Sigma, mu_1=mu_1, Lambda_1=Lambda_1, validate_args=False)


def level(variance: float = 1.0) -> Component:
    """A random walk; of variance 0 a constant.

    Example:
        >>> nile = level(1469.1).ssm(noise=15099.0)  # Durbin and Koopman (2012), Section 2.2.5
        >>> nile.z_dim
        1
    """
    return _part([[1.0]], [1.0], [[1.0]], {"level": variance})


def trend(level: float = 1.0, slope: float = 1.0) -> Component:
    """A random walk whose mean step is a random walk itself: the local linear trend.

    Arguments:
        level: Variance of the disturbance of the level.
        slope: That of the slope; both 0 are a straight line.
    """
    identity = [[1.0, 0.0], [0.0, 1.0]]
    return _part([[1.0, 1.0], [0.0, 1.0]], [1.0, 0.0], identity, {"level": level, "slope": slope})


def season(period: int, variance: float = 1.0) -> Component:
    """A pattern of `period` steps whose sum over a period is zero but for a disturbance.

    Raises:
        ValueError: A period of less than two steps.
    """
    if isinstance(period, bool) or not isinstance(period, int) or period < 2:
        raise ValueError(f"period must be a whole number of at least 2; got {period!r}")
    size = period - 1
    A = [[-1.0] * size, *([1.0 if j == i else 0.0 for j in range(size)] for i in range(size - 1))]
    first = [1.0] + [0.0] * (size - 1)
    return _part(A, first, [[value] for value in first], {"season": variance})


def regression(u: Series) -> Component:
    """Constant coefficients on inputs `(T, k)`; for forecasts T reaches to the last future frame.

    Raises:
        ValueError: Inputs of another shape, or not finite.
    """
    drive = as_series(u, "u", torch.float64, torch.device("cpu"))
    if drive.ndim != 2 or not bool(torch.isfinite(drive).all()):
        raise ValueError(f"u must be finite and of shape (T, k); got {tuple(drive.shape)}")
    size = drive.shape[1]
    return Component(torch.eye(size).double(), drive, torch.zeros(size, 0).double(), torch.zeros(0).double(), ())


def _part(A: list[list[float]], C: list[float], G: list[list[float]], variances: dict[str, float]) -> Component:
    for name, value in variances.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"the variance of the {name} must be finite and not negative; got {value}")
    a, c, g, v = (torch.tensor(value, dtype=torch.float64) for value in (A, C, G, list(variances.values())))
    return Component(a, c, g, v, tuple(variances))


# ---- a flat prior of the first state -----------------------------------------------------------------------------


class _Start(NamedTuple):
    """What the data say of a first state of which nothing was known, and the likelihood without it."""

    mean: Tensor  # (L,)
    covariance: Tensor  # (L, L)
    log_likelihood: Tensor  # ()


def diffuse_log_likelihood(ssm: LinearGaussianSSM, x: Series) -> Float[Tensor, ""]:
    r"""The log-likelihood of a series under a flat prior of the first state, in nats: the exact diffuse likelihood.

    .. math:: \log L_d = \lim_{\kappa \to \infty}
        \Big[\log p(x_{1:T}; \Lambda_1 = \kappa I) + \tfrac{L}{2} \log \kappa\Big]

    Innovations are affine in the first state :math:`\delta`, :math:`v_t(\delta) = v_t - V_t \delta`, with covariances
    :math:`F_t` that do not depend on it. So the integral over :math:`\delta` is Gaussian: with its weighted
    least-squares estimate :math:`\hat\delta` and information :math:`S = \sum_t V_t^\top F_t^{-1} V_t`,

    .. math:: \log L_d = -\tfrac{1}{2} \sum_t \Big[\log |2\pi F_t| + v_t(\hat\delta)^\top F_t^{-1} v_t(\hat\delta)\Big]
        - \tfrac{1}{2} \log |S| .

    No large number stands for infinity, and none cancels. Differentiable in the model's parameters.

    Arguments:
        ssm: The model, without batch dimensions or inputs; its `mu_1` and `Lambda_1` play no part.
        x: One series `(T, x_dim)`; NaN where missing.

    Raises:
        ValueError: Another shape, or a series that does not determine the first state.

    Source: de Jong (1991), "The diffuse Kalman filter"; Durbin and Koopman (2012), Chapter 5, for the definition.
    """
    return _start(ssm, _single(ssm, x)).log_likelihood


def diffuse_forecast(ssm: LinearGaussianSSM, x: Series, horizon: int) -> Forecast:
    """Moments of the next observations and states under a flat prior of the first state; see `forecast`.

    Arguments:
        ssm: As in `diffuse_log_likelihood`; per-step parameters must have T + horizon steps.
        x: One series `(T, x_dim)`; NaN where missing.
        horizon: How many steps to predict.

    Raises:
        ValueError: As `diffuse_log_likelihood` and `forecast`.
    """
    data = _single(ssm, x)
    start = _start(ssm, data)
    model, both = _augmented(in_double(ssm), data)
    ahead = forecast(model, both, horizon)
    moments = []
    for mean, covariance in ((ahead.mean, ahead.covariance), (ahead.state_mean, ahead.state_covariance)):
        slopes = mean[1:].movedim(0, -1)  # (H, n, L): of a unit of each first state
        spread = slopes @ start.covariance @ slopes.mT
        moments += [mean[0] + slopes @ start.mean, covariance[0] + spread]
    return Forecast(*moments)


def _single(ssm: LinearGaussianSSM, x: Series) -> Tensor:
    data = as_series(x, "x", ssm.dtype, ssm.device)
    if data.ndim != 2 or data.shape[1] != ssm.x_dim:
        raise ValueError(f"x must be one series of shape (T, {ssm.x_dim}); got {tuple(data.shape)}")
    if ssm.batch_shape or ssm.u_dim or ssm.m is not None or ssm.n is not None:
        raise ValueError(
            "a flat prior needs a single model without inputs and offsets: regression(u) takes inputs in as states"
        )
    return data


def _augmented(ssm: LinearGaussianSSM, x: Tensor) -> tuple[LinearGaussianSSM, Tensor]:
    """The model at a first state of zero and at each unit state, and the data of each: x, and zeros."""
    units = torch.cat([ssm.mu_1.new_zeros(1, ssm.z_dim), torch.eye(ssm.z_dim).to(ssm.mu_1)])
    nothing = torch.where(x.isnan(), torch.nan, 0.0).expand(ssm.z_dim, *x.shape)
    names = [name for name, _ in ssm.parameters() if ssm.per_step(name)]
    changes = {name: getattr(ssm, name)[None] for name in names}  # a time axis, and no batch
    known = {"mu_1": units, "Lambda_1": torch.zeros_like(ssm.Lambda_1)}
    return ssm.replace(validate_args=False, **changes, **known), torch.cat([x[None], nothing])


def _start(ssm: LinearGaussianSSM, x: Tensor) -> _Start:
    ssm = in_double(ssm)
    longer = {n: getattr(ssm, n)[: len(x)] for n, _ in ssm.parameters() if ssm.per_step(n)}
    model, both = _augmented(ssm.replace(validate_args=False, **longer), x)
    found = kalman_filter(model, both)
    mean, covariance = model.observation_moments(found.predicted_mean, found.predicted_covariance)
    seen = ~x.isnan()
    pairs = seen[..., :, None] & seen[..., None, :]
    factor = torch.linalg.cholesky(torch.where(pairs, covariance[0], torch.eye(x.shape[1]).to(x)))
    innovations = torch.where(seen, both - mean, 0.0).movedim(0, -1)  # (T, x_dim, 1 + L)
    white = torch.linalg.solve_triangular(factor, innovations, upper=False).flatten(0, 1)
    error, slopes = white[:, 0], -white[:, 1:]
    information = slopes.mT @ slopes
    root, failed = torch.linalg.cholesky_ex(information)
    if bool(failed) or bool(root.diagonal().min() < 1e-12 * root.diagonal().max()):
        raise ValueError(
            f"the series does not determine all {ssm.z_dim} entries of the first state: it needs more frames, or parts "
            "that can be told apart"
        )
    estimate = torch.cholesky_solve((slopes.mT @ error)[:, None], root)[:, 0]
    left = error - slopes @ estimate
    logs = factor.diagonal(dim1=-2, dim2=-1).log().sum() + root.diagonal().log().sum()
    value = -0.5 * (left.square().sum() + int(seen.sum()) * math.log(2 * math.pi)) - logs
    return _Start(estimate, torch.cholesky_inverse(root), value)


# ---- maximum likelihood ------------------------------------------------------------------------------------------


class ComponentsFit(NamedTuple):
    """What `fit_components` returns.

    Attributes:
        ssm: The fitted model.
        variances: Of all disturbances and of the "noise", by name.
        standard_errors: Of these, from the curvature of the log-likelihood; 0 of one that was fixed, NaN of one that is
            zero, at the end of what is possible, where the curvature says nothing.
        log_likelihood: The exact diffuse one, in nats.
        converged: Whether the gradient has vanished.
    """

    ssm: LinearGaussianSSM
    variances: dict[str, float]
    standard_errors: dict[str, float]
    log_likelihood: float
    converged: bool


def fit_components(
    component: Component,
    x: Series,
    *,
    noise: float = 1.0,
    fixed: Collection[str] = (),
    num_iterations: int = 200,
) -> ComponentsFit:
    r"""The variances of a structural model by maximum exact diffuse likelihood, with standard errors.

    Logarithms of variances are optimised by the L-BFGS method. The covariance of the estimates is the inverse of the
    Hessian of the negative log-likelihood, from differences of its exact gradient.

    Arguments:
        component: The parts of the series.
        x: One series `(T, 1)`; NaN where missing.
        noise: Variance of the observation noise, where it is fixed.
        fixed: Names of variances that keep the values they have in `component`, or "noise".
        num_iterations: The most iterations to make.

    Raises:
        ValueError: An unknown name, a series without variation, and as `diffuse_log_likelihood`.
    """
    data = as_series(x, "x", torch.float64, component.A.device)
    names = (*component.names, "noise")
    kept = {fixed} if isinstance(fixed, str) else set(fixed)
    if not kept <= set(names):
        raise ValueError(f"fixed names {', '.join(sorted(kept - set(names)))}; the variances are {', '.join(names)}")
    free = torch.tensor([name not in kept for name in names])
    given = torch.cat([component.variances, torch.tensor([noise], dtype=torch.float64)])
    scale = data[~data.isnan()].var(correction=0)
    if not 0 < float(scale) < math.inf:
        raise ValueError("the series does not vary, so that there are no variances to find")

    def model(logs: Tensor) -> LinearGaussianSSM:
        values = given.masked_scatter(free, scale * logs.clamp(min=_SMALLEST).exp())
        part = Component(component.A, component.C, component.G, values[:-1], component.names)
        return part.ssm(values[-1])

    def gradient(logs: Tensor) -> tuple[Tensor, Tensor]:
        point = logs.detach().clone().requires_grad_()
        loss = -diffuse_log_likelihood(model(point), data)
        (slope,) = torch.autograd.grad(loss, point)
        return loss.detach(), slope

    logs = torch.full((int(free.sum()),), -2.0, dtype=torch.float64)
    if len(logs):
        logs = _minimised(logs, gradient, num_iterations)
    for i in range(len(logs)):  # a variance that might as well be zero is zero
        lower = logs.clone()
        lower[i] = _SMALLEST
        if float(gradient(lower)[0]) < float(gradient(logs)[0]) + 1e-6:
            logs = lower
    with torch.no_grad():
        best = model(logs)
        value = float(diffuse_log_likelihood(best, data))
    inside = logs > _SMALLEST
    errors = torch.zeros(len(names), dtype=torch.float64)
    spread = torch.full_like(logs, torch.nan)
    spread[inside] = _curvature(logs, gradient, inside).inverse().diagonal().sqrt()
    values = given.masked_scatter(free, torch.where(inside, scale * logs.exp(), 0.0))
    errors[free] = values[free] * spread
    slope = gradient(logs)[1][inside] if len(logs) else logs
    variances, deviations = (dict(zip(names, each.tolist(), strict=True)) for each in (values, errors))
    return ComponentsFit(best, variances, deviations, value, not bool((slope.abs() > 1e-3).any()))


# The logarithm of a variance, against that of the series, below which it counts as zero.
_SMALLEST = -30.0


def _minimised(start: Tensor, gradient: Callable[[Tensor], tuple[Tensor, Tensor]], num_iterations: int) -> Tensor:
    point = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [point], max_iter=num_iterations, tolerance_grad=1e-8, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        loss, slope = gradient(point)
        point.grad = slope
        return loss

    optimizer.step(closure)
    return point.detach()


def _curvature(logs: Tensor, gradient: Callable[[Tensor], tuple[Tensor, Tensor]], inside: Tensor) -> Tensor:
    """The Hessian over some entries, by central differences of the gradient."""
    step, rows = 1e-4, []
    for i in inside.nonzero()[:, 0].tolist():
        shift = torch.zeros_like(logs)
        shift[i] = step
        rows.append((gradient(logs + shift)[1] - gradient(logs - shift)[1])[inside] / (2 * step))
    hessian = torch.stack(rows) if rows else logs.new_zeros(0, 0)
    return 0.5 * (hessian + hessian.mT)
