"""Strings of spoken digits: how they are made, that the probes find what is there, and the study at a tiny size."""

import json
from pathlib import Path

import pytest
import torch

from dvae_lib.data import SpeechCorpus, load_corpus
from dvae_lib.data.sequences import SequenceDataset
from dvae_lib.data.speech.corpus import Utterance
from dvae_lib.experiments.studies import segments
from dvae_lib.experiments.studies.segments import (
    CONTESTANTS,
    CONTROL,
    Probe,
    SegmentsProtocol,
    deal_strings,
    main,
    segment_of,
    strings_of_digits,
)

TINY = SegmentsProtocol(segments=2, frames=3, bands=4, v_dim=2, z_dim=2, frame_dim=2, h_dim=5, steps=2, batch_size=4)
PARTS = ("train", "validation", "test")


def made_corpus(speakers=("anna", "ben"), short=False):
    """Spectrograms in which the speaker is the height of a peak, and the digit when it comes."""
    generator, parts = torch.Generator().manual_seed(0), {part: [] for part in PARTS}
    listed = {part: [] for part in PARTS}
    for part in PARTS:
        for k, speaker in enumerate(speakers):
            for digit in range(3):
                for take in range(4):
                    name = f"recordings/{digit}_{speaker}_{take}.wav"
                    x = torch.rand(2 if short and take == 0 else 9, 17, generator=generator) * 0.1 + 0.01
                    x[3 * digit : 3 * digit + 3, 4 * k + 1] += 9.0
                    parts[part].append(x)
                    listed[part].append(Utterance(name, speaker, part, Path(name)))
    corpus = SpeechCorpus.__new__(SpeechCorpus)
    corpus.name, corpus._listed = "made", {part: tuple(rows) for part, rows in listed.items()}
    for part in PARTS:
        vars(corpus)[part] = SequenceDataset(parts[part], names=[u.name for u in listed[part]])
    return corpus


def test_a_segment_is_the_log_of_averages():
    x = torch.rand(6, 9)
    found = segment_of(x, 3, 2).view(3, 2)
    for frame in range(3):
        for band in range(2):
            mean = x[2 * frame : 2 * frame + 2, 1 + 4 * band : 5 + 4 * band].mean()
            torch.testing.assert_close(found[frame, band], mean.log())
    assert torch.isfinite(segment_of(torch.zeros(3, 9), 3, 2)).all()  # silence
    with pytest.raises(ValueError, match="a segment has 7 frames, and the recording 6: leave it out"):
        segment_of(x, 7, 2)


def test_strings_are_of_one_speaker_and_use_a_recording_once():
    speakers = torch.tensor([0, 1] * 7 + [1])
    rows = deal_strings(speakers, 3)
    assert rows.shape == (4, 3)  # two of 7, two of 8 recordings
    assert len(rows.unique()) == 12
    assert (speakers[rows] == speakers[rows[:, :1]]).all()
    assert torch.equal(rows, deal_strings(speakers, 3))


def test_strings_of_digits_know_who_and_what():
    corpus = made_corpus(short=True)
    strings = strings_of_digits(corpus, ["train"], TINY)
    assert strings.left_out == 6  # recordings shorter than a segment
    assert strings.x.shape == (8, 2, 12)
    for i in range(8):
        for n in range(2):
            picture = strings.x[i, n].view(3, 4)
            frame, band = divmod(int(picture.argmax()), 4)
            assert (frame, band) == (int(strings.digit[i, n]), int(strings.speaker[i]))


def test_a_speaker_who_is_in_the_test_part_alone_is_refused():
    corpus = made_corpus()
    corpus._listed["test"] = tuple(
        Utterance(u.name.replace("ben", "carl"), u.speaker.replace("ben", "carl"), u.part, u.path)
        for u in corpus._listed["test"]
    )
    with pytest.raises(ValueError, match=r"carl is in the test part of 'made' and not in the training part.*by-take"):
        strings_of_digits(corpus, ["test"], TINY)


def test_a_probe_finds_what_is_there_and_not_what_is_not():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (400,), generator=generator)
    noise = torch.randn(400, 6, generator=generator)
    told = noise + 4 * torch.nn.functional.one_hot(labels, 6)
    half = slice(0, 200), slice(200, 400)
    assert (Probe(told[half[0]], labels[half[0]])(told[half[1]]) == labels[half[1]]).float().mean() > 0.95
    assert (Probe(noise[half[0]], labels[half[0]])(noise[half[1]]) == labels[half[1]]).float().mean() < 0.45


def test_the_study_runs_and_goes_on_where_it_was(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(segments, "load_corpus", lambda name, **_: made_corpus())
    monkeypatch.setattr(segments, "data_facts", lambda **_: {})
    output = tmp_path / "segments.json"
    arguments = ["--output", str(output), "--seeds", "0"]
    assert main([CONTROL, "dsae", *arguments], TINY) == 0
    first = json.loads(output.read_text(encoding="utf-8"))
    assert [r["name"] for r in first] == [CONTROL, "dsae"]
    assert first[0]["speaker"] == first[0]["digit"] == 1.0
    assert main(arguments, TINY) == 0
    records = json.loads(output.read_text(encoding="utf-8"))
    assert [r["name"] for r in records] == [CONTROL, "dsae", *(name for name in CONTESTANTS if name != "dsae")]
    assert records[:2] == first
    for record in records[1:]:
        kinds = {"v", "z", "z_mean"} if record["name"].startswith("dsae") else {"v", "z"}
        assert set(record["probes"]) == kinds
        assert set(record["after"]) == {"target", "source", "digit"}
    again = tmp_path / "again.json"
    main(["fhvae-table-10", "--output", str(again), "--seeds", "0"], TINY)
    (same,) = json.loads(again.read_text(encoding="utf-8"))
    known = next(r for r in records if r["name"] == "fhvae-table-10")
    assert {**same, "seconds": 0} == {**known, "seconds": 0}
    with pytest.raises(SystemExit):
        main(["nobody", *arguments], TINY)
    capsys.readouterr()


def test_an_exchange_changes_the_strings_vector_alone(monkeypatch):
    """With codes of which v is the speaker and z the digit, the judges hear the other speaker, and the same digit."""
    monkeypatch.setattr(segments, "data_facts", lambda **_: {})
    study = segments._Study(made_corpus(), TINY)
    other = study.exchanged()
    assert (study.test.speaker[other] != study.test.speaker).all()
    mean = {
        (who, what): study.train.x[(study.speakers(study.train) == who) & (study.train.digit == what)].mean(0)
        for who in range(2)
        for what in range(3)
    }
    made = torch.stack(
        [
            torch.stack([mean[int(who), int(what)] for what in row])
            for who, row in zip(study.test.speaker[other], study.test.digit, strict=True)
        ]
    )
    who, what = study.judged(made)
    assert (who == study.test.speaker[other][:, None]).all()
    assert (what == study.test.digit).all()


@pytest.mark.filterwarnings("ignore")
def test_the_real_strings():
    """Six speakers, ten digits; skipped where the corpus is not at hand."""
    try:
        corpus = load_corpus("digits-by-take", fetch=False, progress=False)
    except (OSError, ValueError):
        pytest.skip("the spoken digits are not here")
    strings = strings_of_digits(corpus, ["validation", "test"], SegmentsProtocol())
    assert strings.x.shape == (118, 5, 320)
    assert strings.left_out == 2
    assert (len(strings.speaker.unique()), len(strings.digit.unique())) == (6, 10)
