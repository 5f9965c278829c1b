"""Link the words of the glossary to their entries, where a page's running text first uses one of an entry's names.

A notebook is plain markdown and says nothing of it; the links are put into the parsed page. Linked are names of several
words, and acronyms as they are written (`posterior collapse`, `D-separation`, `VLB`), with or without an s. Single
common words are not, nor anything in headings, captions, links, code and formulas, nor what a page defines in bold
letters, nor a word on the page that the glossary names as its place, nor a part of a longer name.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

PAGE = "book/glossary"
ENTRIES = re.compile(r"^:::\{glossary\}\n(.*?)^:::$", re.DOTALL | re.MULTILINE)
ENTRY = re.compile(r"((?:^\S.*\n)+)((?:^[ \t].*\n?)+)", re.MULTILINE)
PLACE = re.compile(r"\]\(([\w-]+)\.(?:ipynb|md)")
# Where a link would stand in another one, in a name, or in the way.
NOT_HERE = (
    nodes.title,
    nodes.reference,
    nodes.literal,
    nodes.math,
    nodes.caption,
    nodes.strong,
    nodes.raw,
    addnodes.pending_xref,
)
# With one of these before it, a name is that of something else: a deep Kalman filter is none.
OTHER = ("deep", "dynamical", "Kalman", "recurrent", "stochastic", "structured", "switching", "variational")
ALONE = "".join(rf"(?<!{word}\s)" for word in sorted({form for word in OTHER for form in (word, word.capitalize())}))
OF_CELLS = {"cell_input", "cell_output", "figure-caption"}


Names = dict[str, tuple[str, frozenset[str]]]


def entries(text: str) -> Names:
    """The names in a glossary, each with the first name of its entry and the pages to which that leads."""
    found: Names = {}
    for block in ENTRIES.findall(text):
        for names, definition in ENTRY.findall(block):
            all_names = names.strip().splitlines()
            places = frozenset(f"book/{page}" for page in PLACE.findall(definition))
            found |= dict.fromkeys(all_names, (all_names[0], places))
    return found


def is_linked(name: str) -> bool:
    """Whether a name is looked for in the text: it has several words, or a capital."""
    return bool(re.search(r"[ -]|[A-Z]", name))


def pattern(name: str) -> str:
    """A regular expression for a name: acronyms as they are, other words with either first letter, an s or none."""
    words = [re.escape(word) if re.search("[A-Z]", word[1:]) else any_case(word) for word in re.split("[ -]", name)]
    return r"[\s-]".join(words) + "s?"


def any_case(word: str) -> str:
    """A word whose first letter may be small or large."""
    return f"[{word[0].lower()}{word[0].upper()}]{re.escape(word[1:])}"


class Linker:
    """Puts the links into one page."""

    def __init__(self, names: Names, docname: str):
        chosen = [name for name, (_, places) in names.items() if is_linked(name) and docname not in places]
        self.entry = {name: first for name, (first, _) in names.items()}
        self.names = sorted(chosen, key=len, reverse=True)  # "KL warm-up" before a part of it
        self.patterns = {name: re.compile(rf"(?<![\w-]){ALONE}{pattern(name)}(?![\w-])") for name in self.names}
        self.done: set[str] = set()
        self.docname = docname

    def page(self, document: nodes.document) -> None:
        """All running text of a page."""
        for text in list(document.findall(nodes.Text)):
            if self.is_prose(text):
                parts = self.parts(text.astext())
                if not all(isinstance(part, nodes.Text) for part in parts):
                    text.parent.replace(text, parts)

    def is_prose(self, text: nodes.Text) -> bool:
        """Whether a piece of text stands in a paragraph, and not where no link should be."""
        node, in_paragraph = text.parent, False
        while node is not None:
            if isinstance(node, NOT_HERE) or OF_CELLS & set(node.get("classes", [])):
                return False
            in_paragraph = in_paragraph or isinstance(node, nodes.paragraph)
            node = node.parent
        return in_paragraph

    def parts(self, text: str) -> list[nodes.Node]:
        """A piece of text, cut where a name stands for the first time."""
        for name in self.names:
            if self.entry[name] not in self.done and (match := self.patterns[name].search(text)):
                self.done.add(self.entry[name])
                before, after = text[: match.start()], text[match.end() :]
                return [*self.parts(before), self.link(match[0], name), *self.parts(after)]
        return [nodes.Text(text)] if text else []

    def link(self, text: str, name: str) -> nodes.Node:
        """A link to an entry, which Sphinx finds when all pages are read."""
        inner = nodes.inline(text, text, classes=["xref", "std", "std-term"])
        return addnodes.pending_xref(
            text, inner, refdomain="std", reftype="term", reftarget=name, refexplicit=True, refwarn=True,
            refdoc=self.docname,
        )  # fmt: skip


def read_entries(app: Sphinx, env: BuildEnvironment, *_: object) -> list[str]:
    """Read the glossary before any page; where its entries changed, all pages are read again."""
    path = Path(env.srcdir, f"{PAGE}.md")
    found = entries(path.read_text(encoding="utf-8")) if path.is_file() else {}
    changed = getattr(env, "glossary_entries", None) != found
    env.glossary_entries = found  # type: ignore[attr-defined]
    return sorted(env.found_docs) if changed else []


def link_words(app: Sphinx, document: nodes.document) -> None:
    """Called when a page is parsed."""
    docname = app.env.docname
    if docname.startswith("book/") and docname != PAGE and "/generated/" not in docname:
        Linker(app.env.glossary_entries, docname).page(document)  # type: ignore[attr-defined]


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.connect("env-get-outdated", read_entries)
    app.connect("doctree-read", link_words)
    return {"version": "1.0", "parallel_read_safe": True, "parallel_write_safe": True}
