r"""A flat prior of the first state, integrated out exactly: likelihood, innovations, smoother and forecasts.

Given the first state :math:`\delta`, all means of a Kalman filter or smoother are affine in it, and no covariance
depends on it. So it is enough to run them at a first state of zero and at each unit state, and to put the weighted
least-squares estimate of :math:`\delta` in at the end (de Jong, 1991).
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from dvae_lib.statespace.diagnostics import Innovations, factor_of_seen, standardized
from dvae_lib.statespace.kalman import Forecast, SmootherResult, forecast, kalman_filter, kalman_smoother
from dvae_lib.statespace.model import LinearGaussianSSM, in_double
from dvae_lib.statespace.series import Series, as_series

__all__ = ["diffuse_forecast", "diffuse_innovations", "diffuse_log_likelihood", "diffuse_smoother"]


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
    start, (model, both) = _start(ssm, data), _augmented(in_double(ssm), data)
    ahead = forecast(model, both, horizon)
    return Forecast(
        *_integrated(start, ahead.mean, ahead.covariance),
        *_integrated(start, ahead.state_mean, ahead.state_covariance),
    )


def diffuse_smoother(ssm: LinearGaussianSSM, x: Series) -> SmootherResult:
    """Each state given the whole series, under a flat prior of the first one, in float64; see `kalman_smoother`.

    Arguments:
        ssm: As in `diffuse_log_likelihood`.
        x: One series `(T, x_dim)`; NaN where missing.

    Raises:
        ValueError: As `diffuse_log_likelihood`.
    """
    data = _single(ssm, x)
    start, (model, both) = _start(ssm, data), _augmented(_cut(in_double(ssm), len(data)), data)
    found = kalman_smoother(model, both)
    mean, covariance = _integrated(start, found.mean, found.covariance)
    slopes = _slopes(found.mean)
    cross = slopes[1:] @ start.covariance @ slopes[:-1].mT
    return SmootherResult(mean, covariance, found.cross_covariance[0] + cross)


def diffuse_innovations(ssm: LinearGaussianSSM, x: Series) -> Innovations:
    r"""One-step innovations under a flat prior of the first state.

    With :math:`\hat\delta_{t-1}` and :math:`S_{t-1}` of the frames before, the innovation is
    :math:`v_t - V_t \hat\delta_{t-1}`, of covariance :math:`F_t + V_t S_{t-1}^{-1} V_t^\top`. Where the frames before
    do not determine the prediction, its variance is infinite: such frames, the first ones as a rule, are NaN.

    Arguments:
        ssm: As in `diffuse_log_likelihood`.
        x: One series `(T, x_dim)`; NaN where missing.

    Raises:
        ValueError: As `diffuse_log_likelihood`.
    """
    data = _single(ssm, x)
    factor, white, seen = _whitened(in_double(ssm), data)
    error, slopes = white[..., 0], -white[..., 1:]  # (T, n) and (T, n, L)
    after = (slopes.mT @ slopes).cumsum(0)
    before = torch.cat([torch.zeros_like(after[:1]), after[:-1]])
    moment = (slopes.mT @ error[..., None]).cumsum(0)
    unit = after.diagonal(dim1=-2, dim2=-1).sqrt()  # states have units; what is decided below does not
    unit = torch.where(unit > 0, unit, 1.0)
    values, directions = torch.linalg.eigh(before / unit[..., :, None] / unit[..., None, :])
    known = values > 1e-10
    inverse = (directions * torch.where(known, 1 / values, 0.0)[..., None, :]) @ directions.mT
    scaled = slopes / unit[..., None, :]
    inside = scaled @ (directions * known[..., None, :])
    outside = scaled.square().sum(-1) - inside.square().sum(-1)
    told = (outside < 1e-8).all(-1)
    estimate = inverse @ (torch.cat([torch.zeros_like(moment[:1]), moment[:-1]]) / unit[..., None])
    left = error - (scaled @ estimate)[..., 0]
    spread = torch.eye(data.shape[1]).to(data) + scaled @ inverse @ scaled.mT
    own = (factor @ left[..., None])[..., 0]
    covariance = torch.where(told[:, None, None], factor @ spread @ factor.mT, torch.nan)
    return standardized(torch.where(seen & told[:, None], own, torch.nan), covariance)


def _integrated(start: "_Start", mean: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Moments at a first state of zero and at each unit state, of an unknown one."""
    slopes = _slopes(mean)
    return mean[0] + slopes @ start.mean, covariance[0] + slopes @ start.covariance @ slopes.mT


def _slopes(mean: Tensor) -> Tensor:
    """By how much a unit of each first state moves a mean, (T, n, L)."""
    return mean[1:].movedim(0, -1)


def _cut(ssm: LinearGaussianSSM, num_steps: int) -> LinearGaussianSSM:
    """The model of the first steps."""
    first = {name: getattr(ssm, name)[:num_steps] for name, _ in ssm.parameters() if ssm.per_step(name)}
    return ssm.replace(validate_args=False, **first)


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


def _whitened(ssm: LinearGaussianSSM, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r"""Innovations at a first state of zero and at each unit state, in units of their deviations given the state.

    Returns:
        The lower factors of :math:`F_t`, (T, n, n), 1 where nothing was observed; what is left of the frames, and, with
        the sign turned, of each unit state, `(T, n, 1 + L)`, 0 where nothing was observed; and what was, `(T, n)`.
    """
    model, both = _augmented(_cut(ssm, len(x)), x)
    found = kalman_filter(model, both)
    mean, covariance = model.observation_moments(found.predicted_mean, found.predicted_covariance)
    seen = ~x.isnan()
    factor = factor_of_seen(covariance[0], seen)
    errors = torch.where(seen, both - mean, 0.0).movedim(0, -1)
    return factor, torch.linalg.solve_triangular(factor, errors, upper=False), seen


def _start(ssm: LinearGaussianSSM, x: Tensor) -> _Start:
    factor, white, seen = _whitened(in_double(ssm), x)
    error, slopes = white.flatten(0, 1)[:, 0], -white.flatten(0, 1)[:, 1:]
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
