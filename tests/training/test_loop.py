"""The training loop in one process: what it optimises, what it keeps, what it refuses."""

import csv
import dataclasses
import json
import math
import os
import signal
import sys
import types
import warnings

import pytest
import torch
from lightning_fabric import Fabric
from torch import Generator, nn

from dvae_lib.data import SequenceDataset, Standardizer, from_arrays
from dvae_lib.models import DKF, DVAE, MODELS, VAE, build_model
from dvae_lib.objectives import importance_weighted_bound, log_weights
from dvae_lib.randomness import derive_seed, global_random_state
from dvae_lib.training import (
    NonFiniteError,
    Schedule,
    TrainingConfig,
    fit,
    training_fabric,
    vlb_terms,
)
from dvae_lib.training.checkpoints import CheckpointError, load_checkpoint, save_checkpoint
from dvae_lib.training.reporting import EpochLog


def waves(count, seed, shortest=6, longest=12, **options):
    """Smooth sequences of different lengths."""
    g = Generator().manual_seed(seed)
    lengths = torch.randint(shortest, longest + 1, (count,), generator=g).tolist()
    return SequenceDataset([torch.randn(n, 3, generator=g).cumsum(0) * 0.3 for n in lengths], **options)


def small_vae(seed=0):
    torch.manual_seed(seed)
    return VAE(3, 2, encoder=(4,), decoder=(4,))


TRAIN, VALIDATION = waves(13, seed=1), waves(5, seed=2)
CONFIG = TrainingConfig(batch_size=4, max_epochs=3, learning_rate=0.01)


def changed(**values):
    return dataclasses.replace(CONFIG, **values)


def same_weights(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def untimed(history):
    return [{k: v for k, v in record.items() if "seconds" not in k} for record in history]


# ---------------------------------------------------------------- what is computed


def test_the_loop_is_adam_on_the_vlb_per_frame():
    """Against the few lines that one would write by hand."""
    model, by_hand = small_vae(), small_vae()
    config = changed(schedules={"beta": Schedule.linear(0, 1, epochs=2)}, gradient_clip=0.5)
    result = fit(model, TRAIN, None, config)

    optimizer = torch.optim.Adam(by_hand.parameters(), lr=0.01)
    generator, step = Generator(), 0
    for epoch in range(3):
        order = torch.randperm(13, generator=Generator().manual_seed(derive_seed(0, "order", epoch)))
        value = vlb = 0.0
        for indices in order.split(4):
            generator.manual_seed(derive_seed(0, "noise", step))
            batch = TRAIN.batch(indices)
            bound = by_hand.vlb(batch.x, lengths=batch.lengths, beta=min(1.0, epoch / 2), generator=generator)
            loss = -bound.value.sum() / len(indices) / (TRAIN.num_frames / 13)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(by_hand.parameters(), 0.5)
            optimizer.step()
            step += 1
            value += bound.value.sum().item()
            vlb += (bound.reconstruction - bound.total_kl).sum().item()
        record = result.history[epoch]
        assert record["train_objective_per_frame"] == pytest.approx(value / TRAIN.num_frames, rel=1e-4)
        assert record["train_vlb_per_frame"] == pytest.approx(vlb / TRAIN.num_frames, rel=1e-4)
        assert record["beta"] == min(1.0, epoch / 2)
    for trained, wanted in zip(model.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(trained, wanted, rtol=1e-4, atol=1e-5)
    assert result.best_epoch == 3
    assert record["gradient_norm"] > 0.5  # the clip had something to do


def test_every_frame_weighs_the_same():
    """The losses of an epoch's batches estimate the VLB per frame, where lengths differ as well."""
    losses = []

    def record(model, batch, *, generator):
        terms = vlb_terms(model, batch, generator=generator)
        if model.training:
            terms["objective"].register_hook(lambda g: losses.append((g.clone(), len(g))))
        return terms

    fit(small_vae(), TRAIN, None, changed(max_epochs=1), objective=record)
    for gradient, size in losses:
        torch.testing.assert_close(gradient, torch.full((size,), -13 / (size * TRAIN.num_frames)))


def test_the_same_call_gives_the_same_weights_whatever_was_drawn_before():
    first = fit(small_vae(), TRAIN, VALIDATION, CONFIG)
    model = small_vae()
    torch.randn(17)
    second = fit(model, TRAIN, VALIDATION, CONFIG)
    assert same_weights(first.last_weights, second.last_weights)
    assert untimed(first.history) == untimed(second.history)
    other = fit(small_vae(), TRAIN, VALIDATION, changed(seed=1))
    assert not same_weights(first.last_weights, other.last_weights)


@pytest.mark.usefixtures("as_a_user")  # the shape checks of the test run draw from Python's generator
def test_the_callers_random_numbers_are_left_alone():
    model = small_vae()
    before = global_random_state()
    fit(model, TRAIN, VALIDATION, CONFIG, objective=noisy)
    assert global_random_state() == before


def noisy(model, batch, *, generator, **scheduled):
    """An objective that draws from the global generator as dropout does."""
    terms = vlb_terms(model, batch, generator=generator, **scheduled)
    return {**terms, "objective": terms["objective"] * (1 + 0.1 * torch.rand(()))}


def test_validation_has_the_same_noise_each_time_and_does_not_touch_that_of_training():
    constant = fit(small_vae(), TRAIN, VALIDATION, changed(learning_rate=1e-12), objective=noisy)
    values = [record["validation_vlb_per_frame"] for record in constant.history]
    assert max(values) - min(values) < 1e-5
    with_validation = fit(small_vae(), TRAIN, VALIDATION, CONFIG, objective=noisy)
    without = fit(small_vae(), TRAIN, None, CONFIG, objective=noisy)
    assert same_weights(with_validation.last_weights, without.last_weights)


def test_validation_uses_the_final_values_of_schedules():
    config = changed(learning_rate=1e-12, schedules={"beta": Schedule.linear(0, 1, epochs=2)})
    for record in fit(small_vae(), TRAIN, VALIDATION, config).history:
        assert record["validation_objective_per_frame"] == record["validation_vlb_per_frame"]
        kl = record["train_kl_per_frame"]
        weighted = record["train_reconstruction_per_frame"] - record["beta"] * kl
        assert record["train_objective_per_frame"] == pytest.approx(weighted, rel=1e-5)


@pytest.mark.usefixtures("as_a_user")  # four times as fast without shape checks
def test_training_reaches_the_likelihood_of_ppca():
    """A linear VAE's optimum is known: on data with one strong direction the bound gets close to log p(x)."""
    g = Generator().manual_seed(0)
    w = torch.tensor([[1.5, -1.0, 0.5]])
    data = SequenceDataset(torch.randn(400, 5, 1, generator=g) @ w + 0.5 * torch.randn(400, 5, 3, generator=g))
    torch.manual_seed(0)
    model = VAE(3, 1, encoder=(), decoder=())
    config = TrainingConfig(max_epochs=25, batch_size=50, learning_rate=Schedule.linear(0.05, 0.002, epochs=22))
    result = fit(model, data, data, config)
    covariance = w.T @ w + 0.25 * torch.eye(3)
    entropy = 0.5 * torch.logdet(2 * math.pi * math.e * covariance).item()
    assert result.best_value == pytest.approx(-entropy, abs=0.05)


@pytest.mark.parametrize("name", MODELS)
def test_every_model_trains(name):
    torch.manual_seed(0)
    result = fit(build_model(name, x_dim=3, z_dim=2), TRAIN, VALIDATION, changed(max_epochs=4))
    assert result.best_value > result.history[0]["validation_vlb_per_frame"]


# ---------------------------------------------------------------- what is kept


def test_the_best_weights_are_kept_as_a_copy():
    seen = {}

    def remember(model, record):
        seen[record["epoch"]] = {k: v.clone() for k, v in model.state_dict().items()}

    config = changed(learning_rate=Schedule.steps([0.02, 3.0], every=3), max_epochs=6)
    result = fit(small_vae(), TRAIN, VALIDATION, config, callback=remember)
    values = [record["validation_vlb_per_frame"] for record in result.history]
    best = max(range(6), key=values.__getitem__) + 1
    assert best < 6  # the large steps at the end did harm
    assert result.best_epoch == best
    assert result.best_value == values[best - 1]
    assert same_weights(dict(result.best_model.state_dict()), seen[best])
    assert same_weights(result.last_weights, seen[6])
    assert not result.best_model.training


def test_patience():
    config = changed(learning_rate=Schedule.steps([0.02, 3.0], every=3), max_epochs=50, patience=2)
    result = fit(small_vae(), TRAIN, VALIDATION, config)
    assert result.stopped == "patience"
    assert len(result.history) == result.best_epoch + 2


def test_patience_waits_for_the_end_of_warm_up_and_of_frozen_stages():
    worse = Schedule.steps([0.02, 3.0], every=1)
    for extra in ({"schedules": {"beta": Schedule.linear(0, 1, epochs=6)}}, {"freeze": {"e_z": 6}}):
        result = fit(small_vae(), TRAIN, VALIDATION, changed(learning_rate=worse, max_epochs=40, patience=1, **extra))
        assert len(result.history) >= 7


def test_without_validation_the_last_epoch_is_the_best():
    result = fit(small_vae(), TRAIN, None, changed(learning_rate=3.0, patience=1, max_epochs=6))
    assert (result.best_epoch, result.stopped) == (6, "max_epochs")
    assert same_weights(dict(result.best_model.state_dict()), result.last_weights)


def test_frozen_parameters_do_not_move():
    seen = []
    fit(
        small_vae(),
        TRAIN,
        None,
        changed(freeze={"e_z": 1, "z_head": 2}, max_epochs=3),
        callback=lambda model, record: seen.append({k: v.clone() for k, v in model.state_dict().items()}),
    )
    initial = dict(small_vae().state_dict())
    for name, value in initial.items():
        still = [torch.equal(value, weights[name]) for weights in seen]
        expected = {"e_z": [True, False, False], "z_head": [True, True, False]}.get(name.split(".")[0], [False] * 3)
        assert still == expected, name


def test_callback_can_end_the_training():
    result = fit(small_vae(), TRAIN, VALIDATION, CONFIG, callback=lambda model, record: record["epoch"] == 2)
    assert (result.stopped, len(result.history)) == ("callback", 2)


def test_another_objective(tmp_path):
    """The importance-weighted bound with five samples, for instance."""

    def iwae(model, batch, *, generator):
        x = batch.x.repeat(5, 1, 1)
        lengths = None if batch.lengths is None else batch.lengths.repeat(5)
        output = model(x, lengths=lengths, generator=generator)
        weights = log_weights(output, x, lengths=lengths).unflatten(0, (5, -1))
        return {"iwae": importance_weighted_bound(weights).sum(-1)}

    result = fit(small_vae(), TRAIN, VALIDATION, CONFIG, objective=iwae)
    assert result.best_value == max(r["validation_iwae_per_frame"] for r in result.history)
    assert result.history[-1]["train_iwae_per_frame"] > result.history[0]["train_iwae_per_frame"]


def test_only_the_first_term_is_maximised():
    def with_distraction(model, batch, *, generator):
        return {
            **vlb_terms(model, batch, generator=generator),
            "size": 1e6 * batch.x.new_ones(len(batch.x)) * next(model.parameters()).norm(),
        }

    plain = fit(small_vae(), TRAIN, None, CONFIG)
    assert same_weights(
        plain.last_weights, fit(small_vae(), TRAIN, None, CONFIG, objective=with_distraction).last_weights
    )


# ---------------------------------------------------------------- the folder


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


# ---------------------------------------------------------------- what is refused


class Brittle(nn.Module):
    """Turns non-finite where and when it is told to."""

    def __init__(self, where, at_step):
        super().__init__()
        self.vae, self.where, self.at_step, self.steps = small_vae(), where, at_step, 0

    def vlb(self, x, u=None, **options):
        bound = self.vae.vlb(x, u, **options)
        self.steps += self.training
        if self.steps == self.at_step:
            weight = self.vae.x_head.linear.weight if hasattr(self.vae.x_head, "linear") else self.vae.e_z[0].weight
            if self.where == "objective":
                bad = torch.zeros(len(x)).index_fill(0, torch.tensor([1]), float("nan"))
            elif self.where == "gradient":
                bad = (weight * 0).sum().abs().sqrt()  # 0, with the gradient 0 * inf
            else:
                bad = torch.zeros(len(x))
                if not self.training:
                    bad[0] = float("inf")
            object.__setattr__(bound, "value", bound.value + bad)
        return bound


def order(epoch):
    return torch.randperm(13, generator=Generator().manual_seed(derive_seed(0, "order", epoch))).tolist()


def test_non_finite_objective_says_where():
    names = [f"clip {i}" for i in range(13)]
    data = SequenceDataset([TRAIN[i] for i in range(13)], names=names)
    model = Brittle("objective", 6)
    with pytest.raises(NonFiniteError, match=r"epoch 2, step 6 \(batch 2 of 4\): objective not finite") as caught:
        fit(model, data, None, CONFIG)
    assert (caught.value.epoch, caught.value.step) == (2, 6)
    assert caught.value.sequences == [names[order(1)[5]]]
    assert caught.value.sequences[0] in str(caught.value)


def test_non_finite_gradient_says_where_and_harms_nothing():
    weights, model = {}, Brittle("gradient", 6)

    def remember(model, batch, *, generator):
        weights.update({k: v.clone() for k, v in model.state_dict().items()})
        return vlb_terms(model, batch, generator=generator)

    with pytest.raises(NonFiniteError, match="gradient is not finite") as caught:
        fit(model, TRAIN, None, changed(gradient_clip=1.0), objective=remember)
    assert caught.value.sequences == [str(i) for i in order(1)[4:8]]
    assert len(caught.value.parameters) == 1
    assert caught.value.parameters[0].endswith("weight")
    assert caught.value.parameters[0] in str(caught.value)
    assert same_weights(dict(model.state_dict()), weights)


def test_non_finite_validation_says_where():
    with pytest.raises(NonFiniteError, match="epoch 2, validation") as caught:
        fit(Brittle("validation", 8), TRAIN, VALIDATION, CONFIG)
    assert caught.value.sequences == ["0"]


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    fit(small_vae(), TRAIN, VALIDATION, changed(max_epochs=1), folder=tmp_path)
    before = (tmp_path / "checkpoint.safetensors").read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        fit(small_vae(), TRAIN, VALIDATION, CONFIG, folder=tmp_path)
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == before
    assert not list(tmp_path.glob("*.partial"))
    monkeypatch.undo()
    assert len(fit(small_vae(), TRAIN, VALIDATION, CONFIG, folder=tmp_path).history) == 3


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    fit(small_vae(), TRAIN, VALIDATION, CONFIG, folder=folder)
    return folder


class OtherVAE(VAE):
    pass


def other_objective(*args, **kwargs):
    return vlb_terms(*args, **kwargs)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": lambda: OtherVAE(3, 2)}, "belongs to another model.*VAE"),
        ({"model": lambda: VAE(3, 2, encoder=(5,), decoder=(4,))}, r"other options.*\[4\].*\[5\]"),
        ({"model": lambda: VAE(3, 2, encoder=(4,), decoder=(4,), observation="unit_gaussian")}, "other options"),
        ({"train": waves(14, seed=1)}, "other train data: 13 sequences.*14 sequences"),
        ({"train": waves(13, seed=3, shortest=9, longest=9)}, "other train data"),
        ({"validation": None}, "other validation data.*none"),
        ({"config": changed(learning_rate=0.02)}, "another configuration: learning_rate was 0.01, now 0.02"),
        ({"config": changed(schedules={"beta": 0.5})}, "another configuration: schedules was"),
        ({"objective": other_objective}, "another objective"),
        ({"fabric": training_fabric("cpu", "64-true")}, "another precision"),
        ({"resume": False}, "already holds a run"),
    ],
)
def test_a_folder_of_another_run_is_not_touched(finished, changes, message):
    before = {p: p.read_bytes() for p in finished.rglob("*") if p.is_file()}
    arguments = {"train": TRAIN, "validation": VALIDATION, "config": CONFIG, "folder": finished, **changes}
    model = arguments.pop("model", small_vae)()
    with pytest.raises((CheckpointError, FileExistsError), match=f"(?s){message}"):
        fit(model, arguments.pop("train"), arguments.pop("validation"), arguments.pop("config"), **arguments)
    assert {p: p.read_bytes() for p in finished.rglob("*") if p.is_file()} == before


def test_the_same_sizes_but_other_values(finished):
    scaled = SequenceDataset([TRAIN[i] * 1.01 for i in range(13)])
    with pytest.raises(CheckpointError, match="other train data"):
        fit(small_vae(), scaled, VALIDATION, CONFIG, folder=finished)


def test_damaged_checkpoints(tmp_path, finished):
    good = (finished / "checkpoint.safetensors").read_bytes()
    path = tmp_path / "checkpoint.safetensors"
    for damaged in (b"", good[:1000], good[:-10], good[:-100] + b"x" + good[-99:], b"not a checkpoint"):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="damaged"):
            fit(small_vae(), TRAIN, VALIDATION, CONFIG, folder=tmp_path)
    save_checkpoint(path, {"w": torch.ones(1)}, {"epoch": 1})
    with pytest.raises(CheckpointError, match="no checkpoint of a training run"):
        fit(small_vae(), TRAIN, VALIDATION, CONFIG, folder=tmp_path)


def test_weights_of_another_shape(tmp_path, finished):
    tensors, state = load_checkpoint(finished / "checkpoint.safetensors")
    name = next(n for n in tensors if n.startswith("model."))
    tensors[name] = tensors[name][:1]
    save_checkpoint(tmp_path / "checkpoint.safetensors", tensors, state)
    with pytest.raises(CheckpointError, match=f"{name.removeprefix('model.')} is .* in the checkpoint"):
        fit(small_vae(), TRAIN, VALIDATION, CONFIG, folder=tmp_path)


def test_foreign_folders(tmp_path):
    with pytest.raises(FileNotFoundError, match="no run to go on with"):
        fit(small_vae(), TRAIN, VALIDATION, CONFIG, folder=tmp_path, resume=True)
    (tmp_path / "config.json").write_text("mine")
    with pytest.raises(FileExistsError, match=r"config\.json but no run"):
        fit(small_vae(), TRAIN, VALIDATION, CONFIG, folder=tmp_path)
    assert (tmp_path / "config.json").read_text() == "mine"


BAD_VALUES = [
    ({"learning_rate": 0.0}, ValueError, "learning_rate must be positive"),
    ({"learning_rate": Schedule.linear(0.1, -0.1, 5)}, ValueError, "learning_rate must be positive"),
    ({"learning_rate": "fast"}, ValueError, "Expected a number"),
    ({"batch_size": 0}, ValueError, "batch_size must be a whole number of at least 1; got 0"),
    ({"batch_size": 2.5}, TypeError, "batch_size must be a whole number"),
    ({"max_epochs": True}, TypeError, "max_epochs must be a whole number"),
    ({"patience": 0}, ValueError, "patience"),
    ({"gradient_clip": -1.0}, ValueError, "gradient_clip must be a number above 0"),
    ({"gradient_clip": float("nan")}, ValueError, "gradient_clip"),
    ({"seed": -1}, ValueError, "seed"),
    ({"checkpoint_seconds": "often"}, TypeError, "checkpoint_seconds"),
    ({"schedules": [("beta", 1)]}, TypeError, "schedules maps names"),
    ({"schedules": {"beta": -0.1}}, ValueError, "beta weighs the KL"),
    ({"schedules": {"feedback": 1.5}}, ValueError, "feedback is a probability"),
    ({"freeze": {"z": 0}}, ValueError, "freeze"),
]


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize(("values", "kind", "message"), BAD_VALUES)
def test_bad_configurations(values, kind, message):
    with pytest.raises(kind, match=message):
        TrainingConfig(**values)


def test_configuration_as_json():
    config = TrainingConfig.motion(gradient_clip=1, freeze={"dynamics": 3}, seed=4)
    assert TrainingConfig.from_json(config.to_json()) == config
    assert json.loads(config.to_json())["schedules"]["beta"] == [[0, 0.0], [50, 1.0]]
    assert TrainingConfig.from_dict({"patience": None}).patience is None
    assert (TrainingConfig.speech().rate(0), TrainingConfig.speech().patience) == (0.002, 50)
    assert (config.rate(0), config.patience, config.batch_size) == (1e-4, 30, 128)
    with pytest.raises(ValueError, match="has no lerning_rate; it has learning_rate"):
        TrainingConfig.from_dict({"lerning_rate": 1})
    with pytest.raises(ValueError, match="JSON text"):
        TrainingConfig.from_json("{")
    with pytest.raises(ValueError, match="JSON object; got list"):
        TrainingConfig.from_json("[]")


class NoParameters(nn.Module):
    pass


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"model": "vae"}, TypeError, "model must be"),
        ({"model": NoParameters()}, ValueError, "no parameter"),
        ({"model": VAE(4, 2)}, ValueError, "x_dim=4, but the train data have x_dim=3"),
        ({"model": VAE(3, 2).double()}, TypeError, "float32, the model is torch.float64"),
        ({"train": [torch.ones(3, 3)]}, TypeError, "SequenceDataset"),
        ({"train": None}, TypeError, "train must be a SequenceDataset"),
        ({"validation": SequenceDataset([torch.ones(3, 5)])}, ValueError, "validation data have x_dim=5"),
        ({"config": {"batch_size": 3}}, TypeError, "TrainingConfig"),
        ({"config": changed(freeze={"decoder": 2})}, ValueError, "no parameter's name begins like that.*e_z"),
        ({"config": changed(schedules={"gamma": 1.0})}, ValueError, "'gamma'.* it has beta, feedback"),
        ({"config": changed(schedules={"feedback": 0.5})}, ValueError, "nothing can be fed back"),
        ({"objective": lambda *_, **__: {}}, ValueError, "no term"),
        ({"objective": lambda *_, **__: {"loss": torch.ones(())}}, ValueError, "'loss' must have one value"),
        ({"fabric": Fabric(accelerator="cpu", precision="16-true")}, ValueError, "bf16-mixed"),
    ],
)
def test_what_does_not_fit_together_is_refused_before_anything_is_written(tmp_path, arguments, kind, message):
    arguments = {
        "model": small_vae(), "train": TRAIN, "validation": VALIDATION, "config": CONFIG,
        "folder": tmp_path / "run", **arguments,
    }  # fmt: skip
    with pytest.raises(kind, match=f"(?s){message}"):
        fit(**arguments)
    assert not (tmp_path / "run").exists()


def test_what_needs_a_folder():
    with pytest.raises(ValueError, match="tensorboard=True needs a folder"):
        fit(small_vae(), TRAIN, None, CONFIG, tensorboard=True)
    with pytest.raises(ValueError, match="resume=True needs the folder"):
        fit(small_vae(), TRAIN, None, CONFIG, resume=True)


def test_driven_data_for_an_undriven_model():
    driven = SequenceDataset([torch.ones(3, 3)], inputs=[torch.ones(3, 2)])
    with pytest.raises(ValueError, match="u_dim=0, but the train data have u_dim=2"):
        fit(small_vae(), driven, None, CONFIG)


@pytest.mark.parametrize(
    ("observation", "data", "standardised", "message"),
    [
        ("bernoulli", [0.0, 1.0], True, "train data hold .*standardised.*standardize=False.*--no-standardize"),
        ("bernoulli", [0.0, 127.0], False, r"train data hold 127 \(sequence 0, frame 1, dimension 0\).*from 0 to 1"),
        ("gamma", [0.5, -1.0], False, "train data hold -1 .*of at least 0"),
        ("bernoulli", [1e-3, 4e2], False, "from 0 to 1"),  # powers
    ],
)
def test_data_without_a_probability_are_refused_before_anything_is_written(
    tmp_path, observation, data, standardised, message
):
    clips = [torch.tensor(data).repeat(3)[:, None].expand(-1, 2)] * 4
    dataset = SequenceDataset(clips, standardizer=Standardizer.fit(clips) if standardised else None)
    with pytest.raises(ValueError, match=message):
        fit(VAE(2, 1, observation=observation), dataset, None, TrainingConfig(max_epochs=1), folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    fine = SequenceDataset([torch.ones(3, 2)])
    with pytest.raises(ValueError, match="validation data hold"):
        fit(VAE(2, 1, observation=observation), fine, dataset, TrainingConfig(max_epochs=1))


def test_the_standardisers_are_saved_with_the_model(tmp_path):
    generator = torch.Generator().manual_seed(0)
    clips, inputs = (scale * torch.randn(6, 10, size, generator=generator) for scale, size in ((3, 2), (5000, 1)))
    train, validation = from_arrays(clips, inputs, fractions=(0.7, 0.3))
    fit(DKF(2, 1, u_dim=1), train, validation, TrainingConfig(max_epochs=1), folder=tmp_path, progress=False)
    model = DVAE.from_pretrained(tmp_path / "best")
    assert torch.equal(model.standardizer.scale, train.standardizer.scale)
    assert torch.equal(model.input_standardizer.scale, train.input_standardizer.scale)
