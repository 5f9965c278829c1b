"""Arrays and tensors on any device, as the figures take them."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

__all__ = ["ArrayLike", "as_array"]


ArrayLike = torch.Tensor | npt.NDArray[Any]


def as_array(values: ArrayLike) -> npt.NDArray[np.float64]:
    """Double-precision NumPy copy of an array or of a tensor on any device."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().numpy()
    return np.asarray(values, dtype=np.float64)
