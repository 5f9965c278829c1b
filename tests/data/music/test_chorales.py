import itertools
import json
import re
import zipfile

import numpy as np
import pytest

from dvae_lib.data.music import (
    LOWEST_KEY,
    NUM_KEYS,
    load_chorales,
    piano_roll,
    read_musicxml,
    roll_to_audio,
    transpose,
)
from dvae_lib.data.music.chorales import VOICES
from dvae_lib.resources import resource_path

PARTS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def listed():
    return json.loads(resource_path("splits", "chorales.json").read_text(encoding="utf-8"))


class TestPianoRoll:
    def test_grid(self):
        notes = [(0.0, 1.5, 60), (1.5, 0.5, 62), (2.0, 1.0, 64)]
        quarters = piano_roll(notes)
        assert [np.flatnonzero(step).tolist() for step in quarters] == [[39], [39], [43]]  # 62 falls between
        eighths = piano_roll(notes, steps_per_quarter=2)
        assert [np.flatnonzero(step)[0] + LOWEST_KEY for step in eighths] == [60, 60, 60, 62, 64, 64]

    def test_triplets_fill_their_quarter(self):
        third = 1 / 3
        roll = piano_roll([(0, third, 60), (third, third, 61), (2 * third, third, 62), (1, 1, 63)])
        assert [np.flatnonzero(step).tolist() for step in roll] == [[39], [42]]

    def test_refuses(self):
        with pytest.raises(ValueError, match="no notes"):
            piano_roll([])
        with pytest.raises(ValueError, match=r"MIDI numbers \[109\] lie outside"):
            piano_roll([(0, 1, 109)])
        with pytest.raises(ValueError, match="a note begins at -2 quarters"):
            piano_roll([(0, 4, 64), (-2, 1, 60)])
        with pytest.raises(ValueError, match="steps_per_quarter must be at least 1"):
            piano_roll([(0, 1, 60)], steps_per_quarter=0)

    def test_transposition(self):
        roll = piano_roll([(0, 1, 60), (0, 1, LOWEST_KEY + 2)])
        assert np.flatnonzero(transpose(roll, -2)[0]).tolist() == [0, 37]
        np.testing.assert_array_equal(transpose(transpose(roll, 5), -5), roll)
        np.testing.assert_array_equal(transpose(roll, 0), roll)
        with pytest.raises(ValueError, match="leave the keyboard"):
            transpose(roll, -3)


class TestAudio:
    def test_pitch(self):
        roll = np.zeros((4, NUM_KEYS))
        roll[:, 69 - LOWEST_KEY] = 1  # A4
        sound = roll_to_audio(roll, seconds_per_step=0.5, sample_rate=16_000)
        assert sound.shape == (round(2.3 * 16_000),)
        assert np.abs(sound).max() == pytest.approx(0.9)
        spectrum = np.abs(np.fft.rfft(sound[:16_000] * np.hanning(16_000)))
        peaks = np.argsort(spectrum)[::-1][:1]
        assert peaks[0] == 440

    def test_held_and_struck_again(self):
        held, apart = np.zeros((3, NUM_KEYS)), np.zeros((3, NUM_KEYS))
        held[:, 40], apart[[0, 2], 40] = 1, 1
        rate = 8_000
        loudness = [
            np.abs(roll_to_audio(roll, seconds_per_step=1.0, sample_rate=rate)[int(1.6 * rate) : int(1.9 * rate)]).max()
            for roll in (held, apart)
        ]
        assert loudness[0] > 0.3
        assert loudness[1] < 1e-3

    def test_no_harmonic_above_half_the_sample_rate(self):
        roll = np.zeros((1, NUM_KEYS))
        roll[0, -1] = 1  # 4186 Hz: with a rate of 8 kHz not even the fundamental
        assert (roll_to_audio(roll, sample_rate=8_000) == 0).all()

    def test_silence(self):
        assert (roll_to_audio(np.zeros((2, NUM_KEYS))) == 0).all()

    def test_refuses_probabilities(self):
        with pytest.raises(ValueError, match="threshold or sample"):
            roll_to_audio(np.full((2, NUM_KEYS), 0.5))


SCORE = """<?xml version="1.0"?>
<score-partwise><part-list><score-part id="P1"><part-name>Soprano</part-name></score-part></part-list>
<part id="P1"><measure number="0"><attributes><divisions>4</divisions></attributes>
<note><pitch><step>C</step><octave>4</octave></pitch><duration>4</duration></note></measure>
<measure number="1">
<note><grace/><pitch><step>D</step><octave>5</octave></pitch></note>
<note><pitch><step>F</step><alter>1</alter><octave>4</octave></pitch><duration>6</duration></note>
<note><chord/><pitch><step>B</step><alter>-1</alter><octave>3</octave></pitch><duration>6</duration></note>
<note><rest/><duration>2</duration></note>
<backup><duration>4</duration></backup>
<note><pitch><step>A</step><octave>4</octave></pitch><duration>2</duration></note></measure>
<measure number="2"><note><pitch><step>G</step><octave>4</octave></pitch><duration>8</duration></note></measure>
</part></score-partwise>"""

BASS = "<transpose><diatonic>0</diatonic><chromatic>0</chromatic><octave-change>-1</octave-change></transpose>"


class TestMusicXml:
    def test_small_score(self, tmp_path):
        file = tmp_path / "small.xml"
        file.write_text(SCORE)
        assert read_musicxml(file) == {
            "Soprano": [(0.0, 1.0, 60), (1.0, 1.5, 66), (1.0, 1.5, 58), (2.0, 0.5, 69), (3.0, 2.0, 67)]
        }

    @pytest.mark.parametrize(
        ("change", "sounds"),
        [
            ("<transpose><chromatic>-2</chromatic></transpose>", 60),  # a clarinet in B flat
            (BASS, 50),
            ("<transpose><diatonic>2</diatonic><chromatic>3</chromatic></transpose>", 65),
            ("", 62),
        ],
    )
    def test_transposing_instruments_sound_as_in_music21(self, tmp_path, change, sounds):
        converter = pytest.importorskip("music21").converter
        file = tmp_path / "d.musicxml"
        note = "<note><pitch><step>D</step><octave>4</octave></pitch><duration>1</duration></note>"
        file.write_text(
            '<?xml version="1.0"?><score-partwise version="4.0"><part-list><score-part id="P1"><part-name>P</part-name>'
            f'</score-part></part-list><part id="P1"><measure number="1"><attributes><divisions>1</divisions>{change}'
            f"</attributes>{note}</measure></part></score-partwise>"
        )
        (heard,) = converter.parse(file).toSoundingPitch().recurse().notes
        assert read_musicxml(file) == {"P": [(0.0, 1.0, sounds)]}
        assert heard.pitch.midi == sounds

    def test_a_transposition_ends_with_the_next(self, tmp_path):
        file = tmp_path / "d.xml"
        both = SCORE.replace("<divisions>4<", "<transpose><chromatic>-2</chromatic></transpose><divisions>4<").replace(
            '<measure number="2">',
            '<measure number="2"><attributes><transpose><chromatic>0</chromatic></transpose></attributes>',
        )
        file.write_text(both)
        assert [key for _, _, key in read_musicxml(file)["Soprano"]] == [58, 64, 56, 67, 67]

    def test_decimal_durations(self, tmp_path):
        file = tmp_path / "small.xml"
        file.write_text(re.sub(r"<(divisions|duration)>(\d+)<", r"<\1>\g<2>.50<", SCORE))
        assert read_musicxml(file)["Soprano"][0] == (0.0, 1.0, 60)
        assert read_musicxml(file)["Soprano"][1][1] == pytest.approx(6.5 / 4.5)
        file.write_text(SCORE.replace("<duration>6<", "<duration>nan<"))
        with pytest.raises(ValueError, match="part 'Soprano' is damaged"):
            read_musicxml(file)

    def test_namespaces(self, tmp_path):
        file = tmp_path / "small.xml"
        file.write_text(SCORE)
        plain = read_musicxml(file)
        file.write_text(
            SCORE.replace("<score-partwise>", '<!-- a comment --><score-partwise xmlns="http://a.org/b">', 1)
        )
        assert read_musicxml(file) == plain

    @pytest.mark.parametrize("suffix", ["mxl", "MXL", "Mxl"])
    def test_compressed(self, tmp_path, suffix):
        plain, file = tmp_path / "small.xml", tmp_path / f"small.{suffix}"
        plain.write_text(SCORE)
        container = '<container><rootfiles><rootfile full-path="a/b.xml"/></rootfiles></container>'
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("META-INF/container.xml", container)
            archive.writestr("a/b.xml", SCORE)
        assert read_musicxml(file) == read_musicxml(plain)

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("cut.xml", SCORE[:200], "not a readable MusicXML file"),
            ("cut.mxl", "PK...", "not a readable MusicXML file"),
            ("other.xml", "<html/>", "holds no part"),
            ("bad.xml", SCORE.replace("<step>A</step>", "<step>H</step>"), "part 'Soprano' is damaged"),
            ("zero.xml", SCORE.replace("<divisions>4<", "<divisions>0<"), "part 'Soprano' is damaged"),
        ],
    )
    def test_damaged(self, tmp_path, name, content, message):
        file = tmp_path / name
        file.write_text(content)
        with pytest.raises(ValueError, match=f"{name}.*{message}"):
            read_musicxml(file)


class TestChorales:
    @pytest.fixture(scope="session")
    @staticmethod
    def cache(tmp_path_factory):
        return tmp_path_factory.mktemp("cache")

    @pytest.fixture(autouse=True)
    def _own_cache(self, cache, monkeypatch):
        pytest.importorskip("music21")
        monkeypatch.setenv("DVAE_CACHE", str(cache))

    def test_corpus(self, listed):
        splits = load_chorales()
        for part, dataset in zip(PARTS, splits, strict=True):
            assert [f"{name}." in file for name, file in zip(dataset.names, listed[part], strict=True)]
            assert dataset.x_dim == NUM_KEYS
            for sequence in dataset:
                assert set(sequence.unique().tolist()) == {0.0, 1.0}
                assert sequence.sum(1).max() <= 4
        assert 3.7 < splits.train.batch([0]).x[0].sum(1).mean() <= 4.0

    def test_second_load_reads_no_score(self, monkeypatch):
        load_chorales()

        def fail(_):
            raise AssertionError("read again although it was cached")

        monkeypatch.setattr("dvae_lib.data.music.chorales.read_musicxml", fail)
        assert len(load_chorales().test) == 60

    def test_same_notes_as_music21(self, listed):
        music21 = pytest.importorskip("music21")
        for name in (*listed["test"][:3], "bwv67.4.xml", "bwv248.64-6.mxl"):
            path = next(p for p in music21.corpus.getComposer("bach") if p.name == name)
            mine = read_musicxml(path)
            for part in music21.converter.parse(path, forceSource=True).parts:
                if part.partName not in VOICES:
                    continue
                theirs = [
                    (float(note.offset), float(note.quarterLength), note.pitch.midi)
                    for note in part.flatten().notes
                    if note.quarterLength > 0
                ]
                np.testing.assert_allclose(mine[part.partName], theirs)

    def test_transposed_training(self):
        plain, moved = load_chorales(), load_chorales(transpose_training=(0, 3))
        assert len(moved.train) == 2 * len(plain.train)
        assert moved.train.names[:2] == (plain.train.names[0], f"{plain.train.names[0]}+3")
        assert (moved.train[1][:, 3:] == plain.train[0][:, :-3]).all()
        assert moved.test.names == plain.test.names

    def test_cut(self):
        train = load_chorales(sequence_length=16, hop=8, steps_per_quarter=2).train
        assert train[0].shape == (16, NUM_KEYS)

    def test_no_tune_in_two_parts(self, listed):
        def tune(roll):
            top = [int(np.flatnonzero(step).max()) for step in roll.numpy() if step.any()]
            steps = [b - a for a, b in itertools.pairwise(top) if a != b]
            return tuple(steps[:8])

        tunes = [{tune(roll) for roll in dataset} for dataset in load_chorales()]
        # The soprano is the highest voice but where voices cross, hence the few.
        assert all(len(a & b) <= 2 for a, b in ((tunes[0], tunes[1]), (tunes[0], tunes[2]), (tunes[1], tunes[2])))

    def test_another_version_of_music21(self, monkeypatch, tmp_path):
        class Empty:
            version = "0.0"

            def locate_file(self, name):
                return tmp_path / name

        monkeypatch.setattr("dvae_lib.data.music.chorales.distribution", lambda _: Empty())
        with pytest.raises(ValueError, match=r"lacks 400 of the 400 chorales .*pip install -U music21"):
            load_chorales()

    def test_without_music21(self, monkeypatch):
        from importlib.metadata import PackageNotFoundError

        def absent(_):
            raise PackageNotFoundError

        monkeypatch.setattr("dvae_lib.data.music.chorales.distribution", absent)
        with pytest.raises(ImportError, match=r"pip install 'dvae-lib\[music\]'"):
            load_chorales()


def test_split_list(listed):
    names = [name for part in PARTS for name in listed[part]]
    assert len(names) == len(set(names)) == 400
    works = [{re.match(r"bwv\d+(\.\d+)?", name).group() for name in listed[part]} for part in PARTS]
    assert not works[0] & works[1] | works[0] & works[2] | works[1] & works[2]
