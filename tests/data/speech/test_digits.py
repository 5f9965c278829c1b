"""Spoken digits: by speaker and by take, checked recording by recording, at their own rate."""

import csv
import hashlib
import shutil

import pytest

from dvae_lib.data import DownloadError, MissingCorpusError, corpus_info, load, load_corpus
from dvae_lib.data.speech import digits
from dvae_lib.resources import resource_path

SPEAKERS = {"george": "train", "theo": "validation", "yweweler": "test"}


@pytest.fixture
def made(cache, tmp_path, write_speech, monkeypatch):
    """A small one in the layout of the corpus, with its list, on the search path."""
    folder, rows = tmp_path / "shelf" / "fsdd", []
    for seed, (speaker, part) in enumerate(SPEAKERS.items()):
        for digit in range(2):
            for take in (0, 5, 10):
                name = f"recordings/{digit}_{speaker}_{take}.wav"
                file = write_speech(folder / name, 0.4, rate=8_000, seed=30 * seed + 10 * digit + take)
                rows.append([name, speaker, part, hashlib.sha256(file.read_bytes()).hexdigest()[:16]])
    with (tmp_path / "digits.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([["utterance", "speaker", "part", "sha256"], *rows])
    monkeypatch.setattr(digits, "_split_list", lambda: tmp_path / "digits.csv")
    monkeypatch.setenv("DVAE_DATA", str(tmp_path / "shelf"))
    return folder


def test_by_speaker_and_by_take(made):
    data = load("digits", progress=False)
    assert data.metadata["front_end"]["sample_rate"] == 8_000
    assert data.train.x_dim == 257
    assert [len(data.train), len(data.validation), len(data.test)] == [6, 6, 6]
    assert {u.speaker for u in data.test_recordings} == {"yweweler"}
    assert len(set(data.train.lengths.tolist())) > 1 or data.train.sequence_length is None  # whole recordings
    crossed = load("digits-by-take", progress=False)
    for part, take in (("train", "10"), ("validation", "5"), ("test", "0")):
        recordings = crossed.parts.utterances(part)
        assert {u.speaker for u in recordings} == set(SPEAKERS)
        assert all(u.name.endswith(f"_{take}.wav") for u in recordings)
    assert load_corpus("digits", progress=False).sequence_length is None
    assert load_corpus("digits", sequence_length=10, progress=False).train.lengths.unique().tolist() == [10]


def test_a_recording_that_is_another_is_named(made):
    file = made / "recordings" / "1_theo_5.wav"
    file.write_bytes(file.read_bytes()[:-2])
    with pytest.raises(ValueError, match=r"1 recordings in .* \(first: recordings/1_theo_5\.wav\)\. Delete"):
        load("digits")


def test_where_it_is_missing(cache):
    with pytest.raises(MissingCorpusError, match=r"'digits' is not here\. Run 'dvae data fetch digits', or put"):
        load("digits", fetch=False)


def test_what_is_fetched_is_checked(made, cache, monkeypatch, tmp_path):
    monkeypatch.delenv("DVAE_DATA")

    def download(url, destination, *, checksum, progress):
        assert checksum is None
        destination.parent.mkdir(parents=True, exist_ok=True)
        with digits_archive.open("rb") as source, destination.open("wb") as target:
            shutil.copyfileobj(source, target)

    inside = tmp_path / f"free-spoken-digit-dataset-{digits.VERSION}"
    shutil.copytree(made, inside)
    digits_archive = tmp_path / "packed.tar.gz"
    shutil.make_archive(str(tmp_path / "packed"), "gztar", tmp_path, inside.name)
    monkeypatch.setattr(digits, "download", download)
    assert len(load("digits", progress=False).train) == 6
    assert corpus_info("digits").folder == cache / "corpora" / "fsdd"
    shutil.rmtree(cache / "corpora" / "fsdd")
    (inside / "recordings" / "0_theo_0.wav").unlink()
    shutil.make_archive(str(tmp_path / "packed"), "gztar", tmp_path, inside.name)
    with pytest.raises(DownloadError, match=r"is not the corpus: 1 recordings in .*0_theo_0"):
        load("digits", progress=False)
    assert corpus_info("digits").folder is None


def test_the_list():
    with resource_path("splits", "digits.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert len({row["utterance"] for row in rows}) == 3_000
    parts = {}
    for row in rows:
        parts.setdefault(row["part"], set()).add(row["speaker"])
    assert {part: sorted(names) for part, names in parts.items()} == {
        "train": ["george", "jackson", "lucas", "nicolas"],
        "validation": ["theo"],
        "test": ["yweweler"],
    }


@pytest.mark.skipif(corpus_info("digits").folder is None, reason="needs fsdd on DVAE_DATA")
def test_the_real_one_is_that_of_the_list():
    folder = corpus_info("digits").folder
    digits._check(folder)
    assert len(digits._by_take(folder)) == 3_000
