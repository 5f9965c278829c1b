"""Counts whose rates follow a linear dynamical system: the standard model of spiking neurons."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from dvae_lib.data.toy.base import register_toy
from dvae_lib.data.toy.linear_gaussian import linear_gaussian
from dvae_lib.devices import on_the_host

__all__ = ["PoissonSequences", "poisson_lds"]


class PoissonSequences(NamedTuple):
    """Counts, and the system that made them.

    Attributes:
        x: Counts, (N, T, x_dim).
        z: States, (N, T, z_dim).
        lograte: Logarithms of the counts' rates, C z_t + d, (N, T, x_dim).
        A: Transition matrix.
        C: Loadings, (x_dim, z_dim).
        d: Log-rates at a state of zero, (x_dim,).
        Lambda: Covariance of the process noise.
        mu_1: Mean of the first state, zero.
        Lambda_1: Covariance of the first state, that which the system keeps for ever.
    """

    x: Tensor
    z: Tensor
    lograte: Tensor
    A: Tensor
    C: Tensor
    d: Tensor
    Lambda: Tensor
    mu_1: Tensor
    Lambda_1: Tensor


@on_the_host()
def poisson_lds(
    num_sequences: int,
    num_steps: int,
    *,
    z_dim: int = 2,
    x_dim: int = 20,
    rate: float = 1.0,
    A: Float[Tensor, "z_dim z_dim"] | None = None,
    C: Float[Tensor, "x_dim z_dim"] | None = None,
    Lambda: Float[Tensor, "z_dim z_dim"] | None = None,
    generator: Generator | None = None,
) -> PoissonSequences:
    r"""Counts of many neurons that share a few hidden states, after Macke et al. (2011) and Archer et al. (2015).

    .. math:: \mathbf{z}_t \sim \mathcal{N}(A \mathbf{z}_{t-1}, \Lambda), \qquad
              x_{t,i} \sim \mathrm{Poisson}\big(\exp(\mathbf{c}_i^\top \mathbf{z}_t + d_i)\big)

    The states are stationary, and d is chosen so that the mean count of each neuron is `rate`. What is not given is
    drawn or chosen: A stable at random; :math:`\Lambda` so that the states have unit covariance where that is
    possible, :math:`I - A A^\top`, and :math:`0.1 I` elsewhere; loadings such that log-rates have a variance of about
    one half.

    Arguments:
        num_sequences: N.
        num_steps: T.
        z_dim: Size of the state, where no matrix tells it.
        x_dim: Number of neurons, where C does not tell it.
        rate: Mean count per frame of each neuron.
        A: Transition matrix; its eigenvalues lie within the unit circle.
        C: Loadings.
        Lambda: Covariance of the process noise.
        generator: Source of randomness.

    Returns:
        Counts, states, log-rates and all parameters.

    Raises:
        ValueError: `rate` is not positive, or the system is not stable.

    Example:
        >>> data = poisson_lds(3, 50, generator=torch.Generator().manual_seed(0))
        >>> data.x.shape, data.z.shape
        (torch.Size([3, 50, 20]), torch.Size([3, 50, 2]))
    """
    if rate <= 0:
        raise ValueError(f"rate is a mean count and must be positive, got {rate}")
    z_dim = next((m.shape[-1] for m in (A, C, Lambda) if m is not None), z_dim)
    if A is None:
        turn = torch.linalg.qr(torch.randn(z_dim, z_dim, generator=generator)).Q
        A = 0.95 * turn
    if torch.linalg.eigvals(A).abs().max() >= 1:
        raise ValueError("the system is not stable: an eigenvalue of A lies on or outside the unit circle")
    eye = torch.eye(z_dim, dtype=A.dtype)
    if C is None:
        C = torch.randn(x_dim, z_dim, generator=generator, dtype=A.dtype) / (2 * z_dim) ** 0.5
    if Lambda is None:
        rest = eye - A @ A.T
        Lambda = rest if torch.linalg.eigvalsh(rest)[0] > 0 else 0.1 * eye
    system = linear_gaussian(num_sequences, num_steps, A=A, C=C, Lambda=Lambda, generator=generator)
    # The mean of exp(c z + d) under a Gaussian z is exp(d + variance / 2).
    d = torch.log(torch.tensor(rate, dtype=A.dtype)) - 0.5 * ((C @ system.Lambda_1) * C).sum(-1)
    lograte = system.z @ C.T + d
    counts = torch.poisson(lograte.exp(), generator=generator)
    return PoissonSequences(counts, system.z, lograte, A, C, d, Lambda, system.mu_1, system.Lambda_1)


register_toy("poisson-lds", poisson_lds, "counts whose rates follow a linear dynamical system")
