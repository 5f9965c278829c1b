"""The corpora of motion in Acclaim's formats, CMU and HDM05, which share a skeleton of 31 joints."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dvae_lib.data.catalogue import MissingCorpusError, corpus_info
from dvae_lib.data.exhibits import exhibit, unpack
from dvae_lib.data.motion.acclaim import read_amc, read_asf
from dvae_lib.data.motion.clips import Clip, Clips, as_splits, cached, decimate, folder_of, in_parts
from dvae_lib.data.motion.skeleton import Skeleton
from dvae_lib.data.splits import Splits

__all__ = ["MOCAP_JOINTS", "MOCAP_PARENTS", "load_acclaim"]


MOCAP_JOINTS: tuple[str, ...] = (
    "root",
    "lhipjoint", "lfemur", "ltibia", "lfoot", "ltoes",
    "rhipjoint", "rfemur", "rtibia", "rfoot", "rtoes",
    "lowerback", "upperback", "thorax", "lowerneck", "upperneck", "head",
    "lclavicle", "lhumerus", "lradius", "lwrist", "lhand", "lfingers", "lthumb",
    "rclavicle", "rhumerus", "rradius", "rwrist", "rhand", "rfingers", "rthumb",
)  # fmt: skip
"""The 31 joints that CMU and HDM05 share, in the order of the coordinates."""

MOCAP_PARENTS: tuple[int, ...] = (
    -1, 0, 1, 2, 3, 4, 0, 6, 7, 8, 9, 0, 11, 12, 13, 14, 15,
    13, 17, 18, 19, 20, 21, 20, 13, 24, 25, 26, 27, 28, 27,
)  # fmt: skip
"""Index of each joint's parent, -1 for the root."""

logger = logging.getLogger("dvae_lib.data")

EXCERPT_FPS = 30
# Joint angles of the excerpt are whole hundredths of a degree, positions of the root whole thousandths of the files'
# unit of length (5.6 cm): no joint is off by more than half a millimetre.
EXCERPT_SCALE = {"r": 100, "t": 1000}


def load_acclaim(
    names: Sequence[str],
    folder: str | Path | None = None,
    *,
    fps: int = 30,
    centre: bool = True,
    sequence_length: int | None = None,
    hop: int | None = None,
    standardize: bool = False,
    excerpt: bool = False,
) -> Splits:
    """One corpus, or several as one, part by part: 31 joints, 93 coordinates in metres, y upwards.

    Arguments:
        names: "cmu", "hdm05", or both.
        folder: Where the files of a single one are, at any depth; by default its folder on the search path
            ``DVAE_DATA``.
        fps: Frames per second, a divisor of the files' 120. (The files do not tell their rate; a few subjects of the
            full CMU corpus were recorded at 60.).
        centre: Subtract the root's position from each frame, so that the root stays at zero.
        sequence_length: Cut into pieces of that many frames; shorter clips are skipped. None keeps clips whole.
        hop: Frames between the starts of two pieces; by default `sequence_length`.
        standardize: Learn a standardiser on the training part and give it to all parts. Leave it off where the
            likelihood has a fixed variance, whose meaning depends on the unit.
        excerpt: Take the recordings that travel with the library and that the book uses, at 30 frames per second, with
            angles rounded to hundredths of a degree: of CMU 27 of subjects 01 to 03, of HDM05 89 of actors bd, bk, dg.

    Returns:
        Training, validation and test part. The people of the test part are in no other.

    Raises:
        MissingCorpusError: No such folder, with what to do.
        ValueError: A damaged file, named with its line; a frame rate that does not divide 120.
    """
    if folder is not None and (excerpt or len(names) != 1):
        what = "the excerpt travels with the library" if excerpt else "several corpora are in several folders"
        raise ValueError(f"{what}; leave out folder")
    clips = [_read_excerpt(n, fps) if excerpt else _read_acclaim(n, folder_of(n, folder), fps) for n in names]
    return as_splits(in_parts(clips, centre, sequence_length, hop), standardize)


def acclaim_files(corpus: str, root: Path | None = None) -> list[tuple[Clip, Path]]:
    """The motions of a corpus, each with its skeleton's file."""
    root = folder_of(corpus, root)
    found: dict[str, tuple[Clip, Path]] = {}
    files = sorted(file for file in root.rglob("*") if file.is_file() and not file.name.startswith("."))
    motions = [file for file in files if file.suffix.lower() == ".amc"]
    with_skeleton: set[Path] = set()
    for asf in (file for file in files if file.suffix.lower() == ".asf"):
        for amc in motions:  # beside the skeleton, or in folders below
            if amc.stem.lower().startswith(f"{asf.stem.lower()}_") and amc.is_relative_to(asf.parent):
                found.setdefault(amc.stem, (Clip(amc.stem, _subject(asf), amc), asf))
                with_skeleton.add(amc)
    if found and (lost := [amc for amc in motions if amc not in with_skeleton]):
        logger.warning("%s: %d motions without a skeleton are left out (first: %s).", root, len(lost), lost[0])
    if not found:
        advice = corpus_info(corpus).instructions
        raise MissingCorpusError(f"{root} holds no skeleton NAME.asf with motions NAME_*.amc beside it. {advice}")
    return list(found.values())


def _subject(asf: Path) -> str:
    return asf.stem.removeprefix("HDM_")


def _read_acclaim(corpus: str, root: Path, fps: int) -> Clips:
    skeletons: dict[Path, Skeleton] = {}
    files = acclaim_files(corpus, root)
    asf_of = {clip.file: asf for clip, asf in files}

    def read(clip: Clip) -> NDArray[np.float64]:
        asf = asf_of[clip.file]
        if asf not in skeletons:
            skeletons[asf] = read_asf(asf)
            if skeletons[asf].joints != MOCAP_JOINTS or skeletons[asf].parents != MOCAP_PARENTS:
                raise ValueError(
                    f"{asf}: this skeleton is not the one of 31 joints that the corpora share; use read_asf, "
                    "read_amc and Skeleton.positions on it, and from_arrays on what they return"
                )
        skeleton = skeletons[asf]
        return skeleton.positions(decimate(read_amc(clip.file, skeleton), 120, fps))

    clips = [clip for clip, _ in files]
    frames, lengths = cached(f"{corpus}-{fps}", clips, read, num_joints=len(MOCAP_JOINTS))
    return Clips(corpus, clips, frames, lengths)


def excerpt_scale(skeleton: Skeleton) -> NDArray[np.float64]:
    """What a frame of motion is multiplied by before it is rounded to whole numbers."""
    return np.array([EXCERPT_SCALE[name[0]] for dof in skeleton.dof for name in dof], dtype=np.float64)


def _read_excerpt(corpus: str, fps: int) -> Clips:
    folder = exhibit("motion").folder
    skeletons = {_subject(asf): read_asf(asf) for asf in sorted(folder.glob("*.asf"))}
    with np.load(folder / "frames.npz") as packed:
        names, all_lengths = packed[f"{corpus}_names"].tolist(), packed[f"{corpus}_lengths"].tolist()
        whole = unpack(packed[f"{corpus}_values"], next(iter(skeletons.values())).num_dof)
    clips, lengths, positions = [], [], []
    for name, values in zip(names, np.split(whole, np.cumsum(all_lengths[:-1])), strict=True):
        subject = name.removeprefix("HDM_").split("_")[0]
        skeleton = skeletons[subject]
        moved = skeleton.positions(decimate(values / excerpt_scale(skeleton), EXCERPT_FPS, fps))
        clips.append(Clip(name, subject, folder / "frames.npz"))
        lengths.append(len(moved))
        positions.append(moved.reshape(len(moved), -1))
    return Clips(corpus, clips, np.concatenate(positions).astype(np.float32), lengths)
