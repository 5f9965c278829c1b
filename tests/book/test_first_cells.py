"""The hidden first cell installs the library where it is missing, and never touches the machine's torch or numpy."""

import importlib.machinery
import importlib.metadata
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import first_cells
import pytest
import yaml

ROOT = Path(__file__).parents[2]
CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
URL = CONFIG["repository"]["url"]
NOTEBOOKS = first_cells.notebooks()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_carry_the_cell_of_the_configured_address(path):
    text = path.read_text(encoding="utf-8")
    assert json.loads(text) == json.loads(first_cells.with_first_cell(text, URL)), "run `make contents`"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_a_notebook_imports_is_in_its_cell_or_comes_with_the_library(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells[1:] if cell["cell_type"] == "code")
    imported = {name.split(".")[0] for name in re.findall(r"^\s*(?:import|from) ([\w.]+)", code, re.MULTILINE)}
    with_the_library = {"dvae_lib", "torch", "numpy", "scipy", "matplotlib", "networkx", "PIL", "IPython"}
    assert imported - with_the_library - sys.stdlib_module_names <= set(first_cells.needed_by(code, URL))


def test_the_address_is_the_same_wherever_it_stands():
    """`_config.yml` decides; pages for humans repeat it, and must repeat it rightly."""
    owner = URL.rsplit("/", 1)[0]
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    for name in files:
        if (ROOT / name).is_file():
            content = (ROOT / name).read_bytes()
            assert content.count(owner.encode() + b"/") == content.count(URL.encode()), name


def test_launch_buttons_point_to_the_same_place():
    assert CONFIG["launch_buttons"]["colab_url"] == "https://colab.research.google.com"
    assert CONFIG["repository"]["path_to_book"] == ""  # the notebooks' paths in the repository are the site's
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["repository-code"] == URL


CODE = "corpus = load_corpus()\nspeech_metrics(a, b)\nimport statsmodels.api"
EVERYTHING = {"dvae_lib", "soundfile", "soxr", "G722", "pystoi", "pesq", "statsmodels"}


def run_cell(monkeypatch, present: set[str], failing: tuple[str, ...] = (), said: str = "") -> list[list[str]]:
    """Execute the cell with an installer that only notes its commands: each command with its constraints."""
    commands = []

    def note(command, **options):
        commands.append([*command, Path(command[command.index("--constraint") + 1]).read_text()])
        failed = any(word in package for package in command for word in failing)
        return subprocess.CompletedProcess(command, int(failed), "", said if failed else "")

    spec = importlib.machinery.ModuleSpec("found", None)
    monkeypatch.setattr(subprocess, "run", note)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec if name in present else None)
    exec("".join(first_cells.first_cell(URL, CODE)["source"]), {})
    return commands


def test_cell_does_nothing_where_everything_is(monkeypatch, capsys):
    assert run_cell(monkeypatch, present=EVERYTHING) == []
    assert capsys.readouterr().out == ""


def test_cell_installs_what_its_notebook_needs_and_keeps_torch_and_numpy(monkeypatch, capsys):
    first, *others = run_cell(monkeypatch, present=set())
    assert first[:4] == [sys.executable, "-m", "pip", "install"]
    asked = [command[-2] for command in others]  # what may have to be compiled, each by itself
    assert {*first[7:-1], *asked} == set(first_cells.needed_by(CODE, URL).values())
    assert first[7] == f"dvae-lib @ git+{URL}"
    assert [text.partition(">")[0] for text in asked] == ["G722", "pesq"]
    assert not {"--upgrade", "-U", "--force-reinstall"} & set(first)
    kept = {f"{name}=={importlib.metadata.version(name)}" for name in ("torch", "numpy")}
    assert all(set(command[-1].split()) == kept for command in (first, *others))
    assert "Installed." in capsys.readouterr().out


def test_cell_looks_for_what_it_needs_and_not_for_the_library_alone(monkeypatch):
    """As after `pip install dvae-lib`, without extras."""
    (command,) = run_cell(monkeypatch, present=EVERYTHING - {"soxr", "statsmodels"})
    assert [text.partition(">")[0] for text in command[7:-1]] == ["soxr", "statsmodels"]


def test_cell_goes_on_without_a_compiler(monkeypatch, capsys):
    run_cell(monkeypatch, present=set(), failing=("pesq",), said="error: command 'gcc' failed")
    assert "Without pesq: no C compiler, or no connection. The rest works." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ("fatal: unable to access: Could not resolve host", "there is no connection to where they are. Connect, and"),
        ("ERROR: Cannot find command 'git'\nmore", "could not be installed: ERROR: Cannot find command 'git'"),
    ],
)
def test_cell_says_in_a_sentence_why_nothing_could_be_installed(monkeypatch, said, sentence):
    with pytest.raises(Exception, match="could not be installed") as failure:
        run_cell(monkeypatch, present=set(), failing=("dvae-lib",), said=said)
    assert sentence in str(failure.value)
    assert failure.value._render_traceback_() == [str(failure.value)]  # what a notebook shows


def test_rewriting_is_stable_and_replaces_an_old_cell():
    notebook = {"cells": [{"cell_type": "markdown", "id": "a", "metadata": {}, "source": ["é"]}], "metadata": {}}
    once = first_cells.with_first_cell(json.dumps(notebook), URL)
    assert first_cells.with_first_cell(once, URL) == once
    moved = first_cells.with_first_cell(once, "https://example.org/other")
    assert len(json.loads(moved)["cells"]) == 2
    assert "git+https://example.org/other" in moved
    assert "é" in moved
