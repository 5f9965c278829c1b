"""CSV files of many writers, against the numbers that were written."""

import logging

import numpy as np
import pytest

from dvae_lib.data import from_csv_folder
from dvae_lib.data.tables import read_csv_folder

WALK = np.random.default_rng(0).normal(size=(20, 3))


def written(folder, *texts, encoding="utf-8"):
    for number, text in enumerate(texts):
        (folder / f"{number}.csv").write_bytes(text.encode(encoding))
    return folder


def lines(rows, separator=",", decimal="."):
    return "".join(separator.join(str(v).replace(".", decimal) for v in row) + "\n" for row in rows)


@pytest.fixture
def pandas():
    return pytest.importorskip("pandas")


class TestPandas:
    def test_default_names_are_names(self, tmp_path, pandas):
        pandas.DataFrame(WALK).to_csv(tmp_path / "a.csv", index=False)
        (table,) = read_csv_folder(tmp_path)
        np.testing.assert_allclose(table.values, WALK)

    @pytest.mark.parametrize("names", [list("xyz"), None])
    def test_the_index_is_left_out(self, tmp_path, pandas, caplog, names):
        frame = pandas.DataFrame(WALK, columns=names)
        frame.to_csv(tmp_path / "a.csv")
        frame[5:].to_csv(tmp_path / "b.csv")
        with caplog.at_level(logging.WARNING):
            tables = read_csv_folder(tmp_path)
        np.testing.assert_allclose(tables[0].values, WALK)
        np.testing.assert_allclose(tables[1].values, WALK[5:])
        assert "'(unnamed)' is left out" in caplog.text

    def test_whole_numbers_below_whole_names_stay(self, tmp_path, pandas):
        # The first line may be a frame: nothing tells.
        pandas.DataFrame(np.arange(12).reshape(4, 3)).to_csv(tmp_path / "a.csv", index=False)
        assert read_csv_folder(tmp_path)[0].values.shape == (5, 3)
        assert read_csv_folder(tmp_path, header=True)[0].values.shape == (4, 3)

    def test_an_empty_first_row_is_a_row(self, tmp_path, pandas):
        pandas.DataFrame(WALK).diff().to_csv(tmp_path / "a.csv", index=False, header=False)
        with pytest.raises(ValueError, match=r"a\.csv, line 1, column '0': the value is missing"):
            read_csv_folder(tmp_path)

    def test_dates(self, tmp_path, pandas, caplog):
        when = pandas.date_range("2024", periods=20, freq="90min", tz="UTC")
        pandas.DataFrame({"when": when, "x": WALK[:, 0]}).to_csv(tmp_path / "a.csv", index=False)
        with caplog.at_level(logging.WARNING):
            (table,) = read_csv_folder(tmp_path)
        np.testing.assert_allclose(table.values, WALK[:, :1])
        assert "column 'when' is left out: it holds time stamps" in caplog.text
        np.testing.assert_allclose(read_csv_folder(tmp_path, columns=["x"])[0].values, WALK[:, :1])
        with pytest.raises(ValueError, match="expected a number, found the time '2024"):
            read_csv_folder(tmp_path, columns=["when"])


class TestColumns:
    def test_by_name_whatever_their_order(self, tmp_path):
        written(tmp_path, "temp,flow,force\n1,2,3\n4,5,6\n", "force,temp,flow\n3,1,2\n6,4,5\n")
        for wanted in (None, ["temp", "flow", "force"]):
            first, second = read_csv_folder(tmp_path, columns=wanted)
            np.testing.assert_array_equal(first.values, [[1, 2, 3], [4, 5, 6]])
            np.testing.assert_array_equal(second.values, first.values)
        first, second = read_csv_folder(tmp_path, columns=["force", "temp"], input_columns=["flow"])
        np.testing.assert_array_equal(second.values, [[3, 1], [6, 4]])
        np.testing.assert_array_equal(second.inputs, [[2], [5]])

    def test_others_need_not_be_numbers_nor_everywhere(self, tmp_path):
        written(tmp_path, "who,temp\nann,1\nben,2\n", "temp,note\n3,\n4,ok\n")
        first, second = read_csv_folder(tmp_path, columns=["temp"])
        assert first.values.tolist() == [[1], [2]]
        assert second.values.tolist() == [[3], [4]]
        with pytest.raises(ValueError, match=r"1\.csv has 2 columns \(temp, note\), but .*0\.csv has 2 \(who, temp\)"):
            read_csv_folder(tmp_path)

    def test_without_names_they_have_numbers(self, tmp_path):
        written(tmp_path, "1,2,3\n4,5,6\n")
        assert read_csv_folder(tmp_path, columns=["2", "0"])[0].values.tolist() == [[3, 1], [6, 4]]
        with pytest.raises(ValueError, match=r"No column 3 in .*0\.csv; it has 0, 1, 2"):
            read_csv_folder(tmp_path, columns=["3"])

    def test_the_time_by_name(self, tmp_path, caplog):
        written(tmp_path, "Time,x\n0.0,5\n0.1,4\n", "Time,x\n0.0,5\n0.1,4\n0.2,7\n")
        with caplog.at_level(logging.WARNING):
            assert read_csv_folder(tmp_path)[1].values.tolist() == [[5], [4], [7]]
        assert "by its name and its increasing numbers" in caplog.text
        assert read_csv_folder(tmp_path, columns=["Time", "x"])[0].values.shape == (2, 2)
        assert read_csv_folder(tmp_path, input_columns=["Time"])[0].inputs.tolist() == [[0.0], [0.1]]
        written(tmp_path, "time,x\n3,5\n1,4\n", "time,x\n1,5\n2,4\n")  # times to finish, not the time
        assert read_csv_folder(tmp_path)[0].values.shape == (2, 2)

    def test_rows_that_are_counted_without_a_name(self, tmp_path, caplog):
        written(tmp_path, "0,1.5\n1,2.5\n2,0.5\n")
        with caplog.at_level(logging.WARNING):
            assert read_csv_folder(tmp_path)[0].values.shape == (3, 2)
        assert "counts the rows from 0" in caplog.text

    def test_two_of_one_name(self, tmp_path):
        written(tmp_path, "x,y,x\n1,2,3\n")
        with pytest.raises(ValueError, match="more than one column x"):
            read_csv_folder(tmp_path)
        assert read_csv_folder(tmp_path, columns=["y"])[0].values.tolist() == [[2]]


class TestDialects:
    @pytest.mark.parametrize("separator", [",", ";", "\t"])
    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
    @pytest.mark.parametrize("names", ["", "temp °C{0}flow{0}force\n"])
    def test_separators_and_encodings(self, tmp_path, separator, encoding, names):
        written(tmp_path, names.format(separator) + lines(WALK, separator), encoding=encoding)
        np.testing.assert_allclose(read_csv_folder(tmp_path)[0].values, WALK)

    @pytest.mark.parametrize("separator", [";", "\t"])
    @pytest.mark.parametrize("names", ["", "a{0}b{0}c\n"])
    def test_a_decimal_comma(self, tmp_path, separator, names):
        written(tmp_path, names.format(separator) + lines(WALK, separator, ","))
        np.testing.assert_allclose(read_csv_folder(tmp_path)[0].values, WALK)
        written(tmp_path, "20,5;0,25\n21;1\n")
        assert read_csv_folder(tmp_path)[0].values.tolist() == [[20.5, 0.25], [21, 1]]
        written(tmp_path, '"20,5","0,25"\n"21","1"\n')
        assert read_csv_folder(tmp_path)[0].values.tolist() == [[20.5, 0.25], [21, 1]]

    def test_a_decimal_comma_in_one_column(self, tmp_path):
        written(tmp_path, "20,5\n21,25\n")  # two columns, as far as anybody can tell
        assert read_csv_folder(tmp_path)[0].values.shape == (2, 2)
        assert read_csv_folder(tmp_path, decimal=",")[0].values.tolist() == [[20.5], [21.25]]
        for text in ("20,5\n21\n", "x\n20,5\n21,25\n"):
            written(tmp_path, text)
            with pytest.raises(ValueError, match=r"0\.csv, line 2: \d fields.*decimal=','"):
                read_csv_folder(tmp_path)
            assert read_csv_folder(tmp_path, decimal=",")[0].values[0, 0] == 20.5
        written(tmp_path, "a;b\n1.5;20,5\n")
        with pytest.raises(ValueError, match=r"column 'b': expected a number, found '20,5'.*decimal=','"):
            read_csv_folder(tmp_path)

    @pytest.mark.parametrize(
        ("text", "cure"),
        [('a,b\n"1,000",2\n"12,345",3\n', "a semicolon between the columns"), ("a\tb\n1,000\t2\n", "decimal=','")],
    )
    def test_what_may_be_a_thousand_is_not_guessed(self, tmp_path, text, cure):
        written(tmp_path, text)
        with pytest.raises(ValueError, match=rf"0\.csv: '1,000' may be a thousand.*{cure} says"):
            read_csv_folder(tmp_path)
        with pytest.raises(ValueError, match=r"found '1,000'.*A thousand is written without"):
            read_csv_folder(tmp_path, decimal=".")

    @pytest.mark.parametrize("text", ['"1,000","0,250"\n', "1,000\t12,3456\n", "1,000;2\n"])
    def test_other_signs_tell_what_a_comma_is(self, tmp_path, text):
        written(tmp_path, text)
        assert read_csv_folder(tmp_path)[0].values[0, 0] == 1

    def test_a_reader_tells_what_a_comma_is(self, tmp_path):
        written(tmp_path, "1,000\t2\n")
        assert read_csv_folder(tmp_path, decimal=",")[0].values.tolist() == [[1, 2]]

    def test_savetxt(self, tmp_path):
        np.savetxt(tmp_path / "a.csv", WALK, delimiter=",", header="x,y,z")
        (table,) = read_csv_folder(tmp_path, columns=["z"])
        np.testing.assert_allclose(table.values, WALK[:, 2:])

    def test_a_separator_at_the_end_of_each_line(self, tmp_path):
        written(tmp_path, "x,y,\n1,2,\n3,4,\n")
        assert read_csv_folder(tmp_path)[0].values.tolist() == [[1, 2], [3, 4]]

    @pytest.mark.parametrize("gap", ["", "NA", "n/a", "NaN", "null", "-"])
    def test_gaps_are_called_missing(self, tmp_path, gap):
        written(tmp_path, f"x,y\n1,2\n3,{gap}\n")
        with pytest.raises(ValueError, match=r"0\.csv, line 3, column 'y': the value is missing"):
            read_csv_folder(tmp_path)
        assert read_csv_folder(tmp_path, columns=["x"])[0].values.tolist() == [[1], [3]]

    def test_first_lines_on_demand(self, tmp_path):
        written(tmp_path, "1,2\n3,4\n")
        assert read_csv_folder(tmp_path, header=True)[0].values.tolist() == [[3, 4]]
        written(tmp_path, "2024-01-01,2\n2024-01-02,4\n")  # a time is no name
        assert read_csv_folder(tmp_path)[0].values.tolist() == [[2], [4]]


def test_subfolders_and_any_case(tmp_path):
    (tmp_path / "day 1").mkdir()
    (tmp_path / ".hidden").mkdir()
    for name in ("a.csv", "B.CSV", "day 1/c.Csv", ".hidden/d.csv", "day 1/.e.csv", "notes.txt"):
        (tmp_path / name).write_text("x,y\n1,2\n")
    names = {table.file.relative_to(tmp_path).as_posix() for table in read_csv_folder(tmp_path)}
    assert names == {"a.csv", "B.CSV", "day 1/c.Csv"}
    train, validation, test = from_csv_folder(tmp_path)
    assert (train.x_dim, len(train) + len(validation) + len(test)) == (2, 3)
    assert len(read_csv_folder(tmp_path, pattern="day*/*.Csv")) == 1
