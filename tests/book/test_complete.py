"""The built book is whole: every page is there, and on it every figure, table and recording that it speaks of.

`BOOK_HTML` names the folder of the built site. No browser is needed.
"""

import os

import contents
import exhibits
import pytest

PUBLISHED = contents.published_pages()
OWN = [page for page in PUBLISHED if not page.startswith("book/generated/")]
needs_a_site = pytest.mark.skipif("BOOK_HTML" not in os.environ, reason="needs a built site: run `make test`")
each_page = pytest.mark.parametrize("page", OWN, ids=lambda page: page.removeprefix("book/"))


@needs_a_site
def test_every_page_is_there(html):
    assert (html / "index.html").is_file()
    assert [page for page in PUBLISHED if not exhibits.built(html, page).is_file()] == []


@needs_a_site
@each_page
def test_page_shows_all_that_it_speaks_of(page, html):
    text = exhibits.built(html, page).read_text(encoding="utf-8")
    assert exhibits.bare_captions(text) == [], "captions without a figure, table, player or widget above them"
    assert exhibits.lacking(text) == [], "the page says that something was missing where it was made"
    assert exhibits.failures(text) == [], "a cell printed an error"


@needs_a_site
def test_a_figure_that_is_taken_out_is_missed(html):
    """On a page as it was built: without its images, captions stand bare."""
    text = exhibits.built(html, "book/02_variational_autoencoders").read_text(encoding="utf-8")
    before = exhibits.bare_captions(text)
    without = text.replace("<img", "<span").replace("<svg", "<span")
    assert len(exhibits.bare_captions(without)) > len(before) + 3


CAPTION = '<div class="figure-caption docutils"><p><strong>Figure 2.1.</strong> What it does.</p></div>'
TABLE_CAPTION = '<div class="figure-caption"><p><em>Table.</em> Scores.</p></div>'
TABLE = "<table><tr><th>a</th></tr><tr><td>1</td></tr></table>"
CODE = '<div class="cell_input"><pre>print("the data are not here")</pre></div>'


def page_of(*parts: str) -> str:
    return f'<html><img src="logo.svg"><article class="bd-article"><h1>2</h1>{"".join(parts)}</article></html>'


@pytest.mark.parametrize(
    "exhibit",
    [
        '<div class="cell_output"><img src="a.png" alt="A bump."></div>',
        "<div><svg><path></path></svg></div>",
        "<audio controls></audio>",
        '<script type="application/vnd.jupyter.widget-view+json">{}</script>',
    ],
)
def test_a_caption_needs_an_exhibit(exhibit):
    cell = f'<div class="cell">{CODE}{exhibit}</div>'
    assert exhibits.bare_captions(page_of(cell, "<p>In words.</p>", CAPTION)) == []
    bare = ["Figure 2.1. What it does."]
    assert exhibits.bare_captions(page_of(f'<div class="cell">{CODE}</div>', CAPTION)) == bare
    assert exhibits.bare_captions(page_of(CAPTION, cell)) == bare
    assert exhibits.bare_captions(page_of(cell, CAPTION, CAPTION)) == bare
    assert exhibits.bare_captions(page_of(cell, "<h2>2.1</h2>", CAPTION)) == bare
    assert exhibits.bare_captions(page_of(cell, TABLE_CAPTION)) == ["Table. Scores."]


def test_captions_that_follow_each_other_have_an_exhibit_each():
    both = f'<div class="cell">{TABLE}<img src="a.png"></div>'
    nothing = f'<div class="cell">{CODE}</div>'
    assert exhibits.bare_captions(page_of(both, TABLE_CAPTION, CAPTION)) == []
    assert exhibits.bare_captions(page_of(TABLE, nothing, both, CAPTION, "<p>Or:</p>", TABLE_CAPTION)) == []
    assert exhibits.bare_captions(page_of(both, TABLE_CAPTION, nothing, CAPTION)) == ["Figure 2.1. What it does."]
    assert exhibits.bare_captions(page_of(TABLE, CAPTION, TABLE_CAPTION)) == ["Figure 2.1. What it does."]


@pytest.mark.parametrize("empty", ["<table></table>", "<img>", "<table><tr><th>model</th></tr></table>"])
def test_an_empty_exhibit_is_none(empty):
    assert len(exhibits.bare_captions(page_of(empty, CAPTION, TABLE_CAPTION))) == 2


def test_a_page_that_lacks_something_is_seen():
    said = '<div class="cell_output"><pre>Folder mocap is not on\nthe search path.</pre></div>'
    assert exhibits.lacking(page_of(CODE, "<p>Nothing is missing here.</p>")) == []
    assert exhibits.lacking(page_of(said)) == ["Folder mocap is not on the search path."]


def test_a_failure_is_seen():
    output = '<div class="cell_output"><pre>Traceback (most recent call last)\n  ...\nValueError: x</pre></div>'
    assert exhibits.failures(page_of(output)) != []
    assert exhibits.failures(page_of(CODE)) == []
