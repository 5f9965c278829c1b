"""A conftest for nbval: what it executes is also kept, so that the site is made from the execution that was judged.

nbval reads a kernel's messages, compares and forgets. Here nbclient gets the same messages and puts them together to
a notebook with outputs and the state of its widgets, which is written beside it as `NAME.executed` when all its cells
have run without an error.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import nbformat
import nbval.kernel
import pytest
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionComplete

ENDING = ".executed"
PATIENCE = 120.0  # seconds that nbval waits for a cell's output after its end; five are too few on a busy machine
STARTS = 3  # how often a kernel is started that does not answer; no cell has run by then


class KernelBehindFiles(KernelManager):
    """A kernel that is spoken to through sockets in a folder of its own.

    Numbers of TCP sockets are looked up free, let go, and taken seconds later, when another kernel may have them:
    one of two is then never heard of.
    """

    def __init__(self, **options: Any):
        if os.name == "posix":
            self.own_folder = tempfile.TemporaryDirectory(prefix="kernel-")
            options |= {"transport": "ipc", "connection_file": f"{self.own_folder.name}/kernel.json"}
        super().__init__(**options)


def start_again(start: Callable[..., Any]) -> Callable[..., Any]:
    """Starts a kernel, and another one in place of one that does not answer."""

    def start_patiently(*arguments: Any, **options: Any) -> Any:
        for attempt in range(1, STARTS):
            try:
                return start(*arguments, **options)
            except RuntimeError as silence:
                print(f"Kernel {attempt} of {STARTS}: {silence}", file=sys.stderr)
        return start(*arguments, **options)

    return start_patiently


nbval.kernel.KernelManager = KernelBehindFiles
nbval.kernel.start_new_kernel = start_again(nbval.kernel.start_new_kernel)


class Recording:
    """One notebook while nbval runs it."""

    def __init__(self, path: Path, kernel: Any):
        self.path = path
        self.client = NotebookClient(nbformat.read(path, as_version=4), record_timing=False)
        self.client.kc = kernel.kc
        reply = kernel.kc.kernel_info(reply=True, timeout=PATIENCE)
        self.client.nb.metadata["language_info"] = reply["content"]["language_info"]
        self.code = [(index, cell) for index, cell in enumerate(self.client.nb.cells) if cell.cell_type == "code"]
        self.failed = False
        self.number, self.request = -1, ""
        execute, get_message = kernel.execute_cell_input, kernel.get_message

        def execute_and_note(*arguments: Any, **options: Any) -> str:
            self.request = execute(*arguments, **options)
            return self.request

        def get_and_keep(stream: str, timeout: float | None = None) -> dict[str, Any]:
            message: dict[str, Any] = get_message(stream, timeout=timeout)
            if stream == "iopub" and message["parent_header"].get("msg_id") == self.request:
                index, cell = self.code[self.number]
                with suppress(CellExecutionComplete):
                    self.client.process_message(message, cell, index)
            return message

        kernel.execute_cell_input, kernel.get_message = execute_and_note, get_and_keep

    def begin(self, number: int) -> None:
        """The messages that follow belong to this code cell."""
        self.number = number
        self.code[number][1].outputs = []
        self.client.clear_before_next_output = False

    def end(self) -> None:
        """Write the notebook after its last cell."""
        self.code[self.number][1].execution_count = self.number + 1  # nbval keeps the kernel from counting
        if self.number == len(self.code) - 1 and not self.failed:
            self.client.set_widgets_metadata()
            nbformat.write(self.client.nb, self.path.with_suffix(ENDING))


recording = pytest.StashKey[Recording]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: Any) -> Any:
    """Keep the messages of each cell."""
    notebook = item.parent
    if recording not in notebook.stash:
        notebook.stash[recording] = Recording(item.path, notebook.kernel)
    item.output_timeout = PATIENCE
    kept = notebook.stash[recording]
    if kept.failed:
        pytest.skip("an earlier cell failed, and Run all stops there")
    kept.begin(item.cell_num)
    try:
        return (yield)
    except BaseException:
        kept.failed = True
        raise
    finally:
        kept.end()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """How long each notebook took, the longest first."""
    seconds: Counter[str] = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if hasattr(report, "duration"):
                seconds[report.nodeid.split("::")[0].rpartition("/")[0]] += report.duration
    terminalreporter.write_line(", ".join(f"{name}: {taken:.0f} s" for name, taken in seconds.most_common()))
