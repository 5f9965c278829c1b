"""The published pages, as a reader meets them: in a browser without the web, on a desktop, on a phone, in the dark.

`BOOK_HTML` names the folder of the built site. A picture of each page that fails goes to a folder `screenshots` beside
it, and of every page where `BOOK_SCREENSHOTS` is set.
"""

import os
import shutil
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import reading_checks
from playwright.sync_api import Error as PlaywrightError

SITE = Path(os.environ["BOOK_HTML"]) if "BOOK_HTML" in os.environ else None
PAGES = sorted(path.relative_to(SITE).as_posix() for path in (SITE / "book").rglob("*.html")) if SITE else []
VIEWS = {
    "desktop": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "light"},
    "phone": {"viewport": {"width": 390, "height": 844}, "color_scheme": "light", "is_mobile": True, "has_touch": True},
    "dark": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "dark"},
}
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUIET = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    # No web. (Playwright's own interception of requests would switch off the browser's cache.)
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]  # fmt: skip
PATIENCE = 120_000  # milliseconds; the usual 30 s are too few on a busy machine

pytestmark = pytest.mark.skipif(SITE is None, reason="needs a built site: run `make test`, or set BOOK_HTML")

MISSING_ICONS = """async () => {
    await document.fonts.ready;
    const drawn = (character, font) => {
        const context = new OffscreenCanvas(40, 40).getContext("2d");
        context.font = font;
        context.fillText(character, 5, 30);
        return context.getImageData(0, 0, 40, 40).data.join();
    };
    const shown = "i, p, a, button, label, summary, span[class*=fa-]";
    return [...document.querySelectorAll(shown)].flatMap(element => ["::before", "::after"].map(part => {
        const style = getComputedStyle(element, part), character = style.content.replace(/"/g, "");
        if (!element.getBoundingClientRect().width || !/^[\uf000-\uf8ff]$/.test(character)) return null;
        const own = drawn(character, `${style.fontWeight} 20px ${style.fontFamily}`);
        const none = drawn(character, `${style.fontWeight} 20px serif`);
        return own == none ? element.outerHTML.slice(0, 100) : null;
    })).filter(found => found);
}"""


@pytest.fixture(scope="module")
def contexts(browser):
    """One reader for each view, who keeps what all pages share."""
    found = {view: browser.new_context(**settings) for view, settings in VIEWS.items()}
    for context in found.values():
        context.set_default_timeout(PATIENCE)
    yield found
    for context in found.values():
        context.close()


class Visit:
    """A loaded page, with everything that went wrong while it loaded."""

    def __init__(self, context, address: str, name: str, view: str):
        self.name, self.view, self.site = name, view, SITE
        self.problems: list[str] = []
        self.own = urlsplit(address).netloc
        self.page = context.new_page()
        self.page.on("request", self.asked)
        self.page.on("requestfailed", self.broke_off)
        self.page.on("response", self.answered)
        self.page.on("pageerror", lambda error: self.problems.append(f"script error: {error}"))
        self.page.on("console", lambda line: line.type == "error" and self.problems.append(f"console: {line.text}"))
        self.page.goto(f"{address}/{name}", wait_until="load")
        self.page.wait_for_function("!window.MathJax || (MathJax.startup && MathJax.startup.promise)")
        self.page.evaluate("window.MathJax ? MathJax.startup.promise : null")

    def photograph(self):
        folder = SITE.parent / "screenshots"
        folder.mkdir(exist_ok=True)
        name = self.name.removesuffix(".html").replace("/", "-")
        path = folder / f"{name}-{self.view}.jpg"
        self.page.screenshot(path=path, full_page=True, animations="disabled", quality=60, type="jpeg")

    def asked(self, request):
        url = urlsplit(request.url)
        if url.scheme.startswith("http") and url.netloc != self.own:
            self.problems.append(f"asks another server: {request.url}")

    def broke_off(self, request):
        # A browser that has read enough of a sound ends the request itself; what is not there has a status of its own.
        if (request.resource_type, request.failure) != ("media", "net::ERR_ABORTED"):
            self.problems.append(f"request failed ({request.failure}): {request.url[:200]}")

    def answered(self, response):
        if response.status >= 400:
            self.problems.append(f"status {response.status}: {response.url}")


# One page in one view is one test, and one visit. A visit on a desktop ends in the dark; loading in the dark is tried
# with two pages. The pages of the API reference are all alike: a phone, which is the narrowest view, will do.
DARK = ("book/intro.html", "book/02_variational_autoencoders.html")
VISITS = [
    pytest.param(name, view, id=f"{name}-{view}")
    for view in VIEWS
    for name in PAGES
    if view == "phone" or (name in DARK if view == "dark" else "/generated/" not in name)
]


@pytest.mark.parametrize(("name", "view"), VISITS)
def test_page(name, view, contexts, address):
    visit = Visit(contexts[view], address, name, view)
    found = []
    for check in CHECKS:
        try:
            check(visit)
        except (AssertionError, PlaywrightError) as problem:
            found.append(f"{check.__name__}: {problem}")
    if found or "BOOK_SCREENSHOTS" in os.environ:
        visit.photograph()
    visit.page.close()
    assert found == [], "\n".join(found)


def loads_without_a_failure(visit):
    assert visit.problems == []
    theme = visit.page.evaluate("document.documentElement.dataset.theme")
    assert theme == ("dark" if visit.view == "dark" else "light")


def darkens_with_the_system(visit):
    if visit.view == "desktop":
        visit.page.emulate_media(color_scheme="dark")
        visit.page.wait_for_function("document.documentElement.dataset.theme == 'dark'", timeout=10_000)
        assert visit.problems == []


def mathematics_is_typeset(visit):
    found = visit.page.evaluate("""() => ({
        formulas: document.querySelectorAll(".bd-article .math").length,
        typeset: document.querySelectorAll(".bd-article .math mjx-container").length,
        errors: [...document.querySelectorAll("mjx-merror, [data-mjx-error]")].map(e => e.textContent),
        raw: [...document.querySelectorAll(".bd-article p, .bd-article li, .bd-article td")]
            .filter(e => !e.querySelector("mjx-container, code, pre") && !e.closest(".sig"))
            .map(e => e.textContent).filter(t => /\\\\\\(|\\\\\\[|\\\\tag\\{|\\$\\\\/.test(t)),
    })""")
    assert found["errors"] == []
    assert found["raw"] == []
    assert found["typeset"] >= found["formulas"]


def nothing_is_cut_off(visit):
    wide = visit.page.evaluate("""() => {
        const width = document.documentElement.clientWidth, found = [];
        if (document.documentElement.scrollWidth > width + 1)
            found.push(`the page itself is ${document.documentElement.scrollWidth} px wide`);
        const scrolls = e => ["auto", "scroll"].includes(getComputedStyle(e).overflowX);
        for (const element of document.querySelectorAll(".bd-article *")) {
            const box = element.getBoundingClientRect();
            if (!box.width || !box.height) continue;
            let inside = element.parentElement, boxed = scrolls(element);
            while (inside && !boxed && !inside.matches(".bd-article")) {
                boxed = scrolls(inside); inside = inside.parentElement;
            }
            const hidden = element.closest("mjx-assistive-mml, .visually-hidden, .headerlink, title, desc");
            if (!boxed && !hidden && (box.right > width + 1 || box.left < -1))
                found.push(`${element.tagName}.${element.className} reaches ${Math.round(box.right)} px: ` +
                           element.textContent.slice(0, 60));
        }
        return found.slice(0, 5);
    }""")
    assert wide == []


def wide_equations_scroll_in_their_box(visit):
    stuck = visit.page.evaluate("""() => [...document.querySelectorAll(".bd-article div.math")]
        .filter(box => {
            const formula = box.querySelector("mjx-math"), edge = box.getBoundingClientRect().right + 1;
            if (!formula || formula.getBoundingClientRect().width <= box.clientWidth + 1) return false;
            // The box scrolls, or MathJax's container in it: either will do, if the end of the formula comes into view.
            const scrollers = [box, ...box.querySelectorAll("mjx-container")];
            scrollers.forEach(element => { element.scrollLeft = 1e6; });
            const reached = formula.getBoundingClientRect().right <= edge;
            scrollers.forEach(element => { element.scrollLeft = 0; });
            return !reached;
        }).map(box => box.textContent.slice(0, 80))""")
    assert stuck == []


def icons_are_drawn(visit):
    """The theme's icons are characters of a font, which holds those that the page shows."""
    assert visit.page.evaluate(MISSING_ICONS) == []


def images_are_there_and_described(visit):
    images = visit.page.evaluate("""async () => {
        const images = [...document.querySelectorAll(".bd-article img")];
        images.forEach(image => { image.loading = "eager"; });  // those below the screen wait for a reader
        await Promise.all(images.map(image => image.decode().catch(() => null)));
        return images.map(image => ({source: image.src.slice(-60), alt: image.alt.trim(), width: image.naturalWidth}));
    }""")
    undescribed = [image["source"] for image in images if not image["alt"] or image["alt"].startswith("../_images")]
    assert undescribed == [], "give the cell `mystnb: {image: {alt: ...}}` in its metadata"
    assert [image["source"] for image in images if image["width"] == 0] == []


def sound_has_a_duration(visit):
    players = visit.page.evaluate("""() => Promise.all([...document.querySelectorAll("audio")].map(player =>
        new Promise(done => {
            if (player.readyState > 0) return done(player.duration);
            player.addEventListener("loadedmetadata", () => done(player.duration));
            player.addEventListener("error", () => done(-1));
            setTimeout(() => done(-2), 10000);
            player.load();
        })))""")
    assert all(duration > 0 for duration in players), players


CHECKS = (
    loads_without_a_failure,
    mathematics_is_typeset,
    nothing_is_cut_off,
    wide_equations_scroll_in_their_box,
    icons_are_drawn,
    images_are_there_and_described,
    sound_has_a_duration,
    *reading_checks.CHECKS,
    darkens_with_the_system,
)


def test_a_phone_shows_panels_below_each_other(contexts, address):
    """`reading_checks.py` measures such figures on all pages; here there are some."""
    visit = Visit(contexts["phone"], address, "book/02_variational_autoencoders.html", "phone")
    reading_checks.panels_stand_below_each_other(visit)
    assert visit.page.locator(".bd-article picture").count() > 1
    visit.page.set_viewport_size({"width": 1280, "height": 900})
    wide = "image => !image.currentSrc.includes('-stacked') && !!image.currentSrc"
    assert all(image.evaluate(wide) for image in visit.page.locator(".bd-article picture > img").all())
    visit.page.close()


def test_the_index_is_no_wider_than_a_phone(contexts, address):
    visit = Visit(contexts["phone"], address, "genindex.html", "phone")
    nothing_is_cut_off(visit)
    visit.page.close()
