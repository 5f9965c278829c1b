"""The Gaussian-process VAE against Kalman smoothers, dense Gaussian process regression, and its own definition."""

import math

import pytest
import torch
from torch.distributions import MultivariateNormal, kl_divergence

from dvae_lib.models import GPVAE, MODELS, build_model
from dvae_lib.models.draws import Draws, Past
from dvae_lib.statespace import GaussianChain, kalman_smoother, log_likelihood
from dvae_lib.statespace.gaussian_process import KERNELS, GaussianProcess, GaussianSequence, matern_ssm

VARIANTS = MODELS["gpvae"].variants
T, L, NOISE = 7, 2, 0.3


def seeded(seed=3):
    return torch.Generator().manual_seed(seed)


def make(**options):
    torch.manual_seed(0)
    return GPVAE(5, L, **{"encoder": (8,), "decoder": (8,), **options}).double()


def data(batch=3, time=T, dim=5):
    return torch.randn(batch, time, dim, dtype=torch.float64, generator=seeded(1))


def linear(**options):
    """A linear decoder with orthogonal columns and Gaussian noise, and the network whose potentials are right for it.

    Returns:
        The model; its matrix C and its offset.
    """
    model = make(observation=f"gaussian(scale={NOISE})", posterior="exact", encoder=(), decoder=(), **options)
    C = 1.5 * torch.linalg.qr(torch.randn(5, L, dtype=torch.float64, generator=seeded(2)))[0]
    offset = torch.randn(5, dtype=torch.float64, generator=seeded(4))
    with torch.no_grad():
        model.x_head.linear.weight.copy_(C)
        model.x_head.linear.bias.copy_(offset)
        J = (C.mT @ C).diagonal() / NOISE**2
        model.e_z[-1].weight.copy_(torch.cat([C.mT / NOISE**2, torch.zeros(L, 5, dtype=torch.float64)]))
        model.e_z[-1].bias.copy_(torch.cat([-C.mT @ offset / NOISE**2, torch.log(torch.expm1(J))]))
    return model, C, offset


def close(got, wanted, atol=1e-9):
    torch.testing.assert_close(got, wanted, rtol=0, atol=atol)


# ---------------------------------------------------------------- the prior


@pytest.mark.parametrize("nugget", [None, 0.1])
@pytest.mark.parametrize("kernel", KERNELS)
def test_conditionals_of_the_prior_multiply_to_the_dense_gaussian(kernel, nugget):
    process = GaussianProcess(kernel, [2.0, 3.5], None if kernel == "matern12" else nugget)
    z = data(dim=L)
    K = process.covariance(T)
    assert torch.equal(K.diagonal(dim1=-2, dim2=-1), torch.ones(2, T, dtype=torch.float64))
    conditionals = process.prior(T, z).conditionals(z)
    dense = MultivariateNormal(torch.zeros(T, dtype=torch.float64), K)
    close(conditionals.log_prob(z).sum(-1), dense.log_prob(z.mT).sum(-1))
    for t in range(T):  # and frame by frame, from a factor that grows
        one = process.following(z[:, :t])
        close(one.mean, conditionals.mean[:, t])
        close(one.logvar, conditionals.logvar.expand_as(z)[:, t])


@pytest.mark.parametrize("kernel", ["matern12", "matern32"])
def test_a_matern_process_is_a_state_space_model(kernel):
    """Its covariance is that of the first state of a linear-Gaussian chain."""
    ssm = matern_ssm(kernel, 2.5, NOISE)
    moments = GaussianChain.from_ssm(ssm, T).moments()
    expected = torch.empty(T, T, dtype=torch.float64)
    for s in range(T):
        ahead = moments.covariance[s]
        for t in range(s, T):
            expected[s, t] = expected[t, s] = ahead[0, 0]
            ahead = ssm.A @ ahead
    close(GaussianProcess(kernel, 2.5, 0.0).covariance(T)[0], expected)


def test_prior_of_matern_12_is_a_latent_lds():
    """A = exp(-1/l): the model's prior is the chain of that state-space model."""
    model, z = make(kernel="matern12", length_scale=2.5), data(dim=L)
    chain = GaussianChain.from_ssm(matern_ssm("matern12", 2.5, NOISE), T)
    prior = model.generation(data(), {"z": z}).prior["z"]
    close(prior.log_prob(z).sum(-1), sum(chain.log_prob(z[..., entry : entry + 1]) for entry in range(L)))


def test_a_short_length_scale_is_the_prior_of_a_vae():
    z = data(dim=L)
    prior = GaussianProcess("rbf", 0.01).prior(T, z).conditionals(z)
    close(prior.mean, torch.zeros_like(z))
    close(prior.logvar.expand_as(z), torch.zeros_like(z))


# ---------------------------------------------------------------- exact posteriors


@pytest.mark.parametrize("kernel", ["matern12", "matern32"])
def test_linear_model_is_a_kalman_smoother(kernel):
    """The posterior is the smoother's, and the bound the log-likelihood, for each sample."""
    model, C, offset = linear(kernel=kernel, length_scale=2.5, nugget=0.0)
    x = data()
    scale = (C.mT @ C).diagonal().sqrt()
    projected = (x - offset) @ C / scale  # unit columns: each entry is observed by itself
    trajectories = model.trajectories(x)
    evidence = MultivariateNormal(torch.zeros(5, dtype=torch.float64), NOISE**2 * torch.eye(5, dtype=torch.float64))
    expected = (evidence.log_prob(x - offset)).sum(-1)
    for entry in range(L):
        ssm = matern_ssm(kernel, 2.5, (NOISE / scale[entry].item()) ** 2)
        y = projected[..., entry : entry + 1] / scale[entry]
        smoothed = kalman_smoother(ssm, y)
        close(trajectories.mean[:, entry], smoothed.mean[..., 0])
        close(trajectories.variance[:, entry], smoothed.covariance[..., 0, 0].expand(3, T))
        # What the entry's column says beyond noise alone.
        noise = (-0.5 * (y * scale[entry] / NOISE).square() - math.log(NOISE * math.sqrt(2 * math.pi))).sum((1, 2))
        expected = expected - noise + log_likelihood(ssm, y) - T * scale[entry].log()
    for seed in range(5):
        close(model.vlb(x, kl="sampled", generator=seeded(seed)).value, expected)


def dense(model, C, frames):
    """The covariance of all latents, entry by entry over time, and the matrix that leads to these frames' vectors."""
    K = model.process.covariance(T)
    pick = torch.eye(T, dtype=torch.float64)[frames]
    return torch.block_diag(*K.expand(L, T, T)), torch.cat([torch.kron(pick, column[:, None]) for column in C.mT], 1)


@pytest.mark.parametrize("kernel", KERNELS)
def test_linear_model_is_gaussian_process_regression(kernel):
    """Posterior and evidence of every kernel against the dense formulas of (B T F) numbers at once."""
    model, C, offset = linear(kernel=kernel, length_scale=[2.0, 4.0])
    x = data()
    K, H = dense(model, C, torch.arange(T))
    S = H @ K @ H.mT + NOISE**2 * torch.eye(5 * T, dtype=torch.float64)
    flat = (x - offset).flatten(1)
    gain = torch.linalg.solve(S, H @ K).mT
    trajectories = model.trajectories(x)
    close(trajectories.mean.flatten(1), flat @ gain.mT)
    posterior = K - gain @ H @ K
    for entry in range(L):
        own = slice(entry * T, (entry + 1) * T)
        close(trajectories.covariance_matrix[0, entry], posterior[own, own])
    evidence = MultivariateNormal(torch.zeros(5 * T, dtype=torch.float64), S).log_prob(flat)
    for seed in range(5):
        close(model.vlb(x, kl="sampled", generator=seeded(seed)).value, evidence)


def test_the_dense_way_and_the_chain_agree():
    """Matérn-1/2 goes by chains; forced through the dense factor it is the same Gaussian, with the same constant."""
    chain, dense = GaussianProcess("matern12", 2.5), GaussianProcess("matern12", 2.5)
    dense.markov = False
    J, h, z = data(dim=L).square(), data(dim=L), data(dim=L).cos()
    one, other = chain.after(J, h), dense.after(J, h)
    close(one.log_normalizer, other.log_normalizer)
    close(one.sequence.conditionals(z).log_prob(z), other.sequence.conditionals(z).log_prob(z))
    noise = data(dim=L).sin()
    close(one.sequence.rsample(noise=noise), other.sequence.rsample(noise=noise))
    close(GaussianSequence.from_chain(one.sequence).trajectories().variance, other.sequence.trajectories().variance)
    close(dense.following(z).mean, chain.following(z).mean)


def test_potentials_without_precision_say_nothing():
    process, z = GaussianProcess("cauchy", 2.0), data(dim=L)
    found = process.after(torch.zeros_like(z), torch.zeros_like(z))
    close(found.log_normalizer, torch.zeros(3, dtype=torch.float64))
    close(found.sequence.conditionals(z).mean, process.prior(T, z).conditionals(z).mean)


def test_single_precision_is_enough():
    """Long, smooth and well observed: where covariances are nearly singular."""
    process = GaussianProcess("rbf", 20.0)
    J, h, z = (torch.randn(2, 100, 3, generator=seeded(i), dtype=torch.float64) for i in range(3))
    J = 1e4 * J.square()
    wide, narrow = process.after(J, h).sequence, process.after(J.float(), h.float()).sequence
    torch.testing.assert_close(narrow.rsample(noise=z.float()).double(), wide.rsample(noise=z), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kernel", ["matern12", "cauchy"])
def test_frames_that_were_not_observed_have_no_potential(kernel):
    """Bound and mean are those of regression on the other frames."""
    model, C, offset = linear(kernel=kernel)
    x, frames = data(), torch.tensor([0, 2, 5, 6])
    K, H = dense(model, C, frames)
    S = H @ K @ H.mT + NOISE**2 * torch.eye(len(H), dtype=torch.float64)
    flat = (x[:, frames] - offset).flatten(1)
    seen = torch.isin(torch.arange(T), frames).expand(3, T)
    hidden = torch.where(seen[..., None], x, math.nan)
    mean = model.inference(hidden, observed=seen, draw="mean")["z"].sample
    close(mean.mT.flatten(1), torch.linalg.solve(S, flat.mT).mT @ H @ K)
    evidence = MultivariateNormal(torch.zeros(len(H), dtype=torch.float64), S).log_prob(flat)
    for seed in range(3):
        close(model.vlb(hidden, observed=seen, kl="sampled", generator=seeded(seed)).value, evidence)


# ---------------------------------------------------------------- families of posteriors


def bidiagonal(model, x):
    """The posterior of a chain from the entries of the precision's factor, by `GaussianChain`."""
    frames = model._context(x, None, None, Draws(), Past()).frames
    own = (-0.5 * frames["logvar"]).exp()
    off = -frames["transition"] * own
    mean = model.trajectories(x).mean.mT
    return GaussianChain.from_bidiagonal_factor(mean, own, off[:, 1:]), own, off


def test_positive_factors_make_neighbours_negatively_correlated():
    """Whatever the weights: cov(z_t, z_{t-1}) = -(u_{t-1,t} / u_tt) Var(z_{t-1}), and no conditional wider than 1."""
    for seed in range(20):
        model = make(sign="positive")
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(std=2.0, generator=seeded(seed))
        x = data()
        chain, own, off = bidiagonal(model, x)
        assert (own > 1).all()
        assert (off > 0).all()
        moments = chain.moments()
        ratio = -(off / own)[:, 1:]
        close(moments.cross_covariance, ratio * moments.covariance[:, :-1])
        assert (moments.cross_covariance < 0).all()


def test_free_factors_make_neighbours_of_either_sign():
    model, x = make(), data(20)
    moments = bidiagonal(model, x)[0].moments()
    assert (moments.cross_covariance > 0).any()
    assert (moments.cross_covariance < 0).any()


@pytest.mark.parametrize("sign", ["free", "positive"])
def test_chain_is_the_gaussian_with_a_bidiagonal_factor(sign):
    model, x = make(sign=sign), data()
    chain, *_ = bidiagonal(model, x)
    z = model.inference(x, generator=seeded())["z"]
    close(z.posterior.log_prob(z.sample).sum(-1), chain.log_prob(z.sample))
    close(model.trajectories(x).covariance_matrix.diagonal(dim1=-2, dim2=-1).mT, chain.moments().covariance)


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_kl_against_dense_gaussians(options):
    """The bound's KL is quadratic in the sampled noise, so its mean is that over symmetric points, without error."""
    model, x = make(**options), data(1)
    dense = MultivariateNormal(torch.zeros(T, dtype=torch.float64), model.process.covariance(T))
    expected = kl_divergence(model.trajectories(x), dense).sum(-1)
    points = math.sqrt(T * L) * torch.eye(T * L, dtype=torch.float64).reshape(-1, T, L)
    points = torch.cat([points, -points])
    frames = model._context(x, None, None, Draws(), Past()).frames
    if options.get("posterior") == "mean_field":
        z = frames["offset"] + (0.5 * frames["logvar"]).exp() * points
    else:
        q = model.trajectories(x)
        z = q.mean.mT + (q.scale_tril @ points.mT[..., None]).squeeze(-1).mT
    many = x.expand(len(z), -1, -1)
    posterior = model.inference(many, latents={"z": z})["z"].posterior
    prior = model.generation(many, {"z": z}).prior["z"]
    close(kl_divergence(posterior, prior).sum(-1).mean(), expected.squeeze())
    # And the densities themselves.
    close(posterior.log_prob(z).sum(-1), model.trajectories(x).log_prob(z.mT).sum(-1))


# ---------------------------------------------------------------- one frame after the other


@pytest.mark.parametrize("options", [*VARIANTS, {"posterior": "exact", "window": 3}], ids=str)
def test_a_stream_is_read_as_if_it_ended_at_each_frame(options):
    model, x = make(**options), data()
    past = Past(streaming=True)
    z = model.inference(x, generator=seeded())["z"].sample
    for t in range(T):
        context = model._context(x[:, t : t + 1], None, None, Draws(), past)
        known = {"past": z[:, :t], "z_prev": z[:, t - 1] if t else torch.zeros_like(z[:, 0])}
        streamed = model._propose("z", context.at(0), known)
        posterior = model.inference(x[:, : t + 1], latents={"z": z[:, : t + 1]})["z"].posterior
        close(streamed.mean, posterior.mean[:, t])
        close(streamed.logvar, posterior.logvar[:, t])
    watch = model.filter(3, num_particles=50, generator=seeded())
    for t in range(T):
        assert torch.isfinite(watch.update(x[:, t]).score).all()


@pytest.mark.parametrize("kernel", ["matern12", "cauchy"])
def test_filter_finds_the_likelihood(kernel):
    model, *_ = linear(kernel=kernel)
    x = model.generate(T, 2, generator=seeded()).x
    watch = model.filter(2, num_particles=4000, generator=seeded())
    for t in range(T):
        watch.update(x[:, t])
    close(watch.log_likelihood, model.vlb(x, kl="sampled", generator=seeded()).value, atol=0.2)


def test_generation_has_no_end_and_keeps_its_law():
    """Beyond any length seen before, the latents are those of the process; a continuation is one of the prefix."""
    model = make(kernel="rbf", length_scale=3.0)
    z = model.generate(40, 4000, generator=seeded()).latents["z"]
    K = model.process.covariance(40)[0]
    found = torch.einsum("btl,bsl->ts", z, z) / (4000 * L)
    assert (found - K).abs().max() < 0.06  # five standard errors and a half
    exact, *_ = linear(kernel="rbf", length_scale=6.0)
    x = exact.generate(12, 2000, generator=seeded()).x
    ahead = exact.generate(1, prefix=x[:, :-1], emission="mean", generator=seeded()).x
    error, blind = ((x[:, -1] - value).square().mean() for value in (ahead[:, 0], exact.x_head.linear.bias))
    assert error < 0.6 * blind


def test_state_of_a_markov_process_does_not_grow():
    for kernel, size in (("matern12", 1), ("cauchy", 3)):
        model = make(kernel=kernel)
        state = model.initial_state(2)
        for _ in range(3):
            state = model.step(state, torch.zeros(2, 5, dtype=torch.float64), generator=seeded()).state
        assert state["past"].shape == (2, size, L)


# ---------------------------------------------------------------- what is there beside


def test_specs_and_gaps():
    gaps = {
        "chain": ({"z_{1:t-2}", "x_{t+2:T}"}, {"x_{t-2:t-1}"}),
        "mean_field": ({"z_{1:t-1}", "x_{t+2:T}"}, {"x_{t-1}"}),
        "exact": (set(), set()),
    }
    for posterior, (missing, extra) in gaps.items():
        gap = make(posterior=posterior).spec.inference_gap()["z_t"]
        assert (set(gap.missing), set(gap.extra)) == (missing, extra)
    assert make(kernel="matern12", posterior="exact").spec.exact_posterior()["z_t"] == {"z_{t-1}", "x_{t:T}"}
    assert make(posterior="exact").spec.exact_posterior()["z_t"] == {"z_{1:t-1}", "x_{t:T}"}


def test_length_scales_of_entries_are_saved(tmp_path):
    model = make(length_scale=[1.0, 8.0], posterior="exact")
    loaded = type(model).from_pretrained(model.save_pretrained(tmp_path / "model")).double()
    assert loaded.process.length_scales == (1.0, 8.0)
    close(loaded.process.covariance(4), model.process.covariance(4))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"u_dim": 2}, "u_dim must be 0; got 2"),
        ({"kernel": "linear"}, "kernel must be one of cauchy, rbf, matern12, matern32; got 'linear'"),
        ({"length_scale": 0.0}, "length_scale must be positive and finite, in frames; got 0.0"),
        ({"length_scale": math.nan}, "length_scale must be positive"),
        ({"length_scale": (1.0, 2.0, 3.0)}, "length_scale must be one number or 2, one for each entry of z; got 3"),
        ({"kernel": "matern12", "nugget": 0.1}, "needs no nugget"),
        ({"nugget": 1.0}, r"nugget is a share of the variance, in \[0, 1\); got 1.0"),
        ({"posterior": "full"}, "posterior must be one of mean_field, chain, exact; got 'full'"),
        ({"sign": "negative"}, "sign must be one of free, positive; got 'negative'"),
        ({"sign": "positive", "posterior": "exact"}, "sign='positive' is of the posterior 'chain'"),
        ({"window": 2}, "window must be an odd number of frames; got 2"),
        ({"window": True}, "window must be an odd number of frames; got True"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        build_model("gpvae", x_dim=3, z_dim=2, **options)
    with pytest.raises(ValueError, match="kernel must be 'matern12' or 'matern32'; got 'rbf'"):
        matern_ssm("rbf", 1.0, 1.0)
