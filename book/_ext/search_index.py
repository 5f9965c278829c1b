"""Write what the site's own search needs, as small scripts, which also load from `file://`, where nothing is fetched.

Sphinx's search downloads the whole HTML of every hit for its excerpts, and knows neither numbers nor synonyms. This
index knows sections, is weighed by BM25 (in `_static/search.js`) and cut into pieces, of which a query loads a few:

=======================  =====================================================================================
``search/book.js``       pages, lengths of their sections, the labels of equations, figures and tables, spellings
``search/words-va.js``   words that begin with va: in which sections, how often; ``=vae``: what is documented as that;
                         where the file would be large, by three letters
``search/page-3.js``     anchors and titles of a page's sections, loaded for pages that are found
``search/text-7.js``     running text of some sections, without formulas and code, for excerpts
=======================  =====================================================================================

Synonyms, spellings and what else leads to a page stand in `book/search_words.yml`.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.search.en import SearchEnglish

FOLDER = "_static/search"
SHARD_MOST = 6_000  # characters of a file of words, above which it is cut
WORD = re.compile(r"[^\W_]+(?:[-_][^\W_]+)*")
HUMP = re.compile(r"([a-z0-9])([A-Z])")
TITLE_WEIGHT, HINT_WEIGHT = 6, 10  # a word in a title counts as so many in the text; a hint of search_words.yml
TEXT_BLOCK, TEXT_MOST = 1500, 3000  # characters of running text in one file; of one section, for excerpts
LETTERS = str.maketrans("aehijklmnoprstuvx0123456789", "ₐₑₕᵢⱼₖₗₘₙₒₚᵣₛₜᵤᵥₓ₀₁₂₃₄₅₆₇₈₉")
FONT = re.compile(r"\\(?:mathbf|boldsymbol|bm|mathrm|mathcal|bs|vec)\b|[{}\s]")
NOT_PROSE = (
    nodes.literal_block,
    nodes.doctest_block,
    nodes.math_block,
    nodes.raw,
    nodes.comment,
    nodes.image,
    nodes.substitution_definition,
    addnodes.toctree,
    addnodes.index,
    addnodes.desc_signature,
)
OF_CELLS = {"cell_input", "cell_output"}
BLOCKS = (nodes.paragraph, nodes.title, nodes.term, nodes.field_name, nodes.caption)


@dataclass
class Words:
    """How text becomes index terms: the same in `search.js`."""

    spellings: dict[str, str] = field(default_factory=dict)
    ignored: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        english = SearchEnglish({})
        self.stem, self.stopwords = english.stem, english.stopwords
        self.known: dict[str, str | None] = {}

    def term(self, word: str) -> str | None:
        """One word, without its ending and in one spelling; None if it says nothing."""
        if word not in self.known:
            self.known[word] = self.reduced(word.lower())
        return self.known[word]

    def reduced(self, word: str) -> str | None:
        """What `term` remembers."""
        if word in self.stopwords or word in self.ignored or (len(word) < 2 and not word.isdigit()):
            return None
        for spelling, kept in self.spellings.items():
            word = word.replace(spelling, kept)
        return str(self.stem(word))

    def terms(self, text: str) -> list[str]:
        """The terms of a text. `warm-up` gives warm, up and warmup; `TrainingConfig` its parts and the whole."""
        plain = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
        found: list[str | None] = []
        for match in WORD.finditer(plain):
            parts = HUMP.sub(r"\1 \2", match[0].replace("-", " ").replace("_", " ")).split()
            found += [self.term(part) for part in parts]
            if len(parts) > 1:
                found.append(self.term("".join(parts)))
        return [term for term in found if term]


@dataclass
class Section:
    """A heading, or a documented name, with the text under it and above the next one."""

    anchor: str
    title: str
    text: str = ""


def kind_of(docname: str) -> str:
    """What a page is to a reader who searches."""
    name = docname.removeprefix("book/")
    if name.startswith("solutions/"):
        return "solution"
    if name.startswith("generated/"):
        return "api"
    if name == "bibliography":
        return "reference"
    return "chapter" if re.match(r"(\d\d|[A-C])[a-z]?_", name) else "guide"


def formula(tex: str) -> str:
    """A symbol such as `z_t` as text; whatever is longer is left out."""
    symbol = re.fullmatch(r"([A-Za-z])(?:_(\w))?", FONT.sub("", tex))
    return symbol[1] + (symbol[2] or "").translate(LETTERS) if symbol else "…"


def classes(node: nodes.Element) -> set[str]:
    """The classes of a node."""
    return set(node.get("classes", []))


def collect(node: nodes.Node, found: list[Section], current: Section | None) -> None:
    """Put the text of a node into the section that it stands in; new sections are added to those found."""
    if isinstance(node, nodes.Text):
        text = node.astext()
    elif isinstance(node, nodes.math):
        text = formula(node.astext())
    elif isinstance(node, NOT_PROSE) or not isinstance(node, nodes.Element) or OF_CELLS & classes(node):
        return
    else:
        if isinstance(node, nodes.section):
            current = Section(node["ids"][0], node.next_node(nodes.title).astext())
            found.append(current)
        elif isinstance(node, addnodes.desc):
            signature = node.next_node(addnodes.desc_signature)
            name = signature.get("fullname") or signature.astext().split("(")[0]
            current = Section((signature["ids"] or [""])[0], name)
            found.append(current)
        for child in node.children:
            if not (isinstance(node, nodes.section) and isinstance(child, nodes.title)):
                collect(child, found, current)
        text = "" if isinstance(node, nodes.TextElement) and not isinstance(node, BLOCKS) else " "
    if current is not None:
        current.text += text


def sections_of(document: nodes.document) -> list[Section]:
    """The sections of a page, in reading order."""
    found: list[Section] = []
    collect(document, found, None)
    for section in found:
        section.text = " ".join(re.sub(r"…(\s*…)+", "…", section.text).split())
    return found


def shard_of(term: str, letters: int = 2) -> str:
    """The name of the file that a term stands in: its first letters."""
    return term[:letters] if re.match(rf"[a-z0-9]{{{letters}}}", term) else "other"


def cut_small(shards: dict[str, dict[str, list[int]]]) -> dict[str, dict[str, list[int]]]:
    """The files of words, where those that would be large are cut by the third letter."""
    found: dict[str, dict[str, list[int]]] = defaultdict(dict)
    for shard, terms in shards.items():
        large = shard != "other" and len(json.dumps(terms)) > SHARD_MOST
        for term, values in terms.items():
            third = shard_of(term.removeprefix("="), 3) if large else "other"
            found[shard if third == "other" else third][term] = values
    return found


def packed(section: Section, before: str) -> list[Any]:
    """A section as the pages load it: characters of the anchor before it that this one begins with, the rest of its
    anchor, its title. Where an anchor ends with the title, a number says from where on.
    """
    start = len(section.anchor) - len(section.title)
    title = start if section.anchor.endswith(section.title) else section.title
    pairs = enumerate(zip(before, section.anchor, strict=False))
    shared = next((at for at, (a, b) in pairs if a != b), min(len(before), len(section.anchor)))
    return [shared, section.anchor[shared:], title]


def index_of(pages: dict[str, list[Section]], labels: dict[str, str], wanted: dict[str, Any]) -> dict[str, Any]:
    """All files of the index, by name, as data.

    Arguments:
        pages: Sections of each page, by its docname.
        labels: The page of each label such as `eq-9-10`.
        wanted: What `search_words.yml` says: `spellings`, `ignored`, `same`, `pages`.
    """
    words = Words(wanted["spellings"], frozenset(wanted["ignored"]))
    postings: dict[str, dict[int, int]] = defaultdict(dict)
    names: dict[str, list[int]] = defaultdict(list)  # the last part of a documented name: its sections
    files: dict[str, Any] = {}
    listed, blocks = [], []  # pages; the first section of each block of text
    number, block, size = 0, [], 0
    for docname, sections in pages.items():
        entries, lengths = [], []
        for position, section in enumerate(sections):
            counts = Counter(words.terms(section.text))
            length = sum(counts.values())
            for term in words.terms(section.title):
                counts[term] += TITLE_WEIGHT
            if position == 0:
                for term in words.terms(" ".join(wanted["pages"].get(docname, []))):
                    counts[term] += HINT_WEIGHT
            for term, count in counts.items():
                postings[term][number] = count
            entries.append(packed(section, sections[position - 1].anchor if position else ""))
            lengths.append(length)
            if kind_of(docname) == "api" and position:
                names[section.title.rpartition(".")[2].lower()].append(number)
            if not block:
                blocks.append(number)
            block.append(section.text[:TEXT_MOST])
            size += len(section.text)
            number += 1
            if size > TEXT_BLOCK:
                files[f"text-{len(blocks) - 1}"], block, size = block, [], 0
        own = " ".join(sorted(label for label, page in labels.items() if page == docname))
        hints = [*wanted["pages"].get(docname, []), re.sub(r"^[\dA-C]+[a-z]? ", "", sections[0].title)]
        files[f"page-{len(listed)}"] = entries
        page = {"name": docname, "kind": kind_of(docname), "title": sections[0].title, "lengths": lengths}
        listed.append(page | {"labels": own, "hints": hints})
    if block:
        files[f"text-{len(blocks) - 1}"] = block
    shards: dict[str, dict[str, list[int]]] = defaultdict(dict)
    for term in sorted(postings):
        shards[shard_of(term)][term] = [value for posting in postings[term].items() for value in posting]
    for name in sorted(names):
        shards[shard_of(name)]["=" + name] = names[name]
    shards = cut_small(shards)
    files |= {f"words-{shard}": terms for shard, terms in shards.items()}
    files["book"] = {
        "pages": listed,
        "blocks": blocks,
        "shards": sorted(shards),
        "spellings": wanted["spellings"],
        "ignored": wanted["ignored"],
        "same": wanted["same"],
    }
    return files


def write(app: Sphinx, exception: Exception | None) -> None:
    """Write the index of a finished site."""
    if exception is not None or app.builder.format != "html":
        return
    env = app.env
    wanted = yaml.safe_load((Path(app.srcdir) / "book/search_words.yml").read_text(encoding="utf-8"))
    targets = env.plain_markdown_index  # type: ignore[attr-defined]
    read = {docname: sections_of(env.get_doctree(docname)) for docname in reading_order(env)}
    pages = {docname: sections for docname, sections in read.items() if sections}
    labels = {label: page for label, page in targets.targets.items() if page in pages}
    labels |= {f"sec-{number.lower()}": page for number, page in targets.chapters.items() if page in pages}
    folder = Path(app.outdir) / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.js"):
        old.unlink()
    for name, data in index_of(pages, labels, wanted).items():
        text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
        (folder / f"{name}.js").write_text(f'bookSearch.put("{name}",{text});\n', encoding="utf-8")


def reading_order(env: Any) -> list[str]:
    """The pages as the table of contents has them."""
    order = [env.config.root_doc]
    for docname in order:
        order += [page for page in env.toctree_includes.get(docname, []) if page not in order]
    return order


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.connect("build-finished", write)
    return {"version": "1.0", "parallel_read_safe": True, "parallel_write_safe": True}
