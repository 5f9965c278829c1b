"""What search engines, previews and lost readers get."""

import re
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit
from xml.etree import ElementTree

import for_machines
import pytest
import yaml
from docutils.core import publish_doctree

import dvae_lib

ROOT = Path(__file__).parents[2]
CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
BASE = CONFIG["html"]["baseurl"]


def test_the_pages_are_published_where_the_repository_is():
    owner, name = urlsplit(CONFIG["repository"]["url"]).path.strip("/").split("/")
    assert f"https://{owner}.github.io/{name}/" == BASE


def test_a_description_is_the_first_paragraph_that_says_something():
    page = publish_doctree("T\n=\n\nShort.\n\nThis paragraph says something that is worth to be shown.\n\nAnd more.\n")
    assert for_machines.description(page) == "This paragraph says something that is worth to be shown."
    long = for_machines.description(publish_doctree("word " * 100))
    assert long.endswith("word ...")
    assert len(long) <= for_machines.LENGTH + 4
    assert for_machines.description(None) == ""


def page_context(**more):
    button = {"label": "source-edit-button"}
    group = {"type": "group", "buttons": [{"label": "source-issues-button"}, button]}
    return {"title": "Title", "metatags": '<meta name="viewport" content="x" />', "header_buttons": [group], **more}


@pytest.mark.parametrize(("folder", "buttons"), [("book", 2), ("book/generated", 1)])
def test_an_edit_button_only_where_there_is_a_file_to_edit(tmp_path, folder, buttons):
    config = SimpleNamespace(html_title="Book", html_baseurl="https://x/")
    app = SimpleNamespace(srcdir=tmp_path, config=config)
    context = page_context(page_source_suffix=".md", docstitle="Title")
    for_machines.add_tags(app, f"{folder}/page", "page.html", context, None)
    assert len(context["header_buttons"][0]["buttons"]) == buttons
    assert "viewport" not in context["metatags"]
    assert f'content="https://x/{folder}/page.html"' in context["metatags"]
    assert context["docstitle"] == ""  # or the browser would say the title twice


@pytest.mark.parametrize(
    ("suffix", "body", "loads"),
    [(".md", "text", False), (".md", '<span class="math notranslate">', True), (".ipynb", "text", True)],
)
def test_formulas_are_typeset_where_there_are_some(tmp_path, suffix, body, loads):
    app = SimpleNamespace(srcdir=tmp_path, config=SimpleNamespace(html_title="Book", html_baseurl="https://x/"))
    settings = SimpleNamespace(filename=None, attributes={"body": "window.MathJax = {}"})
    context = page_context(
        page_source_suffix=suffix, body=body, script_files=["a.js", "vendor/mathjax/tex.js", settings]
    )
    for_machines.add_tags(app, "book/page", "page.html", context, None)
    assert ("vendor/mathjax/tex.js" in context["script_files"]) is loads
    assert (settings in context["script_files"]) is loads
    assert "a.js" in context["script_files"]


def test_one_viewport_is_left(tmp_path):
    page = tmp_path / "a.html"
    page.write_text(
        '<head><meta charset="u"><meta name="viewport" content="a"><p>\n<meta name="viewport" content="b"/></head>x'
    )
    for_machines.one_viewport(page)
    assert page.read_text() == '<head><meta charset="u"><meta name="viewport" content="a"><p></head>x'


def test_the_map_is_xml_with_every_address():
    tree = ElementTree.fromstring(for_machines.sitemap(["https://x/a.html", "https://x/b&c.html"]))
    assert [found.text for found in tree.iter() if found.tag.endswith("loc")] == [
        "https://x/a.html",
        "https://x/b&c.html",
    ]


def test_the_page_for_the_lost_finds_its_way_from_any_address():
    page = for_machines.not_found("Book", BASE, "book/intro.html")
    assert all(link.startswith(BASE) for link in re.findall(r'(?:href|src|action)="([^"]+)"', page))


def test_the_root_leads_to_the_first_page_also_from_a_disk():
    page = for_machines.redirect("Book", BASE, "book/intro.html")
    assert 'content="0; url=book/intro.html"' in page
    assert f'rel="canonical" href="{BASE}book/intro.html"' in page


def test_the_footer_says_licence_and_version():
    config = SimpleNamespace(html_theme_options={"repository_url": "https://r"})
    for_machines.add_footer(None, config)
    footer = config.html_theme_options["extra_footer"]
    assert "MIT" in footer
    assert dvae_lib.__version__ in footer
    assert re.search(r"\d{4}-\d\d-\d\d", footer)


def test_the_built_site_is_described(html):
    addresses = (html / "sitemap.xml").read_text(encoding="utf-8")
    assert (html / "404.html").is_file()
    assert f"Sitemap: {BASE}sitemap.xml" in (html / "robots.txt").read_text(encoding="utf-8")
    assert (html / "_static/preview.png").stat().st_size < 300_000
    for path in (html / "book").rglob("*.html"):
        name = path.relative_to(html).as_posix()
        head = path.read_text(encoding="utf-8").partition("</head>")[0]
        assert f"<loc>{BASE}{name}</loc>" in addresses
        assert f'<link rel="canonical" href="{BASE}{name}" />' in head
        assert head.count('name="viewport"') == 1, name
        assert head.count('property="og:title"') == 1, name
        assert f'"og:site_name" content="{CONFIG["title"]}"' in head, name


def test_the_first_page_is_light(html):
    """All of its own: text, drawings, sounds, movement; what every page shares aside."""
    page = (html / "book/intro.html").read_text(encoding="utf-8")
    own = set(re.findall(r'(?:src|href)="\.\./(_static/(?:family|front)/[^"]+)"', page))
    assert len(own) >= 10
    assert len(page) + sum((html / name).stat().st_size for name in own) < 600_000
    assert "vendor/mathjax" not in page
    assert "window.MathJax" not in page
    title = re.search(r"<title>(.*?)</title>", page)[1]
    assert title.count("Dynamical variational autoencoders") == 1
