"""The whole book as one PDF: the built pages, printed by Chromium in reading order, with contents and page numbers.

    python book/_tools/pdf.py HTML OUTPUT [--pages NAME ...]

HTML is the folder of a built site. The API reference is left out: nobody reads it on paper. Links from page to page
lead from page to page in the PDF, too.
"""

from __future__ import annotations

import argparse
import io
import shutil
import sys
import threading
from dataclasses import dataclass
from functools import partial
from html import escape
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from playwright.sync_api import Page
    from pypdf import PdfWriter

ROOT = Path(__file__).resolve().parents[2]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
LEFT_OUT = ("book/api", "book/generated/")
PATIENCE = 300_000  # milliseconds for one page
# Chapters are printed one after the other: each goes on where the one before has ended.
# The number itself is put at the foot by print.css, and the address where something sounds or moves.
NUMBERED = 'html {{ counter-reset: page {before}; --place: "at {place}"; }}'
TITLE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>
@page {{ size: A4; margin: 25mm 22mm; }} body {{ font: 11pt/1.5 Georgia, serif; color: #111; }}
h1 {{ font-size: 30pt; line-height: 1.15; margin: 55mm 0 8mm; }} .end {{ break-after: page; }}
h2 {{ font-size: 18pt; margin: 0 0 6mm; }} h3 {{ font: 600 11pt sans-serif; margin: 6mm 0 1mm; }}
a {{ color: inherit; text-decoration: none; display: flex; gap: 1em; }} a span:last-child {{ margin-left: auto; }}
</style><h1>{title}</h1><p>{author}</p><p class="end">{address}</p><h2>Contents</h2>{contents}</html>"""


@dataclass
class Chapter:
    """A page of the book: its name, the part it stands in, its title, its PDF and the number of its first page."""

    name: str
    part: str
    title: str = ""
    pdf: bytes = b""
    first: int = 0
    length: int = 0


def chapters(toc: dict[str, Any]) -> list[Chapter]:
    """The pages that `_toc.yml` names, in reading order, without the API reference."""
    found = [Chapter(toc["root"], "")]
    for part in toc["parts"]:
        for entry in part["chapters"]:
            below = [page["file"] for page in entry.get("sections", [])]  # solutions stand below one entry
            found += [Chapter(name, part["caption"]) for name in [entry["file"], *below]]
    return [chapter for chapter in found if not chapter.name.startswith(LEFT_OUT)]


def contents_page(book: list[Chapter], config: dict[str, Any]) -> str:
    """Title and contents, as HTML."""
    lines, part = [], ""
    for chapter in book:
        if chapter.part != part:
            part = chapter.part
            lines.append(f"<h3>{escape(part)}</h3>")
        lines.append(
            f'<a href="{chapter.name}.html"><span>{escape(chapter.title)}</span><span>{chapter.first}</span></a>'
        )
    return TITLE.format(
        title=escape(config["title"]),
        author=escape(config["author"]),
        address=escape(config["repository"]["url"]),
        contents="\n".join(lines),
    )


def print_chapter(page: Page, address: str, chapter: Chapter, before: int, published: str) -> None:
    """Print one page of the site, which readers find below an address; its numbers go on after those before."""
    import pypdf

    page.goto(f"{address}/{chapter.name}.html", wait_until="load")
    page.evaluate("window.MathJax && MathJax.startup ? MathJax.startup.promise.then(() => null) : null")
    page.evaluate("document.fonts.ready.then(() => null)")
    page.evaluate("""() => Promise.all([...document.images].map(image => {
        image.loading = "eager";
        return image.decode().catch(() => null);
    }))""")
    page.add_style_tag(content=NUMBERED.format(before=before, place=f"{published}{chapter.name}.html"))
    chapter.title = page.evaluate("""() => {
        const title = document.querySelector("h1").cloneNode(true);
        title.querySelectorAll(".headerlink").forEach(link => link.remove());
        return title.textContent.trim();
    }""")
    chapter.pdf = page.pdf(prefer_css_page_size=True, print_background=True, outline=True, tagged=True)
    chapter.first, chapter.length = before + 1, len(pypdf.PdfReader(io.BytesIO(chapter.pdf)).pages)


def join(front: bytes, book: list[Chapter], address: str) -> PdfWriter:
    """One document of all: with an outline by parts and chapters, and links between them."""
    import pypdf

    whole = pypdf.PdfWriter()
    whole.append(io.BytesIO(front), import_outline=False)
    offset = len(whole.pages)
    parts: dict[str, Any] = {}
    for chapter in book:
        whole.append(io.BytesIO(chapter.pdf), import_outline=False)
        place = offset + chapter.first - 1
        if chapter.part and chapter.part not in parts:
            parts[chapter.part] = whole.add_outline_item(title=chapter.part, page_number=place)
        whole.add_outline_item(title=chapter.title, page_number=place, parent=parts.get(chapter.part))
    lead(whole, {chapter.name: offset + chapter.first - 1 for chapter in book}, address)
    return whole


def lead(whole: PdfWriter, places: dict[str, int], address: str) -> None:
    """Let links to a page of the site lead to that page of the document; those to a page left out lead nowhere."""
    from pypdf.generic import ArrayObject, NameObject

    for page in whole.pages:
        kept = ArrayObject()
        for reference in page.get("/Annots", ()):
            link = reference.get_object()
            action = link.get("/A", {})
            target = str(action.get("/URI", ""))
            if target.startswith(address):
                name = target.removeprefix(f"{address}/").partition("#")[0].removesuffix(".html")
                if name not in places:
                    continue
                del link[NameObject("/A")]
                destination = [whole.pages[places[name]].indirect_reference, NameObject("/Fit")]
                link[NameObject("/Dest")] = ArrayObject(destination)
            kept.append(reference)
        if "/Annots" in page:
            page[NameObject("/Annots")] = kept


class Quiet(SimpleHTTPRequestHandler):
    """Serves the site without a word."""

    def log_message(self, *_: object) -> None:
        """Nothing."""


def make(html: Path, output: Path, names: list[str] | None = None) -> int:
    """Print and join; the number of pages.

    Raises:
        SystemExit: if there is no site, no Chromium, or no page of a name asked for.
    """
    from playwright.sync_api import sync_playwright

    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise SystemExit("Chromium prints the pages, and it is not installed: apt-get install chromium")
    book = chapters(yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8")))
    known = {chapter.name.removeprefix("book/"): chapter for chapter in book}
    if unknown := [name for name in names or () if name not in known]:
        raise SystemExit(f"No page {', '.join(unknown)}. There are: {', '.join(known)}")
    book = [chapter for name, chapter in known.items() if names is None or name in names]
    if missing := [chapter.name for chapter in book if not (html / f"{chapter.name}.html").is_file()]:
        raise SystemExit(f"Not in {html}: {', '.join(missing)}. Run `make book` first.")
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(html)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox", "--disable-gpu"])
        page = chromium.new_page(viewport={"width": 900, "height": 1200}, color_scheme="light")
        page.set_default_timeout(PATIENCE)
        count = 0
        for chapter in book:
            print_chapter(page, address, chapter, before=count, published=config["html"]["baseurl"])
            count += chapter.length
            print(f"  {chapter.name}: {chapter.length} pages", flush=True)
        # On the site's address, so that its links are those of the site.
        page.route(
            f"{address}/contents",
            lambda route: route.fulfill(body=contents_page(book, config), content_type="text/html"),
        )
        page.goto(f"{address}/contents")
        front = page.pdf(prefer_css_page_size=True, print_background=True)
        chromium.close()
    server.shutdown()
    server.server_close()
    whole = join(front, book, address)
    whole.add_metadata({"/Title": config["title"], "/Author": config["author"]})
    output.parent.mkdir(parents=True, exist_ok=True)
    whole.write(output)
    return len(whole.pages)


def main() -> None:
    """Command line."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("html", type=Path, help="folder of a built site")
    options.add_argument("output", type=Path, help="the PDF to write")
    options.add_argument("--pages", nargs="+", help="only these pages, by their names in _toc.yml without `book/`")
    chosen = options.parse_args()
    count = make(chosen.html.resolve(), chosen.output, chosen.pages)
    print(f"{chosen.output}: {count} pages, {chosen.output.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    sys.exit(main())
