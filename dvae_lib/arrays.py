"""What people hold their numbers in, as tensors: NumPy of every kind, lists, masked arrays, tables of pandas."""

import operator
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["as_tensor", "whole_number"]

# The unsigned integers that torch can store but hardly compute with, and the next wider ones that it can.
_WIDER = {torch.uint16: torch.int32, torch.uint32: torch.int64, torch.uint64: torch.int64}


def as_tensor(value: Any, name: str = "x", *, masked: Literal["refuse", "nan"] = "refuse") -> Tensor:
    """An array of numbers as a tensor of its own precision, without a copy where its memory can be shared.

    Taken are tensors (returned as they are), NumPy arrays of any strides, byte order and width, read-only ones,
    masked ones, lists and tuples, DataFrames and Series, and whatever else gives an array to NumPy. Unsigned
    integers of 16 bits and more become signed ones that hold them, since torch hardly computes with them. What is
    missing in a table is NaN. Nothing is said of the shape: that is the caller's matter.

    Arguments:
        value: The numbers.
        name: What to call them in a message.
        masked: What to do with the values under a mask: refuse them, or give NaN in their place.

    Returns:
        A tensor on the CPU, or the given one.

    Raises:
        TypeError: Not an array of numbers: texts, dates, records, lists of different lengths.
        ValueError: Masked values that are to be refused.

    Example:
        >>> as_tensor(np.arange(3, dtype=">i2")[::-1])
        tensor([2, 1, 0], dtype=torch.int16)
        >>> as_tensor(np.ma.masked_equal([1.0, -9999.0], -9999.0), masked="nan")
        tensor([1., nan], dtype=torch.float64)
    """
    if isinstance(value, Tensor):
        if value.layout != torch.strided or value.is_meta:
            cure = "it has no values" if value.is_meta else "its values are not in rows and columns: use x.to_dense()"
            raise TypeError(f"{name} is a tensor on {value.device} with the layout {value.layout}; {cure}")
        return _widened(value) if value.dtype in _WIDER else value
    if value is None:
        raise TypeError(f"{name} is None, not an array of numbers")
    _refuse_columns(value, name)
    try:
        # Under a list of masked arrays np.asarray would drop the masks.
        array = np.ma.asanyarray(value) if _holds_masks(value) else np.asarray(value)
        if array.dtype == object:
            array = _from_objects(value, array)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"{name} is not an array of numbers ({type(value).__name__}: {error}); expected a tensor, a NumPy array, "
            "or what numpy.asarray turns into one"
        ) from error
    if array.dtype.kind not in "biufc":
        raise TypeError(f"{name} is not an array of numbers: it holds {_contents(array.dtype)}")
    if isinstance(array, np.ma.MaskedArray):
        array = _unmasked(array, name, masked)
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        array = array.astype(np.float64)
    elif array.dtype.kind == "c" and array.dtype.itemsize > 16:
        array = array.astype(np.complex128)
    elif array.dtype.kind == "u" and array.dtype.itemsize > 1:
        array = _signed(array)
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    # torch holds neither read-only memory nor memory read backwards.
    if not array.flags.writeable or any(stride < 0 for stride in array.strides):
        array = array.copy()
    return torch.as_tensor(array, device="cpu")  # whatever the default device


def whole_number(value: Any, name: str, least: int) -> int:
    """A number that counts something, as an int of Python.

    Raises:
        ValueError: No whole number, or one below the least.

    Example:
        >>> whole_number(np.int64(3), "horizon", 1)
        3
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise ValueError(f"{name} must be a whole number, got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    return operator.index(value)


def _refuse_columns(value: Any, name: str) -> None:
    """Name the columns of a table that hold no numbers, which NumPy's message would not."""
    columns, kinds = getattr(value, "columns", None), getattr(value, "dtypes", None)
    if columns is None or kinds is None or getattr(value, "ndim", 2) != 2:
        return
    for column, kind in zip(columns, kinds, strict=True):
        text = str(kind).lower()
        if text.startswith(("date", "timedelta", "duration", "time", "str", "utf8", "category", "period")):
            raise TypeError(f"{name} has a column {column!r} of {kind}; leave out what is not a number")


def _holds_masks(value: Any) -> bool:
    return isinstance(value, np.ma.MaskedArray) or (
        isinstance(value, list | tuple) and any(_holds_masks(item) for item in value)
    )


def _from_objects(value: Any, array: NDArray[Any]) -> NDArray[Any]:
    """An array of Python objects as float64, where all of them are numbers or missing."""
    if any(isinstance(item, str | bytes) for item in array.flat):
        raise TypeError("it holds texts")
    if hasattr(value, "iloc"):  # of pandas, whose missing values are objects of several kinds
        numbers: NDArray[Any] = value.to_numpy(dtype=np.float64, na_value=np.nan)
        return numbers
    return array.astype(np.float64)


def _contents(dtype: np.dtype[Any]) -> str:
    if dtype.kind in "mM":
        return f"times ({dtype}). Leave them out, or turn them into numbers, such as the seconds since the first."
    if dtype.names is not None:
        return (
            f"records with the fields {', '.join(dtype.names)}. Use "
            "numpy.lib.recfunctions.structured_to_unstructured on them."
        )
    return f"texts ({dtype})." if dtype.kind in "SU" else f"values of type {dtype}."


def _unmasked(array: Any, name: str, masked: str) -> NDArray[Any]:
    mask = np.ma.getmaskarray(array)
    if not mask.any():
        return np.asarray(array.data)
    if masked == "nan":
        wide = array.astype(np.result_type(array.dtype, np.float32) if array.dtype.kind in "bf" else np.float64)
        return np.asarray(wide.filled(np.nan))
    place = ", ".join(str(int(i)) for i in np.argwhere(mask)[0])
    raise ValueError(
        f"{name} holds {int(mask.sum())} masked value(s), the first at [{place}]. A masked value is a missing one: "
        "fill it in, or drop its frame"
    )


def _signed(array: NDArray[Any]) -> NDArray[Any]:
    if array.dtype.itemsize == 8 and array.size and array.max() > np.iinfo(np.int64).max:
        return array.astype(np.float64)
    return array.astype(np.int32 if array.dtype.itemsize == 2 else np.int64)


def _widened(tensor: Tensor) -> Tensor:
    if tensor.dtype == torch.uint64:
        return torch.as_tensor(_signed(tensor.cpu().numpy())).to(tensor.device)
    return tensor.to(_WIDER[tensor.dtype])
