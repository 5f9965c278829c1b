"""``dvae train`` and ``dvae evaluate``, on a reader's sequences and on speech."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import dvae

from dvae_lib import VAE
from dvae_lib.models import DVAE
from dvae_lib.training import TrainingConfig


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


def test_sequences_with_gaps(walks):
    arrays = {name: array.copy() for name, array in np.load(walks).items()}
    for array in arrays.values():
        array[2:5, 1] = np.nan
    np.savez("gaps.npz", **arrays)
    train = ("train", "srnn", "--data", "gaps.npz", "--folder", "run", "--epochs", 1)
    assert "on the command line --missing" in dvae(*train, code=1)
    assert "Best validation bound" in dvae(*train, "--missing")
    dvae("evaluate", "run")
    rows = json.loads(Path("run/evaluation.json").read_text())["recordings"]
    assert all(np.isfinite([row["bound"], row["rmse"]]).all() for row in rows)


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


def test_what_the_networks_read_is_an_option(tmp_path):
    powers = np.random.default_rng(0).exponential(size=(6, 20, 3)).astype("float32")
    np.save(tmp_path / "powers.npy", powers)
    arguments = ("--data", "powers.npy", "--folder", "run", "--observation", "gamma", "--epochs", 1, "--z-dim", 2)
    dvae("train", "vae", *arguments, "--inputs", "log_power", "--start-at-mean")
    assert DVAE.from_pretrained("run/best").inputs == "log_power"
    assert json.loads(Path("run/config.json").read_text())["start_at_mean"] is True
    assert "log_power" in dvae("info", "run")
    assert "RMSE" in dvae("evaluate", "run")
