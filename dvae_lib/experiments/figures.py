"""Figures from result files: how the bounds rose, and how the models compare."""

import math
from collections.abc import Sequence

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dvae_lib.experiments.pairs import Blocks, differences
from dvae_lib.experiments.records import Record
from dvae_lib.experiments.review import LABELS, REVIEW
from dvae_lib.experiments.tables import COLUMNS, ResultRow
from dvae_lib.training.schedules import Schedule

# There are more models than colours.
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")

__all__ = ["plot_collapse", "plot_curves", "plot_differences", "plot_scores"]


def plot_curves(
    records: Sequence[Record],
    *,
    scheduled: bool = False,
    part: str = "validation",
    beside: str | None = None,
    rate: bool = False,
    columns: int = 4,
) -> Figure:
    """The bound of every model over the epochs, one small panel for each; lines are seeds, dots the best epochs.

    Arguments:
        records: Of one corpus.
        scheduled: Show the trainings by scheduled sampling instead of those before.
        part: "validation" or "train".
        beside: The other part as thin broken lines; None: not.
        rate: Shade the learning rate: as high as the panel is the first epoch's.
        columns: Panels side by side, at most.
    """
    shown = [r for r in records if r["scheduled"] == scheduled and "training" in r]
    models = [name for name in LABELS if any(r["model"] == name for r in shown)]
    if not models:
        raise ValueError("No result here has a training of that kind")
    figure, axes = _panels(len(models), columns)
    for axis, model in zip(axes, models, strict=True):
        runs = [r for r in shown if r["model"] == model]
        for i, record in enumerate(runs):
            _plot_curve(axis, record["training"], part, beside, f"C{i}")
        if rate:
            _shade_rate(axis, max(runs, key=lambda r: len(r["training"]["curve"][part])), part)
        axis.set_title(LABELS[model], fontsize="medium")
    curves = [r["training"]["curve"][name] for r in shown for name in (part, beside) if name is not None]
    values = [v for curve in curves for v in curve[len(curve) // 5 :]]
    low, high = min(values), max(values)
    if low < high:
        axes[0].set_ylim(low - 0.05 * (high - low), high + 0.1 * (high - low))
    figure.supxlabel("epoch")
    which = f", {part}" if beside is None else ""
    figure.supylabel(f"VLB{which} (nats per frame)")
    return figure


def _panels(count: int, columns: int) -> tuple[Figure, list[Axes]]:
    """Panels on common axes in rows, each column with its own numbers below."""
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    size = (2.3 * columns, 1.9 * rows)
    figure, axes = plt.subplots(
        rows, columns, figsize=size, sharex=True, sharey=True, squeeze=False, layout="constrained"
    )
    for axis in axes.flat[count:]:
        axis.remove()
    for axis in axes.flat[max(count - columns, 0) : count]:
        axis.tick_params(labelbottom=True)  # also above a place that stays empty
    return figure, list(axes.flat[:count])


def _plot_curve(axis: Axes, training: Record, part: str, beside: str | None, color: str) -> None:
    curve, best = training["curve"][part], training["best_epoch"]
    epochs = range(1, len(curve) + 1)
    axis.plot(epochs, curve, color=color, linewidth=0.9 if beside is None else 1.1)
    axis.plot([best], [curve[best - 1]], "o", color=color, markersize=4)
    if beside is not None:
        axis.plot(epochs, training["curve"][beside], "--", color=color, linewidth=0.8)


def _shade_rate(axis: Axes, record: Record, part: str) -> None:
    rate = Schedule.of(record["config"]["learning_rate"])
    epochs = range(1, len(record["training"]["curve"][part]) + 1)
    height = [rate(epoch - 1) / rate(0) for epoch in epochs]
    axis.fill_between(epochs, 0, height, transform=axis.get_xaxis_transform(), color="0.5", alpha=0.15, linewidth=0)


def plot_scores(lines: Sequence[ResultRow], column: str, *, review: str | None = None) -> Figure:
    """A column of the table as dots, best at the top, with the spread between seeds; the review's beside it.

    Arguments:
        lines: See `dvae_lib.experiments.tables.summarise`.
        column: Which one.
        review: The review's column to show on an axis of its own; None: the same, where the review has it.
    """
    for name in (column, review):
        if name is not None and name not in COLUMNS:
            raise ValueError(f"There is no column {name!r}; there are {', '.join(COLUMNS)}")
    what = COLUMNS[column]
    shown = sorted(
        (line for line in lines if column in line.values),
        key=lambda line: line.values[column].mean,
        reverse=not what.higher_is_better,
    )
    if not shown:
        raise ValueError(f"No result here has the column {column!r}")
    table = REVIEW[shown[0].runs[0]["experiment"]]
    review = review or (column if any(column in values for values in table.values()) else None)
    theirs = {name: values[review] for name, values in table.items() if review in values} if review else {}
    figure, axes = plt.subplots(
        1,
        2 if theirs else 1,
        figsize=(7.0 if theirs else 4.5, 0.6 + 0.28 * len(shown)),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for y, line in enumerate(shown):
        value = line.values[column]
        spread = 0.0 if math.isnan(value.std) else value.std
        axes[0, 0].errorbar(value.mean, y, xerr=spread, fmt="o", color="C0", markersize=5, capsize=2)
        if line.name in theirs:
            axes[0, 1].plot(theirs[line.name], y, "s", color="C1", markersize=5)
    axes[0, 0].set_yticks(range(len(shown)), [line.name + line.marks for line in shown])
    axes[0, 0].set_xlabel(f"{what.title}, here")
    for axis in axes.flat:
        axis.grid(axis="y", linewidth=0.4)
    if review and theirs:
        axes[0, 1].set_xlabel(f"{COLUMNS[review].title}, review")
    return figure


def plot_differences(blocks: Blocks, measures: Sequence[str], *, reference: str = "VAE") -> Figure:
    """How far each model is ahead of a reference, a panel for each measure; bars are 95 % intervals over utterances.

    Arguments:
        blocks: Lines of tables, by the name of the block of trainings; the review's differences are drawn beside them.
        measures: Names of measures in `COLUMNS`.
        reference: See `dvae_lib.experiments.pairs.differences`.
    """
    found = {(m, b): differences(lines, m, reference) for m in measures for b, lines in blocks.items()}
    names = [name for name in LABELS.values() if any(name in gaps for gaps in found.values())]
    if not names:
        raise ValueError(f"No result here can be compared with {reference} utterance by utterance")
    table, size = REVIEW["speech"], (2.6 * len(measures) + 1.0, 0.9 + 0.4 * len(names))
    figure, axes = plt.subplots(1, len(measures), figsize=size, sharey=True, squeeze=False, layout="constrained")
    for axis, measure in zip(axes[0], measures, strict=True):
        axis.axvline(0, color="0.5", linewidth=0.8)
        for i, block in enumerate(blocks):
            gaps = ((y - 0.2 * i, found[measure, block].get(name)) for y, name in enumerate(reversed(names)))
            kept = [(y, gap) for y, gap in gaps if gap is not None]
            means, halves = [gap.mean for _, gap in kept], [gap.mean - gap.low for _, gap in kept]
            axis.errorbar(
                means, [y for y, _ in kept], xerr=halves, fmt=MARKERS[i], color=f"C{i}", markersize=5, label=block
            )
        theirs = [table[name][measure] - table[reference][measure] for name in reversed(names)]
        axis.plot(theirs, [y - 0.2 * len(blocks) for y in range(len(names))], "x", color="0.3", label="review")
        axis.set_xlabel(f"{COLUMNS[measure].title}\nahead of {reference}")
        axis.grid(axis="y", linewidth=0.4)
    axes[0, 0].set_yticks(range(len(names)), list(reversed(names)))
    axes[0, 0].set_ylim(-0.4 - 0.2 * len(blocks), len(names) - 0.6)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


def plot_collapse(lines: Sequence[ResultRow], threshold: float) -> Figure:
    """The KL divergence of every latent dimension, largest first, one line a model; below the threshold is collapsed.

    Arguments:
        lines: See `dvae_lib.experiments.tables.summarise`; the first seed of each is shown.
        threshold: In nats per frame.
    """
    if not any(line.kl_per_dim for line in lines):
        raise ValueError("No result here has a latent dimension: all have diverged, or there is none")
    figure, axis = plt.subplots(figsize=(7.0, 3.4), layout="constrained")
    styles = {"TF": "-", "TF-GM": ":", "GM": "--"}
    for i, line in enumerate(lines):
        if line.kl_per_dim:
            ordered = sorted(line.kl_per_dim[0], reverse=True)
            places = range(1, len(ordered) + 1)
            axis.semilogy(
                places,
                ordered,
                styles[line.mode],
                marker=MARKERS[i % len(MARKERS)],
                markersize=4,
                color=f"C{i % 10}",
                label=line.name,
            )
    axis.axhline(threshold, color="0.5", linewidth=0.8)
    axis.set_xlabel("latent dimension, by its KL divergence")
    axis.set_ylabel("KL (nats per frame)")
    axis.legend(fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure
