"""Run the book's notebooks, several at a time, and keep the results where the site is built from.

    python book/_tools/execute.py CACHE [--fresh] [--alone] [--jobs 2]

The kernel is that of the Python which runs this file. With `--alone` each notebook is copied into an empty folder
and runs there, as it does on a reader's machine.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
CELL_TIMEOUT = 900  # seconds


def execute(path: Path, alone: bool) -> tuple[str, str, float]:
    """Run one notebook: its JSON with outputs, the error if there was one, and the seconds it took."""
    import nbformat
    from jupyter_client.kernelspec import KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    class OwnKernel(AsyncKernelManager):
        """The running Python's own kernel, whatever kernels else are installed on this machine."""

        def __init__(self, **options: Any):
            own = KernelSpecManager(kernel_dirs=[], ensure_native_kernel=True)
            super().__init__(**options, kernel_spec_manager=own)

    notebook = nbformat.read(path, as_version=4)
    started = time.monotonic()
    error = ""
    with tempfile.TemporaryDirectory() as empty:
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
        try:
            client.execute()
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as failure:
            error = f"{type(failure).__name__}: {failure}"
    return nbformat.writes(notebook), error, time.monotonic() - started


def not_in(cache_folder: Path) -> list[Path]:
    """The notebooks whose results a cache does not hold."""
    import nbformat
    from first_cells import notebooks
    from jupyter_cache import get_cache

    cache = get_cache(cache_folder)
    missing = []
    for path in notebooks(ROOT):
        try:
            cache.match_cache_notebook(nbformat.read(path, as_version=4))
        except KeyError:
            missing.append(path)
    return missing


def execute_all(cache_folder: Path, *, fresh: bool, alone: bool, jobs: int) -> int:
    """Run what the cache lacks (everything with ``fresh``); the number of notebooks that failed."""
    import nbformat
    from jupyter_cache import get_cache
    from jupyter_cache.base import CacheBundleIn

    if fresh:
        shutil.rmtree(cache_folder, ignore_errors=True)
    cache_folder.mkdir(parents=True, exist_ok=True)
    waiting = not_in(cache_folder)
    if not waiting:
        print("All notebooks are up to date.")
        return 0
    print(f"Running {len(waiting)} notebook(s), {jobs} at a time ...", flush=True)
    failed = 0
    cache = get_cache(cache_folder)
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        running = {pool.submit(execute, path, alone): path for path in waiting}
        for done in as_completed(running):
            name = running[done].relative_to(ROOT)
            text, error, seconds = done.result()
            if error:
                failed += 1
                print(f"  {name}: FAILED after {seconds:.0f} s\n{error}", flush=True)
                continue
            print(f"  {name}: {seconds:.0f} s", flush=True)
            notebook = nbformat.reads(text, as_version=4)
            cache.cache_notebook_bundle(CacheBundleIn(notebook, str(name)), check_validity=False, overwrite=True)
    return failed


def main() -> int:
    """Command line."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("cache", type=Path, help="folder that keeps the results")
    options.add_argument("--fresh", action="store_true", help="run all, whatever the cache holds")
    options.add_argument("--alone", action="store_true", help="copy each notebook into an empty folder first")
    options.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="notebooks at a time")
    chosen = options.parse_args()
    # Notebooks run side by side: one thread each is faster than all of them fighting for the cores.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // chosen.jobs)))
    failed = execute_all(chosen.cache.resolve(), fresh=chosen.fresh, alone=chosen.alone, jobs=chosen.jobs)
    if failed:
        print(f"{failed} notebook(s) failed.", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
