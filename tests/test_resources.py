import pytest

from dvae_lib import resources
from dvae_lib.resources import resource_path


def test_a_resource_is_found():
    assert resource_path("README.md").is_file()
    assert resource_path() == resource_path("README.md").parent


def test_a_missing_resource_says_what_is_there():
    with pytest.raises(FileNotFoundError, match=r"no resource 'splits.doc'.*README\.md"):
        resource_path("splits.doc")
    with pytest.raises(FileNotFoundError, match="the folder is missing too"):
        resource_path("no", "such", "file")


def test_the_wheels_folder_comes_first(tmp_path, monkeypatch):
    (tmp_path / "dvae_lib" / "_resources").mkdir(parents=True)
    (tmp_path / "data").mkdir()
    (tmp_path / "dvae_lib" / "_resources" / "list.csv").write_text("inside")
    (tmp_path / "data" / "list.csv").write_text("beside")
    monkeypatch.setattr(resources, "_PACKAGE", tmp_path / "dvae_lib")
    assert resource_path("list.csv").read_text() == "inside"
