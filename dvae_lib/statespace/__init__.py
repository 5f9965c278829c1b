"""State-space models: Kalman filter and smoother, posterior samples, EM, and their nonlinear relatives.

`LinearGaussianSSM` holds a model after Eqs. (3.16) and (3.17). `kalman_filter`, `kalman_smoother`, `log_likelihood`,
`sample_posterior` and `forecast` infer in it, `sample` draws from it, `fit_em` fits it. `NonlinearGaussianSSM` with
`extended_kalman_filter` and `unscented_kalman_filter`, and their smoothers, covers Eqs. (3.9) to (3.12).
"""

from dvae_lib.statespace.em import EMResult, fit_em
from dvae_lib.statespace.explorer import local_level, noise_explorer
from dvae_lib.statespace.kalman import (
    FilterResult,
    Forecast,
    SmootherResult,
    forecast,
    kalman_filter,
    kalman_smoother,
    log_likelihood,
    sample_posterior,
)
from dvae_lib.statespace.model import LinearGaussianSSM, StateSpaceSample, covariance_factor, sample
from dvae_lib.statespace.nonlinear import (
    NonlinearGaussianSSM,
    SigmaPoints,
    extended_kalman_filter,
    extended_kalman_smoother,
    unscented_kalman_filter,
    unscented_kalman_smoother,
)

__all__ = [
    "EMResult",
    "FilterResult",
    "Forecast",
    "LinearGaussianSSM",
    "NonlinearGaussianSSM",
    "SigmaPoints",
    "SmootherResult",
    "StateSpaceSample",
    "covariance_factor",
    "extended_kalman_filter",
    "extended_kalman_smoother",
    "fit_em",
    "forecast",
    "kalman_filter",
    "kalman_smoother",
    "local_level",
    "log_likelihood",
    "noise_explorer",
    "sample",
    "sample_posterior",
    "unscented_kalman_filter",
    "unscented_kalman_smoother",
]
