"""Filters of streams, and the particle bound, against the Kalman filter and against inference of whole sequences."""

import math

import pytest
import torch
from torch import nn

from dvae_lib import DKF, KVAE, MODELS, SRNN, build_model
from dvae_lib.models.draws import Draws, Past
from dvae_lib.objectives import particle
from dvae_lib.statespace import LinearGaussianSSM, kalman_filter, log_likelihood


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def linear_dkf():
    """A DKF whose transition and decoder are linear, of independent dimensions; and the state-space model it is."""
    torch.manual_seed(0)
    model = DKF(2, 2, inference_model="filter", transition=3, decoder=(), encoder=(4,), g_dim=4).double()
    a, c = torch.tensor([0.9, -0.5]).double(), torch.tensor([1.2, 0.7]).double()
    z_noise, x_noise = torch.tensor([0.3, 0.6]).double(), torch.tensor([0.4, 0.2]).double()
    with torch.no_grad():
        for parameter in model.d_z.parameters():
            parameter.zero_()
        model.d_z.gate[2].bias.fill_(-1e9)  # the gate is closed: the linear transition alone
        model.d_z.linear.weight.copy_(torch.diag(a))
        model.d_z.variance.bias.copy_((z_noise.exp() - 1).log())  # softplus
        model.x_head.linear.weight.zero_()
        model.x_head.linear.weight[:2] = torch.diag(c)
        model.x_head.linear.bias.copy_(torch.cat([torch.zeros(2).double(), x_noise.log()]))
    ssm = LinearGaussianSSM(
        torch.diag(a), torch.diag(c), torch.diag(z_noise), torch.diag(x_noise),
        mu_1=torch.zeros(2).double(), Lambda_1=torch.diag(z_noise),
    )  # fmt: skip
    return model, ssm


class TestLinearGaussian:
    """Where the truth is known, from a proposal that has never been trained."""

    def test_a_filter_is_the_kalman_filter(self):
        model, ssm = linear_dkf()
        x = model.generate(12, 3, generator=seeded()).x
        exact, watch = kalman_filter(ssm, x), model.filter(3, num_particles=4000, generator=seeded(1))
        total = torch.zeros(3).double()
        for t in range(12):
            found = watch.update(x[:, t])
            deviation = exact.covariance[:, t].diagonal(dim1=-2, dim2=-1).sqrt()
            off = (found.latents["z"].mean - exact.mean[:, t]) / deviation
            assert off.abs().max() < 0.25
            torch.testing.assert_close(found.latents["z"].variance, deviation.square(), rtol=0.35, atol=0)
            predicted = (ssm.C @ exact.predicted_mean[:, t, :, None]).squeeze(-1)
            spread = ssm.C @ exact.predicted_covariance[:, t] @ ssm.C.mT + ssm.Sigma
            off = (found.prediction.mean - predicted) / spread.diagonal(dim1=-2, dim2=-1).sqrt()
            assert off.abs().max() < 0.25
            total = total - found.score
        torch.testing.assert_close(total, watch.log_likelihood)
        torch.testing.assert_close(total, log_likelihood(ssm, x), rtol=0, atol=0.5)

    @pytest.mark.parametrize("threshold", [0.0, 0.5, 1.0])
    def test_the_likelihood_estimate_is_unbiased(self, threshold):
        model, ssm = linear_dkf()
        x = model.generate(6, 1, generator=seeded()).x
        many = x.repeat(3000, 1, 1)
        with torch.no_grad():
            estimates = particle(model, many, num_particles=8, threshold=threshold, generator=seeded(2)).value
        ratio = (estimates - log_likelihood(ssm, x)).exp()
        assert abs(ratio.mean() - 1) < 4 * ratio.std() / math.sqrt(3000)
        assert estimates.mean() < log_likelihood(ssm, x)

    def test_a_forecast_is_that_of_the_kalman_filter(self):
        model, ssm = linear_dkf()
        x, n, steps = model.generate(12, 3, generator=seeded()).x, 4000, 5
        watch = model.filter(3, num_particles=n, generator=seeded(1))
        for x_t in x.unbind(1):
            watch.update(x_t)
        futures = watch.forecast(steps, num_samples=n)
        exact = kalman_filter(ssm, x)
        mean, covariance = exact.mean[:, -1], exact.covariance[:, -1]
        centred, spreads, covariances = [], [], []
        for t in range(steps):
            mean, covariance = mean @ ssm.A.T, ssm.A @ covariance @ ssm.A.mT + ssm.Lambda
            covariances.append(covariance)
            spreads.append((ssm.C @ covariance @ ssm.C.mT + ssm.Sigma).diagonal(dim1=-2, dim2=-1).sqrt())
            centred.append((futures[:, :, t] - mean @ ssm.C.T) / spreads[-1])
            assert centred[-1].mean(0).abs().max() < 0.1
            torch.testing.assert_close(centred[-1].std(0), torch.ones_like(spreads[-1]), rtol=0.08, atol=0)
        # The frames of one future belong together.
        shared = (ssm.C @ covariances[1] @ ssm.A.mT @ ssm.C.mT).diagonal(dim1=-2, dim2=-1)
        correlation = shared / (spreads[1] * spreads[2])
        torch.testing.assert_close((centred[1] * centred[2]).mean(0), correlation, rtol=0, atol=0.06)
        assert correlation.abs().min() > 0.2
        assert watch.num_frames == 12

    def test_an_odd_frame_scores_high(self):
        model, _ = linear_dkf()
        x = model.generate(20, 1, generator=seeded()).x
        x[:, 15] += 12.0
        watch = model.filter(num_particles=500, generator=seeded())
        scores = torch.cat([watch.update(x_t).score for x_t in x.unbind(1)])
        assert scores.argmax() == 15
        assert scores[15] > 10 * scores[:15].abs().max()


class TestGradients:
    def test_of_the_particle_bound_without_resampling_are_those_of_the_importance_weighted_bound(self):
        """With one particle and no resampling the bound is log p - log q at one draw; its gradient is checked by
        differences, at the same random numbers."""
        model, _ = linear_dkf()
        x = model.generate(5, 2, generator=seeded()).x
        value = particle(model, x, num_particles=3, threshold=0.0, generator=seeded(1)).value.sum()
        names = ("combiner.0.weight", "d_z.linear.weight", "x_head.linear.bias")
        parameters = dict(model.named_parameters())
        gradients = torch.autograd.grad(value, [parameters[name] for name in names])
        for name, gradient in zip(names, gradients, strict=True):
            flat, step = parameters[name].data.view(-1), 1e-6
            for i in (0, len(flat) - 1):
                ends = []
                for sign in (1, -1):
                    flat[i] += sign * step
                    with torch.no_grad():
                        ends.append(particle(model, x, num_particles=3, threshold=0.0, generator=seeded(1)).value.sum())
                    flat[i] -= sign * step
                difference = (ends[0] - ends[1]) / (2 * step)
                torch.testing.assert_close(gradient.view(-1)[i], difference, rtol=1e-4, atol=1e-6)

    def test_training_on_it_raises_it(self):
        torch.manual_seed(0)
        model, _ = linear_dkf()
        x = model.generate(10, 16, generator=seeded()).x
        for parameter in model.d_z.parameters():
            parameter.requires_grad_(False)
        with torch.no_grad():
            before = particle(model, x, num_particles=8, generator=seeded(5)).value.mean()
        optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.02)
        for step in range(60):
            optimizer.zero_grad()
            (-particle(model, x, num_particles=4, generator=seeded(step)).value.mean()).backward()
            optimizer.step()
        with torch.no_grad():
            assert particle(model, x, num_particles=8, generator=seeded(5)).value.mean() > before + 0.3


class TestCost:
    def test_a_frame_costs_the_same_however_long_the_sequence(self, monkeypatch):
        """Proposals and steps are counted: one of each for a frame, and one pass over the data."""
        torch.manual_seed(0)
        model, counts = SRNN(3, 2, h_dim=4, g_dim=4), {"_step": 0, "_propose": 0, "_context": 0}
        for name in counts:
            original = getattr(SRNN, name)

            def counted(*arguments, _name=name, _original=original):
                counts[_name] += 1
                return _original(*arguments)

            monkeypatch.setattr(SRNN, name, counted)
        for num_steps in (5, 40):
            counts.update(dict.fromkeys(counts, 0))
            model.smc_bound(torch.zeros(2, num_steps, 3), num_particles=3, generator=seeded())
            assert counts == {"_step": num_steps, "_propose": num_steps, "_context": 1}

    def test_a_filter_does_not_grow(self):
        torch.manual_seed(0)
        watch = build_model("vrnn", x_dim=3, z_dim=2, **MODELS["vrnn"].small).filter(num_particles=7)
        sizes = []
        for x_t in torch.randn(30, 1, 3, generator=seeded()):
            watch.update(x_t)
            carried = [v for item in watch.past.carried.values() for v in (item if isinstance(item, tuple) else [item])]
            tensors = [*watch.state.values(), watch.weights, *(v for v in carried if isinstance(v, torch.Tensor))]
            sizes.append(sum(v.numel() for v in tensors))
        assert len(set(sizes[1:])) == 1


SMOOTHERS = [
    (name, options)
    for name, entry in MODELS.items()
    for options in entry.variants
    if name != "rvae-noncausal" and "head_rnn" not in options
]


@pytest.mark.parametrize("u_dim", [0, 2])
@pytest.mark.parametrize(("name", "options"), SMOOTHERS, ids=str)
def test_a_stream_is_read_as_if_it_ended_at_each_frame(name, options, u_dim):
    if u_dim and name in ("vae", "gpvae"):
        pytest.skip("its equations have no input")
    torch.manual_seed(0)
    model = build_model(name, **{"x_dim": 3, "z_dim": 2, "u_dim": u_dim, **MODELS[name].small, **options}).double()
    x = torch.randn(2, 5, 3, generator=seeded(), dtype=torch.float64)
    u = torch.randn(2, 5, u_dim, generator=seeded(), dtype=torch.float64) if u_dim else None
    given = {v: torch.ones(2, model.latent_dim(v)).double() for v in model.sequence_latents}
    past = Past(streaming=True)
    for t in range(5):
        streamed = model._context(x[:, t : t + 1], None if u is None else u[:, t : t + 1], None, Draws(given), past)
        whole = model._context(x[:, : t + 1], None if u is None else u[:, : t + 1], None, Draws(given), Past())
        for key, value in streamed.frames.items():
            torch.testing.assert_close(value[:, 0], whole.frames[key][:, t])


class TestKVAE:
    """The state is integrated out: particles carry the features alone."""

    def test_its_particle_bound_varies_with_the_features_alone(self):
        torch.manual_seed(0)
        model = KVAE(6, 3).double()
        x = torch.randn(1, 8, 6, generator=seeded(), dtype=torch.float64).repeat(300, 1, 1)
        weighted = model.importance_weighted_bound(x, num_samples=20, generator=seeded())
        bound = model.vlb(x, generator=seeded()).value.detach()
        particles = model.smc_bound(x, num_particles=20, generator=seeded())
        assert particles.mean() > bound.mean() + 3 * bound.std() / math.sqrt(300)
        assert particles.std() < bound.std()
        assert particles.mean() > weighted.mean() - 4 * weighted.std() / math.sqrt(300)

    @pytest.mark.parametrize("mixture", [1, 3])
    def test_with_features_that_are_certain_it_is_the_kalman_filter(self, mixture):
        torch.manual_seed(0)
        model = KVAE(6, 3, mixture=mixture).double()
        nn.init.zeros_(model.a_head.linear.weight[2:].data)
        with torch.no_grad():
            model.a_head.linear.weight[2:] = 0
            model.a_head.linear.bias[2:] = -60.0  # the encoder's variance
        x = torch.randn(2, 8, 6, generator=seeded(), dtype=torch.float64)
        watch = model.filter(2, num_particles=2, generator=seeded())
        a = model.inference(x, draw="mean")["a"].sample
        exact = kalman_filter(model.state_space(a), a)
        for t in range(8):
            found = watch.update(x[:, t])
            torch.testing.assert_close(found.latents["z"].mean, exact.mean[:, t], rtol=0, atol=1e-9)
            spread = exact.covariance[:, t].diagonal(dim1=-2, dim2=-1)
            torch.testing.assert_close(found.latents["z"].variance, spread, rtol=0, atol=1e-9)


class TestRefusals:
    def test_models_that_cannot(self):
        with pytest.raises(NotImplementedError, match="cannot filter frame by frame"):
            build_model("rvae-noncausal", x_dim=3, z_dim=2).filter()
        with pytest.raises(NotImplementedError, match="no particle filter"):
            build_model("rvae-noncausal", x_dim=3, z_dim=2).smc_bound(torch.zeros(1, 4, 3))

    def test_wrong_frames(self):
        watch = SRNN(3, 2).filter(2)
        with pytest.raises(ValueError, match="2 sequences"):
            watch.update(torch.zeros(1, 3))
        with pytest.raises(ValueError, match="not finite"):
            watch.update(torch.full((2, 3), math.nan))
        with pytest.raises(ValueError, match="between 0 and 1"):
            SRNN(3, 2).filter(threshold=2.0)


def test_a_model_that_infers_whole_sequences_has_a_particle_bound_too():
    """At the cost of a pass over the sequence for each frame; the numbers are those of its proposals."""

    class Whole(SRNN):
        def _infer(self, x, u, lengths, draws):
            return super()._infer(x, u, lengths, draws)

    torch.manual_seed(0)
    model = SRNN(3, 2, **MODELS["srnn"].small).double()
    torch.manual_seed(0)
    other = Whole(3, 2, **MODELS["srnn"].small).double()
    assert model.has_proposal
    assert not other.has_proposal
    x = torch.randn(3, 5, 3, generator=seeded(), dtype=torch.float64)
    lengths = torch.tensor([5, 2, 4])
    many, of_many = x.repeat(200, 1, 1), lengths.repeat(200)
    bounds = [
        m.smc_bound(many, lengths=of_many, num_particles=6, generator=seeded()).view(200, 3) for m in (model, other)
    ]
    error = (bounds[0].var(0) / 200 + bounds[1].var(0) / 200).sqrt()
    assert ((bounds[0].mean(0) - bounds[1].mean(0)).abs() < 4 * error).all()
