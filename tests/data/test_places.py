import os
import subprocess
import sys
import threading
import time

import pytest

from dvae_lib.data import cache_folder, find_folder, places, search_path
from dvae_lib.data.places import disk_errors_explained, one_at_a_time, whole_or_nothing


def test_the_cache_is_where_the_variable_says(tmp_path, monkeypatch):
    monkeypatch.setenv("DVAE_CACHE", str(tmp_path / "mine"))
    assert cache_folder() == tmp_path / "mine"
    monkeypatch.setenv("DVAE_CACHE", "~/there")
    assert "~" not in str(cache_folder())
    monkeypatch.delenv("DVAE_CACHE")
    assert "dvae-lib" in str(cache_folder())


def test_folders_are_looked_for_in_order(tmp_path, monkeypatch, cache):
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
    monkeypatch.setenv("DVAE_DATA", os.pathsep.join([str(tmp_path / "a"), str(tmp_path / "b")]))
    assert search_path() == [tmp_path / "a", tmp_path / "b", cache / "corpora"]
    assert find_folder("x", "y") is None
    (cache / "corpora" / "x").mkdir(parents=True)
    assert find_folder("x", "y") == cache / "corpora" / "x"
    (tmp_path / "b" / "y").mkdir()
    assert find_folder("x", "y") == tmp_path / "b" / "y"
    (tmp_path / "a" / "x").touch()  # a file is no folder
    assert find_folder("x", "y") == tmp_path / "b" / "y"


class TestWholeOrNothing:
    def test_whole(self, tmp_path):
        with whole_or_nothing(tmp_path / "deep" / "new") as draft:
            (draft / "file").write_text("x")
            assert not (tmp_path / "deep" / "new").exists()
        assert [p.name for p in (tmp_path / "deep").iterdir()] == ["new"]

    @pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
    @pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o755), (0o027, 0o750), (0o002, 0o775)])
    def test_who_may_read_it_is_for_the_umask_to_say(self, tmp_path, umask, mode):
        """What one user of a machine fetches, the others can use."""
        before = os.umask(umask)
        try:
            with whole_or_nothing(tmp_path / "new"):
                pass
        finally:
            os.umask(before)
        assert (tmp_path / "new").stat().st_mode & 0o777 == mode

    @pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, OSError])
    def test_nothing(self, tmp_path, error):
        with pytest.raises(error), whole_or_nothing(tmp_path / "new") as draft:  # noqa: PT012
            (draft / "file").write_text("x")
            raise error
        assert list(tmp_path.iterdir()) == []

    def test_another_process_was_faster(self, tmp_path):
        with whole_or_nothing(tmp_path / "new") as draft:
            (draft / "file").write_text("ours")
            (tmp_path / "new").mkdir()
            (tmp_path / "new" / "file").write_text("theirs")
        assert (tmp_path / "new" / "file").read_text() == "theirs"
        assert [p.name for p in tmp_path.iterdir()] == ["new"]

    def test_what_a_killed_process_left_is_cleared_away(self, tmp_path):
        code = (
            "import os, runpy, sys; from pathlib import Path\n"
            "with runpy.run_path(sys.argv[1])['whole_or_nothing'](Path(sys.argv[2])) as draft:\n"
            "    (draft / 'half').write_text('x'); os.kill(os.getpid(), 9)"
        )
        subprocess.run([sys.executable, "-c", code, places.__file__, str(tmp_path / "new")], check=False)
        assert len(list(tmp_path.iterdir())) == 1
        assert not (tmp_path / "new").exists()
        with whole_or_nothing(tmp_path / "new"):
            pass
        assert [p.name for p in tmp_path.iterdir()] == ["new"]


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(OSError, match=r"cannot be written to \(Not a directory.*Set DVAE_CACHE"),
        whole_or_nothing(tmp_path / "file" / "folder" / "new"),
    ):
        pass


def test_errors_of_other_files_are_left_alone(tmp_path):
    with pytest.raises(PermissionError) as error, disk_errors_explained(tmp_path / "cache"):
        raise PermissionError(13, "Permission denied", "/somewhere/else.wav")
    assert "DVAE_CACHE" not in str(error.value)


def test_only_one_is_inside(tmp_path):
    """Threads stand for processes here: the lock belongs to the open file, of which each has its own."""
    inside, most = [], []

    def enter():
        with one_at_a_time(tmp_path / "deep" / "lock"):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.02)
            inside.pop()

    threads = [threading.Thread(target=enter) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 5


def test_a_lock_is_given_back_after_an_error(tmp_path):
    for _ in range(2):
        with pytest.raises(ValueError, match="inside"), one_at_a_time(tmp_path / "lock"):
            raise ValueError("inside")
