"""The icons that the site shows, out of the thousands of the theme's icon font, in one style sheet.

The theme brings Font Awesome twice: as fonts (300 kB, fetched before the text) and as a script (1.5 MB) that stops the
page until it has run. A font inside a style sheet is also seen where a browser takes no font from a file beside the
page: under `file://`.
"""

from __future__ import annotations

import base64
import io
import logging
import re
from pathlib import Path

from fontTools.subset import Options, Subsetter
from fontTools.ttLib import TTFont

SHEET = "_static/icons.css"
FONTS = "_static/vendor/fontawesome"
RULE = re.compile(r'((?:\.fa-[\w-]+:{1,2}before,?)+)\{content:"(\\[0-9a-f]+|[^"\\])"\}')
FACE = re.compile(r"@font-face\{[^}]*\}")
FAMILY = re.compile(r"font-family:([^;}]+)")
SOURCE = re.compile(r"src:[^;}]*")
NAME = re.compile(r"\bfa-[a-z0-9-]+")
CODE = re.compile(r"\\(f[0-9a-f]{3})\b")
# It tells of every table of a font, wherever a package has set the root's level.
logging.getLogger("fontTools").setLevel(logging.WARNING)
OWN_FAMILIES = ("Font Awesome 6 Free", "Font Awesome 6 Brands")


def make_sheet(site: Path) -> bool:
    """Write the style sheet; whether the site's theme has such icons at all."""
    folder = site / FONTS
    sheets = sorted(folder.glob("*/css/all.min.css"))
    if not sheets:
        return False
    names: set[str] = set()
    codes: set[int] = set()
    families = set(OWN_FAMILIES)
    for path in site.rglob("*"):
        if path.suffix not in (".html", ".js", ".css") or path.is_relative_to(folder):
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        if path.suffix == ".css":
            codes |= {int(code, 16) for code in CODE.findall(text)}
            families |= {plain(name) for name in FAMILY.findall(text)}
        else:
            names |= set(NAME.findall(text))

    def icon(found: re.Match[str]) -> str:
        selectors = [selector for selector in found[1].split(",") if set(NAME.findall(selector)) & names]
        if not selectors:
            return ""
        codes.add(int(found[2][1:], 16) if len(found[2]) > 1 else ord(found[2]))
        return f'{",".join(selectors)}{{content:"{found[2]}"}}'

    def face(found: re.Match[str]) -> str:
        family = FAMILY.search(found[0])
        source = re.search(r"url\(([^)]+\.ttf)\)", found[0])
        if family is None or source is None or plain(family[1]) not in families:
            return ""
        font = subset((sheets[0].parent / source[1]).resolve(), codes)
        return SOURCE.sub(f'src:url("data:font/woff;base64,{font}") format("woff")', found[0]) if font else ""

    sheet = RULE.sub(icon, sheets[0].read_text(encoding="utf-8"))
    (site / SHEET).write_text(FACE.sub(face, sheet), encoding="utf-8")
    return True


def plain(family: str) -> str:
    """A font's name as people write it: ``Font Awesome\\ 6 Free`` and ``"Font Awesome 6 Free"`` are one."""
    return family.replace("\\", "").strip("\"' ")


def subset(path: Path, codes: set[int]) -> str:
    """A font with some characters only, as WOFF in base64; empty where it has none of them."""
    font = TTFont(path)
    if not codes & font.getBestCmap().keys():
        return ""
    chosen = Subsetter(Options(layout_features=[], notdef_outline=False, glyph_names=False, hinting=False))
    chosen.populate(unicodes=codes)
    chosen.subset(font)
    font.flavor = "woff"
    file = io.BytesIO()
    font.save(file)
    return base64.b64encode(file.getvalue()).decode("ascii")
