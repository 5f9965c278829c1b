r"""How the parameters of a Gaussian chain are laid out within, and what they must be.

Within, time comes first and runs in the direction of the chain, so that there is one algorithm for both directions: a
backward chain is a forward one in reversed time.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Size, Tensor

from dvae_lib.statespace.model import holds

__all__ = [
    "ChainLayout",
    "Direction",
    "check_factor",
    "check_finite",
    "check_potentials",
    "check_semidefinite",
    "check_sequences",
    "check_types",
    "frames_of",
    "read",
    "wide",
    "within",
]

Direction = Literal["forward", "backward"]


class ChainLayout(NamedTuple):
    """The order of the chain, time first: `(T, *batch, L, 1)` for vectors, `(T, *batch, L, L)` for matrices.

    Of a chain with independent entries each entry is a chain of states of size one, and L a batch dimension:
    `(T, *batch, L, 1, 1)` for both. Batch dimensions of matrices may be one where series share them.
    """

    batch: Size
    num_steps: int
    size: int
    entrywise: bool
    direction: Direction

    @property
    def inner(self) -> tuple[int, ...]:
        """The batch dimensions of the matrices."""
        return (*self.batch, self.size) if self.entrywise else tuple(self.batch)

    def reversed(self) -> ChainLayout:
        """The same for the other direction."""
        return self._replace(direction="backward" if self.direction == "forward" else "forward")

    def turned(self, value: Tensor) -> Tensor:
        """Between the order of time and that of the chain."""
        return value if self.direction == "forward" else value.flip(0)

    def columns(self, value: Tensor) -> Tensor:
        """From `(*batch, T, L, S)`."""
        value = self.turned(value.movedim(-3, 0))
        return value.unsqueeze(-2) if self.entrywise else value

    def columns_back(self, value: Tensor) -> Tensor:
        """To `(*batch, T, L, S)`."""
        value = value.squeeze(-2) if self.entrywise else value
        return self.turned(value).movedim(0, -3)

    def vector(self, value: Tensor) -> Tensor:
        """From `(*batch, T, L)`, with all batch dimensions."""
        return self.columns(value.expand(*self.batch, *value.shape[-2:]).unsqueeze(-1))

    def vector_back(self, value: Tensor) -> Tensor:
        """To `(*batch, T, L)`."""
        return self.columns_back(value).squeeze(-1)

    def matrix(self, value: Tensor) -> Tensor:
        """From `(*batch, T, L, L)`, or diagonals `(*batch, T, L)`; batch dimensions may have length one."""
        if value.ndim == len(self.batch) + 2 and not self.entrywise:
            value = torch.diag_embed(value)
        value = self.turned(value.movedim(len(self.batch), 0))
        return value[..., None, None] if self.entrywise else value

    def matrix_back(self, value: Tensor) -> Tensor:
        """To `(*batch, T, L, L)`, or diagonals where entries are independent."""
        value = value.expand(-1, *self.inner, *value.shape[-2:])
        value = self.turned(value[..., 0, 0] if self.entrywise else value)
        return value.movedim(0, len(self.batch))

    def between(self, value: Tensor) -> Tensor:
        """Of pairs of neighbours: what stands for (z_t, z_{t-1}) stands the other way round in reversed time."""
        value = self.matrix(value)
        return value if self.direction == "forward" else value.mT

    def between_back(self, value: Tensor) -> Tensor:
        """The way back of `between`."""
        return self.matrix_back(value if self.direction == "forward" else value.mT)

    def flat(self, value: Tensor) -> Tensor:
        """Matrices with all batch dimensions in one, `(T, N, n, n)`."""
        event = value.shape[-2:]
        return value.expand(-1, *self.inner, *event).reshape(len(value), math.prod(self.inner), *event)

    def unflat(self, value: Tensor) -> Tensor:
        """The way back of `flat`."""
        return value.reshape(len(value), *self.inner, *value.shape[-2:])

    def identity(self, like: Tensor) -> Tensor:
        """The identity matrix of the size and kind of a matrix."""
        return torch.eye(like.shape[-1], dtype=like.dtype, device=like.device)

    def mask(self, own: Tensor) -> Tensor:
        """A mask by frame, `(T, *batch)`, for vectors and matrices."""
        return own[..., None, None, None] if self.entrywise else own[..., None, None]

    def own(self, lengths: Tensor | None, device: torch.device) -> Tensor | None:
        """True in the frames that a sequence has, `(T, *batch)`; None where all have all."""
        if lengths is None:
            return None
        if not isinstance(lengths, Tensor) or lengths.is_floating_point() or lengths.dtype == torch.bool:
            raise TypeError(f"lengths must be a tensor of whole numbers, got {_kind(lengths)}")
        if lengths.shape != self.batch or not holds(((lengths >= 1) & (lengths <= self.num_steps)).all()):
            raise ValueError(
                f"lengths must have shape {tuple(self.batch)} and lie between 1 and {self.num_steps}; got shape "
                f"{tuple(lengths.shape)} with values {lengths.flatten()[:8].tolist()}"
            )
        own = torch.arange(self.num_steps, device=device) < lengths.to(device).unsqueeze(-1)
        return self.turned(own.movedim(-1, 0))


def within(F: Tensor, b: Tensor, D: Tensor, layout: ChainLayout, own: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """No transition into the start; beyond the end, standard normal noise that nothing depends on."""
    F = torch.cat([torch.zeros_like(F[:1]), F[1:]])
    if own is None:
        return F, b, D
    here = layout.mask(own)
    follows = torch.cat([torch.zeros_like(here[:1]), here[1:] & here[:-1]])
    return torch.where(follows, F, 0), torch.where(here, b, 0), torch.where(here, D, layout.identity(D))


# ---- what comes in ---------------------------------------------------------------------------------------------


def read(
    vector: dict[str, Tensor],
    matrices: dict[str, Tensor],
    between: dict[str, Tensor],
    *,
    direction: Direction,
    lengths: Tensor | None,
    finite: bool = True,
) -> tuple[ChainLayout, Tensor | None, list[Tensor]]:
    """Parameters as they are given, by name, in the order of the chain.

    Arguments:
        vector: The one that fixes the sizes, `(*batch, T, L)`.
        matrices: Those of each frame, `(*batch, T, L, L)`, or diagonals.
        between: Those of neighbours, `(*batch, T - 1, L, L)`, or diagonals.
        direction: That of the chain.
        lengths: How many frames each sequence has. Beyond them stand zeros and identities.
        finite: Whether to refuse what is not finite.

    Raises:
        TypeError: If one is no floating-point tensor, or dtypes or devices differ.
        ValueError: If shapes do not fit, or a value is not finite.
    """
    if direction not in ("forward", "backward"):
        raise ValueError(f'direction must be "forward" or "backward", got {direction!r}')
    given = vector | matrices | between
    check_types(given)
    (name,) = vector
    _check_shapes(name, given, between)
    rank = given[name].ndim
    batch = torch.broadcast_shapes(*(v.shape[: rank - 2] for v in given.values()))
    entrywise = all(value.ndim == rank for value in given.values())
    T, L = given[name].shape[-2:]
    layout = ChainLayout(Size(batch), T, L, entrywise, direction)
    own = layout.own(lengths, given[name].device)
    values = [layout.vector(given[name])]
    values += [layout.matrix(value) for value in matrices.values()]
    values += [layout.between(value) for value in between.values()]
    if own is not None:
        here = layout.mask(own)
        for i, value in enumerate(values):
            if i == 0:
                values[i] = torch.where(here, value, 0)
            elif i <= len(matrices):
                values[i] = torch.where(here, value, layout.identity(value))
            else:
                values[i] = torch.where(here[1:] & here[:-1], value, 0)
    if finite:
        for key, value in zip(given, values, strict=True):
            check_finite(key, value)
    return layout, own, values


def check_types(given: dict[str, Tensor]) -> None:
    """Refuses what is no tensor of single or double precision, and different kinds."""
    first_name, first = next(iter(given.items()))
    for name, value in given.items():
        if not isinstance(value, Tensor) or value.dtype not in (torch.float32, torch.float64):
            raise TypeError(f"{name} must be a tensor of float32 or float64, got {_kind(value)}")
        if value.dtype != first.dtype or value.device != first.device:
            raise TypeError(
                f"{first_name} is {first.dtype} on {first.device}, {name} {value.dtype} on {value.device}: convert one "
                "of them with .to(...)"
            )


def check_sequences(name: str, z: Tensor, like: Tensor, event_shape: torch.Size) -> None:
    """Refuses sequences that are not of a chain's kind, frames and entries; one frame is not every frame."""
    check_types({"the chain": like, name: z})
    if z.shape[-2:] != event_shape:
        sizes = ", ".join(map(str, event_shape))
        raise ValueError(f"{name} must have shape (*sample_shape, *batch, {sizes}); got {tuple(z.shape)}")


def check_factor(D: Tensor) -> None:
    """Refuses what is no Cholesky factor."""
    D = D.detach()
    if not holds((D.diagonal(dim1=-2, dim2=-1) > 0).all()):
        raise ValueError("factor must have a positive diagonal. From a covariance, take its Cholesky factor")
    if not holds((D.triu(1) == 0).all()):
        raise ValueError("factor must be lower-triangular. From a covariance, take its Cholesky factor")


def wide(*values: Tensor) -> tuple[Tensor, ...]:
    """The values in double precision."""
    return tuple(value.double() for value in values)


def check_finite(name: str, value: Tensor) -> None:
    """Refuses NaN and infinity."""
    finite = torch.isfinite(value.detach())
    if not holds(finite.all()):
        raise ValueError(
            f"{name} must be finite, got {value.detach()[~finite][0].item()}. For what is missing use a mask, or a "
            "precision of zero"
        )


def check_potentials(precision: Tensor, information: Tensor, T: int, L: int) -> None:
    """Refuses potentials whose shapes do not fit a chain, or each other."""
    if tuple(information.shape[-2:]) != (T, L):
        raise ValueError(f"information must have shape (*batch, {T}, {L}), got {tuple(information.shape)}")
    diagonal = precision.ndim == information.ndim and tuple(precision.shape[-2:]) == (T, L)
    if not diagonal and (precision.ndim != information.ndim + 1 or tuple(precision.shape[-3:]) != (T, L, L)):
        raise ValueError(
            f"precision must have shape (*batch, {T}, {L}, {L}), or (*batch, {T}, {L}) for diagonals, with as many "
            f"batch dimensions as information {tuple(information.shape)}; got {tuple(precision.shape)}"
        )


def check_semidefinite(J: Tensor) -> None:
    """Refuses negative precisions: a potential may say nothing, but not less."""
    J = J.detach()
    diagonal = J.diagonal(dim1=-2, dim2=-1)
    if holds((torch.diag_embed(diagonal) == J).all()):
        good = holds((diagonal >= 0).all())
    else:  # up to rounding
        room = 10 * torch.finfo(J.dtype).eps * diagonal.double().abs().sum(-1, keepdim=True) + 1e-300
        raised = J.double() + torch.diag_embed(room.expand_as(diagonal))
        good = holds((torch.linalg.cholesky_ex(raised).info == 0).all())
    if not good:
        raise ValueError(
            "precision must be positive semi-definite, and that of some frame has a negative eigenvalue. Make "
            "diagonals positive, for instance with softplus, or build matrices as W @ W.mT"
        )


def frames_of(mask: Tensor, information: Tensor, *, diagonal: bool) -> Tensor:
    """A mask of potentials, by frame or by entry, with an axis for the entries."""
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        raise TypeError(f"mask must be a boolean tensor, True where there is a potential; got {_kind(mask)}")
    by_frame, by_entry = information.shape[:-1], information.shape
    if mask.shape == by_frame:
        return mask.unsqueeze(-1)
    if mask.shape == by_entry and diagonal:
        return mask
    entries = f", or {tuple(by_entry)}, by entry" if diagonal else "; by entry it needs a diagonal precision"
    raise ValueError(f"mask must have shape {tuple(by_frame)}, by frame{entries}; got {tuple(mask.shape)}")


def _check_shapes(name: str, given: dict[str, Tensor], between: dict[str, Tensor]) -> None:
    vector = given[name]
    if vector.ndim < 2 or 0 in vector.shape[-2:]:
        raise ValueError(
            f"{name} must have shape (*batch, T, L) with at least one frame and one entry, got {tuple(vector.shape)}"
        )
    T, L = vector.shape[-2:]
    for key, value in given.items():
        steps = T - 1 if key in between else T
        full = value.ndim == vector.ndim + 1 and tuple(value.shape[-3:]) == (steps, L, L)
        if not full and (value.ndim != vector.ndim or tuple(value.shape[-2:]) != (steps, L)):
            raise ValueError(
                f"{key} must have shape (*batch, {steps}, {L}, {L}), or (*batch, {steps}, {L}) for independent "
                f"entries, with as many batch dimensions as {name} {tuple(vector.shape)}; got {tuple(value.shape)}"
            )
    ranks = {value.ndim for key, value in given.items() if key != name}
    if between and len(ranks) > 1:
        raise ValueError(f"Give {' and '.join(k for k in given if k != name)} as matrices, or both as diagonals")
    try:
        torch.broadcast_shapes(*(value.shape[: vector.ndim - 2] for value in given.values()))
    except RuntimeError:
        shapes = ", ".join(f"{key} {tuple(value.shape)}" for key, value in given.items())
        raise ValueError(f"The batch dimensions do not broadcast: {shapes}") from None


def _kind(value: object) -> str:
    return str(value.dtype) if isinstance(value, Tensor) else type(value).__name__
