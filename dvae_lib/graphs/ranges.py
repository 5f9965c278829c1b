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


def name_nodes(nodes: Iterable[Node], t: int | None, num_steps: int, margin: int) -> tuple[Reference, ...]:
    """Name a set of nodes by index expressions, as seen from frame ``t`` of ``num_steps``.

    Arguments:
        nodes: the set.
        t: the frame it belongs to; `None` for a variable of the whole sequence.
        num_steps: length of the unrolled sequence; 1, t and T must be more than twice ``margin`` apart.
        margin: how far from 1, t or T a frame number may be and still be named after it.

    Returns:
        references ordered by name and time; consecutive frames become one range.

    Raises:
        ValueError: if the frames are no union of ranges with such ends, for instance every second frame.

    >>> [str(r) for r in name_nodes({("x", 1), ("x", 2), ("x", 3), ("x", 4), ("z", 6)}, 5, 9, 1)]
    ['x_{1:t-1}', 'z_{t+1}']
    """
    frames: dict[str, set[int]] = {}
    references: list[Reference] = []
    for name, time in nodes:
        if time is None:
            references.append(Reference(name))
        else:
            frames.setdefault(name, set()).add(time)
    anchors = {"1": 1, "T": num_steps} | ({} if t is None else {"t": t})

    def named(time: int) -> Index | None:
        near = [Index(a, time - position) for a, position in anchors.items() if abs(time - position) <= margin]
        return near[0] if near else None

    for name, times in frames.items():
        for first, last in _runs(times):
            ends = named(first), named(last)
            if ends[0] is None or ends[1] is None:
                raise ValueError(
                    f"the frames of {name} that count are not a union of ranges between 1, t and T: seen from "
                    f"t = {t} of T = {num_steps} they are {sorted(times)}. A recurrence over several steps at "
                    "once, such as h_t <- h_{t-2}, skips frames for ever; give it h_{t-1} as well, or write "
                    "the parents it reaches one by one."
                )
            references.append(Reference(name, *ends))
    return tuple(sorted(references, key=lambda r: (r.name, r.first and ("1tT".index(r.first.anchor), r.first))))


def name_sets(sets: NodeSets, margin: int, framewise: dict[str, bool]) -> dict[str, tuple[Reference, ...]]:
    """Name conditioning sets that hold at every frame far from both ends.

    Arguments:
        sets: maps a frame t and a length T to a set of nodes per variable.
        margin: the longest reach that a single dependency can have besides ranges, in frames.
        framewise: whether each variable has a value per frame.

    Returns:
        per variable, its conditioning set in index expressions.

    Raises:
        ValueError: if a set has no such name, or not the same one at all frames.
    """
    before = after = 2 * margin + 2
    results = []
    for extra_before, extra_after in ((0, 0), (1, 0), (0, 1)):
        t = before + extra_before
        num_steps = t + after + extra_after
        results.append(
            {
                name: name_nodes(nodes, t if framewise[name] else None, num_steps, margin)
                for name, nodes in sets(t, num_steps).items()
            }
        )
    if any(result != results[0] for result in results[1:]):
        raise ValueError(
            "the dependencies have no form that holds at every frame: they differ between "
            + " and ".join(str({k: [str(r) for r in v] for k, v in result.items()}) for result in results)
        )
    return results[0]
