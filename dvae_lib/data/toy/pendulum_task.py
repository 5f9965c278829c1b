"""A pendulum with a motor: sequences with inputs and rewards, and the task of swinging it up."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from dvae_lib.data.toy.base import register_toy
from dvae_lib.data.toy.pendulum import pendulum_step
from dvae_lib.devices import on_the_host

__all__ = ["DrivenPendulum", "PendulumTask", "driven_pendulum"]


class DrivenPendulum(NamedTuple):
    """Sequences of a pendulum with a motor.

    Attributes:
        x: Sine and cosine of the angle from the lowest point, and the angular velocity in rad/s, with noise, (N, T, 3).
        z: Angle in radians and angular velocity in rad/s, (N, T, 2).
        u: Torque in newton metres that led to each frame, (N, T, 1); zero at the first.
        reward: Reward of each frame, at most 1, (N, T).
    """

    x: Tensor
    z: Tensor
    u: Tensor
    reward: Tensor


class PendulumTask:
    r"""Swing a pendulum up and hold it there, with a motor too weak to lift it at once.

    .. math:: m \ell^2 \ddot\theta = -m g \ell \sin\theta - c\, m \ell^2 \dot\theta + u_t, \qquad
        r_t = -\cos\theta_t - 0.001\, u_t^2

    with a mass m of 1 kg and :math:`\theta` from the lowest point, so that the reward is nearly 1 at the top. States
    are tensors that are passed around, so a planner can try actions on as many copies as it likes.

    Arguments:
        num_steps: Frames of an episode, after which it is over.
        length: Of the rod in metres.
        damping: Friction c in 1/s.
        max_torque: The motor's limit in newton metres; what is asked beyond it is cut off. To hold a rod of one
            metre level takes 9.81.
        dt: Seconds between frames.
        observation_std: Standard deviation of the noise on each observed number.

    Raises:
        ValueError: A size is not positive.

    Example:
        >>> task = PendulumTask()
        >>> z = task.reset(2, generator=torch.Generator().manual_seed(0))
        >>> z, reward = task.step(z, torch.ones(2, 1))
        >>> z.shape, reward.shape
        (torch.Size([2, 2]), torch.Size([2]))
    """

    def __init__(
        self,
        *,
        num_steps: int = 100,
        length: float = 1.0,
        damping: float = 0.1,
        max_torque: float = 4.0,
        dt: float = 0.05,
        observation_std: float = 0.0,
    ) -> None:
        sizes = {"num_steps": num_steps, "length": length, "max_torque": max_torque, "dt": dt}
        for name, value in sizes.items():
            if value <= 0:
                raise ValueError(f"{name} must be positive, got {value}")
        self.num_steps, self.length, self.damping = num_steps, length, damping
        self.max_torque, self.dt, self.observation_std = max_torque, dt, observation_std

    @on_the_host()
    def reset(self, num_episodes: int, *, generator: Generator | None = None) -> Float[Tensor, "episodes 2"]:
        """The states that episodes begin in: nearly at rest, near the lowest point."""
        return 0.1 * torch.randn(num_episodes, 2, generator=generator)

    def step(
        self, z: Float[Tensor, "*batch 2"], u: Float[Tensor, "*batch 1"]
    ) -> tuple[Float[Tensor, "*batch 2"], Float[Tensor, "*batch"]]:
        """The next states and their rewards, under torques u; differentiable."""
        u = u.clamp(-self.max_torque, self.max_torque)
        acceleration = u.squeeze(-1) / self.length**2
        following = pendulum_step(z, dt=self.dt, length=self.length, damping=self.damping, push=acceleration)
        return following, self.reward(following, u)

    def reward(self, z: Float[Tensor, "*batch 2"], u: Float[Tensor, "*batch 1"]) -> Float[Tensor, "*batch"]:
        """The reward of states that the torques u led to."""
        return -z[..., 0].cos() - 0.001 * u.squeeze(-1).square()

    def observe(self, z: Float[Tensor, "*batch 2"], *, generator: Generator | None = None) -> Float[Tensor, "*batch 3"]:
        """Sine and cosine of the angle, and the angular velocity, with noise."""
        seen = torch.stack((z[..., 0].sin(), z[..., 0].cos(), z[..., 1]), dim=-1)
        if self.observation_std == 0:
            return seen
        noise = torch.randn(seen.shape, generator=generator, dtype=seen.dtype, device=seen.device)
        return seen + self.observation_std * noise

    def is_up(self, z: Float[Tensor, "*batch 2"]) -> Bool[Tensor, "*batch"]:
        """Whether the pendulum stands within a quarter of a radian of the top, nearly at rest (below 1 rad/s)."""
        return (z[..., 0].cos() < -math.cos(0.25)) & (z[..., 1].abs() < 1)


@on_the_host()
def driven_pendulum(
    num_sequences: int,
    num_steps: int,
    *,
    task: PendulumTask | None = None,
    hold: float = 0.8,
    generator: Generator | None = None,
) -> DrivenPendulum:
    r"""Episodes of a pendulum whose motor is driven at random.

    .. math:: u_t = \rho u_{t-1} + \sqrt{1 - \rho^2}\, \epsilon_t, \qquad \epsilon_t \sim \mathcal{N}(0, u_\max^2 / 4)

    cut off at the motor's limit: torques that last, so that the pendulum is swung high.

    Arguments:
        num_sequences: N.
        num_steps: T.
        task: The pendulum; by default one with a little noise on what is seen.
        hold: How much of the torque is kept from one frame to the next, :math:`\rho`.
        generator: Source of randomness.

    Returns:
        Observations, states, torques and rewards.

    Raises:
        ValueError: `hold` is not between -1 and 1.
    """
    if not -1 < hold < 1:
        raise ValueError(f"hold must lie between -1 and 1, got {hold}")
    task = PendulumTask(observation_std=0.02) if task is None else task
    state = task.reset(num_sequences, generator=generator)
    push = task.max_torque / 2 * torch.randn(num_sequences, num_steps, 1, generator=generator)
    torque = push[:, 0]
    states, torques, rewards = [state], [torch.zeros_like(torque)], [task.reward(state, 0 * torque)]
    for t in range(1, num_steps):
        torque = hold * torque + math.sqrt(1 - hold**2) * push[:, t]
        state, reward = task.step(state, torque)
        states.append(state)
        torques.append(torque.clamp(-task.max_torque, task.max_torque))
        rewards.append(reward)
    z = torch.stack(states, dim=1)
    x = task.observe(z, generator=generator)
    return DrivenPendulum(x, z, torch.stack(torques, dim=1), torch.stack(rewards, dim=1))


register_toy("driven-pendulum", driven_pendulum, "a pendulum whose motor is driven at random")
