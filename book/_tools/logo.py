"""Draw the book's logo and icon: latent states in a chain, each with what is observed of it.

python book/_tools/logo.py
"""

from __future__ import annotations

import itertools
from pathlib import Path

from dvae_lib.plotting import COLOURS

STATIC = Path(__file__).resolve().parents[1] / "_static"
LINE = "#8A94A3"  # readable on a white and on a dark page


def node(x: float, y: float, radius: float, fill: str, stroke: str) -> str:
    """A circle of the graph."""
    return f'<circle cx="{x:g}" cy="{y:g}" r="{radius:g}" fill="{fill}" stroke="{stroke}" stroke-width="3"/>'


def arrow(x1: float, y1: float, x2: float, y2: float, radius: float) -> str:
    """An arrow from the rim of one circle to the rim of another."""
    length = ((x2 - x1) ** 2 + (y2 - y1) ** 2) ** 0.5
    ux, uy = (x2 - x1) / length, (y2 - y1) / length
    start = (x1 + ux * (radius + 2), y1 + uy * (radius + 2))
    tip = (x2 - ux * (radius + 3), y2 - uy * (radius + 3))
    base = (tip[0] - ux * 7, tip[1] - uy * 7)
    head = " ".join(
        f"{x:.1f},{y:.1f}" for x, y in (tip, (base[0] - uy * 4, base[1] + ux * 4), (base[0] + uy * 4, base[1] - ux * 4))
    )
    return (
        f'<line x1="{start[0]:.1f}" y1="{start[1]:.1f}" x2="{base[0]:.1f}" y2="{base[1]:.1f}" '
        f'stroke="{LINE}" stroke-width="3"/><polygon points="{head}" fill="{LINE}"/>'
    )


def graph(columns: list[float], top: float, bottom: float, radius: float) -> str:
    """The graph of a dynamical VAE with one column per time step."""
    parts = []
    for left, right in itertools.pairwise(columns):
        parts += [arrow(left, top, right, top, radius), arrow(left, bottom, right, top, radius)]
    for x in columns:
        parts += [
            arrow(x, top, x, bottom, radius),
            node(x, top, radius, COLOURS["latent"], COLOURS["latent"]),
            node(x, bottom, radius, "#C9CFD6", COLOURS["observed"]),
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
