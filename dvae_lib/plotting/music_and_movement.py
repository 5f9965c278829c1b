"""Piano rolls, and stick figures that stand or move."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.image import AxesImage

from dvae_lib.plotting.arrays import ArrayLike, as_array
from dvae_lib.plotting.style import COLOURS
from dvae_lib.resources import resource_path

if TYPE_CHECKING:
    from IPython.display import HTML

__all__ = ["animate_skeletons", "plot_piano_roll", "plot_skeleton"]


def plot_piano_roll(
    ax: Axes,
    roll: ArrayLike,
    *,
    lowest_key: int = 21,
    keys: tuple[int, int] | None = None,
    start: float = 0.0,
    title: str | None = None,
) -> AxesImage:
    """Draw a piano roll: time to the right, pitch upwards, dark where a key sounds.

    Arguments:
        ax: Where to draw.
        roll: ``(T, keys)``, zeros and ones, or probabilities, which are drawn in shades.
        lowest_key: MIDI number of the first column.
        keys: Lowest and highest MIDI number shown; by default those that sound, and one more on either side.
        start: The time of the first step, for pieces that continue another.
        title: Written above the picture.

    Returns:
        The image.

    Raises:
        ValueError: If ``roll`` is not two-dimensional or leaves [0, 1].
    """
    values = as_array(roll)
    if values.ndim != 2 or 0 in values.shape or values.min() < 0 or values.max() > 1:
        raise ValueError(f"roll must be (steps, keys) with values in [0, 1]; its shape is {tuple(values.shape)}")
    sounding = np.flatnonzero(values.max(axis=0) > 0.05) + lowest_key
    if keys is None:
        keys = (int(sounding.min()) - 1, int(sounding.max()) + 1) if sounding.size else (lowest_key, lowest_key + 12)
    image = ax.imshow(
        values.T,
        cmap="Greys",
        vmin=0,
        vmax=1,
        extent=(start, start + len(values), lowest_key - 0.5, lowest_key + values.shape[1] - 0.5),
    )
    ax.grid(visible=False)
    ax.set_ylim(keys[0] - 0.5, keys[1] + 0.5)
    octaves = [key for key in range(keys[0], keys[1] + 1) if key % 12 == 0]
    ax.set_yticks(octaves, [f"C{key // 12 - 1}" for key in octaves])
    ax.set_xlabel("time (steps)")
    if title is not None:
        ax.set_title(title)
    return image


def plot_skeleton(
    ax: Axes,
    positions: ArrayLike,
    parents: Sequence[int],
    *,
    num_poses: int = 8,
    spacing: float = 0.7,
    colour: str = COLOURS["observed"],
) -> None:
    """Draw poses of a movement side by side, from the front and a little from the side.

    Arguments:
        ax: Where to draw.
        positions: Joints in metres, ``(T, J, 3)`` or ``(T, 3 J)``, y upwards.
        parents: Index of each joint's parent, -1 for the root.
        num_poses: How many frames, evenly spaced in time, first and last included.
        spacing: Metres from one figure to the next.
        colour: Of the bones.

    Raises:
        ValueError: If the number of joints is not that of the parents.
    """
    poses = _poses(positions, parents)
    frames = np.unique(np.linspace(0, len(poses) - 1, num_poses).round().astype(int))
    turn = np.deg2rad(30)
    for place, frame in enumerate(frames):
        x, y, z = poses[frame].T
        across = np.cos(turn) * x + np.sin(turn) * z + place * spacing
        for joint, parent in enumerate(parents):
            if parent >= 0:
                ax.plot(across[[parent, joint]], y[[parent, joint]], color=colour, lw=1.6, solid_capstyle="round")
        ax.text(place * spacing, y.min() - 0.12, f"{frame}", ha="center", va="top", fontsize=9)
    ax.set_aspect("equal")
    ax.axis("off")


def animate_skeletons(
    movements: ArrayLike | Mapping[str, ArrayLike],
    parents: Sequence[int],
    *,
    fps: float = 30.0,
    marks: Sequence[int] = (),
) -> "HTML":
    """Play movements of stick figures side by side; the reader can stop them, step through and turn them.

    What is returned is complete in itself (drawing and numbers, no outside script), so it also lives on a static
    page. It starts when it comes into view, but not where the reader has asked for less motion.

    Arguments:
        movements: Joints in metres, ``(T, J, 3)`` or ``(T, 3 J)``, y upwards; or several by name, played together
            on one scale, which holds them all.
        parents: Index of each joint's parent, -1 for the root.
        fps: Frames per second.
        marks: Frames from which on the figures are drawn in the colour of what was generated: for each movement,
            where its given part ends; none where all is given.

    Returns:
        What a notebook displays.

    Raises:
        ValueError: If there is nothing to play, the number of joints is not that of the parents, or a coordinate is
            not finite.
        ImportError: Outside Jupyter, where IPython is not installed.
    """
    try:
        from IPython.display import HTML
    except ImportError as error:
        raise ImportError("animate_skeletons needs IPython: pip install ipython") from error
    named = movements if isinstance(movements, Mapping) else {"": movements}
    if not named:
        raise ValueError("There is no movement to play")
    figures = []
    for number, (name, positions) in enumerate(named.items()):
        poses = _poses(positions, parents)
        if not np.isfinite(poses).all():
            raise ValueError(f"Movement {name!r} holds values that are not finite")
        millimetres = np.round(poses * 1000).astype(int)
        mark = marks[number] if number < len(marks) else len(poses)
        figures.append({"name": name, "mark": mark, "frames": millimetres.reshape(len(poses), -1).tolist()})
    data = {
        "fps": fps,
        "parents": list(parents),
        "figures": figures,
        "colours": [COLOURS["observed"], COLOURS["generated"]],
    }
    page = resource_path("widgets", "skeleton_player.html").read_text(encoding="utf-8")
    # "</" would end the script in which the numbers stand.
    return HTML(page.replace("__DATA__", json.dumps(data, separators=(",", ":")).replace("</", "<\\/")))  # type: ignore[no-untyped-call]


def _poses(positions: ArrayLike, parents: Sequence[int]) -> npt.NDArray[np.float64]:
    values = as_array(positions)
    if values.size == 0 or values.size != len(values) * 3 * len(parents):
        raise ValueError(
            f"positions must be (T, {len(parents)}, 3) or (T, {3 * len(parents)}) for {len(parents)} joints; "
            f"the shape is {tuple(values.shape)}"
        )
    return values.reshape(len(values), len(parents), 3)
