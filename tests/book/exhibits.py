"""What a built page shows: its captions with the figures, tables and players above them, and what its cells print."""

import re
from functools import lru_cache
from pathlib import Path

from bs4 import BeautifulSoup, Tag

WIDGET = "application/vnd.jupyter.widget-view+json"
# What cells print where a corpus or a package is not there. A published page has all that it speaks of.
LACKING = re.compile(
    r"not on the search path|\b(?:is|are) not here\b|nothing to show here|\bNo \w+ here\b|(?:is|are) skipped below"
    r"|not installed|stands? in for the|could not be (?:found|fetched)|Set DVAE_DATA"
)


NAMES = ["h1", "h2", "h3", "div", "table", "img", "svg", "audio", "video", "canvas", "iframe", "script"]


@lru_cache(maxsize=2)
def article(html: str) -> Tag:
    """The text of a page, without navigation."""
    page = BeautifulSoup(html, "html.parser")
    found = page.select_one("article.bd-article")
    assert found is not None
    for part in found.select("div.toctree-wrapper"):
        part.decompose()
    return found


def bare_captions(html: str) -> list[str]:
    """The captions of a page that have no exhibit of their own.

    It stands above: a table for a table, something to look at or to play for a figure. Captions that follow each other
    share what is above the first of them.
    """
    bare: list[str] = []
    shown: list[str] = []
    captioned = False
    for element in article(html).find_all(NAMES):
        classes = element.get("class") or ()
        heading = element.name in ("h1", "h2", "h3") and element.find_parent(class_="cell_output") is None
        if "figure-caption" in classes:
            text = " ".join(element.get_text(" ").split())
            kind = "table" if text.startswith("Table") else "figure"
            if kind in shown:
                shown.remove(kind)
            else:
                bare.append(text[:80])
            captioned = True
        elif heading or (captioned and "cell" in classes):
            shown, captioned = [], False
        elif kind := kind_of_exhibit(element):
            shown = [*([] if captioned else shown), kind]
            captioned = False
    return bare


def kind_of_exhibit(element: Tag) -> str | None:
    """Table, figure, or neither: an empty table or an image without a source shows nothing."""
    if element.find_parent(class_="figure-caption") is not None:
        return None
    if element.name == "table":
        return "table" if len(element.select("tr")) > 1 and element.get_text(strip=True) else None
    if element.name in ("h1", "h2", "h3", "div") or (element.name == "script" and element.get("type") != WIDGET):
        return None
    if element.name in ("img", "iframe") and not element.get("src"):
        return None
    return "figure"


def lacking(html: str) -> list[str]:
    """Where the cells of a page print that something is missing on the machine that made it."""
    texts = (" ".join(output.get_text(" ").split()) for output in article(html).select("div.cell_output"))
    return [text[max(0, m.start() - 60) : m.end() + 60] for text in texts for m in LACKING.finditer(text)]


def failures(html: str) -> list[str]:
    """What cells print of errors that were met."""
    outputs = article(html).select("div.cell_output")
    return [text[-200:] for output in outputs if "Traceback (most recent call last)" in (text := output.get_text())]


def built(site: Path, page: str) -> Path:
    """The file of a page."""
    return site / f"{page}.html"
