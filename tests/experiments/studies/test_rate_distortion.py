"""Rate and distortion by the weight of the KL terms: two steps on eight made-up voices, resumed; what beta does."""

from dataclasses import replace

import pytest
import torch

from dvae_lib.experiments.results import ResultFile, complete
from dvae_lib.experiments.studies import rate_distortion, speech_long
from dvae_lib.experiments.studies.rate_distortion import (
    KEY,
    LOOPS,
    RateDistortionProtocol,
    codec_model,
    rate_distortion_tasks,
)
from dvae_lib.experiments.studies.source_coding import SourceCodingProtocol
from dvae_lib.experiments.studies.speech_long import long_data, long_protocol
from dvae_lib.experiments.trainings import Interrupted
from dvae_lib.graphs.links import looks_ahead


class Tiny(RateDistortionProtocol):
    """Four utterances, and batches as small."""

    def training(self, beta):
        own = super().training(beta)
        return replace(own, training=replace(own.training, batch_size=16), limit=4, test_limit=2)


TINY = Tiny(epochs=2, warm_up=1, steps=(1.0, 30.0), coded=SourceCodingProtocol(utterances=1, seconds=1.0))


@pytest.fixture(scope="module")
def data(eight_voices):
    speech_long.CORPUS, before = str(eight_voices), speech_long.CORPUS
    yield long_data(TINY.training(1.0))
    speech_long.CORPUS = before


@pytest.fixture
def speech(monkeypatch):
    t = torch.arange(16_000) / 16_000
    tone = sum(torch.sin(2 * torch.pi * 120 * k * t) / k for k in range(1, 15)) * (1 + torch.sin(20 * t))
    monkeypatch.setattr(rate_distortion, "validation_speech", lambda protocol: (["tone"], [tone / tone.abs().max()]))


def test_interrupted_it_goes_on_to_the_same_numbers(tmp_path, data, speech, interrupted, made_by):
    whole, stopped = (ResultFile(tmp_path / f"{name}.json", KEY) for name in ("whole", "stopped"))

    def tasks(folder):
        return rate_distortion_tasks(["vae"], [0.5, 2.0], [0], tmp_path / folder, TINY, data)

    complete(whole, tasks("whole"), say=lambda line: None)
    interrupted()
    with pytest.raises(Interrupted):
        complete(stopped, tasks("stopped"), say=lambda line: None)
    assert not stopped.records
    complete(stopped, tasks("stopped"), say=lambda line: None)
    differ = ("seconds", "machine")
    assert [{k: v for k, v in r.items() if k not in differ} for r in whole.records] == [
        {k: v for k, v in r.items() if k not in differ} for r in stopped.records
    ]
    assert [(r["beta"], r["step"], r["loop"]) for r in whole.records] == [
        (beta, step, "closed") for beta in (0.5, 2.0) for step in TINY.steps
    ]
    for fine, coarse in zip(whole.records[::2], whole.records[1::2], strict=True):
        made_by(fine)
        assert fine["rate"] > coarse["rate"]
        assert fine["vlb"] == coarse["vlb"]  # one training
    assert whole.records[0]["vlb"] != whole.records[2]["vlb"]


def test_nothing_is_loaded_where_nothing_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(rate_distortion, "long_data", lambda protocol: pytest.fail("loaded"))
    file = ResultFile(tmp_path / "rows.json", KEY)
    for task in rate_distortion_tasks(list(LOOPS), [1.0], [0], tmp_path):
        file.add(task.keys)
    assert complete(file, rate_distortion_tasks(list(LOOPS), [1.0], [0], tmp_path)) == []


def test_trainings_differ_in_beta_alone():
    one, three = (RateDistortionProtocol().training(beta).training for beta in (1.0, 3.0))
    assert three.schedules["beta"](0) == 0
    assert three.schedules["beta"](2) == three.schedules["beta"](11) == 3
    assert replace(three, schedules=one.schedules) == one
    assert (
        replace(one, schedules={}).to_dict() == replace(long_protocol(12, warm_up=2).training, schedules={}).to_dict()
    )


@pytest.mark.parametrize("name", LOOPS)
def test_each_model_can_be_coded_in_its_loops(name):
    model = codec_model(name)
    assert model.x_dim == 513
    assert model.z_dim == 16
    assert not looks_ahead(model.spec)
