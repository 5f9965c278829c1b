"""The corpora of the benchmark: who is in which part, what is taken of it, and checksums that tell data apart."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dvae_lib.data import MissingCorpusError, SequenceDataset, Splits, catalogue, checksum
from dvae_lib.experiments import PROTOCOLS, corpora, load_experiment

PARTS = ("train", "validation", "test")


@pytest.fixture
def budget(monkeypatch):
    """A function that changes the protocol of the budget "ci"."""

    def change(experiment, **values):
        changed = replace(PROTOCOLS[experiment]["ci"], **values)
        monkeypatch.setitem(PROTOCOLS[experiment], "ci", changed)

    return change


def recordings(data):
    """Speaker and file of each sequence."""
    return [name.split("[")[0] for name in data.names]


# --- speech ---


def test_parts_share_no_speaker(eight_voices, budget):
    budget("speech", limit=None)
    corpus = load_experiment(str(eight_voices), "ci")
    speakers = [{name.split("/")[0] for name in recordings(getattr(corpus, part))} for part in PARTS]
    assert sorted(speaker for part in speakers for speaker in part) == [f"speaker{i}" for i in range(8)]
    assert all(speakers)


def test_speech_is_cut_for_training_and_whole_for_the_test(eight_voices, budget):
    budget("speech", limit=None)
    corpus = load_experiment(str(eight_voices), "ci")
    assert (corpus.name, corpus.experiment) == (str(eight_voices), "speech")
    assert set(corpus.train.lengths.tolist()) == set(corpus.validation.lengths.tolist()) == {50}
    assert min(corpus.test.lengths) > 50
    assert len(set(recordings(corpus.train))) < len(corpus.train)
    assert {corpus.train.x_dim, corpus.validation.x_dim, corpus.test.x_dim} == {513}
    assert tuple(recording.name for recording in corpus.recordings) == corpus.test.names
    assert all(recording.path.is_file() and recording.part == "test" for recording in corpus.recordings)
    assert corpus.metadata["front_end"]["hop_length"] == 256
    assert (corpus.metadata["licence"], corpus.metadata["attribution"]) == ("unknown", "unknown")


def test_sequences_are_as_long_and_as_far_apart_as_the_protocol_says(eight_voices, budget):
    budget("speech", sequence_length=20, hop=5)
    corpus = load_experiment(str(eight_voices), "ci")
    assert set(corpus.train.lengths.tolist()) == {20}
    assert corpus.train.names[1].endswith("[5:25]")


def test_limits_are_limits_of_recordings(eight_voices, budget):
    budget("speech", limit=2)
    corpus = load_experiment(str(eight_voices), "ci")
    assert len(set(recordings(corpus.train))) == 2
    assert len(corpus.test) == len(corpus.recordings) <= 2


def test_a_limited_test_part_is_taken_evenly_and_with_its_recordings(voices, tmp_path, budget):
    folder = voices(tmp_path / "voices", 3, each=5)
    budget("speech", limit=None)
    whole = load_experiment(str(folder), "ci")
    budget("speech", limit=None, test_limit=3)
    some = load_experiment(str(folder), "ci")
    assert some.test.names == tuple(whole.test.names[i] for i in (0, 2, 4))
    assert some.recordings == tuple(whole.recordings[i] for i in (0, 2, 4))
    assert all(torch.equal(some.test[k], whole.test[i]) for k, i in enumerate((0, 2, 4)))
    assert checksum(some.train) == checksum(whole.train)
    for limit in (5, 6):
        budget("speech", limit=None, test_limit=limit)
        assert load_experiment(str(folder), "ci").test.names == whole.test.names


@pytest.mark.parametrize(("count", "limit"), [(10, 1), (10, 9), (97, 12), (5, 4)])
def test_some_of_a_part_are_different_ones(count, limit):
    data = SequenceDataset([torch.full((1, 1), float(i)) for i in range(count)])
    some, kept = corpora._some(data, limit)
    assert len(some) == limit == len(set(kept))
    assert [int(name) for name in some.names] == some._frames[:, 0].tolist() == kept == sorted(kept)
    assert kept[0] == 0
    assert limit == 1 or kept[-1] == count - 1
    steps = np.diff(kept)
    assert limit == 1 or steps.max() - steps.min() <= 1


def test_too_few_speakers_are_refused_with_what_is_needed(voices, tmp_path):
    with pytest.raises(ValueError, match=r"has 2 speakers .*: speaker0, speaker1\. Training.* need one each\. Add"):
        load_experiment(str(voices(tmp_path / "voices", 2)), "ci")


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("nowhere", "no file or folder 'nowhere'"),
        ("wsj0", "Linguistic Data Consortium"),
        ("mocap", "mocap.cs.cmu.edu"),
        ("hdm05", "mpi-inf"),
        ("h36m", "Ask for a licence"),
    ],
)
def test_a_corpus_that_is_not_here_is_said_how_to_get(name, advice, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVAE_CACHE", str(tmp_path / "cache"))
    with pytest.raises(MissingCorpusError, match=advice):
        load_experiment(name, "ci")


# --- motion ---


def test_human36m_as_in_the_review(tmp_path, monkeypatch):
    """Actors 1, 6, 7, 8, 9 to train, 5 to validate, 11 to test, 25 frames a second, the pelvis at zero."""
    generator = np.random.default_rng(0)
    for actor in (1, 5, 6, 7, 8, 9, 11):
        folder = tmp_path / "h36m" / f"S{actor}"
        folder.mkdir(parents=True)
        for take in ("walking_1", "walking_2"):
            frames = generator.normal(scale=0.3, size=(200, 99))
            np.savetxt(folder / f"{take}.txt", frames, delimiter=",", fmt="%.7f")
    monkeypatch.setenv("DVAE_DATA", str(tmp_path))
    for budget, hop, test in (("full", 2, 2 * 26), ("ci", 25, 4)):
        corpus = load_experiment("h36m", budget)
        assert (corpus.name, corpus.experiment, corpus.recordings) == ("h36m", "motion", ())
        actors = [{name.split("/")[0] for name in getattr(corpus, part).names} for part in PARTS]
        assert actors == [{"S1", "S6", "S7", "S8", "S9"}, {"S5"}, {"S11"}]
        assert corpus.train.names[1].endswith(f"[{hop}:{hop + 50}]")
        assert len(corpus.test) == test
        assert corpus.test.x_dim == 96
        assert (corpus.test[0][:, :3] == 0).all()
    assert corpus.metadata["licence"] == "licensed, free for academic use on request"
    assert corpus.metadata["attribution"].startswith("Ionescu")


def stand_in(monkeypatch, name, loader):
    """The corpus of that name, read by another loader."""
    known = replace(catalogue.corpus_info(name), load=loader, find=Path)
    monkeypatch.setitem(catalogue._CORPORA, name, known)


@pytest.mark.parametrize(
    ("name", "licence", "attributed"),
    [
        ("mocap", "free for all uses; may not be resold as such; CC BY-SA 3.0", ["CMU Graphics Lab", "Müller"]),
        ("cmu", "free for all uses; may not be resold as such", ["CMU Graphics Lab"]),
        ("hdm05", "CC BY-SA 3.0", ["Müller"]),
    ],
)
def test_motion_is_loaded_as_the_protocol_says_and_names_its_sources(name, licence, attributed, walks, monkeypatch):
    asked, made = [], walks()

    def loader(folder, *, sequence_length, hop):
        asked.append({"sequence_length": sequence_length, "hop": hop})
        return Splits(made.train, made.validation, made.test)

    stand_in(monkeypatch, name, loader)
    corpus = load_experiment(name, "ci")
    assert asked == [{"sequence_length": 50, "hop": PROTOCOLS["motion"]["ci"].hop}]
    assert corpus.test.names == tuple(made.test.names[i] for i in (0, 1, 2, 4))
    assert (corpus.train, corpus.validation) == (made.train, made.validation)
    assert corpus.metadata["licence"] == licence
    assert [source for source in ("CMU Graphics Lab", "Müller") if source in corpus.metadata["attribution"]] == (
        attributed
    )


def test_the_budget_of_the_book_is_taken_where_none_is_named(walks, monkeypatch):
    made, asked = walks(), []
    parts = Splits(made.train, made.validation, made.test)

    def loader(folder, *, sequence_length, hop):
        asked.append({"sequence_length": sequence_length, "hop": hop})
        return parts

    stand_in(monkeypatch, "cmu", loader)
    corpus = load_experiment("cmu")
    assert asked == [{"sequence_length": 50, "hop": PROTOCOLS["motion"]["book"].hop}]
    assert len(corpus.test) == 5


# --- checksums ---


def sequences():
    return [torch.arange(6.0).reshape(3, 2), 0.1 * torch.arange(10.0).reshape(5, 2)]


def summed(arrays, names=("a", "b"), **options):
    return checksum(SequenceDataset(arrays, names=names, **options))


def test_a_checksum_changes_with_any_value_name_or_length():
    a, b = sequences()
    nudged = b.clone()
    nudged[4, 1] = torch.nextafter(b[4, 1], torch.tensor(9.0))
    together = torch.cat([a, b])
    sums = [
        summed([a, b]),
        summed([a, nudged]),
        summed([a, b], ("a", "c")),
        summed([a, b], ("b", "a")),
        summed([b, a], ("a", "b")),
        summed([b, a], ("b", "a")),
        summed([together[:5], together[5:]]),  # the same frames, parted elsewhere
        summed([together[:, :1].reshape(4, 2), together[:, 1:].reshape(4, 2)]),
        summed([a, b[:4]]),
        summed([a], ("a",)),
        summed([together], ("a",)),
        summed([a, b, a], ("a", "b", "c")),
    ]
    assert len(set(sums)) == len(sums)
    assert all(len(found) == 16 and int(found, 16) >= 0 for found in sums)


def test_a_checksum_depends_on_nothing_else(tmp_path):
    a, b = sequences()
    wanted = summed([a, b])
    assert wanted == checksum(SequenceDataset([a.numpy(), b.numpy()], names=["a", "b"]))
    assert summed([a.double(), b.double()], dtype=torch.float64) == wanted
    assert summed([a.t().contiguous().t(), b]) == wanted  # another layout in memory
    frames = np.lib.format.open_memmap(tmp_path / "frames.npy", "w+", np.float32, (9, 2))
    frames[1:] = torch.cat([a, b]).numpy()
    assert checksum(SequenceDataset.from_frames(frames, [1, 4], [3, 5], names=["a", "b"])) == wanted


def test_facts_are_sizes_and_checksums_by_part(walks):
    corpus = walks(test_lengths=(8, 3))
    assert corpus.facts == {
        "train": {"sequences": 6, "frames": 48, "sha256": checksum(corpus.train)},
        "validation": {"sequences": 3, "frames": 24, "sha256": checksum(corpus.validation)},
        "test": {"sequences": 5, "frames": 8 + 3 + 8 + 3 + 8, "sha256": checksum(corpus.test)},
    }
    assert len({part["sha256"] for part in corpus.facts.values()}) == 3
    assert walks(test_lengths=(8, 3)).facts == corpus.facts
    assert walks(seed=1).facts != walks().facts
