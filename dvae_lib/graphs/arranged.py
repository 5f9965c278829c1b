"""Layouts of the library's own figures, arranged beforehand.

To arrange a picture takes up to seconds, to look its arrangement up no time. ``data/layouts.json`` holds those of the
models' specs, by a hash of what they show; every other picture is arranged when it is first drawn.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import cache, lru_cache
from typing import Any

from dvae_lib.graphs.layout import Arrangement, Layout, Link, Picture, settle
from dvae_lib.graphs.ranges import Node
from dvae_lib.resources import resource_path

__all__ = ["arrangement", "as_json", "layout", "picture_key"]


def picture_key(picture: Picture) -> str:
    """A hash of all that an arrangement depends on: the nodes and the arrows, in their order."""
    nodes = [[*node, kind] for node, kind in picture.kinds.items()]
    links = [[*link.parent, *link.child, link.role] for link in picture.links]
    return hashlib.sha256(json.dumps([nodes, links]).encode()).hexdigest()[:20]


def as_json(pictures: Iterable[Picture]) -> str:
    """The text of ``data/layouts.json`` with the arrangements of these pictures, a line each."""
    different = {picture_key(picture): picture for picture in pictures}
    lines = [f"{json.dumps(key)}: {json.dumps(_entry(settle(different[key])))}" for key in sorted(different)]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _entry(found: Arrangement) -> dict[str, Any]:
    """What differs from a straight arrangement in columns."""
    return {
        "rows": found.rows,
        "shifts": {name: shift for name, shift in found.shifts.items() if shift},
        "single": found.single,
        "bends": {str(i): bend for i, bend in enumerate(found.bends) if bend},
    }


@cache
def _at_rest() -> Mapping[str, Any]:
    entries: dict[str, Any] = json.loads(resource_path("layouts.json").read_text(encoding="utf-8"))
    return entries


def arrangement(picture: Picture) -> Arrangement | None:
    """The arrangement that travels with the library; None for a picture that is not among them."""
    entry = _at_rest().get(picture_key(picture))
    if entry is None:
        return None
    return Arrangement(
        entry["rows"],
        dict.fromkeys(entry["rows"], 0.0) | entry["shifts"],
        {name: (column, height) for name, (column, height) in entry["single"].items()},
        [entry["bends"].get(str(i), 0.0) for i in range(len(picture.links))],
    )


def layout(picture: Picture) -> Layout:
    """The geometry of a picture: looked up where it travels with the library, arranged where it does not."""
    return _layout(tuple(picture.kinds.items()), picture.links)


@lru_cache(maxsize=64)
def _layout(kinds: tuple[tuple[Node, str], ...], links: tuple[Link, ...]) -> Layout:
    picture = Picture(dict(kinds), links, {})
    return (arrangement(picture) or settle(picture)).layout(picture)
