"""What goes from the runs into the project: a file of results for each corpus, weights, and a card for each."""

import pytest

from dvae_lib.experiments import Job, Run, read_records, run_one
from dvae_lib.experiments.publish import main, publish, weights_name
from dvae_lib.models import DVAE
from dvae_lib.resources import resource_path


@pytest.fixture
def runs(walks, tiny, tmp_path):
    """A folder with three runs."""
    for run in (Run("vae", False, 0), Run("vae", False, 1), Run("storn", False, 0), Run("storn", True, 0)):
        run_one(Job(run, walks(), tiny()), tmp_path / "runs", num_workers=0, progress=False)
    return tmp_path / "runs"


def test_results_weights_and_cards_are_published(runs, tmp_path):
    said = []
    assert publish(runs, tmp_path / "data", budget="ci", say=said.append) == []
    records = read_records(tmp_path / "data/results/benchmark-walks.json")
    assert [(r["model"], r["scheduled"], r["seed"]) for r in records] == [
        ("storn", False, 0),
        ("storn", True, 0),
        ("vae", False, 0),
        ("vae", False, 1),
    ]
    names = {"vae-walks", "storn-walks", "storn-walks-scheduled"}
    assert {folder.name for folder in (tmp_path / "data/pretrained").iterdir()} == names
    assert set(said) == {"benchmark-walks.json: 4 runs", *names}
    card = (tmp_path / "data/pretrained/storn-walks-scheduled/README.md").read_text()
    record = records[1]
    for text in (
        "# storn-walks-scheduled",
        "STORN, trained with teacher forcing, then with scheduled sampling until it hears only itself (Section 13.3.3)",
        f", seed 0. {record['weights']:,} weights",
        'DVAE.from_pretrained("storn-walks-scheduled")',
        "*Data.* nobody (none). Training 48 frames, validation\n24, test 40;",
        "`dvae benchmark --budget ci`: 5 epochs",
        "| STORN-GM† |",
    ):
        assert text in card
    kept = DVAE.from_pretrained(tmp_path / "data/pretrained/vae-walks")
    assert kept.metadata["seed"] == 0


def test_runs_of_another_budget_stay_and_what_is_damaged_is_said(runs, tmp_path, capsys):
    (runs / "walks/vae/seed-1/record.json").write_text("{")
    assert main([str(runs), "--data", str(tmp_path / "data")]) == 1  # of the budget "book" there is nothing
    assert "record.json is damaged" in capsys.readouterr().err
    assert list((tmp_path / "data/results").iterdir()) == []


def test_weights_that_are_gone_leave_those_in_place(runs, tmp_path):
    publish(runs, tmp_path / "data", budget="ci", say=lambda line: None)
    before = (tmp_path / "data/pretrained/vae-walks/config.json").read_bytes()
    (runs / "walks/vae/seed-0/model").rename(tmp_path / "gone")
    said = []
    publish(runs, tmp_path / "data", budget="ci", say=said.append)
    assert any("is not there; the weights that are in place stay" in line for line in said)
    assert (tmp_path / "data/pretrained/vae-walks/config.json").read_bytes() == before


@pytest.mark.parametrize("corpus", ["librispeech", "mocap"])
def test_the_names_of_weights_are_those_in_the_project(corpus):
    names = {weights_name(record) for record in read_records(resource_path("results", f"benchmark-{corpus}.json"))}
    assert f"vae-{corpus}" in names
    assert f"srnn-{corpus}-scheduled" in names


def test_weights_that_are_downloaded_on_request_stay_where_they_stand(runs, tmp_path):
    (tmp_path / "data/pretrained_on_request/vae-walks").mkdir(parents=True)
    publish(runs, tmp_path / "data", budget="ci", say=lambda line: None)
    assert (tmp_path / "data/pretrained_on_request/vae-walks/README.md").is_file()
    assert not (tmp_path / "data/pretrained/vae-walks").exists()
    assert (tmp_path / "data/pretrained/storn-walks").is_dir()
