"""``dvae forecast``, ``dvae impute`` and ``dvae score``: a trained model on a series of your own."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from dvae_lib.cli import console
from dvae_lib.cli.outputs import check_output

if TYPE_CHECKING:
    from dvae_lib.data.steps import TimeSteps

__all__ = ["forecast", "impute", "score"]

MODEL = Annotated[str, typer.Argument(help="Folder of a run or of a saved model.")]
SERIES = Annotated[
    Path,
    typer.Argument(
        help="One series: a CSV file, a row for each frame, with the columns of the training (by their names); or a "
        ".npy file (T, x_dim)."
    ),
]
INPUTS = Annotated[
    Path | None, typer.Option("--inputs", help="Inputs of a driven model, one row a frame; a forecast's reach ahead.")
]
OUTPUT = Annotated[
    Path | None, typer.Option("--output", "-o", help="Write the CSV here. Default: print it.", metavar="FILE")
]
LEVELS = (0.05, 0.5, 0.95)
QUANTILES = Annotated[
    list[float] | None,
    typer.Option("--quantile", "-q", help=f"A level between 0 and 1; may be repeated. Default: {LEVELS}."),
]
OVERWRITE = Annotated[bool, typer.Option("--overwrite", help="Allow to write over the series.")]
SEED = Annotated[int, typer.Option(min=0, help="Of the samples.")]


def forecast(
    model: MODEL,
    series: SERIES,
    steps: Annotated[int | None, typer.Option(min=1, help="Frames to come. Default: 10, or as many as --at.")] = None,
    at: Annotated[
        list[str] | None,
        typer.Option(
            "--at",
            metavar="TIME",
            help="Of a model that was trained with --time-steps: when a frame to come is; once for each. Default: in "
            "median steps.",
        ),
    ] = None,
    quantile: QUANTILES = None,
    samples: Annotated[int, typer.Option(min=1, help="Futures that are drawn.")] = 1000,
    inputs: INPUTS = None,
    output: OUTPUT = None,
    overwrite: OVERWRITE = False,
    seed: SEED = 0,
) -> None:
    """Say what comes after a series: mean and quantiles of each value, in the units of the data.

    Empty cells are taken for missing values.

    [bold]Example[/]

    dvae forecast runs/mine series.csv --steps 12 -o next.csv

    dvae forecast runs/visits visits.csv --at 2024-03-02 --at 2024-03-09
    """
    if at and steps not in (None, len(at)):
        raise typer.BadParameter(f"{steps} frames to come, but {len(at)} --at; leave --steps out", param_hint="--steps")
    trained, x, names = _opened(model, series, inputs, output, overwrite)
    options: dict[str, Any] = {"quantiles": quantile or LEVELS, "num_samples": samples, "seed": seed, "missing": True}
    if at:
        options["future_times"] = _moments(at)
    found = trained.forecast(x, steps or len(at or ()) or 10, inputs=_numbers(inputs, trained), **options)
    _write(output, names, len(x), found.mean, found.quantiles)


def impute(
    model: MODEL,
    series: SERIES,
    quantile: QUANTILES = None,
    samples: Annotated[int, typer.Option(min=1, help="Samples that are drawn.")] = 200,
    inputs: INPUTS = None,
    output: OUTPUT = None,
    overwrite: OVERWRITE = False,
    seed: SEED = 0,
) -> None:
    """Fill in the empty cells of a series, with quantiles, looking back and ahead.

    [bold]Example[/]

    dvae impute runs/mine series.csv -o filled.csv
    """
    trained, x, names = _opened(model, series, inputs, output, overwrite)
    found = trained.impute(
        x, inputs=_numbers(inputs, trained), quantiles=quantile or LEVELS, num_samples=samples, seed=seed
    )
    _write(output, names, 0, found.mean, found.quantiles)


def score(
    model: MODEL,
    series: SERIES,
    particles: Annotated[int, typer.Option(min=1, help="Of the particle filter.")] = 200,
    inputs: INPUTS = None,
    output: OUTPUT = None,
    overwrite: OVERWRITE = False,
    seed: SEED = 0,
) -> None:
    """Say how expected each frame of a series was: its log-density given the past, in nats. Odd frames score low.

    [bold]Example[/]

    dvae score runs/mine series.csv -o scores.csv
    """
    trained, x, _ = _opened(model, series, inputs, output, overwrite)
    found = trained.score(x, inputs=_numbers(inputs, trained), num_particles=particles, missing=True, seed=seed)
    _write(output, ["log_density"], 0, found.to_frame() if hasattr(found, "iloc") else found[:, None], {})


def _opened(
    model: str, series: Path, inputs: Path | None, output: Path | None, overwrite: bool
) -> tuple[Any, Any, list[str]]:
    """The model, and the series with the names of its columns. What would fail at the end fails now."""
    from dvae_lib.series import TrainedModel

    if output is not None:
        for file, what in ((series, "the series"), (inputs, "the file of the inputs")):
            if file is not None:
                check_output(file, output, what, overwrite=overwrite)
    trained = TrainedModel.from_pretrained(model)
    x, names = _read(series, trained.columns, trained.time_steps)
    return trained, x, names


def _read(
    file: Path, columns: Sequence[str] | None = None, time_steps: "TimeSteps | None" = None
) -> tuple[Any, list[str]]:
    """The numbers of a file and the names of its columns: in a CSV file found by the names of the training.

    Where a CSV file has dates at a rhythm, or the model reads steps of time, the numbers are a DataFrame with these.
    """
    from dvae_lib.data.own_files import read_numpy
    from dvae_lib.data.tables import read_csv_folder

    if not file.is_file():
        raise FileNotFoundError(f"There is no file {file}: expected one CSV or NumPy file")
    if file.suffix.lower() == ".csv":
        column = None if time_steps is None else time_steps.column
        options: dict[str, Any] = {"time": column, "uneven": time_steps is not None}
        (table,) = read_csv_folder(file, columns=columns, missing=True, **options)
        when = table.times.index if time_steps is None else table.times.moments
        if when is None or (time_steps is None and (table.times.frequency is None or columns is None)):
            return table.values, list(table.names)
        import pandas as pd  # by which dates are read

        return pd.DataFrame(table.values, pd.Index(when, name="time"), list(table.names)), list(table.names)
    if time_steps is not None:
        raise ValueError(f"{file} has no times, whose steps the model reads: expected a CSV file with their column")
    if file.suffix.lower() not in (".npy", ".npz"):
        raise ValueError(f"{file} is not a series: expected one CSV or NumPy file")
    found = read_numpy(file)
    if len(found) != 1:
        raise ValueError(f"{file} holds {len(found)} sequences; expected one. Write the one you mean into its own file")
    (x,) = found.values()
    known = columns is not None and len(columns) == x.shape[1]
    return x, list(columns or ()) if known else [str(i) for i in range(x.shape[1])]


def _numbers(file: Path | None, trained: Any) -> Any:
    return None if file is None else _read(file, trained.input_columns)[0]


def _moments(at: Sequence[str]) -> Any:
    """Dates or numbers, as they stand on the command line."""
    from dvae_lib.data.times import read_times

    try:
        return np.array([float(text) for text in at])
    except ValueError:
        return read_times(at, [None] * len(at), [f"--at {text}" for text in at], asked=True, uneven=True).moments


def _dates(index: Any) -> list[str]:
    """Times as text: days alone where all are."""
    if not hasattr(index, "normalize"):
        return [str(time).removesuffix(".0") for time in index]
    days = bool((index == index.normalize()).all())
    return [str(time.date() if days else time) for time in index]


def _write(output: Path | None, names: Sequence[str], start: int, mean: Any, quantiles: dict[float, Any]) -> None:
    """A CSV: the frame's time, or its number where it has none, then the columns and their quantiles.

    So many digits give a measured number back as it was written, also one that is large against its changes.
    """
    from dvae_lib.files import write_atomically

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    times = _dates(mean.index) if hasattr(mean, "iloc") else None
    writer.writerow(
        ["frame" if times is None else "time", *names, *(f"{name} q{level:g}" for level in quantiles for name in names)]
    )
    rows = np.concatenate([mean, *quantiles.values()], axis=1)
    first = range(start, start + len(rows)) if times is None else times
    writer.writerows([when, *(f"{value:.15g}" for value in row)] for when, row in zip(first, rows, strict=True))
    if output is None:
        typer.echo(text.getvalue(), nl=False)
        return
    write_atomically(output, text.getvalue().encode())
    console.out.print(f"Written: {output}", soft_wrap=True, highlight=False)
