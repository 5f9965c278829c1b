r"""Does a model that is fed its own output jam the line? The tone that it feeds itself, and what it hears beside it.

A model of powers in generation mode (Section 13.3.3) may put out one frequency far too loud, and need it: fed back, the
tone decides alone on which side the units that read the frame saturate, so that the recurrent state hears nothing of
the rest, and errors cannot accumulate. These functions find the loudest such frequency, and decode the same latent
vectors with edited feedback.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from dvae_lib.distributions import support_of
from dvae_lib.models.base import DVAE

__all__ = ["EDITS", "Heard", "Tone", "hearing", "jamming", "own_tone"]

SILENCE = 1e-6
"""The power that a tone is turned down to."""


class Tone(NamedTuple):
    """The entry that a model's own output has most too loud.

    Attributes:
        entry: Its number; of a spectrum, the bin.
        excess: By how much it is louder than the data there, in dB, averaged over frames.
        charge: What the Gamma likelihood charges for that level against the right average level, nats per frame.
    """

    entry: int
    excess: float
    charge: float


class Heard(NamedTuple):
    r"""What comes of decoding while hearing certain frames.

    Attributes:
        cost: :math:`-\log p(\mathbf{x}_t | \cdot)` at the inferred latents, nats per frame.
        movement: Standard deviation of the units that read the frame before, averaged over them; between 0 and 1, since
            they lie between -1 and 1. 0: the line is dead. NaN where the model has no such layer.
    """

    cost: float
    movement: float


Edit = Callable[[Tensor, Tensor, Tensor], Tensor]
"""What is heard of a frame: from the model's own mean, the true frame, and where the tone is."""

EDITS: dict[str, Edit] = {
    "own": lambda mean, true, tone: mean,
    "own, tone silenced": lambda mean, true, tone: mean.masked_fill(tone, SILENCE),
    "true": lambda mean, true, tone: true,
    "true, with the tone": lambda mean, true, tone: torch.where(tone, mean, true),
}
"""Generation mode, the same without the tone, teacher forcing, and the same with the tone."""


@torch.no_grad()
def own_tone(model: DVAE, x: Float[Tensor, "batch time x_dim"], *, generator: Generator | None = None) -> Tone:
    """The tone of a model in generation mode.

    Arguments:
        model: A predictive model of powers.
        x: Power spectrograms.
        generator: Source of the latents' noise.

    Raises:
        ValueError: The model has no predictive link, or its observation model is not one of powers.
    """
    _check(model)
    own = model.reconstruct(x, feedback=1.0, generator=generator).mean
    ratio = own.clamp_min(SILENCE**2).log10() - x.clamp_min(SILENCE**2).log10()
    excess = 10 * ratio.mean((0, 1))
    entry = int(excess.argmax())
    mean, right = own[..., entry], x[..., entry].mean()
    charge = ((mean / right).log() + x[..., entry] / mean - 1).mean()
    return Tone(entry, float(excess[entry]), float(charge))


@torch.no_grad()
def hearing(
    model: DVAE,
    x: Float[Tensor, "batch time x_dim"],
    edit: Edit,
    entry: int,
    *,
    generator: Generator | None = None,
) -> Heard:
    """Decode the latents inferred from x while hearing edited frames.

    Arguments:
        model: A predictive model of powers that generates frame by frame.
        x: Power spectrograms.
        edit: What is heard; those of `EDITS`, or another function.
        entry: Where the tone is.
        generator: Source of the latents' noise.

    Raises:
        ValueError: See `own_tone`.
    """
    _check(model)
    tone = torch.arange(model.x_dim, device=x.device) == entry
    latents = {name: latent.sample for name, latent in model.inference(x, generator=generator).items()}
    of_sequence: Any = {name: latents[name] for name in model.sequence_latents}
    state = model.initial_state(len(x), **of_sequence)
    x_prev, units, cost = torch.zeros_like(x[:, 0]), [], 0.0
    layer = getattr(model, "phi_x", None)
    for t, x_t in enumerate(x.unbind(1)):
        of_frame: Any = {f"{name}_t": latents[name][:, t] for name in model.frame_latents}
        step = model.step(state, x_prev, **of_frame)
        cost -= float(step.observation.log_prob(x_t).mean()) / x.shape[1]
        state, x_prev = step.state, edit(step.observation.mean, x_t, tone)
        if isinstance(layer, nn.Module):
            units.append(layer(model.read(x_prev)))
    movement = float(torch.cat(units).std(0, correction=0).mean()) if units else float("nan")
    return Heard(cost, movement)


def jamming(model: DVAE, x: Float[Tensor, "batch time x_dim"], *, seed: int = 0) -> tuple[Tone, dict[str, Heard]]:
    """The tone, and what is heard under each edit of `EDITS`, with the same latents.

    Where the tone jams the line, "own, tone silenced" costs far more than "own", "true, with the tone" about as much as
    "own", and the units move little.

    Arguments:
        model: A predictive model of powers.
        x: Power spectrograms.
        seed: Of the latents' noise.
    """

    def noise() -> Generator:
        return Generator(x.device).manual_seed(seed)

    tone = own_tone(model, x, generator=noise())
    return tone, {name: hearing(model, x, edit, tone.entry, generator=noise()) for name, edit in EDITS.items()}


def _check(model: DVAE) -> None:
    model.check_feedback()
    if support_of(model.observation).low < 0:
        raise ValueError(
            f"a tone is looked for in powers, but the observation model {model.observation!r} takes negative values: "
            "use a model of powers, such as one with 'gamma'"
        )
