"""Filtering a stream: one frame in; what the latents are, what was expected, and how odd the frame is, out."""

import math
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.distributions import Distribution

from dvae_lib.models.draws import Draws, Given, Past, State, sample, split_state
from dvae_lib.objectives.importance import effective_sample_size
from dvae_lib.objectives.missing import Observed
from dvae_lib.objectives.particles import check_threshold, surviving_rows
from dvae_lib.objectives.terms import check_counts, frame_log_prob

__all__ = ["Filter", "FilterOutput", "Moments"]


class Moments(NamedTuple):
    """Mean and variance of each entry of a vector, over weighted particles."""

    mean: Float[Tensor, "batch dim"]
    variance: Float[Tensor, "batch dim"]


class FilterOutput(NamedTuple):
    r"""What a filter makes of one frame.

    Attributes:
        latents: Mean and variance of each latent given all frames so far,
            :math:`p(\mathbf{z}_t | \mathbf{x}_{1:t})`.
        prediction: Mean and variance of the frame before it was seen, :math:`p(\mathbf{x}_t | \mathbf{x}_{1:t-1})`.
        score: How odd the frame is: :math:`-\log p(\mathbf{x}_t | \mathbf{x}_{1:t-1})`, in nats, shape (B,).
        effective_sample_size: What the particles are worth, before resampling, shape (B,).
    """

    latents: dict[str, Moments]
    prediction: Moments
    score: Float[Tensor, " batch"]
    effective_sample_size: Float[Tensor, " batch"]


class Filter:
    """A particle filter over a stream of frames, with the model's inference network as the proposal.

    An inference network that looks ahead is run as if the sequence ended at the present frame. The particles' weights
    correct what it proposes. Latents of the whole sequence are drawn from their priors, one for each particle, at the
    start. What it holds does not grow with the number of frames.

    Of a frame a part may be missing, or all: then the latents come from their priors, no weight changes, the score is
    zero, and what later frames look back on is each particle's own draw. So it predicts through a gap.

    Arguments:
        model: A causal `DVAE` with a proposal per frame.
        batch_size: Number of sequences that run side by side.
        num_particles: Number of particles of each.
        threshold: Resample where the effective sample size falls below this fraction of the particles.
        generator: Source of randomness.

    Attributes:
        log_likelihood: Of all frames so far, in nats, shape (B,).
        num_frames: Number of frames so far.

    Example:
        >>> from dvae_lib import SRNN
        >>> stream = torch.randn(5, 1, 3, generator=torch.Generator().manual_seed(0))
        >>> watch = SRNN(x_dim=3, z_dim=2).filter(num_particles=20)
        >>> [watch.update(x_t).score.shape for x_t in stream] == 5 * [torch.Size([1])]
        True
    """

    def __init__(
        self,
        model: Any,
        batch_size: int = 1,
        num_particles: int = 100,
        *,
        threshold: float = 0.5,
        generator: Generator | None = None,
    ) -> None:
        check_counts(batch_size=batch_size, num_particles=num_particles)
        check_threshold(threshold)
        self.model, self.batch_size, self.num_particles = model, batch_size, num_particles
        self.threshold, self.generator = threshold, generator
        self.past, self.num_frames = Past(streaming=True), 0
        with torch.no_grad():
            self.state, _ = model._begin(num_particles * batch_size, {}, generator)
        parameter = next(model.parameters())
        self.weights = parameter.new_full((num_particles, batch_size), -math.log(num_particles))
        self.log_likelihood = parameter.new_zeros(batch_size)
        self._of_sequence = {name: self.state[name] for name in model.sequence_latents}

    @torch.no_grad()
    def update(
        self,
        x_t: Float[Tensor, "batch x_dim"],
        u_t: Float[Tensor, "batch u_dim"] | None = None,
        *,
        observed: Observed | None = None,
    ) -> FilterOutput:
        """Take in one frame.

        Arguments:
            x_t: The frame, in the values that the model was trained on.
            u_t: The input of this frame, for a driven model.
            observed: What was observed of it, (B,) or (B, x_dim). What stands elsewhere is not looked at.

        Raises:
            ValueError: A frame or an input of another shape, not finite, or without a probability under the observation
                model. The filter stays as it was.
            TypeError: What is no tensor, or of another dtype or device.
        """
        model, k = self.model, self.num_particles
        x_t, seen = model._admit_frame(x_t, u_t, observed)
        if len(x_t) != self.batch_size:
            raise ValueError(f"expected a frame of {self.batch_size} sequences; got {tuple(x_t.shape)}")
        x_k, u_k = x_t.repeat(k, 1), None if u_t is None else u_t.repeat(k, 1)
        prediction = self._prediction(u_k)
        given = {name: self.state[name] for name in self._of_sequence}
        read = model.read(x_t, seen)
        read_k = read.repeat(k, 1)
        # A context is the particle's only where it has latents in it.
        x_1, u_1 = (read_k, u_k) if given else (read, u_t)
        seen_1 = seen if seen is None or not given else seen.repeat(k, 1)
        draws = Draws(given, "sample", self.generator, None if seen_1 is None else seen_1[:, None])
        context = model._context(x_1[:, None], None if u_1 is None else u_1[:, None], None, draws, self.past)
        seen_k = None if seen is None else seen.repeat(k, 1)
        known: Any = (self.state, context.at(0, len(x_k)), read_k, u_k, {}, "sample", self.generator, seen_k)
        proposal = model._proposal(*known, ahead=False)
        increment = frame_log_prob(proposal.observation, x_k, None, seen_k)
        increment = sum((latent.log_ratio for latent in proposal.latents.values()), increment)
        weights = self.weights + increment.view(k, -1)
        evidence = weights.logsumexp(0)
        self.weights = weights - evidence
        self.log_likelihood = self.log_likelihood + evidence
        self.num_frames += 1
        latents = {name: self._moments(latent.sample) for name, latent in proposal.latents.items()}
        latents |= {name: self._moments(value) for name, value in given.items()}
        latents |= {name: self._moments(*value) for name, value in model._filtered(proposal.state).items()}
        size = effective_sample_size(self.weights)
        self._resample(proposal.state, size)
        return FilterOutput(latents, prediction, -evidence, size)

    @torch.no_grad()
    def forecast(
        self,
        num_steps: int,
        u: Float[Tensor, "batch time u_dim"] | None = None,
        *,
        num_samples: int = 100,
        generator: Generator | None = None,
    ) -> Float[Tensor, "samples batch time x_dim"]:
        r"""Futures of what was seen: samples of :math:`p(\mathbf{x}_{t+1:t+H} | \mathbf{x}_{1:t})`.

        Each starts from a particle, picked by its weight, and draws its own latents and frames; so the frames of one
        sample belong together. The filter stays as it was, and may go on.

        Arguments:
            num_steps: Number H of frames.
            u: Their inputs, for a driven model.
            num_samples: Number of futures of each sequence. More than there are particles helps little.
            generator: Source of randomness; by default the filter's.

        Raises:
            ValueError, TypeError: Numbers below 1; inputs of another shape, dtype or device, or not finite.
        """
        check_counts(num_steps=num_steps, num_samples=num_samples)
        self.model._check_inputs(u, self.batch_size, num_steps)
        generator = self.generator if generator is None else generator
        state, x = self.draw(num_samples, generator)
        frames = []
        for t in range(num_steps):
            u_t = None if u is None else u[:, t].repeat_interleave(num_samples, 0)
            observation, state = self.model._filter_step(state, x, u_t, Given({}, generator))
            frames.append(sample(observation, generator))
            x = self.model.read(frames[-1])
        futures: Tensor = torch.stack(frames, 1).unflatten(0, (self.batch_size, num_samples)).transpose(0, 1)
        return futures

    def draw(self, count: int, generator: Generator | None = None) -> tuple[State, Tensor]:
        """States of particles and the frames that they look back on, picked by weight: B * count rows, each sequence's
        together.
        """
        picked = torch.multinomial(self.weights.exp().T, count, replacement=True, generator=generator)
        rows = (picked * self.batch_size + torch.arange(self.batch_size, device=picked.device)[:, None]).flatten()
        state, _, x = split_state({name: value[rows] for name, value in self.state.items()})
        return state, x

    def _prediction(self, u_k: Tensor | None) -> Moments:
        """What is expected of the next frame: the particles' observation models, at latents drawn from the priors."""
        draws = Given({}, self.generator)
        state, _, x_prev = split_state(self.state)
        observation: Distribution
        observation, _ = self.model._filter_step(state, x_prev, u_k, draws)
        try:
            return self._moments(observation.mean, observation.variance)
        except NotImplementedError:  # a family that does not say its variance; its samples do
            return self._moments(sample(observation, self.generator))

    def _moments(self, mean: Tensor, variance: Tensor | None = None) -> Moments:
        """Of the mixture of the particles."""
        k = self.num_particles
        weights = self.weights.exp()[..., None]
        mean = mean.view(k, self.batch_size, -1)
        centre = (weights * mean).sum(0)
        spread = (mean - centre).square()
        if variance is not None:
            spread = spread + variance.view(k, self.batch_size, -1)
        return Moments(centre, (weights * spread).sum(0))

    def _resample(self, state: dict[str, Tensor], size: Tensor) -> None:
        poor = size < self.threshold * self.num_particles
        rows = surviving_rows(self.weights.exp(), poor, self.generator)
        self.state = {name: value[rows] for name, value in state.items()}
        self.weights = torch.where(poor, -math.log(self.num_particles), self.weights)
        if self._of_sequence:  # then the context carries over what is the particle's own
            self.past.pick(rows)
