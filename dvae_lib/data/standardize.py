"""Zero mean and unit variance for each dimension, learned on training data and kept with the weights."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from dvae_lib.arrays import as_tensor
from dvae_lib.data.checks import ArrayLike
from dvae_lib.devices import on_the_host

__all__ = ["Standardizer"]


@runtime_checkable
class HoldsFrames(Protocol):
    """What gives its sequences as they came, before any standardisation of its own: a `SequenceDataset`."""

    def raw_sequences(self) -> Iterable[Tensor]:
        """Sequences of shape (T_i, x_dim)."""


@dataclass(frozen=True)
class Standardizer:
    r"""Zero mean and unit variance for each dimension, :math:`(x - \mu) / \sigma`, learned on training data.

    A dimension that never changes keeps its scale (:math:`\sigma = 1`), so nothing is divided by zero.

    Attributes:
        mean: (x_dim,), float64.
        scale: (x_dim,), float64, positive.

    Example:
        >>> standardizer = Standardizer.fit([torch.tensor([[1.0, 5.0], [3.0, 5.0]])])
        >>> standardizer.transform(torch.tensor([[3.0, 5.0]]))
        tensor([[1., 0.]])
    """

    mean: Tensor
    scale: Tensor

    def __post_init__(self) -> None:
        if self.mean.ndim != 1 or self.mean.shape != self.scale.shape:
            raise ValueError(
                "mean and scale are vectors of the same size, "
                f"not of shapes {tuple(self.mean.shape)} and {tuple(self.scale.shape)}"
            )
        if not (torch.isfinite(self.mean).all() and torch.isfinite(self.scale).all() and (self.scale > 0).all()):
            raise ValueError("mean and scale must be finite, and scale positive")

    @classmethod
    @on_the_host()
    def fit(
        cls,
        train: HoldsFrames | Iterable[ArrayLike],
        *,
        missing: bool = False,
        columns: Sequence[int] | None = None,
    ) -> "Standardizer":
        """Mean and standard deviation over all frames of the training sequences.

        Arguments:
            train: A dataset (the frames that its sequences hold count, before any standardisation of its own)
                or sequences of shape (T_i, x_dim).
            missing: Whether NaN stands for a missing value, which does not count; a dataset says so itself.
            columns: Which dimensions; the others are left as they are. None: all.

        Returns:
            The standardiser, in float64.
        """
        if isinstance(train, HoldsFrames):
            clips, missing = train.raw_sequences(), getattr(train, "missing", False)
        else:
            clips = map(as_tensor, train)
        count: int | Tensor = 0
        mean, sum_of_squares = torch.zeros(()), torch.zeros(())
        for clip in clips:  # Chan's pairwise update: no cancellation, one pass, no copy of the whole
            clip = clip.to("cpu", torch.float64)
            n: int | Tensor = len(clip)
            clip_mean = clip.mean(0)
            deviation = clip - clip_mean
            if missing and bool(clip.isnan().any()):
                n = (~clip.isnan()).sum(0).double()
                clip_mean = clip.nansum(0) / n.clamp(min=1)
                deviation = (clip - clip_mean).nan_to_num(0.0)
            delta, together = clip_mean - mean, count + n
            together = together.clamp(min=1) if isinstance(together, Tensor) else together
            sum_of_squares = sum_of_squares + deviation.square().sum(0) + delta**2 * count * n / together
            mean = mean + delta * n / together
            count = count + n
        if isinstance(count, Tensor):
            blank = (count == 0).nonzero()[:, 0].tolist()
            if blank:
                raise ValueError(
                    f"Every value of dimension {blank[0]} is missing: leave it out, nothing is known of it"
                )
        elif count == 0:
            raise ValueError("A standardiser needs at least one frame to learn from, and there is none")
        scale = (sum_of_squares / count).sqrt()
        # What is left of a constant dimension is rounding error, which must not be blown up to unit variance.
        constant = scale <= 1e-12 * mean.abs().clamp(min=1e-300)
        scale = torch.where(constant, torch.ones_like(scale), scale)
        if columns is not None:
            kept = torch.ones(len(mean), dtype=torch.bool)
            kept[list(columns)] = False
            mean, scale = mean.masked_fill(kept, 0.0), scale.masked_fill(kept, 1.0)
        return cls(mean, scale)

    def transform(self, x: Tensor) -> Tensor:
        """Standardised x, of the same shape (..., x_dim), dtype and device."""
        return (x - self.mean.to(x)) / self.scale.to(x)

    def transform_in_two(self, x: Tensor, rest: Tensor) -> Tensor:
        """Standardised x + rest, where rest is what rounding took from x: computed in the precision of rest."""
        mean = self.mean.to(rest.dtype)
        mean_rest = (self.mean - mean.to(self.mean.dtype)).to(rest.dtype)
        # x and the mean are near each other, so that their difference is exact.
        centred = (x.to(rest.dtype) - mean.to(x.device)) + (rest - mean_rest.to(x.device))
        return (centred / self.scale.to(rest)).to(x.dtype)

    def inverse(self, x: Tensor) -> Tensor:
        """Back from standardised x to the data's own units.

        The result has the precision of x. Where the mean is large against the scale (coordinates, times), ask for more:
        ``inverse(x.double())``.
        """
        return x * self.scale.to(x) + self.mean.to(x)

    def to_dict(self) -> dict[str, list[float]]:
        """The two vectors as lists, ready for JSON; `from_dict` restores them bit for bit."""
        return {"mean": self.mean.tolist(), "scale": self.scale.tolist()}

    @classmethod
    @on_the_host()
    def from_dict(cls, state: dict[str, list[float]]) -> "Standardizer":
        """The standardiser that `to_dict` wrote."""
        if set(state) != {"mean", "scale"}:
            raise ValueError(f"A standardiser has the keys 'mean' and 'scale', not {sorted(state)}")
        return cls(*(torch.tensor(state[key], dtype=torch.float64) for key in ("mean", "scale")))
