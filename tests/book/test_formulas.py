"""Formulas are typeset where a reader is first, all of them in the end, and on paper at once."""

import gzip
import re

import pytest
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


@pytest.fixture
def open_page(browser, address):
    contexts = []

    def opened(name, view="phone", script=""):
        context = browser.new_context(**VIEWS[view])
        context.set_default_timeout(PATIENCE)
        contexts.append(context)
        page = context.new_page()
        page.add_init_script(WATCH + script)
        page.goto(f"{address}/{name}", wait_until="load")
        return page

    yield opened
    for context in contexts:
        context.close()


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
