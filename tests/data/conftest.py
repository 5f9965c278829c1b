import numpy as np
import pytest


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, and nothing on the search path besides."""
    monkeypatch.setenv("DVAE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("DVAE_DATA", raising=False)
    return tmp_path / "cache"


class FullDisk:
    """Stands for an open file on a disk with room for so many bytes."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def write(self, data):
        self.room -= len(data)
        if self.room < 0:
            raise OSError(28, "No space left on device")
        return self.file.write(data)

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.file.close()


@pytest.fixture
def full_disk(monkeypatch):
    """A function that leaves room for so many bytes in each file whose name contains a word."""
    from pathlib import Path

    def fill(word, room):
        original = Path.open

        def opened(self, mode="r", *args, **kwargs):
            file = original(self, mode, *args, **kwargs)
            return FullDisk(file, room) if word in self.name and set(mode) & set("wax") else file

        monkeypatch.setattr(Path, "open", opened)

    return fill


@pytest.fixture
def write_speech():
    """A function that writes something like speech to a sound file."""
    import soundfile

    def write(path, seconds=1.0, rate=16_000, seed=0, **options):
        path.parent.mkdir(parents=True, exist_ok=True)
        t = np.arange(int(seconds * rate)) / rate
        hum = sum(np.sin(2 * np.pi * k * (110 + seed) * t) / k for k in range(1, 12))
        noise = np.random.default_rng(seed).normal(size=t.size)
        soundfile.write(path, 0.1 * hum + 0.01 * noise, rate, **options)
        return path

    return write
