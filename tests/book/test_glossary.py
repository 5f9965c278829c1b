"""The glossary: in order, each word with its sentence and its place, and linked where a page first uses it."""

import re
from pathlib import Path

import glossary_links
import pytest
from docutils import nodes
from docutils.utils import new_document

BOOK = Path(__file__).resolve().parents[2] / "book"
TEXT = (BOOK / "glossary.md").read_text(encoding="utf-8")
SMALL = """:::{glossary}
KL warm-up
warm-up
  It grows.
  Derived in [14b](14b_posterior_collapse.ipynb).

prior
  A density.
:::
"""


def test_entries_are_read_with_their_pages():
    place = frozenset({"book/14b_posterior_collapse"})
    assert glossary_links.entries(SMALL) == {
        "KL warm-up": ("KL warm-up", place),
        "warm-up": ("KL warm-up", place),
        "prior": ("prior", frozenset()),
    }


def blocks():
    (body,) = glossary_links.ENTRIES.findall(TEXT)
    return glossary_links.ENTRY.findall(body)


def test_entries_are_in_alphabetical_order():
    first = [names.splitlines()[0] for names, _ in blocks()]
    assert first == sorted(first, key=lambda name: name.lower())
    assert len(first) > 60


def test_every_entry_says_where_it_stands():
    for names, definition in blocks():
        assert re.search(r"Sections? \d|Chapter \d|\]\(\w+\.(?:ipynb|md)\)", definition), names
        assert definition.strip().endswith("."), names


def test_every_place_is_a_page_or_a_section_of_the_book():
    """A number without a target would stay text, and nobody would notice."""
    sections = set(
        re.findall(r'<a id=\\?"sec-([\w-]+?)\\?"', "".join(p.read_text("utf-8") for p in BOOK.glob("*.ipynb")))
    )
    for number in re.findall(r"\b\d+(?:\.\d+)+\b(?=[ .,])", re.sub(r"\([\d.]+\)|\$.*?\$", "", TEXT)):
        assert number.replace(".", "-") in sections, number
    for page in glossary_links.PLACE.findall(TEXT):
        assert any((BOOK / f"{page}{suffix}").is_file() for suffix in (".md", ".ipynb")), page


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("posterior collapse", "Posterior collapse, and", "Posterior collapse"),
        ("particle filter", "two particle\nfilters run", "particle\nfilters"),
        ("D-separation", "by D-separation:", "D-separation"),
        ("VLB", "the VLBs of", "VLBs"),
        ("VLB", "model.vlb(x)", None),
        ("RNN", "a VRNN", None),
        ("VAE", "a beta-VAE", None),
        ("Kalman filter", "Deep\nKalman filters", None),
        ("recurrent neural network", "a stochastic recurrent neural network", None),
    ],
)
def test_names_are_found_as_they_are_written(name, text, found):
    match = glossary_links.Linker({name: (name, frozenset())}, "book/x").patterns[name].search(text)
    assert (match and match[0]) == found


def page(*children):
    document = new_document("x")
    document += children
    return document


def linked(document):
    return [link["reftarget"] for link in document.findall(glossary_links.addnodes.pending_xref)]


NAMES = {
    "posterior collapse": ("posterior collapse", frozenset({"book/14b"})),
    "VLB": ("VLB", frozenset()),
    "lower bound": ("VLB", frozenset()),
    "prior": ("prior", frozenset()),
}


def test_the_first_use_in_running_text_is_linked_and_no_other():
    document = page(
        nodes.title("", "The VLB"),
        nodes.paragraph("", "", nodes.strong("", "VLB"), nodes.Text(": a bound.")),
        nodes.paragraph("", "", nodes.literal("", "VLB"), nodes.Text(" says: the VLB, the VLB and the prior.")),
        nodes.paragraph("", "", nodes.emphasis("", "Posterior collapse"), nodes.Text(" is no lower bound.")),
    )
    text = document.astext()
    glossary_links.Linker(NAMES, "book/08").page(document)
    assert linked(document) == ["VLB", "posterior collapse"]
    assert document.astext() == text


def test_a_page_does_not_link_away_from_what_it_derives():
    document = page(nodes.paragraph("", "posterior collapse lowers no VLB"))
    glossary_links.Linker(NAMES, "book/14b").page(document)
    assert linked(document) == ["VLB"]


def test_captions_and_cells_are_left_alone():
    caption = nodes.container("", nodes.paragraph("", "Figure: the VLB"), classes=["figure-caption"])
    output = nodes.container("", nodes.paragraph("", "the VLB"), classes=["cell_output"])
    document = page(caption, output)
    glossary_links.Linker(NAMES, "book/08").page(document)
    assert linked(document) == []


# --- on a built site -----------------------------------------------------------------------------------------


def test_chapters_lead_to_the_glossary_and_back(html):
    entry = (html / "book/glossary.html").read_text(encoding="utf-8")
    names = set(re.findall(r'<dt id="(term-[^"]+)"', entry))
    assert len(names) > 70
    assert re.search(r'href="04b_d_separation\.html', entry)
    asked = {}
    for path in (html / "book").glob("*.html"):
        asked[path.stem] = re.findall(r'href="glossary\.html#(term-[^"]+)"', path.read_text(encoding="utf-8"))
    assert set().union(*asked.values()) <= names
    assert sum(len(links) > 3 for links in asked.values()) > 15
    # A name counts once a page; a sentence of the text may name it too.
    assert all(len(set(links)) == len(links) for page, links in asked.items() if page != "glossary")


def test_the_index_has_concepts(html):
    index = (html / "genindex.html").read_text(encoding="utf-8")
    assert "Kalman gain" in index
    assert "posterior collapse" in index
