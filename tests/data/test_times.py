"""The times of CSV files: which column holds them, that they run forwards, and their rhythm, which a model keeps."""

import logging

import numpy as np
import pandas as pd
import pytest

from dvae_lib.data import from_csv_folder, load
from dvae_lib.data import times as module
from dvae_lib.data.labels import Labels
from dvae_lib.data.tables import read_csv_folder
from dvae_lib.data.times import Times


def written(file, times, name="when", **format):
    values = np.random.default_rng(0).normal(size=(len(times), 2))
    table = pd.DataFrame({name: times, "heat": values[:, 0], "level": values[:, 1]})
    table.to_csv(file, index=False, **format)
    return file


def read(file, **options):
    (table,) = read_csv_folder(file, **options)
    return table


@pytest.mark.parametrize(
    ("frequency", "format"),
    [
        ("D", {}),
        ("MS", {}),
        ("B", {}),
        ("h", {}),
        ("90min", {}),
        ("D", {"date_format": "%d.%m.%Y"}),
        ("D", {"date_format": "%m/%d/%Y"}),
        ("D", {"date_format": "%d/%m/%Y"}),
        ("W-MON", {"date_format": "%Y-%m-%d %H:%M:%S"}),
    ],
)
def test_a_rhythm_is_recognised(tmp_path, frequency, format):
    times = pd.date_range("2024-01-01", periods=60, freq=frequency)
    table = read(written(tmp_path / "a.csv", times, **format))
    assert table.names == ("heat", "level")
    assert table.times.frequency == frequency
    assert table.times.index.equals(times)


def test_hours_over_a_change_of_clocks(tmp_path):
    times = pd.date_range("2024-10-26", periods=60, freq="h", tz="UTC")
    assert read(written(tmp_path / "a.csv", times)).times.frequency == "h"


def test_months_need_be_asked_for(tmp_path):
    """2024-01 may be a name of anything."""
    times = pd.date_range("2024-01-01", periods=20, freq="MS")
    file = written(tmp_path / "a.csv", times, date_format="%Y-%m")
    assert read(file, columns=["heat"]).times.index is None
    table = read(file, time="when")
    assert table.names == ("heat", "level")
    assert table.times.frequency == "MS"


def test_numbers_and_clock_times_have_none(tmp_path):
    years = written(tmp_path / "years.csv", range(1900, 1920))
    assert read(years, time="when").times == Times()
    assert read(years, time="when").names == ("heat", "level")
    assert read(years).names == ("when", "heat", "level")
    clock = written(tmp_path / "clock.csv", ["23:58", "23:59", "00:00", "00:01"])
    assert read(clock).times == Times()


def dated(file, dates):
    file.write_text("\n".join(["date,x", *(f"{date},{k}" for k, date in enumerate(dates))]) + "\n")
    return file


class TestDayOrMonthFirst:
    @pytest.mark.parametrize("months", [6, 12, 40])
    @pytest.mark.parametrize("format", ["%d/%m/%Y", "%m/%d/%Y", "%d.%m.%Y", "%d-%m-%Y %H:%M"])
    def test_first_days_of_months(self, tmp_path, caplog, months, format):
        """Until the year ends, 01/01/2020, 01/02/2020 run forwards as days of January too."""
        times = pd.date_range("2020-01-01", periods=months, freq="MS")
        with caplog.at_level(logging.WARNING):
            table = read(dated(tmp_path / "a.csv", times.strftime(format)))
        assert table.times.frequency == "MS"
        assert table.times.index.equals(times)
        doubtful = months <= 12 and "." not in format
        assert ("may come first" in caplog.text) == doubtful
        if doubtful:
            assert f"line {months + 1}, column 'date'" in caplog.text
            assert f"Taken is the {'day' if format.startswith('%d') else 'month'}" in caplog.text

    def test_dots_have_the_day_first(self, tmp_path):
        """April 2020 is missing; as days, the dates would have a distance of their own."""
        dates = ["01.01.2020", "01.03.2020", "01.05.2020", "01.07.2020"]
        assert read(dated(tmp_path / "a.csv", dates)).times.index.month.tolist() == [1, 3, 5, 7]
        dates = [f"{day:02d}.02.2020 12:00" for day in range(1, 10)]
        assert read(dated(tmp_path / "b.csv", dates)).times.frequency == "D"

    def test_a_year_in_front_leaves_no_doubt(self, tmp_path, caplog):
        with caplog.at_level(logging.WARNING):
            table = read(dated(tmp_path / "a.csv", [f"2020-01-{day:02d}" for day in range(1, 10)]))
        assert table.times.frequency == "D"
        assert "may come first" not in caplog.text
        with pytest.raises(ValueError, match="run backwards"):  # as the days 5 March, 4 April they would not
            read(dated(tmp_path / "b.csv", ["2020-03-05", "2020-02-06", "2020-01-07"]))

    def test_hours_of_a_doubtful_day(self, tmp_path, caplog):
        with caplog.at_level(logging.WARNING):
            table = read(dated(tmp_path / "a.csv", [f"02/03/2020 {hour:02d}:00" for hour in range(9)]))
        assert (table.times.frequency, table.times.index[0].month) == ("h", 2)
        assert "Taken is the month" in caplog.text


def test_irregular_times_do_not_cost_a_look_at_each_row(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    times = pd.Timestamp("2024-01-01") + pd.to_timedelta(np.cumsum(rng.integers(1, 99, 3000)), unit="min")
    file = written(tmp_path / "a.csv", times)
    looks = []
    monkeypatch.setattr(module, "frequency_of", lambda index: looks.append(len(index)))
    assert read(file).times.frequency is None
    assert len(looks) <= 102


JUMPS = {
    "a lost day": pd.date_range("2024-01-01", periods=30, freq="D").delete(12),
    "a lost month": pd.date_range("2024-01-01", periods=30, freq="MS").delete(12),
    "a holiday": pd.date_range("2024-01-01", periods=30, freq="B").delete(12),
}


@pytest.mark.parametrize("case", JUMPS)
def test_a_jump_is_refused_where_the_column_was_asked_for(tmp_path, case, caplog):
    times = JUMPS[case]
    file = written(tmp_path / "a.csv", times)
    where = rf"a\.csv, line 14, column 'when': the times jump from {times[11].date()} to {times[12].date()}"
    with pytest.raises(ValueError, match=where):
        read(file, time="when")
    with caplog.at_level(logging.WARNING):
        assert read(file).times.frequency is None
    assert "the times jump" in caplog.text


def test_numbers_that_jump(tmp_path):
    file = written(tmp_path / "a.csv", [1.0, 2.0, 3.0, 5.0, 6.0])
    with pytest.raises(
        ValueError, match=r"line 5, column 'when': the times jump from 3.0 to 5.0, where other rows are 1"
    ):
        read(file, time="when")


@pytest.mark.parametrize("options", [{}, {"time": "when"}, {"columns": ["level"]}], ids=str)
@pytest.mark.parametrize(
    ("order", "message"),
    [
        ([0, 1, 2, 2, 3], r"line 5, column 'when': the time 2024-01-03 is there twice"),
        ([0, 1, 3, 2, 4], r"line 5, column 'when': the times run backwards, from 2024-01-04 to 2024-01-03"),
        ([4, 3, 2, 1, 0], r"line 3, column 'when': the times run backwards"),
    ],
)
def test_times_that_run_backwards_or_repeat(tmp_path, options, order, message):
    times = pd.date_range("2024-01-01", periods=5, freq="D")[order]
    with pytest.raises(ValueError, match=message):
        read(written(tmp_path / "a.csv", times), **options)


class TestOtherDates:
    """Of a sensor's calibration, not of the rows."""

    TEXT = "temp,calibrated\n20.5,2024-03-31\n20.7,2024-03-31\n20.9,2024-03-31\n"

    @pytest.mark.parametrize("options", [{}, {"columns": ["temp"]}], ids=str)
    def test_they_are_not_the_times(self, tmp_path, caplog, options):
        (tmp_path / "a.csv").write_text(self.TEXT)
        with caplog.at_level(logging.WARNING):
            table = read(tmp_path / "a.csv", **options)
        assert (table.names, table.times) == (("temp",), Times())
        np.testing.assert_array_equal(table.values[:, 0], [20.5, 20.7, 20.9])
        assert "a.csv, line 3, column 'calibrated': the time 2024-03-31 is there twice" in caplog.text
        assert "is not taken for the times" in caplog.text

    def test_the_times_are_found_behind_them(self, tmp_path):
        rows = [f"{k},2024-03-31,2024-04-0{k + 1}" for k in range(5)]
        (tmp_path / "a.csv").write_text("\n".join(["temp,calibrated,measured", *rows]))
        assert read(tmp_path / "a.csv").times.frequency == "D"

    @pytest.mark.parametrize("text", [TEXT.replace("calibrated", "date"), "when,temp\n2024-03-31,1\n2024-03-31,2\n"])
    def test_a_name_or_the_first_place_makes_them_times(self, tmp_path, text):
        (tmp_path / "a.csv").write_text(text)
        with pytest.raises(ValueError, match="is there twice"):
            read(tmp_path / "a.csv")

    def test_asked_for_they_are_refused(self, tmp_path):
        (tmp_path / "a.csv").write_text(self.TEXT)
        with pytest.raises(ValueError, match="is there twice"):
            read(tmp_path / "a.csv", time="calibrated")


def test_what_is_no_time(tmp_path):
    file = written(tmp_path / "a.csv", ["early", "late", "later"])
    with pytest.raises(ValueError, match=r"line 2, column 'when': 'early' and the rows below cannot be read as times"):
        read(file, time="when")
    with pytest.raises(ValueError, match=r"No column day in .*a\.csv; it has when, heat, level"):
        read(file, time="day")


class TestKept:
    def test_with_the_data(self, tmp_path):
        for k in range(3):
            written(tmp_path / f"{k}.csv", pd.date_range(f"202{k}-01-01", periods=20, freq="W"))
        for splits in (load(tmp_path).parts, from_csv_folder(tmp_path), from_csv_folder(tmp_path, time="when")):
            assert [part.labels.frequency for part in splits] == ["W-SUN"] * 3
        written(tmp_path / "3.csv", pd.date_range("2024-01-01", periods=20, freq="D"))
        assert load(tmp_path).train.labels.frequency is None
        driven = from_csv_folder(tmp_path, columns=["heat"], input_columns=["level"])
        assert driven.train.labels == Labels(("heat",), ("level",))

    def test_numpy_files_have_none(self, tmp_path):
        np.save(tmp_path / "a.npy", np.zeros((4, 20, 1)))
        with pytest.raises(ValueError, match="only CSV files have columns with names"):
            load(tmp_path / "a.npy", time="when")
        with pytest.raises(TypeError, match="time"):
            load("pendulum", time="when")
