"""The figure of Chapter 2 whose approximation the reader moves: its numbers, against SciPy, in Chromium."""

import math
import shutil

import pytest
from scipy.integrate import quad
from scipy.stats import norm

from dvae_lib.resources import resource_path

NOISE = 0.5
DECODERS = {"linear": lambda z: z, "square": lambda z: z**2}
CHROMIUM = shutil.which("chromium")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")


@pytest.fixture(scope="module")
def chromium():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def explorer(chromium):
    """The figure on a page of its own, as wide as a phone, cut off from the network."""
    page = chromium.new_page(viewport={"width": 390, "height": 900})
    problems = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: problems.append(f"asked for {request.url}"))
    figure = resource_path("widgets", "bound_explorer.html").read_text(encoding="utf-8")
    page.set_content(f"<!doctype html><meta name='viewport' content='width=device-width'>{figure}")
    yield page
    assert problems == []
    page.close()


def put(page, name, value):
    page.eval_on_selector(
        f'[data-name="{name}"]',
        "(input, value) => { input.value = value; input.dispatchEvent(new Event('input', {bubbles: true})); }",
        str(value),
    )


def number(page, name):
    return float(page.inner_text(f'[data-name="{name}"]').replace("−", "-"))


def truth(decoder, x, mean, std):
    """log p(x), bound and gap by adaptive quadrature."""

    def log_joint(z):
        return norm.logpdf(x, DECODERS[decoder](z), NOISE) + norm.logpdf(z)

    evidence = math.log(quad(lambda z: math.exp(log_joint(z)), -10, 10, limit=200, points=[-1.4, 0, 1.4])[0])
    q = norm(mean, std)
    bound = q.expect(lambda z: log_joint(z) - q.logpdf(z))
    return evidence, bound, evidence - bound


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize(("x", "mean", "logstd"), [(1.5, 0.3, -0.5), (2.0, -1.2, -1.2), (-0.5, 0.4, 0.3)])
def test_the_numbers_are_right(explorer, decoder, x, mean, logstd):
    explorer.select_option('[data-name="decoder"]', decoder)
    for name, value in (("x", x), ("mean", mean), ("logstd", logstd)):
        put(explorer, name, value)
    evidence, bound, gap = truth(decoder, x, mean, math.exp(logstd))
    assert number(explorer, "logpx") == pytest.approx(evidence, abs=1e-3)
    assert number(explorer, "vlb") == pytest.approx(bound, abs=1e-3)
    assert number(explorer, "gap") == pytest.approx(gap, abs=1e-3)
    assert number(explorer, "sum") == pytest.approx(evidence, abs=1.1e-3)


def test_the_best_q_closes_the_gap_of_the_linear_decoder(explorer):
    explorer.click('[data-name="best"]')
    assert number(explorer, "gap") == pytest.approx(0, abs=1e-3)


def test_the_best_q_takes_one_of_two_peaks(explorer):
    explorer.select_option('[data-name="decoder"]', "square")
    put(explorer, "x", 2)
    explorer.click('[data-name="best"]')
    assert number(explorer, "gap") == pytest.approx(math.log(2), abs=0.05)


def test_heavier_regularisation_draws_the_best_q_to_the_prior(explorer):
    kl = []
    for beta in (1, 3, 8):
        put(explorer, "beta", beta)
        explorer.click('[data-name="best"]')
        kl.append(number(explorer, "kl"))
        # The maximiser is Gaussian with precision 1 + 1 / (beta noise^2): the posterior with flattened likelihood.
        variance = 1 / (1 + 1 / (beta * NOISE**2))
        mean = 1.5 * (1 - variance)
        exact = 0.5 * (mean**2 + variance - 1 - math.log(variance))
        assert kl[-1] == pytest.approx(exact, abs=0.02)
    assert kl[0] > kl[1] > kl[2]


@pytest.mark.parametrize("mean", [-3.0, 0.3, 1.2])
def test_the_bars_end_at_the_line(explorer, mean):
    put(explorer, "mean", mean)
    bound, gap = explorer.locator(".bar rect").all()
    line = float(explorer.locator(".bar line").get_attribute("x1"))
    end = float(gap.get_attribute("x")) + float(gap.get_attribute("width"))
    assert float(gap.get_attribute("x")) == pytest.approx(float(bound.get_attribute("width")), abs=1e-6)
    assert end == pytest.approx(line, abs=0.2)  # pixels


def test_dragging_moves_q_and_nothing_overflows_on_a_phone(explorer):
    before = number(explorer, "vlb")
    box = explorer.locator(".density").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    explorer.mouse.move(x, y)
    explorer.mouse.down()
    explorer.mouse.move(x - 60, y + 20)
    explorer.mouse.up()
    assert number(explorer, "vlb") != before
    assert number(explorer, "vlb") + number(explorer, "gap") == pytest.approx(number(explorer, "logpx"), abs=2e-3)
    assert explorer.evaluate("document.documentElement.scrollWidth") <= 390
