"""What a filter can reach at best, against draws, averages over data, and filters that are moved away from it."""

import math

import pytest
import torch
from torch import Generator

from dvae_lib.distributions import DiagonalGaussian
from dvae_lib.experiments.inference_gaps import (
    InferredGrowth,
    InferredLinear,
    _filtered,
    _future,
    best_filter_bound,
    greedy_filter_bound,
    mean_structure_gap,
    one_sided_bound,
)
from dvae_lib.experiments.scalar_models import GrowthModel, LinearModel, grid_smoother, growth_data
from dvae_lib.graphs import verify_dependencies
from dvae_lib.statespace import LinearGaussianSSM, log_likelihood


def _data(num_sequences, num_steps=6, seed=0):
    model = LinearModel(0.8, process_variance=0.7, observation_variance=1.5).double()
    return model, model.generate(num_steps, num_sequences, generator=Generator().manual_seed(seed)).x.detach()


def _weights(model, x, mean_of, precision_of, num_samples, seed=1):
    """Log importance weights of a filter q(z_t | z_{t-1}, x_{1:t}) given by its mean and precision."""
    generator = Generator().manual_seed(seed)
    z = torch.zeros(num_samples, len(x), dtype=torch.float64)
    total = torch.zeros_like(z)
    for t in range(x.shape[1]):
        prior_mean = model.a.detach() * z
        q = DiagonalGaussian(mean_of(t, prior_mean)[..., None], -precision_of(t).log().expand(*z.shape, 1))
        z = q.sample(generator=generator)
        prior = DiagonalGaussian(prior_mean[..., None], model.q.log().expand(*z.shape))
        seen = DiagonalGaussian(z, model.r.log().expand(*z.shape))
        total = total + seen.log_prob(x[:, t].expand_as(z)) + prior.log_prob(z) - q.log_prob(z)
        z = z[..., 0]
    return total


def _family(model, x, gain=1.0, sharpness=1.0, future=False):
    """The best filter, or the exact smoother; or a filter that trusts the future more, or less."""
    precisions, centres = _future(model, x)
    means, _, _ = _filtered(model, x)
    centres = centres if future else means

    def precision_of(t):
        return sharpness * (1 / model.q + 1 / model.r + gain * precisions[t]).detach()

    def mean_of(t, prior_mean):
        message = gain * precisions[t] * centres[t]
        total = (1 / model.q + 1 / model.r + gain * precisions[t]).detach()
        return (prior_mean / model.q + x[:, t, 0] / model.r + message) / total

    return mean_of, precision_of


def test_the_likelihood_is_the_kalman_filters_and_the_exact_posterior_attains_it():
    model, x = _data(5)
    one = torch.ones(1, 1, dtype=torch.float64)
    ssm = LinearGaussianSSM(0.8 * one, one, 0.7 * one, 1.5 * one, mu_1=torch.zeros(1).double(), Lambda_1=0.7 * one)
    _, truth = best_filter_bound(model, x)
    assert torch.allclose(truth, log_likelihood(ssm, x), atol=1e-6)
    exact = _weights(model, x, *_family(model, x, future=True), num_samples=7)
    assert torch.allclose(exact, truth.expand(7, -1), atol=1e-6)


def test_the_bounds_are_those_of_draws():
    model, x = _data(4)
    best, _ = best_filter_bound(model, x)
    for bound, gain in ((best, 1.0), (greedy_filter_bound(model, x), 0.0)):
        weights = _weights(model, x, *_family(model, x, gain), num_samples=40_000)
        assert ((weights.mean(0) - bound).abs() < 4 * weights.std(0) / 200).all()


@pytest.mark.parametrize(
    "change", [{"gain": 0.7}, {"gain": 1.3}, {"sharpness": 0.8}, {"sharpness": 1.25}, {"gain": 0.0}]
)
def test_on_average_no_other_filter_is_better(change):
    """The same noise for both: what they differ in is paired."""
    model, x = _data(4000)
    best = _weights(model, x, *_family(model, x), num_samples=8).mean(0)
    other = _weights(model, x, *_family(model, x, **change), num_samples=8).mean(0)
    difference = best - other
    assert difference.mean() > 4 * difference.std() / len(x) ** 0.5


def test_the_mean_gap_is_the_average_over_data():
    model, x = _data(20_000)
    best, truth = best_filter_bound(model, x)
    gap = truth - best
    assert abs(float(gap.mean()) - mean_structure_gap(model, 6)) < 4 * float(gap.std()) / 20_000**0.5
    assert (gap > 0).all()


@pytest.mark.parametrize("cls", [InferredLinear, InferredGrowth])
@pytest.mark.parametrize("structure", ["smoother", "filter"])
@pytest.mark.parametrize("posterior", ["gaussian", "planar"])
def test_inference_networks_have_the_arrows_that_they_say(cls, structure, posterior):
    model = cls(structure, posterior, g_dim=8)
    assert verify_dependencies(model).agrees
    named = {name.split(".")[0] for name, weight in model.named_parameters() if weight.requires_grad}
    assert named == {"recurrence", "network", "head"}


def test_an_unknown_structure_is_refused():
    with pytest.raises(ValueError, match=r"structure must be one of smoother, filter; got 'past'"):
        InferredLinear("past")


def test_on_one_of_two_equal_distant_modes_a_gaussian_loses_the_logarithm_of_two():
    model, first = GrowthModel(), torch.tensor([[[0.0, 1.0]]])
    x = torch.full((1, 1, 1), 20.0)  # so the state is about 20 or about -20
    exact = grid_smoother(model, x, first, low=-45.0, high=45.0, size=4000)
    bound = one_sided_bound(model, x, first, exact, generator=Generator().manual_seed(0))
    assert float(exact.evidence - bound) == pytest.approx(math.log(2), abs=1e-2)


def test_one_sided_gaussians_stay_below_the_likelihood_and_lose_more_when_moved():
    model = GrowthModel()
    x, u, _ = growth_data(8, 6, Generator().manual_seed(0))
    exact = grid_smoother(model, x, u, low=-45.0, high=45.0, size=1500)

    def bound(posterior):
        return one_sided_bound(model, x, u, posterior, generator=Generator().manual_seed(1))

    placed, turned = bound(exact), bound(exact._replace(density=exact.density.flip(-1)))
    assert (placed < exact.evidence + 0.05).all()
    assert (turned < placed - 1).all()  # the other sign, wherever the model has told it
