"""Reference lines for Table 13.1: what scores as a model does, and is none. Nothing here is trained by gradients.

    python -m dvae_lib.experiments.studies.speech_references

Each is a function from the power spectrogram of a test utterance to another one, from which the utterance is
resynthesised with its own phases, as a model's is (Section 13.2.4):

- ``phases``: the geometric mean of the training frames in every frame, so that the phases alone carry the utterance;
- ``mean-spectrum``: the mean power of the utterance itself in every frame;
- ``repeater``: the frame before. It is what a teacher tells a predictive model before each frame;
- ``repeater-smoothed``: the frame before, averaged over five bins, and the mean training spectrum, each times a
  constant; the two constants are those of the largest likelihood of training frames;
- ``linear-log``: 16 numbers a frame, the principal components of the log-power;
- ``linear-amplitude``: 16 numbers a frame, those of the amplitude; what is negative is nothing;
- ``linear-power``: 16 numbers a frame, those of the power.

Means and components are those of the training part. SI-SDR (dB), PESQ (narrow-band, MOS-LQO, and the raw score of the
review's range) and ESTOI of each of the 25 test utterances go into data/results/speech-references.json, so that a model
can be compared with them utterance by utterance. The repeaters predict, where the others have seen the frame that they
describe: so they have a log-likelihood, too, under the Gamma density with the prediction as its scale, to compare with
the bounds of models. It takes about four minutes on a CPU core.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import avg_pool1d

from dvae_lib.data.sequences import SequenceDataset
from dvae_lib.data.speech import FrontEndSettings, SpeechFrontEnd
from dvae_lib.distributions import Gamma
from dvae_lib.experiments.corpora import ExperimentData, data_facts, evenly, load_experiment
from dvae_lib.experiments.protocol import protocol
from dvae_lib.experiments.records import Record
from dvae_lib.experiments.results import ResultFile, Task, complete, rounded
from dvae_lib.experiments.studies.command import RESULTS, parser, select
from dvae_lib.metrics import ScoreTable, raw_pesq, speech_metrics

__all__ = [
    "KEY",
    "NAMES",
    "linear_code",
    "log_likelihood",
    "main",
    "reference",
    "reference_task",
    "repeated",
    "resynthesised",
    "score",
    "smoothed",
    "smoothing",
]

KEY = ("corpus", "name")
SIZE = 16
"""Numbers of a linear code: the size of the models' latent vectors."""

Source = Callable[[Tensor], Tensor]
"""A power spectrogram (T, F) from the true one."""

SCALES: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "log": (torch.log, torch.exp),
    "amplitude": (torch.sqrt, lambda amplitude: amplitude.clamp_min(0).square()),
    "power": (lambda power: power, lambda power: power.clamp_min(0)),
}
"""What is coded linearly, and the way back to the power."""

PREDICTIONS = ("repeater", "repeater-smoothed")
NAMES = ("phases", "mean-spectrum", *PREDICTIONS, *(f"linear-{scale}" for scale in SCALES))


def repeated(power: Float[Tensor, "frames bins"], first: Float[Tensor, " bins"]) -> Float[Tensor, "frames bins"]:
    """Every frame is the one before; the first is given."""
    return torch.cat([first[None], power[:-1]])


def smoothed(power: Float[Tensor, "frames bins"], width: int = 5) -> Float[Tensor, "frames bins"]:
    """Every bin is the mean of those around it; at the ends, of as many as there are."""
    return avg_pool1d(power[:, None], width, 1, width // 2, count_include_pad=False)[:, 0]


def smoothing(train: SequenceDataset, spectrum: Float[Tensor, " bins"], frames: int = 20_000) -> tuple[float, float]:
    r"""The two constants of the smoothed repeater with the largest likelihood of about so many training frames.

    .. math:: \sigma^2_{f,t} = a \cdot \tfrac15 \sum_{|k| \le 2} x_{f+k,t-1} + b\, \bar{x}_f

    The likelihood is that of the Gamma density with shape 1 and this scale, of all frames but a sequence's first.

    Arguments:
        train: Power spectrograms.
        spectrum: Their mean power in each bin.
        frames: Sequences are taken evenly over the part until there are so many.
    """
    chosen = evenly(len(train), max(1, round(frames * len(train) / train.num_frames)))
    past = torch.cat([smoothed(train[i].double())[:-1] for i in chosen])
    now = torch.cat([train[i].double()[1:] for i in chosen])
    logs = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([logs], max_iter=50, line_search_fn="strong_wolfe")

    def cost() -> Tensor:
        optimiser.zero_grad()
        a, b = logs.exp()
        value = -Gamma((a * past + b * spectrum.double()).log()).log_prob(now).mean()
        value.backward()
        return value

    optimiser.step(cost)
    a, b = logs.detach().exp().tolist()
    return a, b


def linear_code(train: SequenceDataset, size: int, scale: str = "log") -> Source:
    r"""The best linear code of so many numbers a frame: principal components of the training frames.

    .. math:: \hat{\mathbf{y}} = \boldsymbol\mu + W W^\top (\mathbf{y} - \boldsymbol\mu)

    with :math:`\mathbf{y}` the frame in some scale, and the columns of W the eigenvectors of its covariance with the
    largest eigenvalues.

    Arguments:
        train: Power spectrograms.
        size: Number of components.
        scale: "log", "amplitude" or "power".
    """
    there, back = SCALES[scale]
    count, total, squares = 0, torch.zeros(train.x_dim).double(), torch.zeros(train.x_dim, train.x_dim).double()
    for i in range(len(train)):
        frames = there(train[i].double())
        count, total, squares = count + len(frames), total + frames.sum(0), squares + frames.T @ frames
    mean = total / count
    components = torch.linalg.eigh(squares / count - torch.outer(mean, mean)).eigenvectors[:, -size:]

    def decoded(power: Tensor) -> Tensor:
        code = (there(power.double()) - mean) @ components
        return back(mean + code @ components.T).to(power.dtype)

    return decoded


def reference(name: str, train: SequenceDataset) -> Source:
    """One of `NAMES`, with what it takes from the training part."""
    if name.startswith("linear-"):
        return linear_code(train, SIZE, name.removeprefix("linear-"))
    if name == "mean-spectrum":
        return lambda power: power.mean(0, keepdim=True).expand_as(power)
    if name == "repeater-smoothed":
        mean = (train.lengths[:, None] * torch.stack([train[i].double().mean(0) for i in range(len(train))])).sum(0)
        mean = mean / train.num_frames
        a, b = smoothing(train, mean)
        return lambda power: (a * smoothed(repeated(power.double(), mean)) + b * mean).to(power.dtype)
    logs = torch.stack([train[i].double().log().mean(0) for i in range(len(train))])
    typical = (train.lengths[:, None] * logs).sum(0).div(train.num_frames).exp()
    if name == "phases":
        return lambda power: typical.to(power.dtype).expand_as(power)
    return lambda power: repeated(power, typical.to(power.dtype))


def resynthesised(source: Source, utterance: Path, front_end: SpeechFrontEnd) -> tuple[Tensor, Tensor]:
    """An utterance as the front end prepares it, and made of the source's spectrogram and the original's phases."""
    original = front_end.read(utterance)
    power, phase, length = front_end.analyse(original)
    return original, front_end.synthesise(source(power).clamp_min(front_end.settings.power_floor), phase, length)


def score(source: Source, data: ExperimentData, *, num_workers: int | None = None) -> ScoreTable:
    """The measures of Table 13.1 of each test utterance.

    Arguments:
        source: The reference.
        data: A corpus of speech.
        num_workers: Processes; None takes all cores.
    """
    settings = data.metadata.get("front_end")
    front_end = SpeechFrontEnd(None if settings is None else FrontEndSettings.from_dict(settings))
    names = [recording.name for recording in data.recordings]
    pairs = [resynthesised(source, recording.path, front_end) for recording in data.recordings]
    originals, made = zip(*pairs, strict=True)
    options: Any = {"sample_rate": front_end.settings.sample_rate, "metrics": ["si_sdr", "pesq_nb", "estoi"]}
    table = speech_metrics(originals, made, names=names, num_workers=num_workers, progress=False, **options)
    return table.with_column("pesq", [raw_pesq(value) for value in table.columns["pesq_nb"]])


def log_likelihood(source: Source, test: SequenceDataset) -> float:
    """Log-likelihood in nats per frame under the Gamma density with shape 1, the reference being its scale."""
    floor = FrontEndSettings().power_floor
    powers = [test[i] for i in range(len(test))]
    each = [Gamma(source(power).double().clamp_min(floor).log()).log_prob(power.double()).sum() for power in powers]
    return float(torch.stack(each).sum()) / test.num_frames


def reference_task(name: str, corpus: str, data: ExperimentData, *, num_workers: int | None = None) -> Task:
    """One reference on the test part of a corpus: the means, and each utterance's scores in the order of the corpus."""
    key = {"corpus": corpus, "name": name}

    def compute() -> list[Record]:
        source = reference(name, data.train)
        table = score(source, data, num_workers=num_workers)
        means = {line.metric: rounded(line.mean) for line in table.summary()}
        scores = {metric: [rounded(value) for value in values] for metric, values in table.columns.items()}
        facts = data_facts(train=data.train, test=data.test)
        if name in PREDICTIONS:
            means["log_likelihood"] = round(log_likelihood(source, data.test), 2)
        return [{**key, **means, "utterances": list(table.names), "scores": scores, "data": facts}]

    return Task([key], compute)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    options = parser(__doc__)
    options.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    options.add_argument("--corpus", default="librispeech")
    options.add_argument("--output", type=Path, default=RESULTS / "speech-references.json")
    options.add_argument("--workers", type=int, help="processes for the measures; all cores where none is given")
    options.add_argument("--again", action="store_true", help="also what is in the file already")
    chosen = options.parse_args(arguments)
    names = select(options, chosen.names, NAMES)
    data = load_experiment(chosen.corpus, protocol("speech"))
    tasks = (reference_task(name, chosen.corpus, data, num_workers=chosen.workers) for name in names)
    complete(ResultFile(chosen.output, KEY), tasks, again=chosen.again)
    return 0


if __name__ == "__main__":
    sys.exit(main())
