"""The order in which the chain rule takes the latent variables of an unrolled graph."""

from collections.abc import Mapping
from dataclasses import dataclass

from dvae_lib.graphs.ranges import Node

__all__ = ["ChainRule"]


@dataclass(frozen=True)
class ChainRule:
    """Which latent comes when: one sequence after the other or interleaved, forward or backward in time.

    Arguments:
        latents: their names, in order.
        interleaved: whether all latents of a frame come before those of the next one.
        backward: whether each of them runs backward in time.
    """

    latents: tuple[str, ...]
    interleaved: bool
    backward: dict[str, bool]

    def sequence(self, num_steps: int, framewise: Mapping[str, bool]) -> list[Node]:
        """All latent nodes in the order of the chain rule."""
        frames = {
            name: ([*range(1, num_steps + 1)][:: -1 if self.backward[name] else 1] if framewise[name] else [None])
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
