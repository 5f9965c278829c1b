"""What a model is built of, as a table: its networks, their sizes, and which direction their weights serve."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from dvae_lib.architecture.flow import PROCESSES, Process, data_flow, parts_of, used_weights
from dvae_lib.architecture.notation import Notation, sizes_of
from dvae_lib.models.base import DVAE

__all__ = ["Part", "Weights", "architecture", "count_weights", "to_markdown"]

NONE_ONE_BOTH: tuple[tuple[Process, ...], ...] = ((), ("generation",), ("inference",), PROCESSES)


@dataclass(frozen=True)
class Part:
    """A part of a model: one row of its table.

    Attributes:
        name: The attribute of the model, `model.get_submodule(name)`.
        function: The review's function that it is, or belongs to, in LaTeX.
        network: The network in the review's notation, with LaTeX between dollars.
        in_dim: Size of what it reads; 0 where nothing is put into it.
        out_dim: Size of what it puts out.
        weights: Number of its parameters.
        generation: How many of them the generative model uses.
        inference: How many of them the inference model uses.
        shared: How many of them both use.
    """

    name: str
    function: str
    network: str
    in_dim: int
    out_dim: int
    weights: int
    generation: int
    inference: int
    shared: int

    @property
    def used_by(self) -> str:
        """Who uses it, in words."""
        if self.shared:
            return "both"
        return "generation" if self.generation else "inference" if self.inference else "neither"


class Weights(NamedTuple):
    """Numbers of weights: used by generation, by inference, by both (and so in both numbers), by neither; all."""

    generation: int
    inference: int
    shared: int
    neither: int
    total: int


def count_weights(model: DVAE) -> Weights:
    """How many weights the generative and the inference model use: those that get a gradient from their outputs.

    Example:
        >>> from dvae_lib import VAE
        >>> count_weights(VAE(x_dim=10, z_dim=2, encoder=(8,), decoder=(8,)))
        Weights(generation=204, inference=124, shared=0, neither=0, total=328)
    """
    rows = architecture(model)
    generation, inference, shared, total = (
        sum(getattr(row, name) for row in rows) for name in ("generation", "inference", "shared", "weights")
    )
    return Weights(generation, inference, shared, total - (generation + inference - shared), total)


def architecture(model: DVAE) -> list[Part]:
    """All parts of a model that have weights, in the order in which it declares them.

    Arguments:
        model: Any model, such as one of `dvae_lib.build_model`.

    Returns:
        One row for each part. Every weight of the model is in exactly one of them.

    Example:
        >>> from dvae_lib import build_model
        >>> for part in architecture(build_model("vae", preset="speech")):
        ...     print(part.name, part.in_dim, part.out_dim, part.weights)
        d_x 16 128 2176
        x_head 128 513 66177
        e_z 513 128 65792
        z_head 128 32 4128
    """
    flows = {process: data_flow(model, process) for process in PROCESSES}
    used = {process: used_weights(model, process) for process in PROCESSES}
    writer = Notation(model, flows)
    rows = []
    for name, part in parts_of(model).items():
        counts = [
            sum(p.numel() for n, p in part.named_parameters() if all(f"{name}.{n}" in used[c] for c in chosen))
            for chosen in NONE_ONE_BOTH
        ]
        in_dim, out_dim = sizes_of(part)
        rows.append(Part(name, writer.function(name), writer.network(name), in_dim, out_dim, *counts))
    return rows


def to_markdown(rows: Iterable[Part]) -> str:
    """The table of a model's parts, for a notebook or a page.

    Example:
        >>> from dvae_lib import build_model
        >>> print(to_markdown(architecture(build_model("vae", preset="speech"))).splitlines()[2])
        | `d_x` | $d_{\\mathbf{x}}$ | MLP($\\mathbf{z}_t$, 128, Tanh) | 16 → 128 | 2,176 | generation |
    """
    lines = ["| part | is | network | sizes | weights | used by |", "|---|---|---|---|---:|---|"]
    total = 0
    for row in rows:
        total += row.weights
        sizes = f"{row.in_dim} → {row.out_dim}" if row.in_dim else f"{row.out_dim}"
        function = f"${row.function}$" if row.function else ""
        lines.append(f"| `{row.name}` | {function} | {row.network} | {sizes} | {row.weights:,} | {row.used_by} |")
    return "\n".join([*lines, f"| all | | | | {total:,} | |"])
