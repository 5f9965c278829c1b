"""NASMC: its gradients against closed forms, sums and integrals; its value; what shares a number of particles."""

from functools import partial

import pytest
import torch
from torch import nn

from dvae_lib import DSAE, LVRNN, STORN, VRNN, build_model
from dvae_lib.data import SequenceDataset
from dvae_lib.distributions import Bernoulli, DiagonalGaussian
from dvae_lib.experiments.scalar_models import LinearModel, filtered_score, kalman_score
from dvae_lib.graphs import DependencySpec
from dvae_lib.models import DVAE
from dvae_lib.models.draws import Context
from dvae_lib.objectives import Generated, nasmc, particle, particles
from dvae_lib.objectives.terms import frame_log_prob
from dvae_lib.training import NonFiniteError, TrainingConfig, fit


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def gradient(model, x, parameter, **options):
    model.zero_grad()
    nasmc(model, x, **options).value.sum().backward()
    return parameter.grad.clone()


def repeated(model, x, parameter, repeats, **options):
    """Mean and standard error of a scalar gradient over independent filters."""
    each = torch.stack([gradient(model, x, parameter, generator=seeded(i), **options) for i in range(repeats)])
    return each.mean(), each.std() / repeats**0.5


@pytest.mark.parametrize(("weights", "truth"), [("filtering", filtered_score), ("smoothing", kalman_score)])
def test_gradient_of_a_linear_gaussian_model(weights, truth):
    """With many particles: the score for weights of whole paths, and for filtering weights its closed-form stand-in."""
    x = torch.randn(1, 6, 1, generator=seeded(3), dtype=torch.float64).cumsum(1)
    model = LinearModel(0.8, proposal="optimal").double()
    mean, error = repeated(model, x, model.a, 20, num_particles=20_000, weights=weights)
    assert abs(mean - truth(model, x)) < 4 * error
    other = kalman_score if truth is filtered_score else filtered_score
    assert abs(mean - other(model, x)) > 10 * error  # so that the test tells them apart


def test_filtering_weights_bias_the_gradient_and_not_its_mean_over_data():
    r"""At the data's own parameter the expectation of the stand-in is zero, as that of the score is."""
    model = LinearModel(0.8).double()
    x = model.generate(20, 4000, generator=seeded()).x.detach()
    for score in (kalman_score(model, x), filtered_score(model, x)):
        assert abs(score.mean()) < 4 * score.std() / len(x) ** 0.5
    assert (kalman_score(model, x) - filtered_score(model, x)).std() > 1


def test_the_proposal_is_fitted_to_the_posterior():
    """One frame: the gradient is the mean, under the exact posterior, of that of log q."""
    torch.manual_seed(0)
    model = LinearModel(0.8, proposal="gaussian").double()
    x = torch.tensor([[[1.3]]], dtype=torch.float64)
    parameter = model.e_z[-1].bias
    found = torch.stack([gradient(model, x, parameter, num_particles=20_000, generator=seeded(i)) for i in range(20)])
    z = torch.linspace(-10, 11, 4001, dtype=torch.float64)
    posterior = torch.softmax(-0.5 * z.square() - 0.5 * (1.3 - z).square(), 0)  # prior N(0, 1), noise 1
    q = model.inference(x)["z"].posterior
    (expected,) = torch.autograd.grad((posterior * q.log_prob(z[:, None, None, None])[:, 0, 0]).sum(), parameter)
    assert ((found.mean(0) - expected).abs() < 4 * found.std(0) / 20**0.5).all()


class Bits(DVAE):
    """Two bits that nothing connects over time, seen through a linear layer."""

    spec = DependencySpec("z_t ~ \n x_t ~ z_t", "z_t ~ x_t")

    def __init__(self):
        super().__init__(1, 2)
        self.p, self.d, self.e = nn.Parameter(torch.tensor([0.3, -0.5])), nn.Linear(2, 1), nn.Linear(1, 2)

    def _context(self, x, u, lengths, draws, past):
        return Context({"x": x})

    def _propose(self, name, context, known):
        return Bernoulli(self.e(context["x"]))

    def _observe(self, z):
        mean = self.d(z)
        return DiagonalGaussian(mean, torch.zeros_like(mean))

    def _generate(self, x, latents, u, lengths, states):
        return Generated({"z": Bernoulli(self.p.expand_as(latents["z"]))}, self._observe(latents["z"]))

    def _initial_state(self, batch_size, draws):
        return {}

    def _step(self, state, x_prev, u_t, draws):
        return self._observe(draws("z", Bernoulli(self.p.expand(len(x_prev), 2)))), state


def test_discrete_latents_are_learned_by_enumeration_s_gradient():
    torch.manual_seed(1)
    model = Bits().double()
    x = torch.tensor([[[0.7]]], dtype=torch.float64)
    every = torch.tensor([[0.0, 0], [0, 1], [1, 0], [1, 1]], dtype=torch.float64)
    joint = Bernoulli(model.p.expand(4, 2)).log_prob(every) + model._observe(every).log_prob(x[0].expand(4, 1))
    expected = torch.autograd.grad(joint.logsumexp(0), [model.p, model.d.weight])
    model.zero_grad()
    nasmc(model, x, num_particles=400_000, generator=seeded()).value.sum().backward()
    for parameter, exact in zip((model.p, model.d.weight), expected, strict=True):
        torch.testing.assert_close(parameter.grad, exact, atol=5e-3, rtol=0.02)


@pytest.mark.parametrize("cls", [LVRNN, STORN, VRNN, DSAE, partial(LVRNN, prior="iid")])
def test_value_is_that_of_the_particle_bound(cls):
    torch.manual_seed(0)
    model = cls(3, 2).double()
    x = torch.randn(4, 6, 3, generator=seeded(1), dtype=torch.float64)
    lengths = torch.tensor([6, 1, 4, 2])
    for weights in ("filtering", "smoothing"):
        options = {"lengths": lengths, "num_particles": 6}
        one = nasmc(model, x, weights=weights, generator=seeded(), **options)
        other = particle(model, x, generator=seeded(), **options)
        torch.testing.assert_close(one.value, other.value)
        torch.testing.assert_close(one.effective_sample_size, other.effective_sample_size)


@pytest.mark.parametrize("weights", ["filtering", "smoothing"])
def test_reaches_every_parameter_and_padding_none(weights):
    torch.manual_seed(0)
    model = LVRNN(3, 2).double()
    x = torch.randn(2, 5, 3, generator=seeded(1), dtype=torch.float64)
    lengths = torch.tensor([5, 3])
    found = []
    for padding in (0.0, 1e3):
        padded = x.clone()
        padded[1, 3:] = padding
        model.zero_grad()
        nasmc(model, padded, lengths=lengths, weights=weights, generator=seeded()).value.sum().backward()
        found.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.isfinite(value).all() for value in found[0])
    torch.testing.assert_close(*found)


def test_no_gradient_passes_through_a_draw():
    """One frame and one particle: what is differentiated are densities at a draw, and the draw is not."""
    torch.manual_seed(0)
    model = LVRNN(3, 2, prior="iid").double()
    x = torch.randn(1, 1, 3, generator=seeded(1), dtype=torch.float64)
    nasmc(model, x, num_particles=1, generator=seeded()).value.sum().backward()
    found = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    z = model.inference(x, generator=seeded())["z"].sample.detach()  # the same noise
    q, p = model.inference(x, latents={"z": z})["z"].posterior, model.generation(x, {"z": z})
    (q.log_prob(z).sum() + p.prior["z"].log_prob(z).sum() + p.observation.log_prob(x).sum()).backward()
    torch.testing.assert_close(found, [parameter.grad for parameter in model.parameters()])


def test_refusals(as_a_user):
    x = torch.zeros(1, 3, 3)
    with pytest.raises(ValueError, match="'filtering' or 'smoothing'"):
        nasmc(LVRNN(3, 2), x, weights="final")
    with pytest.raises(ValueError, match="at least 1"):
        nasmc(LVRNN(3, 2), x, num_particles=0)
    with pytest.raises(ValueError, match="between 0 and 1"):
        nasmc(LVRNN(3, 2), x, threshold=2.0)
    with pytest.raises(NotImplementedError, match="no proposal per frame"):
        nasmc(build_model("rvae-noncausal", x_dim=3, z_dim=2), x)


@pytest.mark.parametrize("objective", [particle, nasmc, partial(nasmc, weights="smoothing")])
def test_particles_that_all_die_make_their_own_sequence_impossible(objective):
    torch.manual_seed(0)
    model = VRNN(3, 2, observation="unit_gaussian")
    x = torch.randn(2, 5, 3, generator=seeded(1))
    alive = objective(model, x, num_particles=4, generator=seeded())
    x[0, 2, 1] = 1e25  # its square is infinite
    bound = objective(model, x, num_particles=4, generator=seeded())
    assert bound.value[0] == -torch.inf
    torch.testing.assert_close(bound.value[1], alive.value[1])
    assert bound.effective_sample_size[0, 2] == 0
    assert bound.effective_sample_size.isfinite().all()
    data = SequenceDataset(list(x), names=["impossible", "possible"])
    with pytest.raises(NonFiniteError, match="impossible") as caught:
        fit(model, data, None, TrainingConfig(max_epochs=1, batch_size=2), objective=objective)
    assert caught.value.sequences == ["impossible"]


@pytest.mark.parametrize("weights", ["filtering", "smoothing"])
def test_a_particle_that_dies_does_not_silence_the_others(weights, monkeypatch):
    def with_one_dead(*args):
        seen = frame_log_prob(*args)
        return torch.cat([torch.full_like(seen[:2], -torch.inf), seen[2:]])

    monkeypatch.setattr(particles, "frame_log_prob", with_one_dead)
    torch.manual_seed(0)
    model = VRNN(3, 2, observation="unit_gaussian")
    x = torch.randn(2, 5, 3, generator=seeded(1))
    bound = nasmc(model, x, weights=weights, num_particles=8, generator=seeded())
    bound.value.sum().backward()
    slopes = [p.grad for p in model.parameters()]
    assert bound.value.isfinite().all()
    assert all(slope.isfinite().all() for slope in slopes)
    assert max(slope.abs().max() for slope in slopes) > 0.1
