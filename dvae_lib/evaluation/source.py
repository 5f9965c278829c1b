"""Which sequences a model is evaluated on: the test part of its own corpus, or others, and none that it has seen."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dvae_lib.data.catalogue import LoadedCorpus
from dvae_lib.data.heldout import marks, same_marks, seen_before
from dvae_lib.data.labels import Labels
from dvae_lib.data.loading import load, source_names
from dvae_lib.data.speech import FrontEndSettings
from dvae_lib.data.splits import Splits
from dvae_lib.data.standardize import Standardizer
from dvae_lib.models.base import DVAE

__all__ = ["evaluation_source"]

logger = logging.getLogger("dvae_lib.evaluation")


def evaluation_source(model: DVAE, source: str | Path | None = None, *, limit: int | None = None) -> LoadedCorpus:
    """Sequences as the model wants to see them: analysed and standardised as those that it was trained on.

    Of a reader's own sequences the test part leaves out those that the model was trained with, which the log says.

    Arguments:
        model: A trained model.
        source: A corpus or a path, see `dvae_lib.data.loading.load`; None takes what the model was trained on.
        limit: At most so many recordings of each part of a speech corpus; None takes as many as in the training where
            `source` is None, else all.

    Raises:
        ValueError: The model does not say what it was trained on, the sequences have another size than its vectors, or
            it was trained with all of them.
        FileNotFoundError: No such path, or a corpus that is not here, with how to get it.
    """
    card = model.metadata
    saved = {"source": card.get("corpus"), "sequence_length": card.get("sequence_length"), **card.get("data", {})}
    if source is None:
        if saved["source"] is None:
            raise ValueError("The model does not say what it was trained on: name a corpus or a path to evaluate it on")
        source = saved["source"] if saved["source"] in source_names() else Path(saved["source"])
        limit = saved.get("limit") if limit is None else limit
    front_end = card.get("front_end")
    # How its files were read goes for the corpus itself, and for files in its place.
    alike = str(source) == saved["source"] or not {str(source), saved["source"]} & set(source_names())
    # A model that reads steps of time reads them in its own scale, from the column of the training.
    steps = Labels.from_dict(card.get("table", {})).time_steps
    timed: dict[str, Any] = {} if steps is None else {"time": steps.column, "time_steps": steps}
    found = load(
        source,
        # The split depends on these. Of the same sequences, wherever they lie now, it is the run's own.
        sequence_length=saved["sequence_length"],
        seed=saved.get("seed", 0),
        split=saved.get("split", "group"),
        missing=saved.get("missing", False),
        limit=limit,
        settings=None if front_end is None else FrontEndSettings.from_dict(front_end),
        **(saved.get("options", {}) if alike else {}),
        **timed,
    )
    if found.kind == "speech":
        return found
    if found.parts.test.x_dim != model.x_dim:
        raise ValueError(
            f"The model observes vectors of size {model.x_dim}, those of {found.name} have {found.parts.test.x_dim}"
        )
    own = card.get("standardizer")
    for part in (found.parts.train, found.parts.validation, found.parts.test):
        part.standardizer = None if own is None else Standardizer.from_dict(own)
    return _unseen(found, saved.get("seen", []), saved["sequence_length"])


def _unseen(source: LoadedCorpus, seen: Sequence[Sequence[float]], length: int | None) -> LoadedCorpus:
    """The source without the test sequences that the model was trained with."""
    assert isinstance(source.parts, Splits)
    test = source.parts.test
    known = seen_before(test, seen, length)
    if not seen or (not any(known) and same_marks(marks(source.parts.train, source.parts.validation), seen)):
        return source  # nothing to compare with; or the data of the training
    kept = [i for i, was_seen in enumerate(known) if not was_seen]
    if not kept:
        raise ValueError(
            f"All {len(test)} test sequences of {source.name} are among those that the model was trained with"
        )
    left_out = f" {len(test) - len(kept)} of its {len(test)} test sequences were among these, and are left out."
    logger.warning(
        "Note: %s does not hold the sequences that the model was trained with, and those alone.%s",
        source.name,
        left_out if any(known) else "",
    )
    return replace(source, parts=source.parts._replace(test=test.select(kept)))
