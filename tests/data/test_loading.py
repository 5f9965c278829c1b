"""What a path holds, and what becomes of it."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch

from dvae_lib.data import (
    Corpus,
    MissingCorpusError,
    catalogue,
    from_arrays,
    load,
    load_corpus,
    load_source,
    read_numpy,
    register_corpus,
    source_names,
)
from dvae_lib.models import DVAE

RNG = np.random.default_rng(0)
WALKS = [RNG.normal(size=(20 + i, 3)).cumsum(0) for i in range(10)]
ROLLS = [(RNG.random((30, 8)) < 0.1).astype(np.uint8) for _ in range(10)]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("DVAE_CACHE", str(tmp_path_factory.mktemp("cache")))


class TestStandardisation:
    @pytest.mark.parametrize("writes", ["npz", "csv"])
    def test_zeros_and_ones_stay_what_they_are(self, tmp_path, writes):
        for name, arrays in (("rolls", ROLLS), ("walks", WALKS)):
            folder = tmp_path / name
            folder.mkdir()
            if writes == "npz":
                np.savez(folder / "all.npz", *arrays)
            for i, array in enumerate(arrays if writes == "csv" else ()):
                np.savetxt(folder / f"{i}.csv", array, delimiter=",")
        path = "all.npz" if writes == "npz" else "."
        rolls, walks = load_source(tmp_path / "rolls" / path), load_source(tmp_path / "walks" / path)
        assert (rolls.parts.train.standardizer, rolls.observation) == (None, "bernoulli")
        assert (walks.parts.train.standardizer is None, walks.observation) == (False, "gaussian")
        assert set(rolls.parts.train[0].unique().tolist()) == {0.0, 1.0}

    def test_as_one_says(self, tmp_path):
        np.savez(tmp_path / "rolls.npz", *ROLLS)
        np.savez(tmp_path / "powers.npz", *[np.square(walk) for walk in WALKS])
        rolls = load_source(tmp_path / "rolls.npz", standardize=True)
        assert rolls.parts.train.standardizer is not None
        assert rolls.observation == "gaussian"
        powers = load_source(tmp_path / "powers.npz", standardize=False)
        assert powers.parts.train.standardizer is None
        assert powers.metadata["data"]["standardize"] is False

    def test_of_corpora_and_toys(self):
        assert load_source("pendulum").observation == "gaussian"


@pytest.mark.parametrize("content", [b"PK\x03\x04 cut", b""])
def test_a_damaged_file(tmp_path, content):
    (tmp_path / "all.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"all\.npz is not a NumPy file of numbers.*numpy\.savez"):
        read_numpy(tmp_path / "all.npz")
    np.savez_compressed(tmp_path / "spoiled.npz", np.zeros((500, 2)), np.ones((500, 2)))
    spoiled = bytearray((tmp_path / "spoiled.npz").read_bytes())
    spoiled[60:70] = b"0123456789"
    (tmp_path / "spoiled.npz").write_bytes(spoiled)
    with pytest.raises(ValueError, match=r"spoiled\.npz is not a NumPy file of numbers"):
        read_numpy(tmp_path / "spoiled.npz")
    with pytest.raises(FileNotFoundError, match="There is no file"):
        read_numpy(tmp_path / "nowhere.npz")


class TestSplitting:
    def test_one_series_in_time(self, tmp_path):
        series = RNG.normal(size=(100, 2)).cumsum(0)
        np.save(tmp_path / "series.npy", series)
        np.savetxt(tmp_path / "series.csv", series, delimiter=",", header="a,b", comments="")
        for name in ("series.npy", "series.csv"):
            with pytest.raises(ValueError, match=r"holds 1 sequence\(s\).*split='time'"):
                load_source(tmp_path / name)
            source = load_source(tmp_path / name, split="time", sequence_length=10)
            train, validation, test = source.parts
            assert (len(train), len(validation), test[0].shape) == (8, 1, (10, 2))
            assert source.metadata["data"]["split"] == "time"
            np.testing.assert_allclose(train.standardizer.mean, series[:80].mean(0))

    def test_parts_that_a_file_names(self, tmp_path, caplog):
        x = RNG.normal(size=(12, 20, 3)).astype("f4")
        labels = np.arange(8)
        np.savez(tmp_path / "a.npz", X_train=x[:8], X_val=x[8:9], X_test=x[9:], y_train=labels, y_test=x[9:, 0])
        with caplog.at_level(logging.WARNING):
            train, validation, test = load_source(tmp_path / "a.npz", standardize=False).parts
        assert torch.equal(train.batch(range(8)).x, torch.as_tensor(x[:8]))
        assert torch.equal(validation[0], torch.as_tensor(x[8]))
        assert torch.equal(test.batch(range(3)).x, torch.as_tensor(x[9:]))
        assert "a.npz:y_train is left out: it holds labels" in caplog.text
        learned = load_source(tmp_path / "a.npz").parts.test.standardizer
        np.testing.assert_allclose(learned.mean, x[:8].reshape(-1, 3).astype(float).mean(0), atol=1e-7)

    def test_validation_from_the_training_part(self, tmp_path):
        x = RNG.normal(size=(12, 20, 3)).astype("f4")
        np.savez(tmp_path / "a.npz", train=x[:10], test=x[10:])
        train, validation, test = load_source(tmp_path / "a.npz", standardize=False).parts
        assert torch.equal(test.batch([0, 1]).x, torch.as_tensor(x[10:]))
        assert (len(train), len(validation)) == (9, 1)
        assert all(":train[" in name for name in (*train.names, *validation.names))

    @pytest.mark.parametrize("names", [("X_train", "walks"), ("X_train", "X_val"), ("test", "dev")])
    def test_parts_that_are_not_all(self, tmp_path, names):
        np.savez(tmp_path / "a.npz", **{name: np.zeros((5, 20, 3)) for name in names})
        with pytest.raises(ValueError, match=r"a\.npz names parts of the data .*Expected arrays for training and test"):
            load_source(tmp_path / "a.npz")

    def test_names_that_only_sound_like_parts(self, tmp_path):
        np.savez(tmp_path / "a.npz", **{f"training_day{i}_latest": walk for i, walk in enumerate(WALKS)})
        with pytest.raises(ValueError, match="names parts"):  # all for training: none for the test
            load_source(tmp_path / "a.npz")
        np.savez(tmp_path / "b.npz", **{f"constraint{i}": walk for i, walk in enumerate(WALKS)})
        assert load_source(tmp_path / "b.npz").parts.train.x_dim == 3


class TestFiles:
    def test_numpy_in_any_case_and_folders_below(self, tmp_path, caplog):
        (tmp_path / "day 2").mkdir()
        for i, walk in enumerate(WALKS):
            with (tmp_path / ("day 2" if i % 2 else ".") / f"{i}.{'NPY' if i % 3 else 'npy'}").open("wb") as file:
                np.save(file, walk)
        np.savez(tmp_path / "more.npz", a=WALKS[0], rate=100.0)
        (tmp_path / "notes.txt").write_text("read me")
        with caplog.at_level(logging.WARNING):
            train, validation, test = load_source(tmp_path).parts
        assert len(train) + len(validation) + len(test) == 11
        assert "1 of 12 files are left out: notes.txt." in caplog.text
        assert "more.npz:rate is left out: it holds one number" in caplog.text
        assert {"0.npy", "day 2/1.NPY", "more.npz:a"} <= set(read_numpy(tmp_path))

    def test_a_table_beside_sounds_describes_them(self, tmp_path, caplog):
        for i in range(6):
            speaker = tmp_path / f"speaker {i}"
            speaker.mkdir()
            soundfile.write(speaker / "a.WAV", RNG.uniform(-0.5, 0.5, 20_000), 16_000, format="WAV")
        (tmp_path / "metadata.csv").write_text("a|one\nb|two\n")
        with caplog.at_level(logging.WARNING):
            source = load_source(tmp_path)
        assert (source.kind, source.observation) == ("speech", "gamma")
        assert "1 of 7 files are left out: metadata.csv." in caplog.text

    def test_two_kinds_are_refused(self, tmp_path):
        (tmp_path / "a.csv").write_text("1,2\n")
        np.save(tmp_path / "b.npy", WALKS[0])
        with pytest.raises(ValueError, match="holds csv and numpy files; keep one kind"):
            load_source(tmp_path)
        (tmp_path / "c").mkdir()
        with pytest.raises(ValueError, match="holds none of them"):
            load_source(tmp_path / "c")
        (tmp_path / "d.txt").write_text("1")
        with pytest.raises(ValueError, match="is a single file"):
            load_source(tmp_path / "d.txt")


class TestOneDoor:
    """A corpus says everything of itself once; the library and the command line know it from there."""

    @pytest.fixture
    def tides(self, tmp_path, monkeypatch):
        """A corpus in a folder of its own, as a file of the library, or a stranger's, would register it."""
        folder = tmp_path / "shelf" / "tides"
        folder.mkdir(parents=True)
        np.save(folder / "tides.npy", np.stack([WALKS[i][:20] for i in range(10)]))

        def read(folder, *, sequence_length=None, seed=0, hours=20):
            arrays = np.load(folder / "tides.npy")[:, :hours]
            return from_arrays(arrays, sequence_length=sequence_length, seed=seed, standardize=False)

        corpus = Corpus(
            name="tides",
            kind="sequences",
            about="heights of the sea at three piers",
            size="10 days",
            licence="CC0",
            attribution="nobody",
            instructions="Ask the sea.",
            load=read,
            find=lambda: folder if folder.is_dir() else None,
            sequence_length=10,
        )
        monkeypatch.setitem(catalogue._CORPORA, "tides", corpus)
        return corpus, folder

    def test_its_own_loader_gets_what_it_has_an_argument_for(self, tides):
        data = load("tides")
        assert (data.name, data.kind, data.observation) == ("tides", "sequences", "gaussian")
        assert set(data.train.lengths.tolist()) == {10}  # what the corpus says suits it
        assert data.metadata == {"data": {"source": "tides", "seed": 0, "licence": "CC0", "attribution": "nobody"}}
        shorter = load("tides", sequence_length=5, hours=15, seed=3)
        assert set(shorter.train.lengths.tolist()) == {5}
        assert shorter.test.lengths.tolist() == [15]
        assert shorter.metadata["data"]["options"] == {"hours": 15}
        assert len(load("tides").facts["test"]["sha256"]) == 16

    def test_what_it_does_not_have_is_refused(self, tides):
        with pytest.raises(TypeError, match=r"'tides' has no limit; it has hours, seed, sequence_length"):
            load("tides", limit=3)
        with pytest.raises(TypeError, match="read without fps"):
            load(tides[1], fps=3)

    def test_where_it_is_missing(self, tides):
        tides[1].rename(tides[1].parent / "elsewhere")
        with pytest.raises(MissingCorpusError, match=r"'tides' is not here.* Ask the sea"):
            load("tides")
        with pytest.raises(ValueError, match=r"'tides' is a corpus of sequences: load it with dvae_lib.data.load"):
            load_corpus("tides")

    @pytest.fixture
    def _no_logging_left(self):
        logger = logging.getLogger("dvae_lib")
        handlers, level = logger.handlers[:], logger.level
        yield
        logger.handlers, logger.level = handlers, level

    @pytest.mark.usefixtures("_no_logging_left")
    def test_the_command_line_trains_on_it(self, tides, tmp_path, monkeypatch):
        from typer.testing import CliRunner

        from dvae_lib.cli import app

        monkeypatch.chdir(tmp_path)
        common = ["--folder", "run", "--epochs", "1", "--z-dim", "2", "-O", "encoder=[8]", "-O", "decoder=[8]"]
        for command in (
            ["data", "list"],
            ["data", "info", "tides"],
            ["train", "vae", "--data", "tides", *common],
            ["evaluate", "run"],
        ):
            done = CliRunner().invoke(app, command)
            assert done.exit_code == 0, done.output
            assert "tides" in done.output or command[0] != "data"
        assert DVAE.from_pretrained("run/best").metadata["data"]["licence"] == "CC0"

    def test_registering(self, tides, monkeypatch):
        monkeypatch.setattr(catalogue, "_CORPORA", dict(catalogue._CORPORA))
        corpus, _ = tides
        register_corpus(corpus)  # a cell that is run again
        register_corpus(replace(corpus, name="ebbs"))
        assert "ebbs" in source_names()
        with pytest.raises(ValueError, match="there is a corpus 'cmu' already"):
            register_corpus(replace(corpus, name="cmu"))
        with pytest.raises(ValueError, match="letters, digits and hyphens only; got 'my tides'"):
            register_corpus(replace(corpus, name="my tides"))

    def test_a_file_in_the_folder_of_its_kind_is_enough(self):
        """No list names the files: whatever stands in the folders is asked to register itself."""
        found = {corpus.name for corpus in catalogue._CORPORA.values()}
        assert {"prompts", "librispeech", "wsj0", "cmu", "hdm05", "h36m", "chorales", "pendulum"} <= found
        assert set(source_names()) == found
