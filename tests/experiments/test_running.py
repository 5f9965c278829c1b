"""An experiment by one call: planned, run, reported, and gone on with; what is missing does not stop the rest."""

import json

import pytest

from dvae_lib.experiments import Outcome, Run, run, running
from dvae_lib.experiments.running import work
from dvae_lib.models import DVAE


@pytest.fixture(scope="module")
def experiment(eight_voices, tmp_path_factory):
    """The folder of a small experiment, what became of it, and what it said."""
    folder, said = tmp_path_factory.mktemp("experiment"), []
    corpora = ["nowhere", str(eight_voices)]
    return folder, corpora, run(folder, corpora, ["vae"], budget="ci", say=said.append), said


def test_everything_is_run_and_reported(experiment, eight_voices):
    folder, _, outcome, said = experiment
    assert list(outcome.records) == [(str(eight_voices), Run("vae", False, 0))]
    assert list(outcome.errors) == ["nowhere"]
    assert not outcome.interrupted
    assert "1 of 1 runs to do, at most 2 epochs" in said[0]
    assert said[1].startswith("vae on voices, seed 0: TF ")
    (report,) = outcome.reports
    assert (report.corpus, report.budget, report.stem) == ("voices", "ci", folder / "report/voices-ci")
    assert report.table == (folder / "report/voices-ci.md").read_text()
    assert report.table.startswith("| model | SI-SDR (dB) |")
    figures = {path.name for path in (folder / "report").glob("*.svg")}
    assert figures == {f"voices-ci-{name}.svg" for name in ("curves", "collapse", "si_sdr", "iw")}


def test_the_same_call_goes_on_where_it_was(experiment, eight_voices):
    folder, corpora, outcome, _ = experiment
    said = []
    again = run(folder, corpora, ["vae"], budget="ci", seeds=2, say=said.append)
    assert "1 of 2 runs to do" in said[0]
    assert len(said) == 2  # of the run that is there nothing is said
    assert again.records.items() > outcome.records.items()


def test_training_and_test_may_be_apart(eight_voices, tmp_path):
    outcome = run(tmp_path, [str(eight_voices)], ["vae"], budget="ci", train_only=True)
    assert (outcome.records, outcome.reports, outcome.errors) == ({}, [], {})
    assert not (tmp_path / "report").exists()
    assert len(run(tmp_path, [str(eight_voices)], ["vae"], budget="ci").records) == 1


def test_a_process_of_its_own_says_by_its_status_and_errors_what_went_wrong(
    eight_voices, tmp_path, capsys, monkeypatch
):
    options = {"folder": str(tmp_path), "models": ["vae"], "budget": "ci"}
    assert work(json.dumps({**options, "corpora": ["nowhere"]})) == 1
    assert capsys.readouterr().err.startswith("nowhere: there is no")
    assert work(json.dumps({**options, "corpora": [str(eight_voices)]})) == 0
    assert capsys.readouterr() == ("", "")

    def interrupt(**options):
        raise KeyboardInterrupt

    monkeypatch.setattr(running, "run", interrupt)
    assert work("{}") == 130
    monkeypatch.setattr(running, "run", lambda **options: Outcome(interrupted=True))
    assert work("{}") == 130


def test_unknown_models_and_budgets_are_refused(tmp_path):
    with pytest.raises(ValueError, match="has no model 'kvea'"):
        run(tmp_path, ["prompts"], ["kvea"])


def test_inputs_are_asked_of_every_process(eight_voices, tmp_path):
    outcome = run(tmp_path, [str(eight_voices)], ["vae"], budget="ci", inputs="log_power", jobs=2, train_only=True)
    assert not outcome.errors
    (kept,) = tmp_path.rglob("model/config.json")
    assert DVAE.from_pretrained(kept.parent).inputs == "log_power"
