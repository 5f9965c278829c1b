"""Skeletons and motions in Acclaim's formats ASF and AMC: what CMU and HDM05 come in."""

import codecs
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dvae_lib.data.motion.skeleton import Skeleton, rotation

__all__ = ["read_amc", "read_asf"]


METRES_PER_INCH = 0.0254


_DOF = ("tx", "ty", "tz", "rx", "ry", "rz")


def read_asf(path: str | Path, *, metres_per_unit: float | None = None) -> Skeleton:
    """Read a skeleton in Acclaim's ASF format.

    A length l of a file that says ``length s`` is l / s inches, that is l / s * 0.0254 metres.

    Arguments:
        path: File ``*.asf``.
        metres_per_unit: What a length of 1 is in metres, for files of programs that mean another unit (0.01 for
            centimetres); None goes by what the file says.

    Returns:
        The skeleton; joints in the file's order, the root first.

    Raises:
        ValueError: The file is not a complete ASF file; the message names the file and the line.
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
        for number, line in enumerate(read_lines(path), start=1):
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
        turned = rotation(dict(zip("xyz", angles[:, None], strict=True)), order, degrees=degrees)
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
        path: File ``*.amc``.
        skeleton: Of the same person, see `read_asf`.

    Returns:
        Frames ``(T, skeleton.num_dof)`` in the skeleton's order and the file's units, for `Skeleton.positions`.

    Raises:
        ValueError: The file is cut short, misses or repeats a frame, names a bone that the skeleton lacks, or
            holds something that is not a finite number; the message names the file and the line.
    """
    path = Path(path)
    lines = read_lines(path)
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


def read_lines(path: Path) -> list[str]:
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
