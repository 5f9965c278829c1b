"""Build the site: contents, scripts, executed notebooks, pages. A warning is an error.

    python book/_tools/build.py OUTPUT [--cache FOLDER]

Without `--cache`, notebooks run where something they depend on has changed: their own code (jupyter-cache sees to
that), the library, the data at rest, the pinned versions, or a DVAE_* variable. All but the first are in the name of
the cache's folder.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
KEPT_CACHES = 3


def cache_key(root: Path = ROOT) -> str:
    """A digest of what a notebook's results depend on, its own code aside."""
    digest = hashlib.sha256(platform.python_version().encode())
    for name in sorted(name for name in os.environ if name.startswith("DVAE_")):
        digest.update(f"{name}={os.environ[name]}\n".encode())
    sources = [*(root / "dvae_lib").rglob("*.py"), *(root / "data").rglob("*"), root / "constraints.txt"]
    for path in sorted(path for path in sources if path.is_file()):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def current_cache() -> Path:
    """The cache of the present state; the oldest ones are removed."""
    folder = ROOT / "_build/cache"
    current = folder / cache_key()
    current.mkdir(parents=True, exist_ok=True)
    current.touch()
    for old in sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)[KEPT_CACHES:]:
        shutil.rmtree(old)
    return current


def build_pages(output: Path, cache: Path) -> int:
    """Run Sphinx on the executed notebooks; its exit status."""
    import vendor
    from jupyter_book.sphinx import build_sphinx

    html, doctrees = output / "html", output / "doctrees"
    overrides = {
        **vendor.sphinx_settings(),
        "nb_execution_mode": "cache",
        "nb_execution_cache_path": str(cache),
        "nitpicky": True,
        "latex_individualpages": False,  # Jupyter Book expects it from its command line
    }
    status = build_sphinx(
        str(ROOT),
        str(html),
        noconfig=True,
        path_config=ROOT / "_config.yml",
        confoverrides=overrides,
        doctreedir=str(doctrees),
        quiet=True,
        warningiserror=True,
        keep_going=True,
    )
    if status:
        # A page that failed would count as up to date in the next build.
        shutil.rmtree(doctrees, ignore_errors=True)
        print("The build failed; the warnings above say where.", file=sys.stderr)
        return 1
    page = next(iter(sorted(html.glob("book/intro.html"))), html / "index.html")
    (html / "index.html").write_text(
        f'<!doctype html><meta http-equiv="refresh" content="0; url={page.relative_to(html).as_posix()}">\n'
    )
    (html / ".nojekyll").touch()  # GitHub Pages would leave out folders that begin with an underscore
    return 0


def main() -> int:
    """Command line."""
    import contents
    import execute

    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("output", type=Path, help="folder for the site: the pages go to OUTPUT/html")
    options.add_argument("--cache", type=Path, help="executed notebooks, made by execute.py; nothing is run then")
    chosen = options.parse_args()
    contents.update()
    cache = chosen.cache
    if cache is not None:
        if missing := execute.not_in(cache):
            raise SystemExit(
                f"Not run as they are now: {', '.join(str(path) for path in missing)}. Run execute.py first."
            )
    else:
        cache = current_cache()
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        if execute.execute_all(cache, fresh=False, alone=False, jobs=min(2, os.cpu_count() or 1)):
            return 1
    print("Building the pages ...", flush=True)
    return build_pages(chosen.output.resolve(), cache.resolve())


if __name__ == "__main__":
    sys.exit(main())
