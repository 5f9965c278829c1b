"""The hidden first cell installs the library where it is missing, and never touches the machine's torch or numpy."""

import importlib.machinery
import importlib.metadata
import importlib.util
import json
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
    cell = json.loads(path.read_text(encoding="utf-8"))["cells"][0]
    assert cell == first_cells.first_cell(URL), "run `make contents`"


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


def run_cell(monkeypatch, present: bool) -> list[list[str]]:
    """Execute the cell with an installer that only notes its command; the commands it ran."""
    commands = []

    def note(command, check):
        constraints = Path(command[command.index("--constraint") + 1])
        commands.append([*command, constraints.read_text()])
        constraints.unlink()

    monkeypatch.setattr(subprocess, "run", note)
    spec = importlib.machinery.ModuleSpec("dvae_lib", None) if present else None
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    exec("".join(first_cells.first_cell(URL)["source"]), {})
    return commands


def test_cell_does_nothing_where_the_library_is(monkeypatch, capsys):
    assert run_cell(monkeypatch, present=True) == []
    assert capsys.readouterr().out == ""


def test_cell_keeps_torch_and_numpy(monkeypatch, capsys):
    ((*command, constraints),) = run_cell(monkeypatch, present=False)
    assert command[:4] == [sys.executable, "-m", "pip", "install"]
    assert command[-1] == f"dvae-lib[speech] @ git+{URL}"
    assert not {"--upgrade", "-U", "--force-reinstall"} & set(command)
    assert set(constraints.split()) == {f"{name}=={importlib.metadata.version(name)}" for name in ("torch", "numpy")}
    assert "Installing dvae_lib" in capsys.readouterr().out


def test_rewriting_is_stable_and_replaces_an_old_cell():
    notebook = {"cells": [{"cell_type": "markdown", "id": "a", "metadata": {}, "source": ["é"]}], "metadata": {}}
    once = first_cells.with_first_cell(json.dumps(notebook), URL)
    assert first_cells.with_first_cell(once, URL) == once
    moved = first_cells.with_first_cell(once, "https://example.org/other")
    assert len(json.loads(moved)["cells"]) == 2
    assert "git+https://example.org/other" in moved
    assert "é" in moved
