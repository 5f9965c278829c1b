"""Draw the book's logo and icon: latent states in a chain, each with what is observed of it.

python book/_tools/logo.py
"""

from __future__ import annotations

import itertools
from pathlib import Path

from dvae_lib.graphs.marks import svg_arrow, svg_circle
from dvae_lib.plotting import COLOURS

STATIC = Path(__file__).resolve().parents[1] / "_static"
LINE = "#8A94A3"  # readable on a white and on a dark page


def arrow(start: tuple[float, float], end: tuple[float, float], radius: float) -> str:
    """From one circle to another."""
    return svg_arrow(start, end, radius=radius, gap=2.5, head=8.0, colour=LINE, width=3)


def graph(columns: list[float], top: float, bottom: float, radius: float) -> str:
    """The graph of a dynamical VAE with one column per time step."""
    parts = []
    for left, right in itertools.pairwise(columns):
        parts += [arrow((left, top), (right, top), radius), arrow((left, bottom), (right, top), radius)]
    for x in columns:
        parts += [
            arrow((x, top), (x, bottom), radius),
            svg_circle((x, top), radius, fill=COLOURS["latent"], stroke=COLOURS["latent"], stroke_width=3),
            svg_circle((x, bottom), radius, fill="#C9CFD6", stroke=COLOURS["observed"], stroke_width=3),
        ]
    return "".join(parts)


def logo() -> str:
    """Three time steps and the name."""
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 240 132" role="img" '
        'aria-label="Dynamical variational autoencoders">'
        + graph([48, 120, 192], 24, 80, 15)
        + f'<text x="120" y="124" text-anchor="middle" font-family="Georgia, serif" font-size="21" '
        f'letter-spacing="1.5" fill="{LINE}">dynamical VAEs</text></svg>\n'
    )


def favicon() -> str:
    """Two time steps."""
    return '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 100 100">' + graph([25, 75], 26, 76, 17) + "</svg>\n"


if __name__ == "__main__":
    (STATIC / "logo.svg").write_text(logo(), encoding="utf-8")
    (STATIC / "favicon.svg").write_text(favicon(), encoding="utf-8")
