"""A model walked through frame by frame, with posteriors of one's own choice in place of its inference model's."""

import copy
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor
from torch.distributions import Distribution, MultivariateNormal

from dvae_lib.distributions import FLOWS, DiagonalGaussian, Flow, FullGaussian
from dvae_lib.models import DVAE
from dvae_lib.models.draws import Given, drawn, merged_state, split_state
from dvae_lib.objectives.importance import repeat
from dvae_lib.objectives.terms import Lengths, frame_log_prob, frame_mask

__all__ = ["Choose", "Chosen", "Frame", "Sequences", "check_causal", "check_proposal", "moved"]

Choose = Callable[[str, Distribution, Callable[[], Distribution]], tuple[Distribution, Distribution]]
"""The posterior of a latent, from its name, its prior and what the inference model would say; once to draw from, and
once to score the draw with."""


class Chosen(Given):
    """Values of latent variables drawn from posteriors of one's own choice.

    Arguments:
        choose: The posterior, from the variable's name, its prior and what is known at its frame; twice: the one to
            draw from, and the one that the draw is scored with.
        generator: Source of randomness.

    Attributes:
        cost: log q - log p of what was drawn, (rows,).
    """

    def __init__(
        self,
        choose: Callable[[str, Distribution, Mapping[str, Tensor]], tuple[Distribution, Distribution]],
        generator: Generator | None,
    ) -> None:
        super().__init__({}, generator)
        self.choose, self.cost = choose, torch.zeros(())

    def __call__(self, name: str, prior: Distribution, **known: Tensor) -> Tensor:
        """A draw from the posterior chosen for a variable; what it costs is added up."""
        posterior, scored = self.choose(name, prior, known)
        value = drawn(posterior, "sample", self.generator)
        self.prior[name], self.latents[name] = prior, value
        self.cost = self.cost + scored.log_prob(value) - prior.log_prob(value)
        return value


class Frame(NamedTuple):
    """One frame of a walk: its part of the log importance weight, its latents, the state for the next.

    Attributes:
        weight: log p(x_t, z_t | .) - log q(z_t | .) of each row, zero beyond a sequence's end.
        latents: Values by name.
        state: Of generator and inference model.
    """

    weight: Tensor
    latents: dict[str, Tensor]
    state: dict[str, Tensor]


class Sequences:
    """Sequences of a model, checked and read once, to be walked through again and again.

    Rows stand sample by sample, each with the whole batch. The model is copied, and the copy's parameters take no
    gradient: what moves are the posteriors.

    Arguments:
        model: A causal `DVAE`.
        x: The observed sequences.
        u: The input sequences of a driven model.
        lengths: The sequences' lengths in a padded batch.
        proposals: Whether the model's inference model is asked; else only its steps are taken.
    """

    def __init__(self, model: DVAE, x: Tensor, u: Tensor | None, lengths: Lengths | None, *, proposals: bool) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.x, self.u, self.lengths = model.admit(x, u, lengths)
        self.read = model.read(self.x)
        self.mask = frame_mask(self.lengths, x.shape[1])
        self.proposals = proposals
        self.batch_size, self.num_steps = x.shape[:2]

    @torch.no_grad()
    def begin(self, num_samples: int, generator: Generator | None) -> tuple[Any, dict[str, Tensor], Tensor]:
        """The context (None without proposals), the first state, and the weights that latents of the sequence have."""
        rows = num_samples * self.batch_size
        blank = self.x.new_zeros(rows)
        if not self.proposals:
            return None, self.model._begin(rows, {}, generator)[0], blank
        options: dict[str, Any] = {"lengths": self.lengths, "num_particles": num_samples, "generator": generator}
        context, state = self.model.begin_proposals(self.x, self.u, **options)
        return context, state, sum((latent.log_ratio for latent in context.latents.values()), blank)

    def frame(
        self, t: int, context: Any, state: dict[str, Tensor], choose: Choose, generator: Generator | None
    ) -> Frame:
        """One frame, of as many rows as the state has."""
        generators, memory, x_prev = split_state(state)
        rows = len(x_prev)
        times = rows // self.batch_size
        context_t = {} if context is None else context.at(t, rows)
        u_t = None if self.u is None else repeat(self.u[:, t], times)

        def chosen(name: str, prior: Distribution, known: Mapping[str, Tensor]) -> tuple[Distribution, Distribution]:
            return choose(name, prior, lambda: self.model._propose(name, context_t, {**memory, **known}))

        draws = Chosen(chosen, generator)
        observation, following = self.model._filter_step(generators, x_prev, u_t, draws)
        inside = None if self.mask is None else self.mask[:, t].repeat(times)
        seen = frame_log_prob(observation, self.x[:, t].repeat(times, 1), inside)
        weight = seen - draws.cost
        memory = self.model._remember(memory, draws.latents, u_t) if self.proposals else memory
        following = merged_state(following, memory, self.read[:, t].repeat(times, 1))
        return Frame(weight if inside is None else torch.where(inside, weight, 0.0), draws.latents, following)


def moved(base: Distribution, shift: Tensor, scale: Tensor, *steps: Tensor, flow: str | None = None) -> Distribution:
    r"""A posterior, moved and scaled in its own units, and bent by the steps of a flow.

    :math:`\boldsymbol\mu + \boldsymbol\sigma \odot` `shift`, and :math:`\log\boldsymbol\sigma^2 +` `scale`, which is
    bounded to ±10: zeros leave it as it is. Of a Gaussian with any covariance the unit is its Cholesky factor.

    Raises:
        NotImplementedError: It has no mean and log-variance to move.
    """
    scale = 10 * (scale / 10).tanh()
    if isinstance(base, Flow):
        mean, logvar, *own = base.parameters
        return type(base)(mean + (0.5 * logvar).exp() * shift, logvar + scale, *own)
    if isinstance(base, MultivariateNormal) and flow is None:  # in the units of its factor
        factor = base.scale_tril
        return FullGaussian(base.loc + (factor @ shift[..., None])[..., 0], factor * (0.5 * scale).exp()[..., None, :])
    if not isinstance(base, DiagonalGaussian):
        raise NotImplementedError(
            f"the posterior is a {type(base).__name__}: what is moved are Gaussians and flows; what a flow bends, "
            f"diagonal Gaussians. Models that have them, such as {ABLE}, can"
        )
    mean, logvar = base.mean + base.stddev * shift, base.logvar + scale
    return FLOWS[flow](mean, logvar, *steps) if flow else DiagonalGaussian(mean, logvar)


ABLE = "DKF, STORN, VRNN and SRNN"
"""Models, each of whose latent vectors belongs to a frame and can be moved; there are others."""


def check_proposal(model: DVAE) -> None:
    """Refuse a model without a latent vector for each frame, or without an inference model frame by frame."""
    if not model.frame_latents:
        raise NotImplementedError(
            f"{type(model).__name__} {NO_FRAME_LATENTS} to move: take one that has, such as {ABLE}"
        )
    if not model.has_proposal:
        way = ". It can start from its prior: start='prior'" if _steps_alone(model) else ""
        raise NotImplementedError(
            f"{type(model).__name__} has no posterior of its own frame by frame to start from; models that generate "
            f"and infer forwards in time, such as {ABLE}, have one{way}"
        )


def check_causal(model: DVAE) -> None:
    """Refuse a model that does not generate frame by frame, or has a latent of the whole sequence or none at all."""
    if _steps_alone(model):
        return
    why = NO_FRAME_LATENTS if model.is_causal else "generates all frames together"
    if model.is_causal and model.sequence_latents:
        why = f"has a latent of the whole sequence ({', '.join(model.sequence_latents)}), which no frame tells"
    raise NotImplementedError(
        f"{type(model).__name__} {why}: frame by frame from their priors go models that generate so and have a "
        f"latent vector for each frame, such as {ABLE}"
    )


NO_FRAME_LATENTS = "has no latent vector for each frame"


def _steps_alone(model: DVAE) -> bool:
    return bool(model.is_causal and model.frame_latents and not model.sequence_latents)
