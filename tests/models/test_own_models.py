"""Models as their readers may write them, whose latents are of other families and orders than those of the review."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import Independent, MultivariateNormal, Normal, constraints

from dvae_lib import build_model
from dvae_lib.distributions import (
    OBSERVATIONS,
    Bernoulli,
    DiagonalGaussian,
    FactorisedDistribution,
    Support,
    register_observation,
    standard_normal,
    support_of,
)
from dvae_lib.graphs import DependencySpec
from dvae_lib.models.base import DVAE, Context, Inferred
from dvae_lib.networks import GaussianHead, ObservationHead, Recurrence
from dvae_lib.objectives import Generated, importance_weighted, particle, vlb
from dvae_lib.testing import LAWS, check_model


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


class Frames(DVAE):
    """Independent frames: a prior, a linear decoder and a linear encoder, whose output becomes the posterior."""

    spec = DependencySpec("z_t ~ \n x_t ~ z_t", "z_t ~ x_t")

    def __init__(self, x_dim, z_dim, *, observation="gaussian"):
        super().__init__(x_dim, z_dim, observation=observation)
        torch.manual_seed(0)
        self.d_x, self.e_z = ObservationHead(z_dim, x_dim, observation), nn.Linear(x_dim, z_dim)

    def prior(self, like):
        return standard_normal(like)

    def posterior(self, output):
        raise NotImplementedError

    def _context(self, x, u, lengths, draws, past):
        return Context({"x": x})

    def _propose(self, name, context, known):
        return self.posterior(self.e_z(context["x"]))

    def _generate(self, x, latents, u, lengths, states):
        return Generated({"z": self.prior(latents["z"])}, self.d_x(latents["z"]))

    def _initial_state(self, batch_size, draws):
        return {}

    def _step(self, state, x_prev, u_t, draws):
        z = draws("z", self.prior(x_prev.new_zeros(len(x_prev), self.z_dim)))
        return self.d_x(z), {}


class Bits(Frames):
    def prior(self, like):
        return Bernoulli(torch.zeros_like(like))

    def posterior(self, output):
        return Bernoulli(output)


class Correlated(Frames):
    def posterior(self, output):
        factor = torch.tensor([[1.0, 0.0], [0.6, 0.8]], dtype=output.dtype)
        return MultivariateNormal(output, scale_tril=factor.expand(*output.shape, 2), validate_args=False)


class OfTorch(Frames):
    def posterior(self, output):
        return Independent(Normal(output, torch.ones_like(output), validate_args=False), 1, validate_args=False)


X = torch.randn(3, 4, 3, generator=seeded()).double()


class TestFamiliesOfPosteriors:
    def test_bits_are_drawn_as_bits(self):
        model = Bits(3, 2).double()
        z = model.inference(X, generator=seeded())["z"].sample
        assert set(z.unique().tolist()) == {0.0, 1.0}
        # The sum over all values of the two bits of every frame.
        values = torch.tensor([[a, b] for a in (0.0, 1.0) for b in (0.0, 1.0)]).double()
        joint = [model.d_x(v.expand(3, 4, 2)).log_prob(X) - 2 * math.log(2) for v in values]
        evidence = torch.stack(joint).logsumexp(0).sum(1)
        bound = model.importance_weighted_bound(X, num_samples=4000, chunk_size=4000, generator=seeded())
        assert (bound - evidence).abs().max() < 0.1

    def test_correlations_are_drawn(self):
        model = Correlated(3, 2).double()
        z = model.inference(X[:1, :1].expand(5000, 1, 3), generator=seeded())["z"].sample[:, 0]
        assert torch.corrcoef(z.T)[0, 1].item() == pytest.approx(0.6, abs=0.03)
        # With the weights of what was drawn, two estimators of one likelihood agree.
        weighted = model.importance_weighted_bound(X, num_samples=20_000, chunk_size=2000, generator=seeded())
        particles = model.smc_bound(X, num_particles=20_000, generator=seeded(1))
        assert (weighted - particles).abs().max() < 0.2

    @pytest.mark.parametrize("family", [Bits, Correlated, OfTorch])
    def test_the_laws_hold(self, family):
        verdicts = check_model(family(3, 2), X.repeat(2, 2, 1))
        assert set(verdicts.values()) == {"holds"}


class Together(DVAE):
    """All frames are decoded together, and the latents' prior is not the standard one."""

    spec = DependencySpec("z_t ~ \n g_t <- z_t, g_{t+1} \n x_t ~ g_t", "z_t ~ x_t")

    def __init__(self, x_dim, z_dim, *, observation="gaussian"):
        super().__init__(x_dim, z_dim, observation=observation)
        self.mean = nn.Parameter(torch.full((z_dim,), 50.0))
        self.e_g = Recurrence(z_dim, 4, backward=True)
        self.d_x, self.e_z = ObservationHead(4, x_dim, observation), GaussianHead(x_dim, z_dim)

    def _infer(self, x, u, lengths, draws):
        return Inferred({"z": draws("z", self.e_z(x))})

    def _generate(self, x, latents, u, lengths, states):
        z = latents["z"]
        prior = DiagonalGaussian(self.mean.expand(z.shape), torch.zeros_like(z))
        return Generated({"z": prior}, self.d_x(self.e_g(z, lengths)))


def test_frames_decoded_together_draw_their_latents_from_their_prior():
    model = Together(3, 2)
    z = model.generate(20, 10, generator=seeded()).latents["z"]
    assert z.mean() == pytest.approx(50.0, abs=0.3)
    x = torch.zeros(2, 3, 3)
    continued = model.generate(4, prefix=x, generator=seeded())
    assert continued.latents["z"].shape == (2, 4, 2)
    assert continued.latents["z"].mean() == pytest.approx(50.0, abs=1.5)


class Pair(DVAE):
    """Two latents per frame, one after the other; inference of whole sequences alone."""

    spec = DependencySpec("z_t ~ \n a_t ~ z_t \n x_t ~ a_t", "z_t ~ x_t \n a_t ~ z_t")

    def __init__(self, x_dim, z_dim, *, observation="gaussian"):
        super().__init__(x_dim, z_dim, observation=observation)
        self.a_dim = z_dim
        self.d_a, self.d_x = GaussianHead(z_dim, z_dim), ObservationHead(z_dim, x_dim, observation)
        self.e_z, self.e_a = GaussianHead(x_dim, z_dim), GaussianHead(z_dim, z_dim)

    def _infer(self, x, u, lengths, draws):
        z = draws("z", self.e_z(x))
        return Inferred({"z": z, "a": draws("a", self.e_a(z.sample))})

    def _generate(self, x, latents, u, lengths, states):
        z, a = latents["z"], latents["a"]
        return Generated({"z": standard_normal(z), "a": self.d_a(z)}, self.d_x(a))


def test_a_second_latent_of_a_frame_is_proposed_given_the_first():
    model = Pair(3, 2).double()
    context, state = model.begin_proposals(X)
    for t in range(X.shape[1]):
        proposal = model.propose(state, context.at(t), X[:, t])
        expected = model.e_a(proposal.latents["z"].sample)
        assert torch.equal(proposal.latents["a"].posterior.mean, expected.mean)
        state = proposal.state


def test_a_model_without_a_context_says_so():
    with pytest.raises(NotImplementedError, match="Pair has no _context: write it and _propose"):
        Pair(3, 2).context(X.float())


class OnlyV(DVAE):
    """One latent of the whole sequence, and none of frames."""

    spec = DependencySpec("v ~ \n x_t ~ v, x_{t-1}", "g_t <- x_t, g_{t-1} \n v ~ g_T")

    def __init__(self, x_dim, z_dim=0, *, observation="gaussian", v_dim=2):
        super().__init__(x_dim, z_dim, observation=observation)
        self.v_dim = v_dim
        self.d_x = ObservationHead(v_dim + x_dim, x_dim, observation)
        self.e_g, self.e_v = Recurrence(x_dim, 4), GaussianHead(4, v_dim)

    def _context(self, x, u, lengths, draws, past):
        g = past.run("g", self.e_g, x, lengths)
        last = g[:, -1] if lengths is None else g[torch.arange(len(x)), lengths - 1]
        return Context({}, {"v": draws("v", self.e_v(last))})

    def _generate(self, x, latents, u, lengths, states):
        v, before = latents["v"], torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1)
        seen = torch.cat([v[:, None].expand(-1, x.shape[1], -1), before], -1)
        return Generated({"v": standard_normal(v)}, self.d_x(seen))


def test_a_model_without_z_has_no_size_of_it():
    model = OnlyV(3)
    assert model.z_dim == 0
    assert set(check_model(model).values()) == {"holds"}
    with pytest.raises(ValueError, match="z_dim must be an integer of at least 1; got 0"):
        Pair(3, 0)


def test_a_spec_that_is_missing_is_missed_by_name():
    class Unsaid(DVAE):
        pass

    with pytest.raises(TypeError, match="Unsaid declares no spec: write spec = DependencySpec"):
        _ = Unsaid(3, 2).is_causal


class LogNormal(FactorisedDistribution):
    """Of positive numbers: its density has no logarithm at zero."""

    outputs_per_dim, arg_constraints, support = 2, {}, constraints.independent(constraints.positive, 1)

    def __init__(self, mean_of_log, log_scale):
        self.mean_of_log, self.log_scale = mean_of_log, log_scale
        super().__init__(mean_of_log)

    @property
    def parameters(self):
        return self.mean_of_log, self.log_scale

    @property
    def mean(self):
        return (self.mean_of_log + 0.5 * (2 * self.log_scale).exp()).exp()

    def log_prob_per_dim(self, value):
        white = (value.log() - self.mean_of_log) / self.log_scale.exp()
        return -0.5 * white.square() - self.log_scale - value.log() - 0.5 * math.log(2 * math.pi)

    def sample(self, sample_shape=(), *, generator=None):
        noise = torch.randn(self.mean.shape, dtype=self.mean.dtype, generator=generator)
        return (self.mean_of_log + self.log_scale.exp() * noise).exp().detach()


class TestLikelihoodOfPositiveNumbers:
    @pytest.fixture(autouse=True)
    def _registered(self):
        register_observation("log_normal", LogNormal)
        yield
        del OBSERVATIONS["log_normal"]

    @pytest.mark.parametrize("name", ["srnn", "kvae", "vrnn-improved"])
    def test_padded_frames_leave_gradients_finite(self, name):
        torch.manual_seed(0)
        model = build_model(name, x_dim=3, z_dim=2, observation="log_normal")
        x = torch.rand(2, 4, 3, generator=seeded()) + 0.1
        for objective in (vlb, importance_weighted, particle):
            model.zero_grad()
            padded = objective(model, x, lengths=[4, 2], generator=seeded()).value
            padded.sum().backward()
            assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)

    def test_the_laws_hold(self):
        model = build_model("vae", x_dim=3, z_dim=2, observation="log_normal", encoder=(4,), decoder=(4,))
        laws = [law for law in LAWS if "padded" in law]
        assert set(check_model(model, laws=laws).values()) == {"holds"}


def test_a_value_inside_the_support():
    for family, inside in (("gaussian", 0.0), ("gamma", 0.0), ("bernoulli", 0.0), (LogNormal, 1.0)):
        support = support_of(family)
        assert support.inside == pytest.approx(inside)
        assert support.holds(support.inside, support.inside)
    for low, high in ((2.0, 3.0), (-3.0, -2.0), (2.0, 2.5), (-math.inf, -1.0), (5.0, math.inf)):
        support = Support(low, high)
        assert support.holds(support.inside, support.inside)
