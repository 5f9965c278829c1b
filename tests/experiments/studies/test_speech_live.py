"""What stands behind the scores of speech: against closed forms, generation mode itself, and on made-up voices."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Generator

from dvae_lib import SRNN, STORN, VAE
from dvae_lib.experiments import REVIEW_MODELS, SCHEDULED, evaluate_model, load_experiment, protocol, read_records
from dvae_lib.experiments.results import ResultFile, complete
from dvae_lib.experiments.studies import speech_live
from dvae_lib.experiments.studies.speech_live import (
    KEY,
    PARTS,
    LiveProtocol,
    Subject,
    costs_by_rounds,
    levels,
    main,
    modulation,
    movement,
    past_alone,
    subjects,
    task,
    weights_of,
)
from dvae_lib.resources import resource_path

SIZES = LiveProtocol(
    pieces=1,
    piece=(10, 20),
    samples=(2,),
    particles=2,
    start=10,
    new=20,
    draws=1,
    sequences=2,
    tone_utterances=1,
    rounds=(0, 1, 2),
    round_sequences=1,
    round_frames=15,
    num_workers=0,
)


def storn(x_dim=6, **options):
    torch.manual_seed(0)
    sizes = {"feature_x": (6,), "feature_z": (6,), "h_dim": 4, "g_dim": 4, "decoder": (6,), "encoder": (6,)}
    return STORN(x_dim, 2, observation="gamma", **{**sizes, **options}).eval()


def powers(*shape, seed=0):
    return torch.empty(shape).exponential_(generator=Generator().manual_seed(seed)) + 1e-3


# --- models ---


def test_weights_are_those_of_both_blocks():
    assert weights_of("srnn", "log_power") == "srnn-librispeech"
    assert weights_of("srnn", "power") == "srnn-librispeech-power"
    assert weights_of("vrnn", "log_power", scheduled=True) == "vrnn-librispeech-scheduled"
    for subject in subjects():
        assert subject.model in (REVIEW_MODELS if subject.mode == "TF" else SCHEDULED)
        assert subject.feedback == (subject.mode != "TF")
    assert len(set(subjects())) == len(subjects())


# --- what is measured ---


def test_the_past_alone_reads_the_true_past_and_latents_of_the_prior():
    """STORN's prior is standard normal, so that the draws can be made beforehand."""
    model, x = storn(), powers(3, 7, 6)
    generator = Generator().manual_seed(5)
    z = torch.stack([torch.randn(3, 2, generator=generator) for _ in range(7)], 1)
    with torch.no_grad():
        wanted = model.generation(x, {"z": z}).observation.mean
    torch.testing.assert_close(past_alone(model, x, generator=Generator().manual_seed(5)), wanted)


def test_no_round_is_teacher_forcing_and_as_many_as_frames_are_generation_mode():
    model, x = storn(), powers(2, 8, 6)
    costs, sampled = costs_by_rounds(model, x, (0, 3, 8))
    with torch.no_grad():
        z = {"z": model.inference(x, generator=Generator().manual_seed(0))["z"].sample}
        cost = [-model.generation(x, z, feedback=share).observation.log_prob(x).mean().item() for share in (0.0, 1.0)]
    assert costs[0] == pytest.approx(cost[0], rel=1e-5)
    assert costs[2] == pytest.approx(cost[1], rel=1e-5)
    assert abs(costs[2] - costs[0]) > 1e-3  # or nothing was tried
    assert sampled not in costs


def test_independent_frames_move_at_all_rates_alike():
    """Of the 62 frequencies, half a hertz apart, 31 lie from 16 Hz on."""
    power = powers(40, 125, 513)
    hertz, share = modulation(power)
    assert int((hertz >= 16).sum()) == len(hertz) // 2 == 31
    assert movement(power, power)["flicker"] == pytest.approx(50, abs=2)
    assert hertz[-1] <= 31.25
    assert share.sum().item() == pytest.approx(1)


def test_a_sound_that_swells_four_times_a_second_moves_at_four_hertz():
    time = torch.arange(125) / 62.5
    power = (10 ** torch.sin(2 * math.pi * 4 * time))[None, :, None].expand(1, 125, 513)
    found = movement(power, powers(1, 125, 513))
    assert found["syllables"] > 99
    assert found["octaves"][2] > 0.99
    assert found["flicker"] < 0.1
    by_hand = 10 * np.diff(np.sin(2 * np.pi * 4 * time.numpy()))
    assert found["step"] == pytest.approx(np.sqrt((by_hand**2).mean()), rel=1e-3)
    assert movement(power, power)["off"] == 0
    assert found["off"] > 40


def test_levels_do_not_depend_on_loudness():
    power = powers(2, 9, 513)
    torch.testing.assert_close(levels(100 * power), levels(power))
    assert levels(power).max() < 0


# --- the study ---


@pytest.fixture(scope="module")
def data(eight_voices):
    return load_experiment(str(eight_voices), replace(protocol("speech", "ci"), test_limit=2))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    small = {"h_dim": 4, "g_dim": 4, "decoder": (6,), "encoder": (6,), "observation": "gamma"}
    models = {"vae": VAE(513, 2, observation="gamma", encoder=(6,), decoder=(6,)), "srnn": SRNN(513, 2, **small)}
    return {name: model.save_pretrained(root / name) for name, model in models.items()}


def test_every_part_of_every_mode_is_one_record(data, folders, made_by, tmp_path):
    asked = [Subject("power", "vae", "TF", folders["vae"])]
    asked += [Subject("power", "srnn", mode, folders["srnn"]) for mode in ("TF", "TF-GM", "GM")]
    assert [subject.name for subject in asked] == ["VAE", "SRNN", "SRNN-TF-GM", "SRNN-GM"]
    file = ResultFile(tmp_path / "live.json", KEY)
    wanted = [task(part, s, data, SIZES) for part in PARTS for s in asked if PARTS[part].asks(s)]
    complete(file, wanted, say=lambda line: None)
    assert complete(file, wanted) == []
    found = {(r["part"], r["name"]): r for r in file.records}
    assert set(found) == {
        *(("scores", name) for name in ("VAE", "SRNN", "SRNN-TF-GM", "SRNN-GM")),
        ("past-alone", "SRNN"),
        *((part, name) for part in ("bounds", "continuations") for name in ("VAE", "SRNN")),
        *(("rounds", name) for name in ("SRNN", "SRNN-GM")),
        *(("tones", name) for name in ("SRNN", "SRNN-TF-GM", "SRNN-GM")),
    }
    for record in file.records:
        made_by(record)
    for part, name in (("scores", "SRNN"), ("past-alone", "SRNN")):
        record = found[part, name]
        assert set(record["scores"]) == {"si_sdr", "pesq_nb", "pesq", "estoi"}
        assert record["si_sdr"] == pytest.approx(np.mean(record["scores"]["si_sdr"]), abs=1e-3)
        assert len(record["scores"]["estoi"]) == len(data.test)
    bounds = found["bounds", "VAE"]
    assert (len(bounds["vlb"]), len(bounds["iw2"]), len(bounds["smc"])) == (1, 1, 1)
    assert found["continuations", "SRNN"]["real speech"]["off"] == 0
    assert {"resynthesised", "made up", "means read back"} < found["continuations", "SRNN"].keys()
    assert "means read back" not in found["continuations", "VAE"]  # which reads nothing
    assert len(found["rounds", "SRNN"]["costs"]) == 3
    assert "jamming" not in found["tones", "SRNN"]
    assert len(found["tones", "SRNN-GM"]["jamming"]["own"]) == 2
    for name in ("as it is", "equalised"):
        assert {kind: len(scores) for kind, scores in found["tones", "SRNN"][name]["scores"].items()} == {
            "si_sdr": 1,
            "estoi": 1,
        }


def test_a_model_belongs_to_the_block_of_what_it_reads(folders):
    with pytest.raises(ValueError, match=r"this block read log_power, but those of .*vae read power"):
        Subject("log_power", "vae", "TF", folders["vae"]).load()


def test_scores_are_those_of_the_benchmarks_own_test(data, folders):
    subject = Subject("power", "vae", "TF", folders["vae"])
    model = subject.load()
    model.metadata["front_end"] = data.metadata["front_end"]
    (row,) = evaluate_model(model, data, 1, scheduled=False, num_workers=0)
    (record,) = task("scores", subject, data, SIZES).compute()
    assert record["scores"]["estoi"] == pytest.approx(row["scores"]["estoi"], abs=0.05)


def test_the_recorded_scores_are_of_the_benchmarks_models():
    """Half precision and another machine move a mean by hundredths of a decibel."""
    live = json.loads(resource_path("results", "speech-live.json").read_text())
    benchmark = read_records(resource_path("results", "benchmark-librispeech.json"))
    scored = [record for record in live if record["part"] == "scores"]
    assert scored
    for record, subject in ((r, s) for r in scored for s in subjects() if (s.block, s.name) == (r["block"], r["name"])):
        (run,) = (
            r for r in benchmark if (r["model"], r["seed"], r["scheduled"]) == (subject.model, 0, subject.mode == "GM")
        )
        (test,) = (test for test in run["test"] if test["mode"] == subject.mode)
        assert record["data"]["test"] == run["data"]["test"]
        for measure, tolerance in (("si_sdr", 0.05), ("estoi", 0.005)):
            assert len(record["scores"][measure]) == test["measures"][measure]["count"]
            assert record[measure] == pytest.approx(test["measures"][measure]["mean"], abs=tolerance)


def test_the_command_knows_its_parts(capsys, monkeypatch, data, tmp_path):
    with pytest.raises(SystemExit):
        main(["louder"])
    assert "there is no louder" in capsys.readouterr().err
    monkeypatch.setattr(speech_live, "load_experiment", lambda *_: data)
    monkeypatch.setattr(speech_live, "subjects", list)
    assert main(["rounds", "--output", str(tmp_path / "live.json")]) == 0
