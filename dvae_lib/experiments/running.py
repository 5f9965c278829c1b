"""An experiment from its plan to its tables: models x corpora x seeds, by one process or several."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dvae_lib.experiments.corpora import load_experiment
from dvae_lib.experiments.progress import Progress
from dvae_lib.experiments.protocol import BudgetName, plan, protocol
from dvae_lib.experiments.records import RECORD, Record, RecordError, collect, read_records
from dvae_lib.experiments.report import write_report
from dvae_lib.experiments.runs import WORKER, Job, Outcome, run_all, single_device

__all__ = ["run"]

INTERRUPTED = 130
"""The exit status of a process that an interrupt has ended, as shells have it."""


def run(
    folder: str | Path,
    corpora: Sequence[str],
    models: Sequence[str] | None = None,
    *,
    seeds: int = 1,
    budget: BudgetName = "book",
    jobs: int = 1,
    train_only: bool = False,
    inputs: str | None = None,
    accelerator: str = "auto",
    progress: bool = False,
    say: Callable[[str], None] | None = None,
) -> Outcome:
    """The review's experiments (Chapter 13): train the models, test them on held-out people, make the tables.

    What is in the folder already is not done again, so that what was interrupted goes on with the same call. Called by
    several processes on one folder, on one machine or on several that share it, each takes the next run that nobody
    has. A run that fails, or a corpus that is not here, does not stop the others.

    Arguments:
        folder: Where the runs, results and tables (in ``report/``) are kept.
        corpora: Names or folders, see `load_experiment`.
        models: Names such as ``"srnn"`` or ``"srnn-scheduled"``; None takes all of the review's.
        seeds: Number of seeds: 0, 1, ...
        budget: "full" is the review's protocol, "book" what the book shows, "ci" takes seconds.
        jobs: Number of processes.
        train_only: Leave the tests to a later call, perhaps on another machine.
        inputs: What the networks read of the data, "power" or "log_power" (`DVAE.read_as`); None is the protocol's.
            With "log_power" the output starts at the mean log-power. Results with other inputs need another folder.
        accelerator: "auto", "cpu", "cuda" or "mps".
        progress: Show a bar over the epochs of all runs.
        say: Called with each line of what is planned and done.

    Returns:
        The results, the reports, and what went wrong.

    Raises:
        ValueError: An unknown model or budget.

    Example:
        >>> run("runs/quick", ["prompts"], ["vae", "srnn"], budget="ci")  # doctest: +SKIP
    """
    runs = plan(models, range(seeds))
    prepared: list[Job] = []
    errors: dict[str, str] = {}
    for name in corpora:
        try:
            data = load_experiment(name, budget)
        except (ValueError, OSError) as error:
            errors[name] = str(error)
            continue
        chosen = protocol(data.experiment, budget)
        chosen = chosen if inputs is None else chosen.reading(inputs)
        prepared += [Job(one, data, chosen) for one in runs]
    # All corpora of one seed before the next seed.
    prepared.sort(key=lambda job: runs.index(job.run))
    # One process speaks for all of them, and makes the tables.
    first = int(os.environ.get("RANK", 0)) == 0 and WORKER not in os.environ
    if first and prepared and say is not None:
        say(Progress.plan(prepared, folder))

    def tell(job: Job, record: Record | None) -> None:
        if say is not None:
            say(Progress.line(job, record))

    with Progress(prepared, folder, enabled=first and progress):
        if jobs > 1 and prepared:
            options: dict[str, Any] = {"seeds": seeds, "budget": budget, "train_only": train_only}
            options |= {"accelerator": accelerator, "inputs": inputs}
            models = sorted({job.run.name for job in prepared})
            names = list(dict.fromkeys(job.corpus.name for job in prepared))
            outcome = _spawn(prepared, folder, jobs, {"corpora": names, "models": models, **options})
        else:
            device = single_device(accelerator)
            outcome = run_all(prepared, folder, fabric=device, progress=False, train_only=train_only, report=tell)
    outcome.errors = errors | outcome.errors
    if first and outcome.records and not train_only:
        found, problems = collect([folder])
        outcome.errors |= {f"result {i + 1}": text for i, text in enumerate(problems)}
        outcome.reports = write_report(found, Path(folder) / "report")
    return outcome


def _spawn(jobs: Sequence[Job], root: str | Path, count: int, options: dict[str, Any]) -> Outcome:
    """So many processes on the same folder, which share the runs among them; what is there in the end."""
    threads = max(1, (os.cpu_count() or 1) // count)
    code = "import sys; from dvae_lib.experiments.running import work; sys.exit(work(sys.argv[1]))"
    command = [sys.executable, "-c", code, json.dumps({"folder": str(root), **options})]
    processes = [
        subprocess.Popen(
            command,
            env={**os.environ, WORKER: str(k), "OMP_NUM_THREADS": str(threads)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for k in range(count)
    ]
    outcome = Outcome()
    try:
        said = [process.communicate()[1] for process in processes]
    except KeyboardInterrupt:  # the terminal has told the processes, too
        said = [process.communicate()[1] for process in processes]
        outcome.interrupted = True
    for k, (process, text) in enumerate(zip(processes, said, strict=True)):
        if process.returncode not in (0, INTERRUPTED) and text.strip():
            outcome.errors[f"process {k + 1}"] = text.strip()[-2000:]
        outcome.interrupted |= process.returncode == INTERRUPTED
    for job in jobs:
        path = job.folder(root) / RECORD
        if path.exists():
            try:
                (outcome.records[job.key],) = read_records(path)
            except RecordError as error:
                outcome.errors[job.name] = str(error)
    return outcome


def work(options: str) -> int:
    """One of several processes: `run` with these options, as JSON; the exit status says how it ended."""
    try:
        outcome = run(**json.loads(options))
    except KeyboardInterrupt:
        return INTERRUPTED
    for name, text in outcome.errors.items():
        print(f"{name}: {text}", file=sys.stderr)
    return INTERRUPTED if outcome.interrupted else int(bool(outcome.errors))
