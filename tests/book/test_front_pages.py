"""The pages without code: what they promise must agree with the rest of the project."""

import re
from pathlib import Path
from typing import get_args

import yaml

from dvae_lib.budget import Budget

BOOK = Path(__file__).resolve().parents[2] / "book"


def test_the_first_page_installs_from_the_repository_of_the_launch_buttons():
    url = yaml.safe_load((BOOK.parent / "_config.yml").read_text(encoding="utf-8"))["repository"]["url"]
    named = re.findall(r"git\+(https://[^\s\"]+)", (BOOK / "intro.md").read_text(encoding="utf-8"))
    assert named
    assert set(named) == {url}


def test_the_first_page_opens_on_colab_the_book_of_the_launch_buttons():
    repository = yaml.safe_load((BOOK.parent / "_config.yml").read_text(encoding="utf-8"))["repository"]
    (opened,) = re.findall(
        r"colab\.research\.google\.com/github/([^)]+)", (BOOK / "intro.md").read_text(encoding="utf-8")
    )
    start = f"{repository['url'].removeprefix('https://github.com/')}/blob/{repository['branch']}/"
    assert opened.startswith(start)
    assert (BOOK.parent / opened.removeprefix(start)).is_file()


def test_the_first_page_names_the_budgets_that_there_are():
    rows = re.findall(r"^\| `([a-z]+)`", (BOOK / "intro.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert tuple(rows) == get_args(Budget)


def test_the_first_example_runs_as_printed():
    blocks = re.findall(r"```python\n(.*?)```", (BOOK / "intro.md").read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, "book/intro.md", "exec"), {})
