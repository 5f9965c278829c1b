"""The folder of a run, and what is told of it."""

import csv
import os
import signal
import sys
import types
import warnings

import pytest
import torch
from small_runs import CONFIG, TRAIN, VALIDATION, changed, same_weights, small_vae, untimed, waves

from dvae_lib.data import Standardizer
from dvae_lib.models import VAE
from dvae_lib.training import (
    TrainingConfig,
    fit,
    training_fabric,
    vlb_terms,
)
from dvae_lib.training.checkpoints import load_checkpoint
from dvae_lib.training.reporting import EpochLog


def test_what_the_folder_holds(tmp_path):
    folder = tmp_path / "new" / "run"
    data = waves(13, seed=1)
    data = waves(13, seed=1, standardizer=Standardizer.fit(data))
    result = fit(small_vae(), data, VALIDATION, CONFIG, folder=folder)
    assert sorted(p.name for p in folder.iterdir()) == ["best", "checkpoint.safetensors", "config.json", "history.csv"]
    assert TrainingConfig.from_json((folder / "config.json").read_text()) == CONFIG
    with (folder / "history.csv").open(newline="") as file:
        rows = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]
    assert rows == result.history
    best = VAE.from_pretrained(folder / "best")
    assert same_weights(dict(best.state_dict()), dict(result.best_model.state_dict()))
    assert best.metadata["training"]["best_epoch"] == result.best_epoch
    assert Standardizer.from_dict(best.metadata["standardizer"]).mean.tolist() == data.standardizer.mean.tolist()


def test_a_complete_run_is_not_repeated(tmp_path):
    first = fit(small_vae(), TRAIN, VALIDATION, CONFIG, folder=tmp_path)
    seen = []
    second = fit(small_vae(5), TRAIN, VALIDATION, CONFIG, folder=tmp_path, callback=lambda m, r: seen.append(r))
    assert seen == []
    assert second.history == first.history
    assert same_weights(dict(first.best_model.state_dict()), dict(second.best_model.state_dict()))
    assert same_weights(first.last_weights, second.last_weights)


def test_a_run_can_be_prolonged(tmp_path):
    whole = fit(small_vae(), TRAIN, VALIDATION, changed(max_epochs=5))
    fit(small_vae(), TRAIN, VALIDATION, changed(max_epochs=2), folder=tmp_path)
    prolonged = fit(small_vae(7), TRAIN, VALIDATION, changed(max_epochs=5), folder=tmp_path, resume=True)
    assert same_weights(whole.last_weights, prolonged.last_weights)
    assert untimed(whole.history) == untimed(prolonged.history)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interruption_saves_and_returns(tmp_path, number):
    whole = fit(small_vae(), TRAIN, VALIDATION, CONFIG)
    calls = []

    def interrupted(model, batch, *, generator, **scheduled):
        calls.append(1)
        if len(calls) == 8:  # one rehearsal, four steps and two validation batches make the first epoch
            os.kill(os.getpid(), number)
        return vlb_terms(model, batch, generator=generator, **scheduled)

    interrupted.__module__, interrupted.__qualname__ = vlb_terms.__module__, vlb_terms.__qualname__
    terminated = []
    handlers = signal.getsignal(signal.SIGINT), signal.signal(signal.SIGTERM, lambda *_: terminated.append(1))
    try:
        result = fit(small_vae(), TRAIN, VALIDATION, CONFIG, folder=tmp_path, objective=interrupted)
        assert signal.getsignal(signal.SIGINT) is handlers[0]
    finally:
        signal.signal(signal.SIGTERM, handlers[1])
    assert bool(terminated) == (number == signal.SIGTERM)  # who asked to terminate is obeyed, after saving
    assert result.stopped == "interrupted"
    assert len(result.history) == 1
    _, state = load_checkpoint(tmp_path / "checkpoint.safetensors")
    assert (state["progress"]["epoch"], state["progress"]["batch"]) == (1, 1)
    resumed = fit(small_vae(3), TRAIN, VALIDATION, CONFIG, folder=tmp_path, resume=True)
    assert same_weights(whole.last_weights, resumed.last_weights)
    assert untimed(whole.history) == untimed(resumed.history)


def test_second_interrupt_stops_at_once(monkeypatch):
    times = iter([0.0, 5.0])

    def impatient(model, batch, *, generator):
        if model.training:
            with monkeypatch.context() as patch:
                patch.setattr("dvae_lib.training.signals.time.monotonic", lambda: next(times))
                for _ in range(2):
                    os.kill(os.getpid(), signal.SIGINT)
            pytest.fail("was not interrupted")
        return vlb_terms(model, batch, generator=generator)

    with pytest.raises(KeyboardInterrupt):
        fit(small_vae(), TRAIN, None, CONFIG, objective=impatient)


def test_tensorboard(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    fit(small_vae(), TRAIN, VALIDATION, changed(max_epochs=2), folder=tmp_path, tensorboard=True)
    result = fit(small_vae(), TRAIN, VALIDATION, CONFIG, folder=tmp_path, tensorboard=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        events = EventAccumulator(str(tmp_path / "tensorboard"))
        events.Reload()
    logged = events.Scalars("validation_vlb_per_frame")
    assert [e.step for e in logged] == [1, 2, 3]
    assert [e.value for e in logged] == pytest.approx([r["validation_vlb_per_frame"] for r in result.history], rel=1e-6)


def test_loggers_of_fabric_receive_the_records():
    from lightning_fabric.loggers.logger import Logger

    class Listener(Logger):
        name, version, root_dir = "listener", 0, None

        def __init__(self):
            self.heard = []

        def log_metrics(self, metrics, step=None):
            self.heard.append((step, metrics["validation_vlb_per_frame"]))

        def log_hyperparams(self, *args, **kwargs):
            pass

    listener = Listener()
    result = fit(small_vae(), TRAIN, VALIDATION, CONFIG, fabric=training_fabric("cpu", loggers=[listener]))
    assert listener.heard == [(r["epoch"], r["validation_vlb_per_frame"]) for r in result.history]


def test_notebook_without_widgets(monkeypatch, capsys):
    """tqdm warns there, which would fail a notebook that is run with warnings as errors."""
    for name in ("auto", "autonotebook", "notebook"):
        monkeypatch.delitem(sys.modules, f"tqdm.{name}", raising=False)
        monkeypatch.delattr(f"tqdm.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    kernel = types.SimpleNamespace(config={"IPKernelApp": {}})
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: kernel))
    fit(small_vae(), TRAIN, VALIDATION, CONFIG, progress=True)
    assert "12/12" in capsys.readouterr().err


def test_progress_bar(capsys):
    fit(small_vae(), TRAIN, VALIDATION, CONFIG, progress=True)
    shown = capsys.readouterr().err
    assert "12/12" in shown
    assert "epoch 3/3" in shown
    assert "best" in shown
    fit(small_vae(), TRAIN, VALIDATION, CONFIG, progress=False)
    assert capsys.readouterr().err == ""


def test_a_log_file_gets_a_line_now_and_then(capsys):
    """The output is captured, so it is no terminal."""
    fit(small_vae(), TRAIN, VALIDATION, changed(max_epochs=40))
    first, last = capsys.readouterr().err.splitlines()
    assert first.startswith("epoch 1/40: vlb/frame ")
    assert last.startswith("epoch 40/40: vlb/frame ")
    assert last.endswith("; ended by max_epochs")
    log = EpochLog(9, seconds=0.0)
    log.note(1, "a")
    log.note(2, "b")
    assert capsys.readouterr().err == "epoch 1/9: a\nepoch 2/9: b\n"


@pytest.mark.parametrize("precision", ["64-true", "bf16-mixed"])
def test_precision(precision):
    usual = fit(small_vae(), TRAIN, VALIDATION, CONFIG)
    result = fit(small_vae(), TRAIN, VALIDATION, CONFIG, fabric=training_fabric("cpu", precision))
    dtype = torch.float64 if precision == "64-true" else torch.float32
    assert {p.dtype for p in result.last_weights.values()} == {dtype}
    assert {p.dtype for p in result.best_model.parameters()} == {torch.float32}
    tolerance = 0.05 if precision == "bf16-mixed" else 0.3  # other noise: drawn in double precision
    assert result.best_value == pytest.approx(usual.best_value, abs=tolerance)
