"""The interactive figures on a phone: they use its width, keep their text legible, and answer the keyboard."""

import shutil

import numpy as np
import pytest
import torch

from dvae_lib.plotting import animate_skeletons
from dvae_lib.resources import resource_path
from dvae_lib.statespace import noise_explorer

CHROMIUM = shutil.which("chromium")
PARENTS = (-1, 0, 1, 0)
# What the site's style sheet says of a class that Bootstrap takes for itself.
BOOTSTRAP = "<style>.row > * { width: 100%; flex-shrink: 0; }</style>"

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")


@pytest.fixture(scope="module")
def chromium():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def show(chromium):
    """Puts a figure on a page of its own, as wide as a phone unless told otherwise."""
    pages, problems = [], []

    def open_page(figure, width=390):
        page = chromium.new_page(viewport={"width": width, "height": 800})
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.set_content(f"<!doctype html><meta name='viewport' content='width=device-width'>{BOOTSTRAP}{figure}")
        pages.append(page)
        return page

    yield open_page
    assert problems == []
    for page in pages:
        page.close()


def movement(num_frames=40, size=1.0):
    return size * np.random.default_rng(0).normal(size=(num_frames, 4, 3))


def player(*names, size=1.0):
    return animate_skeletons({name: movement(size=size) for name in names}, PARENTS).data


def ink(page, left=0.0, right=1.0):
    """How many dark points the player shows between two shares of its width, and a digest of its picture."""
    return page.evaluate(
        """([left, right]) => {
            const canvas = document.querySelector("canvas"), w = canvas.width, h = canvas.height;
            const points = canvas.getContext("2d").getImageData(left * w, 0, (right - left) * w, h).data;
            let sum = 0, count = 0;
            for (let i = 3; i < points.length; i += 4)
                if (points[i] > 128) { count++; sum = (sum * 31 + i) % 1e9; }
            return [count, sum];
        }""",
        [left, right],
    )


class TestSkeletonPlayer:
    def test_the_button_is_a_button(self, show):
        page = show(player("truth"), 1000)
        button, slider = page.locator("button").bounding_box(), page.locator("input").bounding_box()
        assert button["width"] < 150
        assert abs(button["y"] + button["height"] / 2 - slider["y"] - slider["height"] / 2) < 15

    def test_it_plays_while_it_is_in_view(self, show):
        page = show(f'<div style="height: 3000px"></div>{player("truth")}')
        page.wait_for_timeout(300)
        assert page.inner_text("button") == "Play"
        page.locator("canvas").scroll_into_view_if_needed()
        page.locator("button", has_text="Stop").wait_for(timeout=5000)
        page.evaluate("scrollTo(0, 0)")
        page.locator("button", has_text="Play").wait_for(timeout=5000)

    def test_what_the_reader_stopped_stays_stopped(self, show):
        page = show(f'{player("truth")}<div style="height: 3000px"></div>')
        page.locator("button", has_text="Stop").click()
        page.evaluate("scrollTo(0, 3000)")
        page.wait_for_timeout(200)
        page.evaluate("scrollTo(0, 0)")
        page.wait_for_timeout(300)
        assert page.inner_text("button") == "Play"

    def test_arrow_keys_turn_the_figures(self, show):
        page = show(player("truth"))
        page.locator("button", has_text="Stop").click()
        before = ink(page)
        page.focus("canvas")
        page.keyboard.press("ArrowRight")
        turned = ink(page)
        assert turned != before
        page.keyboard.press("ArrowLeft")
        assert ink(page) == before

    def test_many_figures_stand_in_rows(self, show):
        page = show(player("RVAE-causal", "RVAE-noncausal", "DSAE", "SRNN"))
        wide = show(player("RVAE-causal", "RVAE-noncausal", "DSAE", "SRNN"), 1000)
        height = page.locator("canvas").bounding_box()["height"]
        assert height > 1.3 * wide.locator("canvas").bounding_box()["height"]

    def test_the_largest_movement_stays_inside(self, show):
        small, large = movement(), movement(size=3.0)
        page = show(animate_skeletons({"small": small, "large": large}, PARENTS).data, 700)
        page.locator("button", has_text="Stop").click()
        edge, inside = ink(page, 0.995, 1.0)[0], ink(page, 0.5, 0.995)[0]
        assert inside > 0
        assert edge == 0


@pytest.mark.parametrize("width", [320, 390, 800])
class TestSliders:
    def sliders_are_long(self, page, width):
        lengths = [box.bounding_box()["width"] for box in page.locator("input[type=range]").all()]
        assert min(lengths) > (0.55 if width < 500 else 0.15) * width, lengths

    def text_is_legible(self, page):
        sizes = page.evaluate("""() => [...document.querySelectorAll("svg text")].map(text =>
            parseFloat(getComputedStyle(text).fontSize) * text.getScreenCTM().a)""")
        assert min(sizes) > 9
        box = page.locator("svg").first.bounding_box()
        ends = page.evaluate("""() => [...document.querySelectorAll("svg text")].map(text => {
            const box = text.getBoundingClientRect(); return [box.left, box.right]; })""")
        assert min(left for left, _ in ends) >= box["x"] - 1
        assert max(right for _, right in ends) <= box["x"] + box["width"] + 1

    def test_memory_unit(self, show, width):
        page = show(resource_path("widgets", "memory_unit.html").read_text(encoding="utf-8"), width)
        self.sliders_are_long(page, width)
        self.text_is_legible(page)

    def test_noise_explorer(self, show, width):
        page = show(
            noise_explorer(torch.tensor([0.3, 1.2, 0.7, -0.4, 0.1]), (0.1, 0.2, 0.4), (0.5, 1.0, 2.0)).data, width
        )
        self.sliders_are_long(page, width)
        slider = page.locator("input").first
        slider.press("Home")
        assert float(slider.get_attribute("aria-valuetext")) == 0.1
