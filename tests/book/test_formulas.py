"""Formulas stand in the pages; those that the build leaves to the browser are typeset where a reader is first."""

import gzip
import json
import re
import shutil
import subprocess
import threading
from functools import partial
from http.server import ThreadingHTTPServer

import lighten
import previews
import pytest
import typeset
import vendor
from conftest import QuietHandler
from test_pages import PATIENCE, VIEWS

FIRST = 40  # formulas before the first view is whole: a screen and a half of them, not the chapter's 300 to 500
SCRIPT = 200_000  # bytes of the script that typesets, packed; MathJax's own bundle has 266,000
FORMULAS = {
    "book/08_variational_recurrent_neural_networks.html": 250,
    "book/11_disentangled_sequential_autoencoders.html": 250,
}
# At the moment when the first view is said to be whole: how many formulas are typeset, and which in view are not.
WATCH = """window.atFirstView = [];
const mark = performance.mark.bind(performance);
performance.mark = (name, options) => {
    if (name === "formulas in view") atFirstView.forEach(watch => watch(options.detail));
    return mark(name, options);
};
atFirstView.push(said => {
    const seen = formula => {
        const box = formula.getBoundingClientRect();
        return box.width && box.bottom > 0 && box.top < innerHeight;
    };
    window.first = {said, raw: [...document.querySelectorAll(".math")]
        .filter(formula => seen(formula) && !formula.querySelector("mjx-container")).map(formula => formula.outerHTML)};
});"""
RAW = "document.querySelectorAll('.math:not(:has(mjx-container))').length"
PRINT = f"""atFirstView.push(() => {{
    const before = {RAW};
    dispatchEvent(new Event("beforeprint"));
    window.printed = [before, {RAW}];
}});"""


MATH = re.compile(r'<(?:span|div)\b[^>]*\bclass="(?:[^"]*\s)?math(?:\s[^"]*)?"[^>]*>\s*(?P<inner><mjx-container\b)?')
ASSISTIVE = re.compile(r"<mjx-assistive-mml.*?</mjx-assistive-mml>", re.DOTALL)


@pytest.fixture
def visitor(browser):
    """Opens a page at an address."""
    contexts = []

    def opened(address, view="phone", script="", **settings):
        context = browser.new_context(**VIEWS[view], **settings)
        context.set_default_timeout(PATIENCE)
        contexts.append(context)
        page = context.new_page()
        if script:
            page.add_init_script(script)
        page.goto(address, wait_until="load")
        return page

    yield opened
    for context in contexts:
        context.close()


# --- Typeset by the build ------------------------------------------------------------------------------------------


@pytest.fixture
def typeset_site(html):
    """A site whose build had node."""
    if not (html / typeset.SHEET).is_file():
        pytest.skip("built without node and npm: the browser typesets")
    return html


def test_every_formula_stands_in_its_page(typeset_site):
    """Typeset, with nothing left for MathJax, which no page asks for."""
    number = 0
    for page in lighten.pages(typeset_site):
        text = page.read_text("utf-8")
        found = list(MATH.finditer(text))
        number += len(found)
        assert [text[one.start() :][:200] for one in found if one["inner"] is None] == [], page
        assert typeset.left_over(ASSISTIVE.sub("", text)) == [], page
        assert "window.MathJax" not in text, page
        assert "vendor/mathjax/book.js" not in text, page
        assert "_static/formulas.js" not in text, page
        if "<mjx-container" in text:
            assert text.count("_static/formulas.css") == 1, page
    assert number > 1000


def test_every_formula_in_a_preview_is_typeset(typeset_site):
    number = 0
    for file in (typeset_site / previews.FOLDER).rglob("*.js"):
        for shown in previews.read(file)[1].values():
            found = list(MATH.finditer(shown))
            number += len(found)
            assert all(one["inner"] for one in found), (file, shown)
    assert number > 100


def test_what_readers_aids_read_out_is_there(typeset_site):
    for name in FORMULAS:
        text = (typeset_site / name).read_text("utf-8")
        assert text.count("<mjx-container") == len(ASSISTIVE.findall(text)) == text.count("<math ")


def test_a_letter_has_its_font_and_its_style(typeset_site):
    """The one style sheet has every letter of every page, and its fonts are where it says."""
    sheet = (typeset_site / typeset.SHEET).read_text("utf-8")
    fonts = re.findall(r'url\("([^"]+)"\)', sheet)
    assert fonts
    assert [font for font in fonts if not (typeset_site / "_static" / font).is_file()] == []
    letters = set()
    for page in lighten.pages(typeset_site):
        letters |= set(re.findall(r"\bmjx-c[0-9A-F]+\b", page.read_text("utf-8")))
    assert len(letters) > 50
    assert {letter for letter in letters if f".{letter}" not in sheet} == set()


@pytest.mark.parametrize("name", FORMULAS)
def test_without_scripts_formulas_are_there(name, visitor, address, typeset_site):
    page = visitor(f"{address}/{name}", java_script_enabled=False)
    seen = page.evaluate("""async () => {
        await document.fonts.ready;
        const boxes = [...document.querySelectorAll(".bd-article .math mjx-math")].filter(e => e.checkVisibility())
            .map(e => e.getBoundingClientRect());
        return {number: boxes.length, empty: boxes.filter(box => box.width < 2 || box.height < 2).length,
                fonts: [...document.fonts].filter(font => font.status === "loaded").map(font => font.family)};
    }""")
    assert seen["number"] > 100
    assert seen["empty"] == 0
    assert {"MJXTEX", "MJXTEX-I", "MJXTEX-B"} <= {font.strip("\"'") for font in seen["fonts"]}


@pytest.mark.parametrize("name", FORMULAS)
def test_the_fonts_that_a_page_needs_are_asked_for_before_its_text_is_there(name, visitor, address, typeset_site):
    """All of them, and no other, but for the pieces of tall signs: some signs have theirs in the font of large ones."""
    page = visitor(f"{address}/{name}")
    seen = page.evaluate("""async () => {
        await document.fonts.ready;
        const asked = performance.getEntriesByType("resource").filter(file => file.name.endsWith(".woff"));
        const used = [...document.fonts].filter(font => font.family.includes("MJX") && font.status === "loaded");
        return {early: asked.filter(file => file.initiatorType === "link").map(file => file.name.split("/").pop()),
                late: asked.filter(file => file.initiatorType !== "link").map(file => file.name), used: used.length};
    }""")
    assert seen["late"] == []
    assert len({*seen["early"]} - {"MathJax_Size4-Regular.woff"}) <= seen["used"] <= len(seen["early"])
    assert seen["used"] > 5


def test_a_page_from_the_disk_takes_its_fonts_and_complains_of_nothing(browser, typeset_site):
    """There a browser refuses to take them early."""
    said, page = [], browser.new_page()
    page.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
    page.goto((typeset_site / next(iter(FORMULAS))).resolve().as_uri())
    loaded = page.evaluate("""document.fonts.ready.then(() =>
        [...document.fonts].filter(font => font.status === "loaded").map(font => font.family))""")
    page.close()
    assert said == []
    assert any("MJXTEX-B" in family for family in loaded)


def test_a_page_without_formulas_asks_for_no_font(typeset_site):
    pages = [page.read_text("utf-8") for page in lighten.pages(typeset_site)]
    without = [page for page in pages if "<mjx-container" not in page]
    assert without
    assert [page[:200] for page in without if "MathJax_" in page] == []


@pytest.mark.parametrize("name", FORMULAS)
def test_an_address_leads_to_its_equation(name, visitor, address, typeset_site):
    equations = re.findall(r'id="(eq-[^"]+)"', (typeset_site / name).read_text("utf-8"))
    middle = equations[len(equations) // 2]
    page = visitor(f"{address}/{name}#{middle}")
    page.evaluate("document.fonts.ready.then(() => null)")
    top = page.wait_for_function(
        """id => { const top = document.getElementById(id).getBoundingClientRect().top;
                  return top >= -5 && top <= 422 ? [top] : null; }""",
        arg=middle,
    )
    assert top


# --- How the build does it -----------------------------------------------------------------------------------------

PAGE = """<html><head>
<script defer="defer" src="_static/formulas.js"></script>
<script>window.MathJax = {"tex": {"macros": {"vek": ["\\\\mathbf{#1}", 1]}}}</script>
<script defer="defer" src="_static/vendor/mathjax/book.js"></script>
<script src="_static/wide-formulas.js"></script>
</head><body><p>BODY</p></body></html>
"""
FORMULA = '<span class="math notranslate nohighlight">\\(%s\\)</span>'


def site_of(folder, bodies):
    """A site of pages with these texts."""
    for name, body in bodies.items():
        (folder / name).write_text(PAGE.replace("BODY", body))
    return folder


@pytest.fixture
def small_site(tmp_path):
    """An empty site with MathJax, where a build has fetched it."""
    mathjax = vendor.VENDOR / "mathjax"
    if not (mathjax / vendor.ADAPTOR).is_file() or shutil.which("node") is None:
        pytest.skip("needs node, and MathJax of a build")
    place = tmp_path / "site" / typeset.MATHJAX
    place.parent.mkdir(parents=True)
    place.symlink_to(mathjax)
    return tmp_path / "site"


def test_a_page_takes_its_formulas_and_no_script(small_site, tmp_path, capsys):
    body = FORMULA % r"\vek{a} &lt; b" + '<div class="math">\n\\[\\begin{aligned}x\\end{aligned} \\tag{2.1}\\]</div>'
    site_of(small_site, {"a.html": body, "b.html": FORMULA % r"\vek{a} &lt; b", "c.html": "none"})
    typeset.typeset(small_site, tmp_path / "kept.json")
    assert "Typesetting 2 formulas" in capsys.readouterr().out
    a, b, c = ((small_site / f"{name}.html").read_text() for name in "abc")
    assert len(re.findall(r'class="math[^>]*>\s*<mjx-container', a)) == 2
    assert "<mo>&lt;</mo>" in a
    assert '<mi mathvariant="bold">a</mi>' in a  # the page's own macro
    assert "(2.1)</mtext>" in a
    for page in (a, b, c):
        assert re.findall(r"<script.*?>", page) == ['<script src="_static/wide-formulas.js">']
        assert '<link href="_static/formulas.css?v=' in page
    assert "\\(" not in a + b


def test_what_mathjax_cannot_read_is_left_to_the_browser_and_named(small_site, tmp_path, capsys):
    bodies = {
        "unknown.html": FORMULA % "x" + FORMULA % r"\nosuch y",
        "connected.html": FORMULA % r"\label{a} z" + FORMULA % "x",
        "output.html": FORMULA % "x" + "<p>in a table: \\(x^2\\)</p>",
        "code.html": FORMULA % "x" + "<pre>\\(x^2\\)</pre>",
    }
    typeset.typeset(site_of(small_site, bodies), tmp_path / "kept.json")
    said = capsys.readouterr().out
    assert r"MathJax on \nosuch y: Undefined control sequence \nosuch" in said
    assert "unknown.html: left to the browser: \\(\\nosuch y\\)" in said
    pages = {name: (small_site / name).read_text() for name in bodies}
    assert FORMULA % r"\nosuch y" in pages["unknown.html"]
    assert FORMULA % r"\label{a} z" in pages["connected.html"]
    assert [page.count("<mjx-container") for page in pages.values()] == [1, 0, 1, 1]
    scripts = ("book.js", "formulas.js", "window.MathJax")
    loading = [name for name, page in pages.items() if all(script in page for script in scripts)]
    assert loading == ["unknown.html", "connected.html", "output.html"]


def test_what_is_left_is_typeset_in_the_browser(small_site, tmp_path, visitor_from):
    """Beside what the build has typeset, which stays."""
    for name in ("formulas.js", "wide-formulas.js"):
        shutil.copy(vendor.ROOT / "book/_static" / name, small_site / "_static")
    body = FORMULA % "x" + FORMULA % r"\nosuch y"
    site_of(small_site, {"a.html": body.replace("<p>", "")})
    page = small_site / "a.html"
    ready = "<script>MathJax.startup = {pageReady: () => bookFormulas()};</script>"
    page.write_text(page.read_text().replace("</head>", ready + "</head>"))
    typeset.typeset(small_site, tmp_path / "kept.json")
    seen = visitor_from(small_site, "a.html")
    seen.wait_for_function("MathJax.startup && MathJax.startup.promise")
    seen.evaluate("MathJax.startup.promise.then(() => null)")
    assert seen.locator(".math > mjx-container").count() == 2
    assert seen.locator("mjx-container").count() == 2


def test_formulas_of_an_unchanged_site_are_kept(small_site, tmp_path, monkeypatch):
    site_of(small_site, {"a.html": FORMULA % "x"})
    typeset.typeset(small_site, tmp_path / "kept.json")
    first = (small_site / "a.html").read_text()
    site_of(small_site, {"a.html": FORMULA % "x"})
    with monkeypatch.context() as without:
        without.setattr(subprocess, "run", None)
        typeset.typeset(small_site, tmp_path / "kept.json")
    assert (small_site / "a.html").read_text() == first
    site_of(small_site, {"a.html": FORMULA % "x_1"})
    typeset.typeset(small_site, tmp_path / "kept.json")
    assert (small_site / "a.html").read_text() != first


@pytest.mark.parametrize("written", ["", '{"made_of": "', "[]", "{}"])
def test_kept_formulas_that_cannot_be_read_are_made_anew(small_site, tmp_path, written):
    (tmp_path / "kept.json").write_text(written)
    typeset.typeset(site_of(small_site, {"a.html": FORMULA % "x"}), tmp_path / "kept.json")
    assert "<mjx-container" in (small_site / "a.html").read_text()


def test_a_formula_that_breaks_mathjax_keeps_no_other_from_being_typeset(small_site):
    request = {"config": {}, "fonts": "", "formulas": [[r"\require{nosuch}y", False], ["x", False]]}
    command = ["node", str(typeset.SCRIPT), str(vendor.VENDOR / "mathjax")]
    made = subprocess.run(command, input=json.dumps(request), capture_output=True, encoding="utf-8", check=True)
    broken, whole = json.loads(made.stdout)["formulas"]
    assert "nosuch" in broken["left"]
    assert "<mjx-container" in whole


def test_a_node_that_fails_is_named(small_site, tmp_path, monkeypatch):
    failed = subprocess.CompletedProcess([], 127, "", "no such version")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(SystemExit, match=r"node could not typeset.*a newer one may[\s\S]*no such version"):
        typeset.typeset(site_of(small_site, {"a.html": FORMULA % "x"}), tmp_path / "kept.json")


def test_a_page_that_changes_the_meaning_of_commands_is_left_as_a_whole(small_site, tmp_path):
    bodies = {"a.html": FORMULA % r"\require{physics}\abs{y}" + FORMULA % "x", "b.html": FORMULA % "x"}
    typeset.typeset(site_of(small_site, bodies), tmp_path / "kept.json")
    assert [(small_site / name).read_text().count("<mjx-container") for name in bodies] == [0, 1]


def test_scripts_ask_for_nothing_that_browsers_of_2022_lack():
    """A style that a browser does not know is left out; a selector that it does not know ends a script."""
    scripts = sorted((vendor.ROOT / "book/_static").glob("*.js"))
    assert scripts
    assert [path.name for path in scripts if ":has(" in path.read_text(encoding="utf-8")] == []


@pytest.mark.parametrize("lacks", ["node", "MathJax"])
def test_without_node_or_mathjax_pages_stay_as_they_are(tmp_path, monkeypatch, capsys, lacks):
    monkeypatch.setattr(typeset.shutil, "which", lambda name: None if lacks == "node" else "/usr/bin/node")
    site_of(tmp_path, {"a.html": FORMULA % "x"})
    if lacks == "node":
        (tmp_path / typeset.MATHJAX / vendor.ADAPTOR).parent.mkdir(parents=True)
        (tmp_path / typeset.MATHJAX / vendor.ADAPTOR).touch()
    before = (tmp_path / "a.html").read_text()
    typeset.typeset(tmp_path, tmp_path / "kept.json")
    assert (tmp_path / "a.html").read_text() == before
    assert "typeset by the browser" in capsys.readouterr().out


# --- Typeset by the browser ----------------------------------------------------------------------------------------


def served(folder):
    """A server of a folder, and its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, f"http://127.0.0.1:{server.server_port}"


@pytest.fixture
def visitor_from(visitor):
    """Opens a page of a folder."""
    servers = []

    def opened(folder, name, *arguments):
        server, address = served(folder)
        servers.append(server)
        return visitor(f"{address}/{name}", *arguments)

    yield opened
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def open_page(visitor_from, html):
    """Opens a page as Sphinx has made it, before the build typesets it: a site without node has such pages."""
    draft = html.with_name("draft") / "html"
    if not draft.is_dir():
        pytest.skip("needs the draft of a site beside it: `make site` leaves it there")
    return lambda name, view="phone", script="": visitor_from(draft, name, view, WATCH + script)


def finish(page):
    page.wait_for_function("window.MathJax && MathJax.startup && MathJax.startup.promise")
    page.evaluate("MathJax.startup.promise.then(() => null)")


@pytest.mark.parametrize("place", ["", "half"])
@pytest.mark.parametrize("name", FORMULAS)
def test_what_is_in_view_is_typeset_first_and_everything_in_the_end(name, place, open_page, html):
    """At the beginning of a page, and where an address names an equation in the middle of it."""
    equations = re.findall(r'id="(eq-[^"]+)"', (html / name).read_text("utf-8"))
    middle = equations[len(equations) // 2]
    page = open_page(f"{name}#{middle}" if place else name)
    finish(page)
    first = page.evaluate("window.first")
    assert first["said"] <= FIRST
    assert first["raw"] == []
    assert page.evaluate("document.querySelectorAll('.bd-article .math').length") > FORMULAS[name]
    assert page.evaluate(RAW) == 0
    if place:
        top = page.evaluate("id => document.getElementById(id).getBoundingClientRect().top", middle)
        assert -5 <= top <= 844 / 2


def test_on_paper_every_formula_stands_at_once(open_page):
    """Printing begins while most formulas wait."""
    page = open_page("book/11_disentangled_sequential_autoencoders.html", "desktop", PRINT)
    finish(page)
    before, after = page.evaluate("window.printed")
    assert before > 100
    assert after == 0


def test_rare_symbols_are_fetched_when_they_are_met(open_page):
    """The script holds what all pages need; the rest of TeX stands beside it."""
    page = open_page("book/11_disentangled_sequential_autoencoders.html")
    finish(page)
    found = page.evaluate(r"""() => MathJax.tex2chtmlPromise("\\boldsymbol{\\mu} \\cancel{x} \\color{red}{y}")
        .then(formula => formula.querySelectorAll("mjx-merror, [data-mjx-error]").length)""")
    assert found == 0


def test_the_script_that_typesets_is_small(html):
    script = html / "_static/vendor/mathjax/book.js"
    if not (html / "_static/vendor").exists():
        pytest.skip("built without npm: the pages take MathJax from a public server")
    assert len(gzip.compress(script.read_bytes(), 6)) < SCRIPT
