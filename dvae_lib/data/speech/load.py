"""The door to speech: a corpus by name, any folder of audio, or whichever speech there is."""

import shutil
from pathlib import Path
from typing import Any, Literal

from dvae_lib.data.catalogue import MissingCorpusError, Parts, corpus_info, list_corpora, tell
from dvae_lib.data.fetch import DownloadError
from dvae_lib.data.speech.corpus import SpeechCorpus, speech_loader
from dvae_lib.data.speech.folder import list_audio
from dvae_lib.data.speech.front_end import FrontEndSettings

__all__ = ["default_corpus", "load_corpus"]


def load_corpus(
    source: str | Path | None = None,
    *,
    sequence_length: int | Literal["default"] | None = "default",
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
        source: A name (see ``list_corpora("speech")``), a folder, or None for speech, whichever is at hand: the
            `default_corpus`; where that is not here and cannot be fetched, the other free one. What was taken
            is said, and stands in the corpus's ``name``.
        sequence_length: Frames of a training sequence; None keeps utterances whole. By default what suits the corpus:
            50, which are 0.8 s, and whole utterances of spoken digits.
        hop: Frames between the starts of two training sequences; by default ``sequence_length``.
        settings: Of the front end; by default those of the review.
        split: A CSV file with the columns ``utterance``, ``speaker`` and ``part`` that says which recordings to
            use and for what, such as ``resource_path("splits", "librispeech.csv")``.
        max_utterances: Take that many of each part (before short ones are skipped), always the same ones.
        fetch: Get a corpus that is not here yet.
        progress: Show progress bars.

    Returns:
        The corpus.

    Raises:
        MissingCorpusError: If it is not here; the message says how to get it.
        DownloadError: If it could not be fetched.
        ImportError: If the packages that read it are missing; nothing is then fetched.
        AudioError: If files are damaged; the message names them.
        ValueError: If the name is unknown, or that of a corpus of another kind, such as motion.
    """
    name = _any_speech(fetch, progress) if source is None else source
    options: dict[str, Any] = {
        "sequence_length": 50 if sequence_length == "default" else sequence_length,
        "hop": hop,
        "settings": settings,
        "split": split,
        "limit": max_utterances,
        "progress": progress,
    }
    if isinstance(name, str) and name in {corpus.name for corpus in list_corpora("speech")}:
        corpus = corpus_info(name)
        if sequence_length == "default":
            options["sequence_length"] = corpus.sequence_length
        return _speech(corpus.load(corpus.at_hand(fetch=fetch, progress=progress), **options))
    folder = Path(name).expanduser()
    if isinstance(name, str) and not folder.is_dir():
        kind = corpus_info(name).kind  # or the error that lists the names
        raise ValueError(f"{name!r} is a corpus of {kind}: load it with dvae_lib.data.load({name!r})")
    if not folder.is_dir():
        raise MissingCorpusError(f"there is no folder {folder}; expected one with audio files")
    recognised = (c.load for c in list_corpora("speech") if c.recognises is not None and c.recognises(folder))
    return _speech(next(recognised, speech_loader(list_audio))(folder, called=str(name), **options))


def _speech(parts: Parts) -> SpeechCorpus:
    assert isinstance(parts, SpeechCorpus)  # what kind="speech" promises
    return parts


def _any_speech(fetch: bool, progress: bool) -> str:
    """The name of a free speech corpus that is here now, fetched if need be."""
    first = default_corpus()
    names = [first, *(name for name in ("prompts", "librispeech") if name != first)]
    if not fetch:
        return next((name for name in names if corpus_info(name).folder is not None), first)
    problems: list[str] = []
    for name in names:
        corpus = corpus_info(name)
        try:
            corpus.check_packages()
            corpus.at_hand(progress=progress)
        except (DownloadError, ImportError) as error:
            problems.append(f"{name}: {error}")
            tell(f"The corpus {name!r} is not to be had. {error}")
            continue
        if problems:
            tell(f"Using the corpus {name!r} instead.")
        return name
    raise DownloadError("No speech is here, and none could be fetched. " + " ".join(problems))


def default_corpus() -> str:
    """The speech corpus used where none is named.

    It is ``"prompts"`` where that is present already or apt-get is at hand to fetch it (Debian, Ubuntu, and so
    Colab), and ``"librispeech"`` elsewhere, which is then said.
    """
    if corpus_info("prompts").folder is not None or (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        return "prompts"
    tell("Using the corpus 'librispeech': 'prompts' comes in packages of Debian and Ubuntu, which apt-get would fetch.")
    return "librispeech"
