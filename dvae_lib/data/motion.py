"""Motion capture: from ASF/AMC and exponential-map files to joint positions in metres.

A motion file holds joint *angles*; a model of motion wants joint *positions*. Forward kinematics leads from the
ones to the others: it walks from the root to the hands and feet and turns each bone with all the bones above it.
Every clip becomes an array ``(T, 3 * num_joints)``, the coordinates of one joint after the other.
"""

import codecs
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

__all__ = [
    "H36M_JOINTS",
    "H36M_PARENTS",
    "Skeleton",
    "expmap_to_positions",
    "read_amc",
    "read_asf",
    "read_expmap",
]

METRES_PER_INCH = 0.0254
_DOF = ("tx", "ty", "tz", "rx", "ry", "rz")


@dataclass(frozen=True)
class Skeleton:
    r"""A tree of bones, and forward kinematics on it.

    Bone $j$ ends in joint $j$ and hangs on joint $p(j)$. With the bone's own axes $C_j$, the rotation $R_j$ that
    the motion gives it in these axes, and its vector $b_j$ at rest, the orientation and the position are

    .. math:: W_j = W_{p(j)}\, C_j R_j C_j^{-1}, \qquad y_j = y_{p(j)} + W_j\, b_j .

    Attributes:
        joints: names, parents before children; the first is the root.
        parents: index of each joint's parent, -1 for the root.
        offsets: vectors $b_j$ of the bones at rest in metres, ``(J, 3)``; for the root, its position at rest.
        axes: matrices $C_j$, ``(J, 3, 3)``.
        dof: degrees of freedom of each joint among ``tx ty tz rx ry rz``, in the order of the motion file.
        orders: per joint, the axes in the order in which its rotations are applied (``"xyz"``: about x first).
        metres_per_unit: length of the file's unit, for translations.
        degrees: whether the motion's angles are in degrees.
    """

    joints: tuple[str, ...]
    parents: tuple[int, ...]
    offsets: NDArray[np.float64]
    axes: NDArray[np.float64]
    dof: tuple[tuple[str, ...], ...]
    orders: tuple[str, ...]
    metres_per_unit: float
    degrees: bool = True

    @property
    def num_dof(self) -> int:
        """Number of values in a frame of motion."""
        return sum(len(dof) for dof in self.dof)

    @property
    def edges(self) -> list[tuple[int, int]]:
        """Pairs (parent, joint), one for each bone."""
        return [(parent, joint) for joint, parent in enumerate(self.parents) if parent >= 0]

    @property
    def bone_lengths(self) -> NDArray[np.float64]:
        """Lengths of the bones in metres, in the order of `edges`."""
        lengths: NDArray[np.float64] = np.linalg.norm(self.offsets[[joint for _, joint in self.edges]], axis=-1)
        return lengths

    def positions(self, motion: Float[np.ndarray, "time num_dof"]) -> NDArray[np.float64]:
        """Compute joint positions by forward kinematics, for all frames at once.

        Arguments:
            motion: frames as `read_amc` returns them, in the file's units.

        Returns:
            Positions in metres, ``(T, J, 3)``; y points upwards in the CMU and HDM05 corpora.

        Raises:
            ValueError: the number of columns is not `num_dof`.
        """
        if motion.shape[1] != self.num_dof:
            raise ValueError(
                f"a frame of this skeleton has {self.num_dof} values, the motion has {motion.shape[1]}; "
                "read both files of one recording"
            )
        num_frames, column = len(motion), 0
        orientations: list[NDArray[np.float64]] = []
        positions = np.empty((num_frames, len(self.joints), 3))
        for joint, (parent, dof) in enumerate(zip(self.parents, self.dof, strict=True)):
            values = {name: motion[:, column + k] for k, name in enumerate(dof)}
            column += len(dof)
            angles = {name[1]: v for name, v in values.items() if name[0] == "r"}
            if angles:
                turned = _rotation(angles, self.orders[joint], degrees=self.degrees)
                local = self.axes[joint] @ turned @ self.axes[joint].T
            else:
                local = np.eye(3)
            orientation = local if parent < 0 else orientations[parent] @ local
            orientations.append(orientation)
            if parent < 0:
                shift = np.zeros((num_frames, 3))
                for axis, name in enumerate(("tx", "ty", "tz")):
                    shift[:, axis] = values.get(name, 0.0)
                positions[:, joint] = self.offsets[joint] + self.metres_per_unit * shift
            else:
                positions[:, joint] = positions[:, parent] + orientation @ self.offsets[joint]
        return positions


def _rotation(angles: dict[str, NDArray[np.float64]], order: str, *, degrees: bool) -> NDArray[np.float64]:
    """Rotation matrices ``(T, 3, 3)``, the product of those about single axes; the first in `order` acts first."""
    product: NDArray[np.float64] | None = None
    for name in order:
        if name not in angles:
            continue
        angle = np.deg2rad(angles[name]) if degrees else angles[name]
        first, second = [k for k in range(3) if k != "xyz".index(name)]
        if name == "y":  # so that each rotation is the right-handed one about its axis
            first, second = second, first
        single = np.zeros((*angle.shape, 3, 3))
        single[..., "xyz".index(name), "xyz".index(name)] = 1.0
        single[..., first, first] = single[..., second, second] = np.cos(angle)
        single[..., second, first] = np.sin(angle)
        single[..., first, second] = -single[..., second, first]
        product = single if product is None else single @ product
    if product is None:
        raise ValueError(f"no angle about any axis of {order!r}")
    return product


# ---------------------------------------------------------------------------------------------------------- ASF/AMC


def read_asf(path: str | Path, *, metres_per_unit: float | None = None) -> Skeleton:
    """Read a skeleton in Acclaim's ASF format.

    A length l of a file that says ``length s`` is l / s inches, that is l / s * 0.0254 metres.

    Arguments:
        path: file ``*.asf``.
        metres_per_unit: what a length of 1 is in metres, for files of programs that mean another unit (0.01 for
            centimetres); None goes by what the file says.

    Returns:
        The skeleton; joints in the file's order, the root first.

    Raises:
        ValueError: the file is not a complete ASF file; the message names the file and the line.
    """
    if metres_per_unit is not None and not 0 < metres_per_unit < np.inf:
        raise ValueError(f"metres_per_unit must be a positive number; got {metres_per_unit}")
    return _AsfReader(Path(path), metres_per_unit).skeleton()


class _AsfReader:
    """One pass over the sections of an ASF file."""

    def __init__(self, path: Path, metres_per_unit: float | None) -> None:
        self.path, self.metres_per_unit = path, metres_per_unit
        self.units: dict[str, str] = {}
        self.root: dict[str, list[str]] = {}
        self.bones: dict[str, dict[str, list[str]]] = {}
        self.parents: dict[str, str] = {}
        section = ""
        bone: dict[str, list[str]] | None = None
        for number, line in enumerate(_lines(path), start=1):
            words = line.split()
            if not words or words[0].startswith("#"):
                continue
            if words[0].lower() in ("begin", "end"):
                words[0] = words[0].lower()
            if words[0].startswith(":"):
                section = words[0][1:].lower()
            elif section == "units":
                self.units[words[0].lower()] = words[-1].lower()
            elif section == "root":
                self.root[words[0].lower()] = [word.lower() for word in words[1:]]
            elif section == "bonedata":
                if words[0] == "begin":
                    bone = {"line": [str(number)]}
                elif bone is None:
                    raise self._error(number, f"{words[0]!r} stands outside a bone's begin ... end")
                elif words[0] == "end":
                    name = bone.get("name", [""])[0]
                    if not name or name in self.bones or name == "root":
                        raise self._error(number, f"bone name {name!r} is empty or used twice")
                    self.bones[name], bone = bone, None
                elif not words[0].startswith("("):  # further lines of `limits`
                    bone[words[0].lower()] = words[1:]
            elif section == "hierarchy" and words[0] not in ("begin", "end"):
                for child in words[1:]:
                    for name in (words[0], child):
                        if name != "root" and name not in self.bones:
                            raise self._error(number, f"bone {name!r} of the hierarchy is not in :bonedata")
                    if child in self.parents:
                        raise self._error(number, f"bone {child!r} has two parents")
                    self.parents[child] = words[0]
        if bone is not None:
            raise self._error(int(bone["line"][0]), "this bone's block has no end: the file is cut short")
        if not self.root or not self.bones or not self.parents:
            raise ValueError(
                f"{path}: no complete ASF skeleton (:root, :bonedata and :hierarchy are needed); "
                "the file is cut short or of another format"
            )

    def _error(self, line: int, message: str) -> ValueError:
        return ValueError(f"{self.path}:{line}: {message}")

    def _numbers(self, block: dict[str, list[str]], key: str, count: int) -> NDArray[np.float64]:
        words = block.get(key, [])[:count]
        line = int(block.get("line", ["1"])[0])
        try:
            values = np.array(words, dtype=np.float64)
        except ValueError:
            raise self._error(line, f"{key!r} should hold {count} numbers, got {words}") from None
        if len(values) != count or not np.isfinite(values).all():
            raise self._error(line, f"{key!r} should hold {count} finite numbers, got {words}")
        return values

    def _unit(self) -> float:
        """How many of the file's units an inch has."""
        text = self.units.get("length", "1")
        try:
            unit = float(text)
        except ValueError:
            unit = 0.0
        if not 0 < unit < np.inf:
            raise ValueError(
                f"{self.path}: the unit of length is {text!r}; expected a positive number, or say metres_per_unit"
            )
        return unit

    def skeleton(self) -> Skeleton:
        """Put the tree in order, parents first, and convert to metres."""
        degrees = self.units.get("angle", "deg").startswith("deg")
        metres = self.metres_per_unit or METRES_PER_INCH / self._unit()
        root_dof = tuple(word for word in self.root["order"] if word in _DOF)
        root_order = self.root.get("axis", ["xyz"])[0]
        root_axes = self._axes(self._numbers(self.root, "orientation", 3), root_order, degrees)
        joints, parents, dofs, orders = ["root"], [-1], [root_dof], [root_order]
        offsets, axes = [self._numbers(self.root, "position", 3) * metres], [root_axes]
        for name, bone in self._parents_first():
            line = int(bone["line"][0])
            dof = tuple(word.lower() for word in bone.get("dof", []))
            order = bone.get("axis", ["0", "0", "0", "xyz"])[-1].lower()
            if sorted(order) != ["x", "y", "z"] or not all(d in _DOF[3:] for d in dof):
                raise self._error(
                    line,
                    f"bone {name!r} has axis order {order!r} and dof {list(dof)}; "
                    "expected an order such as XYZ and rotations rx, ry, rz",
                )
            joints.append(name)
            parents.append(joints.index(self.parents[name]))
            dofs.append(dof)
            orders.append(order)
            length = self._numbers(bone, "length", 1)
            offsets.append(self._numbers(bone, "direction", 3) * length * metres)
            axes.append(self._axes(self._numbers(bone, "axis", 3), order, degrees))
        return Skeleton(
            tuple(joints),
            tuple(parents),
            np.stack(offsets),
            np.stack(axes),
            tuple(dofs),
            tuple(orders),
            metres,
            degrees,
        )

    @staticmethod
    def _axes(angles: NDArray[np.float64], order: str, degrees: bool) -> NDArray[np.float64]:
        turned = _rotation(dict(zip("xyz", angles[:, None], strict=True)), order, degrees=degrees)
        matrix: NDArray[np.float64] = turned[0]
        return matrix

    def _parents_first(self) -> list[tuple[str, dict[str, list[str]]]]:
        placed, rest, ordered = {"root"}, dict(self.bones), []
        while rest:
            name = next((n for n in rest if self.parents.get(n) in placed), None)
            if name is None:
                lost = next(iter(rest))
                raise self._error(int(rest[lost]["line"][0]), f"bone {lost!r} does not hang on the root")
            placed.add(name)
            ordered.append((name, rest.pop(name)))
        return ordered


def read_amc(path: str | Path, skeleton: Skeleton) -> NDArray[np.float64]:
    """Read a motion in Acclaim's AMC format.

    Arguments:
        path: file ``*.amc``.
        skeleton: of the same person, see `read_asf`.

    Returns:
        Frames ``(T, skeleton.num_dof)`` in the skeleton's order and the file's units, for `Skeleton.positions`.

    Raises:
        ValueError: the file is cut short, misses or repeats a frame, names a bone that the skeleton lacks, or
            holds something that is not a finite number; the message names the file and the line.
    """
    path = Path(path)
    lines = _lines(path)
    start = next((k for k, line in enumerate(lines) if line.strip().isdigit()), None)
    if start is None:
        raise ValueError(f"{path}:{max(len(lines), 1)}: no frame in this file; the first would begin with a line '1'")
    header = " ".join(lines[:start]).upper()
    motion = _read_regular(lines[start:], skeleton)
    if motion is None:
        motion = _read_line_by_line(path, lines, start, skeleton)
    if ":RADIANS" in header and skeleton.degrees:
        motion[:, _angle_columns(skeleton)] *= 180 / np.pi
    elif ":DEGREES" in header and not skeleton.degrees:
        motion[:, _angle_columns(skeleton)] *= np.pi / 180
    return motion


def _lines(path: Path) -> list[str]:
    """The lines of a text file of an encoding that nobody has noted, without a mark of UTF-8 at its beginning."""
    return path.read_bytes().removeprefix(codecs.BOM_UTF8).decode("latin-1").splitlines()


def _angle_columns(skeleton: Skeleton) -> NDArray[np.bool_]:
    return np.array([name[0] == "r" for dof in skeleton.dof for name in dof])


def _read_regular(lines: list[str], skeleton: Skeleton) -> NDArray[np.float64] | None:
    """All frames at once where each is laid out like the first one, else None. Several times as fast as by lines."""
    dof = {joint: len(d) for joint, d in zip(skeleton.joints, skeleton.dof, strict=True) if d}
    names = [line.split(maxsplit=1)[0] for line in lines[1 : 1 + len(dof)] if line.strip()]
    if sorted(names) != sorted(dof):
        return None
    width = 1 + sum(1 + dof[name] for name in names)
    words = " ".join(lines).split()
    if len(words) % width:
        return None
    table = np.array(words, dtype=object).reshape(-1, width)
    name_columns = np.cumsum([1, *(1 + dof[name] for name in names[:-1])])
    if not (table[:, name_columns] == np.array(names, dtype=object)).all():
        return None
    try:
        numbers = np.delete(table, name_columns, axis=1).astype(np.float64)
    except ValueError:
        return None
    if not np.isfinite(numbers).all() or (np.diff(numbers[:, 0]) != 1).any():
        return None
    first = dict(zip(names, np.cumsum([1, *(dof[name] for name in names[:-1])]), strict=True))
    return numbers[:, [first[name] + k for name in dof for k in range(dof[name])]]


def _read_line_by_line(path: Path, lines: list[str], start: int, skeleton: Skeleton) -> NDArray[np.float64]:
    """Frame after frame, bones in any order; says where the file goes wrong."""
    dof = {joint: len(d) for joint, d in zip(skeleton.joints, skeleton.dof, strict=True) if d}
    spelling = {name.lower(): name for name in dof}
    frames: list[NDArray[np.float64]] = []
    frame: dict[str, NDArray[np.float64]] = {}
    frame_number: int | None = None

    def close(line: int) -> None:
        missing = [name for name in dof if name not in frame]
        if missing:
            raise ValueError(
                f"{path}:{line}: frame {frame_number} ends after {len(frame)} of {len(dof)} bones, without "
                f"{', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}; the file is cut short or damaged"
            )
        frames.append(np.concatenate([frame[name] for name in dof]))

    for number, line in enumerate(lines[start:], start=start + 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) == 1 and words[0].isdigit():
            if frame_number is not None:
                close(number - 1)
                if int(words[0]) != frame_number + 1:
                    raise ValueError(
                        f"{path}:{number}: frame {words[0]} follows frame {frame_number}; expected "
                        f"{frame_number + 1}: frames are missing or out of order"
                    )
            frame, frame_number = {}, int(words[0])
            continue
        name, values = spelling.get(words[0].lower(), words[0]), words[1:]
        if name not in dof:
            raise ValueError(
                f"{path}:{number}: bone {name!r} is not one that moves in the skeleton ({', '.join(dof)}); "
                "read the .asf file of the same person"
            )
        if name in frame:
            raise ValueError(f"{path}:{number}: bone {name!r} comes twice in frame {frame_number}")
        try:
            numbers = np.array(values, dtype=np.float64)
        except ValueError:
            numbers = np.full(0, np.nan)
        if len(numbers) != dof[name] or not np.isfinite(numbers).all():
            raise ValueError(
                f"{path}:{number}: bone {name!r} needs {dof[name]} finite numbers, the line has {' '.join(values)!r}"
            )
        frame[name] = numbers
    close(len(lines))
    return np.stack(frames)


# ------------------------------------------------------------------------------------------------- exponential maps

# Joint, index of its parent, and the bone between them at rest: along which axis, and how long in millimetres.
_H36M = (
    ("hips", -1, "y", 0.0), ("right_up_leg", 0, "x", -132.948591),
    ("right_leg", 1, "y", -442.894612), ("right_foot", 2, "y", -454.206447),
    ("right_toe_base", 3, "z", 162.767078), ("right_toe_end", 4, "z", 74.999437),
    ("left_up_leg", 0, "x", 132.948826), ("left_leg", 6, "y", -442.894413),
    ("left_foot", 7, "y", -454.20659), ("left_toe_base", 8, "z", 162.767426),
    ("left_toe_end", 9, "z", 74.999948), ("spine", 0, "y", 0.1),
    ("spine1", 11, "y", 233.383263), ("neck", 12, "y", 257.077681),
    ("head", 13, "y", 121.134938), ("head_top", 14, "y", 115.002227),
    ("left_shoulder", 12, "y", 257.077681), ("left_arm", 16, "y", 151.034226),
    ("left_fore_arm", 17, "y", 278.882773), ("left_hand", 18, "y", 251.733451),
    ("left_hand_thumb", 19, "y", 0.0), ("left_thumb_end", 20, "z", 99.999627),
    ("left_wrist_end", 19, "y", 100.000188), ("left_wrist_tip", 22, "y", 0.0),
    ("right_shoulder", 12, "y", 257.077681), ("right_arm", 24, "y", 151.031437),
    ("right_fore_arm", 25, "y", 278.892924), ("right_hand", 26, "y", 251.72868),
    ("right_hand_thumb", 27, "y", 0.0), ("right_thumb_end", 28, "z", 99.999888),
    ("right_wrist_end", 27, "y", 137.499922), ("right_wrist_tip", 30, "y", 0.0),
)  # fmt: skip
H36M_JOINTS: tuple[str, ...] = tuple(row[0] for row in _H36M)
"""The 32 joints of Human3.6M."""

H36M_PARENTS: tuple[int, ...] = tuple(row[1] for row in _H36M)
"""Index of each joint's parent, -1 for the root."""


def _h36m_offsets() -> NDArray[np.float64]:
    """Bones of Human3.6M at rest in metres, (32, 3): those of subject 1, which the field uses for all subjects."""
    offsets = np.zeros((len(_H36M), 3))
    for joint, (_, _, axis, millimetres) in enumerate(_H36M):
        offsets[joint, "xyz".index(axis)] = millimetres / 1000
    return offsets


def read_expmap(path: str | Path) -> NDArray[np.float64]:
    """Read a text file of exponential maps: one frame a line, 99 numbers separated by commas or blanks.

    Columns 0-2 are the root's translation in millimetres, columns 3-98 the rotations of 32 joints as exponential
    maps (axis times angle in radians).

    Arguments:
        path: file such as ``S1/walking_1.txt``.

    Returns:
        Frames ``(T, 99)``.

    Raises:
        ValueError: a line does not hold 99 finite numbers; the message names the file and the line.
    """
    path = Path(path)
    lines = _lines(path)
    rows = {
        number: line.split(",") if "," in line else line.split()
        for number, line in enumerate(lines, start=1)
        if line.strip()
    }
    for number, row in rows.items():
        if len(row) != 99:
            raise ValueError(f"{path}:{number}: expected 99 numbers separated by commas or blanks, got {len(row)}")
    if not rows:
        raise ValueError(f"{path}:1: no frame in this file")
    if _all_finite(rows.values()):
        return np.array(list(rows.values()), dtype=np.float64)
    number = next(number for number, row in rows.items() if not _all_finite([row]))
    raise ValueError(f"{path}:{number}: not all of the 99 values are finite numbers")


def _all_finite(rows: Iterable[list[str]]) -> bool:
    try:
        return bool(np.isfinite(np.array(list(rows), dtype=np.float64)).all())
    except ValueError:
        return False


def expmap_to_positions(frames: Float[np.ndarray, "time 99"]) -> NDArray[np.float64]:
    r"""Compute the positions of the 32 joints of Human3.6M from exponential maps.

    The files turn row vectors: with $R_j = \exp([r_j]_\times)$, $W_j = R_j W_{p(j)}$ and
    $y_j = y_{p(j)} + b_j W_{p(j)}$. A joint's own rotation moves the bones below it, not the bone that ends in it.

    Arguments:
        frames: as `read_expmap` returns them.

    Returns:
        Positions in metres, ``(T, 32, 3)``.
    """
    rotations = _exponential_map(frames[:, 3:].reshape(len(frames), 32, 3))
    offsets = _h36m_offsets()
    positions = np.empty((len(frames), 32, 3))
    orientations: list[NDArray[np.float64]] = []
    for joint, parent in enumerate(H36M_PARENTS):
        if parent < 0:
            positions[:, joint] = frames[:, :3] / 1000
            orientations.append(rotations[:, joint])
        else:
            positions[:, joint] = positions[:, parent] + offsets[joint] @ orientations[parent]
            orientations.append(rotations[:, joint] @ orientations[parent])
    return positions


def _exponential_map(r: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rodrigues' formula, stable at zero: sin(a)/a and (1 - cos a)/a^2 through sinc."""
    angle = np.linalg.norm(r, axis=-1)[..., None, None]
    cross = np.zeros((*r.shape[:-1], 3, 3))
    for i, j, k in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        cross[..., i, j], cross[..., j, i] = -r[..., k], r[..., k]
    half: NDArray[np.float64] = np.sinc(angle / (2 * np.pi))
    rotation: NDArray[np.float64] = np.eye(3) + np.sinc(angle / np.pi) * cross + 0.5 * half**2 * (cross @ cross)
    return rotation
