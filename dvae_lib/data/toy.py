"""Toy systems whose truth is known: linear-Gaussian, pendulum, bouncing ball, moving digits.

Each function generates sequences together with the states behind them, so that what a model infers can be held
against what was there. All randomness comes from the `generator` given: the same seed, the same sequences.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.nn import functional

from dvae_lib.data.sequences import Splits, from_arrays
from dvae_lib.devices import on_the_host

__all__ = [
    "TOYS",
    "LinearGaussianSequences",
    "ToySequences",
    "bouncing_ball",
    "linear_gaussian",
    "load_toy",
    "moving_digits",
    "pendulum",
    "pendulum_images",
    "pendulum_step",
    "random_stable_matrix",
]

GRAVITY = 9.81  # m/s^2


class ToySequences(NamedTuple):
    """Generated sequences.

    Attributes:
        x: observations, (N, T, x_dim); pixels row by row where the observations are images.
        z: the states behind them, (N, T, z_dim).
    """

    x: Tensor
    z: Tensor


class LinearGaussianSequences(NamedTuple):
    """Sequences of a linear-Gaussian system, with the matrices of Eqs. (3.16)-(3.17) that made them.

    Attributes:
        x: observations, (N, T, x_dim).
        z: states, (N, T, z_dim).
        A: transition matrix.
        C: observation matrix.
        Lambda: covariance of the process noise.
        Sigma: covariance of the observation noise.
        mu_1: mean of the first state.
        Lambda_1: covariance of the first state.
    """

    x: Tensor
    z: Tensor
    A: Tensor
    C: Tensor
    Lambda: Tensor
    Sigma: Tensor
    mu_1: Tensor
    Lambda_1: Tensor


@on_the_host()
def random_stable_matrix(
    dim: int, *, radius: float = 0.95, generator: Generator | None = None, dtype: torch.dtype | None = None
) -> Float[Tensor, "dim dim"]:
    """Draw a square matrix whose largest eigenvalue has modulus `radius`.

    A Gaussian matrix, scaled: its eigenvalues fill the disc evenly (the circular law), so there are fast and slow,
    rotating and decaying modes.

    Arguments:
        dim: number of rows and columns.
        radius: spectral radius; below one, the system forgets.
        generator: source of randomness.
        dtype: of the result.

    Raises:
        ValueError: `radius` is not positive.
    """
    if radius <= 0:
        raise ValueError(f"radius is the modulus of an eigenvalue and must be positive, got {radius}")
    matrix = torch.randn(dim, dim, generator=generator, dtype=dtype)
    modulus: Tensor = torch.linalg.eigvals(matrix).abs().max()
    return matrix * (radius / modulus)


@on_the_host()
def linear_gaussian(
    num_sequences: int,
    num_steps: int,
    *,
    z_dim: int = 2,
    x_dim: int = 3,
    A: Float[Tensor, "z_dim z_dim"] | None = None,
    C: Float[Tensor, "x_dim z_dim"] | None = None,
    Lambda: Float[Tensor, "z_dim z_dim"] | None = None,
    Sigma: Float[Tensor, "x_dim x_dim"] | None = None,
    mu_1: Float[Tensor, " z_dim"] | None = None,
    Lambda_1: Float[Tensor, "z_dim z_dim"] | None = None,
    generator: Generator | None = None,
    dtype: torch.dtype | None = None,
) -> LinearGaussianSequences:
    r"""Sample a linear-Gaussian dynamical system, Eqs. (3.16)-(3.17) without input.

    .. math:: \mathbf{z}_t \sim \mathcal{N}(A \mathbf{z}_{t-1}, \Lambda), \qquad
              \mathbf{x}_t \sim \mathcal{N}(C \mathbf{z}_t, \Sigma)

    What is not given is drawn or chosen: A stable at random, C Gaussian, :math:`\Lambda = 0.1 I`,
    :math:`\Sigma = 0.1 I`, and the first state from the law that the system keeps for ever (the solution of
    :math:`P = A P A^\top + \Lambda`), or from N(0, I) where A is not stable.

    Arguments:
        num_sequences: N.
        num_steps: T.
        z_dim: size of the state, where no matrix tells it.
        x_dim: size of an observation, where no matrix tells it.
        A: transition matrix.
        C: observation matrix.
        Lambda: covariance of the process noise.
        Sigma: covariance of the observation noise.
        mu_1: mean of the first state, zero by default.
        Lambda_1: covariance of the first state.
        generator: source of randomness.
        dtype: of the result; that of the matrices given by default.

    Returns:
        Observations, states and all matrices.

    Example:
        >>> data = linear_gaussian(4, 50, generator=torch.Generator().manual_seed(0))
        >>> data.x.shape, data.z.shape
        (torch.Size([4, 50, 3]), torch.Size([4, 50, 2]))
    """
    given = [matrix for matrix in (A, C, Lambda, Sigma, mu_1, Lambda_1) if matrix is not None]
    if dtype is None:
        dtype = given[0].dtype if given else torch.get_default_dtype()
    if A is None:
        z_dim = next((m.shape[-1] for m in (C, Lambda, mu_1, Lambda_1) if m is not None), z_dim)
        A = random_stable_matrix(z_dim, generator=generator, dtype=dtype)
    z_dim = A.shape[0]
    if C is None:
        C = torch.randn(x_dim if Sigma is None else len(Sigma), z_dim, generator=generator, dtype=dtype)
    Lambda = 0.1 * torch.eye(z_dim, dtype=dtype) if Lambda is None else Lambda
    Sigma = 0.1 * torch.eye(len(C), dtype=dtype) if Sigma is None else Sigma
    mu_1 = torch.zeros(z_dim, dtype=dtype) if mu_1 is None else mu_1
    Lambda_1 = _stationary_covariance(A, Lambda) if Lambda_1 is None else Lambda_1
    A, C, Lambda, Sigma, mu_1, Lambda_1 = (m.to(dtype) for m in (A, C, Lambda, Sigma, mu_1, Lambda_1))

    def noise(covariance: Tensor, *shape: int) -> Tensor:
        factor = _square_root(covariance)
        return torch.randn(*shape, len(covariance), generator=generator, dtype=dtype) @ factor.T

    state = mu_1 + noise(Lambda_1, num_sequences)
    process = noise(Lambda, num_sequences, num_steps)
    states = [state]
    for t in range(1, num_steps):
        state = state @ A.T + process[:, t]
        states.append(state)
    z = torch.stack(states, dim=1)
    x = z @ C.T + noise(Sigma, num_sequences, num_steps)
    return LinearGaussianSequences(x, z, A, C, Lambda, Sigma, mu_1, Lambda_1)


def _square_root(covariance: Tensor) -> Tensor:
    """A factor F with F F^T equal to the covariance, which may be singular (noise in some directions only)."""
    values, vectors = torch.linalg.eigh(covariance)
    tolerance = 1e-6 * values.abs().max()
    if (values < -tolerance).any() or not torch.allclose(covariance, covariance.T):
        raise ValueError(
            "a covariance must be symmetric and have no negative eigenvalue; got eigenvalues "
            f"{[round(v, 6) for v in values.tolist()]}"
        )
    factor: Tensor = vectors * values.clamp(min=0).sqrt()
    return factor


def _stationary_covariance(A: Tensor, Lambda: Tensor) -> Tensor:
    """The P with P = A P A^T + Lambda, or the identity where A is not stable."""
    dim = len(A)
    if torch.linalg.eigvals(A).abs().max() >= 1:
        return torch.eye(dim, dtype=A.dtype)
    A, Lambda = A.double(), Lambda.double()
    P: Tensor = torch.linalg.solve(torch.eye(dim * dim, dtype=A.dtype) - torch.kron(A, A), Lambda.flatten())
    P = P.reshape(dim, dim)
    return 0.5 * (P + P.T)


# --------------------------------------------------------------------------------------------------------- pendulum


@on_the_host()
def pendulum_step(
    z: Float[Tensor, "*batch 2"], *, dt: float = 0.05, length: float = 1.0, damping: float = 0.1
) -> Float[Tensor, "*batch 2"]:
    r"""Advance a pendulum by one time step, :math:`\ddot\theta = -(g / \ell) \sin\theta - c\,\dot\theta`.

    One step of the classical fourth-order Runge-Kutta method: at the default step the error in the angle is far
    below a millionth of a radian. Differentiable, for filters that linearise it.

    Arguments:
        z: angle from the lowest point in radians and angular velocity in rad/s.
        dt: time step in seconds.
        length: of the rod in metres.
        damping: the friction c in 1/s.

    Returns:
        The state `dt` seconds later.
    """

    def slope(state: Tensor) -> Tensor:
        angle, velocity = state.unbind(-1)
        return torch.stack((velocity, -(GRAVITY / length) * angle.sin() - damping * velocity), dim=-1)

    k1 = slope(z)
    k2 = slope(z + 0.5 * dt * k1)
    k3 = slope(z + 0.5 * dt * k2)
    k4 = slope(z + dt * k3)
    return z + (dt / 6) * (k1 + 2 * k2 + 2 * k3 + k4)


@on_the_host()
def pendulum(
    num_sequences: int,
    num_steps: int,
    *,
    dt: float = 0.05,
    length: float = 1.0,
    damping: float = 0.1,
    process_std: float = 0.05,
    observation_std: float = 0.1,
    max_angle: float = 0.9 * math.pi,
    generator: Generator | None = None,
) -> ToySequences:
    r"""Noisy sightings of a swinging pendulum's bob.

    .. math:: \mathbf{z}_t = f(\mathbf{z}_{t-1}) + (0, \epsilon_t), \qquad
              \mathbf{x}_t = \ell\,(\sin\theta_t, -\cos\theta_t) + \text{noise}

    with f of `pendulum_step`. The bob starts at rest at a random angle.

    Arguments:
        num_sequences: N.
        num_steps: T.
        dt: time step in seconds.
        length: of the rod in metres.
        damping: friction in 1/s.
        process_std: standard deviation of the random kick to the angular velocity at each step, in rad/s.
        observation_std: standard deviation of the noise on each coordinate, in metres.
        max_angle: starts are uniform in [-max_angle, max_angle].
        generator: source of randomness.

    Returns:
        x: horizontal and vertical position in metres, (N, T, 2); z: angle and angular velocity, (N, T, 2).
    """
    angle = (2 * torch.rand(num_sequences, generator=generator) - 1) * max_angle
    state = torch.stack((angle, torch.zeros_like(angle)), dim=-1)
    kicks = process_std * torch.randn(num_sequences, num_steps, generator=generator)
    states = [state]
    for t in range(1, num_steps):
        state = pendulum_step(state, dt=dt, length=length, damping=damping)
        state = torch.stack((state[:, 0], state[:, 1] + kicks[:, t]), dim=-1)
        states.append(state)
    z = torch.stack(states, dim=1)
    position = length * torch.stack((z[..., 0].sin(), -z[..., 0].cos()), dim=-1)
    noise = torch.randn(position.shape, generator=generator)
    return ToySequences(position + observation_std * noise, z)


@on_the_host()
def pendulum_images(
    angle: Float[Tensor, "*batch"], *, size: int = 16, radius: float = 2.0
) -> Float[Tensor, "*batch size size"]:
    """Film the bob: a bright disc on a circle around the middle of a square image.

    Arguments:
        angle: from the lowest point, in radians.
        size: pixels on a side.
        radius: of the disc, in pixels.

    Returns:
        Images with values in [0, 1]; the first row is the top.
    """
    reach = size / 2 - radius
    centre = torch.stack((size / 2 + reach * angle.sin(), size / 2 + reach * angle.cos()), dim=-1)
    return _discs(centre, size, radius)


def _discs(centre: Float[Tensor, "*batch 2"], size: int, radius: float) -> Float[Tensor, "*batch size size"]:
    """Anti-aliased discs: each pixel holds the share of its area that the disc covers, up to the rim's curvature.

    `centre` is (column, row) in pixels, with (0, 0) the top left corner of the image.
    """
    pixel = torch.arange(size, dtype=centre.dtype, device=centre.device) + 0.5
    dx = pixel - centre[..., 0, None]
    dy = pixel - centre[..., 1, None]
    distance = (dx.square()[..., None, :] + dy.square()[..., :, None]).sqrt()
    return (radius + 0.5 - distance).clamp(0, 1)


# ------------------------------------------------------------------------------------------------ things that bounce


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
        size: pixels on a side.
        radius: of the ball, in pixels.
        speed: in pixels per frame.
        generator: source of randomness.

    Returns:
        x: images with values in [0, 1], (N, T, size * size); z: column and row of the ball's middle in pixels from
        the top left corner, and their change per frame, (N, T, 4).

    Raises:
        ValueError: the ball does not fit into the box.

    Example:
        >>> film = bouncing_ball(2, 10, size=16, generator=torch.Generator().manual_seed(0))
        >>> film.x.shape, film.z.shape
        (torch.Size([2, 10, 256]), torch.Size([2, 10, 4]))
    """
    position, velocity = _bouncing_paths(num_sequences, num_steps, radius, size - radius, speed, generator)
    frames = _discs(position, size, radius).flatten(-2)
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
        size: pixels on a side of the film.
        digit_size: pixels on a side of a digit.
        num_digits: digits in a film; where they overlap the brighter pixel shows.
        speed: in pixels per frame.
        generator: source of randomness.

    Returns:
        x: images with values in [0, 1], (N, T, size * size); z: column and row of each digit's middle and their
        change per frame, (N, T, 4 * num_digits), followed by the digits' classes, constant over time,
        (N, T, num_digits).

    Raises:
        ImportError: scikit-learn is missing.
        ValueError: the digits do not fit into the image.
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


# ----------------------------------------------------------------------------------------------------------- corpora


def _pendulum_film(
    num_sequences: int, num_steps: int, *, generator: Generator | None = None, size: int = 16, **options: Any
) -> ToySequences:
    swing = pendulum(num_sequences, num_steps, generator=generator, **options)
    return ToySequences(pendulum_images(swing.z[..., 0], size=size).flatten(-2), swing.z)


TOYS: dict[str, Callable[..., ToySequences | LinearGaussianSequences]] = {
    "linear-gaussian": linear_gaussian,
    "pendulum": pendulum,
    "pendulum-images": _pendulum_film,
    "bouncing-ball": bouncing_ball,
    "moving-digits": moving_digits,
}
"""Toy systems by name, as `load_toy` takes them."""


@on_the_host()
def load_toy(name: str, *, num_sequences: int = 500, num_steps: int = 50, seed: int = 0, **options: Any) -> Splits:
    """Generate a toy corpus: the same name, sizes and seed give the same sequences.

    Arguments:
        name: one of `TOYS`.
        num_sequences: in all three parts together; 80 % train, 10 % validation, 10 % test.
        num_steps: T.
        seed: of everything random.
        options: passed to the system's function.

    Returns:
        Training, validation and test sequences, not standardised.

    Raises:
        ValueError: there is no such system.
    """
    if name not in TOYS:
        raise ValueError(f"no toy system {name!r}; there are {', '.join(TOYS)}")
    data = TOYS[name](num_sequences, num_steps, generator=torch.Generator().manual_seed(seed), **options)
    return from_arrays(data.x, seed=seed, standardize=False)
