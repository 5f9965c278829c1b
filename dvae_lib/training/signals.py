"""Ctrl-C and SIGTERM as a wish to stop."""

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

__all__ = ["Signals"]


class Signals:
    """Turns the first Ctrl-C, and SIGTERM, into a wish to stop; the second Ctrl-C interrupts at once.

    A process that was asked to terminate does so after what was to be saved has been saved.
    """

    def __init__(self) -> None:
        self.received: int = 0
        self._since = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Signals":
        # Only the main thread may handle signals.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self.received == signal.SIGTERM:
            signal.raise_signal(signal.SIGTERM)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        # torchrun passes on a Ctrl-C that its processes have had from the terminal already.
        if self.received == number == signal.SIGINT and time.monotonic() - self._since > 1.0:
            raise KeyboardInterrupt
        self.received, self._since = number, time.monotonic()
