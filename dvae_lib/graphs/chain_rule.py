"""The order in which the chain rule takes the latent variables of an unrolled graph."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from dvae_lib.graphs.language import check_choice
from dvae_lib.graphs.ranges import Node
from dvae_lib.graphs.structure import Structure

__all__ = ["ChainRule", "Direction", "chain_rule", "contradiction"]

Direction = Literal["forward", "backward"]


@dataclass(frozen=True)
class ChainRule:
    """Which latent comes when: one sequence after the other or interleaved, forward or backward in time.

    Arguments:
        latents: Their names, in order.
        interleaved: Whether all latents of a frame come before those of the next one.
        backward: Those that run backward in time.
    """

    latents: tuple[str, ...]
    interleaved: bool
    backward: frozenset[str]

    def sequence(self, num_steps: int, framewise: Mapping[str, bool]) -> list[Node]:
        """All latent nodes in the order of the chain rule."""
        frames = {
            name: ([*range(1, num_steps + 1)][:: -1 if name in self.backward else 1] if framewise[name] else [None])
            for name in self.latents
        }
        if not self.interleaved:
            return [(name, t) for name in self.latents for t in frames[name]]
        timed = [name for name in self.latents if framewise[name]]
        position = {name: i for i, name in enumerate(self.latents)}
        first = position[timed[0]] if timed else 0
        before = [(name, None) for name in self.latents if not framewise[name] and position[name] < first]
        after = [(name, None) for name in self.latents if not framewise[name] and position[name] > first]
        over_time = [(name, frames[name][i]) for i in range(num_steps) for name in timed]
        return [*before, *over_time, *after]


def chain_rule(structure: Structure, order: str | Sequence[str] | None, direction: Direction | None) -> ChainRule:
    """The chain rule that the arguments of `DependencySpec.exact_posterior` ask for."""
    latents = structure.latents
    if direction is not None:
        check_choice(direction, "direction", ("forward", "backward"))
        backward = frozenset(latents if direction == "backward" else ())
    else:
        backward = frozenset(name for name in latents if structure.inference and _looks_ahead(structure, name))
    if order is None:
        plan = ChainRule(latents, False, backward)
        if structure.inference and contradiction(structure, plan):
            plan = ChainRule(latents, True, backward)
        return plan
    if order == "interleaved":
        return ChainRule(latents, True, backward)
    names = (order,) if isinstance(order, str) else tuple(order)
    if sorted(names) != sorted(latents):
        raise ValueError(
            f"order must be 'interleaved' or name each latent variable once ({', '.join(latents)}), not {names}"
        )
    return ChainRule(names, False, backward)


def _looks_ahead(structure: Structure, name: str) -> bool:
    """Whether inference conditions a latent on its own future."""
    num_steps, middle = structure.interior()
    if not structure.framewise[name]:
        return False
    graph = structure.unroll(num_steps, "inference")
    return any(n == name and (time or 0) > middle for n, time in graph.pred[(name, middle)])


def contradiction(structure: Structure, plan: ChainRule) -> tuple[Node, Node] | None:
    """An edge of the inference model from a latent to one that the chain rule places before it."""
    num_steps, _ = structure.interior()
    rank = {node: i for i, node in enumerate(plan.sequence(num_steps, structure.framewise))}
    graph = structure.unroll(num_steps, "inference")
    return next(((a, b) for a, b in graph.edges if a in rank and rank[a] > rank[b]), None)
