"""Objectives against posterior collapse, against what they are made of; and the committed rate, by optimisation."""

import math

import pytest
import torch

from dvae_lib import DKF, DSAE, KVAE, SRNN, STORN, VAE, VRNN
from dvae_lib.objectives import balanced_kl, committed_rate, free_bits, vlb, word_dropout

LENGTHS = torch.tensor([6, 1, 4, 2])


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def make(cls=SRNN, **options):
    torch.manual_seed(0)
    return cls(3, 2, **options).double()


def data(batch=4, time=6):
    return torch.randn(batch, time, 3, generator=seeded(1), dtype=torch.float64)


def gradients(model, value):
    found = torch.autograd.grad(value, list(model.parameters()), allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(model.parameters(), found, strict=True)]


class TestWordDropout:
    @pytest.mark.parametrize("cls", [SRNN, VRNN, STORN])
    def test_is_the_bound_in_evaluation_mode(self, cls):
        model, x = make(cls).eval(), data()
        found = word_dropout(model, x, lengths=LENGTHS, rate=0.7, beta=0.4, generator=seeded())
        expected = vlb(model, x, lengths=LENGTHS, beta=0.4, generator=seeded())
        torch.testing.assert_close(found.value, expected.value)
        assert torch.equal(found.kl["z"][LENGTHS[:, None] <= torch.arange(6)], torch.zeros(11).double())

    @pytest.mark.parametrize("observation", ["gaussian", "bernoulli", "gamma"])
    def test_of_all_words_leaves_the_latents_alone(self, observation):
        """The posterior is that of the frames; what is generated does not know them."""
        model, x = make(VRNN, observation=observation), data().abs().clamp(max=1)
        x = x.round() if observation == "bernoulli" else x
        found = word_dropout(model, x, rate=1.0, generator=seeded())
        latents = {name: q.sample for name, q in model.inference(x, generator=seeded()).items()}
        neutral = {"gaussian": 0.0, "bernoulli": 0.0, "gamma": None}[observation]
        if neutral is not None:
            expected = model.generation(torch.full_like(x, neutral), latents).observation.log_prob(x).sum(1)
            if observation == "gaussian":
                torch.testing.assert_close(found.reconstruction, expected)
        other = x.roll(1, 0) if observation == "gamma" else 1 - x
        blanks = [word_dropout(model, v, rate=1.0, generator=seeded(2)).reconstruction for v in (x, other)]
        assert not torch.equal(*blanks)  # q and what is scored are others
        assert torch.isfinite(found.value).all()

    def test_blanks_so_many_frames(self, monkeypatch):
        model, x = make(), data(400, 10)
        seen = []
        generation = model.generation
        monkeypatch.setattr(model, "generation", lambda past, *a, **k: seen.append(past) or generation(past, *a, **k))
        word_dropout(model, x, rate=0.3, generator=seeded())
        blank = (seen[0] == 0).all(-1)
        assert torch.equal(seen[0][~blank], x[~blank])
        assert abs(blank.double().mean() - 0.3) < 4 * math.sqrt(0.21 / 4000)

    def test_refusals(self, as_a_user):
        x = data()
        for wrong in (-0.1, 1.5, math.nan):
            with pytest.raises(ValueError, match="probability between 0 and 1"):
                word_dropout(make(), x, rate=wrong)
        for cls in (VAE, DKF, DSAE):
            with pytest.raises(ValueError, match=r"does not generate from past frames.*VRNN and SRNN"):
                word_dropout(make(cls), x)
        with pytest.raises(NotImplementedError, match="KVAE has a bound of its own"):
            word_dropout(make(KVAE), x)


class TestBalancedKL:
    @pytest.mark.parametrize("cls", [SRNN, VRNN, DSAE])
    def test_has_the_value_of_the_bound_and_half_of_its_gradient(self, cls):
        model, x, beta = make(cls), data(), 0.6
        half = balanced_kl(model, x, lengths=LENGTHS, balance=0.5, beta=beta, generator=seeded())
        bound = vlb(model, x, lengths=LENGTHS, beta=beta, generator=seeded())
        torch.testing.assert_close(half.value, bound.value)
        price = bound.kl["z"].sum() / 2
        if "v" in bound.kl:  # its prior is fixed, and its KL term as it was
            price = price + bound.kl["v"].sum()
        expected = gradients(model, bound.reconstruction.sum() - beta * price)
        for found, wanted in zip(gradients(model, half.value.sum()), expected, strict=True):
            torch.testing.assert_close(found, wanted)

    def test_at_the_ends_only_one_side_learns(self):
        """Of a single frame: nothing else reaches the prior's weights, and the posterior's only the reconstruction."""
        model, x = make(VRNN), data(time=1)
        bound = vlb(model, x, generator=seeded())
        (plain,) = torch.autograd.grad(bound.reconstruction.sum(), [model.z_head.linear.weight], retain_graph=True)
        for balance in (0.0, 1.0):
            value = balanced_kl(model, x, balance=balance, generator=seeded()).value.sum()
            weights = [model.prior_head.linear.weight, model.z_head.linear.weight]
            prior, posterior = torch.autograd.grad(value, weights, allow_unused=True)
            learned = prior is not None and bool((prior != 0).any())
            assert learned == (balance == 1.0)
            assert torch.allclose(posterior, plain) == (balance == 1.0)

    def test_refusals(self, as_a_user):
        x = data()
        for wrong in (-0.1, 1.1, math.nan):
            with pytest.raises(ValueError, match="between 0 and 1"):
                balanced_kl(make(), x, balance=wrong)
        for cls in (VAE, STORN):
            with pytest.raises(ValueError, match=r"prior that depends on nothing.*VRNN and SRNN"):
                balanced_kl(make(cls), x)
        with pytest.raises(NotImplementedError, match="KVAE has a bound of its own"):
            balanced_kl(make(KVAE), x)


class TestFreeBitsOfMeans:
    @torch.no_grad()
    @pytest.mark.parametrize("per", ["entry", "frame", "sequence"])
    @pytest.mark.parametrize("cls", [SRNN, DSAE])
    def test_are_those_of_the_batch(self, cls, per):
        """Written out with sums over what is there; free of charge they leave the batch's bound as it is."""
        model, x, beta = make(cls), data(), 0.7
        bound = vlb(model, x, lengths=LENGTHS, beta=beta, generator=seeded())
        for nats in (0.0, 0.02, 50.0):
            options = {"lengths": LENGTHS, "nats": nats, "per": per, "averaged": True, "beta": beta}
            found = free_bits(model, x, generator=seeded(), **options)
            price = 0.0
            for name, term in bound.kl.items():
                framewise = term.ndim == 2 and per != "sequence"
                count = int(LENGTHS.sum()) if framewise else 4
                entries = bound.kl_per_dim[name].flatten(0, -2) if per == "entry" else term.reshape(-1, 1)
                price += count * sum(max(nats, float(mean)) for mean in entries.sum(0) / count)
            expected = float(bound.reconstruction.sum()) - beta * price
            assert math.isclose(float(found.value.sum()), expected, rel_tol=1e-9)

    @torch.no_grad()
    def test_pays_for_one_frame_with_another(self):
        """A mean above the free nats has the whole gradient, where each frame for itself has less."""
        model, x = make(), data()
        kl = vlb(model, x, generator=seeded()).kl["z"]
        nats = float(kl.mean()) * 0.99
        assert (kl < nats).any()
        mean, each = (
            free_bits(model, x, nats=nats, per="frame", averaged=a, generator=seeded()) for a in (True, False)
        )
        plain = vlb(model, x, generator=seeded())
        torch.testing.assert_close(mean.value.sum(), plain.value.sum())
        assert each.value.sum() < plain.value.sum()


class TestCommittedRate:
    @pytest.mark.parametrize(("alpha", "steps"), [(0.5, 1), (0.5, 2), (0.9, 3), (-0.7, 10), (0.95, 40), (0.0, 5)])
    def test_is_what_optimisation_finds(self, alpha, steps):
        """Of a factorised Gaussian against the dense prior, with its covariance written down."""
        index = torch.arange(steps, dtype=torch.float64)
        covariance = torch.tensor(alpha, dtype=torch.float64) ** (index[:, None] - index).abs()
        precision, logdet = torch.linalg.inv(covariance), torch.linalg.slogdet(covariance)[1]
        g = seeded(3)
        mean, logvar = (torch.randn(steps, generator=g, dtype=torch.float64).requires_grad_() for _ in range(2))

        def divergence():
            quadratic = (precision.diagonal() * logvar.exp()).sum() + mean @ precision @ mean
            return 0.5 * (quadratic - steps - logvar.sum() + logdet)

        optimiser = torch.optim.LBFGS(
            [mean, logvar], max_iter=500, tolerance_grad=1e-10, tolerance_change=1e-14, line_search_fn="strong_wolfe"
        )

        def closure():
            optimiser.zero_grad()
            value = divergence()
            value.backward()
            return value

        optimiser.step(closure)
        assert abs(divergence().item() - committed_rate(alpha, steps)) < 1e-6
        assert mean.abs().max() < 1e-4
        torch.testing.assert_close(logvar.exp(), 1 / precision.diagonal(), rtol=1e-4, atol=1e-4)

    @torch.no_grad()
    def test_is_paid_by_a_storn_with_memory(self):
        """Whatever its weights: also those with which the posterior knows nothing."""
        model, x = make(STORN, memory=0.8), data(1000, 6)
        least = 2 * committed_rate(0.8, 6)
        for scale, logvar in ((1.0, None), (0.0, math.log(1 - 0.64)), (0.0, math.log(0.36 / 1.64))):
            model.z_head.linear.weight.mul_(scale)
            if logvar is not None:
                model.z_head.linear.bias.copy_(torch.tensor([0.0, 0.0, logvar, logvar]))
            kl = vlb(model, x, generator=seeded()).total_kl
            assert kl.mean() > least - 4 * kl.std() / math.sqrt(1000)
        assert kl.mean() < least + 0.6  # the best variance of inner frames, at the ends too: near the least

    def test_is_not_paid_with_memory_in_the_posterior(self):
        """Where q looks at z_{t-1} it can be the prior: nothing is committed."""
        model, x = make(STORN, memory=0.8), data()
        prior = model.generation(x, {"z": data()[..., :2]}).prior["z"]
        torch.testing.assert_close(prior.mean[:, 1:], 0.8 * data()[:, :-1, :2])
        torch.testing.assert_close(prior.variance[:, 1:], torch.full((4, 5, 2), 0.36).double())
        assert (prior.mean[:, 0] == 0).all()
        assert (prior.variance[:, 0] == 1).all()

    def test_refusals(self, as_a_user):
        for wrong in (1.0, -1.0, math.nan):
            with pytest.raises(ValueError, match="alpha is a correlation between -1 and 1"):
                committed_rate(wrong, 3)
        with pytest.raises(ValueError, match="at least 1"):
            committed_rate(0.5, 0)
