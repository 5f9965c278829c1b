"""The objective of a batch that several processes share: each evaluates its rows, and all have the sums."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Generator, Tensor, nn

from dvae_lib.data.sequences import Batch, SequenceDataset
from dvae_lib.training.objective import Objective, evaluate_objective
from dvae_lib.training.parallel import Share, SharedNoise, load_share
from dvae_lib.training.schedules import Number

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["Evaluator", "ObjectiveModule", "Rows"]


class ObjectiveModule(nn.Module):
    """The objective as a module, because Fabric (precision, gradient sums) works on a module's `forward`."""

    def __init__(self, model: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.model, self.objective = model, objective

    def forward(
        self, load: Callable[[], Batch], generator: Generator, scheduled: Mapping[str, Number]
    ) -> dict[str, Tensor]:
        """The terms; only the first takes part in the gradient."""
        # Behind a function, as under mixed precision Fabric would round the data, not only the layers' inputs.
        terms = evaluate_objective(self.objective, self.model, load(), generator, scheduled)
        return {name: v if i == 0 else v.detach() for i, (name, v) in enumerate(terms.items())}


@dataclass(frozen=True)
class Rows:
    """This process's rows of a batch, on its device.

    Attributes:
        data: What they are taken from.
        indices: Those of the whole batch, which all processes share.
        share: Which of them are this process's.
        batch: The sequences.
    """

    data: SequenceDataset
    indices: Tensor
    share: Share
    batch: Batch


class Evaluator:
    """Loads this process's rows, evaluates the objective on them, and sums over processes.

    Arguments:
        fabric: Devices and processes.
        module: The objective, set up by Fabric.
        dtype: Of the model, once Fabric has converted it.
    """

    def __init__(self, fabric: Fabric, module: Any, dtype: torch.dtype) -> None:
        self.fabric, self.module, self.dtype = fabric, module, dtype
        self.generator = Generator(fabric.device)

    def load(self, data: SequenceDataset, indices: Tensor) -> Rows:
        """This process's rows of the batch with these indices."""
        share = Share.of(len(indices), self.fabric.global_rank, self.fabric.world_size)
        batch = load_share(data, indices, share).to(self.fabric.device)
        u = None if batch.u is None else batch.u.to(self.dtype)
        return Rows(data, indices, share, batch._replace(x=batch.x.to(self.dtype), u=u))

    def terms(self, rows: Rows, seed: int, scheduled: Mapping[str, Number]) -> dict[str, Tensor]:
        """The objective's terms of these rows, with noise that is this seed's for the whole batch."""
        self.generator.manual_seed(seed)
        with SharedNoise(self.generator, rows.share) if self.fabric.world_size > 1 else nullcontext():
            terms: dict[str, Tensor] = self.module(lambda: rows.batch, self.generator, scheduled)
        return terms

    def totals(
        self, terms: Mapping[str, Tensor], rows: Rows, flags: Iterable[float] = (), norm: Tensor | None = None
    ) -> tuple[dict[str, float], list[float], float]:
        """The sums of terms and flags over all processes, and a norm, which is the same on all of them."""
        first = next(iter(terms.values()))
        sums = torch.stack([rows.share.weight * value.detach().sum().to(first.dtype) for value in terms.values()])
        sums = torch.cat([sums, sums.new_tensor(list(flags))])
        if self.fabric.world_size > 1:
            sums = self.fabric.all_reduce(sums, reduce_op="sum")  # type: ignore[assignment]
        norm = sums.new_zeros(()) if norm is None else norm
        *values, size = torch.cat([sums, norm.to(sums).reshape(1)]).tolist()
        return dict(zip(terms, values, strict=False)), values[len(terms) :], size
