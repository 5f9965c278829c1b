"""What a link shows before it is followed: taken from the pages, opened by mouse and keyboard, in no finger's way."""

import json
import re

import previews
from test_pages import PATIENCE, VIEWS, Visit

PAGE = """<h1>2 VAE<a class="headerlink" href="#vae" title="Link">#</a></h1>
<div class="amsmath math notranslate nohighlight" id="eq-2-10">
\\[\\begin{equation*}a &lt; b \\tag{2.10}\\end{equation*}\\]</div>
<div class="cell_output"><img alt="Old" src="../_images/old.svg" /></div>
<div class="figure-caption docutils" id="fig-2-0"><p>Old.</p>
</div>
<div class="cell_output"><img alt="Curves" loading="lazy" src="../_images/new.svg" /></div>
<div class="figure-caption docutils" id="fig-2-1">
<p><strong>Figure 2.1.</strong> By <a class="reference internal" href="#eq-2-10"><span>(2.10)</span></a>.</p>
</div>
<table class="table" id="t"><tr><td>1</td></tr></table>
<div class="figure-caption docutils" id="tab-2-1">
<p>A table.</p>
</div>
<div class="figure-caption docutils" id="fig-2-2">
<p>A film.</p>
</div>
<div class="citation" id="id7" role="listitem">
<span class="label"><span class="fn-bracket">[</span>KW14<span class="fn-bracket">]</span></span>
<p>Kingma and Welling. <em>Auto-encoding</em>. <a href="https://doi.org/1">doi</a></p>
</div>
<dl class="simple glossary">
<dt id="term-gap">gap<a class="headerlink" href="#term-gap" title="Link">#</a></dt>
<dt id="term-hole">hole</dt><dd><p>What lacks.</p>
</dd>
</dl>"""


def test_previews_are_what_the_page_shows():
    assert previews.previews(PAGE) == {
        "": "2 VAE",
        "eq-2-10": '<div class="math">\n\\[\\begin{equation*}a &lt; b\\end{equation*}\\]</div>',
        "fig-2-0": '<img alt="Old" src="../_images/old.svg" /><p>Old.</p>',
        "fig-2-1": '<img alt="Curves" src="../_images/new.svg" />\n<p><strong>Figure 2.1.</strong> '
        "By <span>(2.10)</span>.</p>",
        "tab-2-1": '<table class="table"><tr><td>1</td></tr></table>\n<p>A table.</p>',
        "fig-2-2": "<p>A film.</p>",
        "id7": "<p>Kingma and Welling. <em>Auto-encoding</em>. doi</p>",
        "term-gap": "<p><strong>gap, hole</strong></p><p>What lacks.</p>",
        "term-hole": "<p><strong>gap, hole</strong></p><p>What lacks.</p>",
    }


def test_files_hold_pictures_by_their_way_from_the_first_folder(tmp_path):
    page = tmp_path / "book/solutions/02.html"
    page.parent.mkdir(parents=True)
    page.write_text('<img src="../../_images/a.svg" />\n<div class="figure-caption" id="fig-2">A\n</div>')
    previews.write(tmp_path)
    text = (tmp_path / "_static/previews/book/solutions/02.js").read_text()
    assert (
        text
        == 'bookPreviews["book/solutions/02"]='
        + json.dumps({"fig-2": '<img src="@/_images/a.svg" />A'}, separators=(",", ":"))
        + ";\n"
    )


# --- on a built site -----------------------------------------------------------------------------------------


def test_every_link_to_an_equation_or_a_reference_has_its_preview(html):
    known = {}
    for file in (html / previews.FOLDER).rglob("*.js"):
        known[file.relative_to(html / previews.FOLDER).as_posix()] = json.loads(
            file.read_text(encoding="utf-8").partition("=")[2].rstrip(";\n")
        )
    assert sum(len(shown) for shown in known.values()) > 500
    lacking = set()
    for page in (html / "book").rglob("*.html"):
        for link in re.findall(
            r'<a class="reference internal" href="([^"]*#(?:eq-|id\d)[^"]*)"', page.read_text("utf-8")
        ):
            path, _, anchor = link.partition("#")
            target = (page.parent / path).resolve() if path else page.resolve()
            if not target.is_relative_to((html / "book").resolve()):
                continue
            file = target.relative_to(html.resolve()).with_suffix(".js").as_posix()
            if anchor not in known[file] and not re.fullmatch(r"id\d+", anchor):
                lacking.add(link)
    assert lacking == set()


def test_previews_are_not_loaded_before_they_are_asked_for(html):
    for page in (html / "book").glob("*.html"):
        assert previews.FOLDER + "/" not in page.read_text(encoding="utf-8")


SHOWN = "(box => box && !box.hidden && box.style.visibility === '')(document.getElementById('preview'))"
CHAPTER = "book/09_stochastic_recurrent_neural_networks.html"
KINDS = {
    "equation of another page": '[href*="04b_d_separation.html#eq-"]',
    "reference": '[href*="bibliography.html#"]',
    "figure or table": '[href*="#tab-9"], [href*="#fig-9"]',
}


def visit(browser, address, view="desktop"):
    context = browser.new_context(**VIEWS[view])
    context.set_default_timeout(PATIENCE)
    return Visit(context, address, CHAPTER, view)


def test_a_mouse_opens_a_preview_and_escape_closes_it(browser, address):
    seen = visit(browser, address)
    box = seen.page.locator("#preview")
    for kind, selector in KINDS.items():
        link = seen.page.locator(".bd-article").locator(selector).first
        link.hover()
        seen.page.wait_for_function(SHOWN)
        assert link.get_attribute("aria-describedby") == "preview", kind
        assert len(box.inner_text().strip()) > 10, kind
        size = box.bounding_box()
        assert size["x"] >= 0, kind
        assert size["x"] + size["width"] <= VIEWS["desktop"]["viewport"]["width"], kind
        at = link.bounding_box()
        gaps = (size["y"] - at["y"] - at["height"], at["y"] - size["y"] - size["height"])
        assert -30 < max(gaps) < 30, kind  # beside the link, one line of which may be meant
        if kind.startswith("equation"):
            assert box.locator("mjx-math").count() == 1
            assert box.evaluate("box => box.scrollWidth <= box.clientWidth + 1")
        box.hover()  # one can go there, to read or to select
        seen.page.wait_for_timeout(500)
        assert box.is_visible(), kind
        seen.page.keyboard.press("Escape")
        assert not box.is_visible(), kind
        assert link.get_attribute("aria-describedby") is None, kind
        seen.page.mouse.move(0, 0)
    assert seen.problems == []
    seen.page.context.close()


def test_the_keyboard_opens_a_preview(browser, address):
    seen = visit(browser, address)
    link = seen.page.locator(".bd-article").locator(KINDS["equation of another page"]).first
    link.focus()
    seen.page.keyboard.press("Shift+Tab")
    seen.page.keyboard.press("Tab")
    assert link.evaluate("link => link === document.activeElement")
    seen.page.wait_for_function(SHOWN)
    assert link.get_attribute("aria-describedby") == "preview"
    seen.page.keyboard.press("Tab")  # to a link that may have a preview of its own
    assert link.get_attribute("aria-describedby") is None
    seen.page.keyboard.press("Escape")
    assert not seen.page.locator("#preview").is_visible()
    seen.page.context.close()


def test_a_finger_goes_where_the_link_leads(browser, address):
    seen = visit(browser, address, "phone")
    seen.page.locator(".bd-article").locator(KINDS["equation of another page"]).first.tap()
    seen.page.wait_for_url("**/04b_d_separation.html#eq-*")
    assert not seen.page.locator("#preview").is_visible()
    seen.page.context.close()
