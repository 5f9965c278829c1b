"""The long trainings of speech: two steps on eight made-up voices, queued, resumed, tested."""

from dataclasses import replace

import pytest

from dvae_lib.experiments.records import RECORD, read_records
from dvae_lib.experiments.runs import MODEL, run_all
from dvae_lib.experiments.studies import speech_long
from dvae_lib.experiments.studies.speech_long import CONTROLS, NAMES, curve, curves, jobs, long_data, long_protocol
from dvae_lib.models import DVAE, build_model

TINY = replace(
    long_protocol(epochs=2, scheduled_epochs=1, warm_up=1, batch_size=16), limit=4, test_limit=2, importance_samples=2
)


@pytest.fixture(scope="module")
def data(eight_voices):
    speech_long.CORPUS, before = str(eight_voices), speech_long.CORPUS
    yield long_data(TINY)
    speech_long.CORPUS = before


@pytest.fixture
def here(monkeypatch, data, tmp_path):
    """The study's command, on the made-up voices, in an empty folder."""
    monkeypatch.setattr(speech_long, "long_protocol", lambda: TINY)
    monkeypatch.setattr(speech_long, "long_data", lambda protocol: data)

    def command(*arguments):
        return speech_long.main([*arguments, "--runs", str(tmp_path / "runs"), "--output", str(tmp_path / "long.json")])

    return command


def test_training_sequences_overlap_and_validation_does_not(data):
    assert data.train.hop == 10
    assert data.validation.hop == data.validation.sequence_length == 50


def test_the_rate_falls_over_the_whole_budget_and_the_best_epoch_is_kept():
    training = long_protocol().training
    rates = [training.rate(epoch) for epoch in range(training.max_epochs)]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == 2e-3
    assert rates[-3] == rates[-1] == 5e-5
    assert training.patience is None
    assert training.settled == 3
    assert set(NAMES) >= {"srnn", "dsae", "vrnn-scheduled"}


def test_a_queue_is_trained_then_tested(here, tmp_path, capsys):
    assert here("train", "srnn-scheduled", "vae") == 0
    assert "srnn" in capsys.readouterr().out
    assert not list((tmp_path / "runs").rglob(RECORD))  # the test part has not been looked at
    assert here("curves", "vae") == 0
    said = capsys.readouterr().out
    assert "2 of 2 epochs" in said
    assert "rate 2.00e-03" in said
    assert here("tones", "srnn-scheduled", "vae") == 0
    said = capsys.readouterr().out
    assert "srnn-scheduled on voices, seed 0 (log_power): bin" in said
    assert said.count("  own, tone silenced: cost") == 2
    assert "vae" not in said
    assert here("test", "srnn-scheduled", "vae") == 0
    records = {(r["model"], r["scheduled"]): r for r in read_records(tmp_path / "long.json")}
    assert set(records) == {("srnn", False), ("srnn", True), ("vae", False)}
    assert records["vae", False]["config"]["inputs"] == "log_power"
    assert records["vae", False]["training"]["learning_rate"] == [2e-3, 1.025e-3]
    (kept,) = (path.parent for path in (tmp_path / "runs").rglob(f"srnn-scheduled/**/{MODEL}/config.json"))
    trained = DVAE.from_pretrained(kept)
    assert trained.inputs == "log_power"
    assert trained.metadata["made_by"] == f"{speech_long.COMMAND} train"


def test_the_wide_vae_is_as_large_as_the_srnn_and_trained_and_tested_alike(here, tmp_path, capsys):
    assert here("test", "vae", "--control", "wide") == 0
    (record,) = read_records(tmp_path / "long.json")
    srnn = sum(p.numel() for p in build_model("srnn", "speech").parameters())
    assert record["weights"] == pytest.approx(srnn, rel=1e-3)
    assert record["config"]["schedules"] == TINY.training.to_dict()["schedules"]
    assert record["training"]["epochs"] == TINY.training.max_epochs
    (kept,) = (path.parent for path in (tmp_path / "runs").rglob(f"{MODEL}/config.json"))
    assert DVAE.from_pretrained(kept).metadata["made_by"] == f"{speech_long.COMMAND} train vae --control wide"
    with pytest.raises(SystemExit):
        here("test", "srnn", "--control", "wide")
    assert "there is no srnn; there are vae" in capsys.readouterr().err


def test_a_control_without_a_warm_up_is_trained_and_tested(here, tmp_path):
    assert here("test", "--control", "vae-networks", "--seeds", "2") == 0
    records = read_records(tmp_path / "long.json")
    assert {(r["model"], r["seed"]) for r in records} == {(m, s) for m in ("vae", "dkf", "dsae") for s in (0, 1)}
    assert all(record["config"]["schedules"] == {} for record in records)


@pytest.mark.parametrize(("model", "own"), [("dkf", {"e_z": "e_local"}), ("dsae", {"d_x": None})])
def test_the_networks_of_the_vae_are_those_of_the_vae(model, own):
    vae = build_model("vae", "speech")
    network = dict(build_model(model, "speech", **CONTROLS["vae-networks"].options[model]).named_parameters())
    for name, value in vae.named_parameters():
        part, _, rest = name.partition(".")
        called = own.get(part, part)
        assert called is None or network[f"{called}.{rest}"].shape == value.shape
    if model == "dsae":
        assert network["d_x.0.weight"].shape == (128, 32)  # it decodes z_t and v


def test_the_dkf_with_its_own_number_of_weights_has_it():
    sizes = [
        sum(p.numel() for p in build_model("dkf", "speech", **options).parameters())
        for options in ({}, CONTROLS["own-weights"].options["dkf"])
    ]
    assert sizes[1] == pytest.approx(sizes[0], rel=1e-3)


def test_what_was_interrupted_goes_on(data, tmp_path):
    (job,) = jobs(["vae"], data=data, protocol=TINY)
    half = replace(TINY, training=replace(TINY.training, max_epochs=1))
    run_all([job._replace(protocol=half)], tmp_path, train_only=True)
    assert len(curve(job, tmp_path)) == 1
    (job.folder(tmp_path) / "trained.json").unlink()
    run_all([job], tmp_path, train_only=True)
    epochs = curve(job, tmp_path)
    assert [row["epoch"] for row in epochs] == [1, 2]
    assert epochs[1]["step"] == 2 * epochs[0]["step"]
    assert curves([job], tmp_path).startswith(f"{job.name}: 2 of 2 epochs\n  1: step")
    assert curve(job, tmp_path / "elsewhere") == []
