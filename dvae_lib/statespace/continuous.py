r"""Linear dynamics in continuous time, looked at when one likes: irregular times, exactly.

The state follows :math:`\mathrm{d}\mathbf{z} = F \mathbf{z}\, \mathrm{d}\tau + \mathrm{d}\boldsymbol\beta`, where
:math:`\boldsymbol\beta` is a Brownian motion of diffusion Q. Between two times that lie :math:`\Delta` apart it is
linear and Gaussian again, as in (3.16):

.. math::
    \mathbf{z}(\tau + \Delta) = A(\Delta)\, \mathbf{z}(\tau) + \mathcal{N}(0, \Lambda(\Delta)), \qquad
    A(\Delta) = e^{F \Delta}, \qquad
    \Lambda(\Delta) = \int_0^\Delta e^{F s} Q\, e^{F^\top s}\, \mathrm{d}s .

Särkkä and Svensson (2023), "Bayesian filtering and smoothing", Chapter 4.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from dvae_lib.statespace.model import LinearGaussianSSM

__all__ = ["discretise", "ssm_at_times"]


def discretise(
    F: Float[Tensor, "z_dim z_dim"], Q: Float[Tensor, "z_dim z_dim"], steps: Float[Tensor, "*times"]
) -> tuple[Float[Tensor, "*times z_dim z_dim"], Float[Tensor, "*times z_dim z_dim"]]:
    r""":math:`A(\Delta)` and :math:`\Lambda(\Delta)` of steps of any lengths, with gradients.

    Of a step that is short against F both stand in one matrix exponential (Van Loan, 1978). Longer ones are doubled up:
    :math:`A(2h) = A(h)^2`, :math:`\Lambda(2h) = \Lambda(h) + A(h) \Lambda(h) A(h)^\top`, which stays exact where the
    exponential, with :math:`e^{-F\Delta}` in it, would overflow. All is computed in double precision.

    Arguments:
        F: The drift.
        Q: The diffusion, symmetric and positive semi-definite; per unit of time.
        steps: Lengths of time, zero or positive.

    Returns:
        The two for each step, in the precision of F.

    Raises:
        ValueError: A step that is negative or not finite.

    Example:
        >>> A, Lambda = discretise(-torch.eye(1), 2 * torch.eye(1), torch.tensor([0.0, 1.0, 1000.0]))
        >>> [round(value, 4) for value in Lambda.flatten().tolist()]  # 1 - exp(-2 steps)
        [0.0, 0.8647, 1.0]
    """
    if not bool((torch.isfinite(steps) & (steps >= 0)).all()):
        raise ValueError(f"steps of time must be finite and not negative; got {steps.flatten().tolist()[:5]}")
    size, kept = F.shape[0], F.dtype
    F, Q, steps = F.double(), Q.double(), steps.double()
    longest = float(F.detach().abs().sum(1).max() * steps.detach().max()) if steps.numel() else 0.0
    doublings = max(math.ceil(math.log2(longest)), 0) if longest > 0 else 0
    short = (steps / 2**doublings)[..., None, None]
    both = torch.cat([torch.cat([-F, Q], 1), torch.cat([torch.zeros_like(F), F.mT], 1)])
    exponential = torch.linalg.matrix_exp(both * short)
    A = exponential[..., size:, size:].mT
    Lambda = A @ exponential[..., :size, size:]
    for _ in range(doublings):
        Lambda = Lambda + A @ Lambda @ A.mT
        A = A @ A
    return A.to(kept), (0.5 * (Lambda + Lambda.mT)).to(kept)


def ssm_at_times(
    F: Float[Tensor, "z_dim z_dim"],
    Q: Float[Tensor, "z_dim z_dim"],
    times: Float[Tensor, "*batch time"],
    C: Float[Tensor, "x_dim z_dim"],
    Sigma: Float[Tensor, "x_dim x_dim"],
    *,
    mu_1: Float[Tensor, " z_dim"],
    Lambda_1: Float[Tensor, "z_dim z_dim"],
    validate_args: bool = True,
) -> LinearGaussianSSM:
    """The state-space model of continuous-time dynamics that are observed at given times, of all series or of each.

    Gradients reach F and Q, so that they can be learned from the log-likelihood.

    Arguments:
        F: The drift.
        Q: The diffusion.
        times: When the frames were observed, each later than the one before; (T,), or (B, T) for a batch of series.
        C: Observation matrix.
        Sigma: Covariance of the observation noise.
        mu_1: Mean of the state at the first time.
        Lambda_1: Covariance of the state at the first time.
        validate_args: See `LinearGaussianSSM`.

    Raises:
        ValueError: No time, or times that are not finite, run backwards or repeat, with the first place where they do.

    Example:
        >>> from dvae_lib.statespace import kalman_filter
        >>> one = torch.eye(1)
        >>> walk = ssm_at_times(0 * one, one, torch.tensor([0.0, 0.1, 3.0]), one, one, mu_1=one[0], Lambda_1=one)
        >>> walk.Lambda.flatten()[1:]  # of a random walk, the time that has gone by
        tensor([0.1000, 2.9000])
    """
    check_times(times)
    steps = torch.diff(times, dim=-1, prepend=times[..., :1])
    A, Lambda = discretise(F, Q, steps)
    series = (*times.shape[:-1],)
    fixed = {"C": C, "Sigma": Sigma, "Lambda_1": Lambda_1}
    matrices = {name: value.expand(*series, *value.shape) for name, value in fixed.items()}
    mean = mu_1.expand(*series, *mu_1.shape)
    return LinearGaussianSSM(A=A, Lambda=Lambda, mu_1=mean, **matrices, validate_args=validate_args)


def check_times(times: Float[Tensor, "*batch time"]) -> None:
    """Refuse times that are not finite, run backwards or repeat."""
    if times.numel() == 0 or not bool(torch.isfinite(times).all()):
        raise ValueError("times must be finite numbers, one for each frame")
    wrong = (times.diff(dim=-1) <= 0).nonzero()
    if len(wrong):
        frame = int(wrong[0, -1])
        row = times[tuple(wrong[0, :-1])]
        what = "repeat" if float(row[frame + 1]) == float(row[frame]) else "run backwards"
        raise ValueError(
            f"times {what} at frame {frame + 1}: {float(row[frame])}, then {float(row[frame + 1])}; sort the frames "
            "by time, and make one of those of the same time"
        )
