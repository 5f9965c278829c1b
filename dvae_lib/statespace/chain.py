r"""Gaussian chains: a Gaussian over a whole sequence in which each state depends on its neighbour alone.

.. math:: q(z_{1:T}) = q(z_1) \prod_{t=2}^T \mathcal{N}(z_t; F_t z_{t-1} + b_t, S_t)

is a Gaussian whose precision is block-tridiagonal, and every such Gaussian is of this form (and of the same form
backwards in time). It is the posterior of a linear-Gaussian state-space model, hence that of the KVAE (6.12), and of
all models whose inference multiplies a linear prior by potentials of single frames (Johnson et al., 2016; Archer et
al., 2015), or writes the bidiagonal factor of the precision down directly (Archer et al., 2015; Fortuin et al., 2020).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Generator, Size, Tensor
from torch.distributions import Distribution, constraints
from torch.distributions.kl import register_kl

from dvae_lib.distributions import DiagonalGaussian, FullGaussian
from dvae_lib.scans import Method, affine_recursion, check_method
from dvae_lib.statespace import chain_forms as forms
from dvae_lib.statespace.chain_forms import ChainMoments, ChainPrecision, log_det, solve
from dvae_lib.statespace.chain_layout import (
    ChainLayout,
    Direction,
    check_factor,
    check_finite,
    check_potentials,
    check_semidefinite,
    check_sequences,
    check_types,
    frames_of,
    read,
    wide,
    within,
)
from dvae_lib.statespace.information import information_ahead
from dvae_lib.statespace.model import LinearGaussianSSM, covariance_factor
from dvae_lib.statespace.recursions import lyapunov_differentiable
from dvae_lib.statespace.tridiagonal import eliminate

__all__ = ["ChainMoments", "ChainPosterior", "ChainPrecision", "Direction", "GaussianChain"]


class ChainPosterior(NamedTuple):
    """What remains of a chain after potentials.

    Attributes:
        chain: The normalised product.
        log_normalizer: The logarithm of the product's integral, in nats, `(*batch,)`.
    """

    chain: GaussianChain
    log_normalizer: Tensor


class GaussianChain(Distribution):
    r"""A Gaussian over a sequence, given as a chain of conditionals.

    .. math::
        z_t = F_t z_{t-1} + b_t + D_t \epsilon_t \quad\text{(forward)}, \qquad
        z_t = F_t z_{t+1} + b_t + D_t \epsilon_t \quad\text{(backward)}

    with :math:`\epsilon_t \sim \mathcal{N}(0, I)`, and without :math:`F_t` at the frame where the chain starts, the
    first or the last. It is a distribution of `torch.distributions` with the batch shape `(*batch)` and the event
    shape `(T, L)`. There are also the constructors `from_ssm`, `from_moments`, `from_potentials` and
    `from_bidiagonal_factor`.

    A chain whose entries are independent of each other, L scalar chains, has `transition` and `factor` of the shape of
    `offset`; it costs O(T L) instead of O(T L^3).

    Arguments:
        transition: The matrices F, `(*batch, T, L, L)`, or `(*batch, T, L)` for their diagonals. The one at the frame
            where the chain starts is not used.
        offset: The vectors b, `(*batch, T, L)`; at the start it is the mean.
        factor: Factors D of the conditional covariances, lower-triangular with a positive diagonal,
            `(*batch, T, L, L)`, or `(*batch, T, L)` for standard deviations.
        direction: "forward" where each state is conditioned on the one before, "backward" on the one after.
        lengths: How many frames each sequence has, `(*batch,)`, where a batch is padded. What stands beyond is not
            looked at and counts for nothing; a backward chain starts at a sequence's own last frame.
        method: How recursions over time run: "sequential", one step after the other, or "parallel", as associative
            scans. Both give the same numbers up to rounding.
        validate_args: Whether to look at the values as well as at the shapes. Turn it off inside a training loop.

    Raises:
        TypeError: If a parameter is no floating-point tensor, or dtypes or devices differ.
        ValueError: If shapes do not fit, a value is not finite, or a factor is no Cholesky factor.

    Example:
        >>> one = torch.ones(3, 1)
        >>> walk = GaussianChain(one, 0 * one, one)  # z_t = z_{t-1} + noise, from z_0 = 0
        >>> walk.moments().covariance.flatten()
        tensor([1., 2., 3.])
        >>> walk.log_prob(torch.zeros(3, 1)).round(decimals=3)
        tensor(-2.7570)
    """

    arg_constraints = {}
    support = constraints.independent(constraints.real, 2)
    has_rsample = True

    def __init__(
        self,
        transition: Tensor,
        offset: Tensor,
        factor: Tensor,
        *,
        direction: Direction = "forward",
        lengths: Tensor | None = None,
        method: Method = "sequential",
        validate_args: bool = True,
    ) -> None:
        check_method(method)
        layout, own, (b, F, D) = read(
            {"offset": offset},
            {"transition": transition, "factor": factor},
            {},
            direction=direction,
            lengths=lengths,
            finite=validate_args,
        )
        if validate_args:
            check_factor(D)
        self._set(*within(F, b, D, layout, own), layout, own, method)

    def _set(
        self, F: Tensor, b: Tensor, D: Tensor, layout: ChainLayout, own: Tensor | None, method: Method
    ) -> GaussianChain:
        """The parameters in the order of the chain, time first: `ChainLayout` says how."""
        self._F, self._b, self._D, self._layout, self._own, self.method = F, b, D, layout, own, method
        super().__init__(layout.batch, Size((layout.num_steps, layout.size)), validate_args=False)
        return self

    @classmethod
    def _build(
        cls,
        F: Tensor,
        b: Tensor,
        D: Tensor,
        layout: ChainLayout,
        own: Tensor | None,
        method: Method,
        dtype: torch.dtype,
    ) -> GaussianChain:
        F, b, D = (value.to(dtype) for value in (F, b, D))
        return cls.__new__(cls)._set(*within(F, b, D, layout, own), layout, own, method)

    # ---- other ways to say it ------------------------------------------------------------------------------

    @classmethod
    def from_ssm(
        cls,
        ssm: LinearGaussianSSM,
        num_steps: int,
        u: Tensor | None = None,
        *,
        lengths: Tensor | None = None,
        method: Method = "sequential",
    ) -> GaussianChain:
        """The prior of the states of a linear-Gaussian model, Eq. (3.16), a forward chain.

        Arguments:
            ssm: The model. Where a covariance is singular the states have no density, but samples, moments and
                posteriors (`condition`).
            num_steps: T.
            u: The input, `(*batch, T, u_dim)`, where the model has B.
            lengths: As in `GaussianChain`.
            method: As in `GaussianChain`.
        """
        transition, offset, factor = forms.from_ssm(ssm, num_steps, u)
        return cls(transition, offset, factor, lengths=lengths, method=method, validate_args=False)

    @classmethod
    def from_moments(
        cls,
        mean: Tensor,
        covariance: Tensor,
        cross_covariance: Tensor,
        *,
        direction: Direction = "forward",
        lengths: Tensor | None = None,
        method: Method = "sequential",
    ) -> GaussianChain:
        r"""The chain with given moments, such as those of `kalman_smoother`: `GaussianChain.from_moments(*smoothed)`.

        .. math:: F_t = \mathrm{Cov}[z_t, z_{t-1}] \mathrm{Cov}[z_{t-1}]^{-1}, \qquad
            S_t = \mathrm{Cov}[z_t] - F_t \mathrm{Cov}[z_t, z_{t-1}]^T

        A covariance of z_{t-1} that is singular is inverted where it is not zero. Computed in float64.

        Arguments:
            mean: E[z_t], `(*batch, T, L)`.
            covariance: Cov[z_t], `(*batch, T, L, L)`, or `(*batch, T, L)` for independent entries.
            cross_covariance: Cov[z_t, z_{t-1}] for t = 2..T, with T - 1 frames and otherwise of the shape of
                `covariance`.
            direction: In which direction the chain shall run.
            lengths: As in `GaussianChain`.
            method: As in `GaussianChain`.

        Raises:
            TypeError: As `GaussianChain`.
            ValueError: If shapes do not fit or a value is not finite.
        """
        check_method(method)
        layout, own, (m, P, C) = read(
            {"mean": mean},
            {"covariance": covariance},
            {"cross_covariance": cross_covariance},
            direction=direction,
            lengths=lengths,
        )
        return cls._build(*forms.from_moments(*wide(m, P, C)), layout, own, method, mean.dtype)

    @classmethod
    def from_potentials(
        cls,
        diagonal: Tensor,
        off_diagonal: Tensor,
        information: Tensor,
        *,
        direction: Direction = "forward",
        lengths: Tensor | None = None,
        method: Method = "sequential",
    ) -> GaussianChain:
        r"""The chain in information form: the normalised product of potentials of frames and of neighbours.

        .. math:: q(z_{1:T}) \propto \exp\Big(\sum_t \big(h_t^T z_t - \tfrac12 z_t^T J_{t,t} z_t\big)
            - \sum_{t>1} z_t^T J_{t,t-1} z_{t-1}\Big)

        by elimination from the end (or, for a backward chain, from the start), in float64. Since the exponent is zero
        at z = 0, the logarithm of the normalising constant is `-chain.log_prob(0)`.

        Arguments:
            diagonal: The blocks J_{t,t} of the precision, `(*batch, T, L, L)`, or `(*batch, T, L)` for independent
                entries.
            off_diagonal: The blocks J_{t,t-1} for t = 2..T, with T - 1 frames and otherwise of the shape of `diagonal`.
            information: The vectors h, `(*batch, T, L)`.
            direction: In which direction the chain shall run.
            lengths: As in `GaussianChain`.
            method: As in `GaussianChain`.

        Raises:
            TypeError: As `GaussianChain`.
            ValueError: If shapes do not fit, a value is not finite, or the precision is not positive definite.
        """
        check_method(method)
        layout, own, (h, J, O) = read(
            {"information": information},
            {"diagonal": diagonal},
            {"off_diagonal": off_diagonal},
            direction=direction,
            lengths=lengths,
        )
        h, J, O = wide(h, J, O)
        P = layout.unflat(eliminate(layout.flat(J), layout.flat(O), method))
        return cls._build(*forms.from_elimination(P, O, h, method), layout, own, method, information.dtype)

    @classmethod
    def from_bidiagonal_factor(
        cls,
        mean: Tensor,
        diagonal: Tensor,
        off_diagonal: Tensor,
        *,
        direction: Direction = "forward",
        lengths: Tensor | None = None,
        method: Method = "sequential",
    ) -> GaussianChain:
        r"""The chain whose precision is :math:`B B^T`, with B block-bidiagonal.

        A sample is :math:`m + B^{-T} \epsilon`, so the blocks of B are local in time: with an upper-bidiagonal B the
        chain runs forward, :math:`F_t = -B_{t,t}^{-T} B_{t-1,t}^T`; with a lower-bidiagonal one it runs backward,
        :math:`F_t = -B_{t,t}^{-T} B_{t+1,t}^T`. Which of the two is taken decides from which side z_t hears of the
        data (Archer et al., 2015, take the lower one).

        Arguments:
            mean: m, `(*batch, T, L)`.
            diagonal: The invertible blocks B_{t,t}, `(*batch, T, L, L)`, or `(*batch, T, L)` for independent entries.
            off_diagonal: B_{t-1,t} (forward) or B_{t,t-1} (backward) for t = 2..T, with T - 1 frames and otherwise of
                the shape of `diagonal`. Blocks of either sign give neighbours of either correlation.
            direction: "forward" for an upper-bidiagonal factor, "backward" for a lower one.
            lengths: As in `GaussianChain`.
            method: As in `GaussianChain`.

        Raises:
            TypeError: As `GaussianChain`.
            ValueError: If shapes do not fit, a value is not finite, or a diagonal block is singular.

        Example:
            >>> one = torch.ones(2, 1)
            >>> chain = GaussianChain.from_bidiagonal_factor(0 * one, one, -0.5 * one[1:])
            >>> chain.moments().cross_covariance
            tensor([[0.5000]])
        """
        check_method(method)
        layout, own, (m, B, C) = read(
            {"mean": mean}, {"diagonal": diagonal}, {"off_diagonal": off_diagonal}, direction=direction, lengths=lengths
        )
        # `read` turns what couples z_t to z_{t-1} round for a backward chain; here it is given per direction.
        C = C if direction == "forward" else C.mT
        return cls._build(*forms.from_bidiagonal_factor(*wide(m, B, C)), layout, own, method, mean.dtype)

    # ---- what it is made of --------------------------------------------------------------------------------

    @property
    def direction(self) -> Direction:
        """Whether each state is conditioned on the one before, or on the one after."""
        return self._layout.direction

    @property
    def entrywise(self) -> bool:
        """Whether the entries are independent of each other."""
        return self._layout.entrywise

    @property
    def transition(self) -> Tensor:
        """The matrices F, `(*batch, T, L, L)`, or their diagonals; zero where the chain starts."""
        return self._layout.matrix_back(self._F)

    @property
    def offset(self) -> Float[Tensor, "*batch time z_dim"]:
        """The vectors b."""
        return self._layout.vector_back(self._b)

    @property
    def factor(self) -> Tensor:
        """The factors D of the conditional covariances, `(*batch, T, L, L)`, or standard deviations."""
        return self._layout.matrix_back(self._D)

    def __repr__(self) -> str:
        kind = ", independent entries" if self.entrywise else ""
        T, L = self.event_shape
        return f"GaussianChain(T={T}, z_dim={L}, batch_shape={tuple(self.batch_shape)}, {self.direction}{kind})"

    # ---- samples and densities -----------------------------------------------------------------------------

    def rsample(
        self, sample_shape: Sequence[int] = (), *, noise: Tensor | None = None, generator: Generator | None = None
    ) -> Tensor:
        """Reparameterised sequences, by the affine recursion.

        Arguments:
            sample_shape: Shape of independent draws, in front of the batch dimensions.
            noise: Standard normal numbers to make the sequences of, `(*sample_shape, *batch, T, L)`; zeros give the
                mean.
            generator: Source of randomness, where no noise is given.

        Returns:
            `(*sample_shape, *batch, T, L)`.
        """
        shape = self._extended_shape(Size(sample_shape))
        if noise is None:
            noise = torch.randn(shape, dtype=self._b.dtype, device=self._b.device, generator=generator)
        else:
            check_types({"the chain": self._b, "noise": noise})
        if noise.shape != shape:
            raise ValueError(f"noise must have shape {tuple(shape)}, got {tuple(noise.shape)}")
        columns = noise.reshape(-1, *self.batch_shape, *self.event_shape).movedim(0, -1)
        z = self._run(self._b + self._D @ self._layout.columns(columns))
        return self._layout.columns_back(z).movedim(-1, 0).reshape(shape)

    def sample(
        self, sample_shape: Sequence[int] = (), *, noise: Tensor | None = None, generator: Generator | None = None
    ) -> Tensor:
        """Sequences through which no gradient flows."""
        with torch.no_grad():
            return self.rsample(sample_shape, noise=noise, generator=generator)

    def conditionals(self, z: Float[Tensor, "*own time z_dim"]) -> FullGaussian | DiagonalGaussian:
        r"""The conditionals of the chain along a sequence: q(z_t | z_{t-1}), or q(z_t | z_{t+1}), for all frames.

        Arguments:
            z: The sequences, `(*sample_shape, *batch, T, L)`.

        Returns:
            A distribution of batch shape `(*sample_shape, *batch, T)` and event shape `(L,)`, with a diagonal
            covariance where the chain's entries are independent.
        """
        check_sequences("z", z, self._b, self.event_shape)
        chain = self.expand(torch.broadcast_shapes(self.batch_shape, z.shape[:-2]))
        layout = chain._layout
        mean = layout.vector_back(chain._b + chain._F @ chain._before(chain._given(z)))
        if self.entrywise:
            return DiagonalGaussian(mean, 2 * chain.factor.log().expand(mean.shape))
        return FullGaussian(mean, chain.factor)

    def log_prob(self, value: Float[Tensor, "*own time z_dim"]) -> Float[Tensor, "*out"]:
        """Log-density of whole sequences, in nats: the sum of `log_prob_per_frame`; of other shapes, a ValueError."""
        return self.log_prob_per_frame(value).sum(-1)

    def log_prob_per_frame(self, value: Float[Tensor, "*own time z_dim"]) -> Float[Tensor, "*out time"]:
        """Log-density of each state given its neighbour, in nats; zero beyond a sequence's end."""
        check_sequences("value", value, self._b, self.event_shape)
        chain = self.expand(torch.broadcast_shapes(self.batch_shape, value.shape[:-2]))
        z = chain._given(value)
        residual = z - chain._b - chain._F @ chain._before(z)
        white = solve(chain._D, residual)
        per_entry = -0.5 * (white.square() + math.log(2 * math.pi)).sum((-2, -1)) - log_det(chain._D)
        return chain._per_frame(per_entry)

    def entropy(self) -> Float[Tensor, "*batch"]:
        """Entropy of the sequence, in nats: the sum of `entropy_per_frame`."""
        return self.entropy_per_frame().sum(-1)

    def entropy_per_frame(self) -> Float[Tensor, "*batch time"]:
        """Entropy of each state given its neighbour, in nats; zero beyond a sequence's end."""
        n = self._D.shape[-1]
        constant = 0.5 * n * (1 + math.log(2 * math.pi))
        return self._per_frame((log_det(self._D) + constant).expand(-1, *self._layout.inner))

    def kl_per_frame(self, other: GaussianChain) -> Float[Tensor, "*out time"]:
        r"""KL divergence from `other`, frame by frame along its direction, in closed form, in nats.

        .. math:: \mathbb{E}_{q(z_{t-1})} D_\mathrm{KL}\big(q(z_t | z_{t-1}) \,\|\, p(z_t | z_{t-1})\big)

        whose sum over the frames is the divergence between the sequences. Where the two chains run in different
        directions, this one is turned round first. Beyond the ends of this chain's sequences it is zero.

        Raises:
            ValueError: If the chains differ in T or L.
        """
        if self.event_shape != other.event_shape:
            raise ValueError(
                f"The chains must agree in length and size: one has T, L = {tuple(self.event_shape)}, the other "
                f"{tuple(other.event_shape)}"
            )
        batch = torch.broadcast_shapes(self.batch_shape, other.batch_shape)
        q, p = self.expand(batch), other.expand(batch)
        if q.direction != p.direction:
            q = q.reversed()
        if q.entrywise != p.entrywise:
            q, p = q._full(), p._full()
        m, P = q._means(), q._covariances()
        ahead = q._F - p._F
        moved = solve(p._D, ahead)
        spread = torch.cat([torch.zeros_like(P[:1]), moved[1:] @ P[:-1]])
        distance = solve(p._D, q._b - p._b + ahead @ q._before(m))
        ratio = solve(p._D, q._D)
        squares = ratio.square().sum((-2, -1)) + (spread * moved).sum((-2, -1)) + distance.square().sum((-2, -1))
        kl = 0.5 * (squares - p._D.shape[-1]) + log_det(p._D) - log_det(q._D)
        return q._per_frame(kl)

    def kl(self, other: GaussianChain) -> Float[Tensor, "*out"]:
        """KL divergence from `other`, in nats: the sum of `kl_per_frame`; also `torch.distributions.kl_divergence`."""
        return self.kl_per_frame(other).sum(-1)

    # ---- moments -------------------------------------------------------------------------------------------

    @property
    def mean(self) -> Float[Tensor, "*batch time z_dim"]:
        """E[z_t]."""
        return self._layout.vector_back(self._means())

    @property
    def mode(self) -> Float[Tensor, "*batch time z_dim"]:
        """The most probable sequence, which is the mean."""
        return self.mean

    @property
    def variance(self) -> Float[Tensor, "*batch time z_dim"]:
        """Variance of each entry."""
        P = self._layout.matrix_back(self._covariances())
        return P if self.entrywise else P.diagonal(dim1=-2, dim2=-1)

    def moments(self) -> ChainMoments:
        """Means, covariances, and cross-covariances of neighbouring states."""
        P = self._covariances()
        layout = self._layout
        return ChainMoments(self.mean, layout.matrix_back(P), layout.between_back(self._F[1:] @ P[:-1]))

    def marginals(self) -> FullGaussian | DiagonalGaussian:
        """The law of each state alone, of batch shape `(*batch, T)` and event shape `(L,)`."""
        moments = self.moments()
        if self.entrywise:
            return DiagonalGaussian(moments.mean, moments.covariance.log())
        return FullGaussian(moments.mean, covariance_factor(moments.covariance))

    def precision(self) -> ChainPrecision:
        """The same Gaussian in information form; `from_potentials(*chain.precision())` is the chain again."""
        J, O, h = forms.precision(self._F, self._b, self._D)
        layout = self._layout
        return ChainPrecision(layout.matrix_back(J), layout.between_back(O), layout.vector_back(h))

    # ---- other chains --------------------------------------------------------------------------------------

    def condition(self, precision: Tensor, information: Tensor, *, mask: Tensor | None = None) -> ChainPosterior:
        r"""The chain times potentials of single frames: what the data say, each frame by itself.

        .. math:: q(z_{1:T}) \propto p(z_{1:T}) \prod_t \exp\big(h_t^T z_t - \tfrac12 z_t^T J_t z_t\big)

        A precision of zero says nothing, so a missing frame is one of zero potentials. An observation with
        :math:`x_t = C z_t + \mathcal{N}(0, R)` is the potential :math:`J = C^T R^{-1} C`, :math:`h = C^T R^{-1} x_t`;
        then the result is the Kalman smoother's posterior. No precision and no conditional covariance is inverted, so
        both may be singular. One Riccati recursion (in square-root form) and two affine ones, in float64.

        Arguments:
            precision: J, symmetric positive semi-definite, `(*batch, T, L, L)`, or `(*batch, T, L)` for diagonals.
            information: h, `(*batch, T, L)`.
            mask: True where there is a potential: by frame `(*batch, T)`, or, where the precision is diagonal, by entry
                `(*batch, T, L)`. What stands elsewhere is not looked at.

        Returns:
            The chain, in the direction of this one, and the logarithm of the normalising constant in nats.

        Raises:
            TypeError: If a potential is no floating-point tensor of the chain's dtype and device, or the mask not
                boolean.
            ValueError: If shapes do not fit, a value is not finite, or a precision has a negative eigenvalue.
        """
        check_types({"the chain": self._b, "precision": precision, "information": information})
        diagonal = precision.ndim == information.ndim
        check_potentials(precision, information, *self.event_shape)
        if mask is not None:
            there = frames_of(mask, information, diagonal=diagonal)
            information = torch.where(there, information, 0)
            precision = torch.where(there if diagonal else there.unsqueeze(-1), precision, 0)
        batch = torch.broadcast_shapes(self.batch_shape, information.shape[:-2], precision.shape[: -2 - (not diagonal)])
        chain = self.expand(batch)
        if not diagonal and chain.entrywise:
            chain = chain._full()
        layout = chain._layout
        h, J = layout.vector(information), layout.matrix(precision[(None,) * (len(batch) + 2 - information.ndim)])
        if chain._own is not None:
            here = layout.mask(chain._own)
            h, J = torch.where(here, h, 0), torch.where(here, J, 0)
        check_finite("precision", J)
        check_finite("information", h)
        check_semidefinite(J)
        F, b, D, h, J = wide(chain._F, chain._b, chain._D, h, J)
        V = layout.unflat(information_ahead(layout.flat(F), layout.flat(D), layout.flat(J), self.method))
        F, b, D, log_z = forms.times_potentials(F, b, D, h, J, V, self.method)
        result = self._build(F, b, D, layout, chain._own, self.method, self._b.dtype)
        return ChainPosterior(result, chain._per_frame(log_z).sum(-1).to(self._b.dtype))

    def reversed(self) -> GaussianChain:
        """The same Gaussian as a chain in the other direction; its samples from given noise are others."""
        F, b, D = wide(self._F, self._b, self._D)
        m = affine_recursion(F[1:], b, self.method)
        own = None if self._own is None else self._own.flip(0)
        parameters = forms.reverse(F, m, D, self._lyapunov(F, D))
        return self._build(*parameters, self._layout.reversed(), own, self.method, self._b.dtype)

    def expand(self, batch_shape: Sequence[int], _instance: None = None) -> GaussianChain:
        """The same chain with its batch dimensions expanded."""
        batch = Size(batch_shape)
        if batch == self.batch_shape:
            return self
        layout = self._layout._replace(batch=batch)
        old, new = len(self.batch_shape), len(batch)

        def lead(value: Tensor) -> Tensor:
            return value.reshape(value.shape[0], *(1,) * (new - old), *value.shape[1:])

        b = lead(self._b).expand(-1, *layout.inner, -1, -1)
        own = None if self._own is None else lead(self._own).expand(-1, *batch)
        return type(self).__new__(type(self))._set(lead(self._F), b, lead(self._D), layout, own, self.method)

    # ---- within --------------------------------------------------------------------------------------------

    def _run(self, b: Tensor) -> Tensor:
        return affine_recursion(self._F[1:], b, self.method)

    def _means(self) -> Tensor:
        return self._run(self._b)

    def _covariances(self) -> Tensor:
        return self._lyapunov(self._F, self._D)

    def _lyapunov(self, F: Tensor, D: Tensor) -> Tensor:
        flat = self._layout.flat
        return self._layout.unflat(lyapunov_differentiable(flat(F[1:]), flat(D @ D.mT), self.method))

    def _before(self, z: Tensor) -> Tensor:
        """At each place of the chain the state before it there."""
        return torch.cat([torch.zeros_like(z[:1]), z[:-1]])

    def _given(self, z: Tensor) -> Tensor:
        z = self._layout.vector(z.expand(*self.batch_shape, *self.event_shape))
        return z if self._own is None else torch.where(self._layout.mask(self._own), z, 0)

    def _per_frame(self, value: Tensor) -> Tensor:
        """From `(T, *batch, [L])` in the order of the chain to `(*batch, T)`, without what is beyond the end."""
        value = value.sum(-1) if self.entrywise else value
        value = value if self._own is None else torch.where(self._own, value, 0)
        return self._layout.turned(value).movedim(0, -1)

    def _full(self) -> GaussianChain:
        """The same with matrices where there were diagonals."""
        if not self.entrywise:
            return self
        layout = self._layout._replace(entrywise=False)
        F, D = (torch.diag_embed(value[..., 0, 0]) for value in (self._F, self._D))
        return type(self).__new__(type(self))._set(F, self._b.squeeze(-1), D, layout, self._own, self.method)


register_kl(GaussianChain, GaussianChain)(GaussianChain.kl)
