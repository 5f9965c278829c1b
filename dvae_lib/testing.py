"""The laws that every dynamical VAE obeys, whatever its equations, to put anybody's model to: `check_model`."""

import copy
import math
import tempfile
from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor
from torch.testing import assert_close

from dvae_lib.distributions import support_of
from dvae_lib.graphs import verify_dependencies
from dvae_lib.graphs.links import looks_ahead
from dvae_lib.models.base import DVAE
from dvae_lib.models.draws import Draws, Past
from dvae_lib.objectives import log_weights, particle, variational_lower_bound

__all__ = ["LAWS", "Case", "check_model"]


class Case(NamedTuple):
    """A model in double precision, and data to try it on: four sequences of six frames, the inputs of a driven one."""

    model: DVAE
    x: Tensor
    u: Tensor | None

    @property
    def lengths(self) -> Tensor:
        """Lengths of which no two are the same."""
        return torch.tensor([6, 1, 4, 2])

    def padded(self, value: Tensor | None, filling: float = 0.0) -> Tensor | None:
        """The sequences cut to their lengths, with something else behind."""
        if value is None:
            return None
        inside = torch.arange(value.shape[1]) < self.lengths[:, None]
        return torch.where(inside[..., None], value, filling)

    @property
    def observed(self) -> Tensor:
        """What was observed: all of a sequence, the first frames of one, and entries or frames here and there."""
        seen = torch.rand(self.x.shape, generator=_seeded(1)) > 0.4
        if not self.model._entries_apart:
            seen = seen[..., :1].expand(seen.shape).clone()
        seen[0], seen[1] = True, (torch.arange(self.x.shape[1]) < 3)[:, None]
        seen[2, 0] = True
        seen[3, 2], seen[3, 3] = True, False
        return seen

    def latents(self, **options: Any) -> dict[str, Tensor]:
        """Samples of the posterior."""
        found = self.model.inference(self.x, self.u, generator=_seeded(), **options)
        return {name: latent.sample for name, latent in found.items()}


class NotApplicableError(Exception):
    """A law says nothing of this model."""


LAWS: dict[str, Callable[[Case], None]] = {}
"""The laws, by what they say."""


def check_model(
    model: DVAE,
    x: Tensor | None = None,
    u: Tensor | None = None,
    *,
    laws: Iterable[str] | None = None,
) -> dict[str, str]:
    """Put a model to the laws; in a quarter of a minute for a small one.

    A copy is tried, in double precision and evaluation mode; the model stays as it is.

    Arguments:
        model: The model. Small sizes are enough.
        x: Sequences to try it on, at least four of six frames; by default made by the model itself.
        u: The inputs of a driven model; by default drawn.
        laws: Names of laws, see `LAWS`; by default all.

    Returns:
        For each law "holds", or why it does not apply.

    Raises:
        AssertionError: With all laws that the model breaks, and what was found.
        ValueError: There is no law of that name, or too little data.

    Example:
        >>> from dvae_lib import VAE
        >>> set(check_model(VAE(3, 2, encoder=(4,), decoder=(4,))).values()) >= {"holds"}
        True
    """
    chosen = list(LAWS) if laws is None else list(laws)
    unknown = [name for name in chosen if name not in LAWS]
    if unknown:
        raise ValueError(f"no law is called {unknown[0]!r}; there are: {'; '.join(LAWS)}")
    case = _case(model, x, u)
    verdicts, broken = {}, {}
    for name in chosen:
        try:
            with torch.random.fork_rng(devices=[]):
                LAWS[name](case._replace(model=copy.deepcopy(case.model)))
            verdicts[name] = "holds"
        except NotApplicableError as reason:
            verdicts[name] = f"does not apply: {reason}"
        except Exception as error:  # whatever a stranger's model raises is what the law found
            broken[name] = f"{type(error).__name__}: {error}"
    if broken:
        told = "\n".join(f"- {name}\n    {reason}" for name, reason in broken.items())
        raise AssertionError(f"{type(model).__name__} breaks {len(broken)} of {len(chosen)} laws:\n{told}")
    return verdicts


def law(name: str) -> Callable[[Callable[[Case], None]], Callable[[Case], None]]:
    """Enter a law under what it says."""

    def enter(function: Callable[[Case], None]) -> Callable[[Case], None]:
        LAWS[name] = function
        return function

    return enter


def _seeded(seed: int = 3) -> Generator:
    return Generator().manual_seed(seed)


def _case(model: DVAE, x: Tensor | None, u: Tensor | None) -> Case:
    model = copy.deepcopy(model).to("cpu", torch.float64).eval()
    if u is None and model.u_dim:
        u = torch.randn(4, 6, model.u_dim, generator=_seeded(0), dtype=torch.float64)
    if x is None:
        x = model.generate(6, 4, u=u, generator=_seeded(0)).x
    if x.shape[0] < 4 or x.shape[1] < 6:
        raise ValueError(f"the laws need four sequences of six frames; got x of shape {tuple(x.shape)}")
    return Case(model, x[:4, :6].double(), None if u is None else u[:4, :6].double())


def _own_frames(value: Tensor, i: int, length: int, *, framewise: bool) -> Tensor:
    return value[i : i + 1, :length] if framewise else value[i : i + 1]


def _without_auxiliary(bound: Any) -> Tensor:
    """The bound itself, where a model adds training terms to its objective."""
    value: Tensor = bound.value
    return value - sum(bound.auxiliary.values(), torch.zeros_like(value))


# ---------------------------------------------------------------- the equations


@law("the code depends on what the spec says, and on nothing else")
def _(case: Case) -> None:
    modes = (0.0, 1.0) if case.model.links.predictive else (0.0,)
    for feedback in modes:
        verdict = verify_dependencies(case.model, feedback=feedback)
        assert verdict.agrees, str(verdict)


@law("a frame's posterior, drawn in turn, is that of the pass with the latents given")
def _(case: Case) -> None:
    drawn = case.model.inference(case.x, case.u, generator=_seeded())
    again = case.model.inference(case.x, case.u, latents={k: v.sample for k, v in drawn.items()})
    for name, latent in drawn.items():
        assert torch.equal(again[name].sample, latent.sample), f"{name} was given, and is another"
        assert_close(latent.posterior.log_prob(latent.sample), again[name].posterior.log_prob(latent.sample))


@law("steps are what the pass over whole sequences says")
def _(case: Case) -> None:
    model, x, u, latents = *case, case.latents()
    whole = model.generation(x, latents, u)
    if not model.is_causal:
        raise NotApplicableError("its frames are generated together")
    of_sequence: Any = {name: latents[name] for name in model.sequence_latents}
    state = model.initial_state(len(x), **of_sequence)
    x_prev = torch.zeros_like(x[:, 0])
    for t in range(x.shape[1]):
        given: Any = {f"{name}_t": latents[name][:, t] for name in model.frame_latents}
        out = model.step(state, x_prev, None if u is None else u[:, t], **given)
        for name in model.frame_latents:
            value = latents[name]
            assert_close(out.prior[name].log_prob(value[:, t]), whole.prior[name].log_prob(value)[:, t])
        assert_close(out.observation.log_prob(x[:, t]), whole.observation.log_prob(x)[:, t])
        state, x_prev = out.state, x[:, t]


@law("what inference hands on to generation is what generation computes itself")
def _(case: Case) -> None:
    model, x, u = case
    output = model(x, u, generator=_seeded())
    apart = model.generation(x, {name: latent.sample for name, latent in output.latents.items()}, u)
    assert_close(output.observation.log_prob(x), apart.observation.log_prob(x))
    for name, latent in output.latents.items():
        assert latent.prior is not None
        assert_close(latent.prior.log_prob(latent.sample), apart.prior[name].log_prob(latent.sample))


# ---------------------------------------------------------------- the bounds


@law("the bound is the reconstruction less the weighted KL, term by term")
def _(case: Case) -> None:
    model, x, u = case
    for kl in ("analytic", "sampled"):
        bound = model.vlb(x, u, beta=0.3, kl=kl, generator=_seeded())
        assert bound.value.shape == (len(x),), f"its shape is {tuple(bound.value.shape)}"
        auxiliary = sum(bound.auxiliary.values(), torch.zeros_like(bound.value))
        assert_close(bound.value, bound.reconstruction - 0.3 * bound.total_kl + auxiliary)
        for name, term in bound.kl_per_dim.items():
            assert_close(term.sum(-1), bound.kl[name])


@law("a KL in closed form is the mean of the sampled one")
def _(case: Case) -> None:
    model, x, u = case
    x, u = x[:1].repeat(2000, 1, 1), None if u is None else u[:1].repeat(2000, 1, 1)
    analytic, sampled = (model.vlb(x, u, kl=kl, generator=_seeded()).value for kl in ("analytic", "sampled"))
    difference = (analytic - sampled).detach()  # of the same samples, hence independent over the batch
    error = difference.std() / math.sqrt(len(difference))
    assert difference.mean().abs() <= 5 * error + 1e-9, f"they differ by {difference.mean():.3g} +- {error:.2g} nats"


@law("with a sampled KL the bound is the log of the importance weight")
def _(case: Case) -> None:
    model, x, u = case
    output, bound = model(x, u, generator=_seeded()), model.vlb(x, u, kl="sampled", generator=_seeded())
    if set(bound.kl) != set(output.latents):
        raise NotApplicableError("its bound integrates a latent out")
    assert_close(log_weights(output, x).sum(1), _without_auxiliary(bound))
    assert_close(variational_lower_bound(output, x, kl="sampled").value, bound.value)


@law("the importance-weighted bound rises with the number of samples")
def _(case: Case) -> None:
    model, x, u = case
    x, u = x[:1].repeat(200, 1, 1), None if u is None else u[:1].repeat(200, 1, 1)
    bounds = [model.importance_weighted_bound(x, u, num_samples=k, generator=_seeded()) for k in (1, 8, 64)]
    for fewer, more in pairwise(bounds):
        error = (more - fewer).std() / math.sqrt(len(x))
        assert (more - fewer).mean() >= -4 * error - 1e-9, f"from {fewer.mean():.4g} to {more.mean():.4g} nats"


# ---------------------------------------------------------------- frame by frame


@law("proposals, frame by frame, are the inference of whole sequences")
def _(case: Case) -> None:
    model, x, u = case
    if not model.has_proposal:
        raise NotApplicableError("it has no proposal per frame")
    output = model(x, u, generator=_seeded())
    given = {name: latent.sample for name, latent in output.latents.items()}
    context = model._context(model.read(x), u, None, Draws(given), Past())
    state, _ = model._begin(len(x), {name: given[name] for name in model.sequence_latents}, None)
    generated = model.generation(x, given, u)
    for t in range(x.shape[1]):
        values = {f"{name}_t": given[name][:, t] for name in model.frame_latents}
        proposal = model.propose(state, context.at(t), x[:, t], None if u is None else u[:, t], **values)
        assert_close(proposal.observation.log_prob(x[:, t]), generated.observation.log_prob(x)[:, t])
        for name, latent in proposal.latents.items():
            posterior = output.latents[name].posterior.log_prob(given[name])[:, t]
            assert_close(latent.posterior.log_prob(latent.sample), posterior)
            if len(proposal.latents) == len(model.frame_latents):  # otherwise some are integrated out
                prior = generated.prior[name].log_prob(given[name])[:, t]
                assert_close(latent.prior.log_prob(latent.sample), prior)  # type: ignore[union-attr]
        state = proposal.state


@law("the context of a stream is that of the sequence so far")
def _(case: Case) -> None:
    model, x, u = case
    if not model.has_proposal:
        raise NotApplicableError("it has no proposal per frame")
    if looks_ahead(model.spec):
        raise NotApplicableError("its inference looks ahead, so a stream is read as if it ended at each frame")
    given = {name: value for name, value in case.latents().items() if name in model.sequence_latents}
    past, read = Past(streaming=True), model.read(x)
    for t in range(x.shape[1]):
        now = None if u is None else u[:, t : t + 1]
        streamed = model._context(read[:, t : t + 1], now, None, Draws(given), past)
        whole = model._context(read[:, : t + 1], None if u is None else u[:, : t + 1], None, Draws(given), Past())
        for name, value in streamed.frames.items():
            assert_close(value[:, 0], whole.frames[name][:, t])


@law("particles that are never resampled give the importance-weighted bound")
def _(case: Case) -> None:
    model, x, u = case
    if not model.is_causal:
        raise NotApplicableError("its frames are generated together")
    if model.infers_backwards:
        raise NotApplicableError("it infers backwards in time")
    x, u = x[:1].repeat(400, 1, 1), None if u is None else u[:1].repeat(400, 1, 1)
    with torch.no_grad():
        one = particle(model, x, u, num_particles=1, threshold=0.0, generator=_seeded()).value
        other = model.importance_weighted_bound(x, u, num_samples=1, generator=_seeded(4))
    if model.has_proposal and len(model.frame_latents) > 1:
        raise NotApplicableError("it filters with fewer latents than it infers")
    error = (one.var() / len(one) + other.var() / len(other)).sqrt()
    assert (one.mean() - other.mean()).abs() <= 5 * error + 1e-9, f"{one.mean():.5g}, {other.mean():.5g} nats"


# ---------------------------------------------------------------- batches


@law("a padded batch gives what each sequence gives alone")
def _(case: Case) -> None:
    model, lengths = case.model, case.lengths
    padded, driving = case.padded(case.x), case.padded(case.u)
    assert padded is not None
    drawn = model.inference(padded, driving, lengths=lengths, generator=_seeded())
    given = {name: latent.sample for name, latent in drawn.items()}
    together = model.inference(padded, driving, lengths=lengths, latents=given)
    generated = model.generation(padded, given, driving, lengths=lengths)

    def same(alone: Any, batch: Any, name: str, i: int, length: int) -> None:
        framewise = model.spec.is_framewise(name)
        own = _own_frames(given[name], i, length, framewise=framewise)
        assert_close(alone.log_prob(own), _own_frames(batch.log_prob(given[name]), i, length, framewise=framewise))

    for i, length in enumerate(lengths.tolist()):
        x = case.x[i : i + 1, :length]
        u = None if case.u is None else case.u[i : i + 1, :length]
        own = {k: _own_frames(v, i, length, framewise=model.spec.is_framewise(k)) for k, v in given.items()}
        for name, latent in model.inference(x, u, latents=own).items():
            same(latent.posterior, together[name].posterior, name, i, length)
        alone = model.generation(x, own, u)
        assert_close(alone.observation.log_prob(x), generated.observation.log_prob(padded)[i : i + 1, :length])
        for name, prior in alone.prior.items():
            same(prior, generated.prior[name], name, i, length)
    bound = model.vlb(padded, driving, lengths=lengths, generator=_seeded())
    for term in bound.kl.values():
        if term.ndim == 2:
            outside = torch.arange(term.shape[1]) >= lengths[:, None]
            assert (term[outside] == 0).all(), "frames that are not there have a KL"


@law("what stands in padded frames changes neither the bound nor a gradient")
def _(case: Case) -> None:
    model, results = case.model, []
    for filling in (0.0, 123.0, 1e20):
        model.zero_grad()
        x, u = case.padded(case.x, filling), case.padded(case.u, filling)
        if not support_of(model.observation).everything:
            x = case.padded(case.x, 0.0 if filling == 0 else float(case.x.max()))
        assert x is not None
        bound = model.vlb(x, u, lengths=case.lengths, generator=_seeded())
        bound.value.sum().backward()
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in model.parameters()]
        results.append([bound.value.detach(), *gradients])
    for first, *others in zip(*results, strict=True):
        for other in others:
            assert torch.isfinite(other).all(), "a gradient is not finite"
            assert_close(other, first)


@law("a sequence may have one frame")
def _(case: Case) -> None:
    model, x, u = case.model, case.x[:, :1], None if case.u is None else case.u[:, :1]
    for kl in ("analytic", "sampled"):
        value = model.vlb(x, u, kl=kl, generator=_seeded()).value
        assert torch.isfinite(value).all(), f"the bound is {value.tolist()}"
    assert model.reconstruct(x, u).mean.shape == x.shape


# ---------------------------------------------------------------- gaps


@law("what stands where nothing was observed changes neither the bound nor a gradient")
def _(case: Case) -> None:
    model, x, u, seen, results = *case, case.observed, []
    for filling in (math.nan, math.inf, 1e20, 0.0):
        model.zero_grad()
        hidden = torch.where(seen, x, filling)
        try:
            bound = model.vlb(hidden, u, observed=seen, lengths=case.lengths, generator=_seeded())
        except NotImplementedError as error:
            raise NotApplicableError(str(error)) from None
        bound.value.sum().backward()
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in model.parameters()]
        mean = model.reconstruct(hidden, u, observed=seen, latents="mean").mean
        results.append([bound.value.detach(), *gradients, mean.detach()])
    for first, *others in zip(*results, strict=True):
        assert torch.isfinite(first).all(), "a bound or a gradient is not finite"
        assert all(torch.equal(first, other) for other in others), "what is not observed is looked at"


@law("without gaps a mask changes nothing, and a gap nothing before it")
def _(case: Case) -> None:
    model, x, u, seen = *case, case.observed
    try:
        masked = model.vlb(x, u, observed=torch.ones_like(seen), generator=_seeded())
    except NotImplementedError as error:
        raise NotApplicableError(str(error)) from None
    assert torch.equal(masked.value, model.vlb(x, u, generator=_seeded()).value), "all observed is another bound"
    output = model(torch.where(seen, x, math.nan), u, observed=seen, generator=_seeded())
    latents = {name: latent.sample for name, latent in output.latents.items()}
    whole = model.generation(x, latents, u)
    complete = seen.all(-1).cumprod(1).bool()
    same = torch.cat([torch.ones_like(complete[:, :1]), complete[:, :-1]], 1)  # frame t looks back on those before
    if not model.links.predictive:
        same = torch.ones_like(same)
    assert_close(output.observation.log_prob(x)[same], whole.observation.log_prob(x)[same])


@law("the bound counts what was observed, and nothing else")
def _(case: Case) -> None:
    model, x, u, seen = *case, case.observed
    try:
        bound = model.vlb(x, u, observed=seen, kl="sampled", generator=_seeded())
    except NotImplementedError as error:
        raise NotApplicableError(str(error)) from None
    output = model(x, u, observed=seen, generator=_seeded())
    if set(bound.kl) != set(output.latents):
        raise NotApplicableError("its bound integrates a latent out")
    if hasattr(output.observation, "log_prob_per_dim"):
        counted = torch.where(seen, output.observation.log_prob_per_dim(x), 0.0).flatten(1).sum(1)
        assert_close(bound.reconstruction, counted)
    assert_close(log_weights(output, x, observed=seen).sum(1), _without_auxiliary(bound))


@law("a filter predicts through a gap")
def _(case: Case) -> None:
    model, x, u = case
    if not model.has_proposal:
        raise NotApplicableError("it has no proposal per frame")
    watch = model.filter(len(x), num_particles=5, generator=_seeded())
    nothing = torch.zeros(len(x), dtype=torch.bool)
    for t in range(4):
        before, gap = watch.log_likelihood, t in (1, 2)
        x_t, u_t = torch.full_like(x[:, t], math.nan) if gap else x[:, t], None if u is None else u[:, t]
        found = watch.update(x_t, u_t, observed=nothing if gap else ~nothing)
        assert torch.isfinite(found.prediction.mean).all()
        if gap:
            assert_close(found.score, torch.zeros_like(found.score))
            assert_close(watch.log_likelihood, before)


@law("what is filled in is the model's, and what was observed stays")
def _(case: Case) -> None:
    model, x, u, seen = *case, case.observed
    filled = model.impute(torch.where(seen, x, math.nan), seen, u, num_samples=3, generator=_seeded())
    for value in (filled.mean, *filled.samples):
        assert torch.isfinite(value).all()
        assert torch.equal(value[seen], x[seen]), "what was observed is another"
    assert not torch.equal(filled.samples[0], filled.samples[1]), "the samples are the same"


# ---------------------------------------------------------------- use


@law("the generator decides everything, and the global state stays")
def _(case: Case) -> None:
    model, x, u = case
    before = torch.get_rng_state()
    bounds = [model.vlb(x, u, generator=_seeded()).value for _ in range(2)]
    samples = [model.generate(5, len(x), u=None if u is None else u[:, :5], generator=_seeded()).x for _ in range(2)]
    assert torch.equal(*bounds), "two bounds of one seed differ"
    assert torch.equal(*samples), "two samples of one seed differ"
    assert torch.equal(before, torch.get_rng_state()), "random numbers were drawn from the global state"


@law("reconstruction from the mean is deterministic")
def _(case: Case) -> None:
    model, x, u = case
    first, second = (model.reconstruct(x, u, latents="mean").mean for _ in range(2))
    assert torch.equal(first, second)
    assert first.shape == x.shape


@law("it generates, and continues what it has analysed")
def _(case: Case) -> None:
    model, x, u = case
    for emission in ("sample", "mean"):
        new = model.generate(6, 4, u=u, emission=emission, generator=_seeded())
        assert new.x.shape == x.shape
        assert torch.isfinite(new.observation.log_prob(new.x)).all() or emission == "mean"
        for name, shape in model.latent_shapes(4, 6).items():
            assert new.latents[name].shape[:-1] == shape[:-1], f"{name} has shape {tuple(new.latents[name].shape)}"
    longer = None if u is None else torch.cat([u, u[:, :3]], 1)
    continued = model.generate(3, prefix=x, u=longer, generator=_seeded())
    assert continued.x.shape == (len(x), 3, x.shape[2])
    inferred = case.latents()
    for name in model.sequence_latents:
        assert torch.equal(continued.latents[name], inferred[name]), f"{name} is not what it was in the prefix"


@law("the doors refuse what is not finite, of another shape, or unknown")
def _(case: Case) -> None:
    model, x, u = case
    latents = case.latents()
    spoiled = x.clone()
    spoiled[1, 2, 0] = math.nan

    def refused(call: Callable[[], Any], what: str) -> None:
        try:
            call()
        except (ValueError, TypeError):
            return
        raise AssertionError(f"{what} was let in")

    refused(lambda: model.inference(spoiled, u), "x with a NaN (inference)")
    refused(lambda: model.generation(spoiled, latents, u), "x with a NaN (generation)")
    refused(lambda: model.vlb(spoiled, u), "x with a NaN (vlb)")
    refused(lambda: model.inference(x[..., :-1], u), "x of another size (inference)")
    seen = case.observed
    refused(lambda: model.vlb(spoiled, u, observed=torch.ones_like(seen)), "x with a NaN at an observed place")
    refused(lambda: model.vlb(x, u, observed=seen[:, :-1]), "observed of another shape")
    refused(lambda: model.vlb(x, u, observed=seen.double()), "observed of another dtype")
    refused(lambda: model.vlb(x, u, observed=seen & (seen[..., :1] < 0)), "sequences without an observed value")
    refused(lambda: model.inference(x, u, draw="mode"), "draw='mode'")  # type: ignore[arg-type]
    unknown: Mapping[str, Tensor] = {"nothing": x}
    refused(lambda: model.inference(x, u, latents=unknown), "an unknown latent (inference)")
    refused(lambda: model.generation(x, {**latents, **unknown}, u), "an unknown latent (generation)")
    for name, value in latents.items():
        others = {k: v for k, v in latents.items() if k != name}
        refused(lambda: model.generation(x, others, u), f"generation without {name}")  # noqa: B023
        wrong = {name: value[:2]}
        refused(lambda: model.inference(x, u, latents=wrong), f"{name} of another shape")  # noqa: B023
        blank = {**latents, name: torch.full_like(value, math.nan)}
        refused(lambda: model.generation(x, blank, u), f"{name} with a NaN")  # noqa: B023
    if model.is_causal:
        of_sequence: Any = {name: latents[name] for name in model.sequence_latents}
        first = model.initial_state(len(x), **of_sequence)
        at_1 = None if u is None else u[:, 0]
        refused(lambda: model.step(first, spoiled[:, 2], at_1), "x_prev with a NaN (step)")
        refused(lambda: model.step(first, x[:, 0], at_1, nothing_t=x[:, 0]), "an unknown latent (step)")


@law("a saved model is the same model")
def _(case: Case) -> None:
    model, x, u = case.model.float(), case.x.float(), None if case.u is None else case.u.float()
    try:
        model.configuration()
    except TypeError as error:
        raise NotApplicableError(str(error)) from None
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(Path(folder) / "model")
        loaded = type(model).from_pretrained(Path(folder) / "model")
    values = [m.vlb(x, u, generator=_seeded()).value for m in (model, loaded)]
    assert torch.equal(*values), "its bounds differ"
