"""A tree of bones, and forward kinematics on it: from joint angles to joint positions in metres."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

__all__ = ["Skeleton", "rotation"]


@dataclass(frozen=True)
class Skeleton:
    r"""A tree of bones, and forward kinematics on it.

    Bone $j$ ends in joint $j$ and hangs on joint $p(j)$. With the bone's own axes $C_j$, the rotation $R_j$ that
    the motion gives it in these axes, and its vector $b_j$ at rest, the orientation and the position are

    .. math:: W_j = W_{p(j)}\, C_j R_j C_j^{-1}, \qquad y_j = y_{p(j)} + W_j\, b_j .

    So it is in Acclaim's files, where a joint's rotation turns the bone that ends in it. In others, such as BVH, it
    turns the bones that leave from it, and :math:`y_j = y_{p(j)} + W_{p(j)} b_j`.

    Attributes:
        joints: Names, parents before children; the first is the root.
        parents: Index of each joint's parent, -1 for the root.
        offsets: Vectors $b_j$ of the bones at rest in metres, ``(J, 3)``; for the root, its position at rest.
        axes: Matrices $C_j$, ``(J, 3, 3)``.
        dof: Degrees of freedom of each joint among ``tx ty tz rx ry rz``, in the order of the motion file.
        orders: Per joint, the axes in the order in which its rotations are applied (``"xyz"``: about x first).
        metres_per_unit: Length of the file's unit, for translations.
        degrees: Whether the motion's angles are in degrees.
        turns: What the rotation of a joint turns: the "bone" that ends in it, or what comes after the "joint".
        shifts: Whether a translation of a joint that is not the root is "added" to its bone at rest, or stands
            "instead" of it.
    """

    joints: tuple[str, ...]
    parents: tuple[int, ...]
    offsets: NDArray[np.float64]
    axes: NDArray[np.float64]
    dof: tuple[tuple[str, ...], ...]
    orders: tuple[str, ...]
    metres_per_unit: float
    degrees: bool = True
    turns: Literal["bone", "joint"] = "bone"
    shifts: Literal["added", "instead"] = "added"

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
            motion: Frames as `read_amc` returns them, in the file's units.

        Returns:
            Positions in metres, ``(T, J, 3)``; y points upwards in the CMU and HDM05 corpora.

        Raises:
            ValueError: The number of columns is not `num_dof`.
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
                turned = rotation(angles, self.orders[joint], degrees=self.degrees)
                local = self.axes[joint] @ turned @ self.axes[joint].T
            else:
                local = np.eye(3)
            orientation = local if parent < 0 else orientations[parent] @ local
            orientations.append(orientation)
            bone = np.tile(self.offsets[joint], (num_frames, 1))
            for axis, name in enumerate(("tx", "ty", "tz")):
                if name in values:
                    rest = 0.0 if parent >= 0 and self.shifts == "instead" else bone[:, axis]
                    bone[:, axis] = rest + self.metres_per_unit * values[name]
            if parent < 0:
                positions[:, joint] = bone
            else:
                turned = orientation if self.turns == "bone" else orientations[parent]
                positions[:, joint] = positions[:, parent] + (turned @ bone[..., None])[..., 0]
        return positions


def rotation(angles: dict[str, NDArray[np.float64]], order: str, *, degrees: bool) -> NDArray[np.float64]:
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
