"""What is maximised: a function of model and batch, in one of two forms, made one here."""

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Generator, Tensor, nn

from dvae_lib.data.sequences import Batch
from dvae_lib.objectives import VLB
from dvae_lib.training.schedules import Number

__all__ = ["Objective", "check_objective", "evaluate_objective", "name_of", "vlb_terms"]

Objective = Callable[..., Any]
"""A function in one of two forms, both in nats per sequence and with gradients:

- ``objective(model, x, u=None, *, lengths=None, generator=None, **scheduled)``, known by its argument ``lengths``. It
  returns something whose ``value`` has shape (B,), as those of `dvae_lib.objectives` do. On data with gaps it needs an
  argument ``observed`` too.
- ``objective(model, batch, *, generator, **scheduled)``. It returns terms of shape (B,) by name: the first is
  maximised, the others are recorded. `vlb_terms` is one.

Either may return what the other does. ``functools.partial`` fixes arguments that do not change over the epochs.
"""

GIVEN = ("model", "batch", "x", "u", "lengths", "observed", "generator")
"""Arguments that the loop gives; the others may be scheduled, unless they choose between computations."""
CHOICES = ("kl", "num_samples", "num_particles", "chunk_size", "num_data", "estimator")


def vlb_terms(
    model: nn.Module, batch: Batch, *, generator: Generator | None = None, **scheduled: Number
) -> dict[str, Tensor]:
    """The default objective: the variational lower bound and its parts, in nats per sequence.

    Arguments:
        model: With a method `vlb` as that of `dvae_lib.models.DVAE`.
        batch: Some sequences.
        generator: Source of the latents' noise.
        scheduled: Further arguments of `vlb`, such as ``beta`` and ``feedback``.

    Returns:
        ``objective`` (KL terms weighted by beta, auxiliary terms included), ``vlb`` (the bound itself, at beta = 1),
        ``reconstruction``, ``kl`` and the model's auxiliary terms, each of shape (B,).
    """
    bound: Any = model.vlb
    return _terms_of(bound(batch.x, batch.u, **_given(bound, batch), generator=generator, **scheduled))


# Checkpoints name the objective: by where everybody imports it from, not by the file that it stands in.
vlb_terms.__module__ = "dvae_lib.training"


def evaluate_objective(
    objective: Objective, model: nn.Module, batch: Batch, generator: Generator, scheduled: Mapping[str, Number]
) -> dict[str, Tensor]:
    """The terms of an objective of either form, each of shape (B,); the first is what is maximised.

    Raises:
        TypeError: It returns neither terms nor a bound.
        ValueError: A term that has not one value per sequence, or no term at all.
    """
    if _takes_sequences(objective):
        known = _given(objective, batch)
        result = objective(model, batch.x, batch.u, **known, generator=generator, **scheduled)
    else:
        result = objective(model, batch, generator=generator, **scheduled)
    terms = dict(result) if isinstance(result, Mapping) else _terms_of(result)
    for name, value in terms.items():
        if not isinstance(value, Tensor) or value.shape != batch.x.shape[:1]:
            got = tuple(value.shape) if isinstance(value, Tensor) else value
            raise ValueError(
                f"The objective's term {name!r} must have one value per sequence, shape ({len(batch.x)},); got {got}"
            )
    if not terms:
        raise ValueError("The objective returned no term; the first one is what is maximised")
    return terms


def check_objective(model: nn.Module, objective: Objective, scheduled: Iterable[str]) -> None:
    """Refuse a model without the bound that is maximised, and schedules of arguments that the objective has not.

    Raises:
        TypeError: By default the model's method `vlb` is maximised, and it has none.
        ValueError: An argument is scheduled that the objective does not take.
    """
    taker: Any = objective
    if objective is vlb_terms:
        taker = getattr(model, "vlb", None)
        if taker is None:
            raise TypeError(
                f"{type(model).__name__} has no method vlb, which is what is maximised by default: pass an objective, "
                "a function of model and batch that returns terms of shape (B,)"
            )
    parameters = _parameters(taker)
    if parameters is None or any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    known = [
        name
        for name, p in parameters.items()
        if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD) and name not in (*GIVEN, *CHOICES)
    ]
    for name in scheduled:
        if name not in known:
            raise ValueError(
                f"schedules names {name!r}, which is no argument of the objective that could change over the epochs; "
                f"it has {', '.join(known) or 'none'}"
            )


def name_of(thing: Any) -> str:
    """The name by which a checkpoint knows a class or a function, with the arguments that a partial one fixes."""
    if isinstance(thing, functools.partial):
        fixed = [*map(repr, thing.args), *(f"{name}={value!r}" for name, value in sorted(thing.keywords.items()))]
        return f"{name_of(thing.func)}({', '.join(fixed)})"
    kind = thing if hasattr(thing, "__qualname__") else type(thing)
    return f"{kind.__module__}.{kind.__qualname__}"


def _parameters(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter] | None:
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):  # a callable that does not tell
        return None


def _takes_sequences(objective: Objective) -> bool:
    """Whether it is a function of x, u and lengths, as those of `dvae_lib.objectives` are; else of a batch."""
    return "lengths" in (_parameters(objective) or ())


def _given(objective: Objective, batch: Batch) -> dict[str, Tensor | None]:
    """What an objective is told of a batch: the lengths; and what was observed, where the data have gaps."""
    if batch.observed is None:
        return {"lengths": batch.lengths}
    taken = _parameters(objective)
    if taken is not None and "observed" not in taken and not any(p.kind is p.VAR_KEYWORD for p in taken.values()):
        raise TypeError(
            "The data have gaps (missing=True), but the objective takes no argument `observed`: it would count them as "
            "data. Take one of dvae_lib.objectives, or write one that does"
        )
    return {"lengths": batch.lengths, "observed": batch.observed}


def _terms_of(bound: Any) -> dict[str, Tensor]:
    """A bound as terms by name."""
    if isinstance(bound, VLB):
        kl = bound.total_kl
        return {
            "objective": bound.value,
            "vlb": bound.reconstruction - kl,
            "reconstruction": bound.reconstruction,
            "kl": kl,
            **bound.auxiliary,
        }
    if not hasattr(bound, "value"):
        raise TypeError(
            "An objective returns terms of shape (B,) by name, or something whose value has that shape, as the "
            f"functions of dvae_lib.objectives do; got {type(bound).__name__}"
        )
    return {"objective": bound.value}
