"""Refined posteriors against the Kalman filter: what the structure allows is reached, and the start never lost."""

import math

import pytest
import torch
from torch import Generator

from dvae_lib import DKF, DSAE, RVAE, SRNN, STORN, VAE, VRNN, SwitchingSSM
from dvae_lib.distributions import Bernoulli, DiagonalGaussian, FullGaussian
from dvae_lib.experiments.inference_gaps import _future, best_filter_bound
from dvae_lib.experiments.scalar_models import LinearModel
from dvae_lib.graphs import DependencySpec
from dvae_lib.inference import refine
from dvae_lib.inference.walking import moved
from dvae_lib.models import DVAE
from dvae_lib.models.base import Context
from dvae_lib.networks import shift
from dvae_lib.objectives import Generated
from dvae_lib.statespace import LinearGaussianSSM, log_likelihood


def _seeded(seed=0):
    return Generator().manual_seed(seed)


class LinearGaussian(DVAE):
    """A linear-Gaussian system of any size, whose inference model is its prior."""

    spec = DependencySpec("z_t ~ z_{t-1} \n x_t ~ z_t", "z_t ~ z_{t-1}").undriven()

    def __init__(self, a, c):
        super().__init__(c.shape[0], c.shape[1])
        self.a, self.c = torch.nn.Parameter(a), torch.nn.Parameter(c)

    def _next(self, z):
        return DiagonalGaussian(z @ self.a.T, torch.zeros_like(z))

    def _seen(self, z):
        mean = z @ self.c.T
        return DiagonalGaussian(mean, torch.zeros_like(mean))

    def _context(self, x, u, lengths, draws, past):
        return Context({"x": x})

    def _propose(self, name, context, known):
        return self._next(known["z_prev"])

    def _generate(self, x, latents, u, lengths, states):
        return Generated({"z": self._next(shift(latents["z"]))}, self._seen(latents["z"]))

    def _initial_state(self, batch_size, draws):
        return {"z": self.a.new_zeros(batch_size, self.z_dim)}

    def _step(self, state, x_prev, u_t, draws):
        z = draws("z", self._next(state["z"]), z_prev=state["z"])
        return self._seen(z), {"z": z}


def _system():
    a = torch.tensor([[0.8, 0.4], [-0.4, 0.8]], dtype=torch.float64)
    c = torch.tensor([[1.0, 0.8], [0.6, 1.2]], dtype=torch.float64)
    model = LinearGaussian(a, c)
    x = model.generate(4, 2, generator=_seeded()).x.detach()
    eye, zero = torch.eye(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    truth = log_likelihood(LinearGaussianSSM(a, c, eye, eye, mu_1=zero, Lambda_1=eye), x)
    return model, x, truth


def test_with_the_exact_structure_it_reaches_the_kalman_likelihood():
    """From the prior, by gradients alone; at the exact posterior every draw's weight is log p(x)."""
    model = LinearModel(0.9).double()
    x = model.generate(3, 2, generator=_seeded()).x.detach()
    _, truth = best_filter_bound(model, x)
    options = {"steps": 600, "learning_rate": 0.3, "num_samples": 8, "evaluation_samples": 8}
    refined = refine(model, x, generator=_seeded(1), **options)
    weights = refined.log_weights(200, _seeded(2))
    assert (weights.mean(0) - truth).abs().max() < 1e-4
    assert weights.std(0).max() < 1e-2
    precisions, _ = _future(model, x)
    for t, precision in enumerate(precisions):  # of the message from later frames
        exact = 1 / (2 + precision)
        assert torch.allclose(refined.posterior(t)["z"].variance, exact.expand(2, 1), rtol=0.02)


def test_of_two_entries_it_takes_a_flow_to_reach_the_kalman_likelihood():
    """Given the latent before, the exact posterior's entries lean on each other: an arrow that a diagonal one lacks."""
    model, x, truth = _system()
    options = {"steps": 1000, "learning_rate": 0.1, "num_samples": 4, "generator": _seeded(1)}
    diagonal = refine(model, x, **options).vlb(1000, _seeded(2))
    full = refine(model, x, flow="iaf", flow_steps=1, **options).vlb(200, _seeded(2))
    assert (full - truth).abs().max() < 1e-3
    assert (truth - diagonal > 0.1).all()


def test_without_an_arrow_from_the_latent_before_it_reaches_the_best_independent_frames():
    """Mean field of a Gaussian: the exact posterior's mean, and the inverse of its precision's diagonal."""
    model = LinearModel(0.9).double()
    x = model.generate(5, 2, generator=_seeded()).x.detach()
    _, truth = best_filter_bound(model, x)
    a, frames = 0.9, 5
    chain = torch.eye(frames, dtype=torch.float64) - torch.diag(torch.full((frames - 1,), a).double(), -1)
    precision = chain.T @ chain + torch.eye(frames, dtype=torch.float64)
    gap = 0.5 * (precision.diagonal().log().sum() - torch.logdet(precision))

    class Independent(LinearModel):
        """Its inference model knows nothing, the latent before included."""

        def _propose(self, name, context, known):
            return DiagonalGaussian(torch.zeros_like(context["x"]), torch.zeros_like(context["x"]))

    free = Independent(0.9).double()
    refined = refine(free, x, gain=False, steps=1500, learning_rate=0.05, num_samples=32, generator=_seeded(1))
    bound = refined.vlb(20_000, _seeded(2))
    assert (truth - bound - gap).abs().max() < 0.03


@pytest.mark.parametrize(
    "model",
    [
        DKF(3, 2),
        DKF(3, 2, inference_model="whole"),
        DKF(3, 2, posterior="planar", flow_steps=2),
        VRNN(3, 2),
        SRNN(3, 2),
        STORN(3, 2),
        DSAE(3, 2),
        VAE(3, 2),
        DKF(3, 2, u_dim=1),
        SwitchingSSM(3, 2),
    ],
    ids=lambda m: f"{type(m).__name__}-{m.options.get('inference_model')}-{m.u_dim}",
)
@pytest.mark.parametrize("flow", [None, "planar"])
def test_the_start_is_the_amortised_bound_and_is_never_lost(model, flow):
    """Zero moves change nothing: the draws are the model's own. Then no sequence falls below."""
    if flow and isinstance(model, DKF) and model.options.get("posterior") == "planar":
        pytest.skip("a flow is refined as it is")
    torch.manual_seed(0)  # the weights of the one above are those of the moment
    model = type(model)(**model.options).double()
    x = torch.randn(3, 5, 3, generator=_seeded(), dtype=torch.float64)
    u = torch.randn(3, 5, 1, generator=_seeded(), dtype=torch.float64) if model.u_dim else None
    options = {"flow": flow, "evaluation_samples": 64, "num_samples": 2}
    before = {name: value.clone() for name, value in model.state_dict().items()}
    refined = refine(model, x, u, lengths=[5, 3, 1], steps=12, generator=_seeded(1), **options)
    own = model.vlb(x, u, lengths=torch.tensor([5, 3, 1]), num_samples=4000, kl="sampled", generator=_seeded(2)).value
    spread = refined.log_weights(64, _seeded(3)).std(0) + 1
    assert ((refined.start - own).abs() < 5 * spread / 8).all()
    assert (refined.value >= refined.start).all()
    assert (refined.history >= refined.start).all()
    assert (refined.value > refined.start).any()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(weight.grad is None and weight.requires_grad for weight in model.parameters())


def test_a_gaussian_of_any_covariance_moves_in_its_own_units():
    factor = torch.tensor([[2.0, 0.0], [1.0, 0.5]])
    q = moved(FullGaussian(torch.ones(2), factor), torch.tensor([1.0, 0.0]), torch.zeros(2))
    assert torch.allclose(q.mean, torch.tensor([3.0, 2.0]))
    assert torch.allclose(q.covariance_matrix, factor @ factor.T)
    q = moved(FullGaussian(torch.ones(2), factor), torch.zeros(2), torch.tensor([0.4, 0.0]))
    assert torch.allclose(q.scale_tril[:, 0], factor[:, 0] * math.exp(5 * math.tanh(0.04)))


def test_a_learning_rate_that_blows_up_costs_nothing():
    model = DKF(3, 2)
    x = torch.randn(2, 4, 3, generator=_seeded())
    refined = refine(model, x, steps=10, learning_rate=1e6, generator=_seeded())
    assert (refined.value >= refined.start).all()
    assert refined.vlb(10, _seeded()).isfinite().all()


def test_what_cannot_be_refined_says_which_can():
    with pytest.raises(NotImplementedError, match=r"RVAE has no posterior of its own .*DKF, .*, have one$"):
        refine(RVAE(3, 2, generation_model="noncausal"), torch.zeros(1, 3, 3))
    with pytest.raises(NotImplementedError, match=r"RVAE generates all frames together: .* such as DKF"):
        refine(RVAE(3, 2, generation_model="noncausal"), torch.zeros(1, 3, 3), start="prior")
    with pytest.raises(NotImplementedError, match=r"DSAE has a latent of the whole sequence \(v\), .* such as .*VRNN"):
        refine(DSAE(3, 2), torch.zeros(1, 3, 3), start="prior")
    with pytest.raises(NotImplementedError, match=r"the posterior is a Bernoulli: what is moved are Gaussians"):
        moved(Bernoulli(torch.zeros(2)), torch.zeros(2), torch.zeros(2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start": "middle"}, r"start must be 'amortised' or 'prior'; got 'middle'"),
        ({"flow": "radial"}, r"flow must be one of planar, iaf, or None; got 'radial'"),
        ({"steps": 0}, r"steps.* must be at least 1"),
        ({"learning_rate": math.nan}, r"learning_rate must be positive and finite; got nan"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        refine(DKF(3, 2), torch.zeros(1, 3, 3), **options)
