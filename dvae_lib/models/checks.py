"""What a model can be run on: finite sequences of its sizes, dtype and device, in its likelihood's support."""

import math
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dvae_lib.data.standardize import Standardizer
from dvae_lib.distributions import Support, blocks_of, standardized_columns, support_of
from dvae_lib.objectives.terms import check_tensor, frame_mask, holds_integers

__all__ = [
    "check_latents",
    "check_lengths",
    "check_probability",
    "check_sequences",
    "warn_of_raw_data",
]


def check_probability(feedback: float) -> None:
    """Refuse a feedback that is no probability, NaN included."""
    if not 0.0 <= feedback <= 1.0:
        raise ValueError(f"feedback is a probability between 0 and 1; got {feedback}")


def check_sequences(
    x: Tensor,
    name: str,
    dim: int,
    like: Tensor | None = None,
    *,
    observation: str | None = None,
    lengths: Tensor | None = None,
) -> tuple[float, float] | None:
    """Refuse anything but finite floating-point sequences of shape ``(batch, time, dim)``.

    The values are looked at in one pass and one transfer from the device.

    Arguments:
        x: The sequences.
        name: What they are called in the message.
        dim: The expected size of the vectors.
        like: A tensor whose dtype and device they must have.
        observation: The observation model that must give them a probability; None takes every finite number.
        lengths: The sequences' lengths: frames beyond them need no probability.

    Returns:
        The least and the largest value; None where values cannot be looked at, while a graph is recorded.
    """
    check_tensor(x, name)
    if x.ndim != 3:
        raise ValueError(f"{name} must have shape (batch, time, {dim}); got {tuple(x.shape)}")
    if x.shape[2] != dim:
        raise ValueError(f"{name} must have vectors of size {dim}, the model's; got {x.shape[2]}")
    if x.shape[0] == 0 or x.shape[1] == 0:
        raise ValueError(f"{name} holds no frame: its shape is {tuple(x.shape)}")
    if like is not None and (x.dtype != like.dtype or x.device != like.device):
        raise TypeError(
            f"{name} is {x.dtype} on {x.device}, the model {like.dtype} on {like.device}: "
            f"use {name}.to({like.device.type!r}, {like.dtype})"
        )
    if _skip_values(x) or x.numel() == 0:  # vectors without entries: of an undriven model
        return None
    lows, highs = [], []
    for columns, support in _supports(observation):
        low, high, *fraction = _extremes(x[..., columns], support.whole)
        if not support.holds(low, high, *fraction):
            _refuse_values(x[..., columns], name, support, observation, lengths, columns.start or 0)
        lows.append(low)
        highs.append(high)
    return min(lows), max(highs)


def check_lengths(lengths: Tensor, x: Tensor) -> None:
    """Refuse lengths that are no integers, not one for each sequence, or not between 1 and the number of frames."""
    if lengths.shape != x.shape[:1] or not holds_integers(lengths):
        raise ValueError(
            f"lengths must hold one integer per sequence, {x.shape[0]} in all; "
            f"got {lengths.dtype} of shape {tuple(lengths.shape)}"
        )
    if lengths.device != x.device:
        raise TypeError(f"lengths is on {lengths.device}, x on {x.device}: use lengths.to(x.device)")
    if not _skip_values(lengths) and not bool(((lengths >= 1) & (lengths <= x.shape[1])).all()):
        raise ValueError(f"lengths must lie between 1 and the {x.shape[1]} frames of the batch; got {lengths.tolist()}")


def check_latents(
    latents: Mapping[str, Tensor], wanted: Mapping[str, tuple[int, ...]], *, complete: bool = False
) -> None:
    """Refuse values of latent variables that a model has not, of another shape, or not finite.

    Arguments:
        latents: The values, by name.
        wanted: The shapes of all of the model's latent variables; a last size of 0 stands for any.
        complete: Whether every variable needs a value.

    Raises:
        ValueError: A variable unknown or missing, a wrong shape, a value that is not finite.
        TypeError: What is no tensor.
    """
    names = ", ".join(wanted) or "none"
    unknown = [name for name in latents if name not in wanted]
    if unknown:
        raise ValueError(f"the model's latent variables are {names}; got {', '.join(map(repr, unknown))}")
    missing = [name for name in wanted if name not in latents]
    if complete and missing:
        raise ValueError(f"values of all latent variables are needed ({names}); {', '.join(missing)} is missing")
    for name, value in latents.items():
        check_tensor(value, name)
        *leading, size = wanted[name]
        got = tuple(value.shape)
        if got[:-1] != tuple(leading) or (size and got[-1:] != (size,)):
            shape = ", ".join(map(str, [*leading, size or "..."]))
            raise ValueError(f"values of {name} must have shape ({shape}); got {got}")
        if not _skip_values(value) and not bool(torch.isfinite(value).all()):
            raise ValueError(f"values of {name} are not finite")


def _supports(observation: str | None) -> list[tuple[slice, Support]]:
    """What each column may be: all together, where they have one family."""
    if observation is None:
        return [(slice(None), Support())]
    return [(block.columns, support_of(block.family)) for block in blocks_of(observation)]


def _extremes(x: Tensor, whole: bool) -> list[float]:
    """The least and the largest value, and the largest distance to a whole number if wanted; NaN where x holds NaN."""
    x = x.detach()
    # Not every other device has `aminmax`, or lets NaN through.
    one_pass = x.device.type in ("cpu", "cuda")
    found = [*torch.aminmax(x)] if one_pass else [x.amin(), x.amax() + (x - x).sum()]
    if whole:
        found.append((x - x.round()).abs().amax())
    extremes: list[float] = torch.stack(found).tolist()
    return extremes


def _refuse_values(
    x: Tensor, name: str, support: Support, observation: str | None, lengths: Tensor | None, first: int = 0
) -> None:
    """Say which value is not finite, or outside the support, of columns from the first on."""
    finite = torch.isfinite(x)
    if not bool(finite.all()):
        i, t, d = (~finite).nonzero()[0].tolist()
        raise ValueError(f"{name} is not finite: {name}[{i}, {t}, {first + d}] is {x[i, t, d].item()}")
    wrong = (x < support.low) | (x > support.high)
    if support.whole:
        wrong = wrong | (x != x.round())
    inside = frame_mask(lengths, x.shape[1])
    if inside is not None:
        wrong = wrong & inside[..., None]
    if bool(wrong.any()):
        i, t, d = wrong.nonzero()[0].tolist()
        raise ValueError(
            f"{name}[{i}, {t}, {first + d}] is {x[i, t, d].item():g} ({int(wrong.sum())} such values), but the "
            f"observation model {observation!r} gives a probability to {support} only"
            f"{_there(observation, first + d)}. Do not standardise data for it (standardize="
            f"{standardized_columns(observation) if observation else False}), or build the model with another "
            "observation, such as 'gaussian'"
        )


def _there(observation: str | None, column: int) -> str:
    """Which column is meant, where they differ."""
    return f" in column {column}" if observation is not None and len(blocks_of(observation)) > 1 else ""


def _skip_values(x: Tensor) -> bool:
    """Whether values cannot be looked at now: while a graph is being captured or compiled."""
    return torch.compiler.is_compiling() or (x.is_cuda and torch.cuda.is_current_stream_capturing())


def warn_of_raw_data(x: Tensor, name: str, extremes: tuple[float, float] | None, model: Any, attribute: str) -> None:
    """Say where a model that was trained on standardised data seems to get others.

    Only values beyond ten standard deviations raise the question. Then the power of each dimension is to be 1: before
    standardisation if x is what it should be, after it if x is raw.
    """
    if extremes is None or max(-extremes[0], extremes[1]) < 10 or attribute not in model.metadata:
        return
    learned: Standardizer = getattr(model, attribute)
    # Columns that are not standardised, such as counts beside temperatures, are the same either way.
    own = ((learned.mean != 0) | (learned.scale != 1)).cpu()
    if not bool(own.any()):
        return
    given = x.detach().double().cpu()
    as_it_is, standardised = (
        float(t.square().mean((0, 1))[own].clamp_min(1e-6).log().abs().mean())
        for t in (given, learned.transform(given))
    )
    if as_it_is > math.log(10) and standardised < 0.5 * as_it_is:
        warnings.warn(
            f"{name} seems not to be standardised (values from {extremes[0]:.3g} to {extremes[1]:.3g}), as the data of "
            f"this model's training were: use model.{attribute}.transform({name})",
            stacklevel=2,
        )
