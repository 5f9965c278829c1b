"""Sounds and pictures that pages carry inside become files beside them, which a browser fetches when they are wanted.

In a notebook they stay inside, where they need no other file. On the site a page must be there before its sounds: a
16-bit WAV in base64 takes ten times the bytes of an MP3 that sounds alike, and all of them precede the text below.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
from pathlib import Path

import numpy as np
import soundfile

FOLDER = "_static/media"
EMBEDDED = re.compile(r"data:(?P<kind>(?:audio|video|image)/[\w.+-]+);base64,(?P<data>[A-Za-z0-9+/]{64,}={0,2})")
PLAYER = re.compile(r"<audio\b[^>]*>")
PRELOAD = re.compile(r"""\s+preload(?:=(?:"[^"]*"|'[^']*'|[^\s>]+))?(?=[\s>/])""")
ENDINGS = {
    "audio/wav": "wav", "audio/x-wav": "wav", "audio/wave": "wav", "audio/mpeg": "mp3", "audio/ogg": "ogg",
    "video/mp4": "mp4", "video/webm": "webm", "image/gif": "gif", "image/png": "png", "image/jpeg": "jpg",
    "image/webp": "webp",
}  # fmt: skip
SMALL = 8_000  # bytes of a picture; below this a request costs more than it saves
# LAME's variable bit rate: a tenth of the bytes in base64. (At a constant one below 32 kbit/s it changes the sampling
# rate, and takes half a decibel of the level even above.)
CODING = {"format": "MP3", "subtype": "MPEG_LAYER_III", "bitrate_mode": "VARIABLE", "compression_level": 0.6}
LEVEL = 0.5  # dB by which the decoded sound may be louder or softer


def move_out(html: str, site: Path, root: str) -> str:
    """The page with its embedded media in files of the site, and players that fetch nothing before they play.

    Arguments:
        html: The page.
        site: The folder of the site, which gets the files.
        root: The way from the page to that folder: ``""``, ``"../"``, ...
    """

    def moved(found: re.Match[str]) -> str:
        content = base64.b64decode(found["data"])
        ending = ENDINGS.get(found["kind"])
        if ending is None or (found["kind"].startswith("image/") and len(content) < SMALL):
            return found[0]
        # The name is of what the notebook holds: the same sound is one file, whatever the encoder makes of it.
        name = hashlib.sha256(content).hexdigest()[:20]
        folder = site / FOLDER
        for kept in folder.glob(f"{name}.*"):
            return f"{root}{FOLDER}/{kept.name}"
        if ending == "wav" and (shorter := as_mp3(content)) is not None:
            content, ending = shorter, "mp3"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.{ending}").write_bytes(content)
        return f"{root}{FOLDER}/{name}.{ending}"

    html = EMBEDDED.sub(moved, html)
    return PLAYER.sub(lambda found: '<audio preload="none"' + PRELOAD.sub("", found[0]).removeprefix("<audio"), html)


def as_mp3(wav: bytes) -> bytes | None:
    """The sound of a WAV file as MP3; None where that would change its length, rate or level."""
    sound, rate = soundfile.read(io.BytesIO(wav), always_2d=True)
    file = io.BytesIO()
    try:
        soundfile.write(file, sound, rate, **CODING)
        decoded, decoded_rate = soundfile.read(io.BytesIO(file.getvalue()), always_2d=True)
    except (soundfile.LibsndfileError, ValueError):  # a sampling rate or a number of channels that MP3 does not know
        return None
    if decoded_rate != rate or decoded.shape != sound.shape or abs(level(decoded) - level(sound)) > LEVEL:
        return None
    return file.getvalue()


def level(sound: np.ndarray) -> float:
    """In dB re full scale; silence, and what 16 bits cannot hold, is -90."""
    return 10 * float(np.log10(np.mean(sound**2) + 1e-9))
