"""Run every notebook as it runs on a reader's machine: in an empty folder, with `dvae_lib` from its wheel.

    python book/_tools/alone.py CACHE

The environment has the library's wheel and, behind it, the packages of the environment that runs this file, but not
the source tree. The results go to CACHE, from which `build.py` makes the site.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def build_wheel(folder: Path) -> Path:
    """The library's wheel, built with the environment's own hatchling."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    (wheel,) = folder.glob("*.whl")
    return wheel


def make_environment(folder: Path, wheel: Path) -> Path:
    """An environment with the wheel, in front of the packages of this one; its Python."""
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin/python"
    paths = {"base": str(folder), "platbase": str(folder)}
    site = Path(sysconfig.get_path("purelib", vars=paths))
    # A line with a folder makes its packages importable, but does not run its own .pth files: the editable
    # installation of the source tree stays behind.
    (site / "behind.pth").write_text(sysconfig.get_path("purelib") + "\n")
    install = ["install", "--quiet", "--no-deps", "--no-index", "--target", str(site), str(wheel)]
    subprocess.run([sys.executable, "-m", "pip", *install], check=True, stdin=subprocess.DEVNULL)
    where = "import dvae_lib, pathlib; print(pathlib.Path(dvae_lib.__file__).parent)"
    found = subprocess.run([python, "-c", where], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()
    if Path(found) != site / "dvae_lib":
        raise SystemExit(f"The environment imports dvae_lib from {found}, not from its wheel in {site}.")
    return python


def main() -> int:
    """Command line."""
    cache = Path(sys.argv[1]).resolve()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        python = make_environment(folder / "environment", build_wheel(folder / "wheel"))
        command = [str(python), str(ROOT / "book/_tools/execute.py"), str(cache), "--fresh", "--alone"]
        return subprocess.run(command, env=environment, cwd=folder, check=False, stdin=subprocess.DEVNULL).returncode


if __name__ == "__main__":
    sys.exit(main())
