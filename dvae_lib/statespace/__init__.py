"""State-space models: Kalman filter and smoother, posterior samples, EM, and their nonlinear relatives.

`LinearGaussianSSM` holds a model after Eqs. (3.16) and (3.17). `kalman_filter`, `kalman_smoother`, `log_likelihood`,
`sample_posterior` and `forecast` infer in it, in the fastest way unless told how, and `sample` draws from it. `fit_em`
fits it, `fit_supervised` does where its states are known, and `standard_errors` says how surely. `level`, `trend`,
`season` and `regression` are the parts of structural time series, added by +, which `fit_components` fits under an
exact flat prior of the first state; the tests of their `Innovations` say whether they leave anything to explain.
`NonlinearGaussianSSM` with `extended_kalman_filter` and `unscented_kalman_filter`, and their smoothers, covers Eqs.
(3.9) to (3.12).
`structure_cost` says what an inference model of a given structure loses. `GaussianChain` is a Gaussian over a whole
sequence of states, as posteriors that are joint over time need it. `HiddenMarkovModel` is the chain of discrete states,
with its own filter, smoother, posterior samples and most probable path. `GaussianProcess` gives sequences a prior by a
kernel, whose conditionals look at the whole past.
"""

from dvae_lib.statespace.chain import ChainPosterior, GaussianChain
from dvae_lib.statespace.chain_forms import ChainMoments, ChainPrecision
from dvae_lib.statespace.components import (
    Component,
    ComponentsFit,
    SmoothedPart,
    fit_components,
    level,
    regression,
    season,
    trend,
)
from dvae_lib.statespace.continuous import discretise, ssm_at_times
from dvae_lib.statespace.diagnostics import (
    Diagnosis,
    Innovations,
    innovations,
    jarque_bera,
    ljung_box,
    variance_ratio,
)
from dvae_lib.statespace.diffuse import (
    diffuse_forecast,
    diffuse_innovations,
    diffuse_log_likelihood,
    diffuse_smoother,
)
from dvae_lib.statespace.em import EMResult, fit_em
from dvae_lib.statespace.em_given import InverseWishartPrior, NormalPrior
from dvae_lib.statespace.explorer import local_level, noise_explorer
from dvae_lib.statespace.gaussian_process import KERNELS, GaussianProcess, GaussianSequence, matern_ssm
from dvae_lib.statespace.hmm import (
    HiddenMarkovModel,
    HMMFilterResult,
    HMMSmootherResult,
    ViterbiResult,
    hmm_filter,
    hmm_log_likelihood,
    hmm_posterior,
    hmm_sample_posterior,
    hmm_smoother,
    viterbi,
)
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
from dvae_lib.statespace.standard_errors import standard_errors
from dvae_lib.statespace.structure import (
    BestInference,
    GaussianPath,
    best_inference,
    gaussian_path,
    structure_cost,
    visible,
)
from dvae_lib.statespace.supervised import fit_supervised

__all__ = [
    "BestInference",
    "ChainMoments",
    "ChainPosterior",
    "Component",
    "ComponentsFit",
    "ChainPrecision",
    "Diagnosis",
    "EMResult",
    "FilterResult",
    "Forecast",
    "GaussianChain",
    "GaussianPath",
    "GaussianProcess",
    "GaussianSequence",
    "HMMFilterResult",
    "HMMSmootherResult",
    "HiddenMarkovModel",
    "Innovations",
    "InverseWishartPrior",
    "KERNELS",
    "LinearGaussianSSM",
    "NonlinearGaussianSSM",
    "NormalPrior",
    "SigmaPoints",
    "SmoothedPart",
    "SmootherResult",
    "StateSpaceSample",
    "ViterbiResult",
    "best_inference",
    "covariance_factor",
    "diffuse_forecast",
    "diffuse_innovations",
    "diffuse_log_likelihood",
    "diffuse_smoother",
    "discretise",
    "extended_kalman_filter",
    "extended_kalman_smoother",
    "fit_components",
    "fit_em",
    "fit_supervised",
    "forecast",
    "gaussian_path",
    "hmm_filter",
    "hmm_log_likelihood",
    "hmm_posterior",
    "hmm_sample_posterior",
    "hmm_smoother",
    "innovations",
    "jarque_bera",
    "kalman_filter",
    "kalman_smoother",
    "level",
    "ljung_box",
    "local_level",
    "log_likelihood",
    "matern_ssm",
    "noise_explorer",
    "regression",
    "sample",
    "sample_posterior",
    "season",
    "standard_errors",
    "ssm_at_times",
    "structure_cost",
    "trend",
    "unscented_kalman_filter",
    "unscented_kalman_smoother",
    "variance_ratio",
    "viterbi",
    "visible",
]
