"""Standard errors: against closed forms, statsmodels, and how estimates spread."""

import pytest
import torch
from statsmodels.tsa.statespace.structural import UnobservedComponents

from dvae_lib.statespace import LinearGaussianSSM, fit_em, local_level, sample, standard_errors

pytestmark = pytest.mark.usefixtures("as_a_user")
D = torch.float64
ONE, NONE = torch.eye(1, dtype=D), torch.zeros(1, dtype=D)


def noise():
    return LinearGaussianSSM(0 * ONE, 0 * ONE, ONE, ONE, mu_1=NONE, Lambda_1=ONE, n=NONE)


def test_of_a_mean_and_a_variance_in_closed_form():
    x = 3 + 2 * torch.randn(4, 50, 1, generator=torch.Generator().manual_seed(0), dtype=D)
    names = ("n", "Sigma")
    fitted = fit_em(noise(), x, update=names, num_iterations=200, tolerance=0).ssm
    errors = standard_errors(fitted, x, update=names)
    torch.testing.assert_close(errors["n"][0], (fitted.Sigma[0, 0] / 200).sqrt())
    torch.testing.assert_close(errors["Sigma"][0, 0], fitted.Sigma[0, 0] * (2 / 200) ** 0.5)


def test_of_a_full_covariance_in_closed_form():
    """Of a covariance S from N vectors, Var S_ij = (S_ii S_jj + S_ij^2) / N."""
    factor = torch.tensor([[1.0, 0.0], [0.8, 0.5]], dtype=D)
    x = torch.randn(3, 100, 2, generator=torch.Generator().manual_seed(0), dtype=D) @ factor.mT
    eye = torch.eye(2, dtype=D)
    start = LinearGaussianSSM(0 * eye, 0 * eye, eye, eye, mu_1=eye[0] * 0, Lambda_1=eye)
    fitted = fit_em(start, x, update="Sigma", num_iterations=3).ssm
    S = fitted.Sigma
    expected = ((S.diagonal()[:, None] * S.diagonal() + S.square()) / 300).sqrt()
    torch.testing.assert_close(standard_errors(fitted, x, update="Sigma")["Sigma"], expected, rtol=1e-6, atol=0)


def test_agree_with_statsmodels():
    truth = local_level(1.0, 2.0, mean=0.0, variance=1e7)
    x = sample(local_level(1.0, 2.0, variance=1.0), 200, generator=torch.Generator().manual_seed(1)).x
    names = ("Lambda", "Sigma")
    fitted = fit_em(truth, x, update=names, num_iterations=3000, tolerance=1e-14).ssm
    errors = standard_errors(fitted, x, update=names)
    theirs = UnobservedComponents(x.numpy()[:, 0], "llevel", loglikelihood_burn=0)
    theirs.ssm.initialize_approximate_diffuse(1e7)
    found = theirs.smooth(
        [fitted.Sigma.item(), fitted.Lambda.item()], cov_type="approx", cov_kwds={"approx_complex_step": True}
    )
    expected = torch.tensor(found.bse)
    torch.testing.assert_close(
        torch.stack([errors["Sigma"][0, 0], errors["Lambda"][0, 0]]), expected, rtol=2e-3, atol=0
    )


def test_estimates_spread_as_they_say():
    """Two hundred series of an autoregression: the coefficient's errors, in their own unit, have deviation one."""
    truth = LinearGaussianSSM(0.7 * ONE, ONE, ONE, 1e-8 * ONE, mu_1=NONE, Lambda_1=2 * ONE)
    series = sample(truth, 200, sample_shape=(200,), generator=torch.Generator().manual_seed(0)).x
    scores = []
    for x in series:
        fitted = fit_em(truth, x, update=("A", "Lambda"), num_iterations=5).ssm
        scores.append((fitted.A - truth.A) / standard_errors(fitted, x, update=("A", "Lambda"))["A"])
    assert 0.85 < torch.stack(scores).std() < 1.15  # a deviation of two hundred numbers is off by a twentieth


def test_entries_that_stayed_have_none():
    x = torch.randn(60, 2, generator=torch.Generator().manual_seed(0), dtype=D)
    eye = torch.eye(2, dtype=D)
    start = LinearGaussianSSM(0.1 * eye, eye, eye, eye, mu_1=eye[0] * 0, Lambda_1=eye)
    kept = {"A": [[False, True], [True, False]]}
    options = {"update": ("A", "Sigma"), "kept": kept, "diagonal": "Sigma"}
    errors = standard_errors(fit_em(start, x, num_iterations=300, tolerance=1e-12, **options).ssm, x, **options)
    assert errors["A"].isnan().tolist() == kept["A"]
    assert errors["Sigma"].isnan().tolist() == [[False, True], [True, False]]


def test_what_the_data_do_not_tell_is_named():
    x = torch.randn(80, 1, generator=torch.Generator().manual_seed(1), dtype=D)
    x[0] = torch.nan
    shifted = noise().replace(C=ONE, m=NONE)  # E[x_t] = m + n in all frames but the first
    with pytest.raises(ValueError, match=r"[mn]\[0\], [mn]\[0\].*another set"):
        standard_errors(shifted, x, update=("m", "n"))
    with pytest.raises(ValueError, match=r"say nothing of Lambda\[0, 0\]"):
        standard_errors(noise().replace(A=ONE), x, update=("Lambda", "Sigma"))


def test_missing_values_tell_less():
    x = 3 + torch.randn(100, 1, generator=torch.Generator().manual_seed(0), dtype=D)
    fitted = fit_em(noise(), x, update="n").ssm
    x[::2] = torch.nan
    torch.testing.assert_close(standard_errors(fitted, x, update="n")["n"], torch.tensor([(1 / 50) ** 0.5], dtype=D))
