"""The growth model: one state, strongly nonlinear, seen through its square. The benchmark of particle filters."""

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from dvae_lib.data.toy.base import ToySequences, register_toy
from dvae_lib.devices import on_the_host

__all__ = ["growth_model", "growth_step"]


def growth_step(z: Float[Tensor, "*batch"], t: int) -> Float[Tensor, "*batch"]:
    r"""The mean of the state at frame t, counted from 1, given the one before it: the drift of `growth_model`.

    Arguments:
        z: The state at frame t - 1.
        t: The frame.
    """
    return z / 2 + 25 * z / (1 + z.square()) + 8 * torch.cos(torch.tensor(1.2 * t, dtype=z.dtype, device=z.device))


@on_the_host()
def growth_model(
    num_sequences: int,
    num_steps: int,
    *,
    process_variance: float = 10.0,
    observation_variance: float = 1.0,
    initial_variance: float = 5.0,
    generator: Generator | None = None,
) -> ToySequences:
    r"""Sequences of the growth model (Gordon et al., 1993; Kitagawa, 1987).

    .. math:: z_t \sim \mathcal{N}\Big(\frac{z_{t-1}}{2} + \frac{25 z_{t-1}}{1 + z_{t-1}^2} + 8\cos(1.2 t),\; 10\Big),
        \qquad x_t \sim \mathcal{N}\Big(\frac{z_t^2}{20},\; 1\Big)

    The square hides the sign of the state, so the posterior often has two modes, and no Gaussian filter does well.

    Arguments:
        num_sequences: N.
        num_steps: T.
        process_variance: Of the state noise.
        observation_variance: Of the observation noise.
        initial_variance: Of the first state, whose mean is zero.
        generator: Source of randomness.

    Returns:
        x and z, (N, T, 1).

    Example:
        >>> growth_model(2, 50, generator=torch.Generator().manual_seed(0)).x.shape
        torch.Size([2, 50, 1])
    """
    state = initial_variance**0.5 * torch.randn(num_sequences, generator=generator)
    noise = process_variance**0.5 * torch.randn(num_sequences, num_steps, generator=generator)
    states = [state]
    for t in range(2, num_steps + 1):
        state = growth_step(state, t) + noise[:, t - 1]
        states.append(state)
    z = torch.stack(states, dim=1)[..., None]
    seen = torch.randn(z.shape, generator=generator)
    return ToySequences(z.square() / 20 + observation_variance**0.5 * seen, z)


register_toy(
    "growth-model", growth_model, "the growth model, seen through its square: the benchmark of particle filters"
)
