"""Speech corpora by name, or any folder of audio, as sequences of power spectra in three parts."""

import csv
import hashlib
import logging
import re
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

from jaxtyping import Float
from torch import Tensor

from dvae_lib.data.audio import AUDIO_SUFFIXES, AudioError
from dvae_lib.data.catalogue import (
    CorpusInfo,
    MissingCorpusError,
    check_packages,
    corpus_info,
    default_corpus,
    fetch_corpus,
    tell,
)
from dvae_lib.data.exhibits import exhibit
from dvae_lib.data.features import power_spectrograms
from dvae_lib.data.fetch import DownloadError, download, fetch_debian_packages, unpack_tar
from dvae_lib.data.places import cache_folder, find_folder, one_at_a_time, whole_or_nothing
from dvae_lib.data.sequences import SequenceDataset, split_by_group
from dvae_lib.data.speech import Analysis, FrontEndSettings, SpeechFrontEnd
from dvae_lib.resources import resource_path

__all__ = ["SpeechCorpus", "Utterance", "librispeech_part", "load_corpus"]

logger = logging.getLogger("dvae_lib.data")

Part = Literal["train", "validation", "test"]
PARTS: tuple[Part, ...] = get_args(Part)


@dataclass(frozen=True)
class Utterance:
    """One recording.

    Attributes:
        name: its path inside the corpus.
        speaker: who speaks.
        part: ``"train"``, ``"validation"`` or ``"test"``. No speaker is in two of them.
        path: the file.
    """

    name: str
    speaker: str
    part: Part
    path: Path


class SpeechCorpus:
    """Recordings in three parts without a common speaker, and their power spectrograms.

    ``train`` and ``validation`` are cut into sequences, ``test`` holds whole utterances. Each is computed when
    it is first asked for, kept in the cache, and mapped into memory from then on.

    Arguments:
        name: of the corpus.
        utterances: its recordings.
        front_end: makes frames of them.
        sequence_length: frames of a training sequence. Utterances with fewer are skipped in every part.
        hop: frames between the starts of two training sequences; by default ``sequence_length``.
        licence: of the recordings.
        attribution: whom to name where they are published.
        progress: show progress bars.
    """

    def __init__(
        self,
        name: str,
        utterances: Sequence[Utterance],
        front_end: SpeechFrontEnd,
        *,
        sequence_length: int | None = 50,
        hop: int | None = None,
        licence: str = "unknown",
        attribution: str = "unknown",
        progress: bool = True,
    ) -> None:
        self.name, self.front_end, self.licence, self.attribution = name, front_end, licence, attribution
        self.sequence_length, self.hop, self.progress = sequence_length, hop, progress
        speakers: dict[str, str] = {}
        for utterance in utterances:
            if speakers.setdefault(utterance.speaker, utterance.part) != utterance.part:
                raise ValueError(
                    f"Speaker {utterance.speaker} is in two parts of {name}: {speakers[utterance.speaker]} and "
                    f"{utterance.part} (with {utterance.name}). Parts must not share a speaker."
                )
        self._listed: dict[str, tuple[Utterance, ...]] = {
            part: tuple(u for u in utterances if u.part == part) for part in PARTS
        }
        if empty := [part for part in PARTS if not self._listed[part]]:
            raise ValueError(f"{name} has no utterance for {', '.join(empty)}; each part needs one at least.")

    def __repr__(self) -> str:
        sizes = ", ".join(f"{part}: {len(self._listed[part])} utterances" for part in PARTS)
        return f"SpeechCorpus({self.name!r}, {sizes})"

    @cached_property
    def train(self) -> SequenceDataset:
        """Training sequences of ``sequence_length`` frames."""
        return self._dataset("train")

    @cached_property
    def validation(self) -> SequenceDataset:
        """Validation sequences of ``sequence_length`` frames."""
        return self._dataset("validation")

    @cached_property
    def test(self) -> SequenceDataset:
        """Whole test utterances; number i is ``utterances("test")[i]``."""
        return self._dataset("test")

    def dataset(self, part: str) -> SequenceDataset:
        """The part of that name."""
        if part not in PARTS:
            raise ValueError(f"A part is one of {', '.join(PARTS)}, not {part!r}.")
        found: SequenceDataset = getattr(self, part)
        return found

    def utterances(self, part: str) -> tuple[Utterance, ...]:
        """The recordings of a part, without those that are too short."""
        skipped = set(self.dataset(part).skipped_names)
        return tuple(u for u in self._listed[part] if u.name not in skipped)

    def utterance(self, name: str) -> Utterance:
        """The recording of that name; a piece's name, as in ``a.wav[50:100]``, will do."""
        wanted = re.sub(r"\[\d+:\d+\]$", "", name)
        for part in PARTS:
            for utterance in self._listed[part]:
                if utterance.name == wanted:
                    return utterance
        raise ValueError(f"{self.name} has no utterance {wanted!r}.")

    def waveform(self, utterance: Utterance | str) -> Float[Tensor, " samples"]:
        """The prepared waveform (one channel, trimmed, normalised) from which the frames were made."""
        found = self.utterance(utterance) if isinstance(utterance, str) else utterance
        return self.front_end.read(found.path)

    def analyse(self, utterance: Utterance | str) -> Analysis:
        """Power, phase and length of a recording: what is needed to get back to a waveform."""
        return self.front_end.analyse(self.waveform(utterance))

    def summary(self) -> str:
        """A table of the parts: speakers, utterances, hours used, sequences, what was skipped."""
        rows = [f"{'part':<12}{'speakers':>9}{'utterances':>12}{'skipped':>9}{'sequences':>11}{'minutes':>9}"]
        for part in PARTS:
            data, used = self.dataset(part), self.utterances(part)
            minutes = self.front_end.settings.seconds(data.num_frames) / 60
            speakers = len({u.speaker for u in used})
            rows.append(f"{part:<12}{speakers:>9}{len(used):>12}{data.skipped:>9}{len(data):>11}{minutes:>9.1f}")
        return "\n".join([f"{self.name} ({self.licence})", *rows])

    def _dataset(self, part: Part) -> SequenceDataset:
        listed = self._listed[part]
        label = f"{self.name}, {part}"
        features = power_spectrograms([u.path for u in listed], self.front_end, label=label, progress=self.progress)
        cut = part != "test"
        data = SequenceDataset.from_frames(
            *features,
            names=[u.name for u in listed],
            sequence_length=self.sequence_length if cut else None,
            hop=self.hop if cut else None,
            min_length=self.sequence_length,
            report_skipped=False,
        )
        if data.skipped:
            seconds = self.front_end.settings.seconds(self.sequence_length or 1)
            logger.log(
                # What is skipped of a corpus known by name is part of its description; of a reader's folder, news.
                logging.INFO if self.name in {info.name for info in CORPORA} else logging.WARNING,
                "%s: skipped %d of %d utterances, which are shorter than a sequence (%d frames, %.2f s).",
                *(label, data.skipped, len(listed), self.sequence_length or 1, seconds),
            )
        return data


def load_corpus(
    source: str | Path | None = None,
    *,
    sequence_length: int | None = 50,
    hop: int | None = None,
    settings: FrontEndSettings | None = None,
    split: str | Path | None = None,
    max_utterances: int | None = None,
    fetch: bool = True,
    progress: bool = True,
) -> SpeechCorpus:
    """A speech corpus by name, or any folder of audio.

    A folder that holds LibriSpeech or WSJ0 in its own layout is recognised. In any other, the folders directly
    inside are taken for speakers; if they are called ``train``, ``validation`` and ``test``, they are the parts
    (and the folders in them the speakers). Files that lie loose in the folder count as one speaker each.

    Arguments:
        source: a name (see ``list_corpora("speech")``), a folder, or None for speech, whichever is at hand: the
            :func:`default_corpus`; where that is not here and cannot be fetched, the other free one. What was taken
            is said, and stands in the corpus's ``name``.
        sequence_length: frames of a training sequence; 50 are 0.8 s. None keeps utterances whole.
        hop: frames between the starts of two training sequences; by default ``sequence_length``.
        settings: of the front end; by default those of the review.
        split: a CSV file with the columns ``utterance``, ``speaker`` and ``part`` that says which recordings to
            use and for what, such as ``resource_path("splits", "librispeech.csv")``.
        max_utterances: take that many of each part (before short ones are skipped), always the same ones.
        fetch: get a corpus that is not here yet.
        progress: show progress bars.

    Returns:
        The corpus.

    Raises:
        MissingCorpusError: if it is not here; the message says how to get it.
        DownloadError: if it could not be fetched.
        ImportError: if the packages that read it are missing; nothing is then fetched.
        AudioError: if files are damaged; the message names them.
        ValueError: if the name is unknown, or that of a corpus of another kind, such as motion.
    """
    name = _any_speech(fetch, progress) if source is None else source
    if isinstance(name, str) and name not in {info.name for info in CORPORA} and not Path(name).expanduser().is_dir():
        kind = corpus_info(name).kind  # or the error that lists the names
        raise ValueError(f"{name!r} is a corpus of {kind}: load it with dvae_lib.data.load_{name}().")
    if isinstance(name, str) and name in {info.name for info in CORPORA}:
        info = corpus_info(name)
        folder = info.find()
        if folder is None and fetch:
            check_packages(info)
            folder = fetch_corpus(name, progress=progress)
        if folder is None:
            raise MissingCorpusError(f"The corpus {name!r} is not here. {info.instructions}")
        layout, licence, attribution = name, info.licence, info.attribution
    else:
        folder = Path(name).expanduser()
        if not folder.is_dir():
            raise MissingCorpusError(f"There is no folder {folder}. Expected one with audio files.")
        layout, licence, attribution = _layout(folder), "unknown", "unknown"
    utterances = _from_list(folder, Path(split)) if split is not None else _LAYOUTS[layout](folder)
    if max_utterances is not None:
        utterances = _thin(utterances, max_utterances)
    return SpeechCorpus(
        str(name),
        utterances,
        SpeechFrontEnd(settings),
        sequence_length=sequence_length,
        hop=hop,
        licence=licence,
        attribution=attribution,
        progress=progress,
    )


def _any_speech(fetch: bool, progress: bool) -> str:
    """The name of a free speech corpus that is here now, fetched if need be."""
    first = default_corpus()
    names = [first, *(name for name in ("prompts", "librispeech") if name != first)]
    if not fetch:
        return next((name for name in names if corpus_info(name).find() is not None), first)
    problems: list[str] = []
    for name in names:
        info = corpus_info(name)
        try:
            check_packages(info)
            if info.find() is None:
                fetch_corpus(name, progress=progress)
        except (DownloadError, ImportError) as error:
            problems.append(f"{name}: {error}")
            tell(f"The corpus {name!r} is not to be had. {error}")
            continue
        if problems:
            tell(f"Using the corpus {name!r} instead.")
        return name
    raise DownloadError("No speech is here, and none could be fetched. " + " ".join(problems))


def _thin(utterances: list[Utterance], number: int) -> list[Utterance]:
    """So many of each part, chosen by a hash of their names: a mixture, and the same one everywhere."""
    if number < 1:
        raise ValueError(f"max_utterances is at least 1, not {number}.")
    kept: set[str] = set()
    for part in PARTS:
        names = (u.name for u in utterances if u.part == part)
        kept.update(sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())[:number])
    return [u for u in utterances if u.name in kept]


# ------------------------------------------------------------------------------------------------- split lists


def _read_list(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    needed = {"utterance", "speaker", "part"}
    if not rows or not needed <= rows[0].keys():
        raise ValueError(f"{file} is no split list: expected a CSV file with the columns utterance, speaker, part.")
    for line, row in enumerate(rows, start=2):
        if row["part"] not in PARTS:
            raise ValueError(f"{file}, line {line}: the part is one of {', '.join(PARTS)}, not {row['part']!r}.")
    return rows


def _from_list(folder: Path, file: Path) -> list[Utterance]:
    """The recordings that a list names. Where it also gives a file's size, a file of another size is refused."""
    utterances: list[Utterance] = []
    problems: list[str] = []
    for row in _read_list(file):
        path = folder / row["utterance"]
        if not path.suffix or not path.is_file():
            path = next((p for s in sorted(AUDIO_SUFFIXES) if (p := folder / f"{row['utterance']}{s}").is_file()), path)
        if not path.is_file():
            problems.append(f"{path} is missing")
        elif "bytes" in row and path.stat().st_size != int(row["bytes"]):
            problems.append(f"{path} has {path.stat().st_size:,} bytes instead of {int(row['bytes']):,}")
        part: Part = row["part"]  # type: ignore[assignment]
        utterances.append(Utterance(row["utterance"], row["speaker"], part, path))
    if problems:
        raise AudioError(
            f"{len(problems)} of the {len(utterances)} recordings listed in {file.name} are not as expected; "
            f"{'; '.join(problems[:3])}. Delete {folder} and fetch the corpus again, or give a list of what is there."
        )
    return utterances


# ---------------------------------------------------------------------------------------------------- prompts

_PROMPTS_PACKAGES = {
    "asterisk-core-sounds-en-g722": "sha256:38c5261820b406dcb0ecb37675720da2b0864850690690352ca52707eb623806",
    "asterisk-core-sounds-es-g722": "sha256:e4e3b4281057d3b81b779298fd6be705f57411513955c518eed1bcaabbd615b8",
    "asterisk-core-sounds-fr-g722": "sha256:7add61d5e42279ecff1bbdf842a5a946ac3644fac9a0fe44384731aa7270c8e0",
    "asterisk-core-sounds-it-g722": "sha256:46b4cf7afc508a5fcfc051b7ea233251c0d195dd4ef83cc4b7facb4c6429b016",
    "asterisk-core-sounds-ru-g722": "sha256:673b4238a6b8269960f055d868c6a11083f7a0d00979167cb01554046b48ed9b",
}


def _prompts_list() -> Path:
    return resource_path("splits", "prompts.csv")


def _fetch_prompts(progress: bool) -> Path:
    corpora, downloads = cache_folder() / "corpora", cache_folder() / "downloads" / "prompts"
    folder = corpora / "prompts"
    with one_at_a_time(corpora / ".prompts.lock"):
        if folder.is_dir():  # another process was faster
            return folder
        with whole_or_nothing(folder) as draft:
            packages = draft / "packages"
            packages.mkdir()
            fetch_debian_packages(_PROMPTS_PACKAGES, downloads, packages, progress=progress)
            for voice in sorted((packages / "usr/share/asterisk/sounds").iterdir()):
                voice.rename(draft / voice.name)
            for licence in sorted((packages / "usr/share/doc").glob("*/copyright")):
                shutil.copyfile(licence, draft / f"{licence.parent.name}.copyright.txt")
            shutil.rmtree(packages)
            _check_prompts(draft)
        shutil.rmtree(downloads, ignore_errors=True)
    return folder


def _check_prompts(folder: Path) -> None:
    """Every recording that the split list names must be there, bit for bit."""
    wrong = [
        row["utterance"]
        for row in _read_list(_prompts_list())
        if not (file := folder / row["utterance"]).is_file()
        or hashlib.sha256(file.read_bytes()).hexdigest()[:16] != row["sha256"]
    ]
    if wrong:
        raise DownloadError(
            f"{len(wrong)} recordings of the packages are not those of the list (first: {wrong[0]}). This "
            "distribution may carry another version of them; use the corpus 'librispeech' instead."
        )


# ------------------------------------------------------------------------------------------------ LibriSpeech

_DEV_CLEAN = "https://www.openslr.org/resources/12/dev-clean.tar.gz"
_DEV_CLEAN_MD5 = "md5:42e2234ba48799c1f50f24a7926300a1"
_CLEAN_SUBSETS = ("train-clean-100", "dev-clean", "test-clean")
_LIBRISPEECH_SEED = 7


def librispeech_part(speaker: str) -> Part:
    """The part of a LibriSpeech speaker where the corpus's own subsets cannot serve: by the number alone.

    A hash of the speaker's number sends one speaker in ten to validation and one in ten to test. Whatever
    subset of LibriSpeech is at hand, a speaker is thus always in the same part.

    Arguments:
        speaker: the number, as the folder is called.

    Examples:
        >>> librispeech_part("84"), librispeech_part("1272")
        ('train', 'train')
    """
    digest = hashlib.sha256(f"librispeech:{_LIBRISPEECH_SEED}:{speaker}".encode()).digest()
    by_remainder: dict[int, Part] = {0: "validation", 1: "test"}
    return by_remainder.get(int.from_bytes(digest[:8], "big") % 10, "train")


def _find_librispeech() -> Path | None:
    folder = find_folder("LibriSpeech", "librispeech")
    return folder if folder is not None and _clean_subsets(folder) else None


def _clean_subsets(folder: Path) -> list[str]:
    return [subset for subset in _CLEAN_SUBSETS if (folder / subset).is_dir()]


def _librispeech(folder: Path) -> list[Utterance]:
    """The clean subsets at hand; with all three the corpus's own division holds, otherwise :func:`librispeech_part`."""
    subsets = _clean_subsets(folder)
    own: dict[str, Part] = dict(zip(_CLEAN_SUBSETS, PARTS, strict=True))
    utterances = []
    for subset in subsets:
        for file in sorted((folder / subset).glob("*/*/*.flac")):
            speaker = file.parts[-3]
            part = own[subset] if len(subsets) == 3 else librispeech_part(speaker)
            utterances.append(Utterance(file.relative_to(folder).as_posix(), speaker, part, file))
    if not utterances:
        raise MissingCorpusError(
            f"{folder} holds no LibriSpeech recordings; expected {folder / 'train-clean-100' / '19' / '198'}/*.flac "
            "or the like."
        )
    return utterances


def _fetch_librispeech(progress: bool) -> Path:
    corpora, archive = cache_folder() / "corpora", cache_folder() / "downloads" / "dev-clean.tar.gz"
    folder = corpora / "LibriSpeech"
    with one_at_a_time(corpora / ".librispeech.lock"):
        if (folder / "dev-clean").is_dir():
            return folder
        download(_DEV_CLEAN, archive, checksum=_DEV_CLEAN_MD5, progress=progress)
        with whole_or_nothing(folder / "dev-clean") as draft:
            unpack_tar(archive, draft, prefix="LibriSpeech/dev-clean", progress=progress)
        archive.unlink()
    return folder


# ------------------------------------------------------------------------------------------------------- WSJ0

_WSJ0_PARTS: dict[str, Part] = {"si_tr_s": "train", "si_dt_05": "validation", "si_et_05": "test"}


def _wsj0(folder: Path) -> list[Utterance]:
    """The review's three subsets, wherever in the folder they lie (the discs have them under ``wsj0/``)."""
    found: dict[str, Utterance] = {}
    # Sorted, .flac and .wav come before .wv1, so a converted file wins.
    for file in sorted(folder.rglob("*"), key=lambda path: path.as_posix().casefold()):
        subset = next((p.casefold() for p in file.parts if p.casefold() in _WSJ0_PARTS), None)
        if subset is None or file.suffix.casefold() not in (".wav", ".flac", ".wv1") or not file.is_file():
            continue
        stem = file.stem.casefold()
        found.setdefault(stem, Utterance(f"{subset}/{stem}", stem[:3], _WSJ0_PARTS[subset], file))
    missing = [subset for subset, part in _WSJ0_PARTS.items() if part not in {u.part for u in found.values()}]
    if missing:
        raise MissingCorpusError(
            f"{folder} holds no recordings of {', '.join(missing)}; expected files such as "
            f"{missing[0]}/SPEAKER/UTTERANCE.wv1 somewhere in it."
        )
    return sorted(found.values(), key=lambda utterance: utterance.name)


# ----------------------------------------------------------------------------------------- any folder of audio


def _layout(folder: Path) -> str:
    if _clean_subsets(folder):
        return "librispeech"
    if (folder / _prompts_voice()).is_dir():
        return "prompts"
    # At most three levels down, as on the discs of WSJ0: disc/wsj0/si_tr_s.
    if any(p.name.casefold() in _WSJ0_PARTS for depth in ("*", "*/*", "*/*/*") for p in folder.glob(depth)):
        return "wsj0"
    return "folder"


def _prompts_voice() -> str:
    return "en_US_f_Allison"


def _audio_folder(folder: Path) -> list[Utterance]:
    files = [
        file
        for file in sorted(folder.rglob("*"))
        if file.suffix.lower() in AUDIO_SUFFIXES and not file.name.startswith(".") and file.is_file()
    ]
    if not files:
        raise MissingCorpusError(
            f"{folder} holds no audio file. Looked for the endings {', '.join(sorted(AUDIO_SUFFIXES))}."
        )
    inside = [file.relative_to(folder) for file in files]
    aliases: dict[str, Part] = {"train": "train", "validation": "validation", "valid": "validation", "test": "test"}
    aliases |= {"training": "train", "val": "validation", "dev": "validation"}
    tops = {path.parts[0].lower() for path in inside if len(path.parts) > 1}
    if {aliases.get(top) for top in tops} >= set(PARTS) and all(path.parts[0].lower() in aliases for path in inside):
        parts = [aliases[path.parts[0].lower()] for path in inside]
        speakers = ["/".join(path.parts[: 2 if len(path.parts) > 2 else None]) for path in inside]
    else:
        speakers = [path.parts[0] for path in inside]
        if len(set(speakers)) < len(PARTS):
            raise ValueError(
                f"{folder} has {len(set(speakers))} speakers (folders directly inside it, or loose files): "
                f"{', '.join(sorted(set(speakers)))}. Training, validation and test need one each. Add speakers, or "
                "sort the files into folders train, validation and test, or give a split list."
            )
        parts = ["train"] * len(inside)
        for part, members in zip(PARTS, split_by_group(speakers), strict=True):
            for index in members:
                parts[index] = part
        counts = Counter(parts)
        logger.info("%s: split by speaker into %s.", folder, dict(counts))
    return [
        Utterance(path.as_posix(), speaker, part, file)
        for path, speaker, part, file in zip(inside, speakers, parts, files, strict=True)
    ]


_LAYOUTS: dict[str, Callable[[Path], list[Utterance]]] = {
    "prompts": lambda folder: _from_list(folder, _prompts_list()),
    "librispeech": _librispeech,
    "librispeech-excerpt": lambda folder: _from_list(folder, folder / "list.csv"),
    "wsj0": _wsj0,
    "folder": _audio_folder,
}

CORPORA = (
    CorpusInfo(
        name="prompts",
        kind="speech",
        about="telephone announcements at 16 kHz: five voices of four speakers (two of them one bilingual speaker)",
        size="125 minutes; 55 MB to fetch",
        licence="CC BY-SA 3.0 (English, Spanish, French), CC BY 3.0 (Italian, Russian)",
        attribution="Asterisk core sounds: Allison Smith (English, Spanish), June Wallack (French), "
        "Carlo Flora (Italian), ivrvoice.ru (Russian)",
        instructions="Run 'dvae data fetch prompts' on Debian or Ubuntu (it needs apt-get and dpkg-deb, no root), or "
        "unpack the packages asterisk-core-sounds-{en,es,fr,it,ru}-g722 yourself and put the five folders of "
        "usr/share/asterisk/sounds into a folder 'prompts' inside a folder that DVAE_DATA names.",
        find=lambda: find_folder("prompts"),
        fetch=_fetch_prompts,
        packages=("G722",),
    ),
    CorpusInfo(
        name="librispeech",
        kind="speech",
        about="English audiobooks read by volunteers (Panayotov et al., 2015), 16 kHz",
        size="dev-clean: 5.4 hours, 40 speakers, 337 MB to fetch; with a folder of your own as much as it holds",
        licence="CC BY 4.0",
        attribution="LibriSpeech (Panayotov, Chen, Povey, Khudanpur, 2015), from LibriVox recordings",
        instructions="Run 'dvae data fetch librispeech' for the part dev-clean, or put a folder 'LibriSpeech' in the "
        "corpus's own layout (LibriSpeech/train-clean-100/SPEAKER/CHAPTER/*.flac) inside a folder that DVAE_DATA "
        "names.",
        find=_find_librispeech,
        fetch=_fetch_librispeech,
        packages=("soundfile",),
    ),
    CorpusInfo(
        name="librispeech-excerpt",
        kind="speech",
        about="the beginnings of recordings of LibriSpeech that travel with the library, for the book's pages",
        size="44 recordings, 1.8 minutes",
        licence="CC BY 4.0",
        attribution="LibriSpeech (Panayotov, Chen, Povey, Khudanpur, 2015), from LibriVox recordings",
        instructions="It comes with the library.",
        find=lambda: exhibit("librispeech").folder,
        packages=("soundfile",),
    ),
    CorpusInfo(
        name="wsj0",
        kind="speech",
        about="read news from the Wall Street Journal (Garofolo et al., 1993), the review's corpus, 16 kHz",
        size="about 29 hours in the three subsets used",
        licence="LDC user agreement (licensed; LDC93S6A)",
        attribution="CSR-I (WSJ0) Complete, Linguistic Data Consortium, LDC93S6A",
        instructions="Get it from the Linguistic Data Consortium (LDC93S6A), then put a folder 'wsj0' with si_tr_s, "
        "si_dt_05 and si_et_05 inside a folder that DVAE_DATA names, or give its path to load_corpus. Compressed "
        "SPHERE files must first be converted with the LDC's sph2pipe.",
        find=lambda: find_folder("wsj0", "WSJ0"),
    ),
)
