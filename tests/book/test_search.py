"""The site's search as a reader meets it: right pages first, few bytes, without a server, by keyboard, on a phone."""

import re
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest
import search_index
import yaml
from test_pages import PATIENCE, VIEWS

ROOT = Path(__file__).resolve().parents[2]
QUERIES = yaml.safe_load((Path(__file__).parent / "search_queries.yml").read_text(encoding="utf-8"))
WORDS = yaml.safe_load((ROOT / "book/search_words.yml").read_text(encoding="utf-8"))
SHARE = 0.9  # of the queries that find their page first
BYTES = 200_000  # that a query may load, uncompressed, when the reader has seen a page of the book


# --- without a site -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("reparameterization", ["reparameteris"]),
        ("Reparametrisation", ["reparameteris"]),
        ("modelling models", ["model", "model"]),
        ("D-separation", ["separ", "dsepar"]),
        ("TrainingConfig", ["train", "config", "trainingconfig"]),
        ("rvae_causal", ["rvae", "causal", "rvaecaus"]),
        ("naïve Rényi", ["naiv", "renyi"]),
        ("how to use my own data", ["own", "data"]),
    ],
)
def test_words_become_terms(text, terms):
    words = search_index.Words(WORDS["spellings"], frozenset(WORDS["ignored"]))
    assert words.terms(text) == terms


@pytest.mark.parametrize(
    ("tex", "text"),
    [("x", "x"), (r"\mathbf{z}_t", "zₜ"), ("z_{1}", "z₁"), (r"\mathbf{x}_{1:T}", "…"), (r"p_\theta(x)", "…")],
)
def test_excerpts_hold_symbols_but_no_tex(tex, text):
    assert search_index.formula(tex) == text


def test_index_of_two_pages():
    pages = {
        "book/09_srnn": [
            search_index.Section("srnn", "9 Stochastic RNN", "a smoother"),
            search_index.Section("gap", "9.2 Gap", "the gap closes"),
        ],
        "book/generated/dvae_lib.models": [
            search_index.Section("module", "dvae_lib.models"),
            search_index.Section("dvae_lib.models.srnn.SRNN", "SRNN", "smoother"),
            search_index.Section("dvae_lib.models.srnn.SRNN.vlb", "SRNN.vlb"),
        ],
    }
    wanted = {"spellings": {}, "ignored": [], "same": [["VLB", "ELBO"]], "pages": {"book/09_srnn": ["SRNN"]}}
    files = search_index.index_of(pages, {"eq-9-1": "book/09_srnn"}, wanted)
    chapter, reference = files["book"]["pages"]
    assert (chapter["kind"], chapter["labels"], chapter["hints"]) == ("chapter", "eq-9-1", ["SRNN", "Stochastic RNN"])
    assert reference["kind"] == "api"
    assert reference["lengths"] == [0, 1, 0]
    assert files["page-1"][1:] == [[0, "dvae_lib.models.srnn.SRNN", 21], [25, ".vlb", 21]]
    assert (files["words-sr"]["=srnn"], files["words-vl"]["=vlb"]) == ([3], [4])
    assert files["words-sm"] == {"smoother": [0, 1, 3, 1]}
    assert files["words-ga"] == {"gap": [1, 1 + search_index.TITLE_WEIGHT]}
    assert files["text-0"][1] == "the gap closes"
    assert files["book"]["blocks"] == [0]


def test_large_files_of_words_are_cut_by_the_third_letter(monkeypatch):
    monkeypatch.setattr(search_index, "SHARD_MOST", 60)
    large = {"va": [0, 1], "vae": [1, 1], "value": [2, 1], "varia": [3, 1], "=vae": [4], "va_x": [5, 1]}
    cut = search_index.cut_small({"va": large, "ga": {"gap": [0, 1]}, "other": {"é" * 40: [0, 1]}})
    assert cut == {
        "va": {"va": [0, 1], "va_x": [5, 1]},
        "vae": {"vae": [1, 1], "=vae": [4]},
        "val": {"value": [2, 1]},
        "var": {"varia": [3, 1]},
        "ga": {"gap": [0, 1]},
        "other": {"é" * 40: [0, 1]},
    }


def test_hints_are_for_pages_of_the_book():
    files = {path.relative_to(ROOT).with_suffix("").as_posix() for path in (ROOT / "book").rglob("*.*")}
    assert set(WORDS["pages"]) <= files


# --- in a browser ---------------------------------------------------------------------------------------------


def search(page, address, query):
    """Search; the addresses found, best first, or the one to which the query jumped."""
    page.goto(f"{address}/search.html?q={quote(query)}", wait_until="commit")
    page.wait_for_function(
        "query => !location.pathname.endsWith('/search.html') || document.body?.dataset.searched === query", arg=query
    )
    page.wait_for_load_state("networkidle")
    if urlsplit(page.url).path.endswith("/search.html"):
        return page.eval_on_selector_all("#search-results > li > a", "links => links.map(link => link.href)")
    return [page.url]


def is_right(found, wanted):
    """Whether an address is that of a page, or of one of several, or of a number's target."""
    url = urlsplit(found)
    name = url.path.rpartition("/book/")[2].removesuffix(".html")
    pages = [wanted] if isinstance(wanted, str) else wanted
    return any(page == name or ("#" in page and page == f"{name}#{url.fragment}") for page in pages)


def _addresses(page):
    """The paths that a page asks for, as they come."""
    loaded = []
    page.on("request", lambda request: loaded.append(urlsplit(request.url).path))
    return loaded


def test_the_right_page_comes_first_for_few_bytes(browser, address, html):
    context = browser.new_context(**VIEWS["desktop"])
    context.set_default_timeout(PATIENCE)
    first = context.new_page()
    seen = _addresses(first)
    first.goto(f"{address}/genindex.html", wait_until="networkidle")  # no formulas, whose fonts come late
    cached = set(seen)
    wrong, bytes_of = {}, {}
    for query, wanted in QUERIES.items():
        page = context.new_page()  # its own, so that nothing counts that a page before still loads
        loaded = _addresses(page)
        found = search(page, address, query)
        if not found or not is_right(found[0], wanted):
            wrong[query] = [urlsplit(url).path for url in found[:3]]
        if len(found) != 1 or "/search.html" in page.url:  # a jump loads a page that the reader wants
            new = set(loaded) - cached
            bytes_of[query] = sum((html / path.lstrip("/")).stat().st_size for path in new)
        page.close()
    context.close()
    share = 1 - len(wrong) / len(QUERIES)
    heaviest = max(bytes_of, key=bytes_of.get)
    print(f"{share:.0%} of {len(QUERIES)} queries right; at most {bytes_of[heaviest]} bytes ({heaviest})")
    assert share >= SHARE, wrong
    assert bytes_of[heaviest] <= BYTES, heaviest


def test_pages_and_queries_are_cut_into_the_same_terms(browser, address):
    words = search_index.Words(WORDS["spellings"], frozenset(WORDS["ignored"]))
    # Without hyphens: in a query the joined form of `warm-up` is an alternative, not a term of its own.
    text = re.sub(r"[-_]", " ", " ".join(QUERIES) + (ROOT / "book/intro.md").read_text(encoding="utf-8"))
    text = search_index.HUMP.sub(r"\1 \2", text)
    page = browser.new_page()
    search(page, address, "posterior")
    assert page.evaluate("text => bookSearch.terms(text)", text) == words.terms(text)
    page.close()


@pytest.mark.parametrize("view", ["phone", "dark"])
def test_search_works_from_files_by_keyboard(view, browser, html):
    context = browser.new_context(**VIEWS[view])
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    problems = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    site = html.resolve().as_uri()
    found = search(page, site, "Kalman gain")
    assert is_right(found[0], "03b_state_space_models")
    excerpt = page.locator(".search-excerpt").first
    assert excerpt.locator("mark").count() >= 1
    assert not any(sign in page.locator("#search-results").inner_text() for sign in ("\\", "$$", "import "))
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth + 1")
    assert page.evaluate("document.activeElement.name") == "q"
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.href") == found[0]
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Control+A")
    page.keyboard.type("(9.10)")
    page.wait_for_function("document.querySelector('#search-status').textContent === 'Goes to:'")
    page.keyboard.press("Enter")
    page.wait_for_url("**/09_stochastic_recurrent_neural_networks.html#eq-9-10")
    assert problems == []
    context.close()


def test_a_number_of_several_things_offers_them(browser, address):
    page = browser.new_page()
    found = search(page, address, "9.1")
    page.close()
    assert {urlsplit(url).fragment for url in found} >= {"eq-9-1", "fig-9-1", "sec-9-1"}


def test_nothing_found_says_what_to_try(browser, address):
    page = browser.new_page()
    assert search(page, address, "qqxzy") == []
    assert "Try fewer or other words" in page.locator("#search-status").inner_text()
    page.close()
