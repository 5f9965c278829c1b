"""The program: help, errors as messages, the installed command."""

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from commands import dvae

from dvae_lib import VAE
from dvae_lib.models import DVAE


@pytest.mark.parametrize(
    ("command", "example"),
    [
        ([], "dvae train vae --corpus prompts --folder runs/vae"),
        (["data", "fetch"], "dvae data fetch prompts"),
        (["data", "info"], "dvae data info prompts"),
        (["train"], "dvae train vae --data recordings/ --folder runs/mine --epochs 50"),
        (["evaluate"], "dvae evaluate runs/vae"),
        (["enhance"], "dvae enhance noisy.wav -o clean.wav"),
        (["encode"], "dvae encode in.wav -o speech.dvae"),
        (["decode"], "dvae decode speech.dvae -o out.wav"),
        (["benchmark"], "dvae benchmark runs/quick --corpus prompts --model vae --model srnn --budget ci"),
        (["report"], "dvae report runs/benchmark -o report"),
        (["info"], "dvae info runs/vae"),
    ],
)
def test_help_shows_examples(command, example):
    assert example in dvae(*command, "--help")


def test_every_option_of_an_example_exists():
    """What the help shows as an example is parsed by the command it is shown for."""
    for command in ("train", "evaluate", "enhance", "encode", "decode"):
        text = re.sub(r"\s+", " ", dvae(command, "--help"))
        examples = text.split("Examples")[1].split("╭")[0]
        for option in set(re.findall(r"(?<= )--?[a-z][a-z-]*", examples)) - {"--nproc-per-node", "-m"}:
            assert option in text.split("╭", 1)[1], option


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
