"""Chains of Gaussian and of discrete states on a machine that has a GPU: the same numbers as on its CPU."""

import pytest
import torch

from dvae_lib.distributions import OBSERVATIONS
from dvae_lib.statespace import (
    GaussianChain,
    HiddenMarkovModel,
    LinearGaussianSSM,
    fit_em,
    forecast,
    hmm_filter,
    hmm_sample_posterior,
    hmm_smoother,
    kalman_filter,
    kalman_smoother,
    viterbi,
)

METHODS = ("sequential", "parallel")


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def gaussian(method, device):
    F, b, noise = (
        value.to(device) for value in (0.5 * numbers(2, 6, 3, 3), numbers(2, 6, 3), numbers(2, 6, 3, seed=1))
    )
    D = (numbers(2, 6, 3, 3, seed=2).tril(-1) + 2 * torch.eye(3)).to(device)
    lengths = torch.tensor([6, 4])  # whole numbers that are looked at lie on the CPU
    chain = GaussianChain(F, b, D, lengths=lengths, method=method)
    posterior = chain.condition(noise.square(), b)
    scalar = GaussianChain(b.tanh(), b, b.square() + 0.1, method=method).condition(noise.square(), b)
    z = chain.rsample(noise=noise)
    return (
        z,
        chain.log_prob(z),
        chain.entropy(),
        *chain.moments(),
        GaussianChain.from_potentials(*chain.precision(), method=method).mean,
        chain.reversed().offset,
        posterior.chain.mean,
        posterior.log_normalizer,
        posterior.chain.kl(chain),
        scalar.chain.variance,
        scalar.log_normalizer,
    )


def discrete(method, device):
    initial, transition, evidence = (
        value.to(device) for value in (numbers(3).log_softmax(-1), numbers(3, 3).log_softmax(-1), numbers(2, 7, 3))
    )
    hmm = HiddenMarkovModel(initial, transition)
    options = {"lengths": torch.tensor([7, 5]), "method": method}
    return (*hmm_filter(hmm, evidence, **options), *hmm_smoother(hmm, evidence, **options),
            *viterbi(hmm, evidence, **options))  # fmt: skip


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("infer", [gaussian, discrete])
def test_the_same_numbers(second, infer, method):
    for there, here in zip(infer(method, second), infer(method, torch.device("cpu")), strict=True):
        assert there.device.type == second.type
        torch.testing.assert_close(there.cpu(), here, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize("case", ["steady", "a vague start", "gaps"])
def test_kalman_filters_that_choose_their_method(second, case):
    A, one = torch.tensor([[0.8, 0.2], [-0.2, 0.7]]).double(), torch.eye(2).double()
    ssm = LinearGaussianSSM(A, one[:1], 0.1 * one, one[:1, :1], mu_1=one[0], Lambda_1=one, m=0.1 * one[1])
    ssm = ssm.replace(Lambda_1=1e9 * one) if case == "a vague start" else ssm
    x = numbers(3, 200, 1).double()
    x[0, 20:30] = torch.nan if case == "gaps" else 0.0

    def all_of(device):
        model, data = ssm.to(device), x.to(device)
        fitted = fit_em(model, data, num_iterations=2)
        found = kalman_filter(model, data), kalman_smoother(model, data), forecast(model, data, 5)
        return *(value for result in found for value in result), *(value for _, value in fitted.ssm.parameters())

    for there, here in zip(all_of(second), all_of(torch.device("cpu")), strict=True):
        assert there.device.type == second.type
        torch.testing.assert_close(there.cpu(), here, rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("as_a_user")
def test_samples_lie_where_the_parameters_do(second):
    g = torch.Generator(second).manual_seed(0)
    for family in OBSERVATIONS.values():
        p = family.from_output(numbers(2, 3 * family.outputs_per_dim).to(second))
        x = p.sample(generator=g)
        assert p.log_prob(x).device.type == x.device.type == second.type
    ones = torch.ones(2, 4, 3, device=second)
    assert GaussianChain(ones, ones, ones).sample((5,), generator=g).device.type == second.type
    hmm = HiddenMarkovModel(ones[0, 0].log_softmax(-1), torch.ones(3, 3, device=second).log_softmax(-1))
    assert hmm_sample_posterior(hmm, ones, generator=g).device.type == second.type
