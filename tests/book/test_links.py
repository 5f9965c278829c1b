"""Every link inside the published site leads somewhere: the page is there, and so is the place in it."""

from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Anchors(HTMLParser):
    def __init__(self):
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.ids |= {value for name in ("id", "name") if (value := given.get(name))}
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])
        for name in ("src", "srcset", "href"):
            if tag in ("img", "script", "link", "source", "audio") and given.get(name):
                self.links.append(given[name])


@cache
def anchors(page: Path) -> Anchors:
    parser = Anchors()
    parser.feed(page.read_text(encoding="utf-8"))
    return parser


def test_internal_links_resolve(html):
    pages = [path for path in html.rglob("*.html") if "_static" not in path.parts]
    assert len(pages) > 3
    broken = []
    for page in pages:
        for link in anchors(page).links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            if not target.exists():
                broken.append(f"{page.relative_to(html)} -> {link}: no such file")
            elif parts.fragment and target.suffix == ".html" and unquote(parts.fragment) not in anchors(target).ids:
                broken.append(f"{page.relative_to(html)} -> {link}: no such place")
    assert broken == []


def test_what_a_reader_looks_for_is_linked(html):
    """References in prose did become links: some to equations, to the bibliography and to the API."""
    targets = {urlsplit(link).fragment for page in (html / "book").glob("*.html") for link in anchors(page).links}
    assert any(target.startswith("eq-") for target in targets)
    assert any(target.startswith("dvae_lib.") for target in targets)
    bibliography = anchors(html / "book/bibliography.html").ids
    assert targets & bibliography
