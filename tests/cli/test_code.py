"""``dvae encode`` and ``dvae decode``."""

import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from commands import RATE, dvae

from dvae_lib import VAE


@pytest.fixture
def model(tmp_path) -> str:
    torch.manual_seed(0)
    VAE(513, 2, observation="gamma", encoder=(8,), decoder=(8,)).save_pretrained(tmp_path / "small")
    return "small"


@pytest.fixture
def recording(tmp_path) -> str:
    t = np.arange(RATE // 2) / RATE
    soundfile.write("in.wav", 0.3 * np.sin(2 * np.pi * 200 * t), RATE)
    return "in.wav"


def test_a_recording_is_coded_and_comes_back(model, recording):
    printed = dvae("encode", recording, "-o", "x.dvae", "--model", model)
    size = Path("x.dvae").stat().st_size
    assert re.search(rf"Written: x\.dvae \(0\.5 s in {size} bytes, [\d,]+ bit/s\)", printed)
    printed = dvae("decode", "x.dvae", "-o", "out.wav", "--model", model, "--iterations", 3)
    assert f"0.5 s from {size} bytes by {model}" in printed
    sound, rate = soundfile.read("out.wav")
    assert (sound.shape, rate) == ((RATE // 2,), RATE)
    assert np.isfinite(sound).all()
    assert not list(Path().glob("*.partial"))


def test_the_file_names_a_model_that_ships(recording):
    dvae("encode", recording, "-o", "x.dvae", "--model", "vae-librispeech", "--step", 12, "--quiet")
    assert "by vae-librispeech" in dvae("decode", "x.dvae", "-o", "out.flac", "--iterations", 1)


def test_step_and_loop_arrive(model, recording):
    for name, options in (("a", ("--step", 1)), ("b", ("--step", 20)), ("c", ("--step", 20, "--open-loop"))):
        dvae("encode", recording, "-o", name, "--model", model, "--quiet", *options)
    sizes = [Path(name).stat().st_size for name in "abc"]
    assert sizes[0] > sizes[1] == sizes[2]  # a static model has no loop


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["encode", "nowhere.wav", "-o", "x"], 1, "There is no file nowhere.wav"),
        (["encode", "in.wav", "-o", "in.wav"], 1, "the input itself"),
        (["encode", "in.wav", "-o", "no/x"], 1, "no folder no"),
        (["encode", "in.wav", "-o", "x", "--model", "small", "--step", "0"], 1, "step must be positive"),
        (["decode", "in.wav", "-o", "out.wav"], 1, "which begins with b'DVAE'; got b'RIFF'"),
        (["decode", "in.wav", "-o", "out.mp3"], 2, "must end in .wav or .flac"),
        (["decode", "cut.dvae", "-o", "out.wav"], 1, "the file is cut off"),
        (["decode", "whole.dvae", "-o", "out.wav"], 1, "name it with --model"),
        (["decode", "whole.dvae", "-o", "out.wav", "--model", "vae-librispeech"], 1, "another model"),
    ],
)
def test_what_is_wrong_is_said(model, recording, arguments, code, message):
    dvae("encode", recording, "-o", "whole.dvae", "--model", model, "--quiet")
    Path("cut.dvae").write_bytes(Path("whole.dvae").read_bytes()[:-9])
    assert message in dvae(*arguments, code=code)
    assert not Path("out.wav").exists()
