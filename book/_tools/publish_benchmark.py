"""Take the results of the benchmark into the book: result files, and the trained models with a card each.

    python book/_tools/publish_benchmark.py runs/benchmark

Writes `data/results/benchmark-CORPUS.json` (all runs of budget "book" on that corpus), and for the runs with seed 0 the
weights as `data/pretrained/MODEL-CORPUS` (with scheduled sampling: `MODEL-CORPUS-scheduled`), each with a `README.md`
that says what the model is, what it was trained on, and how it scored.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from dvae_lib.experiments import LABELS, Record, Run, collect, markdown_table, summarise, write_records
from dvae_lib.files import write_atomically
from dvae_lib.models import DVAE

ROOT = Path(__file__).resolve().parents[2]
BUDGET = "book"


def name_of(record: Record) -> str:
    """What the weights of a run are called."""
    return f"{record['model']}-{record['corpus']}" + "-scheduled" * record["scheduled"]


def card(record: Record, model: DVAE) -> str:
    """The model card."""
    name, metadata, training = name_of(record), model.metadata, record["training"]
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


def publish(record: Record, runs: Path) -> None:
    """The weights of a run, and their card."""
    run = Run(record["model"], record["scheduled"], record["seed"])
    source = runs / record["corpus"] / run.name / f"seed-{run.seed}" / "model"
    if not source.is_dir():
        print(f"{source} is not there; the weights that are in place stay")
        return
    name = name_of(record)
    shelves = (ROOT / "data/pretrained_on_request", ROOT / "data/pretrained")
    folder = next((shelf / name for shelf in shelves if (shelf / name).is_dir()), shelves[-1] / name)
    shutil.copytree(source, folder, dirs_exist_ok=True)
    write_atomically(folder / "README.md", card(record, DVAE.from_pretrained(folder)).encode())
    print(folder.name)


def main() -> None:
    """Command line."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("runs", type=Path)
    chosen = options.parse_args()
    records, problems = collect([chosen.runs])
    records = [record for record in records if record["budget"] == BUDGET]
    for corpus in sorted({record["corpus"] for record in records}):
        these = [record for record in records if record["corpus"] == corpus]
        write_records(ROOT / f"data/results/benchmark-{corpus}.json", these)
        print(f"benchmark-{corpus}.json: {len(these)} runs")
    for record in records:
        if record["seed"] == 0 and record["status"] == "done":
            publish(record, chosen.runs)
    if problems:
        raise SystemExit("\n".join(problems))


if __name__ == "__main__":
    main()
