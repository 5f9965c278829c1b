"""What search engines, link previews and lost readers need: descriptions, addresses, a map of the site, a page for 404.

- Each page says in one sentence what it is (its own first one), and how a preview of a link to it looks.
- `sitemap.xml` lists the pages, `robots.txt` says where it is, `404.html` leads back, `index.html` to the first page.
- Every page has one viewport, and the first page a title that does not say the same twice.
- A page of text without a formula does not load what typesets formulas.
- The button "Suggest edit" stands only where there is a file to edit, and the footer has licence, version and date.

Extensions for each of these exist (sphinxext-opengraph, sphinx-sitemap, sphinx-notfound-page). They would be three
dependencies for what is written down here in a few lines.
"""

from __future__ import annotations

import html
import json
import os
import re
import subprocess
import time
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from docutils import nodes
from sphinx.application import Sphinx

from dvae_lib import __version__

LENGTH = 200  # of a description, in characters: what search engines show
VIEWPORT = re.compile(r'\s*<meta[^>]*name="viewport"[^>]*>')
PREVIEW = "_static/preview.png"  # written by computed_pages, which draws the family


def description(doctree: nodes.document | None) -> str:
    """The first paragraph that says something, cut at a word."""
    for paragraph in doctree.findall(nodes.paragraph) if doctree else ():
        text = " ".join(paragraph.astext().split())
        if len(text) >= 40 and not isinstance(paragraph.parent, nodes.Admonition) and "\\" not in text:
            break
    else:
        return ""
    if len(text) <= LENGTH:
        return text
    return text[:LENGTH].rpartition(" ")[0].rstrip(",;:.") + " ..."


def tags(page: dict[str, str]) -> str:
    """The tags in a page's head."""
    named = {"description": page["description"], "twitter:card": "summary_large_image"}
    about = {
        "og:type": "article", "og:site_name": page["site"], "og:title": page["title"], "og:url": page["url"],
        "og:description": page["description"], "og:image": page["image"], "og:image:alt": page["image_alt"],
    }  # fmt: skip
    lines = [f'<meta name="{key}" content="{html.escape(value)}" />' for key, value in named.items() if value]
    lines += [f'<meta property="{key}" content="{html.escape(value)}" />' for key, value in about.items() if value]
    return "\n".join(lines) + "\n"


def add_tags(app: Sphinx, pagename: str, template: str, context: dict[str, Any], doctree: nodes.document) -> None:
    """Describe a page, and take away what it should not have."""
    title = re.sub(r"<[^>]+>", "", context.get("title") or app.config.html_title)
    base = app.config.html_baseurl
    page = {
        "title": html.unescape(title), "site": app.config.html_title, "description": description(doctree),
        "url": f"{base}{pagename}.html", "image": f"{base}{PREVIEW}",
        "image_alt": "Graphs of dynamical variational autoencoders, side by side.",
    }  # fmt: skip
    context["metatags"] = VIEWPORT.sub("", context.get("metatags", "")) + tags(page)
    if context.get("title") == context.get("docstitle"):
        context["docstitle"] = ""
    if context.get("page_source_suffix") == ".md" and 'class="math' not in context.get("body", ""):
        # MathJax is a megabyte; the theme's extensions put it on every page.
        scripts = context.get("script_files", [])
        context["script_files"] = [script for script in scripts if not serves_formulas(script)]
    source = Path(app.srcdir, f"{pagename}{context.get('page_source_suffix', '')}")
    if is_generated(source):
        for group in context.get("header_buttons", []):
            kept = [button for button in group.get("buttons", []) if button["label"] != "source-edit-button"]
            if "buttons" in group:
                group["buttons"] = kept


def serves_formulas(script: Any) -> bool:
    """Whether a script, a name or Sphinx's object, is MathJax or its settings."""
    attributes = getattr(script, "attributes", {})
    return "mathjax" in str(getattr(script, "filename", script)).lower() or "MathJax" in str(attributes.get("body", ""))


def is_generated(source: Path) -> bool:
    """Whether a page's source is made by the build, so that the repository does not have it."""
    return "generated" in source.parts


def date_of_the_text() -> str:
    """The day of the last commit; where there is no history, `SOURCE_DATE_EPOCH` or today."""
    if "SOURCE_DATE_EPOCH" not in os.environ:
        command = ["git", "log", "-1", "--format=%cs"]
        found = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
        if found.returncode == 0 and found.stdout.strip():
            return found.stdout.strip()
    return time.strftime("%Y-%m-%d", time.gmtime(float(os.environ.get("SOURCE_DATE_EPOCH", time.time()))))


def add_footer(app: Sphinx, config: Any) -> None:
    """Licence, version and date under every page."""
    licence = f"{config.html_theme_options.get('repository_url', '')}/blob/main/LICENSE"
    config.html_theme_options["extra_footer"] = (
        f'<p>Text and code: <a href="{licence}">MIT licence</a>. Version {__version__}, {date_of_the_text()}.</p>'
    )


def finish(app: Sphinx, error: Exception | None) -> None:
    """Write what belongs to the site as a whole, and mend the pages' heads."""
    if error is not None or app.builder.format != "html":
        return
    folder, base = Path(app.outdir), app.config.html_baseurl
    for path in folder.rglob("*.html"):
        if "_static" not in path.parts:
            one_viewport(path)
    documents = sorted(app.env.found_docs)
    addresses = [f"{base}{document}.html" for document in documents]
    (folder / "sitemap.xml").write_text(sitemap(addresses), encoding="utf-8")
    (folder / "robots.txt").write_text(f"User-agent: *\nAllow: /\nSitemap: {base}sitemap.xml\n", encoding="utf-8")
    first = f"{app.config.root_doc}.html"
    (folder / "index.html").write_text(redirect(app.config.html_title, base, first), encoding="utf-8")
    (folder / "404.html").write_text(not_found(app.config.html_title, base, first), encoding="utf-8")


def one_viewport(path: Path) -> None:
    """Keep the first of a page's viewports: two templates of the theme write one each."""
    text = path.read_text(encoding="utf-8")
    head, end, body = text.partition("</head>")
    found = list(VIEWPORT.finditer(head))
    if len(found) > 1:
        cut = found[0].end()
        path.write_text(head[:cut] + VIEWPORT.sub("", head[cut:]) + end + body, encoding="utf-8")


def sitemap(addresses: list[str]) -> str:
    """The map of the site, after sitemaps.org."""
    lines = "".join(f"  <url><loc>{escape(address)}</loc></url>\n" for address in addresses)
    space = "http://www.sitemaps.org/schemas/sitemap/0.9"
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<urlset xmlns="{space}">\n{lines}</urlset>\n'


def redirect(title: str, base: str, first: str) -> str:
    """The page at the site's root, which leads to the first one, also from a folder on a disk."""
    preview = {"title": title, "site": title, "description": title, "url": base + first, "image": base + PREVIEW}
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>{html.escape(title)}</title>\n'
        f'<meta http-equiv="refresh" content="0; url={first}">\n<link rel="canonical" href="{base}{first}">\n'
        f"{tags({**preview, 'image_alt': ''})}<p><a href={json.dumps(first)}>{html.escape(title)}</a></p>\n</html>\n"
    )


def not_found(title: str, base: str, first: str) -> str:
    """A page that stands alone: it is shown at any address, so that nothing relative would be found."""
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex">
<title>Not here: {html.escape(title)}</title>
<link rel="icon" href="{base}_static/favicon.svg">
<style>
  :root {{ color-scheme: light dark; }}
  body {{ font: 1.1rem/1.6 system-ui, sans-serif; max-width: 36rem; margin: 15vh auto 0; padding: 0 1.2rem; }}
  input, button {{ font: inherit; padding: .3rem .6rem; max-width: 100%; box-sizing: border-box; }}
</style>
<main>
<h1>There is no such page</h1>
<p>It may have moved, or the address may have a slip. The book's
<a href="{base}{first}">first page</a> leads everywhere.</p>
<form action="{base}search.html" role="search">
<label>Or search: <input type="search" name="q"></label> <button>Search</button>
</form>
</main>
</html>
"""


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.connect("config-inited", add_footer, priority=900)
    # After the theme has put its buttons there (priority 501).
    app.connect("html-page-context", add_tags, priority=900)
    app.connect("build-finished", finish, priority=900)
    return {"version": "1.0", "parallel_read_safe": True, "parallel_write_safe": True}
