"""Power spectrograms in decibels, on axes and scales that can be compared."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.image import AxesImage

from dvae_lib.plotting.arrays import ArrayLike, as_array

__all__ = ["plot_spectrogram", "plot_spectrograms", "power_to_db"]


def power_to_db(power: ArrayLike, floor: float = 1e-10) -> npt.NDArray[np.float64]:
    """Power in decibels, ``10 log10(max(power, floor))``.

    Arguments:
        power: Non-negative power, any shape.
        floor: The smallest power that is told apart from silence.

    Returns:
        Decibels relative to a power of 1, of the same shape.

    Raises:
        ValueError: If ``power`` holds a negative or non-finite value.

    Example:
        >>> power_to_db(np.array([1.0, 0.001, 0.0])).tolist()
        [0.0, -30.0, -100.0]
    """
    values = as_array(power)
    if not np.isfinite(values).all() or (values < 0).any():
        raise ValueError(
            "power must be finite and non-negative. For a model trained on log-power, exponentiate first; "
            "for a complex spectrogram, take the squared magnitude"
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
        ax: Where to draw.
        power: Squared magnitudes, one frame per row: ``(T, F)`` with ``F = n_fft / 2 + 1``.
        sample_rate: Of the waveform, in Hz.
        hop_length: Samples from one frame to the next.
        limits: The darkest and the brightest level, in dB. Default: from ``dynamic_range`` below the loudest
            bin up to it.
        dynamic_range: In dB, used where no ``limits`` are given.
        max_frequency: The highest frequency shown, in Hz. Default: all.
        title: Written above the picture.
        colorbar: Whether to add a scale in dB.

    Returns:
        The image, for instance to attach a colour bar that several panels share.

    Raises:
        ValueError: If ``power`` is not two-dimensional, is empty, or holds a negative or non-finite value.
    """
    if power.ndim != 2 or 0 in power.shape:
        raise ValueError(f"power must be (frames, frequencies), at least one each; its shape is {tuple(power.shape)}")
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
        axes: One per spectrogram.
        powers: Title of each panel and its power spectrogram ``(T, F)``; the loudest of all bins sets the
            scale.
        dynamic_range: In dB, below the loudest bin.
        colorbar: Whether to add the scale, once for all panels.
        options: As for `plot_spectrogram`.

    Raises:
        ValueError: If there is not exactly one axis per spectrogram, or no spectrogram at all.
    """
    panels = np.asarray(axes, dtype=object).ravel().tolist()
    if not powers or len(panels) != len(powers):
        raise ValueError(f"Expected one axis for each spectrogram, at least one; got {len(panels)} and {len(powers)}")
    loudest = max(float(power_to_db(power).max()) for power in powers.values())
    for ax, (title, power) in zip(panels, powers.items(), strict=True):
        image = plot_spectrogram(ax, power, title=title, limits=(loudest - dynamic_range, loudest), **options)
    longest = max(ax.get_xlim()[1] for ax in panels)
    for ax in panels:
        ax.set_xlim(0, longest)
        ax.label_outer()
    if colorbar:
        panels[0].figure.colorbar(image, ax=panels, label="power (dB)", pad=0.01)
