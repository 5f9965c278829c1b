"""The study of source coding, on made-up data; interrupted, it goes on to the same numbers."""

import shutil

import pytest
import torch

from dvae_lib import VAE
from dvae_lib.data.sequences import SequenceDataset
from dvae_lib.data.speech import SpeechFrontEnd
from dvae_lib.experiments.results import ResultFile, complete
from dvae_lib.experiments.studies.source_coding import (
    KEY,
    log_spectral_distance,
    lossless_task,
    opus,
    opus_task,
    packet_bytes,
    rate_task,
)


def voices(number: int = 2) -> list[torch.Tensor]:
    t = torch.arange(24_000) / 16_000
    tones = (sum(torch.sin(2 * torch.pi * (110 + 20 * i) * k * t) / k for k in range(1, 15)) for i in range(number))
    found = [tone * (0.6 + 0.4 * torch.sin(2 * torch.pi * 3 * t)) for tone in tones]
    return [tone / tone.abs().max() for tone in found]


def test_lossless_rows_add_up(tmp_path, made_by):
    torch.manual_seed(0)
    model = VAE(6, 2, observation="bernoulli").eval()
    generator = torch.Generator().manual_seed(0)
    data = SequenceDataset([(torch.rand(n, 6, generator=generator) < 0.3).float() for n in (12, 7)])
    file = ResultFile(tmp_path / "rows.json", KEY)
    complete(file, [lossless_task("vae", model, data, 0.5, 20)], say=lambda line: None)
    (row,) = file.records
    made_by(row)
    assert row["file"] == pytest.approx(row["lent"] + row["header"] + row["net"], abs=1e-3)
    assert row["net"] == pytest.approx(row["bound"], rel=0.1)


def test_rates_and_scores_go_on_where_they_stopped(tmp_path, made_by):
    torch.manual_seed(0)
    model = VAE(513, 2, observation="gamma", encoder=(8,), decoder=(8,)).eval()
    speech, front_end = voices(), SpeechFrontEnd()
    tasks = [rate_task("vae", model, "closed", step, speech, front_end) for step in (1.0, 10.0)]
    whole, stopped = (ResultFile(tmp_path / name, KEY) for name in ("whole.json", "stopped.json"))
    complete(whole, tasks, say=lambda line: None)
    complete(stopped, tasks[:1], say=lambda line: None)
    complete(stopped, tasks, say=lambda line: None)
    assert whole.records == stopped.records
    fine, coarse = whole.records
    made_by(fine)
    assert fine["rate"] > coarse["rate"]
    assert fine["code_rate"] < fine["rate"]
    assert len(fine["estoi_played_each"]) == 2
    assert fine["distance"] > 0


def test_the_distance_of_spectrograms_in_decibels():
    power = torch.rand(5, 4) + 0.1
    assert log_spectral_distance(power, power) == 0
    assert log_spectral_distance(power, 10 * power) == pytest.approx(10, rel=1e-5)


@pytest.mark.skipif(shutil.which("opusenc") is None, reason="opus-tools are not installed")
def test_opus_counts_audio_packets_and_keeps_time():
    (voice,) = voices(1)
    decoded, bits = opus(voice, 16_000)
    assert decoded.shape == voice.shape
    assert bits / 1.5 == pytest.approx(16_000, rel=0.35)
    correlation = torch.corrcoef(torch.stack([voice, decoded]))[0, 1]
    assert correlation > 0.5  # no delay is left
    (row,) = opus_task(0, [voice], 16_000).compute()
    assert row["rate"] is None


def test_packets_are_counted_from_the_lacing_values():
    def page(*segments: int) -> bytes:
        return b"OggS" + bytes(22) + bytes([len(segments), *segments]) + bytes(sum(segments))

    assert packet_bytes(page(19) + page(60) + page(100, 255, 3) + page(7)) == 365
