import csv
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from rich.console import Console
from typer.testing import CliRunner

from dvae_lib import STORN, VAE
from dvae_lib.cli import app, console, experiments
from dvae_lib.models import DVAE
from dvae_lib.training import TrainingConfig

RATE = 16_000


@pytest.fixture(autouse=True)
def _alone(tmp_path, monkeypatch):
    """An empty folder to work in, no corpora, and no logging left behind."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVAE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("DVAE_DATA", raising=False)
    # A wide terminal: a folded path would not be found. (The width is read when the consoles are made.)
    monkeypatch.setattr(console, "out", Console(width=500))
    monkeypatch.setattr(console, "err", Console(width=500, stderr=True))
    logger = logging.getLogger("dvae_lib")
    handlers, level = logger.handlers[:], logger.level
    yield
    logger.handlers, logger.level = handlers, level


def dvae(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, list(map(str, arguments)))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return " ".join(result.output.split())


@pytest.fixture
def walks(tmp_path) -> Path:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "walks.npz", *[rng.standard_normal((20 + i, 3)).cumsum(0) for i in range(10)])
    return tmp_path / "walks.npz"


def write_voices(folder: Path, number: int) -> Path:
    for i in range(number):
        time_axis = np.arange(int((1.6 + 0.1 * i) * RATE)) / RATE
        tone = sum(np.sin(2 * np.pi * (100 + 10 * i) * k * time_axis) / k for k in range(1, 20))
        noise = np.random.default_rng(i).standard_normal(time_axis.size)
        sound = 0.1 * (tone * (1 + np.sin(2 * np.pi * 2 * time_axis)) + 0.1 * noise)
        speaker = folder / f"speaker{i}"
        speaker.mkdir(parents=True)
        soundfile.write(speaker / "a.wav", sound, RATE)
    return folder


@pytest.fixture
def voices(tmp_path) -> Path:
    return write_voices(tmp_path / "voices", 4)


# --- help ---


@pytest.mark.parametrize(
    ("command", "example"),
    [
        ([], "dvae train vae --corpus prompts --folder runs/vae"),
        (["data", "fetch"], "dvae data fetch prompts"),
        (["data", "info"], "dvae data info prompts"),
        (["train"], "dvae train vae --data recordings/ --folder runs/mine --epochs 50"),
        (["evaluate"], "dvae evaluate runs/vae"),
        (["enhance"], "dvae enhance noisy.wav -o clean.wav"),
        (["benchmark"], "dvae benchmark runs/quick --corpus prompts --model vae --model srnn --budget ci"),
        (["report"], "dvae report runs/benchmark -o report"),
        (["info"], "dvae info runs/vae"),
    ],
)
def test_help_shows_examples(command, example):
    assert example in dvae(*command, "--help")


def test_every_option_of_an_example_exists():
    """What the help shows as an example is parsed by the command it is shown for."""
    for command in ("train", "evaluate", "enhance"):
        text = re.sub(r"\s+", " ", dvae(command, "--help"))
        examples = text.split("Examples")[1].split("╭")[0]
        for option in set(re.findall(r"(?<= )--?[a-z][a-z-]*", examples)) - {"--nproc-per-node", "-m"}:
            assert option in text.split("╭", 1)[1], option


# --- train, evaluate, info on a reader's sequences ---


def test_own_sequences_from_training_to_scores(walks):
    printed = dvae("train", "vae", "--data", walks, "--folder", "run", "--epochs", 2, "--z-dim", 2, "-O", "encoder=[8]")
    assert "Best validation bound" in printed
    assert "Next: dvae evaluate run" in printed
    model = DVAE.from_pretrained("run/best")
    assert isinstance(model, VAE)
    assert (model.x_dim, model.z_dim, model.options["encoder"]) == (3, 2, [8])
    assert model.metadata["data"]["source"] == str(walks)
    assert len(model.metadata["standardizer"]["mean"]) == 3

    printed = dvae("evaluate", "run")
    assert "RMSE" in printed
    assert "test part" in printed
    saved = json.loads(Path("run/evaluation.json").read_text())
    assert saved["data"]["source"] == str(walks)
    assert [line["metric"] for line in saved["summary"]] == ["bound", "rmse"]
    with Path("run/evaluation.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert float(rows[0]["rmse"]) == saved["recordings"][0]["rmse"]
    assert not list(Path("run").glob("*.partial"))

    printed = dvae("info", "run")
    assert "2 of at most 2 epochs" in printed
    assert "VAE" in printed
    assert "z_dim=2" in printed
    assert "yes, as learned on the training part" in printed


def test_the_same_command_goes_on_and_ends_like_one_that_was_not_stopped(walks):
    train = ("train", "vae", "--data", walks, "--seed", 3, "--batch-size", 4)
    dvae(*train, "--folder", "stopped", "--epochs", 1)
    assert "of 3." in dvae(*train, "--folder", "stopped", "--epochs", 3)
    dvae(*train, "--folder", "whole", "--epochs", 3)
    stopped, whole = (DVAE.from_pretrained(f"{run}/best").state_dict() for run in ("stopped", "whole"))
    assert all(torch.equal(stopped[name], whole[name]) for name in whole)


def test_all_training_options_arrive(walks):
    Path("config.json").write_text(TrainingConfig(batch_size=5, patience=9, max_epochs=7).to_json())
    options = ("--learning-rate", 0.01, "--gradient-clip", 5, "--warm-up", 2, "--epochs", 1, "--sequence-length", 10)
    dvae("train", "vae", "--data", walks, "--folder", "run", "--config", "config.json", *options)
    saved = json.loads(Path("run/config.json").read_text())
    assert (saved["batch_size"], saved["patience"], saved["max_epochs"]) == (5, 9, 1)
    assert (saved["learning_rate"], saved["gradient_clip"]) == (0.01, 5)
    assert saved["schedules"] == {"beta": [[0, 0.0], [2, 1.0]]}
    assert DVAE.from_pretrained("run/best").metadata["data"]["sequence_length"] == 10


def test_scheduled_sampling_goes_on_from_a_trained_model(walks):
    data = ("--data", walks, "--sequence-length", 10)
    layers = ("-O", "feature_x=[8]", "-O", "h_dim=8", "-O", "g_dim=8", "--z-dim", 2)
    dvae("train", "srnn", *data, *layers, "--folder", "runs/tf", "--epochs", 1)
    scheduled = ("--scheduled-sampling", 1, "--epochs", 2, "--folder", "runs/gm")
    dvae("train", "srnn", *data, "--start-from", "runs/tf/best", *scheduled)
    config = TrainingConfig.from_json(Path("runs/gm/config.json").read_text())
    assert [config.schedules["feedback"](epoch) for epoch in (0, 3, 4)] == [0.2, 0.8, 1.0]
    before, after = (DVAE.from_pretrained(f"runs/{run}/best") for run in ("tf", "gm"))
    assert before.options == after.options
    changed = [name for name, value in before.state_dict().items() if not torch.equal(value, after.state_dict()[name])]
    assert changed
    shift = max((before.state_dict()[name] - after.state_dict()[name]).abs().max() for name in changed)
    assert shift < 0.1  # two epochs of small steps from where the first run ended, not from new weights
    message = dvae("train", "vae", *data, "--scheduled-sampling", 1, "--folder", "runs/vae", code=1)
    assert "no predictive link" in message
    message = dvae("train", "srnn", *data, "--start-from", "runs/tf/best", "--z-dim", 3, "--folder", "runs/x", code=2)
    assert "has its own options" in message
    message = dvae("train", "vrnn", *data, "--start-from", "runs/tf/best", "--folder", "runs/x", code=1)
    assert "which is not a VRNN" in message


def test_csv_folders_toys_and_one_numpy_array(tmp_path):
    (tmp_path / "csv").mkdir()
    rng = np.random.default_rng(0)
    for i in range(4):
        np.savetxt(f"csv/{i}.csv", rng.standard_normal((12, 2)), delimiter=",", header="a,b", comments="")
    np.save("block.npy", rng.standard_normal((6, 10, 2)))
    for number, (flag, data) in enumerate((("--data", "csv"), ("--data", "block.npy"), ("--corpus", "pendulum"))):
        dvae("train", "vae", flag, data, "--folder", f"run{number}", "--epochs", 1)
        assert "RMSE" in dvae("evaluate", f"run{number}")


# --- what a model was trained with is not what it is judged on ---


def scored(file: str) -> set[str]:
    with Path(file).open() as stream:
        return {row["name"].split(":")[-1] for row in csv.DictReader(stream)}


def test_a_run_is_judged_on_its_own_split_wherever_its_data_lie_now(walks):
    dvae("train", "vae", "--data", walks, "--folder", "run", "--epochs", 1, "--split-seed", 5, "--sequence-length", 10)
    dvae("evaluate", "run", "-o", "own.csv")
    walks.rename("moved.npz")
    printed = dvae("evaluate", "run", "--data", "moved.npz", "-o", "moved.csv")
    assert scored("moved.csv") == scored("own.csv")
    assert "Note" not in printed


def test_sequences_that_were_trained_with_are_left_out_of_other_data(walks):
    """In another order, with some more, the split is another one: what tells is the sequences themselves."""
    rng = np.random.default_rng(0)
    old = {f"old_{i}": rng.standard_normal((25, 3)).cumsum(0) for i in range(40)}
    new = {f"new_{i}": rng.standard_normal((25, 3)).cumsum(0) for i in range(5)}
    np.savez("old.npz", **old)
    dvae("train", "vae", "--data", "old.npz", "--folder", "run", "--epochs", 1, "--sequence-length", 20)
    dvae("evaluate", "run", "-o", "own.csv")
    held_out = scored("own.csv")
    np.savez("more.npz", **new, **old)
    printed = dvae("evaluate", "run", "--data", "more.npz", "-o", "more.csv")
    assert "does not hold the sequences that the model was trained with, and those alone" in printed
    assert scored("more.csv") <= held_out | set(new)
    assert re.search(r"\d of its \d test sequences were among these, and are left out", printed)
    np.savez("seen.npz", **{name: array for name, array in old.items() if name not in held_out})
    assert "are among those that the model was trained with" in dvae("evaluate", "run", "--data", "seen.npz", code=1)
    np.savez("new.npz", **new)
    assert "left out" not in dvae("evaluate", "run", "--data", "new.npz")


def test_what_standardises_knows_the_likelihood():
    rng = np.random.default_rng(0)
    np.savez("rolls.npz", *[(rng.random((20, 8)) < 0.1).astype(np.uint8) for _ in range(10)])
    np.savez("powers.npz", *[rng.exponential(size=(20, 4)) for _ in range(10)])
    for folder, data, options, family, standardised in (
        ("a", "rolls", (), "bernoulli", False),
        ("b", "rolls", ("--observation", "bernoulli"), "bernoulli", False),
        ("c", "powers", ("-O", "observation=gamma"), "gamma", False),
        ("d", "powers", ("--no-standardize",), "gaussian", False),
        ("e", "powers", (), "gaussian", True),
    ):
        dvae("train", "vae", "--data", f"{data}.npz", "--folder", folder, "--epochs", 1, *options)
        model = DVAE.from_pretrained(f"{folder}/best")
        assert (model.observation, model.standardizer is not None) == (family, standardised)
    wrong = ("--observation", "bernoulli", "--standardize")
    assert "--no-standardize" in dvae("train", "vae", "--data", "rolls.npz", "--folder", "f", *wrong, code=1)
    assert not Path("f").exists()


def test_one_series_is_cut_in_time():
    np.save("one.npy", np.random.default_rng(0).standard_normal((100, 2)).cumsum(0))
    cut = ("--split", "time", "--sequence-length", 10)
    dvae("train", "vae", "--data", "one.npy", "--folder", "run", *cut, "--epochs", 1)
    dvae("evaluate", "run")
    with Path("run/evaluation.csv").open() as file:
        assert [row["name"] for row in csv.DictReader(file)] == ["one.npy[90:100]"]


def test_the_split_has_a_seed_of_its_own(walks):
    for run, seeds in {"a": (0, 0), "b": (3, 0), "c": (0, 3)}.items():
        seed, split_seed = seeds
        dvae(
            "train", "vae", "--data", walks, "--folder", run, "--epochs", 1, "--seed", seed, "--split-seed", split_seed
        )
        dvae("evaluate", run, "-o", f"{run}.csv")
    assert scored("a.csv") == scored("b.csv") != scored("c.csv")
    weights = [DVAE.from_pretrained(f"{run}/best").state_dict() for run in "ab"]
    assert any(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_what_is_judged_otherwise_does_not_replace_the_scores_of_the_run(walks):
    dvae("train", "vae", "--data", walks, "--folder", "run", "--epochs", 1)
    dvae("evaluate", "run")
    before = Path("run/evaluation.json").read_bytes()
    rng = np.random.default_rng(1)
    np.savez("other data.npz", *rng.standard_normal((6, 20, 3)))
    dvae("evaluate", "run", "--data", "other data.npz")
    dvae("evaluate", "run", "--latents", "mean", "--seed", 2)
    assert Path("run/evaluation.json").read_bytes() == before
    assert {path.name for path in Path("run").glob("evaluation-*.json")} == {
        *("evaluation-other_data.json", "evaluation-mean-seed-2.json"),
    }


def test_a_model_that_ships_is_judged_on_what_its_card_names():
    """The chorales come with a package, so that this needs no download."""
    pytest.importorskip("music21")
    printed = dvae("evaluate", "vae-chorales", "-o", "chorales.csv")
    assert "vae-chorales on the test part of chorales" in printed


# --- speech ---


def test_speech_from_a_folder_to_a_table(voices):
    assert "test" in dvae("data", "info", voices)
    dvae("train", "vae", "--data", voices, "--folder", "run", "--epochs", 1)
    model = DVAE.from_pretrained("run/best")
    assert (model.x_dim, model.observation) == (513, "gamma")
    assert model.metadata["front_end"]["hop_length"] == 256
    printed = dvae("evaluate", "run", "--workers", 0, "--latents", "mean", "-o", "scores.json")
    for label in ("SI-SDR (dB)", "PESQ narrow-band", "PESQ wide-band", "ESTOI", "VLB (nats per frame)"):
        assert label in printed
    saved = json.loads(Path("scores.json").read_text())
    assert [line["metric"] for line in saved["summary"]] == ["si_sdr", "pesq_nb", "pesq_wb", "estoi", "bound"]
    assert (saved["latents"], saved["part"]) == ("mean", "test")
    only = dvae("evaluate", "run", "--workers", 0, "-m", "estoi", "--output", "only.csv")
    assert "PESQ" not in only
    assert Path("only.csv").read_text().startswith("name,estoi,bound\n")


# --- enhance ---


@pytest.fixture
def speech_model(tmp_path) -> str:
    torch.manual_seed(0)
    VAE(513, 2, observation="gamma", encoder=(8,), decoder=(8,)).save_pretrained(tmp_path / "small")
    return "small"


def noisy(seconds: float = 0.5, rate: int = RATE, channels: int = 1) -> np.ndarray:
    rng = np.random.default_rng(0)
    tone = np.sin(2 * np.pi * 150 * np.arange(int(seconds * rate)) / rate)
    return 0.1 * (tone[:, None] + rng.standard_normal((tone.size, channels)))


def enhanced(*arguments, code: int = 0) -> str:
    return dvae("enhance", *arguments, "--iterations", 2, "--accelerator", "cpu", code=code)


@pytest.mark.parametrize("ending", [".wav", ".flac", ".WAV"])
@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
def test_a_recording_is_enhanced_at_its_own_rate(speech_model, rate, ending):
    soundfile.write("in.wav", noisy(rate=rate), rate)
    before = Path("in.wav").read_bytes()
    printed = enhanced("in.wav", "-o", f"out{ending}", "--model", speech_model)
    assert f"Written: out{ending} (0.5 s of sound in" in printed
    result, written = soundfile.read(f"out{ending}")
    assert written == rate
    assert result.shape == (rate // 2,)
    assert np.isfinite(result).all()
    assert 0 < np.abs(result).max() < 1
    assert Path("in.wav").read_bytes() == before
    assert not list(Path().glob("*.partial"))


def test_options_and_seed_of_enhancement_arrive(speech_model, monkeypatch):
    soundfile.write("in.wav", noisy(), RATE)
    asked = {}
    import dvae_lib.enhancement

    def listen(model, recording, output, **options):
        asked.update(options)
        return original(model, recording, output, **options)

    original = dvae_lib.enhancement.enhance_file
    monkeypatch.setattr(dvae_lib.enhancement, "enhance_file", listen)
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        options = ("--method", "vem", "--rank", 3, "--seed", seed, "--piece", 12, "--quiet")
        assert enhanced("in.wav", "-o", f"{name}.wav", "--model", speech_model, *options) == ""
    assert (asked["method"], asked["rank"], asked["num_iterations"], asked["piece_seconds"]) == ("vem", 3, 2, 12)
    files = [Path(f"{name}.wav").read_bytes() for name in "abc"]
    assert files[0] == files[1] != files[2]


def test_a_run_in_progress_lends_its_best_model(speech_model):
    Path("run").mkdir()
    Path(speech_model).rename("run/best")
    soundfile.write("in.wav", noisy(), RATE)
    enhanced("in.wav", "-o", "out.wav", "--model", "run")
    assert Path("out.wav").exists()


def test_what_is_odd_about_a_recording_is_said_and_it_goes_on(speech_model):
    soundfile.write("stereo.wav", noisy(channels=2), RATE)
    printed = enhanced("stereo.wav", "-o", "out.wav", "--model", speech_model)
    assert "averaged" not in printed
    assert soundfile.read("out.wav")[0].shape == (RATE // 2, 2)
    loud = np.clip(20 * noisy(), -1, 1)
    soundfile.write("loud.wav", loud, RATE)
    share = float(re.search(r"loud.wav: ([\d.]+)% of the samples are clipped", enhanced(
        "loud.wav", "-o", "out.wav", "--model", speech_model
    )).group(1))  # fmt: skip
    assert share == pytest.approx(100 * (np.abs(loud) == 1).mean(), abs=12)  # without those that stand alone
    peak = noisy() / np.abs(noisy()).max()  # one sample at full scale is none
    soundfile.write("peak.wav", peak, RATE, subtype="FLOAT")
    assert "clipped" not in enhanced("peak.wav", "-o", "out.wav", "--model", speech_model)


def test_a_long_recording_is_enhanced_in_pieces(speech_model, monkeypatch):
    soundfile.write("in.wav", noisy(9.0), RATE)
    clock = iter(range(0, 10_000, 40))
    monkeypatch.setattr("dvae_lib.cli.enhance.time.monotonic", lambda: float(next(clock)))
    printed = enhanced("in.wav", "-o", "pieces.wav", "--model", speech_model, "--piece", 4)
    assert re.search(r"Enhancing: \d+%, about \d+ min left", printed)  # no terminal here: a line each minute
    assert "Enhancing" not in enhanced("in.wav", "-o", "whole.wav", "--model", speech_model, "--quiet")
    pieces, whole = (soundfile.read(f"{name}.wav")[0] for name in ("pieces", "whole"))
    assert pieces.shape == whole.shape
    assert np.abs(pieces - whole).max() < 0.05 * np.abs(whole).max()
    assert (pieces != whole).any()


def test_an_interrupt_leaves_what_was_there(speech_model, monkeypatch):
    soundfile.write("in.wav", noisy(9.0), RATE)
    Path("out.wav").write_bytes(b"old")
    before = set(Path().iterdir())

    def interrupted(self, i, gain):
        raise KeyboardInterrupt

    monkeypatch.setattr("dvae_lib.enhancement.recordings.Mixture.estimate", interrupted)
    enhanced("in.wav", "-o", "out.wav", "--model", speech_model, "--piece", 4, code=130)
    assert Path("out.wav").read_bytes() == b"old"
    assert set(Path().iterdir()) == before


def test_without_a_package_for_sound_the_extra_is_named_before_all_else(monkeypatch):
    monkeypatch.setattr("dvae_lib.extras.find_spec", lambda name: None if name == "soundfile" else find_spec(name))
    printed = enhanced("nowhere.wav", "-o", "out.wav", "--model", "nowhere", code=1)
    assert "needs the package soundfile" in printed
    assert "dvae-lib[speech]" in printed


def test_the_recording_is_written_over_only_on_demand(speech_model):
    soundfile.write("in.wav", noisy(), RATE)
    Path("link.wav").symlink_to("in.wav")
    before = Path("in.wav").read_bytes()
    for output in ("in.wav", "./in.wav", "link.wav"):
        assert "is the recording itself" in enhanced("in.wav", "-o", output, "--model", speech_model, code=1)
    assert Path("in.wav").read_bytes() == before
    enhanced("in.wav", "-o", "in.wav", "--model", speech_model, "--overwrite")
    assert Path("in.wav").read_bytes() != before


def test_a_result_is_there_as_a_whole_or_not_at_all(speech_model, monkeypatch):
    soundfile.write("in.wav", noisy(), RATE)
    Path("out.wav").write_bytes(b"old")

    def full_disk(*paths):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full_disk)
    assert "No space left on device" in enhanced("in.wav", "-o", "out.wav", "--model", speech_model, code=1)
    assert Path("out.wav").read_bytes() == b"old"
    assert not list(Path().glob("*.partial"))


@pytest.mark.parametrize(
    ("recording", "output", "model", "code", "message"),
    [
        ("nowhere.wav", "out.wav", "small", 1, "There is no audio file nowhere.wav"),
        ("text.wav", "out.wav", "small", 1, "looks like a text file"),
        ("empty.wav", "out.wav", "small", 1, "is empty"),
        ("short.wav", "out.wav", "small", 1, "short.wav: The waveform lasts 32 ms, less than one window of 64 ms"),
        ("silence.wav", "out.wav", "small", 1, "silence.wav: The waveform holds only silence"),
        ("nan.wav", "out.wav", "small", 1, "not finite"),
        ("in.wav", "out.mp3", "small", 2, "must end in .wav or .flac"),
        ("in.wav", "no/folder/out.wav", "small", 1, "There is no folder no/folder"),
        ("in.wav", "folder.wav", "small", 1, "folder.wav cannot be written"),
        ("in.wav", "out.wav", "nowhere", 1, "no trained model called 'nowhere'"),
        ("in.wav", "out.wav", "gaussian", 1, "'gaussian' observations"),
        ("in.wav", "out.wav", "narrow", 1, "vectors of size 65"),
        ("in.wav", "out.wav", "predictive", 1, "past clean frames"),
    ],
)
def test_errors_of_enhancement_are_messages(speech_model, recording, output, model, code, message):
    soundfile.write("in.wav", noisy(), RATE)
    soundfile.write("short.wav", noisy(0.032), RATE)
    soundfile.write("silence.wav", np.zeros(RATE), RATE)
    soundfile.write("nan.wav", np.full(RATE, np.nan), RATE, subtype="FLOAT")
    Path("text.wav").write_text("no sound\n")
    Path("empty.wav").touch()
    Path("folder.wav").mkdir()
    VAE(513, 2).save_pretrained("gaussian")
    VAE(65, 2, observation="gamma").save_pretrained("narrow")
    STORN(513, 2, observation="gamma").save_pretrained("predictive")
    printed = enhanced(recording, "-o", output, "--model", model, code=code)
    assert message in printed
    assert "Traceback" not in printed
    assert not Path("out.wav").exists()


def test_a_folder_without_permission_is_found_out_before_the_work(speech_model, monkeypatch):
    soundfile.write("in.wav", noisy(), RATE)
    monkeypatch.setattr("os.access", lambda path, mode: mode != os.W_OK)  # root may write everywhere
    assert "cannot be written" in enhanced("in.wav", "-o", "out.wav", "--model", speech_model, code=1)


# --- data ---


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


# --- errors: a message, an exit code, no traceback, nothing written ---


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["train", "vae", "--folder", "run"], 2, "give one of them"),
        (["train", "vae", "--data", "a", "--corpus", "b", "--folder", "run"], 2, "give one of them"),
        (["train", "nothing", "--data", "a", "--folder", "run"], 2, "none of vae"),
        (["train", "vae", "--data", "nowhere", "--folder", "run"], 1, "no file or folder 'nowhere'"),
        (["train", "vae", "--corpus", "nothing", "--folder", "run"], 1, "Corpora: digits"),
        (["train", "vae", "--data", "walks.npz", "--folder", "run", "-O", "x"], 2, "not of the form name=value"),
        (
            ["train", "vae", "--data", "walks.npz", "--folder", "run", "-O", "depth=3"],
            1,
            "no option depth; it has x_dim",
        ),
        (["train", "vae", "--data", "walks.npz", "--folder", "run", "--epochs", "0"], 2, "--epochs"),
        (["train", "vae", "--data", "walks.npz", "--folder", "run", "--learning-rate", "-1"], 1, "learning_rate must"),
        (["train", "vae", "--data", "walks.npz", "--folder", "run", "--config", "bad.json"], 1, "bad.json"),
        (["train", "vae", "--data", "walks.npz", "--folder", "run", "--observation", "cauchy"], 1, "cauchy"),
        (["train", "vae", "--data", "one.npy", "--folder", "run"], 1, "one.npy holds 1 sequence"),
        (["train", "vae", "--data", "flat.npy", "--folder", "run"], 1, "flat.npy in flat.npy has shape (5,)"),
        (["train", "vae", "--data", "objects.npy", "--folder", "run"], 1, "objects.npy is not a NumPy file of numbers"),
        (["train", "vae", "--data", "nan.npy", "--folder", "run"], 1, "nan.npy[1] is not finite"),
        (["train", "vae", "--data", "empty", "--folder", "run"], 1, "empty holds none of them"),
        (["train", "vae", "--data", "mixed", "--folder", "run"], 1, "mixed holds csv and numpy files"),
        (["train", "vae", "--data", "bad.json", "--folder", "run"], 1, "bad.json is a single file"),
        (["evaluate", "nowhere"], 1, "no trained model called 'nowhere'"),
        (["evaluate", "bare"], 1, "does not say what it was trained on"),
        (["evaluate", "bare", "--data", "walks.npz"], 1, "vectors of size 5, those of walks.npz have 3"),
        (["evaluate", "bare", "--output", "table.txt"], 2, "must end in .json or .csv"),
        (["evaluate", "bare", "--metric", "loudness"], 2, "none of si_sdr"),
        (["evaluate", "bare", "--output", "no/x.csv"], 1, "There is no folder no to write x.csv into"),
        (["evaluate", "srn-prompts"], 1, "did you mean srnn-prompts"),
        (["train", "vae", "--data", "walks.npz", "--folder", "run", "-O", "encoder=abc"], 1, "a list of whole numbers"),
        (["train", "vae", "--data", "walks.npz", "--folder", "run", "-O", "encoder=[8.5]"], 1, "got [8.5]"),
        (["train", "dkf", "--data", "walks.npz", "--folder", "run", "-O", "g_dim=big"], 1, 'a whole number; got "big"'),
        (["train", "vae", "--data", "walks.npz", "--folder", "run", "--config", "nowhere.json"], 2, "does not exist"),
        (["train", "vae", "--data", "walks.npz", "--folder", "walks.npz"], 2, "'walks.npz' is a file"),
        (["benchmark", "walks.npz"], 2, "'walks.npz' is a file"),
        (["train", "vae", "--data", "walks.npz", "--folder", "run", "--accelerator", "mps"], 1, "finds no mps device"),
        (["info", "nowhere"], 1, "no trained model called 'nowhere'"),
        (["data", "fetch", "wsj0"], 1, "no program may fetch it"),
        (["data", "fetch", "nothing"], 1, "no corpus is called 'nothing'"),
        (["nothing"], 2, "No such command"),
    ],
)
def test_errors_are_messages(walks, tmp_path, arguments, code, message):
    rng = np.random.default_rng(0)
    np.save("one.npy", rng.standard_normal((30, 2)))
    np.save("flat.npy", np.zeros(5))
    np.save("objects.npy", np.array([{}], dtype=object))
    np.save("nan.npy", np.stack([np.zeros((4, 2)), np.full((4, 2), np.nan), np.ones((4, 2))]))
    Path("bad.json").write_text("{")
    for folder in ("empty", "mixed"):
        Path(folder).mkdir()
    np.save("mixed/a.npy", np.zeros((4, 2)))
    Path("mixed/a.csv").write_text("1,2\n")
    VAE(5, 2).save_pretrained("bare")
    printed = dvae(*arguments, code=code)
    assert message in printed
    assert "Traceback" not in printed
    assert not Path("run").exists()


def test_debug_gives_the_traceback():
    with pytest.raises(FileNotFoundError, match="nowhere"):
        dvae("--debug", "evaluate", "nowhere")


def test_another_configuration_does_not_touch_a_run(walks):
    dvae("train", "vae", "--data", walks, "--folder", "run", "--epochs", 1)
    before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    assert "another configuration" in dvae(
        "train", "vae", "--data", walks, "--folder", "run", "--learning-rate", 0.5, code=1
    )
    assert {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()} == before


# --- the installed program ---


def program() -> str:
    return str(Path(sys.executable).with_name("dvae"))


def test_the_console_script_reports_errors_without_a_traceback():
    done = subprocess.run([program(), "evaluate", "nowhere"], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: no folder and no trained model called 'nowhere'")
    assert done.stdout == ""


def test_ctrl_c_stops_saves_and_says_how_to_go_on(walks):
    command = [
        program(),
        "train",
        "vae",
        "--data",
        str(walks),
        "--folder",
        "run",
        "--epochs",
        "1000000",
        "--patience",
        "1000000",
    ]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not Path("run/history.csv").exists() and not Path("run/checkpoint.safetensors").exists():
        assert running.poll() is None
        time.sleep(0.1)
    time.sleep(0.5)
    running.send_signal(signal.SIGINT)
    printed, errors = running.communicate(timeout=60)
    assert running.returncode == 130, errors
    assert "Interrupted and saved; the same command goes on." in printed
    assert "Traceback" not in errors
    assert DVAE.from_pretrained("run/best").x_dim == 3


# --- benchmark ---


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
    assert "nowhere: There is no folder nowhere" in said
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
