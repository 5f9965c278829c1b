"""Typeset the formulas of a built site, so that its pages show them without a script.

A page has up to 500 formulas: in a browser the last one of a long chapter stands seconds after the first, on a slow
phone, and without scripts none. Here one process of node (`typeset.cjs`) runs MathJax on each formula of the site
once, and the pages take what MathJax would have made in the browser, with one style sheet, `_static/formulas.css`.
Such a page loads no MathJax.

What cannot be typeset here is left to the browser, and its page keeps MathJax and `_static/formulas.js`: a formula
with an error, a page whose formulas depend on each other, TeX that is no formula of Sphinx, such as in a notebook's
output in HTML. Where there is no node, or MathJax comes from a public server, that is true of all pages.
"""

from __future__ import annotations

import hashlib
import html
import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lighten
import previews
import vendor

SCRIPT = Path(__file__).with_suffix(".cjs")
SHEET = "_static/formulas.css"
MATHJAX = "_static/vendor/mathjax"
FORMULA = re.compile(
    r'(?P<start><(?P<tag>span|div)\b[^>]*\bclass="(?:[^"]*\s)?math(?:\s[^"]*)?"[^>]*>\s*)'
    r"\\(?:\((?P<inline>[^<]*?)\\\)|\[(?P<display>[^<]*?)\\\])(?P<end>\s*</(?P=tag)>)"
)
# Commands that give a meaning to other formulas of a page, or take one from them: such a page needs MathJax as a whole.
CONNECTED = re.compile(
    r"\\(?:label|(?:eq)?ref|(?:re|provide)?newcommand|providecommand|(?:re)?newenvironment|[gex]?def|let|require"
    r"|definecolor|newtagform|DeclareMathOperator|DeclarePairedDelimiters?X?P?)\b"
)
LETTERS = re.compile(r"\.((?:MJX-)?TEX[\w-]*) \{\s*font-family: (MJX[\w, -]*);")  # a class, and its fonts
DRAWN = re.compile(r"<mjx-[^>]*?\b((?:MJX-)?TEX\b[\w-]*|stretchy-[vh])\b")  # a class; or what is put together of pieces
PIECES = "MJXTEX-S4"
SETTINGS = re.compile(r"window\.MathJax = (\{.*\})")
TEX = re.compile(r"\\\(.*?\\\)|\\\[.*?\\\]|\$\$.*?\$\$|\\begin\{", re.DOTALL)
UNSEEN = re.compile(r"<(script|style|pre|code|textarea|noscript)\b.*?</\1>|<[^>]*>", re.DOTALL)
# MathJax measures how high an x is beside a formula, and scales its own, of 0.442 em, to it. An `ex` is that height:
# what it writes at every formula stands here once, and holds for each reader's font.
STYLE = '\nmjx-container[jax="CHTML"] { font-size: calc(1ex / 0.442); }\n'

Formula = tuple[str, bool]  # TeX, and whether it is displayed


def typeset(site: Path, kept: Path) -> None:
    """Do it to the pages and previews of a site, in place, and once: of typeset pages it would find no formulas.

    Arguments:
        kept: Where the formulas are kept for the next build: as long as none has changed, it takes them from there.
    """
    if shutil.which("node") is None or not (site / MATHJAX / vendor.ADAPTOR).is_file():
        print("Without node, or MathJax's scripts for it, formulas are typeset by the browser.")
        return
    pages = {page: page.read_text(encoding="utf-8") for page in lighten.pages(site)}
    shown = sorted((site / previews.FOLDER).rglob("*.js"))
    texts = [*pages.values(), *(text for file in shown for text in previews.read(file)[1].values())]
    known, css = in_node(
        site / MATHJAX,
        {
            "config": next((json.loads(found[1]) for text in texts if (found := SETTINGS.search(text))), {}),
            "fonts": f"{MATHJAX.removeprefix('_static/')}/output/chtml/fonts/woff-v2",
            "formulas": sorted({formula for text in texts for formula in formulas(text)}),
        },
        kept,
    )
    (site / SHEET).write_text(css + STYLE, encoding="utf-8")
    version = hashlib.sha256((site / SHEET).read_bytes()).hexdigest()[:8]
    known_fonts = fonts(css)
    for page, text in pages.items():
        root = "../" * (len(page.relative_to(site).parts) - 1)
        link = f'<link href="{root}{SHEET}?v={version}" rel="stylesheet" />\n'
        done = with_formulas(text, known)
        for tex in left_over(done):
            print(f"{page.relative_to(site)}: left to the browser: {tex}")
        asking = asking_for([f"{root}_static/{font}" for font in needed(done, known_fonts)])
        page.write_text(finished(done, link, asking), encoding="utf-8")
    for file in shown:
        previews.change(file, lambda text: with_formulas(text, known))


def formula(found: re.Match[str]) -> Formula:
    """What a match of FORMULA holds."""
    return html.unescape(found["inline"] or found["display"] or ""), found["inline"] is None


def formulas(text: str) -> set[Formula]:
    """The formulas of a page; none where one depends on another."""
    found = {formula(one) for one in FORMULA.finditer(text)}
    return set() if any(CONNECTED.search(tex) for tex, _ in found) else found


def in_node(mathjax: Path, request: dict[str, Any], kept: Path) -> tuple[dict[Formula, str], str]:
    """The HTML of formulas, of those that have one, and their style sheet."""
    scripts = [*sorted(mathjax.rglob("*.js")), SCRIPT]
    made_of = hashlib.sha256(b"".join(path.read_bytes() for path in scripts) + json.dumps(request).encode()).hexdigest()
    try:
        answer = json.loads(kept.read_text(encoding="utf-8"))
        fresh = answer["made_of"] == made_of
    except (OSError, ValueError, KeyError, TypeError):  # there is none, or it was half written
        fresh = False
    if not fresh:
        print(f"Typesetting {len(request['formulas'])} formulas ...", flush=True)
        command = ["node", str(SCRIPT), str(mathjax)]
        made = subprocess.run(command, input=json.dumps(request), capture_output=True, encoding="utf-8", check=False)
        if made.returncode:
            raise SystemExit(
                f"{shutil.which('node')} could not typeset the formulas; a newer one may, and without any node the "
                f"browser does:\n{made.stderr}"
            )
        answer = {"made_of": made_of, **json.loads(made.stdout)}
        kept.write_text(json.dumps(answer), encoding="utf-8")
    known = {}
    for one, made_html in zip(request["formulas"], answer["formulas"], strict=True):
        if isinstance(made_html, str):
            known[tuple(one)] = made_html
        else:
            print(f"MathJax on {one[0].strip()}: {made_html['left']}")
    return known, answer["css"]


def with_formulas(text: str, known: dict[Formula, str]) -> str:
    """HTML with those formulas typeset that are known."""

    def changed(found: re.Match[str]) -> str:
        made = known.get(formula(found))
        return found[0] if made is None else found["start"] + made + found["end"]

    return FORMULA.sub(changed, text) if formulas(text) else text


def fonts(css: str) -> dict[str, list[str]]:
    """Where the fonts are, from the style sheet on, that what `DRAWN` finds takes its letters from."""
    files = dict(re.findall(r'font-family: (MJX[\w-]*);\s*src: url\("([^"]+)"\)', css))
    found = {name: families.split(", ") for name, families in LETTERS.findall(css)}
    found |= {"stretchy-v": [PIECES], "stretchy-h": [PIECES]}
    return {name: [files[family] for family in families if family in files] for name, families in found.items()}


def needed(page: str, known: dict[str, list[str]]) -> list[str]:
    """The fonts of a page's formulas."""
    names = set(DRAWN.findall(page))
    return list(dict.fromkeys(font for name, files in known.items() if name in names for font in files))


def asking_for(files: Sequence[str]) -> str:
    """A script that asks for fonts; else a browser does it when it lays out the first letter, which may be late.

    It makes links, and is not them: of a page from the disk a browser takes fonts, and refuses to take them early.
    """
    if not files:
        return ""
    link = '{rel: "preload", as: "font", type: "font/woff", crossOrigin: "", href}'
    return (
        f'<script>if (location.protocol !== "file:") for (const href of {json.dumps(files)}) '
        f'document.head.append(Object.assign(document.createElement("link"), {link}));</script>\n'
    )


def left_over(page: str) -> list[str]:
    """TeX that MathJax may find in a page's text."""
    return TEX.findall(UNSEEN.sub("", page.partition("</head>")[2]))


def finished(page: str, link: str, asking: str) -> str:
    """A page that names the style sheet, asks for its fonts, and for MathJax only where something is left for it."""

    def scripts(head: str) -> str:
        keeps = left_over(page)
        head = lighten.SCRIPT.sub(lambda found: found[0] if keeps or not typesets(found) else "", head)
        # Early: a script waits for the style sheets that stand before it.
        return head.replace("</title>", f"</title>\n{asking}", 1) + link

    return lighten.in_head(page, scripts)


def typesets(script: re.Match[str]) -> bool:
    """Whether a script is MathJax, tells it something, or says when it does what."""
    attributes, body = script.groups()
    return "mathjax" in attributes.lower() or "_static/formulas.js" in attributes or "MathJax" in body
