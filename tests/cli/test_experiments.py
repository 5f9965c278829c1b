"""``dvae benchmark`` and ``dvae report``."""

import json
import shutil
from pathlib import Path

import pytest
from commands import dvae, write_voices
from rich.console import Console

from dvae_lib.cli import console, experiments


@pytest.fixture
def many_voices(tmp_path) -> Path:
    """Six speakers: enough for three parts without a common one."""
    return write_voices(tmp_path / "many", 6)


def test_benchmark_trains_judges_and_reports(many_voices, tmp_path):
    arguments = ["benchmark", "runs/b", "--corpus", str(many_voices), "--model", "vae", "--model", "srnn-scheduled"]
    said = dvae(*arguments, "--budget", "ci")
    assert "3 of 3 runs to do, at most 9 epochs" in said
    for name in ("vae on many, seed 0: TF", "srnn on many, seed 0: TF", "srnn-scheduled on many, seed 0: GM"):
        assert name in said
    for line in ("| VAE†", "| SRNN†", "| SRNN-TF-GM†", "| SRNN-GM†"):
        assert line in said
    folder = tmp_path / "runs/b/report"
    assert {p.name for p in folder.iterdir()} == {
        *(f"many-ci.{suffix}" for suffix in ("md", "tex", "csv", "json")),
        *(f"many-ci-{figure}.svg" for figure in ("curves", "collapse", "si_sdr", "iw")),
    }
    times = {p: p.stat().st_mtime_ns for p in (tmp_path / "runs/b/many").rglob("*") if p.is_file()}
    assert "0 of 3 runs to do" in dvae(*arguments, "--budget", "ci")  # and none of them is done again
    results = ("record.json", "trained.json", "model.safetensors")
    assert all(path.stat().st_mtime_ns == then for path, then in times.items() if path.name in results)

    shutil.copytree(folder, tmp_path / "elsewhere")
    again = dvae("report", "elsewhere/many-ci.json", "-o", "again", "--no-figures")
    assert (tmp_path / "again/many-ci.csv").read_text() == (folder / "many-ci.csv").read_text()
    assert "| SRNN-GM†" in again
    assert not list((tmp_path / "again").glob("*.svg"))

    other = dvae(*arguments, "--budget", "book", code=1)  # the folder holds results of another protocol
    assert "is a result under another protocol" in other
    assert "Choose another folder" in other


def test_benchmark_goes_on_past_what_is_not_here_or_too_small(many_voices, tmp_path):
    (tmp_path / "alone/speaker").mkdir(parents=True)
    shutil.copy(many_voices / "speaker0/a.wav", tmp_path / "alone/speaker/a.wav")
    corpora = ["--corpus", "nowhere", "--corpus", "alone", "--corpus", str(many_voices)]
    said = dvae("benchmark", "runs/b", *corpora, "--model", "vae", "--budget", "ci", code=1)
    assert "vae on many, seed 0: TF" in said
    assert "nowhere: there is no corpus and no file or folder 'nowhere'" in said
    assert "alone: " in said[said.index("nowhere: ") :]


def test_benchmark_in_several_processes(many_voices, tmp_path):
    said = dvae(
        *["benchmark", "runs/b", "--corpus", str(many_voices), "--model", "vae", "--model", "storn"],
        *["--seeds", "2", "--budget", "ci", "--jobs", "2"],
    )
    assert "4 of 4 runs to do" in said
    assert len(list((tmp_path / "runs/b").rglob("record.json"))) == 4
    assert "±" in said  # two seeds


def test_benchmark_asks_before_it_fetches_what_nobody_named(monkeypatch):
    asked = []
    monkeypatch.setattr(experiments.sys, "stdin", type("Terminal", (), {"isatty": lambda self: True})())
    monkeypatch.setattr(console, "err", Console(width=500, stderr=True, force_terminal=True))
    monkeypatch.setattr(experiments.typer, "confirm", lambda question, **options: asked.append((question, options)))
    experiments._ask_before_fetching(experiments.corpus_info("librispeech"))
    assert asked == [("Fetch it?", {"default": True, "abort": True})]
    monkeypatch.setattr(console, "err", Console(width=500, stderr=True))  # nobody can answer
    experiments._ask_before_fetching(experiments.corpus_info("librispeech"))
    assert len(asked) == 1


def test_benchmark_knows_its_models(many_voices):
    said = dvae("benchmark", "runs/b", "--corpus", str(many_voices), "--model", "kvea", code=1)
    assert "The benchmark has no model 'kvea'; it has vae, dkf," in said


def test_report_says_what_it_cannot_read(tmp_path):
    (tmp_path / "old.json").write_text(json.dumps([{"format": 99, "dvae_lib": "9.9"}]))
    (tmp_path / "torn.json").write_text('[{"format": 1')
    said = dvae("report", "old.json", "torn.json", "-o", "out", code=1)
    assert "has format 99 (dvae_lib 9.9); this version reads format 1" in said
    assert "torn.json is damaged" in said
    assert "hold no result of the benchmark that can be read" in said
    assert "There is no file or folder nothing.json" in dvae("report", "nothing.json", "-o", "out", code=1)
