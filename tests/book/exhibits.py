"""What a built page shows: its captions with the figures, tables and players above them, and what its cells print."""

import re
from pathlib import Path

from bs4 import BeautifulSoup, Tag

EXHIBIT = "img, svg, table, audio, video, canvas, iframe, script[type='application/vnd.jupyter.widget-view+json']"
# What cells print, or prose says, where a corpus or a package is not there. A published page has all it speaks of.
LACKING = re.compile(
    r"not on the search path|\b(?:is|are) not here\b|nothing to show here|\bNo \w+ here\b|(?:is|are) skipped below"
    r"|not installed|stands? in for the|could not be (?:found|fetched)|Set DVAE_DATA|dvae data fetch \w+[^.]*\bfirst\b"
)


def article(html: str) -> Tag:
    """The text of a page, without navigation."""
    page = BeautifulSoup(html, "html.parser")
    found = page.select_one("article.bd-article")
    assert found is not None
    for part in found.select("div.toctree-wrapper"):
        part.decompose()
    return found


def bare_captions(html: str) -> list[str]:
    """The captions of a page that have no exhibit: nothing to see between them and the caption or heading before."""
    bare = []
    shown = False
    for element in article(html).find_all(True):
        if "figure-caption" in element.get("class", ()):
            if not shown:
                bare.append(" ".join(element.get_text(" ").split())[:80])
            shown = False
        elif element.name in ("h1", "h2", "h3") and element.find_parent(class_="cell_output") is None:
            shown = False
        elif is_exhibit(element):
            shown = True
    return bare


def is_exhibit(element: Tag) -> bool:
    """Whether there is something to look at or to play: an empty table or an image without a source is nothing."""
    if element.find_parent(class_="figure-caption") is not None or not element.css.match(EXHIBIT):
        return False
    if element.name == "table":
        return len(element.select("tr")) > 1 and bool(element.get_text(strip=True))
    if element.name in ("img", "iframe"):
        return bool(element.get("src"))
    return True


def lacking(html: str) -> list[str]:
    """Where a page says that something is missing on the machine that made it."""
    page = article(html)
    for part in page.select("div.cell_input"):  # code says what would be printed
        part.decompose()
    text = " ".join(page.get_text(" ").split())
    return [text[max(0, found.start() - 60) : found.end() + 60] for found in LACKING.finditer(text)]


def failures(html: str) -> list[str]:
    """What cells print of errors that were met."""
    outputs = article(html).select("div.cell_output")
    return [text[-200:] for output in outputs if "Traceback (most recent call last)" in (text := output.get_text())]


def built(site: Path, page: str) -> Path:
    """The file of a page."""
    return site / f"{page}.html"
