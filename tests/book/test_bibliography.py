"""The bibliography can be read, has each work once, and has every work that a page refers to."""

import re
from collections import Counter
from pathlib import Path

from pybtex.database import parse_file

BOOK = Path(__file__).parents[2] / "book"


def test_every_work_that_is_cited_is_there_once():
    path = BOOK / "references.bib"
    known = parse_file(path).entries
    keys = re.findall(r"^@\w+\{([\w-]+),", path.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(keys) == sorted(known)
    assert [key for key, count in Counter(keys).items() if count > 1] == []
    pages = [*BOOK.glob("*.md"), *BOOK.rglob("*.ipynb")]
    cited = {key for page in pages for key in re.findall(r"#cite-([\w-]+)", page.read_text(encoding="utf-8"))}
    assert cited - set(known) == set()


def test_nine_works_of_ten_have_an_address():
    """A reader goes from the entry to the work, by a DOI without the resolver's name or by an address."""
    entries = parse_file(BOOK / "references.bib").entries.values()
    addresses = [entry.fields.get("doi") or entry.fields.get("url") for entry in entries]
    assert sum(map(bool, addresses)) >= 0.9 * len(entries)
    assert [a for a in addresses if a and not re.fullmatch(r"10\.\d{4,}/\S+|https?://\S+", a)] == []
    assert [e.key for e in entries if "doi" in e.fields and "://" in e.fields["doi"]] == []
