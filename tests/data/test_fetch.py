import hashlib
import http.server
import io
import os
import tarfile
import threading
from pathlib import Path

import pytest

from dvae_lib.data import DownloadError, download, fetch
from dvae_lib.data.fetch import fetch_debian_packages, unpack_tar

CONTENT = bytes(range(256)) * 20_000  # 5 MB: several chunks
CHECKSUM = "sha256:" + hashlib.sha256(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT, with the fault that the server's `faults` name next."""

    def do_GET(self):
        fault = self.server.faults.pop(0) if self.server.faults else ""
        wanted = self.headers.get("Range")
        self.server.asked.append(wanted)
        if fault.isdigit():
            self.send_error(int(fault))
            return
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and fault != "no ranges" else 0
        if start >= len(CONTENT):
            self.send_error(416)
            return
        body = CONTENT[start:]
        self.send_response(206 if start else 200)
        if fault != "no length":
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if fault == "corrupt":
            body = body[:100] + b"?" + body[101:]
        if fault == "truncate":
            body = body[: len(body) // 3]
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr("dvae_lib.data.fetch.time.sleep", lambda seconds: None)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        httpd.faults, httpd.asked = [], []
        httpd.url = f"http://127.0.0.1:{httpd.server_port}/corpus.tar.gz"
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield httpd
        httpd.shutdown()
        thread.join()


def get(server, folder, **options):
    return download(server.url, folder / "got", checksum=CHECKSUM, progress=False, **options)


def left(folder):
    return sorted(p.name for p in folder.iterdir())


class TestDownload:
    def test_whole(self, server, tmp_path):
        assert get(server, tmp_path / "new" / "folder").read_bytes() == CONTENT
        assert left(tmp_path / "new" / "folder") == ["got"]

    def test_what_is_there_is_not_fetched_again(self, server, tmp_path):
        get(server, tmp_path)
        get(server, tmp_path)
        assert len(server.asked) == 1

    def test_what_is_there_and_damaged_is_fetched_again(self, server, tmp_path):
        (tmp_path / "got").write_bytes(b"old")
        assert get(server, tmp_path).read_bytes() == CONTENT

    @pytest.mark.parametrize("fault", ["truncate", "503"])
    def test_a_broken_connection_is_taken_up_again(self, server, tmp_path, fault):
        server.faults = [fault]
        assert get(server, tmp_path).read_bytes() == CONTENT
        third = len(CONTENT) // 3
        assert server.asked == [None, f"bytes={third}-" if fault == "truncate" else None]

    def test_a_connection_that_always_breaks(self, server, tmp_path):
        server.faults = ["truncate"] * 20
        with pytest.raises(DownloadError, match=r"broke after [\d,]+ of 5,120,000 bytes.*are kept; the next try"):
            get(server, tmp_path, attempts=3)
        assert left(tmp_path) == ["got.part"]
        server.faults.clear()
        assert get(server, tmp_path).read_bytes() == CONTENT  # and the next call goes on from there
        assert server.asked[-1].startswith("bytes=")
        assert left(tmp_path) == ["got"]

    def test_a_server_without_ranges_starts_anew(self, server, tmp_path):
        server.faults = ["truncate", "no ranges"]
        assert get(server, tmp_path).read_bytes() == CONTENT

    def test_a_server_that_does_not_say_how_much(self, server, tmp_path):
        server.faults = ["no length"]
        assert get(server, tmp_path).read_bytes() == CONTENT

    def test_a_part_that_is_complete(self, server, tmp_path):
        (tmp_path / "got.part").write_bytes(CONTENT)
        assert get(server, tmp_path).read_bytes() == CONTENT

    @pytest.mark.parametrize("part", [b"of something else", CONTENT + b"too long"])
    def test_a_part_of_another_file_is_dropped(self, server, tmp_path, part):
        (tmp_path / "got.part").write_bytes(part)
        assert get(server, tmp_path).read_bytes() == CONTENT
        assert server.asked[-1] is None

    def test_a_damaged_file_is_never_kept(self, server, tmp_path):
        server.faults = ["corrupt"] * 20
        with pytest.raises(DownloadError, match=f"does not have the checksum {CHECKSUM}; the file is damaged"):
            get(server, tmp_path)
        assert left(tmp_path) == []

    @pytest.mark.parametrize("code", ["404", "403"])
    def test_a_refusal_is_not_repeated(self, server, tmp_path, code):
        server.faults = [code] * 20
        with pytest.raises(DownloadError, match=rf"corpus\.tar\.gz: the server answered {code}"):
            get(server, tmp_path)
        assert len(server.asked) == 1
        assert left(tmp_path) == []

    def test_no_server(self, server, tmp_path):
        with pytest.raises(DownloadError, match=r"the connection failed.*[Rr]efused"):
            download("http://127.0.0.1:9/x", tmp_path / "got", checksum=CHECKSUM, progress=False)

    def test_the_second_address_is_tried(self, server, tmp_path):
        urls = ["http://127.0.0.1:9/x", server.url]
        assert download(urls, tmp_path / "got", checksum=CHECKSUM, progress=False).read_bytes() == CONTENT

    def test_an_interrupt_keeps_the_part(self, server, tmp_path, monkeypatch):
        class Interrupted(fetch.tqdm):
            def update(self, n=1):
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(fetch, "tqdm", Interrupted)
            with pytest.raises(KeyboardInterrupt):
                get(server, tmp_path)
        assert left(tmp_path) == ["got.part"]
        have = (tmp_path / "got.part").stat().st_size
        assert 0 < have < len(CONTENT)
        get(server, tmp_path)
        assert server.asked == [None, f"bytes={have}-"]

    def test_a_disk_that_fills_up(self, server, tmp_path, full_disk):
        full_disk("got", 2_000_000)
        with pytest.raises(OSError, match=r"The disk is full .*Set DVAE_CACHE to a folder with room"):
            get(server, tmp_path)
        assert left(tmp_path) == []

    def test_a_disk_that_is_too_small_is_told_before(self, server, tmp_path, monkeypatch):
        monkeypatch.setattr("dvae_lib.data.fetch.shutil.disk_usage", lambda p: type("U", (), {"free": 1_000}))
        with pytest.raises(OSError, match="5,120,000 bytes are needed"):
            get(server, tmp_path)

    @pytest.mark.parametrize("checksum", ["abc", "md4711:abc", "md5:"])
    def test_a_checksum_must_say_its_kind(self, server, tmp_path, checksum):
        with pytest.raises(ValueError, match="A checksum reads"):
            download(server.url, tmp_path / "got", checksum=checksum, progress=False)

    def test_progress_is_shown(self, server, tmp_path, capsys):
        download(server.url, tmp_path / "got", checksum=CHECKSUM)
        assert "got: 100%" in capsys.readouterr().err


class TestUnpacking:
    def archive(self, path, members):
        with tarfile.open(path, "w:gz") as tar:
            for name, content in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        return path

    def test_what_lies_under_the_prefix(self, tmp_path):
        archive = self.archive(tmp_path / "a.tgz", {"L/dev/1/a": b"one", "L/README": b"no", "L/develop/b": b"no"})
        unpack_tar(archive, tmp_path / "out", prefix="L/dev", progress=False)
        assert [p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*")] == ["1", "1/a"]
        assert (tmp_path / "out/1/a").read_bytes() == b"one"

    @pytest.mark.parametrize("name", ["../evil", "L/../../evil"])
    def test_nothing_leads_out(self, tmp_path, name):
        archive = self.archive(tmp_path / "a.tgz", {name: b"evil"})
        with pytest.raises(ValueError, match="leads out of its folder"):
            unpack_tar(archive, tmp_path / "out", progress=False)
        assert not list(tmp_path.rglob("evil"))

    def test_a_damaged_archive(self, tmp_path):
        archive = self.archive(tmp_path / "a.tgz", {"x": os.urandom(100_000)})
        archive.write_bytes(archive.read_bytes()[:50_000])
        with pytest.raises(ValueError, match=r"a\.tgz is damaged .*fetch it again"):
            unpack_tar(archive, tmp_path / "out", progress=False)


class TestDebianPackages:
    """With an apt-get and a dpkg-deb of our own, so that every fault can be had."""

    APT = """#!/bin/sh
own=
while [ "$1" = -o ]; do
  case "$2" in Dir::State::lists=*) own=${2#*=} ;; esac
  shift 2
done
if [ "$2" = update ]; then
  echo update >> "$LOG"
  [ -n "$UPDATE_FAILS" ] && { echo "W: Failed to fetch some" >&2; exit 0; }
  test -d "$own/partial" && echo new > "$own/index"
  exit
fi
echo "$3" >> "$LOG"
if [ -n "$FAIL" ] && ! [ -f "$own/index" ]; then echo "E: $FAIL" >&2; exit 100; fi
printf 'package %s' "$3" > "$3_1.0_all.deb"
"""
    DPKG = """#!/bin/sh
mkdir -p "$3/usr/share" && cp "$2" "$3/usr/share/"
"""

    @pytest.fixture
    def tools(self, tmp_path, monkeypatch):
        folder = tmp_path / "bin"
        folder.mkdir()
        for name, script in (("apt-get", self.APT), ("dpkg-deb", self.DPKG)):
            (folder / name).write_text(script)
            (folder / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
        monkeypatch.setenv("LOG", str(tmp_path / "log"))
        monkeypatch.delenv("FAIL", raising=False)
        monkeypatch.delenv("UPDATE_FAILS", raising=False)
        return folder

    def run(self, tmp_path):
        checksums = {p: "sha256:" + hashlib.sha256(f"package {p}".encode()).hexdigest() for p in ("aa", "bb")}
        fetch_debian_packages(checksums, tmp_path / "down", tmp_path / "out", progress=False)

    def asked(self, tmp_path):
        return Path(tmp_path / "log").read_text().split()

    def test_they_are_fetched_and_unpacked(self, tools, tmp_path):
        self.run(tmp_path)
        assert sorted(p.name for p in (tmp_path / "out/usr/share").iterdir()) == ["aa_1.0_all.deb", "bb_1.0_all.deb"]

    def test_what_came_before_an_interrupt_is_not_asked_for_again(self, tools, tmp_path):
        (tmp_path / "down").mkdir()
        (tmp_path / "down" / "aa_1.0_all.deb").write_text("package aa")
        self.run(tmp_path)
        assert self.asked(tmp_path) == ["bb"]

    def test_a_part_is_asked_for_again(self, tools, tmp_path):
        (tmp_path / "down").mkdir()
        (tmp_path / "down" / "aa_1.0_all.deb").write_text("packa")
        self.run(tmp_path)
        assert self.asked(tmp_path) == ["aa", "bb"]

    @pytest.mark.parametrize(
        "said",
        [
            "Unable to locate package aa",
            "Package 'aa' has no installation candidate",
            "Failed to fetch http://archive.example.org/pool/aa_0.9_all.deb  404  Not Found [IP: 192.0.2.1 80]",
            "Failed to fetch http://archive.example.org/pool/aa_0.9_all.deb  Hash Sum mismatch",
        ],
    )
    def test_missing_or_old_lists_are_brought_up_to_date_without_root(self, tools, tmp_path, monkeypatch, said):
        """In lists of our own, once for all packages, and nothing of them is left."""
        monkeypatch.setenv("FAIL", said)
        self.run(tmp_path)
        assert self.asked(tmp_path) == ["aa", "update", "aa", "bb"]
        assert sorted(p.name for p in (tmp_path / "down").iterdir()) == ["aa_1.0_all.deb", "bb_1.0_all.deb"]

    def test_lists_that_cannot_be_brought_up_to_date(self, tools, tmp_path, monkeypatch):
        monkeypatch.setenv("FAIL", "Failed to fetch http://archive.example.org/aa.deb  404  Not Found")
        monkeypatch.setenv("UPDATE_FAILS", "1")
        with pytest.raises(DownloadError, match=r"404 +Not Found\. Fetching new package lists did not help\."):
            self.run(tmp_path)
        assert list((tmp_path / "down").iterdir()) == []

    def test_no_connection(self, tools, tmp_path, monkeypatch):
        monkeypatch.setenv("FAIL", "Failed to fetch: Temporary failure resolving")
        with pytest.raises(DownloadError, match=r"Temporary failure resolving\. Check the connection"):
            self.run(tmp_path)
        assert self.asked(tmp_path) == ["aa"]  # lists of our own would not come either

    def test_a_full_disk(self, tools, tmp_path, monkeypatch):
        monkeypatch.setenv("FAIL", "write (28: No space left on device)")
        with pytest.raises(OSError, match="No space left") as error:
            self.run(tmp_path)
        assert error.value.errno == 28

    def test_no_apt(self, tmp_path, monkeypatch):
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(DownloadError, match=r"apt-get and dpkg-deb not found.*use the corpus 'librispeech'"):
            self.run(tmp_path)
