"""Enhanced speech: the same mixtures for all, at the ratio asked for, by every contestant, each row once."""

import math
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch
from torch import Generator

from dvae_lib import VAE
from dvae_lib.data import load_corpus
from dvae_lib.experiments.results import ResultFile, complete
from dvae_lib.experiments.studies import enhancement
from dvae_lib.experiments.studies.enhancement import KEY, EnhancementProtocol, NoisySpeech, contestants, main, tasks
from dvae_lib.metrics import si_sdr

RATE = 16_000
PROTOCOL = EnhancementProtocol(
    utterances=(("librispeech", 1), ("prompts", 1)),
    seconds=0.9,
    lead=0.2,
    snrs=(0.0, 5.0),
    shortest_voice=1.0,
    babble_recordings=2,
    voice_recordings=3,
    dictionary_rank=2,
    dictionary_sequences=2,
)


@pytest.fixture(scope="module")
def places(eight_voices, tmp_path_factory):
    """The folders of two corpora of different voices."""
    folder = tmp_path_factory.mktemp("others") / "others"
    for source in sorted(eight_voices.rglob("*.wav")):
        sound, rate = soundfile.read(source)
        path = folder / source.parent.name / source.name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.roll(sound[::-1], 500), rate)
    return {"librispeech": eight_voices, "prompts": folder}


@pytest.fixture(scope="module")
def corpora(places):
    return {name: load_corpus(place, sequence_length=50, progress=False) for name, place in places.items()}


@pytest.fixture(scope="module")
def speech(corpora):
    return NoisySpeech(corpora, PROTOCOL)


@pytest.fixture(scope="module")
def model(corpora):
    torch.manual_seed(0)
    model = VAE(513, 2, observation="gamma", encoder=(8,), decoder=(8,))
    model.metadata["front_end"] = corpora["librispeech"].front_end.settings.to_dict()
    return model


def test_targets_are_the_middles_of_test_utterances(speech, corpora):
    (clean,) = speech.clean("librispeech", 1)
    assert clean.shape == (round(0.9 * RATE),)
    whole = [corpora["librispeech"].waveform(u) for u in corpora["librispeech"].utterances("test")]
    starts = [(len(waveform) - len(clean)) // 2 for waveform in whole]
    assert any(torch.equal(w[s : s + len(clean)], clean) for w, s in zip(whole, starts, strict=True))
    with pytest.raises(ValueError, match=r"99 test utterances of more than 0\.9 s are needed; .* has"):
        speech.clean("librispeech", 99)


@pytest.mark.parametrize("snr", PROTOCOL.snrs)
@pytest.mark.parametrize("kind", PROTOCOL.noises)
def test_noise_comes_first_and_then_at_the_ratio_asked_for(speech, kind, snr):
    (clean,) = speech.clean("prompts", 1)
    noise = speech.noise(kind, "prompts", 0, seed=3)
    assert torch.equal(noise, speech.noise(kind, "prompts", 0, seed=3))
    assert not torch.equal(noise, speech.noise(kind, "prompts", 1, seed=3))
    assert not torch.equal(noise, speech.noise(kind, "prompts", 0, seed=4))
    recording, lead = speech.mixture(clean, noise, snr), round(0.2 * RATE)
    added = recording[lead:] - clean
    ratio = 10 * math.log10(float(clean.square().sum() / added.square().sum()))
    assert ratio == pytest.approx(snr, abs=0.01)
    # One noise goes through the whole recording.
    scale = added.norm() / noise[lead:].norm()
    torch.testing.assert_close(recording[:lead], scale * noise[:lead])


def test_noise_is_made_of_other_voices_that_no_test_hears(speech, corpora):
    for name, other, part in (("librispeech", "prompts", "train"), ("prompts", "librispeech", "validation")):
        allowed = [corpora[other].waveform(u) for u in corpora[other].utterances(part)]
        for voice in speech.voices(name):
            assert any(torch.equal(voice, waveform) for waveform in allowed)


def test_every_contestant_gets_every_mixture_once(speech, model, made_by, tmp_path):
    compared = list(contestants(speech, {"tiny": model}, ["peem", "vem"], iterations=[2]))
    assert [(c.model, c.method, c.iterations, c.rank) for c in compared] == [
        ("none", "noisy", 0, 0),
        ("none", "wiener", 0, 0),
        ("nmf", "wiener", 0, 0),
        ("tiny", "peem", 2, 2),
        ("tiny", "vem", 2, 2),
    ]
    file = ResultFile(tmp_path / "enhancement.json", KEY)
    every = list(tasks(speech, compared, seed=2))
    assert len(every) == 5 * 2 * 3 * 2
    some = [task for task in every if task.keys[0]["noise"] == "stationary" and task.keys[0]["snr_db"] == 5.0]
    new = complete(file, some, say=lambda line: None)
    assert len(new) == 10
    for record in new:
        made_by(record)
        assert {"si_sdr", "si_sdr_se", "pesq_nb", "pesq_wb", "estoi", "seconds"} <= record.keys()
        assert record["si_sdr"] == pytest.approx(np.mean(record["scores"]["si_sdr"]), abs=1e-3)
        assert (record["part"], list(record["data"])) == ("test", ["test"])
    noisy = new[0]
    (clean,) = speech.clean("librispeech", 1)
    recording = speech.mixture(clean, speech.noise("stationary", "librispeech", 0, 2), 5.0)
    assert noisy["si_sdr"] == pytest.approx(float(si_sdr(clean, recording[PROTOCOL.lead_length :])), abs=1e-3)
    again = ResultFile(file.path, KEY)
    assert complete(again, some, say=lambda line: None) == []
    repeated = some[-1].compute()[0]
    assert {k: v for k, v in repeated.items() if k != "seconds"} == {
        k: v for k, v in new[-1].items() if k not in ("seconds", "machine", "dvae_lib")
    }


def test_settings_are_chosen_on_validation_speakers(places, model):
    whole = {name: load_corpus(place, sequence_length=None, progress=False) for name, place in places.items()}
    development = NoisySpeech(whole, replace(PROTOCOL, part="validation"))
    compared = list(contestants(development, {"tiny": model}, ["peem"], iterations=[1, 2], ranks=[1, 3]))[3:]
    assert [(c.iterations, c.rank) for c in compared] == [(1, 1), (1, 3), (2, 1), (2, 3)]
    (first,) = next(iter(tasks(development, compared))).compute()
    assert {first[k] for k in ("part", "iterations", "rank")} == {"validation", 1}
    heard = [whole["librispeech"].waveform(u) for u in whole["librispeech"].utterances("validation")]
    (clean,) = development.clean("librispeech", 1)
    assert any(torch.equal(w[(len(w) - len(clean)) // 2 :][: len(clean)], clean) for w in heard)


def test_an_interrupted_study_goes_on(speech, tmp_path):
    """By the row: what is in the file stays, what was at work is done anew."""
    calls = []

    def enhanced(noisy, generator):
        calls.append(len(calls))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return noisy

    every = list(tasks(speech, [enhancement.Contestant("x", "y", enhanced)]))[:3]
    file = ResultFile(tmp_path / "enhancement.json", KEY)
    with pytest.raises(KeyboardInterrupt):
        complete(file, every, say=lambda line: None)
    assert len(ResultFile(file.path, KEY).records) == 1
    assert len(complete(ResultFile(file.path, KEY), every, say=lambda line: None)) == 2
    assert torch.equal(enhanced(torch.ones(3), Generator()), torch.ones(3))


def test_the_command_compares_what_was_asked_for(corpora, model, monkeypatch, tmp_path):
    model.save_pretrained(tmp_path / "models/tiny")
    asked = []
    monkeypatch.setattr(enhancement, "load_corpus", lambda name, **options: corpora[name])

    def compute(file, tasks, again):
        asked.extend(task.keys[0] for task in tasks)

    monkeypatch.setattr(enhancement, "complete", compute)
    options = ["--methods", "peem", "--utterances", "4", "--seed", "7", "--output", str(tmp_path / "e.json")]
    assert main([str(tmp_path / "models/tiny"), *options]) == 0
    assert len(asked) == 4 * 2 * 3 * 2
    assert {(key["corpus"], key["utterances"], key["seed"]) for key in asked} == {
        ("librispeech", 4, 7),
        ("prompts", 2, 7),
    }
    asked.clear()
    assert main([str(tmp_path / "models/tiny"), *options, "--part", "validation", "--iterations", "10", "20"]) == 0
    assert len(asked) == 2 * 2 * 3 * 2
    assert {(key["part"], key["iterations"], key["rank"]) for key in asked} == {
        ("validation", number, 2) for number in (10, 20)
    }
