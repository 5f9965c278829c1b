"""From joint positions back to angles: what a model of positions has made, as a motion that other programs play."""

import warnings
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from dvae_lib.data.motion.skeleton import Skeleton

__all__ = ["pose", "rest_skeleton"]

_PREFERENCE = 1e-8
"""Weight of the parent's orientation beside the bones: it decides what these leave open, and moves them by no more."""


def rest_skeleton(
    joints: Sequence[str],
    parents: Sequence[int],
    positions: Float[np.ndarray, "time joints 3"],
    *,
    metres_per_unit: float = 0.01,
) -> Skeleton:
    """A skeleton of which only joint positions are known, such as `MOCAP_JOINTS` with `MOCAP_PARENTS`.

    At rest its bones point as in the first frame in which they have a length, with their mean lengths over all frames.
    The root has six degrees of
    freedom, each joint with bones after it three.

    Arguments:
        joints: Names, parents before children, the root first.
        parents: Index of each joint's parent, -1 for the root.
        positions: Joint positions in metres.
        metres_per_unit: Of the files to be written.

    Raises:
        ValueError: Numbers of joints that differ, children before parents, or positions that are not finite.
    """
    count = len(joints)
    ordered = bool(parents) and parents[0] == -1 and all(0 <= p < k for k, p in enumerate(parents) if k)
    if len(parents) != count or positions.shape[1:] != (count, 3) or not len(positions) or not ordered:
        raise ValueError(
            f"expected positions (T, {count}, 3) and a parent for each of {count} joints, -1 first and parents before "
            f"children; got shape {positions.shape} and parents {tuple(parents)}"
        )
    _check_finite(positions)
    bones = positions[:, 1:] - positions[:, list(parents[1:])]
    lengths = np.linalg.norm(bones, axis=-1)
    seen = (lengths > 1e-9).argmax(0), np.arange(count - 1)
    directions = bones[seen] / np.maximum(lengths[seen], 1e-12)[:, None]
    offsets = np.concatenate([np.zeros((1, 3)), directions * lengths.mean(0)[:, None]])
    turning = ("rz", "rx", "ry")
    dof: list[tuple[str, ...]] = [turning if k in parents else () for k in range(count)]
    dof[0] = ("tx", "ty", "tz", *turning)
    axes = np.tile(np.eye(3), (count, 1, 1))
    orders = tuple("yxz" if d else "" for d in dof)
    return Skeleton(
        tuple(joints), tuple(parents), offsets, axes, tuple(dof), orders, metres_per_unit, degrees=True, turns="joint"
    )


def pose(skeleton: Skeleton, positions: Float[np.ndarray, "time joints 3"]) -> NDArray[np.float64]:
    r"""The angles that bring a skeleton's joints to given positions.

    The orientation :math:`W_j` of joint j minimises :math:`\sum_c \|\mathbf{y}_c - \mathbf{y}_j - W_j
    \mathbf{b}_c\|^2` over the joints c that hang on it (Kabsch, 1976: from a singular value decomposition). What this
    leaves open, the twist about a single bone, is taken from the parent. Lengths are the skeleton's: positions that
    have its bone lengths are met exactly, others as nearly as each joint's rotation allows.

    Arguments:
        skeleton: Of which each joint with others after it has all three rotations.
        positions: In metres, for each joint of the skeleton.

    Returns:
        Frames ``(T, skeleton.num_dof)``, for `Skeleton.positions` and `write_bvh`. Two triples of angles turn alike,
        and so do all whole turns more: in each frame stand those nearest to the frame before, so that they do not jump.

    Raises:
        ValueError: Other numbers of joints; positions that are not finite; a joint that cannot turn freely, or can be
            shifted; a root that moves and has no channels for it; bones that turn with the joint they end in
            (Acclaim's convention).
    """
    from scipy.spatial.transform import Rotation

    count = len(skeleton.joints)
    if positions.ndim != 3 or positions.shape[1:] != (count, 3):
        raise ValueError(f"expected positions (T, {count}, 3) of this skeleton, got shape {positions.shape}")
    _check_finite(positions)
    still = [k for k, name in enumerate(("tx", "ty", "tz")) if name not in skeleton.dof[0]]
    if np.ptp(positions[:, 0, still], axis=0).max(initial=0) > 1e-6:
        raise ValueError(
            f"the root {skeleton.joints[0]!r} moves, but has no channels for its position along "
            f"{', '.join('xyz'[k] for k in still)}; subtract its way from all joints, or pose the skeleton of "
            "rest_skeleton"
        )
    inside = [[k for k, parent in enumerate(skeleton.parents) if parent == joint] for joint in range(count)]
    for joint, name in enumerate(skeleton.joints):
        rotations = sum(dof[0] == "r" for dof in skeleton.dof[joint])
        free = rotations == 3 or (not inside[joint] and rotations == 0)
        if skeleton.turns != "joint" or not free or (joint and len(skeleton.dof[joint]) > rotations):
            raise ValueError(
                f"joint {name!r} must turn the bones after it freely, and have a fixed place on its parent; "
                "rest_skeleton makes such a skeleton of positions"
            )
    orientations: list[NDArray[np.float64]] = []
    columns: list[NDArray[np.float64]] = []
    for joint, (parent, dof) in enumerate(zip(skeleton.parents, skeleton.dof, strict=True)):
        above = orientations[parent] if parent >= 0 else np.tile(np.eye(3), (len(positions), 1, 1))
        aligned = above
        if inside[joint]:
            seen = positions[:, inside[joint]] - positions[:, [joint]]
            aligned = _aligned(skeleton.offsets[inside[joint]], seen, above)
        orientations.append(aligned)
        if not dof:
            continue
        with warnings.catch_warnings():  # in gimbal lock two angles turn alike, and any pair of them will do
            warnings.simplefilter("ignore", UserWarning)
            turned = Rotation.from_matrix(above.transpose(0, 2, 1) @ aligned)
            angles = _running_on(turned.as_euler(skeleton.orders[joint]))
        values = dict(zip((f"r{axis}" for axis in skeleton.orders[joint]), angles.T, strict=True))
        values = {name: np.rad2deg(v) if skeleton.degrees else v for name, v in values.items()}
        shift = (positions[:, joint] - skeleton.offsets[joint]) / skeleton.metres_per_unit
        values |= dict(zip(("tx", "ty", "tz"), shift.T, strict=True))
        columns += [values[name] for name in dof]
    return np.stack(columns, axis=1)


def _check_finite(positions: NDArray[np.float64]) -> None:
    wrong = np.argwhere(~np.isfinite(positions))
    if len(wrong):
        frame, joint, _ = wrong[0]
        raise ValueError(
            f"positions must be finite; those of joint {joint} are not in frame {frame}. Interpolate, or leave such "
            "frames out"
        )


def _running_on(angles: Float[np.ndarray, "time 3"]) -> NDArray[np.float64]:
    """Angles about three different axes, or the others that turn alike, frame by frame nearest to the frame before."""
    other = np.pi + angles * (1, -1, 1)

    def apart(now: NDArray[np.float64]) -> NDArray[np.float64]:
        steps = np.remainder(now[1:] - angles[:-1] + np.pi, 2 * np.pi) - np.pi
        return np.asarray(np.abs(steps).sum(-1))

    # From others to others it is as far as from these to these, so that each frame tells by itself whether to change.
    changes = np.cumsum(apart(other) < apart(angles))
    taken = np.concatenate([[False], changes % 2 == 1])
    return np.unwrap(np.where(taken[:, None], other, angles), axis=0)


def _aligned(
    rest: Float[np.ndarray, "bones 3"], seen: Float[np.ndarray, "time bones 3"], above: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The rotations that turn vectors at rest into those seen, as well as one rotation can."""
    size = max(float(np.square(rest).sum()), 1e-12)
    left, _, right = np.linalg.svd(np.einsum("tbi,bj->tij", seen, rest) + _PREFERENCE * size * above)
    mirrored = np.linalg.det(left @ right) < 0
    left[mirrored, :, 2] *= -1
    rotations: NDArray[np.float64] = left @ right
    return rotations
