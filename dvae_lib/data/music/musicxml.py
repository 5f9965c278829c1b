"""The notes of scores in MusicXML."""

import math
from pathlib import Path
from xml.etree import ElementTree
from zipfile import BadZipFile, ZipFile

from dvae_lib.data.music.piano_roll import Note

__all__ = ["read_musicxml"]


_SEMITONES = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}


def read_musicxml(path: str | Path) -> dict[str, list[Note]]:
    """Read the notes of a score in MusicXML, compressed (``.mxl``) or not.

    Every part in time order, at the pitch that sounds (transposing instruments too), repeats not played twice, grace
    notes (which take no time) left out.

    Arguments:
        path: The file.

    Returns:
        For each part, by name, its notes: onset and duration in quarter notes, and MIDI number. Parts of the same.
        Name are numbered, "Violin" and "Violin 2".

    Raises:
        ValueError: The file is damaged or of another format; the message names it.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
        if path.suffix.lower() == ".mxl":
            with ZipFile(path) as archive:
                container = ElementTree.fromstring(archive.read("META-INF/container.xml"))
                rootfile = container.find(".//{*}rootfile")
                content = archive.read("" if rootfile is None else rootfile.get("full-path", ""))
        score = _without_namespaces(ElementTree.fromstring(content))
    except (BadZipFile, KeyError, ElementTree.ParseError) as error:
        raise ValueError(f"{path} is not a readable MusicXML file: {error}") from error
    names = {p.get("id"): (p.findtext("part-name") or "").strip() for p in score.iterfind("part-list/score-part")}
    parts: dict[str, list[Note]] = {}
    for part in score.iterfind("part"):
        stem = name = names.get(part.get("id"), "")
        number = 1
        while name in parts:
            number += 1
            name = f"{stem} {number}"
        try:
            parts[name] = _part_notes(part)
        except (TypeError, ValueError, KeyError, ZeroDivisionError) as error:
            raise ValueError(f"{path}: part {name!r} is damaged: {error!r}") from error
    if not parts:
        raise ValueError(f"{path} holds no part; a score in MusicXML's score-partwise layout was expected")
    return parts


def _without_namespaces(score: ElementTree.Element) -> ElementTree.Element:
    for element in score.iter():
        if isinstance(element.tag, str):  # not a comment
            element.tag = element.tag.rpartition("}")[2]
    return score


def _part_notes(part: ElementTree.Element) -> list[Note]:
    divisions, now, transposed = 1.0, 0.0, 0
    notes: list[Note] = []
    for measure in part.iterfind("measure"):
        end = onset = now
        for element in measure:
            if element.tag == "attributes":
                divisions = float(element.findtext("divisions", str(divisions)))
                change = element.find("transpose")
                if change is not None:  # from what is written to what sounds
                    semitones = float(change.findtext("chromatic", "0"))
                    transposed = round(semitones + 12 * float(change.findtext("octave-change", "0")))
            elif element.tag in ("note", "backup", "forward") and element.find("grace") is None:
                duration = float(element.findtext("duration", "")) / divisions
                if not math.isfinite(duration):
                    raise ValueError(f"a duration of {duration} quarters")
                if element.tag == "backup":
                    now -= duration
                    continue
                if element.find("chord") is None:
                    onset, now = now, now + duration
                end = max(end, now)
                pitch = element.find("pitch")
                if pitch is not None and duration > 0:
                    alter = round(float(pitch.findtext("alter", "0")))
                    step = _SEMITONES[pitch.findtext("step", "")]
                    written = 12 * (int(pitch.findtext("octave", "")) + 1) + step + alter
                    notes.append((onset, duration, written + transposed))
        now = end
    return notes
