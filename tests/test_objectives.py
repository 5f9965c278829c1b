"""Objectives as functions of a model and a batch: relations between them, gradients, and training on each."""

import math
from functools import partial

import pytest
import torch
from torch import nn

from dvae_lib import DSAE, DVAE, KVAE, SRNN, VAE, DependencySpec
from dvae_lib.distributions import DiagonalGaussian
from dvae_lib.models.base import Inferred
from dvae_lib.objectives import (
    VLB,
    Generated,
    free_bits,
    importance_weighted,
    nasmc,
    particle,
    variational_lower_bound,
    vlb,
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def make(cls=SRNN, **options):
    torch.manual_seed(0)
    return cls(3, 2, **options).double()


def data(batch=4, time=6):
    return torch.randn(batch, time, 3, generator=seeded(1), dtype=torch.float64)


LENGTHS = torch.tensor([6, 1, 4, 2])


class TestTheBound:
    def test_is_what_the_method_gives(self):
        model, x = make(), data()
        for options in ({}, {"lengths": LENGTHS}, {"num_samples": 3, "beta": 0.2}, {"kl": "sampled", "feedback": 0.5}):
            one, other = (
                bound(generator=seeded(), **options) for bound in (partial(vlb, model, x), partial(model.vlb, x))
            )
            assert torch.equal(one.value, other.value)

    def test_of_one_weighted_sample_is_the_bound_with_a_sampled_kl(self):
        model, x = make(), data()
        weighted = importance_weighted(model, x, lengths=LENGTHS, num_samples=1, generator=seeded())
        torch.testing.assert_close(
            weighted.value, vlb(model, x, lengths=LENGTHS, kl="sampled", generator=seeded()).value
        )
        assert torch.equal(weighted.effective_sample_size, torch.ones(4).double())

    def test_of_independent_frames_weights_each_by_itself(self):
        model, x = make(VAE), data()
        assert model.frames_are_independent
        many = x[:1].repeat(400, 1, 1)
        whole = importance_weighted(model, many, num_samples=5, generator=seeded()).value
        single = importance_weighted(model, many.reshape(-1, 1, 3), num_samples=5, generator=seeded(2)).value
        single = single.reshape(400, 6).sum(1)
        error = ((whole.var() + single.var()) / 400).sqrt()
        assert abs(whole.mean() - single.mean()) < 4 * error
        assert whole.mean() > vlb(model, many, kl="sampled", generator=seeded()).value.mean() + 10 * error


class TestGradients:
    def test_of_the_importance_weighted_bound_weight_the_samples(self):
        """The gradient is the mean of the samples' log-weights' gradients, weighted by the normalised weights."""
        model, x = make(VAE), data(1, 1)
        k = 5
        gradients = torch.autograd.grad(
            importance_weighted(model, x, num_samples=k, generator=seeded()).value.sum(), list(model.parameters())
        )
        each = vlb(model, x.repeat(k, 1, 1), kl="sampled", generator=seeded()).value
        expected = torch.autograd.grad((each.detach().softmax(0) * each).sum(), list(model.parameters()))
        torch.testing.assert_close(gradients, expected)

    @pytest.mark.parametrize("objective", [vlb, free_bits, importance_weighted, particle, nasmc])
    def test_reach_every_parameter(self, objective):
        model = make()
        objective(model, data(), generator=seeded()).value.sum().backward()
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


class TestFreeBits:
    @pytest.mark.parametrize("per", ["entry", "frame", "sequence"])
    @pytest.mark.parametrize("cls", [SRNN, DSAE])
    def test_of_nothing_is_the_bound(self, cls, per):
        model, x = make(cls), data()
        free = free_bits(model, x, lengths=LENGTHS, nats=0.0, per=per, generator=seeded())
        torch.testing.assert_close(free.value, vlb(model, x, lengths=LENGTHS, generator=seeded()).value)

    @torch.no_grad()
    @pytest.mark.parametrize("cls", [SRNN, DSAE])
    def test_is_the_sum_of_what_goes_beyond(self, cls):
        """Written out: each term, or the free nats if it is smaller; only of frames that are there."""
        model, x, beta = make(cls), data(), 0.7
        for per, nats in (("entry", 0.05), ("frame", 0.2), ("sequence", 1.0)):
            bound = vlb(model, x, lengths=LENGTHS, beta=beta, generator=seeded())
            found = free_bits(model, x, lengths=LENGTHS, nats=nats, per=per, beta=beta, generator=seeded())
            for i, length in enumerate(LENGTHS.tolist()):
                price = 0.0
                for name, term in bound.kl.items():
                    entries = bound.kl_per_dim[name][i] if per == "entry" else term[i]
                    own = entries[:length] if term.ndim == 2 else entries
                    terms = own.reshape(-1).tolist() if per != "sequence" else [float(own.sum())]
                    price += sum(max(nats, value) for value in terms)
                expected = float(bound.reconstruction[i]) - beta * price
                assert math.isclose(float(found.value[i]), expected, rel_tol=1e-10)
            assert isinstance(found, VLB)
            torch.testing.assert_close(found.kl, bound.kl)

    def test_refusals(self, as_a_user):
        model, x = make(), data()
        with pytest.raises(ValueError, match="0 or more"):
            free_bits(model, x, nats=-1.0)
        with pytest.raises(ValueError, match="'entry', 'frame' or 'sequence'"):
            free_bits(model, x, per="batch")
        with pytest.raises(ValueError, match="no sum over entries"):
            free_bits(make(KVAE), x)


def test_refusals(as_a_user):
    model, x = make(), data()
    for number in ({"num_samples": 0}, {"num_samples": 2, "chunk_size": 0}):
        with pytest.raises(ValueError, match="at least 1"):
            importance_weighted(model, x, **number)
    with pytest.raises(ValueError, match="at least 1"):
        vlb(model, x, num_samples=0)
    with pytest.raises(ValueError, match="'analytic' or 'sampled'"):
        vlb(model, x, kl="exact")
    with pytest.raises(ValueError, match="between 0 and 1"):
        particle(model, x, threshold=1.5)


class BottomUp(DVAE):
    """Two scalar levels, a and b below it, inferred the other way round: the exact posterior, which is Gaussian."""

    spec = DependencySpec("a_t ~\nb_t ~ a_t\nx_t ~ b_t", "b_t ~ x_t\na_t ~ b_t")
    a_dim = b_dim = 1

    def __init__(self):
        super().__init__(1, 0)
        self.nothing = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def _infer(self, x, u, lengths, draws):
        b = draws("b", DiagonalGaussian(x * 2 / 3, torch.full_like(x, math.log(2 / 3))))  # x = b + noise, b ~ N(0, 2)
        a = draws("a", DiagonalGaussian(b.sample / 2, torch.full_like(x, math.log(0.5))))
        return Inferred({"b": b, "a": a}, {})

    def _generate(self, x, latents, u, lengths, states):
        standard = torch.zeros_like(x)
        prior = {"a": DiagonalGaussian(standard, standard), "b": DiagonalGaussian(latents["a"], standard)}
        return Generated(prior, DiagonalGaussian(latents["b"], standard))


def test_the_closed_form_is_not_taken_where_the_order_of_inference_forbids_it():
    """At the exact posterior the bound is the likelihood. The closed form of b's divergence at an a that was drawn from
    b would average over b as if a did not depend on it, and fall short by the two's mutual information and more."""
    model = BottomUp()
    assert model.spec.divergences == {"a"}
    x = torch.linspace(-2, 2, 5, dtype=torch.float64)[:, None, None]
    truth = torch.distributions.Normal(0.0, math.sqrt(3)).log_prob(x).sum((1, 2))
    bound = model.vlb(x, num_samples=4000, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(bound.value, truth, rtol=0, atol=0.03)
    output = model(x.repeat(4000, 1, 1), generator=torch.Generator().manual_seed(0))
    taken = {name: latent._replace(closed_form=True) for name, latent in output.latents.items()}
    wrong = variational_lower_bound(output._replace(latents=taken), x.repeat(4000, 1, 1)).value.view(4000, 5).mean(0)
    assert (wrong < truth - 0.3).all()
