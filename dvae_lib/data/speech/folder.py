"""Any folder of audio as a corpus: the folders in it are speakers, or the parts."""

import logging
from collections import Counter
from pathlib import Path

from dvae_lib.data.catalogue import MissingCorpusError
from dvae_lib.data.speech.audio import AUDIO_SUFFIXES
from dvae_lib.data.speech.corpus import PARTS, Part, Utterance
from dvae_lib.data.splits import split_by_group

__all__ = ["list_audio"]


logger = logging.getLogger("dvae_lib.data")


def list_audio(folder: Path) -> list[Utterance]:
    """The recordings of a folder: the folders directly inside it are speakers, or training, validation and test.

    Arguments:
        folder: The folder.

    Raises:
        MissingCorpusError: There is no audio in it.
        ValueError: There are fewer than three speakers.
    """
    files = [
        file
        for file in sorted(folder.rglob("*"))
        if file.suffix.lower() in AUDIO_SUFFIXES and not file.name.startswith(".") and file.is_file()
    ]
    if not files:
        raise MissingCorpusError(
            f"{folder} holds no audio file. Looked for the endings {', '.join(sorted(AUDIO_SUFFIXES))}"
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
                "sort the files into folders train, validation and test, or give a split list"
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
