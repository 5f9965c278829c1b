r"""Whether a fitted model leaves anything to explain: tests of its standardised one-step innovations.

Where the model is right, the innovations, each divided by its standard deviation, are independent draws of
:math:`\mathcal{N}(0, 1)`. Correlation between them, tails that are too heavy, and a spread that changes are three ways
to be wrong, with a test for each.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from scipy import stats
from torch import Tensor

from dvae_lib.statespace.kalman import kalman_filter
from dvae_lib.statespace.model import LinearGaussianSSM, in_double
from dvae_lib.statespace.series import Series, as_series

__all__ = ["Diagnosis", "Innovations", "innovations", "jarque_bera", "ljung_box", "variance_ratio"]


class Diagnosis(NamedTuple):
    """A test's statistic, and the probability of one as odd or odder where the model is right."""

    statistic: float
    p_value: float


class Innovations(NamedTuple):
    """What each frame had that the frames before could not tell, in float64; NaN where nothing was observed.

    Attributes:
        error: x_t - E[x_t | x_{1:t-1}], `(T, x_dim)`.
        covariance: Cov[x_t | x_{1:t-1}], `(T, x_dim, x_dim)`.
        standardized: L^{-1} error, with L the lower Cholesky factor of the covariance, `(T, x_dim)`: independent draws
            of N(0, 1) where the model is right.
    """

    error: Float[Tensor, "time x_dim"]
    covariance: Float[Tensor, "time x_dim x_dim"]
    standardized: Float[Tensor, "time x_dim"]

    def tests(self, column: int = 0, *, lags: int | None = None) -> dict[str, Diagnosis]:
        """All three tests of one column of x: "ljung_box", "jarque_bera" and "variance_ratio".

        Arguments:
            column: Which.
            lags: As in `ljung_box`.

        Raises:
            ValueError: As the tests.
        """
        values = self.standardized[:, column]
        return {
            "ljung_box": ljung_box(values, lags=lags),
            "jarque_bera": jarque_bera(values),
            "variance_ratio": variance_ratio(values),
        }


def innovations(ssm: LinearGaussianSSM, x: Series, u: Series | None = None) -> Innovations:
    """The innovations of one series under a model whose first state has a distribution.

    Arguments:
        ssm: The model, without batch dimensions.
        x: One series `(T, x_dim)`; NaN where missing.
        u: The input `(T, u_dim)`, where the model has B.

    Raises:
        TypeError: As `kalman_filter`.
        ValueError: As `kalman_filter`; a batch of models or series.
    """
    data = as_series(x, "x", ssm.dtype, ssm.device)
    if data.ndim != 2 or ssm.batch_shape:
        raise ValueError(
            f"innovations are those of one series (T, {ssm.x_dim}) under one model; got x of shape {tuple(data.shape)} "
            f"and models of batch shape {tuple(ssm.batch_shape)}"
        )
    drive = None if u is None else as_series(u, "u", ssm.dtype, ssm.device)
    ssm = in_double(ssm)
    found = kalman_filter(ssm, data, drive)
    mean, covariance = ssm.observation_moments(found.predicted_mean, found.predicted_covariance)
    return standardized(data - mean, covariance)


def standardized(error: Tensor, covariance: Tensor) -> Innovations:
    """Innovations of errors `(T, n)`, NaN where missing, and their covariances."""
    seen = ~error.isnan()
    factor = factor_of_seen(covariance, seen)
    white = torch.linalg.solve_triangular(factor, torch.where(seen, error, 0.0)[..., None], upper=False)[..., 0]
    return Innovations(error, covariance, torch.where(seen, white, torch.nan))


def factor_of_seen(covariance: Tensor, seen: Tensor) -> Tensor:
    """The lower Cholesky factors of covariances `(T, n, n)`, 1 where nothing was seen `(T, n)`."""
    both = seen[..., :, None] & seen[..., None, :]
    factor: Tensor = torch.linalg.cholesky(torch.where(both, covariance, torch.eye(seen.shape[-1]).to(covariance)))
    return factor


def ljung_box(residuals: Series, *, lags: int | None = None) -> Diagnosis:
    r"""Whether residuals are correlated over time, up to a lag.

    .. math:: Q = n (n + 2) \sum_{k=1}^{K} \frac{r_k^2}{n_k}, \qquad
        r_k = \frac{\sum_t e_t\, e_{t-k}}{\sum_t e_t^2}

    is about :math:`\chi^2_K` for independent residuals, with e about their mean, n their number and :math:`n_k` that of
    the pairs k steps apart. Without gaps :math:`n_k = n - k`; with gaps sums are over what is there, and
    :math:`n_k / (n (n + 2))` still is the variance of :math:`r_k` for Gaussian e of mean zero.

    Arguments:
        residuals: `(T,)`; NaN where there is none. Those at the ends are no gaps.
        lags: K; by default 10, or a fifth of the residuals where that is less. Twice the period suits a season.

    Raises:
        ValueError: Fewer than one lag, or as many as there are residuals; residuals that do not vary.

    Source: Ljung and Box (1978).
    """
    values, seen = _within(residuals)
    number = int(seen.sum())
    lags = max(min(10, number // 5), 1) if lags is None else lags
    if not 1 <= lags < number:
        raise ValueError(f"lags must be at least 1 and less than the number of residuals, {number}; got {lags}")
    e = torch.where(seen, values - values[seen].mean(), 0.0)
    total = torch.zeros((), dtype=torch.float64)
    for k in range(1, lags + 1):
        pairs = int((seen[k:] & seen[:-k]).sum())
        if pairs:
            total = total + ((e[k:] * e[:-k]).sum() / e.square().sum()).square() / pairs
    statistic = number * (number + 2) * float(total)
    return Diagnosis(statistic, float(stats.chi2.sf(statistic, lags)))


def jarque_bera(residuals: Series) -> Diagnosis:
    r"""Whether residuals are Gaussian, by their skewness S and kurtosis K.

    .. math:: \frac{n}{6} \Big[S^2 + \tfrac{1}{4} (K - 3)^2\Big]

    is about :math:`\chi^2_2` for many Gaussian residuals.

    Arguments:
        residuals: `(T,)`; NaN where there is none.

    Raises:
        ValueError: Residuals that do not vary.

    Source: Jarque and Bera (1987).
    """
    values, seen = _within(residuals)
    e = values[seen] - values[seen].mean()
    variance = e.square().mean()
    skewness, kurtosis = (float(e.pow(power).mean() / variance ** (power / 2)) for power in (3, 4))
    statistic = int(seen.sum()) / 6 * (skewness**2 + (kurtosis - 3) ** 2 / 4)
    return Diagnosis(statistic, float(stats.chi2.sf(statistic, 2)))


def variance_ratio(residuals: Series) -> Diagnosis:
    r"""Whether the spread of residuals changes: the mean square of their last third over that of the first.

    For independent Gaussian residuals of mean zero and constant variance it has an F distribution, with as many degrees
    of freedom as there are residuals in each third; the probability is two-sided.

    Arguments:
        residuals: `(T,)`; NaN where there is none.

    Raises:
        ValueError: A third with fewer than two residuals, or residuals that do not vary.

    Source: Harvey (1989), Section 5.4.
    """
    values, seen = _within(residuals)
    third = round(len(values) / 3)
    early, late = (values[part][seen[part]] for part in (slice(third), slice(len(values) - third, None)))
    if min(len(early), len(late)) < 2:
        raise ValueError(f"each third needs two residuals; got {len(early)} in the first and {len(late)} in the last")
    ratio = float(late.square().mean() / early.square().mean())
    law = stats.f(len(late), len(early))
    return Diagnosis(ratio, 2 * min(float(law.cdf(ratio)), float(law.sf(ratio))))


def _within(residuals: Series) -> tuple[Tensor, Tensor]:
    """The residuals from the first to the last there is, and which of them there are."""
    values = as_series(residuals, "residuals", torch.float64, torch.device("cpu"))
    if values.ndim != 1:
        raise ValueError(f"residuals must be of one series, (T,); got shape {tuple(values.shape)}")
    there = (~values.isnan()).nonzero()[:, 0]
    if len(there) < 2 or not float(values[there].std()) > 0:
        raise ValueError("the residuals do not vary, so that there is nothing to test")
    values = values[int(there[0]) : int(there[-1]) + 1]
    return values, ~values.isnan()
