"""The truth without recursions: the joint Gaussian of all states and observations, conditioned on what is observed."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dvae_lib.statespace import LinearGaussianSSM


class Truth(NamedTuple):
    filtered_mean: Tensor  # (T, L)
    filtered_covariance: Tensor
    predicted_mean: Tensor
    predicted_covariance: Tensor
    smoothed_mean: Tensor
    smoothed_covariance: Tensor
    cross_covariance: Tensor  # (T - 1, L, L)
    log_likelihood: Tensor  # ()
    posterior_covariance: Tensor  # (T L, T L)


def random_covariance(n: int, generator: torch.Generator, *batch: int) -> Tensor:
    factor = torch.randn(*batch, n, n, generator=generator, dtype=torch.float64)
    return factor @ factor.mT / n + 0.1 * torch.eye(n, dtype=torch.float64)


def random_ssm(
    z_dim: int = 3,
    x_dim: int = 2,
    *,
    steps: int | None = None,
    u_dim: int = 0,
    batch: tuple[int, ...] = (),
    seed: int = 0,
) -> LinearGaussianSSM:
    """A stable random model in float64, with every parameter; per step where `steps` is given."""
    g = torch.Generator().manual_seed(seed)
    lead = (*batch, *(() if steps is None else (steps,)))

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    return LinearGaussianSSM(
        0.9 * torch.linalg.qr(normal(*lead, z_dim, z_dim)).Q,
        normal(*lead, x_dim, z_dim),
        random_covariance(z_dim, g, *lead),
        random_covariance(x_dim, g, *lead),
        mu_1=normal(*batch, z_dim),
        Lambda_1=random_covariance(z_dim, g, *batch),
        B=normal(*lead, z_dim, u_dim) if u_dim else None,
        m=normal(*lead, z_dim),
        n=normal(*lead, x_dim),
    )


def condition(
    mean: np.ndarray, cov: np.ndarray, known: np.ndarray, values: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of everything, given the entries `known`."""
    gain = np.linalg.solve(cov[np.ix_(known, known)], cov[known]).T
    return mean + gain @ (values - mean[known]), cov - gain @ cov[known]


def infer(ssm: LinearGaussianSSM, x: Tensor, u: Tensor | None = None) -> Truth:
    """Everything for one series; NaN where missing."""
    T, D, L = *x.shape, ssm.z_dim

    def at(name: str, t: int) -> np.ndarray:
        value = getattr(ssm, name)
        if value is None:
            return np.zeros({"m": L, "n": D}[name])
        return (value[t] if ssm.per_step(name) else value).numpy()

    mean, cov = np.zeros(T * L), np.zeros((T * L, T * L))
    for t in range(T):
        now, before = slice(t * L, (t + 1) * L), slice((t - 1) * L, t * L)
        driven = at("B", t) @ u[t].numpy() if u is not None else 0
        if t == 0:
            mean[now], cov[now, now] = ssm.mu_1.numpy() + driven, ssm.Lambda_1.numpy()
            continue
        A = at("A", t)
        mean[now] = A @ mean[before] + at("m", t) + driven
        cov[now, : t * L] = A @ cov[before, : t * L]
        cov[: t * L, now] = cov[now, : t * L].T
        cov[now, now] = A @ cov[before, before] @ A.T + at("Lambda", t)

    C, Sigma = np.zeros((T * D, T * L)), np.zeros((T * D, T * D))
    offset = np.zeros(T * D)
    for t in range(T):
        rows = slice(t * D, (t + 1) * D)
        C[rows, t * L : (t + 1) * L], Sigma[rows, rows], offset[rows] = at("C", t), at("Sigma", t), at("n", t)
    joint_mean = np.concatenate([mean, C @ mean + offset])
    cross = cov @ C.T
    joint_cov = np.block([[cov, cross], [cross.T, C @ cross + Sigma]])

    values = x.numpy().ravel()
    observed = np.flatnonzero(~np.isnan(values))

    def given(last: int) -> tuple[np.ndarray, np.ndarray]:
        known = observed[observed < last * D]
        m, P = condition(joint_mean, joint_cov, known + T * L, values[known])
        return m[: T * L].reshape(T, L), P[: T * L, : T * L].reshape(T, L, T, L)

    steps = [given(t) for t in range(T + 1)]
    smoothed_mean, posterior = steps[-1]
    stack = {
        "filtered_mean": [steps[t + 1][0][t] for t in range(T)],
        "filtered_covariance": [steps[t + 1][1][t, :, t] for t in range(T)],
        "predicted_mean": [steps[t][0][t] for t in range(T)],
        "predicted_covariance": [steps[t][1][t, :, t] for t in range(T)],
        "smoothed_covariance": [posterior[t, :, t] for t in range(T)],
        "cross_covariance": [posterior[t, :, t - 1] for t in range(1, T)] or [np.zeros((0, L, L))],
    }
    residual = values[observed] - joint_mean[observed + T * L]
    S = joint_cov[np.ix_(observed + T * L, observed + T * L)]
    log_density = -0.5 * (residual @ np.linalg.solve(S, residual) + np.linalg.slogdet(2 * np.pi * S)[1])
    arrays = {name: np.stack(v) if v[0].ndim < 3 else v[0] for name, v in stack.items()}
    return Truth(
        **{name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in arrays.items()},
        smoothed_mean=torch.from_numpy(smoothed_mean),
        log_likelihood=torch.tensor(log_density, dtype=torch.float64),
        posterior_covariance=torch.from_numpy(posterior.reshape(T * L, T * L)),
    )
