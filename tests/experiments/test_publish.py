"""What goes from the runs into the project: a file of results for each corpus, weights, and a card for each."""

from dataclasses import replace

import pytest

from dvae_lib.data.pretrained import pretrained_folder, pretrained_names
from dvae_lib.experiments import Job, Run, read_records, run_one
from dvae_lib.experiments.corpora import load_experiment
from dvae_lib.experiments.publish import READ, main, publish, weights_name
from dvae_lib.experiments.studies.speech_long import long_protocol
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
        "*Data.* nobody (none). Training 48 frames,\nvalidation 24, test 40;",
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


@pytest.mark.parametrize(
    ("file", "some"),
    [
        ("benchmark-librispeech.json", {"vae-librispeech-power", "srnn-librispeech-scheduled-power"}),
        ("benchmark-mocap.json", {"vae-mocap", "srnn-mocap-scheduled"}),
        ("speech-long.json", {"vae-librispeech", "srnn-librispeech"}),
    ],
)
def test_the_names_of_weights_are_those_in_the_project(file, some):
    records = read_records(resource_path("results", file))
    names = {weights_name(record) for record in records if record["seed"] == 0}
    assert some <= names <= set(pretrained_names())
    for name in some:
        model = DVAE.from_pretrained(name)
        card = (pretrained_folder(name) / "README.md").read_text()
        assert card.startswith(f"# {name}\n")
        if "librispeech" in name:
            assert model.inputs == ("power" if name.endswith("-power") else "log_power")
            assert f"The networks read {READ[model.inputs]}." in card


def test_long_trainings_have_a_file_and_names_of_their_own(eight_voices, tmp_path):
    protocol = replace(long_protocol(epochs=1, warm_up=1, batch_size=16), limit=4, test_limit=2, importance_samples=2)
    corpus = replace(load_experiment(str(eight_voices), protocol), name="librispeech")
    run_one(Job(Run("vae", False, 0), corpus, protocol), tmp_path / "runs", num_workers=0, progress=False)
    arguments = [str(tmp_path / "runs"), "--data", str(tmp_path / "data"), "--budget", "long"]
    assert main(arguments) == 0
    (record,) = read_records(tmp_path / "data/results/speech-long.json")
    card = (tmp_path / "data/pretrained/vae-librispeech/README.md").read_text()
    for text in ("the second block of Table 13.1", "their logarithms, standardised by bin", "a fixed budget"):
        assert text in card
    assert weights_name({**record, "budget": "book"}) == "vae-librispeech"
    assert weights_name({**record, "budget": "book", "config": {}}) == "vae-librispeech-power"


def test_cards_are_written_anew_from_results_alone(runs, tmp_path):
    publish(runs, tmp_path / "data", budget="ci", say=lambda line: None)
    card = tmp_path / "data/pretrained/vae-walks/README.md"
    before = card.read_bytes()
    card.write_text("old")
    publish(tmp_path / "data/results/benchmark-walks.json", tmp_path / "data", budget="ci", say=lambda line: None)
    assert card.read_bytes() == before


def test_weights_that_are_downloaded_on_request_stay_where_they_stand(runs, tmp_path):
    (tmp_path / "data/pretrained_on_request/vae-walks").mkdir(parents=True)
    publish(runs, tmp_path / "data", budget="ci", say=lambda line: None)
    assert (tmp_path / "data/pretrained_on_request/vae-walks/README.md").is_file()
    assert not (tmp_path / "data/pretrained/vae-walks").exists()
    assert (tmp_path / "data/pretrained/storn-walks").is_dir()
    listed = (tmp_path / "data/pretrained_on_request.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in listed] == [
        "file",
        *(f"vae-walks/{file}" for file in ("README.md", "config.json", "model.safetensors")),
    ]
