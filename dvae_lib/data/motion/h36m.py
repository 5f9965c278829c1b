"""Human3.6M, which the review used and whose licence must be asked for."""

import re
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dvae_lib.data.catalogue import Corpus, MissingCorpusError, corpus_info, register_corpus
from dvae_lib.data.motion.clips import Clip, Clips, as_splits, cached, decimate, folder_of, in_parts
from dvae_lib.data.motion.expmap import H36M_JOINTS, expmap_to_positions, read_expmap
from dvae_lib.data.places import find_folder
from dvae_lib.data.sequences import SequenceDataset
from dvae_lib.data.splits import Splits

__all__ = ["load_h36m"]


def load_h36m(
    folder: str | Path | None = None,
    *,
    fps: int = 25,
    centre: bool = True,
    sequence_length: int | None = None,
    hop: int | None = None,
    standardize: bool = False,
    validation_per_scenario: int | None = 128,
    seed: int = 0,
) -> Splits:
    """Load Human3.6M (Ionescu et al., 2014): 32 joints, 96 coordinates in metres, as in Section 13.2.2 of the review.

    The layout read is the one that most papers on motion prediction share: one folder for each actor, S1 to S11,
    and in it one text file for each take, ``SCENARIO_1.txt`` and ``SCENARIO_2.txt``, at 50 frames per second
    (see `read_expmap`). Joint positions follow by forward kinematics with the bone lengths of subject 1.

    The review's setting is ``sequence_length=50, hop=2``.

    Arguments:
        folder: Where the actors' folders are, at any depth; by default ``h36m`` on the search path ``DVAE_DATA``.
        fps: Frames per second, a divisor of the files' 50.
        centre: Subtract the pelvis' position from each frame.
        sequence_length: See `load_acclaim`.
        hop: See `load_acclaim`.
        standardize: See `load_acclaim`.
        validation_per_scenario: Where sequences are cut, so many of each scenario are drawn for validation; None
            takes all.
        seed: Of that draw.

    Returns:
        Training (actors 1, 6, 7, 8, 9), validation (actor 5) and test part (actor 11).

    Raises:
        MissingCorpusError: No such folder, with what to do.
        ValueError: A damaged file, named with its line; a frame rate that does not divide 50.
    """
    root = folder_of("h36m", folder)
    files = sorted(file for file in root.rglob("*") if file.suffix.lower() == ".txt")
    files = [file for file in files if re.fullmatch("S[0-9]+", file.parent.name, re.IGNORECASE)]
    clips = [Clip(f"{file.parent.name.upper()}/{file.stem}", file.parent.name[1:], file) for file in files]
    if not clips:
        raise MissingCorpusError(f"{root} holds no file S*/*.txt. {corpus_info('h36m').instructions}")

    def read(clip: Clip) -> NDArray[np.float64]:
        return decimate(expmap_to_positions(read_expmap(clip.file)), 50, fps)

    frames, lengths = cached(f"h36m-{fps}", clips, read, num_joints=len(H36M_JOINTS))
    parts = in_parts([Clips("h36m", clips, frames, lengths)], centre, sequence_length, hop)
    if sequence_length is not None and validation_per_scenario is not None:
        parts["validation"] = _draw(parts["validation"], validation_per_scenario, seed)
    return as_splits(parts, standardize)


def _draw(dataset: SequenceDataset, per_scenario: int, seed: int) -> SequenceDataset:
    """So many sequences of each scenario, drawn without replacement."""
    generator = np.random.default_rng(seed)
    scenarios: dict[str, list[int]] = {}
    for index, name in enumerate(dataset.names):  # "S5/walking_1[0:50]"
        scenarios.setdefault(name.rsplit("_", 1)[0], []).append(index)
    drawn: list[int] = []
    for scenario in sorted(scenarios):
        indices = scenarios[scenario]
        drawn += sorted(generator.permutation(indices)[:per_scenario].tolist())
    return SequenceDataset([dataset[i] for i in drawn], names=[dataset.names[i] for i in drawn])


register_corpus(
    Corpus(
        name="h36m",
        kind="motion",
        about="the review's motion capture, 32 joints at 50 fps, seven actors in 15 everyday scenarios",
        size="210 takes of 7 actors",
        licence="licensed, free for academic use on request",
        attribution="Ionescu, Papava, Olaru, Sminchisescu (2014), Human3.6M",
        instructions="Ask for a licence at vision.imar.ro/human3.6m. What is read is the text version with exponential "
        "maps: folders S1 to S11 with files such as S1/walking_1.txt of 99 columns, in a folder h36m; then pass "
        "folder=... or put the folder above it into DVAE_DATA.",
        load=load_h36m,
        find=partial(find_folder, "h36m", "Human3.6M", "h3.6m"),
        sequence_length=50,
    )
)
