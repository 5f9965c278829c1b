"""Results of trainings, taken into the book: result files, and the trained models with a card each.

    python -m dvae_lib.experiments.publish runs/benchmark
    python -m dvae_lib.experiments.publish runs/speech-long --budget long

Writes data/results/benchmark-CORPUS.json (all runs of budget "book" on that corpus) or data/results/speech-long.json,
and for the runs with seed 0 the weights as data/pretrained/MODEL-CORPUS (with scheduled sampling:
MODEL-CORPUS-scheduled; models of speech whose networks read powers end in -power), or in
data/pretrained_on_request where they stand there already. Each has a README.md that says what the model is, what it was
trained on, and how it scored. Where the weights are in place and the runs are gone, a file of results in the place of
the runs writes the cards anew. The checksums of what is downloaded on request go into data/pretrained_on_request.csv.
"""

import argparse
import csv
import hashlib
import io
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from dvae_lib.data.pretrained import ON_REQUEST
from dvae_lib.experiments.protocol import SCHEDULED_ENDING, Run
from dvae_lib.experiments.records import Record, collect, write_records
from dvae_lib.experiments.review import LABELS
from dvae_lib.experiments.runs import MODEL
from dvae_lib.experiments.tables import markdown_table, summarise
from dvae_lib.experiments.trainings import shelf
from dvae_lib.files import write_atomically
from dvae_lib.models import DVAE
from dvae_lib.models.reading import POWER

__all__ = ["BUDGETS", "main", "model_card", "publish", "weights_name", "write_checksums"]

BUDGETS = ("book", "long")
"""What can be published: the benchmark, and the long trainings of speech."""


def weights_name(record: Record) -> str:
    """What the weights of a run are called."""
    ending = SCHEDULED_ENDING if record["scheduled"] else ""
    reads = "log_power" if record["budget"] == "long" else record["config"].get("inputs", POWER)
    if record["experiment"] == "speech" and reads == POWER:
        ending += f"-{POWER}"
    return f"{record['model']}-{record['corpus']}{ending}"


def _results_name(corpus: str, budget: str) -> str:
    return "speech-long.json" if budget == "long" else f"benchmark-{corpus}.json"


def model_card(record: Record, model: DVAE) -> str:
    """The card of a trained model: what it is, how it was made, how it scored, and what it is for.

    Arguments:
        record: Its result.
        model: The model, with its metadata.
    """
    name, metadata, training = weights_name(record), model.metadata, record["training"]
    data = record["data"]
    how, ended = _how(record)
    what = (
        "Power spectra of speech: 16 kHz, 1,024-sample sine window, hop 256, 513 bins, Gamma likelihood. The networks "
        f"read {READ[model.inputs]}."
        if record["experiment"] == "speech"
        else "Human motion: 31 joints, 93 coordinates in metres about the root, 30 frames a second; Gaussian "
        "likelihood with a standard deviation of one centimetre."
    )
    overlap = ", of sequences that overlap" if record["budget"] == "long" else ""
    table = markdown_table(summarise([record]), review=False)
    return f"""# {name}

{LABELS[record["model"]]}, {how}, seed {record["seed"]}. {record["weights"]:,} weights, in half precision.

{what}

```python
from dvae_lib import DVAE

model = DVAE.from_pretrained("{name}")
```

*Data.* {metadata["attribution"]} ({metadata["licence"]}). Training {data["train"]["frames"]:,} frames{overlap},
validation {data["validation"]["frames"]:,}, test {data["test"]["frames"]:,}; nobody is in two parts.

*Training.* `{metadata["made_by"]}`: {training["epochs"]} epochs, the best of them number {training["best_epoch"]}
({ended}); {training["seconds"]:.0f} s on {record["machine"]["device"]}, torch {record["machine"]["torch"]}.

*Test*, as stored:

{table}
*Use.* For teaching and as a starting point. It knows the people, rooms and movements of a small corpus and no others;
it is no product, and what it generates is nobody's voice or gait.
"""


READ = {POWER: "the powers", "log_power": "their logarithms, standardised by bin"}
"""What networks read, in words, by its name."""


def _how(record: Record) -> tuple[str, str]:
    """How a model was trained, and what ended it, in words."""
    if record["training"]["converged"]:
        ended = "the validation bound had stopped rising"
    elif record["budget"] == "long":
        ended = "a fixed budget, over which the learning rate falls"
    else:
        ended = "the cap on epochs ended it"
    if record["scheduled"]:
        how = "trained with teacher forcing, then with scheduled sampling until it hears only itself (Section 13.3.3)"
        return how, ended
    if record["budget"] == "long":
        return "trained as well as the recordings allow (the second block of Table 13.1)", ended
    return "trained as in Section 13.2.3 of the review", ended


def publish(
    runs: str | Path, data: str | Path, *, budget: str = "book", say: Callable[[str], None] = print
) -> list[str]:
    """Write result files, trained models and their cards.

    Arguments:
        runs: Folder of the runs, or a file of their results.
        data: The folder whose `results` and `pretrained` are written.
        budget: The budget of the runs that are taken.
        say: Called with a line for each thing that is written, or is not there.

    Returns:
        What was wrong with results that cannot be read.
    """
    runs, data = Path(runs), Path(data)
    found, problems = collect([runs])
    records = [record for record in found if record["budget"] == budget]
    (data / "results").mkdir(parents=True, exist_ok=True)
    for corpus in sorted({record["corpus"] for record in records}):
        these = [record for record in records if record["corpus"] == corpus]
        write_records(data / "results" / _results_name(corpus, budget), these)
        say(f"{_results_name(corpus, budget)}: {len(these)} runs")
    for record in records:
        if record["seed"] == 0 and record["status"] == "done":
            _publish_weights(record, runs, data, say)
    write_checksums(data)
    return problems


def _publish_weights(record: Record, runs: Path, data: Path, say: Callable[[str], None]) -> None:
    """A model and its card; the card alone where the weights are in place and the run is gone."""
    run, name = Run(record["model"], record["scheduled"], 0), weights_name(record)
    source, folder = runs / record["corpus"] / run.name / "seed-0" / MODEL, shelf(name, data) / name
    if source.is_dir():
        shutil.copytree(source, folder, dirs_exist_ok=True)
    else:
        say(f"{source} is not there; the weights that are in place stay")
        if not folder.is_dir():
            return
    write_atomically(folder / "README.md", model_card(record, DVAE.from_pretrained(folder)).encode())
    say(name)


def write_checksums(data: str | Path) -> None:
    """Write down the sha256 of the files of all models that are downloaded on request.

    Arguments:
        data: The folder that holds `pretrained_on_request`; its list stands beside it.
    """
    home, text = Path(data) / ON_REQUEST, io.StringIO()
    files = {path.relative_to(home).as_posix(): path for path in home.glob("*/*")}
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("file", "sha256"))
    writer.writerows((name, hashlib.sha256(files[name].read_bytes()).hexdigest()) for name in sorted(files))
    write_atomically(home.with_suffix(".csv"), text.getvalue().encode())


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("runs", type=Path)
    options.add_argument("--data", type=Path, default=Path("data"))
    options.add_argument("--budget", choices=BUDGETS, default=BUDGETS[0], help="of the runs that are published")
    chosen = options.parse_args(arguments)
    problems = publish(chosen.runs, chosen.data, budget=chosen.budget)
    for problem in problems:
        print(problem, file=sys.stderr)
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
