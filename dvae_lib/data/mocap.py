"""The motion capture corpora: CMU, HDM05 and Human3.6M, as sequences of joint positions in metres.

One frame is the vector of all joints' coordinates, (x, y, z) of the first joint, then of the second, and so on.
Clips are brought to a lower frame rate by keeping every k-th frame. No filter comes before: it would shorten bones
that turn fast, and there is next to nothing to filter (in the CMU corpus, less than a ten-thousandth of the variance
of the joints about the root lies above 15 Hz).
"""

import hashlib
import json
import logging
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from tqdm.auto import tqdm

from dvae_lib.data.catalogue import CorpusInfo, MissingCorpusError
from dvae_lib.data.exhibits import exhibit, unpack
from dvae_lib.data.motion import (
    H36M_JOINTS,
    Skeleton,
    expmap_to_positions,
    read_amc,
    read_asf,
    read_expmap,
)
from dvae_lib.data.places import cache_folder, find_folder, one_at_a_time, whole_or_nothing
from dvae_lib.data.sequences import SequenceDataset, Splits, Standardizer
from dvae_lib.resources import resource_path

__all__ = ["MOCAP_JOINTS", "MOCAP_PARENTS", "decimate", "load_cmu", "load_h36m", "load_hdm05", "load_mocap"]

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

CACHE_FORMAT = 1

logger = logging.getLogger("dvae_lib.data")

EXCERPT_FPS = 30
# Joint angles of the excerpt are whole hundredths of a degree, positions of the root whole thousandths of the files'
# unit of length (5.6 cm): no joint is off by more than half a millimetre.
EXCERPT_SCALE = {"r": 100, "t": 1000}


class _Clip(NamedTuple):
    name: str
    subject: str
    file: Path


def decimate(frames: Float[np.ndarray, "time *rest"], from_fps: int, to_fps: int) -> Float[np.ndarray, "fewer *rest"]:
    """Bring frames to a lower rate by keeping every k-th one, the first included.

    Arguments:
        frames: along the first dimension.
        from_fps: frames per second as they come.
        to_fps: frames per second wanted; a divisor of `from_fps`.

    Raises:
        ValueError: the one rate is no multiple of the other.
    """
    if to_fps < 1 or from_fps % to_fps:
        divisors = [k for k in range(1, from_fps + 1) if from_fps % k == 0]
        raise ValueError(
            f"{from_fps} frames per second cannot be brought to {to_fps} by keeping every k-th; fps must be one of "
            f"{', '.join(map(str, divisors))}"
        )
    return frames[:: from_fps // to_fps]


def load_cmu(
    folder: str | Path | None = None,
    *,
    fps: int = 30,
    centre: bool = True,
    sequence_length: int | None = None,
    hop: int | None = None,
    standardize: bool = False,
    excerpt: bool = False,
) -> Splits:
    """Load the motion capture of Carnegie Mellon University: 31 joints, 93 coordinates in metres, y upwards.

    Arguments:
        folder: where the files are, at any depth; by default ``cmu-mocap`` on the search path ``DVAE_DATA``.
        fps: frames per second, a divisor of the files' 120. (The files do not tell their rate; a few subjects of
            the full corpus were recorded at 60.)
        centre: subtract the root's position from each frame, so that the root stays at zero.
        sequence_length: cut into pieces of that many frames; shorter clips are skipped. None keeps clips whole.
        hop: frames between the starts of two pieces; by default `sequence_length`.
        standardize: learn a standardiser on the training part and give it to all parts. Leave it off where the
            likelihood has unit variance, whose meaning depends on the unit.
        excerpt: take the recordings that travel with the library and that the book uses: 28 of subjects 01 to 03, at
            30 frames per second, with angles rounded to hundredths of a degree.

    Returns:
        Training, validation and test part. Subjects 03, 16, 49 and 86 are held out for testing, subject 08 and
        some clips of subjects 01 and 02 for validation.

    Raises:
        MissingCorpusError: no such folder, with what to do.
        ValueError: a damaged file, named with its line; a frame rate that does not divide 120.
    """
    if excerpt and folder is not None:
        raise ValueError("the excerpt travels with the library and has no folder; leave out folder or excerpt")
    return _splits(_parts([_read("cmu", folder, fps, excerpt)], centre, sequence_length, hop), standardize)


def load_hdm05(
    folder: str | Path | None = None,
    *,
    fps: int = 30,
    centre: bool = True,
    sequence_length: int | None = None,
    hop: int | None = None,
    standardize: bool = False,
    excerpt: bool = False,
) -> Splits:
    """Load the motion capture of HDM05 (Müller et al., 2007): 31 joints, 93 coordinates in metres, y upwards.

    Arguments:
        folder: where the files are, at any depth; by default ``hdm05`` on the search path ``DVAE_DATA``.
        fps: frames per second, a divisor of the files' 120.
        centre: as for `load_cmu`.
        sequence_length: as for `load_cmu`.
        hop: as for `load_cmu`.
        standardize: as for `load_cmu`.
        excerpt: as for `load_cmu`: 88 recordings of actors bd, bk and dg.

    Returns:
        Training, validation and test part. Actors dg and tr are held out for testing; the last repetition of each
        action by actors bd and bk serves for validation.

    Raises:
        MissingCorpusError: no such folder, with what to do.
        ValueError: a damaged file, named with its line; a frame rate that does not divide 120.
    """
    if excerpt and folder is not None:
        raise ValueError("the excerpt travels with the library and has no folder; leave out folder or excerpt")
    return _splits(_parts([_read("hdm05", folder, fps, excerpt)], centre, sequence_length, hop), standardize)


def load_mocap(
    *,
    fps: int = 30,
    centre: bool = True,
    sequence_length: int | None = None,
    hop: int | None = None,
    standardize: bool = False,
    excerpt: bool = False,
) -> Splits:
    """Load `load_cmu` and `load_hdm05` as one corpus, part by part: 31 joints, 93 coordinates in metres.

    Arguments:
        fps: as for `load_cmu`, and so are the others.
        centre: see `load_cmu`.
        sequence_length: see `load_cmu`.
        hop: see `load_cmu`.
        standardize: see `load_cmu`.
        excerpt: see `load_cmu`.

    Returns:
        Training, validation and test part. The people of the test part are in no other.

    Raises:
        MissingCorpusError: one of the two is not here, with what to do.
        ValueError: a damaged file, named with its line; a frame rate that does not divide 120.
    """
    corpora = [_read(name, None, fps, excerpt) for name in ("cmu", "hdm05")]
    return _splits(_parts(corpora, centre, sequence_length, hop), standardize)


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
        folder: where the actors' folders are, at any depth; by default ``h36m`` on the search path ``DVAE_DATA``.
        fps: frames per second, a divisor of the files' 50.
        centre: subtract the pelvis' position from each frame.
        sequence_length: as for `load_cmu`.
        hop: as for `load_cmu`.
        standardize: as for `load_cmu`.
        validation_per_scenario: where sequences are cut, so many of each scenario are drawn for validation; None
            takes all.
        seed: of that draw.

    Returns:
        Training (actors 1, 6, 7, 8, 9), validation (actor 5) and test part (actor 11).

    Raises:
        MissingCorpusError: no such folder, with what to do.
        ValueError: a damaged file, named with its line; a frame rate that does not divide 50.
    """
    root = _folder("h36m", folder)
    files = sorted(file for file in root.rglob("*") if file.suffix.lower() == ".txt")
    files = [file for file in files if re.fullmatch("S[0-9]+", file.parent.name, re.IGNORECASE)]
    clips = [_Clip(f"{file.parent.name.upper()}/{file.stem}", file.parent.name[1:], file) for file in files]
    if not clips:
        raise MissingCorpusError(f"{root} holds no file S*/*.txt. {CORPORA[2].instructions}")

    def read(clip: _Clip) -> NDArray[np.float64]:
        return decimate(expmap_to_positions(read_expmap(clip.file)), 50, fps)

    frames, lengths = _cached(f"h36m-{fps}", clips, read, num_joints=len(H36M_JOINTS))
    parts = _parts([_Corpus("h36m", clips, frames, lengths)], centre, sequence_length, hop)
    if sequence_length is not None and validation_per_scenario is not None:
        parts["validation"] = _draw(parts["validation"], validation_per_scenario, seed)
    return _splits(parts, standardize)


# ------------------------------------------------------------------------------------------------------------ inside


def _folder(corpus: str, folder: str | Path | None) -> Path:
    info = next(info for info in CORPORA if info.name == corpus)
    found = info.find() if folder is None else Path(folder)
    if found is None:
        raise MissingCorpusError(f"The corpus {corpus!r} is not on the search path DVAE_DATA. {info.instructions}")
    if not found.is_dir():
        raise MissingCorpusError(f"{found} is not a folder. {info.instructions}")
    return found


class _Corpus(NamedTuple):
    """All clips of a corpus, one after the other in one block of frames."""

    name: str
    clips: list[_Clip]
    frames: NDArray[np.float32]
    lengths: list[int]


def _read(corpus: str, folder: str | Path | None, fps: int, excerpt: bool) -> _Corpus:
    return _read_excerpt(corpus, fps) if excerpt else _read_acclaim(corpus, _folder(corpus, folder), fps)


def acclaim_files(corpus: str, root: Path | None = None) -> list[tuple[_Clip, Path]]:
    """The motions of a corpus, each with its skeleton's file."""
    root = _folder(corpus, root)
    found: dict[str, tuple[_Clip, Path]] = {}
    files = sorted(file for file in root.rglob("*") if file.is_file() and not file.name.startswith("."))
    motions = [file for file in files if file.suffix.lower() == ".amc"]
    with_skeleton: set[Path] = set()
    for asf in (file for file in files if file.suffix.lower() == ".asf"):
        for amc in motions:  # beside the skeleton, or in folders below
            if amc.stem.lower().startswith(f"{asf.stem.lower()}_") and amc.is_relative_to(asf.parent):
                found.setdefault(amc.stem, (_Clip(amc.stem, _subject(asf), amc), asf))
                with_skeleton.add(amc)
    if found and (lost := [amc for amc in motions if amc not in with_skeleton]):
        logger.warning("%s: %d motions without a skeleton are left out (first: %s).", root, len(lost), lost[0])
    if not found:
        advice = next(info.instructions for info in CORPORA if info.name == corpus)
        raise MissingCorpusError(f"{root} holds no skeleton NAME.asf with motions NAME_*.amc beside it. {advice}")
    return list(found.values())


def _subject(asf: Path) -> str:
    return asf.stem.removeprefix("HDM_")


def _read_acclaim(corpus: str, root: Path, fps: int) -> _Corpus:
    skeletons: dict[Path, Skeleton] = {}
    files = acclaim_files(corpus, root)
    asf_of = {clip.file: asf for clip, asf in files}

    def read(clip: _Clip) -> NDArray[np.float64]:
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
    frames, lengths = _cached(f"{corpus}-{fps}", clips, read, num_joints=len(MOCAP_JOINTS))
    return _Corpus(corpus, clips, frames, lengths)


def excerpt_scale(skeleton: Skeleton) -> NDArray[np.float64]:
    """What a frame of motion is multiplied by before it is rounded to whole numbers."""
    return np.array([EXCERPT_SCALE[name[0]] for dof in skeleton.dof for name in dof], dtype=np.float64)


def _read_excerpt(corpus: str, fps: int) -> _Corpus:
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
        clips.append(_Clip(name, subject, folder / "frames.npz"))
        lengths.append(len(moved))
        positions.append(moved.reshape(len(moved), -1))
    return _Corpus(corpus, clips, np.concatenate(positions).astype(np.float32), lengths)


def _cached(
    name: str, clips: Sequence[_Clip], read: Callable[[_Clip], NDArray[np.float64]], *, num_joints: int
) -> tuple[NDArray[np.float32], list[int]]:
    """All frames of all clips, (N, 3 * num_joints), and the clips' lengths; computed once for the same files."""
    stats = [(clip.name, clip.file.stat()) for clip in clips]
    key = json.dumps([CACHE_FORMAT, [(n, s.st_size, s.st_mtime_ns) for n, s in stats]])
    folder = cache_folder() / "motion" / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    with one_at_a_time(folder.with_suffix(".lock")):
        if not folder.is_dir():
            quick = len(clips) < 500  # a few seconds
            positions = [read(clip) for clip in tqdm(clips, desc=f"reading {name}", unit=" clips", disable=quick)]
            with whole_or_nothing(folder) as draft:
                block = np.concatenate([p.reshape(len(p), 3 * num_joints) for p in positions])
                np.save(draft / "frames.npy", block.astype(np.float32))
                (draft / "lengths.json").write_text(json.dumps([len(p) for p in positions]))
    lengths: list[int] = json.loads((folder / "lengths.json").read_text())
    return np.load(folder / "frames.npy"), lengths


def _parts(
    corpora: Sequence[_Corpus], centre: bool, sequence_length: int | None, hop: int | None
) -> dict[str, SequenceDataset]:
    """The clips by part, after the corpora's split lists; what these do not list is for training."""
    part_of: list[str] = []
    for corpus in corpora:
        listed = json.loads(resource_path("splits", f"{corpus.name}.json").read_text(encoding="utf-8"))
        part_of_subject = {s: part for part, subjects in listed["subjects"].items() for s in subjects}
        part_of_clip = {c: part for part, names in listed["clips"].items() for c in names}
        part_of += [part_of_clip.get(c.name, part_of_subject.get(c.subject, "train")) for c in corpus.clips]
    clips = [clip for corpus in corpora for clip in corpus.clips]
    lengths = [length for corpus in corpora for length in corpus.lengths]
    frames = corpora[0].frames if len(corpora) == 1 else np.concatenate([corpus.frames for corpus in corpora])
    if centre:
        frames = (frames.reshape(len(frames), -1, 3) - frames[:, None, :3]).reshape(len(frames), -1)
    starts = np.cumsum([0, *lengths[:-1]]).tolist()
    parts: dict[str, SequenceDataset] = {}
    for part in ("train", "validation", "test"):
        chosen = [k for k, of in enumerate(part_of) if of == part]
        if not chosen:
            names, subjects = [corpus.name for corpus in corpora], sorted({clip.subject for clip in clips})
            raise ValueError(
                f"no clip of {' and '.join(map(repr, names))} for the {part} part: there are subjects "
                f"{', '.join(subjects)} only; the split list is splits/{names[0]}.json in the library's data"
            )
        parts[part] = SequenceDataset.from_frames(
            frames,
            [starts[k] for k in chosen],
            [lengths[k] for k in chosen],
            names=[clips[k].name for k in chosen],
            sequence_length=sequence_length,
            hop=hop,
        )
    return parts


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


def _splits(parts: dict[str, SequenceDataset], standardize: bool) -> Splits:
    if standardize:
        standardizer = Standardizer.fit(parts["train"])
        for dataset in parts.values():
            dataset.standardizer = standardizer
    return Splits(**parts)


_THEN = "then pass folder=... or put the folder above it into DVAE_DATA"

CORPORA = (
    CorpusInfo(
        name="cmu",
        kind="motion",
        about="motion capture, 31 joints at 120 fps, walking to acrobatics",
        size="2,605 clips of 144 subjects; 1 GB",
        licence="free for all uses; may not be resold as such",
        attribution="CMU Graphics Lab Motion Capture Database, mocap.cs.cmu.edu, funded by NSF EIA-0196217",
        instructions="Download allasfamc.zip from mocap.cs.cmu.edu and unpack it into a folder cmu-mocap: folders NN "
        f"with NN.asf and NN_MM.amc, or some of them; {_THEN}.",
        find=partial(find_folder, "cmu-mocap", "cmu"),
    ),
    CorpusInfo(
        name="hdm05",
        kind="motion",
        about="motion capture, 31 joints at 120 fps, five actors repeating the same actions",
        size="2,337 short clips of 5 actors",
        licence="CC BY-SA 3.0",
        attribution="Müller, Röder, Clausen, Eberhardt, Krüger, Weber (2007), Mocap Database HDM05, Universität Bonn",
        instructions="Download the cut ASF/AMC files from resources.mpi-inf.mpg.de/HDM05 and unpack them into a folder "
        f"hdm05: HDM_actor.asf with HDM_actor_*.amc beside it, or some of them; {_THEN}.",
        find=partial(find_folder, "hdm05", "HDM05"),
    ),
    CorpusInfo(
        name="h36m",
        kind="motion",
        about="the review's motion capture, 32 joints at 50 fps, seven actors in 15 everyday scenarios",
        size="210 takes of 7 actors",
        licence="licensed, free for academic use on request",
        attribution="Ionescu, Papava, Olaru, Sminchisescu (2014), Human3.6M",
        instructions="Ask for a licence at vision.imar.ro/human3.6m. What is read is the text version with exponential "
        f"maps: folders S1 to S11 with files such as S1/walking_1.txt of 99 columns, in a folder h36m; {_THEN}.",
        find=partial(find_folder, "h36m", "Human3.6M", "h3.6m"),
    ),
)
"""What is known of each corpus, for `dvae_lib.data.list_corpora`."""
