"""Probes and exchanges: segments are cut as they should be, probes find what is there and not what is not."""

import numpy as np
import pytest
import torch

from dvae_lib.data import load_corpus
from dvae_lib.data.sequences import SequenceDataset
from dvae_lib.experiments.results import ResultFile, complete
from dvae_lib.experiments.studies import speakers
from dvae_lib.experiments.studies.speakers import KEY, ProbeProtocol, Voices, main, tasks, untrained
from dvae_lib.models import DSAE

PROTOCOL = ProbeProtocol(lengths=(4, 8), splits=2, gap=4, shortest=80, recordings=(6, 2), penalties=(0.1, 1.0))
VOICES = ("en_US_f_Allison", "es_MX_f_Allison", "fr_CA_f_June", "it_IT_m_Carlo", "ru_RU_f_IvrvoiceRU")


@pytest.fixture(scope="module")
def corpora(eight_voices, tmp_path_factory):
    """The two corpora of the study, of the same made-up voices."""
    folder = tmp_path_factory.mktemp("voices") / "voices"
    for i, voice in enumerate(VOICES):
        (folder / voice).mkdir(parents=True)
        for k, source in enumerate(sorted((eight_voices / f"speaker{i}").iterdir()) * 4):
            (folder / voice / f"{k}.wav").write_bytes(source.read_bytes())
    parts = dict(zip(VOICES, ("train", "train", "validation", "train", "test"), strict=True))
    listed = [f"{voice}/{k}.wav,{voice},{part}" for voice, part in parts.items() for k in range(8)]
    split = folder.parent / "list.csv"
    split.write_text("\n".join(["utterance,speaker,part", *listed]) + "\n")
    return {
        "librispeech": load_corpus(eight_voices, sequence_length=None, progress=False),
        "prompts": load_corpus(folder, split=split, sequence_length=None, progress=False),
    }


@pytest.fixture(scope="module")
def voices(corpora):
    return [Voices(name, corpus, PROTOCOL) for name, corpus in corpora.items()]


@pytest.fixture
def models():
    made = {}
    for name in ("full", "full, untrained"):
        torch.manual_seed(len(made))
        made[name] = DSAE(513, 3, v_dim=4, observation="gamma", h_dim=5, g_dim=5, decoder=(8,), prior=(6,), head=(6,))
    return {name: model.eval() for name, model in made.items()}


@pytest.mark.parametrize("length", PROTOCOL.lengths)
def test_what_trains_a_probe_of_speakers_is_apart_from_what_tests_it(voices, length):
    segments = voices[0].cut(length, 1)
    recordings = {}
    for part in ("validation", "test"):
        data = voices[0].corpus.dataset(part)
        for i, utterance in enumerate(voices[0].corpus.utterances(part)):
            recordings.setdefault(utterance.speaker, []).append(data[i])
    assert {s.label for s in segments} <= set(recordings)
    places = {True: {}, False: {}}
    for segment in segments:
        assert segment.frames.shape == (length, 513)
        found = [
            (r, start)
            for r, x in enumerate(recordings[segment.label])
            for start in range(len(x) - length + 1)
            if torch.equal(x[start : start + length], segment.frames)
        ]
        assert found
        places[segment.trains].setdefault((segment.label, found[0][0]), []).append(found[0][1])
    for recording, starts in places[True].items():
        tested = places[False].get(recording, [])
        assert all(abs(a - b) >= length + PROTOCOL.gap - 1 for a in starts for b in tested)
    assert [torch.equal(a.frames, b.frames) for a, b in zip(segments, voices[0].cut(length, 1), strict=True)]


def test_recordings_of_a_voice_train_or_test(voices):
    segments = voices[1].cut(4, 0)
    for voice in VOICES:
        trains = [s.trains for s in segments if s.label == voice]
        assert trains == [True] * 12 + [False] * 4  # two segments of each recording


class Marked:
    """A model whose v says who speaks, and whose z says nothing."""

    def __call__(self, x):
        return {"v": x[:, 0, :3].numpy(), "z": np.ones((len(x), 2))}


def test_a_probe_finds_what_is_there_and_not_what_is_not(voices, monkeypatch):
    marked = [
        speakers.Segment(torch.eye(5)[i].repeat(10, 1) + 0.01 * torch.randn(10, 5), voice, trains)
        for i, voice in enumerate(VOICES)
        for trains in (True, True, True, False, False)
    ]
    monkeypatch.setattr(Voices, "cut", lambda self, length, split: marked)
    about = {"corpus": "prompts", "frames": 10, "model": "marked"}
    keys = [{**about, "feature": feature} for feature in ("v", "z")]
    v, z = speakers._probes(voices[1], keys, Marked())
    assert v["accuracy"] > 0.55 > 0.21 > z["accuracy"] == z["chance"] == 0.2
    assert v["splits"] == [v["accuracy"]] * 2
    assert (v["standard_error"], v["classes"], v["train"], v["test"]) == (0.0, 5, 15, 10)
    assert set(v["voices"]) == set(VOICES)
    assert len(v["abroad"]) == 2


def test_everything_is_written_down_and_done_once(voices, models, made_by, tmp_path):
    file = ResultFile(tmp_path / "speakers.json", KEY)
    every = list(tasks(voices, models))
    new = complete(file, every, say=lambda line: None)
    assert [(r["corpus"], r["frames"], r["model"], r["feature"]) for r in new] == [
        *((corpus, 4, "full", "exchange") for corpus in ("librispeech", "prompts")),
        *(
            (corpus, length, model, feature)
            for length in (4, 8)
            for corpus in ("librispeech", "prompts")
            for model, feature in (
                ("none", "spectrum"),
                ("none", "spectrum, 16 components"),
                *((model, feature) for model in models for feature in ("v", "z")),
            )
        ),
    ]
    for record in new:
        made_by(record)
        if record["feature"] == "exchange":
            assert all(len(record[k]) == 2 for k in ("kl", "same", "same, anew", "other", "other, anew"))
        else:
            assert 0 <= record["accuracy"] <= 1
            assert ("abroad" in record) == (record["corpus"] == "prompts")
    assert complete(ResultFile(file.path, KEY), every, say=lambda line: None) == []
    (spectrum,) = every[2].compute()[:1]
    kept = next(r for r in file.records if r["feature"] == "spectrum")
    assert spectrum["splits"] == kept["splits"]  # no chance is left in it


def test_a_posterior_without_v_reconstructs_the_same_with_any(voices, models):
    """Where the decoder does not hear v, nothing changes with another one."""
    model = models["full"]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith("d_x") and parameter.ndim == 2 and parameter.shape[1] >= 4:
                parameter.zero_()
    key = {"corpus": "librispeech", "frames": 4, "model": "full", "feature": "exchange"}
    (record,) = speakers._exchange(voices[0], key, model)
    assert record["same"] == record["other"] == record["other, anew"] == [0.0, 0.0]


def test_the_command_names_what_is_not_there(monkeypatch, corpora, tmp_path, capsys):
    done = []
    monkeypatch.setattr(speakers, "load_corpus", lambda name, **options: corpora[name])
    monkeypatch.setattr(speakers, "complete", lambda file, tasks, again: done.append((file.path, again)))
    assert main(["--models", str(tmp_path), "--output", str(tmp_path / "s.json"), "--again"]) == 0
    assert "dsae-structured-librispeech-batch32 is not there" in capsys.readouterr().out
    assert done == [(tmp_path / "s.json", True)]


def test_a_twin_that_was_never_trained_reads_the_same(corpora, models):
    model = models["full"]
    model.read_as("log_power", corpora["librispeech"].train)
    twin = untrained(model)
    x = corpora["librispeech"].test[0]
    assert torch.equal(twin.read(x), model.read(x))
    assert any(name.startswith("reading.") for name, _ in model.named_buffers())
    of_twin = dict(twin.named_parameters())
    assert all(torch.equal(of_twin[name], value) for name, value in untrained(model).named_parameters())
    assert not any(
        torch.equal(of_twin[name], value) for name, value in untrained(model, 1).named_parameters() if value.ndim > 1
    )


def test_the_segments_are_of_whole_recordings(voices):
    assert isinstance(voices[0].corpus.dataset("validation"), SequenceDataset)
    assert set(voices[0].facts) == {"validation", "test"}
    assert set(voices[1].facts) == {"train", "validation", "test"}
