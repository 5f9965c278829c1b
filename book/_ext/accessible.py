"""Mend what the theme and its extensions write that a screen reader stumbles over.

- An entry of the bibliography has a role that ARIA gave up, inside a list that wants list items.
- A table's corner is a heading without words.
- A definition list without definitions, and the lines of a long signature, which are none.
"""

from __future__ import annotations

import re
from typing import Any

from sphinx.application import Sphinx

EMPTY_HEAD = re.compile(r"<th(?P<attributes>[^>]*)>\s*(?:<p>\s*</p>)?\s*</th>")
SIGNATURE = re.compile(r"<dl>\s*((?:<dd>(?:(?!</?d[dlt]\b).)*</dd>\s*)+)</dl>", re.DOTALL)
EMPTY_LIST = re.compile(r"<dl[^>]*>\s*</dl>")


def mended(body: str) -> str:
    """A page's HTML with roles that hold, empty headings as cells, and no empty lists."""
    body = body.replace('role="doc-biblioentry"', 'role="listitem"')
    body = EMPTY_HEAD.sub(lambda head: f"<td{head['attributes']}></td>", body)
    body = SIGNATURE.sub(signature, body)
    return EMPTY_LIST.sub("", body)


def signature(match: re.Match[str]) -> str:
    """The lines of a signature, without the names of a list's parts."""
    lines = match[1].replace("<dd>", '<span class="sig-line">').replace("</dd>", "</span>")
    return f'<span class="sig-lines">{lines}</span>'


def mend(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: object) -> None:
    """The body of a page that is about to be written."""
    if "body" in context:
        context["body"] = mended(context["body"])


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    # Before the theme cuts the body into its parts (its own handlers have priority 500).
    app.connect("html-page-context", mend, priority=400)
    return {"version": "1.0", "parallel_read_safe": True, "parallel_write_safe": True}
