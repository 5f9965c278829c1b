"""What axe, a checker of accessibility, finds on a page of each kind, on desktop, phone and in the dark: nothing."""

import pytest
from test_pages import PATIENCE, SITE, VIEWS, Visit

axe = pytest.importorskip("axe_playwright_python.base")

# The front page, chapters with widgets and sounds, tables, solutions, what the build computes, the library, the search.
PAGES = (
    "book/intro.html",
    "book/02_variational_autoencoders.html",
    "book/04b_d_separation.html",
    "book/13c_human_motion.html",
    "book/B_speech_architectures.html",
    "book/solutions/02_variational_autoencoders.html",
    "book/gallery.html",
    "book/cheat_sheet.html",
    "book/glossary.html",
    "book/errata.html",
    "book/bibliography.html",
    "book/generated/dvae_lib.objectives.html",
    "genindex.html",
    "search.html",
)
# Each violation with the elements that show it. What axe cannot judge by itself is not in it, nor what MathJax makes of
# a formula: thousands of elements, all alike; nor a table's head that is a formula, in which axe sees no text.
RUN = """async () => {
    const leftOut = {exclude: [["mjx-container"], ["th:has(mjx-container)"]]};
    const found = await axe.run(leftOut, {resultTypes: ["violations"], preload: false});
    return found.violations.map(rule => `${rule.id} (${rule.nodes.length}): ${rule.help}\\n` +
        rule.nodes.slice(0, 3).map(node => "    " + node.html.slice(0, 160)).join("\\n"));
}"""

pytestmark = pytest.mark.skipif(SITE is None, reason="needs a built site: run `make test`, or set BOOK_HTML")


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("name", PAGES)
def test_axe_finds_nothing(name, view, browser, address):
    context = browser.new_context(**VIEWS[view])
    context.set_default_timeout(PATIENCE)
    visit = Visit(context, address, name, view)
    visit.page.evaluate(axe.AXE_SCRIPT)
    found = visit.page.evaluate(RUN)
    context.close()
    assert found == [], "\n".join(found)
