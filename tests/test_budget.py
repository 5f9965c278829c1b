import pytest

from dvae_lib.budget import budget, choose


@pytest.mark.parametrize("name", ["ci", "book", "full"])
def test_named(monkeypatch, name):
    monkeypatch.setenv("DVAE_BUDGET", name)
    assert budget() == name
    assert choose(ci="ci", book="book", full="full") == name


@pytest.mark.parametrize("value", [None, ""])
def test_default(monkeypatch, value):
    if value is None:
        monkeypatch.delenv("DVAE_BUDGET", raising=False)
    else:
        monkeypatch.setenv("DVAE_BUDGET", value)
    assert budget() == "book"


def test_typo(monkeypatch):
    monkeypatch.setenv("DVAE_BUDGET", "typo")
    with pytest.raises(ValueError, match=r"'typo'.*'ci'.*'book'.*'full'"):
        budget()
