"""Inference beside generation, frame by frame: proposals, and the filter that stands on them."""

from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.distributions import Distribution

from dvae_lib.graphs import DependencySpec
from dvae_lib.models import generating
from dvae_lib.models.admission import Admission
from dvae_lib.models.draws import (
    LAST,
    Context,
    Draw,
    Draws,
    Given,
    Past,
    Proposed,
    State,
    drawn,
    merged_state,
    split_state,
)
from dvae_lib.models.filtering import Filter
from dvae_lib.objectives import Latent
from dvae_lib.objectives.importance import repeat
from dvae_lib.objectives.missing import Observed, as_observed
from dvae_lib.objectives.terms import Lengths, check_counts

__all__ = ["Proposal", "Proposing"]


class Proposal(NamedTuple):
    """One frame of inference: its latents (drawn, with posteriors and priors), p(x_t | .), the state for the next."""

    latents: dict[str, Latent]
    observation: Distribution
    state: State


class Proposing(Admission):
    """Inference frame by frame; see `DVAE`."""

    def context(
        self,
        x: Float[Tensor, "batch time x_dim"],
        u: Float[Tensor, "batch time u_dim"] | None = None,
        *,
        lengths: Lengths | None = None,
        observed: Observed | None = None,
        latents: Mapping[str, Tensor] | None = None,
        generator: Generator | None = None,
    ) -> Context:
        """What the posteriors of all frames look at in the data; latents of the whole sequence are drawn.

        The arguments are those of `inference`.

        Raises:
            NotImplementedError: Of a model that writes `_infer` as a whole.
            ValueError, TypeError: See `inference`.
        """
        x, u, lengths = self.admit(x, u, lengths, 0.0, observed)
        latents = self._check_latents(latents, self.latent_shapes(*x.shape[:2]))
        draws = Draws(latents, "sample", generator, as_observed(observed, x))
        found = self._context(self.read(x, draws.observed), u, lengths, draws, Past())
        return found._replace(latents=self._assigned(found.latents))

    def begin_proposals(
        self,
        x: Float[Tensor, "batch time x_dim"],
        u: Float[Tensor, "batch time u_dim"] | None = None,
        *,
        lengths: Lengths | None = None,
        observed: Observed | None = None,
        num_particles: int = 1,
        draw: Draw = "sample",
        generator: Generator | None = None,
    ) -> tuple[Context, State]:
        """The context, its latents with their priors, and the state that `propose` starts from.

        The arguments are those of `inference`, the number of particles of each sequence, and how latents of the whole
        sequence are drawn. Particles stand one after the other: the whole batch, and again the whole batch. Where they
        would all have the same context, it is given once, with the batch's own size. For a model without a proposal per
        frame the context holds all frames, and each costs a pass over them.

        Raises:
            NotImplementedError: If generation is not causal, or inference goes backwards in time.
            ValueError, TypeError: See `check`; also for a number of particles below 1.
        """
        if not self.is_causal:
            raise NotImplementedError(
                f"{type(self).__name__} does not generate frame by frame: there are no proposals, as causal models "
                "have them, such as DKF, VRNN and SRNN"
            )
        if self.infers_backwards:
            raise NotImplementedError(
                f"{type(self).__name__} infers backwards in time, a latent vector from those after it: there are no "
                "proposals for particles; use importance_weighted, or a model that infers forwards, such as DKF, VRNN "
                "and SRNN"
            )
        check_counts(num_particles=num_particles)
        x, u, lengths = self.admit(x, u, lengths, 0.0, observed)
        rows, entries = num_particles * len(x), as_observed(observed, x)
        x = self.read(x, entries)
        if self.sequence_latents or not self.has_proposal:
            x, u, lengths = x.repeat(num_particles, 1, 1), repeat(u, num_particles), repeat(lengths, num_particles)
            entries = repeat(entries, num_particles)
        if not self.has_proposal:
            return generating.whole_sequences(self, x, u, lengths, generator)
        draws = Draws(how=draw, generator=generator, observed=entries)
        context = self._context(x, u, lengths, draws, Past())
        context = context._replace(latents=self._assigned(context.latents))
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
        observed: Observed | None = None,
        generator: Generator | None = None,
        **latents: Float[Tensor, "batch _"],
    ) -> Proposal:
        r"""One frame of inference and generation: what `inference` does to whole sequences, one frame after the other.

        Arguments:
            state: From `begin_proposals`, or the proposal of the frame before.
            context_t: `Context.at` this frame.
            x_t: The frame, which predictive models look back on in the next one.
            u_t: The input of this frame, for a driven model.
            observed: What was observed of the frame, (B,) or (B, x_dim). What later frames look back on is drawn; a
                latent of a frame of which nothing was observed comes from its prior, unless its posterior looks ahead.
            generator: Source of randomness.
            latents: Values by name and frame, such as ``z_t=...``; those not given are drawn from their posteriors.

        Raises:
            ValueError, TypeError: Frames, inputs or latents of other shapes, unknown or not finite; a state or a
                context that is not of as many sequences as the frame.
        """
        x_t, entries = self._admit_frame(x_t, u_t, observed)
        self._check_state(state, len(x_t), "begin_proposals or the proposal before")
        if LAST not in state:
            raise ValueError("state holds no frame before: take it from begin_proposals or the proposal before")
        for name, value in context_t.items():
            if len(value) != len(x_t):
                raise ValueError(
                    f"the frame has {len(x_t)} sequences, but {name!r} in the context {len(value)}: use "
                    "context.at(t, rows)"
                )
        given = {name.removesuffix("_t"): value for name, value in latents.items()}
        self._check_latents(given, {name: (len(x_t), self.latent_dim(name)) for name in self.frame_latents})
        read = self.read(x_t, entries)
        return self._proposal(state, context_t, read, u_t, given, "sample", generator, entries)

    def _proposal(
        self,
        state: State,
        context_t: Mapping[str, Tensor],
        x_t: Tensor,
        u_t: Tensor | None,
        given: Mapping[str, Tensor],
        how: Draw,
        generator: Generator | None,
        observed: Tensor | None = None,
        *,
        ahead: bool = True,
    ) -> Proposal:
        """`propose` of a frame as networks read it. `ahead` says whether the context has seen later frames."""
        generators, memory, x_prev = split_state(state)

        own = self.has_proposal
        unseen = None if observed is None or not own else ~observed.any(-1)
        informed = _informed(self.spec) if ahead else frozenset[str]()

        def posterior(name: str, known: Mapping[str, Tensor]) -> Distribution:
            if own:
                return self._propose(name, context_t, {**memory, **known})
            return generating.posterior_from_history(self, name, memory, draws.latents, context_t)

        draws = Proposed(posterior, given, how, generator, unseen, informed)
        observation, following = self._filter_step(generators, x_prev, u_t, draws)
        remember = self._remember if own else generating.remember_history
        memory = remember(memory, draws.latents, u_t)
        found = {
            name: Latent(z, draws.posterior[name], draws.prior[name], unseen=draws.unseen(name))
            for name, z in draws.latents.items()
        }
        if observed is not None and self.links.predictive:
            x_t = torch.where(observed, x_t, self.read(drawn(observation, how, generator)))
        return Proposal(found, observation, merged_state(following, memory, x_t))

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
            ValueError: Numbers of sequences or particles below 1, a threshold outside [0, 1].
        """
        if not self.has_proposal:
            raise NotImplementedError(
                f"{type(self).__name__} cannot filter frame by frame: its generation must be causal, and its inference "
                "model forwards in time and written as _context and _propose, such as those of DKF, VRNN and SRNN"
            )
        return Filter(self, batch_size, num_particles, threshold=threshold, generator=generator)

    def _begin(
        self, batch_size: int, values: Mapping[str, Tensor], generator: Generator | None
    ) -> tuple[State, dict[str, Distribution]]:
        """The state before the first frame, and the priors of the latents of the whole sequence."""
        draws = Given(values, generator)
        state = self._filter_initial_state(batch_size, draws)
        blank = next(self.parameters()).new_zeros(batch_size, self.x_dim)
        return merged_state(state, self._initial_memory(batch_size), blank), draws.prior


@lru_cache(maxsize=128)
def _informed(spec: DependencySpec) -> frozenset[str]:
    """The latents whose posterior knows something of a frame that was not observed: from later ones."""
    edges = spec.unroll(5, "inference", "compact").edges
    later = ((a, b) for a, b in edges if a[1] is not None and b[1] is not None and a[1] > b[1])
    return frozenset(child[0] for _, child in later)
