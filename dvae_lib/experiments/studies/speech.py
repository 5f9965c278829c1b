"""The speech models of Chapters 9 and 11 that are not the benchmark's: trained, and tested once.

    python -m dvae_lib.experiments.studies.speech train [NAME ...] [--seed 0] [--models FOLDER]
    python -m dvae_lib.experiments.studies.speech test [NAME ...] [--models FOLDER ...]

Chapter 9 takes the corpus `prompts`, Chapter 11 `librispeech`. The architectures are those of Appendix B, the front
end that of Section 13.2.1. The protocol is the review's (Section 13.2.3), shortened to 30 or 40 epochs in
batches of 32, with a falling learning rate; a name that ends in `-scheduled` goes on from the model without that ending
for 12 epochs of scheduled sampling (Section 13.3.3, shortened). The epoch that is best on the validation speakers is
kept; the test speakers are not looked at. One model takes about fifteen minutes on a CPU core, a scheduled one ten to
thirty. Weights are written in half precision. (`dvae benchmark` trains in batches of 128; the models of `librispeech`
that are made here have the ending `-batch32`.)

A test takes about four minutes: bounds in nats per frame, and SI-SDR, PESQ and ESTOI of resynthesised utterances, with
the true past and, for a model that looks at it, in generation mode. Nothing is chosen by these numbers. They go into
data/results/speech.json.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Generator

from dvae_lib.data import SpeechCorpus, load_corpus
from dvae_lib.data.sequences import SequenceDataset
from dvae_lib.evaluation import analysis_resynthesis, bounds_per_frame
from dvae_lib.experiments.corpora import data_facts, evenly
from dvae_lib.experiments.protocol import SCHEDULED, SCHEDULED_ENDING, falling
from dvae_lib.experiments.records import Record
from dvae_lib.experiments.results import Task, rounded
from dvae_lib.experiments.scores import bounds_record, modes
from dvae_lib.experiments.studies.command import RESULTS, select, train_or_test, training_parser
from dvae_lib.experiments.trainings import describe_training, facts_of_training, starting_model, train
from dvae_lib.models import DVAE, build_model
from dvae_lib.training import TrainingConfig
from dvae_lib.training.schedules import Schedule

__all__ = ["ARCHITECTURES", "KEY", "NAMES", "Architecture", "SpeechProtocol", "evaluation_task", "main", "train_speech"]

COMMAND = "python -m dvae_lib.experiments.studies.speech"
KEY = ("name", "mode", "seed")
LICENCES = {"librispeech": "CC BY 4.0", "prompts": "CC BY-SA 3.0"}
"""Under which the trained weights are given."""


@dataclass(frozen=True)
class Architecture:
    """A model of Appendix B, the corpus it is trained on, and for how many epochs.

    Attributes:
        model: Its name in the library.
        corpus: Name of the corpus.
        epochs: Number of epochs.
        inference_model: Where it is not the model's default.
    """

    model: str
    corpus: str
    epochs: int
    inference_model: str | None = None

    def build(self) -> DVAE:
        """The model, with initial weights drawn from torch's global generator."""
        options = {} if self.inference_model is None else {"inference_model": self.inference_model}
        return build_model(self.model, preset="speech", **options)


ARCHITECTURES = {
    **{f"{model}-prompts": Architecture(model, "prompts", 40) for model in ("vae", *SCHEDULED)},
    "dsae-librispeech-batch32": Architecture("dsae", "librispeech", 30),
    "dsae-factorised-librispeech-batch32": Architecture("dsae", "librispeech", 30, "factorised"),
    "dsae-structured-librispeech-batch32": Architecture("dsae", "librispeech", 30, "structured"),
}
"""What is trained, by the name of its weights."""

NAMES = (*ARCHITECTURES, *(f"{model}-prompts{SCHEDULED_ENDING}" for model in SCHEDULED))
"""All models, in an order in which each has what it starts from."""


@dataclass(frozen=True)
class SpeechProtocol:
    """How the models are trained and tested.

    Attributes:
        epochs: Epochs of a training; None takes the architecture's.
        scheduled_epochs: Epochs of a training with scheduled sampling: the review's schedule, with 50 epochs made one;
            the last eight are in generation mode.
        batch_size: Sequences of a step.
        max_utterances: At most so many test utterances, evenly over all of them.
        importance_samples: Number of samples of the importance-weighted bound.
    """

    epochs: int | None = None
    scheduled_epochs: int = 12
    batch_size: int = 32
    max_utterances: int = 60
    importance_samples: int = 20

    def config(self, name: str, seed: int) -> TrainingConfig:
        """The training of a model."""
        if name.endswith(SCHEDULED_ENDING):
            epochs, schedules = self.scheduled_epochs, {"feedback": Schedule.scheduled_sampling(every=1)}
            rate = Schedule.linear(5e-4, 1e-4, epochs=epochs)
        else:
            epochs, schedules = self.epochs or ARCHITECTURES[name].epochs, {}
            rate = falling(2e-3, epochs)
        return TrainingConfig.speech(
            learning_rate=rate,
            max_epochs=epochs,
            schedules=schedules,
            batch_size=self.batch_size,
            gradient_clip=100.0,
            seed=seed,
        )


def train_speech(
    name: str,
    seed: int,
    models: str | Path,
    runs: str | Path,
    *,
    corpus: SpeechCorpus | None = None,
    protocol: SpeechProtocol | None = None,
) -> Path:
    """Train a model and save it in the folder of its name.

    Arguments:
        name: One of `NAMES`.
        seed: Seed of the initial weights and the training.
        models: Folder of the trained models.
        runs: Folder of the trainings' states; what was interrupted goes on from there.
        corpus: The speech; None loads it.
        protocol: How it is trained; None is the book's.

    Returns:
        The model's folder.

    Raises:
        Interrupted: The training was interrupted and saved.
        FileNotFoundError: The model that it starts from, or the corpus, is not there.
    """
    protocol, first = SpeechProtocol() if protocol is None else protocol, name.removesuffix(SCHEDULED_ENDING)
    corpus = load_corpus(ARCHITECTURES[first].corpus, progress=False) if corpus is None else corpus
    model = starting_model(seed, lambda: ARCHITECTURES[name].build(), None if name == first else Path(models) / first)
    config = protocol.config(name, seed)
    result = train(model, corpus.train, corpus.validation, config, Path(runs) / f"{name}-seed-{seed}")
    describe_training(
        model,
        result,
        config,
        corpus=corpus.name,
        made_by=f"{COMMAND} train",
        licence=LICENCES.get(corpus.name, corpus.licence),
        attribution=f"trained on recordings of {corpus.attribution} ({corpus.licence})",
        front_end=corpus.front_end.settings.to_dict(),
    )
    return model.save_pretrained(Path(models) / name, half=True)


def evaluation_task(
    folder: str | Path, *, corpus: SpeechCorpus | None = None, protocol: SpeechProtocol | None = None
) -> Task:
    """The test of one trained model, once in each of its modes.

    Arguments:
        folder: The model's.
        corpus: The speech, of which the test part is taken; None loads what the model was trained on.
        protocol: How it is tested; None is the book's.
    """
    settings, folder = SpeechProtocol() if protocol is None else protocol, Path(folder)
    model = DVAE.from_pretrained(folder).eval()
    facts = facts_of_training(model)
    feedback_of = modes(model, scheduled=folder.name.endswith(SCHEDULED_ENDING))

    def compute() -> list[Record]:
        speech = load_corpus(model.metadata["corpus"], progress=False) if corpus is None else corpus
        utterances = speech.utterances("test")
        kept = evenly(len(speech.test), settings.max_utterances)
        test = SequenceDataset([speech.test[i] for i in kept], names=[utterances[i].name for i in kept])
        paths = [utterances[i].path for i in kept]
        about = {"corpus": speech.name, **facts, "utterances": len(kept), "frames": test.num_frames}
        return [
            {"name": folder.name, "mode": mode, **about, **_scores(model, test, paths, feedback, settings)}
            for mode, feedback in feedback_of.items()
        ]

    return Task([{"name": folder.name, "mode": mode, "seed": facts["seed"]} for mode in feedback_of], compute)


def _scores(
    model: DVAE, test: SequenceDataset, paths: Sequence[Path], feedback: float, protocol: SpeechProtocol
) -> Record:
    bounds = bounds_per_frame(model, test, protocol.importance_samples, feedback=feedback, batch_size=4)
    table = analysis_resynthesis(model, paths, feedback=feedback, generator=Generator().manual_seed(0))
    return {
        **bounds_record(bounds, model, test),
        **{line.metric: rounded(line.mean) for line in table.summary() if line.metric != "bound"},
        "data": data_facts(test=test),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    options = training_parser(__doc__, NAMES, RESULTS / "speech.json")
    options.add_argument("--max-utterances", type=int, default=SpeechProtocol.max_utterances, help="of a test")
    chosen = options.parse_args(arguments)
    names = select(options, chosen.names, NAMES)
    protocol = SpeechProtocol(max_utterances=chosen.max_utterances)

    def training(name: str, models: Path) -> Path:
        return train_speech(name, chosen.seed, models, chosen.runs, protocol=protocol)

    return train_or_test(chosen, names, KEY, training, lambda folder: evaluation_task(folder, protocol=protocol))


if __name__ == "__main__":
    sys.exit(main())
