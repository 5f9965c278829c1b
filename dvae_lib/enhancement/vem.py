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
import inspect
import math
from dataclasses import replace
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn
from tqdm.auto import tqdm

from dvae_lib.data.audio import AudioError
from dvae_lib.data.speech import SpeechFrontEnd
from dvae_lib.denormals import flush_denormals
from dvae_lib.enhancement.nmf import FLOOR, factors_variance, random_factors, update_factors, update_gains
from dvae_lib.enhancement.wiener import decision_directed_gain, track_noise, wiener_gain
from dvae_lib.evaluation import front_end_of
from dvae_lib.models.base import DVAE
from dvae_lib.objectives import variational_lower_bound

__all__ = [
    "Drawn",
    "Enhanced",
    "Levels",
    "Method",
    "PointEstimate",
    "Posterior",
    "TunedPosterior",
    "check_speech_model",
    "enhance",
    "expectation_maximisation_step",
    "expected_log_likelihood",
    "inference_parameters",
]

Method = Literal["peem", "vem"]
"""How the latents' posterior is approximated: `PointEstimate` or `TunedPosterior`."""

# Chosen on the validation speakers of LibriSpeech.
NUM_ITERATIONS = 50
LEARNING_RATES: dict[Method, float] = {"peem": 0.02, "vem": 0.001}

FINAL_SAMPLES = 10
"""Samples of the latents that the posterior mean of the speech is averaged over."""

QUIET = 0.1
"""In each bin, the quietest frames, of which the noise's first level is the mean: their share of all frames."""


class Enhanced(NamedTuple):
    r"""An enhanced recording.

    Attributes:
        waveform: The estimate of the speech as it is in the mixture, :math:`\sqrt{g_t} s_{ft}`: as long as the
            recording, at its sample rate and level.
        sample_rate: Of the waveform, in Hz.
        gain: What each coefficient of the noisy spectrogram was multiplied by, between 0 and 1: the posterior mean of
            :math:`g_t v_{s,ft} / v_{x,ft}`.
        speech: The posterior mean of the speech variances :math:`g_t v_{s,ft}`, for the recording scaled as the model
            wants it.
        W: The dictionary of the noise.
        H: Its activations.
        g: The gains of the speech model.
        objective: The objective before each iteration, in nats over the whole recording. For "vem" it is a lower bound
            of :math:`\log p(|\mathbf{x}|^2)`, estimated by sampling; for "peem"
            :math:`\log p(|\mathbf{x}|^2, \mathbf{z})`.
    """

    waveform: Float[Tensor, " samples"]
    sample_rate: int
    gain: Float[Tensor, "frames bins"]
    speech: Float[Tensor, "frames bins"]
    W: Float[Tensor, "bins rank"]
    H: Float[Tensor, "rank frames"]
    g: Float[Tensor, " frames"]
    objective: tuple[float, ...]


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
        self.model, self.x = model.requires_grad_(False), x[None]
        with torch.no_grad():
            start = model.inference(self.x, draw="mean")
        self.latents = {name: latent.sample.clone().requires_grad_() for name, latent in start.items()}
        self.parameters = list(self.latents.values())

    def draw(self, num_samples: int, generator: Generator | None = None) -> Drawn:
        r"""The speech variances at the point, and :math:`-\log p(\mathbf{z})`, in nats."""
        prior, observation, _ = self.model.generation(self.x, self.latents)
        cost = -sum(prior[name].log_prob(value).sum() for name, value in self.latents.items())
        return Drawn(observation.mean.clamp_min(FLOOR), torch.as_tensor(cost))


class TunedPosterior:
    r"""The model's own inference network, fine-tuned on the noisy recording.

    Its cost is :math:`D_\mathrm{KL}(q_\phi(\mathbf{z} | \mathbf{x}) \| p(\mathbf{z}))`. What the generative model uses
    is not tuned; see `inference_parameters`.

    Arguments:
        model: A speech model; see `check_speech_model`. It is changed: pass a copy.
        x: What the inference model reads.
    """

    def __init__(self, model: DVAE, x: Float[Tensor, "frames bins"]) -> None:
        self.model, self.x = model, x[None]
        tuned = inference_parameters(model)
        model.requires_grad_(False)
        for parameter in tuned.values():
            parameter.requires_grad_(True)
        self.parameters: list[Tensor] = list(tuned.values())

    def draw(self, num_samples: int, generator: Generator | None = None) -> Drawn:
        """Speech variances at samples of the posterior, and the KL divergence from the prior, in nats."""
        x = self.x.expand(num_samples, -1, -1)
        output = self.model(x, generator=generator)
        kl = variational_lower_bound(output, x).total_kl.mean()
        return Drawn(output.observation.mean.clamp_min(FLOOR), kl)


Posterior = PointEstimate | TunedPosterior
"""What stands for the latents' posterior given the noisy recording: `parameters`, for Adam to adjust, and `draw`."""


@flush_denormals()  # gradients through a recurrent decoder are full of them
def enhance(
    model: DVAE,
    waveform: Float[Tensor, " samples"],
    sample_rate: int | None = None,
    *,
    method: Method = "peem",
    num_iterations: int = NUM_ITERATIONS,
    rank: int = 2,
    learning_rate: float | None = None,
    num_samples: int = 1,
    generator: Generator | None = None,
    progress: bool = False,
) -> Enhanced:
    r"""Estimate the speech in a noisy recording.

    An iteration is a step of Adam on the posterior of the latents, then one multiplicative update each of
    :math:`\mathbf{g}`, :math:`\mathbf{H}` and :math:`\mathbf{W}`, at the latents that the step began with. Each
    by itself raises (a gradient step if it is small enough)

    .. math::
        \mathbb{E}_{q}\Big[ \sum_{f,t} - \log v_{x,ft} - \frac{|x_{ft}|^2}{v_{x,ft}} \Big]
        - D_\mathrm{KL}\big(q(\mathbf{z} | \mathbf{x}) \,\|\, p(\mathbf{z})\big)

    or, for "peem", :math:`\log p(|\mathbf{x}|^2, \mathbf{z})`, the same with the latents at a point. The estimate is
    the posterior mean :math:`\mathbb{E}_{q}[g_t v_{s,ft} / v_{x,ft}] \, x_{ft}`, back in the time domain.

    The inference model reads the recording after a classical Wiener filter. (In the paper it reads the noisy recording
    itself. Neither is the clean speech that it was trained on; on the validation speakers the filtered one is the
    better start, above all in stationary noise.) The likelihood is that of the recording as it is.

    Arguments:
        model: A DVAE of clean speech, on any device; it is not changed. See `check_speech_model`.
        waveform: The noisy recording, one channel, on the CPU; a window long at least.
        sample_rate: Of the waveform, in Hz; by default that of the model. Another one is resampled, the estimate back:
            what lies above half the model's rate is lost.
        method: "peem", a point estimate of the latents, or "vem", the inference network fine-tuned.
        num_iterations: More iterations raise the objective further, and soon no longer improve the speech.
        rank: Number K of spectra that describe the noise. Few are better unless the noise is very different from
            speech, which many describe as well.
        learning_rate: Of Adam; by default 0.02 for "peem" and 0.001 for "vem".
        num_samples: Number R of samples of the latents in an iteration of "vem". "peem" has but one point.
        generator: Source of randomness, on the model's device.
        progress: Show a progress bar with the remaining time.

    Returns:
        The estimate and all that was learned.

    Raises:
        ValueError: A model that is no model of clean speech, or a waveform that cannot be enhanced.
        FloatingPointError: The objective became NaN or infinite.
        ImportError: Another sample rate, and the package `soxr` is missing.

    Example:
        >>> from dvae_lib.models import VAE
        >>> noisy = torch.randn(4000, generator=torch.Generator().manual_seed(0))
        >>> enhance(VAE(513, 4, observation="gamma"), noisy, num_iterations=2).waveform.shape
        torch.Size([4000])
    """
    front_end = check_speech_model(model)
    if method not in get_args(Method):
        raise ValueError(f"method must be one of {', '.join(get_args(Method))}; got {method!r}")
    learning_rate = LEARNING_RATES[method] if learning_rate is None else learning_rate
    if num_iterations < 1 or num_samples < 1:
        raise ValueError(f"num_iterations and num_samples must be at least 1; got {num_iterations} and {num_samples}")
    if not 0 < learning_rate < math.inf:
        raise ValueError(f"learning_rate must be positive and finite; got {learning_rate}")
    model_rate = front_end.settings.sample_rate
    sample_rate = model_rate if sample_rate is None else sample_rate
    noisy, scale = _prepared(waveform, sample_rate, front_end)

    like = next(model.parameters())
    spectrum = front_end.spectrum(noisy.to(like))
    power = spectrum.abs().square().clamp_min(max(front_end.settings.power_floor, FLOOR))
    model = _differentiable_copy(model)
    # The inference model was trained on clean speech, so that it reads what looks more like it.
    seen = decision_directed_gain(power, track_noise(power)).square() * power
    seen = seen.clamp_min(front_end.settings.power_floor)
    posterior: Posterior = PointEstimate(model, seen) if method == "peem" else TunedPosterior(model, seen)
    optimizer = torch.optim.Adam(posterior.parameters, lr=learning_rate)
    W, H = random_factors(power, _quiet_level(power), rank, generator)
    levels = Levels(W, H, power.new_ones(power.shape[0]))
    objective = []
    for iteration in tqdm(range(num_iterations), "Enhancing", disable=not progress, leave=False):
        value, levels = expectation_maximisation_step(posterior, optimizer, power, levels, num_samples, generator)
        if not math.isfinite(value):
            raise FloatingPointError(
                f"The objective is {value} in iteration {iteration + 1}: take a smaller learning_rate than "
                f"{learning_rate:g}."
            )
        objective.append(value)
    gain, speech = torch.zeros_like(power), torch.zeros_like(power)
    count = 1 if method == "peem" else FINAL_SAMPLES
    with torch.no_grad():
        for _ in range(count):  # one by one: of a long recording a sample is large
            sample = levels.g[:, None] * posterior.draw(1, generator).speech[0]
            speech += sample / count
            gain += wiener_gain(sample, levels.noise) / count
    if not bool(torch.isfinite(gain).all()):
        raise FloatingPointError(f"The last iteration diverged: take a smaller learning_rate than {learning_rate:g}.")
    estimate = front_end.from_spectrum(gain * spectrum, len(noisy)).to("cpu", waveform.dtype)
    restored = _resampled(scale * estimate, model_rate, sample_rate, waveform.shape[0])
    return Enhanced(restored, sample_rate, gain, speech, *levels, tuple(objective))


@torch.enable_grad()  # also where the caller wants no gradients
def expectation_maximisation_step(
    posterior: Posterior,
    optimizer: torch.optim.Optimizer,
    power: Float[Tensor, "frames bins"],
    levels: Levels,
    num_samples: int = 1,
    generator: Generator | None = None,
) -> tuple[float, Levels]:
    """One iteration: the gradient step on the posterior, and the multiplicative updates, at the same samples.

    Arguments:
        posterior: That of the latents; it is changed.
        optimizer: Of the posterior's parameters.
        power: The noisy powers.
        levels: Noise and gains so far.
        num_samples: Number R of samples of the latents.
        generator: Source of randomness.

    Returns:
        The objective before the iteration, in nats, and the new noise and gains.
    """
    speech, cost = posterior.draw(num_samples, generator)
    value = expected_log_likelihood(power, levels.g[:, None] * speech + levels.noise) - cost
    optimizer.zero_grad()
    (-value).backward()
    optimizer.step()
    speech = speech.detach()
    g = update_gains(power, levels.g, speech, levels.noise)
    W, H = update_factors(power, levels.W, levels.H, g[:, None] * speech)
    return value.item(), Levels(W, H, g)


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
    if "feedback" in inspect.signature(model.generation).parameters:
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
    model, given = _differentiable_copy(model), dict(model.named_parameters())
    like = next(model.parameters())
    x, u = like.new_ones(1, 3, model.x_dim), like.new_ones(1, 3, model.u_dim) if model.u_dim else None
    with torch.no_grad():
        latents = {name: latent.sample for name, latent in model.inference(x, u, draw="mean").items()}
    with torch.enable_grad():
        prior, observation, _ = model.generation(x, latents, u)
        total = observation.log_prob(x).sum() + sum(prior[name].log_prob(latents[name]).sum() for name in prior)
    gradients = torch.autograd.grad(total, list(model.parameters()), allow_unused=True)
    return {name: given[name] for name, gradient in zip(given, gradients, strict=True) if gradient is None}


def _differentiable_copy(model: DVAE) -> DVAE:
    """A copy of which every parameter has a gradient, in the mode in which a GPU's recurrent layers have one."""
    return copy.deepcopy(model).train().requires_grad_(True)


def _quiet_level(power: Float[Tensor, "frames bins"]) -> Float[Tensor, " bins"]:
    """For each bin, the mean power of its quietest frames: a first guess of the noise."""
    return power.sort(0).values[: max(1, round(QUIET * power.shape[0]))].mean(0)


def _prepared(waveform: Tensor, sample_rate: int, front_end: SpeechFrontEnd) -> tuple[Tensor, float]:
    """The recording at the model's rate and, as in training, with a peak of 1; and what undoes the scale."""
    settings = front_end.settings
    if sample_rate < 1:
        raise ValueError(f"sample_rate must be positive; got {sample_rate}")
    if not waveform.is_floating_point():
        raise TypeError(f"waveform holds {waveform.dtype}, not floating-point samples; scale it to [-1, 1] first")
    waveform = waveform.detach()
    if waveform.ndim != 1:
        raise ValueError(f"waveform must be one channel of shape (samples,); got {tuple(waveform.shape)}")
    bad = (~torch.isfinite(waveform)).nonzero()
    if len(bad):
        raise AudioError(f"The waveform holds {len(bad)} NaN or infinite samples, the first at {int(bad[0])}.")
    resampled = _resampled(waveform, sample_rate, settings.sample_rate)
    if len(resampled) < settings.window_length:
        raise AudioError(
            f"The waveform lasts {1000 * len(resampled) / settings.sample_rate:.0f} ms, less than one window of "
            f"{1000 * settings.window_length / settings.sample_rate:.0f} ms: nothing can be estimated from it."
        )
    prepared = SpeechFrontEnd(replace(settings, trim_db=None)).prepare(resampled)
    return prepared, float(resampled.abs().max() / prepared.abs().max())


def _resampled(waveform: Tensor, rate: int, wanted: int, num_samples: int | None = None) -> Tensor:
    """The waveform at another rate; with `num_samples`, cut or filled up with zeros to that length."""
    if rate != wanted:
        try:
            import soxr
        except ImportError as error:
            raise ImportError('Resampling needs the package soxr: pip install "dvae-lib[speech]"') from error
        waveform = torch.from_numpy(soxr.resample(waveform.numpy(), rate, wanted, quality="VHQ"))
    if num_samples is None or num_samples == len(waveform):
        return waveform
    return nn.functional.pad(waveform, (0, num_samples - len(waveform)))
