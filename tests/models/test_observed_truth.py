"""Models of data with gaps where the truth is known: dense Gaussians, the Kalman filter and smoother of statsmodels."""

import copy
import math

import numpy as np
import pytest
import torch
from statsmodels.tsa.statespace.kalman_smoother import KalmanSmoother
from torch import nn
from torch.distributions import MultivariateNormal

from dvae_lib import DKF, DVAE, KVAE, VAE
from dvae_lib.distributions import DiagonalGaussian
from dvae_lib.graphs import DependencySpec
from dvae_lib.models.base import Context, Inferred
from dvae_lib.models.generating import Gaps, rollout
from dvae_lib.networks import shift
from dvae_lib.objectives import Generated, importance_weighted, log_weights, particle
from dvae_lib.statespace import log_likelihood

DOUBLE = {"dtype": torch.float64}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def statsmodels(A, C, Lambda, Sigma, Lambda_1, x):
    """What statsmodels says of one series (T, x_dim), NaN where a value is missing."""
    A, C, Lambda, Sigma, Lambda_1 = (m.detach().numpy() for m in (A, C, Lambda, Sigma, Lambda_1))
    known = {"design": C, "transition": A, "selection": np.eye(len(A)), "state_cov": Lambda, "obs_cov": Sigma}
    model = KalmanSmoother(k_endog=len(C), k_states=len(A), k_posdef=len(A), **known)
    model.bind(np.ascontiguousarray(x.detach().numpy()))
    model.initialize_known(np.zeros(len(A)), Lambda_1)
    return model.smooth()


def dense(covariance, values, seen):
    """log p of what was observed, and mean and covariance of the rest given it, of a Gaussian of mean zero."""
    o, m = seen.nonzero()[:, 0], (~seen).nonzero()[:, 0]
    gain = torch.linalg.solve(covariance[o][:, o], covariance[o][:, m]).mT
    known = MultivariateNormal(torch.zeros(len(o), **DOUBLE), covariance[o][:, o]) if len(o) else None
    log_prob = torch.zeros((), **DOUBLE) if known is None else known.log_prob(values[o])
    return log_prob, gain @ values[o], covariance[m][:, m] - gain @ covariance[o][:, m]


# ---------------------------------------------------------------- frames generated from latents alone


class ExactVAE(VAE):
    """A linear decoder; inference does the sum for each pattern of gaps."""

    W = torch.tensor([[1.5], [-0.7], [0.4]], **DOUBLE)
    noise = torch.tensor([0.5, 0.8, 0.3], **DOUBLE)

    def __init__(self):
        super().__init__(3, 1, decoder=())
        self.double()
        with torch.no_grad():
            self.x_head.linear.weight.zero_()
            self.x_head.linear.weight[:3] = self.W
            self.x_head.linear.bias.copy_(torch.cat([torch.zeros(3), self.noise.log()]))

    def _infer(self, x, u, lengths, draws):
        weight = self.W[:, 0] / self.noise * (1.0 if draws.observed is None else draws.observed)
        precision = 1 + (weight * self.W[:, 0]).sum(-1, keepdim=True)
        mean = (weight * x).sum(-1, keepdim=True) / precision
        return Inferred({"z": draws("z", DiagonalGaussian(mean, -precision.log().expand_as(mean)))})


def test_a_linear_vae_with_gaps_is_a_dense_gaussian():
    model, x = ExactVAE(), torch.randn(4, 5, 3, generator=seeded(), **DOUBLE)
    seen = torch.rand(4, 5, 3, generator=seeded(1)) > 0.4
    seen[:, 0], seen[0, 3] = True, False
    covariance = model.W @ model.W.mT + torch.diag(model.noise)
    exact = torch.stack([sum(dense(covariance, x[b, t], seen[b, t])[0] for t in range(5)) for b in range(4)])
    hidden = torch.where(seen, x, math.nan)
    for seed in range(3):
        bound = model.vlb(hidden, observed=seen, kl="sampled", generator=seeded(seed))
        torch.testing.assert_close(bound.value, exact, rtol=0, atol=1e-9)
        weighted = importance_weighted(model, hidden, observed=seen, generator=seeded(seed)).value
        torch.testing.assert_close(weighted, exact, rtol=0, atol=1e-9)


def test_imputation_by_a_linear_vae_is_the_conditional_gaussian():
    model, x = ExactVAE(), torch.randn(1, 1, 3, generator=seeded(), **DOUBLE)
    seen = torch.tensor([[[True, False, False]]])
    _, mean, covariance = dense(model.W @ model.W.mT + torch.diag(model.noise), x[0, 0], seen[0, 0])
    filled = model.impute(x, seen, num_samples=4000, chunk_size=1000, generator=seeded())
    deviation = covariance.diagonal().sqrt()
    samples = filled.samples[:, 0, 0, 1:]
    for estimate in (filled.mean[0, 0, 1:], samples.mean(0)):
        assert ((estimate - mean).abs() < 4 * deviation / math.sqrt(4000)).all()
    torch.testing.assert_close(samples.T.cov(), covariance, rtol=0.1, atol=0.02)


class LinearTransition(nn.Module):
    def __init__(self, a, noise):
        super().__init__()
        self.a, self.noise = a, noise

    def forward(self, z):
        return DiagonalGaussian(self.a * z, self.noise.log().expand(z.shape))


class ExactDKF(DKF):
    """Two chains, each seen through noise; the inference model is the exact posterior (5.2) for any gaps."""

    a, c = torch.tensor([0.9, -0.6], **DOUBLE), torch.tensor([1.3, 0.8], **DOUBLE)
    state_noise, x_noise = torch.tensor([0.4, 0.7], **DOUBLE), torch.tensor([0.5, 0.3], **DOUBLE)

    def __init__(self):
        super().__init__(2, 2, decoder=(), g_dim=2)
        self.double()
        self.d_z = LinearTransition(self.a, self.state_noise)
        with torch.no_grad():
            self.x_head.linear.weight.zero_()
            self.x_head.linear.weight[:2] = torch.diag(self.c)
            self.x_head.linear.bias.copy_(torch.cat([torch.zeros(2), self.x_noise.log()]))

    def _infer(self, x, u, lengths, draws):
        there = torch.ones_like(x) if draws.observed is None else draws.observed.to(x)
        J, h, known = torch.zeros_like(x[:, 0]), torch.zeros_like(x[:, 0]), []
        for t in reversed(range(x.shape[1])):
            shrink = self.a / (1 + self.state_noise * J)
            J = there[:, t] * self.c**2 / self.x_noise + self.a * shrink * J
            h = there[:, t] * self.c * x[:, t] / self.x_noise + shrink * h
            known.insert(0, (J, h))
        z, noise, steps = torch.zeros_like(x[:, 0]), draws.noise(x), []
        for t, (J, h) in enumerate(known):
            precision = 1 / self.state_noise + J
            q = DiagonalGaussian((self.a * z / self.state_noise + h) / precision, -precision.log())
            z = q.mean + q.stddev * noise[:, t]
            steps.append((z, *q.parameters))
        z, mean, logvar = (torch.stack(part, 1) for part in zip(*steps, strict=True))
        return Inferred({"z": draws("z", DiagonalGaussian(mean, logvar))._replace(sample=z)})

    @classmethod
    def truth(cls, x):
        parts = (cls.a, cls.c, cls.state_noise, cls.x_noise, cls.state_noise)
        return statsmodels(*map(torch.diag, parts), x)


def series(seed=0, batch=3, time=20):
    """Sequences, what was observed of them, and the same with NaN in the gaps; some frames are missing as a whole."""
    with torch.no_grad():
        x = ExactDKF().generate(time, batch, generator=seeded(seed)).x
    seen = torch.rand(x.shape, generator=seeded(seed + 1)) > 0.3
    seen[:, 4:7] = False
    return x, seen, torch.where(seen, x, math.nan)


def test_every_sample_of_the_bound_is_the_kalman_likelihood_of_what_was_observed():
    model, (_, seen, hidden) = ExactDKF(), series()
    exact = torch.tensor([ExactDKF.truth(x).llf for x in hidden], **DOUBLE)
    for seed in range(3):
        bound = model.vlb(hidden, observed=seen, kl="sampled", generator=seeded(seed))
        torch.testing.assert_close(bound.value, exact, rtol=0, atol=1e-9)
    weighted = model.importance_weighted_bound(hidden, observed=seen, num_samples=3)
    torch.testing.assert_close(weighted, exact, rtol=0, atol=1e-9)


def test_imputation_is_the_kalman_smoother():
    model, (_, seen, hidden) = ExactDKF(), series(batch=1)
    expected = torch.as_tensor(ExactDKF.truth(hidden[0]).smoothed_state.T) * model.c
    filled = model.impute(hidden, seen, num_samples=3000, chunk_size=500, generator=seeded())
    off = (filled.mean[0] - expected)[~seen[0]]
    assert (off.abs() < 0.1).all()  # deviations of the smoothed signal are below 1.2: four errors of 3,000 samples
    torch.testing.assert_close(filled.mean[seen], hidden[seen])


def test_the_filter_is_the_kalman_filter_of_what_was_observed():
    model, (_, seen, hidden) = linear_dkf(), series(batch=1, time=9)
    exact = ExactDKF.truth(hidden[0])
    mean, variance = torch.as_tensor(exact.filtered_state.T), torch.as_tensor(exact.filtered_state_cov.T)
    watch = model.filter(num_particles=20_000, generator=seeded(1))
    for t in range(9):
        found = watch.update(hidden[:, t], observed=seen[:, t])
        deviation = variance[t].diagonal().sqrt()
        assert ((found.latents["z"].mean[0] - mean[t]) / deviation).abs().max() < 0.1
        torch.testing.assert_close(found.latents["z"].variance[0], deviation.square(), rtol=0.15, atol=0)
        torch.testing.assert_close(-found.score[0], torch.as_tensor(exact.llf_obs[t]), rtol=0, atol=0.1)
        if not seen[0, t].any():
            assert found.score.abs() < 1e-9
    torch.testing.assert_close(watch.log_likelihood[0], torch.as_tensor(exact.llf_obs.sum()), rtol=0, atol=0.15)


def linear_dkf():
    """The model of `ExactDKF`, with an inference network that was never trained, to filter with."""
    torch.manual_seed(0)
    model = DKF(2, 2, inference_model="filter", decoder=(), encoder=(4,), g_dim=4).double()
    exact = ExactDKF()
    model.d_z, model.x_head = exact.d_z, exact.x_head
    return model


# ---------------------------------------------------------------- the Kalman VAE


@pytest.fixture(scope="module")
def kvae():
    """A model, data with missing frames, and what statsmodels says of its features."""
    torch.manual_seed(0)
    model = KVAE(6, 3, encoder=(8,), decoder=(8,)).double()
    with torch.no_grad():
        model.dynamics["logvar_z"].uniform_(-2, 0)
        model.dynamics["logvar_a"].uniform_(-2, 0)
        model.a_head.linear.weight[2:] = 0.0  # so narrow a posterior that the features are the encoder's means
        model.a_head.linear.bias[2:] = -60.0
    x = torch.randn(1, 12, 6, generator=seeded(1), **DOUBLE)
    seen = torch.tensor([[1, 1, 0, 0, 1, 0, 1, 1, 1, 0, 0, 0]]).bool()
    a = model._encoded(x).mean.detach()
    return model, x, seen, a, statsmodels(*matrices(model, a), torch.where(seen[..., None], a, math.nan)[0])


def matrices(model, a):
    ssm = model.state_space(a)
    return ssm.A, ssm.C, ssm.Lambda, ssm.Sigma, ssm.Lambda_1


def test_the_state_of_a_kvae_is_the_kalman_smoothers_with_missing_frames(kvae):
    model, x, seen, a, exact = kvae
    hidden = torch.where(seen[..., None], x, math.nan)
    found = model.inference(hidden, observed=seen, draw="mean")
    smoothed = torch.as_tensor(exact.smoothed_state.T)
    torch.testing.assert_close(found["z"].sample[0], smoothed, rtol=0, atol=1e-9)
    features = torch.where(seen[..., None], a, smoothed @ model.state_space(a).C.mT)
    torch.testing.assert_close(found["a"].sample, features, rtol=0, atol=1e-9)
    interpolated = model.interpolate(x, seen)
    torch.testing.assert_close(interpolated.a, features, rtol=0, atol=1e-9)
    again = model.reconstruct(hidden, observed=seen, latents="mean").mean
    torch.testing.assert_close(again, interpolated.observation.mean, rtol=0, atol=1e-9)


def test_the_bound_of_a_kvae_has_the_kalman_likelihood_with_missing_frames(kvae):
    model, x, seen, mean, _ = copy.deepcopy(kvae)
    with torch.no_grad():
        model.a_head.linear.bias[2:] = -2.0
    a = mean + math.exp(-1) * torch.randn(mean.shape, generator=seeded(), **DOUBLE)
    log_q = DiagonalGaussian(mean, torch.full_like(mean, -2.0)).log_prob(a)[seen].sum()
    log_p = statsmodels(*matrices(model, a), torch.where(seen[..., None], a, math.nan)[0]).llf_obs.sum()
    bound = model.vlb(torch.where(seen[..., None], x, math.nan), observed=seen, generator=seeded())
    torch.testing.assert_close(bound.kl["a, z"][0], log_q - log_p, rtol=0, atol=1e-9)
    frames = model._observation(a).log_prob(x)[seen].sum()
    torch.testing.assert_close(bound.reconstruction[0], frames, rtol=0, atol=1e-9)
    # That the state is integrated out changes nothing: the posterior of it is exact.
    output = model(x, observed=seen, generator=seeded())
    a_o = torch.where(seen[..., None], output.latents["a"].sample, math.nan)
    exact = statsmodels(*matrices(model, a), a_o[0]).llf_obs.sum()
    log_q = DiagonalGaussian(mean, torch.full_like(mean, -2.0)).log_prob(a_o)[seen].sum()
    frames = output.observation.log_prob(x)[seen].sum()
    weight = log_weights(output, x, observed=seen).sum()
    torch.testing.assert_close(weight, frames + exact - log_q, rtol=0, atol=1e-8)


def test_a_mixture_of_the_same_matrices_is_one_model_with_missing_frames_too(kvae):
    one, x, seen, a, exact = kvae
    torch.manual_seed(0)
    two = KVAE(6, 3, encoder=(8,), decoder=(8,), mixture=2, weights_dim=4).double()
    hidden, known = torch.where(seen[..., None], x, math.nan), dict(one.named_parameters())
    with torch.no_grad():
        for name, value in two.named_parameters():
            if not name.startswith("weights"):
                value.copy_(known[name].expand_as(value))
        latents = two.inference(hidden.repeat(10_000, 1, 1), observed=seen.repeat(10_000, 1), generator=seeded())
        drawn, q_a = latents["a"].sample, latents["a"].posterior
        torch.testing.assert_close(drawn[0][seen[0]], a[seen], rtol=0, atol=1e-9)
        log_p, log_q = log_likelihood(one.state_space(drawn), drawn), q_a.log_prob(drawn)[:, ~seen[0]].sum(1)
        # What is drawn besides leaves the mean weight as it is: the likelihood of the features that are known.
        found, error = estimated(log_p - log_q)
        assert error < 0.05
        assert abs(found - exact.llf_obs.sum()) < 4 * error
        output = two(hidden, observed=seen, generator=seeded())
        values = {name: latent.sample for name, latent in output.latents.items()}
        for name, latent in two.inference(hidden, observed=seen, latents=values).items():
            log_prob = output.latents[name].posterior.log_prob(values[name])
            torch.testing.assert_close(latent.posterior.log_prob(values[name]), log_prob)


def test_the_filter_of_a_kvae_is_the_kalman_filter_with_missing_frames(kvae):
    model, x, seen, _, exact = kvae
    watch = model.filter(num_particles=1, generator=seeded())
    for t in range(12):
        found = watch.update(x[:, t] / seen[:, t], observed=seen[:, t])
        torch.testing.assert_close(
            found.latents["z"].mean[0], torch.as_tensor(exact.filtered_state[:, t]), rtol=0, atol=1e-9
        )
        variance = torch.as_tensor(exact.filtered_state_cov[:, :, t]).diagonal()
        torch.testing.assert_close(found.latents["z"].variance[0], variance, rtol=0, atol=1e-9)


# ---------------------------------------------------------------- frames generated from those before


class LinearPredictor(DVAE):
    """x_t ~ N(b x_{t-1} + c z_t, s), z_t ~ N(a z_{t-1}, q), in each of two dimensions; any inference will do."""

    spec = DependencySpec(generation="z_t ~ z_{t-1} \n x_t ~ z_t, x_{t-1}", inference="z_t ~ z_{t-1}, x_t")
    a, b, c, q, s = 0.8, 0.7, 1.0, 0.3, 0.8

    def __init__(self):
        super().__init__(2, 2)
        self.unused = nn.Parameter(torch.zeros((), **DOUBLE))

    def _gaussian(self, mean, variance):
        return DiagonalGaussian(mean, torch.full_like(mean, math.log(variance)))

    def _context(self, x, u, lengths, draws, past):
        return Context({"x": x})

    def _propose(self, name, context, known):  # a guess
        return self._gaussian(0.9 * self.a * known["z_prev"] + 0.1 * context["x"], 1.3 * self.q)

    def _generate(self, x, latents, u, lengths, states):
        z = latents["z"]
        prior = self._gaussian(self.a * shift(z), self.q)
        return Generated({"z": prior}, self._gaussian(self.b * shift(x) + self.c * z, self.s))

    def _initial_state(self, batch_size, draws):
        return {"z": self.unused.new_zeros(batch_size, 2)}

    def _step(self, state, x_prev, u_t, draws):
        z = draws("z", self._gaussian(self.a * state["z"], self.q), z_prev=state["z"])
        return self._gaussian(self.b * x_prev + self.c * z, self.s), {"z": z}

    @classmethod
    def covariance(cls, time, seen=None, fed="draw"):
        """Of one dimension of x_{1:T}, where what is missing is fed back as a draw, the mean or a neutral value."""
        seen = torch.ones(time, dtype=torch.bool) if seen is None else seen
        before = torch.eye(time, **DOUBLE).roll(1, 0).tril(-1)
        passed = seen.double() if fed == "neutral" else torch.ones(time, **DOUBLE)
        z = torch.linalg.inv(torch.eye(time, **DOUBLE) - cls.a * before)
        x = torch.linalg.inv(torch.eye(time, **DOUBLE) - cls.b * before * passed)
        noise = cls.s * torch.diag(seen.double() if fed == "mean" else torch.ones(time, **DOUBLE))
        return x @ (cls.c**2 * cls.q * z @ z.mT + noise) @ x.mT


@pytest.fixture(scope="module")
def gaps():
    """A sequence of six frames, and what was observed of it: a long gap in one dimension, another in both."""
    model = LinearPredictor()
    x = model.generate(6, 1, generator=seeded(4)).x
    seen = torch.tensor([[1, 1], [1, 0], [0, 0], [1, 0], [1, 1], [1, 1]]).bool()[None]
    covariance = model.covariance(6)
    known = [dense(covariance, x[0, :, d], seen[0, :, d]) for d in range(2)]
    return model, torch.where(seen, x, math.nan), seen, known


def estimated(values):
    """The log of the mean of exp(values), and its standard error."""
    shifted = (values - values.max()).exp()
    return float(values.max() + shifted.mean().log()), float(shifted.std() / shifted.mean() / math.sqrt(len(values)))


def test_with_its_own_draws_a_predictive_model_is_unbiased_with_gaps(gaps):
    model, x, seen, known = gaps
    exact = float(sum(log_prob for log_prob, _, _ in known))
    many, mask = x.repeat(40_000, 1, 1), seen.repeat(40_000, 1, 1)
    with torch.no_grad():
        values = model.vlb(many, observed=mask, kl="sampled", generator=seeded(1)).value
        resampled = particle(model, many[:4000], observed=mask[:4000], num_particles=8, generator=seeded(2)).value
    for estimates in (values, resampled):
        found, error = estimated(estimates)
        assert error < 0.05
        assert abs(found - exact) < 4 * error
        assert estimates.mean() < exact  # a lower bound


@pytest.mark.parametrize("fed", ["mean", "neutral"])
def test_fed_the_mean_or_a_neutral_value_it_is_another_model(gaps, fed):
    model, x, seen, known = gaps
    exact = float(sum(log_prob for log_prob, _, _ in known))
    zeros = torch.where(seen, x, 0.0)
    other = sum(dense(model.covariance(6, seen[0, :, d], fed), zeros[0, :, d], seen[0, :, d])[0] for d in range(2))
    many, mask = zeros.repeat(200_000, 1, 1), seen.repeat(200_000, 1, 1)
    with torch.no_grad():
        output = model(many, generator=seeded(1))
        if fed == "mean":
            values = {"z": output.latents["z"].sample}
            rolled = rollout(model, many, values, None, 0.0, None, Gaps(mask, "mean"))
            output = output._replace(observation=rolled.observation)
        found, error = estimated(log_weights(output, many, observed=mask).sum(1))
    assert abs(found - float(other)) < 4 * error
    assert abs(float(other) - exact) > 4 * error


def test_filtering_and_imputation_of_a_predictive_model(gaps):
    model, x, seen, known = gaps
    exact = float(sum(log_prob for log_prob, _, _ in known))
    watch = model.filter(num_particles=40_000, generator=seeded(3))
    for t in range(6):
        watch.update(x[:, t], observed=seen[:, t])
    assert abs(float(watch.log_likelihood) - exact) < 0.05
    filled = model.impute(x, seen, num_samples=8000, chunk_size=2000, weighted=True, generator=seeded(5))
    for d, (_, mean, covariance) in enumerate(known):
        missing = ~seen[0, :, d]
        error = covariance.diagonal().sqrt() / filled.effective_sample_size.sqrt()
        assert ((filled.mean[0, missing, d] - mean).abs() < 4 * error).all()
        samples = filled.samples[:, 0, missing, d]
        torch.testing.assert_close(samples.T.cov().reshape(len(mean), -1), covariance, rtol=0.2, atol=0.05)
