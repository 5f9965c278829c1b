"""``dvae data`` and ``dvae info``."""

from pathlib import Path

import torch
from commands import dvae
from rich.console import Console
from typer.testing import CliRunner

from dvae_lib.cli import app, console


def test_corpora_are_listed_with_what_to_do(monkeypatch, tmp_path):
    printed = dvae("data", "list")
    for text in ("prompts", "librispeech", "wsj0", "dvae data fetch prompts", "pendulum"):
        assert text in printed
    (tmp_path / "shelf" / "LibriSpeech" / "dev-clean").mkdir(parents=True)
    monkeypatch.setenv("DVAE_DATA", str(tmp_path / "shelf"))
    assert str(tmp_path / "shelf" / "LibriSpeech") in dvae("data", "list")
    assert "in " + str(tmp_path / "shelf" / "LibriSpeech") in dvae("data", "fetch", "librispeech")
    assert "Linguistic Data Consortium" in dvae("data", "info", "wsj0")


def test_paths_are_listed_whole(monkeypatch, tmp_path):
    monkeypatch.setattr(console, "out", Console(width=60))
    shelf = tmp_path / ("a_folder_with_a_long_name_" * 3)
    (shelf / "LibriSpeech" / "dev-clean").mkdir(parents=True)
    monkeypatch.setenv("DVAE_DATA", str(shelf))
    printed = CliRunner().invoke(app, ["data", "list"]).output
    assert "…" not in printed.split("Also by name")[0]


def test_info_of_a_kind_of_model_lists_its_options():
    printed = dvae("info", "srnn")
    for text in ("SRNN: ", "z_dim", "h_dim=128", "inference_model=", "dvae train srnn", "srnn-prompts"):
        assert text in printed


def test_info_of_a_run_speaks_the_readers_language(walks):
    Path("Übungen").mkdir()
    dvae("train", "vae", "--data", walks.rename("Übungen/läufe.npz"), "--folder", "run", "--epochs", 1)
    printed = dvae("info", "run")
    assert "läufe.npz" in printed
    assert "seen" not in printed


def test_info_of_the_installation(tmp_path):
    printed = dvae("info")
    for text in ("dvae-lib", f"torch {torch.__version__}", "CPU", "vae", "prompts: not here", str(tmp_path / "cache")):
        assert text in printed
    assert dvae("--version")
