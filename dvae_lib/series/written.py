"""What a model has made, in files of the kind that it was trained on: MIDI for any player, BVH for animation programs.

How the files of the training were read is kept with a model (`dvae_lib.data.load`, `dvae train`): the steps of a piano
roll, the skeleton and the frames per second of a motion. So what it makes is written without being told again.
"""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from dvae_lib.data.motion import pose, rest_skeleton, write_bvh
from dvae_lib.data.music.midi import MIDI_SUFFIXES, write_midi
from dvae_lib.models import DVAE

__all__ = ["check_can_be_written", "write_frames"]


def check_can_be_written(model: DVAE, path: str | Path) -> dict[str, Any]:
    """What is kept with a model about the files of its training, to write one such file.

    Arguments:
        model: A trained model.
        path: The file to be written, ``.mid`` or ``.bvh``.

    Raises:
        ValueError: Another ending; or a model that was not trained on files of this kind, or does not say how they
            were read.
    """
    suffix = Path(path).suffix.lower()
    wanted = "midi" if suffix in MIDI_SUFFIXES else suffix.removeprefix(".")
    if wanted not in ("midi", "bvh"):
        raise ValueError(f"{path} must end in .mid, for piano rolls, or in .bvh, for motion")
    data = model.metadata.get("data", {})
    kept: dict[str, Any] = data.get("files", {})
    if kept.get("kind") != wanted:
        what = f"{kept['kind'].upper()} files" if kept else f"{data.get('source', 'data that it does not name')}"
        lacking = "how many steps a quarter note has" if wanted == "midi" else "which skeleton its positions belong to"
        raise ValueError(
            f"{path} cannot be written: the model was trained on {what}, and does not say {lacking}. It does where it "
            f"was trained on {wanted.upper()} files by dvae train --data FOLDER; write_{wanted} writes arrays"
        )
    return kept


def write_frames(
    model: DVAE, x: Float[Tensor, "time x_dim"], path: str | Path, *, per_minute: float | int = 120
) -> None:
    """Write a sequence of frames as a file of the kind that the model was trained on.

    Arguments:
        model: A trained model.
        x: Frames as the model has them, standardised if they were.
        path: The file, ``.mid`` or ``.bvh``.
        per_minute: Quarter notes a minute. Steps that are counted by seconds last as long as those of the training
            at any number; beats are taken for quarter notes.

    Raises:
        ValueError: See `check_can_be_written`; frames that are no piano roll, or not finite.
    """
    kept = check_can_be_written(model, path)
    standardizer = model.standardizer
    frames = (x.double() if standardizer is None else standardizer.inverse(x.double())).detach().cpu().numpy()
    if kept["kind"] == "midi":
        steps = kept["steps"] * (60 / per_minute if kept["per"] == "second" and per_minute > 0 else 1)
        write_midi(path, frames, steps, per_minute=per_minute)
        return
    parents, rest = kept["parents"], np.array(kept["offsets"])
    for joint, parent in enumerate(parents):  # parents come first
        rest[joint] = 0.0 if parent < 0 else rest[parent] + rest[joint]
    skeleton = rest_skeleton(kept["joints"], parents, rest[None], metres_per_unit=kept["metres_per_unit"])
    write_bvh(path, skeleton, pose(skeleton, frames.reshape(len(frames), -1, 3)), fps=kept["fps"])
