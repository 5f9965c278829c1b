"""Hidden Markov models: against the sum over all paths, written out; and laws that hold whatever the numbers."""

import itertools
import math

import pytest
import torch
from scipy import stats
from torch import Tensor

from dvae_lib.statespace import (
    HiddenMarkovModel,
    hmm_filter,
    hmm_log_likelihood,
    hmm_posterior,
    hmm_sample_posterior,
    hmm_smoother,
    viterbi,
)

METHODS = ("sequential", "parallel")
K, T = 3, 5


def random_problem(*batch, per_step=False, zeros=False, steps=T, states=K, seed=0, dtype=torch.float64):
    """Log-probabilities of a chain and log-evidence; `zeros` rules out a start, some transitions and some states."""
    g = torch.Generator().manual_seed(seed)

    def logits(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    initial, transition = logits(*batch, states), logits(*batch, *((steps,) if per_step else ()), states, states)
    evidence = 2 * logits(*batch, steps, states)
    if zeros:
        initial[..., 0] = -math.inf
        transition[..., 1, 2] = transition[..., 2, 0] = -math.inf
        evidence[..., 2, 1] = -math.inf
    return tuple(v.to(dtype) for v in (initial.log_softmax(-1), transition.log_softmax(-1), evidence))


def all_paths(initial: Tensor, transition: Tensor, evidence: Tensor) -> tuple[Tensor, Tensor]:
    """Every path and its joint log-probability, for one series."""
    steps, states = evidence.shape
    transition = transition.expand(steps, states, states) if transition.ndim == 2 else transition
    paths = torch.tensor(list(itertools.product(range(states), repeat=steps)))
    joint = initial[paths[:, 0]] + evidence[0, paths[:, 0]]
    for t in range(1, steps):
        joint = joint + transition[t, paths[:, t - 1], paths[:, t]] + evidence[t, paths[:, t]]
    return paths, joint


def brute_force(initial: Tensor, transition: Tensor, evidence: Tensor):
    """Log-likelihood, filtered, smoothed, pairwise, best path: by enumeration."""
    paths, joint = all_paths(initial, transition, evidence)
    steps, states = evidence.shape

    def posterior(log_weights):
        return (log_weights - log_weights.logsumexp(0)).exp()

    one_hot = torch.nn.functional.one_hot(paths, states).to(joint)  # (paths, T, K)
    weights = posterior(joint)
    filtered = []
    for t in range(steps):
        so_far = evidence.clone()
        so_far[t + 1 :] = 0
        filtered.append(posterior(all_paths(initial, transition, so_far)[1]) @ one_hot[:, t])
    return {
        "log_likelihood": joint.logsumexp(0),
        "filtered": torch.stack(filtered),
        "marginals": torch.einsum("p,ptk->tk", weights, one_hot),
        "pairwise": torch.einsum("p,ptj,ptk->tjk", weights, one_hot[:, :-1], one_hot[:, 1:]),
        "path": paths[joint.argmax()],
        "best": joint.max(),
    }


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("per_step", [False, True])
@pytest.mark.parametrize("steps", [1, 2, 5, 6])
def test_agrees_with_the_sum_over_all_paths(method, zeros, per_step, steps):
    initial, transition, evidence = random_problem(4, per_step=per_step, zeros=zeros and steps > 2, steps=max(steps, 1))
    hmm = HiddenMarkovModel(initial, transition)
    filtered, smoothed = hmm_filter(hmm, evidence, method=method), hmm_smoother(hmm, evidence, method=method)
    best = viterbi(hmm, evidence, method=method)
    for b in range(4):
        truth = brute_force(initial[b], transition[b], evidence[b])
        close = {"rtol": 1e-12, "atol": 1e-12}
        for value in (
            filtered.log_likelihood[b],
            smoothed.log_likelihood[b],
            hmm_log_likelihood(hmm, evidence, method=method)[b],
        ):
            torch.testing.assert_close(value, truth["log_likelihood"], **close)
        torch.testing.assert_close(filtered.filtered[b], truth["filtered"], **close)
        torch.testing.assert_close(smoothed.marginals[b], truth["marginals"], **close)
        torch.testing.assert_close(smoothed.pairwise[b], truth["pairwise"], **close)
        torch.testing.assert_close(best.log_prob[b], truth["best"], **close)
        assert torch.equal(best.path[b], truth["path"])


@pytest.mark.parametrize("method", METHODS)
def test_the_prediction_is_one_step_ahead_of_the_filter(method):
    initial, transition, evidence = random_problem(2, zeros=True)
    result = hmm_filter(HiddenMarkovModel(initial, transition), evidence, method=method)
    torch.testing.assert_close(result.predicted[:, 0], initial.exp())
    ahead = (result.filtered[:, :-1, None] @ transition.exp()[:, None]).squeeze(-2)
    torch.testing.assert_close(result.predicted[:, 1:], ahead)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("zeros", [False, True])
def test_gradients_are_those_of_the_sum_over_all_paths(method, zeros):
    """Value and gradient, through log_softmax, where some logits are -inf."""
    logits = [v.requires_grad_() for v in random_problem(per_step=True, zeros=zeros, steps=6)]

    def gradient(log_likelihood):
        return torch.autograd.grad(log_likelihood, logits)

    initial, transition, evidence = (logits[0].log_softmax(-1), logits[1].log_softmax(-1), logits[2])
    got = gradient(hmm_log_likelihood(HiddenMarkovModel(initial, transition), evidence, method=method))
    initial, transition, evidence = (logits[0].log_softmax(-1), logits[1].log_softmax(-1), logits[2])
    finite = all_paths(initial, transition, evidence)[1]
    expected = gradient(finite[finite > -math.inf].logsumexp(0))
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_the_gradient_of_the_log_likelihood_is_the_posterior(method):
    """Fisher's identity."""
    initial, transition, evidence = (v.requires_grad_() for v in random_problem(2, per_step=True, zeros=True))
    hmm = HiddenMarkovModel(initial, transition)
    log_likelihood = hmm_log_likelihood(hmm, evidence, method=method).sum()
    to_initial, to_transition, to_evidence = torch.autograd.grad(log_likelihood, (initial, transition, evidence))
    smoothed = hmm_smoother(hmm, evidence, method=method)
    torch.testing.assert_close(to_initial, smoothed.marginals[:, 0])
    torch.testing.assert_close(to_evidence, smoothed.marginals)
    torch.testing.assert_close(to_transition[:, 1:], smoothed.pairwise)
    assert to_transition[:, 0].abs().max() == 0


@pytest.mark.parametrize("method", METHODS)
def test_gradcheck_of_everything(method):
    """First and second derivatives of likelihood, filter and smoother."""
    initial, transition, evidence = (v.requires_grad_() for v in random_problem(2, per_step=True, steps=4))

    def infer(initial, transition, evidence):
        hmm = HiddenMarkovModel(initial.log_softmax(-1), transition.log_softmax(-1))
        return (*hmm_filter(hmm, evidence, method=method), *hmm_smoother(hmm, evidence, method=method)[:2])

    inputs = (initial, transition, evidence)
    assert torch.autograd.gradcheck(infer, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda *v: infer(*v)[2], inputs, fast_mode=True)


@pytest.mark.parametrize("method", METHODS)
def test_impossible_evidence(method):
    """Nothing explains it: the likelihood is zero, its gradient too, and there is no posterior."""
    initial, transition, evidence = random_problem(3)
    evidence[1, 2] = -math.inf
    evidence.requires_grad_()
    hmm = HiddenMarkovModel(initial, transition)
    value = hmm_log_likelihood(hmm, evidence, method=method)
    assert torch.isfinite(value).tolist() == [True, False, True]
    assert value[1] == -math.inf
    (gradient,) = torch.autograd.grad(value[[0, 2]].sum(), evidence, retain_graph=True)
    assert torch.isfinite(gradient).all()
    assert gradient[1].abs().max() == 0
    assert torch.autograd.grad(value[1], evidence)[0].abs().max() == 0
    for infer in (hmm_filter, hmm_smoother, viterbi, hmm_sample_posterior):
        with pytest.raises(ValueError, match="No sequence of states explains the observations of series 1"):
            infer(hmm, evidence, method=method)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_long_series_neither_underflow_nor_drift(method, dtype):
    """Each frame independent of the others: the likelihood is a product of known factors."""
    steps = 3000
    g = torch.Generator().manual_seed(1)
    evidence = (1000 * torch.randn(steps, K, generator=g, dtype=torch.float64)).to(dtype)
    uniform = torch.full((K,), -math.log(K), dtype=dtype)
    value = hmm_log_likelihood(HiddenMarkovModel(uniform, uniform.expand(K, K)), evidence, method=method)
    exact = (evidence.double() - math.log(K)).logsumexp(-1).sum()
    torch.testing.assert_close(value.double(), exact, rtol=1e-12 if dtype == torch.float64 else 1e-7, atol=0)


@pytest.mark.parametrize("method", METHODS)
def test_posteriors_of_long_series_are_as_good_in_single_precision(method):
    """Log-probabilities of some ten thousand nats, of which single precision keeps two decimals."""
    initial, transition, evidence = (v.float() for v in random_problem(steps=4000))
    evidence = evidence - 30
    single = hmm_smoother(HiddenMarkovModel(initial, transition), evidence, method=method)
    double = hmm_smoother(HiddenMarkovModel(initial.double(), transition.double()), evidence.double(), method=method)
    assert single.marginals.dtype == single.pairwise.dtype == single.log_likelihood.dtype == torch.float32
    torch.testing.assert_close(single.marginals.double(), double.marginals, rtol=0, atol=1e-7)
    torch.testing.assert_close(single.pairwise.double(), double.pairwise, rtol=0, atol=1e-7)


@pytest.mark.parametrize("method", METHODS)
def test_missing_frames_are_summed_out(method):
    initial, transition, evidence = random_problem(2, per_step=True, zeros=True)
    hmm = HiddenMarkovModel(initial, transition)
    mask = torch.tensor([[True, False, True, True, False], [False, False, True, False, True]])
    without = torch.where(mask[..., None], evidence, 0)
    junk = torch.where(mask[..., None], evidence, math.nan).requires_grad_()
    for infer in (hmm_filter, hmm_smoother, viterbi):
        got, expected = infer(hmm, junk, mask=mask, method=method), infer(hmm, without, method=method)
        for a, b in zip(got, expected, strict=True):
            torch.testing.assert_close(a, b)
    (gradient,) = torch.autograd.grad(hmm_log_likelihood(hmm, junk, mask=mask, method=method).sum(), junk)
    assert torch.isfinite(gradient).all()
    assert gradient[~mask].abs().max() == 0
    nothing = torch.zeros(2, T, dtype=torch.bool)
    prior = hmm_smoother(hmm, junk, mask=nothing, method=method)
    torch.testing.assert_close(prior.marginals[:, 0], initial.exp())
    torch.testing.assert_close(prior.log_likelihood, torch.zeros(2, dtype=torch.float64))


@pytest.mark.parametrize("method", METHODS)
def test_a_padded_batch_gives_what_each_series_gives_alone(method):
    initial, transition, evidence = random_problem(3, per_step=True, zeros=True)
    lengths = torch.tensor([5, 3, 1])
    for b, length in enumerate(lengths.tolist()):
        evidence[b, length:] = math.nan
    hmm = HiddenMarkovModel(initial, transition)
    smoothed = hmm_smoother(hmm, evidence, lengths=lengths, method=method)
    filtered = hmm_filter(hmm, evidence, lengths=lengths, method=method)
    best = viterbi(hmm, evidence, lengths=lengths, method=method)
    draws = hmm_sample_posterior(
        hmm, evidence, lengths=lengths, method=method, generator=torch.Generator().manual_seed(0)
    )
    for b, n in enumerate(lengths.tolist()):
        alone = HiddenMarkovModel(initial[b], transition[b, :n])
        own = hmm_smoother(alone, evidence[b, :n], method=method)
        torch.testing.assert_close(smoothed.marginals[b, :n], own.marginals)
        torch.testing.assert_close(smoothed.pairwise[b, : n - 1], own.pairwise)
        torch.testing.assert_close(smoothed.log_likelihood[b], own.log_likelihood)
        torch.testing.assert_close(filtered.filtered[b, :n], hmm_filter(alone, evidence[b, :n]).filtered)
        assert torch.equal(best.path[b, :n], viterbi(alone, evidence[b, :n]).path)
        assert (draws[b, n:] == draws[b, n - 1]).all()


@pytest.mark.parametrize("zeros", [False, True])
def test_sampled_paths_follow_the_posterior(zeros):
    """All K^T paths are counted: a chi-squared test against their exact probabilities."""
    initial, transition, evidence = random_problem(zeros=zeros, steps=4, states=2 if not zeros else 3)
    hmm = HiddenMarkovModel(initial, transition)
    n = 40_000
    draws = hmm_sample_posterior(hmm, evidence, sample_shape=(n,), generator=torch.Generator().manual_seed(0))
    assert draws.shape == (n, 4)
    _, joint = all_paths(initial, transition, evidence)
    states = hmm.num_states
    digits = states ** torch.arange(3, -1, -1)
    counts = torch.bincount((draws * digits).sum(-1), minlength=states**4)
    probability = (joint - joint.logsumexp(0)).exp()
    assert counts[probability == 0].sum() == 0
    likely = probability * n > 5
    rest = n - counts[likely].sum()
    observed = [*counts[likely].tolist(), rest.item()]
    expected = [*(probability[likely] * n).tolist(), (probability[~likely].sum() * n).item()]
    if expected[-1] < 1e-9:
        assert observed.pop() == 0
        expected.pop()
    assert stats.chisquare(observed, expected).pvalue > 1e-3
    pairs = hmm_smoother(hmm, evidence).pairwise
    for t in range(3):
        frequency = torch.zeros(states, states, dtype=torch.float64)
        frequency.index_put_((draws[:, t], draws[:, t + 1]), torch.full((n,), 1 / n).double(), accumulate=True)
        torch.testing.assert_close(frequency, pairs[t], atol=0.012, rtol=0)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("per_step", [False, True])
def test_the_posterior_is_a_chain_again(method, zeros, per_step):
    """Under it every path has the probability that it has by enumeration; in a padded batch, too."""
    parts = random_problem(per_step=per_step, zeros=zeros)
    _, joint = all_paths(*parts)
    posterior = hmm_posterior(HiddenMarkovModel(*parts[:2]), parts[2], method=method)
    assert posterior.num_steps == T
    _, found = all_paths(posterior.log_initial, posterior.log_transition, torch.zeros(T, K, dtype=torch.float64))
    torch.testing.assert_close(found, joint.log_softmax(0), rtol=0, atol=1e-9)
    several = [p.expand(2, *p.shape) for p in parts]
    batch = hmm_posterior(HiddenMarkovModel(*several[:2]), several[2], lengths=torch.tensor([T, 2]), method=method)
    torch.testing.assert_close(batch.log_transition[0], posterior.log_transition, rtol=0, atol=1e-9)
    initial, transition = parts[0], parts[1][:2] if per_step else parts[1]
    alone = hmm_posterior(HiddenMarkovModel(initial, transition), parts[2][:2], method=method)
    torch.testing.assert_close(batch.log_transition[1, :2], alone.log_transition, rtol=0, atol=1e-9)
    assert torch.equal(batch.log_transition[1, 2:], torch.eye(K, dtype=torch.float64).log().expand(T - 2, K, K))


def test_both_methods_draw_the_same_paths_and_the_generator_decides():
    initial, transition, evidence = random_problem(5, steps=37, per_step=True)
    hmm = HiddenMarkovModel(initial, transition)
    draws = [
        hmm_sample_posterior(
            hmm, evidence, sample_shape=(2, 3), method=method, generator=torch.Generator().manual_seed(4)
        )
        for method in METHODS
    ]
    assert draws[0].shape == (2, 3, 5, 37)
    assert torch.equal(*draws)


def test_without_observations_the_draws_are_those_of_the_prior():
    initial, transition, _ = random_problem(steps=6)
    nothing = torch.zeros(6, K, dtype=torch.float64)
    draws = hmm_sample_posterior(
        HiddenMarkovModel(initial, transition), nothing, sample_shape=(20_000,),
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    ahead = initial.exp() @ torch.linalg.matrix_power(transition.exp(), 5)
    frequency = torch.bincount(draws[:, -1], minlength=K) / 20_000
    torch.testing.assert_close(frequency.double(), ahead, atol=0.012, rtol=0)


@pytest.mark.parametrize("method", METHODS)
def test_potentials_that_are_not_normalised(method):
    """The log-likelihood is then the log of the normalising constant, also of padded series."""
    g = torch.Generator().manual_seed(3)
    initial, transition, evidence = (torch.randn(s, generator=g).double() for s in ((2, K), (2, T, K, K), (2, T, K)))
    hmm = HiddenMarkovModel(initial, transition, validate_args=False)
    lengths = torch.tensor([5, 3])
    smoothed = hmm_smoother(hmm, evidence, lengths=lengths, method=method)
    for b, n in enumerate(lengths.tolist()):
        truth = brute_force(initial[b], transition[b, :n], evidence[b, :n])
        torch.testing.assert_close(smoothed.log_likelihood[b], truth["log_likelihood"])
        torch.testing.assert_close(smoothed.marginals[b, :n], truth["marginals"])


def test_batch_dimensions_broadcast():
    initial, transition, evidence = random_problem(4, 2)
    shared = HiddenMarkovModel(initial[0, 0], transition[0, 0])
    many = hmm_smoother(shared, evidence)
    assert many.pairwise.shape == (4, 2, T - 1, K, K)
    torch.testing.assert_close(many.marginals[3, 1], hmm_smoother(shared, evidence[3, 1]).marginals)
    per_step = transition[0, 0].expand(1, T, K, K)
    torch.testing.assert_close(hmm_smoother(HiddenMarkovModel(initial[0, :1], per_step), evidence[0]).marginals,
                               many.marginals[0])  # fmt: skip
    many_models = hmm_log_likelihood(HiddenMarkovModel(initial[:, 0], transition[:, 0]), evidence[0, 0])
    assert many_models.shape == (4,)


def test_repr_says_what_it_is():
    initial, transition, _ = random_problem(2, per_step=True)
    assert repr(HiddenMarkovModel(initial, transition)) == (
        "HiddenMarkovModel(num_states=3, batch_shape=(2,), num_steps=5)"
    )


def test_refuses_at_the_door(as_a_user):
    initial, transition, evidence = random_problem()
    hmm = HiddenMarkovModel(initial, transition)
    with pytest.raises(TypeError, match="log_initial must be a tensor of log-probabilities, got list"):
        HiddenMarkovModel([0.0], transition)
    with pytest.raises(TypeError, match=r"float32 or float64, got torch.float16"):
        HiddenMarkovModel(initial.half(), transition.half())
    with pytest.raises(TypeError, match="convert one of them"):
        HiddenMarkovModel(initial.float(), transition)
    with pytest.raises(ValueError, match=r"log_transition must have shape \(\*batch, 3, 3\)"):
        HiddenMarkovModel(initial, transition[:2])
    with pytest.raises(ValueError, match="do not broadcast"):
        HiddenMarkovModel(initial.expand(2, K), transition.expand(3, K, K))
    with pytest.raises(ValueError, match=r"at most 0 .* got 0.5 at index \(1,\)"):
        HiddenMarkovModel(torch.tensor([0.1, 0.5, 0.4]).log().double().index_fill(0, torch.tensor(1), 0.5), transition)
    with pytest.raises(ValueError, match="got nan"):
        HiddenMarkovModel(initial * math.nan, transition)
    with pytest.raises(ValueError, match=r"the sum is 0.5 at index \(2,\)"):
        HiddenMarkovModel(initial, transition.index_fill(0, torch.tensor(2), math.log(1 / 6)))
    with pytest.raises(TypeError, match=r"log_evidence is torch\.float32"):
        hmm_filter(hmm, evidence.float())
    with pytest.raises(ValueError, match=r"log_evidence must have shape \(\*batch, T, 3\)"):
        hmm_filter(hmm, evidence[:, :2])
    with pytest.raises(ValueError, match="at least one frame"):
        hmm_filter(hmm, evidence[:0])
    broken = evidence.clone()
    broken[1, 2] = math.nan
    with pytest.raises(ValueError, match=r"got nan at index \(1, 2\)"):
        hmm_filter(hmm, broken)
    with pytest.raises(ValueError, match="transitions for 4 steps, the evidence 5 frames"):
        hmm_filter(HiddenMarkovModel(initial, transition.expand(4, K, K)), evidence)
    with pytest.raises(TypeError, match="mask must be a boolean tensor"):
        hmm_filter(hmm, evidence, mask=torch.ones(T))
    with pytest.raises(ValueError, match="mask must have shape"):
        hmm_filter(hmm, evidence, mask=torch.ones(T + 1, dtype=torch.bool))
    with pytest.raises(TypeError, match="lengths must be a tensor of whole numbers"):
        hmm_filter(hmm, evidence, lengths=torch.tensor(3.0))
    with pytest.raises(ValueError, match="lie between 1 and 5"):
        hmm_filter(hmm, evidence, lengths=torch.tensor(0))
    with pytest.raises(ValueError, match="do not broadcast"):
        hmm_filter(HiddenMarkovModel(initial.expand(2, K), transition.expand(2, K, K)), evidence.expand(3, T, K))
    with pytest.raises(ValueError, match="method must be"):
        hmm_filter(hmm, evidence, method="both")
