"""A pendulum: noisy sightings of its bob, and a film of it."""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from dvae_lib.data.toy.base import ToySequences, register_toy
from dvae_lib.data.toy.images import discs
from dvae_lib.devices import on_the_host

__all__ = ["pendulum", "pendulum_images", "pendulum_step"]


GRAVITY = 9.81  # m/s^2


@on_the_host()
def pendulum_step(
    z: Float[Tensor, "*batch 2"],
    *,
    dt: float = 0.05,
    length: float = 1.0,
    damping: float = 0.1,
    push: Float[Tensor, "*batch"] | float = 0.0,
) -> Float[Tensor, "*batch 2"]:
    r"""Advance a pendulum by one time step, :math:`\ddot\theta = -(g / \ell) \sin\theta - c\,\dot\theta + a`.

    One step of the classical fourth-order Runge-Kutta method: at the default step the error in the angle is far
    below a millionth of a radian. Differentiable, for filters that linearise it.

    Arguments:
        z: Angle from the lowest point in radians and angular velocity in rad/s.
        dt: Time step in seconds.
        length: Of the rod in metres.
        damping: The friction c in 1/s.
        push: Angular acceleration a by a motor in rad/s^2, constant over the step.

    Returns:
        The state `dt` seconds later.
    """

    def slope(state: Tensor) -> Tensor:
        angle, velocity = state.unbind(-1)
        return torch.stack((velocity, -(GRAVITY / length) * angle.sin() - damping * velocity + push), dim=-1)

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
        dt: Time step in seconds.
        length: Of the rod in metres.
        damping: Friction in 1/s.
        process_std: Standard deviation of the random kick to the angular velocity at each step, in rad/s.
        observation_std: Standard deviation of the noise on each coordinate, in metres.
        max_angle: Starts are uniform in [-max_angle, max_angle].
        generator: Source of randomness.

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
        angle: From the lowest point, in radians.
        size: Pixels on a side.
        radius: Of the disc, in pixels.

    Returns:
        Images with values in [0, 1]; the first row is the top.
    """
    reach = size / 2 - radius
    centre = torch.stack((size / 2 + reach * angle.sin(), size / 2 + reach * angle.cos()), dim=-1)
    return discs(centre, size, radius)


def _pendulum_film(
    num_sequences: int, num_steps: int, *, generator: Generator | None = None, size: int = 16, **options: Any
) -> ToySequences:
    swing = pendulum(num_sequences, num_steps, generator=generator, **options)
    return ToySequences(pendulum_images(swing.z[..., 0], size=size).flatten(-2), swing.z)


register_toy("pendulum", pendulum, "noisy positions of a swinging pendulum's bob")
register_toy("pendulum-images", _pendulum_film, "a film of a swinging pendulum's bob")
