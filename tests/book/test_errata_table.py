"""The errata's table counts what the page has, and shows what it counts."""

import re
from pathlib import Path

import errata_table
import plain_markdown
import pytest
from test_pages import PATIENCE, VIEWS, Visit

ERRATA = Path(__file__).resolve().parents[2] / "book/errata.md"
BODY = "".join(
    f'<div class="errata-entry weight-{weight} docutils" id="erratum-{name}">\n'
    for weight, name in (("wording", "10-1"), ("substance", "2-5"), ("substance", "2-5-b"), ("misprint", "a"))
)


def test_the_table_counts_chapters_in_their_order():
    table = errata_table.table(BODY)
    assert re.findall(r'scope="row">([^<]+)<', table) == ["Chapter 2", "Chapter 10", "Appendix A", "All"]
    cells = re.findall(r'href="#(\S+)" data-chapter="(\w*)" data-weight="(\w*)"[^>]*>(\d+)<', table)
    assert cells == [
        ("erratum-2-5", "2", "substance", "2"), ("erratum-2-5", "2", "", "2"),
        ("erratum-10-1", "10", "wording", "1"), ("erratum-10-1", "10", "", "1"),
        ("erratum-a", "a", "misprint", "1"), ("erratum-a", "a", "", "1"),
        ("erratum-2-5", "", "substance", "2"), ("erratum-10-1", "", "wording", "1"), ("erratum-a", "", "misprint", "1"),
        ("erratum-10-1", "", "", "4"),
    ]  # fmt: skip


def test_an_entry_stands_under_the_chapter_that_its_place_names():
    """The table goes by the places, the page by headings: they must agree."""
    chapter, entries = None, 0
    text = ERRATA.read_text(encoding="utf-8")
    assert errata_table.PLACE in text
    for block in re.split(r"\n\n+", text):
        if heading := re.search(r"^(?:### (?:Chapter|Appendix) |<summary>)(\w+)", block, re.MULTILINE):
            chapter = heading[1]
        if block.startswith(">") and plain_markdown.WEIGHT.search(block):
            place = re.search(plain_markdown.NUMBER, block.partition("**")[2].partition("**")[0])
            assert place[0].split(".")[0] == chapter, block[:80]
            entries += 1
    assert entries > 100


def test_the_numbers_of_the_folded_chapters_are_right():
    for title, number, body in re.findall(
        r"<summary>([^(]+)\((\d+)\)</summary>(.*?)</details>", ERRATA.read_text(encoding="utf-8"), re.DOTALL
    ):
        assert len(re.findall(r"^> \*\*", body, re.MULTILINE)) == int(number), title


# --- on a built site -----------------------------------------------------------------------------------------


@pytest.fixture
def seen(browser, address):
    context = browser.new_context(**VIEWS["desktop"])
    context.set_default_timeout(PATIENCE)
    yield Visit(context, address, "book/errata.html", "desktop")
    context.close()


def test_a_number_shows_its_entries_and_no_others(seen):
    page = seen.page
    entries = page.locator(".errata-entry")
    everything = entries.count()
    for chapter, weight in (("2", "wording"), ("13", ""), ("", "substance"), ("a", "wording")):
        link = page.locator(f'.errata-filter[data-chapter="{chapter}"][data-weight="{weight}"]')
        link.focus()
        page.keyboard.press("Enter")
        assert page.locator('.errata-filter[aria-current="true"]').all_inner_texts() == [link.inner_text()]
        shown = [entry for entry in entries.all() if entry.is_visible()]
        assert len(shown) == int(link.inner_text())
        assert all(not weight or f"weight-{weight}" in entry.get_attribute("class") for entry in shown)
        assert all(not chapter or entry.get_attribute("id").split("-")[1] == chapter for entry in shown)
        assert page.locator(".errata-shown").inner_text().startswith(f"{len(shown)} of {everything} entries")
        assert 0 <= page.locator(".errata-shown").bounding_box()["y"] < VIEWS["desktop"]["viewport"]["height"]
        headings = page.locator(".bd-article :is(h3, summary)").all()
        assert not chapter or sum(heading.is_visible() for heading in headings) <= 2
    page.get_by_role("button", name="Show all entries").click()
    assert page.locator(".errata-entry[hidden]").count() == 0
    assert seen.problems == []


def test_a_link_to_a_folded_entry_opens_it(seen):
    name = seen.page.locator("details:not([open]) .errata-entry").first.get_attribute("id")
    seen.page.evaluate("name => { location.hash = name; }", name)
    seen.page.locator(f"#{name}").wait_for(state="visible")


def test_without_scripts_it_is_a_table_of_links(browser, address):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{address}/book/errata.html")
    links = page.locator(".errata-filter")
    assert links.count() > 30
    for link in links.all():
        assert page.locator(link.get_attribute("href")).count() == 1
    context.close()
