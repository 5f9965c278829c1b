"""Run notebooks as on a machine with a GPU: the second device is there, and the library takes it by itself.

    python tests/second_device/notebooks.py book/05_deep_kalman_filters.ipynb ...

All code cells of each run in order, from an empty folder. What fails is named, with its cell; the status is then 1.
"""

import json
import os
import sys
import tempfile
import time
import traceback
from pathlib import Path

import second_device
import torch


def run(notebook: Path) -> str | None:
    """What went wrong, and where; None if nothing did."""
    from IPython.core.interactiveshell import InteractiveShell

    torch.set_default_dtype(torch.float32)  # whatever the notebook before has set
    InteractiveShell.clear_instance()
    shell = InteractiveShell.instance()
    with tempfile.TemporaryDirectory() as empty:
        os.chdir(empty)
        for number, cell in enumerate(json.loads(notebook.read_text(encoding="utf-8"))["cells"]):
            if cell["cell_type"] != "code":
                continue
            source = "".join(cell["source"])
            result = shell.run_cell(source, silent=True)
            error = result.error_before_exec or result.error_in_exec
            if error is not None and "raises-exception" not in cell.get("metadata", {}).get("tags", []):
                trace = "".join(traceback.format_exception(error))
                return f"cell {number}: {type(error).__name__}: {error}\n{trace}"
    return None


def main(paths: list[str]) -> int:
    """Run notebooks one after the other; the number of those that fail."""
    notebooks, failed = [Path(path).resolve() for path in paths], 0
    home = Path.cwd()
    with second_device.in_use():
        for notebook in notebooks:
            started, wrong = time.monotonic(), run(notebook)
            os.chdir(home)
            failed += wrong is not None
            print(f"{notebook.stem} ({time.monotonic() - started:.0f} s): {wrong or 'ran to the end'}", flush=True)
    return failed


if __name__ == "__main__":
    os.environ.setdefault("MPLBACKEND", "agg")
    sys.exit(min(main(sys.argv[1:]), 1))
