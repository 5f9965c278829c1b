"""Sound as people hold it: samples in floating point or as integers, in tensors, arrays or lists."""

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dvae_lib.arrays import as_tensor

__all__ = ["Waveform", "as_waveform"]

Waveform: TypeAlias = npt.ArrayLike | Tensor
"""What `as_waveform` takes."""

# What stands for zero, and for full scale. Samples of 8 bits have no sign in WAV files, those of 24 fill 32.
_INTEGERS = {torch.uint8: (128, 128), torch.int16: (0, 2**15), torch.int32: (0, 2**31)}


def as_waveform(value: Any, name: str = "the waveform") -> Tensor:
    """Samples in single or double precision, full scale at 1; of any shape.

    Integers are what sound files hold and `scipy.io.wavfile.read` returns, and are scaled as they are there: int16 and
    int32 to [-1, 1), uint8 likewise around 128. Half precision and bfloat16 become single. Single and double precision
    stay as they are, and gradients flow through.

    Arguments:
        value: A tensor, an array of NumPy (of any strides and byte order), a list.
        name: What to call it in an error.

    Raises:
        TypeError: No array of numbers, or integers of which nobody knows the full scale.

    Example:
        >>> import numpy as np
        >>> as_waveform(np.array([-32768, 16384], dtype=">i2"))
        tensor([-1.0000,  0.5000])
    """
    if not isinstance(value, Tensor):
        value = np.ma.asanyarray(value) if isinstance(value, np.ma.MaskedArray) else _array(value)
    kind = str(value.dtype).removeprefix("torch.").lstrip("<>")
    samples = as_tensor(value, name) if not kind.startswith("uint") or kind == "uint8" else None
    if samples is not None and samples.dtype in (torch.float32, torch.float64):
        return samples
    if samples is not None and samples.is_floating_point():
        return samples.float()
    if samples is not None and samples.dtype in _INTEGERS:
        zero, full_scale = _INTEGERS[samples.dtype]
        # In double precision first: not every int32 is a float32.
        return ((samples.double() - zero) / full_scale).float()
    raise TypeError(f"{name} holds {kind}, not floating-point samples; scale it to [-1, 1] first")


def _array(value: Any) -> Any:
    """An array, or what `as_tensor` will refuse with its own sentence."""
    try:
        array = np.asarray(value)
    except (TypeError, ValueError):
        return as_tensor(value)
    return array if array.dtype != object else as_tensor(value)
