"""Are forecasts as sure as they should be? Twelve months of the sea's temperature, against state-space models.

    python -m dvae_lib.experiments.studies.forecasting [NAME ...] [--seeds 0 1 2]

The series is the mean temperature of the sea surface off Peru, monthly from 1950 to 2010, which statsmodels ships
(`statsmodels.datasets.elnino`, from the U.S. National Oceanic and Atmospheric Administration). To 1984 for training,
1985 to 1994 for validation, from 1995 for the test. From every third month of the test part on, twelve months are
forecast from the past alone; the inputs of the driven models are two harmonics of the season. Three DVAEs, each with
three seeds, and what stands beside them:

- ``harmonics-ar2``: the same harmonics and a second-order autoregression, by statsmodels' `UnobservedComponents`;
- ``climatology``: the values of the same month in all years before;
- ``seasonal-naive``: the value of a year before, plus what such a forecast was wrong by in the past.

Measures: CRPS and root-mean-square error of the mean (degrees Celsius), and how often the 90 % interval held. The
models and their sizes were chosen by the validation part. CRPS of each forecast and month go into
data/results/forecasting.json, so that methods can be compared pair by pair. A DVAE takes half a minute on a CPU core.
"""

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from dvae_lib.data.sequences import SequenceDataset
from dvae_lib.data.standardize import Standardizer
from dvae_lib.experiments.corpora import data_facts
from dvae_lib.experiments.records import Record
from dvae_lib.experiments.results import ResultFile, Task, rounded
from dvae_lib.experiments.studies.command import RESULTS, RUNS, completed, parser, select
from dvae_lib.experiments.trainings import train
from dvae_lib.extras import require
from dvae_lib.metrics import coverage, crps
from dvae_lib.models import DKF, DVAE, SRNN, SVAE
from dvae_lib.series import TrainedModel
from dvae_lib.training import TrainingConfig

__all__ = ["KEY", "MODELS", "REFERENCES", "Months", "forecasting_task", "main", "reference", "sea_temperature"]

KEY = ("name", "seed")
HORIZON, EVERY, MEMORY, SAMPLES = 12, 3, 120, 1000  # months ahead; between origins; that are filtered; futures
STARTS = {"train": 0, "validation": 35 * 12, "test": 45 * 12}

Samples = Callable[[int], NDArray[Any]]
"""Futures (K, HORIZON) from a month on, of which and of the past alone they are told."""

MODELS: dict[str, Callable[[], DVAE]] = {
    "srnn": partial(SRNN, 1, 2, u_dim=4, h_dim=16, g_dim=16),
    "dkf": partial(DKF, 1, 4, u_dim=4, transition=16, decoder=(16,), encoder=(16,), g_dim=16),
    "svae": partial(SVAE, 1, 4, u_dim=4, encoder=(16,), decoder=()),
}
REFERENCES = ("harmonics-ar2", "climatology", "seasonal-naive")


class Months(NamedTuple):
    """Temperatures (T, 1) in degrees Celsius from January 1950 on, and the harmonics of the season, (T, 4)."""

    x: NDArray[Any]
    season: NDArray[Any]

    def part(self, start: int, end: int, standardizer: Standardizer | None = None, **options: Any) -> SequenceDataset:
        """Some of the months as a dataset."""
        rows = slice(start, end)
        return SequenceDataset([self.x[rows]], [self.season[rows]], standardizer=standardizer, **options)


def sea_temperature() -> Months:
    """The series, from statsmodels."""
    require("statsmodels", "the temperature of the sea", "notebooks")
    from statsmodels.datasets import elnino

    table = elnino.load_pandas().data.set_index("YEAR")
    x = table.to_numpy(dtype=np.float64).reshape(-1, 1)
    phase = 2 * np.pi * (np.arange(len(x)) % 12) / 12
    harmonics = [function(k * phase) for k in (1, 2) for function in (np.sin, np.cos)]
    return Months(x, np.stack(harmonics, 1))


def trained(name: str, seed: int, months: Months, config: TrainingConfig, folder: Path) -> DVAE:
    """A model, trained on pieces of five years of the training part."""
    start, end = STARTS["validation"], STARTS["test"]
    standardizer = Standardizer.fit(months.part(0, start))
    training = months.part(0, start, standardizer, sequence_length=60, hop=6)
    validation = months.part(start, end, standardizer, sequence_length=60, hop=12)
    torch.manual_seed(seed)
    model = MODELS[name]()
    train(model, training, validation, config, folder)
    return model


def forecasts_of(model: DVAE, months: Months) -> Samples:
    """Futures by a model's filter over the last ten years."""
    used = TrainedModel(model)

    def futures(origin: int) -> NDArray[Any]:
        past = slice(max(0, origin - MEMORY), origin)
        inputs = months.season[past.start : origin + HORIZON]
        return used.forecast(months.x[past], HORIZON, inputs=inputs, num_samples=SAMPLES).samples[..., 0]

    return futures


def reference(name: str, months: Months) -> Samples:
    """One of `REFERENCES`; what it learns beforehand it learns from the training part."""
    values, rng = months.x[:, 0], np.random.default_rng(0)
    if name == "climatology":
        return lambda origin: np.stack(
            [rng.choice(values[(origin + h) % 12 : origin : 12], SAMPLES) for h in range(HORIZON)], 1
        )
    if name == "seasonal-naive":

        def repeated(origin: int) -> NDArray[Any]:
            errors = values[12:origin] - values[: origin - 12]
            return values[origin - 12 : origin][None] + rng.choice(errors, (SAMPLES, HORIZON))

        return repeated
    from statsmodels.tsa.api import UnobservedComponents

    season = [{"period": 12, "harmonics": 2}]
    options = {"freq_seasonal": season, "stochastic_freq_seasonal": [False], "autoregressive": 2}
    fitted = UnobservedComponents(values[: STARTS["validation"]], "fixed intercept", **options).fit(disp=0, maxiter=500)

    def expected(origin: int) -> NDArray[Any]:
        found = fitted.apply(values[:origin]).get_forecast(HORIZON)
        noise = rng.standard_normal((SAMPLES, HORIZON))
        return np.asarray(found.predicted_mean + np.sqrt(found.var_pred_mean) * noise)

    return expected


def measured(futures: Samples, months: Months, start: int, end: int) -> Record:
    """CRPS by month ahead and by forecast, error of the mean, coverage of the 90 % interval."""
    origins = range(start, end - HORIZON + 1, EVERY)
    samples = np.stack([futures(origin) for origin in origins], 1)  # (K, origins, HORIZON)
    truth = np.stack([months.x[origin : origin + HORIZON, 0] for origin in origins])
    scores = crps(samples, truth)
    low, high = np.quantile(samples, [0.05, 0.95], axis=0)
    return {
        "crps": rounded(float(scores.mean())),
        "rmse": rounded(float(np.sqrt(np.square(samples.mean(0) - truth).mean()))),
        "coverage_90": rounded(coverage(low, high, truth)),
        "crps_by_month": [rounded(float(value)) for value in scores.mean(0)],
        "crps_by_origin": [rounded(float(value)) for value in scores.mean(1)],
    }


def forecasting_task(name: str, seed: int, months: Months, runs: Path, config: TrainingConfig) -> Task:
    """A model, or a reference (whose seed is zero), on the test part."""
    key = {"name": name, "seed": seed}

    def compute() -> list[Record]:
        if name in MODELS:
            model = trained(name, seed, months, config, runs / f"forecasting-{name}-{seed}")
            futures = forecasts_of(model, months)
        else:
            futures = reference(name, months)
        facts = data_facts(train=months.part(0, STARTS["validation"]), test=months.part(STARTS["test"], len(months.x)))
        return [{**key, **measured(futures, months, STARTS["test"], len(months.x)), "data": facts}]

    return Task([key], compute)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    options = parser(__doc__)
    options.add_argument("names", nargs="*", metavar="NAME", help=", ".join([*MODELS, *REFERENCES]))
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options.add_argument("--epochs", type=int, default=300, help="at most")
    options.add_argument("--runs", type=Path, default=RUNS, help="where interrupted trainings are kept")
    options.add_argument("--output", type=Path, default=RESULTS / "forecasting.json")
    options.add_argument("--again", action="store_true", help="also what is in the file already")
    chosen = options.parse_args(arguments)
    names = select(options, chosen.names, [*MODELS, *REFERENCES])
    config = TrainingConfig(learning_rate=5e-3, batch_size=16, max_epochs=chosen.epochs, patience=40)
    months = sea_temperature()
    pairs = [(name, seed) for name in names for seed in (chosen.seeds if name in MODELS else [0])]
    tasks = (forecasting_task(name, seed, months, chosen.runs, config) for name, seed in pairs)
    return completed(ResultFile(chosen.output, KEY), tasks, again=chosen.again)


if __name__ == "__main__":
    sys.exit(main())
