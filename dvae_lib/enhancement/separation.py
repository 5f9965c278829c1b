r"""Noisy powers explained as speech and noise: the iterations of `vem`, over one spectrogram or many pieces of one."""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple, get_args

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from dvae_lib.denormals import flush_denormals
from dvae_lib.enhancement.nmf import FLOOR, random_factors
from dvae_lib.enhancement.pieces import Cut, weights
from dvae_lib.enhancement.vem import (
    Levels,
    Method,
    PointEstimate,
    Posterior,
    TunedPosterior,
    check_speech_model,
    differentiable_copy,
    expectation_maximisation_step,
)
from dvae_lib.enhancement.wiener import decision_directed_gain, track_noise, wiener_gain
from dvae_lib.models.base import DVAE

__all__ = ["NUM_ITERATIONS", "Settings", "Separation", "separate"]

# Chosen on the validation speakers of LibriSpeech.
NUM_ITERATIONS = 50
LEARNING_RATES: dict[Method, float] = {"peem": 0.02, "vem": 0.001}

FINAL_SAMPLES = 10
"""Samples of the latents that the posterior mean of the speech is averaged over."""

QUIET = 0.1
"""In each bin, the quietest frames, of which the noise's first level is the mean: their share of all frames."""

FIRST_LOOK = 2**14
"""Frames of which the first level is found; of a longer recording, so many of them, evenly spaced."""


class Settings(NamedTuple):
    """How `separate` works; see `dvae_lib.enhancement.enhance`."""

    method: Method = "peem"
    num_iterations: int = NUM_ITERATIONS
    rank: int = 2
    learning_rate: float | None = None
    num_samples: int = 1

    def checked(self) -> "Settings":
        """With the learning rate that the method has by default.

        Raises:
            ValueError: One of them is out of range.
        """
        if self.method not in get_args(Method):
            raise ValueError(f"method must be one of {', '.join(get_args(Method))}; got {self.method!r}")
        if self.num_iterations < 1 or self.num_samples < 1:
            raise ValueError(
                f"num_iterations and num_samples must be at least 1; got {self.num_iterations} and {self.num_samples}"
            )
        rate = LEARNING_RATES[self.method] if self.learning_rate is None else self.learning_rate
        if not 0 < rate < math.inf:
            raise ValueError(f"learning_rate must be positive and finite; got {rate}")
        return self._replace(learning_rate=rate)


class Separation:
    r"""What explains a noisy recording.

    Attributes:
        levels: Noise and gains of each piece; the dictionary of the noise is the same in all.
        objective: The objective before each iteration, in nats over all pieces.
    """

    def __init__(
        self, settings: Settings, posteriors: Sequence[Posterior], levels: list[Levels], objective: tuple[float, ...]
    ) -> None:
        self.settings, self.levels, self.objective = settings, levels, objective
        self._posteriors = posteriors

    @torch.no_grad()
    def speech(
        self, i: int, generator: Generator | None = None
    ) -> tuple[Float[Tensor, "frames bins"], Float[Tensor, "frames bins"]]:
        r"""Posterior means in piece i: of the Wiener gain :math:`g_t v_{s,ft} / v_{x,ft}`, and of :math:`g_t v_{s,ft}`.

        Raises:
            FloatingPointError: They are NaN or infinite.
        """
        W, _, g = self.levels[i]
        gain, speech = (g.new_zeros(len(g), len(W)) for _ in range(2))
        count = 1 if self.settings.method == "peem" else FINAL_SAMPLES
        for _ in range(count):  # one by one: of a long recording a sample is large
            sample = g[:, None] * self._posteriors[i].draw(1, generator).speech[0]
            speech += sample / count
            gain += wiener_gain(sample, self.levels[i].noise) / count
        if not bool(torch.isfinite(gain).all()):
            raise FloatingPointError(
                f"The last iteration diverged: take a smaller learning_rate than {self.settings.learning_rate:g}"
            )
        return gain, speech


@flush_denormals()  # gradients through a recurrent decoder are full of them
def separate(
    model: DVAE,
    power: Callable[[int], Float[Tensor, "_ bins"]],
    places: Sequence[Cut],
    settings: Settings = Settings(),  # noqa: B008  (a tuple)
    *,
    generator: Generator | None = None,
    after_piece: Callable[[], object] = lambda: None,
) -> Separation:
    r"""Explain a noisy recording as speech and noise.

    An iteration is a step of Adam on the posterior of the latents, then one multiplicative update each of
    :math:`\mathbf{g}`, :math:`\mathbf{H}` and :math:`\mathbf{W}`, at the latents that the step began with. Each
    by itself raises (a gradient step if it is small enough)

    .. math::
        \mathbb{E}_{q}\Big[ \sum_{f,t} - \log v_{x,ft} - \frac{|x_{ft}|^2}{v_{x,ft}} \Big]
        - D_\mathrm{KL}\big(q(\mathbf{z} | \mathbf{x}) \,\|\, p(\mathbf{z})\big)

    or, for "peem", :math:`\log p(|\mathbf{x}|^2, \mathbf{z})`, the same with the latents at a point.

    The inference model reads the recording after a classical Wiener filter. (In the paper it reads the noisy recording
    itself. Neither is the clean speech that it was trained on; on the validation speakers the filtered one is the
    better start, above all in stationary noise.) The likelihood is that of the recording as it is.

    Of a long recording one piece at a time is held. What is learned is learned from all of them together: they share
    the dictionary of the noise (and for "vem" the inference network), so that they differ from the whole only in what
    the networks see beyond their ends.

    Arguments:
        model: A DVAE of clean speech; it is not changed. See `check_speech_model`.
        power: Gives the noisy powers :math:`|x_{ft}|^2` of a piece by its number, on the model's device and scaled as
            the model wants them; called in every iteration.
        places: The frames of each piece; see `cuts`.
        settings: How.
        generator: Source of randomness, on the model's device.
        after_piece: Called after each piece in each iteration.

    Raises:
        ValueError: A model that is no model of clean speech, or a setting out of range.
        FloatingPointError: The objective became NaN or infinite.
    """
    floor = check_speech_model(model).settings.power_floor
    settings = settings.checked()
    assert settings.learning_rate is not None
    model = differentiable_copy(model)

    def powers() -> Iterator[Tensor]:
        return (power(i).clamp_min(max(floor, FLOOR)) for i in range(len(places)))

    def filtered(power: Tensor) -> Tensor:
        # The inference model was trained on clean speech, so that it reads what looks more like it.
        return (decision_directed_gain(power, track_noise(power)).square() * power).clamp_min(floor)

    def again(i: int) -> Tensor:
        return filtered(power(i).clamp_min(max(floor, FLOOR)))

    posteriors: list[Posterior] = []
    some = []
    num_frames = places[-1][1]
    for i, seen in enumerate(powers()):
        if settings.method == "peem":
            posteriors.append(PointEstimate(model, filtered(seen)))
        else:
            posteriors.append(TunedPosterior(model, filtered(seen) if len(places) == 1 else partial(again, i)))
        some.append(seen[:: max(1, num_frames // FIRST_LOOK)].clone())
    own = posteriors if settings.method == "peem" else posteriors[:1]  # the network is the same for all pieces
    optimizer = torch.optim.Adam([p for posterior in own for p in posterior.parameters], lr=settings.learning_rate)
    frames = torch.cat(some)
    # Drawn for the whole recording at once, so that a seed's start does not depend on the pieces.
    W, H = random_factors(frames[:1].expand(num_frames, -1), _quiet_level(frames), settings.rank, generator)
    levels = [Levels(W, H[:, first:last], frames.new_ones(last - first)) for first, last in places]
    shares = None if len(places) == 1 else [w.to(frames) for w in weights(places)]
    objective = []
    for iteration in range(settings.num_iterations):
        value, levels = expectation_maximisation_step(
            posteriors,
            optimizer,
            powers(),
            levels,
            settings.num_samples,
            generator,
            weights=shares,
            after_piece=after_piece,
        )
        if not math.isfinite(value):
            raise FloatingPointError(
                f"The objective is {value} in iteration {iteration + 1}: take a smaller learning_rate than "
                f"{settings.learning_rate:g}"
            )
        objective.append(value)
    return Separation(settings, posteriors, levels, tuple(objective))


def _quiet_level(power: Float[Tensor, "frames bins"]) -> Float[Tensor, " bins"]:
    """For each bin, the mean power of its quietest frames: a first guess of the noise."""
    return power.sort(0).values[: max(1, round(QUIET * power.shape[0]))].mean(0)
