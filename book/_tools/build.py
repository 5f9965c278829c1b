"""Build the site: contents, scripts, executed notebooks, pages. A warning is an error.

    python book/_tools/build.py OUTPUT [--cache FOLDER]

Without `--cache`, notebooks run where something they depend on has changed: their own code (jupyter-cache sees to
that), the library, the data at rest, the pinned versions, or a DVAE_* variable. All but the first are in the name of
the cache's folder. The pages are made in OUTPUT/draft; only when all are done do they become OUTPUT/html.
"""

from __future__ import annotations

import argparse
import errno
import hashlib
import os
import platform
import shutil
import signal
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
KEPT_CACHES = 3
ROOM = 500e6  # bytes that a build may need
COMPLETE = "complete.txt"


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
    import progress_bars
    import vendor
    from jupyter_book.sphinx import build_sphinx

    progress_bars.remove_all(cache)
    draft = output / "draft"
    html, complete = draft / "html", draft / COMPLETE
    if not complete.exists():
        # Sphinx would take what an interrupted or failed build has left for up to date, half a page included.
        shutil.rmtree(draft, ignore_errors=True)
    complete.unlink(missing_ok=True)
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
        doctreedir=str(draft / "doctrees"),
        quiet=True,
        warningiserror=True,
        keep_going=True,
    )
    cause = getattr(status, "orig_exc", status)  # Sphinx wraps what its extensions raise
    if isinstance(cause, OSError | KeyboardInterrupt):
        raise cause
    if status:
        print("The build failed; the warnings above say where.", file=sys.stderr)
        return 1
    (html / ".nojekyll").touch()  # GitHub Pages would leave out folders that begin with an underscore
    publish(html, output / "html")
    complete.touch()
    return 0


def publish(made: Path, place: Path) -> None:
    """Put a copy of a complete site in place, made light; what was there stays until then."""
    import lighten
    import notebooks_zip
    import previews
    import typeset

    new, old = place.with_name(place.name + ".new"), place.with_name(place.name + ".old")
    for rest in (new, old):
        shutil.rmtree(rest, ignore_errors=True)
    try:
        shutil.copytree(made, new)
        lighten.lighten(new)  # the copy: Sphinx compares the pages that it has made with what they are made of
        previews.write(new)
        typeset.typeset(new, kept=made.parent / "formulas.json")  # after all that reads TeX
        notebooks_zip.write(new, ROOT)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    if place.exists():
        place.rename(old)
    new.rename(place)
    shutil.rmtree(old, ignore_errors=True)


def check_room(output: Path) -> None:
    """Refuse before the work what can't be written after it.

    Raises:
        OSError: if the folder can't be written to, or the disk is nearly full.
    """
    output.mkdir(parents=True, exist_ok=True)
    probe = output / "probe"
    probe.write_bytes(b"\0")
    probe.unlink()
    if shutil.disk_usage(output).free < ROOM:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(output))


def in_one_sentence(error: Exception) -> str | None:
    """What a full or write-protected disk means for a build, and what to do; None for another error."""
    text = str(error)
    number = getattr(error, "errno", None)
    if number in (errno.ENOSPC, errno.EDQUOT) or "disk is full" in text:
        return (
            f"The disk is full ({text}): a build needs {ROOM / 1e6:.0f} MB. Make room and run the same command again; "
            "what it has executed is kept."
        )
    if number in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR) or "readonly database" in text:
        return f"The build can't write where it must ({text}). Allow it, or clone the book into another folder."
    return None


def build(output: Path, cache: Path | None) -> int:
    """Everything; the exit status."""
    import contents
    import execute

    check_room(output)
    contents.update()
    if cache is not None:
        if missing := execute.not_in(cache):
            print(f"Not executed as they are now: {', '.join(map(str, missing))}. Run alone.py first.", file=sys.stderr)
            return 1
    else:
        cache = current_cache()
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        if execute.execute_all(cache, jobs=min(2, os.cpu_count() or 1)):
            print("Without them there is no book. Mend them and run the same command again.", file=sys.stderr)
            return 1
    print("Building the pages, which takes about a minute ...", flush=True)
    return build_pages(output.resolve(), cache.resolve())


def main() -> int:
    """Command line."""
    from sqlalchemy.exc import OperationalError

    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("output", type=Path, help="folder for the site: the pages go to OUTPUT/html")
    options.add_argument("--cache", type=Path, help="executed notebooks, made by alone.py; nothing is run then")
    chosen = options.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return build(chosen.output, chosen.cache)
    except KeyboardInterrupt:
        print("\nInterrupted. What was executed is kept; the same command goes on from there.", file=sys.stderr)
        return 130
    except (OSError, OperationalError) as error:
        sentence = in_one_sentence(error)
        if sentence is None:
            raise
        print(sentence, file=sys.stderr)
        return 1


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit, which would wait for notebooks that still run; their kernels end when their parent is gone.
    os._exit(status)
