"""What files of dynamical VAEs weigh, and how decoded speech sounds (Section 14.4).

    python -m dvae_lib.experiments.studies.source_coding [PART ...]

- ``lossless``: all test chorales in one file with bits back, by models of the chorales: bits of the file, of what was
  lent and of the header, and the bound, at the same latents and as a mean over samples, in bits per quarter note;
  beside them, what general compressors make of the same bits.
- ``rates``: beginnings of validation utterances of LibriSpeech, 3 s each, coded by models of speech with several steps
  of the quantiser, in closed and in open loop. Rates in bit/s; the log-spectral distance (dB) of the decoded
  spectrogram; PESQ (wide band) and ESTOI of what the decoder plays, which makes up the phases, and of the decoded
  spectrogram with the original's phases, which no file holds.
- ``opus``: the same utterances by the Opus codec (`opusenc` and `opusdec` of opus-tools, which must be installed), at
  nominal bitrates; the rate counts audio packets, without the Ogg container. Opus codes the waveform, phases included.

Models are those that ship. Nothing is chosen by these numbers, and no test speaker is heard. The rows go into
data/results/source_coding.json. It takes about ten minutes on a CPU core.
"""

import bz2
import lzma
import math
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor

from dvae_lib.coding import NATURAL_STEP, Loop, compress, decode_speech, decompress, encode_speech
from dvae_lib.data import load_corpus
from dvae_lib.data.music import load_chorales
from dvae_lib.data.sequences import SequenceDataset
from dvae_lib.data.speech import SpeechFrontEnd
from dvae_lib.experiments.corpora import data_facts, evenly
from dvae_lib.experiments.records import Record
from dvae_lib.experiments.results import ResultFile, Task, complete, rounded
from dvae_lib.experiments.studies.command import RESULTS, parser, select
from dvae_lib.extras import needed
from dvae_lib.metrics import speech_metrics
from dvae_lib.models import DVAE

__all__ = [
    "KEY",
    "PARTS",
    "SourceCodingProtocol",
    "log_spectral_distance",
    "lossless_task",
    "main",
    "opus",
    "opus_task",
    "packet_bytes",
    "rate_task",
    "rates_of",
    "speech_facts",
    "validation_speech",
]

KEY = ("part", "name", "step", "loop")
PARTS = ("lossless", "rates", "opus")
METRICS = ["pesq_wb", "estoi"]


@dataclass(frozen=True)
class SourceCodingProtocol:
    """What is coded, by what, how finely.

    Attributes:
        lossless: Models of the chorales.
        lossless_steps: Steps of the latents' grid, in deviations of the posterior.
        speech: Models of speech and loops.
        steps: Steps of the quantiser.
        utterances: Number of validation utterances, each of another speaker.
        seconds: How much of each.
        opus: Nominal bitrates in bit/s.
        bound_samples: Samples of the bound in its mean.
    """

    lossless: tuple[str, ...] = tuple(
        f"{name}-chorales" for name in ("vae", "dkf", "storn", "rvae-causal", "dsae", "srnn", "vrnn")
    )
    lossless_steps: tuple[float, ...] = (0.5, 3.0)
    speech: tuple[tuple[str, Loop], ...] = (
        ("vae-librispeech-power", "closed"),
        ("dkf-librispeech-power", "closed"),
        ("vrnn-librispeech-power", "closed"),
        ("vrnn-librispeech-power", "open"),
        ("rvae-causal-librispeech-power", "closed"),
        ("dsae-librispeech-power", "closed"),
        ("vrnn-librispeech-scheduled-power", "closed"),
        ("vrnn-librispeech", "closed"),
        ("vrnn-librispeech", "open"),
        ("srnn-librispeech", "open"),  # its inference looks ahead, so a closed loop has nothing to look at
    )
    steps: tuple[float, ...] = (1.0, NATURAL_STEP, 10.0, 30.0)
    utterances: int = 4
    seconds: float = 3.0
    opus: tuple[int, ...] = (6_000, 8_000, 12_000, 16_000, 24_000)
    bound_samples: int = 10


def lossless_task(name: str, model: DVAE, test: SequenceDataset, step: float, samples: int) -> Task:
    """All sequences in one file with bits back.

    Raises:
        ArithmeticError: What is decompressed is not what was compressed.
    """
    key = {"part": "lossless", "name": name, "step": step, "loop": ""}

    def compute() -> list[Record]:
        sequences = [test[i] for i in range(len(test))]
        file = compress(model, sequences, step=step)
        if not all(torch.equal(a, b) for a, b in zip(sequences, decompress(model, file.data), strict=True)):
            raise ArithmeticError(f"{name}: what was decompressed is not what was compressed")
        generator, frames = Generator().manual_seed(0), test.num_frames
        total = 0.0
        with torch.no_grad():
            for x in sequences:
                total += float(model.vlb(x[None], num_samples=samples, generator=generator).value)
        bits = {
            "file": file.bits,
            "lent": file.initial_bits,
            "header": file.header_bits,
            "net": file.net_bits,
            "bound_at_latents": file.bound_bits,
            "bound": -total / math.log(2),
        }
        per_frame = {entry: rounded(value / frames) for entry, value in bits.items()}
        return [{**key, "frames": frames, "sequences": len(test), **per_frame, "data": data_facts(test=test)}]

    return Task([key], compute)


def _general_task(test: SequenceDataset) -> Task:
    """What general compressors make of the same zeros and ones, eight to a byte."""
    compressors: dict[str, Callable[[bytes], bytes]] = {
        "none": bytes,
        "zlib": partial(zlib.compress, level=9),
        "bz2": bz2.compress,
        "xz": partial(lzma.compress, preset=9 | lzma.PRESET_EXTREME),
    }
    keys = [{"part": "lossless", "name": name, "step": 0.0, "loop": ""} for name in compressors]

    def compute() -> list[Record]:
        frames = torch.cat([test[i] for i in range(len(test))]).numpy().astype(bool)
        data = np.packbits(frames).tobytes()
        sizes = (8 * len(squeeze(data)) / len(frames) for squeeze in compressors.values())
        facts = {"frames": len(frames), "sequences": len(test), "data": data_facts(test=test)}
        return [{**key, **facts, "file": rounded(size)} for key, size in zip(keys, sizes, strict=True)]

    return Task(keys, compute)


def validation_speech(chosen: SourceCodingProtocol, corpus: str = "librispeech") -> tuple[list[str], list[Tensor]]:
    """Names and beginnings of validation utterances, as the front end prepares them."""
    data = load_corpus(corpus, progress=False)
    utterances = data.utterances("validation")
    kept = [utterances[i] for i in evenly(len(utterances), chosen.utterances)]
    length = round(chosen.seconds * data.front_end.settings.sample_rate)
    return [u.name for u in kept], [data.front_end.read(u.path)[:length] for u in kept]


def speech_facts(speech: Sequence[Tensor]) -> Record:
    """Number of recordings, their samples and a checksum."""
    return data_facts(validation=SequenceDataset([waveform[:, None] for waveform in speech]))


def log_spectral_distance(power: Tensor, other: Tensor, floor: float = 1e-10) -> float:
    """Root-mean-square difference of two power spectrograms (T, F) in dB over a frame, averaged over the frames."""
    decibels = (10 * (p.double().clamp_min(floor).log10()) for p in (power, other))
    return float(torch.sub(*decibels).square().mean(1).sqrt().mean())


def rate_task(
    name: str, model: DVAE, loop: Loop, step: float, speech: Sequence[Tensor], front_end: SpeechFrontEnd
) -> Task:
    """Utterances coded by one model with one step: means, and values of each utterance."""
    key = {"part": "rates", "name": name, "step": rounded(step), "loop": loop}

    def compute() -> list[Record]:
        return [{**key, **rates_of(model, loop, step, speech, front_end, name=name), "data": speech_facts(speech)}]

    return Task([key], compute)


def rates_of(
    model: DVAE, loop: Loop, step: float, speech: Sequence[Tensor], front_end: SpeechFrontEnd, *, name: str = ""
) -> Record:
    """Rates (bit/s), distances (dB) and scores of utterances coded by a model: means, and values of each.

    Arguments:
        model: The codec's model.
        loop: See `dvae_lib.coding.encode`.
        step: The quantiser's.
        speech: Waveforms, (samples,).
        front_end: Of the model.
        name: The model's, in the files.
    """
    rows: dict[str, list[float]] = {"rate": [], "code_rate": [], "estimated_rate": [], "distance": []}
    played, informed = [], []
    for waveform in speech:
        file = encode_speech(model, waveform, step=step, loop=loop, name=name)
        analysis = front_end.analyse(waveform / waveform.abs().max())
        rows["rate"].append(file.bits_per_second)
        rows["code_rate"].append(file.code_bits / file.seconds)
        rows["estimated_rate"].append(file.estimated_bits / file.seconds)
        rows["distance"].append(log_spectral_distance(analysis.power, file.power))
        played.append(decode_speech(model, file.data)[0])
        informed.append(front_end.synthesise(file.power.float(), analysis.phase, analysis.length))
    return _means(rows) | _scores(speech, played, "played") | _scores(speech, informed, "phases")


def opus_task(bitrate: int, speech: Sequence[Tensor], rate: int) -> Task:
    """Utterances coded by Opus at a nominal bitrate; 0 stands for true magnitudes with Griffin and Lim's phases."""
    key = {"part": "opus", "name": f"opus-{bitrate}" if bitrate else "griffin-lim", "step": 0.0, "loop": ""}

    def compute() -> list[Record]:
        front_end, rates, played = SpeechFrontEnd(), [], []
        for waveform in speech:
            if bitrate:
                decoded, bits = opus(waveform, bitrate, rate)
                rates.append(bits * rate / len(waveform))
            else:
                power, _, length = front_end.analyse(waveform)
                decoded = front_end.griffin_lim(power, length, generator=Generator().manual_seed(0))
                rates.append(math.nan)
            played.append(decoded)
        scores = _scores(speech, played, "played")
        return [{**key, **_means({"rate": rates}), **scores, "data": speech_facts(speech)}]

    return Task([key], compute)


def opus(waveform: Tensor, bitrate: int, rate: int = 16_000) -> tuple[Tensor, int]:
    """A waveform after the Opus codec, and the bits of its audio packets.

    Raises:
        FileNotFoundError: opus-tools are not installed.
    """
    soundfile = needed("soundfile", "Writing sound files")
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        soundfile.write(here / "in.wav", waveform.numpy(), rate, subtype="FLOAT")
        told = ["opusenc", "--quiet", "--bitrate", str(bitrate / 1000), "--speech", "in.wav", "out.opus"]
        subprocess.run(told, cwd=here, check=True)
        back = ["opusdec", "--quiet", "--rate", str(rate), "--float", "out.opus", "out.wav"]
        subprocess.run(back, cwd=here, check=True)
        decoded, _ = soundfile.read(here / "out.wav", dtype="float32")
        bits = 8 * packet_bytes((here / "out.opus").read_bytes())
    samples = torch.from_numpy(decoded)[: len(waveform)]
    return torch.nn.functional.pad(samples, (0, len(waveform) - len(samples))), bits


def packet_bytes(data: bytes) -> int:
    """Bytes of the audio packets of an Ogg file; the first two packets, on pages of their own, are headers."""
    sizes, at = [], 0
    while at < len(data):
        segments = data[at + 27 : at + 27 + data[at + 26]]
        sizes.append(sum(segments))
        at += 27 + len(segments) + sum(segments)
    return sum(sizes[2:])


def _means(rows: dict[str, list[float]]) -> Record:
    return {name: rounded(sum(values) / len(values)) for name, values in rows.items()} | {
        f"{name}_each": [rounded(value) for value in values] for name, values in rows.items()
    }


def _scores(speech: Sequence[Tensor], made: Sequence[Tensor], what: str) -> Record:
    table = speech_metrics(speech, made, sample_rate=16_000, metrics=METRICS, num_workers=0, progress=False)
    return _means({f"{name}_{what}": list(table.columns[name]) for name in METRICS})


def _tasks(parts: Sequence[str], chosen: SourceCodingProtocol) -> Iterator[Task]:
    if "lossless" in parts:
        test = load_chorales().test
        yield _general_task(test)
        for name in chosen.lossless:
            model = DVAE.from_pretrained(name)
            for step in chosen.lossless_steps:
                yield lossless_task(name, model, test, step, chosen.bound_samples)
    if "rates" in parts or "opus" in parts:
        _, speech = validation_speech(chosen)
        if "opus" in parts:
            for bitrate in (0, *chosen.opus):
                yield opus_task(bitrate, speech, 16_000)
        for name, loop in chosen.speech if "rates" in parts else ():
            model = DVAE.from_pretrained(name)
            for step in chosen.steps:
                yield rate_task(name, model, loop, step, speech, SpeechFrontEnd())


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    options = parser(__doc__)
    options.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    options.add_argument("--utterances", type=int, default=SourceCodingProtocol.utterances)
    options.add_argument("--output", type=Path, default=RESULTS / "source_coding.json")
    options.add_argument("--again", action="store_true", help="compute also what is in the file already")
    chosen = options.parse_args(arguments)
    parts = select(options, chosen.parts, PARTS)
    protocol = SourceCodingProtocol(utterances=chosen.utterances)
    complete(ResultFile(chosen.output, KEY), _tasks(parts, protocol), again=chosen.again)
    return 0


if __name__ == "__main__":
    sys.exit(main())
