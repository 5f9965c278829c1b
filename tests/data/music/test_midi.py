"""MIDI in and out: against files written message by message, and back again."""

import logging

import numpy as np
import pytest
import torch

from dvae_lib.data import load, midi_to_roll, read_midi, write_midi
from dvae_lib.data.music import LOWEST_KEY

mido = pytest.importorskip("mido")

QUARTER = 480


def note(onset, duration, key, channel=0):
    """Onset and duration in quarters, as two messages at their ticks."""
    start, end = round(onset * QUARTER), round((onset + duration) * QUARTER)
    on = mido.Message("note_on", note=key, velocity=70, channel=channel)
    return [(start, on), (end, mido.Message("note_off", note=key, channel=channel))]


def meta(onset, kind, **values):
    return [(round(onset * QUARTER), mido.MetaMessage(kind, **values))]


def write(path, *tracks, kind=1):
    """A file of messages at absolute ticks."""
    file = mido.MidiFile(type=kind, ticks_per_beat=QUARTER)
    for messages in tracks:
        track, now = mido.MidiTrack(), 0
        for tick, message in sorted(messages, key=lambda pair: pair[0]):
            track.append(message.copy(time=tick - now))
            now = tick
        file.tracks.append(track)
    file.save(path)
    return path


def sounding(roll):
    return [(np.flatnonzero(step) + LOWEST_KEY).tolist() for step in roll]


def rolls(number, rng):
    made = []
    for _ in range(number):
        roll = (rng.random((24, 88)) < 0.05).astype(np.uint8)
        roll[-1, 40] = 1  # a roll that is read ends with its last note
        made.append(roll)
    return made


class TestRead:
    def test_notes_tempos_and_signatures(self, tmp_path):
        path = write(
            tmp_path / "a.mid",
            meta(0, "set_tempo", tempo=500_000)
            + meta(2, "set_tempo", tempo=1_000_000)
            + meta(0, "time_signature", numerator=3, denominator=4)
            + meta(3, "time_signature", numerator=6, denominator=8),
            meta(0, "track_name", name="right") + note(0, 1, 60) + note(1, 0.5, 64) + note(2, 1, 67),
            meta(0, "track_name", name="right") + note(0, 4, 48),
        )
        midi = read_midi(path)
        assert midi.tracks == {"right": [(0, 1, 60), (1, 0.5, 64), (2, 1, 67)], "right 2": [(0, 4, 48)]}
        assert midi.tempos == ((0, 120), (2, 60))
        assert midi.time_signatures == ((0, 3, 4), (3, 6, 8))
        assert sounding(midi.roll(2, tracks=["right"])) == [[60], [60], [64], [], [67], [67]]
        # Two quarters at 120 a minute take one second, the two after them at 60 a minute take two.
        assert sounding(midi.roll(1, "second")) == [[48, 60], [48, 64, 67], [48]]
        # Three quarters of 3/4 are three beats, the quarter after them is two of 6/8.
        assert [len(keys) for keys in sounding(midi.roll(1, "beat"))] == [2, 2, 2, 1, 1]

    @pytest.mark.parametrize(("short", "expected"), [("keep", [[60], [62], [64]]), ("drop", [[60], [], [64]])])
    def test_notes_shorter_than_a_step(self, tmp_path, short, expected):
        path = write(tmp_path / "a.mid", note(0.1, 0.9, 60) + note(0.95, 0.1, 62) + note(2, 1.2, 64))
        assert sounding(midi_to_roll(path, 1, short=short)) == expected

    def test_notes_played_a_little_early_or_late_go_to_the_nearest_step(self, tmp_path):
        path = write(tmp_path / "a.mid", note(0.02, 0.96, 60) + note(0.97, 1.06, 62))
        assert sounding(midi_to_roll(path, 2)) == [[60], [60], [62], [62]]

    def test_triplets(self, tmp_path):
        path = write(tmp_path / "a.mid", [m for k in range(6) for m in note(k / 3, 1 / 3, 60 + k)])
        assert sounding(midi_to_roll(path, 3)) == [[60 + k] for k in range(6)]

    def test_drums_are_left_out_unless_asked_for(self, tmp_path):
        path = write(tmp_path / "a.mid", note(0, 1, 60) + note(0, 1, 38, channel=9))
        assert read_midi(path).tracks == {"track 1": [(0, 1, 60)]}
        assert list(read_midi(path, drums=True).tracks) == ["track 1, channel 1", "track 1, channel 10"]
        only = write(tmp_path / "b.mid", note(0, 1, 38, channel=9))
        with pytest.raises(ValueError, match=r"b\.mid holds no notes but drums, if any; drums=True takes these$"):
            read_midi(only)

    def test_a_key_struck_again_while_it_sounds_and_one_never_released(self, tmp_path):
        on = [(QUARTER * k, mido.Message("note_on", note=60, velocity=70)) for k in range(2)]
        path = write(tmp_path / "a.mid", [*on, *meta(3, "marker", text="end")])
        assert read_midi(path).tracks == {"track 1": [(0, 1, 60), (1, 2, 60)]}

    def test_channels_of_one_track_are_apart(self, tmp_path):
        path = write(tmp_path / "a.mid", note(0, 1, 60) + note(0, 2, 60, channel=1), kind=0)
        assert read_midi(path).tracks == {"track 1, channel 1": [(0, 1, 60)], "track 1, channel 2": [(0, 2, 60)]}

    def test_keys_that_a_piano_does_not_have_are_left_out_aloud(self, tmp_path, caplog):
        path = write(tmp_path / "a.mid", note(0, 1, 60) + note(0, 1, 12))
        with caplog.at_level(logging.WARNING):
            assert sounding(midi_to_roll(path, 1)) == [[60]]
        assert "1 of 2 notes lie outside the piano's keys" in caplog.text

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "not a readable MIDI file"),
            (b"RIFF and more that is no MIDI", "not a readable MIDI file"),
            (b"MThd\0\0\0\6\0\0\0\1\1\xe0MTrk\0\0\0\x10\0\x90", "not a readable MIDI file"),
            (b"MThd\0\0\0\6\0\0\0\1\xe7\x28MTrk\0\0\0\4\0\xff\x2f\0", "counts frames of film"),
            (b"MThd\0\0\0\6\0\2\0\1\1\xe0MTrk\0\0\0\4\0\xff\x2f\0", "is of type 2"),
            (b"MThd\0\0\0\6\0\0\0\1\1\xe0MTrk\0\0\0\4\0\xff\x2f\0", "holds no notes"),
        ],
    )
    def test_what_is_no_music_is_refused_by_name(self, tmp_path, content, message):
        (tmp_path / "a.mid").write_bytes(content)
        with pytest.raises(ValueError, match=rf"a\.mid.*{message}"):
            read_midi(tmp_path / "a.mid")

    def test_a_file_that_is_not_there(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="nowhere"):
            read_midi(tmp_path / "nowhere.mid")

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"steps": 0}, "steps must be a positive number"),
            ({"per": "bar"}, "per must be 'quarter', 'beat' or 'second', got 'bar'"),
            ({"short": "no"}, "short must be 'keep' or 'drop', got 'no'"),
            ({"tracks": ["left"]}, "no track left; there are track 1"),
            ({"steps": 0.1, "short": "drop"}, "there are no notes for a roll"),
        ],
    )
    def test_wrong_wishes(self, tmp_path, as_a_user, options, message):
        path = write(tmp_path / "a.mid", note(0, 1, 60))
        with pytest.raises(ValueError, match=rf"a\.mid: {message}"):
            midi_to_roll(path, **options)

    def test_a_roll_without_end_is_refused_by_name(self, tmp_path):
        """37 bytes: one tick a quarter note, and a note of 2^28 - 1 ticks."""
        head = b"MThd\0\0\0\6\0\0\0\1\0\1MTrk\0\0\0\x0f"
        (tmp_path / "a.mid").write_bytes(head + b"\0\x90\x3c\x40\xff\xff\xff\x7f\x80\x3c\0\0\xff\x2f\0")
        assert (tmp_path / "a.mid").stat().st_size == 37
        message = r"a\.mid: the notes last 1,073,741,820 steps, and a roll has 10,000,000 at most\. Choose fewer steps"
        with pytest.raises(ValueError, match=message):
            midi_to_roll(tmp_path / "a.mid")
        with pytest.raises(ValueError, match=message):
            load(tmp_path)
        assert len(midi_to_roll(tmp_path / "a.mid", 1e-5)) == 2684


class TestWrite:
    @pytest.mark.parametrize("steps", [1, 3, 4, 7, 0.5, 480])
    def test_read_again_it_is_the_same_roll(self, tmp_path, rng, steps):
        for roll in rolls(3, rng):
            write_midi(tmp_path / "a.mid", roll, steps, per_minute=97, time_signature=(6, 8))
            np.testing.assert_array_equal(midi_to_roll(tmp_path / "a.mid", steps), roll)

    def test_it_lasts_as_long_as_said(self, tmp_path):
        """Eight steps of a sixteenth at 60 quarters a minute are two seconds, rests at the end included."""
        roll = torch.zeros(8, 88)
        roll[2:5, 39] = 1
        write_midi(tmp_path / "a.mid", roll, 4, per_minute=60, program=19)
        file = mido.MidiFile(tmp_path / "a.mid")
        assert file.length == pytest.approx(2.0)
        assert {m.program for m in file if m.type == "program_change"} == {19}
        assert midi_to_roll(tmp_path / "a.mid", 4, "second").sum() == 3

    @pytest.mark.parametrize(
        ("roll", "options", "message"),
        [
            (np.full((4, 88), 0.5), {}, "zeros and ones"),
            (np.zeros((4, 12)), {}, r"shape \(4, 12\)"),
            (np.zeros((4, 88)), {"steps": 1000}, "steps must lie between"),
            (np.zeros((4, 88)), {"velocity": 0}, "velocity must lie between 1 and 127"),
            (np.zeros((4, 88)), {"time_signature": (4, 3)}, "a power of 2 up to 64, got 3"),
        ],
    )
    def test_what_cannot_be_written(self, tmp_path, roll, options, message):
        with pytest.raises(ValueError, match=message):
            write_midi(tmp_path / "a.mid", roll, **options)
        assert not list(tmp_path.iterdir())


class TestDoor:
    def test_a_folder_of_midi_files_is_music(self, tmp_path, rng):
        made = rolls(10, rng)
        for k, roll in enumerate(made):
            write_midi(tmp_path / f"{k}.{'MID' if k else 'midi'}", roll, 4)
        (tmp_path / "about.csv").write_text("name,key\na,1\n")
        found = load(tmp_path, steps=4)
        assert (found.kind, found.observation, found.train.x_dim, found.train.standardizer) == (
            *("music", "bernoulli", 88),
            None,
        )
        parts = {name: part[i] for part in found.parts for i, name in enumerate(part.names)}
        np.testing.assert_array_equal(parts["3.MID"], made[3])
        assert found.metadata["data"]["options"] == {"steps": 4}
        assert load(tmp_path, steps=2).train.num_frames < found.train.num_frames
        one = load(tmp_path / "3.MID", split="time")
        assert one.train.num_frames + one.validation.num_frames + one.test.num_frames == 24

    def test_an_option_that_these_files_do_not_have(self, tmp_path, rng):
        write_midi(tmp_path / "a.mid", rolls(1, rng)[0])
        with pytest.raises(TypeError, match=r"read without fps; these files have steps, per, tracks, short$"):
            load(tmp_path, fps=30)

    def test_without_mido_it_says_what_to_install(self, tmp_path, monkeypatch):
        monkeypatch.setitem(__import__("sys").modules, "mido", None)
        (tmp_path / "a.mid").write_bytes(b"MThd")
        with pytest.raises(ImportError, match=r'Reading MIDI needs the package mido: pip install "dvae-lib\[midi\]"'):
            read_midi(tmp_path / "a.mid")


@pytest.fixture
def rng():
    return np.random.default_rng(0)
