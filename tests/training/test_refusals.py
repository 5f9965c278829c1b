"""What training refuses, and what it says."""

import json
import os

import pytest
import torch
from lightning_fabric import Fabric
from small_runs import CONFIG, TRAIN, VALIDATION, changed, same_weights, small_vae, waves
from torch import Generator, nn

from dvae_lib.data import SequenceDataset, Standardizer, from_arrays
from dvae_lib.models import DKF, DVAE, VAE
from dvae_lib.randomness import derive_seed
from dvae_lib.training import (
    NonFiniteError,
    Schedule,
    TrainingConfig,
    fit,
    training_fabric,
    vlb_terms,
)
from dvae_lib.training.checkpoints import CheckpointError, load_checkpoint, save_checkpoint


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
