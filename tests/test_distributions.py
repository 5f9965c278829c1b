"""The likelihoods: against torch's own, against numerical integration, and against the laws they must obey."""

import copy
import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import distributions as td

from dvae_lib.distributions import (
    OBSERVATIONS,
    Bernoulli,
    CentimetreGaussian,
    DiagonalGaussian,
    FactorisedDistribution,
    FixedGaussian,
    FullGaussian,
    Gamma,
    UnitGaussian,
    itakura_saito,
    kl_divergence,
    kl_per_dim,
    observation_family,
    register_observation,
    standard_normal,
    support_of,
)
from dvae_lib.models import DVAE, MODELS, build_model

FAMILIES = [DiagonalGaussian, UnitGaussian, CentimetreGaussian, Gamma, Bernoulli]  # others: test_families.py


def random(family, *shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    size = (*shape[:-1], family.outputs_per_dim * shape[-1])
    return family.from_output(torch.randn(size, generator=generator, dtype=torch.float64))


def oracle(p):
    """The same distribution, from torch."""
    if isinstance(p, DiagonalGaussian):
        return td.Independent(td.Normal(p.mean, (0.5 * p.logvar).exp()), 1)
    if isinstance(p, Gamma):
        return td.Independent(td.Gamma(torch.ones_like(p.logvar), (-p.logvar).exp()), 1)
    return td.Independent(td.Bernoulli(logits=p.logits), 1)


@pytest.mark.parametrize("family", FAMILIES)
def test_agrees_with_torch(family):
    p = random(family, 4, 5, 3)
    x = oracle(p).sample()
    assert p.log_prob(x).shape == (4, 5)
    torch.testing.assert_close(p.log_prob(x), oracle(p).log_prob(x), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(p.log_prob_per_dim(x).sum(-1), p.log_prob(x))
    torch.testing.assert_close(p.mean, oracle(p).mean)
    torch.testing.assert_close(p.variance, oracle(p).variance)
    torch.testing.assert_close(p.entropy(), oracle(p).entropy())


@pytest.mark.parametrize("family", FAMILIES)
def test_is_normalised(family):
    p = random(family, 1)

    def density(value):
        return p.log_prob_per_dim(torch.tensor([value], dtype=torch.float64)).exp().item()

    if family is Bernoulli:
        total = density(0.0) + density(1.0)
    else:
        total, _ = integrate.quad(density, 0 if family is Gamma else -np.inf, np.inf)
    assert total == pytest.approx(1, abs=1e-8)


@pytest.mark.parametrize("family", FAMILIES)
def test_kl_is_the_expected_log_ratio(family):
    q, p = random(family, 1, seed=1), random(family, 1, seed=2)
    if family is Bernoulli:
        values = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
        expected = (q.log_prob(values).exp() * (q.log_prob(values) - p.log_prob(values))).sum().item()
    else:

        def integrand(value):
            x = torch.tensor([value], dtype=torch.float64)
            return (q.log_prob(x).exp() * (q.log_prob(x) - p.log_prob(x))).item()

        centre, width = q.mean.item(), q.variance.sqrt().item()
        low, high = (0, 400 * centre) if family is Gamma else (centre - 40 * width, centre + 40 * width)
        expected, _ = integrate.quad(integrand, low, high, limit=500)
    assert kl_divergence(q, p).item() == pytest.approx(expected, rel=1e-6)
    assert kl_divergence(q, q).item() == pytest.approx(0, abs=1e-15)
    assert td.kl_divergence(q, p).item() == kl_divergence(q, p).item()
    torch.testing.assert_close(kl_per_dim(q, p).sum(-1), kl_divergence(q, p))


@pytest.mark.parametrize("family", FAMILIES)
def test_samples_follow_the_distribution(family):
    p = random(family, 1, seed=3)
    samples = p.sample((4000,), generator=torch.Generator().manual_seed(0)).squeeze(-1).numpy()
    if family is Bernoulli:
        assert stats.binomtest(int(samples.sum()), 4000, p.mean.item()).pvalue > 1e-3
        return
    if family is Gamma:
        cdf = stats.expon(scale=p.mean.item()).cdf
    else:
        cdf = stats.norm(p.mean.item(), p.variance.sqrt().item()).cdf
    assert stats.kstest(samples, cdf).pvalue > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_sampling_repeats_with_the_generator(family):
    p = random(family, 2, 3, 4)
    draws = [p.sample(generator=torch.Generator().manual_seed(7)) for _ in range(2)]
    assert torch.equal(*draws)
    assert draws[0].shape == (2, 3, 4)
    assert not draws[0].requires_grad
    assert p.sample((5,)).shape == (5, 2, 3, 4)


@pytest.mark.parametrize("family", [DiagonalGaussian, UnitGaussian, Gamma])
def test_reparameterised_gradient_is_that_of_the_mean(family):
    """The gradient of E[x] with respect to the parameters, estimated through samples, is the gradient of the mean."""
    raw = torch.randn(1, family.outputs_per_dim, dtype=torch.float64, requires_grad=True)
    p = family.from_output(raw)
    estimate = p.rsample((200_000,), generator=torch.Generator().manual_seed(0)).mean()
    by_samples = torch.autograd.grad(estimate, raw, retain_graph=True)[0]
    exact = torch.autograd.grad(p.mean.sum(), raw)[0]
    torch.testing.assert_close(by_samples, exact, atol=0.02, rtol=0.02)


def test_gamma_is_the_power_of_a_circular_complex_gaussian():
    logvar = torch.tensor([[-1.0, 2.0]], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    parts = (0.5 * logvar.exp()).sqrt() * torch.randn(2, 20_000, 2, dtype=torch.float64, generator=generator)
    power = parts.square().sum(0)
    for d, scale in enumerate(Gamma(logvar).mean[0]):
        assert stats.kstest(power[:, d].numpy(), stats.expon(scale=scale.item()).cdf).pvalue > 1e-3


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # forward mode's own
def test_gamma_of_data_has_its_own_gradient():
    """Of data, which have no gradient, in fewer passes: the value, and derivatives of both orders."""
    logvar, x = random(Gamma, 3, 4, 5).logvar.double().requires_grad_(), random(Gamma, 3, 4, 5, seed=9).mean.double()
    own = Gamma(logvar).log_prob(x)
    assert "LogDensity" in type(own.grad_fn).__name__
    torch.testing.assert_close(own, Gamma(logvar).log_prob_per_dim(x).sum(-1))
    assert torch.autograd.gradcheck(lambda v: Gamma(v).log_prob(x), logvar)
    assert torch.autograd.gradgradcheck(lambda v: Gamma(v).log_prob(x), logvar)
    tangent = torch.func.jvp(lambda v: Gamma(v).log_prob(x), (logvar,), (torch.ones_like(logvar),))[1]
    torch.testing.assert_close(tangent, (x * (-logvar).exp() - 1).sum(-1))
    free = x.clone().requires_grad_()
    Gamma(logvar).log_prob(free).sum().backward()
    torch.testing.assert_close(free.grad, -(-logvar).exp())


def test_gamma_keeps_the_precision_of_what_is_more_precise():
    logvar, x = torch.zeros(2, 513).requires_grad_(), torch.rand(2, 513)
    assert Gamma(logvar.bfloat16()).log_prob(x).dtype == torch.float32  # as under autocast
    assert Gamma(logvar).log_prob(x.double()).dtype == torch.float64
    expected = -x.bfloat16().double().sum(-1).float()
    torch.testing.assert_close(Gamma(logvar.bfloat16()).log_prob(x.bfloat16().float()), expected, rtol=1e-6, atol=0)


def test_a_family_made_of_gamma_has_its_own_density():
    class Powers(Gamma):
        def log_prob_per_dim(self, value):
            return super().log_prob_per_dim(value.clamp(min=1.0))

    logvar, x = torch.zeros(1, 3), torch.zeros(1, 3)
    assert Powers(logvar.requires_grad_()).log_prob(x).item() == -3


def test_gamma_likelihood_is_the_itakura_saito_divergence():
    p = random(Gamma, 3, 4, 5)
    x = p.sample(generator=torch.Generator().manual_seed(0))
    expected = itakura_saito(x, p.mean) + x.log() + 1
    torch.testing.assert_close(-p.log_prob_per_dim(x), expected)
    assert itakura_saito(x, x).abs().max() < 1e-12
    assert (itakura_saito(x, p.mean) >= 0).all()
    torch.testing.assert_close(
        kl_per_dim(p, random(Gamma, 3, 4, 5, seed=9)),
        itakura_saito(p.mean, random(Gamma, 3, 4, 5, seed=9).mean),
    )


def test_unit_gaussian_is_the_squared_error():
    mean, x = torch.randn(2, 7, 5, dtype=torch.float64).unbind(0)
    expected = -0.5 * (x - mean).square().sum(-1) - 2.5 * math.log(2 * math.pi)
    torch.testing.assert_close(UnitGaussian(mean).log_prob(x), expected)


def test_a_gaussian_in_centimetres_is_normalised_over_metres():
    p = CentimetreGaussian(torch.tensor([0.7], dtype=torch.float64))

    def density(value):
        return p.log_prob(torch.tensor([value], dtype=torch.float64)).exp().item()

    assert integrate.quad(density, 0.6, 0.8)[0] == pytest.approx(1, abs=1e-10)
    assert integrate.quad(lambda x: density(x) * x, 0.6, 0.8)[0] == pytest.approx(0.7, abs=1e-10)
    assert integrate.quad(lambda x: density(x) * (x - 0.7) ** 2, 0.6, 0.8)[0] == pytest.approx(1e-4, abs=1e-12)


def test_a_gaussian_in_centimetres_is_the_unit_gaussian_of_centimetres():
    """The density of metres is that of centimetres times the Jacobian, 100 for each dimension."""
    mean, x = torch.randn(2, 7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).unbind(0)
    p, in_centimetres = CentimetreGaussian(0.1 * mean), UnitGaussian(10.0 * mean)
    jacobian = math.log(100)
    torch.testing.assert_close(
        p.log_prob_per_dim(0.1 * x), in_centimetres.log_prob_per_dim(10.0 * x) + jacobian, rtol=1e-12, atol=1e-10
    )
    torch.testing.assert_close(p.log_prob(0.1 * x), in_centimetres.log_prob(10.0 * x) + 5 * jacobian)
    torch.testing.assert_close(p.entropy(), in_centimetres.entropy() - 5 * jacobian)
    torch.testing.assert_close(p.mean, in_centimetres.mean / 100)
    torch.testing.assert_close(p.stddev, torch.full_like(mean, 0.01))
    other = CentimetreGaussian(0.1 * x)
    torch.testing.assert_close(kl_divergence(p, other), kl_divergence(in_centimetres, UnitGaussian(10.0 * x)))
    same_noise = [q.sample(generator=torch.Generator().manual_seed(1)) for q in (p, in_centimetres)]
    torch.testing.assert_close(100 * same_noise[0], same_noise[1])
    assert isinstance(p[0], CentimetreGaussian)
    assert isinstance(p.expand((2, 7)), CentimetreGaussian)
    assert len(p.parameters) == CentimetreGaussian.outputs_per_dim == 1


@pytest.mark.parametrize("name", MODELS)
def test_every_model_takes_positions_in_metres_with_errors_of_centimetres(name):
    """Its bound is that of the unit Gaussian on the same latents, with errors a hundred times as large."""
    models = []
    for observation in ("centimetre_gaussian", "unit_gaussian"):
        torch.manual_seed(0)
        models.append(build_model(name, x_dim=6, z_dim=2, observation=observation).double())
    metres, unit = models
    unit.load_state_dict(metres.state_dict())  # the same parameters: one output for each dimension
    x = 0.1 * torch.randn(2, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    bounds = [model.vlb(x, generator=torch.Generator().manual_seed(2)) for model in models]
    torch.testing.assert_close(bounds[0].total_kl, bounds[1].total_kl)
    constant = 5 * 6 * 0.5 * math.log(2 * math.pi)
    torch.testing.assert_close(
        bounds[0].reconstruction, 1e4 * (bounds[1].reconstruction + constant) - constant + 5 * 6 * math.log(100)
    )
    bounds[0].value.sum().backward()
    gradients = [p.grad for p in metres.parameters() if p.grad is not None]
    assert gradients
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    generated = metres.generate(4, 3, generator=torch.Generator().manual_seed(3))
    assert generated.x.shape == (3, 4, 6)
    torch.testing.assert_close(generated.observation.stddev, torch.full((3, 4, 6), 0.01, dtype=torch.float64))


@pytest.mark.parametrize("family", FAMILIES)
def test_indexing_and_expanding_act_on_the_batch(family):
    p = random(family, 4, 5, 3)
    x = p.sample()
    torch.testing.assert_close(p[1].log_prob(x[1]), p.log_prob(x)[1])
    torch.testing.assert_close(p[:, 2].log_prob(x[:, 2]), p.log_prob(x)[:, 2])
    assert p[1, 2].batch_shape == ()
    assert p.expand((6, 4, 5)).batch_shape == (6, 4, 5)


def test_extreme_parameters_stay_finite():
    for logit in (-800.0, 800.0):
        p = Bernoulli(torch.tensor([logit]))
        assert torch.isfinite(p.log_prob(torch.tensor([1.0])))
        assert torch.isfinite(kl_divergence(p, Bernoulli(torch.zeros(1))))
        assert torch.isfinite(p.entropy())


def test_no_closed_form_is_said():
    with pytest.raises(NotImplementedError, match="kl='sampled'"):
        kl_divergence(Gamma(torch.zeros(1)), standard_normal(torch.zeros(1)))


def test_standard_normal():
    assert (
        kl_divergence(standard_normal(torch.ones(2, 3)), DiagonalGaussian(torch.zeros(2, 3), torch.zeros(2, 3)))
        .abs()
        .max()
        == 0
    )


class Halved(FactorisedDistribution):
    """Two outputs per entry and no closed form for the entropy; says nothing of its parameters."""

    outputs_per_dim = 2

    def __init__(self, rate, scale):
        self.rate, self.scale = rate, scale
        super().__init__(rate)


def test_a_family_of_ones_own_takes_its_parameters_from_the_output_in_order():
    p = Halved.from_output(torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
    assert p.rate.tolist() == [[1.0, 2.0]]
    assert p.scale.tolist() == [[3.0, 4.0]]


def test_a_family_without_parameters_or_entropy_says_so():
    p = Halved.from_output(torch.zeros(1, 4))
    with pytest.raises(NotImplementedError, match="Halved needs a property `parameters`"):
        p[0]
    with pytest.raises(NotImplementedError, match="Halved has no closed form"):
        p.entropy()


@pytest.mark.parametrize(
    ("family", "low", "high", "whole"),
    [
        *((name, -math.inf, math.inf, False) for name in ("gaussian", "unit_gaussian", "centimetre_gaussian")),
        ("gamma", 0.0, math.inf, False),
        ("bernoulli", 0.0, 1.0, False),
        (torch.distributions.Poisson, 0.0, math.inf, True),
        (torch.distributions.Beta, 0.0, 1.0, False),
        (torch.distributions.Uniform, -math.inf, math.inf, False),  # depends on its parameters
        (torch.distributions.Categorical, -math.inf, math.inf, False),
        (torch.distributions.StudentT, -math.inf, math.inf, False),
        ("unheard of", -math.inf, math.inf, False),
    ],
)
def test_what_a_family_gives_a_probability(family, low, high, whole):
    assert support_of(family) == (low, high, whole)


def test_an_open_support_leaves_its_bound_out():
    support = support_of(torch.distributions.LogNormal)
    assert not support.holds(0.0, 1.0)
    assert support.holds(1e-30, 1.0)
    assert str(support) == "numbers above 0"


# --- families by name, and families of one's own ---


class Counts(FactorisedDistribution):
    """Independent counts, as the book's page "Your own model" writes them: no more than the library asks for."""

    outputs_per_dim = 1

    def __init__(self, lograte):
        self.lograte = lograte
        super().__init__(lograte)

    parameters = property(lambda self: (self.lograte,))
    mean = property(lambda self: self.lograte.exp())

    def log_prob_per_dim(self, value):
        return value * self.lograte - self.lograte.exp() - torch.lgamma(value + 1)

    def sample(self, sample_shape=(), *, generator=None):
        return torch.poisson(self.mean.expand(*sample_shape, *self.mean.shape), generator=generator)


@pytest.fixture
def counts():
    yield register_observation("own_counts", Counts)
    OBSERVATIONS.pop("own_counts", None)


@pytest.mark.parametrize("name", MODELS)
def test_every_model_takes_a_family_of_ones_own(name, counts, tmp_path):
    """Its name, its class: bounds, generation, saving and loading come of themselves."""
    torch.manual_seed(0)
    model = build_model(name, x_dim=3, z_dim=2, observation="own_counts").eval()
    x = torch.poisson(torch.full((2, 5, 3), 2.0), generator=torch.Generator().manual_seed(0))
    output = model(x, generator=torch.Generator().manual_seed(0))
    assert isinstance(output.observation, Counts)
    bound = model.vlb(x, generator=torch.Generator().manual_seed(0)).value
    bound.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    drawn = model.generate(4, 2, generator=torch.Generator().manual_seed(0)).x
    assert drawn.shape == (2, 4, 3)
    assert torch.equal(drawn, drawn.round())
    model.save_pretrained(tmp_path)
    loaded = DVAE.from_pretrained(tmp_path)
    assert torch.equal(loaded.vlb(x, generator=torch.Generator().manual_seed(0)).value, bound)


def test_a_model_saved_with_an_unknown_family_says_what_to_do(counts, tmp_path):
    build_model("vae", x_dim=3, z_dim=2, observation="own_counts").save_pretrained(tmp_path)
    del OBSERVATIONS["own_counts"]
    with pytest.raises(ValueError, match=r"must be one of gaussian, .*register_observation\('own_counts', "):
        DVAE.from_pretrained(tmp_path)
    register_observation("own_counts", Counts)
    assert DVAE.from_pretrained(tmp_path).observation == "own_counts"


def test_what_is_registered_must_be_a_whole_family(counts, as_a_user):
    register_observation("own_counts", Counts)  # a cell that is run again
    with pytest.raises(ValueError, match="there is an observation model 'gamma' already, Gamma"):
        register_observation("gamma", Counts)
    with pytest.raises(ValueError, match="word of letters"):
        register_observation("own counts", Counts)
    with pytest.raises(TypeError, match=r"a class derived from dvae_lib\.distributions.FactorisedDistribution"):
        register_observation("other", td.Poisson)

    class Half(FactorisedDistribution):
        parameters = property(lambda self: ())

    with pytest.raises(ValueError, match=r"Half cannot be .* without log_prob_per_dim, mean, outputs_per_dim, sample"):
        register_observation("half", Half)
    with pytest.raises(ValueError, match=r"register_observation\('nothing', YourFamily\)"):
        observation_family("nothing")


@pytest.mark.parametrize(("written", "scale"), [("gaussian(scale=0.01)", 0.01), ("gaussian( scale = 2 )", 2.0)])
def test_a_gaussian_of_any_fixed_scale(written, scale):
    family = observation_family(written)
    assert family is FixedGaussian.of(scale)
    mean, x = torch.randn(4, 3, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64)
    p, truth = family.from_output(mean), td.Independent(td.Normal(mean, scale), 1)
    torch.testing.assert_close(p.log_prob(x), truth.log_prob(x), rtol=1e-12, atol=1e-10)
    torch.testing.assert_close(p.entropy(), truth.entropy())
    assert type(p[0]) is type(p.expand((2, 4))) is family
    assert support_of(written).everything


def test_a_model_of_positions_in_metres_by_its_scale(tmp_path):
    """The likelihood of the trained models of human motion, written with its scale, gives the same bound."""
    bounds = []
    for name in ("centimetre_gaussian", "gaussian(scale=0.01)"):
        torch.manual_seed(0)
        model = build_model("srnn", x_dim=3, z_dim=2, observation=name).eval()
        model.save_pretrained(tmp_path / name)
        loaded = DVAE.from_pretrained(tmp_path / name)
        assert loaded.observation == name
        x = 0.02 * torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(1))
        bounds.append(loaded.vlb(x, generator=torch.Generator().manual_seed(2)).value)
        assert copy.deepcopy(loaded).generate(2, generator=torch.Generator().manual_seed(3)).x.shape == (1, 2, 3)
    assert torch.equal(*bounds)
    assert DVAE.from_pretrained("srnn-mocap").observation == "centimetre_gaussian"


def test_the_former_names_are_fixed_gaussians():
    mean, x = torch.randn(4, 3), torch.randn(4, 3)
    for name, scale in (("unit_gaussian", 1.0), ("centimetre_gaussian", 0.01)):
        assert torch.equal(observation_family(name)(mean).log_prob(x), FixedGaussian.of(scale)(mean).log_prob(x))


@pytest.mark.parametrize("written", ["gaussian(width=1)", "gamma(scale=1)", "gaussian(scale=-1)", "gaussian(scale=a)"])
def test_options_that_a_family_does_not_have(written):
    with pytest.raises(ValueError, match=r"cannot be made out .*options are written 'gaussian\(scale=0.01\)'"):
        observation_family(written)


class TestFullGaussian:
    def test_is_the_multivariate_normal_and_is_indexed_like_the_factorised_families(self):
        generator = torch.Generator().manual_seed(0)
        mean, root = (torch.randn(2, 3, 4, *shape, generator=generator) for shape in ((), (4,)))
        factor = root.tril(-1) + torch.diag_embed(root.diagonal(dim1=-2, dim2=-1).exp())
        p, value = FullGaussian(mean, factor), torch.randn(2, 3, 4, generator=generator)
        whole = torch.distributions.MultivariateNormal(mean, scale_tril=factor).log_prob(value)
        torch.testing.assert_close(p.log_prob(value), whole)
        torch.testing.assert_close(p[:, -1].log_prob(value[:, -1]), whole[:, -1])
        torch.testing.assert_close(p[1].log_prob(value[1]), whole[1])
        torch.testing.assert_close(FullGaussian(*p.parameters).log_prob(value), whole)
        assert p.expand((5, 2, 3)).log_prob(value).shape == (5, 2, 3)
