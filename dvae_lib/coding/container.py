"""What stands around a code: what kind of file it is, of which model, and whether it is whole."""

import hashlib
import json
import struct
import zlib

import numpy as np
from numpy.typing import NDArray

from dvae_lib.models.base import DVAE

__all__ = ["BITS_BACK", "LATENT_CODE", "SPEECH", "CodecError", "Reader", "Writer", "check_model", "fingerprint"]

MAGIC, VERSION = b"DVAE", 1
HEAD = struct.Struct("<4sBBI")
"""Magic, version, kind, and the bytes of what follows but for the checksum."""

CHECKSUM = struct.Struct("<I")
LATENT_CODE, BITS_BACK, SPEECH = 1, 2, 3
KINDS = {LATENT_CODE: "a sequence coded by its latents", BITS_BACK: "sequences coded with bits back", SPEECH: "speech"}
FINGERPRINT = 4
"""Bytes of a model's fingerprint: two models of one size are taken for each other once in four thousand million."""


class CodecError(ValueError):
    """A file that is no code, is not whole, or is of another version, kind or model."""


def fingerprint(model: DVAE) -> bytes:
    """A few bytes that tell a model from others: a hash of its class, its options and its weights."""
    options = json.dumps(model.options, sort_keys=True, default=str)
    known = hashlib.sha256(f"{type(model).__name__} {options} {model.inputs}".encode())
    for name, value in sorted(model.state_dict().items()):
        known.update(name.encode())
        known.update(np.ascontiguousarray(value.detach().cpu().double().numpy()).astype("<f8").tobytes())
    return known.digest()[:FINGERPRINT]


def check_model(model: DVAE, found: bytes) -> None:
    """Refuse a file that another model has written.

    Raises:
        CodecError: It has another fingerprint.
    """
    own = fingerprint(model)
    if own != found:
        raise CodecError(
            f"expected a file of this {type(model).__name__} (fingerprint {own.hex()}); got one of another model "
            f"({found.hex()}): decode it with the model, and the weights, that encoded it"
        )


class Writer:
    """A file in the making: numbers and bytes, one after the other."""

    def __init__(self, kind: int) -> None:
        self.kind, self.body = kind, bytearray()

    def number(self, value: int) -> None:
        """A whole number, not negative, in as few bytes of seven bits as it needs."""
        while value >= 128:
            self.body.append(value % 128 + 128)
            value //= 128
        self.body.append(value)

    def raw(self, data: bytes) -> None:
        """Bytes whose number the reader knows."""
        self.body += data

    def sized(self, data: bytes) -> None:
        """Bytes after their number."""
        self.number(len(data))
        self.raw(data)

    def words(self, words: NDArray[np.uint32]) -> None:
        """What an entropy coder has made."""
        self.raw(words.astype("<u4").tobytes())

    def file(self) -> bytes:
        """The whole file."""
        head = HEAD.pack(MAGIC, VERSION, self.kind, len(self.body))
        return head + self.body + CHECKSUM.pack(zlib.crc32(head + self.body))


class Reader:
    """A file, checked as a whole before anything is read from it.

    Arguments:
        data: All bytes of the file.
        kind: What it should hold.

    Raises:
        CodecError: It is no such file, of a newer version, cut off, or damaged.
    """

    def __init__(self, data: bytes, kind: int) -> None:
        if data[: len(MAGIC)] != MAGIC[: len(data)] or not data:
            raise CodecError(
                f"expected a file that dvae_lib has coded, which begins with {MAGIC!r}; got {data[:4]!r}: it is "
                "something else, or damaged"
            )
        if len(data) < HEAD.size:
            raise CodecError(f"the file is cut off: it has {len(data)} bytes, fewer than its header; copy it again")
        _, version, found, length = HEAD.unpack_from(data)
        if version > VERSION:
            raise CodecError(f"expected version {VERSION} of the format at most; got {version}: upgrade dvae-lib")
        whole = HEAD.size + length + CHECKSUM.size
        if len(data) < whole:
            raise CodecError(f"the file is cut off: it has {len(data)} bytes of {whole}; copy it again")
        if len(data) > whole or CHECKSUM.unpack_from(data, whole - CHECKSUM.size)[0] != zlib.crc32(
            data[: whole - CHECKSUM.size]
        ):
            raise CodecError("the file is damaged: its checksum is not that of its content; copy it again")
        if found != kind:
            raise CodecError(f"expected {KINDS[kind]}; got a file that holds {KINDS.get(found, 'something else')}")
        self.data, self.at = data[HEAD.size : whole - CHECKSUM.size], 0

    def number(self) -> int:
        """See `Writer.number`."""
        value, scale = 0, 1
        while (byte := self.raw(1)[0]) >= 128:
            value, scale = value + scale * (byte - 128), scale * 128
        return value + scale * byte

    def raw(self, size: int) -> bytes:
        """So many bytes."""
        found = self.data[self.at : self.at + size]
        if len(found) < size:
            raise CodecError("the file is damaged: it ends within a number; copy it again")
        self.at += size
        return found

    def sized(self) -> bytes:
        """See `Writer.sized`."""
        return self.raw(self.number())

    def words(self) -> NDArray[np.uint32]:
        """All the rest, for an entropy decoder."""
        rest = self.raw(len(self.data) - self.at)
        if len(rest) % 4:
            raise CodecError("the file is damaged: its code is not made of whole words; copy it again")
        return np.frombuffer(rest, "<u4").astype(np.uint32)
