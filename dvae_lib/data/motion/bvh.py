"""Motion in Biovision's format BVH, which animation programs read and write: a skeleton, and its angles over time."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from dvae_lib.data.motion.acclaim import read_lines
from dvae_lib.data.motion.clips import decimate
from dvae_lib.data.motion.skeleton import Skeleton
from dvae_lib.files import write_atomically

__all__ = ["Bvh", "bvh_positions", "read_bvh", "write_bvh"]

END = " end"
"""What is put behind a joint's name to call the tip of its bone, which has no name in the file."""

_KINDS = {"position": "t", "rotation": "r"}
_CHANNELS = {f"{axis}{kind}": f"{letter}{axis}" for kind, letter in _KINDS.items() for axis in "xyz"}
_NAMES = {dof: f"{channel[0].upper()}{channel[1:]}" for channel, dof in _CHANNELS.items()}


class Bvh(NamedTuple):
    """What a BVH file holds.

    Attributes:
        skeleton: The tree; ends of limbs are joints too, called after the joint before with " end" behind.
        motion: Frames ``(T, skeleton.num_dof)`` in the file's units, for `Skeleton.positions`.
        seconds_per_frame: The file's frame time.
    """

    skeleton: Skeleton
    motion: NDArray[np.float64]
    seconds_per_frame: float

    @property
    def fps(self) -> float:
        """Frames per second; a whole number where the frame time, as rounded in the file, stands for one."""
        rate = 1 / self.seconds_per_frame
        # The rates of television, 30 / 1.001 and the like, are no whole numbers; 0.0333 is 30 with digits cut off.
        return float(round(rate)) if -5e-4 < rate / max(round(rate), 1) - 1 < 1.5e-3 else rate


def read_bvh(
    path: str | Path, *, metres_per_unit: float = 0.01, shifts: Literal["added", "instead"] = "instead"
) -> Bvh:
    """Read a BVH file: hierarchy, channels in any order, motion.

    The rotations of a joint are listed from the outermost to the innermost: ``Zrotation Xrotation Yrotation`` is the
    matrix :math:`R_z R_x R_y`. The position channels of the root are added to its offset.

    Arguments:
        path: File ``*.bvh``.
        metres_per_unit: What a length of 1 is in metres; the format does not say. 0.01 is centimetres.
        shifts: What position channels of other joints mean, where there are some: the vector from the parent "instead"
            of the joint's offset, as most programs write it, or what is "added" to it.

    Raises:
        ValueError: The file is damaged, cut short or of another format; the message names the file and the line.
    """
    if not 0 < metres_per_unit < np.inf:
        raise ValueError(f"metres_per_unit must be a positive number; got {metres_per_unit}")
    path = Path(path)
    lines = read_lines(path)
    start = next((k for k, line in enumerate(lines) if line.strip().upper() == "MOTION"), None)
    if start is None:
        raise ValueError(f"{path}:{max(len(lines), 1)}: there is no line MOTION; the file is cut short or no BVH file")
    skeleton = _Hierarchy(path, lines[:start]).skeleton(metres_per_unit, shifts)
    motion, seconds = _motion(path, lines, start, skeleton.num_dof)
    return Bvh(skeleton, motion, seconds)


class _Hierarchy:
    """One pass over the part of a file that describes the tree."""

    def __init__(self, path: Path, lines: Sequence[str]) -> None:
        self.path = path
        self.joints: list[str] = []
        self.parents: list[int] = []
        self.offsets: list[NDArray[np.float64] | None] = []
        self.channels: list[tuple[str, ...]] = []
        statements = list(_statements(lines))
        opened: list[int] = []
        expected = "HIERARCHY"
        for number, words in statements:
            first = words[0].upper()
            if expected in ("HIERARCHY", "{"):
                if words[0].upper() != expected:
                    raise self._error(number, f"expected {expected}, got {' '.join(words)!r}")
                expected = ""
            elif first == "}":
                if not opened:
                    raise self._error(number, "this } closes nothing")
                if self.offsets[opened[-1]] is None:
                    raise self._error(number, f"{self.joints[opened[-1]]!r} ends without OFFSET")
                opened.pop()
            elif first in ("ROOT", "JOINT", "END"):
                self._open(number, first, " ".join(words[1:]), opened)
                expected = "{"
            elif first == "OFFSET" and opened:
                self.offsets[opened[-1]] = self._offset(number, words[1:])
            elif first == "CHANNELS" and opened:
                self.channels[opened[-1]] = self._dof(number, words[1:])
            else:
                raise self._error(number, f"{' '.join(words)!r} is not expected here")
        if opened or not self.joints or expected:
            what = f"{self.joints[opened[-1]]!r} is not closed" if opened else "there is no joint"
            raise self._error(max(len(lines), 1), f"{what}: the file is cut short")

    def _error(self, line: int, message: str) -> ValueError:
        return ValueError(f"{self.path}:{line}: {message}")

    def _open(self, number: int, kind: str, name: str, opened: list[int]) -> None:
        """A new joint, below the one that is open."""
        if (kind == "ROOT") != (not opened) or (kind == "ROOT" and self.joints):
            where = "a second root" if kind == "ROOT" else f"{kind} {name} outside the root"
            raise self._error(number, f"{where}; expected one ROOT with all joints inside")
        if kind == "END":
            name = self.joints[opened[-1]] + END
            while name in self.joints:
                name += "'"
        if not name or name in self.joints:
            raise self._error(number, f"the joint name {name!r} is empty or used twice")
        self.parents.append(opened[-1] if opened else -1)
        opened.append(len(self.joints))
        self.joints.append(name)
        self.offsets.append(None)
        self.channels.append(())

    def _offset(self, number: int, words: list[str]) -> NDArray[np.float64]:
        try:
            values = np.array(words, dtype=np.float64)
        except ValueError:
            values = np.empty(0)
        if len(values) != 3 or not np.isfinite(values).all():
            raise self._error(number, f"OFFSET needs three finite numbers, got {' '.join(words)!r}")
        return values

    def _dof(self, number: int, words: list[str]) -> tuple[str, ...]:
        names = tuple(_CHANNELS.get(word.lower(), "") for word in words[1:])
        if not words or words[0] != str(len(names)) or "" in names or len(set(names)) < len(names):
            raise self._error(
                number,
                f"CHANNELS {' '.join(words)!r} should be a number and as many different names such as Xposition or "
                "Zrotation",
            )
        return names

    def skeleton(self, metres: float, shifts: Literal["added", "instead"]) -> Skeleton:
        count = len(self.joints)
        rotations = ("".join(dof[1] for dof in dofs if dof[0] == "r") for dofs in self.channels)
        return Skeleton(
            tuple(self.joints),
            tuple(self.parents),
            np.stack([offset for offset in self.offsets if offset is not None]) * metres,
            np.tile(np.eye(3), (count, 1, 1)),
            tuple(self.channels),
            tuple(order[::-1] for order in rotations),
            metres,
            degrees=True,
            turns="joint",
            shifts=shifts,
        )


def _statements(lines: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """What the lines say, with their numbers; a brace is a statement wherever it stands."""
    for number, line in enumerate(lines, start=1):
        for part in re.split(r"([{}])", line):
            if words := part.split():
                yield number, words


def _motion(path: Path, lines: list[str], start: int, width: int) -> tuple[NDArray[np.float64], float]:
    """The frames below the line MOTION, and the frame time."""
    numbered = [(k + 1, lines[k].split()) for k in range(start + 1, len(lines)) if lines[k].strip()]
    head: list[float] = []
    for name, (line, words) in zip(("Frames:", "Frame Time:"), numbered, strict=False):
        text = " ".join(words)
        found = re.fullmatch(rf"{name}\s*(\S+)", text, re.IGNORECASE)
        try:
            value = float(found[1]) if found else 0.0
        except ValueError:
            value = 0.0
        if not 0 < value < np.inf:
            raise ValueError(f"{path}:{line}: expected {name!r} and a positive number, got {text!r}")
        head.append(value)
    if len(head) < 2:
        raise ValueError(f"{path}:{len(lines)}: number of frames or frame time is missing: the file is cut short")
    rows = numbered[2:]
    for line, words in rows:
        if len(words) != width:
            raise ValueError(f"{path}:{line}: the frame has {len(words)} numbers, the channels are {width}")
    if len(rows) != head[0]:
        raise ValueError(
            f"{path}:{len(lines)}: {len(rows)} frames, but line {numbered[0][0]} says {head[0]:g}; the file is "
            "cut short or damaged"
        )
    return np.stack([_numbers(path, line, words) for line, words in rows]), head[1]


def _numbers(path: Path, line: int, words: list[str]) -> NDArray[np.float64]:
    try:
        values = np.array(words, dtype=np.float64)
    except ValueError:
        values = np.array([np.nan])
    if not np.isfinite(values).all():
        raise ValueError(f"{path}:{line}: the frame holds something that is not a finite number")
    return values


def write_bvh(
    path: str | Path, skeleton: Skeleton, motion: Float[np.ndarray, "time num_dof"], *, fps: float | int = 30
) -> None:
    """Write a motion as a BVH file.

    Shifts of joints other than the root are written as whole vectors from the parent, as most programs read them.

    Arguments:
        path: The file to be written.
        skeleton: As `read_bvh` or `rest_skeleton` gives it: rotations turn what comes after a joint.
        motion: Its frames, in its units; of joint positions `pose` makes them.
        fps: Frames per second.

    Raises:
        ValueError: A skeleton in Acclaim's convention; a motion of another size, of no frame, or not finite.
    """
    if skeleton.turns != "joint" or not skeleton.degrees or not np.allclose(skeleton.axes, np.eye(3)):
        raise ValueError(
            "this skeleton's rotations turn bones about axes of their own, which BVH cannot say: "
            "rest_skeleton(joints, parents, positions) and pose(...) make one that can be written"
        )
    if motion.ndim != 2 or motion.shape[1] != skeleton.num_dof or not len(motion) or not np.isfinite(motion).all():
        raise ValueError(
            f"expected finite frames (T, {skeleton.num_dof}) of this skeleton; got an array of shape {motion.shape}"
        )
    if not 0 < fps < np.inf:
        raise ValueError(f"fps must be a positive number, got {fps}")
    lines, order = ["HIERARCHY"], []

    def describe(joint: int, depth: int) -> None:
        order.append(joint)
        inside = [k for k, parent in enumerate(skeleton.parents) if parent == joint]
        dof, indent = skeleton.dof[joint], "  " * depth
        kind = "ROOT" if depth == 0 else "JOINT"
        tip = not dof and not inside and depth > 0
        lines.extend((f"{indent}End Site" if tip else f"{indent}{kind} {skeleton.joints[joint]}", f"{indent}{{"))
        offset = skeleton.offsets[joint] / skeleton.metres_per_unit
        lines.append(f"{indent}  OFFSET " + " ".join(f"{value:.6f}" for value in offset))
        if not tip:
            lines.append(" ".join([f"{indent}  CHANNELS {len(dof)}", *(_NAMES[name] for name in dof)]))
        for child in inside:
            describe(child, depth + 1)
        lines.append(f"{indent}}}")

    describe(0, 0)
    first = np.cumsum([0, *(len(dof) for dof in skeleton.dof)])
    columns = [first[joint] + k for joint in order for k in range(len(skeleton.dof[joint]))]
    lines += ["MOTION", f"Frames: {len(motion)}", f"Frame Time: {1 / fps:.7f}"]
    written = np.asarray(motion, dtype=np.float64) + _bones_of_shifts(skeleton)
    lines += [" ".join(f"{value:.6f}" for value in frame) for frame in written[:, columns]]
    write_atomically(path, ("\n".join(lines) + "\n").encode())


def _bones_of_shifts(skeleton: Skeleton) -> NDArray[np.float64]:
    """What each channel lacks to the whole vector from the parent, which BVH has where a joint is shifted."""
    bones = skeleton.offsets / skeleton.metres_per_unit
    return np.array(
        [
            bones[joint, "xyz".index(name[1])] if joint and name[0] == "t" and skeleton.shifts == "added" else 0.0
            for joint, dof in enumerate(skeleton.dof)
            for name in dof
        ]
    )


def bvh_positions(
    paths: Sequence[Path],
    *,
    fps: int | None = None,
    centre: bool = True,
    metres_per_unit: float = 0.01,
    shifts: Literal["added", "instead"] = "instead",
) -> list[NDArray[np.float64]]:
    """Joint positions in metres of several files with the same joints, each ``(T, 3 J)``.

    Arguments:
        paths: The files.
        fps: Frames per second wanted, a divisor of each file's; None keeps the files' own, which must be the same.
        centre: Count all joints from the root, which then stands in the origin.
        metres_per_unit: See `read_bvh`.
        shifts: See `read_bvh`.

    Raises:
        ValueError: See `read_bvh`; joints or frame rates that differ from file to file, which the message names.
    """
    clips = [read_bvh(path, metres_per_unit=metres_per_unit, shifts=shifts) for path in paths]
    first, found = clips[0], []
    for path, clip in zip(paths, clips, strict=True):
        for what, own, of_first in (
            ("joints", clip.skeleton.joints, first.skeleton.joints),
            ("bones between its joints", clip.skeleton.parents, first.skeleton.parents),
            *((("frames per second", clip.fps, first.fps),) if fps is None else ()),
        ):
            if own != of_first:
                raise ValueError(
                    f"{path} has other {what} than {paths[0]}; all files of a folder must agree"
                    + (f" ({own:g} and {of_first:g}): fps=... brings them to one rate" if what[0] == "f" else "")
                )
        positions = clip.skeleton.positions(clip.motion)
        if fps is not None:
            if clip.fps != round(clip.fps):
                raise ValueError(f"{path} has {clip.fps:.3f} frames per second; fps needs a whole number to divide")
            positions = decimate(positions, round(clip.fps), fps)
        if centre:
            positions = positions - positions[:, :1]
        found.append(positions.reshape(len(positions), -1))
    return found
