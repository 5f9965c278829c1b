"""Frames that are not evenly spaced: the time since the frame before as an input of any driven model."""

from datetime import date, timedelta

import numpy as np
import pandas as pd
import pytest
import torch

from dvae_lib import GRNN, SRNN
from dvae_lib.data import TimeSteps, from_arrays, from_csv_folder, load
from dvae_lib.series import TrainedModel
from dvae_lib.statespace import log_likelihood, matern_ssm
from dvae_lib.training import TrainingConfig, fit, model_for

RNG = np.random.default_rng(0)
TIMES = [np.cumsum(RNG.lognormal(size=n)) for n in (30, 25, 40, 28)]
SERIES = [RNG.normal(size=(len(times), 2)) for times in TIMES]
BEGIN = pd.Timestamp("2024-01-01", tz="Europe/Berlin")


def dated(times):
    return BEGIN + pd.to_timedelta(times, unit="h")


def frames(dates=True):
    return [
        pd.DataFrame(x, dated(t) if dates else pd.Index(t), ["heat", "level"])
        for x, t in zip(SERIES, TIMES, strict=True)
    ]


def driven(**options):
    return from_arrays(frames(), time_steps="input", fractions=(0.5, 0.5), **options)


class TestScale:
    def test_the_first_frame_is_zero_and_the_median_step_is_the_unit(self):
        train, validation = driven()
        assert (train.u_dim, train.labels.time_steps.seconds) == (1, True)
        steps = np.concatenate([np.diff(TIMES[int(name)]) for name in train.names])
        assert train.labels.time_steps.median == pytest.approx(3600 * np.median(steps))
        for part in (train, validation):
            for k, name in enumerate(part.names):
                u = part.batch([k]).u[0, :, 0]
                assert u[0] == 0
                np.testing.assert_allclose(u[1:], np.log(np.diff(TIMES[int(name)]) / np.median(steps)), rtol=1e-5)

    @pytest.mark.parametrize("unit", [1.0, 60.0, 1e-6, 7.3e5])
    def test_another_unit_of_time_changes_nothing(self, unit):
        given = {"time_steps": "input", "fractions": (0.5, 0.5)}
        (own, _), (dates, _) = from_arrays(SERIES, times=[unit * t for t in TIMES], **given), driven()
        for k in range(len(own)):
            np.testing.assert_allclose(own.batch([k]).u, dates.batch([k]).u, atol=1e-6)

    @pytest.mark.parametrize("step", [0.1, 1e-3, 24.0])
    def test_equal_steps_are_zeros_to_the_last_digit(self, step):
        """So a model learns what it learns with a constant input."""
        times = [step * np.arange(1000, 1000 + len(x)) for x in SERIES]
        with_steps, _ = from_arrays(SERIES, times=times, time_steps="input", fractions=(0.5, 0.5))
        zeros = [np.zeros((len(x), 1)) for x in SERIES]
        without, _ = from_arrays(SERIES, zeros, fractions=(0.5, 0.5))
        for k in range(len(without)):
            a, b = with_steps.batch([k]), without.batch([k])
            assert torch.equal(a.x, b.x)
            assert torch.equal(a.u, b.u)

    def test_steps_stand_behind_other_inputs_which_alone_are_standardised(self):
        inputs = [100 + 7 * RNG.normal(size=(len(x), 1)) for x in SERIES]
        train, _ = from_arrays(frames(), inputs, time_steps="input", fractions=(0.5, 0.5))
        alone, _ = driven()
        both = torch.cat([u for k in range(len(train)) for u in train.batch([k]).u])
        assert both[:, 0].std() == pytest.approx(1, abs=0.02)
        assert torch.equal(both[:, 1], torch.cat([u for k in range(len(alone)) for u in alone.batch([k]).u])[:, 0])

    def test_the_median_is_that_of_the_training_part(self):
        times = np.concatenate([np.arange(20.0), 20 + 5 * np.arange(20.0)])
        train, validation = from_arrays(
            [RNG.normal(size=(40, 1))], times=[times], time_steps="input", split="time", fractions=(0.5, 0.5)
        )
        assert train.labels.time_steps == (1.0, False, None)
        np.testing.assert_allclose(validation.batch([0]).u[0, :, 0], np.log([1.0] + 19 * [5.0]), rtol=1e-6)


def test_kinds_of_times_that_say_the_same():
    hours = np.array([0, 1, 5, 6])
    dates = pd.Timestamp("2024-01-01") + pd.to_timedelta(hours, unit="h")
    scale = TimeSteps(3600.0, seconds=True)
    for times in (
        dates, dates.tz_localize("Asia/Tokyo"), dates.to_numpy(), dates.to_period("h"), list(dates.to_pydatetime()),
        pd.to_timedelta(hours, unit="h"), dates.astype("datetime64[s]"), pd.Series(dates),
        list(pd.to_timedelta(hours, unit="h")), [timedelta(hours=int(h)) for h in hours],
    ):  # fmt: skip
        np.testing.assert_allclose(scale.column_of(times)[:, 0], [0, 0, np.log(4), 0])
    for times in (torch.tensor(hours), pd.Series(hours)):
        np.testing.assert_allclose(TimeSteps(1.0).column_of(times)[:, 0], [0, 0, np.log(4), 0])


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ([0.0, 1.0, 1.0], "repeat at frame 2"),
        ([0.0, 2.0, 1.0], "run backwards at frame 2"),
        ([0.0, np.nan, 1.0], "must be finite"),
        ([BEGIN, BEGIN, BEGIN], "repeat at frame 1"),
        (np.array(["2024-01-01", "NaT", "2024-01-03"], "datetime64[D]"), "none may be missing"),
        ([0.0, 1.0], "3 frames, but 2 times"),
        (pd.RangeIndex(3), "only counts its rows"),
        ([BEGIN, pd.Timestamp("2024-01-02"), pd.Timestamp("2024-01-03")], "time zone"),
    ],
)
def test_times_that_are_none(times, message):
    with pytest.raises(ValueError, match=message):
        from_arrays([np.ones((3, 1))], times=[times], time_steps="input", split="time", fractions=(0.5, 0.5))


def test_what_is_asked_for_wrongly():
    with pytest.raises(ValueError, match="is no DataFrame"):
        from_arrays(SERIES, time_steps="input")
    with pytest.raises(ValueError, match="say time_steps='input'"):
        from_arrays(SERIES, times=TIMES)
    for kind in (str, object):
        texts = [np.array(["2024-01-01"] * len(x), kind) for x in SERIES]
        with pytest.raises(TypeError, match="to_datetime"):
            from_arrays(SERIES, times=texts, time_steps="input")
    with pytest.raises(TypeError, match="must be dates or numbers; got int"):
        from_arrays([np.ones((3, 1))], times=[np.array([0, 1, 5], object)], time_steps="input")
    inputs = [np.ones((len(x) - (k == 1), 1)) for k, x in enumerate(SERIES)]
    with pytest.raises(ValueError, match="Sequence 1 has 25 frames, but its input has 24"):
        from_arrays(SERIES, inputs, times=TIMES, time_steps="input", fractions=(0.5, 0.5))
    with pytest.raises(ValueError, match="must be dates"):
        from_arrays(frames(), times=[dated(TIMES[0]), *TIMES[1:]], time_steps="input")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    torch.manual_seed(0)
    train, validation = driven()
    model = model_for("srnn", train, z_dim=1, h_dim=4, g_dim=4)
    folder = tmp_path_factory.mktemp("run")
    fit(model, train, validation, TrainingConfig(max_epochs=2), folder=folder, progress=False)
    return TrainedModel.from_pretrained(folder)


SIZES = {"score": "num_particles", "impute": "num_samples"}


class TestUse:
    """A model of irregular tables, as saved and loaded again."""

    def test_it_knows_its_scale(self, trained):
        assert trained.time_steps == driven()[0].labels.time_steps
        assert trained.model.u_dim == 1

    @pytest.mark.parametrize("ask", ["encode", "score", "impute"])
    def test_of_tables_and_of_arrays_with_times_it_says_the_same(self, trained, ask):
        (table, *_), options = frames(), {} if ask == "encode" else {"seed": 3, SIZES[ask]: 5}

        def numbers(x, **times):
            found = getattr(trained, ask)(x, **times, **options)
            found = getattr(found, "mean", found) if ask != "score" else found
            return np.asarray(found["z"] if ask == "encode" else found)

        table = table.copy() if ask != "impute" else table.mask(np.eye(30, 2, -12) == 1)
        own = numbers(table)
        np.testing.assert_array_equal(own, numbers(table.to_numpy(), times=dated(TIMES[0])))
        np.testing.assert_array_equal(own, numbers(table.reset_index(drop=True), times=dated(TIMES[0])))
        stretched = table.set_index(dated(TIMES[0] ** 1.5))
        assert np.abs(own - numbers(stretched)).max() > 1e-4  # they are read
        with pytest.raises(ValueError, match=r"times=\.\.\."):
            getattr(trained, ask)(table.to_numpy())
        with pytest.raises(ValueError, match="must be dates"):
            getattr(trained, ask)(table.to_numpy(), times=TIMES[0])

    def test_the_encoding_is_that_of_the_steps_as_inputs(self, trained):
        table = frames()[0]
        u = torch.tensor(trained.time_steps.column_of(table.index))[None].float()
        x = trained.model.standardizer.transform(torch.tensor(table.to_numpy()))[None].float()
        z = trained.model.inference(x, u, draw="mean")["z"].posterior.mean[0].detach()
        np.testing.assert_allclose(trained.encode(table).mean["z"], z, atol=1e-6)

    def test_a_forecast_goes_on_in_median_steps(self, trained):
        table, options = frames()[0], {"num_samples": 20, "seed": 1}
        median = pd.to_timedelta(trained.time_steps.median, unit="s")
        found = trained.forecast(table, 3, **options)
        expected = pd.DatetimeIndex([table.index[-1] + k * median for k in range(1, 4)])
        assert abs(found.mean.index - expected).max() < pd.Timedelta("1us")
        told = trained.forecast(table, 3, future_times=expected, **options)
        np.testing.assert_array_equal(found.samples, told.samples)
        array = trained.forecast(table.to_numpy(), 3, times=table.index, **options)
        np.testing.assert_array_equal(found.samples, array.samples)
        later = trained.forecast(table, 3, future_times=[*expected[:2], expected[1] + 50 * median], **options)
        np.testing.assert_array_equal(found.samples[:, :2], later.samples[:, :2])
        assert np.abs(found.samples[:, 2] - later.samples[:, 2]).max() > 1e-3
        assert later.mean.index[-1] == expected[1] + 50 * median

    def test_a_forecast_goes_on_from_dates_of_the_standard_library(self, trained):
        table = pd.DataFrame(SERIES[0], [date(2024, 1, 1) + timedelta(days=k) for k in range(len(SERIES[0]))])
        table.columns = ["heat", "level"]
        assert len(trained.forecast(table, 2, num_samples=3).mean) == 2

    def test_times_of_the_future_that_are_none(self, trained):
        table = frames()[0]
        with pytest.raises(ValueError, match="of one kind; got dates with a time zone and durations"):
            trained.forecast(table, 1, future_times=[pd.Timedelta("1h")])
        with pytest.raises(ValueError, match="future_times must be 2"):
            trained.forecast(table, 2, future_times=[table.index[-1] + pd.Timedelta("1h")])
        with pytest.raises(ValueError, match="run backwards at frame 30"):
            trained.forecast(table, 1, future_times=[table.index[0]])

    def test_a_model_without_steps_takes_no_times(self):
        plain = TrainedModel(SRNN(x_dim=2, z_dim=1, h_dim=4, g_dim=4))
        with pytest.raises(ValueError, match="reads no steps of time"):
            plain.score(SERIES[0], times=TIMES[0])
        with pytest.raises(ValueError, match="reads no steps of time"):
            plain.forecast(SERIES[0], 1, future_times=[99.0])

    def test_a_threshold(self, trained):
        tables = frames()[:2]
        arrays = trained.threshold([t.to_numpy() for t in tables], times=[t.index for t in tables], num_particles=5)
        assert arrays == trained.threshold(tables, num_particles=5)


class TestFiles:
    def write(self, folder, dates=True, name="when"):
        for k, table in enumerate(frames(dates)):
            stamped = table.rename_axis(name)
            if dates:
                stamped.index = stamped.index.tz_convert("UTC")
            stamped.to_csv(folder / f"{k}.csv")

    @pytest.mark.parametrize("dates", [True, False])
    def test_the_steps_are_those_of_the_tables(self, tmp_path, dates):
        self.write(tmp_path, dates)
        found = from_csv_folder(tmp_path, time="when", time_steps="input", fractions=(0.5, 0.25, 0.25))
        assert found[0].labels.time_steps.column == "when"
        assert found[0].labels.columns == ("heat", "level")
        own, *_ = from_arrays(frames(), time_steps="input", fractions=(0.5, 0.25, 0.25))
        for k in range(len(own)):
            np.testing.assert_allclose(found[0].batch([k]).u, own.batch([k]).u, atol=1e-6)

    def test_the_column_is_found(self, tmp_path):
        self.write(tmp_path, dates=False, name="time")
        part = load(tmp_path, time_steps="input").train
        assert part.labels.time_steps.column == "time"
        assert from_csv_folder(tmp_path, columns=["heat"], time_steps="input").train.u_dim == 1

    def test_jumps_say_what_to_do(self, tmp_path):
        self.write(tmp_path, dates=False)
        with pytest.raises(ValueError, match=r"jump from .*--time-steps input"):
            load(tmp_path, time="when")

    def test_files_without_times(self, tmp_path):
        np.savez(tmp_path / "a.npz", *SERIES)
        with pytest.raises(ValueError, match="holds no CSV files"):
            load(tmp_path / "a.npz", time_steps="input")
        for k, x in enumerate(SERIES):
            pd.DataFrame(x, columns=["heat", "level"]).to_csv(tmp_path / f"{k}.csv", index=False)
        (tmp_path / "a.npz").unlink()
        with pytest.raises(ValueError, match=r"has no column of times.*heat, level"):
            load(tmp_path, time_steps="input")
        for k, x in enumerate(SERIES):  # with an index that only counts
            pd.DataFrame(x, columns=["heat", "level"]).to_csv(tmp_path / f"{k}.csv")
        with pytest.raises(ValueError, match="has no column of times"):
            load(tmp_path, time_steps="input")
        with pytest.raises(TypeError, match="time_steps"):
            load("pendulum", time_steps="input")


class TestTruth:
    """The Ornstein-Uhlenbeck process, of which the exact log-likelihood is known at any times."""

    LENGTH_SCALE, NOISE, FRAMES = 1.0, 0.01, 25

    def process(self, seed, number):
        """Times whose steps differ by a factor of twenty and more, and the process in noise, (N, T)."""
        rng = np.random.default_rng(seed)
        times = np.cumsum(rng.lognormal(sigma=1.5, size=(number, self.FRAMES)), 1)
        decay = np.exp(-np.diff(times, axis=1) / self.LENGTH_SCALE)
        z = rng.normal(size=times.shape)
        for t in range(1, self.FRAMES):
            z[:, t] = decay[:, t - 1] * z[:, t - 1] + np.sqrt(1 - decay[:, t - 1] ** 2) * z[:, t]
        return times, (z + np.sqrt(self.NOISE) * rng.normal(size=z.shape))[..., None]

    def trained(self, seed, steps):
        times, x = self.process(seed, 120)
        given = {"time_steps": "input", "times": list(times)} if steps else {}
        train, _ = from_arrays(x, fractions=(0.99, 0.01), standardize=False, **given)
        torch.manual_seed(seed)
        model = GRNN(1, h_dim=16, decoder=(16,), cell="gru", u_dim=train.u_dim)
        fit(
            model,
            train,
            None,
            TrainingConfig(max_epochs=40, learning_rate=2e-2, batch_size=60, seed=seed),
            progress=False,
        )
        return model, train.labels.time_steps

    def test_with_the_steps_a_model_comes_near_to_the_exact_likelihood(self):
        """In nats per frame that are lost on fresh series; of three processes, trainings and tests."""
        lost = {"with": [], "without": []}
        for seed in range(3):
            times, x = self.process(100 + seed, 200)
            x, when = torch.from_numpy(x), torch.from_numpy(times)
            exact = log_likelihood(matern_ssm("matern12", self.LENGTH_SCALE, self.NOISE, times=when), x).mean()
            for what in lost:
                model, scale = self.trained(seed, what == "with")
                columns = [] if scale is None else [torch.from_numpy(scale.column_of(t)).float() for t in times]
                with torch.no_grad():
                    found = model.log_likelihood(x.float(), torch.stack(columns) if columns else None).mean()
                lost[what].append(float(exact - found) / self.FRAMES)
        assert min(lost["with"]) > 0  # nothing is better than the truth
        assert max(lost["with"]) < 0.05
        assert min(lost["without"]) > 0.1
