"""The style of all figures: colours by role, the card, and matplotlib's settings.

A symbol keeps its colour throughout the book: latent variables are blue, observed ones slate, deterministic
states green, arrows that an inference model lacks gold, arrows it has too many silver. The hues are those of
Okabe and Ito's palette and its neighbours, which readers with a colour deficiency can tell apart. Figures are
drawn on a near-white card, so that they read the same on a light page, on a dark one and in print.
"""

from typing import Any

import matplotlib as mpl
from matplotlib.rcsetup import cycler

__all__ = ["CARD", "COLOURS", "use_style"]


COLOURS: dict[str, str] = {
    "latent": "#0072B2",
    "observed": "#5B6470",
    "deterministic": "#009E73",
    "input": "#AA4499",
    "missing": "#E0A100",
    "extra": "#A7AEB8",
    "prior": "#56B4E9",
    "posterior": "#0072B2",
    "reconstruction": "#D55E00",
    "generated": "#D55E00",
    "exact": "#111827",
    "training": "#0072B2",
    "validation": "#D55E00",
}
"""Colour of each role, the same in all figures; posterior and prior of a latent are dark and light blue."""


CARD = "#FDFDFB"
"""The near-white background every figure is drawn on."""


_STYLE: dict[str, Any] = {
    "figure.figsize": (7.0, 3.4),
    "figure.facecolor": CARD,
    "figure.constrained_layout.use": True,
    "savefig.facecolor": CARD,
    "savefig.dpi": 200,
    "axes.facecolor": CARD,
    "axes.edgecolor": "#3A4048",
    "axes.labelcolor": "#1F2430",
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.labelsize": 10.5,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.prop_cycle": cycler(color=["#0072B2", "#D55E00", "#009E73", "#AA4499", "#E0A100", "#56B4E9", "#5B6470"]),
    "grid.color": "#E3E5E8",
    "grid.linewidth": 0.7,
    "xtick.color": "#3A4048",
    "ytick.color": "#3A4048",
    "xtick.labelsize": 9.5,
    "ytick.labelsize": 9.5,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "font.family": "DejaVu Sans",
    "font.size": 10.5,
    "mathtext.fontset": "cm",
    "image.cmap": "magma",
    "image.origin": "lower",
    "image.aspect": "auto",
    # "none" hands the picture to an SVG at its own resolution; any other value resamples it to 72 dpi.
    "image.interpolation": "none",
    "image.interpolation_stage": "data",
    # The same figure gives the same file: no random identifiers.
    "svg.hashsalt": "dvae-lib",
}


def use_style(figure_format: str = "svg") -> None:
    """Draw all figures from here on in the book's style.

    Call it once, at the top of a notebook or script. In a notebook it also chooses how figures are stored.

    Arguments:
        figure_format: ``"svg"`` (the default: sharp at any size) or ``"png"``, at twice the resolution, for a
            notebook whose figures hold so many points or pixels that SVG would be heavy.

    Raises:
        ValueError: If ``figure_format`` is neither of the two.

    Example:
        >>> use_style()
        >>> mpl.rcParams["image.cmap"]
        'magma'
    """
    if figure_format not in ("svg", "png"):
        raise ValueError(f"figure_format must be 'svg' or 'png', not {figure_format!r}")
    mpl.rcParams.update(_STYLE)  # type: ignore[arg-type]  # the stubs want every key as a literal
    try:
        from IPython.core.getipython import get_ipython
        from matplotlib_inline.backend_inline import set_matplotlib_formats
    except ImportError:  # a script on a machine without Jupyter
        return
    if get_ipython() is None:
        return
    if figure_format == "svg":
        set_matplotlib_formats("svg", metadata={"Date": None}, facecolor=CARD)  # type: ignore[no-untyped-call]
    else:
        set_matplotlib_formats("retina", facecolor=CARD)  # type: ignore[no-untyped-call]
