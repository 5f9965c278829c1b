"""What one sees of an experiment while it runs."""

import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from tqdm import tqdm

from dvae_lib.experiments.records import RECORD, Record
from dvae_lib.experiments.runs import EPOCHS, TRAINED, Job

__all__ = ["Progress"]


class Progress:
    """A bar over the epochs of all runs, whichever process makes them, with the time that remains.

    The time is an upper bound, since early stopping may end a run before its last epoch, and an estimate, since models
    differ in speed.

    Arguments:
        jobs: All that is to be done.
        root: The folder of the experiment.
        enabled: Show it.
        interval: Seconds between two looks at the folder.
    """

    def __init__(self, jobs: Sequence[Job], root: str | Path, *, enabled: bool, interval: float = 1.0) -> None:
        self.jobs, self.root, self.enabled, self.interval = list(jobs), Path(root), enabled, interval
        self._end = threading.Event()
        self._watcher: threading.Thread | None = None

    def epochs(self) -> int:
        """Epochs made; those that early stopping saved count as made."""
        return sum(epochs_of(job, self.root) for job in self.jobs)

    @property
    def total(self) -> int:
        """Epochs of all runs, at most."""
        return sum(job.protocol.config(job.run).max_epochs for job in self.jobs)

    def __enter__(self) -> "Progress":
        if self.enabled and self.jobs:
            self._watcher = threading.Thread(target=self._watch, daemon=True)
            self._watcher.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        if self._watcher is not None:
            self._watcher.join()

    def _watch(self) -> None:
        with tqdm(total=self.total, initial=self.epochs(), unit="epoch", desc="experiment", smoothing=0.1) as bar:
            while not self._end.wait(self.interval):
                self._update(bar)
            self._update(bar)

    def _update(self, bar: Any) -> None:
        bar.update(self.epochs() - bar.n)
        done = sum((job.folder(self.root) / RECORD).exists() for job in self.jobs)
        bar.set_postfix_str(f"{done} of {len(self.jobs)} runs tested")

    @staticmethod
    def plan(jobs: Sequence[Job], root: str | Path) -> str:
        """What will be done, before it is."""
        left = [job for job in jobs if not (job.folder(root) / RECORD).exists()]
        epochs = sum(job.protocol.config(job.run).max_epochs - epochs_of(job, root) for job in left)
        corpora = {job.corpus.name: job.corpus for job in jobs}
        lines = [
            f"{name}: {len(corpus.train)} training, {len(corpus.validation)} validation, {len(corpus.test)} test "
            "sequences"
            for name, corpus in corpora.items()
        ]
        return "\n".join(
            [*lines, f"{len(left)} of {len(jobs)} runs to do, at most {epochs:,} epochs; results in {root}"]
        )

    @staticmethod
    def line(job: Job, record: Record | None) -> str:
        """What a run came to, on one line."""
        if record is None:
            return f"{job.name}: trained"
        if record["status"] == "diverged":
            return f"{job.name}: diverged ({record['error']})"
        training = record["training"]
        test = "; ".join(f"{row['mode']} {row['vlb']:.1f} nats per frame" for row in record["test"])
        return f"{job.name}: {test} (best of {training['epochs']} epochs: {training['best_epoch']})"


def epochs_of(job: Job, root: str | Path) -> int:
    """Epochs of a run that are made; all, once it has ended."""
    here = job.folder(root)
    if (here / TRAINED).exists() or (here / RECORD).exists():
        return job.protocol.config(job.run).max_epochs
    try:
        return int((here / EPOCHS).read_text())
    except (OSError, ValueError):
        return 0
