"""Result files: what was written comes back, and what is none of this version is refused with what to do."""

import json

import pytest

from dvae_lib.experiments import RecordError, collect, read_records, write_records
from dvae_lib.experiments.records import RECORD_FORMAT
from dvae_lib.resources import resource_path


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_records_come_back_as_they_were_and_in_order(record, tmp_path):
    records = [
        record("vae", 1, corpus="b"),
        record("srnn", 10, corpus="b"),
        record("srnn", 0, scheduled=True, corpus="b"),
        record("srnn", 2, corpus="b"),
        record("vae", 0, corpus="a", status="diverged", error="epoch 3"),
    ]
    write_records(tmp_path / "all.json", records)
    found = read_records(tmp_path / "all.json")
    assert found == [records[i] for i in (4, 3, 1, 2, 0)]
    text = (tmp_path / "all.json").read_text()
    assert len(text.splitlines()) == len(records) + 2  # a line for each, so that a change is one of one line
    write_records(tmp_path / "again.json", iter(found[::-1]))
    assert (tmp_path / "again.json").read_text() == text
    assert not list(tmp_path.glob("*.partial"))


def test_no_record_is_an_empty_list(tmp_path):
    write_records(tmp_path / "none.json", [])
    assert read_records(tmp_path / "none.json") == []


def test_one_record_may_stand_by_itself(record, tmp_path):
    assert read_records(str(put(tmp_path / "one.json", record()))) == [record()]


def test_a_full_disk_leaves_the_old_file(record, tmp_path, monkeypatch):
    path = tmp_path / "all.json"
    write_records(path, [record()])

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_records(path, [record("dkf"), record()])
    assert read_records(path) == [record()]


def test_another_version_is_named_and_what_to_do(record, tmp_path):
    path = put(tmp_path / "old.json", [record(), record(seed=1, format=RECORD_FORMAT + 1, dvae_lib="9.0.0")])
    with pytest.raises(RecordError, match=r"old\.json has format 2 \(dvae_lib 9\.0\.0\).* reads format 1.* delete it"):
        read_records(path)
    bare = put(tmp_path / "bare.json", {"format": 0})
    with pytest.raises(RecordError, match=r"format 0 \(dvae_lib of unknown version\)"):
        read_records(bare)


@pytest.mark.parametrize("content", [{}, {"corpus": "voices"}, [[]], ["text"], 7, "null", [None]])
def test_other_json_is_no_result(content, tmp_path):
    path = put(tmp_path / "other.json", content)
    with pytest.raises(RecordError, match=r"other\.json is no result of the benchmark: expected a JSON object"):
        read_records(path)


@pytest.mark.parametrize("content", ["", "{", '[{"format": 1,', "\x00\x01"])
def test_what_is_no_json_is_damaged(content, tmp_path):
    with pytest.raises(RecordError, match=r"r\.json is damaged, or no JSON .*Delete it and run the benchmark again"):
        read_records(put(tmp_path / "r.json", content))
    (tmp_path / "b.json").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(RecordError, match=r"b\.json is damaged"):
        read_records(tmp_path / "b.json")


@pytest.mark.parametrize(
    "name",
    ["corpus", "experiment", "model", "scheduled", "seed", "budget", "config", "data", "status"],
)
def test_a_record_without_what_every_record_has_is_damaged(record, name, tmp_path):
    for status in ("done", "diverged"):
        lacking = record(status=status)
        del lacking[name]
        with pytest.raises(RecordError, match=rf"r\.json is damaged: it lacks {name}\. Delete it and run"):
            read_records(put(tmp_path / "r.json", lacking))


@pytest.mark.parametrize("name", ["weights", "training", "test"])
def test_a_result_without_its_results_is_damaged(record, name, tmp_path):
    lacking = record()
    del lacking[name]
    with pytest.raises(RecordError, match=rf"it lacks {name}\."):
        read_records(put(tmp_path / "r.json", lacking))
    assert read_records(put(tmp_path / "r.json", {**lacking, "status": "diverged"}))


def test_a_missing_file_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_records(tmp_path / "nowhere.json")


def test_collect_goes_on_past_what_it_cannot_read(record, tmp_path):
    root = tmp_path / "runs"
    put(root / "voices/vae/seed-0/record.json", record())
    put(root / "voices/dkf/seed-0/record.json", "{")
    put(root / "voices/srnn/seed-0/record.json", record("srnn", format=7))
    put(root / "voices/storn/seed-0/record.json", [record("storn")])
    put(root / "voices/storn/seed-0/trained.json", {"config": {}})
    put(root / "notes.json", "{")
    put(tmp_path / "more.json", [record("vae", 1), record("vae", 2)])
    records, problems = collect([root, str(tmp_path / "more.json")])
    assert [(r["model"], r["seed"]) for r in records] == [("storn", 0), ("vae", 0), ("vae", 1), ("vae", 2)]
    assert len(problems) == 2
    assert all("record.json" in problem for problem in problems)
    assert "dkf" in problems[0]
    assert "format 7" in problems[1]
    put(tmp_path / "bad.json", [record("vae", 3), {}])  # all of a file, or nothing of it
    records, problems = collect([tmp_path / "bad.json"])
    assert records == []
    assert "bad.json" in problems[0]


def test_collect_takes_each_run_once_and_the_last_one_given(record, tmp_path):
    old, new = record(weights=1), record(weights=2)
    apart = [record(scheduled=True), record(budget="full"), record(corpus="other"), record("dkf"), record(seed=1)]
    put(tmp_path / "old.json", [old, *apart])
    put(tmp_path / "new.json", [new])
    for places, weights in ((["old.json", "new.json"], 2), (["new.json", "old.json"], 1)):
        records, problems = collect([tmp_path / place for place in places])
        assert len(records) == 6
        assert problems == []
        kept = [r for r in records if r not in apart]
        assert [r["weights"] for r in kept] == [weights]


def test_collect_refuses_a_place_that_does_not_exist(tmp_path):
    assert collect([]) == ([], [])
    assert collect([tmp_path]) == ([], [])
    with pytest.raises(FileNotFoundError, match=r"no file or folder .*nowhere"):
        collect([tmp_path, tmp_path / "nowhere"])


@pytest.mark.parametrize("path", sorted(resource_path("results").glob("benchmark-*.json")), ids=lambda p: p.stem)
def test_the_results_that_travel_with_the_library_are_of_this_version(path, tmp_path):
    records = read_records(path)
    assert records
    assert {path.name} == {f"benchmark-{r['corpus']}.json" for r in records}
    assert len({(r["model"], r["scheduled"], r["seed"]) for r in records}) == len(records)
    write_records(tmp_path / "copy.json", records)
    assert (tmp_path / "copy.json").read_text() == path.read_text()
