"""Films of things that move at constant speed and bounce: a ball, handwritten digits."""

import math

import torch
from torch import Generator, Tensor
from torch.nn import functional

from dvae_lib.data.toy.base import ToySequences, register_toy
from dvae_lib.data.toy.images import discs
from dvae_lib.devices import on_the_host

__all__ = ["bouncing_ball", "moving_digits"]


def _fold(path: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    """A straight path folded into [low, high] by mirrors at both ends; and the sign of the folded velocity."""
    width = high - low
    phase = torch.remainder(path - low, 2 * width)
    outward = phase < width
    return low + torch.where(outward, phase, 2 * width - phase), torch.where(outward, 1.0, -1.0)


def _bouncing_paths(
    num_sequences: int, num_steps: int, low: float, high: float, speed: float, generator: Generator | None
) -> tuple[Tensor, Tensor]:
    """Positions and velocities (N, T, 2) of points at constant speed in a square box, exactly reflected."""
    if high <= low:
        raise ValueError("what moves is larger than the image; make `size` larger or the object smaller")
    start = low + (high - low) * torch.rand(num_sequences, 1, 2, generator=generator, dtype=torch.float64)
    direction = 2 * math.pi * torch.rand(num_sequences, 1, generator=generator, dtype=torch.float64)
    velocity = speed * torch.stack((direction.cos(), direction.sin()), dim=-1)
    time = torch.arange(num_steps, dtype=torch.float64)[:, None]
    position, sign = _fold(start + velocity * time, low, high)
    return position, velocity * sign


@on_the_host()
def bouncing_ball(
    num_sequences: int,
    num_steps: int,
    *,
    size: int = 32,
    radius: float = 3.0,
    speed: float = 2.0,
    generator: Generator | None = None,
) -> ToySequences:
    """A film of a ball that bounces elastically in a square box.

    The path is exact at any time: a straight line, folded by the walls. Where the ball is can be seen in one image;
    where it goes cannot, so a model of the film needs memory.

    Arguments:
        num_sequences: N.
        num_steps: T.
        size: Pixels on a side.
        radius: Of the ball, in pixels.
        speed: In pixels per frame.
        generator: Source of randomness.

    Returns:
        x: images with values in [0, 1], (N, T, size * size); z: column and row of the ball's middle in pixels from.
        The top left corner, and their change per frame, (N, T, 4).

    Raises:
        ValueError: The ball does not fit into the box.

    Example:
        >>> film = bouncing_ball(2, 10, size=16, generator=torch.Generator().manual_seed(0))
        >>> film.x.shape, film.z.shape
        (torch.Size([2, 10, 256]), torch.Size([2, 10, 4]))
    """
    position, velocity = _bouncing_paths(num_sequences, num_steps, radius, size - radius, speed, generator)
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
    generator: Generator | None = None,
) -> ToySequences:
    """Films of handwritten digits that drift and bounce, after the "moving MNIST" of Srivastava et al. (2015).

    The digits are the 1,797 that scikit-learn carries (8 x 8 pixels, UCI repository), so nothing is downloaded.

    Arguments:
        num_sequences: N.
        num_steps: T.
        size: Pixels on a side of the film.
        digit_size: Pixels on a side of a digit.
        num_digits: Digits in a film; where they overlap the brighter pixel shows.
        speed: In pixels per frame.
        generator: Source of randomness.

    Returns:
        x: images with values in [0, 1], (N, T, size * size); z: column and row of each digit's middle and their.
        Change per frame, (N, T, 4 * num_digits), followed by the digits' classes, constant over time,.
        (N, T, num_digits).

    Raises:
        ImportError: Scikit-learn is missing.
        ValueError: The digits do not fit into the image.
    """
    try:
        from sklearn.datasets import load_digits  # type: ignore[import-untyped]
    except ImportError as error:
        raise ImportError("moving_digits needs scikit-learn's digits: pip install scikit-learn") from error
    digits = load_digits()
    images = torch.as_tensor(digits.images / 16.0, dtype=torch.get_default_dtype())
    film = torch.zeros(num_sequences, num_steps, size, size)
    motions, classes = [], []
    for _ in range(num_digits):
        choice = torch.randint(len(images), (num_sequences,), generator=generator)
        half = digit_size / 2
        position, velocity = _bouncing_paths(num_sequences, num_steps, half, size - half, speed, generator)
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
        labels = torch.as_tensor(digits.target)[choice].to(film)
        classes.append(labels[:, None, None].expand(-1, num_steps, 1))
    return ToySequences(film.flatten(-2).clamp(0, 1), torch.cat(motions + classes, dim=-1))


register_toy("bouncing-ball", bouncing_ball, "a film of a ball in a box")
register_toy("moving-digits", moving_digits, "a film of a handwritten digit in a box")
