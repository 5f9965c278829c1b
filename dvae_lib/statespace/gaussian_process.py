r"""Gaussian processes on frames: Gaussians over sequences in which each state may depend on all before it.

A kernel gives a covariance between any two frames. One Cholesky factor of it gives all conditionals
:math:`p(z_t | z_{1:t-1})` at once, and what potentials of single frames make of them. With the kernel of Matérn-1/2
the process is a `GaussianChain`, and costs O(T) in place of O(T^3).

Rasmussen and Williams (2006), "Gaussian processes for machine learning"; Fortuin et al. (2020).
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import MultivariateNormal

from dvae_lib.distributions import DiagonalGaussian
from dvae_lib.statespace.chain import GaussianChain
from dvae_lib.statespace.continuous import ssm_at_times
from dvae_lib.statespace.model import LinearGaussianSSM

__all__ = ["KERNELS", "GaussianProcess", "GaussianSequence", "SequencePosterior", "matern_ssm"]

KERNELS: dict[str, Callable[[Tensor], Tensor]] = {
    "cauchy": lambda r: 1 / (1 + r.square()),
    "rbf": lambda r: (-0.5 * r.square()).exp(),
    "matern12": lambda r: (-r).exp(),
    "matern32": lambda r: (1 + math.sqrt(3) * r) * (-math.sqrt(3) * r).exp(),
}
"""Correlations by the kernel's name, as functions of the distance in length scales."""


class GaussianSequence(NamedTuple):
    r"""L independent scalar sequences, each Gaussian, given by their conditionals on the whole past.

    .. math:: z_t = c_t + \sum_{s<t} G_{t,s} z_s + d_t \epsilon_t, \qquad \epsilon_t \sim \mathcal{N}(0, 1)

    Attributes:
        weights: G, strictly lower-triangular in t and s, `(*batch, T, L, T)`.
        offset: c, `(*batch, T, L)`.
        stddev: d, `(*batch, T, L)`.
    """

    weights: Tensor
    offset: Tensor
    stddev: Tensor

    @classmethod
    def from_chain(cls, chain: GaussianChain) -> "GaussianSequence":
        """The same Gaussian as a forward chain of independent entries."""
        F = chain.transition[..., 1:, :].mT  # (*batch, L, T - 1)
        weights = torch.diag_embed(F, offset=-1).transpose(-3, -2)
        return cls(weights, chain.offset, chain.factor)

    def conditionals(self, z: Float[Tensor, "*batch time z_dim"]) -> DiagonalGaussian:
        r"""The conditionals :math:`p(z_t | z_{1:t-1})` along a sequence, for all frames."""
        # Sums of products in place of a matrix product, which mixed precision would shorten.
        mean = self.offset + (self.weights * z.mT.unsqueeze(-3)).sum(-1)
        return DiagonalGaussian(mean, (2 * self.stddev.log()).expand_as(mean))

    def rsample(self, *, noise: Float[Tensor, "*batch time z_dim"]) -> Float[Tensor, "*batch time z_dim"]:
        """Sequences made of standard normal noise; zeros give the mean."""
        driven = (self.offset + self.stddev * noise).mT.unsqueeze(-1)
        z: Tensor = torch.linalg.solve_triangular(self._whitening(), driven, upper=False).squeeze(-1).mT
        return z

    def trajectories(self) -> MultivariateNormal:
        """The law of each entry over all frames: batch shape `(*batch, L)`, event shape `(T,)`."""
        whitening = self._whitening()
        mean = torch.linalg.solve_triangular(whitening, self.offset.mT.unsqueeze(-1), upper=False).squeeze(-1)
        spread = torch.diag_embed(self.stddev.mT)
        factor = torch.linalg.solve_triangular(whitening, spread, upper=False)
        return MultivariateNormal(mean, scale_tril=factor, validate_args=False)

    def _whitening(self) -> Float[Tensor, "*batch z_dim time time"]:
        """The matrix I - G of each entry."""
        T = self.weights.shape[-1]
        identity = torch.eye(T, dtype=self.weights.dtype, device=self.weights.device)
        return identity - self.weights.transpose(-3, -2)


class SequencePosterior(NamedTuple):
    """What remains of a process after potentials.

    Attributes:
        sequence: The normalised product: a chain where the process is one.
        log_normalizer: The logarithm of the product's integral, in nats, `(*batch,)`.
    """

    sequence: GaussianSequence | GaussianChain
    log_normalizer: Tensor


class GaussianProcess:
    r"""Independent scalar processes of mean zero and variance one, on the frames 1, 2, 3 and so on.

    .. math:: \mathrm{Cov}[z_t, z_s] = (1 - \nu) \, \kappa(|t - s| / \ell) + \nu \, [t = s]

    with the length scale :math:`\ell` and the nugget :math:`\nu`, which keeps smooth kernels away from singularity.

    - "cauchy": :math:`\kappa(r) = 1 / (1 + r^2)`, a mixture of RBF kernels of all length scales;
    - "rbf": :math:`\kappa(r) = \exp(-r^2 / 2)`;
    - "matern12": :math:`\kappa(r) = \exp(-r)`, a Markov process;
    - "matern32": :math:`\kappa(r) = (1 + \sqrt3 r) \exp(-\sqrt3 r)`, Markov together with its derivative.

    There is no longest sequence: factors are computed when they are asked for, in double precision, and kept.

    Arguments:
        kernel: One of `KERNELS`.
        length_scale: In frames; one for all entries, or one for each.
        nugget: Share of the variance that is independent from frame to frame. By default 0.001, and 0 for "matern12",
            which with one would not be Markov.

    Raises:
        ValueError: An unknown kernel; a length scale that is not positive; a nugget outside [0, 1), or one for
            "matern12".

    Example:
        >>> GaussianProcess("matern12", 1.0).covariance(2)
        tensor([[[1.0000, 0.3679],
                 [0.3679, 1.0000]]], dtype=torch.float64)
    """

    def __init__(self, kernel: str, length_scale: float | Sequence[float], nugget: float | None = None) -> None:
        if kernel not in KERNELS:
            raise ValueError(f"kernel must be one of {', '.join(KERNELS)}; got {kernel!r}")
        scales = [length_scale] if isinstance(length_scale, int | float) else [float(scale) for scale in length_scale]
        if not scales or not all(0 < scale < math.inf for scale in scales):
            raise ValueError(f"length_scale must be positive and finite, in frames; got {length_scale}")
        self.markov = kernel == "matern12"
        if self.markov and nugget:
            raise ValueError(
                f"the kernel 'matern12' needs no nugget, and with one its process is not Markov; got {nugget}"
            )
        self.nugget = (0.0 if self.markov else 1e-3) if nugget is None else nugget
        if not 0 <= self.nugget < 1:
            raise ValueError(f"nugget is a share of the variance, in [0, 1); got {nugget}")
        self.kernel, self.length_scales = kernel, tuple(scales)
        self._kept: dict[tuple[torch.dtype, torch.device], tuple[Tensor, Tensor, Tensor]] = {}

    def covariance(self, num_steps: int) -> Float[Tensor, "scales time time"]:
        """The covariance of all frames, for each length scale, in double precision."""
        t = torch.arange(num_steps, dtype=torch.float64, device="cpu")
        scale = torch.tensor(self.length_scales, dtype=torch.float64, device="cpu")[:, None, None]
        correlation = KERNELS[self.kernel]((t[:, None] - t).abs() / scale)
        return (1 - self.nugget) * correlation + self.nugget * torch.eye(num_steps, dtype=torch.float64, device="cpu")

    def prior(self, num_steps: int, like: Float[Tensor, "*any z_dim"]) -> GaussianSequence | GaussianChain:
        r"""The conditionals :math:`p(z_t | z_{1:t-1})` of all frames; a chain where the process is Markov.

        Arguments:
            num_steps: T.
            like: A tensor whose dtype, device and last dimension L the conditionals have.
        """
        L = like.shape[-1]
        if self.markov:
            return self._chain(num_steps, like)
        _, weights, stddev = self._known(num_steps, like)
        return GaussianSequence(weights.expand(-1, L, -1), stddev.new_zeros(num_steps, L), stddev.expand(-1, L))

    def after(
        self, precision: Float[Tensor, "*batch time z_dim"], information: Float[Tensor, "*batch time z_dim"]
    ) -> SequencePosterior:
        r"""The process times potentials of single frames: what the data say, each frame by itself.

        .. math:: q(z_{1:T}) \propto p(z_{1:T}) \prod_t \exp\big(h_t z_t - \tfrac12 J_t z_t^2\big)
            \quad \text{for each entry}

        With :math:`K = C C^T` and :math:`z = C e`, the white e has the precision :math:`I + C^T \mathrm{diag}(J) C =
        U U^T`, U upper-triangular. So its conditionals in the order of time can be read off, those of frame t depend
        on the potentials of t to T alone, and nothing that may be singular is inverted. In double precision.

        Arguments:
            precision: J, not negative.
            information: h.

        Returns:
            The conditionals :math:`q(z_t | z_{1:t-1})`, and the logarithm of the normalising constant.
        """
        T = information.shape[-2]
        if self.markov:
            found = self._chain(T, information).condition(precision, information)
            return SequencePosterior(found.chain, found.log_normalizer)
        C = self._known(T, information)[0]
        J, h = precision.double().mT, information.double().mT
        A = torch.eye(T, dtype=C.dtype, device=C.device) + C.mT @ (J.unsqueeze(-1) * C)
        U = torch.linalg.cholesky(A.flip(-1, -2)).flip(-1, -2)
        w = torch.linalg.solve_triangular(U, C.mT @ h.unsqueeze(-1), upper=True).squeeze(-1)
        own = U.diagonal(dim1=-2, dim2=-1)
        ratio = C.diagonal(dim1=-2, dim2=-1) / own
        G = (C - ratio.unsqueeze(-1) * U.mT).tril(-1)
        G = torch.linalg.solve_triangular(C.expand_as(G), G, upper=False, left=False)
        conditionals = (G.transpose(-3, -2), (ratio * w).mT, ratio.mT)
        dtype = information.dtype
        log_z = (0.5 * w.square() - own.log()).sum((-2, -1))
        return SequencePosterior(GaussianSequence(*(value.to(dtype) for value in conditionals)), log_z.to(dtype))

    def following(self, past: Float[Tensor, "batch time z_dim"]) -> DiagonalGaussian:
        """The prior of the next frame after these; after none, that of the first."""
        t, L = past.shape[1:]
        if self.markov:
            rho, stddev = self._autoregression(past)
            mean = rho * past[:, -1] if t else past.new_zeros(len(past), L)
            return DiagonalGaussian(mean, (2 * stddev.log() if t else torch.zeros_like(stddev)).expand_as(mean))
        _, weights, stddev = self._known(t + 1, past)
        mean = (weights[-1, :, :t] * past.mT).sum(-1)
        return DiagonalGaussian(mean, (2 * stddev[-1].log()).expand_as(mean))

    def _chain(self, num_steps: int, like: Tensor) -> GaussianChain:
        rho, stddev = self._autoregression(like)
        factor = torch.cat([torch.ones_like(stddev)[None], stddev.expand(num_steps - 1, -1)])
        transition = rho.expand(num_steps, -1)
        return GaussianChain(transition, torch.zeros_like(transition), factor, validate_args=False)

    def _autoregression(self, like: Tensor) -> tuple[Float[Tensor, " z_dim"], Float[Tensor, " z_dim"]]:
        """What is kept of a frame of the Markov process, and the standard deviation of what is new, for each entry."""
        scale = torch.tensor(self.length_scales, dtype=torch.float64, device="cpu")
        rho, stddev = (-1 / scale).exp(), (-torch.expm1(-2 / scale)).sqrt()
        return rho.expand(like.shape[-1]).to(like), stddev.expand(like.shape[-1]).to(like)

    def _known(self, num_steps: int, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The Cholesky factor (in double precision, `(S, T, T)`), the conditionals' weights and standard deviations.

        Those of a shorter sequence stand in the first rows of those of a longer one.
        """
        key = (like.dtype, like.device)
        if key not in self._kept or self._kept[key][0].shape[-1] < num_steps:
            size = num_steps if key not in self._kept else 2 * num_steps  # it will grow frame by frame
            C = torch.linalg.cholesky(self.covariance(size))
            weights = torch.linalg.solve_triangular(C, C.tril(-1), upper=False, left=False).transpose(0, 1)
            stddev = C.diagonal(dim1=-2, dim2=-1).mT
            self._kept[key] = C.to(like.device), weights.to(like), stddev.to(like)
        C, weights, stddev = self._kept[key]
        return C[:, :num_steps, :num_steps], weights[:num_steps, :, :num_steps], stddev[:num_steps]


def matern_ssm(
    kernel: str, length_scale: float, noise: float, *, times: Float[Tensor, "*batch time"] | None = None
) -> LinearGaussianSSM:
    r"""The state-space model that a process of Matérn's kernel is, observed in white noise; in double precision.

    Of "matern12" the state is the process, :math:`A = e^{-1/\ell}`. Of "matern32" it is the process and its
    derivative, :math:`A = e^{-\lambda} \begin{pmatrix} 1 + \lambda & 1 \\ -\lambda^2 & 1 - \lambda \end{pmatrix}`
    with :math:`\lambda = \sqrt3 / \ell`, whose stationary covariance is :math:`\mathrm{diag}(1, \lambda^2)`.

    Arguments:
        kernel: "matern12" or "matern32".
        length_scale: In frames; with `times`, in their unit.
        noise: Variance of the observations around the process.
        times: When the frames were observed, (T,), or (B, T) for a batch of series; by default 1, 2, 3, ... The model
            is exact at any times.

    Raises:
        ValueError: Another kernel, which is no state-space model with so few states; times that run backwards or
            repeat.

    Source: Hartikainen and Särkkä (2010), "Kalman filtering and smoothing solutions to temporal Gaussian process
    regression models".
    """
    if kernel not in ("matern12", "matern32"):
        raise ValueError(f"kernel must be 'matern12' or 'matern32'; got {kernel!r}")
    if kernel == "matern12":
        rate = 1 / length_scale
        A, stationary = [[math.exp(-rate)]], [1.0]
    else:
        rate = math.sqrt(3) / length_scale
        A = [[math.exp(-rate) * value for value in row] for row in ([1 + rate, 1.0], [-(rate**2), 1 - rate])]
        stationary = [1.0, rate**2]
    matrix = torch.tensor(A, dtype=torch.float64)
    covariance = torch.diag(torch.tensor(stationary, dtype=torch.float64))
    C = torch.eye(1, len(A), dtype=torch.float64)
    if times is not None:
        double = times.to("cpu", torch.float64)
        drift = [[-rate]] if len(A) == 1 else [[0.0, 1.0], [-(rate**2), -2 * rate]]
        diffusion = [2 * rate] if len(A) == 1 else [0.0, 4 * rate**3]
        return ssm_at_times(
            torch.tensor(drift, dtype=torch.float64),
            torch.diag(torch.tensor(diffusion, dtype=torch.float64)),
            double,
            C,
            noise * torch.eye(1, dtype=torch.float64),
            mu_1=0 * C[0],
            Lambda_1=covariance,
        )
    new = covariance - matrix @ covariance @ matrix.mT
    return LinearGaussianSSM(
        matrix, C, 0.5 * (new + new.mT), noise * torch.eye(1, dtype=torch.float64), mu_1=0 * C[0], Lambda_1=covariance
    )
