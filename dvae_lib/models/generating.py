"""Generation, frame by frame or all at once: the loops, and the steps that follow from whole sequences."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.distributions import Distribution
from torch.nn import functional as F

from dvae_lib.distributions import Flow
from dvae_lib.models.draws import (
    Context,
    Draw,
    Draws,
    Given,
    Inferred,
    Past,
    Proposed,
    State,
    Values,
    drawn,
    merged_state,
    sample,
    split_state,
)
from dvae_lib.objectives import Generated, Latent

__all__ = ["Sample"]

Emission = Literal["sample", "mean"]


class Sample(NamedTuple):
    """Generated sequences: frames x, the latents behind them, and the distribution that x was drawn from."""

    x: Float[Tensor, "batch time x_dim"]
    latents: dict[str, Tensor]
    observation: Distribution


# ---------------------------------------------------------------- new sequences


def frame_by_frame(
    model: Any,
    num_steps: int,
    batch_size: int,
    prefix: Tensor | None,
    inferred: dict[str, Tensor],
    u: Tensor | None,
    emission: Emission,
    generator: Generator | None,
    seen: Tensor | None = None,
) -> Sample:
    """`generate` of a causal model: frame by frame, first over the prefix with its latents, then alone.

    The prefix is as networks read it. What is missing in it is the model's own output.
    """
    start = 0 if prefix is None else prefix.shape[1]
    of_sequence = {name: inferred[name] for name in model.sequence_latents if name in inferred}
    draws = Given(of_sequence, generator)
    state = model._initial_state(batch_size, draws)
    whole = dict(draws.latents)
    x_prev = next(model.parameters()).new_zeros(batch_size, model.x_dim)
    frames, latents, steps = [], [], []
    for t in range(start + num_steps):
        draws = Given({n: v[:, t] for n, v in inferred.items() if n not in of_sequence} if t < start else {}, generator)
        observation, state = model._step(state, x_prev, None if u is None else u[:, t], draws)
        if prefix is not None and t < start:
            x_prev = prefix[:, t]
            if seen is not None and model.links.predictive:
                x_prev = torch.where(seen[:, t], x_prev, model.read(_emit(observation, emission, generator)))
            continue
        frames.append(_emit(observation, emission, generator))
        x_prev = model.read(frames[-1])
        latents.append(draws.latents)
        steps.append(observation)
    for name in model.frame_latents:
        whole[name] = torch.stack([frame[name] for frame in latents], 1)
    return Sample(torch.stack(frames, 1), {name: whole[name] for name in model.spec.latents}, stack(steps))


def all_at_once(
    model: Any,
    num_steps: int,
    batch_size: int,
    prefix: Tensor | None,
    inferred: dict[str, Tensor],
    u: Tensor | None,
    emission: Emission,
    generator: Generator | None,
    seen: Tensor | None = None,
) -> Sample:
    """`generate` of a model that decodes all frames at once: first every latent vector, then the frames.

    That is possible where the latent vectors' priors depend on nothing, as in the noncausal RVAE; `_generate` tells
    them at any values. In a continuation, the latents of the new frames are drawn from them; so what was inferred from
    the prefix stays.
    """
    parents = model.spec.compact("generation")
    if any(parents[f"{name}_t" if model.spec.is_framewise(name) else name] for name in model.spec.latents):
        raise NotImplementedError(
            f"{type(model).__name__} generates all frames together, and its latents have a prior that depends on "
            "others: it needs a `generate` of its own"
        )
    parameter = next(model.parameters())
    start = 0 if prefix is None else prefix.shape[1]
    total = start + num_steps
    blank = parameter.new_zeros(batch_size, total, model.x_dim)  # not looked at: there is no predictive link
    values = {
        name: parameter.new_zeros(*shape[:-1], _size(model, name))
        for name, shape in model.latent_shapes(batch_size, total).items()
    }
    prior = model._generate(blank, values, u, None, {}).prior
    for name in values:
        values[name] = sample(prior[name], generator)
        if name in inferred:
            values[name][:, : inferred[name].shape[1]] = inferred[name]
    observation: Distribution = model._generate(blank, values, u, None, {}).observation[:, start:]
    new = {name: value[:, start:] if name in model.frame_latents else value for name, value in values.items()}
    return Sample(_emit(observation, emission, generator), new, observation)


def _emit(observation: Distribution, emission: Emission, generator: Generator | None) -> Tensor:
    """What x_t is taken to be: a sample, or the mean."""
    # Not every family of torch takes a generator; all of ours do.
    if emission == "mean":
        return observation.mean
    return observation.sample(generator=generator)  # type: ignore[call-arg]


# ---------------------------------------------------------------- a model that is fed its own output


def rollout(
    model: Any,
    x: Tensor,
    latents: Mapping[str, Tensor],
    u: Tensor | None,
    feedback: float,
    generator: Generator | None,
    gaps: "Gaps | None" = None,
) -> Generated:
    """`generation` of a causal model that is fed its own output; gradients flow through what is fed back.

    What was not observed is the model's own output, too: see `dvae_lib.objectives.missing`.
    """
    own = torch.rand(x.shape[:2], generator=generator, device=x.device) < feedback
    known = [x, own, *([] if u is None else [u]), *(latents[name] for name in model.spec.latents)]
    of_sequence = Given({name: latents[name] for name in model.sequence_latents})
    if of_sequence.values:
        model._initial_state(len(x), of_sequence)
    if model.replay is None or gaps is not None:
        priors, observations = _rolled_out(model, *known, gaps=gaps)
        return Generated(
            {**of_sequence.prior, **{name: stack(steps) for name, steps in priors.items()}}, stack(observations)
        )
    # A recording gives back tensors; the first frame tells what they are the parameters of.
    with torch.no_grad():
        first = (v[:, :1] if v.ndim > 2 or v.dtype == torch.bool else v for v in known)
        priors, observations = _rolled_out(model, *first)
    outputs = list(model.replay("fed_back_recursion", *known))
    prior = {name: _like(steps[0], outputs) for name, steps in priors.items()}
    return Generated({**of_sequence.prior, **prior}, _like(observations[0], outputs))


def rollout_parameters(model: Any, *known: Tensor) -> tuple[Tensor, ...]:
    """The parameters of all priors, then of all observation models, in generation mode."""
    priors, observations = _rolled_out(model, *known)
    return tuple(p for steps in (*priors.values(), observations) for p in _parameters(stack(steps)))


class Gaps:
    """What is missing, and is made from the distribution of its frame where later ones look back on it.

    Arguments:
        seen: What was observed, (B, T, x_dim).
        how: How a value is made of the distribution of what is missing.
        generator: Source of randomness.

    Attributes:
        filled: The frames so far, without gaps.
    """

    def __init__(self, seen: Tensor, how: Draw = "sample", generator: Generator | None = None) -> None:
        self.seen, self.how, self.generator = seen, how, generator
        self.filled: list[Tensor] = []
        self.incomplete: list[bool] = (~seen).any(2).any(0).tolist()

    def fill(self, x_t: Tensor, observation: Distribution) -> Tensor:
        """The next frame, without gaps; gradients flow through what is made where the family allows it."""
        t = len(self.filled)
        if self.incomplete[t]:
            x_t = torch.where(self.seen[:, t], x_t, drawn(observation, self.how, self.generator))
        self.filled.append(x_t)
        return x_t


def _rolled_out(
    model: Any, x: Tensor, own: Tensor, *others: Tensor, gaps: Gaps | None = None
) -> tuple[dict[str, list[Distribution]], list[Distribution]]:
    """Frame by frame, where `own` says so after the model's own last output. Others: u if driven, the latents."""
    u, values = (others[0], others[1:]) if model.u_dim else (None, others)
    given = dict(zip(model.spec.latents, values, strict=True))
    state = model._initial_state(len(x), Given({name: given[name] for name in model.sequence_latents}))
    # Unbound once: indexing frame by frame, each would have a gradient as large as the whole sequence's.
    frames = {name: given[name].unbind(1) for name in model.frame_latents}
    read = model.read(x).unbind(1) if gaps is None else ()
    x_prev = torch.zeros_like(x[:, 0])
    priors: dict[str, list[Distribution]] = {name: [] for name in frames}
    observations: list[Distribution] = []
    for t in range(x.shape[1]):
        draws = Given({name: value[t] for name, value in frames.items()})
        observation, state = model._step(state, x_prev, None if u is None else u[:, t], draws)
        for name, prior in draws.prior.items():
            priors[name].append(prior)
        observations.append(observation)
        x_t = read[t] if gaps is None else model.read(gaps.fill(x[:, t], observation))
        x_prev = torch.where(own[:, t, None], model.read(observation.mean), x_t)
    return priors, observations


def stack(steps: list[Distribution]) -> Distribution:
    """Distributions of single frames as one, along a time dimension after the batch."""
    parameters = zip(*map(_parameters, steps), strict=True)
    return type(steps[0])(*(torch.stack(p, 1) for p in parameters))  # type: ignore[arg-type]


def _parameters(distribution: Any) -> tuple[Tensor, ...]:
    parameters: tuple[Tensor, ...] = distribution.parameters
    return parameters


def _like(step: Distribution, outputs: list[Tensor]) -> Distribution:
    """The distribution of all frames whose parameters come next among the outputs; they are taken from the list."""
    count = len(_parameters(step))
    parameters, outputs[:] = outputs[:count], outputs[count:]
    return type(step)(*parameters)  # type: ignore[arg-type]


# ---------------------------------------------------------------- steps that follow from whole sequences


def empty_history(model: Any, batch_size: int, draws: Given) -> State:
    """The state of a model that remembers everything: no frame yet, and the latents of the whole sequence."""
    parameter = next(model.parameters())

    def blank(num_steps: int, size: int) -> Tensor:
        zeros: Tensor = parameter.new_zeros(batch_size, num_steps, size)
        return zeros

    state = {"x": blank(0, model.x_dim), "u": blank(0, model.u_dim)}
    for name in model.frame_latents:
        state[name] = blank(0, _size(model, name))
    if model.sequence_latents:  # their priors look at no frame
        values = {name: blank(1, _size(model, name)) for name in model.frame_latents}
        values |= {name: blank(1, _size(model, name))[:, 0] for name in model.sequence_latents}
        u = blank(1, model.u_dim) if model.u_dim else None
        prior = model._generate(blank(1, model.x_dim), values, u, None, {}).prior
        state |= {name: draws(name, prior[name]) for name in model.sequence_latents}
    return state


def step_from_history(
    model: Any, state: State, x_prev: Tensor, u_t: Tensor | None, draws: Given
) -> tuple[Distribution, State]:
    """One frame by `_generate` on all frames so far: right for every causal model, and slow for long sequences."""
    equations = (variable.removesuffix("_t") for variable in model.spec.compact("generation"))
    names = [name for name in equations if name in model.frame_latents]  # in the order in which they are generated
    begun = state["u"].shape[1] > 0
    x_past = torch.cat([state["x"], x_prev[:, None]], 1) if begun else state["x"]
    # Of an undriven model the inputs have no entries, and count the frames.
    u = torch.cat([state["u"], (x_prev[:, :0] if u_t is None else u_t)[:, None]], 1)
    # The last frame of x, and of a latent that is not drawn yet, is a blank: in a causal model it is not looked at.
    x, values = F.pad(x_past, (0, 0, 0, 1)), {name: F.pad(state[name], (0, 0, 0, 1)) for name in names}
    whole = {name: state[name] for name in model.sequence_latents}
    driving = None if u_t is None else u
    for name in names:
        prior = model._generate(x, {**whole, **values}, driving, None, {}).prior[name][:, -1]
        values[name] = torch.cat([state[name], draws(name, prior)[:, None]], 1)
    observation = model._generate(x, {**whole, **values}, driving, None, {}).observation[:, -1]
    return observation, {"x": x_past, "u": u, **whole, **values}


def _size(model: Any, name: str) -> int:
    size: int = model.latent_dim(name)
    if size == 0:
        raise NotImplementedError(
            f"{type(model).__name__} does not say the size of its latent variable {name!r}: set {name}_dim"
        )
    return size


# ---------------------------------------------------------------- inference by proposals, and the reverse


def inferred_in_turn(model: Any, x: Tensor, u: Tensor | None, lengths: Tensor | None, draws: Draws) -> Inferred:
    """`_infer` of a model that has proposals: one frame after the other, beside the generator."""
    if not model.is_causal:
        raise NotImplementedError(
            f"{type(model).__name__} generates all frames together, so inference does not follow from proposals beside "
            "its steps: it needs _infer"
        )
    context = model._context(x, u, lengths, draws, Past())
    state, _ = model._begin(len(x), {name: latent.sample for name, latent in context.latents.items()}, draws.generator)
    steps = []
    for t in range(x.shape[1]):
        given = {name: value[:, t] for name, value in draws.given.items() if name in model.frame_latents}
        u_t = None if u is None else u[:, t]
        proposal = model._proposal(state, context.at(t), x[:, t], u_t, given, draws.how, draws.generator)
        steps.append(proposal.latents)
        state = proposal.state
    latents = dict(context.latents)
    for name in model.frame_latents:
        values, posteriors = ([getattr(step[name], part) for step in steps] for part in ("sample", "posterior"))
        latents[name] = Latent(torch.stack(values, 1), stack(posteriors))
        if isinstance(whole := latents[name].posterior, Flow):
            whole.remember(latents[name].sample, list(zip(posteriors, values, strict=True)))
    return Inferred(latents, context.states)


def whole_sequences(
    model: Any, x: Tensor, u: Tensor | None, lengths: Tensor | None, generator: Generator | None
) -> tuple[Context, State]:
    """The context and state of a model without a proposal per frame: all frames, and values of all latents so far."""
    latents = model._assigned(model._infer(x, u, lengths, Draws(generator=generator)).latents)
    of_sequence = {name: latents[name] for name in model.sequence_latents}
    state, prior = model._begin(len(x), {name: latent.sample for name, latent in of_sequence.items()}, generator)
    state, _, x_prev = split_state(state)
    history = {f"history {name}": torch.zeros_like(latents[name].sample) for name in model.frame_latents}
    history |= {f"history {name}": latent.sample for name, latent in of_sequence.items()}
    num_steps = x.shape[1]
    counted = torch.arange(num_steps, device=x.device).expand(len(x), -1)
    frames = {"frame": counted, "x": x[:, None].expand(-1, num_steps, -1, -1)}
    if u is not None:
        frames["u"] = u[:, None].expand(-1, num_steps, -1, -1)
    if lengths is not None:
        frames["lengths"] = lengths[:, None].expand(-1, num_steps)
    context = Context(frames, {name: latent._replace(prior=prior[name]) for name, latent in of_sequence.items()})
    return context, merged_state(state, {**history, "frame": counted[:, 0]}, x_prev)


def posterior_from_history(
    model: Any, name: str, memory: State, drawn: Values, context_t: Mapping[str, Tensor]
) -> Distribution:
    """The posterior of a frame's latent by inference on whole sequences, given the latents drawn before."""
    # With the latents of this very frame that have been drawn already.
    remembered = remember_history(memory, drawn, None)
    values = {key.removeprefix("history "): v for key, v in remembered.items() if key.startswith("history ")}
    found = model._infer(context_t["x"], context_t.get("u"), context_t.get("lengths"), Draws(values)).latents[name]
    posterior: Distribution = found.posterior[:, int(context_t["frame"][0])]
    return posterior


def remember_history(memory: State, latents: Values, u_t: Tensor | None) -> State:
    """The memory of all latents so far, with those of one frame more."""
    t = int(memory["frame"][0])
    updated = dict(memory)
    for name, value in latents.items():
        updated[f"history {name}"] = memory[f"history {name}"].clone()
        updated[f"history {name}"][:, t] = value
    return {**updated, "frame": memory["frame"] + 1}


# ---------------------------------------------------------------- models that write a public method themselves


def inference_of_its_own(model: Any, x: Tensor, u: Tensor | None, lengths: Tensor | None, draws: Draws) -> Inferred:
    """`_infer` of a model that writes `inference`."""
    options: dict[str, Any] = {"latents": draws.given or None, "draw": draws.how, "generator": draws.generator}
    return Inferred(model.inference(x, u, lengths=lengths, **options))


def generation_of_its_own(
    model: Any,
    x: Tensor,
    latents: Mapping[str, Tensor],
    u: Tensor | None,
    lengths: Tensor | None,
    states: Mapping[str, Tensor],
) -> Generated:
    """`_generate` of a model that writes `generation`."""
    generated: Generated = model.generation(x, latents, u, lengths=lengths)
    return generated


def initial_state_of_its_own(model: Any, batch_size: int, draws: Given) -> State:
    """`_initial_state` of a model that writes `initial_state`."""
    state: State = model.initial_state(batch_size, **draws.values)
    return state


def step_of_its_own(
    model: Any, state: State, x_prev: Tensor, u_t: Tensor | None, draws: Given
) -> tuple[Distribution, State]:
    """`_step` of a model that writes `step`."""
    if isinstance(draws, Proposed):
        raise NotImplementedError(f"{type(model).__name__} writes step: for proposals it needs _step")
    given = {f"{name}_t": value for name, value in draws.values.items()}
    out = model.step(state, x_prev, u_t, generator=draws.generator, **given)
    draws.prior.update(out.prior)
    draws.latents.update(out.latents)
    return out.observation, out.state
