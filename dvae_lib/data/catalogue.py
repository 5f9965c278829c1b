"""Which corpora there are, where they come from, and how to get them."""

import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from dvae_lib.extras import SPEECH_EXTRA

__all__ = [
    "CorpusInfo",
    "MissingCorpusError",
    "corpus_info",
    "default_corpus",
    "describe",
    "fetch_corpus",
    "list_corpora",
]

logger = logging.getLogger("dvae_lib.data")

# Modules of this package that have a tuple CORPORA of CorpusInfo.
_MODULES = ("corpora", "mocap", "music")


class MissingCorpusError(FileNotFoundError):
    """A corpus that is not on this machine; the message says exactly how to get it."""


@dataclass(frozen=True)
class CorpusInfo:
    """What is known of a corpus before it is there.

    Attributes:
        name: as in ``load_corpus(name)``.
        kind: ``"speech"``, ``"motion"`` or ``"music"``.
        about: what it is, in one line.
        size: how much it is, in words.
        licence: under which its recordings are.
        attribution: whom to name where recordings, or what was made from them, are published.
        instructions: how to get it, as one would tell a person.
        find: looks for it on the search path; returns its folder or None.
        fetch: gets it, showing progress if asked to; None where only a person can (a licence must be signed).
        packages: what reads its files, as Python imports it; they come with the extra ``speech``.
    """

    name: str
    kind: str
    about: str
    size: str
    licence: str
    attribution: str
    instructions: str
    find: Callable[[], Path | None]
    fetch: Callable[[bool], Path] | None = None
    packages: tuple[str, ...] = ()


def list_corpora(kind: str | None = None) -> tuple[CorpusInfo, ...]:
    """All corpora known by name, or those of one kind.

    Examples:
        >>> [corpus.name for corpus in list_corpora("speech")]
        ['prompts', 'librispeech', 'librispeech-excerpt', 'wsj0']
    """
    every = [info for module in _MODULES for info in import_module(f"dvae_lib.data.{module}").CORPORA]
    return tuple(info for info in every if kind in (None, info.kind))


def corpus_info(name: str) -> CorpusInfo:
    """What is known of the corpus of that name.

    Raises:
        ValueError: if there is none; the message lists those there are.
    """
    known = {info.name: info for info in list_corpora()}
    if name not in known:
        raise ValueError(f"No corpus is called {name!r}. There are {', '.join(known)}; or give a folder as a Path.")
    return known[name]


def describe(name: str) -> str:
    """What a corpus is, its licence, where it stands here, or how to get it: text for a person."""
    info = corpus_info(name)
    found = info.find()
    return "\n".join(
        (
            f"{info.name} ({info.kind}): {info.about}",
            f"  size         {info.size}",
            f"  licence      {info.licence}",
            f"  attribution  {info.attribution}",
            f"  here         {found}" if found else f"  not here     {info.instructions}",
        )
    )


def fetch_corpus(name: str, *, progress: bool = True) -> Path:
    """Get a corpus, unless it is there already; one line says so before, whatever ``progress`` is.

    Fetching resumes where it was interrupted, checks what came, and makes the corpus appear whole or not at all.

    Arguments:
        name: see :func:`list_corpora`.
        progress: show progress bars.

    Returns:
        The corpus's folder.

    Raises:
        MissingCorpusError: if it cannot be fetched by a program; the message says what to do.
        DownloadError: if fetching failed.
        OSError: on a full disk, with nothing left on it.
    """
    info = corpus_info(name)
    found = info.find()
    if found is not None:
        return found
    if info.fetch is None:
        raise MissingCorpusError(f"The corpus {name!r} is not here, and no program may fetch it. {info.instructions}")
    tell(f"Fetching the corpus {name}, once ({info.size}; {info.licence}).")
    return info.fetch(progress)


def check_packages(info: CorpusInfo) -> None:
    """Refuse, before anything is downloaded, to get a corpus whose files could then not be read.

    Raises:
        ImportError: naming the packages and the extra they come with.
    """
    if missing := [package for package in info.packages if find_spec(package) is None]:
        raise ImportError(
            f"The corpus {info.name!r} is read with {' and '.join(missing)}, which is not installed: {SPEECH_EXTRA}."
        )


def default_corpus() -> str:
    """The speech corpus used where none is named.

    It is ``"prompts"`` where that is present already or apt-get is at hand to fetch it (Debian, Ubuntu, and so
    Colab), and ``"librispeech"`` elsewhere, which is then said.
    """
    if corpus_info("prompts").find() is not None or (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        return "prompts"
    tell("Using the corpus 'librispeech': 'prompts' comes in packages of Debian and Ubuntu, which apt-get would fetch.")
    return "librispeech"


def tell(line: str) -> None:
    """Say what happens: in the log where that is shown, as in the command line, otherwise in print."""
    if logger.isEnabledFor(logging.INFO):
        logger.info("%s", line)
    else:
        print(line, flush=True)
