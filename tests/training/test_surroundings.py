"""The training and what is around it: the caller's modes and numbers, what cannot be saved, other runs and disks."""

import errno
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from dvae_lib import DVAE, VAE, build_model, locks
from dvae_lib.data.sequences import SequenceDataset
from dvae_lib.locks import lock
from dvae_lib.models import MODELS
from dvae_lib.training import NonFiniteError, Schedule, TrainingConfig, fit, training_fabric
from dvae_lib.training.checkpoints import CheckpointError
from dvae_lib.training.parallel import PRECISIONS
from dvae_lib.training.run_folder import in_hand

DATA = SequenceDataset(torch.randn(8, 10, 3, generator=torch.Generator().manual_seed(0)))
ONE = TrainingConfig(max_epochs=1)


def small_vae():
    torch.manual_seed(0)
    return VAE(3, 2, encoder=(4,), decoder=(4,))


def trained(**options):
    return fit(small_vae(), DATA, DATA, ONE, progress=False, **options)


# ---------------------------------------------------------------- the caller's modes


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_trains_where_the_caller_wants_no_gradients(mode):
    wanted, model = trained().last_weights, small_vae()
    with mode():
        found = fit(model, DATA, DATA, ONE, progress=False).last_weights
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)


def test_a_model_without_gradients_for_good_is_refused():
    with torch.inference_mode():
        model = small_vae()
    with pytest.raises(ValueError, match=r"built under torch\.inference_mode"):
        fit(model, DATA, DATA, ONE)


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_given_back_as_it_was_found(fails):
    def stop(model, record):
        assert next(model.parameters()).dtype == torch.float64
        if fails:
            raise KeyError("callback")

    model = small_vae()
    run = {"fabric": training_fabric("cpu", "64-true"), "callback": stop, "progress": False}
    if fails:
        with pytest.raises(KeyError):
            fit(model, DATA, DATA, ONE, **run)
    else:
        fit(model, DATA, DATA, ONE, **run)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert torch.isfinite(model.vlb(DATA.batch([0, 1]).x).value).all()


# ---------------------------------------------------------------- precisions


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("name", "options"), [*((name, {}) for name in MODELS), ("kvae", {"mixture": 3, "u_dim": 2})])
def test_every_model_trains_in_every_precision(name, options, precision):
    """To a bound near that of single precision; batches are padded."""
    g = torch.Generator().manual_seed(1)
    drive = "u_dim" in options
    x = [torch.randn(n, 3, generator=g).cumsum(0) * 0.3 for n in (5, 8, 8, 3)]
    u = [torch.randn(len(clip), 2, generator=g) for clip in x] if drive else None
    data = SequenceDataset(x, u)
    values = {}
    for kind in ("32-true", precision):
        torch.manual_seed(0)
        model = build_model(name, x_dim=3, z_dim=2, **options)
        config = TrainingConfig(max_epochs=3, batch_size=2)
        values[kind] = fit(model, data, data, config, fabric=training_fabric("cpu", kind), progress=False).best_value
    assert values[precision] == pytest.approx(values["32-true"], rel=0.1, abs=0.4)  # 64-true draws other noise


def test_other_precisions_are_refused_by_name():
    with pytest.raises(ValueError, match="32-true, 64-true, bf16-mixed, bf16-true; got 'transformer-engine'"):
        training_fabric("cpu", "transformer-engine")


# ---------------------------------------------------------------- numbers, arguments


@pytest.mark.usefixtures("as_a_user")
def test_numbers_of_numpy_are_numbers():
    config = TrainingConfig(
        learning_rate=np.float32(0.5), batch_size=np.int32(4), max_epochs=np.int64(2), gradient_clip=np.float64(2),
        seed=np.uint8(3), freeze={"e_z": np.int64(1)}, schedules={"beta": np.float64(0.5)},
    )  # fmt: skip
    same = TrainingConfig(
        learning_rate=0.5, batch_size=4, max_epochs=2, gradient_clip=2.0, seed=3, freeze={"e_z": 1},
        schedules={"beta": 0.5},
    )  # fmt: skip
    assert config == same
    assert TrainingConfig.from_json(config.to_json()) == same
    assert Schedule.of(np.int64(2)) == Schedule.of(2)
    for wrong in (True, np.bool_(True), 2.0, np.float64(2), "2"):
        with pytest.raises(TypeError, match="max_epochs must be a whole number"):
            TrainingConfig(max_epochs=wrong)


@pytest.mark.usefixtures("as_a_user")
def test_what_is_no_argument_of_the_objective_is_named():
    with pytest.raises(ValueError, match=r"'betta', which is no argument .* it has beta, feedback"):
        fit(small_vae(), DATA, DATA, TrainingConfig(schedules={"betta": 0.5}))

    def objective(model, batch, *, generator, weight=1.0):
        return {"vlb": weight * model.vlb(batch.x, generator=generator).value}

    with pytest.raises(ValueError, match=r"'beta', which is no argument .* it has weight"):
        fit(small_vae(), DATA, DATA, TrainingConfig(schedules={"beta": 0.5}), objective=objective)
    fit(small_vae(), DATA, DATA, TrainingConfig(max_epochs=1, schedules={"weight": 0.5}), objective=objective)


def test_a_model_without_a_bound_is_told_what_to_do():
    with pytest.raises(TypeError, match=r"Linear has no method vlb.* pass an objective"):
        fit(torch.nn.Linear(3, 3), DATA, DATA, ONE)


@pytest.mark.usefixtures("as_a_user")
def test_a_sum_that_overflows_is_said_to_overflow():
    x = torch.ones(8, 10, 3)
    x[3] *= 1.2
    words = r"the sum of objective.* overflows, .*largest is of sequence 3 \(3\)"
    with pytest.raises(NonFiniteError, match=words) as caught:
        fit(small_vae(), SequenceDataset(x * 3e18), None, ONE, progress=False)
    assert caught.value.sequences == ["3"]
    assert "another process" not in str(caught.value)


# ---------------------------------------------------------------- what cannot be saved, what can be loaded


class Forwarding(VAE):
    """Takes what its base class takes."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)


class Unnamed(VAE):
    """Takes sizes without names."""

    def __init__(self, *sizes):
        super().__init__(*sizes)


def test_arguments_without_names_have_those_of_the_base_class(tmp_path):
    model = Forwarding(3, 2, encoder=(5,))
    assert (model.options["x_dim"], model.options["z_dim"], model.options["encoder"]) == (3, 2, (5,))
    loaded = DVAE.from_pretrained(model.save_pretrained(tmp_path))
    assert type(loaded) is Forwarding
    assert torch.equal(loaded.e_z[0].weight, model.e_z[0].weight)


@pytest.mark.parametrize("kind", ["constructor", "metadata", "options"])
def test_what_could_not_be_loaded_is_refused_before_the_training(tmp_path, kind):
    model, message = small_vae(), "must be JSON data"
    if kind == "constructor":
        model, message = Unnamed(3, 2), r"could not be built again .* names, or let it take \*\*options"
    elif kind == "metadata":
        model.metadata["x"] = object()
    else:
        model.options["encoder"] = object()
    steps = []
    with pytest.raises(TypeError, match=message):
        fit(model, DATA, DATA, ONE, folder=tmp_path / "run", callback=lambda *_: steps.append(1), progress=False)
    assert not steps
    assert not (tmp_path / "run").exists()
    fit(model, DATA, DATA, ONE, progress=False)  # nothing is to be saved here


@pytest.mark.usefixtures("as_a_user")
def test_numbers_and_arrays_of_numpy_are_saved(tmp_path):
    model = VAE(np.int64(3), np.int32(2), encoder=[np.int64(8)], decoder=(np.uint8(4),))
    model.metadata |= {"means": np.arange(3.0), "rate": np.float32(0.5), "file": tmp_path}
    fit(model, DATA, DATA, ONE, folder=tmp_path / "run", progress=False)
    loaded = DVAE.from_pretrained(tmp_path / "run" / "best")
    assert loaded.options["encoder"] == [8]
    assert loaded.metadata["means"] == [0.0, 1.0, 2.0]
    assert loaded.metadata["rate"] == 0.5
    assert (loaded.x_dim, type(loaded.x_dim)) == (3, int)
    with pytest.raises(ValueError, match="z_dim must be an integer"):
        VAE(3, True)


def test_the_folder_of_a_run_is_that_of_its_best_model(tmp_path):
    result = trained(folder=tmp_path / "run")
    loaded = DVAE.from_pretrained(tmp_path / "run")
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in result.best_model.state_dict().items())


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    trained(folder="~/runs/a")
    assert (tmp_path / "runs" / "a" / "best").is_dir()
    DVAE.from_pretrained("~/runs/a/best").save_pretrained("~/copy")
    assert DVAE.from_pretrained("~/copy").x_dim == 3
    assert not (tmp_path / "~").exists()


def test_other_data_are_said_to_differ_in_what_they_differ(tmp_path):
    trained(folder=tmp_path / "run")
    g = torch.Generator().manual_seed(5)
    for data, words in (
        (torch.randn(8, 10, 3, generator=g), r"the values of the sequences differ \(8 sequences, 80 frames"),
        (torch.randn(9, 10, 3, generator=g), "8 sequences, 80 frames.* and here are 9 sequences, 90 frames"),
    ):
        with pytest.raises(CheckpointError, match=words):
            fit(small_vae(), SequenceDataset(data), DATA, ONE, folder=tmp_path / "run", progress=False)
    other_names = SequenceDataset(torch.stack([DATA[i] for i in range(8)]), names=list("abcdefgh"))
    with pytest.raises(CheckpointError, match="the names or lengths of the sequences differ"):
        fit(small_vae(), other_names, DATA, ONE, folder=tmp_path / "run", progress=False)


# ---------------------------------------------------------------- other runs, other file systems


HOLDER = """
import sys, time
from pathlib import Path
from dvae_lib.training.run_folder import in_hand
with in_hand(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.skipif(not locks.CAN_LOCK, reason="the platform locks no files")
def test_one_process_at_a_time_trains_in_a_folder(tmp_path):
    folder = tmp_path / "run"
    trained(folder=folder)
    before = sorted(p.name for p in folder.iterdir())
    assert ".lock" not in before
    command = [sys.executable, "-c", HOLDER, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(BlockingIOError, match=r"Another process is training in .*choose another folder"):
            trained(folder=folder)
        other.kill()  # the lock ends with the process
        other.communicate()
    trained(folder=folder)
    assert sorted(p.name for p in folder.iterdir()) == before


@pytest.mark.skipif(not locks.CAN_LOCK, reason="the platform locks no files")
def test_a_lock_that_was_taken_away_is_none(tmp_path):
    """Between opening the file and locking it, its holder may have removed it; another one may hold the new file."""
    path = tmp_path / "lock"
    with lock(path, wait=False) as mine:
        assert mine
        with lock(path, wait=False) as again:
            assert not again
        path.unlink()
        with lock(path, wait=False) as other:
            assert other


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS])
@pytest.mark.skipif(not locks.CAN_LOCK, reason="the platform locks no files")
def test_file_systems_without_locks(tmp_path, monkeypatch, code):
    def none(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.flock", none)
    with lock(tmp_path / "lock", wait=True) as mine:
        assert mine
    assert (trained(folder=tmp_path / "run").best_model.x_dim, list(tmp_path.glob("*lock"))) == (3, [])


def test_in_hand_needs_a_folder(tmp_path):
    with pytest.raises(FileNotFoundError), in_hand(tmp_path / "none"):
        pass
