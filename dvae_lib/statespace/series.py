"""What comes in: series as people hold them, as tensors in float64.

Inference subtracts large numbers that are nearly equal: a vague first state and what the data say of it, a level and
its changes. So all of it is computed in float64, whatever the dtype of the model, and only results are rounded.
"""

from collections.abc import Sequence
from typing import Any, TypeGuard

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from dvae_lib.arrays import as_tensor

__all__ = ["Series", "as_mask", "as_series"]

# A tensor `(*batch, time, size)`, an array, or a list of series `(time, size)` of different lengths
Series = Tensor | ArrayLike | Sequence[Any]


def as_series(
    value: Series, name: str, dtype: torch.dtype, device: torch.device, *, padding: float = torch.nan
) -> Tensor:
    """A series, or a batch of them, in float64.

    Arguments:
        value: A tensor of the model's dtype and device; or what `as_tensor` takes, where masked values become NaN; or
            a list of series `(T_i, n)`, which become a batch padded to the longest.
        name: What to call it in a message.
        dtype: Of the model. Arrays are not rounded to it.
        device: Of the model.
        padding: What to pad with.

    Returns:
        `(*batch, T, n)` in float64, on the model's device.

    Raises:
        TypeError: If a tensor is not of the model's dtype and device, or the value is no array of real numbers.
        ValueError: If the series of a list have different sizes n.
    """
    if isinstance(value, Tensor):
        if not value.is_floating_point():
            raise TypeError(f"{name} must be a floating-point tensor, got {value.dtype}")
        if value.dtype != dtype or value.device != device:
            raise TypeError(
                f"{name} is {value.dtype} on {value.device}, the model {dtype} on {device}: convert one of them with "
                ".to(...)"
            )
        return value.double()
    if _is_list_of_series(value):
        parts = [_real(item, f"{name}[{i}]").to(device) for i, item in enumerate(value)]
        return _padded(parts, name, padding)
    return _real(value, name).to(device)


def as_mask(mask: Series, device: torch.device) -> Tensor:
    """A mask as a boolean tensor; what a list of masks of different lengths lacks is not observed.

    Raises:
        TypeError: If it is not boolean.
    """
    if _is_list_of_series(mask):
        parts = [as_tensor(item, f"mask[{i}]") for i, item in enumerate(mask)]
        flags = _padded(parts, "mask", False) if all(part.dtype == torch.bool for part in parts) else parts[0]
    else:
        flags = as_tensor(mask, "mask")
    if flags.dtype != torch.bool:
        raise TypeError(f"mask must be a boolean tensor, True where observed; got {flags.dtype}")
    return flags if isinstance(mask, Tensor) else flags.to(device)


def _is_list_of_series(value: Any) -> TypeGuard[Sequence[Any]]:
    return isinstance(value, list | tuple) and len(value) > 0 and all(getattr(v, "ndim", 0) == 2 for v in value)


def _real(value: Any, name: str) -> Tensor:
    tensor = as_tensor(value, name, masked="nan")
    if tensor.is_complex():
        raise TypeError(f"{name} must hold real numbers, got {tensor.dtype}")
    return tensor.double()


def _padded(parts: list[Tensor], name: str, padding: float) -> Tensor:
    sizes = sorted({part.shape[-1] for part in parts})
    if len(sizes) > 1:
        raise ValueError(f"The series of a list must agree in their last dimension; those of {name} have {sizes}")
    longest = max(part.shape[0] for part in parts)
    rows = [torch.nn.functional.pad(part, (0, 0, 0, longest - part.shape[0]), value=padding) for part in parts]
    return torch.stack(rows)


# ---- time first, all series in one dimension ------------------------------------------------------------------------


def without_missing(C: Tensor, R: Tensor, observed: Tensor) -> tuple[Tensor, Tensor]:
    """A missing component becomes one that observes nothing, with unit noise and the value zero."""
    both = observed.unsqueeze(-1) & observed.unsqueeze(-2)
    return torch.where(observed.unsqueeze(-1), C, 0), torch.where(both, R, 0) + torch.diag_embed((~observed).to(R))


def time_first(value: Tensor, batch: torch.Size, event: int = 2) -> Tensor:
    """From `(*batch, T, ...)` to `(T, N or 1, ...)`."""
    own = value.shape[: -event - 1]
    if own.numel() > 1:
        value = value.expand(*batch, *value.shape[-event - 1 :])
    return value.reshape(value.shape[: -event - 1].numel(), *value.shape[-event - 1 :]).transpose(0, 1)


def columns(value: Tensor, series: torch.Size, by_column: bool) -> Tensor:
    """From `(*series, T, n)` to `(T, 1, n, series)` or `(T, series, n, 1)`."""
    value = value.expand(*series, *value.shape[-2:]).reshape(series.numel(), *value.shape[-2:])
    value = value.permute(1, 2, 0).unsqueeze(1) if by_column else value.transpose(0, 1).unsqueeze(-1)
    return value.contiguous()
