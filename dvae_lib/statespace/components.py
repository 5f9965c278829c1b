r"""Structural time series: a series as the sum of a level, a trend, a season, regressions and noise (Harvey, 1989).

    model = level() + season(12)
    fit = fit_components(model, x)
    fit.variances, fit.standard_errors
    fit.decompose(x)["season"].mean                 # the parts, given the whole series
    fit.innovations(x).tests()                      # is anything left to explain?
    fit.forecast(x, 24).interval(0.9)

Nothing is assumed of the first state: its prior is flat, and integrated out exactly.
"""

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from dvae_lib.arrays import whole_number
from dvae_lib.statespace.diagnostics import Innovations
from dvae_lib.statespace.diffuse import (
    diffuse_forecast,
    diffuse_innovations,
    diffuse_log_likelihood,
    diffuse_smoother,
)
from dvae_lib.statespace.kalman import Forecast
from dvae_lib.statespace.model import LinearGaussianSSM
from dvae_lib.statespace.series import Series, as_series

__all__ = [
    "Component",
    "ComponentsFit",
    "SmoothedPart",
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
        parts: The name of each part and the number of its states, in their order.
        waves: The frequencies of the seasons, in cycles a step.
        shared: The number of the variance that each disturbance has, where some have one together; by default each has
            its own.
    """

    A: Tensor
    C: Tensor
    G: Tensor
    variances: Tensor
    names: tuple[str, ...]
    parts: tuple[tuple[str, int], ...] = ()
    waves: frozenset[Fraction] = frozenset()
    shared: tuple[int, ...] = ()

    def __add__(self, other: "Component") -> "Component":
        """Both parts together. The variance of a second season is called "season 2".

        Raises:
            ValueError: Regressions over different numbers of frames, two parts of one name, or seasons that have a wave
                in common, which no series can tell apart.
        """
        if common := self.waves & other.waves:
            raise ValueError(
                f"two seasons have a wave of {float(1 / min(common)):g} steps in common, and no series tells which of "
                "them it belongs to: of the longer one take fewer harmonics=..., those that the other has not"
            )
        other = _numbered(other, sum(name.startswith("season") for name in self.names))
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
            (*self.parts, *other.parts),
            self.waves | other.waves,
            (*self._shared, *(len(self.variances) + number for number in other._shared)),
        )

    @property
    def _shared(self) -> tuple[int, ...]:
        return self.shared or tuple(range(len(self.variances)))

    def ssm(self, noise: float | Tensor) -> LinearGaussianSSM:
        r"""The model, of noise of variance :math:`\sigma^2`; its first state is zero, for `diffuse_log_likelihood`."""
        size = len(self.A)
        C = self.C[..., None, :]
        Lambda = (self.G * self.variances[list(self._shared)]) @ self.G.mT
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
    return _part("level", [[1.0]], [1.0], [[1.0]], {"level": variance})


def trend(level: float = 1.0, slope: float = 1.0) -> Component:
    """A random walk whose mean step is a random walk itself: the local linear trend.

    Arguments:
        level: Variance of the disturbance of the level.
        slope: That of the slope; both 0 are a straight line.
    """
    identity = [[1.0, 0.0], [0.0, 1.0]]
    return _part("trend", [[1.0, 1.0], [0.0, 1.0]], [1.0, 0.0], identity, {"level": level, "slope": slope})


def season(period: int | float, variance: float = 1.0, *, harmonics: int | None = None) -> Component:
    r"""A pattern that comes again after `period` steps, and changes slowly.

    By default its sum over a period is zero but for a disturbance. With `harmonics` it is a sum of waves,
    :math:`\sum_j \gamma_j`, each of which turns by its angle and is disturbed,

    .. math:: \begin{pmatrix} \gamma_{j,t} \\ \gamma^*_{j,t} \end{pmatrix} =
        \begin{pmatrix} \cos\lambda_j & \sin\lambda_j \\ -\sin\lambda_j & \cos\lambda_j \end{pmatrix}
        \begin{pmatrix} \gamma_{j,t-1} \\ \gamma^*_{j,t-1} \end{pmatrix} + \mathcal{N}(0, \sigma^2 I),
        \qquad \lambda_j = \frac{2 \pi j}{\mathrm{period}},

    (Harvey, 1989, Section 2.3.4), which costs two states a wave, however long the period is. Hours with a day and a
    week are ``season(24, harmonics=3) + season(168, harmonics=6)``.

    Arguments:
        period: In steps; with harmonics it need not be a whole number: a year has 365.25 days.
        variance: Of the disturbance, or of that of each wave.
        harmonics: The number of waves, of period, period / 2, period / 3, ... steps.

    Raises:
        ValueError: A period of less than two steps, or more harmonics than half of it.

    Example:
        >>> (level() + season(7) + season(365.25, harmonics=2)).names
        ('level', 'season', 'season 2')
    """
    if isinstance(period, bool) or not 2 <= period < math.inf or (harmonics is None and period != int(period)):
        raise ValueError(f"period must be a whole number of at least 2, or, with harmonics, a number; got {period!r}")
    most = math.floor(period / 2)
    if harmonics is not None and (type(harmonics) is not int or not 1 <= harmonics <= most):
        raise ValueError(f"harmonics must be whole, and between 1 and half the period, {most}; got {harmonics!r}")
    waves = frozenset(Fraction(j) / Fraction(period) for j in range(1, (harmonics or most) + 1))
    if harmonics is not None:
        return replace(_turning(sorted(waves), variance), waves=waves)
    size = int(period) - 1
    A = [[-1.0] * size, *([1.0 if j == i else 0.0 for j in range(size)] for i in range(size - 1))]
    first = [1.0] + [0.0] * (size - 1)
    part = _part("season", A, first, [[value] for value in first], {"season": variance})
    return replace(part, waves=waves)


def _turning(waves: list[Fraction], variance: float) -> Component:
    """Waves of one variance; the one of two steps has no sine."""
    blocks, first = [], []
    for wave in waves:
        cosine, sine = math.cos(2 * math.pi * wave), math.sin(2 * math.pi * wave)
        turn = [[-1.0]] if wave == Fraction(1, 2) else [[cosine, sine], [-sine, cosine]]
        blocks.append(torch.tensor(turn, dtype=torch.float64))
        first += [1.0, 0.0][: len(turn)]
    part = _part("season", [], [], [], {"season": variance})
    size = len(first)
    A, C, G = torch.block_diag(*blocks), torch.tensor(first, dtype=torch.float64), torch.eye(size).double()
    return replace(part, A=A, C=C, G=G, parts=(("season", size),), shared=(0,) * size)


def _numbered(component: Component, before: int) -> Component:
    """The same, with the names of its seasons counted on from those before."""
    names, count = [], before
    for name in component.names:
        count += name.startswith("season")
        names.append(f"season {count}" if name.startswith("season") and count > 1 else name)
    return replace(component, names=tuple(names))


def regression(u: Series) -> Component:
    """Constant coefficients on inputs `(T, k)`; for forecasts T reaches to the last future frame.

    Raises:
        ValueError: Inputs of another shape, or not finite.
    """
    drive = as_series(u, "u", torch.float64, torch.device("cpu"))
    if drive.ndim != 2 or not bool(torch.isfinite(drive).all()):
        raise ValueError(f"u must be finite and of shape (T, k); got {tuple(drive.shape)}")
    size = drive.shape[1]
    nothing = torch.zeros(size, 0).double()
    return Component(torch.eye(size).double(), drive, nothing, nothing[0], (), (("regression", size),))


def _part(
    name: str, A: list[list[float]], C: list[float], G: list[list[float]], variances: dict[str, float]
) -> Component:
    for moved, value in variances.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"the variance of the {moved} must be finite and not negative; got {value}")
    a, c, g, v = (torch.tensor(value, dtype=torch.float64) for value in (A, C, G, list(variances.values())))
    return Component(a, c, g, v, tuple(variances), ((name, len(A)),))


# ---- maximum likelihood ------------------------------------------------------------------------------------------


class SmoothedPart(NamedTuple):
    """What is known of one part of a series: its mean and its standard deviation in each frame, `(T,)`."""

    mean: Float[Tensor, "time"]
    deviation: Float[Tensor, "time"]


class ComponentsFit(NamedTuple):
    """What `fit_components` returns.

    Attributes:
        ssm: The fitted model.
        variances: Of all disturbances and of the "noise", by name.
        standard_errors: Of these, from the curvature of the log-likelihood; 0 of one that was fixed, NaN of one that is
            zero, at the end of what is possible, where the curvature says nothing.
        log_likelihood: The exact diffuse one, in nats, of all series together.
        converged: Whether the gradient has vanished.
        parts: The name of each part and the number of its states.
    """

    ssm: LinearGaussianSSM
    variances: dict[str, float]
    standard_errors: dict[str, float]
    log_likelihood: float
    converged: bool
    parts: tuple[tuple[str, int], ...] = ()

    def decompose(self, x: Series) -> dict[str, SmoothedPart]:
        """The parts of a series given all of it, by name; of two regressions the second is "regression 2".

        Arguments:
            x: One series `(T, 1)`; NaN where missing, where the parts go on.

        Raises:
            ValueError: As `diffuse_smoother`.
        """
        found = diffuse_smoother(self.ssm, x)
        C = self.ssm.stepwise("C")[: len(found.mean), 0]
        parts: dict[str, SmoothedPart] = {}
        first = 0
        for name, size in self.parts:
            number = 1 + sum(known.partition(" ")[0] == name for known in parts)
            own = slice(first, first + size)
            mean = (C[:, own] * found.mean[:, own]).sum(-1)
            variance = (C[:, None, own] @ found.covariance[:, own, own] @ C[:, own, None])[:, 0, 0]
            parts[name if number == 1 else f"{name} {number}"] = SmoothedPart(mean, variance.clamp(min=0).sqrt())
            first += size
        return parts

    def innovations(self, x: Series) -> Innovations:
        """One-step innovations of a series; `innovations(x).tests()` looks for what the model has missed.

        Arguments and errors are those of `diffuse_innovations`.
        """
        return diffuse_innovations(self.ssm, x)

    def forecast(self, x: Series, horizon: int) -> Forecast:
        """Moments of what comes next, with `interval`; arguments and errors are those of `diffuse_forecast`."""
        return diffuse_forecast(self.ssm, x, horizon)


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
    Hessian of the negative log-likelihood, from differences of its exact gradient. Of several series the
    log-likelihoods are added up: they share the variances, and each has a first state of its own.

    Arguments:
        component: The parts of the series. The inputs of a regression are those of all series, frame by frame.
        x: One series `(T, 1)`, a list of series of different lengths, or several of one length, `(N, T, 1)`; NaN where
            missing.
        noise: Variance of the observation noise, where it is fixed.
        fixed: Names of variances that keep the values they have in `component`, or "noise".
        num_iterations: The most iterations to make.

    Raises:
        ValueError: An unknown name, series without variation, and as `diffuse_log_likelihood`.
    """
    num_iterations, series = whole_number(num_iterations, "num_iterations", 1), _several(x)
    names = (*component.names, "noise")
    kept = {fixed} if isinstance(fixed, str) else set(fixed)
    if not kept <= set(names):
        raise ValueError(f"fixed names {', '.join(sorted(kept - set(names)))}; the variances are {', '.join(names)}")
    free = torch.tensor([name not in kept for name in names])
    given = torch.cat([component.variances, torch.tensor([noise], dtype=torch.float64)])
    scale = torch.cat([(values - values.nanmean()).square().flatten() for values in series]).nanmean()
    if not 0 < float(scale) < math.inf:
        raise ValueError("the series does not vary, so that there are no variances to find")

    def model(logs: Tensor) -> LinearGaussianSSM:
        values = given.masked_scatter(free, scale * logs.clamp(min=_SMALLEST).exp())
        return replace(component, variances=values[:-1]).ssm(values[-1])

    def log_likelihood(ssm: LinearGaussianSSM) -> Tensor:
        return torch.stack([diffuse_log_likelihood(ssm, values) for values in series]).sum()

    def gradient(logs: Tensor) -> tuple[Tensor, Tensor]:
        point = logs.detach().clone().requires_grad_()
        loss = -log_likelihood(model(point))
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
        value = float(log_likelihood(best))
    inside = logs > _SMALLEST
    errors = torch.zeros(len(names), dtype=torch.float64)
    spread = torch.full_like(logs, torch.nan)
    spread[inside] = _curvature(logs, gradient, inside).inverse().diagonal().sqrt()
    values = given.masked_scatter(free, torch.where(inside, scale * logs.exp(), 0.0))
    errors[free] = values[free] * spread
    slope = gradient(logs)[1][inside] if len(logs) else logs
    variances, deviations = (dict(zip(names, each.tolist(), strict=True)) for each in (values, errors))
    converged = not bool((slope.abs() > 1e-3).any())
    return ComponentsFit(best, variances, deviations, value, converged, component.parts)


def _several(x: Series) -> list[Tensor]:
    """The series, each by itself."""
    data = as_series(x, "x", torch.float64, torch.device("cpu"))
    if data.ndim not in (2, 3) or data.shape[-1] != 1:
        raise ValueError(
            f"x must be one series of shape (T, 1), a list of such series, or (N, T, 1); got {tuple(data.shape)}"
        )
    return [_ended(values) for values in (data if data.ndim == 3 else data[None])]


def _ended(values: Tensor) -> Tensor:
    """A series up to its last observation: what follows says nothing, and costs time."""
    there = (~values.isnan()).any(-1).nonzero()
    return values[: int(there[-1]) + 1] if len(there) else values


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
