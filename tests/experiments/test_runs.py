"""Runs: what is written down, what is not done again, and what survives an interruption, a divergence, a crowd."""

import csv
import json
import multiprocessing
import os
import pickle
import shutil
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from dvae_lib.data.sequences import SequenceDataset
from dvae_lib.experiments import (
    Job,
    RecordError,
    Run,
    evaluate_model,
    plan,
    read_records,
    run_all,
    run_one,
    runs,
    summarise,
)
from dvae_lib.experiments.records import write_records
from dvae_lib.experiments.runs import _claim, record_of
from dvae_lib.models import DVAE
from dvae_lib.training import TrainingConfig
from dvae_lib.training.checkpoints import load_checkpoint
from dvae_lib.training.schedules import Schedule

# Processes are forked from one that has imported torch already, which takes seconds, and done nothing else.
processes = multiprocessing.get_context("forkserver" if sys.platform != "win32" else "spawn")
processes.set_forkserver_preload(["numpy", "pytest", "dvae_lib.models", "dvae_lib.training", "dvae_lib.experiments"])
with_processes = pytest.mark.skipif(sys.platform == "win32", reason="needs fork, signals and locks")

DONE = {"num_workers": 0, "progress": False}
VAE, STORN, SRNN = Run("vae", False, 0), Run("storn", False, 0), Run("srnn", False, 0)


@pytest.fixture(autouse=True)
def _one_thread():
    """As in the processes that are compared with this one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _nobody_to_wait_for(monkeypatch):
    """One process by itself has no reason to wait: if it does, it would for ever."""

    def sleep(seconds):
        raise AssertionError("waits for others, and there are none")

    monkeypatch.setattr(runs, "time", SimpleNamespace(sleep=sleep, monotonic=time.monotonic))


@pytest.fixture(scope="module")
def job(walks, tiny):
    """A function that makes a job."""
    usual = walks()

    def make(run=VAE, *, corpus=usual, **training):
        return Job(run, corpus, tiny(**training))

    return make


@pytest.fixture
def called(monkeypatch):
    """The names of the functions `fit` and `judge`, as often as they have been called."""
    calls = []
    for name in ("fit", "evaluate_model"):
        original = getattr(runs, name)

        def noted(*args, _name=name, _original=original, **options):
            calls.append(_name)
            return _original(*args, **options)

        monkeypatch.setattr(runs, name, noted)
    return calls


def state(root):
    """All files under a folder, with the times at which they were written."""
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in Path(root).rglob("*") if path.is_file()}


def weights(folder):
    return DVAE.from_pretrained(folder / "model").state_dict()


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def outcome(record):
    """What does not depend on the machine's speed."""
    timeless = {name: record["training"][name] for name in ("epochs", "steps", "best_epoch", "best_value", "curve")}
    return {**{name: record[name] for name in ("model", "seed", "config", "data", "options", "test")}, **timeless}


# --- one run ---


def test_a_run_writes_down_what_it_was_and_what_it_came_to(job, tmp_path):
    this = job(Run("dkf", False, 3))
    record = run_one(this, tmp_path, **DONE)
    here = tmp_path / "walks" / "dkf" / "seed-3"
    assert this.folder(tmp_path) == here
    assert read_records(here / "record.json") == [record]
    json.loads((here / "record.json").read_text(), parse_constant=pytest.fail)  # no NaN, which other readers refuse
    wanted = {
        "format": 1,
        "corpus": "walks",
        "experiment": "motion",
        "model": "dkf",
        "scheduled": False,
        "seed": 3,
        "budget": "ci",
        "status": "done",
        "data": this.corpus.facts,
    }
    assert {name: record[name] for name in wanted} == wanted
    assert TrainingConfig.from_dict(record["config"]) == replace(this.protocol.training, seed=3)
    model = DVAE.from_pretrained(here / "model")
    assert record["weights"] == sum(p.numel() for p in model.parameters())
    assert (record["options"]["x_dim"], record["options"]["z_dim"]) == (6, 2)
    assert record["options"]["observation"] == "centimetre_gaussian"
    for machine in (record["machine"], record["judged"]):
        assert (machine["device"], machine["torch"], machine["threads"]) == ("CPU", torch.__version__, 1)
        assert machine["python"] == ".".join(map(str, sys.version_info[:3]))
        assert machine["cores"] >= 1
        assert machine["system"]
    assert record["judged"]["seconds"] >= 0
    assert "trained_on" not in record  # which says the same as its data


def test_what_is_known_of_a_training_is_its_history(job, tmp_path):
    record = run_one(job(), tmp_path, **DONE)
    training = record["training"]
    with (tmp_path / "walks/vae/seed-0/training/history.csv").open() as file:
        history = list(csv.DictReader(file))
    assert training["epochs"] == len(history) == 2
    assert training["steps"] == 6
    for part in ("train", "validation"):
        assert training["curve"][part] == pytest.approx([float(r[f"{part}_vlb_per_frame"]) for r in history], rel=1e-5)
    values = [float(r["validation_vlb_per_frame"]) for r in history]
    assert training["best_value"] == max(values)
    assert training["best_epoch"] == 1 + values.index(max(values))
    assert (training["stopped"], training["converged"]) == ("max_epochs", False)
    seconds = [float(r["seconds"]) for r in history]
    total = sum(seconds)
    assert training["seconds"] == pytest.approx(total, abs=0.006)
    assert training["seconds_to_best"] == pytest.approx(sum(seconds[: training["best_epoch"]]), abs=0.006)
    assert training["seconds_per_step"] == pytest.approx(total / 6)
    assert training["frames_per_second"] == pytest.approx(6 * 8 * 2 / total)
    assert training["data_share"] == pytest.approx(sum(float(r["data_seconds"]) for r in history) / total)
    assert 20 < training["peak_memory_mb"] < 200_000
    assert (tmp_path / "walks/vae/seed-0/epochs").read_text() == "2"


def test_a_training_that_the_validation_bound_has_ended_has_converged(job, tmp_path):
    """Steps that do only harm: early stopping ends the run, and what came before the harm is kept."""
    harm = Schedule.steps([0.01, 0.5], every=1)
    record = run_one(job(max_epochs=9, patience=2, learning_rate=harm, schedules={}), tmp_path, **DONE)
    training = record["training"]
    assert (training["stopped"], training["converged"]) == ("patience", True)
    assert training["epochs"] == training["best_epoch"] + 2 < 9
    assert training["seconds_to_best"] < training["seconds"]


def test_the_model_is_judged_as_it_is_kept(job, tmp_path):
    """In half precision, so that whoever loads it finds the same numbers."""
    this = job()
    record = run_one(this, tmp_path, **DONE)
    model = DVAE.from_pretrained(this.folder(tmp_path) / "model").eval()
    assert all(torch.equal(p, p.half().float()) for p in model.parameters())
    assert record["test"] == evaluate_model(model, this.corpus, 2, scheduled=False, num_workers=0)
    assert record["test"][0]["importance_samples"] == this.protocol.importance_samples == 2
    metadata = model.metadata
    assert (metadata["corpus"], metadata["seed"], metadata["licence"]) == ("walks", 0, "none")
    assert metadata["made_by"] == "dvae benchmark --budget ci"
    assert metadata["training"] == record["config"]
    assert metadata["best_epoch"] == record["training"]["best_epoch"]
    assert metadata["validation_bound_per_frame"] == record["training"]["best_value"]


def test_runs_of_the_same_seed_are_the_same_and_of_another_are_not(job, tmp_path):
    records = []
    for root, seed in (("a", 1), ("b", 1), ("c", 2)):
        torch.manual_seed(99 + len(records))  # which does not matter
        records.append(run_one(job(Run("vae", False, seed)), tmp_path / root, **DONE))
    of = [weights(tmp_path / root / f"walks/vae/seed-{seed}") for root, seed in (("a", 1), ("b", 1), ("c", 2))]
    assert equal(of[0], of[1])
    assert outcome(records[0]) == outcome(records[1])
    assert not equal(of[0], of[2])
    untrained = [job(Run("vae", False, seed), learning_rate=1e-12) for seed in (1, 2)]
    for this in untrained:
        run_one(this, tmp_path / "untrained", **DONE)
    assert not equal(*(weights(this.folder(tmp_path / "untrained")) for this in untrained))  # initial weights, too


def test_the_optimiser_is_adam_at_the_protocols_rate(job, tmp_path, monkeypatch):
    seen = []
    original = torch.optim.Adam.step

    def step(self, *args, **options):
        seen.append(self.param_groups[0]["lr"])
        return original(self, *args, **options)

    monkeypatch.setattr(torch.optim.Adam, "step", step)
    run_one(job(learning_rate=0.0125), tmp_path, **DONE)
    assert seen == [0.0125] * 6


def test_a_corpus_that_is_a_folder_is_called_by_its_last_name(job, walks, tmp_path):
    this = job(corpus=walks(name="/somewhere/my/recordings"))
    record = run_one(this, tmp_path, **DONE)
    assert record["corpus"] == "recordings"
    assert (tmp_path / "recordings/vae/seed-0/record.json").exists()
    assert this.name == "vae on recordings, seed 0"


def test_speech_is_trained_and_judged(eight_voices, tmp_path):
    from dvae_lib.experiments import load_experiment, protocol

    corpus = load_experiment(str(eight_voices), "ci")
    record = run_one(Job(VAE, corpus, protocol("speech", "ci")), tmp_path, **DONE)
    assert record["experiment"] == "speech"
    assert set(record["test"][0]["measures"]) == {"si_sdr", "pesq", "pesq_nb", "pesq_wb", "estoi"}
    model = DVAE.from_pretrained(tmp_path / "voices/vae/seed-0/model")
    assert model.metadata["front_end"] == corpus.metadata["front_end"]
    assert (model.x_dim, model.z_dim, model.observation) == (513, 16, "gamma")


# --- scheduled sampling ---


def test_scheduled_sampling_goes_on_from_the_weights_before(job, tmp_path, monkeypatch):
    this = job(STORN)
    run_one(this, tmp_path, **DONE)
    before, given = weights(this.folder(tmp_path)), []
    original = runs.fit

    def fit(model, *args, **options):
        given.append(({name: value.clone() for name, value in model.state_dict().items()}, dict(model.metadata)))
        return original(model, *args, **options)

    monkeypatch.setattr(runs, "fit", fit)
    then = job(STORN._replace(scheduled=True))
    record = run_one(then, tmp_path, **DONE)
    ((start, metadata),) = given
    assert equal(start, before)
    assert metadata == {}  # what is said of the first training is not said of the second
    assert record["scheduled"] is True
    assert record["config"] == then.protocol.scheduled.to_dict()
    assert [row["mode"] for row in record["test"]] == ["GM"]
    assert record["training"]["epochs"] == 5
    assert then.folder(tmp_path) == tmp_path / "walks/storn-scheduled/seed-0"
    assert equal(weights(this.folder(tmp_path)), before)


def test_without_the_weights_before_there_is_no_scheduled_sampling(job, tmp_path):
    with pytest.raises(FileNotFoundError, match="storn"):
        run_one(job(STORN._replace(scheduled=True)), tmp_path, **DONE)
    done = run_all([job(STORN._replace(scheduled=True))], tmp_path, **DONE)  # and nobody to wait for
    assert done.records == {}
    assert done.errors == {
        "storn-scheduled on walks, seed 0": "it begins with the weights of storn, and there are none"
    }


# --- what is there is not done again ---


def test_a_run_that_is_there_is_not_done_again(job, tmp_path, called):
    record = run_one(job(), tmp_path, **DONE)
    before = state(tmp_path)
    assert called == ["fit", "evaluate_model"]
    assert run_one(job(), tmp_path, **DONE) == record
    assert run_one(job(), tmp_path, train_only=True, **DONE) == record
    assert run_all([job()], tmp_path, **DONE).records == {("walks", VAE): record}
    assert record_of(job(), tmp_path) == record
    assert called == ["fit", "evaluate_model"]
    after = state(tmp_path)
    assert {path: after[path] for path in before if path.name != ".claim"} == before
    assert set(after) - set(before) <= {tmp_path / "walks/vae/seed-0/.claim"}


def test_a_result_under_another_protocol_is_refused(job, tmp_path, called):
    run_one(job(), tmp_path, **DONE)
    before = state(tmp_path)
    with pytest.raises(ValueError, match=r"another protocol: its config is .*'batch_size': 2.*Choose another folder"):
        run_one(job(batch_size=5), tmp_path, **DONE)
    other = job()
    with pytest.raises(ValueError, match="another protocol: its budget is ci, wanted is full"):
        run_one(other._replace(protocol=replace(other.protocol, budget="full")), tmp_path, **DONE)
    assert state(tmp_path) == before
    assert called == ["fit", "evaluate_model"]
    assert run_one(job(Run("vae", False, 1), batch_size=5), tmp_path, **DONE)  # another run is none of its business


def test_a_result_on_other_data_is_refused(job, walks, tmp_path):
    run_one(job(), tmp_path, **DONE)
    before = state(tmp_path)
    changed = replace(walks(), test=walks(seed=1).test)
    with pytest.raises(ValueError, match=r"other data of that name: .*and here are .*Choose another folder"):
        run_one(job(corpus=changed), tmp_path, **DONE)
    assert state(tmp_path) == before


def test_a_result_of_another_version_or_a_damaged_one_is_refused(job, tmp_path):
    record = run_one(job(), tmp_path, **DONE)
    path = tmp_path / "walks/vae/seed-0/record.json"
    write_records(path, [{**record, "format": 2}])
    with pytest.raises(RecordError, match="has format 2"):
        run_one(job(), tmp_path, **DONE)
    path.write_text("{")
    done = run_all([job(), job(Run("dsae", False, 0))], tmp_path, **DONE)
    assert "Delete it and run the benchmark again" in done.errors["vae on walks, seed 0"]
    assert [key[1].name for key in done.records] == ["dsae"]
    path.unlink()
    assert outcome(run_one(job(), tmp_path, **DONE)) == outcome(record)


# --- training first, judging later ---


@pytest.mark.parametrize("run", [VAE, STORN])
def test_judged_later_is_judged_the_same(job, run, tmp_path, called):
    at_once = run_one(job(run), tmp_path / "once", **DONE)
    assert run_one(job(run), tmp_path / "later", train_only=True, **DONE) is None
    here = job(run).folder(tmp_path / "later")
    assert not (here / "record.json").exists()
    assert run_one(job(run), tmp_path / "later", train_only=True, **DONE) is None
    assert called == ["fit", "evaluate_model", "fit"]
    trained = json.loads((here / "trained.json").read_text())
    later = run_one(job(run), tmp_path / "later", **DONE)
    assert called == ["fit", "evaluate_model", "fit", "evaluate_model"]
    assert outcome(later) == outcome(at_once)
    assert (later["training"], later["machine"]) == (trained["training"], trained["machine"])
    assert later.keys() == at_once.keys()


@pytest.mark.parametrize("part", ["train", "validation", "test"])
def test_what_was_trained_otherwise_is_not_judged(job, walks, part, tmp_path, called):
    run_one(job(), tmp_path, train_only=True, **DONE)
    before = state(tmp_path)
    with pytest.raises(ValueError, match=r"seed-0 holds a model that was trained otherwise: its config is .*another f"):
        run_one(job(batch_size=5), tmp_path, **DONE)
    changed = replace(walks(), **{part: getattr(walks(seed=1), part)})
    if part == "test":  # which the training has not seen
        assert run_one(job(corpus=changed), tmp_path, **DONE)["data"] == changed.facts
        return
    with pytest.raises(ValueError, match=r"trained otherwise: its trained_on is .*'train': .*wanted is"):
        run_one(job(corpus=changed), tmp_path, **DONE)
    assert state(tmp_path) == before
    assert called == ["fit"]


def test_the_scheduled_runs_of_many_are_trained_before_any_is_judged(job, tmp_path, called):
    jobs = [job(STORN), job(STORN._replace(scheduled=True))]
    reports = []
    done = run_all(jobs, tmp_path, train_only=True, report=lambda *said: reports.append(said), **DONE)
    assert called == ["fit", "fit"]
    assert (done.records, done.errors, done.interrupted) == ({}, {}, False)
    assert [(this.run, record) for this, record in reports] == [(this.run, None) for this in jobs]
    done = run_all(jobs, tmp_path, **DONE)
    assert called == ["fit", "fit", "evaluate_model", "evaluate_model"]
    assert list(done.records) == [this.key for this in jobs]


# --- divergence ---


@pytest.fixture
def diverging(monkeypatch):
    """A function that makes the models of a name diverge, by weights that overflow."""
    original = runs.Protocol.build

    def diverge(*names):
        def build(self, run, x_dim):
            model = original(self, run, x_dim)
            if run.model in names:
                with torch.no_grad():
                    for parameter in model.parameters():
                        parameter.fill_(1e30)
            return model

        monkeypatch.setattr(runs.Protocol, "build", build)

    return diverge


@pytest.mark.parametrize("train_only", [False, True])
def test_a_model_that_diverges_is_a_result_too(job, diverging, tmp_path, called, train_only):
    diverging("vae")
    record = run_one(job(), tmp_path, train_only=train_only, **DONE)
    assert record["status"] == "diverged"
    assert "not finite" in record["error"]
    assert record["machine"]["device"] == "CPU"
    assert record["data"] == job().corpus.facts
    assert not {"test", "training"} & set(record)
    assert read_records(tmp_path / "walks/vae/seed-0/record.json") == [record]
    assert not (tmp_path / "walks/vae/seed-0/model").exists()
    assert called == ["fit"]
    assert run_one(job(), tmp_path, **DONE) == record
    assert called == ["fit"]


def test_what_would_follow_a_divergence_is_not_begun_and_others_go_on(job, diverging, tmp_path, called):
    diverging("storn")
    jobs = [job(run) for run in plan(["storn", "vae", "storn-scheduled", "srnn-scheduled"])]
    done = run_all(jobs, tmp_path, **DONE)
    assert {key[1].name: record["status"] for key, record in done.records.items()} == {
        "storn": "diverged",
        "vae": "done",
        "srnn": "done",
        "srnn-scheduled": "done",
    }
    assert done.errors == {
        "storn-scheduled on walks, seed 0": "it begins with the weights of storn, and there are none"
    }
    assert called.count("fit") == 4
    assert not (tmp_path / "walks/storn-scheduled/seed-0/training").exists()
    assert [line.name + line.marks for line in summarise(list(done.records.values()))] == [
        "VAE†",
        "STORN✗",
        "SRNN†",
        "SRNN-TF-GM†",
        "SRNN-GM†",
    ]
    again = run_all(jobs, tmp_path, **DONE)
    assert (again.records, again.errors) == (done.records, done.errors)
    assert called.count("fit") == 4


# --- many runs ---


def test_all_runs_in_order_each_reported_once(job, tmp_path):
    jobs = [job(run) for run in (*plan(["vae"], (1,)), *plan(["storn-scheduled", "vae"]))]
    reports = []
    done = run_all(jobs, tmp_path, report=lambda *said: reports.append(said), **DONE)
    assert [this.run for this, _ in reports] == [this.run for this in jobs]
    assert [record for _, record in reports] == list(done.records.values())
    assert list(done.records) == [this.key for this in jobs] == [("walks", this.run) for this in jobs]
    assert (done.errors, done.interrupted) == ({}, False)
    again = run_all(jobs, tmp_path, report=lambda *said: reports.append(said), **DONE)
    assert again.records == done.records
    assert len(reports) == len(jobs)


def test_a_run_that_fails_does_not_stop_the_others(job, tmp_path, monkeypatch):
    original = runs.fit

    def fit(model, *args, **options):
        if type(model).__name__ == "STORN":
            raise RuntimeError("out of memory")
        return original(model, *args, **options)

    monkeypatch.setattr(runs, "fit", fit)
    jobs = [job(STORN), job(STORN._replace(scheduled=True)), job()]
    done = run_all(jobs, tmp_path, **DONE)
    assert [key[1].name for key in done.records] == ["vae"]
    assert done.errors == {
        "storn on walks, seed 0": "RuntimeError: out of memory",
        "storn-scheduled on walks, seed 0": "it begins with the weights of storn, and there are none",
    }
    monkeypatch.setattr(runs, "fit", original)
    assert len(run_all(jobs, tmp_path, **DONE).records) == 3  # what failed is tried again


def test_results_without_their_weights_are_results(job, tmp_path, called):
    """As where a folder holds the result files alone: nothing waits for weights that do not come."""
    jobs = [job(STORN), job(STORN._replace(scheduled=True))]
    done = run_all(jobs, tmp_path / "whole", **DONE)
    for this in jobs:
        this.folder(tmp_path / "some").mkdir(parents=True)
        write_records(this.folder(tmp_path / "some") / "record.json", [done.records[this.key]])
    called.clear()
    assert run_all(jobs, tmp_path / "some", **DONE).records == done.records
    (jobs[1].folder(tmp_path / "some") / "record.json").unlink()
    again = run_all(jobs, tmp_path / "some", **DONE)
    assert list(again.records) == [jobs[0].key]
    assert list(again.errors) == [jobs[1].name]
    assert called == []


@with_processes
def test_a_claim_is_had_by_one_at_a_time(tmp_path):
    with _claim(tmp_path / "a") as first, _claim(tmp_path / "a") as second, _claim(tmp_path / "b") as elsewhere:
        assert (first, second, elsewhere) == (True, False, True)
    with _claim(tmp_path / "a") as again:
        assert again


@with_processes
def test_what_another_has_claimed_is_left_to_it_and_waited_for(job, tmp_path, called, monkeypatch):
    """The other one is at work on the first job, which it finishes while this process has nothing else to do."""
    jobs = [job(STORN), job(VAE), job(STORN._replace(scheduled=True))]
    other = _claim(jobs[0].folder(tmp_path))
    assert other.__enter__()
    seen, reports = [], []

    def sleep(seconds):
        seen.append([path.parts[-3] for path in sorted(tmp_path.rglob("record.json"))])
        if len(seen) == 2:
            run_one(jobs[0], tmp_path, **DONE)
            other.__exit__(None, None, None)

    monkeypatch.setattr(runs.time, "sleep", sleep)
    done = run_all(jobs, tmp_path, report=lambda this, _: reports.append(this.run.name), **DONE)
    assert seen == [["vae"], ["vae"]]
    assert set(done.records) == {this.key for this in jobs}
    assert reports == ["vae", "storn-scheduled"]  # what the other one has done is not reported here
    assert called.count("fit") == 3


@with_processes
def test_after_an_interruption_nothing_more_is_begun_or_waited_for(job, tmp_path, monkeypatch):
    def interrupted(this, root, **options):
        raise runs.Interrupted

    monkeypatch.setattr(runs, "run_one", interrupted)
    jobs = [job(STORN), job(VAE), job(Run("dkf", False, 0))]
    with _claim(jobs[0].folder(tmp_path)):
        done = run_all(jobs, tmp_path, **DONE)
    assert (done.interrupted, done.records, done.errors) == (True, {}, {})
    assert not jobs[2].folder(tmp_path).exists()


# --- processes that are interrupted, and that share the work ---


def slowly(pause):
    """Let every batch take a while, so that there is time to be interrupted."""
    original = SequenceDataset.batch

    def batch(self, indices):
        time.sleep(pause)
        return original(self, indices)

    SequenceDataset.batch = batch


def work(pickled, root, said, pause, partner=None):
    """In a process of its own: all jobs, as slowly as is asked for; what was done is written down."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background processes ignore it
    slowly(pause)
    if partner is not None:  # begin together
        Path(f"{said}.ready").touch()
        while not Path(f"{partner}.ready").exists():
            time.sleep(0.002)
    trained, reported = [], []
    original = runs.fit

    def fit(*args, **options):
        trained.append(str(options["folder"]))
        return original(*args, **options)

    runs.fit = fit
    done = run_all(pickle.loads(pickled), root, report=lambda this, _: reported.append(this.name), **DONE)
    result = {"trained": trained, "reported": reported, "interrupted": done.interrupted, "errors": done.errors}
    result["records"] = [run.name for _, run in done.records]
    Path(said).write_text(json.dumps(result))


def begin(jobs, root, said, pause, partner=None):
    arguments = (pickle.dumps(jobs), str(root), str(said), pause, None if partner is None else str(partner))
    process = processes.Process(target=work, args=arguments)
    process.start()
    return process


EPOCHS = {"max_epochs": 6, "checkpoint_steps": 2}


@pytest.fixture(scope="module")
def in_peace(job, tmp_path_factory):
    """The folder in which two runs, the one after the other, were not interrupted."""
    root = tmp_path_factory.mktemp("in_peace")
    torch.set_num_threads(1)
    for run in (STORN, STORN._replace(scheduled=True)):
        run_one(job(run, **EPOCHS), root, **DONE)
    return root


@with_processes
@pytest.mark.parametrize(
    ("number", "scheduled"), [(signal.SIGINT, False), (signal.SIGTERM, True), (signal.SIGKILL, False)]
)
def test_interrupted_training_goes_on_with_the_same_call(job, in_peace, tmp_path, number, scheduled):
    this = job(STORN._replace(scheduled=scheduled), **EPOCHS)
    jobs = [this, job(VAE, **EPOCHS)]
    if scheduled:
        shutil.copytree(this.starts_from.folder(in_peace), this.starts_from.folder(tmp_path))
    process = begin(jobs, tmp_path, tmp_path / "said", pause=0.05)
    here = this.folder(tmp_path)
    while not ((here / "epochs").exists() and (here / "epochs").read_text() >= "2"):
        assert process.is_alive()
        time.sleep(0.005)
    os.kill(process.pid, number)
    process.join(120)
    assert process.exitcode == (0 if number == signal.SIGINT else -number)
    if number == signal.SIGINT:
        said = json.loads((tmp_path / "said").read_text())
        assert (said["interrupted"], said["records"], said["reported"]) == (True, [], [])
    assert not (here / "trained.json").exists()
    assert not (here / "record.json").exists()
    assert not jobs[1].folder(tmp_path).exists()
    _, saved = load_checkpoint(here / "training/checkpoint.safetensors")
    assert 0 < saved["progress"]["step"] < 18
    record = run_one(this, tmp_path, **DONE)
    assert record["training"]["epochs"] == 6
    assert equal(weights(here), weights(this.folder(in_peace)))
    assert outcome(record) == outcome(record_of(this, in_peace))


@with_processes
def test_processes_share_the_work_and_nothing_is_done_twice(job, tmp_path):
    jobs = [job(run) for run in plan(["vae", "dkf", "storn-scheduled", "dsae"])]
    root, said = tmp_path / "shared", [tmp_path / "first", tmp_path / "second"]
    workers = [begin(jobs, root, said[k], 0.03, partner=said[1 - k]) for k in range(2)]
    for worker in workers:
        worker.join(120)
        assert worker.exitcode == 0
    told = [json.loads(path.read_text()) for path in said]
    for one in told:
        assert one["errors"] == {}
        assert sorted(one["records"]) == sorted(this.run.name for this in jobs)  # each knows of all in the end
        assert one["trained"]
        assert len(one["trained"]) == len(one["reported"])
    assert sorted(told[0]["reported"] + told[1]["reported"]) == sorted(this.name for this in jobs)
    trained = told[0]["trained"] + told[1]["trained"]
    assert sorted(trained) == sorted(str(this.folder(root) / "training") for this in jobs)
    alone = run_all(jobs, tmp_path / "alone", **DONE)
    for this in jobs:
        assert outcome(record_of(this, root)) == outcome(alone.records[this.key])


def test_options_of_a_model_become_json_data():
    options = {"a": (1, 2.5, None), "b": {"c": True}, "d": torch.nn.Tanh, "e": "text"}
    plain = runs._plain(options)
    assert plain == {"a": [1, 2.5, None], "b": {"c": True}, "d": repr(torch.nn.Tanh), "e": "text"}
    assert json.loads(json.dumps(plain)) == plain
