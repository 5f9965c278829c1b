"""A ball under gravity, on a planet of its own for each sequence."""

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from dvae_lib.data.toy.base import ToySequences, register_toy
from dvae_lib.data.toy.bouncing import fold
from dvae_lib.data.toy.images import discs
from dvae_lib.devices import on_the_host

__all__ = ["falling_ball", "falling_path"]


@on_the_host()
def falling_path(
    start: Float[Tensor, "*batch 4"], gravity: Float[Tensor, "*batch"], num_steps: int, *, low: float, high: float
) -> Float[Tensor, "*batch time 4"]:
    r"""The path of a ball that falls, and bounces elastically off the floor and the side walls.

    Exact at any time: between two bounces off the floor :math:`y(\tau) = v_0 \tau - g\tau^2/2` above it, with the
    period :math:`2 v_0 / g`; sideways a straight line, folded by the walls. Upwards the box is open.

    Arguments:
        start: Column and row of the ball's middle in pixels, from the top left corner, and their change per frame.
        gravity: Acceleration downwards, in pixels per squared frame; positive.
        num_steps: T.
        low: The smallest column of the ball's middle.
        high: The largest one, and the row of the middle on the floor.

    Returns:
        The states of frames 1..T, of which the first is `start`, in float64.

    Raises:
        ValueError: A gravity is not positive, or a ball starts beyond the walls or below the floor.
    """
    start, g = start.double(), gravity.double()[..., None]
    if not (g > 0).all():
        raise ValueError(f"gravity must be positive, got {g.min().item():g}")
    place = start[..., :2]
    if (place > high).any() or (start[..., 0] < low).any():
        raise ValueError(
            f"a ball starts outside the box, whose columns go from {low:g} to {high:g}, with the floor there"
        )
    time = torch.arange(num_steps, dtype=torch.float64)
    height, climb = high - start[..., 1, None], -start[..., 3, None]
    launch = (climb.square() + 2 * g * height).sqrt()  # the speed with which it leaves the floor
    lasts = 2 * launch / g
    # Since the last bounce (a real or an imagined one) has passed (launch - climb) / g.
    since = torch.remainder((launch - climb) / g + time, lasts.clamp(min=1e-300))
    since = torch.where(lasts > 0, since, 0)  # at rest on the floor
    y, v = launch * since - 0.5 * g * since.square(), launch - g * since
    v = torch.where(lasts > 0, v, 0)
    column, sign = fold(start[..., 0, None] + start[..., 2, None] * time, low, high)
    path = torch.stack((column, high - y, start[..., 2, None] * sign, -v), dim=-1)
    return torch.cat((start[..., None, :], path[..., 1:, :]), dim=-2)


@on_the_host()
def falling_ball(
    num_sequences: int,
    num_steps: int,
    *,
    size: int = 16,
    radius: float = 2.0,
    gravity: tuple[float, float] = (0.05, 0.5),
    speed: float = 1.0,
    generator: Generator | None = None,
) -> ToySequences:
    """Films of a ball that is let go in a box, each under a gravity of its own.

    One frame says where the ball is, two how fast it is, and only the change of its speed how strong gravity is: a
    property of the sequence that no frame shows.

    Arguments:
        num_sequences: N.
        num_steps: T.
        size: Pixels on a side.
        radius: Of the ball, in pixels.
        gravity: Smallest and largest acceleration, in pixels per squared frame; each sequence has one in between.
        speed: Largest speed sideways, in pixels per frame. Upwards and downwards the ball starts at rest.
        generator: Source of randomness.

    Returns:
        x: images with values in [0, 1], (N, T, size * size); z: column and row of the ball's middle in pixels from the
        top left corner, their change per frame, and the gravity, constant over time, (N, T, 5).

    Raises:
        ValueError: The ball does not fit into the box, or `gravity` is no range of positive numbers.

    Example:
        >>> film = falling_ball(2, 10, generator=torch.Generator().manual_seed(0))
        >>> film.x.shape, film.z.shape
        (torch.Size([2, 10, 256]), torch.Size([2, 10, 5]))
    """
    low, high = radius, size - radius
    if high <= low:
        raise ValueError("the ball is larger than the image; make `size` larger or `radius` smaller")
    if not 0 < gravity[0] <= gravity[1]:
        raise ValueError(f"gravity must be a range of positive numbers, smallest first; got {gravity}")
    uniform = torch.rand(num_sequences, 4, generator=generator, dtype=torch.float64)
    place = low + (high - low) * uniform[:, :2] * torch.tensor((1.0, 0.7), dtype=torch.float64)  # some way above ground
    sideways = speed * (2 * uniform[:, 2] - 1)
    g = gravity[0] + (gravity[1] - gravity[0]) * uniform[:, 3]
    start = torch.cat((place, torch.stack((sideways, torch.zeros_like(sideways)), dim=-1)), dim=-1)
    path = falling_path(start, g, num_steps, low=low, high=high)
    z = torch.cat((path, g[:, None, None].expand(-1, num_steps, 1)), dim=-1)
    dtype = torch.get_default_dtype()
    return ToySequences(discs(path[..., :2], size, radius).flatten(-2).to(dtype), z.to(dtype))


register_toy(
    "falling-ball", falling_ball, "a film of a ball that falls and bounces, under a gravity of each film's own"
)
