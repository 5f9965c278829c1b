r"""Rate and distortion of speech by the weight of the KL terms: two ways to make a file smaller (Section 14.4).

    python -m dvae_lib.experiments.studies.rate_distortion [NAME ...] [--betas 1 3 10] [--seeds 0]

A codec of latents has two knobs. The quantiser's step is turned when the model is there; the weight :math:`\beta` of
the KL terms when it is trained. Here a VAE, an RSSM and a VRNN are trained on LibriSpeech with several :math:`\beta`,
each from its own initial weights and alike but for that: twelve epochs of the training of the second block of Table
13.1 (which has thirty), the epoch chosen by the validation bound with that :math:`\beta`. Each then codes beginnings of
validation utterances with several steps, as in `source_coding`: rates in bit/s, log-spectral distance in dB, PESQ and
ESTOI. No test speaker is heard, and nothing but the epoch is chosen. What was interrupted goes on with the same
command. The result is data/results/rate_distortion.json; a training takes three to twenty minutes on two busy CPU
cores.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any

from dvae_lib.coding import NATURAL_STEP, Loop
from dvae_lib.data.speech import SpeechFrontEnd
from dvae_lib.evaluation import bounds_per_frame
from dvae_lib.experiments.corpora import ExperimentData
from dvae_lib.experiments.protocol import Protocol
from dvae_lib.experiments.records import Record
from dvae_lib.experiments.results import ResultFile, Task, rounded
from dvae_lib.experiments.studies.command import RESULTS, RUNS, completed, parser, select
from dvae_lib.experiments.studies.source_coding import (
    SourceCodingProtocol,
    rates_of,
    speech_facts,
    validation_speech,
)
from dvae_lib.experiments.studies.speech_long import long_data, long_protocol
from dvae_lib.experiments.trainings import starting_model, train
from dvae_lib.models import DVAE, RSSM, build_model
from dvae_lib.training.schedules import Schedule

__all__ = ["KEY", "LOOPS", "RateDistortionProtocol", "codec_model", "main", "rate_distortion_tasks"]

KEY = ("name", "beta", "seed", "step", "loop")

LOOPS: dict[str, tuple[Loop, ...]] = {"vae": ("closed",), "rssm": ("closed", "open"), "vrnn": ("closed", "open")}
"""The models, and the loops in which each codes. A VAE's inference looks at nothing that is coded: one loop."""


@dataclass(frozen=True)
class RateDistortionProtocol:
    """How the codecs are trained and what they code.

    Attributes:
        epochs: Of a training.
        warm_up: Epochs over which the weight of the KL terms grows from 0 to beta.
        steps: Steps of the quantiser, in deviations of the posterior.
        coded: The utterances.
    """

    epochs: int = 12
    warm_up: int = 2
    steps: tuple[float, ...] = (1.0, NATURAL_STEP, 10.0, 30.0)
    coded: SourceCodingProtocol = field(default_factory=SourceCodingProtocol)

    def training(self, beta: float) -> Protocol:
        """That of the second block of Table 13.1, shorter, with another weight of the KL terms."""
        shared = long_protocol(epochs=self.epochs, warm_up=self.warm_up)
        schedules = {"beta": Schedule.linear(0.0, beta, epochs=self.warm_up)}
        return replace(shared, training=replace(shared.training, schedules=schedules))


def codec_model(name: str, x_dim: int = 513, z_dim: int = 16) -> DVAE:
    """A new model of power spectra: those of Appendix B, and an RSSM whose sizes are like theirs."""
    if name != "rssm":
        return build_model(name, "speech", x_dim=x_dim, z_dim=z_dim)
    layers: dict[str, Any] = {"encoder": (256,), "head": (64,), "prior": (64,), "decoder": (128,)}
    return RSSM(x_dim, z_dim, observation="gamma", h_dim=128, **layers)


def rate_distortion_tasks(
    names: Sequence[str],
    betas: Sequence[float],
    seeds: Sequence[int],
    runs: Path,
    protocol: RateDistortionProtocol | None = None,
    data: ExperimentData | None = None,
) -> Iterator[Task]:
    """A training each, and what its files weigh and how they sound.

    Arguments:
        names: Of models, some of `LOOPS`.
        betas: Weights of the KL terms.
        seeds: Of initial weights and training.
        runs: Folder of the trainings' states.
        protocol: How; None is the book's.
        data: The speech; None loads it.
    """
    settings = RateDistortionProtocol() if protocol is None else protocol
    load = cache(lambda: long_data(settings.training(1.0)) if data is None else data)  # when a training needs it
    for seed in seeds:
        for beta in betas:
            for name in names:
                keys: list[Record] = [
                    {"name": name, "beta": beta, "seed": seed, "step": rounded(step), "loop": loop}
                    for loop, step in product(LOOPS[name], settings.steps)
                ]
                yield Task(keys, partial(_measure, keys, runs, settings, load))


def _measure(
    keys: Sequence[Record], runs: Path, settings: RateDistortionProtocol, load: Callable[[], ExperimentData]
) -> list[Record]:
    name, beta, seed = (keys[0][entry] for entry in ("name", "beta", "seed"))
    data = load()
    x_dim = data.train[0].shape[-1]
    model = starting_model(seed, lambda: codec_model(name, x_dim))
    config = replace(settings.training(beta).training, seed=seed)
    result = train(model, data.train, data.validation, config, runs / f"{name}-beta-{beta:g}-seed-{seed}")
    model.eval()
    bounds = bounds_per_frame(model, data.validation)
    facts: Record = {
        "weights": sum(p.numel() for p in model.parameters()),
        "best_epoch": result.best_epoch,
        "vlb": rounded(bounds.vlb),
        "kl": rounded(bounds.kl),
        "seconds": round(sum(float(epoch["seconds"]) for epoch in result.history)),
    }
    _, speech = validation_speech(settings.coded)
    front_end, heard = SpeechFrontEnd(), speech_facts(speech)
    return [
        {**key, **facts, **rates_of(model, loop, step, speech, front_end), "data": heard}
        for key, (loop, step) in zip(keys, product(LOOPS[name], settings.steps), strict=True)
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    options = parser(__doc__)
    options.add_argument("names", nargs="*", metavar="NAME", help=", ".join(LOOPS))
    options.add_argument("--betas", type=float, nargs="+", default=[1.0, 3.0, 10.0])
    options.add_argument("--seeds", type=int, nargs="+", default=[0])
    options.add_argument("--runs", type=Path, default=RUNS / "rate-distortion", help="where trainings are kept")
    options.add_argument("--output", type=Path, default=RESULTS / "rate_distortion.json")
    options.add_argument("--again", action="store_true", help="compute also what is in the file already")
    chosen = options.parse_args(arguments)
    names = select(options, chosen.names, list(LOOPS))
    tasks = rate_distortion_tasks(names, chosen.betas, chosen.seeds, chosen.runs)
    return completed(ResultFile(chosen.output, KEY), tasks, again=chosen.again)


if __name__ == "__main__":
    sys.exit(main())
