"""Getting files from elsewhere: downloads that resume and are checked, and Debian packages without root."""

import errno
import hashlib
import logging
import os
import shutil
import subprocess
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from http.client import HTTPException, HTTPResponse
from pathlib import Path, PurePosixPath

from tqdm.auto import tqdm

from dvae_lib.data.places import disk_errors_explained

__all__ = ["DownloadError", "download"]

logger = logging.getLogger("dvae_lib.data")

_CHUNK = 1 << 20


class DownloadError(OSError):
    """A file that could not be fetched; the message says why and what to do."""


def download(
    urls: str | Sequence[str],
    destination: Path,
    *,
    checksum: str | None,
    progress: bool = True,
    attempts: int = 4,
    timeout: float = 30.0,
) -> Path:
    """Fetch a file, continue where an earlier attempt ended, and check what came.

    Bytes arrive in ``<destination>.part``; the name itself appears only once the checksum is right. An
    interrupted download keeps its part, and the next call continues it.

    Arguments:
        urls: One address, or several of the same file, tried in turn.
        destination: The file to make. If it exists with the right checksum, nothing is fetched.
        checksum: ``"md5:..."`` or ``"sha256:..."`` as the publisher gives it; None where the publisher gives none, and
            the caller checks what is inside.
        progress: Show a progress bar.
        attempts: How often a broken connection is taken up again, for each address.
        timeout: Seconds without a byte after which a connection counts as broken.

    Returns:
        The destination.

    Raises:
        DownloadError: If no address delivers, or what came does not have the checksum.
        OSError: On a full disk, with nothing left on it.
    """
    addresses = [urls] if isinstance(urls, str) else list(urls)
    if destination.exists() and _has_checksum(destination, checksum):
        return destination
    part = destination.with_name(destination.name + ".part")
    problems: list[str] = []
    with disk_errors_explained(destination.parent):
        destination.parent.mkdir(parents=True, exist_ok=True)
        for url in addresses:
            resumes = True
            while resumes:  # what was there before may belong to an older version of the file: one clean try
                resumes = part.exists()
                problem = _transfer(url, part, progress=progress, attempts=attempts, timeout=timeout)
                if problem is not None:
                    break
                if _has_checksum(part, checksum):
                    part.replace(destination)
                    return destination
                part.unlink()
                problem = f"what came does not have the checksum {checksum}; the file is damaged"
            problems.append(f"{url}: {problem}")
    kept = f" The {part.stat().st_size:,} bytes that came are kept; the next try continues." if part.exists() else ""
    raise DownloadError(
        f"Could not download {destination.name}. " + "; ".join(problems) + f".{kept} Check the connection and try again"
    )


def _transfer(url: str, part: Path, *, progress: bool, attempts: int, timeout: float) -> str | None:
    """Bring the part file to its full size. Returns what went wrong, or None."""
    problem = "no attempt was made"
    for attempt in range(attempts):
        if attempt:
            time.sleep(min(2.0 ** (attempt - 2), 8.0))
        have = part.stat().st_size if part.exists() else 0
        request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
        try:
            with urllib.request.urlopen(request, timeout=timeout) as response:
                total = _receive(response, part, have, progress=progress)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 416:  # nothing beyond what we have: complete, or not this file; the checksum tells
                return None
            problem = f"the server answered {error.code} {error.reason}"
            if error.code < 500:
                return problem
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                part.unlink(missing_ok=True)
                raise
            problem = f"the connection failed ({getattr(error, 'reason', error)})"
        except HTTPException as error:
            problem = f"the connection failed ({type(error).__name__})"
        else:
            size = part.stat().st_size
            if total is None or size >= total:
                return None
            problem = f"the connection broke after {size:,} of {total:,} bytes"
    return problem


def _receive(response: HTTPResponse, part: Path, have: int, *, progress: bool) -> int | None:
    """Append the answer to the part file (or start anew, if the server sends all). Returns the full size."""
    resumes = response.status == 206
    start = have if resumes else 0
    length = response.headers.get("Content-Length")
    total = start + int(length) if length is not None else None
    if total is not None and total - start > shutil.disk_usage(part.parent).free:
        raise OSError(errno.ENOSPC, f"{total - start:,} bytes are needed")
    with (
        part.open("ab" if resumes else "wb") as file,
        tqdm(
            total=total,
            initial=start,
            unit="B",
            unit_scale=True,
            desc=part.name.removesuffix(".part"),
            disable=not progress,
        ) as bar,
    ):
        while chunk := response.read(_CHUNK):
            file.write(chunk)
            bar.update(len(chunk))
    return total


def _has_checksum(file: Path, checksum: str | None) -> bool:
    if checksum is None:
        return True
    algorithm, _, expected = checksum.partition(":")
    if algorithm not in hashlib.algorithms_available or not expected:
        raise ValueError(f"A checksum reads 'md5:...' or 'sha256:...', not {checksum!r}")
    digest = hashlib.new(algorithm)
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest() == expected.lower()


def unpack_tar(archive: Path, folder: Path, *, prefix: str = "", progress: bool = True) -> None:
    """Unpack regular files of a tar archive, none of them outside ``folder``.

    Arguments:
        archive: The archive, compressed or not.
        folder: Where the files go.
        prefix: Take only what lies in this folder of the archive, and leave the prefix out of the paths.
        progress: Show progress.

    Raises:
        ValueError: If the archive is damaged or holds a path that leads out of the folder.
    """
    root = folder.resolve()
    try:
        with (
            tarfile.open(archive) as tar,
            tqdm(desc=f"unpacking {archive.name}", unit=" files", disable=not progress) as bar,
        ):
            for member in tar:
                inside = PurePosixPath(member.name)
                if not member.isfile() or not inside.is_relative_to(prefix):
                    continue
                target = (root / inside.relative_to(prefix)).resolve()
                if not target.is_relative_to(root):
                    raise ValueError(f"{archive} holds {member.name!r}, which leads out of its folder")
                target.parent.mkdir(parents=True, exist_ok=True)
                source = tar.extractfile(member)
                assert source is not None  # it is a regular file
                with source, target.open("wb") as file:
                    shutil.copyfileobj(source, file)
                bar.update()
    except (tarfile.TarError, EOFError) as error:
        raise ValueError(f"{archive} is damaged ({error}). Delete it and fetch it again") from error


def fetch_debian_packages(
    checksums: Mapping[str, str], downloads: Path, folder: Path, *, progress: bool = True
) -> None:
    """Fetch packages of Debian or Ubuntu with ``apt-get download`` and unpack them. Needs no root.

    apt checks each package against the signatures of the distribution; a version that we know is checked
    against our own list besides. Where the machine's package lists are missing or old, as in many container images,
    lists of our own are fetched into a temporary folder and used; the machine's stay as they are. Finished packages
    stay in ``downloads``, so an interrupted fetch continues.

    Arguments:
        checksums: Package name to the ``"sha256:..."`` of the version that we know.
        downloads: Where the packages are put.
        folder: Where they are unpacked.
        progress: Show a progress bar.

    Raises:
        DownloadError: If apt-get fails; the message carries what it said and what to do.
    """
    missing = [tool for tool in ("apt-get", "dpkg-deb") if shutil.which(tool) is None]
    if missing:
        raise DownloadError(
            f"{' and '.join(missing)} not found: these packages come with Debian and Ubuntu. "
            "On another system use the corpus 'librispeech'"
        )
    downloads.mkdir(parents=True, exist_ok=True)
    with _Apt(downloads) as apt:
        for package, checksum in tqdm(checksums.items(), desc="packages", disable=not progress):
            # apt resumes a file that is there in part. One that is there in full and right is not asked for again.
            found = [file for file in downloads.glob(f"{package}_*.deb") if _has_checksum(file, checksum)]
            if not found:
                apt.download(package)
                found = sorted(downloads.glob(f"{package}_*.deb"))
            if not found:
                raise DownloadError(f"apt-get download {package} ended without an error and without a package")
            _raise_if_failed(_run(["dpkg-deb", "-x", str(found[-1]), str(folder)], downloads), downloads, package)


class _Apt:
    """``apt-get download``, with the machine's package lists, or with lists of our own where those will not do."""

    def __init__(self, downloads: Path) -> None:
        self._downloads = downloads
        self._state: tempfile.TemporaryDirectory[str] | None = None
        self._options: list[str] = []

    def __enter__(self) -> "_Apt":
        return self

    def __exit__(self, *_: object) -> None:
        if self._state is not None:
            self._state.cleanup()

    def download(self, package: str) -> None:
        done = self._get("download", package)
        if self._state is None and _lists_will_not_do(done):
            logger.info("apt's package lists are missing or old; fetching lists of our own.")
            self._own_lists()
            done = self._get("download", package)
        _raise_if_failed(done, self._downloads, package)

    def _own_lists(self) -> None:
        self._state = tempfile.TemporaryDirectory(prefix="apt-", dir=self._downloads)
        state = Path(self._state.name)
        for folder in ("lists", "cache"):
            (state / folder / "partial").mkdir(parents=True)
        # The user that apt would change to as root cannot write here; without root it stays who it is anyway.
        self._options = [
            *("-o", f"Dir::State::lists={state / 'lists'}"),
            *("-o", f"Dir::Cache={state / 'cache'}"),
            *("-o", "APT::Sandbox::User="),
        ]
        # One of many sources may fail without harm. Whether the lists will do, the next download shows.
        self._get("update")

    def _get(self, *command: str) -> "subprocess.CompletedProcess[str]":
        return _run(["apt-get", *self._options, "-q", *command], self._downloads)


def _run(command: list[str], folder: Path) -> "subprocess.CompletedProcess[str]":
    english = {**os.environ, "LC_ALL": "C"}  # the messages are looked into below
    return subprocess.run(
        command, cwd=folder, env=english, capture_output=True, text=True, errors="replace", check=False
    )


_NOT_LISTED = ("Unable to locate", "No packages found", "no installation candidate")
_OUTDATED = ("404 ", "Hash Sum mismatch", "unexpected size")  # the lists name files that are no longer there


def _lists_will_not_do(done: "subprocess.CompletedProcess[str]") -> bool:
    return done.returncode != 0 and any(words in done.stderr for words in _NOT_LISTED + _OUTDATED)


def _raise_if_failed(done: "subprocess.CompletedProcess[str]", folder: Path, package: str) -> None:
    if done.returncode == 0:
        return
    said = " ".join(done.stderr.split())[-500:]
    if "No space left" in said:
        for file in folder.glob(f"{package}_*.deb"):
            file.unlink()
        raise OSError(errno.ENOSPC, said)
    advice = "Check the connection and try again, or use the corpus 'librispeech'."
    if _lists_will_not_do(done):
        advice = (
            "Fetching new package lists did not help. Check the connection, and that apt's sources offer the package "
            "(on Ubuntu the component 'universe' must be enabled), or use the corpus 'librispeech'."
        )
    raise DownloadError(f"'{' '.join(done.args)}' failed with status {done.returncode}: {said.rstrip('. ')}. {advice}")
