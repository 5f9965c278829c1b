"""What travels with the library in place of corpora: whole, small, and what the corpora give."""

import json
import shutil

import numpy as np
import pytest

from dvae_lib.data import corpus_info, load_cmu, load_corpus, load_hdm05, load_mocap
from dvae_lib.data.exhibits import exhibit, pack, unpack
from dvae_lib.data.make_exhibits import make_exhibits
from dvae_lib.experiments import load_experiment, read_records
from dvae_lib.resources import resource_path

SHIPPED = resource_path("exhibits")
CORPORA = ("cmu", "hdm05", "librispeech")
needs_corpora = pytest.mark.skipif(
    any(corpus_info(name).find() is None for name in CORPORA), reason="needs CMU, HDM05 and LibriSpeech on DVAE_DATA"
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DVAE_CACHE", str(tmp_path / "cache"))


def test_every_file_is_listed_and_all_are_small():
    listed = json.loads((SHIPPED / "exhibits.json").read_text(encoding="utf-8"))
    for name, entry in listed.items():
        assert set(entry["files"]) == {path.name for path in (SHIPPED / name).iterdir()}
        assert all(entry[key] for key in ("about", "licence", "attribution"))
    assert {path.name for path in SHIPPED.iterdir()} == {*listed, "exhibits.json", "README.md"}
    assert sum(path.stat().st_size for path in SHIPPED.rglob("*") if path.is_file()) < 4e6


@pytest.mark.parametrize("name", ["motion", "librispeech"])
@pytest.mark.parametrize("damage", ["a byte changed", "cut short", "missing"])
def test_a_damaged_file_is_refused_by_name(tmp_path, name, damage):
    collection = tmp_path / "exhibits"
    shutil.copytree(SHIPPED, collection)
    assert exhibit(name, collection).folder == collection / name
    victim = max((collection / name).iterdir(), key=lambda path: path.stat().st_size)
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.unlink()
    if damage != "missing":
        victim.write_bytes(content if damage == "a byte changed" else content[:-1])
    with pytest.raises(
        ValueError, match=rf"{victim.name} is not the file that came with the library.*install dvae_lib"
    ):
        exhibit(name, collection)


def test_an_unknown_exhibit_is_named_with_those_that_there_are():
    with pytest.raises(ValueError, match="'music'; there are motion, librispeech"):
        exhibit("music")


def test_packing_is_undone():
    rng = np.random.default_rng(0)
    for shape in ((1, 3), (2, 1), (50, 62)):
        values = rng.integers(-(2**28), 2**28, shape, dtype=np.int32)
        np.testing.assert_array_equal(unpack(pack(values), shape[1]), values)


def test_the_excerpt_of_motion_is_that_of_the_results():
    """As many sequences in each part as the benchmark's models were trained and judged on."""
    facts = read_records(resource_path("results", "benchmark-mocap.json"))[0]["data"]
    corpus = load_experiment("mocap-excerpt", "book")
    found = {part: len(getattr(corpus, part)) for part in facts}
    assert found == {part: fact["sequences"] for part, fact in facts.items()}
    assert "HDM05" in corpus.metadata["attribution"]


def test_cmu_and_hdm05_make_up_the_whole():
    parts = load_cmu(excerpt=True), load_hdm05(excerpt=True), load_mocap(excerpt=True)
    cmu, hdm05, both = ({name for part in corpus for name in part.names} for corpus in parts)
    assert cmu | hdm05 == both
    assert len(both) == 116
    assert {name[:3] == "HDM" for name in hdm05} == {True}
    assert {name[:3] == "HDM" for name in cmu} == {False}


def test_other_frame_rates_and_folders_are_for_the_corpora(tmp_path):
    whole, half = load_cmu(excerpt=True).test[0], load_cmu(excerpt=True, fps=15).test[0]
    np.testing.assert_array_equal(half, whole[::2])
    with pytest.raises(ValueError, match="30 frames per second cannot be brought to 60"):
        load_cmu(excerpt=True, fps=60)
    with pytest.raises(ValueError, match="leave out folder"):
        load_hdm05(tmp_path, excerpt=True)


def test_the_excerpt_of_speech_is_a_corpus():
    corpus = load_corpus("librispeech-excerpt", progress=False)
    assert [len(corpus.utterances(part)) for part in ("train", "validation", "test")] == [2, 24, 18]
    assert corpus.test.lengths.min() >= 250
    assert corpus.licence == "CC BY 4.0"
    part_of = {}
    for line in resource_path("splits", "librispeech.csv").read_text().splitlines()[1:]:
        name, _, part = line.split(",")
        part_of[name.split("/")[-1]] = part
    for part in ("train", "validation", "test"):
        assert all(part_of[u.path.stem] == part for u in corpus.utterances(part))


@needs_corpora
def test_the_corpora_give_what_is_shipped(tmp_path):
    import soundfile

    made = tmp_path / "made"
    make_exhibits(made)
    ours, theirs = (json.loads((folder / "exhibits.json").read_text(encoding="utf-8")) for folder in (SHIPPED, made))
    for name, entry in ours.items():
        again = theirs[name]
        assert set(again.pop("files")) == set(entry.pop("files"))
        assert again == entry
    assert (made / "librispeech" / "list.csv").read_bytes() == (SHIPPED / "librispeech" / "list.csv").read_bytes()
    for file in sorted(SHIPPED.rglob("*.flac")):
        samples, again = (soundfile.read(f, dtype="int16") for f in (file, made / file.relative_to(SHIPPED)))
        assert samples[1] == again[1] == 16_000
        np.testing.assert_array_equal(samples[0], again[0], err_msg=file.name)
    with np.load(SHIPPED / "motion" / "frames.npz") as a, np.load(made / "motion" / "frames.npz") as b:
        assert set(a) == set(b)
        for key in a:
            np.testing.assert_array_equal(a[key], b[key], err_msg=key)


@needs_corpora
def test_positions_are_those_of_the_corpora_to_half_a_millimetre():
    from_corpora, excerpt = load_mocap(sequence_length=50), load_mocap(sequence_length=50, excerpt=True)
    for a, b in zip(from_corpora, excerpt, strict=True):
        assert a.names == b.names
        joints, again = (data.batch(range(len(data))).x.unflatten(-1, (31, 3)) for data in (a, b))
        assert (joints - again).norm(dim=-1).max() < 5e-4
