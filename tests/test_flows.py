"""Flows against quadrature, autograd's Jacobian, closed forms, and numbers that a bad network may put out."""

import math

import pytest
import torch
from torch import Generator
from torch.distributions import MultivariateNormal, Normal

from dvae_lib.data.sequences import SequenceDataset
from dvae_lib.distributions import FLOWS, DiagonalGaussian, InverseAutoregressiveFlow, PlanarFlow
from dvae_lib.models import DKF
from dvae_lib.networks import FlowHead
from dvae_lib.training import NonFiniteError, TrainingConfig, fit


def _seeded(seed=0):
    return Generator().manual_seed(seed)


def _flow(name, dim, steps=3, batch=(), scale=1.5, seed=0):
    family = FLOWS[name]
    generator = _seeded(seed)
    sizes = [dim, dim, *[family.step_size(dim)] * steps]
    parameters = [scale * torch.randn(*batch, size, generator=generator, dtype=torch.float64) for size in sizes]
    parameters[1] = 0.3 * parameters[1]
    return family(*parameters)


@pytest.mark.parametrize(("name", "dim"), [("planar", 1), ("planar", 2), ("iaf", 1), ("iaf", 2)])
def test_the_density_integrates_to_one_and_agrees_with_draws(name, dim):
    q = _flow(name, dim, scale=0.8)
    draws = q.sample((200_000,), generator=_seeded(1))
    low, high = draws.amin(0) - 3, draws.amax(0) + 3
    size = 20_001 if dim == 1 else 1501
    axes = [torch.linspace(float(a), float(b), size, dtype=torch.float64) for a, b in zip(low, high, strict=True)]
    points = torch.cartesian_prod(*axes).view(-1, dim)
    volume = math.prod(float(axis[1] - axis[0]) for axis in axes)
    mass = q.log_prob(points).exp() * volume
    assert abs(float(mass.sum()) - 1) < 1e-3
    mean = (mass[:, None] * points).sum(0)
    assert torch.allclose(draws.mean(0), mean, atol=4 * float(draws.std(0).max()) / 200_000**0.5 + 1e-3)
    assert torch.allclose(q.mean, mean, atol=0.25 * float(draws.std(0).max()))


@pytest.mark.parametrize("name", FLOWS)
@pytest.mark.parametrize("dim", [1, 2, 5])
def test_the_determinant_is_that_of_autograd_and_the_way_back_leads_home(name, dim):
    q = _flow(name, dim)
    for k in range(len(q.steps)):
        for seed in range(5):
            epsilon = torch.randn(dim, generator=_seeded(seed), dtype=torch.float64)
            jacobian = torch.autograd.functional.jacobian(lambda e, k=k: q._forward(k, e)[0], epsilon)
            after, determinant = q._forward(k, epsilon)
            assert torch.allclose(torch.linalg.slogdet(jacobian).logabsdet, determinant)
            # Where a step squeezes to a hundredth, rounding is stretched a hundredfold on the way back.
            assert torch.allclose(q._inverse(k, after), epsilon, atol=1e-9)


@pytest.mark.parametrize("name", FLOWS)
def test_of_its_own_draw_the_density_is_known_and_the_same_as_by_the_way_back(name):
    parameters = [p.requires_grad_() for p in _flow(name, 3, batch=(4,)).parameters]
    weights = torch.randn(4, generator=_seeded(5), dtype=torch.float64)
    found = []
    for own in (True, False):
        q = FLOWS[name](*parameters)
        z = q.rsample(generator=_seeded(2))
        log_prob = q.log_prob(z if own else z.clone())
        found.append([log_prob.detach(), *torch.autograd.grad((weights * log_prob).sum() + z.sum(), parameters)])
    for known, way_back in zip(*found, strict=True):
        assert torch.allclose(known, way_back, rtol=1e-6, atol=1e-8)


def test_a_draw_without_gradients_is_scored_with_them():
    parameters = [p.requires_grad_() for p in _flow("planar", 2, batch=(3,)).parameters]
    q = PlanarFlow(*parameters)
    z = q.sample(generator=_seeded())
    assert all(float(g.abs().sum()) > 0 for g in torch.autograd.grad(q.log_prob(z).sum(), parameters))


@pytest.mark.parametrize("name", FLOWS)
def test_without_a_step_or_with_identities_it_is_the_gaussian(name):
    mean, logvar = torch.randn(2, 5, 3, generator=_seeded(), dtype=torch.float64)
    gaussian = DiagonalGaussian(mean, logvar)
    z = gaussian.sample(generator=_seeded(1))
    identities = [FLOWS[name].identity(mean, _seeded(k)) for k in range(3)]
    for q in (FLOWS[name](mean, logvar), FLOWS[name](mean, logvar, *identities)):
        assert torch.allclose(q.log_prob(z), gaussian.log_prob(z))
        assert torch.equal(q.sample(generator=_seeded(1)), z)
        assert torch.allclose(q.mean, mean)


def test_one_autoregressive_step_is_a_gaussian_of_any_covariance():
    dim = 4
    factor = torch.tril(torch.randn(dim, dim, generator=_seeded(), dtype=torch.float64), -1)
    below = factor[torch.tril_indices(dim, dim, -1).unbind()]
    step = torch.zeros(dim * (dim + 1), dtype=torch.float64)
    step[: len(below)] = 10 * torch.atanh(below / 10)
    sigma = torch.linspace(0.5, 2, dim, dtype=torch.float64)
    q = InverseAutoregressiveFlow(torch.ones(dim).double(), 2 * sigma.log(), step)
    root = sigma[:, None] * (torch.eye(dim) + factor)
    p = MultivariateNormal(torch.ones(dim).double(), root @ root.T)
    z = p.sample((10,))
    assert torch.allclose(q.log_prob(z), p.log_prob(z))


def test_of_one_entry_an_autoregressive_flow_is_gaussian_and_a_planar_one_has_two_modes():
    points = torch.linspace(-6, 6, 601, dtype=torch.float64)[:, None]
    density = _flow("iaf", 1, steps=6).log_prob(points)
    assert density.diff().diff().std() < 1e-10  # a parabola
    step = torch.tensor([5.0, 2.0, 0.0], dtype=torch.float64)
    density = PlanarFlow(torch.zeros(1).double(), torch.zeros(1).double(), step).log_prob(points)
    peaks = (density[1:-1] > density[:-2]) & (density[1:-1] > density[2:])
    assert peaks.sum() == 2


@pytest.mark.parametrize("name", FLOWS)
@pytest.mark.parametrize("size", [1e3, 1e12, 1e30])
def test_steps_from_exploding_networks_stay_within_their_bounds(name, size):
    dim = 3
    steps = size * torch.randn(4, FLOWS[name].step_size(dim), generator=_seeded())
    q = FLOWS[name](torch.zeros(dim), torch.zeros(dim), *(step.requires_grad_() for step in steps))
    z = q.rsample((500,), generator=_seeded(1))
    log_prob = q.log_prob(z)
    assert z.isfinite().all()
    assert log_prob.isfinite().all()
    normal = Normal(0.0, 1.0).log_prob(torch.randn(500, dim, generator=_seeded(1))).sum(-1)
    highest = 4 * max(math.log(100), math.log(1 + 100 * dim)) if name == "planar" else 4 * 3 * dim
    assert ((log_prob - normal).abs() <= highest + 1e-2).all()
    gradients = torch.autograd.grad(log_prob.sum() + z.square().mean(), q.steps)
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("name", FLOWS)
def test_scales_that_a_model_s_network_sends_off_are_bounded_or_named(name):
    """Those of the steps are bounded; the Gaussian's log-variances are not, and training says where it ended."""
    torch.manual_seed(0)
    x = torch.randn(4, 5, 3, generator=_seeded())
    model = DKF(3, 2, posterior=name, g_dim=8, encoder=(8,), decoder=(8,))
    (head,) = (module for module in model.modules() if isinstance(module, FlowHead))
    with torch.no_grad():
        head.linear.weight[4:] *= 1e12
        head.linear.bias[:4] = head.linear.weight[:4] = 0
    z, q = model.inference(x, generator=_seeded())["z"][:2]
    highest = 4 * math.log(1 + 100 * 2) if name == "planar" else 4 * 3 * 2
    # Of their own draws; by the way back, at single precision, these could be any numbers.
    assert z.isfinite().all()
    assert (q.log_prob(z) < highest).all()
    assert (q.log_prob(z) > -20 - highest).all()
    with torch.no_grad():
        head.linear.bias[2:4] = 1e4
    data = SequenceDataset(list(x))
    with pytest.raises(NonFiniteError, match=r"epoch 1, step 1 .*objective.* not finite"):
        fit(model, data, data, TrainingConfig(max_epochs=1, batch_size=4), progress=False)


def test_it_is_indexed_expanded_and_built_anew_as_the_other_families_are():
    q = _flow("planar", 2, batch=(4, 5))
    z = q.sample(generator=_seeded())
    assert torch.allclose(q[:, 1].log_prob(z[:, 1]), q.log_prob(z)[:, 1])
    assert q[0].expand((3, 5)).log_prob(z[:3]).shape == (3, 5)
    assert torch.allclose(type(q)(*q.parameters).log_prob(z), q.log_prob(z))
    assert q.variance.shape == (4, 5, 2)


def test_a_step_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"a step of PlanarFlow over 2 entries has 5 numbers; step 1 has 4"):
        PlanarFlow(torch.zeros(2), torch.zeros(2), torch.zeros(4))


def test_the_head_starts_near_a_gaussian():
    torch.manual_seed(0)
    for name in FLOWS:
        q = FlowHead(8, 3, name, steps=2)(torch.randn(5, 8))
        assert len(q.steps) == 2
        z = q.sample(generator=_seeded())
        gaussian = DiagonalGaussian(q.loc, q.logvar)
        assert (q.log_prob(z) - gaussian.log_prob(z)).abs().max() < 3


def test_a_head_refuses_what_is_no_flow():
    with pytest.raises(ValueError, match=r"flow must be one of planar, iaf; got 'radial'"):
        FlowHead(3, 2, "radial")
    with pytest.raises(ValueError, match=r"steps must be a whole number of at least 1; got 0"):
        FlowHead(3, 2, "planar", 0)
