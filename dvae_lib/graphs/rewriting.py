"""A spec written anew: without its inputs, or fed with its own output."""

from collections.abc import Callable, Iterable
from dataclasses import replace

from dvae_lib.graphs.language import Reference, Statement
from dvae_lib.graphs.structure import Structure

__all__ = ["fed_back_names", "generation_mode", "own_pass_names", "undriven"]

Blocks = tuple[str, str]
"""The lines of generation and of inference."""


def _lines(statements: Iterable[Statement]) -> str:
    return "\n".join(map(str, statements))


def undriven(structure: Structure) -> Blocks:
    """The blocks without the external inputs; see `DependencySpec.undriven`."""

    def without_inputs(block: dict[str, Statement]) -> str:
        return _lines(
            replace(s, parents=tuple(p for p in s.parents if p.name not in structure.inputs)) for s in block.values()
        )

    return without_inputs(structure.generation), without_inputs(structure.inference)


def fed_back_names(structure: Structure) -> dict[str, str]:
    """What the model's own mean of each observed variable is called in generation mode."""
    return {name: f"{name}hat" for name in structure.observed}


def own_pass_names(structure: Structure) -> dict[str, str]:
    """What each shared state is called in generation mode, where inference computes it from the true data."""
    return {name: f"{name}_true" for name in structure.shared}


def generation_mode(structure: Structure) -> Blocks:
    """The blocks of the model fed with its own output; see `DependencySpec.generation_mode`."""
    fed_back, own_pass = fed_back_names(structure), own_pass_names(structure)
    taken = sorted(set(fed_back.values()) & set(structure.framewise))
    if taken:
        raise ValueError(f"generation mode needs the name {taken[0]!r}, which the spec already uses")

    def renamed(names: dict[str, str]) -> Callable[[Reference], Reference]:
        return lambda parent: replace(parent, name=names.get(parent.name, parent.name))

    generation = [replace(s, parents=tuple(map(renamed(fed_back), s.parents))) for s in structure.generation.values()]
    generation += [replace(s, name=fed_back[s.name], random=False) for s in generation if s.name in fed_back]
    shared = [structure.generation[name] for name in structure.shared]
    inference = [
        replace(s, name=own_pass.get(s.name, s.name), parents=tuple(map(renamed(own_pass), s.parents)))
        for s in (*shared, *structure.inference.values())
    ]
    return _lines(generation), _lines(inference)
