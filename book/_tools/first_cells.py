"""Write the hidden first cell of every notebook, which installs what the notebook needs and a machine lacks.

    python book/_tools/first_cells.py [--check]

The repository's address is read from `_config.yml`, the only place where it stands, the versions from `pyproject.toml`.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

import yaml

try:
    import tomllib
except ImportError:  # Python 3.10
    from pip._vendor import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
CELL_ID = "set-up"
SOURCE = """\
# @title Set-up: installs what is missing { display-mode: "form" }
import importlib.util

needed = {needed}
missing = [name for name in needed if importlib.util.find_spec(name) is None]
if missing:
    import importlib.metadata
    import subprocess
    import sys
    import tempfile

    class SetUpFailed(Exception):
        def _render_traceback_(self):
            return [str(self)]  # a sentence, where notebooks would show a traceback

    def install(names):
        packages = [needed[name] for name in names]
        done = subprocess.run([*pip, *packages], stdin=subprocess.DEVNULL, capture_output=True, text=True)
        return "" if done.returncode == 0 else done.stderr or done.stdout

    installed = {d.metadata["Name"]: d.version for d in importlib.metadata.distributions()}
    kept = [f"{name}=={installed[name]}" for name in ("torch", "numpy") if name in installed]
    print("Installing", ", ".join(missing), "in about a minute. Left as they are:", ", ".join(kept) or "(none there)")
    with tempfile.NamedTemporaryFile("w", suffix=".txt", delete=False) as constraints:
        constraints.write("\\n".join(kept))
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--constraint", constraints.name]
    compiled = [name for name in missing if name in ("G722", "pesq")]  # where pip finds no wheel
    others = [name for name in missing if name not in compiled]
    if others and (said := install(others)):
        offline = ("resolve", "onnection", "unreachable", "timed out", "No matching distribution")
        why = ([line for line in said.splitlines() if "error" in line.lower()] or said.splitlines() or ["nothing"])[-1]
        if any(word in said for word in offline):
            why = "there is no connection to where they are. Connect, and run this cell again."
        raise SetUpFailed(f"{', '.join(others)} could not be installed: {why}")
    if left_out := [name for name in compiled if install([name])]:
        print(f"Without {', '.join(left_out)}: no C compiler, or no connection. The rest works.")
    importlib.invalidate_caches()
    print("Installed.")
"""

# What a notebook needs, by what stands in its code; a value is an extra of ours, or a package.
NEEDS = {
    r"\b(load_corpus|SpeechFrontEnd|read_audio|resynthesise|enhance|si_sdr)\(|\bsoundfile\b": "audio",
    r"\b(analysis_resynthesis|speech_metrics)\(": "audio",
    r"\b(speech_metrics|analysis_resynthesis|pesq)\(": "pesq",
    r"\b(load_chorales\(|music21\b)": "music",
    r"\b(read_midi|write_midi|midi_to_roll)\(": "mido",
    r"\bdvae_lib\.coding\b": "codec",
    r"\bimport statsmodels|\bfrom statsmodels": "statsmodels",
    r"\bimport pandas": "pandas",
    r"\bfrom sklearn|\bimport sklearn|\bmoving_digits\b": "scikit-learn",
}
MODULES = {"scikit-learn": "sklearn"}  # what is imported under another name than it is installed


def needed_by(code: str, url: str) -> dict[str, str]:
    """What a notebook with this code imports, sooner or later, and what pip calls it: the library first."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    versions = {re.match(r"[\w-]+", line)[0]: line for lines in extras.values() for line in lines}  # type: ignore[index]
    needed = {"dvae_lib": f"dvae-lib @ git+{url}"}
    for pattern, name in NEEDS.items():
        if re.search(pattern, code):
            for requirement in extras[name] if name in extras else [versions[name]]:
                package = re.match(r"[\w-]+", requirement)[0]  # type: ignore[index]
                needed[MODULES.get(package, package)] = requirement
    return needed


def repository_url(root: Path = ROOT) -> str:
    """The repository's address, from `_config.yml`."""
    config = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))
    return str(config["repository"]["url"])


def first_cell(url: str, code: str) -> dict[str, Any]:
    """The cell for a notebook with this code, as it stands in the notebook's JSON."""
    needed = "".join(f"\n    {json.dumps(name)}: {json.dumps(text)}," for name, text in needed_by(code, url).items())
    source = SOURCE.replace("{needed}", f"{{{needed}\n}}")
    return {
        "cell_type": "code",
        "execution_count": None,
        "id": CELL_ID,
        # `remove-cell` hides it on the site, `cellView` in Colab, `source_hidden` in JupyterLab.
        "metadata": {"cellView": "form", "jupyter": {"source_hidden": True}, "tags": ["remove-cell"]},
        "outputs": [],
        "source": source.rstrip("\n").splitlines(keepends=True),
    }


def with_first_cell(text: str, url: str) -> str:
    """A notebook's JSON with the first cell written anew."""
    notebook = json.loads(text)
    others = [cell for cell in notebook["cells"] if cell.get("id") != CELL_ID]
    code = "\n".join("".join(cell["source"]) for cell in others if cell["cell_type"] == "code")
    notebook["cells"] = [first_cell(url, code), *others]
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def notebooks(root: Path = ROOT) -> list[Path]:
    """All notebooks of the book."""
    return sorted(path for path in (root / "book").rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts)


def main() -> int:
    """Rewrite what differs; with `--check`, only name it."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--check", action="store_true", help="change nothing, fail if a notebook would change")
    check = options.parse_args().check
    url = repository_url()
    stale = []
    for path in notebooks():
        old = path.read_text(encoding="utf-8")
        new = with_first_cell(old, url)
        if json.loads(old) != json.loads(new):
            stale.append(path.relative_to(ROOT))
            if not check:
                path.write_text(new, encoding="utf-8")
    for name in stale:
        print(
            f"{name}: first cell {'is not up to date; run python book/_tools/first_cells.py' if check else 'written'}"
        )
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
