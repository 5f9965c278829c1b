"""What an inference structure costs on a linear-Gaussian model: the loss of its best q, in nats.

The exact posterior of a path is Gaussian, so that the best factors (4.l) of any structure are linear and Gaussian too.
`structure_cost` finds them for a `LinearGaussianSSM` and a spec; `best_inference` for any model whose path is Gaussian.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from dvae_lib.graphs import DependencySpec
from dvae_lib.statespace.model import LinearGaussianSSM

__all__ = ["BestInference", "GaussianPath", "best_inference", "gaussian_path", "structure_cost", "visible"]


class GaussianPath(NamedTuple):
    r"""A posterior :math:`\mathcal{N}(M x, \Omega^{-1})` of a latent path, and the covariance of the data.

    The path stacks the latent entries in the order in which they are drawn, frame after frame; the data likewise.
    Everything is centred: means play no part in a divergence.

    Attributes:
        precision: Omega, `(N, N)` for a path of N entries.
        gain: M, `(N, D)` for data of D entries.
        data_covariance: S, `(D, D)`; of the model itself, or of the truth that it is trained on.
    """

    precision: Tensor
    gain: Tensor
    data_covariance: Tensor

    def gap(self, q: BestInference) -> Tensor:
        r"""The divergence D_KL(q || p) averaged over the data, Eq. (4.h), in nats; differentiable in the posterior."""
        path = torch.linalg.inv(torch.eye(len(q.variance), dtype=q.variance.dtype) - q.latent_weights)
        noise = self.precision @ (path * q.variance) @ path.mT
        error = path @ q.data_weights - self.gain
        wrong = self.precision @ error @ self.data_covariance * error
        entropies = q.variance.log().sum() + torch.logdet(self.precision) + len(q.variance)
        gap: Tensor = 0.5 * (noise.trace() + wrong.sum() - entropies)
        return gap


class BestInference(NamedTuple):
    r"""The best linear-Gaussian q of a structure, :math:`q(z_n \mid \cdot) = \mathcal{N}(A_n z + B_n x, v_n)`.

    Attributes:
        coupling: Nats lost by coupling entries otherwise than the posterior does, the first part of Eq. (4.n): not at
            all, or more strongly, where earlier entries stand in for data that are not seen.
        unseen: Nats lost by the data that are not seen.
        latent_weights: A, `(N, N)`, strictly lower triangular.
        data_weights: B, `(N, D)`.
        variance: v, `(N,)`.
    """

    coupling: float
    unseen: float
    latent_weights: Tensor
    data_weights: Tensor
    variance: Tensor

    @property
    def total(self) -> float:
        """Both together, in nats for the whole sequence."""
        return self.coupling + self.unseen


def gaussian_path(ssm: LinearGaussianSSM, num_steps: int) -> GaussianPath:
    """The posterior over all states of a model without batch dimensions, and the covariance of its own data.

    Gradients flow from the result to the parameters of the model.

    Example:
        >>> one = torch.ones(1, 1).double()
        >>> level = LinearGaussianSSM(one, one, one, one, mu_1=torch.zeros(1).double(), Lambda_1=one)
        >>> gaussian_path(level, 2).precision.round(decimals=6)
        tensor([[ 3., -1.],
                [-1.,  2.]], dtype=torch.float64)
    """
    if ssm.batch_shape:
        raise ValueError(f"Expected a model without batch dimensions, got the batch shape {tuple(ssm.batch_shape)}")
    if num_steps < 1 or ssm.num_steps not in (None, num_steps):
        raise ValueError(f"num_steps must be {ssm.num_steps or 'at least 1'}, got {num_steps}")
    A, C, Lambda, Sigma = (
        ssm.stepwise(name).double().expand(num_steps, -1, -1) for name in ("A", "C", "Lambda", "Sigma")
    )
    emission, noise = torch.block_diag(*C), torch.block_diag(*Sigma)
    path = torch.block_diag(ssm.Lambda_1.double(), *Lambda[1:])
    size = ssm.z_dim
    before = torch.zeros(size, size).double()
    if num_steps > 1:  # z = before z + noise
        before = torch.nn.functional.pad(torch.block_diag(*A[1:]), (0, size, size, 0))
    response = torch.linalg.inv(torch.eye(num_steps * size).double() - before)
    covariance = response @ path @ response.mT
    data = emission @ covariance @ emission.mT + noise
    gain = torch.linalg.solve(data, emission @ covariance).mT
    return GaussianPath(torch.linalg.inv(covariance - gain @ emission @ covariance), gain, data)


def visible(spec: DependencySpec, num_steps: int, z_dim: int = 1, x_dim: int = 1) -> tuple[Tensor, Tensor]:
    """Which latent and which data entries the inference model of a spec looks at, for every latent entry.

    Arguments:
        spec: A spec with one latent `z` and data `x`, both with a time index.
        num_steps: Number of frames.
        z_dim: Entries of a latent vector.
        x_dim: Entries of a frame.

    Returns:
        Two masks, `(num_steps * z_dim, num_steps * z_dim)` and `(num_steps * z_dim, num_steps * x_dim)`.
    """
    references = spec.compact_references("inference").get("z_t")
    if references is None:
        raise ValueError("Expected a spec whose inference block draws z_t; it draws " + ", ".join(spec.latents))
    seen = {name: torch.zeros(num_steps, num_steps, dtype=torch.bool) for name in "zx"}
    for reference in references:
        if reference.name in seen:
            for t in range(1, num_steps + 1):
                for s in reference.times(t, num_steps):
                    if s is not None:
                        seen[reference.name][t - 1, s - 1] = True
    of_z = seen["z"].repeat_interleave(z_dim, 0).repeat_interleave(z_dim, 1)
    return of_z, seen["x"].repeat_interleave(z_dim, 0).repeat_interleave(x_dim, 1)


def best_inference(
    path: GaussianPath, sees_z: Tensor, sees_x: Tensor, *, max_sweeps: int = 500, tolerance: float = 1e-9
) -> BestInference:
    """The best factors of a structure, Eqs. (4.l) to (4.n).

    Factors that see no latent entry have the variances 1 / Omega_nn and the means of Eq. (4.n), one linear system.
    Otherwise the best factor given all others is computed, from the last to the first, until the divergence falls no
    more. One sweep is exact where nothing that is seen is forgotten by a later factor.

    Arguments:
        path: The exact posterior and the covariance of the data.
        sees_z: `(N, N)`, whether factor n looks at an earlier latent entry; strictly lower triangular.
        sees_x: `(N, D)`, whether factor n looks at an entry of the data.
        max_sweeps: After so many sweeps it stops.
        tolerance: A sweep that gains less than this, in nats, is the last.

    Raises:
        ValueError: If a mask has another shape, or a factor looks at an entry that is drawn later.
    """
    size, data_size = path.gain.shape
    for name, mask, shape in (("sees_z", sees_z, (size, size)), ("sees_x", sees_x, (size, data_size))):
        if mask.shape != shape:
            raise ValueError(f"{name} must have shape {shape}, got {tuple(mask.shape)}")
    if sees_z.triu().any():
        raise ValueError("A factor can only look at latent entries that are drawn before its own: sees_z has others")
    start = _independent_means(path, sees_x)
    q = BestInference(0.0, 0.0, torch.zeros_like(path.precision), start, 1 / path.precision.diagonal())
    if sees_z.any():
        lost = float("inf")
        for _ in range(max_sweeps):
            q = _sweep(path, torch.cat([sees_z, sees_x], 1), q)
            before, lost = lost, path.gap(q).item()
            if before - lost < tolerance:
                break
    coupling = -0.5 * (q.variance.log().sum() + torch.logdet(path.precision)).item()
    unseen = path.gap(q).item() - coupling
    return q._replace(coupling=max(0.0, coupling), unseen=max(0.0, unseen))


def structure_cost(ssm: LinearGaussianSSM, spec: DependencySpec, num_steps: int) -> BestInference:
    """The best q with the structure of a spec on a linear-Gaussian model, and what it loses, in nats a sequence.

    Example:
        >>> one = torch.ones(1, 1).double()
        >>> level = LinearGaussianSSM(one, one, one, one, mu_1=torch.zeros(1).double(), Lambda_1=one)
        >>> spec = DependencySpec("z_t ~ z_{t-1} \\n x_t ~ z_t", "z_t ~ x_{1:T}")
        >>> cost = structure_cost(level, spec, 2)
        >>> round(cost.coupling, 4), round(cost.unseen, 4)  # log(3 * 2 / 5) / 2, and nothing is hidden
        (0.0912, 0.0)
    """
    return best_inference(gaussian_path(ssm, num_steps), *visible(spec, num_steps, ssm.z_dim, ssm.x_dim))


def _independent_means(path: GaussianPath, sees_x: Tensor) -> Tensor:
    """The data weights of Eq. (4.n): Omega W S and Omega M S agree in what is seen; by conjugate gradients."""

    def applied(weights: Tensor) -> Tensor:
        return torch.where(sees_x, path.precision @ weights @ path.data_covariance, 0.0)

    scale = path.precision.diagonal()[:, None] * path.data_covariance.diagonal()
    weights = torch.where(sees_x, path.gain, 0.0)
    residual = applied(path.gain) - applied(weights)
    goal = 1e-12 * (residual.square().sum() + 1e-300)
    direction = step = residual / scale
    for _ in range(20 * len(path.gain) + 100):
        energy = (residual * step).sum()
        if residual.square().sum() <= goal or energy <= 0:
            break
        along = applied(direction)
        length = energy / (direction * along).sum()
        weights = weights + length * direction
        residual = residual - length * along
        step = residual / scale
        direction = step + (residual * step).sum() / energy * direction
    return weights


def _sweep(path: GaussianPath, sees: Tensor, q: BestInference) -> BestInference:
    """Eq. (4.l) for every factor, from the last to the first."""
    size = len(path.precision)
    A, B, v = q.latent_weights.clone(), q.data_weights.clone(), q.variance.clone()
    eye, S = torch.eye(size, dtype=A.dtype), path.data_covariance
    for n in reversed(range(size)):
        A[n], B[n], v[n] = 0.0, 0.0, 0.0  # the path without the n-th entry, and what that entry moves
        response = torch.linalg.solve_triangular(eye - A, eye, upper=False, unitriangular=True)
        of_x = response @ B
        weight = path.precision @ response[:, n]
        precision = weight @ response[:, n]
        wrong, noise = weight @ (of_x - path.gain), (weight @ response) * v
        # covariances of that error, and of all that a factor may look at, with each other
        with_seen = torch.cat([wrong @ S @ of_x.mT + noise @ response.mT, wrong @ S])[sees[n]]
        x_and_z = of_x @ S
        known = torch.cat(
            [torch.cat([x_and_z @ of_x.mT + (response * v) @ response.mT, x_and_z], 1), torch.cat([x_and_z.mT, S], 1)]
        )
        weights = torch.zeros(len(known), dtype=A.dtype)
        weights[sees[n]] = -torch.linalg.solve(known[sees[n]][:, sees[n]], with_seen) / precision
        A[n], B[n], v[n] = weights[:size], weights[size:], 1 / precision
    return q._replace(latent_weights=A, data_weights=B, variance=v)
