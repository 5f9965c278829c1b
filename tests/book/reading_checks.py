"""What `test_pages.py` asks of each page beyond its being whole: that it reads on a phone, by keyboard and on paper."""

import re


def code_in_tables_is_in_one_piece(visit):
    if visit.view != "phone":
        return
    broken = visit.page.evaluate("""() => [...document.querySelectorAll(".bd-article table code.literal")]
        .filter(code => code.getClientRects().length > 1).map(code => code.textContent)""")
    assert broken == []


def figures_open_at_their_own_size(visit):
    """Tick labels are drawn at 8 points and more: at a figure's own size none is under 7 pixels."""
    if visit.view != "phone":
        return
    buttons = visit.page.locator(".enlargeable > button")
    images = visit.page.locator(".bd-article .cell_output img:not(.jupyter-widgets img)")
    assert buttons.count() >= images.count()
    for position in sorted({0, buttons.count() - 1} if buttons.count() else ()):
        assert buttons.nth(position).evaluate("button => getComputedStyle(button).opacity") == "1"
        buttons.nth(position).click()
        shown = visit.page.locator("dialog.enlarged img")
        shown.wait_for()
        assert shown.evaluate("image => image.getBoundingClientRect().width >= image.naturalWidth - 1")
        assert shown.evaluate("""image => {
            const box = image.parentElement; box.scrollLeft = 1e6;
            return image.getBoundingClientRect().right <= box.getBoundingClientRect().right + 1; }""")
        visit.page.keyboard.press("Escape")
        shown.wait_for(state="detached")


def figures_have_legible_letters(visit):
    """On a phone no tick label of a drawing is under 7 pixels: a figure that would be smaller scrolls in its frame."""
    if visit.view != "phone":
        return
    shown = visit.page.evaluate("""() => [...document.querySelectorAll(".bd-article .cell_output img[src*='.svg']")]
        .map(image => {
            const other = image.parentElement.querySelector("source");
            const stacked = other && matchMedia(other.media).matches;
            const source = stacked ? new URL(other.srcset, document.baseURI).href : image.src;
            return {file: decodeURIComponent(new URL(source).pathname), shown: image.getBoundingClientRect().width,
                    drawn: Number((stacked ? other : image).getAttribute("width"))};
        })
        .filter(image => image.shown && image.drawn)""")
    small = {}
    for image in shown:
        drawing = (visit.site / image["file"].lstrip("/")).read_text(encoding="utf-8")
        points = [100 * float(scale) for scale in re.findall(r"scale\((0\.\d+) -0\.\d+\)", drawing)]
        letter = min(points, default=9) * 4 / 3 * image["shown"] / image["drawn"]
        if letter < 6.9 and image["shown"] < image["drawn"] - 1:
            small[image["file"]] = round(letter, 1)
    assert small == {}
    hidden = visit.page.evaluate("""() => [...document.querySelectorAll(".bd-article .sideways")].filter(box => {
        const image = box.querySelector("img");
        box.scrollLeft = 1e6;
        const reached = image.getBoundingClientRect().right <= box.getBoundingClientRect().right + 1;
        box.scrollLeft = 0;
        return !reached || (box.scrollWidth > box.clientWidth + 1 && box.tabIndex < 0); }).length""")
    assert hidden == 0


# Each figure that has a second drawing for phones, put into the page as it is shown there, to be measured: which of its
# axes stand beside others, colour bars and second scales aside, and the size of the letters at their ticks.
STACKED = """async () => Promise.all([...document.querySelectorAll(".bd-article picture > img")].map(async image => {
    image.loading = "eager";
    await image.decode();
    const box = document.createElement("div");
    box.style.cssText = `position: absolute; width: ${image.getBoundingClientRect().width}px`;
    box.innerHTML = (await (await fetch(image.currentSrc)).text()).replace(/^<\\?xml.*?\\?>/, "");
    const drawing = box.querySelector("svg");
    drawing.style.cssText = "display: block; width: 100%; height: auto";
    document.body.append(box);
    const axes = [...box.querySelectorAll("g[id^=axes_]")].map(group => {
        const frame = (group.querySelector("g[id^=patch_]") || group).getBoundingClientRect();
        return frame.width < 0.15 * frame.height ? null : frame;
    }).filter(frame => frame);
    const beside = axes.filter(a => axes.some(b => a.right < b.left && a.top < b.bottom && b.top < a.bottom)).length;
    const letters = [...box.querySelectorAll("g:is([id^=xtick_], [id^=ytick_]) > g[id^=text_] > g[transform*=scale]")]
        .map(text => { const {c, d} = text.getScreenCTM(); return 100 * Math.hypot(c, d); });
    box.remove();
    return {file: image.currentSrc.split("/").pop(), axes: axes.length, beside, letters: Math.min(...letters)};
}))"""


def panels_stand_below_each_other(visit):
    """Figures that came apart (`stack.py`): on a phone no panel stands beside another, tick labels have 7 pixels."""
    if visit.view != "phone":
        return
    shown = visit.page.evaluate(STACKED)
    assert [found for found in shown if not found["file"].endswith("-stacked.svg")] == []
    assert [found for found in shown if found["axes"] < 2 or found["beside"] or not found["letters"] >= 7] == []


def the_keyboard_stops_at_what_scrolls(visit):
    stops = visit.page.evaluate("""() => {
        const scrolls = e => e.checkVisibility() && e.scrollWidth > e.clientWidth + 1 &&
            ["auto", "scroll"].includes(getComputedStyle(e).overflowX);
        const boxes = ".bd-article :is(.pst-scrollable-table-container, div.math, .highlight pre)";
        const all = selector => [...document.querySelectorAll(selector)];
        return {
            unreachable: all(boxes).filter(e => scrolls(e) && e.tabIndex < 0).map(e => e.textContent.slice(0, 60)),
            formulas: all("mjx-container[tabindex]").filter(e => !scrolls(e)).length,
            nameless: all("summary").filter(e => !e.textContent.trim() && !e.ariaLabel).length,
        };
    }""")
    assert stops == {"unreachable": [], "formulas": 0, "nameless": 0}


def buttons_show_without_a_mouse(visit):
    if visit.view != "phone":
        return
    hidden = visit.page.evaluate("""() => [...document.querySelectorAll(".bd-article .highlight button.copybtn")]
        .filter(button => button.checkVisibility() && getComputedStyle(button).opacity !== "1").length""")
    assert hidden == 0
    width = visit.page.evaluate("document.documentElement.clientWidth")
    for link in visit.page.locator(".prev-next-area a").all():
        box = link.bounding_box()
        assert 0 <= box["x"] <= width - box["width"], link.inner_text()


def folded_code_has_a_switch(visit):
    folded = visit.page.locator(".bd-article .cell details.hide.above-input")
    if visit.view != "desktop" or not folded.count():
        return
    opened = visit.page.locator(".bd-article .cell details.hide.above-input[open]")
    switch = visit.page.locator(".code-switch")
    assert opened.count() == 0
    switch.click()
    assert opened.count() == folded.count()
    assert visit.page.evaluate("localStorage.getItem('show-all-code')") == "yes"
    switch.click()
    assert opened.count() == 0


def it_prints(visit):
    """On paper nothing scrolls, nothing is dark, and no control stands about."""
    if visit.view == "phone":
        return
    visit.page.emulate_media(media="print")
    found = visit.page.evaluate("""() => {
        const seen = selector => [...document.querySelectorAll(selector)].filter(e => e.checkVisibility());
        const light = colour => colour.match(/[\\d.]+/g).slice(0, 3).reduce((sum, part) => sum + Number(part), 0) / 3;
        const paper = getComputedStyle(document.body).backgroundColor;
        const text = document.querySelector(".bd-article p") || document.body;
        return {
            cut: seen(".bd-article :is(pre, .highlight)").filter(e => e.scrollWidth > e.clientWidth + 1)
                .map(e => e.textContent.slice(0, 60)),
            controls: seen(".bd-header-article, .copybtn, .code-switch, .enlargeable > button, audio")
                .map(e => e.className || e.tagName),
            dark: paper !== "rgba(0, 0, 0, 0)" && light(paper) < 250,
            pale: light(getComputedStyle(text).color) > 100,
        };
    }""")
    visit.page.emulate_media(media="screen")
    assert found == {"cut": [], "controls": [], "dark": False, "pale": False}


CHECKS = (
    code_in_tables_is_in_one_piece,
    figures_open_at_their_own_size,
    figures_have_legible_letters,
    panels_stand_below_each_other,
    the_keyboard_stops_at_what_scrolls,
    buttons_show_without_a_mouse,
    folded_code_has_a_switch,
    it_prints,
)
