"""What a model knows of the tables it was trained on: their columns, in order, and the rhythm of their times."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from dvae_lib import DVAE, SRNN, build_model
from dvae_lib.data import SequenceDataset, from_arrays, load
from dvae_lib.data.labels import Labels, frequency_of
from dvae_lib.series import TrainedModel
from dvae_lib.training import TrainingConfig, fit

QUICK = TrainingConfig(max_epochs=1)


def sensors(rows=40, start="2020-01-01", freq="D", columns=("heat", "level")):
    values = np.random.default_rng(0).normal(size=(rows, len(columns)))
    return pd.DataFrame(values, pd.date_range(start, periods=rows, freq=freq), columns=list(columns))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A saved model that was trained on a DataFrame of days."""
    torch.manual_seed(0)
    train, validation = from_arrays([sensors()], split="time", fractions=(0.8, 0.2))
    folder = tmp_path_factory.mktemp("trained")
    fit(SRNN(x_dim=2, z_dim=1, h_dim=4, g_dim=4), train, validation, QUICK).best_model.save_pretrained(folder)
    return folder


@pytest.fixture
def trained(folder):
    return TrainedModel.from_pretrained(folder)


class TestTheSavedModelAlone:
    def test_knows_them(self, trained):
        assert trained.columns == ("heat", "level")
        assert trained.frequency == "D"

    def test_names_what_it_says_of_an_array(self, trained):
        found = trained.forecast(sensors().to_numpy(), 3, quantiles=(0.5,), num_samples=5)
        frame = found.to_frame()
        assert list(frame.columns) == ["heat", "level", "heat q0.5", "level q0.5"]
        assert list(frame.index) == [40, 41, 42]
        np.testing.assert_array_equal(frame[["heat", "level"]], found.mean)
        np.testing.assert_array_equal(frame["level q0.5"], found.quantiles[0.5][:, 1])

    def test_and_of_a_table(self, trained):
        gappy = sensors()
        gappy.iloc[3, 1] = np.nan
        frame = trained.impute(gappy, quantiles=(0.1,), num_samples=5).to_frame()
        assert list(frame.columns) == ["heat", "level", "heat q0.1", "level q0.1"]
        assert frame.index.equals(gappy.index)

    def test_a_table_without_names_is_an_array(self, trained):
        plain = pd.DataFrame(sensors().to_numpy())
        found = trained.score(plain, num_particles=5)
        np.testing.assert_array_equal(found, trained.score(sensors().to_numpy(), num_particles=5))

    def test_goes_on_from_two_rows(self, trained):
        last = sensors().iloc[-2:]
        last.index.freq = None
        assert trained.forecast(last, 2, num_samples=5).mean.index[-1] == last.index[-1] + pd.Timedelta(days=2)


CALLS = {
    "forecast": lambda m, x: m.forecast(x, 2, num_samples=3),
    "impute": lambda m, x: m.impute(x, num_samples=3),
    "score": lambda m, x: m.score(x, num_particles=3),
    "encode": lambda m, x: m.encode(x),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
class TestWrongTables:
    def test_permuted_columns(self, trained, call):
        with pytest.raises(
            ValueError, match=r"column 0 of x is 'level', but was 'heat' in training: take .*\['heat', 'level'\]"
        ):
            call(trained, sensors()[["level", "heat"]])

    def test_a_column_too_few_or_other(self, trained, call):
        with pytest.raises(ValueError, match="x has no column 'level', as in training; it has heat, flow"):
            call(trained, sensors().rename(columns={"level": "flow"}))

    def test_a_column_too_many(self, trained, call):
        with pytest.raises(ValueError, match="x has a column 'flow', which the training had not"):
            call(trained, sensors().assign(flow=0.0))

    def test_columns_of_one_name(self, trained, call):
        with pytest.raises(ValueError, match="more than one column is called 'heat'"):
            call(trained, sensors(columns=("heat", "heat")))

    def test_another_rhythm(self, trained, call):
        with pytest.raises(ValueError, match="one row every 'D', and x has one every 'h'"):
            call(trained, sensors(freq="h"))

    def test_a_row_that_is_missing(self, trained, call):
        holed = sensors().drop(pd.Timestamp("2020-01-06"))
        with pytest.raises(ValueError, match=r"none after 2020-01-05.* but at 2020-01-07.*asfreq\('D'\)"):
            call(trained, holed)


@pytest.mark.parametrize(
    ("index", "frequency"),
    [
        (pd.date_range("2000-01-01", periods=8, freq="MS"), "ME"),  # months by their ends
        (pd.date_range("2000-01-01", periods=8, freq="QS"), "QS-NOV"),  # other quarters
        (pd.period_range("2000-01", periods=8, freq="M"), "MS"),
        (pd.date_range("2000-01-03", periods=8, freq="W-MON"), "W-SUN"),
        (pd.date_range("2000-01-05", periods=8, freq="B"), "B"),
        (pd.date_range("2000-03-25", periods=80, freq="h", tz="Europe/Paris"), "h"),
        (pd.date_range("2000-01-01", periods=1), "MS"),
    ],
)
def test_one_rhythm_in_other_words(trained, index, frequency):
    trained.model.metadata["table"]["frequency"] = frequency
    frame = pd.DataFrame(np.zeros((len(index), 2)), index, columns=["heat", "level"])
    assert trained.score(frame, num_particles=2).index.equals(index)


@pytest.mark.parametrize(
    ("index", "frequency"),
    [
        (pd.RangeIndex(5), None),
        (pd.to_timedelta([0, 1, 2], unit="s"), None),
        (pd.DatetimeIndex(["2000-01-03", "2000-01-04", "2000-02-09"]), None),
        (pd.DatetimeIndex(["2000-01-03", "2000-01-04"]), None),
        (pd.period_range("2000-01-03", periods=1, freq="D"), "D"),
        (pd.DatetimeIndex(["2000-01-03", "2000-01-04", "2000-01-05"]), "D"),
        (np.arange(3), None),
    ],
    ids=str,
)
def test_which_times_have_a_rhythm(index, frequency):
    assert frequency_of(index) == frequency


class TestData:
    def test_tables_of_one_collection_have_the_same_columns_in_the_same_order(self):
        with pytest.raises(
            ValueError, match=r"column 0 of Sequence b is 'level', but was 'heat'.*columns of sequence a"
        ):
            SequenceDataset([sensors(), sensors()[["level", "heat"]]], names=["a", "b"])
        with pytest.raises(ValueError, match="no column 'level'"):
            from_arrays([sensors()] * 3 + [sensors(columns=("heat", "flow"))])
        with pytest.raises(ValueError, match="column 0 of Input of sequence 1 is 'level'"):
            SequenceDataset([sensors()] * 2, [sensors(), sensors()[["level", "heat"]]])

    def test_they_survive_selecting_and_moving(self):
        data = SequenceDataset([sensors(), sensors()], [sensors(columns=("valve",))] * 2)
        for same in (data, data.select([1]), data.to("cpu")):
            assert same.labels == Labels(("heat", "level"), ("valve",), "D")

    def test_arrays_and_numbered_columns_have_none(self):
        for table in (sensors().to_numpy(), pd.DataFrame(sensors().to_numpy())):
            assert SequenceDataset([table]).labels == Labels()
        assert SequenceDataset([sensors(), sensors(freq="h")]).labels.frequency is None

    def test_csv_files(self, tmp_path):
        for k in range(3):
            sensors(columns=("heat", "level") if k else ("level", "heat")).to_csv(tmp_path / f"{k}.csv")
        assert all(part.labels.columns == ("level", "heat") for part in load(tmp_path).parts)

    def test_csv_files_without_names(self, tmp_path):
        for k in range(3):
            sensors().to_csv(tmp_path / f"{k}.csv", header=False, index=False)
        assert load(tmp_path).train.labels.columns is None


class TestTraining:
    def test_a_driven_model_knows_its_inputs(self, tmp_path):
        data = SequenceDataset([sensors()], [sensors(columns=("valve",))])
        fit(build_model("rssm", x_dim=2, z_dim=1, u_dim=1), data, data, QUICK, folder=tmp_path)
        trained = TrainedModel.from_pretrained(tmp_path)
        assert trained.input_columns == ("valve",)
        wrong = sensors(42, columns=("pump",))
        with pytest.raises(ValueError, match="inputs has no column 'valve'"):
            trained.forecast(sensors(), 2, inputs=wrong, num_samples=3)

    def test_going_on_needs_the_same_columns(self, folder):
        model = DVAE.from_pretrained(folder)
        other = SequenceDataset([sensors()[["level", "heat"]]])
        with pytest.raises(ValueError, match=r"Column 0 of the train part is 'level', but was 'heat' in training"):
            fit(model, other, other, QUICK)

    def test_so_does_validation(self):
        model = SRNN(x_dim=2, z_dim=1, h_dim=4, g_dim=4)
        with pytest.raises(ValueError, match="The validation part has no column 'heat'"):
            fit(model, SequenceDataset([sensors()]), SequenceDataset([sensors(columns=("a", "level"))]), QUICK)

    def test_of_arrays_a_model_keeps_what_it_knew(self, folder):
        data = SequenceDataset([sensors().to_numpy()])
        model = fit(DVAE.from_pretrained(folder), data, data, QUICK).best_model
        assert model.metadata["table"] == {"columns": ["heat", "level"], "frequency": "D"}
        assert Path(folder, "config.json").read_text().count('"table"') == 1


class TestDates:
    @pytest.mark.parametrize(("order", "what"), [([2, 1, 0], "run backwards"), ([0, 0, 1], "repeat")])
    def test_they_run_forwards(self, order, what):
        table = sensors(3).iloc[order]
        for wrong in (table, table.set_axis(table.index.to_period("D"))):
            with pytest.raises(ValueError, match=f"Sequence 1: its dates {what} at frame 1, .*sort_index"):
                SequenceDataset([sensors(3), wrong])

    def test_a_model_reads_them_forwards(self, folder):
        with pytest.raises(ValueError, match=r"run backwards|one every '-1D'"):
            TrainedModel.from_pretrained(folder).encode(sensors()[::-1])

    def test_those_of_inputs_are_those_of_the_data(self):
        drive = sensors(columns=("u",))
        train, *_ = from_arrays([sensors()], [drive], split="time")
        assert train.u_dim == 1
        late = sensors(start="2020-01-02", columns=("u",))
        with pytest.raises(ValueError, match=r"frame 0 of sequence 0 is of 2020-01-01.*its input of 2020-01-02"):
            from_arrays([sensors()], [late], split="time")
        driven = TrainedModel(build_model("rssm", x_dim=2, z_dim=1, u_dim=1))
        past, ahead = sensors(), sensors(43, columns=("u",))
        driven.forecast(past, 3, inputs=ahead, num_samples=2)
        driven.forecast(past, 3, inputs=ahead.to_numpy(), num_samples=2)
        with pytest.raises(ValueError, match=r"frame 0 of x is of 2020-01-01.*its input of 2020-01-02"):
            driven.forecast(past, 3, inputs=sensors(43, start="2020-01-02", columns=("u",)), num_samples=2)
