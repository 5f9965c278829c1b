"""Which corpora there are, where they come from, how to get them and what reads them.

Each corpus says all of this of itself, once, in a file of its own: one `Corpus`, handed to `register_corpus`.
"""

import hashlib
import logging
import pkgutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

from dvae_lib.data.sequences import SequenceDataset
from dvae_lib.extras import SPEECH_EXTRA

__all__ = [
    "Corpus",
    "CorpusInfo",
    "Kind",
    "LoadedCorpus",
    "MissingCorpusError",
    "checksum",
    "corpus_info",
    "describe",
    "fetch_corpus",
    "list_corpora",
    "register_corpus",
]

logger = logging.getLogger("dvae_lib.data")

Kind = Literal["speech", "motion", "music", "toy", "sequences"]


class MissingCorpusError(FileNotFoundError):
    """A corpus that is not on this machine; the message says exactly how to get it."""


if TYPE_CHECKING:

    class Parts(Protocol):
        """Sequences in three parts: `Splits`, or a `SpeechCorpus`, which computes each when it is first asked for."""

        @property
        def train(self) -> SequenceDataset:
            """Training sequences."""

        @property
        def validation(self) -> SequenceDataset:
            """Validation sequences."""

        @property
        def test(self) -> SequenceDataset:
            """Test sequences."""

else:  # whoever asked at run time whether an object has these three would have them computed
    Parts = Any


@dataclass(frozen=True)
class Corpus:
    """What is known of a corpus before it is there, and what reads it.

    Arguments:
        name: As in ``load(name)``: letters, digits and hyphens.
        kind: "speech" (power spectra), "motion" (joint positions in metres), "music" (piano rolls), "toy", or
            "sequences" of any other kind.
        about: What it is, in one line.
        size: How much it is, in words.
        licence: Under which its recordings are.
        attribution: Whom to name where recordings, or what was made from them, are published.
        instructions: How to get it, as one would tell a person.
        load: Reads it: ``load(folder, **options)`` gives its three parts. What `dvae_lib.data.load` is asked for goes
            to it, as far as it has an argument of that name: `sequence_length`, `seed`, `progress`, others of its own.
        find: Looks for it on the search path; returns its folder or None. None stands for a corpus without files,
            which is generated.
        fetch: Gets it, showing progress if asked to; None where only a person can (a licence must be signed).
        packages: What reads its files, as Python imports it.
        extra: The extra of the library that these packages come with.
        recognises: Whether a folder, given by its path, holds it in its own layout.
        sequence_length: Frames of a training sequence where nobody asks for another number; None keeps them whole.
    """

    name: str
    kind: Kind
    about: str
    size: str
    licence: str
    attribution: str
    instructions: str
    load: Callable[..., Parts]
    find: Callable[[], Path | None] | None
    fetch: Callable[[bool], Path] | None = None
    packages: tuple[str, ...] = ()
    extra: str = "speech"
    recognises: Callable[[Path], bool] | None = None
    sequence_length: int | None = None

    @property
    def folder(self) -> Path | None:
        """Where it is; None where it is not on this machine, or has no files."""
        return None if self.find is None else self.find()

    def check_packages(self) -> None:
        """Refuse, before anything is downloaded, to get a corpus whose files could then not be read.

        Raises:
            ImportError: Packages are missing; the message names them and the extra they come with.
        """
        if missing := [package for package in self.packages if find_spec(package) is None]:
            command = SPEECH_EXTRA if self.extra == "speech" else f'pip install "dvae-lib[{self.extra}]"'
            raise ImportError(
                f"the corpus {self.name!r} is read with {' and '.join(missing)}, which is not installed: {command}"
            )

    def at_hand(self, *, fetch: bool = True, progress: bool = True) -> Path | None:
        """Its folder, fetched if need be; None for a corpus without files.

        Arguments:
            fetch: Whether it may be fetched.
            progress: Show progress bars.

        Raises:
            MissingCorpusError: It is not here, and not to be fetched; the message says how to get it.
            DownloadError: Fetching failed.
            ImportError: The packages that read it are missing; nothing is then fetched.
        """
        if self.find is None:
            return None
        found = self.find()
        if found is None and fetch:
            if self.fetch is not None:
                self.check_packages()
            found = fetch_corpus(self.name, progress=progress)
        if found is None:
            raise MissingCorpusError(f"the corpus {self.name!r} is not here. {self.instructions}")
        return found


CorpusInfo = Corpus
"""The same under its former name."""


@dataclass(frozen=True)
class LoadedCorpus:
    """A corpus, or a reader's own sequences, ready to train on.

    Attributes:
        name: What was asked for.
        kind: See `Corpus`.
        parts: Training and validation sequences, cut, and test sequences, whole.
        metadata: JSON data to be saved with a model, so that others know what it was trained on.
    """

    name: str
    kind: Kind
    parts: Parts
    metadata: dict[str, Any]

    @property
    def train(self) -> SequenceDataset:
        """Training sequences."""
        return self.parts.train

    @property
    def validation(self) -> SequenceDataset:
        """Validation sequences, which decide when to stop."""
        return self.parts.validation

    @property
    def test(self) -> SequenceDataset:
        """Test sequences."""
        return self.parts.test

    @property
    def observation(self) -> str:
        """The observation model that suits the data, by name: "gamma", "bernoulli" or "gaussian"."""
        if self.kind == "speech":
            return "gamma"
        binary = self.train.standardizer is None and self.train.first_outside(0.0, 1.0, whole=True) is None
        return "bernoulli" if binary else "gaussian"

    @property
    def test_recordings(self) -> tuple[Any, ...]:
        """The recordings behind `test` where it is speech: an `Utterance` for each sequence."""
        return self.parts.utterances("test") if self.kind == "speech" else ()  # type: ignore[attr-defined]

    @cached_property
    def facts(self) -> dict[str, Any]:
        """Sizes and checksums of the parts."""
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        return {
            name: {"sequences": len(data), "frames": data.num_frames, "sha256": checksum(data)}
            for name, data in parts.items()
        }


def checksum(data: SequenceDataset) -> str:
    """SHA-256 of the names, the lengths and all values (as 32-bit floats), the first 16 digits."""
    digest = hashlib.sha256(repr((data.names, data.lengths.tolist())).encode())
    for i in range(len(data)):
        digest.update(data[i].contiguous().numpy().astype("<f4").tobytes())
    return digest.hexdigest()[:16]


_CORPORA: dict[str, Corpus] = {}


def register_corpus(corpus: Corpus) -> Corpus:
    """Make a corpus known by its name: to `load`, to ``dvae data`` and to ``dvae train --data NAME``.

    Arguments:
        corpus: The corpus.

    Returns:
        The same.

    Raises:
        ValueError: Another corpus has the name, or the name holds anything but letters, digits and hyphens.
    """
    if not corpus.name.replace("-", "").isalnum():
        raise ValueError(f"the name of a corpus holds letters, digits and hyphens only; got {corpus.name!r}")
    known = _CORPORA.get(corpus.name)
    if known is not None and known.about != corpus.about:
        raise ValueError(f"there is a corpus {corpus.name!r} already: {known.about}; give yours another name")
    _CORPORA[corpus.name] = corpus
    return corpus


def list_corpora(kind: str | None = None) -> tuple[Corpus, ...]:
    """All corpora known by name, or those of one kind. What is generated is listed where its kind, "toy", is asked for.

    Example:
        >>> import dvae_lib.data
        >>> [corpus.name for corpus in list_corpora("motion")]
        ['cmu', 'h36m', 'hdm05', 'mocap', 'mocap-excerpt']
    """
    kinds = get_args(Kind)
    ordered = sorted(_CORPORA.values(), key=lambda corpus: (kinds.index(corpus.kind), corpus.name))
    if kind is None:
        return tuple(corpus for corpus in ordered if corpus.find is not None)
    return tuple(corpus for corpus in ordered if corpus.kind == kind)


def corpus_info(name: str) -> Corpus:
    """What is known of the corpus of that name.

    Raises:
        ValueError: There is none; the message lists those there are.
    """
    if name not in _CORPORA:
        raise ValueError(f"no corpus is called {name!r}. There are {', '.join(_CORPORA)}; or give a folder as a Path")
    return _CORPORA[name]


def describe(name: str) -> str:
    """What a corpus is, its licence, where it stands here, or how to get it: text for a person."""
    corpus = corpus_info(name)
    found = corpus.folder
    where = f"  here         {found}" if found else f"  not here     {corpus.instructions}"
    if corpus.find is None:
        where = f"  generated    {corpus.instructions}"
    return "\n".join(
        (
            f"{corpus.name} ({corpus.kind}): {corpus.about}",
            f"  size         {corpus.size}",
            f"  licence      {corpus.licence}",
            f"  attribution  {corpus.attribution}",
            where,
        )
    )


def fetch_corpus(name: str, *, progress: bool = True) -> Path:
    """Get a corpus, unless it is there already; one line says so before, whatever `progress` is.

    Fetching resumes where it was interrupted, checks what came, and makes the corpus appear whole or not at all.

    Arguments:
        name: See `list_corpora`.
        progress: Show progress bars.

    Returns:
        The corpus's folder.

    Raises:
        MissingCorpusError: It cannot be fetched by a program; the message says what to do.
        DownloadError: Fetching failed.
        OSError: On a full disk, with nothing left on it.
    """
    corpus = corpus_info(name)
    found = corpus.folder
    if found is not None:
        return found
    if corpus.fetch is None:
        raise MissingCorpusError(f"the corpus {name!r} is not here, and no program may fetch it. {corpus.instructions}")
    tell(f"Fetching the corpus {name}, once ({corpus.size}; {corpus.licence}).")
    return corpus.fetch(progress)


def tell(line: str) -> None:
    """Say what happens: in the log where that is shown, as in the command line, otherwise in print."""
    if logger.isEnabledFor(logging.INFO):
        logger.info("%s", line)
    else:
        print(line, flush=True)


def import_all(package: str, path: Iterable[str]) -> None:
    """Import the files of a folder, so that the corpora in them register themselves: a new one needs no list.

    Arguments:
        package: Name of the package.
        path: Its ``__path__``.
    """
    for module in pkgutil.iter_modules(path):
        import_module(f"{package}.{module.name}")
