"""Motions as exponential maps, one text file a take: what Human3.6M is passed on in."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from dvae_lib.data.motion.acclaim import read_lines

__all__ = ["H36M_JOINTS", "H36M_PARENTS", "expmap_to_positions", "read_expmap"]


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
        path: File such as ``S1/walking_1.txt``.

    Returns:
        Frames ``(T, 99)``.

    Raises:
        ValueError: A line does not hold 99 finite numbers; the message names the file and the line.
    """
    path = Path(path)
    lines = read_lines(path)
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
        frames: As `read_expmap` returns them.

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
