"""Several processes that compute what one would have: shares of a batch, and the same noise on them.

The batch and the noise of a step are those of one process; each process takes its own rows of both. So the
losses do not depend on how many processes there are, up to the order in which floating-point numbers are added.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Generator, Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from dvae_lib.data.sequences import Batch, SequenceDataset
from dvae_lib.devices import accelerator as this_machines

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from lightning_fabric.loggers.logger import Logger

__all__ = ["PRECISIONS", "Share", "SharedNoise", "check_precision", "load_share", "training_fabric"]

PRECISIONS = ("32-true", "64-true", "bf16-mixed", "bf16-true")
"""What every model can be trained in."""


def training_fabric(
    accelerator: str = "auto", precision: str = "32-true", loggers: Sequence[Logger] | None = None
) -> Fabric:
    """A Fabric for this process, or for all processes that torchrun has started.

    Arguments:
        accelerator: "auto" takes a GPU where there is one; or "cpu", "cuda", "mps".
        precision: Of the weights and, where it says "mixed", of what the layers compute with: one of `PRECISIONS`.
        loggers: Fabric loggers that receive every epoch's record.

    Raises:
        ValueError: For other precisions, such as 16-bit floats, whose gradients overflow as a matter of course, or a
            GPU that is not there.
    """
    # Fabric takes two seconds to import, torchmetrics and matplotlib with it: whoever trains waits, nobody else.
    from lightning_fabric import Fabric
    from lightning_fabric.strategies.ddp import DDPStrategy
    from lightning_fabric.strategies.single_device import SingleDeviceStrategy

    check_precision(precision)
    missing = {"cuda": not torch.cuda.is_available(), "mps": not torch.backends.mps.is_available()}
    if missing.get(accelerator, False):
        raise ValueError(f"PyTorch {torch.__version__} finds no {accelerator} device here; use 'auto' or 'cpu'")
    here = this_machines()
    if accelerator == "auto" and here.type not in ("cuda", "mps", "cpu"):
        from dvae_lib.training.other_accelerator import OtherAccelerator

        strategy = SingleDeviceStrategy(here, OtherAccelerator())
        return Fabric(strategy=strategy, devices=1, precision=precision, loggers=list(loggers or []))  # type: ignore[arg-type]
    torchrun = torch.distributed.is_available() and torch.distributed.is_torchelastic_launched()
    devices = int(os.environ["LOCAL_WORLD_SIZE"]) if torchrun else 1
    num_nodes = int(os.environ["WORLD_SIZE"]) // devices if torchrun else 1
    fabric = Fabric(
        accelerator=accelerator,
        # Parameters without a part in the objective are legitimate: staged training leaves some out.
        strategy=DDPStrategy(find_unused_parameters=True) if devices * num_nodes > 1 else "auto",
        devices=devices,
        num_nodes=num_nodes,
        precision=precision,  # type: ignore[arg-type]
        loggers=list(loggers or []),
    )
    if fabric.world_size > 1:
        fabric.launch()
    return fabric


def check_precision(precision: str) -> None:
    """Refuse what no model can be trained in, above all 16-bit floats, whose gradients overflow."""
    if precision.startswith("16"):
        raise ValueError(
            f"precision {precision!r} needs loss scaling, under which gradients overflow as a matter of course, and "
            "the guard against non-finite gradients could not work; use 'bf16-mixed', which has float32's range"
        )
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}; got {precision!r}")


class Share(NamedTuple):
    """The rows of a batch that one process evaluates.

    A process for which none are left evaluates the first row, with weight zero: it must take part in every sum.
    """

    start: int
    stop: int
    total: int
    weight: float

    @classmethod
    def of(cls, total: int, rank: int, world_size: int) -> Share:
        """Rows as evenly dealt out as whole rows allow."""
        start, stop = rank * total // world_size, (rank + 1) * total // world_size
        return cls(start, stop, total, 1.0) if stop > start else cls(0, 1, total, 0.0)


def load_share(dataset: SequenceDataset, indices: Tensor, share: Share) -> Batch:
    """This process's rows of a batch, padded to the longest sequence of all its rows."""
    batch = dataset.batch(indices[share.start : share.stop])
    missing = int(dataset.lengths[indices].max()) - batch.x.shape[1]
    if missing == 0:
        return batch
    lengths = batch.lengths
    if lengths is None:
        lengths = torch.full((len(batch.x),), batch.x.shape[1], device=batch.x.device)
    return type(batch)(
        F.pad(batch.x, (0, 0, 0, missing)),
        lengths,
        None if batch.u is None else F.pad(batch.u, (0, 0, 0, missing)),
    )


class SharedNoise(TorchFunctionMode):
    """Within it, what is drawn with a generator is drawn for the whole batch, and this process's rows are returned.

    The generator must be in the same state in all processes. Noise has the batch first, ``(B, ...)``, or is drawn
    for several samples of the whole batch one after the other, ``(S * B, ...)``. Draws without this generator,
    such as those of dropout, are left alone.

    Arguments:
        generator: The generator whose draws are shared.
        share: This process's rows.

    Example:
        >>> def draw(rows, **options):
        ...     return torch.randn(rows, 3, **options)
        >>> whole = draw(4, generator=Generator().manual_seed(0))
        >>> generator = Generator().manual_seed(0)
        >>> with SharedNoise(generator, Share.of(4, rank=1, world_size=2)):
        ...     part = draw(2, generator=generator)
        >>> bool((part == whole[2:]).all())
        True
    """

    def __init__(self, generator: Generator, share: Share) -> None:
        super().__init__()
        self.generator, self.share = generator, share

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Widen what the call draws to the whole batch, and cut this process's rows out of the result."""
        kwargs = kwargs or {}
        if kwargs.get("generator") is not self.generator:
            return func(*args, **kwargs)
        if func in (torch.randn, torch.rand):
            size = kwargs.pop("size", None) or (args if isinstance(args[0], int) else args[0])
            return self._rows(func(self._widened_size(size), **kwargs))
        drawn = func(*map(self._widened, args), **{name: self._widened(v) for name, v in kwargs.items()})
        if not isinstance(drawn, Tensor):
            raise TypeError(f"{func.__name__} draws no tensor, so it cannot be shared between processes")
        # A method such as Tensor.exponential_ fills its own tensor.
        return args[0].copy_(self._rows(drawn)) if func.__name__.endswith("_") else self._rows(drawn)

    def _widened_size(self, size: Sequence[int]) -> tuple[int, ...]:
        here = self.share.stop - self.share.start
        if not size or size[0] % here:
            raise ValueError(
                f"Noise of shape {tuple(size)} was drawn for a batch of {here} sequences. With several processes "
                "noise must have the batch as its first dimension, so that each process can take its own rows"
            )
        return (size[0] // here * self.share.total, *size[1:])

    def _widened(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or value.ndim == 0:
            return value
        wide = value.new_zeros(self._widened_size(value.shape))
        self._rows_view(wide).copy_(value.detach().unflatten(0, (-1, self.share.stop - self.share.start)))
        return wide

    def _rows_view(self, wide: Tensor) -> Tensor:
        samples: Tensor = wide.unflatten(0, (-1, self.share.total))
        return samples[:, self.share.start : self.share.stop]

    def _rows(self, wide: Tensor) -> Tensor:
        return self._rows_view(wide).flatten(0, 1)
