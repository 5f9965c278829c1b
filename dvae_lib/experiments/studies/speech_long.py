"""The second block of Table 13.1: the review's models on speech, each trained as well as these recordings allow.

    python -m dvae_lib.experiments.studies.speech_long train [NAME ...] [--runs FOLDER] [--seeds 1]
    python -m dvae_lib.experiments.studies.speech_long curves [NAME ...] [--runs FOLDER]
    python -m dvae_lib.experiments.studies.speech_long tones [NAME ...] [--runs FOLDER]
    python -m dvae_lib.experiments.studies.speech_long test [NAME ...] [--runs FOLDER] [--output FILE]
    python -m dvae_lib.experiments.studies.speech_long test vae --control wide
    python -m dvae_lib.experiments.studies.speech_long test --control vae-networks
    python -m dvae_lib.experiments.studies.speech_long test dkf --control own-weights

The architectures are those of Appendix B, with the same numbers of weights. What differs from the benchmark: the
networks read the standardised logarithms of the powers, and the output layer starts at their mean; training sequences
begin at every tenth frame; steps are smaller and more (batches of 32, about 13,000 steps); the KL terms are warmed up;
the learning rate falls over the whole budget, and the epoch that is best on the validation speakers is kept.

`train` takes one model after the other, in the order of the names. What was interrupted goes on with the same command,
where it was; started twice on one folder, each process takes the next model that nobody has. The test part is looked at
by `test` alone. On one CPU core the eight models take about two and a half hours. `curves` says how far each has come.
`tones` asks of each trained model that is fed its own output whether it jams its own line (`dvae_lib.evaluation`), on
validation speakers, and of the benchmark's model of that name, whose networks read powers. The file of `test` is
data/results/speech-long.json.

`--control` trains and tests what says which part of a model its scores are due to (`CONTROLS`): `wide`, in the same
way, a VAE with as many weights as the SRNN (about fifteen minutes); `vae-networks`, without a warm-up, DKF and DSAE
with the encoder and the decoder of the VAE, and this VAE (about five, seven and fifteen minutes); `own-weights`, such a
DKF as large as Appendix B's (fifteen). Their files are data/results/speech-wide.json and so on.
"""

import csv
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from dvae_lib.data.pretrained import pretrained_names
from dvae_lib.evaluation import jamming
from dvae_lib.experiments.corpora import ExperimentData, evenly, load_experiment
from dvae_lib.experiments.protocol import SCHEDULED, SCHEDULED_ENDING, Protocol, plan
from dvae_lib.experiments.records import collect, write_records
from dvae_lib.experiments.runs import MODEL, Job, Outcome, run_all, single_device
from dvae_lib.experiments.studies.command import RESULTS, RUNS, parser, select
from dvae_lib.models import DVAE
from dvae_lib.training import TrainingConfig
from dvae_lib.training.run_folder import HISTORY
from dvae_lib.training.schedules import Schedule

__all__ = [
    "CONTROLS",
    "CORPUS",
    "NAMES",
    "control_protocol",
    "curve",
    "curves",
    "jobs",
    "long_data",
    "long_protocol",
    "main",
    "to_the_floor",
    "tones",
]

COMMAND = "python -m dvae_lib.experiments.studies.speech_long"
CORPUS = "librispeech"
FIRST = ("srnn", "vrnn", "vae", "dkf", "storn", "rvae-causal", "rvae-noncausal", "dsae")
NAMES = (*FIRST, *(name + SCHEDULED_ENDING for name in SCHEDULED))
"""In the order in which they are trained: first those of which the review says the most."""


class Control(NamedTuple):
    """What is trained in place of Appendix B's models.

    Attributes:
        options: Those of each model that differ, by its name.
        warm_up: Whether the KL terms are warmed up, as in all other trainings.
    """

    options: dict[str, dict[str, Any]]
    warm_up: bool


CONTROLS: dict[str, Control] = {
    "wide": Control({"vae": {"encoder": (822,), "decoder": (822,)}}, warm_up=True),
    "vae-networks": Control(
        {
            "vae": {},
            "dkf": {"inference_model": "instantaneous", "encoder": (), "head": (), "decoder": (128,)},
            "dsae": {"inference_model": "factorised", "decoder": (128,)},
        },
        warm_up=False,
    ),
    "own-weights": Control(
        {"dkf": {"inference_model": "instantaneous", "encoder": (), "g_dim": 478, "head": (), "decoder": (478,)}},
        warm_up=False,
    ),
}
"""By name. "wide": hidden layers with which a VAE of speech has as many weights as the SRNN; "vae-networks": the VAE's
own networks, q(z_t | x_t) and p(x_t | .), around another dynamical model, and the VAE itself; "own-weights": the same,
as wide as the number of weights of Appendix B's DKF allows. In the first epoch of a warm-up, in which the KL terms
weigh nothing, those of such a DKF became infinite (seed 0)."""


def to_the_floor(rate: float, epochs: int) -> Schedule:
    """A learning rate that falls in a straight line to a fortieth, and stays there for the last tenth of a training.

    Example:
        >>> [round(to_the_floor(2e-3, 30)(epoch), 6) for epoch in (0, 15, 27, 30)]
        [0.002, 0.000917, 5e-05, 5e-05]
    """
    return Schedule(((0, rate), (max(1, round(0.9 * epochs)), rate / 40)))


def long_protocol(epochs: int = 30, scheduled_epochs: int = 10, warm_up: int = 3, **options: Any) -> Protocol:
    """How the models are trained and tested.

    Arguments:
        epochs: Of a training, each of about 440 steps.
        scheduled_epochs: Of the scheduled sampling that follows for autoregressive models: four with a growing share of
            own output, the others in generation mode.
        warm_up: Epochs over which the weight of the KL terms grows from 0 to 1.
        options: Further fields of the two trainings.
    """
    shared: dict[str, Any] = {"batch_size": 32, "gradient_clip": 100.0, "patience": None, "checkpoint_seconds": 60.0}
    shared |= options
    return Protocol(
        "speech",
        "long",
        TrainingConfig.speech(
            learning_rate=to_the_floor(2e-3, epochs),
            max_epochs=epochs,
            schedules={"beta": Schedule.linear(0.0, 1.0, epochs=warm_up)},
            inputs="log_power",
            start_at_mean=True,
            **shared,
        ),
        TrainingConfig.speech(
            learning_rate=to_the_floor(5e-4, scheduled_epochs),
            max_epochs=scheduled_epochs,
            schedules={"feedback": Schedule.scheduled_sampling(every=1)},
            **shared,
        ),
        {},
        hop=10,
        test_limit=60,
        command=f"{COMMAND} train",
    )


def control_protocol(control: str, name: str) -> Protocol:
    """How a model of a control is trained and tested: as all others, with options of its own."""
    protocol, chosen = long_protocol(), CONTROLS[control]
    training = protocol.training if chosen.warm_up else replace(protocol.training, schedules={})
    command = f"{COMMAND} train {name} --control {control}"
    return replace(protocol, training=training, options=chosen.options[name], command=command)


def jobs(
    names: Sequence[str], seeds: int = 1, *, data: ExperimentData | None = None, protocol: Protocol | None = None
) -> list[Job]:
    """The trainings, in order.

    Arguments:
        names: Some of `NAMES`.
        seeds: Number of seeds: 0, 1, ...
        data: The speech; None loads it.
        protocol: How they are trained; None is `long_protocol`.
    """
    protocol = long_protocol() if protocol is None else protocol
    data = long_data(protocol) if data is None else data
    return [Job(run, data, protocol) for run in plan(names, range(seeds))]


def long_data(protocol: Protocol) -> ExperimentData:
    """The speech, with training sequences that overlap; validation goes on as in the benchmark, by the same bound."""
    return replace(
        load_experiment(CORPUS, protocol), validation=load_experiment(CORPUS, replace(protocol, hop=None)).validation
    )


def curve(job: Job, root: str | Path) -> list[dict[str, float]]:
    """The epochs of a training so far, with the rate, the weight of the KL terms, and the bounds in nats per frame."""
    path = job.folder(root) / "training" / HISTORY
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def curves(wanted: Sequence[Job], root: str | Path) -> str:
    """How far each training has come: a line for each, and for each epoch one below it."""
    lines = []
    for job in wanted:
        epochs = curve(job, root)
        of = job.protocol.config(job.run).max_epochs
        lines.append(f"{job.name}: {len(epochs)} of {of} epochs")
        lines += [
            f"  {row['epoch']:.0f}: step {row['step']:.0f}, rate {row['learning_rate']:.2e}, train "
            f"{row['train_vlb_per_frame']:.1f}, validation {row['validation_vlb_per_frame']:.1f} (KL "
            f"{row['validation_kl_per_frame']:.1f}), {row['seconds']:.0f} s"
            for row in epochs
        ]
    return "\n".join(lines)


def tones(wanted: Sequence[Job], root: str | Path, *, others: Sequence[str] = (), sequences: int = 64) -> str:
    """The tone that each model feeds itself, and what comes of decoding with edited feedback: two lines a model.

    Arguments:
        wanted: Trainings; those of models without a predictive link, or without a trained model, are left out.
        root: Where the trainings are kept.
        others: Names of trained models beside them.
        sequences: So many validation sequences are decoded.
    """
    data = wanted[0].corpus.validation
    x = torch.stack([data[i] for i in evenly(len(data), sequences)])
    folders: dict[str, str | Path] = {job.name: job.folder(root) / MODEL for job in wanted}
    folders = {name: folder for name, folder in folders.items() if Path(folder).exists()} | {n: n for n in others}
    lines = []
    for name, folder in folders.items():
        model = DVAE.from_pretrained(folder)
        if not model.links.predictive:
            continue
        tone, heard = jamming(model, x)
        lines.append(
            f"{name} ({model.inputs}): bin {tone.entry}, {tone.excess:.1f} dB too loud, {tone.charge:.2f} nats charged"
        )
        lines += [f"  {edit}: cost {h.cost:.1f}, movement {h.movement:.3f}" for edit, h in heard.items()]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    options = parser(__doc__)
    options.add_argument("what", choices=["train", "curves", "tones", "test"])
    options.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    options.add_argument("--seeds", type=int, default=1, help="so many of them: 0, 1, ...")
    options.add_argument("--control", choices=[*CONTROLS], help="the models of a control, in place of Appendix B's")
    options.add_argument("--runs", type=Path, help="where the trainings are kept")
    options.add_argument("--output", type=Path, help="of the test")
    chosen = options.parse_args(arguments)
    known = tuple(CONTROLS[chosen.control].options) if chosen.control else NAMES
    names = select(options, chosen.names, known)
    kind = f"speech-{chosen.control or 'long'}"
    chosen.runs, chosen.output = chosen.runs or RUNS / kind, chosen.output or RESULTS / f"{kind}.json"
    protocol = long_protocol()
    if chosen.control:
        data = long_data(protocol)  # once for all models, whose protocols differ in their options
        each = [(name, control_protocol(chosen.control, name)) for name in names]
        wanted = [job for name, p in each for job in jobs([name], chosen.seeds, data=data, protocol=p)]
    else:
        wanted = jobs(names, chosen.seeds, protocol=protocol)
    if chosen.what == "curves":
        print(curves(wanted, chosen.runs))
        return 0
    if chosen.what == "tones":
        others = (f"{job.run.model}-{CORPUS}{SCHEDULED_ENDING}" for job in wanted if job.run.model in SCHEDULED)
        print(tones(wanted, chosen.runs, others=[name for name in dict.fromkeys(others) if name in pretrained_names()]))
        return 0
    outcome = _do(wanted, chosen.runs, train_only=chosen.what == "train")
    if chosen.what == "test":
        write_records(chosen.output, collect([chosen.runs])[0])
    for name, text in outcome.errors.items():
        print(f"{name}: {text}", file=sys.stderr)
    return 130 if outcome.interrupted else int(bool(outcome.errors))


def _do(wanted: Sequence[Job], root: Path, *, train_only: bool) -> Outcome:
    def say(job: Job, record: object) -> None:
        print(f"{job.name}: {'trained' if record is None else 'done'}", flush=True)

    return run_all(wanted, root, report=say, fabric=single_device(), train_only=train_only)


if __name__ == "__main__":
    sys.exit(main())
