r"""Hidden Markov models: exact inference over a chain of discrete states, in log-space.

A `HiddenMarkovModel` holds the law of the states :math:`s_{1:T}`, each one of K; what was observed comes in as the
log-evidence of each state at each frame, :math:`\log p(x_t | s_t = k)`, whatever the observation model is. In a
switching model it is :math:`\log p(z_t | z_{t-1}, s_t = k)`, and the sum over all K^T sequences of regimes costs
O(T K^2).

Log-probabilities may be -inf, for what cannot happen: neither values nor gradients become NaN by it. All functions
are differentiable; the gradient of the log-likelihood with respect to the log-evidence is the smoothed marginals, which
is Fisher's identity. As in the Kalman filter, everything is computed in float64, since log-probabilities of long series
are large numbers of which small differences count; results are rounded to the dtype of the model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from dvae_lib.scans import Element, Method, check_method, loop, scan
from dvae_lib.statespace.model import holds

__all__ = [
    "HMMFilterResult",
    "HMMSmootherResult",
    "HiddenMarkovModel",
    "ViterbiResult",
    "hmm_filter",
    "hmm_log_likelihood",
    "hmm_posterior",
    "hmm_sample_posterior",
    "hmm_smoother",
    "viterbi",
]

# What stands for the logarithm of zero within: sums of it stay finite, so that no derivative is NaN.
_ZERO = -1e30
_IMPOSSIBLE = 0.1 * _ZERO


class HMMFilterResult(NamedTuple):
    """What the forward recursion returns.

    Attributes:
        filtered: p(s_t | x_{1:t}), `(*batch, T, K)`.
        predicted: p(s_t | x_{1:t-1}), `(*batch, T, K)`.
        log_likelihood: log p(x_{1:T}) of what is observed, in nats, `(*batch,)`.
    """

    filtered: Float[Tensor, "*batch time states"]
    predicted: Float[Tensor, "*batch time states"]
    log_likelihood: Float[Tensor, "*batch"]


class HMMSmootherResult(NamedTuple):
    """What the forward-backward recursions return.

    Attributes:
        marginals: p(s_t | x_{1:T}), `(*batch, T, K)`.
        pairwise: p(s_{t-1} = j, s_t = k | x_{1:T}) for t = 2..T, `(*batch, T - 1, K, K)`.
        log_likelihood: log p(x_{1:T}) of what is observed, in nats, `(*batch,)`.
    """

    marginals: Float[Tensor, "*batch time states"]
    pairwise: Float[Tensor, "*batch steps states states"]
    log_likelihood: Float[Tensor, "*batch"]


class ViterbiResult(NamedTuple):
    """The most probable sequence of states.

    Attributes:
        path: The states, `(*batch, T)`, numbered from 0.
        log_prob: log p(s_{1:T}, x_{1:T}) of that path, in nats, `(*batch,)`.
    """

    path: Int[Tensor, "*batch time"]
    log_prob: Float[Tensor, "*batch"]


class HiddenMarkovModel:
    r"""A Markov chain over K states, to be observed.

    .. math:: p(s_{1:T}) = p(s_1) \prod_{t=2}^T p(s_t | s_{t-1})

    Transitions are constant, `(*batch, K, K)`, or given per step, `(*batch, T, K, K)`, where the first entry is not
    used. Which of the two it is follows from `log_initial`, which fixes the number of batch dimensions, as in
    `LinearGaussianSSM`. Batch dimensions broadcast.

    Arguments:
        log_initial: Log-probabilities of the first state, `(*batch, K)`; -inf where it cannot be.
        log_transition: Log-probabilities of s_t (columns) given s_{t-1} (rows), `(*batch, [T,] K, K)`.
        validate_args: Whether to look at the values as well as at the shapes. Turn it off for models built inside a
            training loop, and for potentials that do not sum to one: the log-likelihood is then the logarithm of the
            normalising constant, smoothed results and samples are those of the normalised chain, and filtered ones
            mean nothing.

    Raises:
        TypeError: If a parameter is not a tensor of float32 or float64, or the two differ in dtype or device.
        ValueError: If shapes do not fit, or values are no log-probabilities.

    Example:
        >>> sticky = torch.tensor([[0.9, 0.1], [0.1, 0.9]]).log()
        >>> HiddenMarkovModel(torch.tensor([0.5, 0.5]).log(), sticky)
        HiddenMarkovModel(num_states=2, batch_shape=(), num_steps=any)
    """

    def __init__(self, log_initial: Tensor, log_transition: Tensor, *, validate_args: bool = True) -> None:
        self.log_initial, self.log_transition = log_initial, log_transition
        for name, value in (("log_initial", log_initial), ("log_transition", log_transition)):
            _check_type(name, value)
        if log_initial.dtype != log_transition.dtype or log_initial.device != log_transition.device:
            raise TypeError(
                f"log_initial is {log_initial.dtype} on {log_initial.device}, log_transition {log_transition.dtype} on "
                f"{log_transition.device}: convert one of them with .to(...)"
            )
        self._check_shapes()
        if validate_args:
            _check_log_probabilities("log_initial", log_initial)
            # The first step leads nowhere, so nothing is asked of it.
            _check_log_probabilities(
                "log_transition", log_transition[..., 1:, :, :] if self.per_step else log_transition
            )

    @property
    def num_states(self) -> int:
        """K."""
        return self.log_initial.shape[-1]

    @property
    def per_step(self) -> bool:
        """Whether the transitions are given per step."""
        return self.log_transition.ndim == self.log_initial.ndim + 2

    @property
    def num_steps(self) -> int | None:
        """T where the transitions are given per step, else None."""
        return self.log_transition.shape[-3] if self.per_step else None

    @property
    def batch_shape(self) -> torch.Size:
        """The batch dimensions of the model, before those of the data."""
        own = self.log_transition.shape[: -3 if self.per_step else -2]
        return torch.Size(torch.broadcast_shapes(self.log_initial.shape[:-1], own))

    def __repr__(self) -> str:
        steps = self.num_steps or "any"
        return (
            f"HiddenMarkovModel(num_states={self.num_states}, batch_shape={tuple(self.batch_shape)}, num_steps={steps})"
        )

    def _check_shapes(self) -> None:
        initial, transition = tuple(self.log_initial.shape), tuple(self.log_transition.shape)
        if not initial or initial[-1] == 0:
            raise ValueError(f"log_initial must have shape (*batch, K) with at least one state, got {initial}")
        K = initial[-1]
        if transition[-2:] != (K, K) or len(transition) - len(initial) not in (1, 2):
            raise ValueError(
                f"log_transition must have shape (*batch, {K}, {K}), or (*batch, T, {K}, {K}) where it is given per "
                f"step, with the batch dimensions of log_initial {initial}; got {transition}"
            )
        try:
            _ = self.batch_shape
        except RuntimeError:
            raise ValueError(
                f"The batch dimensions of log_initial {initial} and log_transition {transition} do not broadcast"
            ) from None


def hmm_log_likelihood(
    hmm: HiddenMarkovModel,
    log_evidence: Float[Tensor, "*batch time states"],
    *,
    mask: Tensor | None = None,
    lengths: Tensor | None = None,
    method: Method = "sequential",
) -> Float[Tensor, "*out"]:
    r"""The log-likelihood with the states summed out, by the forward recursion, in nats per series, `(*batch,)`.

    .. math:: \log p(x_{1:T}) = \log \sum_{s_{1:T}} p(s_{1:T}) \prod_t p(x_t | s_t)

    It is -inf, with gradients of zero, where no sequence of states explains the observations.

    Arguments:
        hmm: The law of the states.
        log_evidence: log p(x_t | s_t = k), `(*batch, T, K)`; -inf where a state rules the observation out.
        mask: True where a frame is observed, `(*batch, T)`. What stands in the others is not looked at.
        lengths: How many frames each series has, `(*batch,)`, where a batch is padded. After its end a series keeps its
            last state.
        method: "sequential" runs one step after the other; "parallel" is an associative scan, O(log T) deep, with K
            times the work: it pays for long series of few states.

    Raises:
        TypeError: If `log_evidence` is not of the model's dtype and device, or `mask` is not boolean.
        ValueError: If shapes do not fit, or a log-evidence is NaN or inf.

    Example:
        >>> hmm = HiddenMarkovModel(torch.tensor([0.5, 0.5]).log(), torch.eye(2).log())
        >>> always = torch.tensor([[0.2, 0.4], [0.2, 0.4]]).log()  # two frames
        >>> hmm_log_likelihood(hmm, always).exp()  # 0.5 * 0.2^2 + 0.5 * 0.4^2
        tensor(0.1000)
    """
    problem = _Problem.of(hmm, log_evidence, mask, lengths, method)
    return problem.total(problem.forward()[-1]).to(problem.dtype)


def hmm_filter(
    hmm: HiddenMarkovModel,
    log_evidence: Float[Tensor, "*batch time states"],
    *,
    mask: Tensor | None = None,
    lengths: Tensor | None = None,
    method: Method = "sequential",
) -> HMMFilterResult:
    r"""Causal inference of the states: the normalised forward recursion.

    .. math:: p(s_t | x_{1:t}) \propto p(x_t | s_t) \sum_{s_{t-1}} p(s_t | s_{t-1})\, p(s_{t-1} | x_{1:t-1})

    Arguments and errors are those of `hmm_log_likelihood`.

    Returns:
        Filtered and predicted probabilities, and the log-likelihood.

    Raises:
        ValueError: If no sequence of states explains the observations.
    """
    problem = _Problem.of(hmm, log_evidence, mask, lengths, method)
    alpha = problem.forward()
    log_likelihood = problem.possible(alpha[-1])
    filtered = alpha.softmax(-1)
    predicted = torch.cat([problem.initial.unsqueeze(0), _advance(alpha[:-1], problem.transition)]).softmax(-1)
    return HMMFilterResult(problem.out(filtered), problem.out(predicted), log_likelihood.to(problem.dtype))


def hmm_smoother(
    hmm: HiddenMarkovModel,
    log_evidence: Float[Tensor, "*batch time states"],
    *,
    mask: Tensor | None = None,
    lengths: Tensor | None = None,
    method: Method = "sequential",
) -> HMMSmootherResult:
    r"""Inference of each state, and of each pair of neighbours, from the whole sequence: forward-backward.

    .. math::
        p(s_{t-1}, s_t | x_{1:T}) &\propto \alpha_{t-1}(s_{t-1})\, p(s_t | s_{t-1})\, p(x_t | s_t)\, \beta_t(s_t) \\
        \beta_t(s_t) = p(x_{t+1:T} | s_t) &= \sum_{s_{t+1}} p(s_{t+1} | s_t)\, p(x_{t+1} | s_{t+1})\,
        \beta_{t+1}(s_{t+1})

    Arguments and errors are those of `hmm_log_likelihood`.

    Returns:
        Smoothed marginals, pairwise marginals, and the log-likelihood.

    Raises:
        ValueError: If no sequence of states explains the observations.

    Example:
        >>> hmm = HiddenMarkovModel(torch.tensor([0.5, 0.5]).log(), torch.eye(2).log())
        >>> hmm_smoother(hmm, torch.tensor([[1.0, 1.0], [1.0, 3.0]]).log()).marginals
        tensor([[0.2500, 0.7500],
                [0.2500, 0.7500]])
    """
    problem = _Problem.of(hmm, log_evidence, mask, lengths, method)
    alpha, beta = problem.forward(), problem.backward()
    log_likelihood = problem.possible(alpha[-1])
    marginals = (alpha + beta).softmax(-1)
    ahead = (problem.evidence[1:] + beta[1:]).unsqueeze(-2)
    pairwise = (alpha[:-1].unsqueeze(-1) + problem.transition + ahead).flatten(-2).softmax(-1)
    pairwise = pairwise.unflatten(-1, (hmm.num_states, hmm.num_states))
    return HMMSmootherResult(problem.out(marginals), problem.out(pairwise, event=2), log_likelihood.to(problem.dtype))


def hmm_posterior(
    hmm: HiddenMarkovModel,
    log_evidence: Float[Tensor, "*batch time states"],
    *,
    mask: Tensor | None = None,
    lengths: Tensor | None = None,
    method: Method = "sequential",
) -> HiddenMarkovModel:
    r"""The posterior of the whole sequence of states, which is a Markov chain again.

    .. math::
        p(s_t | s_{t-1}, x_{t:T}) \propto p(s_t | s_{t-1})\, p(x_t | s_t)\, \beta_t(s_t), \qquad
        \beta_t(s_t) = p(x_{t+1:T} | s_t)

    Arguments and errors are those of `hmm_filter`.

    Returns:
        The chain, with transitions per step. What follows a state that cannot be means nothing.
    """
    problem = _Problem.of(hmm, log_evidence, mask, lengths, method)
    ahead = problem.evidence + problem.backward()
    problem.possible(problem.initial + ahead[0])
    initial = (problem.initial + ahead[0]).log_softmax(-1)
    steps = (problem.transition + ahead[1:].unsqueeze(-2)).log_softmax(-1)
    first = initial.unsqueeze(-2).expand(*initial.shape, hmm.num_states)  # not used: s_1 follows nothing
    steps = problem.out(torch.cat([first.unsqueeze(0), steps]), event=2)
    start, steps = (torch.where(p < _IMPOSSIBLE, -torch.inf, p).to(problem.dtype) for p in (initial, steps))
    return HiddenMarkovModel(start, steps, validate_args=False)


@torch.no_grad()
def hmm_sample_posterior(
    hmm: HiddenMarkovModel,
    log_evidence: Float[Tensor, "*batch time states"],
    *,
    mask: Tensor | None = None,
    lengths: Tensor | None = None,
    sample_shape: tuple[int, ...] = (),
    method: Method = "sequential",
    generator: Generator | None = None,
) -> Int[Tensor, "*out time"]:
    r"""Draws sequences of states from p(s_{1:T} | x_{1:T}): forward filtering, backward sampling.

    .. math:: s_T \sim p(s_T | x_{1:T}), \qquad s_t \sim p(s_t | s_{t+1}, x_{1:t})

    With a mask that is False everywhere it draws from the prior. Draws for each value of s_{t+1} are made at all frames
    at once; then these maps are followed from the end. Both methods give the same draws.

    Arguments:
        hmm: The law of the states.
        log_evidence: log p(x_t | s_t = k), `(*batch, T, K)`.
        mask: As in `hmm_log_likelihood`.
        lengths: As in `hmm_log_likelihood`.
        sample_shape: Shape of independent draws, in front of the batch dimensions.
        method: As in `hmm_log_likelihood`.
        generator: Source of randomness.

    Returns:
        The states, `(*sample_shape, *batch, T)`, numbered from 0; no gradient passes.

    Raises:
        TypeError: As `hmm_log_likelihood`.
        ValueError: As `hmm_log_likelihood`, and if no sequence of states explains the observations.
    """
    problem = _Problem.of(hmm, log_evidence, mask, lengths, method)
    alpha = problem.forward()
    problem.possible(alpha[-1])
    T, *batch, K = alpha.shape
    # The largest of log-weights that are each less the logarithm of an exponential variable is a draw (Gumbel, 1954).
    race = alpha.new_empty(T, *sample_shape, *batch, K).exponential_(generator=generator)
    race = race.clamp(min=torch.finfo(race.dtype).tiny).log()
    alpha = alpha.reshape(T, *(1,) * len(sample_shape), *batch, K)
    transition = problem.transition.reshape(T - 1, *(1,) * len(sample_shape), *batch, K, K)
    scores = (alpha[:-1] - race[:-1]).unsqueeze(-1) + transition
    last = (alpha[-1] - race[-1]).argmax(-1)
    return _follow(last, scores.argmax(-2), method)


def viterbi(
    hmm: HiddenMarkovModel,
    log_evidence: Float[Tensor, "*batch time states"],
    *,
    mask: Tensor | None = None,
    lengths: Tensor | None = None,
    method: Method = "sequential",
) -> ViterbiResult:
    r"""The most probable sequence of states given the whole of the observations (Viterbi, 1967).

    .. math:: \delta_t(k) = \log p(x_t | s_t = k) + \max_j \big(\delta_{t-1}(j) + \log p(s_t = k | s_{t-1} = j)\big)

    Arguments and errors are those of `hmm_log_likelihood`.

    Returns:
        The path and its joint log-probability with the observations, which is differentiable.

    Raises:
        ValueError: If no sequence of states explains the observations.

    Example:
        >>> sticky = HiddenMarkovModel(torch.tensor([0.5, 0.5]).log(), torch.tensor([[0.9, 0.1], [0.1, 0.9]]).log())
        >>> viterbi(sticky, torch.tensor([[0.9, 0.1], [0.4, 0.6], [0.9, 0.1]]).log()).path
        tensor([0, 0, 0])
    """
    problem = _Problem.of(hmm, log_evidence, mask, lengths, method)
    delta = problem.along(problem.transition, _max_product, problem.initial + problem.evidence[0], problem.evidence[1:])
    problem.possible(delta[-1])
    came_from = (delta[:-1].unsqueeze(-1) + problem.transition).argmax(-2)
    path = _follow(delta[-1].argmax(-1), came_from, method)
    return ViterbiResult(path, delta[-1].amax(-1).to(problem.dtype))


# ---- the problem, time first -----------------------------------------------------------------------------------


class _Problem(NamedTuple):
    """Model and evidence with time first, all batch dimensions expanded and `_ZERO` for the logarithm of zero."""

    initial: Tensor  # (*batch, K)
    transition: Tensor  # (T - 1, *batch, K, K), of steps 2..T
    evidence: Tensor  # (T, *batch, K), zero where nothing is observed
    method: Method
    dtype: torch.dtype  # of the results; what is here is float64

    @classmethod
    def of(
        cls, hmm: HiddenMarkovModel, evidence: Tensor, mask: Tensor | None, lengths: Tensor | None, method: Method
    ) -> _Problem:
        check_method(method)
        _check_evidence(hmm, evidence)
        T, K = evidence.shape[-2:]
        observed, there = _frames("mask", mask, evidence), _within(lengths, evidence)
        if there is not None:
            observed = there if observed is None else observed & there
        if observed is not None:
            evidence = torch.where(observed.unsqueeze(-1), evidence, 0)
        _check_values(evidence)
        transition = hmm.log_transition if hmm.per_step else hmm.log_transition.unsqueeze(-3)
        transition = transition[..., 1:, :, :] if hmm.per_step else transition
        try:
            batch = torch.broadcast_shapes(hmm.batch_shape, evidence.shape[:-2])
        except RuntimeError:
            raise ValueError(
                f"The batch dimensions of the model {tuple(hmm.batch_shape)} and of the evidence "
                f"{tuple(evidence.shape[:-2])} do not broadcast"
            ) from None
        transition = transition.double().clamp(min=_ZERO).expand(*batch, T - 1, K, K).movedim(-3, 0)
        if there is not None:  # after its end a series stays where it is
            stay = transition.new_full((K, K), _ZERO).fill_diagonal_(0.0)
            later = there[..., 1:].expand(*batch, T - 1).movedim(-1, 0)
            transition = torch.where(later[..., None, None], transition, stay)
        return cls(
            hmm.log_initial.double().clamp(min=_ZERO).expand(*batch, K),
            transition,
            evidence.double().clamp(min=_ZERO).expand(*batch, T, K).movedim(-2, 0),
            method,
            hmm.log_initial.dtype,
        )

    def forward(self) -> Tensor:
        """log alpha_t(k) = log p(x_{1:t}, s_t = k), `(T, *batch, K)`."""
        return self.along(self.transition, _sum_product, self.initial + self.evidence[0], self.evidence[1:])

    def backward(self) -> Tensor:
        """log beta_t(j) = log p(x_{t+1:T} | s_t = j), `(T, *batch, K)`."""
        steps = (self.transition + self.evidence[1:].unsqueeze(-2)).mT.flip(0)
        nothing = torch.zeros_like(self.evidence)
        return self.along(steps, _sum_product, nothing[0], nothing[1:]).flip(0)

    def along(self, steps: Tensor, product: Callable[[Tensor, int], Tensor], first: Tensor, sources: Tensor) -> Tensor:
        """All vectors v_t(k) = sources_t(k) + product over j of v_{t-1}(j) + steps_t(j, k), where v_1 is `first`."""
        if self.method == "parallel":
            matrices = steps + sources.unsqueeze(-2)
            return scan(
                first,
                (matrices,),
                lambda v, element: product(v.unsqueeze(-1) + element[0], -2),
                lambda earlier, later: (product(earlier[0].unsqueeze(-1) + later[0].unsqueeze(-3), -2),),
            )

        def step(v: Tensor, element: Element) -> Tensor:
            return product(v.unsqueeze(-1) + element[0], -2) + element[1]

        return loop(first, (steps, sources), step)

    def out(self, value: Tensor, event: int = 1) -> Tensor:
        """From `(T, *batch, ...)` to `(*batch, T, ...)`, in the dtype of the results."""
        return value.movedim(0, -event - 1).to(self.dtype)

    def total(self, alpha: Tensor) -> Tensor:
        """The log-likelihood, from the last of the forward recursion."""
        total = alpha.logsumexp(-1)
        return torch.where(total < _IMPOSSIBLE, -torch.inf, total)

    def possible(self, last: Tensor) -> Tensor:
        """The log-likelihood, where it is finite.

        Raises:
            ValueError: If no sequence of states explains the observations of some series.
        """
        total = self.total(last)
        if not holds(torch.isfinite(total).all()):
            where = tuple((~torch.isfinite(total)).nonzero()[0].tolist())
            series = f" of series {', '.join(map(str, where))}" if where else ""
            raise ValueError(
                f"No sequence of states explains the observations{series}: their probability is zero, and so there is "
                "no posterior. Look for a transition or an evidence of -inf that should be possible"
            )
        return total


def _sum_product(values: Tensor, dim: int) -> Tensor:
    return values.logsumexp(dim)


def _max_product(values: Tensor, dim: int) -> Tensor:
    return values.amax(dim)


def _advance(alpha: Tensor, transition: Tensor) -> Tensor:
    return (alpha.unsqueeze(-1) + transition).logsumexp(-2)


def _follow(last: Tensor, maps: Tensor, method: Method) -> Tensor:
    """The states `(*batch, T)` that end in `last (*batch)`, the map of frame t giving s_t for each s_{t+1}."""

    def apply(state: Tensor, element: Element) -> Tensor:
        return element[0].gather(-1, state.unsqueeze(-1)).squeeze(-1)

    def combine(earlier: Element, later: Element) -> Element:
        return (later[0].gather(-1, earlier[0]),)

    elements = (maps.flip(0),)
    path = loop(last, elements, apply) if method == "sequential" else scan(last, elements, apply, combine)
    return path.flip(0).movedim(0, -1)


# ---- checks ----------------------------------------------------------------------------------------------------


def _check_type(name: str, value: object) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor of log-probabilities, got {type(value).__name__}")
    if value.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"{name} must be float32 or float64, got {value.dtype}: convert it with .float()")


def _check_log_probabilities(name: str, value: Tensor) -> None:
    value = value.detach()
    if not holds((value <= 1e-4).all()):  # NaN is not, either
        where = tuple((~(value <= 1e-4)).nonzero()[0].tolist())
        raise ValueError(
            f"{name} must hold log-probabilities, which are at most 0 (-inf for what cannot be); got "
            f"{value[where].item():.4g} at index {where}. From scores, take log_softmax(-1)"
        )
    error = value.clamp(min=_ZERO).logsumexp(-1).abs()
    if not holds((error < 1e-4).all()):
        where = tuple((error >= 1e-4).nonzero()[0].tolist())
        row = value[where].exp()
        at = f" at index {where}" if where else ""
        raise ValueError(
            f"The probabilities of {name} must sum to 1 along the last dimension; the sum is {row.sum().item():.6g}{at}"
            ". Normalise them with log_softmax(-1), or pass validate_args=False for potentials"
        )


def _check_evidence(hmm: HiddenMarkovModel, evidence: Tensor) -> None:
    _check_type("log_evidence", evidence)
    own = hmm.log_initial
    if evidence.dtype != own.dtype or evidence.device != own.device:
        raise TypeError(
            f"log_evidence is {evidence.dtype} on {evidence.device}, the model {own.dtype} on {own.device}: convert "
            "one of them with .to(...)"
        )
    shape = tuple(evidence.shape)
    if evidence.ndim < 2 or shape[-1] != hmm.num_states or shape[-2] == 0:
        raise ValueError(
            f"log_evidence must have shape (*batch, T, {hmm.num_states}) with at least one frame; got {shape}"
        )
    if hmm.num_steps not in (None, shape[-2]):
        raise ValueError(
            f"The model has transitions for {hmm.num_steps} steps, the evidence {shape[-2]} frames: give as many (the "
            "first transition is not used)"
        )


def _check_values(evidence: Tensor) -> None:
    good = evidence.detach() < torch.inf  # NaN is not
    if not holds(good.all()):
        where = tuple((~good).nonzero()[0].tolist())
        raise ValueError(
            f"log_evidence must be finite, or -inf where a state is ruled out; got {evidence[where].item()} at index "
            f"{where}. Pass a mask for frames that are missing"
        )


def _frames(name: str, mask: Tensor | None, evidence: Tensor) -> Tensor | None:
    if mask is None:
        return None
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        kind = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise TypeError(f"{name} must be a boolean tensor, True where a frame is observed; got {kind}")
    try:
        return mask.to(evidence.device).expand(evidence.shape[:-1])
    except RuntimeError:
        raise ValueError(
            f"{name} must have shape {tuple(evidence.shape[:-1])}, by frame; got {tuple(mask.shape)}"
        ) from None


def _within(lengths: Tensor | None, evidence: Tensor) -> Tensor | None:
    """True in the frames that a series has."""
    if lengths is None:
        return None
    if not isinstance(lengths, Tensor) or lengths.is_floating_point() or lengths.dtype == torch.bool:
        kind = lengths.dtype if isinstance(lengths, Tensor) else type(lengths).__name__
        raise TypeError(f"lengths must be a tensor of whole numbers, got {kind}")
    T = evidence.shape[-2]
    if lengths.shape != evidence.shape[:-2] or not holds(((lengths >= 1) & (lengths <= T)).all()):
        raise ValueError(
            f"lengths must have shape {tuple(evidence.shape[:-2])} and lie between 1 and {T}; got shape "
            f"{tuple(lengths.shape)} with values {lengths.flatten()[:8].tolist()}"
        )
    return torch.arange(T, device=evidence.device) < lengths.to(evidence.device).unsqueeze(-1)
