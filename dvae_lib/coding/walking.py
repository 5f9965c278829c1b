"""A model run by a coder: its own steps, one frame after the other, with the latents that the coder chooses.

Encoder and decoder walk alike, in double precision, on the processor, one sequence at a time; so both compute the very
same probabilities. All that is different is where the numbers come from.
"""

import copy
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.distributions import Distribution

from dvae_lib.distributions import DiagonalGaussian
from dvae_lib.graphs.links import looks_ahead
from dvae_lib.models.base import DVAE
from dvae_lib.models.draws import Context, Draws, Given, Past
from dvae_lib.models.equations import Equations, written

__all__ = ["Inference", "Walk", "check_codable", "gaussian", "in_double"]

Choose = Callable[[str, Distribution, Mapping[str, Tensor]], Tensor]
"""The value of a latent, from its name, its prior, and what inference would look at."""


CODABLE = "VAE, DKF, STORN, VRNN, SRNN, RVAE(generation_model='causal'), DSAE or RSSM"


def check_codable(model: DVAE) -> None:
    """Refuse a model whose latents cannot be coded one frame after the other.

    Raises:
        NotImplementedError: It generates all frames together, takes inputs, has no latent, or filters without some of
            its latents.
    """
    name = type(model).__name__
    if not model.is_causal:
        raise NotImplementedError(
            f"{name} generates all frames together, but a decoder knows the past alone: take a causal model, such as "
            f"{CODABLE}"
        )
    if model.u_dim:
        raise NotImplementedError(f"{name} takes inputs u, which a file would have to hold too: take an undriven model")
    if not model.spec.latents:
        raise NotImplementedError(f"{name} has no latent variable to code: take a model that has, such as {CODABLE}")
    if type(model)._filter_step is not Equations._filter_step:
        raise NotImplementedError(
            f"{name} infers with some of its latents integrated out: there is no posterior of each frame to code from, "
            f"as there is of {CODABLE}"
        )


def in_double(model: DVAE) -> DVAE:
    """A copy in double precision, on the processor, for evaluation."""
    return copy.deepcopy(model).to("cpu", torch.float64).eval()


def gaussian(model: DVAE, name: str, distribution: Distribution) -> DiagonalGaussian:
    """A prior or posterior, if it is one that can be coded entry by entry.

    Raises:
        NotImplementedError: It is no diagonal Gaussian.
    """
    if not isinstance(distribution, DiagonalGaussian):
        raise NotImplementedError(
            f"latents are coded entry by entry, as Gaussians; {name!r} of {type(model).__name__} is a "
            f"{type(distribution).__name__}: take a model whose latents are such, as are those of {CODABLE}"
        )
    return distribution


class _Chosen(Given):
    """Latents that a coder chooses."""

    def __init__(self, choose: Choose) -> None:
        super().__init__()
        self.choose = choose

    def draw(self, name: str, prior: Distribution, known: Mapping[str, Tensor]) -> Tensor:
        return self.choose(name, prior, known)


class Walk:
    """The generator of one sequence. Latents of the whole sequence are chosen when it begins.

    Arguments:
        model: From `in_double`.
        choose: Where the values of the latents come from.

    Attributes:
        latents: Those of the sequence, and of the last frame.
    """

    def __init__(self, model: DVAE, choose: Choose) -> None:
        self.model, self.choose = model, choose
        draws = _Chosen(choose)
        self.state = written(model, "_initial_state")(model, 1, draws)
        self.of_sequence, self.latents = dict(draws.latents), dict(draws.latents)
        self.x_prev = torch.zeros(1, model.x_dim, dtype=torch.float64)

    def step(self) -> Distribution:
        """One frame: its latents are chosen, and p(x_t | .) follows."""
        draws = _Chosen(self.choose)
        observation: Distribution
        observation, self.state = written(self.model, "_step")(self.model, self.state, self.x_prev, None, draws)
        self.latents = {**self.of_sequence, **draws.latents}
        return observation

    def look_back_on(self, x_t: Tensor) -> None:
        """What the next frame looks back on, where the model does."""
        self.x_prev = self.model.read(x_t)


class Inference:
    """The inference model beside a `Walk`: posteriors of the latents that the walk asks for.

    Arguments:
        model: From `in_double`.
        x: The sequence, (1, T, x_dim).
        closed: What inference looks back on are the frames that the decoder has, told by `look_back_on`, and not those
            of the sequence. It makes a difference to predictive models.

    Raises:
        NotImplementedError: The model has no proposals; or the loop is to be closed, and inference looks ahead at
            frames whose reconstruction is not known yet.
    """

    def __init__(self, model: DVAE, x: Tensor, *, closed: bool = False) -> None:
        name = type(model).__name__
        if not model.has_proposal:
            raise NotImplementedError(
                f"{name} has no posterior of one frame given the latents before: its inference model must run forwards "
                "in time and be written as _context and _propose"
            )
        self.model, self.x, self.t = model, x, -1
        self.memory = model._initial_memory(1)
        self.streaming = closed and model.links.predictive
        if self.streaming and looks_ahead(model.spec):
            raise NotImplementedError(
                f"{name} predicts from past frames and infers from later ones: in a closed loop the encoder would need "
                "reconstructions that are not there yet. Take the model with inference_model='filter', or loop='open'"
            )
        self.past = Past(streaming=self.streaming)
        self.context = self._looked_at(x, {}) if not self.streaming or model.sequence_latents else Context({})
        self.at: dict[str, Tensor] = {}

    def _looked_at(self, x: Tensor, given: Mapping[str, Tensor]) -> Context:
        return self.model._context(self.model.read(x), None, None, Draws(given, "mean"), self.past)

    def begin(self, of_sequence: Mapping[str, Tensor]) -> None:
        """Go on from values of the latents of the sequence, which posteriors of frames may look at."""
        self.of_sequence = dict(of_sequence)
        if of_sequence:
            self.past = Past(streaming=self.streaming)
            self.context = self.context if self.streaming else self._looked_at(self.x, of_sequence)

    def next_frame(self) -> None:
        """Go on to the next frame, before the walk asks for its latents."""
        self.t += 1
        if self.streaming:
            self.at = self._looked_at(self.x[:, self.t : self.t + 1], self.of_sequence).at(0)
        else:
            self.at = self.context.at(self.t)

    def posterior(self, name: str, known: Mapping[str, Tensor]) -> DiagonalGaussian:
        """The posterior of a latent that the walk has come to."""
        if name in self.model.sequence_latents:
            return gaussian(self.model, name, self.context.latents[name].posterior)
        found = self.model._propose(name, self.at, {**self.memory, **known})
        return gaussian(self.model, name, found)

    def remember(self, latents: Mapping[str, Tensor]) -> None:
        """The latents that the frame got."""
        own = {name: value for name, value in latents.items() if name in self.model.frame_latents}
        self.memory = self.model._remember(self.memory, own, None)

    def look_back_on(self, x_t: Tensor) -> None:
        """The frame that the decoder has in place of the last one: the loop is closed here."""
        if self.streaming and "x" in self.past.carried:
            self.past.carried["x"] = self.model.read(x_t)
