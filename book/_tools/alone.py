"""Run every notebook once, as it runs on a reader's machine: in an empty folder, with `dvae_lib` from its wheel.

    python book/_tools/alone.py CACHE [--jobs 2] [--only NOTEBOOK ...]

nbval runs them and judges: no cell may fail, and what a cell marked `# NBVAL_CHECK_OUTPUT` prints must be what is
stored. The environment has the library's wheel and, behind it, the packages of the environment that runs this file,
but not the source tree. The results of notebooks that pass go to CACHE, from which `build.py` makes the site.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path

import keep_results
from execute import CELL_TIMEOUT, keep
from first_cells import notebooks

ROOT = Path(__file__).resolve().parents[2]


def build_wheel(folder: Path) -> Path:
    """The library's wheel, built with the environment's own hatchling."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, stdin=subprocess.DEVNULL, capture_output=True)
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
    command = [str(python), "-c", where]
    found = subprocess.run(
        command, cwd=folder, env=clean_environment(), check=True, capture_output=True, text=True
    ).stdout.strip()
    if Path(found) != site / "dvae_lib":
        raise SystemExit(f"The environment imports dvae_lib from {found}, not from its wheel in {site}.")
    return python


def clean_environment() -> dict[str, str]:
    """The environment variables without those that lead Python to other packages.

    The weights that a reader downloads when they are asked for are looked for in the checkout.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    return {**kept, "DVAE_DATA": os.pathsep.join(filter(None, [kept.get("DVAE_DATA"), str(ROOT / "data")]))}


def run_nbval(python: Path, paths: list[Path], folder: Path, jobs: int) -> dict[Path, Path]:
    """Run notebooks with nbval, each in a folder of its own below `folder`; the results of those that passed."""
    (folder / "pytest.ini").write_text("[pytest]\naddopts = -p no:cacheprovider\n")
    shutil.copy(keep_results.__file__, folder / "conftest.py")
    copies = {}
    for path in paths:
        own = folder / path.relative_to(ROOT / "book").with_suffix("")
        own.mkdir(parents=True)
        copies[path] = Path(shutil.copy(path, own))
    options = ["--nbval-lax", "--nbval-current-env", f"--nbval-cell-timeout={CELL_TIMEOUT}"]
    options += ["--nbval-kernel-startup-timeout=120", "-q"]
    options += ["-n", str(jobs), "--dist", "loadfile"] if jobs > 1 else []
    command = [str(python), "-m", "pytest", *options, *map(str, copies.values())]
    subprocess.run(command, env=clean_environment(), cwd=folder, check=False, stdin=subprocess.DEVNULL)
    results = {path: copy.with_suffix(keep_results.ENDING) for path, copy in copies.items()}
    return {path: result for path, result in results.items() if result.is_file()}


def main() -> int:
    """Command line."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("cache", type=Path, help="folder that keeps the results; emptied first")
    options.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="notebooks at a time")
    options.add_argument("--only", type=Path, nargs="+", default=[], metavar="NOTEBOOK", help="run these, not all")
    chosen = options.parse_args()
    paths = [path.resolve() for path in chosen.only] or notebooks(ROOT)
    shutil.rmtree(chosen.cache, ignore_errors=True)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // chosen.jobs)))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        python = make_environment(folder / "environment", build_wheel(folder / "wheel"))
        (folder / "notebooks").mkdir()
        results = run_nbval(python, paths, folder / "notebooks", chosen.jobs)
        for path, result in results.items():
            keep(chosen.cache.resolve(), path, result.read_text(encoding="utf-8"))
    failed = [path.relative_to(ROOT).as_posix() for path in paths if path not in results]
    if failed:
        print(f"Not every cell of these ran as it should: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
