"""Gaussian chains as posteriors beside the Kalman smoother: 10 states, 500 frames, 20 series.

Run with ``python speed/chains.py``. A chain is the prior of a linear model times a potential for each frame of each
series, as networks make them (`GaussianChain.condition`). The smoother is given the same posterior: noise on the
observations that differs from frame to frame and from series to series. Before any time is taken, both must give the
same means and covariances. "Shared noise" is the smoother where all series have the same model, so that covariances are
computed once for all of them; no posterior that networks make has that.
"""

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from dvae_lib.statespace import ChainMoments, GaussianChain, LinearGaussianSSM, kalman_smoother

L, T, SERIES, ROUNDS = 10, 500, 20, 7


def contestants(method: str) -> dict[str, Callable[[], object]]:
    """What takes turns; float64."""
    generator = torch.Generator().manual_seed(0)
    one = torch.eye(L, dtype=torch.float64)
    A = 0.95 * torch.linalg.qr(torch.randn(L, L, generator=generator, dtype=torch.float64)).Q
    precision = 0.1 + torch.rand(SERIES, T, L, generator=generator, dtype=torch.float64)
    x = torch.randn(SERIES, T, L, generator=generator, dtype=torch.float64)
    shared = LinearGaussianSSM(A, one, 0.1 * one, one, mu_1=torch.zeros(L).double(), Lambda_1=one)

    def every(value: Tensor) -> Tensor:
        return value.expand(SERIES, *value.shape)

    own = LinearGaussianSSM(
        every(A), every(one), every(0.1 * one), torch.diag_embed(1 / precision),
        mu_1=every(shared.mu_1), Lambda_1=every(one),
    )  # fmt: skip
    prior = GaussianChain.from_ssm(shared, T, method=method)

    def posterior() -> ChainMoments:
        return prior.condition(precision, precision * x).chain.moments()

    smoothed, chain = kalman_smoother(own, x, method=method), posterior()
    torch.testing.assert_close(chain.mean, smoothed.mean, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(chain.covariance, smoothed.covariance, rtol=1e-9, atol=1e-9)
    return {
        "Kalman smoother": lambda: kalman_smoother(own, x, method=method),
        "chain, moments": posterior,
        "chain, a sample": lambda: prior.condition(precision, precision * x).chain.sample(),
        "Kalman smoother, shared noise": lambda: kalman_smoother(shared, x, method=method),
    }


def main() -> None:
    torch.set_num_threads(1)
    for method in ("sequential", "parallel"):
        runs = contestants(method)
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(ROUNDS):
            for name, run in runs.items():
                began = time.perf_counter()
                run()
                seconds[name].append(time.perf_counter() - began)
        medians = {name: statistics.median(values) for name, values in seconds.items()}
        for name, value in medians.items():
            print(f"{method}, {name}: {1000 * value:.0f} ms, {value / medians['Kalman smoother']:.2f}")


if __name__ == "__main__":
    main()
