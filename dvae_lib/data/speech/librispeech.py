"""LibriSpeech: English audiobooks, in the corpus's own layout; and the excerpt of it that travels with the library."""

import hashlib
from pathlib import Path

from dvae_lib.data.catalogue import MissingCorpusError
from dvae_lib.data.exhibits import exhibit
from dvae_lib.data.fetch import download, unpack_tar
from dvae_lib.data.places import cache_folder, find_folder, one_at_a_time, whole_or_nothing
from dvae_lib.data.speech.corpus import PARTS, Part, Utterance, from_list, register_speech

__all__ = ["librispeech_part"]


_DEV_CLEAN = "https://www.openslr.org/resources/12/dev-clean.tar.gz"


_DEV_CLEAN_MD5 = "md5:42e2234ba48799c1f50f24a7926300a1"


_CLEAN_SUBSETS = ("train-clean-100", "dev-clean", "test-clean")


_LIBRISPEECH_SEED = 7


def librispeech_part(speaker: str) -> Part:
    """The part of a LibriSpeech speaker where the corpus's own subsets cannot serve: by the number alone.

    A hash of the speaker's number sends one speaker in ten to validation and one in ten to test. Whatever
    subset of LibriSpeech is at hand, a speaker is thus always in the same part.

    Arguments:
        speaker: The number, as the folder is called.

    Example:
        >>> librispeech_part("84"), librispeech_part("1272")
        ('train', 'train')
    """
    digest = hashlib.sha256(f"librispeech:{_LIBRISPEECH_SEED}:{speaker}".encode()).digest()
    by_remainder: dict[int, Part] = {0: "validation", 1: "test"}
    return by_remainder.get(int.from_bytes(digest[:8], "big") % 10, "train")


def _find() -> Path | None:
    folder = find_folder("LibriSpeech", "librispeech")
    return folder if folder is not None and _clean_subsets(folder) else None


def _clean_subsets(folder: Path) -> list[str]:
    return [subset for subset in _CLEAN_SUBSETS if (folder / subset).is_dir()]


def _list(folder: Path) -> list[Utterance]:
    """The clean subsets at hand; with all three the corpus's own division holds, otherwise `librispeech_part`."""
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
            "or the like"
        )
    return utterances


def _fetch(progress: bool) -> Path:
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


_ATTRIBUTION = "LibriSpeech (Panayotov, Chen, Povey, Khudanpur, 2015), from LibriVox recordings"

register_speech(
    _list,
    name="librispeech",
    about="English audiobooks read by volunteers (Panayotov et al., 2015), 16 kHz",
    size="dev-clean: 5.4 hours, 40 speakers, 337 MB to fetch; with a folder of your own as much as it holds",
    licence="CC BY 4.0",
    attribution=_ATTRIBUTION,
    instructions="Run 'dvae data fetch librispeech' for the part dev-clean, or put a folder 'LibriSpeech' in the "
    "corpus's own layout (LibriSpeech/train-clean-100/SPEAKER/CHAPTER/*.flac) inside a folder that DVAE_DATA "
    "names.",
    find=_find,
    fetch=_fetch,
    packages=("soundfile",),
    recognises=lambda folder: bool(_clean_subsets(folder)),
)

register_speech(
    lambda folder: from_list(folder, folder / "list.csv"),
    name="librispeech-excerpt",
    about="the beginnings of recordings of LibriSpeech that travel with the library, for the book's pages",
    size="44 recordings, 1.8 minutes",
    licence="CC BY 4.0",
    attribution=_ATTRIBUTION,
    instructions="It comes with the library.",
    find=lambda: exhibit("librispeech").folder,
    packages=("soundfile",),
)
