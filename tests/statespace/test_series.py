"""Series as people hold them: every kind of array gives what the tensor gives, or one sentence."""

import numpy as np
import pandas as pd
import pytest
import torch

from dvae_lib.statespace import (
    LinearGaussianSSM,
    extended_kalman_filter,
    fit_em,
    forecast,
    kalman_filter,
    kalman_smoother,
    local_level,
    log_likelihood,
    sample,
    sample_posterior,
    unscented_kalman_smoother,
)
from dvae_lib.statespace.nonlinear import NonlinearGaussianSSM

pytestmark = pytest.mark.usefixtures("as_a_user")

VALUES = np.array([[3.0], [1.0], [4.0], [1.0], [5.0]])
GAP = np.ma.masked_equal(VALUES, 4.0)
WITH_NAN = np.where(VALUES == 4, np.nan, VALUES)

ARRAYS = {
    **{f"{order}{kind}": VALUES.astype(order + kind) for order in "<>" for kind in
       ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")},
    "reversed": np.ascontiguousarray(VALUES[::-1])[::-1],
    "every second": np.repeat(VALUES, 2, axis=0)[::2],
    "Fortran": np.asfortranarray(VALUES),
    "list": VALUES.tolist(),
    "DataFrame": pd.DataFrame(VALUES, columns=["level"]),
    "integers in a DataFrame": pd.DataFrame(VALUES.astype(int)),
}  # fmt: skip


def as_nonlinear(level: LinearGaussianSSM) -> NonlinearGaussianSSM:
    return NonlinearGaussianSSM(
        lambda z: z, lambda z: z, level.Lambda, level.Sigma, mu_1=level.mu_1, Lambda_1=level.Lambda_1
    )


INFERENCES = {
    "filter": lambda ssm, x, mask=None: kalman_filter(ssm, x, mask=mask).mean,
    "smoother": lambda ssm, x, mask=None: kalman_smoother(ssm, x, mask=mask).mean,
    "likelihood": lambda ssm, x, mask=None: log_likelihood(ssm, x, mask=mask),
    "draws": lambda ssm, x, mask=None: sample_posterior(ssm, x, mask=mask, generator=torch.Generator().manual_seed(0)),
    "forecast": lambda ssm, x, mask=None: forecast(ssm, x, 2, mask=mask).mean,
    "EM": lambda ssm, x, mask=None: fit_em(ssm, x, mask=mask, num_iterations=2).log_likelihoods,
    "extended": lambda ssm, x, mask=None: extended_kalman_filter(as_nonlinear(ssm), x, mask=mask).mean,
    "unscented": lambda ssm, x, mask=None: unscented_kalman_smoother(as_nonlinear(ssm), x, mask=mask).mean,
}


@pytest.mark.parametrize("name", INFERENCES)
def test_arrays_give_what_tensors_give(name):
    ssm, infer = local_level(1.0, 1.0, variance=100.0), INFERENCES[name]
    expected = infer(ssm, torch.from_numpy(VALUES))
    for kind, array in ARRAYS.items():
        assert torch.equal(infer(ssm, array), expected), kind
    seen = WITH_NAN[:, 0] == VALUES[:, 0]
    gap = infer(ssm, torch.from_numpy(WITH_NAN))
    hidden = torch.from_numpy(np.where(WITH_NAN == VALUES, VALUES, -9999.0))
    assert not torch.equal(gap, expected)
    for kind, array, mask in (
        ("NaN", WITH_NAN, None),
        ("masked", GAP, None),
        ("masked integers", GAP.astype(int), None),
        ("empty cells", pd.DataFrame(WITH_NAN), None),
        ("nullable integers", pd.DataFrame(WITH_NAN).astype("Int64"), None),
        ("mask as an array", hidden, seen),
        ("mask as a list", hidden, seen.tolist()),
    ):
        torch.testing.assert_close(infer(ssm, array, mask), gap, msg=lambda text, kind=kind: f"{kind}: {text}")


def test_arrays_are_not_rounded_to_the_dtype_of_the_model():
    """Metres on a map: in float32 they would be half a metre apart."""
    ssm = local_level(0.01, 0.01, mean=5_432_100.0, variance=1.0)
    x = 5_432_100 + 0.05 * np.random.default_rng(0).normal(size=(50, 1)).cumsum(axis=0)
    likelihood = log_likelihood(ssm.to(torch.float32), x)
    assert likelihood.dtype == torch.float32
    torch.testing.assert_close(likelihood.double(), log_likelihood(ssm, x), rtol=1e-6, atol=1e-6)


def test_lists_of_series():
    ssm = local_level(1.0, 1.0)
    series = [VALUES, VALUES[:3], pd.DataFrame(VALUES[:1])]
    both = log_likelihood(ssm, series)
    for i, own in enumerate(series):
        torch.testing.assert_close(both[i], log_likelihood(ssm, own))
    masks = [np.ones((5, 1), dtype=bool), np.array([[True], [False], [True]]), np.ones((1, 1), dtype=bool)]
    masked = log_likelihood(ssm, series, mask=masks)
    torch.testing.assert_close(masked[1], log_likelihood(ssm, VALUES[:3], mask=masks[1]))
    assert kalman_smoother(ssm, [VALUES, VALUES]).mean.shape == (2, 5, 1)
    assert forecast(ssm, [VALUES, VALUES], 3).mean.shape == (2, 3, 1)
    with pytest.raises(ValueError, match="one by one"):
        forecast(ssm, [VALUES, VALUES[:3]], 3)
    with pytest.raises(ValueError, match="agree in their last dimension"):
        log_likelihood(ssm, [VALUES, np.zeros((5, 2))])


def test_inputs_may_be_arrays():
    one = torch.eye(1)
    ssm = LinearGaussianSSM(one, one, one, one, mu_1=torch.zeros(1), Lambda_1=one, B=one)
    u = np.arange(5.0)[::-1, None]
    expected = log_likelihood(ssm, torch.zeros(5, 1), torch.from_numpy(u.copy()).float())
    assert torch.equal(log_likelihood(ssm, np.zeros((5, 1)), u), expected)
    assert torch.equal(log_likelihood(ssm, [np.zeros((5, 1))] * 2, [u, u]), expected.expand(2))
    assert sample(ssm, 5, u).x.shape == (5, 1)


@pytest.mark.parametrize("name", INFERENCES)
@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (np.array([["a"]]), TypeError, "x is not an array of numbers"),
        (np.array([["2024-01-01"]], dtype="datetime64[D]"), TypeError, "times"),
        (VALUES + 1j, TypeError, "real numbers"),
        (None, TypeError, "x is None"),
        ([[1.0], [2.0, 3.0]], TypeError, "x is not an array of numbers"),
        (VALUES[:, 0], ValueError, "x must have shape"),
        (np.full((3, 1), np.inf), ValueError, "finite"),
        (torch.arange(5)[:, None], TypeError, "floating-point"),
    ],
)
def test_what_is_no_series_is_refused_in_a_sentence(name, x, error, message):
    with pytest.raises(error, match=message):
        INFERENCES[name](local_level(1.0, 1.0), x)
