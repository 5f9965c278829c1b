"""The deep variational Bayes filter against the Kalman filter, which it is with one matrix and a linear decoder."""

import math

import pytest
import torch

from dvae_lib.distributions import DiagonalGaussian
from dvae_lib.graphs import verify_dependencies
from dvae_lib.models.dvbf import DVBF
from dvae_lib.networks import LocallyLinear
from dvae_lib.objectives import Latent
from dvae_lib.statespace import LinearGaussianSSM, log_likelihood, sample

U_DIM = 2


class LinearDVBF(DVBF):
    """Two independent chains, driven, each seen through noise; the inference model is the exact posterior of the noise.

    With J_t and h_t the information that x_{t:T} holds about z_t, and z_t = m_t + c w_t with m_t known, the posterior
    of w_t is Gaussian with precision 1 + c^2 J_t and mean c (h_t - J_t m_t) / precision.
    """

    a = torch.tensor([0.9, -0.6], dtype=torch.float64)
    b = torch.tensor([[0.5, 0.1], [-0.3, 0.7]], dtype=torch.float64)
    c = torch.tensor([0.6, 0.8], dtype=torch.float64)
    first, start = torch.tensor([1.5, 0.7], dtype=torch.float64), torch.tensor([0.3, -0.2], dtype=torch.float64)
    d = torch.tensor([1.3, 0.8], dtype=torch.float64)
    x_noise = torch.tensor([0.5, 0.3], dtype=torch.float64)

    def __init__(self, bias=0.0, spread=0.0):
        super().__init__(2, 2, u_dim=U_DIM, matrices=1, decoder=(), g_dim=2)
        self.double()
        self.bias, self.spread = bias, spread
        with torch.no_grad():
            self.d_z.A.copy_(torch.diag(self.a)[None])
            self.d_z.B.copy_(self.b[None])
            self.d_z.C.copy_(torch.diag(self.c)[None])
            self.d_z.f_1[0].weight.copy_(torch.diag(self.first))
            self.d_z.f_1[0].bias.copy_(self.start)
            linear = self.x_head.linear
            linear.weight.zero_()
            linear.weight[:2] = torch.diag(self.d)
            linear.bias[:2] = 0
            linear.bias[2:] = self.x_noise.log()

    @property
    def ssm(self):
        return LinearGaussianSSM(
            torch.diag(self.a),
            torch.diag(self.d),
            torch.diag(self.c**2),
            torch.diag(self.x_noise),
            mu_1=self.start,
            Lambda_1=torch.diag(self.first**2),
            B=self.b,
        )

    def inference(self, x, u=None, *, lengths=None, latents=None, draw="sample", generator=None):
        J, h = torch.zeros_like(x), torch.zeros_like(x)
        push = u @ self.b.T
        J_next, h_next, push_next = (torch.zeros_like(x[:, 0]) for _ in range(3))
        for t in reversed(range(x.shape[1])):
            shrink = self.a / (1 + self.c**2 * J_next)
            J[:, t] = self.d**2 / self.x_noise + self.a * shrink * J_next
            h[:, t] = self.d * x[:, t] / self.x_noise + shrink * (h_next - J_next * push_next)
            J_next, h_next, push_next = J[:, t], h[:, t], push[:, t]
        noise = torch.randn(x.shape, dtype=x.dtype, generator=generator)
        means, precisions, samples, z = [], [], [], None
        for t in range(x.shape[1]):
            c = self.c if t else self.first
            known = push[:, t] + (self.start if z is None else self.a * z)
            precisions.append(1 + c**2 * J[:, t])
            means.append(c * (h[:, t] - J[:, t] * known) / precisions[t] + self.bias)
            given = (latents or {}).get("w")
            deviation = (math.exp(self.spread) / precisions[t]).sqrt()
            samples.append(means[t] + deviation * noise[:, t] if given is None else given[:, t])
            z = known + c * samples[t]
        q_w = DiagonalGaussian(torch.stack(means, 1), self.spread - torch.stack(precisions, 1).log())
        return {"w": Latent(torch.stack(samples, 1), q_w)}


@pytest.fixture(scope="module")
def truth():
    ssm = LinearDVBF().ssm
    u = torch.randn(6, 30, U_DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    x = sample(ssm, 30, u, generator=torch.Generator().manual_seed(0)).x
    return x, u, log_likelihood(ssm, x, u)


def test_every_sample_of_the_bound_is_the_kalman_likelihood(truth):
    x, u, exact = truth
    model = LinearDVBF()
    for seed in range(5):
        bound = model.vlb(x, u, kl="sampled", generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(bound.value, exact, rtol=0, atol=1e-8)
    torch.testing.assert_close(model.importance_weighted_bound(x, u, num_samples=3), exact, rtol=0, atol=1e-8)


def test_bounds_of_another_posterior_rise_to_the_likelihood(truth):
    x, u, exact = truth
    model, generator = LinearDVBF(bias=0.1, spread=0.2), torch.Generator().manual_seed(0)
    x, u, exact = x.repeat(20, 1, 1), u.repeat(20, 1, 1), exact.repeat(20)
    gaps = [(exact - model.vlb(x, u, kl="sampled", generator=generator).value).mean().item()]
    for k in (4, 32):
        bound = model.importance_weighted_bound(x, u, num_samples=k, generator=generator)
        gaps.append((exact - bound).mean().item())
    assert gaps[0] > gaps[1] > gaps[2] > 0


def test_prior_samples_have_the_moments_of_the_linear_system():
    """Mean and covariance of x_1, x_2 under the prior, by the system's matrices."""
    model = LinearDVBF()
    u = torch.tensor([[[1.0, -1.0], [0.5, 2.0]]], dtype=torch.float64)
    made = model.generate(2, 20000, u=u.expand(20000, -1, -1), generator=torch.Generator().manual_seed(0))
    m_1 = model.start + u[0, 0] @ model.b.T
    m_2 = model.a * m_1 + u[0, 1] @ model.b.T
    v_1 = model.first**2
    v_2 = model.a**2 * v_1 + model.c**2
    z = model.states(made.latents["w"], u.expand(20000, -1, -1))
    error = 5 / math.sqrt(20000)
    torch.testing.assert_close(z.mean(0), torch.stack([m_1, m_2]), rtol=0, atol=2 * error)
    torch.testing.assert_close(z.var(0), torch.stack([v_1, v_2]), rtol=2 * error, atol=0)


def test_a_filter_weighs_its_particles_to_the_kalman_likelihood():
    """The streaming filter of untrained inference networks: its weights correct what they propose."""
    torch.manual_seed(0)
    linear, model = LinearDVBF(), DVBF(2, 2, u_dim=U_DIM, matrices=1, decoder=(), inference_model="filter").double()
    own = linear.state_dict()
    model.load_state_dict({k: v for k, v in own.items() if k.startswith(("d_z.", "x_head."))}, strict=False)
    u = torch.randn(1, 8, U_DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    x = sample(linear.ssm, 8, u, generator=torch.Generator().manual_seed(2)).x
    watch = model.filter(1, num_particles=20000, generator=torch.Generator().manual_seed(0))
    for t in range(8):
        watch.update(x[:, t], u[:, t])
    assert abs(watch.log_likelihood.item() - log_likelihood(linear.ssm, x, u).item()) < 0.1


def test_the_mixture_is_the_transition_by_the_mean_of_the_matrices():
    torch.manual_seed(0)
    step = LocallyLinear(2, 3, u_dim=1, matrices=4, weights=(5,)).double()
    z, u, w = torch.randn(6, 3).double(), torch.randn(6, 1).double(), torch.randn(6, 2).double()
    for row in range(6):
        features = torch.tanh(step.alpha[0](torch.cat([z[row], u[row]])))
        alpha = torch.softmax(step.alpha[2](features), 0)
        A, B, C = (sum(a * m for a, m in zip(alpha, matrices, strict=True)) for matrices in (step.A, step.B, step.C))
        torch.testing.assert_close(step.step(z, u, w)[row], A @ z[row] + B @ u[row] + C @ w[row])


def test_states_are_those_that_inference_and_steps_went_through():
    torch.manual_seed(0)
    model = DVBF(3, 2, u_dim=2, w_dim=4, matrices=3).double()
    x, u = torch.randn(2, 5, 3).double(), torch.randn(2, 5, 2).double()
    w = model.inference(x, u)["w"].sample
    assert w.shape == (2, 5, 4)
    z, state = model.states(w, u), model.initial_state(2)
    for t in range(5):
        state = model.step(state, x[:, t], u[:, t], w_t=w[:, t]).state
        torch.testing.assert_close(state["z"], z[:, t])


def test_its_start_is_near_rest():
    """Without noise a new model's state hardly moves: A is near the identity, whatever is mixed."""
    torch.manual_seed(0)
    model = DVBF(3, 3)
    w = torch.zeros(100, 20, 3)
    w[:, 0] = torch.randn(100, 3)
    z = model.states(w)
    assert ((z[:, -1] - z[:, 0]).norm(dim=-1) < 0.8 * z[:, 0].norm(dim=-1)).all()


@pytest.mark.parametrize("u_dim", [0, 2])
def test_gaps_are_as_derived(u_dim):
    """z_{t-1} stands for w_{1:t-1} and the inputs so far; the later inputs are co-parents of later frames."""
    inputs = {"u_{t+1:T}"} if u_dim else set()
    smoother, filtering = (DVBF(3, 2, u_dim=u_dim, inference_model=name) for name in ("smoother", "filter"))
    exact = {"w_{1:t-1}", "x_{t:T}", *({"u_{1:T}"} if u_dim else set())}
    assert smoother.spec.exact_posterior() == {"w_t": frozenset(exact)}
    assert smoother.spec.inference_gap()["w_t"] == (frozenset(), frozenset())
    gap = filtering.spec.inference_gap()["w_t"]
    assert (set(gap.missing), set(gap.extra)) == ({"x_{t+1:T}"} | inputs, set())
    assert verify_dependencies(filtering).agrees
    assert verify_dependencies(smoother).agrees


def test_wrong_sizes_are_refused(as_a_user):
    with pytest.raises(ValueError, match="inference_model must be one of smoother, filter; got 'exact'"):
        DVBF(3, 2, inference_model="exact")
    with pytest.raises(ValueError, match="matrices must be an integer of at least 1; got 0"):
        DVBF(3, 2, matrices=0)
    with pytest.raises(ValueError, match="w_dim must be an integer of at least 1; got 0"):
        DVBF(3, 2, w_dim=0)
    with pytest.raises(ValueError, match="z_dim must be an integer of at least 1; got 0"):
        DVBF(3, 0)
    model = DVBF(3, 2, u_dim=1)
    with pytest.raises(ValueError, match=r"expected w of shape \(batch, time, 2\); got \(1, 4, 3\)"):
        model.states(torch.zeros(1, 4, 3), torch.zeros(1, 4, 1))
    with pytest.raises(ValueError, match=r"expected u of shape \(1, 4, 1\); got None"):
        model.states(torch.zeros(1, 4, 2))
    with pytest.raises(ValueError, match=r"expected no u; got \(1, 4, 1\)"):
        DVBF(3, 2).states(torch.zeros(1, 4, 2), torch.zeros(1, 4, 1))
