"""A trained model and the units of its data."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from dvae_lib.arrays import as_tensor
from dvae_lib.data.labels import Labels, check_dates_ahead, column_names
from dvae_lib.data.sequences import SequenceDataset
from dvae_lib.data.steps import TimeSteps
from dvae_lib.devices import on_the_host
from dvae_lib.models import DVAE
from dvae_lib.models.filtering import Filter
from dvae_lib.objectives.terms import check_counts
from dvae_lib.series.tables import Table, array, check_labels, following_index, like, named, side_by_side, uneven_index

__all__ = ["Encoded", "Prediction", "TrainedModel"]

QUANTILES = (0.05, 0.5, 0.95)

_NO_STEPS = "the model reads no steps of time: train it with time_steps='input', or leave out"


@dataclass(frozen=True)
class Prediction:
    """What a model says of values that were not seen, in the units of the data.

    Attributes:
        mean: Their mean, (T, D).
        quantiles: Each of the quantiles asked for, (T, D), by its level; of every value by itself. Of counts it is one.
        samples: Whole courses, (K, T, D): frames of one sample belong together.
        columns: Names of the D columns, from the training or from the DataFrame; None where neither has any.
        first: Number of the first frame, where the series begins at 0.
    """

    mean: Table
    quantiles: dict[float, Table]
    samples: NDArray[Any]
    columns: tuple[str, ...] | None = None
    first: int = 0

    def to_frame(self) -> Any:
        """Mean and quantiles side by side as one DataFrame, with the names of the columns, also where x was an array.

        Example:
            >>> Prediction(np.ones((2, 1)), {0.5: np.zeros((2, 1))}, np.ones((9, 2, 1)), ("heat",), first=20).to_frame()
                   heat  heat q0.5
            frame
            20      1.0        0.0
            21      1.0        0.0
        """
        parts = {"": self.mean} | {f"q{level:g}": table for level, table in self.quantiles.items()}
        return side_by_side(parts, self.columns, self.first)


class Encoded(NamedTuple):
    """Posteriors of a series' latent variables, by name: (T, L), or (L,) for one of the whole sequence."""

    mean: dict[str, Table]
    deviation: dict[str, Table]


class TrainedModel:
    r"""A trained model on series in the units of their data: `forecast`, `impute`, `score` and `encode`.

    The standardisation that the model was trained with is done on the way in and undone on the way out. A series is an
    array of shape (T, x_dim) or a DataFrame; results come as what was given, of a DataFrame with its columns and times.
    A model that was trained on DataFrames, or on CSV files, knows its `columns`: a DataFrame needs the same ones in the
    same order, and rows at the same rhythm. Of an array they name the columns of `Prediction.to_frame`.

    A model that was trained with ``time_steps="input"`` reads when the frames were: the index of a DataFrame, or
    ``times=``, (T,), beside an array. The inputs are handed over without the steps, which are found from the times.

    Arguments:
        model: A trained `DVAE`, of which `fit` has noted the standardisation. It is put into evaluation mode.

    Example:
        >>> from dvae_lib import SRNN
        >>> trained = TrainedModel(SRNN(x_dim=2, z_dim=1, h_dim=4, g_dim=4))
        >>> found = trained.forecast(np.zeros((20, 2)), steps=5, quantiles=(0.1, 0.9), num_samples=50)
        >>> found.mean.shape, sorted(found.quantiles), found.samples.shape
        ((5, 2), [0.1, 0.9], (50, 5, 2))
        >>> trained.score(np.zeros((20, 2))).shape
        (20,)
    """

    def __init__(self, model: DVAE) -> None:
        if not isinstance(model, DVAE):
            raise TypeError(
                f"expected a DVAE; got {type(model).__name__}. TrainedModel.from_pretrained takes a folder of weights"
            )
        self.model = model.eval()

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "TrainedModel":
        """The model in a folder that `fit` or `save_pretrained` wrote; see `DVAE.from_pretrained` for errors."""
        return cls(DVAE.from_pretrained(folder))

    @property
    def columns(self) -> tuple[str, ...] | None:
        """The names of the columns that the model was trained on; None where they had none."""
        return self._labels.columns

    @property
    def input_columns(self) -> tuple[str, ...] | None:
        """The names of the inputs' columns in training; None where they had none."""
        return self._labels.input_columns

    @property
    def frequency(self) -> str | None:
        """The rhythm of the times in training, as pandas writes it, such as "MS"; None where there was none."""
        return self._labels.frequency

    @property
    def time_steps(self) -> TimeSteps | None:
        """The scale of the steps of time that the model reads; None where it reads none."""
        return self._labels.time_steps

    @property
    def _labels(self) -> Labels:
        return Labels.from_dict(self.model.metadata.get("table", {}))

    # ---------------------------------------------------------------- what is asked

    @torch.no_grad()
    @on_the_host()
    def forecast(
        self,
        x: Table,
        steps: int,
        *,
        inputs: Table | None = None,
        times: Any = None,
        future_times: Any = None,
        quantiles: Sequence[float] = QUANTILES,
        num_samples: int = 1000,
        missing: bool = False,
        seed: int = 0,
    ) -> Prediction:
        r"""What comes next: :math:`p(\mathbf{x}_{T+1:T+H} | \mathbf{x}_{1:T})`, as mean, quantiles and samples.

        A particle filter runs over the series; each of its particles draws a future. So both the state at the end and
        what follows are uncertain, and the weights correct what the inference model misses. A model that cannot filter
        (not causal, or without a proposal per frame) draws the latents of the past from its inference model instead,
        uncorrected.

        Arguments:
            x: The series so far. Of a long one its end is enough.
            steps: Number H of frames to come.
            inputs: For a driven model, its inputs over the past and the future, (T + H, u_dim). Other future inputs are
                an intervention: what would come if.
            times: Of a model that reads steps of time, when the frames of an array were, (T,).
            future_times: Of such a model, when the frames to come are, (H,). By default those of a DataFrame go on at
                the rhythm of the training or, where it had none, in its median step (periods in their own), and those
                of an array in median steps.
            quantiles: Levels between 0 and 1.
            num_samples: Number of particles, and of futures.
            missing: Whether NaN in x stands for a missing value; otherwise it is refused.
            seed: Of the samples; the same seed gives the same forecast.

        Raises:
            ValueError: Numbers below 1, levels outside (0, 1), inputs that do not reach from the first frame to the
                last of the future, a series that the model does not fit, times of a DataFrame without a rhythm.
            TypeError: What is no array of numbers.
        """
        check_counts(steps=steps, num_samples=num_samples)
        self._check_labels(x, inputs)
        index = self._following(x, steps, times, future_times)
        future = index if future_times is None else future_times
        past, u, observed = self._taken(x, inputs, missing, steps, times=times, future=future)
        generator = self._generator(seed)
        if self.model.has_proposal:
            before, after = (None, None) if u is None else (u[:, : len(x)], u[:, len(x) :])
            watch, _ = self._filtered(past, before, observed, num_samples, generator)
            samples = watch.forecast(steps, after, num_samples=num_samples)[:, 0]
        else:
            many: dict[str, Any] = {"prefix": past, "u": u, "observed": observed}
            many = {name: value.expand(num_samples, -1, -1) for name, value in many.items() if value is not None}
            samples = self.model.generate(steps, generator=generator, **many).x
        return self._summary(x, samples, quantiles, index, first=len(x))

    @torch.no_grad()
    @on_the_host()
    def impute(
        self,
        x: Table,
        observed: Table | None = None,
        *,
        inputs: Table | None = None,
        times: Any = None,
        quantiles: Sequence[float] = QUANTILES,
        num_samples: int = 200,
        weighted: bool = False,
        seed: int = 0,
    ) -> Prediction:
        r"""What was missed: :math:`p(\mathbf{x}_m | \mathbf{x}_o)`, looking back and ahead. See `DVAE.impute`.

        Arguments:
            x: The series; NaN where a value is missing.
            observed: In place of NaN: what was observed, (T,) or (T, x_dim), boolean.
            inputs: The inputs of a driven model, (T, u_dim); they have no gaps.
            times: See `forecast`.
            quantiles: Levels between 0 and 1.
            num_samples: Number of samples.
            weighted: Weight the samples by their importance.
            seed: Of the samples.

        Returns:
            The whole series: what was observed as it was, in mean, quantiles and samples.

        Raises:
            ValueError, TypeError: See `forecast` and `DVAE.impute`.
        """
        self._check_labels(x, inputs)
        mask = None if observed is None else as_tensor(observed, "observed")
        if mask is not None and mask.dtype != torch.bool:
            raise TypeError(f"observed must be boolean; got {mask.dtype}")
        values = as_tensor(x, "x")
        if mask is not None:
            if mask.shape not in (values.shape, values.shape[:1]):
                raise ValueError(
                    f"observed must have shape {tuple(values.shape[:1])} or {tuple(values.shape)}, as x has; got "
                    f"{tuple(mask.shape)}"
                )
            seen = mask if mask.ndim == values.ndim else mask[:, None]
            values = torch.where(seen, values.double(), torch.nan)
        when = x.index if times is None and hasattr(x, "iloc") and self.time_steps is not None else times
        series, u, gaps = self._taken(values, inputs, missing=True, times=when)
        seen = torch.ones_like(series, dtype=torch.bool) if gaps is None else gaps
        options: dict[str, Any] = {"num_samples": num_samples, "weighted": weighted, "generator": self._generator(seed)}
        filled = self.model.impute(series, seen, u, **options)
        found = self._summary(x, filled.samples[:, 0], quantiles, None, mean=self._in_units(filled.mean[0]))
        return _with_what_was_seen(found, values, seen[0].cpu())

    @torch.no_grad()
    @on_the_host()
    def score(
        self,
        x: Table,
        *,
        inputs: Table | None = None,
        times: Any = None,
        num_particles: int = 200,
        missing: bool = False,
        seed: int = 0,
    ) -> Table:
        r"""How expected each frame was: :math:`\log p(\mathbf{x}_t | \mathbf{x}_{1:t-1})`, in nats, (T,).

        By a particle filter, of the density in the units of the data; the sum over the frames is an estimate of the
        series' log-likelihood, with an unbiased exponential. An odd frame scores low: compare with `threshold`. Of a
        frame of which nothing was observed the score is zero.

        Arguments:
            x: The series.
            inputs: The inputs of a driven model, (T, u_dim).
            times: See `forecast`.
            num_particles: Number of particles; with more, scores of odd frames are more exact.
            missing: Whether NaN stands for a missing value.
            seed: Of the particles.

        Raises:
            NotImplementedError: Of a model that cannot filter; `DVAE.importance_weighted_bound` scores whole series.
            ValueError, TypeError: See `forecast`.
        """
        check_counts(num_particles=num_particles)
        self._check_labels(x, inputs)
        series, u, observed = self._taken(x, inputs, missing, times=times)
        if not self.model.has_proposal:
            raise NotImplementedError(
                f"{type(self.model).__name__} cannot score frame by frame: its generation must be causal, with a "
                "proposal per frame. importance_weighted_bound scores whole series"
            )
        _, found = self._filtered(series, u, observed, num_particles, self._generator(seed))
        if observed is not None:  # but for rounding it is zero there already
            found = torch.where(observed[0].any(1), found, 0.0)
        if self.model.standardizer is not None:  # the density of x, not of the standardised x
            logs = self.model.standardizer.scale.log().to(found)
            found = found - (logs if observed is None else observed[0] * logs).expand(len(found), -1).sum(1)
        return named(x, found, "log_density")

    def threshold(self, series: Sequence[Table], *, false_alarms: float = 0.01, **options: Any) -> float:
        """The score below which a frame is called odd, so that a given share of ordinary frames is.

        Arguments:
            series: Ordinary ones, that the model was not trained on: the validation part.
            false_alarms: That share, between 0 and 1.
            options: Of `score`; ``inputs`` and ``times`` as lists, one for each series.

        Raises:
            ValueError: No series, or a share outside (0, 1).
        """
        if not 0 < false_alarms < 1:
            raise ValueError(f"false_alarms is a share between 0 and 1; got {false_alarms}")
        if len(series) == 0:
            raise ValueError("a threshold is learned from ordinary series, and there is none")
        inputs, times = (options.pop(name, None) or [None] * len(series) for name in ("inputs", "times"))
        scores = [
            np.asarray(self.score(x, inputs=u, times=when, **options))
            for x, u, when in zip(series, inputs, times, strict=True)
        ]
        return float(np.quantile(np.concatenate(scores), false_alarms))

    @torch.no_grad()
    @on_the_host()
    def encode(self, x: Table, *, inputs: Table | None = None, times: Any = None, missing: bool = False) -> Encoded:
        r"""The latents that the inference model reads in a series: mean and deviation of their posteriors.

        Where a posterior depends on the latents before, it is taken at their means.

        Arguments:
            x: The series.
            inputs: The inputs of a driven model, (T, u_dim).
            times: See `forecast`.
            missing: Whether NaN stands for a missing value.

        Raises:
            ValueError, TypeError: See `forecast`.
        """
        self._check_labels(x, inputs)
        series, u, observed = self._taken(x, inputs, missing, times=times)
        latents = self.model.inference(series, u, observed=observed, draw="mean")
        mean, deviation = {}, {}
        for name, latent in latents.items():
            both = (latent.posterior.mean[0], latent.posterior.stddev[0])
            framewise = self.model.spec.is_framewise(name)
            mean[name], deviation[name] = (named(x, v, name) if framewise else array(v) for v in both)
        return Encoded(mean, deviation)

    # ---------------------------------------------------------------- units, and the filter

    def _check_labels(self, x: Table, inputs: Table | None) -> None:
        """Refuse DataFrames with other columns than in training, or at another rhythm, and inputs of other dates."""
        columns, input_columns, frequency, _ = self._labels
        check_labels(x, columns, frequency, "x")
        check_labels(inputs, input_columns, frequency, "inputs")
        check_dates_ahead(x, inputs)

    def _following(self, x: Table, steps: int, times: Any, future_times: Any) -> Any:
        """The times of the frames to come, of a DataFrame; None of an array."""
        scale = self.time_steps
        if scale is None and future_times is not None:
            raise ValueError(f"{_NO_STEPS} future_times")
        if future_times is not None and len(future_times) != steps:
            raise ValueError(f"future_times must be {steps}, one for each frame to come; got {len(future_times)}")
        if not hasattr(x, "iloc"):
            return None
        if scale is None:
            return following_index(x.index, steps, self.frequency)
        return uneven_index(x.index if times is None else times, steps, scale.median, self.frequency, future_times)

    def _steps(self, x: Table, times: Any, ahead: int, future: Any) -> Tensor | None:
        """The steps of time as the model reads them, (T + H, 1); None of a model that reads none."""
        scale = self.time_steps
        if scale is None:
            if times is not None:
                raise ValueError(f"{_NO_STEPS} times")
            return None
        if times is None and not hasattr(x, "iloc"):
            raise ValueError("the model reads steps of time: hand over when the frames were, times=..., (T,)")
        when = x.index if times is None else times
        if len(when) != len(x):
            raise ValueError(f"times must be {len(x)}, one for each frame of x; got {len(when)}")
        column = scale.column_of(*(t for t in (when, future) if t is not None), name="the times of x")
        unknown = np.zeros((ahead if future is None else 0, 1))  # median steps
        return torch.from_numpy(np.concatenate([column, unknown]))

    def _taken(
        self, x: Table, inputs: Table | None, missing: bool, ahead: int = 0, *, times: Any = None, future: Any = None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """A series as the model reads it, (1, T, D): standardised, with its inputs and what was observed of it."""
        model, parameter = self.model, next(self.model.parameters())
        if missing and bool(as_tensor(x, "x", masked="nan").isnan().all()):
            raise ValueError("x holds no value that was observed: every one is NaN")
        data = SequenceDataset([x], names=["x"], missing=missing, dtype=parameter.dtype)
        if data.x_dim != model.x_dim:
            raise ValueError(f"the model was trained on {model.x_dim} columns; got {data.x_dim}")
        data.standardizer = model.standardizer
        series, u = data[0][None].to(parameter.device), None
        steps = self._steps(x, times, ahead, future)
        own = model.u_dim - (steps is not None)
        if (inputs is None) != (own == 0):
            wanted = "takes no inputs" if inputs is not None else f"is driven by {own} inputs a frame: inputs=..."
            raise ValueError(f"the model {wanted}")
        if inputs is not None:
            drive = SequenceDataset([inputs], names=["inputs"], dtype=torch.float64)
            frames = f"{series.shape[1]} frames of the past and {ahead} to come" if ahead else "as many as x has"
            if (len(drive[0]), drive.x_dim) != (series.shape[1] + ahead, own):
                raise ValueError(
                    f"inputs must have shape {(series.shape[1] + ahead, own)}, for {frames}; got "
                    f"{tuple(drive[0].shape)}"
                )
            steps = drive[0] if steps is None else torch.cat([drive[0], steps], 1)
        if steps is not None:
            driven = SequenceDataset([steps], names=["inputs"], dtype=parameter.dtype)
            driven.standardizer = model.input_standardizer
            u = driven[0][None].to(parameter.device)
        observed = ~series.isnan() if missing and bool(series.isnan().any()) else None
        return series, u, observed

    def _filtered(
        self, x: Tensor, u: Tensor | None, observed: Tensor | None, num_particles: int, generator: Generator
    ) -> tuple[Filter, Tensor]:
        """The filter after a series, and the log-densities of its frames, (T,)."""
        watch, densities = self.model.filter(num_particles=num_particles, generator=generator), []
        for t in range(x.shape[1]):
            seen = None if observed is None else observed[:, t]
            densities.append(-watch.update(x[:, t], None if u is None else u[:, t], observed=seen).score[0])
        return watch, torch.stack(densities)

    def _in_units(self, values: Tensor) -> Tensor:
        standardizer = self.model.standardizer
        return values.double() if standardizer is None else standardizer.inverse(values.double())

    def _summary(
        self,
        given: Table,
        samples: Tensor,
        quantiles: Sequence[float],
        index: Any,
        *,
        mean: Tensor | None = None,
        first: int = 0,
    ) -> Prediction:
        levels = [float(level) for level in quantiles]
        if not all(0 < level < 1 for level in levels):
            raise ValueError(f"quantiles lie between 0 and 1; got {tuple(quantiles)}")
        samples = self._in_units(samples)
        found: Mapping[float, Tensor] = {level: _quantile(samples, level) for level in levels}
        tables = {level: like(given, value, index) for level, value in found.items()}
        centre = like(given, samples.mean(0) if mean is None else mean, index)
        return Prediction(centre, tables, array(samples), self.columns or column_names(given), first)

    def _generator(self, seed: int) -> Generator:
        return Generator(next(self.model.parameters()).device).manual_seed(seed)


def _quantile(samples: Tensor, level: float) -> Tensor:
    """A quantile of each value; of whole numbers the least that has at least that share below it or at it."""
    between = samples.quantile(level, 0)
    whole = (samples == samples.round()).flatten(0, -2).all(0)
    if not bool(whole.any()):
        return between
    place = max(math.ceil(level * len(samples)), 1) - 1
    return torch.where(whole, samples.sort(0).values[place], between)


def _with_what_was_seen(found: Prediction, x: Tensor, seen: Tensor) -> Prediction:
    """What was observed as it was handed in, to the last digit: not as standardising and back leaves it."""
    values, mask = x.numpy(), seen.numpy()
    for table in (found.mean, *found.quantiles.values()):
        if hasattr(table, "iloc"):
            table[:] = np.where(mask, values, table.to_numpy())
        else:
            table[mask] = values[mask]
    found.samples[:, mask] = values[mask]
    return found
