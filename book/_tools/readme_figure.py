"""Draw the figure of the README, `book/_static/readme.svg`: a model's graphs, made from its specification.

python book/_tools/readme_figure.py
"""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl

from dvae_lib import DKF, plotting

FIGURE = Path(__file__).resolve().parents[1] / "_static" / "readme.svg"


def main() -> None:
    """Write the figure, the same bytes each time."""
    plotting.use_style()
    mpl.rcParams["svg.hashsalt"] = "readme"
    figure = DKF.spec.draw()
    figure.savefig(FIGURE, format="svg", metadata={"Date": None, "Creator": None}, bbox_inches="tight")


if __name__ == "__main__":
    main()
