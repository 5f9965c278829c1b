"""Make a built site light: what a page does not need before its text comes later, and what it needs nowhere goes.

Sounds and moving pictures become files (`media.py`), the icons a small style sheet (`icons.py`), pixels take fewer
bytes (`rasters.py`). Pictures below the first screen are fetched when a reader comes near, and keep their room until
then; on a phone the panels of a figure stand below each other (`stack.py`). No script stops a page from being shown.
Jupyter Book's thebe, which would run cells by a script from another server, is off, and so are its remains.
"""

from __future__ import annotations

import hashlib
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, urlsplit

import icons
import media
import rasters
import stack
from PIL import Image

SCRIPT = re.compile(r"<script\b([^>]*)>(.*?)</script>[ \t]*\n?", re.DOTALL)
LINK = re.compile(r"<link\b[^>]*>[ \t]*\n?")
ARTICLE = re.compile(r'<article class="bd-article".*</article>', re.DOTALL)
SCRIPT_OR_IMAGE = re.compile(r"<(script|picture)\b[^>]*>.*?</\1>|<img\b[^>]*>", re.DOTALL)
ELEMENT = re.compile(r"<(script|style)\b.*?</\1>|<[^>]*>", re.DOTALL)
THEBE = re.compile(r"\s*(?:const THEBE_JS_URL\b|kernelName = )")
FIRST_SCREEN = 1_500  # characters of text
POINT = 4 / 3  # CSS pixels
LEGIBLE = 7  # CSS pixels that letters in a figure have at least, on a phone
PHONE = 334  # CSS pixels that a figure has on one of 390
WORTH = 0.7  # of the width that a figure needs there: what it may need with its panels below each other
NARROW = "screen and (max-width: 600px)"  # as in `reading.css`; paper takes the figure as it was drawn
CAPTION = '<div class="figure-caption'
SIDES = re.compile(r"\b(?:left|right|middle|centre)\b", re.IGNORECASE)
# matplotlib draws letters as outlines of 100 points, scaled: `scale(0.095 -0.095)` is text of 9.5 points.
LETTERS = re.compile(r"\bscale\((0\.\d+) -\1\)")
SIZE = re.compile(r' width="(\d+)"')
NEEDS = re.compile(r"--legible: (\d+)px")
REMAINS = ("vendor/fontawesome", "sphinx-thebe.css", "sphinx-thebe.js")


def lighten(site: Path) -> None:
    """Do all of it to the pages of a site, in place. A second time changes nothing."""
    has_icons = icons.make_sheet(site)
    rasters.shrink_drawings(site / "_images")
    for page in pages(site):
        root = "../" * (len(page.relative_to(site).parts) - 1)
        html = media.move_out(page.read_text(encoding="utf-8"), site, root)
        html = in_head(html, lambda head, root=root: without_blocking(head, site, root))
        html = SCRIPT.sub(lambda found: "" if is_thebe(found) else found[0], html)
        if has_icons:
            html = LINK.sub(lambda found, root=root: link(found[0], site, root), html)
        html = ARTICLE.sub(lambda found, page=page: with_notes(pictures(found[0], page)), html)
        page.write_text(html, encoding="utf-8")
    for name in REMAINS:
        path = site / "_static" / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def pages(site: Path) -> list[Path]:
    """The pages of a site."""
    return sorted(page for page in site.rglob("*.html") if "_static" not in page.relative_to(site).parts)


def in_head(html: str, change: Callable[[str], str]) -> str:
    """The page with its head changed."""
    head, end, rest = html.partition("</head>")
    return change(head) + end + rest if end else html


def without_blocking(head: str, site: Path, root: str) -> str:
    """A head whose scripts run in their order when the text is there; what they need to know stands in the page."""

    def changed(found: re.Match[str]) -> str:
        attributes, _ = found.groups()
        source = re.search(r'\bsrc="([^"]*)"', attributes)
        if source is None:
            return found[0]
        name = urlsplit(source[1]).path.removeprefix(root)
        if name.startswith("_static/vendor/fontawesome/"):
            return ""
        if name == "_static/documentation_options.js":
            return f"<script>{(site / name).read_text(encoding='utf-8').strip()}</script>\n"
        if re.search(r'\b(?:defer|async|type="module")', attributes):
            return found[0]
        return found[0].replace("<script", "<script defer", 1)

    return SCRIPT.sub(changed, head)


def is_thebe(script: re.Match[str]) -> bool:
    """Whether a script only serves to run cells in the page."""
    attributes, body = script.groups()
    return "x-thebe-config" in attributes or "sphinx-thebe.js" in attributes or THEBE.match(body) is not None


def link(element: str, site: Path, root: str) -> str:
    """A link to the icons' own style sheet in place of the theme's, and none to its fonts and to thebe's styles."""
    if "sphinx-thebe.css" in element:
        return ""
    if "vendor/fontawesome" not in element:
        return element
    if 'rel="preload"' in element:
        return ""
    version = hashlib.sha256((site / icons.SHEET).read_bytes()).hexdigest()[:8]
    return f'<link href="{root}{icons.SHEET}?v={version}" rel="stylesheet" />\n'


def pictures(article: str, page: Path) -> str:
    """The text of a page whose pictures have their size, and those below the first screen wait for a reader."""
    seen, at = 0, 0

    def changed(found: re.Match[str]) -> str:
        nonlocal seen, at
        if found[1]:  # a script, or a picture that has all this
            return found[0]
        if seen < FIRST_SCREEN:
            seen += len(ELEMENT.sub("", article[at : found.start()]).strip())
            at = found.start()
        added = "" if seen < FIRST_SCREEN or " loading=" in found[0] else ' loading="lazy"'
        source = re.search(r'\bsrc="([^"]*)"', found[0])
        if source is None or urlsplit(source[1]).scheme:
            return found[0].replace("<img", f"<img{added}", 1)
        path = page.parent / unquote(urlsplit(source[1]).path)
        if not re.search(r'[\s;"](?:width|height)\s*[=:]', found[0]):
            added += size(path)
        if " style=" not in found[0]:
            added += legible(path)
        image = found[0].replace(path.name, rasters.webp_beside(path).name) if "_images/" in source[1] else found[0]
        return on_phones(image.replace("<img", f"<img{added}", 1), source[1], path)

    return SCRIPT_OR_IMAGE.sub(changed, article)


def on_phones(image: str, source: str, path: Path) -> str:
    """An image with its panels below each other for a phone, if it is not legible there by itself and becomes so."""
    found = NEEDS.search(image)
    if found is None or int(found[1]) <= PHONE or "_images/" not in source:
        return image
    narrow = path.with_name(f"{path.stem}-stacked.svg")
    if not narrow.is_file():
        drawing = stack.stacked(path.read_text(encoding="utf-8"))
        if drawing is None:
            return image
        narrow.write_text(drawing, encoding="utf-8")
    needs = NEEDS.search(legible(narrow))
    if needs is None or int(needs[1]) > WORTH * int(found[1]):
        narrow.unlink()
        return image
    image = image.replace("--legible:", f"--stacked: {needs[1]}px; --legible:", 1)
    address = source.replace(path.name, narrow.name)
    return f'<picture><source media="{NARROW}" srcset="{address}"{size(narrow)}>{image}</picture>'


def with_notes(article: str) -> str:
    """The captions of such figures that speak of left and right are marked, for a note that phones show."""
    parts = article.split(CAPTION)
    for position in range(1, len(parts)):
        caption = parts[position].partition("\n</div>")[0]
        # A caption ends with its own element; what follows belongs to the next one.
        before = parts[position - 1].partition("\n</div>")[2] if position > 1 else parts[0]
        says = SIDES.search(ELEMENT.sub("", f"<{caption}"))
        if says and "<picture>" in before and not caption.startswith(" of-columns"):
            parts[position] = f" of-columns{parts[position]}"
    return CAPTION.join(parts)


def legible(path: Path) -> str:
    """As a style, the width below which a drawing's smallest letters can't be read; none for what is not a drawing."""
    found = SIZE.search(size(path))
    if path.suffix != ".svg" or found is None:
        return ""
    letters = [100 * POINT * float(scale) for scale in LETTERS.findall(path.read_text(encoding="utf-8"))]
    if not letters:
        return ""
    width, least = int(found[1]), min(letters)
    return f' style="--legible: {min(width, math.ceil(round(width * LEGIBLE / least, 6)))}px"'


def size(path: Path) -> str:
    """Width and height of a picture in a file of the site, as attributes; none where they are not to be had."""
    if not path.is_file():
        return ""
    if path.suffix == ".svg":
        with path.open(encoding="utf-8") as file:
            start = re.search(r"<svg\b[^>]*>", file.read(5_000))
        found = re.findall(r'\s(width|height)="([\d.]+)(pt|px|)"', start[0]) if start else []
        pixels = {name: round(float(number) * (POINT if unit == "pt" else 1)) for name, number, unit in found}
    else:
        with Image.open(path) as picture:
            pixels = dict(zip(("width", "height"), picture.size, strict=True))
    return f' width="{pixels["width"]}" height="{pixels["height"]}"' if len(pixels) == 2 else ""
