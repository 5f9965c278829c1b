r"""The contract that every dynamical variational autoencoder fulfils: public doors here, equations in the models.

A public method checks what comes in, once and for all models, and calls what the model has written.
"""

import operator
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.distributions import Distribution

from dvae_lib.devices import Device, computed_on
from dvae_lib.distributions import inside_values, neutral_values
from dvae_lib.graphs import DependencySpec
from dvae_lib.models import generating
from dvae_lib.models.checks import check_sequences, warn_of_raw_data
from dvae_lib.models.draws import Context, Draw, Draws, Given, Inferred, Past, State, Values, noise
from dvae_lib.models.equations import HOOKS, Equations, written
from dvae_lib.models.generating import Gaps, Sample
from dvae_lib.models.imputing import Imputation, Imputing
from dvae_lib.models.proposing import Proposal
from dvae_lib.objectives import DVAEOutput, Generated, Latent
from dvae_lib.objectives.missing import Observed, as_observed, check_observed
from dvae_lib.objectives.terms import Lengths, check_counts, check_tensor

__all__ = [
    "DVAE",
    "Context",
    "Draw",
    "Draws",
    "Given",
    "Imputation",
    "Inferred",
    "Lengths",
    "Past",
    "Proposal",
    "Sample",
    "State",
    "StepOutput",
    "Values",
    "check_sequences",
    "noise",
]


class StepOutput(NamedTuple):
    """One frame of generation: priors and values of its latents, p(x_t | .), the state for the next frame."""

    prior: dict[str, Distribution]
    latents: dict[str, Tensor]
    observation: Distribution
    state: State


class DVAE(Imputing):
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

    A class that writes the generation of another model anew inherits that model's steps, which then say something else:
    it writes them, too, or, with an inference of its own, lets them follow by
    ``_initial_state, _step = DVAE._initial_state, DVAE._step``. `dvae_lib.testing.check_model` finds what disagrees.

    Arguments:
        x_dim: Size F of the observed vectors.
        z_dim: Size L of the latent vectors z; may be 0 for a model that has none.
        observation: The family of p(x_t | .), such as "gaussian", "gaussian(scale=0.01)", "gamma" or "bernoulli"; or
            one of your own, registered by `dvae_lib.distributions.register_observation`.
        u_dim: Size of the input vectors; 0 where the model is undriven.

    Attributes:
        functions: LaTeX of the paper's functions that cannot be told from what a network computes, by the network's
            name, for `dvae_lib.architecture`.
        replay: What runs a recursion in its place, while training asks for it.
    """

    def __init__(self, x_dim: int, z_dim: int, *, observation: str = "gaussian", u_dim: int = 0) -> None:
        if type(self) is DVAE:
            raise TypeError("DVAE is what all models have in common: build one of them, or write a subclass")
        super().__init__()
        spec = vars(self).get("spec", type(self).spec)  # an instance's own may be set later
        least = 0 if isinstance(spec, DependencySpec) and "z" not in spec.latents else 1
        for name, size, smallest in (("x_dim", x_dim, 1), ("z_dim", z_dim, least), ("u_dim", u_dim, 0)):
            if isinstance(size, bool) or not isinstance(size, int | np.integer) or size < smallest:
                raise ValueError(f"{name} must be an integer of at least {smallest}; got {size!r}")
        self.x_dim, self.z_dim, self.u_dim = (operator.index(size) for size in (x_dim, z_dim, u_dim))
        self.observation = observation

    # ---------------------------------------------------------------- inference and generation

    def inference(
        self,
        x: Float[Tensor, "batch time x_dim"],
        u: Float[Tensor, "batch time u_dim"] | None = None,
        *,
        lengths: Lengths | None = None,
        observed: Observed | None = None,
        latents: Mapping[str, Tensor] | None = None,
        draw: Draw = "sample",
        generator: Generator | None = None,
    ) -> dict[str, Latent]:
        r"""The inference model :math:`q_\phi(\mathbf{z}_{1:T} | \mathbf{x}_{1:T}, \mathbf{u}_{1:T})`, sampled in order.

        Arguments:
            x: The observed sequences.
            u: The input sequences of a driven model.
            lengths: The sequences' lengths in a padded batch.
            observed: What was observed, by frame (B, T) or by entry (B, T, x_dim). In place of the rest the networks
                read a neutral value: what stands there is not looked at.
            latents: Values to condition on; those not given are drawn. A partial dictionary is fine.
            draw: "sample" draws each latent from its posterior, "mean" takes the posterior's mean.
            generator: Source of randomness.

        Returns:
            For each latent variable, the value conditioned on and the parameters of its posterior.

        Raises:
            ValueError, TypeError: See `check`; also for unknown latents, and values of another shape or not finite.
        """
        x, u, lengths = self.admit(x, u, lengths, 0.0, observed)
        latents = self._check_latents(latents, self.latent_shapes(*x.shape[:2]))
        _check_draw(draw, "draw")
        seen = as_observed(observed, x)
        draws = Draws(latents, draw, generator, seen)
        return self._assigned(written(self, "_infer")(self, self.read(x, seen), u, lengths, draws).latents)

    def generation(
        self,
        x: Float[Tensor, "batch time x_dim"],
        latents: Mapping[str, Tensor] | None = None,
        u: Float[Tensor, "batch time u_dim"] | None = None,
        *,
        lengths: Lengths | None = None,
        observed: Observed | None = None,
        feedback: float = 0.0,
        generator: Generator | None = None,
    ) -> Generated:
        r"""The conditionals :math:`p(\mathbf{z}_t | \cdot)` and :math:`p(\mathbf{x}_t | \cdot)` given whole sequences.

        Arguments:
            x: The observed sequences; their past is the true one (teacher forcing) but for `feedback`.
            latents: Values of all latent variables.
            u: The input sequences of a driven model.
            lengths: The sequences' lengths in a padded batch.
            observed: What was observed, by frame or by entry. What is missing of :math:`\mathbf{x}_{t-1}` is a sample
                of the model's own :math:`p(\mathbf{x}_{t-1} | \cdot)`: see `dvae_lib.objectives.missing`.
            feedback: Probability, per sequence and frame, that :math:`\mathbf{x}_{t-1}` is replaced by the mean of
                the model's own :math:`p(\mathbf{x}_{t-1} | \cdot)`, with gradients through it: generation mode, or
                scheduled sampling (Section 4.4.1).
            generator: Source of randomness.

        Raises:
            ValueError, TypeError: See `check`; also for latents unknown, missing, of another shape or not finite.
        """
        x, u, lengths = self.admit(x, u, lengths, feedback, observed)
        latents = self._check_latents(latents, self.latent_shapes(*x.shape[:2]), complete=True)
        seen = as_observed(observed, x)
        if feedback or (seen is not None and self.links.predictive):
            gaps = None if seen is None else Gaps(seen, "sample", generator)
            return generating.rollout(self, x, latents, u, feedback, generator, gaps)
        generated: Generated = written(self, "_generate")(self, self.read(x), latents, u, lengths, {})
        return generated

    def rollout(
        self,
        x: Float[Tensor, "batch time x_dim"],
        latents: Mapping[str, Tensor] | None = None,
        u: Float[Tensor, "batch time u_dim"] | None = None,
        *,
        observed: Observed | None = None,
        feedback: float = 1.0,
        generator: Generator | None = None,
    ) -> Generated:
        """`generation` of a predictive model that is fed its own output: generation mode (Section 4.4.1).

        The arguments are those of `generation`. It goes by `step`, also where a class writes `generation` itself.
        """
        return DVAE.generation(self, x, latents, u, observed=observed, feedback=feedback, generator=generator)

    def forward(
        self,
        x: Float[Tensor, "batch time x_dim"],
        u: Float[Tensor, "batch time u_dim"] | None = None,
        *,
        lengths: Lengths | None = None,
        observed: Observed | None = None,
        feedback: float = 0.0,
        draw: Draw = "sample",
        generator: Generator | None = None,
    ) -> DVAEOutput:
        """Infer the latents, then generate from them: what the training objectives are computed from.

        Missing values that later frames look back on are drawn as the latents are: see `dvae_lib.objectives.missing`.
        """
        x, u, lengths = self.admit(x, u, lengths, feedback, observed)
        seen = as_observed(observed, x)
        _check_draw(draw, "draw")
        read = self.read(x, seen)
        latents, states = self._infer(read, u, lengths, Draws({}, draw, generator, seen))
        states = states if seen is None else {**states, "observed": seen}
        values = {name: latent.sample for name, latent in latents.items()}
        if feedback or (seen is not None and self.links.predictive):
            gaps = None if seen is None else Gaps(seen, draw, generator)
            generated = generating.rollout(self, x, values, u, feedback, generator, gaps)
        else:
            generated = self._generate(read, values, u, lengths, states)
        both = {
            name: q._replace(prior=generated.prior.get(name, q.prior)) for name, q in self._assigned(latents).items()
        }
        return DVAEOutput(both, generated.observation, self._auxiliary(x, values, lengths, states))

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
            ValueError, TypeError: No sequence; latents of other shapes, unknown or not finite.
        """
        if not self.is_causal:
            raise NotImplementedError(f"{type(self).__name__} does not generate frame by frame; use generate")
        check_counts(batch_size=batch_size)
        self._check_latents(latents, {name: (batch_size, self.latent_dim(name)) for name in self.sequence_latents})
        state: State = written(self, "_initial_state")(self, batch_size, Given(latents, generator))
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
        self._check_frame(x_prev, u_t, "x_prev")
        self._check_state(state, len(x_prev), "initial_state or the step before")
        given = {name.removesuffix("_t"): value for name, value in latents.items()}
        self._check_latents(given, {name: (len(x_prev), self.latent_dim(name)) for name in self.frame_latents})
        draws = Given(given, generator)
        observation, state = written(self, "_step")(self, state, self.read(x_prev), u_t, draws)
        return StepOutput(draws.prior, draws.latents, observation, state)

    # ---------------------------------------------------------------- sequences

    def reconstruct(
        self,
        x: Float[Tensor, "batch time x_dim"],
        u: Float[Tensor, "batch time u_dim"] | None = None,
        *,
        lengths: Lengths | None = None,
        observed: Observed | None = None,
        feedback: float = 0.0,
        latents: Draw = "sample",
        generator: Generator | None = None,
    ) -> Distribution:
        """Analysis-resynthesis: p(x_t | .) at the latents inferred from x.

        Arguments:
            x: The observed sequences.
            u: The input sequences of a driven model.
            lengths: The sequences' lengths in a padded batch.
            observed: As in `vlb`.
            feedback: As in `vlb`.
            latents: Condition on a sample of the posterior, or on its mean (drawn frame by frame where the
                posterior is recursive).
            generator: Source of randomness.
        """
        _check_draw(latents, "latents")
        gaps = {} if observed is None else {"observed": observed}
        output: DVAEOutput = self(x, u, lengths=lengths, **gaps, feedback=feedback, draw=latents, generator=generator)
        return output.observation

    @torch.no_grad()
    def generate(
        self,
        num_steps: int,
        batch_size: int = 1,
        *,
        prefix: Float[Tensor, "batch start x_dim"] | None = None,
        observed: Observed | None = None,
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
            observed: What was observed of the prefix, by frame (B, start) or by entry. What is missing of it, and is
                looked back on, is the model's own output.
            u: The inputs of a driven model, over the prefix (if any) and the new frames.
            emission: What x_t is, and what is fed back: a sample of p(x_t | .) or its mean.
            generator: Source of randomness.
            device: See `importance_weighted_bound`.

        Raises:
            ValueError, TypeError: Numbers below 1; a prefix or inputs of other shapes, dtypes or devices, or not
                finite; an emission that does not exist.
            NotImplementedError: Of a model that is not causal, with latents that depend on others.
        """
        check_counts(num_steps=num_steps, batch_size=batch_size)
        _check_draw(emission, "emission")
        if device is not None:
            options: dict[str, Any] = {"prefix": prefix, "u": u, "emission": emission, "generator": generator}
            options |= {} if observed is None else {"observed": observed}
            return computed_on(device, type(self).generate, self, num_steps, batch_size, **options)
        parameter = next(self.parameters())
        start, seen = 0, None
        if observed is not None and prefix is None:
            raise ValueError("observed says what was observed of a prefix, and there is none")
        if prefix is not None:
            check_tensor(prefix, "prefix")
            seen = as_observed(observed, prefix, of="prefix")
            known = prefix if seen is None else torch.where(seen, prefix, inside_values(self.observation, prefix))
            extremes = check_sequences(known, "prefix", self.x_dim, parameter, observation=self.observation)
            warn_of_raw_data(known, "prefix", extremes, self, "standardizer")
            if seen is not None:
                check_observed(seen, None, apart=self._entries_apart)
                prefix = torch.where(seen, prefix, neutral_values(self.observation, prefix))
            batch_size, start = prefix.shape[:2]
        self._check_inputs(u, batch_size, num_steps, start)
        inferred: dict[str, Tensor] = {}
        if prefix is not None:
            before = None if u is None else u[:, :start]
            prefix = self.read(prefix, seen)
            latents = self._infer(prefix, before, None, Draws(generator=generator, observed=seen)).latents
            inferred = {name: latent.sample for name, latent in latents.items()}
        make = generating.frame_by_frame if self.is_causal else generating.all_at_once
        return make(self, num_steps, batch_size, prefix, inferred, u, emission, generator, seen)

    def fed_back_recursion(self, *known: Tensor) -> tuple[Tensor, ...]:
        """The loop of generation mode: the parameters of all priors, then of all observation models."""
        return generating.rollout_parameters(self, *known)


def _check_draw(value: str, name: str) -> None:
    if value not in ("sample", "mean"):
        raise ValueError(f"{name} must be 'sample' or 'mean'; got {value!r}")


Equations.doors.update({door: vars(DVAE)[door] for door in HOOKS})
