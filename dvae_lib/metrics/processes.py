"""Work spread over fresh Python processes, safe next to torch, CUDA and notebooks.

The standard process pools fork a program whose threads may hold locks (torch, OpenMP, CUDA, a notebook's
server), or import the caller's script again, which then needs ``if __name__ == "__main__"``; and when
compiled code takes a process down, the whole pool is lost without a word about which item it was. Here
every process is a plain interpreter that reads items from its input and writes results to its output.
"""

import contextlib
import os
import pickle
import queue
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

__all__ = ["ChildProcess", "ProcessDied", "map_in_processes"]

Item = TypeVar("Item")
Result = TypeVar("Result")

_READY = b"ready"


class ProcessDied(Exception):  # noqa: N818 - an event that is handed on as a result, not an error that is raised
    """What became of an item whose process ended before it answered."""


def map_in_processes(
    function: Callable[[Item], Result], items: Sequence[Item], num_processes: int
) -> Iterator[Result | ProcessDied]:
    """Apply a function to every item in parallel processes, and give the results in the items' order.

    Arguments:
        function: A function at the top level of an importable module.
        items: Its arguments; they are pickled on their way, and so are the results.
        num_processes: How many processes to start, at most one per item.

    Yields:
        For each item its result, or `ProcessDied` where the process was lost (a crash in compiled
        code, no memory); a new process takes the next item.

    Raises:
        RuntimeError: The processes cannot start.
        Exception: What the function raised, for the first item in order.
    """
    target = f"{function.__module__}:{function.__qualname__}"
    workers = [ChildProcess(target) for _ in range(min(num_processes, len(items)))]
    idle: queue.SimpleQueue[ChildProcess] = queue.SimpleQueue()
    for worker in workers:
        idle.put(worker)

    def apply(item: Item) -> Any:
        worker = idle.get()
        try:
            return worker.ask(item)
        finally:
            idle.put(worker)

    try:
        with ThreadPoolExecutor(max(1, len(workers))) as threads:
            try:
                yield from threads.map(apply, items)
            finally:
                # After an error or Ctrl-C, this ends the reads on which the threads wait.
                for worker in workers:
                    worker.stop()
    finally:
        for worker in workers:
            worker.close()


class ChildProcess:
    """One interpreter that applies a function, started when it is first asked and again after it was lost.

    Of the library it imports nothing by itself: where the function is another package's, it is there at once.

    Arguments:
        target: The function, as ``"module:name"``.
    """

    def __init__(self, target: str) -> None:
        self._target = target
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False

    def ask(self, *arguments: Any) -> Any:
        """What the function returns; `ProcessDied` where the process was lost.

        Raises:
            RuntimeError: The process cannot start.
            Exception: What the function raised.
        """
        if self._stopped:
            return ProcessDied("was not started")
        process = self._process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            pickle.dump(arguments, process.stdin, protocol=pickle.HIGHEST_PROTOCOL)
            process.stdin.flush()
            answer, error = pickle.load(process.stdout)
        except (EOFError, OSError, pickle.UnpicklingError):
            self._process = None
            return ProcessDied(_how_it_ended(process))
        except BaseException:  # Ctrl-C: its answer would be taken for that to the next question
            self._process = None
            _end(process)
            raise
        if error is not None:
            raise error
        return answer

    def stop(self) -> None:
        """End it at once, from another thread; who waits for an answer is told that the process died."""
        self._stopped = True
        if self._process is not None:
            self._process.kill()

    def close(self) -> None:
        """End it and free what it held."""
        if self._process is not None:
            _end(self._process)

    def _start(self) -> "subprocess.Popen[bytes]":
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path),
            # One process per core is parallel enough.
            **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
        }
        process = self._process = subprocess.Popen(
            [sys.executable, "-c", f"import runpy; runpy.run_path({__file__!r})['_serve']({self._target!r})"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            start_new_session=True,  # Ctrl-C is for the caller; this process ends when its input does
        )
        if self._stopped:  # while the process was being started, so that `stop` did not see it
            process.kill()
        assert process.stdout is not None
        if process.stdout.read(len(_READY)) != _READY and not self._stopped:
            raise RuntimeError(
                f"A parallel process {_how_it_ended(process)} while starting; what it wrote stands above"
            )
        return process


def _serve(target: str) -> None:
    """Answer the calls whose arguments arrive on the standard input until it ends (runs in the new process)."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a package prints must not mix with the answers
    module, name = target.split(":")
    function = getattr(import_module(module), name)
    answers.write(_READY)
    answers.flush()
    while True:
        try:
            arguments = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        answer, failure = None, None
        try:
            answer = function(*arguments)
        except Exception as error:
            failure = error.with_traceback(None)
        pickle.dump((answer, failure), answers)
        answers.flush()


def _end(process: "subprocess.Popen[bytes]") -> int:
    process.kill()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):  # closing flushes into a pipe that nobody reads any more
                stream.close()
    return process.wait()


def _how_it_ended(process: "subprocess.Popen[bytes]") -> str:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=5)  # its own end comes first, and tells more than ours
    status = _end(process)
    if status >= 0:
        return f"ended with exit status {status}"
    with contextlib.suppress(ValueError):
        return f"was ended by {signal.Signals(-status).name}"
    return f"was ended by signal {-status}"
