"""Files of results: what is there is not computed again, and what is kept in the project can be read and written."""

import importlib
import json
import pkgutil
import re
import threading

import pytest

from dvae_lib.experiments import RecordError, studies
from dvae_lib.experiments.records import write_lines
from dvae_lib.experiments.results import ResultFile, Task, complete
from dvae_lib.experiments.studies import chorales, enhancement, inference, speakers, speech
from dvae_lib.locks import CAN_LOCK, lock
from dvae_lib.resources import resource_path

KEYS = {
    "chorales": chorales.KEY,
    "enhancement": enhancement.KEY,
    "inference": inference.KEY,
    "speakers": speakers.KEY,
    "speech": speech.KEY,
}


def task(model, computed, values=(1.0,)):
    keys = [{"model": model, "seed": i} for i in range(len(values))]

    def compute():
        computed.append(model)
        return [{**key, "vlb": value} for key, value in zip(keys, values, strict=True)]

    return Task(keys, compute)


def values(file):
    return [(r["model"], r["seed"], r["vlb"]) for r in file.records]


def test_what_is_there_is_not_computed_again(tmp_path):
    computed, said = [], []
    tasks = [task("b", computed, (1.0, 2.0)), task("a", computed)]
    file = ResultFile(tmp_path / "new/results.json", ("model", "seed"))
    new = complete(file, tasks, say=said.append)
    assert values(file) == [("b", 0, 1.0), ("b", 1, 2.0), ("a", 0, 1.0)]
    assert [json.loads(line)["model"] for line in said] == ["b", "b", "a"]
    assert all({"dvae_lib", "machine"} <= record.keys() for record in new)
    later = ResultFile(file.path, ("model", "seed"))
    assert later.records == file.records
    assert complete(later, [*tasks, task("c", computed)], say=said.append) == later.records[-1:]
    assert computed == ["b", "a", "c"]
    complete(later, [task("b", computed, (5.0,))], again=True, say=said.append)
    assert values(later)[:2] == [("b", 0, 5.0), ("b", 1, 2.0)]  # in its place


def test_an_interruption_loses_only_what_was_at_work(tmp_path):
    computed = []

    def interrupt():
        raise KeyboardInterrupt

    file = ResultFile(tmp_path / "results.json", ("model", "seed"))
    with pytest.raises(KeyboardInterrupt):
        complete(file, [task("a", computed), Task([{"model": "b", "seed": 0}], interrupt)], say=computed.append)
    computed.clear()
    again = ResultFile(tmp_path / "results.json", ("model", "seed"))
    complete(again, [task("a", computed), task("b", computed)], say=lambda line: None)
    assert computed == ["b"]
    assert values(again) == [("a", 0, 1.0), ("b", 0, 1.0)]


def test_two_processes_write_to_one_file(tmp_path):
    one, other = (ResultFile(tmp_path / "r.json", ("name",)) for _ in range(2))
    one.add([{"name": "a", "value": 1}])
    other.add([{"name": "b", "value": 2}])
    one.add([{"name": "c", "value": 3}])
    assert [record["name"] for record in ResultFile(tmp_path / "r.json", ("name",)).records] == ["a", "b", "c"]
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]


@pytest.mark.skipif(not CAN_LOCK, reason="this platform locks no files")
def test_who_adds_waits_for_the_one_who_does(tmp_path):
    file = ResultFile(tmp_path / "r.json", ("name",))
    with lock(tmp_path / "r.lock", wait=True):
        adding = threading.Thread(target=file.add, args=([{"name": "a"}],))
        adding.start()
        adding.join(0.2)
        assert adding.is_alive()
        assert not file.path.exists()
    adding.join()
    assert file.path.exists()


def test_what_another_process_does_or_has_done_is_left_to_it(tmp_path):
    file, other = (ResultFile(tmp_path / "r.json", ("name",)) for _ in range(2))
    done, said = [], []

    def busy():
        other.add([{"name": "b"}])  # meanwhile the other one ends what comes next
        raise BlockingIOError("Another process is training in a")

    def compute():
        done.append("here")
        return [{"name": "c"}]

    tasks = [Task([{"name": "a"}], busy), Task([{"name": "b"}], compute), Task([{"name": "c"}], compute)]
    assert [record["name"] for record in complete(file, tasks, say=said.append)] == ["c"]
    assert done == ["here"]
    assert said[0] == "Another process is training in a"
    assert [record["name"] for record in file.records] == ["b", "c"]


def test_an_ordered_file_is_ordered_by_its_keys(tmp_path):
    file = ResultFile(tmp_path / "results.json", ("model", "seed"), ordered=True)
    file.add([{"model": "b", "seed": 10}, {"model": "b", "seed": 9}, {"model": "a", "seed": 3}])
    assert [(r["model"], r["seed"]) for r in file.records] == [("a", 3), ("b", 9), ("b", 10)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[{", "is damaged, or no JSON"),
        ("{}", "expected a list of records with model, seed"),
        ('[{"model": 1}]', "is no"),
    ],
)
def test_something_else_is_refused(text, message, tmp_path):
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(RecordError, match=message):
        ResultFile(tmp_path / "results.json", ("model", "seed"))


@pytest.mark.parametrize("name", KEYS)
def test_results_that_are_kept_are_read_and_would_be_written_the_same(name, tmp_path):
    path = resource_path("results", f"{name}.json")
    file = ResultFile(path, KEYS[name], ordered=name in ("chorales", "speech"))
    assert len({tuple(record[k] for k in KEYS[name]) for record in file.records}) == len(file.records) > 10
    write_lines(tmp_path / "again.json", file.records)
    assert (tmp_path / "again.json").read_bytes() == path.read_bytes()
    again = ResultFile(tmp_path / "again.json", KEYS[name], ordered=file.ordered)
    again.add(file.records[:1])
    assert again.records == file.records  # in the same order


def table_of_results():
    """The rows of data/README.md that say which command makes which file."""
    text = resource_path("README.md").read_text(encoding="utf-8")
    rows = text[text.index("## `results/`") :].splitlines()
    for row in rows:
        cells = row.split("|")
        if len(cells) > 3 and ".json`" in cells[1]:
            yield re.findall(r"`([\w-]+\.json)`", cells[1]), re.findall(r"`([^`]+)`", cells[2])


def test_every_file_of_results_has_a_command_that_makes_it():
    commands = {file: said for files, said in table_of_results() for file in files}
    assert set(commands) == {path.name for path in resource_path("results").iterdir()}
    for file, said in commands.items():
        assert said, file
        for command in said:
            program, *rest = command.split()
            if program == "python":
                module = importlib.import_module(rest[rest.index("-m") + 1])
                with pytest.raises(SystemExit, match="0"):
                    module.main(["--help"])
                assert any(file.split("-")[0] in line for line in module.__doc__.splitlines()), command
            else:
                assert (program, rest[0]) == ("dvae", "benchmark")


def test_every_study_makes_a_file_of_results():
    text = resource_path("README.md").read_text(encoding="utf-8")
    said = text[text.index("## `results/`") :]  # beside the table it names those whose file is still to be made
    for module in pkgutil.iter_modules(studies.__path__):
        if module.name != "command":
            assert f"-m dvae_lib.experiments.studies.{module.name}" in said
