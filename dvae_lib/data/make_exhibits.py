"""Make the exhibits of `dvae_lib.data.exhibits` from the corpora on the search path.

    python -m dvae_lib.data.make_exhibits FOLDER

FOLDER then holds what ``data/exhibits`` holds, but for its README.
"""

import csv
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dvae_lib.data.catalogue import corpus_info
from dvae_lib.data.exhibits import pack
from dvae_lib.data.motion.acclaim import read_amc, read_asf
from dvae_lib.data.motion.acclaim_corpora import EXCERPT_FPS, acclaim_files, excerpt_scale
from dvae_lib.data.motion.clips import decimate
from dvae_lib.data.speech.front_end import SpeechFrontEnd
from dvae_lib.data.speech.load import load_corpus
from dvae_lib.resources import resource_path

__all__ = ["make_exhibits"]

# The recordings of the benchmark's results.
SUBJECTS = ("01", "02", "03", "bd", "bk", "dg")
ACTIONS = (  # of HDM05
    *("depositFloorR", "elbowToKnee1RepsLelbowStart", "grabHighR", "hopBothLegs1hops", "jogLeftCircle4StepsRstart"),
    *("kickLFront1Reps", "lieDownFloor", "rotateArmsBothBackward1Reps", "sneak2StepsLStart", "squat1Reps"),
    "throwBasketball",
)
SHORTEST = 50  # frames: a shorter clip cannot be cut into the benchmark's sequences

# Of each part: how many speakers, in the order of the split list; seconds from the first sound on; and how many frames
# must be left of them when the front end has cut off silence.
SPEECH = {"train": (2, 1.3, 50), "validation": (24, 1.3, 50), "test": (18, 4.15, 250)}


def make_exhibits(folder: Path) -> None:
    """Write all exhibits.

    Arguments:
        folder: Where to; made if it is not there.

    Raises:
        MissingCorpusError: CMU, HDM05 or LibriSpeech is not on the search path.
    """
    entries = {"motion": _motion(folder / "motion"), "librispeech": _librispeech(folder / "librispeech")}
    for name, entry in entries.items():
        files = sorted(path for path in (folder / name).iterdir() if path.is_file())
        entry["files"] = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    text = json.dumps(entries, indent=1, ensure_ascii=False) + "\n"
    (folder / "exhibits.json").write_text(text, encoding="utf-8")


def _motion(folder: Path) -> dict[str, Any]:
    folder.mkdir(parents=True)
    packed: dict[str, Any] = {}
    for corpus in ("cmu", "hdm05"):
        names, lengths, values = [], [], []
        for clip, asf in acclaim_files(corpus):
            action = clip.name.split("_")[2] if corpus == "hdm05" else ACTIONS[0]
            if clip.subject not in SUBJECTS or action not in ACTIONS:
                continue
            skeleton = read_asf(asf)
            frames = decimate(read_amc(clip.file, skeleton), 120, EXCERPT_FPS)
            if len(frames) >= SHORTEST:
                names.append(clip.name)
                lengths.append(len(frames))
                values.append(np.round(frames * excerpt_scale(skeleton)).astype(np.int32))
                (folder / asf.name).write_bytes(asf.read_bytes())
        packed[f"{corpus}_names"], packed[f"{corpus}_lengths"] = np.array(names), np.array(lengths)
        packed[f"{corpus}_values"] = pack(np.concatenate(values))
    np.savez_compressed(folder / "frames.npz", **packed)
    infos = [corpus_info(corpus) for corpus in ("cmu", "hdm05")]
    return {
        "about": "Recordings of human motion of at least 50 frames: CMU subjects 01 to 03, and eleven actions of HDM05 "
        "actors bd, bk and dg; every fourth frame of 120 per second, angles in hundredths of a degree.",
        "licence": "; ".join(f"{i.name.upper()}: {i.licence.replace(';', ',')}" for i in infos),
        "attribution": "; ".join(info.attribution for info in infos),
    }


def _librispeech(folder: Path) -> dict[str, Any]:
    import soundfile

    folder.mkdir(parents=True)
    corpus = load_corpus("librispeech", split=resource_path("splits", "librispeech.csv"), fetch=False, progress=False)
    rows: list[dict[str, Any]] = []
    for part, (speakers, seconds, needed) in SPEECH.items():
        chosen = 0
        for utterance in corpus.utterances(part):
            samples, rate = soundfile.read(utterance.path, dtype="int16")
            first = _first_sound(samples)
            cut = samples[first : first + round(seconds * rate)]
            if chosen == speakers or _frames_left(cut, corpus.front_end) < needed:
                continue
            chosen += 1
            name = Path(utterance.name).stem
            soundfile.write(folder / f"{name}.flac", cut, rate, subtype="PCM_16", format="FLAC")
            row = {"utterance": f"{name}.flac", "speaker": utterance.speaker, "part": part, "first_sample": first}
            rows.append(row)
    with (folder / "list.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    info = corpus_info("librispeech")
    lengths = ", ".join(f"{part}: {n} speakers, {s} s each" for part, (n, s, _) in SPEECH.items())
    return {
        "about": f"The beginnings of recordings of LibriSpeech's train-clean-100 ({lengths}), sample by sample.",
        "licence": info.licence,
        "attribution": info.attribution,
    }


def _first_sound(samples: NDArray[np.int16]) -> int:
    """The first sample louder than a thirtieth of the loudest."""
    loudness = np.abs(samples.astype(np.int32))
    return int(np.argmax(loudness > loudness.max() / 30))


def _frames_left(samples: NDArray[np.int16], front_end: SpeechFrontEnd) -> int:
    """Frames of what the front end keeps of a recording."""
    waveform = torch.from_numpy(samples.astype(np.float32) / 2**15)
    return front_end.analyse(front_end.prepare(waveform)).power.shape[0]


if __name__ == "__main__":
    make_exhibits(Path(sys.argv[1]))
