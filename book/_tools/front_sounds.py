"""Make the sounds of the first page, `book/_static/front/`: a recording in noise, and what a model makes of it.

python book/_tools/front_sounds.py

The recordings of `data/exhibits/librispeech` (CC BY 4.0) in the test part are by readers whom the model has never
heard. Of them all, the one that gains the median is taken: neither the best nor the worst.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import NamedTuple

import soundfile
import torch

from dvae_lib import DVAE
from dvae_lib.enhancement import enhance, mix, pink_noise
from dvae_lib.metrics import si_sdr
from dvae_lib.resources import resource_path

FOLDER = Path(__file__).resolve().parents[1] / "_static" / "front"
MODEL, SNR, SEED = "rvae-noncausal-librispeech-power", 5.0, 0


class Pair(NamedTuple):
    """A recording in noise, and enhanced, with what was measured (SI-SDR in dB)."""

    recording: str
    noisy: torch.Tensor
    enhanced: torch.Tensor
    rate: int
    before: float
    after: float


def pair(model: DVAE, recording: str) -> Pair:
    """Mix a recording with pink noise, and enhance it."""
    samples, rate = soundfile.read(resource_path("exhibits", "librispeech", recording), dtype="float32")
    speech = torch.from_numpy(samples)
    noisy = mix(speech, pink_noise(len(speech), torch.Generator().manual_seed(SEED)), SNR)
    enhanced = enhance(model, noisy, rate, generator=torch.Generator().manual_seed(SEED)).waveform
    return Pair(recording, noisy, enhanced, rate, si_sdr(speech, noisy), si_sdr(speech, enhanced))


def main() -> None:
    """Write two sounds, and what was done and measured."""
    with resource_path("exhibits", "librispeech", "list.csv").open(encoding="utf-8") as lines:
        recordings = [line["utterance"] for line in csv.DictReader(lines) if line["part"] == "test"]
    model = DVAE.from_pretrained(MODEL)
    pairs = sorted((pair(model, name) for name in recordings), key=lambda one: one.after - one.before)
    gains = [one.after - one.before for one in pairs]
    taken = pairs[len(pairs) // 2]
    FOLDER.mkdir(exist_ok=True)
    level = 0.9 / float(taken.noisy.abs().max())
    for name, sound in (("noisy", taken.noisy), ("enhanced", taken.enhanced)):
        soundfile.write(FOLDER / f"{name}.mp3", (level * sound).numpy(), taken.rate)
    about = {
        "recording": taken.recording, "model": MODEL, "noise": "pink", "snr_db": SNR, "seed": SEED,
        "si_sdr_noisy": round(taken.before, 1), "si_sdr_enhanced": round(taken.after, 1),
        "gains": [round(gain, 1) for gain in gains],
        "licence": "CC BY 4.0: LibriSpeech, V. Panayotov, G. Chen, D. Povey, S. Khudanpur (2015), from LibriVox",
    }  # fmt: skip
    (FOLDER / "sounds.json").write_text(json.dumps(about) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
