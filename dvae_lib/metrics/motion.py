"""How close resynthesised human motion is to its original."""

from typing import Literal

import torch
from jaxtyping import Float
from numpy.typing import ArrayLike
from torch import Tensor

from dvae_lib.arrays import as_tensor
from dvae_lib.metrics.registry import Metric, register_metric

__all__ = ["mpjpe"]


def mpjpe(
    reference: ArrayLike | Tensor,
    estimate: ArrayLike | Tensor,
    *,
    lengths: ArrayLike | Tensor | None = None,
    unit: Literal["m", "mm"] = "m",
) -> Float[Tensor, "*batch"]:
    r"""Mean per joint position error of human motion, in millimetres.

    The Euclidean distance between a joint and its resynthesis, averaged over the joints and the frames of a sequence.

    Arguments:
        reference: Joint positions, (..., T, 3 J), a tensor or an array: x, y, z of the first joint, then of the second,
            and so on.
        estimate: The resynthesised positions, same shape.
        lengths: Frames of each sequence in a padded batch; what follows does not count.
        unit: In what the positions are given: metres or millimetres.

    Returns:
        One error per sequence in millimetres; lower is better.

    Raises:
        ValueError: Shapes that differ, coordinates not a multiple of three, no frames, or NaN within a sequence.

    References:
        Ionescu, Papava, Olaru, Sminchisescu (2014). Human3.6M. IEEE Transactions on Pattern Analysis and Machine
        Intelligence.

    Example:
        Two joints, one of them 5 cm off:

        >>> import torch
        >>> rest = torch.zeros(1, 10, 6)
        >>> moved = rest.clone()
        >>> moved[..., :3] = torch.tensor([0.03, 0.04, 0.0])
        >>> mpjpe(rest, moved)
        tensor([25.0000])
    """
    reference, estimate = _positions(reference, "reference"), _positions(estimate, "estimate")
    if reference.shape != estimate.shape:
        raise ValueError(f"reference and estimate differ in shape: {tuple(reference.shape)}, {tuple(estimate.shape)}")
    if reference.ndim < 2:
        raise ValueError(f"MPJPE needs positions (..., T, 3 J), but got {tuple(reference.shape)}")
    *batch, time, coordinates = reference.shape
    if coordinates % 3 or coordinates == 0 or time == 0:
        raise ValueError(
            f"MPJPE needs positions (..., T, 3 J), x, y, z for every joint, T > 0, but got {tuple(reference.shape)}"
        )
    if unit not in ("m", "mm"):
        raise ValueError(f"unit must be 'm' or 'mm', not {unit!r}")
    if lengths is None:
        lengths = torch.full(batch, time, device=reference.device)
    lengths = as_tensor(lengths, "lengths")
    if lengths.is_floating_point() or lengths.dtype == torch.bool or list(lengths.shape) != batch:
        raise ValueError(
            f"lengths must be whole numbers of shape {tuple(batch)}, one for each sequence; got {lengths.dtype} of "
            f"shape {tuple(lengths.shape)}"
        )
    if bool(((lengths < 1) | (lengths > time)).any()):
        raise ValueError(f"lengths must lie between 1 and the {time} frames of the batch")
    inside = torch.arange(time, device=reference.device) < lengths.to(reference.device).unsqueeze(-1)  # (..., T)
    difference = torch.where(inside.unsqueeze(-1), estimate - reference, 0.0).reshape(*batch, time, -1, 3)
    error: Tensor = torch.linalg.vector_norm(difference, dim=-1).mean(-1).sum(-1) / lengths.to(reference)
    if not bool(error.isfinite().all()):
        raise ValueError("The positions hold NaN or infinite values")
    return error * (1_000.0 if unit == "m" else 1.0)


def _positions(value: ArrayLike | Tensor, name: str) -> Tensor:
    positions = as_tensor(value, name)
    return positions if positions.is_floating_point() else positions.float()


def _error_of_one(reference: ArrayLike | Tensor, estimate: ArrayLike | Tensor) -> float:
    return float(mpjpe(reference, estimate))


register_metric(Metric("mpjpe", "MPJPE", "mm", 1, "lower", _error_of_one, kind="motion"))
