"""``dvae enhance``."""

import os
import re
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from commands import RATE, dvae

from dvae_lib import STORN, VAE


@pytest.fixture
def speech_model(tmp_path) -> str:
    torch.manual_seed(0)
    VAE(513, 2, observation="gamma", encoder=(8,), decoder=(8,)).save_pretrained(tmp_path / "small")
    return "small"


def noisy(seconds: float = 0.5, rate: int = RATE, channels: int = 1) -> np.ndarray:
    rng = np.random.default_rng(0)
    tone = np.sin(2 * np.pi * 150 * np.arange(int(seconds * rate)) / rate)
    return 0.1 * (tone[:, None] + rng.standard_normal((tone.size, channels)))


def enhanced(*arguments, code: int = 0) -> str:
    return dvae("enhance", *arguments, "--iterations", 2, "--accelerator", "cpu", code=code)


@pytest.mark.parametrize("ending", [".wav", ".flac", ".WAV"])
@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
def test_a_recording_is_enhanced_at_its_own_rate(speech_model, rate, ending):
    soundfile.write("in.wav", noisy(rate=rate), rate)
    before = Path("in.wav").read_bytes()
    printed = enhanced("in.wav", "-o", f"out{ending}", "--model", speech_model)
    assert f"Written: out{ending} (0.5 s of sound in" in printed
    result, written = soundfile.read(f"out{ending}")
    assert written == rate
    assert result.shape == (rate // 2,)
    assert np.isfinite(result).all()
    assert 0 < np.abs(result).max() < 1
    assert Path("in.wav").read_bytes() == before
    assert not list(Path().glob("*.partial"))


def test_options_and_seed_of_enhancement_arrive(speech_model, monkeypatch):
    soundfile.write("in.wav", noisy(), RATE)
    asked = {}
    import dvae_lib.enhancement

    def listen(model, recording, output, **options):
        asked.update(options)
        return original(model, recording, output, **options)

    original = dvae_lib.enhancement.enhance_file
    monkeypatch.setattr(dvae_lib.enhancement, "enhance_file", listen)
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        options = ("--method", "vem", "--rank", 3, "--seed", seed, "--piece", 12, "--quiet")
        assert enhanced("in.wav", "-o", f"{name}.wav", "--model", speech_model, *options) == ""
    assert (asked["method"], asked["rank"], asked["num_iterations"], asked["piece_seconds"]) == ("vem", 3, 2, 12)
    files = [Path(f"{name}.wav").read_bytes() for name in "abc"]
    assert files[0] == files[1] != files[2]


def test_a_run_in_progress_lends_its_best_model(speech_model):
    Path("run").mkdir()
    Path(speech_model).rename("run/best")
    soundfile.write("in.wav", noisy(), RATE)
    enhanced("in.wav", "-o", "out.wav", "--model", "run")
    assert Path("out.wav").exists()


def test_what_is_odd_about_a_recording_is_said_and_it_goes_on(speech_model):
    soundfile.write("stereo.wav", noisy(channels=2), RATE)
    printed = enhanced("stereo.wav", "-o", "out.wav", "--model", speech_model)
    assert "averaged" not in printed
    assert soundfile.read("out.wav")[0].shape == (RATE // 2, 2)
    loud = np.clip(20 * noisy(), -1, 1)
    soundfile.write("loud.wav", loud, RATE)
    share = float(re.search(r"loud.wav: ([\d.]+)% of the samples are clipped", enhanced(
        "loud.wav", "-o", "out.wav", "--model", speech_model
    )).group(1))  # fmt: skip
    assert share == pytest.approx(100 * (np.abs(loud) == 1).mean(), abs=12)  # without those that stand alone
    peak = noisy() / np.abs(noisy()).max()  # one sample at full scale is none
    soundfile.write("peak.wav", peak, RATE, subtype="FLOAT")
    assert "clipped" not in enhanced("peak.wav", "-o", "out.wav", "--model", speech_model)


def test_a_long_recording_is_enhanced_in_pieces(speech_model, monkeypatch):
    soundfile.write("in.wav", noisy(9.0), RATE)
    clock = iter(range(0, 10_000, 40))
    monkeypatch.setattr("dvae_lib.cli.enhance.time.monotonic", lambda: float(next(clock)))
    printed = enhanced("in.wav", "-o", "pieces.wav", "--model", speech_model, "--piece", 4)
    assert re.search(r"Enhancing: \d+%, about \d+ min left", printed)  # no terminal here: a line each minute
    assert "Enhancing" not in enhanced("in.wav", "-o", "whole.wav", "--model", speech_model, "--quiet")
    pieces, whole = (soundfile.read(f"{name}.wav")[0] for name in ("pieces", "whole"))
    assert pieces.shape == whole.shape
    assert np.abs(pieces - whole).max() < 0.05 * np.abs(whole).max()
    assert (pieces != whole).any()


def test_an_interrupt_leaves_what_was_there(speech_model, monkeypatch):
    soundfile.write("in.wav", noisy(9.0), RATE)
    Path("out.wav").write_bytes(b"old")
    before = set(Path().iterdir())

    def interrupted(self, i, gain):
        raise KeyboardInterrupt

    monkeypatch.setattr("dvae_lib.enhancement.recordings.Mixture.estimate", interrupted)
    enhanced("in.wav", "-o", "out.wav", "--model", speech_model, "--piece", 4, code=130)
    assert Path("out.wav").read_bytes() == b"old"
    assert set(Path().iterdir()) == before


def test_without_a_package_for_sound_the_extra_is_named_before_all_else(monkeypatch):
    monkeypatch.setattr("dvae_lib.extras.find_spec", lambda name: None if name == "soundfile" else find_spec(name))
    printed = enhanced("nowhere.wav", "-o", "out.wav", "--model", "nowhere", code=1)
    assert "needs the package soundfile" in printed
    assert "dvae-lib[speech]" in printed


def test_the_recording_is_written_over_only_on_demand(speech_model):
    soundfile.write("in.wav", noisy(), RATE)
    Path("link.wav").symlink_to("in.wav")
    before = Path("in.wav").read_bytes()
    for output in ("in.wav", "./in.wav", "link.wav"):
        assert "is the recording itself" in enhanced("in.wav", "-o", output, "--model", speech_model, code=1)
    assert Path("in.wav").read_bytes() == before
    enhanced("in.wav", "-o", "in.wav", "--model", speech_model, "--overwrite")
    assert Path("in.wav").read_bytes() != before


def test_a_result_is_there_as_a_whole_or_not_at_all(speech_model, monkeypatch):
    soundfile.write("in.wav", noisy(), RATE)
    Path("out.wav").write_bytes(b"old")

    def full_disk(*paths):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full_disk)
    assert "No space left on device" in enhanced("in.wav", "-o", "out.wav", "--model", speech_model, code=1)
    assert Path("out.wav").read_bytes() == b"old"
    assert not list(Path().glob("*.partial"))


@pytest.mark.parametrize(
    ("recording", "output", "model", "code", "message"),
    [
        ("nowhere.wav", "out.wav", "small", 1, "There is no audio file nowhere.wav"),
        ("text.wav", "out.wav", "small", 1, "looks like a text file"),
        ("empty.wav", "out.wav", "small", 1, "is empty"),
        ("short.wav", "out.wav", "small", 1, "short.wav: The waveform lasts 32 ms, less than one window of 64 ms"),
        ("silence.wav", "out.wav", "small", 1, "silence.wav: The waveform holds only silence"),
        ("nan.wav", "out.wav", "small", 1, "not finite"),
        ("in.wav", "out.mp3", "small", 2, "must end in .wav or .flac"),
        ("in.wav", "no/folder/out.wav", "small", 1, "There is no folder no/folder"),
        ("in.wav", "folder.wav", "small", 1, "folder.wav cannot be written"),
        ("in.wav", "out.wav", "nowhere", 1, "no trained model called 'nowhere'"),
        ("in.wav", "out.wav", "gaussian", 1, "'gaussian' observations"),
        ("in.wav", "out.wav", "narrow", 1, "vectors of size 65"),
        ("in.wav", "out.wav", "predictive", 1, "past clean frames"),
    ],
)
def test_errors_of_enhancement_are_messages(speech_model, recording, output, model, code, message):
    soundfile.write("in.wav", noisy(), RATE)
    soundfile.write("short.wav", noisy(0.032), RATE)
    soundfile.write("silence.wav", np.zeros(RATE), RATE)
    soundfile.write("nan.wav", np.full(RATE, np.nan), RATE, subtype="FLOAT")
    Path("text.wav").write_text("no sound\n")
    Path("empty.wav").touch()
    Path("folder.wav").mkdir()
    VAE(513, 2).save_pretrained("gaussian")
    VAE(65, 2, observation="gamma").save_pretrained("narrow")
    STORN(513, 2, observation="gamma").save_pretrained("predictive")
    printed = enhanced(recording, "-o", output, "--model", model, code=code)
    assert message in printed
    assert "Traceback" not in printed
    assert not Path("out.wav").exists()


def test_a_folder_without_permission_is_found_out_before_the_work(speech_model, monkeypatch):
    soundfile.write("in.wav", noisy(), RATE)
    monkeypatch.setattr("os.access", lambda path, mode: mode != os.W_OK)  # root may write everywhere
    assert "cannot be written" in enhanced("in.wav", "-o", "out.wav", "--model", speech_model, code=1)
