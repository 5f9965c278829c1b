"""The Kalman variational autoencoder against independent Kalman smoothers, and against its own definition."""

import numpy as np
import pytest
import torch
from pykalman import KalmanFilter
from torch.distributions import MultivariateNormal

from dvae_lib.graphs import verify_dependencies
from dvae_lib.models import KVAE
from dvae_lib.objectives import variational_lower_bound


def make(**options):
    torch.manual_seed(0)
    model = KVAE(6, 3, encoder=(8,), decoder=(8,), weights_dim=5, **options).double()
    with torch.no_grad():
        model.dynamics["mu_1"].normal_()
        model.dynamics["logvar_z"].uniform_(-2, 0)
        model.dynamics["logvar_a"].uniform_(-2, 0)
        if "B" in model.dynamics:
            model.dynamics["B"].normal_()
    return model


def data(batch=3, time=9):
    return torch.randn(batch, time, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def independent(model, a):
    """pykalman's answer for one sequence of features of a time-invariant model."""
    ssm = model.state_space(a)
    numbers = {name: value.detach().numpy() for name, value in ssm.parameters()}
    return KalmanFilter(
        transition_matrices=numbers["A"],
        observation_matrices=numbers["C"],
        transition_covariance=numbers["Lambda"],
        observation_covariance=numbers["Sigma"],
        initial_state_mean=numbers["mu_1"],
        initial_state_covariance=numbers["Lambda_1"],
    )


def test_likelihood_and_imputation_agree_with_an_independent_library():
    model, x = make(), data(1)
    a = model.a_head(model.e_a(x)).mean.detach()
    observed = torch.tensor([[True, True, False, False, True, True, False, True, False]])
    masked = np.ma.array(a[0].numpy(), mask=~observed[0, :, None].expand(-1, 2).numpy())
    oracle = independent(model, a)
    C = model.state_space(a).C.detach()
    for method, states in (("smooth", oracle.smooth(masked)[0]), ("filter", oracle.filter(masked)[0])):
        filled = model.interpolate(x, observed, method=method).a
        expected = torch.where(observed[..., None], a, torch.as_tensor(states) @ C.mT)
        torch.testing.assert_close(filled, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("options", [{}, {"mixture": 3}, {"u_dim": 2}, {"mixture": 2, "u_dim": 2}])
def test_posterior_of_the_state_is_exact(options):
    """p(a, z) / p(z | a) is the same number for every z, and it is the likelihood of a, by brute force."""
    model, x = make(**options), data(1, 5)
    u = torch.randn(1, 5, 2, dtype=torch.float64) if "u_dim" in options else None
    a = torch.randn(1, 5, 2, dtype=torch.float64)
    ratios = []
    for seed in range(3):
        latents = model.inference(x, u, latents={"a": a}, generator=torch.Generator().manual_seed(seed))
        z = latents["z"].sample
        priors = model.generation(x, {"a": a, "z": z}, u).prior
        joint = priors["z"].log_prob(z).sum() + priors["a"].log_prob(a).sum()
        ratios.append(joint - latents["z"].posterior.log_prob(z).sum())
    # Brute force: the features are jointly Gaussian when the matrices are held at those that a itself implies.
    ssm = model.state_space(a)
    steps = [
        {
            n: ssm.stepwise(n)
            .expand(*ssm.stepwise(n).shape[:-3], 5, -1, -1)[..., t, :, :]
            .reshape(*ssm.stepwise(n).shape[-2:])
            for n in ("A", "C")
        }
        for t in range(5)
    ]
    mean_z, cov = [ssm.mu_1.reshape(3)], torch.zeros(15, 15, dtype=torch.float64)
    drive = (
        (lambda t: 0)
        if u is None
        else (
            lambda t: (
                ssm.stepwise("B").expand(*ssm.stepwise("B").shape[:-3], 5, -1, -1)[..., t, :, :].reshape(3, 2) @ u[0, t]
            )
        )
    )
    mean_z[0] = mean_z[0] + drive(0)
    cov[:3, :3] = ssm.Lambda_1
    for t in range(1, 5):
        A, now, before = steps[t]["A"], slice(3 * t, 3 * t + 3), slice(3 * t - 3, 3 * t)
        mean_z.append(A @ mean_z[-1] + drive(t))
        cov[now, : 3 * t] = A @ cov[before, : 3 * t]
        cov[: 3 * t, now] = cov[now, : 3 * t].T
        cov[now, now] = A @ cov[before, before] @ A.T + ssm.Lambda
    C = torch.block_diag(*(step["C"] for step in steps))
    marginal = MultivariateNormal(
        C @ torch.cat(mean_z), C @ cov @ C.T + torch.block_diag(*[ssm.Sigma] * 5), validate_args=False
    )
    exact = marginal.log_prob(a.reshape(-1))
    for ratio in ratios:
        torch.testing.assert_close(ratio, exact, rtol=0, atol=1e-9)


@pytest.mark.parametrize("mixture", [1, 3])
def test_bound_does_not_depend_on_the_state_that_was_drawn(mixture):
    model, x = make(mixture=mixture), data()
    given = model.vlb(x, generator=torch.Generator().manual_seed(5))
    # The same features, but states drawn with another seed, through the general formula.
    q_a = model.a_head(model.e_a(x))
    noise = torch.randn(q_a.mean.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    a = q_a.mean + q_a.stddev * noise
    latents = model.inference(x, latents={"a": a}, generator=torch.Generator().manual_seed(99))
    generated = model.generation(x, {k: v.sample for k, v in latents.items()})
    both = {k: v._replace(prior=generated.prior[k]) for k, v in latents.items()}
    from dvae_lib.objectives import DVAEOutput

    other = variational_lower_bound(DVAEOutput(both, generated.observation), x, kl="sampled")
    torch.testing.assert_close(given.value, other.value, rtol=0, atol=1e-8)


@pytest.mark.parametrize("options", [{"u_dim": 2}, {"u_dim": 2, "mixture": 2}])
def test_driven_variants_have_the_dependencies_of_their_equations(options):
    verdict = verify_dependencies(make(**options))
    assert not verdict.missing
    assert not verdict.extra


@pytest.mark.parametrize("method", ["smooth", "filter"])
def test_imputation_in_rounds_equals_imputation_step_by_step(method):
    """The weights of the mixture must have read the filter's estimates of earlier missing features."""
    model, x = make(mixture=3), data(1)
    observed = torch.tensor([[True, True, False, False, False, True, True, False, True]])
    with torch.no_grad():
        a = torch.where(observed[..., None], model.a_head(model.e_a(x)).mean, 0.0)
        from dvae_lib.statespace import kalman_filter, kalman_smoother

        for t in (~observed[0]).nonzero().flatten().tolist():
            ssm = model.state_space(a)
            z = kalman_filter(ssm, a, mask=observed).mean[:, t]
            a[:, t] = (ssm.stepwise("C")[:, t] @ z[..., None]).squeeze(-1)
        ssm = model.state_space(a)
        z = (kalman_filter if method == "filter" else kalman_smoother)(ssm, a, mask=observed).mean
        expected = torch.where(observed[..., None], a, (ssm.stepwise("C") @ z[..., None]).squeeze(-1))
    torch.testing.assert_close(model.interpolate(x, observed, method=method).a, expected)


def test_what_stands_in_missing_frames_is_not_looked_at():
    model, x = make(), data()
    observed = torch.rand(3, 9, generator=torch.Generator().manual_seed(0)) > 0.4
    holes = torch.where(observed[..., None], x, torch.nan)
    torch.testing.assert_close(model.interpolate(holes, observed).a, model.interpolate(x, observed).a)


def test_filter_knows_nothing_of_the_future():
    model, x = make(mixture=2), data()
    observed = torch.ones(3, 9, dtype=torch.bool)
    observed[:, 3:6] = False
    changed = x.clone()
    changed[:, 6:] += 1
    for method, same in (("filter", True), ("smooth", False)):
        before, after = (model.interpolate(film, observed, method=method).a[:, 3:6] for film in (x, changed))
        assert torch.allclose(before, after) is same


def test_continuation_starts_where_the_prefix_ended():
    """Given the features and states of a prefix, the next prior is that of the whole sequence."""
    model, x = make(mixture=2), data(1)
    latents = {k: v.sample for k, v in model.inference(x, generator=torch.Generator().manual_seed(0)).items()}
    state = model.initial_state(1)
    for t in range(8):
        state = model.step(state, x[:, t], z_t=latents["z"][:, t], a_t=latents["a"][:, t]).state
    prior = model.step(state, x[:, 7]).prior["z"]
    torch.testing.assert_close(prior.mean, model.generation(x, latents).prior["z"].mean[:, 8])


def test_refuses(as_a_user):
    model = make()
    with pytest.raises(ValueError, match="'smooth' or 'filter'"):
        model.interpolate(data(), torch.ones(3, 9, dtype=torch.bool), method="guess")
    with pytest.raises(ValueError, match="mixture must be at least 1"):
        KVAE(6, 3, mixture=0)


@pytest.mark.parametrize("mixture", [1, 2])
def test_a_penalty_on_the_gradient_has_the_right_gradient(mixture):
    """`autograd.grad(create_graph=True)` goes through the filter twice."""
    torch.manual_seed(0)
    model = KVAE(3, 2, a_dim=2, mixture=mixture, encoder=(4,), decoder=(4,), weights_dim=3).double()
    x = torch.randn(2, 6, 3, dtype=torch.float64, requires_grad=True)

    def penalty() -> torch.Tensor:
        value = model.vlb(x, generator=torch.Generator().manual_seed(1)).value.sum()
        (gradient,) = torch.autograd.grad(value, x, create_graph=True)
        return gradient.square().sum()

    parameters = dict(model.named_parameters())
    gradients = torch.autograd.grad(penalty(), list(parameters.values()), allow_unused=True)
    h = 1e-5
    for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True):
        direction = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        values = []
        for sign in (1, -1):
            parameter.data.add_(sign * h * direction)
            values.append(penalty().item())
            parameter.data.sub_(sign * h * direction)
        expected = (values[0] - values[1]) / (2 * h)
        got = 0.0 if gradient is None else float((gradient * direction).sum())
        assert abs(got - expected) < 1e-5 * max(1.0, abs(expected)), name


def test_the_mask_of_a_gap_is_checked(as_a_user):
    torch.manual_seed(0)
    model, x = KVAE(3, 2), torch.randn(2, 6, 3)
    observed = torch.arange(6).expand(2, 6) != 3
    expected = model.interpolate(x, observed).a
    assert torch.equal(model.interpolate(x, observed.numpy()).a, expected)
    assert torch.equal(model.interpolate(x, observed.tolist()).a, expected)
    with pytest.raises(ValueError, match=r"observed must have shape \(2, 6\)"):
        model.interpolate(x, observed[..., None].expand(2, 6, 3))
    with pytest.raises(TypeError, match="mask must be a boolean tensor"):
        model.interpolate(x, observed.long())
