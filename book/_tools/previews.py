"""Write what a link's preview shows: the equations, figures, tables, references and glossary terms of each page.

``_static/previews/book/05_deep_kalman_filters.js`` holds those of Chapter 5, by their anchors, as HTML, and its title
under no anchor. A page's script (`_static/previews.js`) loads such a file when a reader points at a link to one of
them, and not before. They are scripts, so that they load from `file://`, too. In them ``@/`` stands for the way to the
site's first folder.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath

FOLDER = "_static/previews"
LARGEST_TABLE = 8_000  # characters of HTML; of a larger one the caption says enough
EQUATION = re.compile(r'<div class="(?:amsmath )?math\b[^"]*" id="(?P<name>eq-[^"]+)">(?P<inner>.*?)</div>', re.DOTALL)
CAPTION = re.compile(
    r'<div class="figure-caption[^"]*" id="(?P<name>(?:fig|tab)-[^"]+)">(?P<inner>.*?)\n</div>', re.DOTALL
)
CITATION = re.compile(r'<div class="citation" id="(?P<name>[^"]+)"[^>]*>(?P<inner>.*?)\n</div>', re.DOTALL)
HEADING = re.compile(r"<h1\b[^>]*>(.*?)</h1>", re.DOTALL)
TAG = re.compile(r"\s*\\tag\{[^}]*\}")  # the link has the number, and the formula the more room
TERMS = re.compile(r'(?P<names>(?:<dt id="term-[^"]+">(?:(?!</dt>).)*</dt>\s*)+)<dd>(?P<inner>.*?)\n</dd>', re.DOTALL)
TERM = re.compile(r'<dt id="([^"]+)">(.*?)</dt>', re.DOTALL)
LABEL = re.compile(r'<span class="label">.*?</span></span>|<span class="label">.*?</span>\n', re.DOTALL)
PERMALINK = re.compile(r'<a class="headerlink".*?</a>', re.DOTALL)
LINK = re.compile(r"</?a\b[^>]*>")
NAMES = re.compile(r'\s(?:id|name|loading|data-\w+|onclick)="[^"]*"')
IMAGE = re.compile(r"<img\b[^>]*>")
TABLE = re.compile(r"<table\b.*?</table>", re.DOTALL)
BETWEEN = re.compile(r'<h[1-4]\b|<div class="figure-caption|<section\b')


def write(site: Path) -> None:
    """Put the files beside the pages of a site."""
    for page in sorted((site / "book").rglob("*.html")):
        name = page.relative_to(site).with_suffix("")
        shown = previews(page.read_text(encoding="utf-8"))
        found = {anchor: at_home(html, name) for anchor, html in shown.items()}
        file = site / FOLDER / f"{name.as_posix()}.js"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(script(f'bookPreviews["{name.as_posix()}"]', found), encoding="utf-8")


def script(name: str, found: dict[str, str]) -> str:
    """A file's text: what one page has to show, given a name."""
    return f"{name}={json.dumps(found, ensure_ascii=False, separators=(',', ':'))};\n"


def change(file: Path, changed: Callable[[str], str]) -> None:
    """Change the HTML of each preview in a file."""
    name, found = read(file)
    file.write_text(script(name, {anchor: changed(html) for anchor, html in found.items()}), encoding="utf-8")


def read(file: Path) -> tuple[str, dict[str, str]]:
    """What `write` has put into a file: its name, and HTML by anchor."""
    name, _, text = file.read_text(encoding="utf-8").partition("=")
    return name, json.loads(text.removesuffix(";\n"))


def previews(html: str) -> dict[str, str]:
    """What a page has to show, by anchor, links and names taken off; and its title."""
    heading = HEADING.search(html)
    found = {"": heading[1]} if heading else {}
    for match in EQUATION.finditer(html):
        found[match["name"]] = f'<div class="math">{TAG.sub("", match["inner"])}</div>'
    for match in CAPTION.finditer(html):
        found[match["name"]] = pictured(html[: match.start()], match["name"]) + match["inner"]
    found |= {match["name"]: LABEL.sub("", match["inner"]) for match in CITATION.finditer(html)}
    for match in TERMS.finditer(html):
        names = TERM.findall(match["names"])
        title = ", ".join(name for _, name in names)
        found |= dict.fromkeys((anchor for anchor, _ in names), f"<p><strong>{title}</strong></p>{match['inner']}")
    return {name: NAMES.sub("", LINK.sub("", PERMALINK.sub("", shown))).strip() for name, shown in found.items()}


def pictured(before: str, name: str) -> str:
    """The picture or the table that a caption speaks of: the last one before it, after any other caption or heading."""
    last = max((match.start() for match in BETWEEN.finditer(before)), default=0)
    pattern = IMAGE if name.startswith("fig-") else TABLE
    shown = [match[0] for match in pattern.finditer(before, last)][-1:]
    return "".join(html for html in shown if len(html) <= LARGEST_TABLE and "data:" not in html)


def at_home(html: str, page: PurePosixPath | Path) -> str:
    """HTML of a page with the addresses of its pictures from the site's first folder on."""
    up = "../" * (len(page.parts) - 1)
    return re.sub(rf'(\bsrc=")(?:{re.escape(up)})', r"\1@/", html) if up else html
