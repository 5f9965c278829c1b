"""Run the book's notebooks, several at a time, and keep each result as soon as it is there.

`build.py` uses it for the book: what an interrupted or failed build has executed is there for the next one.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
CELL_TIMEOUT = 900  # seconds
USUAL_SECONDS = {"ci": 9, "book": 30, "full": 600}  # of a notebook on one core, where nothing better is known


def execute(path: Path, alone: bool) -> tuple[str, str, float]:
    """Run one notebook: its JSON with outputs, the error if there was one, and the seconds it took.

    The kernel is that of the Python which runs this file. With ``alone`` the notebook is copied into an empty folder
    and runs there.
    """
    import nbformat
    from jupyter_client.kernelspec import KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    class OwnKernel(AsyncKernelManager):
        """The running Python's own kernel, whatever kernels else are installed on this machine."""

        def __init__(self, **options: Any):
            own = KernelSpecManager(kernel_dirs=[], ensure_native_kernel=True)
            # Sockets in the kernel's own folder: the numbers of TCP sockets can be taken by another kernel.
            transport = "ipc" if os.name == "posix" else "tcp"
            super().__init__(**options, kernel_spec_manager=own, transport=transport)

    notebook = nbformat.read(path, as_version=4)
    started = time.monotonic()
    error = ""
    with tempfile.TemporaryDirectory() as empty, tempfile.TemporaryDirectory() as own:
        folder = Path(empty) if alone else path.parent
        if alone:
            shutil.copy(path, folder)
        client = NotebookClient(
            notebook,
            kernel_manager_class=OwnKernel,
            timeout=CELL_TIMEOUT,
            startup_timeout=180,
            extra_arguments=["--IPKernelApp.log_level=ERROR"],
            record_timing=False,
            resources={"metadata": {"path": str(folder)}},
        )
        # What IPython keeps in the home folder goes elsewhere: that need not be writable, and may hold settings.
        client.create_kernel_manager().connection_file = str(Path(own) / "kernel.json")
        try:
            asyncio.run(client.async_execute(env={**os.environ, "IPYTHONDIR": own}))
        except (CellExecutionError, CellTimeoutError, DeadKernelError, RuntimeError) as failure:
            error = f"{type(failure).__name__}: {failure}"
    return nbformat.writes(notebook), error, time.monotonic() - started


def is_kept(cache: Any, notebook: Any) -> bool:
    """Whether a cache holds a notebook's results, whole: a build that was killed may have left a part."""
    try:
        kept = cache.get_cache_bundle(cache.match_cache_notebook(notebook).pk).nb
    except (KeyError, ValueError, OSError):
        return False
    return sum(cell.cell_type == "code" for cell in notebook.cells) == len(kept.cells)


def not_in(cache_folder: Path) -> list[Path]:
    """The notebooks whose results a cache does not hold."""
    import nbformat
    from first_cells import notebooks
    from jupyter_cache import get_cache

    cache = get_cache(cache_folder)
    return [path for path in notebooks(ROOT) if not is_kept(cache, nbformat.read(path, as_version=4))]


def keep(cache_folder: Path, path: Path, text: str, seconds: float = 0.0) -> None:
    """Put an executed notebook into a cache, from which the site is built."""
    import nbformat
    from jupyter_cache import get_cache
    from jupyter_cache.base import CacheBundleIn

    name = path.relative_to(ROOT).as_posix()
    bundle = CacheBundleIn(nbformat.reads(text, as_version=4), name, data={"seconds": seconds})
    cache = get_cache(cache_folder)
    _, key = cache.create_hashed_notebook(bundle.nb)
    shutil.rmtree(cache_folder / "executed" / key, ignore_errors=True)  # the half of a result, which would stop it
    cache.cache_notebook_bundle(bundle, check_validity=False, overwrite=True)


def known_seconds(folders: list[Path]) -> dict[str, float]:
    """How long notebooks took that earlier builds have executed."""
    from jupyter_cache import get_cache

    records = [record for folder in folders for record in get_cache(folder).list_cache_records()]
    return {record.uri: record.data["seconds"] for record in records if (record.data or {}).get("seconds")}


def minutes(seconds: float) -> str:
    """A duration for people."""
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


def execute_all(cache_folder: Path, jobs: int) -> list[str]:
    """Run what the cache lacks, keep each result when it is there, and name the notebooks that failed."""
    cache_folder.mkdir(parents=True, exist_ok=True)
    waiting = not_in(cache_folder)
    if not waiting:
        print("All notebooks are up to date.", flush=True)
        return []
    usual = USUAL_SECONDS.get(os.environ.get("DVAE_BUDGET", ""), USUAL_SECONDS["book"])
    known = known_seconds(
        [folder for folder in sorted(cache_folder.parent.iterdir()) if (folder / "global.db").exists()]
    )
    expected = {path: known.get(path.relative_to(ROOT).as_posix(), usual) for path in waiting}
    waiting.sort(key=lambda path: -expected[path])  # a long one begun last would be waited for
    print(
        f"Running {len(waiting)} notebook(s), {jobs} at a time, about {minutes(sum(expected.values()) / jobs)} in all. "
        "An interrupted build goes on where it was.",
        flush=True,
    )
    failed: dict[str, str] = {}
    taken, hoped = 0.0, 0.0
    pool = ThreadPoolExecutor(jobs)
    try:
        running = {pool.submit(execute, path, False): path for path in waiting}
        for number, done in enumerate(as_completed(running), start=1):
            path = running[done]
            name = path.relative_to(ROOT).as_posix()
            text, error, seconds = done.result()
            taken, hoped = taken + seconds, hoped + expected[path]
            left = (sum(expected.values()) - hoped) * taken / hoped / jobs
            if error:
                failed[name] = error
                print(f"{error}\n  {number}/{len(waiting)} {name}: FAILED after {seconds:.0f} s", flush=True)
            else:
                keep(cache_folder, path, text, seconds)
                print(f"  {number}/{len(waiting)} {name}: {seconds:.0f} s; {minutes(left)} left", flush=True)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    if failed:
        print(f"\n{len(failed)} notebook(s) failed; the results of the others are kept:", file=sys.stderr)
        for name, error in failed.items():
            print(f"  {name}: {COLOUR.sub('', error).strip().splitlines()[-1]}", file=sys.stderr)
    return sorted(failed)
