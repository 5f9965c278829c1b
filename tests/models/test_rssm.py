"""RSSM against its equations written out, quadrature, the VRNN that it is in disguise, and the Kalman filter."""

import math

import pytest
import torch
from torch import nn
from written_out import data, lstm

from dvae_lib.distributions import DiagonalGaussian
from dvae_lib.graphs.spec import Gap
from dvae_lib.models import DVAE, RSSM, VRNN
from dvae_lib.networks import shift
from dvae_lib.objectives import Latent, balanced_kl
from dvae_lib.statespace import LinearGaussianSSM, kalman_filter, log_likelihood

SIZES = {"h_dim": 4, "prior": (3,), "decoder": (5,), "encoder": (5,), "head": (6,)}
KINDS = ("rssm", "ssm")


def make(kind="rssm", *, u_dim=2, **options):
    torch.manual_seed(0)
    model = RSSM(3, options.pop("z_dim", 2), kind=kind, u_dim=u_dim, **{**SIZES, **options}).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.6)
    return model


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("u_dim", [0, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_equations_written_out(kind, u_dim):
    """Frame by frame, from z_0 = h_0 = 0."""
    model, x, z, u = make(kind, u_dim=u_dim, cell="lstm"), data(3), data(2, seed=2), data(u_dim, seed=3)
    inputs = u if u_dim else None
    generated = model.generation(x, {"z": z}, inputs)
    q = model.inference(x, inputs, latents={"z": z})["z"].posterior
    d_h = lstm(model.d_h.layers) if kind == "rssm" else None
    z_prev = torch.zeros(4, 2, dtype=torch.float64)
    for t in range(5):
        past = torch.cat([u[:, t], z_prev], -1)
        seen, state = past, z[:, t]
        if kind == "rssm":
            past = seen = d_h(past)
            state = torch.cat([state, past], -1)
        prior = model.prior_head(model.d_z(past))
        observation = model.x_head(model.d_x(state))
        posterior = model.z_head(model.e_z(torch.cat([model.encoder(x[:, t]), seen], -1)))
        torch.testing.assert_close(generated.prior["z"][:, t].parameters, prior.parameters)
        torch.testing.assert_close(generated.observation[:, t].parameters, observation.parameters)
        torch.testing.assert_close(q[:, t].parameters, posterior.parameters)
        z_prev = z[:, t]


def test_known_answers():
    """By d-separation, against what follows by hand: z_t is a parent of every later frame, or of the next z alone."""
    compact = {
        "rssm": {"z_t": {"z_{1:t-1}", "u_{1:t}"}, "x_t": {"z_{1:t}", "u_{1:t}"}},
        "ssm": {"z_t": {"z_{t-1}", "u_t"}, "x_t": {"z_t"}},
    }
    exact = {"rssm": {"z_{1:t-1}", "x_{t:T}", "u_{1:T}"}, "ssm": {"z_{t-1}", "x_{t:T}", "u_{t:T}"}}
    inferred = {"rssm": {"z_{1:t-1}", "x_t", "u_{1:t}"}, "ssm": {"z_{t-1}", "x_t", "u_t"}}
    for kind in KINDS:
        spec = make(kind).spec
        assert spec.compact() == {name: frozenset(parents) for name, parents in compact[kind].items()}
        assert spec.compact("inference") == {"z_t": frozenset(inferred[kind])}
        assert spec.exact_posterior() == {"z_t": frozenset(exact[kind])}
        assert spec.inference_gap() == {"z_t": Gap(frozenset({"x_{t+1:T}", "u_{t+1:T}"}), frozenset())}
        undriven = make(kind, u_dim=0).spec
        assert undriven.inference_gap() == {"z_t": Gap(frozenset({"x_{t+1:T}"}), frozenset())}
    assert make(u_dim=0).spec is RSSM.spec
    with pytest.raises(ValueError, match="kind must be one of rssm, ssm; got 'rnn'"):
        make("rnn")


@pytest.mark.parametrize("kind", KINDS)
def test_no_frame_is_fed_back(kind):
    """Unlike the VRNN, to which the review likens it: given z and u, no frame depends on another."""
    model, z, u = make(kind), data(2, seed=2), data(2, seed=3)
    one, other = (model.generation(data(3, seed=seed), {"z": z}, u) for seed in (0, 5))
    assert torch.equal(one.observation.mean, other.observation.mean)
    assert torch.equal(one.prior["z"].mean, other.prior["z"].mean)
    assert not model.links.predictive
    assert VRNN(3, 2, u_dim=2).links.predictive


def test_a_vrnn_is_an_rssm_whose_input_is_the_frame_before():
    """The same networks, number for number: what makes it predictive is what it is driven by."""
    torch.manual_seed(0)
    layers = {"prior": (3,), "decoder": (5,), "head": (6,), "h_dim": 4, "cell": "lstm"}
    vrnn = VRNN(3, 2, feature_x=(), feature_z=(), **layers).double()
    rssm = RSSM(3, 2, u_dim=3, encoder=(), **layers).double()
    rssm.load_state_dict(vrnn.state_dict())
    x = data(3)
    bounds = vrnn.vlb(x, generator=seeded()), rssm.vlb(x, shift(x), generator=seeded())
    torch.testing.assert_close(bounds[0].value, bounds[1].value)
    torch.testing.assert_close(bounds[0].kl["z"], bounds[1].kl["z"])


@pytest.mark.parametrize("kind", KINDS)
def test_the_likelihood_by_quadrature(kind):
    """Three frames, scalar z: the integral over a grid, to which importance-weighted bounds rise without bias."""
    torch.manual_seed(0)
    model = RSSM(2, 1, u_dim=1, kind=kind, **SIZES).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    u = data(1, seed=3)[:1, :3]
    x = model.generate(3, u=u, generator=seeded()).x
    grid = torch.linspace(-12, 12, 161, dtype=torch.float64)
    z = torch.cartesian_prod(grid, grid)
    z = torch.cat([torch.cat([z, torch.full_like(z[:, :1], last)], 1) for last in grid.tolist()])[..., None]

    def log_joint(z):
        with torch.no_grad():
            found = model.generation(x.expand(len(z), -1, -1), {"z": z}, u.expand(len(z), -1, -1))
        return (found.prior["z"].log_prob(z) + found.observation.log_prob(x.expand(len(z), -1, -1))).sum(1)

    exact = torch.cat([log_joint(part) for part in z.split(200_000)]).logsumexp(0) + 3 * (grid[1] - grid[0]).log()
    many_x, many_u = x.expand(400, -1, -1), u.expand(400, -1, -1)
    for bound, number in ((model.importance_weighted_bound, "num_samples"), (model.smc_bound, "num_particles")):
        estimates = bound(many_x, many_u, generator=seeded(1), **{number: 100})
        ratio = (estimates - exact).exp()
        assert abs(ratio.mean() - 1) < 4 * ratio.std() / math.sqrt(400)
        assert ratio.std() < 2
    assert model.vlb(many_x, many_u, generator=seeded(2)).value.mean() < exact


# ---- categorical latents --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_likelihood_by_enumeration(kind):
    """Three frames of two variables of two classes: 64 paths. The likelihood, the bound and its KL terms are sums."""
    model = make(kind, latent="categorical", classes=2, z_dim=4)
    u, classes = data(2, seed=3)[:1, :3], torch.eye(2, dtype=torch.float64)
    vectors = torch.stack([torch.cat([one, other]) for one in classes for other in classes])
    paths = vectors[torch.cartesian_prod(*[torch.arange(4)] * 3)]
    with torch.no_grad():
        x = model.generate(3, u=u, generator=seeded()).x
        many_x, many_u = x.expand(64, -1, -1), u.expand(64, -1, -1)
        found = model.generation(many_x, {"z": paths}, many_u)
        q = model.inference(many_x, many_u, latents={"z": paths})["z"].posterior
        log_q, log_p = q.log_prob(paths), found.prior["z"].log_prob(paths)
        log_x = found.observation.log_prob(many_x)
        torch.testing.assert_close(log_q.sum(1).exp().sum(), torch.ones((), dtype=torch.float64))
        exact = (log_p + log_x).sum(1).logsumexp(0)
        weight = log_q.sum(1).exp()[:, None]
        bound, kl = (weight * (log_x + log_p - log_q)).sum(), (weight * (log_q - log_p)).sum(0)
        x, u = x.expand(5000, -1, -1), u.expand(5000, -1, -1)
        for way in ("analytic", "sampled"):
            estimate = model.vlb(x, u, kl=way, generator=seeded(1))
            for mine, truth in ((estimate.value, bound), (estimate.kl["z"], kl)):
                assert ((mine.mean(0) - truth).abs() < 5 * mine.std(0) / math.sqrt(5000) + 1e-9).all()
        for door, number in ((model.importance_weighted_bound, "num_samples"), (model.smc_bound, "num_particles")):
            ratio = (door(x, u, generator=seeded(2), **{number: 10}) - exact).exp()
            assert abs(ratio.mean() - 1) < 5 * ratio.std() / math.sqrt(5000)
    assert bound < exact


def test_every_latent_is_a_class_of_each_variable():
    model, x, u = make(latent="categorical", classes=3, z_dim=6), data(3), data(2, seed=3)
    found = model.inference(x, u, generator=seeded())["z"]
    one_of_three = found.sample.detach().unflatten(-1, (2, 3)).sort(-1).values
    assert torch.equal(one_of_three, torch.tensor([0.0, 0.0, 1.0]).double().expand(4, 5, 2, 3))
    made = model.generate(4, prefix=x, u=torch.cat([u, u[:, :4]], 1), generator=seeded()).latents["z"]
    assert made.unflatten(-1, (2, 3)).sum(-1).eq(1).all()


def test_gradients_pass_straight_through_and_the_prior_is_balanced():
    """Also what only acts through the sample learns; the balanced bound has the same value."""
    model, x, u = make(latent="categorical", z_dim=3), data(3), data(2, seed=3)
    model.vlb(x, u, beta=0.0, generator=seeded()).value.sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.z_head.parameters())
    bounds = [balanced_kl(model, x, u, balance=b, generator=seeded()).value for b in (0.5, 0.8)]
    torch.testing.assert_close(bounds[0], model.vlb(x, u, generator=seeded()).value)
    torch.testing.assert_close(*bounds)
    shares = []
    for bound in bounds:
        model.zero_grad()
        bound.sum().backward()
        shares.append(model.prior_head.linear.bias.grad.clone())
    assert not torch.allclose(*shares)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"latent": "bits"}, "latent must be 'gaussian' or 'categorical'; got 'bits'"),
        ({"classes": 4}, "classes is an option of latent='categorical'; got 4 with latent='gaussian'"),
        ({"latent": "categorical", "classes": 4}, "has a multiple of its 4 classes for its size; got 6"),
        ({"latent": "categorical", "classes": 1}, "classes must be an integer of at least 2; got 1"),
        ({"latent": "categorical", "z_dim": 1}, "has at least 2 classes for its size; got 1"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        RSSM(3, **{"z_dim": 6, **options})


# ---- the Kalman filter ----------------------------------------------------------------------------------


class LinearSSM(RSSM):
    """Kind "ssm" with linear networks and independent dimensions; q is p(z_t | z_{t-1}, u_t, x_t)."""

    a = torch.tensor([0.9, -0.6], dtype=torch.float64)
    b = torch.tensor([0.7, -1.1], dtype=torch.float64)
    c = torch.tensor([1.3, 0.8], dtype=torch.float64)
    z_noise = torch.tensor([0.4, 0.7], dtype=torch.float64)
    x_noise = torch.tensor([0.5, 0.3], dtype=torch.float64)

    def __init__(self, **options):
        layers = {"prior": (), "decoder": (), "encoder": (), "head": ()}
        super().__init__(2, 2, u_dim=1, kind="ssm", **layers, **options)
        self.double()
        linears = self.prior_head.linear, self.x_head.linear, self.z_head.linear
        precision = 1 / self.z_noise + self.c**2 / self.x_noise
        with torch.no_grad():
            for linear in linears:
                linear.weight.zero_()
                linear.bias.zero_()
            dynamics = torch.cat([self.b[:, None], torch.diag(self.a)], 1)  # of [u_t, z_{t-1}]
            linears[0].weight[:2], linears[0].bias[2:] = dynamics, self.z_noise.log()
            linears[1].weight[:2], linears[1].bias[2:] = torch.diag(self.c), self.x_noise.log()
            seen = torch.diag(self.c / self.x_noise / precision)  # of [x_t, u_t, z_{t-1}]: the posterior of one frame
            linears[2].weight[:2] = torch.cat([seen, dynamics / (self.z_noise * precision)[:, None]], 1)
            linears[2].bias[2:] = -precision.log()

    def ssm(self):
        return LinearGaussianSSM(
            torch.diag(self.a), torch.diag(self.c), torch.diag(self.z_noise), torch.diag(self.x_noise),
            mu_1=torch.zeros(2, dtype=torch.float64), Lambda_1=torch.diag(self.z_noise), B=self.b[:, None],
        )  # fmt: skip


class ExactSSM(LinearSSM):
    """q is the exact posterior.

    With J_t and i_t the information of x_{t:T} about z_t, the posterior of z_t given z_{t-1} has precision
    1/Lambda + J_t and mean ((a z_{t-1} + b u_t) / Lambda + i_t) / precision.
    """

    def inference(self, x, u=None, *, lengths=None, latents=None, draw="sample", generator=None):
        J, i, m = torch.zeros_like(x), torch.zeros_like(x), self.b * u
        J_next = i_next = m_next = torch.zeros_like(x[:, 0])
        for t in reversed(range(x.shape[1])):
            shrink = self.a / (1 + self.z_noise * J_next)
            J[:, t] = self.c**2 / self.x_noise + self.a * shrink * J_next
            i[:, t] = self.c * x[:, t] / self.x_noise + shrink * (i_next - J_next * m_next)
            J_next, i_next, m_next = J[:, t], i[:, t], m[:, t]
        precision = 1 / self.z_noise + J
        noise = torch.randn(x.shape, dtype=x.dtype, generator=generator)
        means, samples, z = [], [], torch.zeros_like(x[:, 0])
        for t in range(x.shape[1]):
            means.append(((self.a * z + m[:, t]) / self.z_noise + i[:, t]) / precision[:, t])
            given = (latents or {}).get("z")
            z = means[t] + precision[:, t].rsqrt() * noise[:, t] if given is None else given[:, t]
            samples.append(z)
        return {"z": Latent(torch.stack(samples, 1), DiagonalGaussian(torch.stack(means, 1), -precision.log()))}


def test_every_sample_of_the_bound_is_the_kalman_likelihood():
    model, u = ExactSSM(), data(1, seed=3)
    x = model.generate(5, 4, u=u, generator=seeded()).x
    exact = log_likelihood(model.ssm(), x, u)
    for seed in range(5):
        bound = model.vlb(x, u, kl="sampled", generator=seeded(seed))
        torch.testing.assert_close(bound.value, exact, rtol=0, atol=1e-9)
    torch.testing.assert_close(model.importance_weighted_bound(x, u, num_samples=3), exact, rtol=0, atol=1e-9)


def test_the_gap_is_the_future():
    """Linear networks can hold the posterior given x_t; it is exact in the last frame, and in that alone."""
    model, u = LinearSSM(), data(1, seed=3)
    x = model.generate(5, 4, u=u, generator=seeded()).x
    one, all_five = x[:, :1], x
    last = model.vlb(one, u[:, :1], kl="sampled", generator=seeded(1)).value
    torch.testing.assert_close(last, log_likelihood(model.ssm(), one, u[:, :1]), rtol=0, atol=1e-9)
    mine, exact = model.vlb(all_five, u, num_samples=200, generator=seeded(2)).value, log_likelihood(model.ssm(), x, u)
    assert (mine < exact - 0.05).all()


def test_a_filter_is_the_kalman_filter():
    model, u = LinearSSM(), data(1, seed=3)
    x = model.generate(5, 4, u=u, generator=seeded()).x
    exact, watch = kalman_filter(model.ssm(), x, u), model.filter(4, num_particles=5000, generator=seeded(1))
    for t in range(5):
        found = watch.update(x[:, t], u[:, t]).latents["z"]
        deviation = exact.covariance[:, t].diagonal(dim1=-2, dim2=-1).sqrt()
        assert ((found.mean - exact.mean[:, t]) / deviation).abs().max() < 0.1
        torch.testing.assert_close(found.variance, deviation.square(), rtol=0.15, atol=0)
    torch.testing.assert_close(watch.log_likelihood, exact.log_likelihood, rtol=0, atol=0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_saved_is_what_is_loaded(kind, tmp_path):
    model = make(kind)
    again = DVAE.from_pretrained(model.save_pretrained(tmp_path / kind)).double()
    assert (type(again), again.options["kind"], again.spec) == (RSSM, kind, model.spec)
    x, u = data(3), data(2, seed=3)
    torch.testing.assert_close(
        again.vlb(x, u, generator=seeded()).value, model.vlb(x, u, generator=seeded()).value, rtol=1e-4, atol=1e-4
    )
