"""Audio players that live on a static page."""

import base64
import io
import wave
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dvae_lib.waveforms import Waveform, as_waveform

if TYPE_CHECKING:
    from IPython.display import HTML

__all__ = ["show_audio"]


def show_audio(sounds: Waveform | Mapping[str, Waveform], sample_rate: int = 16_000) -> "HTML":
    """Players for one or several waveforms, all at the same scale, so that their loudness can be compared.

    Arguments:
        sounds: A waveform ``(samples,)``, or several by name, as `dvae_lib.waveforms.as_waveform` takes them.
            Where any of them leaves [-1, 1], all are scaled down together until none does.
        sample_rate: In Hz.

    Returns:
        What a notebook displays; the sound is inside (16-bit WAV), so it also plays on a static page.

    Raises:
        ValueError: If a waveform is empty, not one-dimensional, or not finite.
        ImportError: Outside Jupyter, where IPython is not installed.
    """
    try:
        from IPython.display import HTML
    except ImportError as error:
        raise ImportError("show_audio needs IPython: pip install ipython") from error
    named = sounds if isinstance(sounds, Mapping) else {"": sounds}
    waveforms = {
        name: as_waveform(sound, f"sound {name!r}").detach().cpu().double().numpy() for name, sound in named.items()
    }
    for name, waveform in waveforms.items():
        if waveform.ndim != 1 or waveform.size == 0:
            raise ValueError(f"Sound {name!r} must be (samples,), not empty; its shape is {waveform.shape}")
        if not np.isfinite(waveform).all():
            raise ValueError(f"Sound {name!r} holds values that are not finite")
    peak = max(1.0, *(float(np.abs(waveform).max()) for waveform in waveforms.values()))
    players = "".join(
        f'<figure class="sound"><figcaption>{name}</figcaption>'
        f'<audio controls preload="metadata" aria-label="{name or "sound"}" src="data:audio/wav;base64,'
        f'{_wav_base64(waveform / peak, sample_rate)}"></audio></figure>'
        for name, waveform in waveforms.items()
    )
    return HTML(f'<div class="sounds">{players}</div>')  # type: ignore[no-untyped-call]


def _wav_base64(waveform: npt.NDArray[np.float64], sample_rate: int) -> str:
    """A mono 16-bit WAV file of a waveform within [-1, 1], in base64."""
    file = io.BytesIO()
    with wave.open(file, "wb") as wav:
        wav.setnchannels(1)
        wav.setsampwidth(2)
        wav.setframerate(sample_rate)
        wav.writeframes(np.round(waveform * 32767).astype("<i2").tobytes())
    return base64.b64encode(file.getvalue()).decode("ascii")
