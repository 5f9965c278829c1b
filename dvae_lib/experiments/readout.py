"""What a linear regression reads off vectors: the measure of what latent vectors know, in several studies."""

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["linear_readout"]


def linear_readout(
    known: Float[Tensor, "n k"], truth: Float[Tensor, "n d"], new: Float[Tensor, "m k"]
) -> Float[Tensor, "m d"]:
    """Predictions of a least-squares regression with a constant, in double precision.

    Arguments:
        known: The vectors that it learns from.
        truth: What it learns to tell from them.
        new: The vectors that it is then given.

    Example:
        >>> known, truth = torch.tensor([[0.0], [1.0]]), torch.tensor([[1.0], [3.0]])
        >>> round(linear_readout(known, truth, torch.tensor([[2.0]])).item(), 6)
        5.0
    """
    design, other = (torch.cat([f, torch.ones_like(f[:, :1])], 1).double() for f in (known, new))
    guess: Tensor = other @ torch.linalg.lstsq(design, truth.double(), driver="gelsd").solution
    return guess
