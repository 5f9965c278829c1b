"""Handwritten digits that rotate, with pixels missing: the data of the Gaussian-process VAE."""

import math
from typing import NamedTuple

import torch
from torch import Generator, Tensor
from torch.nn import functional

from dvae_lib.data.toy.base import register_toy
from dvae_lib.data.toy.images import digits
from dvae_lib.devices import on_the_host

__all__ = ["RotatingDigits", "rotating_digits"]


class RotatingDigits(NamedTuple):
    """Films with missing pixels, and what is missing.

    Attributes:
        x: All pixels, those that are missing too, in [0, 1], (N, T, 64), row by row.
        z: The angle in radians, and the digit's class, constant over time, (N, T, 2).
        observed: True where a pixel is seen, (N, T, 64).
    """

    x: Tensor
    z: Tensor
    observed: Tensor


@on_the_host()
def rotating_digits(
    num_sequences: int,
    num_steps: int,
    *,
    missing: float = 0.6,
    bright: float = 2.0,
    turn: float = 0.3,
    drift: float = 0.05,
    generator: Generator | None = None,
) -> RotatingDigits:
    """Films of handwritten digits that rotate at a slowly changing speed, after Fortuin et al. (2020).

    The digits are the 1,797 that scikit-learn carries (8 x 8 pixels, UCI repository). Pixels are missing each by
    itself, but not at random: bright ones are more likely to be.

    Arguments:
        num_sequences: N.
        num_steps: T.
        missing: Share of the pixels that are missing on average, over all films.
        bright: How many times as likely a bright pixel (above one half) is to be missing as a dark one.
        turn: Standard deviation of the first angular speed, in radians per frame.
        drift: Standard deviation of its change from frame to frame.
        generator: Source of randomness.

    Returns:
        Pixels, angles and classes, and the mask.

    Raises:
        ImportError: Scikit-learn is missing.
        ValueError: `missing` is not in [0, 1), or so large that bright pixels would be missing with a probability
            above one.

    Example:
        >>> film = rotating_digits(3, 10, generator=torch.Generator().manual_seed(0))
        >>> film.x.shape, film.observed.dtype
        (torch.Size([3, 10, 64]), torch.bool)
    """
    if not 0 <= missing < 1 or bright <= 0:
        raise ValueError(f"missing must be a share in [0, 1) and bright positive, got {missing} and {bright}")
    images, classes = digits()
    choice = torch.randint(len(images), (num_sequences,), generator=generator)
    start = 2 * math.pi * torch.rand(num_sequences, 1, generator=generator)
    speed = turn * torch.randn(num_sequences, 1, generator=generator)
    changes = drift * torch.randn(num_sequences, num_steps, generator=generator)
    changes[:, 0] = 0
    moved = torch.cat((torch.zeros_like(start), (speed + changes.cumsum(1))[:, 1:]), dim=1)
    angle = start + moved.cumsum(1)
    x = _rotated(images[choice], angle).flatten(-2)
    light = x > 0.5
    # The probabilities of dark and bright pixels whose mean over all pixels is `missing`.
    dark = missing / (1 + (bright - 1) * light.float().mean().item())
    if max(dark, dark * bright) > 1:
        raise ValueError(
            f"{missing:.0%} missing cannot be had with bright pixels {bright:g} times as likely to be: lower one"
        )
    probability = torch.where(light, dark * bright, dark)
    observed = torch.rand(x.shape, generator=generator) >= probability
    label = classes[choice].to(x)[:, None].expand(-1, num_steps)
    return RotatingDigits(x, torch.stack((angle, label), dim=-1), observed)


def _rotated(images: Tensor, angle: Tensor) -> Tensor:
    """Images `(N, 8, 8)` turned counter-clockwise by angles `(N, T)`, bilinear, with black around."""
    N, T = angle.shape
    cos, sin = angle.cos(), angle.sin()
    zero = torch.zeros_like(cos)
    theta = torch.stack((torch.stack((cos, -sin, zero), -1), torch.stack((sin, cos, zero), -1)), dim=-2)
    height, width = images.shape[-2:]
    grid = functional.affine_grid(theta.flatten(0, 1), [N * T, 1, height, width], align_corners=False)
    source = images[:, None].repeat_interleave(T, dim=0)
    drawn = functional.grid_sample(source, grid, mode="bilinear", align_corners=False)
    return drawn.reshape(N, T, height, width).clamp(0, 1)


register_toy("rotating-digits", rotating_digits, "a film of a rotating handwritten digit, all pixels of it")
