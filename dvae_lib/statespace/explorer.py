"""A figure to play with: what the two noise variances do to the gain, the filter and the smoother.

Everything it shows was computed by `kalman_filter` and `kalman_smoother` for a grid of variances beforehand. The page
only looks numbers up, so that the sliders work where no Python runs: on the published book, or in print as a still.
"""

import itertools
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import torch
from jaxtyping import Float
from torch import Tensor

from dvae_lib.resources import widget
from dvae_lib.statespace.kalman import kalman_filter, kalman_smoother
from dvae_lib.statespace.model import LinearGaussianSSM

if TYPE_CHECKING:
    from IPython.display import HTML

__all__ = ["local_level", "noise_explorer"]


def local_level(
    process_variance: float | Tensor, observation_variance: float | Tensor, *, mean: float = 0.0, variance: float = 1e7
) -> LinearGaussianSSM:
    """The local level model: a random walk seen through noise, Eqs. (3.16) and (3.17) with A = C = 1.

    Arguments:
        process_variance: Lambda, the variance of a step of the walk.
        observation_variance: Sigma, the variance of the noise.
        mean: Of the first level.
        variance: Of the first level; large where nothing is known of it.

    Returns:
        The model, in float64, with `z_dim = x_dim = 1`. A and C are fixed: `fit_em` leaves them at 1.
    """
    one = torch.eye(1, dtype=torch.float64)
    return LinearGaussianSSM(
        one, one, process_variance * one, observation_variance * one, mu_1=mean * one[0], Lambda_1=variance * one,
        fixed=("A", "C"),
    )  # fmt: skip


def explorer_data(
    x: Float[Tensor, "time"], process_variances: Sequence[float], observation_variances: Sequence[float]
) -> dict[str, Any]:
    """The numbers behind `noise_explorer`: for each pair of variances the gains, means and standard deviations."""
    series = x.double().unsqueeze(-1)
    cases = []
    for q, r in itertools.product(process_variances, observation_variances):
        ssm = local_level(q, r, variance=100.0)
        filtered, smoothed = kalman_filter(ssm, series), kalman_smoother(ssm, series)
        predicted = filtered.predicted_covariance[:, 0, 0]
        gain = torch.where(x.isnan(), torch.nan, predicted / (predicted + r))
        columns = {
            "gain": gain,
            "filter": filtered.mean[:, 0],
            "filterSd": filtered.covariance[:, 0, 0].sqrt(),
            "smoother": smoothed.mean[:, 0],
            "smootherSd": smoothed.covariance[:, 0, 0].sqrt(),
        }
        cases.append(
            {name: _rounded(values) for name, values in columns.items()}
            | {"logLikelihood": round(float(filtered.log_likelihood), 2)}
        )
    return {
        "x": _rounded(x),
        "processVariances": list(process_variances),
        "observationVariances": list(observation_variances),
        "cases": cases,
    }


def noise_explorer(
    x: Float[Tensor, "time"], process_variances: Sequence[float], observation_variances: Sequence[float]
) -> "HTML":
    """Two sliders, for the process and the observation noise of a local level model, over filter, smoother and gain.

    Arguments:
        x: One series, `(T,)`; NaN where missing.
        process_variances: Values of Lambda on the first slider, rising.
        observation_variances: Values of Sigma on the second.

    Returns:
        HTML that needs no kernel and loads nothing.
    """
    from IPython.display import HTML

    from dvae_lib.plotting import CARD, COLOURS  # with matplotlib, which only drawing needs

    page = widget(
        "noise_explorer.html",
        ID=f"explorer-{uuid4().hex[:8]}",
        CARD=CARD,
        OBSERVED=COLOURS["observed"],
        FILTER=COLOURS["reconstruction"],
        SMOOTHER=COLOURS["posterior"],
        DATA=json.dumps(explorer_data(x, process_variances, observation_variances), separators=(",", ":")),
    )
    return HTML(page)  # type: ignore[no-untyped-call]


def _rounded(values: Tensor) -> list[float | None]:
    return [None if value != value else round(value, 3) for value in values.tolist()]
