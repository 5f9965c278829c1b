"""The one door to data: sequences by the name of a corpus, or from a reader's own files."""

from collections.abc import Sequence
from inspect import Parameter, signature
from pathlib import Path
from typing import Any, Literal

from dvae_lib.data.catalogue import Corpus, Kind, LoadedCorpus, MissingCorpusError, Parts, corpus_info, list_corpora
from dvae_lib.data.own_files import facts_of_files, kind_of_files, load_files
from dvae_lib.data.speech.corpus import SpeechCorpus
from dvae_lib.data.speech.front_end import FrontEndSettings
from dvae_lib.data.speech.load import load_corpus
from dvae_lib.data.steps import TimeSteps

__all__ = ["Source", "load", "load_source", "source_names"]

Source = LoadedCorpus
"""The same under its former name."""


def source_names() -> list[str]:
    """The names that `load` knows."""
    return [corpus.name for corpus in (*list_corpora(), *list_corpora("toy"))]


def load(
    source: str | Path,
    *,
    sequence_length: int | None = None,
    limit: int | None = None,
    settings: FrontEndSettings | None = None,
    seed: int = 0,
    split: Literal["group", "time"] = "group",
    standardize: bool | Sequence[str | int] | None = None,
    missing: bool = False,
    time: str | None = None,
    time_steps: Literal["input"] | TimeSteps | None = None,
    fetch: bool = True,
    progress: bool = True,
    **options: Any,
) -> LoadedCorpus:
    """Sequences by the name of a corpus, or from the reader's own files.

    Arguments:
        source: One of `source_names` (also as a path, where no such file exists); a folder of audio, CSV, NumPy,
            MIDI or BVH files, one sequence each, in subfolders too; a file ``.npy`` of shape (N, T, x_dim), or ``.npz``
            with an array (T_i, x_dim) for each sequence; with ``split="time"`` also one CSV, MIDI or BVH file or one
            array (T, x_dim). A file ``.npz`` may name the parts itself, as in ``X_train``, ``X_validation``,
            ``X_test``.
        sequence_length: Frames of a training sequence. By default what suits the corpus: 50 for speech and motion,
            whole sequences otherwise.
        limit: Take at most so many recordings of each part of a speech corpus.
        settings: Of the speech front end; by default the review's.
        seed: Of the split of the reader's own sequences, or of a toy system.
        split: Of the reader's own sequences, see `from_arrays`.
        standardize: The reader's own sequences. None does it unless they hold zeros and ones only, or are
            motion in metres. Say False for
            observation models that do not take every real number, such as "gamma"; or name the columns to be
            standardised, where only some are.
        missing: Whether NaN, or an empty cell, of the reader's own sequences stands for a missing value; otherwise it
            is refused. See `SequenceDataset`.
        time: The column of the reader's own CSV files that holds the times; None finds it. Their rhythm is kept with
            the model. Times must not run backwards or repeat, and those of a column that is named here must not jump,
            unless the model reads their steps.
        time_steps: "input" makes the time since the row before an input of the model, for the reader's own CSV files
            whose rows are not evenly spaced; see `from_arrays`.
        fetch: Get a corpus that is not here yet, where a program may.
        progress: Show progress bars.
        options: Of the corpus's own loader, such as ``fps=15`` for "cmu"; see `dvae_lib.data.load_cmu` and its like. Of
            a reader's MIDI files those of `midi_to_roll` (``steps=2``, ``per="second"``), of BVH files ``fps``,
            ``centre``, ``metres_per_unit`` and ``shifts``.

    Returns:
        The parts, as ``.train``, ``.validation`` and ``.test``, and what is to be saved with a model.

    Raises:
        MissingCorpusError: No such path, or a corpus that is not here, with how to get it.
        ValueError: An unknown name, or files that do not hold sequences.
        TypeError: An option that the corpus does not have.

    Example:
        >>> swings = load("pendulum", num_sequences=20, num_steps=30)
        >>> len(swings.train), swings.train.x_dim, swings.observation
        (16, 2, 'gaussian')
    """
    length = {} if sequence_length is None else {"sequence_length": sequence_length}
    about: dict[str, Any] = {"source": str(source), **length, "seed": seed}
    if limit is not None:
        about["limit"] = limit
    if options:
        about["options"] = {name: str(value) if isinstance(value, Path) else value for name, value in options.items()}
    asked = {"limit": limit, "settings": settings, **options}
    asked = {name: value for name, value in asked.items() if value is not None}
    timed: dict[str, Any] = {} if time is None else {"time": time}
    timed |= {} if time_steps is None else {"time_steps": time_steps}
    if str(source) in source_names() and (isinstance(source, str) or not source.exists()):
        corpus = corpus_info(str(source))
        offered = {"sequence_length": sequence_length or corpus.sequence_length, "seed": seed, "progress": progress}
        wanted = {**_known(corpus, offered), **_known(corpus, {**asked, **timed}, refuse=True)}
        parts = corpus.load(corpus.at_hand(fetch=fetch, progress=progress), **wanted)
        if corpus.find is not None:
            about |= {"licence": corpus.licence, "attribution": corpus.attribution}
        return _loaded(corpus.name, corpus.kind, parts, about)
    path = Path(source).expanduser()
    if not path.exists():
        raise MissingCorpusError(
            f"there is no corpus and no file or folder {str(source)!r}. Corpora: {', '.join(source_names())}"
        )
    about["source"] = str(path.resolve())
    what = kind_of_files(path)
    if what == "audio" and not timed:
        speech = load_corpus(
            path,
            sequence_length=sequence_length or 50,
            max_utterances=limit,
            settings=settings,
            progress=progress,
            **options,
        )
        about |= {"licence": speech.licence, "attribution": speech.attribution}
        return _loaded(str(source), "speech", speech, about)
    if split != "group":
        about["split"] = split
    if standardize is not None:
        about["standardize"] = standardize if isinstance(standardize, bool) else list(standardize)
    if missing:
        about["missing"] = True
    about |= timed if time_steps is None else {**timed, "time_steps": "input"}
    choices: dict[str, Any] = {"split": split, "standardize": standardize, "missing": missing, **timed}
    kind = _OWN_KINDS.get(what, "sequences")
    if kind == "motion":
        sequence_length = sequence_length or 50
    if facts := facts_of_files(path, what, options):
        about["files"] = facts
    own = load_files(path, sequence_length=sequence_length, seed=seed, **choices, **asked)
    return _loaded(str(source), kind, own, about)


_OWN_KINDS: dict[str, Kind] = {"midi": "music", "bvh": "motion"}
"""What the sequences in a reader's files are; those of others may be anything."""


def _loaded(name: str, kind: Kind, parts: Parts, about: dict[str, Any]) -> LoadedCorpus:
    metadata: dict[str, Any] = {"data": about}
    if isinstance(parts, SpeechCorpus):
        metadata["front_end"] = parts.front_end.settings.to_dict()
    return LoadedCorpus(name, kind, parts, metadata)


def _known(corpus: Corpus, options: dict[str, Any], *, refuse: bool = False) -> dict[str, Any]:
    """Those options that the corpus's loader has; the others are left out, or refused."""
    parameters = list(signature(corpus.load).parameters.values())[1:]
    names = {parameter.name for parameter in parameters if parameter.kind is Parameter.KEYWORD_ONLY}
    takes_all = refuse and any(parameter.kind is Parameter.VAR_KEYWORD for parameter in parameters)
    unknown = [name for name in options if name not in names]
    if refuse and unknown and not takes_all:
        raise TypeError(f"the corpus {corpus.name!r} has no {', '.join(unknown)}; it has {', '.join(sorted(names))}")
    return {name: value for name, value in options.items() if name in names or takes_all}


def load_source(source: str | Path, **options: Any) -> LoadedCorpus:
    """`load` under its former name."""
    return load(source, **options)
