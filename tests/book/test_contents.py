"""`_toc.yml` publishes what is written, and `book/contents.yml` announces everything the review has."""

import re
from pathlib import Path

import contents
import pytest
import yaml

ROOT = Path(__file__).parents[2]


def test_toc_is_what_the_script_makes():
    assert (ROOT / "_toc.yml").read_text(encoding="utf-8") == contents.toc(), "run `make contents`"


def test_every_written_page_is_announced():
    assert contents.unlisted_pages() == [], "add the page to book/contents.yml"


def test_written_pages_are_published_and_no_others():
    published = contents.published_pages()
    assert len(published) == len(set(published))
    own = {page.removeprefix("book/") for page in published if not page.startswith("book/generated/")}
    assert own == contents.written_pages() | {contents.contents()["root"]["file"]}


def test_every_chapter_of_the_review_is_announced():
    chapters = {
        re.match(r"0?(\d+|[ABC])", name)[1] for name in contents.listed_pages() if re.match(r"\d\d|[ABC]_", name)
    }
    assert chapters == {str(number) for number in range(1, 15)} | {"A", "B", "C"}
    assert {"intro", "notation", "bibliography", "api", "errata"} <= set(contents.listed_pages())


def test_every_public_module_has_its_page():
    pages = contents.api_pages()
    table = pages[ROOT / "book/generated/modules.txt"]
    for module in contents.public_modules():
        assert f"automodule:: dvae_lib.{module}\n" in pages[ROOT / f"book/generated/dvae_lib.{module}.md"]
        assert f"[dvae_lib.{module}]" in table


@pytest.fixture
def small_book(tmp_path):
    (tmp_path / "book/solutions").mkdir(parents=True)
    (tmp_path / "dvae_lib").mkdir()
    (tmp_path / "dvae_lib/one.py").write_text('"""First line,\ncontinued. | bar\n\nMore."""\n')
    (tmp_path / "dvae_lib/_hidden.py").write_text("")
    plan = {
        "root": {"file": "intro", "title": "I"},
        "parts": [
            {"caption": "A", "pages": [{"file": "01_x", "title": "X"}, {"file": "02_y", "title": "Y"}]},
            {"caption": "B", "pages": [{"file": "03_z", "title": "Z"}]},
            {
                "caption": "C",
                "pages": [
                    {"file": "solutions", "title": "S", "pages": "solutions/*"},
                    {"file": "api", "title": "API", "modules": "dvae_lib"},
                ],
            },
        ],
    }
    (tmp_path / "book/contents.yml").write_text(yaml.safe_dump(plan))
    for name in ("intro.md", "02_y.ipynb", "solutions.md", "solutions/02_y.md", "api.md"):
        (tmp_path / "book" / name).write_text("")
    return tmp_path


def test_unwritten_pages_wait(small_book):
    published = contents.pages_in(yaml.safe_load(contents.toc(small_book)))
    assert published == [
        "book/intro", "book/02_y", "book/solutions", "book/solutions/02_y", "book/api", "book/generated/dvae_lib.one",
    ]  # fmt: skip
    (small_book / "book/01_x.md").write_text("")
    assert "book/01_x" in contents.pages_in(yaml.safe_load(contents.toc(small_book)))


def test_the_side_bar_has_the_titles_of_the_plan_and_solutions_below_one_entry(small_book):
    parts = yaml.safe_load(contents.toc(small_book))["parts"]
    assert parts[0]["chapters"] == [{"file": "book/02_y", "title": "Y"}]
    solutions = [{"file": "book/solutions/02_y", "title": "Y"}]
    assert parts[1]["chapters"][0] == {"file": "book/solutions", "title": "S", "sections": solutions}


def test_titles_of_the_side_bar_are_short_and_differ():
    titles = list(contents.titles().values())
    assert len(titles) == len(set(titles))
    assert [title for title in titles if len(title) > 50] == []
    chapters = [title.split()[0] for title in titles if title[0].isdigit() and " " in title]
    assert len(chapters) == len(set(chapters)), "two pages of one chapter need a letter each"


def test_solutions_stand_under_the_names_of_their_chapters():
    named = contents.titles()
    assert [n for n in contents.written_pages() if n.startswith("solutions/") and n[10:] not in named] == []


def test_a_stray_page_is_refused(small_book):
    (small_book / "book/stray.md").write_text("")
    with pytest.raises(SystemExit, match=r"Not in book/contents\.yml: stray"):
        contents.update(small_book)


def test_update_leaves_unchanged_files_alone(small_book):
    contents.update(small_book)
    page = small_book / "book/generated/dvae_lib.one.md"
    before = page.stat().st_mtime_ns
    (small_book / "book/generated/gone.md").write_text("")
    contents.update(small_book)
    assert page.stat().st_mtime_ns == before
    assert not (small_book / "book/generated/gone.md").exists()
    assert "First line, continued. \\| bar" in (small_book / "book/generated/modules.txt").read_text()
