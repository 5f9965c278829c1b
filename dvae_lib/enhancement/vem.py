r"""Speech enhancement by variational expectation-maximisation, with a DVAE as the model of clean speech.

Leglaive, Alameda-Pineda, Girin and Horaud (2020), "A recurrent variational autoencoder for speech enhancement". In each
bin f of each frame t, the short-time Fourier transform of a noisy recording is

.. math::
    x_{ft} = \sqrt{g_t} \, s_{ft} + b_{ft}, \qquad
    s_{ft} | \mathbf{z} \sim \mathcal{N}_c\big(0, v_{s,ft}(\mathbf{z})\big), \qquad
    b_{ft} \sim \mathcal{N}_c\big(0, (\mathbf{W}\mathbf{H})_{ft}\big)

so that :math:`x_{ft} | \mathbf{z} \sim \mathcal{N}_c(0, v_{x,ft})` with
:math:`v_{x,ft} = g_t v_{s,ft}(\mathbf{z}) + (\mathbf{W}\mathbf{H})_{ft}`. The speech variances
:math:`v_s(\mathbf{z})` are the mean of :math:`p(\mathbf{x}_t | \mathbf{z})` of a DVAE with Gamma observations that was
trained on clean speech; it stays as it is. The noise is learned from the recording itself.
"""

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from dvae_lib.data.speech import SpeechFrontEnd
from dvae_lib.enhancement.nmf import (
    FLOOR,
    dictionary_sums,
    factors_variance,
    update_activations,
    update_dictionary,
    update_gains,
)
from dvae_lib.models.base import DVAE
from dvae_lib.models.front_end import front_end_of
from dvae_lib.objectives import variational_lower_bound

__all__ = [
    "Drawn",
    "Levels",
    "Method",
    "PointEstimate",
    "Posterior",
    "TunedPosterior",
    "check_speech_model",
    "differentiable_copy",
    "expectation_maximisation_step",
    "expected_log_likelihood",
    "inference_parameters",
]

Method = Literal["peem", "vem"]
"""How the latents' posterior is approximated: `PointEstimate` or `TunedPosterior`."""


class Levels(NamedTuple):
    """What is learned from the recording beside its latents.

    Attributes:
        W: The dictionary of the noise.
        H: Its activations.
        g: The gains of the speech model.
    """

    W: Float[Tensor, "bins rank"]
    H: Float[Tensor, "rank frames"]
    g: Float[Tensor, " frames"]

    @property
    def noise(self) -> Float[Tensor, "frames bins"]:
        """The noise variances."""
        return factors_variance(self.W, self.H)


class Drawn(NamedTuple):
    """Speech variances for samples of the latents, and what the latents cost."""

    speech: Float[Tensor, "samples frames bins"]
    cost: Float[Tensor, ""]


class PointEstimate:
    r"""One value of the latents instead of a posterior: point-estimate EM (PEEM).

    It starts at the posterior mean that the inference model gives; its cost is :math:`-\log p(\mathbf{z})`. The
    inference model is not run again in each iteration, which makes it fast.

    Arguments:
        model: A speech model; see `check_speech_model`. Its weights are frozen: pass a copy.
        x: What the inference model reads.
    """

    def __init__(self, model: DVAE, x: Float[Tensor, "frames bins"]) -> None:
        self.model = model.requires_grad_(False)
        with torch.no_grad():
            start = model.inference(x[None], draw="mean")
        # Generation without a predictive link looks at the shape only: one frame for all takes no memory.
        self.x = x[None, :1].clone().expand(1, *x.shape)
        self.latents = {name: latent.sample.clone().requires_grad_() for name, latent in start.items()}
        self.parameters = list(self.latents.values())

    def draw(self, num_samples: int, generator: Generator | None = None) -> Drawn:
        r"""The speech variances at the point, and :math:`-\log p(\mathbf{z})`, in nats."""
        prior, observation = self.model.generation(self.x, self.latents)
        cost = -sum(prior[name].log_prob(value).sum() for name, value in self.latents.items())
        return Drawn(observation.mean.clamp_min(FLOOR), torch.as_tensor(cost))


class TunedPosterior:
    r"""The model's own inference network, fine-tuned on the noisy recording.

    Its cost is :math:`D_\mathrm{KL}(q_\phi(\mathbf{z} | \mathbf{x}) \| p(\mathbf{z}))`. What the generative model uses
    is not tuned; see `inference_parameters`.

    Arguments:
        model: A speech model; see `check_speech_model`. It is changed: pass a copy.
        x: What the inference model reads; or what computes it anew for each draw, of a recording that is too long for
            all its pieces to be held.
    """

    def __init__(self, model: DVAE, x: Float[Tensor, "frames bins"] | Callable[[], Tensor]) -> None:
        self.model, self.x = model, x
        tuned = inference_parameters(model)
        model.requires_grad_(False)
        for parameter in tuned.values():
            parameter.requires_grad_(True)
        self.parameters: list[Tensor] = list(tuned.values())

    def draw(self, num_samples: int, generator: Generator | None = None) -> Drawn:
        """Speech variances at samples of the posterior, and the KL divergence from the prior, in nats."""
        x = (self.x() if callable(self.x) else self.x).expand(num_samples, -1, -1)
        output = self.model(x, generator=generator)
        kl = variational_lower_bound(output, x).total_kl.mean()
        return Drawn(output.observation.mean.clamp_min(FLOOR), kl)


Posterior = PointEstimate | TunedPosterior
"""What stands for the latents' posterior given the noisy recording: `parameters`, for Adam to adjust, and `draw`."""


@torch.enable_grad()  # also where the caller wants no gradients
def expectation_maximisation_step(
    posteriors: Sequence[Posterior],
    optimizer: torch.optim.Optimizer,
    powers: Iterable[Float[Tensor, "_ bins"]],
    levels: Sequence[Levels],
    num_samples: int = 1,
    generator: Generator | None = None,
    *,
    weights: Sequence[Float[Tensor, " _"]] | None = None,
    after_piece: Callable[[], object] = lambda: None,
) -> tuple[float, list[Levels]]:
    """One iteration: the gradient step on the posterior, and the multiplicative updates, at the same samples.

    A long recording is gone through in pieces, one after the other in memory. Each has its latents, gains and
    activations; one dictionary of the noise is updated by the sums over all of them, and one gradient step is taken.

    Arguments:
        posteriors: That of the latents of each piece; they are changed. Of a recording in one piece, one.
        optimizer: Of the posteriors' parameters.
        powers: The noisy powers of each piece.
        levels: Noise and gains of each piece so far; the dictionary is the same in all.
        num_samples: Number R of samples of the latents.
        generator: Source of randomness.
        weights: How much the frames of each piece count in the sums over frames; those of frames that two pieces have
            in common add up to one. By default all are one.
        after_piece: Called after each piece.

    Returns:
        The objective before the iteration, in nats, and the new noise and gains.
    """
    optimizer.zero_grad()
    W, value, sums, updated = levels[0].W, 0.0, None, []
    for i, (posterior, power, (_, H, g)) in enumerate(zip(posteriors, powers, levels, strict=True)):
        speech, cost = posterior.draw(num_samples, generator)
        objective = expected_log_likelihood(power, g[:, None] * speech + factors_variance(W, H)) - cost
        (-objective).backward()
        value += objective.item()
        speech = speech.detach()
        g = update_gains(power, g, speech, factors_variance(W, H))
        others = g[:, None] * speech
        H = update_activations(power, W, H, others)
        piece = dictionary_sums(power, W, H, others, None if weights is None else weights[i])
        sums = piece if sums is None else (sums[0] + piece[0], sums[1] + piece[1])
        updated.append((H, g))
        after_piece()
    optimizer.step()
    assert sums is not None
    W, total = update_dictionary(W, *sums)
    return value, [Levels(W, H * total[:, None], g) for H, g in updated]


def expected_log_likelihood(
    power: Float[Tensor, "frames bins"], variance: Float[Tensor, "samples frames bins"]
) -> Float[Tensor, ""]:
    r"""The log-density of the noisy powers, in nats: :math:`\sum_{f,t} - \log v_{x,ft} - |x_{ft}|^2 / v_{x,ft}`.

    Arguments:
        power: The noisy powers :math:`|x_{ft}|^2`.
        variance: Variances :math:`v_{x,ft}` for samples of the latents, over which the mean is taken.
    """
    return (-variance.log() - power / variance).sum((1, 2)).mean()


def check_speech_model(model: DVAE) -> SpeechFrontEnd:
    """Refuse a model that cannot stand for clean speech behind noise; the front end of one that can.

    Raises:
        ValueError: The observations are not Gamma, or not the spectra of the model's front end; generation looks at
            past observations, which are noisy here; or it needs an input.
    """
    name = type(model).__name__
    if model.observation != "gamma":
        raise ValueError(
            f"this {name} has {model.observation!r} observations; enhancement needs a model of power spectra, "
            "observation='gamma', whose mean is the variance of the spectral coefficients"
        )
    if model.links.predictive:
        raise ValueError(
            f"{name} generates each frame from past clean frames, which a noisy recording does not show; use a model "
            "without a predictive link, such as a VAE, DKF, RVAE or DSAE"
        )
    if model.u_dim:
        raise ValueError(f"this {name} is driven (u_dim={model.u_dim}); a recording has no input u")
    if "standardizer" in model.metadata:
        raise ValueError(f"this {name} was trained on standardised vectors, not on power spectra")
    return front_end_of(model)


def inference_parameters(model: DVAE) -> dict[str, nn.Parameter]:
    """The parameters that generation does not use, by name: those to which no gradient flows from it.

    Where inference and generation share layers, as an SRNN's or a structured DSAE's do, these belong to generation.

    Arguments:
        model: Any model.
    """
    model, given = differentiable_copy(model), dict(model.named_parameters())
    like = next(model.parameters())
    x, u = like.new_ones(1, 3, model.x_dim), like.new_ones(1, 3, model.u_dim) if model.u_dim else None
    with torch.no_grad():
        latents = {name: latent.sample for name, latent in model.inference(x, u, draw="mean").items()}
    with torch.enable_grad():
        prior, observation = model.generation(x, latents, u)
        total = observation.log_prob(x).sum() + sum(prior[name].log_prob(latents[name]).sum() for name in prior)
    gradients = torch.autograd.grad(total, list(model.parameters()), allow_unused=True)
    return {name: given[name] for name, gradient in zip(given, gradients, strict=True) if gradient is None}


def differentiable_copy(model: DVAE) -> DVAE:
    """A copy of which every parameter has a gradient, in the mode in which a GPU's recurrent layers have one."""
    return copy.deepcopy(model).train().requires_grad_(True)
