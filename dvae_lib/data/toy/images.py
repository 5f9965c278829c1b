"""What the films of the toys are drawn with."""

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["discs"]


def discs(centre: Float[Tensor, "*batch 2"], size: int, radius: float) -> Float[Tensor, "*batch size size"]:
    """Anti-aliased discs: each pixel holds the share of its area that the disc covers, up to the rim's curvature.

    `centre` is (column, row) in pixels, with (0, 0) the top left corner of the image.
    """
    pixel = torch.arange(size, dtype=centre.dtype, device=centre.device) + 0.5
    dx = pixel - centre[..., 0, None]
    dy = pixel - centre[..., 1, None]
    distance = (dx.square()[..., None, :] + dy.square()[..., :, None]).sqrt()
    return (radius + 0.5 - distance).clamp(0, 1)
