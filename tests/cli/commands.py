"""The commands, called as from a terminal."""

from pathlib import Path

import numpy as np
import soundfile
from typer.testing import CliRunner

from dvae_lib.cli import app

RATE = 16_000


def dvae(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, list(map(str, arguments)))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return " ".join(result.output.split())


def write_voices(folder: Path, number: int) -> Path:
    for i in range(number):
        time_axis = np.arange(int((1.6 + 0.1 * i) * RATE)) / RATE
        tone = sum(np.sin(2 * np.pi * (100 + 10 * i) * k * time_axis) / k for k in range(1, 20))
        noise = np.random.default_rng(i).standard_normal(time_axis.size)
        sound = 0.1 * (tone * (1 + np.sin(2 * np.pi * 2 * time_axis)) + 0.1 * noise)
        speaker = folder / f"speaker{i}"
        speaker.mkdir(parents=True)
        soundfile.write(speaker / "a.wav", sound, RATE)
    return folder
