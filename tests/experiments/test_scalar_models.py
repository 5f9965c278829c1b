"""The scalar models whose truth is known: laws, and the truths against each other and the state-space package."""

import pytest
import torch

from dvae_lib.experiments.scalar_models import (
    GrowthModel,
    LinearModel,
    ScalarStateSpace,
    filter_quality,
    grid_evidence,
    grid_smoother,
    growth_data,
    kalman_score,
)
from dvae_lib.objectives import importance_weighted
from dvae_lib.statespace import LinearGaussianSSM, kalman_filter, kalman_smoother
from dvae_lib.testing import check_model


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    "model", [LinearModel(0.8, proposal="optimal"), GrowthModel("gaussian"), GrowthModel("mixture")]
)
def test_laws(model):
    check_model(model)


def test_evidence_on_a_grid_is_the_kalman_filters():
    model, one = LinearModel(0.8, observation_variance=2.0), torch.eye(1, dtype=torch.float64)
    x = torch.randn(3, 6, 1, generator=seeded(), dtype=torch.float64)
    found, density, points = grid_evidence(model, x, None, low=-15.0, high=15.0, size=2001)
    ssm = LinearGaussianSSM(0.8 * one, one, one, 2 * one, mu_1=torch.zeros(1).double(), Lambda_1=one)
    exact = kalman_filter(ssm, x)
    torch.testing.assert_close(found, exact.log_likelihood, atol=1e-6, rtol=0)  # 0.8 is a float's
    mean = (density * points).sum(-1) * (points[1] - points[0])
    torch.testing.assert_close(mean, exact.mean[..., 0], atol=1e-6, rtol=0)


def test_what_all_frames_say_on_a_grid_is_the_kalman_smoothers():
    """Means and variances; and the most probable path of a Gaussian is its mean, to within a point."""
    model, one = LinearModel(0.8, observation_variance=2.0), torch.eye(1, dtype=torch.float64)
    x = torch.randn(3, 6, 1, generator=seeded(), dtype=torch.float64)
    found = grid_smoother(model, x, None, low=-12.0, high=12.0, size=1201)
    ssm = LinearGaussianSSM(0.8 * one, one, one, 2 * one, mu_1=torch.zeros(1).double(), Lambda_1=one)
    exact, width = kalman_smoother(ssm, x), found.points[1] - found.points[0]
    torch.testing.assert_close(found.evidence, kalman_filter(ssm, x).log_likelihood, atol=1e-6, rtol=0)
    mean = (found.density * found.points).sum(-1) * width
    torch.testing.assert_close(mean, exact.mean[..., 0], atol=1e-6, rtol=0)
    variance = (found.density * (found.points - mean[..., None]).square()).sum(-1) * width
    torch.testing.assert_close(variance, exact.covariance[..., 0, 0], atol=1e-6, rtol=0)
    torch.testing.assert_close(found.path, exact.mean, atol=1.01 * width.item(), rtol=0)


def test_no_path_of_the_growth_model_on_a_grid_is_more_probable():
    """Against all paths of three frames on a coarse grid."""
    x, u, _ = growth_data(2, 3, seeded(3))
    model = GrowthModel().double()
    found = grid_smoother(model, x, u, low=-20.0, high=20.0, size=41)
    paths = torch.cartesian_prod(*[found.points] * 3)[..., None]
    for number in range(2):
        every = [value.double().expand(len(paths), -1, -1) for value in (x[number], u[number])]
        out = model.generation(every[0], {"z": paths}, every[1])
        score = out.prior["z"].log_prob(paths).sum(1) + out.observation.log_prob(every[0]).sum(1)
        torch.testing.assert_close(found.path[number], paths[score.argmax()])


def test_score_is_the_slope_of_the_evidence():
    x = torch.randn(1, 8, 1, generator=seeded(), dtype=torch.float64)
    model, step = LinearModel(0.7).double(), 1e-4

    def evidence(a):
        model.a.data.fill_(a)
        return grid_evidence(model, x, None, low=-15.0, high=15.0, size=2001)[0]

    slope = (evidence(0.7 + step) - evidence(0.7 - step)) / (2 * step)
    found = kalman_score(model, x, torch.tensor([0.7], dtype=torch.float64))
    torch.testing.assert_close(found, slope, atol=1e-5, rtol=0)


@pytest.mark.parametrize("proposal", ["prior", "ekf", "ukf", "mixture"])
def test_evidence_of_the_growth_model_is_what_weighted_samples_say(proposal):
    torch.manual_seed(0)
    x, u, _ = growth_data(2, 2, seeded())
    model = GrowthModel(proposal)
    exact, _, _ = grid_evidence(model, x, u, low=-45.0, high=45.0, size=1500)
    with torch.no_grad():
        estimate = importance_weighted(model, x, u, num_samples=200_000, generator=seeded(1)).value
    torch.testing.assert_close(estimate.double(), exact, atol=0.05, rtol=0)


def test_a_better_proposal_loses_less():
    """The optimal proposal of a linear model, against its prior; each filter falls short of the truth on average."""
    x = LinearModel(0.9, observation_variance=0.05).generate(30, 40, generator=seeded()).x.detach()
    lost = {}
    for proposal in ("prior", "optimal"):
        model = LinearModel(0.9, observation_variance=0.05, proposal=proposal)
        evidence, density, points = grid_evidence(model, x, None, low=-15.0, high=15.0, size=1501)
        mean = ((density * points).sum(-1) * (points[1] - points[0])).float()
        lost[proposal] = filter_quality(model, x, None, evidence, mean, num_particles=20, generator=seeded(1))
    assert lost["optimal"].shortfall.mean() > 0
    for measure in ("shortfall", "error"):
        gap = getattr(lost["prior"], measure) - getattr(lost["optimal"], measure)
        assert gap.mean() > 4 * gap.std() / len(x) ** 0.5
    assert (lost["optimal"].effective > lost["prior"].effective).all()


def test_refusals():
    with pytest.raises(ValueError, match="proposal must be one of prior"):
        GrowthModel("kalman")
    with pytest.raises(NotImplementedError):
        ScalarStateSpace().transition(torch.zeros(1), None)
