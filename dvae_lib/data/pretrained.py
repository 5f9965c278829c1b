"""Trained weights by name: those that travel with the library, and those that are downloaded when they are asked for.

All of them together would make the wheel half as large again as it is; so some stay in the repository, and only their
checksums travel.
"""

import csv
from functools import cache
from pathlib import Path

from dvae_lib.data.fetch import DownloadError, download
from dvae_lib.data.places import cache_folder, find_folder, one_at_a_time, whole_or_nothing
from dvae_lib.resources import resource_path

__all__ = ["pretrained_folder", "pretrained_names"]

SHIPPED, ON_REQUEST = "pretrained", "pretrained_on_request"
REPOSITORY = f"https://raw.githubusercontent.com/dvae-book/dvae-book/main/data/{ON_REQUEST}"


def pretrained_names() -> list[str]:
    """The names of all trained models, here or to be downloaded."""
    shipped = [path.parent.name for path in resource_path(SHIPPED).glob("*/config.json")]
    return sorted({*shipped, *_checksums()})


def pretrained_folder(name: str) -> Path | None:
    """The folder of a trained model of that name, or None where there is no such name.

    What does not travel with the library is looked for in ``pretrained_on_request/`` on the search path (``DVAE_DATA``,
    then the cache), and downloaded into the cache where it is not there. Each file is checked.

    Raises:
        DownloadError: It is not here and could not be downloaded; the message says where it can be put.
    """
    if name not in pretrained_names():
        return None
    if name not in _checksums():
        return resource_path(SHIPPED, name)
    beside = resource_path() / ON_REQUEST / name  # in a checkout
    found = beside if beside.is_dir() else find_folder(f"{ON_REQUEST}/{name}")
    return found or _fetched(name)


def _fetched(name: str) -> Path:
    folder = cache_folder() / "corpora" / ON_REQUEST / name
    with one_at_a_time(folder.with_name(f".{name}.lock")):
        if folder.is_dir():  # another process was faster
            return folder
        with whole_or_nothing(folder) as draft:
            for file, digest in _checksums()[name].items():
                try:
                    download(f"{REPOSITORY}/{name}/{file}", draft / file, checksum=f"sha256:{digest}", progress=False)
                except DownloadError as error:
                    raise DownloadError(
                        f"The weights {name} do not travel with the library, and could not be downloaded. {error} "
                        f"Or copy data/{ON_REQUEST} from a clone of the repository into a folder of DVAE_DATA"
                    ) from error
    return folder


@cache
def _checksums() -> dict[str, dict[str, str]]:
    """For each model that does not travel in the wheel the sha256 of its files."""
    checksums: dict[str, dict[str, str]] = {}
    with resource_path(f"{ON_REQUEST}.csv").open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            name, file = row["file"].split("/")
            checksums.setdefault(name, {})[file] = row["sha256"]
    return checksums
