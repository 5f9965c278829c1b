"""The archive of all notebooks that a reader can take away."""

import zipfile

import notebooks_zip


def test_the_archive_holds_every_notebook_as_it_is(tmp_path):
    root = tmp_path / "root"
    for name in ("02_b", "solutions/02_b"):
        path = root / f"book/{name}.ipynb"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'{{"cells": ["{name}"]}}')
    (root / "book/.ipynb_checkpoints").mkdir()
    (root / "book/.ipynb_checkpoints/02_b.ipynb").write_text("old")
    notebooks_zip.write(tmp_path, root)
    first = (tmp_path / "notebooks.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "notebooks.zip") as archive:
        assert archive.testzip() is None
        found = {name: archive.read(name).decode() for name in archive.namelist()}
    names = {"dvae-book/02_b.ipynb": "02_b", "dvae-book/solutions/02_b.ipynb": "solutions/02_b"}
    assert found == {path: f'{{"cells": ["{name}"]}}' for path, name in names.items()}
    notebooks_zip.write(tmp_path, root)
    assert (tmp_path / "notebooks.zip").read_bytes() == first


def test_the_site_offers_it(html):
    assert 'href="../notebooks.zip"' in (html / "book/intro.html").read_text(encoding="utf-8")
    with zipfile.ZipFile(html / "notebooks.zip") as archive:
        assert "dvae-book/02_variational_autoencoders.ipynb" in archive.namelist()
