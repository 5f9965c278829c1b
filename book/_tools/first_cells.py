"""Write the hidden first cell of every notebook, which puts `dvae_lib` on a machine that lacks it, such as Colab.

    python book/_tools/first_cells.py [--check]

The repository's address is read from `_config.yml`, the only place where it stands.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
CELL_ID = "set-up"
SOURCE = """\
# @title Set-up: installs dvae_lib where it is missing { display-mode: "form" }
import importlib.util

if importlib.util.find_spec("dvae_lib") is None:
    import importlib.metadata
    import subprocess
    import sys
    import tempfile

    installed = {d.metadata["Name"]: d.version for d in importlib.metadata.distributions()}
    kept = [f"{name}=={installed[name]}" for name in ("torch", "numpy") if name in installed]
    print("Installing dvae_lib, which takes about a minute. Left as they are:", ", ".join(kept) or "(none there)")
    with tempfile.NamedTemporaryFile("w", suffix=".txt", delete=False) as constraints:
        constraints.write("\\n".join(kept))
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--constraint", constraints.name]
    subprocess.run([*command, "{requirement}"], check=True)
    importlib.invalidate_caches()
    print("dvae_lib is installed.")
"""


def repository_url(root: Path = ROOT) -> str:
    """The repository's address, from `_config.yml`."""
    config = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))
    return str(config["repository"]["url"])


def first_cell(url: str) -> dict[str, Any]:
    """The cell, as it stands in a notebook's JSON."""
    source = SOURCE.replace("{requirement}", f"dvae-lib[speech] @ git+{url}")
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
    notebook["cells"] = [first_cell(url), *others]
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
