"""What is run again, when, and with which library."""

import base64
import errno
import hashlib
import io
import os
import re
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace

import build
import execute
import nbformat
import pytest
import vendor
from sqlalchemy.exc import OperationalError


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
    assert python == sys.executable
    assert "beside.txt" in execute.execute(path, alone=False)[0]


def test_a_failing_cell_is_reported(tmp_path):
    path = write_notebook(tmp_path / "page.ipynb", "1 / 0")
    assert "ZeroDivisionError" in execute.execute(path, alone=True)[1]


@pytest.fixture
def small_book(tmp_path, monkeypatch):
    """A book of three notebooks, the second of which fails, and the cache of its results."""
    folder = tmp_path / "book"
    folder.mkdir()
    write_notebook(folder / "a.ipynb", "print('a')")
    write_notebook(folder / "b.ipynb", "raise ValueError('no b')")
    write_notebook(folder / "c.ipynb", "print('c')")
    for module in (execute, build):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    return tmp_path / "_build/cache/now"


def test_a_failing_notebook_is_named_and_the_others_are_kept(small_book, capsys):
    assert execute.execute_all(small_book, jobs=2) == ["book/b.ipynb"]
    printed = capsys.readouterr()
    assert "Running 3 notebook(s), 2 at a time, about" in printed.out
    assert "3/3" in printed.out
    assert "1 notebook(s) failed; the results of the others are kept" in printed.err
    assert "book/b.ipynb: ValueError: no b" in printed.err
    assert [path.name for path in execute.not_in(small_book)] == ["b.ipynb"]
    write_notebook(small_book.parents[2] / "book/b.ipynb", "print('b')")
    assert execute.execute_all(small_book, jobs=1) == []
    assert "Running 1 notebook(s)" in capsys.readouterr().out
    assert execute.execute_all(small_book, jobs=1) == []
    assert "up to date" in capsys.readouterr().out


@pytest.mark.parametrize("damage", ["", '{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 4}', None])
def test_half_a_result_is_none(small_book, damage):
    """What a build leaves that is killed, or meets a full disk, while it keeps a result."""
    path = small_book.parents[2] / "book/a.ipynb"
    execute.keep(small_book, path, path.read_text(), seconds=1.0)
    assert path not in execute.not_in(small_book)
    (kept,) = small_book.glob("executed/*/base.ipynb")
    if damage is None:
        kept.unlink()
    else:
        kept.write_text(damage)
    assert path in execute.not_in(small_book)
    execute.keep(small_book, path, path.read_text(), seconds=1.0)
    assert path not in execute.not_in(small_book)


INTERRUPTED = """
import os, sys
from pathlib import Path
import build, execute
root = Path(sys.argv[1])
execute.ROOT = build.ROOT = root
build.current_cache = lambda: root / "_build/cache/now"
import contents
contents.update = lambda: None
sys.argv = ["build.py", str(root / "_build/book")]
os._exit(build.main())
"""


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_build_goes_on_where_it_was(small_book, signal_number):
    root = small_book.parents[2]
    write_notebook(
        root / "book/b.ipynb", f"import os, time; open('{root}/pid', 'w').write(str(os.getpid()))\ntime.sleep(600)"
    )
    command = [sys.executable, "-c", INTERRUPTED, str(root)]
    environment = {**os.environ, "PYTHONPATH": str(Path(build.__file__).parent)}
    running = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    wait_until(lambda: (root / "pid").exists() and [path.name for path in execute.not_in(small_book)] == ["b.ipynb"])
    running.send_signal(signal_number)
    printed, _ = running.communicate(timeout=60)
    if signal_number != signal.SIGKILL:
        assert running.returncode == 130
        assert "the same command goes on from there" in printed
    assert not (root / "_build/book/html").exists()
    kernel = int((root / "pid").read_text())
    wait_until(lambda: not Path(f"/proc/{kernel}").exists())  # no notebook goes on by itself
    write_notebook(root / "book/b.ipynb", "print('b')")
    assert [path.name for path in execute.not_in(small_book)] == ["b.ipynb"]


def wait_until(condition, seconds=120.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.2)


@pytest.fixture
def small_site(tmp_path, monkeypatch):
    """A build whose pages are made by a function instead of Sphinx."""
    sphinx = ModuleType("jupyter_book.sphinx")
    monkeypatch.setitem(sys.modules, "jupyter_book.sphinx", sphinx)
    monkeypatch.setattr(vendor, "sphinx_settings", dict)

    def made_by(write):
        def build_sphinx(root, html, **_):
            try:
                (Path(html) / "book").mkdir(parents=True, exist_ok=True)
                return write(Path(html))
            except (OSError, KeyboardInterrupt) as error:  # as Jupyter Book does
                return error

        sphinx.build_sphinx = build_sphinx
        return build.build_pages(tmp_path, tmp_path / "cache")

    return tmp_path, made_by


def write_page(html):
    (html / "book/intro.html").write_text("a page")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device"), "warning"])
def test_half_a_site_does_not_pass_as_the_book(small_site, error):
    output, made_by = small_site

    def write_half(html):
        (html / "book/intro.html").write_text("half a")
        if error == "warning":
            return 1
        raise error

    def fail():
        if error == "warning":
            assert made_by(write_half) == 1
        else:
            with pytest.raises(type(error)):
                made_by(write_half)

    fail()
    assert not (output / "html").exists()
    assert made_by(write_page) == 0
    assert (output / "html/book/intro.html").is_file()
    fail()
    assert (output / "html/book/intro.html").read_text() == "a page"  # the book of before is still there
    seen = []
    assert made_by(lambda html: seen.extend(html.rglob("*.html"))) is not None
    assert seen == []  # and what failed is not taken for up to date


def test_nothing_is_left_of_a_site_that_does_not_fit(tmp_path, monkeypatch):
    (tmp_path / "made").mkdir()
    (tmp_path / "html").mkdir()

    def no_room(source, target):
        target.mkdir()
        raise OSError(errno.ENOSPC, "No space left on device", str(target))

    monkeypatch.setattr(build.shutil, "copytree", no_room)
    with pytest.raises(OSError, match="No space left"):
        build.publish(tmp_path / "made", tmp_path / "html")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["html", "made"]


def build_in(folder, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["build.py", str(folder)])
    status = build.main()
    return status, capsys.readouterr().err


def test_a_full_disk_is_said_in_a_sentence_beforehand(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(build.shutil, "disk_usage", lambda path: SimpleNamespace(free=10e6))
    status, printed = build_in(tmp_path, monkeypatch, capsys)
    assert status == 1
    assert re.fullmatch(r"The disk is full \(.*\): a build needs 500 MB\. Make room .*\n", printed)


def test_a_full_disk_is_said_in_a_sentence_on_the_way(small_book, tmp_path, monkeypatch, capsys):
    def no_room(*_, **__):
        raise OperationalError("INSERT", {}, Exception("database or disk is full"))

    monkeypatch.setattr(build, "current_cache", lambda: small_book)
    monkeypatch.setattr(execute, "keep", no_room)
    monkeypatch.setattr("contents.update", lambda: None)
    status, printed = build_in(tmp_path / "_build", monkeypatch, capsys)
    assert status == 1
    assert printed.startswith("The disk is full (")


def test_a_folder_that_cannot_be_written_to_is_said_in_a_sentence(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    status, printed = build_in(tmp_path / "file/_build", monkeypatch, capsys)
    assert status == 1
    assert re.fullmatch(r"The build can't write where it must \(.*file.*\)\. Allow it, .*\n", printed)


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


@pytest.mark.parametrize("npm", [None, "/usr/bin/npm"])
def test_without_npm_or_network_the_pages_use_what_there_is(tmp_path, monkeypatch, capsys, npm):
    stamp = tmp_path / "complete.txt"
    monkeypatch.setattr(vendor, "VENDOR", tmp_path)
    monkeypatch.setattr(vendor, "STAMP", stamp)
    monkeypatch.setattr(vendor.shutil, "which", lambda name: npm)
    monkeypatch.setattr(vendor, "download", lambda package, folder: None)
    assert vendor.sphinx_settings() == vendor.WITH_MENU
    reason = "npm could not fetch mathjax" if npm else "npm is not installed"
    printed = capsys.readouterr().out
    assert reason in printed
    assert "public server" in printed
    stamp.write_text("mathjax@3.0.0\n")  # of an earlier build
    assert "mathjax_path" in vendor.sphinx_settings()
    assert "scripts of an earlier build" in capsys.readouterr().out


def test_scripts_are_there_whole_or_not_at_all(tmp_path, monkeypatch):
    made = archive_of(
        tmp_path, {"package/es5/core.js": b"x", "package/es5/a11y/speech.js": b"y", "package/readme.md": b"z"}
    )
    checksum = base64.b64encode(hashlib.sha512(made.read_bytes()).digest()).decode()
    package = ("x", "1", checksum, "package/es5", ("core.js", "a11y/"), "x")
    monkeypatch.setattr(vendor, "PACKAGES", (package,))
    monkeypatch.setattr(vendor, "VENDOR", tmp_path / "vendor")
    monkeypatch.setattr(vendor, "STAMP", tmp_path / "vendor/complete.txt")
    monkeypatch.setattr(vendor.shutil, "which", lambda name: "/usr/bin/npm")
    monkeypatch.setattr(vendor, "download", lambda package, folder: made)
    copy = vendor.shutil.copytree

    def full_disk(*arguments, **options):
        copy(*arguments, **options)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(vendor.shutil, "copytree", full_disk)
    with pytest.raises(OSError, match="No space"):
        vendor.fetch()
    assert not vendor.STAMP.exists()
    monkeypatch.setattr(vendor.shutil, "copytree", copy)
    assert vendor.fetch()
    assert vendor.STAMP.read_text() == vendor.stamp()
    found = [path.relative_to(tmp_path / "vendor/x").as_posix() for path in (tmp_path / "vendor/x").rglob("*.*")]
    assert sorted(found) == ["a11y/speech.js", "core.js"]


def test_one_script_holds_the_parts_of_mathjax(tmp_path):
    for part in vendor.PARTS:
        path = tmp_path / part
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"// {part}")
    (tmp_path / "input/tex/extensions/cancel.js").write_text("// stays a file")
    vendor.bundle(tmp_path)
    first, names, *rest = (tmp_path / vendor.BUNDLE).read_text().splitlines()
    assert [first, *rest] == [f"// {part}" for part in vendor.PARTS]
    assert names.startswith('MathJax.loader.preLoad(...["loader","startup","core","input/tex",')
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.js")}
    assert left == {vendor.BUNDLE, "input/tex/extensions/cancel.js"}


def test_scripts_of_an_earlier_build_are_named_as_they_are(tmp_path, monkeypatch):
    monkeypatch.setattr(vendor, "VENDOR", tmp_path)
    monkeypatch.setattr(vendor, "fetch", lambda: True)
    assert vendor.sphinx_settings() == {"mathjax_path": "vendor/mathjax/tex-mml-chtml.js", **vendor.WITH_MENU}
    (tmp_path / "mathjax").mkdir()
    (tmp_path / "mathjax" / vendor.BUNDLE).touch()
    assert vendor.sphinx_settings() == {"mathjax_path": "vendor/mathjax/book.js"}
