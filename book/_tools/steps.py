"""Run commands one after the other, show what each took, and add up what the tests among them say.

    python book/_tools/steps.py NAME COMMAND [NAME COMMAND ...]

A command that fails does not keep the later ones from running. What follows ends with a line `N passed, N failed`: the
tests that commands reported in a line of this kind, and one for each command that reported none.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from dataclasses import dataclass

COUNT = re.compile(r"\b(\d+) (passed|failed|errors?)\b")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


@dataclass
class Step:
    """What came of one command."""

    name: str
    status: int
    seconds: float
    passed: int
    failed: int


def counts(line: str) -> tuple[int, int] | None:
    """Passed and failed tests of a closing line such as pytest's; None for any other line."""
    line = COLOUR.sub("", line)
    found = COUNT.findall(line)
    if not found or not re.match(r"[=\s]*\d+ (passed|failed|errors?|skipped|deselected|xfailed|warnings?)\b", line):
        return None
    passed = sum(int(number) for number, what in found if what == "passed")
    return passed, sum(int(number) for number, what in found) - passed


def run(name: str, command: str) -> Step:
    """Run a command and pass on what it prints."""
    print(f"\n==== {name}", flush=True)
    started = time.monotonic()
    closing = None
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(["bash", "-c", command], **streams, text=True, errors="replace") as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            closing = counts(line) or closing
    status = process.returncode
    passed, failed = closing or (0, 0)
    if status and not failed:
        failed = 1
    elif closing is None and not status:
        passed = 1
    return Step(name, status, time.monotonic() - started, passed, failed)


def report(steps: list[Step]) -> str:
    """A table of the steps, and the sum as the last line."""
    width = max(len(step.name) for step in steps)
    lines = [
        f"{step.name:{width}}  {step.seconds / 60:5.1f} min  {step.passed} passed, {step.failed} failed"
        for step in steps
    ]
    total = sum(step.seconds for step in steps)
    lines.append(f"{'all':{width}}  {total / 60:5.1f} min")
    lines.append(f"{sum(step.passed for step in steps)} passed, {sum(step.failed for step in steps)} failed")
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    """Command line."""
    if not arguments or len(arguments) % 2:
        raise SystemExit(__doc__)
    steps = [run(name, command) for name, command in zip(arguments[::2], arguments[1::2], strict=True)]
    print(f"\n==== What it took\n{report(steps)}", flush=True)
    return 1 if any(step.status for step in steps) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
