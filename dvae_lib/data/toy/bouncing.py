"""Films of things that move at constant speed and bounce: a ball, handwritten digits."""

import math
from functools import partial
from typing import Literal

import torch
from torch import Generator, Tensor
from torch.nn import functional

from dvae_lib.data.toy.base import ToySequences, register_toy
from dvae_lib.data.toy.images import digits, discs
from dvae_lib.devices import on_the_host

__all__ = ["bouncing_ball", "moving_digits"]


Bounce = Literal["elastic", "random"]


def fold(path: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    """A straight path folded into [low, high] by mirrors at both ends; and the sign of the folded velocity."""
    width = high - low
    phase = torch.remainder(path - low, 2 * width)
    outward = phase < width
    return low + torch.where(outward, phase, 2 * width - phase), torch.where(outward, 1.0, -1.0)


def _bouncing_paths(
    num_sequences: int,
    num_steps: int,
    low: float,
    high: float,
    speed: float,
    bounce: Bounce,
    generator: Generator | None,
) -> tuple[Tensor, Tensor]:
    """Positions and velocities (N, T, 2) of points at constant speed in a square box."""
    if bounce not in ("elastic", "random"):
        raise ValueError(f'bounce must be "elastic" or "random", got {bounce!r}')
    if high <= low:
        raise ValueError("what moves is larger than the image; make `size` larger or the object smaller")
    start = low + (high - low) * torch.rand(num_sequences, 1, 2, generator=generator, dtype=torch.float64)
    direction = 2 * math.pi * torch.rand(num_sequences, 1, generator=generator, dtype=torch.float64)
    velocity = speed * torch.stack((direction.cos(), direction.sin()), dim=-1)
    if bounce == "random":
        return _random_paths(start[:, 0], velocity[:, 0], num_steps, low, high, generator)
    time = torch.arange(num_steps, dtype=torch.float64)[:, None]
    position, sign = fold(start + velocity * time, low, high)
    return position, velocity * sign


def _random_paths(
    position: Tensor, velocity: Tensor, num_steps: int, low: float, high: float, generator: Generator | None
) -> tuple[Tensor, Tensor]:
    """Straight lines from wall to wall; from each in a direction that is uniform over those that lead away from it."""
    speed = velocity.norm(dim=-1)
    positions, velocities = [position], [velocity]
    for _ in range(1, num_steps):
        left = torch.ones(len(position), dtype=position.dtype)  # of the time until the next frame
        while (left > 0).any():
            wall = torch.where(velocity > 0, high, low)
            until = torch.where(velocity != 0, (wall - position) / velocity, torch.inf).clamp(min=0)
            hit, axis = until.min(dim=-1)
            travel = torch.minimum(hit, left)
            position = (position + velocity * travel[:, None]).clamp(low, high)
            bounced = (hit < left)[:, None]
            angle = math.pi * (torch.rand(len(position), generator=generator, dtype=position.dtype) - 0.5)
            away = torch.where(velocity.gather(1, axis[:, None])[:, 0] > 0, -1.0, 1.0) * angle.cos()
            first = axis == 0
            new = torch.stack((torch.where(first, away, angle.sin()), torch.where(first, angle.sin(), away)), dim=-1)
            velocity = torch.where(bounced, speed[:, None] * new, velocity)
            left = torch.where(bounced[:, 0], left - travel, 0)
        positions.append(position)
        velocities.append(velocity)
    return torch.stack(positions, dim=1), torch.stack(velocities, dim=1)


@on_the_host()
def bouncing_ball(
    num_sequences: int,
    num_steps: int,
    *,
    size: int = 32,
    radius: float = 3.0,
    speed: float = 2.0,
    bounce: Bounce = "elastic",
    generator: Generator | None = None,
) -> ToySequences:
    """A film of a ball that bounces elastically in a square box.

    The path is exact at any time: a straight line, folded by the walls. Where the ball is can be seen in one image;
    where it goes cannot, so a model of the film needs memory. With random bounces it leaves a wall in any direction,
    all with the same probability: a bounce can be foreseen, but not where the ball goes then.

    Arguments:
        num_sequences: N.
        num_steps: T.
        size: Pixels on a side.
        radius: Of the ball, in pixels.
        speed: In pixels per frame.
        bounce: "elastic", or "random" for a new direction after each wall. Where the velocity differs from that of the
            frame before, there was a bounce in between.
        generator: Source of randomness.

    Returns:
        x: images with values in [0, 1], (N, T, size * size); z: column and row of the ball's middle in pixels from
        the top left corner, and their change per frame, (N, T, 4).

    Raises:
        ValueError: The ball does not fit into the box, or the name of the bounce is another.

    Example:
        >>> film = bouncing_ball(2, 10, size=16, generator=torch.Generator().manual_seed(0))
        >>> film.x.shape, film.z.shape
        (torch.Size([2, 10, 256]), torch.Size([2, 10, 4]))
    """
    position, velocity = _bouncing_paths(num_sequences, num_steps, radius, size - radius, speed, bounce, generator)
    frames = discs(position, size, radius).flatten(-2)
    dtype = torch.get_default_dtype()
    return ToySequences(frames.to(dtype), torch.cat((position, velocity), dim=-1).to(dtype))


@on_the_host()
def moving_digits(
    num_sequences: int,
    num_steps: int,
    *,
    size: int = 32,
    digit_size: int = 16,
    num_digits: int = 1,
    speed: float = 1.5,
    bounce: Bounce = "elastic",
    generator: Generator | None = None,
) -> ToySequences:
    """Films of handwritten digits that drift and bounce, after the "moving MNIST" of Srivastava et al. (2015).

    The digits are the 1,797 that scikit-learn carries (8 x 8 pixels, UCI repository), so nothing is downloaded. With
    random bounces, after Denton and Fergus (2018), what comes after a wall cannot be told from what was before.

    Arguments:
        num_sequences: N.
        num_steps: T.
        size: Pixels on a side of the film.
        digit_size: Pixels on a side of a digit.
        num_digits: Digits in a film; where they overlap the brighter pixel shows.
        speed: In pixels per frame.
        bounce: "elastic", or "random" for a new direction after each wall.
        generator: Source of randomness.

    Returns:
        x: images with values in [0, 1], (N, T, size * size); z: column and row of each digit's middle and their
        change per frame, (N, T, 4 * num_digits), followed by the digits' classes, constant over time,
        (N, T, num_digits).

    Raises:
        ImportError: Scikit-learn is missing.
        ValueError: The digits do not fit into the image, or the name of the bounce is another.
    """
    images, labels = digits()
    film = torch.zeros(num_sequences, num_steps, size, size)
    motions, classes = [], []
    for _ in range(num_digits):
        choice = torch.randint(len(images), (num_sequences,), generator=generator)
        half = digit_size / 2
        position, velocity = _bouncing_paths(num_sequences, num_steps, half, size - half, speed, bounce, generator)
        position, velocity = position.to(film), velocity.to(film)
        # An affine map per frame takes the film's pixels to the digit's own coordinates, [-1, 1] on both axes.
        theta = torch.zeros(num_sequences, num_steps, 2, 3)
        theta[..., 0, 0] = theta[..., 1, 1] = size / digit_size
        theta[..., 2] = (size - 2 * position) / digit_size
        grid = functional.affine_grid(
            theta.flatten(0, 1), [num_sequences * num_steps, 1, size, size], align_corners=False
        )
        source = images[choice, None].repeat_interleave(num_steps, dim=0)
        drawn = functional.grid_sample(source, grid, mode="bilinear", align_corners=False)
        film = torch.maximum(film, drawn.reshape(film.shape))
        motions += [position, velocity]
        classes.append(labels[choice].to(film)[:, None, None].expand(-1, num_steps, 1))
    return ToySequences(film.flatten(-2).clamp(0, 1), torch.cat(motions + classes, dim=-1))


register_toy("bouncing-ball", bouncing_ball, "a film of a ball in a box")
register_toy("random-bounces", partial(bouncing_ball, bounce="random"), "a film of a ball that bounces at random")
register_toy("moving-digits", moving_digits, "a film of a handwritten digit in a box")
