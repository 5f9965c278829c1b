"""Maximum likelihood where the states were observed, too: the M step of EM, with nothing left to expect."""

from collections.abc import Collection, Mapping

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from dvae_lib.arrays import whole_number
from dvae_lib.statespace.em import m_step, read_fit
from dvae_lib.statespace.em_given import Prior, Restrictions
from dvae_lib.statespace.kalman import SmootherResult
from dvae_lib.statespace.model import LinearGaussianSSM, in_double
from dvae_lib.statespace.problem import observed_components
from dvae_lib.statespace.series import Series, as_series

__all__ = ["fit_supervised"]


def fit_supervised(
    ssm: LinearGaussianSSM,
    x: Series,
    z: Series,
    u: Series | None = None,
    *,
    mask: Series | None = None,
    update: str | Collection[str] | None = None,
    diagonal: str | Collection[str] = (),
    kept: Mapping[str, Tensor | ArrayLike] | None = None,
    priors: Mapping[str, Prior] | None = None,
    min_variance: float | None = None,
    num_iterations: int = 1000,
) -> LinearGaussianSSM:
    r"""Fits a model to observations and states that are both known, such as a robot's that was filmed while it learned.

    The maximum of :math:`\log p(x_{1:T}, z_{1:T})`: regressions of z_t on z_{t-1}, u_t and 1, and of x_t on z_t and 1,
    Eqs. (3.16) and (3.17). They have one solution, and no start matters. Where components of x are missing, with
    entries that are `kept`, and with priors, it takes rounds: then the start is where they begin.

    Example:
        >>> z = torch.randn(500, 1, generator=torch.Generator().manual_seed(0)).cumsum(0)
        >>> one, start = torch.eye(1), {"mu_1": torch.zeros(1), "Lambda_1": torch.eye(1)}
        >>> blank = LinearGaussianSSM(0 * one, 0 * one, one, one, **start)
        >>> fitted = fit_supervised(blank, 2 * z + 0.1 * torch.cos(z), z)
        >>> round(fitted.C.item(), 2)
        2.0

    Arguments:
        ssm: Which parameters there are; what is None stays None, and what is not fitted stays as it is.
        x: The observations, `(*batch, T, x_dim)`, or a list of series of different lengths; NaN where missing.
        z: The states, `(*batch, T, z_dim)`, or a list of as many series of the same lengths. All must be known.
        u: The input, `(*batch, T, u_dim)`, where the model has B.
        mask: As in `kalman_filter`, of x.
        update: As in `fit_em`.
        diagonal: As in `fit_em`.
        kept: As in `fit_em`.
        priors: As in `fit_em`.
        min_variance: As in `fit_em`.
        num_iterations: The most rounds to make, where there are any.

    Returns:
        The fitted model, in the dtype of the start.

    Raises:
        TypeError: As `fit_em`.
        ValueError: As `fit_em`; if x and z have different numbers of frames, if a state is missing, and if the states
            do not vary enough to tell the parameters.
    """
    num_iterations, dtype = whole_number(num_iterations, "num_iterations", 1), ssm.dtype
    x, u, mask, diagonal, names = read_fit(ssm, x, u, mask, update, diagonal)
    z = as_series(z, "z", dtype, ssm.device)
    known = _known(ssm, x, z)
    if min_variance is not None and not min_variance > 0:
        raise ValueError(f"min_variance must be positive, got {min_variance}")
    with torch.no_grad():
        ssm = in_double(ssm.map(torch.Tensor.detach))
        given = Restrictions(ssm, names, kept or {}, diagonal, priors or {})
        observed = observed_components(x, mask)
        z = z.nan_to_num()
        squares = z.new_zeros(*z.shape, z.shape[-1])
        states = SmootherResult(z, squares, squares[..., 1:, :, :])
        within = None if bool(known.all()) else known
        for _ in range(num_iterations):
            try:
                changes = m_step(ssm, states, x, u, observed, within, names, given, diagonal, min_variance or 0.0)
            except (ValueError, torch.linalg.LinAlgError) as error:  # type: ignore[attr-defined]
                raise ValueError(
                    f"the states and inputs do not tell all parameters apart ({error}): give more frames, or leave out "
                    "of update what they say nothing of"
                ) from error
            moved = max((_distance(value, getattr(ssm, name)) for name, value in changes.items()), default=0.0)
            ssm = ssm.replace(validate_args=False, **changes)
            if moved < 1e-12:
                break
    return ssm.to(dtype)


def _known(ssm: LinearGaussianSSM, x: Tensor, z: Tensor) -> Tensor:
    """Which frames are no padding, `(*batch, T)`."""
    if z.shape[-1] != ssm.z_dim or z.shape[:-1] != x.shape[:-1]:
        raise ValueError(
            f"z must have shape {(*x.shape[:-1], ssm.z_dim)}, a state for each frame of x; got {tuple(z.shape)}"
        )
    known = ~z.isnan().any(-1)
    padding = ~known & x.isnan().all(-1)
    inner = padding & known.flip(-1).cummax(-1).values.flip(-1)
    if not bool((known | padding).all()) or bool(inner.any()) or bool(z.isinf().any()):
        raise ValueError("z must be known and finite in all frames; fit_em fits models whose states are not known")
    return known


def _distance(new: Tensor, old: Tensor) -> float:
    return float((new - old).abs().max() / old.abs().max().clamp(min=1e-300)) if bool((new != old).any()) else 0.0
