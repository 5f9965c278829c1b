"""Extended and unscented Kalman filters and smoothers for nonlinear models with Gaussian noise.

Both replace the model by a linear-Gaussian one, step by step around the current estimate, and differ only in how:
by a first-order expansion, or by the moments of a few points. What remains is the exact inference in that model.

As for linear models, all is computed in float64 and rounded at the end. The functions get states in float64 where they
take them; one that holds tensors of the model's dtype, such as a network, gets states of that dtype.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from dvae_lib.arrays import whole_number
from dvae_lib.statespace.kalman import (
    SINGULAR_INNOVATION,
    FilterResult,
    SmootherResult,
    kalman_filter,
    kalman_smoother,
)
from dvae_lib.statespace.model import (
    LinearGaussianSSM,
    StateSpaceSample,
    covariance_factor,
    gaussian_noise,
    holds,
    in_double,
)
from dvae_lib.statespace.problem import observed_components
from dvae_lib.statespace.recursions import symmetric
from dvae_lib.statespace.series import Series, as_mask, as_series

__all__ = [
    "NonlinearGaussianSSM",
    "SigmaPoints",
    "extended_kalman_filter",
    "extended_kalman_smoother",
    "unscented_kalman_filter",
    "unscented_kalman_smoother",
]

Function = Callable[..., Tensor]


class NonlinearGaussianSSM:
    r"""Nonlinear state-space model with additive Gaussian noise, Eqs. (3.9) to (3.12).

    .. math::
        z_1 &\sim \mathcal{N}(\mu_1, \Lambda_1) \\
        z_t &= f(z_{t-1}, u_t) + \mathcal{N}(0, \Lambda) \\
        x_t &= h(z_t) + \mathcal{N}(0, \Sigma)

    Arguments:
        transition: f, from one state `(z_dim,)`, and one input `(u_dim,)` where there is one, to the mean of the
            next state `(z_dim,)`. Written with torch operations and without data-dependent branches, since it is
            differentiated and vectorised by `torch.func`.
        observation: h, from one state `(z_dim,)` to the mean of the observation `(x_dim,)`; likewise.
        Lambda: Covariance of the state noise, `(z_dim, z_dim)` or per step `(T, z_dim, z_dim)`.
        Sigma: Covariance of the observation noise, `(x_dim, x_dim)` or per step `(T, x_dim, x_dim)`.
        mu_1: Mean of the first state, `(z_dim,)`.
        Lambda_1: Covariance of the first state, `(z_dim, z_dim)`.

    Raises:
        TypeError: If a parameter is no floating-point tensor, or `transition` or `observation` cannot be called.
        ValueError: If shapes do not fit, a value is not finite, or a covariance is not symmetric positive
            semi-definite.

    Example:
        >>> pendulum = NonlinearGaussianSSM(
        ...     lambda z: torch.stack([z[0] + 0.1 * z[1], z[1] - 0.981 * z[0].sin()]),
        ...     lambda z: z[:1].sin(),
        ...     1e-4 * torch.eye(2), 0.1 * torch.eye(1), mu_1=torch.tensor([1.0, 0.0]), Lambda_1=0.1 * torch.eye(2),
        ... )
        >>> z, x = pendulum.sample(50)
        >>> extended_kalman_smoother(pendulum, x).mean.shape
        torch.Size([50, 2])
    """

    def __init__(
        self,
        transition: Function,
        observation: Function,
        Lambda: Tensor,
        Sigma: Tensor,
        *,
        mu_1: Tensor,
        Lambda_1: Tensor,
    ) -> None:
        for name, function in (("transition", transition), ("observation", observation)):
            if not callable(function):
                raise TypeError(f"{name} must be a function of one state, got {type(function).__name__}")
        for name, value in (("Lambda", Lambda), ("Sigma", Sigma), ("mu_1", mu_1), ("Lambda_1", Lambda_1)):
            if not isinstance(value, Tensor):
                raise TypeError(f"{name} must be a floating-point tensor, got {type(value).__name__}")
        self.transition, self.observation = transition, observation
        z, x = mu_1.shape[-1], Sigma.shape[-1]
        # A linear model of the same sizes checks everything but the functions, and carries the noise.
        self._linear = LinearGaussianSSM(
            Lambda.new_zeros(z, z), Lambda.new_zeros(x, z), Lambda, Sigma, mu_1=mu_1, Lambda_1=Lambda_1
        )
        if mu_1.ndim != 1 or Lambda_1.ndim != 2:
            raise ValueError(
                f"mu_1 and Lambda_1 must have shapes ({z},) and ({z}, {z}), without batch dimensions; got "
                f"{tuple(mu_1.shape)} and {tuple(Lambda_1.shape)}. Batches belong to x"
            )
        self.Lambda, self.Sigma, self.mu_1, self.Lambda_1 = Lambda, Sigma, mu_1, Lambda_1
        self.z_dim, self.x_dim = z, x

    def sample(
        self,
        num_steps: int,
        u: Series | None = None,
        *,
        sample_shape: tuple[int, ...] = (),
        generator: torch.Generator | None = None,
    ) -> StateSpaceSample:
        """Ancestral samples, Eqs. (3.10) and (3.12).

        Arguments:
            num_steps: The length T.
            u: The input, `(*batch, T, u_dim)`.
            sample_shape: Shape of independent draws.
            generator: Source of randomness.

        Returns:
            `z (*sample_shape, *batch, T, z_dim)` and `x (*sample_shape, *batch, T, x_dim)`.

        Raises:
            ValueError: If `num_steps` is below 1 or does not fit the model or the input.
        """
        num_steps = whole_number(num_steps, "num_steps", 1)
        dtype, linear = self.mu_1.dtype, in_double(self._linear)
        inputs = None if u is None else as_series(u, "u", dtype, self.mu_1.device, padding=0.0)
        _check_steps(self, inputs, num_steps)
        transition, observation = _wide_functions(self, inputs)
        shape = (*sample_shape, *(() if inputs is None else inputs.shape[:-2]))
        z = linear.mu_1 + gaussian_noise(linear.Lambda_1, shape, generator, dtype)
        states = [z]
        state_noise = gaussian_noise(linear.stepwise("Lambda"), (*shape, num_steps), generator, dtype)
        for t in range(1, num_steps):
            arguments = (z,) if inputs is None else (z, inputs[..., t, :].expand(*shape, -1))
            z = _over_batch(transition, *arguments, size=self.z_dim) + state_noise[..., t, :]
            states.append(z)
        z = torch.stack(states, dim=-2)
        x = _over_batch(observation, z, size=self.x_dim)
        x = x + gaussian_noise(linear.stepwise("Sigma"), (*shape, num_steps), generator, dtype)
        return StateSpaceSample(z.to(dtype), x.to(dtype))


class SigmaPoints(NamedTuple):
    """Where the unscented transform puts its points (Wan and van der Merwe, 2000).

    With the defaults all weights are positive, so that covariances stay positive definite. `alpha` scales the spread,
    `beta = 2` fits the fourth moments of a Gaussian, `kappa` moves weight to the centre.
    """

    alpha: float = 1.0
    beta: float = 2.0
    kappa: float = 0.0


def extended_kalman_filter(
    ssm: NonlinearGaussianSSM,
    x: Series,
    u: Series | None = None,
    *,
    mask: Series | None = None,
) -> FilterResult:
    """The extended Kalman filter: the model expanded to first order, its Jacobians by automatic differentiation.

    The transition is expanded around the filtered mean, the observation around the predicted one.

    Arguments:
        ssm: The model.
        x: The observations, `(*batch, T, x_dim)`; NaN where missing.
        u: The input, `(*batch, T, u_dim)`, where the transition takes one.
        mask: As in `kalman_filter`.

    Returns:
        Approximate filtered and predicted moments, and the log-likelihood of the expanded model.

    Raises:
        TypeError: As `kalman_filter`.
        ValueError: As `kalman_filter`, and if a function returns a wrong shape, or a value or a derivative that is not
            finite.
    """
    return _filtered(ssm, *_linearise(ssm, x, u, mask, _expansion))


def extended_kalman_smoother(
    ssm: NonlinearGaussianSSM,
    x: Series,
    u: Series | None = None,
    *,
    mask: Series | None = None,
) -> SmootherResult:
    """The extended Kalman smoother: the smoother of the model that `extended_kalman_filter` expanded.

    Arguments, errors as there.

    Returns:
        Approximate smoothed means, covariances and cross-covariances.
    """
    return _smoothed(ssm, *_linearise(ssm, x, u, mask, _expansion))


def unscented_kalman_filter(
    ssm: NonlinearGaussianSSM,
    x: Series,
    u: Series | None = None,
    *,
    mask: Series | None = None,
    sigma_points: SigmaPoints | None = None,
) -> FilterResult:
    """The unscented Kalman filter (Wan and van der Merwe, 2000): moments of 2 L + 1 points instead of Jacobians.

    New points are drawn before each observation. In terms of a linear model: the regression of f on the points, its
    residual added to the noise.

    Arguments:
        ssm: The model.
        x: The observations, `(*batch, T, x_dim)`; NaN where missing.
        u: The input, `(*batch, T, u_dim)`, where the transition takes one.
        mask: As in `kalman_filter`.
        sigma_points: Where the points lie; `SigmaPoints()` by default.

    Returns:
        Approximate filtered and predicted moments, and the approximate log-likelihood.

    Raises:
        TypeError: As `kalman_filter`.
        ValueError: As `kalman_filter`, if a function returns a wrong shape or a value that is not finite, and if
            `alpha^2 (L + kappa)` is not positive.
    """
    return _filtered(ssm, *_linearise(ssm, x, u, mask, _regression(sigma_points or SigmaPoints())))


def unscented_kalman_smoother(
    ssm: NonlinearGaussianSSM,
    x: Series,
    u: Series | None = None,
    *,
    mask: Series | None = None,
    sigma_points: SigmaPoints | None = None,
) -> SmootherResult:
    """The unscented Rauch-Tung-Striebel smoother (Särkkä, 2008). Arguments and errors as `unscented_kalman_filter`.

    Returns:
        Approximate smoothed means, covariances and cross-covariances.
    """
    return _smoothed(ssm, *_linearise(ssm, x, u, mask, _regression(sigma_points or SigmaPoints())))


# ---- one linear model along the way ------------------------------------------------------------------------------

# (function, its inputs (S, u_dim), mean (S, L), covariance (S, L, L), size of the value)
# -> matrix (S, size, L), value (S, size), what the approximation adds to the noise (S, size, size)
Linearisation = Callable[[Function, tuple[Tensor, ...], Tensor, Tensor, int], tuple[Tensor, Tensor, Tensor]]


def _filtered(ssm: NonlinearGaussianSSM, linear: LinearGaussianSSM, x: Tensor, observed: Tensor | None) -> FilterResult:
    result = kalman_filter(linear, x, mask=observed)
    return FilterResult(*(value.to(ssm.mu_1.dtype) for value in result))


def _smoothed(
    ssm: NonlinearGaussianSSM, linear: LinearGaussianSSM, x: Tensor, observed: Tensor | None
) -> SmootherResult:
    result = kalman_smoother(linear, x, mask=observed)
    return SmootherResult(*(value.to(ssm.mu_1.dtype) for value in result))


def _linearise(
    ssm: NonlinearGaussianSSM, x: Series, u: Series | None, mask: Series | None, rule: Linearisation
) -> tuple[LinearGaussianSSM, Tensor, Tensor | None]:
    """Filters along the series and collects the linear models met on the way, in float64."""
    dtype, device = ssm.mu_1.dtype, ssm.mu_1.device
    x = as_series(x, "x", dtype, device)
    u = None if u is None else as_series(u, "u", dtype, device, padding=0.0)
    mask = None if mask is None else as_mask(mask, device)
    if x.ndim < 2 or x.shape[-1] != ssm.x_dim or x.shape[-2] == 0:
        raise ValueError(f"x must have shape (*batch, T, {ssm.x_dim}) with T >= 1, got {tuple(x.shape)}")
    T = x.shape[-2]
    _check_steps(ssm, u, T)
    observed = observed_components(x, mask)
    batch = torch.broadcast_shapes(x.shape[:-2], () if u is None else u.shape[:-2])
    x = x.expand(*batch, T, -1)
    known = torch.ones_like(x, dtype=torch.bool) if observed is None else observed.expand_as(x)
    series = batch.numel()
    values, weights = (v.reshape(series, T, -1) for v in (torch.where(known, x, 0), known.to(x)))
    inputs = None if u is None else u.expand(*batch, T, -1).reshape(series, T, -1)
    noise = in_double(ssm._linear)
    Lambda, Sigma = (noise.stepwise(name).expand(T, -1, -1) for name in ("Lambda", "Sigma"))
    transition, observation = _wide_functions(ssm, u)

    mean, P = noise.mu_1.expand(series, -1), noise.Lambda_1.expand(series, -1, -1)
    steps: dict[str, list[Tensor]] = {name: [] for name in ("A", "m", "Lambda", "C", "n", "Sigma")}
    for t in range(T):
        if t == 0:
            A, offset, Q = P.new_zeros(P.shape), mean, P
        else:
            A, predicted, Q = rule(transition, () if inputs is None else (inputs[:, t],), mean, P, ssm.z_dim)
            _check_finite("transition", A, predicted, t)
            offset, Q = predicted - (A @ mean.unsqueeze(-1)).squeeze(-1), Q + Lambda[t]
            mean, P = predicted, symmetric(A @ P @ A.mT + Q)
        C, expected, R = rule(observation, (), mean, P, ssm.x_dim)
        _check_finite("observation", C, expected, t)
        R = R + Sigma[t]
        n = expected - (C @ mean.unsqueeze(-1)).squeeze(-1)
        for name, value in zip(steps, (A, offset, Q, C, n, R), strict=True):
            steps[name].append(value)
        mean, P = _update(mean, P, C, R, values[:, t] - expected, weights[:, t])
    stacked = {}
    for name, values_of_steps in steps.items():
        value = torch.stack(
            [v.expand(series, *v.shape[-(1 if name in ("m", "n") else 2) :]) for v in values_of_steps], dim=1
        )
        stacked[name] = value.reshape(*batch, *value.shape[1:])
    mu_1, Lambda_1 = noise.mu_1.expand(*batch, -1), noise.Lambda_1.expand(*batch, -1, -1)
    return LinearGaussianSSM(**stacked, mu_1=mu_1, Lambda_1=Lambda_1, validate_args=False), x, observed


def _update(mean: Tensor, P: Tensor, C: Tensor, R: Tensor, innovation: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The filter's update in Joseph's form; components of weight zero are missing."""
    C = C * weight.unsqueeze(-1)
    R = R * weight.unsqueeze(-1) * weight.unsqueeze(-2) + torch.diag_embed(1 - weight)
    solution, info = torch.linalg.solve_ex(C @ P @ C.mT + R, C @ P)
    if holds((info != 0).any()):
        raise ValueError(SINGULAR_INNOVATION)
    gain = solution.mT
    keep = torch.eye(P.shape[-1], dtype=P.dtype, device=P.device) - gain @ C
    mean = mean + (gain @ (innovation * weight).unsqueeze(-1)).squeeze(-1)
    return mean, symmetric(keep @ P @ keep.mT + gain @ R @ gain.mT)


def _expansion(
    function: Function, inputs: tuple[Tensor, ...], mean: Tensor, P: Tensor, size: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Jacobian and value at the mean; the noise stays as it is."""

    def twice(*arguments: Tensor) -> tuple[Tensor, Tensor]:
        value = function(*arguments)
        _check_value(value, size)
        return value, value

    jacobian, value = torch.func.vmap(torch.func.jacrev(twice, has_aux=True))(mean, *inputs)
    return jacobian, value, P.new_zeros(size, size)


def _regression(points: SigmaPoints) -> Linearisation:
    """Linear regression of the function on the points that stand for N(mean, P)."""

    def rule(
        function: Function, inputs: tuple[Tensor, ...], mean: Tensor, P: Tensor, size: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        L = mean.shape[-1]
        scale = points.alpha**2 * (L + points.kappa)
        if scale <= 0:
            raise ValueError(f"alpha^2 (z_dim + kappa) must be positive, got {scale:g} with {points} and z_dim={L}")
        U, regular = _factor(P)
        step = scale**0.5 * U.mT  # (S, L, L), one direction per row
        centre = mean.unsqueeze(-2)
        at = torch.cat([centre, centre + step, centre - step], dim=-2)
        values = _over_batch(
            function, at, *(value.unsqueeze(-2).expand(*at.shape[:-1], -1) for value in inputs), size=size
        )
        middle, forward, backward = values.split([1, L, L], dim=-2)
        centre_weight = 1 - L / scale
        value = centre_weight * middle + (forward + backward).sum(dim=-2, keepdim=True) / (2 * scale)
        # Covariance of the values with the standardised state, (S, size, L)
        cross = (forward - backward).mT / (2 * scale**0.5)
        # Where the state is known exactly in some direction, all points agree there, and A says nothing of it.
        A = (
            torch.linalg.solve_triangular(U, cross, upper=False, left=False)
            if regular
            else cross @ torch.linalg.pinv(U)
        )
        weights = torch.full((2 * L + 1,), 1 / (2 * scale), dtype=P.dtype, device=P.device)
        weights[0] = centre_weight + 1 - points.alpha**2 + points.beta
        deviation = values - value
        return A, value.squeeze(-2), symmetric((deviation * weights.unsqueeze(-1)).mT @ deviation - cross @ cross.mT)

    return rule


def _factor(P: Tensor) -> tuple[Tensor, bool]:
    """A factor of the covariances, which may be singular, and whether all are regular, so that it is triangular."""
    factor, info = torch.linalg.cholesky_ex(P)
    if not holds((info != 0).any()):
        return factor, True
    variances = torch.linalg.eigvalsh(P.detach())
    if holds((variances[..., 0] < -1e-10 * variances[..., -1].abs()).any()):
        raise ValueError(
            "A predicted or filtered covariance has a negative variance, so it has no sigma points: where alpha is far "
            "below 1, the centre has a large negative weight. Try the default SigmaPoints()"
        )
    return covariance_factor(P), False


def _wide_functions(ssm: NonlinearGaussianSSM, u: Tensor | None) -> tuple[Function, Function]:
    """Transition and observation as functions of float64 with values in float64."""
    state = ssm.mu_1.detach().double()
    inputs = () if u is None else (u.detach().reshape(-1, u.shape[-1])[0],)
    return _in_double(ssm.transition, ssm.mu_1.dtype, state, *inputs), _in_double(
        ssm.observation, ssm.mu_1.dtype, state
    )


def _in_double(function: Function, dtype: torch.dtype, *example: Tensor) -> Function:
    narrow = False
    if dtype != torch.float64:
        try:
            with torch.no_grad():
                function(*example)
        except RuntimeError:  # it holds tensors of the model's dtype; what else is wrong will be met again
            narrow = True

    def evaluated(*arguments: Tensor) -> Tensor:
        value = function(*([argument.to(dtype) for argument in arguments] if narrow else arguments))
        return value.double() if isinstance(value, Tensor) else value

    return evaluated


def _check_finite(name: str, matrix: Tensor, value: Tensor, t: int) -> None:
    for what, numbers in (("value", value), ("derivative", matrix)):
        if not holds(torch.isfinite(numbers).all()):
            raise ValueError(
                f"The {what} of {name} is not finite where step {t + 1} (of 1 to T) needs it: keep its argument in the "
                "range where it is defined, or start nearer, with mu_1 and Lambda_1"
            )


def _over_batch(function: Function, *arguments: Tensor, size: int | None = None) -> Tensor:
    """A function of single vectors, applied along all leading dimensions."""
    leading = arguments[0].shape[:-1]
    flat = [value.reshape(leading.numel(), value.shape[-1]) for value in arguments]

    def checked(*values: Tensor) -> Tensor:
        result = function(*values)
        _check_value(result, size)
        return result

    values: Tensor = torch.func.vmap(checked)(*flat)
    return values.reshape(*leading, values.shape[-1])


def _check_value(value: Tensor, size: int | None) -> None:
    if not isinstance(value, Tensor) or value.ndim != 1 or (size is not None and value.shape[0] != size):
        got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(
            f"transition must return a tensor of shape (z_dim,) and observation one of shape (x_dim,) for one state; "
            f"expected size {size}, got {got}"
        )


def _check_steps(ssm: NonlinearGaussianSSM, u: Tensor | None, num_steps: int) -> None:
    if ssm._linear.num_steps not in (None, num_steps):
        raise ValueError(f"The model's noise has {ssm._linear.num_steps} steps, {num_steps} are asked for")
    if u is not None and (u.ndim < 2 or u.shape[-2] != num_steps):
        raise ValueError(f"u must have shape (*batch, {num_steps}, u_dim), got {tuple(u.shape)}")
