"""Linear-Gaussian systems: the toy whose likelihood and posteriors the Kalman filter knows."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from dvae_lib.data.toy.base import register_toy
from dvae_lib.devices import on_the_host

__all__ = ["LinearGaussianSequences", "linear_gaussian", "random_stable_matrix"]


class LinearGaussianSequences(NamedTuple):
    """Sequences of a linear-Gaussian system, with the matrices of Eqs. (3.16)-(3.17) that made them.

    Attributes:
        x: Observations, (N, T, x_dim).
        z: States, (N, T, z_dim).
        A: Transition matrix.
        C: Observation matrix.
        Lambda: Covariance of the process noise.
        Sigma: Covariance of the observation noise.
        mu_1: Mean of the first state.
        Lambda_1: Covariance of the first state.
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
        dim: Number of rows and columns.
        radius: Spectral radius; below one, the system forgets.
        generator: Source of randomness.
        dtype: Of the result.

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
        z_dim: Size of the state, where no matrix tells it.
        x_dim: Size of an observation, where no matrix tells it.
        A: Transition matrix.
        C: Observation matrix.
        Lambda: Covariance of the process noise.
        Sigma: Covariance of the observation noise.
        mu_1: Mean of the first state, zero by default.
        Lambda_1: Covariance of the first state.
        generator: Source of randomness.
        dtype: Of the result; that of the matrices given by default.

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


register_toy("linear-gaussian", linear_gaussian, "a linear-Gaussian system drawn at random")
