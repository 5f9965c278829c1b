r"""The contract that every dynamical variational autoencoder fulfils: public doors here, equations in the models.

A public method checks what comes in, once and for all models, and calls what the model has written.
"""

import operator
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.distributions import Distribution

from dvae_lib.devices import Device, computed_on
from dvae_lib.distributions import DiagonalGaussian
from dvae_lib.graphs import DependencySpec
from dvae_lib.graphs.links import Links, links
from dvae_lib.models import generating
from dvae_lib.models.checks import (
    check_latents,
    check_lengths,
    check_probability,
    check_sequences,
    warn_of_raw_data,
)
from dvae_lib.models.draws import Context, Draw, Draws, Given, Inferred, Past, Proposed, State, noise
from dvae_lib.models.filtering import Filter
from dvae_lib.models.generating import Sample
from dvae_lib.models.saving import Pretrained
from dvae_lib.objectives import (
    VLB,
    DVAEOutput,
    Generated,
    Latent,
    frame_mask,
    importance_weighted,
    particle,
    variational_lower_bound,
    vlb,
)
from dvae_lib.objectives.importance import repeat
from dvae_lib.objectives.terms import Lengths, as_lengths

__all__ = [
    "DVAE",
    "Context",
    "Draw",
    "Draws",
    "Given",
    "Inferred",
    "Lengths",
    "Past",
    "Proposal",
    "Sample",
    "State",
    "StepOutput",
    "check_sequences",
    "noise",
]

HOOKS = {"inference": "_infer", "generation": "_generate", "step": "_step", "initial_state": "_initial_state"}


class StepOutput(NamedTuple):
    """One frame of generation: priors and values of its latents, p(x_t | .), the state for the next frame."""

    prior: dict[str, Distribution]
    latents: dict[str, Tensor]
    observation: Distribution
    state: State


class Proposal(NamedTuple):
    """One frame of inference: its latents (drawn, with posteriors and priors), p(x_t | .), the state for the next."""

    latents: dict[str, Latent]
    observation: Distribution
    state: State


class DVAE(Pretrained):
    r"""A generative model of sequences with latent variables, and an inference model, trained together.

    A subclass declares its `spec` (who depends on whom) and writes what the equations say:

    - `_generate`: the conditionals of all frames, given whole sequences;
    - `_context` and `_propose`: what inference takes from the data beforehand, and the posterior of one frame. From the
      two follow inference, the filter and the particle bound. Or `_infer`, the posteriors of all frames, instead of the
      two or, for speed, beside them;
    - `_initial_state` and `_step`, if generation is causal: one frame after the other. Without them steps follow from
      `_generate` on all frames so far, which is right, and slow for long sequences.

    All else follows. The vectors of a latent variable ``a`` have the size `a_dim`. A class that writes a public method
    itself is taken at its word: it is called for its hook everywhere.

    Arguments:
        x_dim: Size F of the observed vectors.
        z_dim: Size L of the latent vectors; 0 for a model without latent variables.
        observation: The family of p(x_t | .), such as "gaussian", "gaussian(scale=0.01)", "gamma" or "bernoulli"; or
            one of your own, registered by `dvae_lib.distributions.register_observation`.
        u_dim: Size of the input vectors; 0 where the model is undriven.

    Attributes:
        replay: What runs a recursion in its place, while training asks for it.
    """

    spec: DependencySpec
    replay: Callable[..., tuple[Tensor, ...]] | None = None

    def __init__(self, x_dim: int, z_dim: int, *, observation: str = "gaussian", u_dim: int = 0) -> None:
        if type(self) is DVAE:
            raise TypeError("DVAE is what all models have in common: build one of them, or write a subclass")
        super().__init__()
        spec = getattr(self, "spec", None)
        least = 0 if spec is not None and not spec.latents else 1
        for name, size, smallest in (("x_dim", x_dim, 1), ("z_dim", z_dim, least), ("u_dim", u_dim, 0)):
            if isinstance(size, bool) or not isinstance(size, int | np.integer) or size < smallest:
                raise ValueError(f"{name} must be an integer of at least {smallest}; got {size!r}")
        self.x_dim, self.z_dim, self.u_dim = (operator.index(size) for size in (x_dim, z_dim, u_dim))
        self.observation = observation

    def __init_subclass__(cls, **options: Any) -> None:
        """Let a public method that a class writes itself stand for its hook."""
        super().__init_subclass__(**options)
        for door, hook in HOOKS.items():
            if door in vars(cls) and hook not in vars(cls):
                setattr(cls, hook, getattr(generating, f"{door}_of_its_own"))
            elif hook in vars(cls) and door not in vars(cls):
                setattr(cls, door, getattr(DVAE, door))

    # ---------------------------------------------------------------- what a model writes

    def _infer(self, x: Tensor, u: Tensor | None, lengths: Tensor | None, draws: Draws) -> Inferred:
        r"""The inference model :math:`q_\phi(\mathbf{z}_{1:T} | \mathbf{x}_{1:T}, \mathbf{u}_{1:T})`, sampled in order.

        By default from the context and the proposals: all frames at once where the latents of a frame depend on no
        other latents of frames, by the spec; else one frame after the other, beside the generator's steps. A model
        that is trained a lot writes its own loop, with what recurs alone.
        """
        if _latents_recur(self.spec):
            return generating.inferred_in_turn(self, x, u, lengths, draws)
        context = self._context(x, u, lengths, draws, Past())
        latents = {name: draws(name, self._propose(name, context.frames, {})) for name in self.frame_latents}
        return Inferred({**context.latents, **latents}, context.states)

    def _generate(
        self,
        x: Tensor,
        latents: Mapping[str, Tensor],
        u: Tensor | None,
        lengths: Tensor | None,
        states: Mapping[str, Tensor],
    ) -> Generated:
        r"""The conditionals :math:`p(\mathbf{z}_t | \cdot)` and :math:`p(\mathbf{x}_t | \cdot)` given whole sequences.

        Arguments:
            x: The observed sequences; their past is looked at by predictive models (teacher forcing).
            latents: Values of all latent variables.
            u: The input sequences of a driven model.
            lengths: The sequences' lengths in a padded batch.
            states: What `_infer` has computed already; empty where the latents come from elsewhere.
        """
        raise NotImplementedError(
            f"{type(self).__name__} needs _generate: p(z_t | .) and p(x_t | .) of whole sequences"
        )

    def _initial_state(self, batch_size: int, draws: Given) -> State:
        """The generator's state before the first frame. Latents of the whole sequence are drawn, and kept, here."""
        return generating.empty_history(self, batch_size, draws)

    def _step(self, state: State, x_prev: Tensor, u_t: Tensor | None, draws: Given) -> tuple[Distribution, State]:
        """One frame: latents are drawn in the order of the equations; p(x_t | .), and the next state."""
        return generating.step_from_history(self, state, x_prev, u_t, draws)

    def _context(self, x: Tensor, u: Tensor | None, lengths: Tensor | None, draws: Draws, past: Past) -> Context:
        """What the posteriors look at in the data; latents of the whole sequence are drawn here."""
        raise NotImplementedError(
            f"{type(self).__name__} has neither _infer nor a _context that its posteriors are made from"
        )

    def _propose(self, name: str, context: Mapping[str, Tensor], known: Mapping[str, Tensor]) -> Distribution:
        """The posterior of a latent of a frame, from the context and what the latents before have led to.

        Of one frame or of all: `context` and `known` have the same leading dimensions.
        """
        raise NotImplementedError(f"{type(self).__name__} has no proposal for single frames: it needs _propose")

    def _initial_memory(self, batch_size: int) -> State:
        """What the inference model remembers of the latents and the generator does not; before the first frame."""
        return {}

    def _remember(self, memory: State, latents: Mapping[str, Tensor], u_t: Tensor | None) -> State:
        """The memory after a frame with these latents."""
        return memory

    def _auxiliary(
        self, x: Tensor, latents: Mapping[str, Tensor], lengths: Tensor | None, states: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Training terms beside the bound, each of shape (B,)."""
        return {}

    def recursion(self, *known: Any) -> tuple[Tensor, ...]:
        """The one loop over frames of a model whose inference is recursive, as a function of tensors alone.

        A model calls it through `run_recursion`. Whatever else it reads, such as a number in an attribute, stays in a
        recording as it was. It gives all z_t first, and last the outputs that hold mean and log-variance of q(z_t | .).
        """
        raise NotImplementedError

    # ---------------------------------------------------------------- what the spec says

    @property
    def links(self) -> Links:
        """What kind of model it is, by its spec: Section 4.5."""
        return links(self.spec)

    @property
    def is_causal(self) -> bool:
        """Whether no frame is generated from later ones, by the spec."""
        return links(self.spec).causal

    @property
    def frame_latents(self) -> tuple[str, ...]:
        """The latent variables that every frame has, in the order of the inference block."""
        return tuple(name for name in self.spec.latents if self.spec.is_framewise(name))

    @property
    def sequence_latents(self) -> tuple[str, ...]:
        """The latent variables that the sequence has as a whole."""
        return tuple(name for name in self.spec.latents if not self.spec.is_framewise(name))

    @property
    def frames_are_independent(self) -> bool:
        """Whether frames have to do with each other neither at generation nor at inference, by the spec."""
        return _frames_are_independent(self.spec)

    @property
    def has_proposal(self) -> bool:
        """Whether the inference model runs frame by frame, beside the generator: `context` and `propose`.

        Not where a class writes `_infer` anew and leaves its parent's proposals.
        """
        newest = next(c for c in type(self).__mro__ if vars(c).keys() & {"_infer", "_context", "_propose"})
        return newest is not DVAE and bool(vars(newest).keys() & {"_context", "_propose"}) and self.is_causal

    def latent_dim(self, name: str) -> int:
        """The size of a latent variable's vectors."""
        return int(getattr(self, f"{name}_dim", 0))

    def latent_shapes(self, batch_size: int, num_steps: int) -> dict[str, tuple[int, ...]]:
        """The shapes of all latent variables' values; a size of 0 is one that no attribute names."""
        leading = {True: (batch_size, num_steps), False: (batch_size,)}
        return {name: (*leading[self.spec.is_framewise(name)], self.latent_dim(name)) for name in self.spec.latents}

    # ---------------------------------------------------------------- inference and generation

    def inference(
        self,
        x: Float[Tensor, "batch time x_dim"],
        u: Float[Tensor, "batch time u_dim"] | None = None,
        *,
        lengths: Lengths | None = None,
        latents: Mapping[str, Tensor] | None = None,
        draw: Draw = "sample",
        generator: Generator | None = None,
    ) -> dict[str, Latent]:
        r"""The inference model :math:`q_\phi(\mathbf{z}_{1:T} | \mathbf{x}_{1:T}, \mathbf{u}_{1:T})`, sampled in order.

        Arguments:
            x: The observed sequences.
            u: The input sequences of a driven model.
            lengths: The sequences' lengths in a padded batch.
            latents: Values to condition on; those not given are drawn. A partial dictionary is fine.
            draw: "sample" draws each latent from its posterior, "mean" takes the posterior's mean.
            generator: Source of randomness.

        Returns:
            For each latent variable, the value conditioned on and the parameters of its posterior.

        Raises:
            ValueError, TypeError: See `check`; also for unknown latents, and values of another shape or not finite.
        """
        x, u, lengths = self.admit(x, u, lengths)
        check_latents(latents or {}, self.latent_shapes(*x.shape[:2]))
        _check_draw(draw, "draw")
        return self._said(_written(self, "_infer")(self, x, u, lengths, Draws(latents, draw, generator)).latents)

    def generation(
        self,
        x: Float[Tensor, "batch time x_dim"],
        latents: Mapping[str, Tensor] | None = None,
        u: Float[Tensor, "batch time u_dim"] | None = None,
        *,
        lengths: Lengths | None = None,
        feedback: float = 0.0,
        generator: Generator | None = None,
    ) -> Generated:
        r"""The conditionals :math:`p(\mathbf{z}_t | \cdot)` and :math:`p(\mathbf{x}_t | \cdot)` given whole sequences.

        Arguments:
            x: The observed sequences; their past is the true one (teacher forcing) but for `feedback`.
            latents: Values of all latent variables.
            u: The input sequences of a driven model.
            lengths: The sequences' lengths in a padded batch.
            feedback: Probability, per sequence and frame, that :math:`\mathbf{x}_{t-1}` is replaced by the mean of
                the model's own :math:`p(\mathbf{x}_{t-1} | \cdot)`, with gradients through it: generation mode, or
                scheduled sampling (Section 4.4.1).
            generator: Source of randomness.

        Raises:
            ValueError, TypeError: See `check`; also for latents unknown, missing, of another shape or not finite.
        """
        x, u, lengths = self.admit(x, u, lengths, feedback)
        latents = latents or {}
        check_latents(latents, self.latent_shapes(*x.shape[:2]), complete=True)
        if feedback:
            return generating.rollout(self, x, latents, u, feedback, generator)
        generated: Generated = _written(self, "_generate")(self, x, latents, u, lengths, {})
        return generated

    def forward(
        self,
        x: Float[Tensor, "batch time x_dim"],
        u: Float[Tensor, "batch time u_dim"] | None = None,
        *,
        lengths: Lengths | None = None,
        feedback: float = 0.0,
        draw: Draw = "sample",
        generator: Generator | None = None,
    ) -> DVAEOutput:
        """Infer the latents, then generate from them: what the training objectives are computed from."""
        x, u, lengths = self.admit(x, u, lengths, feedback)
        _check_draw(draw, "draw")
        latents, states = self._infer(x, u, lengths, Draws({}, draw, generator))
        values = {name: latent.sample for name, latent in latents.items()}
        if feedback:
            generated = generating.rollout(self, x, values, u, feedback, generator)
        else:
            generated = self._generate(x, values, u, lengths, states)
        both = {name: q._replace(prior=generated.prior.get(name, q.prior)) for name, q in self._said(latents).items()}
        return DVAEOutput(both, generated.observation, self._auxiliary(x, values, lengths, states))

    def rollout(
        self,
        x: Float[Tensor, "batch time x_dim"],
        latents: Mapping[str, Tensor] | None = None,
        u: Float[Tensor, "batch time u_dim"] | None = None,
        *,
        feedback: float = 1.0,
        generator: Generator | None = None,
    ) -> Generated:
        """`generation` of a predictive model that is fed its own output: generation mode (Section 4.4.1).

        The arguments are those of `generation`. It goes by `step`, also where a class writes `generation` itself.
        """
        return DVAE.generation(self, x, latents, u, feedback=feedback, generator=generator)

    def initial_state(
        self, batch_size: int, *, generator: Generator | None = None, **latents: Float[Tensor, "batch _"]
    ) -> State:
        """The generator's state before the first frame.

        Arguments:
            batch_size: Number of sequences.
            generator: Source of randomness.
            latents: Values of latent variables of the whole sequence, by name; otherwise they are drawn from their
                priors. The state holds them.

        Raises:
            NotImplementedError: If generation is not causal.
        """
        if not self.is_causal:
            raise NotImplementedError(f"{type(self).__name__} does not generate frame by frame; use generate")
        check_latents(latents, {name: (batch_size, self.latent_dim(name)) for name in self.sequence_latents})
        state: State = _written(self, "_initial_state")(self, batch_size, Given(latents, generator))
        return state

    def step(
        self,
        state: State,
        x_prev: Float[Tensor, "batch x_dim"],
        u_t: Float[Tensor, "batch u_dim"] | None = None,
        *,
        generator: Generator | None = None,
        **latents: Float[Tensor, "batch _"],
    ) -> StepOutput:
        """Generate one frame: the latents' priors given the past, their values, p(x_t | .), the next state.

        Arguments:
            state: What `initial_state` or the step before has returned.
            x_prev: The frame before; zeros before the first.
            u_t: The input of this frame, for a driven model.
            generator: Source of randomness.
            latents: Values by name and frame, such as ``z_t=...``; those not given are drawn from their priors.

        Raises:
            NotImplementedError: If generation is not causal.
            ValueError, TypeError: Frames, inputs or latents of other shapes, unknown or not finite.
        """
        if not self.is_causal:
            raise NotImplementedError(f"{type(self).__name__} does not generate frame by frame; use generate")
        self._check_frame(x_prev, u_t)
        given = {name.removesuffix("_t"): value for name, value in latents.items()}
        check_latents(given, {name: (len(x_prev), self.latent_dim(name)) for name in self.frame_latents})
        draws = Given(given, generator)
        observation, state = _written(self, "_step")(self, state, x_prev, u_t, draws)
        return StepOutput(draws.prior, draws.latents, observation, state)

    # ---------------------------------------------------------------- inference frame by frame

    def context(
        self,
        x: Float[Tensor, "batch time x_dim"],
        u: Float[Tensor, "batch time u_dim"] | None = None,
        *,
        lengths: Lengths | None = None,
        latents: Mapping[str, Tensor] | None = None,
        generator: Generator | None = None,
    ) -> Context:
        """What the posteriors of all frames look at in the data; latents of the whole sequence are drawn.

        The arguments are those of `inference`.

        Raises:
            NotImplementedError: Of a model that writes `_infer` as a whole.
        """
        x, u, lengths = self.admit(x, u, lengths)
        check_latents(latents or {}, self.latent_shapes(*x.shape[:2]))
        found = self._context(x, u, lengths, Draws(latents, "sample", generator), Past())
        return found._replace(latents=self._said(found.latents))

    def begin_proposals(
        self,
        x: Float[Tensor, "batch time x_dim"],
        u: Float[Tensor, "batch time u_dim"] | None = None,
        *,
        lengths: Lengths | None = None,
        num_particles: int = 1,
        generator: Generator | None = None,
    ) -> tuple[Context, State]:
        """The context, its latents with their priors, and the state that `propose` starts from.

        Particles stand one after the other: the whole batch, and again the whole batch. Where they would all have the
        same context, it is given once, with the batch's own size. For a model without a proposal per frame the context
        holds all frames, and each costs a pass over them.
        """
        x, u, lengths = self.admit(x, u, lengths)
        rows = num_particles * len(x)
        if self.sequence_latents or not self.has_proposal:
            x, u, lengths = x.repeat(num_particles, 1, 1), repeat(u, num_particles), repeat(lengths, num_particles)
        if not self.has_proposal:
            return generating.whole_sequences(self, x, u, lengths, generator)
        context = self._context(x, u, lengths, Draws(generator=generator), Past())
        context = context._replace(latents=self._said(context.latents))
        values = {name: latent.sample for name, latent in context.latents.items()}
        state, prior = self._begin(rows, values, generator)
        latents = {name: latent._replace(prior=prior[name]) for name, latent in context.latents.items()}
        return context._replace(latents=latents), state

    def propose(
        self,
        state: State,
        context_t: Mapping[str, Tensor],
        x_t: Float[Tensor, "batch x_dim"],
        u_t: Float[Tensor, "batch u_dim"] | None = None,
        *,
        generator: Generator | None = None,
        **latents: Float[Tensor, "batch _"],
    ) -> Proposal:
        r"""One frame of inference and generation: what `inference` does to whole sequences, one frame after the other.

        Arguments:
            state: From `begin_proposals`, or the proposal of the frame before.
            context_t: `Context.at` this frame.
            x_t: The frame, which predictive models look back on in the next one.
            u_t: The input of this frame, for a driven model.
            generator: Source of randomness.
            latents: Values by name and frame, such as ``z_t=...``; those not given are drawn from their posteriors.
        """
        given = {name.removesuffix("_t"): value for name, value in latents.items()}
        return self._proposal(state, context_t, x_t, u_t, given, "sample", generator)

    def _proposal(
        self,
        state: State,
        context_t: Mapping[str, Tensor],
        x_t: Tensor,
        u_t: Tensor | None,
        given: Mapping[str, Tensor],
        how: Draw,
        generator: Generator | None,
    ) -> Proposal:
        generators, memory, x_prev = _parts(state)

        def posterior(name: str, known: Mapping[str, Tensor]) -> Distribution:
            return self._propose(name, context_t, {**memory, **known})

        own = self.has_proposal
        proposing = posterior if own else generating.posterior_from_history(self, memory, context_t)
        draws = Proposed(proposing, given, how, generator)
        observation, following = self._filter_step(generators, x_prev, u_t, draws)
        remember = self._remember if own else generating.remember_history
        memory = remember(memory, draws.latents, u_t)
        found = {name: Latent(z, draws.posterior[name], draws.prior[name]) for name, z in draws.latents.items()}
        return Proposal(found, observation, _joined(following, memory, x_t))

    def filter(
        self,
        batch_size: int = 1,
        *,
        num_particles: int = 100,
        threshold: float = 0.5,
        generator: Generator | None = None,
    ) -> Filter:
        """A filter that takes one frame after the other and says what it makes of it, in constant memory.

        Arguments:
            batch_size: Number of sequences that run side by side.
            num_particles: Number of particles of each.
            threshold: Resample where the effective sample size falls below this fraction of the particles.
            generator: Source of randomness.

        Raises:
            NotImplementedError: Of a model that is not causal, or has no proposal per frame.
        """
        if not self.has_proposal:
            raise NotImplementedError(
                f"{type(self).__name__} cannot filter frame by frame: its generation must be causal, and its inference "
                "model written as _context and _propose"
            )
        return Filter(self, batch_size, num_particles, threshold=threshold, generator=generator)

    def _begin(
        self, batch_size: int, values: Mapping[str, Tensor], generator: Generator | None
    ) -> tuple[State, dict[str, Distribution]]:
        """The state before the first frame, and the priors of the latents of the whole sequence."""
        draws = Given(values, generator)
        state = self._filter_initial_state(batch_size, draws)
        blank = next(self.parameters()).new_zeros(batch_size, self.x_dim)
        return _joined(state, self._initial_memory(batch_size), blank), draws.prior

    def _filter_initial_state(self, batch_size: int, draws: Given) -> State:
        """`_initial_state`, for a model that filters with fewer latents than it generates with."""
        return self._initial_state(batch_size, draws)

    def _filter_step(
        self, state: State, x_prev: Tensor, u_t: Tensor | None, draws: Given
    ) -> tuple[Distribution, State]:
        """`_step`, for a model that filters with fewer latents than it generates with."""
        return self._step(state, x_prev, u_t, draws)

    def _filtered(self, state: State) -> dict[str, tuple[Tensor, Tensor]]:
        """Mean and variance, per particle, of latents that the filter integrates out."""
        return {}

    # ---------------------------------------------------------------- bounds

    def vlb(
        self,
        x: Float[Tensor, "batch time x_dim"],
        u: Float[Tensor, "batch time u_dim"] | None = None,
        *,
        lengths: Lengths | None = None,
        beta: float = 1.0,
        num_samples: int = 1,
        feedback: float = 0.0,
        kl: Literal["analytic", "sampled"] = "analytic",
        generator: Generator | None = None,
    ) -> VLB:
        r"""The variational lower bound of each sequence, Eqs. (2.23) and (4.24), in nats.

        Arguments:
            x: The observed sequences.
            u: The input sequences of a driven model.
            lengths: The sequences' lengths in a padded batch.
            beta: Weight of the KL terms.
            num_samples: Number R of samples that the expectation is estimated with.
            feedback: Probability that the generative model is fed its own output instead of the true past.
            kl: "analytic" (closed form where there is one) or "sampled".
            generator: Source of randomness.
        """
        options: dict[str, Any] = {"lengths": lengths, "beta": beta, "feedback": feedback, "generator": generator}
        return vlb(self, x, u, num_samples=num_samples, kl=kl, **options)

    def single_sample_bound(
        self,
        x: Float[Tensor, "batch time x_dim"],
        u: Float[Tensor, "batch time u_dim"] | None = None,
        *,
        lengths: Lengths | None = None,
        beta: float = 1.0,
        feedback: float = 0.0,
        kl: Literal["analytic", "sampled"] = "analytic",
        generator: Generator | None = None,
    ) -> VLB:
        """`vlb` with one sample: what a model with a bound of its own writes anew."""
        lengths = as_lengths(lengths, x)
        output = self(x, u, lengths=lengths, feedback=feedback, generator=generator)
        return variational_lower_bound(output, x, lengths=lengths, beta=beta, kl=kl)

    @torch.no_grad()
    def importance_weighted_bound(
        self,
        x: Float[Tensor, "batch time x_dim"],
        u: Float[Tensor, "batch time u_dim"] | None = None,
        *,
        lengths: Lengths | None = None,
        num_samples: int = 100,
        chunk_size: int = 10,
        feedback: float = 0.0,
        generator: Generator | None = None,
        device: Device = None,
    ) -> Float[Tensor, " batch"]:
        r"""The importance-weighted bound of :math:`\log p_\theta(\mathbf{x}_{1:T})`, in nats per sequence.

        To train on it, see `dvae_lib.objectives.importance_weighted`.

        Arguments:
            x: The observed sequences.
            u: The input sequences of a driven model.
            lengths: The sequences' lengths in a padded batch.
            num_samples: Number K of samples; in expectation the bound rises with it.
            chunk_size: How many samples are held in memory at once.
            feedback: As in `vlb`: 0 bounds the likelihood of the model under teacher forcing, 1 that of the model in
                generation mode, in which frames are independent given the latents.
            generator: Source of randomness.
            device: Where to compute: "auto" takes the machine's GPU where it has one; by default where the model is.
                The result lies where the model lies.

        Source: Burda, Grosse and Salakhutdinov (2016), "Importance weighted autoencoders".
        """
        options: dict[str, Any] = {"num_samples": num_samples, "chunk_size": chunk_size, "feedback": feedback}
        options |= {"lengths": lengths, "generator": generator}
        if device is not None:
            return computed_on(device, type(self).importance_weighted_bound, self, x, u, **options)
        return importance_weighted(self, x, u, **options).value

    @torch.no_grad()
    def smc_bound(
        self,
        x: Float[Tensor, "batch time x_dim"],
        u: Float[Tensor, "batch time u_dim"] | None = None,
        *,
        lengths: Lengths | None = None,
        num_particles: int = 100,
        threshold: float = 0.5,
        generator: Generator | None = None,
        device: Device = None,
    ) -> Float[Tensor, " batch"]:
        r"""A particle bound of :math:`\log p_\theta(\mathbf{x}_{1:T})`, in nats per sequence.

        See `dvae_lib.objectives.particle`, which one can train on. On long sequences it needs far fewer particles than
        `importance_weighted_bound` needs samples, because it gives up unlikely particles on the way. The exception is a
        proposal that looks ahead and is nearly exact: there `threshold=0` is better, which never resamples and is the
        importance-weighted bound.

        Arguments:
            x: The observed sequences.
            u: The input sequences of a driven model.
            lengths: The sequences' lengths in a padded batch.
            num_particles: Number of particles.
            threshold: Resample where the effective sample size falls below this fraction of the particles.
            generator: Source of randomness.
            device: See `importance_weighted_bound`.

        Raises:
            NotImplementedError: If generation is not causal: the weight of a frame would need future latents.

        Source: Maddison et al. (2017), "Filtering variational objectives"; Naesseth et al. (2018); Le et al. (2018).
        """
        options: dict[str, Any] = {"num_particles": num_particles, "threshold": threshold}
        options |= {"lengths": lengths, "generator": generator}
        if device is not None:
            return computed_on(device, type(self).smc_bound, self, x, u, **options)
        return particle(self, x, u, **options).value

    # ---------------------------------------------------------------- sequences

    def reconstruct(
        self,
        x: Float[Tensor, "batch time x_dim"],
        u: Float[Tensor, "batch time u_dim"] | None = None,
        *,
        lengths: Lengths | None = None,
        feedback: float = 0.0,
        latents: Draw = "sample",
        generator: Generator | None = None,
    ) -> Distribution:
        """Analysis-resynthesis: p(x_t | .) at the latents inferred from x.

        Arguments:
            x: The observed sequences.
            u: The input sequences of a driven model.
            lengths: The sequences' lengths in a padded batch.
            feedback: As in `vlb`.
            latents: Condition on a sample of the posterior, or on its mean (drawn frame by frame where the
                posterior is recursive).
            generator: Source of randomness.
        """
        _check_draw(latents, "latents")
        output: DVAEOutput = self(x, u, lengths=lengths, feedback=feedback, draw=latents, generator=generator)
        return output.observation

    @torch.no_grad()
    def generate(
        self,
        num_steps: int,
        batch_size: int = 1,
        *,
        prefix: Float[Tensor, "batch start x_dim"] | None = None,
        u: Float[Tensor, "batch time u_dim"] | None = None,
        emission: Literal["sample", "mean"] = "sample",
        generator: Generator | None = None,
        device: Device = None,
    ) -> Sample:
        """New sequences from the prior, or the continuation of sequences that were analysed (Section 13.3.2).

        Arguments:
            num_steps: Number of new frames.
            batch_size: Number of sequences; with `prefix`, that of the prefix.
            prefix: Sequences to continue: their latents are inferred, then generation goes on alone. The
                returned frames are those after the prefix.
            u: The inputs of a driven model, over the prefix (if any) and the new frames.
            emission: What x_t is, and what is fed back: a sample of p(x_t | .) or its mean.
            generator: Source of randomness.
            device: See `importance_weighted_bound`.
        """
        if num_steps < 1 or batch_size < 1:
            raise ValueError(f"num_steps and batch_size must be at least 1; got {num_steps} and {batch_size}")
        _check_draw(emission, "emission")
        if device is not None:
            options: dict[str, Any] = {"prefix": prefix, "u": u, "emission": emission, "generator": generator}
            return computed_on(device, type(self).generate, self, num_steps, batch_size, **options)
        parameter = next(self.parameters())
        start = 0
        if prefix is not None:
            extremes = check_sequences(prefix, "prefix", self.x_dim, parameter, observation=self.observation)
            warn_of_raw_data(prefix, "prefix", extremes, self, "standardizer")
            batch_size, start = prefix.shape[:2]
        wanted = (batch_size, start + num_steps, self.u_dim) if self.u_dim else None
        got = None if u is None else tuple(u.shape)
        if wanted != got:
            frames = f"{start} frames of the prefix and {num_steps} new ones" if start else f"{num_steps} new frames"
            raise ValueError(f"expected {f'u of shape {wanted}' if wanted else 'no u'}, for {frames}; got {got}")
        if u is not None:
            extremes = check_sequences(u, "u", self.u_dim, parameter)
            warn_of_raw_data(u, "u", extremes, self, "input_standardizer")
        inferred: dict[str, Tensor] = {}
        if prefix is not None:
            before = None if u is None else u[:, :start]
            latents = self._infer(prefix, before, None, Draws(generator=generator)).latents
            inferred = {name: latent.sample for name, latent in latents.items()}
        make = generating.in_turn if self.is_causal else generating.together
        return make(self, num_steps, batch_size, prefix, inferred, u, emission, generator)

    # ---------------------------------------------------------------- what is let in

    def check(
        self,
        x: Tensor,
        u: Tensor | None = None,
        lengths: Tensor | None = None,
        feedback: float = 0.0,
    ) -> None:
        """Refuse what the model cannot be run on, saying what was expected.

        Raises:
            ValueError: Wrong shapes, sizes, lengths, non-finite data, data to which the observation model gives no
                probability, feedback outside [0, 1] or on a model whose generation does not look at past
                observations.
            TypeError: Wrong dtypes or devices.
        """
        parameter = next(self.parameters())
        extremes = check_sequences(x, "x", self.x_dim, parameter, observation=self.observation, lengths=lengths)
        warn_of_raw_data(x, "x", extremes, self, "standardizer")
        if self.u_dim == 0 and u is not None:
            raise ValueError("this model was built with u_dim=0 (undriven) and takes no input u")
        if self.u_dim > 0:
            if u is None:
                raise ValueError(
                    f"this model is driven (u_dim={self.u_dim}): pass u of shape (batch, time, {self.u_dim})"
                )
            extremes = check_sequences(u, "u", self.u_dim, parameter)
            warn_of_raw_data(u, "u", extremes, self, "input_standardizer")
            if u.shape[:2] != x.shape[:2]:
                raise ValueError(
                    f"u must have as many sequences and frames as x, {tuple(x.shape[:2])}; got {tuple(u.shape[:2])}"
                )
        if lengths is not None:
            check_lengths(lengths, x)
        check_probability(feedback)
        if feedback > 0.0:
            self.check_feedback()

    def admit(
        self, x: Tensor, u: Tensor | None = None, lengths: Lengths | None = None, feedback: float = 0.0
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """What the model is run on: checked, `lengths` as a tensor, and zeros in the frames beyond them.

        What stands there, such as the 1e20 of a masked array, would overflow in a layer or a density, and infinity
        times the mask's zero is no gradient.

        Raises:
            ValueError, TypeError: See `check`.
        """
        lengths = as_lengths(lengths, x)
        self.check(x, u, lengths, feedback)
        inside = frame_mask(lengths, x.shape[1])
        if inside is None:
            return x, u, None
        zero = x.new_zeros(())
        blanked = None if u is None else torch.where(inside[..., None], u, zero)
        return torch.where(inside[..., None], x, zero), blanked, lengths

    def check_feedback(self) -> None:
        """Refuse a model without a predictive link.

        Raises:
            ValueError: The model does not generate from past observations.
        """
        if not links(self.spec).predictive:
            raise ValueError(
                f"{type(self).__name__} does not generate from past observations: it has no predictive link, so "
                "nothing can be fed back, and there is no scheduled sampling; use feedback=0"
            )

    def _check_frame(self, x_t: Tensor, u_t: Tensor | None) -> None:
        """Refuse single frames that the model cannot be run on."""
        parameter = next(self.parameters())
        if x_t.ndim == 2:
            check_sequences(x_t[:, None], "x_prev", self.x_dim, parameter)
        else:
            raise ValueError(f"x_prev must have shape (batch, {self.x_dim}); got {tuple(x_t.shape)}")
        if (u_t is None) != (self.u_dim == 0) or (u_t is not None and u_t.shape != (len(x_t), self.u_dim)):
            wanted = f"u_t of shape {(len(x_t), self.u_dim)}" if self.u_dim else "no u_t"
            raise ValueError(f"expected {wanted}; got {None if u_t is None else tuple(u_t.shape)}")
        if u_t is not None:
            check_sequences(u_t[:, None], "u_t", self.u_dim, parameter)

    def _said(self, latents: Mapping[str, Latent]) -> dict[str, Latent]:
        """The latents, each with what it belongs to: a frame, or the sequence."""
        framewise = self.spec.is_framewise
        return {name: q if framewise(name) else q._replace(per="sequence") for name, q in latents.items()}

    # ---------------------------------------------------------------- loops

    def run_recursion(self, *known: Tensor) -> tuple[Tensor, ...]:
        """`recursion`, replayed from a CUDA graph where `dvae_lib.models.replay` has been asked for one."""
        return self.recursion(*known) if self.replay is None else self.replay("recursion", *known)

    def in_turn(self, draws: Draws, *known: Tensor) -> tuple[Any, ...]:
        """Latent vectors z of all frames, drawn one after the other by `recursion`; and what else it gives.

        Arguments:
            draws: Whence the noise.
            known: What the recursion is given before the noise; the first of shape (B, T, .).

        Returns:
            The latent, with its posterior; then the recursion's outputs between the values and the parameters.
        """
        epsilon = draws.noise(known[0].new_empty(*known[0].shape[:2], self.z_dim))
        z, *states, output = self.run_recursion(*known, epsilon)
        return Latent(z, DiagonalGaussian.from_output(output)), *states

    def fed_back_recursion(self, *known: Tensor) -> tuple[Tensor, ...]:
        """The loop of generation mode: the parameters of all priors, then of all observation models."""
        return generating.rollout_parameters(self, *known)


def _written(model: DVAE, hook: str) -> Callable[..., Any]:
    """The newest hook in which equations are written; not one that stands for a public method, which may call this."""
    stand_ins = [getattr(generating, f"{door}_of_its_own") for door in HOOKS]
    found: Callable[..., Any] = next(
        vars(c)[hook] for c in type(model).__mro__ if hook in vars(c) and vars(c)[hook] not in stand_ins
    )
    return found


@lru_cache(maxsize=128)
def _latents_recur(spec: DependencySpec) -> bool:
    """Whether a latent of a frame is inferred from others."""
    framewise = {name for name in spec.latents if spec.is_framewise(name)}
    return any(a[0] in framewise and b[0] in framewise for a, b in spec.unroll(3, "inference", "compact").edges)


@lru_cache(maxsize=128)
def _frames_are_independent(spec: DependencySpec) -> bool:
    if not spec.latents:
        return False
    graphs = (spec.unroll(3, process, "compact") for process in ("generation", "inference"))
    return all(parent[1] == child[1] for graph in graphs for parent, child in graph.edges)


def _check_draw(value: str, name: str) -> None:
    if value not in ("sample", "mean"):
        raise ValueError(f"{name} must be 'sample' or 'mean'; got {value!r}")


MEMORY, LAST = "q.", "q.x"


def _joined(state: State, memory: State, x_t: Tensor) -> State:
    """One state of generator, inference model and last frame: tensors by name, so that particles are picked alike."""
    return {**state, **{MEMORY + name: value for name, value in memory.items()}, LAST: x_t}


def _parts(state: State) -> tuple[State, State, Tensor]:
    generator = {name: value for name, value in state.items() if not name.startswith(MEMORY)}
    memory = {name.removeprefix(MEMORY): v for name, v in state.items() if name.startswith(MEMORY) and name != LAST}
    return generator, memory, state[LAST]
