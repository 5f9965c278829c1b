"""From frame numbers to the review's index expressions: {1, 2, ..., t-1} becomes ``1:t-1``.

An unrolled graph knows frames by their numbers, a formula by expressions in 1, t and T. A conditioning set is
named by looking at a frame far from both ends of a long sequence, where a number close to 1, to t or to T can
only mean one thing. The same is done at shifted frames and lengths, and all must give the same name, so that
no result depends on the length used for unrolling.
"""

from collections.abc import Callable, Iterable, Mapping

from dvae_lib.graphs.language import Index, Reference

__all__ = ["Node", "NodeSets", "name_nodes", "name_sets"]

Node = tuple[str, int | None]
"""A node of an unrolled graph: ``("z", 3)``, or ``("v", None)`` for a variable of the whole sequence."""

NodeSets = Callable[[int, int], Mapping[str, Iterable[Node]]]
"""Maps a frame t and a length T to a set of nodes per variable."""


def _runs(times: Iterable[int]) -> list[tuple[int, int]]:
    """Maximal runs of consecutive numbers, as (first, last)."""
    runs: list[tuple[int, int]] = []
    for time in sorted(times):
        if runs and time == runs[-1][1] + 1:
            runs[-1] = (runs[-1][0], time)
        else:
            runs.append((time, time))
    return runs


def name_nodes(nodes: Iterable[Node], t: int | None, num_steps: int) -> tuple[Reference, ...]:
    """Name a set of nodes by index expressions, as seen from frame ``t`` of ``num_steps``.

    Arguments:
        nodes: The set.
        t: The frame it belongs to; `None` for a variable of the whole sequence.
        num_steps: Length of the unrolled sequence.

    Returns:
        References ordered by name and time; consecutive frames become one range. An end of a range is named after
        the closest of 1, t and T.

    Example:
        >>> [str(r) for r in name_nodes({("x", 1), ("x", 2), ("x", 3), ("x", 4), ("z", 6)}, 5, 9)]
        ['x_{1:t-1}', 'z_{t+1}']
    """
    frames: dict[str, set[int]] = {}
    references: list[Reference] = []
    for name, time in nodes:
        if time is None:
            references.append(Reference(name))
        else:
            frames.setdefault(name, set()).add(time)
    anchors = {"1": 1, "T": num_steps} if t is None else {"t": t, "1": 1, "T": num_steps}

    def named(time: int) -> Index:
        anchor = min(anchors, key=lambda a: abs(time - anchors[a]))
        return Index(anchor, time - anchors[anchor])

    for name, times in frames.items():
        references += [Reference(name, named(first), named(last)) for first, last in _runs(times)]
    return tuple(sorted(references, key=lambda r: (r.name, r.first and ("1tT".index(r.first.anchor), r.first))))


def name_sets(sets: NodeSets, reach: int, framewise: Mapping[str, bool]) -> dict[str, tuple[Reference, ...]]:
    """Name conditioning sets that hold at every frame far from both ends.

    Arguments:
        sets: Maps a frame t and a length T to a set of nodes per variable.
        reach: The longest span of a single dependency besides ranges, in frames.
        framewise: Whether each variable has a value per frame.

    Returns:
        Per variable, its conditioning set in index expressions.

    Raises:
        ValueError: If no expression in 1, t and T gives the set at all frames, as for every second frame.
    """
    results: list[dict[str, tuple[Reference, ...]]] = []
    for margin in (reach + 1, 2 * reach + 2):  # the second time for spans that the first takes for ends
        results = []
        for before, after in ((margin, margin), (margin + 1, margin), (margin, margin + 1)):
            t, num_steps = before + 1, before + 1 + after
            named = {
                name: name_nodes(nodes, t if framewise[name] else None, num_steps)
                for name, nodes in sets(t, num_steps).items()
            }
            results.append(named)
        if all(result == results[0] for result in results[1:]):
            return results[0]
    name = next(name for name in results[0] if any(result[name] != results[0][name] for result in results))
    seen = " or ".join("{" + ", ".join(map(str, result[name])) + "}" for result in results[:2])
    raise ValueError(
        f"the parents of {name} are not a union of ranges between 1, t and T that holds at every frame: they are "
        f"{seen}. A recurrence over several steps at once, such as h_t <- h_{{t-2}}, skips frames for ever: give it "
        "h_{t-1} as well, or write the parents it reaches one by one"
    )
