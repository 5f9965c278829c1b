"""The speech models: two steps on eight made-up voices, tested in their modes by what is heard."""

from dataclasses import replace

import pytest
import torch

from dvae_lib.data import load_corpus
from dvae_lib.experiments import trainings
from dvae_lib.experiments.results import ResultFile, complete
from dvae_lib.experiments.studies import speech
from dvae_lib.experiments.studies.speech import ARCHITECTURES, KEY, NAMES, SpeechProtocol, evaluation_task, train_speech
from dvae_lib.models import DVAE

TINY = SpeechProtocol(epochs=1, scheduled_epochs=1, batch_size=5, max_utterances=2, importance_samples=2)


@pytest.fixture(scope="module")
def corpus(eight_voices):
    return load_corpus(eight_voices, sequence_length=50, progress=False)


@pytest.mark.parametrize("name", [n for n in NAMES if n != "dsae-structured-librispeech-batch32"])
def test_architectures_and_trainings_are_those_of_the_weights_that_are_here(name):
    kept = DVAE.from_pretrained(name)
    assert SpeechProtocol().config(name, seed=0).to_dict() == kept.metadata["training"]
    if name in ARCHITECTURES:
        model = ARCHITECTURES[name].build()
        assert type(model) is type(kept)
        assert {k: v.shape for k, v in model.state_dict().items()} == {k: v.shape for k, v in kept.state_dict().items()}
        assert kept.metadata["corpus"] == ARCHITECTURES[name].corpus


def test_two_steps_make_a_model_and_results_in_its_modes(corpus, made_by, tmp_path):
    file = ResultFile(tmp_path / "speech.json", KEY, ordered=True)
    for name in ("srnn-prompts", "srnn-prompts-scheduled", "vae-prompts"):
        folder = train_speech(name, 2, tmp_path / "models", tmp_path / "runs", corpus=corpus, protocol=TINY)
        complete(file, [evaluation_task(folder, corpus=corpus, protocol=TINY)], say=lambda line: None)
    assert [(r["name"], r["mode"]) for r in file.records] == [
        ("srnn-prompts", "TF"),
        ("srnn-prompts", "TF-GM"),
        ("srnn-prompts-scheduled", "GM"),
        ("vae-prompts", "TF"),
    ]
    for record in file.records:
        made_by(record)
        assert (record["seed"], record["epochs"], record["utterances"]) == (2, 1, len(corpus.test))
        assert record["frames"] == corpus.test.num_frames
        assert {"vlb", "iw2", "kl", "active", "si_sdr", "pesq_nb", "pesq_wb", "estoi"} <= record.keys()
    metadata = DVAE.from_pretrained(tmp_path / "models/srnn-prompts").metadata
    assert metadata["front_end"] == corpus.front_end.settings.to_dict()
    assert metadata["made_by"] == "python -m dvae_lib.experiments.studies.speech train"
    assert metadata["attribution"].startswith("trained on recordings of")


def test_test_utterances_are_taken_evenly(corpus, tmp_path):
    folder = train_speech("vae-prompts", 0, tmp_path / "m", tmp_path / "r", corpus=corpus, protocol=TINY)
    (record,) = evaluation_task(folder, corpus=corpus, protocol=replace(TINY, max_utterances=1)).compute()
    assert (record["utterances"], record["frames"]) == (1, len(corpus.test[0]))


def test_an_interrupted_training_goes_on_to_the_same_weights(corpus, interrupted, tmp_path):
    options = {"corpus": corpus, "protocol": replace(TINY, epochs=2)}
    whole = train_speech("vae-prompts", 1, tmp_path / "a", tmp_path / "whole", **options)
    interrupted()
    with pytest.raises(trainings.Interrupted):
        train_speech("vae-prompts", 1, tmp_path / "b", tmp_path / "broken", **options)
    resumed = train_speech("vae-prompts", 1, tmp_path / "b", tmp_path / "broken", **options)
    one, other = (DVAE.from_pretrained(folder).state_dict() for folder in (whole, resumed))
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_the_command_trains_and_tests(corpus, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(speech, "load_corpus", lambda name, **options: corpus)
    original = TINY.config
    monkeypatch.setattr(speech.SpeechProtocol, "config", lambda self, name, seed: original(name, seed))
    places = ["--models", str(tmp_path / "models"), "--runs", str(tmp_path / "runs")]
    output = ["--output", str(tmp_path / "speech.json"), "--max-utterances", "1"]
    assert speech.main(["train", "vae-prompts", *places]) == 0
    assert speech.main(["test", *places, *output]) == 0
    (record,) = ResultFile(tmp_path / "speech.json", KEY).records
    assert (record["name"], record["mode"], record["seed"]) == ("vae-prompts", "TF", 0)
    with pytest.raises(SystemExit):
        speech.main(["train", "vae"])
    assert "there is no vae; there are vae-prompts" in capsys.readouterr().err
