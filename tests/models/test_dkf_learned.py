"""A deep Kalman filter learned on data from a linear-Gaussian model, whose true likelihood the Kalman filter knows."""

import math

import pytest
import torch

from dvae_lib.data.sequences import SequenceDataset
from dvae_lib.models.dkf import DKF
from dvae_lib.statespace import LinearGaussianSSM, log_likelihood, sample
from dvae_lib.training import TrainingConfig, fit
from dvae_lib.training.schedules import Schedule

NUM_STEPS = 20


@pytest.fixture(scope="module")
def judge():
    """A slowly moving scalar seen twice through noise: training data, test data, true nats per frame."""
    one = torch.ones(1, 1, dtype=torch.float64)
    ssm = LinearGaussianSSM(
        0.95 * one,
        torch.tensor([[1.0], [-0.7]], dtype=torch.float64),
        0.1 * one,
        torch.diag(torch.tensor([0.5, 0.8], dtype=torch.float64)),
        mu_1=torch.zeros(1, dtype=torch.float64),
        Lambda_1=0.1 * one,
    )
    generator = torch.Generator().manual_seed(7)
    train, test = (sample(ssm, NUM_STEPS, sample_shape=(n,), generator=generator).x for n in (3000, 300))
    truth = log_likelihood(ssm, test).mean().item() / NUM_STEPS
    return SequenceDataset(list(train.float())), test.float(), truth


def gaps(judge, inference_model):
    """What a learned model lacks to the truth, in nats per frame: its bound, and almost its likelihood."""
    train, test, truth = judge
    torch.manual_seed(0)
    model = DKF(2, 1, inference_model=inference_model, transition=16, decoder=(), encoder=(), g_dim=24, cell="gru")
    config = TrainingConfig(
        learning_rate=Schedule(((0, 1e-2), (6, 1e-2), (11, 2e-4))),
        batch_size=100,
        max_epochs=11,
        gradient_clip=5.0,
    )
    fit(model, train, None, config, progress=False)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        bound = model.vlb(test, num_samples=10, generator=generator).value.mean().item() / NUM_STEPS
    weighted = model.importance_weighted_bound(test, num_samples=50, generator=generator).mean().item() / NUM_STEPS
    return truth - bound, truth - weighted


def test_learned_smoother_comes_near_the_truth(judge):
    """Within 0.03 nats per frame of the Kalman likelihood; a Gaussian for all frames is 0.15 away or more."""
    _, test, truth = judge
    total, model = gaps(judge, "smoother")
    assert 0 < total < 0.03
    assert model < 0.015
    frames = test.reshape(-1, 2)
    flat = torch.distributions.MultivariateNormal(frames.mean(0), torch.cov(frames.T)).log_prob(frames).mean().item()
    assert total < 0.2 * (truth - flat)


def test_inference_without_the_past_state_costs_what_it_must(judge):
    """Less than its price at the true parameters, because the model bends to its inference; more than nothing."""
    total, model = gaps(judge, "local")
    price = 0.2739  # Table 5.b of the book: Eq. (4.h) at the true parameters
    assert 0.06 < total < price
    assert model > 0.03
    assert math.isfinite(model)
