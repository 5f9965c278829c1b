import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from dvae_lib.data import AudioError, FrontEndSettings, SpeechFrontEnd
from dvae_lib.data.speech import features
from dvae_lib.data.speech.features import power_spectrograms

FRONT_END = SpeechFrontEnd()


@pytest.fixture
def files(tmp_path, write_speech):
    return [write_speech(tmp_path / "in" / f"{i}.wav", 0.3 + 0.2 * i, seed=i) for i in range(3)]


def compute(files, front_end=FRONT_END):
    return power_spectrograms(files, front_end, label="mine", progress=False)


def entries(cache):
    return sorted(p.name for p in (cache / "features").iterdir() if not p.name.endswith(".lock"))


def test_frames_are_those_of_the_front_end(files, cache):
    frames, starts, lengths = compute(files)
    assert isinstance(frames, np.memmap)
    for file, start, length in zip(files, starts, lengths, strict=True):
        power = FRONT_END.analyse(FRONT_END.read(file)).power
        assert torch.equal(torch.from_numpy(frames[start : start + length]), power)


def test_the_second_time_nothing_is_decoded(files, cache, monkeypatch):
    first = compute(files)
    monkeypatch.setattr(features, "read_audio", None)
    second = compute(files)
    assert second.lengths == first.lengths
    np.testing.assert_array_equal(second.frames, first.frames)


def test_the_file_is_never_written_to(files, cache):
    compute(files).frames[:] = 7
    assert not (compute(files).frames == 7).all()


def test_the_key_is_content_and_settings(files, cache, write_speech, tmp_path):
    compute(files)
    (tmp_path / "moved").mkdir()
    compute([shutil.copy(file, tmp_path / "moved" / f"other{file.name}") and file for file in files])
    moved = sorted((tmp_path / "moved").iterdir())
    compute(moved)
    assert len(entries(cache)) == 1  # the same recordings elsewhere
    compute(files[::-1])
    assert len(entries(cache)) == 2
    compute(files, SpeechFrontEnd(FrontEndSettings(hop_length=512)))
    assert len(entries(cache)) == 3
    stamp = files[0].stat()
    write_speech(files[0], 0.3, seed=9)  # the same name, size and time, other samples
    os.utime(files[0], ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    compute(files)
    assert len(entries(cache)) == 4


def test_a_new_version_of_the_code_makes_new_entries(files, cache, monkeypatch):
    compute(files)
    monkeypatch.setattr(features, "_VERSION", features._VERSION + 1)
    compute(files)
    assert len(entries(cache)) == 2


@pytest.mark.parametrize("damage", ["cut", "index", "gone"])
def test_a_damaged_entry_is_made_again(files, cache, caplog, damage):
    expected = np.array(compute(files).frames)
    (folder,) = (cache / "features").glob("[!.]*")
    if damage == "cut":
        os.truncate(folder / "frames.f32", 1000)
    elif damage == "index":
        (folder / "index.json").write_text("{")
    else:
        (folder / "frames.f32").unlink()
    np.testing.assert_array_equal(compute(files).frames, expected)
    assert "is damaged" in caplog.text


def test_a_full_disk_leaves_nothing(files, cache, full_disk, monkeypatch):
    with monkeypatch.context():
        full_disk("frames.f32", 50_000)
        with pytest.raises(OSError, match=r"The disk is full \(No space left.*features failed, and nothing") as error:
            compute(files)
    assert error.value.errno == 28
    assert entries(cache) == []


def test_all_bad_files_are_named_at_once(files, cache, tmp_path):
    files[0].write_bytes(files[0].read_bytes()[:5_000])
    files[2].write_text("not audio")
    with pytest.raises(AudioError, match=r"2 of 4 files of mine cannot be used:\n.*0\.wav is cut.*\n.*2\.wav cannot"):
        compute([*files, tmp_path / "in" / "1.wav"])
    assert entries(cache) == []


def test_changes_are_said_once(cache, tmp_path, write_speech, caplog):
    files = [write_speech(tmp_path / f"{i}.wav", rate=8_000, seed=i) for i in range(3)]
    compute([*files, write_speech(tmp_path / "x.wav")])
    assert caplog.text.count("resampled") == 1
    assert "mine: 3 of 4 files resampled from 8,000 to 16,000 Hz" in caplog.text


def test_killed_in_the_middle(files, cache):
    code = (
        "import os, sys; from pathlib import Path; from dvae_lib.data.speech import features, SpeechFrontEnd\n"
        "seen = []; read = features.read_audio\n"
        "def killing(*args):\n"
        "    seen.append(1)\n"
        "    if len(seen) == 3: os.kill(os.getpid(), 9)\n"
        "    return read(*args)\n"
        "features.read_audio = killing\n"
        "features.power_spectrograms([Path(p) for p in sys.argv[1:]], SpeechFrontEnd(), progress=False)"
    )
    done = subprocess.run([sys.executable, "-c", code, *map(str, files)], check=False)
    assert done.returncode == -9
    assert all(name.startswith(".") for name in entries(cache))
    compute(files)
    assert len(entries(cache)) == 1
    assert not entries(cache)[0].startswith(".")


def test_the_number_of_threads_is_given_back(files, cache):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        compute(files)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_two_at_a_time_make_it_once(files, cache, monkeypatch):
    made = []
    original = features._compute
    monkeypatch.setattr(features, "_compute", lambda *args: (made.append(1), original(*args)))
    with ThreadPoolExecutor() as pool:
        first, second = pool.map(compute, [files, files])
    assert made == [1]
    assert first.lengths == second.lengths
