r"""Turn the book's plain markdown into linked pages while Sphinx reads it.

The notebooks must read well in Colab and JupyterLab, which know no Sphinx. So they are written in plain markdown,
with a few conventions that look right everywhere, and this extension gives them their second meaning on the site:

=====================================================  ==========================================================
in the notebook                                        on the site
=====================================================  ==========================================================
``$$ ... \tag{2.10} $$``                               the equation is a target
``(2.10)`` in prose                                    a link to it, from any page
``<a id="sec-2-1"></a>`` (``fig-``, ``tab-`` ...)      a target for links
``Section 2.3``, ``Figures 2.1 and 2.2``                links, where the target exists
``**Figure 2.1.** Caption``                            a caption that belongs to the figure above it
``> **Note.** Text``                                   an admonition, if its name is one of `ADMONITION_CLASS`
``> **Section 2.5** ... *Weight:* wording.``           an entry of the errata, with an anchor, by its weight
``[the next chapter](05_x.ipynb)``                     a link, or its text alone while that page is not written
``[Kingma and Welling (2014)](#cite-kingma2014)``      a link to the bibliography's entry
``dvae_lib.VAE`` as inline code                        a link to the API reference, where it is documented
=====================================================  ==========================================================

Code, mathematics, link texts and headings are left alone, and a number that names nothing in the book stays text.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

NUMBER = r"(?:\d+|[A-C](?![A-Za-z]))(?:\.(?:\d+|[a-z])(?![A-Za-z]))*"
TAG = re.compile(r"\\tag\{([^}]+)\}")
ANCHOR = re.compile(r'^[ \t]*<a id="([\w.-]+)"></a>[ \t]*', re.MULTILINE)
FENCE = re.compile(r"^\s*(`{3,}|~{3,})")
# `**Figure 2.1.** ...`, `**Table 13.1.** ...`, and `*Figure.* ...` for a figure without a number
CAPTION = re.compile(r"(\*\*(?:Figure|Table) [\w.]+?\.?\*\*\.?|\*(?:Figure|Table)\.\*)\s+\S")
ADMONITION = re.compile(r"\*\*([A-Z][^*\n]*?)[.:]?\*\*[.:]?\s*")
# What prose conversion leaves alone: code, mathematics, links, HTML. Code spans and links are looked at on their own.
INLINE = re.compile(
    r"(?P<code>(?P<ticks>`+)(?!`).+?(?<!`)(?P=ticks)(?!`))"
    r"|(?P<math>(?<!\\)\$\$.+?\$\$|(?<!\\)\$[^$]+?(?<!\\)\$)"
    r"|(?P<link>!?\[(?P<text>[^\]]*)\]\((?P<href>[^)\s]*)[^)]*\))"
    r"|(?P<html><[a-zA-Z/][^>]*>)",
    re.DOTALL,
)
EQUATION = re.compile(rf"(?<![\w\])}}])\(({NUMBER})\)")
NUMBERED = re.compile(
    r"(?<!\w)(?P<kind>Section|Figure|Table|Chapter|Appendix)(?P<plural>e?s)?(?P<space>[ \t\n\u00a0]+)"
    rf"(?P<numbers>{NUMBER}(?:(?:,? (?:and|or|to) |, |[-\u2013]){NUMBER})*)"
)
OTHER_WORK_BEFORE = re.compile(r"\d{4}[a-z]?[,;:]? \Z")
OTHER_WORK_AFTER = re.compile(r"\s+(?:of|in)\s+(?:\[|[A-Z]|(?:his|her|their)\b)")
API_NAME = re.compile(r"(dvae_lib(?:\.\w+)+)(?:\(.*\))?\Z", re.DOTALL)
KIND_PREFIX = {"Section": "sec", "Figure": "fig", "Table": "tab", "Appendix": "sec", "Chapter": "sec"}
ADMONITION_CLASS = {
    "Note": "note",
    "Remark": "note",
    "Erratum": "erratum",
    "Try it": "tip",
    "Tip": "tip",
    "Hint": "tip",
    "Warning": "warning",
    "Caution": "warning",
    "Proof": "proof",
    "Derivation": "proof",
    "Important": "important",
    "Notation": "note",
}
WEIGHT = re.compile(r"\*Weight:\*\s+(substance|wording|misprint)\b(?!, \w+ or)")


@dataclass
class Index:
    """Where every target of the book stands: label -> page, and number -> page (``3``: its first; ``3b``: its own).

    ``unwritten`` are the pages that the table of contents announces and nobody has written yet.
    """

    targets: dict[str, str] = field(default_factory=dict)
    chapters: dict[str, str] = field(default_factory=dict)
    unwritten: frozenset[str] = frozenset()

    @classmethod
    def of_pages(cls, pages: dict[str, str]) -> Index:
        """The index of pages given as docname -> markdown text.

        A label that several pages carry belongs to the page of its own chapter: elsewhere it is a repetition.
        """
        index = cls()
        for docname in sorted(pages, key=lambda name: (name.count("/"), name)):
            chapter = chapter_number(docname)
            if chapter is not None:
                index.chapters.setdefault(chapter, docname)
                index.chapters.setdefault(page_number(docname), docname)
            for label in labels_in(pages[docname]):
                home = index.targets.get(label)
                own = label.split("-")[1:2] == [(chapter or "").lower()]
                if home is None or (own and chapter_number(home) != chapter):
                    index.targets[label] = docname
        return index


CHAPTER_PAGE = re.compile(r"(?:.*/)?book/(\d\d|[A-C])([a-z]?)_\w+")


def chapter_number(docname: str) -> str | None:
    """``3`` for ``book/03a_recurrent_neural_networks``, ``A`` for ``book/A_marginalisation``; else None."""
    match = CHAPTER_PAGE.fullmatch("/" + docname)
    return match and match[1].lstrip("0")


def page_number(docname: str) -> str:
    """``3a`` for ``book/03a_recurrent_neural_networks``: a chapter's number with the letter of its page."""
    match = CHAPTER_PAGE.fullmatch("/" + docname)
    return "".join(match.groups()).lstrip("0") if match else ""


def equation_label(tag: str) -> str:
    """``eq-2-10`` for ``2.10``."""
    return "eq-" + tag.strip().lower().replace(".", "-")


def labels_in(text: str) -> list[str]:
    """The labels that a page's markdown defines: anchors and tagged equations, code aside."""
    found: list[str] = []
    for kind, block in blocks(text):
        if kind == "math":
            found += [equation_label(tag) for tag in TAG.findall(block)[:1]]
        elif kind == "quote":
            found += labels_in(unquote(block))
        elif kind == "prose":
            found += [anchor.lower() for anchor in ANCHOR.findall(block)]
    return found


def markdown_of(source: str, path: Path) -> str:
    """The markdown of a page: the text of a .md file, the markdown cells of a notebook."""
    if path.suffix != ".ipynb":
        return source
    cells = json.loads(source)["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


def blocks(text: str) -> Iterable[tuple[str, str]]:
    """Cut markdown into pieces that are treated alike: front matter and code, display mathematics, quotes, prose.

    Joined by newlines, the pieces give the text back.
    """
    lines = text.split("\n")
    prose: list[str] = []
    position = 0
    while position < len(lines):
        kind, end = block_at(lines, position)
        if kind == "prose":
            prose.append(lines[position])
        else:
            if prose:
                yield "prose", "\n".join(prose)
                prose = []
            yield kind, "\n".join(lines[position:end])
        position = end
    if prose:
        yield "prose", "\n".join(prose)


def block_at(lines: list[str], start: int) -> tuple[str, int]:
    """The kind of the block that begins on a line, and the line after its last."""
    line = lines[start]
    fence = FENCE.match(line)
    if fence:
        closing = re.compile(rf"\s*{re.escape(fence[1][0])}{{{len(fence[1])},}}\s*\Z")
        return "code", end_of(lines, start + 1, lambda candidate: bool(closing.match(candidate)))
    if start == 0 and line == "---":
        return "code", end_of(lines, 1, lambda candidate: candidate in ("---", "..."))
    if line.lstrip().startswith("$$"):
        body = line.strip()[2:]
        if "$$" in body:
            return "math" if body.endswith("$$") else "prose", start + 1
        return "math", end_of(lines, start + 1, lambda candidate: candidate.rstrip().endswith("$$"))
    if line.startswith(">"):
        end = start
        while end < len(lines) and lines[end].startswith(">"):
            end += 1
        return "quote", end
    return "prose", start + 1


def end_of(lines: list[str], start: int, closes: Callable[[str], bool]) -> int:
    """The line after the first one, from ``start`` on, that closes a block; the end of the text if none does."""
    for position in range(start, len(lines)):
        if closes(lines[position]):
            return position + 1
    return len(lines)


def unquote(block: str) -> str:
    """A block quote without its marks."""
    return re.sub(r"^> ?", "", block, flags=re.MULTILINE)


class Enricher:
    """Rewrites the markdown of one page, cell by cell."""

    def __init__(self, docname: str, index: Index):
        self.docname = docname
        self.index = index
        self.placed: set[str] = set()

    def page(self, source: str, path: Path) -> str:
        """A whole source file: a .md page, or the JSON of a notebook, whose markdown cells are rewritten."""
        if path.suffix != ".ipynb":
            return self.text(source)
        notebook = json.loads(source)
        for cell in notebook["cells"]:
            if cell["cell_type"] == "markdown":
                cell["source"] = self.text("".join(cell["source"]))
        return json.dumps(notebook)

    def text(self, text: str) -> str:
        """The markdown of one cell."""
        treatment = {"math": self.equation, "quote": self.quote, "prose": self.prose, "code": str}
        return "\n".join(treatment[kind](block) for kind, block in blocks(text))

    def target(self, label: str, indent: str = "") -> str:
        """A Sphinx target on a line of its own; nothing if the label stands elsewhere or was placed already."""
        label = label.lower()
        if self.index.targets.get(label) != self.docname or label in self.placed:
            return ""
        self.placed.add(label)
        return f"\n{indent}({label})=\n"

    def equation(self, block: str) -> str:
        """Display mathematics; a tagged equation becomes a target."""
        tag = TAG.search(block)
        if tag is None:
            return block
        indent = block[: len(block) - len(block.lstrip())]
        # Sphinx puts `split` around a dollar block with line breaks, and MathJax allows no tag in there.
        body = block.strip().removeprefix("$$").removesuffix("$$").strip("\n")
        equation = f"{indent}\\begin{{equation*}}\n{body}\n{indent}\\end{{equation*}}"
        return self.target(equation_label(tag[1]), indent) + equation

    def quote(self, block: str) -> str:
        """A block quote; one that opens with an admonition's name becomes an admonition."""
        inner = unquote(block)
        if weight := WEIGHT.search(inner):
            return self.erratum(inner, weight[1])
        opening = ADMONITION.match(inner)
        title = opening[1] if opening else ""
        kind = next((ADMONITION_CLASS[word] for word in ADMONITION_CLASS if title.startswith(word)), None)
        if opening is None or kind is None:
            return re.sub(r"^", "> ", self.text(inner), flags=re.MULTILINE)
        content = self.text(inner[opening.end() :])
        return f"\n::::::{{admonition}} {self.inline(title)}\n:class: {kind}\n\n{content}\n::::::\n"

    def erratum(self, entry: str, weight: str) -> str:
        """An entry of the errata: named by its place, and counted where a place has several."""
        place = entry.partition("**")[2].partition("**")[0]
        number = re.search(NUMBER, place)
        stem = f"erratum-{number[0] if number else 'place'}".lower().replace(".", "-")
        name = next(
            name for name in (stem, *(f"{stem}-{letter}" for letter in "bcdefghijklmno")) if name not in self.placed
        )
        self.placed.add(name)
        link = f'<a class="headerlink" href="#{name}" title="Link to this erratum">#</a>'
        return f"\n::::::{{div}} errata-entry weight-{weight}\n:name: {name}\n\n{self.text(entry)} {link}\n::::::\n"

    def prose(self, block: str) -> str:
        """Paragraphs, headings, lists and tables."""
        return re.sub(r"(?:(?!\n[ \t]*\n).)+", lambda part: self.paragraph(part[0]), block, flags=re.DOTALL)

    def paragraph(self, block: str) -> str:
        """Text without blank lines: its anchors become targets, a caption a captioned block."""
        done = ""
        rest = block
        while anchor := ANCHOR.search(rest):
            if before := rest[: anchor.start()]:
                done += self.lines(before)
            done += self.target(anchor[1])
            rest = rest[anchor.end() :].removeprefix("\n")
        caption = CAPTION.match(rest.lstrip("\n"))
        if caption is None:
            return done + self.lines(rest)
        body = rest.lstrip("\n")
        start = caption.end(1)
        return f"{done}\n::::::{{div}} figure-caption\n{body[:start]}{self.inline(body[start:])}\n::::::\n"

    def lines(self, block: str) -> str:
        """Text without anchors; headings stay as they are."""
        parts = re.split(r"^(#{1,6} .*)$", block, flags=re.MULTILINE)
        return "".join(part if position % 2 else self.inline(part) for position, part in enumerate(parts))

    def inline(self, text: str) -> str:
        """Running text: links where it names an equation, a section, a figure, a citation, a documented name."""
        done, position = [], 0
        for match in INLINE.finditer(text):
            done.append(self.references(text[position : match.start()], text[match.start() :]))
            done.append(self.span(match))
            position = match.end()
        return "".join([*done, self.references(text[position:], "")])

    def span(self, match: re.Match[str]) -> str:
        """A code span, a formula, a link or an HTML tag."""
        if match["link"] and not match["link"].startswith("!"):
            href, label = match["href"], match["href"].rpartition("#")[2].lower()
            if "://" not in href and "#" in href and label in self.index.targets:
                return f"[{match['text']}](#{label})"
            if self.is_unwritten(href):
                return match["text"]
        if match["code"]:
            code = match["code"].strip("`").strip()
            name = API_NAME.match(code)
            if name and "<" not in code:
                return role("api", code, name[1])
        return match[0]

    def is_unwritten(self, href: str) -> bool:
        """Whether a link leads to a page that is announced only: its text then stands without a link."""
        page, suffix = posixpath.splitext(href.partition("#")[0])
        folder = posixpath.dirname(self.docname)
        return suffix in (".ipynb", ".md") and posixpath.normpath(f"{folder}/{page}") in self.index.unwritten

    def references(self, text: str, after: str) -> str:
        """Prose between spans: ``(2.10)``, ``Section 2.3``, ``Figures 2.1 and 2.2``, ``Chapter 4``."""
        text = NUMBERED.sub(lambda match: self.numbered(match, after), text)
        return EQUATION.sub(lambda match: self.link(match[0], equation_label(match[1])), text)

    def numbered(self, match: re.Match[str], after: str) -> str:
        """``Section 2.3`` or ``Figures 2.1 and 2.2``, unless another work's sections are meant."""
        following = match.string[match.end() :] + after
        if OTHER_WORK_BEFORE.search(match.string[: match.start()]) or OTHER_WORK_AFTER.match(following):
            return match[0]
        numbers = re.split(rf"({NUMBER})", match["numbers"])
        first = match["kind"] + (match["plural"] or "") + match["space"] + numbers[1]
        linked = [self.number_link(first, match["kind"], numbers[1])]
        for separator, number in zip(numbers[2::2], [*numbers[3::2], ""], strict=True):
            linked += [separator, self.number_link(number, match["kind"], number)]
        return "".join(linked)

    def number_link(self, text: str, kind: str, number: str) -> str:
        """One number of a section, figure, table or chapter."""
        label = f"{KIND_PREFIX[kind]}-{number}".lower().replace(".", "-")
        if label in self.index.targets:
            return self.link(text, label)
        page = self.index.chapters.get(number) if KIND_PREFIX[kind] == "sec" else None
        if page is None or page == self.docname:
            return text
        return role("doc", text, f"/{page}")

    def link(self, text: str, label: str) -> str:
        """A link to a label, where the book has it."""
        return role("ref", text, label) if label in self.index.targets else text


def role(name: str, text: str, target: str) -> str:
    """A Sphinx role with its own text; a line break inside it would end a table's row, so it becomes a space."""
    return f"{{{name}}}`{' '.join(text.split())} <{target}>`"


# --- Sphinx -------------------------------------------------------------------------------------------------


def announced(root: Path) -> frozenset[str]:
    """The pages that the table of contents names one by one."""
    plan = yaml.safe_load((root / "book/contents.yml").read_text(encoding="utf-8"))
    return frozenset(f"book/{entry['file']}" for part in plan["parts"] for entry in part["pages"] if "file" in entry)


def read_index(app: Sphinx, env: BuildEnvironment, *_: object) -> list[str]:
    """Index all pages before any is read; where a target came, went or moved, all pages are read again."""
    paths = {docname: Path(env.doc2path(docname)) for docname in env.found_docs}
    pages = {
        docname: markdown_of(path.read_text(encoding="utf-8"), path)
        for docname, path in paths.items()
        if path.suffix in (".md", ".ipynb")
    }
    index = Index.of_pages(pages)
    index.unwritten = announced(Path(env.srcdir)) - env.found_docs
    moved = getattr(env, "plain_markdown_index", None) != index
    env.plain_markdown_index = index  # type: ignore[attr-defined]
    return sorted(env.found_docs) if moved else []


def enrich_source(app: Sphinx, docname: str, source: list[str]) -> None:
    """Rewrite a page that is about to be parsed."""
    path = Path(app.env.doc2path(docname))
    if path.suffix in (".md", ".ipynb"):
        index: Index = app.env.plain_markdown_index  # type: ignore[attr-defined]
        source[0] = Enricher(docname, index).page(source[0], path)


def label_bibliography(app: Sphinx, env: BuildEnvironment) -> None:
    """Let ``[text](#cite-kingma2014)`` find the bibliography's entry; a key that is not there makes Sphinx warn."""
    labels = env.get_domain("std").anonlabels  # type: ignore[attr-defined]
    for citation in env.get_domain("cite").citations:  # type: ignore[attr-defined]
        labels[f"cite-{citation.key}".lower()] = (citation.bibliography_key.docname, citation.citation_id)


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.connect("env-get-outdated", read_index)
    app.connect("source-read", enrich_source)
    # After sphinxcontrib-bibtex has numbered its entries (priority 500).
    app.connect("env-updated", label_bibliography, priority=900)
    return {"version": "1.0", "parallel_read_safe": True, "parallel_write_safe": True}
