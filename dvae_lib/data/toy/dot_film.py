"""A dot that moves on a line of pixels, by rules that change: the film of the structured VAE."""

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from dvae_lib.data.toy.base import ToySequences, register_toy
from dvae_lib.devices import on_the_host

__all__ = ["dot_film"]


@on_the_host()
def dot_film(
    num_sequences: int,
    num_steps: int,
    *,
    size: int = 20,
    width: float = 0.15,
    speeds: Sequence[float] = (0.02, 0.08),
    switch: float = 0.05,
    noise_std: float = 0.1,
    generator: Generator | None = None,
) -> ToySequences:
    r"""Films of one bright dot that runs to and fro on a line, at one of several speeds.

    .. math:: x_{t,i} = \exp\Big(-\frac{(c_i - p_t)^2}{2 w^2}\Big) + \text{noise}

    with the pixels' places c from -1 to 1. The dot at p is reflected exactly at both ends, so each speed makes two
    linear rules, one for each way; at each frame another speed is taken with the probability `switch`. With one speed
    the path is a triangle wave, the film of Johnson et al. (2016).

    Arguments:
        num_sequences: N.
        num_steps: T.
        size: Pixels of the line.
        width: Of the dot, w, on a line of length two.
        speeds: The speeds, in lengths per frame; zero for a rest.
        switch: Probability that a frame takes another speed than the one before.
        noise_std: Standard deviation of the noise of each pixel.
        generator: Source of randomness.

    Returns:
        x: pixels, (N, T, size); z: position between -1 and 1, change per frame (with its sign), and the number of the
        speed, (N, T, 3).

    Raises:
        ValueError: No speed is given, a speed is negative, or `switch` is no probability.

    Example:
        >>> film = dot_film(3, 40, generator=torch.Generator().manual_seed(0))
        >>> film.x.shape, film.z.shape
        (torch.Size([3, 40, 20]), torch.Size([3, 40, 3]))
    """
    if not speeds or min(speeds) < 0:
        raise ValueError(f"speeds must hold at least one number, none below zero; got {list(speeds)}")
    if not 0 <= switch <= 1:
        raise ValueError(f"switch must be a probability, got {switch}")
    rule = _rules(num_sequences, num_steps, len(speeds), switch, generator)
    speed = torch.tensor(speeds, dtype=torch.float64)[rule]
    # On a circle of circumference four, of which the line is seen from the side, the dot never turns round.
    phase = 4 * torch.rand(num_sequences, 1, generator=generator, dtype=torch.float64)
    phase = torch.remainder(phase + torch.cat((torch.zeros_like(phase), speed[:, 1:]), dim=1).cumsum(1), 4)
    outward = phase < 2
    position = torch.where(outward, phase - 1, 3 - phase)
    velocity = torch.where(outward, speed, -speed)
    places = torch.linspace(-1, 1, size, dtype=torch.float64)
    clean = (-0.5 * ((places - position[..., None]) / width).square()).exp()
    noise = torch.randn(clean.shape, generator=generator, dtype=torch.float64)
    z = torch.stack((position, velocity, rule.double()), dim=-1)
    dtype = torch.get_default_dtype()
    return ToySequences((clean + noise_std * noise).to(dtype), z.to(dtype))


def _rules(num_sequences: int, num_steps: int, number: int, switch: float, generator: Generator | None) -> Tensor:
    """A Markov chain over the rules, each left for each other one with the same probability."""
    start = torch.randint(number, (num_sequences, 1), generator=generator)
    changes = torch.rand(num_sequences, num_steps - 1, generator=generator) < switch
    others = torch.randint(max(number - 1, 1), changes.shape, generator=generator) + 1
    steps = torch.where(changes, others, 0) if number > 1 else torch.zeros_like(others)
    return torch.cat((start, steps), dim=1).cumsum(1) % number


register_toy("dot-film", dot_film, "a film of a dot on a line, whose speed changes")
