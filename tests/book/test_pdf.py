"""The whole book as one PDF: what is in it, its outline, its numbers and its links."""

import io
import shutil
from pathlib import Path

import pdf
import pytest

pypdf = pytest.importorskip("pypdf")
CHROMIUM = shutil.which("chromium")
STYLE = (Path(pdf.__file__).resolve().parents[1] / "_static/print.css").read_text(encoding="utf-8")
PAGE = """<!doctype html><html lang="en"><style>.part {{ break-after: page }} {style}</style>
<h1>{title}<a class="headerlink" href="#x">#</a></h1><p class="part"><a href="{link}">link</a></p><p>end</p>
<div class="sounds"></div><div class="bound-explorer"></div></html>"""
LINKS = {"intro": "book/05_b.html#eq-5-2", "book/05_b": "../intro.html", "book/06_c": "../book/api.html"}
TOC = {
    "root": "intro",
    "parts": [
        {"caption": "The models", "chapters": [{"file": "book/05_b"}, {"file": "book/06_c"}]},
        {
            "caption": "Back matter",
            "chapters": [
                {"file": "book/solutions", "sections": [{"file": "book/solutions/05_b"}]},
                {"file": "book/api", "sections": [{"file": "book/generated/dvae_lib.models"}]},
            ],
        },
    ],
}


def test_chapters_in_reading_order_without_the_reference():
    found = [(chapter.name, chapter.part) for chapter in pdf.chapters(TOC)]
    assert found == [
        ("intro", ""),
        ("book/05_b", "The models"),
        ("book/06_c", "The models"),
        ("book/solutions", "Back matter"),
        ("book/solutions/05_b", "Back matter"),
    ]


def test_the_contents_name_page_and_number():
    book = [pdf.Chapter("book/05_b", "The models", title="5 Deep <Kalman> filters", first=7)]
    page = pdf.contents_page(book, {"title": "Book", "author": "A", "repository": {"url": "https://example.org"}})
    assert '<h3>The models</h3>\n<a href="book/05_b.html">' in page
    assert "<span>5 Deep &lt;Kalman&gt; filters</span><span>7</span>" in page


def test_says_what_is_missing(tmp_path):
    with pytest.raises(SystemExit, match="No page 99_none"):
        pdf.make(tmp_path, tmp_path / "book.pdf", ["99_none"])
    with pytest.raises(SystemExit, match="Run `make book` first"):
        pdf.make(tmp_path, tmp_path / "book.pdf", ["05_deep_kalman_filters"])


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_three_pages_become_one_document(tmp_path, monkeypatch):
    site, root = tmp_path / "html", tmp_path / "root"
    for name, link in LINKS.items():
        path = site / f"{name}.html"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(PAGE.format(title=name.rpartition("/")[2], link=link, style=STYLE))
    root.mkdir()
    (root / "_toc.yml").write_text(pdf.yaml.safe_dump(TOC))
    (root / "_config.yml").write_text(
        "{title: Book, author: A, repository: {url: 'https://example.org'}, html: {baseurl: 'https://example.org/b/'}}"
    )
    monkeypatch.setattr(pdf, "ROOT", root)
    assert pdf.make(site, tmp_path / "book.pdf", ["intro", "05_b", "06_c"]) == 2 + 3 * 2

    document = pypdf.PdfReader(io.BytesIO((tmp_path / "book.pdf").read_bytes()))
    texts = [page.extract_text() for page in document.pages]
    assert "Contents" in texts[1]
    assert [number in text.split() for number, text in zip("123456", texts[2:], strict=True)] == [True] * 6
    # where something sounds or moves stands its address
    place = "at https://example.org/b/book/05_b.html"
    assert f"to be heard {place}" in " ".join(texts[5].split())
    assert f"To be moved {place}." in " ".join(texts[5].split())
    outline = [(item.title, document.get_destination_page_number(item)) for item in flat(document.outline)]
    assert outline == [("intro", 2), ("The models", 4), ("05_b", 4), ("06_c", 6)]
    # a link to a page leads to it; one to a page that is not in the document is none
    assert [led(document, number) for number in (2, 4, 6)] == [[4], [2], []]


def flat(outline):
    for item in outline:
        if isinstance(item, list):
            yield from flat(item)
        else:
            yield item


def led(document, number):
    """The numbers of the pages to which the links of a page lead, those within it aside."""
    places = {page.indirect_reference.idnum: place for place, page in enumerate(document.pages)}
    found = []
    for reference in document.pages[number].get("/Annots", ()):
        link = reference.get_object()
        assert "127.0.0.1" not in str(link)
        if "/Dest" in link and not isinstance(link["/Dest"], str):
            found.append(places[list.__getitem__(link["/Dest"], 0).idnum])
    return [place for place in found if place != number]
