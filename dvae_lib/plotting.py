"""One look for all figures: colours by role, the style, spectrograms on a shared scale, audio players.

A symbol keeps its colour throughout the book: latent variables are blue, observed ones slate, deterministic
states green, arrows that an inference model lacks gold, arrows it has too many silver. The hues are those of
Okabe and Ito's palette and its neighbours, which readers with a colour deficiency can tell apart. Figures are
drawn on a near-white card, so that they read the same on a light page, on a dark one and in print.
"""

import base64
import io
import json
import wave
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import torch
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.image import AxesImage

from dvae_lib.resources import resource_path
from dvae_lib.waveforms import Waveform, as_waveform

if TYPE_CHECKING:
    from IPython.display import HTML, Markdown

__all__ = [
    "CARD",
    "COLOURS",
    "animate_skeletons",
    "plot_piano_roll",
    "plot_skeleton",
    "plot_spectrogram",
    "plot_spectrograms",
    "power_to_db",
    "show_audio",
    "show_table",
    "use_style",
]

ArrayLike = torch.Tensor | npt.NDArray[Any]

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
        ValueError: if ``figure_format`` is neither of the two.

    >>> use_style()
    >>> mpl.rcParams["image.cmap"]
    'magma'
    """
    if figure_format not in ("svg", "png"):
        raise ValueError(f"figure_format must be 'svg' or 'png', not {figure_format!r}.")
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


def power_to_db(power: ArrayLike, floor: float = 1e-10) -> npt.NDArray[np.float64]:
    """Power in decibels, ``10 log10(max(power, floor))``.

    Arguments:
        power: non-negative power, any shape.
        floor: the smallest power that is told apart from silence.

    Returns:
        decibels relative to a power of 1, of the same shape.

    Raises:
        ValueError: if ``power`` holds a negative or non-finite value.

    >>> power_to_db(np.array([1.0, 0.001, 0.0])).tolist()
    [0.0, -30.0, -100.0]
    """
    values = _as_array(power)
    if not np.isfinite(values).all() or (values < 0).any():
        raise ValueError(
            "power must be finite and non-negative. For a model trained on log-power, exponentiate first; "
            "for a complex spectrogram, take the squared magnitude."
        )
    return 10.0 * np.log10(np.maximum(values, floor))


def plot_spectrogram(
    ax: Axes,
    power: ArrayLike,
    *,
    sample_rate: int = 16_000,
    hop_length: int = 256,
    limits: tuple[float, float] | None = None,
    dynamic_range: float = 70.0,
    max_frequency: float | None = None,
    title: str | None = None,
    colorbar: bool = False,
) -> AxesImage:
    """Draw a power spectrogram in decibels, with time in seconds and frequency in kilohertz.

    To compare several, give all of them the same ``limits``, or use `plot_spectrograms`, which does that.

    Arguments:
        ax: where to draw.
        power: squared magnitudes, one frame per row: ``(T, F)`` with ``F = n_fft / 2 + 1``.
        sample_rate: of the waveform, in Hz.
        hop_length: samples from one frame to the next.
        limits: the darkest and the brightest level, in dB. Default: from ``dynamic_range`` below the loudest
            bin up to it.
        dynamic_range: in dB, used where no ``limits`` are given.
        max_frequency: the highest frequency shown, in Hz. Default: all.
        title: written above the picture.
        colorbar: whether to add a scale in dB.

    Returns:
        the image, for instance to attach a colour bar that several panels share.

    Raises:
        ValueError: if ``power`` is not two-dimensional, is empty, or holds a negative or non-finite value.
    """
    if power.ndim != 2 or 0 in power.shape:
        raise ValueError(f"power must be (frames, frequencies), at least one each; its shape is {tuple(power.shape)}.")
    level = power_to_db(power)
    low, high = limits if limits is not None else (level.max() - dynamic_range, level.max())
    num_frames, num_bins = level.shape
    duration, nyquist = num_frames * hop_length / sample_rate, sample_rate / 2000
    # Bin k is centred on its frequency, so the picture reaches half a bin below 0 and above Nyquist.
    half_bin = nyquist / (2 * max(num_bins - 1, 1))
    image = ax.imshow(
        level.T,
        origin="lower",
        aspect="auto",
        interpolation="none",
        extent=(0.0, duration, -half_bin, nyquist + half_bin),
        vmin=low,
        vmax=high,
    )
    ax.set_ylim(0, nyquist if max_frequency is None else max_frequency / 1000)
    ax.grid(visible=False)
    ax.set_xlabel("time (s)")
    ax.set_ylabel("frequency (kHz)")
    if title is not None:
        ax.set_title(title)
    if colorbar:
        ax.figure.colorbar(image, ax=ax, label="power (dB)", pad=0.01)
    return image


def plot_spectrograms(
    axes: Sequence[Axes] | npt.NDArray[Any],
    powers: Mapping[str, ArrayLike],
    *,
    dynamic_range: float = 70.0,
    colorbar: bool = True,
    **options: Any,
) -> None:
    """Draw several spectrograms so that they can be compared: one scale, one time axis, one colour bar.

    Arguments:
        axes: one per spectrogram.
        powers: title of each panel and its power spectrogram ``(T, F)``; the loudest of all bins sets the
            scale.
        dynamic_range: in dB, below the loudest bin.
        colorbar: whether to add the scale, once for all panels.
        options: as for `plot_spectrogram`.

    Raises:
        ValueError: if there is not exactly one axis per spectrogram, or no spectrogram at all.
    """
    panels = np.asarray(axes, dtype=object).ravel().tolist()
    if not powers or len(panels) != len(powers):
        raise ValueError(f"Expected one axis for each spectrogram, at least one; got {len(panels)} and {len(powers)}.")
    loudest = max(float(power_to_db(power).max()) for power in powers.values())
    for ax, (title, power) in zip(panels, powers.items(), strict=True):
        image = plot_spectrogram(ax, power, title=title, limits=(loudest - dynamic_range, loudest), **options)
    longest = max(ax.get_xlim()[1] for ax in panels)
    for ax in panels:
        ax.set_xlim(0, longest)
        ax.label_outer()
    if colorbar:
        panels[0].figure.colorbar(image, ax=panels, label="power (dB)", pad=0.01)


def show_audio(sounds: Waveform | Mapping[str, Waveform], sample_rate: int = 16_000) -> "HTML":
    """Players for one or several waveforms, all at the same scale, so that their loudness can be compared.

    Arguments:
        sounds: a waveform ``(samples,)``, or several by name, as :func:`~dvae_lib.waveforms.as_waveform` takes them.
            Where any of them leaves [-1, 1], all are scaled down together until none does.
        sample_rate: in Hz.

    Returns:
        what a notebook displays; the sound is inside (16-bit WAV), so it also plays on a static page.

    Raises:
        ValueError: if a waveform is empty, not one-dimensional, or not finite.
        ImportError: outside Jupyter, where IPython is not installed.
    """
    try:
        from IPython.display import HTML
    except ImportError as error:
        raise ImportError("show_audio needs IPython: pip install ipython.") from error
    named = sounds if isinstance(sounds, Mapping) else {"": sounds}
    waveforms = {
        name: as_waveform(sound, f"sound {name!r}").detach().cpu().double().numpy() for name, sound in named.items()
    }
    for name, waveform in waveforms.items():
        if waveform.ndim != 1 or waveform.size == 0:
            raise ValueError(f"Sound {name!r} must be (samples,), not empty; its shape is {waveform.shape}.")
        if not np.isfinite(waveform).all():
            raise ValueError(f"Sound {name!r} holds values that are not finite.")
    peak = max(1.0, *(float(np.abs(waveform).max()) for waveform in waveforms.values()))
    players = "".join(
        f'<figure class="sound"><figcaption>{name}</figcaption>'
        f'<audio controls preload="metadata" aria-label="{name or "sound"}" src="data:audio/wav;base64,'
        f'{_wav_base64(waveform / peak, sample_rate)}"></audio></figure>'
        for name, waveform in waveforms.items()
    )
    return HTML(f'<div class="sounds">{players}</div>')  # type: ignore[no-untyped-call]


def show_table(columns: Sequence[str], rows: Iterable[Sequence[object]], digits: int = 3) -> "Markdown":
    """A table under a notebook cell, in which words may hold formulas and links.

    Arguments:
        columns: the heads.
        rows: the cells of each row, from left to right. Floats and single-valued tensors are rounded, truth values
            become "yes" and "–", None an empty cell; everything else is written as it is.
        digits: after the point.

    Returns:
        what a notebook displays.

    Raises:
        ValueError: if a row has another number of cells than there are columns.
        ImportError: outside Jupyter, where IPython is not installed.

    Example:
        >>> print(show_table(["model", "nats"], [["VAE", -1.23456], ["DKF", None]]).data)
        | model | nats |
        |---|--:|
        | VAE | -1.235 |
        | DKF |  |
    """
    try:
        from IPython.display import Markdown
    except ImportError as error:
        raise ImportError("show_table needs IPython: pip install ipython.") from error

    def written(value: object) -> str:
        if value is None:
            return ""
        if isinstance(value, bool):
            return "yes" if value else "–"
        if isinstance(value, torch.Tensor):
            value = value.item()
        if isinstance(value, float):  # a NumPy float is one
            return f"{value:.{digits}f}"
        return str(value)

    listed = [list(row) for row in rows]
    for row in listed:
        if len(row) != len(columns):
            raise ValueError(f"Expected rows of {len(columns)} cells, one for each column; got {row}.")
    cells = [[written(value) for value in row] for row in listed]
    numbers = [all(not isinstance(row[k], str | bool) for row in listed) for k in range(len(columns))]
    rule = "|" + "".join("--:|" if number and listed else "---|" for number in numbers)
    lines = (f"| {' | '.join(line)} |" for line in (list(columns), *cells))
    head, *body = lines
    return Markdown("\n".join([head, rule, *body]))  # type: ignore[no-untyped-call]


def _wav_base64(waveform: npt.NDArray[np.float64], sample_rate: int) -> str:
    """A mono 16-bit WAV file of a waveform within [-1, 1], in base64."""
    file = io.BytesIO()
    with wave.open(file, "wb") as wav:
        wav.setnchannels(1)
        wav.setsampwidth(2)
        wav.setframerate(sample_rate)
        wav.writeframes(np.round(waveform * 32767).astype("<i2").tobytes())
    return base64.b64encode(file.getvalue()).decode("ascii")


def _as_array(values: ArrayLike) -> npt.NDArray[np.float64]:
    """Double-precision NumPy copy of an array or of a tensor on any device."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().numpy()
    return np.asarray(values, dtype=np.float64)


# ----------------------------------------------------------------------------------------------- music and movement


def plot_piano_roll(
    ax: Axes,
    roll: ArrayLike,
    *,
    lowest_key: int = 21,
    keys: tuple[int, int] | None = None,
    start: float = 0.0,
    title: str | None = None,
) -> AxesImage:
    """Draw a piano roll: time to the right, pitch upwards, dark where a key sounds.

    Arguments:
        ax: where to draw.
        roll: ``(T, keys)``, zeros and ones, or probabilities, which are drawn in shades.
        lowest_key: MIDI number of the first column.
        keys: lowest and highest MIDI number shown; by default those that sound, and one more on either side.
        start: the time of the first step, for pieces that continue another.
        title: written above the picture.

    Returns:
        the image.

    Raises:
        ValueError: if ``roll`` is not two-dimensional or leaves [0, 1].
    """
    values = _as_array(roll)
    if values.ndim != 2 or 0 in values.shape or values.min() < 0 or values.max() > 1:
        raise ValueError(f"roll must be (steps, keys) with values in [0, 1]; its shape is {tuple(values.shape)}.")
    sounding = np.flatnonzero(values.max(axis=0) > 0.05) + lowest_key
    if keys is None:
        keys = (int(sounding.min()) - 1, int(sounding.max()) + 1) if sounding.size else (lowest_key, lowest_key + 12)
    image = ax.imshow(
        values.T,
        cmap="Greys",
        vmin=0,
        vmax=1,
        extent=(start, start + len(values), lowest_key - 0.5, lowest_key + values.shape[1] - 0.5),
    )
    ax.grid(visible=False)
    ax.set_ylim(keys[0] - 0.5, keys[1] + 0.5)
    octaves = [key for key in range(keys[0], keys[1] + 1) if key % 12 == 0]
    ax.set_yticks(octaves, [f"C{key // 12 - 1}" for key in octaves])
    ax.set_xlabel("time (steps)")
    if title is not None:
        ax.set_title(title)
    return image


def plot_skeleton(
    ax: Axes,
    positions: ArrayLike,
    parents: Sequence[int],
    *,
    num_poses: int = 8,
    spacing: float = 0.7,
    colour: str = COLOURS["observed"],
) -> None:
    """Draw poses of a movement side by side, from the front and a little from the side.

    Arguments:
        ax: where to draw.
        positions: joints in metres, ``(T, J, 3)`` or ``(T, 3 J)``, y upwards.
        parents: index of each joint's parent, -1 for the root.
        num_poses: how many frames, evenly spaced in time, first and last included.
        spacing: metres from one figure to the next.
        colour: of the bones.

    Raises:
        ValueError: if the number of joints is not that of the parents.
    """
    poses = _poses(positions, parents)
    frames = np.unique(np.linspace(0, len(poses) - 1, num_poses).round().astype(int))
    turn = np.deg2rad(30)
    for place, frame in enumerate(frames):
        x, y, z = poses[frame].T
        across = np.cos(turn) * x + np.sin(turn) * z + place * spacing
        for joint, parent in enumerate(parents):
            if parent >= 0:
                ax.plot(across[[parent, joint]], y[[parent, joint]], color=colour, lw=1.6, solid_capstyle="round")
        ax.text(place * spacing, y.min() - 0.12, f"{frame}", ha="center", va="top", fontsize=9)
    ax.set_aspect("equal")
    ax.axis("off")


def animate_skeletons(
    movements: ArrayLike | Mapping[str, ArrayLike],
    parents: Sequence[int],
    *,
    fps: float = 30.0,
    marks: Sequence[int] = (),
) -> "HTML":
    """Play movements of stick figures side by side; the reader can stop them, step through and turn them.

    What is returned is complete in itself (drawing and numbers, no outside script), so it also lives on a static
    page. It does not start by itself where the reader has asked for less motion.

    Arguments:
        movements: joints in metres, ``(T, J, 3)`` or ``(T, 3 J)``, y upwards; or several by name, played together;
            the first one sets the scale.
        parents: index of each joint's parent, -1 for the root.
        fps: frames per second.
        marks: frames from which on the figures are drawn in the colour of what was generated: for each movement,
            where its given part ends; none where all is given.

    Returns:
        what a notebook displays.

    Raises:
        ValueError: if there is nothing to play, the number of joints is not that of the parents, or a coordinate is
            not finite.
        ImportError: outside Jupyter, where IPython is not installed.
    """
    try:
        from IPython.display import HTML
    except ImportError as error:
        raise ImportError("animate_skeletons needs IPython: pip install ipython.") from error
    named = movements if isinstance(movements, Mapping) else {"": movements}
    if not named:
        raise ValueError("There is no movement to play.")
    figures = []
    for number, (name, positions) in enumerate(named.items()):
        poses = _poses(positions, parents)
        if not np.isfinite(poses).all():
            raise ValueError(f"Movement {name!r} holds values that are not finite.")
        millimetres = np.round(poses * 1000).astype(int)
        mark = marks[number] if number < len(marks) else len(poses)
        figures.append({"name": name, "mark": mark, "frames": millimetres.reshape(len(poses), -1).tolist()})
    data = {
        "fps": fps,
        "parents": list(parents),
        "figures": figures,
        "colours": [COLOURS["observed"], COLOURS["generated"]],
    }
    page = resource_path("widgets", "skeleton_player.html").read_text(encoding="utf-8")
    # "</" would end the script in which the numbers stand.
    return HTML(page.replace("__DATA__", json.dumps(data, separators=(",", ":")).replace("</", "<\\/")))  # type: ignore[no-untyped-call]


def _poses(positions: ArrayLike, parents: Sequence[int]) -> npt.NDArray[np.float64]:
    values = _as_array(positions)
    if values.size == 0 or values.size != len(values) * 3 * len(parents):
        raise ValueError(
            f"positions must be (T, {len(parents)}, 3) or (T, {3 * len(parents)}) for {len(parents)} joints; "
            f"the shape is {tuple(values.shape)}."
        )
    return values.reshape(len(values), len(parents), 3)
