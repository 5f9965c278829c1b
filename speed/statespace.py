"""Kalman smoothing beside statsmodels, filterpy, pykalman and dynamax: 4 states, 2 observations, float64.

Run with ``python speed/statespace.py``; what is not installed is left out. All contestants smooth the same
series on the same machine and take turns, round after round, so that what counts is the ratio of the medians.
Before any time is taken, every contestant must give the same smoothed means and covariances.

dynamax is jitted, and vmapped over the series of a batch. statsmodels, filterpy and pykalman take one series at a
time; filterpy and pykalman, in Python, are timed on one round only. "Per step" has one transition matrix for each
step, so that nothing may be repeated: it is what a model with changing matrices, such as the KVAE, pays.

"dvae_lib" alone is the default, by which the library chooses (`dvae_lib.statespace.choice`). A second table has the
default of filter, likelihood, forecast and an iteration of EM beside the sequential method, and of the likelihood
statsmodels, too.
"""

import argparse
import importlib.util
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dvae_lib.statespace import (
    LinearGaussianSSM,
    fit_em,
    forecast,
    kalman_filter,
    kalman_smoother,
    log_likelihood,
    sample,
)

SLOW = ("filterpy", "pykalman")
Run = Callable[[], tuple[np.ndarray, np.ndarray]]


class Case(NamedTuple):
    name: str
    steps: int
    series: int


CASES = (
    Case("T = 1,000, one series", 1_000, 1),
    Case("T = 1,000, 64 series", 1_000, 64),
    Case("T = 10,000, one series", 10_000, 1),
)


def model() -> LinearGaussianSSM:
    """Two damped oscillators, of which the positions are observed."""
    step, frequencies, damping = 0.1, (1.0, 2.3), 0.1
    drifts = (torch.tensor([[0.0, 1.0], [-f * f, -damping]], dtype=torch.float64) for f in frequencies)
    A = torch.block_diag(*(torch.matrix_exp(step * drift) for drift in drifts))
    C = torch.tensor([[1.0, 0.0, 0.5, 0.0], [0.0, 0.0, 1.0, 0.0]], dtype=torch.float64)
    Lambda = torch.tensor([1e-3, 1e-2, 1e-3, 1e-2], dtype=torch.float64).diag()
    return LinearGaussianSSM(
        A, C, Lambda, 0.1 * torch.eye(2).double(), mu_1=torch.zeros(4).double(), Lambda_1=torch.eye(4).double()
    )


def ours(ssm: LinearGaussianSSM, x: Tensor, method: str) -> Run:
    def run() -> tuple[np.ndarray, np.ndarray]:
        result = kalman_smoother(ssm, x, method=method)
        return result.mean.numpy(), result.covariance.numpy()

    return run


def statsmodels_peers(ssm: LinearGaussianSSM, x: Tensor) -> list:
    from statsmodels.tsa.statespace.kalman_smoother import SMOOTHER_STATE, SMOOTHER_STATE_COV, KalmanSmoother

    peers = []
    for series in x.numpy():
        peer = KalmanSmoother(k_endog=2, k_states=4, k_posdef=4, smoother_output=SMOOTHER_STATE | SMOOTHER_STATE_COV)
        peer["design"], peer["obs_cov"], peer["transition"] = (v.numpy() for v in (ssm.C, ssm.Sigma, ssm.A))
        peer["selection"], peer["state_cov"] = np.eye(4), ssm.Lambda.numpy()
        peer.bind(np.asfortranarray(series.T))
        peer.initialize_known(ssm.mu_1.numpy(), ssm.Lambda_1.numpy())
        peers.append(peer)
    return peers


def statsmodels(ssm: LinearGaussianSSM, x: Tensor) -> Run:
    peers = statsmodels_peers(ssm, x)

    def run() -> tuple[np.ndarray, np.ndarray]:
        results = [peer.smooth() for peer in peers]
        return (
            np.stack([r.smoothed_state.T for r in results]),
            np.stack([np.moveaxis(r.smoothed_state_cov, -1, 0) for r in results]),
        )

    return run


def filterpy(ssm: LinearGaussianSSM, x: Tensor) -> Run:
    from filterpy.kalman import KalmanFilter

    def smooth(series: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        peer = KalmanFilter(dim_x=4, dim_z=2)
        peer.F, peer.H, peer.Q, peer.R = (v.numpy() for v in (ssm.A, ssm.C, ssm.Lambda, ssm.Sigma))
        peer.x, peer.P = ssm.mu_1.numpy(), ssm.Lambda_1.numpy()
        means, covariances, _, _ = peer.batch_filter(series, update_first=True)
        mean, covariance, *_ = peer.rts_smoother(means, covariances)
        return mean, covariance

    return lambda: tuple(np.stack(values) for values in zip(*(smooth(s) for s in x.numpy()), strict=True))


def pykalman(ssm: LinearGaussianSSM, x: Tensor) -> Run:
    from pykalman import KalmanFilter

    names = ("A", "C", "Lambda", "Sigma")
    peer = KalmanFilter(
        *(getattr(ssm, name).numpy() for name in names), None, None, ssm.mu_1.numpy(), ssm.Lambda_1.numpy()
    )
    return lambda: tuple(np.stack(values) for values in zip(*(peer.smooth(s) for s in x.numpy()), strict=True))


def dynamax(ssm: LinearGaussianSSM, x: Tensor, parallel: bool) -> Run:
    import jax

    jax.config.update("jax_enable_x64", True)
    from dynamax.linear_gaussian_ssm import LinearGaussianSSM as Peer
    from dynamax.linear_gaussian_ssm import lgssm_smoother
    from dynamax.linear_gaussian_ssm.parallel_inference import lgssm_smoother as parallel_smoother

    peer = Peer(state_dim=4, emission_dim=2)
    parameters, _ = peer.initialize(
        initial_mean=ssm.mu_1.numpy(), initial_covariance=ssm.Lambda_1.numpy(), dynamics_weights=ssm.A.numpy(),
        dynamics_covariance=ssm.Lambda.numpy(), emission_weights=ssm.C.numpy(), emission_covariance=ssm.Sigma.numpy(),
        dynamics_bias=np.zeros(4), emission_bias=np.zeros(2),
    )  # fmt: skip
    smoother = parallel_smoother if parallel else lgssm_smoother

    def one(series):
        result = smoother(parameters, series)
        return result.smoothed_means, result.smoothed_covariances

    compiled = jax.jit(jax.vmap(one) if len(x) > 1 else lambda values: tuple(v[None] for v in one(values[0])))
    series = jax.numpy.asarray(x.numpy())
    return lambda: tuple(np.asarray(value) for value in jax.block_until_ready(compiled(series)))


def contestants(ssm: LinearGaussianSSM, x: Tensor) -> dict[str, Run]:
    per_step = ssm.replace(A=ssm.A.expand(x.shape[1], -1, -1).clone())
    runs = {
        "dvae_lib": ours(ssm, x, "auto"),
        "dvae_lib, sequential": ours(ssm, x, "sequential"),
        "dvae_lib, per step": ours(per_step, x, "auto"),
        "dvae_lib, sequential, per step": ours(per_step, x, "sequential"),
    }
    builders = {
        "statsmodels": statsmodels,
        "dynamax": lambda ssm, x: dynamax(ssm, x, parallel=False),
        "dynamax, parallel": lambda ssm, x: dynamax(ssm, x, parallel=True),
        "filterpy": filterpy,
        "pykalman": pykalman,
    }
    for name, build in builders.items():
        if importlib.util.find_spec(name.split(",")[0]) is not None:
            runs[name] = build(ssm, x)
    return runs


def take_turns(runs: dict[str, Callable[[], object]], rounds: int, clock: Callable[[], float]) -> dict[str, float]:
    """Median seconds of each, after one call each that is not counted."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            if name in SLOW and turn != 1:
                continue
            start = clock()
            run()
            if turn > 0:
                times[name].append(clock() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def gradient_case(ssm: LinearGaussianSSM) -> dict[str, Callable[[], object]]:
    """A training step's worth: 32 series of 100 steps, each with matrices of its own, likelihood and its gradient."""
    g = torch.Generator().manual_seed(0)
    A = ssm.A + 0.01 * torch.randn(32, 100, 4, 4, generator=g, dtype=torch.float64)
    C = ssm.C + 0.01 * torch.randn(32, 100, 2, 4, generator=g, dtype=torch.float64)
    x = torch.randn(32, 100, 2, generator=g, dtype=torch.float64)

    def run(method: str) -> None:
        parameters = [value.detach().requires_grad_() for value in (A, C, ssm.Lambda, ssm.Sigma)]
        mu_1, Lambda_1 = ssm.mu_1.expand(32, -1), ssm.Lambda_1.expand(32, -1, -1)
        log_likelihood(LinearGaussianSSM(*parameters, mu_1=mu_1, Lambda_1=Lambda_1), x, method=method).sum().backward()

    return {
        "dvae_lib": lambda: run("auto"),
        "dvae_lib, sequential": lambda: run("sequential"),
        "dvae_lib, parallel": lambda: run("parallel"),
    }


def other_cases(ssm: LinearGaussianSSM, x: Tensor) -> dict[str, dict[str, Callable[[], object]]]:
    """What else takes a method. EM: two evaluations of the likelihood and the step between."""
    calls = {
        "filter": lambda method: kalman_filter(ssm, x, method=method),
        "likelihood": lambda method: log_likelihood(ssm, x, method=method),
        "forecast of 12 steps": lambda method: forecast(ssm, x, 12, method=method),
        "EM, one iteration": lambda method: fit_em(ssm, x, num_iterations=1, tolerance=0.0, method=method),
    }
    cases = {
        name: {"dvae_lib": lambda call=call: call("auto"), "dvae_lib, sequential": lambda call=call: call("sequential")}
        for name, call in calls.items()
    }
    if importlib.util.find_spec("statsmodels") is not None:
        peers = statsmodels_peers(ssm, x)
        theirs = np.array([peer.loglike() for peer in peers])
        np.testing.assert_allclose(log_likelihood(ssm, x).numpy(), theirs, rtol=1e-8)
        cases["likelihood"]["statsmodels"] = lambda: [peer.loglike() for peer in peers]
    return cases


def report(title: str, times: dict[str, float]) -> None:
    reference = times["dvae_lib"]
    print(f"\n{title}\n")
    print(f"| {'contestant':32} | {'ms':>9} | time / our default |")
    print(f"|{'-' * 34}|{'-' * 10}:|{'-' * 19}:|")
    for name, seconds in sorted(times.items(), key=lambda item: item[1]):
        print(f"| {name:32} | {1000 * seconds:9.2f} | {seconds / reference:18.2f} |", flush=True)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rounds", type=int, default=11, help="how often each contestant takes its turn")
    arguments.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads for PyTorch")
    arguments.add_argument("--processor", action="store_true", help="processor time of all threads, on a busy machine")
    options = arguments.parse_args()
    clock = time.process_time if options.processor else time.perf_counter
    torch.set_num_threads(options.threads)
    ssm = model()
    for case in CASES:
        g = torch.Generator().manual_seed(0)
        x = sample(ssm, case.steps, sample_shape=(case.series,), generator=g).x
        runs = contestants(ssm, x)
        truth = runs["dvae_lib, sequential"]()
        for name, run in runs.items():
            if not (name in SLOW and case.series > 1):
                for own, expected in zip(run(), truth, strict=True):  # dynamax adds 1e-9 to what it inverts
                    np.testing.assert_allclose(own, expected, atol=1e-6, err_msg=name)
        report(case.name, take_turns(runs, options.rounds, clock))
        for name, calls in other_cases(ssm, x).items():
            report(f"{case.name}: {name}", take_turns(calls, options.rounds, clock))
    report(
        "Likelihood with gradient, 32 series of T = 100, own matrices per step",
        take_turns(gradient_case(ssm), options.rounds, clock),
    )


if __name__ == "__main__":
    main()
