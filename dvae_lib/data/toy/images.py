"""What the films of the toys are drawn with."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["digits", "discs"]


def digits() -> tuple[Float[Tensor, "digits 8 8"], Int[Tensor, " digits"]]:
    """The 1,797 handwritten digits that scikit-learn carries: images with values in [0, 1], and classes.

    Raises:
        ImportError: Scikit-learn is missing.
    """
    try:
        from sklearn.datasets import load_digits  # type: ignore[import-untyped]
    except ImportError as error:
        raise ImportError("this film needs scikit-learn's digits: pip install scikit-learn") from error
    data = load_digits()
    return torch.as_tensor(data.images / 16.0, dtype=torch.get_default_dtype()), torch.as_tensor(data.target)


def discs(centre: Float[Tensor, "*batch 2"], size: int, radius: float) -> Float[Tensor, "*batch size size"]:
    """Anti-aliased discs: each pixel holds the share of its area that the disc covers, up to the rim's curvature.

    `centre` is (column, row) in pixels, with (0, 0) the top left corner of the image.
    """
    pixel = torch.arange(size, dtype=centre.dtype, device=centre.device) + 0.5
    dx = pixel - centre[..., 0, None]
    dy = pixel - centre[..., 1, None]
    distance = (dx.square()[..., None, :] + dy.square()[..., :, None]).sqrt()
    return (radius + 0.5 - distance).clamp(0, 1)
