"""What holds a model of speech back: short trainings that differ from one in one thing each, judged by validation.

    python -m dvae_lib.experiments.studies.speech_ablation run [NAME ...] [--models vae dkf srnn ...] [--seed 0]
    python -m dvae_lib.experiments.studies.speech_ablation table

The training that the others differ from is that of `speech_long`, without overlap of its sequences and shortened to
about 1,800 steps; all see that number of batches, whatever their data. Names are those of the configurations
(`CONFIGURATIONS`). The bounds are in nats per frame, of the epoch that is best on the validation speakers and of the
last, and that of the training part in the last epoch; so a model that is overfitted can be told from one that is
unfinished. Three configurations differ in how many recordings they train with (`AMOUNTS`); they are judged on every
recording alone, too, of the same parts of the training part, and of the validation part. The test speakers are not
looked at. What was interrupted goes on with the same command. The result is data/results/speech-ablation.json; a
training takes one minute (VAE) to five (SRNN) on an idle CPU core.
"""

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from dvae_lib.data.sequences import SequenceDataset
from dvae_lib.evaluation import bounds_per_frame
from dvae_lib.experiments.corpora import ExperimentData, data_facts, evenly
from dvae_lib.experiments.protocol import Protocol, Run
from dvae_lib.experiments.records import Record
from dvae_lib.experiments.results import ResultFile, Task
from dvae_lib.experiments.studies.command import RESULTS, RUNS, completed, parser, select
from dvae_lib.experiments.studies.speech_long import CONTROLS, FIRST, long_data, long_protocol, to_the_floor
from dvae_lib.experiments.trainings import Interrupted, print_epoch, starting_model
from dvae_lib.models import DVAE
from dvae_lib.objectives import free_bits
from dvae_lib.training import TrainingConfig, fit
from dvae_lib.training.objective import vlb_terms
from dvae_lib.training.schedules import Number, Schedule

__all__ = ["AMOUNTS", "CONFIGURATIONS", "KEY", "Configuration", "ablation_task", "by_amount", "main", "table"]

KEY = ("model", "configuration", "seed")
STEPS = 1840


Options = Mapping[str, Mapping[str, Any]]
"""Of the model, by its name."""


@dataclass(frozen=True)
class Configuration:
    """One thing that is done otherwise.

    Attributes:
        about: What, in words.
        training: Values of the training that differ.
        options: Of the model, by its name; none named: the configuration is for all of them.
        fraction: Of the training speakers' recordings.
        hop: Frames between the starts of two training sequences; None: they do not overlap.
        objective: What is maximised.
    """

    about: str
    training: Mapping[str, Any] = field(default_factory=dict)
    options: Options = field(default_factory=dict)
    fraction: float = 1.0
    hop: int | None = None
    objective: Callable[..., Any] = vlb_terms


def _both(first: Options, second: Options) -> Options:
    """Two changes together, for the models that have the first."""
    return {model: {**options, **second[model]} for model, options in first.items()}


_SHALLOW: Options = {model: {"decoder": (128,)} for model in ("dkf", "dsae")}
_NO_HEAD: Options = {"dkf": {"head": ()}}
_OF_A_FRAME: Options = {"dkf": {"inference_model": "instantaneous"}}
_VAE_NETWORKS: Options = {name: o for name, o in CONTROLS["vae-networks"].options.items() if o}
_VAE_ENCODER: Options = {
    model: {name: value for name, value in options.items() if name != "decoder"}
    for model, options in _VAE_NETWORKS.items()
}

CONFIGURATIONS: dict[str, Configuration] = {
    "base": Configuration("that of speech_long, short, without overlap"),
    "power": Configuration(
        "networks read powers, output starts anywhere, as in Appendix B", {"inputs": "power", "start_at_mean": False}
    ),
    "power-started": Configuration("networks read powers; output starts at the mean log-power", {"inputs": "power"}),
    "not-started": Configuration("output starts anywhere", {"start_at_mean": False}),
    "no-warm-up": Configuration("KL terms count in full from the first step", {"schedules": {}}),
    "free-bits": Configuration(
        "0.1 nats of each latent entry are free", objective=partial(free_bits, nats=0.1, per="entry")
    ),
    "constant-rate": Configuration("learning rate 0.002 throughout", {"learning_rate": 2e-3}),
    "batch-128": Configuration("batches of 128, a quarter of the steps", {"batch_size": 128}),
    "overlap": Configuration("training sequences begin at every 25th frame", hop=25),
    "half": Configuration("half of the recordings", fraction=0.5),
    "quarter": Configuration("a quarter of the recordings", fraction=0.25),
    "wide": Configuration("hidden layers of 822 units: as many weights as the SRNN", options=CONTROLS["wide"].options),
    "shallow-decoder": Configuration("the VAE's decoder, one layer of 128 units", options=_SHALLOW),
    "no-head": Configuration("no layer of 32 units before the code", options=_NO_HEAD),
    "shallow-no-head": Configuration(
        "no layer of 32 units before the code, and the VAE's decoder", options=_both(_NO_HEAD, _SHALLOW)
    ),
    "frame-encoder": Configuration("z_t is inferred from frame t alone", options=_OF_A_FRAME),
    "shallow-frame": Configuration(
        "z_t is inferred from frame t alone, and the VAE's decoder", options=_both(_OF_A_FRAME, _SHALLOW)
    ),
    # No warm-up, as in speech_long: with it two of three trainings of the DKF became infinite in the first epoch.
    "vae-encoder": Configuration(
        "the VAE's encoder, one layer of 128 units; KL terms in full", {"schedules": {}}, _VAE_ENCODER
    ),
    "vae-networks": Configuration("the VAE's encoder and decoder; KL terms in full", {"schedules": {}}, _VAE_NETWORKS),
    "wide-transition": Configuration("64 units in the transition", options={"dkf": {"transition": 64}}),
}
"""By name, in the order in which they are trained."""

AMOUNTS = ("quarter", "half", "base")
"""Those that differ in how many recordings they train with."""


@cache
def _loaded(hop: int | None) -> ExperimentData:
    return long_data(replace(long_protocol(), hop=hop))


def some_of(data: SequenceDataset, fraction: float) -> SequenceDataset:
    """The sequences of a fraction of the recordings, evenly over all of them."""
    if fraction == 1.0:
        return data
    recordings = list(dict.fromkeys(_recording(name) for name in data.names))
    kept = {recordings[i] for i in evenly(len(recordings), max(1, math.floor(fraction * len(recordings))))}
    return data.select([i for i, name in enumerate(data.names) if _recording(name) in kept])


def by_amount(data: SequenceDataset) -> dict[str, SequenceDataset]:
    """The training sequences of a quarter and of half of the recordings, and those that are in neither."""
    parts = {name: some_of(data, CONFIGURATIONS[name].fraction) for name in AMOUNTS[:-1]}
    taken = {name for part in parts.values() for name in part.names}
    rest = [i for i, name in enumerate(data.names) if name not in taken]
    return {**parts, "neither": data.select(rest)}


def by_recording(model: DVAE, data: SequenceDataset) -> list[float]:
    """The bound of each recording, in the order in which they come, in nats per frame."""
    rows: dict[str, list[int]] = {}
    for i, name in enumerate(data.names):
        rows.setdefault(_recording(name), []).append(i)
    return [round(bounds_per_frame(model, data.select(own)).vlb, 2) for own in rows.values()]


def _recording(name: str) -> str:
    """The recording that a sequence is cut from."""
    return name.rpartition("[")[0] or name


def training_of(chosen: Configuration, data: SequenceDataset, steps: int, seed: int) -> tuple[Protocol, TrainingConfig]:
    """The protocol, and the training with so many steps on these data: as many as in batches of 32, in frames."""
    per_epoch = math.ceil(len(data) / 32)
    epochs = max(1, round(steps / per_epoch))
    # The warm-up and the fall of the rate take the same share of the steps, however many epochs these are.
    protocol = long_protocol(epochs=epochs)
    warm_up = {"beta": Schedule.linear(0.0, 1.0, epochs=max(1, round(0.1 * epochs)))}
    values: dict[str, Any] = {"learning_rate": to_the_floor(2e-3, epochs), "schedules": warm_up, "seed": seed}
    return protocol, replace(protocol.training, **{**values, **chosen.training})


def ablation_task(
    name: str,
    model: str,
    seed: int,
    runs: str | Path,
    *,
    data: ExperimentData | None = None,
    steps: int = STEPS,
) -> Task:
    """One training, and what came of it on the validation speakers.

    Arguments:
        name: The configuration's.
        model: The model's.
        seed: Of the initial weights and the training.
        runs: Folder of the trainings' states.
        data: The speech; None loads it.
        steps: Number of steps.

    Raises:
        Interrupted: By its `compute`: the training was interrupted and saved.
    """
    chosen, key = CONFIGURATIONS[name], {"model": model, "configuration": name, "seed": seed}

    def compute() -> list[Record]:
        speech = _loaded(chosen.hop) if data is None else data
        train = some_of(speech.train, chosen.fraction)
        protocol, config = training_of(chosen, train, steps, seed)
        protocol, run = replace(protocol, options=dict(chosen.options.get(model, {}))), Run(model, False, seed)
        network = starting_model(seed, lambda: protocol.build(run, train.x_dim))
        folder = Path(runs) / f"{model}-{name}-seed-{seed}"
        options: dict[str, Any] = {"objective": chosen.objective, "folder": folder, "callback": print_epoch}
        result = fit(network, train, speech.validation, config, progress=False, **options)
        if result.stopped == "interrupted":
            raise Interrupted(f"interrupted and saved in {folder}; the same command goes on")
        outcome = {"about": chosen.about, **_outcome(result.history)}
        if name in AMOUNTS:
            parts = {**by_amount(speech.train), "validation": speech.validation}
            outcome["recordings"] = {part: by_recording(network, some) for part, some in parts.items()}
        facts = data_facts(train=train, validation=speech.validation)
        return [{**key, **outcome, "data": facts}]

    return Task([key], compute)


def _outcome(history: Sequence[Mapping[str, Number]]) -> Record:
    """The bounds in nats per frame: of the best epoch, of the last, and all of them."""
    best = max(history, key=lambda row: _bound(row, "validation"))
    last = history[-1]
    return {
        "steps": int(last["step"]),
        "best_step": int(best["step"]),
        "best": round(_bound(best, "validation"), 2),
        "last": round(_bound(last, "validation"), 2),
        "train": round(_bound(last, "train"), 2),
        "kl": round(_term(best, "validation", "kl"), 2),
        "seconds": round(sum(row["seconds"] for row in history), 1),
        "curve": {
            "step": [int(row["step"]) for row in history],
            "rate": [float(f"{row['learning_rate']:.4g}") for row in history],
            **{part: [round(_bound(row, part), 2) for row in history] for part in ("train", "validation")},
        },
    }


def _bound(row: Mapping[str, Number], part: str) -> float:
    return _term(row, part, "vlb")


def _term(row: Mapping[str, Number], part: str, name: str) -> float:
    return float(row[f"{part}_{name}_per_frame"])


def table(records: Sequence[Record]) -> str:
    """The results as a Markdown table: for each model the validation bound, and what each change does to it."""
    base = {(r["model"], r["seed"]): r for r in records if r["configuration"] == "base"}
    heads = ("validation, best", "against base", "validation, last", "training, last", "KL", "steps")
    lines = [f"| model | configuration | seed | {' | '.join(heads)} |", "|---|---|---:|" + "---:|" * len(heads)]
    for r in records:
        first = base.get((r["model"], r["seed"]))
        against = "" if first is None or r["configuration"] == "base" else f"{r['best'] - first['best']:+.1f}"
        values = (f"{r[name]:.1f}" for name in ("last", "train", "kl"))
        lines.append(
            f"| {r['model']} | {r['configuration']}: {r['about']} | {r['seed']} | {r['best']:.1f} | {against} | "
            f"{' | '.join(values)} | {r['steps']} |"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    options = parser(__doc__)
    options.add_argument("what", choices=["run", "table"])
    options.add_argument("names", nargs="*", metavar="NAME", help=", ".join(CONFIGURATIONS))
    options.add_argument("--models", nargs="+", default=["vae", "dkf", "srnn"], metavar="MODEL", help=", ".join(FIRST))
    options.add_argument("--seed", type=int, default=0, help="of the trainings")
    options.add_argument("--steps", type=int, default=STEPS, help="of each training")
    options.add_argument("--runs", type=Path, default=RUNS / "speech-ablation", help="where the trainings are kept")
    options.add_argument("--output", type=Path, default=RESULTS / "speech-ablation.json")
    chosen = options.parse_args(arguments)
    names, models = (
        select(options, given, known)
        for given, known in ((chosen.names, tuple(CONFIGURATIONS)), (chosen.models, FIRST))
    )
    file = ResultFile(chosen.output, KEY)
    if chosen.what == "table":
        print(table(file.records))
        return 0
    pairs = ((name, model) for model in models for name in names)
    wanted = [(name, model) for name, model in pairs if model in (CONFIGURATIONS[name].options or FIRST)]
    tasks = (ablation_task(name, model, chosen.seed, chosen.runs, steps=chosen.steps) for name, model in wanted)
    return completed(file, tasks)


if __name__ == "__main__":
    sys.exit(main())
