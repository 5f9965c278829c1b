"""The results of the benchmark, taken into the book: result files, and the trained models with a card each.

    python -m dvae_lib.experiments.publish runs/benchmark

Writes data/results/benchmark-CORPUS.json (all runs of budget "book" on that corpus), and for the runs with seed 0 the
weights as data/pretrained/MODEL-CORPUS (with scheduled sampling: MODEL-CORPUS-scheduled), or in
data/pretrained_on_request where they stand there already, each with a README.md that says what the model is, what it
was trained on, and how it scored.
"""

import argparse
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from dvae_lib.experiments.protocol import SCHEDULED_ENDING, BudgetName, Run
from dvae_lib.experiments.records import Record, collect, write_records
from dvae_lib.experiments.review import LABELS
from dvae_lib.experiments.runs import MODEL
from dvae_lib.experiments.tables import markdown_table, summarise
from dvae_lib.experiments.trainings import shelf
from dvae_lib.files import write_atomically
from dvae_lib.models import DVAE

__all__ = ["main", "model_card", "publish", "weights_name"]


def weights_name(record: Record) -> str:
    """What the weights of a run are called."""
    ending = SCHEDULED_ENDING if record["scheduled"] else ""
    return f"{record['model']}-{record['corpus']}{ending}"


def model_card(record: Record, model: DVAE) -> str:
    """The card of a trained model: what it is, how it was made, how it scored, and what it is for.

    Arguments:
        record: Its result.
        model: The model, with its metadata.
    """
    name, metadata, training = weights_name(record), model.metadata, record["training"]
    data = record["data"]
    how = (
        "trained with teacher forcing, then with scheduled sampling until it hears only itself (Section 13.3.3)"
        if record["scheduled"]
        else "trained as in Section 13.2.3 of the review"
    )
    what = (
        "Power spectra of speech: 16 kHz, 1,024-sample sine window, hop 256, 513 bins, Gamma likelihood."
        if record["experiment"] == "speech"
        else "Human motion: 31 joints, 93 coordinates in metres about the root, 30 frames a second; Gaussian "
        "likelihood with a standard deviation of one centimetre."
    )
    ended = "the validation bound had stopped rising" if training["converged"] else "the cap on epochs ended it"
    table = markdown_table(summarise([record]), review=False)
    return f"""# {name}

{LABELS[record["model"]]}, {how}, seed {record["seed"]}. {record["weights"]:,} weights, in half precision.

{what}

```python
from dvae_lib import DVAE

model = DVAE.from_pretrained("{name}")
```

*Data.* {metadata["attribution"]} ({metadata["licence"]}). Training {data["train"]["frames"]:,} frames, validation
{data["validation"]["frames"]:,}, test {data["test"]["frames"]:,}; nobody is in two parts.

*Training.* `{metadata["made_by"]}`: {training["epochs"]} epochs, the best of them number {training["best_epoch"]}
({ended}); {training["seconds"]:.0f} s on {record["machine"]["device"]}, torch {record["machine"]["torch"]}.

*Test*, as stored:

{table}
*Use.* For teaching and as a starting point. It knows the people, rooms and movements of a small corpus and no others;
it is no product, and what it generates is nobody's voice or gait.
"""


def publish(
    runs: str | Path, data: str | Path, *, budget: BudgetName = "book", say: Callable[[str], None] = print
) -> list[str]:
    """Write result files, trained models and their cards.

    Arguments:
        runs: Folder of the benchmark.
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
        write_records(data / f"results/benchmark-{corpus}.json", these)
        say(f"benchmark-{corpus}.json: {len(these)} runs")
    for record in records:
        if record["seed"] == 0 and record["status"] == "done":
            run = Run(record["model"], record["scheduled"], 0)
            source, name = runs / record["corpus"] / run.name / "seed-0" / MODEL, weights_name(record)
            if not source.is_dir():
                say(f"{source} is not there; the weights that are in place stay")
                continue
            folder = shelf(name, data) / name
            shutil.copytree(source, folder, dirs_exist_ok=True)
            write_atomically(folder / "README.md", model_card(record, DVAE.from_pretrained(folder)).encode())
            say(folder.name)
    return problems


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("runs", type=Path)
    options.add_argument("--data", type=Path, default=Path("data"))
    chosen = options.parse_args(arguments)
    problems = publish(chosen.runs, chosen.data)
    for problem in problems:
        print(problem, file=sys.stderr)
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
