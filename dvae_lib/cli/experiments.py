"""``dvae benchmark`` and ``dvae report``: repeat the review's experiments, and make their tables and figures."""

import os
import sys
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dvae_lib.cli import console
from dvae_lib.cli.console import INTERRUPTED
from dvae_lib.cli.options import INPUTS, Accelerator, Inputs
from dvae_lib.data.catalogue import Corpus, corpus_info

if TYPE_CHECKING:
    from dvae_lib.experiments import Report

__all__ = ["benchmark", "report"]


class BudgetOption(str, Enum):
    """How much work."""

    ci = "ci"
    book = "book"
    full = "full"


def benchmark(
    folder: Annotated[
        Path,
        typer.Argument(help="Where the runs and results are kept. What is there is not done again.", file_okay=False),
    ],
    corpus: Annotated[
        list[str] | None,
        typer.Option(
            "--corpus",
            "-c",
            help="Speech: librispeech, prompts, wsj0 or a folder of audio; motion: mocap (CMU and HDM05), cmu, hdm05, "
            "h36m. Several: repeat the option.",
            metavar="NAME",
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            help="A model, or MODEL-scheduled; several: repeat the option. Default: all.",
            metavar="NAME",
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="So many seeds: 0, 1, ...")] = 1,
    budget: Annotated[
        BudgetOption, typer.Option(help="full: the review's protocol; book: what the book shows; ci: seconds.")
    ] = BudgetOption.book,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, help="Runs at once, each in a process of its own.")] = 1,
    inputs: Annotated[Inputs | None, INPUTS] = None,
    train_only: Annotated[bool, typer.Option("--train-only", help="Judge later, perhaps elsewhere.")] = False,
    accelerator: Annotated[Accelerator, typer.Option(help="Where to compute.")] = Accelerator.auto,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
) -> None:
    """Repeat the review's experiments (Chapter 13): train the models, judge them on held-out people, make the tables.

    Ctrl-C stops and saves; the same command goes on. Started several times on one folder, by --jobs, by torchrun or on
    several machines that share it, each process takes the next run that nobody has. A run that fails, or a corpus that
    is not here, does not stop the others: what went wrong is said at the end.

    [bold]Examples[/]

    dvae benchmark runs/benchmark --corpus librispeech --corpus mocap --seeds 3

    dvae benchmark runs/quick --corpus prompts --model vae --model srnn --budget ci

    torchrun --nproc-per-node 8 -m dvae_lib.cli benchmark runs/benchmark --corpus librispeech --budget full
    """
    import matplotlib.pyplot as plt

    from dvae_lib.experiments import run

    plt.switch_backend("agg")
    if not corpus:
        corpus = ["librispeech"]
        _ask_before_fetching(corpus_info("librispeech"))
    outcome = run(
        folder,
        corpus,
        model,
        seeds=seeds,
        budget=budget.value,
        jobs=jobs,
        train_only=train_only,
        inputs=None if inputs is None else inputs.value,
        accelerator=accelerator.value,
        progress=not quiet and console.err.is_terminal,
        say=None if quiet else partial(console.out.print, soft_wrap=True, highlight=False, markup=False),
    )
    _print_reports(outcome.reports)
    for name, text in outcome.errors.items():
        console.err.print(f"{name}: {text}", soft_wrap=True, highlight=False, markup=False)
    if outcome.interrupted:
        console.out.print("Interrupted and saved; the same command goes on.")
        raise typer.Exit(INTERRUPTED)
    if outcome.errors:
        raise typer.Exit(1)


def _ask_before_fetching(info: Corpus) -> None:
    """Nobody asked for this corpus by name: where somebody can answer, ask before much is downloaded."""
    from dvae_lib.experiments.runs import WORKER

    if info.folder is not None or WORKER in os.environ or not (sys.stdin.isatty() and console.err.is_terminal):
        return
    console.out.print(
        f"No --corpus was given. The default is {info.name}, which is not here ({info.size}).", highlight=False
    )
    typer.confirm("Fetch it?", default=True, abort=True)


def report(
    results: Annotated[
        list[Path], typer.Argument(help="Result files, or folders of the benchmark, from one or many machines.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for tables and figures.", metavar="FOLDER", file_okay=False)
    ],
    figures: Annotated[bool, typer.Option(help="Draw figures, too.")] = True,
) -> None:
    """Make the tables (Markdown, LaTeX, CSV) and figures of the benchmark from its result files alone.

    [bold]Example[/]: dvae report runs/benchmark -o report
    """
    import matplotlib.pyplot as plt

    from dvae_lib.experiments import collect, write_report

    plt.switch_backend("agg")

    found, problems = collect(results)
    for text in problems:
        console.err.print(text, soft_wrap=True, highlight=False, markup=False)
    if not found:
        raise ValueError("These files and folders hold no result of the benchmark that can be read")
    _print_reports(write_report(found, output, figures=figures))
    if problems:
        raise typer.Exit(1)


def _print_reports(reports: "list[Report]") -> None:
    for report in reports:
        console.out.print(
            f"{report.corpus} ({report.budget}): {report.stem}.md, .tex, .csv, .json", soft_wrap=True, highlight=False
        )
        console.out.print(report.table, soft_wrap=True, highlight=False, markup=False)
