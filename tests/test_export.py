"""Exported programs, run in another process without the library, or by ONNX Runtime: equal to the model."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import jaxtyping
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from dvae_lib import DSAE, GRNN, VAE
from dvae_lib.cli import app
from dvae_lib.data import Standardizer
from dvae_lib.export import StreamingStep, export_reconstruction, export_step
from dvae_lib.models import MODELS, build_model
from dvae_lib.series import TrainedModel

X, Z, FRAMES, ROWS = 3, 2, 6, 4
STEPS = ("vae", "dkf", "storn", "vrnn", "srnn", "grnn")

PROGRAM = """
import json, sys, torch
import numpy as np
x = torch.from_numpy(np.load("x.npy"))
for name in sys.argv[1:]:
    files = {"dvae.json": ""}
    program = torch.export.load(name, extra_files=files).module()
    about = json.loads(files["dvae.json"])
    if "state" in about:
        state = {key: torch.tensor([row] * len(x)) for key, row in about["state"].items()}
        found = []
        for x_t in x.unbind(1):
            outputs, state = program(x=x_t, state=state)
            found.append(outputs)
        outputs = {key: torch.stack([o[key] for o in found], 1) for key in about["outputs"]}
    else:
        outputs = program(x=x)
    np.savez(name + ".npz", **{key: value.detach().numpy() for key, value in outputs.items()})
assert not any(module.startswith("dvae_lib") for module in sys.modules)
"""


@pytest.fixture(autouse=True)
def _alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def x():
    return 2 + torch.randn(ROWS, FRAMES, X, generator=torch.Generator().manual_seed(1))


def small(name, **options):
    """A model of random weights, trained on data that were standardised."""
    torch.manual_seed(0)
    if name == "grnn":  # which has no latents: what it announces is the next frame
        model = GRNN(X, h_dim=4, **options)
    else:
        sizes = {**MODELS[name].small, **options}
        model = build_model(name, x_dim=X, z_dim=Z, **sizes)
    scale = torch.tensor([2.0, 0.5, 10.0], dtype=torch.float64)
    model.metadata["standardizer"] = Standardizer(torch.tensor([1.0, -2.0, 0.5]).double(), scale).to_dict()
    return model.eval()


@torch.no_grad()
def stepped(model, x):
    """All outputs of the step, in PyTorch."""
    step = StreamingStep(model)
    state, found = step.initial_state(len(x)), []
    for x_t in x.unbind(1):
        outputs, state = step(x_t, state)
        found.append(outputs)
    return {name: torch.stack([outputs[name] for outputs in found], 1).numpy() for name in found[0]}


def run_elsewhere(x, *files):
    """What programs say of sequences in a process that never sees the library."""
    np.save("x.npy", x.numpy())
    done = subprocess.run([sys.executable, "-c", PROGRAM, *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [dict(np.load(f"{file}.npz")) for file in files]


def close(found, wanted):
    assert set(found) == set(wanted)
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-5, err_msg=name)


def test_the_step_runs_elsewhere_and_says_the_same(x):
    models = {name: small(name) for name in STEPS}
    for name, model in models.items():
        export_step(model, f"{name}.pt2")
    for model, found in zip(models.values(), run_elsewhere(x, *(f"{name}.pt2" for name in models)), strict=True):
        close(found, stepped(model, x))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vae", "srnn", "vrnn", "dkf"])
def test_as_onnx_too(x, name):
    runtime = pytest.importorskip("onnxruntime")
    model = small(name)
    about = export_step(model, "step.onnx")
    session = runtime.InferenceSession("step.onnx", providers=["CPUExecutionProvider"])
    assert json.loads(session.get_modelmeta().custom_metadata_map["dvae.json"]) == about
    taken = {entry.name for entry in session.get_inputs()}
    state = {key.replace(".", "_"): np.float32([row] * ROWS) for key, row in about["state"].items()}
    names, found = [entry.name for entry in session.get_outputs()], []
    for x_t in x.numpy().swapaxes(0, 1):
        given = {name: value for name, value in {"x": x_t, **state}.items() if name in taken}
        outputs = dict(zip(names, session.run(None, given), strict=True))
        state = {key: outputs[f"new_{key}"] for key in state}
        found.append(outputs)
    close({key: np.stack([o[key] for o in found], 1) for key in about["outputs"]}, stepped(model, x))


def test_the_latents_are_those_of_the_inference_model(x):
    """Where inference looks at the past alone, the step's posteriors are those of `TrainedModel.encode`."""
    for model in (small("vae"), small("vrnn"), small("srnn", inference_model="filter")):
        found = stepped(model, x)
        encoded = TrainedModel(model).encode(x[0].numpy())
        np.testing.assert_allclose(found["z_mean"][0], encoded.mean["z"], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found["z_variance"][0] ** 0.5, encoded.deviation["z"], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_next_frame_is_that_of_generation(x):
    """Of the SRNN by its equations: h_{t+1} from x_t, the prior's mean from z_t, then p(x_{t+1} | .)."""
    model = small("srnn", inference_model="filter")
    found = stepped(model, x)
    read = model.standardizer.transform(x)
    z = model.inference(read, draw="mean")["z"].sample
    h, _ = model.d_h(model.phi_x(torch.nn.functional.pad(read, (0, 0, 1, 0))))
    z_next = model._prior(z, h[:, 1:]).mean
    observation = model._observe(z_next, h[:, 1:])
    np.testing.assert_allclose(found["next_mean"], model.standardizer.inverse(observation.mean), rtol=1e-4, atol=1e-5)
    variance = observation.variance * model.standardizer.scale.float() ** 2
    np.testing.assert_allclose(found["next_variance"], variance, rtol=1e-4, atol=1e-5)


def test_a_driven_model_is_told_the_next_input(x):
    model = small("vrnn", u_dim=1)
    about = export_step(model, "step.pt2")
    assert about["inputs"] == ["x", "u", "next_u"]
    step, program = StreamingStep(model), torch.export.load("step.pt2").module()
    given = {"x": x[:, 0], "state": step.initial_state(ROWS), "u": x[:, 1, :1], "next_u": x[:, 2, :1]}
    with torch.no_grad():
        (wanted, _), (found, _) = step(**given), program(**given)
    close(found, wanted)


def test_reconstruction_of_any_length(x):
    model = small("vae")
    export_reconstruction(model, "vae.pt2")
    (found,) = run_elsewhere(x, "vae.pt2")
    with torch.no_grad():
        wanted = model.reconstruct(model.standardizer.transform(x), latents="mean").mean
    np.testing.assert_allclose(found["reconstruction_mean"], model.standardizer.inverse(wanted), rtol=1e-5, atol=1e-5)


def test_reconstruction_of_a_length(x, monkeypatch):
    """A recursion is unrolled: the number of frames is fixed, that of sequences is not."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # a free size is a symbol, and no int
    models = {name: small(name) for name in ("dkf", "vrnn", "srnn", "rvae-noncausal", "dsae")}
    for name, model in models.items():
        assert export_reconstruction(model, f"{name}.pt2", num_frames=FRAMES)["num_frames"] == FRAMES
    for model, found in zip(models.values(), run_elsewhere(x, *(f"{name}.pt2" for name in models)), strict=True):
        with torch.no_grad():
            wanted = model.reconstruct(model.standardizer.transform(x), latents="mean").mean
        wanted = model.standardizer.inverse(wanted)
        np.testing.assert_allclose(found["reconstruction_mean"], wanted, rtol=1e-5, atol=1e-5)


def test_what_cannot_be_exported_says_what_can():
    with pytest.raises(NotImplementedError, match=r"DSAE has no step.*latent v belongs.*have a step: .*vae.*srnn"):
        export_step(DSAE(X, Z, v_dim=2), "step.pt2")
    with pytest.raises(NotImplementedError, match=r"SRNN cannot be exported; num_frames=.*export_step"):
        export_reconstruction(small("srnn"), "all.pt2")
    with pytest.raises(ValueError, match="num_frames must be at least 1"):
        export_reconstruction(small("vae"), "all.pt2", num_frames=0)
    with pytest.raises(ValueError, match=r"step\.bin must end in \.pt2 \(torch\.export\) or \.onnx$"):
        export_step(VAE(X, Z), "step.bin")
    assert not list(Path().iterdir())


def test_a_program_that_computes_something_else_is_not_written(monkeypatch):
    model, original = small("srnn"), torch.export.export
    torch.manual_seed(1)
    another = StreamingStep(build_model("srnn", x_dim=X, z_dim=Z, **MODELS["srnn"].small)).eval()
    another.in_units, another.inputs_in_units = (
        getattr(StreamingStep(model), n) for n in ("in_units", "inputs_in_units")
    )
    monkeypatch.setattr(torch.export, "export", lambda program, *given, **options: original(another, *given, **options))
    with pytest.raises(ArithmeticError, match=r"the exported program is off by .*nothing is written"):
        export_step(model, "step.pt2")
    assert not list(Path().iterdir())


def test_a_program_with_nan_in_any_output_is_not_written(monkeypatch):
    model, original = small("srnn"), torch.export.export
    broken = StreamingStep(copy.deepcopy(model)).eval()  # its latents are right, its next frame is not
    for parameter in broken.model.x_head.parameters():
        parameter.data.fill_(torch.nan)
    monkeypatch.setattr(torch.export, "export", lambda program, *given, **options: original(broken, *given, **options))
    with pytest.raises(ArithmeticError, match="off by nan"):
        export_step(model, "step.pt2")
    assert not list(Path().iterdir())


def test_the_model_goes_on_as_it_was():
    model = small("srnn").train()
    export_step(model, "step.pt2")
    export_reconstruction(small("vae").train(), "all.pt2")
    assert model.training


def test_the_command(x):
    model = small("vae")
    model.save_pretrained("run")
    done = CliRunner().invoke(app, ["export", "run", "-o", "step.pt2"])
    assert done.exit_code == 0, done.output
    assert "Written: step.pt2 (streaming step of VAE; in: x, state q.x; out: z_mean" in done.output.replace("\n", " ")
    (found,) = run_elsewhere(x, "step.pt2")
    close(found, stepped(model, x))
    done = CliRunner().invoke(app, ["export", "run", "-o", "all.pt2", "--reconstruction", "--frames", "6"])
    assert "reconstruction of VAE; in: x" in done.output.replace("\n", " ")
    assert CliRunner().invoke(app, ["export", "run", "-o", "all.pt2", "--frames", "6"]).exit_code == 2
