"""Numbers too small for their format, which processors compute with very slowly."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["flush_denormals"]


@contextmanager
def flush_denormals() -> Iterator[None]:
    """Within it, results below the smallest normal number (1.2e-38 in single precision) are zero.

    The gradients of a recurrent network on power spectra are full of such numbers, since quiet bins have powers of
    1e-8 and less, and gates saturate. Arithmetic with them takes a processor up to a hundred times as long; a training
    step of the DSAE took three times as long. Nothing is lost: they are far below the rounding error of the sums that
    they go into. Where a processor cannot do it, nothing happens.

    It holds for the calling thread, not for the others that torch may share an operation with: with several threads
    only a part of the work is faster, and numbers of this size depend on how the work was shared.

    Example:
        >>> with flush_denormals():
        ...     product = torch.tensor(1e-30) * torch.tensor(1e-10)
        >>> product.item(), (torch.tensor(1e-30) * torch.tensor(1e-10)).item() > 0
        (0.0, True)
    """
    # torch can set the mode, and not tell it.
    tiny, small = (torch.tensor(value, dtype=torch.float32, device="cpu") for value in (1e-30, 1e-10))
    before = (tiny * small).item() == 0.0
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)
