"""Spectrograms and other pictures made of pixels, in fewer bytes without the loss of one pixel.

matplotlib writes each pixel as four bytes into a PNG, also inside an SVG; WebP does with half to a third of them.
"""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

from PIL import Image

INSIDE = re.compile(r"data:image/png;base64,([A-Za-z0-9+/=\s]+)")
SMALL = 8_000  # bytes


def shrink_drawings(folder: Path) -> None:
    """Rewrite the pictures inside the SVG files of a folder."""

    def shorter(found: re.Match[str]) -> str:
        content = as_webp(base64.b64decode(found[1]))
        return found[0] if content is None else "data:image/webp;base64," + base64.b64encode(content).decode("ascii")

    for path in sorted(folder.glob("*.svg")):
        drawing = path.read_text(encoding="utf-8")
        shrunk = INSIDE.sub(shorter, drawing)
        if shrunk != drawing:
            path.write_text(shrunk, encoding="utf-8")


def webp_beside(path: Path) -> Path:
    """A WebP file of the same pixels beside a PNG file, or that itself where nothing is gained."""
    made = path.with_suffix(".webp")
    if path.suffix != ".png" or not path.is_file():
        return path
    if not made.is_file():
        content = as_webp(path.read_bytes(), quality=100, method=6)
        if content is None:
            return path
        made.write_bytes(content)
    return made


def as_webp(png: bytes, **effort: int) -> bytes | None:
    """The same pixels, or None where that is not shorter or the picture is small or moves.

    ``effort`` is Pillow's ``method`` and ``quality``: the most takes seconds a picture, and a fifth off large ones.
    """
    if len(png) < SMALL:
        return None
    file = io.BytesIO()
    with Image.open(io.BytesIO(png)) as picture:
        if getattr(picture, "n_frames", 1) > 1 or picture.mode not in ("1", "L", "P", "RGB", "RGBA"):
            return None
        picture.convert("RGBA").save(file, "WEBP", lossless=True, exact=True, **effort)
    content = file.getvalue()
    return content if len(content) < len(png) else None
