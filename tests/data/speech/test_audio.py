import sys

import numpy as np
import pytest
import soundfile
import torch

from dvae_lib.data import AudioError, read_audio

RATE = 16_000


def tone(num_samples=8_000, rate=RATE, frequency=440.0):
    return 0.5 * np.sin(2 * np.pi * frequency * np.arange(num_samples) / rate)


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        (".wav", {}),
        (".flac", {}),
        (".aiff", {}),
        (".au", {}),
        (".wv1", {"format": "NIST"}),
        (".sph", {"format": "NIST"}),
    ],
)
def test_lossless_formats(tmp_path, suffix, options):
    soundfile.write(tmp_path / f"a{suffix}", tone(), RATE, **options)
    waveform, changes = read_audio(tmp_path / f"a{suffix}")
    assert changes == ()
    assert waveform.dtype == torch.float32
    np.testing.assert_allclose(waveform, tone(), atol=1 / 32_000)


@pytest.mark.parametrize("suffix", [".ogg", ".mp3"])
def test_lossy_formats(tmp_path, suffix):
    soundfile.write(tmp_path / f"a{suffix}", tone(), RATE)
    assert len(read_audio(tmp_path / f"a{suffix}").waveform) >= 8_000


def test_g722(tmp_path):
    codec = pytest.importorskip("G722")
    x = tone()
    (tmp_path / "a.g722").write_bytes(codec.G722(RATE, 64_000).encode((x * 32_767).astype(np.int16)))
    waveform, changes = read_audio(tmp_path / "a.g722")
    assert changes == ()
    assert len(waveform) == 8_000
    delay = np.argmax(np.correlate(waveform.numpy(), x[:-100], "valid"))  # the codec's filters take a while
    assert np.corrcoef(waveform.numpy()[delay : delay + 7_900], x[:-100])[0, 1] > 0.99


def test_channels_are_averaged(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.stack([tone(), np.zeros(8_000)], 1), RATE)
    waveform, changes = read_audio(tmp_path / "a.wav")
    assert changes == ("2 channels averaged to one",)
    np.testing.assert_allclose(waveform, tone() / 2, atol=1e-4)


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
def test_resampling_keeps_the_tone(tmp_path, rate):
    soundfile.write(tmp_path / "a.wav", tone(rate, rate), rate)
    waveform, changes = read_audio(tmp_path / "a.wav")
    empty = ", and hold nothing above 4,000 Hz" if rate == 8_000 else ""
    assert changes == (f"resampled from {rate:,} to 16,000 Hz{empty}",)
    assert len(waveform) == RATE
    np.testing.assert_allclose(waveform[1000:-1000], tone(RATE)[1000:-1000], atol=1e-3)


class TestBadFiles:
    def test_missing(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"no audio file .*none\.wav"):
            read_audio(tmp_path / "none.wav")

    @pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.g722"])
    def test_empty(self, tmp_path, name):
        (tmp_path / name).touch()
        with pytest.raises(AudioError, match=rf"{name} is empty \(0 bytes\)"):
            read_audio(tmp_path / name)

    def test_no_samples(self, tmp_path):
        soundfile.write(tmp_path / "a.wav", np.zeros(0), RATE)
        with pytest.raises(AudioError, match=r"a\.wav holds no samples"):
            read_audio(tmp_path / "a.wav")

    def test_text(self, tmp_path):
        (tmp_path / "a.wav").write_text("The quick brown fox\n" * 30)
        with pytest.raises(AudioError, match=r"a\.wav cannot be read as audio.*looks like a text file"):
            read_audio(tmp_path / "a.wav")

    @pytest.mark.parametrize("kept", [0.1, 0.5, 0.999])
    @pytest.mark.parametrize(("suffix", "format_"), [("wav", None), ("aiff", None), ("flac", None), ("wv1", "NIST")])
    def test_cut_short(self, tmp_path, suffix, format_, kept):
        noise = np.random.default_rng(0).uniform(-0.5, 0.5, 8_000)
        path = tmp_path / f"a.{suffix}"
        soundfile.write(path, noise, RATE, format=format_)
        content = path.read_bytes()
        path.write_bytes(content[: int(kept * len(content))])
        with pytest.raises(AudioError, match=rf"a\.{suffix}.*cut short.*(copy it again)"):
            read_audio(path)

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_not_finite(self, tmp_path, bad):
        x = tone()
        x[[7, 9]] = bad
        soundfile.write(tmp_path / "a.wav", x, RATE, subtype="FLOAT")
        with pytest.raises(AudioError, match=r"a\.wav holds samples that are not finite: 2 of 8000, the first at 7"):
            read_audio(tmp_path / "a.wav")

    @pytest.mark.parametrize(
        ("riff", "data"),
        [
            (0xFFFFFFFF, 0xFFFFFFFF),  # ffmpeg
            (0x7FFFF024, 0x7FFFF000),  # sox
            (0x80000024, 0x80000000),  # arecord
            (0x7FFFFFFF, 0x7FFFFFDB),
            (0, 16_000),
        ],
    )
    def test_a_wav_of_unknown_length_is_read(self, tmp_path, riff, data):
        """Programs that write to a pipe leave a number of their own where the length should be."""
        soundfile.write(tmp_path / "a.wav", tone(), RATE)
        content = bytearray((tmp_path / "a.wav").read_bytes())
        content[4:8], content[40:44] = riff.to_bytes(4, "little"), data.to_bytes(4, "little")
        (tmp_path / "a.wav").write_bytes(content)
        np.testing.assert_allclose(read_audio(tmp_path / "a.wav").waveform, tone(), atol=1 / 32_000)

    def test_compressed_sphere(self, tmp_path):
        soundfile.write(tmp_path / "a.wv1", tone(), RATE, format="NIST")
        content = (tmp_path / "a.wv1").read_bytes()
        header = content[:1024].replace(b"sample_coding -s3 pcm", b"sample_coding -s26 pcm,embedded-shorten-v2.00")
        (tmp_path / "a.wv1").write_bytes(header[:1024] + content[1024:])
        with pytest.raises(AudioError, match=r"a\.wv1 .*embedded-shorten.*sph2pipe -f wav"):
            read_audio(tmp_path / "a.wv1")

    def test_damaged_sphere_header(self, tmp_path):
        soundfile.write(tmp_path / "a.wv1", tone(), RATE, format="NIST")
        content = (tmp_path / "a.wv1").read_bytes()
        (tmp_path / "a.wv1").write_bytes(content.replace(b"sample_count", b"sample_kount"))
        with pytest.raises(AudioError, match="damaged SPHERE header"):
            read_audio(tmp_path / "a.wv1")


@pytest.mark.parametrize(("package", "name"), [("soundfile", "a.wav"), ("G722", "a.g722"), ("soxr", "a.wav")])
def test_a_missing_package_is_named(tmp_path, monkeypatch, package, name):
    if name.endswith("wav"):
        soundfile.write(tmp_path / name, tone(), 8_000)
    else:
        (tmp_path / name).write_bytes(b"\x01" * 100)
    monkeypatch.setitem(sys.modules, package, None)  # which is how Python marks a package that is not there
    with pytest.raises(ImportError, match=rf'the package {package}: pip install "dvae-lib\[speech\]"'):
        read_audio(tmp_path / name)
