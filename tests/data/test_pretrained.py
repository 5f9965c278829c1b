"""Trained weights by name, whether they travel with the library or not."""

import hashlib
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from dvae_lib.data import pretrained
from dvae_lib.data.fetch import DownloadError
from dvae_lib.data.pretrained import pretrained_folder, pretrained_names
from dvae_lib.models import DVAE
from dvae_lib.resources import resource_path

HOME = resource_path("pretrained_on_request")
APART = sorted(path.name for path in HOME.iterdir())


def test_checksums_are_those_of_the_files():
    here = {
        folder.name: {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in folder.iterdir()}
        for folder in HOME.iterdir()
    }
    assert pretrained._checksums() == here


def test_names():
    names = pretrained_names()
    assert {"vrnn-chorales", *APART} <= set(names)
    assert all((pretrained_folder(name) / "model.safetensors").is_file() for name in names)
    assert pretrained_folder("vrnn-choral") is None


@pytest.fixture
def as_from_the_wheel(tmp_path, monkeypatch):
    """Without the folder of the checkout, with a cache of its own, and with a repository that may be served."""
    monkeypatch.setattr(pretrained, "resource_path", lambda *parts: resource_path(*parts) if parts else tmp_path)
    monkeypatch.setenv("DVAE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("DVAE_DATA", raising=False)

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(HOME))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setattr(pretrained, "REPOSITORY", f"http://127.0.0.1:{server.server_port}")
        yield tmp_path
        server.shutdown()
        thread.join()


def test_what_is_asked_for_is_downloaded_once(as_from_the_wheel, monkeypatch):
    folder = pretrained_folder("vrnn-prompts")
    assert folder.is_relative_to(as_from_the_wheel / "cache")
    for file in folder.iterdir():
        assert file.read_bytes() == (HOME / "vrnn-prompts" / file.name).read_bytes()
    monkeypatch.setattr(pretrained, "download", None)
    assert pretrained_folder("vrnn-prompts") == folder
    assert DVAE.from_pretrained(folder).metadata["corpus"] == "prompts"


def test_a_folder_of_the_search_path_serves(as_from_the_wheel, monkeypatch):
    monkeypatch.setenv("DVAE_DATA", str(HOME.parent))
    monkeypatch.setattr(pretrained, "download", None)
    assert pretrained_folder("vrnn-prompts") == HOME / "vrnn-prompts"


def test_what_cannot_be_downloaded_says_what_to_do(as_from_the_wheel, monkeypatch):
    monkeypatch.setattr(pretrained, "REPOSITORY", f"{pretrained.REPOSITORY}/elsewhere")
    with pytest.raises(DownloadError, match=r"vrnn-prompts do not travel .*404.* into a folder of DVAE_DATA$"):
        pretrained_folder("vrnn-prompts")
    assert not list((as_from_the_wheel / "cache").rglob("vrnn-prompts"))


def test_other_weights_than_ours_are_refused(as_from_the_wheel, monkeypatch):
    monkeypatch.setattr(pretrained, "_checksums", lambda: {"vrnn-prompts": {"config.json": "0" * 64}})
    with pytest.raises(DownloadError, match="does not have the checksum"):
        pretrained_folder("vrnn-prompts")


@pytest.mark.parametrize("name", ["vrnn-prompts", "dsae-librispeech-batch32", "srnn-chorales"])
def test_models_are_loaded_by_name(name):
    assert type(DVAE.from_pretrained(name)).__name__.lower() == name.split("-")[0]
    with pytest.raises(FileNotFoundError, match=r"did you mean .*chorales"):
        DVAE.from_pretrained(name.split("-")[0] + "-choral")
