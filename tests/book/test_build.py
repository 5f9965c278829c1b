"""What is run again, when, and with which library."""

import io
import tarfile
from pathlib import Path

import build
import execute
import nbformat
import pytest
import vendor


@pytest.fixture
def small_house(tmp_path):
    (tmp_path / "dvae_lib").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "dvae_lib/one.py").write_text("a = 1\n")
    (tmp_path / "data/split.json").write_text("[]\n")
    (tmp_path / "constraints.txt").write_text("x==1\n")
    return tmp_path


@pytest.mark.parametrize("file", ["dvae_lib/one.py", "data/split.json", "constraints.txt", "dvae_lib/new.py"])
def test_a_change_of_what_notebooks_use_runs_them_again(small_house, file):
    before = build.cache_key(small_house)
    assert build.cache_key(small_house) == before
    (small_house / file).write_text("changed\n")
    assert build.cache_key(small_house) != before


def test_a_change_of_budget_or_data_runs_them_again(small_house, monkeypatch):
    keys = set()
    for budget, data in [("ci", "/a"), ("book", "/a"), ("book", "/b")]:
        monkeypatch.setenv("DVAE_BUDGET", budget)
        monkeypatch.setenv("DVAE_DATA", data)
        keys.add(build.cache_key(small_house))
    assert len(keys) == 3
    monkeypatch.setenv("UNRELATED", "x")
    assert build.cache_key(small_house) in keys


def write_notebook(path: Path, source: str) -> Path:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, path)
    return path


def test_a_notebook_alone_sees_an_empty_folder(tmp_path):
    (tmp_path / "beside.txt").write_text("")
    path = write_notebook(tmp_path / "page.ipynb", "import os, sys; print(os.listdir()); print(sys.executable)")
    text, error, seconds = execute.execute(path, alone=True)
    assert error == ""
    assert seconds > 0
    listing, python = nbformat.reads(text, 4).cells[0].outputs[0].text.splitlines()
    assert listing == "['page.ipynb']"
    import sys

    assert python == sys.executable
    assert "beside.txt" in execute.execute(path, alone=False)[0]


def test_a_failing_cell_is_reported(tmp_path):
    path = write_notebook(tmp_path / "page.ipynb", "1 / 0")
    assert "ZeroDivisionError" in execute.execute(path, alone=True)[1]


def archive_of(folder: Path, files: dict[str, bytes]) -> Path:
    path = folder / "package.tgz"
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def test_only_wanted_files_are_unpacked(tmp_path):
    archive = archive_of(tmp_path, {"package/dist/a.js": b"a", "package/dist/b.map": b"b", "package/x/y/z.js": b"z"})
    vendor.unpack(archive, "package", ("a.js", "x/"), tmp_path / "out")
    found = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert found == {"dist/a.js", "x/y/z.js"}


def test_a_script_with_another_checksum_is_refused(tmp_path, monkeypatch):
    archive = archive_of(tmp_path, {"package/require.js": b"not what was published"})
    monkeypatch.setattr(vendor, "VENDOR", tmp_path / "vendor")
    monkeypatch.setattr(vendor, "STAMP", tmp_path / "vendor/complete.txt")
    monkeypatch.setattr(vendor.shutil, "which", lambda name: "/usr/bin/npm")
    monkeypatch.setattr(vendor, "download", lambda package, folder: archive)
    with pytest.raises(SystemExit, match=r"SHA-512 is .* Nothing was installed"):
        vendor.fetch()
    assert not (tmp_path / "vendor").exists()


def test_without_npm_the_pages_use_public_servers(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(vendor, "STAMP", tmp_path / "complete.txt")
    monkeypatch.setattr(vendor.shutil, "which", lambda name: None)
    assert vendor.sphinx_settings() == {}
    assert "public servers" in capsys.readouterr().out
