import errno
import os
import stat

import pytest

from dvae_lib.files import write_atomically


def test_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_the_name_is_given_only_to_what_is_on_the_disk(tmp_path, monkeypatch):
    events = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (events.append("sync"), fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda a, b: (events.append("replace"), replace(a, b)))
    write_atomically(tmp_path / "file", b"data")
    assert events[:2] == ["sync", "replace"]


def flushing(code, only_folders=True):
    """What a file system does that flushes no folders."""
    real = os.fsync

    def fsync(descriptor):
        if not only_folders or stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(code, os.strerror(code))
        real(descriptor)

    return fsync


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS])
def test_file_systems_that_flush_no_folders(tmp_path, monkeypatch, code):
    monkeypatch.setattr(os, "fsync", flushing(code))
    write_atomically(tmp_path / "file", b"whole")
    assert (tmp_path / "file").read_bytes() == b"whole"


@pytest.mark.parametrize("only_folders", [True, False])
def test_a_broken_disk_is_not_passed_over(tmp_path, monkeypatch, only_folders):
    monkeypatch.setattr(os, "fsync", flushing(errno.EIO, only_folders))
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        write_atomically(tmp_path / "file", b"whole")
