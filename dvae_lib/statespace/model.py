"""The linear-Gaussian state-space model: its parameters, its checks and its samples."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dvae_lib.arrays import whole_number
from dvae_lib.scans import affine_recursion
from dvae_lib.statespace.series import Series, as_series

__all__ = ["LinearGaussianSSM", "StateSpaceSample", "covariance_factor", "sample"]

_MATRICES = ("A", "C", "Lambda", "Sigma", "Lambda_1", "B")
_VECTORS = ("mu_1", "m", "n")


class StateSpaceSample(NamedTuple):
    """What ancestral sampling returns: states `z (*batch, T, z_dim)` and observations `x (*batch, T, x_dim)`."""

    z: Tensor
    x: Tensor


class LinearGaussianSSM:
    r"""Linear-Gaussian state-space model, Eqs. (3.16) and (3.17).

    .. math::
        z_1 &\sim \mathcal{N}(\mu_1 + B_1 u_1, \Lambda_1) \\
        z_t &= A_t z_{t-1} + B_t u_t + m_t + \mathcal{N}(0, \Lambda_t) \\
        x_t &= C_t z_t + n_t + \mathcal{N}(0, \Sigma_t)

    A matrix is either constant, `(*batch, L, L)`, or given per step, `(*batch, T, L, L)`. Which of the two it is
    follows from `mu_1 (*batch, L)` and `Lambda_1 (*batch, L, L)`, which have no time axis: they fix the number of
    batch dimensions, and a parameter with one dimension more is per step. So for a batch of series that share
    a per-step matrix of shape `(T, L, L)`, write `A[None]`; for a batch of models, give `mu_1` its batch dimension.
    Batch dimensions broadcast. The first entry of a per-step `A`, `Lambda` and `m` is not used.

    Arguments:
        A: Transition matrices, `(*batch, [T,] z_dim, z_dim)`.
        C: Observation matrices, `(*batch, [T,] x_dim, z_dim)`.
        Lambda: Covariances of the state noise, `(*batch, [T,] z_dim, z_dim)`; may be singular.
        Sigma: Covariances of the observation noise, `(*batch, [T,] x_dim, x_dim)`; may be singular as long as
            the covariance of the innovations is not.
        mu_1: Mean of the first state, `(*batch, z_dim)`.
        Lambda_1: Covariance of the first state, `(*batch, z_dim, z_dim)`; may be singular.
        B: Input matrices, `(*batch, [T,] z_dim, u_dim)`, or None.
        m: Offsets of the state, `(*batch, [T,] z_dim)`, or None for zero.
        n: Offsets of the observation, `(*batch, [T,] x_dim)`, or None for zero.
        fixed: Names of parameters that make the model what it is, which `fit_em` leaves alone unless told otherwise.
        validate_args: Whether to look at the values as well as at the shapes. Turn it off for models built inside
            a training loop.

    Raises:
        TypeError: If a parameter is no floating-point tensor, or their dtypes or devices differ.
        ValueError: If shapes do not fit, a value is not finite, or a covariance is not symmetric positive
            semi-definite.

    Example:
        >>> level = LinearGaussianSSM(
        ...     torch.eye(1), torch.eye(1), torch.eye(1), 2 * torch.eye(1), mu_1=torch.zeros(1), Lambda_1=torch.eye(1)
        ... )
        >>> level
        LinearGaussianSSM(z_dim=1, x_dim=1, u_dim=0, batch_shape=(), num_steps=any)
    """

    def __init__(
        self,
        A: Tensor,
        C: Tensor,
        Lambda: Tensor,
        Sigma: Tensor,
        *,
        mu_1: Tensor,
        Lambda_1: Tensor,
        B: Tensor | None = None,
        m: Tensor | None = None,
        n: Tensor | None = None,
        fixed: Collection[str] = (),
        validate_args: bool = True,
    ) -> None:
        self.A, self.C, self.Lambda, self.Sigma = A, C, Lambda, Sigma
        self.mu_1, self.Lambda_1, self.B, self.m, self.n = mu_1, Lambda_1, B, m, n
        self.fixed = frozenset((fixed,) if isinstance(fixed, str) else fixed)
        if not self.fixed <= {*_MATRICES, *_VECTORS}:
            raise ValueError(
                f"fixed names unknown parameters: {sorted(self.fixed - {*_MATRICES, *_VECTORS})}; the names are "
                f"{', '.join((*_MATRICES, *_VECTORS))}"
            )
        self._check_types()
        self.z_dim: int = mu_1.shape[-1]
        self.x_dim: int = C.shape[-2]
        self.u_dim: int = 0 if B is None else B.shape[-1]
        self._batch_rank = max(mu_1.ndim - 1, Lambda_1.ndim - 2)
        self._check_shapes()
        if validate_args:
            self._check_values()

    # ---- what it is ----------------------------------------------------------------------------------------

    def parameters(self) -> Iterator[tuple[str, Tensor]]:
        """The parameters that are given, by name."""
        for name in (*_MATRICES, *_VECTORS):
            value = getattr(self, name)
            if value is not None:
                yield name, value

    def per_step(self, name: str) -> bool:
        """Whether the parameter `name` is given per step."""
        value = getattr(self, name)
        event = 1 if name in _VECTORS else 2
        return value is not None and value.ndim - event > self._batch_rank

    @property
    def num_steps(self) -> int | None:
        """The number of steps that per-step parameters fix, or None where all parameters are constant."""
        for name, value in self.parameters():
            if self.per_step(name):
                return int(value.shape[-2] if name in _VECTORS else value.shape[-3])
        return None

    @property
    def batch_shape(self) -> torch.Size:
        """The batch dimensions of the model, before those of the data."""
        return broadcast(*(self._batch_of(name, value) for name, value in self.parameters()))

    @property
    def covariance_batch_shape(self) -> torch.Size:
        """The batch dimensions of what the covariances depend on: means, offsets and inputs leave them alone."""
        names = ("A", "C", "Lambda", "Sigma", "Lambda_1")
        return broadcast(*(self._batch_of(name, getattr(self, name)) for name in names))

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of all parameters."""
        return self.A.dtype

    @property
    def device(self) -> torch.device:
        """The device of all parameters."""
        return self.A.device

    def stepwise(self, name: str) -> Tensor:
        """The parameter with a time axis, `(*batch, T or 1, ...)`: length 1 where it is constant."""
        value: Tensor = getattr(self, name)
        return value if self.per_step(name) else value.unsqueeze(-2 if name in _VECTORS else -3)

    def __repr__(self) -> str:
        steps = self.num_steps or "any"
        sizes = f"z_dim={self.z_dim}, x_dim={self.x_dim}, u_dim={self.u_dim}"
        return f"LinearGaussianSSM({sizes}, batch_shape={tuple(self.batch_shape)}, num_steps={steps})"

    # ---- copies --------------------------------------------------------------------------------------------

    def replace(self, *, validate_args: bool = True, **changes: Tensor | None) -> LinearGaussianSSM:
        """A copy with some parameters changed: `ssm.replace(Sigma=2 * ssm.Sigma)`."""
        arguments = dict(self.parameters()) | changes
        return LinearGaussianSSM(**arguments, fixed=self.fixed, validate_args=validate_args)  # type: ignore[arg-type]

    def map(self, function: Callable[[Tensor], Tensor]) -> LinearGaussianSSM:
        """A copy with `function` applied to every parameter: `ssm.map(torch.Tensor.detach)`."""
        changed = {name: function(value) for name, value in self.parameters()}
        return LinearGaussianSSM(**changed, fixed=self.fixed, validate_args=False)

    def to(self, *args: Any, **kwargs: Any) -> LinearGaussianSSM:
        """A copy on another device or of another dtype, with the arguments of `torch.Tensor.to`."""
        return self.map(lambda value: value.to(*args, **kwargs))

    # ---- moments -------------------------------------------------------------------------------------------

    def observation_moments(self, mean: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
        r"""Mean and covariance of x_t where z_t has the given ones: :math:`C m + n` and :math:`C P C^T + \Sigma`.

        Arguments:
            mean: `(*batch, T, z_dim)`, for instance `FilterResult.predicted_mean`.
            covariance: `(*batch, T, z_dim, z_dim)`.

        Returns:
            The mean `(*batch, T, x_dim)` and the covariance `(*batch, T, x_dim, x_dim)` of the observations.
        """
        C, Sigma = self.stepwise("C"), self.stepwise("Sigma")
        x = (C @ mean.unsqueeze(-1)).squeeze(-1)
        return x if self.n is None else x + self.stepwise("n"), C @ covariance @ C.mT + Sigma

    # ---- checks --------------------------------------------------------------------------------------------

    def _batch_of(self, name: str, value: Tensor) -> torch.Size:
        event = (1 if name in _VECTORS else 2) + self.per_step(name)
        return value.shape[: value.ndim - event]

    def _check_types(self) -> None:
        for name, value in self.parameters():
            if not isinstance(value, Tensor) or not value.is_floating_point():
                raise TypeError(f"{name} must be a floating-point tensor, got {_kind(value)}")
            if value.dtype != self.A.dtype or value.device != self.A.device:
                raise TypeError(
                    f"All parameters must share one dtype and device: A is {self.A.dtype} on {self.A.device}, "
                    f"{name} is {value.dtype} on {value.device}. Convert them with .to(...)"
                )
            least = 1 if name in _VECTORS else 2
            if value.ndim < least:
                raise ValueError(f"{name} must have at least {least} dimension(s), got shape {tuple(value.shape)}")

    def _check_shapes(self) -> None:
        z, x, u = self.z_dim, self.x_dim, self.u_dim
        if z == 0 or x == 0:
            raise ValueError(f"States and observations need at least one dimension, got z_dim={z} and x_dim={x}")
        matrices = {"A": (z, z), "C": (x, z), "Lambda": (z, z), "Sigma": (x, x), "Lambda_1": (z, z), "B": (z, u)}
        expected = matrices | {"mu_1": (z,), "m": (z,), "n": (x,)}
        steps = self.num_steps
        for name, value in self.parameters():
            event = expected[name]
            if tuple(value.shape[-len(event) :]) != event:
                raise ValueError(
                    f"{name} must end in {event} (z_dim={z} from mu_1, x_dim={x} from C), "
                    f"got shape {tuple(value.shape)}"
                )
            if value.ndim - len(event) > self._batch_rank + 1:
                raise ValueError(
                    f"{name} has shape {tuple(value.shape)}: more than one dimension beyond the batch dimensions of "
                    f"mu_1 {tuple(self.mu_1.shape)} and Lambda_1 {tuple(self.Lambda_1.shape)}. "
                    "For a batch of models, give mu_1 the batch dimensions too"
                )
            if self.per_step(name) and value.shape[-len(event) - 1] != steps:
                raise ValueError(
                    f"Per-step parameters must agree in length: {name} has {value.shape[-len(event) - 1]} steps, "
                    f"another {steps}"
                )
        try:
            _ = self.batch_shape
        except RuntimeError:
            shapes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in self.parameters())
            raise ValueError(
                f"The batch dimensions do not broadcast: {shapes}. A matrix with as many leading dimensions as mu_1 is "
                "one per series, with one more it is one per step; write A[None] for steps that all series share"
            ) from None

    def _check_values(self) -> None:
        for name, value in self.parameters():
            if not holds(torch.isfinite(value).all()):
                where = tuple((~torch.isfinite(value)).nonzero()[0].tolist())
                raise ValueError(f"{name} must be finite, got {value[where].item()} at index {where}")
        for name in ("Lambda", "Sigma", "Lambda_1"):
            _check_covariance(name, getattr(self, name).detach())


def _kind(value: object) -> str:
    return str(value.dtype) if isinstance(value, Tensor) else type(value).__name__


def _check_covariance(name: str, value: Tensor) -> None:
    wide = value.double()
    asymmetry = (wide - wide.mT).abs().amax(dim=(-2, -1))
    scale = wide.abs().amax(dim=(-2, -1))
    tolerance = 100 * torch.finfo(value.dtype).eps
    if bool((asymmetry > tolerance * scale).any()):
        worst = float(asymmetry.max())
        raise ValueError(
            f"{name} must be symmetric, but differs from its transpose by up to {worst:.3g}. "
            f"If that is rounding, pass ({name} + {name}.mT) / 2"
        )
    if bool((torch.linalg.cholesky_ex(wide).info == 0).all()):
        return
    eigenvalues = torch.linalg.eigvalsh(wide)
    if bool((eigenvalues[..., 0] < -tolerance * eigenvalues[..., -1].abs() - 1e-300).any()):
        raise ValueError(
            f"{name} must be positive semi-definite, but has the eigenvalue {float(eigenvalues.min()):.3g}. "
            "Build it from a factor, L @ L.mT, or from positive variances, torch.diag_embed(logvar.exp())"
        )


def covariance_factor(covariance: Tensor) -> Tensor:
    r"""A matrix :math:`F` with :math:`F F^T` equal to the covariance, which may be singular.

    The Cholesky factor where there is one, and the scaled eigenvectors elsewhere. Worked out in float64, since
    factorising is where a poorly conditioned float32 covariance would lose its definiteness.

    Arguments:
        covariance: `(..., n, n)`, symmetric positive semi-definite.

    Returns:
        The factor, `(..., n, n)`, of the dtype of `covariance`. Gradients pass where it is a Cholesky factor: that of
        a singular matrix has none.
    """
    wide = covariance.double()
    factor, info = torch.linalg.cholesky_ex(wide)
    singular = (info != 0)[..., None, None]
    if holds(singular.any()):
        factor = torch.linalg.cholesky(torch.where(singular, torch.eye(wide.shape[-1]).to(wide), wide))
        eigenvalues, eigenvectors = torch.linalg.eigh(wide.detach())
        factor = torch.where(singular, eigenvectors * eigenvalues.clamp(min=0).sqrt().unsqueeze(-2), factor)
    result: Tensor = factor.to(covariance.dtype)
    return result


def in_double(ssm: LinearGaussianSSM) -> LinearGaussianSSM:
    """The model in float64."""
    return ssm if ssm.dtype == torch.float64 else ssm.to(torch.float64)


def gaussian_noise(
    covariance: Tensor, shape: tuple[int, ...], generator: torch.Generator | None, dtype: torch.dtype | None = None
) -> Tensor:
    """Reparameterised draws of N(0, covariance), with batch and time shape `shape`: `(*shape, n)`.

    The random numbers are those that a generator gives in `dtype`, by default that of the covariance.
    """
    size = (*shape, covariance.shape[-1])
    epsilon = torch.randn(size, dtype=dtype or covariance.dtype, device=covariance.device, generator=generator)
    return (covariance_factor(covariance) @ epsilon.to(covariance.dtype).unsqueeze(-1)).squeeze(-1)


def holds(condition: Tensor) -> bool:
    """The truth of a condition on values, or one sentence where `torch.func.vmap` hides them.

    Raises:
        RuntimeError: Within `torch.func.vmap`.
    """
    try:
        return bool(condition)
    except RuntimeError as error:
        if "vmap" not in str(error):
            raise
        raise RuntimeError(
            "State-space functions look at values, for instance for what is missing, which torch.func.vmap hides. "
            "They take batches themselves: give x, or the model's parameters, batch dimensions in front"
        ) from None


def surely_finite(x: Tensor) -> bool:
    """Whether the sum of x is finite, which takes one pass: then all of x is. Large numbers may exceed it in sum."""
    return holds(torch.isfinite(x.detach().sum()))


def check_finite(x: Tensor) -> None:
    """Refuses observations that are infinite, or NaN where they should not be missing."""
    if not surely_finite(x) and not bool(torch.isfinite(x).all()):
        where = tuple((~torch.isfinite(x)).nonzero()[0].tolist())
        raise ValueError(f"x must be finite, or NaN where missing; got {x[where].item()} at index {where}")


def broadcast(*shapes: torch.Size) -> torch.Size:
    """`torch.broadcast_shapes`, which takes longer than the rest of the checks where all shapes are the same."""
    return shapes[0] if len(set(shapes)) == 1 else torch.Size(torch.broadcast_shapes(*shapes))


def state_offsets(ssm: LinearGaussianSSM, u: Tensor | None, num_steps: int) -> Tensor:
    """What moves the state from outside: mu_1 + B_1 u_1, then B_t u_t + m_t, `(*batch, T, z_dim)`."""
    first = ssm.mu_1.unsqueeze(-2)
    if num_steps == 1 and u is None:
        return first
    later = ssm.mu_1.new_zeros(1, ssm.z_dim) if ssm.m is None else ssm.stepwise("m")
    later = later[..., 1:, :] if ssm.per_step("m") else later.expand(*later.shape[:-2], num_steps - 1, ssm.z_dim)
    batch = torch.broadcast_shapes(first.shape[:-2], later.shape[:-2])
    offsets = torch.cat([first.expand(*batch, 1, -1), later.expand(*batch, num_steps - 1, -1)], dim=-2)
    return offsets if u is None else offsets + (ssm.stepwise("B") @ u.unsqueeze(-1)).squeeze(-1)


def check_input(ssm: LinearGaussianSSM, u: Tensor | None, num_steps: int) -> None:
    """Refuses an input that is missing, superfluous, or of the wrong size."""
    if ssm.num_steps not in (None, num_steps):
        raise ValueError(f"The model's per-step parameters have {ssm.num_steps} steps, {num_steps} are asked for")
    if (u is None) != (ssm.B is None):
        raise ValueError(
            "The model has B, so it needs the input u (*batch, T, u_dim)" if u is None else "The model has no B for u"
        )
    if u is None:
        return
    if u.ndim < 2 or u.shape[-1] != ssm.u_dim or u.shape[-2] != num_steps:
        raise ValueError(
            f"u must have shape (*batch, {num_steps}, {ssm.u_dim}), as B and the number of steps say; "
            f"got {tuple(u.shape)}"
        )
    if not bool(torch.isfinite(u).all()):
        where = tuple((~torch.isfinite(u)).nonzero()[0].tolist())
        raise ValueError(f"u must be finite, got {u[where].item()} at index {where}")


def sample(
    ssm: LinearGaussianSSM,
    num_steps: int,
    u: Series | None = None,
    *,
    sample_shape: tuple[int, ...] = (),
    generator: torch.Generator | None = None,
) -> StateSpaceSample:
    """Ancestral samples of states and observations, Eqs. (3.10) and (3.12) with (3.16) and (3.17).

    The samples are reparameterised: gradients reach the parameters where the covariances are positive definite.

    Arguments:
        ssm: The model.
        num_steps: The length T.
        u: The input, `(*batch, T, u_dim)`, where the model has B.
        sample_shape: Shape of independent draws, in front of the batch dimensions.
        generator: Source of randomness.

    Returns:
        `z (*sample_shape, *batch, T, z_dim)` and `x (*sample_shape, *batch, T, x_dim)`.

    Raises:
        TypeError: If `u` is a tensor of another dtype than the model, or no array of numbers.
        ValueError: If `num_steps` is below 1 or does not fit the model or the input.

    Example:
        >>> one = torch.eye(1)
        >>> walk = LinearGaussianSSM(one, one, one, one, mu_1=torch.zeros(1), Lambda_1=one)
        >>> sample(walk, 5, sample_shape=(3,)).x.shape
        torch.Size([3, 5, 1])
    """
    num_steps = whole_number(num_steps, "num_steps", 1)
    inputs = None if u is None else as_series(u, "u", ssm.dtype, ssm.device, padding=0.0)
    wide = in_double(ssm)  # a small step is lost beside a large level
    check_input(wide, inputs, num_steps)
    batch = torch.broadcast_shapes(ssm.batch_shape, () if inputs is None else inputs.shape[:-2])
    drawn = draw(wide, num_steps, inputs, (*sample_shape, *batch), generator, ssm.dtype)
    return StateSpaceSample(drawn.z.to(ssm.dtype), drawn.x.to(ssm.dtype))


def draw(
    ssm: LinearGaussianSSM,
    num_steps: int,
    u: Tensor | None,
    shape: tuple[int, ...],
    generator: torch.Generator | None,
    dtype: torch.dtype,
) -> StateSpaceSample:
    """Ancestral samples of the batch shape `shape`, which the model's and the input's must broadcast to.

    The random numbers are drawn in `dtype`, so that a seed gives a model and its copy in float64 the same ones.
    """
    first = gaussian_noise(ssm.Lambda_1.unsqueeze(-3), (*shape, 1), generator, dtype)
    A, Lambda = (_after_first(ssm, name, num_steps) for name in ("A", "Lambda"))
    noise = torch.cat([first, gaussian_noise(Lambda, (*shape, num_steps - 1), generator, dtype)], dim=-2)
    driven = (state_offsets(ssm, u, num_steps) + noise).movedim(-2, 0).unsqueeze(-1)
    z = affine_recursion(A.movedim(-3, 0), driven).squeeze(-1).movedim(0, -2)
    x = (ssm.stepwise("C") @ z.unsqueeze(-1)).squeeze(-1)
    x = x if ssm.n is None else x + ssm.stepwise("n")
    return StateSpaceSample(z, x + gaussian_noise(ssm.stepwise("Sigma"), (*shape, num_steps), generator, dtype))


def _after_first(ssm: LinearGaussianSSM, name: str, num_steps: int) -> Tensor:
    """The matrices of steps 2..T, `(*batch, T - 1, ...)`."""
    value = ssm.stepwise(name)
    return value[..., 1:, :, :] if ssm.per_step(name) else value.expand(*value.shape[:-3], num_steps - 1, -1, -1)
