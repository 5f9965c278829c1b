"""Families of observations for each column, and values cut off at limits: against scipy, sums and integrals."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from dvae_lib.distributions import (
    ByColumn,
    CensoredGaussian,
    Laplace,
    OneHotCategorical,
    Poisson,
    StudentT,
    blocks_of,
    by_column,
    inside_values,
    kl_per_dim,
    neutral_values,
    observation_family,
    standardized_columns,
    support_of,
)
from dvae_lib.metrics import crps

MIXED = "poisson, student_t, categorical*3, laplace*2, negative_binomial, censored_gaussian(low=-1, high=2)"
LIMITS = [(0.0, math.inf), (-1.0, 0.5), (-math.inf, 0.3)]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def random(observation, dim, *batch):
    family = observation_family(observation)
    return family.from_output(torch.randn(*batch, family.output_size(dim), generator=seeded(), dtype=torch.float64))


def one(value):
    return torch.tensor([value], dtype=torch.float64)


class TestCensored:
    def family(self, low, high):
        return CensoredGaussian.with_options(low=low, high=high)

    @pytest.mark.parametrize(("low", "high"), LIMITS)
    def test_the_density_and_the_limits_have_probability_one(self, low, high):
        p = self.family(low, high)(one(0.2), one(-0.6))
        normal = stats.norm(0.2, math.exp(-0.3))
        at = [p.log_prob(one(limit)).exp().item() if math.isfinite(limit) else 0.0 for limit in (low, high)]
        np.testing.assert_allclose(at, [normal.cdf(low), normal.sf(high)], rtol=1e-12)
        ends = (max(low, -12.0) + 1e-9, min(high, 12.0) - 1e-9)
        between, _ = integrate.quad(lambda x: p.log_prob(one(x)).exp().item(), *ends, points=[0.2])
        assert between + sum(at) == pytest.approx(1, abs=1e-7)
        assert p.log_prob(one(0.1)).item() == pytest.approx(normal.logpdf(0.1), rel=1e-12)

    @pytest.mark.parametrize(("low", "high"), LIMITS)
    def test_moments_are_integrals_of_what_is_cut_off(self, low, high):
        p = self.family(low, high)(one(0.2), one(-0.6))
        normal = stats.norm(0.2, math.exp(-0.3))
        mean = normal.expect(lambda y: np.clip(y, low, high))
        assert p.mean.item() == pytest.approx(mean, rel=1e-7)
        variance = normal.expect(lambda y: (np.clip(y, low, high) - mean) ** 2)
        assert p.variance.item() == pytest.approx(variance, rel=1e-6)

    def test_far_beyond_a_limit_nothing_is_infinite(self):
        location = torch.tensor([-60.0, 60.0], requires_grad=True)
        p = self.family(-1.0, 1.0)(location, torch.zeros(2))
        found = p.log_prob(torch.tensor([1.0, -1.0]))
        assert found.item() == pytest.approx(2 * stats.norm.logsf(61.0), rel=1e-6)
        found.backward()
        torch.testing.assert_close(location.grad, torch.tensor([61.0, -61.0]), rtol=1e-3, atol=0)

    @pytest.mark.parametrize(("low", "high"), LIMITS)
    def test_gradients_of_moments_are_finite_where_there_is_no_limit(self, low, high):
        raw = torch.tensor([[0.2, -0.6]], dtype=torch.float64, requires_grad=True)
        for moment in ("mean", "variance"):
            torch.autograd.gradcheck(lambda r, m=moment: getattr(self.family(low, high).from_output(r), m), raw)

    def test_samples_follow_it(self):
        p = self.family(-1.0, 0.5)(one(0.2), one(-0.6))
        draws = p.sample((4000,), generator=seeded())[:, 0].numpy()
        normal = stats.norm(0.2, math.exp(-0.3))
        counts = [(draws == -1.0).sum(), ((draws > -1.0) & (draws < 0.5)).sum(), (draws == 0.5).sum()]
        assert stats.chisquare(counts, 4000 * np.diff([0, normal.cdf(-1.0), normal.cdf(0.5), 1])).pvalue > 1e-3
        inside = draws[(draws > -1.0) & (draws < 0.5)]
        spread = math.exp(-0.3)
        truncated = stats.truncnorm(-1.2 / spread, 0.3 / spread, loc=0.2, scale=spread)
        assert stats.kstest(inside, truncated.cdf).pvalue > 1e-3

    def test_its_support_is_between_the_limits(self):
        assert support_of("censored_gaussian") == (0.0, math.inf, False)
        assert support_of("censored_gaussian(low=-1, high=2)") == (-1.0, 2.0, False)
        assert support_of("censored_gaussian(high=2)") == (-math.inf, 2.0, False)

    @pytest.mark.parametrize("options", ["low=2, high=1", "low=1, high=1", "middle=1", "low=nan"])
    def test_limits_with_nothing_between_them_are_refused(self, options):
        with pytest.raises(ValueError, match="cannot be made out"):
            observation_family(f"censored_gaussian({options})")


class TestBlocks:
    def test_each_column_has_its_own_density(self):
        p = random("poisson, student_t, negative_binomial, laplace", 4, 3)
        rate, t, nb, laplace = p.parts
        x = torch.tensor([2.0, -0.7, 5.0, 0.3], dtype=torch.float64).expand(3, 4)
        r = (-nb.logdispersion).exp()[:, 0].numpy()
        expected = np.stack(
            [
                stats.poisson(rate.mean[:, 0]).logpmf(2),
                stats.t(t.degrees_of_freedom[:, 0], t.mean[:, 0], t.logscale.exp()[:, 0]).logpdf(-0.7),
                stats.nbinom(r, r / (r + nb.mean[:, 0].numpy())).logpmf(5),
                stats.laplace(laplace.mean[:, 0], laplace.logscale.exp()[:, 0]).logpdf(0.3),
            ],
            axis=-1,
        )
        np.testing.assert_allclose(p.log_prob_per_dim(x), expected, rtol=1e-10)
        np.testing.assert_allclose(p.log_prob(x), expected.sum(-1), rtol=1e-10)

    def test_samples_have_its_moments(self):
        p = random(MIXED, 9)
        draws = p.sample((40_000,), generator=seeded())
        error = (draws.mean(0) - p.mean) / (p.variance / 40_000).sqrt()
        assert error.abs().max() < 4.5
        assert (draws[:, [0, 7]] == draws[:, [0, 7]].round()).all()
        assert (draws[:, 2:5].sum(-1) == 1).all()
        assert ((draws[:, 8] >= -1) & (draws[:, 8] <= 2)).all()
        assert torch.isfinite(p.log_prob(draws)).all()

    def test_it_is_rebuilt_from_its_parameters(self):
        p = random(MIXED, 9, 4, 5)
        x = p.sample(generator=seeded())
        same = type(p)(*p.parameters)
        torch.testing.assert_close(same.log_prob(x), p.log_prob(x))
        torch.testing.assert_close(p[1].log_prob(x[1]), p.log_prob(x)[1])
        torch.testing.assert_close(p[:, 2].log_prob(x[:, 2]), p.log_prob(x)[:, 2])
        assert p.expand((6, 4, 5)).batch_shape == (6, 4, 5)
        with pytest.raises(ValueError, match=r"expected \d+ parameters, of Poisson of 1"):
            type(p)(*p.parameters[1:])

    def test_a_divergence_is_that_of_each_column(self):
        family = observation_family("poisson, laplace")
        q, p = (family.from_output(torch.randn(3, generator=seeded(k))) for k in (1, 2))
        each = [kl_per_dim(a, b) for a, b in zip(q.parts, p.parts, strict=True)]
        torch.testing.assert_close(kl_per_dim(q, p), torch.cat(each))
        with pytest.raises(NotImplementedError, match="kl='sampled'"):
            kl_per_dim(q, q.parts[0])

    def test_gradients(self):
        family = observation_family(MIXED)
        raw = torch.randn(2, family.output_size(9), generator=seeded(), dtype=torch.float64, requires_grad=True)
        x = family.from_output(raw).sample(generator=seeded())
        torch.autograd.gradcheck(lambda raw: family.from_output(raw).log_prob(x), raw)

    def test_nothing_is_no_block(self):
        for blocks in ([], [(Poisson, 0)]):
            with pytest.raises(ValueError, match="at least one column"):
                ByColumn.of(*blocks)


class TestNames:
    def test_how_they_are_written(self):
        found = [(b.columns, b.family) for b in blocks_of("poisson, poisson,student_t, categorical*2, categorical*3")]
        expected = [(0, 2, Poisson), (2, 3, StudentT), (3, 5, OneHotCategorical), (5, 8, OneHotCategorical)]
        assert found == [(slice(a, b), family) for a, b, family in expected]
        assert observation_family("poisson*2") is observation_family("poisson, poisson")
        options = blocks_of("gaussian(scale=0.1), censored_gaussian(low=-1, high=2), laplace")
        assert [b.size for b in options] == [1, 1, 1]
        assert blocks_of("laplace")[0].columns == slice(None)

    def test_by_name(self):
        families = {"visits": "poisson", "heat": "student_t", "sun": "categorical", "rain": "categorical"}
        columns = ("heat", "visits", "sun", "rain")
        assert by_column(families, columns) == "student_t, poisson, categorical*2"
        assert standardized_columns(families) == ["heat"]

    @pytest.mark.parametrize(
        ("families", "columns", "message"),
        [
            ({"heat": "poisson"}, ("heat", "rain"), "column 'rain' has no family"),
            ({"heat": "poisson", "snow": "gamma"}, ("heat",), "no column 'snow' to be 'gamma'; the data have heat"),
            ({"heat": "poison"}, ("heat",), "must be one of .*got 'poison'"),
            ({"heat": "poisson", "rain": "gamma"}, None, "have no names.*'poisson, gamma'"),
            ({"heat": "categorical", "rain": "gamma"}, ("heat", "rain"), "one column alone is no variable"),
        ],
    )
    def test_what_is_wrong_is_named(self, families, columns, message):
        with pytest.raises(ValueError, match=message):
            observation_family(by_column(families, columns))

    def test_support_and_values_by_column(self):
        like = torch.zeros(3, 2, dtype=torch.float64)
        assert support_of("poisson, student_t").everything
        assert support_of("poisson, gamma") == (0.0, math.inf, False)
        assert neutral_values("poisson, gamma", like).tolist() == [0.5, 1.0]
        assert inside_values("poisson, censored_gaussian(low=3, high=5)", like).tolist() == [0.0, 4.0]
        assert neutral_values("poisson", like) == 0.5
        assert inside_values(StudentT, like) == 0.0

    @pytest.mark.parametrize(
        ("observation", "columns"),
        [("laplace", True), ("poisson", False), ("poisson*2", False), ("poisson, student_t, gamma, laplace", [1, 3])],
    )
    def test_what_may_be_standardised(self, observation, columns):
        assert standardized_columns(observation) == columns


def test_the_score_of_a_forecast_of_counts_is_the_sum_over_them():
    """CRPS of samples: the sum over k of (F(k) - 1{x <= k})^2, for a count as for a number."""
    p = random("poisson, laplace", 2)
    draws = p.sample((20_000,), generator=seeded()).numpy()
    rate, x = p.parts[0].mean.item(), np.array([3.0, 0.4])
    k = np.arange(60)
    exact = ((stats.poisson(rate).cdf(k) - (x[0] <= k)) ** 2).sum()
    scale, distance = p.parts[1].logscale.exp().item(), abs(x[1] - p.parts[1].mean.item())
    laplace = distance + scale * math.exp(-distance / scale) - 0.75 * scale
    np.testing.assert_allclose(crps(draws, x), [exact, laplace], rtol=0.03)


def test_a_family_of_ones_own_is_one_of_them():
    """A reader's class, with its own way to read an output, stands beside others."""

    class Shifted(Laplace):
        @classmethod
        def from_output(cls, output):
            location, scale = output.chunk(2, -1)
            return cls(location + 1, scale)

    family = ByColumn.of((Shifted, 1), (Poisson, 2))
    p = family.from_output(torch.zeros(2, family.output_size(3)))
    assert p.mean[0].tolist() == [1.0, 1.0, 1.0]
