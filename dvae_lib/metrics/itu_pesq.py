"""PESQ, computed where it can do no harm.

The C code of the ITU that the package `pesq` wraps has room for 50 utterances and checks it nowhere. A recording with
more is written over what lies beyond: often the process is gone, sometimes it is a wrong score that comes out. So the
code runs in a process of its own, and what has pauses for so many utterances is not given to it.
"""

import atexit
import math
import os
import threading
from typing import Literal

import numpy as np
import numpy.typing as npt

from dvae_lib.metrics.processes import ChildProcess, ProcessDied

__all__ = ["Band", "count_utterances", "may_be_lost", "mos_lqo"]

Samples = npt.NDArray[np.float64]
Band = Literal["narrow", "wide"]

MOST_UTTERANCES = 49
"""The fiftieth fills the tables of the ITU's code; what begins after it, however short, is written beyond them."""

# What P.862 calls an utterance lasts 0.2 s at least, and as long a pause comes before the next.
_UTTERANCE_S = _PAUSE_S = 0.2
_FRAME_S = 0.004


class NoScore(Exception):  # noqa: N818 - the caller decides whether this is an error
    """Why there is no score."""


def mos_lqo(reference: Samples, estimate: Samples, sample_rate: int, band: Band) -> float:
    """The score of the package `pesq`, computed in another process unless this one `may_be_lost`.

    Arguments:
        reference: The original.
        estimate: Of the same length.
        sample_rate: 8,000 or 16,000 Hz.
        band: Narrow or wide.

    Raises:
        NoScore: Silence where speech should be, too short, too many utterances, or the process was lost.
    """
    if (found := count_utterances(reference, sample_rate)) > MOST_UTTERANCES:
        raise NoScore(
            f"PESQ has room for {MOST_UTTERANCES} utterances, and these {reference.size / sample_rate:.1f} s have "
            f"pauses for {found}. Cut the recording into parts"
        )
    mode = "nb" if band == "narrow" else "wb"
    import pesq as itu

    try:
        if _expendable:
            return float(itu.pesq(sample_rate, reference, estimate, mode))
        score = _ask(sample_rate, reference, estimate, mode)
    except (itu.NoUtterancesError, itu.BufferTooShortError) as error:
        found_none = "finds no utterance" if isinstance(error, itu.NoUtterancesError) else "needs a quarter of a second"
        raise NoScore(f"PESQ {found_none} in these {reference.size / sample_rate:.2f} s") from None
    if isinstance(score, ProcessDied):
        raise NoScore(f"the process that computed it {score}")
    assert isinstance(score, float)
    return score


def count_utterances(samples: Samples, sample_rate: int) -> int:
    """How many utterances there may be, at most: stretches of 0.2 s and more with as long pauses between them.

    What is a pause depends on a threshold, which PESQ finds by itself; counted is with the threshold that gives most,
    in the level of the telephone band (300 to 3,400 Hz) in frames of 4 ms.
    """
    frame = max(1, round(_FRAME_S * sample_rate))
    num_frames = samples.size // frame
    if num_frames * _FRAME_S < MOST_UTTERANCES * (_UTTERANCE_S + _PAUSE_S):
        return math.ceil(num_frames * _FRAME_S / (_UTTERANCE_S + _PAUSE_S))
    spectrum = np.fft.rfft(samples)
    frequency = np.fft.rfftfreq(samples.size, 1 / sample_rate)
    spectrum[(frequency < 300) | (frequency > 3400)] = 0
    band = np.fft.irfft(spectrum, samples.size)[: num_frames * frame]
    level = 10 * np.log10(np.square(band).reshape(-1, frame).mean(1) + 1e-20)
    return max(_stretches(level > threshold) for threshold in np.arange(level.max() - 60, level.max()))


def _stretches(active: npt.NDArray[np.bool_]) -> int:
    """Of frames above a threshold: shorter pauses closed, the stretches that are long enough."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], active, [False]]).astype(np.int8)))
    starts, stops = edges[::2], edges[1::2]
    if not starts.size:
        return 0
    apart = (starts[1:] - stops[:-1]) * _FRAME_S > _PAUSE_S
    starts, stops = starts[np.append(True, apart)], stops[np.append(apart, True)]
    return int(((stops - starts) * _FRAME_S >= _UTTERANCE_S).sum())


def may_be_lost() -> None:
    """Say of this process that it can take a crash: somebody watches it, and no other is needed for PESQ."""
    global _expendable
    _expendable = True


_expendable = False
_lock = threading.Lock()
_child: tuple[int, ChildProcess] | None = None


def _ask(*arguments: object) -> object:
    """What `pesq.pesq` says in the one process that all calls share; started when it is first needed."""
    global _child
    with _lock:
        if _child is None or _child[0] != os.getpid():  # after a fork: the answers of the parent's are not ours
            _child = os.getpid(), ChildProcess("pesq:pesq")
            atexit.register(_child[1].close)
        return _child[1].ask(*arguments)
