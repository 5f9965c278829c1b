"""``dvae evaluate``: judge a trained model by analysis and resynthesis."""

import json
import re
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.table import Table

from dvae_lib._version import __version__
from dvae_lib.cli import console
from dvae_lib.cli.options import CORPUS, DATA, LIMIT, Accelerator
from dvae_lib.cli.outputs import check_folder
from dvae_lib.metrics import METRICS, SPEECH_METRICS, ScoreTable
from dvae_lib.models import DVAE

__all__ = ["evaluate"]


class Latents(str, Enum):
    """What the reconstruction is conditioned on."""

    sample = "sample"
    mean = "mean"


def evaluate(
    model: Annotated[str, typer.Argument(help="Folder of a run or of a saved model, or the name of one that ships.")],
    corpus: CORPUS = None,
    data: DATA = None,
    limit: LIMIT = None,
    metrics: Annotated[
        list[str] | None,
        typer.Option("--metric", "-m", help=f"For speech: {', '.join(SPEECH_METRICS)}. Default: all installed."),
    ] = None,
    latents: Annotated[Latents, typer.Option(help="A sample of the posterior, or its mean.")] = Latents.sample,
    feedback: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="0: teacher forcing; 1: generation mode (Section 13.3.3).")
    ] = 0.0,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Write here: .json or .csv. Default: both, into the run's folder.", metavar="FILE"
        ),
    ] = None,
    workers: Annotated[int | None, typer.Option(min=0, help="Processes for the metrics. Default: all cores.")] = None,
    accelerator: Annotated[Accelerator, typer.Option(help="Where to compute.")] = Accelerator.auto,
    seed: Annotated[int, typer.Option(min=0, help="Of the latents' noise.")] = 0,
) -> None:
    """Judge a model by analysis and resynthesis.

    The test part of what it was trained on is taken, or that of another corpus; of your own sequences never one that
    it was trained with. Speech is compared as sound: SI-SDR,
    PESQ (narrow- and wide-band), ESTOI. Other sequences are compared in the units of their data. The variational
    lower bound stands beside these.

    [bold]Examples[/]

    dvae evaluate runs/vae

    dvae evaluate vae-prompts

    dvae evaluate runs/vae --corpus librispeech --limit 20 -o librispeech.csv
    """
    from dvae_lib.evaluation import analysis_resynthesis, evaluation_source, score_sequences
    from dvae_lib.files import write_atomically
    from dvae_lib.training import training_fabric

    if output is not None and output.suffix not in (".json", ".csv"):
        raise typer.BadParameter("the file must end in .json or .csv", param_hint="--output")
    if output is not None:
        check_folder(output)
    chosen = _chosen(metrics)
    folder = Path(model)
    network = DVAE.from_pretrained(model)
    network.to(training_fabric(accelerator=accelerator.value).device)
    source = evaluation_source(network, data or corpus, limit=limit)
    generator = torch.Generator(next(network.parameters()).device).manual_seed(seed)
    common: dict[str, Any] = {"latents": latents.value, "feedback": feedback, "generator": generator}
    if source.kind == "speech":
        recordings = source.test_recordings
        table = analysis_resynthesis(
            network,
            [recording.path for recording in recordings],
            names=[recording.name for recording in recordings],
            metrics=chosen,
            num_workers=workers,
            progress=console.err.is_terminal,
            **common,
        )
    else:
        table = score_sequences(
            network, source.parts.test, positions="m" if source.kind == "motion" else None, **common
        )
    _print_scores(table, f"{model} on the test part of {source.name} ({len(table)} sequences)")
    about = {
        "model": model,
        "dvae_lib": __version__,
        **source.metadata,
        "part": "test",
        "latents": latents.value,
        "feedback": feedback,
        "seed": seed,
    }
    special = [
        *([_stem(source.name)] if corpus is not None or data is not None else []),
        *([f"limit-{limit}"] if limit is not None else []),
        *([latents.value] if latents != Latents.sample else []),
        *([f"feedback-{feedback:g}"] if feedback else []),
        *([f"seed-{seed}"] if seed else []),
        *(chosen or []),
    ]
    for file in _outputs(output, folder, special):
        text = table.to_csv() if file.suffix == ".csv" else json.dumps({**about, **table.to_dict()}, indent=2) + "\n"
        write_atomically(file, text.encode())
        console.out.print(f"Written: {file}", soft_wrap=True, highlight=False)


def _chosen(metrics: list[str] | None) -> list[str] | None:
    for metric in metrics or []:
        if metric not in SPEECH_METRICS:
            raise typer.BadParameter(f"{metric!r} is none of {', '.join(SPEECH_METRICS)}", param_hint="--metric")
    return metrics or None


def _outputs(output: Path | None, folder: Path, special: list[str]) -> list[Path]:
    """Where scores go. What was judged otherwise than by default has files of its own beside the run's."""
    if output is not None:
        return [output]
    stem = "-".join(["evaluation", *special])
    return [folder / f"{stem}.json", folder / f"{stem}.csv"] if folder.is_dir() else []


def _stem(name: str) -> str:
    return re.sub(r"[^\w.-]+", "_", Path(name).stem)


def _print_scores(scores: ScoreTable, title: str) -> None:
    titles, *lines = scores.printed()
    table = Table(*titles, "better", title=title, title_justify="left")
    for line, metric in zip(lines, scores.columns, strict=True):
        table.add_row(*line, "higher" if METRICS[metric].higher_is_better else "lower")
    console.out.print(table)
    missing: dict[tuple[str, str], list[str]] = {}
    for (name, measure), reason in scores.reasons.items():
        missing.setdefault((measure, reason), []).append(name)
    for (measure, reason), names in missing.items():
        of = ", ".join(names) if len(names) < 4 else f"{len(names)} recordings"
        console.err.print(
            f"No {METRICS[measure].label} for {of}: {reason}.", soft_wrap=True, highlight=False, markup=False
        )
