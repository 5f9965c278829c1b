"""How close resynthesised sequences of any kind are to their originals, and what a model's bounds are called."""

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from dvae_lib.arrays import as_tensor
from dvae_lib.metrics.registry import Metric, register_metric

__all__ = ["rmse"]


def rmse(reference: ArrayLike | Tensor, estimate: ArrayLike | Tensor) -> float:
    r"""Root mean squared error, over all frames and entries, in the units of the data.

    Arguments:
        reference: The original, of any shape.
        estimate: Its resynthesis, of the same shape.

    Returns:
        The error; lower is better.

    Raises:
        ValueError: Shapes that differ, nothing in them, or NaN.

    Example:
        >>> rmse([[0.0, 0.0]], [[3.0, 4.0]])
        3.5355339059327378
    """
    x, y = as_tensor(reference, "reference"), as_tensor(estimate, "estimate")
    if x.shape != y.shape or x.numel() == 0:
        raise ValueError(
            f"reference and estimate must have the same shape and hold something; got {tuple(x.shape)} and "
            f"{tuple(y.shape)}"
        )
    error = float(torch.sqrt((x - y).square().mean()))
    if error != error or error == float("inf"):
        raise ValueError("reference or estimate hold NaN or infinite values")
    return error


register_metric(Metric("rmse", "RMSE", "units of the data", 3, "lower", rmse))
register_metric(Metric("bound", "VLB", "nats per frame", 1, "higher", kind="model"))
register_metric(Metric("vlb", "VLB", "nats per frame", 1, "higher", kind="model"))
register_metric(Metric("iw", "IW bound", "nats per frame", 1, "higher", kind="model"))
register_metric(Metric("kl", "KL", "nats per frame", 1, "lower", kind="model"))
register_metric(Metric("active", "active", "", 1, "higher", kind="model"))
