"""Where the nodes of a figure stand and how its arrows run.

Three time slices stand side by side, each variable on a row of its own. Deterministic states may stand a little to the
left or right of the column, and sequence-level variables outside of it; a descent over these places looks for
short arrows that cross little and run through no node. Arrows that still would are bent. All frames are treated
alike: z_{t-1} -> z_t is bent as z_t -> z_{t+1} is.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from dvae_lib.graphs.ranges import Node

__all__ = [
    "NODE_RADIUS",
    "Arrangement",
    "Arrow",
    "Layout",
    "Link",
    "Picture",
    "arrange",
    "bezier",
    "crossings",
    "outline_distance",
    "settle",
]

Array = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

NODE_RADIUS = {"latent": 0.37, "observed": 0.37, "input": 0.37, "deterministic": 0.47}
"""Radius of the circle around a node; of a diamond, half its diagonal."""

_SLICES = 3
_ROW_PITCH = 1.3
_SLICE_PITCH = 2.1
_CLEARANCE = 0.09
_SHIFTS = (0.0, -0.55, 0.55, -0.8, 0.8)
_BENDS = (0.0, *(sign * size for size in (0.08, 0.15, 0.28, 0.42, 0.6, 0.8) for sign in (1, -1)))

_FINE_BENDS = tuple(0.02 * step for step in range(-50, 51) if 0.02 * step not in _BENDS)


@dataclass(frozen=True)
class Link:
    """An arrow still without a place.

    Arguments:
        parent: Where it begins.
        child: Where it ends.
        role: ``"plain"``, ``"missing"``, ``"extra"``, or ``"end"`` for one that comes from the first or last frame.
    """

    parent: Node
    child: Node
    role: str = "plain"

    @property
    def family(self) -> tuple[str, str, int | None, str]:
        """What it shares with the same arrow of other frames."""
        lag = None
        if self.parent[1] is not None and self.child[1] is not None:
            lag = self.child[1] - self.parent[1]
        return self.parent[0], self.child[0], lag, self.role


@dataclass(frozen=True)
class Picture:
    """What a panel of a figure shows, before anything has a place.

    Arguments:
        kinds: The nodes over three frames, each ``"latent"``, ``"observed"``, ``"input"`` or ``"deterministic"``.
        links: The arrows between them.
        symbols: LaTeX of each variable, without its index.
    """

    kinds: dict[Node, str]
    links: tuple[Link, ...]
    symbols: Mapping[str, str]


@dataclass(frozen=True)
class Arrow:
    """A link and the quadratic Bezier curve it runs along, from centre to centre: (3, 2)."""

    link: Link
    curve: Array


@dataclass(frozen=True)
class Layout:
    """A figure's geometry, in units of which a node is 0.74 wide.

    Arguments:
        positions: Centre of each node.
        kinds: ``"latent"``, ``"observed"``, ``"input"`` or ``"deterministic"``.
        arrows: In the order of drawing.
    """

    positions: dict[Node, tuple[float, float]]
    kinds: dict[Node, str]
    arrows: tuple[Arrow, ...]

    def radius(self, node: Node) -> float:
        """Radius of the circle around a node."""
        return NODE_RADIUS[self.kinds[node]]

    def outside(self, node: Node, points: Array) -> Array:
        """How far points ``(n, 2)`` are outside of a node's outline, negative inside."""
        offsets = points - np.array(self.positions[node])
        return outline_distance(offsets, self.radius(node), self.kinds[node] == "deterministic")


def bezier(curve: Array, at: Array) -> Array:
    """Points of a quadratic Bezier curve, ``(..., n, 2)`` for control points ``(..., 3, 2)`` and ``n`` parameters."""
    s = at[:, None]
    first, control, last = (curve[..., None, i, :] for i in range(3))
    points: Array = (1 - s) ** 2 * first + 2 * s * (1 - s) * control + s**2 * last
    return points


def _curves(starts: Array, ends: Array, bend: float | Array) -> Array:
    """Curves between points (n, 2), with the control point beside the middle by ``bend`` times the length."""
    across = ends - starts
    control = (starts + ends) / 2 + np.reshape(bend, (-1, 1)) * np.stack([-across[:, 1], across[:, 0]], axis=1)
    return np.stack([starts, control, ends], axis=1)


def crossings(first: Array, second: Array) -> int:
    """How many segments ``(n, 2, 2)`` properly cross segments ``(m, 2, 2)``: not at their ends."""
    p, r = first[:, None, 0], (first[:, 1] - first[:, 0])[:, None]
    q, s = second[None, :, 0], (second[:, 1] - second[:, 0])[None]
    cross = r[..., 0] * s[..., 1] - r[..., 1] * s[..., 0]
    gap = q - p
    with np.errstate(divide="ignore", invalid="ignore"):
        along = (gap[..., 0] * s[..., 1] - gap[..., 1] * s[..., 0]) / cross
        other = (gap[..., 0] * r[..., 1] - gap[..., 1] * r[..., 0]) / cross
        inside = (along > 0.02) & (along < 0.98) & (other > 0.02) & (other < 0.98)
    return int(inside.sum())


def outline_distance(offsets: Array, radii: Array | float, diamonds: npt.NDArray[np.bool_] | bool) -> Array:
    """How far points are outside of nodes, negative inside.

    Arguments:
        offsets: Points as seen from the centres, ``(..., 2)``.
        radii: Of the nodes; for a diamond half its diagonal.
        diamonds: Which nodes are diamonds rather than circles.

    Returns:
        Distances to the outline; beyond a diamond's corners, to the line that continues its side.
    """
    sideways, up = np.abs(offsets[..., 0]), np.abs(offsets[..., 1])
    distance: Array = np.where(diamonds, (sideways + up - radii) / np.sqrt(2), np.hypot(sideways, up) - radii)
    return distance


def _collisions(
    points: Array,
    ends: Indices,
    nodes: Array,
    radii: Array,
    diamonds: npt.NDArray[np.bool_],
    clearance: float = _CLEARANCE,
) -> float:
    """How far curves (n, k, 2) intrude upon nodes that are not their ends; 0 if they keep clear of all."""
    distance = outline_distance(points[:, :, None] - nodes, radii, diamonds).min(axis=1)
    intrusion = np.clip(clearance - distance, 0.0, None)
    np.put_along_axis(intrusion, ends, 0.0, axis=1)
    return float(intrusion.sum())


@dataclass
class Arrangement:
    """What is decided where a figure is arranged; all places and curves follow from it.

    Arguments:
        rows: The framewise variables from top to bottom.
        shifts: How far each of them stands right of its column.
        single: For each sequence-level variable, slices right of the middle and rows below the top.
        bends: How far each arrow's control point is beside its middle, in lengths of the arrow; 0 is straight.
    """

    rows: list[str]
    shifts: dict[str, float]
    single: dict[str, tuple[float, float]]
    bends: list[float] = field(default_factory=list)

    def copy(self) -> "Arrangement":
        """One that can be changed by itself."""
        return Arrangement([*self.rows], {**self.shifts}, {**self.single}, [*self.bends])

    def positions(self, nodes: Iterable[Node]) -> dict[Node, tuple[float, float]]:
        """Where each node stands."""
        row = {name: i for i, name in enumerate(self.rows)}
        places: dict[Node, tuple[float, float]] = {}
        for name, time in nodes:
            if time is None:
                column, height = self.single[name]
                places[name, time] = ((1 + column) * _SLICE_PITCH, -height * _ROW_PITCH)
            else:
                places[name, time] = ((time - 1) * _SLICE_PITCH + self.shifts[name], -row[name] * _ROW_PITCH)
        return places

    def layout(self, picture: Picture) -> Layout:
        """The geometry of a picture so arranged."""
        positions = self.positions(picture.kinds)
        places = np.array([(positions[link.parent], positions[link.child]) for link in picture.links])
        starts, ends = places.reshape(-1, 2, 2).swapaxes(0, 1)
        curves = _curves(starts, ends, np.array(self.bends))
        arrows = tuple(Arrow(link, curve) for link, curve in zip(picture.links, curves, strict=True))
        return Layout(positions, picture.kinds, arrows)


class _Arranger:
    """Finds places and curves for one picture."""

    def __init__(self, picture: Picture) -> None:
        kinds, links = picture.kinds, picture.links
        self.wariness = 6.0  # the price of a node in the way of a straight arrow, which may yet be bent
        self.nodes = list(kinds)
        self.kinds = kinds
        self.kind = {name: kind for (name, _), kind in kinds.items()}
        self.links = links
        index = {node: i for i, node in enumerate(self.nodes)}
        self.ends = np.array([[index[link.parent], index[link.child]] for link in links]).reshape(-1, 2)
        self.radii = np.array([NODE_RADIUS[kinds[node]] for node in self.nodes])
        self.diamonds = np.array([kinds[node] == "deterministic" for node in self.nodes])
        self.framewise = [name for name in self.kind if (name, 1) in kinds]
        self.single = [name for name in self.kind if (name, None) in kinds]
        self.aside = self._feeding_single()
        self.downward = np.array([self._flow(link) for link in links])

    def _flow(self, link: Link) -> float:
        """1 for an arrow that should point down, -1 for up, 0 for either.

        States stand between the latent variables and the data: within a frame, arrows leave latents downwards and
        data upwards, and so they arrive.
        """
        if link.parent[1] is None or link.parent[1] != link.child[1] or link.role == "missing":
            return 0.0
        ends = self.kinds[link.parent], self.kinds[link.child]
        if "deterministic" not in ends or {link.parent[0], link.child[0]} & self.aside:
            return 0.0
        return {("latent", 0): 1.0, ("observed", 1): 1.0, ("observed", 0): -1.0}.get(
            next(((kind, i) for i, kind in enumerate(ends) if kind != "deterministic"), ("", 0)), 0.0
        )

    def _feeding_single(self) -> set[str]:
        """The states that only serve to compute variables of the whole sequence: they stand apart, below the data."""
        fed: dict[str, set[str]] = {}
        for link in self.links:
            if link.role != "missing":
                fed.setdefault(link.parent[0], set()).add(link.child[0])
        return {
            name
            for (name, time), kind in self.kinds.items()
            if kind == "deterministic" and time and fed.get(name, set()) - {name} <= set(self.single)
        }

    def points(self, draft: Arrangement) -> Array:
        """Where each node stands."""
        places = draft.positions(self.nodes)
        return np.array([places[node] for node in self.nodes])

    def cost(self, draft: Arrangement) -> float:
        """Of straight arrows: nodes in the way, nodes on top of each other, crossings, near-overlaps, length."""
        nodes = self.points(draft)
        apart = np.linalg.norm(nodes[:, None] - nodes, axis=-1) + 10 * np.eye(len(nodes))
        tight = np.clip(self.radii[:, None] + self.radii + 0.25 - apart, 0.0, None).sum()
        total = 40.0 * float(tight) + 0.5 * sum(map(abs, draft.shifts.values()))
        if not len(self.ends):
            return total
        segments = nodes[self.ends]
        along = np.linspace(0, 1, 13)[None, :, None]
        points = segments[:, None, 0] * (1 - along) + segments[:, None, 1] * along
        direction = segments[:, 1] - segments[:, 0]
        length = np.linalg.norm(direction, axis=1)
        angle = np.arctan2(direction[:, 1], direction[:, 0])
        total += 0.5 * float((self.downward * direction[:, 1] > 0).sum())
        total += self.wariness * _collisions(points, self.ends, nodes, self.radii, self.diamonds)
        total += 0.35 * crossings(segments, segments) / 2
        total += 0.25 * float(length.sum())
        for side, flip in ((0, 0.0), (1, np.pi)):  # arrows that leave or enter a node side by side
            for other, turn in ((0, 0.0), (1, np.pi)):
                same = self.ends[:, None, side] == self.ends[None, :, other]
                np.fill_diagonal(same, False)
                between = np.abs(np.angle(np.exp(1j * ((angle + flip)[:, None] - (angle + turn)[None]))))
                total += 0.6 * float((same * np.clip(1 - between / 0.3, 0, None)).sum())
        return total

    def start(self) -> Arrangement:
        """Inputs, latents, states, data from top to bottom; states in the order in which they feed each other."""
        ranks = {"input": 0, "latent": 1, "deterministic": 2, "observed": 3}
        rows = sorted(self.framewise, key=lambda name: 4 if name in self.aside else ranks[self.kind[name]])
        single = {name: (-1.6, len(rows) / 2 + i) for i, name in enumerate(self.single)}
        return Arrangement(rows, dict.fromkeys(rows, 0.0), single)

    def _neighbours(self, draft: Arrangement, name: str) -> Iterable[Arrangement]:
        if name in self.single:
            last = len(draft.rows) - 1
            beside = [(c, h / 2) for c in (-1.9, -1.6, 1.6, 1.9) for h in range(2 * last + 1)]
            for spot in (*beside, *((c, h) for c in (-1.0, 0.0, 1.0) for h in (-1.0, last + 1.0))):
                near = draft.copy()
                near.single[name] = spot
                yield near
            return
        places: Iterable[int] = [draft.rows.index(name)]
        if self.kind[name] == "deterministic":
            places = range(len(draft.rows))
        elif self.kind[name] == "input":
            places = (0, len(draft.rows) - 1)
        for place in places:
            for shift in _SHIFTS if self.kind[name] == "deterministic" else (0.0,):
                near = draft.copy()
                near.rows.remove(name)
                near.rows.insert(place, name)
                near.shifts[name] = shift
                yield near

    def descend(self) -> Arrangement:
        """Move one variable at a time to its best place until none moves."""
        best = self.start()
        lowest = self.cost(best)
        for _ in range(6):
            before = lowest
            for name in [*self.single, *self.framewise]:
                for near in self._neighbours(best, name):
                    cost = self.cost(near)
                    if cost < lowest - 1e-9:
                        best, lowest = near, cost
            if lowest > before - 1e-9:
                break
        return best

    def bend(self, nodes: Array) -> tuple[list[float], Array]:
        """The bend of each link, which is straight where it can be; and its curve."""
        curves = _curves(nodes[self.ends[:, 0]], nodes[self.ends[:, 1]], 0.0)
        families: dict[tuple[str, str, int | None, str], list[int]] = {}
        for i, link in enumerate(self.links):
            # Arrows of a sequence-level variable go to different places: each is bent by itself.
            key = link.family if link.family[2] is not None else (*link.family[:2], i, link.role)
            families.setdefault(key, []).append(i)
        fine, coarse = np.linspace(0, 1, 41), np.linspace(0, 1, 11)
        bends = dict.fromkeys(families, 0.0)
        for _ in range(3):
            changed = False
            for family, members in families.items():
                others = np.setdiff1d(np.arange(len(self.links)), members)
                lines = bezier(curves[others], coarse)
                segments = np.stack([lines[:, :-1], lines[:, 1:]], axis=2).reshape(-1, 2, 2)
                starts, ends = nodes[self.ends[members, 0]], nodes[self.ends[members, 1]]
                costs: dict[float, float] = {}
                clear = False
                for bend in (*_BENDS, *_FINE_BENDS):
                    if clear and bend not in _BENDS:
                        break  # the coarse ones were enough
                    trial = _curves(starts, ends, bend)
                    line = bezier(trial, coarse)
                    own = np.stack([line[:, :-1], line[:, 1:]], axis=2).reshape(-1, 2, 2)
                    hits = _collisions(bezier(trial, fine), self.ends[members], nodes, self.radii, self.diamonds)
                    clear |= hits == 0
                    cost = (
                        400.0 * hits
                        + 0.3 * crossings(own, segments)
                        + len(members) * (2.0 * abs(bend) + 0.3 * (bend != 0))
                        + 4.0 * self._alongside(trial, members, curves, others)
                    )
                    costs[bend] = round(cost, 9)  # bends left and right of equal cost are so on every machine
                chosen = min(costs, key=lambda bend: (costs[bend], abs(bend)))
                changed |= chosen != bends[family]
                bends[family] = chosen
                curves[members] = _curves(starts, ends, chosen)
            if not changed:
                break
        of_link = {i: bends[family] for family, members in families.items() for i in members}
        return [of_link[i] for i in range(len(self.links))], curves

    def left_over(self, curves: Array, nodes: Array) -> float:
        """How much the arrows still run through nodes."""
        if not len(curves):
            return 0.0
        points = bezier(curves, np.linspace(0, 1, 101))
        return _collisions(points, self.ends, nodes, self.radii, self.diamonds, clearance=0.02)

    def _alongside(self, trial: Array, members: Sequence[int], curves: Array, others: Indices) -> float:
        """How much arrows leave or enter a node within a few degrees of another one there."""
        total = 0.0
        for side, towards in ((0, 1), (2, 1)):
            heading = trial[:, towards] - trial[:, side]
            angle = np.arctan2(heading[:, 1], heading[:, 0])
            node = self.ends[members, 0 if side == 0 else 1]
            for other_side in (0, 2):
                leaving = curves[others, 1] - curves[others, other_side]
                turn = np.arctan2(leaving[:, 1], leaving[:, 0])
                same = node[:, None] == self.ends[others, 0 if other_side == 0 else 1][None]
                between = np.abs(np.angle(np.exp(1j * (angle[:, None] - turn[None]))))
                total += float((same * np.clip(1 - between / 0.2, 0, None)).sum())
        return total


def settle(picture: Picture) -> Arrangement:
    """Decide where the nodes of a picture stand and how its arrows bend: the same each time for the same picture."""
    arranger = _Arranger(picture)
    best: tuple[float, Arrangement] | None = None
    for wariness in (6.0, 15.0, 40.0, 2.0):
        arranger.wariness = wariness
        draft = arranger.descend()
        nodes = arranger.points(draft)
        draft.bends, curves = arranger.bend(nodes)
        left = arranger.left_over(curves, nodes)
        if best is None or left < best[0]:
            best = left, draft
        if left == 0:
            break
    assert best is not None
    return best[1]


def arrange(picture: Picture) -> Layout:
    """Find places for the nodes of a picture and curves for its arrows."""
    return settle(picture).layout(picture)
