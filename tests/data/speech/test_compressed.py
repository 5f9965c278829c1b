"""AAC and WMA, which libsndfile does not read: against the sound that was encoded."""

import sys

import numpy as np
import pytest

from dvae_lib.data import read_audio
from dvae_lib.data.speech.audio import AudioError
from dvae_lib.data.speech.audio_stream import stream_audio

av = pytest.importorskip("av")

RATE = 16_000


def tone(seconds=1.0, channels=1, rate=RATE):
    """A sweep, so that a shift in time would show; silent at both ends."""
    t = np.arange(int(seconds * rate)) / rate
    sweep = 0.3 * np.sin(2 * np.pi * (200 + 600 * t) * t) * np.hanning(len(t))
    return np.float32([sweep * (1 - 0.5 * k) for k in range(channels)])


def encode(path, sound, codec="aac", rate=RATE, options=None):
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=rate, layout="stereo" if len(sound) == 2 else "mono")
        stream.bit_rate = 128_000
        for start in range(0, sound.shape[1], 1024):
            block = np.ascontiguousarray(sound[:, start : start + 1024])
            frame = av.AudioFrame.from_ndarray(block, format="fltp", layout=stream.layout.name)
            frame.sample_rate, frame.pts = rate, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    ("name", "codec", "exact"), [("a.m4a", "aac", True), ("a.M4A", "aac", True), ("a.wma", "wmav2", False)]
)
def test_what_was_encoded_is_heard(tmp_path, name, codec, exact):
    sound = tone()
    heard = read_audio(encode(tmp_path / name, sound, codec)).waveform.numpy()
    if exact:  # the encoder's delay is noted in the file, and left out
        error = heard[: sound.shape[1]] - sound[0]
        assert np.square(error).mean() < 1e-3 * np.square(sound).mean()
    assert np.square(heard).sum() == pytest.approx(np.square(sound).sum(), rel=0.05)
    assert abs(len(heard) - sound.shape[1]) < 4096


def test_channels_and_rates(tmp_path):
    path = encode(tmp_path / "a.m4a", tone(channels=2, rate=44_100), rate=44_100)
    found = read_audio(path)
    assert found.changes == ("2 channels averaged to one", "resampled from 44,100 to 16,000 Hz")
    assert len(found.waveform) == pytest.approx(RATE, abs=1500)
    np.testing.assert_allclose(found.waveform.abs().max(), 0.75 * 0.3, rtol=0.1)


def test_in_blocks_it_is_the_same(tmp_path):
    path = encode(tmp_path / "a.m4a", tone(2.0))
    with stream_audio(path) as stream:
        assert (stream.sample_rate, stream.num_channels) == (RATE, 1)
        blocks = list(stream.blocks)
    assert len(blocks) > 10
    np.testing.assert_array_equal(np.concatenate(blocks)[:, 0], read_audio(path).waveform.numpy())


def test_what_is_no_sound_is_refused_by_name(tmp_path):
    (tmp_path / "a.m4a").write_bytes(b"not audio at all" * 100)
    with pytest.raises(AudioError, match=r"a\.m4a cannot be read as audio .*convert it to WAV or FLAC"):
        read_audio(tmp_path / "a.m4a")


@pytest.mark.parametrize("part", [0.3, 0.6, 0.95, 0.999])
@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [("a.m4a", "aac", {}), ("b.m4a", "aac", {"movflags": "faststart"}), ("c.wma", "wmav2", {})],
)
def test_what_is_cut_short_is_refused(tmp_path, name, codec, options, part):
    """With its index in front, as for the web, FFmpeg reads what is left of an MP4 file and says nothing."""
    path = encode(tmp_path / name, tone(3.0), codec, options=options)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(part * len(whole))])
    message = rf"{name} is cut short: its header promises {len(whole):,} bytes, there are {int(part * len(whole)):,}"
    if (
        name == "a.m4a"
    ):  # the index stands behind the sound, which alone the header promises; without it nothing is read
        message = rf"{name} (is cut short: its header promises|cannot be read as audio)"
    with pytest.raises(AudioError, match=message):
        read_audio(path)
    with pytest.raises(AudioError, match=message), stream_audio(path) as stream:
        list(stream.blocks)


@pytest.mark.parametrize("tail", [b"TAG" + b"a title" * 17, bytes(64), b"\0\0"], ids=["ID3", "zeros", "two bytes"])
def test_what_others_append_does_no_harm(tmp_path, tail):
    path = encode(tmp_path / "a.m4a", tone())
    heard = read_audio(path).waveform
    path.write_bytes(path.read_bytes() + tail)
    assert read_audio(path).waveform.equal(heard)


def test_a_length_of_64_bits(tmp_path):
    """Of recordings over 4 GiB; here of a small one, in the place that FFmpeg leaves for it in front of the sound."""
    path = encode(tmp_path / "a.m4a", tone(), options={"movflags": "faststart"})
    whole = path.read_bytes()
    at = whole.index(b"mdat") - 4
    length = int.from_bytes(whole[at : at + 4], "big")
    assert whole[at - 8 : at] == b"\0\0\0\x08free"
    wide = whole[: at - 8] + b"\0\0\0\1mdat" + (length + 8).to_bytes(8, "big") + whole[at + 8 :]
    path.write_bytes(wide)
    read_audio(path)
    path.write_bytes(wide[:-1])
    with pytest.raises(AudioError, match=rf"promises {len(wide):,} bytes, there are {len(wide) - 1:,}"):
        read_audio(path)


def test_raw_aac_does_not_say_how_long_it_is(tmp_path):
    path = encode(tmp_path / "a.aac", tone())
    heard = len(read_audio(path).waveform)
    whole = path.read_bytes()
    path.write_bytes(whole[: whole.index(b"\xff\xf1", len(whole) // 2)])  # where a frame begins
    assert 0 < len(read_audio(path).waveform) < heard


def test_without_a_decoder_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    (tmp_path / "a.m4a").write_bytes(b"ftyp")
    with pytest.raises(ImportError, match=r'Reading \.m4a files needs the package av: pip install "dvae-lib\[m4a\]"'):
        read_audio(tmp_path / "a.m4a")
