"""The table at the top of the errata: how many entries of which weight each chapter of the review has.

It stands in place of the comment ``<!-- errata: table -->``. Each number leads to the first of its entries; a script,
`_static/errata.js`, makes of the same links a filter. Without scripts it is a table.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

from sphinx.application import Sphinx

PLACE = "<!-- errata: table -->"
ENTRY = re.compile(r'<div class="errata-entry weight-(\w+)[^"]*" id="(erratum-(\w+)[^"]*)"')
WEIGHTS = ("substance", "wording", "misprint")


def order(chapter: str) -> tuple[bool, int, str]:
    """Chapters by number, then appendices by letter."""
    return not chapter.isdigit(), int(chapter) if chapter.isdigit() else 0, chapter


def table(body: str) -> str:
    """The table of a page's entries, as HTML."""
    counts: Counter[tuple[str, str]] = Counter()
    first: dict[tuple[str, str], str] = {}
    for weight, name, chapter in ENTRY.findall(body):
        for key in ((chapter, weight), (chapter, ""), ("", weight), ("", "")):
            counts[key] += 1
            first.setdefault(key, name)

    def cell(chapter: str, weight: str) -> str:
        if not counts[chapter, weight]:
            return '<td class="text-right"></td>'
        what = " ".join(filter(None, (title(chapter), weight))) or "all entries"
        return (
            f'<td class="text-right"><a class="errata-filter" href="#{first[chapter, weight]}" '
            f'data-chapter="{chapter}" data-weight="{weight}" aria-label="{what}: {counts[chapter, weight]}">'
            f"{counts[chapter, weight]}</a></td>"
        )

    chapters = sorted({chapter for chapter, _ in counts if chapter}, key=order)
    head = "".join(f'<th class="head text-right">{name}</th>' for name in (*WEIGHTS, "all"))
    rows = [
        f'<tr><th scope="row">{title(chapter) or "All"}</th>'
        + "".join(cell(chapter, weight) for weight in (*WEIGHTS, ""))
        + "</tr>"
        for chapter in (*chapters, "")
    ]
    return (
        '<div class="pst-scrollable-table-container"><table class="table errata-table">\n'
        f'<thead><tr><th class="head">review</th>{head}</tr></thead>\n<tbody>\n' + "\n".join(rows) + "\n</tbody>"
        '</table></div>\n<p class="errata-shown" role="status"></p>\n'
    )


def title(chapter: str) -> str:
    """``Chapter 2`` or ``Appendix A``, as an identifier has it, in small letters."""
    return "" if not chapter else f"Chapter {chapter}" if chapter.isdigit() else f"Appendix {chapter.upper()}"


def fill(app: Sphinx, pagename: str, template: str, context: dict[str, Any], doctree: object) -> None:
    """Put the table into the page that has the place for it."""
    if PLACE in context.get("body", ""):
        script = f'<script defer src="{context["pathto"]("_static/errata.js", 1)}"></script>\n'
        context["body"] = context["body"].replace(PLACE, table(context["body"]) + script)


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    # Before the theme cuts the body into its parts (priority 500).
    app.connect("html-page-context", fill, priority=400)
    return {"version": "1.0", "parallel_read_safe": True, "parallel_write_safe": True}
