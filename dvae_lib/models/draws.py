"""Where the value of a latent variable comes from: it is given, or drawn from a posterior, a prior or a proposal."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal

from dvae_lib.distributions import DiagonalGaussian
from dvae_lib.networks import Memory, Recurrence, shift
from dvae_lib.objectives import Latent

__all__ = [
    "Context",
    "Draw",
    "Draws",
    "Given",
    "Inferred",
    "Past",
    "Proposed",
    "State",
    "Values",
    "drawn",
    "merged_state",
    "noise",
    "sample",
    "split_state",
]

State = dict[str, Tensor]
"""What is carried from one frame to the next, by name; every tensor has the batch first."""

Values = Mapping[str, Tensor]
"""Tensors by the name of what they are values of."""

Draw = Literal["sample", "mean", "detached"]
"""How a posterior is turned into a value that the rest is conditioned on: a sample, reparameterised where the family
allows it; its mean; or a sample that no gradient passes through."""


def noise(like: Float[Tensor, "*shape"], draw: Draw, generator: Generator | None) -> Float[Tensor, "*shape"]:
    r"""The :math:`\boldsymbol\epsilon` of Eq. (2.24): standard normal, or zero where the mean is wanted.

    Drawn once for all frames, outside the recursions.
    """
    if draw == "mean":
        return torch.zeros_like(like)
    return torch.randn(like.shape, dtype=like.dtype, device=like.device, generator=generator)


def sample(distribution: Distribution, generator: Generator | None) -> Tensor:
    """A sample, reparameterised where the family allows it."""
    # Those of torch take no generator.
    base = distribution.base_dist if isinstance(distribution, Independent) else distribution
    if isinstance(base, Normal):
        return base.mean + base.stddev * noise(base.mean, "sample", generator)
    if isinstance(base, MultivariateNormal):
        epsilon = noise(base.mean, "sample", generator)
        return base.mean + (base.scale_tril @ epsilon[..., None]).squeeze(-1)
    draw: Any = distribution.rsample if distribution.has_rsample else distribution.sample
    return draw(generator=generator)  # type: ignore[no-any-return]


def drawn(distribution: Distribution, how: Draw, generator: Generator | None) -> Tensor:
    """A value of a distribution, drawn as `Draw` says."""
    if how == "detached":
        with torch.no_grad():
            return drawn(distribution, "sample", generator)
    if isinstance(distribution, DiagonalGaussian):  # one formula for both, so that both are laid out alike in memory
        return distribution.mean + distribution.stddev * noise(distribution.mean, how, generator)
    return distribution.mean if how == "mean" else sample(distribution, generator)


MEMORY, LAST = "q.", "q.x"


def merged_state(state: State, memory: State, x_t: Tensor) -> State:
    """One state of generator, inference model and last frame: tensors by name, so that particles are picked alike."""
    return {**state, **{MEMORY + name: value for name, value in memory.items()}, LAST: x_t}


def split_state(state: State) -> tuple[State, State, Tensor]:
    """The states of generator and inference model, and the last frame, that were merged."""
    generator = {name: value for name, value in state.items() if not name.startswith(MEMORY)}
    memory = {name.removeprefix(MEMORY): v for name, v in state.items() if name.startswith(MEMORY) and name != LAST}
    return generator, memory, state[LAST]


class Draws:
    """Values of latent variables at inference: given, or drawn from their posteriors.

    Arguments:
        given: Values to condition on, by name.
        how: "sample" draws from the posterior, "mean" takes its mean.
        generator: Source of randomness.
        observed: The entries of x that were observed, (B, T, x_dim); None where all were. What is missing has the
            neutral value already: this is for an inference model that does better than to read that.
    """

    def __init__(
        self,
        given: Mapping[str, Tensor] | None = None,
        how: Draw = "sample",
        generator: Generator | None = None,
        observed: Tensor | None = None,
    ) -> None:
        self.given, self.how, self.generator, self.observed = dict(given or {}), how, generator, observed

    def __call__(self, name: str, posterior: Any) -> Latent:
        """The variable at its given value, or drawn from its posterior: reparameterised, Eq. (2.24), where possible.

        No gradient passes through a draw from a family that has no reparameterised one, such as that of bits.
        """
        value = self.given.get(name)
        if value is None:
            value = drawn(posterior, self.how, self.generator)
        return Latent(value, posterior)

    def noise(self, like: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Standard normal noise, or zeros where the mean is wanted."""
        return noise(like, self.how, self.generator)


class Given:
    """Values of latent variables at generation: given, or drawn from their priors; it keeps what it was asked for.

    Arguments:
        values: Values by name. Of what is missing, a sample of the prior is drawn.
        generator: Source of randomness.

    Attributes:
        prior: The priors asked for, by name, in the order of the equations.
        latents: The values given back.
    """

    def __init__(self, values: Mapping[str, Tensor] | None = None, generator: Generator | None = None) -> None:
        self.values, self.generator = values or {}, generator
        self.prior: dict[str, Distribution] = {}
        self.latents: dict[str, Tensor] = {}

    def __call__(self, name: str, prior: Distribution, **known: Tensor) -> Tensor:
        """The value of a variable.

        Arguments:
            name: The variable.
            prior: Its distribution given the past.
            known: What the inference model would look at beside the context: states, the latents before.
        """
        value = self.values.get(name)
        if value is None:
            value = self.draw(name, prior, known)
        self.prior[name], self.latents[name] = prior, value
        return value

    def unseen(self, name: str) -> Tensor | None:
        """The rows in which nothing was observed that could tell a variable; None where there are none."""
        return None

    def draw(self, name: str, prior: Distribution, known: Mapping[str, Tensor]) -> Tensor:
        """A value where none is given."""
        with torch.no_grad():
            return sample(prior, self.generator)


class Proposed(Given):
    """Values of latent variables drawn from the inference model, frame by frame, reparameterised where possible.

    Arguments:
        propose: The posterior of a variable, from its name and from what is known at its frame.
        values: See `Given`.
        how: "sample" draws from the posterior, "mean" takes its mean.
        generator: Source of randomness.
        unseen: The rows of which nothing was observed.
        informed: The variables whose posterior knows something all the same, of later frames; the others are drawn from
            their priors in these rows.

    Attributes:
        posterior: The posteriors drawn from, by name.
    """

    def __init__(
        self,
        propose: Callable[[str, Mapping[str, Tensor]], Distribution],
        values: Mapping[str, Tensor] | None = None,
        how: Draw = "sample",
        generator: Generator | None = None,
        unseen: Tensor | None = None,
        informed: frozenset[str] = frozenset(),
    ) -> None:
        super().__init__(values, generator)
        self.propose, self.how, self._unseen, self.informed = propose, how, unseen, informed
        self.posterior: dict[str, Distribution] = {}

    def __call__(self, name: str, prior: Distribution, **known: Tensor) -> Tensor:
        """The value of a variable; its posterior is noted too."""
        self.posterior[name] = self.propose(name, known)
        return super().__call__(name, prior, **known)

    def draw(self, name: str, prior: Distribution, known: Mapping[str, Tensor]) -> Tensor:
        """A value from the posterior; where nothing was observed, from the prior."""
        value, unseen = drawn(self.posterior[name], self.how, self.generator), self.unseen(name)
        return value if unseen is None else torch.where(unseen[:, None], drawn(prior, self.how, self.generator), value)

    def unseen(self, name: str) -> Tensor | None:
        """The rows in which a variable is drawn from its prior; None where there are none."""
        return None if name in self.informed or name in self.values else self._unseen


class Inferred(NamedTuple):
    """What inference found: the latents, and what was computed on the way that generation needs too, by name."""

    latents: dict[str, Latent]
    states: Mapping[str, Tensor] = {}


class Context(NamedTuple):
    """All that the inference model takes from the data, before any latent of a frame is drawn.

    Attributes:
        frames: What each frame's posterior looks at, by name, of shape (B, T, .).
        latents: The latents of the whole sequence, which the rest is inferred from.
        states: What generation needs too.
    """

    frames: dict[str, Tensor]
    latents: dict[str, Latent] = {}
    states: Mapping[str, Tensor] = {}

    def at(self, t: int, rows: int | None = None) -> dict[str, Tensor]:
        """What the posterior of frame t (counted from 0) looks at; repeated to a number of rows, for particles.

        Raises:
            ValueError: The number of rows is no multiple of the batch.
        """
        frame = {name: value[:, t] for name, value in self.frames.items()}
        if rows is None:
            return frame
        uneven = next((name for name, value in frame.items() if rows % len(value)), None)
        if uneven is not None:
            raise ValueError(f"rows must be a multiple of the {len(frame[uneven])} sequences; got {rows}")
        return {
            name: v if len(v) == rows else v.repeat(rows // len(v), *[1] * (v.ndim - 1)) for name, v in frame.items()
        }


class Past:
    """What causal recursions have seen of the frames before, where frames come in one after the other.

    A model's context is computed from whole sequences, or from chunks of them. It reads its recursions through this, so
    that both are one code.

    Arguments:
        streaming: Whether frames come in chunks; otherwise nothing is carried over.
    """

    def __init__(self, streaming: bool = False) -> None:
        self.streaming = streaming
        self.carried: dict[str, Any] = {}

    def shift(self, name: str, frames: Float[Tensor, "batch time dim"]) -> Float[Tensor, "batch time dim"]:
        """The frames, one late; the first is the last of the chunk before, or zero."""
        shifted = shift(frames, self.carried.get(name))
        if self.streaming:
            self.carried[name] = frames[:, -1]
        return shifted

    def run(
        self,
        name: str,
        recurrence: nn.Module,
        inputs: Float[Tensor, "batch time in_dim"] | Sequence[Tensor],
        lengths: Tensor | None = None,
    ) -> Float[Tensor, "batch time h_dim"]:
        """The states of a recursion over the frames; a backward one sees the chunk as the sequence's end.

        Arguments:
            name: Of what is carried over.
            recurrence: A `Recurrence` or a causal `Memory`, such as an `InternalState`.
            inputs: The frames; of a `Recurrence`, or parts of them.
            lengths: The sequences' lengths in a padded batch.
        """
        last: Any
        if isinstance(recurrence, Memory):
            states, last = recurrence(inputs, self.carried.get(name))
        elif isinstance(recurrence, Recurrence) and self.streaming and not recurrence.backward:
            states, last = recurrence.resume(inputs, self.carried.get(name))
        else:
            return recurrence(inputs, lengths)  # type: ignore[no-any-return]
        if self.streaming:
            self.carried[name] = last
        return states  # type: ignore[no-any-return]

    def pick(self, rows: Tensor) -> None:
        """Keep these rows of the batch, in this order."""
        self.carried = {name: _picked(value, rows) for name, value in self.carried.items()}


def _picked(value: Any, rows: Tensor) -> Any:
    if isinstance(value, Tensor):
        return value[rows]
    if isinstance(value, dict):  # of a `Memory`, the batch first
        return {name: item[rows] for name, item in value.items()}
    return tuple(item[:, rows] for item in value)  # of torch's layers, the layers first
