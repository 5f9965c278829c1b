"""What may happen to a file on its way: cuts, a bit of any byte, bytes at the end, a newer version, another kind."""

import pytest

from dvae_lib.coding import CodecError


def check_refusals(decode, data: bytes) -> None:
    """Each is refused by name; no cut file is decoded in part."""
    for size in range(len(data)):
        with pytest.raises(CodecError, match=r"cut off|expected a file that dvae_lib"):
            decode(data[:size])
    for i in range(len(data)):
        changed = bytearray(data)
        changed[i] ^= 1 << (i % 8)
        with pytest.raises(CodecError):
            decode(bytes(changed))
    with pytest.raises(CodecError, match="damaged"):
        decode(data + b"\0")
    with pytest.raises(CodecError, match="upgrade dvae-lib"):
        decode(data[:4] + bytes([data[4] + 1]) + data[5:])
    with pytest.raises(CodecError, match="got b'RIFF'"):
        decode(b"RIFF" + data[4:])
