"""What there is to measure: each measure said once, by whoever computes it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from dvae_lib.extras import require

__all__ = ["METRICS", "Metric", "metrics_of", "register_metric"]

Kind = Literal["speech", "motion", "sequences", "model"]

METRICS: "dict[str, Metric]" = {}
"""Every measure by the name of its column."""


@dataclass(frozen=True)
class Metric:
    """A measure: how it is called, printed and computed, and which way is better.

    Arguments:
        name: Its name in code, and that of its column.
        label: Its name in print.
        unit: In print; empty where it has none.
        digits: After the point, in print.
        better: Whether "higher" or "lower" values are better.
        function: What computes it from an original and its resynthesis; None where it is no function of the two, such
            as a bound. Of ``kind="speech"``: waveforms of shape (samples,) and the keyword `sample_rate` in Hz. Of
            the other kinds: sequences of shape (T, D) in the data's units; of motion, positions in metres.
        kind: What it is a measure of: "speech", "motion", "sequences" of any kind, or a "model".
        package: A package that computing it needs and the library does not; empty where there is none.

    Example:
        >>> metric = Metric("rmse_mm", "RMSE", "mm", 1, "lower")
        >>> metric.title, metric.printed(2.345), metric.higher_is_better
        ('RMSE (mm)', '2.3', False)
    """

    name: str
    label: str
    unit: str = ""
    digits: int = 3
    better: Literal["higher", "lower"] = "higher"
    function: Callable[..., Any] | None = None
    kind: Kind = "sequences"
    package: str = ""

    @property
    def higher_is_better(self) -> bool:
        """Whether a higher value is the better one."""
        return self.better == "higher"

    @property
    def title(self) -> str:
        """Label and unit, for the head of a column."""
        return f"{self.label} ({self.unit})" if self.unit else self.label

    def printed(self, value: float) -> str:
        """A value with the digits that it is given in print."""
        return f"{value:.{self.digits}f}"

    def require(self) -> None:
        """Refuse to begin without the package that it needs.

        Raises:
            ImportError: The package is missing; the message says how to get it.
        """
        if self.package:
            require(self.package, self.label)


def register_metric(metric: Metric) -> Metric:
    """Make a measure known to tables, reports and the command line.

    What is registered as a measure of speech is computed by `speech_metrics` from then on. A function that stands in an
    importable module runs in its parallel processes; one of a notebook or a script in the caller's own.

    Arguments:
        metric: The measure.

    Returns:
        The same.

    Raises:
        ValueError: Another measure has the name.

    Example:
        >>> import numpy as np
        >>> def level(reference, estimate, *, sample_rate):
        ...     return 20 * np.log10(np.std(estimate) / np.std(reference))
        >>> metric = register_metric(Metric("level", "Level", "dB", 1, "higher", level, kind="speech"))
        >>> METRICS["level"].title
        'Level (dB)'
        >>> del METRICS["level"]
    """
    if not metric.name.isidentifier():
        raise ValueError(f"a metric's name must be a word of letters, digits and _; got {metric.name!r}")
    if metric.better not in ("higher", "lower"):
        raise ValueError(f"better must be 'higher' or 'lower'; got {metric.better!r}")
    known = METRICS.get(metric.name)
    if known is not None and _origin(known) != _origin(metric):
        raise ValueError(f"there is a metric {metric.name!r} already, {known.title}; give yours another name")
    METRICS[metric.name] = metric
    return metric


def metrics_of(kind: Kind) -> tuple[str, ...]:
    """The names of all measures of a kind that can be computed, in the order of their registration.

    Example:
        >>> import dvae_lib.metrics
        >>> metrics_of("motion")
        ('mpjpe',)
    """
    return tuple(name for name, metric in METRICS.items() if metric.kind == kind and metric.function is not None)


def _origin(metric: Metric) -> tuple[str, str]:
    """Where its function stands: the same when a notebook's cell is run again."""
    function: Any = getattr(metric.function, "func", metric.function)
    return getattr(function, "__module__", ""), getattr(function, "__qualname__", metric.title)
