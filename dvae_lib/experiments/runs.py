"""One run: trained, evaluated, and written down; and many, by as many processes as there are."""

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from lightning_fabric import Fabric

from dvae_lib._version import __version__
from dvae_lib.experiments.corpora import ExperimentData
from dvae_lib.experiments.machine import machine_facts, peak_memory
from dvae_lib.experiments.protocol import Protocol, Run
from dvae_lib.experiments.records import RECORD, RECORD_FORMAT, Record, read_records, write_records
from dvae_lib.experiments.report import Report
from dvae_lib.experiments.scores import evaluate_model
from dvae_lib.experiments.trainings import Interrupted, describe_training, starting_model
from dvae_lib.files import write_atomically
from dvae_lib.locks import lock
from dvae_lib.models.base import DVAE
from dvae_lib.training import NonFiniteError, TrainingResult, fit
from dvae_lib.training.schedules import Number

__all__ = ["Outcome", "Job", "record_of", "run_all", "run_one", "single_device"]

WORKER = "DVAE_BENCHMARK_WORKER"
"""In the environment of a process that another one has started: its number."""

MODEL, TRAINED, TRAINING, EPOCHS = "model", "trained.json", "training", "epochs"


class Job(NamedTuple):
    """A run on a corpus, under a protocol."""

    run: Run
    corpus: ExperimentData
    protocol: Protocol

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.run.name} on {Path(self.corpus.name).name}, seed {self.run.seed}"

    @property
    def starts_from(self) -> "Job | None":
        """The job whose weights this one begins with."""
        return None if self.run.starts_from is None else self._replace(run=self.run.starts_from)

    def folder(self, root: str | Path) -> Path:
        """Where it is kept in the folder of the benchmark."""
        return Path(root) / Path(self.corpus.name).name / self.run.name / f"seed-{self.run.seed}"

    @property
    def key(self) -> tuple[str, Run]:
        """What distinguishes it from the others of a benchmark."""
        return self.corpus.name, self.run


@dataclass
class Outcome:
    """What became of the jobs of one process.

    Attributes:
        records: The results, by corpus and run.
        errors: What went wrong, by the job's name.
        interrupted: Whether a training was interrupted (and saved), so that the rest was not begun.
        reports: The tables that were written.
    """

    records: dict[tuple[str, Run], Record] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    interrupted: bool = False
    reports: list[Report] = field(default_factory=list)


def record_of(job: Job, root: str | Path) -> Record | None:
    """The result of a run that is there already; None where there is none.

    Raises:
        RecordError: Of another version.
        ValueError: Of another protocol or other data.
    """
    path = job.folder(root) / RECORD
    if not path.exists():
        return None
    (record,) = read_records(path)
    wanted: dict[str, Any] = {"budget": job.protocol.budget, "config": job.protocol.config(job.run).to_dict()}
    if record["status"] == "done":
        wanted["options"] = _plain(job.protocol.build(job.run, job.corpus.train.x_dim).options)
    for name, value in wanted.items():
        if record[name] != value:
            raise ValueError(
                f"{path} is a result under another protocol: its {name} is {record[name]}, wanted is {value}. Choose "
                "another folder for this benchmark"
            )
    if record["data"] != (now := job.corpus.facts):
        raise ValueError(
            f"{path} is a result on other data of that name: {record['data']}, and here are {now}. Choose another "
            "folder for this benchmark"
        )
    return record


def run_one(
    job: Job,
    root: str | Path,
    *,
    fabric: Fabric | None = None,
    num_workers: int | None = None,
    progress: bool | None = None,
    train_only: bool = False,
) -> Record | None:
    """Train a model, evaluate it, and write down the result. What is there already is not done again.

    The job's folder holds the state of the training (``training/``), the trained model in half precision (``model/``,
    as it is tested), what is known of its training (``trained.json``) and the result (``record.json``).

    Arguments:
        job: What is trained, on what, and how.
        root: The folder of the benchmark.
        fabric: The device; by default a GPU where there is one.
        num_workers: Processes for the measures of speech; None takes all cores.
        progress: Show a bar for the training; None shows one in terminals.
        train_only: Leave the test to a later call, perhaps on another machine.

    Returns:
        The record; None where the model is trained and `train_only` is wanted. A model that diverged has one too, with
        the status "diverged" and the reason.

    Raises:
        Interrupted: The training was interrupted. It is saved, and goes on with the same call.
        FileNotFoundError: The weights that this run begins with are missing.
    """
    here = job.folder(root)
    found = record_of(job, root)
    if found is not None:
        return found
    fabric = single_device() if fabric is None else fabric
    record = _heading(job)
    try:
        training = _trained(job, root, fabric, progress)
    except NonFiniteError as error:
        record |= {"status": "diverged", "error": str(error), "machine": machine_facts(fabric.device)}
    else:
        if train_only:
            return None
        model = DVAE.from_pretrained(here / MODEL).to(fabric.device).eval()
        started = time.monotonic()
        samples, scheduled = job.protocol.importance_samples, job.run.scheduled
        test = evaluate_model(model, job.corpus, samples, scheduled=scheduled, num_workers=num_workers)
        record |= {
            "status": "done",
            "options": _plain(model.options),
            "weights": sum(p.numel() for p in model.parameters()),
            **{name: value for name, value in training.items() if name != "trained_on"},
            "test": test,
            "judged": {**machine_facts(fabric.device), "seconds": round(time.monotonic() - started, 1)},
        }
    here.mkdir(parents=True, exist_ok=True)
    write_records(here / RECORD, [record])
    return record


def run_all(
    jobs: Sequence[Job],
    root: str | Path,
    *,
    report: Callable[[Job, Record | None], None] | None = None,
    **options: Any,
) -> Outcome:
    """All jobs that no other process has taken, one after the other.

    Started several times on the same folder, by hand, by ``torchrun`` or on several machines that share it, each
    process takes the next job that nobody has. One that fails does not stop the others.

    Arguments:
        jobs: The jobs, in order.
        root: The folder of the benchmark.
        report: Called after each job that this process has done.
        options: See `run_one`.

    Returns:
        The results that are there in the end, and what went wrong.
    """
    done, pending, awaited = Outcome(), list(jobs), {job.key for job in jobs}
    while pending:
        waiting = []
        for job in pending:
            state = _attempt(job, root, done, awaited, options, report)
            if state == "interrupted":
                done.interrupted = True
                return done
            if state == "wait":
                waiting.append(job)
        if len(waiting) == len(pending):
            time.sleep(1.0)  # others are at work
        pending = waiting
    return done


def _attempt(
    job: Job,
    root: str | Path,
    done: Outcome,
    awaited: set[tuple[str, Run]],
    options: dict[str, Any],
    report: Callable[[Job, Record | None], None] | None,
) -> Literal["done", "failed", "interrupted", "wait"]:
    """Do a job, or find out that it is not its turn."""
    first = job.starts_from
    if first is not None and not (job.folder(root) / RECORD).exists():
        failed = first.name in done.errors
        if failed or not (first.folder(root) / TRAINED).exists():
            if first.key in awaited and first.key not in done.records and not failed:
                return "wait"
            done.errors[job.name] = f"it begins with the weights of {first.run.name}, and there are none"
            return "failed"
    with _claim(job.folder(root)) as mine:
        if not mine:
            return "wait"
        new = not (job.folder(root) / RECORD).exists()
        try:
            record = run_one(job, root, **options)
        except Interrupted:
            return "interrupted"
        except (ValueError, TypeError, OSError, RuntimeError, ArithmeticError) as error:
            done.errors[job.name] = f"{type(error).__name__}: {error}"
            return "failed"
    if record is not None:
        done.records[job.key] = record
    if new and report is not None:
        report(job, record)
    return "done"


def single_device(accelerator: str = "auto") -> Fabric:
    """One device for this process; of several GPUs, each process of a machine takes the next."""
    if accelerator in ("auto", "cuda") and torch.cuda.is_available():
        index = int(os.environ.get("LOCAL_RANK", os.environ.get(WORKER, "0")))
        return Fabric(accelerator="cuda", devices=[index % torch.cuda.device_count()])
    return Fabric(accelerator=accelerator, devices=1)


@contextmanager
def _claim(folder: Path) -> Iterator[bool]:
    """Whether this process has the run for itself. The claim ends with the process, however that ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with lock(folder / ".claim", wait=False) as mine:
        yield mine


# ------------------------------------------------------------------------------------------------------- training


def _trained(job: Job, root: str | Path, fabric: Fabric, progress: bool | None) -> dict[str, Any]:
    """What is known of the training, which is done if it has not been."""
    run, corpus, protocol = job
    here, config = job.folder(root), protocol.config(run)
    wanted = {"config": config.to_dict(), "trained_on": {part: corpus.facts[part] for part in ("train", "validation")}}
    if (here / TRAINED).exists():
        found: dict[str, Any] = json.loads((here / TRAINED).read_text(encoding="utf-8"))
        for name, value in wanted.items():
            if found.get(name, value) != value:
                raise ValueError(
                    f"{here} holds a model that was trained otherwise: its {name} is {found[name]}, wanted is {value}. "
                    "Choose another folder for this benchmark"
                )
        return found
    trained = None if job.starts_from is None else job.starts_from.folder(root) / MODEL
    model = starting_model(run.seed, lambda: protocol.build(run, corpus.train.x_dim), trained)
    on_gpu = fabric.device.type == "cuda"
    train, validation = (data.to(fabric.device) if on_gpu else data for data in (corpus.train, corpus.validation))
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(fabric.device)

    def note(model: torch.nn.Module, record: dict[str, Number]) -> None:
        """For whoever counts the epochs of all processes."""
        (here / EPOCHS).write_text(str(record["epoch"]))

    here.mkdir(parents=True, exist_ok=True)
    result = fit(
        model,
        train,
        validation,
        config,
        folder=here / TRAINING,
        fabric=fabric,
        replay=on_gpu,
        callback=note,
        progress=progress,
    )
    if result.stopped == "interrupted":
        raise Interrupted
    facts = {**wanted, **_facts(result, corpus, fabric)}
    made_by = protocol.command or f"dvae benchmark --budget {protocol.budget}"
    describe_training(model, result, config, corpus=corpus.name, made_by=made_by, **corpus.metadata)
    model.save_pretrained(here / MODEL, half=True)
    write_atomically(here / TRAINED, (json.dumps(facts) + "\n").encode())
    return facts


def _facts(result: TrainingResult, corpus: ExperimentData, fabric: Fabric) -> dict[str, Any]:
    history = result.history
    seconds = [float(record["seconds"]) for record in history]
    total = sum(seconds)
    steps = int(history[-1]["step"])
    return {
        "machine": machine_facts(fabric.device),
        "training": {
            "epochs": len(history),
            "steps": steps,
            "best_epoch": result.best_epoch,
            "best_value": result.best_value,
            "stopped": result.stopped,
            # The protocol's own end is early stopping; what was cut off before might have become better.
            "converged": result.stopped == "patience",
            "seconds": round(total, 2),
            "seconds_to_best": round(sum(seconds[: result.best_epoch]), 2),
            "seconds_per_step": total / steps,  # validation included
            "frames_per_second": corpus.train.num_frames * len(history) / total,
            "data_share": sum(float(record["data_seconds"]) for record in history) / total,
            "peak_memory_mb": round(peak_memory(fabric.device)),
            "learning_rate": [float(f"{record['learning_rate']:.6g}") for record in history],
            "curve": {
                part: [float(f"{record[f'{part}_vlb_per_frame']:.6g}") for record in history]
                for part in ("train", "validation")
            },
        },
    }


# --------------------------------------------------------------------------------------------------------- facts


def _heading(job: Job) -> Record:
    run, corpus, protocol = job
    return {
        "format": RECORD_FORMAT,
        "dvae_lib": __version__,
        "corpus": Path(corpus.name).name,
        "experiment": corpus.experiment,
        "model": run.model,
        "scheduled": run.scheduled,
        "seed": run.seed,
        "budget": protocol.budget,
        "config": protocol.config(run).to_dict(),
        "data": corpus.facts,
    }


def _plain(value: Any) -> Any:
    """As it comes back from a file: tuples are lists, and what JSON does not know is its text."""
    return json.loads(json.dumps(value, default=repr))
