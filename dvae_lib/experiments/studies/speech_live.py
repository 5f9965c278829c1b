r"""What stands behind the scores of Table 13.1: the past alone, tighter bounds, speech made up, feedback, tones.

    python -m dvae_lib.experiments.studies.speech_live [PART ...]

The models of both blocks of Table 13.1 are asked: "power", those of the review's protocol, whose networks read powers,
and "log_power", those of `dvae_lib.experiments.studies.speech_long`. Nothing is trained, and nothing is chosen by these
numbers. Parts:

- ``scores``: SI-SDR, PESQ (raw) and ESTOI of each test utterance, resynthesised by the models of the first block, whose
  records were made before such scores were kept, in each of their modes.
- ``past-alone``: the same of autoregressive models that are told the true past, while :math:`\mathbf{z}_t` is drawn
  from its prior, so that nothing of frame t itself gets through.
- ``bounds``: the VLB of pieces of 50 frames, and what importance weighting and a particle filter add to it.
- ``continuations``: two seconds of test utterances are resynthesised, and the next two made up; how fast the levels of
  frequency bands move in either (`movement`), and how alike neighbouring latent vectors are.
- ``rounds``: the cost of frames when the past has gone through the model 0, 1, 2 ... times (`costs_by_rounds`).
- ``tones``: which frequency is how much too loud, whether it jams the feedback line (`dvae_lib.evaluation.jamming`),
  both on validation speakers; and the scores of some test utterances as they are, and after the average excess of each
  frequency has been taken away.

The rows go into data/results/speech-live.json, and each part and model is written as soon as it is there. It takes
about half an hour on a CPU core.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from dvae_lib.data.pretrained import pretrained_names
from dvae_lib.data.sequences import SequenceDataset
from dvae_lib.data.speech import FrontEndSettings, SpeechFrontEnd
from dvae_lib.evaluation import jamming
from dvae_lib.experiments.corpora import ExperimentData, data_facts, evenly, load_experiment
from dvae_lib.experiments.protocol import REVIEW_MODELS, SCHEDULED, SCHEDULED_ENDING, protocol
from dvae_lib.experiments.records import Record
from dvae_lib.experiments.results import ResultFile, Task, rounded
from dvae_lib.experiments.review import LABELS
from dvae_lib.experiments.studies.command import RESULTS, completed, parser, select
from dvae_lib.experiments.studies.speech_references import resynthesised
from dvae_lib.metrics import raw_pesq, speech_metrics
from dvae_lib.models import DVAE

__all__ = [
    "BANDS",
    "KEY",
    "PARTS",
    "Block",
    "LiveProtocol",
    "LivePart",
    "Subject",
    "costs_by_rounds",
    "levels",
    "main",
    "modulation",
    "movement",
    "past_alone",
    "subjects",
    "task",
    "weights_of",
]

CORPUS = "librispeech"
KEY = ("part", "block", "name")

Block = Literal["power", "log_power"]
"""What the networks of a block of Table 13.1 read."""

BANDS = (4, 9, 15, 21, 28, 36, 44, 54, 64, 75, 88, 102, 118, 135, 154, 175, 198, 224, 253, 284, 319, 357, 400, 447, 499)
"""Edges of frequency bands about as wide as the ear's, in bins of 15.6 Hz."""

OCTAVES = (1, 2, 4, 8, 16)
"""Frequencies of modulation in Hz, in whose surrounding octaves movement is counted."""


@dataclass(frozen=True)
class LiveProtocol:
    """Sizes.

    Attributes:
        pieces: Number of pieces whose bounds are compared, each of another utterance.
        piece: The first of a piece's frames, and the first after them.
        samples: Numbers of importance samples.
        particles: Of the particle filter.
        start: Frames that are resynthesised before a model is left alone.
        new: Frames that it makes up.
        draws: Continuations of each utterance.
        sequences: Validation sequences in which a tone is looked for.
        tone_utterances: Test utterances that are scored without it.
        rounds: After how many rounds the cost is written down.
        round_sequences: Number of test utterances in it.
        round_frames: How much of each.
        num_workers: Processes for the measures; None takes all cores.
    """

    pieces: int = 8
    piece: tuple[int, int] = (100, 150)
    samples: tuple[int, ...] = (20, 100)
    particles: int = 20
    start: int = 125
    new: int = 125
    draws: int = 2
    sequences: int = 32
    tone_utterances: int = 8
    rounds: tuple[int, ...] = (0, 1, 2, 3, 5, 10, 20, 49)
    round_sequences: int = 8
    round_frames: int = 50
    num_workers: int | None = None


@dataclass(frozen=True)
class Subject:
    """A trained model in one mode.

    Attributes:
        block: Of Table 13.1.
        model: Its name in the library.
        mode: "TF", "TF-GM" or "GM".
        weights: Name or folder of the trained model.
    """

    block: Block
    model: str
    mode: str
    weights: str | Path

    @property
    def name(self) -> str:
        """As in the tables: "SRNN", "SRNN-TF-GM", "SRNN-GM"."""
        return LABELS[self.model] + ("" if self.mode == "TF" else f"-{self.mode}")

    @property
    def feedback(self) -> float:
        """The share of frames that the model reads of its own."""
        return 0.0 if self.mode == "TF" else 1.0

    def load(self) -> DVAE:
        """The model.

        Raises:
            ValueError: Its networks do not read what those of its block read.
        """
        model = DVAE.from_pretrained(self.weights).eval()
        if model.inputs != self.block:
            raise ValueError(f"Models of this block read {self.block}, but those of {self.weights} read {model.inputs}")
        return model


def weights_of(model: str, block: Block, *, scheduled: bool = False) -> str:
    """The name of a trained model.

    Example:
        >>> weights_of("srnn", "power", scheduled=True)
        'srnn-librispeech-scheduled-power'
    """
    return f"{model}-{CORPUS}{SCHEDULED_ENDING * scheduled}{'-power' * (block == 'power')}"


def subjects() -> list[Subject]:
    """All trained models of both blocks, in the order of Table 13.1."""
    every = []
    for block in get_args(Block):
        for mode in ("TF", "TF-GM", "GM"):
            for model in REVIEW_MODELS if mode == "TF" else SCHEDULED:
                every.append(Subject(block, model, mode, weights_of(model, block, scheduled=mode == "GM")))
    return [subject for subject in every if subject.weights in pretrained_names()]


# --- what is measured ---


@torch.no_grad()
def past_alone(
    model: DVAE, x: Float[Tensor, "batch time x_dim"], *, generator: Generator | None = None
) -> Float[Tensor, "batch time x_dim"]:
    r"""Means of :math:`p_\theta(\mathbf{x}_t \mid \mathbf{x}_{1:t-1}, \mathbf{z}_{1:t})`, each :math:`\mathbf{z}_t`
    drawn from its prior.

    Arguments:
        model: A predictive model.
        x: The true frames.
        generator: Source of the draws.
    """
    state, x_prev, means = model.initial_state(len(x), generator=generator), torch.zeros_like(x[:, 0]), []
    for x_t in x.unbind(1):
        step = model.step(state, x_prev, generator=generator)
        means.append(step.observation.mean)
        state, x_prev = step.state, x_t
    return torch.stack(means, 1)


@torch.no_grad()
def costs_by_rounds(
    model: DVAE, x: Float[Tensor, "batch time x_dim"], rounds: Sequence[int], *, seed: int = 0
) -> tuple[list[float], float]:
    r"""The cost of true frames when the past has gone through the model n times, at the same latent vectors.

    .. math:: \hat{\mathbf{x}}^{(0)}_t = \mathbf{x}_t, \qquad
        \hat{\mathbf{x}}^{(n)}_t = \mathbb{E}[\mathbf{x}_t \mid \hat{\mathbf{x}}^{(n-1)}_{1:t-1}, \mathbf{z}_{1:t}]

    Zero rounds is teacher forcing; as many as there are frames is generation mode.

    Arguments:
        model: A predictive model.
        x: The true frames.
        rounds: The numbers n, increasing.
        seed: Of the latent vectors, and of the sample.

    Returns:
        The mean of :math:`-\log p(\mathbf{x}_t \mid \hat{\mathbf{x}}^{(n)}_{1:t-1}, \mathbf{z}_{1:t})` for each n, in
        nats per frame; and the same where a sample is read after one round in place of the mean.
    """
    values = {"z": model.inference(x, generator=Generator(x.device).manual_seed(seed))["z"].sample}
    past, sample, costs = x, x, []
    for n in range(max(rounds) + 1):
        seen = model.generation(past, values).observation
        if n in rounds:
            costs.append(-seen.log_prob(x).mean().item())
        if n == 0:
            sample = seen.sample(generator=Generator(x.device).manual_seed(seed + 1))  # type: ignore[call-arg]
        past = seen.mean
    return costs, -model.generation(sample, values).observation.log_prob(x).mean().item()


def levels(power: Float[Tensor, "*batch time bins"]) -> Float[Tensor, "*batch time bands"]:
    """Levels of the bands, in dB below the loudest frame of the sequence, at most 70."""
    bands = torch.stack([power[..., a:b].sum(-1) for a, b in pairwise(BANDS)], -1)
    return 10 * (bands / power.sum(-1).amax(-1)[..., None, None]).clamp(min=1e-7).log10()


def modulation(power: Float[Tensor, "batch time bins"]) -> tuple[Float[Tensor, " f"], Float[Tensor, " f"]]:
    """How fast the levels move: frequencies of modulation in Hz, and the share of the levels' variance at each."""
    level = levels(power)
    moving = (level - level.mean(1, keepdim=True)) * torch.hann_window(level.shape[1])[:, None]
    spectrum = torch.fft.rfft(moving, dim=1).abs().square().mean((0, 2))[1:]
    return torch.arange(1, len(spectrum) + 1) * 62.5 / level.shape[1], spectrum / spectrum.sum()


def movement(power: Float[Tensor, "batch time bins"], real: Float[Tensor, "batch time bins"]) -> dict[str, object]:
    """Numbers by which made-up speech can be told from real speech.

    Arguments:
        power: Power spectrograms at 62.5 frames a second.
        real: Those of real speech.

    Returns:
        ``step``: change of the levels from a frame to the next (root mean square, dB); ``syllables`` and ``flicker``:
        shares of their variance at 2 to 10 Hz and from 16 Hz on (per cent); ``off``: half the summed difference of all
        shares from those of real speech (per cent); ``octaves``: the shares in the octaves around 1, 2, 4, 8, 16 Hz.
    """
    (hertz, share), width = modulation(power), 2**0.5
    parts = [share[(hertz >= f / width) & (hertz < f * width)].sum().item() for f in OCTAVES]
    return {
        "step": rounded(levels(power).diff(dim=-2).square().mean().sqrt().item()),
        "syllables": rounded(100 * share[(hertz >= 2) & (hertz < 10)].sum().item()),
        "flicker": rounded(100 * share[hertz >= 16].sum().item()),
        "off": rounded(50 * (share - modulation(real)[1]).abs().sum().item()),
        "octaves": [rounded(part) for part in parts],
    }


def _always(power: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda _: power


def _scores(data: ExperimentData, spectrograms: Sequence[Tensor], num_workers: int | None, *kinds: str) -> Record:
    """Means and the scores of each recording, resynthesised from these spectrograms with its own phases."""
    settings = data.metadata.get("front_end")
    front_end = SpeechFrontEnd(None if settings is None else FrontEndSettings.from_dict(settings))
    originals, made = [], []
    for recording, power in zip(data.recordings, spectrograms, strict=True):
        original, estimate = resynthesised(_always(power), recording.path, front_end)
        originals.append(original)
        made.append(estimate)
    rate = front_end.settings.sample_rate
    table = speech_metrics(originals, made, sample_rate=rate, metrics=list(kinds), num_workers=num_workers)
    if "pesq_nb" in kinds:
        table = table.with_column("pesq", [raw_pesq(value) for value in table.columns["pesq_nb"]])
    scores = {name: [rounded(value) for value in values] for name, values in table.columns.items()}
    return {**{line.metric: rounded(line.mean) for line in table.summary()}, "scores": scores}


# --- the parts ---


def _noise(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def _some(data: ExperimentData, count: int) -> ExperimentData:
    """The corpus with so many test utterances, evenly over all of them."""
    kept = evenly(len(data.test), count)
    test = SequenceDataset([data.test[i] for i in kept], names=[data.test.names[i] for i in kept])
    return replace(data, test=test, recordings=tuple(data.recordings[i] for i in kept))


def _test_batch(data: ExperimentData) -> tuple[Tensor, list[int]]:
    return data.test.batch(range(len(data.test)))[0], [len(data.test[i]) for i in range(len(data.test))]


def _cut(x: Tensor, lengths: Sequence[int]) -> list[Tensor]:
    return [sequence[:length] for sequence, length in zip(x, lengths, strict=True)]


@torch.no_grad()
def _decoded(subject: Subject, data: ExperimentData) -> list[Tensor]:
    x, lengths = _test_batch(data)
    options: Any = {"feedback": subject.feedback, "generator": _noise()}
    return _cut(subject.load().reconstruct(x, lengths=torch.tensor(lengths), **options).mean, lengths)


def _score(subject: Subject, data: ExperimentData, sizes: LiveProtocol) -> Record:
    return _scores(data, _decoded(subject, data), sizes.num_workers, "si_sdr", "pesq_nb", "estoi")


def _past_alone(subject: Subject, data: ExperimentData, sizes: LiveProtocol) -> Record:
    x, lengths = _test_batch(data)
    means = past_alone(subject.load(), x, generator=_noise())
    return _scores(data, _cut(means, lengths), sizes.num_workers, "si_sdr", "pesq_nb", "estoi")


@torch.no_grad()
def _bounds(subject: Subject, data: ExperimentData, sizes: LiveProtocol) -> Record:
    first, last = sizes.piece
    enough = [i for i in range(len(data.test)) if len(data.test[i]) >= last]
    x = torch.stack([data.test[enough[i]][first:last] for i in evenly(len(enough), sizes.pieces)])
    model, generator = subject.load(), _noise()

    def per_frame(value: Tensor) -> list[float | None]:
        return [rounded(v / x.shape[1]) for v in value.tolist()]

    found: Record = {"frames": x.shape[1], "vlb": per_frame(model.vlb(x, num_samples=10, generator=generator).value)}
    for count in sizes.samples:
        better = model.importance_weighted_bound(x, num_samples=count, chunk_size=10, generator=generator)
        found[f"iw{count}"] = per_frame(better)
    if model.is_causal:
        found["particles"] = sizes.particles
        found["smc"] = per_frame(model.smc_bound(x, num_particles=sizes.particles, generator=generator))
    return found


@torch.no_grad()
def _continuations(subject: Subject, data: ExperimentData, sizes: LiveProtocol) -> Record:
    whole = sizes.start + sizes.new
    enough = [sequence[:whole] for sequence in (data.test[i] for i in range(len(data.test))) if len(sequence) >= whole]
    x = torch.stack(enough).repeat(sizes.draws, 1, 1)
    model, real = subject.load(), x[:, sizes.start :]
    resynthesis = model.reconstruct(x, generator=_noise()).mean[:, sizes.start :]
    found: Record = {"utterances": len(enough), "real speech": movement(real, real)}
    found["resynthesised"] = movement(resynthesis, real)
    for emission in ("sample", "mean") if model.links.predictive else ("sample",):
        new = model.generate(sizes.new, prefix=x[:, : sizes.start], emission=emission, generator=_noise())
        z = new.latents["z"] - new.latents["z"].mean(1, keepdim=True)
        alike = ((z[:, 1:] * z[:, :-1]).mean() / z.square().mean()).item()
        kind = "made up" if emission == "sample" else "means read back"
        found[kind] = {**movement(new.observation.mean, real), "lag 1": rounded(alike)}
    return found


def _rounds(subject: Subject, data: ExperimentData, sizes: LiveProtocol) -> Record:
    enough = [i for i in range(len(data.test)) if len(data.test[i]) >= sizes.round_frames]
    chosen = [enough[i] for i in evenly(len(enough), sizes.round_sequences)]
    x = torch.stack([data.test[i][: sizes.round_frames] for i in chosen])
    costs, sampled = costs_by_rounds(subject.load(), x, sizes.rounds)
    return {"rounds": list(sizes.rounds), "costs": [rounded(cost) for cost in costs], "sampled": rounded(sampled)}


@torch.no_grad()
def _tones(subject: Subject, data: ExperimentData, sizes: LiveProtocol) -> Record:
    model, held_out = subject.load(), data.validation
    x = torch.stack([held_out[i] for i in evenly(len(held_out), sizes.sequences)])
    reply = model.reconstruct(x, feedback=subject.feedback, generator=_noise()).mean
    excess = 10 * (reply.log10() - x.log10()).mean((0, 1))
    entry = 2 + int(excess[2:].argmax())  # below, speech has no power
    found: Record = {"hertz": round(entry * 15.625), "excess": rounded((excess[entry] - excess.median()).item())}
    if subject.feedback:
        tone, heard = jamming(model, x)
        found["jamming"] = {"hertz": round(tone.entry * 15.625), "excess": rounded(tone.excess)}
        found["jamming"] |= {edit: [rounded(value) for value in values] for edit, values in heard.items()}
    some = _some(data, sizes.tone_utterances)
    decoded = _decoded(subject, some)
    equalised = [power * 10 ** (-excess / 10) for power in decoded]
    for name, powers in (("as it is", decoded), ("equalised", equalised)):
        found[name] = _scores(some, powers, sizes.num_workers, "si_sdr", "estoi")
    return found


Compute = Callable[[Subject, ExperimentData, LiveProtocol], Record]


class LivePart(NamedTuple):
    """A part of the study: what is computed of a model, and of which models."""

    compute: Compute
    asks: Callable[[Subject], bool]


PARTS: dict[str, LivePart] = {
    "scores": LivePart(_score, lambda subject: subject.block == "power"),
    "past-alone": LivePart(_past_alone, lambda subject: subject.model in SCHEDULED and subject.mode == "TF"),
    "bounds": LivePart(_bounds, lambda subject: subject.mode == "TF"),
    "continuations": LivePart(_continuations, lambda subject: subject.mode == "TF"),
    "rounds": LivePart(_rounds, lambda subject: subject.model in SCHEDULED and subject.mode != "TF-GM"),
    "tones": LivePart(_tones, lambda subject: subject.model in SCHEDULED),
}
"""By name."""


def task(part: str, subject: Subject, data: ExperimentData, sizes: LiveProtocol | None = None) -> Task:
    """One part for one model.

    Arguments:
        part: One of `PARTS`.
        subject: The model.
        data: The corpus; only its validation and test parts are used.
        sizes: How much is computed; None is the book's.
    """
    key: Record = {"part": part, "block": subject.block, "name": subject.name}
    sizes = LiveProtocol() if sizes is None else sizes

    def compute() -> list[Record]:
        facts = data_facts(validation=data.validation, test=data.test)
        return [{**key, **PARTS[part].compute(subject, data, sizes), "data": facts}]

    return Task([key], compute)


def tasks(parts: Sequence[str], data: ExperimentData, sizes: LiveProtocol | None = None) -> Iterator[Task]:
    """These parts for all trained models that they ask."""
    for part in parts:
        for subject in filter(PARTS[part].asks, subjects()):
            yield task(part, subject, data, sizes)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    options = parser(__doc__)
    options.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    options.add_argument("--output", type=Path, default=RESULTS / "speech-live.json")
    options.add_argument("--again", action="store_true", help="also what is in the file already")
    chosen = options.parse_args(arguments)
    parts = select(options, chosen.parts, list(PARTS))
    data = load_experiment(CORPUS, protocol("speech"))
    return completed(ResultFile(chosen.output, KEY), tasks(parts, data), again=chosen.again)


if __name__ == "__main__":
    sys.exit(main())
